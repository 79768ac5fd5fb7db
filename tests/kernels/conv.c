/* SPDX-License-Identifier: MIT */
#include "check.h"
#include "kernels/cpu/cpu.h"

/* As for linear. Measured: up to 3e-13 over few outputs, 1e-13 over many. */
static double limit_for(int64_t outputs)
{
    return outputs < 256 ? 1e-12 : 3e-13;
}

typedef struct shape {
    int64_t cin, cout, height, width, ldx, ldy;
    int32_t kt, kh, kw, stride_h, stride_w, pad_top, pad_left, pad_end, upsample;
    imagine__wtype type;
    imagine__act act;
    int bias, add; /* add 2: y itself */
    unsigned absent; /* bits of the frames that are NULL */
} shape;

static int64_t out_size(const shape *s, int64_t size, int32_t kernel, int32_t stride, int32_t pad)
{
    return (size * s->upsample + pad + s->pad_end - kernel) / stride + 1;
}

typedef struct inputs {
    float *frames[4], *zeros, *bias, *add;
    void *w;
    int64_t out_h, out_w;
} inputs;

static inputs make_inputs(const shape *s, check_random *r)
{
    int64_t pixels = s->height * s->width, k = s->cin * s->kt * s->kh * s->kw;
    inputs in = {.out_h = out_size(s, s->height, s->kh, s->stride_h, s->pad_top),
                 .out_w = out_size(s, s->width, s->kw, s->stride_w, s->pad_left)};
    int64_t frame = (pixels - 1) * s->ldx + s->cin;
    for (int32_t t = 0; t < s->kt; t++)
        in.frames[t] = check_input(r, frame);
    in.zeros = check_alloc((size_t)frame * sizeof(float));
    memset(in.zeros, 0, (size_t)frame * sizeof(float));
    in.bias = check_input(r, s->cout);
    in.add = check_input(r, in.out_h * in.out_w * s->cout);
    in.w = check_weight(r, s->cout * k, s->type, 1.0f / sqrtf((float)k));
    return in;
}

static void free_inputs(inputs *in)
{
    for (int t = 0; t < 4; t++)
        free(in->frames[t]);
    free(in->zeros);
    free(in->bias);
    free(in->add);
    free(in->w);
}

/* Absent frames are NULL, or frames of zeros when `zeros`. */
static float *run_conv(const imagine__kernels *kernels, const shape *s, const inputs *in, int order, int zeros)
{
    check_run c = check_start(kernels, order);
    void *packed = check_output(kernels->conv_packed_size(s->cout, s->cin, s->kt, s->kh, s->kw, s->type));
    kernels->pack_conv(packed, in->w, s->cout, s->cin, s->kt, s->kh, s->kw, s->type);
    CHECK(check_guards(packed));
    imagine__conv_weight w = {packed, s->bias ? in->bias : NULL, s->cout, s->cin, s->kt, s->kh, s->kw, s->type};

    const float *frames[4];
    for (int32_t t = 0; t < s->kt; t++)
        frames[t] = s->absent >> t & 1 ? zeros ? in->zeros : NULL : in->frames[t];
    int64_t pixels = in->out_h * in->out_w;
    float *y = check_output_floats((pixels - 1) * s->ldy + s->cout);
    const float *add = s->add ? in->add : NULL;
    if (s->add == 2) {
        for (int64_t i = 0; i < pixels; i++)
            memcpy(y + i * s->ldy, in->add + i * s->cout, (size_t)s->cout * sizeof *y);
        add = y;
    }
    imagine__conv_args args = {.w = &w, .x = frames, .y = y, .add = add, .height = s->height, .width = s->width,
                               .out_h = in->out_h, .out_w = in->out_w, .ldx = s->ldx, .ldy = s->ldy,
                               .ld_add = s->add == 2 ? s->ldy : s->cout, .stride_h = s->stride_h,
                               .stride_w = s->stride_w, .pad_top = s->pad_top, .pad_left = s->pad_left,
                               .upsample = s->upsample, .act = s->act};
    kernels->conv(&c.run, &args);
    CHECK(check_guards(y));
    CHECK(check_padding(y, pixels, s->cout, s->ldy));
    check_free(packed);
    return y;
}

