/* SPDX-License-Identifier: MIT */

/* Contexts that compute on a GPU, on the emulated module: every stage beside the CPU's. While none of the module's functions
 * runs its memory cannot be looked into, so code of the library that follows a device pointer ends the program. With a real
 * module the same runs on a GPU. */

#include <unistd.h>

#include "cuda.h"

static void text(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    pair p = open_pair(PACK, &err);
    imagine_model *models[2] = { p.cpu, p.gpu };
    imagine_buffer *embeds[2] = { NULL, NULL };
    REQUIRE(p.cpu && p.gpu);
    for (int i = 0; i < 2; i++) {
        imagine_text *stage = NULL;
        CHECK_OK(imagine_text_create(&stage, models[i], NULL, &err));
        CHECK_OK(imagine_text_encode(stage, "a red apple on a table", NULL, &embeds[i], &err));
        imagine_text_destroy(&stage);
    }
    CHECK(close_to(embeds[1], embeds[0], "hidden states"));
    for (int i = 0; i < 2; i++)
        imagine_buffer_release(&embeds[i]);
    close_pair(&p);
}

static void denoise(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    pair p = open_pair(PACK, &err);
    imagine_model *models[2] = { p.cpu, p.gpu };
    imagine_buffer *samples[2] = { NULL, NULL };
    imagine_context *context = open_context(1, &err);
    REQUIRE(p.cpu && p.gpu && context);
    imagine_buffer *x = floats(context, 5, (int64_t[]){ 2, 16, 2, 4, 6 }, &err);
    imagine_buffer *t = floats(context, 1, (int64_t[]){ 2 }, &err);
    imagine_buffer *embeds = floats(context, 3, (int64_t[]){ 2, 5, 16 }, &err);
    REQUIRE(x && t && embeds);
    ((float *)imagine_buffer_data(t))[0] = 981;
    ((float *)imagine_buffer_data(t))[1] = 17.5f;
    for (int i = 0; i < 2; i++) {
        imagine_sampler *stage = NULL;
        CHECK_OK(imagine_sampler_create(&stage, models[i], NULL, &err));
        CHECK_OK(imagine_sampler_denoise(stage, x, t, embeds, &samples[i], &err));
        imagine_sampler_destroy(&stage);
    }
    CHECK(close_to(samples[1], samples[0], "transformer"));
    for (int i = 0; i < 2; i++)
        imagine_buffer_release(&samples[i]);
    imagine_buffer_release(&embeds);
    imagine_buffer_release(&t);
    imagine_buffer_release(&x);
    imagine_context_release(&context);
    close_pair(&p);
}

/* Encodes and decodes a clip with both; `tile` in pixels, 0: none. */
static void code(const char *pack, int64_t frames, int64_t height, int64_t width, int32_t tile)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    pair p = open_pair(pack, &err);
    imagine_model *models[2] = { p.cpu, p.gpu };
    imagine_buffer *latents[2] = { NULL, NULL }, *decoded[2] = { NULL, NULL }, *bytes[2] = { NULL, NULL };
    imagine_context *context = open_context(1, &err);
    REQUIRE(p.cpu && p.gpu && context);
    imagine_buffer *clip = floats(context, 4, (int64_t[]){ 3, frames, height, width }, &err);
    imagine_vae_options options;
    imagine_vae_options_init(&options, sizeof options);
    options.tile_height = options.tile_width = tile;
    for (int i = 0; i < 2; i++) {
        imagine_vae *stage = NULL;
        CHECK_OK(imagine_vae_create(&stage, models[i], &options, &err));
        CHECK_OK(imagine_vae_encode(stage, clip, &latents[i], &err));
        CHECK_OK(imagine_vae_decode(stage, latents[0], IMAGINE_F32, &decoded[i], &err));
        CHECK_OK(imagine_vae_decode(stage, latents[0], IMAGINE_U8, &bytes[i], &err));
        imagine_vae_destroy(&stage);
    }
    CHECK(close_to(latents[1], latents[0], tile ? "latents, tiles" : "latents"));
    CHECK(close_to(decoded[1], decoded[0], tile ? "frames, tiles" : "frames"));
    int differ = 0;
    for (size_t i = 0; bytes[0] && bytes[1] && i < imagine_buffer_size(bytes[0]); i++) {
        int d = ((uint8_t *)imagine_buffer_data(bytes[0]))[i] - ((uint8_t *)imagine_buffer_data(bytes[1]))[i];
        CHECK(d >= -1 && d <= 1);
        differ += d != 0;
    }
    CHECK(bytes[0] && bytes[1] && differ * 1000 < (int)imagine_buffer_size(bytes[0]));
    for (int i = 0; i < 2; i++) {
        imagine_buffer_release(&latents[i]);
        imagine_buffer_release(&decoded[i]);
        imagine_buffer_release(&bytes[i]);
    }
    imagine_buffer_release(&clip);
    imagine_context_release(&context);
    close_pair(&p);
}

