/* SPDX-License-Identifier: MIT */

/* The guided prediction: one or two forwards of the transformer. */

#include "sampler/inside.h"

#include <math.h>

static imagine_status forward(imagine_sampler *s, const imagine__dit_text *text, int32_t batch, const float *x,
                              double timestep, float *v, imagine_error *error)
{
    float same[128], *timesteps = same;
    imagine__arena_mark mark = imagine__arena_save(s->work.arena);
    for (int32_t b = 0; b < batch; b++)
        same[b] = (float)timestep;
    int per_token = imagine__sampler_tokens(s, timestep, batch, &timesteps, error);
    if (per_token < 0)
        return per_token;
    imagine__dit_input input = {
        .x = x,
        .y = v,
        .timesteps = timesteps,
        .text = text,
        .batch = batch,
        .per_token = per_token,
        .frames = (int32_t)s->shape[1],
        .height = (int32_t)s->shape[2],
        .width = (int32_t)s->shape[3],
    };
    imagine_status status = imagine__dit_forward(s->dit, &s->work, &input, error);
    imagine__arena_restore(s->work.arena, mark);
    return status < 0 ? status : imagine__work_check(&s->work, error);
}

/* 1 if the present step is one of those with guidance. */
static int in_interval(const imagine_sampler *s)
{
    int32_t start = (int32_t)(s->o.guidance_start * s->schedule.steps);
    int32_t stop = (int32_t)(s->o.guidance_stop * s->schedule.steps);
    return s->step >= start && s->step < stop;
}

typedef struct spread_job {
    const float *v; /* on the host */
    int64_t clip;
    double *out;
} spread_job;

/* The standard deviation of one clip's values. One thread adds them up, so that no number of threads shows. */
static void spread_clip(void *arg, int64_t tile, void *scratch)
{
    const spread_job *job = arg;
    const float *v = job->v + tile * job->clip;
    double sum = 0, squares = 0;
    (void)scratch;
    for (int64_t i = 0; i < job->clip; i++) {
        sum += (double)v[i];
        squares += (double)v[i] * (double)v[i];
    }
    double rest = squares - sum * sum / (double)job->clip;
    job->out[tile] = rest > 0 ? sqrt(rest) : 0;
}

/* The standard deviation of every clip's prediction in s->v. */
static imagine_status measure_spread(imagine_sampler *s, double *out, imagine_error *error)
{
    size_t size = (size_t)s->count * sizeof *s->v;
    imagine__arena_mark mark = imagine__arena_save(s->work.arena);
    spread_job job = { imagine__borrow(&s->work, s->v, size, IMAGINE__READ), s->clip, out };
    if (!job.v)
        return imagine__fail_memory(error, size, "the predictions");
    imagine_status status = imagine__work_check(&s->work, error);
    if (status >= 0)
        imagine__parallel(&s->work.run, s->o.batch, spread_clip, &job);
    imagine__arena_restore(s->work.arena, mark);
    return status;
}

/* v = the prompt's prediction in s->v and the negative one, combined. */
static imagine_status guide(imagine_sampler *s, const float *negative, double scale, imagine_error *error)
{
    const imagine__kernels *kernels = s->work.run.kernels;
    const float weights[] = { (float)scale, (float)(1 - scale) };
    const float *const terms[] = { s->v, negative };
    double alone[64] = { 0 }, guided[64] = { 0 }, share = s->o.guidance_rescale;
    imagine_status status = share > 0 ? measure_spread(s, alone, error) : IMAGINE_OK;
    if (status < 0)
        return status;
    kernels->combine(&s->work.run, 2, weights, terms, s->v, s->count);
    if (!(share > 0) || (status = measure_spread(s, guided, error)) < 0)
        return status;
    for (int32_t b = 0; b < s->o.batch; b++) {
        float *v = s->v + b * s->clip;
        float back = guided[b] > 0 ? (float)(share * (alone[b] / guided[b]) + (1 - share)) : 1;
        kernels->combine(&s->work.run, 1, &back, (const float *const[]){ v }, v, s->clip);
    }
    return IMAGINE_OK;
}

imagine_status imagine__sampler_predict(imagine_sampler *s, const float *x, int32_t index, imagine_error *error)
{
    double timestep = s->schedule.timesteps[index];
    float *negative = s->v + s->count;
    imagine_status status = imagine__sampler_change(s, imagine__sampler_expert(s, timestep), error);
    if (status < 0)
        return status;
    double scale = s->expert ? s->o.guidance_2 : s->o.guidance;
    int guided = scale != 1 && in_interval(s);
    if (guided && s->batched) {
        size_t bytes = (size_t)s->count * sizeof *x;
        imagine__copy(&s->work, s->twice, bytes, x, 0, bytes, 2);
        status = forward(s, s->text, 2 * s->o.batch, s->twice, timestep, s->v, error);
    } else {
        status = forward(s, s->text, s->o.batch, x, timestep, s->v, error);
        if (status >= 0 && guided)
            status = forward(s, s->negative, s->o.batch, x, timestep, negative, error);
    }
    if (status >= 0 && guided)
        status = guide(s, negative, scale, error);
    if (status < 0)
        return status;
    int finite = s->work.run.kernels->finite(&s->work.run, s->v, s->count);
    if ((status = imagine__work_check(&s->work, error)) < 0)
        return status;
    if (!finite)
        return imagine__fail_not_finite(s->model, s->expert ? "transformer_2" : "transformer", s->cancel, error,
                                        "step %d of %d (sigma %.6g): the transformer's prediction holds a NaN or an infinity",
                                        s->step + 1, s->schedule.steps, s->schedule.sigmas[s->step]);
    return IMAGINE_OK;
}
