/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CONV_PLANES_H
#define IMAGINE_KERNELS_CONV_PLANES_H

/* Convolution with pixels in the lanes of a vector, for few channels: there a panel of columns would be mostly padding,
 * and gathering rows would cost as much as multiplying them.
 *
 * A tile is a strip of output lines. The frames' lines that its next output line reads are turned into planes,
 * [channel][pixel], in a ring of as many lines as the kernel is high, so that each is turned once; a tap is then a
 * vector of neighbouring pixels, at any alignment. Up to PLANES_OUTS outputs by a few vectors of pixels are in registers.
 * Where the ring of all frames would crowd the first-level cache, a tile's lines go by once for every frame, and their sums wait.
 * K goes in the blocks and in the order of gemm.h, so an element has the same bytes whichever way it was computed. */

#include "kernels/cpu/gemm.h"

#define PLANES_OUTS (VEC_LANES == 16 ? 8 : 4) /* outputs in registers at once, at most */
#define PLANES_STRIP 64 /* pixels of a strip */
#define PLANES_UNIT (VEC_LANES == 16 ? 16 : PLANES_STRIP) /* a strip has a multiple of it; with AVX2 whole strips are better */
#define PLANES_FEW 2 /* pixels that are better turned one by one */
#define PLANES_RING (24 << 10) /* bytes of the planes of all frames that leave room for others in the first-level cache */
#define PLANES_NEAR (1 << 20) /* bytes read and written that need not be asked for: they fit the second-level cache */

typedef struct planes {
    const gemm *g; /* the blocks, and what becomes of the sums */
    const imagine__conv_args *args;
    int64_t strips, lines; /* strips of a line, lines of a tile */
    int64_t pitch; /* from plane to plane */
    int64_t frames; /* of a pass */
    int64_t outs; /* in registers at once */
    int near; /* what is read and written fits the cache, and need not be asked for */
} planes;

/* What one row of the kernel contributes to a block of K. */
typedef struct planes_row {
    const float *x; /* the planes of the line that it reads */
    const int32_t *offsets; /* of the values in them */
    int64_t k, count; /* in W's order */
    int64_t frame, dy; /* of the kernel */
    int64_t block; /* the first row of this one's block */
} planes_row;

/* The parts of the scratch, and where the tile stands. */
typedef struct planes_tile {
    const planes *p;
    float *lines; /* [frames of a pass][kh][cin][pitch] */
    float *sums; /* [cout][PLANES_STRIP] of the line, in several passes of each line; cout as a multiple of 8 at the end */
    float *weights; /* [groups of outs][k][PLANES_OUTS], f32 */
    int32_t *offsets; /* [kw][cin] */
    planes_row *rows; /* those that are not all zeros, in the order of K */
    int64_t count;
    int64_t frame, begin, stop; /* the pass's first frame, and its rows */
    int64_t x, width; /* the strip's first pixel, and how many */
    int64_t end; /* the tile's last line + 1 */
    int64_t loaded; /* the next line of the padded frames to be turned into planes */
} planes_tile;

static int64_t planes_round(int64_t n, int64_t to)
{
    return gemm_ceil(n, to) * to;
}

/* A block may begin within a row: there are no more rows than this. */
static int64_t planes_most_rows(const gemm *g, const imagine__conv_weight *w)
{
    return g->parts * (w->kh + gemm_ceil(g->part_k, g->block));
}

static int64_t planes_ring(const planes *p)
{
    return p->frames * p->args->w->kh * p->args->w->cin * p->pitch;
}

/* Floats before the first plane, with which each plane's first pixel that is not left of the strip is aligned. */
static int64_t planes_shift(const planes *p)
{
    return -p->args->pad_left & 15;
}

/* Floats of all sums that are kept. */
static int64_t planes_sums(const planes *p)
{
    int64_t cout = p->args->w->cout, waiting = p->frames < p->args->w->kt ? p->lines - 1 : 0;
    return (planes_round(cout, 8) + waiting * cout) * PLANES_STRIP;
}

static size_t planes_scratch(const planes *p)
{
    const imagine__conv_weight *w = p->args->w;
    int64_t row = w->kw * w->cin, weights = gemm_ceil(w->cout, p->outs) * PLANES_OUTS * w->kt * w->kh;
    return (size_t)(planes_ring(p) + planes_sums(p) + (weights + 1) * row + 80) * 4 +
           (size_t)planes_most_rows(p->g, w) * sizeof(planes_row);
}

VEC __m256 planes_two_rows(const float *a, const float *b)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1);
}

