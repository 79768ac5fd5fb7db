/* SPDX-License-Identifier: MIT */
#include "check.h"
#include "kernels/cpu/cpu.h"

/* The plain version sums in double, so this is what sums of floats lose. Measured: up to 1.5e-13 over many outputs; a few
 * outputs, where a sum may cancel, up to 3e-13. */
static double limit_for(int64_t outputs)
{
    return outputs < 256 ? 1e-12 : 3e-13;
}

typedef struct shape {
    int64_t m, n, k, ldx, ldy;
    imagine__wtype type;
    imagine__act act;
    int bias, mul, gate, add; /* add 2: y itself */
    int64_t gate_rows;
} shape;

/* The inputs of one shape. */
typedef struct inputs {
    float *x, *bias, *mul, *gate, *add;
    void *w;
} inputs;

static inputs make_inputs(const shape *s, check_random *r)
{
    inputs in = {check_input(r, (s->m - 1) * s->ldx + s->k), check_input(r, s->n), check_input(r, s->m * s->n),
                 check_input(r, ((s->m - 1) / s->gate_rows + 1) * s->n), check_input(r, s->m * s->n),
                 check_weight(r, s->n * s->k, s->type, 1.0f / sqrtf((float)s->k))};
    return in;
}

static void free_inputs(inputs *in)
{
    free(in->x);
    free(in->bias);
    free(in->mul);
    free(in->gate);
    free(in->add);
    free(in->w);
}

/* y, guarded and of stride ldy. W is packed in two goes when it has rows for two. */
static float *run_linear(const imagine__kernels *kernels, const shape *s, const inputs *in, int order)
{
    check_run c = check_start(kernels, order);
    size_t size = kernels->linear_packed_size(s->n, s->k, s->type);
    void *packed = check_output(size);
    int64_t cut = s->n / 2 / kernels->pack_rows * kernels->pack_rows;
    size_t row = (size_t)s->k * (s->type == IMAGINE__W_BF16 ? 2 : 4);
    kernels->pack_linear(packed, (char *)in->w + (size_t)cut * row, cut, s->n - cut, s->n, s->k, s->type);
    kernels->pack_linear(packed, in->w, 0, cut, s->n, s->k, s->type);
    CHECK(check_guards(packed));
    imagine__linear_weight w = {packed, s->bias ? in->bias : NULL, s->n, s->k, s->type, 0};

    float *y = check_output_floats((s->m - 1) * s->ldy + s->n);
    const float *add = s->add ? in->add : NULL;
    if (s->add == 2) {
        for (int64_t i = 0; i < s->m; i++)
            memcpy(y + i * s->ldy, in->add + i * s->n, (size_t)s->n * sizeof *y);
        add = y;
    }
    imagine__linear_args args = {.w = &w, .x = in->x, .y = y, .m = s->m, .ldx = s->ldx, .ldy = s->ldy, .act = s->act,
                                 .mul = s->mul ? in->mul : NULL, .ld_mul = s->n,
                                 .gate = s->gate ? in->gate : NULL, .gate_rows = s->gate_rows, .ld_gate = s->n,
                                 .add = add, .ld_add = s->add == 2 ? s->ldy : s->n};
    kernels->linear(&c.run, &args);
    CHECK(check_guards(y));
    CHECK(check_padding(y, s->m, s->n, s->ldy));
    check_free(packed);
    return y;
}

static void compare(const imagine__kernels *kernels, const shape *s, check_random *r)
{
    inputs in = make_inputs(s, r);
    float *expected = run_linear(&imagine__kernels_plain, s, &in, CHECK_FORWARD);
    float *y = run_linear(kernels, s, &in, CHECK_SHUFFLED);
    int same = check_same(y, expected, s->m, s->n, s->ldy, limit_for(s->m * s->n));
    CHECK(same);
    if (!same && test_failures < 5)
        fprintf(stderr, "    %s: m %d n %d k %d type %d act %d bias %d mul %d gate %d add %d: NMSE up to %g\n",
                kernels->name, (int)s->m, (int)s->n, (int)s->k, (int)s->type, (int)s->act, s->bias, s->mul, s->gate,
                s->add, check_worst);
    check_free(y);
    check_free(expected);
    free_inputs(&in);
}

