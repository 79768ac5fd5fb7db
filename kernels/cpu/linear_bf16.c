/* SPDX-License-Identifier: MIT */
#ifdef IMAGINE_TILES
#define GEMM_TILES
#define BF16(name) imagine__amx_##name
#define TOGETHER TILE
#else
#define GEMM_PAIRS
#define BF16(name) imagine__avx512bf16_##name
#define TOGETHER 1
#endif
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/gemm.h"

/* Weights that are stored as bf16 stay so, and activations are rounded to bf16 (to nearest, ties to even): the product adds two
 * multiplied pairs to a sum of f32 at once. W lies in panels [panel][k / 2][GEMM_COLUMNS][2]; k is filled up with zeros to whole
 * pairs, TOGETHER of them. Weights of f32 are the AVX-512 level's. */

static int64_t pairs_of(int64_t k)
{
    return gemm_ceil(k, 2 * TOGETHER) * TOGETHER;
}

size_t BF16(linear_packed_size)(int64_t n, int64_t k, imagine__wtype type)
{
    if (type != IMAGINE__W_BF16)
        return imagine__avx512_linear_packed_size(n, k, type);
    return gemm_packed_size(n, pairs_of(k), IMAGINE__W_F32);
}

/* One panel of up to GEMM_COLUMNS rows of W. */
static void pack_panel(uint16_t *panel, const uint16_t *rows, int64_t count, int64_t k)
{
    for (int64_t i = 0; i < 2 * pairs_of(k); i++)
        for (int64_t j = 0; j < GEMM_COLUMNS; j++)
            panel[(i / 2 * GEMM_COLUMNS + j) * 2 + i % 2] = i < k && j < count ? rows[j * k + i] : 0;
}

void BF16(pack_linear)(void *packed, const void *rows, int64_t first, int64_t count, int64_t n, int64_t k, imagine__wtype type)
{
    if (type != IMAGINE__W_BF16) {
        imagine__avx512_pack_linear(packed, rows, first, count, n, k, type);
        return;
    }
    for (int64_t i = 0; i < count; i += GEMM_COLUMNS)
        pack_panel((uint16_t *)packed + (first + i) * 2 * pairs_of(k), (const uint16_t *)rows + i * k,
                   gemm_min(GEMM_COLUMNS, count - i), k);
}

/* `depth` pairs of one row; beyond `left` values there are zeros. */
static void round_row(float *to, const float *from, int64_t depth, int64_t left)
{
    int64_t i = 0, whole = gemm_min(2 * depth, left);
    for (; 2 * i + 2 * VEC_LANES <= whole; i += VEC_LANES)
        _mm512_storeu_ps(to + i, (__m512)_mm512_cvtne2ps_pbh(vec_load(from + 2 * i + VEC_LANES), vec_load(from + 2 * i)));
    for (; i < depth; i += VEC_LANES / 2) {
        int64_t n = gemm_min(2 * (depth - i), VEC_LANES), there = gemm_min(n, left - 2 * i);
        __m512 x = there > 0 ? vec_load_n(from + 2 * i, vec_first(there)) : vec_zero();
        _mm256_mask_storeu_epi16(to + i, vec_first(n), (__m256i)_mm512_cvtneps_pbh(x));
    }
}

static void fill_rows(const gemm *g, float *a, int64_t row, int64_t rows, int64_t part, int64_t k, int64_t depth)
{
    (void)part;
    const imagine__linear_args *args = g->source;
    for (int64_t r = 0; r < rows; r++)
        round_row(a + r * GEMM_DEPTH, (const float *)args->x + (row + r) * args->ldx + 2 * k, depth, args->w->k - 2 * k);
}

static const void *source_row(const gemm *g, int64_t row, int64_t k)
{
    const imagine__linear_args *args = g->source;
    return (const float *)args->x + row * args->ldx + 2 * k;
}

void BF16(linear)(imagine__run *run, const imagine__linear_args *args)
{
    const imagine__linear_weight *w = args->w;
    if (w->type != IMAGINE__W_BF16) {
        imagine__avx512_linear(run, args);
        return;
    }
    gemm g = {.packed = w->packed, .type = IMAGINE__W_F32, .m = args->m, .n = w->n, .parts = 1, .part_k = pairs_of(w->k),
              .source = args, .fill = fill_rows, .source_row = source_row, .source_bytes = 8, .out = gemm_output_of(args)};
    if (gemm_begin(&g))
        gemm_run(run, &g);
}
