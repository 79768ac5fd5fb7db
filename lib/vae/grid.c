/* SPDX-License-Identifier: MIT */

/* Into how many tiles a clip is cut. */

#include "vae/handle.h"

#define SMALLEST 4 /* latents along a side of a tile that is chosen: with its margin that is mostly margin */
#define ONE_BY_ONE 8 /* cuts that are tried each */
#define PLANNED 4 /* latent frames until every cache is full: what doubles the frames first sees none of the first */

/* What is to be coded. */
typedef struct work_load {
    int64_t count, height, width; /* in latents */
    imagine_dtype dtype; /* of decoded frames */
    int32_t encoding;
} work_load;

/* The tensors of the API for `count` latent frames, in the handle's context. */
static imagine_status make_buffers(const imagine_vae *vae, const work_load *load, int64_t count,
                                   imagine_buffer **latents, imagine_buffer **frames, imagine_error *error)
{
    const imagine__vae_config *c = vae->config;
    int64_t in[] = { c->z_dim, count, load->height, load->width };
    int64_t height = load->height * c->spatial_factor, width = load->width * c->spatial_factor;
    int64_t bytes[] = { (count - 1) * c->temporal_factor + 1, height, width, 3 };
    int64_t planes[] = { 3, bytes[0], height, width };
    int32_t u8 = load->dtype == IMAGINE_U8;
    imagine_status status = imagine__buffer_new(latents, vae->context, IMAGINE_F32, 4, in, error);
    return status < 0 ? status
                      : imagine__buffer_new(frames, vae->context, load->dtype, 4, u8 ? bytes : planes, error);
}

/* Codes with `vae`, a stand-in in a context that plans; *need: bytes beyond those that the caller's tensor has. */
static imagine_status run_plan(imagine_vae *vae, const work_load *load, int64_t count, vae_grid grid, uint64_t *need,
                               imagine_error *error)
{
    imagine_context_info before = { .struct_size = sizeof before }, after = before;
    imagine_buffer *latents = NULL, *frames = NULL;
    imagine_status status = imagine_context_get_info(vae->context, &before, error);
    if (status >= 0)
        status = make_buffers(vae, load, count, &latents, &frames, error);
    if (status >= 0 && count == 1)
        imagine__vae_coder_picture(vae->coder);
    if (status >= 0 && load->encoding) {
        const int64_t *shape = imagine__buffer_shape(frames, NULL);
        vae_clip in = { shape[1], shape[2], shape[3], imagine_buffer_data(frames), NULL };
        status = vae_encode_clip(vae, &in, grid, latents, error);
    } else if (status >= 0) {
        status = vae_decode_clip(vae, latents, grid, frames, error);
    }
    if (status >= 0)
        status = imagine_context_get_info(vae->context, &after, error);
    uint64_t given = imagine_buffer_size(load->encoding ? frames : latents);
    *need = after.memory_peak - before.memory_used - given;
    imagine_buffer_release(&frames);
    imagine_buffer_release(&latents);
    return status;
}

/* What coding will need beyond what is held now. Every latent frame after the first few adds the same: its place in
 * what comes out and, in tiles, between the middle and the levels. */
static imagine_status plan(const imagine_vae *vae, const work_load *load, vae_grid grid, uint64_t *need,
                           imagine_error *error)
{
    imagine_vae stand_in = { .model = vae->model, .config = vae->config, .weights = vae->weights };
    int64_t area = load->height * load->width, planned = load->count < PLANNED ? load->count : PLANNED;
    int64_t pixels = area * vae->config->spatial_factor * vae->config->spatial_factor * vae->config->temporal_factor;
    int64_t out = load->encoding ? area * vae->config->z_dim * 4 : pixels * 3 * (load->dtype == IMAGINE_U8 ? 1 : 4);
    imagine_status status = imagine__context_plan(&stand_in.context, vae->context, 0, error);
    if (status < 0)
        return status;
    if ((status = imagine__work_init(&stand_in.work, stand_in.context, vae->cancel, error)) >= 0 &&
        (status = imagine__vae_coder_create(&stand_in.coder, vae->weights, &stand_in.work, error)) >= 0 &&
        (status = run_plan(&stand_in, load, planned, grid, need, error)) >= 0) {
        if (grid.rows * grid.columns > 1)
            out += area * imagine__vae_middle_channels(stand_in.coder, load->encoding) * 4;
        *need += (uint64_t)((load->count - planned) * out);
    }
    imagine__vae_coder_free(stand_in.coder);
    imagine__work_fini(&stand_in.work);
    imagine_context_release(&stand_in.context);
    return status;
}

