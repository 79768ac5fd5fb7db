/* SPDX-License-Identifier: MIT */

/* Clips, frame by frame or tile by tile. */

#include "vae/handle.h"

/* An area that is a frame's whole width lies in one piece. */
static int in_one_piece(const imagine__vae_tile *area, int64_t width)
{
    return area->width == width;
}

static size_t area_values(const imagine__vae_tile *area)
{
    return (size_t)area->height * (size_t)area->width * 3;
}

/* ---- encode ------------------------------------------------------------------------------------------------------ */

typedef struct gather_job {
    float *out;
    const vae_clip *in;
    int64_t frame;
    const imagine__vae_tile *area;
} gather_job;

/* A row of `area` of a frame of planes[3][frames][height][width] to out[y][x][3]. */
static void gather_row(void *arg, int64_t y, void *scratch)
{
    const gather_job *job = arg;
    const vae_clip *in = job->in;
    const imagine__vae_tile *area = job->area;
    (void)scratch;
    for (int64_t c = 0; c < 3; c++) {
        const float *row = in->planes + ((c * in->frames + job->frame) * in->height + area->y + y) * in->width + area->x;
        for (int64_t x = 0; x < area->width; x++)
            job->out[(y * area->width + x) * 3 + c] = row[x];
    }
}

static imagine_status gather(imagine_vae *vae, float *out, const vae_clip *in, int64_t frame,
                             const imagine__vae_tile *area, imagine_error *error)
{
    size_t size = area_values(area) * sizeof *out;
    imagine__arena_mark mark = imagine__arena_save(vae->work.arena);
    float *host = imagine__borrow(&vae->work, out, size, IMAGINE__WRITE);
    if (!host)
        return imagine__fail_memory_in(vae->context, error, size, "frames to encode");
    gather_job job = { host, in, frame, area };
    if (!imagine__planning(vae->context))
        imagine__parallel(&vae->work.run, area->height, gather_row, &job);
    imagine__return(&vae->work, out, host, size);
    imagine__arena_restore(vae->work.arena, mark);
    return imagine__work_check(&vae->work, error);
}

static imagine_status gather_bytes(imagine_vae *vae, float *out, const vae_clip *in, int64_t frame,
                                   const imagine__vae_tile *area, imagine_error *error)
{
    const uint8_t *from = in->bytes + ((frame * in->height + area->y) * in->width + area->x) * 3;
    size_t values = area_values(area), row = (size_t)area->width * 3;
    imagine__arena_mark mark = imagine__arena_save(vae->work.arena);
    if (!in_one_piece(area, in->width) || imagine__on_device(vae->context)) {
        uint8_t *piece = imagine__arena_alloc(vae->work.arena, values);
        if (!piece)
            return imagine__fail_memory_in(vae->context, error, values, "frames to encode");
        imagine__upload(&vae->work, piece, row, from, (size_t)in->width * 3, row, area->height);
        from = piece;
    }
    vae->work.run.kernels->from_u8(&vae->work.run, from, out, (int64_t)values);
    imagine__arena_restore(vae->work.arena, mark);
    return IMAGINE_OK;
}

/* `area` of `count` frames from `first`, channels last in [-1, 1]. */
static imagine_status read_frames(imagine_vae *vae, const vae_clip *in, int64_t first, int64_t count,
                                  const imagine__vae_tile *area, float *out, imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    for (int64_t f = 0; f < count && status >= 0; f++, out += area_values(area)) {
        status = in->bytes ? gather_bytes(vae, out, in, first + f, area, error)
                           : gather(vae, out, in, first + f, area, error);
    }
    return status;
}

/* Frames that make the next latent frame, which is the clip's `k`th. */
static int64_t frames_of(const imagine_vae *vae, int64_t k)
{
    return k ? vae->config->temporal_factor : 1;
}

