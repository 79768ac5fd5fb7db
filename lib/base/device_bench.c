/* SPDX-License-Identifier: MIT */

/* A context's device as kernels/device_bench.c measures it. */

#include "base/bench.h"
#include "base/context.h"
#include "base/device.h"

static void *allocate(void *context, size_t size)
{
    return imagine__alloc_values(context, size);
}

static void release(void *context, void *memory)
{
    imagine__free(context, memory);
}

imagine_status imagine__device_bench_begin(imagine__device_bench *bench, imagine_context *context, int libraries,
                                           imagine_error *error)
{
    imagine__device *d = context->device;
    (void)d->cuda->use_device(d->number);
    bench->cuda = d->cuda;
    bench->allocate = allocate;
    bench->release = release;
    bench->user_data = context;
    bench->call = (imagine__cuda_call){ .stream = d->stream, .precision = d->precision, .workspace = d->workspace,
                                        .workspace_size = d->workspace_size };
    if (libraries) {
        size_t size = d->cuda->products_size();
        bench->memory = imagine__alloc(context, size);
        if (!bench->memory)
            return imagine__fail_memory_in(context, error, size, "plans of products");
        bench->libraries = d->cuda->products_open(bench->memory, IMAGINE__CUDA_LIBRARIES, NULL, 0);
        bench->call.products = bench->libraries ? bench->memory : NULL;
    }
    pthread_mutex_lock(&d->starting); /* the workspace is the measurement's until it ends */
    return IMAGINE_OK;
}

void imagine__device_bench_end(imagine__device_bench *bench)
{
    imagine_context *context = bench->user_data;
    pthread_mutex_unlock(&context->device->starting);
    if (bench->call.products)
        bench->cuda->products_close(bench->memory);
    imagine__free(context, bench->memory);
    bench->memory = NULL;
}

int imagine__device_is_bf16(const imagine_context *context)
{
    return context->device->precision == IMAGINE__CUDA_BF16;
}

int imagine__device_is_emulated(const imagine_context *context)
{
    return context->device->cuda->emulated;
}

void imagine__device_name(const imagine_context *context, char *name, size_t size)
{
    if (context->device->cuda->device_name(context->device->number, name, size))
        name[0] = 0;
}

void imagine__device_without_graphs(imagine__work *work)
{
    work->queue->no_graphs = 1;
}
