/* SPDX-License-Identifier: MIT */
/* How fast the module's operations are on this GPU:  bench [--small] [NAME...]
 * With --small each runs once on little, on the emulator too, only to see that all of them run. */

#include <time.h>

#include "cuda_check.h"

typedef struct bench {
    int small;
    imagine__cuda_call call;
    void *memory[6]; /* of a row; released behind it */
    int count;
    int failed;
} bench;

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Device memory full of small random numbers: zeros would take less power and so run faster. */
static void *filled(bench *b, int64_t values, imagine__cuda_type type)
{
    size_t size = (size_t)values * cuda_size(type), part = size < 1 << 22 ? size : 1 << 22;
    check_random r = {(uint64_t)b->count + 1};
    float *host = check_input(&r, (int64_t)(part / cuda_size(type)));
    void *memory = NULL;
    int64_t n = (int64_t)(part / cuda_size(type));
    for (int64_t i = 0; i < n && type == IMAGINE__W_BF16; i++) {
        uint16_t half = cuda_bf16(host[i]); /* in place: value i lies behind what is written */
        memcpy((char *)host + 2 * i, &half, 2);
    }
    if (cuda->allocate(&memory, size) || cuda->upload(memory, host, part, NULL)) {
        printf("no device memory for %zu bytes\n", size);
        exit(1);
    }
    for (size_t at = part; at < size; at += part)
        CUDA_OK(cuda->copy((char *)memory + at, memory, size - at < part ? size - at : part, NULL));
    free(host);
    return b->memory[b->count++] = memory;
}

static float *floats(bench *b, int64_t values)
{
    return filled(b, values, IMAGINE__W_F32);
}

