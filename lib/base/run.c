/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/context.h"
#include "base/device.h"

#define CLEAR_PIECE ((size_t)4 << 20) /* bytes between two looks at the cancel: a few milliseconds on fresh memory */

static int stopped(const imagine__run *run)
{
    const imagine__work *work = (const imagine__work *)run;
    if (work->queue && work->queue->code)
        return 1; /* something has failed: the rest is left out as well */
    return imagine_cancel_fired(work->cancel) || (work->stop && atomic_load_explicit(work->stop, memory_order_relaxed));
}

static void parallel(imagine__run *run, int64_t count, imagine__tile_fn *fn, void *arg)
{
    imagine__work *work = (imagine__work *)run;
    if (count > 1 && work->context->pool) {
        imagine__pool_run(work->context->pool, run, count, fn, arg, work->scratch);
        return;
    }
    for (int64_t tile = 0; tile < count && !stopped(run); tile++)
        fn(arg, tile, work->scratch);
}

static void parallel_planned(imagine__run *run, int64_t count, imagine__tile_fn *fn, void *arg)
{
    (void)run;
    (void)count;
    (void)fn;
    (void)arg;
}

imagine_status imagine__work_init(imagine__work *work, imagine_context *context, const imagine_cancel *cancel,
                                  imagine_error *error)
{
    memset(work, 0, sizeof *work);
    imagine_status status = imagine__check_process(context, error);
    if (status < 0)
        return status;
    work->run.kernels = context->kernels;
    work->run.parallel = context->plan ? parallel_planned : parallel;
    work->run.stopped = stopped;
    work->run.threads = context->threads;
    work->context = context;
    work->cancel = cancel;
    work->arena = imagine__arena_create(context);
    work->scratch = imagine__alloc_host_values(context, IMAGINE__SCRATCH);
    status = work->arena && work->scratch ? imagine__queue_open(work, error)
                                          : imagine__fail_memory_in(context, error, IMAGINE__SCRATCH, "a stage's scratch");
    if (status < 0)
        imagine__work_fini(work);
    return status;
}

void imagine__work_fini(imagine__work *work)
{
    if (!work->context)
        return;
    imagine__queue_close(work);
    imagine__free(work->context, work->positions.cosines);
    imagine__free(work->context, work->positions.sines);
    imagine__arena_destroy(work->arena);
    imagine__free(work->context, work->scratch);
    memset(work, 0, sizeof *work);
}

imagine_status imagine__work_failed(imagine__work *work, imagine_error *error)
{
    return work->device ? imagine__queue_report(work, error) : IMAGINE_OK;
}

imagine_status imagine__work_check(imagine__work *work, imagine_error *error)
{
    if (work->device && work->queue->recording)
        return IMAGINE_OK; /* nothing is under way; how it ends is seen once it is recorded */
    if (work->device)
        imagine__queue_mark(work);
    imagine_status status = imagine__work_failed(work, error);
    if (status < 0)
        return status;
    return stopped(&work->run) ? imagine__fail(error, IMAGINE_ERROR_CANCELLED, "cancelled") : IMAGINE_OK;
}

imagine_status imagine__work_zeros(imagine__work *work, float **values, size_t count, const char *what,
                                   imagine_error *error)
{
    size_t total;
    char *bytes = imagine__mul_size(count, sizeof **values, &total) ? imagine__alloc_values(work->context, total) : NULL;
    *values = NULL;
    if (!bytes)
        return imagine__fail_memory_in(work->context, error, total, what);
    imagine_status status = IMAGINE_OK;
    for (size_t at = 0; at < total && status >= 0 && !imagine__planning(work->context); at += CLEAR_PIECE) {
        imagine__clear(work, bytes + at, total - at < CLEAR_PIECE ? total - at : CLEAR_PIECE);
        status = imagine__work_check(work, error);
    }
    if (status < 0)
        imagine__free(work->context, bytes);
    else
        *values = (float *)(void *)bytes;
    return status;
}
