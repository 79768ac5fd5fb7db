/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/internal.cuh"

/* What a step of the sampler does to latents, beside combine(): so that no step of a run with known latents or rescaled guidance
 * has to go through the host. */

#define THREADS 256
#define GRID 8192 /* blocks at most: they go over larger tensors in strides */

static unsigned blocks_for(int64_t values)
{
    int64_t blocks = (values + THREADS - 1) / THREADS;
    return (unsigned)(blocks < GRID ? blocks : GRID);
}

IMAGINE__INLINE int64_t first_value()
{
    return (int64_t)blockIdx.x * THREADS + threadIdx.x;
}

IMAGINE__INLINE int64_t value_step()
{
    return (int64_t)gridDim.x * THREADS;
}

/* ---- keep -------------------------------------------------------------------------------------------------------- */

/* Rounded as the specification rounds: the same bytes as on the CPU. */
__global__ void __launch_bounds__(THREADS) keep_kernel(imagine__keep_args a)
{
    for (int64_t i = first_value(); i < a.planes * a.count; i += value_step()) {
        int64_t plane = i / a.count, at = i % a.count;
        if (a.mask && a.mask[at / a.mask_step] != 1)
            continue;
        float value = a.known[plane * a.known_plane + at];
        if (a.noise)
            value = add(multiply(1 - a.sigma, value), multiply(a.sigma, a.noise[plane * a.x_plane + at]));
        a.x[plane * a.x_plane + at] = value;
    }
}

int imagine__cuda_keep(const imagine__keep_args *a, void *stream)
{
    if (a->planes <= 0 || a->count <= 0)
        return 0;
    return launch(keep_kernel, blocks_for(a->planes * a->count), THREADS, 0, stream, *a);
}

/* ---- spread and rescale ------------------------------------------------------------------------------------------ */

#define SPREAD_THREADS 512

struct spread_shared {
    double sum[SPREAD_THREADS], squares[SPREAD_THREADS];
};

/* A block for a row: there are as many as clips, and each is read once. Sums of every 512th value, then of two at a time. */
__global__ void __launch_bounds__(SPREAD_THREADS) spread_kernel(const float *x, int64_t n, double *y)
{
    spread_shared *s = (spread_shared *)dynamic_shared();
    const float *row = x + (int64_t)blockIdx.x * n;
    unsigned t = threadIdx.x;
    double sum = 0, squares = 0;
    for (int64_t i = t; i < n; i += SPREAD_THREADS) {
        double value = row[i];
        sum += value;
        squares += value * value;
    }
    s->sum[t] = sum;
    s->squares[t] = squares;
    for (unsigned half = SPREAD_THREADS / 2; half; half /= 2) {
        sync_block();
        if (t < half) {
            s->sum[t] += s->sum[t + half];
            s->squares[t] += s->squares[t + half];
        }
    }
    if (t == 0) {
        double rest = s->squares[0] - s->sum[0] * s->sum[0] / (double)n;
        y[blockIdx.x] = rest > 0 ? sqrt(rest) : 0;
    }
}

int imagine__cuda_spread(const float *x, int64_t rows, int64_t n, double *y, void *stream)
{
    if (rows <= 0 || n <= 0)
        return 0;
    if (rows > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    return launch(spread_kernel, (unsigned)rows, SPREAD_THREADS, sizeof(spread_shared), stream, x, n, y);
}

/* blockIdx.y is the row. */
__global__ void __launch_bounds__(THREADS) rescale_kernel(float *x, int64_t n, const double *from, const double *to, double share)
{
    int64_t row = blockIdx.y;
    float factor = from[row] > 0 ? (float)(share * (to[row] / from[row]) + (1 - share)) : 1, *values = x + row * n;
    for (int64_t i = first_value(); i < n; i += value_step())
        values[i] *= factor;
}

int imagine__cuda_rescale(float *x, int64_t rows, int64_t n, const double *from, const double *to, double share, void *stream)
{
    if (rows <= 0 || n <= 0)
        return 0;
    if (rows > 65535)
        return IMAGINE__CUDA_INVALID;
    return launch(rescale_kernel, dim3(blocks_for(n), (unsigned)rows), THREADS, 0, stream, x, n, from, to, share);
}
