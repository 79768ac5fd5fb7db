/* SPDX-License-Identifier: MIT */

/* A schedule from a preset or from raw sigmas: checks, rounding, timesteps. presets.c has the presets. */

#include "sampler/schedule.h"

#include <math.h>
#include <string.h>

/* UniPC needs log(1 - sigma), so it begins a millionth below 1. */
static void step_off_one(imagine__schedule *s)
{
    if (s->sigmas[0] > 1)
        s->sigmas[0] = 1 - 1e-6;
    else if (fabs(s->sigmas[0] - 1) < 1e-6)
        s->sigmas[0] -= 1e-6;
}

/* The timesteps of sigmas that stand in f64, unless the preset has told them, then the sigmas rounded. Whole timesteps
 * are what UniPC's scheduler hands to the model, f32 ones what the Euler scheduler does. rCM and sCM keep f64. */
static void finish(imagine__schedule *s, int whole, int exact)
{
    for (int32_t i = 0; i < s->steps; i++) {
        double sigma = s->sigmas[i];
        if (s->timesteps[i] == 0)
            s->timesteps[i] = whole ? trunc(sigma * IMAGINE__TRAIN_STEPS)
                                    : (double)((float)sigma * (float)IMAGINE__TRAIN_STEPS);
        s->sigmas[i] = exact ? sigma : (double)(float)sigma;
    }
    s->sigmas[s->steps] = (float)s->sigmas[s->steps];
}

static imagine_status check_sigmas(const double *sigmas, uint32_t count, int32_t steps, imagine_error *error)
{
    if (!sigmas || count < 2 || count > 1001)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "a schedule of raw sigmas needs 2 to 1001 of them (steps + 1), not %u",
                             sigmas ? count : 0u);
    if (steps != 0 && (uint32_t)steps != count - 1)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "%u sigmas make %u steps, but steps is %d; leave it 0 or let them agree", count, count - 1,
                             steps);
    for (uint32_t i = 0; i < count; i++) {
        double before = i ? sigmas[i - 1] : 2;
        if (!(sigmas[i] >= 0 && sigmas[i] <= 1) || (float)sigmas[i] >= (float)before)
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "sigma %u is %g; sigmas go from at most 1 downwards to at least 0, each below the one "
                                 "before it in single precision",
                                 i, sigmas[i]);
    }
    return IMAGINE_OK;
}

/* Once rounded and moved off 1, they must still go down. */
static imagine_status check_descent(const imagine__schedule *s, imagine_error *error)
{
    for (int32_t i = 0; i < s->steps; i++)
        if (!(s->sigmas[i] > s->sigmas[i + 1]))
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "sigmas %d and %d of the schedule lie too close together: %.9g and %.9g", i, i + 1,
                                 s->sigmas[i], s->sigmas[i + 1]);
    return IMAGINE_OK;
}

static imagine_status check_steps(const imagine__preset *preset, int32_t steps, imagine_error *error)
{
    if (steps >= preset->least && steps <= preset->most)
        return IMAGINE_OK;
    if (preset->least == preset->most)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "steps is %d; the schedule %s has %d", steps,
                             preset->name, preset->most);
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "steps is %d; the schedule %s has %d to %d", steps,
                         preset->name, preset->least, preset->most);
}

static imagine_status check(imagine_schedule schedule, imagine_step_rule rule, int32_t steps, double shift,
                            const double *sigmas, uint32_t count, imagine_error *error)
{
    const imagine__preset *preset = imagine__preset_of(schedule);
    if (rule != IMAGINE_STEP_DEFAULT && !imagine_step_rule_name(rule))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "step_rule is %d, which this version does not know",
                             rule);
    if (!preset)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "schedule is %d, which this version does not know",
                             schedule);
    if (!preset->fill)
        return check_sigmas(sigmas, count, steps, error);
    imagine_status status = check_steps(preset, steps, error);
    if (status >= 0 && !(shift >= 0.01 && shift <= 100))
        status = imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "shift is %g; it must lie between 0.01 and 100",
                               shift);
    if (status >= 0 && preset->shift > 0 && shift != preset->shift)
        status = imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                               "shift is %g; the schedule %s has its own, %g: leave shift at its default", shift, preset->name,
                               preset->shift);
    return status;
}

imagine_status imagine__schedule_make(imagine__schedule *schedule, imagine_context *context, imagine_schedule which,
                                      imagine_step_rule rule, int32_t steps, double shift, const double *sigmas,
                                      uint32_t sigma_count, imagine_error *error)
{
    memset(schedule, 0, sizeof *schedule);
    imagine_status status = check(which, rule, steps, shift, sigmas, sigma_count, error);
    if (status < 0)
        return status;
    const imagine__preset *preset = imagine__preset_of(which);
    imagine__schedule s = { .steps = preset->fill ? steps : (int32_t)sigma_count - 1, .eta = 1 };
    s.rule = rule != IMAGINE_STEP_DEFAULT ? rule : preset->rule;
    s.sigmas = imagine__calloc(context, (size_t)s.steps + 1, sizeof *s.sigmas);
    s.timesteps = imagine__calloc(context, (size_t)s.steps, sizeof *s.timesteps);
    if (!s.sigmas || !s.timesteps) {
        imagine__schedule_free(&s, context);
        return imagine__fail_memory_in(context, error, (2 * (size_t)s.steps + 1) * sizeof(double), "the schedule");
    }
    if (preset->fill)
        preset->fill(&s, preset, shift);
    else
        memcpy(s.sigmas, sigmas, sigma_count * sizeof *sigmas);
    int unipc = s.rule == IMAGINE_STEP_UNIPC || which == IMAGINE_SCHEDULE_WAN_UNIPC;
    if (unipc)
        step_off_one(&s);
    finish(&s, unipc, preset->rule == IMAGINE_STEP_TRIGFLOW);
    status = check_descent(&s, error);
    if (status < 0)
        imagine__schedule_free(&s, context);
    *schedule = s;
    return status;
}

void imagine__schedule_skip(imagine__schedule *s, int32_t count)
{
    s->steps -= count;
    s->skipped += count;
    memmove(s->sigmas, s->sigmas + count, ((size_t)s->steps + 1) * sizeof *s->sigmas);
    memmove(s->timesteps, s->timesteps + count, (size_t)s->steps * sizeof *s->timesteps);
}

double imagine__schedule_begins(const imagine__schedule *schedule)
{
    return schedule->rule == IMAGINE_STEP_TRIGFLOW ? schedule->sigmas[0] : 1;
}

int imagine__schedule_draws(const imagine__schedule *schedule, int32_t step)
{
    if (schedule->sigmas[step + 1] == 0)
        return 0;
    return schedule->rule == IMAGINE_STEP_RENOISE || schedule->rule == IMAGINE_STEP_TRIGFLOW ||
           schedule->rule == IMAGINE_STEP_LCM || (schedule->rule == IMAGINE_STEP_ANCESTRAL && schedule->eta > 0);
}

int32_t imagine__schedule_count_draws(const imagine__schedule *schedule)
{
    int32_t draws = 0;
    for (int32_t i = 0; i < schedule->steps; i++)
        draws += imagine__schedule_draws(schedule, i);
    return draws;
}

void imagine__schedule_free(imagine__schedule *schedule, imagine_context *context)
{
    imagine__free(context, schedule->sigmas);
    imagine__free(context, schedule->timesteps);
    memset(schedule, 0, sizeof *schedule);
}