/* to[j][i] = from[i][j] for i in 0..7, j in 0..count-1, count at most 4; four of each row of `from` are read. */
VEC void planes_transpose(const float *from, int64_t from_stride, float *to, int64_t to_stride, int64_t count)
{
    const float *half = from + 4 * from_stride;
    int64_t three = 3 * from_stride;
    __asm__("" : "+r"(half), "+r"(three)); /* else each of eight rows has a register of its own, or a place on the stack */
    __m256 x0 = planes_two_rows(from, half), x1 = planes_two_rows(from + from_stride, half + from_stride);
    __m256 x2 = planes_two_rows(from + 2 * from_stride, half + 2 * from_stride);
    __m256 x3 = planes_two_rows(from + three, half + three);
    __m256 low01 = _mm256_unpacklo_ps(x0, x1), high01 = _mm256_unpackhi_ps(x0, x1);
    __m256 low23 = _mm256_unpacklo_ps(x2, x3), high23 = _mm256_unpackhi_ps(x2, x3);
    _mm256_storeu_ps(to, _mm256_shuffle_ps(low01, low23, 0x44));
    if (count > 1)
        _mm256_storeu_ps(to + to_stride, _mm256_shuffle_ps(low01, low23, 0xee));
    if (count > 2)
        _mm256_storeu_ps(to + 2 * to_stride, _mm256_shuffle_ps(high01, high23, 0x44));
    if (count > 3)
        _mm256_storeu_ps(to + 3 * to_stride, _mm256_shuffle_ps(high01, high23, 0xee));
}

/* Eight pixels of three channels, side by side: to[j][i] = from[i][j]. */
VEC void planes_turn_threes(const float *from, float *to, int64_t to_stride)
{
    __m256 first = planes_two_rows(from, from + 12), second = planes_two_rows(from + 4, from + 16);
    __m256 third = planes_two_rows(from + 8, from + 20); /* of each half: a0 b0 c0 a1, b1 c1 a2 b2, c2 a3 b3 c3 */
    __m256 bc = _mm256_shuffle_ps(first, second, 0x49), ab = _mm256_shuffle_ps(second, third, 0x9e);
    _mm256_storeu_ps(to, _mm256_shuffle_ps(first, ab, 0x8c));
    _mm256_storeu_ps(to + to_stride, _mm256_shuffle_ps(bc, ab, 0xd8));
    _mm256_storeu_ps(to + 2 * to_stride, _mm256_shuffle_ps(bc, third, 0xcd));
}

/* Channels c..cin-1 of `count` pixels, at most eight, one by one. */
static void planes_turn_slowly(const planes *p, const float *from, float *to, int64_t c, int64_t count)
{
    for (; c < p->args->w->cin; c++)
        for (int64_t i = 0; i < count; i++)
            to[c * p->pitch + i] = from[i * p->args->ldx + c];
}

/* Asks for the eight pixels after the next eight, unless the processor sees by itself what comes next. */
VEC void planes_ask_pixels(const float *from, int64_t ldx, int64_t left)
{
    if (left >= 24 && ldx >= 8)
        for (int64_t at = 16 * ldx; at < 24 * ldx; at += 16)
            vec_prefetch_first(from + at);
}

/* Channels in groups of four: eight pixels at a time, channel after channel. One loop instead of two,
 * as a line has few pixels and the end of a loop is often guessed wrong after so many multiply-adds. */
VEC void planes_turn_fours(const planes *p, const float *from, float *to, int64_t eights)
{
    int64_t cin = p->args->w->cin, ldx = p->args->ldx, pitch = p->pitch, c = cin;
    for (int64_t blocks = eights * (cin / 4); blocks > 0; blocks--) {
        planes_transpose(from, ldx, to, pitch, 4);
        c -= 4;
        from += c ? 4 : 8 * ldx - cin + 4;
        to += c ? 4 * pitch : 8 - (cin - 4) * pitch;
        c = c ? c : cin;
    }
}

/* `count` pixels from `from` on become planes; `left` floats from there on may be read. Not inlined: the caller leaves too few
 * registers. */
