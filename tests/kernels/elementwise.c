/* SPDX-License-Identifier: MIT */
#include "check.h"

static const int64_t sizes[] = {0, 1, 2, 7, 8, 9, 16, 31, 100, 1000, 16383, 16384, 16385, 40001};
#define SIZES ((int)(sizeof sizes / sizeof *sizes))

/* ---- activate ---------------------------------------------------------------------------------------------------- */

static float *run_activate(const imagine__kernels *kernels, const float *x, int64_t n, imagine__act act, int order)
{
    check_run c = check_start(kernels, order);
    float *y = check_output_floats(n);
    kernels->activate(&c.run, x, y, n, act);
    CHECK(check_guards(y));
    return y;
}

/* The largest error relative to the value, of values of at least 1e-3, where x is in from..to. */
static double worst_error(const float *x, const float *y, const float *expected, int64_t n, float from, float to)
{
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double scale = fabs((double)expected[i]), error = fabs((double)y[i] - expected[i]);
        scale = scale > 1e-3 ? scale : 1e-3;
        if (x[i] >= from && x[i] <= to && error / scale > worst)
            worst = error / scale;
    }
    return worst;
}

/* To the left of -1 the rounding of the exponential's argument shows: measured 1.2e-6 of both GELUs. */
static void activations(void)
{
    const double limit = 4e-7, left_limit = 2.5e-6;
    const imagine__kernels *tables[2];
    int count = check_tables(tables);
    const int64_t n = 200003;
    float *x = check_alloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(i - n / 2) * 8e-5f; /* -8 to 8 */
    for (int t = 0; t < count; t++)
        for (imagine__act act = 0; act < 4; act++) {
            float *expected = run_activate(&imagine__kernels_plain, x, n, act, CHECK_FORWARD);
            float *y = run_activate(tables[t], x, n, act, CHECK_SHUFFLED);
            double left = worst_error(x, y, expected, n, -9, -1), right = worst_error(x, y, expected, n, -1, 9);
            printf("    activation %d: relative error at most %.2g left of -1 and %.2g right of it\n", (int)act, left,
                   right);
            CHECK(left <= left_limit && right <= limit);
            check_free(y);
            check_free(expected);
        }
    free(x);
    if (!count)
        SKIP("this machine has no more than plain C");
}

static void activation_edges(void)
{
    static const float x[] = {0, -0.0f, 1e-30f, -1e-30f, 20, -20, 100, -100, 3e38f, -3e38f, INFINITY, -INFINITY, NAN};
    const imagine__kernels *tables[2];
    int count = check_tables(tables);
    for (int t = 0; t < count; t++)
        for (imagine__act act = 0; act < 4; act++) {
            float *expected = run_activate(&imagine__kernels_plain, x, 13, act, CHECK_FORWARD);
            float *y = run_activate(tables[t], x, 13, act, CHECK_FORWARD);
            for (int i = 0; i < 13; i++) {
                float allowed = fabsf(expected[i]) * 1e-6f + 1e-30f;
                int same = isnan(expected[i]) ? isnan(y[i])
                                              : y[i] == expected[i] || fabsf(y[i] - expected[i]) <= allowed;
                CHECK(same);
                if (!same)
                    fprintf(stderr, "    act %d of %g: %g, not %g\n", (int)act, x[i], y[i], expected[i]);
            }
            check_free(y);
            check_free(expected);
        }
    if (!count)
        SKIP("this machine has no more than plain C");
}

/* Every size, in place too, and the same bytes wherever the value stands. */
static void activation_sizes(void)
{
    const imagine__kernels *tables[2];
    int count = check_tables(tables);
    check_random r = {1};
    for (int t = 0; t < count; t++)
        for (int i = 0; i < SIZES; i++) {
            float *x = check_input(&r, sizes[i]);
            float *y = run_activate(tables[t], x, sizes[i], IMAGINE__ACT_SILU, CHECK_THREADS);
            float *place = check_output_floats(sizes[i]);
            check_run c = check_start(tables[t], CHECK_BACKWARD);
            memcpy(place, x, (size_t)sizes[i] * sizeof *x);
            tables[t]->activate(&c.run, place, place, sizes[i], IMAGINE__ACT_SILU);
            CHECK(check_guards(place) && memcmp(place, y, (size_t)sizes[i] * sizeof *y) == 0);
            if (sizes[i]) {
                float *last = run_activate(tables[t], x + sizes[i] - 1, 1, IMAGINE__ACT_SILU, CHECK_FORWARD);
                CHECK(memcmp(last, y + sizes[i] - 1, sizeof *last) == 0);
                check_free(last);
            }
            check_free(place);
            check_free(y);
            free(x);
        }
    if (!count)
        SKIP("this machine has no more than plain C");
}

/* ---- operations that give the same bytes as plain C -------------------------------------------------------------- */

