/* SPDX-License-Identifier: MIT */
#include <stdint.h>
#include <unistd.h>

#include "tests/test.h"
#include "vae/vae.h"

/* The VAE against diffusers' AutoencoderKLWan (make_vae.py made the packs and the clips), and against itself: threads,
 * pieces, failing allocations, cancellation, configurations that cannot be run. */

static imagine_error err = IMAGINE_ERROR_INIT;

/* Everything that coding needs; open_bench() and close_bench(). */
typedef struct bench {
    imagine_context *context;
    imagine__weights *weights;
    imagine__vae_model *vae;
    imagine__work work;
    imagine__vae_coder *coder;
    imagine_cancel *cancel;
} bench;

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

static imagine_status open_bench(bench *b, const char *folder, int32_t threads, imagine_cpu_level level, uint64_t limit)
{
    imagine_context_options options;
    imagine__vae_config config;
    imagine_status status;

    memset(b, 0, sizeof *b);
    imagine_context_options_init(&options, sizeof options);
    options.threads = threads;
    options.cpu_level = level;
    options.memory_limit = limit;
    options.allocate = counting_alloc;
    options.release = counting_free;
    if ((status = imagine_context_create(&b->context, &options, &err)) < 0 ||
        (status = imagine_cancel_create(&b->cancel, b->context, &err)) < 0 ||
        (status = imagine__weights_open(&b->weights, b->context, folder, "diffusion_pytorch_model", &err)) < 0 ||
        (status = imagine__vae_read_config(&config, b->context, folder, &err)) < 0 ||
        (status = imagine__vae_load(&b->vae, b->context, &config, b->weights, NULL, &err)) < 0 ||
        (status = imagine__work_init(&b->work, b->context, b->cancel, &err)) < 0)
        return status;
    return imagine__vae_coder_create(&b->coder, b->vae, &b->work, &err);
}

static void close_bench(bench *b)
{
    imagine__vae_coder_free(b->coder);
    imagine__work_fini(&b->work);
    imagine__vae_free(b->vae);
    imagine__weights_close(b->weights);
    imagine_cancel_release(&b->cancel);
    imagine_context_release(&b->context);
}

static uint64_t memory_used(const bench *b)
{
    imagine_context_info info = { .struct_size = sizeof info };
    return imagine_context_get_info(b->context, &info, NULL) < 0 ? 0 : info.memory_used;
}

/* A [channels, frames, height, width] tensor on the C library's heap. */
typedef struct clip {
    float *data;
    int64_t channels, frames, height, width;
    size_t count;
} clip;

static clip new_clip(int64_t channels, int64_t frames, int64_t height, int64_t width)
{
    clip c = { NULL, channels, frames, height, width, (size_t)(channels * frames * height * width) };
    c.data = calloc(c.count, sizeof(float));
    return c;
}

static clip random_clip(int64_t channels, int64_t frames, int64_t height, int64_t width)
{
    clip c = new_clip(channels, frames, height, width);
    uint32_t state = 12345;
    for (size_t i = 0; i < c.count; i++) {
        state = state * 1664525u + 1013904223u;
        c.data[i] = (float)(state >> 8) / (float)(1 << 23) - 1;
    }
    return c;
}

static clip read_clip(bench *b, imagine__weights *file, int number, const char *what)
{
    char name[64];
    clip c = { 0 };

    snprintf(name, sizeof name, "%d.%s", number, what);
    const imagine__tensor *t = imagine__weights_find(file, name);
    if (!t || t->ndim != 4 || t->dtype != IMAGINE_F32)
        return c;
    c = new_clip(t->shape[0], t->shape[1], t->shape[2], t->shape[3]);
    if (imagine__weights_read(file, t, 0, t->size, c.data, &err) < 0) {
        free(c.data);
        c.data = NULL;
    }
    (void)b;
    return c;
}

/* Planes of frames to frames of pixels (to 1) or back. */
static void swap_layout(clip *planes, float *pixels, int to)
{
    int64_t area = planes->height * planes->width;
    for (int64_t c = 0; c < planes->channels; c++)
        for (int64_t f = 0; f < planes->frames; f++)
            for (int64_t p = 0; p < area; p++) {
                float *plane = &planes->data[(c * planes->frames + f) * area + p];
                float *pixel = &pixels[(f * area + p) * planes->channels + c];
                *(to ? pixel : plane) = *(to ? plane : pixel);
            }
}

