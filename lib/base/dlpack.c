/* SPDX-License-Identifier: MIT */

/* Buffers to DLPack tensors and back, sharing the memory. */

#include <string.h>

#include "base/base.h"
#include "base/dlpack.h"

/* The rows of imagine_dtype in DLPack's terms. */
static const struct {
    uint8_t code, bits;
} types[] = {
    [IMAGINE_U8] = { IMAGINE__DL_UINT, 8 },    [IMAGINE_I32] = { IMAGINE__DL_INT, 32 },
    [IMAGINE_I64] = { IMAGINE__DL_INT, 64 },   [IMAGINE_F16] = { IMAGINE__DL_FLOAT, 16 },
    [IMAGINE_BF16] = { IMAGINE__DL_BFLOAT, 16 }, [IMAGINE_F32] = { IMAGINE__DL_FLOAT, 32 },
    [IMAGINE_F64] = { IMAGINE__DL_FLOAT, 64 },
};
#define TYPE_COUNT ((int32_t)(sizeof types / sizeof types[0]))

/* ---- out ------------------------------------------------------------------------------------- */

/* A tensor that was given out, with what it points to; it holds a reference to its buffer. */
typedef struct exported {
    union {
        struct DLManagedTensor plain;
        struct DLManagedTensorVersioned versioned;
    } tensor;
    imagine_buffer *buffer;
    int64_t shape[IMAGINE_MAX_DIMS], strides[IMAGINE_MAX_DIMS];
} exported;

static void give_up(exported *e)
{
    imagine_context *context = imagine_context_retain(imagine__buffer_context(e->buffer));
    imagine_buffer_release(&e->buffer);
    imagine__free(context, e);
    imagine_context_release(&context);
}

static void delete_plain(struct DLManagedTensor *self)
{
    if (self)
        give_up(self->manager);
}

static void delete_versioned(struct DLManagedTensorVersioned *self)
{
    if (self)
        give_up(self->manager);
}

/* Makes the record of a new tensor, and what `tensor` of it says. */
static imagine_status give_out(imagine_buffer *buffer, exported **out, struct DLTensor *tensor, uint32_t *flags,
                               imagine_error *error)
{
    imagine_buffer_info info = { .struct_size = sizeof info };
    imagine_status status = imagine_buffer_get_info(buffer, &info, error);
    if (status < 0)
        return status;
    imagine_context *context = imagine__buffer_context(buffer);
    if ((status = imagine__check_process(context, error)) < 0 ||
        (info.device == IMAGINE_DEVICE_CUDA && (status = imagine__device_wait_stream(context, error)) < 0))
        return status; /* who is given the tensor uses it in a stream of its own */
    exported *e = imagine__calloc(context, 1, sizeof *e);
    if (!e)
        return imagine__fail_memory_in(context, error, sizeof *e, "a DLPack tensor");
    e->buffer = imagine_buffer_retain(buffer);
    memcpy(e->shape, info.shape, sizeof e->shape);
    int64_t stride = 1;
    for (int32_t i = info.ndim; i--; stride *= info.size ? info.shape[i] : 1) /* beside a 0 the others may be of any size */
        e->strides[i] = stride;
    *tensor = (struct DLTensor){
        .data = info.data,
        .device = { info.device == IMAGINE_DEVICE_CUDA ? IMAGINE__DL_CUDA : IMAGINE__DL_CPU, info.device_number },
        .ndim = info.ndim,
        .dtype = { types[info.dtype].code, types[info.dtype].bits, 1 },
        .shape = e->shape,
        .strides = e->strides,
    };
    *flags = info.flags;
    *out = e;
    return IMAGINE_OK;
}

static imagine_status need_tensor(const void *tensor, imagine_error *error)
{
    return tensor ? IMAGINE_OK : imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "tensor: the pointer is NULL");
}