static void combinations(void)
{
    const imagine__kernels *tables[2];
    int count = check_tables(tables);
    check_random r = {2};
    for (int t = 0; t < count; t++)
        for (int i = 0; i < SIZES; i++)
            for (int32_t terms = 1; terms <= 8; terms++) {
                float *x[8], coefficient[8];
                for (int j = 0; j < terms; j++) {
                    x[j] = check_input(&r, sizes[i]);
                    coefficient[j] = check_value(&r);
                }
                float *a = check_output_floats(sizes[i]), *b = check_output_floats(sizes[i]);
                check_run plain = check_start(&imagine__kernels_plain, CHECK_FORWARD);
                check_run c = check_start(tables[t], CHECK_THREADS);
                imagine__kernels_plain.combine(&plain.run, terms, coefficient, (const float *const *)x, a, sizes[i]);
                tables[t]->combine(&c.run, terms, coefficient, (const float *const *)x, b, sizes[i]);
                CHECK(check_guards(a) && check_guards(b));
                CHECK(memcmp(a, b, (size_t)sizes[i] * sizeof *a) == 0);
                tables[t]->combine(&c.run, terms, coefficient, (const float *const *)x, x[terms - 1], sizes[i]);
                CHECK(memcmp(a, x[terms - 1], (size_t)sizes[i] * sizeof *a) == 0);
                check_free(a);
                check_free(b);
                for (int j = 0; j < terms; j++)
                    free(x[j]);
            }
    if (!count)
        SKIP("this machine has no more than plain C");
}

/* Each step is rounded by itself: 1/3 * 3 - 1 is 0 in f32, but not with a fused multiply-add. */
static void combination_rounding(void)
{
    const imagine__kernels *tables[3] = {&imagine__kernels_plain};
    int count = 1 + check_tables(tables + 1);
    float third[9], minus[9], y[9];
    const float *const x[] = {minus, third};
    static const float coefficient[] = {1, 3};
    for (int i = 0; i < 9; i++) {
        third[i] = 1 / 3.0f;
        minus[i] = -1;
    }
    for (int t = 0; t < count; t++) {
        check_run c = check_start(tables[t], CHECK_FORWARD);
        tables[t]->combine(&c.run, 2, coefficient, x, y, 9);
        for (int i = 0; i < 9; i++)
            CHECK(y[i] == 0);
    }
}

static void transposes(void)
{
    const imagine__kernels *tables[3] = {&imagine__kernels_plain};
    int count = 1 + check_tables(tables + 1);
    check_random r = {3};
    for (int t = 0; t < count; t++)
        for (int i = 0; i < 60; i++) {
            int64_t rows = check_between(&r, 1, 150), columns = check_between(&r, 1, 150);
            float *x = check_input(&r, rows * columns), *y = check_output_floats(rows * columns);
            check_run c = check_start(tables[t], CHECK_THREADS);
            tables[t]->transpose(&c.run, x, y, rows, columns);
            int same = check_guards(y);
            for (int64_t j = 0; j < rows; j++)
                for (int64_t k = 0; k < columns; k++)
                    same &= y[k * rows + j] == x[j * columns + k];
            CHECK(same);
            check_free(y);
            free(x);
        }
}

static void finites(void)
{
    static const float values[] = {NAN, -NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1e-45f, 0};
    const imagine__kernels *tables[3] = {&imagine__kernels_plain};
    int count = 1 + check_tables(tables + 1);
    check_random r = {4};
    for (int t = 0; t < count; t++)
        for (int i = 0; i < SIZES; i++) {
            float *x = check_input(&r, sizes[i]);
            check_run c = check_start(tables[t], CHECK_SHUFFLED);
            CHECK(tables[t]->finite(&c.run, x, sizes[i]) == 1);
            for (int j = 0; j < 24 && sizes[i]; j++) {
                int64_t at = j < 8 ? sizes[i] - 1 : check_between(&r, 0, sizes[i] - 1);
                float old = x[at];
                x[at] = values[j & 7];
                CHECK(tables[t]->finite(&c.run, x, sizes[i]) == ((j & 7) >= 4));
                x[at] = old;
            }
            free(x);
        }
}

