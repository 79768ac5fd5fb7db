/* SPDX-License-Identifier: MIT */
#include "kernels/device_bench.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { PEAK, MEMORY, LAUNCH, ATTENTION, LINEAR, CONV, NORM, NORM_ROPE, PIXEL_NORM, MODULATE, UPDATE };

static const char *const kinds[] = {"peak", "memory", "launch", "attention", "linear", "conv", "norm", "norm", "norm", "norm",
                                    "sampler"};

/* How products are computed; launches one by one, or as a graph. */
enum { F32, BF16, ROUNDED, LIBRARY, GRAPH, F32_LIBRARY };
#define OWN BF16

/* What is measured: attention heads, head size, tokens; linear m, k, n; conv height, width, channels in, out and 3x3x3; norms
 * rows, dim. */
typedef struct entry {
    int32_t kind, way;
    int32_t size[4];
    imagine__act act;
    int32_t residual; /* linear: with a gate and a term, to f32; conv: to f32 */
} entry;

/* The layers of Wan 1.3B at 832x480 with 81 frames, and of its VAE at 480p. */
#define TOKENS 32760
static const entry entries[] = {
    {PEAK, BF16, {0}, 0, 0},
    {PEAK, F32, {0}, 0, 0},
    {MEMORY, 0, {0}, 0, 0},
    {LAUNCH, 0, {0}, 0, 0},
    {LAUNCH, GRAPH, {0}, 0, 0},
    {ATTENTION, BF16, {24, 64, 1024}, 0, 0},
    {ATTENTION, BF16, {24, 64, 2048}, 0, 0},
    {ATTENTION, BF16, {24, 64, 4096}, 0, 0},
    {ATTENTION, BF16, {24, 64, 8192}, 0, 0},
    {ATTENTION, BF16, {24, 64, 16384}, 0, 0},
    {ATTENTION, BF16, {24, 64, TOKENS}, 0, 0},
    {ATTENTION, BF16, {12, 128, 1024}, 0, 0},
    {ATTENTION, BF16, {12, 128, 2048}, 0, 0},
    {ATTENTION, BF16, {12, 128, 4096}, 0, 0},
    {ATTENTION, BF16, {12, 128, 8192}, 0, 0},
    {ATTENTION, BF16, {12, 128, 16384}, 0, 0},
    {ATTENTION, BF16, {12, 128, TOKENS}, 0, 0},
    {ATTENTION, ROUNDED, {12, 128, 4096}, 0, 0},
    {ATTENTION, ROUNDED, {12, 128, TOKENS}, 0, 0},
    {ATTENTION, F32, {12, 128, 4096}, 0, 0},
    {ATTENTION, F32, {12, 128, TOKENS}, 0, 0},
    {ATTENTION, F32, {1, 384, 6240}, 0, 0}, /* a frame of the VAE's */
    {ATTENTION, ROUNDED, {1, 384, 6240}, 0, 0},
    {LINEAR, F32, {TOKENS, 1536, 1536}, 0, 0},
    {LINEAR, F32_LIBRARY, {TOKENS, 1536, 1536}, 0, 0},
    {LINEAR, OWN, {TOKENS, 1536, 1536}, 0, 0},
    {LINEAR, LIBRARY, {TOKENS, 1536, 1536}, 0, 0},
    {LINEAR, OWN, {TOKENS, 1536, 1536}, 0, 1},
    {LINEAR, LIBRARY, {TOKENS, 1536, 1536}, 0, 1},
    {LINEAR, F32, {TOKENS, 1536, 8960}, IMAGINE__ACT_GELU_TANH, 0},
    {LINEAR, F32_LIBRARY, {TOKENS, 1536, 8960}, IMAGINE__ACT_GELU_TANH, 0},
    {LINEAR, OWN, {TOKENS, 1536, 8960}, IMAGINE__ACT_GELU_TANH, 0},
    {LINEAR, LIBRARY, {TOKENS, 1536, 8960}, IMAGINE__ACT_GELU_TANH, 0},
    {LINEAR, F32, {TOKENS, 8960, 1536}, 0, 1},
    {LINEAR, F32_LIBRARY, {TOKENS, 8960, 1536}, 0, 1},
    {LINEAR, OWN, {TOKENS, 8960, 1536}, 0, 1},
    {LINEAR, LIBRARY, {TOKENS, 8960, 1536}, 0, 1},
    {LINEAR, F32, {1, 1536, 9216}, 0, 0},
    {LINEAR, OWN, {1, 1536, 9216}, 0, 0},
    {CONV, F32, {60, 104, 384, 384}, 0, 0},
    {CONV, OWN, {60, 104, 384, 384}, 0, 0},
    {CONV, LIBRARY, {60, 104, 384, 384}, 0, 0},
    {CONV, F32, {240, 416, 192, 192}, 0, 0},
    {CONV, OWN, {240, 416, 192, 192}, 0, 0},
    {CONV, LIBRARY, {240, 416, 192, 192}, 0, 0},
    {CONV, F32, {480, 832, 96, 96}, 0, 0},
    {CONV, OWN, {480, 832, 96, 96}, 0, 0},
    {CONV, LIBRARY, {480, 832, 96, 96}, 0, 0},
    {CONV, F32, {480, 832, 96, 3}, 0, 1},
    {CONV, OWN, {480, 832, 96, 3}, 0, 1},
    {CONV, LIBRARY, {480, 832, 96, 3}, 0, 1},
    {NORM, 0, {TOKENS, 1536}, 0, 0},
    {NORM_ROPE, 0, {TOKENS, 1536}, 0, 0},
    {PIXEL_NORM, F32, {480 * 832, 96}, IMAGINE__ACT_SILU, 0},
    {PIXEL_NORM, BF16, {480 * 832, 96}, IMAGINE__ACT_SILU, 0},
    {MODULATE, 0, {TOKENS, 1536}, 0, 0},
    {UPDATE, 0, {16 * 21 * 60, 104}, 0, 0},
};
#define COUNT ((int32_t)(sizeof entries / sizeof *entries))
#define FEW 8 /* rows of a layer; then W counts, which comes from memory, not from the L2 cache, if so many bytes of it take turns: */
#define FAR ((int64_t)256 << 20)

