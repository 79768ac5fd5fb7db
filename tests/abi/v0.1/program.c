/* SPDX-License-Identifier: MIT */

/* A program of version 0.1: compiled against the headers beside it, linked against a stand-in that exports what 0.1
 * exported, and run with the library of today. It uses every function of 0.1, and every struct in its size of then with a
 * guard behind it. */

#include <poll.h>
#include <unistd.h>

#include <imagine/imagine.h>

#include "../../test.h"

#define PACK test_path("packs/two-layer")

/* A struct that the library fills in, with bytes behind it that it must not touch. */
#define GUARDED(type)       \
    struct {                \
        type value;         \
        uint64_t guard[16]; \
    }
#define ARM(x) memset((x).guard, 0xa5, sizeof (x).guard)
#define INTACT(x) (memchr_not((x).guard, 0xa5, sizeof (x).guard) == 0)

static int memchr_not(const void *bytes, int byte, size_t size)
{
    const unsigned char *at = bytes;
    for (size_t i = 0; i < size; i++)
        if (at[i] != byte)
            return 1;
    return 0;
}

static imagine_context *open_context(imagine_error *error)
{
    GUARDED(imagine_context_options) options;
    imagine_context *context = NULL;
    ARM(options);
    imagine_context_options_init(&options.value, sizeof options.value);
    options.value.threads = 2;
    imagine_context_create(&context, &options.value, error);
    CHECK(INTACT(options));
    return context;
}

static imagine_model *open_model(imagine_context *context, imagine_error *error)
{
    GUARDED(imagine_model_options) options;
    imagine_model *model = NULL;
    ARM(options);
    imagine_model_options_init(&options.value, sizeof options.value);
    imagine_model_open(&model, context, PACK, &options.value, error);
    CHECK(INTACT(options));
    return model;
}

static void versions(void)
{
    CHECK(IMAGINE_VERSION_NUMBER == 1000 && imagine_version_number() >= IMAGINE_VERSION_NUMBER);
    CHECK(imagine_version_number() < 1000000 && strncmp(imagine_version_string(), "0.", 2) == 0);
#define NAMED(name, number, text) CHECK(!strcmp(imagine_status_name(number), #name) && *imagine_status_text(number));
    IMAGINE_STATUS_LIST(NAMED)
}

static void contexts(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(&err), *again;
    GUARDED(imagine_context_info) info = { .value.struct_size = sizeof info.value };
    GUARDED(imagine_bench_row) row = { .value.struct_size = sizeof row.value };
    imagine_cancel *cancel, *same;
    REQUIRE(context);
    again = imagine_context_retain(context);
    imagine_context_release(&again);
    imagine_context_reset_peak(context);
    ARM(info);
    REQUIRE_OK(imagine_context_get_info(context, &info.value, &err));
    CHECK(info.value.threads == 2 && info.value.memory_peak == info.value.memory_used && INTACT(info));
    REQUIRE_OK(imagine_cancel_create(&cancel, context, &err));
    same = imagine_cancel_retain(cancel);
    imagine_cancel_fire(cancel);
    CHECK(imagine_cancel_fired(same) == 1);
    imagine_cancel_reset(same);
    CHECK(imagine_cancel_fired(cancel) == 0);
    imagine_cancel_release(&same);
    imagine_cancel_release(&cancel);
    ARM(row);
    REQUIRE_OK(imagine_bench_describe(0, &row.value, &err));
    CHECK(!strcmp(row.value.kind, "peak") && row.value.struct_size == sizeof row.value && INTACT(row));
    CHECK_STATUS(imagine_bench(context, 1000000, &row.value, &err), IMAGINE_ERROR_NOT_FOUND);
    imagine_context_release(&context);
}

static int released;

static void count_release(void *user_data, void *data)
{
    released += user_data == data;
}

