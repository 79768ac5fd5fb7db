/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_BASE_DLPACK_H
#define IMAGINE_BASE_DLPACK_H

/* The binary interface of DLPack 1.x, as dmlc.github.io/dlpack documents it. The tags are DLPack's own, since the public
 * header declares functions on them; a program gets the definitions from dlpack.h. */

#include <stdint.h>

/* Devices; the memory of all but CUDA is the host's. */
enum { IMAGINE__DL_CPU = 1, IMAGINE__DL_CUDA = 2, IMAGINE__DL_CUDA_HOST = 3, IMAGINE__DL_ROCM_HOST = 11 };
enum { IMAGINE__DL_INT, IMAGINE__DL_UINT, IMAGINE__DL_FLOAT, IMAGINE__DL_BFLOAT = 4, IMAGINE__DL_BOOL = 6 };
#define IMAGINE__DL_MAJOR 1
#define IMAGINE__DL_READ_ONLY UINT64_C(1)

struct DLTensor {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape;
    int64_t *strides; /* in elements; NULL: dense */
    uint64_t byte_offset; /* from `data` to the first element */
};

struct DLManagedTensor {
    struct DLTensor tensor;
    void *manager;
    void (*deleter)(struct DLManagedTensor *self);
};

/* When `version` has another major number, only `manager` and `deleter` are where they are here. */
struct DLManagedTensorVersioned {
    struct {
        uint32_t major, minor;
    } version;
    void *manager;
    void (*deleter)(struct DLManagedTensorVersioned *self);
    uint64_t flags;
    struct DLTensor tensor;
};

#endif
