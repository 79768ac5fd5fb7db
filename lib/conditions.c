/* SPDX-License-Identifier: MIT */

/* Pictures and latents that a job begins with or keeps. docs/sampling.md tells what is made of which. */

#include "conditions.h"

#include <string.h>

/* Sizes of U8 [frames, height, width, channels], or of one picture without the first. 0: it is something else. */
static int picture_sizes(const imagine_buffer *pictures, int64_t sizes[4])
{
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(pictures, &ndim);
    if (imagine__buffer_dtype(pictures) != IMAGINE_U8 || (ndim != 3 && ndim != 4))
        return 0;
    sizes[0] = 1;
    memcpy(sizes + 4 - ndim, shape, (size_t)ndim * sizeof *shape);
    return sizes[0] > 0 && sizes[1] > 0 && sizes[2] > 0 && (sizes[3] == 3 || sizes[3] == 1);
}

static imagine_model_info factors(const imagine_model *model)
{
    imagine_model_info info = { .struct_size = sizeof info };
    imagine_model_get_info(model, &info, NULL);
    info.spatial_factor = info.spatial_factor ? info.spatial_factor : 8;
    info.temporal_factor = info.temporal_factor ? info.temporal_factor : 4;
    return info;
}

/* Frames, height and width of what the latents decode to; 0: they are no latents. */
static int latent_sizes(const imagine_buffer *latents, const imagine_model *model, int64_t sizes[4])
{
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(latents, &ndim);
    imagine_model_info info = factors(model);
    if (ndim != 4 || shape[1] < 1 || shape[1] > 1 << 20 || shape[2] > 1 << 16 || shape[3] > 1 << 16)
        return 0;
    sizes[0] = (shape[1] - 1) * info.temporal_factor + 1;
    sizes[1] = shape[2] * info.spatial_factor;
    sizes[2] = shape[3] * info.spatial_factor;
    return 1;
}

/* As many as there are to begin with; first_frames and last_frame are only a part of the clip. */
static void set_frames(const imagine_job_options *o, const imagine_model *model, imagine_sampler_options *sampler)
{
    int64_t sizes[4];
    int there = o->init_frames ? picture_sizes(o->init_frames, sizes)
                               : o->init_latents && latent_sizes(o->init_latents, model, sizes);
    if (!sampler->frames && there && sizes[0] <= 1 << 20)
        sampler->frames = (int32_t)sizes[0];
}

void imagine__conditions_sizes(const imagine_job_options *o, const imagine_model *model,
                               imagine_sampler_options *sampler)
{
    const imagine_buffer *pictures = o->init_frames    ? o->init_frames
                                     : o->first_frames ? o->first_frames
                                                       : o->last_frame;
    const imagine_buffer *latents = o->init_latents ? o->init_latents : o->known_latents;
    int64_t sizes[4];
    set_frames(o, model, sampler);
    if (!(pictures ? picture_sizes(pictures, sizes) : latents && latent_sizes(latents, model, sizes)))
        return;
    if (!sampler->height && sizes[1] <= 1 << 16)
        sampler->height = (int32_t)sizes[1];
    if (!sampler->width && sizes[2] <= 1 << 16)
        sampler->width = (int32_t)sizes[2];
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

static imagine_status check_pictures(const imagine_buffer *pictures, const char *name, int64_t width, int64_t height,
                                     int64_t *frames, int gray, imagine_error *error)
{
    int64_t sizes[4];
    if (!picture_sizes(pictures, sizes) || (sizes[3] == 1 && !gray)) {
        int32_t ndim;
        char has[160];
        const int64_t *shape = imagine__buffer_shape(pictures, &ndim);
        imagine__shape_text(has, sizeof has, ndim, shape);
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: is %s %s, must be u8 [frames, height, width, 3]%s",
                             name, imagine__dtype_name(imagine__buffer_dtype(pictures)), has,
                             gray ? " or [frames, height, width, 1]" : "");
    }
    if (sizes[2] != width || sizes[1] != height)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "%s: %lldx%lld pixels, but the clip is %lldx%lld; give pictures of that size, or the clip's "
                             "width and height",
                             name, (long long)sizes[2], (long long)sizes[1], (long long)width, (long long)height);
    *frames = sizes[0];
    return IMAGINE_OK;
}

