/* SPDX-License-Identifier: MIT */

/* Prompt to frames: the whole pipeline. imagine__job_generate is what the job's thread does; the rest starts it and listens to it. */

#include <string.h>

#include "job.h"

static const imagine_job_options defaults = {
    .struct_size = sizeof(imagine_job_options),
    .events = IMAGINE_EVENT_BIT(IMAGINE_EVENT_STEP) | IMAGINE_EVENT_BIT(IMAGINE_EVENT_FRAMES),
    .preview_every = 1,
    .decode = 1,
};

void imagine_job_options_init(imagine_job_options *options, size_t size)
{
    imagine__init_options(options, size, &defaults, sizeof defaults);
}

/* ---- the job's thread -------------------------------------------------------------------------------------------- */

/* Ends the time of one stage and begins another's. */
static void enter(imagine_job *job, imagine_job_stage stage)
{
    double now = imagine__seconds();
    if (job->watch)
        imagine__watch_stage(job, job->info.stage, stage);
    pthread_mutex_lock(&job->mutex);
    job->info.seconds[job->info.stage] += now - job->entered;
    job->info.stage = stage;
    job->entered = now;
    pthread_mutex_unlock(&job->mutex);
}

/* The event, if it is wanted, with its buffer, which is taken over. */
static imagine_status tell(imagine_job *job, imagine_event event, imagine_error *error)
{
    if (!(job->wanted & IMAGINE_EVENT_BIT(event.kind))) {
        imagine_buffer_release(&event.frames);
        imagine_buffer_release(&event.latents);
        return IMAGINE_OK;
    }
    if (imagine__planning(job->context))
        imagine__events_make_room(&job->events, event.kind);
    event.struct_size = sizeof event;
    event.seconds = imagine__seconds() - job->created;
    return imagine__events_push(&job->events, &event, job->cancel, error);
}

static imagine__reading reading_of(const imagine_job *job, uint32_t stage)
{
    return job->placement.streamed & stage ? IMAGINE__READ_STREAMED : IMAGINE__READ_WHOLE;
}

/* A stage is done with, and its weights too where there is no room to keep them. */
static void leave(imagine_job *job)
{
    if (job->placement.give_back)
        imagine__model_give_back(job->model);
}

static imagine_status encode_text(imagine_job *job, imagine_buffer **positive, imagine_buffer **negative,
                                  imagine_error *error)
{
    int guided = imagine__sampler_guided(&job->sampling);
    imagine_text_options options = { .struct_size = sizeof options, .cancel = job->cancel };
    imagine_status status = IMAGINE_OK;
    *positive = imagine_buffer_retain(job->prompt_embeds);
    *negative = guided ? imagine_buffer_retain(job->negative_embeds) : NULL;
    if (*positive && (*negative || !guided))
        return status;
    enter(job, IMAGINE_JOB_LOAD);
    status = imagine__text_create(&job->text, job->model, reading_of(job, IMAGINE_STAGE_TEXT), &options, error);
    if (status < 0)
        return status;
    enter(job, IMAGINE_JOB_TEXT);
    if (!*positive)
        status = imagine_text_encode(job->text, job->prompt, NULL, positive, error);
    if (status >= 0 && guided && !*negative)
        status = imagine_text_encode(job->text, job->negative_prompt, NULL, negative, error);
    imagine_text_destroy(&job->text);
    leave(job);
    return status;
}

/* Frame `k` of [channels, frames, height, width] as a clip of one. */
static imagine_status latent_frame(imagine_job *job, const imagine_buffer *latents, int64_t k, imagine_buffer **frame,
                                   imagine_error *error)
{
    const int64_t *all = imagine__buffer_shape(latents, NULL);
    int64_t shape[] = { all[0], 1, all[2], all[3] }, area = all[2] * all[3];
    imagine_status status = imagine__buffer_new(frame, job->context, IMAGINE_F32, 4, shape, error);
    if (status < 0)
        return status;
    size_t size = (size_t)area * sizeof(float);
    imagine__copy_host(job->context, imagine_buffer_data(*frame), size,
                       (const float *)imagine_buffer_data(latents) + k * area, (size_t)all[1] * size, size, all[0]);
    return IMAGINE_OK;
}