static void vae(void)
{
    code(PACK, 5, 16, 24, 0);
}

static void vae_tiles(void)
{
    code(PACK, 5, 32, 48, 16);
}

/* Wan 2.2's kind of VAE: patches of pixels, and shortcuts. */
static void vae_of_patches(void)
{
    char folder[] = "/tmp/imagine-cuda-XXXXXX", link[64];
    REQUIRE(mkdtemp(folder));
    snprintf(link, sizeof link, "%s/vae", folder);
    CHECK(!symlink(test_path("parity/vae/residual"), link));
    code(folder, 5, 32, 16, 0);
    unlink(link);
    rmdir(folder);
}

/* Frames decoded on the host, or on the device with factors in bf16; `tile` in pixels, 0: none; NULL after a failure. */
static imagine_buffer *decode(int device, int32_t tile, const imagine_buffer *latents, imagine_error *err)
{
    imagine_context_options options;
    imagine_vae_options how;
    imagine_context *context = NULL;
    imagine_model *model = NULL;
    imagine_vae *stage = NULL;
    imagine_buffer *frames = NULL;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    options.device = device ? IMAGINE_DEVICE_CUDA : IMAGINE_DEVICE_CPU;
    options.precision = device ? IMAGINE_PRECISION_BF16 : IMAGINE_PRECISION_F32;
    imagine_vae_options_init(&how, sizeof how);
    how.tile_width = tile;
    if (imagine_context_create(&context, &options, err) >= 0 && imagine_model_open(&model, context, PACK, NULL, err) >= 0 &&
        imagine_vae_create(&stage, model, &how, err) >= 0)
        imagine_vae_decode(stage, latents, IMAGINE_F32, &frames, err);
    imagine_vae_destroy(&stage);
    imagine_model_release(&model);
    imagine_context_release(&context);
    return frames;
}

/* With cuDNN (a stand-in for it) the VAE gives what it gives without, but for sums that are rounded to bf16: about as far again from
 * the host's as it is for its factors in bf16. */
static void libraries(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_buffer *frames[3] = { NULL, NULL, NULL };
    int calls = 0;
    if (!emulated.libraries)
        SKIP("this module's libraries do not come and go");
    REQUIRE(context);
    imagine_buffer *latents = floats(context, 4, (int64_t[]){ 16, 2, 2, 4 }, &err);
    for (int i = 0; i < 2; i++) {
        emulated.libraries(i);
        frames[i] = decode(1, 0, latents, &err);
        calls = emulated.library_calls();
        CHECK(frames[i] && (i ? calls > 0 : !calls));
    }
    frames[2] = decode(0, 0, latents, &err);
    double own = difference(frames[0], frames[2]), library = difference(frames[1], frames[2]);
    printf("    %d calls, NMSE %.2g, without %.2g\n", calls, library, own);
    CHECK(own < 1e-3 && library < 3 * own && own < 3 * library);
    for (int i = 0; i < 3; i++)
        imagine_buffer_release(&frames[i]); /* and with it its context, and what the libraries have in that */
    imagine_buffer_release(&latents);
    imagine_context_release(&context);
    emulated.libraries(0);
}

