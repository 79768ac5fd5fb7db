/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CONV_DOTS_H
#define IMAGINE_KERNELS_CONV_DOTS_H

/* Convolution with the values of a kernel row, (dx, channel), in the lanes of a vector, for few outputs: a panel of columns
 * would be mostly padding. Inside a dense frame a kernel row lies in one piece, so nothing is copied: up to four outputs by
 * some pixels are dot products in registers. Beside the frame, taps that are whole vectors of zeros are left out; elsewhere a few
 * pixels are copied together with the zeros around them.
 *
 * W lies packed as [group of outputs][kernel row][vector][output of the group][VEC_LANES], the last vector of a row filled up
 * with zeros. The kernel rows are taken in blocks; an output is the sum of its blocks' vectors, whose lanes are then added:
 * in an order that depends on the kernel and the channels alone. Which convolutions go this way does, too. */

#include "kernels/cpu/gemm.h"
#include "kernels/ref/ref.h"

#define DOTS_OUTS 4 /* most outputs of a group */
#define DOTS_PIXELS (VEC_LANES / 2) /* most pixels in registers */
#define DOTS_SUMS (3 * DOTS_PIXELS) /* in registers, most: their operands fill the others */
#define DOTS_ASK 8 /* pixels of the next line that some pixels ask for */
#define DOTS_STRIP 128 /* most pixels of a strip */
#define DOTS_NEAR (512 << 10) /* bytes of the lines that a strip reads, if it is to be so wide */
#define DOTS_SMALL (4 << 10) /* bytes that a pixel reads, few enough for many pixels at once */
#define DOTS_BLOCK (1024 / VEC_LANES) /* vectors, if a row is not longer */

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
    if (cout <= 0 || l.row <= 0)
        return l;
    l.groups = gemm_ceil(cout, DOTS_OUTS);
    l.block = DOTS_BLOCK / l.vectors;
    l.block = gemm_min(l.block > 0 ? l.block : 1, l.rows);
    return l;
}

/* A vector of a row: what a pixel reads, where its weights are, in a group of one output, and memory that is wanted soon. */
typedef struct dots_step {
    const float *x;
    int64_t w;
    const float *ask;
} dots_step;

/* A kernel row that is not all zeros. */
typedef struct dots_row {
    const float *line; /* the frame's line */
    const float *next; /* the line of its frame that the next output line reads first, or NULL */
    int64_t index, dy; /* of the kernel's rows, and within its frame */
} dots_row;

/* Groups are as equal as can be. */
static int64_t dots_group_begin(const dots_layout *l, int64_t group)
{
    return group * (l->cout / l->groups) + gemm_min(group, l->cout % l->groups);
}

static int64_t dots_group_size(const dots_layout *l, int64_t group)
{
    return l->cout / l->groups + (group < l->cout % l->groups);
}

/* Pixels in registers beside so many outputs. As many as fit crowd the first-level cache, unless what they read is little. */
static int64_t dots_most_pixels(const dots_layout *l, int64_t outs)
{
    if (outs == DOTS_OUTS)
        return DOTS_SUMS / DOTS_OUTS;
    return l->rows * l->row * 4 <= DOTS_SMALL ? DOTS_PIXELS : VEC_LANES == 16 ? 6 : 4;
}

/* Outputs for which this way is faster (measured, docs/speed-log.md), at most. */
static int64_t dots_most_outputs(const dots_layout *l)
{
    if (l->row < 96) /* the lanes are added for little; planes suit more outputs, and what is no whole vectors */
        return VEC_LANES == 16 && l->row >= 48 && l->row % VEC_LANES == 0 && l->rows * l->row >= 432 ? 5 : 0;
    if (l->rows * l->row < 576)
        return 0;
    return l->row < 192 ? 8 : 12;
}

/* 1: a convolution of these sizes goes this way. */
static int dots_suit(int64_t cout, int64_t cin, int32_t kt, int32_t kh, int32_t kw)
{
    dots_layout l = dots_layout_of(cout, cin, kt, kh, kw);
    if (cout <= 0 || cout > dots_most_outputs(&l))
        return 0;
    int64_t floats = l.rows * l.vectors * VEC_LANES * cout + DOTS_STRIP * cout * (VEC_LANES + 1) + l.groups * DOTS_SUMS +
                     DOTS_PIXELS * l.block * l.row + 32;
    int64_t rest = l.rows * (int64_t)sizeof(dots_row) + 2 * l.block * l.vectors * (int64_t)sizeof(dots_step);
    return floats * 4 + rest <= (int64_t)IMAGINE__SCRATCH;
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
    int64_t ask; /* floats that a step asks for */
} dots;

