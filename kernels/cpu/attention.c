/* SPDX-License-Identifier: MIT */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"
#include "kernels/ref/ref.h"

/* Attention by blocks of keys with a running softmax. A tile is a block of query rows of one head: it goes through the
 * keys block by block; K and V of a block are packed into panels that all its rows share. After a block, row r holds
 * the maximum m of its scores so far, l = sum 2^(s - m) and o = sum 2^(s - m) v; when m grows, l and o shrink by
 * 2^(old m - new m), which the second product does as it adds to o. Scores are counted in powers of two: the factor
 * log2 e is part of the scale.
 *
 * The blocks of keys depend on d and the number of keys alone, and a row never sees another row: how the rows are cut
 * into tiles does not show in the result. */

#ifdef IMAGINE_TILES /* attention_tiles.h says what is different */
#define ATTENTION imagine__amx_attention
#define ROWS 32
#define LARGEST_D 256 /* beyond, the AVX-512 level does it */
#define WHOLE (2 * TILE) /* keys that the second product takes at once */
#include "kernels/cpu/tiles.h"
#else
#define ATTENTION IMAGINE__ISA(attention)
#define ROWS 6
#define LARGEST_D 4096 /* beyond, the scratch is too small, and plain C does it */
#define WHOLE VEC_LANES
#endif
#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define EACH_COUNT(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define COLUMNS (2 * VEC_LANES)
#define LOG2_E 1.44269504f

typedef struct job {
    const imagine__run *run;
    const imagine__attention_args *a;
    int64_t tile_rows, tiles_per_head;
    int64_t block_keys; /* a multiple of COLUMNS */
    int64_t wide; /* d rounded up to whole panels */
} job;

/* What a tile works on, in the scratch. */
typedef struct tile_state {
    int64_t batch, head, row, rows, kv;
    float *q; /* [rows][d], times the scale and log2 e */
    float *k; /* [panels of keys][d][COLUMNS] */
    float *v; /* [panels of d][block_keys][COLUMNS] */
    float *s; /* [rows][block_keys]: scores, then weights */
    float *o; /* [rows][wide] */
    float *max, *sum, *shrink; /* [rows] */
} tile_state;

static int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Elements of a sum over n values: with AMX pairs, whole tiles of them. */
static int64_t depth_of(int64_t n)
{
#ifdef IMAGINE_TILES
    return round_up(n, 2 * TILE) / 2;
#else
    return n;
#endif
}

static int64_t most_rows(int64_t d)
{
#ifdef IMAGINE_TILES
    (void)d;
    return 256;
#else
    return d <= 128 ? 288 : d <= 1024 ? 96 : 12;
#endif
}

/* About 64 KiB of K, so that K, V, the scores and the rows stay in the second-level cache together. */
static int64_t keys_of_block(int64_t d)
{
#ifdef IMAGINE_TILES
    return d <= 128 ? 256 : 128;
#endif
    if (d > 1024)
        return COLUMNS;
    int64_t keys = 16384 / d / 32 * 32;
    return keys < 64 ? 64 : keys > 256 ? 256 : keys;
}

/* Tiles as large as the scratch allows, for K and V are packed anew for each, but some for every thread. However many
 * keys there are, a tile of a cancelled run ends after the next block. */
static job plan(const imagine__run *run, const imagine__attention_args *a)
{
    job g = {.run = run, .a = a, .block_keys = keys_of_block(a->d), .wide = round_up(a->d, COLUMNS)};
    int64_t rows = most_rows(a->d);
    while (rows > 48 && a->batch * a->heads * ((a->tokens + rows - 1) / rows) < 16)
        rows /= 2;
    int64_t blocks = (a->tokens + rows - 1) / rows;
    g.tile_rows = smaller(round_up((a->tokens + blocks - 1) / blocks, ROWS), rows);
    g.tiles_per_head = (a->tokens + g.tile_rows - 1) / g.tile_rows;
    return g;
}

