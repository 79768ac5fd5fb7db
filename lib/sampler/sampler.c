/* SPDX-License-Identifier: MIT */

/* The sampler's handle: noise and text to latents, one step a call. */

#include <string.h>

#include "dit/dit.h"
#include "sampler/schedule.h"
#include "stage.h"
#include "vae/vae.h"

#define BATCHED_TOKENS 8192 /* IMAGINE_CFG_AUTO: with more tokens than this the two predictions are made in turn */

struct imagine_sampler {
    imagine_model *model;
    imagine_context *context; /* the model's */
    imagine_cancel *cancel;
    const imagine__dit *dit; /* the model's */
    const imagine__dit_config *config;
    imagine__work work;
    imagine_sampler_options o; /* as settled; `sigmas` is not kept */
    imagine__schedule schedule;
    imagine__stepper *stepper;
    imagine__dit_text *text; /* of all clips; batched guidance: the negative rows after the positive ones */
    imagine__dit_text *negative; /* guidance in turn */
    int guided, batched;
    int64_t shape[4]; /* of one clip's latents: channels, frames, height, width */
    int64_t clip, count; /* values of one clip and of all */
    float *x; /* [2 if batched][batch][clip]: the latents, and their copy for the second half of the forward */
    float *v; /* [2 if guided][batch][clip]: predictions */
    float *estimate; /* [batch][clip]: of the clean latents */
    int32_t step; /* steps done */
    int begun, failed;
};

/* ---- life -------------------------------------------------------------------------------------------------------- */

/* Latent sizes for the pixels asked for. */
static imagine_status set_sizes(imagine_sampler *s, imagine_error *error)
{
    imagine_model_info info = { .struct_size = sizeof info };
    imagine_status status = imagine_model_get_info(s->model, &info, error);
    if (status < 0)
        return status;
    const imagine__dit_config *c = s->config;
    int64_t spatial = info.spatial_factor ? info.spatial_factor : 8, temporal = info.temporal_factor ? info.temporal_factor : 4;
    if ((status = imagine__need_multiple(s->o.width, spatial * c->patch_w, "width", error)) < 0 ||
        (status = imagine__need_multiple(s->o.height, spatial * c->patch_h, "height", error)) < 0 ||
        (status = imagine__need_frames(s->o.frames, temporal, "frames", error)) < 0)
        return status;
    s->shape[0] = c->in_channels;
    s->shape[1] = (s->o.frames - 1) / temporal + 1;
    s->shape[2] = s->o.height / spatial;
    s->shape[3] = s->o.width / spatial;
    if (s->shape[1] % c->patch_t)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "frames: %d are %lld latent frames, which the model's patches of %d do not divide",
                             s->o.frames, (long long)s->shape[1], c->patch_t);
    s->clip = s->shape[0] * s->shape[1] * s->shape[2] * s->shape[3];
    s->count = s->clip * s->o.batch;
    s->guided = s->o.guidance != 1;
    int64_t tokens = s->count / (s->shape[0] * c->patch_t * c->patch_h * c->patch_w);
    s->batched = s->guided && (s->o.cfg_mode == IMAGINE_CFG_BATCHED ||
                               (s->o.cfg_mode == IMAGINE_CFG_AUTO && tokens <= BATCHED_TOKENS));
    return IMAGINE_OK;
}

static imagine_status set_up(imagine_sampler *s, imagine__reading reading, const imagine_sampler_options *options,
                             imagine_error *error)
{
    imagine_status status = imagine__sampler_settle(&s->o, s->model, options, error);
    if (status < 0)
        return status;
    const double *sigmas = s->o.sigmas;
    s->o.sigmas = NULL; /* the caller's; the schedule has its own */
    s->cancel = imagine_cancel_retain(s->o.cancel);
    s->o.cancel = s->cancel;
    if ((status = imagine__schedule_make(&s->schedule, s->context, s->o.schedule, s->o.step_rule, s->o.steps,
                                         s->o.shift, sigmas, s->o.sigma_count, error)) < 0 ||
        (status = imagine__model_dit(s->model, reading, &s->dit, s->cancel, error)) < 0)
        return status;
    s->config = imagine__dit_get_config(s->dit);
    if ((status = set_sizes(s, error)) < 0 ||
        (status = imagine__work_init(&s->work, s->context, s->cancel, error)) < 0 ||
        (status = imagine__stepper_create(&s->stepper, &s->work, &s->schedule, s->count, error)) < 0)
        return status;
    s->x = imagine__zero_floats(s->context, (size_t)s->count * (s->batched ? 2 : 1));
    s->v = imagine__zero_floats(s->context, (size_t)s->count * (s->guided ? 2 : 1));
    s->estimate = imagine__zero_floats(s->context, (size_t)s->count);
    if (!s->x || !s->v || !s->estimate)
        return imagine__fail_memory(error, (size_t)s->count * sizeof(float), "the latents");
    return IMAGINE_OK;
}

