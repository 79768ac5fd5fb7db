/* SPDX-License-Identifier: MIT */
#include "cuda_check.h"

/* What sums of floats lose against sums of doubles. Measured: up to 1.6e-13, in shapes of few outputs that cancel; long sums 3e-14. */
static double limit_for(int64_t outputs)
{
    return outputs < 256 ? 1e-12 : 3e-13;
}

/* A result in bf16, or a weight that was multiplied by a gate before it was rounded. A rounding has a relative mean square of 1.1e-6
 * or so, of single values up to 3.8e-6. */
#define LIMIT_ROUNDED 1e-5

typedef struct shape {
    int64_t m, n, k, ldx, ldy;
    imagine__wtype type, x_type, y_type;
    imagine__act act;
    int bias, mul, gate, add; /* add 2: y itself */
    int64_t gate_rows;
} shape;

/* One shape's tensors on the host; `device` has those of the same place on the device. */
enum { X, BIAS, MUL, GATE, ADD, WEIGHT, INPUTS };
typedef struct inputs {
    void *host[INPUTS], *device[INPUTS];
} inputs;

static void make_floats(inputs *in, int which, check_random *r, int64_t n)
{
    in->host[which] = check_input(r, n);
    in->device[which] = cuda_input(in->host[which], (size_t)n * 4);
}

static inputs make_inputs(const shape *s, check_random *r)
{
    inputs in;
    int64_t values = s->m ? (s->m - 1) * s->ldx + s->k : 0;
    in.host[X] = check_input(r, values);
    in.device[X] = cuda_typed_input(in.host[X], values, s->x_type);
    make_floats(&in, BIAS, r, s->n);
    make_floats(&in, MUL, r, s->m * s->n);
    make_floats(&in, GATE, r, ((s->m - 1) / s->gate_rows + 1) * s->n);
    make_floats(&in, ADD, r, s->m * s->n);
    in.host[WEIGHT] = check_weight(r, s->n * s->k, s->type, 1.0f / sqrtf((float)s->k));
    in.device[WEIGHT] = cuda_input(in.host[WEIGHT], (size_t)(s->n * s->k) * cuda_size(s->type));
    return in;
}

static void free_inputs(inputs *in)
{
    for (int i = 0; i < INPUTS; i++) {
        free(in->host[i]);
        cuda->release(in->device[i]);
    }
}

static imagine__linear_weight weight_of(const shape *s, void *const *from)
{
    return (imagine__linear_weight){from[WEIGHT], s->bias ? from[BIAS] : NULL, s->n, s->k, s->type, 0};
}

static imagine__linear_args args_of(const shape *s, void *const *from, const imagine__linear_weight *w, void *y)
{
    return (imagine__linear_args){.w = w, .x = from[X], .y = y, .x_type = s->x_type, .y_type = s->y_type, .m = s->m, .ldx = s->ldx, .ldy = s->ldy, .act = s->act,
                                  .mul = s->mul ? from[MUL] : NULL, .ld_mul = s->n, .gate = s->gate ? from[GATE] : NULL,
                                  .gate_rows = s->gate_rows, .ld_gate = s->n,
                                  .add = s->add == 2 ? y : s->add ? from[ADD] : NULL, .ld_add = s->add == 2 ? s->ldy : s->n};
}

static int64_t outputs_of(const shape *s)
{
    return s->m ? (s->m - 1) * s->ldy + s->n : 0;
}

/* The terms that y itself brings, and bytes of 0xa5 between the rows. */
static float *first_output(const shape *s, const inputs *in)
{
    float *y = check_alloc((size_t)outputs_of(s) * 4);
    memset(y, 0xa5, (size_t)outputs_of(s) * 4);
    for (int64_t i = 0; i < s->m && s->add == 2; i++)
        memcpy(y + i * s->ldy, (float *)in->host[ADD] + i * s->n, (size_t)s->n * 4);
    return y;
}

static float *expected_linear(const shape *s, const inputs *in)
{
    shape in_f32 = *s;
    in_f32.x_type = in_f32.y_type = IMAGINE__W_F32;
    check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
    float *y = first_output(s, in);
    imagine__linear_weight w = weight_of(s, in->host);
    imagine__linear_args a = args_of(&in_f32, in->host, &w, y);
    imagine__kernels_plain.linear(&c.run, &a);
    return y;
}

