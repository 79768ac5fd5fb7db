/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_SAMPLER_H
#define IMAGINE_SAMPLER_H

#include "buffer.h"
#include "model.h"

/* The DiT sampler: text conditioning and noise to latents, one step a call. One thread at a time; many handles at once
 * on one model. */
typedef struct imagine_sampler imagine_sampler;

/* Presets: what fills in the sigmas and the step rule. docs/sampling.md has every number. Those from SELF_FORCING on are
 * for models distilled to few steps: unless told otherwise they run without guidance, in as many steps as is said here,
 * and have a shift of their own. */
typedef int32_t imagine_schedule;
#define IMAGINE_SCHEDULE_DEFAULT 0 /* the pack's own, from imagine.json or scheduler/scheduler_config.json */
#define IMAGINE_SCHEDULE_FLOW 1 /* linear 1 to 1/n, then 0, shifted; Euler */
#define IMAGINE_SCHEDULE_WAN_UNIPC 2 /* linspace(1, .001, n+1) without its end, shifted; UniPC order 2, bh2 */
#define IMAGINE_SCHEDULE_SIGMAS 3 /* the caller's sigmas with `step_rule` */
#define IMAGINE_SCHEDULE_SELF_FORCING 4 /* Self-Forcing, LongLive, LightX2V: 4 steps; renoise */
#define IMAGINE_SCHEDULE_CAUSVID 5 /* CausVid, FastWan (DMD2): 3 steps; renoise */
#define IMAGINE_SCHEDULE_RCM 6 /* rCM, TurboDiffusion: 4 steps, or 1 to 3; TrigFlow */
#define IMAGINE_SCHEDULE_SCM 7 /* sCM, SANA-Sprint: 2 steps, or any number; TrigFlow */
#define IMAGINE_SCHEDULE_LCM 8 /* latent consistency: 4 steps, or up to 50; LCM */
#define IMAGINE_SCHEDULE_LTX2 9 /* LTX-2 distilled: 8 steps; Euler */
#define IMAGINE_SCHEDULE_LTX2_SECOND 10 /* its second stage, from sigma .909: 3 steps; Euler */
#define IMAGINE_SCHEDULE_SCHNELL 11 /* FLUX.1-schnell, no shift: 4 steps, or any number; Euler */
#define IMAGINE_SCHEDULE_Z_IMAGE 12 /* Z-Image-Turbo, shift 3: 8 steps, or any number; Euler */

/* From one sigma to the next, sigma'. x0 is the estimate x - sigma v; noise is new at every step, from the seed. */
typedef int32_t imagine_step_rule;
#define IMAGINE_STEP_DEFAULT 0 /* the preset's */
#define IMAGINE_STEP_EULER 1 /* x + (sigma' - sigma) v */
#define IMAGINE_STEP_UNIPC 2 /* UniPC, order 2, bh2, with corrector (Zhao et al. 2023) */
#define IMAGINE_STEP_HEUN 3 /* x + (sigma' - sigma) (v + v') / 2: two predictions a step but for the last */
#define IMAGINE_STEP_RENOISE 4 /* (1 - sigma') x0 + sigma' noise */
#define IMAGINE_STEP_ANCESTRAL 5 /* Euler to below sigma', and up again with noise; `eta` says how far */
#define IMAGINE_STEP_TRIGFLOW 6 /* as RENOISE, and begins with sigma times the noise */
#define IMAGINE_STEP_LCM 7 /* as RENOISE, of c_out x0 + c_skip x */

/* How the two predictions of classifier-free guidance are computed. The results are the same to the byte
 * (with IMAGINE_PRECISION_BF16: near each other). */
typedef int32_t imagine_cfg_mode;
#define IMAGINE_CFG_AUTO 0 /* BATCHED up to 8,192 tokens of the batch, else IN_TURN; a job with a memory limit takes what suits
                            * that and streamed weights better */
#define IMAGINE_CFG_BATCHED 1 /* both in one forward of twice the batch: faster */
#define IMAGINE_CFG_IN_TURN 2 /* one after the other: less memory */

/* How known latents are kept while the others are made. Both end with the known ones as they were given, to the bit. */
typedef int32_t imagine_known_mode;
#define IMAGINE_KNOWN_AUTO 0 /* CLEAN where model_index.json says "expand_timesteps", else RENOISED */
#define IMAGINE_KNOWN_CLEAN 1 /* they stay clean, and the model is told timestep 0 for their tokens: for models trained so,
                               * as Wan 2.2 TI2V */
#define IMAGINE_KNOWN_RENOISED 2 /* they are noised to the present sigma before each step: for any model */

