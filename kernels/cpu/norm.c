/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

static int64_t rows_per_tile(int64_t rows, int64_t dim)
{
    int64_t n = 32768 / dim;
    return n < 1 ? 1 : n > rows ? rows : n;
}

/* ---- sums of a row, in four vectors ------------------------------------------------------------------------------ */

static float sum(const float *x, int64_t n)
{
    vec s[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
    int64_t i = 0;
    for (; i + 4 * VEC_LANES <= n; i += 4 * VEC_LANES)
        for (int j = 0; j < 4; j++)
            s[j] = vec_add(s[j], vec_load(x + i + j * VEC_LANES));
    for (; i + VEC_LANES <= n; i += VEC_LANES)
        s[0] = vec_add(s[0], vec_load(x + i));
    if (i < n)
        s[1] = vec_add(s[1], vec_load_n(x + i, vec_first(n - i)));
    return vec_sum(vec_add(vec_add(s[0], s[1]), vec_add(s[2], s[3])));
}

/* The sum of (x - mean)^2. */
static float sum_squares(const float *x, int64_t n, float mean)
{
    vec s[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()}, m = vec_set1(mean);
    int64_t i = 0;
    for (; i + 4 * VEC_LANES <= n; i += 4 * VEC_LANES)
        for (int j = 0; j < 4; j++) {
            vec v = vec_sub(vec_load(x + i + j * VEC_LANES), m);
            s[j] = vec_fma(v, v, s[j]);
        }
    for (; i + VEC_LANES <= n; i += VEC_LANES) {
        vec v = vec_sub(vec_load(x + i), m);
        s[0] = vec_fma(v, v, s[0]);
    }
    if (i < n) {
        vec_mask rest = vec_first(n - i);
        vec v = vec_keep(rest, vec_sub(vec_load_n(x + i, rest), m));
        s[1] = vec_fma(v, v, s[1]);
    }
    return vec_sum(vec_add(vec_add(s[0], s[1]), vec_add(s[2], s[3])));
}

/* ---- norm -------------------------------------------------------------------------------------------------------- */

typedef struct norm_job {
    const imagine__norm_args *a;
    int64_t rows_per_tile;
} norm_job;

/* A row: norm(x) without weight and bias is (x - mean) * factor. */
typedef struct norm_row {
    const float *x, *scale, *shift;
    float *y;
    float mean, factor;
} norm_row;

static void statistics(const imagine__norm_args *a, norm_row *r)
{
    double dim = (double)a->dim;
    r->mean = a->kind == IMAGINE__NORM_LAYER ? (float)(sum(r->x, a->dim) / dim) : 0;
    double squares = sum_squares(r->x, a->dim, r->mean);
    if (a->kind == IMAGINE__NORM_L2) {
        double length = sqrt(squares);
        r->factor = (float)(sqrt(dim) / (length < a->eps ? a->eps : length)); /* a NaN stays */
    } else {
        r->factor = (float)(1 / sqrt(squares / dim + a->eps));
    }
}

VEC vec load_at(const float *p, int whole, vec_mask mask)
{
    return whole ? vec_load(p) : vec_load_n(p, mask);
}

/* Values i.. of a row: VEC_LANES when `whole`, else those of the mask. */
VEC void norm_values(const imagine__norm_args *a, const norm_row *r, int64_t i, int whole, vec_mask mask)
{
    vec v = vec_mul(vec_sub(load_at(r->x + i, whole, mask), vec_set1(r->mean)), vec_set1(r->factor));
    if (a->weight)
        v = vec_mul(v, load_at(a->weight + i, whole, mask));
    if (a->bias)
        v = vec_add(v, load_at(a->bias + i, whole, mask));
    if (r->scale) {
        vec scale = vec_add(load_at(r->scale + i, whole, mask), vec_set1(1));
        v = vec_fma(v, scale, load_at(r->shift + i, whole, mask));
    }
    if (a->act != IMAGINE__ACT_NONE)
        v = vec_act(v, a->act);
    if (whole)
        vec_store(r->y + i, v);
    else
        vec_store_n(r->y + i, mask, v);
}

static void norm_tile(void *arg, int64_t tile, void *scratch)
{
    const norm_job *g = arg;
    const imagine__norm_args *a = g->a;
    int64_t first = tile * g->rows_per_tile;
    vec_mask none = vec_first(0), rest = vec_first(a->dim % VEC_LANES);
    (void)scratch;
    for (int64_t row = first; row < a->rows && row < first + g->rows_per_tile; row++) {
        norm_row r = {.x = a->x + row * a->ldx, .y = (float *)a->y + row * a->ldy};
        if (a->scale) {
            r.scale = a->scale + row / a->group * a->ld_mod;
            r.shift = a->shift + row / a->group * a->ld_mod;
        }
        statistics(a, &r);
        int64_t i = 0;
        for (; i + VEC_LANES <= a->dim; i += VEC_LANES)
            norm_values(a, &r, i, 1, none);
        if (i < a->dim)
            norm_values(a, &r, i, 0, rest);
    }
}

void IMAGINE__ISA(norm)(imagine__run *run, const imagine__norm_args *a)
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

static void normalise(float *x, const float *weight, int64_t dim, float eps)
{
    float factor = (float)(1 / sqrt((double)sum_squares(x, dim, 0) / (double)dim + eps));
    vec f = vec_set1(factor);
    int64_t i = 0;
    for (; i + VEC_LANES <= dim; i += VEC_LANES)
        vec_store(x + i, vec_mul(vec_mul(vec_load(x + i), f), vec_load(weight + i)));
    for (; i < dim; i++)
        x[i] = x[i] * factor * weight[i];
}

static void rotate_head(float *x, const float *cosine, const float *sine, int64_t pairs)
{
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    int64_t i = 0;
    for (; i + 4 <= pairs; i += 4) {
        __m256 v = _mm256_loadu_ps(x + 2 * i), swapped = _mm256_permute_ps(v, 0xb1);
        __m256 c = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(cosine + i)), twice);
        __m256 s = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(sine + i)), twice);
        _mm256_storeu_ps(x + 2 * i, _mm256_fmaddsub_ps(v, c, _mm256_mul_ps(swapped, s)));
    }
    for (; i < pairs; i++) {
        float p = x[2 * i], q = x[2 * i + 1];
        x[2 * i] = p * cosine[i] - q * sine[i];
        x[2 * i + 1] = p * sine[i] + q * cosine[i];
    }
}

