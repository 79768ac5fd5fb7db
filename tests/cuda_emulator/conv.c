/* SPDX-License-Identifier: MIT */
#include "cuda_check.h"

/* As for linear. Measured: up to 9e-14. */
static double limit_for(int64_t outputs)
{
    return outputs < 256 ? 1e-12 : 3e-13;
}

typedef struct shape {
    int64_t cin, cout, height, width, ldx, ldy;
    int32_t kt, kh, kw, stride_h, stride_w, pad_top, pad_left, pad_end, upsample;
    imagine__wtype type, x_type, y_type;
    imagine__act act;
    int bias, add; /* add 2: y itself */
    unsigned absent; /* bits of the frames that are NULL */
    int ring, turn; /* 1: the frames lie side by side, the first of them at place `turn`; 2: further apart */
} shape;

#define FRAMES 4

typedef struct tensors {
    float *frame[FRAMES], *bias, *add; /* frames of x_type, in spite of the pointers */
    void *w;
    unsigned char *ring; /* in which they lie, or NULL */
} tensors;

typedef struct inputs {
    tensors host, device;
    int64_t out_h, out_w;
} inputs;

static int64_t out_size(const shape *s, int64_t size, int32_t kernel, int32_t stride, int32_t pad)
{
    return (size * s->upsample + pad + s->pad_end - kernel) / stride + 1;
}

static void make_floats(float **host, float **device, check_random *r, int64_t n)
{
    *host = check_input(r, n);
    *device = cuda_input(*host, (size_t)n * 4);
}

static int64_t frame_size(const shape *s)
{
    return (s->height * s->width - 1) * s->ldx + s->cin;
}

/* What the frames hold, and they themselves: each by itself, or in a ring. */
static void make_frames(const shape *s, inputs *in, check_random *r)
{
    size_t each = (size_t)(s->height * s->width * s->ldx + (s->ring == 2 ? 8 : 0)) * cuda_size(s->x_type);
    if (s->ring) {
        unsigned char *nothing = check_alloc((size_t)s->kt * each);
        memset(nothing, 0xff, (size_t)s->kt * each);
        in->device.ring = cuda_input(nothing, (size_t)s->kt * each);
        free(nothing);
    }
    for (int32_t t = 0; t < s->kt; t++) {
        if (s->absent >> t & 1)
            continue;
        in->host.frame[t] = check_input(r, frame_size(s));
        in->device.frame[t] = cuda_typed_input(in->host.frame[t], frame_size(s), s->x_type);
        if (!s->ring)
            continue;
        void *place = in->device.ring + (size_t)((t + s->turn) % s->kt) * each;
        CUDA_OK(cuda->copy(place, in->device.frame[t], (size_t)frame_size(s) * cuda_size(s->x_type), NULL));
        CUDA_OK(cuda->synchronize(NULL));
        cuda->release(in->device.frame[t]);
        in->device.frame[t] = place;
    }
}

static inputs make_inputs(const shape *s, check_random *r)
{
    int64_t row = s->cin * s->kt * s->kh * s->kw;
    inputs in = {.out_h = out_size(s, s->height, s->kh, s->stride_h, s->pad_top),
                 .out_w = out_size(s, s->width, s->kw, s->stride_w, s->pad_left)};
    make_frames(s, &in, r);
    make_floats(&in.host.bias, &in.device.bias, r, s->cout);
    make_floats(&in.host.add, &in.device.add, r, in.out_h * in.out_w * s->cout);
    in.host.w = check_weight(r, s->cout * row, s->type, 1.0f / sqrtf((float)row)); /* as packed */
    in.device.w = cuda_input(in.host.w, (size_t)(s->cout * row) * cuda_size(s->type));
    return in;
}

static void free_inputs(inputs *in)
{
    for (int t = 0; t < FRAMES; t++) {
        free(in->host.frame[t]);
        if (!in->device.ring)
            cuda->release(in->device.frame[t]);
    }
    cuda->release(in->device.ring);
    free(in->host.bias);
    free(in->host.add);
    free(in->host.w);
    cuda->release(in->device.bias);
    cuda->release(in->device.add);
    cuda->release(in->device.w);
}

