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
        size_t size = d->cuda->products_size(), all = size + d->cuda->convolutions_size();
        bench->memory = imagine__calloc(context, 1, all);
        if (!bench->memory)
            return imagine__fail_memory_in(context, error, all, "plans of products");
        void *behind = (char *)bench->memory + size;
        bench->call.products = d->cuda->products_open(bench->memory, NULL, 0) ? bench->memory : NULL;
        bench->call.convolutions = d->cuda->convolutions_open(behind, NULL, 0) ? behind : NULL;
    }
    pthread_mutex_lock(&d->starting); /* the workspace is the measurement's until it ends */
    return IMAGINE_OK;
}

void imagine__device_bench_end(imagine__device_bench *bench)
{
    imagine_context *context = bench->user_data;
    pthread_mutex_unlock(&context->device->starting);
    bench->cuda->products_close(bench->call.products);
    bench->cuda->convolutions_close(bench->call.convolutions);
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