static shape random_shape(check_random *r, int64_t m, int64_t n, int64_t k)
{
    shape s = {.m = m, .n = n, .k = k, .ldx = k + check_between(r, 0, 5), .ldy = n + check_between(r, 0, 5),
               .type = (imagine__wtype)check_between(r, 0, 1), .act = (imagine__act)check_between(r, 0, 3),
               .bias = (int)check_between(r, 0, 1), .mul = (int)check_between(r, 0, 1),
               .gate = (int)check_between(r, 0, 1), .add = (int)check_between(r, 0, 2),
               .gate_rows = check_between(r, 1, m)};
    return s;
}

static void test_edges(void)
{
    const imagine__kernels *tables[2];
    check_random r = {1};
    for (int t = check_tables(tables) - 1; t >= 0; t--)
        for (int64_t m = 1; m <= 13; m++)
            for (int64_t n = 1; n <= 35; n += 1 + n / 9)
                for (int64_t k = 1; k <= 40; k += 1 + k / 3) {
                    shape s = random_shape(&r, m, n, k);
                    compare(tables[t], &s, &r);
                }
    check_report("linear, small", limit_for(1));
}

/* Several tiles and blocks of K, whole and in part. */
static void test_blocks(void)
{
    static const int64_t sizes[][3] = {{1, 512, 256}, {6, 96, 257}, {48, 256, 256}, {145, 520, 255}, {300, 40, 1100},
                                       {77, 1100, 769}, {2, 33, 4100}, {150, 16, 1536}};
    const imagine__kernels *tables[2];
    check_random r = {2};
    for (int t = check_tables(tables) - 1; t >= 0; t--)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (imagine__wtype type = 0; type < 2; type++) {
                shape s = random_shape(&r, sizes[i][0], sizes[i][1], sizes[i][2]);
                s.type = type;
                compare(tables[t], &s, &r);
            }
    check_report("linear, large", limit_for(1));
}

/* The largest tiles there are, of two blocks of K: the same bytes as in the smaller ones of more threads. 480x512 where tables are
 * tallest, else 240x512 and 144x256. */
static void test_largest_tiles(void)
{
    const imagine__kernels *tables[5];
    int count = check_tables(tables);
    check_random r = {6};
    for (int tall = 0; tall < 3 && check_has_avx512(); tall++)
        tables[count++] = imagine__kernels_avx512(tall);
    for (int t = count - 1; t >= 0; t--)
        for (imagine__wtype type = 0; type < 2; type++) {
            int tallest = tables[t]->tall == 2;
            shape s = random_shape(&r, (tallest ? 1440 : 480) - type, (tallest ? 1536 : 2048) - 8 * type, 390);
            s.type = type;
            inputs in = make_inputs(&s, &r);
            float *expected = run_linear(&imagine__kernels_plain, &s, &in, CHECK_THREADS);
            float *y = run_linear(tables[t], &s, &in, CHECK_FORWARD), *other = run_linear(tables[t], &s, &in, CHECK_THREADS);
            CHECK(check_same(y, expected, s.m, s.n, s.ldy, limit_for(s.m * s.n)));
            for (int64_t i = 0; i < s.m; i++)
                CHECK(memcmp(y + i * s.ldy, other + i * s.ldy, (size_t)s.n * sizeof *y) == 0);
            check_free(other);
            check_free(y);
            check_free(expected);
            free_inputs(&in);
        }
    check_report("linear, largest tiles", limit_for(1000));
}

