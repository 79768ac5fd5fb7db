/* SPDX-License-Identifier: MIT */

/* The sampler's handle: noise and text to latents, one step a call. */

#include "sampler/inside.h"
#include "vae/vae.h"

#define BATCHED_TOKENS 8192 /* IMAGINE_CFG_AUTO: with more tokens than this the two predictions are made in turn */

/* ---- life -------------------------------------------------------------------------------------------------------- */

/* Latent sizes for the pixels asked for. */
static imagine_status set_sizes(imagine_sampler *s, imagine_error *error)
{
    imagine_model_info info = { .struct_size = sizeof info };
    imagine_status status = imagine_model_get_info(s->model, &info, error);
    if (status < 0)
        return status;
    const imagine__dit_config *c = &s->config;
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
    s->guided = imagine__sampler_guided(&s->o);
    int64_t tokens = s->count / (s->shape[0] * c->patch_t * c->patch_h * c->patch_w);
    s->batched = s->guided && (s->o.cfg_mode == IMAGINE_CFG_BATCHED ||
                               (s->o.cfg_mode == IMAGINE_CFG_AUTO && tokens <= BATCHED_TOKENS));
    return IMAGINE_OK;
}

/* The handle's own tensors. */
static imagine_status allocate(imagine_sampler *s, imagine_error *error)
{
    int draws = imagine__schedule_count_draws(&s->schedule) > 0;
    const struct {
        float **values;
        size_t clips;
    } tensors[] = { { &s->x, 1 },
                    { &s->v, s->guided ? 2 : 1 },
                    { &s->estimate, 1 },
                    { &s->twice, s->batched ? 2 : 0 },
                    { &s->noise, (size_t)draws } };
    imagine_status status = IMAGINE_OK;
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors && status >= 0; i++)
        if (tensors[i].clips)
            status = imagine__work_zeros(&s->work, tensors[i].values, tensors[i].clips * (size_t)s->count, "the latents",
                                         error);
    return status;
}

/* Says so where `eta` changes nothing: no picture shows that. */
static void warn_of_eta(const imagine_sampler *s)
{
    if (s->o.eta != 1 && s->schedule.rule != IMAGINE_STEP_ANCESTRAL && !imagine__planning(s->context))
        imagine__log(s->context, IMAGINE_LOG_WARNING, "eta: %g has no use with the step rule %s, only with %s", s->o.eta,
                     imagine_step_rule_name(s->schedule.rule), imagine_step_rule_name(IMAGINE_STEP_ANCESTRAL));
}

static imagine_status set_up(imagine_sampler *s, imagine__reading reading, const imagine_sampler_options *options,
                             imagine_error *error)
{
    imagine_status status = imagine__sampler_settle(&s->o, s->model, options, error);
    if (status < 0)
        return status;
    s->cancel = imagine_cancel_retain(s->o.cancel);
    s->o.cancel = s->cancel;
    status = imagine__schedule_of(&s->schedule, s->context, &s->o, error);
    s->o.sigmas = NULL; /* the caller's; the schedule has its own */
    if (status < 0)
        return status;
    warn_of_eta(s);
    s->reading = reading;
    s->give_back = imagine__context_limit(s->context) > 0;
    s->expert = imagine__sampler_expert(s, s->schedule.timesteps[0]);
    if ((status = imagine__model_expert(s->model, s->expert, reading, &s->dit, s->cancel, error)) < 0)
        return status;
    s->config = *imagine__dit_get_config(s->dit);
    if ((status = set_sizes(s, error)) < 0 ||
        (status = imagine__work_init(&s->work, s->context, s->cancel, error)) < 0 ||
        (status = imagine__stepper_create(&s->stepper, &s->work, &s->schedule, s->count, error)) < 0)
        return status;
    return allocate(s, error);
}

void imagine__sampler_give_back(imagine_sampler *sampler, int give_back)
{
    sampler->give_back = give_back;
}