static imagine_status keep_latent(imagine_vae *vae, const float *latent, int64_t k, imagine_buffer *latents,
                                  imagine_error *error)
{
    const int64_t *shape = imagine__buffer_shape(latents, NULL);
    int64_t area = shape[2] * shape[3];
    size_t size = (size_t)area * sizeof *latent;
    imagine_status status = imagine__work_check(&vae->work, error);
    if (status < 0)
        return status;
    if (!imagine__context_host_kernels(vae->context)->finite(&vae->work.run, latent, shape[0] * area))
        return imagine__fail(error, IMAGINE_ERROR_NOT_FINITE,
                             "latent frame %lld of the encoded clip holds a NaN or an infinity", (long long)k);
    imagine__copy_host(vae->context, (float *)imagine_buffer_data(latents) + k * area, (size_t)shape[1] * size, latent,
                       size, size, shape[0]);
    return IMAGINE_OK;
}

/* The arena's room for the frames of `area` that make one latent frame, at most. */
static float *room(imagine_vae *vae, const imagine__vae_tile *area, const char *what, imagine_error *error)
{
    int64_t count = vae->config->temporal_factor * (int64_t)area_values(area);
    float *floats = imagine__arena_floats(vae->work.arena, count);
    if (!floats)
        imagine__fail_memory_in(vae->context, error, (size_t)count * sizeof *floats, what);
    return floats;
}

static imagine_status encode_whole(imagine_vae *vae, const vae_clip *in, float *latent, imagine_buffer *latents,
                                   imagine_error *error)
{
    imagine__vae_tile all = { 0, 0, (int32_t)in->height, (int32_t)in->width };
    int64_t count = imagine__buffer_shape(latents, NULL)[1];
    float *rgb = room(vae, &all, "frames to encode", error);
    imagine_status status = rgb ? IMAGINE_OK : IMAGINE_ERROR_NO_MEMORY;
    for (int64_t k = 0, first = 0; k < count && status >= 0; k++) {
        int64_t frames = frames_of(vae, vae->encoded);
        status = read_frames(vae, in, first, frames, &all, rgb, error);
        if (status >= 0)
            status = imagine__vae_encode_frames(vae->coder, rgb, all.height, all.width, latent, error);
        if (status >= 0)
            status = keep_latent(vae, latent, k, latents, error);
        first += frames;
        vae->encoded += status >= 0;
    }
    return status;
}

/* Memory for what is between the middle and the levels, of all latent frames of [.., count, height, width]. */
static float *middle_room(imagine_vae *vae, int encoding, const int64_t *shape, int64_t *frame, imagine_error *error)
{
    size_t size = sizeof(float);
    *frame = shape[2] * shape[3] * imagine__vae_middle_channels(vae->coder, encoding);
    float *floats = imagine__mul_size(size, (size_t)*frame, &size) && imagine__mul_size(size, (size_t)shape[1], &size)
                        ? imagine__alloc_values(vae->context, size)
                        : NULL;
    if (!floats)
        imagine__fail_memory_in(vae->context, error, size, "the middle of the VAE, for a clip in tiles");
    return floats;
}

static int alike(const imagine_vae *vae, int encoding, const int64_t *shape, vae_grid grid, int32_t i, int32_t j)
{
    int32_t height = (int32_t)shape[2], width = (int32_t)shape[3];
    imagine__vae_tile a = imagine__vae_tile_at(height, width, grid.rows, grid.columns, i);
    imagine__vae_tile b = imagine__vae_tile_at(height, width, grid.rows, grid.columns, j);
    return imagine__vae_tiles_alike(vae->coder, encoding, height, width, &a, &b);
}

/* 1 if one before `number`, `step` numbers apart, is like it. */
static int seen(const imagine_vae *vae, int encoding, const int64_t *shape, vae_grid grid, int32_t number, int32_t step)
{
    int32_t i = number - step, first = number % step; /* like ones are near */
    while (i >= first && !alike(vae, encoding, shape, grid, i, number))
        i -= step;
    return i >= first;
}

/* The tile at `number`, or, while planning, the next that is like none before it: one whose row and column are like others needs nothing
 * that is not known. There are millions of tiles in a large picture, and a few dozen that differ. */
static int32_t next_tile(const imagine_vae *vae, int encoding, const int64_t *shape, vae_grid grid, int32_t number)
{
    int32_t count = grid.rows * grid.columns;
    while (imagine__planning(vae->context) && number < count) {
        int32_t column = number % grid.columns;
        if (!column && seen(vae, encoding, shape, grid, number, grid.columns))
            number += grid.columns;
        else if (column && seen(vae, encoding, shape, grid, column, 1))
            number++;
        else
            break;
    }
    return number;
}

