/* SPDX-License-Identifier: MIT */

/* Wan's rotary position embedding: a head's pairs are divided between time, height and width, and each part turns by
 * its own coordinate. Angles are computed in f64 and their cosines and sines kept in f32, as diffusers does. */

#include "dit/inside.h"

#include <math.h>

/* A head's pairs for time, height and width. */
static void split(int32_t head_dim, int32_t pairs[3])
{
    pairs[1] = pairs[2] = head_dim / 6;
    pairs[0] = head_dim / 2 - 2 * pairs[1];
}

/* table[position][pair], interleaved (cos, sin), for one axis. */
static void axis_table(float *table, int32_t positions, int32_t pairs)
{
    for (int32_t p = 0; p < positions; p++)
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

imagine_status imagine__dit_rope(imagine__work *work, int32_t head_dim, const int32_t grid[3], const float **cos_table,
                                 const float **sin_table, imagine_error *error)
{
    int32_t pairs[3], half = head_dim / 2;
    split(head_dim, pairs);
    int64_t tokens = (int64_t)grid[0] * grid[1] * grid[2];
    float *cosines = imagine__arena_floats(work->arena, tokens * half);
    float *sines = imagine__arena_floats(work->arena, tokens * half);
    imagine__arena_mark mark = imagine__arena_save(work->arena);
    float *axes[3] = { NULL, NULL, NULL };
    for (int a = 0; a < 3; a++)
        axes[a] = imagine__arena_floats(work->arena, (int64_t)grid[a] * pairs[a] * 2);
    if (!cosines || !sines || !axes[0] || !axes[1] || !axes[2])
        return imagine__fail_memory(error, (size_t)tokens * (size_t)half * 8, "the position table");
    for (int a = 0; a < 3; a++)
        axis_table(axes[a], grid[a], pairs[a]);
    float *c = cosines, *s = sines;
    for (int32_t t = 0; t < grid[0]; t++)
        for (int32_t y = 0; y < grid[1]; y++)
            for (int32_t x = 0; x < grid[2]; x++, c += half, s += half) {
                put(c, s, axes[0], t, pairs[0]);
                put(c + pairs[0], s + pairs[0], axes[1], y, pairs[1]);
                put(c + pairs[0] + pairs[1], s + pairs[0] + pairs[1], axes[2], x, pairs[2]);
            }
    imagine__arena_restore(work->arena, mark);
    *cos_table = cosines;
    *sin_table = sines;
    return IMAGINE_OK;
}