static int64_t outputs_of(const shape *s, const inputs *in)
{
    return (in->out_h * in->out_w - 1) * s->ldy + s->cout;
}

/* What y begins as: 0xa5, and the terms where they are to be added to it, which only f32 has. */
static float *first_output(const shape *s, const inputs *in)
{
    float *y = check_alloc((size_t)outputs_of(s, in) * 4);
    memset(y, 0xa5, (size_t)outputs_of(s, in) * 4);
    for (int64_t i = 0; i < in->out_h * in->out_w && s->add == 2; i++)
        memcpy(y + i * s->ldy, in->host.add + i * s->cout, (size_t)s->cout * 4);
    return y;
}

static imagine__conv_weight weight_of(const shape *s, const tensors *from)
{
    return (imagine__conv_weight){from->w, s->bias ? from->bias : NULL, s->cout, s->cin, s->kt, s->kh, s->kw, s->type};
}

static imagine__conv_args args_of(const shape *s, const inputs *in, const tensors *from, const imagine__conv_weight *w, float *y)
{
    return (imagine__conv_args){.w = w, .x = (const float *const *)from->frame, .y = y,
                                .add = s->add == 2 ? y : s->add ? from->add : NULL, .height = s->height, .width = s->width,
                                .out_h = in->out_h, .out_w = in->out_w, .ldx = s->ldx, .ldy = s->ldy,
                                .ld_add = s->add == 2 ? s->ldy : s->cout, .stride_h = s->stride_h, .stride_w = s->stride_w,
                                .pad_top = s->pad_top, .pad_left = s->pad_left, .upsample = s->upsample, .act = s->act,
                                .x_type = s->x_type, .y_type = s->y_type};
}

static float *expected_conv(const shape *s, const inputs *in)
{
    check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
    float *y = first_output(s, in);
    imagine__conv_weight w = weight_of(s, &in->host);
    imagine__conv_args a = args_of(s, in, &in->host, &w, y);
    imagine__kernels_plain.conv(&c.run, &a);
    return y;
}

/* `scratch`: on the device, or NULL. */
static float *device_conv_with(const shape *s, const inputs *in, const imagine__cuda_call *call, void *scratch)
{
    size_t size = (size_t)outputs_of(s, in) * cuda_size(s->y_type);
    float *first = first_output(s, in), *y = cuda_output(size);
    CUDA_OK(cuda->upload(y, first, size, NULL));
    free(first);
    imagine__conv_weight w = weight_of(s, &in->device);
    imagine__conv_args a = args_of(s, in, &in->device, &w, y);
    a.scratch = scratch;
    CUDA_OK(cuda->conv(&a, call));
    return cuda_fetch_rows(y, s->y_type, in->out_h * in->out_w, s->cout, s->ldy, outputs_of(s, in));
}

static float *device_conv(const shape *s, const inputs *in, const imagine__cuda_call *call)
{
    return device_conv_with(s, in, call, NULL);
}

static const imagine__cuda_call exact = {.precision = IMAGINE__CUDA_F32};
#define LIMIT_ROUNDED 1e-5 /* of results in bf16, or of cuDNN's sums, which are */

static void compare(const shape *s, check_random *r, const imagine__cuda_call *call, double limit)
{
    inputs in = make_inputs(s, r);
    int64_t pixels = in.out_h * in.out_w;
    limit = s->y_type ? LIMIT_ROUNDED : limit;
    if (call->precision == IMAGINE__CUDA_BF16) {
        for (int t = 0; t < FRAMES; t++)
            cuda_round(in.host.frame[t], frame_size(s));
        cuda_round(s->type == IMAGINE__W_F32 ? in.host.w : NULL, s->cout * s->cin * s->kt * s->kh * s->kw);
    }
    float *expected = expected_conv(s, &in), *y = device_conv(s, &in, call);
    int same = cuda_same(y, expected, pixels, s->cout, s->ldy, call->precision || s->y_type, limit);
    CHECK(same);
    if (!same && test_failures < 5)
        fprintf(stderr, "    %dx%d of %d to %dx%d of %d, kernel %d %d %d, stride %d %d, pads %d %d, upsample %d, types %d %d %d act %d "
                "add %d absent %u ring %d %d: NMSE up to %g\n", (int)s->height, (int)s->width, (int)s->cin, (int)in.out_h,
                (int)in.out_w, (int)s->cout, s->kt, s->kh, s->kw, s->stride_h, s->stride_w, s->pad_top, s->pad_left, s->upsample,
                s->type, s->x_type, s->y_type, s->act, s->add, s->absent, s->ring, s->turn, check_worst);
    free(y);
    free(expected);
    free_inputs(&in);
}