static imagine_status open_vae(imagine_job *job, imagine_error *error)
{
    imagine_vae_options options = { .struct_size = sizeof options,
                                    .cancel = job->cancel,
                                    .tile_width = job->placement.tile ? job->placement.tile : job->tile_width,
                                    .tile_height = job->placement.tile ? job->placement.tile : job->tile_height };
    if (job->vae)
        return IMAGINE_OK;
    enter(job, IMAGINE_JOB_LOAD);
    return imagine_vae_create(&job->vae, job->model, &options, error);
}

/* The first frame of the estimate so far. */
static imagine_status preview(imagine_job *job, const imagine_step_info *step, imagine_error *error)
{
    imagine_buffer *estimate = NULL, *first = NULL;
    imagine_event event = { .kind = IMAGINE_EVENT_PREVIEW, .step = step->step, .steps = step->steps,
                            .frame_count = 1 };
    imagine_status status = imagine_sampler_get_estimate(job->sampler, 0, &estimate, error);
    if (status >= 0)
        status = latent_frame(job, estimate, 0, &first, error);
    if (status >= 0)
        status = imagine_vae_decode(job->vae, first, IMAGINE_U8, &event.frames, error);
    if (status >= 0)
        status = tell(job, event, error);
    imagine_buffer_release(&first);
    imagine_buffer_release(&estimate);
    return status;
}

/* The latents as they are now are those that the job has. Who asks for them shares them with the job, which goes on with them. */
static imagine_status keep_latents(imagine_job *job, imagine_error *error)
{
    imagine_buffer *latents;
    imagine_status status = imagine_sampler_get_latents(job->sampler, 0, &latents, error);
    if (status < 0)
        return status;
    imagine__buffer_protect(latents);
    pthread_mutex_lock(&job->mutex);
    imagine_buffer_release(&job->latents);
    job->latents = latents;
    pthread_mutex_unlock(&job->mutex);
    return IMAGINE_OK;
}

/* What another job can go on from; without memory for it the one before stays. */
static void keep_state(imagine_job *job)
{
    imagine_buffer *state = NULL, *before;
    if (!job->latents || imagine_sampler_get_state(job->sampler, &state, NULL) < 0)
        return;
    imagine__buffer_protect(state);
    pthread_mutex_lock(&job->mutex);
    before = job->state;
    job->state = state;
    pthread_mutex_unlock(&job->mutex);
    imagine_buffer_release(&before);
}

/* Sampling is over. */
static void drop_state(imagine_job *job)
{
    pthread_mutex_lock(&job->mutex);
    imagine_buffer *state = job->state;
    job->state = NULL;
    pthread_mutex_unlock(&job->mutex);
    imagine_buffer_release(&state);
}

/* One step, and what is told about it. */
static imagine_status take_step(imagine_job *job, imagine_error *error)
{
    imagine_step_info step = { .struct_size = sizeof step };
    imagine_status status = imagine_sampler_step(job->sampler, &step, error);
    if (status >= 0)
        status = keep_latents(job, error);
    if (status < 0)
        return status;
    if (job->state_every && step.step % job->state_every == 0 && step.step < step.steps)
        keep_state(job);
    imagine_event event = { .kind = IMAGINE_EVENT_STEP, .step = step.step, .steps = step.steps, .sigma = step.sigma };
    status = tell(job, event, error);
    if (status >= 0 && job->wanted & IMAGINE_EVENT_BIT(IMAGINE_EVENT_PREVIEW) && step.step % job->preview_every == 0)
        status = preview(job, &step, error);
    return status;
}

/* Pictures that are given become latents; the VAE is closed again, for what comes next is larger. */
static imagine_status encode_pictures(imagine_job *job, imagine_error *error)
{
    if (!imagine__conditions_pictures(&job->given))
        return IMAGINE_OK;
    imagine_status status = open_vae(job, error);
    enter(job, IMAGINE_JOB_ENCODE);
    if (status >= 0)
        status = imagine__conditions_encode(&job->given, job->context, job->vae, job->cancel, error);
    imagine_vae_destroy(&job->vae);
    leave(job);
    return status;
}

