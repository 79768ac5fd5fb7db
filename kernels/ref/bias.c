/* SPDX-License-Identifier: MIT */
#include "kernels/ref/ref.h"

#define ROWS 64 /* a tile's */

/* Some rows of one head: each is the one above it moved on by one, with one value before it. */
static void bias_tile(void *arg, int64_t tile, void *scratch)
{
    const imagine__relative_bias_args *a = arg;
    int64_t n = a->tokens, tiles = (n + ROWS - 1) / ROWS, head = tile / tiles, first = tile % tiles * ROWS;
    const float *table = a->table + a->first + head;
    float *y = a->y + (head * n + first) * n;
    (void)scratch;
    for (int64_t i = first; i < n && i < first + ROWS; i++, y += n) {
        int64_t fresh = i == first ? n : 1;
        for (int64_t j = 0; j < fresh; j++)
            y[j] = table[a->buckets[j - i + n - 1] * a->all_heads];
        if (i > first)
            memcpy(y + 1, y - n, (size_t)(n - 1) * sizeof *y);
    }
}

void imagine__ref_relative_bias(imagine__run *run, const imagine__relative_bias_args *args)
{
    imagine__relative_bias_args copy = *args;
    imagine__parallel(run, args->heads * ((args->tokens + ROWS - 1) / ROWS), bias_tile, &copy);
}
