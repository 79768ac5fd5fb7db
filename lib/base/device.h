/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_BASE_DEVICE_H
#define IMAGINE_BASE_DEVICE_H

/* A context's GPU, for lib/base alone: the module that reaches it, its memory, and what its operations are called with. */

#include <pthread.h>

#include "base/cuda.h"

typedef struct imagine__device_block {
    uintptr_t at;
    size_t size; /* as it was booked */
} imagine__device_block;

typedef struct imagine__device {
    imagine__cuda_module_file module;
    const imagine__cuda *cuda; /* the module's table */
    int32_t number;
    int32_t own_stream; /* 1: made with the context */
    void *stream; /* of all operations, and of copies that are in order with them */
    void *copies; /* the stream of copies of weights (upload.c) */
    imagine__cuda_precision precision;
    int32_t graphs; /* 1: work that comes again is recorded */
    void *convolutions; /* what the module has planned for large ones, with cuDNN's handle, under `starting`; NULL in f32 */
    void *workspace; /* of all operations: while one of them starts what goes through it, under `starting`, no other does */
    size_t workspace_size;
    pthread_mutex_t starting;
    pthread_mutex_t mutex; /* for the blocks */
    imagine__device_block *blocks; /* by address */
    size_t count, capacity;
    _Atomic uint64_t used, peak; /* bytes */
    _Atomic int32_t refused; /* why the last allocation failed, where it was not for want of memory; 0: it did not */
    _Atomic int32_t told; /* 1: that a library is missing */
    _Atomic int32_t unreported; /* a failure that showed where nobody could be told, for the next run that looks; 0: none */
} imagine__device;

/* A run's place in the stream. */
typedef struct imagine__queue {
    void *marks[2]; /* behind the last two blocks */
    uint32_t blocks; /* that were marked */
    int code; /* the first failure that was not reported yet; 0: none */
    const char *what; /* failed */
    uint32_t *flag; /* device memory for an operation's answer */
    void *products; /* what the module has planned for large products, or NULL */
    struct imagine__graphs *graphs; /* NULL: none yet (graphs.c) */
    void *recording; /* the stream that is recorded, instead of the context's; NULL: nothing is */
    int32_t incomplete; /* 1: something was left out of the recording */
    int32_t disturbed; /* recordings that others have spoilt */
    int32_t no_graphs; /* 1: a recording has failed of itself, or too many were spoilt */
} imagine__queue;

/* Opens the module and the device, and makes the stream (`stream` not NULL: the caller's). */
imagine_status imagine__device_open(imagine_context *context, int32_t number, void *stream,
                                    imagine__cuda_precision precision, int32_t graphs, imagine_error *error);
/* Waits for the device and lets go of it; all its memory has been freed. */
void imagine__device_close(imagine_context *context);

/* From device to device, whole before it returns: on the streams of both. 0, or an error number. */
int imagine__device_copy(imagine_context *to_context, imagine_context *from_context, void *to, const void *from, size_t size);
void imagine__device_wait(imagine_context *context);

/* The table of operations whose values lie on a device; the run is an imagine__work (device_kernels.c). */
extern const imagine__kernels imagine__kernels_device;

/* Where a run's operations go. */
void *imagine__queue_stream(const imagine__work *work);
/* All graphs of a run; nothing of them is under way. */
void imagine__graphs_free(imagine__work *work);

imagine_status imagine__queue_open(imagine__work *work, imagine_error *error);
void imagine__queue_close(imagine__work *work);
/* Notes the result of something that was started: the first failure is kept for imagine__work_check. */
void imagine__queue_note(imagine__work *work, int code, const char *what);
/* The end of a block: waits until the one before the last is done. */
void imagine__queue_mark(imagine__work *work);
/* IMAGINE_OK, or what has failed since the last time. */
imagine_status imagine__queue_report(imagine__work *work, imagine_error *error);

/* IMAGINE_ERROR_DEVICE, or IMAGINE_ERROR_NO_MEMORY where that is it, with the driver's words. */
imagine_status imagine__device_fail(const imagine__cuda *cuda, int code, const char *what, imagine_error *error);

#endif
