/* SPDX-License-Identifier: MIT */

/* Handles are made and destroyed in every order, options structs come in every length, errors name what is wrong. */

#include <sys/wait.h>
#include <unistd.h>

#include "api.h"

static void orders(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    /* The bits of `order` say which of context and model is given up before the stages are used and destroyed. */
    for (int order = 0; order < 4; order++) {
        imagine_context *context = open_context(2, &err);
        imagine_model *model;
        imagine_text *text;
        imagine_vae *vae;
        imagine_sampler *sampler;
        imagine_buffer *embeds, *latents;
        REQUIRE(context);
        REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
        REQUIRE_OK(imagine_text_create(&text, model, NULL, &err));
        REQUIRE_OK(imagine_vae_create(&vae, model, NULL, &err));
        REQUIRE_OK(imagine_sampler_create(&sampler, model, NULL, &err));
        if (order & 1)
            imagine_context_release(&context);
        if (order & 2)
            imagine_model_release(&model);
        REQUIRE_OK(imagine_text_encode(text, "a red apple", NULL, &embeds, &err));
        imagine_text_destroy(&text);
        REQUIRE_OK(imagine_sampler_set_text(sampler, embeds, embeds, &err));
        REQUIRE_OK(imagine_sampler_begin(sampler, NULL, &err));
        REQUIRE_OK(imagine_sampler_step(sampler, NULL, &err));
        REQUIRE_OK(imagine_sampler_get_latents(sampler, 0, &latents, &err));
        imagine_sampler_destroy(&sampler);
        imagine_vae_destroy(&vae);
        imagine_model_release(&model);
        imagine_context_release(&context);
        CHECK(imagine_buffer_size(latents) == 16 * 2 * 4 * 4 * sizeof(float)); /* it outlives all of them */
        imagine_buffer_release(&embeds);
        imagine_buffer_release(&latents);
        CHECK(!text && !sampler && !vae && !model && !context && !embeds && !latents);
    }
}