imagine_status imagine_buffer_to_dlpack(imagine_buffer *buffer, struct DLManagedTensorVersioned **tensor,
                                        imagine_error *error)
{
    IMAGINE__GUARD(imagine__buffer_context(buffer));
    exported *e;
    struct DLTensor said;
    uint32_t flags;
    imagine_status status = need_tensor(tensor, error);
    if (status < 0)
        return status;
    *tensor = NULL;
    if ((status = give_out(buffer, &e, &said, &flags, error)) < 0)
        return status;
    e->tensor.versioned = (struct DLManagedTensorVersioned){
        .version = { IMAGINE__DL_MAJOR, 0 },
        .manager = e,
        .deleter = delete_versioned,
        .flags = flags & IMAGINE_BUFFER_READ_ONLY ? IMAGINE__DL_READ_ONLY : 0,
        .tensor = said,
    };
    *tensor = &e->tensor.versioned;
    return IMAGINE_OK;
}

imagine_status imagine_buffer_to_dlpack_unversioned(imagine_buffer *buffer, struct DLManagedTensor **tensor,
                                                    imagine_error *error)
{
    IMAGINE__GUARD(imagine__buffer_context(buffer));
    exported *e;
    struct DLTensor said;
    uint32_t flags;
    imagine_status status = need_tensor(tensor, error);
    if (status < 0)
        return status;
    *tensor = NULL;
    if ((status = give_out(buffer, &e, &said, &flags, error)) < 0)
        return status;
    if (flags & IMAGINE_BUFFER_READ_ONLY) {
        give_up(e);
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "buffer: it is read-only, which an unversioned DLPack tensor cannot say; use "
                             "imagine_buffer_to_dlpack or copy it");
    }
    e->tensor.plain = (struct DLManagedTensor){ .tensor = said, .manager = e, .deleter = delete_plain };
    *tensor = &e->tensor.plain;
    return IMAGINE_OK;
}

/* ---- in -------------------------------------------------------------------------------------- */

static imagine_status find_device(const struct DLTensor *t, const imagine_context *context, imagine_device *device,
                                  imagine_error *error)
{
    int32_t type = t->device.type;
    imagine_context_info info = { .struct_size = sizeof info };
    *device = IMAGINE_DEVICE_CPU;
    if (type == IMAGINE__DL_CPU || type == IMAGINE__DL_CUDA_HOST || type == IMAGINE__DL_ROCM_HOST)
        return IMAGINE_OK;
    *device = IMAGINE_DEVICE_CUDA;
    if (type == IMAGINE__DL_CUDA && context && imagine_context_get_info(context, &info, NULL) >= 0 &&
        info.device == IMAGINE_DEVICE_CUDA && info.device_number == t->device.id)
        return IMAGINE_OK;
    return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                         "device: the tensor is on DLPack device type %d, number %d; copy it to the host first", type,
                         t->device.id);
}

static imagine_status find_dtype(const struct DLTensor *t, imagine_dtype *dtype, imagine_error *error)
{
    int bytes = t->dtype.code == IMAGINE__DL_BOOL && t->dtype.bits == 8; /* 0 and 1 */
    for (*dtype = IMAGINE_U8; *dtype < TYPE_COUNT; ++*dtype)
        if (t->dtype.lanes == 1 && ((types[*dtype].code == t->dtype.code && types[*dtype].bits == t->dtype.bits) || bytes))
            return IMAGINE_OK;
    return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                         "dtype: DLPack type code %d of %d bits in %d lanes; convert the tensor to u8, i32, i64, f16, bf16, "
                         "f32 or f64 first",
                         t->dtype.code, t->dtype.bits, t->dtype.lanes);
}

