/* SPDX-License-Identifier: MIT */
#include "kernels/bench.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/cpu.h"

enum { PEAK, LINEAR, CONV, ATTENTION };

static const char *const kinds[] = {"peak", "linear", "conv", "attention"};

/* What is measured: linear m, k, n; conv height, width, channels in, out and 3x3x3; attention heads, head size, tokens. */
typedef struct entry {
    int kind;
    int32_t size[4];
    imagine__wtype type;
} entry;

static const entry entries[] = {
    {PEAK, {0}, 0},
    {LINEAR, {256, 1536, 1536}, IMAGINE__W_F32},
    {LINEAR, {1024, 1536, 1536}, IMAGINE__W_F32},
    {LINEAR, {4096, 1536, 1536}, IMAGINE__W_F32},
    {LINEAR, {256, 1536, 8960}, IMAGINE__W_F32},
    {LINEAR, {1024, 1536, 8960}, IMAGINE__W_F32},
    {LINEAR, {1024, 8960, 1536}, IMAGINE__W_F32},
    {LINEAR, {256, 256, 256}, IMAGINE__W_F32},
    {LINEAR, {1024, 256, 1024}, IMAGINE__W_F32},
    {LINEAR, {4096, 256, 256}, IMAGINE__W_F32},
    {LINEAR, {256, 1536, 8960}, IMAGINE__W_BF16},
    {LINEAR, {1024, 1536, 1536}, IMAGINE__W_BF16},
    {LINEAR, {4096, 1536, 1536}, IMAGINE__W_BF16},
    {LINEAR, {4096, 256, 256}, IMAGINE__W_BF16},
    {LINEAR, {48, 256, 256}, IMAGINE__W_F32},
    {LINEAR, {96, 256, 1024}, IMAGINE__W_F32},
    {LINEAR, {96, 1024, 256}, IMAGINE__W_F32},
    {LINEAR, {1, 1536, 9216}, IMAGINE__W_F32},
    {CONV, {60, 104, 384, 384}, IMAGINE__W_F32},
    {CONV, {120, 208, 192, 192}, IMAGINE__W_F32},
    {CONV, {240, 416, 96, 96}, IMAGINE__W_F32},
    {CONV, {240, 416, 96, 96}, IMAGINE__W_BF16},
    {CONV, {240, 416, 96, 3}, IMAGINE__W_F32},
    {CONV, {240, 416, 3, 96}, IMAGINE__W_F32},
    {CONV, {60, 104, 16, 384}, IMAGINE__W_F32},
    {CONV, {120, 208, 12, 160}, IMAGINE__W_F32},
    {CONV, {120, 208, 256, 12}, IMAGINE__W_F32},
    {CONV, {30, 52, 48, 1024}, IMAGINE__W_F32},
    {CONV, {8, 8, 64, 64}, IMAGINE__W_F32},
    {CONV, {32, 32, 32, 32}, IMAGINE__W_F32},
    {CONV, {64, 64, 16, 16}, IMAGINE__W_F32},
    {CONV, {64, 64, 16, 3}, IMAGINE__W_F32},
    {CONV, {64, 64, 3, 12}, IMAGINE__W_F32},
    {ATTENTION, {12, 128, 1024}, 0},
    {ATTENTION, {12, 128, 4096}, 0},
    {ATTENTION, {4, 64, 1024}, 0},
    {ATTENTION, {4, 64, 4096}, 0},
};

#define COUNT ((int32_t)(sizeof entries / sizeof *entries))
#define PEAK_TILES 64
#define PEAK_STEPS 20000

/* The operands of an entry. */
typedef struct operands {
    float *x, *w, *y;
    void *packed;
} operands;

int32_t imagine__bench_count(void)
{
    return COUNT;
}

