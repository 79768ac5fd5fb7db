/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_TILES_H
#define IMAGINE_KERNELS_TILES_H

/* AMX's eight registers, of 16 rows of 64 bytes each: sums 0 to 3 of 16x16 f32, 0 and 1 above 2 and 3; 4 and 5 of the left operand's rows;
 * 6 and 7 of the right one's columns, of both 16 pairs of bf16. */

#include "kernels/cpu/vec.h"

#define TILE 16

/* Before the first product of a piece of work; a thread that keeps the registers has a larger state to save. */
VEC void tiles_begin(void)
{
    static const struct {
        uint8_t palette, start, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&shape);
}

VEC void tiles_end(void)
{
    _tile_release();
}

/* y[2 TILE][2 TILE] (+)= a[2 TILE][depth] b[depth][2 TILE], an element of a and b being a pair of bf16, depth a multiple of TILE,
 * the strides in elements; of y and a only the upper half unless `tall`, of y only the left half if `half`. An element of y is a sum
 * in the order of k, of even and odd values apart within a tile; denormals are zeros. Meanwhile `lines` of 64 bytes from `next` on
 * are asked for. */
VEC void tiles_multiply(const float *a, int64_t lda, const float *b, int64_t depth, float *y, int64_t ldy, const char *next,
                        int64_t lines, const int add, const int tall, const int half)
{
    const size_t a_line = (size_t)lda * sizeof *a, b_line = 2 * TILE * sizeof *b, y_line = (size_t)ldy * sizeof *y;
    int64_t each = (lines * TILE + depth - 1) / depth; /* lines in a step */
    if (add) {
        _tile_loadd(0, y, y_line);
        if (!half)
            _tile_loadd(1, y + TILE, y_line);
        if (tall)
            _tile_loadd(2, y + TILE * ldy, y_line);
        if (tall && !half)
            _tile_loadd(3, y + TILE * ldy + TILE, y_line);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < depth; k += TILE, a += TILE, b += TILE * 2 * TILE) {
        for (int64_t i = each < lines ? each : lines; i > 0; i--, lines--, next += 64)
            vec_prefetch(next);
        _tile_loadd(4, a, a_line);
        _tile_loadd(6, b, b_line);
        _tile_dpbf16ps(0, 4, 6);
        if (!half) {
            _tile_loadd(7, b + TILE, b_line);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (tall) {
            _tile_loadd(5, a + TILE * lda, a_line);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (tall && !half)
            _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, y, y_line);
    if (!half)
        _tile_stored(1, y + TILE, y_line);
    if (tall)
        _tile_stored(2, y + TILE * ldy, y_line);
    if (tall && !half)
        _tile_stored(3, y + TILE * ldy + TILE, y_line);
}

#endif