/* Tells the sampler what it is given, and begins. */
static imagine_status begin(imagine_job *job, imagine_error *error)
{
    imagine_status status = imagine_sampler_set_renoise(job->sampler, job->renoise, error);
    if (status >= 0)
        status = imagine_sampler_set_init(job->sampler, job->given.init_latents, error);
    if (status >= 0)
        status = imagine_sampler_set_known(job->sampler, job->given.known_latents, job->given.known_mask, error);
    if (status < 0)
        return status;
    if (!job->resumed)
        return imagine_sampler_begin(job->sampler, job->noise, error);
    status = imagine_sampler_resume(job->sampler, job->resumed, error);
    return status < 0 ? status : keep_latents(job, error);
}

static imagine_status sample(imagine_job *job, const imagine_buffer *positive, const imagine_buffer *negative,
                             imagine_error *error)
{
    imagine_sampler_options options = job->sampling;
    imagine_status status = IMAGINE_OK;
    options.cancel = job->cancel;
    if (job->placement.in_turn && options.cfg_mode == IMAGINE_CFG_AUTO)
        options.cfg_mode = IMAGINE_CFG_IN_TURN;
    else if (job->placement.streamed & IMAGINE_STAGE_SAMPLER && options.cfg_mode == IMAGINE_CFG_AUTO &&
             imagine__context_limit(imagine__model_context(job->model)))
        options.cfg_mode = IMAGINE_CFG_BATCHED; /* the plan has room: in turn, every step would read the weights twice */
    enter(job, IMAGINE_JOB_LOAD);
    if (job->wanted & IMAGINE_EVENT_BIT(IMAGINE_EVENT_PREVIEW))
        status = open_vae(job, error);
    if (status >= 0)
        status = imagine__sampler_create(&job->sampler, job->model, reading_of(job, IMAGINE_STAGE_SAMPLER), &options,
                                         error);
    if (status >= 0)
        imagine__sampler_give_back(job->sampler, job->placement.give_back);
    enter(job, IMAGINE_JOB_SAMPLE);
    if (status >= 0)
        status = imagine__sampler_set_text(job->sampler, positive, negative,
                                           (const char *const[]){ "prompt_embeds", "negative_embeds" }, error);
    if (status >= 0)
        status = begin(job, error);
    if (status >= 0) {
        for (int32_t i = imagine__sampler_done(job->sampler); i < job->info.steps && status >= 0; i++)
            status = take_step(job, error);
        if (status < 0)
            keep_state(job);
        else
            drop_state(job);
    }
    imagine_sampler_destroy(&job->sampler);
    leave(job);
    return status;
}

/* Frames of some latents, which are the whole clip's or the next ones. */
static imagine_status decode_piece(imagine_job *job, const imagine_buffer *latents, int whole, int32_t *at,
                                   imagine_error *error)
{
    imagine_event event = { .kind = IMAGINE_EVENT_FRAMES, .first_frame = *at };
    imagine_status status = whole ? imagine_vae_decode(job->vae, latents, IMAGINE_U8, &event.frames, error)
                                  : imagine_vae_decode_next(job->vae, latents, IMAGINE_U8, &event.frames, error);
    if (status < 0)
        return status;
    event.frame_count = (int32_t)imagine__buffer_shape(event.frames, NULL)[0];
    *at += event.frame_count;
    return tell(job, event, error);
}

static imagine_status decode(imagine_job *job, imagine_buffer *latents, int32_t *frames, imagine_error *error)
{
    int64_t count = imagine__buffer_shape(latents, NULL)[1];
    /* Tiles go through the whole clip one by one. */
    int whole = count == 1 || job->placement.tile || job->tile_width || job->tile_height;
    imagine_status status = open_vae(job, error);
    enter(job, IMAGINE_JOB_DECODE);
    if (whole && status >= 0)
        status = decode_piece(job, latents, 1, frames, error);
    for (int64_t k = 0; k < count && !whole && status >= 0; k++) {
        imagine_buffer *piece = NULL;
        status = latent_frame(job, latents, k, &piece, error);
        if (status >= 0)
            status = decode_piece(job, piece, 0, frames, error);
        imagine_buffer_release(&piece);
    }
    imagine_vae_destroy(&job->vae);
    return status;
}

