/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CUDA_CUBLAS_CUH
#define IMAGINE_KERNELS_CUDA_CUBLAS_CUH

#include <stddef.h>
#include <stdint.h>

/* The part of cuBLASLt's interface that cublas.cu uses, written down so that neither a build nor the emulator needs its
 * header; where the header is there, cublas_check.cu holds this against it. Versions 12 and 13 agree in all of it. */

typedef struct lt_opaque *lt_handle, *lt_descriptor, *lt_layout, *lt_preference;

struct lt_algorithm {
    uint64_t data[8];
};

struct lt_result {
    lt_algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

enum lt_constants {
    LT_COMPUTE_F32 = 68,
    LT_F32 = 0,
    LT_BF16 = 14,
    LT_TRANSPOSED = 1,
    LT_TRANSPOSE_A = 3, /* attributes of a descriptor */
    LT_EPILOGUE = 7,
    LT_BIAS = 8,
    LT_MOST_WORKSPACE = 1, /* attributes of a preference */
    LT_ALIGNMENT_A = 5, /* at least, in bytes: 256 where it is not said */
    LT_ALIGNMENT_B = 6,
    LT_ALIGNMENT_C = 7,
    LT_ALIGNMENT_D = 8,
    LT_PLAIN_EPILOGUE = 1,
    LT_BIAS_EPILOGUE = 4,
    LT_GELU_EPILOGUE = 32
};

/* The functions, as cublasLt and these names. */
struct lt_functions {
    int (*Create)(lt_handle *handle);
    int (*Destroy)(lt_handle handle);
    int (*MatmulDescCreate)(lt_descriptor *made, int compute, int scale_type);
    int (*MatmulDescDestroy)(lt_descriptor descriptor);
    int (*MatmulDescSetAttribute)(lt_descriptor descriptor, int attribute, const void *value, size_t size);
    int (*MatrixLayoutCreate)(lt_layout *made, int type, uint64_t rows, uint64_t columns, int64_t stride);
    int (*MatrixLayoutDestroy)(lt_layout layout);
    int (*MatmulPreferenceCreate)(lt_preference *made);
    int (*MatmulPreferenceDestroy)(lt_preference preference);
    int (*MatmulPreferenceSetAttribute)(lt_preference preference, int attribute, const void *value, size_t size);
    int (*MatmulAlgoGetHeuristic)(lt_handle handle, lt_descriptor descriptor, lt_layout a, lt_layout b, lt_layout c,
                                  lt_layout d, lt_preference preference, int wanted, lt_result *results, int *found);
    int (*Matmul)(lt_handle handle, lt_descriptor descriptor, const void *alpha, const void *a, lt_layout a_layout,
                  const void *b, lt_layout b_layout, const void *beta, const void *c, lt_layout c_layout, void *d,
                  lt_layout d_layout, const lt_algorithm *algorithm, void *workspace, size_t workspace_size, void *stream);
};

#endif
