/* SPDX-License-Identifier: MIT */

/* The visual tokenizer's handle: checks, layouts, and the loop over latent frames. Tensors of the API are planes of
 * channels over the whole clip; a coder works on one frame, channels last. */


#include "stage.h"
#include "vae/vae.h"

struct imagine_vae {
    imagine_model *model;
    imagine_context *context; /* the model's */
    imagine_cancel *cancel;
    imagine__vae_coder *coder;
    imagine__work work;
    const imagine__vae_config *config; /* the model's */
    int64_t height, width; /* of the clip begun by decode_next, in latents; 0: none */
    int64_t decoded; /* latent frames of it so far */
};

static const imagine_vae_options defaults = { .struct_size = sizeof(imagine_vae_options) };

void imagine_vae_options_init(imagine_vae_options *options, size_t size)
{
    imagine__init_options(options, size, &defaults, sizeof defaults);
}

imagine_status imagine_vae_create(imagine_vae **vae, imagine_model *model, const imagine_vae_options *options,
                                  imagine_error *error)
{
    imagine_vae_options o = defaults;
    const imagine__vae_model *weights;
    imagine_status status = imagine__need(vae, "vae", error);
    if (status < 0)
        return status;
    *vae = NULL;
    if ((status = imagine__need(model, "model", error)) < 0 ||
        (status = imagine__read_options(&o, sizeof o, options, "imagine_vae_options", error)) < 0 ||
        (status = imagine__check_process(imagine__model_context(model), error)) < 0)
        return status;
    if (o.reserved0)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "imagine_vae_options.reserved0: must be 0");
    imagine_context *context = imagine__model_context(model);
    imagine_vae *made = imagine__calloc(context, 1, sizeof *made);
    if (!made)
        return imagine__fail_memory(error, sizeof *made, "a VAE stage");
    made->model = imagine_model_retain(model);
    made->context = context;
    made->cancel = imagine_cancel_retain(o.cancel);
    if ((status = imagine__model_vae(model, &weights, made->cancel, error)) < 0 ||
        (status = imagine__work_init(&made->work, context, made->cancel, error)) < 0 ||
        (status = imagine__vae_coder_create(&made->coder, weights, &made->work, error)) < 0) {
        imagine_vae_destroy(&made);
        return status;
    }
    made->config = imagine__vae_get_config(weights);
    *vae = made;
    return IMAGINE_OK;
}

void imagine_vae_destroy(imagine_vae **vae)
{
    if (!vae || !*vae)
        return;
    imagine_vae *old = *vae;
    imagine_model *model = old->model;
    *vae = NULL;
    imagine__vae_coder_free(old->coder);
    imagine__work_fini(&old->work);
    imagine_cancel_release(&old->cancel);
    imagine__free(old->context, old);
    imagine_model_release(&model);
}

void imagine_vae_reset(imagine_vae *vae)
{
    if (!vae)
        return;
    imagine__vae_coder_reset(vae->coder);
    vae->height = vae->width = vae->decoded = 0;
}

/* Frame `frame` of planes[channels][frames][pixels] to out[pixels][channels], and back. */
static void gather(float *out, const float *planes, int64_t channels, int64_t frames, int64_t pixels, int64_t frame)
{
    for (int64_t c = 0; c < channels; c++) {
        const float *plane = planes + (c * frames + frame) * pixels;
        for (int64_t i = 0; i < pixels; i++)
            out[i * channels + c] = plane[i];
    }
}

static void scatter_clamped(float *planes, const float *in, int64_t channels, int64_t frames, int64_t pixels,
                            int64_t frame)
{
    for (int64_t c = 0; c < channels; c++) {
        float *plane = planes + (c * frames + frame) * pixels;
        for (int64_t i = 0; i < pixels; i++) {
            float x = in[i * channels + c];
            plane[i] = x < -1 ? -1 : x > 1 ? 1 : x;
        }
    }
}