static double now(const imagine__bench *b)
{
    struct timespec t;
    clock_gettime(b->cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void peak_tile(void *arg, int64_t tile, void *scratch)
{
    (void)tile;
    imagine__cpu_multiply_add(arg, PEAK_STEPS, scratch);
}

static void run_peak(imagine__run *run)
{
    imagine__parallel(run, PEAK_TILES, peak_tile, (void *)(uintptr_t)run->kernels);
}

static void run_linear(imagine__run *run, const entry *e, const operands *o)
{
    imagine__linear_weight w = {o->packed, NULL, e->size[2], e->size[1], e->type, 0};
    imagine__linear_args args = {.w = &w, .x = o->x, .y = o->y, .m = e->size[0], .ldx = w.k, .ldy = w.n};
    run->kernels->linear(run, &args);
}

static void run_conv(imagine__run *run, const entry *e, const operands *o)
{
    int64_t frame = (int64_t)e->size[0] * e->size[1] * e->size[2];
    const float *frames[] = {o->x, o->x + frame, o->x + 2 * frame};
    imagine__conv_weight w = {o->packed, NULL, e->size[3], e->size[2], 3, 3, 3, e->type};
    imagine__conv_args args = {.w = &w, .x = frames, .y = o->y, .height = e->size[0], .width = e->size[1],
                               .out_h = e->size[0], .out_w = e->size[1], .ldx = w.cin, .ldy = w.cout, .stride_h = 1,
                               .stride_w = 1, .pad_top = 1, .pad_left = 1, .upsample = 1};
    run->kernels->conv(run, &args);
}

static void run_attention(imagine__run *run, const entry *e, const operands *o)
{
    int64_t token = (int64_t)e->size[0] * e->size[1], all = token * e->size[2];
    imagine__attention_args args = {.q = o->x, .k = o->x + all, .v = o->x + 2 * all, .y = o->y, .batch = 1,
                                    .heads = e->size[0], .d = e->size[1], .tokens = e->size[2], .kv = e->size[2],
                                    .q_token = token, .k_token = token, .v_token = token, .y_token = token,
                                    .q_batch = all, .k_batch = all, .v_batch = all, .y_batch = all,
                                    .scale = e->size[1] == 64 ? 0.125f : 0.0883883476f};
    run->kernels->attention(run, &args);
}

static void run_entry(imagine__run *run, const entry *e, const operands *o)
{
    switch (e->kind) {
    case PEAK:
        run_peak(run);
        break;
    case LINEAR:
        run_linear(run, e, o);
        break;
    case CONV:
        run_conv(run, e, o);
        break;
    default:
        run_attention(run, e, o);
    }
}

/* Operations of one run. */
static double work_of(const imagine__kernels *kernels, const entry *e)
{
    double s0 = e->size[0], s1 = e->size[1], s2 = e->size[2], s3 = e->size[3];
    switch (e->kind) {
    case PEAK:
        return (double)PEAK_TILES * (double)imagine__cpu_multiply_add(kernels, 0, NULL) * PEAK_STEPS;
    case LINEAR:
        return 2 * s0 * s1 * s2;
    case CONV:
        return 2 * 27 * s0 * s1 * s2 * s3;
    default:
        return 4 * s0 * s1 * s2 * s2;
    }
}

/* Numbers of x, w and y, and bytes of the packed weight. */
typedef struct sizes {
    int64_t x, w, y;
    size_t packed;
} sizes;

static sizes sizes_of(const imagine__kernels *kernels, const entry *e)
{
    int64_t s0 = e->size[0], s1 = e->size[1], s2 = e->size[2], s3 = e->size[3];
    sizes s = {0, 0, 0, 0};
    if (e->kind == LINEAR)
        s = (sizes){s0 * s1, s1 * s2, s0 * s2, kernels->linear_packed_size(s2, s1, e->type)};
    else if (e->kind == CONV)
        s = (sizes){3 * s0 * s1 * s2, 27 * s2 * s3, s0 * s1 * s3,
                    kernels->conv_packed_size(s3, s2, 3, 3, 3, e->type)};
    else if (e->kind == ATTENTION)
        s = (sizes){3 * s0 * s1 * s2, 0, s0 * s1 * s2, 0};
    return s;
}

static void fill(float *x, int64_t n)
{
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(int32_t)state * 4.6566129e-10f;
    }
}

/* Random bits as bf16 numbers below 1. */
static void fill_bf16(uint16_t *x, int64_t n)
{
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (uint16_t)((state >> 16 & 0x83ff) | 0x3c00);
    }
}

static void release(imagine__bench *b, operands *o)
{
    void *const all[] = {o->x, o->w, o->y, o->packed};
    for (int i = 0; i < 4; i++)
        if (all[i])
            b->release(b->user_data, all[i]);
}

