/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <time.h>
#include <unistd.h>

#include <imagine/imagine.h>

#include "tests/test.h"
#include "vae/handle.h"

/* The VAE in tiles against itself without: the same bytes for less memory. Through the public interface, on the packs
 * of vae.c. */

static imagine_error err = IMAGINE_ERROR_INIT;

static int allocations_left = -1; /* -1: no end */

static void *counting_alloc(void *user, size_t size, size_t alignment)
{
    void *pointer = NULL;
    (void)user;
    if (allocations_left == 0)
        return NULL;
    if (allocations_left > 0)
        allocations_left--;
    return posix_memalign(&pointer, alignment, size) ? NULL : pointer;
}

static void counting_free(void *user, void *pointer, size_t size)
{
    (void)user;
    (void)size;
    free(pointer);
}

/* A pack of one VAE, opened. */
typedef struct bench {
    char folder[32], link[40];
    imagine_context *context;
    imagine_model *model;
    imagine_model_info info;
} bench;

static int open_bench(bench *b, const char *name, int32_t threads, uint64_t limit)
{
    char path[64];
    imagine_context_options options;
    memset(b, 0, sizeof *b);
    b->info.struct_size = sizeof b->info;
    snprintf(b->folder, sizeof b->folder, "/tmp/imagine-tiles-XXXXXX");
    snprintf(path, sizeof path, "parity/vae/%s", name);
    imagine_context_options_init(&options, sizeof options);
    options.threads = threads;
    options.memory_limit = limit;
    options.allocate = counting_alloc;
    options.release = counting_free;
    int made = mkdtemp(b->folder) != NULL;
    snprintf(b->link, sizeof b->link, "%s/vae", b->folder);
    int good = made && !symlink(test_path(path), b->link) && imagine_context_create(&b->context, &options, &err) >= 0 &&
        imagine_model_open(&b->model, b->context, b->folder, NULL, &err) >= 0 &&
        imagine_model_get_info(b->model, &b->info, &err) >= 0;
    if (!good)
        test_fail(__FILE__, __LINE__, err.message);
    return good;
}

static void close_bench(bench *b)
{
    imagine_model_release(&b->model);
    imagine_context_release(&b->context);
    unlink(b->link);
    rmdir(b->folder);
}

static imagine_status open_vae(bench *b, int32_t tile_width, int32_t tile_height, imagine_vae **vae)
{
    imagine_vae_options options;
    imagine_vae_options_init(&options, sizeof options);
    options.tile_width = tile_width;
    options.tile_height = tile_height;
    return imagine_vae_create(vae, b->model, &options, &err);
}

/* [channels, frames, height, width] in latents, or the frames of such a clip. */
typedef struct size {
    int64_t frames, height, width;
} size;

static imagine_buffer *random_buffer(bench *b, imagine_dtype dtype, const int64_t shape[4])
{
    imagine_buffer *buffer = NULL;
    uint32_t state = 12345;
    if (imagine_buffer_create(&buffer, b->context, dtype, 4, shape, &err) < 0)
        return NULL;
    size_t count = imagine_buffer_size(buffer) / (dtype == IMAGINE_U8 ? 1 : sizeof(float));
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        if (dtype == IMAGINE_U8)
            ((uint8_t *)imagine_buffer_data(buffer))[i] = (uint8_t)(state >> 24);
        else
            ((float *)imagine_buffer_data(buffer))[i] = (float)(state >> 8) / (float)(1 << 23) - 1;
    }
    return buffer;
}

static imagine_buffer *random_latents(bench *b, size s)
{
    return random_buffer(b, IMAGINE_F32, (int64_t[]){ b->info.latent_channels, s.frames, s.height, s.width });
}