imagine_status imagine_sampler_create(imagine_sampler **sampler, imagine_model *model,
                                      const imagine_sampler_options *options, imagine_error *error)
{
    return imagine__sampler_create(sampler, model, IMAGINE__READ_AUTO, options, error);
}

imagine_status imagine__sampler_create(imagine_sampler **sampler, imagine_model *model, imagine__reading reading,
                                       const imagine_sampler_options *options, imagine_error *error)
{
    imagine_status status = imagine__need(sampler, "sampler", error);
    if (status < 0)
        return status;
    *sampler = NULL;
    if ((status = imagine__need(model, "model", error)) < 0 ||
        (status = imagine__check_process(imagine__model_context(model), error)) < 0)
        return status;
    imagine_context *context = imagine__model_context(model);
    imagine_sampler *made = imagine__calloc(context, 1, sizeof *made);
    if (!made)
        return imagine__fail_memory(error, sizeof *made, "a sampler");
    made->model = imagine_model_retain(model);
    made->context = context;
    status = set_up(made, reading, options, error);
    if (status < 0)
        imagine_sampler_destroy(&made);
    *sampler = made;
    return status;
}

void imagine_sampler_destroy(imagine_sampler **sampler)
{
    if (!sampler || !*sampler)
        return;
    imagine_sampler *old = *sampler;
    imagine_model *model = old->model;
    *sampler = NULL;
    imagine__free(old->context, old->estimate);
    imagine__free(old->context, old->v);
    imagine__free(old->context, old->x);
    imagine__dit_text_free(old->negative);
    imagine__dit_text_free(old->text);
    imagine__stepper_free(old->stepper);
    imagine__work_fini(&old->work);
    imagine__model_put(model, old->dit);
    imagine__schedule_free(&old->schedule, old->context);
    imagine_cancel_release(&old->cancel);
    imagine__free(old->context, old);
    imagine_model_release(&model);
}

static imagine_status usable(const imagine_sampler *s, imagine_error *error)
{
    imagine_status status = imagine__need(s, "sampler", error);
    return status < 0 ? status : imagine__check_process(s->context, error);
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

static imagine_status check_text(const imagine_sampler *s, const imagine_buffer *embeds, const char *name,
                                 imagine_error *error)
{
    imagine_status status = imagine__need(embeds, name, error);
    if (status < 0)
        return status;
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(embeds, &ndim);
    status = ndim == 3 ? imagine__need_tensor(embeds, name, IMAGINE_F32, 3, "[batch, length, text_dim]", error)
                       : imagine__need_tensor(embeds, name, IMAGINE_F32, 2, "[length, text_dim]", error);
    if (status < 0)
        return status;
    if (ndim == 3 && shape[0] != s->o.batch)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: %lld rows of text for a batch of %d", name,
                             (long long)shape[0], s->o.batch);
    if (shape[ndim - 1] != s->config->text_dim)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: the width is %lld, the model's is %d", name,
                             (long long)shape[ndim - 1], s->config->text_dim);
    return IMAGINE_OK;
}

/* The text of every clip, padded with zeros or cut to `length`, one after the other. */
static void pad_text(const imagine_sampler *s, const imagine_buffer *embeds, int64_t length, float *out)
{
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(embeds, &ndim);
    int64_t dim = shape[ndim - 1], given = shape[ndim - 2], rows = given < length ? given : length;
    for (int32_t b = 0; b < s->o.batch; b++) {
        const float *from = (const float *)imagine_buffer_data(embeds) + (ndim == 3 ? b * given * dim : 0);
        float *to = out + b * length * dim;
        imagine__copy(s->context, to, 0, from, 0, (size_t)(rows * dim) * sizeof *to, 1);
        imagine__clear(s->context, to + rows * dim, (size_t)((length - rows) * dim) * sizeof *to);
    }
}

