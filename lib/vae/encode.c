/* SPDX-License-Identifier: MIT */

#include "vae/internal.h"

static imagine_status encode_level(imagine__vae_coder *coder, int32_t number, float *x, imagine_error *error);

/* A level on its way: what goes into it, and into its shortcut. */
typedef struct way {
    int32_t number, reserved;
    const float *entered; /* NULL: no shortcut */
} way;

/* Half the height and width, `add` too. The zeros are to the right and below: pads of 0 and an output that reads one
 * beyond. */
static void halve(imagine__vae_coder *coder, int32_t number, const float *x, const float *add, float *y)
{
    const imagine__conv_weight *w = &coder->vae->encoder.levels[number].space;
    const vae_window *from = &coder->encode.windows[number], *to = from + 1;
    imagine__conv_args args = {
        .w = w, .x = &x, .y = y, .add = add,
        .height = from->height, .width = from->width, .out_h = to->height, .out_w = to->width,
        .ldx = w->cin, .ldy = w->cout, .ld_add = w->cout, .stride_h = 2, .stride_w = 2,
        .pad_top = (int32_t)(from->y - 2 * to->y), .pad_left = (int32_t)(from->x - 2 * to->x), .upsample = 1,
    };
    coder->work->run.kernels->conv(&coder->work->run, &args);
}

/* What the shortcut makes of frame `frame` of `time` to y, added to what is there when `add`. The last level's is as
 * large as what came in. */
static void cut_short(imagine__vae_coder *coder, const way *w, int32_t time, int32_t frame, int add, float *y)
{
    const vae_level *level = &coder->vae->encoder.levels[w->number];
    int32_t space = level->resample == VAE_KEEP ? 1 : 2;
    const vae_window *from = &coder->encode.windows[w->number], *to = space == 1 ? from : from + 1;
    imagine__shortcut_args args = {
        .x = w->entered, .y = y, .height = from->height, .width = from->width, .in = level->in,
        .out_h = to->height, .out_w = to->width, .out = level->channels,
        .top = to->y * space - from->y, .left = to->x * space - from->x,
        .time = time, .frame = frame, .space = space, .add = add,
    };
    if (w->entered)
        coder->work->run.kernels->shortcut_down(&coder->work->run, &args);
}

/* The first of two frames, of which the shortcut's part is kept; the second comes to merge(). */
static imagine_status keep_first(imagine__vae_coder *coder, const way *w, int64_t count, imagine_error *error)
{
    const vae_level *level = &coder->vae->encoder.levels[w->number];
    float *part = w->entered ? vae_hold(coder, level->half_slot, count, error) : NULL;
    if (w->entered && !part)
        return IMAGINE_ERROR_NO_MEMORY;
    cut_short(coder, w, 2, 0, 0, part);
    vae_advance(coder, &level->time);
    return IMAGINE_OK;
}

static void merge(imagine__vae_coder *coder, const way *w, vae_size half, float *y)
{
    const vae_level *level = &coder->vae->encoder.levels[w->number];
    vae_frame **part = w->entered ? &coder->caches[level->half_slot].now : NULL;
    float *add = part ? vae_frame_data(*part) : NULL;
    cut_short(coder, w, 2, 1, 1, add);
    vae_run_conv(coder, &level->time, half, add, y);
    vae_forget(coder, &coder->caches[level->time.slot].last[0]);
    if (part)
        vae_forget(coder, part);
}

/* Two frames become one, with the last of the two before: x[0] x[1] | x[2] gives one for every second frame. The first
 * frame of the clip goes through as it is, and in the shortcut counts as the second of two. *ready tells whether y
 * holds a frame. */
static imagine_status halve_time(imagine__vae_coder *coder, const way *w, const float *x, float *y, int *ready,
                                 imagine_error *error)
{
    const vae_level *level = &coder->vae->encoder.levels[w->number];
    const vae_window *to = &coder->encode.windows[w->number + 1];
    int64_t count = to->height * to->width * level->channels;
    float *input = vae_input(coder, &level->time, IMAGINE__W_F32, count, error);
    if (!input)
        return IMAGINE_ERROR_NO_MEMORY;
    halve(coder, w->number, x, NULL, input);
    *ready = 1;
    if (!coder->encode.started) {
        imagine__copy(coder->work, y, 0, input, 0, (size_t)count * sizeof(float), 1);
        cut_short(coder, w, 2, 1, 1, y);
        vae_advance(coder, &level->time);
    } else if (!coder->caches[level->time.slot].last[0]) {
        *ready = 0;
        return keep_first(coder, w, count, error);
    } else {
        merge(coder, w, (vae_size){ to->height, to->width }, y);
    }
    return IMAGINE_OK;
}