/* Rows of q and o, K and V, scores; what is left is for three numbers a row and rounding to whole cache lines. */
#define FLOATS(rows, keys, d) (2 * (rows) * (d) + 2 * (keys) * (d) + (rows) * (keys))
#define ROOM (IMAGINE__SCRATCH / 4 - 4096)
#ifdef IMAGINE_TILES
_Static_assert(FLOATS(256, 256, 128) <= ROOM && FLOATS(256, 128, LARGEST_D) <= ROOM, "the scratch is too small");
#else
_Static_assert(FLOATS(288, 256, 128) <= ROOM && FLOATS(96, 64, 1024) <= ROOM && FLOATS(12, COLUMNS, LARGEST_D) <= ROOM,
               "the scratch is too small");
#endif

static float *take(float **rest, int64_t count)
{
    float *p = *rest;
    *rest += round_up(count, 16);
    return p;
}

static tile_state tile_at(const job *g, int64_t tile, void *scratch)
{
    const imagine__attention_args *a = g->a;
    tile_state t = {.batch = tile / g->tiles_per_head / a->heads, .head = tile / g->tiles_per_head % a->heads};
    float *rest = scratch;
    t.row = tile % g->tiles_per_head * g->tile_rows;
    t.rows = smaller(g->tile_rows, a->tokens - t.row);
    t.kv = a->kv_length ? a->kv_length[t.batch] : a->kv;
    int64_t rows = round_up(t.rows, ROWS);
    t.q = take(&rest, rows * depth_of(a->d));
    t.k = take(&rest, g->block_keys * g->wide);
    t.v = take(&rest, g->block_keys * g->wide);
    t.s = take(&rest, rows * g->block_keys);
    t.o = take(&rest, rows * g->wide);
    t.max = take(&rest, t.rows);
    t.sum = take(&rest, t.rows);
    t.shrink = take(&rest, t.rows);
    return t;
}

static const float *keys_at(const job *g, const tile_state *t, int64_t token)
{
    return (const float *)g->a->k + t->batch * g->a->k_batch + token * g->a->k_token + t->head * g->a->d;
}

static const float *values_at(const job *g, const tile_state *t, int64_t token)
{
    return (const float *)g->a->v + t->batch * g->a->v_batch + token * g->a->v_token + t->head * g->a->d;
}

/* K or V that is packed next, to be asked for in time: a token's share of it is too short, and the next one's too far
 * away, for the processor to guess. */
typedef struct upcoming {
    const float *first;
    int64_t stride, tokens, d;
} upcoming;

/* Part `i` of `parts`. */
static void prefetch(const upcoming *next, int64_t i, int64_t parts)
{
    for (int64_t j = i * next->tokens / parts; j < (i + 1) * next->tokens / parts; j++)
        for (int64_t at = 0; at < next->d; at += 16)
            vec_prefetch(next->first + j * next->stride + at);
}

#ifdef IMAGINE_TILES
#include "kernels/cpu/attention_tiles.h"
#else
/* ---- packing ----------------------------------------------------------------------------------------------------- */

static void load_queries(const job *g, const tile_state *t)
{
    const imagine__attention_args *a = g->a;
    const float *q = (const float *)a->q + t->batch * a->q_batch + t->row * a->q_token + t->head * a->d;
    const float scale = a->scale * LOG2_E;
    for (int64_t r = 0; r < t->rows; r++) {
        const float *from = q + r * a->q_token;
        float *to = t->q + r * a->d;
        int64_t i = 0;
        for (; i + VEC_LANES <= a->d; i += VEC_LANES)
            vec_store(to + i, vec_mul(vec_load(from + i), vec_set1(scale)));
        for (; i < a->d; i++)
            to[i] = from[i] * scale;
        t->max[r] = -INFINITY;
        t->sum[r] = 0;
    }
}

/* `count` keys, at most 8, as 8 columns of a panel; columns without a key are zeros. */
static void pack_8_keys(const float *k, int64_t stride, int64_t count, int64_t d, float *panel)
{
    int64_t i = 0;
    if (count == 8)
        for (; i + 8 <= d; i += 8)
            vec_transpose_8x8(k + i, stride, panel + i * COLUMNS, COLUMNS);
    for (; i < d; i++)
        for (int64_t j = 0; j < 8; j++)
            panel[i * COLUMNS + j] = j < count ? k[j * stride + i] : 0;
}