static void release_all(bench *b)
{
    while (b->count)
        cuda->release(b->memory[--b->count]);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef int run_fn(bench *b, const void *args);

/* Seconds of one run: the best of three times as many as take a tenth of a second, one behind the other. */
static double seconds_of(bench *b, run_fn *run, const void *args)
{
    double best = 1e30;
    int64_t runs = 1;
    for (int turn = 0; turn < 5; turn++) { /* the first two: to warm up, and to see how many */
        double begin = now();
        for (int64_t i = 0; i < runs; i++)
            b->failed |= run(b, args);
        b->failed |= cuda->synchronize(NULL);
        double each = (now() - begin) / (double)runs;
        if (b->small || b->failed)
            return each;
        if (turn == 1)
            runs = each > 0.1 ? 1 : (int64_t)(0.1 / each) + 1;
        best = turn > 1 && each < best ? each : best;
    }
    return best;
}

/* `work` is 10^9 of `unit` a second once divided by the time. */
static void report(bench *b, const char *name, run_fn *run, const void *args, double work, const char *unit)
{
    double seconds = seconds_of(b, run, args);
    if (b->failed)
        printf("%-52s failed: %s\n", name, cuda->error_text(b->failed));
    else if (b->small)
        printf("%-52s runs\n", name);
    else
        printf("%-52s %10.3f ms %10.1f %s\n", name, 1e3 * seconds, work / seconds / 1e9, unit);
    fflush(stdout);
    release_all(b);
}

/* ---- operations -------------------------------------------------------------------------------------------------- */

static int run_copy(bench *b, const void *args)
{
    void *const *p = args;
    return cuda->copy(p[0], p[1], b->small ? 4096 : (size_t)1 << 30, NULL);
}

static void copies(bench *b)
{
    int64_t n = b->small ? 1024 : 1 << 28;
    void *p[2];
    p[0] = floats(b, n);
    p[1] = floats(b, n);
    report(b, "copy 1 GiB (bytes read and written)", run_copy, p, 8.0 * (double)n, "GB/s");
}

static int run_activate(bench *b, const void *args)
{
    (void)b;
    float *x = *(float *const *)args;
    return cuda->activate(x, IMAGINE__W_F32, x, IMAGINE__W_F32, 256, IMAGINE__ACT_SILU, NULL);
}

static void launches(bench *b)
{
    float *x = floats(b, 256);
    report(b, "launch of a kernel that does next to nothing", run_activate, &x, 1e3, "million/s");
}

static int run_attention(bench *b, const void *args)
{
    (void)b;
    return cuda->attention(args, NULL);
}

static int run_attention_f32(bench *b, const void *args)
{
    return cuda->attention_f32(args, &b->call);
}

static void attention(bench *b, int64_t heads, int64_t d, int64_t tokens)
{
    char name[96];
    int64_t n = tokens * heads * d, row = heads * d;
    imagine__cuda_attention_args a = {.batch = 1, .heads = heads, .d = d, .tokens = tokens, .kv = tokens, .q_batch = n,
                                      .q_token = row, .k_batch = n, .k_token = row, .v_batch = n, .v_token = row,
                                      .y_batch = n, .y_token = row, .scale = 0.1f, .type = IMAGINE__W_BF16};
    a.q = filled(b, n, a.type), a.k = filled(b, n, a.type), a.v = filled(b, n, a.type), a.y = filled(b, n, a.type);
    snprintf(name, sizeof name, "attention %dx%d %d tokens bf16", (int)heads, (int)d, (int)tokens);
    report(b, name, run_attention, &a, 4e-3 * (double)(tokens * tokens * row), "TFLOP/s");
}

static void attention_f32(bench *b, int64_t heads, int64_t d, int64_t tokens, imagine__cuda_precision precision)
{
    char name[96];
    int64_t n = tokens * heads * d, row = heads * d;
    imagine__attention_args a = {.batch = 1, .heads = heads, .d = d, .tokens = tokens, .kv = tokens, .q_batch = n,
                                 .q_token = row, .k_batch = n, .k_token = row, .v_batch = n, .v_token = row, .y_batch = n,
                                 .y_token = row, .scale = 0.1f};
    a.q = floats(b, n), a.k = floats(b, n), a.v = floats(b, n), a.y = floats(b, n);
    b->call.precision = precision;
    snprintf(name, sizeof name, "attention %dx%d %d tokens %s", (int)heads, (int)d, (int)tokens,
             precision ? "f32 rounded" : "f32");
    report(b, name, run_attention_f32, &a, 4e-3 * (double)(tokens * tokens * row), "TFLOP/s");
    b->call.precision = IMAGINE__CUDA_BF16;
}

static void attentions(bench *b)
{
    static const int64_t lengths[] = {1024, 4096, 8192, 16384, 32760};
    for (int i = 0; i < (b->small ? 1 : 5); i++)
        for (int64_t d = 64; d <= 128; d += 64) {
            int64_t heads = b->small ? 1 : 1536 / d, tokens = b->small ? 65 : lengths[i];
            attention(b, heads, d, tokens);
            attention_f32(b, heads, d, tokens, IMAGINE__CUDA_BF16);
        }
    attention_f32(b, b->small ? 1 : 12, 128, b->small ? 65 : 4096, IMAGINE__CUDA_F32);
    attention_f32(b, 1, b->small ? 130 : 384, b->small ? 65 : 6240, IMAGINE__CUDA_F32); /* a frame of the VAE's */
}

static int run_linear(bench *b, const void *args)
{
    return cuda->linear(args, &b->call);
}

/* As it is asked for: in f32, in bf16 by our own kernel, in bf16 with cuBLASLt. */
static void linear(bench *b, int64_t m, int64_t k, int64_t n, imagine__act act, int residual)
{
    static const char *const ways[] = {"f32", "bf16 own", "bf16 cuBLASLt"};
    void *products = b->call.products;
    for (int way = 0; way < (products ? 3 : 2); way++) {
        char name[96];
        imagine__linear_weight w = {filled(b, n * k, IMAGINE__W_BF16), floats(b, n), n, k, IMAGINE__W_BF16, 0};
        float *y = floats(b, m * n);
        imagine__linear_args a = {.w = &w, .x = floats(b, m * k), .y = y, .m = m, .ldx = k, .ldy = n, .act = act,
                                  .gate = residual ? w.bias : NULL, .gate_rows = m, .ld_gate = n,
                                  .add = residual ? y : NULL, .ld_add = n};
        b->call.precision = way ? IMAGINE__CUDA_BF16 : IMAGINE__CUDA_F32;
        b->call.products = way == 2 ? products : NULL;
        snprintf(name, sizeof name, "linear %dx%dx%d%s %s", (int)m, (int)k, (int)n,
                 residual ? " residual" : act ? " gelu" : "", ways[way]);
        report(b, name, run_linear, &a, 2e-3 * (double)(m * n * k), "TFLOP/s");
    }
    b->call.precision = IMAGINE__CUDA_BF16;
    b->call.products = products;
}

/* Wan 1.3B's layers at 832x480, 81 frames. */
static void linears(bench *b)
{
    int64_t m = b->small ? 130 : 32760, dim = b->small ? 64 : 1536, wide = b->small ? 96 : 8960;
    linear(b, m, dim, dim, IMAGINE__ACT_NONE, 0);
    linear(b, m, dim, dim, IMAGINE__ACT_NONE, 1);
    linear(b, m, dim, wide, IMAGINE__ACT_GELU_TANH, 0);
    linear(b, m, wide, dim, IMAGINE__ACT_NONE, 1);
    linear(b, 1, dim, 6 * dim, IMAGINE__ACT_NONE, 0);
}

static int run_conv(bench *b, const void *args)
{
    return cuda->conv(args, &b->call);
}

static void conv(bench *b, int64_t height, int64_t width, int64_t cin, int64_t cout)
{
    for (int way = 0; way < 2; way++) {
        char name[96];
        imagine__conv_weight w = {filled(b, cout * 27 * cin, IMAGINE__W_BF16), floats(b, cout), cout, cin, 3, 3, 3,
                                  IMAGINE__W_BF16};
        const float *frames[3];
        frames[0] = frames[1] = frames[2] = floats(b, height * width * cin);
        imagine__conv_args a = {.w = &w, .x = frames, .y = floats(b, height * width * cout), .height = height, .width = width,
                                .out_h = height, .out_w = width, .ldx = cin, .ldy = cout, .stride_h = 1, .stride_w = 1,
                                .pad_top = 1, .pad_left = 1, .upsample = 1};
        b->call.precision = way ? IMAGINE__CUDA_BF16 : IMAGINE__CUDA_F32;
        snprintf(name, sizeof name, "conv 3x3x3 %dx%d %d>%d %s", (int)height, (int)width, (int)cin, (int)cout,
                 way ? "bf16" : "f32");
        report(b, name, run_conv, &a, 2e-3 * 27 * (double)(height * width * cin * cout), "TFLOP/s");
    }
}

static void convs(bench *b)
{
    if (b->small) {
        conv(b, 9, 13, 16, 24);
        return;
    }
    conv(b, 60, 104, 384, 384);
    conv(b, 240, 416, 192, 192);
    conv(b, 480, 832, 96, 96);
    conv(b, 480, 832, 96, 3);
}

static int run_norm(bench *b, const void *args)
{
    (void)b;
    return cuda->norm(args, NULL);
}

static int run_norm_rope(bench *b, const void *args)
{
    (void)b;
    return cuda->norm_rope(args, NULL);
}

static void norms(bench *b)
{
    int64_t rows = b->small ? 10 : 32760, dim = b->small ? 128 : 1536, d = 128;
    float *x = floats(b, rows * dim), *mod = floats(b, 3 * dim);
    imagine__cuda_norm_args a = {.x = x, .y = floats(b, rows * dim), .delta = floats(b, rows * dim), .rows = rows, .dim = dim,
                                 .ldx = dim, .ldy = dim, .ld_delta = dim, .kind = IMAGINE__NORM_LAYER, .eps = 1e-6f,
                                 .scale = mod, .shift = mod + dim, .gate = mod + 2 * dim, .group = rows, .ld_mod = 3 * dim};
    report(b, "residual + gate + norm + modulation (bytes)", run_norm, &a, 16.0 * (double)(rows * dim), "GB/s");
    x = floats(b, rows * dim);
    imagine__cuda_norm_rope_args r = {.batch = 1, .tokens = rows, .heads = dim / d, .d = d, .positions = rows, .eps = 1e-6f};
    r.part[0] = (imagine__cuda_rope_part){.x = x, .y = x, .weight = floats(b, dim), .ldx = dim, .y_batch = rows * dim,
                                          .y_token = dim, .rotate = 1};
    r.cos_table = floats(b, rows * d / 2);
    r.sin_table = floats(b, rows * d / 2);
    report(b, "QK norm + RoPE, in place (bytes)", run_norm_rope, &r, (8.0 * (double)dim + 4.0 * (double)d) * (double)rows, "GB/s");
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(bench *b);
} groups[] = {{"copy", copies}, {"launch", launches}, {"attention", attentions}, {"linear", linears}, {"conv", convs}, {"norm", norms}};

static int wanted(const char *name, int argc, char **argv)
{
    int any = 0, found = 0;
    for (int i = 1; i < argc; i++) {
        any |= argv[i][0] != '-';
        found |= !strcmp(argv[i], name);
    }
    return !any || found;
}

int main(int argc, char **argv)
{
    int32_t devices = 0;
    bench b = {.call = {.precision = IMAGINE__CUDA_BF16, .workspace_size = IMAGINE__CUDA_WORKSPACE}};
    char name[200];
    cuda = imagine__cuda_module(IMAGINE__CUDA_VERSION);
    if (!cuda || cuda->device_count(&devices) || !devices || cuda->device_name(0, name, sizeof name)) {
        printf("no device\n");
        return 1;
    }
    for (int i = 1; i < argc; i++)
        b.small |= !strcmp(argv[i], "--small");
    b.call.workspace_size = b.small ? 1 << 20 : b.call.workspace_size;
    CUDA_OK(cuda->allocate(&b.call.workspace, b.call.workspace_size));
    void *products = check_alloc(cuda->products_size());
    cuda_check_prefer(90, 0);
    b.call.products = cuda->products_open(products) ? products : NULL;
    printf("%s, %s cuBLASLt\n", name, b.call.products ? "with" : "without");
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        if (wanted(groups[i].name, argc, argv))
            groups[i].run(&b);
    cuda->products_close(products);
    cuda->release(b.call.workspace);
    free(products);
    printf("bench: %d passed, %d failed, 0 skipped\n", !b.failed && !test_failures, b.failed || test_failures);
    return b.failed || test_failures;
}