static imagine_buffer *random_frames(bench *b, size s, imagine_dtype dtype)
{
    int64_t frames = 1 + (s.frames - 1) * b->info.temporal_factor, factor = b->info.spatial_factor;
    if (dtype == IMAGINE_U8)
        return random_buffer(b, dtype, (int64_t[]){ frames, s.height * factor, s.width * factor, 3 });
    return random_buffer(b, dtype, (int64_t[]){ 3, frames, s.height * factor, s.width * factor });
}

static int same(const imagine_buffer *a, const imagine_buffer *b)
{
    return a && b && imagine_buffer_size(a) == imagine_buffer_size(b) &&
        !memcmp(imagine_buffer_data(a), imagine_buffer_data(b), imagine_buffer_size(a));
}

/* ---- the same bytes ---------------------------------------------------------------------------------------------- */

/* Both ways and both kinds of frames, whole and in tiles of so many pixels. */
static void check_tiles(bench *b, size s, int32_t tile_width, int32_t tile_height)
{
    static const imagine_dtype kinds[] = { IMAGINE_F32, IMAGINE_U8 };
    imagine_vae *whole = NULL, *tiled = NULL;
    CHECK_OK(open_vae(b, IMAGINE_VAE_WHOLE, IMAGINE_VAE_WHOLE, &whole));
    CHECK_OK(open_vae(b, tile_width, tile_height, &tiled));
    for (int k = 0; k < 2 && whole && tiled; k++) {
        imagine_buffer *latents = random_latents(b, s), *frames = random_frames(b, s, kinds[k]);
        imagine_buffer *results[4] = { NULL };
        CHECK_OK(imagine_vae_decode(whole, latents, kinds[k], &results[0], &err));
        CHECK_OK(imagine_vae_decode(tiled, latents, kinds[k], &results[1], &err));
        CHECK_OK(imagine_vae_encode(whole, frames, &results[2], &err));
        CHECK_OK(imagine_vae_encode(tiled, frames, &results[3], &err));
        if (!same(results[0], results[1]) || !same(results[2], results[3])) {
            test_fail(__FILE__, __LINE__, "other bytes in tiles");
            fprintf(stderr, "    %d x %d x %d latents in tiles of %d x %d pixels (height x width)\n", (int)s.frames,
                    (int)s.height, (int)s.width, tile_height, tile_width);
        }
        for (int i = 0; i < 4; i++)
            imagine_buffer_release(&results[i]);
        imagine_buffer_release(&latents);
        imagine_buffer_release(&frames);
    }
    imagine_vae_destroy(&whole);
    imagine_vae_destroy(&tiled);
}

/* Sizes in latents with tiles in latents: smaller than the margin, of one latent, strips, uneven, larger than the
 * clip. */
static void check_pack(const char *name, int32_t threads)
{
    static const struct {
        size s;
        int32_t width, height;
    } cases[] = {
        { { 1, 5, 7 }, 3, 2 },   { { 3, 4, 5 }, 2, 0 }, { { 2, 5, 3 }, 0, 1 },  { { 1, 3, 2 }, 1, 1 },
        { { 2, 40, 3 }, 0, 15 }, { { 2, 2, 37 }, 16, 1 }, { { 3, 2, 3 }, 50, 50 },
    };
    bench b;
    if (open_bench(&b, name, threads, 0))
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
            check_tiles(&b, cases[i].s, cases[i].width * b.info.spatial_factor,
                        cases[i].height * b.info.spatial_factor);
    close_bench(&b);
}

static void same_bytes(void)
{
    check_pack("f32", 2);
    check_pack("bf16", 1);
    check_pack("early", 1);
    check_pack("per-frame", 1);
}

static void same_bytes_residual(void)
{
    check_pack("residual", 2);
    check_pack("residual-bf16", 1);
    check_pack("residual-narrow", 1);
    check_pack("residual-per-frame", 1);
}

/* Pixels that are no multiple of the factor, and fewer than it. */
static void odd_tile_sizes(void)
{
    bench b;
    if (open_bench(&b, "residual", 1, 0)) {
        check_tiles(&b, (size){ 2, 3, 4 }, 39, 17);
        check_tiles(&b, (size){ 1, 2, 3 }, 1, 5);
    }
    close_bench(&b);
}

