/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "model/pack.h"

#define WAIT_NANOSECONDS 20000000 /* between looks at the cancel token while another thread loads */

static const imagine_model_options option_defaults = { .struct_size = sizeof(imagine_model_options) };

void imagine_model_options_init(imagine_model_options *options, size_t size)
{
    imagine__init_options(options, size, &option_defaults, sizeof option_defaults);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void init_locks(imagine_model *model)
{
    pthread_condattr_t attributes;
    pthread_mutex_init(&model->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&model->loaded, &attributes);
    pthread_condattr_destroy(&attributes);
}

static imagine_status check_arguments(imagine_model **model, imagine_context *context, const char *path,
                                      const imagine_model_options *options, imagine_weights *weights,
                                      imagine_error *error)
{
    imagine_model_options o = option_defaults;
    if (!model)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "model: the pointer is NULL");
    *model = NULL;
    if (!context || !path)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: the pointer is NULL",
                             context ? "path" : "context");
    imagine_status status = imagine__check_process(context, error);
    if (status >= 0)
        status = imagine__read_options(&o, sizeof o, options, "imagine_model_options", error);
    if (status >= 0 && (o.reserved0 || o.reserved1))
        status = imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                               "imagine_model_options: reserved0 and reserved1 must be 0");
    if (status >= 0 && (o.weights < IMAGINE_WEIGHTS_AUTO || o.weights > IMAGINE_WEIGHTS_STREAMED))
        status = imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "weights: %d is not in 0..2", o.weights);
    *weights = o.weights;
    return status;
}

imagine_status imagine_model_open(imagine_model **model, imagine_context *context, const char *path,
                                  const imagine_model_options *options, imagine_error *error)
{
    IMAGINE__GUARD(context);
    imagine_weights weights = 0;
    imagine_status status = check_arguments(model, context, path, options, &weights, error);
    if (status < 0)
        return status;
    imagine_model *made = imagine__calloc(context, 1, sizeof *made);
    if (!made)
        return imagine__fail_memory_in(context, error, sizeof *made, "a model");
    atomic_init(&made->references, 1);
    made->context = imagine_context_retain(context);
    made->weights = weights;
    init_locks(made);
    made->tokenizer_file = -1;
    made->defaults = (imagine__defaults) { .width = 832,
                                           .height = 480,
                                           .frames = 81,
                                           .steps = 50,
                                           .text_length = 512,
                                           .schedule = IMAGINE_SCHEDULE_WAN_UNIPC,
                                           .known_mode = IMAGINE_KNOWN_RENOISED,
                                           .fps = 16,
                                           .guidance = 5,
                                           .guidance_2 = 5,
                                           .shift = 3 };
    made->path = imagine__strdup(context, path);
    status = made->path ? imagine__pack_read(made, error) : imagine__fail_memory_in(context, error, 1, "a model's path");
    if (status < 0)
        imagine_model_release(&made);
    *model = made;
    return status;
}

/* Under the mutex: takes what nobody has any more out of its place; NULL: somebody has it, or it is not there. */
static void *take(imagine__holding *held)
{
    void *loaded = held->users || held->pins ? NULL : held->loaded;
    if (loaded)
        held->loaded = NULL;
    held->unwanted = held->unwanted && held->loaded;
    return loaded;
}

static void unload(const imagine_model *model, imagine__stage_kind kind, void *loaded)
{
    switch (kind) {
    case IMAGINE__STAGE_TOKENIZER:
        if (imagine__planning(model->context))
            imagine__free(model->context, loaded);
        else
            imagine__tokenizer_close(loaded);
        break;
    case IMAGINE__STAGE_ENCODER:
        imagine__umt5_free(loaded);
        break;
    case IMAGINE__STAGE_TRANSFORMER:
    case IMAGINE__STAGE_TRANSFORMER_2:
        imagine__dit_free(loaded);
        break;
    case IMAGINE__STAGE_VAE:
        imagine__vae_free(loaded);
        break;
    case IMAGINE__STAGE_COUNT:
        break;
    }
}

/* A stand-in no longer counts with `held` of the model. 1: no handle has it either. */
static int unpin(imagine_model *model, imagine__stage_kind kind, imagine__holding *held)
{
    if (imagine__forked(model->context))
        return 0;
    pthread_mutex_lock(&model->mutex);
    held->pins--;
    int unused = !held->users;
    void *loaded = held->unwanted ? take(held) : NULL;
    pthread_mutex_unlock(&model->mutex);
    if (loaded)
        unload(model, kind, loaded);
    return unused;
}

