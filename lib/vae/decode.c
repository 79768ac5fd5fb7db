/* SPDX-License-Identifier: MIT */
#include "vae/internal.h"

/* A level on its way: what goes into its shortcut, and which of the frames that it makes from one comes next. */
typedef struct way {
    int32_t number, time, frame, reserved; /* time: 2 where one frame becomes two */
    const float *entered; /* NULL: no shortcut */
} way;

static imagine_status decode_level(imagine__vae_coder *coder, int32_t number, float *x, imagine_error *error);

/* x [height, width, channels], ldx apart, twice as high and wide, then on to the next level. */
static imagine_status enlarge(imagine__vae_coder *coder, const way *w, const float *x, int64_t ldx,
                              imagine_error *error)
{
    const vae_level *level = &coder->vae->decoder.levels[w->number];
    const vae_window *from = &coder->decode.windows[w->number], *to = from + 1;
    int64_t top = to->y - 2 * from->y, left = to->x - 2 * from->x, out = level->space.cout;
    imagine__run *run = &coder->work->run;
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    float *y = vae_floats(coder, to->height * to->width * out, error);
    if (!y)
        return IMAGINE_ERROR_NO_MEMORY;
    if (w->entered) {
        imagine__shortcut_args shortcut = {
            .x = w->entered, .y = y, .height = from->height, .width = from->width, .in = level->in,
            .out_h = to->height, .out_w = to->width, .out = out, .top = top, .left = left,
            .time = w->time, .frame = w->frame, .space = 2,
        };
        run->kernels->shortcut_up(run, &shortcut);
    }
    imagine__conv_args args = {
        .w = &level->space, .x = &x, .y = y, .add = w->entered ? y : NULL,
        .height = from->height, .width = from->width, .out_h = to->height, .out_w = to->width,
        .ldx = ldx, .ldy = out, .ld_add = out, .stride_h = 1, .stride_w = 1,
        .pad_top = 1 - (int32_t)top, .pad_left = 1 - (int32_t)left, .upsample = 2,
    };
    run->kernels->conv(run, &args);
    imagine_status status = imagine__work_check(coder->work, error);
    if (status >= 0)
        status = decode_level(coder, w->number + 1, y, error);
    imagine__arena_restore(coder->work->arena, mark);
    return status;
}

/* One frame becomes two: the input of the level's `time` convolution is filled. Its output holds the first frame's
 * channels, then the second's. */
static imagine_status enlarge_time(imagine__vae_coder *coder, way *w, vae_size size, imagine_error *error)
{
    const vae_level *level = &coder->vae->decoder.levels[w->number];
    int64_t c = level->channels;
    float *both = vae_floats(coder, size.height * size.width * 2 * c, error);
    if (!both)
        return IMAGINE_ERROR_NO_MEMORY;
    vae_run_conv(coder, &level->time, size, NULL, both);
    imagine_status status = enlarge(coder, w, both, 2 * c, error);
    w->frame = 1;
    return status < 0 ? status : enlarge(coder, w, both + c, 2 * c, error);
}

/* The last level's x to pixels at coder->out, which moves on. */
static imagine_status show(imagine__vae_coder *coder, int32_t number, const float *x, imagine_error *error)
{
    const vae_half *half = &coder->vae->decoder;
    const vae_window *from = &coder->decode.windows[number], *to = from + 1;
    int64_t patch = coder->vae->config.patch, pixels = to->height * to->width;
    float *y = coder->out;
    if (patch > 1 && !(y = vae_floats(coder, pixels * half->conv_out.w.cout, error)))
        return IMAGINE_ERROR_NO_MEMORY;
    imagine_status status = vae_run_head(coder, half, from, to, x, y, error);
    if (patch > 1 && status >= 0) {
        imagine__pixels_args args = { .x = y, .y = coder->out, .height = to->height, .width = to->width,
                                      .patch = (int32_t)patch, .join = 1 };
        coder->work->run.kernels->pixels(&coder->work->run, &args);
    }
    coder->out += pixels * patch * patch * 3;
    coder->made++;
    return status;
}

/* Where block `i` of the level is to put its output; NULL: where it likes, which may be its input. */
static imagine_status place(imagine__vae_coder *coder, const vae_level *level, int32_t i, int time, vae_size size,
                            float **out, imagine_error *error)
{
    int64_t count = size.height * size.width * level->channels;
    *out = NULL;
    if (time && i + 1 == level->count)
        *out = vae_input(coder, &level->time, IMAGINE__W_F32, count, error);
    else if (!i && level->shortcut) /* what came in is needed again */
        *out = vae_floats(coder, count, error);
    else
        return IMAGINE_OK;
    return *out ? IMAGINE_OK : IMAGINE_ERROR_NO_MEMORY;
}

