/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "io/io.h"
#include "model/pack.h"
#include "sampler/schedule.h"

const char *imagine__stage_name(imagine__stage_kind kind)
{
    static const char *const names[] = { "tokenizer", "text_encoder", "transformer", "transformer_2", "vae" };
    return names[kind];
}

/* Names of the weight files without their extension. */
static const char *const weight_names[] = { NULL, "model", "diffusion_pytorch_model", "diffusion_pytorch_model",
                                            "diffusion_pytorch_model" };

imagine_status imagine__model_path(const imagine_model *model, const char *stage, const char *file, char **path,
                                   imagine_error *error)
{
    size_t size = strlen(model->path) + (stage ? strlen(stage) + 1 : 0) + strlen(file) + 2;
    *path = imagine__alloc(model->context, size);
    if (!*path)
        return imagine__fail_memory_in(model->context, error, size, "a path");
    snprintf(*path, size, "%s/%s%s%s", model->path, stage ? stage : "", stage ? "/" : "", file);
    return IMAGINE_OK;
}

/* Opens <pack>/[stage/]file; *config stays NULL where there is no such file. */
static imagine_status open_optional(imagine__config **config, const imagine_model *model, const char *stage,
                                    const char *file, imagine_error *error)
{
    char *path;
    imagine__path_kind kind;
    *config = NULL;
    imagine_status status = imagine__model_path(model, stage, file, &path, error);
    if (status < 0)
        return status;
    if ((status = imagine__look(path, &kind, error)) >= 0 && kind)
        status = imagine__config_open(config, model->context, path, error);
    imagine__free(model->context, path);
    return status;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* A folder without the file is told when it is wanted. */
static imagine_status open_tokenizer(imagine_model *model, imagine_error *error)
{
    char *path;
    imagine_status status = imagine__model_path(model, "tokenizer", "tokenizer.json", &path, error);
    if (status < 0)
        return status;
    status = imagine__open_file(path, &model->tokenizer_file, &model->tokenizer_size, error);
    imagine__free(model->context, path);
    return status == IMAGINE_ERROR_NOT_FOUND ? IMAGINE_OK : status;
}

/* Weights alone say too little. */
static imagine_status check_config(const imagine_model *model, imagine__stage_kind kind, imagine_error *error)
{
    char *path;
    imagine__path_kind found = IMAGINE__PATH_NONE;
    imagine_status status = imagine__model_path(model, imagine__stage_name(kind), "config.json", &path, error);
    if (status < 0)
        return status;
    status = imagine__look(path, &found, error);
    if (status >= 0 && !found)
        status = imagine__fail_errno(error, IMAGINE_ERROR_NOT_FOUND, ENOENT, "%s: it is to be downloaded, too, from the same model in "
                                     "diffusers' layout", path);
    imagine__free(model->context, path);
    return status;
}

/* Looks for the folder; reads its configuration and opens its weights' headers if it is there. */
static imagine_status find_stage(imagine_model *model, imagine__stage_kind kind, imagine_error *error)
{
    imagine__stage *stage = &model->stages[kind];
    imagine_status status = imagine__model_path(model, NULL, imagine__stage_name(kind), &stage->folder, error);
    if (status < 0)
        return status;
    imagine__path_kind found;
    if ((status = imagine__look(stage->folder, &found, error)) < 0)
        return status;
    if (found != IMAGINE__PATH_FOLDER) {
        imagine__free(model->context, stage->folder);
        stage->folder = NULL;
        return IMAGINE_OK;
    }
    if (kind != IMAGINE__STAGE_TOKENIZER && (status = check_config(model, kind, error)) < 0)
        return status;
    if (kind == IMAGINE__STAGE_ENCODER)
        status = imagine__umt5_read_config(&model->umt5, model->context, stage->folder, error);
    else if (kind == IMAGINE__STAGE_TRANSFORMER)
        status = imagine__dit_read_config(&model->dit, model->context, stage->folder, error);
    else if (kind == IMAGINE__STAGE_TRANSFORMER_2)
        status = imagine__dit_read_config(&model->dit_2, model->context, stage->folder, error);
    else if (kind == IMAGINE__STAGE_VAE)
        status = imagine__vae_read_config(&model->vae, model->context, stage->folder, error);
    model->text_dim = (int32_t)model->umt5.dim;
    if (status >= 0)
        status = kind == IMAGINE__STAGE_TOKENIZER
                     ? open_tokenizer(model, error)
                     : imagine__weights_open(&stage->weights, model->context, stage->folder, weight_names[kind], error);
    return status;
}

/* ---- configurations of the whole ------------------------------------------------------------- */

/* *dmd: the pack is FastWan's, whose schedule is not its scheduler's. */
static imagine_status read_index(imagine_model *model, int *dmd, imagine_error *error)
{
    imagine__config *index;
    int expand = 0;
    imagine_status status = open_optional(&index, model, NULL, "model_index.json", error);
    if (status < 0 || !index)
        return status;
    const char *name = NULL;
    status = imagine__config_string(index, "_class_name", &name, NULL, error);
    /* Wan 2.2 TI2V 5B is one model under both names; from video to video goes what goes from text. */
    if (status >= 0)
        status = imagine__config_bool(index, "expand_timesteps", &expand, 0, error);
    *dmd = status >= 0 && name && !strcmp(name, "WanDMDPipeline");
    if (status >= 0 && name && !*dmd && strcmp(name, "WanPipeline") && strcmp(name, "WanVideoToVideoPipeline") &&
        !(expand && !strcmp(name, "WanImageToVideoPipeline")))
        status = imagine__fail(error, IMAGINE_ERROR_MODEL,
                               "%s: \"_class_name\" is \"%s\", this library runs \"WanPipeline\": take one of Wan's models for text to "
                               "video, or Wan 2.2's TI2V 5B, which also begins with a picture",
                               imagine__config_path(index), name);
    if (status >= 0)
        status = imagine__config_double(index, "boundary_ratio", &model->defaults.boundary, 0, error);
    if (status >= 0 && !(model->defaults.boundary >= 0 && model->defaults.boundary < 1))
        status = imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"boundary_ratio\" is %g, must be below 1",
                               imagine__config_path(index), model->defaults.boundary);
    model->defaults.known_mode = expand ? IMAGINE_KNOWN_CLEAN : IMAGINE_KNOWN_RENOISED;
    imagine__config_close(model->context, index);
    return status;
}

