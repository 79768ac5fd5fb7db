/* SPDX-License-Identifier: MIT */

/* Latents that the caller gives: initial ones to begin with, and known ones to keep. */

#include <math.h>

#include "sampler/inside.h"

imagine_status imagine__check_latents(const imagine_buffer *buffer, const char *name, const int64_t latents[4], int32_t batch,
                                      int32_t leading, int allowed, imagine_error *error)
{
    int64_t wanted[IMAGINE_MAX_DIMS];
    int32_t ndim, all = 0;
    const int64_t *shape = imagine__buffer_shape(buffer, &ndim);
    if (leading)
        wanted[all++] = leading;
    if (ndim == all + 5 || (batch > 1 && !(allowed & IMAGINE__SHARED)))
        wanted[all++] = batch;
    memcpy(wanted + all, latents, 4 * sizeof *latents);
    all += 4;
    if (allowed & IMAGINE__FEWER && ndim == all && shape[all - 3] > 0 && shape[all - 3] < wanted[all - 3])
        wanted[all - 3] = shape[all - 3];
    if (imagine__buffer_dtype(buffer) == IMAGINE_F32 && ndim == all &&
        !memcmp(shape, wanted, (size_t)all * sizeof *shape))
        return IMAGINE_OK;
    char has[160], must[160];
    imagine__shape_text(has, sizeof has, ndim, shape);
    imagine__shape_text(must, sizeof must, all, wanted);
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: is %s %s, must be f32 %s%s", name,
                         imagine__dtype_name(imagine__buffer_dtype(buffer)), has, must,
                         allowed & IMAGINE__FEWER ? " or fewer frames" : "");
}

imagine_status imagine__sampler_check(imagine_sampler *s, const imagine_buffer *buffer, const char *name,
                                      int32_t leading, int allowed, imagine_error *error)
{
    imagine_status status = imagine__check_latents(buffer, name, s->shape, s->o.batch, leading, allowed, error);
    return status < 0 || allowed & IMAGINE__MASKED ? status : imagine__need_finite(&s->work, buffer, name, error);
}

/* *held becomes `buffer`, which may be NULL and is taken over. */
static void hold(imagine_buffer **held, imagine_buffer *buffer)
{
    imagine_buffer_release(held);
    *held = buffer;
}

/* ---- initial latents --------------------------------------------------------------------------------------------- */

imagine_status imagine_sampler_set_init(imagine_sampler *sampler, imagine_buffer *latents, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(sampler));
    imagine_buffer *taken = NULL;
    imagine_status status = imagine__sampler_usable(sampler, error);
    if (status >= 0 && latents)
        status = imagine__buffer_on_host(&taken, latents, error);
    if (status >= 0 && latents)
        status = imagine__sampler_check(sampler, taken, "init latents", 0, IMAGINE__SHARED, error);
    if (status >= 0)
        hold(&sampler->init, taken);
    else
        imagine_buffer_release(&taken);
    return status;
}

/* Clip b of latents that are one for all or one for each. */
static const float *clip_of(const imagine_buffer *latents, int64_t clip)
{
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(latents, &ndim);
    int64_t count = shape[ndim - 4] * shape[ndim - 3] * shape[ndim - 2] * shape[ndim - 1];
    return (const float *)imagine_buffer_data(latents) + (ndim == 5 ? clip * count : 0);
}

/* x = the initial latents at the first sigma, from the noise in x. */
static imagine_status noise_init(imagine_sampler *s, imagine_error *error)
{
    float sigma = (float)s->schedule.sigmas[0];
    size_t size = (size_t)s->clip * sizeof *s->x;
    for (int64_t b = 0; b < s->o.batch; b++) {
        float *x = s->x + b * s->clip;
        imagine__arena_mark mark = imagine__arena_save(s->work.arena);
        const float *init = imagine__lend(&s->work, clip_of(s->init, b), size);
        if (!init)
            return imagine__fail_memory_in(s->context, error, size, "the initial latents");
        s->work.run.kernels->combine(&s->work.run, 2, (const float[]){ 1 - sigma, sigma },
                                     (const float *const[]){ init, x }, x, s->clip);
        imagine__arena_restore(s->work.arena, mark);
    }
    return IMAGINE_OK;
}