/* The parts of the scratch, and where the tile stands. */
typedef struct dots_tile {
    const dots *d;
    const float *weights; /* packed, f32 */
    float *sums; /* [cout][DOTS_STRIP][VEC_LANES], of each group [pixel][output] */
    float *out; /* [cout][DOTS_STRIP], of each group [pixel][output] */
    float *bias; /* [groups][DOTS_SUMS]: the group's, again and again */
    float *copied; /* [rows of a block][pixels][row] */
    dots_step *in_place, *elsewhere; /* [rows of a block][vectors] */
    dots_row *rows; /* of the line */
    int64_t count;
    int64_t x, width; /* the strip's first pixel, and how many */
    int64_t down; /* floats from the line that the rows and the steps in place are for to the one at hand */
    int inside; /* the next line's rows are the same, further down, unless some are beside the frame */
    int64_t first, last; /* of these, the first one that reads the frame in place, and the first after it that does not */
    int64_t end; /* the tile's last line + 1 */
} dots_tile;

typedef struct dots_block {
    const dots_row *rows;
    int64_t count;
    int first, last; /* of the line's blocks */
    const dots_step *steps, *end; /* of its rows, as some pixel reads them */
    int64_t shift, stride; /* from that pixel to the first one, and from pixel to pixel */
    const float *w, *bias; /* of the group of outputs */
    float *sums, *out; /* of the pixels */
    int64_t turns; /* so many times as many pixels as the function is for */
} dots_block;

/* Neighbouring lanes of a and b added until each has a half, a quarter or an eighth of the lanes; in the same order in all widths. */
VEC __m256 dots_add_4(__m256 a, __m256 b)
{
    return _mm256_add_ps(_mm256_blend_ps(a, b, 0xf0), _mm256_permute2f128_ps(a, b, 0x21));
}

VEC __m256 dots_add_2(__m256 a, __m256 b)
{
    return _mm256_add_ps(_mm256_blend_ps(a, b, 0xcc), _mm256_shuffle_ps(a, b, 0x4e));
}

VEC __m256 dots_add_1(__m256 a, __m256 b)
{
    return _mm256_add_ps(_mm256_blend_ps(a, b, 0xaa), _mm256_permute_ps(_mm256_blend_ps(a, b, 0x55), 0xb1));
}

VEC __m256 dots_add_8(vec x)
{
#if VEC_LANES == 16
    return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
#else
    return x;
#endif
}

/* The lanes of each of eight vectors added. */
VEC __m256 dots_add_lanes(const vec *s)
{
    __m256 a = dots_add_4(dots_add_8(s[0]), dots_add_8(s[4])), b = dots_add_4(dots_add_8(s[1]), dots_add_8(s[5]));
    __m256 c = dots_add_4(dots_add_8(s[2]), dots_add_8(s[6])), d = dots_add_4(dots_add_8(s[3]), dots_add_8(s[7]));
    return dots_add_1(dots_add_2(a, c), dots_add_2(b, d));
}

/* The same for four. */
VEC __m128 dots_add_few_lanes(const vec *s)
{
    __m128 r[4];
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        __m256 half = dots_add_8(s[i]);
        r[i] = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    }
    __m128 a = _mm_add_ps(_mm_blend_ps(r[0], r[2], 0xc), _mm_shuffle_ps(r[0], r[2], 0x4e));
    __m128 b = _mm_add_ps(_mm_blend_ps(r[1], r[3], 0xc), _mm_shuffle_ps(r[1], r[3], 0x4e));
    return _mm_add_ps(_mm_blend_ps(a, b, 0xa), _mm_permute_ps(_mm_blend_ps(a, b, 0x5), 0xb1));
}

/* Eight sums become out, or the first four of them alone. */
VEC void dots_put_lanes(const vec *s, float *out, const float *bias, const int few)
{
    if (few)
        _mm_storeu_ps(out, _mm_add_ps(dots_add_few_lanes(s), _mm_loadu_ps(bias)));
    else
        _mm256_storeu_ps(out, _mm256_add_ps(dots_add_lanes(s), _mm256_loadu_ps(bias)));
}

