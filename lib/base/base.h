/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_BASE_BASE_H
#define IMAGINE_BASE_BASE_H

/* What every file of lib/ stands on: errors, memory, threads, runs, options. */

typedef struct imagine__work imagine__work;

_Static_assert(sizeof(void *) == 8, "libimagine needs pointers of 64 bits: no x32, no 32-bit build");

#include <fenv.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <imagine/imagine.h>

#include "kernels/kernels.h"

/* ---- errors ---------------------------------------------------------------------------------- */

/* Fills *error (which may be NULL) and returns `status`, so that a caller can return the call itself. Long messages are
 * cut at a character's boundary, with "..." at the end. */
imagine_status imagine__fail(imagine_error *error, imagine_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same with errno's number in native_code and its text after the message. */
imagine_status imagine__fail_errno(imagine_error *error, imagine_status status, int number, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* "out of memory" for `size` bytes of `what`. */
imagine_status imagine__fail_memory(imagine_error *error, size_t size, const char *what);
/* The same right after the context refused them: says whether its limit or its allocator did. */
imagine_status imagine__fail_memory_in(const imagine_context *context, imagine_error *error, size_t size, const char *what);

/* ---- contexts, memory (memory.c, context.c) -------------------------------------------------- */

/* Memory comes from the context's allocator, counts towards its limit and peak, and is aligned to 64 bytes. The size is
 * kept in front of the block, so free needs none. NULL when the allocator or the limit says no. Thread-safe. */
void *imagine__alloc(imagine_context *context, size_t size);
void *imagine__calloc(imagine_context *context, size_t count, size_t size); /* zeroed; overflow-checked */
void imagine__free(imagine_context *context, void *pointer); /* NULL is fine */
char *imagine__strdup(imagine_context *context, const char *text);
/* New block with the old one's first min(old, size) bytes; the old one stays on failure. */
void *imagine__realloc(imagine_context *context, void *pointer, size_t size);

/* Counts of references. One that so many were forgotten of that it would begin again at 0 stays below 0 instead, and what it
 * counts is never freed: in Rust, safe code can do that, and must not free what others use. */
void imagine__reference(atomic_int *count);
int imagine__unreference(atomic_int *count); /* 1: that was the last one */

/* Memory for the values of tensors: weights, activations, latents. Where the context computes on the host it is the same as
 * imagine__alloc; where it computes on a GPU it lies there, and the host must not look through the pointer. In a context
 * that plans (plan.c) the bytes are only counted: the pointer may be moved along and given back, no more. So values are
 * touched in operations and by the functions of device.c alone; what else wants to see them borrows them
 * (imagine__borrow). */
void *imagine__alloc_values(imagine_context *context, size_t size);
/* The same on the host, wherever the context computes: what is read from files, and what callers get. In a context that
 * plans the bytes are only counted: what looks at them asks imagine__planning first. */
void *imagine__alloc_host_values(imagine_context *context, size_t size);
/* From the host to the host. Copies `count` pieces of `size` bytes, whose beginnings lie to_step and from_step bytes apart.
 * No cancel leaves it out. */
void imagine__copy_host(const imagine_context *context, void *to, size_t to_step, const void *from, size_t from_step,
                        size_t size, int64_t count);
void imagine__clear_host(const imagine_context *context, void *to, size_t size);

/* a * b or a + b in *result; 0 on overflow, else 1. */
int imagine__mul_size(size_t a, size_t b, size_t *result);
int imagine__add_size(size_t a, size_t b, size_t *result);

/* Leaves UTF-8 on one line: other bytes, and those that control a terminal, become question marks. */
void imagine__mend_text(char *text);

void imagine__log(imagine_context *context, imagine_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

uint64_t imagine__context_used(const imagine_context *context); /* bytes held now */
uint64_t imagine__context_limit(const imagine_context *context); /* bytes; 0: none; of a plan: what it is for */
const imagine__kernels *imagine__context_kernels(const imagine_context *context);
/* The operations for tensors on the host: the context's own, or, where it computes on a GPU, its CPU's. */
const imagine__kernels *imagine__context_host_kernels(const imagine_context *context);
int imagine__on_device(const imagine_context *context); /* 1: values lie on a GPU */
/* What operations may leave each other: bf16 on a device that computes in it, else f32. */
imagine__wtype imagine__activations(const imagine_context *context);
int32_t imagine__context_threads(const imagine_context *context);

/* ---- the host's threads (guard.c) ------------------------------------------------------------ */

/* Until the function returns, the thread may work with the context's GPU, whose primary context of the driver's is then its current
 * one; afterwards it has its own again, or none. A context on the CPU, or NULL: nothing (device.c). */
typedef struct imagine__visit {
    const struct imagine__cuda *cuda; /* NULL: there is nothing to put back */
    void *own; /* the driver's context that the thread had */
} imagine__visit;
imagine__visit imagine__visit_begin(const imagine_context *context);
void imagine__visit_end(imagine__visit *visit);
#define IMAGINE__VISIT(context) \
    imagine__visit visit __attribute__((unused, cleanup(imagine__visit_end))) = imagine__visit_begin(context)

/* The same, and the thread has the default floating-point environment, upon which the promised bytes depend, and
 * pthread_cancel waits, which would leave locks behind. First in every function of the API that computes, reads or waits. */
typedef struct imagine__guard {
    fenv_t floats;
    int cancel;
    imagine__visit visit;
} imagine__guard;
imagine__guard imagine__guard_enter(const imagine_context *context);
void imagine__guard_leave(imagine__guard *guard);
#define IMAGINE__GUARD(context) \
    imagine__guard guard __attribute__((unused, cleanup(imagine__guard_leave))) = imagine__guard_enter(context)
/* For it: of a handle that has a context, or of a pointer to one; either may be NULL. */
#define IMAGINE__CONTEXT_OF(handle) ((handle) ? (handle)->context : NULL)
#define IMAGINE__CONTEXT_AT(at) ((at) ? IMAGINE__CONTEXT_OF(*(at)) : NULL)

/* A thread of the library's: with the same environment, and with all signals blocked but those that a fault of its own raises, since the
 * host's handlers are to run on the host's threads. 0, or an error number. */
int imagine__thread_create(pthread_t *thread, void *(*body)(void *), void *argument);

/* IMAGINE_OK, or IMAGINE_ERROR_FORKED (with the message) in a child of the process that made the context. */
imagine_status imagine__check_process(const imagine_context *context, imagine_error *error);
/* A token that has also fired once `parent` (NULL: none; retained) has. */
imagine_status imagine__cancel_create_child(imagine_cancel **cancel, imagine_context *context, imagine_cancel *parent,
                                            imagine_cancel *other, imagine_error *error);
/* For destroy functions: 1 in a forked child, where threads must not be joined. */
int imagine__forked(const imagine_context *context);

/* ---- plans (plan.c) ------------------------------------------------------------------------- */

/* A context in which the same code runs and nothing is computed: operations and tiles do nothing, values are counted and
 * not had (imagine__alloc_values). What `context` allows is no limit; all else, small as it is, comes from its memory.
 * It counts on from `held` bytes. One thread; released before `context` is. */
imagine_status imagine__context_plan(imagine_context **planning, imagine_context *context, uint64_t held,
                                     imagine_error *error);
int imagine__planning(const imagine_context *context);
/* Counts `size` bytes less: what was held before the plan began is given back in it. */
void imagine__plan_discount(imagine_context *planning, uint64_t size);

/* ---- arena (arena.c) ------------------------------------------------------------------------- */

/* A stack of temporary memory for values in chunks: allocate, and go back to a mark. Blocks are aligned to 64 bytes and
 * never move. Chunks are kept for the next use until the arena is destroyed. One thread. */
typedef struct imagine__arena imagine__arena;
typedef struct imagine__arena_mark {
    size_t chunk, offset, host_chunk, host_offset;
} imagine__arena_mark;

imagine__arena *imagine__arena_create(imagine_context *context); /* NULL: out of memory */
void imagine__arena_destroy(imagine__arena *arena);
void *imagine__arena_alloc(imagine__arena *arena, size_t size); /* NULL: out of memory */
float *imagine__arena_floats(imagine__arena *arena, int64_t count); /* overflow-checked; NULL: out of memory */
void *imagine__arena_values(imagine__arena *arena, int64_t count, imagine__wtype type); /* likewise */
/* The same for what the host is to look at; marks count for both. */
void *imagine__arena_host(imagine__arena *arena, size_t size);
float *imagine__arena_host_floats(imagine__arena *arena, int64_t count);
imagine__arena_mark imagine__arena_save(const imagine__arena *arena);
void imagine__arena_restore(imagine__arena *arena, imagine__arena_mark mark);
/* Gives chunks that are not in use back to the context. */
void imagine__arena_trim(imagine__arena *arena);

/* ---- runs (run.c, threads.c) ----------------------------------------------------------------- */

/* A thread of control that computes: the run that the kernels see, an arena, and what may stop it. Embed as the first
 * member or by value; one thread at a time. Several runs may use the context's threads at once: they take turns by
 * tile. */
struct imagine__work {
    imagine__run run; /* first, so that &work->run is what the kernels get */
    imagine_context *context;
    imagine__arena *arena;
    const imagine_cancel *cancel; /* or NULL */
    const atomic_int *stop; /* a second flag, or NULL */
    void *scratch; /* IMAGINE__SCRATCH bytes of the calling thread */
    struct imagine__device *device; /* NULL: the host computes */
    struct imagine__queue *queue; /* with a device: how far it is, and what failed on it (device.c) */
    struct {
        int32_t key[4]; /* all 0: none */
        float *cosines, *sines;
    } positions; /* with a device: the table of positions of the last forward (rope.c), for the next one */
};

/* `cancel` is not retained here. */
imagine_status imagine__work_init(imagine__work *work, imagine_context *context, const imagine_cancel *cancel,
                                  imagine_error *error);
void imagine__work_fini(imagine__work *work); /* of a zeroed struct: nothing */
/* IMAGINE_OK, or IMAGINE_ERROR_CANCELLED with its message. Call it after the operations of half a block. On a device it
 * also reports what failed there since the last call, once, and waits until all before that call's operations is done. */
imagine_status imagine__work_check(imagine__work *work, imagine_error *error);
/* The device's part of it alone, which needs no waiting. */
imagine_status imagine__work_failed(imagine__work *work, imagine_error *error);
/* *values = `count` zeros, to be given to imagine__free; NULL after a failure or a cancel, which is obeyed while they are
 * written. `what` names them in the error. */
imagine_status imagine__work_zeros(imagine__work *work, float **values, size_t count, const char *what,
                                   imagine_error *error);

/* ---- work that comes again (graphs.c) ---------------------------------------------------------- */

/* On a device, launches that come again with the same arguments are recorded as graphs and then started by one call each. A
 * sequence is `count` parts that come one after the other, as the halves of a transformer's blocks do. What its launches depend on, all
 * addresses and sizes, is told by the key, and for each part by `more` of
 * more_size bytes; so a graph is only used where they would be the same.
 * What values lie there does not matter. */
typedef struct imagine__sequence_key {
    const void *at[12];
    int64_t size[8];
} imagine__sequence_key;
typedef struct imagine__sequence imagine__sequence;

/* The sequence begins. NULL, which is fine for all that follows: there will be no graphs (on a CPU; switched off; the first
 * time, when memory comes about, kernels are loaded and products planned; after a recording has failed, which is logged). */
imagine__sequence *imagine__sequence_begin(imagine__work *work, const imagine__sequence_key *key, int32_t count,
                                           size_t more_size);
/* Part `index`: `fn` starts its operations, copies and clears on values, and does nothing else that matters, for it is left out
 * where there is a graph. It asks imagine__work_check where it likes, which does not wait while a graph is recorded. */
typedef imagine_status imagine__part_fn(void *arg, imagine_error *error);
imagine_status imagine__sequence_part(imagine__work *work, imagine__sequence *sequence, int32_t index, const void *more,
                                      imagine__part_fn *fn, void *arg, imagine_error *error);

/* ---- values, wherever they lie (device.c) ----------------------------------------------------- */

/* In the order of the run's operations: `count` pieces of `size` bytes, whose beginnings lie to_step and from_step bytes
 * apart. From values to values; from the host to values, which may go once it returns; from values to the host, where they
 * are once it returns. No cancel leaves them out; what fails is reported by imagine__work_check. */
void imagine__copy(imagine__work *work, void *to, size_t to_step, const void *from, size_t from_step, size_t size,
                   int64_t count);
void imagine__upload(imagine__work *work, void *to, size_t to_step, const void *from, size_t from_step, size_t size,
                     int64_t count);
void imagine__download(imagine__work *work, void *to, size_t to_step, const void *from, size_t from_step, size_t size,
                       int64_t count);
void imagine__clear(imagine__work *work, void *to, size_t size);

/* Waits for all that was started in the context's stream. */
imagine_status imagine__device_wait_stream(imagine_context *context, imagine_error *error);
/* Waits for the GPU's default stream, in whose order a DLPack tensor is given by those who are asked for it so. */
imagine_status imagine__device_wait_default(imagine_context *context, imagine_error *error);

/* How a call ends that may have asked for the device's memory, where NULL says no more than that there is none: its status, or,
 * where that is IMAGINE_ERROR_NO_MEMORY because the device has failed, that failure. */
imagine_status imagine__device_cause(imagine_context *context, imagine_status status, imagine_error *error);

/* Without a run: whole before it returns. 0, or the device's error number, and the driver's text of it. */
int imagine__upload_now(imagine_context *context, void *to, const void *from, size_t size);
int imagine__download_now(imagine_context *context, void *to, const void *from, size_t size);
/* `size` bytes of values on a device: the host's `piece` of them again and again. */
int imagine__fill_now(imagine_context *context, void *values, size_t size, const void *piece, size_t piece_size);
const char *imagine__device_text(const imagine_context *context, int code);

/* ---- values that are copied while the device computes (upload.c) ------------------------------ */

/* For a context on a device, one thread at a time. Everything but the first two returns 0, or the device's error number, and
 * does nothing in a plan. */
typedef struct imagine__uploader imagine__uploader;
imagine__uploader *imagine__uploader_create(imagine_context *context, size_t size); /* twice that; NULL: out of memory */
void imagine__uploader_destroy(imagine__uploader *uploader); /* waits for its copies; NULL does nothing */
size_t imagine__uploader_size(const imagine__uploader *uploader); /* the most that is taken at once */
/* Memory on the host, to be filled and sent, in one or more pieces, before the next is taken. Waits for copies where there is
 * no other. NULL: *code says why. */
void *imagine__uploader_take(imagine__uploader *uploader, size_t size, int *code);
int imagine__uploader_send(imagine__uploader *uploader, void *to, const void *from, size_t size);
/* The host waits until all that was sent is there. */
int imagine__uploader_wait(imagine__uploader *uploader);
/* Or the device does: what is started after use() waits for what was sent before mark(). */
int imagine__uploader_mark(imagine__uploader *uploader);
int imagine__uploader_use(imagine__uploader *uploader);
/* And the other way: what is sent after again() waits for what was started before used(). */
int imagine__uploader_used(imagine__uploader *uploader);
int imagine__uploader_again(imagine__uploader *uploader);

/* `size` bytes of values as the host can see them: themselves, or a copy from the arena. `how` says whether what is there is
 * wanted and whether it will be changed: then imagine__return takes the changes back. NULL: out of memory. A tile of
 * imagine__parallel may work on them; a loop asks imagine__planning first. */
#define IMAGINE__READ 1
#define IMAGINE__WRITE 2
void *imagine__borrow(imagine__work *work, void *values, size_t size, int how);
void imagine__return(imagine__work *work, void *values, const void *borrowed, size_t size);
/* What the host has made, as values: the same memory, or a copy from the arena. NULL: out of memory. */
void *imagine__lend(imagine__work *work, const void *host, size_t size);

/* ---- options structs (options.c) ------------------------------------------------------------- */

/* Copies a caller's options struct over `known` (of known_size bytes, already holding the defaults): a shorter struct
 * leaves the rest at the defaults; a longer one must be zero beyond known_size. `name` is the struct's, for messages.
 * NULL options mean the defaults. */
imagine_status imagine__read_options(void *known, size_t known_size, const void *options, const char *name,
                                     imagine_error *error);
/* For outputs: writes min(out->struct_size, known_size) bytes, keeps struct_size, and zeroes what the caller has
 * beyond. */
/* Fails for what imagine__write_struct would fail for, NULL aside: before work whose result would be lost. */
imagine_status imagine__check_struct(const void *out, const char *name, imagine_error *error);
imagine_status imagine__write_struct(void *out, const void *known, size_t known_size, const char *name,
                                     imagine_error *error);
/* For the _init functions: `defaults` cut to `size`, struct_size = size, the rest zero. */
void imagine__init_options(void *options, size_t size, const void *defaults, size_t known_size);

/* ---- buffers (buffer.c) ---------------------------------------------------------------------- */

size_t imagine__dtype_size(imagine_dtype dtype); /* 0: unknown */
const char *imagine__dtype_name(imagine_dtype dtype); /* "f32" */
/* From now on it is read-only. */
void imagine__buffer_protect(imagine_buffer *buffer);
/* A new buffer on the host with undefined content. */
imagine_status imagine__buffer_new(imagine_buffer **buffer, imagine_context *context, imagine_dtype dtype, int32_t ndim,
                                   const int64_t *shape, imagine_error *error);
const int64_t *imagine__buffer_shape(const imagine_buffer *buffer, int32_t *ndim);
imagine_dtype imagine__buffer_dtype(const imagine_buffer *buffer);
imagine_context *imagine__buffer_context(const imagine_buffer *buffer); /* NULL of NULL */
/* The buffer, retained, or a copy of it on the host. */
imagine_status imagine__buffer_on_host(imagine_buffer **on_host, const imagine_buffer *buffer, imagine_error *error);
/* *values = the data of a caller's buffer as values of the run's context, as imagine__lend has it. */
imagine_status imagine__buffer_values(imagine__work *work, const imagine_buffer *buffer, const void **values,
                                      imagine_error *error);
/* Memory for values that are to become the data of a buffer on the host: the data itself, or the arena's (NULL: out of
 * memory); and the way there. */
void *imagine__buffer_begin(imagine__work *work, imagine_buffer *buffer);
void imagine__buffer_end(imagine__work *work, imagine_buffer *buffer, const void *values);
/* "[3, 9, 64, 64]" into text, for messages. */
void imagine__shape_text(char *text, size_t size, int32_t ndim, const int64_t *shape);

#endif
