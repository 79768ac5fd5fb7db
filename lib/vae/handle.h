/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_VAE_HANDLE_H
#define IMAGINE_VAE_HANDLE_H

#include "stage.h"
#include "vae/vae.h"

/* The visual tokenizer's handle, and what codes whole clips for it. Tensors of the API are planes of channels over the
 * clip; a coder works on one frame, channels last. */
struct imagine_vae {
    imagine_model *model;
    imagine_context *context; /* the model's */
    imagine_cancel *cancel;
    imagine__vae_coder *coder;
    imagine__work work;
    const imagine__vae_model *weights; /* the model's, and their configuration */
    const imagine__vae_config *config;
    int32_t tile_width, tile_height; /* as in imagine_vae_options */
    int64_t height, width; /* of the clip begun by decode_next, in latents; 0: none */
    int64_t decoded; /* latent frames of it so far */
    int64_t encode_height, encode_width, encoded; /* the same of encode_next */
};

/* Frames that are to be encoded. */
typedef struct vae_clip {
    int64_t frames, height, width; /* in pixels */
    const float *planes; /* [3, frames, height, width], or NULL */
    const uint8_t *bytes; /* [frames, height, width, 3], or NULL */
} vae_clip;

/* Into rows x columns tiles. 1 x 1: the whole picture, a latent frame at a time. */
typedef struct vae_grid {
    int32_t rows, columns;
} vae_grid;

/* What the handle's tile sizes come to for `count` latent frames of height x width latents that are encoded, or decoded
 * to `dtype`. Where they are to be chosen: as few tiles as the context's limit has room for, or the smallest. */
imagine_status vae_choose_grid(imagine_vae *vae, int encoding, imagine_dtype dtype, int64_t count, int64_t height,
                               int64_t width, vae_grid *grid, imagine_error *error);

/* To latents [channels, count, height, width]. 1 x 1: the next frames of the clip at hand, if one is. */
imagine_status vae_encode_clip(imagine_vae *vae, const vae_clip *in, vae_grid grid, imagine_buffer *latents,
                               imagine_error *error);
/* To frames as imagine_vae_decode gives them. 1 x 1: the next latent frames of the clip at hand, if one is. */
imagine_status vae_decode_clip(imagine_vae *vae, const imagine_buffer *latents, vae_grid grid, imagine_buffer *frames,
                               imagine_error *error);

#endif
