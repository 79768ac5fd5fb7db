/* SPDX-License-Identifier: MIT */
#include "cuda_check.h"

/* f32 sums against plain C in double; measured 1.5e-14. bf16 outputs are rounded once: measured 4.2e-6. */
#define LIMIT_F32 1e-13
#define LIMIT_BF16 6e-6

static double limit_for(imagine__cuda_type type)
{
    return type == IMAGINE__W_BF16 ? LIMIT_BF16 : LIMIT_F32;
}

/* ---- norm, with a residual before and a border after -------------------------------------------------------------- */

typedef struct norm_problem {
    int64_t rows, dim, ldx, ldy, ld_delta, groups, ld_mod;
    float *x, *delta, *weight, *bias, *mod; /* mod: scale, shift, gate */
    void *device[6];
    imagine__cuda_norm_args args;
} norm_problem;

static int64_t extent(int64_t rows, int64_t dim, int64_t stride)
{
    return (rows - 1) * stride + dim;
}

static norm_problem make_norm(check_random *r, int i)
{
    norm_problem p = {.rows = check_between(r, 1, 40), .dim = check_between(r, 1, i % 4 == 3 ? 2600 : 300)};
    if (i % 3 == 0)
        p.dim = (p.dim + 3) / 4 * 4; /* whole vectors */
    int64_t gap = i % 3 == 0 ? 4 * check_between(r, 0, 1) : check_between(r, 0, 3);
    p.ldx = p.dim + gap;
    p.ldy = p.dim + (i & 1) * gap;
    p.ld_delta = p.dim;
    int64_t group = check_between(r, 1, p.rows);
    p.groups = (p.rows + group - 1) / group;
    p.ld_mod = 3 * p.dim;
    p.x = check_input(r, extent(p.rows, p.dim, p.ldx));
    p.delta = check_input(r, extent(p.rows, p.dim, p.ld_delta));
    p.weight = check_input(r, p.dim);
    p.bias = check_input(r, p.dim);
    p.mod = check_input(r, p.groups * p.ld_mod);
    p.args = (imagine__cuda_norm_args){
        .rows = p.rows, .dim = p.dim, .ldx = p.ldx, .ldy = p.ldy, .ld_delta = p.ld_delta, .x_type = i / 2 % 3 == 2,
        .y_type = i / 3 % 2, .delta_type = i / 5 % 2, .kind = i % 3, .act = i % 5 == 4 ? IMAGINE__ACT_SILU : 0,
        .eps = i % 3 == IMAGINE__NORM_L2 ? 1e-12f : 1e-6f, .group = group, .ld_mod = p.ld_mod};
    return p;
}

static void upload_norm(norm_problem *p, int i)
{
    imagine__cuda_norm_args *a = &p->args;
    a->delta = p->device[1] = i % 3 ? cuda_typed_input(p->delta, extent(p->rows, p->dim, p->ld_delta), a->delta_type) : NULL;
    a->weight = p->device[2] = i % 4 ? cuda_input(p->weight, (size_t)p->dim * 4) : NULL;
    a->bias = p->device[3] = i % 4 > 1 && a->kind != IMAGINE__NORM_RMS ? cuda_input(p->bias, (size_t)p->dim * 4) : NULL;
    float *mod = p->device[4] = cuda_input(p->mod, (size_t)(p->groups * p->ld_mod) * 4);
    a->x_bias = i % 7 == 3 ? p->device[5] = cuda_input(p->bias, (size_t)p->dim * 4) : NULL;
    a->scale = i & 4 ? mod : NULL;
    a->shift = i & 4 ? mod + p->dim : NULL;
    a->gate = i & 8 ? mod + 2 * p->dim : NULL;
    if (!a->weight && a->kind != IMAGINE__NORM_LAYER)
        a->weight = p->device[2] = cuda_input(p->weight, (size_t)p->dim * 4);
}

