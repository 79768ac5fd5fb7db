/* SPDX-License-Identifier: MIT */

/* Every allocation fails in turn, through context, load, generate and destroy: the call says so, and nothing is leaked. */

#include <pthread.h>
#include <stdatomic.h>

#include "api.h"

/* An allocator that counts and, at one of its calls, says no. */
typedef struct allocator {
    pthread_mutex_t mutex;
    long calls, fail_at; /* fail_at 0: never */
    long failed;
    size_t held;
} allocator;

static void *counted_alloc(void *user_data, size_t size, size_t alignment)
{
    allocator *a = user_data;
    void *out = NULL;
    pthread_mutex_lock(&a->mutex);
    int fail = ++a->calls == a->fail_at;
    a->failed += fail;
    if (!fail && posix_memalign(&out, alignment < sizeof out ? sizeof out : alignment, size ? size : 1) == 0)
        a->held += size;
    pthread_mutex_unlock(&a->mutex);
    return out;
}

static void counted_free(void *user_data, void *pointer, size_t size)
{
    allocator *a = user_data;
    pthread_mutex_lock(&a->mutex);
    a->held -= size;
    pthread_mutex_unlock(&a->mutex);
    free(pointer);
}

/* A sampler for a prompt of three zeros, which has begun, or goes on from a state where there is one. */
static imagine_status open_sampler(imagine_sampler **sampler, imagine_model *model, imagine_buffer *text, imagine_buffer *state,
                                   imagine_error *error)
{
    imagine_sampler_options options;
    imagine_sampler_options_init(&options, sizeof options);
    options.steps = 3;
    options.schedule = IMAGINE_SCHEDULE_WAN_UNIPC;
    imagine_status status = imagine_sampler_create(sampler, model, &options, error);
    if (status >= 0)
        status = imagine_sampler_set_text(*sampler, text, text, error);
    if (status >= 0)
        status = state ? imagine_sampler_resume(*sampler, state, error) : imagine_sampler_begin(*sampler, NULL, error);
    return status < 0 ? status : imagine_sampler_step(*sampler, NULL, error);
}

/* A run that one sampler begins and another goes on with. */
static imagine_status use_state(imagine_model *model, imagine_context *context, imagine_error *error)
{
    imagine_sampler *first = NULL, *second = NULL;
    imagine_buffer *text = NULL, *state = NULL;
    imagine_status status = imagine_buffer_create(&text, context, IMAGINE_F32, 2, (int64_t[]){ 3, 16 }, error);
    if (status >= 0)
        status = open_sampler(&first, model, text, NULL, error);
    if (status >= 0)
        status = imagine_sampler_get_state(first, &state, error);
    if (status >= 0)
        status = open_sampler(&second, model, text, state, error);
    imagine_sampler_destroy(&first);
    imagine_sampler_destroy(&second);
    imagine_buffer_release(&state);
    imagine_buffer_release(&text);
    return status;
}

/* A clip from pictures: initial ones, a mask, a first and a last frame; new noise, two predictions and rescaled guidance. */
static imagine_status use_pictures(imagine_model *model, imagine_context *context, imagine_error *error)
{
    static const int64_t shapes[3][4] = { { 9, 16, 16, 3 }, { 1, 16, 16, 3 }, { 1, 16, 16, 1 } };
    imagine_buffer *pictures[3] = { NULL, NULL, NULL };
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job = NULL;
    imagine_status status = IMAGINE_OK;
    for (int i = 0; i < 3 && status >= 0; i++)
        status = imagine_buffer_create(&pictures[i], context, IMAGINE_U8, 4, shapes[i], error);
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.steps = 3;
    sampler.strength = 0.7;
    sampler.schedule = IMAGINE_SCHEDULE_FLOW;
    sampler.step_rule = IMAGINE_STEP_RENOISE;
    sampler.guidance_rescale = 0.5;
    sampler.known_mode = IMAGINE_KNOWN_CLEAN;
    imagine_job_options_init(&options, sizeof options);
    options.sampler = &sampler;
    options.init_frames = pictures[0];
    options.first_frames = options.last_frame = pictures[1];
    options.mask_frames = pictures[2];
    options.decode = 0;
    if (status >= 0)
        status = imagine_job_create(&job, model, &options, error);
    if (status >= 0)
        status = run_job(job, error);
    imagine_job_destroy(&job);
    sampler.known_mode = IMAGINE_KNOWN_RENOISED;
    sampler.step_rule = IMAGINE_STEP_HEUN;
    if (status >= 0)
        status = imagine_job_create(&job, model, &options, error);
    if (status >= 0)
        status = run_job(job, error);
    imagine_job_destroy(&job);
    for (int i = 0; i < 3; i++)
        imagine_buffer_release(&pictures[i]);
    return status < 0 ? status : use_state(model, context, error);
}

