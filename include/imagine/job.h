/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_JOB_H
#define IMAGINE_JOB_H

#include "buffer.h"
#include "model.h"
#include "sampler.h"

/* One generation, prompt to frames, pulled event by event. The work is done by a thread of the job's own together with
 * the context's threads; the caller's thread only waits. One thread at a time takes events; meanwhile any other may cancel
 * the job or ask how far it is (imagine_job_cancel, _get_info, _get_latents, _get_state). A picture is a clip of one frame. */
typedef struct imagine_job imagine_job;

typedef int32_t imagine_event_kind;
#define IMAGINE_EVENT_STEP 1 /* a step of the sampler is done */
#define IMAGINE_EVENT_PREVIEW 2 /* the first frame of the estimate so far, `frames` U8 [1, height, width, 3] */
#define IMAGINE_EVENT_LATENTS 3 /* sampling is over, `latents` F32 [channels, frames, height, width], shared with the job and
                                 * read-only, as imagine_job_get_latents gives them */
#define IMAGINE_EVENT_FRAMES 4 /* the next frames of the clip, or all, `frames` U8 [frames, height, width, 3] */
#define IMAGINE_EVENT_DONE 5 /* the job succeeded; delivered whatever `events` says, and again on every later call. A failed or
                              * cancelled job never gives it: imagine_job_next returns the failure each time */

/* Bits of imagine_job_options.events. */
#define IMAGINE_EVENT_BIT(kind) (1u << (kind))

typedef int32_t imagine_job_stage;
#define IMAGINE_JOB_LOAD 1
#define IMAGINE_JOB_TEXT 2
#define IMAGINE_JOB_SAMPLE 3
#define IMAGINE_JOB_DECODE 4
#define IMAGINE_JOB_ENCODE 5 /* pictures to latents, before TEXT */

/* Pictures to begin with or to keep are U8 [frames, height, width, 3], or [height, width, 3] for one, of the clip's size.
 * Where the sampler's options leave that size open, the clip gets the pictures' size. The job encodes the pictures, and so needs
 * the pack's VAE. */
typedef struct imagine_job_options {
    uint32_t struct_size;
    uint32_t events; /* IMAGINE_EVENT_BIT of those wanted, or 0xffffffff: all; default STEP and FRAMES */
    const char *prompt; /* UTF-8, copied; NULL is the empty prompt */
    const char *negative_prompt; /* likewise; counts where there is guidance, a scale other than 1 */
    const imagine_sampler_options *sampler; /* NULL: the pack's defaults; batch must be 1; copied */
    imagine_buffer *prompt_embeds; /* instead of `prompt`, as imagine_text_encode gives; retained */
    imagine_buffer *negative_embeds; /* likewise */
    imagine_buffer *noise; /* instead of the seed's noise; retained */
    imagine_buffer *latents; /* finished latents: only decode these; retained */
    imagine_cancel *cancel; /* NULL, or a token that cancels this job too; retained */
    int32_t preview_every; /* steps between previews; default 1 */
    int32_t decode; /* 0: end with the latents; default 1 */
    imagine_buffer *renoise; /* what steps add instead of the seed's noise (imagine_sampler_set_renoise); retained */
    imagine_buffer *init_latents; /* to begin with (imagine_sampler_set_init), the sampler's `strength` telling how far from
                                   * the end; retained, as all that follow */
    imagine_buffer *known_latents, *known_mask; /* to keep (imagine_sampler_set_known) */
    imagine_buffer *init_frames; /* pictures instead of init_latents, as many as the clip's frames */
    imagine_buffer *mask_frames; /* with init_frames or init_latents: one picture for all frames or one for each, also with 1
                                  * channel. What is bright (128 and above) is made anew, the rest is kept as it is in
                                  * the initial latents: every latent all of whose pixels are dark. A latent stands for
                                  * spatial_factor x spatial_factor pixels of frame 0, or of temporal_factor later frames */
    imagine_buffer *first_frames; /* t*k+1 pictures (t: temporal_factor of imagine_model_info, mostly 4) that the clip begins
                                   * with: 1 for picture to video, more to go on with a clip */
    imagine_buffer *last_frame; /* the picture that the clip ends with */
    int32_t tile_width, tile_height; /* pixels, as in imagine_vae_options: pictures are coded in tiles, and the clip's
                                      * frames come all at once. 0 (default) or IMAGINE_VAE_TILE_AUTO: whole, unless only
                                      * tiles keep within the memory limit; then the largest that fit */
    imagine_buffer *state; /* to go on from (imagine_job_get_state): the other options must be as they were; retained. Since 0.2 */
    int32_t state_every; /* steps between the states that the job keeps while it samples, for imagine_job_get_state at any time; 0
                          * (default): only one, where it ends early. Since 0.2 */
    uint32_t reserved0;
} imagine_job_options;

typedef struct imagine_event {
    uint32_t struct_size;
    imagine_event_kind kind;
    int32_t step, steps; /* STEP, PREVIEW */
    int32_t first_frame; /* FRAMES: the number of the first frame in `frames` */
    int32_t frame_count; /* FRAMES: frames in this event; DONE: of the whole clip */
    double sigma; /* STEP */
    double seconds; /* since the job was created */
    imagine_buffer *frames; /* belongs to the job until the next call; imagine_buffer_retain keeps it longer */
    imagine_buffer *latents; /* likewise */
} imagine_event;

/* What a job has spent so far, for each imagine_job_stage: seconds[IMAGINE_JOB_TEXT] and so on. */
typedef struct imagine_job_info {
    uint32_t struct_size;
    imagine_job_stage stage; /* at work now; 0: none */
    int32_t width, height, frames, steps; /* as they were settled; of finished latents the clip that they become, where the pack has
                                           * a VAE, and no steps */
    double guidance;
    double seconds[8];
    uint64_t memory_peak; /* bytes the context held at most while the job ran; each job that starts begins the measurement anew */
} imagine_job_info;

