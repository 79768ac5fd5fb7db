/* SPDX-License-Identifier: MIT */

/* The visual tokenizer's handle: options, checks, and the buffers that come out. */

#include <stdio.h>

#include "vae/handle.h"

static const imagine_vae_options defaults = { .struct_size = sizeof(imagine_vae_options) };

void imagine_vae_options_init(imagine_vae_options *options, size_t size)
{
    imagine__init_options(options, size, &defaults, sizeof defaults);
}

imagine_status imagine_vae_create(imagine_vae **vae, imagine_model *model, const imagine_vae_options *options,
                                  imagine_error *error)
{
    IMAGINE__GUARD(imagine__model_context(model));
    imagine_vae_options o = defaults;
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
    if (o.tile_width < IMAGINE_VAE_TILE_AUTO || o.tile_height < IMAGINE_VAE_TILE_AUTO)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: %d is neither a size in pixels nor 0 (whole) "
                             "nor -1 (chosen)", o.tile_width < IMAGINE_VAE_TILE_AUTO ? "tile_width" : "tile_height",
                             o.tile_width < IMAGINE_VAE_TILE_AUTO ? o.tile_width : o.tile_height);
    imagine_context *context = imagine__model_context(model);
    imagine_vae *made = imagine__calloc(context, 1, sizeof *made);
    if (!made)
        return imagine__fail_memory_in(context, error, sizeof *made, "a VAE stage");
    made->model = imagine_model_retain(model);
    made->context = context;
    made->cancel = imagine_cancel_retain(o.cancel);
    if ((status = imagine__model_vae(model, &made->weights, made->cancel, error)) < 0 ||
        (status = imagine__work_init(&made->work, context, made->cancel, error)) < 0 ||
        (status = imagine__vae_coder_create(&made->coder, made->weights, &made->work, error)) < 0) {
        status = imagine__device_cause(context, status, error);
        imagine_vae_destroy(&made);
        return status;
    }
    made->config = imagine__vae_get_config(made->weights);
    made->tile_width = o.tile_width;
    made->tile_height = o.tile_height;
    *vae = made;
    return IMAGINE_OK;
}

void imagine_vae_destroy(imagine_vae **vae)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_AT(vae));
    if (!vae || !*vae)
        return;
    imagine_vae *old = *vae;
    imagine_model *model = old->model;
    *vae = NULL;
    imagine__vae_coder_free(old->coder);
    imagine__work_fini(&old->work);
    imagine__model_put(model, old->weights);
    imagine_cancel_release(&old->cancel);
    imagine__free(old->context, old);
    imagine_model_release(&model);
}

void imagine_vae_reset(imagine_vae *vae)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(vae));
    if (!vae)
        return;
    imagine__vae_coder_reset(vae->coder);
    vae->height = vae->width = vae->decoded = 0;
    vae->encode_height = vae->encode_width = vae->encoded = 0;
}

/* ---- encode ------------------------------------------------------------------------------------------------------ */

static imagine_status read_clip(const imagine_vae *vae, const imagine_buffer *frames, vae_clip *in,
                                imagine_error *error)
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
    if (vae->encoded)
        return imagine__need_multiple(in->frames, vae->config->temporal_factor, "frames: the number of those to follow",
                                      error);
    return imagine__need_frames(in->frames, vae->config->temporal_factor, "frames: their number", error);
}

/* After a result that is not finite: whether that comes from what was given, or from a weight. */
static imagine_status explain(imagine_vae *vae, const imagine_buffer *given, const char *name, imagine_error *error)
{
    char what[160] = "";
    if (error)
        snprintf(what, sizeof what, "%.159s", error->message);
    imagine_status status = imagine__buffer_dtype(given) == IMAGINE_F32
                                ? imagine__need_finite(&vae->work, given, name, error)
                                : IMAGINE_OK;
    return status < 0 ? status : imagine__fail_not_finite(vae->model, "vae", vae->cancel, error, "%s", what);
}

