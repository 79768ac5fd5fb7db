/* SPDX-License-Identifier: MIT */

/* The sampler's options: checks, and the pack's defaults for what was left open. */

#include "sampler/inside.h"

#define MOST_PIXELS ((int64_t)1 << 40)

static const imagine_sampler_options defaults = {
    .struct_size = sizeof(imagine_sampler_options),
    .batch = 1,
    .guidance = -1,
    .eta = 1,
    .guidance_stop = 1,
    .guidance_audio = -1,
    .strength = 1,
    .guidance_2 = -1,
};

void imagine_sampler_options_init(imagine_sampler_options *options, size_t size)
{
    imagine__init_options(options, size, &defaults, sizeof defaults);
}

static imagine_status check_range(int64_t value, int64_t low, int64_t high, const char *name, imagine_error *error)
{
    if (value >= low && value <= high)
        return IMAGINE_OK;
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: %lld is not in %lld..%lld", name, (long long)value,
                         (long long)low, (long long)high);
}

static imagine_status check_schedule(const imagine_sampler_options *o, imagine_error *error)
{
    imagine_status status = check_range(o->schedule, IMAGINE_SCHEDULE_DEFAULT, IMAGINE_SCHEDULE_Z_IMAGE, "schedule", error);
    if (status < 0 ||
        (status = check_range(o->step_rule, IMAGINE_STEP_DEFAULT, IMAGINE_STEP_LCM, "step_rule", error)) < 0 ||
        (status = check_range(o->cfg_mode, IMAGINE_CFG_AUTO, IMAGINE_CFG_IN_TURN, "cfg_mode", error)) < 0 ||
        (status = check_range(o->known_mode, IMAGINE_KNOWN_AUTO, IMAGINE_KNOWN_RENOISED, "known_mode", error)) < 0 ||
        (status = check_range(o->reserved0, 0, 0, "reserved0", error)) < 0)
        return status;
    if (o->schedule == IMAGINE_SCHEDULE_SIGMAS) {
        if (!o->sigmas || o->sigma_count < 2 || o->sigma_count > 1001)
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "sigmas: IMAGINE_SCHEDULE_SIGMAS needs 2 to 1001 of them, one more than steps");
        if (o->steps && (uint32_t)o->steps != o->sigma_count - 1)
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "steps: %d does not fit %u sigmas; leave steps at its default or at %u", o->steps, o->sigma_count,
                                 o->sigma_count - 1);
        if (o->shift > 0)
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "shift: %g has no use with sigmas of your own, which are taken as they are; leave it at its default",
                                 o->shift);
    } else if (o->sigmas || o->sigma_count) {
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "sigmas: set schedule to IMAGINE_SCHEDULE_SIGMAS");
    }
    if (!(o->shift >= 0 && o->shift <= 1000))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "shift: %g is not in 0..1000", o->shift);
    return IMAGINE_OK;
}

static imagine_status check_share(double value, const char *name, imagine_error *error)
{
    if (value >= 0 && value <= 1)
        return IMAGINE_OK;
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: %g is not in 0..1", name, value);
}

static imagine_status check_guidance(const imagine_sampler_options *o, imagine_error *error)
{
    imagine_status status = check_share(o->eta, "eta", error);
    if (status < 0 || (status = check_share(o->guidance_rescale, "guidance_rescale", error)) < 0 ||
        (status = check_share(o->guidance_start, "guidance_start", error)) < 0 ||
        (status = check_share(o->guidance_stop, "guidance_stop", error)) < 0)
        return status;
    if (!(o->guidance >= -1e6 && o->guidance <= 1e6))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "guidance: %g is no scale", o->guidance);
    if (!(o->guidance_2 >= -1e6 && o->guidance_2 <= 1e6))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "guidance_2: %g is no scale", o->guidance_2);
    if (o->guidance_start > o->guidance_stop)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "guidance_start: %g is behind guidance_stop, %g",
                             o->guidance_start, o->guidance_stop);
    if (!(o->guidance_audio < 0))
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "guidance_audio: this pack makes no sound; leave it below 0");
    return IMAGINE_OK;
}

/* The pack's defaults for what the caller left open. */
static void settle(imagine_sampler_options *o, const imagine__defaults *pack)
{
    o->width = o->width ? o->width : pack->width;
    o->height = o->height ? o->height : pack->height;
    o->frames = o->frames ? o->frames : pack->frames;
    imagine_schedule schedule = o->schedule ? o->schedule : pack->schedule;
    const imagine__preset *preset = imagine__preset_of(schedule);
    int own = schedule == pack->schedule; /* the pack's numbers are meant for it */
    if (schedule == IMAGINE_SCHEDULE_SIGMAS)
        o->steps = (int32_t)o->sigma_count - 1;
    o->steps = o->steps ? o->steps : preset && preset->usual && !own ? preset->usual : pack->steps;
    if (pack->boundary > 0 && o->guidance_2 < 0)
        o->guidance_2 = o->guidance >= 0 ? o->guidance : preset && preset->distilled && !own ? 1 : pack->guidance_2;
    if (o->guidance < 0)
        o->guidance = preset && preset->distilled && !own ? 1 : pack->guidance;
    if (!(o->shift > 0) && schedule != IMAGINE_SCHEDULE_SIGMAS)
        o->shift = preset && preset->shift > 0 ? preset->shift : pack->shift;
    if (!o->step_rule && !o->schedule)
        o->step_rule = pack->step_rule;
    if (!o->known_mode)
        o->known_mode = pack->known_mode;
    o->schedule = schedule;
}

