/* SPDX-License-Identifier: MIT */
#include "cuda_check.h"

/* Plain C from the same bf16 values, in double. bf16 keeps 8 bits: a rounding has a relative mean square of 1.1e-6 or so;
 * the outputs are rounded once, and so are the weights before they meet V. Measured: 5.9e-6 at most. */
#define LIMIT_BF16 1e-5
#define LIMIT_F32 1e-11

typedef struct shape {
    int64_t batch, heads, d, tokens, kv;
    int64_t gap; /* values between the heads of a token and the next token */
    int packed, lengths, bias;
    imagine__cuda_type type;
    float scale;
} shape;

typedef struct problem {
    shape s;
    int64_t stride, q_count, kv_count;
    float *q, *k, *v, *bias; /* packed: all in q */
    int64_t lengths[4];
    void *device[5]; /* q, k, v, lengths, bias */
    imagine__attention_args plain;
    imagine__cuda_attention_args args;
} problem;

static void make_tensors(problem *p, check_random *r)
{
    const shape *s = &p->s;
    int64_t width = s->heads * s->d;
    p->stride = width * (s->packed ? 3 : 1) + s->gap;
    p->q_count = (s->batch * s->tokens - 1) * p->stride + width * (s->packed ? 3 : 1);
    p->kv_count = (s->batch * s->kv - 1) * p->stride + width;
    p->q = check_input(r, p->q_count);
    p->k = s->packed ? p->q + width : check_input(r, p->kv_count);
    p->v = s->packed ? p->q + 2 * width : check_input(r, p->kv_count);
    p->bias = s->bias ? check_input(r, s->heads * s->tokens * s->kv) : NULL;
    for (int64_t b = 0; b < s->batch; b++)
        p->lengths[b] = check_between(r, 1, s->kv);
    for (int64_t b = 0; b < s->batch && s->lengths && !s->packed; b++) /* what is behind the length may be anything */
        for (int64_t i = p->lengths[b]; i < s->kv; i++)
            for (int64_t j = 0; j < width; j++)
                p->k[(b * s->kv + i) * p->stride + j] = p->v[(b * s->kv + i) * p->stride + j] = NAN;
    for (int64_t i = 0; i + 1 < s->batch * s->kv && !s->packed; i++) /* and what is between tokens */
        for (int64_t j = width; j < p->stride; j++)
            p->k[i * p->stride + j] = p->v[i * p->stride + j] = NAN;
}

static void make_problem(problem *p, const shape *s, check_random *r)
{
    int64_t width = s->heads * s->d;
    *p = (problem){.s = *s};
    make_tensors(p, r);
    p->plain = (imagine__attention_args){
        .q = p->q, .k = p->k, .v = p->v, .batch = s->batch, .heads = s->heads, .d = s->d, .tokens = s->tokens, .kv = s->kv,
        .q_batch = s->tokens * p->stride, .q_token = p->stride, .k_batch = s->kv * p->stride, .k_token = p->stride,
        .v_batch = s->kv * p->stride, .v_token = p->stride, .y_batch = s->tokens * (width + s->gap),
        .y_token = width + s->gap, .kv_length = s->lengths ? p->lengths : NULL, .bias = p->bias, .scale = s->scale};
}

static void upload_problem(problem *p)
{
    const shape *s = &p->s;
    const imagine__attention_args *a = &p->plain;
    int64_t width = s->heads * s->d;
    p->device[0] = cuda_typed_input(p->q, p->q_count, s->type);
    p->device[1] = s->packed ? NULL : cuda_typed_input(p->k, p->kv_count, s->type);
    p->device[2] = s->packed ? NULL : cuda_typed_input(p->v, p->kv_count, s->type);
    p->device[3] = s->lengths ? cuda_input(p->lengths, (size_t)s->batch * sizeof *p->lengths) : NULL;
    p->device[4] = s->bias ? cuda_input(p->bias, (size_t)(s->heads * s->tokens * s->kv) * sizeof(float)) : NULL;
    size_t step = (size_t)width * cuda_size(s->type);
    p->args = (imagine__cuda_attention_args){
        .q = p->device[0], .k = s->packed ? (char *)p->device[0] + step : p->device[1],
        .v = s->packed ? (char *)p->device[0] + 2 * step : p->device[2], .batch = s->batch, .heads = s->heads, .d = s->d,
        .tokens = s->tokens, .kv = s->kv, .q_batch = a->q_batch, .q_token = a->q_token, .k_batch = a->k_batch,
        .k_token = a->k_token, .v_batch = a->v_batch, .v_token = a->v_token, .y_batch = a->y_batch, .y_token = a->y_token,
        .kv_length = p->device[3], .bias = p->device[4], .scale = s->scale, .type = s->type};
}