static void compare(const imagine__kernels *kernels, const shape *s, check_random *r)
{
    inputs in = make_inputs(s, r);
    int64_t pixels = in.out_h * in.out_w;
    float *expected = run_conv(&imagine__kernels_plain, s, &in, CHECK_FORWARD, 1);
    float *y = run_conv(kernels, s, &in, CHECK_SHUFFLED, 0);
    int same = check_same(y, expected, pixels, s->cout, s->ldy, limit_for(pixels * s->cout));
    CHECK(same);
    if (!same && test_failures < 5)
        fprintf(stderr, "    %s: %dx%d of %d to %dx%d of %d, kernel %d %d %d, stride %d %d, pads %d %d, upsample %d, "
                "type %d act %d add %d absent %u: NMSE up to %g\n", kernels->name, (int)s->height, (int)s->width,
                (int)s->cin, (int)in.out_h, (int)in.out_w, (int)s->cout, s->kt, s->kh, s->kw, s->stride_h, s->stride_w,
                s->pad_top, s->pad_left, s->upsample, s->type, s->act, s->add, s->absent, check_worst);
    check_free(y);
    check_free(expected);
    free_inputs(&in);
}

/* Every version against the plain one, and the plain one with frames of zeros against itself without them. */
static void compare_all(const shape *s, check_random *r)
{
    const imagine__kernels *tables[2];
    for (int t = check_tables(tables) - 1; t >= 0; t--)
        compare(tables[t], s, r);
    if (s->absent)
        compare(&imagine__kernels_plain, s, r);
}

/* Negative, as in tiles: the frame's first lines and columns are left out. */
static void leave_out(shape *s, check_random *r)
{
    s->pad_top = -(int32_t)check_between(r, 0, s->height * s->upsample - s->kh);
    s->pad_left = -(int32_t)check_between(r, 0, s->width * s->upsample - s->kw);
}

static void test_random(void)
{
    check_random r = {11};
    for (int i = 0; i < 600; i++) {
        shape s = {.cin = check_between(&r, 1, i % 3 ? 20 : 70), .cout = check_between(&r, 1, 35),
                   .kt = (int32_t)check_between(&r, 1, 3), .kh = (int32_t)check_between(&r, 1, 3),
                   .kw = (int32_t)check_between(&r, 1, 4), .stride_h = (int32_t)check_between(&r, 1, 2),
                   .stride_w = (int32_t)check_between(&r, 1, 3), .upsample = (int32_t)check_between(&r, 1, 2),
                   .type = (imagine__wtype)check_between(&r, 0, 1), .act = (imagine__act)check_between(&r, 0, 3),
                   .bias = (int)check_between(&r, 0, 1), .add = (int)check_between(&r, 0, 2)};
        s.height = check_between(&r, s.kh, 9);
        s.width = check_between(&r, s.kw, 11);
        s.pad_top = (int32_t)check_between(&r, 0, s.kh);
        s.pad_left = (int32_t)check_between(&r, 0, s.kw);
        s.pad_end = (int32_t)check_between(&r, 0, 2);
        if (i % 5 == 4)
            leave_out(&s, &r);
        s.ldx = s.cin + (i % 2 ? check_between(&r, 1, 5) : 0);
        s.ldy = s.cout + check_between(&r, 0, 3);
        s.absent = i % 4 == 3 ? (unsigned)check_between(&r, 1, 7) : 0;
        compare_all(&s, &r);
    }
    check_report("convolution, random", limit_for(1));
}

