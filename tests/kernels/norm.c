/* SPDX-License-Identifier: MIT */
#include "check.h"

/* Plain C sums in double, the others in f32. Measured: up to 2.4e-14. */
#define LIMIT 6e-14

typedef struct shape {
    int64_t rows, dim, ldx, ldy, group;
    imagine__norm_kind kind;
    imagine__act act;
    int weight, bias, modulate, in_place;
} shape;

typedef struct inputs {
    float *x, *weight, *bias, *scale, *shift;
} inputs;

static inputs make_inputs(const shape *s, check_random *r)
{
    int64_t groups = (s->rows - 1) / s->group + 1;
    inputs in = {check_input(r, (s->rows - 1) * s->ldx + s->dim), check_input(r, s->dim), check_input(r, s->dim),
                 check_input(r, groups * s->dim), check_input(r, groups * s->dim)};
    for (int64_t i = 0; i < s->dim; i++)
        in.x[i] += 3; /* a mean */
    return in;
}

static void free_inputs(inputs *in)
{
    free(in->x);
    free(in->weight);
    free(in->bias);
    free(in->scale);
    free(in->shift);
}

static float *run_norm(const imagine__kernels *kernels, const shape *s, const inputs *in, int order)
{
    check_run c = check_start(kernels, order);
    float *y = check_output_floats((s->rows - 1) * s->ldy + s->dim);
    imagine__norm_args a = {.x = in->x, .y = y, .rows = s->rows, .dim = s->dim, .ldx = s->ldx, .ldy = s->ldy,
                            .kind = s->kind, .act = s->act, .eps = s->kind == IMAGINE__NORM_L2 ? 1e-12f : 1e-6f,
                            .weight = s->weight ? in->weight : NULL, .bias = s->bias ? in->bias : NULL,
                            .scale = s->modulate ? in->scale : NULL, .shift = s->modulate ? in->shift : NULL,
                            .group = s->group, .ld_mod = s->dim};
    if (s->in_place) {
        for (int64_t i = 0; i < s->rows; i++)
            memcpy(y + i * s->ldy, in->x + i * s->ldx, (size_t)s->dim * sizeof *y);
        a.x = y;
        a.ldx = s->ldy;
    }
    kernels->norm(&c.run, &a);
    CHECK(check_guards(y));
    CHECK(check_padding(y, s->rows, s->dim, s->ldy));
    return y;
}

static void compare(const imagine__kernels *kernels, const shape *s, const inputs *in)
{
    float *expected = run_norm(&imagine__kernels_plain, s, in, CHECK_FORWARD);
    float *y = run_norm(kernels, s, in, CHECK_FORWARD);
    int same = check_same(y, expected, s->rows, s->dim, s->ldy, LIMIT);
    CHECK(same);
    if (!same)
        fprintf(stderr, "    %s: rows %d dim %d kind %d act %d\n", kernels->name, (int)s->rows, (int)s->dim, s->kind,
                s->act);
    for (int order = CHECK_BACKWARD; order < CHECK_ORDERS; order++) {
        float *again = run_norm(kernels, s, in, order);
        CHECK(memcmp(again, y, (size_t)((s->rows - 1) * s->ldy + s->dim) * sizeof *y) == 0);
        check_free(again);
    }
    shape last = *s; /* a row alone */
    inputs part = *in;
    last.rows = 1;
    part.x += (s->rows - 1) * s->ldx;
    part.scale += (s->rows - 1) / s->group * s->dim;
    part.shift += (s->rows - 1) / s->group * s->dim;
    float *alone = run_norm(kernels, &last, &part, CHECK_FORWARD);
    CHECK(memcmp(alone, y + (s->rows - 1) * s->ldy, (size_t)s->dim * sizeof *y) == 0);
    check_free(alone);
    check_free(y);
    check_free(expected);
}

static void norms(void)
{
    const imagine__kernels *tables[2];
    int count = check_tables(tables);
    check_random r = {1};
    for (int t = 0; t < count; t++)
        for (int i = 0; i < 300; i++) {
            int64_t dim = i < 70 ? i + 1 : check_between(&r, 1, 1700);
            shape s = {check_between(&r, 1, 70), dim, dim + check_between(&r, 0, 9), dim + check_between(&r, 0, 9),
                       check_between(&r, 1, 20), i % 3, (i / 3) % 4, i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3 & 1};
            inputs in = make_inputs(&s, &r);
            compare(tables[t], &s, &in);
            free_inputs(&in);
        }
    check_report("norm", LIMIT);
    if (!count)
        SKIP("this machine has no more than plain C");
}

