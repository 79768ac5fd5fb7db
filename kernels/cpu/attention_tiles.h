/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_ATTENTION_TILES_H
#define IMAGINE_KERNELS_ATTENTION_TILES_H

/* Part of attention.c: both products by AMX. Queries, keys, weights and values are rounded to bf16 and lie in pairs, queries and keys of
 * their own values, weights and values of two tokens each; what pairs are filled up with are zeros. Scores, their sums and what
 * comes out stay in f32. Rows of the scratch beyond a tile's own hold anything: no other row sees them. */

/* 32 values times a factor; from `left` on there are zeros. */
VEC __m512i rounded_pairs(const float *from, int64_t left, vec factor)
{
    vec low = left >= TILE ? vec_load(from) : left > 0 ? vec_load_n(from, vec_first(left)) : vec_zero();
    vec high = left >= 2 * TILE ? vec_load(from + TILE) : left > TILE ? vec_load_n(from + TILE, vec_first(left - TILE)) : vec_zero();
    return (__m512i)_mm512_cvtne2ps_pbh(vec_mul(high, factor), vec_mul(low, factor));
}

static void load_queries(const job *g, const tile_state *t)
{
    const imagine__attention_args *a = g->a;
    const float *q = (const float *)a->q + t->batch * a->q_batch + t->row * a->q_token + t->head * a->d;
    const vec scale = vec_set1(a->scale * LOG2_E);
    for (int64_t r = 0; r < t->rows; r++) {
        for (int64_t i = 0; i < a->d; i += 2 * TILE)
            _mm512_storeu_si512(t->q + r * depth_of(a->d) + i / 2, rounded_pairs(q + r * a->q_token + i, a->d - i, scale));
        t->max[r] = -INFINITY;
        t->sum[r] = 0;
    }
}

/* Rows of 16 pairs become columns, which lie COLUMNS apart. */
static void transpose(__m512i x[TILE], float *to)
{
    __m512i y[TILE];
    for (int i = 0; i < TILE; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < TILE; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    for (int i = 0; i < 4; i++) { /* quarter q of x[4 n + i] is column 4 q + i of rows 4 n to 4 n + 3 */
        __m512i a = _mm512_shuffle_i32x4(x[i], x[4 + i], 0x88), b = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0x88);
        __m512i c = _mm512_shuffle_i32x4(x[i], x[4 + i], 0xdd), d = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0xdd);
        _mm512_storeu_si512(to + i * COLUMNS, _mm512_shuffle_i32x4(a, b, 0x88));
        _mm512_storeu_si512(to + (4 + i) * COLUMNS, _mm512_shuffle_i32x4(c, d, 0x88));
        _mm512_storeu_si512(to + (8 + i) * COLUMNS, _mm512_shuffle_i32x4(a, b, 0xdd));
        _mm512_storeu_si512(to + (12 + i) * COLUMNS, _mm512_shuffle_i32x4(c, d, 0xdd));
    }
}

static void pack_keys(const job *g, const tile_state *t, int64_t first, int64_t count)
{
    const imagine__attention_args *a = g->a;
    const float *k = keys_at(g, t, first);
    for (int64_t j = 0; j < round_up(count, COLUMNS); j += TILE)
        for (int64_t i = 0; i < a->d; i += 2 * TILE) {
            __m512i rows[TILE];
            for (int64_t r = 0; r < TILE; r++)
                rows[r] = j + r < count ? rounded_pairs(k + (j + r) * a->k_token + i, a->d - i, vec_set1(1)) : _mm512_setzero_si512();
            transpose(rows, t->k + j / COLUMNS * COLUMNS * depth_of(a->d) + i / 2 * COLUMNS + j % COLUMNS);
        }
}

static void pack_values(const job *g, const tile_state *t, int64_t first, int64_t count)
{
    static const uint16_t order[2 * TILE] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                             8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const imagine__attention_args *a = g->a;
    const __m512i beside = _mm512_loadu_si512(order);
    const float *v = values_at(g, t, first);
    for (int64_t j = 0; j < round_up(count, WHOLE); j += 2)
        for (int64_t i = 0; i < g->wide; i += TILE) {
            vec_mask there = vec_first(a->d - i < 0 ? 0 : a->d - i);
            vec low = j < count ? vec_load_n(v + j * a->v_token + i, there) : vec_zero();
            vec high = j + 1 < count ? vec_load_n(v + (j + 1) * a->v_token + i, there) : vec_zero();
            float *to = t->v + i / COLUMNS * COLUMNS * depth_of(g->block_keys) + j / 2 * COLUMNS + i % COLUMNS;
            _mm512_storeu_si512(to, _mm512_permutexvar_epi16(beside, (__m512i)_mm512_cvtne2ps_pbh(high, low)));
        }
}

static void shrink_rows(float *y, int64_t ldy, int64_t rows, const float *shrink)
{
    for (int64_t r = 0; r < rows; r++, y += ldy)
        if (shrink[r] != 1) {
            vec_store(y, vec_mul(vec_load(y), vec_set1(shrink[r])));
            vec_store(y + VEC_LANES, vec_mul(vec_load(y + VEC_LANES), vec_set1(shrink[r])));
        }
}

/* As the other multiply(), a row of `a` and a panel of `b` having `depth` pairs. */
static void multiply(int64_t rows, const float *a, int64_t lda, const float *b, int64_t columns, int64_t panel_size,
                     int64_t depth, float *y, int64_t ldy, const float *shrink, const upcoming *next)
{
    int64_t groups = (rows + ROWS - 1) / ROWS, parts = (columns + COLUMNS - 1) / COLUMNS * groups, part = 0;
    for (int64_t column = 0; column < columns; column += COLUMNS, b += panel_size)
        for (int64_t r = 0; r < rows; r += ROWS) {
            float *to = y + r * ldy + column;
            const float *from = a + r * lda;
            prefetch(next, part++, parts);
            if (shrink)
                shrink_rows(to, ldy, smaller(rows - r, ROWS), shrink + r);
            if (rows - r <= TILE)
                tiles_multiply(from, lda, b, depth, to, ldy, NULL, 0, shrink != NULL, 0, 0);
            else
                tiles_multiply(from, lda, b, depth, to, ldy, NULL, 0, shrink != NULL, 1, 0);
        }
}

/* Weights 2^(s - max) of n scores, a multiple of WHOLE, rounded, in the place of the first half of these; gives their sum
 * before rounding. */
static float weigh(float *s, int64_t n, float max)
{
    vec m = vec_set1(max), sum_a = vec_zero(), sum_b = vec_zero();
    for (int64_t i = 0; i < n; i += 2 * VEC_LANES) {
        vec a = vec_exp2_negative(vec_sub(vec_load(s + i), m));
        vec b = vec_exp2_negative(vec_sub(vec_load(s + i + VEC_LANES), m));
        _mm512_storeu_si512(s + i / 2, (__m512i)_mm512_cvtne2ps_pbh(b, a));
        sum_a = vec_add(sum_a, a);
        sum_b = vec_add(sum_b, b);
    }
    return vec_sum(vec_add(sum_a, sum_b));
}

#endif
