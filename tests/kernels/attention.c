/* SPDX-License-Identifier: MIT */
#include <float.h>
#include <string.h>

#include "check.h"

/* Plain C sums in double, the others in f32 by blocks. Measured: 2.6e-13 for d up to 130, 7.9e-13 at 384, 3.8e-12 at
 * 4096; few rows, whose every output carries the same scores' errors, up to 3.6e-12, and a few outputs that nearly cancel
 * each other up to 5.5e-12. */
static double limit_for(int64_t rows, int64_t d)
{
    return rows < 8 || rows * d < 256 ? 1e-11 : 4e-13 + 1.4e-15 * (double)d;
}

/* AMX rounds queries, keys, values and weights to bf16. */
static int rounds(const imagine__kernels *kernels, int64_t d)
{
    return !strcmp(kernels->name, "amx") && d <= 256;
}

/* Measured: up to 1.4e-5, but for a single value, where a mean of values that nearly cancel each other is all there is. */
#define ROUNDED 3e-5

/* All that this machine has, AMX too, beside plain C. */
static int all_tables(const imagine__kernels *tables[3])
{
    int32_t used;
    int count = check_tables(tables);
    const imagine__kernels *amx = imagine__kernels_for_cpu(IMAGINE_CPU_AMX, &used);
    if (used == IMAGINE_CPU_AMX)
        tables[count++] = amx;
    return count;
}

typedef struct shape {
    int64_t batch, heads, d, tokens, kv;
    int64_t gap; /* elements between one token's heads and the next token's */
    int bias, lengths;
} shape;

typedef struct inputs {
    float *q, *k, *v, *bias;
    int64_t lengths[4];
} inputs;

static int64_t token_stride(const shape *s)
{
    return s->heads * s->d + s->gap;
}

/* How many values hold `tokens` tokens of the whole batch: none behind the last one. */
static int64_t extent(const shape *s, int64_t tokens)
{
    return (s->batch * tokens - 1) * token_stride(s) + s->heads * s->d;
}

static inputs make_inputs(const shape *s, check_random *r)
{
    int64_t keys = extent(s, s->kv);
    inputs in = {check_input(r, extent(s, s->tokens)), check_input(r, keys), check_input(r, keys),
                 s->bias ? check_input(r, s->heads * s->tokens * s->kv) : NULL, {0}};
    for (int64_t b = 0; b < s->batch; b++)
        in.lengths[b] = check_between(r, 1, s->kv);
    return in;
}

static void free_inputs(inputs *in)
{
    free(in->q);
    free(in->k);
    free(in->v);
    free(in->bias);
}

static imagine__attention_args arguments(const shape *s, const inputs *in, float *y)
{
    int64_t stride = token_stride(s);
    imagine__attention_args a = {
        .q = in->q, .k = in->k, .v = in->v, .y = y, .batch = s->batch, .heads = s->heads, .d = s->d,
        .tokens = s->tokens, .kv = s->kv, .q_batch = s->tokens * stride, .q_token = stride,
        .k_batch = s->kv * stride, .k_token = stride,
        .v_batch = s->kv * stride, .v_token = stride, .y_batch = s->tokens * stride, .y_token = stride,
        .kv_length = s->lengths ? in->lengths : NULL, .bias = s->bias ? in->bias : NULL,
        .scale = 1.0f / sqrtf((float)s->d)};
    return a;
}

static float *run_attention(const imagine__kernels *kernels, const shape *s, const inputs *in, int order)
{
    check_run c = check_start(kernels, order);
    float *y = check_output_floats(extent(s, s->tokens));
    imagine__attention_args a = arguments(s, in, y);
    kernels->attention(&c.run, &a);
    CHECK(check_guards(y));
    CHECK(check_padding(y, s->batch * s->tokens, s->heads * s->d, token_stride(s)));
    return y;
}

static double worst_rounded;

