/* SPDX-License-Identifier: MIT */

/* Prompt to frames beside diffusers' WanPipeline from the same noise: 8 steps of wan-unipc with guidance and a negative
 * prompt, weights as the pack stores them. Goldens: make_pipeline.py. */

#include "../api/api.h"

#define LIMIT 1e-10

typedef struct run {
    imagine_context *context;
    imagine_model *model;
    const char *golden;
} run;

static imagine_buffer *golden(const run *r, const char *name)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *buffer = NULL;
    CHECK_OK(imagine_buffer_load(&buffer, r->context, r->golden, name, &err));
    return buffer;
}

static double nmse(const imagine_buffer *a, const imagine_buffer *b)
{
    if (!a || !b || imagine_buffer_size(a) != imagine_buffer_size(b) || !imagine_buffer_size(a))
        return 1e300;
    return test_nmse(imagine_buffer_data(a), imagine_buffer_data(b), imagine_buffer_size(a) / sizeof(float));
}

static void check_text(const run *r)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_text *text;
    imagine_buffer *ids, *embeds, *ids_there = golden(r, "input_ids"), *embeds_there = golden(r, "prompt_embeds");
    REQUIRE_OK(imagine_text_create(&text, r->model, NULL, &err));
    REQUIRE_OK(imagine_text_encode(text, "a red apple", &ids, &embeds, &err));
    CHECK(same_bytes(ids, ids_there));
    double error = nmse(embeds, embeds_there);
    printf("    text %.2g\n", error);
    CHECK(error <= LIMIT);
    imagine_text_destroy(&text);
    imagine_buffer_release(&ids);
    imagine_buffer_release(&embeds);
    imagine_buffer_release(&ids_there);
    imagine_buffer_release(&embeds_there);
}

static void check_latents(const run *r)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job;
    imagine_buffer *noise = golden(r, "noise"), *there = golden(r, "latents"), *latents;
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.steps = 8;
    sampler.guidance = 3.5;
    imagine_job_options_init(&options, sizeof options);
    options.prompt = "a red apple";
    options.negative_prompt = "a blue dog";
    options.sampler = &sampler;
    options.noise = noise;
    options.decode = 0;
    REQUIRE_OK(imagine_job_create(&job, r->model, &options, &err));
    REQUIRE_OK(run_job(job, &err));
    REQUIRE_OK(imagine_job_get_latents(job, &latents, &err));
    double error = nmse(latents, there);
    printf("    latents after 8 steps %.2g\n", error);
    CHECK(error <= LIMIT);
    imagine_job_destroy(&job);
    imagine_buffer_release(&noise);
    imagine_buffer_release(&there);
    imagine_buffer_release(&latents);
}

/* Decodes diffusers' latents, so that the stages are measured one by one. */
static void check_frames(const run *r)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_vae *vae;
    imagine_buffer *latents = golden(r, "latents"), *there = golden(r, "ends"), *frames, *ends;
    imagine_buffer_info info = { .struct_size = sizeof info };
    REQUIRE_OK(imagine_vae_create(&vae, r->model, NULL, &err));
    REQUIRE_OK(imagine_vae_decode(vae, latents, IMAGINE_F32, &frames, &err));
    REQUIRE_OK(imagine_buffer_get_info(frames, &info, &err));
    size_t area = (size_t)(info.shape[2] * info.shape[3]), count = (size_t)info.shape[1];
    REQUIRE_OK(imagine_buffer_create(&ends, r->context, IMAGINE_F32, 4,
                                     (int64_t[]){ 3, 2, info.shape[2], info.shape[3] }, &err));
    for (size_t c = 0; c < 3; c++)
        for (size_t end = 0; end < 2; end++)
            memcpy((float *)imagine_buffer_data(ends) + (c * 2 + end) * area,
                   (float *)imagine_buffer_data(frames) + (c * count + (end ? count - 1 : 0)) * area, area * sizeof(float));
    double error = nmse(ends, there);
    printf("    first and last frame %.2g\n", error);
    CHECK(error <= LIMIT);
    imagine_vae_destroy(&vae);
    imagine_buffer_release(&latents);
    imagine_buffer_release(&there);
    imagine_buffer_release(&frames);
    imagine_buffer_release(&ends);
}

static void check_pack(const char *pack, const char *golden_path, int32_t level)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options options;
    run r = { .golden = golden_path };
    imagine_context_options_init(&options, sizeof options);
    options.device = test_device();
    options.cpu_level = level;
    REQUIRE_OK(imagine_context_create(&r.context, &options, &err));
    REQUIRE_OK(imagine_model_open(&r.model, r.context, pack, NULL, &err));
    check_text(&r);
    check_latents(&r);
    check_frames(&r);
    imagine_model_release(&r.model);
    imagine_context_release(&r.context);
}

static void two_layer(void)
{
    int32_t last = test_device() == IMAGINE_DEVICE_CPU ? IMAGINE_CPU_AVX2 : IMAGINE_CPU_BEST;
    for (int32_t level = IMAGINE_CPU_BEST; level <= last; level++)
        check_pack(PACK, test_path("parity/pipeline/two-layer.safetensors"), level);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = { { "two-layer", two_layer } };
    return test_main("parity/pipeline", cases, 1, argc, argv);
}
