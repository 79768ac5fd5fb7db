/* SPDX-License-Identifier: MIT */
#include "vae/internal.h"

/* Coding a clip in tiles. A tile's levels work on what its own pixels or latents depend on and no more: the tile and a
 * margin, which is wider the more convolutions of 3x3 are still to come. Values at the margin's outer edge come out
 * wrong, as zeros stand there for the picture beyond; each convolution carries that one further in, and the margin is
 * as wide as that. At the picture's own edge there are no margins, and zeros are right. So a tile's values are computed
 * from the same numbers in the same order as in the whole picture. */

static int64_t at_least(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t at_most(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* first..end-1 as one side of a window. */
typedef struct range {
    int64_t first, end;
} range;

static range grown(range r, int64_t by, int64_t size)
{
    return (range){ at_least(r.first - by, 0), at_most(r.end + by, size) };
}

/* Convolutions of 3x3 in a level's blocks. */
static int64_t reach(const vae_level *level)
{
    return 2 * level->count;
}

/* What each level works on along one side of `latents` latents: ranges[i], and ranges[levels] what comes out. */
static void decode_ranges(const imagine__vae_model *vae, range tile, int64_t latents, range *ranges)
{
    int32_t last = vae->config.levels - 1;
    const vae_level *levels = vae->decoder.levels;
    ranges[last + 1] = (range){ tile.first << last, tile.end << last };
    ranges[last] = grown(ranges[last + 1], reach(&levels[last]) + 1, latents << last); /* 1: conv_out */
    for (int32_t i = last - 1; i >= 0; i--) {
        range next = grown(ranges[i + 1], 1, latents << (i + 1)); /* of enlarged pixels */
        ranges[i] = grown((range){ next.first / 2, (next.end + 1) / 2 }, reach(&levels[i]), latents << i);
    }
}

/* Where level 0 begins there is conv_in before it, which reaches one further. */
static void encode_ranges(const imagine__vae_model *vae, range tile, int64_t latents, range *ranges)
{
    int32_t last = vae->config.levels - 1;
    const vae_level *levels = vae->encoder.levels;
    ranges[last + 1] = tile;
    ranges[last] = grown(tile, reach(&levels[last]) + !last, latents);
    for (int32_t i = last - 1; i >= 0; i--) {
        int64_t size = latents << (last - i);
        range read = { 2 * ranges[i + 1].first, at_most(2 * ranges[i + 1].end + 1, size) };
        ranges[i] = grown(read, reach(&levels[i]) + !i, size);
    }
}

void vae_windows(const imagine__vae_model *vae, vae_side *side, int encoding, const imagine__vae_tile *tile)
{
    range rows[VAE_MAX_LEVELS + 1], columns[VAE_MAX_LEVELS + 1];
    void (*ranges)(const imagine__vae_model *, range, int64_t, range *) = encoding ? encode_ranges : decode_ranges;
    ranges(vae, (range){ tile->y, tile->y + tile->height }, side->height, rows);
    ranges(vae, (range){ tile->x, tile->x + tile->width }, side->width, columns);
    for (int32_t i = 0; i <= vae->config.levels; i++)
        side->windows[i] = (vae_window){ rows[i].first, columns[i].first, rows[i].end - rows[i].first,
                                         columns[i].end - columns[i].first };
}

int32_t imagine__vae_tile_count(int32_t latents, int32_t most)
{
    return most > 0 && most < latents ? (latents + most - 1) / most : 1;
}

imagine__vae_tile imagine__vae_tile_at(int32_t height, int32_t width, int32_t rows, int32_t columns, int32_t number)
{
    int64_t row = number / columns, column = number % columns;
    int32_t y = (int32_t)(row * height / rows), x = (int32_t)(column * width / columns);
    return (imagine__vae_tile){ y, x, (int32_t)((row + 1) * height / rows) - y,
                                (int32_t)((column + 1) * width / columns) - x };
}

int imagine__vae_tiles_alike(const imagine__vae_coder *coder, int encoding, int32_t height, int32_t width,
                             const imagine__vae_tile *a, const imagine__vae_tile *b)
{
    vae_side of_a = { .height = height, .width = width }, of_b = of_a;
    int alike = a->height == b->height && a->width == b->width;
    vae_windows(coder->vae, &of_a, encoding, a);
    vae_windows(coder->vae, &of_b, encoding, b);
    for (int32_t i = 0; i <= coder->vae->config.levels; i++)
        alike &= of_a.windows[i].height == of_b.windows[i].height && of_a.windows[i].width == of_b.windows[i].width;
    return alike;
}

imagine_status imagine__vae_coder_tile(imagine__vae_coder *coder, int encoding, int32_t height, int32_t width,
                                       const imagine__vae_tile *tile, imagine_error *error)
{
    vae_side *side = encoding ? &coder->encode : &coder->decode;
    vae_drop_caches(coder);
    side->started = 0;
    imagine_status status = vae_begin(coder, side, height, width, error);
    if (status >= 0 && tile)
        vae_windows(coder->vae, side, encoding, tile);
    return status;
}

imagine__vae_tile imagine__vae_tile_pixels(const imagine__vae_coder *coder)
{
    const vae_window *w = &coder->encode.windows[0];
    int32_t patch = coder->vae->config.patch;
    return (imagine__vae_tile){ (int32_t)w->y * patch, (int32_t)w->x * patch, (int32_t)w->height * patch,
                                (int32_t)w->width * patch };
}
