/* SPDX-License-Identifier: MIT */

/* Contexts on a GPU, on the emulated module: life, memory, buffers on either side, cancelling, and every way in which the
 * device can fail. */

#include <pthread.h>
#include <unistd.h>

#include "cuda.h"
#include "recording.h"

/* The beginning of DLPack's, under the name that dlpack.h uses. */
struct DLManagedTensorVersioned {
    uint32_t major, minor;
    void *manager;
    void (*deleter)(struct DLManagedTensorVersioned *self);
    uint64_t flags;
    void *data;
    int32_t device_type, device_id;
};

static void life(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    for (int i = 0; i < 30; i++) {
        imagine_context *context = open_device(IMAGINE_DEVICE_CUDA, &err);
        REQUIRE(context);
        imagine_context_info info = { .struct_size = sizeof info };
        CHECK_OK(imagine_context_get_info(context, &info, &err));
        CHECK(info.device == IMAGINE_DEVICE_CUDA && info.device_number == 0);
        CHECK(info.device_memory_used > 0 && info.device_memory_used < info.memory_used);
        imagine_context_release(&context);
        CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
    }
}

static void options(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options o;
    imagine_context *context;
    imagine_context_options_init(&o, sizeof o);
    o.device = IMAGINE_DEVICE_CUDA;
    o.device_number = 1000;
    CHECK_STATUS(imagine_context_create(&context, &o, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(!context && strstr(err.message, "device_number: 1000"));
    o.device_number = -1;
    CHECK_STATUS(imagine_context_create(&context, &o, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    o.device_number = 0;
    o.precision = 7;
    CHECK_STATUS(imagine_context_create(&context, &o, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    o.device = IMAGINE_DEVICE_CPU;
    o.precision = IMAGINE_PRECISION_BF16;
    CHECK_STATUS(imagine_context_create(&context, &o, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "precision: is for IMAGINE_DEVICE_CUDA only"));
}

/* ---- a small job ------------------------------------------------------------------------------------------------- */

/* One picture in a step, from the prompt to its frame; NULL after a failure. */
static imagine_buffer *make_picture(imagine_model *model, imagine_cancel *cancel, imagine_error *err)
{
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job = NULL;
    imagine_buffer *frames = NULL;
    imagine_event event = { .struct_size = sizeof event };
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.steps = 1;
    sampler.width = sampler.height = 16;
    sampler.frames = 1;
    imagine_job_options_init(&options, sizeof options);
    options.prompt = "a";
    options.sampler = &sampler;
    options.cancel = cancel;
    imagine_status status = imagine_job_create(&job, model, &options, err);
    while (status >= 0 && event.kind != IMAGINE_EVENT_DONE) {
        status = imagine_job_next(job, &event, -1, err);
        if (status >= 0 && event.kind == IMAGINE_EVENT_FRAMES)
            frames = imagine_buffer_retain(event.frames);
    }
    imagine_job_destroy(&job);
    if (status < 0)
        imagine_buffer_release(&frames);
    return frames;
}

/* The same from nothing: context and model too. */
static imagine_buffer *make_from_nothing(imagine_error *err)
{
    imagine_model *model = open_on(IMAGINE_DEVICE_CUDA, PACK, err);
    imagine_buffer *frames = model ? make_picture(model, NULL, err) : NULL;
    imagine_model_release(&model);
    return frames;
}

/* Every allocation fails once: an error that says so, nothing is left, and the next one does not suffer. */
static void allocations_fail(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    if (!emulated.fail_allocation)
        SKIP("this module's allocations do not fail when asked to");
    uint64_t before = emulated.allocations_made();
    imagine_buffer *wanted = make_from_nothing(&err);
    uint64_t count = emulated.allocations_made() - before;
    REQUIRE(wanted && count > 50);
    printf("    %llu allocations\n", (unsigned long long)count);
    for (uint64_t n = 1; n <= count; n++) {
        emulated.fail_allocation((int64_t)n);
        imagine_buffer *frames = make_from_nothing(&err);
        emulated.fail_allocation(0);
        CHECK(!frames);
        if (frames || (err.status != IMAGINE_ERROR_NO_MEMORY))
            fprintf(stderr, "    allocation %llu: %d %s\n", (unsigned long long)n, err.status, err.message);
        CHECK(err.status == IMAGINE_ERROR_NO_MEMORY && strstr(err.message, "memory"));
        imagine_buffer_release(&frames);
    }
    imagine_buffer_release(&wanted);
    CHECK(emulated.allocations_held() == 0);
}

/* Launches fail: the driver's text, and the same model makes the same picture right afterwards. */
static void launches_fail(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    if (!emulated.fail_launch)
        SKIP("this module's launches do not fail when asked to");
    imagine_model *model = open_on(IMAGINE_DEVICE_CUDA, PACK, &err);
    REQUIRE(model);
    uint64_t before = emulated.launches();
    imagine_buffer *wanted = make_picture(model, NULL, &err), *frames;
    uint64_t count = emulated.launches() - before;
    REQUIRE(wanted && count > 100);
    printf("    %llu launches\n", (unsigned long long)count);
    for (uint64_t n = 1; n <= count; n += 1 + count / 40) {
        emulated.fail_launch((int64_t)n);
        CHECK(!make_picture(model, NULL, &err));
        emulated.fail_launch(0);
        CHECK(err.status == IMAGINE_ERROR_DEVICE && err.native_code == 1);
        CHECK(strstr(err.message, "CUDA: ") && strstr(err.message, "a launch that was to fail"));
    }
    frames = make_picture(model, NULL, &err);
    CHECK(same_bytes(frames, wanted));
    imagine_buffer_release(&frames);
    imagine_buffer_release(&wanted);
    imagine_model_release(&model);
    CHECK(emulated.allocations_held() == 0);
}

/* A handle goes on after each of its allocations has failed. */
static void handles_go_on(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *stage = NULL;
    imagine_buffer *wanted = NULL, *sample = NULL;
    if (!emulated.fail_allocation)
        SKIP("this module's allocations do not fail when asked to");
    imagine_model *model = open_on(IMAGINE_DEVICE_CUDA, PACK, &err);
    imagine_context *context = open_context(1, &err);
    REQUIRE(model && context);
    imagine_buffer *x = floats(context, 5, (int64_t[]){ 1, 16, 1, 2, 2 }, &err);
    imagine_buffer *t = floats(context, 1, (int64_t[]){ 1 }, &err);
    imagine_buffer *embeds = floats(context, 3, (int64_t[]){ 1, 3, 16 }, &err);
    ((float *)imagine_buffer_data(t))[0] = 500;
    REQUIRE_OK(imagine_sampler_create(&stage, model, NULL, &err));
    int failures = 0;
    do {
        emulated.fail_allocation(++failures);
        imagine_buffer_release(&wanted);
    } while (imagine_sampler_denoise(stage, x, t, embeds, &wanted, &err) == IMAGINE_ERROR_NO_MEMORY && failures < 100);
    emulated.fail_allocation(0);
    CHECK(failures > 1 && failures < 100 && wanted);
    CHECK_OK(imagine_sampler_denoise(stage, x, t, embeds, &sample, &err)); /* records graphs */
    CHECK(same_bytes(sample, wanted));
    imagine_buffer_release(&sample);
    uint64_t made = emulated.allocations_made();
    CHECK_OK(imagine_sampler_denoise(stage, x, t, embeds, &sample, &err));
    CHECK(same_bytes(sample, wanted));
    printf("    %d allocations before it is warm, %llu afterwards\n", failures - 1,
           (unsigned long long)(emulated.allocations_made() - made));
    CHECK(emulated.allocations_made() - made <= 1); /* the text's keys and values, which belong to the call */
    imagine_buffer_release(&sample);
    imagine_buffer_release(&wanted);
    imagine_sampler_destroy(&stage);
    imagine_buffer_release(&embeds);
    imagine_buffer_release(&t);
    imagine_buffer_release(&x);
    imagine_context_release(&context);
    imagine_model_release(&model);
    CHECK(emulated.allocations_held() == 0);
}

/* A step that is warm allocates nothing. */
static void steps_with(imagine_weights weights)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *stage = NULL;
    imagine_sampler_options o;
    imagine_model *model = NULL;
    imagine_model_options how;
    imagine_context *device = open_device(IMAGINE_DEVICE_CUDA, &err), *context = open_context(1, &err);
    imagine_model_options_init(&how, sizeof how);
    how.weights = weights;
    REQUIRE(device && context);
    REQUIRE_OK(imagine_model_open(&model, device, PACK, &how, &err));
    imagine_context_release(&device);
    imagine_buffer *text = floats(context, 2, (int64_t[]){ 4, 16 }, &err);
    imagine_sampler_options_init(&o, sizeof o);
    o.width = o.height = 16;
    o.frames = 1;
    o.steps = 4;
    REQUIRE_OK(imagine_sampler_create(&stage, model, &o, &err));
    REQUIRE_OK(imagine_sampler_set_text(stage, text, text, &err));
    REQUIRE_OK(imagine_sampler_begin(stage, NULL, &err));
    for (int i = 0; i < 2; i++) /* the second records graphs */
        CHECK_OK(imagine_sampler_step(stage, NULL, &err));
    uint64_t made = emulated.allocations_made ? emulated.allocations_made() : 0;
    for (int i = 2; i < 4; i++)
        CHECK_OK(imagine_sampler_step(stage, NULL, &err));
    CHECK(!emulated.allocations_made || emulated.allocations_made() == made);
    CHECK(!emulated.pins_held || (emulated.pins_held() != 0) == (weights == IMAGINE_WEIGHTS_STREAMED));
    imagine_sampler_destroy(&stage);
    imagine_buffer_release(&text);
    imagine_context_release(&context);
    imagine_model_release(&model);
    CHECK(!emulated.pins_held || !emulated.pins_held());
}

/* Also where blocks are streamed: their memory, and what is pinned on the way, stays for the next step. */
static void steps_allocate_nothing(void)
{
    steps_with(IMAGINE_WEIGHTS_RESIDENT);
    steps_with(IMAGINE_WEIGHTS_STREAMED);
}

static void cancelled(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_on(IMAGINE_DEVICE_CUDA, PACK, &err);
    imagine_context *context = open_context(1, &err);
    imagine_cancel *cancel = NULL;
    imagine_sampler *stage = NULL;
    imagine_sampler_options o;
    REQUIRE(model && context);
    REQUIRE_OK(imagine_cancel_create(&cancel, context, &err));
    imagine_buffer *text = floats(context, 2, (int64_t[]){ 4, 16 }, &err), *latents = NULL;
    imagine_sampler_options_init(&o, sizeof o);
    o.width = o.height = 16;
    o.frames = 1;
    o.steps = 2;
    o.cancel = cancel;
    REQUIRE_OK(imagine_sampler_create(&stage, model, &o, &err));
    REQUIRE_OK(imagine_sampler_set_text(stage, text, text, &err));
    REQUIRE_OK(imagine_sampler_begin(stage, NULL, &err));
    imagine_cancel_fire(cancel);
    uint64_t before = emulated.launches ? emulated.launches() : 0;
    CHECK_STATUS(imagine_sampler_step(stage, NULL, &err), IMAGINE_ERROR_CANCELLED);
    CHECK(!emulated.launches || emulated.launches() == before); /* nothing more is started */
    imagine_cancel_reset(cancel);
    for (int i = 0; i < 2; i++)
        CHECK_OK(imagine_sampler_step(stage, NULL, &err));
    CHECK_OK(imagine_sampler_get_latents(stage, 0, &latents, &err));
    imagine_buffer_release(&latents);
    imagine_sampler_destroy(&stage);
    imagine_cancel_fire(cancel);
    CHECK(!make_picture(model, cancel, &err) && err.status == IMAGINE_ERROR_CANCELLED);
    imagine_buffer_release(&text);
    imagine_cancel_release(&cancel);
    imagine_context_release(&context);
    imagine_model_release(&model);
    CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static imagine_context *open_limited(uint64_t limit, imagine_error *err)
{
    imagine_context_options options;
    imagine_context *context = NULL;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    options.device = IMAGINE_DEVICE_CUDA;
    options.memory_limit = limit;
    imagine_context_create(&context, &options, err);
    return context;
}

/* What a job needs is told before it begins, host and device together, and limits are kept. */
static void estimates(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_limited(0, &err);
    imagine_model *model = NULL;
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_estimate estimate = { .struct_size = sizeof estimate };
    imagine_context_info info = { .struct_size = sizeof info };
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.steps = 1;
    sampler.width = sampler.height = 16;
    sampler.frames = 1;
    imagine_job_options_init(&options, sizeof options);
    options.prompt = "a";
    options.sampler = &sampler;
    uint64_t launches = emulated.launches ? emulated.launches() : 0;
    uint64_t made = emulated.allocations_made ? emulated.allocations_made() : 0;
    REQUIRE_OK(imagine_job_estimate(model, &options, &estimate, &err));
    CHECK(!emulated.launches || (emulated.launches() == launches && emulated.allocations_made() == made));
    imagine_buffer *wanted = make_picture(model, NULL, &err);
    CHECK(wanted && imagine_context_get_info(context, &info, &err) >= 0);
    printf("    told %.1f kB, used %.1f kB, of which %.1f kB on the device\n", (double)estimate.peak_bytes / 1e3,
           (double)info.memory_peak / 1e3, (double)info.device_memory_peak / 1e3);
    CHECK(info.memory_peak <= estimate.peak_bytes);
    CHECK(info.memory_peak * 1.03 >= (double)estimate.peak_bytes);
    imagine_model_release(&model);
    imagine_context_release(&context);
    context = open_limited(estimate.peak_bytes - 700000, &err);
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    imagine_buffer *frames = make_picture(model, NULL, &err);
    if (!frames)
        fprintf(stderr, "    %s\n", err.message);
    CHECK(same_bytes(frames, wanted));
    CHECK_OK(imagine_context_get_info(context, &info, &err));
    CHECK(info.memory_peak <= estimate.peak_bytes - 700000);
    imagine_buffer_release(&frames);
    imagine_buffer_release(&wanted);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* Weights that are read block by block give the same bytes. */
static void streamed(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *frames[2] = { NULL, NULL };
    for (int i = 0; i < 2; i++) {
        imagine_context *context = open_device(IMAGINE_DEVICE_CUDA, &err);
        imagine_model *model = NULL;
        imagine_model_options how;
        imagine_model_options_init(&how, sizeof how);
        how.weights = i ? IMAGINE_WEIGHTS_STREAMED : IMAGINE_WEIGHTS_RESIDENT;
        REQUIRE(context);
        REQUIRE_OK(imagine_model_open(&model, context, PACK, &how, &err));
        frames[i] = make_picture(model, NULL, &err);
        imagine_model_release(&model);
        imagine_context_release(&context);
    }
    CHECK(same_bytes(frames[1], frames[0]));
    imagine_buffer_release(&frames[0]);
    imagine_buffer_release(&frames[1]);
}

/* Products with factors in bf16: near, and not the same. */
static void bf16(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *embeds[2] = { NULL, NULL };
    for (int i = 0; i < 2; i++) {
        imagine_context_options o;
        imagine_context *context = NULL;
        imagine_model *model = NULL;
        imagine_text *stage = NULL;
        imagine_context_options_init(&o, sizeof o);
        o.device = IMAGINE_DEVICE_CUDA;
        o.precision = i ? IMAGINE_PRECISION_BF16 : IMAGINE_PRECISION_F32;
        REQUIRE_OK(imagine_context_create(&context, &o, &err));
        REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
        REQUIRE_OK(imagine_text_create(&stage, model, NULL, &err));
        CHECK_OK(imagine_text_encode(stage, "a red apple", NULL, &embeds[i], &err));
        imagine_text_destroy(&stage);
        imagine_model_release(&model);
        imagine_context_release(&context);
    }
    double nmse = difference(embeds[1], embeds[0]);
    printf("    NMSE %.2g\n", nmse);
    CHECK(nmse > 0 && nmse < 1e-3);
    imagine_buffer_release(&embeds[0]);
    imagine_buffer_release(&embeds[1]);
}

/* Measurements, with every allocation failing once: left out or an error, and nothing is left behind. */
static void measurements(void)
{
    static const char *const kinds[] = { "peak", "attention", "linear", "norm", "transformer", "vae" };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_device(IMAGINE_DEVICE_CUDA, &err);
    REQUIRE(context);
    for (int32_t i = 0, kind = 0; kind < 6; i++) {
        imagine_bench_row row = { .struct_size = sizeof row, .device = IMAGINE_DEVICE_CUDA, .size = IMAGINE_BENCH_TINY };
        REQUIRE_OK(imagine_bench_describe(i, &row, &err));
        if (strcmp(row.kind, kinds[kind]))
            continue;
        size_t held = emulated.allocations_held ? (size_t)emulated.allocations_held() : 0;
        int failures = 0;
        imagine_status status;
        do {
            if (emulated.fail_allocation)
                emulated.fail_allocation(++failures);
            row = (imagine_bench_row){ .struct_size = sizeof row, .size = IMAGINE_BENCH_TINY };
            status = imagine_bench(context, i, &row, &err);
            CHECK(status >= 0 || status == IMAGINE_ERROR_NO_MEMORY);
            CHECK(!emulated.allocations_held || emulated.allocations_held() == held);
        } while (emulated.fail_allocation && (status < 0 || row.left_out[0]) && failures < 1000);
        if (emulated.fail_allocation)
            emulated.fail_allocation(0);
        CHECK(!row.left_out[0] && row.seconds > 0 && row.value > 0 && row.unit[0]);
        CHECK(row.device == IMAGINE_DEVICE_CUDA && (row.emulated || !emulated.launches));
        printf("    %s: %d allocations\n", row.name, emulated.fail_allocation ? failures - 1 : 0);
        kind++;
    }
    imagine_bench_row row = { .struct_size = sizeof row, .size = 7 };
    CHECK_STATUS(imagine_bench(context, 0, &row, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    row.size = IMAGINE_BENCH_TINY;
    CHECK_STATUS(imagine_bench(context, 1000, &row, &err), IMAGINE_ERROR_NOT_FOUND);
    imagine_context_release(&context);
}

/* ---- several at once --------------------------------------------------------------------------------------------- */

typedef struct caller {
    imagine_model *model;
    imagine_buffer *x, *t, *embeds, *sample;
    imagine_error error;
} caller;

static void *call_denoise(void *arg)
{
    caller *c = arg;
    imagine_sampler *stage = NULL;
    if (imagine_sampler_create(&stage, c->model, NULL, &c->error) >= 0)
        for (int i = 0; i < 3; i++) {
            imagine_buffer_release(&c->sample);
            imagine_sampler_denoise(stage, c->x, c->t, c->embeds, &c->sample, &c->error);
        }
    imagine_sampler_destroy(&stage);
    return NULL;
}

/* Handles of one context on threads of their own: the same bytes as one after the other. */
static void several_at_once(void)
{
    enum { CALLERS = 3 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options o;
    imagine_context *context = NULL, *cpu = open_context(1, &err);
    imagine_model *model = NULL;
    caller callers[CALLERS];
    pthread_t threads[CALLERS];
    imagine_context_options_init(&o, sizeof o);
    o.device = IMAGINE_DEVICE_CUDA;
    o.precision = IMAGINE_PRECISION_BF16; /* whose products go through the workspace */
    o.threads = 1;
    REQUIRE_OK(imagine_context_create(&context, &o, &err));
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    REQUIRE(cpu);
    for (int i = 0; i < CALLERS; i++) {
        callers[i] = (caller){ .model = model, .error = IMAGINE_ERROR_INIT };
        callers[i].x = floats(cpu, 5, (int64_t[]){ 1, 16, 1, 4, 2 + 2 * i }, &err);
        callers[i].t = floats(cpu, 1, (int64_t[]){ 1 }, &err);
        callers[i].embeds = floats(cpu, 3, (int64_t[]){ 1, 3 + i, 16 }, &err);
        ((float *)imagine_buffer_data(callers[i].t))[0] = (float)(900 - 100 * i);
    }
    imagine_buffer *alone[CALLERS];
    for (int i = 0; i < CALLERS; i++) {
        call_denoise(&callers[i]);
        alone[i] = callers[i].sample;
        callers[i].sample = NULL;
    }
    for (int i = 0; i < CALLERS; i++)
        REQUIRE(!pthread_create(&threads[i], NULL, call_denoise, &callers[i]));
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(threads[i], NULL);
        if (!callers[i].sample)
            fprintf(stderr, "    %s\n", callers[i].error.message);
        CHECK(same_bytes(callers[i].sample, alone[i]));
        imagine_buffer_release(&callers[i].sample);
        imagine_buffer_release(&alone[i]);
        imagine_buffer_release(&callers[i].embeds);
        imagine_buffer_release(&callers[i].t);
        imagine_buffer_release(&callers[i].x);
    }
    imagine_model_release(&model);
    imagine_context_release(&context);
    imagine_context_release(&cpu);
    CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
}

/* ---- buffers ----------------------------------------------------------------------------------------------------- */

static void buffers(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_device(IMAGINE_DEVICE_CUDA, &err), *cpu = open_context(1, &err);
    imagine_buffer *host = NULL, *device = NULL, *second = NULL, *back = NULL, *wrapped = NULL;
    imagine_buffer_info info = { .struct_size = sizeof info };
    const int64_t shape[] = { 3, 50 };
    REQUIRE(context && cpu);
    host = floats(cpu, 2, shape, &err);
    REQUIRE_OK(imagine_buffer_create_on(&device, context, IMAGINE_DEVICE_CUDA, IMAGINE_F32, 2, shape, &err));
    REQUIRE_OK(imagine_buffer_create_on(&second, context, IMAGINE_DEVICE_CUDA, IMAGINE_F32, 2, shape, &err));
    REQUIRE_OK(imagine_buffer_create_on(&back, cpu, IMAGINE_DEVICE_CPU, IMAGINE_F32, 2, shape, &err));
    CHECK_OK(imagine_buffer_get_info(device, &info, &err));
    CHECK(info.device == IMAGINE_DEVICE_CUDA && info.device_number == 0 && info.data && info.size == 600);
    CHECK_OK(imagine_buffer_get_info(host, &info, &err));
    CHECK(info.device == IMAGINE_DEVICE_CPU);
    memset(imagine_buffer_data(back), 1, 600);
    CHECK_OK(imagine_buffer_copy(back, device, &err));
    float zeros[150] = { 0 };
    CHECK(!memcmp(imagine_buffer_data(back), zeros, sizeof zeros));
    CHECK_OK(imagine_buffer_copy(device, host, &err));
    CHECK_OK(imagine_buffer_copy(second, device, &err));
    CHECK_OK(imagine_buffer_copy(back, second, &err));
    CHECK(same_bytes(back, host));
    REQUIRE_OK(imagine_buffer_wrap_on(&wrapped, context, IMAGINE_DEVICE_CUDA, IMAGINE_F32, 2, shape,
                                      imagine_buffer_data(device), NULL, NULL, &err));
    memset(imagine_buffer_data(back), 1, 600);
    CHECK_OK(imagine_buffer_copy(back, wrapped, &err));
    CHECK(same_bytes(back, host));
    imagine_buffer_release(&wrapped);
    CHECK_STATUS(imagine_buffer_create_on(&wrapped, cpu, IMAGINE_DEVICE_CUDA, IMAGINE_F32, 2, shape, &err),
                 IMAGINE_ERROR_UNSUPPORTED);
    CHECK_STATUS(imagine_buffer_create_on(&wrapped, context, 9, IMAGINE_F32, 2, shape, &err),
                 IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(!wrapped);
    REQUIRE_OK(imagine_buffer_create(&wrapped, cpu, IMAGINE_F32, 1, (int64_t[]){ 150 }, &err));
    CHECK_STATUS(imagine_buffer_copy(wrapped, device, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_copy(NULL, device, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    imagine_buffer *all[] = { host, device, second, back, wrapped };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        imagine_buffer_release(&all[i]);
    imagine_context_release(&cpu);
    imagine_context_release(&context);
    CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
}

static imagine_buffer *on_device(imagine_context *context, const imagine_buffer *host)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *device = NULL;
    imagine_buffer_info info = { .struct_size = sizeof info };
    CHECK_OK(imagine_buffer_get_info(host, &info, &err));
    CHECK_OK(imagine_buffer_create_on(&device, context, IMAGINE_DEVICE_CUDA, info.dtype, info.ndim, info.shape, &err));
    CHECK_OK(imagine_buffer_copy(device, host, &err));
    return device;
}

/* What lies on a device is saved as it is: pictures, and tensors from both sides in one file. */
static void saved(void)
{
    static const char *const names[] = { "b", "a", "c" };
    char folder[] = P_tmpdir "/imagine-cuda-XXXXXX", path[96], clip[96];
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_device(IMAGINE_DEVICE_CUDA, &err), *cpu = open_context(1, &err);
    REQUIRE(context && cpu && mkdtemp(folder));
    snprintf(path, sizeof path, "%s/x.safetensors", folder);
    snprintf(clip, sizeof clip, "%s/x.png", folder);
    imagine_buffer *host[3] = { floats(cpu, 2, (int64_t[]){ 3, 50 }, &err), floats(cpu, 1, (int64_t[]){ 70000 }, &err) };
    imagine_buffer *device[3] = { NULL }, *read = NULL;
    REQUIRE_OK(imagine_buffer_create(&host[2], cpu, IMAGINE_U8, 4, (int64_t[]){ 3, 8, 12, 3 }, &err));
    for (size_t i = 0; i < imagine_buffer_size(host[2]); i++)
        ((uint8_t *)imagine_buffer_data(host[2]))[i] = (uint8_t)(i * 37);
    for (int i = 0; i < 3; i++)
        device[i] = on_device(context, host[i]);
    CHECK_OK(imagine_buffer_save(context, path, 3, (imagine_buffer *const[]){ device[0], host[1], device[2] }, names, &err));
    for (int i = 0; i < 3; i++) {
        CHECK_OK(imagine_buffer_load(&read, cpu, path, names[i], &err));
        CHECK(same_bytes(read, host[i]));
        imagine_buffer_release(&read);
    }
    CHECK_OK(imagine_picture_save(context, clip, device[2], 8, &err));
    CHECK_OK(imagine_picture_load(&read, cpu, clip, &err));
    CHECK(same_bytes(read, host[2]));
    imagine_buffer_release(&read);
    for (int i = 0; i < 3; i++) {
        imagine_buffer_release(&host[i]);
        imagine_buffer_release(&device[i]);
    }
    CHECK(!unlink(path) && !unlink(clip) && !rmdir(folder)); /* nothing else is left there */
    imagine_context_release(&cpu);
    imagine_context_release(&context);
    CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
}

/* As a tensor of DLPack and back, without a copy. */
static void dlpack(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_device(IMAGINE_DEVICE_CUDA, &err), *cpu = open_context(1, &err);
    imagine_buffer *device = NULL, *again = NULL;
    struct DLManagedTensorVersioned *tensor = NULL;
    REQUIRE(context && cpu);
    REQUIRE_OK(imagine_buffer_create_on(&device, context, IMAGINE_DEVICE_CUDA, IMAGINE_F32, 1, (int64_t[]){ 9 }, &err));
    REQUIRE_OK(imagine_buffer_to_dlpack(device, &tensor, &err));
    CHECK(tensor->device_type == 2 && tensor->device_id == 0);
    CHECK(tensor->data == imagine_buffer_data(device));
    CHECK_STATUS(imagine_buffer_from_dlpack(&again, cpu, tensor, &err), IMAGINE_ERROR_UNSUPPORTED);
    CHECK(strstr(err.message, "DLPack device type 2"));
    REQUIRE_OK(imagine_buffer_from_dlpack(&again, context, tensor, &err));
    imagine_buffer_info info = { .struct_size = sizeof info };
    CHECK_OK(imagine_buffer_get_info(again, &info, &err));
    CHECK(info.device == IMAGINE_DEVICE_CUDA && info.data == imagine_buffer_data(device));
    imagine_buffer_release(&device);
    imagine_buffer_release(&again);
    imagine_context_release(&cpu);
    imagine_context_release(&context);
    CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
}

/* What the context's stream still has to do is done before a tensor is given out, or the reason is told why it is not. */
static void dlpack_waits(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    if (!emulated.lag_kernels)
        SKIP("this module's kernels do not wait when asked to");
    imagine_context *context = open_device(IMAGINE_DEVICE_CUDA, &err), *cpu = open_context(1, &err);
    imagine_model *model = NULL;
    imagine_sampler *stage = NULL;
    imagine_sampler_options o;
    imagine_buffer *device = NULL, *text = floats(cpu, 2, (int64_t[]){ 4, 16 }, &err);
    struct DLManagedTensorVersioned *tensor = NULL;
    REQUIRE(context && cpu && text);
    imagine_sampler_options_init(&o, sizeof o);
    o.width = o.height = 16;
    o.frames = 1;
    o.guidance = 1;
    REQUIRE_OK(imagine_buffer_create_on(&device, context, IMAGINE_DEVICE_CUDA, IMAGINE_F32, 1, (int64_t[]){ 9 }, &err));
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    REQUIRE_OK(imagine_sampler_create(&stage, model, &o, &err));
    emulated.lag_kernels(1);
    for (int fails = 0; fails < 2; fails++) {
        CHECK_OK(imagine_sampler_set_text(stage, text, NULL, &err));
        uint64_t before = emulated.launches();
        emulated.fail_launch(fails);
        imagine_status status = imagine_buffer_to_dlpack(device, &tensor, &err);
        CHECK(status == (fails ? IMAGINE_ERROR_DEVICE : IMAGINE_OK) && (tensor == NULL) == fails);
        CHECK(emulated.launches() > before);
        if (tensor)
            tensor->deleter(tensor);
    }
    emulated.fail_launch(0);
    emulated.lag_kernels(0);
    imagine_buffer_release(&text);
    imagine_buffer_release(&device);
    imagine_sampler_destroy(&stage);
    imagine_model_release(&model);
    imagine_context_release(&cpu);
    imagine_context_release(&context);
    CHECK(emulated.allocations_held() == 0);
}

/* The whole life of a context: a picture, buffers of both sides, and its end. */
static void live_once(int bf16)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options o;
    imagine_context *context = NULL;
    imagine_model *model = NULL;
    imagine_buffer *device = NULL, *host = NULL, *frames = NULL;
    imagine_context_options_init(&o, sizeof o);
    o.threads = 1;
    o.device = IMAGINE_DEVICE_CUDA;
    o.precision = bf16 ? IMAGINE_PRECISION_BF16 : IMAGINE_PRECISION_F32;
    REQUIRE_OK(imagine_context_create(&context, &o, &err));
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    CHECK(frames = make_picture(model, NULL, &err));
    CHECK_OK(imagine_buffer_create_on(&device, context, IMAGINE_DEVICE_CUDA, IMAGINE_F32, 1, (int64_t[]){ 9 }, &err));
    CHECK(host = floats(context, 1, (int64_t[]){ 9 }, &err));
    CHECK_OK(imagine_buffer_copy(device, host, &err));
    CHECK_OK(imagine_buffer_copy(host, device, &err));
    imagine_buffer_release(&host);
    imagine_buffer_release(&device);
    imagine_buffer_release(&frames);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* Beside a recording of the program's that no other thread is to disturb. */
static void beside_a_recording(int bf16)
{
    recording r;
    if (!emulated.capture_elsewhere) {
        if (!recording_begin(&r))
            SKIP("no driver that records");
        live_once(bf16);
        int code = recording_end(&r);
        CHECK(!code);
        if (code)
            fprintf(stderr, "    the recording: error %d of the driver\n", code);
        return;
    }
    emulated.libraries(1);
    emulated.capture_elsewhere(1);
    int before = emulated.library_calls();
    live_once(bf16);
    CHECK(emulated.library_calls() > before);
    CHECK(!emulated.capture_elsewhere(0));
    CHECK(emulated.allocations_held() == 0);
    emulated.libraries(0); /* which looks whether something of theirs is left */
}

static void beside_a_recording_f32(void)
{
    beside_a_recording(0);
}

static void beside_a_recording_bf16(void)
{
    beside_a_recording(1);
}

static int told;
static char last_told[300];

static void hear(void *user, imagine_log_level level, const char *text)
{
    (void)user;
    if (level != IMAGINE_LOG_WARNING || !strstr(text, "cannot be opened"))
        return;
    told++;
    snprintf(last_told, sizeof last_told, "%s", text);
}

/* Libraries of NVIDIA's that are missing are told once a context, with the reason; cuDNN only where it would have a part. */
static void missing_libraries(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    if (!emulated.libraries)
        SKIP("this module has the libraries that it has");
    for (int way = 0; way < 4; way++) {
        int there = way / 2, bf16 = way % 2;
        imagine_context_options o;
        imagine_context *context = NULL;
        imagine_model *model = NULL;
        imagine_context_options_init(&o, sizeof o);
        o.threads = 1;
        o.device = IMAGINE_DEVICE_CUDA;
        o.precision = bf16 ? IMAGINE_PRECISION_BF16 : IMAGINE_PRECISION_F32;
        o.log = hear;
        o.log_level = IMAGINE_LOG_WARNING;
        emulated.libraries(there);
        told = 0;
        REQUIRE_OK(imagine_context_create(&context, &o, &err));
        REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
        for (int i = 0; i < 2; i++) {
            imagine_buffer *frames = make_picture(model, NULL, &err);
            CHECK(frames);
            imagine_buffer_release(&frames);
        }
        CHECK(told == !there);
        if (!there) {
            CHECK(strstr(last_told, "cuBLASLt") && strstr(last_told, "libcublasLt.so.12: it is not there"));
            CHECK((strstr(last_told, "libcudnn.so.9") != NULL) == bf16);
            printf("    %s\n", last_told);
        }
        imagine_model_release(&model);
        imagine_context_release(&context);
        emulated.libraries(0);
    }
}

typedef struct decoder {
    imagine_model *model;
    imagine_buffer *latents, *frames;
    imagine_error error;
} decoder;

static void *decode_alone(void *arg)
{
    decoder *d = arg;
    imagine_vae *vae = NULL;
    if (imagine_vae_create(&vae, d->model, NULL, &d->error) >= 0)
        for (int i = 0; i < 4; i++) {
            imagine_buffer_release(&d->frames);
            imagine_vae_decode(vae, d->latents, IMAGINE_U8, &d->frames, &d->error);
        }
    imagine_vae_destroy(&vae);
    return NULL;
}

/* cuDNN makes one handle for all stages and jobs of a context, also for those that decode at once, and it goes with the context. */
static void one_handle(void)
{
    enum { DECODERS = 3 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options o;
    imagine_context *context = NULL;
    decoder decoders[DECODERS];
    pthread_t threads[DECODERS];
    imagine_model *model = NULL;
    if (!emulated.libraries)
        SKIP("this module does not tell how many there are");
    emulated.libraries(1);
    imagine_context_options_init(&o, sizeof o);
    o.threads = 1;
    o.device = IMAGINE_DEVICE_CUDA;
    o.precision = IMAGINE_PRECISION_BF16;
    REQUIRE_OK(imagine_context_create(&context, &o, &err));
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    CHECK(emulated.convolver_handles() == 0);
    imagine_buffer *alone[DECODERS], *frames = make_picture(model, NULL, &err);
    CHECK(frames && emulated.convolver_handles() == 1);
    imagine_buffer_release(&frames);
    for (int i = 0; i < DECODERS; i++) {
        decoders[i] = (decoder){ .model = model, .error = IMAGINE_ERROR_INIT };
        decoders[i].latents = floats(context, 4, (int64_t[]){ 16, 1, 2, 2 + i }, &err);
        decode_alone(&decoders[i]);
        alone[i] = decoders[i].frames;
        decoders[i].frames = NULL;
    }
    for (int i = 0; i < DECODERS; i++)
        REQUIRE(!pthread_create(&threads[i], NULL, decode_alone, &decoders[i]));
    for (int i = 0; i < DECODERS; i++) {
        pthread_join(threads[i], NULL);
        if (!decoders[i].frames)
            fprintf(stderr, "    %s\n", decoders[i].error.message);
        CHECK(same_bytes(decoders[i].frames, alone[i]));
        imagine_buffer_release(&decoders[i].frames);
        imagine_buffer_release(&decoders[i].latents);
        imagine_buffer_release(&alone[i]);
    }
    CHECK(emulated.convolver_handles() == 1);
    imagine_model_release(&model);
    imagine_context_release(&context);
    CHECK(emulated.allocations_held() == 0);
    emulated.libraries(0); /* which looks whether it is left */
}

/* Stages take tensors from either side: the same bytes. */
static void inputs_on_either_side(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_on(IMAGINE_DEVICE_CUDA, PACK, &err);
    imagine_context *cpu = open_context(1, &err), *context = NULL;
    imagine_sampler *sampler = NULL;
    imagine_vae *vae = NULL;
    imagine_buffer *on_host[4] = { NULL }, *on_device[4] = { NULL }, *results[4] = { NULL };
    REQUIRE(model && cpu);
    on_host[0] = floats(cpu, 5, (int64_t[]){ 1, 16, 1, 2, 2 }, &err);
    on_host[1] = floats(cpu, 1, (int64_t[]){ 1 }, &err);
    on_host[2] = floats(cpu, 3, (int64_t[]){ 1, 3, 16 }, &err);
    on_host[3] = floats(cpu, 4, (int64_t[]){ 16, 1, 1, 1 }, &err);
    ((float *)imagine_buffer_data(on_host[1]))[0] = 300;
    REQUIRE_OK(imagine_sampler_create(&sampler, model, NULL, &err));
    REQUIRE_OK(imagine_vae_create(&vae, model, NULL, &err));
    context = open_device(IMAGINE_DEVICE_CUDA, &err); /* another context on the same GPU */
    REQUIRE(context);
    for (int i = 0; i < 4; i++) {
        imagine_buffer_info info = { .struct_size = sizeof info };
        imagine_buffer_get_info(on_host[i], &info, &err);
        REQUIRE_OK(imagine_buffer_create_on(&on_device[i], context, IMAGINE_DEVICE_CUDA, info.dtype, info.ndim, info.shape,
                                            &err));
        CHECK_OK(imagine_buffer_copy(on_device[i], on_host[i], &err));
    }
    for (int i = 0; i < 2; i++) {
        imagine_buffer *const *in = i ? on_device : on_host;
        CHECK_OK(imagine_sampler_denoise(sampler, in[0], in[1], in[2], &results[i], &err));
        CHECK_OK(imagine_vae_decode(vae, in[3], IMAGINE_U8, &results[2 + i], &err));
    }
    CHECK(same_bytes(results[1], results[0]) && same_bytes(results[3], results[2]));
    for (int i = 0; i < 4; i++) {
        imagine_buffer_release(&on_host[i]);
        imagine_buffer_release(&on_device[i]);
        imagine_buffer_release(&results[i]);
    }
    imagine_vae_destroy(&vae);
    imagine_sampler_destroy(&sampler);
    imagine_context_release(&context);
    imagine_context_release(&cpu);
    imagine_model_release(&model);
    CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "life", life }, { "options", options }, { "allocations fail", allocations_fail },
        { "launches fail", launches_fail }, { "handles go on", handles_go_on },
        { "steps allocate nothing", steps_allocate_nothing }, { "cancelled", cancelled }, { "estimates", estimates },
        { "streamed", streamed }, { "bf16", bf16 }, { "measurements", measurements },
        { "several at once", several_at_once }, { "buffers", buffers }, { "saved", saved }, { "dlpack", dlpack }, { "dlpack waits", dlpack_waits },
        { "inputs on either side", inputs_on_either_side }, { "missing libraries", missing_libraries },
        { "one handle", one_handle },
        { "beside a recording, f32", beside_a_recording_f32 }, { "beside a recording, bf16", beside_a_recording_bf16 },
    };
    find_hooks();
    return test_main("api/cuda_life", cases, sizeof cases / sizeof *cases, argc, argv);
}