static void pack_keys(const job *g, const tile_state *t, int64_t first, int64_t count)
{
    const imagine__attention_args *a = g->a;
    const float *k = keys_at(g, t, first);
    for (int64_t j = 0; j < round_up(count, COLUMNS); j += 8) {
        float *panel = t->k + j / COLUMNS * COLUMNS * a->d + j % COLUMNS;
        int64_t left = count - j;
        pack_8_keys(k + j * a->k_token, a->k_token, left < 0 ? 0 : left > 8 ? 8 : left, a->d, panel);
    }
}

static void pack_values(const job *g, const tile_state *t, int64_t first, int64_t count)
{
    const imagine__attention_args *a = g->a;
    const float *v = values_at(g, t, first);
    for (int64_t j = 0; j < count; j++, v += a->v_token) {
        float *to = t->v + j * COLUMNS;
        int64_t i = 0;
        for (; i + COLUMNS <= a->d; i += COLUMNS, to += g->block_keys * COLUMNS) {
            vec_store(to, vec_load(v + i));
            vec_store(to + VEC_LANES, vec_load(v + i + VEC_LANES));
        }
        if (i < a->d) {
            vec_store(to, vec_load_n(v + i, vec_first(a->d - i)));
            int64_t left = a->d - i - VEC_LANES;
            vec_store(to + VEC_LANES, left > 0 ? vec_load_n(v + i + VEC_LANES, vec_first(left)) : vec_zero());
        }
    }
}

/* ---- the two products ------------------------------------------------------------------------------------------ */

/* y[rows][COLUMNS] = a[rows][depth] b[depth][COLUMNS], plus shrink[row] * y when there is a `shrink`; with `half` the
 * right half of the columns is not wanted and comes out as something else. Every number of rows is a function of its own,
 * in which `rows` is a constant; an element goes through the same operations in all. */
