/* SPDX-License-Identifier: MIT */
#include <stdatomic.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

#define TILE 16384 /* values; a multiple of every vector's length */

static int64_t tiles(int64_t n)
{
    return n <= 0 ? 0 : (n + TILE - 1) / TILE;
}

/* Where a tile of n values begins; *end receives where it ends. */
static int64_t tile_span(int64_t tile, int64_t n, int64_t *end)
{
    *end = n - tile * TILE < TILE ? n : (tile + 1) * TILE;
    return tile * TILE;
}

/* ---- activate ---------------------------------------------------------------------------------------------------- */

typedef struct activate_job {
    const float *x;
    float *y;
    int64_t n;
    imagine__act act;
} activate_job;

/* Inlined with a constant `act`, so that the loop holds the one function. */
VEC void activate_span(const float *x, float *y, int64_t n, const imagine__act act)
{
    int64_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES)
        vec_store(y + i, vec_act(vec_load(x + i), act));
    if (i < n) {
        vec_mask rest = vec_first(n - i);
        vec_store_n(y + i, rest, vec_act(vec_load_n(x + i, rest), act));
    }
}

static void activate_tile(void *arg, int64_t tile, void *scratch)
{
    const activate_job *g = arg;
    int64_t end, begin = tile_span(tile, g->n, &end);
    (void)scratch;
    switch (g->act) {
    case IMAGINE__ACT_GELU_TANH:
        activate_span(g->x + begin, g->y + begin, end - begin, IMAGINE__ACT_GELU_TANH);
        break;
    case IMAGINE__ACT_GELU_ERF:
        activate_span(g->x + begin, g->y + begin, end - begin, IMAGINE__ACT_GELU_ERF);
        break;
    case IMAGINE__ACT_SILU:
        activate_span(g->x + begin, g->y + begin, end - begin, IMAGINE__ACT_SILU);
        break;
    default:
        memmove(g->y + begin, g->x + begin, (size_t)(end - begin) * sizeof(float));
    }
}

void IMAGINE__ISA(activate)(imagine__run *run, const float *x, float *y, int64_t n, imagine__act act)
{
    activate_job g = {x, y, n, act};
    imagine__parallel(run, tiles(n), activate_tile, &g);
}

/* ---- embed ------------------------------------------------------------------------------------------------------- */

typedef struct embed_job {
    const void *table;
    imagine__wtype type;
    const int32_t *ids;
    int64_t dim;
    float *y;
} embed_job;

static void embed_tile(void *arg, int64_t tile, void *scratch)
{
    const embed_job *g = arg;
    int64_t row = (int64_t)g->ids[tile] * g->dim, i = 0;
    float *y = g->y + tile * g->dim;
    (void)scratch;
    if (g->type == IMAGINE__W_F32) {
        memcpy(y, (const float *)g->table + row, (size_t)g->dim * sizeof(float));
        return;
    }
    const uint16_t *from = (const uint16_t *)g->table + row;
    for (; i + VEC_LANES <= g->dim; i += VEC_LANES)
        vec_store(y + i, vec_load_bf16(from + i));
    for (; i < g->dim; i++) {
        uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(y + i, &bits, sizeof bits);
    }
}

void IMAGINE__ISA(embed)(imagine__run *run, const void *table, imagine__wtype type, const int32_t *ids, int64_t count,
                         int64_t dim, float *y)
{
    embed_job g = {table, type, ids, dim, y};
    imagine__parallel(run, dim <= 0 || count < 0 ? 0 : count, embed_tile, &g);
}

/* ---- combine ----------------------------------------------------------------------------------------------------- */

typedef struct combine_job {
    int32_t terms;
    const float *coefficient;
    const float *const *x;
    float *y;
    int64_t n;
} combine_job;

/* Every product and every sum is rounded by itself: the same bytes as plain C. */
static void combine_tile(void *arg, int64_t tile, void *scratch)
{
    const combine_job *g = arg;
    int64_t end, i = tile_span(tile, g->n, &end);
    (void)scratch;
    for (; i + VEC_LANES <= end; i += VEC_LANES) {
        vec sum = vec_mul(vec_set1(g->coefficient[0]), vec_load(g->x[0] + i));
        for (int32_t t = 1; t < g->terms; t++)
            sum = vec_add(sum, vec_mul(vec_set1(g->coefficient[t]), vec_load(g->x[t] + i)));
        vec_store(g->y + i, sum);
    }
    if (i < end) {
        vec_mask rest = vec_first(end - i);
        vec sum = vec_mul(vec_set1(g->coefficient[0]), vec_load_n(g->x[0] + i, rest));
        for (int32_t t = 1; t < g->terms; t++)
            sum = vec_add(sum, vec_mul(vec_set1(g->coefficient[t]), vec_load_n(g->x[t] + i, rest)));
        vec_store_n(g->y + i, rest, sum);
    }
}

void IMAGINE__ISA(combine)(imagine__run *run, int32_t terms, const float *coefficient, const float *const *x, float *y,
                           int64_t n)
{
    combine_job g = {terms, coefficient, x, y, n};
    imagine__parallel(run, tiles(n), combine_tile, &g);
}

/* ---- transpose --------------------------------------------------------------------------------------------------- */

#define BLOCK 64

typedef struct transpose_job {
    const float *x;
    float *y;
    int64_t rows, columns;
} transpose_job;