/* The block's products of some pixels, beginning with `shift` floats after the steps', for a group of outputs: added to the sums
 * [pixel][output][VEC_LANES] or, if it is the last block, turned into out[pixel][output], of which more may be written, up to a
 * multiple of eight. `outs`, `pixels` and `partly`, whether a row's last vector is partly zeros, are constants. */
VEC void dots_multiply(const dots_layout *l, const dots_block *b, const int outs, const int pixels, const int partly)
{
#define EACH(i, n) _Pragma("GCC unroll 32") for (int i = 0; i < (n); i++)
#define PIXEL(p) vec_in_register(partly ? vec_load_n(x + (p) * stride, mask) : vec_load(x + (p) * stride))
#define WEIGHT(o) vec_in_register(vec_load(from + (o) * VEC_LANES))
    const vec_mask masks[2] = {vec_first(VEC_LANES), vec_first(l->row - (l->vectors - 1) * VEC_LANES)};
    const int64_t stride = b->stride, shift = b->shift, vectors = l->vectors;
    const int count = outs * pixels;
    const dots_step *at = b->steps, *end = b->end;
    const float *w = b->w;
    int64_t left = vectors;
    vec s[DOTS_SUMS + 7], fixed[DOTS_OUTS];
    EACH(i, (count + 7) / 8 * 8)
        s[i] = vec_zero();
    for (; at < end; at++) {
        const float *x = at->x + shift, *from = w + at->w * outs;
        vec_mask mask = masks[0];
        if (partly && --left == 0) {
            mask = masks[1];
            left = vectors;
        }
        vec_prefetch(at->ask + shift);
        if (outs > pixels) { /* the order that keeps fewer operands in registers */
            EACH(p, pixels)
                fixed[p] = PIXEL(p);
            EACH(o, outs) {
                vec weight = WEIGHT(o);
                EACH(p, pixels)
                    s[p * outs + o] = vec_fma(fixed[p], weight, s[p * outs + o]);
            }
        } else {
            EACH(o, outs)
                fixed[o] = WEIGHT(o);
            EACH(p, pixels) {
                vec pixel = PIXEL(p);
                EACH(o, outs)
                    s[p * outs + o] = vec_fma(pixel, fixed[o], s[p * outs + o]);
            }
        }
    }
    const float *bias = b->bias;
    float *sums = b->sums, *out = b->out;
    if (!b->first)
        EACH(i, count)
            s[i] = vec_add(s[i], vec_load(sums + i * VEC_LANES));
    if (!b->last)
        EACH(i, count)
            vec_store(sums + i * VEC_LANES, s[i]);
    else
        EACH(i, (count + 7) / 8)
            dots_put_lanes(s + 8 * i, out + 8 * i, bias + 8 * i, count - 8 * i <= 4);
#undef EACH
#undef PIXEL
#undef WEIGHT
}

typedef void dots_multiply_fn(const dots_layout *l, dots_block *b);

#define DOTS_3_PIXELS(X, outs) X(outs, 1) X(outs, 2) X(outs, 3)
#if VEC_LANES == 16
#define DOTS_6_PIXELS(X, outs) DOTS_3_PIXELS(X, outs) X(outs, 4) X(outs, 5) X(outs, 6)
#define DOTS_ALL_PIXELS(X, outs) DOTS_6_PIXELS(X, outs) X(outs, 7) X(outs, 8)
#define DOTS_EACH(X) DOTS_ALL_PIXELS(X, 1) DOTS_ALL_PIXELS(X, 2) DOTS_ALL_PIXELS(X, 3) DOTS_6_PIXELS(X, 4)
#else
#define DOTS_4_PIXELS(X, outs) DOTS_3_PIXELS(X, outs) X(outs, 4)
#define DOTS_EACH(X) DOTS_4_PIXELS(X, 1) DOTS_4_PIXELS(X, 2) DOTS_4_PIXELS(X, 3) DOTS_3_PIXELS(X, 4)
#endif
#define DOTS_FUNCTION(name, outs, pixels, partly)                                          \
    static void dots_##name##_##outs##_##pixels(const dots_layout *l, dots_block *b)       \
    {                                                                                      \
        for (; b->turns > 0; b->turns--) {                                                 \
            dots_multiply(l, b, outs, pixels, partly);                                     \
            b->shift += pixels * b->stride;                                                \
            b->sums += pixels * outs * VEC_LANES;                                          \
            b->out += pixels * outs;                                                       \
        }                                                                                  \
    }