VEC void multiply_rows(const float *a, int64_t lda, const float *b, int64_t depth, float *y, int64_t ldy,
                       const float *shrink, const int rows, const int half)
{
#define DECLARE(r)                                          \
    vec left##r = vec_zero(), right##r = vec_zero();        \
    const float *a##r = a + (r < rows ? r : 0) * lda;
#define MULTIPLY(r)                                 \
    if (r < rows) {                                 \
        vec x = vec_set1(a##r[i]);                  \
        left##r = vec_fma(x, left, left##r);        \
        if (!half)                                  \
            right##r = vec_fma(x, right, right##r); \
    }
#define ADD(r)                                                                              \
    if (r < rows) {                                                                         \
        vec x = vec_set1(shrink[r]);                                                        \
        left##r = vec_fma(x, vec_load(y + r * ldy), left##r);                               \
        right##r = vec_fma(x, vec_load(y + r * ldy + VEC_LANES), right##r);                 \
    }
#define STORE(r)                                            \
    if (r < rows) {                                         \
        vec_store(y + r * ldy, left##r);                    \
        vec_store(y + r * ldy + VEC_LANES, right##r);       \
    }
    EACH_ROW(DECLARE)
    for (int64_t i = 0; i < depth; i++, b += COLUMNS) {
        vec left = vec_load(b), right = vec_load(b + VEC_LANES);
        EACH_ROW(MULTIPLY)
    }
    if (shrink) {
        EACH_ROW(ADD)
    }
    EACH_ROW(STORE)
#undef DECLARE
#undef MULTIPLY
#undef ADD
#undef STORE
}

typedef void multiply_fn(const float *a, int64_t lda, const float *b, int64_t depth, float *y, int64_t ldy,
                         const float *shrink);

#define MULTIPLY_FUNCTION(rows)                                                                                     \
    static void multiply_##rows(const float *a, int64_t lda, const float *b, int64_t depth, float *y, int64_t ldy,  \
                                const float *shrink)                                                                \
    {                                                                                                               \
        multiply_rows(a, lda, b, depth, y, ldy, shrink, rows, 0);                                                   \
    }                                                                                                               \
    static void multiply_half_##rows(const float *a, int64_t lda, const float *b, int64_t depth, float *y,          \
                                     int64_t ldy, const float *shrink)                                              \
    {                                                                                                               \
        multiply_rows(a, lda, b, depth, y, ldy, shrink, rows, 1);                                                   \
    }
EACH_COUNT(MULTIPLY_FUNCTION)

/* All rows past one panel of the `columns` after another: a panel stays in the first-level cache meanwhile. */
static void multiply(int64_t rows, const float *a, int64_t lda, const float *b, int64_t columns, int64_t panel_size,
                     int64_t depth, float *y, int64_t ldy, const float *shrink, const upcoming *next)
{
#define NAME(rows) multiply_##rows,
#define HALF_NAME(rows) multiply_half_##rows,
    static multiply_fn *const functions[2][ROWS] = {{EACH_COUNT(NAME)}, {EACH_COUNT(HALF_NAME)}};
#undef NAME
#undef HALF_NAME
    int64_t groups = (rows + ROWS - 1) / ROWS, parts = (columns + COLUMNS - 1) / COLUMNS * groups, part = 0;
    for (int64_t column = 0; column < columns; column += COLUMNS, b += panel_size)
        for (int64_t r = 0; r < rows; r += ROWS) {
            prefetch(next, part++, parts);
            functions[columns - column <= VEC_LANES][smaller(rows - r, ROWS) - 1](
                a + r * lda, lda, b, depth, y + r * ldy + column, ldy, shrink ? shrink + r : NULL);
        }
}

/* s = 2^(s - max) for n values, a multiple of WHOLE; gives their sum. */
static float weigh(float *s, int64_t n, float max)
{
    vec m = vec_set1(max), sum_a = vec_zero(), sum_b = vec_zero();
    int64_t i = 0;
    for (; i + 2 * VEC_LANES <= n; i += 2 * VEC_LANES) {
        vec a = vec_exp2_negative(vec_sub(vec_load(s + i), m));
        vec b = vec_exp2_negative(vec_sub(vec_load(s + i + VEC_LANES), m));
        vec_store(s + i, a);
        vec_store(s + i + VEC_LANES, b);
        sum_a = vec_add(sum_a, a);
        sum_b = vec_add(sum_b, b);
    }
    if (i < n) {
        vec a = vec_exp2_negative(vec_sub(vec_load(s + i), m));
        vec_store(s + i, a);
        sum_a = vec_add(sum_a, a);
    }
    return vec_sum(vec_add(sum_a, sum_b));
}
#endif

/* ---- the softmax ------------------------------------------------------------------------------------------------- */

/* The largest of n values, a multiple of VEC_LANES; NaN are passed over, they come back in the weights. */
static float largest(const float *s, int64_t n)
{
    vec a = vec_set1(-INFINITY), b = a;
    int64_t i = 0;
    for (; i + 2 * VEC_LANES <= n; i += 2 * VEC_LANES) {
        a = vec_max(vec_load(s + i), a);
        b = vec_max(vec_load(s + i + VEC_LANES), b);
    }
    if (i < n)
        a = vec_max(vec_load(s + i), a);
    return vec_largest(vec_max(a, b));
}

static float exp2_one(float x)
{
    float y[VEC_LANES];
    vec_store(y, vec_exp2_negative(vec_set1(x)));
    return y[0];
}

/* A finite bias stays finite with the factor: a row that is masked by -FLT_MAX throughout has weights, one of -inf has none. The
 * second product is too small to show in a score, unless the bias is infinite. */
static vec biased(vec s, vec bias)
{
    const float largest = 0x1p+126f;
    vec inside = vec_max(vec_set1(-largest), vec_min(vec_set1(largest), bias));
    return vec_fma(bias, vec_set1(0x1p-120f), vec_fma(inside, vec_set1(LOG2_E), s));
}

static void add_bias(float *s, const float *bias, int64_t n)
{
    int64_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES)
        vec_store(s + i, biased(vec_load(s + i), vec_load(bias + i)));
    if (i < n)
        vec_store_n(s + i, vec_first(n - i), biased(vec_load(s + i), vec_load_n(bias + i, vec_first(n - i))));
}