imagine_model *imagine_model_retain(imagine_model *model)
{
    if (model)
        imagine__reference(&model->references);
    return model;
}

void imagine_model_release(imagine_model **model)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_AT(model));
    if (!model || !*model)
        return;
    imagine_model *old = *model;
    *model = NULL;
    if (!imagine__unreference(&old->references))
        return;
    imagine_context *context = old->context;
    for (int kind = 0; kind < IMAGINE__STAGE_COUNT; kind++) {
        imagine__stage *stage = &old->stages[kind];
        for (int i = 0; i < 2; i++) {
            if (stage->held[i].borrowed)
                unpin(old->real, kind, &old->real->stages[kind].held[i]);
            else if (stage->held[i].loaded)
                unload(old, kind, stage->held[i].loaded);
        }
        if (old->real)
            continue;
        imagine__weights_close(stage->weights);
        imagine__free(context, stage->folder);
    }
    if (!imagine__forked(context)) {
        pthread_mutex_destroy(&old->mutex);
        pthread_cond_destroy(&old->loaded);
    }
    if (!old->real) {
        if (old->tokenizer_file >= 0)
            close(old->tokenizer_file);
        imagine__free(context, old->path);
    }
    imagine__free(context, old);
    imagine_context_release(&context);
}

imagine_status imagine__model_plan(imagine_model **plan, imagine_model *model, imagine_context *planning,
                                   imagine_error *error)
{
    imagine_model *made = imagine__calloc(planning, 1, sizeof *made);
    *plan = made;
    if (!made)
        return imagine__fail_memory_in(planning, error, sizeof *made, "a plan");
    atomic_init(&made->references, 1);
    made->context = imagine_context_retain(planning);
    made->real = model;
    made->path = model->path;
    made->tokenizer_file = model->tokenizer_file;
    made->tokenizer_size = model->tokenizer_size;
    init_locks(made);
    made->text_dim = model->text_dim;
    made->umt5 = model->umt5;
    made->dit = model->dit;
    made->dit_2 = model->dit_2;
    made->vae = model->vae;
    made->defaults = model->defaults;
    made->scheduler = model->scheduler;
    made->weights = model->weights;
    pthread_mutex_lock(&model->mutex);
    for (int kind = 0; kind < IMAGINE__STAGE_COUNT; kind++) {
        made->stages[kind].folder = model->stages[kind].folder;
        made->stages[kind].weights = model->stages[kind].weights;
        for (int i = 0; i < 2; i++) {
            imagine__holding *held = &model->stages[kind].held[i];
            int borrowed = held->loaded != NULL;
            made->stages[kind].held[i] = (imagine__holding){ .loaded = held->loaded, .borrowed = borrowed };
            held->pins += borrowed;
        }
    }
    pthread_mutex_unlock(&model->mutex);
    return IMAGINE_OK;
}

/* ---- what it tells --------------------------------------------------------------------------- */

static int32_t least_common_multiple(int32_t a, int32_t b)
{
    int32_t x = a, y = b;
    while (y) {
        int32_t rest = x % y;
        x = y;
        y = rest;
    }
    return a / x * b;
}

static void describe_weights(const imagine__weights *weights, uint64_t *parameters, uint64_t *bytes)
{
    if (!weights)
        return;
    *parameters += imagine__weights_elements(weights);
    *bytes += imagine__weights_bytes(weights);
}

