/* SPDX-License-Identifier: MIT */
#include <limits.h>
#include <unistd.h>

#include "base/context.h"
#include "base/device.h"

#define MOST_THREADS 256

static const imagine_context_options context_defaults = {
    .struct_size = sizeof(imagine_context_options),
    .device = IMAGINE_DEVICE_CPU,
    .log_level = IMAGINE_LOG_WARNING,
};

void imagine_context_options_init(imagine_context_options *options, size_t size)
{
    imagine__init_options(options, size, &context_defaults, sizeof context_defaults);
}

static imagine_status check_options(const imagine_context_options *o, imagine_error *error)
{
    if (o->device != IMAGINE_DEVICE_CPU && o->device != IMAGINE_DEVICE_CUDA && o->device != 0)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "device: %d is no device", o->device);
    if (o->threads < 0 || o->threads > MOST_THREADS)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "threads: %d is not in 0..%d", o->threads,
                             MOST_THREADS);
    if (o->cpu_level < IMAGINE_CPU_BEST || o->cpu_level > IMAGINE_CPU_AMX)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "cpu_level: %d is no level", o->cpu_level);
    if (!o->allocate != !o->release)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "allocate and release: give both or none");
    if (o->log_level < 0 || o->log_level > IMAGINE_LOG_DEBUG)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "log_level: %d is not in 1..4", o->log_level);
    if (o->reserved0)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "reserved0: must be 0");
    if (o->precision < IMAGINE_PRECISION_F32 || o->precision > IMAGINE_PRECISION_BF16)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "precision: %d is no precision", o->precision);
    if (o->graphs < IMAGINE_GRAPHS_AUTO || o->graphs > IMAGINE_GRAPHS_OFF)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "graphs: %d is neither AUTO nor OFF", o->graphs);
    if (o->reserved1)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "reserved1: must be 0");
    if (o->device != IMAGINE_DEVICE_CUDA && (o->device_number || o->precision || o->stream || o->graphs))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: is for IMAGINE_DEVICE_CUDA only",
                             o->device_number ? "device_number"
                             : o->precision   ? "precision"
                             : o->stream      ? "stream"
                                              : "graphs");
    if (o->stream == (void *)2) /* cudaStreamPerThread; work of a context is done by several threads */
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "stream: cudaStreamPerThread is another stream in every thread; give one that cudaStreamCreate has made");
    return IMAGINE_OK;
}

static imagine_status begin_device(imagine_context *context, const imagine_context_options *o, imagine_error *error)
{
    imagine__cuda_precision precision = o->precision == IMAGINE_PRECISION_BF16 ? IMAGINE__CUDA_BF16 : IMAGINE__CUDA_F32;
    imagine_status status = imagine__device_open(context, o->device_number, o->stream, precision,
                                                   o->graphs != IMAGINE_GRAPHS_OFF, error);
    if (status < 0)
        return status;
    context->kernels = &imagine__kernels_device;
    context->on_device = 1;
    context->activations = precision == IMAGINE__CUDA_BF16 ? IMAGINE__W_BF16 : IMAGINE__W_F32;
    return IMAGINE_OK;
}

imagine_status imagine_context_create(imagine_context **context, const imagine_context_options *options,
                                      imagine_error *error)
{
    IMAGINE__GUARD(NULL);
    if (!context)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "context: the pointer is NULL");
    *context = NULL;
    imagine_context_options o = context_defaults;
    imagine_status status = imagine__read_options(&o, sizeof o, options, "imagine_context_options", error);
    if (status >= 0)
        status = check_options(&o, error);
    if (status < 0)
        return status;
    if (o.memory_limit && o.memory_limit < sizeof **context)
        return imagine__fail(error, IMAGINE_ERROR_NO_MEMORY, "memory_limit: %llu bytes are less than a context itself takes, %zu",
                             (unsigned long long)o.memory_limit, sizeof **context);
    imagine_alloc_fn *allocate = o.allocate ? o.allocate : imagine__default_allocate;
    imagine_context *made = allocate(o.allocator_data, sizeof *made, 64);
    if (!made)
        return imagine__fail_memory(error, sizeof *made, "a context");
    *made = (imagine_context) {
        .process = getpid(),
        .allocate = allocate,
        .release = o.release ? o.release : imagine__default_release,
        .allocator_data = o.allocator_data,
        .log = o.log,
        .log_data = o.log_data,
        .log_level = o.log_level ? o.log_level : IMAGINE_LOG_WARNING,
        .memory_limit = o.memory_limit,
    };
    atomic_init(&made->references, 1);
    atomic_init(&made->memory_used, sizeof *made);
    atomic_init(&made->memory_peak, sizeof *made);
    int32_t available = imagine__processors(MOST_THREADS);
    made->threads = o.threads ? o.threads : available;
    made->kernels = made->host_kernels = imagine__kernels_for_cpu(o.cpu_level, &made->cpu_level);
    if (o.device == IMAGINE_DEVICE_CUDA)
        status = begin_device(made, &o, error);
    if (status >= 0 && made->threads > 1)
        status = imagine__pool_create(&made->pool, made, made->threads - 1, made->threads <= available, error);
    if (status < 0) {
        imagine_context_release(&made);
        return status;
    }
    *context = made;
    return IMAGINE_OK;
}

/* In the middle of the numbers below 0: threads that add or take at the same time leave it there. */
static void saturate(atomic_int *count)
{
    atomic_store_explicit(count, INT_MIN / 2, memory_order_relaxed);
}

void imagine__reference(atomic_int *count)
{
    int before = atomic_fetch_add_explicit(count, 1, memory_order_relaxed);
    if (before < 0 || before == INT_MAX)
        saturate(count);
}

