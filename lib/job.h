/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_JOB_INSIDE_H
#define IMAGINE_JOB_INSIDE_H

/* The inside of a job, for job.c, which runs it, and estimate.c, which plans it. */

#include "conditions.h"
#include "events.h"
#include "stage.h"

/* What a plan notes while a job runs in it, by imagine_job_stage; reading weights belongs to the stage that wants them. */
typedef struct imagine__watch {
    uint64_t begin[8]; /* held when the stage began */
    uint64_t kept[8]; /* of that, weights of the stage, which were there from earlier work */
    uint64_t peak[8]; /* held at most */
    uint64_t weights[8];
} imagine__watch;

/* How a job keeps within the context's limit; all 0: it need not. */
typedef struct imagine__placement {
    uint32_t streamed; /* IMAGINE_STAGE_ bits of those whose weights are read block by block */
    int give_back; /* weights are freed when their stage is done */
    int in_turn; /* guidance that may be either way is made in turn */
    int32_t tile; /* pixels along a side of the tiles that frames are decoded in; 0: none */
} imagine__placement;

struct imagine_job {
    imagine_model *model;
    imagine_context *context; /* the model's */
    imagine_cancel *cancel; /* the job's own, fired also by the caller's */
    char *prompt, *negative_prompt;
    imagine_buffer *prompt_embeds, *negative_embeds, *noise, *renoise, *finished, *resumed; /* the caller's, or NULL */
    imagine__conditions given; /* what to begin with or to keep */
    imagine_sampler_options sampling; /* as settled */
    double *sigmas; /* copied */
    uint32_t wanted; /* IMAGINE_EVENT_BITs */
    int32_t preview_every, state_every, decode;
    int32_t tile_width, tile_height; /* 0: whole, or as the placement says */
    double created, entered; /* when the job, and its present stage, began */
    imagine__events events;
    pthread_t thread;
    int running; /* the thread exists */
    imagine_text *text; /* the stages, each while it is needed; the thread's */
    imagine_sampler *sampler;
    imagine_vae *vae;
    imagine__placement placement;
    imagine__watch *watch; /* NULL, or what a plan notes */
    pthread_mutex_t mutex; /* for what follows */
    imagine_job_info info;
    imagine_buffer *latents; /* after the last whole step */
    imagine_buffer *state; /* what sampling can be gone on from, or NULL */
};

/* A caller's options with the defaults for what it does not know, checked. */
imagine_status imagine__job_read_options(imagine_job_options *o, const imagine_job_options *options, imagine_error *error);
/* The sampling options with all defaults, sizes of given pictures and latents among them. */
imagine_status imagine__job_settle(imagine_sampler_options *settled, const imagine_model *model, const imagine_job_options *o,
                                   imagine_error *error);
/* A job that is not started yet. */
imagine_status imagine__job_prepare(imagine_job **job, imagine_model *model, const imagine_job_options *options,
                                    imagine_error *error);
/* Everything a job does, in order, on the calling thread. *frames: how many were made. */
imagine_status imagine__job_generate(imagine_job *job, int32_t *frames, imagine_error *error);

/* Finds out how a job of these options fits the context's limit; fills *estimate for the least costly way, or, where
 * there is none, for the most frugal one. */
imagine_status imagine__job_place(imagine_model *model, const imagine_job_options *options,
                                  imagine__placement *placement, imagine_estimate *estimate, imagine_error *error);

/* IMAGINE_ERROR_NO_MEMORY with the numbers of an estimate that does not fit. */
imagine_status imagine__job_refuse(const imagine_estimate *estimate, imagine_error *error);

/* The job, which is being planned, goes from one stage to another (estimate.c). */
void imagine__watch_stage(imagine_job *job, imagine_job_stage from, imagine_job_stage to);

#endif