typedef struct rule {
    const char *key, *value;
} rule;

/* Settings whose other values would give other schedules than this library's. */
static const rule unipc_rules[] = {
    { "prediction_type", "\"flow_prediction\"" },
    { "use_flow_sigmas", "true" },
    { "solver_order", "2" },
    { "solver_type", "\"bh2\"" },
    { "predict_x0", "true" },
    { "lower_order_final", "true" },
    { "thresholding", "false" },
    { "disable_corrector", "[]" },
    { "final_sigmas_type", "\"zero\"" },
    { "num_train_timesteps", "1000" },
    { "use_dynamic_shifting", "false" },
    { "use_karras_sigmas", "false" },
    { "use_exponential_sigmas", "false" },
    { "use_beta_sigmas", "false" },
    { "shift_terminal", "null" },
    { NULL, NULL },
};
#define EULER_RULES                                                                                            \
    { "num_train_timesteps", "1000" }, { "use_dynamic_shifting", "false" },   { "invert_sigmas", "false" },    \
    { "use_karras_sigmas", "false" },  { "use_exponential_sigmas", "false" }, { "use_beta_sigmas", "false" },  \
    { "shift_terminal", "null" },      { "scale_factors", "null" },           { NULL, NULL }
static const rule euler_rules[] = { EULER_RULES };
static const rule heun_rules[] = { { "num_train_timesteps", "1000" }, { NULL, NULL } };
static const rule scm_rules[] = { { "prediction_type", "\"trigflow\"" }, { NULL, NULL } };
static const rule ancestral_rules[] = { { "eta", "1.0" }, { "s_noise", "1.0" }, EULER_RULES };