imagine_status imagine_sampler_create(imagine_sampler **sampler, imagine_model *model,
                                      const imagine_sampler_options *options, imagine_error *error)
{
    IMAGINE__GUARD(imagine__model_context(model));
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
        return imagine__fail_memory_in(context, error, sizeof *made, "a sampler");
    made->model = imagine_model_retain(model);
    made->context = context;
    status = set_up(made, reading, options, error);
    status = imagine__device_cause(context, status, error);
    if (status < 0)
        imagine_sampler_destroy(&made);
    *sampler = made;
    return status;
}

void imagine_sampler_destroy(imagine_sampler **sampler)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_AT(sampler));
    if (!sampler || !*sampler)
        return;
    imagine_sampler *old = *sampler;
    imagine_model *model = old->model;
    *sampler = NULL;
    imagine__free(old->context, old->noise);
    imagine__free(old->context, old->twice);
    imagine__free(old->context, old->estimate);
    imagine__free(old->context, old->v);
    imagine__free(old->context, old->x);
    imagine__dit_text_free(old->negative);
    imagine__dit_text_free(old->text);
    imagine__stepper_free(old->stepper);
    imagine__stream_close(old->stream);
    imagine__work_fini(&old->work);
    imagine__model_put(model, old->dit);
    imagine__schedule_free(&old->schedule, old->context);
    imagine__free(old->context, old->rows);
    imagine__free(old->context, old->start);
    imagine__sampler_drop_known(old);
    imagine_buffer_release(&old->mask);
    imagine_buffer_release(&old->known);
    imagine_buffer_release(&old->init);
    imagine_buffer_release(&old->renoise);
    imagine_cancel_release(&old->cancel);
    imagine__free(old->context, old);
    imagine_model_release(&model);
}

imagine_status imagine__sampler_usable(const imagine_sampler *s, imagine_error *error)
{
    imagine_status status = imagine__need(s, "sampler", error);
    return status < 0 ? status : imagine__check_process(s->context, error);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

imagine_status imagine_sampler_set_renoise(imagine_sampler *sampler, imagine_buffer *noise, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(sampler));
    imagine_status status = imagine__sampler_usable(sampler, error);
    if (status < 0)
        return status;
    imagine_buffer *taken = NULL;
    int32_t draws = imagine__schedule_count_draws(&sampler->schedule);
    if (noise && ((status = imagine__check_renoise(noise, sampler->shape, sampler->o.batch, draws, error)) < 0 ||
                  (status = imagine__buffer_on_host(&taken, noise, error)) < 0))
        return status;
    if (noise && (status = imagine__sampler_check(sampler, taken, "renoise", draws, 0, error)) < 0) {
        imagine_buffer_release(&taken);
        return status;
    }
    imagine_buffer_release(&sampler->renoise);
    sampler->renoise = taken;
    return IMAGINE_OK;
}

typedef struct noise_job {
    const imagine_sampler *s;
    uint32_t purpose;
    float *out;
    int64_t pieces; /* of a channel */
} noise_job;

#define NOISE_PIECE 65536 /* values; a multiple of the four that are drawn together */

/* A piece of one channel of one latent frame of one clip. Noise is drawn per frame, so that a longer clip begins as a
 * shorter one of the same seed. */
static void noise_piece(void *arg, int64_t tile, void *scratch)
{
    const noise_job *job = arg;
    const imagine_sampler *s = job->s;
    int64_t channels = s->shape[0], frames = s->shape[1], area = s->shape[2] * s->shape[3];
    int64_t first = tile % job->pieces * NOISE_PIECE, count = area - first < NOISE_PIECE ? area - first : NOISE_PIECE;
    tile /= job->pieces;
    int64_t c = tile % channels, frame = tile / channels % frames, clip = tile / channels / frames;
    (void)scratch;
    imagine__noise_fill(job->out + clip * s->clip + (c * frames + frame) * area + first, c * area + first, count,
                        s->o.seed + (uint64_t)clip, job->purpose, (uint32_t)frame);
}

