/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_BUFFER_H
#define IMAGINE_BUFFER_H

#include "context.h"

/* A dense, row-major tensor, reference counted, on the host or, where the caller wants it so, on the GPU of its context. Shape
 * and type never change; the bytes may be written by whoever owns it alone. What the library makes by itself lies on the host;
 * what it is given may lie on either side. Every function may be called from any thread. */
typedef struct imagine_buffer imagine_buffer;

typedef int32_t imagine_dtype;
#define IMAGINE_U8 1
#define IMAGINE_I32 2
#define IMAGINE_I64 3
#define IMAGINE_F16 4
#define IMAGINE_BF16 5
#define IMAGINE_F32 6
#define IMAGINE_F64 7

#define IMAGINE_MAX_DIMS 8

/* Bits of imagine_buffer_info.flags. */
#define IMAGINE_BUFFER_READ_ONLY 1u /* nobody may write into the data, not even who owns the buffer alone */

/* What imagine_buffer_get_info tells. The pointer lives as long as the buffer. */
typedef struct imagine_buffer_info {
    uint32_t struct_size;
    imagine_dtype dtype;
    int32_t ndim;
    uint32_t reserved0;
    int64_t shape[IMAGINE_MAX_DIMS]; /* row-major, the last dimension is contiguous */
    void *data; /* aligned to 64 bytes unless the memory is the caller's; with IMAGINE_DEVICE_CUDA a device pointer */
    uint64_t size; /* bytes */
    uint32_t flags; /* IMAGINE_BUFFER_ bits; since 0.2 */
    uint32_t reserved1;
    imagine_device device; /* where the data lies; since 0.2 */
    int32_t device_number; /* of the GPU */
} imagine_buffer_info;

/* Called once, when the last reference to a wrapping buffer is dropped, from whichever thread drops it. It may release other
 * buffers, and must not call anything else of the library. */
typedef void imagine_buffer_release_fn(void *user_data, void *data);

/* DLPack's tensors, as its header dlpack.h defines them; it may be included before or after this one, or not at all. */
struct DLManagedTensor;
struct DLManagedTensorVersioned;

