/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/internal.cuh"

#ifdef IMAGINE__EMULATED
#include <stdio.h>
#else
#include <cuda.h>
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
    static_assert(IMAGINE__CUDA_OLD_DRIVER == (int)cudaErrorInsufficientDriver, "the driver's number");
    int driver = 0; /* the runtime says that it is too old where there is none, too, whose version is 0 */
    if (status == cudaErrorNoDevice ||
        (status == cudaErrorInsufficientDriver && (cudaDriverGetVersion(&driver) != cudaSuccess || !driver)))
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

static int capability(int32_t device)
{
#ifdef IMAGINE__EMULATED
    (void)device;
    return emulator::capability();
#else
    int major, minor;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
        return 0;
    return 10 * major + minor;
#endif
}

static int use_device(int32_t device)
{
#ifdef IMAGINE__EMULATED
    return emulator::use_device(device);
#else
    return (int)cudaSetDevice(device);
#endif
}

#ifndef IMAGINE__EMULATED
/* The runtime has a device for each thread, in variables of its own that no other copy of it in the process sees. What the driver
 * has is a context for each thread, and that is what all of them, and a program that does without the runtime, find there. */
struct thread_contexts {
    decltype(&cuCtxGetCurrent) get;
    decltype(&cuCtxSetCurrent) set;
};

static void *driver_function(const char *name, unsigned since)
{
    void *found = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaError_t status = cudaGetDriverEntryPointByVersion(name, &found, since, cudaEnableDefault, &result);
    if (status == cudaSuccess && result == cudaDriverEntryPointSuccess)
        return found;
    (void)cudaGetLastError(); /* not to come back from a later call */
    return nullptr;
}

/* Looked up once in the process, by whichever thread comes first. NULLs: the driver has them not. */
static const thread_contexts &driver()
{
    static const thread_contexts found = {(decltype(&cuCtxGetCurrent))driver_function("cuCtxGetCurrent", 4000),
                                          (decltype(&cuCtxSetCurrent))driver_function("cuCtxSetCurrent", 4000)};
    return found;
}
#endif

static int current_context(void **context)
{
    *context = nullptr;
#ifdef IMAGINE__EMULATED
    *context = emulator::current_context();
    return 0;
#else
    const thread_contexts &of_thread = driver();
    if (!of_thread.get || !of_thread.set)
        return (int)cudaErrorNotSupported;
    return (int)of_thread.get((CUcontext *)context);
#endif
}

static int set_context(void *context)
{
#ifdef IMAGINE__EMULATED
    emulator::set_context(context);
    return 0;
#else
    return driver().set ? (int)driver().set((CUcontext)context) : (int)cudaErrorNotSupported;
#endif
}

static int allocate(void **memory, size_t size)
{
    beside_recordings beside;
    *memory = nullptr;
#ifdef IMAGINE__EMULATED
    if (emulator::forbidden("an allocation"))
        return 900; /* cudaErrorStreamCaptureUnsupported */
    *memory = emulator::allocate(size);
    return *memory ? 0 : 2; /* cudaErrorMemoryAllocation */
#else
    return (int)cudaMalloc(memory, size);
#endif
}

static int release(void *memory)
{
    beside_recordings beside;
#ifdef IMAGINE__EMULATED
    if (emulator::forbidden("a release"))
        return 900; /* cudaErrorStreamCaptureUnsupported: it stays */
    emulator::release(memory);
    return 0;
#else
    return (int)cudaFree(memory);
#endif
}

static int upload(void *device, const void *host, size_t size, void *stream)
{
    beside_recordings beside;
#ifdef IMAGINE__EMULATED
    int status = emulator::settle(stream);
    if (!status)
        emulator::copy_in(device, host, size);
    return status;
#else
    cudaError_t status = cudaMemcpyAsync(device, host, size, cudaMemcpyHostToDevice, (cudaStream_t)stream);
    return (int)(status == cudaSuccess ? cudaStreamSynchronize((cudaStream_t)stream) : status);
#endif
}

static int download(void *host, const void *device, size_t size, void *stream)
{
    beside_recordings beside;
#ifdef IMAGINE__EMULATED
    int status = emulator::settle(stream);
    if (!status)
        emulator::copy_out(host, device, size);
    return status;
#else
    cudaError_t status = cudaMemcpyAsync(host, device, size, cudaMemcpyDeviceToHost, (cudaStream_t)stream);
    return (int)(status == cudaSuccess ? cudaStreamSynchronize((cudaStream_t)stream) : status);
#endif
}

static int synchronize(void *stream)
{
    beside_recordings beside;
#ifdef IMAGINE__EMULATED
    return emulator::settle(stream);
#else
    return (int)cudaStreamSynchronize((cudaStream_t)stream);
#endif
}

static int copy(void *to, const void *from, size_t size, void *stream)
{
#ifdef IMAGINE__EMULATED
    return emulator::copy(to, from, size, stream);
#else
    return size ? (int)cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, (cudaStream_t)stream) : 0;
#endif
}

static int clear(void *memory, size_t size, void *stream)
{
#ifdef IMAGINE__EMULATED
    return emulator::clear(memory, size, stream);
#else
    return size ? (int)cudaMemsetAsync(memory, 0, size, (cudaStream_t)stream) : 0;
#endif
}

static int stream_create(void **stream)
{
#ifdef IMAGINE__EMULATED
    return emulator::stream_create(stream);
#else
    *stream = nullptr;
    return (int)cudaStreamCreateWithFlags((cudaStream_t *)stream, cudaStreamNonBlocking);
#endif
}