/* One latent frame of a clip as coders want it: [z, height, width]. */
static void latent_frame(clip *latents, int64_t frame, float *data, int to)
{
    size_t area = (size_t)(latents->height * latents->width);
    for (int64_t c = 0; c < latents->channels; c++) {
        float *at = latents->data + (size_t)(c * latents->frames + frame) * area;
        memcpy(to ? data + (size_t)c * area : at, to ? at : data + (size_t)c * area, area * sizeof(float));
    }
}

/* Decodes latent frames first..last-1 of the clip into their place in `out`, the pixels of the whole clip. */
static imagine_status decode_part(bench *b, clip *latents, int64_t first, int64_t last, float *out)
{
    const imagine__vae_config *c = imagine__vae_get_config(b->vae);
    clip one = new_clip(latents->channels, 1, latents->height, latents->width);
    int64_t size = latents->height * latents->width * c->spatial_factor * c->spatial_factor * 3;
    imagine_status status = IMAGINE_OK;

    for (int64_t f = first; f < last && status >= 0; f++) {
        int32_t made = -1;
        latent_frame(latents, f, one.data, 1);
        status = imagine__vae_decode_latent(b->coder, one.data, (int32_t)one.height, (int32_t)one.width,
                                            out + (f ? 1 + (f - 1) * c->temporal_factor : 0) * size, &made, &err);
        if (status >= 0)
            CHECK(made == (f ? c->temporal_factor : 1));
    }
    free(one.data);
    return status;
}

static clip frames_like(bench *b, const clip *latents)
{
    const imagine__vae_config *c = imagine__vae_get_config(b->vae);
    return new_clip(3, 1 + (latents->frames - 1) * c->temporal_factor, latents->height * c->spatial_factor,
                    latents->width * c->spatial_factor);
}

/* A whole clip, as pixels (layout [frame][y][x][channel]). */
static imagine_status decode(bench *b, clip *latents, float *pixels)
{
    imagine__vae_coder_reset(b->coder);
    return decode_part(b, latents, 0, latents->frames, pixels);
}

static imagine_status encode(bench *b, clip *frames, clip *latents)
{
    const imagine__vae_config *c = imagine__vae_get_config(b->vae);
    clip pixels = new_clip(3, frames->frames, frames->height, frames->width);
    clip one = new_clip(latents->channels, 1, latents->height, latents->width);
    imagine_status status = IMAGINE_OK;

    imagine__vae_coder_reset(b->coder);
    swap_layout(frames, pixels.data, 1);
    for (int64_t f = 0; f < latents->frames && status >= 0; f++) {
        const float *in = pixels.data + (f ? 1 + (f - 1) * c->temporal_factor : 0) * frames->height * frames->width * 3;
        status = imagine__vae_encode_frames(b->coder, in, (int32_t)frames->height, (int32_t)frames->width, one.data,
                                            &err);
        latent_frame(latents, f, one.data, 0);
    }
    free(one.data);
    free(pixels.data);
    return status;
}

/* ---- parity ------------------------------------------------------------------------------------------------------ */

#define LIMIT 1e-10

static double decode_nmse(bench *b, clip *latents, const clip *expected)
{
    clip got = frames_like(b, latents), pixels = frames_like(b, latents);
    double nmse = 1e300;
    if (got.count == expected->count && decode(b, latents, pixels.data) >= 0) {
        swap_layout(&got, pixels.data, 0);
        for (size_t i = 0; i < got.count; i++) /* the reference clamps */
            got.data[i] = got.data[i] < -1 ? -1 : got.data[i] > 1 ? 1 : got.data[i];
        nmse = test_nmse(got.data, expected->data, got.count);
    }
    free(got.data);
    free(pixels.data);
    return nmse;
}

static double encode_nmse(bench *b, clip *frames, const clip *expected)
{
    clip got = new_clip(expected->channels, expected->frames, expected->height, expected->width);
    double nmse = encode(b, frames, &got) < 0 ? 1e300 : test_nmse(got.data, expected->data, got.count);
    free(got.data);
    return nmse;
}