#ifdef __cplusplus
extern "C" {
#endif

/* A new buffer of zeros. `ndim` 0 to IMAGINE_MAX_DIMS, no negative dimension. */
IMAGINE_API imagine_status imagine_buffer_create(imagine_buffer **buffer, imagine_context *context, imagine_dtype dtype,
                                                 int32_t ndim, const int64_t *shape, imagine_error *error);

/* A buffer over the caller's memory, which must stay valid until `release` is called (NULL: until the last reference
 * is dropped). `data` must be aligned to its element. On failure `release` is not called. */
IMAGINE_API imagine_status imagine_buffer_wrap(imagine_buffer **buffer, imagine_context *context, imagine_dtype dtype,
                                               int32_t ndim, const int64_t *shape, void *data,
                                               imagine_buffer_release_fn *release, void *user_data,
                                               imagine_error *error);

/* The same over memory that nobody may write into: the buffer is IMAGINE_BUFFER_READ_ONLY. Since 0.2. */
IMAGINE_API imagine_status imagine_buffer_wrap_read_only(imagine_buffer **buffer, imagine_context *context,
                                                         imagine_dtype dtype, int32_t ndim, const int64_t *shape,
                                                         const void *data, imagine_buffer_release_fn *release,
                                                         void *user_data, imagine_error *error);

/* A new buffer of zeros on `device`: IMAGINE_DEVICE_CPU, or IMAGINE_DEVICE_CUDA where that is the context's. Since 0.2. */
IMAGINE_API imagine_status imagine_buffer_create_on(imagine_buffer **buffer, imagine_context *context,
                                                    imagine_device device, imagine_dtype dtype, int32_t ndim,
                                                    const int64_t *shape, imagine_error *error);

/* imagine_buffer_wrap for memory on `device`; on a GPU it is the context's GPU, and what was written there must be complete,
 * or be so in the order of the context's stream. Since 0.2. */
IMAGINE_API imagine_status imagine_buffer_wrap_on(imagine_buffer **buffer, imagine_context *context, imagine_device device,
                                                  imagine_dtype dtype, int32_t ndim, const int64_t *shape, void *data,
                                                  imagine_buffer_release_fn *release, void *user_data,
                                                  imagine_error *error);

/* Copies the data of `from` into `to`, of the same type and shape, from and to either side; complete when it returns. `to`
 * must not be read-only. Two GPUs are refused with IMAGINE_ERROR_UNSUPPORTED. Since 0.2. */
IMAGINE_API imagine_status imagine_buffer_copy(imagine_buffer *to, const imagine_buffer *from, imagine_error *error);

/* One reference more, to be released by its own; returns `buffer`. NULL is fine. */
IMAGINE_API imagine_buffer *imagine_buffer_retain(imagine_buffer *buffer);

/* As imagine_context_release; with the last reference the memory is freed or given back. */
IMAGINE_API void imagine_buffer_release(imagine_buffer **buffer);

/* Fills min(info->struct_size, known) bytes of *info. */
IMAGINE_API imagine_status imagine_buffer_get_info(const imagine_buffer *buffer, imagine_buffer_info *info,
                                                   imagine_error *error);

/* Shorthands for the two fields that are wanted most. NULL and 0 for a NULL buffer. */
IMAGINE_API void *imagine_buffer_data(const imagine_buffer *buffer);
IMAGINE_API uint64_t imagine_buffer_size(const imagine_buffer *buffer);

/* The buffer as a tensor for another library that speaks DLPack 1.x: without a copy, on the CPU or on the GPU (kDLCUDA) where
 * the data is complete, dense and with strides, BF16 as a bfloat. It holds a reference to the buffer until its `deleter` is
 * called, once, from any thread; a read-only buffer is flagged so. On failure *tensor is NULL. Since 0.2. */
IMAGINE_API imagine_status imagine_buffer_to_dlpack(imagine_buffer *buffer, struct DLManagedTensorVersioned **tensor,
                                                    imagine_error *error);

/* The same for a library that knows only the tensors from before DLPack 1.0. Those cannot say that they are read-only, so a
 * read-only buffer is refused with IMAGINE_ERROR_UNSUPPORTED. Since 0.2. */
IMAGINE_API imagine_status imagine_buffer_to_dlpack_unversioned(imagine_buffer *buffer, struct DLManagedTensor **tensor,
                                                                imagine_error *error);

/* A buffer over another library's tensor, without a copy. On success the buffer owns the tensor: its `deleter` is called with
 * the last reference, from whichever thread drops it. On failure the tensor stays the caller's. Accepted are dense tensors
 * (a dimension of 1 may have any stride) in host memory, pinned memory included, or on the context's GPU, as for
 * imagine_buffer_wrap_on, whose elements are of an imagine_dtype; booleans come as U8. Anything else is refused with
 * IMAGINE_ERROR_UNSUPPORTED and never copied silently. A tensor on the GPU must be complete, or in the order of
 * the default stream (`stream=1` in Python's __dlpack__), which is waited for. Since 0.2. */
IMAGINE_API imagine_status imagine_buffer_from_dlpack(imagine_buffer **buffer, imagine_context *context,
                                                      struct DLManagedTensorVersioned *tensor, imagine_error *error);

/* The same for a tensor of before DLPack 1.0. Since 0.2. */
IMAGINE_API imagine_status imagine_buffer_from_dlpack_unversioned(imagine_buffer **buffer, imagine_context *context,
                                                                  struct DLManagedTensor *tensor, imagine_error *error);

/* A tensor of a safetensors file, as stored (BOOL, I8 and the like are refused). `name` NULL: the file's only tensor. */
IMAGINE_API imagine_status imagine_buffer_load(imagine_buffer **buffer, imagine_context *context, const char *path,
                                               const char *name, imagine_error *error);

/* Writes `count` buffers into a safetensors file under the names given: to a temporary name first, then renamed, so
 * that a file of that name is either the old or the new one. */
IMAGINE_API imagine_status imagine_buffer_save(imagine_context *context, const char *path, uint32_t count,
                                               imagine_buffer *const *buffers, const char *const *names,
                                               imagine_error *error);

/* Pictures as U8 [frames, height, width, 3] in sRGB: from a PNG, an animated PNG, or a folder's files *.png of one size, but
 * for hidden ones, in the order of their names' bytes, where 10.png comes before 2.png. Transparency is laid over white.
 * Files of up to 2 GiB, sides of up to 16384 pixels, 4 GiB of pixels. */
IMAGINE_API imagine_status imagine_picture_load(imagine_buffer **frames, imagine_context *context, const char *path,
                                                imagine_error *error);

/* Writes U8 [frames, height, width, 3] as PNG: one frame as a plain PNG, several as an animated PNG at
 * `frames_per_second` (1/65535 to 65535), looping for ever. To a temporary name first, then renamed. Sides of up to 16384 pixels. */
IMAGINE_API imagine_status imagine_picture_save(imagine_context *context, const char *path,
                                                const imagine_buffer *frames, double frames_per_second,
                                                imagine_error *error);

#ifdef __cplusplus
}
#endif
#endif