static void free_problem(problem *p)
{
    for (int i = 0; i < 5; i++)
        cuda->release(p->device[i]);
    free(p->q);
    if (!p->s.packed) {
        free(p->k);
        free(p->v);
    }
    free(p->bias);
}

static const imagine__cuda_call exact = {.precision = IMAGINE__CUDA_F32};

/* As the stages have it where tensors are f32 or a workspace is there. */
static int attend(const problem *p, const imagine__cuda_call *call)
{
    imagine__attention_args a = p->plain;
    if (p->s.type != IMAGINE__W_F32 && !call->workspace)
        return cuda->attention(&p->args, call->stream);
    a.type = p->s.type;
    a.q = p->args.q, a.k = p->args.k, a.v = p->args.v, a.y = p->args.y;
    a.kv_length = p->args.kv_length, a.bias = p->args.bias;
    a.kv_blocks = p->args.kv_blocks, a.kv_block = p->args.kv_block, a.blocks_batch = p->args.blocks_batch;
    a.k_block = p->args.k_block, a.v_block = p->args.v_block;
    return cuda->attend(&a, call);
}

/* Runs both and compares. */
static void compare_uploaded(problem *p, const imagine__cuda_call *call, double limit)
{
    const shape *s = &p->s;
    check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
    int64_t rows = s->batch * s->tokens, width = s->heads * s->d, stride = width + s->gap, n = rows * stride;
    p->plain.y = check_output_floats(n);
    imagine__kernels_plain.attention(&c.run, &p->plain);
    p->args.y = cuda_output((size_t)n * cuda_size(s->type));
    CUDA_OK(attend(p, call));
    float *y = cuda_fetch_rows(p->args.y, s->type, rows, width, stride, n);
    int same = cuda_same(y, p->plain.y, rows, width, stride, s->type, limit);
    CHECK(same);
    if (!same)
        fprintf(stderr, "    batch %d heads %d d %d tokens %d kv %d gap %d packed %d lengths %d bias %d type %d\n", (int)s->batch,
                (int)s->heads, (int)s->d, (int)s->tokens, (int)s->kv, (int)s->gap, s->packed, s->lengths, s->bias,
                (int)s->type);
    free(y);
    check_free(p->plain.y);
}

static void compare_call(problem *p, const imagine__cuda_call *call, double limit)
{
    upload_problem(p); /* before plain C: it rounds the inputs */
    compare_uploaded(p, call, limit);
}

static void compare(problem *p, double limit)
{
    compare_call(p, &exact, limit);
}

static void run_shape(const shape *s, check_random *r)
{
    problem p;
    make_problem(&p, s, r);
    compare(&p, s->type == IMAGINE__W_F32 ? LIMIT_F32 : LIMIT_BF16);
    free_problem(&p);
}

/* ---- the kernels for tensor cores -------------------------------------------------------------------------------- */

static void random_shapes(int capability, const int64_t *sizes, int size_count, int64_t longest, int count)
{
    check_random r = {(uint64_t)capability};
    for (int i = 0; i < count; i++) {
        cuda_check_prefer(capability, (uint32_t)i);
        shape s = {check_between(&r, 1, 2), check_between(&r, 1, 2), sizes[i % size_count], 0, 0,
                   8 * check_between(&r, 0, 2), 0, i >> 1 & 1, 0, IMAGINE__W_BF16, 0};
        s.tokens = check_between(&r, 1, longest);
        s.kv = check_between(&r, 1, longest);
        s.scale = i % 5 ? 1 / sqrtf((float)s.d) : 0.7f;
        if (i % 7 == 6) {
            s.packed = 1;
            s.kv = s.tokens;
        }
        run_shape(&s, &r);
    }
}