imagine_status imagine__job_generate(imagine_job *job, int32_t *frames, imagine_error *error)
{
    imagine_buffer *positive = NULL, *negative = NULL, *latents = NULL;
    imagine_status status = IMAGINE_OK;
    leave(job); /* what others have left */
    if (!job->finished) {
        status = encode_pictures(job, error);
        if (status >= 0)
            status = encode_text(job, &positive, &negative, error);
        if (status >= 0)
            status = sample(job, positive, negative, error);
    }
    imagine_buffer_release(&positive);
    imagine_buffer_release(&negative);
    if (status >= 0) {
        latents = imagine_buffer_retain(job->latents);
        status = tell(job, (imagine_event){ .kind = IMAGINE_EVENT_LATENTS, .latents = imagine_buffer_retain(latents) },
                      error);
    }
    if (status >= 0 && job->decode)
        status = decode(job, latents, frames, error);
    imagine_buffer_release(&latents);
    imagine_text_destroy(&job->text);
    imagine_sampler_destroy(&job->sampler);
    imagine_vae_destroy(&job->vae);
    leave(job);
    enter(job, 0);
    return status;
}

static void read_peak(imagine_job *job)
{
    imagine_context_info info = { .struct_size = sizeof info };
    if (imagine_context_get_info(job->context, &info, NULL) >= 0)
        job->info.memory_peak = info.memory_peak;
}

static void *job_thread(void *arg)
{
    imagine_job *job = arg;
    imagine_error error = IMAGINE_ERROR_INIT;
    imagine_event done = { .struct_size = sizeof done, .kind = IMAGINE_EVENT_DONE };
    imagine_status status = imagine__job_generate(job, &done.frame_count, &error);
    pthread_mutex_lock(&job->mutex);
    read_peak(job);
    pthread_mutex_unlock(&job->mutex);
    done.seconds = imagine__seconds() - job->created;
    if (!job->decode)
        done.frame_count = job->info.frames;
    done.step = done.steps = status >= 0 && !job->finished ? job->info.steps : 0;
    imagine__events_finish(&job->events, status, &error, &done);
    return NULL;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static imagine_status check_stages(const imagine_job_options *o, const imagine_model *model, int guided,
                                   imagine_error *error)
{
    imagine_model_info info = { .struct_size = sizeof info };
    imagine_status status = imagine_model_get_info(model, &info, error);
    if (status < 0)
        return status;
    int previews = (o->events & IMAGINE_EVENT_BIT(IMAGINE_EVENT_PREVIEW)) && !o->latents;
    int text = !o->latents && (!o->prompt_embeds || (guided && !o->negative_embeds));
    int pictures = (o->init_frames || o->mask_frames || o->first_frames || o->last_frame) && !o->latents;
    const char *missing = text && !(info.stages & IMAGINE_STAGE_TEXT)              ? info.parameters_text ? "tokenizer" : "text_encoder"
                          : !o->latents && !(info.stages & IMAGINE_STAGE_SAMPLER)  ? "transformer"
                          : (o->decode || previews || pictures) && !(info.stages & IMAGINE_STAGE_VAE) ? "vae"
                                                                                                       : NULL;
    if (missing)
        return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND, "the pack has no %s, which this job needs%s", missing,
                             *missing == 'v' && o->decode && !pictures ? "; set decode to 0 to end with the latents" : "");
    return IMAGINE_OK;
}

