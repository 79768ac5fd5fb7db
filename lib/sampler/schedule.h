/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_SAMPLER_SCHEDULE_H
#define IMAGINE_SAMPLER_SCHEDULE_H

#include "base/base.h"

#define IMAGINE__TRAIN_STEPS 1000

/* A schedule is data: steps + 1 sigmas and the timesteps the model is told, and a rule for the step. */
typedef struct imagine__schedule {
    int32_t steps;
    int32_t skipped; /* steps of the whole that were left out before */
    imagine_step_rule rule;
    double eta; /* share of new noise in the ancestral rule; 1 unless set */
    double *sigmas; /* [steps + 1] */
    double *timesteps; /* [steps] */
} imagine__schedule;

/* What a preset is made of (presets.c). */
typedef struct imagine__preset imagine__preset;
struct imagine__preset {
    const char *name;
    imagine_step_rule rule;
    int32_t usual, least, most; /* steps: where none are asked for (0: the pack's), and those it has */
    double shift; /* its own; 0: the caller's */
    int32_t distilled; /* 1: for models that are run without guidance */
    void (*fill)(imagine__schedule *schedule, const imagine__preset *preset, double shift); /* NULL: raw sigmas */
    const double *points, *timesteps; /* what `fill` looks at, or NULL */
};
/* NULL for IMAGINE_SCHEDULE_DEFAULT and what this version does not know. */
const imagine__preset *imagine__preset_of(imagine_schedule schedule);

/* Fills in a preset; arrays come from the context. `preset` is not IMAGINE_SCHEDULE_DEFAULT: the caller knows the
 * pack's. Raw sigmas are used as they are, rounded to f32: `steps` is 0 or agrees with them, `shift` is ignored. */
imagine_status imagine__schedule_make(imagine__schedule *schedule, imagine_context *context, imagine_schedule preset,
                                      imagine_step_rule rule, int32_t steps, double shift, const double *sigmas,
                                      uint32_t sigma_count, imagine_error *error);
/* The one of settled options, from the step on that the strength begins with. */
imagine_status imagine__schedule_of(imagine__schedule *schedule, imagine_context *context,
                                    const imagine_sampler_options *settled, imagine_error *error);
void imagine__schedule_free(imagine__schedule *schedule, imagine_context *context);

/* Leaves out the first `count` steps: a run from the middle. */
void imagine__schedule_skip(imagine__schedule *schedule, int32_t count);

/* What noise of deviation 1 is multiplied by to begin at the first sigma. */
double imagine__schedule_begins(const imagine__schedule *schedule);
/* 1 if the end of step `step` takes new noise. */
int imagine__schedule_draws(const imagine__schedule *schedule, int32_t step);
/* Steps that take some: the first ones. */
int32_t imagine__schedule_count_draws(const imagine__schedule *schedule);

/* Standard normals: Philox 4x32-10 with key (seed) and counter (index / 4, frame, purpose); value i of frame f is the
 * same wherever a call begins and however long it is. docs/sampling.md states the exact numbers. */
#define IMAGINE__NOISE_INITIAL 1u
#define IMAGINE__NOISE_RENOISE(number) (2u | (uint32_t)(number) << 8) /* at the end of step `number`, from 1 */
void imagine__noise_fill(float *out, int64_t first, int64_t count, uint64_t seed, uint32_t purpose, uint32_t frame);
/* The generator itself, for its test. */
void imagine__philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* The step rules. The state keeps what a multi-step rule remembers; `v` is the model's prediction (noise - x0) at the
 * step's sigma; `noise` is looked at where the schedule draws; x is updated in place; x0 receives the estimate of the
 * clean latents if not NULL. Steps are taken in order from 0; a reset begins again. A step that fails, cancelled say,
 * changes nothing and can be taken again. The stepper keeps `work` and `schedule`. */
typedef struct imagine__stepper imagine__stepper;
imagine_status imagine__stepper_create(imagine__stepper **stepper, imagine__work *work,
                                       const imagine__schedule *schedule, int64_t count, imagine_error *error);
void imagine__stepper_free(imagine__stepper *stepper);
void imagine__stepper_reset(imagine__stepper *stepper);
/* The tensors that it remembers between steps, at most 3; their number. With what they held after `step` steps in them the next is
 * as it would have been. */
uint32_t imagine__stepper_memory(const imagine__stepper *stepper, float **tensors);
void imagine__stepper_go_on(imagine__stepper *stepper, int32_t step);
/* Before imagine__stepper_step: NULL, or the sample at the next sigma for which the rule (Heun's) wants a prediction,
 * made with timesteps[step + 1], instead of `v`, which it keeps. */
float *imagine__stepper_trial(imagine__stepper *stepper, int32_t step, const float *x, const float *v);
imagine_status imagine__stepper_step(imagine__stepper *stepper, int32_t step, float *x, const float *v,
                                     const float *noise, float *x0, imagine_error *error);

#endif