#define COPIED ((size_t)1 << 30)
#define TINY_COPIED ((size_t)1 << 14)
#define LAUNCHES 200 /* in a row */
#define MOST 8 /* pieces of memory of an entry */

typedef struct operands {
    const entry *e;
    int32_t size[4];
    void *memory[MOST];
    void *graph; /* what is run, or NULL */
    int count;
    int failed; /* 1: no memory */
    int32_t weights, turn; /* of a layer: so many W take turns, of which this one is next */
    double operations, bytes; /* of one run; the bytes that it must read and write at least */
} operands;

int32_t imagine__device_bench_count(void)
{
    return COUNT;
}

/* An entry's sizes, or such as an emulator computes in no time. */
static void sizes_of(const entry *e, int32_t tiny, int32_t size[4])
{
    static const int32_t small[][4] = {
        [ATTENTION] = {1, 0, 33}, [LINEAR] = {65, 32, 48}, [CONV] = {6, 9, 8, 8}, [NORM] = {5, 128}, [NORM_ROPE] = {5, 128},
        [PIXEL_NORM] = {12, 8}, [MODULATE] = {3, 16}, [UPDATE] = {4, 9},
    };
    memcpy(size, tiny ? small[e->kind] : e->size, 4 * sizeof *size);
    if (tiny && e->kind == ATTENTION)
        size[1] = e->size[1];
    if (tiny && e->kind == LINEAR && e->size[0] <= FEW)
        size[0] = e->size[0];
}

static int in_f32(const entry *e)
{
    return e->way == F32 || e->way == F32_LIBRARY;
}

static int by_library(const entry *e)
{
    return e->way == LIBRARY || e->way == F32_LIBRARY;
}