/* Latents that are only to be decoded. */
static imagine_status check_finished(const imagine_job_options *o, const imagine_model *model, imagine_error *error)
{
    imagine_model_info info = { .struct_size = sizeof info };
    imagine_status status = imagine_model_get_info(model, &info, error);
    if (status < 0 ||
        (status = imagine__need_tensor(o->latents, "latents", IMAGINE_F32, 4, "[channels, frames, height, width]", error)) < 0)
        return status;
    int64_t channels = imagine__buffer_shape(o->latents, NULL)[0];
    return channels == info.latent_channels
               ? IMAGINE_OK
               : imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "latents: %lld channels, the model's have %d",
                               (long long)channels, info.latent_channels);
}

/* The clip that finished latents become, where the pack has a VAE, which alone knows. */
static void size_finished(imagine_job *job, const imagine_buffer *latents)
{
    imagine_model_info info = { .struct_size = sizeof info };
    const int64_t *shape = imagine__buffer_shape(latents, NULL);
    if (imagine_model_get_info(job->model, &info, NULL) < 0 || !(info.stages & IMAGINE_STAGE_VAE))
        return;
    job->info.width = (int32_t)(shape[3] * info.spatial_factor);
    job->info.height = (int32_t)(shape[2] * info.spatial_factor);
    job->info.frames = (int32_t)((shape[1] - 1) * info.temporal_factor + 1);
}

/* Embeddings and prompts, as far as the job will look at them. */
static imagine_status check_texts(const imagine_job_options *o, const imagine_job *job, imagine_error *error)
{
    imagine_model_info info = { .struct_size = sizeof info };
    int guided = imagine__sampler_guided(&job->sampling);
    imagine_status status = imagine_model_get_info(job->model, &info, error);
    if (status >= 0 && o->prompt_embeds)
        status = imagine__check_embeds(o->prompt_embeds, "prompt_embeds", 1, info.text_dim, error);
    else if (status >= 0 && o->prompt)
        status = imagine__check_prompt(o->prompt, "the prompt", error);
    if (status < 0 || !guided)
        return status;
    if (o->negative_embeds)
        return imagine__check_embeds(o->negative_embeds, "negative_embeds", 1, info.text_dim, error);
    return o->negative_prompt ? imagine__check_prompt(o->negative_prompt, "the negative prompt", error) : IMAGINE_OK;
}

/* What can be known to be wrong before gigabytes of weights are read. What the values are is looked at when they are used. */
static imagine_status check_tensors(const imagine_job_options *o, const imagine_job *job, imagine_error *error)
{
    imagine_status status = check_texts(o, job, error);
    if (status >= 0 && o->renoise)
        status = imagine__sampler_check_renoise(&job->sampling, job->context, o->renoise, job->given.latents, error);
    if (status >= 0 && o->state)
        status = imagine__sampler_check_state(&job->sampling, job->context, o->state, job->given.latents, error);
    if (status >= 0 && o->noise)
        status = imagine__check_latents(o->noise, "noise", job->given.latents, 1, 0, 0, error);
    return status;
}

/* Bit 0 stands for no event. All ones have meant every event since 0.1, and go on to mean those that a version has. */
static imagine_status check_events(uint32_t events, imagine_error *error)
{
    const uint32_t known = (IMAGINE_EVENT_BIT(IMAGINE_EVENT_DONE) << 1) - IMAGINE_EVENT_BIT(IMAGINE_EVENT_STEP);
    if (!(events & ~known) || events == UINT32_MAX)
        return IMAGINE_OK;
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                         "events: 0x%x has bits, 0x%x, of no event that version %s of the library knows", (unsigned)events,
                         (unsigned)(events & ~known), imagine_version_string());
}