/* Few channels at either end, which have ways of their own, and pictures wider than a strip of theirs. */
static void test_few_channels(void)
{
    check_random r = {17};
    const int64_t few[] = {1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 33, 48, 64, 70};
    for (int i = 0; i < 400; i++) {
        shape s = {.cin = few[check_between(&r, 0, 13)], .cout = check_between(&r, 1, i % 4 ? 9 : 40),
                   .kt = (int32_t)check_between(&r, 1, 3), .kh = (int32_t)check_between(&r, 1, 4),
                   .kw = (int32_t)check_between(&r, 1, 4), .stride_h = (int32_t)check_between(&r, 1, i % 2 ? 1 : 6),
                   .stride_w = (int32_t)check_between(&r, 1, i % 3 ? 1 : 6),
                   .upsample = (int32_t)check_between(&r, 1, i % 5 ? 1 : 2), .type = (imagine__wtype)check_between(&r, 0, 1),
                   .act = (imagine__act)check_between(&r, 0, 3), .bias = (int)check_between(&r, 0, 1),
                   .add = (int)check_between(&r, 0, 2)};
        s.height = check_between(&r, s.kh, 9);
        s.width = check_between(&r, s.kw, i % 7 ? 50 : 150);
        s.pad_top = (int32_t)check_between(&r, 0, s.kh);
        s.pad_left = (int32_t)check_between(&r, 0, i % 11 ? s.kw : 20);
        s.pad_end = (int32_t)check_between(&r, 0, i % 13 ? 2 : 20);
        if (i % 5 == 4)
            leave_out(&s, &r);
        s.ldx = s.cin + (i % 3 == 2 ? check_between(&r, 1, 5) : 0);
        s.ldy = s.cout + check_between(&r, 0, 3);
        s.absent = i % 4 == 3 ? (unsigned)check_between(&r, 1, 7) : 0;
        compare_all(&s, &r);
    }
    check_report("convolution, few channels", limit_for(1));
}

/* Every number of outputs beside every number of vectors of pixels that go with it, whole and in part, in one block, in two, and in
 * several passes; with more than a panel of outputs, some groups lie in two. */
static void test_pixels_in_lanes(void)
{
    static const int64_t channels[] = {3, 24, 47}, widths[] = {32, 33, 48, 49, 64, 63};
    check_random r = {18};
    for (int64_t i = 0; i < 3 * 40 * 6; i++) {
        shape s = {.cin = channels[i % 3], .cout = i / 3 % 40 + 1, .height = 3, .width = widths[i / 120], .kt = 3, .kh = 3, .kw = 3,
                   .stride_h = 1, .stride_w = 1, .pad_top = 1, .pad_left = 1, .pad_end = 1, .upsample = 1, .bias = 1};
        s.type = (imagine__wtype)check_between(&r, 0, 1);
        s.ldx = s.cin;
        s.ldy = s.cout;
        compare_all(&s, &r);
    }
    check_report("convolution, pixels in the lanes", limit_for(500));
}

static shape square(int64_t size, int64_t cin, int64_t cout, int32_t kt, int32_t k)
{
    shape s = {.cin = cin, .cout = cout, .height = size, .width = size, .ldx = cin, .ldy = cout, .kt = kt, .kh = k,
               .kw = k, .stride_h = 1, .stride_w = 1, .pad_top = k / 2, .pad_left = k / 2, .pad_end = k / 2,
               .upsample = 1, .bias = 1};
    return s;
}

/* The layers of a video VAE: 3x3x3 with and without the first frames, one frame, time alone, halving with nothing
 * padded at the top and left, doubling, 1x1, and few channels at either end. */
static void test_vae_layers(void)
{
    check_random r = {12};
    shape layers[12];
    int count = 0;
    layers[count++] = square(13, 48, 48, 3, 3);
    layers[count] = square(13, 48, 48, 3, 3);
    layers[count++].absent = 3;
    layers[count] = square(9, 96, 40, 1, 3);
    layers[count++].act = IMAGINE__ACT_SILU;
    layers[count] = square(8, 96, 192, 3, 1);
    layers[count++].type = IMAGINE__W_BF16;
    layers[count] = square(17, 24, 24, 1, 3);
    layers[count].stride_h = layers[count].stride_w = 2;
    layers[count].pad_top = layers[count].pad_left = 0;
    count++;
    layers[count] = square(9, 32, 16, 1, 3);
    layers[count++].upsample = 2;
    layers[count] = square(15, 64, 16, 1, 1);
    layers[count++].add = 2;
    layers[count++] = square(33, 3, 12, 3, 3);
    layers[count++] = square(33, 12, 3, 3, 3);
    layers[count++] = square(31, 16, 16, 3, 3);
    layers[count] = square(5, 300, 20, 3, 3);
    layers[count++].type = IMAGINE__W_BF16;
    for (int i = 0; i < count; i++)
        compare_all(&layers[i], &r);
    check_report("convolution, layers", limit_for(500));
}

