/* SPDX-License-Identifier: MIT */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/conv_dots.h"
#include "kernels/cpu/conv_planes.h"
#include "kernels/cpu/gemm.h"

/* A matrix product whose rows are output pixels and whose K is (dt, dy, dx, channel): a part is a frame, and `fill`
 * gathers what the taps read. */

size_t IMAGINE__ISA(conv_packed_size)(int64_t cout, int64_t cin, int32_t kt, int32_t kh, int32_t kw,
                                      imagine__wtype type)
{
    if (dots_suit(cout, cin, kt, kh, kw)) {
        dots_layout layout = dots_layout_of(cout, cin, kt, kh, kw);
        return dots_packed_size(&layout, type);
    }
    return gemm_packed_size(cout, cin * kt * kh * kw, type);
}

void IMAGINE__ISA(pack_conv)(void *packed, const void *weight, int64_t cout, int64_t cin, int32_t kt, int32_t kh,
                             int32_t kw, imagine__wtype type)
{
    if (dots_suit(cout, cin, kt, kh, kw)) {
        dots_layout layout = dots_layout_of(cout, cin, kt, kh, kw);
        dots_pack(&layout, packed, weight, cin, kw, type);
        return;
    }
    int64_t taps = (int64_t)kt * kh * kw, panels = gemm_ceil(cout, GEMM_COLUMNS);
    for (int64_t panel = 0; panel < panels; panel++) {
        for (int64_t t = 0; t < taps; t++) {
            for (int64_t c = 0; c < cin; c++) {
                for (int64_t j = 0; j < GEMM_COLUMNS; j++) {
                    int64_t o = panel * GEMM_COLUMNS + j, from = (o * cin + c) * taps + t;
                    int64_t to = ((panel * taps + t) * cin + c) * GEMM_COLUMNS + j;
                    if (type == IMAGINE__W_BF16)
                        ((uint16_t *)packed)[to] = o < cout ? ((const uint16_t *)weight)[from] : 0;
                    else
                        ((float *)packed)[to] = o < cout ? ((const float *)weight)[from] : 0;
                }
            }
        }
    }
}

/* A run of output pixels of one row, and the values first..end-1 of a kernel row's (dx, channel) that it wants. */
typedef struct gather {
    float *to; /* of the run's first pixel; GEMM_DEPTH apart */
    const float *line; /* the frame's line that is read */
    int64_t ox, count, first, end;
} gather;

/* Pixel by pixel and tap by tap: at the frame's sides, enlarged, or with channels left out. */
static void gather_taps(const imagine__conv_args *a, const gather *g, int64_t from, int64_t to)
{
    int64_t cin = a->w->cin, width = a->width * a->upsample, shift = a->upsample - 1;
    for (int64_t i = from; i < to; i++) {
        float *out = g->to + i * GEMM_DEPTH;
        int64_t x = (g->ox + i) * a->stride_w - a->pad_left;
        for (int64_t e = g->first; e < g->end;) {
            int64_t dx = e / cin, c = e - dx * cin, n = gemm_min(cin - c, g->end - e), ix = x + dx;
            if (ix >= 0 && ix < width)
                vec_copy(out, g->line + (ix >> shift) * a->ldx + c, n);
            else
                vec_clear(out, n);
            out += n;
            e += n;
        }
    }
}

/* Inside a dense frame the taps of a kernel row lie side by side. */
static void gather_run(const imagine__conv_args *a, const gather *g)
{
    int64_t from = 0, to = 0, cin = a->w->cin, n = g->end - g->first;
    if (a->upsample == 1 && a->ldx == cin) {
        int64_t stride = a->stride_w, last = a->width - a->w->kw + a->pad_left; /* x - pad_left <= last - pad_left */
        from = gemm_ceil(a->pad_left > g->ox * stride ? a->pad_left - g->ox * stride : 0, stride);
        to = last < g->ox * stride ? 0 : (last - g->ox * stride) / stride + 1;
        from = gemm_min(from, g->count);
        to = to > from ? gemm_min(to, g->count) : from;
        const float *line = g->line + g->first;
        for (int64_t i = from; i < to; i++)
            vec_copy(g->to + i * GEMM_DEPTH, line + ((g->ox + i) * stride - a->pad_left) * cin, n);
    }
    gather_taps(a, g, 0, from);
    gather_taps(a, g, to, g->count);
}

/* The values k..k+depth-1 of one frame, a kernel row at a time. */
static void fill_pixels(const gemm *g, float *to, int64_t row, int64_t rows, int64_t part, int64_t k, int64_t depth)
{
    const imagine__conv_args *a = g->source;
    int64_t row_k = a->w->kw * a->w->cin, shift = a->upsample - 1;
    for (int64_t at = k; at < k + depth;) {
        int64_t dy = at / row_k, first = at - dy * row_k, n = gemm_min(row_k - first, k + depth - at);
        for (int64_t r = 0; r < rows;) {
            int64_t oy = (row + r) / a->out_w, ox = row + r - oy * a->out_w, count = gemm_min(rows - r, a->out_w - ox);
            int64_t iy = oy * a->stride_h + dy - a->pad_top;
            gather run = {to + r * GEMM_DEPTH + at - k, NULL, ox, count, first, first + n};
            if (iy >= 0 && iy < a->height * a->upsample) {
                run.line = a->x[part] + (iy >> shift) * a->width * a->ldx;
                gather_run(a, &run);
            } else {
                for (int64_t i = 0; i < count; i++)
                    vec_clear(run.to + i * GEMM_DEPTH, n);
            }
            r += count;
        }
        at += n;
    }
}

static int frame_skipped(const gemm *g, int64_t part)
{
    const imagine__conv_args *a = g->source;
    return a->x[part] == NULL;
}

void IMAGINE__ISA(conv)(imagine__run *run, const imagine__conv_args *args)
{
    const imagine__conv_weight *w = args->w;
    if (dots_suit(w->cout, w->cin, w->kt, w->kh, w->kw)) {
        dots_start(run, args);
        return;
    }
    gemm g = {.packed = w->packed, .type = w->type, .m = args->out_h * args->out_w, .n = w->cout,
              .parts = w->kt, .part_k = (int64_t)w->kh * w->kw * w->cin,
              .source = args, .fill = fill_pixels, .skipped = frame_skipped,
              .out = {.y = args->y, .ldy = args->ldy, .bias = w->bias, .add = args->add, .ld_add = args->ld_add,
                      .act = args->act}};
    planes p;
    if (!gemm_begin(&g))
        return;
    if (planes_suit(&p, &g, args, run->threads))
        planes_start(run, &p);
    else
        gemm_run(run, &g);
}