static void buffers(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(&err);
    imagine_buffer *made, *wrapped, *kept, *loaded;
    float memory[6] = { 1, 2, 3, 4, 5, 6 };
    GUARDED(imagine_buffer_info) info = { .value.struct_size = sizeof info.value };
    char folder[] = P_tmpdir "/imagine-test-XXXXXX", path[64];
    REQUIRE(context && mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a.safetensors", folder);
    REQUIRE_OK(imagine_buffer_create(&made, context, IMAGINE_U8, 4, (int64_t[]){ 2, 4, 4, 3 }, &err));
    REQUIRE_OK(imagine_buffer_wrap(&wrapped, context, IMAGINE_F32, 2, (int64_t[]){ 2, 3 }, memory, count_release, memory,
                                   &err));
    ARM(info);
    REQUIRE_OK(imagine_buffer_get_info(wrapped, &info.value, &err));
    CHECK(info.value.dtype == IMAGINE_F32 && info.value.ndim == 2 && info.value.shape[1] == 3 && info.value.data == memory);
    CHECK(info.value.size == sizeof memory && INTACT(info));
    REQUIRE_OK(imagine_buffer_save(context, path, 1, &wrapped, (const char *const[]){ "x" }, &err));
    REQUIRE_OK(imagine_buffer_load(&loaded, context, path, "x", &err));
    CHECK(imagine_buffer_size(loaded) == sizeof memory && !memcmp(imagine_buffer_data(loaded), memory, sizeof memory));
    unlink(path);
    imagine_buffer_release(&loaded);
    kept = imagine_buffer_retain(wrapped);
    imagine_buffer_release(&wrapped);
    CHECK(!released);
    imagine_buffer_release(&kept);
    CHECK(released == 1);
    snprintf(path, sizeof path, "%s/a.png", folder);
    REQUIRE_OK(imagine_picture_save(context, path, made, 8, &err));
    REQUIRE_OK(imagine_picture_load(&loaded, context, path, &err));
    CHECK(imagine_buffer_size(loaded) == 2 * 4 * 4 * 3);
    unlink(path);
    rmdir(folder);
    imagine_buffer_release(&loaded);
    imagine_buffer_release(&made);
    imagine_context_release(&context);
}

/* Prompt to embeddings, F32 [length, text_dim]. */
static imagine_buffer *encode(imagine_model *model, const char *prompt, imagine_error *error)
{
    GUARDED(imagine_text_options) options;
    imagine_text *text = NULL;
    imagine_buffer *ids = NULL, *tokens = NULL, *embeds = NULL;
    ARM(options);
    imagine_text_options_init(&options.value, sizeof options.value);
    imagine_text_create(&text, model, &options.value, error);
    CHECK(INTACT(options) && text);
    CHECK(text && imagine_text_encode(text, prompt, &ids, &embeds, error) == IMAGINE_OK);
    CHECK(text && imagine_text_tokenize(text, prompt, 0, &tokens, error) == IMAGINE_OK);
    CHECK(imagine_buffer_size(ids) && imagine_buffer_size(ids) == imagine_buffer_size(tokens));
    imagine_buffer_release(&ids);
    imagine_buffer_release(&tokens);
    imagine_text_destroy(&text);
    return embeds;
}

/* The stage handle by itself: noise to latents, 4 steps. */
static imagine_buffer *sample(imagine_model *model, const imagine_buffer *text, imagine_error *error)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    GUARDED(imagine_sampler_options) options;
    GUARDED(imagine_step_info) info = { .value.struct_size = sizeof info.value };
    imagine_sampler *sampler = NULL;
    imagine_buffer *latents = NULL, *estimate = NULL;
    double sigmas[5];
    ARM(options);
    ARM(info);
    imagine_sampler_options_init(&options.value, sizeof options.value);
    options.value.seed = 7;
    options.value.guidance = 1;
    CHECK_OK(imagine_sampler_create(&sampler, model, &options.value, &err));
    CHECK(INTACT(options) && imagine_sampler_get_sigmas(sampler, sigmas, 5) == 5 && sigmas[0] > sigmas[1] && sigmas[4] == 0);
    CHECK_OK(imagine_sampler_set_text(sampler, text, NULL, &err));
    CHECK_OK(imagine_sampler_begin(sampler, NULL, &err));
    for (int step = 0; step < 4; step++)
        CHECK_OK(imagine_sampler_step(sampler, &info.value, &err));
    CHECK(info.value.step == 4 && info.value.steps == 4 && info.value.sigma == 0 && INTACT(info));
    CHECK_OK(imagine_sampler_get_estimate(sampler, 0, &estimate, &err));
    imagine_buffer_release(&estimate);
    CHECK_STATUS(imagine_sampler_denoise(sampler, NULL, NULL, NULL, &estimate, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    imagine_sampler_get_latents(sampler, 0, &latents, error);
    imagine_sampler_destroy(&sampler);
    return latents;
}

/* Whole, and as a clip that comes in pieces; the frames of both are the same. */
static imagine_buffer *decode(imagine_model *model, const imagine_buffer *latents, imagine_error *error)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    GUARDED(imagine_vae_options) options;
    imagine_vae *vae = NULL;
    imagine_buffer *frames = NULL, *piece = NULL, *back = NULL;
    ARM(options);
    imagine_vae_options_init(&options.value, sizeof options.value);
    CHECK_OK(imagine_vae_create(&vae, model, &options.value, &err));
    CHECK(INTACT(options));
    imagine_vae_reset(vae);
    CHECK_OK(imagine_vae_decode_next(vae, latents, IMAGINE_U8, &piece, &err));
    imagine_vae_decode(vae, latents, IMAGINE_U8, &frames, error);
    CHECK(frames && imagine_buffer_size(frames) == imagine_buffer_size(piece) &&
          !memcmp(imagine_buffer_data(frames), imagine_buffer_data(piece), imagine_buffer_size(frames)));
    CHECK_OK(imagine_vae_encode(vae, frames, &back, &err));
    CHECK(imagine_buffer_size(back) == imagine_buffer_size(latents));
    imagine_buffer_release(&back);
    imagine_buffer_release(&piece);
    imagine_vae_destroy(&vae);
    return frames;
}

/* Takes the job to its end and compares its frames with `expected` as they come. */
static void follow(imagine_job *job, const imagine_buffer *expected)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    GUARDED(imagine_event) event = { .value.struct_size = sizeof event.value };
    GUARDED(imagine_job_info) info = { .value.struct_size = sizeof info.value };
    struct pollfd poller = { .fd = imagine_job_fd(job), .events = POLLIN };
    uint64_t at = 0;
    int32_t steps = 0;
    ARM(event);
    ARM(info);
    do {
        CHECK(poll(&poller, 1, 60000) == 1);
        REQUIRE_OK(imagine_job_next(job, &event.value, 0, &err));
        CHECK(INTACT(event) && event.value.struct_size == sizeof event.value);
        if (event.value.kind == IMAGINE_EVENT_STEP)
            steps = event.value.step;
        if (event.value.kind != IMAGINE_EVENT_FRAMES)
            continue;
        uint64_t size = imagine_buffer_size(event.value.frames);
        REQUIRE(at + size <= imagine_buffer_size(expected));
        CHECK(!memcmp((char *)imagine_buffer_data(expected) + at, imagine_buffer_data(event.value.frames), size));
        at += size;
    } while (event.value.kind != IMAGINE_EVENT_DONE);
    CHECK(steps == 4 && at && at == imagine_buffer_size(expected));
    REQUIRE_OK(imagine_job_get_info(job, &info.value, &err));
    CHECK(info.value.width == 32 && info.value.frames == 5 && info.value.seconds[IMAGINE_JOB_SAMPLE] > 0 && INTACT(info));
}