imagine_status imagine_model_get_info(const imagine_model *model, imagine_model_info *info, imagine_error *error)
{
    if (!model)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "model: the pointer is NULL");
    imagine_status status = imagine__check_process(model->context, error);
    if (status < 0)
        return status;
    const imagine__defaults *d = &model->defaults;
    const imagine__stage *s = model->stages;
    imagine_model_info known = { .struct_size = sizeof known,
                                 .width = d->width,
                                 .height = d->height,
                                 .frames = d->frames,
                                 .frames_per_second = d->fps };
    if (s[IMAGINE__STAGE_TOKENIZER].folder && s[IMAGINE__STAGE_ENCODER].folder)
        known.stages |= IMAGINE_STAGE_TEXT;
    known.text_dim = model->text_dim;
    if (s[IMAGINE__STAGE_VAE].folder) {
        known.stages |= IMAGINE_STAGE_VAE;
        known.latent_channels = model->vae.z_dim;
        known.spatial_factor = model->vae.spatial_factor;
        known.temporal_factor = model->vae.temporal_factor;
        known.size_multiple = model->vae.spatial_factor;
    }
    if (s[IMAGINE__STAGE_TRANSFORMER].folder) {
        int32_t factor = known.spatial_factor ? known.spatial_factor : 8;
        known.stages |= IMAGINE_STAGE_SAMPLER;
        known.latent_channels = model->dit.in_channels;
        known.text_dim = model->dit.text_dim;
        known.layers = model->dit.layers;
        known.steps = d->steps;
        known.guidance = d->guidance;
        known.width_hidden = model->dit.heads * model->dit.head_dim;
        known.size_multiple = factor * least_common_multiple(model->dit.patch_h, model->dit.patch_w);
    }
    if (known.text_dim)
        known.text_length = d->text_length;
    describe_weights(s[IMAGINE__STAGE_ENCODER].weights, &known.parameters_text, &known.bytes);
    describe_weights(s[IMAGINE__STAGE_TRANSFORMER].weights, &known.parameters_sampler, &known.bytes);
    describe_weights(s[IMAGINE__STAGE_TRANSFORMER_2].weights, &known.parameters_sampler, &known.bytes);
    describe_weights(s[IMAGINE__STAGE_VAE].weights, &known.parameters_vae, &known.bytes);
    return imagine__write_struct(info, &known, sizeof known, "imagine_model_info", error);
}

imagine_context *imagine__model_context(const imagine_model *model)
{
    return IMAGINE__CONTEXT_OF(model);
}

const imagine__defaults *imagine__model_defaults(const imagine_model *model)
{
    return &model->defaults;
}

imagine_status imagine__model_check_schedule(const imagine_model *model, imagine_error *error)
{
    if (model->scheduler.status < 0 && error)
        *error = model->scheduler;
    return model->scheduler.status;
}

imagine_status imagine__model_check_positions(const imagine_model *model, const int32_t pixels[3], const int32_t factors[3],
                                              const char *const names[3], imagine_error *error)
{
    const imagine__dit_config *c = &model->dit;
    const int32_t patch[3] = { c->patch_t, c->patch_h, c->patch_w };
    int64_t tokens = 1;
    if (!model->stages[IMAGINE__STAGE_TRANSFORMER].folder)
        return IMAGINE_OK;
    for (int a = 0; a < 3; a++) {
        int64_t one_first = a == 0, latents = (pixels[a] - one_first) / factors[a] + one_first;
        int64_t most = (int64_t)c->rope_max_seq_len * patch[a];
        if (latents > most)
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "%s: %d are too many; the model has positions for at most %lld (rope_max_seq_len of its configuration)",
                                 names[a], pixels[a], (long long)((most - one_first) * factors[a] + one_first));
        tokens *= latents / patch[a];
    }
    return tokens <= INT32_MAX ? IMAGINE_OK
                               : imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "frames, height and width: %lld tokens are too many",
                                               (long long)tokens);
}

/* ---- stages, loaded once --------------------------------------------------------------------- */

/* What a tokenizer will need is not known before its file is read. Measured on one of 256,000 pieces: 1.2 times the
 * file's size held, 3.8 times while it is read. */
static imagine_status plan_tokenizer(void **held, imagine_context *context, uint64_t size, imagine_error *error)
{
    size_t small = 1 << 15;
    *held = imagine__alloc_host_values(context, (size_t)size / 4 * 5 + small);
    void *reading = imagine__alloc_host_values(context, (size_t)size / 8 * 21 + small);
    imagine__free(context, reading);
    if (*held && reading)
        return IMAGINE_OK;
    imagine__free(context, *held);
    *held = NULL;
    return imagine__fail_memory_in(context, error, (size_t)size, "the tokenizer");
}

static imagine_status load_tokenizer(imagine_model *model, void **loaded, const imagine_cancel *cancel,
                                     imagine_error *error)
{
    imagine_context *context = model->context;
    imagine__tokenizer *tokenizer = NULL;
    char *path;
    imagine_status status = imagine__model_path(model, "tokenizer", "tokenizer.json", &path, error);
    if (status < 0)
        return status;
    int fd = model->tokenizer_file, late = fd < 0;
    uint64_t size = model->tokenizer_size;
    if (late)
        status = imagine__open_file(path, &fd, &size, error); /* there by now, or says why not */
    if (status == IMAGINE_ERROR_NOT_FOUND)
        imagine__fail_errno(error, status, ENOENT, "%s: it is to be downloaded, too, from the same model in diffusers' layout; "
                            "spiece.model is not read", path);
    if (status >= 0 && imagine__planning(context)) {
        status = plan_tokenizer(loaded, context, size, error);
    } else if (status >= 0) {
        status = imagine__tokenizer_open_file(&tokenizer, context, fd, size, path, cancel, error);
        *loaded = tokenizer;
    }
    if (late && fd >= 0)
        close(fd);
    imagine__free(context, path);
    return status;
}