/* One line of pixels: a convolution over time or sound. */
static void test_one_dimension(void)
{
    check_random r = {13};
    for (int32_t kw = 1; kw <= 7; kw += 2) {
        shape s = square(1, 10, 20, 1, 1);
        s.width = 150;
        s.kw = kw;
        s.pad_left = s.pad_end = kw / 2;
        compare_all(&s, &r);
    }
    check_report("convolution, one dimension", limit_for(1000));
}

static void test_all_absent(void)
{
    check_random r = {14};
    shape s = square(7, 5, 18, 3, 3);
    s.absent = 7;
    s.add = 1;
    compare_all(&s, &r);
}

/* The shapes that each of the ways goes: a matrix product, pixels in the lanes, dot products. */
#define WAYS 7
static int shapes_of_all_ways(shape shapes[WAYS])
{
    shapes[0] = square(29, 40, 50, 3, 3);
    shapes[1] = square(72, 3, 12, 3, 3);
    shapes[2] = square(62, 24, 3, 3, 3); /* several passes of the planes */
    shapes[3] = square(70, 35, 5, 3, 3);
    shapes[4] = square(61, 16, 3, 3, 3); /* dot products of many pixels at once, with AVX-512 */
    shapes[5] = square(45, 48, 3, 3, 3); /* several blocks */
    shapes[6] = square(39, 64, 12, 3, 3); /* three groups of outputs */
    return WAYS;
}

/* A value that is not finite reaches the same pixels. */
static void test_not_finite(void)
{
    const imagine__kernels *tables[2];
    check_random r = {15};
    shape shapes[WAYS];
    int count = shapes_of_all_ways(shapes);
    for (int t = check_tables(tables) - 1; t >= 0; t--) {
        for (int i = 0; i < count; i++) {
            shape s = shapes[i];
            int64_t w = s.width, pixels = w * s.height;
            inputs in = make_inputs(&s, &r);
            in.frames[1][(5 * w + 6) * s.cin + 2] = NAN;
            in.frames[2][s.cin - 1] = INFINITY;
            float *expected = run_conv(&imagine__kernels_plain, &s, &in, CHECK_FORWARD, 0);
            float *y = run_conv(tables[t], &s, &in, CHECK_FORWARD, 0);
            CHECK(check_same(y, expected, pixels, s.cout, s.cout, limit_for(pixels * s.cout)));
            CHECK(isnan(y[(5 * w + 6) * s.cout]) && isnan(y[(6 * w + 7) * s.cout]) && isfinite(y[(5 * w + 8) * s.cout]));
            CHECK(!isfinite(y[0]) && isfinite(y[(pixels - 1) * s.cout]));
            check_free(y);
            check_free(expected);
            free_inputs(&in);
        }
    }
}

static void test_orders(void)
{
    const imagine__kernels *tables[2];
    check_random r = {16};
    shape shapes[WAYS];
    int count = shapes_of_all_ways(shapes);
    for (int t = check_tables(tables) - 1; t >= 0; t--) {
        for (int i = 0; i < count; i++) {
            shape s = shapes[i];
            s.act = IMAGINE__ACT_SILU;
            inputs in = make_inputs(&s, &r);
            float *first = run_conv(tables[t], &s, &in, CHECK_FORWARD, 0);
            for (int order = CHECK_BACKWARD; order < CHECK_ORDERS; order++) {
                float *y = run_conv(tables[t], &s, &in, order, 0);
                CHECK(memcmp(y, first, (size_t)(in.out_h * in.out_w * s.cout) * sizeof *y) == 0);
                check_free(y);
            }
            check_free(first);
            free_inputs(&in);
        }
    }
}