static shape random_shape(check_random *r, int i)
{
    shape s = {.cin = i % 2 ? check_between(r, 1, 9) : 4 * check_between(r, 1, 6), .cout = check_between(r, 1, 70),
               .kt = (int32_t)check_between(r, 1, 3), .kh = (int32_t)check_between(r, 1, 3),
               .kw = (int32_t)check_between(r, 1, 4), .stride_h = (int32_t)check_between(r, 1, 2),
               .stride_w = (int32_t)check_between(r, 1, 3), .upsample = (int32_t)check_between(r, 1, 2),
               .type = (imagine__wtype)check_between(r, 0, 1), .act = (imagine__act)check_between(r, 0, 3),
               .bias = (int)check_between(r, 0, 1), .add = (int)check_between(r, 0, 2)};
    s.height = check_between(r, s.kh, 9);
    s.width = check_between(r, s.kw, 15);
    s.pad_top = (int32_t)check_between(r, 0, s.kh);
    s.pad_left = (int32_t)check_between(r, 0, s.kw);
    s.pad_end = (int32_t)check_between(r, 0, 2);
    if (i % 5 == 4) { /* as in tiles: the frame's first lines and columns are left out */
        s.pad_top = -(int32_t)check_between(r, 0, s.height * s.upsample - s.kh);
        s.pad_left = -(int32_t)check_between(r, 0, s.width * s.upsample - s.kw);
    }
    s.ldx = s.cin + (i % 3 ? 0 : i % 2 ? 3 : 4);
    s.ldy = s.cout + check_between(r, 0, 3);
    s.x_type = i / 2 % 3 == 1;
    s.y_type = i / 4 % 3 == 1 && s.add != 2;
    s.ring = s.x_type ? (int)check_between(r, 0, 2) : 0;
    s.turn = (int)check_between(r, 0, 2);
    s.absent = i % 4 == 3 ? (unsigned)check_between(r, 1, 7) : 0;
    return s;
}

static void shapes(void)
{
    check_random r = {11};
    for (int i = 0; i < 100; i++) {
        shape s = random_shape(&r, i);
        cuda_check_prefer(80, (uint32_t)i);
        compare(&s, &r, &exact, limit_for(s.cout * 20));
    }
    cuda_report("convolution, shapes");
}

/* As for linear. */
#define LIMIT_BF16 1e-11

static void tensor_cores(void)
{
    check_random r = {17};
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 20);
    for (int i = 0; i < 60; i++) {
        shape s = random_shape(&r, i);
        if (i % 3 == 0)
            s.cin = 8 * check_between(&r, 1, 4), s.ldx = s.cin + 8 * (i % 2); /* as the tensor cores take them */
        cuda_check_prefer(i % 3 ? 80 : 90, (uint32_t)i);
        compare(&s, &r, &call, LIMIT_BF16);
    }
    cuda_report("convolution, tensor cores");
    cuda->release(call.workspace);
}

static shape square(int64_t size, int64_t cin, int64_t cout, int32_t kt, int32_t k)
{
    shape s = {.cin = cin, .cout = cout, .height = size, .width = size, .ldx = cin, .ldy = cout, .kt = kt, .kh = k, .kw = k,
               .stride_h = 1, .stride_w = 1, .pad_top = k / 2, .pad_left = k / 2, .pad_end = k / 2, .upsample = 1, .bias = 1};
    return s;
}

