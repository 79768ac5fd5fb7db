/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_STAGE_H
#define IMAGINE_STAGE_H

/* What the handles of the stages have in common. */

#include "model/model.h"

/* IMAGINE_OK if `pointer` is not NULL; else the message names it. */
imagine_status imagine__need(const void *pointer, const char *name, imagine_error *error);

/* Fails unless the buffer has this type and number of dimensions, none of them 0. `layout` tells what is wanted, as
 * "[channels, frames, height, width]". */
imagine_status imagine__need_tensor(const imagine_buffer *buffer, const char *name, imagine_dtype dtype, int32_t ndim,
                                    const char *layout, imagine_error *error);

/* Fails with IMAGINE_ERROR_NOT_FINITE if a value of this F32 buffer on the host is a NaN or an infinity, naming its place. */
imagine_status imagine__need_finite(imagine__work *work, const imagine_buffer *buffer, const char *name,
                                    imagine_error *error);

/* Fails unless `value` is a multiple of `multiple`, naming the nearest ones. */
imagine_status imagine__need_multiple(int64_t value, int64_t multiple, const char *name, imagine_error *error);

/* Fails unless `frames` is factor * k + 1, naming the nearest ones. */
imagine_status imagine__need_frames(int64_t frames, int64_t factor, const char *name, imagine_error *error);

/* The sampler's options with the pack's defaults filled in, checked as far as is possible before weights are read. `sigmas`
 * and `cancel` stay the caller's. */
imagine_status imagine__sampler_settle(imagine_sampler_options *settled, const imagine_model *model,
                                       const imagine_sampler_options *options, imagine_error *error);

/* imagine_text_create and imagine_sampler_create for a caller that knows how the weights are to be read. */
imagine_status imagine__text_create(imagine_text **text, imagine_model *model, imagine__reading reading,
                                    const imagine_text_options *options, imagine_error *error);
imagine_status imagine__sampler_create(imagine_sampler **sampler, imagine_model *model, imagine__reading reading,
                                       const imagine_sampler_options *options, imagine_error *error);

/* Whether the first of two experts is let go when the second takes over; at first so where the context has a limit. */
void imagine__sampler_give_back(imagine_sampler *sampler, int give_back);

/* imagine_sampler_set_text, whose messages call the two as the caller knows them. */
imagine_status imagine__sampler_set_text(imagine_sampler *sampler, const imagine_buffer *positive,
                                         const imagine_buffer *negative, const char *const names[2], imagine_error *error);

/* Fails unless the buffer is F32 of this shape: `latents` is [channels, frames, height, width], behind the batch where that is
 * above 1 or the buffer has one more dimension, behind `leading` (0: nothing there). `allowed`: the sampler's IMAGINE__SHARED
 * and others (sampler/inside.h). Values are not looked at, here and in the next four. */
imagine_status imagine__check_latents(const imagine_buffer *buffer, const char *name, const int64_t latents[4], int32_t batch,
                                      int32_t leading, int allowed, imagine_error *error);
/* A mask of known latents, F32 [frames] or [frames, height, width]. */
imagine_status imagine__check_known_mask(const imagine_buffer *mask, const int64_t latents[4], imagine_error *error);
/* What imagine_sampler_set_renoise takes. */
imagine_status imagine__sampler_check_renoise(const imagine_sampler_options *settled, imagine_context *context,
                                              const imagine_buffer *noise, const int64_t latents[4], imagine_error *error);
/* What imagine_sampler_resume takes: a state of a run with these options. */
imagine_status imagine__sampler_check_state(const imagine_sampler_options *settled, imagine_context *context,
                                            const imagine_buffer *state, const int64_t latents[4], imagine_error *error);
/* What imagine_sampler_set_text takes: [length, text_dim], or one for each clip. */
imagine_status imagine__check_embeds(const imagine_buffer *embeds, const char *name, int32_t batch, int32_t text_dim,
                                     imagine_error *error);

/* Fails unless the text is UTF-8; `name` is "the prompt". */
imagine_status imagine__check_prompt(const char *prompt, const char *name, imagine_error *error);

/* 1 if any step may make two predictions. */
int imagine__sampler_guided(const imagine_sampler_options *settled);

int32_t imagine__sampler_done(const imagine_sampler *sampler); /* steps of the run that are done */
/* The steps of a run: those that the strength leaves. */
int32_t imagine__sampler_steps(const imagine_sampler_options *settled);

/* Seconds of a clock that only runs forward. */
double imagine__seconds(void);

#endif
