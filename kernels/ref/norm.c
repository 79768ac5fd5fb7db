/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "kernels/ref/ref.h"

static int64_t rows_per_tile(int64_t rows, int64_t dim)
{
    int64_t n = 65536 / dim;
    return n < 1 ? 1 : n > rows ? rows : n;
}

/* ---- norm -------------------------------------------------------------------------------------------------------- */

typedef struct norm_job {
    const imagine__norm_args *a;
    int64_t rows_per_tile;
} norm_job;

/* norm(x) without weight and bias is (x - mean) * factor. */
static void statistics(const imagine__norm_args *a, const float *x, double *mean, double *factor)
{
    double sum = 0, squares = 0, dim = (double)a->dim;
    *mean = 0;
    if (a->kind == IMAGINE__NORM_LAYER) {
        for (int64_t i = 0; i < a->dim; i++)
            sum += x[i];
        *mean = sum / dim;
    }
    for (int64_t i = 0; i < a->dim; i++)
        squares += (x[i] - *mean) * (x[i] - *mean);
    if (a->kind == IMAGINE__NORM_L2) {
        double length = sqrt(squares);
        *factor = sqrt(dim) / (length < a->eps ? a->eps : length); /* a NaN stays */
    } else {
        *factor = 1 / sqrt(squares / dim + a->eps);
    }
}

static void norm_row(const imagine__norm_args *a, int64_t row)
{
    const float *x = a->x + row * a->ldx;
    float *y = (float *)a->y + row * a->ldy;
    const float *scale = a->scale ? a->scale + row / a->group * a->ld_mod : NULL;
    const float *shift = a->shift ? a->shift + row / a->group * a->ld_mod : NULL;
    double mean, factor;
    statistics(a, x, &mean, &factor);
    for (int64_t i = 0; i < a->dim; i++) {
        double v = (x[i] - mean) * factor;
        if (a->weight)
            v *= a->weight[i];
        if (a->bias)
            v += a->bias[i];
        if (scale)
            v = v * (1.0 + scale[i]) + shift[i];
        y[i] = imagine__ref_act((float)v, a->act);
    }
}

static void norm_tile(void *arg, int64_t tile, void *scratch)
{
    const norm_job *g = arg;
    (void)scratch;
    for (int64_t i = 0; i < g->rows_per_tile; i++) {
        int64_t row = tile * g->rows_per_tile + i;
        if (row < g->a->rows)
            norm_row(g->a, row);
    }
}

void imagine__ref_norm(imagine__run *run, const imagine__norm_args *a)
{
    if (a->rows <= 0 || a->dim <= 0)
        return;
    norm_job g = {a, rows_per_tile(a->rows, a->dim)};
    imagine__parallel(run, (a->rows + g.rows_per_tile - 1) / g.rows_per_tile, norm_tile, &g);
}

/* ---- norm_rope --------------------------------------------------------------------------------------------------- */

typedef struct rope_job {
    const imagine__norm_rope_args *a;
    int64_t rows_per_tile;
} rope_job;

static void rotate_head(float *x, const float *cosine, const float *sine, int64_t pairs)
{
    for (int64_t i = 0; i < pairs; i++) {
        double p = x[2 * i], q = x[2 * i + 1];
        x[2 * i] = (float)(p * cosine[i] - q * sine[i]);
        x[2 * i + 1] = (float)(p * sine[i] + q * cosine[i]);
    }
}

static void norm_rope_row(const imagine__norm_rope_args *a, float *x, const float *weight, int64_t row)
{
    int64_t dim = a->heads * a->d, pairs = a->d / 2;
    x += row * a->ldx;
    if (weight) {
        double squares = 0;
        for (int64_t i = 0; i < dim; i++)
            squares += (double)x[i] * x[i];
        double factor = 1 / sqrt(squares / (double)dim + a->eps);
        for (int64_t i = 0; i < dim; i++)
            x[i] = (float)(x[i] * factor * weight[i]);
    }
    if (!a->cos_table)
        return;
    int64_t position = row % a->positions;
    for (int64_t h = 0; h < a->heads; h++)
        rotate_head(x + h * a->d, a->cos_table + position * pairs, a->sin_table + position * pairs, pairs);
}

static void norm_rope_tile(void *arg, int64_t tile, void *scratch)
{
    const rope_job *g = arg;
    (void)scratch;
    for (int64_t i = 0; i < g->rows_per_tile; i++) {
        int64_t row = tile * g->rows_per_tile + i;
        if (row >= g->a->rows)
            return;
        norm_rope_row(g->a, g->a->x, g->a->weight, row);
        if (g->a->second)
            norm_rope_row(g->a, g->a->second, g->a->second_weight, row);
    }
}

void imagine__ref_norm_rope(imagine__run *run, const imagine__norm_rope_args *a)
{
    if (a->rows <= 0 || a->heads <= 0 || a->d <= 0)
        return;
    rope_job g = {a, rows_per_tile(a->rows, a->heads * a->d)};
    imagine__parallel(run, (a->rows + g.rows_per_tile - 1) / g.rows_per_tile, norm_rope_tile, &g);
}