/* A video VAE's: with and without the first frames, doubling, halving with nothing padded above and left, 1x1, few channels
 * at either end; and sound, a line of pixels. */
static void layers(void)
{
    check_random r = {12};
    shape list[9];
    int count = 0;
    list[count++] = square(12, 24, 24, 3, 3);
    list[count] = square(12, 24, 24, 3, 3);
    list[count++].absent = 3;
    list[count] = square(8, 48, 96, 3, 1);
    list[count++].type = IMAGINE__W_BF16;
    list[count] = square(17, 24, 24, 1, 3);
    list[count].stride_h = list[count].stride_w = 2;
    list[count].pad_top = list[count].pad_left = 0;
    count++;
    list[count] = square(9, 32, 16, 1, 3);
    list[count++].upsample = 2;
    list[count] = square(15, 64, 16, 1, 1);
    list[count++].add = 2;
    list[count++] = square(19, 3, 12, 3, 3);
    list[count++] = square(19, 12, 3, 3, 3);
    list[count] = square(1, 10, 20, 1, 1);
    list[count].width = 150;
    list[count].kw = 7;
    list[count].pad_left = list[count].pad_end = 3;
    count++;
    for (int i = 0; i < count; i++)
        compare(&list[i], &r, &exact, limit_for(300));
    cuda_report("convolution, layers");
}

/* With room for a few lines at a time the bytes are the same. */
static void pieces(void)
{
    check_random r = {18};
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 20);
    for (int i = 0; i < 12; i++) {
        shape s = random_shape(&r, i);
        s.height += 9;
        inputs in = make_inputs(&s, &r);
        imagine__cuda_call little = call;
        size_t row = (size_t)((s.cin + 7) / 8 * 8) * 2;
        little.workspace_size = (size_t)(s.cout * s.kt * s.kh * s.kw) * row + 256 + 3 * (5 * (size_t)s.width * row + 256);
        float *whole = device_conv(&s, &in, &call), *parts = device_conv(&s, &in, &little);
        CHECK(memcmp(whole, parts, (size_t)outputs_of(&s, &in) * sizeof *whole) == 0);
        free(whole);
        free(parts);
        free_inputs(&in);
    }
    cuda->release(call.workspace);
}

/* A shape that cuDNN is asked for. On a GPU they are larger, for it is asked only for large ones. */
static shape library_shape(check_random *r, int i, int scale)
{
    shape s = random_shape(r, i);
    s.cin = i / 2 % 3 == 1 ? 8 * check_between(r, 1, 3) * scale : check_between(r, 8, 20) * scale;
    s.cout = i % 8 == 3 ? check_between(r, 1, 7) * (scale > 1 ? 9 : 1) : 4 * check_between(r, 2, 8) * scale;
    s.height = check_between(r, 5, 9) * scale;
    s.width = check_between(r, 8, 15) * scale;
    s.kt = i % 2 ? 3 : 1;
    s.kh = s.kw = i % 7 ? 3 : 1;
    s.absent = i % 2 ? (unsigned[]){0, 1, 3, 2, 4}[i / 2 % 5] : 0; /* before a clip's first frame; in its midst; behind it */
    s.ldx = s.cin + (i % 3 ? 0 : 4);
    s.ldy = s.cout + (i % 8 == 6 ? 3 : 4 * (i % 2));
    s.act = i % 4 ? IMAGINE__ACT_NONE : IMAGINE__ACT_SILU;
    if (i == 5) { /* a line of sound */
        s.height = s.kh = s.kt = 1;
        s.absent = 0;
        s.width *= 4;
        s.kw = 7;
        s.stride_h = 1, s.stride_w = 2;
        s.pad_top = s.pad_end = 0, s.pad_left = 3;
        s.upsample = 1;
    }
    return s;
}

static int64_t multiply_adds(const shape *s)
{
    int64_t pixels = out_size(s, s->height, s->kh, s->stride_h, s->pad_top) * out_size(s, s->width, s->kw, s->stride_w, s->pad_left);
    int64_t frames = s->kt - __builtin_popcount(s->absent);
    return pixels * s->cout * frames * s->kh * s->kw * ((s->cin + 7) / 8 * 8);
}

