/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/ref/ref.h"

#define TILE 16384 /* values: under a millisecond of the slowest, erf */

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

static void activate_tile(void *arg, int64_t tile, void *scratch)
{
    const activate_job *g = arg;
    int64_t end;
    (void)scratch;
    for (int64_t i = tile_span(tile, g->n, &end); i < end; i++)
        g->y[i] = imagine__ref_act(g->x[i], g->act);
}

void imagine__ref_activate(imagine__run *run, const float *x, float *y, int64_t n, imagine__act act)
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
    int64_t row = (int64_t)g->ids[tile] * g->dim;
    float *y = g->y + tile * g->dim;
    (void)scratch;
    if (g->type == IMAGINE__W_F32) {
        memcpy(y, (const float *)g->table + row, (size_t)g->dim * sizeof(float));
        return;
    }
    const uint16_t *from = (const uint16_t *)g->table + row;
    for (int64_t i = 0; i < g->dim; i++) {
        uint32_t bits = (uint32_t)from[i] << 16; /* bf16 is the upper half of f32 */
        memcpy(y + i, &bits, sizeof(bits));
    }
}

void imagine__ref_embed(imagine__run *run, const void *table, imagine__wtype type, const int32_t *ids, int64_t count,
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

static void combine_tile(void *arg, int64_t tile, void *scratch)
{
    const combine_job *g = arg;
    int64_t end;
    (void)scratch;
    for (int64_t i = tile_span(tile, g->n, &end); i < end; i++) {
        float sum = g->coefficient[0] * g->x[0][i];
        for (int32_t t = 1; t < g->terms; t++) {
            float product = g->coefficient[t] * g->x[t][i];
            sum = sum + product;
        }
        g->y[i] = sum;
    }
}

void imagine__ref_combine(imagine__run *run, int32_t terms, const float *coefficient, const float *const *x, float *y,
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
    (void)scratch;
    for (int64_t c = c0; c < c0 + BLOCK && c < g->columns; c++)
        for (int64_t r = r0; r < r0 + BLOCK && r < g->rows; r++)
            g->y[c * g->rows + r] = g->x[r * g->columns + c];
}

void imagine__ref_transpose(imagine__run *run, const float *x, float *y, int64_t rows, int64_t columns)
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

static void finite_tile(void *arg, int64_t tile, void *scratch)
{
    finite_job *g = arg;
    int64_t end;
    (void)scratch;
    for (int64_t i = tile_span(tile, g->n, &end); i < end; i++)
        if (!isfinite(g->x[i])) {
            atomic_store_explicit(&g->bad, 1, memory_order_relaxed);
            return;
        }
}

int imagine__ref_finite(imagine__run *run, const float *x, int64_t n)
{
    finite_job g = {x, n, 0};
    imagine__parallel(run, tiles(n), finite_tile, &g);
    return !atomic_load_explicit(&g.bad, memory_order_relaxed);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

typedef struct to_u8_job {
    const float *x;
    uint8_t *y;
    int64_t n;
} to_u8_job;

static void to_u8_tile(void *arg, int64_t tile, void *scratch)
{
    const to_u8_job *g = arg;
    int64_t end;
    (void)scratch;
    for (int64_t i = tile_span(tile, g->n, &end); i < end; i++) {
        float v = g->x[i] > -1 ? g->x[i] : -1; /* also for a NaN */
        v = v < 1 ? v : 1;
        g->y[i] = (uint8_t)rintf((v + 1) * 127.5f);
    }
}

void imagine__ref_to_u8(imagine__run *run, const float *x, uint8_t *y, int64_t n)
{
    to_u8_job g = {x, y, n};
    imagine__parallel(run, tiles(n), to_u8_tile, &g);
}

typedef struct from_u8_job {
    const uint8_t *x;
    float *y;
    int64_t n;
} from_u8_job;

static void from_u8_tile(void *arg, int64_t tile, void *scratch)
{
    const from_u8_job *g = arg;
    int64_t end;
    (void)scratch;
    for (int64_t i = tile_span(tile, g->n, &end); i < end; i++)
        g->y[i] = g->x[i] / 127.5f - 1;
}

void imagine__ref_from_u8(imagine__run *run, const uint8_t *x, float *y, int64_t n)
{
    from_u8_job g = {x, y, n};
    imagine__parallel(run, tiles(n), from_u8_tile, &g);
}