__attribute__((noinline)) static void planes_turn(const planes *p, const float *from, int64_t left, float *to, int64_t count)
{
    int64_t cin = p->args->w->cin, ldx = p->args->ldx, pitch = p->pitch, i = 0;
    if (cin % 4 == 0) {
        planes_turn_fours(p, from, to, count / 8);
        i = count / 8 * 8;
    } else if (cin == 3 && ldx == 3) {
        for (; i + 8 <= count; i += 8)
            planes_turn_threes(from + i * 3, to + i, pitch);
    } else if (cin < 4) {
        for (; i + 8 <= count && (i + 7) * ldx + 4 <= left; i += 8)
            planes_transpose(from + i * ldx, ldx, to + i, pitch, cin);
    }
    for (; i < count; i += 8) {
        if (count - i <= PLANES_FEW) {
            planes_turn_slowly(p, from + i * ldx, to + i, 0, count - i);
            break;
        }
        int64_t at = count < 8 ? i : gemm_min(i, count - 8), c = 0; /* the last eight again rather than fewer */
        const float *source = from + at * ldx;
        planes_ask_pixels(source, ldx, count - at);
        if (count >= 8) {
            for (; c + 4 <= cin; c += 4)
                planes_transpose(source + c, ldx, to + c * pitch + at, pitch, 4);
            if (c < cin && (at + 7) * ldx + c + 4 <= left) {
                planes_transpose(source + c, ldx, to + c * pitch + at, pitch, cin - c);
                continue;
            }
        }
        planes_turn_slowly(p, source, to + at, c, gemm_min(8, count - at));
    }
}

/* Line `y` of a frame, from the strip's first tap on. What lies beside the frame is zeros from the tile's beginning on. */
static void planes_load_line(const planes_tile *t, const float *frame, int64_t y, float *to)
{
    const imagine__conv_args *a = t->p->args;
    int64_t x = t->x - a->pad_left, n = planes_round(t->width, VEC_LANES) + a->w->kw - 1;
    int64_t from = x < 0 ? -x : 0, end = gemm_min(a->width - x, n);
    if (y < 0 || y >= a->height || end <= from) {
        vec_clear(to, a->w->cin * t->p->pitch);
        return;
    }
    frame += (y * a->width + x) * a->ldx;
    if (from < a->pad_left && a->pad_left - from <= PLANES_FEW && a->pad_left < end) { /* then the others are aligned */
        planes_turn_slowly(t->p, frame + from * a->ldx, to + from, 0, a->pad_left - from);
        from = a->pad_left;
    }
    planes_turn(t->p, frame + from * a->ldx, ((a->height - y) * a->width - x - from - 1) * a->ldx + a->w->cin, to + from,
                end - from);
}

static int64_t planes_frames(const planes_tile *t)
{
    return gemm_min(t->p->frames, t->p->args->w->kt - t->frame);
}

/* All lines of the pass's frames that output line `oy` reads. */
static void planes_load(planes_tile *t, int64_t oy)
{
    const imagine__conv_args *a = t->p->args;
    int64_t kh = a->w->kh, line_size = a->w->cin * t->p->pitch, first = oy * a->stride_h, slot = first % kh;
    for (int64_t line = t->loaded > first ? t->loaded : first; line < first + kh; line++) {
        int64_t at = slot + line - first;
        for (int64_t i = 0; i < planes_frames(t); i++)
            if (a->x[t->frame + i])
                planes_load_line(t, a->x[t->frame + i], line - a->pad_top,
                                 t->lines + (i * kh + (at < kh ? at : at - kh)) * line_size);
    }
    t->loaded = first + kh;
    for (planes_row *row = t->rows + t->begin; row < t->rows + t->stop; row++) {
        int64_t at = row->dy + slot;
        row->x = t->lines + ((row->frame - t->frame) * kh + (at < kh ? at : at - kh)) * line_size;
    }
}

/* The rows of all blocks. */
static void planes_find_rows(planes_tile *t)
{
    const imagine__conv_args *a = t->p->args;
    const gemm *g = t->p->g;
    int64_t row_k = a->w->kw * a->w->cin, k = 0;
    t->count = 0;
    for (int64_t part = 0; part < g->parts; part += g->together) {
        int64_t end = gemm_min(part + g->together, g->parts) * g->part_k;
        for (int64_t block_end; k < end; k = block_end) {
            int64_t block = t->count;
            block_end = gemm_min(k + g->block, end);
            for (int64_t n; k < block_end; k += n) {
                int64_t index = k / row_k, first = k - index * row_k, frame = index / a->w->kh;
                n = gemm_min(row_k - first, block_end - k);
                if (a->x[frame]) /* else zeros, which add nothing */
                    t->rows[t->count++] = (planes_row){NULL, t->offsets + first, k, n, frame, index - frame * a->w->kh, block};
            }
        }
    }
}

/* What products of some rows become. */
typedef enum planes_mode {
    PLANES_SET, /* the sums */
    PLANES_ADD, /* added to the sums, as those of a new block */
    PLANES_GO_ON, /* added one by one to the sums of the block that an earlier pass began */
} planes_mode;

