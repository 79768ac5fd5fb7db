/* SPDX-License-Identifier: MIT */

#include "vae/internal.h"

static imagine_status encode_level(imagine__vae_coder *coder, int32_t number, vae_size size, float *x,
                                   imagine_error *error);

/* Half the height and width. The zeros are to the right and below: pads of 0 and an output that reads one beyond. */
static void halve(imagine__vae_coder *coder, const imagine__conv_weight *w, vae_size size, const float *x, float *y)
{
    imagine__conv_args args = {
        .w = w, .x = &x, .y = y,
        .height = size.height, .width = size.width, .out_h = size.height / 2, .out_w = size.width / 2,
        .ldx = w->cin, .ldy = w->cout, .stride_h = 2, .stride_w = 2, .upsample = 1,
    };
    coder->work->run.kernels->conv(&coder->work->run, &args);
}

/* Two frames become one, with the last of the two before: x[0] x[1] | x[2] gives one for every second frame. The first
 * frame of the clip goes through as it is. *ready tells whether y holds a frame. */
static imagine_status halve_time(imagine__vae_coder *coder, const vae_level *level, vae_size size, const float *x,
                                 float *y, int *ready, imagine_error *error)
{
    vae_size half = { size.height / 2, size.width / 2 };
    int64_t count = half.height * half.width * level->channels;
    vae_cache *cache = &coder->caches[level->time.slot];
    float *input = vae_input(coder, &level->time, count, error);
    if (!input)
        return IMAGINE_ERROR_NO_MEMORY;
    halve(coder, &level->space, size, x, input);
    *ready = 1;
    if (!coder->encode.started) {
        imagine__copy(coder->work->context, y, 0, input, 0, (size_t)count * sizeof(float), 1);
        vae_advance(coder, &level->time);
    } else if (!cache->last[0]) {
        vae_advance(coder, &level->time);
        *ready = 0;
    } else {
        vae_run_conv(coder, &level->time, half, NULL, y);
        vae_forget(coder, &cache->last[0]);
    }
    return IMAGINE_OK;
}

static imagine_status shrink(imagine__vae_coder *coder, int32_t number, vae_size size, const float *x,
                             imagine_error *error)
{
    const vae_level *level = &coder->vae->encoder.levels[number];
    vae_size half = { size.height / 2, size.width / 2 };
    int ready = 1;
    float *y = vae_floats(coder, half.height * half.width * level->channels, error);
    if (!y)
        return IMAGINE_ERROR_NO_MEMORY;
    if (level->resample == VAE_SPACE_TIME) {
        imagine_status status = halve_time(coder, level, size, x, y, &ready, error);
        if (status < 0)
            return status;
    } else {
        halve(coder, &level->space, size, x, y);
    }
    imagine_status status = imagine__work_check(coder->work, error);
    return status < 0 || !ready ? status : encode_level(coder, number + 1, half, y, error);
}

/* The means, normalised, as planes; the variances are left out. */
static imagine_status leave(imagine__vae_coder *coder, const float *x, vae_size size, imagine_error *error)
{
    const imagine__vae_config *c = &coder->vae->config;
    int64_t pixels = size.height * size.width, z = c->z_dim;
    float *moments = vae_floats(coder, pixels * 2 * z, error);
    float *quantised = moments ? vae_floats(coder, pixels * 2 * z, error) : NULL;
    if (!quantised)
        return IMAGINE_ERROR_NO_MEMORY;
    imagine_status status = vae_run_head(coder, &coder->vae->encoder, coder->vae->encoder.channels_mid, size, x,
                                         moments,
                                         error);
    if (status < 0)
        return status;
    vae_run_linear(coder, &coder->vae->encoder.quant, pixels, moments, NULL, quantised);
    for (int64_t i = 0; i < z && !imagine__planning(coder->work->context); i++)
        for (int64_t p = 0; p < pixels; p++)
            coder->out[i * pixels + p] = (quantised[p * 2 * z + i] - c->mean[i]) / c->std[i];
    coder->made++;
    return imagine__work_check(coder->work, error);
}

static imagine_status encode_level(imagine__vae_coder *coder, int32_t number, vae_size size, float *x,
                                   imagine_error *error)
{
    const vae_half *half = &coder->vae->encoder;
    const vae_level *level = &half->levels[number];
    imagine_status status = IMAGINE_OK;

    for (int32_t i = 0; i < level->count && status >= 0; i++)
        status = vae_run_residual(coder, &level->blocks[i], size, &x, NULL, error);
    if (status < 0)
        return status;
    if (level->resample != VAE_KEEP)
        return shrink(coder, number, size, x, error);
    status = vae_run_middle(coder, &half->middle, half->channels_mid, size, x, error);
    return status < 0 ? status : leave(coder, x, size, error);
}

static imagine_status encode_frame(imagine__vae_coder *coder, const float *in, vae_size size, imagine_error *error)
{
    const vae_half *half = &coder->vae->encoder;
    int64_t pixels = size.height * size.width;
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    float *input = vae_input(coder, &half->conv_in, pixels * 3, error);
    float *x = input ? vae_floats(coder, pixels * half->conv_in.w.cout, error) : NULL;
    if (!x)
        return IMAGINE_ERROR_NO_MEMORY;
    imagine__copy(coder->work->context, input, 0, in, 0, (size_t)pixels * 3 * sizeof(float), 1);
    vae_run_conv(coder, &half->conv_in, size, NULL, x);
    imagine_status status = encode_level(coder, 0, size, x, error);
    imagine__arena_restore(coder->work->arena, mark);
    return status;
}

imagine_status imagine__vae_encode_frames(imagine__vae_coder *coder, const float *in, int32_t height, int32_t width,
                                          float *latent, imagine_error *error)
{
    const imagine__vae_config *c = &coder->vae->config;
    if (height % c->spatial_factor || width % c->spatial_factor)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "frames of %d x %d (height x width): both must be "
                             "multiples of %d", (int)height, (int)width, (int)c->spatial_factor);
    imagine_status status = vae_begin(coder, &coder->encode, height / c->spatial_factor, width / c->spatial_factor,
                                      error);
    if (status < 0)
        return status;
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    int32_t frames = coder->encode.started ? c->temporal_factor : 1;
    coder->out = latent;
    coder->made = 0;
    for (int32_t i = 0; i < frames && status >= 0; i++)
        status = encode_frame(coder, in + (int64_t)i * height * width * 3, (vae_size){ height, width }, error);
    imagine__arena_restore(coder->work->arena, mark);
    coder->encode.started = 1;
    coder->encode.failed = status < 0;
    return status;
}