/* What a job will need of the context's memory, in bytes. The arrays are indexed by imagine_job_stage; reading a stage's
 * weights counts to the stage, and [IMAGINE_JOB_LOAD] stays 0, as do stages that the job leaves out. */
typedef struct imagine_estimate {
    uint32_t struct_size;
    int32_t fits; /* 1: peak_bytes is within the context's limit, or there is none */
    int32_t width, height, frames, steps; /* as they were settled; 0 for a job of finished latents */
    double guidance;
    uint64_t peak_bytes; /* the most that the context will hold at once: what it holds now and what the job adds */
    uint64_t held_bytes; /* what it holds now */
    uint64_t limit_bytes; /* the context's limit; 0: none */
    uint64_t stage_peak[8]; /* the most that the context will hold during the stage */
    uint64_t stage_weights[8]; /* of these, the stage's weights */
    uint64_t stage_work[8]; /* of these, what the stage takes apart from weights: activations, latents, frames */
    uint32_t streamed; /* to fit: IMAGINE_STAGE_ bits of those whose weights are read block by block while they are used */
    int32_t gives_back; /* to fit: 1, weights are freed when their stage is done */
    int32_t in_turn; /* to fit: 1, IMAGINE_CFG_AUTO is IMAGINE_CFG_IN_TURN */
    int32_t nearest_width, nearest_height, nearest_frames; /* where the job does not fit: the largest size like it that does; 0: none */
    int32_t tile; /* to fit: pixels along a side of the tiles that frames are decoded in, which then come all at once; or 0 */
    uint32_t reserved0;
} imagine_estimate;

#ifdef __cplusplus
extern "C" {
#endif

/* Fills in the defaults. `size` is the caller's sizeof(imagine_job_options). */
IMAGINE_API void imagine_job_options_init(imagine_job_options *options, size_t size);

/* Checks the options against the model and starts the job. On failure *job is NULL. In a context with a memory limit, a job
 * that would not fit is refused with IMAGINE_ERROR_NO_MEMORY; the message holds what it needs, the limit, and the nearest
 * size that fits. Other work in the same context at the same time is not taken into account. */
IMAGINE_API imagine_status imagine_job_create(imagine_job **job, imagine_model *model,
                                              const imagine_job_options *options, imagine_error *error);

/* Tells what imagine_job_create with these options would need, before anything of it is read or allocated: the job's own
 * code runs in a mode that computes nothing and only counts. It takes milliseconds for the largest models. The estimate assumes
 * the longest prompt and a caller who lets frames queue up. With a memory limit it describes the cheapest way in which the job
 * fits. Fills min(estimate->struct_size, known) bytes. */
IMAGINE_API imagine_status imagine_job_estimate(imagine_model *model, const imagine_job_options *options,
                                                imagine_estimate *estimate, imagine_error *error);

/* Waits for the next event for up to `timeout_ns` nanoseconds (0: not at all; below 0: for ever). IMAGINE_TIMEOUT when
 * there is none yet. A failed job's failure, with its message, comes after the events before it, and again on every later call. In
 * both cases the event's `frames` and `latents` become NULL, as what they pointed to is released. A STEP or PREVIEW event that is
 * not fetched is replaced by the next of its kind. The other events are kept; while four FRAMES events are waiting the job waits
 * too, so fetch them, or leave FRAMES out of the options' `events`. */
IMAGINE_API imagine_status imagine_job_next(imagine_job *job, imagine_event *event, int64_t timeout_ns,
                                            imagine_error *error);

/* Asks the job to stop, from any thread or a signal handler, while the job exists; returns at once. The job then ends
 * with IMAGINE_ERROR_CANCELLED, as soon as imagine_cancel_fire says. */
IMAGINE_API void imagine_job_cancel(imagine_job *job);

/* An eventfd that is readable while imagine_job_next would not wait. It belongs to the job; -1 where there is none. Never
 * read it: only poll. */
IMAGINE_API int32_t imagine_job_fd(const imagine_job *job);

/* The latents as they are after the last whole step, also after a cancelled or failed decode: nothing sampled is lost.
 * *latents is no copy but shared with the job, and read-only (IMAGINE_BUFFER_READ_ONLY): the job goes on with it.
 * imagine_buffer_copy makes a copy that may be written. A job of finished latents gives these. IMAGINE_ERROR_STATE before the
 * first step is done. The caller releases *latents. */
IMAGINE_API imagine_status imagine_job_get_latents(imagine_job *job, imagine_buffer **latents, imagine_error *error);

/* The state from which a job that was cancelled or failed while it sampled can be continued, in this process or another: give it
 * as `state` to a job with the same options, whose result is then, to the byte, what the first job would have made
 * (imagine_sampler_get_state). With state_every also while the job samples, after the last step that this divides: who saves it then
 * loses no more than those steps with the process or the machine. IMAGINE_ERROR_STATE while the job samples without state_every,
 * before the first step is done, and where sampling was over: then there are only the latents. The caller releases *state, which is
 * shared with the job and never changed. Since 0.2. */
IMAGINE_API imagine_status imagine_job_get_state(imagine_job *job, imagine_buffer **state, imagine_error *error);

/* Fills min(info->struct_size, known) bytes of *info: how far the job is now. Does not wait for the job. */
IMAGINE_API imagine_status imagine_job_get_info(imagine_job *job, imagine_job_info *info, imagine_error *error);

/* Cancels what is running, waits for its end, frees everything and sets *job to NULL. */
IMAGINE_API void imagine_job_destroy(imagine_job **job);

#ifdef __cplusplus
}
#endif
#endif
