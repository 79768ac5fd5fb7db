/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "vae/internal.h"

float *vae_frame_data(vae_frame *frame)
{
    return frame ? frame->values : NULL;
}

#define RING 3 /* frames that a convolution over time sees */

/* Frames that lie one behind the other in memory of their own; NULL: out of memory (*error is filled). */
static vae_frame *frames_make(imagine__vae_coder *coder, size_t count, size_t size, imagine_error *error)
{
    vae_frame *frames = imagine__calloc(coder->work->context, count, sizeof *frames);
    char *values = frames ? imagine__alloc_values(coder->work->context, count * size) : NULL;
    if (!values) {
        imagine__free(coder->work->context, frames);
        imagine__fail_memory_in(coder->work->context, error, count * size, "a frame of the VAE's feature cache");
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        frames[i].size = size;
        frames[i].values = (float *)(void *)(values + i * size);
        frames[i].in_ring = count > 1;
    }
    return frames;
}

static void frames_free(imagine__vae_coder *coder, vae_frame *frames)
{
    if (frames)
        imagine__free(coder->work->context, frames->values);
    imagine__free(coder->work->context, frames);
}

/* A frame that is no longer needed, if there is one of the size, or a new one. */
static vae_frame *frame_get(imagine__vae_coder *coder, size_t size, imagine_error *error)
{
    for (vae_frame **at = &coder->spare; *at; at = &(*at)->next) {
        vae_frame *frame = *at;
        if (frame->size == size) {
            *at = frame->next;
            return frame;
        }
    }
    return frames_make(coder, 1, size, error);
}

/* The frame of the cache's ring whose turn it is. */
static vae_frame *ring_get(imagine__vae_coder *coder, vae_cache *cache, size_t size, imagine_error *error)
{
    if (!cache->ring)
        cache->ring = frames_make(coder, RING, size, error);
    vae_frame *frame = cache->ring;
    while (frame && (frame == cache->last[0] || frame == cache->last[1]))
        frame++;
    return frame;
}

void vae_forget(imagine__vae_coder *coder, vae_frame **frame)
{
    if (*frame && !(*frame)->in_ring) {
        (*frame)->next = coder->spare;
        coder->spare = *frame;
    }
    *frame = NULL;
}

/* vae_begin has seen to it that sizes cannot overflow. */
float *vae_hold(imagine__vae_coder *coder, int32_t slot, int64_t count, imagine_error *error)
{
    vae_cache *cache = &coder->caches[slot];
    vae_forget(coder, &cache->now);
    cache->now = frame_get(coder, (size_t)count * sizeof(float), error);
    return vae_frame_data(cache->now);
}

float *vae_input(imagine__vae_coder *coder, const vae_conv *conv, imagine__wtype type, int64_t count, imagine_error *error)
{
    vae_cache *cache = &coder->caches[conv->slot];
    if (type == IMAGINE__W_F32)
        return vae_hold(coder, conv->slot, count, error);
    vae_forget(coder, &cache->now);
    size_t size = (size_t)count * sizeof(uint16_t);
    cache->now = coder->picture ? frame_get(coder, size, error) : ring_get(coder, cache, size, error);
    return vae_frame_data(cache->now);
}

void vae_advance(imagine__vae_coder *coder, const vae_conv *conv)
{
    vae_cache *cache = &coder->caches[conv->slot];
    if (coder->picture) {
        vae_forget(coder, &cache->now);
        return;
    }
    vae_forget(coder, &cache->last[0]);
    cache->last[0] = cache->last[1];
    cache->last[1] = cache->now;
    cache->now = NULL;
}

float *vae_floats(imagine__vae_coder *coder, int64_t count, imagine_error *error)
{
    float *floats = imagine__arena_floats(coder->work->arena, count);
    if (!floats)
        imagine__fail_memory_in(coder->work->context, error, (size_t)count * sizeof(float), "the VAE's activations");
    return floats;
}

/* The most values that one tensor of a clip of this size can have must be countable with room to spare; whether
 * there is memory for it is another question. */