/* In tiles cuDNN computes the same convolutions: those of the levels for each tile, once those before them. */
static void libraries_and_tiles(void)
{
    enum { LATENTS = 3, TILES = 3, MIDDLE = 7 }; /* frames; calls up to the levels for each of them */
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    float *first = NULL;
    int calls[2] = { 0, 0 };
    if (!emulated.libraries)
        SKIP("this module's libraries do not come and go");
    REQUIRE(context);
    imagine_buffer *latents = floats(context, 4, (int64_t[]){ 16, LATENTS, 4, 15 }, &err);
    for (int i = 0; i < 2; i++) {
        emulated.libraries(1);
        imagine_buffer *frames = decode(1, i ? 40 : 0, latents, &err);
        calls[i] = emulated.library_calls();
        REQUIRE(frames);
        size_t size = imagine_buffer_size(frames);
        if (!first && (first = malloc(size)))
            memcpy(first, imagine_buffer_data(frames), size);
        else if (first)
            CHECK(test_nmse(imagine_buffer_data(frames), first, size / sizeof *first) < 1e-10);
        imagine_buffer_release(&frames);
    }
    printf("    %d calls, in tiles %d\n", calls[0], calls[1]);
    CHECK(calls[1] == TILES * (calls[0] - LATENTS * MIDDLE) + LATENTS * MIDDLE);
    free(first);
    imagine_buffer_release(&latents);
    imagine_context_release(&context);
    emulated.libraries(0);
}

/* What the sampler does in between: known and initial latents, guidance's rescaling, new noise. *transfers receives the copies
 * between the device and the host that the steps after the first made, where the module counts them. */
static imagine_buffer *sample(imagine_model *model, const imagine_sampler_options *options, int known, uint64_t *transfers,
                              imagine_error *err)
{
    imagine_sampler *sampler = NULL;
    imagine_buffer *latents = NULL, *init = NULL, *mask = NULL, *text[2] = { NULL, NULL };
    imagine_context *context = open_context(1, err);
    random_state = 5;
    if (!context)
        return NULL;
    init = floats(context, 4, (int64_t[]){ 16, 2, 4, 4 }, err);
    mask = floats(context, 3, (int64_t[]){ 2, 4, 4 }, err);
    for (int i = 0; i < 2; i++)
        text[i] = floats(context, 2, (int64_t[]){ 7, 16 }, err);
    for (int i = 0; i < 32; i++)
        ((float *)imagine_buffer_data(mask))[i] = i % 5 == 0 || i < 8;
    int good = imagine_sampler_create(&sampler, model, options, err) >= 0 &&
               imagine_sampler_set_text(sampler, text[0], text[1], err) >= 0 &&
               imagine_sampler_set_init(sampler, options->strength < 1 ? init : NULL, err) >= 0 &&
               imagine_sampler_set_known(sampler, known ? init : NULL, known ? mask : NULL, err) >= 0 &&
               imagine_sampler_begin(sampler, NULL, err) >= 0;
    for (int i = 0; i < options->steps && good; i++) {
        if (i == 1 && emulated.transfers)
            *transfers = emulated.transfers();
        good = imagine_sampler_step(sampler, NULL, err) >= 0 || err->status == IMAGINE_ERROR_STATE;
    }
    if (emulated.transfers)
        *transfers = emulated.transfers() - *transfers;
    if (good)
        imagine_sampler_get_latents(sampler, 0, &latents, err);
    imagine_sampler_destroy(&sampler);
    for (int i = 0; i < 2; i++)
        imagine_buffer_release(&text[i]);
    imagine_buffer_release(&mask);
    imagine_buffer_release(&init);
    imagine_context_release(&context);
    return latents;
}