int imagine__unreference(atomic_int *count)
{
    int before = atomic_fetch_sub(count, 1);
    if (before < 0)
        saturate(count);
    return before == 1;
}

imagine_context *imagine_context_retain(imagine_context *context)
{
    if (context)
        imagine__reference(&context->references);
    return context;
}

void imagine_context_release(imagine_context **context)
{
    IMAGINE__GUARD(context ? *context : NULL);
    if (!context || !*context)
        return;
    imagine_context *old = *context;
    *context = NULL;
    if (!imagine__unreference(&old->references))
        return;
    imagine__pool_destroy(old->pool, old);
    if (old->plan)
        imagine__free(old, old->plan->sizes);
    imagine__free(old, old->plan);
    imagine__device_close(old);
    old->release(old->allocator_data, old, sizeof *old);
}

imagine_status imagine_context_get_info(const imagine_context *context, imagine_context_info *info,
                                        imagine_error *error)
{
    if (!context)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "context: the pointer is NULL");
    imagine_status status = imagine__check_process(context, error);
    if (status < 0)
        return status;
    imagine_context_info known = {
        .struct_size = sizeof known,
        .device = context->on_device ? IMAGINE_DEVICE_CUDA : IMAGINE_DEVICE_CPU,
        .threads = context->threads,
        .cpu_level = context->cpu_level,
        .memory_used = atomic_load(&context->memory_used),
        .memory_peak = atomic_load(&context->memory_peak),
    };
    if (context->device) {
        known.device_memory_used = atomic_load(&context->device->used);
        known.device_memory_peak = atomic_load(&context->device->peak);
        known.device_number = context->device->number;
    }
    return imagine__write_struct(info, &known, sizeof known, "imagine_context_info", error);
}

/* What another thread takes between the look and the store is in no peak: a second look finds it. */
static void lower_peak(_Atomic uint64_t *peak, _Atomic uint64_t *used)
{
    uint64_t stored = atomic_load(used);
    atomic_store(peak, stored);
    uint64_t now = atomic_load(used);
    while (now > stored && !atomic_compare_exchange_weak(peak, &stored, now))
        ;
}

void imagine_context_reset_peak(imagine_context *context)
{
    if (!context)
        return;
    lower_peak(&context->memory_peak, &context->memory_used);
    if (context->device)
        lower_peak(&context->device->peak, &context->device->used);
}

uint64_t imagine__context_used(const imagine_context *context)
{
    return atomic_load(&context->memory_used);
}

uint64_t imagine__context_limit(const imagine_context *context)
{
    return context->plan ? context->plan->limit : context->memory_limit;
}

const imagine__kernels *imagine__context_kernels(const imagine_context *context)
{
    return context->kernels;
}

const imagine__kernels *imagine__context_host_kernels(const imagine_context *context)
{
    return context->host_kernels;
}

int imagine__on_device(const imagine_context *context)
{
    return context->on_device;
}

imagine__wtype imagine__activations(const imagine_context *context)
{
    return context->activations;
}

int32_t imagine__context_threads(const imagine_context *context)
{
    return context->threads;
}

int imagine__forked(const imagine_context *context)
{
    return getpid() != context->process;
}

imagine_status imagine__check_process(const imagine_context *context, imagine_error *error)
{
    if (imagine__forked(context))
        return imagine__fail(error, IMAGINE_ERROR_FORKED,
                             "this process was forked from the one that made the context; make a context here");
    return IMAGINE_OK;
}

imagine_status imagine_cancel_create(imagine_cancel **cancel, imagine_context *context, imagine_error *error)
{
    if (cancel)
        *cancel = NULL;
    if (!cancel || !context)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: the pointer is NULL",
                             cancel ? "context" : "cancel");
    imagine_status status = imagine__check_process(context, error);
    if (status < 0)
        return status;
    imagine_cancel *made = imagine__alloc(context, sizeof *made);
    if (!made)
        return imagine__fail_memory(error, sizeof *made, "a cancel token");
    atomic_init(&made->references, 1);
    atomic_init(&made->fired, 0);
    made->context = imagine_context_retain(context);
    made->parents[0] = made->parents[1] = NULL;
    *cancel = made;
    return IMAGINE_OK;
}

imagine_status imagine__cancel_create_child(imagine_cancel **cancel, imagine_context *context, imagine_cancel *parent,
                                            imagine_cancel *other, imagine_error *error)
{
    imagine_status status = imagine_cancel_create(cancel, context, error);
    if (status >= 0) {
        (*cancel)->parents[0] = imagine_cancel_retain(parent);
        (*cancel)->parents[1] = imagine_cancel_retain(other);
    }
    return status;
}

imagine_cancel *imagine_cancel_retain(imagine_cancel *cancel)
{
    if (cancel)
        imagine__reference(&cancel->references);
    return cancel;
}

void imagine_cancel_release(imagine_cancel **cancel)
{
    if (!cancel || !*cancel)
        return;
    imagine_cancel *old = *cancel;
    *cancel = NULL;
    if (!imagine__unreference(&old->references))
        return;
    imagine_context *context = old->context;
    imagine_cancel_release(&old->parents[0]);
    imagine_cancel_release(&old->parents[1]);
    imagine__free(context, old);
    imagine_context_release(&context);
}

void imagine_cancel_fire(imagine_cancel *cancel)
{
    if (cancel)
        atomic_store(&cancel->fired, 1);
}

void imagine_cancel_reset(imagine_cancel *cancel)
{
    if (cancel)
        atomic_store(&cancel->fired, 0);
}

int32_t imagine_cancel_fired(const imagine_cancel *cancel)
{
    if (!cancel)
        return 0;
    return atomic_load_explicit(&cancel->fired, memory_order_relaxed) || imagine_cancel_fired(cancel->parents[0]) ||
           imagine_cancel_fired(cancel->parents[1]);
}