static imagine_status check_options(const imagine_job_options *o, imagine_error *error)
{
    imagine_status status = check_events(o->events, error);
    if (status < 0)
        return status;
    if (o->preview_every < 1)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "preview_every: %d is not above 0",
                             o->preview_every);
    if (o->state_every < 0)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "state_every: %d is below 0", o->state_every);
    if (o->reserved0)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "reserved0: must be 0");
    if (o->decode != 0 && o->decode != 1)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "decode: %d is neither 0 nor 1", o->decode);
    if (o->tile_width < IMAGINE_VAE_TILE_AUTO || o->tile_height < IMAGINE_VAE_TILE_AUTO)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: %d is neither a size in pixels nor 0 nor -1",
                             o->tile_width < IMAGINE_VAE_TILE_AUTO ? "tile_width" : "tile_height",
                             o->tile_width < IMAGINE_VAE_TILE_AUTO ? o->tile_width : o->tile_height);
    if (o->latents && o->state)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "state: finished latents are only decoded; give one or the other");
    if (o->latents && (o->init_latents || o->known_latents || o->init_frames || o->mask_frames || o->first_frames ||
                       o->last_frame))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "latents: finished ones are only decoded; leave out what a run would begin with or keep");
    if (o->latents)
        return imagine__need_tensor(o->latents, "latents", IMAGINE_F32, 4, "[channels, frames, height, width]", error);
    return IMAGINE_OK;
}

imagine_status imagine__job_settle(imagine_sampler_options *settled, const imagine_model *model, const imagine_job_options *o,
                                   imagine_error *error)
{
    imagine_sampler_options asked;
    imagine_sampler_options_init(&asked, sizeof asked);
    imagine_status status = imagine__read_options(&asked, sizeof asked, o->sampler, "imagine_sampler_options", error);
    if (status < 0)
        return status;
    imagine__conditions_sizes(o, model, &asked);
    return imagine__sampler_settle(settled, model, &asked, error);
}

/* Settles the sampling options and copies what they point to. */
static imagine_status copy_sampling(imagine_job *job, const imagine_job_options *o, imagine_error *error)
{
    imagine_status status = imagine__job_settle(&job->sampling, job->model, o, error);
    if (status < 0 || (status = imagine__conditions_take(&job->given, o, job->model, &job->sampling, error)) < 0)
        return status;
    if (job->sampling.batch != 1)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "sampler: batch is %d, a job makes 1 clip",
                             job->sampling.batch);
    if (job->sampling.sigmas) {
        size_t size = job->sampling.sigma_count * sizeof *job->sigmas;
        job->sigmas = imagine__alloc(job->context, size);
        if (!job->sigmas)
            return imagine__fail_memory_in(job->context, error, size, "the sigmas");
        memcpy(job->sigmas, job->sampling.sigmas, size);
        job->sampling.sigmas = job->sigmas;
    }
    job->info.width = job->sampling.width;
    job->info.height = job->sampling.height;
    job->info.frames = job->sampling.frames;
    job->info.steps = imagine__sampler_steps(&job->sampling);
    job->info.guidance = job->sampling.guidance;
    return IMAGINE_OK;
}

/* The job's own token, fired also by the caller's: the job's and the one in the sampler's options. */
static imagine_status listen_to(imagine_job *job, const imagine_job_options *o, imagine_error *error)
{
    if (imagine__planning(job->context)) /* what a cancelled job would have needed can be asked all the same */
        return imagine__cancel_create_child(&job->cancel, job->context, NULL, NULL, error);
    return imagine__cancel_create_child(&job->cancel, job->context, o->cancel, job->sampling.cancel, error);
}

static imagine_status copy_options(imagine_job *job, const imagine_job_options *o, imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    if (!o->latents)
        status = copy_sampling(job, o, error);
    if (status >= 0)
        status = check_stages(o, job->model, imagine__sampler_guided(&job->sampling), error);
    if (status >= 0)
        status = o->latents ? check_finished(o, job->model, error) : check_tensors(o, job, error);
    if (status >= 0)
        status = listen_to(job, o, error);
    if (status < 0)
        return status;
    if (o->latents)
        size_finished(job, o->latents);
    job->wanted = o->events;
    job->preview_every = o->preview_every;
    job->state_every = o->state_every;
    job->decode = o->decode;
    job->tile_width = o->tile_width > 0 ? o->tile_width : 0;
    job->tile_height = o->tile_height > 0 ? o->tile_height : 0;
    job->prompt = imagine__strdup(job->context, o->prompt ? o->prompt : "");
    job->negative_prompt = imagine__strdup(job->context, o->negative_prompt ? o->negative_prompt : "");
    if (!job->prompt || !job->negative_prompt)
        return imagine__fail_memory_in(job->context, error, strlen(o->prompt ? o->prompt : "") + 1, "the prompt");
    job->prompt_embeds = imagine_buffer_retain(o->prompt_embeds);
    job->negative_embeds = imagine_buffer_retain(o->negative_embeds);
    job->noise = imagine_buffer_retain(o->noise);
    job->renoise = imagine_buffer_retain(o->renoise);
    job->resumed = imagine_buffer_retain(o->state);
    if (o->latents && (status = imagine__buffer_on_host(&job->finished, o->latents, error)) < 0)
        return status;
    job->latents = imagine_buffer_retain(job->finished);
    return IMAGINE_OK;
}

