/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/peak.cuh"

/* The tensor cores of sm_90a: three warpgroups of a block multiply the same two matrices in shared memory again and again. */

#define GROUPS 3
#define THREADS (GROUPS * 128)
#define ROWS 64
#define COLUMNS 176
#define LINE 64 /* bf16 in a line of 128 bytes */
#define PRODUCTS 16 /* in flight together */

struct operands {
    uint32_t a[ROWS * LINE / 2], b[COLUMNS * LINE / 2];
};

__global__ void __launch_bounds__(THREADS, 1) hopper_peak_kernel(int64_t steps, float *out)
{
    unsigned char *p = (unsigned char *)dynamic_shared();
    operands *o = (operands *)(p + (1024 - shared_address(p) % 1024) % 1024);
    float sum[COLUMNS / 2], total = 0;
    for (unsigned i = threadIdx.x; i < ROWS * LINE / 2; i += THREADS)
        o->a[i] = some_pair(i);
    for (unsigned i = threadIdx.x; i < COLUMNS * LINE / 2; i += THREADS)
        o->b[i] = some_pair(i + 10000);
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++)
        sum[i] = 0;
    fence_async_proxy();
    sync_block();
    uint64_t a = matrix_descriptor(o->a, 16), b = matrix_descriptor(o->b, 16);
    for (int64_t step = 0; step < steps; step++) {
        products_begin();
#pragma unroll
        for (int i = 0; i < PRODUCTS; i++)
            multiply_shared<COLUMNS>(sum, advance(a, i % 4 * 32), advance(b, i % 4 * 32));
        products_commit();
        products_wait<0>(sum);
    }
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++)
        total += sum[i];
    keep_result(total, out);
}

int imagine__cuda_peak_hopper(int64_t steps, float *out, double *operations, void *stream)
{
    const unsigned blocks = IMAGINE__BODY(IMAGINE__CUDA_PEAK_BLOCKS, 2);
    *operations = 2.0 * ROWS * COLUMNS * 16 * PRODUCTS * GROUPS * (double)blocks * (double)steps;
    return launch(hopper_peak_kernel, blocks, THREADS, sizeof(operands) + 1024, stream, steps, out);
}
