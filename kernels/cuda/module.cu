/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/internal.cuh"

#ifdef IMAGINE__EMULATED
#include <stdio.h>
#endif

/* The module's table: devices and memory, and the operations. */

static const char *error_text(int status)
{
#ifdef IMAGINE__EMULATED
    return status ? emulator::report() : "no error";
#else
    return cudaGetErrorString((cudaError_t)status);
#endif
}

static int device_count(int32_t *count)
{
    *count = 0;
#ifdef IMAGINE__EMULATED
    *count = 1;
    return 0;
#else
    int found = 0;
    cudaError_t status = cudaGetDeviceCount(&found);
    (void)cudaGetLastError(); /* not to come back from a later call */
    if (status == cudaErrorInsufficientDriver || status == cudaErrorNoDevice)
        return 0;
    *count = found;
    return (int)status;
#endif
}

/* Text into name[size], cut where it is too long. */
static void put_text(char *name, size_t size, size_t *at, const char *text)
{
    for (; *text && *at + 1 < size; text++)
        name[(*at)++] = *text;
    if (size)
        name[*at] = 0;
}

static int device_name(int32_t device, char *name, size_t size)
{
    size_t at = 0;
#ifdef IMAGINE__EMULATED
    (void)device;
    put_text(name, size, &at, "emulator");
    return 0;
#else
    cudaDeviceProp properties;
    cudaError_t status = cudaGetDeviceProperties(&properties, device);
    if (status != cudaSuccess)
        return (int)status;
    const char capability[] = {(char)('0' + properties.major % 10), '.', (char)('0' + properties.minor % 10), ')', 0};
    put_text(name, size, &at, properties.name);
    put_text(name, size, &at, properties.major >= 10 ? " (1" : " (");
    put_text(name, size, &at, capability);
    return 0;
#endif
}

static int use_device(int32_t device)
{
#ifdef IMAGINE__EMULATED
    return device != 0;
#else
    return (int)cudaSetDevice(device);
#endif
}

static int allocate(void **memory, size_t size)
{
#ifdef IMAGINE__EMULATED
    *memory = emulator::allocate(size);
    return *memory ? 0 : 2; /* cudaErrorMemoryAllocation */
#else
    *memory = nullptr;
    return (int)cudaMalloc(memory, size);
#endif
}

static void release(void *memory)
{
#ifdef IMAGINE__EMULATED
    emulator::release(memory);
#else
    (void)cudaFree(memory);
#endif
}

static int upload(void *device, const void *host, size_t size, void *stream)
{
#ifdef IMAGINE__EMULATED
    (void)stream;
    emulator::copy_in(device, host, size);
    return 0;
#else
    cudaError_t status = cudaMemcpyAsync(device, host, size, cudaMemcpyHostToDevice, (cudaStream_t)stream);
    return (int)(status == cudaSuccess ? cudaStreamSynchronize((cudaStream_t)stream) : status);
#endif
}

static int download(void *host, const void *device, size_t size, void *stream)
{
#ifdef IMAGINE__EMULATED
    (void)stream;
    emulator::copy_out(host, device, size);
    return 0;
#else
    cudaError_t status = cudaMemcpyAsync(host, device, size, cudaMemcpyDeviceToHost, (cudaStream_t)stream);
    return (int)(status == cudaSuccess ? cudaStreamSynchronize((cudaStream_t)stream) : status);
#endif
}

static int synchronize(void *stream)
{
#ifdef IMAGINE__EMULATED
    (void)stream;
    return 0;
#else
    return (int)cudaStreamSynchronize((cudaStream_t)stream);
#endif
}

static int copy(void *to, const void *from, size_t size, void *stream)
{
#ifdef IMAGINE__EMULATED
    (void)stream;
    emulator::copy(to, from, size);
    return 0;
#else
    return size ? (int)cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, (cudaStream_t)stream) : 0;
#endif
}

static int clear(void *memory, size_t size, void *stream)
{
#ifdef IMAGINE__EMULATED
    (void)stream;
    emulator::clear(memory, size);
    return 0;
#else
    return size ? (int)cudaMemsetAsync(memory, 0, size, (cudaStream_t)stream) : 0;
#endif
}

static int stream_create(void **stream)
{
    *stream = nullptr;
#ifdef IMAGINE__EMULATED
    return 0; /* there is but one, and all is done when a call returns */
#else
    return (int)cudaStreamCreateWithFlags((cudaStream_t *)stream, cudaStreamNonBlocking);
#endif
}

static void stream_destroy(void *stream)
{
#ifndef IMAGINE__EMULATED
    if (stream)
        (void)cudaStreamDestroy((cudaStream_t)stream);
#endif
    (void)stream;
}

static int mark_create(void **mark)
{
#ifdef IMAGINE__EMULATED
    return allocate(mark, 1);
#else
    *mark = nullptr;
    return (int)cudaEventCreateWithFlags((cudaEvent_t *)mark, cudaEventDisableTiming);
#endif
}

static void mark_destroy(void *mark)
{
#ifdef IMAGINE__EMULATED
    release(mark);
#else
    if (mark)
        (void)cudaEventDestroy((cudaEvent_t)mark);
#endif
}

static int put_mark(void *mark, void *stream)
{
#ifdef IMAGINE__EMULATED
    return (void)stream, clear(mark, 1, nullptr);
#else
    return (int)cudaEventRecord((cudaEvent_t)mark, (cudaStream_t)stream);
#endif
}

static int mark_wait(void *mark)
{
#ifdef IMAGINE__EMULATED
    return !mark;
#else
    return (int)cudaEventSynchronize((cudaEvent_t)mark);
#endif
}

static int memory_info(size_t *available, size_t *total)
{
#ifdef IMAGINE__EMULATED
    *available = *total = (size_t)1 << 26;
    return 0;
#else
    return (int)cudaMemGetInfo(available, total);
#endif
}

extern "C" const imagine__cuda *imagine__cuda_module(int32_t version)
{
    static const imagine__cuda table = {
        IMAGINE__CUDA_VERSION, IMAGINE__BODY(0, 1), error_text, device_count, device_name, use_device, allocate, release, upload, download,
        synchronize, copy, clear, stream_create, stream_destroy, mark_create, mark_destroy, put_mark, mark_wait, memory_info,
        imagine__cuda_attention, imagine__cuda_norm, imagine__cuda_norm_rope, imagine__cuda_patchify, imagine__cuda_unpatchify,
        imagine__cuda_activate, imagine__cuda_embed, imagine__cuda_combine, imagine__cuda_transpose, imagine__cuda_finite,
        imagine__cuda_to_u8, imagine__cuda_from_u8, imagine__cuda_upsample, imagine__cuda_products_size,
        imagine__cuda_products_open, imagine__cuda_products_close, imagine__cuda_linear, imagine__cuda_conv,
        imagine__cuda_attention_f32, imagine__cuda_shortcut_down, imagine__cuda_shortcut_up, imagine__cuda_modulate,
        imagine__cuda_relative_bias, imagine__cuda_pixels, imagine__cuda_snake, imagine__cuda_peak,
    };
    return version == IMAGINE__CUDA_VERSION ? &table : nullptr;
}