static imagine_status make_text(imagine_sampler *s, const imagine_buffer *positive, const imagine_buffer *negative,
                                imagine_error *error)
{
    int32_t length = imagine__model_defaults(s->model)->text_length, batch = s->o.batch;
    int64_t half = (int64_t)batch * length * s->config->text_dim;
    float *rows = imagine__arena_floats(s->work.arena, (s->guided ? 2 : 1) * half);
    if (!rows)
        return imagine__fail_memory(error, (size_t)half * sizeof *rows, "the text conditioning");
    pad_text(s, positive, length, rows);
    if (s->guided)
        pad_text(s, negative, length, rows + half);
    imagine_status status =
        imagine__dit_text_create(&s->text, s->dit, &s->work, rows, s->batched ? 2 * batch : batch, length, error);
    if (status >= 0 && s->guided && !s->batched)
        status = imagine__dit_text_create(&s->negative, s->dit, &s->work, rows + half, batch, length, error);
    return status;
}

imagine_status imagine_sampler_set_text(imagine_sampler *sampler, const imagine_buffer *positive,
                                        const imagine_buffer *negative, imagine_error *error)
{
    imagine_status status = usable(sampler, error);
    if (status < 0 || (status = check_text(sampler, positive, "positive", error)) < 0)
        return status;
    if (sampler->guided && !negative)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "negative: NULL, but guidance is %g; give the empty prompt's embeddings or set guidance to 1",
                             sampler->o.guidance);
    if (negative && (status = check_text(sampler, negative, "negative", error)) < 0)
        return status;
    imagine__dit_text_free(sampler->text);
    imagine__dit_text_free(sampler->negative);
    sampler->text = sampler->negative = NULL;
    imagine__arena_mark mark = imagine__arena_save(sampler->work.arena);
    status = make_text(sampler, positive, negative, error);
    imagine__arena_restore(sampler->work.arena, mark);
    if (status < 0) {
        imagine__dit_text_free(sampler->text);
        imagine__dit_text_free(sampler->negative);
        sampler->text = sampler->negative = NULL;
    }
    return status;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static imagine_status check_noise(const imagine_sampler *s, const imagine_buffer *noise, imagine_error *error)
{
    int32_t ndim = 0;
    const int64_t *shape = imagine__buffer_shape(noise, &ndim);
    int with_batch = ndim == 5;
    imagine_status status =
        imagine__need_tensor(noise, "noise", IMAGINE_F32, with_batch ? 5 : 4,
                             with_batch ? "[batch, channels, frames, height, width]" : "[channels, frames, height, width]",
                             error);
    if (status < 0)
        return status;
    int64_t batch = with_batch ? shape[0] : 1;
    if (batch == s->o.batch && !memcmp(shape + with_batch, s->shape, sizeof s->shape))
        return IMAGINE_OK;
    char has[160], wanted[160];
    imagine__shape_text(has, sizeof has, ndim, shape);
    imagine__shape_text(wanted, sizeof wanted, 4, s->shape);
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "noise: is %s, must be %s for each of %d clips", has,
                         wanted, s->o.batch);
}

/* Noise is drawn per latent frame, so that a longer clip begins as a shorter one of the same seed. */
static imagine_status draw_noise(imagine_sampler *s, imagine_error *error)
{
    int64_t channels = s->shape[0], frames = s->shape[1], area = s->shape[2] * s->shape[3];
    float *frame = imagine__arena_floats(s->work.arena, channels * area);
    if (!frame)
        return imagine__fail_memory(error, (size_t)(channels * area) * sizeof *frame, "noise");
    for (int32_t b = 0; b < s->o.batch; b++)
        for (int64_t f = 0; f < frames; f++) {
            imagine_status status = imagine__work_check(&s->work, error);
            if (status < 0)
                return status;
            if (!imagine__planning(s->context))
                imagine__noise_fill(frame, channels * area, s->o.seed + (uint64_t)b, IMAGINE__NOISE_INITIAL,
                                    (uint32_t)f);
            imagine__copy(s->context, s->x + b * s->clip + f * area, (size_t)(frames * area) * sizeof *frame, frame,
                          (size_t)area * sizeof *frame, (size_t)area * sizeof *frame, channels);
        }
    return IMAGINE_OK;
}

