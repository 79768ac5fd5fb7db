/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/internal.cuh"

#define THREADS 256
#define TERMS 8

/* Four values a thread; a grid of at most GRID blocks goes over larger tensors in strides. */
#define GRID 8192

static unsigned blocks_for(int64_t values)
{
    int64_t blocks = (values + 4 * THREADS - 1) / (4 * THREADS);
    return (unsigned)(blocks < GRID ? blocks : GRID);
}

IMAGINE__INLINE int64_t first_value()
{
    return 4 * ((int64_t)blockIdx.x * THREADS + threadIdx.x);
}

IMAGINE__INLINE int64_t value_step()
{
    return 4 * (int64_t)gridDim.x * THREADS;
}

IMAGINE__INLINE unsigned count_at(int64_t i, int64_t n)
{
    return n - i < 4 ? (unsigned)(n - i) : 4;
}

/* ---- activate ---------------------------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(THREADS) activate_kernel(const void *x, imagine__cuda_type x_type, void *y,
                                                           imagine__cuda_type y_type, int64_t n, imagine__act act,
                                                           bool aligned)
{
    for (int64_t i = first_value(); i < n; i += value_step()) {
        float v[4];
        unsigned count = count_at(i, n);
        load4(x, x_type, i, count, aligned, v);
        for (unsigned j = 0; j < 4; j++)
            v[j] = activation(v[j], act);
        store4(y, y_type, i, count, aligned, v);
    }
}

int imagine__cuda_activate(const void *x, imagine__cuda_type x_type, void *y, imagine__cuda_type y_type, int64_t n,
                           imagine__act act, void *stream)
{
    if (n <= 0)
        return 0;
    bool aligned = in_fours(x, x_type, 0) && in_fours(y, y_type, 0);
    return launch(activate_kernel, blocks_for(n), THREADS, 0, stream, x, x_type, y, y_type, n, act, aligned);
}

/* ---- embed ------------------------------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(THREADS) embed_kernel(const void *table, imagine__wtype type, const int32_t *ids,
                                                        int64_t dim, void *y, imagine__cuda_type y_type, bool aligned)
{
    int64_t row = blockIdx.x, from = (int64_t)ids[row] * dim;
    for (int64_t i = 4 * (int64_t)threadIdx.x; i < dim; i += 4 * THREADS) {
        float v[4];
        unsigned count = count_at(i, dim);
        load4(table, type, from + i, count, aligned, v);
        store4(y, y_type, row * dim + i, count, aligned, v);
    }
}

int imagine__cuda_embed(const void *table, imagine__wtype type, const int32_t *ids, int64_t count, int64_t dim, void *y,
                        imagine__cuda_type y_type, void *stream)
{
    if (count <= 0 || dim <= 0)
        return 0;
    bool aligned = in_fours(table, type, dim) && in_fours(y, y_type, dim);
    return launch(embed_kernel, (unsigned)count, THREADS, 0, stream, table, type, ids, dim, y, y_type, aligned);
}

/* ---- combine ----------------------------------------------------------------------------------------------------- */

struct combine_args {
    float coefficient[TERMS];
    const float *x[TERMS];
};

/* Each step one rounding, as the specification has it: the same bytes as on the CPU. */
__global__ void __launch_bounds__(THREADS) combine_kernel(combine_args a, int32_t terms, float *y, int64_t n, bool aligned)
{
    for (int64_t i = first_value(); i < n; i += value_step()) {
        float sum[4] = {}, v[4];
        unsigned count = count_at(i, n);
#pragma unroll
        for (int32_t t = 0; t < TERMS; t++) {
            if (t >= terms)
                break;
            load4(a.x[t], IMAGINE__W_F32, i, count, aligned, v);
            for (unsigned j = 0; j < 4; j++)
                sum[j] = t ? add(sum[j], multiply(a.coefficient[t], v[j])) : multiply(a.coefficient[t], v[j]);
        }
        store4(y, IMAGINE__W_F32, i, count, aligned, sum);
    }
}

int imagine__cuda_combine(int32_t terms, const float *coefficient, const float *const *x, float *y, int64_t n, void *stream)
{
    combine_args a = {};
    bool aligned = in_fours(y, IMAGINE__W_F32, 0);
    if (n <= 0)
        return 0;
    for (int32_t t = 0; t < terms && t < TERMS; t++) {
        a.coefficient[t] = coefficient[t];
        a.x[t] = x[t];
        aligned &= in_fours(x[t], IMAGINE__W_F32, 0);
    }
    return launch(combine_kernel, blocks_for(n), THREADS, 0, stream, a, terms, y, n, aligned);
}

/* ---- transpose --------------------------------------------------------------------------------------------------- */

#define BLOCK 32

struct transpose_shared {
    float tile[BLOCK][BLOCK + 1]; /* one more, so that a column lies in different banks */
};

__global__ void __launch_bounds__(THREADS) transpose_kernel(const float *x, float *y, int64_t rows, int64_t columns)
{
    transpose_shared *s = (transpose_shared *)dynamic_shared();
    int64_t across = (columns + BLOCK - 1) / BLOCK;
    int64_t row = blockIdx.x / across * BLOCK, column = blockIdx.x % across * BLOCK;
    unsigned lane = threadIdx.x % BLOCK;
    for (unsigned i = threadIdx.x / BLOCK; i < BLOCK; i += THREADS / BLOCK)
        if (row + i < rows && column + lane < columns)
            s->tile[i][lane] = x[(row + i) * columns + column + lane];
    sync_block();
    for (unsigned i = threadIdx.x / BLOCK; i < BLOCK; i += THREADS / BLOCK)
        if (column + i < columns && row + lane < rows)
            y[(column + i) * rows + row + lane] = s->tile[lane][i];
}