static float *device_linear(const shape *s, const inputs *in, const imagine__cuda_call *call)
{
    void *y = cuda_output((size_t)outputs_of(s) * cuda_size(s->y_type));
    if (s->add == 2) {
        float *first = first_output(s, in);
        CUDA_OK(cuda->upload(y, first, (size_t)outputs_of(s) * 4, NULL));
        free(first);
    }
    imagine__linear_weight w = weight_of(s, in->device);
    imagine__linear_args a = args_of(s, in->device, &w, y);
    CUDA_OK(cuda->linear(&a, call));
    return cuda_fetch_rows(y, s->y_type, s->m, s->n, s->ldy, outputs_of(s));
}

static void compare(const shape *s, check_random *r, const imagine__cuda_call *call, double limit)
{
    inputs in = make_inputs(s, r);
    if (call->precision == IMAGINE__CUDA_BF16) {
        cuda_round(in.host[X], (s->m - 1) * s->ldx + s->k);
        cuda_round(s->type == IMAGINE__W_F32 ? in.host[WEIGHT] : NULL, s->n * s->k);
    }
    float *expected = expected_linear(s, &in), *y = device_linear(s, &in, call);
    if (s->y_type)
        limit = LIMIT_ROUNDED;
    int same = cuda_same(y, expected, s->m, s->n, s->ldy, call->precision || s->y_type, limit);
    CHECK(same);
    if (!same && test_failures < 5)
        fprintf(stderr, "    m %d n %d k %d ldx %d ldy %d types %d%d%d act %d bias %d mul %d gate %d add %d: NMSE up to %g\n",
                (int)s->m, (int)s->n, (int)s->k, (int)s->ldx, (int)s->ldy, (int)s->x_type, (int)s->type, (int)s->y_type, (int)s->act, s->bias, s->mul, s->gate,
                s->add, check_worst);
    free(y);
    free(expected);
    free_inputs(&in);
}

static shape random_shape(check_random *r, int64_t m, int64_t n, int64_t k)
{
    int64_t by = check_between(r, 0, 1) ? 1 : 4; /* vectors where all strides are multiples of four */
    shape s = {.m = m, .n = n, .k = k, .ldx = k + by * check_between(r, 0, 3), .ldy = n + by * check_between(r, 0, 3),
               .type = (imagine__wtype)check_between(r, 0, 1), .act = (imagine__act)check_between(r, 0, 3),
               .bias = (int)check_between(r, 0, 1), .mul = (int)check_between(r, 0, 1), .gate = (int)check_between(r, 0, 1),
               .add = (int)check_between(r, 0, 2), .gate_rows = check_between(r, 1, m)};
    return s;
}

static const imagine__cuda_call exact = {.precision = IMAGINE__CUDA_F32};

static void shapes(void)
{
    static const int64_t edges[] = {1, 2, 4, 7, 8, 16, 17, 63, 64, 65, 128, 129};
    const int count = (int)(sizeof edges / sizeof *edges);
    check_random r = {1};
    for (int i = 0; i < 120; i++) {
        int64_t m = edges[check_between(&r, 0, count - 1)], n = edges[check_between(&r, 0, count - 1)];
        shape s = random_shape(&r, m, n, i % 2 ? check_between(&r, 1, 90) : 8 * check_between(&r, 1, 12));
        s.x_type = i % 5 == 0, s.y_type = i % 7 == 0 && s.add != 2;
        cuda_check_prefer(i % 3 ? 80 : 90, (uint32_t)i);
        compare(&s, &r, &exact, limit_for(m * n));
    }
    cuda_report("linear, shapes");
}

/* Long sums, as in the last layer of a feed-forward network. */
static void deep(void)
{
    check_random r = {2};
    for (int i = 0; i < 6; i++) {
        int64_t n = i < 3 ? 40 : 12; /* there is a kernel for few outputs */
        shape s = random_shape(&r, 33, n, 3000 + i);
        s.ldx = i % 4 ? s.ldx : s.k; /* in vectors */
        compare(&s, &r, &exact, limit_for(33 * n));
    }
    cuda_report("linear, long sums");
}