/* Lengths around the tiles' sizes. */
static void edges(int capability, const int64_t *sizes, int size_count)
{
    static const int64_t lengths[] = {1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 175, 176, 177, 191, 192, 193, 353};
    const int count = (int)(sizeof lengths / sizeof *lengths);
    check_random r = {7};
    for (int i = 0; i < count; i++)
        for (int j = 0; j < size_count; j++) {
            cuda_check_prefer(capability, (uint32_t)(i + j));
            shape s = {1, 1, sizes[j], lengths[i], lengths[(5 * i + 3 * j) % count], 0, 0, 0, 0, IMAGINE__W_BF16,
                       1 / sqrtf((float)sizes[j])};
            run_shape(&s, &r);
        }
}

/* Enough tiles that every buffer is used several times, in several orders. */
static void long_shapes(int capability, const int64_t *sizes, int size_count)
{
    check_random r = {9};
    for (int i = 0; i < 3 * size_count; i++) {
        cuda_check_prefer(capability, (uint32_t)i);
        shape s = {1, 1, sizes[i % size_count], 130, 1400 + i, 0, 0, i & 1, 0, IMAGINE__W_BF16, 0.1f};
        run_shape(&s, &r);
    }
}

/* Infinities and NaNs come out where plain C has them. */
static void special_values(int capability, int64_t d, imagine__wtype type)
{
    check_random r = {3};
    for (int kind = 0; kind < 6; kind++) {
        cuda_check_prefer(capability, 0);
        shape s = {1, 1, d, 70, 150, 0, 0, 0, 0, type, 0.1f};
        problem p;
        make_problem(&p, &s, &r);
        if (kind == 0)
            p.q[5 * d + 3] = NAN; /* row 5 */
        else if (kind == 1)
            p.k[140 * d] = NAN; /* every row */
        else if (kind == 2)
            p.v[20 * d + 7] = NAN; /* column 7 */
        else if (kind == 3)
            p.v[149 * d + 7] = INFINITY;
        else if (kind == 4)
            for (int64_t i = 0; i < 70 * d; i++)
                p.q[i] *= 300; /* one key takes all */
        else
            for (int64_t j = 0; j < 149; j++) { /* all scores but the last are -infinity */
                memset(p.k + j * d, 0, (size_t)d * sizeof *p.k);
                p.k[j * d] = -INFINITY;
            }
        for (int64_t i = 0; kind == 5 && i < 70; i++)
            p.q[i * d] = 1;
        const double limits[] = {LIMIT_F32, LIMIT_BF16, 1e-9, 4e-5}; /* a tie of two keys shows the rounding of a score or weight */
        compare(&p, limits[(type == IMAGINE__W_BF16) + 2 * (kind == 4)]);
        free_problem(&p);
    }
}

static const int64_t ampere_sizes[] = {64, 80, 96, 128};

static void ampere_shapes(void)
{
    random_shapes(80, ampere_sizes, 4, 330, 24);
    cuda_report("attention, sm_80");
}

static void ampere_edges(void)
{
    edges(80, ampere_sizes, 4);
    cuda_report("attention, sm_80, edges");
}

static void ampere_long(void)
{
    long_shapes(80, ampere_sizes, 4);
    cuda_report("attention, sm_80, long");
}

static void ampere_special_values(void)
{
    special_values(80, 64, IMAGINE__W_BF16);
    special_values(80, 128, IMAGINE__W_BF16);
}

static const int64_t hopper_sizes[] = {64, 128};

static void hopper_shapes(void)
{
    random_shapes(90, hopper_sizes, 2, 600, 16);
    cuda_report("attention, sm_90a");
}

static void hopper_edges(void)
{
    edges(90, hopper_sizes, 2);
    cuda_report("attention, sm_90a, edges");
}

static void hopper_long(void)
{
    long_shapes(90, hopper_sizes, 2);
    cuda_report("attention, sm_90a, long");
}