imagine_status imagine__sampler_noise(imagine_sampler *s, uint32_t purpose, float *out, imagine_error *error)
{
    size_t size = (size_t)s->count * sizeof *out;
    imagine__arena_mark mark = imagine__arena_save(s->work.arena);
    int64_t pieces = (s->shape[2] * s->shape[3] + NOISE_PIECE - 1) / NOISE_PIECE;
    noise_job job = { s, purpose, imagine__borrow(&s->work, out, size, IMAGINE__WRITE), pieces };
    if (!job.out)
        return imagine__fail_memory_in(s->context, error, size, "the noise");
    imagine__parallel(&s->work.run, s->o.batch * s->shape[1] * s->shape[0] * pieces, noise_piece, &job);
    imagine__return(&s->work, out, job.out, size);
    imagine__arena_restore(s->work.arena, mark);
    return imagine__work_check(&s->work, error);
}

/* The caller's noise, on the host, or the seed's. */
static imagine_status begin(imagine_sampler *sampler, const imagine_buffer *noise, imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    if (noise && (status = imagine__sampler_check(sampler, noise, "noise", 0, 0, error)) < 0)
        return status;
    if (sampler->config.in_channels != sampler->config.out_channels)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "transformer/config.json: \"in_channels\" is %d and \"out_channels\" is %d; sampling from "
                             "a prompt needs as many out as in", sampler->config.in_channels,
                             sampler->config.out_channels);
    sampler->begun = 0;
    if (noise)
        imagine__upload(&sampler->work, sampler->x, 0, imagine_buffer_data(noise), 0,
                        (size_t)sampler->count * sizeof *sampler->x, 1);
    else if ((status = imagine__sampler_noise(sampler, IMAGINE__NOISE_INITIAL, sampler->x, error)) < 0)
        return status;
    if ((status = imagine__sampler_start(sampler, error)) < 0)
        return status;
    imagine__stepper_reset(sampler->stepper);
    sampler->step = 0;
    sampler->begun = 1;
    sampler->failed = sampler->spoilt = 0;
    return IMAGINE_OK;
}

imagine_status imagine_sampler_begin(imagine_sampler *sampler, const imagine_buffer *noise, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(sampler));
    imagine_buffer *on_host = NULL;
    imagine_status status = imagine__sampler_usable(sampler, error);
    if (status >= 0 && noise)
        status = imagine__buffer_on_host(&on_host, noise, error);
    if (status >= 0)
        status = imagine__device_cause(sampler->context, begin(sampler, on_host, error), error);
    imagine_buffer_release(&on_host);
    return status;
}

static imagine_status check_step(const imagine_sampler *s, imagine_error *error)
{
    if (!s->begun)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "call imagine_sampler_begin before the first step");
    if (!s->text && !s->rows)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "call imagine_sampler_set_text before the first step");
    if (s->failed)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "the run ended with a failure; imagine_sampler_begin starts anew");
    if (s->step >= s->schedule.steps)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "all %d steps are done", s->schedule.steps);
    return IMAGINE_OK;
}

/* What the present step adds. */
static imagine_status step_noise(imagine_sampler *s, imagine_error *error)
{
    if (!imagine__schedule_draws(&s->schedule, s->step))
        return IMAGINE_OK;
    if (!s->renoise)
        return imagine__sampler_noise(s, IMAGINE__NOISE_RENOISE(s->schedule.skipped + s->step + 1), s->noise, error);
    const float *all = imagine_buffer_data(s->renoise);
    imagine__upload(&s->work, s->noise, 0, all + s->step * s->count, 0, (size_t)s->count * sizeof *all, 1);
    return IMAGINE_OK;
}