/* Every case of the file, with the kernels of `level`. */
static void check_cases(const char *folder, const char *cases, imagine_cpu_level level)
{
    bench b;
    imagine__weights *file = NULL;
    double worst[2] = { 0, 0 };
    int number = 0;

    REQUIRE_OK(open_bench(&b, folder, 1, level, 0));
    CHECK_OK(imagine__weights_open_file(&file, b.context, cases, &err));
    for (; file; number++) {
        clip frames = read_clip(&b, file, number, "frames"), encoded = read_clip(&b, file, number, "encoded");
        clip latents = read_clip(&b, file, number, "latents"), decoded = read_clip(&b, file, number, "decoded");
        int there = frames.data && encoded.data && latents.data && decoded.data;
        if (there) {
            double e = encode_nmse(&b, &frames, &encoded), d = decode_nmse(&b, &latents, &decoded);
            CHECK(e <= LIMIT);
            CHECK(d <= LIMIT);
            worst[0] = e > worst[0] ? e : worst[0];
            worst[1] = d > worst[1] ? d : worst[1];
        }
        free(frames.data);
        free(encoded.data);
        free(latents.data);
        free(decoded.data);
        if (!there)
            break;
    }
    CHECK(number > 0);
    printf("    %s kernels, %d clips: NMSE encode %.1e, decode %.1e\n", b.work.run.kernels->name, number, worst[0],
           worst[1]);
    imagine__weights_close(file);
    close_bench(&b);
}

static void check_pack(const char *name)
{
    char folder[64], cases[96];
    snprintf(folder, sizeof folder, "parity/vae/%s", name);
    snprintf(cases, sizeof cases, "parity/vae/%s/cases.safetensors", name);
    for (imagine_cpu_level level = IMAGINE_CPU_PLAIN; level <= IMAGINE_CPU_AVX512; level++)
        check_cases(test_path(folder), test_path(cases), level);
}

static void parity_f32(void)
{
    check_pack("f32");
}

static void parity_bf16(void)
{
    check_pack("bf16");
}

static void parity_early(void)
{
    check_pack("early");
}

static void parity_residual(void)
{
    check_pack("residual");
    check_pack("residual-bf16");
    check_pack("residual-narrow");
}

/* A latent frame for every frame, any number of them. */
static void parity_per_frame(void)
{
    check_pack("per-frame");
    check_pack("residual-per-frame");
}

/* A pack of the caller's: IMAGINE_VAE_PACK and IMAGINE_VAE_CASES name what make_vae.py was given. */
static void parity_given(void)
{
    const char *folder = getenv("IMAGINE_VAE_PACK"), *cases = getenv("IMAGINE_VAE_CASES");
    if (!folder || !cases)
        SKIP("IMAGINE_VAE_PACK and IMAGINE_VAE_CASES are not set");
    check_cases(folder, cases, IMAGINE_CPU_BEST);
}

static void parity_shipped(void)
{
    char folder[1100];
    snprintf(folder, sizeof folder, "%s/../models/tiny/vae", test_path(""));
    if (access(folder, R_OK) || access(test_path("parity/vae/tiny.safetensors"), R_OK))
        SKIP("models/tiny/vae or its cases are not there");
    check_cases(folder, test_path("parity/vae/tiny.safetensors"), IMAGINE_CPU_BEST);
}

/* ---- sameness ---------------------------------------------------------------------------------------------------- */

/* Packs of both kinds. */
static const char *const kinds[] = { "parity/vae/f32", "parity/vae/residual" };

/* A clip decoded and one encoded, into malloc'ed memory. */
static void code_both(const char *folder, int32_t threads, clip *decoded, clip *encoded)
{
    bench b;
    REQUIRE_OK(open_bench(&b, folder, threads, IMAGINE_CPU_BEST, 0));
    const imagine__vae_config *c = imagine__vae_get_config(b.vae);
    clip latents = random_clip(c->z_dim, 3, 5, 6);
    clip frames = random_clip(3, 5, 3 * c->spatial_factor, 5 * c->spatial_factor);
    *decoded = frames_like(&b, &latents);
    *encoded = new_clip(c->z_dim, 2, 3, 5);
    CHECK_OK(decode(&b, &latents, decoded->data));
    CHECK_OK(encode(&b, &frames, encoded));
    free(latents.data);
    free(frames.data);
    close_bench(&b);
}