/* More strips of queries than the emulator has multiprocessors, with last tiles of every kind: whole, short, nearly whole, the only one. */
static void hopper_strips(void)
{
    static const int64_t keys[] = {40, 176, 128, 177, 193, 272, 273, 384, 352, 449};
    check_random r = {11};
    for (int i = 0; i < 20; i++) {
        cuda_check_prefer(90, (uint32_t)i);
        shape s = {2, 3, hopper_sizes[i % 2], 200, keys[i / 2], 8, 0, i % 3 == 2, 0, IMAGINE__W_BF16, 0.1f};
        run_shape(&s, &r);
    }
    for (int i = 0; i < 4 && cuda_check_products() < 0; i++) { /* a GPU has 132 or so: 400 strips */
        shape s = {2, i % 2 ? 67 : 100, hopper_sizes[i % 2], 257, i < 2 ? 177 : 353, 0, 0, i >= 2, 0, IMAGINE__W_BF16, 0.1f};
        run_shape(&s, &r);
    }
    cuda_report("attention, sm_90a, strips");
}

static void hopper_special_values(void)
{
    special_values(90, 64, IMAGINE__W_BF16);
    special_values(90, 128, IMAGINE__W_BF16);
}

/* Two clips with the same keys and values, read with a stride of 0. */
static void shared_keys(void)
{
    check_random r = {5};
    for (int i = 0; i < 4; i++) {
        cuda_check_prefer(i / 2 ? 90 : 80, 0);
        shape s = {2, 1, i % 2 ? 64 : 128, 40, 100, 0, 0, 0, 0, IMAGINE__W_BF16, 0.1f};
        problem p;
        make_problem(&p, &s, &r);
        p.plain.k_batch = p.plain.v_batch = 0;
        compare(&p, LIMIT_BF16);
        free_problem(&p);
    }
}

/* Many tiles of the same large score, the values of which are 1 in the first half and 0 in the second: a weight that changes from tile
 * to tile shows. */
static void large_scores(void)
{
    check_random r = {31};
    for (int i = 0; i < 12; i++) {
        const int64_t d = i % 2 ? 64 : 128;
        cuda_check_prefer(i / 2 % 2 ? 90 : 80, 0);
        shape s = {1, 1, d, 3, 4096, 0, 0, 0, 0, IMAGINE__W_BF16, (1 + 0.37f * (float)(i / 4)) / sqrtf((float)d)};
        problem p;
        make_problem(&p, &s, &r);
        memset(p.q, 0, (size_t)(s.tokens * d) * sizeof *p.q);
        memset(p.k, 0, (size_t)(s.kv * d) * sizeof *p.k);
        for (int64_t j = 0; j < s.tokens; j++)
            p.q[j * d] = (float)(900 + 10 * j);
        for (int64_t j = 0; j < s.kv; j++)
            p.k[j * d] = 990; /* scaled, the scores are from 8e4 to 2e5 */
        for (int64_t j = 0; j < s.kv * d; j++)
            p.v[j] = j < s.kv * d / 2;
        compare(&p, 4e-5); /* all weights may be rounded up, or down */
        free_problem(&p);
    }
    cuda_report("attention, large scores");
}

/* A clip without a key beside one with some: NaN, as plain C has it. */
static void no_keys(void)
{
    check_random r = {32};
    for (int i = 0; i < 8; i++) {
        const int tensor_cores = i < 6;
        cuda_check_prefer(i / 2 % 2 ? 90 : 80, (uint32_t)i);
        shape s = {2, 1, i % 2 ? 64 : 128, 70, 200, 0, 0, 1, !tensor_cores, IMAGINE__W_BF16, 0.1f};
        problem p;
        make_problem(&p, &s, &r);
        p.lengths[i / 4 % 2] = 0;
        compare(&p, LIMIT_BF16);
        free_problem(&p);
    }
    cuda_report("attention, no keys");
}

/* ---- the plain kernel -------------------------------------------------------------------------------------------- */