static void nulls(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = NULL;
    imagine_model *model = NULL;
    imagine_job *job = NULL;
    imagine_text *text = NULL;
    imagine_vae *vae = NULL;
    imagine_sampler *sampler = NULL;
    imagine_buffer *buffer = NULL;
    imagine_cancel *cancel = NULL;
    for (int twice = 0; twice < 2; twice++) {
        imagine_context_release(twice ? &context : NULL);
        imagine_model_release(twice ? &model : NULL);
        imagine_job_destroy(twice ? &job : NULL);
        imagine_text_destroy(twice ? &text : NULL);
        imagine_vae_destroy(twice ? &vae : NULL);
        imagine_sampler_destroy(twice ? &sampler : NULL);
        imagine_buffer_release(twice ? &buffer : NULL);
        imagine_cancel_release(twice ? &cancel : NULL);
    }
    CHECK_STATUS(imagine_context_create(NULL, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_model_open(&model, NULL, PACK, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_job_create(&job, NULL, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "model"));
    CHECK_STATUS(imagine_text_create(&text, NULL, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_vae_create(NULL, NULL, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_sampler_create(&sampler, NULL, NULL, NULL), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_job_next(NULL, NULL, 0, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_sampler_step(NULL, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_vae_decode(NULL, NULL, IMAGINE_U8, &buffer, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_text_encode(NULL, "x", NULL, &buffer, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    for (int i = 0; i < 2; i++) { /* a failure leaves NULL, not what was there */
        char rubbish;
        buffer = (imagine_buffer *)(void *)&rubbish;
        cancel = (imagine_cancel *)(void *)&rubbish;
        imagine_context *some = i ? open_context(1, &err) : NULL;
        CHECK_STATUS(imagine_buffer_load(&buffer, some, i ? NULL : "x.safetensors", NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK_STATUS(imagine_cancel_create(&cancel, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(!buffer && !cancel);
        imagine_context_release(&some);
    }
    CHECK_STATUS(imagine_buffer_load(NULL, NULL, NULL, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_cancel_create(NULL, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(imagine_job_fd(NULL) == -1 && imagine_sampler_get_sigmas(NULL, NULL, 0) == 0);
    CHECK(!imagine_buffer_data(NULL) && !imagine_buffer_size(NULL) && !imagine_cancel_fired(NULL));
    imagine_job_cancel(NULL);
    imagine_cancel_fire(NULL);
    imagine_vae_reset(NULL);
    imagine_context_reset_peak(NULL);
}

/* A struct of an older caller is shorter, of a newer one longer. */
static void struct_sizes(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = NULL;
    struct {
        imagine_context_options options;
        uint64_t tail[3];
    } longer;
    struct {
        uint32_t struct_size;
        imagine_device device;
        int32_t threads;
        uint32_t guard;
    } shorter = { 0, 0, 0, 0xabcdef };
    imagine_context_options_init((imagine_context_options *)(void *)&shorter, 12);
    CHECK(shorter.struct_size == 12 && shorter.device == IMAGINE_DEVICE_CPU && shorter.guard == 0xabcdef);
    shorter.threads = 1;
    REQUIRE_OK(imagine_context_create(&context, (const imagine_context_options *)(const void *)&shorter, &err));
    imagine_context_release(&context);
    imagine_context_options_init(&longer.options, sizeof longer);
    CHECK(longer.options.struct_size == sizeof longer && !longer.tail[0] && !longer.tail[2]);
    REQUIRE_OK(imagine_context_create(&context, &longer.options, &err));
    imagine_context_release(&context);
    longer.tail[1] = 1;
    CHECK_STATUS(imagine_context_create(&context, &longer.options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(!context && strstr(err.message, "imagine_context_options"));
    longer.options.struct_size = 0;
    CHECK_STATUS(imagine_context_create(&context, &longer.options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    /* For outputs the unknown tail is zeroed. */
    struct {
        imagine_context_info info;
        uint64_t tail;
    } out = { { .struct_size = sizeof out }, 77 };
    context = open_context(2, &err);
    REQUIRE(context);
    REQUIRE_OK(imagine_context_get_info(context, &out.info, &err));
    CHECK(out.info.struct_size == sizeof out && out.info.threads == 2 && out.tail == 0);
    imagine_context_release(&context);
}

static void messages(void)
{
    static const struct {
        int32_t width, height, frames, steps, batch;
        const char *first, *second;
    } wrong[] = {
        { 100, 32, 5, 4, 1, "width", "96 and 112" },  { 32, 40, 5, 4, 1, "height", "32 and 48" },
        { 32, 32, 6, 4, 1, "frames", "5 and 9" },     { 8, 32, 5, 4, 1, "width", "nearest is 16" },
        { 32, 32, 5, 1001, 1, "steps", "1..1000" },   { 32, 32, 5, 4, 65, "batch", "1..64" },
        { -16, 32, 5, 4, 1, "width", "-16" },         { 65536, 65536, 1048573, 4, 1, "more pixels", "" },
    };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(1, &err);
    REQUIRE(model);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        imagine_sampler_options options;
        imagine_sampler *sampler;
        imagine_job_options job_options;
        imagine_job *job;
        imagine_sampler_options_init(&options, sizeof options);
        options.width = wrong[i].width;
        options.height = wrong[i].height;
        options.frames = wrong[i].frames;
        options.steps = wrong[i].steps;
        options.batch = wrong[i].batch;
        memset(err.message, 0, sizeof err.message);
        CHECK_STATUS(imagine_sampler_create(&sampler, model, &options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(!sampler && strstr(err.message, wrong[i].first));
        if (i < 4)
            CHECK(strstr(err.message, wrong[i].second));
        imagine_job_options_init(&job_options, sizeof job_options);
        job_options.sampler = &options;
        CHECK_STATUS(imagine_job_create(&job, model, &job_options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(!job && strstr(err.message, wrong[i].first));
    }
    imagine_model_release(&model);
}

static void wrong_tensors(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(1, &err);
    imagine_sampler *sampler;
    imagine_vae *vae;
    imagine_buffer *buffer, *out;
    imagine_context *context = open_context(1, &err);
    REQUIRE(model && context);
    REQUIRE_OK(imagine_sampler_create(&sampler, model, NULL, &err));
    REQUIRE_OK(imagine_vae_create(&vae, model, NULL, &err));
    CHECK_STATUS(imagine_sampler_step(sampler, NULL, &err), IMAGINE_ERROR_STATE);
    CHECK(strstr(err.message, "imagine_sampler_begin"));
    CHECK_STATUS(imagine_sampler_get_latents(sampler, 0, &out, &err), IMAGINE_ERROR_STATE);
    REQUIRE_OK(imagine_buffer_create(&buffer, context, IMAGINE_F32, 2, (int64_t[]){ 3, 17 }, &err));
    CHECK_STATUS(imagine_sampler_set_text(sampler, buffer, buffer, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "17") && strstr(err.message, "16"));
    CHECK_STATUS(imagine_sampler_begin(sampler, buffer, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "noise") && strstr(err.message, "[3, 17]"));
    CHECK_STATUS(imagine_vae_decode(vae, buffer, IMAGINE_U8, &out, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_vae_encode(vae, buffer, &out, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    imagine_buffer_release(&buffer);
    REQUIRE_OK(imagine_buffer_create(&buffer, context, IMAGINE_U8, 4, (int64_t[]){ 6, 32, 32, 3 }, &err));
    CHECK_STATUS(imagine_vae_encode(vae, buffer, &out, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "5 and 9"));
    imagine_buffer_release(&buffer);
    REQUIRE_OK(imagine_buffer_create(&buffer, context, IMAGINE_F32, 4, (int64_t[]){ 15, 1, 4, 4 }, &err));
    CHECK_STATUS(imagine_vae_decode(vae, buffer, IMAGINE_U8, &out, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "15 channels"));
    imagine_buffer_release(&buffer);
    imagine_vae_destroy(&vae);
    imagine_sampler_destroy(&sampler);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* Non-finite values are found and named. */
static void not_finite(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(1, &err);
    imagine_context *context = open_context(1, &err);
    imagine_sampler *sampler;
    imagine_vae *vae;
    imagine_buffer *text, *noise, *out;
    REQUIRE(model && context);
    REQUIRE_OK(imagine_sampler_create(&sampler, model, NULL, &err));
    REQUIRE_OK(imagine_buffer_create(&text, context, IMAGINE_F32, 2, (int64_t[]){ 3, 16 }, &err));
    REQUIRE_OK(imagine_buffer_create(&noise, context, IMAGINE_F32, 4, (int64_t[]){ 16, 2, 4, 4 }, &err));
    ((float *)imagine_buffer_data(noise))[100] = __builtin_nanf("");
    REQUIRE_OK(imagine_sampler_set_text(sampler, text, text, &err));
    CHECK_STATUS(imagine_sampler_begin(sampler, noise, &err), IMAGINE_ERROR_NOT_FINITE);
    CHECK(strstr(err.message, "noise"));
    CHECK_STATUS(imagine_sampler_step(sampler, NULL, &err), IMAGINE_ERROR_STATE);
    REQUIRE_OK(imagine_sampler_begin(sampler, NULL, &err));
    CHECK_OK(imagine_sampler_step(sampler, NULL, &err));
    REQUIRE_OK(imagine_vae_create(&vae, model, NULL, &err));
    CHECK_STATUS(imagine_vae_decode(vae, noise, IMAGINE_U8, &out, &err), IMAGINE_ERROR_NOT_FINITE);
    CHECK(!out);
    imagine_buffer_release(&text);
    imagine_buffer_release(&noise);
    imagine_vae_destroy(&vae);
    imagine_sampler_destroy(&sampler);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

static int in_child(imagine_context *context, imagine_model *model, imagine_job *job, imagine_text *text)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_event event = { .struct_size = sizeof event };
    imagine_context_info info = { .struct_size = sizeof info };
    imagine_buffer *out;
    imagine_job *another;
    if (imagine_context_get_info(context, &info, &err) != IMAGINE_ERROR_FORKED)
        return 1;
    if (imagine_job_create(&another, model, NULL, &err) != IMAGINE_ERROR_FORKED)
        return 2;
    if (imagine_job_next(job, &event, 0, &err) != IMAGINE_ERROR_FORKED)
        return 3;
    if (imagine_text_encode(text, "x", NULL, &out, &err) != IMAGINE_ERROR_FORKED)
        return 4;
    if (imagine_model_tokenize(model, "x", 0, NULL, &out, &err) != IMAGINE_ERROR_FORKED)
        return 6;
    imagine_job_destroy(&job);
    imagine_text_destroy(&text);
    imagine_model_release(&model);
    imagine_context_release(&context);
#if defined(__SANITIZE_THREAD__)
    const int32_t threads = 1; /* that sanitizer ends a child that starts threads: it still has the parent's in its books */
#else
    const int32_t threads = 2;
#endif
    imagine_context *fresh = open_context(threads, &err);
    if (!fresh)
        return 5;
    imagine_context_release(&fresh);
    return 0;
}

static void forked(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(3, &err);
    imagine_model *model;
    imagine_job *job;
    imagine_text *text;
    int state = 0;
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    REQUIRE_OK(imagine_text_create(&text, model, NULL, &err));
    REQUIRE_OK(imagine_job_create(&job, model, NULL, &err));
    REQUIRE_OK(run_job(job, &err));
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        _exit(in_child(context, model, job, text));
    REQUIRE(child > 0 && waitpid(child, &state, 0) == child);
    CHECK(WIFEXITED(state) && WEXITSTATUS(state) == 0);
    CHECK_OK(run_job(job, &err));
    imagine_job_destroy(&job);
    imagine_text_destroy(&text);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* A row in which another context's measurement stands: nothing of it is left but the peaks. */
static void bench_row_again(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    REQUIRE(context);
    imagine_bench_row row = { .struct_size = sizeof row, .device = IMAGINE_DEVICE_CUDA, .emulated = 1, .left_out = "no memory",
                              .device_name = "a GPU", .peak = 1e9, .peak_f32 = 5, .bandwidth = 7 };
    REQUIRE_OK(imagine_bench(context, 0, &row, &err));
    CHECK(!row.left_out[0] && !row.emulated && !row.device_name[0] && row.device == IMAGINE_DEVICE_CPU && row.value > 0);
    CHECK(row.peak_f32 == 5 && row.bandwidth == 7);
    imagine_context_release(&context);
}

/* One that is another in every thread is no order for a context's work. */
static void stream_of_a_thread(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options options;
    imagine_context *context;
    imagine_context_options_init(&options, sizeof options);
    options.device = IMAGINE_DEVICE_CUDA;
    options.stream = (void *)2;
    CHECK_STATUS(imagine_context_create(&context, &options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(!context && strstr(err.message, "cudaStreamPerThread"));
}

/* A gigabyte and more is refused. */
static void *allocate_little(void *user, size_t size, size_t alignment)
{
    (void)user;
    return size >> 30 ? NULL : aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void release_plainly(void *user, void *pointer, size_t size)
{
    (void)user;
    (void)size;
    free(pointer);
}

/* What could not be had is in no peak. */
static void refused_memory(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options options;
    imagine_context *context;
    imagine_context_info info = { .struct_size = sizeof info };
    imagine_buffer *buffer;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    options.allocate = allocate_little;
    options.release = release_plainly;
    REQUIRE_OK(imagine_context_create(&context, &options, &err));
    CHECK_STATUS(imagine_buffer_create(&buffer, context, IMAGINE_F32, 1, (int64_t[]){ (int64_t)1 << 45 }, &err), IMAGINE_ERROR_NO_MEMORY);
    REQUIRE_OK(imagine_context_get_info(context, &info, &err));
    CHECK(info.memory_peak < info.memory_used + (1 << 20));
    imagine_context_release(&context);
}

/* Buffers of one memory, of which one begins within the other. */
static void overlapping(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_buffer *to, *from;
    uint8_t bytes[96];
    const int64_t shape[] = { 64 };
    for (int i = 0; i < 96; i++)
        bytes[i] = (uint8_t)i;
    REQUIRE(context);
    REQUIRE_OK(imagine_buffer_wrap(&from, context, IMAGINE_U8, 1, shape, bytes, NULL, NULL, &err));
    REQUIRE_OK(imagine_buffer_wrap(&to, context, IMAGINE_U8, 1, shape, bytes + 32, NULL, NULL, &err));
    CHECK_OK(imagine_buffer_copy(to, from, &err));
    for (int i = 0; i < 96; i++)
        CHECK(bytes[i] == (i < 32 ? i : i - 32));
    imagine_buffer_release(&to);
    imagine_buffer_release(&from);
    imagine_context_release(&context);
}

typedef struct firing {
    imagine_cancel *cancel;
    int searching; /* the search's memory has been asked for, so what grows afterwards is the list of ids */
} firing;

static void *allocate_and_fire(void *user, size_t size, size_t alignment)
{
    firing *f = user;
    f->searching |= size > (8 << 20);
    if (f->searching && size > (1 << 14) && size < (8 << 20))
        imagine_cancel_fire(f->cancel);
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

/* Also once the best pieces are known and only have to be written down. */
static void tokenizing_stops(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options options;
    imagine_context *context;
    imagine_model *model;
    imagine_buffer *ids;
    firing f = { 0 };
    size_t size = 600000;
    char *text = malloc(size + 1);
    REQUIRE(text);
    memset(text, 'a', size);
    text[size] = 0;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    options.allocate = allocate_and_fire;
    options.release = release_plainly;
    options.allocator_data = &f;
    REQUIRE_OK(imagine_context_create(&context, &options, &err));
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    REQUIRE_OK(imagine_cancel_create(&f.cancel, context, &err));
    CHECK_STATUS(imagine_model_tokenize(model, text, 0, f.cancel, &ids, &err), IMAGINE_ERROR_CANCELLED);
    CHECK(f.searching && imagine_cancel_fired(f.cancel));
    free(text);
    imagine_cancel_release(&f.cancel);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* A pack serves with the stages that it has. */
static void missing_stage(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_model *model;
    imagine_text *text;
    imagine_job *job;
    imagine_buffer *ids;
    char folder[] = P_tmpdir "/imagine-test-XXXXXX", link[64], target[1200];
    REQUIRE(context && mkdtemp(folder));
    snprintf(link, sizeof link, "%s/vae", folder);
    REQUIRE(realpath(test_path("packs/two-layer/vae"), target) && symlink(target, link) == 0);
    imagine_status status = imagine_model_open(&model, context, folder, NULL, &err);
    if (status >= 0) {
        imagine_model_info info = { .struct_size = sizeof info };
        CHECK_OK(imagine_model_get_info(model, &info, &err));
        CHECK(info.stages == IMAGINE_STAGE_VAE);
        CHECK_STATUS(imagine_text_create(&text, model, NULL, &err), IMAGINE_ERROR_NOT_FOUND);
        CHECK_STATUS(imagine_model_tokenize(model, "x", 0, NULL, &ids, &err), IMAGINE_ERROR_NOT_FOUND);
        CHECK(!ids && strstr(err.message, "tokenizer"));
        CHECK_STATUS(imagine_job_create(&job, model, NULL, &err), IMAGINE_ERROR_NOT_FOUND);
        CHECK(strstr(err.message, "text_encoder"));
        imagine_vae *vae;
        CHECK_OK(imagine_vae_create(&vae, model, NULL, &err));
        imagine_vae_destroy(&vae);
        imagine_model_release(&model);
    }
    CHECK(status >= 0);
    unlink(link);
    rmdir(folder);
    imagine_context_release(&context);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "orders", orders },       { "nulls", nulls },
        { "struct sizes", struct_sizes }, { "messages", messages },
        { "wrong tensors", wrong_tensors }, { "not finite", not_finite },
        { "forked", forked },       { "missing stage", missing_stage },
        { "bench row again", bench_row_again }, { "refused memory", refused_memory },
        { "stream of a thread", stream_of_a_thread },
        { "overlapping", overlapping }, { "tokenizing stops", tokenizing_stops },
    };
    return test_main("api/life", cases, sizeof cases / sizeof cases[0], argc, argv);
}