imagine_status imagine_sampler_begin(imagine_sampler *sampler, const imagine_buffer *noise, imagine_error *error)
{
    imagine_status status = usable(sampler, error);
    if (status < 0 || (noise && (status = check_noise(sampler, noise, error)) < 0))
        return status;
    if (sampler->config->in_channels != sampler->config->out_channels)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "transformer/config.json: \"in_channels\" is %d and \"out_channels\" is %d; sampling from "
                             "a prompt needs as many out as in", sampler->config->in_channels,
                             sampler->config->out_channels);
    if (noise) {
        imagine__copy(sampler->context, sampler->x, 0, imagine_buffer_data(noise), 0,
                      (size_t)sampler->count * sizeof *sampler->x, 1);
    } else {
        imagine__arena_mark mark = imagine__arena_save(sampler->work.arena);
        status = draw_noise(sampler, error);
        imagine__arena_restore(sampler->work.arena, mark);
        if (status < 0)
            return status;
    }
    imagine__stepper_reset(sampler->stepper);
    sampler->step = 0;
    sampler->begun = 1;
    sampler->failed = 0;
    return IMAGINE_OK;
}

static imagine_status forward(imagine_sampler *s, const imagine__dit_text *text, int32_t batch, float *v,
                              imagine_error *error)
{
    float timesteps[128];
    for (int32_t b = 0; b < batch; b++)
        timesteps[b] = (float)s->schedule.timesteps[s->step];
    imagine__dit_input input = {
        .x = s->x,
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

/* The guided prediction into s->v. */
static imagine_status predict(imagine_sampler *s, imagine_error *error)
{
    const imagine__kernels *kernels = s->work.run.kernels;
    float *negative = s->v + s->count;
    imagine_status status;
    if (s->batched) {
        imagine__copy(s->context, s->x + s->count, 0, s->x, 0, (size_t)s->count * sizeof *s->x, 1);
        status = forward(s, s->text, 2 * s->o.batch, s->v, error);
    } else {
        status = forward(s, s->text, s->o.batch, s->v, error);
        if (status >= 0 && s->guided)
            status = forward(s, s->negative, s->o.batch, negative, error);
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

static imagine_status check_step(const imagine_sampler *s, imagine_error *error)
{
    if (!s->begun)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "call imagine_sampler_begin before the first step");
    if (!s->text)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "call imagine_sampler_set_text before the first step");
    if (s->failed)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "the run ended with a failure; imagine_sampler_begin starts anew");
    if (s->step >= s->schedule.steps)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "all %d steps are done", s->schedule.steps);
    return IMAGINE_OK;
}

imagine_status imagine_sampler_step(imagine_sampler *sampler, imagine_step_info *info, imagine_error *error)
{
    imagine_status status = usable(sampler, error);
    if (status < 0 || (status = check_step(sampler, error)) < 0)
        return status;
    double begin = imagine__seconds();
    /* A cancelled prediction leaves the latents alone, and the step can be taken again. */
    if ((status = imagine__work_check(&sampler->work, error)) < 0 || (status = predict(sampler, error)) < 0) {
        sampler->failed = status != IMAGINE_ERROR_CANCELLED;
        return status;
    }
    /* The update is not to be left half done: it is short and runs whole. */
    const imagine_cancel *cancel = sampler->work.cancel;
    sampler->work.cancel = NULL;
    status = imagine__stepper_step(sampler->stepper, sampler->step, sampler->x, sampler->v, sampler->estimate, error);
    int finite = sampler->work.run.kernels->finite(&sampler->work.run, sampler->x, sampler->count);
    sampler->work.cancel = cancel;
    if (status >= 0 && !finite)
        status = imagine__fail(error, IMAGINE_ERROR_NOT_FINITE, "step %d of %d: the latents hold a NaN or an infinity",
                               sampler->step + 1, sampler->schedule.steps);
    if (status < 0) {
        sampler->failed = 1;
        return status;
    }
    sampler->step++;
    if (!info)
        return IMAGINE_OK;
    imagine_step_info known = {
        .struct_size = sizeof known,
        .step = sampler->step,
        .steps = sampler->schedule.steps,
        .sigma = sampler->schedule.sigmas[sampler->step],
        .seconds = imagine__seconds() - begin,
    };
    return imagine__write_struct(info, &known, sizeof known, "imagine_step_info", error);
}

static imagine_status copy_clip(imagine_sampler *s, const float *values, int32_t index, imagine_buffer **latents,
                                imagine_error *error)
{
    if (index < 0 || index >= s->o.batch)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "index: %d is not in 0..%d", index, s->o.batch - 1);
    imagine_status status = imagine__buffer_new(latents, s->context, IMAGINE_F32, 4, s->shape, error);
    if (status >= 0)
        imagine__copy(s->context, imagine_buffer_data(*latents), 0, values + index * s->clip, 0,
                      (size_t)s->clip * sizeof *values, 1);
    return status;
}

