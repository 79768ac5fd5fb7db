/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_BASE_BASE_H
#define IMAGINE_BASE_BASE_H

/* What every file of lib/ stands on: errors, memory, threads, runs, options. */

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

/* ---- contexts, memory (memory.c, context.c) -------------------------------------------------- */

/* Memory comes from the context's allocator, counts towards its limit and peak, and is aligned to 64 bytes. The size is
 * kept in front of the block, so free needs none. NULL when the allocator or the limit says no. Thread-safe. */
void *imagine__alloc(imagine_context *context, size_t size);
void *imagine__calloc(imagine_context *context, size_t count, size_t size); /* zeroed; overflow-checked */
void imagine__free(imagine_context *context, void *pointer); /* NULL is fine */
char *imagine__strdup(imagine_context *context, const char *text);
/* New block with the old one's first min(old, size) bytes; the old one stays on failure. */
void *imagine__realloc(imagine_context *context, void *pointer, size_t size);

/* Memory for the values of tensors: weights, activations, latents, pictures. The same as imagine__alloc, but in a context
 * that plans (plan.c) the bytes are only counted: the pointer may be moved along and given back, and must not be looked
 * through. So values are touched in operations, in the tiles of imagine__parallel, and by these functions alone; what else
 * looks at them asks imagine__planning first. */
void *imagine__alloc_values(imagine_context *context, size_t size);
/* Copies `count` pieces of `size` bytes, whose beginnings lie to_step and from_step bytes apart. No cancel leaves it out. */
void imagine__copy(const imagine_context *context, void *to, size_t to_step, const void *from, size_t from_step,
                   size_t size, int64_t count);
void imagine__clear(const imagine_context *context, void *to, size_t size);

/* a * b or a + b in *result; 0 on overflow, else 1. */
int imagine__mul_size(size_t a, size_t b, size_t *result);
int imagine__add_size(size_t a, size_t b, size_t *result);

void imagine__log(imagine_context *context, imagine_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

uint64_t imagine__context_used(const imagine_context *context); /* bytes held now */
uint64_t imagine__context_limit(const imagine_context *context); /* bytes; 0: none; of a plan: what it is for */
const imagine__kernels *imagine__context_kernels(const imagine_context *context);
int32_t imagine__context_threads(const imagine_context *context);

/* IMAGINE_OK, or IMAGINE_ERROR_FORKED (with the message) in a child of the process that made the context. */
imagine_status imagine__check_process(const imagine_context *context, imagine_error *error);
/* A token that has also fired once `parent` (NULL: none; retained) has. */
imagine_status imagine__cancel_create_child(imagine_cancel **cancel, imagine_context *context, imagine_cancel *parent,
                                            imagine_error *error);
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

/* A stack of temporary memory in chunks: allocate, and go back to a mark. Blocks are aligned to 64 bytes and never
 * move. Chunks are kept for the next use until the arena is destroyed. One thread. */
typedef struct imagine__arena imagine__arena;
typedef struct imagine__arena_mark {
    size_t chunk, offset;
} imagine__arena_mark;

imagine__arena *imagine__arena_create(imagine_context *context); /* NULL: out of memory */
void imagine__arena_destroy(imagine__arena *arena);
void *imagine__arena_alloc(imagine__arena *arena, size_t size); /* NULL: out of memory */
float *imagine__arena_floats(imagine__arena *arena, int64_t count); /* overflow-checked; NULL: out of memory */
imagine__arena_mark imagine__arena_save(const imagine__arena *arena);
void imagine__arena_restore(imagine__arena *arena, imagine__arena_mark mark);
/* Gives chunks that are not in use back to the context. */
void imagine__arena_trim(imagine__arena *arena);

/* ---- runs (run.c, threads.c) ----------------------------------------------------------------- */

/* A thread of control that computes: the run that the kernels see, an arena, and what may stop it. Embed as the first
 * member or by value; one thread at a time. Several runs may use the context's threads at once: they take turns by
 * tile. */
typedef struct imagine__work {
    imagine__run run; /* first, so that &work->run is what the kernels get */
    imagine_context *context;
    imagine__arena *arena;
    const imagine_cancel *cancel; /* or NULL */
    const atomic_int *stop; /* a second flag, or NULL */
    void *scratch; /* IMAGINE__SCRATCH bytes of the calling thread */
} imagine__work;

/* `cancel` is not retained here. */
imagine_status imagine__work_init(imagine__work *work, imagine_context *context, const imagine_cancel *cancel,
                                  imagine_error *error);
void imagine__work_fini(imagine__work *work); /* of a zeroed struct: nothing */
/* IMAGINE_OK, or IMAGINE_ERROR_CANCELLED with its message. Call it after the operations of a block. */
imagine_status imagine__work_check(const imagine__work *work, imagine_error *error);
/* *values = `count` zeros, to be given to imagine__free; NULL after a failure or a cancel, which is obeyed while they are
 * written. `what` names them in the error. */
imagine_status imagine__work_zeros(imagine__work *work, float **values, size_t count, const char *what,
                                   imagine_error *error);

/* ---- options structs (options.c) ------------------------------------------------------------- */

/* Copies a caller's options struct over `known` (of known_size bytes, already holding the defaults): a shorter struct
 * leaves the rest at the defaults; a longer one must be zero beyond known_size. `name` is the struct's, for messages.
 * NULL options mean the defaults. */
imagine_status imagine__read_options(void *known, size_t known_size, const void *options, const char *name,
                                     imagine_error *error);
/* For outputs: writes min(out->struct_size, known_size) bytes, keeps struct_size, and zeroes what the caller has
 * beyond. */
imagine_status imagine__write_struct(void *out, const void *known, size_t known_size, const char *name,
                                     imagine_error *error);
/* For the _init functions: `defaults` cut to `size`, struct_size = size, the rest zero. */
void imagine__init_options(void *options, size_t size, const void *defaults, size_t known_size);

/* ---- buffers (buffer.c) ---------------------------------------------------------------------- */

size_t imagine__dtype_size(imagine_dtype dtype); /* 0: unknown */
const char *imagine__dtype_name(imagine_dtype dtype); /* "f32" */
/* A new buffer with undefined content. */
imagine_status imagine__buffer_new(imagine_buffer **buffer, imagine_context *context, imagine_dtype dtype, int32_t ndim,
                                   const int64_t *shape, imagine_error *error);
const int64_t *imagine__buffer_shape(const imagine_buffer *buffer, int32_t *ndim);
imagine_dtype imagine__buffer_dtype(const imagine_buffer *buffer);
imagine_context *imagine__buffer_context(const imagine_buffer *buffer);
/* "[3, 9, 64, 64]" into text, for messages. */
void imagine__shape_text(char *text, size_t size, int32_t ndim, const int64_t *shape);

#endif