/* What plain C makes of it: x is changed, y [rows, dim] dense. */
static float *plain_norm(norm_problem *p)
{
    const imagine__cuda_norm_args *a = &p->args;
    check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
    for (int64_t row = 0; a->delta && row < p->rows; row++)
        for (int64_t j = 0; j < p->dim; j++) {
            float gate = a->gate ? p->mod[row / a->group * p->ld_mod + 2 * p->dim + j] : 1;
            float *x = &p->x[row * p->ldx + j];
            *x += gate * p->delta[row * p->ld_delta + j];
            if (a->x_type == IMAGINE__W_BF16) {
                uint16_t half = cuda_bf16(*x);
                *x = cuda_value(&half, IMAGINE__W_BF16, 0);
            }
        }
    float *y = check_alloc((size_t)(p->rows * p->dim) * sizeof *y), *x = check_alloc((size_t)extent(p->rows, p->dim, p->ldx) * sizeof *x);
    for (int64_t i = 0; i < extent(p->rows, p->dim, p->ldx); i++)
        x[i] = p->x[i] + (a->x_bias && i % p->ldx < p->dim ? p->bias[i % p->ldx] : 0);
    imagine__norm_args plain = {.x = x, .y = y, .rows = p->rows, .dim = p->dim, .ldx = p->ldx, .ldy = p->dim,
                                .kind = a->kind, .act = a->act, .eps = a->eps, .weight = a->weight ? p->weight : NULL,
                                .bias = a->bias ? p->bias : NULL, .scale = a->scale ? p->mod : NULL,
                                .shift = a->shift ? p->mod + p->dim : NULL, .group = a->group, .ld_mod = p->ld_mod};
    imagine__kernels_plain.norm(&c.run, &plain);
    free(x);
    return y;
}

static void free_norm(norm_problem *p)
{
    for (int i = 0; i < 6; i++)
        cuda->release(p->device[i]);
    free(p->x);
    free(p->delta);
    free(p->weight);
    free(p->bias);
    free(p->mod);
}

static void norms(void)
{
    check_random r = {1};
    for (int i = 0; i < 240; i++) {
        cuda_check_prefer(80, (uint32_t)i);
        norm_problem p = make_norm(&r, i);
        imagine__cuda_norm_args *a = &p.args;
        int64_t nx = extent(p.rows, p.dim, p.ldx), ny = extent(p.rows, p.dim, p.ldy);
        if (i % 30 == 11)
            p.x[p.dim / 2] = NAN; /* row 0 alone */
        a->x = p.device[0] = cuda_typed_input(p.x, nx, a->x_type);
        a->y = cuda_output((size_t)ny * cuda_size(a->y_type));
        upload_norm(&p, i);
        CUDA_OK(cuda->norm(a, NULL));
        float *expected = plain_norm(&p), *y = cuda_fetch_rows(a->y, a->y_type, p.rows, p.dim, p.ldy, ny);
        for (int64_t row = 0; row < p.rows; row++) /* as dense rows */
            memmove(y + row * p.dim, y + row * p.ldy, (size_t)p.dim * sizeof *y);
        CHECK(cuda_same(y, expected, p.rows, p.dim, p.dim, a->y_type, limit_for(a->y_type)));
        unsigned char *x = check_alloc((size_t)nx * 4);
        CUDA_OK(cuda->download(x, a->x, (size_t)nx * cuda_size(a->x_type), NULL));
        for (int64_t j = 0; j < nx; j++) {
            float value = cuda_value(x, a->x_type, j), scale = a->x_type == IMAGINE__W_BF16 ? 8e-3f : 1e-6f;
            CHECK(isnan(value) ? isnan(p.x[j]) : fabsf(value - p.x[j]) <= scale * (1 + fabsf(p.x[j])));
        }
        free(x);
        free(y);
        free(expected);
        free_norm(&p);
    }
    cuda_report("norm");
}

