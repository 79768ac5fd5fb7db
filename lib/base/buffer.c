/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "base/context.h"
#include "base/device.h"

struct imagine_buffer {
    atomic_int references;
    imagine_dtype dtype;
    int32_t ndim;
    int64_t shape[IMAGINE_MAX_DIMS];
    imagine_context *context;
    void *data;
    size_t size;
    int wrapped, read_only, on_device;
    imagine_buffer_release_fn *release; /* of wrapped memory, or NULL */
    void *user_data;
};

size_t imagine__dtype_size(imagine_dtype dtype)
{
    switch (dtype) {
    case IMAGINE_U8:
        return 1;
    case IMAGINE_F16:
    case IMAGINE_BF16:
        return 2;
    case IMAGINE_I32:
    case IMAGINE_F32:
        return 4;
    case IMAGINE_I64:
    case IMAGINE_F64:
        return 8;
    }
    return 0;
}

const char *imagine__dtype_name(imagine_dtype dtype)
{
    static const char *const names[] = { "unknown", "u8", "i32", "i64", "f16", "bf16", "f32", "f64" };
    return names[dtype >= IMAGINE_U8 && dtype <= IMAGINE_F64 ? dtype : 0];
}

void imagine__shape_text(char *text, size_t size, int32_t ndim, const int64_t *shape)
{
    size_t at = (size_t)snprintf(text, size, "[");
    for (int32_t i = 0; i < ndim && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (at < size)
        snprintf(text + at, size - at, "]");
}

static imagine_status check_shape(imagine_context *context, imagine_dtype dtype, int32_t ndim, const int64_t *shape,
                                  size_t *size, imagine_error *error)
{
    if (!context)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "context: the pointer is NULL");
    imagine_status status = imagine__check_process(context, error);
    if (status < 0)
        return status;
    *size = imagine__dtype_size(dtype);
    if (!*size)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "dtype: %d is no type", dtype);
    if (ndim < 0 || ndim > IMAGINE_MAX_DIMS)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "ndim: %d dimensions, 0 to %d are possible", ndim,
                             IMAGINE_MAX_DIMS);
    if (ndim && !shape)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "shape: the pointer is NULL");
    int empty = 0;
    for (int32_t i = 0; i < ndim; i++) {
        if (shape[i] < 0)
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "shape[%d] is %lld, below 0", i,
                                 (long long)shape[i]);
        empty |= shape[i] == 0;
    }
    for (int32_t i = 0; i < ndim && !empty; i++)
        if (!imagine__mul_size(*size, (size_t)shape[i], size) || *size > PTRDIFF_MAX)
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "shape: the size in bytes is beyond any memory");
    if (empty)
        *size = 0;
    return IMAGINE_OK;
}

/* A buffer without its data. */
static imagine_status make(imagine_buffer **buffer, imagine_context *context, imagine_dtype dtype, int32_t ndim,
                           const int64_t *shape, imagine_error *error)
{
    size_t size;
    if (!buffer)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "buffer: the pointer is NULL");
    *buffer = NULL;
    imagine_status status = check_shape(context, dtype, ndim, shape, &size, error);
    if (status < 0)
        return status;
    imagine_buffer *made = imagine__calloc(context, 1, sizeof *made);
    if (!made)
        return imagine__fail_memory_in(context, error, sizeof *made, "a buffer");
    atomic_init(&made->references, 1);
    made->dtype = dtype;
    made->ndim = ndim;
    if (ndim)
        memcpy(made->shape, shape, (size_t)ndim * sizeof *shape);
    made->size = size;
    made->context = imagine_context_retain(context);
    *buffer = made;
    return IMAGINE_OK;
}

