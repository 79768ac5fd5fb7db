/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CONV_DOTS_H
#define IMAGINE_KERNELS_CONV_DOTS_H

/* Convolution with the values of a kernel row, (dx, channel), in the lanes of a vector, for few outputs: a panel of columns
 * would be mostly padding. Inside a dense frame a kernel row lies in one piece, so nothing is copied: up to four outputs by
 * up to four pixels are dot products in registers. Elsewhere a few pixels are copied together with the zeros around them.
 *
 * W lies packed as [group of outputs][kernel row][vector][output of the group][VEC_LANES], the last vector of a row filled up
 * with zeros. The kernel rows are taken in blocks; an output is the sum of its blocks' vectors, whose lanes are then added:
 * in an order that depends on the kernel and the channels alone. Which convolutions go this way does, too. */

#include "kernels/cpu/gemm.h"
#include "kernels/ref/ref.h"

#define DOTS_OUTS 4 /* most outputs of a group */
#define DOTS_PIXELS 4 /* most pixels in registers */
#define DOTS_STRIP 128 /* most pixels of a strip */
#define DOTS_NEAR (512 << 10) /* bytes of the lines that a strip reads, if it is to be so wide */
#define DOTS_ROWS 64 /* most kernel rows of a block */
#define DOTS_BLOCK (1024 / VEC_LANES) /* vectors of a block, if a row is not longer */

/* How a weight is laid out. */
typedef struct dots_layout {
    int64_t row; /* values of a kernel row */
    int64_t vectors; /* of a kernel row */
    int64_t rows; /* of the kernel */
    int64_t block; /* rows of a block */
    int64_t groups, cout;
} dots_layout;

static dots_layout dots_layout_of(int64_t cout, int64_t cin, int32_t kt, int32_t kh, int32_t kw)
{
    dots_layout l = {.row = kw * cin, .rows = (int64_t)kt * kh, .cout = cout};
    l.vectors = gemm_ceil(l.row, VEC_LANES);
    l.block = l.vectors > DOTS_BLOCK || l.vectors == 0 ? 1 : gemm_min(DOTS_BLOCK / l.vectors, DOTS_ROWS);
    l.block = gemm_min(l.block, l.rows);
    l.groups = gemm_ceil(cout, DOTS_OUTS);
    return l;
}

/* A vector of a row: what a pixel reads, and where its weights are, in a group of one output. */
typedef struct dots_step {
    const float *x;
    int64_t w;
} dots_step;

/* Groups are as equal as can be. */
static int64_t dots_group_begin(const dots_layout *l, int64_t group)
{
    return group * (l->cout / l->groups) + gemm_min(group, l->cout % l->groups);
}

static int64_t dots_group_size(const dots_layout *l, int64_t group)
{
    return l->cout / l->groups + (group < l->cout % l->groups);
}

/* Pixels in registers beside so many outputs: 12 sums, and their operands, fill 16 registers. */
static int64_t dots_most_pixels(int64_t outs)
{
    return outs == DOTS_OUTS ? 3 : DOTS_PIXELS;
}

/* 1: a convolution of these sizes goes this way, as it is faster (measured, docs/speed-log.md). */
static int dots_suit(int64_t cout, int64_t cin, int32_t kt, int32_t kh, int32_t kw)
{
    dots_layout l = dots_layout_of(cout, cin, kt, kh, kw);
    if (cout <= 0 || l.row < 96 || l.rows * l.row < 576 || cout > (l.row < 192 ? 8 : 12))
        return 0;
    int64_t floats = l.rows * l.vectors * VEC_LANES * cout + DOTS_STRIP * (cout + 3) * (VEC_LANES + 1) +
                     DOTS_PIXELS * l.block * l.row + 2 * l.block * l.vectors * (int64_t)sizeof(dots_step) / 4;
    return floats * 4 <= (int64_t)IMAGINE__SCRATCH;
}