/* A picture by a job with previews; decoded frames by hand; a file written and read. */
static imagine_status use_model(imagine_model *model, imagine_error *error)
{
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job;
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.width = sampler.height = 16;
    sampler.steps = 2;
    imagine_job_options_init(&options, sizeof options);
    options.prompt = "a red apple";
    options.sampler = &sampler;
    options.events = 0xffffffffu;
    options.state_every = 1;
    imagine_status status = imagine_job_create(&job, model, &options, error);
    if (status < 0)
        return status;
    status = run_job(job, error);
    imagine_job_destroy(&job);
    return status;
}

/* The ways to keep weights: all of them, block by block, and what a limit makes of them. */
typedef struct way {
    const char *name;
    imagine_weights weights;
    uint64_t limit;
    int pictures; /* a clip from pictures instead of a prompt alone */
} way;
static const way resident = { "weights in memory", IMAGINE_WEIGHTS_AUTO, 0, 0 };
static const way streamed = { "weights block by block", IMAGINE_WEIGHTS_STREAMED, 0, 0 };
static const way pictured = { "pictures to begin with and to keep", IMAGINE_WEIGHTS_AUTO, 0, 1 };

static imagine_status use_all(allocator *a, int32_t threads, const way *how, imagine_error *error)
{
    imagine_context_options options;
    imagine_model_options weights;
    imagine_context *context;
    imagine_model *model = NULL;
    imagine_context_options_init(&options, sizeof options);
    options.allocate = counted_alloc;
    options.release = counted_free;
    options.allocator_data = a;
    options.threads = threads;
    options.memory_limit = how->limit;
    imagine_model_options_init(&weights, sizeof weights);
    weights.weights = how->weights;
    imagine_status status = imagine_context_create(&context, &options, error);
    if (status < 0)
        return status;
    status = imagine_model_open(&model, context, PACK, &weights, error);
    if (status >= 0)
        status = how->pictures ? use_pictures(model, context, error) : use_model(model, error);
    imagine_context_release(&context);
    imagine_model_release(&model);
    return status;
}

static void every_allocation_of(const way *how)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    allocator a = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    long ended_well = 0;
    REQUIRE_OK(use_all(&a, 1, how, &err));
    long calls = a.calls;
    CHECK(calls > 100 && a.held == 0);
    for (long at = 1; at <= calls; at++) {
        a = (allocator){ .mutex = PTHREAD_MUTEX_INITIALIZER, .fail_at = at };
        memset(&err.message, 0, sizeof err.message);
        imagine_status status = use_all(&a, 1, how, &err);
        ended_well += status >= 0;
        if ((status < 0 && (status != IMAGINE_ERROR_NO_MEMORY || !strstr(err.message, "memory"))) || a.held || !a.failed) {
            fprintf(stderr, "    allocation %ld of %ld: status %d, %zu bytes kept, %s\n", at, calls, (int)status, a.held,
                    err.message);
            CHECK(!"the failure was reported and nothing was kept");
        }
    }
    printf("    %s: %ld allocations failed in turn, %ld of them could be done without\n", how->name, calls, ended_well);
}

static void every_allocation(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    allocator a = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    /* The tightest limit that is enough makes use of everything that saves memory. */
    way tight = { "the tightest limit", IMAGINE_WEIGHTS_AUTO, 1 << 20, 0 };
    while (tight.limit < 1 << 26 && use_all(&a, 1, &tight, &err) < 0)
        tight.limit += 1 << 14;
    every_allocation_of(&resident);
    every_allocation_of(&streamed);
    every_allocation_of(&tight);
    every_allocation_of(&pictured);
}

/* The order of allocations differs from run to run with threads; nothing may be kept all the same. */
static void with_threads(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    for (long at = 1; at < 200; at += 7) {
        allocator a = { .mutex = PTHREAD_MUTEX_INITIALIZER, .fail_at = at };
        imagine_status status = use_all(&a, 3, at % 2 ? &resident : &streamed, &err);
        CHECK(status >= 0 || status == IMAGINE_ERROR_NO_MEMORY);
        CHECK(a.held == 0);
    }
}

/* A limit on memory is a failing allocation like any other. */
static void memory_limit(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    uint64_t enough = 0;
    for (uint64_t limit = 1 << 12; !enough && limit < 1u << 28; limit *= 2) {
        imagine_context_options options;
        imagine_context *context;
        imagine_model *model = NULL;
        imagine_context_options_init(&options, sizeof options);
        options.memory_limit = limit;
        options.threads = 1;
        imagine_status status = imagine_context_create(&context, &options, &err);
        if (status >= 0)
            status = imagine_model_open(&model, context, PACK, NULL, &err);
        if (status >= 0)
            status = use_model(model, &err);
        if (status >= 0) {
            imagine_context_info info = { .struct_size = sizeof info };
            CHECK_OK(imagine_context_get_info(context, &info, &err));
            CHECK(info.memory_peak <= limit);
            enough = limit;
        } else {
            CHECK_STATUS(status, IMAGINE_ERROR_NO_MEMORY);
        }
        imagine_model_release(&model);
        imagine_context_release(&context);
    }
    CHECK(enough > 0);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "every allocation", every_allocation }, { "with threads", with_threads }, { "memory limit", memory_limit },
    };
    return test_main("api/torture", cases, sizeof cases / sizeof cases[0], argc, argv);
}