/* Frame `frame` of [channels, frames, pixels] to or from a dense [channels, pixels]. */
static void slice(const imagine_vae *vae, float *out, const float *planes, int64_t channels, int64_t frames,
                  int64_t pixels, int64_t frame)
{
    size_t size = (size_t)pixels * sizeof *out;
    imagine__copy(vae->context, out, size, planes + frame * pixels, (size_t)frames * size, size, channels);
}

static void unslice(const imagine_vae *vae, float *planes, const float *in, int64_t channels, int64_t frames,
                    int64_t pixels, int64_t frame)
{
    size_t size = (size_t)pixels * sizeof *in;
    imagine__copy(vae->context, planes + frame * pixels, (size_t)frames * size, in, size, size, channels);
}

/* ---- encode ------------------------------------------------------------------------------------------------------ */

typedef struct clip {
    int64_t frames, height, width; /* in pixels */
    const float *planes; /* [3, frames, height, width], or NULL */
    const uint8_t *bytes; /* [frames, height, width, 3], or NULL */
} clip;

static imagine_status read_clip(const imagine_vae *vae, const imagine_buffer *frames, clip *in, imagine_error *error)
{
    imagine_status status = imagine__need(frames, "frames", error);
    if (status < 0)
        return status;
    int bytes = imagine__buffer_dtype(frames) == IMAGINE_U8;
    status = bytes ? imagine__need_tensor(frames, "frames", IMAGINE_U8, 4, "[frames, height, width, 3]", error)
                   : imagine__need_tensor(frames, "frames", IMAGINE_F32, 4,
                                          "[3, frames, height, width] (or u8 [frames, height, width, 3])", error);
    if (status < 0)
        return status;
    const int64_t *shape = imagine__buffer_shape(frames, NULL);
    in->frames = shape[bytes ? 0 : 1];
    in->height = shape[bytes ? 1 : 2];
    in->width = shape[bytes ? 2 : 3];
    in->planes = bytes ? NULL : imagine_buffer_data(frames);
    in->bytes = bytes ? imagine_buffer_data(frames) : NULL;
    if (shape[bytes ? 3 : 0] != 3)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "frames: %lld colour channels, must be 3",
                             (long long)shape[bytes ? 3 : 0]);
    if ((status = imagine__need_multiple(in->width, vae->config->spatial_factor, "frames: width", error)) < 0 ||
        (status = imagine__need_multiple(in->height, vae->config->spatial_factor, "frames: height", error)) < 0)
        return status;
    if (in->width > INT32_MAX || in->height > INT32_MAX)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "frames: larger than any picture");
    return imagine__need_frames(in->frames, vae->config->temporal_factor, "frames: their number", error);
}

/* `count` frames from `first`, channels last in [-1, 1]. */
static void read_frames(imagine_vae *vae, const clip *in, int64_t first, int64_t count, float *out)
{
    int64_t pixels = in->height * in->width;
    if (in->bytes) {
        vae->work.run.kernels->from_u8(&vae->work.run, in->bytes + first * pixels * 3, out, count * pixels * 3);
        return;
    }
    for (int64_t f = 0; f < count && !imagine__planning(vae->context); f++)
        gather(out + f * pixels * 3, in->planes, 3, in->frames, pixels, first + f);
}

static imagine_status encode_clip(imagine_vae *vae, const clip *in, float *latents, imagine_error *error)
{
    const imagine__vae_config *c = vae->config;
    int64_t factor = c->spatial_factor, pixels = in->height * in->width, area = pixels / (factor * factor);
    int64_t count = (in->frames - 1) / c->temporal_factor + 1;
    float *rgb = imagine__arena_floats(vae->work.arena, c->temporal_factor * pixels * 3);
    float *latent = imagine__arena_floats(vae->work.arena, c->z_dim * area);
    if (!rgb || !latent)
        return imagine__fail_memory(error, (size_t)(c->temporal_factor * pixels * 3) * sizeof *rgb, "frames to encode");
    for (int64_t k = 0, at = 0; k < count; k++) {
        int64_t frames = k ? c->temporal_factor : 1;
        read_frames(vae, in, at, frames, rgb);
        at += frames;
        imagine_status status = imagine__vae_encode_frames(vae->coder, rgb, (int32_t)in->height, (int32_t)in->width,
                                                           latent, error);
        if (status >= 0)
            status = imagine__work_check(&vae->work, error);
        if (status < 0)
            return status;
        if (!vae->work.run.kernels->finite(&vae->work.run, latent, c->z_dim * area))
            return imagine__fail(error, IMAGINE_ERROR_NOT_FINITE, "latent frame %lld of the encoded clip holds a NaN or "
                                 "an infinity; are all pixels finite?", (long long)k);
        unslice(vae, latents, latent, c->z_dim, count, area, k);
    }
    return IMAGINE_OK;
}

