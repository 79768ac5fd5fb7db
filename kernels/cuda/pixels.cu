/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/internal.cuh"

#define THREADS 256

/* Values that only move. */

/* ---- upsample ---------------------------------------------------------------------------------------------------- */

/* A block writes pixels of one output row; 16 bytes at a time where the channels allow it. */
template <class T>
__global__ void __launch_bounds__(THREADS) enlarge_kernel(const T *x, T *y, int64_t height, int64_t width, int64_t channels,
                                                          enlarged_area area)
{
    int64_t frame = blockIdx.x / area.height, row = area.top + blockIdx.x % area.height;
    const T *from = x + (frame * height + row / 2) * width * channels;
    T *to = y + (int64_t)blockIdx.x * area.width * channels;
    for (int64_t i = threadIdx.x; i < area.width * channels; i += THREADS)
        to[i] = from[(area.left + i / channels) / 2 * channels + i % channels];
}

int imagine__cuda_enlarge(const void *x, void *y, int64_t frames, int64_t height, int64_t width, int64_t channels,
                          imagine__cuda_type type, const enlarged_area &area, void *stream)
{
    int64_t bytes = channels * (type == IMAGINE__W_F32 ? 4 : 2);
    if (frames <= 0 || area.height <= 0 || area.width <= 0 || channels <= 0)
        return 0;
    unsigned blocks = (unsigned)(frames * area.height);
    if (bytes % 16 == 0 && (uintptr_t)x % 16 == 0 && (uintptr_t)y % 16 == 0)
        return launch(enlarge_kernel<uint4>, blocks, THREADS, 0, stream, (const uint4 *)x, (uint4 *)y, height, width, bytes / 16,
                      area);
    if (type == IMAGINE__W_F32)
        return launch(enlarge_kernel<uint32_t>, blocks, THREADS, 0, stream, (const uint32_t *)x, (uint32_t *)y, height, width,
                      channels, area);
    return launch(enlarge_kernel<uint16_t>, blocks, THREADS, 0, stream, (const uint16_t *)x, (uint16_t *)y, height, width,
                  channels, area);
}

int imagine__cuda_upsample(const void *x, void *y, int64_t frames, int64_t height, int64_t width, int64_t channels,
                           imagine__cuda_type type, void *stream)
{
    return imagine__cuda_enlarge(x, y, frames, height, width, channels, type, {0, 0, 2 * height, 2 * width}, stream);
}

/* ---- pixels ------------------------------------------------------------------------------------------------------ */

/* A thread has one value of the output, whichever side that is. */
__global__ void __launch_bounds__(THREADS) pixels_kernel(imagine__pixels_args a, int64_t count)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, patch = a.patch, line = a.width * patch * 3;
    if (i >= count)
        return;
    if (a.join) {
        int64_t row = i / line, column = i % line / 3, colour = i % 3;
        int64_t from = (row / patch * a.width + column / patch) * 3 * patch * patch;
        a.y[i] = a.x[from + (colour * patch + column % patch) * patch + row % patch];
    } else {
        int64_t values = 3 * patch * patch, at = i % values, row = i / values / a.width, column = i / values % a.width;
        a.y[i] = a.x[(row * patch + at % patch) * line + (column * patch + at / patch % patch) * 3 + at / (patch * patch)];
    }
}

int imagine__cuda_pixels(const imagine__pixels_args *a, void *stream)
{
    int64_t count = a->height * a->width * 3 * a->patch * a->patch, blocks = (count + THREADS - 1) / THREADS;
    if (a->height <= 0 || a->width <= 0)
        return 0;
    if (blocks > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    return launch(pixels_kernel, (unsigned)blocks, THREADS, 0, stream, *a, count);
}

/* ---- relative_bias ----------------------------------------------------------------------------------------------- */

/* A block writes one row of one head. */
__global__ void __launch_bounds__(THREADS) relative_bias_kernel(imagine__relative_bias_args a)
{
    int64_t head = blockIdx.x / a.tokens, i = blockIdx.x % a.tokens;
    for (int64_t j = threadIdx.x; j < a.tokens; j += THREADS)
        a.y[blockIdx.x * a.tokens + j] = a.table[a.buckets[j - i + a.tokens - 1] * a.all_heads + a.first + head];
}

int imagine__cuda_relative_bias(const imagine__relative_bias_args *a, void *stream)
{
    if (a->tokens <= 0 || a->heads <= 0)
        return 0;
    if (a->tokens * a->heads > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    return launch(relative_bias_kernel, (unsigned)(a->tokens * a->heads), THREADS, 0, stream, *a);
}