/* Memory for cuDNN, as it is at first. */
static void *zeros(void)
{
    size_t size = cuda->convolutions_size();
    return memset(check_alloc(size), 0, size);
}

/* Through cuDNN: what it can do all of, what it can do the sums of, enlarged frames, and pieces. */
static void library(void)
{
    check_random r = {19};
    int emulated = cuda_check_convolver(1, 1 << 30), scale = emulated ? 1 : 4;
    imagine__cuda_call call = cuda_call_bf16((size_t)(emulated ? 4 : 64) << 20);
    call.convolutions = zeros();
    int there = cuda->convolutions_open(call.convolutions, NULL, 0);
    CHECK(there || !emulated);
    printf("    cuDNN is %sthere\n", there ? "" : "not ");
    for (int i = 0; i < 24; i++) {
        shape s = library_shape(&r, i, scale);
        imagine__cuda_call less = call;
        int before = cuda_check_convolutions();
        if (i % 5 == 4) { /* room for some lines at a time */
            int64_t row = (s.cin + 7) / 8 * 8 * 2, weights = s.cout * s.kt * s.kh * s.kw * row;
            weights += s.absent ? weights : 0; /* those of the frames that are there, once more */
            less.workspace_size = (size_t)((weights + s.kt * (s.height - 1) * s.width * row * (s.upsample == 2 ? 5 : 1) +
                                            (s.add == 2 ? (s.height - 2) * s.width * s.cout * 4 : 0)) * 4 / 3 + 2048);
        }
        compare(&s, &r, &less, LIMIT_ROUNDED);
        CHECK(!emulated || (cuda_check_convolutions() > before) == (s.absent != 2 && multiply_adds(&s) >= 1 << 12));
    }
    if (there)
        printf("    cuDNN started %d convolutions, or pieces of some, in 24 layers\n", (int)cuda->convolutions_started(call.convolutions));
    cuda_report("convolution, cuDNN");
    cuda->convolutions_close(call.convolutions);
    cuda->release(call.workspace);
    free(call.convolutions);
    cuda_check_convolver(0, 0);
}

/* Sums of all lines in memory of the caller's: the same bytes, and in place where the workspace has no room for them. */
static void scratch(void)
{
    check_random r = {26};
    int emulated = cuda_check_convolver(1, 1 << 30);
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 20), little = call;
    call.convolutions = zeros();
    cuda->convolutions_open(call.convolutions, NULL, 0);
    for (int i = 0; i < 8; i++) {
        shape s = square(40, 8, i % 4 == 3 ? 3 : 60, 3, 3); /* of 3 the sums of 8 have no room there */
        s.type = IMAGINE__W_BF16;
        s.x_type = i % 4 != 2; /* f32: copied, in pieces too */
        s.ring = s.x_type;
        s.turn = 1;
        s.width = 8;
        s.add = i / 4 * 2;
        inputs in = make_inputs(&s, &r);
        size_t size = (size_t)(in.out_h * in.out_w * s.cout) * 4;
        void *room = cuda_output(size);
        float *expected = device_conv(&s, &in, &call);
        int before = cuda_check_convolutions();
        little = call;
        little.workspace_size = (size_t)(i % 4 == 3 ? 1024 : 40) << 10;
        float *y = device_conv_with(&s, &in, i % 4 ? &little : &call, room);
        CHECK(cuda_same(y, expected, in.out_h * in.out_w, s.cout, s.ldy, 1, 1e-12));
        CHECK(!emulated || (i % 4 == 2 ? cuda_check_convolutions() > before + 1 : cuda_check_convolutions() == before + 1));
        free(cuda_fetch(room, size)); /* nothing behind it is written */
        free(y);
        free(expected);
        free_inputs(&in);
    }
    cuda->convolutions_close(call.convolutions);
    cuda->release(call.workspace);
    free(call.convolutions);
    cuda_check_convolver(0, 0);
}