static size_t dots_packed_size(const dots_layout *l, imagine__wtype type)
{
    return (size_t)(l->rows * l->vectors * VEC_LANES * l->cout) * imagine__weight_size(type);
}

static void dots_pack(const dots_layout *l, void *packed, const void *weight, int64_t cin, int32_t kw, imagine__wtype type)
{
    size_t size = imagine__weight_size(type);
    char *to = packed;
    memset(packed, 0, dots_packed_size(l, type));
    for (int64_t group = 0; group < l->groups; group++) {
        int64_t begin = dots_group_begin(l, group), outs = dots_group_size(l, group);
        for (int64_t row = 0; row < l->rows; row++) {
            for (int64_t e = 0; e < l->row; e++) {
                for (int64_t o = 0; o < outs; o++) {
                    int64_t from = ((begin + o) * cin + e % cin) * l->rows * kw + row * kw + e / cin;
                    int64_t at = (e / VEC_LANES * outs + o) * VEC_LANES + e % VEC_LANES;
                    memcpy(to + (size_t)at * size, (const char *)weight + (size_t)from * size, size);
                }
            }
            to += (size_t)(l->vectors * outs * VEC_LANES) * size;
        }
    }
}

typedef struct dots {
    const imagine__conv_args *args;
    dots_layout layout;
    int64_t strip, strips, lines; /* pixels of a strip, strips of a line, lines of a tile */
} dots;

/* The parts of the scratch, and where the tile stands. */
typedef struct dots_tile {
    const dots *d;
    const float *weights; /* packed, f32 */
    float *sums; /* [DOTS_STRIP][cout][VEC_LANES] */
    float *out; /* [DOTS_STRIP][cout up to a multiple of 4] */
    float *copied; /* [rows of a block][pixels][row] */
    dots_step *in_place, *elsewhere; /* [rows of a block][vectors] */
    int64_t x, width; /* the strip's first pixel, and how many */
    int64_t end; /* the tile's last line + 1 */
} dots_tile;

/* A kernel row of a block that is not all zeros. */
typedef struct dots_row {
    const float *line; /* the frame's line */
    int64_t index; /* of the kernel's rows */
} dots_row;

typedef struct dots_block {
    dots_row rows[DOTS_ROWS];
    int64_t count;
    int first;
    const dots_step *steps; /* of its rows, as some pixel reads them */
    int64_t shift, stride; /* from that pixel to the first one, and from pixel to pixel */
    const char *ask; /* memory that is wanted next, `step` bytes for every vector */
    int64_t step;
} dots_block;

/* sums[pixels][cout][VEC_LANES] (+)= the block's products. `outs`, `pixels` and `partly`, whether a row's last vector is
 * partly zeros, are constants. */