/* Everything of a step that may take long or be cancelled; the latents stay as they are. */
static imagine_status prepare_step(imagine_sampler *s, imagine_error *error)
{
    imagine_status status = imagine__work_check(&s->work, error);
    if (status >= 0)
        status = step_noise(s, error);
    if (status >= 0)
        status = imagine__sampler_predict(s, s->x, s->step, error);
    if (status < 0)
        return status;
    float *trial = imagine__stepper_trial(s->stepper, s->step, s->x, s->v);
    if (!trial)
        return IMAGINE_OK;
    imagine__sampler_keep(s, trial, s->schedule.sigmas[s->step + 1]);
    status = imagine__work_check(&s->work, error);
    return status < 0 ? status : imagine__sampler_predict(s, trial, s->step + 1, error);
}

/* The update is not to be left half done: it is short and runs whole. */
static imagine_status update(imagine_sampler *s, imagine_error *error)
{
    const imagine_cancel *cancel = s->work.cancel;
    s->work.cancel = NULL;
    imagine_status status = imagine__stepper_step(s->stepper, s->step, s->x, s->v, s->noise, s->estimate, error);
    if (status >= 0) { /* the last step ends with the known ones as they are, wherever the schedule ends */
        imagine__sampler_keep(s, s->x, s->step + 1 < s->schedule.steps ? s->schedule.sigmas[s->step + 1] : 0);
        imagine__sampler_keep(s, s->estimate, 0);
    }
    int finite = s->work.run.kernels->finite(&s->work.run, s->x, s->count);
    if (status >= 0)
        status = imagine__work_check(&s->work, error); /* on a device something may have failed */
    s->work.cancel = cancel;
    if (status >= 0 && !finite)
        status = imagine__fail(error, IMAGINE_ERROR_NOT_FINITE, "step %d of %d: the latents hold a NaN or an infinity",
                               s->step + 1, s->schedule.steps);
    return status;
}

imagine_status imagine_sampler_step(imagine_sampler *sampler, imagine_step_info *info, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(sampler));
    imagine_status status = imagine__sampler_usable(sampler, error);
    if (status < 0 || (status = imagine__check_struct(info, "imagine_step_info", error)) < 0 ||
        (status = check_step(sampler, error)) < 0)
        return status;
    double begin = imagine__seconds();
    /* A cancelled prediction leaves the latents alone, and the step can be taken again. */
    if ((status = prepare_step(sampler, error)) < 0) {
        sampler->failed = status != IMAGINE_ERROR_CANCELLED;
        return imagine__device_cause(sampler->context, status, error);
    }
    if ((status = update(sampler, error)) < 0) {
        sampler->failed = sampler->spoilt = 1;
        return imagine__device_cause(sampler->context, status, error);
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
    if (status < 0)
        return status;
    imagine__download(&s->work, imagine_buffer_data(*latents), 0, values + index * s->clip, 0,
                      (size_t)s->clip * sizeof *values, 1);
    status = imagine__work_failed(&s->work, error);
    if (status < 0)
        imagine_buffer_release(latents);
    return status;
}

imagine_status imagine_sampler_get_latents(imagine_sampler *sampler, int32_t index, imagine_buffer **latents,
                                           imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(sampler));
    imagine_status status = imagine__need(latents, "latents", error);
    if (status < 0)
        return status;
    *latents = NULL;
    if ((status = imagine__sampler_usable(sampler, error)) < 0)
        return status;
    if (!sampler->begun)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "no latents before imagine_sampler_begin");
    return copy_clip(sampler, sampler->x, index, latents, error);
}

imagine_status imagine_sampler_get_estimate(imagine_sampler *sampler, int32_t index, imagine_buffer **latents,
                                            imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(sampler));
    imagine_status status = imagine__need(latents, "latents", error);
    if (status < 0)
        return status;
    *latents = NULL;
    if ((status = imagine__sampler_usable(sampler, error)) < 0)
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
