/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/product.cuh"

/* Linear layers and convolutions as products (product.cuh). */

static bool floats_in_fours(const float *p, int64_t stride)
{
    return in_fours(p, IMAGINE__W_F32, stride);
}

int imagine__cuda_linear(const imagine__linear_args *a, const imagine__cuda_call *call)
{
    const imagine__linear_weight *w = a->w;
    if (a->m <= 0 || w->n <= 0)
        return 0;
    rows_source source = {a->x, a->m, a->ldx, w->k, floats_in_fours(a->x, a->ldx)};
    product_weight weight = {w->packed, w->bias, w->n, w->k, w->type, in_fours(w->packed, w->type, w->k)};
    product_epilogue e = {a->y, a->m, a->ldy, a->act, false, a->mul, a->gate, a->add, a->ld_mul, a->gate_rows, a->ld_gate,
                          a->ld_add};
    e.aligned = floats_in_fours(a->y, a->ldy) && floats_in_fours(w->bias, 0) && floats_in_fours(a->mul, a->ld_mul) &&
                floats_in_fours(a->gate, a->ld_gate) && floats_in_fours(a->add, a->ld_add);
    return imagine__cuda_multiply(source, weight, e, call);
}

/* The frames that are there, and where their weights begin. */
static void list_frames(const imagine__conv_args *a, taps_source *source)
{
    for (int32_t t = 0; t < a->w->kt; t++)
        if (a->x[t]) {
            source->aligned = source->aligned && floats_in_fours(a->x[t], a->ldx);
            source->weight[source->frames] = (int64_t)t * a->w->kh * a->w->kw * a->w->cin;
            source->x[source->frames++] = a->x[t];
        }
}

int imagine__cuda_conv(const imagine__conv_args *a, const imagine__cuda_call *call)
{
    const imagine__conv_weight *w = a->w;
    int64_t pixels = a->out_h * a->out_w, row = w->cin * w->kh * w->kw;
    if (a->out_h <= 0 || a->out_w <= 0 || w->cout <= 0)
        return 0;
    if (w->kt > IMAGINE__CUDA_FRAMES || row > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    taps_source source = {};
    source.ldx = a->ldx, source.height = a->height, source.width = a->width, source.out_w = a->out_w, source.pixels = pixels;
    source.cin = (int32_t)w->cin, source.kh = w->kh, source.kw = w->kw, source.stride_h = a->stride_h;
    source.stride_w = a->stride_w, source.pad_top = a->pad_top, source.pad_left = a->pad_left, source.upsample = a->upsample;
    source.aligned = w->cin % 4 == 0;
    list_frames(a, &source);
    product_weight weight = {w->packed, w->bias, w->cout, row * w->kt, w->type,
                             row % 4 == 0 && in_fours(w->packed, w->type, 0)};
    product_epilogue e = {};
    e.y = a->y, e.m = pixels, e.ldy = a->ldy, e.act = a->act, e.add = a->add, e.ld_add = a->ld_add;
    e.aligned = floats_in_fours(a->y, a->ldy) && floats_in_fours(w->bias, 0) && floats_in_fours(a->add, a->ld_add);
    return imagine__cuda_multiply(source, weight, e, call);
}