int imagine__sampler_guided(const imagine_sampler_options *settled)
{
    return settled->guidance != 1 || (settled->guidance_2 >= 0 && settled->guidance_2 != 1);
}

int32_t imagine__sampler_steps(const imagine_sampler_options *settled)
{
    int32_t steps = (int32_t)(settled->steps * settled->strength);
    return steps < settled->steps ? steps : settled->steps;
}

static imagine_status check_strength(const imagine_sampler_options *o, imagine_error *error)
{
    if (!(o->strength > 0 && o->strength <= 1))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "strength: %g is not above 0 and at most 1",
                             o->strength);
    if (imagine__sampler_steps(o) < 1)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "strength: %g of %d step%s is less than one; take more steps or a strength above %.3g",
                             o->strength, o->steps, o->steps == 1 ? "" : "s", 1.0 / o->steps);
    return IMAGINE_OK;
}

imagine_status imagine__schedule_of(imagine__schedule *schedule, imagine_context *context, const imagine_sampler_options *o,
                                    imagine_error *error)
{
    imagine_status status = imagine__schedule_make(schedule, context, o->schedule, o->step_rule, o->steps, o->shift, o->sigmas,
                                                   o->sigma_count, error);
    if (status < 0)
        return status;
    schedule->eta = o->eta;
    imagine__schedule_skip(schedule, schedule->steps - imagine__sampler_steps(o));
    return IMAGINE_OK;
}

imagine_status imagine__check_renoise(const imagine_buffer *noise, const int64_t latents[4], int32_t batch, int32_t draws,
                                      imagine_error *error)
{
    if (!draws)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "renoise: no step of this schedule and step rule takes new noise");
    return imagine__check_latents(noise, "renoise", latents, batch, draws, 0, error);
}

imagine_status imagine__sampler_check_renoise(const imagine_sampler_options *settled, imagine_context *context,
                                              const imagine_buffer *noise, const int64_t latents[4], imagine_error *error)
{
    imagine__schedule s;
    imagine_status status = imagine__schedule_of(&s, context, settled, error);
    if (status < 0)
        return status;
    int32_t draws = imagine__schedule_count_draws(&s);
    imagine__schedule_free(&s, context);
    return imagine__check_renoise(noise, latents, settled->batch, draws, error);
}

/* Makes the schedule once, to find out that it can be made. */
static imagine_status try_schedule(const imagine_sampler_options *o, const imagine_model *model, imagine_error *error)
{
    imagine_context *context = imagine__model_context(model);
    imagine__schedule s;
    imagine_status status = imagine__schedule_make(&s, context, o->schedule, o->step_rule, o->steps, o->shift,
                                                   o->sigmas, o->sigma_count, error);
    if (status >= 0)
        imagine__schedule_free(&s, context);
    return status;
}

static imagine_status check_sizes(const imagine_sampler_options *o, const imagine_model *model, imagine_error *error)
{
    imagine_model_info info = { .struct_size = sizeof info };
    imagine_status status = imagine_model_get_info(model, &info, error);
    if (status < 0)
        return status;
    /* Without a VAE the factors are those that the latents are made for all the same: 8 and 4. */
    int32_t multiple = info.size_multiple > 0 ? info.size_multiple : 8;
    int32_t factor = info.temporal_factor > 0 ? info.temporal_factor : 4;
    if ((status = imagine__need_multiple(o->width, multiple, "width", error)) < 0 ||
        (status = imagine__need_multiple(o->height, multiple, "height", error)) < 0 ||
        (status = imagine__need_frames(o->frames, factor, "frames", error)) < 0)
        return status;
    /* So that no product of these with channels, clips and bytes overflows, whatever the configuration says. */
    if ((int64_t)o->width * o->height * o->frames > MOST_PIXELS)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "width, height and frames: %dx%dx%d are more pixels than any memory holds", o->width, o->height,
                             o->frames);
    int32_t spatial = info.spatial_factor > 0 ? info.spatial_factor : 8;
    return imagine__model_check_positions(model, (int32_t[]){ o->frames, o->height, o->width }, (int32_t[]){ factor, spatial, spatial },
                                          (const char *const[]){ "frames", "height", "width" }, error);
}

imagine_status imagine__sampler_settle(imagine_sampler_options *settled, const imagine_model *model,
                                       const imagine_sampler_options *options, imagine_error *error)
{
    imagine_sampler_options o = defaults;
    imagine_status status = imagine__read_options(&o, sizeof o, options, "imagine_sampler_options", error);
    if (status < 0 || (status = check_schedule(&o, error)) < 0 ||
        (status = check_guidance(&o, error)) < 0 ||
        (status = check_range(o.batch, 1, 64, "batch", error)) < 0 ||
        (status = check_range(o.width, 0, 1 << 16, "width", error)) < 0 ||
        (status = check_range(o.height, 0, 1 << 16, "height", error)) < 0 ||
        (status = check_range(o.frames, 0, 1 << 20, "frames", error)) < 0 ||
        (status = check_range(o.steps, 0, 1000, "steps", error)) < 0)
        return status;
    if (o.guidance_2 >= 0 && !(imagine__model_defaults(model)->boundary > 0))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "guidance_2: this pack has one transformer and no second expert; leave it below 0");
    settle(&o, imagine__model_defaults(model));
    if (!o.schedule)
        return imagine__model_check_schedule(model, error);
    if ((status = try_schedule(&o, model, error)) < 0 || (status = check_strength(&o, error)) < 0 ||
        (status = check_sizes(&o, model, error)) < 0)
        return status;
    *settled = o;
    return IMAGINE_OK;
}