/* On the tensor cores, whose operands are rounded to bf16; their products are exact. The sums are in f32, but a GPU cuts off
 * where floats round, hence more room than the emulator's 1.2e-14 needs. */
#define LIMIT_BF16 1e-11

static void tensor_cores(void)
{
    static const int64_t edges[] = {1, 7, 8, 64, 127, 128, 129, 200};
    const int count = (int)(sizeof edges / sizeof *edges);
    check_random r = {6};
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 20);
    for (int i = 0; i < 60; i++) {
        int64_t m = edges[check_between(&r, 0, count - 1)], n = edges[check_between(&r, 0, count - 1)];
        shape s = random_shape(&r, m, n, i % 3 ? 8 * check_between(&r, 1, 20) : check_between(&r, 1, 100));
        s.x_type = i % 2, s.y_type = i / 2 % 2 && s.add != 2;
        cuda_check_prefer(i % 3 ? 80 : 90, (uint32_t)i);
        compare(&s, &r, &call, LIMIT_BF16);
    }
    cuda_report("linear, tensor cores");
    cuda->release(call.workspace);
}

#define FEW 8 /* rows have kernels of their own */

/* The inputs of rows first.. of x and W, which may begin at addresses that are no multiples of anything. */
static inputs inputs_from(const shape *s, const inputs *all, int64_t x_row, int64_t x_value, int64_t w_row)
{
    inputs in = *all;
    int64_t x = x_row * s->ldx + x_value, w = w_row * s->k;
    in.host[X] = (float *)all->host[X] + x;
    in.device[X] = (char *)all->device[X] + x * (int64_t)cuda_size(s->x_type);
    in.host[WEIGHT] = (char *)all->host[WEIGHT] + w * (int64_t)cuda_size(s->type);
    in.device[WEIGHT] = (char *)all->device[WEIGHT] + w * (int64_t)cuda_size(s->type);
    return in;
}

/* One row, several, one more than have kernels of their own: sums shorter and longer than a chain of 256, a block's chains, a warp's
 * turn; outputs that no block's are a multiple of; all types, all epilogues. */
static void few_rows(void)
{
    static const int64_t outputs[] = {13, 15, 16, 17, 48, 50}, depths[] = {4, 8, 20, 37, 72, 128, 255, 256, 264, 520, 776, 1032, 1608, 2052};
    check_random r = {19};
    for (int i = 0; i < 9 * 32; i++) {
        int64_t m = 1 + i % (FEW + 1);
        shape s = random_shape(&r, m, outputs[check_between(&r, 0, 5)], depths[check_between(&r, 0, m <= FEW ? 13 : 7)]);
        imagine__cuda_call call = {.precision = i / 9 % 2 ? IMAGINE__CUDA_BF16 : IMAGINE__CUDA_F32};
        s.type = i / 18 % 2, s.x_type = i / 36 % 2, s.y_type = i / 72 % 2 && s.add != 2;
        if (m > FEW || s.k % (s.type ? 8 : 4)) /* rounded in the workspace, if they are */
            call.precision = IMAGINE__CUDA_F32;
        cuda_check_prefer(i % 2 ? 80 : 90, (uint32_t)i);
        compare(&s, &r, &call, call.precision ? LIMIT_BF16 : limit_for(m * s.n));
    }
    cuda_report("linear, few rows");
}

/* Rows of x and W that begin anywhere. In bf16 W then goes by way of the workspace. */
static void few_rows_anywhere(void)
{
    check_random r = {20};
    imagine__cuda_call calls[] = {exact, cuda_call_bf16((size_t)1 << 20)};
    for (int i = 0; i < 48; i++) {
        int64_t k = i / 4 % 2 ? 65 : 264;
        shape s = {.m = 6, .n = 21, .k = k, .ldx = k + i / 8 % 3, .ldy = 21, .type = i % 2, .x_type = i / 2 % 2, .bias = 1, .gate_rows = 1};
        const imagine__cuda_call *call = &calls[i / 24];
        inputs all = make_inputs(&s, &r);
        if (call->precision == IMAGINE__CUDA_BF16) {
            cuda_round(all.host[X], (s.m - 1) * s.ldx + s.k);
            cuda_round(s.type == IMAGINE__W_F32 ? all.host[WEIGHT] : NULL, s.n * s.k);
        }
        inputs in = inputs_from(&s, &all, 1, i % 3, i / 4 % 2 + 1);
        s.m = 4, s.n = 19;
        float *expected = expected_linear(&s, &in), *y = device_linear(&s, &in, call);
        CHECK(cuda_same(y, expected, s.m, s.n, s.ldy, call->precision, call->precision ? LIMIT_BF16 : limit_for(s.m * s.n)));
        free(y);
        free(expected);
        free_inputs(&all);
    }
    cuda_report("linear, few rows anywhere");
    cuda->release(calls[1].workspace);
}