/* As in a VAE's tiles, of whose margins the outputs read a part: cuDNN gets lines with nothing between. */
static void tiles(void)
{
    check_random r = {25};
    int emulated = cuda_check_convolver(1, 1 << 30);
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 20);
    call.convolutions = zeros();
    cuda->convolutions_open(call.convolutions, NULL, 0);
    for (int i = 0; i < 18; i++) {
        shape s = square(9, 16, 16, i % 3 ? 3 : 1, 3); /* a level's last convolution, the VAE's last with f32 and bf16 */
        s.upsample = i % 3 ? 1 : 2;
        s.x_type = i % 3 == 2;
        s.ring = s.x_type;
        s.width = 16;
        s.pad_left = (int32_t[]){1, 0, -1, -2, -3, -6}[i / 3];
        s.pad_top = (int32_t[]){-1, 1, -2, 0, 1, -3}[i / 3];
        s.pad_end = (int32_t[]){-2, -1, -3, 1, 0, -2}[i / 3];
        if (i == 17) /* in pieces */
            s.height = 21, call.workspace_size = (size_t)32 << 10;
        int before = cuda_check_convolutions();
        compare(&s, &r, &call, LIMIT_ROUNDED);
        CHECK(!emulated || cuda_check_convolutions() >= before + (i == 17 ? 2 : 1));
    }
    cuda_report("convolution, tiles");
    cuda->convolutions_close(call.convolutions);
    cuda->release(call.workspace);
    free(call.convolutions);
    cuda_check_convolver(0, 0);
}

/* Our own kernel for tensor cores, too: the same bytes as with room to round frames of f32. */
static void own_in_place(const shape *s, imagine__cuda_call call)
{
    check_random r = {24}, same = r;
    shape single = *s;
    single.x_type = IMAGINE__W_F32;
    single.ring = 0;
    inputs in = make_inputs(s, &r), rounded = make_inputs(&single, &same);
    imagine__cuda_call roomy = cuda_call_bf16((size_t)1 << 20);
    call.convolutions = NULL;
    float *y = device_conv(s, &in, &call), *expected = device_conv(&single, &rounded, &roomy);
    CHECK(memcmp(y, expected, (size_t)outputs_of(s, &in) * sizeof *y) == 0);
    free(y);
    free(expected);
    free_inputs(&in);
    free_inputs(&rounded);
    cuda->release(roomy.workspace);
}

/* Frames in bf16 are convolved where they are, though the workspace has room for W alone: by cuDNN where they are one, or lie side by
 * side, though they take turns, and nothing of them is trimmed; and by our own kernel. */
static void in_place(void)
{
    check_random r = {23};
    int emulated = cuda_check_convolver(1, 1 << 30);
    imagine__cuda_call call = cuda_call_bf16((size_t)96 << 10);
    call.convolutions = zeros();
    cuda->convolutions_open(call.convolutions, NULL, 0);
    for (int i = 0; i < 24; i++) {
        shape s = square(5, 64, 8, 3, 3);
        s.width = 90; /* a line of three frames takes more than the workspace has */
        s.x_type = s.type = IMAGINE__W_BF16;
        s.y_type = i % 2;
        s.add = i % 2 ? 0 : i / 2 % 2;
        s.ring = 1 + i / 2 % 2;
        s.turn = i % 3;
        s.absent = (unsigned[]){0, 3, 1}[i / 3 % 3];
        s.pad_top = i % 5 ? 1 : -1;
        int before = cuda_check_convolutions();
        compare(&s, &r, &call, LIMIT_ROUNDED);
        int dense = s.ring == 1 && s.pad_top > 0 && (s.absent == 0 || s.turn != 1);
        CHECK(!emulated || cuda_check_convolutions() == before + (s.absent == 3 || dense));
        own_in_place(&s, call);
    }
    /* Not room for the sums of all lines: pieces of three frames are copied. So is a width of which a column is left out. */
    for (int i = 0; i < 2; i++) {
        shape s = i ? square(11, 8, 64, 1, 3) : square(40, 8, 64, 3, 3);
        s.x_type = s.type = IMAGINE__W_BF16;
        s.ring = s.turn = 1;
        if (i)
            s.stride_w = 2, s.pad_end = 0;
        else
            s.width = 8, call.workspace_size = (size_t)64 << 10;
        int before = cuda_check_convolutions();
        compare(&s, &r, &call, LIMIT_ROUNDED);
        CHECK(!emulated || cuda_check_convolutions() == before + (i ? 1 : 2));
    }
    cuda_report("convolution, in place");
    cuda->convolutions_close(call.convolutions);
    cuda->release(call.workspace);
    free(call.convolutions);
    cuda_check_convolver(0, 0);
}