/* The next frames of the clip at hand. */
static imagine_status encode(imagine_vae *vae, const imagine_buffer *frames, const vae_clip *in, vae_grid grid,
                             imagine_buffer **latents, imagine_error *error)
{
    const imagine__vae_config *c = vae->config;
    int64_t count = vae->encoded ? in->frames / c->temporal_factor : (in->frames - 1) / c->temporal_factor + 1;
    int64_t shape[] = { c->z_dim, count, in->height / c->spatial_factor, in->width / c->spatial_factor };
    imagine_buffer *made;
    imagine_status status = imagine__buffer_new(&made, vae->context, IMAGINE_F32, 4, shape, error);
    if (status < 0)
        return status;
    vae->encode_height = in->height;
    vae->encode_width = in->width;
    status = vae_encode_clip(vae, in, grid, made, error);
    if (status == IMAGINE_ERROR_NOT_FINITE)
        status = explain(vae, frames, "frames", error);
    if (status < 0)
        imagine_buffer_release(&made);
    *latents = made;
    return status;
}

/* A whole clip of frames on the host. */
static imagine_status encode_clip(imagine_vae *vae, const imagine_buffer *frames, imagine_buffer **latents,
                                  imagine_error *error)
{
    vae_clip in;
    vae_grid grid;
    imagine_vae_reset(vae);
    imagine_status status = read_clip(vae, frames, &in, error);
    if (status < 0)
        return status;
    int64_t factor = vae->config->spatial_factor, count = (in.frames - 1) / vae->config->temporal_factor + 1;
    status = vae_choose_grid(vae, 1, IMAGINE_F32, count, in.height / factor, in.width / factor, &grid, error);
    if (status < 0)
        return status;
    if (count == 1)
        imagine__vae_coder_picture(vae->coder);
    status = encode(vae, frames, &in, grid, latents, error);
    imagine_vae_reset(vae);
    return status;
}

/* The next frames of a clip, on the host. */
static imagine_status encode_piece(imagine_vae *vae, const imagine_buffer *frames, imagine_buffer **latents,
                                   imagine_error *error)
{
    vae_clip in;
    imagine_status status = read_clip(vae, frames, &in, error);
    if (status < 0)
        return status;
    if (vae->encode_height && (vae->encode_height != in.height || vae->encode_width != in.width))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "frames: %lldx%lld, but the clip began with %lldx%lld; imagine_vae_reset begins another",
                             (long long)in.width, (long long)in.height, (long long)vae->encode_width,
                             (long long)vae->encode_height);
    return encode(vae, frames, &in, (vae_grid){ 1, 1 }, latents, error);
}

typedef imagine_status encode_fn(imagine_vae *vae, const imagine_buffer *frames, imagine_buffer **latents,
                                 imagine_error *error);

/* The same for frames that may lie anywhere. */
static imagine_status encode_any(encode_fn *fn, imagine_vae *vae, const imagine_buffer *frames,
                                 imagine_buffer **latents, imagine_error *error)
{
    imagine_buffer *on_host = NULL;
    imagine_status status = imagine__need(latents, "latents", error);
    if (status < 0)
        return status;
    *latents = NULL;
    if ((status = imagine__need(vae, "vae", error)) < 0 || (status = imagine__check_process(vae->context, error)) < 0 ||
        (frames && (status = imagine__buffer_on_host(&on_host, frames, error)) < 0))
        return status;
    status = imagine__device_cause(vae->context, fn(vae, on_host, latents, error), error);
    imagine_buffer_release(&on_host);
    return status;
}

imagine_status imagine_vae_encode(imagine_vae *vae, const imagine_buffer *frames, imagine_buffer **latents,
                                  imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(vae));
    return encode_any(encode_clip, vae, frames, latents, error);
}

imagine_status imagine_vae_encode_next(imagine_vae *vae, const imagine_buffer *frames, imagine_buffer **latents,
                                       imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(vae));
    return encode_any(encode_piece, vae, frames, latents, error);
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