typedef struct imagine_sampler_options {
    uint32_t struct_size;
    int32_t batch; /* clips sampled at once, 1 to 64; clip b uses seed + b; default 1 */
    int32_t width, height, frames; /* in pixels and frames; 0: the pack's default */
    int32_t steps; /* 1 to 1000; 0: the pack's default, the preset's, or sigma_count - 1 */
    uint64_t seed;
    double guidance; /* CFG scale: 1 means without; below 0 (default): the pack's, or 1 with a distilled preset that is
                      * not the pack's own */
    double shift; /* of the schedule; 0: the pack's, or the preset's own; refused above 0 with IMAGINE_SCHEDULE_SIGMAS */
    imagine_schedule schedule;
    imagine_step_rule step_rule;
    imagine_cfg_mode cfg_mode;
    uint32_t sigma_count; /* for IMAGINE_SCHEDULE_SIGMAS: steps + 1, from at most 1 downwards, the last may be 0 */
    const double *sigmas; /* copied */
    imagine_cancel *cancel; /* NULL, or a token that the handle retains */
    double eta; /* IMAGINE_STEP_ANCESTRAL: 0 (Euler) to 1 (default) */
    double guidance_rescale; /* 0 (default) to 1: how far the guided prediction is brought back to the deviation of the
                              * prompt's alone, clip by clip (Lin et al. 2023) */
    double guidance_start, guidance_stop; /* guidance from step floor(start * steps), from 0, to before step
                                           * floor(stop * steps); the others cost one prediction; default 0 and 1 */
    double guidance_audio; /* CFG scale of the sound; below 0 (default): as `guidance`. No pack of this version makes
                            * sound: anything else is refused */
    double strength; /* with initial latents (imagine_sampler_set_init): how much is made anew, above 0 to 1 (default). Of
                      * n steps the last floor(strength * n) are run */
    imagine_known_mode known_mode; /* for imagine_sampler_set_known */
    uint32_t reserved0;
    double guidance_2; /* CFG scale of the second expert (little noise) of a pack that has two; below 0 (default): as
                        * `guidance` where that is given, else the pack's */
} imagine_sampler_options;

/* Where a sampler stands after a step. */
typedef struct imagine_step_info {
    uint32_t struct_size;
    int32_t step; /* steps done */
    int32_t steps; /* steps in all */
    uint32_t reserved0;
    double sigma; /* of the latents now */
    double seconds; /* that the last step took */
} imagine_step_info;