/* cuDNN is not there, or fails at any call: the same bytes as without it, and nothing of it is left (the emulator would tell). */
static void library_fails(void)
{
    check_random r = {20};
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 20);
    int begun = 0, calls = 0;
    void *memory = zeros();
    for (int way = 0; way < 3; way++) {
        shape s = square(6, 8, 8, 3, 3);
        s.add = way;
        s.act = IMAGINE__ACT_NONE;
        inputs in = make_inputs(&s, &r);
        call.convolutions = NULL;
        size_t size = (size_t)outputs_of(&s, &in) * 4;
        float *own = device_conv(&s, &in, &call);
        int good, whole = 0;
        for (good = -1; good < 400 && !whole; good += way == 1 ? 1 : 5) {
            if (!cuda_check_convolver(good >= 0, good))
                break; /* a GPU's does as it does */
            CHECK(cuda->convolutions_open(memory, NULL, 0) == (good >= 0));
            call.convolutions = memory;
            for (int again = 0; again < 2 - (good % 4 > 0); again++) {
                float *y = device_conv(&s, &in, &call);
                CHECK(cuda_check_convolutions() || memcmp(y, own, size) == 0);
                free(y);
            }
            whole = cuda_check_convolutions() > 0;
            begun += cuda_check_convolutions();
            cuda->convolutions_close(memory);
        }
        calls = good > calls ? good : calls;
        free(own);
        free_inputs(&in);
    }
    CHECK(begun >= 3 || !cuda_check_convolver(0, 0));
    printf("    up to %d calls of cuDNN\n", calls);
    free(memory);
    cuda->release(call.workspace);
}

/* No handle to be had is no handle for this convolution, and perhaps one for the next; after three of them none is asked for until
 * it is opened again. */
static void handle_again(void)
{
    check_random r = {21};
    imagine__cuda_call call = cuda_call_bf16((size_t)1 << 20);
    void *memory = zeros();
    shape s = square(6, 8, 8, 3, 3);
    s.act = IMAGINE__ACT_NONE;
    inputs in = make_inputs(&s, &r);
    for (int failures = 1; failures < 5 && cuda_check_convolver(1, 0); failures++) {
        CHECK(cuda->convolutions_open(memory, NULL, 0));
        call.convolutions = memory;
        for (int i = 0; i < failures; i++)
            free(device_conv(&s, &in, &call));
        CHECK(cuda_check_convolutions() == 0);
        cuda_check_convolver(1, 1 << 30);
        free(device_conv(&s, &in, &call));
        CHECK(cuda_check_convolutions() == (failures < 3));
        CHECK(cuda->convolutions_open(memory, NULL, 0));
        free(device_conv(&s, &in, &call));
        CHECK(cuda_check_convolutions() == 1 + (failures < 3));
        cuda->convolutions_close(memory);
    }
    cuda_check_convolver(0, 0);
    free_inputs(&in);
    free(memory);
    cuda->release(call.workspace);
}

/* With no frame at all the output is what is added to nothing. */
static void all_absent(void)
{
    check_random r = {14};
    shape s = square(7, 5, 18, 3, 3);
    s.absent = 7;
    s.add = 1;
    compare(&s, &r, &exact, 0);
}