static imagine_status shrink(imagine__vae_coder *coder, const way *w, const float *x, imagine_error *error)
{
    const vae_level *level = &coder->vae->encoder.levels[w->number];
    const vae_window *to = &coder->encode.windows[w->number + 1];
    int ready = 1;
    float *y = vae_floats(coder, to->height * to->width * level->channels, error);
    if (!y)
        return IMAGINE_ERROR_NO_MEMORY;
    if (level->resample == VAE_SPACE_TIME) {
        imagine_status status = halve_time(coder, w, x, y, &ready, error);
        if (status < 0)
            return status;
    } else {
        cut_short(coder, w, 1, 0, 0, y);
        halve(coder, w->number, x, w->entered ? y : NULL, y);
    }
    imagine_status status = imagine__work_check(coder->work, error);
    return status < 0 || !ready ? status : encode_level(coder, w->number + 1, y, error);
}

/* The last level's x to its place in the middle's input. */
static void deliver(imagine__vae_coder *coder, const way *w, float *x)
{
    const vae_level *level = &coder->vae->encoder.levels[w->number];
    const vae_window *from = &coder->encode.windows[w->number], *to = from + 1;
    int64_t c = level->channels, width = coder->encode.width;
    size_t pixel = (size_t)c * sizeof *x;
    imagine__copy(coder->work, coder->middle + (to->y * width + to->x) * c, (size_t)width * pixel,
                  x + ((to->y - from->y) * from->width + to->x - from->x) * c, (size_t)from->width * pixel,
                  (size_t)to->width * pixel, to->height);
}

static imagine_status encode_level(imagine__vae_coder *coder, int32_t number, float *x, imagine_error *error)
{
    const vae_level *level = &coder->vae->encoder.levels[number];
    const vae_window *window = &coder->encode.windows[number];
    vae_size size = { window->height, window->width };
    way w = { number, 0, level->shortcut ? x : NULL };
    imagine_status status = IMAGINE_OK;

    for (int32_t i = 0; i < level->count && status >= 0; i++) {
        float *out = NULL;
        /* What came in is needed again, so the first block must not put its output there. */
        if (!i && w.entered && !(out = vae_floats(coder, size.height * size.width * level->channels, error)))
            return IMAGINE_ERROR_NO_MEMORY;
        status = vae_run_residual(coder, &level->blocks[i], size, &x, out, error);
    }
    if (status < 0)
        return status;
    if (level->resample != VAE_KEEP)
        return shrink(coder, &w, x, error);
    cut_short(coder, &w, 1, 0, 1, x);
    deliver(coder, &w, x);
    return IMAGINE_OK;
}

/* The means, normalised, as planes on the host; the variances are left out. */
static imagine_status leave(imagine__vae_coder *coder, const float *x, vae_size size, float *latent,
                            imagine_error *error)
{
    const imagine__vae_config *c = &coder->vae->config;
    const vae_half *half = &coder->vae->encoder;
    vae_window whole = { 0, 0, size.height, size.width };
    int64_t pixels = size.height * size.width, z = c->z_dim;
    float *moments = vae_floats(coder, pixels * 2 * z, error);
    float *quantised = moments ? vae_floats(coder, pixels * 2 * z, error) : NULL;
    if (!quantised)
        return IMAGINE_ERROR_NO_MEMORY;
    imagine_status status = vae_run_head(coder, half, &whole, &whole, x, moments, error);
    if (status < 0)
        return status;
    vae_run_linear(coder, &half->quant, pixels, moments, NULL, quantised);
    size_t bytes = (size_t)(pixels * 2 * z) * sizeof *quantised;
    const float *means = imagine__borrow(coder->work, quantised, bytes, IMAGINE__READ);
    if (!means)
        return imagine__fail_memory_in(coder->work->context, error, bytes, "a latent frame");
    status = imagine__work_check(coder->work, error);
    for (int64_t i = 0; i < z && status >= 0 && !imagine__planning(coder->work->context); i++)
        for (int64_t p = 0; p < pixels; p++)
            latent[i * pixels + p] = (means[p * 2 * z + i] - c->mean[i]) / c->std[i];
    return status;
}