/* Short rows with nothing but a weight and a bias, of which a warp has several: a row that is not finite stays by itself. */
static void short_rows(void)
{
    static const int64_t dims[] = {4, 96, 100, 128, 192, 260, 384, 512, 1024};
    check_random r = {5};
    for (int i = 0; i < 72; i++) {
        int64_t dim = dims[i % 9], rows = check_between(&r, 1, 40), ldx = dim + 4 * (i % 4 == 1), ldy = dim + 4 * (i % 4 == 2);
        int64_t nx = extent(rows, dim, ldx), ny = extent(rows, dim, ldy);
        float *x = check_input(&r, nx), *weight = check_input(&r, dim), *bias = check_input(&r, dim);
        float *plain = check_alloc((size_t)ny * 4);
        if (i % 5 == 4)
            x[rows / 2 * ldx + dim - 1] = i % 2 ? NAN : INFINITY;
        imagine__cuda_norm_args a = {
            .rows = rows, .dim = dim, .ldx = ldx, .ldy = ldy, .x_type = i / 9 % 2, .y_type = i / 2 % 2, .group = 1,
            .kind = i % 2 ? IMAGINE__NORM_L2 : IMAGINE__NORM_RMS, .act = i % 3 ? IMAGINE__ACT_SILU : IMAGINE__ACT_NONE,
            .eps = i % 2 ? 1e-12f : 1e-6f};
        cuda_check_prefer(80, (uint32_t)i);
        a.x = cuda_typed_input(x, nx, a.x_type);
        a.y = cuda_output((size_t)ny * cuda_size(a.y_type));
        a.weight = cuda_input(weight, (size_t)dim * 4);
        a.bias = i % 2 && i % 4 == 1 ? cuda_input(bias, (size_t)dim * 4) : NULL;
        a.x_bias = i % 7 < 3 ? cuda_input(weight, (size_t)dim * 4) : NULL;
        CUDA_OK(cuda->norm(&a, NULL));
        for (int64_t j = 0; j < nx && a.x_bias; j++)
            x[j] += j % ldx < dim ? weight[j % ldx] : 0;
        check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
        imagine__norm_args p = {.x = x, .y = plain, .rows = rows, .dim = dim, .ldx = ldx, .ldy = ldy, .kind = a.kind, .act = a.act,
                                .eps = a.eps, .weight = weight, .bias = a.bias ? bias : NULL, .group = 1};
        imagine__kernels_plain.norm(&c.run, &p);
        float *y = cuda_fetch_rows(a.y, a.y_type, rows, dim, ldy, ny);
        CHECK(cuda_same(y, plain, rows, dim, ldy, a.y_type, limit_for(a.y_type)));
        cuda->release(a.x);
        cuda->release((void *)(uintptr_t)a.weight);
        cuda->release((void *)(uintptr_t)a.bias);
        cuda->release((void *)(uintptr_t)a.x_bias);
        free(y);
        free(plain);
        free(bias);
        free(weight);
        free(x);
    }
    cuda_report("norm, short rows");
}

