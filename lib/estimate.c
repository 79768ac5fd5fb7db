/* SPDX-License-Identifier: MIT */

/* What a job will need: the job itself runs in a context that plans, with a stand-in for its model. */

#include <math.h>
#include <stdio.h>

#include "job.h"

/* Pixels along a side of the tiles that frames are coded in, where they must be. */
#define LARGEST_TILE 512
#define SMALLEST_TILE 32

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

/* The stages of a job that have weights, and whose they are. */
static const uint32_t stages[8] = {
    [IMAGINE_JOB_TEXT] = IMAGINE_STAGE_TEXT,
    [IMAGINE_JOB_SAMPLE] = IMAGINE_STAGE_SAMPLER,
    [IMAGINE_JOB_DECODE] = IMAGINE_STAGE_VAE,
    [IMAGINE_JOB_ENCODE] = IMAGINE_STAGE_VAE,
};

/* What a stage begins with, before its weights are read. */
static void begin(imagine_job *job, imagine_job_stage from, imagine_job_stage to, uint64_t used)
{
    imagine__watch *w = job->watch;
    if (w->begin[to])
        return;
    w->begin[to] = from == IMAGINE_JOB_LOAD ? w->begin[from] : used;
    for (int stage = IMAGINE_JOB_TEXT; stage <= IMAGINE_JOB_ENCODE; stage++)
        if (to == IMAGINE_JOB_LOAD ? !w->begin[stage] : stage == to && from != IMAGINE_JOB_LOAD) /* any may come after LOAD */
            w->kept[stage] = imagine__model_held(job->model, stages[stage]);
}

void imagine__watch_stage(imagine_job *job, imagine_job_stage from, imagine_job_stage to)
{
    imagine__watch *w = job->watch;
    imagine_context_info info = read_memory(job->context);
    w->peak[from] = larger(w->peak[from], info.memory_peak);
    begin(job, from, to, info.memory_used);
    if (from == IMAGINE_JOB_LOAD && to != from) {
        w->peak[to] = larger(w->peak[to], w->peak[from]);
        w->begin[from] = w->peak[from] = 0;
    }
    if (stages[to])
        w->weights[to] = imagine__model_held(job->model, stages[to]);
}

/* ---- one plan ---------------------------------------------------------------------------------------------------- */

/* Runs the job in the stand-in's context. */
static imagine_status run(imagine_model *plan, const imagine_job_options *options, const imagine__placement *placement,
                          imagine__watch *watch, imagine_estimate *estimate, imagine_error *error)
{
    imagine_job *job;
    int32_t frames = 0;
    imagine_status status = imagine__job_prepare(&job, plan, options, error);
    if (status < 0)
        return status;
    job->watch = watch;
    job->placement = *placement;
    status = imagine__job_generate(job, &frames, error);
    estimate->width = job->finished ? 0 : job->info.width;
    estimate->height = job->finished ? 0 : job->info.height;
    estimate->frames = job->finished ? 0 : job->info.frames;
    estimate->steps = job->info.steps;
    estimate->guidance = job->info.guidance;
    imagine_job_destroy(&job);
    return status;
}

static void fill(imagine_estimate *estimate, const imagine__watch *w)
{
    for (int stage = 0; stage < 8; stage++) {
        uint64_t known = w->begin[stage] + w->weights[stage] - w->kept[stage];
        estimate->peak_bytes = larger(estimate->peak_bytes, w->peak[stage]);
        if (!stage || !w->peak[stage])
            continue;
        estimate->stage_peak[stage] = w->peak[stage];
        estimate->stage_weights[stage] = w->weights[stage];
        estimate->stage_work[stage] = w->peak[stage] > known ? w->peak[stage] - known : 0;
    }
    estimate->fits = !estimate->limit_bytes || estimate->peak_bytes <= estimate->limit_bytes;
}

static imagine_status plan(imagine_model *model, const imagine_job_options *options, const imagine__placement *placement,
                           imagine_estimate *estimate, imagine_error *error)
{
    imagine_context *context = imagine__model_context(model), *planning;
    imagine_model *stand_in;
    imagine__watch watch = { .begin = { 0 } };
    *estimate = (imagine_estimate){ .struct_size = sizeof *estimate,
                                    .held_bytes = imagine__context_used(context),
                                    .limit_bytes = imagine__context_limit(context),
                                    .streamed = placement->streamed,
                                    .gives_back = placement->give_back,
                                    .in_turn = placement->in_turn,
                                    .tile = placement->tile };
    imagine_status status = imagine__context_plan(&planning, context, estimate->held_bytes, error);
    if (status < 0)
        return status;
    status = imagine__model_plan(&stand_in, model, planning, error);
    if (status >= 0)
        status = run(stand_in, options, placement, &watch, estimate, error);
    imagine_model_release(&stand_in);
    imagine_context_release(&planning);
    fill(estimate, &watch);
    return status;
}