/* A clip in pieces takes no notice of tiles, and may follow one that did. */
static void pieces(void)
{
    bench b;
    imagine_vae *vae = NULL;
    imagine_buffer *latents = NULL, *whole = NULL, *piece = NULL;
    if (open_bench(&b, "f32", 1, 0)) {
        CHECK_OK(open_vae(&b, 8, 8, &vae));
        latents = random_latents(&b, (size){ 3, 3, 2 });
        CHECK_OK(imagine_vae_decode(vae, latents, IMAGINE_U8, &whole, &err));
        CHECK_OK(imagine_vae_decode_next(vae, latents, IMAGINE_U8, &piece, &err));
        CHECK(same(whole, piece));
    }
    imagine_buffer_release(&piece);
    imagine_buffer_release(&whole);
    imagine_buffer_release(&latents);
    imagine_vae_destroy(&vae);
    close_bench(&b);
}

/* Frames first..first+count-1 of u8 frames, as a view. */
static imagine_buffer *some_frames(bench *b, imagine_buffer *all, int64_t first, int64_t count)
{
    imagine_buffer_info info = { .struct_size = sizeof info };
    imagine_buffer *view = NULL;
    imagine_buffer_get_info(all, &info, NULL);
    int64_t shape[] = { count, info.shape[1], info.shape[2], 3 }, frame = shape[1] * shape[2] * 3;
    CHECK_OK(imagine_buffer_create(&view, b->context, IMAGINE_U8, 4, shape, &err));
    if (view)
        memcpy(imagine_buffer_data(view), (uint8_t *)imagine_buffer_data(all) + first * frame, (size_t)(count * frame));
    return view;
}

/* Encodes frames in pieces of so many; each latent is where it is in the whole. */
static void encode_pieces(bench *b, imagine_vae *vae, imagine_buffer *frames, const imagine_buffer *whole,
                          const int64_t *counts, int64_t total)
{
    imagine_buffer_info all = { .struct_size = sizeof all }, some = all;
    imagine_buffer_get_info(whole, &all, NULL);
    size_t area = (size_t)(all.shape[2] * all.shape[3]);
    int64_t latent = 0;
    for (int64_t at = 0; at < total; at += *counts++) {
        imagine_buffer *piece = some_frames(b, frames, at, *counts), *latents = NULL;
        CHECK_OK(imagine_vae_encode_next(vae, piece, &latents, &err));
        imagine_buffer_release(&piece);
        if (!latents)
            return;
        imagine_buffer_get_info(latents, &some, NULL);
        const float *got = imagine_buffer_data(latents), *expected = imagine_buffer_data(whole);
        for (int64_t c = 0; c < some.shape[0]; c++)
            CHECK(!memcmp(got + (size_t)(c * some.shape[1]) * area,
                          expected + (size_t)(c * all.shape[1] + latent) * area,
                          (size_t)some.shape[1] * area * sizeof *got));
        latent += some.shape[1];
        imagine_buffer_release(&latents);
    }
    CHECK(latent == all.shape[1]);
}

