/* SPDX-License-Identifier: MIT */
#include "kernels/ref/ref.h"

/* What a step of the sampler does to latents, beside combine(). */

#define TILE 16384 /* values of a plane */

/* ---- keep -------------------------------------------------------------------------------------------------------- */

typedef struct keep_job {
    const imagine__keep_args *a;
    int64_t tiles; /* of a plane */
} keep_job;

static void keep_tile(void *arg, int64_t tile, void *scratch)
{
    const keep_job *g = arg;
    const imagine__keep_args *a = g->a;
    int64_t plane = tile / g->tiles, first = tile % g->tiles * TILE;
    int64_t end = first + TILE < a->count ? first + TILE : a->count;
    const float *known = a->known + plane * a->known_plane, *noise = a->noise ? a->noise + plane * a->x_plane : NULL;
    float *x = a->x + plane * a->x_plane;
    (void)scratch;
    for (int64_t i = first; i < end; i++)
        if (!a->mask || a->mask[i / a->mask_step] == 1)
            x[i] = noise ? (1 - a->sigma) * known[i] + a->sigma * noise[i] : known[i];
}

void imagine__ref_keep(imagine__run *run, const imagine__keep_args *args)
{
    if (args->planes <= 0 || args->count <= 0)
        return;
    keep_job g = { args, (args->count + TILE - 1) / TILE };
    imagine__parallel(run, args->planes * g.tiles, keep_tile, &g);
}

/* ---- spread and rescale ------------------------------------------------------------------------------------------ */

typedef struct spread_job {
    const float *x;
    int64_t n;
    double *y;
} spread_job;

static void spread_row(void *arg, int64_t row, void *scratch)
{
    const spread_job *g = arg;
    const float *x = g->x + row * g->n;
    double sum = 0, squares = 0;
    (void)scratch;
    for (int64_t i = 0; i < g->n; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
    }
    double rest = squares - sum * sum / (double)g->n;
    g->y[row] = rest > 0 ? sqrt(rest) : 0;
}

void imagine__ref_spread(imagine__run *run, const float *x, int64_t rows, int64_t n, double *y)
{
    spread_job g = { x, n, y };
    imagine__parallel(run, n > 0 ? rows : 0, spread_row, &g);
}

typedef struct rescale_job {
    float *x;
    int64_t n, tiles; /* of a row */
    const double *from, *to;
    double share;
} rescale_job;

static void rescale_tile(void *arg, int64_t tile, void *scratch)
{
    const rescale_job *g = arg;
    int64_t row = tile / g->tiles, first = tile % g->tiles * TILE, end = first + TILE < g->n ? first + TILE : g->n;
    float factor = g->from[row] > 0 ? (float)(g->share * (g->to[row] / g->from[row]) + (1 - g->share)) : 1;
    float *x = g->x + row * g->n;
    (void)scratch;
    for (int64_t i = first; i < end; i++)
        x[i] *= factor;
}

void imagine__ref_rescale(imagine__run *run, float *x, int64_t rows, int64_t n, const double *from, const double *to,
                          double share)
{
    rescale_job g = { x, n, (n + TILE - 1) / TILE, from, to, share };
    imagine__parallel(run, n > 0 ? rows * g.tiles : 0, rescale_tile, &g);
}
