/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_CONTEXT_H
#define IMAGINE_CONTEXT_H

#include "status.h"

/* Where the work is done, with how many threads, with whose memory. Reference counted; every function here may be
 * called from any thread. A process may hold as many contexts as it likes: they share nothing but, on one GPU, that GPU, its
 * driver and NVIDIA's libraries. */
typedef struct imagine_context imagine_context;

typedef int32_t imagine_device;
#define IMAGINE_DEVICE_CPU 1
/* An NVIDIA GPU, through the module libimagine_cuda.so: weights and activations lie there, what callers get lies on the host.
 * A context for one is refused where module, driver or GPU are missing; the message says which. */
#define IMAGINE_DEVICE_CUDA 2

/* The type in which a GPU computes matrix products, convolutions and attention; everything else is f32. NVIDIA's libraries are
 * used where they are installed and a product is large: cuBLASLt in both precisions, with an algorithm that in F32 depends on the
 * weights alone; cuDNN in BF16. In BF16 each of them, and the module's own kernel for products of few rows, sums in an order of
 * its own: the same call gives the same bytes again on the same GPU, but between rows of a batch, modes of guidance, or tiles and
 * whole pictures results are near each other, not the same. */
typedef int32_t imagine_precision;
#define IMAGINE_PRECISION_F32 0 /* f32 */
#define IMAGINE_PRECISION_BF16 1 /* factors, and what a transformer keeps within a block, rounded to bf16; sums and its stream in f32 */

/* Whether the launches of a transformer's block, which are the same in every step, are recorded as CUDA graphs and from then on
 * started together. The results have the same bytes either way. */
typedef int32_t imagine_graphs;
#define IMAGINE_GRAPHS_AUTO 0 /* the second time that a block is run with the same sizes and addresses */
#define IMAGINE_GRAPHS_OFF 1 /* every launch by itself */

/* Instruction set levels of the CPU, each with those before it. */
typedef int32_t imagine_cpu_level;
#define IMAGINE_CPU_BEST 0 /* what the machine has, but never AVX512BF16 or AMX */
#define IMAGINE_CPU_PLAIN 1 /* plain C, the specification */
#define IMAGINE_CPU_AVX2 2 /* AVX2, FMA, F16C */
#define IMAGINE_CPU_AVX512 3 /* AVX-512 F, BW, DQ, VL */
/* AVX512-BF16: matrix products with weights stored as bf16 round their activations to bf16 (8 bits of mantissa), and so take
 * about half of the time on AMD's processors; Intel's are no faster so, and have AMX. Everything else, and weights stored as f32, as with
 * AVX512. Used only when asked for; a processor without it gets the next lower level that it has, which imagine_context_get_info
 * tells. */
#define IMAGINE_CPU_AVX512BF16 4
/* AMX-BF16: the same products, several times as fast, and attention with heads of up to 256, whose queries, keys, values and weights
 * are rounded to bf16. Also used only when asked for: Linux is then asked for the registers, for the whole process, and where it
 * has none to give the level below is used. */
#define IMAGINE_CPU_AMX 5

typedef int32_t imagine_log_level;
#define IMAGINE_LOG_ERROR 1
#define IMAGINE_LOG_WARNING 2
#define IMAGINE_LOG_INFO 3
#define IMAGINE_LOG_DEBUG 4

/* Returns `size` bytes at a multiple of `alignment` (a power of two, at most 4096), or NULL. May be called from any
 * thread, several at once. */
typedef void *imagine_alloc_fn(void *user_data, size_t size, size_t alignment);

/* Gives back what imagine_alloc_fn returned; `size` is the size that was asked for. */
typedef void imagine_free_fn(void *user_data, void *pointer, size_t size);

/* One line of log, without a newline; the text lives until the function returns. May be called from any thread,
 * several at once; must not call back into the library. */
typedef void imagine_log_fn(void *user_data, imagine_log_level level, const char *text);

