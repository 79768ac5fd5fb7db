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
    const imagine__dit *dit; /* the model's, of the expert at work; NULL when changing it was cancelled */
    imagine__stream *stream; /* memory of its blocks, where those are streamed and a forward has been */
    int32_t expert; /* which of the pack's transformers it is */
    imagine__reading reading; /* how their weights are to be read */
    int give_back; /* 1: there is no room for the weights of both experts */
    imagine__dit_config config; /* both experts', kept here: a change that fails leaves no transformer */
    imagine__work work;
    imagine_sampler_options o; /* as settled; `sigmas` is not kept */
    imagine__schedule schedule;
    imagine__stepper *stepper;
    imagine__dit_text *text; /* of all clips; batched guidance: the negative rows after the positive ones */
    imagine__dit_text *negative; /* guidance in turn */
    float *rows; /* [2 if guided][batch][text length][text_dim]: kept for the other expert, or NULL */
    int guided, batched;
    int64_t shape[4]; /* of one clip's latents: channels, frames, height, width */
    int64_t clip, count; /* values of one clip and of all */
    float *x; /* [batch][clip]: the latents */
    float *twice; /* [2][batch][clip]: what both predictions see, when they are batched */
    float *noise; /* [batch][clip]: what a step adds, where the rule does */
    imagine_buffer *renoise; /* on the host, as the next three: the caller's instead of the seed's, or NULL */
    imagine_buffer *init; /* the caller's initial latents, or NULL */
    imagine_buffer *known, *mask; /* the caller's known latents and where they are, or NULL */
    float *start; /* [batch][clip]: the noise that a run with known latents began with, which RENOISED keeps */
    const float *known_values, *mask_values; /* the known latents and the mask as operations see them, once a run has begun */
    float *known_copy, *mask_copy; /* where those are on a device, or NULL */
    float *v; /* [2 if guided][batch][clip]: predictions */
    float *estimate; /* [batch][clip]: of the clean latents */
    int32_t step; /* steps done */
    int begun, failed;
    int spoilt; /* 1: the step that failed left latents that are not finite */
};

/* Fails for NULL and in a forked child. */
imagine_status imagine__sampler_usable(const imagine_sampler *sampler, imagine_error *error);

/* Standard normals for every clip into out [batch][clip]; `purpose` is an IMAGINE__NOISE_ one. */
imagine_status imagine__sampler_noise(imagine_sampler *sampler, uint32_t purpose, float *out, imagine_error *error);

/* Noise for so many steps: that there are some, and its shape (options.c). */
imagine_status imagine__check_renoise(const imagine_buffer *noise, const int64_t latents[4], int32_t batch, int32_t draws,
                                      imagine_error *error);

/* imagine__check_latents of the sampler's clips, and that the values of the buffer, which is on the host, are finite. */
#define IMAGINE__SHARED 1 /* without a batch it is for every clip */
#define IMAGINE__FEWER 2 /* the frames may be fewer than the clip's */
#define IMAGINE__MASKED 4 /* a mask comes with it, and what it leaves out may be anything; else all values must be finite */
imagine_status imagine__sampler_check(imagine_sampler *sampler, const imagine_buffer *buffer, const char *name,
                                      int32_t leading, int allowed, imagine_error *error);
/* From noise in x to what a run begins with: the schedule's scale, or the initial latents noised, and the known ones. */
imagine_status imagine__sampler_start(imagine_sampler *sampler, imagine_error *error);
/* Puts the known latents into x [batch][clip] where they belong, as the model is to see them at `sigma`. */
void imagine__sampler_keep(imagine_sampler *sampler, float *x, double sigma);
/* Lets go of what operations see of them. */
void imagine__sampler_drop_known(imagine_sampler *sampler);
/* The timesteps, on the host, of every token of a clip: 0 where all of it is known and kept clean. 0: all tokens have the same. */
int imagine__sampler_tokens(imagine_sampler *sampler, double timestep, int32_t clips, float **timesteps,
                            imagine_error *error);

/* Which expert works at a timestep. */
int32_t imagine__sampler_expert(const imagine_sampler *sampler, double timestep);
/* Makes it the one at work, with its keys and values of the text (text.c). */
imagine_status imagine__sampler_change(imagine_sampler *sampler, int32_t expert, imagine_error *error);

/* Fails, with the weights to blame if it is one's fault, where a prediction is not finite; `what` begins the message. */
imagine_status imagine__sampler_check_prediction(imagine_sampler *sampler, const float *v, int64_t count, const char *what,
                                                 imagine_error *error);
/* The guided prediction for `x` [batch][clip] at timesteps[index] of the schedule into sampler->v (predict.c). */
imagine_status imagine__sampler_predict(imagine_sampler *sampler, const float *x, int32_t index, imagine_error *error);

#endif
