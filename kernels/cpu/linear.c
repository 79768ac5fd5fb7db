/* SPDX-License-Identifier: MIT */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

/* A panel of W and a group's rows of a block are then in the first-level cache together: 44 KiB. */
#if VEC_LANES == 16
#define GEMM_DEPTH 256
#define GEMM_ROOMY_ROWS 480
#define GEMM_SPREAD 1 /* not for convolutions, whose W is small */
#endif
#include "kernels/cpu/gemm.h"

size_t IMAGINE__ISA(linear_packed_size)(int64_t n, int64_t k, imagine__wtype type)
{
    return gemm_packed_size(n, k, type);
}

/* One panel of up to GEMM_COLUMNS rows of W. */
static void pack_f32(float *panel, const float *rows, int64_t count, int64_t k)
{
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < GEMM_COLUMNS; j++)
            panel[i * GEMM_COLUMNS + j] = j < count ? rows[j * k + i] : 0;
}

static void pack_bf16(uint16_t *panel, const uint16_t *rows, int64_t count, int64_t k)
{
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < GEMM_COLUMNS; j++)
            panel[i * GEMM_COLUMNS + j] = j < count ? rows[j * k + i] : 0;
}

void IMAGINE__ISA(pack_linear)(void *packed, const void *rows, int64_t first, int64_t count, int64_t n, int64_t k,
                               imagine__wtype type)
{
    (void)n;
    for (int64_t i = 0; i < count; i += GEMM_COLUMNS) {
        int64_t here = gemm_min(GEMM_COLUMNS, count - i), offset = (first + i) * k;
        if (type == IMAGINE__W_BF16)
            pack_bf16((uint16_t *)packed + offset, (const uint16_t *)rows + i * k, here, k);
        else
            pack_f32((float *)packed + offset, (const float *)rows + i * k, here, k);
    }
}

static void fill_rows(const gemm *g, float *a, int64_t row, int64_t rows, int64_t part, int64_t k, int64_t depth)
{
    (void)part;
    const imagine__linear_args *args = g->source;
    const float *x = (const float *)args->x + row * args->ldx + k;
    for (int64_t r = 0; r < rows; r++)
        memcpy(a + r * GEMM_DEPTH, x + r * args->ldx, (size_t)depth * sizeof *a);
}

static const void *source_row(const gemm *g, int64_t row, int64_t k)
{
    const imagine__linear_args *args = g->source;
    return (const float *)args->x + row * args->ldx + k;
}

void IMAGINE__ISA(linear)(imagine__run *run, const imagine__linear_args *args)
{
    const imagine__linear_weight *w = args->w;
    gemm g = {.packed = w->packed, .type = w->type, .m = args->m, .n = w->n, .parts = 1, .part_k = w->k,
              .source = args, .fill = fill_rows, .source_row = source_row, .source_bytes = 4, .out = gemm_output_of(args)};
    if (gemm_begin(&g))
        gemm_run(run, &g);
}