static void same_for_any_threads(void)
{
    static const int32_t threads[] = { 1, 2, 7 };
    for (size_t k = 0; k < 2; k++) {
        clip decoded[3] = { 0 }, encoded[3] = { 0 };
        for (size_t i = 0; i < 3; i++) {
            code_both(test_path(kinds[k]), threads[i], &decoded[i], &encoded[i]);
            CHECK(decoded[i].data && encoded[i].data);
            if (i && decoded[i].data && encoded[i].data) {
                CHECK(!memcmp(decoded[0].data, decoded[i].data, decoded[i].count * sizeof(float)));
                CHECK(!memcmp(encoded[0].data, encoded[i].data, encoded[i].count * sizeof(float)));
            }
        }
        for (size_t i = 0; i < 3; i++) {
            free(decoded[i].data);
            free(encoded[i].data);
        }
    }
}

/* Two clips decoded in turn by two coders on one model, an encoding in between, and a picture: the same bytes. */
static void check_pieces(const char *folder)
{
    bench b;
    REQUIRE_OK(open_bench(&b, folder, 2, IMAGINE_CPU_BEST, 0));
    int32_t z = imagine__vae_get_config(b.vae)->z_dim;
    clip latents = random_clip(z, 4, 3, 2), whole = frames_like(&b, &latents), parts = frames_like(&b, &latents);
    clip other = random_clip(z, 4, 2, 5), other_frames = frames_like(&b, &other);
    clip other_parts = frames_like(&b, &other);
    size_t picture = (size_t)(3 * whole.height * whole.width);
    imagine__vae_coder *mine = b.coder, *second = NULL;

    CHECK_OK(decode(&b, &other, other_frames.data));
    CHECK_OK(decode(&b, &latents, whole.data));
    imagine__vae_coder_reset(mine);
    CHECK_OK(imagine__vae_coder_create(&second, b.vae, &b.work, &err));
    for (int64_t f = 0; f < latents.frames && second; f++) {
        b.coder = mine;
        CHECK_OK(decode_part(&b, &latents, f, f + 1, parts.data));
        b.coder = second;
        CHECK_OK(decode_part(&b, &other, f, f + 1, other_parts.data));
    }
    CHECK(!memcmp(whole.data, parts.data, whole.count * sizeof(float)));
    CHECK(!memcmp(other_frames.data, other_parts.data, other_parts.count * sizeof(float)));

    imagine__vae_coder_picture(b.coder);
    memset(parts.data, 0, picture * sizeof(float));
    CHECK_OK(decode_part(&b, &latents, 0, 1, parts.data));
    CHECK(!memcmp(whole.data, parts.data, picture * sizeof(float)));
    CHECK_STATUS(decode_part(&b, &latents, 1, 2, parts.data), IMAGINE_ERROR_STATE);

    imagine__vae_coder_free(second);
    b.coder = mine;
    free(latents.data);
    free(whole.data);
    free(parts.data);
    free(other.data);
    free(other_frames.data);
    free(other_parts.data);
    close_bench(&b);
}

static void same_in_pieces(void)
{
    for (size_t k = 0; k < 2; k++)
        check_pieces(test_path(kinds[k]));
}

/* ---- failures ---------------------------------------------------------------------------------------------------- */