/* F32 of the clip's latents; `batch`: or of a batch of 1; `fewer`: or of its first frames. The values are the sampler's to check. */
static imagine_status check_latents(const imagine__conditions *c, const imagine_buffer *latents, const char *name, int batch,
                                    int fewer, imagine_error *error)
{
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(latents, &ndim);
    int64_t wanted[] = { 1, c->latents[0], c->latents[1], c->latents[2], c->latents[3] };
    if (ndim == 4 || (ndim == 5 && batch)) {
        const int64_t *clip = shape + ndim - 4;
        wanted[1] = wanted[1] ? wanted[1] : clip[0]; /* without a VAE nothing here says how many */
        if (fewer && clip[1] > 0 && clip[1] < wanted[2])
            wanted[2] = clip[1];
        if (imagine__buffer_dtype(latents) == IMAGINE_F32 &&
            !memcmp(shape, wanted + 5 - ndim, (size_t)ndim * sizeof *shape))
            return IMAGINE_OK;
    }
    char has[160], must[160];
    imagine__shape_text(has, sizeof has, ndim, shape);
    imagine__shape_text(must, sizeof must, 4, wanted + 1);
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: is %s %s, must be f32 %s%s", name,
                         imagine__dtype_name(imagine__buffer_dtype(latents)), has, must,
                         fewer ? " or have fewer frames" : "");
}

static imagine_status check_init(const imagine__conditions *c, const imagine_job_options *o,
                                 const imagine_sampler_options *s, imagine_error *error)
{
    int64_t frames = 0;
    imagine_status status = IMAGINE_OK;
    if (o->init_latents && o->init_frames)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "init_frames: give these or init_latents, not both");
    if (s->strength < 1 && !o->init_latents && !o->init_frames)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "strength: is %g, but there are neither init_frames nor init_latents to begin with",
                             s->strength);
    if (o->init_frames)
        status = check_pictures(o->init_frames, "init_frames", s->width, s->height, &frames, 0, error);
    if (o->init_latents)
        status = check_latents(c, o->init_latents, "init_latents", !o->mask_frames, 0, error);
    if (status < 0 || !o->init_frames || frames == c->frames)
        return status;
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "init_frames: %lld frame%s, but the clip has %lld",
                         (long long)frames, frames == 1 ? "" : "s", (long long)c->frames);
}

static imagine_status check_mask(const imagine__conditions *c, const imagine_job_options *o,
                                 const imagine_sampler_options *s, imagine_error *error)
{
    int64_t frames = 0;
    if (!o->mask_frames)
        return IMAGINE_OK;
    if (!o->init_frames && !o->init_latents)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "mask_frames: there are neither init_frames nor init_latents that it could keep");
    imagine_status status = check_pictures(o->mask_frames, "mask_frames", s->width, s->height, &frames, 1, error);
    if (status < 0 || frames == 1 || frames == c->frames)
        return status;
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "mask_frames: %lld frames, must be 1 or %lld",
                         (long long)frames, (long long)c->frames);
}

/* The first frames and the last: something must be left to make. */
static imagine_status check_ends(const imagine__conditions *c, const imagine_job_options *o,
                                 const imagine_sampler_options *s, imagine_error *error)
{
    int64_t frames = 0, taken = 0;
    imagine_status status = IMAGINE_OK;
    if (o->first_frames) {
        status = check_pictures(o->first_frames, "first_frames", s->width, s->height, &frames, 0, error);
        if (status >= 0)
            status = imagine__need_frames(frames, c->temporal, "first_frames: their number", error);
        taken = (frames - 1) / c->temporal + 1;
    }
    if (status >= 0 && o->last_frame) {
        status = check_pictures(o->last_frame, "last_frame", s->width, s->height, &frames, 0, error);
        if (status >= 0 && frames != 1)
            status = imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "last_frame: %lld frames, must be 1",
                                   (long long)frames);
        taken++;
    }
    if (status >= 0 && taken >= c->latents[1])
        status = imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                               "%s: with %lld frame%s nothing of the clip is left to make; ask for more frames",
                               o->first_frames ? "first_frames" : "last_frame", (long long)c->frames, c->frames == 1 ? "" : "s");
    return status;
}

static imagine_status check_known(const imagine__conditions *c, const imagine_job_options *o, imagine_error *error)
{
    if (o->known_mask && !o->known_latents)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "known_mask: there are no known_latents with it");
    if (o->known_latents && (o->first_frames || o->last_frame || o->mask_frames))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "known_latents: give these, or first_frames, last_frame and mask_frames, not both");
    if (!o->known_latents)
        return IMAGINE_OK;
    imagine_status status = check_latents(c, o->known_latents, "known_latents", 0, !o->known_mask, error);
    return status < 0 || !o->known_mask ? status : imagine__check_known_mask(o->known_mask, c->latents, error);
}

