/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_JOB_INSIDE_H
#define IMAGINE_JOB_INSIDE_H

/* The inside of a job, for job.c, which runs it, and estimate.c, which plans it. */

#include "events.h"
#include "stage.h"

/* What a plan notes while a job runs in it, by imagine_job_stage; reading weights belongs to the stage that wants them. */
typedef struct imagine__watch {
    uint64_t begin[8]; /* held when the stage began */
    uint64_t peak[8]; /* held at most */
    uint64_t weights[8];
} imagine__watch;

struct imagine_job {
    imagine_model *model;
    imagine_context *context; /* the model's */
    imagine_cancel *cancel; /* the job's own, fired also by the caller's */
    char *prompt, *negative_prompt;
    imagine_buffer *prompt_embeds, *negative_embeds, *noise, *finished; /* the caller's, or NULL */
    imagine_sampler_options sampling; /* as settled */
    double *sigmas; /* copied */
    uint32_t wanted; /* IMAGINE_EVENT_BITs */
    int32_t preview_every, decode;
    double created, entered; /* when the job, and its present stage, began */
    imagine__events events;
    pthread_t thread;
    int running; /* the thread exists */
    imagine_text *text; /* the stages, each while it is needed; the thread's */
    imagine_sampler *sampler;
    imagine_vae *vae;
    imagine__watch *watch; /* NULL, or what a plan notes */
    pthread_mutex_t mutex; /* for what follows */
    imagine_job_info info;
    imagine_buffer *latents; /* after the last whole step */
};

/* A job that is not started yet. */
imagine_status imagine__job_prepare(imagine_job **job, imagine_model *model, const imagine_job_options *options,
                                    imagine_error *error);
/* Everything a job does, in order, on the calling thread. *frames: how many were made. */
imagine_status imagine__job_generate(imagine_job *job, int32_t *frames, imagine_error *error);

/* The job, which is being planned, goes from one stage to another (estimate.c). */
void imagine__watch_stage(imagine_job *job, imagine_job_stage from, imagine_job_stage to);

#endif
