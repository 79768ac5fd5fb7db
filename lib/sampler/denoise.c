/* SPDX-License-Identifier: MIT */

/* One forward of the transformer on the caller's tensors. */

#include "sampler/inside.h"

/* The caller's timesteps, on the host, as f32. */
static imagine_status read_timesteps(imagine_sampler *s, const imagine_buffer *timestep, int64_t batch, int64_t tokens,
                                     float **out, int32_t *per_token, imagine_error *error)
{
    imagine_status status = imagine__need(timestep, "timestep", error);
    if (status < 0)
        return status;
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(timestep, &ndim);
    if ((ndim != 1 && ndim != 2) || shape[0] != batch || (ndim == 2 && shape[1] != tokens)) {
        char has[160];
        imagine__shape_text(has, sizeof has, ndim, shape);
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "timestep: is %s, must be [%lld] or [%lld, %lld]",
                             has, (long long)batch, (long long)batch, (long long)tokens);
    }
    int64_t count = ndim == 2 ? batch * tokens : batch;
    const void *data = imagine_buffer_data(timestep);
    imagine_dtype dtype = imagine__buffer_dtype(timestep);
    float *values = imagine__arena_host_floats(s->work.arena, count);
    if (!values)
        return imagine__fail_memory_in(s->context, error, (size_t)count * sizeof *values, "the timesteps");
    if (dtype != IMAGINE_F32 && dtype != IMAGINE_I64 && dtype != IMAGINE_I32)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "timestep: is %s, must be f32, i64 or i32",
                             imagine__dtype_name(dtype));
    for (int64_t i = 0; i < count; i++) {
        values[i] = dtype == IMAGINE_F32   ? ((const float *)data)[i]
                    : dtype == IMAGINE_I64 ? (float)((const int64_t *)data)[i]
                                           : (float)((const int32_t *)data)[i];
        if (!(values[i] >= 0 && values[i] <= 1000))
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "timestep: %g is not in 0..1000",
                                 (double)values[i]);
    }
    *out = values;
    *per_token = ndim == 2;
    return IMAGINE_OK;
}

static imagine_status check_denoise(const imagine_sampler *s, const imagine_buffer *hidden, const imagine_buffer *text,
                                    imagine_error *error)
{
    const imagine__dit_config *c = &s->config;
    imagine_status status = imagine__need_tensor(hidden, "hidden_states", IMAGINE_F32, 5,
                                                 "[batch, channels, frames, height, width]", error);
    if (status < 0 || (status = imagine__need_tensor(text, "encoder_hidden_states", IMAGINE_F32, 3,
                                                     "[batch, length, text_dim]", error)) < 0)
        return status;
    const int64_t *x = imagine__buffer_shape(hidden, NULL), *t = imagine__buffer_shape(text, NULL);
    if (x[1] != c->in_channels)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "hidden_states: %lld channels, the model's are %d",
                             (long long)x[1], c->in_channels);
    if (t[0] != x[0] || t[2] != c->text_dim)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "encoder_hidden_states: is [%lld, %lld, %lld], must be [%lld, length, %d]", (long long)t[0],
                             (long long)t[1], (long long)t[2], (long long)x[0], c->text_dim);
    if (x[2] > INT32_MAX || x[3] > INT32_MAX || x[4] > INT32_MAX || x[0] > INT32_MAX || t[1] > INT32_MAX)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "hidden_states: larger than any clip");
    if ((status = imagine__need_multiple(x[2], c->patch_t, "hidden_states: frames", error)) < 0 ||
        (status = imagine__need_multiple(x[3], c->patch_h, "hidden_states: height", error)) < 0)
        return status;
    return imagine__need_multiple(x[4], c->patch_w, "hidden_states: width", error);
}

/* Values as the operations see them. */
static imagine_status check_finite(imagine_sampler *s, const float *values, const imagine_buffer *buffer, const char *name,
                                   imagine_error *error)
{
    int64_t count = (int64_t)(imagine_buffer_size(buffer) / sizeof *values);
    int finite = s->work.run.kernels->finite(&s->work.run, values, count);
    imagine_status status = imagine__work_check(&s->work, error);
    if (status < 0 || finite)
        return status;
    imagine_buffer *on_host; /* to tell where */
    if ((status = imagine__buffer_on_host(&on_host, buffer, error)) >= 0)
        status = imagine__need_finite(&s->work, on_host, name, error);
    imagine_buffer_release(&on_host);
    return status;
}

