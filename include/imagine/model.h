/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_MODEL_H
#define IMAGINE_MODEL_H

#include "context.h"

/* An opened model pack: a folder in the diffusers layout (model_index.json, transformer/, vae/, text_encoder/,
 * tokenizer/, scheduler/). Immutable and reference counted; one model serves any number of stages and jobs on any
 * threads. The weights of a stage are read when a stage handle or job first needs them. */
typedef struct imagine_model imagine_model;

/* Where the weights of the text encoder and the transformer are while they are used. Results are the same to the byte. */
typedef int32_t imagine_weights;
#define IMAGINE_WEIGHTS_AUTO 0 /* in memory, unless the context's memory limit wants them streamed */
#define IMAGINE_WEIGHTS_RESIDENT 1 /* in memory */
#define IMAGINE_WEIGHTS_STREAMED 2 /* block by block from the file, two at a time: slower by the time of reading them */

typedef struct imagine_model_options {
    uint32_t struct_size;
    uint32_t reserved0;
    imagine_weights weights; /* default IMAGINE_WEIGHTS_AUTO */
    uint32_t reserved1;
} imagine_model_options;

/* Which stages a pack has. */
#define IMAGINE_STAGE_TEXT 1u
#define IMAGINE_STAGE_SAMPLER 2u
#define IMAGINE_STAGE_VAE 4u

/* What a pack is made for. A field is zero where the stage that says so is missing; width, height, frames and
 * frames_per_second are always set, size_multiple where the pack has a transformer or a VAE. */
typedef struct imagine_model_info {
    uint32_t struct_size;
    uint32_t stages; /* IMAGINE_STAGE_ bits */
    int32_t width, height, frames; /* the pack's defaults for a job, in pixels and frames */
    int32_t steps;
    double guidance;
    double frames_per_second;
    int32_t latent_channels;
    int32_t spatial_factor; /* pixels per latent along x and y, 8 or 16 for Wan's */
    int32_t temporal_factor; /* k: frames = k*n+1 for n+1 latent frames; 4 as a rule, 1 or 2 where fewer levels halve the time */
    int32_t size_multiple; /* width and height must be multiples of this */
    int32_t text_length; /* tokens that the text conditioning is padded to */
    int32_t text_dim;
    int32_t layers; /* of the transformer */
    int32_t width_hidden; /* of the transformer */
    uint64_t parameters_text, parameters_sampler, parameters_vae;
    uint64_t bytes; /* of all weight files */
} imagine_model_info;

#ifdef __cplusplus
extern "C" {
#endif

/* Fills in the defaults. `size` is the caller's sizeof(imagine_model_options). */
IMAGINE_API void imagine_model_options_init(imagine_model_options *options, size_t size);

/* Opens the pack in the folder `path`: reads every configuration and every weight file's header, and refuses what
 * cannot run by these with a message that names the key or the file. A scheduler that cannot run is only logged, as a warning:
 * a job that wants the pack's own schedule fails. The tensors of a stage and the tokenizer are looked at when the stage is first
 * needed, and refused then. `options` may be NULL. On failure *model is NULL. */
IMAGINE_API imagine_status imagine_model_open(imagine_model **model, imagine_context *context, const char *path,
                                              const imagine_model_options *options, imagine_error *error);

/* One reference more, to be released by its own; returns `model`. NULL is fine. */
IMAGINE_API imagine_model *imagine_model_retain(imagine_model *model);

/* As imagine_context_release. Stages and jobs hold references of their own. */
IMAGINE_API void imagine_model_release(imagine_model **model);

/* Fills min(info->struct_size, known) bytes of *info. */
IMAGINE_API imagine_status imagine_model_get_info(const imagine_model *model, imagine_model_info *info,
                                                  imagine_error *error);

#ifdef __cplusplus
}
#endif
#endif
