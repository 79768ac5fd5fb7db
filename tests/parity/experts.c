/* SPDX-License-Identifier: MIT */

/* Two experts that take turns, beside diffusers' WanPipeline (make_experts.py): a pack of links to the two-layer pack and
 * to a second transformer. */

#include <sys/stat.h>
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

/* ---- a configuration that changes on disk ------------------------------------------------------------------------ */

/* Another transformer whose matrices are as large: 64 channels that are taken one by one for 16 in patches of 2x2. */
static const char as_large[] =
    "{\"_class_name\": \"WanTransformer3DModel\", \"attention_head_dim\": 14, \"cross_attn_norm\": true, \"eps\": 1e-06,"
    " \"ffn_dim\": 36, \"freq_dim\": 18, \"in_channels\": 64, \"num_attention_heads\": 2, \"num_layers\": 2,"
    " \"out_channels\": 64, \"patch_size\": [1, 1, 1], \"rope_max_seq_len\": 64, \"text_dim\": 16}";

/* The experts are compared when the pack is opened, and loaded later: what their files say by then does not matter. */
static void changed_on_disk(void)
{
    static const char weights[] = "diffusion_pytorch_model.safetensors", *const stages[] = { "transformer", "transformer_2" };
    inputs in;
    char path[128], name[64], source[96];
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, stages[i]);
        CHECK(!unlink(path) && !mkdir(path, 0700));
        for (int config = 0; config < 2; config++) {
            snprintf(name, sizeof name, "%s/%s", stages[i], config ? "config.json" : weights);
            snprintf(source, sizeof source, "packs/%s/%s", i ? "second-expert" : "two-layer/transformer",
                     config ? "config.json" : weights);
            link_to(source, name);
        }
    }
    if (open_inputs(&in, 2, 0, IMAGINE_WEIGHTS_AUTO)) {
        imagine_sampler_options o = options_of(IMAGINE_CFG_BATCHED);
        write_file("transformer_2/config.json", as_large);
        write_file("transformer/config.json", "{");
        imagine_buffer *latents = run(&in, &o);
        compare(&in, latents, "latents");
        imagine_buffer_release(&latents);
    }
    close_inputs(&in);
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s/%s", folder, stages[i], weights);
        unlink(path);
        snprintf(path, sizeof path, "%s/%s/config.json", folder, stages[i]);
        unlink(path);
        snprintf(path, sizeof path, "%s/%s", folder, stages[i]);
        CHECK(!rmdir(path));
    }
    make_pack();
}

/* ---- guidance by one of them alone ------------------------------------------------------------------------------- */

static void ask_second_guided(const inputs *in, imagine_cfg_mode mode, imagine_sampler_options *sampler,
                              imagine_job_options *options)
{
    *sampler = options_of(mode);
    sampler->guidance = 1;
    sampler->guidance_2 = 4;
    sampler->width = sampler->height = 160;
    imagine_job_options_init(options, sizeof *options);
    options->sampler = sampler;
    options->prompt_embeds = in->positive;
    options->negative_embeds = in->negative;
    options->decode = 0;
}

/* What such a job would need within the limit. */
static imagine_estimate told_within(uint64_t limit, imagine_cfg_mode mode)
{
    inputs in;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_estimate told = { .struct_size = sizeof told };
    imagine_sampler_options sampler;
    imagine_job_options options;
    if (open_inputs(&in, 1, limit, IMAGINE_WEIGHTS_RESIDENT)) {
        ask_second_guided(&in, mode, &sampler, &options);
        CHECK_OK(imagine_job_estimate(in.model, &options, &told, &err));
    }
    close_inputs(&in);
    return told;
}

static imagine_buffer *run_within(uint64_t limit)
{
    inputs in;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job = NULL;
    imagine_buffer *latents = NULL;
    imagine_job_info used = { .struct_size = sizeof used };
    if (open_inputs(&in, 1, limit, IMAGINE_WEIGHTS_RESIDENT)) {
        ask_second_guided(&in, IMAGINE_CFG_AUTO, &sampler, &options);
        CHECK_OK(imagine_job_create(&job, in.model, &options, &err));
        CHECK_OK(run_job(job, &err));
        CHECK_OK(imagine_job_get_info(job, &used, &err));
        CHECK_OK(imagine_job_get_latents(job, &latents, &err));
        CHECK(!limit || used.memory_peak <= limit);
        imagine_job_destroy(&job);
    }
    close_inputs(&in);
    return latents;
}