typedef struct imagine_context_options {
    uint32_t struct_size;
    imagine_device device; /* default IMAGINE_DEVICE_CPU */
    int32_t threads; /* that compute one job or call, 1 to 256, counting the job's own or the calling thread; jobs and calls at the
                      * same time share the others. 0: as many as this process may run on, or fewer where its cgroup has less
                      * processor time */
    imagine_cpu_level cpu_level; /* at most this level; default IMAGINE_CPU_BEST */
    uint64_t memory_limit; /* bytes that the context may hold at once, on host and device together; 0: no limit */
    imagine_alloc_fn *allocate; /* NULL, with `release` NULL: the C library's */
    imagine_free_fn *release;
    void *allocator_data;
    imagine_log_fn *log; /* NULL: silence */
    void *log_data;
    imagine_log_level log_level; /* the most detailed level that is reported; default IMAGINE_LOG_WARNING */
    uint32_t reserved0;
    /* With IMAGINE_DEVICE_CUDA; since 0.2. GPU number, from 0. Work and memory are in this GPU's primary context, as the CUDA
     * runtime's are. After each call the calling thread's current CUDA context, and so its device, is what it was before. */
    int32_t device_number;
    imagine_precision precision; /* default IMAGINE_PRECISION_F32 */
    void *stream; /* a cudaStream_t of that GPU, in its primary context, for all work; must outlive the context; NULL: the
                   * context makes one; cudaStreamPerThread is refused */
    imagine_graphs graphs; /* default IMAGINE_GRAPHS_AUTO */
    uint32_t reserved1;
} imagine_context_options;

typedef struct imagine_context_info {
    uint32_t struct_size;
    imagine_device device;
    int32_t threads;
    imagine_cpu_level cpu_level; /* the level in use, never IMAGINE_CPU_BEST */
    uint64_t memory_used; /* bytes held now, on host and device together */
    uint64_t memory_peak; /* most bytes held since creation, the last imagine_context_reset_peak or the last job's start */
    uint64_t device_memory_used; /* of memory_used, those on the GPU, without what its driver and cuDNN need themselves; since 0.2 */
    uint64_t device_memory_peak; /* most of these, likewise */
    int32_t device_number; /* with IMAGINE_DEVICE_CUDA */
    uint32_t reserved0;
} imagine_context_info;

/* Asks running work to stop. Reference counted; may be fired from any thread and from a signal handler, and be given
 * to several handles at once. */
typedef struct imagine_cancel imagine_cancel;

#ifdef __cplusplus
extern "C" {
#endif

/* Fills in the defaults. `size` is the caller's sizeof(imagine_context_options). */
IMAGINE_API void imagine_context_options_init(imagine_context_options *options, size_t size);

/* Makes a context and its threads. `options` may be NULL. On failure *context is NULL and nothing is left behind. */
IMAGINE_API imagine_status imagine_context_create(imagine_context **context, const imagine_context_options *options,
                                                  imagine_error *error);

/* One reference more, to be released by its own; returns `context`. NULL is fine. */
IMAGINE_API imagine_context *imagine_context_retain(imagine_context *context);

/* Drops one reference and sets *context to NULL; NULL and a pointer to NULL are fine. Models, buffers and stages hold
 * references of their own, so the order of releasing does not matter. */
IMAGINE_API void imagine_context_release(imagine_context **context);

/* Fills min(info->struct_size, known) bytes of *info. */
IMAGINE_API imagine_status imagine_context_get_info(const imagine_context *context, imagine_context_info *info,
                                                    imagine_error *error);

/* Begins a new measurement of memory_peak. */
IMAGINE_API void imagine_context_reset_peak(imagine_context *context);

/* A token that has not been fired, for any handles of any context; the memory is the context's. */
IMAGINE_API imagine_status imagine_cancel_create(imagine_cancel **cancel, imagine_context *context,
                                                 imagine_error *error);

/* One reference more, to be released by its own; returns `cancel`. NULL is fine. */
IMAGINE_API imagine_cancel *imagine_cancel_retain(imagine_cancel *cancel);

/* As imagine_context_release. Handles that were given the token hold references of their own. */
IMAGINE_API void imagine_cancel_release(imagine_cancel **cancel);

/* From now on work that was given this token ends with IMAGINE_ERROR_CANCELLED, within 50 ms; on a GPU, once what is under way
 * is done: less than a block of a transformer, up to two of the text encoder or the VAE. Async-signal-safe. */
IMAGINE_API void imagine_cancel_fire(imagine_cancel *cancel);

/* Makes the token usable again. Not while work that was given it is running. */
IMAGINE_API void imagine_cancel_reset(imagine_cancel *cancel);

/* 1 after imagine_cancel_fire, else 0. */
IMAGINE_API int32_t imagine_cancel_fired(const imagine_cancel *cancel);

#ifdef __cplusplus
}
#endif
#endif