#define PLANES_EACH_VECTOR(X, o) X(o, 0) X(o, 1) X(o, 2) X(o, 3)
#define PLANES_4_OUTS(X, v) X(0, v) X(1, v) X(2, v) X(3, v)
#define PLANES_4(X) PLANES_EACH_VECTOR(X, 0) PLANES_EACH_VECTOR(X, 1) PLANES_EACH_VECTOR(X, 2) PLANES_EACH_VECTOR(X, 3)
#if VEC_LANES == 16
#define PLANES_EACH_OUT(X, v) PLANES_4_OUTS(X, v) X(4, v) X(5, v) X(6, v) X(7, v)
#define PLANES_EACH(X) \
    PLANES_4(X) PLANES_EACH_VECTOR(X, 4) PLANES_EACH_VECTOR(X, 5) PLANES_EACH_VECTOR(X, 6) PLANES_EACH_VECTOR(X, 7)
#else
#define PLANES_EACH_OUT PLANES_4_OUTS
#define PLANES_EACH PLANES_4
#endif

/* Vectors of pixels beside so many outputs, at most: 12 sums, and 24 where there are 32 registers. */
#define PLANES_MOST_VECTORS(outs) ((outs) > (VEC_LANES == 16 ? 6 : 3) ? 3 : 4)

/* sums[outs][vectors] (+)= the products of a block's rows, from pixel `x` of the strip on. `outs` and `vectors` are
 * constants. */
VEC void planes_multiply(const planes_row *row, const planes_row *end, int64_t x, const float *w, float *sums,
                         planes_mode mode, const int outs, const int vectors)
{
#define DECLARE(o, v) vec s##o##v = vec_zero();
#define PIXELS(o, v) vec x##v = v < vectors ? vec_in_register(vec_load(at + v * VEC_LANES)) : vec_zero();
#define WEIGHT(o, v) vec w##o = o < outs ? vec_in_register(vec_set1(from[o])) : vec_zero();
#define MULTIPLY(o, v) \
    if (o < outs && v < vectors) \
        s##o##v = vec_fma(w##o, x##v, s##o##v);
/* In the order that keeps fewer operands in registers. */
#define MULTIPLY_OUT(o, v) { WEIGHT(o, v) PLANES_EACH_VECTOR(MULTIPLY, o) }
#define MULTIPLY_VECTOR(o, v) { PIXELS(o, v) PLANES_EACH_OUT(MULTIPLY, v) }
#define GO_ON(o, v) \
    if (o < outs && v < vectors) \
        s##o##v = vec_load(sums + o * PLANES_STRIP + v * VEC_LANES);
#define ADD(o, v) \
    if (o < outs && v < vectors) \
        s##o##v = vec_add(s##o##v, vec_load(sums + o * PLANES_STRIP + v * VEC_LANES));
#define STORE(o, v) \
    if (o < outs && v < vectors) \
        vec_store(sums + o * PLANES_STRIP + v * VEC_LANES, s##o##v);
    PLANES_EACH(DECLARE)
    if (mode == PLANES_GO_ON) {
        PLANES_EACH(GO_ON)
    }
    for (; row < end; row++) {
        const float *from = w + row->k * PLANES_OUTS;
        for (const int32_t *offset = row->offsets, *stop = offset + row->count; offset < stop;
             offset++, from += PLANES_OUTS) {
            const float *at = row->x + x + *offset;
            if (outs >= vectors) {
                PLANES_EACH_VECTOR(PIXELS, 0)
                PLANES_EACH_OUT(MULTIPLY_OUT, 0)
            } else {
                PLANES_EACH_OUT(WEIGHT, 0)
                PLANES_EACH_VECTOR(MULTIPLY_VECTOR, 0)
            }
        }
    }
    if (mode == PLANES_ADD) {
        PLANES_EACH(ADD)
    }
    PLANES_EACH(STORE)
#undef DECLARE
#undef PIXELS
#undef WEIGHT
#undef MULTIPLY
#undef MULTIPLY_OUT
#undef MULTIPLY_VECTOR
#undef GO_ON
#undef ADD
#undef STORE
}

typedef void planes_multiply_fn(const planes_row *row, const planes_row *end, int64_t x, const float *w, float *sums,
                                planes_mode mode);

#define PLANES_MULTIPLY(outs, vectors)                                                                          \
    static void planes_multiply_##outs##_##vectors(const planes_row *row, const planes_row *end, int64_t x,     \
                                                   const float *w, float *sums, planes_mode mode)               \
    {                                                                                                           \
        planes_multiply(row, end, x, w, sums, mode, outs, vectors);                                             \
    }