/* `columns` columns of a frame from `first` on. */
static void crop(const shape *s, const float *from, int64_t first, int64_t columns, float *to)
{
    for (int64_t y = 0; y < s->height; y++)
        memcpy(to + y * columns * s->cin, from + (y * s->width + first) * s->cin,
               (size_t)(columns * s->cin) * sizeof *to);
}

/* A pixel has the same bytes in a narrow piece of the picture, whichever way that goes, and when absent frames are zeros. */
static void test_pieces(void)
{
    const imagine__kernels *tables[2];
    check_random r = {18};
    shape shapes[WAYS];
    int count = shapes_of_all_ways(shapes);
    for (int t = check_tables(tables) - 1; t >= 0; t--) {
        for (int i = 0; i < count * 4; i++) {
            shape s = shapes[i % count], piece = s;
            int64_t first = check_between(&r, 0, s.width - 12);
            s.kt = piece.kt = i / count == 3 ? 4 : s.kt; /* frames of which some go into a block, and some into the next */
            s.absent = piece.absent = i < count || s.kt > 3 ? 0 : (unsigned)check_between(&r, 1, 6);
            s.act = piece.act = IMAGINE__ACT_GELU_ERF;
            piece.width = check_between(&r, 5, 12);
            piece.pad_left = piece.pad_end = 0; /* the end above and below too: two lines fewer */
            piece.pad_top = 0;
            inputs in = make_inputs(&s, &r), cut = make_inputs(&piece, &r);
            memcpy(cut.bias, in.bias, (size_t)s.cout * sizeof *cut.bias);
            memcpy(cut.w, in.w, (size_t)(s.cout * s.cin * s.kt * 9) * sizeof(float));
            for (int32_t f = 0; f < s.kt; f++)
                crop(&s, in.frames[f], first, piece.width, cut.frames[f]);
            float *whole = run_conv(tables[t], &s, &in, CHECK_FORWARD, 0);
            float *part = run_conv(tables[t], &piece, &cut, CHECK_FORWARD, 1);
            for (int64_t y = 0; y < cut.out_h; y++)
                CHECK(memcmp(part + y * cut.out_w * s.cout, whole + ((y + 1) * in.out_w + first + 1) * s.cout,
                             (size_t)(cut.out_w * s.cout) * sizeof *part) == 0);
            check_free(whole);
            check_free(part);
            free_inputs(&in);
            free_inputs(&cut);
        }
    }
}

/* As of linear: groups of 12 rows compute what groups of 6 do. */
static void test_groups(void)
{
    if (!check_has_avx512())
        SKIP("this machine has no AVX-512");
    check_random r = {31};
    for (int i = 0; i < 60; i++) {
        shape s = {.cin = check_between(&r, 33, 150), .cout = check_between(&r, 17, 150), .kt = i % 3 + 1, .kh = 3, .kw = 3,
                   .stride_h = i % 2 + 1, .stride_w = i % 2 + 1, .upsample = 1, .type = i / 2 % 2, .act = i % 4, .bias = 1,
                   .pad_top = 1, .pad_left = 1, .pad_end = 1, .absent = i % 5 == 4};
        s.height = check_between(&r, 3, 20);
        s.width = check_between(&r, 3, 20);
        s.ldx = s.cin, s.ldy = s.cout;
        inputs in = make_inputs(&s, &r);
        float *small = run_conv(imagine__kernels_avx512(0), &s, &in, CHECK_FORWARD, 0);
        float *tall = run_conv(imagine__kernels_avx512(1 + i % 2), &s, &in, CHECK_SHUFFLED, 0);
        CHECK(memcmp(small, tall, (size_t)(in.out_h * in.out_w * s.cout) * sizeof *tall) == 0);
        check_free(small);
        check_free(tall);
        free_inputs(&in);
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"random", test_random}, {"layers", test_vae_layers}, {"one dimension", test_one_dimension},
        {"all absent", test_all_absent}, {"not finite", test_not_finite}, {"orders", test_orders}, {"few channels", test_few_channels},
        {"pixels in the lanes", test_pixels_in_lanes}, {"pieces", test_pieces}, {"groups", test_groups},
    };
    return test_main("kernels/conv", cases, sizeof cases / sizeof *cases, argc, argv);
}