static imagine_status encode_one_tile(imagine_vae *vae, const vae_clip *in, const int64_t *shape,
                                      const imagine__vae_tile *tile, float *middle, int64_t frame, imagine_error *error)
{
    imagine_status status =
        imagine__vae_coder_tile(vae->coder, 1, (int32_t)shape[2], (int32_t)shape[3], tile, error);
    if (status < 0)
        return status;
    imagine__vae_tile area = imagine__vae_tile_pixels(vae->coder);
    imagine__arena_mark mark = imagine__arena_save(vae->work.arena);
    float *rgb = room(vae, &area, "frames to encode", error);
    if (!rgb)
        status = IMAGINE_ERROR_NO_MEMORY;
    for (int64_t k = 0, first = 0; k < shape[1] && status >= 0; k++) {
        int64_t frames = frames_of(vae, k);
        status = read_frames(vae, in, first, frames, &area, rgb, error);
        if (status >= 0)
            status = imagine__vae_encode_tile(vae->coder, rgb, middle + k * frame, error);
        first += frames;
    }
    imagine__arena_restore(vae->work.arena, mark);
    return status;
}

static imagine_status encode_tiles(imagine_vae *vae, const vae_clip *in, vae_grid grid, float *latent,
                                   imagine_buffer *latents, imagine_error *error)
{
    const int64_t *shape = imagine__buffer_shape(latents, NULL);
    int32_t height = (int32_t)shape[2], width = (int32_t)shape[3];
    int64_t frame;
    float *middle = middle_room(vae, 1, shape, &frame, error);
    imagine_status status = middle ? IMAGINE_OK : IMAGINE_ERROR_NO_MEMORY;
    for (int32_t i = 0; (i = next_tile(vae, 1, shape, grid, i)) < grid.rows * grid.columns && status >= 0; i++) {
        imagine__vae_tile tile = imagine__vae_tile_at(height, width, grid.rows, grid.columns, i);
        status = encode_one_tile(vae, in, shape, &tile, middle, frame, error);
    }
    if (status >= 0)
        status = imagine__vae_coder_tile(vae->coder, 1, height, width, NULL, error);
    for (int64_t k = 0; k < shape[1] && status >= 0; k++) {
        status = imagine__vae_encode_middle(vae->coder, middle + k * frame, latent, error);
        if (status >= 0)
            status = keep_latent(vae, latent, k, latents, error);
    }
    imagine__free(vae->context, middle);
    return status;
}

imagine_status vae_encode_clip(imagine_vae *vae, const vae_clip *in, vae_grid grid, imagine_buffer *latents,
                               imagine_error *error)
{
    const int64_t *shape = imagine__buffer_shape(latents, NULL);
    int64_t count = shape[0] * shape[2] * shape[3];
    imagine_status status = IMAGINE_ERROR_NO_MEMORY;
    imagine__arena_mark mark = imagine__arena_save(vae->work.arena);
    float *latent = imagine__arena_host_floats(vae->work.arena, count);
    if (!latent)
        imagine__fail_memory_in(vae->context, error, (size_t)count * sizeof *latent, "a latent frame");
    else if (grid.rows * grid.columns == 1)
        status = encode_whole(vae, in, latent, latents, error);
    else
        status = encode_tiles(vae, in, grid, latent, latents, error);
    if (status < 0)
        imagine__vae_coder_fail(vae->coder, 1);
    imagine__arena_restore(vae->work.arena, mark);
    return status;
}

/* ---- decode ------------------------------------------------------------------------------------------------------ */

typedef struct scatter_job {
    const float *rgb;
    const imagine__vae_tile *area;
    imagine_buffer *frames;
    int64_t frame;
} scatter_job;

/* A row of rgb[y][x][3] on the host, clamped, to `area` of a frame of planes. */
static void scatter_row(void *arg, int64_t y, void *scratch)
{
    const scatter_job *job = arg;
    const imagine__vae_tile *area = job->area;
    const int64_t *shape = imagine__buffer_shape(job->frames, NULL);
    (void)scratch;
    for (int64_t c = 0; c < 3; c++) {
        float *row = (float *)imagine_buffer_data(job->frames) +
                     ((c * shape[1] + job->frame) * shape[2] + area->y + y) * shape[3] + area->x;
        for (int64_t x = 0; x < area->width; x++) {
            float value = job->rgb[(y * area->width + x) * 3 + c];
            row[x] = value < -1 ? -1 : value > 1 ? 1 : value;
        }
    }
}