/* The schedulers of diffusers that this library has, by the names of their classes. */
typedef struct scheduler {
    const char *name;
    const rule *rules;
    imagine_schedule schedule;
    imagine_step_rule step_rule;
    const char *shift; /* the key of the shift, or NULL */
} scheduler;
static const scheduler schedulers[] = {
    { "UniPCMultistepScheduler", unipc_rules, IMAGINE_SCHEDULE_WAN_UNIPC, IMAGINE_STEP_UNIPC, "flow_shift" },
    { "FlowMatchEulerDiscreteScheduler", euler_rules, IMAGINE_SCHEDULE_FLOW, IMAGINE_STEP_EULER, "shift" },
    { "FlowMatchHeunDiscreteScheduler", heun_rules, IMAGINE_SCHEDULE_FLOW, IMAGINE_STEP_HEUN, "shift" },
    { "FlowMatchLCMScheduler", euler_rules, IMAGINE_SCHEDULE_FLOW, IMAGINE_STEP_RENOISE, "shift" },
    { "LTXEulerAncestralRFScheduler", ancestral_rules, IMAGINE_SCHEDULE_FLOW, IMAGINE_STEP_ANCESTRAL, "shift" },
    { "SCMScheduler", scm_rules, IMAGINE_SCHEDULE_SCM, IMAGINE_STEP_TRIGFLOW, NULL },
};
#define SCHEDULERS (sizeof schedulers / sizeof *schedulers)

/* The pack's schedule; a distilled one brings its steps, and goes without guidance. */
static void set_schedule(imagine__defaults *d, imagine_schedule schedule, imagine_step_rule step_rule)
{
    const imagine__preset *preset = imagine__preset_of(schedule);
    d->schedule = schedule;
    d->step_rule = step_rule;
    if (preset->usual)
        d->steps = preset->usual;
    if (preset->distilled)
        d->guidance = 1;
    if (preset->shift > 0)
        d->shift = preset->shift;
}

static imagine_status check_shift(const imagine__config *config, const imagine__defaults *d, imagine_error *error)
{
    if (d->shift >= 0.01 && d->shift <= 100)
        return IMAGINE_OK;
    return imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: the shift is not in 0.01..100", imagine__config_path(config));
}

static imagine_status find_scheduler(imagine__config *config, const scheduler **found, imagine_error *error)
{
    const char *name;
    imagine_status status = imagine__config_string(config, "_class_name", &name, "", error);
    if (status < 0)
        return status;
    for (size_t i = 0; i < SCHEDULERS; i++)
        if (!strcmp(name, schedulers[i].name)) {
            *found = &schedulers[i];
            return IMAGINE_OK;
        }
    return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                         "%s: \"_class_name\" is \"%s\", this library runs UniPCMultistepScheduler, "
                         "FlowMatchEulerDiscreteScheduler and others named in docs/sampling.md; choose a schedule in "
                         "the sampler's options",
                         imagine__config_path(config), name);
}

static imagine_status read_schedule(imagine__config *config, imagine__defaults *d, imagine_error *error)
{
    const scheduler *found = NULL;
    imagine__defaults read = *d;
    int stochastic = 0;
    imagine_status status = find_scheduler(config, &found, error);
    if (status < 0)
        return status;
    /* Missing keys have the meaning of diffusers' defaults, which predict noise. */
    if (found->rules == unipc_rules &&
        (!imagine__config_has(config, "use_flow_sigmas") || !imagine__config_has(config, "prediction_type")))
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "%s: \"use_flow_sigmas\" or \"prediction_type\" is missing, so it is no flow schedule",
                             imagine__config_path(config));
    for (const rule *r = found->rules; r->key && status >= 0; r++)
        status = imagine__config_expect(config, r->key, r->value, error);
    /* The other classes do not have the key, but keep it where they were made from Euler's configuration. */
    if (status >= 0 && found->step_rule == IMAGINE_STEP_EULER)
        status = imagine__config_bool(config, "stochastic_sampling", &stochastic, 0, error);
    set_schedule(&read, found->schedule, stochastic ? IMAGINE_STEP_RENOISE : found->step_rule);
    if (status >= 0 && found->shift)
        status = imagine__config_double(config, found->shift, &read.shift, 1, error);
    if (status >= 0 && (status = check_shift(config, &read, error)) >= 0)
        *d = read;
    return status;
}

