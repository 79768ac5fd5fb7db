/* SPDX-License-Identifier: MIT */
#include "kernels/ref/ref.h"

/* One tile is one row of patches. */
typedef struct job {
    const imagine__patch_args *a;
    int to_tokens;
} job;

static void move_patch(const job *g, int64_t t, int64_t h, int64_t w)
{
    const imagine__patch_args *a = g->a;
    int64_t rows = a->height / a->ph, columns = a->width / a->pw;
    int64_t token = (t * rows + h) * columns + w, row = a->channels * a->pt * a->ph * a->pw;
    for (int64_t c = 0; c < a->channels; c++)
        for (int64_t dt = 0; dt < a->pt; dt++)
            for (int64_t dh = 0; dh < a->ph; dh++)
                for (int64_t dw = 0; dw < a->pw; dw++) {
                    int64_t pixel = ((c * a->frames + t * a->pt + dt) * a->height + h * a->ph + dh) * a->width +
                                    w * a->pw + dw;
                    int64_t in_patch = (dt * a->ph + dh) * a->pw + dw;
                    if (g->to_tokens)
                        a->y[token * row + c * a->pt * a->ph * a->pw + in_patch] = a->x[pixel];
                    else
                        a->y[pixel] = a->x[token * row + in_patch * a->channels + c];
                }
}

static void patch_tile(void *arg, int64_t tile, void *scratch)
{
    const job *g = arg;
    int64_t rows = g->a->height / g->a->ph, columns = g->a->width / g->a->pw;
    (void)scratch;
    for (int64_t w = 0; w < columns; w++)
        move_patch(g, tile / rows, tile % rows, w);
}

static void move_patches(imagine__run *run, const imagine__patch_args *a, int to_tokens)
{
    if (a->channels <= 0 || a->frames <= 0 || a->height <= 0 || a->width <= 0)
        return;
    job g = {a, to_tokens};
    imagine__parallel(run, a->frames / a->pt * (a->height / a->ph), patch_tile, &g);
}

void imagine__ref_patchify(imagine__run *run, const imagine__patch_args *a)
{
    move_patches(run, a, 1);
}

void imagine__ref_unpatchify(imagine__run *run, const imagine__patch_args *a)
{
    move_patches(run, a, 0);
}
