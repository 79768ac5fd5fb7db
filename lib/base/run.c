/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/context.h"

static int stopped(const imagine__run *run)
{
    const imagine__work *work = (const imagine__work *)run;
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
    work->context = context;
    work->cancel = cancel;
    work->arena = imagine__arena_create(context);
    work->scratch = imagine__alloc_values(context, IMAGINE__SCRATCH);
    if (!work->arena || !work->scratch) {
        imagine__work_fini(work);
        return imagine__fail_memory(error, IMAGINE__SCRATCH, "a stage's scratch");
    }
    return IMAGINE_OK;
}

void imagine__work_fini(imagine__work *work)
{
    if (!work->context)
        return;
    imagine__arena_destroy(work->arena);
    imagine__free(work->context, work->scratch);
    memset(work, 0, sizeof *work);
}

imagine_status imagine__work_check(const imagine__work *work, imagine_error *error)
{
    return stopped(&work->run) ? imagine__fail(error, IMAGINE_ERROR_CANCELLED, "cancelled") : IMAGINE_OK;
}