/* Where only predictions in turn fit they are made in turn, also where the second expert alone is guided. */
static void second_in_turn(void)
{
    if (test_device() != IMAGINE_DEVICE_CPU)
        SKIP("a device's workspace, and with it what is needed, goes by the limit");
    uint64_t tight = told_within(0, IMAGINE_CFG_IN_TURN).peak_bytes / 2;
    imagine_estimate batched = told_within(tight, IMAGINE_CFG_BATCHED), in_turn = told_within(tight, IMAGINE_CFG_IN_TURN);
    CHECK(!batched.fits && !in_turn.fits && batched.peak_bytes > in_turn.peak_bytes);
    uint64_t limit = (batched.peak_bytes + in_turn.peak_bytes) / 2;
    CHECK(!told_within(limit, IMAGINE_CFG_BATCHED).fits && told_within(limit, IMAGINE_CFG_IN_TURN).fits);
    imagine_estimate told = told_within(limit, IMAGINE_CFG_AUTO);
    printf("    both at once %.2f MB, in turn %.2f MB\n", (double)batched.peak_bytes / 1e6, (double)in_turn.peak_bytes / 1e6);
    CHECK(told.fits && told.in_turn);
    imagine_buffer *whole = run_within(0), *within = run_within(limit);
    CHECK(same_bytes(whole, within));
    imagine_buffer_release(&whole);
    imagine_buffer_release(&within);
}

/* ---- a change that does not come about --------------------------------------------------------------------------- */

/* An allocator that overwrites what it is given back. Once armed, from the first such block on, which is when the first expert
 * is let go, it fires the token or has no memory but for `blocks` more. */
typedef struct spoiler {
    imagine_cancel *cancel; /* NULL: memory runs out */
    long blocks, left;
    int armed, begun;
} spoiler;

static void *spoil_allocate(void *data, size_t size, size_t alignment)
{
    spoiler *s = data;
    if (s->begun && !s->cancel && s->left-- <= 0)
        return NULL;
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void spoil_release(void *data, void *pointer, size_t size)
{
    spoiler *s = data;
    memset(pointer, 0xDD, size);
    free(pointer);
    s->begun |= s->armed;
    if (s->begun)
        imagine_cancel_fire(s->cancel);
}

/* One forward at a timestep of the second expert. */
static imagine_buffer *one_sample(const inputs *in, imagine_sampler *sampler)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *hidden = NULL, *text = NULL, *timestep = NULL, *sample = NULL;
    CHECK_OK(imagine_buffer_create(&hidden, in->context, IMAGINE_F32, 5, (int64_t[]){ 1, 16, 2, 4, 4 }, &err));
    CHECK_OK(imagine_buffer_create(&text, in->context, IMAGINE_F32, 3, (int64_t[]){ 1, 24, 16 }, &err));
    CHECK_OK(imagine_buffer_create(&timestep, in->context, IMAGINE_F32, 1, (int64_t[]){ 1 }, &err));
    if (timestep) {
        memcpy(imagine_buffer_data(hidden), imagine_buffer_data(in->noise), imagine_buffer_size(hidden));
        memcpy(imagine_buffer_data(text), imagine_buffer_data(in->positive), imagine_buffer_size(text));
        *(float *)imagine_buffer_data(timestep) = 300;
        CHECK_OK(imagine_sampler_denoise(sampler, hidden, timestep, text, &sample, &err));
    }
    imagine_buffer_release(&timestep);
    imagine_buffer_release(&text);
    imagine_buffer_release(&hidden);
    return sample;
}

/* The steps with the first expert, and the one that changes, with the allocator armed: its status. */
static imagine_status step_to_change(const inputs *in, imagine_sampler *sampler, spoiler *s, imagine_error *error)
{
    double sigmas[9] = { 0 };
    uint32_t steps = imagine_sampler_get_sigmas(sampler, sigmas, 9) - 1, at = 0;
    imagine_status status = imagine_sampler_begin(sampler, in->noise, error);
    for (; at < steps && sigmas[at] >= 0.7 && status >= 0; at++)
        status = imagine_sampler_step(sampler, NULL, error);
    CHECK(status >= 0 && at > 0 && at < steps);
    s->left = s->blocks;
    s->armed = 1;
    status = imagine_sampler_step(sampler, NULL, error);
    CHECK(s->begun);
    s->armed = s->begun = 0;
    return status;
}