static int matches(const imagine__kernels *kernels, const shape *s, const float *y, const float *expected)
{
    int64_t rows = s->batch * s->tokens, columns = s->heads * s->d;
    if (!rounds(kernels, s->d))
        return check_same(y, expected, rows, columns, token_stride(s), limit_for(rows * s->heads, s->d));
    double before = check_worst;
    check_worst = 0;
    int same = check_same(y, expected, rows, columns, token_stride(s), s->d > 1 ? ROUNDED : 1);
    if (s->d > 1)
        worst_rounded = fmax(worst_rounded, check_worst);
    check_worst = before;
    return same;
}

static void report(double limit)
{
    check_report("attention", limit);
    if (worst_rounded > 0)
        printf("    attention in bf16: NMSE at most %.2g, limit %.2g\n", worst_rounded, ROUNDED);
    worst_rounded = 0;
}

static void compare_inputs(const imagine__kernels *kernels, const shape *s, const inputs *in)
{
    float *expected = run_attention(&imagine__kernels_plain, s, in, CHECK_FORWARD);
    float *y = run_attention(kernels, s, in, CHECK_FORWARD);
    int same = matches(kernels, s, y, expected);
    CHECK(same);
    if (!same)
        fprintf(stderr, "    %s: batch %d heads %d d %d tokens %d kv %d bias %d lengths %d: NMSE up to %g\n",
                kernels->name, (int)s->batch, (int)s->heads, (int)s->d, (int)s->tokens, (int)s->kv, s->bias,
                s->lengths, check_worst);
    for (int order = CHECK_BACKWARD; order < CHECK_ORDERS; order++) {
        float *again = run_attention(kernels, s, in, order);
        CHECK(memcmp(again, y, (size_t)extent(s, s->tokens) * sizeof *y) == 0);
        check_free(again);
    }
    check_free(y);
    check_free(expected);
}

static void compare(const imagine__kernels *kernels, const shape *s, check_random *r)
{
    inputs in = make_inputs(s, r);
    compare_inputs(kernels, s, &in);
    free_inputs(&in);
}

static void sizes(void)
{
    static const int64_t d[] = {1, 8, 31, 48, 64, 80, 96, 128, 384}, length[] = {1, 2, 7, 64, 97, 513};
    const imagine__kernels *tables[3];
    int count = all_tables(tables);
    check_random r = {1};
    for (int t = 0; t < count; t++)
        for (size_t i = 0; i < sizeof d / sizeof *d; i++)
            for (size_t j = 0; j < sizeof length / sizeof *length; j++)
                for (size_t k = 0; k < sizeof length / sizeof *length; k++) {
                    if (length[j] * length[k] * d[i] > 8000000)
                        continue;
                    shape s = {1, 1, d[i], length[j], length[k], 0, 0, 0};
                    compare(tables[t], &s, &r);
                }
    report(limit_for(1, 1));
    if (!count)
        SKIP("this machine has no more than plain C");
}

static void random_shapes(void)
{
    const imagine__kernels *tables[3];
    int count = all_tables(tables);
    check_random r = {2};
    for (int t = 0; t < count; t++)
        for (int i = 0; i < 80; i++) {
            shape s = {check_between(&r, 1, 3), check_between(&r, 1, 5), check_between(&r, 1, 130),
                       check_between(&r, 1, 220), check_between(&r, 1, 300), check_between(&r, 0, 20),
                       i & 1, i >> 1 & 1};
            compare(tables[t], &s, &r);
        }
    report(limit_for(1, 1));
    if (!count)
        SKIP("this machine has no more than plain C");
}

/* Heads too large for the blocks of the fast versions, and just not. */
static void large_heads(void)
{
    const imagine__kernels *tables[3];
    int count = all_tables(tables);
    check_random r = {3};
    static const int64_t d[] = {129, 1024, 1030, 4096, 4100};
    for (int t = 0; t < count; t++)
        for (int i = 0; i < 5; i++) {
            shape s = {1, 2, d[i], 100, 130, 3, 0, 0};
            compare(tables[t], &s, &r);
        }
    report(limit_for(8, 4096));
    if (!count)
        SKIP("this machine has no more than plain C");
}