#define DOTS_FUNCTIONS(outs, pixels) DOTS_FUNCTION(whole, outs, pixels, 0) DOTS_FUNCTION(partly, outs, pixels, 1)
#define DOTS_ENTRIES(outs, pixels)                           \
    [0][outs - 1][pixels - 1] = dots_whole_##outs##_##pixels, \
    [1][outs - 1][pixels - 1] = dots_partly_##outs##_##pixels,
DOTS_EACH(DOTS_FUNCTIONS)

/* The kernel's rows that are not all zeros, for output line `oy`. */
static void dots_find_rows(dots_tile *t, int64_t oy)
{
    const imagine__conv_args *a = t->d->args;
    int64_t kh = a->w->kh, size = a->width * a->ldx, top = oy * a->stride_h - a->pad_top, next = top + a->stride_h + kh - 1;
    int ask = a->upsample == 1 && oy + 1 < t->end && next >= 0 && next < a->height;
    t->count = 0;
    for (int64_t dt = 0; dt < a->w->kt; dt++) {
        for (int64_t dy = 0, y = top; a->x[dt] && dy < kh; dy++, y++) {
            if (y >= 0 && y < a->height * a->upsample)
                t->rows[t->count++] = (dots_row){a->x[dt] + (y >> (a->upsample - 1)) * size, ask ? a->x[dt] + next * size : NULL,
                                                 dt * kh + dy, dy};
        }
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

/* Steps of row i of the block, which reads from x on. */
static void dots_point(const dots_tile *t, const dots_block *b, dots_step *steps, int64_t i, const float *x)
{
    const dots_row *row = &b->rows[i];
    int64_t vectors = t->d->layout.vectors, step = row->next ? t->d->ask : VEC_LANES;
    const float *ask = row->next ? row->next + (x - row->line) + row->dy * vectors * step : x;
    for (int64_t v = 0; v < vectors; v++)
        steps[i * vectors + v] = (dots_step){x + v * VEC_LANES, (row->index * vectors + v) * VEC_LANES, ask + v * step};
}

/* Copies what `count` pixels whose taps begin at x read. */
static void dots_copy_pixels(const dots_tile *t, dots_block *b, int64_t x, int64_t count)
{
    const imagine__conv_args *a = t->d->args;
    const dots_layout *l = &t->d->layout;
    int64_t kw = a->w->kw, cin = a->w->cin, taps = (count - 1) * a->stride_w + kw;
    float *to = t->copied;
    b->end = t->elsewhere + b->count * l->vectors;
    b->shift = 0;
    b->stride = a->stride_w <= kw ? a->stride_w * cin : l->row;
    for (int64_t i = 0; i < b->count; i++) {
        dots_row row = {.line = to, .index = b->rows[i].index};
        dots_point(t, &(dots_block){.rows = &row}, t->elsewhere + i * l->vectors, 0, to);
        if (a->stride_w <= kw) {
            dots_copy(a, b->rows[i].line + t->down, to, x, taps);
            to += taps * cin;
            continue;
        }
        for (int64_t p = 0; p < count; p++, to += l->row) /* there are taps that no pixel reads */
            dots_copy(a, b->rows[i].line + t->down, to, x + p * a->stride_w, kw);
    }
}

/* 1: the taps of a pixel beside the frame are whole vectors of zeros, which can be left out. */
static int dots_skip_zeros(const imagine__conv_args *a)
{
    return a->upsample == 1 && a->ldx == a->w->cin && a->w->cin % VEC_LANES == 0;
}

/* Those steps of the strip's pixel `i`, whose taps begin at x, that are not beside the frame. */
static void dots_skip_taps(const dots_tile *t, dots_block *b, int64_t i, int64_t x)
{
    const imagine__conv_args *a = t->d->args;
    int64_t vectors = t->d->layout.vectors, tap = a->w->cin / VEC_LANES;
    int64_t from = gemm_min(x < 0 ? -x * tap : 0, vectors), end = gemm_min((a->width - x) * tap, vectors);
    dots_step *to = t->elsewhere;
    for (const dots_step *row = t->in_place; row < t->in_place + b->count * vectors; row += vectors)
        for (int64_t v = from; v < end; v++)
            *to++ = row[v];
    b->end = to;
    b->stride = 0;
    b->shift = i * a->stride_w * a->w->cin + t->down;
}

/* A group of outputs. */
typedef struct dots_group {
    dots_multiply_fn *const *functions; /* for 1, 2, ... pixels */
    int64_t begin, outs, most; /* the first output, how many, and for how many pixels at once */
} dots_group;

/* `turns` times `count` pixels of the strip from x on; beside the frame, one turn. */
static void dots_run_pixels(const dots_tile *t, const dots_group *g, dots_block *b, int64_t x, int64_t count, int64_t turns)
{
    const imagine__conv_args *a = t->d->args;
    int64_t at = g->begin * DOTS_STRIP + x * g->outs, tap = (t->x + x) * a->stride_w - a->pad_left;
    if (turns == 0)
        return;
    b->sums = t->sums + at * VEC_LANES;
    b->out = t->out + at;
    b->turns = turns;
    b->steps = t->elsewhere;
    if (x >= t->first && x < t->last) {
        b->steps = t->in_place;
        b->end = b->steps + b->count * t->d->layout.vectors;
        b->stride = a->stride_w * a->w->cin;
        b->shift = x * b->stride + t->down;
    } else if (count == 1 && dots_skip_zeros(a) && tap + a->w->kw > 0 && tap < a->width) {
        dots_skip_taps(t, b, x, tap);
    } else {
        dots_copy_pixels(t, b, tap, count);
    }
    g->functions[count - 1](&t->d->layout, b);
}

/* Pixels x..end-1 of the strip, beside the frame. */
static void dots_run_beside(const dots_tile *t, const dots_group *g, dots_block *b, int64_t x, int64_t end)
{
    int64_t most = dots_skip_zeros(t->d->args) ? 1 : g->most;
    for (; x < end; x += most)
        dots_run_pixels(t, g, b, x, gemm_min(most, end - x), 1);
}

/* Those inside the frame: as many pixels at once as can be, all about as many. */
static void dots_run_inside(const dots_tile *t, const dots_group *g, dots_block *b)
{
    int64_t count = t->last - t->first, turns = gemm_ceil(count, g->most);
    if (turns == 0)
        return;
    int64_t size = count / turns, more = count - size * turns;
    dots_run_pixels(t, g, b, t->first, size + 1, more);
    dots_run_pixels(t, g, b, t->first + more * (size + 1), size, turns - more);
}

/* The block's products for all outputs and pixels of the strip's line. */
static void dots_run_block(const dots_tile *t, dots_block *b)
{
    static dots_multiply_fn *const functions[2][DOTS_OUTS][DOTS_PIXELS] = {DOTS_EACH(DOTS_ENTRIES)};
    const imagine__conv_args *a = t->d->args;
    const dots_layout *l = &t->d->layout;
    for (int64_t i = 0; i < b->count && t->down == 0; i++)
        dots_point(t, b, t->in_place, i, b->rows[i].line + (t->x * a->stride_w - a->pad_left) * a->ldx);
    for (int64_t group = 0; group < l->groups; group++) {
        int64_t begin = dots_group_begin(l, group), outs = dots_group_size(l, group);
        dots_group g = {functions[l->row % VEC_LANES != 0][outs - 1], begin, outs, dots_most_pixels(l, outs)};
        b->w = t->weights + begin * l->rows * l->vectors * VEC_LANES;
        b->bias = t->bias + group * DOTS_SUMS;
        dots_run_beside(t, &g, b, 0, t->first);
        dots_run_inside(t, &g, b);
        dots_run_beside(t, &g, b, t->last, t->width);
    }
}

/* A line's sums become y. */
static void dots_finish_line(const dots_tile *t, int64_t oy)
{
    const imagine__conv_args *a = t->d->args;
    const dots_layout *l = &t->d->layout;
    int64_t pixel = oy * a->out_w + t->x;
    for (int64_t group = 0; group < l->groups; group++) {
        int64_t begin = dots_group_begin(l, group), outs = dots_group_size(l, group), n = t->width * outs;
        float *out = t->out + begin * DOTS_STRIP, *y = a->y + pixel * a->ldy + begin;
        const float *add = a->add ? a->add + pixel * a->ld_add + begin : NULL;
        for (int64_t i = 0; a->act != IMAGINE__ACT_NONE && i < n; i += VEC_LANES)
            vec_store(out + i, vec_act(vec_load(out + i), a->act));
        if (!add && a->ldy == outs) {
            vec_copy(y, out, n);
            continue;
        }
        for (int64_t x = 0; x < t->width; x++, out += outs, y += a->ldy) {
            __m128 sum = _mm_loadu_ps(out);
            if (add)
                sum = _mm_add_ps(sum, vec_load_few(add + x * a->ld_add, outs));
            vec_store_few(y, sum, outs);
        }
    }
}

static void dots_no_sums(const dots_tile *t)
{
    const dots_layout *l = &t->d->layout;
    for (int64_t group = 0; group < l->groups; group++) {
        int64_t outs = dots_group_size(l, group);
        float *out = t->out + dots_group_begin(l, group) * DOTS_STRIP;
        for (int64_t x = 0; x < t->width; x++, out += outs)
            _mm_storeu_ps(out, _mm_loadu_ps(t->bias + group * DOTS_SUMS));
    }
}

/* The rows for output line `oy`; where all are in the frame and go in one block, as the line before had them. */
static void dots_next_rows(dots_tile *t, int64_t oy)
{
    const imagine__conv_args *a = t->d->args;
    int64_t top = oy * a->stride_h - a->pad_top;
    int inside = a->upsample == 1 && top >= 0 && top + a->w->kh <= a->height && t->d->layout.block == t->d->layout.rows;
    if (inside && t->inside) {
        t->down += a->stride_h * a->width * a->ldx;
    } else {
        dots_find_rows(t, oy);
        t->down = 0;
    }
    t->inside = inside;
}

static void dots_run_line(dots_tile *t, int64_t oy)
{
    const dots_layout *l = &t->d->layout;
    dots_next_rows(t, oy);
    for (int64_t i = 0, end; i < t->count; i = end) {
        for (end = i + 1; end < t->count && t->rows[end].index / l->block == t->rows[i].index / l->block;)
            end++;
        dots_block b = {.rows = t->rows + i, .count = end - i, .first = i == 0, .last = end == t->count};
        dots_run_block(t, &b);
    }
    if (t->count == 0)
        dots_no_sums(t);
    dots_finish_line(t, oy);
}

/* Pixels of the strip that read the frame in place. */
static void dots_find_inside(dots_tile *t)
{
    const imagine__conv_args *a = t->d->args;
    int64_t stride = a->stride_w, first = gemm_ceil(a->pad_left, stride) - t->x, room = a->width - a->w->kw + a->pad_left;
    int64_t last = room < 0 ? 0 : room / stride + 1 - t->x;
    if (a->upsample > 1 || a->ldx != a->w->cin)
        last = 0;
    t->first = gemm_min(first > 0 ? first : 0, t->width);
    t->last = gemm_min(last > t->first ? last : t->first, t->width);
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
    t.bias = t.out + DOTS_STRIP * l->cout + 16;
    t.weights = a->w->packed;
    t.rows = (dots_row *)(t.bias + l->groups * DOTS_SUMS);
    t.in_place = (dots_step *)(t.rows + l->rows);
    t.elsewhere = t.in_place + l->block * l->vectors;
    t.copied = (float *)(((uintptr_t)(t.elsewhere + l->block * l->vectors) + 63) & ~(uintptr_t)63);
    dots_find_inside(&t);
    for (int64_t group = 0; group < l->groups; group++)
        for (int64_t i = 0; i < DOTS_SUMS; i++)
            t.bias[group * DOTS_SUMS + i] = a->w->bias ? a->w->bias[dots_group_begin(l, group) + i % dots_group_size(l, group)] : 0;
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
    d.ask = gemm_ceil(DOTS_ASK * a->stride_w * a->ldx, d.layout.vectors * w->kh);
    double line = 2.0 * (double)(gemm_min(d.strip, a->out_w) * w->cout * d.layout.rows * d.layout.row);
    d.strips = gemm_ceil(a->out_w, d.strip);
    d.lines = gemm_plan_lines(a->out_h, d.strips, line, run->threads);
    imagine__parallel(run, d.strips * gemm_ceil(a->out_h, d.lines), dots_run_tile, &d);
}

#endif