VEC void dots_multiply(const dots_layout *l, const dots_block *b, const float *w, float *sums, const int outs,
                       const int pixels, const int partly)
{
#define EACH_PIXEL(X, o) X(o, 0) X(o, 1) X(o, 2) X(o, 3)
#define EACH_OUT(X, p) X(0, p) X(1, p) X(2, p) X(3, p)
#define EACH(X) EACH_PIXEL(X, 0) EACH_PIXEL(X, 1) EACH_PIXEL(X, 2) EACH_PIXEL(X, 3)
#define DECLARE(o, p) vec s##o##p = vec_zero();
#define WEIGHT(o, p) vec w##o = o < outs ? vec_in_register(vec_load(from + o * VEC_LANES)) : vec_zero();
#define LOAD(x) vec_in_register(partly ? vec_load_n(x, mask) : vec_load(x))
#define PIXEL(o, p) vec x##p = p < pixels ? LOAD(x + p * stride) : vec_zero();
#define MULTIPLY(o, p) \
    if (o < outs && p < pixels) \
        s##o##p = vec_fma(x##p, w##o, s##o##p);
#define MULTIPLY_OUT(o) { WEIGHT(o, 0) EACH_PIXEL(MULTIPLY, o) }
#define MULTIPLY_PIXEL(p) { PIXEL(0, p) EACH_OUT(MULTIPLY, p) }
#define ADD(o, p) \
    if (o < outs && p < pixels) \
        s##o##p = vec_add(s##o##p, vec_load(sums + (p * l->cout + o) * VEC_LANES));
#define STORE(o, p) \
    if (o < outs && p < pixels) \
        vec_store(sums + (p * l->cout + o) * VEC_LANES, s##o##p);
    EACH(DECLARE)
    const vec_mask masks[2] = {vec_first(VEC_LANES), vec_first(l->row - (l->vectors - 1) * VEC_LANES)};
    const int64_t stride = b->stride, step = b->step, shift = b->shift, vectors = l->vectors;
    const dots_step *at = b->steps, *end = at + b->count * vectors;
    const char *ask = b->ask;

    for (int64_t left = vectors; at < end; at++, ask += step) {
        const float *x = at->x + shift, *from = w + at->w * outs;
        vec_mask mask = masks[0];
        if (partly && --left == 0) {
            mask = masks[1];
            left = vectors;
        }
        vec_prefetch(ask);
        if (outs >= pixels) { /* the order that keeps fewer operands in registers */
            EACH_PIXEL(PIXEL, 0)
            MULTIPLY_OUT(0) MULTIPLY_OUT(1) MULTIPLY_OUT(2) MULTIPLY_OUT(3)
        } else {
            EACH_OUT(WEIGHT, 0)
            MULTIPLY_PIXEL(0) MULTIPLY_PIXEL(1) MULTIPLY_PIXEL(2) MULTIPLY_PIXEL(3)
        }
    }
    if (!b->first) {
        EACH(ADD)
    }
    EACH(STORE)
#undef EACH_PIXEL
#undef EACH_OUT
#undef EACH
#undef DECLARE
#undef WEIGHT
#undef LOAD
#undef PIXEL
#undef MULTIPLY
#undef MULTIPLY_OUT
#undef MULTIPLY_PIXEL
#undef ADD
#undef STORE
}

typedef void dots_multiply_fn(const dots_layout *l, const dots_block *b, const float *w, float *sums);

#define DOTS_MULTIPLY(name, outs, pixels, partly)                                                     \
    static void dots_##name##_##outs##_##pixels(const dots_layout *l, const dots_block *b, const float *w, float *sums) \
    {                                                                                                               \
        dots_multiply(l, b, w, sums, outs, pixels, partly);                                                         \
    }
#define DOTS_MULTIPLY_BOTH(outs, pixels) DOTS_MULTIPLY(whole, outs, pixels, 0) DOTS_MULTIPLY(partly, outs, pixels, 1)
#define DOTS_MULTIPLY_4(outs) \
    DOTS_MULTIPLY_BOTH(outs, 1) DOTS_MULTIPLY_BOTH(outs, 2) DOTS_MULTIPLY_BOTH(outs, 3) DOTS_MULTIPLY_BOTH(outs, 4)
DOTS_MULTIPLY_4(1)
DOTS_MULTIPLY_4(2)
DOTS_MULTIPLY_4(3)
DOTS_MULTIPLY_4(4)

/* The block's rows that are not all zeros, for output line `oy`. */
static void dots_find_rows(const dots_tile *t, dots_block *b, int64_t oy, int64_t row)
{
    const imagine__conv_args *a = t->d->args;
    int64_t end = gemm_min(row + t->d->layout.block, t->d->layout.rows);
    b->count = 0;
    for (; row < end; row++) {
        int64_t part = row / a->w->kh, y = oy * a->stride_h + row % a->w->kh - a->pad_top;
        if (a->x[part] && y >= 0 && y < a->height * a->upsample)
            b->rows[b->count++] = (dots_row){a->x[part] + (y >> (a->upsample - 1)) * a->width * a->ldx, row};
    }
}

/* What the kernel row reads of a line for pixels whose taps lie side by side: `taps` taps from x on, zeros beside the line. */
static void dots_copy(const imagine__conv_args *a, const float *line, float *to, int64_t x, int64_t taps)
{
    int64_t cin = a->w->cin, width = a->width * a->upsample, end = gemm_min(x + taps, width), zeros = x + taps - end;
    int64_t before = gemm_min(x < 0 ? -x : 0, taps);
    vec_clear(to, before * cin);
    to += before * cin;
    x += before;
    if (a->upsample == 1 && a->ldx == cin && end > x) {
        vec_copy(to, line + x * cin, (end - x) * cin);
        to += (end - x) * cin;
    } else {
        for (; x < end; x++, to += cin)
            vec_copy(to, line + (x >> (a->upsample - 1)) * a->ldx, cin);
    }
    vec_clear(to, gemm_min(zeros, taps - before) * cin);
}

/* 1: `taps` taps of a line from x on lie in the frame as the kernel's rows want them. */
static int dots_in_place(const imagine__conv_args *a, int64_t x, int64_t taps)
{
    return a->upsample == 1 && a->ldx == a->w->cin && x >= 0 && x + taps <= a->width;
}

/* The steps of row i of the block, which reads from x on. */
static void dots_point(const dots_tile *t, const dots_block *b, dots_step *steps, int64_t i, const float *x)
{
    int64_t vectors = t->d->layout.vectors;
    for (int64_t v = 0; v < vectors; v++)
        steps[i * vectors + v] = (dots_step){x + v * VEC_LANES, (b->rows[i].index * vectors + v) * VEC_LANES};
}

/* Copies what `count` pixels whose taps begin at x read. */
static void dots_copy_pixels(const dots_tile *t, dots_block *b, int64_t x, int64_t count)
{
    const imagine__conv_args *a = t->d->args;
    const dots_layout *l = &t->d->layout;
    int64_t kw = a->w->kw, cin = a->w->cin, taps = (count - 1) * a->stride_w + kw;
    float *to = t->copied;
    b->stride = a->stride_w <= kw ? a->stride_w * cin : l->row;
    for (int64_t i = 0; i < b->count; i++) {
        dots_point(t, b, t->elsewhere, i, to);
        if (a->stride_w <= kw) {
            dots_copy(a, b->rows[i].line, to, x, taps);
            to += taps * cin;
            continue;
        }
        for (int64_t p = 0; p < count; p++, to += l->row) /* there are taps that no pixel reads */
            dots_copy(a, b->rows[i].line, to, x + p * a->stride_w, kw);
    }
}

/* Points the block at what `count` pixels from pixel `i` of the strip on read. */
static void dots_find_pixels(const dots_tile *t, dots_block *b, int64_t i, int64_t count)
{
    const imagine__conv_args *a = t->d->args;
    int64_t x = (t->x + i) * a->stride_w - a->pad_left;
    if (dots_in_place(a, x, (count - 1) * a->stride_w + a->w->kw)) {
        b->steps = t->in_place;
        b->stride = a->stride_w * a->w->cin;
        b->shift = i * b->stride;
    } else {
        b->steps = t->elsewhere;
        b->shift = 0;
        dots_copy_pixels(t, b, x, count);
    }
}

/* The block's products for all outputs and pixels of the strip's line. */
static void dots_run_block(const dots_tile *t, dots_block *b)
{
#define OF(name, outs) {dots_##name##_##outs##_1, dots_##name##_##outs##_2, dots_##name##_##outs##_3, dots_##name##_##outs##_4}
    static dots_multiply_fn *const multiply[2][DOTS_OUTS][DOTS_PIXELS] = {
        {OF(whole, 1), OF(whole, 2), OF(whole, 3), OF(whole, 4)}, {OF(partly, 1), OF(partly, 2), OF(partly, 3), OF(partly, 4)}};
#undef OF
    const dots_layout *l = &t->d->layout;
    int partly = l->row % VEC_LANES != 0;
    const imagine__conv_args *a = t->d->args;
    for (int64_t i = 0; i < b->count; i++)
        dots_point(t, b, t->in_place, i, b->rows[i].line + (t->x * a->stride_w - a->pad_left) * a->ldx);
    for (int64_t group = 0; group < l->groups; group++) {
        int64_t begin = dots_group_begin(l, group), outs = dots_group_size(l, group);
        int64_t blocks = gemm_ceil(t->width, dots_most_pixels(outs));
        const float *w = t->weights + begin * l->rows * l->vectors * VEC_LANES;
        for (int64_t i = 0; i < blocks; i++) {
            int64_t x = i * t->width / blocks, count = (i + 1) * t->width / blocks - x;
            dots_find_pixels(t, b, x, count);
            multiply[partly][outs - 1][count - 1](l, b, w, t->sums + (x * l->cout + begin) * VEC_LANES);
            b->ask += b->count * l->vectors * b->step;
        }
    }
}

/* Where a block's steps ask for a share of the line of its frame that the next output line wants. */
static void dots_ask(const dots_tile *t, dots_block *b, int64_t oy, int64_t row)
{
    const imagine__conv_args *a = t->d->args;
    const dots_layout *l = &t->d->layout;
    int64_t kh = a->w->kh, part = row / kh, y = (oy + 1) * a->stride_h + kh - 1 - a->pad_top;
    int64_t x = t->x * a->stride_w - a->pad_left, end = x + t->width * a->stride_w + a->w->kw;
    b->ask = (const char *)t->sums;
    b->step = 0;
    if (a->upsample > 1 || oy + 1 >= t->end || y < 0 || y >= a->height || !a->x[part])
        return;
    x = x > 0 ? x : 0;
    end = gemm_min(end, a->width);
    if (end <= x)
        return;
    int64_t blocks = gemm_ceil(kh, l->block), share = (end - x) * a->ldx * 4 / blocks; /* bytes */
    int64_t steps = l->block * l->vectors * gemm_ceil(t->width, dots_most_pixels(dots_group_size(l, 0))) * l->groups;
    b->ask = (const char *)(a->x[part] + (y * a->width + x) * a->ldx) + row % kh / l->block * share;
    b->step = gemm_ceil(share, steps);
}

/* The lanes of a sum, added down to four; zeros unless it is `there`. */
VEC __m128 dots_add_quarters(const float *sum, int there)
{
    if (!there)
        return _mm_setzero_ps();
#if VEC_LANES == 16
    __m256 half = _mm256_add_ps(_mm256_loadu_ps(sum), _mm256_loadu_ps(sum + 8));
#else
    __m256 half = _mm256_loadu_ps(sum);
#endif
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* The lanes of four (or fewer) sums added. */
VEC __m128 dots_add_lanes(const float *sums, int64_t count)
{
    __m128 r0 = dots_add_quarters(sums, 1), r1 = dots_add_quarters(sums + VEC_LANES, count > 1);
    __m128 r2 = dots_add_quarters(sums + 2 * VEC_LANES, count > 2);
    __m128 r3 = dots_add_quarters(sums + 3 * VEC_LANES, count > 3);
    __m128 low01 = _mm_unpacklo_ps(r0, r1), high01 = _mm_unpackhi_ps(r0, r1);
    __m128 low23 = _mm_unpacklo_ps(r2, r3), high23 = _mm_unpackhi_ps(r2, r3);
    __m128 a = _mm_add_ps(_mm_movelh_ps(low01, low23), _mm_movelh_ps(high01, high23));
    return _mm_add_ps(a, _mm_add_ps(_mm_movehl_ps(low23, low01), _mm_movehl_ps(high23, high01)));
}

/* A line's sums become y. */
static void dots_finish_line(const dots_tile *t, int64_t oy)
{
    const imagine__conv_args *a = t->d->args;
    int64_t cout = a->w->cout, pitch = gemm_ceil(cout, 4) * 4, pixel = oy * a->out_w + t->x;
    for (int64_t o = 0; o < cout; o += 4) {
        __m128 bias = a->w->bias ? vec_load_few(a->w->bias + o, cout - o) : _mm_setzero_ps();
        for (int64_t x = 0; x < t->width; x++) {
            __m128 sum = dots_add_lanes(t->sums + (x * cout + o) * VEC_LANES, cout - o);
            _mm_storeu_ps(t->out + x * pitch + o, a->w->bias ? _mm_add_ps(sum, bias) : sum);
        }
    }
    for (int64_t i = 0; a->act != IMAGINE__ACT_NONE && i < t->width * pitch; i += VEC_LANES)
        vec_store(t->out + i, vec_act(vec_load(t->out + i), a->act));
    for (int64_t x = 0; x < t->width; x++) {
        for (int64_t o = 0; o < cout; o += 4) {
            __m128 y = _mm_loadu_ps(t->out + x * pitch + o);
            if (a->add)
                y = _mm_add_ps(y, vec_load_few(a->add + (pixel + x) * a->ld_add + o, cout - o));
            vec_store_few(a->y + (pixel + x) * a->ldy + o, y, cout - o);
        }
    }
}

static void dots_run_line(const dots_tile *t, int64_t oy)
{
    const dots_layout *l = &t->d->layout;
    dots_block b = {.first = 1};
    for (int64_t row = 0; row < l->rows; row += l->block) {
        dots_find_rows(t, &b, oy, row);
        if (!b.count)
            continue;
        dots_ask(t, &b, oy, row);
        dots_run_block(t, &b);
        b.first = 0;
    }
    if (b.first)
        memset(t->sums, 0, (size_t)(t->width * l->cout * VEC_LANES) * sizeof *t->sums);
    dots_finish_line(t, oy);
}

static void dots_run_tile(void *arg, int64_t tile, void *scratch)
{
    const dots *d = arg;
    const imagine__conv_args *a = d->args;
    const dots_layout *l = &d->layout;
    int64_t oy = tile / d->strips * d->lines, count = l->rows * l->vectors * VEC_LANES * l->cout;
    dots_tile t = {.d = d, .x = tile % d->strips * d->strip, .end = gemm_min(oy + d->lines, a->out_h)};
    t.width = gemm_min(d->strip, a->out_w - t.x);
    t.sums = scratch;
    t.out = t.sums + DOTS_STRIP * l->cout * VEC_LANES;
    t.weights = a->w->packed;
    t.in_place = (dots_step *)(t.out + DOTS_STRIP * gemm_ceil(l->cout, 4) * 4);
    t.elsewhere = t.in_place + l->block * l->vectors;
    t.copied = (float *)(t.elsewhere + l->block * l->vectors);
    if (a->w->type == IMAGINE__W_BF16) {
        float *wide = t.copied;
        t.weights = wide;
        t.copied += count;
        for (int64_t i = 0; i < count; i += VEC_LANES)
            vec_store(wide + i, vec_load_bf16((const uint16_t *)a->w->packed + i));
    }
    for (; oy < t.end; oy++)
        dots_run_line(&t, oy);
}

static void dots_start(imagine__run *run, const imagine__conv_args *a)
{
    const imagine__conv_weight *w = a->w;
    dots d = {.args = a, .layout = dots_layout_of(w->cout, w->cin, w->kt, w->kh, w->kw)};
    if (a->out_h <= 0 || a->out_w <= 0)
        return;
    d.strip = d.layout.rows * DOTS_STRIP * w->cin * 4 <= DOTS_NEAR ? DOTS_STRIP : DOTS_STRIP / 2;
    double line = 2.0 * (double)(gemm_min(d.strip, a->out_w) * w->cout * d.layout.rows * d.layout.row);
    d.strips = gemm_ceil(a->out_w, d.strip);
    d.lines = gemm_plan_lines(a->out_h, d.strips, line, run->threads);
    imagine__parallel(run, d.strips * gemm_ceil(a->out_h, d.lines), dots_run_tile, &d);
}

#endif