static void test_epilogues(void)
{
    const imagine__kernels *tables[2];
    check_random r = {3};
    for (int t = check_tables(tables) - 1; t >= 0; t--)
        for (int i = 0; i < 4 * 2 * 2 * 2 * 3; i++) {
            shape s = {.m = 11, .n = 37, .k = 19, .ldx = 21, .ldy = 40, .type = i & 1, .act = i % 4, .bias = i / 4 & 1,
                       .mul = i / 8 & 1, .gate = i / 16 & 1, .add = i / 32, .gate_rows = 3};
            compare(tables[t], &s, &r);
        }
    check_report("linear, epilogues", limit_for(1000));
}

/* NaNs and infinities in x reach exactly the rows that they are in, and the same values. */
static void test_not_finite(void)
{
    const imagine__kernels *tables[2];
    check_random r = {4};
    for (int t = check_tables(tables) - 1; t >= 0; t--)
        for (imagine__act act = 0; act < 4; act++) {
            shape s = {.m = 14, .n = 20, .k = 300, .ldx = 300, .ldy = 20, .act = act, .bias = 1, .gate_rows = 1};
            inputs in = make_inputs(&s, &r);
            in.x[2 * 300 + 7] = NAN;
            in.x[5 * 300 + 299] = INFINITY;
            in.x[9 * 300] = -INFINITY;
            float *expected = run_linear(&imagine__kernels_plain, &s, &in, CHECK_FORWARD);
            float *y = run_linear(tables[t], &s, &in, CHECK_FORWARD);
            CHECK(check_same(y, expected, s.m, s.n, s.ldy, limit_for(s.m * s.n)));
            CHECK(isnan(y[2 * 20]) && !isfinite(y[5 * 20]) && isfinite(y[4 * 20]));
            check_free(y);
            check_free(expected);
            free_inputs(&in);
        }
}

/* The same bytes in any order of tiles and on two threads. */
static void test_orders(void)
{
    const imagine__kernels *tables[2];
    check_random r = {5};
    for (int t = check_tables(tables) - 1; t >= 0; t--) {
        shape s = {.m = 310, .n = 700, .k = 270, .ldx = 270, .ldy = 700, .bias = 1, .act = IMAGINE__ACT_GELU_TANH,
                   .gate_rows = 1};
        inputs in = make_inputs(&s, &r);
        float *first = run_linear(tables[t], &s, &in, CHECK_FORWARD);
        for (int order = CHECK_BACKWARD; order < CHECK_ORDERS; order++) {
            float *y = run_linear(tables[t], &s, &in, order);
            CHECK(memcmp(y, first, (size_t)(s.m * s.n) * sizeof *y) == 0);
            check_free(y);
        }
        check_free(first);
        free_inputs(&in);
    }
}

/* A row has the same bytes alone, in a part of the batch and in the whole of it. */
static void test_rows_alone(void)
{
    const imagine__kernels *tables[2];
    check_random r = {6};
    for (int t = check_tables(tables) - 1; t >= 0; t--) {
        shape s = {.m = 161, .n = 90, .k = 530, .ldx = 530, .ldy = 90, .bias = 1, .act = IMAGINE__ACT_SILU, .type = 1,
                   .gate_rows = 1};
        inputs in = make_inputs(&s, &r);
        float *all = run_linear(tables[t], &s, &in, CHECK_FORWARD);
        for (int64_t row = 0; row < s.m; row += 5) {
            shape part = s;
            inputs from = in;
            part.m = row % 8 + 1 < s.m - row ? row % 8 + 1 : s.m - row;
            from.x += row * s.ldx;
            float *y = run_linear(tables[t], &part, &from, CHECK_FORWARD);
            CHECK(memcmp(y, all + row * s.n, (size_t)(part.m * s.n) * sizeof *y) == 0);
            check_free(y);
        }
        check_free(all);
        free_inputs(&in);
    }
}