/* A row's bytes do not depend on how many there are: in f32 however many, in bf16 as long as they are few. */
static void few_rows_alone(void)
{
    check_random r = {21};
    for (int i = 0; i < 8; i++) {
        imagine__cuda_call call = {.precision = i / 4 ? IMAGINE__CUDA_BF16 : IMAGINE__CUDA_F32};
        shape s = {.m = i / 4 ? FEW : 3 * FEW, .n = 18, .k = 1800, .ldx = 1800, .ldy = 18, .type = i % 2, .x_type = i / 2 % 2, .bias = 1,
                   .act = IMAGINE__ACT_SILU, .gate = 1, .gate_rows = 1, .add = 1};
        inputs in = make_inputs(&s, &r);
        float *all = device_linear(&s, &in, &call);
        for (s.m = 1; s.m <= FEW + !(i / 4); s.m++) {
            float *some = device_linear(&s, &in, &call);
            CHECK(memcmp(some, all, (size_t)(s.m * s.n) * sizeof *some) == 0);
            free(some);
        }
        s.m = 1, s.gate = s.add = 0;
        inputs last = inputs_from(&s, &in, 5, 0, 0);
        float *alone = device_linear(&s, &last, &call);
        s.m = 6;
        float *six = device_linear(&s, &in, &call);
        CHECK(memcmp(alone, six + 5 * s.n, (size_t)s.n * sizeof *alone) == 0);
        free(alone);
        free(six);
        free(all);
        free_inputs(&in);
    }
}

/* With room for a few rows at a time the bytes are the same; with none it is the product in f32. */
static void pieces(void)
{
    check_random r = {7};
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 20), little = call, none = call;
    little.workspace_size = 128 * 48 * 2 + 30 * 48 * 2 + 1024;
    none.workspace = NULL;
    shape s = {.m = 300, .n = 30, .k = 45, .ldx = 45, .ldy = 30, .bias = 1, .gate = 1, .gate_rows = 7, .add = 1, .mul = 1};
    inputs in = make_inputs(&s, &r);
    float *whole = device_linear(&s, &in, &call), *parts = device_linear(&s, &in, &little);
    float *without = device_linear(&s, &in, &none), *in_f32 = device_linear(&s, &in, &exact);
    CHECK(memcmp(whole, parts, 300 * 30 * 4) == 0);
    CHECK(memcmp(without, in_f32, 300 * 30 * 4) == 0);
    CHECK(memcmp(whole, in_f32, 300 * 30 * 4) != 0);
    free(whole);
    free(parts);
    free(without);
    free(in_f32);
    free_inputs(&in);
    cuda->release(call.workspace);
}

/* Through cuBLASLt: what it can do all of, what it can do the sums of, and pieces. On a GPU the layers are larger, for it is
 * asked only for large ones, and this is what tells whether its gelu is the one of tanh. */
