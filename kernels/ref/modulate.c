/* SPDX-License-Identifier: MIT */
#include "kernels/ref/ref.h"

/* A tile is as many rows as have about 65,536 values. */

typedef struct job {
    const imagine__modulate_args *a;
    int64_t tile_rows;
} job;

static void modulate_rows(void *arg, int64_t tile, void *scratch)
{
    const job *g = arg;
    const imagine__modulate_args *a = g->a;
    int64_t first = tile * g->tile_rows;
    int64_t end = first + g->tile_rows < a->rows ? first + g->tile_rows : a->rows;
    (void)scratch;
    for (int64_t at = first * a->parts; at < end * a->parts; at++) {
        int64_t row = at / a->parts, part = at % a->parts;
        const float *table = a->table + part * a->dim;
        const float *x = a->x + (row * a->x_parts + part % a->x_parts) * a->dim;
        float *y = a->y + at * a->dim;
        for (int64_t i = 0; i < a->dim; i++)
            y[i] = table[i] + x[i];
    }
}

void imagine__ref_modulate(imagine__run *run, const imagine__modulate_args *args)
{
    if (args->parts <= 0 || args->dim <= 0)
        return;
    job g = { args, 65536 / (args->parts * args->dim) + 1 };
    imagine__parallel(run, (args->rows + g.tile_rows - 1) / g.tile_rows, modulate_rows, &g);
}