static void sampling(void)
{
    static const struct {
        const char *name;
        imagine_step_rule rule;
        double strength, rescale;
        int known;
        imagine_known_mode mode;
        imagine_cfg_mode cfg;
    } ways[] = { { "initial latents, in turn", IMAGINE_STEP_DEFAULT, 0.6, 0, 0, IMAGINE_KNOWN_AUTO, IMAGINE_CFG_IN_TURN },
                 { "known latents, clean", IMAGINE_STEP_DEFAULT, 1, 0, 1, IMAGINE_KNOWN_CLEAN, IMAGINE_CFG_AUTO },
                 { "known latents, noised, Heun", IMAGINE_STEP_HEUN, 1, 0, 1, IMAGINE_KNOWN_RENOISED, IMAGINE_CFG_AUTO },
                 { "rescaled, ancestral", IMAGINE_STEP_ANCESTRAL, 1, 0.7, 0, IMAGINE_KNOWN_AUTO, IMAGINE_CFG_BATCHED } };
    imagine_error err = IMAGINE_ERROR_INIT;
    pair p = open_pair(PACK, &err);
    uint64_t transfers = 0, fewest = 0;
    REQUIRE(p.cpu && p.gpu);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        imagine_sampler_options o;
        imagine_sampler_options_init(&o, sizeof o);
        o.steps = 3;
        o.width = o.height = 32;
        o.frames = 5;
        o.guidance = 4;
        o.step_rule = ways[i].rule;
        o.strength = ways[i].strength;
        o.guidance_rescale = ways[i].rescale;
        o.known_mode = ways[i].mode;
        o.cfg_mode = ways[i].cfg;
        imagine_buffer *cpu = sample(p.cpu, &o, ways[i].known, &transfers, &err);
        imagine_buffer *gpu = sample(p.gpu, &o, ways[i].known, &transfers, &err);
        o.guidance_rescale = 0; /* neither this nor known latents goes through the host in a step */
        imagine_buffer *plain = sample(p.gpu, &o, 0, &fewest, &err);
        CHECK(plain && transfers == fewest);
        imagine_buffer_release(&plain);
        if (!cpu || !gpu)
            fprintf(stderr, "    %s\n", err.message);
        CHECK(close_to(gpu, cpu, ways[i].name));
        imagine_buffer_release(&gpu);
        imagine_buffer_release(&cpu);
    }
    close_pair(&p);
}

/* From a prompt to frames, latents compared step by step and at the end. */
static void pipeline(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    pair p = open_pair(PACK, &err);
    imagine_model *models[2] = { p.cpu, p.gpu };
    imagine_buffer *latents[2] = { NULL, NULL }, *frames[2] = { NULL, NULL };
    REQUIRE(p.cpu && p.gpu);
    for (int i = 0; i < 2; i++) {
        imagine_job_options options;
        imagine_job *job = NULL;
        imagine_event event = { .struct_size = sizeof event };
        imagine_job_options_init(&options, sizeof options);
        options.prompt = "a red apple";
        options.events = 0xffffffffu;
        REQUIRE_OK(imagine_job_create(&job, models[i], &options, &err));
        do {
            REQUIRE_OK(imagine_job_next(job, &event, -1, &err));
            if (event.kind == IMAGINE_EVENT_LATENTS)
                latents[i] = imagine_buffer_retain(event.latents);
            if (event.kind == IMAGINE_EVENT_FRAMES && !event.first_frame)
                frames[i] = imagine_buffer_retain(event.frames);
        } while (event.kind != IMAGINE_EVENT_DONE);
        CHECK(event.frame_count == 5);
        imagine_job_destroy(&job);
    }
    CHECK(close_to(latents[1], latents[0], "latents after 4 steps"));
    CHECK(frames[0] && frames[1] && imagine_buffer_size(frames[0]) == imagine_buffer_size(frames[1]));
    for (size_t i = 0; frames[0] && frames[1] && i < imagine_buffer_size(frames[0]); i++) {
        int d = ((uint8_t *)imagine_buffer_data(frames[0]))[i] - ((uint8_t *)imagine_buffer_data(frames[1]))[i];
        CHECK(d >= -1 && d <= 1);
    }
    for (int i = 0; i < 2; i++) {
        imagine_buffer_release(&latents[i]);
        imagine_buffer_release(&frames[i]);
    }
    close_pair(&p);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "text", text }, { "denoise", denoise }, { "vae", vae }, { "vae tiles", vae_tiles },
        { "vae of patches", vae_of_patches }, { "libraries", libraries }, { "libraries and tiles", libraries_and_tiles },
        { "sampling", sampling }, { "pipeline", pipeline },
    };
    find_hooks();
    return test_main("api/cuda", cases, sizeof cases / sizeof *cases, argc, argv);
}