imagine_status imagine__buffer_new(imagine_buffer **buffer, imagine_context *context, imagine_dtype dtype, int32_t ndim,
                                   const int64_t *shape, imagine_error *error)
{
    imagine_status status = make(buffer, context, dtype, ndim, shape, error);
    if (status < 0)
        return status;
    (*buffer)->data = imagine__alloc_host_values(context, (*buffer)->size);
    if (!(*buffer)->data) {
        size_t size = (*buffer)->size;
        imagine_buffer_release(buffer);
        return imagine__fail_memory_in(context, error, size, "a buffer's data");
    }
    return IMAGINE_OK;
}

/* Whether the context has such a device. */
static imagine_status check_device(const imagine_context *context, imagine_device device, imagine_error *error)
{
    if (device == IMAGINE_DEVICE_CPU || (device == IMAGINE_DEVICE_CUDA && context && context->device))
        return IMAGINE_OK;
    if (device != IMAGINE_DEVICE_CUDA)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "device: %d is no device", device);
    return context ? imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                                   "device: the buffer's context computes on the CPU; make one with IMAGINE_DEVICE_CUDA")
                   : imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "context: the pointer is NULL");
}

imagine_status imagine_buffer_create_on(imagine_buffer **buffer, imagine_context *context, imagine_device device,
                                        imagine_dtype dtype, int32_t ndim, const int64_t *shape, imagine_error *error)
{
    IMAGINE__GUARD(context);
    if (buffer)
        *buffer = NULL;
    if (device == IMAGINE_DEVICE_CPU)
        return imagine_buffer_create(buffer, context, dtype, ndim, shape, error);
    imagine_status status = check_device(context, device, error);
    if (status < 0 || (status = make(buffer, context, dtype, ndim, shape, error)) < 0)
        return status;
    size_t size = (*buffer)->size;
    (*buffer)->on_device = 1;
    (*buffer)->data = imagine__alloc_values(context, size ? size : 1);
    int code = (*buffer)->data ? imagine__device_clear(context, (*buffer)->data, size) : 0;
    if ((*buffer)->data && !code)
        return IMAGINE_OK;
    imagine_buffer_release(buffer);
    return code ? imagine__device_fail(context->device->cuda, code, "a buffer's data", error)
                : imagine__device_cause(context, imagine__fail_memory_in(context, error, size, "a buffer's data on the device"), error);
}

imagine_status imagine_buffer_create(imagine_buffer **buffer, imagine_context *context, imagine_dtype dtype,
                                     int32_t ndim, const int64_t *shape, imagine_error *error)
{
    imagine_status status = imagine__buffer_new(buffer, context, dtype, ndim, shape, error);
    if (status >= 0)
        imagine__clear_host(context, (*buffer)->data, (*buffer)->size);
    return status;
}

static imagine_status wrap(imagine_buffer **buffer, imagine_context *context, imagine_dtype dtype, int32_t ndim,
                           const int64_t *shape, void *data, imagine_buffer_release_fn *release, void *user_data,
                           imagine_error *error)
{
    imagine_status status = make(buffer, context, dtype, ndim, shape, error);
    if (status < 0)
        return status;
    imagine_buffer *made = *buffer;
    made->wrapped = 1;
    if ((!data && made->size) || (uintptr_t)data % imagine__dtype_size(dtype)) {
        imagine_buffer_release(buffer);
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "data: %s",
                             data ? "the pointer is not aligned to its element" : "the pointer is NULL");
    }
    made->data = data;
    made->release = release;
    made->user_data = user_data;
    return IMAGINE_OK;
}

imagine_status imagine_buffer_wrap(imagine_buffer **buffer, imagine_context *context, imagine_dtype dtype, int32_t ndim,
                                   const int64_t *shape, void *data, imagine_buffer_release_fn *release,
                                   void *user_data, imagine_error *error)
{
    return wrap(buffer, context, dtype, ndim, shape, data, release, user_data, error);
}