static void library(void)
{
    check_random r = {8};
    int emulated = cuda_check_library(1, 1 << 30), scale = emulated ? 1 : 8, expected = 0;
    imagine__cuda_call call = cuda_call_bf16((size_t)(emulated ? 4 : 64) << 20);
    call.products = check_alloc(cuda->products_size());
    int there = cuda->products_open(call.products, NULL, 0);
    CHECK(there || !emulated);
    printf("    cuBLASLt is %sthere\n", there ? "" : "not ");
    for (int i = 0; i < 24; i++) {
        shape s = random_shape(&r, scale * check_between(&r, 16, 160), scale * 4 * check_between(&r, 8, 40),
                               scale * 8 * check_between(&r, 2, 12));
        s.ldy = s.n + 4 * (i % 2);
        s.act = i % 3 ? s.act : IMAGINE__ACT_GELU_TANH;
        s.mul = s.gate = 0;
        s.add = i % 3 ? s.add : 0;
        if (i % 4 == 3)
            s.gate = 1, s.gate_rows = 1 + s.gate_rows % 20;
        s.x_type = i % 2, s.y_type = i / 2 % 2 && s.add != 2;
        imagine__cuda_call less = call;
        if (i % 5 == 0) /* room for W, cuBLASLt's quarter of the rest, and 128 rows of x and of sums */
            less.workspace_size = (size_t)(s.n * s.k * 2 + (128 * (2 * s.k + 4 * s.n) + 2048) * 4 / 3 + 1024);
        compare(&s, &r, &less, LIMIT_BF16);
        expected++;
        s.x_type = s.y_type = IMAGINE__W_F32;
        s.n = emulated ? s.n : 4 * s.n; /* in f32 it is the weights that are to be large */
        s.m = emulated ? s.m : 100;
        s.ldy = s.n;
        s.ldx = s.k + 4 * (i % 3);
        less.precision = IMAGINE__CUDA_F32;
        less.workspace_size = i % 5 ? call.workspace_size : (size_t)(s.n * s.k * 4 + (512 * s.n + 2048) * 4 / 3 + 1024);
        compare(&s, &r, &less, emulated ? limit_for(s.m * s.n) : LIMIT_BF16); /* sums of f32 that are never folded */
        expected++;
    }
    CHECK(!emulated || cuda_check_products() >= expected);
    cuda_report("linear, cuBLASLt");
    cuda->products_close(call.products);
    cuda->release(call.workspace);
    free(call.products);
    cuda_check_library(0, 0);
}

/* A gate that many rows share goes into W: clips with a gate each, the last one shorter, whole and in pieces, with and without room
 * for the other W, and where cuBLASLt refuses. */
static void folded_gate(void)
{
    check_random r = {15};
    int emulated = cuda_check_library(1, 1 << 30);
    size_t size = (size_t)(emulated ? 1 : 64) << 20;
    imagine__cuda_call calls[2] = {cuda_call_bf16(size), cuda_call(IMAGINE__CUDA_F32, size)};
    void *products = check_alloc(cuda->products_size());
    for (int i = 0; i < 24; i += emulated ? 1 : 3) {
        imagine__cuda_call call = calls[i % 2];
        shape s = {.m = (emulated ? 200 : 1300) + i, .n = emulated ? 40 : 1024, .k = emulated ? 48 : 1024, .gate = 1,
                   .gate_rows = emulated ? 96 : 1030, .bias = i / 2 % 2, .add = i % 3, .type = (imagine__wtype)(i / 4 % 2),
                   .x_type = (imagine__wtype)(i % 4 == 2)};
        s.ldx = s.k, s.ldy = s.n;
        int refused = emulated && i % 8 >= 6;
        size_t w = (size_t)(s.n * s.k) * (i % 2 ? 4 : 2);
        if (i / 8 == 1) /* a few rows at a time */
            call.workspace_size = 3 * w + 4 * (size_t)(128 * (2 * s.k + 4 * s.n) + 2048);
        if (i / 8 == 2) /* not for two W */
            call.workspace_size = w + w / 4 + 4 * (size_t)(128 * (2 * s.k + 4 * s.n)) / 3 + 4096;
        (void)cuda_check_library(1, refused ? 40 : 1 << 30);
        (void)cuda->products_open(products, NULL, 0);
        call.products = products;
        compare(&s, &r, &call, i % 2 ? LIMIT_BF16 : LIMIT_ROUNDED);
        CHECK(!emulated || refused || cuda_check_products() > 0);
        cuda->products_close(products);
    }
    cuda_report("linear, gates in weights");
    for (int i = 0; i < 2; i++)
        cuda->release(calls[i].workspace);
    free(products);
    cuda_check_library(0, 0);
}

/* Of a gate that goes into W the bias is f32, which cuBLASLt does not take for a result in bf16; with and without one, with room for
 * the other W and without. */
