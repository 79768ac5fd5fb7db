/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_CONDITIONS_H
#define IMAGINE_CONDITIONS_H

/* What a job is given to begin with or to keep: latents as they are, or pictures that become latents. */

#include "stage.h"

typedef struct imagine__conditions {
    imagine_buffer *init_latents, *known_latents, *known_mask; /* the caller's, or made of the pictures */
    imagine_buffer *first_frames, *last_frame, *init_frames, *mask_frames; /* pictures; let go once they are encoded */
    int64_t latents[4]; /* of the clip: channels, frames, height, width */
    int64_t frames, spatial, temporal; /* of the clip; pixels and frames that a latent stands for */
} imagine__conditions;

/* Sizes that `sampler` leaves open become those of what is given. */
void imagine__conditions_sizes(const imagine_job_options *options, const imagine_model *model,
                               imagine_sampler_options *sampler);
/* Checks what is given against the settled sampling options, and retains it. */
imagine_status imagine__conditions_take(imagine__conditions *conditions, const imagine_job_options *options,
                                        const imagine_model *model, const imagine_sampler_options *settled,
                                        imagine_error *error);
/* 1 if there are pictures to be encoded. */
int imagine__conditions_pictures(const imagine__conditions *conditions);
/* Makes latents of the pictures. */
imagine_status imagine__conditions_encode(imagine__conditions *conditions, imagine_context *context, imagine_vae *vae,
                                          const imagine_cancel *cancel, imagine_error *error);
void imagine__conditions_release(imagine__conditions *conditions);

#endif