static imagine_status decode_level(imagine__vae_coder *coder, int32_t number, float *x, imagine_error *error)
{
    const vae_level *level = &coder->vae->decoder.levels[number];
    vae_size size = { coder->decode.windows[number].height, coder->decode.windows[number].width };
    /* The clip's first frame stays one frame and is not seen by the time convolution either, whose cache begins with
     * zeros at the second latent frame. In the shortcut it counts as the second of two. */
    int doubles = level->resample == VAE_SPACE_TIME, time = doubles && coder->decode.started;
    way w = { number, 1 + doubles, doubles && !time, 0, level->shortcut ? x : NULL };
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    imagine_status status = IMAGINE_OK;

    for (int32_t i = 0; i < level->count && status >= 0; i++) {
        float *out;
        status = place(coder, level, i, time, size, &out, error);
        if (status >= 0)
            status = vae_run_residual(coder, &level->blocks[i], size, &x, out, error);
    }
    if (status >= 0 && level->resample == VAE_KEEP)
        status = show(coder, number, x, error);
    else if (status >= 0)
        status = time ? enlarge_time(coder, &w, size, error) : enlarge(coder, &w, x, level->channels, error);
    imagine__arena_restore(coder->work->arena, mark);
    return status;
}

/* Planes on the host to pixels, back from the DiT's scale, and the 1x1x1 convolution into the input of conv_in. */
static imagine_status enter(imagine__vae_coder *coder, const float *latent, vae_size size, imagine_error *error)
{
    const imagine__vae_config *c = &coder->vae->config;
    int64_t pixels = size.height * size.width, z = c->z_dim;
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    size_t bytes = (size_t)(pixels * z) * sizeof(float);
    float *scaled = imagine__arena_host(coder->work->arena, bytes);
    float *input = scaled ? vae_input(coder, &coder->vae->decoder.conv_in, IMAGINE__W_F32, pixels * z, error) : NULL;
    for (int64_t p = 0; p < pixels && input && !imagine__planning(coder->work->context); p++)
        for (int64_t i = 0; i < z; i++)
            scaled[p * z + i] = latent[i * pixels + p] * c->std[i] + c->mean[i];
    const float *x = input ? imagine__lend(coder->work, scaled, bytes) : NULL;
    if (!x)
        return imagine__fail_memory_in(coder->work->context, error, bytes, "a latent frame");
    vae_run_linear(coder, &coder->vae->decoder.quant, pixels, x, NULL, input);
    imagine__arena_restore(coder->work->arena, mark);
    return IMAGINE_OK;
}

/* The latent frame up to the levels: `middle` of the whole picture. */
static imagine_status run_middle(imagine__vae_coder *coder, const float *latent, float *middle, imagine_error *error)
{
    const vae_half *half = &coder->vae->decoder;
    vae_size size = { coder->decode.height, coder->decode.width };
    imagine_status status = enter(coder, latent, size, error);
    if (status < 0)
        return status;
    vae_run_conv(coder, &half->conv_in, size, NULL, middle);
    return vae_run_middle(coder, &half->middle, half->channels_mid, size, middle, error);
}

int64_t imagine__vae_middle_channels(const imagine__vae_coder *coder, int encoding)
{
    return encoding ? coder->vae->encoder.channels_mid : coder->vae->decoder.channels_mid;
}

/* After a call: the clip goes on, or has failed. */
static imagine_status end(imagine__vae_coder *coder, imagine__arena_mark mark, imagine_status status)
{
    imagine__arena_restore(coder->work->arena, mark);
    coder->decode.started = 1;
    coder->decode.failed = status < 0;
    return status;
}

imagine_status imagine__vae_decode_latent(imagine__vae_coder *coder, const float *latent, int32_t height, int32_t width,
                                          float *out, int32_t *count, imagine_error *error)
{
    imagine_status status = vae_begin(coder, &coder->decode, height, width, error);
    if (status < 0)
        return status;
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    float *x = vae_floats(coder, (int64_t)height * width * coder->vae->decoder.channels_mid, error);
    coder->out = out;
    coder->made = 0;
    status = x ? run_middle(coder, latent, x, error) : IMAGINE_ERROR_NO_MEMORY;
    if (status >= 0)
        status = decode_level(coder, 0, x, error);
    *count = status < 0 ? 0 : coder->made;
    return end(coder, mark, status);
}

imagine_status imagine__vae_decode_middle(imagine__vae_coder *coder, const float *latent, int32_t height, int32_t width,
                                          float *middle, imagine_error *error)
{
    imagine_status status = vae_begin(coder, &coder->decode, height, width, error);
    if (status < 0)
        return status;
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    return end(coder, mark, run_middle(coder, latent, middle, error));
}

imagine_status imagine__vae_decode_tile(imagine__vae_coder *coder, const float *middle, float *out, int32_t *count,
                                        imagine_error *error)
{
    const vae_window *window = &coder->decode.windows[0];
    int64_t channels = coder->vae->decoder.channels_mid, width = coder->decode.width;
    size_t pixel = (size_t)channels * sizeof *middle;
    imagine_status status = IMAGINE_ERROR_NO_MEMORY;
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    float *x = vae_floats(coder, window->height * window->width * channels, error);
    coder->out = out;
    coder->made = 0;
    if (x) {
        imagine__copy(coder->work, x, (size_t)window->width * pixel,
                      middle + (window->y * width + window->x) * channels, (size_t)width * pixel,
                      (size_t)window->width * pixel, window->height);
        status = decode_level(coder, 0, x, error);
    }
    *count = status < 0 ? 0 : coder->made;
    return end(coder, mark, status);
}