#ifdef __cplusplus
extern "C" {
#endif

/* "flow", "wan-unipc" and so on; NULL for IMAGINE_SCHEDULE_DEFAULT and above the last. Never freed. */
IMAGINE_API const char *imagine_schedule_name(imagine_schedule schedule);

/* "euler" and so on; NULL for IMAGINE_STEP_DEFAULT and above the last. Never freed. */
IMAGINE_API const char *imagine_step_rule_name(imagine_step_rule rule);

/* Fills in the defaults. `size` is the caller's sizeof(imagine_sampler_options). */
IMAGINE_API void imagine_sampler_options_init(imagine_sampler_options *options, size_t size);

/* Reads the transformer's weights and checks the sizes. `options` may be NULL. */
IMAGINE_API imagine_status imagine_sampler_create(imagine_sampler **sampler, imagine_model *model,
                                                  const imagine_sampler_options *options, imagine_error *error);

/* Frees the handle and sets the pointer to NULL; NULL and a pointer to NULL are fine. Not while a call with it is under way. */
IMAGINE_API void imagine_sampler_destroy(imagine_sampler **sampler);

/* Text conditioning, F32 [length, text_dim] without padding (as imagine_text_encode gives) or already padded; it is
 * padded with zero rows to the model's text length, or cut to it. `negative` may be NULL when guidance is 1, and guidance_2 too
 * where the pack has two experts. With several clips in a batch, F32 [batch, length, text_dim] gives each its own. The keys and
 * values of the cross-attention are computed here, once. */
IMAGINE_API imagine_status imagine_sampler_set_text(imagine_sampler *sampler, const imagine_buffer *positive,
                                                    const imagine_buffer *negative, imagine_error *error);

/* Initial latents, F32 [channels, frames, height, width] as imagine_vae_encode gives, for every clip, or with a batch in
 * front: a run begins with `(1 - sigma) latents + sigma noise` at the first sigma of the steps that `strength` leaves.
 * Retained, looked at by imagine_sampler_begin; NULL: none again. */
IMAGINE_API imagine_status imagine_sampler_set_init(imagine_sampler *sampler, imagine_buffer *latents,
                                                    imagine_error *error);

/* Latents that are known and kept: the clip's first frames, any frames, or any part of the picture. `latents` F32
 * [channels, frames, height, width], for every clip, or with a batch in front. `mask`, for all clips, F32 [frames] or
 * [frames, height, width] in latents: 1 where they are known, 0 where they are to be made. NULL: `latents` are fewer frames
 * than the clip's, and its first ones. What is known must be finite. Both are retained and looked at from
 * imagine_sampler_begin on, which must follow; `latents` NULL: nothing is known again. */
IMAGINE_API imagine_status imagine_sampler_set_known(imagine_sampler *sampler, imagine_buffer *latents,
                                                     imagine_buffer *mask, imagine_error *error);

/* Begins (again) at the first sigma. `noise`, F32 [channels, frames, height, width] in latents, or with several clips in a batch
 * [batch, channels, frames, height, width], is used instead of the seed's; NULL: drawn from the seed. */
IMAGINE_API imagine_status imagine_sampler_begin(imagine_sampler *sampler, const imagine_buffer *noise,
                                                 imagine_error *error);

/* What the steps add, where the rule adds noise, instead of the seed's: F32 [count, channels, frames, height, width], or with
 * several clips in a batch [count, batch, channels, frames, height, width], one for each step that does not end at sigma 0.
 * Retained; NULL: the seed's again. May be called at any time; every step looks at its own part. */
IMAGINE_API imagine_status imagine_sampler_set_renoise(imagine_sampler *sampler, imagine_buffer *noise,
                                                       imagine_error *error);

/* One step. IMAGINE_ERROR_STATE when all steps are done. A NaN or infinity in the prediction ends the run with
 * IMAGINE_ERROR_NOT_FINITE, naming the step and the tensor of the weights that is to blame, if one is. After a failure the run has to
 * be begun anew; after IMAGINE_ERROR_CANCELLED the step can be made again. `info` may be NULL. */
IMAGINE_API imagine_status imagine_sampler_step(imagine_sampler *sampler, imagine_step_info *info,
                                                imagine_error *error);

/* A copy of the latents as they are now, F32 [channels, frames, height, width], of clip `index` of the batch. The caller
 * releases it. */
IMAGINE_API imagine_status imagine_sampler_get_latents(imagine_sampler *sampler, int32_t index,
                                                       imagine_buffer **latents, imagine_error *error);

/* The estimate of the clean latents after the last step, for previews; as imagine_sampler_get_latents. */
IMAGINE_API imagine_status imagine_sampler_get_estimate(imagine_sampler *sampler, int32_t index,
                                                        imagine_buffer **latents, imagine_error *error);

/* Everything that the next steps depend on, as it is after the last whole step: U8 [bytes], on the host. Keep it in memory or in a
 * file (imagine_buffer_save); a process on any machine of this kind can resume from it. It holds the latents, the estimate, what a
 * multistep rule remembers, and the noise of known latents where that is needed again: 2 to 6 times the latents. It can also be had
 * after a step that was cancelled or failed; IMAGINE_ERROR_STATE where such a step has spoilt the latents. The caller releases it.
 * Since 0.2. */
IMAGINE_API imagine_status imagine_sampler_get_state(imagine_sampler *sampler, imagine_buffer **state, imagine_error *error);

/* Instead of imagine_sampler_begin: continues from a state, with the same bytes as the run it was taken from would have made.
 * The sampler must have been given the same as the sampler of that run. Sizes, batch, seed, schedule, steps and step rule are
 * compared, and IMAGINE_ERROR_INVALID_ARGUMENT names what differs. The model, the text, guidance, and initial and known latents
 * cannot be compared. After a failure the run has to be begun, or resumed, anew. Since 0.2. */
IMAGINE_API imagine_status imagine_sampler_resume(imagine_sampler *sampler, const imagine_buffer *state, imagine_error *error);

/* The schedule in use: min(count, steps + 1) sigmas are written to `sigmas`; returns steps + 1, or 0 for NULL. */
IMAGINE_API uint32_t imagine_sampler_get_sigmas(const imagine_sampler *sampler, double *sigmas, uint32_t count);

/* One forward of the transformer, whatever the sampler's state: `hidden_states` F32 [batch, channels, frames, height,
 * width], `timestep` F32, I64 or I32 [batch] or [batch, tokens] in 0..1000, `encoder_hidden_states` F32 [batch, length,
 * text_dim], used as it is, to `sample`, which the caller releases: the shape of hidden_states, with the transformer's
 * out_channels (this version runs only those that have as many as in_channels). Of two experts the one that works at the first
 * timestep. */
IMAGINE_API imagine_status imagine_sampler_denoise(imagine_sampler *sampler, const imagine_buffer *hidden_states,
                                                   const imagine_buffer *timestep,
                                                   const imagine_buffer *encoder_hidden_states,
                                                   imagine_buffer **sample, imagine_error *error);

#ifdef __cplusplus
}
#endif
#endif