/* A buffer's values where operations see them: its own on a CPU, else a copy in *held. */
static imagine_status show(imagine_sampler *s, const imagine_buffer *buffer, const float **seen, float **held, imagine_error *error)
{
    const float *values = imagine_buffer_data(buffer);
    size_t size = (size_t)imagine_buffer_size(buffer);
    *seen = values;
    if (!imagine__on_device(s->context))
        return IMAGINE_OK;
    if (!*held && !(*held = imagine__alloc_values(s->context, size)))
        return imagine__fail_memory_in(s->context, error, size, "the known latents");
    imagine__upload(&s->work, *held, 0, values, 0, size, 1);
    *seen = *held;
    return IMAGINE_OK;
}

static imagine_status show_known(imagine_sampler *s, imagine_error *error)
{
    imagine_status status = s->known ? show(s, s->known, &s->known_values, &s->known_copy, error) : IMAGINE_OK;
    return status >= 0 && s->mask ? show(s, s->mask, &s->mask_values, &s->mask_copy, error) : status;
}

void imagine__sampler_drop_known(imagine_sampler *s)
{
    imagine__free(s->context, s->known_copy);
    imagine__free(s->context, s->mask_copy);
    s->known_copy = s->mask_copy = NULL;
    s->known_values = s->mask_values = NULL;
}

imagine_status imagine__sampler_start(imagine_sampler *s, imagine_error *error)
{
    float scale = (float)imagine__schedule_begins(&s->schedule);
    if (s->o.strength < 1 && !s->init)
        return imagine__fail(error, IMAGINE_ERROR_STATE,
                             "strength is %g, so a run begins with initial latents: call imagine_sampler_set_init first",
                             s->o.strength);
    int keep = s->known && s->o.known_mode == IMAGINE_KNOWN_RENOISED;
    size_t size = (size_t)s->count * sizeof *s->start;
    if (keep && !s->start && !(s->start = imagine__alloc_values(s->context, size)))
        return imagine__fail_memory_in(s->context, error, size, "the noise of the known latents");
    if (keep)
        imagine__copy(&s->work, s->start, 0, s->x, 0, size, 1);
    imagine_status status = show_known(s, error);
    if (status >= 0 && s->init)
        status = noise_init(s, error);
    else if (status >= 0 && scale != 1)
        s->work.run.kernels->combine(&s->work.run, 1, &scale, (const float *const[]){ s->x }, s->x, s->count);
    if (status >= 0)
        imagine__sampler_keep(s, s->x, s->schedule.sigmas[0]);
    return status < 0 ? status : imagine__work_check(&s->work, error);
}

/* ---- known latents ----------------------------------------------------------------------------------------------- */

imagine_status imagine__check_known_mask(const imagine_buffer *mask, const int64_t latents[4], imagine_error *error)
{
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(mask, &ndim);
    if (imagine__buffer_dtype(mask) == IMAGINE_F32 && (ndim == 1 || ndim == 3) &&
        !memcmp(shape, latents + 1, (size_t)ndim * sizeof *shape))
        return IMAGINE_OK;
    char has[160], must[160];
    imagine__shape_text(has, sizeof has, ndim, shape);
    imagine__shape_text(must, sizeof must, 3, latents + 1);
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "known mask: is %s %s, must be f32 [%lld] or %s",
                         imagine__dtype_name(imagine__buffer_dtype(mask)), has, (long long)latents[1], must);
}

