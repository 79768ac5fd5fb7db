/* SPDX-License-Identifier: MIT */
#include "check.h"

/* What only moves values, and the modulation, against their definitions, value by value. */

static void run_pixels(const imagine__kernels *kernels, imagine__pixels_args a)
{
    check_run c = check_start(kernels, 1);
    kernels->pixels(&c.run, &a);
    CHECK(check_guards(a.y));
}

static void pixels(void)
{
    static const int64_t shapes[][3] = { { 1, 1, 1 }, { 2, 3, 2 }, { 5, 1, 2 }, { 3, 4, 3 } };
    check_random r = { 1 };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t height = shapes[s][0], width = shapes[s][1], patch = shapes[s][2], count = height * width * 3 * patch * patch;
        float *x = check_input(&r, count), *y = check_output_floats(count), *back = check_output_floats(count);
        imagine__pixels_args a = { .x = x, .y = y, .height = height, .width = width, .patch = (int32_t)patch, .join = 1 };
        run_pixels(&imagine__kernels_plain, a);
        for (int64_t py = 0; py < height * patch; py++)
            for (int64_t px = 0; px < width * patch; px++)
                for (int64_t colour = 0; colour < 3; colour++) {
                    int64_t value = (colour * patch + px % patch) * patch + py % patch;
                    CHECK(y[(py * width * patch + px) * 3 + colour] ==
                          x[(py / patch * width + px / patch) * 3 * patch * patch + value]);
                }
        a = (imagine__pixels_args){ .x = y, .y = back, .height = height, .width = width, .patch = (int32_t)patch };
        run_pixels(&imagine__kernels_plain, a);
        CHECK(!memcmp(back, x, (size_t)count * sizeof *x));
        free(x);
        check_free(y);
        check_free(back);
    }
}

static void relative_bias(void)
{
    static const int64_t shapes[][4] = { { 1, 1, 0, 1 }, { 5, 3, 1, 2 }, { 70, 4, 0, 4 }, { 130, 2, 1, 1 } };
    check_random r = { 2 };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t n = shapes[s][0], all = shapes[s][1], first = shapes[s][2], heads = shapes[s][3], buckets = 7;
        float *table = check_input(&r, buckets * all), *y = check_output_floats(heads * n * n);
        int32_t *ids = check_alloc((size_t)(2 * n) * sizeof *ids);
        for (int64_t i = 0; i < 2 * n - 1; i++)
            ids[i] = (int32_t)(i * i % buckets);
        imagine__relative_bias_args a = { .table = table, .buckets = ids, .y = y, .tokens = n, .all_heads = all,
                                          .first = first, .heads = heads };
        check_run c = check_start(&imagine__kernels_plain, 1);
        c.run.kernels->relative_bias(&c.run, &a);
        CHECK(check_guards(y));
        for (int64_t h = 0; h < heads; h++)
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < n; j++)
                    CHECK(y[(h * n + i) * n + j] == table[ids[j - i + n - 1] * all + first + h]);
        free(ids);
        free(table);
        check_free(y);
    }
}

static void modulate(void)
{
    static const int64_t shapes[][4] = { { 1, 1, 1, 1 }, { 3, 6, 6, 10 }, { 5, 2, 1, 7 }, { 40, 6, 6, 700 } };
    check_random r = { 3 };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t rows = shapes[s][0], parts = shapes[s][1], x_parts = shapes[s][2], dim = shapes[s][3];
        float *table = check_input(&r, parts * dim), *x = check_input(&r, rows * x_parts * dim);
        float *y = check_output_floats(rows * parts * dim);
        imagine__modulate_args a = { .table = table, .x = x, .y = y, .rows = rows, .parts = parts, .x_parts = x_parts,
                                     .dim = dim };
        check_run c = check_start(&imagine__kernels_plain, 1);
        c.run.kernels->modulate(&c.run, &a);
        CHECK(check_guards(y));
        int same = 1;
        for (int64_t i = 0; i < rows * parts * dim; i++) {
            int64_t row = i / dim / parts, part = i / dim % parts;
            same &= y[i] == table[part * dim + i % dim] + x[(row * x_parts + part % x_parts) * dim + i % dim];
        }
        CHECK(same);
        free(table);
        free(x);
        check_free(y);
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = { { "pixels", pixels }, { "relative bias", relative_bias }, { "modulate", modulate } };
    return test_main("kernels/pixels", cases, sizeof cases / sizeof *cases, argc, argv);
}