/* A scheduler that cannot run matters only to those who use it: the pack then has no schedule of its own. */
static imagine_status read_scheduler(imagine_model *model, imagine_error *error)
{
    imagine__config *config;
    imagine_status status = open_optional(&config, model, "scheduler", "scheduler_config.json", error);
    if (status < 0 || !config)
        return status;
    if (read_schedule(config, &model->defaults, &model->scheduler) < 0) {
        imagine__log(model->context, IMAGINE_LOG_WARNING, "%s", model->scheduler.message);
        model->defaults.schedule = IMAGINE_SCHEDULE_DEFAULT;
        model->defaults.step_rule = IMAGINE_STEP_DEFAULT;
        model->defaults.shift = 1;
    }
    imagine__config_close(model->context, config);
    return IMAGINE_OK;
}

static imagine_status read_text_length(imagine_model *model, imagine_error *error)
{
    imagine__config *config;
    double length;
    imagine_status status = open_optional(&config, model, "tokenizer", "tokenizer_config.json", error);
    if (status < 0 || !config)
        return status;
    /* A tokenizer without a limit writes 1e30 or so. */
    status = imagine__config_double(config, "model_max_length", &length, 512, error);
    if (status >= 0 && length >= 1 && length <= 4096)
        model->defaults.text_length = (int32_t)length;
    imagine__config_close(model->context, config);
    return status;
}

/* The number that `name_of` has for the text of a key, or *value where the key is missing. */
static imagine_status read_name(imagine__config *config, const char *key, const char *(*name_of)(int32_t),
                                int32_t *value, imagine_error *error)
{
    const char *text;
    imagine_status status = imagine__config_string(config, key, &text, NULL, error);
    if (status < 0 || !text)
        return status;
    for (int32_t i = 1; name_of(i); i++)
        if (!strcmp(name_of(i), text) && strcmp(text, "sigmas")) {
            *value = i;
            return IMAGINE_OK;
        }
    return imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"%s\" is \"%s\"; docs/sampling.md lists those there are",
                         imagine__config_path(config), key, text);
}

/* "schedule", "step_rule" and "shift" of imagine.json, which go before the scheduler's own. */
static imagine_status read_own_schedule(imagine__config *config, imagine__defaults *d, imagine_error *error)
{
    int32_t schedule = d->schedule, step_rule = IMAGINE_STEP_DEFAULT;
    imagine_status status = read_name(config, "schedule", imagine_schedule_name, &schedule, error);
    if (status >= 0)
        status = read_name(config, "step_rule", imagine_step_rule_name, &step_rule, error);
    if (status < 0)
        return status;
    if (schedule != d->schedule)
        set_schedule(d, schedule, step_rule);
    else if (step_rule)
        d->step_rule = step_rule;
    status = imagine__config_double(config, "shift", &d->shift, d->shift, error);
    if (status < 0 || (status = check_shift(config, d, error)) < 0)
        return status;
    const imagine__preset *preset = imagine__preset_of(d->schedule);
    if (imagine__config_has(config, "shift") && preset && preset->shift > 0 && (d->shift < preset->shift || d->shift > preset->shift))
        return imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"shift\" is %g, but the schedule %s has its own, %g; leave \"shift\" out",
                             imagine__config_path(config), d->shift, imagine_schedule_name(d->schedule), preset->shift);
    return IMAGINE_OK;
}

