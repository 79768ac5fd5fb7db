/* SPDX-License-Identifier: MIT */

/* The presets as data: which points a schedule has, its shift, its rule and the steps it was made for.
 * docs/sampling.md tells where each comes from. Sigmas are rounded exactly where the reference rounds them, since the
 * model hears sigma * 1000 through a sinusoid that turns by up to 1000 radians, and since UniPC takes the logarithm of
 * 1 - sigma next to 1. */

#include "sampler/schedule.h"

#include <math.h>

#define TRAIN_STEPS IMAGINE__TRAIN_STEPS

/* Point i of n equal ones from `start` to `stop`, in the order of operations that numpy.linspace uses. */
static double spaced(double start, double stop, int32_t i, int32_t n)
{
    if (i == 0)
        return start;
    return i == n - 1 ? stop : (double)i * ((stop - start) / (n - 1)) + start;
}

/* Shifted in f32, as flow-matching schedulers do with sigmas that they are given. */
static double shifted(double sigma, double shift)
{
    float point = (float)sigma, above = (float)shift * point, below = 1 + (float)(shift - 1) * point;
    return above / below;
}

/* Linear from 1 to 1/n, shifted. */
static void fill_flow(imagine__schedule *s, const imagine__preset *preset, double shift)
{
    (void)preset;
    for (int32_t i = 0; i < s->steps; i++)
        s->sigmas[i] = shifted(spaced(1, 1.0 / s->steps, i, s->steps), shift);
}

/* As UniPCMultistepScheduler with use_flow_sigmas: in f64, rounded to f32 once the timesteps are made. */
static void fill_unipc(imagine__schedule *s, const imagine__preset *preset, double shift)
{
    (void)preset;
    for (int32_t i = 0; i < s->steps; i++) {
        double sigma = spaced(1, 1.0 / TRAIN_STEPS, i, s->steps + 1);
        s->sigmas[i] = shift * sigma / (1 + (shift - 1) * sigma);
    }
}

/* The preset's own points, shifted. */
static void fill_points(imagine__schedule *s, const imagine__preset *preset, double shift)
{
    for (int32_t i = 0; i < s->steps; i++) {
        s->sigmas[i] = shifted(preset->points[i], shift);
        if (preset->timesteps)
            s->timesteps[i] = preset->timesteps[i];
    }
}

/* A TrigFlow angle's share of noise. */
static double from_angle(double angle)
{
    return sin(angle) / (sin(angle) + cos(angle));
}

/* rCM: the first n of its angles. */
static void fill_angles(imagine__schedule *s, const imagine__preset *preset, double shift)
{
    (void)shift;
    for (int32_t i = 0; i < s->steps; i++)
        s->sigmas[i] = from_angle(preset->points[i]);
}

/* sCM: its own angles for two steps, else equal ones from the first to 0. */
static void fill_scm(imagine__schedule *s, const imagine__preset *preset, double shift)
{
    (void)shift;
    for (int32_t i = 0; i < s->steps; i++)
        s->sigmas[i] = from_angle(s->steps == 2 ? preset->points[i]
                                                : spaced(preset->points[0], 0, i, s->steps + 1));
}

/* LCM: of the 50 timesteps 999, 979, ... 19 that it was distilled on, n at equal distances. */
static void fill_lcm(imagine__schedule *s, const imagine__preset *preset, double shift)
{
    (void)shift;
    for (int32_t i = 0; i < s->steps; i++) {
        int32_t index = (int32_t)floor(i * ((double)preset->most / s->steps));
        s->timesteps[i] = TRAIN_STEPS - 1 - index * (TRAIN_STEPS / preset->most);
        s->sigmas[i] = s->timesteps[i] / TRAIN_STEPS;
    }
}

static const double self_forcing_points[] = { 1, 0.75, 0.5, 0.25 };
/* Of 1000 shifted points, those whose timesteps are nearest to the ones the model is told. */
static const double causvid_points[] = { 1, 0.28, 0.12 }, causvid_timesteps[] = { 1000, 757, 522 };
static const double rcm_angles[] = { 1.5582969777755349 /* atan 80 */, 1.5, 1.4, 1.0 };
static const double scm_angles[] = { 1.5708, 1.3 };
static const double ltx2_points[] = { 1, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875 };

static const imagine__preset presets[] = {
    [IMAGINE_SCHEDULE_FLOW] = { "flow", IMAGINE_STEP_EULER, 0, 1, 1000, 0, 0, fill_flow, NULL, NULL },
    [IMAGINE_SCHEDULE_WAN_UNIPC] = { "wan-unipc", IMAGINE_STEP_UNIPC, 0, 1, 1000, 0, 0, fill_unipc, NULL, NULL },
    [IMAGINE_SCHEDULE_SIGMAS] = { "sigmas", IMAGINE_STEP_EULER, 0, 1, 1000, 0, 0, NULL, NULL, NULL },
    [IMAGINE_SCHEDULE_SELF_FORCING] = { "self-forcing", IMAGINE_STEP_RENOISE, 4, 4, 4, 5, 1, fill_points,
                                        self_forcing_points, NULL },
    [IMAGINE_SCHEDULE_CAUSVID] = { "causvid", IMAGINE_STEP_RENOISE, 3, 3, 3, 8, 1, fill_points, causvid_points,
                                   causvid_timesteps },
    [IMAGINE_SCHEDULE_RCM] = { "rcm", IMAGINE_STEP_TRIGFLOW, 4, 1, 4, 1, 1, fill_angles, rcm_angles, NULL },
    [IMAGINE_SCHEDULE_SCM] = { "scm", IMAGINE_STEP_TRIGFLOW, 2, 1, 1000, 1, 1, fill_scm, scm_angles, NULL },
    [IMAGINE_SCHEDULE_LCM] = { "lcm", IMAGINE_STEP_LCM, 4, 1, 50, 1, 1, fill_lcm, NULL, NULL },
    [IMAGINE_SCHEDULE_LTX2] = { "ltx2", IMAGINE_STEP_EULER, 8, 8, 8, 1, 1, fill_points, ltx2_points, NULL },
    [IMAGINE_SCHEDULE_LTX2_SECOND] = { "ltx2-second", IMAGINE_STEP_EULER, 3, 3, 3, 1, 1, fill_points, ltx2_points + 5,
                                       NULL },
    [IMAGINE_SCHEDULE_SCHNELL] = { "schnell", IMAGINE_STEP_EULER, 4, 1, 1000, 1, 1, fill_flow, NULL, NULL },
    [IMAGINE_SCHEDULE_Z_IMAGE] = { "z-image", IMAGINE_STEP_EULER, 8, 1, 1000, 3, 1, fill_flow, NULL, NULL },
};

const imagine__preset *imagine__preset_of(imagine_schedule schedule)
{
    if (schedule <= IMAGINE_SCHEDULE_DEFAULT || schedule >= (int32_t)(sizeof presets / sizeof *presets))
        return NULL;
    return &presets[schedule];
}

const char *imagine_schedule_name(imagine_schedule schedule)
{
    const imagine__preset *preset = imagine__preset_of(schedule);
    return preset ? preset->name : NULL;
}

const char *imagine_step_rule_name(imagine_step_rule rule)
{
    static const char *const names[] = { NULL,      "euler",     "unipc",    "heun",
                                         "renoise", "ancestral", "trigflow", "lcm" };
    return rule > 0 && rule < (int32_t)(sizeof names / sizeof *names) ? names[rule] : NULL;
}