static void embeddings(void)
{
    const imagine__kernels *tables[2];
    int count = check_tables(tables);
    check_random r = {5};
    for (int t = 0; t < count; t++)
        for (int i = 0; i < 40; i++) {
            int64_t dim = check_between(&r, 1, 70), ids = check_between(&r, 0, 30);
            imagine__wtype type = i & 1;
            void *table = check_weight(&r, 19 * dim, type, 1);
            int32_t *id = check_alloc(sizeof *id * 30);
            for (int j = 0; j < 30; j++)
                id[j] = (int32_t)check_between(&r, 0, 18);
            float *a = check_output_floats(ids * dim), *b = check_output_floats(ids * dim);
            check_run plain = check_start(&imagine__kernels_plain, CHECK_FORWARD);
            check_run c = check_start(tables[t], CHECK_THREADS);
            imagine__kernels_plain.embed(&plain.run, table, type, id, ids, dim, a);
            tables[t]->embed(&c.run, table, type, id, ids, dim, b);
            CHECK(check_guards(a) && check_guards(b) && memcmp(a, b, (size_t)(ids * dim) * sizeof *a) == 0);
            if (ids && type == IMAGINE__W_F32)
                CHECK(b[(ids - 1) * dim] == ((float *)table)[id[ids - 1] * dim]);
            check_free(a);
            check_free(b);
            free(id);
            free(table);
        }
    if (!count)
        SKIP("this machine has no more than plain C");
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

static void bytes(void)
{
    const imagine__kernels *tables[3] = {&imagine__kernels_plain};
    int count = 1 + check_tables(tables + 1);
    check_random r = {6};
    for (int t = 0; t < count; t++)
        for (int i = 0; i < SIZES; i++) {
            int64_t n = sizes[i];
            float *x = check_input(&r, n), *back = check_output_floats(n), *expected = check_output_floats(n);
            uint8_t *a = check_output((size_t)n), *b = check_output((size_t)n);
            check_run plain = check_start(&imagine__kernels_plain, CHECK_FORWARD);
            check_run c = check_start(tables[t], CHECK_THREADS);
            imagine__kernels_plain.to_u8(&plain.run, x, a, n);
            tables[t]->to_u8(&c.run, x, b, n);
            CHECK(check_guards(b) && memcmp(a, b, (size_t)n) == 0);
            imagine__kernels_plain.from_u8(&plain.run, a, expected, n);
            tables[t]->from_u8(&c.run, a, back, n);
            CHECK(check_guards(back) && memcmp(back, expected, (size_t)n * sizeof *back) == 0);
            check_free(a);
            check_free(b);
            check_free(back);
            check_free(expected);
            free(x);
        }
}

static void byte_values(void)
{
    static const float x[] = {-1, 1, 0, -5, 5, NAN, INFINITY, -INFINITY, -0.99f, 0.5f};
    static const uint8_t expected[] = {0, 255, 128, 0, 255, 0, 255, 0, 1, 191}; /* 127.5 to even, 191.25 */
    const imagine__kernels *tables[3] = {&imagine__kernels_plain};
    int count = 1 + check_tables(tables + 1);
    for (int t = 0; t < count; t++) {
        uint8_t y[256], again[256];
        float back[256];
        check_run c = check_start(tables[t], CHECK_FORWARD);
        tables[t]->to_u8(&c.run, x, y, 10);
        CHECK(memcmp(y, expected, 10) == 0);
        for (int i = 0; i < 256; i++)
            y[i] = (uint8_t)i;
        tables[t]->from_u8(&c.run, y, back, 256);
        tables[t]->to_u8(&c.run, back, again, 256);
        CHECK(memcmp(y, again, 256) == 0 && back[0] == -1 && back[255] == 1);
    }
}

/* ---- patches ----------------------------------------------------------------------------------------------------- */

/* Every value carries its own place, so that it can be looked up from the other side. */
static void patches(void)
{
    enum { C = 3, F = 2, H = 6, W = 4, N = C * F * H * W };
    const imagine__kernels *tables[3] = {&imagine__kernels_plain};
    int count = 1 + check_tables(tables + 1);
    for (int t = 0; t < count; t++)
        for (int pt = 1; pt <= 2; pt++) {
            float x[N], *y = check_output_floats(N);
            for (int i = 0; i < N; i++)
                x[i] = (float)i;
            check_run c = check_start(tables[t], CHECK_SHUFFLED);
            imagine__patch_args a = {x, y, C, F, H, W, pt, 2, 2, 0};
            tables[t]->patchify(&c.run, &a);
            CHECK(check_guards(y));
            int row = C * pt * 4, token = (F / pt - 1) * 6 + 1 * 2 + 1; /* last frame of patches, row 1, column 1 */
            int in_row = (2 * pt + pt - 1) * 4 + 2; /* channel 2, last frame of the patch, its lower left pixel */
            CHECK(y[token * row + in_row] == (float)(((2 * F + F - 1) * H + 3) * W + 2));
            CHECK(y[0] == 0 && y[N - 1] == N - 1);
            a.x = y;
            float *z = check_output_floats(N);
            a.y = z;
            tables[t]->unpatchify(&c.run, &a);
            CHECK(check_guards(z));
            in_row = ((pt - 1) * 4 + 2) * C + 2; /* here the channel comes last */
            CHECK(z[((2 * F + F - 1) * H + 3) * W + 2] == y[token * row + in_row]);
            check_free(y);
            check_free(z);
        }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"activations", activations}, {"activation edges", activation_edges}, {"activation sizes", activation_sizes},
        {"combinations", combinations}, {"combination rounding", combination_rounding}, {"transposes", transposes},
        {"finites", finites}, {"embeddings", embeddings}, {"bytes", bytes}, {"byte values", byte_values},
        {"patches", patches},
    };
    return test_main("kernels/elementwise", cases, sizeof cases / sizeof *cases, argc, argv);
}