/* What a sampler gives from the text on, however it was left. */
static void check_whole(const inputs *in, imagine_sampler *sampler, const imagine_buffer *expected)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *latents = NULL;
    CHECK_OK(imagine_sampler_set_text(sampler, in->positive, in->negative, &err));
    CHECK_OK(imagine_sampler_begin(sampler, in->noise, &err));
    for (int i = 0; i < 8; i++)
        CHECK_OK(imagine_sampler_step(sampler, NULL, &err));
    CHECK_OK(imagine_sampler_get_latents(sampler, 0, &latents, &err));
    CHECK(same_bytes(latents, expected));
    imagine_buffer_release(&latents);
}

/* With the first expert gone and the second not there, everything that a sampler is asked next works: text, a beginning, one
 * forward, and after a cancel the same step again. */
static void leave_and_go_on(const inputs *in, imagine_sampler *sampler, spoiler *s, const imagine_buffer *expected,
                            const imagine_buffer *sample, imagine_status wanted)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    CHECK_STATUS(step_to_change(in, sampler, s, &err), wanted);
    imagine_cancel_reset(s->cancel);
    check_whole(in, sampler, expected);
    CHECK_STATUS(step_to_change(in, sampler, s, &err), wanted);
    imagine_cancel_reset(s->cancel);
    imagine_buffer *again = one_sample(in, sampler);
    CHECK(same_bytes(again, sample));
    imagine_buffer_release(&again);
    CHECK_STATUS(step_to_change(in, sampler, s, &err), wanted);
    imagine_cancel_reset(s->cancel);
    CHECK_STATUS(imagine_sampler_step(sampler, NULL, &err), wanted == IMAGINE_ERROR_CANCELLED ? IMAGINE_OK : IMAGINE_ERROR_STATE);
    check_whole(in, sampler, expected);
}

/* Memory for so many blocks during the change, or a token that ends it (-1). 1: the change came about. */
static int leave_at(long blocks, const imagine_buffer *expected, const imagine_buffer *sample)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options options;
    imagine_sampler_options o = options_of(IMAGINE_CFG_AUTO);
    imagine_sampler *sampler = NULL;
    spoiler s = { .blocks = blocks };
    inputs in;
    imagine_context_options_init(&options, sizeof options);
    options.device = test_device();
    options.threads = 1;
    options.memory_limit = 1 << 30; /* under a limit the first expert is given back */
    options.allocate = spoil_allocate;
    options.release = spoil_release;
    options.allocator_data = &s;
    if (!inputs_open(&in, "parity/pipeline/experts.safetensors", folder, &options, NULL))
        return 1;
    if (blocks < 0)
        CHECK_OK(imagine_cancel_create(&o.cancel, in.context, &err));
    s.cancel = o.cancel;
    CHECK_OK(imagine_sampler_create(&sampler, in.model, &o, &err));
    CHECK_OK(imagine_sampler_set_text(sampler, in.positive, in.negative, &err));
    int done = blocks >= 0 && step_to_change(&in, sampler, &s, &err) >= 0;
    if (!done)
        leave_and_go_on(&in, sampler, &s, expected, sample, blocks < 0 ? IMAGINE_ERROR_CANCELLED : IMAGINE_ERROR_NO_MEMORY);
    imagine_sampler_destroy(&sampler);
    imagine_cancel_release(&o.cancel);
    close_inputs(&in);
    return done;
}

static void change_fails(void)
{
    inputs in;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler_options o = options_of(IMAGINE_CFG_AUTO);
    imagine_sampler *sampler;
    REQUIRE(open_inputs(&in, 1, 0, IMAGINE_WEIGHTS_AUTO));
    imagine_buffer *expected = run(&in, &o);
    REQUIRE_OK(imagine_sampler_create(&sampler, in.model, &o, &err));
    imagine_buffer *sample = one_sample(&in, sampler);
    REQUIRE(expected && sample);
    CHECK(!leave_at(-1, expected, sample));
    int failures = 0;
    while (failures < 100 && !leave_at(9 * failures, expected, sample))
        failures++;
    printf("    memory ran out at %d places\n", failures);
    CHECK(failures > 2 && failures < 100);
    imagine_buffer_release(&sample);
    imagine_buffer_release(&expected);
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
        { "changed on disk", changed_on_disk },
        { "second in turn", second_in_turn },
        { "change fails", change_fails },
        { "refusals", refusals },
    };
    if (!mkdtemp(folder))
        return 1;
    make_pack();
    int status = test_main("parity/experts", cases, sizeof cases / sizeof *cases, argc, argv);
    remove_pack();
    return status;
}