/* Sizes of imagine.json that no job could have. */
static imagine_status check_own_sizes(const imagine_model *model, imagine__config *config, imagine_error *error)
{
    const imagine__defaults *d = &model->defaults;
    imagine_model_info info = { .struct_size = sizeof info };
    imagine_status status = imagine_model_get_info(model, &info, error);
    int32_t factor = info.temporal_factor > 0 ? info.temporal_factor : 4, multiple = info.size_multiple > 0 ? info.size_multiple : 8;
    for (int i = 0; i < 2 && status >= 0; i++) {
        const char *key = i ? "height" : "width";
        int32_t value = i ? d->height : d->width;
        if (imagine__config_has(config, key) && value % multiple)
            status = imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"%s\" is %d, which is no multiple of %d, as this model needs it",
                                   imagine__config_path(config), key, value, multiple);
    }
    if (status >= 0 && imagine__config_has(config, "frames") && (d->frames - 1) % factor)
        status = imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"frames\" is %d, which is not %dk+1, as this model needs it",
                               imagine__config_path(config), d->frames, factor);
    return status;
}

/* A number of imagine.json from `least` to 1000, which `range` tells; `value` stays where there is none. */
static imagine_status read_real(imagine__config *config, const char *key, double *value, double least, const char *range,
                                imagine_error *error)
{
    imagine_status status = imagine__config_double(config, key, value, *value, error);
    if (status >= 0 && !(*value >= least && *value <= 1000))
        status = imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"%s\" is %g, not in %s", imagine__config_path(config), key,
                               *value, range);
    return status;
}

static imagine_status read_own_defaults(imagine_model *model, imagine_error *error)
{
    imagine__defaults *d = &model->defaults;
    const struct {
        const char *key;
        int32_t *value;
        int64_t most;
    } numbers[] = { { "width", &d->width, 65536 },
                    { "height", &d->height, 65536 },
                    { "frames", &d->frames, 1 << 20 },
                    { "steps", &d->steps, 1000 },
                    { "text_length", &d->text_length, 4096 } };
    imagine__config *config;
    imagine_status status = open_optional(&config, model, NULL, "imagine.json", error);
    if (status < 0 || !config)
        return status;
    status = read_own_schedule(config, d, error);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && status >= 0; i++) {
        int64_t value = *numbers[i].value;
        status = imagine__config_int(config, numbers[i].key, &value, value, 1, numbers[i].most, error);
        *numbers[i].value = (int32_t)value;
    }
    if (status >= 0)
        status = read_real(config, "fps", &d->fps, 1.0 / IMAGINE__PNG_MAX_RATE, "1/65535..1000", error);
    if (status >= 0)
        status = read_real(config, "guidance", &d->guidance, 0, "0..1000", error);
    d->guidance_2 = d->guidance;
    if (status >= 0)
        status = read_real(config, "guidance_2", &d->guidance_2, 0, "0..1000", error);
    if (status >= 0)
        status = check_own_sizes(model, config, error);
    if (status >= 0)
        status = imagine__config_no_others(config, NULL, error);
    imagine__config_close(model->context, config);
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* Two experts take turns in one run, so all but their weights must be the same. */
static imagine_status check_experts(const imagine_model *model, imagine_error *error)
{
    const char *first = model->stages[IMAGINE__STAGE_TRANSFORMER].folder;
    const char *second = model->stages[IMAGINE__STAGE_TRANSFORMER_2].folder;
    if (!second && !(model->defaults.boundary > 0))
        return IMAGINE_OK;
    if (!first || !second)
        return first || second ? imagine__fail(error, IMAGINE_ERROR_MODEL,
                                               "%s: a model of two experts has transformer/ and transformer_2/, here one "
                                               "of them is missing",
                                               model->path)
                               : IMAGINE_OK;
    if (!(model->defaults.boundary > 0))
        return imagine__fail(error, IMAGINE_ERROR_MODEL,
                             "%s: there is no \"boundary_ratio\" in model_index.json to say when it takes over", second);
    if (memcmp(&model->dit, &model->dit_2, sizeof model->dit))
        return imagine__fail(error, IMAGINE_ERROR_MODEL,
                             "%s: config.json describes another transformer than %s; both experts must be alike", second,
                             first);
    return IMAGINE_OK;
}

