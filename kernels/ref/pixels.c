/* SPDX-License-Identifier: MIT */
#include "kernels/ref/ref.h"

/* A tile is a row of patches. */
static void pixels_tile(void *arg, int64_t row, void *scratch)
{
    const imagine__pixels_args *a = arg;
    int64_t patch = a->patch, line = a->width * patch * 3, values = 3 * patch * patch;
    (void)scratch;
    for (int64_t x = 0; x < a->width; x++)
        for (int64_t i = 0; i < values; i++) {
            int64_t packed = (row * a->width + x) * values + i;
            int64_t pixel = (row * patch + i % patch) * line + (x * patch + i / patch % patch) * 3 + i / (patch * patch);
            if (a->join)
                a->y[pixel] = a->x[packed];
            else
                a->y[packed] = a->x[pixel];
        }
}

void imagine__ref_pixels(imagine__run *run, const imagine__pixels_args *args)
{
    imagine__pixels_args copy = *args;
    imagine__parallel(run, args->height, pixels_tile, &copy);
}