/* The scores of a block become weights. */
static void softmax(const job *g, const tile_state *t, int64_t first, int64_t count)
{
    const imagine__attention_args *a = g->a;
    const float *bias = a->bias ? a->bias + (t->head * a->tokens + t->row) * a->kv + first : NULL;
    int64_t whole = round_up(count, WHOLE);
    for (int64_t r = 0; r < t->rows; r++) {
        float *s = t->s + r * g->block_keys;
        for (int64_t j = count; j < whole; j++)
            s[j] = -INFINITY;
        if (bias)
            add_bias(s, bias + r * a->kv, count);
        float max = largest(s, whole);
        max = max > t->max[r] ? max : t->max[r];
        float base = max == -INFINITY ? 0 : max; /* -inf minus -inf would be a NaN, and later keys may be finite */
        t->shrink[r] = max == t->max[r] ? 1 : exp2_one(t->max[r] - base);
        t->sum[r] = t->sum[r] * t->shrink[r] + weigh(s, whole, base);
        t->max[r] = max;
    }
}

/* ---- a tile ------------------------------------------------------------------------------------------------------ */

static void store_rows(const job *g, const tile_state *t)
{
    const imagine__attention_args *a = g->a;
    float *y = (float *)a->y + t->batch * a->y_batch + t->row * a->y_token + t->head * a->d;
    for (int64_t r = 0; r < t->rows; r++, y += a->y_token) {
        const float *o = t->o + r * g->wide;
        vec sum = vec_set1(t->sum[r]);
        int64_t i = 0;
        for (; i + VEC_LANES <= a->d; i += VEC_LANES)
            vec_store(y + i, vec_div(vec_load(o + i), sum));
        if (i < a->d)
            vec_store_n(y + i, vec_first(a->d - i), vec_div(vec_load(o + i), sum));
    }
}

static void attention_tile(void *arg, int64_t tile, void *scratch)
{
    const job *g = arg;
    int64_t d = g->a->d;
    tile_state t = tile_at(g, tile, scratch);
    load_queries(g, &t);
    if (t.kv <= 0) /* no number comes out, as from plain C */
        memset(t.o, 0, (size_t)(t.rows * g->wide) * sizeof *t.o);
    for (int64_t first = 0; first < t.kv && !imagine__run_stopped(g->run); first += g->block_keys) {
        int64_t count = smaller(g->block_keys, t.kv - first), next = first + count;
        upcoming values = {values_at(g, &t, first), g->a->v_token, count, d};
        upcoming keys = {keys_at(g, &t, next), g->a->k_token, smaller(g->block_keys, t.kv - next), d};
        pack_keys(g, &t, first, count);
        multiply(t.rows, t.q, depth_of(d), t.k, count, depth_of(d) * COLUMNS, depth_of(d), t.s, g->block_keys, NULL, &values);
        softmax(g, &t, first, count);
        pack_values(g, &t, first, count);
        multiply(t.rows, t.s, g->block_keys, t.v, d, depth_of(g->block_keys) * COLUMNS, depth_of(count), t.o, g->wide,
                 first ? t.shrink : NULL, &keys);
    }
    store_rows(g, &t);
}

#ifdef IMAGINE_TILES
static void attention_tile_amx(void *arg, int64_t tile, void *scratch)
{
    tiles_begin();
    attention_tile(arg, tile, scratch);
    tiles_end();
}

#define attention_tile attention_tile_amx
#define for_large_heads imagine__avx512_attention
#else
#define for_large_heads imagine__ref_attention
#endif

void ATTENTION(imagine__run *run, const imagine__attention_args *a)
{
    if (a->tokens <= 0 || a->kv <= 0 || a->d <= 0)
        return;
    if (a->d > LARGEST_D || a->kv_blocks) { /* no stage on a CPU has a list of blocks */
        for_large_heads(run, a);
        return;
    }
    job g = plan(run, a);
    imagine__parallel(run, a->batch * a->heads * g.tiles_per_head, attention_tile, &g);
}