static imagine_status check_fit(const imagine_model *model, imagine_error *error)
{
    const imagine__stage *s = model->stages;
    if (s[IMAGINE__STAGE_TRANSFORMER].folder && s[IMAGINE__STAGE_ENCODER].folder &&
        model->dit.text_dim != model->text_dim)
        return imagine__fail(error, IMAGINE_ERROR_MODEL,
                             "%s: \"text_dim\" is %d, but the text encoder beside it is %d wide (\"d_model\")",
                             s[IMAGINE__STAGE_TRANSFORMER].folder, model->dit.text_dim, model->text_dim);
    if (s[IMAGINE__STAGE_TRANSFORMER].folder && s[IMAGINE__STAGE_VAE].folder &&
        model->dit.in_channels != model->vae.z_dim)
        return imagine__fail(error, IMAGINE_ERROR_MODEL,
                             "%s: \"in_channels\" is %d, but the VAE beside it has %d (\"z_dim\")%s",
                             s[IMAGINE__STAGE_TRANSFORMER].folder, model->dit.in_channels, model->vae.z_dim,
                             model->dit.in_channels > model->dit.out_channels
                                 ? ": a transformer that takes pictures or controls beside the noise, which is not run" : "");
    if (s[IMAGINE__STAGE_TRANSFORMER].folder && model->dit.in_channels != model->dit.out_channels)
        return imagine__fail(error, IMAGINE_ERROR_MODEL,
                             "%s: \"in_channels\" is %d and \"out_channels\" %d; both must be the same",
                             s[IMAGINE__STAGE_TRANSFORMER].folder, model->dit.in_channels, model->dit.out_channels);
    return IMAGINE_OK;
}

/* "OWNER/NAME", by which other programs download models. */
static int is_hub_name(const char *path)
{
    const char *slash = strchr(path, '/');
    return slash && slash > path && slash[1] && !strchr(slash + 1, '/') && *path != '.' && *path != '~';
}

imagine_status imagine__pack_read(imagine_model *model, imagine_error *error)
{
    imagine__path_kind kind;
    int found = 0, dmd = 0;
    imagine_status status = imagine__look(model->path, &kind, error);
    if (status < 0)
        return status;
    if (!kind)
        return imagine__fail_errno(error, IMAGINE_ERROR_NOT_FOUND, ENOENT, "%s%s", imagine__path_text(model->path),
                                   is_hub_name(model->path) ? ": nothing is downloaded here, give the folder of a model that was" : "");
    if (kind != IMAGINE__PATH_FOLDER)
        return imagine__fail_file_is_no_pack(model->path, error);
    status = read_index(model, &dmd, error);
    for (int i = 0; i < IMAGINE__STAGE_COUNT && status >= 0; i++) {
        status = find_stage(model, i, error);
        found += model->stages[i].folder != NULL;
    }
    if (status >= 0 && !found)
        status = imagine__fail_no_pack(model->path, error);
    if (status >= 0)
        status = check_fit(model, error);
    if (status >= 0)
        status = check_experts(model, error);
    if (status >= 0 && !dmd)
        status = read_scheduler(model, error);
    else if (status >= 0)
        set_schedule(&model->defaults, IMAGINE_SCHEDULE_CAUSVID, IMAGINE_STEP_DEFAULT);
    if (status >= 0)
        status = read_text_length(model, error);
    if (status >= 0)
        status = read_own_defaults(model, error);
    return status;
}