static void stream_destroy(void *stream)
{
#ifdef IMAGINE__EMULATED
    emulator::stream_destroy(stream);
#else
    if (stream)
        (void)cudaStreamDestroy((cudaStream_t)stream);
#endif
}

static int mark_create(void **mark)
{
#ifdef IMAGINE__EMULATED
    return emulator::mark_create(mark);
#else
    *mark = nullptr;
    return (int)cudaEventCreateWithFlags((cudaEvent_t *)mark, cudaEventDisableTiming);
#endif
}

static void mark_destroy(void *mark)
{
#ifdef IMAGINE__EMULATED
    emulator::mark_destroy(mark);
#else
    if (mark)
        (void)cudaEventDestroy((cudaEvent_t)mark);
#endif
}

static int put_mark(void *mark, void *stream)
{
#ifdef IMAGINE__EMULATED
    return emulator::put_mark(mark, stream);
#else
    return (int)cudaEventRecord((cudaEvent_t)mark, (cudaStream_t)stream);
#endif
}

static int mark_wait(void *mark)
{
    beside_recordings beside;
#ifdef IMAGINE__EMULATED
    return emulator::mark_wait(mark);
#else
    return (int)cudaEventSynchronize((cudaEvent_t)mark);
#endif
}

static int graph_begin(void *stream)
{
#ifdef IMAGINE__EMULATED
    return emulator::graph_begin(stream);
#else
    return (int)cudaStreamBeginCapture((cudaStream_t)stream, cudaStreamCaptureModeThreadLocal);
#endif
}

static int graph_end(void *stream, void **graph)
{
    *graph = nullptr;
#ifdef IMAGINE__EMULATED
    return emulator::graph_end(stream, graph);
#else
    cudaGraph_t recorded = nullptr;
    cudaGraphExec_t made = nullptr;
    cudaError_t status = cudaStreamEndCapture((cudaStream_t)stream, &recorded);
    if (status == cudaSuccess)
        status = cudaGraphInstantiate(&made, recorded, 0);
    if (recorded)
        (void)cudaGraphDestroy(recorded);
    if (status == cudaSuccess)
        *graph = made;
    else
        (void)cudaGetLastError(); /* not to come back from a later call */
    return (int)status;
#endif
}

static int graph_launch(void *graph, void *stream)
{
#ifdef IMAGINE__EMULATED
    return emulator::graph_launch(graph, stream);
#else
    return (int)cudaGraphLaunch((cudaGraphExec_t)graph, (cudaStream_t)stream);
#endif
}

static void graph_destroy(void *graph)
{
#ifdef IMAGINE__EMULATED
    emulator::graph_destroy(graph);
#else
    if (graph)
        (void)cudaGraphExecDestroy((cudaGraphExec_t)graph);
#endif
}

static int upload_later(void *device, const void *host, size_t size, void *stream)
{
    beside_recordings beside; /* memory that is not pinned is copied at once */
    if (!size)
        return 0;
#ifdef IMAGINE__EMULATED
    return emulator::copy_later(device, host, size, stream);
#else
    return (int)cudaMemcpyAsync(device, host, size, cudaMemcpyHostToDevice, (cudaStream_t)stream);
#endif
}

static int pin(void *host, size_t size)
{
    beside_recordings beside;
#ifdef IMAGINE__EMULATED
    return emulator::pin(host, size);
#else
    cudaError_t status = cudaHostRegister(host, size, cudaHostRegisterPortable);
    if (status != cudaSuccess)
        (void)cudaGetLastError();
    return (int)status;
#endif
}

static void unpin(void *host)
{
    beside_recordings beside;
#ifdef IMAGINE__EMULATED
    emulator::unpin(host);
#else
    (void)cudaHostUnregister(host);
#endif
}

static int stream_wait(void *stream, void *mark)
{
#ifdef IMAGINE__EMULATED
    return emulator::stream_wait(stream, mark);
#else
    return (int)cudaStreamWaitEvent((cudaStream_t)stream, (cudaEvent_t)mark, 0);
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
        IMAGINE__CUDA_VERSION, IMAGINE__BODY(0, 1), error_text, device_count, device_name, capability, use_device,
        current_context, set_context, allocate, release, upload, download, synchronize, copy, clear, stream_create, stream_destroy,
        mark_create, mark_destroy, put_mark, mark_wait, memory_info,
        imagine__cuda_attention, imagine__cuda_norm, imagine__cuda_norm_rope, imagine__cuda_patchify, imagine__cuda_unpatchify,
        imagine__cuda_activate, imagine__cuda_embed, imagine__cuda_combine, imagine__cuda_transpose, imagine__cuda_finite,
        imagine__cuda_to_u8, imagine__cuda_from_u8, imagine__cuda_upsample, imagine__cuda_products_size,
        imagine__cuda_products_open, imagine__cuda_products_close, imagine__cuda_convolutions_size,
        imagine__cuda_convolutions_open, imagine__cuda_convolutions_close, imagine__cuda_linear, imagine__cuda_conv,
        imagine__cuda_attend, imagine__cuda_shortcut_down, imagine__cuda_shortcut_up, imagine__cuda_modulate,
        imagine__cuda_relative_bias, imagine__cuda_pixels, imagine__cuda_snake, imagine__cuda_peak,
        graph_begin, graph_end, graph_launch, graph_destroy, upload_later, pin, unpin, stream_wait,
        imagine__cuda_keep, imagine__cuda_spread, imagine__cuda_rescale, imagine__cuda_products_started,
        imagine__cuda_convolutions_started,
    };
    return version == IMAGINE__CUDA_VERSION ? &table : nullptr;
}
