/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/peak.cuh"

/* What the device's units reach on registers alone: the roof that the operations are held against. */

#define THREADS 256
#define CHAINS 8 /* independent of each other, so that no unit waits for a result */

__global__ void __launch_bounds__(THREADS) fma_kernel(int64_t steps, float *out)
{
    float sum[CHAINS], factor = 0.999f + 1e-6f * (float)threadIdx.x, total = 0;
#pragma unroll
    for (int i = 0; i < CHAINS; i++)
        sum[i] = (float)i;
    for (int64_t step = 0; step < steps; step++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++)
            sum[i] = sum[i] * factor + 1.0f;
#pragma unroll
    for (int i = 0; i < CHAINS; i++)
        total += sum[i];
    keep_result(total, out);
}

__global__ void __launch_bounds__(THREADS) product_kernel(int64_t steps, float *out)
{
    float sum[CHAINS][4] = {}, total = 0;
    uint32_t a[4], b[2];
    for (unsigned i = 0; i < 4; i++)
        a[i] = some_pair(threadIdx.x * 4 + i);
    for (unsigned i = 0; i < 2; i++)
        b[i] = some_pair(threadIdx.x * 2 + i + 5000);
    for (int64_t step = 0; step < steps; step++)
#pragma unroll
        for (int i = 0; i < CHAINS; i++)
            multiply_16x8x16(sum[i], a, b[0], b[1]);
#pragma unroll
    for (int i = 0; i < CHAINS; i++)
        total += sum[i][0] + sum[i][1] + sum[i][2] + sum[i][3];
    keep_result(total, out);
}

int imagine__cuda_peak(imagine__cuda_precision precision, int64_t steps, float *out, double *operations, void *stream)
{
    const unsigned blocks = IMAGINE__BODY(IMAGINE__CUDA_PEAK_BLOCKS, 2);
    double each = 2.0 * CHAINS * THREADS; /* a multiply-add a thread, or 16 x 8 x 16 of them a warp */
    if (precision == IMAGINE__CUDA_BF16 && device_capability() == 90)
        return imagine__cuda_peak_hopper(steps, out, operations, stream);
    if (precision == IMAGINE__CUDA_BF16)
        each *= 16 * 8 * 16 / 32;
    *operations = each * (double)blocks * (double)steps;
    return launch(precision == IMAGINE__CUDA_BF16 ? product_kernel : fma_kernel, blocks, THREADS, 0, stream, steps, out);
}
