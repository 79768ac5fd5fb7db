/* SPDX-License-Identifier: MIT */

/* The shipped model through the public API against diffusers' WanPipeline on the same folder (make_tiny.py): text, an 8-step
 * run with guidance and a negative prompt from the same noise, decode and encode; every fourth row of the f32 frames 0, 4 and 8.
 * Sizes are those of the goldens' noise, schedule, steps and guidance are named, whatever the pack's own. And a job that leaves
 * all of these to the pack. */

#include <math.h>
#include <unistd.h>

#include "api/api.h"

#define LIMIT 1e-10

static imagine_context *context;
static imagine_model *model;

static imagine_buffer *golden(const char *name)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *buffer = NULL;
    CHECK_OK(imagine_buffer_load(&buffer, context, test_path("parity/tiny.safetensors"), name, &err));
    return buffer;
}

static void check_close(const char *what, const imagine_buffer *got, const imagine_buffer *expected)
{
    REQUIRE(got && expected);
    REQUIRE(imagine_buffer_size(got) == imagine_buffer_size(expected));
    double nmse = test_nmse(imagine_buffer_data(got), imagine_buffer_data(expected), imagine_buffer_size(got) / 4);
    printf("    %s: nmse %.1e\n", what, nmse);
    CHECK(nmse <= LIMIT);
}

static void check_text(imagine_text *text, const char *prompt, const char *ids_name, const char *embeds_name)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *ids = NULL, *embeds = NULL, *want_ids = golden(ids_name), *want = golden(embeds_name);
    REQUIRE_OK(imagine_text_encode(text, prompt, &ids, &embeds, &err));
    CHECK(imagine_buffer_size(ids) == imagine_buffer_size(want_ids) &&
          !memcmp(imagine_buffer_data(ids), imagine_buffer_data(want_ids), imagine_buffer_size(ids)));
    check_close(embeds_name, embeds, want);
    imagine_buffer_release(&want);
    imagine_buffer_release(&want_ids);
    imagine_buffer_release(&embeds);
    imagine_buffer_release(&ids);
}

static void test_text(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_text *text = NULL;
    REQUIRE_OK(imagine_text_create(&text, model, NULL, &err));
    check_text(text, "a red apple bouncing", "ids", "embeds");
    check_text(text, "青い背景のりんごが跳ねている", "japanese.ids", "japanese.embeds");
    imagine_text_destroy(&text);
}

/* Rows 0, 4, 8 ... of frames 0, 4, 8 ... of F32 [3, frames, height, width], as a new buffer. */
static imagine_buffer *every_fourth(const imagine_buffer *frames)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer_info info = { .struct_size = sizeof info };
    imagine_buffer *some = NULL;
    imagine_buffer_get_info(frames, &info, &err);
    int64_t width = info.shape[3], plane = info.shape[2] * width;
    int64_t shape[4] = { 3, (info.shape[1] + 3) / 4, (info.shape[2] + 3) / 4, width };
    CHECK_OK(imagine_buffer_create(&some, context, IMAGINE_F32, 4, shape, &err));
    float *out = imagine_buffer_data(some);
    const float *in = info.data;
    for (int64_t c = 0; c < 3; c++)
        for (int64_t f = 0; f < shape[1]; f++)
            for (int64_t y = 0; y < shape[2]; y++, out += width)
                memcpy(out, in + (c * info.shape[1] + 4 * f) * plane + 4 * y * width, (size_t)width * sizeof(float));
    return some;
}

/* Frames, height and width of the job that begins with this noise. */
static void size_of(const imagine_buffer *noise, imagine_sampler_options *sampler)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer_info info = { .struct_size = sizeof info };
    imagine_model_info of = { .struct_size = sizeof of };
    REQUIRE(noise);
    REQUIRE_OK(imagine_buffer_get_info(noise, &info, &err));
    REQUIRE_OK(imagine_model_get_info(model, &of, &err));
    sampler->frames = (int32_t)(info.shape[1] - 1) * of.temporal_factor + 1;
    sampler->height = (int32_t)info.shape[2] * of.spatial_factor;
    sampler->width = (int32_t)info.shape[3] * of.spatial_factor;
}

