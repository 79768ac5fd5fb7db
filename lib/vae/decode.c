/* SPDX-License-Identifier: MIT */
#include "vae/internal.h"

static imagine_status decode_level(imagine__vae_coder *coder, int32_t number, vae_size size, float *x,
                                   imagine_error *error);

/* x [height, width, channels], ldx apart, twice as high and wide, then on to the next level. */
static imagine_status enlarge(imagine__vae_coder *coder, int32_t number, vae_size size, const float *x, int64_t ldx,
                              imagine_error *error)
{
    const imagine__conv_weight *w = &coder->vae->decoder.levels[number].space;
    vae_size twice = { 2 * size.height, 2 * size.width };
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    float *y = vae_floats(coder, twice.height * twice.width * w->cout, error);
    if (!y)
        return IMAGINE_ERROR_NO_MEMORY;
    imagine__conv_args args = {
        .w = w, .x = &x, .y = y,
        .height = size.height, .width = size.width, .out_h = twice.height, .out_w = twice.width,
        .ldx = ldx, .ldy = w->cout, .stride_h = 1, .stride_w = 1, .pad_top = 1, .pad_left = 1, .upsample = 2,
    };
    coder->work->run.kernels->conv(&coder->work->run, &args);
    imagine_status status = imagine__work_check(coder->work, error);
    if (status >= 0)
        status = decode_level(coder, number + 1, twice, y, error);
    imagine__arena_restore(coder->work->arena, mark);
    return status;
}

/* One frame becomes two: the input of the level's `time` convolution is filled. Its output holds the first frame's
 * channels, then the second's. */
static imagine_status enlarge_time(imagine__vae_coder *coder, int32_t number, vae_size size, imagine_error *error)
{
    const vae_level *level = &coder->vae->decoder.levels[number];
    int64_t c = level->channels;
    float *both = vae_floats(coder, size.height * size.width * 2 * c, error);
    if (!both)
        return IMAGINE_ERROR_NO_MEMORY;
    vae_run_conv(coder, &level->time, size, NULL, both);
    imagine_status status = enlarge(coder, number, size, both, 2 * c, error);
    return status < 0 ? status : enlarge(coder, number, size, both + c, 2 * c, error);
}

static imagine_status decode_level(imagine__vae_coder *coder, int32_t number, vae_size size, float *x,
                                   imagine_error *error)
{
    const vae_level *level = &coder->vae->decoder.levels[number];
    /* The clip's first frame stays one frame and is not seen by the time convolution either, whose cache begins with
     * zeros at the second latent frame. */
    int time = level->resample == VAE_SPACE_TIME && coder->decode.started;
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    imagine_status status = IMAGINE_OK;

    for (int32_t i = 0; i < level->count && status >= 0; i++) {
        float *out = NULL;
        if (time && i + 1 == level->count) {
            out = vae_input(coder, &level->time, size.height * size.width * level->channels, error);
            if (!out)
                status = IMAGINE_ERROR_NO_MEMORY;
        }
        if (status >= 0)
            status = vae_run_residual(coder, &level->blocks[i], size, &x, out, error);
    }
    if (status >= 0 && level->resample == VAE_KEEP) {
        status = vae_run_head(coder, &coder->vae->decoder, level->channels, size, x, coder->out, error);
        coder->out += size.height * size.width * 3;
        coder->made++;
    } else if (status >= 0) {
        status = time ? enlarge_time(coder, number, size, error)
                      : enlarge(coder, number, size, x, level->channels, error);
    }
    imagine__arena_restore(coder->work->arena, mark);
    return status;
}

/* Planes to pixels, back from the DiT's scale, and the 1x1x1 convolution into the input of conv_in. */
static imagine_status enter(imagine__vae_coder *coder, const float *latent, vae_size size, imagine_error *error)
{
    const imagine__vae_config *c = &coder->vae->config;
    int64_t pixels = size.height * size.width, z = c->z_dim;
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    float *scaled = vae_floats(coder, pixels * z, error);
    float *input = scaled ? vae_input(coder, &coder->vae->decoder.conv_in, pixels * z, error) : NULL;
    if (!input)
        return IMAGINE_ERROR_NO_MEMORY;
    for (int64_t p = 0; p < pixels && !imagine__planning(coder->work->context); p++)
        for (int64_t i = 0; i < z; i++)
            scaled[p * z + i] = latent[i * pixels + p] * c->std[i] + c->mean[i];
    vae_run_linear(coder, &coder->vae->decoder.quant, pixels, scaled, NULL, input);
    imagine__arena_restore(coder->work->arena, mark);
    return IMAGINE_OK;
}

static imagine_status decode_frame(imagine__vae_coder *coder, const float *latent, vae_size size, imagine_error *error)
{
    const vae_half *half = &coder->vae->decoder;
    imagine_status status = enter(coder, latent, size, error);
    if (status < 0)
        return status;
    float *x = vae_floats(coder, size.height * size.width * half->channels_mid, error);
    if (!x)
        return IMAGINE_ERROR_NO_MEMORY;
    vae_run_conv(coder, &half->conv_in, size, NULL, x);
    status = vae_run_middle(coder, &half->middle, half->channels_mid, size, x, error);
    return status < 0 ? status : decode_level(coder, 0, size, x, error);
}

imagine_status imagine__vae_decode_latent(imagine__vae_coder *coder, const float *latent, int32_t height, int32_t width,
                                          float *out, int32_t *count, imagine_error *error)
{
    imagine_status status = vae_begin(coder, &coder->decode, height, width, error);
    if (status < 0)
        return status;
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    coder->out = out;
    coder->made = 0;
    status = decode_frame(coder, latent, (vae_size){ height, width }, error);
    imagine__arena_restore(coder->work->arena, mark);
    coder->decode.started = 1;
    coder->decode.failed = status < 0;
    *count = status < 0 ? 0 : coder->made;
    return status;
}
