/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CUDA_CUDNN_CUH
#define IMAGINE_KERNELS_CUDA_CUDNN_CUH

#include <stddef.h>
#include <stdint.h>

/* The part of cuDNN 9's graph interface that cudnn.cu uses, written down so that neither a build nor the emulator needs its
 * headers; where they are there, cudnn_check.cu holds this against them. */

typedef struct dnn_opaque *dnn_handle;
typedef void *dnn_descriptor;

enum dnn_kinds { /* of descriptors */
    DNN_CONVOLUTION = 1,
    DNN_ENGINE = 2,
    DNN_CONFIG = 3,
    DNN_HEURISTIC = 4,
    DNN_PLAN = 5,
    DNN_FORWARD = 10,
    DNN_GRAPH = 15,
    DNN_PACK = 16,
    DNN_TENSOR = 17,
    DNN_NO_KIND = -1
};

enum dnn_types { /* of attributes */
    DNN_T_HANDLE = 0,
    DNN_T_DATA_TYPE = 1,
    DNN_T_INT64 = 3,
    DNN_T_FLOAT = 4,
    DNN_T_POINTER = 6,
    DNN_T_CONVOLUTION_MODE = 7,
    DNN_T_HEURISTIC_MODE = 8,
    DNN_T_NOTE = 11,
    DNN_T_DESCRIPTOR = 15
};

enum dnn_attributes {
    DNN_CONVOLUTION_PRECISION = 100,
    DNN_CONVOLUTION_MODE = 101,
    DNN_CONVOLUTION_DILATIONS = 102,
    DNN_CONVOLUTION_STRIDES = 103,
    DNN_CONVOLUTION_PAD_AFTER = 104,
    DNN_CONVOLUTION_PAD_BEFORE = 105,
    DNN_CONVOLUTION_DIMS = 106,
    DNN_HEURISTIC_MODE = 200,
    DNN_HEURISTIC_GRAPH = 201,
    DNN_HEURISTIC_RESULTS = 202,
    DNN_CONFIG_ENGINE = 300,
    DNN_PLAN_HANDLE = 400,
    DNN_PLAN_CONFIG = 401,
    DNN_PLAN_WORKSPACE = 402,
    DNN_FORWARD_ALPHA = 700,
    DNN_FORWARD_BETA = 701,
    DNN_FORWARD_CONVOLUTION = 702,
    DNN_FORWARD_W = 703,
    DNN_FORWARD_X = 704,
    DNN_FORWARD_Y = 705,
    DNN_GRAPH_HANDLE = 800,
    DNN_GRAPH_OPERATIONS = 801,
    DNN_TENSOR_ALIGNMENT = 900,
    DNN_TENSOR_TYPE = 901,
    DNN_TENSOR_EXTENTS = 902,
    DNN_TENSOR_STRIDES = 903,
    DNN_TENSOR_ID = 906,
    DNN_PACK_IDS = 1000,
    DNN_PACK_POINTERS = 1001,
    DNN_PACK_WORKSPACE = 1003,
    DNN_ENGINE_NOTES = 1303,
    DNN_NO_ATTRIBUTE = -1
};

enum dnn_values {
    DNN_F32 = 0, /* data types */
    DNN_BF16 = 9,
    DNN_CROSS_CORRELATION = 1, /* modes */
    DNN_BEST = 1,
    DNN_FALLBACK = 2,
    DNN_FAST = 3,
    DNN_TENSOR_CORES = 0, /* notes */
    DNN_REDUCED_SUMS = 2,
    DNN_FFT = 3,
    DNN_NONDETERMINISTIC = 4,
    DNN_WINOGRAD = 5,
    DNN_WINOGRAD_13 = 8
};

/* The functions, as cudnn and these names. */
struct dnn_functions {
    int (*Create)(dnn_handle *handle);
    int (*Destroy)(dnn_handle handle);
    int (*SetStream)(dnn_handle handle, void *stream);
    int (*BackendCreateDescriptor)(int kind, dnn_descriptor *made);
    int (*BackendDestroyDescriptor)(dnn_descriptor descriptor);
    int (*BackendSetAttribute)(dnn_descriptor descriptor, int attribute, int type, int64_t count, const void *values);
    int (*BackendGetAttribute)(dnn_descriptor descriptor, int attribute, int type, int64_t most, int64_t *count, void *values);
    int (*BackendFinalize)(dnn_descriptor descriptor);
    int (*BackendExecute)(dnn_handle handle, dnn_descriptor plan, dnn_descriptor pack);
};

#endif