static imagine_status scatter(imagine_vae *vae, float *rgb, const imagine__vae_tile *area, imagine_buffer *frames,
                              int64_t frame, imagine_error *error)
{
    size_t size = area_values(area) * sizeof *rgb;
    imagine__arena_mark mark = imagine__arena_save(vae->work.arena);
    const float *host = imagine__borrow(&vae->work, rgb, size, IMAGINE__READ);
    if (!host)
        return imagine__fail_memory_in(vae->context, error, size, "decoded frames");
    scatter_job job = { host, area, frames, frame };
    if (!imagine__planning(vae->context))
        imagine__parallel(&vae->work.run, area->height, scatter_row, &job);
    imagine__arena_restore(vae->work.arena, mark);
    return IMAGINE_OK;
}

static imagine_status scatter_bytes(imagine_vae *vae, const float *rgb, const imagine__vae_tile *area,
                                    imagine_buffer *frames, int64_t frame, imagine_error *error)
{
    const int64_t *shape = imagine__buffer_shape(frames, NULL);
    uint8_t *to = (uint8_t *)imagine_buffer_data(frames) + ((frame * shape[1] + area->y) * shape[2] + area->x) * 3;
    size_t values = area_values(area), row = (size_t)area->width * 3;
    imagine__arena_mark mark = imagine__arena_save(vae->work.arena);
    int direct = in_one_piece(area, shape[2]) && !imagine__on_device(vae->context);
    uint8_t *piece = direct ? to : imagine__arena_alloc(vae->work.arena, values);
    if (!piece)
        return imagine__fail_memory_in(vae->context, error, values, "decoded frames");
    vae->work.run.kernels->to_u8(&vae->work.run, rgb, piece, (int64_t)values);
    if (piece != to)
        imagine__download(&vae->work, to, (size_t)shape[2] * 3, piece, row, row, area->height);
    imagine__arena_restore(vae->work.arena, mark);
    return IMAGINE_OK;
}

/* Puts `count` frames' area into `frames` from *at on. */
static imagine_status keep_frames(imagine_vae *vae, float *rgb, int32_t count, const imagine__vae_tile *area,
                                  imagine_buffer *frames, int64_t *at, imagine_error *error)
{
    int64_t values = (int64_t)area_values(area);
    imagine_status status = imagine__work_check(&vae->work, error);
    if (status < 0)
        return status;
    if (!vae->work.run.kernels->finite(&vae->work.run, rgb, count * values)) {
        if ((status = imagine__work_check(&vae->work, error)) < 0)
            return status;
        int64_t number = vae->decoded ? (vae->decoded - 1) * vae->config->temporal_factor + 1 : *at;
        return imagine__fail(error, IMAGINE_ERROR_NOT_FINITE, "frame %lld of the decoded clip holds a NaN or an infinity",
                             (long long)number);
    }
    for (int32_t f = 0; f < count && status >= 0; f++, rgb += values, (*at)++) {
        status = imagine__buffer_dtype(frames) == IMAGINE_U8 ? scatter_bytes(vae, rgb, area, frames, *at, error)
                                                             : scatter(vae, rgb, area, frames, *at, error);
    }
    return status < 0 ? status : imagine__work_check(&vae->work, error);
}

/* Latent frame k of [channels, frames, height, width], dense, on the host. */
static void read_latent(imagine_vae *vae, const imagine_buffer *latents, int64_t k, float *latent)
{
    const int64_t *shape = imagine__buffer_shape(latents, NULL);
    int64_t area = shape[2] * shape[3];
    size_t size = (size_t)area * sizeof *latent;
    imagine__copy_host(vae->context, latent, size, (const float *)imagine_buffer_data(latents) + k * area,
                       (size_t)shape[1] * size, size, shape[0]);
}