imagine_status imagine_sampler_get_latents(imagine_sampler *sampler, int32_t index, imagine_buffer **latents,
                                           imagine_error *error)
{
    imagine_status status = imagine__need(latents, "latents", error);
    if (status < 0)
        return status;
    *latents = NULL;
    if ((status = usable(sampler, error)) < 0)
        return status;
    if (!sampler->begun)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "no latents before imagine_sampler_begin");
    return copy_clip(sampler, sampler->x, index, latents, error);
}

imagine_status imagine_sampler_get_estimate(imagine_sampler *sampler, int32_t index, imagine_buffer **latents,
                                            imagine_error *error)
{
    imagine_status status = imagine__need(latents, "latents", error);
    if (status < 0)
        return status;
    *latents = NULL;
    if ((status = usable(sampler, error)) < 0)
        return status;
    if (!sampler->step)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "no estimate before the first step");
    return copy_clip(sampler, sampler->estimate, index, latents, error);
}

uint32_t imagine_sampler_get_sigmas(const imagine_sampler *sampler, double *sigmas, uint32_t count)
{
    if (!sampler)
        return 0;
    uint32_t has = (uint32_t)sampler->schedule.steps + 1;
    if (sigmas)
        memcpy(sigmas, sampler->schedule.sigmas, (count < has ? count : has) * sizeof *sigmas);
    return has;
}

/* ---- one forward on the caller's tensors ------------------------------------------------------------------------- */

/* The caller's timesteps as f32. */
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
    float *values = imagine__arena_floats(s->work.arena, count);
    if (!values)
        return imagine__fail_memory(error, (size_t)count * sizeof *values, "the timesteps");
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
    const imagine__dit_config *c = s->config;
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

static imagine_status denoise(imagine_sampler *s, const imagine_buffer *hidden, const imagine_buffer *timestep,
                              const imagine_buffer *encoder_hidden_states, imagine_buffer *sample, imagine_error *error)
{
    const imagine__dit_config *c = s->config;
    const int64_t *x = imagine__buffer_shape(hidden, NULL);
    int64_t tokens = x[2] / c->patch_t * (x[3] / c->patch_h) * (x[4] / c->patch_w);
    imagine__dit_text *text = NULL;
    float *timesteps = NULL;
    imagine__dit_input input = {
        .x = imagine_buffer_data(hidden),
        .y = imagine_buffer_data(sample),
        .batch = (int32_t)x[0],
        .frames = (int32_t)x[2],
        .height = (int32_t)x[3],
        .width = (int32_t)x[4],
    };
    imagine_status status = read_timesteps(s, timestep, x[0], tokens, &timesteps, &input.per_token, error);
    if (status < 0)
        return status;
    status = imagine__dit_text_create(&text, s->dit, &s->work, imagine_buffer_data(encoder_hidden_states), input.batch,
                                      (int32_t)imagine__buffer_shape(encoder_hidden_states, NULL)[1], error);
    if (status < 0)
        return status;
    input.timesteps = timesteps;
    input.text = text;
    status = imagine__dit_forward(s->dit, &s->work, &input, error);
    imagine__dit_text_free(text);
    return status < 0 ? status : imagine__work_check(&s->work, error);
}

imagine_status imagine_sampler_denoise(imagine_sampler *sampler, const imagine_buffer *hidden_states,
                                       const imagine_buffer *timestep, const imagine_buffer *encoder_hidden_states,
                                       imagine_buffer **sample, imagine_error *error)
{
    imagine_status status = imagine__need(sample, "sample", error);
    if (status < 0)
        return status;
    *sample = NULL;
    if ((status = usable(sampler, error)) < 0 ||
        (status = check_denoise(sampler, hidden_states, encoder_hidden_states, error)) < 0)
        return status;
    int64_t shape[5];
    memcpy(shape, imagine__buffer_shape(hidden_states, NULL), sizeof shape);
    shape[1] = sampler->config->out_channels;
    imagine_buffer *made;
    if ((status = imagine__buffer_new(&made, sampler->context, IMAGINE_F32, 5, shape, error)) < 0)
        return status;
    imagine__arena_mark mark = imagine__arena_save(sampler->work.arena);
    status = denoise(sampler, hidden_states, timestep, encoder_hidden_states, made, error);
    imagine__arena_restore(sampler->work.arena, mark);
    if (status < 0)
        imagine_buffer_release(&made);
    *sample = made;
    return status;
}
