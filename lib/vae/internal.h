/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_VAE_INTERNAL_H
#define IMAGINE_VAE_INTERNAL_H

#include "vae/vae.h"

/* Inside the VAE. A frame is [height, width, channels]. Frames go through the network one by one, depth first: where
 * time is enlarged, each of the two frames goes to the end of the network before the other one begins, so that no
 * level ever holds more than one. */

#define VAE_MAX_LEVELS 8
#define VAE_MAX_BLOCKS 9 /* residual blocks of a level */

/* ---- weights (load.c) ----------------------------------------------------------------------------------------- */

/* A convolution over time, with the place of its feature cache in the coder. */
typedef struct vae_conv {
    imagine__conv_weight w;
    int32_t slot, reserved;
} vae_conv;

typedef struct vae_residual {
    const float *norm1, *norm2;
    vae_conv conv1, conv2;
    imagine__linear_weight shortcut; /* packed NULL: the input itself */
    int32_t in, out;
} vae_residual;

typedef struct vae_attention {
    const float *norm;
    imagine__linear_weight qkv, proj;
} vae_attention;

typedef struct vae_middle {
    vae_residual first, last;
    vae_attention attention;
} vae_middle;

typedef enum vae_resample {
    VAE_KEEP = 0, /* the last level */
    VAE_SPACE, /* height and width */
    VAE_SPACE_TIME
} vae_resample;

typedef struct vae_level {
    vae_residual blocks[VAE_MAX_BLOCKS];
    int32_t count, in, channels; /* blocks; channels before and after them */
    vae_resample resample;
    int32_t shortcut; /* 1: from what goes in to what comes out */
    int32_t half_slot; /* encoder: of the shortcut from the first of two frames that become one */
    imagine__conv_weight space; /* 3x3: stride 2 in the encoder, after doubling the pixels in the decoder */
    vae_conv time; /* 3x1x1 */
} vae_level;

/* Either half: conv_in, [middle], levels, [middle], norm_out, conv_out. */
typedef struct vae_half {
    vae_conv conv_in, conv_out;
    vae_level levels[VAE_MAX_LEVELS];
    vae_middle middle;
    const float *norm_out;
    imagine__linear_weight quant; /* 1x1x1: after the encoder, before the decoder */
    int32_t channels_mid, reserved; /* of the middle */
} vae_half;

struct imagine__vae_model {
    imagine_context *context;
    imagine__vae_config config;
    imagine__loaded loaded;
    vae_half encoder, decoder;
    int32_t slots, reserved; /* feature caches of a coder */
};

/* ---- coders (coder.c) -------------------------------------------------------------------------------------------- */

/* A frame that outlives the layer that made it. */
typedef struct vae_frame {
    struct vae_frame *next; /* in the list of frames to use again */
    size_t size; /* in bytes */
    float *values; /* or bf16: see vae_input() */
    int32_t in_ring, reserved; /* in_ring: it stays its cache's */
} vae_frame;

/* What a convolution over time remembers: the last two frames that went in, NULL for zeros before the first. */
typedef struct vae_cache {
    vae_frame *last[2]; /* the newer one is last[1] */
    vae_frame *now; /* being filled or convolved */
    vae_frame *ring; /* NULL, or the three that take turns: side by side in memory, as a GPU's convolution reads them without a copy */
} vae_cache;

/* A part of a picture. */
typedef struct vae_window {
    int64_t y, x, height, width;
} vae_window;

typedef struct vae_side {
    int32_t height, width; /* of the clip, in latents; 0: no clip yet */
    int32_t started; /* the first latent frame went through */
    int32_t failed;
    /* What each level works on, in its own pixels, and behind the last one what comes out of it. */
    vae_window windows[VAE_MAX_LEVELS + 1];
} vae_side;

struct imagine__vae_coder {
    const imagine__vae_model *vae;
    imagine__work *work;
    imagine__wtype type; /* of what norms and convolutions leave each other: imagine__activations() */
    int32_t reserved;
    vae_cache *caches; /* vae->slots */
    vae_frame *spare;
    vae_side encode, decode;
    int32_t picture; /* a clip of one frame: nothing is remembered */
    int32_t made; /* frames made by the decoding under way */
    float *out; /* where the next one goes */
    float *middle; /* encoding: what goes into the middle, [height, width, channels] of the whole latent frame */
};

float *vae_frame_data(vae_frame *frame);
/* A frame of `count` values to be filled, which stays until it is forgotten or moves on; NULL: out of memory (*error is
 * filled). vae_input: the frame that goes into `conv` next, of f32 or bf16. */
float *vae_hold(imagine__vae_coder *coder, int32_t slot, int64_t count, imagine_error *error);
float *vae_input(imagine__vae_coder *coder, const vae_conv *conv, imagine__wtype type, int64_t count, imagine_error *error);
/* Moves the frames of `conv` on by one: now becomes the newest one. */
void vae_advance(imagine__vae_coder *coder, const vae_conv *conv);
void vae_forget(imagine__vae_coder *coder, vae_frame **frame);
/* Temporary memory of `count` values; NULL: out of memory (*error is filled). */
float *vae_floats(imagine__vae_coder *coder, int64_t count, imagine_error *error);
/* Before a call: fixes or checks the clip's size. `height` and `width` in latents. */
imagine_status vae_begin(imagine__vae_coder *coder, vae_side *side, int32_t height, int32_t width,
                         imagine_error *error);
/* Forgets all frames and gives their memory back. */
void vae_drop_caches(imagine__vae_coder *coder);
/* Fills in what the levels of `side` work on for `tile` (tiles.c). */
void vae_windows(const imagine__vae_model *vae, vae_side *side, int encoding, const imagine__vae_tile *tile);

/* ---- layers (layers.c) ----------------------------------------------------------------------------------------- */

/* The size of what goes through a layer. */
typedef struct vae_size {
    int64_t height, width;
} vae_size;

/* The input of `conv` (vae_input, of f32) and its forerunners to y; y may be `add`. Then moves the cache on. */
void vae_run_conv(imagine__vae_coder *coder, const vae_conv *conv, vae_size size, const float *add, float *y);
/* x [pixels, k] to y [pixels, n], `add` as in linear(). */
void vae_run_linear(imagine__vae_coder *coder, const imagine__linear_weight *w, int64_t pixels, const float *x,
                    const float *add, float *y);
/* *x becomes the block's output: either the same memory or new temporary memory, or `out` where that is not NULL
 * (which then must have room for it). */
imagine_status vae_run_residual(imagine__vae_coder *coder, const vae_residual *block, vae_size size, float **x,
                                float *out, imagine_error *error);
/* In place. */
imagine_status vae_run_middle(imagine__vae_coder *coder, const vae_middle *middle, int32_t channels, vae_size size,
                              float *x, imagine_error *error);
/* Norm, SiLU, conv_out: x [from] to y [to], both within the same picture. */
imagine_status vae_run_head(imagine__vae_coder *coder, const vae_half *half, const vae_window *from, const vae_window *to,
                            const float *x, float *y, imagine_error *error);

#endif