/* What is looked at here and by the sampler lies on the host. */
static imagine_status take_all(imagine__conditions *c, const imagine_job_options *o, imagine_error *error)
{
    const struct {
        imagine_buffer **to, *from;
    } all[] = { { &c->init_latents, o->init_latents }, { &c->known_latents, o->known_latents },
                { &c->known_mask, o->known_mask },     { &c->first_frames, o->first_frames },
                { &c->last_frame, o->last_frame },     { &c->init_frames, o->init_frames },
                { &c->mask_frames, o->mask_frames } };
    imagine_status status = IMAGINE_OK;
    for (size_t i = 0; i < sizeof all / sizeof *all && status >= 0; i++)
        if (all[i].from)
            status = imagine__buffer_on_host(all[i].to, all[i].from, error);
    return status;
}

imagine_status imagine__conditions_take(imagine__conditions *c, const imagine_job_options *o,
                                        const imagine_model *model, const imagine_sampler_options *s,
                                        imagine_error *error)
{
    imagine_model_info info = factors(model);
    imagine_status status;
    c->frames = s->frames;
    c->spatial = info.spatial_factor;
    c->temporal = info.temporal_factor;
    c->latents[0] = info.latent_channels;
    c->latents[1] = (s->frames - 1) / c->temporal + 1;
    c->latents[2] = s->height / c->spatial;
    c->latents[3] = s->width / c->spatial;
    if ((status = check_known(c, o, error)) < 0 || (status = check_init(c, o, s, error)) < 0 ||
        (status = check_mask(c, o, s, error)) < 0 || (status = check_ends(c, o, s, error)) < 0)
        return status;
    return take_all(c, o, error);
}

int imagine__conditions_pictures(const imagine__conditions *c)
{
    return c->first_frames || c->last_frame || c->init_frames || c->mask_frames;
}

void imagine__conditions_release(imagine__conditions *c)
{
    imagine_buffer **all[] = { &c->init_latents, &c->known_latents, &c->known_mask, &c->first_frames,
                               &c->last_frame,   &c->init_frames,   &c->mask_frames };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        imagine_buffer_release(all[i]);
}

/* ---- pictures to latents ----------------------------------------------------------------------------------------- */

/* Latents of the pictures, each of them `times` times. */
static imagine_status encode(imagine_context *context, imagine_vae *vae, const imagine_buffer *pictures, int64_t times,
                             imagine_buffer **latents, imagine_error *error)
{
    int64_t sizes[4];
    imagine_buffer *clip;
    int32_t ndim;
    imagine__buffer_shape(pictures, &ndim);
    if (times == 1 && ndim == 4)
        return imagine_vae_encode(vae, pictures, latents, error);
    picture_sizes(pictures, sizes); /* one, or a few: soon copied */
    int64_t shape[] = { sizes[0] * times, sizes[1], sizes[2], sizes[3] };
    size_t size = (size_t)(sizes[1] * sizes[2] * sizes[3]);
    imagine_status status = imagine__buffer_new(&clip, context, IMAGINE_U8, 4, shape, error);
    if (status < 0)
        return status;
    for (int64_t i = 0; i < sizes[0]; i++)
        imagine__copy_host(context, (char *)imagine_buffer_data(clip) + (size_t)(i * times) * size, size,
                           (const char *)imagine_buffer_data(pictures) + (size_t)i * size, 0, size, times);
    status = imagine_vae_encode(vae, clip, latents, error);
    imagine_buffer_release(&clip);
    return status;
}

/* 1 where a byte of this rectangle is bright. */
static int is_bright(const uint8_t *from, int64_t row, int64_t rows, int64_t columns)
{
    for (int64_t y = 0; y < rows; y++)
        for (int64_t i = 0; i < columns; i++)
            if (from[y * row + i] >= 128)
                return 1;
    return 0;
}