static imagine_status start(imagine_job *job, imagine_error *error)
{
    imagine_context_reset_peak(job->context);
    job->created = job->entered = imagine__seconds();
    int failed = imagine__thread_create(&job->thread, job_thread, job);
    job->running = !failed;
    return failed ? imagine__fail_errno(error, IMAGINE_ERROR_THREAD, failed, "the job's thread") : IMAGINE_OK;
}

imagine_status imagine__job_read_options(imagine_job_options *o, const imagine_job_options *options, imagine_error *error)
{
    *o = defaults;
    imagine_status status = imagine__read_options(o, sizeof *o, options, "imagine_job_options", error);
    return status < 0 ? status : check_options(o, error);
}

imagine_status imagine__job_prepare(imagine_job **job, imagine_model *model, const imagine_job_options *options,
                                    imagine_error *error)
{
    imagine_job_options o;
    imagine_status status;
    *job = NULL;
    if ((status = imagine__need(model, "model", error)) < 0 ||
        (status = imagine__check_process(imagine__model_context(model), error)) < 0 ||
        (status = imagine__job_read_options(&o, options, error)) < 0)
        return status;
    imagine_context *context = imagine__model_context(model);
    imagine_job *made = imagine__calloc(context, 1, sizeof *made);
    if (!made)
        return imagine__fail_memory_in(context, error, sizeof *made, "a job");
    made->context = context;
    made->model = imagine_model_retain(model);
    made->info.struct_size = sizeof made->info;
    pthread_mutex_init(&made->mutex, NULL);
    imagine__events_init(&made->events);
    if ((status = copy_options(made, &o, error)) < 0)
        imagine_job_destroy(&made);
    *job = made;
    return status;
}

/* Decides how the job keeps within the context's limit, or refuses it. */
static imagine_status admit(imagine_model *model, const imagine_job_options *options, imagine__placement *placement,
                            imagine_error *error)
{
    imagine_estimate estimate;
    *placement = (imagine__placement){ 0 };
    imagine_status status = imagine__need(model, "model", error);
    if (status < 0 || (status = imagine__check_process(imagine__model_context(model), error)) < 0)
        return status;
    if (!imagine__context_limit(imagine__model_context(model))) {
        if (imagine__model_weights(model) == IMAGINE_WEIGHTS_STREAMED)
            placement->streamed = IMAGINE_STAGE_TEXT | IMAGINE_STAGE_SAMPLER;
        return IMAGINE_OK;
    }
    status = imagine__job_place(model, options, placement, &estimate, error);
    return status < 0 || estimate.fits ? status : imagine__job_refuse(&estimate, error);
}

imagine_status imagine_job_create(imagine_job **job, imagine_model *model, const imagine_job_options *options,
                                  imagine_error *error)
{
    IMAGINE__GUARD(imagine__model_context(model));
    imagine__placement placement;
    imagine_status status = imagine__need(job, "job", error);
    if (status < 0)
        return status;
    *job = NULL;
    if ((status = admit(model, options, &placement, error)) < 0 ||
        (status = imagine__job_prepare(job, model, options, error)) < 0)
        return status;
    (*job)->placement = placement;
    status = start(*job, error);
    if (status < 0)
        imagine_job_destroy(job);
    return status;
}