static void folded_bias(void)
{
    check_random r = {16};
    int emulated = cuda_check_library(1, 1 << 30);
    imagine__cuda_call call = cuda_call_bf16((size_t)(emulated ? 1 : 64) << 20);
    call.products = check_alloc(cuda->products_size());
    (void)cuda->products_open(call.products, NULL, 0);
    for (int i = 0; i < 4; i++) {
        shape s = {.m = emulated ? 200 : 1300, .n = emulated ? 40 : 1024, .k = emulated ? 320 : 1024, .gate = 1,
                   .gate_rows = emulated ? 96 : 1030, .bias = i % 2, .type = IMAGINE__W_BF16, .x_type = IMAGINE__W_BF16,
                   .y_type = IMAGINE__W_BF16};
        s.ldx = s.k, s.ldy = s.n;
        imagine__cuda_call less = call;
        if (i / 2)
            less.workspace_size = (size_t)(128 * 4 * s.n) * 4 / 3 + 4096;
        compare(&s, &r, &less, LIMIT_ROUNDED);
    }
    CHECK(!emulated || cuda_check_products() > 0);
    cuda_report("linear, gates in weights, bf16");
    cuda->products_close(call.products);
    cuda->release(call.workspace);
    free(call.products);
    cuda_check_library(0, 0);
}

/* Sums of rows that are no groups of four lie in the workspace one behind the other, however far apart those of y are. */
static void library_odd_rows(void)
{
    check_random r = {17};
    int emulated = cuda_check_library(1, 1 << 30);
    imagine__cuda_call calls[2] = {cuda_call_bf16((size_t)(emulated ? 1 : 64) << 20), cuda_call(IMAGINE__CUDA_F32, (size_t)64 << 20)};
    void *products = check_alloc(cuda->products_size());
    (void)cuda->products_open(products, NULL, 0);
    for (int i = 0; i < 2; i++) {
        shape s = {.m = emulated ? 70 : 700, .n = emulated ? 66 : 1026, .k = emulated ? 40 : 1024, .act = IMAGINE__ACT_SILU, .bias = 1,
                   .add = 2, .gate_rows = 1};
        s.ldx = s.k, s.ldy = s.n + 2;
        calls[i].products = products;
        compare(&s, &r, &calls[i], LIMIT_BF16);
    }
    CHECK(!emulated || cuda_check_products() == 2);
    cuda_report("linear, cuBLASLt, odd rows");
    cuda->products_close(products);
    for (int i = 0; i < 2; i++)
        cuda->release(calls[i].workspace);
    free(products);
    cuda_check_library(0, 0);
}

/* A result in bf16 that is aligned to 16 bytes is for cuBLASLt; one that is aligned to 8 is for our own kernel, where cuBLASLt would
 * have been told otherwise. */
static void library_alignment(void)
{
    check_random r = {18};
    int emulated = cuda_check_library(1, 1 << 30);
    int64_t n = emulated ? 40 : 1024, m = emulated ? 70 : 700;
    shape s = {.m = m, .n = n, .k = n, .ldx = n, .ldy = n, .bias = 1, .gate_rows = 1, .type = IMAGINE__W_BF16,
               .x_type = IMAGINE__W_BF16, .y_type = IMAGINE__W_BF16};
    inputs in = make_inputs(&s, &r);
    imagine__linear_weight w = weight_of(&s, in.device);
    imagine__cuda_call call = cuda_call_bf16((size_t)(emulated ? 1 : 64) << 20);
    void *products = check_alloc(cuda->products_size());
    (void)cuda->products_open(products, NULL, 0);
    for (int at = 8; at <= 16; at += 8) {
        size_t size = (size_t)(m * n) * 2 + (size_t)at;
        char *made[2];
        for (int i = 0; i < 2; i++) {
            char *y = cuda_output(size);
            imagine__linear_args a = args_of(&s, in.device, &w, y + at);
            call.products = i ? products : NULL;
            CUDA_OK(cuda->linear(&a, &call));
            made[i] = cuda_fetch(y, size);
        }
        CHECK(at % 16 == 0 || memcmp(made[0], made[1], size) == 0);
        CHECK(!emulated || cuda_check_products() == (at % 16 == 0));
        free(made[0]);
        free(made[1]);
    }
    cuda->products_close(products);
    cuda->release(call.workspace);
    free(products);
    free_inputs(&in);
    cuda_check_library(0, 0);
}