/* The next latent frames of the clip at hand. */
static imagine_status decode(imagine_vae *vae, const imagine_buffer *latents, imagine_dtype dtype, vae_grid grid,
                             imagine_buffer **frames, imagine_error *error)
{
    const imagine__vae_config *c = vae->config;
    const int64_t *in = imagine__buffer_shape(latents, NULL);
    int64_t height = in[2] * c->spatial_factor, width = in[3] * c->spatial_factor;
    int64_t count = in[1] * c->temporal_factor - (vae->decoded ? 0 : c->temporal_factor - 1);
    int64_t planes[] = { 3, count, height, width }, bytes[] = { count, height, width, 3 };
    imagine_buffer *made;
    imagine_status status =
        imagine__buffer_new(&made, vae->context, dtype, 4, dtype == IMAGINE_U8 ? bytes : planes, error);
    if (status < 0)
        return status;
    vae->height = in[2];
    vae->width = in[3];
    status = vae_decode_clip(vae, latents, grid, made, error);
    if (status == IMAGINE_ERROR_NOT_FINITE)
        status = explain(vae, latents, "latents", error);
    if (status < 0)
        imagine_buffer_release(&made);
    *frames = made;
    return status;
}

/* A whole clip of latents on the host. */
static imagine_status decode_clip(imagine_vae *vae, const imagine_buffer *latents, imagine_dtype dtype,
                                  imagine_buffer **frames, imagine_error *error)
{
    vae_grid grid;
    imagine_status status;
    imagine_vae_reset(vae);
    if ((status = check_latents(vae, latents, dtype, error)) < 0)
        return status;
    const int64_t *in = imagine__buffer_shape(latents, NULL);
    if ((status = vae_choose_grid(vae, 0, dtype, in[1], in[2], in[3], &grid, error)) < 0)
        return status;
    if (in[1] == 1)
        imagine__vae_coder_picture(vae->coder);
    status = decode(vae, latents, dtype, grid, frames, error);
    imagine_vae_reset(vae);
    return status;
}

/* The next latents of a clip, on the host. */
static imagine_status decode_piece(imagine_vae *vae, const imagine_buffer *latents, imagine_dtype dtype,
                                   imagine_buffer **frames, imagine_error *error)
{
    imagine_status status = check_latents(vae, latents, dtype, error);
    return status < 0 ? status : decode(vae, latents, dtype, (vae_grid){ 1, 1 }, frames, error);
}

typedef imagine_status decode_fn(imagine_vae *vae, const imagine_buffer *latents, imagine_dtype dtype,
                                 imagine_buffer **frames, imagine_error *error);

/* The same for latents that may lie anywhere. */
static imagine_status decode_any(decode_fn *fn, imagine_vae *vae, const imagine_buffer *latents, imagine_dtype dtype,
                                 imagine_buffer **frames, imagine_error *error)
{
    imagine_buffer *on_host = NULL;
    imagine_status status = imagine__need(frames, "frames", error);
    if (status < 0)
        return status;
    *frames = NULL;
    if ((status = imagine__need(vae, "vae", error)) < 0 ||
        (latents && (status = imagine__buffer_on_host(&on_host, latents, error)) < 0))
        return status;
    status = imagine__device_cause(vae->context, fn(vae, on_host, dtype, frames, error), error);
    imagine_buffer_release(&on_host);
    return status;
}

imagine_status imagine_vae_decode(imagine_vae *vae, const imagine_buffer *latents, imagine_dtype dtype,
                                  imagine_buffer **frames, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(vae));
    return decode_any(decode_clip, vae, latents, dtype, frames, error);
}

imagine_status imagine_vae_decode_next(imagine_vae *vae, const imagine_buffer *latents, imagine_dtype dtype,
                                       imagine_buffer **frames, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(vae));
    return decode_any(decode_piece, vae, latents, dtype, frames, error);
}