static void plain_shapes(void)
{
    check_random r = {11};
    cuda_check_prefer(80, 0);
    for (int i = 0; i < 40; i++) {
        shape s = {check_between(&r, 1, 2), check_between(&r, 1, 3), check_between(&r, 1, 40), check_between(&r, 1, 20),
                   check_between(&r, 1, 80), check_between(&r, 0, 3), 0, i & 1, i >> 1 & 1, (i >> 2 & 1), 0.3f};
        if (i % 10 == 9)
            s.d = 300; /* more than one slice */
        if (i % 10 == 8) {
            s.d = 64; /* what the tensor cores would take but for one thing */
            s.gap = i % 20 == 8 ? 4 : 8;
            s.bias = i % 20 != 8;
            s.type = IMAGINE__W_BF16;
        }
        run_shape(&s, &r);
    }
    cuda_report("attention, plain");
}

/* ---- a list of blocks of keys ------------------------------------------------------------------------------------ */

/* The rows of k or v that count, in blocks in an order of their own among blocks that nobody uses; all else is NaN. */
static void *scatter(const problem *p, const float *rows, const int32_t *table, int64_t size, int64_t block, int64_t count)
{
    const shape *s = &p->s;
    int64_t per = (s->kv + size - 1) / size, width = s->heads * s->d;
    float *pool = check_alloc((size_t)(count * block) * sizeof *pool);
    for (int64_t i = 0; i < count * block; i++)
        pool[i] = NAN;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t j = 0; j < (s->lengths ? p->lengths[b] : s->kv); j++)
            memcpy(pool + table[b * (per + 1) + j / size] * block + j % size * p->stride,
                   rows + (b * s->kv + j) * p->stride, (size_t)width * sizeof *pool);
    void *memory = cuda_typed_input(pool, count * block, s->type);
    free(pool);
    return memory;
}

/* Keys and values of a problem that is uploaded go over to blocks of `size` tokens. Returns the table on the device. */
static void *use_blocks(problem *p, check_random *r, int64_t size)
{
    const shape *s = &p->s;
    int64_t per = (s->kv + size - 1) / size, count = s->batch * per + 2, block = size * p->stride + 8;
    int32_t *order = check_alloc((size_t)count * sizeof *order);
    int32_t *table = check_alloc((size_t)(s->batch * (per + 1)) * sizeof *table);
    for (int32_t i = 0; i < count; i++) {
        int32_t j = (int32_t)check_between(r, 0, i);
        order[i] = order[j];
        order[j] = i;
    }
    for (int64_t i = 0; i < s->batch * (per + 1); i++)
        table[i] = 1 << 28; /* not to be looked at */
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t i = 0; i * size < (s->lengths ? p->lengths[b] : s->kv); i++)
            table[b * (per + 1) + i] = order[b * per + i];
    cuda->release(p->device[1]);
    cuda->release(p->device[2]);
    p->args.k = p->device[1] = scatter(p, p->k, table, size, block, count);
    p->args.v = p->device[2] = scatter(p, p->v, table, size, block + 16, count);
    p->args.k_batch = p->args.v_batch = -1; /* do not count */
    p->args.kv_block = size;
    p->args.blocks_batch = per + 1;
    p->args.k_block = block;
    p->args.v_block = block + 16;
    void *device = cuda_input(table, (size_t)(s->batch * (per + 1)) * sizeof *table);
    p->args.kv_blocks = device;
    free(table);
    free(order);
    return device;
}

static void run_blocks(const shape *s, int64_t size, const imagine__cuda_call *call, check_random *r)
{
    problem p;
    make_problem(&p, s, r);
    upload_problem(&p);
    void *table = use_blocks(&p, r, size);
    compare_uploaded(&p, call, s->type == IMAGINE__W_F32 ? LIMIT_F32 : LIMIT_BF16);
    cuda->release(table);
    free_problem(&p);
}

/* On tensor cores: blocks of one tile and more, the last one partly filled, a length for each clip. */
static void ampere_blocks(void)
{
    check_random r = {21};
    for (int i = 0; i < 16; i++) {
        cuda_check_prefer(i % 4 == 3 ? 90 : 80, (uint32_t)i);
        shape s = {check_between(&r, 1, 3), check_between(&r, 1, 2), ampere_sizes[i / 2 % 4], check_between(&r, 1, 200),
                   check_between(&r, 1, 420), 8 * check_between(&r, 0, 2), 0, i % 3 != 0, 0, IMAGINE__W_BF16, 0.1f};
        run_blocks(&s, 64 * check_between(&r, 1, 3), &exact, &r);
    }
    cuda_report("attention, sm_80, blocks");
}