static void norm_rope_row(const imagine__norm_rope_args *a, float *x, const float *weight, int64_t row)
{
    int64_t pairs = a->d / 2, at = a->cos_table ? row % a->positions * pairs : 0;
    x += row * a->ldx;
    if (weight)
        normalise(x, weight, a->heads * a->d, a->eps);
    for (int64_t h = 0; h < a->heads && a->cos_table; h++)
        rotate_head(x + h * a->d, a->cos_table + at, a->sin_table + at, pairs);
}

static void norm_rope_tile(void *arg, int64_t tile, void *scratch)
{
    const rope_job *g = arg;
    const imagine__norm_rope_args *a = g->a;
    int64_t first = tile * g->rows_per_tile;
    (void)scratch;
    for (int64_t row = first; row < a->rows && row < first + g->rows_per_tile; row++) {
        norm_rope_row(a, a->x, a->weight, row);
        if (a->second)
            norm_rope_row(a, a->second, a->second_weight, row);
    }
}

void IMAGINE__ISA(norm_rope)(imagine__run *run, const imagine__norm_rope_args *a)
{
    if (a->rows <= 0 || a->heads <= 0 || a->d <= 0)
        return;
    rope_job g = {a, rows_per_tile(a->rows, a->heads * a->d)};
    imagine__parallel(run, (a->rows + g.rows_per_tile - 1) / g.rows_per_tile, norm_rope_tile, &g);
}