/* `in` [height, width, 3] within the first level's window, in pixels of the clip, to the input of conv_in. */
static void enter(const imagine__vae_coder *coder, const float *in, float *input)
{
    const vae_window *to = &coder->encode.windows[0];
    int64_t pixels = to->height * to->width;
    imagine__pixels_args args = { .x = in, .y = input, .height = to->height, .width = to->width,
                                  .patch = coder->vae->config.patch };
    if (args.patch == 1)
        imagine__copy(coder->work, input, 0, in, 0, (size_t)pixels * 3 * sizeof *in, 1);
    else
        coder->work->run.kernels->pixels(&coder->work->run, &args);
}

/* One frame, as far as coder->middle; of temporal_factor frames the last one gets there. */
static imagine_status encode_frame(imagine__vae_coder *coder, const float *in, imagine_error *error)
{
    const vae_half *half = &coder->vae->encoder;
    vae_size size = { coder->encode.windows[0].height, coder->encode.windows[0].width };
    int64_t pixels = size.height * size.width;
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    float *input = vae_input(coder, &half->conv_in, IMAGINE__W_F32, pixels * half->conv_in.w.cin, error);
    float *x = input ? vae_floats(coder, pixels * half->conv_in.w.cout, error) : NULL;
    if (!x)
        return IMAGINE_ERROR_NO_MEMORY;
    enter(coder, in, input);
    vae_run_conv(coder, &half->conv_in, size, NULL, x);
    imagine_status status = encode_level(coder, 0, x, error);
    imagine__arena_restore(coder->work->arena, mark);
    return status;
}

/* The next frames as far as `middle`. */
static imagine_status run_levels(imagine__vae_coder *coder, const float *in, float *middle, imagine_error *error)
{
    const imagine__vae_config *c = &coder->vae->config;
    const vae_window *window = &coder->encode.windows[0];
    int64_t frame = window->height * window->width * 3 * c->patch * c->patch;
    int32_t frames = coder->encode.started ? c->temporal_factor : 1;
    imagine_status status = IMAGINE_OK;
    coder->middle = middle;
    for (int32_t i = 0; i < frames && status >= 0; i++)
        status = encode_frame(coder, in + i * frame, error);
    return status;
}

/* `middle` to the latents. */
static imagine_status finish(imagine__vae_coder *coder, float *middle, float *latent, imagine_error *error)
{
    const vae_half *half = &coder->vae->encoder;
    vae_size size = { coder->encode.height, coder->encode.width };
    imagine_status status = vae_run_middle(coder, &half->middle, half->channels_mid, size, middle, error);
    return status < 0 ? status : leave(coder, middle, size, latent, error);
}

/* After a call: the clip goes on, or has failed. */
static imagine_status end(imagine__vae_coder *coder, imagine__arena_mark mark, imagine_status status)
{
    imagine__arena_restore(coder->work->arena, mark);
    coder->encode.started = 1;
    coder->encode.failed = status < 0;
    return status;
}

imagine_status imagine__vae_encode_frames(imagine__vae_coder *coder, const float *in, int32_t height, int32_t width,
                                          float *latent, imagine_error *error)
{
    int32_t factor = coder->vae->config.spatial_factor;
    if (height % factor || width % factor)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "frames of %d x %d (height x width): both must be "
                             "multiples of %d", (int)height, (int)width, (int)factor);
    height /= factor;
    width /= factor;
    imagine_status status = vae_begin(coder, &coder->encode, height, width, error);
    if (status < 0)
        return status;
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    float *middle = vae_floats(coder, (int64_t)height * width * coder->vae->encoder.channels_mid, error);
    status = middle ? run_levels(coder, in, middle, error) : IMAGINE_ERROR_NO_MEMORY;
    if (status >= 0)
        status = finish(coder, middle, latent, error);
    return end(coder, mark, status);
}

imagine_status imagine__vae_encode_tile(imagine__vae_coder *coder, const float *in, float *middle,
                                        imagine_error *error)
{
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    return end(coder, mark, run_levels(coder, in, middle, error));
}

imagine_status imagine__vae_encode_middle(imagine__vae_coder *coder, float *middle, float *latent,
                                          imagine_error *error)
{
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    return end(coder, mark, finish(coder, middle, latent, error));
}