/* What the entry's library has started so far, 0 for entries without one. */
static uint64_t started(const imagine__device_bench *b, const entry *e)
{
    return !by_library(e)      ? 0
           : e->kind == CONV   ? b->cuda->convolutions_started(b->call.convolutions)
                               : b->cuda->products_started(b->call.products);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

#define PIECE 8192

/* Device memory of `count` small random numbers, made there by doubling what is there: zeros would take less power, and so
 * run faster. NULL: out of memory, or an error. */
static void *filled(imagine__device_bench *b, operands *o, int64_t count, imagine__wtype type)
{
    union {
        uint16_t half[PIECE];
        float single[PIECE / 2];
    } some;
    size_t size = (size_t)count * (type == IMAGINE__W_BF16 ? 2 : 4), at = size < sizeof some ? size : sizeof some;
    uint32_t state = 1 + (uint32_t)o->count;
    void *memory = o->failed || b->code ? NULL : b->allocate(b->user_data, size);
    if (!memory) {
        o->failed = 1;
        return NULL;
    }
    o->memory[o->count++] = memory;
    for (int i = 0; i < (type == IMAGINE__W_BF16 ? PIECE : PIECE / 2); i++) {
        state = state * 1664525u + 1013904223u;
        if (type == IMAGINE__W_BF16)
            some.half[i] = (uint16_t)((state >> 16 & 0x807f) | 0x3c80);
        else
            some.single[i] = (float)(int32_t)state * 4.6566129e-11f;
    }
    b->code = b->cuda->upload(memory, &some, at, b->call.stream);
    for (; at < size && !b->code; at *= 2)
        b->code = b->cuda->copy((char *)memory + at, memory, size - at < at ? size - at : at, b->call.stream);
    return memory;
}

static float *floats(imagine__device_bench *b, operands *o, int64_t count)
{
    return filled(b, o, count, IMAGINE__W_F32);
}

/* Room for what entries need: MOST pieces, in an order of each entry's own. */
static void prepare(imagine__device_bench *b, operands *o)
{
    int64_t s0 = o->size[0], s1 = o->size[1], s2 = o->size[2], s3 = o->size[3];
    imagine__wtype type = o->e->way == BF16 ? IMAGINE__W_BF16 : IMAGINE__W_F32;
    switch (o->e->kind) {
    case PEAK:
        floats(b, o, IMAGINE__CUDA_PEAK_BLOCKS);
        break;
    case MEMORY:
        for (int i = 0; i < 2; i++)
            floats(b, o, (int64_t)(b->tiny ? TINY_COPIED : COPIED) / 4);
        break;
    case LAUNCH:
        floats(b, o, 256);
        break;
    case ATTENTION: /* q, k, v, y */
        for (int i = 0; i < 4; i++)
            filled(b, o, s0 * s1 * s2, type);
        break;
    case LINEAR: /* x, y, w, bias */
        type = in_f32(o->e) ? IMAGINE__W_F32 : IMAGINE__W_BF16;
        filled(b, o, s0 * s1, type);
        filled(b, o, s0 * s2, o->e->residual ? IMAGINE__W_F32 : type);
        o->weights = s0 > FEW ? 1 : b->tiny ? 2 : 1 + (int32_t)(FAR / (2 * s1 * s2));
        filled(b, o, o->weights * s1 * s2, IMAGINE__W_BF16);
        floats(b, o, s2);
        break;
    case CONV: /* frames, y, w, bias */
        type = in_f32(o->e) ? IMAGINE__W_F32 : IMAGINE__W_BF16;
        filled(b, o, 3 * s0 * s1 * s2, type);
        filled(b, o, s0 * s1 * s3, o->e->residual ? IMAGINE__W_F32 : type);
        filled(b, o, 27 * s2 * s3, IMAGINE__W_BF16);
        floats(b, o, s3);
        break;
    default: /* rows in and out, and a few of vectors; cosines and sines of each row */
        for (int i = 0; i < 3; i++)
            floats(b, o, s0 * s1 * (o->e->kind == MODULATE && i == 1 ? 6 : 1));
        floats(b, o, 6 * s1);
        for (int i = 0; i < 2 && o->e->kind == NORM_ROPE; i++)
            floats(b, o, s0 * 64);
    }
}

/* ---- runs -------------------------------------------------------------------------------------------------------- */

static int run_attention(const imagine__device_bench *b, const operands *o)
{
    int64_t row = (int64_t)o->size[0] * o->size[1], tokens = o->size[2], all = row * tokens;
    float scale = 1.0f / (o->size[1] == 64 ? 8.0f : o->size[1] == 128 ? 11.3137085f : 19.5959179f);
    imagine__cuda_call call = b->call;
    if (o->e->way == BF16) {
        imagine__cuda_attention_args a = {.q = o->memory[0], .k = o->memory[1], .v = o->memory[2], .y = o->memory[3],
                                          .batch = 1, .heads = o->size[0], .d = o->size[1], .tokens = tokens, .kv = tokens,
                                          .q_batch = all, .q_token = row, .k_batch = all, .k_token = row, .v_batch = all,
                                          .v_token = row, .y_batch = all, .y_token = row, .scale = scale,
                                          .type = IMAGINE__W_BF16};
        return b->cuda->attention(&a, call.stream);
    }
    imagine__attention_args a = {.q = o->memory[0], .k = o->memory[1], .v = o->memory[2], .y = o->memory[3], .batch = 1,
                                 .heads = o->size[0], .d = o->size[1], .tokens = tokens, .kv = tokens, .q_batch = all,
                                 .q_token = row, .k_batch = all, .k_token = row, .v_batch = all, .v_token = row,
                                 .y_batch = all, .y_token = row, .scale = scale};
    call.precision = o->e->way == F32 ? IMAGINE__CUDA_F32 : IMAGINE__CUDA_BF16;
    return b->cuda->attend(&a, &call);
}

static int run_linear(const imagine__device_bench *b, operands *o)
{
    const int64_t m = o->size[0], k = o->size[1], n = o->size[2];
    imagine__linear_weight w = {(uint16_t *)o->memory[2] + o->turn * n * k, o->memory[3], n, k, IMAGINE__W_BF16, 0};
    o->turn = (o->turn + 1) % o->weights;
    imagine__linear_args a = {.w = &w, .x = o->memory[0], .y = o->memory[1], .m = m, .ldx = k, .ldy = n, .act = o->e->act};
    imagine__cuda_call call = b->call;
    a.x_type = in_f32(o->e) ? IMAGINE__W_F32 : IMAGINE__W_BF16;
    a.y_type = o->e->residual ? IMAGINE__W_F32 : a.x_type;
    if (o->e->residual)
        a.gate = w.bias, a.gate_rows = m, a.ld_gate = n, a.add = a.y, a.ld_add = n;
    call.precision = in_f32(o->e) ? IMAGINE__CUDA_F32 : IMAGINE__CUDA_BF16;
    call.products = by_library(o->e) ? call.products : NULL;
    return b->cuda->linear(&a, &call);
}

static int run_conv(const imagine__device_bench *b, const operands *o)
{
    size_t frame = (size_t)o->size[0] * (size_t)o->size[1] * (size_t)o->size[2] * (in_f32(o->e) ? 4 : 2);
    const float *frames[3];
    for (size_t i = 0; i < 3; i++)
        frames[i] = (const float *)(const void *)((const char *)o->memory[0] + i * frame);
    imagine__conv_weight w = {o->memory[2], o->memory[3], o->size[3], o->size[2], 3, 3, 3, IMAGINE__W_BF16};
    imagine__conv_args a = {.w = &w, .x = frames, .y = o->memory[1], .height = o->size[0], .width = o->size[1],
                            .out_h = o->size[0], .out_w = o->size[1], .ldx = w.cin, .ldy = w.cout, .stride_h = 1,
                            .stride_w = 1, .pad_top = 1, .pad_left = 1, .upsample = 1};
    imagine__cuda_call call = b->call;
    a.x_type = in_f32(o->e) ? IMAGINE__W_F32 : IMAGINE__W_BF16;
    a.y_type = o->e->residual ? IMAGINE__W_F32 : a.x_type;
    call.precision = o->e->way == F32 ? IMAGINE__CUDA_F32 : IMAGINE__CUDA_BF16;
    call.convolutions = o->e->way == LIBRARY ? call.convolutions : NULL;
    return b->cuda->conv(&a, &call);
}

static int run_norm(const imagine__device_bench *b, const operands *o)
{
    const int64_t rows = o->size[0], dim = o->size[1];
    float *mod = o->memory[3];
    imagine__cuda_norm_args a = {.x = o->memory[0], .y = o->memory[1], .delta = o->memory[2], .rows = rows, .dim = dim,
                                 .ldx = dim, .ldy = dim, .ld_delta = dim, .kind = IMAGINE__NORM_LAYER, .eps = 1e-6f,
                                 .scale = mod, .shift = mod + dim, .gate = mod + 2 * dim, .group = rows, .ld_mod = 3 * dim};
    if (o->e->kind == PIXEL_NORM)
        a = (imagine__cuda_norm_args){.x = o->memory[0], .y = o->memory[1], .rows = rows, .dim = dim, .ldx = dim, .ldy = dim,
                                      .kind = IMAGINE__NORM_L2, .eps = 1e-12f, .weight = mod, .act = IMAGINE__ACT_SILU,
                                      .y_type = in_f32(o->e) ? IMAGINE__W_F32 : IMAGINE__W_BF16};
    return b->cuda->norm(&a, b->call.stream);
}

static int run_norm_rope(const imagine__device_bench *b, const operands *o)
{
    const int64_t rows = o->size[0], dim = o->size[1], d = 128;
    imagine__cuda_norm_rope_args a = {.batch = 1, .tokens = rows, .heads = dim / d, .d = d, .positions = rows, .eps = 1e-6f,
                                      .cos_table = o->memory[4], .sin_table = o->memory[5]};
    a.part[0] = (imagine__cuda_rope_part){.x = o->memory[0], .y = o->memory[0], .weight = o->memory[3], .ldx = dim,
                                          .y_batch = rows * dim, .y_token = dim, .rotate = 1};
    return b->cuda->norm_rope(&a, b->call.stream);
}

static int run_modulate(const imagine__device_bench *b, const operands *o)
{
    imagine__modulate_args a = {o->memory[3], o->memory[0], o->memory[1], o->size[0], 6, 1, o->size[1]};
    return b->cuda->modulate(&a, b->call.stream);
}

static int run_update(const imagine__device_bench *b, const operands *o)
{
    const float coefficient[] = {0.9f, 0.1f};
    const float *const x[] = {o->memory[0], o->memory[1]};
    return b->cuda->combine(2, coefficient, x, o->memory[2], (int64_t)o->size[0] * o->size[1], b->call.stream);
}

static int run_launches(const imagine__device_bench *b, const operands *o)
{
    int code = 0;
    for (int i = 0; i < (b->tiny ? 3 : LAUNCHES) && !code; i++)
        code = b->cuda->activate(o->memory[0], IMAGINE__W_F32, o->memory[0], IMAGINE__W_F32, 256, IMAGINE__ACT_SILU,
                                 b->call.stream);
    return code;
}

/* The launches as a graph, recorded in a stream of its own. */
static void record_launches(imagine__device_bench *b, operands *o)
{
    imagine__device_bench recorded = *b;
    recorded.call.stream = NULL;
    b->code = b->cuda->stream_create(&recorded.call.stream);
    if (!b->code)
        b->code = b->cuda->graph_begin(recorded.call.stream);
    if (!b->code) {
        int code = run_launches(&recorded, o);
        b->code = b->cuda->graph_end(recorded.call.stream, &o->graph);
        b->code = code ? code : b->code;
    }
    b->cuda->stream_destroy(recorded.call.stream);
}

static int run_entry(const imagine__device_bench *b, operands *o)
{
    switch (o->e->kind) {
    case PEAK:
        return b->cuda->peak(o->e->way == BF16 ? IMAGINE__CUDA_BF16 : IMAGINE__CUDA_F32, b->tiny ? 2 : 256, o->memory[0],
                             &o->operations, b->call.stream);
    case MEMORY:
        return b->cuda->copy(o->memory[0], o->memory[1], b->tiny ? TINY_COPIED : COPIED, b->call.stream);
    case LAUNCH:
        return o->graph ? b->cuda->graph_launch(o->graph, b->call.stream) : run_launches(b, o);
    case ATTENTION:
        return run_attention(b, o);
    case LINEAR:
        return run_linear(b, o);
    case CONV:
        return run_conv(b, o);
    case NORM_ROPE:
        return run_norm_rope(b, o);
    case MODULATE:
        return run_modulate(b, o);
    case UPDATE:
        return run_update(b, o);
    default:
        return run_norm(b, o);
    }
}

/* ---- what a run does ----------------------------------------------------------------------------------------------- */

static void count_work(const imagine__device_bench *b, operands *o)
{
    double s0 = o->size[0], s1 = o->size[1], s2 = o->size[2], s3 = o->size[3];
    double value = o->e->kind == ATTENTION && o->e->way == BF16 ? 2 : 4;
    switch (o->e->kind) {
    case MEMORY:
        o->bytes = 2.0 * (double)(b->tiny ? TINY_COPIED : COPIED);
        break;
    case ATTENTION:
        o->operations = 4 * s0 * s1 * s2 * s2;
        o->bytes = 4 * value * s0 * s1 * s2;
        break;
    case LINEAR:
        o->operations = 2 * s0 * s1 * s2;
        value = in_f32(o->e) ? 4 : 2;
        o->bytes = value * s0 * s1 + (o->e->residual ? 8 : value) * s0 * s2 + 2 * s1 * s2;
        break;
    case CONV:
        o->operations = 2 * 27 * s0 * s1 * s2 * s3;
        value = in_f32(o->e) ? 4 : 2;
        o->bytes = s0 * s1 * (3 * value * s2 + (o->e->residual ? 4 : value) * s3) + 2 * 27 * s2 * s3;
        break;
    case NORM: /* x both ways, y, delta */
        o->bytes = 16 * s0 * s1;
        break;
    case NORM_ROPE:
        o->bytes = 8 * s0 * s1 + 4 * s0 * 128;
        break;
    case PIXEL_NORM:
        o->bytes = (in_f32(o->e) ? 8 : 6) * s0 * s1;
        break;
    case MODULATE:
        o->bytes = 28 * s0 * s1;
        break;
    case UPDATE:
        o->bytes = 12 * s0 * s1;
        break;
    default: /* a peak's run counts its own */
        break;
    }
}

double imagine__device_bench_share(const imagine__device_bench *b, double operations, double bytes, int32_t bf16,
                                   double seconds)
{
    double peak = bf16 ? b->peak_bf16 : b->peak_f32;
    double computing = peak > 0 ? operations / peak * 1e-9 : 0, moving = b->bandwidth > 0 ? bytes / b->bandwidth * 1e-9 : 0;
    return (computing > moving ? computing : moving) / seconds;
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of one run: the best of three times as many as take a tenth of a second, one behind the other; of one that takes
 * longer than a second, the first. */
static double fastest(imagine__device_bench *b, operands *o)
{
    double best = 1e30;
    int64_t runs = 1;
    for (int turn = 0; turn < 5; turn++) { /* the first two: to warm up, and to see how many */
        double begin = now();
        for (int64_t i = 0; i < runs && !b->code; i++)
            b->code = run_entry(b, o);
        if (!b->code)
            b->code = b->cuda->synchronize(b->call.stream);
        double each = (now() - begin) / (double)runs;
        if (b->tiny || b->code || each > 1)
            return each;
        if (turn == 1)
            runs = each > 0.1 ? 1 : (int64_t)(0.1 / each) + 1;
        best = turn > 1 && each < best ? each : best;
    }
    return best;
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

static void name_of(const entry *e, const int32_t s[4], char *name, size_t size)
{
    static const char *const ways[] = {"f32", "bf16", "f32 rounded to bf16", "bf16 by cuBLASLt", "as a graph",
                                       "f32 by cuBLASLt"};
    const char *way = e->kind == CONV && e->way == LIBRARY ? "bf16 by cuDNN" : ways[e->way];
    switch (e->kind) {
    case PEAK:
        snprintf(name, size, "peak of multiply-add, %s", e->way == F32 ? "f32" : "bf16 on tensor cores");
        break;
    case MEMORY:
        snprintf(name, size, "memory, reading and writing");
        break;
    case LAUNCH:
        snprintf(name, size, "launch of a kernel in a %s of them", e->way == GRAPH ? "graph" : "row");
        break;
    case ATTENTION:
        snprintf(name, size, "attention %dx%d %d tokens %s", s[0], s[1], s[2], way);
        break;
    case LINEAR:
        snprintf(name, size, "linear %dx%dx%d%s %s", s[0], s[1], s[2],
                 e->residual ? " gate and sum" : e->act ? " gelu" : "", way);
        break;
    case CONV:
        snprintf(name, size, "conv 3x3x3 %dx%d %d>%d %s", s[0], s[1], s[2], s[3], way);
        break;
    case NORM:
        snprintf(name, size, "sum, gate, norm, modulation %dx%d", s[0], s[1]);
        break;
    case NORM_ROPE:
        snprintf(name, size, "QK norm and RoPE %dx%d", s[0], s[1]);
        break;
    case PIXEL_NORM:
        snprintf(name, size, "VAE norm and SiLU %dx%d%s", s[0], s[1], in_f32(e) ? "" : " to bf16");
        break;
    case MODULATE:
        snprintf(name, size, "modulation of six parts %dx%d", s[0], s[1]);
        break;
    default:
        snprintf(name, size, "sampler update %dx%d", s[0], s[1]);
    }
}

int32_t imagine__device_bench_describe(int32_t index, int32_t tiny, imagine__device_bench_row *row)
{
    int32_t size[4];
    if (index < 0 || index >= COUNT)
        return 0;
    memset(row, 0, sizeof *row);
    sizes_of(&entries[index], tiny, size);
    name_of(&entries[index], size, row->name, sizeof row->name);
    snprintf(row->kind, sizeof row->kind, "%s", kinds[entries[index].kind]);
    return 1;
}

static void raise(double *highest, double value)
{
    *highest = value > *highest ? value : *highest;
}

/* Fills in what a time of one run means. */
static void rate(imagine__device_bench *b, const operands *o, imagine__device_bench_row *row)
{
    int bf16 = !in_f32(o->e);
    double rate = (o->operations > 0 ? o->operations : o->bytes) / row->seconds * 1e-9;
    row->gflops = o->operations / row->seconds * 1e-9;
    row->value = o->operations > 0 ? rate * 1e-3 : rate;
    row->unit = o->operations > 0 ? "TFLOP/s" : "GB/s";
    if (o->e->kind == LAUNCH) {
        row->seconds /= b->tiny ? 3 : LAUNCHES;
        row->value = 1e6 * row->seconds;
        row->unit = "us";
        return;
    }
    if (o->e->kind == PEAK)
        raise(bf16 ? &b->peak_bf16 : &b->peak_f32, row->gflops);
    if (o->e->kind == MEMORY)
        raise(&b->bandwidth, rate);
    row->share = imagine__device_bench_share(b, o->operations, o->bytes, bf16, row->seconds);
}

int32_t imagine__device_bench_entry(imagine__device_bench *b, int32_t index, imagine__device_bench_row *row)
{
    operands o;
    if (!imagine__device_bench_describe(index, b->tiny, row))
        return 0;
    memset(&o, 0, sizeof o);
    o.e = &entries[index];
    sizes_of(o.e, b->tiny, o.size);
    if (by_library(o.e) && !(o.e->kind == CONV ? b->call.convolutions : b->call.products)) {
        row->missing = o.e->kind == CONV ? "libcudnn.so.9" : "libcublasLt.so.13 or .12";
        row->unit = "TFLOP/s";
        return 1;
    }
    b->code = 0;
    prepare(b, &o);
    count_work(b, &o);
    if (o.e->kind == LAUNCH && o.e->way == GRAPH && !o.failed && !b->code)
        record_launches(b, &o);
    uint64_t before = started(b, o.e);
    if (!o.failed && !b->code) {
        row->seconds = fastest(b, &o);
        rate(b, &o, row);
        int large = !b->tiny || b->cuda->emulated; /* enough for a library to be asked */
        if (by_library(o.e) && large && !b->code && started(b, o.e) == before) /* our own kernel was measured */
            row->missing = o.e->kind == CONV ? "an engine of cuDNN's for it" : "an algorithm of cuBLASLt's for it";
    }
    (void)b->cuda->synchronize(b->call.stream);
    b->cuda->graph_destroy(o.graph);
    while (o.count)
        b->release(b->user_data, o.memory[--o.count]);
    if (b->code)
        return -2;
    return o.failed ? -1 : 1;
}