/* In f32 a row has the same bytes whatever else is in the batch, with cuBLASLt too. */
static void library_neighbours(void)
{
    static const int64_t counts[] = {1, 2, 37, 128, 300};
    check_random r = {14};
    int emulated = cuda_check_library(1, 1 << 30);
    int64_t k = emulated ? 48 : 1536, n = emulated ? 40 : 1536;
    imagine__cuda_call call = cuda_call(IMAGINE__CUDA_F32, (size_t)(emulated ? 4 : 64) << 20);
    shape s = {.m = 300, .n = n, .k = k, .ldx = k, .ldy = n, .bias = 1, .gate_rows = 300, .type = IMAGINE__W_F32};
    call.products = check_alloc(cuda->products_size());
    (void)cuda->products_open(call.products, NULL, 0);
    inputs in = make_inputs(&s, &r);
    for (int gate = 0; gate < 2; gate++) {
        s.m = 300, s.gate = gate, s.add = gate;
        float *all = device_linear(&s, &in, &call);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            s.m = counts[i];
            float *y = device_linear(&s, &in, &call);
            CHECK(memcmp(y, all, (size_t)(s.m * n) * sizeof *y) == 0);
            free(y);
        }
        free(all);
    }
    free_inputs(&in);
    cuda->products_close(call.products);
    cuda->release(call.workspace);
    free(call.products);
    cuda_check_library(0, 0);
}

/* Which GELU cuBLASLt's epilogue computes: the one of tanh, which it is asked for, is to be nearer than the one of erf. */
static void library_gelu(void)
{
    check_random r = {10};
    int emulated = cuda_check_library(1, 1 << 30);
    int64_t n = emulated ? 64 : 1024;
    double error[2];
    imagine__cuda_call call = cuda_call_bf16((size_t)(emulated ? 4 : 64) << 20);
    shape s = {.m = n, .n = n, .k = 128, .ldx = 128, .ldy = n, .bias = 1, .gate_rows = 1, .type = IMAGINE__W_BF16,
               .act = IMAGINE__ACT_GELU_TANH}, other = s;
    other.act = IMAGINE__ACT_GELU_ERF;
    call.products = check_alloc(cuda->products_size());
    int there = cuda->products_open(call.products, NULL, 0);
    inputs in = make_inputs(&s, &r);
    cuda_round(in.host[X], n * 128);
    float *y = device_linear(&s, &in, &call), *expected[2] = {expected_linear(&s, &in), expected_linear(&other, &in)};
    for (int i = 0; i < 2; i++) {
        error[i] = test_nmse(y, expected[i], (size_t)(n * n));
        free(expected[i]);
    }
    printf("    GELU %s cuBLASLt: NMSE %.2g to the one of tanh, %.2g to the one of erf\n", there ? "of" : "without", error[0],
           error[1]);
    CHECK(error[0] < error[1]);
    free(y);
    free_inputs(&in);
    cuda->products_close(call.products);
    cuda->release(call.workspace);
    free(call.products);
    cuda_check_library(0, 0);
}

/* cuBLASLt is not there, or fails at any call: the same bytes as without it. */
static void library_fails(void)
{
    check_random r = {9};
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 20);
    shape s = {.m = 40, .n = 24, .k = 32, .ldx = 32, .ldy = 24, .bias = 1, .act = IMAGINE__ACT_SILU, .add = 2, .gate_rows = 1};
    inputs in = make_inputs(&s, &r);
    float *own = device_linear(&s, &in, &call);
    int begun = 0;
    void *memory = check_alloc(cuda->products_size());
    for (int good = -1; good < 24; good++) {
        if (!cuda_check_library(good >= 0, good))
            break; /* a GPU's does as it does */
        int there = cuda->products_open(memory, NULL, 0);
        CHECK(there == (good > 0));
        call.products = memory;
        for (int again = 0; again < 2; again++) {
            float *y = device_linear(&s, &in, &call);
            CHECK(cuda_check_products() || memcmp(y, own, 40 * 24 * 4) == 0);
            free(y);
        }
        begun += cuda_check_products();
        cuda->products_close(memory);
    }
    CHECK(begun > 0 || !cuda_check_library(0, 0));
    free(memory);
    free(own);
    free_inputs(&in);
    cuda->release(call.workspace);
}