static imagine_status denoise(imagine_sampler *s, const imagine_buffer *hidden, const imagine_buffer *timestep,
                              const imagine_buffer *encoder_hidden_states, imagine_buffer *sample, imagine_error *error)
{
    const imagine__dit_config *c = &s->config;
    const int64_t *x = imagine__buffer_shape(hidden, NULL);
    int64_t tokens = x[2] / c->patch_t * (x[3] / c->patch_h) * (x[4] / c->patch_w);
    imagine__dit_text *text = NULL;
    float *timesteps = NULL;
    const void *embeds, *values;
    imagine_status status = imagine__buffer_values(&s->work, encoder_hidden_states, &embeds, error);
    if (status < 0 || (status = imagine__buffer_values(&s->work, hidden, &values, error)) < 0)
        return status;
    imagine__dit_input input = {
        .x = values,
        .y = imagine__buffer_begin(&s->work, sample),
        .stream = &s->stream,
        .batch = (int32_t)x[0],
        .frames = (int32_t)x[2],
        .height = (int32_t)x[3],
        .width = (int32_t)x[4],
    };
    if (!input.y)
        return imagine__fail_memory_in(s->context, error, (size_t)imagine_buffer_size(hidden), "the latents");
    status = read_timesteps(s, timestep, x[0], tokens, &timesteps, &input.per_token, error);
    if (status < 0 || (status = check_finite(s, input.x, hidden, "hidden_states", error)) < 0 ||
        (status = check_finite(s, embeds, encoder_hidden_states, "encoder_hidden_states", error)) < 0 ||
        (status = imagine__sampler_change(s, imagine__sampler_expert(s, (double)timesteps[0]), error)) < 0)
        return status;
    status = imagine__dit_text_create(&text, s->dit, &s->work, embeds, input.batch,
                                      (int32_t)imagine__buffer_shape(encoder_hidden_states, NULL)[1], error);
    if (status < 0)
        return status;
    input.timesteps = timesteps;
    input.text = text;
    status = imagine__dit_forward(s->dit, &s->work, &input, error);
    if (status >= 0)
        status = imagine__sampler_check_prediction(s, input.y, (int64_t)(imagine_buffer_size(sample) / sizeof *input.y), "", error);
    if (status >= 0)
        imagine__buffer_end(&s->work, sample, input.y);
    imagine__dit_text_free(text);
    return status < 0 ? status : imagine__work_check(&s->work, error);
}

imagine_status imagine_sampler_denoise(imagine_sampler *sampler, const imagine_buffer *hidden_states,
                                       const imagine_buffer *timestep, const imagine_buffer *encoder_hidden_states,
                                       imagine_buffer **sample, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(sampler));
    imagine_status status = imagine__need(sample, "sample", error);
    if (status < 0)
        return status;
    *sample = NULL;
    if ((status = imagine__sampler_usable(sampler, error)) < 0 ||
        (status = check_denoise(sampler, hidden_states, encoder_hidden_states, error)) < 0)
        return status;
    int64_t shape[5];
    memcpy(shape, imagine__buffer_shape(hidden_states, NULL), sizeof shape);
    shape[1] = sampler->config.out_channels;
    imagine_buffer *made;
    if ((status = imagine__buffer_new(&made, sampler->context, IMAGINE_F32, 5, shape, error)) < 0)
        return status;
    imagine__arena_mark mark = imagine__arena_save(sampler->work.arena);
    imagine_buffer *times = NULL;
    if (timestep)
        status = imagine__buffer_on_host(&times, timestep, error);
    if (status >= 0)
        status = denoise(sampler, hidden_states, times, encoder_hidden_states, made, error);
    imagine_buffer_release(&times);
    imagine__arena_restore(sampler->work.arena, mark);
    if (status < 0)
        imagine_buffer_release(&made);
    *sample = made;
    return imagine__device_cause(sampler->context, status, error);
}