/* The VAE's: the pixels of frames, with a border of zeros, and SiLU. */
static void borders(void)
{
    check_random r = {2};
    cuda_check_prefer(80, 0);
    for (int i = 0; i < 30; i++) {
        int64_t height = check_between(&r, 1, 6), width = check_between(&r, 1, 6), frames = check_between(&r, 1, 2);
        int64_t dim = check_between(&r, 1, 40), rows = frames * height * width;
        int32_t pad[4] = {i & 1, i >> 1 & 1, i >> 2 & 1, i % 3}; /* top, bottom, left, right */
        int64_t high = height + pad[0] + pad[1], wide = width + pad[2] + pad[3], out = frames * high * wide;
        float *x = check_input(&r, rows * dim), *weight = check_input(&r, dim), *plain = check_alloc((size_t)(rows * dim) * 4);
        imagine__cuda_norm_args a = {
            .rows = rows, .dim = dim, .ldx = dim, .ldy = dim, .x_type = i % 2, .y_type = i / 2 % 2, .kind = IMAGINE__NORM_L2,
            .act = IMAGINE__ACT_SILU, .eps = 1e-12f, .height = height, .width = width, .pad_top = pad[0],
            .pad_bottom = pad[1], .pad_left = pad[2], .pad_right = pad[3]};
        a.x = cuda_typed_input(x, rows * dim, a.x_type);
        a.y = cuda_output((size_t)(out * dim) * cuda_size(a.y_type));
        a.weight = cuda_input(weight, (size_t)dim * 4);
        CUDA_OK(cuda->norm(&a, NULL));
        check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
        imagine__norm_args p = {.x = x, .y = plain, .rows = rows, .dim = dim, .ldx = dim, .ldy = dim, .kind = a.kind,
                                .act = a.act, .eps = a.eps, .weight = weight};
        imagine__kernels_plain.norm(&c.run, &p);
        float *y = cuda_fetch_rows(a.y, a.y_type, out, dim, dim, out * dim), *expected = calloc((size_t)(out * dim), 4);
        REQUIRE(expected);
        for (int64_t row = 0; row < rows; row++) {
            int64_t to = (row / width / height * high + row / width % height + pad[0]) * wide + row % width + pad[2];
            memcpy(expected + to * dim, plain + row * dim, (size_t)dim * 4);
        }
        CHECK(cuda_same(y, expected, out, dim, dim, a.y_type, limit_for(a.y_type)));
        for (int64_t j = 0; j < out * dim; j++)
            CHECK(expected[j] != 0 || y[j] == 0);
        cuda->release(a.x);
        cuda->release((void *)a.weight);
        free(x);
        free(weight);
        free(plain);
        free(expected);
        free(y);
    }
    cuda_report("norm with a border");
}

/* ---- norm_rope --------------------------------------------------------------------------------------------------- */

/* Packed q, k, v; k and v go to a cache that has room for more tokens and other clips. */
typedef struct rope_problem {
    int64_t batch, tokens, heads, d, positions, dim, cache, first;
    float *packed, *weights, *tables;
} rope_problem;

static rope_problem make_rope(check_random *r, int i)
{
    rope_problem p = {check_between(r, 1, 2), check_between(r, 1, 12), check_between(r, 1, 12),
                      2 * check_between(r, 1, i % 5 == 4 ? 90 : 20), 0, 0, 0, 0, NULL, NULL, NULL};
    p.dim = p.heads * p.d;
    p.positions = i % 2 ? p.tokens : check_between(r, 1, p.tokens);
    p.first = check_between(r, 0, 3);
    p.cache = p.first + p.tokens + check_between(r, 0, 3);
    p.packed = check_input(r, p.batch * p.tokens * 3 * p.dim);
    p.weights = check_input(r, 2 * p.dim);
    p.tables = check_input(r, p.positions * p.d);
    return p;
}

/* Part 0, 1 or 2 by plain C, [batch * tokens, dim]. */
static float *plain_rope(const rope_problem *p, int part, int norm, int rotate)
{
    int64_t rows = p->batch * p->tokens;
    check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
    float *y = check_alloc((size_t)(rows * p->dim) * 4);
    for (int64_t row = 0; row < rows; row++)
        memcpy(y + row * p->dim, p->packed + (row * 3 + part) * p->dim, (size_t)p->dim * 4);
    for (int64_t b = 0; b < p->batch; b++) { /* positions begin anew with every clip */
        imagine__norm_rope_args a = {.x = y + b * p->tokens * p->dim, .rows = p->tokens, .heads = p->heads, .d = p->d,
                                     .ldx = p->dim, .weight = norm ? p->weights + part * p->dim : NULL,
                                     .cos_table = rotate ? p->tables : NULL,
                                     .sin_table = rotate ? p->tables + p->positions * p->d / 2 : NULL,
                                     .positions = p->positions, .eps = 1e-6f};
        imagine__kernels_plain.norm_rope(&c.run, &a);
    }
    return y;
}