/* Its values are zeros and ones, too. */
static imagine_status check_mask(const imagine_sampler *s, const imagine_buffer *mask, imagine_error *error)
{
    imagine_status status = imagine__check_known_mask(mask, s->shape, error);
    if (status < 0)
        return status;
    const float *values = imagine_buffer_data(mask);
    int64_t count = (int64_t)(imagine_buffer_size(mask) / sizeof *values);
    for (int64_t i = 0; i < count && !imagine__planning(s->context); i++)
        if (values[i] != 0 && values[i] != 1)
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "known mask: value %lld is %g; 1 is known, 0 is to be made", (long long)i,
                                 (double)values[i]);
    return IMAGINE_OK;
}

/* The mask's answer for a pixel of the latents. */
static int marked(const imagine_sampler *s, const imagine_buffer *mask, int64_t frame, int64_t pixel)
{
    int32_t ndim;
    imagine__buffer_shape(mask, &ndim);
    const float *values = imagine_buffer_data(mask);
    return (ndim == 1 ? values[frame] : values[frame * s->shape[2] * s->shape[3] + pixel]) == 1;
}

/* Latents that a mask calls known must be finite; what it leaves out may be anything. */
static imagine_status check_marked(const imagine_sampler *s, const imagine_buffer *latents, const imagine_buffer *mask,
                                   imagine_error *error)
{
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(latents, &ndim);
    const float *values = imagine_buffer_data(latents);
    int64_t frames = s->shape[1], area = s->shape[2] * s->shape[3];
    int64_t count = (int64_t)(imagine_buffer_size(latents) / sizeof *values);
    for (int64_t i = 0; i < count && !imagine__planning(s->context); i++) {
        if (isfinite(values[i]) || !marked(s, mask, i / area % frames, i % area))
            continue;
        double value = values[i];
        int64_t index[IMAGINE_MAX_DIMS];
        for (int32_t d = ndim; d-- > 0; i /= shape[d])
            index[d] = i % shape[d];
        char place[160];
        imagine__shape_text(place, sizeof place, ndim, index);
        return imagine__fail(error, IMAGINE_ERROR_NOT_FINITE,
                             "known latents: the value at %s is %g, where the mask says it is known", place, value);
    }
    return IMAGINE_OK;
}

/* Frames of the known latents. */
static int64_t known_frames(const imagine_sampler *s)
{
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(s->known, &ndim);
    return shape[ndim - 3];
}

/* Both on the host, checked. */
static imagine_status check_known(imagine_sampler *sampler, const imagine_buffer *latents, const imagine_buffer *mask,
                                  imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    if (mask && !latents)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "known mask: there are no latents with it");
    int allowed = IMAGINE__SHARED | (mask ? IMAGINE__MASKED : IMAGINE__FEWER);
    if (latents && (status = imagine__sampler_check(sampler, latents, "known latents", 0, allowed, error)) < 0)
        return status;
    if (mask && ((status = check_mask(sampler, mask, error)) < 0 ||
                 (status = check_marked(sampler, latents, mask, error)) < 0))
        return status;
    if (latents && !mask) {
        int32_t ndim;
        const int64_t *shape = imagine__buffer_shape(latents, &ndim);
        if (shape[ndim - 3] == sampler->shape[1])
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "known latents: of the clip's %lld frame%s none is left to make; give fewer, or a mask",
                                 (long long)sampler->shape[1], sampler->shape[1] == 1 ? "" : "s");
    }
    return IMAGINE_OK;
}

imagine_status imagine_sampler_set_known(imagine_sampler *sampler, imagine_buffer *latents, imagine_buffer *mask,
                                         imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(sampler));
    imagine_buffer *taken = NULL, *taken_mask = NULL;
    imagine_status status = imagine__sampler_usable(sampler, error);
    if (status >= 0 && latents)
        status = imagine__buffer_on_host(&taken, latents, error);
    if (status >= 0 && mask)
        status = imagine__buffer_on_host(&taken_mask, mask, error);
    if (status >= 0)
        status = check_known(sampler, taken, taken_mask, error);
    if (status < 0) {
        imagine_buffer_release(&taken);
        imagine_buffer_release(&taken_mask);
        return status;
    }
    imagine__sampler_drop_known(sampler);
    hold(&sampler->known, taken);
    hold(&sampler->mask, taken_mask);
    sampler->begun = 0; /* what it began with is not what is known now */
    return IMAGINE_OK;
}

