/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_BASE_CONTEXT_H
#define IMAGINE_BASE_CONTEXT_H

/* The inside of a context, for lib/base alone. */

#include <sys/types.h>

#include "base/base.h"

typedef struct imagine__pool imagine__pool;

/* What a context that plans has instead of memory. */
typedef struct imagine__plan {
    imagine__kernels kernels; /* of operations that do nothing */
    size_t *sizes; /* of the blocks of values: what is given out is made of an index into these */
    size_t count, capacity;
    uint64_t limit; /* of the context that is planned for */
    size_t unused; /* 1 + the index of one that was given back, whose size is the next one like it; 0: none */
} imagine__plan;

/* A context holds itself, which is more bytes than these. */
#define IMAGINE__BY_ALLOCATOR 0
#define IMAGINE__BY_DEVICE 1

struct imagine_context {
    atomic_int references;
    int32_t threads;
    pid_t process; /* that made it */
    imagine_cpu_level cpu_level;
    const imagine__kernels *kernels;
    imagine__pool *pool; /* NULL with one thread */
    imagine__plan *plan; /* NULL: memory is there */
    const imagine__kernels *host_kernels; /* for tensors on the host; `kernels`, unless values lie elsewhere */
    struct imagine__device *device; /* NULL: the host computes */
    size_t products_size; /* bytes of what a run keeps of the device's large products; 0: nothing */
    int32_t on_device; /* 1: with a device, or planning for one */
    imagine__wtype activations; /* see imagine__activations() */
    imagine_alloc_fn *allocate;
    imagine_free_fn *release;
    void *allocator_data;
    imagine_log_fn *log;
    void *log_data;
    imagine_log_level log_level;
    uint64_t memory_limit; /* 0: none */
    _Atomic uint64_t memory_used, memory_peak;
    _Atomic uint64_t refused; /* who refused the last block that could not be had: IMAGINE__BY_, or the limit, with so many bytes held */
};

struct imagine_cancel {
    atomic_int references;
    atomic_int fired;
    imagine_context *context;
    imagine_cancel *parents[2]; /* each fires this one too; or NULL */
};

/* Processors for this process, 1 to `most`, by those it may run on and the time that its control groups may use. */
int32_t imagine__processors(int32_t most);
/* The latter alone, rounded up; 0: no group has a limit. `groups` is like /proc/self/cgroup, `root` where groups are mounted. */
int64_t imagine__processors_allowed(const char *groups, const char *root);

/* Blocks of values in a context that plans. `size` is what has been reserved for it. 0 or NULL: `pointer` is none of these. */
void *imagine__plan_take(imagine_context *context, size_t size);
/* Who refused what a plan needs itself, as imagine_context's `refused`. */
uint64_t imagine__plan_refused(const imagine_context *planning);
size_t imagine__plan_give_back(imagine_context *context, const void *pointer);

/* Memory on the context's device (device.c). A block of values of `total` bytes, which are booked; NULL: out of memory, or
 * the device has failed (imagine__device_cause), which is logged with the driver's words. Its size, which
 * remains booked, or 0: it is no such block. */
void *imagine__device_alloc(imagine_context *context, size_t total);
size_t imagine__device_free(imagine_context *context, void *pointer);
/* 0, or an error number. Done when it returns: whoever is given the memory may use it in a stream of its own. */
int imagine__device_clear(imagine_context *context, void *values, size_t size);

/* The C library's allocator behind the context's interface. */
void *imagine__default_allocate(void *user_data, size_t size, size_t alignment);
void imagine__default_release(void *user_data, void *pointer, size_t size);

/* `workers` threads that serve every run of the context. Spinning for work is left out when `spin` is 0. */
imagine_status imagine__pool_create(imagine__pool **pool, imagine_context *context, int32_t workers, int spin,
                                    imagine_error *error);
/* Ends and joins the threads, or, in a forked child, only frees. */
void imagine__pool_destroy(imagine__pool *pool, imagine_context *context);
/* Runs every tile once on the workers and the calling thread, whose scratch this is. */
void imagine__pool_run(imagine__pool *pool, imagine__run *run, int64_t count, imagine__tile_fn *fn, void *arg,
                       void *scratch);

#endif
