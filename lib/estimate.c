/* SPDX-License-Identifier: MIT */

/* What a job will need: the job itself runs in a context that plans, with a stand-in for its model. */

#include <string.h>

#include "job.h"

/* Bytes held now and, since the last time, at most. */
static imagine_context_info read_memory(imagine_context *context)
{
    imagine_context_info info = { .struct_size = sizeof info };
    imagine_context_get_info(context, &info, NULL);
    imagine_context_reset_peak(context);
    return info;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

void imagine__watch_stage(imagine_job *job, imagine_job_stage from, imagine_job_stage to)
{
    static const uint32_t stages[8] = {
        [IMAGINE_JOB_TEXT] = IMAGINE_STAGE_TEXT,
        [IMAGINE_JOB_SAMPLE] = IMAGINE_STAGE_SAMPLER,
        [IMAGINE_JOB_DECODE] = IMAGINE_STAGE_VAE,
    };
    imagine__watch *w = job->watch;
    imagine_context_info info = read_memory(job->context);
    w->peak[from] = larger(w->peak[from], info.memory_peak);
    if (!w->begin[to])
        w->begin[to] = from == IMAGINE_JOB_LOAD ? w->begin[from] : info.memory_used;
    if (from == IMAGINE_JOB_LOAD && to != from) {
        w->peak[to] = larger(w->peak[to], w->peak[from]);
        w->begin[from] = w->peak[from] = 0;
    }
    if (stages[to])
        w->weights[to] = imagine__model_held(job->model, stages[to]);
}

/* Runs the job in the stand-in's context. */
static imagine_status run(imagine_model *plan, const imagine_job_options *options, imagine__watch *watch,
                          imagine_estimate *estimate, imagine_error *error)
{
    imagine_job *job;
    int32_t frames = 0;
    imagine_status status = imagine__job_prepare(&job, plan, options, error);
    if (status < 0)
        return status;
    job->watch = watch;
    status = imagine__job_generate(job, &frames, error);
    estimate->width = job->info.width;
    estimate->height = job->info.height;
    estimate->frames = job->info.frames;
    estimate->steps = job->info.steps;
    estimate->guidance = job->info.guidance;
    imagine_job_destroy(&job);
    return status;
}

static void fill(imagine_estimate *estimate, const imagine__watch *w)
{
    for (int stage = 0; stage < 8; stage++) {
        uint64_t known = w->begin[stage] + w->weights[stage];
        estimate->peak_bytes = larger(estimate->peak_bytes, w->peak[stage]);
        if (!stage || !w->peak[stage])
            continue;
        estimate->stage_peak[stage] = w->peak[stage];
        estimate->stage_weights[stage] = w->weights[stage];
        estimate->stage_work[stage] = w->peak[stage] > known ? w->peak[stage] - known : 0;
    }
    estimate->fits = !estimate->limit_bytes || estimate->peak_bytes <= estimate->limit_bytes;
}

static imagine_status plan(imagine_model *model, const imagine_job_options *options, imagine_estimate *estimate,
                           imagine_error *error)
{
    imagine_context *context = imagine__model_context(model), *planning;
    imagine_context_info now = { .struct_size = sizeof now };
    imagine_model *stand_in;
    imagine__watch watch = { .begin = { 0 } };
    imagine_status status = imagine_context_get_info(context, &now, error);
    if (status < 0 || (status = imagine__context_plan(&planning, context, now.memory_used, error)) < 0)
        return status;
    status = imagine__model_plan(&stand_in, model, planning, error);
    if (status >= 0)
        status = run(stand_in, options, &watch, estimate, error);
    imagine_model_release(&stand_in);
    imagine_context_release(&planning);
    estimate->held_bytes = now.memory_used;
    estimate->limit_bytes = imagine__context_limit(context);
    fill(estimate, &watch);
    return status;
}

imagine_status imagine_job_estimate(imagine_model *model, const imagine_job_options *options,
                                    imagine_estimate *estimate, imagine_error *error)
{
    imagine_estimate known = { .struct_size = sizeof known };
    imagine_status status;
    if ((status = imagine__need(model, "model", error)) < 0 ||
        (status = imagine__need(estimate, "estimate", error)) < 0 ||
        (status = imagine__check_process(imagine__model_context(model), error)) < 0 ||
        (status = plan(model, options, &known, error)) < 0)
        return status;
    return imagine__write_struct(estimate, &known, sizeof known, "imagine_estimate", error);
}
