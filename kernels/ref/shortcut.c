/* SPDX-License-Identifier: MIT */
#include "kernels/ref/ref.h"

/* A tile is a row of output. Which value goes where is the same for every pixel of it, so it is written down once, as
 * many values at a time as the scratch holds. */

typedef struct move {
    int64_t from, to; /* in a pixel of x (a row of two pixels below it may be meant) and of y */
} move;
#define MOVES ((int64_t)(IMAGINE__SCRATCH / sizeof(move)))

typedef struct job {
    const imagine__shortcut_args *a;
    int64_t group; /* values of x that one of y is the mean of, or of y that are one of x */
} job;

/* Values first..first+MOVES-1 of an output pixel, in the order (channel, y, x) of what they are the mean of. */
static int64_t list_down(const job *g, int64_t first, move *moves)
{
    const imagine__shortcut_args *a = g->a;
    int64_t s = a->space, count = a->in * s * s - first;
    count = count < MOVES ? count : MOVES;
    for (int64_t i = 0; i < count; i++) {
        int64_t c = (first + i) / (s * s), sy = (first + i) / s % s, sx = (first + i) % s;
        int64_t e = ((c * a->time + a->frame) * s + sy) * s + sx;
        moves[i] = (move){ (sy * a->width + sx) * a->in + c, e / g->group };
    }
    return count;
}

static void down_tile(void *arg, int64_t oy, void *scratch)
{
    const job *g = arg;
    const imagine__shortcut_args *a = g->a;
    int64_t s = a->space, all = a->in * s * s;
    const float *x = a->x + ((oy * s + a->top) * a->width + a->left) * a->in;
    float *y = a->y + oy * a->out_w * a->out, factor = 1.0f / (float)g->group;
    if (!a->add)
        memset(y, 0, (size_t)(a->out_w * a->out) * sizeof *y);
    for (int64_t first = 0; first < all; first += MOVES) {
        move *moves = scratch;
        int64_t count = list_down(g, first, moves);
        for (int64_t ox = 0; ox < a->out_w; ox++)
            for (int64_t i = 0; i < count; i++)
                y[ox * a->out + moves[i].to] += x[ox * s * a->in + moves[i].from] * factor;
    }
}

static void up_tile(void *arg, int64_t oy, void *scratch)
{
    const job *g = arg;
    const imagine__shortcut_args *a = g->a;
    int64_t s = a->space, *from = scratch;
    const int64_t most = (int64_t)(IMAGINE__SCRATCH / sizeof *from);
    int64_t sy = (oy + a->top) % s;
    const float *x = a->x + (oy + a->top) / s * a->width * a->in;
    for (int64_t first = 0; first < a->out; first += most)
        for (int64_t sx = 0; sx < s; sx++) {
            int64_t count = a->out - first < most ? a->out - first : most;
            for (int64_t i = 0; i < count; i++)
                from[i] = ((((first + i) * a->time + a->frame) * s + sy) * s + sx) / g->group;
            for (int64_t ox = (sx + s - a->left % s) % s; ox < a->out_w; ox += s) {
                const float *pixel = x + (ox + a->left) / s * a->in;
                float *y = a->y + (oy * a->out_w + ox) * a->out + first;
                for (int64_t i = 0; i < count; i++)
                    y[i] = pixel[from[i]];
            }
        }
}

void imagine__ref_shortcut_down(imagine__run *run, const imagine__shortcut_args *args)
{
    job g = { args, args->out ? args->in * args->time * args->space * args->space / args->out : 0 };
    if (args->out_w > 0 && args->out > 0)
        imagine__parallel(run, args->out_h, down_tile, &g);
}

void imagine__ref_shortcut_up(imagine__run *run, const imagine__shortcut_args *args)
{
    job g = { args, args->in ? args->out * args->time * args->space * args->space / args->in : 0 };
    if (args->out_w > 0 && args->in > 0)
        imagine__parallel(run, args->out_h, up_tile, &g);
}