static void generation(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(&err);
    GUARDED(imagine_job_options) options;
    GUARDED(imagine_sampler_options) sampler;
    GUARDED(imagine_model_info) info = { .value.struct_size = sizeof info.value };
    imagine_job *job;
    REQUIRE(context);
    imagine_model *opened = open_model(context, &err), *model = imagine_model_retain(opened);
    imagine_model_release(&opened);
    REQUIRE(model);
    ARM(info);
    REQUIRE_OK(imagine_model_get_info(model, &info.value, &err));
    CHECK(info.value.layers == 2 && info.value.spatial_factor == 8 && info.value.bytes > 0 && INTACT(info));
    imagine_buffer *embeds = encode(model, "a red apple", &err);
    imagine_buffer *latents = sample(model, embeds, &err), *again = NULL;
    imagine_buffer *frames = decode(model, latents, &err);
    ARM(options);
    ARM(sampler);
    imagine_sampler_options_init(&sampler.value, sizeof sampler.value);
    imagine_job_options_init(&options.value, sizeof options.value);
    sampler.value.seed = 7;
    sampler.value.guidance = 1;
    options.value.prompt = "a red apple";
    options.value.sampler = &sampler.value;
    REQUIRE_OK(imagine_job_create(&job, model, &options.value, &err));
    CHECK(INTACT(options) && INTACT(sampler));
    follow(job, frames);
    REQUIRE_OK(imagine_job_get_latents(job, &again, &err));
    CHECK(imagine_buffer_size(again) == imagine_buffer_size(latents) &&
          !memcmp(imagine_buffer_data(again), imagine_buffer_data(latents), imagine_buffer_size(latents)));
    imagine_job_cancel(job);
    imagine_job_destroy(&job);
    imagine_buffer_release(&again);
    imagine_buffer_release(&embeds);
    imagine_buffer_release(&latents);
    imagine_buffer_release(&frames);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "versions", versions }, { "contexts", contexts }, { "buffers", buffers }, { "generation", generation },
    };
    return test_main("abi/v0.1", cases, sizeof cases / sizeof cases[0], argc, argv);
}
