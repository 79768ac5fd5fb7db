/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "kernels/ref/ref.h"

/* One row at a time. Scores are computed twice (for the maximum, then for the weights), so that no memory grows with
 * the number of keys; only the output row is held, in double and in slices when the scratch is too small for it. */

typedef struct job {
    const imagine__attention_args *a;
    int64_t rows_per_tile, tiles_per_head, slice; /* slice: how much of an output row is summed at once */
} job;

/* Four partial sums, because one chain of additions would wait for itself. */
static double dot(const float *x, const float *y, int64_t n)
{
    double s[4] = {0, 0, 0, 0};
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int j = 0; j < 4; j++)
            s[j] += (double)x[i + j] * y[i + j];
    for (; i < n; i++)
        s[0] += (double)x[i] * y[i];
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* Where token j of a clip's keys or values begins. */
static int64_t place_of(const imagine__attention_args *a, int64_t clip, int64_t j, int64_t batch, int64_t token, int64_t block)
{
    if (!a->kv_blocks)
        return clip * batch + j * token;
    return a->kv_blocks[clip * a->blocks_batch + j / a->kv_block] * block + j % a->kv_block * token;
}

/* Of q and key j at `k`. */
static double score(const imagine__attention_args *a, const float *q, const float *k, const float *bias, int64_t j)
{
    double s = a->scale * dot(q, k, a->d);
    return bias ? s + bias[j] : s;
}

static void attend_row(const job *g, int64_t batch, int64_t head, int64_t row, double *acc)
{
    const imagine__attention_args *a = g->a;
    int64_t kv = a->kv_length ? a->kv_length[batch] : a->kv;
    const float *q = (const float *)a->q + batch * a->q_batch + row * a->q_token + head * a->d;
    const float *k = (const float *)a->k + head * a->d, *v = (const float *)a->v + head * a->d;
    const float *bias = a->bias ? a->bias + (head * a->tokens + row) * a->kv : NULL;
    float *y = (float *)a->y + batch * a->y_batch + row * a->y_token + head * a->d;
    double max = -INFINITY;
    for (int64_t j = 0; j < kv; j++) {
        double s = score(a, q, k + place_of(a, batch, j, a->k_batch, a->k_token, a->k_block), bias, j);
        max = s > max ? s : max; /* a NaN is passed over here and comes back in its weight */
    }
    for (int64_t first = 0; first < a->d; first += g->slice) {
        int64_t count = a->d - first < g->slice ? a->d - first : g->slice;
        double sum = 0;
        for (int64_t i = 0; i < count; i++)
            acc[i] = 0;
        for (int64_t j = 0; j < kv; j++) {
            double p = exp(score(a, q, k + place_of(a, batch, j, a->k_batch, a->k_token, a->k_block), bias, j) - max);
            const float *value = v + place_of(a, batch, j, a->v_batch, a->v_token, a->v_block) + first;
            sum += p;
            for (int64_t i = 0; i < count; i++)
                acc[i] += p * value[i];
        }
        for (int64_t i = 0; i < count; i++)
            y[first + i] = (float)(acc[i] / sum);
    }
}

static void attention_tile(void *arg, int64_t tile, void *scratch)
{
    const job *g = arg;
    const imagine__attention_args *a = g->a;
    int64_t batch = tile / g->tiles_per_head / a->heads, head = tile / g->tiles_per_head % a->heads;
    int64_t first = tile % g->tiles_per_head * g->rows_per_tile;
    for (int64_t row = first; row < a->tokens && row < first + g->rows_per_tile; row++)
        attend_row(g, batch, head, row, scratch);
}

void imagine__ref_attention(imagine__run *run, const imagine__attention_args *a)
{
    if (a->tokens <= 0 || a->kv <= 0 || a->d <= 0)
        return;
    int64_t rows = ((int64_t)1 << 21) / (a->kv * (a->d + 16)); /* 2^21 steps of about 3 ns are 6 ms */
    rows = rows < 1 ? 1 : rows > a->tokens ? a->tokens : rows;
    int64_t slice = (int64_t)(IMAGINE__SCRATCH / sizeof(double));
    job g = {a, rows, (a->tokens + rows - 1) / rows, a->d < slice ? a->d : slice};
    imagine__parallel(run, a->batch * a->heads * g.tiles_per_head, attention_tile, &g);
}
