/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_SAMPLER_SCHEDULE_H
#define IMAGINE_SAMPLER_SCHEDULE_H

#include "base/base.h"

/* A schedule is data: steps + 1 sigmas and the timesteps the model is told, and a rule for the step. */
typedef struct imagine__schedule {
    int32_t steps;
    imagine_step_rule rule;
    double *sigmas; /* [steps + 1] */
    double *timesteps; /* [steps] */
} imagine__schedule;

/* Fills in a preset; arrays come from the context. `preset` is not IMAGINE_SCHEDULE_DEFAULT: the caller knows the
 * pack's. Raw sigmas are used as they are, rounded to f32: `steps` is 0 or agrees with them, `shift` is ignored. */
imagine_status imagine__schedule_make(imagine__schedule *schedule, imagine_context *context, imagine_schedule preset,
                                      imagine_step_rule rule, int32_t steps, double shift, const double *sigmas,
                                      uint32_t sigma_count, imagine_error *error);
void imagine__schedule_free(imagine__schedule *schedule, imagine_context *context);

/* Standard normals: Philox 4x32-10 with key (seed) and counter (index / 4, frame, purpose); value i of frame f is the
 * same whatever the length asked for. docs/sampling.md states the exact numbers. */
#define IMAGINE__NOISE_INITIAL 1u
#define IMAGINE__NOISE_RENOISE 2u
void imagine__noise_fill(float *out, int64_t count, uint64_t seed, uint32_t purpose, uint32_t frame);
/* The generator itself, for its test. */
void imagine__philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* The step rules. The state keeps what a multi-step rule remembers; `v` is the model's prediction (noise - x0) at the
 * step's sigma; x is updated in place; x0 receives the estimate of the clean latents if not NULL. Steps are taken in
 * order from 0; a reset begins again. A step that fails, cancelled say, changes nothing and can be taken again.
 * The stepper keeps `work` and `schedule`. */
typedef struct imagine__stepper imagine__stepper;
imagine_status imagine__stepper_create(imagine__stepper **stepper, imagine__work *work,
                                       const imagine__schedule *schedule, int64_t count, imagine_error *error);
void imagine__stepper_free(imagine__stepper *stepper);
void imagine__stepper_reset(imagine__stepper *stepper);
imagine_status imagine__stepper_step(imagine__stepper *stepper, int32_t step, float *x, const float *v, float *x0,
                                     imagine_error *error);

#endif