/* By the plain kernel: blocks of any size, both types, also where a workspace is there. */
static void plain_blocks(void)
{
    check_random r = {22};
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 20);
    cuda_check_prefer(80, 1);
    for (int i = 0; i < 24; i++) {
        shape s = {check_between(&r, 1, 3), check_between(&r, 1, 2), check_between(&r, 1, 70), check_between(&r, 1, 20),
                   check_between(&r, 1, 90), check_between(&r, 0, 3), 0, i & 1, i >> 1 & 1, i >> 2 & 1, 0.3f};
        int64_t size = check_between(&r, 1, 40);
        if (i % 6 == 5) { /* for the tensor cores but for the size of the blocks */
            s.d = 64, s.gap = 8, s.bias = 0, s.type = IMAGINE__W_BF16;
            size = 96;
        }
        run_blocks(&s, size, i % 3 ? &exact : &call, &r);
    }
    cuda_report("attention, plain, blocks");
    cuda->release(call.workspace);
}

/* ---- f32 tensors ------------------------------------------------------------------------------------------------- */

/* By the kernel for them, without a workspace: heads of every size, clips of any length, biases, several blocks of queries. */
static void f32_tiles(void)
{
    check_random r = {41};
    for (int i = 0; i < 30; i++) {
        shape s = {check_between(&r, 1, 2), check_between(&r, 1, 3), i % 5 ? 4 * check_between(&r, 1, 32) : i % 2 ? 64 : 128,
                   check_between(&r, 9, i % 3 ? 70 : 200), check_between(&r, 24, 150), 4 * check_between(&r, 0, 2), i % 7 == 6, i & 1,
                   i >> 1 & 1, IMAGINE__W_F32, 0.2f};
        s.kv = s.tokens * s.kv < 4096 ? (4095 + s.tokens) / s.tokens : s.kv;
        s.tokens = s.packed && s.tokens < 64 ? 64 : s.tokens;
        s.kv = s.packed ? s.tokens : s.kv;
        cuda_check_prefer(80, (uint32_t)i);
        run_shape(&s, &r);
    }
    cuda_report("attention, f32");
}

/* Lengths around the tiles' sizes. */
static void f32_edges(void)
{
    static const int64_t tokens[] = {63, 64, 65, 129}, keys[] = {127, 128, 129, 66, 159, 160, 161, 191, 193, 95, 96, 97};
    check_random r = {42};
    for (int i = 0; i < 24; i++) {
        shape s = {1, 1, i % 2 ? 128 : 64, tokens[i % 4], keys[i / 2], 0, 0, 0, 0, IMAGINE__W_F32, 0.1f};
        run_shape(&s, &r);
    }
    cuda_report("attention, f32, edges");
}

/* Infinities and NaNs come out where plain C has them; a clip without a key; scores beyond what bf16's kernels bear. */
static void f32_special_values(void)
{
    check_random r = {43};
    special_values(80, 64, IMAGINE__W_F32);
    special_values(80, 128, IMAGINE__W_F32);
    for (int i = 0; i < 4; i++) {
        shape s = {2, 1, i % 2 ? 64 : 128, 70, 200, 0, 0, 1, 0, IMAGINE__W_F32, i / 2 ? 1e12f : 0.1f};
        problem p;
        make_problem(&p, &s, &r);
        p.lengths[i % 2] = i / 2 ? p.lengths[i % 2] : 0;
        compare(&p, LIMIT_F32);
        free_problem(&p);
    }
    cuda_report("attention, f32, special values");
}

/* Sums over many keys keep their precision. */
static void f32_long(void)
{
    check_random r = {44};
    shape s = {1, 1, 64, 9, 9000, 0, 0, 0, 0, IMAGINE__W_F32, 0.01f};
    run_shape(&s, &r);
    cuda_report("attention, f32, many keys");
}

/* ---- f32 tensors with a workspace -------------------------------------------------------------------------------- */