/* Every allocation of a decode and an encode fails in turn; afterwards the same coder does it right. */
static void fail_allocations(const char *folder)
{
    bench b;
    REQUIRE_OK(open_bench(&b, folder, 1, IMAGINE_CPU_BEST, 0));
    int32_t z = imagine__vae_get_config(b.vae)->z_dim;
    clip latents = random_clip(z, 3, 2, 1), expected = frames_like(&b, &latents), got = frames_like(&b, &latents);
    clip coded = new_clip(z, 3, 2, 1);
    imagine_status status = IMAGINE_ERROR_NO_MEMORY;
    int n = 0;

    CHECK_OK(decode(&b, &latents, expected.data));
    for (; status == IMAGINE_ERROR_NO_MEMORY && n < 10000; n++) {
        imagine__vae_coder_reset(b.coder);
        imagine__arena_trim(b.work.arena);
        allocations_left = n;
        status = decode(&b, &latents, got.data);
        if (status >= 0)
            status = encode(&b, &expected, &coded);
        allocations_left = -1;
        if (status < 0) {
            CHECK(status == IMAGINE_ERROR_NO_MEMORY && strstr(err.message, "memory"));
            CHECK(decode_part(&b, &latents, 0, 1, got.data) >= 0 || err.status == IMAGINE_ERROR_STATE);
        }
    }
    CHECK_STATUS(status, IMAGINE_OK);
    CHECK(n > 20);
    CHECK_OK(decode(&b, &latents, got.data));
    CHECK(!memcmp(expected.data, got.data, got.count * sizeof(float)));
    free(latents.data);
    free(expected.data);
    free(got.data);
    free(coded.data);
    close_bench(&b);
}

static void every_allocation_fails(void)
{
    fail_allocations(test_path("parity/vae/early"));
    fail_allocations(test_path("parity/vae/residual-narrow"));
}

static void memory_limit(void)
{
    bench b;
    REQUIRE_OK(open_bench(&b, test_path("parity/vae/f32"), 1, IMAGINE_CPU_BEST, 16 << 20));
    clip small = random_clip(16, 2, 2, 3), pixels = frames_like(&b, &small);
    clip large = random_clip(16, 1, 64, 64), out = frames_like(&b, &large);
    float nothing[16] = { 0 };
    int32_t count;

    imagine__arena_trim(b.work.arena);
    uint64_t before = memory_used(&b);
    CHECK_STATUS(decode(&b, &large, out.data), IMAGINE_ERROR_NO_MEMORY);
    CHECK(strstr(err.message, "memory") != NULL);
    imagine__vae_coder_reset(b.coder);
    imagine__arena_trim(b.work.arena);
    CHECK(memory_used(&b) <= before + 4096); /* the arena's list of chunks stays */
    CHECK_OK(decode(&b, &small, pixels.data));

    /* Sizes whose products no number holds, and sizes that no machine holds: nothing of `nothing` is read. */
    static const int32_t sizes[][2] = { { INT32_MAX, INT32_MAX }, { 1 << 20, 1 << 20 }, { 1 << 15, 1 << 14 } };
    for (size_t i = 0; i < 3; i++) {
        imagine__vae_coder_reset(b.coder);
        CHECK_STATUS(imagine__vae_decode_latent(b.coder, nothing, sizes[i][0], sizes[i][1], nothing, &count, &err),
                     IMAGINE_ERROR_NO_MEMORY);
        imagine__vae_coder_reset(b.coder);
        CHECK_STATUS(imagine__vae_encode_frames(b.coder, nothing, sizes[i][0] & ~7, sizes[i][1] & ~7, nothing, &err),
                     IMAGINE_ERROR_NO_MEMORY);
    }
    free(small.data);
    free(pixels.data);
    free(large.data);
    free(out.data);
    close_bench(&b);
}

/* A clip of one frame keeps nothing: its peak lies well below that of a clip's first frame. */
static void picture_needs_less(void)
{
    uint64_t peak[2];
    for (int picture = 0; picture < 2; picture++) {
        bench b;
        imagine_context_info info = { .struct_size = sizeof info };
        REQUIRE_OK(open_bench(&b, test_path("parity/vae/f32"), 1, IMAGINE_CPU_BEST, 0));
        clip latents = random_clip(16, 1, 16, 16), pixels = frames_like(&b, &latents);
        uint64_t before = memory_used(&b);
        imagine_context_reset_peak(b.context);
        if (picture)
            imagine__vae_coder_picture(b.coder);
        CHECK_OK(decode_part(&b, &latents, 0, 1, pixels.data));
        CHECK_OK(imagine_context_get_info(b.context, &info, &err));
        peak[picture] = info.memory_peak - before;
        free(latents.data);
        free(pixels.data);
        close_bench(&b);
    }
    CHECK(peak[1] * 3 < peak[0] * 2);
}