/* One more cut, through the longer side of those that may be cut. 0: no further. */
static int cut(const imagine_vae *vae, const work_load *load, vae_grid *grid)
{
    int64_t height = vae->tile_height < 0 ? load->height / (grid->rows + 1) : 0;
    int64_t width = vae->tile_width < 0 ? load->width / (grid->columns + 1) : 0;
    if (height < SMALLEST && width < SMALLEST)
        return 0;
    if (height >= width)
        grid->rows++;
    else
        grid->columns++;
    return 1;
}

/* The grid that so many cuts make of `grid`, or the smallest; *cuts becomes their number. */
static vae_grid after(const imagine_vae *vae, const work_load *load, vae_grid grid, int64_t *cuts)
{
    int64_t done = 0;
    while (done < *cuts && cut(vae, load, &grid))
        done++;
    *cuts = done;
    return grid;
}

/* What tiles of any size need at least: the result, and what is between the middle and the levels. */
static uint64_t least(const imagine_vae *vae, const work_load *load)
{
    const imagine__vae_config *c = vae->config;
    uint64_t area = (uint64_t)(load->height * load->width), count = (uint64_t)load->count;
    uint64_t pixels = area * (uint64_t)(c->spatial_factor * c->spatial_factor) * ((count - 1) * (uint64_t)c->temporal_factor + 1);
    uint64_t out = load->encoding ? area * count * (uint64_t)c->z_dim * 4 : pixels * 3 * (load->dtype == IMAGINE_U8 ? 1 : 4);
    return out + area * count * (uint64_t)imagine__vae_middle_channels(vae->coder, load->encoding) * 4;
}

/* Between cuts that do not fit and those of *grid, which fit: the fewest that do. */
static imagine_status search_back(const imagine_vae *vae, const work_load *load, uint64_t left, vae_grid whole, int64_t failed,
                                  int64_t fits, vae_grid *grid, imagine_error *error)
{
    while (fits - failed > 1) {
        int64_t cuts = failed + (fits - failed) / 2;
        uint64_t need;
        vae_grid tried = after(vae, load, whole, &cuts);
        imagine_status status = plan(vae, load, tried, &need, error);
        if (status < 0)
            return status;
        *(need <= left ? &fits : &failed) = cuts;
        if (need <= left)
            *grid = tried;
    }
    return IMAGINE_OK;
}

/* The fewest cuts of *grid that fit into `left` bytes: tried one by one at first, as a first margin may be more than a cut
 * saves, then faster and faster, and from those that fit back. Where none fit they are as many as there can be. */
static imagine_status search(const imagine_vae *vae, const work_load *load, uint64_t left, vae_grid *grid, imagine_error *error)
{
    vae_grid whole = *grid;
    int64_t failed = -1, cuts = 0;
    for (;;) {
        uint64_t need;
        *grid = after(vae, load, whole, &cuts);
        if (cuts == failed) /* there are no more */
            return IMAGINE_OK;
        imagine_status status = plan(vae, load, *grid, &need, error);
        if (status < 0)
            return status;
        if (need <= left)
            return search_back(vae, load, left, whole, failed, cuts, grid, error);
        failed = cuts;
        cuts = cuts < ONE_BY_ONE ? cuts + 1 : 2 * cuts;
        if (least(vae, load) > left) {
            cuts = INT64_MAX;
            *grid = after(vae, load, whole, &cuts);
            return IMAGINE_OK;
        }
    }
}

static imagine_status choose(imagine_vae *vae, const work_load *load, vae_grid *grid, imagine_error *error)
{
    imagine_context_info now = { .struct_size = sizeof now };
    uint64_t limit = imagine__context_limit(vae->context);
    imagine_status status;
    if (!limit)
        return IMAGINE_OK;
    imagine__arena_trim(vae->work.arena);
    if ((status = imagine_context_get_info(vae->context, &now, error)) < 0)
        return status;
    return search(vae, load, limit > now.memory_used ? limit - now.memory_used : 0, grid, error);
}

imagine_status vae_choose_grid(imagine_vae *vae, int encoding, imagine_dtype dtype, int64_t count, int64_t height,
                               int64_t width, vae_grid *grid, imagine_error *error)
{
    work_load load = { count, height, width, encoding ? IMAGINE_F32 : dtype, encoding };
    int32_t factor = vae->config->spatial_factor;
    int32_t rows = vae->tile_height / factor, columns = vae->tile_width / factor;
    grid->rows = vae->tile_height > 0 ? imagine__vae_tile_count((int32_t)height, rows ? rows : 1) : 1;
    grid->columns = vae->tile_width > 0 ? imagine__vae_tile_count((int32_t)width, columns ? columns : 1) : 1;
    if (vae->tile_height >= 0 && vae->tile_width >= 0)
        return IMAGINE_OK;
    return choose(vae, &load, grid, error);
}