/* ---- how to keep within the limit -------------------------------------------------------------------------------- */

/* The next way to need less than *placement does; 0: there is none. `previews`: pictures are decoded while sampling;
 * `guided`: some step has two predictions. */
static int save_more(imagine__placement *placement, const imagine_model *model, const imagine_estimate *needs,
                     int previews, int guided)
{
    const uint64_t limit = needs->limit_bytes;
    int sampling = needs->stage_peak[IMAGINE_JOB_SAMPLE] > limit;
    int coding = needs->stage_peak[IMAGINE_JOB_DECODE] > limit || needs->stage_peak[IMAGINE_JOB_ENCODE] > limit;
    int can_stream = imagine__model_weights(model) != IMAGINE_WEIGHTS_RESIDENT;
    uint32_t streamed = placement->streamed;
    if (!placement->give_back)
        return placement->give_back = 1;
    if (sampling && !placement->in_turn && guided)
        return placement->in_turn = 1;
    if (can_stream && needs->stage_peak[IMAGINE_JOB_TEXT] > limit)
        placement->streamed |= IMAGINE_STAGE_TEXT;
    if (can_stream && sampling)
        placement->streamed |= IMAGINE_STAGE_SAMPLER;
    if (placement->streamed != streamed)
        return 1;
    if (placement->tile == SMALLEST_TILE || !(coding || (sampling && previews)))
        return 0;
    placement->tile = placement->tile ? placement->tile / 2 : LARGEST_TILE;
    return 1;
}

static imagine_status place(imagine_model *model, const imagine_job_options *options, imagine__placement *placement,
                            imagine_estimate *estimate, imagine_error *error)
{
    imagine_job_options o;
    imagine_sampler_options sampler;
    imagine_status status = imagine__job_read_options(&o, options, error);
    if (status < 0 || (!o.latents && (status = imagine__job_settle(&sampler, model, &o, error)) < 0))
        return status;
    int previews = (o.events & IMAGINE_EVENT_BIT(IMAGINE_EVENT_PREVIEW)) != 0;
    int guided = !o.latents && imagine__sampler_guided(&sampler);
    *placement = (imagine__placement){ 0 };
    if (imagine__model_weights(model) == IMAGINE_WEIGHTS_STREAMED)
        placement->streamed = IMAGINE_STAGE_TEXT | IMAGINE_STAGE_SAMPLER;
    status = plan(model, options, placement, estimate, error);
    while (status >= 0 && !estimate->fits && save_more(placement, model, estimate, previews, guided))
        status = plan(model, options, placement, estimate, error);
    if (status < 0 || !estimate->fits || !placement->in_turn || !(placement->streamed & IMAGINE_STAGE_SAMPLER))
        return status;
    /* Both predictions at once read the weights once: with streamed ones that is worth more than it is without. */
    imagine__placement at_once = *placement;
    imagine_estimate with;
    at_once.in_turn = 0;
    status = plan(model, options, &at_once, &with, error);
    if (status >= 0 && with.fits) {
        *placement = at_once;
        *estimate = with;
    }
    return status;
}

/* ---- the nearest size that fits ---------------------------------------------------------------------------------- */

typedef struct search {
    imagine_model *model;
    imagine_job_options options; /* whose sampler is the next one */
    imagine_sampler_options sampler;
    imagine_model_info info;
    int32_t width, height, frames; /* that do not fit */
} search;

static int fits(search *s, int32_t width, int32_t height, int32_t frames)
{
    imagine__placement placement;
    imagine_estimate estimate = { .struct_size = sizeof estimate };
    s->sampler.width = width;
    s->sampler.height = height;
    s->sampler.frames = frames;
    s->options.sampler = &s->sampler;
    return place(s->model, &s->options, &placement, &estimate, NULL) >= 0 && estimate.fits;
}

/* Step i of n on the way to the full size, in the same proportion. */
static int32_t part(int32_t full, int32_t multiple, int32_t i, int32_t n)
{
    int32_t steps = (int32_t)lround((double)full / multiple * i / n);
    return multiple * (steps > 0 ? steps : 1);
}

static int size_fits(search *s, int32_t i, int32_t n, int32_t frames)
{
    int32_t multiple = s->info.size_multiple;
    return fits(s, part(s->width, multiple, i, n), part(s->height, multiple, i, n), frames);
}