imagine_status imagine_vae_encode(imagine_vae *vae, const imagine_buffer *frames, imagine_buffer **latents,
                                  imagine_error *error)
{
    clip in;
    imagine_status status = imagine__need(latents, "latents", error);
    if (status < 0)
        return status;
    *latents = NULL;
    if ((status = imagine__need(vae, "vae", error)) < 0 ||
        (status = imagine__check_process(vae->context, error)) < 0 ||
        (status = read_clip(vae, frames, &in, error)) < 0)
        return status;
    int64_t factor = vae->config->spatial_factor;
    int64_t shape[] = { vae->config->z_dim, (in.frames - 1) / vae->config->temporal_factor + 1, in.height / factor,
                        in.width / factor };
    imagine_buffer *made;
    if ((status = imagine__buffer_new(&made, vae->context, IMAGINE_F32, 4, shape, error)) < 0)
        return status;
    imagine_vae_reset(vae);
    if (in.frames == 1)
        imagine__vae_coder_picture(vae->coder);
    imagine__arena_mark mark = imagine__arena_save(vae->work.arena);
    status = encode_clip(vae, &in, imagine_buffer_data(made), error);
    imagine__arena_restore(vae->work.arena, mark);
    imagine_vae_reset(vae);
    if (status < 0)
        imagine_buffer_release(&made);
    *latents = made;
    return status;
}

/* ---- decode ------------------------------------------------------------------------------------------------------ */

static imagine_status check_latents(const imagine_vae *vae, const imagine_buffer *latents, imagine_dtype dtype,
                                    imagine_error *error)
{
    imagine_status status = imagine__check_process(vae->context, error);
    if (status < 0 || (status = imagine__need_tensor(latents, "latents", IMAGINE_F32, 4,
                                                     "[channels, frames, height, width]", error)) < 0)
        return status;
    if (dtype != IMAGINE_F32 && dtype != IMAGINE_U8)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "dtype: frames come as f32 or u8, not %s",
                             imagine__dtype_name(dtype));
    const int64_t *shape = imagine__buffer_shape(latents, NULL);
    if (shape[0] != vae->config->z_dim)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "latents: %lld channels, the model's have %d",
                             (long long)shape[0], vae->config->z_dim);
    if (shape[2] > INT32_MAX / vae->config->spatial_factor || shape[3] > INT32_MAX / vae->config->spatial_factor)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "latents: larger than any picture");
    if (vae->height && (vae->height != shape[2] || vae->width != shape[3]))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "latents: %lldx%lld, but the clip began with %lldx%lld; imagine_vae_reset begins another",
                             (long long)shape[3], (long long)shape[2], (long long)vae->width, (long long)vae->height);
    return IMAGINE_OK;
}