/* As two products: every key counts, with lengths, bias, many values a head, and room for a few rows at a time. */
static void f32_products(void)
{
    check_random r = {12};
    imagine__cuda_call call = cuda_call(IMAGINE__CUDA_F32, (size_t)1 << 20);
    cuda_check_prefer(80, 3);
    for (int i = 0; i < 16; i++) {
        shape s = {check_between(&r, 1, 2), check_between(&r, 1, 2), check_between(&r, 1, i % 4 ? 40 : 300),
                   check_between(&r, 64, 90), check_between(&r, 64, 150), check_between(&r, 0, 3), i % 8 == 7, i & 1,
                   i >> 1 & 1, IMAGINE__W_F32, 0.3f};
        if (s.packed)
            s.kv = s.tokens;
        problem p;
        make_problem(&p, &s, &r);
        imagine__cuda_call little = call;
        little.workspace_size = i % 3 ? call.workspace_size : (size_t)(s.d + 21) * 160 * 4;
        if (i == 5)
            p.lengths[0] = 0; /* NaN */
        compare_call(&p, &little, LIMIT_F32);
        free_problem(&p);
    }
    cuda_report("attention, f32 products");
    cuda->release(call.workspace);
}

/* Of few queries, whose products have a kernel of their own: heads and strides that suit it, and that do not. */
static void f32_few(void)
{
    check_random r = {15};
    imagine__cuda_call call = cuda_call(IMAGINE__CUDA_F32, (size_t)1 << 20);
    for (int i = 0; i < 10; i++) {
        int64_t tokens = check_between(&r, 1, 8), d = 32 + i % 7;
        shape s = {1, 1, d, tokens, (4096 + tokens - 1) / tokens, (8 - d % 8) % 8, 0, i & 1, i >> 1 & 1, IMAGINE__W_F32, 0.3f};
        problem p;
        make_problem(&p, &s, &r);
        compare_call(&p, &call, LIMIT_F32);
        free_problem(&p);
    }
    cuda_report("attention, f32, few queries");
    cuda->release(call.workspace);
}

/* Rounded to bf16, on the tensor cores: plain C from the same rounded values, the weights' and the output's rounding as for
 * bf16 tensors. Also padded head sizes, and room for one head at a time. */
static void f32_rounded(void)
{
    check_random r = {13};
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 21);
    for (int i = 0; i < 12; i++) {
        shape s = {check_between(&r, 1, 2), check_between(&r, 1, 3), i % 2 ? 64 : check_between(&r, 1, 128),
                   check_between(&r, 1, 140), check_between(&r, 1, 150), check_between(&r, 0, 9), 0, i & 1, 0,
                   IMAGINE__W_F32, 0.1f};
        problem p;
        make_problem(&p, &s, &r);
        imagine__cuda_call little = call;
        little.workspace_size = i % 3 ? call.workspace_size : (size_t)(s.tokens + s.kv) * 128 * 4 + 1024;
        cuda_check_prefer(i % 4 == 3 ? 90 : 80, (uint32_t)i);
        upload_problem(&p); /* as they are; what plain C gets is rounded */
        cuda_round(p.q, p.q_count);
        cuda_round(p.k, p.kv_count);
        cuda_round(p.v, p.kv_count);
        compare_uploaded(&p, &little, LIMIT_BF16);
        free_problem(&p);
    }
    cuda_report("attention, f32 rounded");
    cuda->release(call.workspace);
}

/* Heads too large for the kernels for tensor cores, as the VAE's middle has one: two products there, of everything rounded but the
 * scores. Room for a tile of rows, for all, for the operands alone, for nothing; a clip without a key. */