/* Strides must be those of a dense tensor. Shapes that are no shapes are left to imagine_buffer_wrap. */
static imagine_status check_strides(const struct DLTensor *t, imagine_error *error)
{
    int64_t dense = 1;
    if (!t->strides || !t->shape || t->ndim < 0 || t->ndim > IMAGINE_MAX_DIMS)
        return IMAGINE_OK;
    for (int32_t i = 0; i < t->ndim; i++)
        if (t->shape[i] <= 0)
            return IMAGINE_OK;
    for (int32_t i = t->ndim; i--;) {
        if (t->shape[i] != 1 && t->strides[i] != dense)
            return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                                 "strides: %lld elements lie between neighbours of dimension %d, %lld in a dense tensor; "
                                 "make it contiguous first",
                                 (long long)t->strides[i], i, (long long)dense);
        if (__builtin_mul_overflow(dense, t->shape[i], &dense))
            return IMAGINE_OK;
    }
    return IMAGINE_OK;
}

/* A tensor that is one, but none that a buffer can be. */
static imagine_status check_fit(const struct DLTensor *t, imagine_dtype dtype, imagine_error *error)
{
    if (t->ndim > IMAGINE_MAX_DIMS)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "ndim: the tensor has %d dimensions, a buffer %d at most; reshape it first",
                             t->ndim, IMAGINE_MAX_DIMS);
    if (t->data && ((uintptr_t)t->data + t->byte_offset) % imagine__dtype_size(dtype))
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "byte_offset: the tensor's data is not aligned to its elements of %zu bytes; copy it first",
                             (size_t)imagine__dtype_size(dtype));
    return IMAGINE_OK;
}

static imagine_status take_in(imagine_buffer **buffer, imagine_context *context, const struct DLTensor *t, int read_only,
                              imagine_buffer_release_fn *release, void *owner, imagine_error *error)
{
    imagine_dtype dtype;
    imagine_device device;
    imagine_status status;
    if ((status = find_device(t, context, &device, error)) < 0 || (status = find_dtype(t, &dtype, error)) < 0 ||
        (status = check_fit(t, dtype, error)) < 0 || (status = check_strides(t, error)) < 0 ||
        (device == IMAGINE_DEVICE_CUDA && (status = imagine__device_wait_default(context, error)) < 0))
        return status;
    void *data = t->data ? (char *)t->data + t->byte_offset : NULL;
    status = imagine_buffer_wrap_on(buffer, context, device, dtype, t->ndim, t->shape, data, release, owner, error);
    if (status >= 0 && read_only)
        imagine__buffer_protect(*buffer);
    return status;
}

static void release_plain(void *owner, void *data)
{
    struct DLManagedTensor *tensor = owner;
    (void)data;
    if (tensor->deleter)
        tensor->deleter(tensor);
}

static void release_versioned(void *owner, void *data)
{
    struct DLManagedTensorVersioned *tensor = owner;
    (void)data;
    if (tensor->deleter)
        tensor->deleter(tensor);
}

imagine_status imagine_buffer_from_dlpack(imagine_buffer **buffer, imagine_context *context,
                                          struct DLManagedTensorVersioned *tensor, imagine_error *error)
{
    IMAGINE__GUARD(context);
    if (buffer)
        *buffer = NULL;
    imagine_status status = need_tensor(tensor, error);
    if (status < 0)
        return status;
    if (tensor->version.major != IMAGINE__DL_MAJOR)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED, "tensor: it is of DLPack %u.%u; version %d is known",
                             tensor->version.major, tensor->version.minor, IMAGINE__DL_MAJOR);
    return take_in(buffer, context, &tensor->tensor, (tensor->flags & IMAGINE__DL_READ_ONLY) != 0, release_versioned, tensor,
                   error);
}

imagine_status imagine_buffer_from_dlpack_unversioned(imagine_buffer **buffer, imagine_context *context,
                                                      struct DLManagedTensor *tensor, imagine_error *error)
{
    IMAGINE__GUARD(context);
    if (buffer)
        *buffer = NULL;
    imagine_status status = need_tensor(tensor, error);
    return status < 0 ? status : take_in(buffer, context, &tensor->tensor, 0, release_plain, tensor, error);
}