int imagine__cuda_transpose(const float *x, float *y, int64_t rows, int64_t columns, void *stream)
{
    if (rows <= 0 || columns <= 0)
        return 0;
    int64_t blocks = (rows + BLOCK - 1) / BLOCK * ((columns + BLOCK - 1) / BLOCK);
    return launch(transpose_kernel, (unsigned)blocks, THREADS, sizeof(transpose_shared), stream, x, y, rows, columns);
}

/* ---- finite ------------------------------------------------------------------------------------------------------ */

__global__ void clear_kernel(uint32_t *word)
{
    *word = 0;
}

__global__ void __launch_bounds__(THREADS) finite_kernel(const float *x, int64_t n, uint32_t *bad, bool aligned)
{
    bool found = false;
    for (int64_t i = first_value(); i < n; i += value_step()) {
        float v[4];
        load4(x, IMAGINE__W_F32, i, count_at(i, n), aligned, v);
        for (unsigned j = 0; j < 4; j++)
            found |= (float_bits(v[j]) & 0x7f800000u) == 0x7f800000u;
    }
    if (vote_any(found) && threadIdx.x % 32 == 0)
        atomic_or(bad, 1u);
}

int imagine__cuda_finite(const float *x, int64_t n, uint32_t *bad, void *stream)
{
    int status = launch(clear_kernel, 1, 1, 0, stream, bad);
    if (status || n <= 0)
        return status;
    return launch(finite_kernel, blocks_for(n), THREADS, 0, stream, x, n, bad, in_fours(x, IMAGINE__W_F32, 0));
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(THREADS) to_u8_kernel(const float *x, uint8_t *y, int64_t n, bool aligned)
{
    for (int64_t i = first_value(); i < n; i += value_step()) {
        float v[4];
        unsigned count = count_at(i, n);
        uint32_t bytes = 0;
        load4(x, IMAGINE__W_F32, i, count, aligned, v);
        for (unsigned j = 0; j < 4; j++) {
            float clamped = v[j] > -1 ? v[j] : -1; /* also for a NaN */
            clamped = clamped < 1 ? clamped : 1;
            bytes |= (uint32_t)rintf(multiply(add(clamped, 1), 127.5f)) << 8 * j;
        }
        if (aligned && count == 4)
            *(uint32_t *)(y + i) = bytes;
        else
            for (unsigned j = 0; j < count; j++)
                y[i + j] = (uint8_t)(bytes >> 8 * j);
    }
}

int imagine__cuda_to_u8(const float *x, uint8_t *y, int64_t n, void *stream)
{
    bool aligned = in_fours(x, IMAGINE__W_F32, 0) && (uintptr_t)y % 4 == 0;
    return n <= 0 ? 0 : launch(to_u8_kernel, blocks_for(n), THREADS, 0, stream, x, y, n, aligned);
}

__global__ void __launch_bounds__(THREADS) from_u8_kernel(const uint8_t *x, float *y, int64_t n)
{
    for (int64_t i = first_value() / 4; i < n; i += value_step() / 4)
        y[i] = add(x[i] / 127.5f, -1);
}

int imagine__cuda_from_u8(const uint8_t *x, float *y, int64_t n, void *stream)
{
    return n <= 0 ? 0 : launch(from_u8_kernel, blocks_for(n), THREADS, 0, stream, x, y, n);
}

/* ---- modulate ---------------------------------------------------------------------------------------------------- */

/* A block adds one part of one row. */
__global__ void __launch_bounds__(THREADS) modulate_kernel(imagine__modulate_args a, bool aligned)
{
    int64_t row = blockIdx.x / a.parts, part = blockIdx.x % a.parts;
    for (int64_t i = 4 * (int64_t)threadIdx.x; i < a.dim; i += 4 * THREADS) {
        float v[4], x[4];
        unsigned count = count_at(i, a.dim);
        load4(a.table, IMAGINE__W_F32, part * a.dim + i, count, aligned, v);
        load4(a.x, IMAGINE__W_F32, (row * a.x_parts + part % a.x_parts) * a.dim + i, count, aligned, x);
        for (unsigned j = 0; j < 4; j++)
            v[j] += x[j];
        store4(a.y, IMAGINE__W_F32, (int64_t)blockIdx.x * a.dim + i, count, aligned, v);
    }
}

int imagine__cuda_modulate(const imagine__modulate_args *a, void *stream)
{
    if (a->rows <= 0 || a->parts <= 0 || a->dim <= 0)
        return 0;
    if (a->rows * a->parts > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    bool aligned = in_fours(a->table, IMAGINE__W_F32, a->dim) && in_fours(a->x, IMAGINE__W_F32, a->dim) &&
                   in_fours(a->y, IMAGINE__W_F32, a->dim);
    return launch(modulate_kernel, (unsigned)(a->rows * a->parts), THREADS, 0, stream, *a, aligned);
}

/* ---- snake ------------------------------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(THREADS) snake_kernel(const float *x, const float *alpha, const float *beta, float *y,
                                                        int64_t n, int64_t channels)
{
    for (int64_t i = first_value() / 4; i < n; i += value_step() / 4) {
        int64_t c = i % channels;
        float wave = sinf(alpha[c] * x[i]);
        y[i] = x[i] + wave * wave / beta[c];
    }
}

int imagine__cuda_snake(const float *x, const float *alpha, const float *beta, float *y, int64_t rows, int64_t channels,
                        void *stream)
{
    int64_t n = rows * channels;
    if (rows <= 0 || channels <= 0)
        return 0;
    return launch(snake_kernel, blocks_for(n), THREADS, 0, stream, x, alpha, beta, y, n, channels);
}
