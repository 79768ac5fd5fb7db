/* SPDX-License-Identifier: MIT */

/* The guided prediction: one or two forwards of the transformer. */

#include "sampler/inside.h"

static imagine_status forward(imagine_sampler *s, const imagine__dit_text *text, int32_t batch, const float *x,
                              double timestep, float *v, imagine_error *error)
{
    float timesteps[128];
    for (int32_t b = 0; b < batch; b++)
        timesteps[b] = (float)timestep;
    imagine__dit_input input = {
        .x = x,
        .y = v,
        .timesteps = timesteps,
        .text = text,
        .batch = batch,
        .frames = (int32_t)s->shape[1],
        .height = (int32_t)s->shape[2],
        .width = (int32_t)s->shape[3],
    };
    imagine__arena_mark mark = imagine__arena_save(s->work.arena);
    imagine_status status = imagine__dit_forward(s->dit, &s->work, &input, error);
    imagine__arena_restore(s->work.arena, mark);
    return status < 0 ? status : imagine__work_check(&s->work, error);
}

imagine_status imagine__sampler_predict(imagine_sampler *s, const float *x, int32_t index, imagine_error *error)
{
    const imagine__kernels *kernels = s->work.run.kernels;
    double timestep = s->schedule.timesteps[index];
    float *negative = s->v + s->count;
    imagine_status status;
    if (s->batched) {
        size_t bytes = (size_t)s->count * sizeof *x;
        imagine__copy(s->context, s->twice, bytes, x, 0, bytes, 2);
        status = forward(s, s->text, 2 * s->o.batch, s->twice, timestep, s->v, error);
    } else {
        status = forward(s, s->text, s->o.batch, x, timestep, s->v, error);
        if (status >= 0 && s->guided)
            status = forward(s, s->negative, s->o.batch, x, timestep, negative, error);
    }
    if (status < 0)
        return status;
    if (s->guided) {
        const float weights[] = { (float)s->o.guidance, (float)(1 - s->o.guidance) };
        const float *const terms[] = { s->v, negative };
        kernels->combine(&s->work.run, 2, weights, terms, s->v, s->count);
    }
    int finite = kernels->finite(&s->work.run, s->v, s->count);
    if ((status = imagine__work_check(&s->work, error)) < 0)
        return status;
    if (!finite)
        return imagine__fail(error, IMAGINE_ERROR_NOT_FINITE,
                             "step %d of %d (sigma %.6g): the transformer's prediction holds a NaN or an infinity",
                             s->step + 1, s->schedule.steps, s->schedule.sigmas[s->step]);
    return IMAGINE_OK;
}
