/* SPDX-License-Identifier: MIT */

/* Two experts that take turns, beside diffusers' WanPipeline (make_experts.py): a pack of links to the two-layer pack and
 * to a second transformer. */

#include <unistd.h>

#include "runs.h"

static const char *const parts[] = { "scheduler", "text_encoder", "tokenizer", "transformer", "vae", "imagine.json" };
static char folder[] = "/tmp/imagine-experts-XXXXXX";

static void link_to(const char *source, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
    CHECK(!symlink(test_path(source), path));
}

static void write_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
    FILE *file = fopen(path, "wb");
    CHECK(file && fputs(text, file) >= 0);
    if (file)
        fclose(file);
}

static void make_pack(void)
{
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char source[64];
        snprintf(source, sizeof source, "packs/two-layer/%s", parts[i]);
        link_to(source, parts[i]);
    }
    link_to("packs/second-expert", "transformer_2");
    write_file("model_index.json", "{\"_class_name\": \"WanPipeline\", \"boundary_ratio\": 0.7}");
}

static void remove_pack(void)
{
    char path[128];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, parts[i]);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/transformer_2", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/model_index.json", folder);
    unlink(path);
    rmdir(folder);
}

static int open_inputs(inputs *in, int32_t threads, uint64_t limit, imagine_weights weights)
{
    imagine_context_options options;
    imagine_model_options how;
    imagine_context_options_init(&options, sizeof options);
    options.device = test_device();
    options.threads = threads;
    options.memory_limit = limit;
    imagine_model_options_init(&how, sizeof how);
    how.weights = weights;
    return inputs_open(in, "parity/pipeline/experts.safetensors", folder, &options, &how);
}

static imagine_sampler_options options_of(imagine_cfg_mode mode)
{
    imagine_sampler_options o;
    imagine_sampler_options_init(&o, sizeof o);
    o.steps = 8;
    o.guidance = 4;
    o.guidance_2 = 2.5;
    o.cfg_mode = mode;
    return o;
}

/* Two runs on one sampler, which must agree: the second begins with the first expert again. */
static imagine_buffer *run(const inputs *in, const imagine_sampler_options *o)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *sampler;
    imagine_buffer *latents[2] = { NULL, NULL };
    imagine_status status = imagine_sampler_create(&sampler, in->model, o, &err);
    if (status >= 0)
        status = imagine_sampler_set_text(sampler, in->positive, in->negative, &err);
    for (int twice = 0; twice < 2 && status >= 0; twice++) {
        status = imagine_sampler_begin(sampler, in->noise, &err);
        for (int32_t i = 0; i < o->steps && status >= 0; i++)
            status = imagine_sampler_step(sampler, NULL, &err);
        if (status >= 0)
            status = imagine_sampler_get_latents(sampler, 0, &latents[twice], &err);
    }
    CHECK_OK(status);
    CHECK(same_bytes(latents[0], latents[1]));
    imagine_sampler_destroy(&sampler);
    imagine_buffer_release(&latents[1]);
    return latents[0];
}

static void parity(void)
{
    inputs in;
    REQUIRE(open_inputs(&in, 2, 0, IMAGINE_WEIGHTS_AUTO));
    for (int32_t mode = IMAGINE_CFG_BATCHED; mode <= IMAGINE_CFG_IN_TURN; mode++) {
        imagine_sampler_options o = options_of(mode);
        imagine_buffer *latents = run(&in, &o);
        compare(&in, latents, "latents");
        imagine_buffer_release(&latents);
    }
    close_inputs(&in);
}

/* The latents of a job, and what it took and was to take. */
static imagine_buffer *job_run(const inputs *in, imagine_estimate *told, imagine_job_info *used)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler_options sampler = options_of(IMAGINE_CFG_IN_TURN);
    imagine_job_options options;
    imagine_job *job;
    imagine_buffer *latents = NULL;
    imagine_job_options_init(&options, sizeof options);
    options.sampler = &sampler;
    options.noise = in->noise;
    options.prompt_embeds = in->positive;
    options.negative_embeds = in->negative;
    options.decode = 0;
    *told = (imagine_estimate){ .struct_size = sizeof *told };
    *used = (imagine_job_info){ .struct_size = sizeof *used };
    CHECK_OK(imagine_job_estimate(in->model, &options, told, &err));
    imagine_status status = imagine_job_create(&job, in->model, &options, &err);
    if (status >= 0)
        status = run_job(job, &err);
    if (status >= 0)
        status = imagine_job_get_info(job, used, &err);
    if (status >= 0)
        status = imagine_job_get_latents(job, &latents, &err);
    CHECK_OK(status);
    imagine_job_destroy(&job);
    return latents;
}

/* Threads, weights in memory or streamed, and a limit that only one expert at a time fits: the same bytes, and the memory
 * that was told. */