static int prepare(imagine__bench *b, const entry *e, operands *o)
{
    const imagine__kernels *kernels = b->run->kernels;
    sizes s = sizes_of(kernels, e);
    memset(o, 0, sizeof *o);
    if (e->kind == PEAK)
        return 1;
    o->x = b->allocate(b->user_data, (size_t)s.x * sizeof(float));
    o->w = b->allocate(b->user_data, (size_t)(s.w + 1) * sizeof(float));
    o->y = b->allocate(b->user_data, (size_t)s.y * sizeof(float));
    o->packed = b->allocate(b->user_data, s.packed + 1);
    if (!o->x || !o->w || !o->y || !o->packed)
        return 0;
    fill(o->x, s.x);
    memset(o->y, 0, (size_t)s.y * sizeof(float));
    if (e->type == IMAGINE__W_BF16)
        fill_bf16((uint16_t *)o->w, s.w);
    else
        fill(o->w, s.w);
    if (e->kind == LINEAR)
        kernels->pack_linear(o->packed, o->w, 0, e->size[2], e->size[2], e->size[1], e->type);
    if (e->kind == CONV)
        kernels->pack_conv(o->packed, o->w, e->size[3], e->size[2], 3, 3, 3, e->type);
    return 1;
}

int32_t imagine__bench_name(int32_t index, char *name, size_t size)
{
    if (index < 0 || index >= COUNT)
        return 0;
    const entry *e = &entries[index];
    const char *type = e->type == IMAGINE__W_BF16 ? "bf16" : "f32";
    const int32_t *s = e->size;
    if (e->kind == PEAK)
        snprintf(name, size, "peak of multiply-add");
    else if (e->kind == LINEAR)
        snprintf(name, size, "linear %dx%dx%d %s", s[0], s[1], s[2], type);
    else if (e->kind == CONV)
        snprintf(name, size, "conv 3x3x3 %dx%d %d>%d %s", s[0], s[1], s[2], s[3], type);
    else
        snprintf(name, size, "attention %dx%d %d tokens", s[0], s[1], s[2]);
    return 1;
}

/* The fastest of at least three runs after a first one. Runs too short for the clock are measured in groups. */
static double fastest(imagine__bench *b, const entry *e, const operands *o, double limit)
{
    double best = 1e30, began = now(b);
    run_entry(b->run, e, o);
    double once = now(b) - began;
    int group = once < 1e-3 ? (int)(1e-3 / (once + 1e-6)) + 1 : 1;
    began = now(b);
    for (int runs = 0; (runs < 3 || now(b) - began < limit) && !imagine__run_stopped(b->run); runs++) {
        double start = now(b);
        for (int i = 0; i < group; i++)
            run_entry(b->run, e, o);
        double time = (now(b) - start) / group;
        best = time < best ? time : best;
    }
    return best;
}

/* The peak is measured again with each entry and the highest kept: a machine that was busy at first would else flatter
 * everything after. */
static void raise_peak(imagine__bench *b)
{
    operands none = {0};
    double peak = work_of(b->run->kernels, &entries[0]) / fastest(b, &entries[0], &none, 0.05) * 1e-9;
    b->peak = peak > b->peak ? peak : b->peak;
}

int32_t imagine__bench_entry(imagine__bench *bench, int32_t index, imagine__bench_row *row)
{
    if (index < 0 || index >= COUNT)
        return 0;
    const entry *e = &entries[index];
    operands o;
    int good = prepare(bench, e, &o);
    if (good) {
        memset(row, 0, sizeof *row);
        imagine__bench_name(index, row->name, sizeof row->name);
        snprintf(row->kind, sizeof row->kind, "%s", kinds[e->kind]);
        const char *level = bench->run->kernels->name;
        int tiles = !strcmp(level, "amx"), linear = e->kind == LINEAR && e->type == IMAGINE__W_BF16;
        row->pairs = (linear && (tiles || !strcmp(level, "avx512bf16"))) || (e->kind == ATTENTION && tiles);
        row->seconds = fastest(bench, e, &o, bench->seconds > 0 ? bench->seconds : 0.5);
        row->gflops = work_of(bench->run->kernels, e) / row->seconds * 1e-9;
        raise_peak(bench);
        row->share = row->gflops / bench->peak;
    }
    release(bench, &o);
    if (!good)
        return -1;
    return !imagine__run_stopped(bench->run);
}