static imagine_status load(imagine_model *model, imagine__stage_kind kind, int streamed, void **loaded,
                           const imagine_cancel *cancel, imagine_error *error)
{
    imagine_context *context = model->context;
    const imagine__stage *stage = &model->stages[kind];
    imagine__umt5 *umt5 = NULL;
    imagine__dit *dit = NULL;
    imagine__vae_model *vae = NULL;
    imagine_status status = IMAGINE_ERROR_INTERNAL;
    switch (kind) {
    case IMAGINE__STAGE_TOKENIZER:
        status = load_tokenizer(model, loaded, cancel, error);
        break;
    case IMAGINE__STAGE_ENCODER:
        status = imagine__umt5_load(&umt5, context, &model->umt5, stage->weights, streamed, cancel, error);
        *loaded = umt5;
        break;
    case IMAGINE__STAGE_TRANSFORMER:
    case IMAGINE__STAGE_TRANSFORMER_2:
        status = imagine__dit_load(&dit, context, kind == IMAGINE__STAGE_TRANSFORMER ? &model->dit : &model->dit_2, stage->weights,
                                   streamed, cancel, error);
        *loaded = dit;
        break;
    case IMAGINE__STAGE_VAE:
        status = imagine__vae_load(&vae, context, &model->vae, stage->weights, cancel, error);
        *loaded = vae;
        break;
    case IMAGINE__STAGE_COUNT:
        break;
    }
    return status;
}

/* Waits, under the mutex, for another thread's loading to end or for a moment. */
static void wait_a_moment(imagine_model *model)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += WAIT_NANOSECONDS;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&model->loaded, &model->mutex, &until);
}

/* Whether a stage that nobody has loaded is to be streamed. */
static int wants_stream(const imagine_model *model, const imagine__stage *stage, imagine__reading reading)
{
    uint64_t limit = imagine__context_limit(model->context);
    if (reading != IMAGINE__READ_AUTO)
        return reading == IMAGINE__READ_STREAMED;
    if (model->weights != IMAGINE_WEIGHTS_AUTO)
        return model->weights == IMAGINE_WEIGHTS_STREAMED;
    return limit && imagine__context_used(model->context) + imagine__weights_bytes(stage->weights) > limit;
}

static imagine_status get(imagine_model *model, imagine__stage_kind kind, imagine__reading reading, void **loaded,
                          const imagine_cancel *cancel, imagine_error *error)
{
    imagine__stage *stage = &model->stages[kind];
    *loaded = NULL;
    imagine_status status = imagine__check_process(model->context, error);
    if (status < 0)
        return status;
    if (!stage->folder)
        return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND, "%s: the pack has no %s/", model->path,
                             imagine__stage_name(kind));
    pthread_mutex_lock(&model->mutex);
    int streamed = !stage->held[0].loaded && wants_stream(model, stage, reading);
    imagine__holding *held = &stage->held[streamed];
    while (held->loading && !imagine_cancel_fired(cancel))
        wait_a_moment(model);
    int mine = !held->loaded && !held->loading;
    if (mine)
        held->loading = 1;
    *loaded = held->loaded;
    held->users += *loaded != NULL;
    held->unwanted = 0;
    pthread_mutex_unlock(&model->mutex);
    if (*loaded)
        return IMAGINE_OK;
    if (!mine)
        return imagine__fail(error, IMAGINE_ERROR_CANCELLED, "cancelled while another thread read the weights");
    status = load(model, kind, streamed, loaded, cancel, error);
    pthread_mutex_lock(&model->mutex);
    held->loading = 0;
    if (status >= 0) {
        held->loaded = *loaded;
        held->users++;
    }
    pthread_cond_broadcast(&model->loaded);
    pthread_mutex_unlock(&model->mutex);
    if (status < 0)
        *loaded = NULL;
    return status;
}

imagine_status imagine__model_tokenizer(imagine_model *model, const imagine__tokenizer **tokenizer,
                                        const imagine_cancel *cancel, imagine_error *error)
{
    void *loaded;
    imagine_status status = get(model, IMAGINE__STAGE_TOKENIZER, IMAGINE__READ_WHOLE, &loaded, cancel, error);
    *tokenizer = loaded;
    return status;
}

