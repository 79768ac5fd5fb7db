/* SPDX-License-Identifier: MIT */
#include "kernels/ref/ref.h"

/* W stays as it is in the file: row-major [n, k]. */

size_t imagine__ref_linear_packed_size(int64_t n, int64_t k, imagine__wtype type)
{
    return (size_t)n * (size_t)k * imagine__weight_size(type);
}

void imagine__ref_pack_linear(void *packed, const void *rows, int64_t first, int64_t count, int64_t n, int64_t k,
                              imagine__wtype type)
{
    (void)n;
    size_t row = (size_t)k * imagine__weight_size(type);
    if (count > 0 && row > 0)
        memcpy((char *)packed + (size_t)first * row, rows, (size_t)count * row);
}

/* In double: what the other versions lose by their sums of floats is then theirs alone. */
static float dot(const float *x, const void *weight, imagine__wtype type, int64_t offset, int64_t k)
{
    double sum = 0;
    for (int64_t i = 0; i < k; i++)
        sum += (double)x[i] * imagine__weight_at(weight, type, offset + i);
    return (float)sum;
}

#define ROWS 16
#define COLUMNS 64

/* A tile is ROWS rows by COLUMNS columns, so that one of any shape takes little time. */
static void linear_tile(void *arg, int64_t tile, void *scratch)
{
    (void)scratch;
    const imagine__linear_args *a = arg;
    const imagine__linear_weight *w = a->w;
    int64_t row_tiles = (a->m + ROWS - 1) / ROWS;
    int64_t row = tile % row_tiles * ROWS, column = tile / row_tiles * COLUMNS;
    int64_t row_end = row + ROWS < a->m ? row + ROWS : a->m;
    int64_t column_end = column + COLUMNS < w->n ? column + COLUMNS : w->n;

    for (int64_t i = row; i < row_end; i++) {
        for (int64_t j = column; j < column_end; j++) {
            float value = dot((const float *)a->x + i * a->ldx, w->packed, w->type, j * w->k, w->k);
            if (w->bias)
                value += w->bias[j];
            value = imagine__ref_act(value, a->act);
            if (a->mul)
                value *= a->mul[i * a->ld_mul + j];
            if (a->gate)
                value *= a->gate[i / a->gate_rows * a->ld_gate + j];
            if (a->add)
                value += a->add[i * a->ld_add + j];
            ((float *)a->y)[i * a->ldy + j] = value;
        }
    }
}

void imagine__ref_linear(imagine__run *run, const imagine__linear_args *args)
{
    int64_t row_tiles = (args->m + ROWS - 1) / ROWS, column_tiles = (args->w->n + COLUMNS - 1) / COLUMNS;
    imagine__linear_args copy = *args;
    imagine__parallel(run, row_tiles * column_tiles, linear_tile, &copy);
}
