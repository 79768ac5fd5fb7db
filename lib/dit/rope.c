/* SPDX-License-Identifier: MIT */

/* Wan's rotary position embedding: a head's pairs are divided between time, height and width, and each part turns by
 * its own coordinate. Angles are computed in f64 and their cosines and sines kept in f32, as diffusers does. */

#include "dit/inside.h"

#include <math.h>
#include <string.h>

/* A head's pairs for time, height and width. */
static void split(int32_t head_dim, int32_t pairs[3])
{
    pairs[1] = pairs[2] = head_dim / 6;
    pairs[0] = head_dim / 2 - 2 * pairs[1];
}

typedef struct rope_job {
    int32_t grid[3], pairs[3];
    float *axes[3]; /* [position, pair], interleaved (cos, sin), of one axis */
    float *cosines, *sines; /* [token, pair of the head] */
} rope_job;

/* The table of axis `axis`. */
static void fill_axis(void *arg, int64_t axis, void *scratch)
{
    const rope_job *job = arg;
    float *table = job->axes[axis];
    int32_t pairs = job->pairs[axis];
    (void)scratch;
    for (int32_t p = 0; p < job->grid[axis]; p++)
        for (int32_t i = 0; i < pairs; i++) {
            double angle = p * (1.0 / pow(10000.0, (double)(2 * i) / (2 * pairs)));
            *table++ = (float)cos(angle);
            *table++ = (float)sin(angle);
        }
}

/* Adds one axis' part to the row of a token. */
static void put(float *cosines, float *sines, const float *axis, int32_t position, int32_t pairs)
{
    const float *from = axis + (int64_t)position * pairs * 2;
    for (int32_t i = 0; i < pairs; i++) {
        cosines[i] = from[2 * i];
        sines[i] = from[2 * i + 1];
    }
}

/* One row of tokens. */
static void fill_row(void *arg, int64_t row, void *scratch)
{
    const rope_job *job = arg;
    const int32_t *pairs = job->pairs;
    int32_t half = pairs[0] + pairs[1] + pairs[2];
    int32_t t = (int32_t)(row / job->grid[1]), y = (int32_t)(row % job->grid[1]);
    float *c = job->cosines + row * job->grid[2] * half, *s = job->sines + row * job->grid[2] * half;
    (void)scratch;
    for (int32_t x = 0; x < job->grid[2]; x++, c += half, s += half) {
        put(c, s, job->axes[0], t, pairs[0]);
        put(c + pairs[0], s + pairs[0], job->axes[1], y, pairs[1]);
        put(c + pairs[0] + pairs[1], s + pairs[0] + pairs[1], job->axes[2], x, pairs[2]);
    }
}

/* The table, on the host. */
static imagine_status make_table(imagine__work *work, int32_t head_dim, const int32_t grid[3], float **cos_table,
                                 float **sin_table, imagine_error *error)
{
    rope_job job = { .grid = { grid[0], grid[1], grid[2] } };
    int32_t half = head_dim / 2;
    split(head_dim, job.pairs);
    int64_t tokens = (int64_t)grid[0] * grid[1] * grid[2];
    job.cosines = imagine__arena_host_floats(work->arena, tokens * half);
    job.sines = imagine__arena_host_floats(work->arena, tokens * half);
    imagine__arena_mark mark = imagine__arena_save(work->arena);
    for (int a = 0; a < 3; a++)
        job.axes[a] = imagine__arena_host_floats(work->arena, (int64_t)grid[a] * job.pairs[a] * 2);
    if (!job.cosines || !job.sines || !job.axes[0] || !job.axes[1] || !job.axes[2])
        return imagine__fail_memory_in(work->context, error, (size_t)tokens * (size_t)half * 8, "the position table");
    imagine__parallel(&work->run, 3, fill_axis, &job);
    imagine__parallel(&work->run, (int64_t)grid[0] * grid[1], fill_row, &job);
    imagine__arena_restore(work->arena, mark);
    *cos_table = job.cosines;
    *sin_table = job.sines;
    return IMAGINE_OK;
}

/* To the device, where the next forward finds it. What a cancel has left out is not kept. */
static imagine_status keep_table(imagine__work *work, const int32_t key[4], const float *cosines, const float *sines,
                                 size_t size, imagine_error *error)
{
    memset(work->positions.key, 0, sizeof work->positions.key);
    imagine__free(work->context, work->positions.cosines);
    imagine__free(work->context, work->positions.sines);
    work->positions.cosines = imagine__alloc_values(work->context, size);
    work->positions.sines = imagine__alloc_values(work->context, size);
    if (!work->positions.cosines || !work->positions.sines)
        return imagine__fail_memory_in(work->context, error, 2 * size, "the position table");
    imagine__upload(work, work->positions.cosines, 0, cosines, 0, size, 1);
    imagine__upload(work, work->positions.sines, 0, sines, 0, size, 1);
    if (!imagine__run_stopped(&work->run))
        memcpy(work->positions.key, key, sizeof work->positions.key);
    return IMAGINE_OK;
}

imagine_status imagine__dit_rope(imagine__work *work, int32_t head_dim, const int32_t grid[3], const float **cos_table,
                                 const float **sin_table, imagine_error *error)
{
    const int32_t key[4] = { head_dim, grid[0], grid[1], grid[2] };
    size_t size = (size_t)grid[0] * (size_t)grid[1] * (size_t)grid[2] * (size_t)(head_dim / 2) * sizeof(float);
    float *cosines, *sines;
    imagine_status status = IMAGINE_OK;
    if (!imagine__on_device(work->context)) {
        status = make_table(work, head_dim, grid, &cosines, &sines, error);
        *cos_table = cosines;
        *sin_table = sines;
        return status;
    }
    imagine__arena_mark mark = imagine__arena_save(work->arena);
    if (memcmp(key, work->positions.key, sizeof key)) {
        status = make_table(work, head_dim, grid, &cosines, &sines, error);
        if (status >= 0)
            status = keep_table(work, key, cosines, sines, size, error);
    }
    imagine__arena_restore(work->arena, mark);
    *cos_table = work->positions.cosines;
    *sin_table = work->positions.sines;
    return status;
}
