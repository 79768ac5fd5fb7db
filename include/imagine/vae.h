/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_VAE_H
#define IMAGINE_VAE_H

#include "buffer.h"
#include "model.h"

/* The visual tokenizer: frames to latents and back. One thread at a time; many handles at once on one model. It is
 * causal in time and codes one latent frame at a time, so a clip may come in pieces: latents may be decoded as the
 * sampler or a network delivers them, with memory that does not grow with the clip's length. */
typedef struct imagine_vae imagine_vae;

#define IMAGINE_VAE_WHOLE 0
#define IMAGINE_VAE_TILE_AUTO (-1)

/* Tiles need less memory: most of what coding holds is a cache of frames for every layer, and with tiles only one tile's
 * caches are held at a time. imagine_vae_encode and imagine_vae_decode give the same bytes with and without (with
 * IMAGINE_PRECISION_BF16: near each other). A tile is computed with a margin of what it depends on, so small tiles take
 * longer. Clips in pieces (imagine_vae_decode_next, imagine_vae_encode_next) take no tiles: the caches of all would have to
 * be held. */
typedef struct imagine_vae_options {
    uint32_t struct_size;
    uint32_t reserved0;
    imagine_cancel *cancel; /* NULL, or a token that the handle retains */
    /* At most so many pixels along a side, in steps of the spatial factor and never below one of them. IMAGINE_VAE_WHOLE
     * (default): the whole side.
     * IMAGINE_VAE_TILE_AUTO: whole if that fits the context's memory limit, else as large as does; without a limit
     * whole. */
    int32_t tile_width, tile_height;
} imagine_vae_options;

#ifdef __cplusplus
extern "C" {
#endif

/* Fills in the defaults. `size` is the caller's sizeof(imagine_vae_options). */
IMAGINE_API void imagine_vae_options_init(imagine_vae_options *options, size_t size);

/* Reads the weights. `options` may be NULL. */
IMAGINE_API imagine_status imagine_vae_create(imagine_vae **vae, imagine_model *model,
                                              const imagine_vae_options *options, imagine_error *error);

/* Frees the handle and sets the pointer to NULL; NULL and a pointer to NULL are fine. Not while a call with it is under way. */
IMAGINE_API void imagine_vae_destroy(imagine_vae **vae);

/* Frames, F32 [3, frames, height, width] in [-1, 1] or U8 [frames, height, width, 3], with frames = t*k+1 (t and s:
 * temporal_factor and spatial_factor of imagine_model_info) and sizes that s divides, to latents F32 [channels, k+1,
 * height/s, width/s]: the mean of the encoder's distribution, normalised per channel as the DiT sees them. The caller
 * releases *latents. Forgets clips begun by imagine_vae_encode_next and imagine_vae_decode_next. */
IMAGINE_API imagine_status imagine_vae_encode(imagine_vae *vae, const imagine_buffer *frames, imagine_buffer **latents,
                                              imagine_error *error);

/* Latents F32 [channels, frames, height, width] as encode gives them to frames: `dtype` IMAGINE_F32 gives
 * [3, frames, height, width] clamped to [-1, 1], IMAGINE_U8 gives [frames, height, width, 3]. The caller releases
 * *frames. Forgets clips that come in pieces, as imagine_vae_encode does. */
IMAGINE_API imagine_status imagine_vae_decode(imagine_vae *vae, const imagine_buffer *latents, imagine_dtype dtype,
                                              imagine_buffer **frames, imagine_error *error);

/* The same for the next latent frames of a clip that comes in pieces; all pieces together are what one call gives, to the
 * byte. An argument that is refused changes nothing, and the clip goes on. After any other failure call imagine_vae_reset
 * before the clip is begun again: until then calls may fail with IMAGINE_ERROR_STATE. */
IMAGINE_API imagine_status imagine_vae_decode_next(imagine_vae *vae, const imagine_buffer *latents, imagine_dtype dtype,
                                                   imagine_buffer **frames, imagine_error *error);

/* The next frames of a clip that comes in pieces: t*k+1 the first time and t*k from then on (t = 1: any number). The
 * latents of all pieces are what one call gives, to the byte. Failures are as in imagine_vae_decode_next. A handle may have
 * one clip in pieces each way at a time; imagine_vae_reset ends both. */
IMAGINE_API imagine_status imagine_vae_encode_next(imagine_vae *vae, const imagine_buffer *frames,
                                                   imagine_buffer **latents, imagine_error *error);

/* Ends clips that come in pieces: the next imagine_vae_decode_next or imagine_vae_encode_next begins another. */
IMAGINE_API void imagine_vae_reset(imagine_vae *vae);

#ifdef __cplusplus
}
#endif
#endif
