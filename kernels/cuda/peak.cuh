/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CUDA_PEAK_CUH
#define IMAGINE_KERNELS_CUDA_PEAK_CUH

#include "kernels/cuda/internal.cuh"

/* As imagine__cuda_peak for the tensor cores of compute capability 9.0. */
int imagine__cuda_peak_hopper(int64_t steps, float *out, double *operations, void *stream);

/* A pair of bf16 numbers of about 1/64, either sign: zeros would take less power, and so run faster. */
IMAGINE__INLINE uint32_t some_pair(unsigned number)
{
    unsigned bits = (number + 1) * 2654435761u;
    return (bits & 0x807f807fu) | 0x3c803c80u;
}

/* Every thread's result counts as used, and one of a block is written. */
IMAGINE__INLINE void keep_result(float value, float *out)
{
    if (threadIdx.x == 0 || value == 1.2345e30f)
        out[blockIdx.x] = value;
}

#endif