static void same_bytes_and_memory(void)
{
    inputs in;
    imagine_estimate told;
    imagine_job_info used;
    REQUIRE(open_inputs(&in, 1, 0, IMAGINE_WEIGHTS_AUTO));
    imagine_buffer *expected = job_run(&in, &told, &used);
    uint64_t whole = told.peak_bytes;
    CHECK(told.peak_bytes >= used.memory_peak && (double)told.peak_bytes <= 1.03 * (double)used.memory_peak);
    close_inputs(&in);
    static const struct {
        int32_t threads;
        int tight;
        imagine_weights weights;
    } cases[] = { { 2, 0, 0 }, { 7, 0, IMAGINE_WEIGHTS_STREAMED }, { 1, 1, 0 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        REQUIRE(open_inputs(&in, cases[i].threads, cases[i].tight ? whole - 40000 : 0, cases[i].weights));
        imagine_buffer *latents = job_run(&in, &told, &used);
        CHECK(same_bytes(expected, latents));
        CHECK(!cases[i].tight || used.memory_peak <= whole - 40000);
        printf("    %d threads: told %llu, used %llu\n", cases[i].threads, (unsigned long long)told.peak_bytes,
               (unsigned long long)used.memory_peak);
        imagine_buffer_release(&latents);
        close_inputs(&in);
    }
    imagine_buffer_release(&expected);
}

/* Each timestep is heard by its own expert. */
static void one_forward(void)
{
    inputs in;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *sampler;
    imagine_buffer *hidden, *text, *timestep, *samples[3];
    REQUIRE(open_inputs(&in, 1, 0, IMAGINE_WEIGHTS_AUTO));
    imagine_sampler_options o = options_of(IMAGINE_CFG_AUTO);
    REQUIRE_OK(imagine_sampler_create(&sampler, in.model, &o, &err));
    REQUIRE_OK(imagine_buffer_create(&hidden, in.context, IMAGINE_F32, 5, (int64_t[]){ 1, 16, 2, 4, 4 }, &err));
    REQUIRE_OK(imagine_buffer_create(&text, in.context, IMAGINE_F32, 3, (int64_t[]){ 1, 24, 16 }, &err));
    REQUIRE_OK(imagine_buffer_create(&timestep, in.context, IMAGINE_F32, 1, (int64_t[]){ 1 }, &err));
    memcpy(imagine_buffer_data(hidden), imagine_buffer_data(in.noise), imagine_buffer_size(hidden));
    memcpy(imagine_buffer_data(text), imagine_buffer_data(in.positive), imagine_buffer_size(text));
    static const float times[] = { 700, 699.99f, 700 };
    for (int i = 0; i < 3; i++) {
        *(float *)imagine_buffer_data(timestep) = times[i];
        REQUIRE_OK(imagine_sampler_denoise(sampler, hidden, timestep, text, &samples[i], &err));
    }
    CHECK(same_bytes(samples[0], samples[2]));
    CHECK(test_nmse(imagine_buffer_data(samples[0]), imagine_buffer_data(samples[1]), 512) > 1e-3);
    for (int i = 0; i < 3; i++)
        imagine_buffer_release(&samples[i]);
    imagine_buffer_release(&hidden);
    imagine_buffer_release(&text);
    imagine_buffer_release(&timestep);
    imagine_sampler_destroy(&sampler);
    close_inputs(&in);
}

static void refused(const char *told)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_model *model;
    CHECK_STATUS(imagine_model_open(&model, context, folder, NULL, &err), IMAGINE_ERROR_MODEL);
    CHECK(strstr(err.message, told));
    imagine_context_release(&context);
}

static void refusals(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *sampler;
    char path[128];
    write_file("model_index.json", "{\"_class_name\": \"WanPipeline\"}");
    refused("boundary_ratio");
    write_file("model_index.json", "{\"_class_name\": \"WanPipeline\", \"boundary_ratio\": 1.5}");
    refused("must be below 1");
    write_file("model_index.json", "{\"_class_name\": \"WanPipeline\", \"boundary_ratio\": 0.7}");
    link_to("parity/dit/plain", "transformer_2");
    refused("both experts must be alike");
    snprintf(path, sizeof path, "%s/transformer_2", folder);
    unlink(path);
    refused("one of them is missing");
    make_pack();
    imagine_model *model = open_model(1, &err);
    imagine_sampler_options o = options_of(IMAGINE_CFG_AUTO);
    REQUIRE(model); /* the two-layer pack: one transformer */
    CHECK_STATUS(imagine_sampler_create(&sampler, model, &o, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "guidance_2"));
    imagine_model_release(&model);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "parity", parity },
        { "same bytes and memory", same_bytes_and_memory },
        { "one forward", one_forward },
        { "refusals", refusals },
    };
    if (!mkdtemp(folder))
        return 1;
    make_pack();
    int status = test_main("parity/experts", cases, sizeof cases / sizeof *cases, argc, argv);
    remove_pack();
    return status;
}