static void run(const char *name)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_job_options options;
    imagine_sampler_options sampler;
    imagine_event event = { .struct_size = sizeof event };
    imagine_job *job = NULL;
    imagine_vae *vae = NULL;
    imagine_buffer *latents = NULL, *decoded = NULL, *encoded = NULL;
    char key[64];
    imagine_job_options_init(&options, sizeof options);
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.schedule = IMAGINE_SCHEDULE_WAN_UNIPC;
    sampler.shift = 3;
    sampler.steps = 8;
    sampler.guidance = 3;
    options.sampler = &sampler;
    options.prompt = "a red apple bouncing";
    options.negative_prompt = "a dog on a blue background";
    options.decode = 0;
    snprintf(key, sizeof key, "%s.noise", name);
    options.noise = golden(key);
    size_of(options.noise, &sampler);
    REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
    do
        REQUIRE_OK(imagine_job_next(job, &event, -1, &err));
    while (event.kind != IMAGINE_EVENT_DONE);
    REQUIRE_OK(imagine_job_get_latents(job, &latents, &err));
    imagine_job_destroy(&job);
    imagine_buffer_release(&options.noise);
    snprintf(key, sizeof key, "%s.latents", name);
    imagine_buffer *want = golden(key);
    check_close("latents", latents, want);

    /* Decoded from the reference's latents and encoded from its own decoded frames, so that errors do not add up. */
    REQUIRE_OK(imagine_vae_create(&vae, model, NULL, &err));
    REQUIRE_OK(imagine_vae_decode(vae, want, IMAGINE_F32, &decoded, &err));
    imagine_buffer_release(&want);
    imagine_buffer *some = every_fourth(decoded);
    snprintf(key, sizeof key, "%s.frames", name);
    want = golden(key);
    check_close("frames", some, want);
    imagine_buffer_release(&want);
    imagine_buffer_release(&some);
    REQUIRE_OK(imagine_vae_encode(vae, decoded, &encoded, &err));
    snprintf(key, sizeof key, "%s.encoded", name);
    want = golden(key);
    check_close("encoded", encoded, want);
    imagine_buffer_release(&want);
    imagine_buffer_release(&encoded);
    imagine_buffer_release(&decoded);
    imagine_buffer_release(&latents);
    imagine_vae_destroy(&vae);
}

static void test_picture(void)
{
    run("picture");
}

static void test_clip(void)
{
    run("clip");
}

/* A job of which nothing but the prompt is said: size, frames, steps and guidance are the pack's. */
static void test_defaults(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model_info of = { .struct_size = sizeof of };
    imagine_job_info made = { .struct_size = sizeof made };
    imagine_job_options options;
    imagine_event event = { .struct_size = sizeof event };
    imagine_job *job = NULL;
    int32_t frames = 0;
    uint64_t bytes = 0;
    REQUIRE_OK(imagine_model_get_info(model, &of, &err));
    CHECK(of.width > 0 && of.height > 0 && of.frames > 1 && of.steps > 0 && of.guidance >= 1 && of.frames_per_second > 0);
    imagine_job_options_init(&options, sizeof options);
    options.prompt = "a red apple bouncing";
    REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
    while (event.kind != IMAGINE_EVENT_DONE) {
        REQUIRE_OK(imagine_job_next(job, &event, -1, &err));
        if (event.kind != IMAGINE_EVENT_FRAMES)
            continue;
        frames += event.frame_count;
        bytes += imagine_buffer_size(event.frames);
    }
    CHECK_OK(imagine_job_get_info(job, &made, &err));
    imagine_job_destroy(&job);
    CHECK(made.width == of.width && made.height == of.height && made.frames == of.frames);
    CHECK(made.steps == of.steps && made.guidance == of.guidance);
    CHECK(frames == of.frames && bytes == (uint64_t)frames * (uint64_t)of.height * (uint64_t)of.width * 3);
}

static void test_absent(void)
{
    SKIP("models/tiny is not there");
}

int main(int argc, char **argv)
{
    static const test_case cases[] = { { "text", test_text },
                                       { "picture", test_picture },
                                       { "clip", test_clip },
                                       { "defaults", test_defaults } };
    static const test_case none[] = { { "tiny", test_absent } };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options options;
    const char *path = getenv("IMAGINE_TINY") ? getenv("IMAGINE_TINY") : test_path("../models/tiny");
    char index[1200];
    snprintf(index, sizeof index, "%s/model_index.json", path);
    if (access(index, R_OK))
        return test_main("tiny", none, 1, argc, argv);
    imagine_context_options_init(&options, sizeof options);
    options.device = test_device();
    if (imagine_context_create(&context, &options, &err) < 0 || imagine_model_open(&model, context, path, NULL, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    int result = test_main("tiny", cases, sizeof cases / sizeof *cases, argc, argv);
    imagine_model_release(&model);
    imagine_context_release(&context);
    return result;
}