static void check_part(const rope_problem *p, void *output, imagine__cuda_type type, int64_t cache, int64_t first, int part,
                       int norm, int rotate)
{
    int64_t n = p->batch * cache * p->dim;
    unsigned char *raw = cuda_fetch(output, (size_t)n * cuda_size(type));
    float *expected = plain_rope(p, part, norm, rotate), *y = check_alloc((size_t)(p->batch * p->tokens * p->dim) * 4);
    int good = 1;
    for (int64_t i = 0; i < n; i++) {
        int64_t token = i / p->dim % cache - first, clip = i / p->dim / cache;
        if (token >= 0 && token < p->tokens)
            y[(clip * p->tokens + token) * p->dim + i % p->dim] = cuda_value(raw, type, i);
        else
            for (size_t j = 0; j < cuda_size(type); j++)
                good &= raw[(size_t)i * cuda_size(type) + j] == 0xa5;
    }
    CHECK(good);
    CHECK(cuda_same(y, expected, p->batch * p->tokens, p->dim, p->dim, type, limit_for(type)));
    free(raw);
    free(expected);
    free(y);
}

static void ropes(void)
{
    check_random r = {3};
    for (int i = 0; i < 60; i++) {
        cuda_check_prefer(80, (uint32_t)i);
        rope_problem p = make_rope(&r, i);
        imagine__cuda_type x_type = i / 2 % 2, y_type = i / 4 % 2;
        int norm = i % 3 != 2, rotate = i % 4 != 3;
        char *x = cuda_typed_input(p.packed, p.batch * p.tokens * 3 * p.dim, x_type);
        float *weights = cuda_input(p.weights, (size_t)(2 * p.dim) * 4);
        float *tables = cuda_input(p.tables, (size_t)(p.positions * p.d) * 4);
        size_t step = (size_t)p.dim * cuda_size(x_type), out = (size_t)(p.batch * p.dim) * cuda_size(y_type);
        char *q = cuda_output(out * (size_t)p.tokens), *k = cuda_output(out * (size_t)p.cache);
        char *v = cuda_output(out * (size_t)p.cache);
        size_t skip = (size_t)(p.first * p.dim) * cuda_size(y_type);
        imagine__cuda_norm_rope_args a = {
            .part = {{x, q, norm ? weights : NULL, 3 * p.dim, p.tokens * p.dim, p.dim, rotate, 0},
                     {x + step, k + skip, norm ? weights + p.dim : NULL, 3 * p.dim, p.cache * p.dim, p.dim, rotate, 0},
                     {x + 2 * step, v + skip, NULL, 3 * p.dim, p.cache * p.dim, p.dim, 0, 0}},
            .batch = p.batch, .tokens = p.tokens, .heads = p.heads, .d = p.d, .cos_table = tables,
            .sin_table = tables + p.positions * p.d / 2, .positions = p.positions, .x_type = x_type, .y_type = y_type,
            .eps = 1e-6f};
        CUDA_OK(cuda->norm_rope(&a, NULL));
        check_part(&p, q, y_type, p.tokens, 0, 0, norm, rotate);
        check_part(&p, k, y_type, p.cache, p.first, 1, norm, rotate);
        check_part(&p, v, y_type, p.cache, p.first, 2, 0, 0);
        cuda->release(x);
        cuda->release(weights);
        cuda->release(tables);
        free(p.packed);
        free(p.weights);
        free(p.tables);
    }
    cuda_report("norm_rope");
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {{"norms", norms}, {"short_rows", short_rows}, {"borders", borders}, {"norm_ropes", ropes}};
    return cuda_check_main("cuda/norm", cases, sizeof cases / sizeof *cases, argc, argv);
}