static void cancelled(void)
{
    bench b;
    REQUIRE_OK(open_bench(&b, test_path("parity/vae/f32"), 2, IMAGINE_CPU_BEST, 0));
    clip latents = random_clip(16, 2, 2, 3), expected = frames_like(&b, &latents), got = frames_like(&b, &latents);

    CHECK_OK(decode(&b, &latents, expected.data));
    imagine__vae_coder_reset(b.coder);
    CHECK_OK(decode_part(&b, &latents, 0, 1, got.data));
    imagine_cancel_fire(b.cancel);
    CHECK_STATUS(decode_part(&b, &latents, 1, 2, got.data), IMAGINE_ERROR_CANCELLED);
    imagine_cancel_reset(b.cancel);
    CHECK_STATUS(decode_part(&b, &latents, 1, 2, got.data), IMAGINE_ERROR_STATE);
    CHECK_OK(decode(&b, &latents, got.data));
    CHECK(!memcmp(expected.data, got.data, got.count * sizeof(float)));
    free(latents.data);
    free(expected.data);
    free(got.data);
    close_bench(&b);
}

static void sizes_refused(void)
{
    bench b;
    float values[16 * 64] = { 0 };
    int32_t count;

    REQUIRE_OK(open_bench(&b, test_path("parity/vae/f32"), 1, IMAGINE_CPU_BEST, 0));
    static float frame[3 * 16 * 16];
    CHECK_STATUS(imagine__vae_encode_frames(b.coder, frame, 12, 8, values, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "multiples of 8") != NULL);
    CHECK_STATUS(imagine__vae_decode_latent(b.coder, values, 0, 1, frame, &count, &err),
                 IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_OK(imagine__vae_decode_latent(b.coder, values, 1, 2, frame, &count, &err));
    CHECK_STATUS(imagine__vae_decode_latent(b.coder, values, 2, 1, frame, &count, &err),
                 IMAGINE_ERROR_INVALID_ARGUMENT);
    close_bench(&b);
}

/* ---- configurations ---------------------------------------------------------------------------------------------- */

static const char base_config[] =
    "\"base_dim\": 4, \"dim_mult\": [1, 2, 2, 1], \"num_res_blocks\": 1, \"temperal_downsample\": [false, true, true]";
static const char base_latents[] = "\"z_dim\": 2, \"latents_mean\": [0, 1], \"latents_std\": [1, 2.5]";

static imagine_status read_config(imagine__vae_config *config, const char *text)
{
    imagine_context *context = NULL;
    char folder[] = "/tmp/imagine-vae-XXXXXX", path[64];
    imagine_status status = IMAGINE_ERROR_IO;
    FILE *file;

    if (!mkdtemp(folder))
        return status;
    snprintf(path, sizeof path, "%s/config.json", folder);
    if ((file = fopen(path, "w"))) {
        fputs(text, file);
        fclose(file);
        status = imagine_context_create(&context, NULL, &err);
        if (status >= 0)
            status = imagine__vae_read_config(config, context, folder, &err);
        imagine_context_release(&context);
    }
    unlink(path);
    rmdir(folder);
    return status;
}

/* `values` in place of, or beside, the keys of a good configuration: refused with `key` and `value` in the message. */
static void refuse(const char *base, const char *latents, const char *values, const char *key, const char *value)
{
    imagine__vae_config config;
    char text[1024];
    snprintf(text, sizeof text, "{ %s%s%s%s%s }", base, *base && *latents ? ", " : "", latents,
             *values ? ", " : "", values);
    imagine_status status = read_config(&config, text);
    if (status >= 0 || !strstr(err.message, key) || !strstr(err.message, value)) {
        test_fail(__FILE__, __LINE__, values);
        fprintf(stderr, "    got %d: %s\n", (int)status, status < 0 ? err.message : "");
    }
}

static void configurations(void)
{
    static const char *const extra[][3] = {
        { "\"is_residual\": 1", "is_residual", "1" },
        { "\"in_channels\": 12", "in_channels", "12" },
        { "\"out_channels\": 12", "out_channels", "12" },
        { "\"patch_size\": 2", "in_channels", "12" },
        { "\"patch_size\": 2, \"in_channels\": 12", "out_channels", "12" },
        { "\"patch_size\": 9", "patch_size", "9" },
        { "\"patch_size\": \"2\"", "patch_size", "2" },
        { "\"patch_size\": 2, \"in_channels\": 12, \"out_channels\": 12, \"scale_factor_spatial\": 8",
          "scale_factor_spatial", "8" },
        { "\"attn_scales\": [0.5]", "attn_scales", "0.5" },
        { "\"scale_factor_spatial\": 16", "scale_factor_spatial", "16" },
        { "\"scale_factor_temporal\": 8", "scale_factor_temporal", "8" },
        { "\"decoder_base_dim\": 0", "decoder_base_dim", "0" },
        { "\"decoder_base_dim\": 1", "decoder_base_dim", "single channel" },
        { "\"decoder_base_dim\": \"x\"", "decoder_base_dim", "x" },
        { "\"clip_outputs\": false", "clip_outputs", "" },
        { "\"_class_name\": \"AutoencoderKL\"", "_class_name", "AutoencoderKL" },
    };
    imagine__vae_config config;
    char text[1024];

    for (size_t i = 0; i < sizeof extra / sizeof extra[0]; i++)
        refuse(base_config, base_latents, extra[i][0], extra[i][1], extra[i][2]);
    refuse(base_config, "\"z_dim\": 3, \"latents_mean\": [0, 1], \"latents_std\": [1, 2]", "", "latents_mean", "2");
    refuse(base_config, "\"z_dim\": 2, \"latents_mean\": [0, 1], \"latents_std\": [1, 0]", "", "latents_std", "0");
    refuse(base_config, "\"z_dim\": 2, \"latents_mean\": [0, 1]", "", "latents_std", "0");
    refuse("\"dim_mult\": [1, 2], \"temperal_downsample\": [true, true]", base_latents, "", "temperal_downsample", "2");
    refuse("\"dim_mult\": [1, 2, 2, 2], \"temperal_downsample\": [true, true, true]", base_latents, "",
           "temperal_downsample", "3");
    refuse("\"dim_mult\": [1, 3, 3, 3]", base_latents, "\"is_residual\": true", "dim_mult", "at 3");
    refuse("\"dim_mult\": [1, 2, 2, 4]", base_latents, "\"is_residual\": true", "dim_mult", "at 4");
    refuse("\"dim_mult\": [1, 2.5, 4, 4]", base_latents, "", "dim_mult", "2.5");

    snprintf(text, sizeof text, "{ %s, %s, \"decoder_base_dim\": null, \"patch_size\": null, \"dropout\": 0.0, "
             "\"_diffusers_version\": \"0\", \"scale_factor_temporal\": 4, \"scale_factor_spatial\": 8 }", base_config,
             base_latents);
    REQUIRE_OK(read_config(&config, text));
    CHECK(config.decoder_base_dim == 4 && config.spatial_factor == 8 && config.temporal_factor == 4);
    CHECK(config.levels == 4 && config.dim_mult[2] == 2 && config.std[1] == 2.5f && config.mean[1] == 1);
    CHECK(!config.residual && config.patch == 1);

    snprintf(text, sizeof text, "{ %s, \"is_residual\": true, \"patch_size\": 2, \"in_channels\": 12, "
             "\"out_channels\": 12, \"scale_factor_spatial\": 16, \"clip_output\": false }", base_latents); /* as the published one */
    REQUIRE_OK(read_config(&config, text));
    CHECK(config.residual && config.patch == 2 && config.spatial_factor == 16 && config.temporal_factor == 4);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "parity_f32", parity_f32 },
        { "parity_bf16", parity_bf16 },
        { "parity_early", parity_early },
        { "parity_residual", parity_residual },
        { "parity_per_frame", parity_per_frame },
        { "parity_shipped", parity_shipped },
        { "parity_given", parity_given },
        { "same_for_any_threads", same_for_any_threads },
        { "same_in_pieces", same_in_pieces },
        { "every_allocation_fails", every_allocation_fails },
        { "memory_limit", memory_limit },
        { "picture_needs_less", picture_needs_less },
        { "cancelled", cancelled },
        { "sizes_refused", sizes_refused },
        { "configurations", configurations },
    };
    return test_main("vae", cases, sizeof cases / sizeof cases[0], argc, argv);
}