imagine_status imagine_buffer_wrap_read_only(imagine_buffer **buffer, imagine_context *context, imagine_dtype dtype,
                                             int32_t ndim, const int64_t *shape, const void *data,
                                             imagine_buffer_release_fn *release, void *user_data, imagine_error *error)
{
    imagine_status status = wrap(buffer, context, dtype, ndim, shape, (void *)(uintptr_t)data, release, user_data, error);
    if (status >= 0)
        imagine__buffer_protect(*buffer);
    return status;
}

void imagine__buffer_protect(imagine_buffer *buffer)
{
    buffer->read_only = 1;
}

imagine_status imagine_buffer_wrap_on(imagine_buffer **buffer, imagine_context *context, imagine_device device,
                                      imagine_dtype dtype, int32_t ndim, const int64_t *shape, void *data,
                                      imagine_buffer_release_fn *release, void *user_data, imagine_error *error)
{
    if (buffer)
        *buffer = NULL;
    imagine_status status = check_device(context, device, error);
    if (status >= 0)
        status = wrap(buffer, context, dtype, ndim, shape, data, release, user_data, error);
    if (status >= 0)
        (*buffer)->on_device = device == IMAGINE_DEVICE_CUDA;
    return status;
}

imagine_buffer *imagine_buffer_retain(imagine_buffer *buffer)
{
    if (buffer)
        imagine__reference(&buffer->references);
    return buffer;
}

void imagine_buffer_release(imagine_buffer **buffer)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_AT(buffer));
    if (!buffer || !*buffer)
        return;
    imagine_buffer *old = *buffer;
    *buffer = NULL;
    if (!imagine__unreference(&old->references))
        return;
    imagine_context *context = old->context;
    if (old->on_device && old->wrapped)
        imagine__device_wait(context); /* it may still be read */
    if (!old->wrapped)
        imagine__free(context, old->data);
    else if (old->release)
        old->release(old->user_data, old->data);
    imagine__free(context, old);
    imagine_context_release(&context);
}

imagine_status imagine_buffer_get_info(const imagine_buffer *buffer, imagine_buffer_info *info, imagine_error *error)
{
    if (!buffer)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "buffer: the pointer is NULL");
    imagine_status status = imagine__check_process(buffer->context, error);
    if (status < 0)
        return status;
    imagine_buffer_info known = {
        .struct_size = sizeof known,
        .dtype = buffer->dtype,
        .ndim = buffer->ndim,
        .data = buffer->data,
        .size = buffer->size,
        .flags = buffer->read_only ? IMAGINE_BUFFER_READ_ONLY : 0,
        .device = buffer->on_device ? IMAGINE_DEVICE_CUDA : IMAGINE_DEVICE_CPU,
        .device_number = buffer->on_device ? buffer->context->device->number : 0,
    };
    memcpy(known.shape, buffer->shape, sizeof known.shape);
    return imagine__write_struct(info, &known, sizeof known, "imagine_buffer_info", error);
}

void *imagine_buffer_data(const imagine_buffer *buffer)
{
    return buffer ? buffer->data : NULL;
}

uint64_t imagine_buffer_size(const imagine_buffer *buffer)
{
    return buffer ? buffer->size : 0;
}

const int64_t *imagine__buffer_shape(const imagine_buffer *buffer, int32_t *ndim)
{
    if (ndim)
        *ndim = buffer->ndim;
    return buffer->shape;
}

imagine_dtype imagine__buffer_dtype(const imagine_buffer *buffer)
{
    return buffer->dtype;
}

imagine_context *imagine__buffer_context(const imagine_buffer *buffer)
{
    return IMAGINE__CONTEXT_OF(buffer);
}

/* ---- from one side to the other ---------------------------------------------------------------------------------- */

/* `size` bytes of the buffer's data to the host. 0, or the device's error number. */
static int read_data(const imagine_buffer *from, void *to, size_t size)
{
    IMAGINE__VISIT(from->context); /* not always the one of the call */
    if (from->on_device)
        return imagine__download_now(from->context, to, from->data, size);
    memmove(to, from->data, size); /* buffers may be parts of one memory */
    return 0;
}

