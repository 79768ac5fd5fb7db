/* SPDX-License-Identifier: MIT */
#include "kernels/ref/ref.h"

/* The weight is kept as [cout, kt, kh, kw, cin]. */

size_t imagine__ref_conv_packed_size(int64_t cout, int64_t cin, int32_t kt, int32_t kh, int32_t kw, imagine__wtype type)
{
    return (size_t)cout * (size_t)cin * (size_t)kt * (size_t)kh * (size_t)kw * imagine__weight_size(type);
}

void imagine__ref_pack_conv(void *packed, const void *weight, int64_t cout, int64_t cin, int32_t kt, int32_t kh,
                            int32_t kw, imagine__wtype type)
{
    size_t size = imagine__weight_size(type);
    int64_t taps = (int64_t)kt * kh * kw;
    for (int64_t o = 0; o < cout; o++)
        for (int64_t c = 0; c < cin; c++)
            for (int64_t t = 0; t < taps; t++)
                memcpy((char *)packed + (size_t)((o * taps + t) * cin + c) * size,
                       (const char *)weight + (size_t)((o * cin + c) * taps + t) * size, size);
}

/* Where tap (dy, dx) of output pixel (oy, ox) reads in a frame, or -1 outside it. */
static int64_t tap_pixel(const imagine__conv_args *a, int64_t oy, int64_t ox, int32_t dy, int32_t dx)
{
    int64_t y = oy * a->stride_h + dy - a->pad_top, x = ox * a->stride_w + dx - a->pad_left;
    if (y < 0 || x < 0 || y >= a->height * a->upsample || x >= a->width * a->upsample)
        return -1;
    return y / a->upsample * a->width + x / a->upsample;
}

/* In double, as in linear.c. */
static float conv_at(const imagine__conv_args *a, int64_t oy, int64_t ox, int64_t o)
{
    const imagine__conv_weight *w = a->w;
    int64_t offset = o * w->kt * w->kh * w->kw * w->cin;
    double sum = 0;

    for (int32_t dt = 0; dt < w->kt; dt++) {
        for (int32_t dy = 0; dy < w->kh; dy++) {
            for (int32_t dx = 0; dx < w->kw; dx++, offset += w->cin) {
                int64_t pixel = a->x[dt] ? tap_pixel(a, oy, ox, dy, dx) : -1;
                if (pixel < 0)
                    continue;
                const float *x = a->x[dt] + pixel * a->ldx;
                for (int64_t c = 0; c < w->cin; c++)
                    sum += (double)x[c] * imagine__weight_at(w->packed, w->type, offset + c);
            }
        }
    }
    return (float)sum;
}

/* A tile is up to OUTPUTS outputs of up to PIXELS pixels of one output row: milliseconds in the largest layers. */
#define PIXELS 4
#define OUTPUTS 64

static void conv_tile(void *arg, int64_t tile, void *scratch)
{
    (void)scratch;
    const imagine__conv_args *a = arg;
    const imagine__conv_weight *w = a->w;
    int64_t groups = (w->cout + OUTPUTS - 1) / OUTPUTS, tiles = (a->out_w + PIXELS - 1) / PIXELS;
    int64_t from = tile % groups * OUTPUTS, to = from + OUTPUTS < w->cout ? from + OUTPUTS : w->cout;
    tile /= groups;
    int64_t oy = tile / tiles, first = tile % tiles * PIXELS;
    int64_t end = first + PIXELS < a->out_w ? first + PIXELS : a->out_w;

    for (int64_t ox = first; ox < end; ox++) {
        int64_t pixel = oy * a->out_w + ox;
        for (int64_t o = from; o < to; o++) {
            float value = conv_at(a, oy, ox, o);
            value = imagine__ref_act(w->bias ? value + w->bias[o] : value, a->act);
            if (a->add)
                value += a->add[pixel * a->ld_add + o];
            a->y[pixel * a->ldy + o] = value;
        }
    }
}

void imagine__ref_conv(imagine__run *run, const imagine__conv_args *args)
{
    imagine__conv_args copy = *args;
    if (args->w->cout > 0)
        imagine__parallel(run, args->out_h * ((args->out_w + PIXELS - 1) / PIXELS) * ((args->w->cout + OUTPUTS - 1) / OUTPUTS), conv_tile,
                          &copy);
}
