/* SPDX-License-Identifier: MIT */

/* Presets: sigmas and timesteps. docs/sampling.md defines them. The sigmas of a preset are rounded exactly where the
 * reference rounds them, since the model hears sigma * 1000 through a sinusoid that turns by up to 1000 radians, and
 * since UniPC takes the logarithm of 1 - sigma next to 1. */

#include "sampler/schedule.h"

#include <math.h>
#include <string.h>

#define TRAIN_STEPS 1000

/* Point i of n equal ones from `start` to `stop`, in the order of operations that numpy.linspace uses. */
static double spaced(double start, double stop, int32_t i, int32_t n)
{
    if (i == 0)
        return start;
    return i == n - 1 ? stop : (double)i * ((stop - start) / (n - 1)) + start;
}

/* Linear from 1 to 1/n and shifted, in f32 as FlowMatchEulerDiscreteScheduler does with sigmas that it is given. */
static void fill_flow(imagine__schedule *s, double shift)
{
    float a = (float)shift, b = (float)(shift - 1);
    for (int32_t i = 0; i < s->steps; i++) {
        float sigma = (float)spaced(1, 1.0 / s->steps, i, s->steps);
        float above = a * sigma, below = 1 + b * sigma;
        s->sigmas[i] = above / below;
    }
}

/* As UniPCMultistepScheduler with use_flow_sigmas: in f64, rounded to f32 once the timesteps are made. */
static void fill_unipc(imagine__schedule *s, double shift)
{
    for (int32_t i = 0; i < s->steps; i++) {
        double sigma = spaced(1, 1.0 / TRAIN_STEPS, i, s->steps + 1);
        s->sigmas[i] = shift * sigma / (1 + (shift - 1) * sigma);
    }
}

/* UniPC needs log(1 - sigma), so it begins a millionth below 1. */
static void step_off_one(imagine__schedule *s)
{
    if (fabs(s->sigmas[0] - 1) < 1e-6)
        s->sigmas[0] -= 1e-6;
}

/* The timesteps of sigmas that stand in f64, then the sigmas rounded. Whole timesteps are what UniPC's scheduler hands
 * to the model, f32 ones what the Euler scheduler does. */
static void finish(imagine__schedule *s, int whole)
{
    for (int32_t i = 0; i < s->steps; i++) {
        double exact = s->sigmas[i];
        s->sigmas[i] = (float)exact;
        s->timesteps[i] = whole ? trunc(exact * TRAIN_STEPS) : (double)((float)exact * (float)TRAIN_STEPS);
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

static imagine_status check(imagine_schedule preset, imagine_step_rule rule, int32_t steps, double shift,
                            const double *sigmas, uint32_t count, imagine_error *error)
{
    if (rule != IMAGINE_STEP_DEFAULT && rule != IMAGINE_STEP_EULER && rule != IMAGINE_STEP_UNIPC)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "step_rule is %d, which this version does not know",
                             rule);
    if (preset == IMAGINE_SCHEDULE_SIGMAS)
        return check_sigmas(sigmas, count, steps, error);
    if (preset != IMAGINE_SCHEDULE_FLOW && preset != IMAGINE_SCHEDULE_WAN_UNIPC)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "schedule is %d, which this version does not know",
                             preset);
    if (steps < 1 || steps > 1000)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "steps is %d; it must lie between 1 and 1000",
                             steps);
    if (!(shift >= 0.01 && shift <= 100))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "shift is %g; it must lie between 0.01 and 100",
                             shift);
    return IMAGINE_OK;
}

imagine_status imagine__schedule_make(imagine__schedule *schedule, imagine_context *context, imagine_schedule preset,
                                      imagine_step_rule rule, int32_t steps, double shift, const double *sigmas,
                                      uint32_t sigma_count, imagine_error *error)
{
    memset(schedule, 0, sizeof *schedule);
    imagine_status status = check(preset, rule, steps, shift, sigmas, sigma_count, error);
    if (status < 0)
        return status;
    imagine__schedule s = { .steps = preset == IMAGINE_SCHEDULE_SIGMAS ? (int32_t)sigma_count - 1 : steps };
    s.rule = rule != IMAGINE_STEP_DEFAULT                ? rule
             : preset == IMAGINE_SCHEDULE_WAN_UNIPC      ? IMAGINE_STEP_UNIPC
                                                         : IMAGINE_STEP_EULER;
    s.sigmas = imagine__calloc(context, (size_t)s.steps + 1, sizeof *s.sigmas);
    s.timesteps = imagine__calloc(context, (size_t)s.steps, sizeof *s.timesteps);
    if (!s.sigmas || !s.timesteps) {
        imagine__schedule_free(&s, context);
        return imagine__fail_memory(error, (2 * (size_t)s.steps + 1) * sizeof(double), "the schedule");
    }
    if (preset == IMAGINE_SCHEDULE_FLOW)
        fill_flow(&s, shift);
    else if (preset == IMAGINE_SCHEDULE_WAN_UNIPC)
        fill_unipc(&s, shift);
    else
        memcpy(s.sigmas, sigmas, sigma_count * sizeof *sigmas);
    if (s.rule == IMAGINE_STEP_UNIPC || preset == IMAGINE_SCHEDULE_WAN_UNIPC)
        step_off_one(&s);
    finish(&s, s.rule == IMAGINE_STEP_UNIPC || preset == IMAGINE_SCHEDULE_WAN_UNIPC);
    status = check_descent(&s, error);
    if (status < 0)
        imagine__schedule_free(&s, context);
    *schedule = s;
    return status;
}

void imagine__schedule_free(imagine__schedule *schedule, imagine_context *context)
{
    imagine__free(context, schedule->sigmas);
    imagine__free(context, schedule->timesteps);
    memset(schedule, 0, sizeof *schedule);
}