/* NaN and infinities stay in their rows and columns; nothing beyond a length is read; neither scores of thousands nor a bias
 * next to the largest number overflow; a row whose every score is -inf is NaN. */
static void special_values(void)
{
    const imagine__kernels *tables[3];
    int count = all_tables(tables);
    check_random r = {4};
    const shape s = {2, 2, 40, 50, 300, 5, 1, 1};
    for (int t = 0; t < count; t++) {
        inputs in = make_inputs(&s, &r);
        int64_t stride = token_stride(&s);
        in.lengths[0] = 290;
        in.lengths[1] = 100;
        in.k[(300 + 100) * stride] = in.v[(300 + 150) * stride + 3] = NAN; /* beyond the second length */
        in.q[7 * stride + 2] = NAN;
        in.v[280 * stride + 41] = NAN;
        in.v[(300 + 99) * stride + 5] = INFINITY;
        for (int64_t j = 0; j < 300; j++) {
            in.bias[(50 + 20) * 300 + j] = -INFINITY; /* head 1, row 20 */
            in.bias[(50 + 21) * 300 + j] = j < 80 ? -INFINITY : 0.5f;
            in.bias[22 * 300 + j] = -3e38f;
            in.bias[23 * 300 + j] = FLT_MAX;
            in.bias[24 * 300 + j] = j < 80 ? -FLT_MAX : 0.5f;
        }
        /* Where all scores are so large, single precision sees no differences. */
        memset(in.q + 22 * stride, 0, 40 * sizeof *in.q);
        memset(in.q + 23 * stride, 0, 40 * sizeof *in.q);
        for (int64_t i = 0; i < 40; i++)
            in.q[30 * stride + i] *= rounds(tables[t], s.d) ? 1 : 3000; /* so large, nothing is left of the differences in bf16 */
        in.q[11 * stride + 45] = INFINITY;
        in.bias[12 * 300 + 17] = INFINITY;
        compare_inputs(tables[t], &s, &in);
        float *y = run_attention(tables[t], &s, &in, CHECK_FORWARD);
        CHECK(isnan(y[7 * stride]) && isfinite(y[7 * stride + 40]) && isfinite(y[8 * stride]));
        CHECK(isnan(y[20 * stride + 40]) && isfinite(y[(50 + 21) * stride + 40]) && isfinite(y[30 * stride]));
        CHECK(isfinite(y[22 * stride]) && isfinite(y[23 * stride]) && isfinite(y[24 * stride]));
        CHECK(isnan(y[25 * stride + 41]) && isfinite(y[25 * stride + 42]));
        check_free(y);
        free_inputs(&in);
    }
    report(limit_for(1, 1));
    if (!count)
        SKIP("this machine has no more than plain C");
}

/* Rows and batches give the same bytes alone as in company. */
static void rows_alone(void)
{
    const imagine__kernels *tables[3];
    int count = all_tables(tables);
    check_random r = {5};
    const shape s = {3, 2, 72, 210, 530, 0, 0, 0};
    for (int t = 0; t < count; t++) {
        inputs in = make_inputs(&s, &r);
        float *all = run_attention(tables[t], &s, &in, CHECK_FORWARD);
        for (int i = 0; i < 12; i++) {
            int64_t batch = check_between(&r, 0, 2), row = check_between(&r, 0, 209);
            int64_t rows = check_between(&r, 1, 210 - row), stride = token_stride(&s);
            inputs part = in;
            part.q += (batch * 210 + row) * stride;
            part.k += batch * 530 * stride;
            part.v += batch * 530 * stride;
            shape one = {1, 2, 72, rows, 530, 0, 0, 0};
            float *y = run_attention(tables[t], &one, &part, CHECK_FORWARD);
            CHECK(memcmp(y, all + (batch * 210 + row) * stride, (size_t)(rows * stride) * sizeof *y) == 0);
            check_free(y);
        }
        check_free(all);
        free_inputs(&in);
    }
    if (!count)
        SKIP("this machine has no more than plain C");
}