/* Groups of 12 rows and of 6 compute the same; the other tests see only the groups that suit this machine. */
static void test_groups(void)
{
    if (!check_has_avx512())
        SKIP("this machine has no AVX-512");
    check_random r = {8};
    for (int64_t i = 0; i < 160; i++) {
        shape s = random_shape(&r, i < 80 ? i + 1 : check_between(&r, 81, 1100), check_between(&r, 1, 700), check_between(&r, 1, 700));
        s.ldy = s.n;
        inputs in = make_inputs(&s, &r);
        float *small = run_linear(imagine__kernels_avx512(0), &s, &in, CHECK_FORWARD);
        float *tall = run_linear(imagine__kernels_avx512((int)(1 + i % 2)), &s, &in, i / 2 % 2 ? CHECK_FORWARD : CHECK_SHUFFLED);
        CHECK(memcmp(small, tall, (size_t)(s.m * s.n) * sizeof *tall) == 0);
        check_free(small);
        check_free(tall);
        free_inputs(&in);
    }
}

/* ---- AVX512-BF16, AMX-BF16 ---- */

/* NULL: not on this machine. */
static const imagine__kernels *table_of(int32_t level)
{
    int32_t used;
    const imagine__kernels *table = imagine__kernels_for_cpu(level, &used);
    return used == level ? table : NULL;
}

static float rounded(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (!isnan(value))
        bits += 0x7fff + (bits >> 16 & 1);
    bits &= 0xffff0000u;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

/* Beside plain C on rounded x; gives the squared error beside plain C on x as it is, relative to its power. */
static double compare_bf16(const imagine__kernels *kernels, const shape *s, const inputs *in)
{
    int64_t count = (s->m - 1) * s->ldx + s->k;
    inputs half = *in;
    half.x = check_alloc((size_t)count * sizeof *half.x);
    for (int64_t i = 0; i < count; i++)
        half.x[i] = rounded(in->x[i]);
    float *expected = run_linear(&imagine__kernels_plain, s, &half, CHECK_FORWARD);
    float *exact = run_linear(&imagine__kernels_plain, s, in, CHECK_FORWARD);
    float *y = run_linear(kernels, s, in, CHECK_SHUFFLED);
    int same = check_same(y, expected, s->m, s->n, s->ldy, limit_for(s->m * s->n));
    CHECK(same);
    if (!same && test_failures < 5)
        fprintf(stderr, "    m %d n %d k %d: NMSE up to %g\n", (int)s->m, (int)s->n, (int)s->k, check_worst);
    double worst = check_worst;
    check_worst = 0;
    check_same(y, exact, s->m, s->n, s->ldy, 1);
    double rounding = check_worst;
    check_worst = worst;
    check_free(y);
    check_free(exact);
    check_free(expected);
    free(half.x);
    return rounding;
}

static void test_bf16_level(const imagine__kernels *table)
{
    static const int64_t sizes[][3] = {{1, 1, 1}, {1, 33, 2}, {5, 16, 3}, {7, 100, 31}, {14, 17, 33}, {1, 512, 256},
                                       {48, 256, 256}, {145, 520, 767}, {77, 300, 769}, {300, 40, 1100}, {150, 16, 1537}, {33, 48, 1024}};
    check_random r = {7};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        shape s = random_shape(&r, sizes[i][0], sizes[i][1], sizes[i][2]);
        s.type = IMAGINE__W_BF16;
        inputs in = make_inputs(&s, &r);
        compare_bf16(table, &s, &in);
        free_inputs(&in);
    }
    check_report("linear, bf16 beside rounded activations", limit_for(1));
    shape s = {.m = 96, .n = 256, .k = 1536, .ldx = 1536, .ldy = 256, .type = IMAGINE__W_BF16, .gate_rows = 1};
    inputs in = make_inputs(&s, &r);
    double rounding = compare_bf16(table, &s, &in);
    CHECK(rounding > 1e-6 && rounding < 4e-6); /* measured: 2.8e-6 */
    printf("    linear, bf16 beside f32: NMSE %.2g\n", rounding);
    free_inputs(&in);
}

