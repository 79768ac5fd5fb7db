/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_SAMPLER_INSIDE_H
#define IMAGINE_SAMPLER_INSIDE_H

/* What the files of lib/sampler share: the handle. */

#include <string.h>

#include "dit/dit.h"
#include "sampler/schedule.h"
#include "stage.h"

struct imagine_sampler {
    imagine_model *model;
    imagine_context *context; /* the model's */
    imagine_cancel *cancel;
    const imagine__dit *dit; /* the model's */
    const imagine__dit_config *config;
    imagine__work work;
    imagine_sampler_options o; /* as settled; `sigmas` is not kept */
    imagine__schedule schedule;
    imagine__stepper *stepper;
    imagine__dit_text *text; /* of all clips; batched guidance: the negative rows after the positive ones */
    imagine__dit_text *negative; /* guidance in turn */
    int guided, batched;
    int64_t shape[4]; /* of one clip's latents: channels, frames, height, width */
    int64_t clip, count; /* values of one clip and of all */
    float *x; /* [batch][clip]: the latents */
    float *twice; /* [2][batch][clip]: what both predictions see, when they are batched */
    float *noise; /* [batch][clip]: what a step adds, where the rule does */
    imagine_buffer *renoise; /* the caller's instead of the seed's, or NULL */
    float *v; /* [2 if guided][batch][clip]: predictions */
    float *estimate; /* [batch][clip]: of the clean latents */
    int32_t step; /* steps done */
    int begun, failed;
};

/* Fails for NULL and in a forked child. */
imagine_status imagine__sampler_usable(const imagine_sampler *sampler, imagine_error *error);

/* Standard normals for every clip into out [batch][clip]; `purpose` is an IMAGINE__NOISE_ one. */
imagine_status imagine__sampler_noise(imagine_sampler *sampler, uint32_t purpose, float *out, imagine_error *error);

/* The guided prediction for `x` [batch][clip] at timesteps[index] of the schedule into sampler->v (predict.c). */
imagine_status imagine__sampler_predict(imagine_sampler *sampler, const float *x, int32_t index, imagine_error *error);

#endif