#define PLANES_NAME(outs, vectors) planes_multiply_##outs##_##vectors
/* For every number of outputs the numbers of vectors that there may be: with AVX-512 a picture is two wide at least. */
#if VEC_LANES == 16
#define PLANES_FUNCTIONS_3(outs) PLANES_MULTIPLY(outs, 2) PLANES_MULTIPLY(outs, 3)
#define PLANES_NAMES_3(outs) {NULL, PLANES_NAME(outs, 2), PLANES_NAME(outs, 3), NULL},
#define PLANES_NAMES_4(outs) {NULL, PLANES_NAME(outs, 2), PLANES_NAME(outs, 3), PLANES_NAME(outs, 4)},
#define PLANES_ALL(THREE, FOUR) FOUR(1) FOUR(2) FOUR(3) FOUR(4) FOUR(5) FOUR(6) THREE(7) THREE(8)
#else
#define PLANES_FUNCTIONS_3(outs) PLANES_MULTIPLY(outs, 1) PLANES_MULTIPLY(outs, 2) PLANES_MULTIPLY(outs, 3)
#define PLANES_NAMES_3(outs) {PLANES_NAME(outs, 1), PLANES_NAME(outs, 2), PLANES_NAME(outs, 3), NULL},
#define PLANES_NAMES_4(outs) {PLANES_NAME(outs, 1), PLANES_NAME(outs, 2), PLANES_NAME(outs, 3), PLANES_NAME(outs, 4)},
#define PLANES_ALL(THREE, FOUR) FOUR(1) FOUR(2) FOUR(3) THREE(4)
#endif
#define PLANES_FUNCTIONS_4(outs) PLANES_FUNCTIONS_3(outs) PLANES_MULTIPLY(outs, 4)
PLANES_ALL(PLANES_FUNCTIONS_3, PLANES_FUNCTIONS_4)

/* Asks for part `i` of `count` of some floats. */
VEC void planes_ask(const float *from, int64_t n, int64_t i, int64_t count)
{
    const char *at = (const char *)(from + i * n / count), *end = (const char *)(from + (i + 1) * n / count);
    for (; at < end; at += 64)
        vec_prefetch(at);
}

/* Part `i` of `count` of what is wanted after output line oy's products: where they go, and the next line of the frames. */
static void planes_ask_ahead(const planes_tile *t, int64_t oy, int64_t i, int64_t count)
{
    const imagine__conv_args *a = t->p->args;
    if (t->p->near)
        return;
    if (t->frame + t->p->frames >= a->w->kt)
        planes_ask(a->y + (oy * a->out_w + t->x) * a->ldy, t->width * a->ldy, i, count);
    int64_t y = t->loaded - a->pad_top;
    if (oy + 1 == t->end || y < 0 || y >= a->height || t->x >= a->width)
        return;
    for (int64_t part = t->frame; part < t->frame + planes_frames(t); part++)
        if (a->x[part])
            planes_ask(a->x[part] + (y * a->width + t->x) * a->ldx, gemm_min(t->width, a->width - t->x) * a->ldx, i, count);
}

/* A block's products for all outputs and pixels of the strip's line. */
static void planes_run_block(const planes_tile *t, int64_t oy, const planes_row *row, const planes_row *end)
{
    static planes_multiply_fn *const multiply[PLANES_OUTS][4] = {PLANES_ALL(PLANES_NAMES_3, PLANES_NAMES_4)};
    const gemm *g = t->p->g;
    int64_t vectors = gemm_ceil(t->width, VEC_LANES), k = g->parts * g->part_k;
    planes_mode mode = row == t->rows ? PLANES_SET : row == t->rows + row->block ? PLANES_ADD : PLANES_GO_ON;
    for (int64_t o = 0, at = 0; o < g->n; o += t->p->outs, at++) {
        int64_t outs = gemm_min(t->p->outs, g->n - o), most = PLANES_MOST_VECTORS(outs);
        const float *w = t->weights + at * PLANES_OUTS * k;
        if (row == t->rows + t->begin)
            planes_ask_ahead(t, oy, at, gemm_ceil(g->n, t->p->outs));
        for (int64_t v = 0; v < vectors; v += most)
            multiply[outs - 1][gemm_min(most, vectors - v) - 1](row, end, v * VEC_LANES, w,
                                                                t->sums + o * PLANES_STRIP + v * VEC_LANES, mode);
    }
}

