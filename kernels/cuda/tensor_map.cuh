/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CUDA_TENSOR_MAP_CUH
#define IMAGINE_KERNELS_CUDA_TENSOR_MAP_CUH

#include "kernels/cuda/primitives.cuh"

#ifndef IMAGINE__EMULATED
#include <cuda.h>
#endif

/* Describes a tensor of bf16 to the copy engine: extents in elements, the dense dimension first; strides of dimensions 1 to
 * 3 in bytes, multiples of 16, as is the base; a box of up to 64 x 256 x ... elements, whose lines of 128 bytes lie swizzled
 * in shared memory. 0, or an error number. */
static inline int make_tensor_map(tensor_map *map, const void *base, const uint64_t extent[4], const uint64_t stride[4],
                                  const uint32_t box[4])
{
#ifdef IMAGINE__EMULATED
    *map = {};
    map->base = (unsigned char *)base;
    map->swizzle = 1;
    for (int i = 0; i < 4; i++) {
        map->extent[i] = (uint32_t)extent[i];
        map->stride[i] = i ? stride[i] : 0;
        map->box[i] = box[i];
    }
    return 0;
#else
    /* The driver's function, found at run time: the module is not linked with the driver. */
    void *found = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    if (status != cudaSuccess)
        return (int)status;
    if (result != cudaDriverEntryPointSuccess || !found)
        return (int)cudaErrorNotSupported;
    static_assert(sizeof(CUtensorMap) == sizeof(tensor_map), "the driver's tensor map");
    const cuuint32_t every[4] = {1, 1, 1, 1};
    auto encode = (decltype(&cuTensorMapEncodeTiled))found;
    CUresult made = encode((CUtensorMap *)map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, (void *)base, (const cuuint64_t *)extent,
                           (const cuuint64_t *)(stride + 1), box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
                           CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                           CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return made == CUDA_SUCCESS ? 0 : (int)cudaErrorInvalidValue;
#endif
}

#endif