static void nothing(void)
{
    check_random r = {3};
    shape s = random_shape(&r, 5, 7, 9);
    inputs in = make_inputs(&s, &r);
    shape none = s;
    none.m = 0;
    free(device_linear(&none, &in, &exact));
    free_inputs(&in);
}

/* A value that is not finite reaches its row, or its column, and no other. */
static void not_finite_in(int64_t m, int64_t k, imagine__wtype type, const imagine__cuda_call *call)
{
    check_random r = {4};
    shape s = {.m = m, .n = 66, .k = k, .ldx = k, .ldy = 66, .type = type, .bias = 1, .gate_rows = m};
    inputs in = make_inputs(&s, &r);
    float *x = in.host[X];
    x[k + k - 1] = NAN;
    x[(m - 1) * k] = INFINITY;
    if (type == IMAGINE__W_F32)
        ((float *)in.host[WEIGHT])[65 * k + 7] = -INFINITY;
    else
        ((uint16_t *)in.host[WEIGHT])[65 * k + 7] = 0xff80;
    CUDA_OK(cuda->upload(in.device[X], x, (size_t)(m * k) * 4, NULL));
    CUDA_OK(cuda->upload(in.device[WEIGHT], in.host[WEIGHT], (size_t)(66 * k) * cuda_size(type), NULL));
    if (call->precision == IMAGINE__CUDA_BF16) {
        cuda_round(x, m * k);
        cuda_round(type == IMAGINE__W_F32 ? in.host[WEIGHT] : NULL, 66 * k);
    }
    float *expected = expected_linear(&s, &in), *y = device_linear(&s, &in, call);
    CHECK(cuda_same(y, expected, m, 66, 66, call->precision, call->precision ? LIMIT_BF16 : limit_for(m * 66)));
    CHECK(isnan(y[66]) && isinf(y[(m - 1) * 66]) && isinf(y[65]) && isfinite(y[0]) && isfinite(y[64]));
    free(y);
    free(expected);
    free_inputs(&in);
}

static void not_finite(void)
{
    const imagine__cuda_call rounded = {.precision = IMAGINE__CUDA_BF16};
    not_finite_in(70, 40, IMAGINE__W_F32, &exact);
    for (int i = 0; i < 4; i++)
        not_finite_in(3, i / 2 ? 264 : 40, i % 2, &exact);
    for (int i = 0; i < 4; i++)
        not_finite_in(3, i / 2 ? 264 : 40, i % 2, &rounded);
}

/* A row's bytes do not depend on the rows around it. */
static void neighbours_of(const imagine__cuda_call *call, int64_t rows)
{
    check_random r = {5};
    shape s = {.m = 140, .n = 30, .k = 100, .ldx = 100, .ldy = 30, .bias = 1, .gate_rows = 1}, one = s;
    inputs in = make_inputs(&s, &r), last = inputs_from(&s, &in, s.m - rows, 0, 0);
    float *all = device_linear(&s, &in, call);
    one.m = rows;
    float *alone = device_linear(&one, &last, call);
    CHECK(memcmp(all + (s.m - rows) * 30, alone, (size_t)(rows * 30) * 4) == 0);
    free(all);
    free(alone);
    free_inputs(&in);
}

static void neighbours(void)
{
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 20);
    neighbours_of(&exact, 1);
    neighbours_of(&call, FEW + 1); /* fewer have a kernel of their own, which sums in another order */
    cuda->release(call.workspace);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"shapes", shapes}, {"deep", deep}, {"nothing", nothing}, {"not_finite", not_finite}, {"neighbours", neighbours},
        {"few_rows", few_rows}, {"few_rows_anywhere", few_rows_anywhere}, {"few_rows_alone", few_rows_alone}, {"tensor_cores", tensor_cores}, {"pieces", pieces}, {"library", library},
        {"folded_gate", folded_gate}, {"folded_bias", folded_bias}, {"library_odd_rows", library_odd_rows}, {"library_alignment", library_alignment}, {"library_neighbours", library_neighbours}, {"library_gelu", library_gelu}, {"library_fails", library_fails},
    };
    return cuda_check_main("cuda/linear", cases, sizeof cases / sizeof *cases, argc, argv);
}