static void planes_multiply_line(const planes_tile *t, int64_t oy)
{
    for (int64_t i = t->begin, end; i < t->stop; i = end) {
        for (end = i + 1; end < t->stop && t->rows[end].block == t->rows[i].block; end++) {
        }
        planes_run_block(t, oy, t->rows + i, t->rows + end);
    }
    if (t->count == 0)
        memset(t->sums, 0, (size_t)(PLANES_STRIP * t->p->g->n) * sizeof *t->sums);
}

/* `count` of x's four floats, plus add's if there is any. */
VEC void planes_store_row(float *y, __m128 x, const float *add, int64_t count)
{
    vec_store_few(y, add ? _mm_add_ps(x, vec_load_few(add, count)) : x, count);
}

/* Up to four outputs from `o` on of up to four pixels from `x` of the strip on. */
VEC void planes_store(const planes_tile *t, int64_t pixel, int64_t x, int64_t o)
{
    const gemm_output *out = &t->p->g->out;
    const float *s = t->sums + o * PLANES_STRIP + x;
    __m128 r[4] = {_mm_loadu_ps(s), _mm_loadu_ps(s + PLANES_STRIP), _mm_loadu_ps(s + 2 * PLANES_STRIP),
                   _mm_loadu_ps(s + 3 * PLANES_STRIP)};
    _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]);
    float *y = out->y + (pixel + x) * out->ldy + o;
    const float *add = out->add ? out->add + (pixel + x) * out->ld_add + o : NULL;
    int64_t count = t->p->g->n - o, left = t->width - x;
    planes_store_row(y, r[0], add, count);
    if (left > 1)
        planes_store_row(y + out->ldy, r[1], add ? add + out->ld_add : NULL, count);
    if (left > 2)
        planes_store_row(y + 2 * out->ldy, r[2], add ? add + 2 * out->ld_add : NULL, count);
    if (left > 3)
        planes_store_row(y + 3 * out->ldy, r[3], add ? add + 3 * out->ld_add : NULL, count);
}

/* Three outputs of eight pixels, side by side: y[i][o] = s[o][i]. */
VEC void planes_store_threes(const float *s, float *y)
{
    __m256 a = _mm256_loadu_ps(s), b = _mm256_loadu_ps(s + PLANES_STRIP), c = _mm256_loadu_ps(s + 2 * PLANES_STRIP);
    __m256 ab = _mm256_shuffle_ps(a, b, 0x88), bc = _mm256_shuffle_ps(b, c, 0xdd), ca = _mm256_shuffle_ps(c, a, 0xd8);
    __m256 first = _mm256_shuffle_ps(ab, ca, 0x88); /* a0 b0 c0 a1, and so of each half */
    __m256 second = _mm256_shuffle_ps(bc, ab, 0xd8), third = _mm256_shuffle_ps(ca, bc, 0xdd);
    _mm_storeu_ps(y, _mm256_castps256_ps128(first));
    _mm_storeu_ps(y + 4, _mm256_castps256_ps128(second));
    _mm_storeu_ps(y + 8, _mm256_castps256_ps128(third));
    _mm_storeu_ps(y + 12, _mm256_extractf128_ps(first, 1));
    _mm_storeu_ps(y + 16, _mm256_extractf128_ps(second, 1));
    _mm_storeu_ps(y + 20, _mm256_extractf128_ps(third, 1));
}

/* Four outputs of eight pixels: y[i][o] = s[o][i]. */
VEC void planes_store_fours(const float *s, float *y, int64_t ldy)
{
    __m256 a = _mm256_loadu_ps(s), b = _mm256_loadu_ps(s + PLANES_STRIP);
    __m256 c = _mm256_loadu_ps(s + 2 * PLANES_STRIP), d = _mm256_loadu_ps(s + 3 * PLANES_STRIP);
    __m256 ab = _mm256_unpacklo_ps(a, b), cd = _mm256_unpacklo_ps(c, d), high = _mm256_unpackhi_ps(a, b);
    __m256 high_cd = _mm256_unpackhi_ps(c, d);
    __m256 x0 = _mm256_shuffle_ps(ab, cd, 0x44), x1 = _mm256_shuffle_ps(ab, cd, 0xee);
    __m256 x2 = _mm256_shuffle_ps(high, high_cd, 0x44), x3 = _mm256_shuffle_ps(high, high_cd, 0xee);
    float *half = y + 4 * ldy;
    _mm_storeu_ps(y, _mm256_castps256_ps128(x0));
    _mm_storeu_ps(y + ldy, _mm256_castps256_ps128(x1));
    _mm_storeu_ps(y + 2 * ldy, _mm256_castps256_ps128(x2));
    _mm_storeu_ps(y + 3 * ldy, _mm256_castps256_ps128(x3));
    _mm_storeu_ps(half, _mm256_extractf128_ps(x0, 1));
    _mm_storeu_ps(half + ldy, _mm256_extractf128_ps(x1, 1));
    _mm_storeu_ps(half + 2 * ldy, _mm256_extractf128_ps(x2, 1));
    _mm_storeu_ps(half + 3 * ldy, _mm256_extractf128_ps(x3, 1));
}