static void transpose_tile(void *arg, int64_t tile, void *scratch)
{
    const transpose_job *g = arg;
    int64_t across = (g->columns + BLOCK - 1) / BLOCK;
    int64_t r0 = tile / across * BLOCK, c0 = tile % across * BLOCK;
    int64_t r1 = r0 + BLOCK < g->rows ? r0 + BLOCK : g->rows, c1 = c0 + BLOCK < g->columns ? c0 + BLOCK : g->columns;
    int64_t r8 = r0 + (r1 - r0) / 8 * 8, c8 = c0 + (c1 - c0) / 8 * 8; /* where whole 8 x 8 end */
    (void)scratch;
    for (int64_t c = c0; c < c8; c += 8)
        for (int64_t r = r0; r < r8; r += 8)
            vec_transpose_8x8(g->x + r * g->columns + c, g->columns, g->y + c * g->rows + r, g->rows);
    for (int64_t c = c0; c < c1; c++)
        for (int64_t r = c < c8 ? r8 : r0; r < r1; r++)
            g->y[c * g->rows + r] = g->x[r * g->columns + c];
}

void IMAGINE__ISA(transpose)(imagine__run *run, const float *x, float *y, int64_t rows, int64_t columns)
{
    transpose_job g = {x, y, rows, columns};
    if (rows > 0 && columns > 0)
        imagine__parallel(run, (rows + BLOCK - 1) / BLOCK * ((columns + BLOCK - 1) / BLOCK), transpose_tile, &g);
}

/* ---- finite ------------------------------------------------------------------------------------------------------ */

typedef struct finite_job {
    const float *x;
    int64_t n;
    atomic_int bad;
} finite_job;

/* x - x is 0, but NaN for what is not finite. */
static void finite_tile(void *arg, int64_t tile, void *scratch)
{
    finite_job *g = arg;
    int64_t end, i = tile_span(tile, g->n, &end);
    vec a = vec_zero(), b = a;
    (void)scratch;
    for (; i + 2 * VEC_LANES <= end; i += 2 * VEC_LANES) {
        vec x = vec_load(g->x + i), y = vec_load(g->x + i + VEC_LANES);
        a = vec_add(a, vec_sub(x, x));
        b = vec_add(b, vec_sub(y, y));
    }
    for (; i < end; i += VEC_LANES) {
        vec x = vec_load_n(g->x + i, vec_first(end - i));
        a = vec_add(a, vec_sub(x, x));
    }
    if (!(vec_sum(vec_add(a, b)) == 0))
        atomic_store_explicit(&g->bad, 1, memory_order_relaxed);
}

int IMAGINE__ISA(finite)(imagine__run *run, const float *x, int64_t n)
{
    finite_job g = {x, n, 0};
    imagine__parallel(run, tiles(n), finite_tile, &g);
    return !atomic_load_explicit(&g.bad, memory_order_relaxed);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

typedef struct bytes_job {
    float *floats;
    const float *from_floats;
    uint8_t *bytes;
    const uint8_t *from_bytes;
    int64_t n;
} bytes_job;

/* max gives its second value for a NaN: that is -1, and 0 in the end. */
static __m256i to_255(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1);
    __m256 v = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-1)), one);
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_add_ps(v, one), _mm256_set1_ps(127.5f)));
}

static void to_u8_8(const float *x, uint8_t *y)
{
    __m256i v = to_255(_mm256_loadu_ps(x));
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64((__m128i *)y, _mm_packus_epi16(words, words));
}

static void to_u8_tile(void *arg, int64_t tile, void *scratch)
{
    const bytes_job *g = arg;
    int64_t end, i = tile_span(tile, g->n, &end);
    (void)scratch;
    for (; i + 8 <= end; i += 8)
        to_u8_8(g->from_floats + i, g->bytes + i);
    if (i < end) {
        float x[8] = {0};
        uint8_t y[8];
        memcpy(x, g->from_floats + i, (size_t)(end - i) * sizeof *x);
        to_u8_8(x, y);
        memcpy(g->bytes + i, y, (size_t)(end - i));
    }
}

void IMAGINE__ISA(to_u8)(imagine__run *run, const float *x, uint8_t *y, int64_t n)
{
    bytes_job g = {.from_floats = x, .bytes = y, .n = n};
    imagine__parallel(run, tiles(n), to_u8_tile, &g);
}

static void from_u8_tile(void *arg, int64_t tile, void *scratch)
{
    const bytes_job *g = arg;
    int64_t end, i = tile_span(tile, g->n, &end);
    (void)scratch;
    for (; i + 8 <= end; i += 8) {
        __m256i whole = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(g->from_bytes + i)));
        __m256 v = _mm256_div_ps(_mm256_cvtepi32_ps(whole), _mm256_set1_ps(127.5f));
        _mm256_storeu_ps(g->floats + i, _mm256_sub_ps(v, _mm256_set1_ps(1)));
    }
    for (; i < end; i++)
        g->floats[i] = g->from_bytes[i] / 127.5f - 1;
}

void IMAGINE__ISA(from_u8)(imagine__run *run, const uint8_t *x, float *y, int64_t n)
{
    bytes_job g = {.floats = y, .from_bytes = x, .n = n};
    imagine__parallel(run, tiles(n), from_u8_tile, &g);
}