/* A NaN or an infinity spoils its row, a row of zeros is finite, a row of equal values has no variance. */
static void special_rows(void)
{
    const imagine__kernels *tables[2];
    int count = check_tables(tables);
    check_random r = {2};
    for (int t = 0; t < count; t++)
        for (int kind = 0; kind < 3; kind++) {
            shape s = {5, 83, 90, 83, 1, kind, IMAGINE__ACT_NONE, 1, 1, 0, 0};
            inputs in = make_inputs(&s, &r);
            in.x[90 + 7] = NAN;
            in.x[2 * 90 + 82] = INFINITY;
            for (int i = 0; i < 83; i++) {
                in.x[3 * 90 + i] = 0;
                in.x[4 * 90 + i] = 8;
            }
            compare(tables[t], &s, &in);
            float *y = run_norm(tables[t], &s, &in, CHECK_FORWARD);
            CHECK(isfinite(y[0]) && isnan(y[83]) && isnan(y[83 + 82]) && isnan(y[2 * 83 + 82]) && isfinite(y[3 * 83]));
            CHECK(isfinite(y[4 * 83]));
            check_free(y);
            free_inputs(&in);
        }
    check_report("norm", LIMIT);
    if (!count)
        SKIP("this machine has no more than plain C");
}

/* The plain version against numbers worked out by hand. */
static void plain_values(void)
{
    static const float x[] = {1, 3, -1, 5}, weight[] = {1, 2, 1, 1}, scale[] = {0, 0, 1, 0}, shift[] = {0, 0, 0, 10};
    check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
    float y[4];
    imagine__norm_args a = {.x = x, .y = y, .rows = 1, .dim = 4, .ldx = 4, .ldy = 4, .kind = IMAGINE__NORM_LAYER,
                            .eps = 0, .weight = weight, .scale = scale, .shift = shift, .group = 1, .ld_mod = 4};
    imagine__kernels_plain.norm(&c.run, &a); /* mean 2, variance 5 */
    CHECK(fabsf(y[0] + 0.4472136f) < 1e-6f && fabsf(y[1] - 0.8944272f) < 1e-6f);
    CHECK(fabsf(y[2] + 2.6832816f) < 1e-6f && fabsf(y[3] - 11.3416408f) < 1e-5f);
    a.kind = IMAGINE__NORM_RMS;
    imagine__kernels_plain.norm(&c.run, &a); /* mean square 9 */
    CHECK(fabsf(y[0] - 1 / 3.0f) < 1e-6f && fabsf(y[1] - 2) < 1e-6f && fabsf(y[2] + 2 / 3.0f) < 1e-6f);
    a.kind = IMAGINE__NORM_L2;
    a.scale = a.shift = a.weight = NULL;
    imagine__kernels_plain.norm(&c.run, &a); /* length 6, times 2 */
    CHECK(fabsf(y[0] - 1 / 3.0f) < 1e-6f && fabsf(y[3] - 5 / 3.0f) < 1e-6f);
}

/* ---- norm_rope --------------------------------------------------------------------------------------------------- */

typedef struct rope_shape {
    int64_t rows, heads, d, ldx, positions;
    int weight, table;
} rope_shape;

static float *run_rope(const imagine__kernels *kernels, const rope_shape *s, const float *x, const float *weight,
                       const float *table, int order)
{
    check_run c = check_start(kernels, order);
    int64_t dim = s->heads * s->d;
    float *y = check_output_floats((s->rows - 1) * s->ldx + dim);
    for (int64_t i = 0; i < s->rows; i++)
        memcpy(y + i * s->ldx, x + i * dim, (size_t)dim * sizeof *y);
    imagine__norm_rope_args a = {.x = y, .rows = s->rows, .heads = s->heads, .d = s->d, .ldx = s->ldx,
                                 .weight = s->weight ? weight : NULL, .cos_table = s->table ? table : NULL,
                                 .sin_table = s->table ? table + s->positions * (s->d / 2) : NULL,
                                 .positions = s->positions, .eps = 1e-6f};
    kernels->norm_rope(&c.run, &a);
    CHECK(check_guards(y));
    CHECK(check_padding(y, s->rows, dim, s->ldx));
    return y;
}