/* The sums of the line's first `eights` times eight pixels become y; n is a multiple of 4. One loop, as in planes_turn_fours. */
static void planes_store_eights(const planes_tile *t, float *y, int64_t eights)
{
    int64_t n = t->p->g->n, ldy = t->p->g->out.ldy, left = n;
    const float *s = t->sums;
    for (int64_t blocks = eights * gemm_ceil(n, 8); blocks > 0; blocks--) {
        int64_t outs = left >= 8 ? 8 : 4;
        if (outs == 8)
            vec_transpose_8x8(s, PLANES_STRIP, y, ldy);
        else
            planes_store_fours(s, y, ldy);
        left -= outs;
        s += left ? outs * PLANES_STRIP : 8 - (n - outs) * PLANES_STRIP;
        y += left ? outs : 8 * ldy - n + outs;
        left = left ? left : n;
    }
}

/* A line's sums become y. */
static void planes_finish_line(const planes_tile *t, int64_t oy)
{
    const gemm_output *out = &t->p->g->out;
    int64_t n = t->p->g->n, pixel = oy * t->p->args->out_w + t->x, x = 0;
    for (int64_t o = 0; o < n && (out->bias || out->act != IMAGINE__ACT_NONE); o++) {
        for (float *s = t->sums + o * PLANES_STRIP; s < t->sums + o * PLANES_STRIP + t->width; s += VEC_LANES) {
            vec v = vec_load(s);
            if (out->bias)
                v = vec_add(v, vec_set1(out->bias[o]));
            vec_store(s, vec_act(v, out->act));
        }
    }
    if (n == 3 && out->ldy == 3 && !out->add) {
        for (; x + 8 <= t->width; x += 8)
            planes_store_threes(t->sums + x, out->y + (pixel + x) * 3);
    } else if (n % 4 == 0 && !out->add) {
        planes_store_eights(t, out->y + pixel * out->ldy, t->width / 8);
        x = t->width / 8 * 8;
    }
    for (; x < t->width; x += 4)
        for (int64_t o = 0; o < n; o += 4)
            planes_store(t, pixel, x, o);
}

/* Some frames' products for all lines of the tile. */
static void planes_run_pass(planes_tile *t, int64_t oy)
{
    const planes *p = t->p;
    const imagine__conv_weight *w = p->args->w;
    float *sums = t->sums;
    t->loaded = 0;
    for (t->begin = t->stop; t->stop < t->count && t->rows[t->stop].frame < t->frame + p->frames;)
        t->stop++;
    for (; oy < t->end; oy++) {
        planes_load(t, oy);
        planes_multiply_line(t, oy);
        if (t->frame + p->frames >= w->kt)
            planes_finish_line(t, oy);
        if (p->frames < w->kt)
            t->sums += w->cout * PLANES_STRIP;
    }
    t->sums = sums;
}

/* Output o's weights, PLANES_OUTS apart. */
static void planes_copy_output(const gemm *g, float *to, int64_t o)
{
    int64_t column = o % GEMM_COLUMNS, k = g->parts * g->part_k, from = (o - column) * k + column;
    for (int64_t i = 0; i < k; i++, from += GEMM_COLUMNS, to += PLANES_OUTS)
        *to = g->type == IMAGINE__W_F32 ? ((const float *)g->packed)[from] : vec_bf16(((const uint16_t *)g->packed)[from]);
}

VEC __m128 planes_four_weights(const gemm *g, int64_t from)
{
    return g->type == IMAGINE__W_F32 ? _mm_loadu_ps((const float *)g->packed + from)
                                     : vec_load_four_bf16((const uint16_t *)g->packed + from);
}