static void test_bf16(void)
{
    const imagine__kernels *table = table_of(IMAGINE_CPU_AVX512BF16);
    if (!table)
        SKIP("this machine has no AVX512-BF16");
    test_bf16_level(table);
}

static void test_amx(void)
{
    const imagine__kernels *table = table_of(IMAGINE_CPU_AMX);
    if (!table)
        SKIP("this machine has no AMX-BF16");
    test_bf16_level(table);
}

/* The same bytes in any order of tiles and for rows alone; NaNs and infinities in their rows; f32 weights as without it; and
 * never without being asked for. */
static void test_promises_of(const imagine__kernels *table)
{
    check_random r = {8};
    shape s = {.m = 161, .n = 90, .k = 1531, .ldx = 1531, .ldy = 90, .bias = 1, .type = IMAGINE__W_BF16, .gate_rows = 1};
    inputs in = make_inputs(&s, &r);
    in.x[2 * 1531 + 7] = NAN;
    in.x[5 * 1531 + 1530] = INFINITY;
    compare_bf16(table, &s, &in);
    float *all = run_linear(table, &s, &in, CHECK_FORWARD);
    CHECK(isnan(all[2 * 90]) && !isfinite(all[5 * 90]) && isfinite(all[4 * 90]));
    for (int order = CHECK_BACKWARD; order < CHECK_ORDERS; order++) {
        float *y = run_linear(table, &s, &in, order);
        CHECK(memcmp(y, all, (size_t)(s.m * s.n) * sizeof *y) == 0);
        check_free(y);
    }
    for (int64_t row = 0; row < s.m; row += 5) {
        shape part = s;
        inputs from = in;
        part.m = row % 8 + 1 < s.m - row ? row % 8 + 1 : s.m - row;
        from.x += row * s.ldx;
        float *y = run_linear(table, &part, &from, CHECK_FORWARD);
        CHECK(memcmp(y, all + row * s.n, (size_t)(part.m * s.n) * sizeof *y) == 0);
        check_free(y);
    }
    check_free(all);
    free_inputs(&in);
    s.type = IMAGINE__W_F32;
    in = make_inputs(&s, &r);
    float *y = run_linear(table, &s, &in, CHECK_FORWARD);
    float *f32 = run_linear(imagine__kernels_for_cpu(IMAGINE_CPU_AVX512, NULL), &s, &in, CHECK_FORWARD);
    CHECK(memcmp(y, f32, (size_t)(s.m * s.n) * sizeof *y) == 0);
    check_free(y);
    check_free(f32);
    free_inputs(&in);
}

static void test_bf16_promises(void)
{
    const imagine__kernels *table = table_of(IMAGINE_CPU_AVX512BF16);
    int32_t used;
    imagine__kernels_for_cpu(IMAGINE_CPU_BEST, &used);
    CHECK(used <= IMAGINE_CPU_AVX512);
    if (!table)
        SKIP("this machine has no AVX512-BF16");
    test_promises_of(table);
}

static void test_amx_promises(void)
{
    const imagine__kernels *table = table_of(IMAGINE_CPU_AMX);
    if (!table)
        SKIP("this machine has no AMX-BF16");
    test_promises_of(table);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"edges", test_edges}, {"blocks", test_blocks}, {"largest tiles", test_largest_tiles}, {"epilogues", test_epilogues},
        {"not finite", test_not_finite}, {"orders", test_orders}, {"rows alone", test_rows_alone}, {"groups", test_groups},
        {"bf16", test_bf16}, {"bf16 promises", test_bf16_promises},
        {"amx", test_amx}, {"amx promises", test_amx_promises},
    };
    return test_main("kernels/linear", cases, sizeof cases / sizeof *cases, argc, argv);
}