/* Decodes one latent frame and puts its frames into `frames` from `at` on. */
static imagine_status decode_one(imagine_vae *vae, const imagine_buffer *latents, int64_t k, float *latent, float *rgb,
                                 imagine_buffer *frames, int64_t *at, imagine_error *error)
{
    const imagine__kernels *kernels = vae->work.run.kernels;
    const int64_t *in = imagine__buffer_shape(latents, NULL), *out = imagine__buffer_shape(frames, NULL);
    int bytes = imagine__buffer_dtype(frames) == IMAGINE_U8;
    int64_t pixels = in[2] * in[3] * vae->config->spatial_factor * vae->config->spatial_factor;
    int32_t count = 0;
    slice(vae, latent, imagine_buffer_data(latents), in[0], in[1], in[2] * in[3], k);
    imagine_status status =
        imagine__vae_decode_latent(vae->coder, latent, (int32_t)in[2], (int32_t)in[3], rgb, &count, error);
    if (status < 0 || (status = imagine__work_check(&vae->work, error)) < 0)
        return status;
    if (!kernels->finite(&vae->work.run, rgb, count * pixels * 3)) {
        if ((status = imagine__work_check(&vae->work, error)) < 0)
            return status;
        return imagine__fail(error, IMAGINE_ERROR_NOT_FINITE,
                             "frame %lld of the decoded clip holds a NaN or an infinity; are all latents finite?",
                             (long long)*at);
    }
    if (bytes)
        kernels->to_u8(&vae->work.run, rgb, (uint8_t *)imagine_buffer_data(frames) + *at * pixels * 3,
                       count * pixels * 3);
    for (int32_t f = 0; f < count && !bytes && !imagine__planning(vae->context); f++)
        scatter_clamped(imagine_buffer_data(frames), rgb + f * pixels * 3, 3, out[1], pixels, *at + f);
    *at += count;
    return imagine__work_check(&vae->work, error);
}

/* The next latent frames of the clip at hand. */
static imagine_status decode(imagine_vae *vae, const imagine_buffer *latents, imagine_dtype dtype,
                             imagine_buffer **frames, imagine_error *error)
{
    const imagine__vae_config *c = vae->config;
    const int64_t *in = imagine__buffer_shape(latents, NULL);
    int64_t height = in[2] * c->spatial_factor, width = in[3] * c->spatial_factor;
    int64_t count = in[1] * c->temporal_factor - (vae->decoded ? 0 : c->temporal_factor - 1), at = 0;
    int64_t planes[] = { 3, count, height, width }, bytes[] = { count, height, width, 3 };
    imagine_buffer *made;
    imagine_status status =
        imagine__buffer_new(&made, vae->context, dtype, 4, dtype == IMAGINE_U8 ? bytes : planes, error);
    if (status < 0)
        return status;
    vae->height = in[2];
    vae->width = in[3];
    imagine__arena_mark mark = imagine__arena_save(vae->work.arena);
    float *latent = imagine__arena_floats(vae->work.arena, in[0] * in[2] * in[3]);
    float *rgb = imagine__arena_floats(vae->work.arena, c->temporal_factor * height * width * 3);
    if (!latent || !rgb)
        status = imagine__fail_memory(error, (size_t)(c->temporal_factor * height * width * 3) * sizeof *rgb,
                                      "decoded frames");
    for (int64_t k = 0; k < in[1] && status >= 0; k++) {
        status = decode_one(vae, latents, k, latent, rgb, made, &at, error);
        vae->decoded += status >= 0;
    }
    imagine__arena_restore(vae->work.arena, mark);
    if (status < 0)
        imagine_buffer_release(&made);
    *frames = made;
    return status;
}

imagine_status imagine_vae_decode(imagine_vae *vae, const imagine_buffer *latents, imagine_dtype dtype,
                                  imagine_buffer **frames, imagine_error *error)
{
    imagine_status status = imagine__need(frames, "frames", error);
    if (status < 0)
        return status;
    *frames = NULL;
    if ((status = imagine__need(vae, "vae", error)) < 0)
        return status;
    imagine_vae_reset(vae);
    if ((status = check_latents(vae, latents, dtype, error)) < 0)
        return status;
    if (imagine__buffer_shape(latents, NULL)[1] == 1)
        imagine__vae_coder_picture(vae->coder);
    status = decode(vae, latents, dtype, frames, error);
    imagine_vae_reset(vae);
    return status;
}

imagine_status imagine_vae_decode_next(imagine_vae *vae, const imagine_buffer *latents, imagine_dtype dtype,
                                       imagine_buffer **frames, imagine_error *error)
{
    imagine_status status = imagine__need(frames, "frames", error);
    if (status < 0)
        return status;
    *frames = NULL;
    if ((status = imagine__need(vae, "vae", error)) < 0 || (status = check_latents(vae, latents, dtype, error)) < 0)
        return status;
    return decode(vae, latents, dtype, frames, error);
}