static void large_heads(void)
{
    check_random r = {14};
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 21);
    for (int i = 0; i < 12; i++) {
        shape s = {check_between(&r, 1, 2), check_between(&r, 1, 2), i % 3 ? check_between(&r, 129, 200) : 384,
                   check_between(&r, 40, i % 4 ? 90 : 300), check_between(&r, 100, 150), check_between(&r, 0, 5), i % 7 == 6, i & 1,
                   i >> 1 & 1, i % 5 > 1 ? IMAGINE__W_F32 : IMAGINE__W_BF16, 0.1f};
        s.kv = s.packed ? s.tokens : s.kv;
        problem p;
        make_problem(&p, &s, &r);
        imagine__cuda_call little = call;
        size_t operands = (size_t)((s.tokens + s.kv) * (s.d + 7) * 2 + s.d * (s.kv + 7) * 2) + 2048;
        if (i % 4 == 0) /* rows of scores and weights for 128 and a few more */
            little.workspace_size = operands + (size_t)(140 * 6 * (s.kv + 7));
        else if (i % 4 == 2)
            little.workspace_size = i == 2 ? operands : i == 6 ? operands + 4096 : 2048;
        if (i == 5)
            p.lengths[s.batch - 1] = 0;
        cuda_check_prefer(i % 2 ? 90 : 80, (uint32_t)i);
        upload_problem(&p);
        const int as_given = i % 4 == 2 && s.type == IMAGINE__W_F32; /* without room nothing is rounded */
        cuda_round(as_given ? NULL : p.q, p.q_count);
        cuda_round(as_given || s.packed ? NULL : p.k, p.kv_count);
        cuda_round(as_given || s.packed ? NULL : p.v, p.kv_count);
        compare_uploaded(&p, &little, as_given ? LIMIT_F32 : LIMIT_BF16);
        free_problem(&p);
    }
    cuda_report("attention, large heads");
    cuda->release(call.workspace);
}

/* bf16 tensors as the stages have them: as they are where they suit the tensor cores, as parts of one packed tensor and not, copied
 * to padded heads where they do not, head by head in f32 where there is a bias, as products where d is larger, by the plain kernel where
 * there is no room or little to do. */
static void bf16_tensors(void)
{
    check_random r = {24};
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 21);
    for (int i = 0; i < 24; i++) {
        static const int64_t sizes[] = {128, 64, 30, 96, 100, 140};
        shape s = {check_between(&r, 1, 2), check_between(&r, 1, 3), sizes[i % 6], check_between(&r, 1, 90),
                   check_between(&r, 1, 150), i % 5 ? 8 * check_between(&r, 0, 1) : check_between(&r, 1, 7), i % 4 == 3, i / 2 % 2,
                   i % 8 == 4, IMAGINE__W_BF16, 0.1f};
        s.kv = s.packed ? s.tokens : s.kv;
        problem p;
        make_problem(&p, &s, &r);
        imagine__cuda_call little = call;
        little.workspace_size = i % 3 ? call.workspace_size : i % 2 ? (size_t)(s.tokens + s.kv) * 128 * 4 + 1024 : 64;
        cuda_check_prefer(i % 2 ? 90 : 80, (uint32_t)i);
        compare_call(&p, &little, LIMIT_BF16);
        free_problem(&p);
    }
    cuda_report("attention, bf16 tensors");
    cuda->release(call.workspace);
}

static void nothing(void)
{
    imagine__cuda_attention_args a = {.batch = 1, .heads = 1, .d = 64, .tokens = 0, .kv = 5, .type = IMAGINE__W_BF16};
    CUDA_OK(cuda->attention(&a, NULL));
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"sm_80 shapes", ampere_shapes}, {"sm_80 edges", ampere_edges}, {"sm_80 long", ampere_long},
        {"sm_80 special values", ampere_special_values},
        {"sm_90a shapes", hopper_shapes}, {"sm_90a edges", hopper_edges},
        {"sm_90a long", hopper_long}, {"sm_90a strips", hopper_strips}, {"sm_90a special values", hopper_special_values},
        {"shared keys", shared_keys}, {"large scores", large_scores}, {"no keys", no_keys}, {"plain shapes", plain_shapes}, {"sm_80 blocks", ampere_blocks},
        {"plain blocks", plain_blocks},
        {"f32 tiles", f32_tiles}, {"f32 edges", f32_edges}, {"f32 special values", f32_special_values}, {"f32 long", f32_long},
        {"f32 products", f32_products}, {"f32 few", f32_few}, {"f32 rounded", f32_rounded}, {"large heads", large_heads}, {"bf16 tensors", bf16_tensors}, {"nothing", nothing},
    };
    return cuda_check_main("cuda/attention", cases, sizeof cases / sizeof *cases, argc, argv);
}