static imagine_status fail_copy(const imagine_buffer *on_device, int code, imagine_error *error)
{
    return imagine__device_fail(on_device->context->device->cuda, code, "a buffer's data", error);
}

imagine_status imagine__buffer_on_host(imagine_buffer **on_host, const imagine_buffer *buffer, imagine_error *error)
{
    if (!buffer->on_device) {
        *on_host = imagine_buffer_retain((imagine_buffer *)(uintptr_t)buffer);
        return IMAGINE_OK;
    }
    *on_host = NULL;
    imagine_status status =
        imagine__buffer_new(on_host, buffer->context, buffer->dtype, buffer->ndim, buffer->shape, error);
    int code = status >= 0 ? read_data(buffer, (*on_host)->data, buffer->size) : 0;
    if (code)
        imagine_buffer_release(on_host);
    return code ? fail_copy(buffer, code, error) : status;
}

static imagine_status check_copy(const imagine_buffer *to, const imagine_buffer *from, imagine_error *error)
{
    if (!to || !from)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: the pointer is NULL", to ? "from" : "to");
    if (to->read_only)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "to: the buffer is read-only");
    if (to->dtype != from->dtype || to->ndim != from->ndim ||
        memcmp(to->shape, from->shape, (size_t)to->ndim * sizeof *to->shape)) {
        char has[160], must[160];
        imagine__shape_text(has, sizeof has, from->ndim, from->shape);
        imagine__shape_text(must, sizeof must, to->ndim, to->shape);
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "from: is %s %s, must be %s %s",
                             imagine__dtype_name(from->dtype), has, imagine__dtype_name(to->dtype), must);
    }
    if (to->on_device && from->on_device && to->context->device->number != from->context->device->number)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED, "from: on GPU %d, and to on GPU %d; copy through the host",
                             from->context->device->number, to->context->device->number);
    imagine_status status = imagine__check_process(to->context, error);
    return status < 0 ? status : imagine__check_process(from->context, error);
}

imagine_status imagine_buffer_copy(imagine_buffer *to, const imagine_buffer *from, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(to));
    imagine_status status = check_copy(to, from, error);
    if (status < 0 || !to->size || to->data == from->data)
        return status;
    const imagine_buffer *on_device = to->on_device ? to : from;
    int code = !to->on_device     ? read_data(from, to->data, to->size)
               : from->on_device ? imagine__device_copy(to->context, from->context, to->data, from->data, to->size)
                                 : imagine__upload_now(to->context, to->data, from->data, to->size);
    return code ? fail_copy(on_device, code, error) : IMAGINE_OK;
}

imagine_status imagine__buffer_values(imagine__work *work, const imagine_buffer *buffer, const void **values,
                                      imagine_error *error)
{
    const imagine__device *has = buffer->on_device ? buffer->context->device : NULL;
    const imagine__device *wanted = work->device;
    *values = buffer->data;
    if (has && imagine__on_device(work->context) && (!wanted || wanted->stream == has->stream))
        return IMAGINE_OK;
    void *host = has ? imagine__arena_host(work->arena, buffer->size) : buffer->data;
    int code = has && host && !imagine__planning(work->context) ? read_data(buffer, host, buffer->size) : 0;
    if (code)
        return fail_copy(buffer, code, error);
    *values = host || !has ? imagine__lend(work, host, buffer->size) : NULL;
    return *values || !buffer->size ? IMAGINE_OK : imagine__fail_memory_in(work->context, error, buffer->size, "a buffer's values");
}

void *imagine__buffer_begin(imagine__work *work, imagine_buffer *buffer)
{
    return imagine__on_device(work->context) ? imagine__arena_alloc(work->arena, buffer->size) : buffer->data;
}

void imagine__buffer_end(imagine__work *work, imagine_buffer *buffer, const void *values)
{
    if (imagine__on_device(work->context))
        imagine__download(work, buffer->data, 0, values, 0, buffer->size, 1);
}