/* A clip encoded as it comes, while another is decoded as it comes. */
static void pieces_to_latents(void)
{
    static const struct {
        const char *name;
        int64_t counts[4], total;
    } cases[] = {
        { "f32", { 1, 4, 8 }, 13 },
        { "residual", { 5, 4, 4 }, 13 },
        { "per-frame", { 1, 3, 2, 1 }, 7 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bench b;
        imagine_vae *vae = NULL;
        imagine_buffer *frames = NULL, *whole = NULL, *latents = NULL, *decoded = NULL, *again = NULL;
        if (open_bench(&b, cases[i].name, 2, 0)) {
            int64_t count = 1 + (cases[i].total - 1) / b.info.temporal_factor;
            frames = random_frames(&b, (size){ count, 2, 3 }, IMAGINE_U8);
            latents = random_latents(&b, (size){ 2, 3, 1 });
            CHECK_OK(open_vae(&b, 0, 0, &vae));
            CHECK_OK(imagine_vae_encode(vae, frames, &whole, &err));
            encode_pieces(&b, vae, frames, whole, cases[i].counts, cases[i].total);
            imagine_vae_reset(vae);
            CHECK_OK(imagine_vae_decode_next(vae, latents, IMAGINE_U8, &decoded, &err));
            encode_pieces(&b, vae, frames, whole, cases[i].counts, cases[i].total);
            imagine_vae_reset(vae);
            CHECK_OK(imagine_vae_decode_next(vae, latents, IMAGINE_U8, &again, &err));
            CHECK(same(decoded, again));
        }
        imagine_buffer_release(&again);
        imagine_buffer_release(&decoded);
        imagine_buffer_release(&latents);
        imagine_buffer_release(&whole);
        imagine_buffer_release(&frames);
        imagine_vae_destroy(&vae);
        close_bench(&b);
    }
}

/* Wrong numbers and sizes leave the clip as it is; a failure ends it. */
static void pieces_refused(void)
{
    bench b;
    imagine_vae *vae = NULL;
    imagine_buffer *frames = NULL, *out = NULL, *first = NULL, *small = NULL, *narrow = NULL, *bad = NULL;
    if (open_bench(&b, "f32", 1, 0)) {
        CHECK_OK(open_vae(&b, 0, 0, &vae));
        frames = random_frames(&b, (size){ 2, 2, 3 }, IMAGINE_U8);
        small = random_frames(&b, (size){ 2, 2, 2 }, IMAGINE_U8);
        bad = random_frames(&b, (size){ 2, 2, 3 }, IMAGINE_F32);
        first = some_frames(&b, frames, 0, 4);
        narrow = some_frames(&b, small, 0, 4);
        CHECK_STATUS(imagine_vae_encode_next(vae, first, &out, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK_OK(imagine_vae_encode_next(vae, frames, &out, &err));
        imagine_buffer_release(&out);
        CHECK_STATUS(imagine_vae_encode_next(vae, frames, &out, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(strstr(err.message, "5 is not a multiple of 4"));
        CHECK_STATUS(imagine_vae_encode_next(vae, narrow, &out, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(strstr(err.message, "16x16, but the clip began with 24x16"));
        CHECK_OK(imagine_vae_encode_next(vae, first, &out, &err));
        imagine_buffer_release(&out);
        imagine_vae_reset(vae);
        ((float *)imagine_buffer_data(bad))[7] = NAN;
        CHECK_STATUS(imagine_vae_encode_next(vae, bad, &out, &err), IMAGINE_ERROR_NOT_FINITE);
        CHECK_STATUS(imagine_vae_encode_next(vae, frames, &out, &err), IMAGINE_ERROR_STATE);
        CHECK(!out && strstr(err.message, "anew"));
        imagine_vae_reset(vae);
        CHECK_OK(imagine_vae_encode_next(vae, frames, &out, &err));
    }
    imagine_buffer_release(&out);
    imagine_buffer_release(&first);
    imagine_buffer_release(&small);
    imagine_buffer_release(&narrow);
    imagine_buffer_release(&bad);
    imagine_buffer_release(&frames);
    imagine_vae_destroy(&vae);
    close_bench(&b);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* What coding holds at most beyond what is held before; *result is the caller's. */
static uint64_t peak_of(bench *b, int encoding, size s, int32_t tile, imagine_buffer **result)
{
    imagine_context_info before = { .struct_size = sizeof before }, after = before;
    imagine_vae *vae = NULL;
    imagine_buffer *in = encoding ? random_frames(b, s, IMAGINE_U8) : random_latents(b, s);
    *result = NULL;
    CHECK_OK(open_vae(b, tile, tile, &vae));
    imagine_context_get_info(b->context, &before, NULL);
    imagine_context_reset_peak(b->context);
    CHECK_OK(encoding ? imagine_vae_encode(vae, in, result, &err)
                      : imagine_vae_decode(vae, in, IMAGINE_U8, result, &err));
    imagine_context_get_info(b->context, &after, NULL);
    imagine_vae_destroy(&vae);
    imagine_buffer_release(&in);
    return after.memory_peak - before.memory_used;
}

static void tiles_need_less(void)
{
    static const size s = { 3, 24, 40 };
    bench b;
    if (open_bench(&b, "f32", 1, 0))
        for (int encoding = 0; encoding < 2; encoding++) {
            imagine_buffer *whole, *tiled;
            uint64_t peaks[2] = { peak_of(&b, encoding, s, 0, &whole), peak_of(&b, encoding, s, 80, &tiled) };
            printf("    %s %dx%d: %.1f MB whole, %.1f MB in tiles of 80x80\n", encoding ? "encode" : "decode",
                   (int)s.width * 8, (int)s.height * 8, (double)peaks[0] / 1e6, (double)peaks[1] / 1e6);
            CHECK(same(whole, tiled));
            CHECK(peaks[1] * 2 < peaks[0]);
            imagine_buffer_release(&whole);
            imagine_buffer_release(&tiled);
        }
    close_bench(&b);
}

/* Below the limit that the whole needs, tiles are chosen; at it, none are. */
static void chosen_under_a_limit(void)
{
    static const size s = { 5, 16, 24 };
    for (int encoding = 0; encoding < 2; encoding++) {
        bench b;
        imagine_buffer *whole = NULL, *got = NULL;
        imagine_context_info held = { .struct_size = sizeof held };
        uint64_t peak = 0;
        if (open_bench(&b, "f32", 1, 0)) {
            peak_of(&b, encoding, s, 0, &whole); /* loads the weights */
            imagine_buffer_release(&whole);
            imagine_context_get_info(b.context, &held, NULL);
            peak = peak_of(&b, encoding, s, 0, &whole);
            CHECK(peak_of(&b, encoding, s, IMAGINE_VAE_TILE_AUTO, &got) == peak);
        }
        imagine_buffer_release(&got);
        /* The input, the handle's own, and room for what a plan counts beyond what is needed. */
        uint64_t latents = (uint64_t)(s.frames * s.height * s.width * b.info.latent_channels) * sizeof(float);
        uint64_t pixels = (uint64_t)((1 + (s.frames - 1) * 4) * s.height * s.width * 64 * 3);
        uint64_t around = held.memory_used + (4 << 20) + (encoding ? pixels : latents);
        for (int tight = 0; tight < 2; tight++) {
            bench c;
            if (open_bench(&c, "f32", 1, around + (tight ? peak / 3 : peak))) {
                uint64_t used = peak_of(&c, encoding, s, IMAGINE_VAE_TILE_AUTO, &got);
                printf("    %s: %.1f MB whole, %.1f MB with a limit of %.1f MB more than is held before\n",
                       encoding ? "encode" : "decode", (double)peak / 1e6, (double)used / 1e6,
                       (double)(tight ? peak / 3 : peak) / 1e6);
                CHECK(tight ? used <= peak / 3 + (4 << 20) : used == peak);
                CHECK(got && whole && imagine_buffer_size(got) == imagine_buffer_size(whole) &&
                      !memcmp(imagine_buffer_data(got), imagine_buffer_data(whole), imagine_buffer_size(whole)));
                imagine_buffer_release(&got);
            }
            close_bench(&c);
        }
        imagine_buffer_release(&whole);
        close_bench(&b);
    }
}

/* A little less than the whole needs: what is planned must be all of it, the caches of every latent frame among it. */
static void just_below_the_whole(void)
{
    static const size s = { 6, 16, 16 };
    imagine_context_info info = { .struct_size = sizeof info };
    imagine_buffer *got = NULL;
    bench b;
    if (open_bench(&b, "f32", 1, 0)) {
        peak_of(&b, 0, s, 0, &got);
        imagine_context_get_info(b.context, &info, NULL);
    }
    imagine_buffer_release(&got);
    close_bench(&b);
    for (uint64_t less = 0; less < 24000; less += 2000) {
        if (open_bench(&b, "f32", 1, info.memory_peak - less))
            peak_of(&b, 0, s, IMAGINE_VAE_TILE_AUTO, &got);
        imagine_buffer_release(&got);
        close_bench(&b);
    }
}

/* The grid that is chosen for a clip that is to be decoded, with `beyond` bytes more than are held; 1 x 1: there was none. */
static vae_grid grid_within(uint64_t held, uint64_t beyond, size s)
{
    vae_grid grid = { 1, 1 };
    imagine_vae *vae = NULL;
    bench b;
    if (open_bench(&b, "f32", 1, held + beyond)) {
        CHECK_OK(open_vae(&b, IMAGINE_VAE_TILE_AUTO, IMAGINE_VAE_TILE_AUTO, &vae));
        if (vae)
            CHECK_OK(vae_choose_grid(vae, 0, IMAGINE_U8, s.frames, s.height, s.width, &grid, &err));
    }
    imagine_vae_destroy(&vae);
    close_bench(&b);
    return grid;
}

/* The less memory there is the more tiles there are, and none of the grids is passed over. */
static void no_more_tiles_than_needed(void)
{
    static const size s = { 1, 64, 96 };
    imagine_context_info info = { .struct_size = sizeof info };
    imagine_vae *vae = NULL;
    bench b;
    uint64_t held = 0, whole = 0;
    if (open_bench(&b, "f32", 1, 0)) {
        imagine_buffer *result;
        whole = peak_of(&b, 0, s, 0, &result);
        imagine_buffer_release(&result);
        CHECK_OK(open_vae(&b, 0, 0, &vae));
        imagine_context_get_info(b.context, &info, NULL);
        held = info.memory_used;
    }
    imagine_vae_destroy(&vae);
    close_bench(&b);
    int32_t before = 0, kinds = 0, between = 0; /* between: not reached by doubling */
    for (uint64_t part = 100; part > 0; part--) {
        vae_grid grid = grid_within(held, whole * part / 100, s);
        int32_t cuts = grid.rows + grid.columns - 2;
        CHECK(cuts >= before);
        kinds += cuts != before;
        between += cuts != before && cuts > 8 && cuts < 16;
        before = cuts;
    }
    printf("    %d grids of up to %d cuts\n", kinds, before);
    CHECK(kinds >= 12 && between >= 3);
}

/* A picture so large that its smallest tiles are thousands, with room for nothing: that is soon known, and a cancel is heard. */
static void hopeless(void)
{
    /* Beside 17 MB of latents there are 50 MB of frames and 6 MB between the middle and the levels. */
    static const size s = { 1, 512, 512 };
    bench b;
    imagine_vae *vae = NULL;
    imagine_vae_options options;
    imagine_buffer *latents = NULL, *frames = NULL;
    imagine_vae_options_init(&options, sizeof options);
    options.tile_width = options.tile_height = IMAGINE_VAE_TILE_AUTO;
    for (int most = 0; most < 2; most++) {
        if (open_bench(&b, "f32", 1, most ? 76 << 20 : 32 << 20)) {
            CHECK_OK(imagine_cancel_create(&options.cancel, b.context, &err));
            CHECK_OK(imagine_vae_create(&vae, b.model, &options, &err));
            latents = random_latents(&b, s);
            clock_t begin = clock();
            CHECK_STATUS(imagine_vae_decode(vae, latents, IMAGINE_U8, &frames, &err), IMAGINE_ERROR_NO_MEMORY);
            double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
            printf("    %.2f s\n", seconds);
            CHECK(seconds < 1);
            imagine_cancel_fire(options.cancel);
            CHECK_STATUS(imagine_vae_decode(vae, latents, IMAGINE_U8, &frames, &err), IMAGINE_ERROR_CANCELLED);
        }
        imagine_buffer_release(&latents);
        imagine_vae_destroy(&vae);
        imagine_cancel_release(&options.cancel);
        close_bench(&b);
    }
}

/* Every allocation of a clip in tiles fails in turn; afterwards the same handle does it right. */
static void every_allocation_fails(void)
{
    bench b;
    imagine_vae *vae = NULL;
    imagine_buffer *latents = NULL, *frames = NULL, *expected[2] = { NULL }, *got[2] = { NULL };
    imagine_status status = IMAGINE_ERROR_NO_MEMORY;
    int n = 0;
    if (open_bench(&b, "residual-narrow", 1, 0)) {
        CHECK_OK(open_vae(&b, 4, 8, &vae));
        latents = random_latents(&b, (size){ 2, 3, 2 });
        CHECK_OK(imagine_vae_decode(vae, latents, IMAGINE_U8, &expected[0], &err));
        CHECK_OK(imagine_vae_encode(vae, expected[0], &expected[1], &err));
        for (; status == IMAGINE_ERROR_NO_MEMORY && n < 10000; n++) {
            imagine_vae_destroy(&vae);
            CHECK_OK(open_vae(&b, 4, 8, &vae));
            allocations_left = n;
            status = imagine_vae_decode(vae, latents, IMAGINE_U8, &got[0], &err);
            if (status >= 0)
                status = imagine_vae_encode(vae, got[0], &got[1], &err);
            allocations_left = -1;
            CHECK(status >= 0 || strstr(err.message, "memory"));
            CHECK(status >= 0 || !got[1]);
            imagine_buffer_release(&got[0]);
            if (status < 0) {
                CHECK_OK(imagine_vae_decode(vae, latents, IMAGINE_U8, &got[0], &err));
                CHECK(same(expected[0], got[0]));
                imagine_buffer_release(&got[0]);
            }
        }
        CHECK_STATUS(status, IMAGINE_OK);
        CHECK(n > 20 && same(expected[1], got[1]));
    }
    for (int i = 0; i < 2; i++) {
        imagine_buffer_release(&expected[i]);
        imagine_buffer_release(&got[i]);
    }
    imagine_buffer_release(&frames);
    imagine_buffer_release(&latents);
    imagine_vae_destroy(&vae);
    close_bench(&b);
}

static void sizes_refused(void)
{
    bench b;
    imagine_vae *vae = NULL;
    if (open_bench(&b, "f32", 1, 0)) {
        CHECK_STATUS(open_vae(&b, -2, 8, &vae), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(strstr(err.message, "tile_width") && strstr(err.message, "-2"));
        CHECK_STATUS(open_vae(&b, 8, INT32_MIN, &vae), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(strstr(err.message, "tile_height") && !vae);
    }
    close_bench(&b);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "same_bytes", same_bytes },
        { "same_bytes_residual", same_bytes_residual },
        { "odd_tile_sizes", odd_tile_sizes },
        { "pieces", pieces },
        { "pieces_to_latents", pieces_to_latents },
        { "pieces_refused", pieces_refused },
        { "tiles_need_less", tiles_need_less },
        { "chosen_under_a_limit", chosen_under_a_limit },
        { "just_below_the_whole", just_below_the_whole },
        { "no more tiles than needed", no_more_tiles_than_needed },
        { "hopeless", hopeless },
        { "every_allocation_fails", every_allocation_fails },
        { "sizes_refused", sizes_refused },
    };
    return test_main("vae_tiles", cases, sizeof cases / sizeof cases[0], argc, argv);
}
