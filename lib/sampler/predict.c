/* SPDX-License-Identifier: MIT */

/* The guided prediction: one or two forwards of the transformer. */

#include <stdio.h>

#include "sampler/inside.h"

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
        .stream = &s->stream,
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

/* v = the prompt's prediction in s->v and the negative one, combined; rescaled, it has the spread of the prompt's, or a share of it. */
static imagine_status guide(imagine_sampler *s, const float *negative, double scale, imagine_error *error)
{
    imagine__run *run = &s->work.run;
    const float weights[] = { (float)scale, (float)(1 - scale) };
    const float *const terms[] = { s->v, negative };
    double share = s->o.guidance_rescale;
    size_t size = 2 * (size_t)s->o.batch * sizeof(double);
    imagine__arena_mark mark = imagine__arena_save(s->work.arena);
    double *alone = share > 0 ? imagine__arena_alloc(s->work.arena, size) : NULL;
    if (share > 0 && !alone)
        return imagine__fail_memory_in(s->context, error, size, "the spread of the predictions");
    if (alone)
        run->kernels->spread(run, s->v, s->o.batch, s->clip, alone);
    run->kernels->combine(run, 2, weights, terms, s->v, s->count);
    if (alone) {
        double *guided = alone + s->o.batch;
        run->kernels->spread(run, s->v, s->o.batch, s->clip, guided);
        run->kernels->rescale(run, s->v, s->o.batch, s->clip, guided, alone, share);
    }
    imagine__arena_restore(s->work.arena, mark);
    return IMAGINE_OK;
}

imagine_status imagine__sampler_check_prediction(imagine_sampler *s, const float *v, int64_t count, const char *what,
                                                 imagine_error *error)
{
    int finite = s->work.run.kernels->finite(&s->work.run, v, count);
    imagine_status status = imagine__work_check(&s->work, error);
    if (status < 0 || finite)
        return status;
    return imagine__fail_not_finite(s->model, s->expert ? "transformer_2" : "transformer", s->cancel, error,
                                    "%sthe transformer's prediction holds a NaN or an infinity", what);
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
    char what[80];
    snprintf(what, sizeof what, "step %d of %d (sigma %.6g): ", s->step + 1, s->schedule.steps, s->schedule.sigmas[s->step]);
    return imagine__sampler_check_prediction(s, s->v, s->count, what, error);
}