static void compare_rope(const imagine__kernels *kernels, const rope_shape *s, check_random *r)
{
    int64_t dim = s->heads * s->d, size = (s->rows - 1) * s->ldx + dim;
    float *x = check_input(r, s->rows * dim), *weight = check_input(r, dim);
    float *table = check_input(r, 2 * s->positions * (s->d / 2));
    float *expected = run_rope(&imagine__kernels_plain, s, x, weight, table, CHECK_FORWARD);
    float *y = run_rope(kernels, s, x, weight, table, CHECK_FORWARD);
    CHECK(check_same(y, expected, s->rows, dim, s->ldx, LIMIT));
    for (int order = CHECK_BACKWARD; order < CHECK_ORDERS; order++) {
        float *again = run_rope(kernels, s, x, weight, table, order);
        CHECK(memcmp(again, y, (size_t)size * sizeof *y) == 0);
        check_free(again);
    }
    check_free(y);
    check_free(expected);
    free(x);
    free(weight);
    free(table);
}

static void norm_ropes(void)
{
    const imagine__kernels *tables[2];
    int count = check_tables(tables);
    check_random r = {3};
    for (int t = 0; t < count; t++)
        for (int i = 0; i < 200; i++) {
            rope_shape s = {check_between(&r, 1, 60), check_between(&r, 1, 12), 2 * check_between(&r, 1, 70), 0,
                            check_between(&r, 1, 30), i & 1, i >> 1 & 1};
            s.ldx = s.heads * s.d + check_between(&r, 0, 7);
            compare_rope(tables[t], &s, &r);
        }
    check_report("norm_rope", LIMIT);
    if (!count)
        SKIP("this machine has no more than plain C");
}

/* Queries and keys of packed rows at once: the same bytes as one after the other, and the values between them stay. */
static void rope_of_two(void)
{
    const imagine__kernels *tables[3] = {&imagine__kernels_plain};
    int count = 1 + check_tables(tables + 1);
    check_random r = {4};
    for (int i = 0; i < 40 * count; i++) {
        const imagine__kernels *kernels = tables[i % count];
        int64_t rows = check_between(&r, 1, 40), heads = check_between(&r, 1, 6), d = 2 * check_between(&r, 1, 40);
        int64_t dim = heads * d, size = rows * 3 * dim;
        float *x = check_input(&r, size), *y = check_alloc((size_t)size * sizeof *y);
        float *weights = check_input(&r, 2 * dim), *table = check_input(&r, 2 * rows * d);
        memcpy(y, x, (size_t)size * sizeof *y);
        imagine__norm_rope_args a = {.x = x, .second = x + dim, .rows = rows, .heads = heads, .d = d, .ldx = 3 * dim,
                                     .weight = i & 1 ? weights : NULL, .second_weight = i & 2 ? weights + dim : NULL,
                                     .cos_table = i & 4 ? table : NULL, .sin_table = i & 4 ? table + rows * d : NULL,
                                     .positions = 1 + rows / 2, .eps = 1e-6f};
        check_run c = check_start(kernels, CHECK_FORWARD);
        kernels->norm_rope(&c.run, &a);
        a.x = y, a.second = NULL;
        kernels->norm_rope(&c.run, &a);
        a.x = y + dim, a.weight = a.second_weight;
        kernels->norm_rope(&c.run, &a);
        CHECK(memcmp(x, y, (size_t)size * sizeof *y) == 0);
        free(x);
        free(y);
        free(weights);
        free(table);
    }
}

/* By hand: (3, 4) has mean square 12.5; a quarter turn takes (a, b) to (-b, a); row 1 of two positions is not
 * turned. */
static void plain_rope(void)
{
    check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
    float x[] = {3, 4, 3, 4}, weight[] = {1, 2};
    static const float cosine[] = {0, 1}, sine[] = {1, 0};
    imagine__norm_rope_args a = {.x = x, .rows = 2, .heads = 1, .d = 2, .ldx = 2, .weight = weight,
                                 .cos_table = cosine, .sin_table = sine, .positions = 2};
    imagine__kernels_plain.norm_rope(&c.run, &a);
    CHECK(fabsf(x[0] + 2.2627417f) < 1e-6f && fabsf(x[1] - 0.8485281f) < 1e-6f);
    CHECK(fabsf(x[2] - 0.8485281f) < 1e-6f && fabsf(x[3] - 2.2627417f) < 1e-6f);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"norms", norms}, {"special rows", special_rows}, {"plain values", plain_values}, {"norm_ropes", norm_ropes},
        {"rope of two", rope_of_two}, {"plain rope", plain_rope},
    };
    return test_main("kernels/norm", cases, sizeof cases / sizeof *cases, argc, argv);
}