/* The largest step that fits, below n; 0: none. */
static int32_t largest_size(search *s, int32_t n, int32_t frames)
{
    int32_t low = 0, high = n;
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        if (size_fits(s, middle, n, frames))
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The most frames of the full size, below those asked for; 0: none. */
static int32_t most_frames(search *s)
{
    int32_t factor = s->info.temporal_factor > 0 ? s->info.temporal_factor : 1;
    int32_t low = -1, high = (s->frames - 1) / factor;
    while (high - low > 1) {
        int32_t middle = low + (high - low) / 2;
        if (fits(s, s->width, s->height, middle * factor + 1))
            low = middle;
        else
            high = middle;
    }
    return low < 0 ? 0 : low * factor + 1;
}

static void find_nearest(search *s, imagine_estimate *estimate)
{
    int32_t multiple = s->info.size_multiple, larger_side = s->width > s->height ? s->width : s->height;
    int32_t n = larger_side / multiple, shorter = most_frames(s), step = largest_size(s, n, s->frames);
    int32_t width = part(s->width, multiple, step, n), height = part(s->height, multiple, step, n), frames = s->frames;
    double full = (double)s->width * s->height * shorter, reduced = step ? (double)width * height * frames : 0;
    if (shorter && full >= reduced) {
        width = s->width;
        height = s->height;
        frames = shorter;
    } else if (!step) {
        frames = 1;
        step = largest_size(s, n, frames);
        width = part(s->width, multiple, step, n);
        height = part(s->height, multiple, step, n);
    }
    if (!step && !shorter)
        return;
    estimate->nearest_width = width;
    estimate->nearest_height = height;
    estimate->nearest_frames = frames;
}

/* What a job can be made smaller in; the caller's own tensors cannot. */
static imagine_status look_for_nearest(imagine_model *model, const imagine_job_options *options,
                                       imagine_estimate *estimate, imagine_error *error)
{
    search s = { .model = model, .info = { .struct_size = sizeof s.info } };
    imagine_status status = imagine__job_read_options(&s.options, options, error);
    if (status < 0 || s.options.latents || s.options.noise)
        return status;
    if ((status = imagine__job_settle(&s.sampler, model, &s.options, error)) < 0 ||
        (status = imagine_model_get_info(model, &s.info, error)) < 0)
        return status;
    s.width = s.sampler.width;
    s.height = s.sampler.height;
    s.frames = s.sampler.frames;
    find_nearest(&s, estimate);
    return IMAGINE_OK;
}

imagine_status imagine__job_place(imagine_model *model, const imagine_job_options *options,
                                  imagine__placement *placement, imagine_estimate *estimate, imagine_error *error)
{
    imagine_status status = place(model, options, placement, estimate, error);
    return status < 0 || estimate->fits ? status : look_for_nearest(model, options, estimate, error);
}

imagine_status imagine__job_refuse(const imagine_estimate *estimate, imagine_error *error)
{
    static const char *const names[8] = { [IMAGINE_JOB_TEXT] = "encoding the text",
                                          [IMAGINE_JOB_SAMPLE] = "sampling",
                                          [IMAGINE_JOB_DECODE] = "decoding",
                                          [IMAGINE_JOB_ENCODE] = "encoding pictures" };
    char nearest[96] = "; no smaller size of it fits";
    int most = IMAGINE_JOB_TEXT;
    for (int stage = IMAGINE_JOB_SAMPLE; stage <= IMAGINE_JOB_ENCODE; stage++)
        if (estimate->stage_peak[stage] > estimate->stage_peak[most])
            most = stage;
    if (estimate->nearest_frames)
        snprintf(nearest, sizeof nearest, "; %dx%d with %d frame%s would fit", estimate->nearest_width,
                 estimate->nearest_height, estimate->nearest_frames, estimate->nearest_frames == 1 ? "" : "s");
    return imagine__fail(error, IMAGINE_ERROR_NO_MEMORY,
                         "the job needs %.1f MB of memory while %s, and the context's limit is %.1f MB%s",
                         (double)estimate->peak_bytes / 1e6, names[most], (double)estimate->limit_bytes / 1e6, nearest);
}

/* ---- what the caller asks ---------------------------------------------------------------------------------------- */

imagine_status imagine_job_estimate(imagine_model *model, const imagine_job_options *options,
                                    imagine_estimate *estimate, imagine_error *error)
{
    IMAGINE__GUARD(imagine__model_context(model));
    imagine__placement placement;
    imagine_estimate known = { .struct_size = sizeof known };
    imagine_status status;
    if ((status = imagine__need(model, "model", error)) < 0 ||
        (status = imagine__need(estimate, "estimate", error)) < 0 ||
        (status = imagine__check_process(imagine__model_context(model), error)) < 0 ||
        (status = imagine__job_place(model, options, &placement, &known, error)) < 0)
        return status;
    return imagine__write_struct(estimate, &known, sizeof known, "imagine_estimate", error);
}