/* A value that is not finite reaches the same pixels. */
static void not_finite(void)
{
    check_random r = {15};
    shape s = square(12, 30, 17, 3, 3);
    inputs in = make_inputs(&s, &r);
    in.host.frame[1][(5 * 12 + 6) * 30 + 2] = NAN;
    in.host.frame[2][29] = INFINITY;
    for (int t = 1; t < 3; t++)
        CUDA_OK(cuda->upload(in.device.frame[t], in.host.frame[t], 144 * 30 * 4, NULL));
    float *expected = expected_conv(&s, &in), *y = device_conv(&s, &in, &exact);
    CHECK(cuda_same(y, expected, 144, 17, 17, IMAGINE__W_F32, limit_for(144 * 17)));
    CHECK(isnan(y[(5 * 12 + 6) * 17]) && !isfinite(y[0]) && isfinite(y[143 * 17]));
    free(y);
    free(expected);
    free_inputs(&in);
}

static void too_many_frames(void)
{
    const float *frames[IMAGINE__CUDA_FRAMES + 1] = {NULL};
    imagine__conv_weight w = {NULL, NULL, 1, 1, IMAGINE__CUDA_FRAMES + 1, 1, 1, IMAGINE__W_F32};
    imagine__conv_args a = {.w = &w, .x = frames, .height = 1, .width = 1, .out_h = 1, .out_w = 1, .upsample = 1};
    CHECK(cuda->conv(&a, &exact) != 0);
}

/* ---- shortcuts --------------------------------------------------------------------------------------------------- */

static imagine__shortcut_args random_shortcut(check_random *r, int up)
{
    imagine__shortcut_args a = {.time = (int32_t)check_between(r, 1, 2), .space = (int32_t)check_between(r, 1, 2)};
    int64_t cells = a.time * a.space * a.space, fine = check_between(r, 1, 12), coarse = fine * cells;
    while (coarse % 2 == 0 && check_between(r, 0, 1))
        coarse /= 2;
    a.frame = (int32_t)check_between(r, 0, a.time - 1);
    a.add = !up && check_between(r, 0, 1);
    a.top = check_between(r, 0, up ? a.space - 1 : 2);
    a.left = check_between(r, 0, up ? a.space - 1 : 2);
    a.out_h = check_between(r, 1, 6);
    a.out_w = check_between(r, 1, 9);
    a.in = up ? coarse : fine;
    a.out = up ? fine : coarse;
    a.height = up ? (a.out_h + a.top - 1) / a.space + 1 : a.out_h * a.space + a.top;
    a.width = up ? (a.out_w + a.left - 1) / a.space + 1 : a.out_w * a.space + a.left;
    return a;
}

/* The same bytes as plain C's. */
static void shortcuts(void)
{
    check_random r = {16};
    check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
    for (int i = 0; i < 60; i++) {
        imagine__shortcut_args a = random_shortcut(&r, i % 2);
        int64_t in = a.height * a.width * a.in, out = a.out_h * a.out_w * a.out;
        float *x = check_input(&r, in), *y = check_input(&r, out);
        cuda_check_prefer(80, (uint32_t)i);
        imagine__shortcut_args b = a;
        a.x = x, a.y = y;
        b.x = cuda_input(x, (size_t)in * 4), b.y = cuda_output((size_t)out * 4);
        if (a.add)
            CUDA_OK(cuda->upload(b.y, y, (size_t)out * 4, NULL));
        (i % 2 ? imagine__kernels_plain.shortcut_up : imagine__kernels_plain.shortcut_down)(&c.run, &a);
        CUDA_OK((i % 2 ? cuda->shortcut_up : cuda->shortcut_down)(&b, NULL));
        float *found = cuda_fetch(b.y, (size_t)out * 4);
        CHECK(memcmp(found, y, (size_t)out * 4) == 0);
        cuda->release((void *)b.x);
        free(found);
        free(x);
        free(y);
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"shapes", shapes}, {"layers", layers}, {"all_absent", all_absent}, {"not_finite", not_finite},
        {"too_many_frames", too_many_frames}, {"shortcuts", shortcuts},
        {"tensor_cores", tensor_cores}, {"pieces", pieces}, {"library", library}, {"scratch", scratch}, {"tiles", tiles},
        {"in_place", in_place}, {"library_fails", library_fails}, {"handle_again", handle_again},
    };
    return cuda_check_main("cuda/conv", cases, sizeof cases / sizeof *cases, argc, argv);
}