imagine_status imagine__model_umt5(imagine_model *model, imagine__reading reading, const imagine__umt5 **umt5,
                                   const imagine_cancel *cancel, imagine_error *error)
{
    void *loaded;
    imagine_status status = get(model, IMAGINE__STAGE_ENCODER, reading, &loaded, cancel, error);
    *umt5 = loaded;
    return status;
}

imagine_status imagine__model_expert(imagine_model *model, int32_t expert, imagine__reading reading,
                                     const imagine__dit **dit, const imagine_cancel *cancel, imagine_error *error)
{
    void *loaded;
    imagine_status status = get(model, expert ? IMAGINE__STAGE_TRANSFORMER_2 : IMAGINE__STAGE_TRANSFORMER, reading,
                                &loaded, cancel, error);
    *dit = loaded;
    return status;
}

imagine_status imagine__model_dit(imagine_model *model, imagine__reading reading, const imagine__dit **dit,
                                  const imagine_cancel *cancel, imagine_error *error)
{
    return imagine__model_expert(model, 0, reading, dit, cancel, error);
}

imagine_status imagine__model_vae(imagine_model *model, const imagine__vae_model **vae, const imagine_cancel *cancel,
                                  imagine_error *error)
{
    void *loaded;
    imagine_status status = get(model, IMAGINE__STAGE_VAE, IMAGINE__READ_WHOLE, &loaded, cancel, error);
    *vae = loaded;
    return status;
}

/* ---- and given back -------------------------------------------------------------------------- */

void imagine__model_put(imagine_model *model, const void *loaded)
{
    if (!loaded || imagine__forked(model->context))
        return;
    pthread_mutex_lock(&model->mutex);
    for (int kind = 0; kind < IMAGINE__STAGE_COUNT; kind++)
        for (int i = 0; i < 2; i++)
            if (model->stages[kind].held[i].loaded == loaded)
                model->stages[kind].held[i].users--;
    pthread_mutex_unlock(&model->mutex);
}

static const imagine__loaded *weights_of(imagine__stage_kind kind, const void *loaded)
{
    return kind == IMAGINE__STAGE_ENCODER ? imagine__umt5_loaded(loaded)
           : kind == IMAGINE__STAGE_VAE   ? imagine__vae_loaded(loaded)
                                          : imagine__dit_loaded(loaded);
}

/* What the real model would free: the plan no longer counts it, if no handle has it. */
static void stop_counting(imagine_model *model, imagine__stage_kind kind, int i, const void *loaded)
{
    uint64_t size = imagine__loaded_held(weights_of(kind, loaded)); /* with the last pin it may be gone */
    model->stages[kind].held[i].borrowed = 0;
    if (unpin(model->real, kind, &model->real->stages[kind].held[i]))
        imagine__plan_discount(model->context, size);
}

void imagine__model_give_back(imagine_model *model)
{
    for (int kind = IMAGINE__STAGE_TOKENIZER + 1; kind < IMAGINE__STAGE_COUNT; kind++)
        for (int i = 0; i < 2; i++) {
            imagine__holding *held = &model->stages[kind].held[i];
            int borrowed = held->borrowed;
            pthread_mutex_lock(&model->mutex);
            held->unwanted = !held->users && held->pins;
            void *loaded = take(held);
            pthread_mutex_unlock(&model->mutex);
            if (loaded && borrowed)
                stop_counting(model, kind, i, loaded);
            else if (loaded)
                unload(model, kind, loaded);
        }
}

imagine_weights imagine__model_weights(const imagine_model *model)
{
    return model->weights;
}

uint64_t imagine__model_held(imagine_model *model, uint32_t stage)
{
    imagine__stage_kind first = stage == IMAGINE_STAGE_TEXT      ? IMAGINE__STAGE_ENCODER
                                : stage == IMAGINE_STAGE_SAMPLER ? IMAGINE__STAGE_TRANSFORMER
                                                                 : IMAGINE__STAGE_VAE;
    int last = stage == IMAGINE_STAGE_SAMPLER ? IMAGINE__STAGE_TRANSFORMER_2 : (int)first;
    uint64_t bytes = 0;
    pthread_mutex_lock(&model->mutex);
    for (int kind = (int)first; kind <= last; kind++)
        for (int i = 0; i < 2; i++)
            if (model->stages[kind].held[i].loaded)
                bytes += weights_of(kind, model->stages[kind].held[i].loaded)->bytes;
    pthread_mutex_unlock(&model->mutex);
    return bytes;
}