/* The mask's value at a pixel of the latents; without a mask the frames that there are. */
static int is_known(const imagine_sampler *s, int64_t frame, int64_t pixel)
{
    return s->mask ? marked(s, s->mask, frame, pixel) : frame < known_frames(s);
}

void imagine__sampler_keep(imagine_sampler *s, float *x, double sigma)
{
    int32_t ndim, mask_ndim = 0;
    if (!s->known)
        return;
    const int64_t *shape = imagine__buffer_shape(s->known, &ndim);
    int64_t area = s->shape[2] * s->shape[3], given = shape[ndim - 3] * area;
    if (s->mask)
        imagine__buffer_shape(s->mask, &mask_ndim);
    int renoised = s->o.known_mode == IMAGINE_KNOWN_RENOISED && (float)sigma > 0;
    for (int64_t b = 0; b < s->o.batch; b++) {
        imagine__keep_args args = {
            .x = x + b * s->clip,
            .known = s->known_values + (ndim == 5 ? b * s->shape[0] * given : 0),
            .noise = renoised ? s->start + b * s->clip : NULL,
            .mask = s->mask ? s->mask_values : NULL,
            .planes = s->shape[0],
            .count = given,
            .x_plane = s->shape[1] * area,
            .known_plane = given,
            .mask_step = mask_ndim == 1 ? area : 1,
            .sigma = (float)sigma,
        };
        s->work.run.kernels->keep(&s->work.run, &args);
    }
}

typedef struct token_job {
    const imagine_sampler *s;
    float timestep, *timesteps; /* [tokens] */
} token_job;

/* 1 if all latents of a token's patch are known. */
static int token_known(const imagine_sampler *s, int64_t t, int64_t y, int64_t x)
{
    const imagine__dit_config *c = &s->config;
    for (int64_t dt = 0; dt < c->patch_t; dt++)
        for (int64_t dy = 0; dy < c->patch_h; dy++)
            for (int64_t dx = 0; dx < c->patch_w; dx++)
                if (!is_known(s, t * c->patch_t + dt, (y * c->patch_h + dy) * s->shape[3] + x * c->patch_w + dx))
                    return 0;
    return 1;
}

/* The tokens of one step in time. */
static void fill_tokens(void *arg, int64_t tile, void *scratch)
{
    const token_job *job = arg;
    const imagine_sampler *s = job->s;
    int64_t height = s->shape[2] / s->config.patch_h, width = s->shape[3] / s->config.patch_w;
    (void)scratch;
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++)
            job->timesteps[(tile * height + y) * width + x] = token_known(s, tile, y, x) ? 0 : job->timestep;
}

int imagine__sampler_tokens(imagine_sampler *s, double timestep, int32_t clips, float **timesteps,
                            imagine_error *error)
{
    if (!s->known || s->o.known_mode != IMAGINE_KNOWN_CLEAN)
        return 0;
    const imagine__dit_config *c = &s->config;
    int64_t grid = s->shape[1] / c->patch_t, tokens = s->clip / (s->shape[0] * c->patch_t * c->patch_h * c->patch_w);
    float *all = imagine__arena_host_floats(s->work.arena, clips * tokens);
    if (!all)
        return imagine__fail_memory_in(s->context, error, (size_t)(clips * tokens) * sizeof *all, "the timesteps");
    token_job job = { s, (float)timestep, all };
    imagine__parallel(&s->work.run, grid, fill_tokens, &job);
    imagine__copy_host(s->context, all + tokens, (size_t)tokens * sizeof *all, all, 0,
                       (size_t)tokens * sizeof *all, clips - 1);
    *timesteps = all;
    return 1;
}