/* The mask's value for every latent: known where all pixels that it stands for are dark. */
static imagine_status read_mask(const imagine__conditions *c, const imagine_cancel *cancel, float *mask, imagine_error *error)
{
    int64_t sizes[4], height = c->latents[2], width = c->latents[3];
    picture_sizes(c->mask_frames, sizes);
    const uint8_t *pixels = imagine_buffer_data(c->mask_frames);
    int64_t row = sizes[2] * sizes[3], side = c->spatial;
    for (int64_t i = 0; i < c->frames * height; i++) {
        int64_t frame = i / height, y = i % height;
        const uint8_t *from = pixels + ((sizes[0] > 1 ? frame * sizes[1] : 0) + y * side) * row;
        float *to = mask + ((frame + c->temporal - 1) / c->temporal * height + y) * width;
        if (imagine_cancel_fired(cancel))
            return imagine__fail(error, IMAGINE_ERROR_CANCELLED, "cancelled while the mask was read");
        for (int64_t x = 0; x < width; x++)
            if (to[x] != 0 && is_bright(from + x * side * sizes[3], row, side, side * sizes[3]))
                to[x] = 0;
    }
    return IMAGINE_OK;
}

/* Known latents of nothing but what the mask keeps of the initial ones. */
static imagine_status begin_known(imagine__conditions *c, imagine_context *context, const imagine_cancel *cancel,
                                  imagine_error *error)
{
    int64_t values = c->latents[1] * c->latents[2] * c->latents[3];
    imagine_status status = imagine__buffer_new(&c->known_latents, context, IMAGINE_F32, 4, c->latents, error);
    if (status >= 0)
        status = imagine__buffer_new(&c->known_mask, context, IMAGINE_F32, 3, c->latents + 1, error);
    if (status < 0 || imagine__planning(context))
        return status;
    float *mask = imagine_buffer_data(c->known_mask);
    for (int64_t i = 0; i < values; i++)
        mask[i] = c->mask_frames != NULL;
    if (c->mask_frames) {
        if ((status = read_mask(c, cancel, mask, error)) < 0)
            return status;
        memcpy(imagine_buffer_data(c->known_latents), imagine_buffer_data(c->init_latents),
               imagine_buffer_size(c->known_latents));
    } else {
        memset(imagine_buffer_data(c->known_latents), 0, (size_t)imagine_buffer_size(c->known_latents));
    }
    return IMAGINE_OK;
}

/* Frames `from` and on of the latents become the known ones at frame `at` and on. */
static void place(imagine__conditions *c, imagine_context *context, const imagine_buffer *latents, int64_t from,
                  int64_t at)
{
    int64_t area = c->latents[2] * c->latents[3], has = imagine__buffer_shape(latents, NULL)[1], count = has - from;
    float *known = imagine_buffer_data(c->known_latents), *mask = imagine_buffer_data(c->known_mask);
    size_t frame = (size_t)area * sizeof *known;
    imagine__copy_host(context, known + at * area, (size_t)c->latents[1] * frame,
                       (const float *)imagine_buffer_data(latents) + from * area, (size_t)has * frame,
                       (size_t)count * frame, c->latents[0]);
    for (int64_t i = 0; i < count * area && !imagine__planning(context); i++)
        mask[at * area + i] = 1;
}

static imagine_status encode_ends(imagine__conditions *c, imagine_context *context, imagine_vae *vae,
                                  imagine_error *error)
{
    imagine_buffer *latents = NULL;
    imagine_status status = IMAGINE_OK;
    if (c->first_frames) {
        status = encode(context, vae, c->first_frames, 1, &latents, error);
        if (status >= 0)
            place(c, context, latents, 0, 0);
        imagine_buffer_release(&latents);
    }
    /* The last latent frame stands for several frames: the picture, standing still behind itself. */
    if (status >= 0 && c->last_frame) {
        status = encode(context, vae, c->last_frame, 1 + c->temporal, &latents, error);
        if (status >= 0)
            place(c, context, latents, 1, c->latents[1] - 1);
        imagine_buffer_release(&latents);
    }
    return status;
}

imagine_status imagine__conditions_encode(imagine__conditions *c, imagine_context *context, imagine_vae *vae,
                                          const imagine_cancel *cancel, imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    if (c->init_frames)
        status = encode(context, vae, c->init_frames, 1, &c->init_latents, error);
    if (status >= 0 && (c->first_frames || c->last_frame || c->mask_frames))
        status = begin_known(c, context, cancel, error);
    if (status >= 0)
        status = encode_ends(c, context, vae, error);
    imagine_buffer_release(&c->first_frames);
    imagine_buffer_release(&c->last_frame);
    imagine_buffer_release(&c->init_frames);
    imagine_buffer_release(&c->mask_frames);
    return status;
}