static int fits(const imagine__vae_config *c, int32_t height, int32_t width)
{
    int32_t channels = 64;
    for (int32_t i = 0; i < c->levels; i++) {
        int32_t base = c->base_dim > c->decoder_base_dim ? c->base_dim : c->decoder_base_dim;
        channels = base * c->dim_mult[i] > channels ? base * c->dim_mult[i] : channels;
    }
    size_t values = 4 * (size_t)channels * sizeof(float);
    return imagine__mul_size(values, (size_t)c->spatial_factor * (size_t)c->spatial_factor, &values) &&
        imagine__mul_size(values, (size_t)height, &values) && imagine__mul_size(values, (size_t)width, &values) &&
        values <= PTRDIFF_MAX / 4;
}

imagine_status vae_begin(imagine__vae_coder *coder, vae_side *side, int32_t height, int32_t width, imagine_error *error)
{
    if (side->failed)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "this clip's coding failed before; begin the clip anew");
    if (height < 1 || width < 1)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "a latent frame of %d x %d (height x width)",
                             (int)height, (int)width);
    if (side->height && (side->height != height || side->width != width))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "a latent frame of %d x %d (height x width) "
                             "in a clip of %d x %d", (int)height, (int)width, (int)side->height, (int)side->width);
    if (coder->picture && side->started)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "a second frame for a clip of one frame");
    if (!fits(&coder->vae->config, height, width))
        return imagine__fail(error, IMAGINE_ERROR_NO_MEMORY, "a latent frame of %d x %d (height x width) is larger "
                             "than any memory", (int)height, (int)width);
    side->height = height;
    side->width = width;
    vae_windows(coder->vae, side, side == &coder->encode, &(imagine__vae_tile){ 0, 0, height, width });
    return IMAGINE_OK;
}

imagine_status imagine__vae_coder_create(imagine__vae_coder **coder, const imagine__vae_model *vae, imagine__work *work,
                                         imagine_error *error)
{
    *coder = NULL;
    imagine__vae_coder *made = imagine__calloc(work->context, 1, sizeof *made);
    if (!made)
        return imagine__fail_memory_in(work->context, error, sizeof *made, "a VAE coder");
    made->caches = imagine__calloc(work->context, (size_t)vae->slots, sizeof *made->caches);
    if (!made->caches) {
        imagine__free(work->context, made);
        return imagine__fail_memory_in(work->context, error, (size_t)vae->slots * sizeof *made->caches, "a VAE coder");
    }
    made->vae = vae;
    made->work = work;
    made->type = imagine__activations(work->context);
    *coder = made;
    return IMAGINE_OK;
}

void vae_drop_caches(imagine__vae_coder *coder)
{
    for (int32_t i = 0; i < coder->vae->slots; i++) {
        vae_cache *cache = &coder->caches[i];
        vae_forget(coder, &cache->last[0]);
        vae_forget(coder, &cache->last[1]);
        vae_forget(coder, &cache->now);
        frames_free(coder, cache->ring);
        cache->ring = NULL;
    }
    while (coder->spare) {
        vae_frame *next = coder->spare->next;
        frames_free(coder, coder->spare);
        coder->spare = next;
    }
}

void imagine__vae_coder_reset(imagine__vae_coder *coder)
{
    vae_drop_caches(coder);
    memset(&coder->encode, 0, sizeof coder->encode);
    memset(&coder->decode, 0, sizeof coder->decode);
    coder->picture = 0;
}

void imagine__vae_coder_fail(imagine__vae_coder *coder, int encoding)
{
    (encoding ? &coder->encode : &coder->decode)->failed = 1;
}

void imagine__vae_coder_picture(imagine__vae_coder *coder)
{
    imagine__vae_coder_reset(coder);
    coder->picture = 1;
}

void imagine__vae_coder_free(imagine__vae_coder *coder)
{
    if (!coder)
        return;
    imagine__vae_coder_reset(coder);
    imagine_context *context = coder->work->context;
    imagine__free(context, coder->caches);
    imagine__free(context, coder);
}