void imagine_job_destroy(imagine_job **job)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_AT(job));
    if (!job || !*job)
        return;
    imagine_job *old = *job;
    imagine_model *model = old->model;
    *job = NULL;
    imagine_cancel_fire(old->cancel);
    /* In a forked child the thread is gone, in the middle of what it did: what it owned is left alone. */
    if (old->running && imagine__forked(old->context))
        return;
    if (old->running)
        pthread_join(old->thread, NULL);
    imagine__events_fini(&old->events);
    pthread_mutex_destroy(&old->mutex);
    imagine_buffer_release(&old->latents);
    imagine_buffer_release(&old->state);
    imagine_buffer_release(&old->resumed);
    imagine_buffer_release(&old->finished);
    imagine__conditions_release(&old->given);
    imagine_buffer_release(&old->renoise);
    imagine_buffer_release(&old->noise);
    imagine_buffer_release(&old->negative_embeds);
    imagine_buffer_release(&old->prompt_embeds);
    imagine__free(old->context, old->negative_prompt);
    imagine__free(old->context, old->prompt);
    imagine__free(old->context, old->sigmas);
    imagine_cancel_release(&old->cancel);
    imagine__free(old->context, old);
    imagine_model_release(&model);
}

/* ---- what the caller asks ---------------------------------------------------------------------------------------- */

static imagine_status usable(const imagine_job *job, imagine_error *error)
{
    imagine_status status = imagine__need(job, "job", error);
    return status < 0 ? status : imagine__check_process(job->context, error);
}

imagine_status imagine_job_next(imagine_job *job, imagine_event *event, int64_t timeout_ns, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(job));
    imagine_status status = usable(job, error);
    if (status < 0 || (status = imagine__need(event, "event", error)) < 0)
        return status;
    return imagine__events_take(&job->events, event, timeout_ns, error);
}

void imagine_job_cancel(imagine_job *job)
{
    if (job)
        imagine_cancel_fire(job->cancel);
}

int32_t imagine_job_fd(const imagine_job *job)
{
    return job ? job->events.fd : -1;
}

/* *out = NULL, and whether the job can be asked for what is to go there. */
static imagine_status asked_for(const imagine_job *job, imagine_buffer **out, const char *name, imagine_error *error)
{
    imagine_status status = imagine__need(out, name, error);
    if (status < 0)
        return status;
    *out = NULL;
    return usable(job, error);
}

/* *out = what the job holds, which its thread may replace; `none` says why there may be nothing. */
static imagine_status share(imagine_job *job, imagine_buffer *const *held, imagine_buffer **out, const char *none, imagine_error *error)
{
    pthread_mutex_lock(&job->mutex);
    *out = imagine_buffer_retain(*held);
    pthread_mutex_unlock(&job->mutex);
    return *out ? IMAGINE_OK : imagine__fail(error, IMAGINE_ERROR_STATE, "%s", none);
}

imagine_status imagine_job_get_latents(imagine_job *job, imagine_buffer **latents, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(job));
    imagine_status status = asked_for(job, latents, "latents", error);
    return status < 0 ? status : share(job, &job->latents, latents, "no step is done yet", error);
}

imagine_status imagine_job_get_state(imagine_job *job, imagine_buffer **state, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(job));
    imagine_status status = asked_for(job, state, "state", error);
    return status < 0 ? status
                      : share(job, &job->state, state,
                              "there is no state to go on from: a job has one once it is stopped between its first step and its last, "
                              "or, with state_every, after such a step until the last",
                              error);
}

imagine_status imagine_job_get_info(imagine_job *job, imagine_job_info *info, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(job));
    imagine_status status = usable(job, error);
    if (status < 0)
        return status;
    pthread_mutex_lock(&job->mutex);
    if (job->info.stage) {
        double now = imagine__seconds();
        job->info.seconds[job->info.stage] += now - job->entered;
        job->entered = now;
        read_peak(job);
    }
    imagine_job_info known = job->info;
    pthread_mutex_unlock(&job->mutex);
    known.seconds[0] = 0;
    return imagine__write_struct(info, &known, sizeof known, "imagine_job_info", error);
}