static imagine_status decode_whole(imagine_vae *vae, const imagine_buffer *latents, float *latent,
                                   imagine_buffer *frames, imagine_error *error)
{
    const int64_t *in = imagine__buffer_shape(latents, NULL);
    int32_t height = (int32_t)in[2], width = (int32_t)in[3], factor = vae->config->spatial_factor, made = 0;
    imagine__vae_tile all = { 0, 0, height * factor, width * factor };
    float *rgb = room(vae, &all, "decoded frames", error);
    imagine_status status = rgb ? IMAGINE_OK : IMAGINE_ERROR_NO_MEMORY;
    for (int64_t k = 0, at = 0; k < in[1] && status >= 0; k++) {
        read_latent(vae, latents, k, latent);
        status = imagine__vae_decode_latent(vae->coder, latent, height, width, rgb, &made, error);
        if (status >= 0)
            status = keep_frames(vae, rgb, made, &all, frames, &at, error);
        vae->decoded += status >= 0;
    }
    return status;
}

static imagine_status decode_one_tile(imagine_vae *vae, const int64_t *in, const imagine__vae_tile *tile,
                                      const float *middle, int64_t frame, imagine_buffer *frames, imagine_error *error)
{
    int32_t factor = vae->config->spatial_factor, made = 0;
    imagine__vae_tile area = { tile->y * factor, tile->x * factor, tile->height * factor, tile->width * factor };
    imagine_status status = imagine__vae_coder_tile(vae->coder, 0, (int32_t)in[2], (int32_t)in[3], tile, error);
    imagine__arena_mark mark = imagine__arena_save(vae->work.arena);
    float *rgb = status >= 0 ? room(vae, &area, "decoded frames", error) : NULL;
    if (!rgb && status >= 0)
        status = IMAGINE_ERROR_NO_MEMORY;
    for (int64_t k = 0, at = 0; k < in[1] && status >= 0; k++) {
        status = imagine__vae_decode_tile(vae->coder, middle + k * frame, rgb, &made, error);
        if (status >= 0)
            status = keep_frames(vae, rgb, made, &area, frames, &at, error);
    }
    imagine__arena_restore(vae->work.arena, mark);
    return status;
}

static imagine_status decode_tiles(imagine_vae *vae, const imagine_buffer *latents, vae_grid grid, float *latent,
                                   imagine_buffer *frames, imagine_error *error)
{
    const int64_t *in = imagine__buffer_shape(latents, NULL);
    int32_t height = (int32_t)in[2], width = (int32_t)in[3];
    int64_t frame;
    float *middle = middle_room(vae, 0, in, &frame, error);
    imagine_status status = middle ? IMAGINE_OK : IMAGINE_ERROR_NO_MEMORY;
    for (int64_t k = 0; k < in[1] && status >= 0; k++) {
        read_latent(vae, latents, k, latent);
        status = imagine__vae_decode_middle(vae->coder, latent, height, width, middle + k * frame, error);
    }
    for (int32_t i = 0; (i = next_tile(vae, 0, in, grid, i)) < grid.rows * grid.columns && status >= 0; i++) {
        imagine__vae_tile tile = imagine__vae_tile_at(height, width, grid.rows, grid.columns, i);
        status = decode_one_tile(vae, in, &tile, middle, frame, frames, error);
    }
    imagine__free(vae->context, middle);
    return status;
}

imagine_status vae_decode_clip(imagine_vae *vae, const imagine_buffer *latents, vae_grid grid, imagine_buffer *frames,
                               imagine_error *error)
{
    const int64_t *in = imagine__buffer_shape(latents, NULL);
    int64_t count = in[0] * in[2] * in[3];
    imagine_status status = IMAGINE_ERROR_NO_MEMORY;
    imagine__arena_mark mark = imagine__arena_save(vae->work.arena);
    float *latent = imagine__arena_host_floats(vae->work.arena, count);
    if (!latent)
        imagine__fail_memory_in(vae->context, error, (size_t)count * sizeof *latent, "a latent frame");
    else if (grid.rows * grid.columns == 1)
        status = decode_whole(vae, latents, latent, frames, error);
    else
        status = decode_tiles(vae, latents, grid, latent, frames, error);
    if (status < 0)
        imagine__vae_coder_fail(vae->coder, 0);
    imagine__arena_restore(vae->work.arena, mark);
    return status;
}
