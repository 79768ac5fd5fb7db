/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_VAE_VAE_H
#define IMAGINE_VAE_VAE_H

#include "model/model.h"

/* The causal 3-D convolutional VAE: diffusers' AutoencoderKLWan, plain (Wan 2.1) and residual (Wan 2.2). Weights are
 * immutable once loaded and shared; a coder holds one clip's feature cache. */
typedef struct imagine__vae_model imagine__vae_model;
typedef struct imagine__vae_coder imagine__vae_coder;

typedef struct imagine__vae_config {
    int32_t base_dim, decoder_base_dim, z_dim, levels, dim_mult[8], res_blocks;
    int32_t temporal_down[8]; /* one less than levels */
    int32_t residual; /* levels have shortcuts without parameters */
    int32_t patch; /* patch x patch pixels are one of the network's, with 3 * patch^2 channels */
    int32_t spatial_factor, temporal_factor;
    float mean[128], std[128]; /* of the latents, per channel */
} imagine__vae_config;

imagine_status imagine__vae_read_config(imagine__vae_config *config, imagine_context *context, const char *folder,
                                        imagine_error *error);
/* The VAE that `config` describes, whatever config.json says by now. */
imagine_status imagine__vae_load(imagine__vae_model **vae, imagine_context *context, const imagine__vae_config *config,
                                 const imagine__weights *weights, const imagine_cancel *cancel, imagine_error *error);
/* With random weights, on a device. */
imagine_status imagine__vae_random(imagine__vae_model **vae, imagine_context *context, const imagine__vae_config *config,
                                   const imagine_cancel *cancel, imagine_error *error);
void imagine__vae_free(imagine__vae_model *vae);
const imagine__loaded *imagine__vae_loaded(const imagine__vae_model *vae);
const imagine__vae_config *imagine__vae_get_config(const imagine__vae_model *vae);

/* Coding frame by frame. All arrays are f32, latents on the host, all else values; sizes are fixed from the first call until reset. */
imagine_status imagine__vae_coder_create(imagine__vae_coder **coder, const imagine__vae_model *vae, imagine__work *work,
                                         imagine_error *error);
void imagine__vae_coder_free(imagine__vae_coder *coder);
/* Forgets the clip and gives its memory back; the next call begins another one. After a failure calls fail
 * until then. */
void imagine__vae_coder_reset(imagine__vae_coder *coder);
/* Says that the clip at hand, which is being encoded or decoded, has failed. */
void imagine__vae_coder_fail(imagine__vae_coder *coder, int encoding);
/* Resets, and says that the next clip is one frame long: nothing is kept for a following one, which saves most of the
 * memory. Holds until the next reset. */
void imagine__vae_coder_picture(imagine__vae_coder *coder);
/* One latent frame [z, height, width] (normalised; sizes in latents) to frames [count, 3, ...] written as
 * out[frame][y][x][channel] (channels-last, not clamped): 1 frame for the first latent frame, then
 * temporal_factor each. */
imagine_status imagine__vae_decode_latent(imagine__vae_coder *coder, const float *latent, int32_t height, int32_t width,
                                          float *out, int32_t *count, imagine_error *error);
/* 1 frame for the first call, then temporal_factor each: in[frame][y][x][channel] in [-1, 1] (sizes in pixels) to
 * one normalised latent frame [z, height / spatial_factor, width / spatial_factor]. */
imagine_status imagine__vae_encode_frames(imagine__vae_coder *coder, const float *in, int32_t height, int32_t width,
                                          float *latent, imagine_error *error);

/* ---- in tiles ---------------------------------------------------------------------------------------------------- */

/* For less memory a clip is coded in two halves: the middle, whose attention sees the whole picture, for every latent
 * frame; and the levels tile by tile, all frames of a tile before the next one's, so that one tile's feature caches are
 * held at a time. Decoding begins with the middle, encoding ends with it. The bytes are those of the whole picture. `middle`
 * is [height, width, imagine__vae_middle_channels], sizes in latents. */
typedef struct imagine__vae_tile {
    int32_t y, x, height, width;
} imagine__vae_tile;

/* How many tiles of at most `most` latents (0: no limit) make a side of `latents`; and tile `number` of rows x columns,
 * which differ by no more than one latent. */
int32_t imagine__vae_tile_count(int32_t latents, int32_t most);
imagine__vae_tile imagine__vae_tile_at(int32_t height, int32_t width, int32_t rows, int32_t columns, int32_t number);

/* 1: what the levels work on is as high and as wide for one as for the other, so that they take the same memory. */
int imagine__vae_tiles_alike(const imagine__vae_coder *coder, int encoding, int32_t height, int32_t width,
                             const imagine__vae_tile *a, const imagine__vae_tile *b);

int64_t imagine__vae_middle_channels(const imagine__vae_coder *coder, int encoding);
/* Drops all caches and begins a tile (in latents); NULL: the whole picture, as the middle wants it. */
imagine_status imagine__vae_coder_tile(imagine__vae_coder *coder, int encoding, int32_t height, int32_t width,
                                       const imagine__vae_tile *tile, imagine_error *error);

/* The next latent frame up to the levels. */
imagine_status imagine__vae_decode_middle(imagine__vae_coder *coder, const float *latent, int32_t height, int32_t width,
                                          float *middle, imagine_error *error);
/* The tile's part of it, as imagine__vae_decode_latent: out[frame][y][x][channel] of the tile's own pixels. */
imagine_status imagine__vae_decode_tile(imagine__vae_coder *coder, const float *middle, float *out, int32_t *count,
                                        imagine_error *error);

/* What the tile reads of each frame, in pixels. */
imagine__vae_tile imagine__vae_tile_pixels(const imagine__vae_coder *coder);
/* Those pixels of the next frames (1, then temporal_factor) to the tile's part of `middle`. */
imagine_status imagine__vae_encode_tile(imagine__vae_coder *coder, const float *in, float *middle,
                                        imagine_error *error);
/* The next latent frame; `middle` is written to. */
imagine_status imagine__vae_encode_middle(imagine__vae_coder *coder, float *middle, float *latent,
                                          imagine_error *error);

#endif