/* Keys and values in blocks in any order give the bytes that plain C computes without: a length for each clip, the last block
 * partly filled, all else NaN. */
static void blocks(void)
{
    const imagine__kernels *tables[4];
    int count = all_tables(tables);
    check_random r = {6};
    tables[count++] = &imagine__kernels_plain;
    for (int i = 0; i < 6 * count; i++) {
        shape s = {check_between(&r, 1, 3), check_between(&r, 1, 2), check_between(&r, 1, 40), check_between(&r, 1, 9),
                   check_between(&r, 1, 60), check_between(&r, 0, 2), i & 1, 1};
        inputs in = make_inputs(&s, &r);
        int64_t size = check_between(&r, 1, 30), per = (s.kv + size - 1) / size, all = s.batch * per, stride = token_stride(&s);
        int32_t *table = check_alloc((size_t)all * sizeof *table);
        float *k = check_alloc((size_t)(all * size * stride) * sizeof *k), *v = check_alloc((size_t)(all * size * stride) * sizeof *v);
        for (int64_t j = 0; j < all * size * stride; j++)
            k[j] = v[j] = NAN;
        for (int64_t j = 0; j < all; j++)
            table[j] = (int32_t)(all - 1 - j);
        for (int64_t b = 0; b < s.batch; b++)
            for (int64_t j = 0; j < in.lengths[b]; j++) {
                int64_t at = (table[b * per + j / size] * size + j % size) * stride, from = (b * s.kv + j) * stride;
                memcpy(k + at, in.k + from, (size_t)(s.heads * s.d) * sizeof *k);
                memcpy(v + at, in.v + from, (size_t)(s.heads * s.d) * sizeof *v);
            }
        int64_t n = extent(&s, s.tokens);
        float *y = check_output_floats(n), *wanted = run_attention(&imagine__kernels_plain, &s, &in, CHECK_FORWARD);
        imagine__attention_args a = arguments(&s, &in, y);
        a.k = k, a.v = v, a.k_batch = a.v_batch = -1;
        a.kv_blocks = table, a.kv_block = size, a.blocks_batch = per, a.k_block = a.v_block = size * stride;
        check_run c = check_start(tables[i % count], CHECK_FORWARD);
        tables[i % count]->attention(&c.run, &a);
        CHECK(memcmp(y, wanted, (size_t)n * sizeof *y) == 0);
        check_free(wanted);
        check_free(y);
        free(v);
        free(k);
        free(table);
        free_inputs(&in);
    }
}

/* A clip without keys: no number comes out of any version, and the other clip is as it was. */
static void no_keys(void)
{
    const imagine__kernels *tables[4] = {0};
    check_random r = {27};
    shape s = {.batch = 2, .heads = 3, .d = 20, .tokens = 7, .kv = 9, .lengths = 1};
    inputs in = make_inputs(&s, &r);
    int64_t clip = s.tokens * token_stride(&s);
    int count = all_tables(tables);
    tables[count] = &imagine__kernels_plain;
    for (int t = 0; t <= count; t++) {
        in.lengths[1] = 5;
        float *some = run_attention(tables[t], &s, &in, CHECK_FORWARD);
        in.lengths[1] = 0;
        float *none = run_attention(tables[t], &s, &in, CHECK_FORWARD);
        CHECK(!memcmp(some, none, (size_t)clip * sizeof *some));
        for (int64_t i = 0; i < s.tokens; i++)
            for (int64_t c = 0; c < s.heads * s.d; c++)
                CHECK(isnan(none[clip + i * token_stride(&s) + c]));
        check_free(none);
        check_free(some);
    }
    free_inputs(&in);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"sizes", sizes}, {"random shapes", random_shapes}, {"large heads", large_heads},
        {"special values", special_values}, {"rows alone", rows_alone},
        {"blocks", blocks}, {"no keys", no_keys},
    };
    return test_main("kernels/attention", cases, sizeof cases / sizeof *cases, argc, argv);
}