/* The weights of few outputs side by side take less of the first-level cache than a panel's, of which most is padding. */
static void planes_copy_weights(const planes_tile *t)
{
    const gemm *g = t->p->g;
    int64_t k = g->parts * g->part_k;
    float *to = t->weights;
    for (int64_t o = 0; o < g->n; o += t->p->outs, to += PLANES_OUTS * k) {
        int64_t column = o % GEMM_COLUMNS, from = (o - column) * k + column;
        if (column + PLANES_OUTS > GEMM_COLUMNS) {
            for (int64_t i = 0; i < gemm_min(t->p->outs, g->n - o); i++)
                planes_copy_output(g, to + i, o + i);
            continue;
        }
        for (int64_t i = 0; i < k; i++, from += GEMM_COLUMNS)
            for (int64_t at = 0; at < PLANES_OUTS; at += 4)
                _mm_storeu_ps(to + i * PLANES_OUTS + at, planes_four_weights(g, from + at));
    }
}

static void planes_run_tile(void *arg, int64_t tile, void *scratch)
{
    const planes *p = arg;
    const gemm *g = p->g;
    const imagine__conv_args *a = p->args;
    const imagine__conv_weight *w = a->w;
    int64_t oy = tile / p->strips * p->lines;
    int64_t units = gemm_ceil(a->out_w, PLANES_UNIT), strip = tile % p->strips; /* strips are as equal as can be */
    planes_tile t = {.p = p, .x = strip * units / p->strips * PLANES_UNIT, .end = gemm_min(oy + p->lines, a->out_h)};
    t.width = gemm_min((strip + 1) * units / p->strips * PLANES_UNIT, a->out_w) - t.x;
    t.rows = scratch;
    t.lines = (float *)((char *)scratch + planes_round(planes_most_rows(g, w) * (int64_t)sizeof *t.rows, 64));
    t.sums = t.lines + planes_round(planes_ring(p), 16) + 16;
    t.lines += planes_shift(p);
    t.offsets = (int32_t *)(t.sums + planes_sums(p));
    t.weights = (float *)t.offsets + w->kw * w->cin;
    planes_copy_weights(&t);
    for (int64_t dx = 0; dx < w->kw; dx++)
        for (int64_t c = 0; c < w->cin; c++)
            t.offsets[dx * w->cin + c] = (int32_t)(c * p->pitch + dx);
    planes_find_rows(&t);
    vec_clear(t.lines, planes_ring(p));
    for (; t.frame < w->kt; t.frame += p->frames)
        planes_run_pass(&t, oy);
}

/* 1: this way is faster (measured, docs/speed-log.md), and the scratch is large enough. */
static int planes_suit(planes *p, const gemm *g, const imagine__conv_args *a, int64_t threads)
{
    const imagine__conv_weight *w = a->w;
    const int64_t wide = VEC_LANES == 16 ? 128 : 48, many = VEC_LANES == 16 ? 48 : 24;
    if (a->upsample > 1 || a->stride_w > 1)
        return 0;
    if (a->out_w < 2 * VEC_LANES || 4 * a->out_w < 3 * planes_round(a->out_w, VEC_LANES))
        return 0;
    if (w->cin > 4 && !(w->cin <= many && w->cout < wide) && !(w->cin <= 96 && w->cout <= 12))
        return 0;
    *p = (planes){.g = g, .args = a, .pitch = planes_round(PLANES_STRIP + w->kw - 1, 16), .frames = w->kt, .outs = PLANES_OUTS};
    p->strips = gemm_ceil(a->out_w, PLANES_STRIP);
    if (VEC_LANES == 16) { /* groups are as equal as can be */
        int64_t vectors = gemm_ceil(gemm_ceil(a->out_w, p->strips), VEC_LANES), most = vectors > 3 ? 6 : PLANES_OUTS;
        p->outs = gemm_ceil(w->cout, gemm_ceil(w->cout, most));
    } else if (w->cout % 3 == 0) {
        p->outs = 3; /* by four vectors leaves no rest of a strip, as four by three does */
    }
    p->lines = gemm_plan_lines(a->out_h, p->strips,
                               2.0 * (double)(gemm_min(PLANES_STRIP, a->out_w) * g->n * g->parts * g->part_k), threads);
    p->near = (w->kt * a->height * a->width * w->cin + a->out_h * a->out_w * w->cout) * 4 <= PLANES_NEAR;
    if (planes_ring(p) * 4 > PLANES_RING && w->kt > 1) {
        if (g->together > 1 && g->parts > g->together + 1)
            return 0; /* a block after the first would come in several passes, and not be summed by itself */
        p->frames = 1;
        while (p->lines > 1 && planes_scratch(p) > IMAGINE__SCRATCH)
            p->lines = gemm_ceil(p->lines, 2);
    }
    return planes_scratch(p) <= IMAGINE__SCRATCH;
}

static void planes_start(imagine__run *run, planes *p)
{
    imagine__parallel(run, p->strips * gemm_ceil(p->args->out_h, p->lines), planes_run_tile, p);
}

#endif
