/* SPDX-License-Identifier: MIT */

/* Jobs: events, cancelling (how soon: api/soak), what is kept afterwards. */

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include "api.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int is_read_only(const imagine_buffer *buffer)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer_info info = { .struct_size = sizeof info };
    return imagine_buffer_get_info(buffer, &info, &err) >= 0 && info.flags & IMAGINE_BUFFER_READ_ONLY;
}

static void events_in_order(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(2, &err);
    imagine_job_options options;
    imagine_job *job;
    imagine_event event = { .struct_size = sizeof event };
    imagine_buffer *kept = NULL, *latents = NULL;
    int32_t step = 0, frame = 0, previews = 0;
    REQUIRE(model);
    imagine_job_options_init(&options, sizeof options);
    options.prompt = "a red apple";
    options.events = 0xffffffffu;
    REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
    for (;;) {
        REQUIRE_OK(imagine_job_next(job, &event, -1, &err));
        if (event.kind == IMAGINE_EVENT_STEP) {
            CHECK(event.step > step && event.steps == 4 && !frame && !latents && event.sigma < 1);
            step = event.step;
        } else if (event.kind == IMAGINE_EVENT_PREVIEW) {
            imagine_buffer_info info = { .struct_size = sizeof info };
            imagine_buffer_get_info(event.frames, &info, &err);
            CHECK(info.dtype == IMAGINE_U8 && info.ndim == 4 && info.shape[0] == 1 && info.shape[1] == 32 && info.shape[3] == 3);
            previews++;
        } else if (event.kind == IMAGINE_EVENT_LATENTS) {
            CHECK(step == 4 && !frame && is_read_only(event.latents));
            latents = imagine_buffer_retain(event.latents);
        } else if (event.kind == IMAGINE_EVENT_FRAMES) {
            CHECK(event.first_frame == frame && event.frame_count == (frame ? 4 : 1));
            CHECK(imagine_buffer_size(event.frames) == (uint64_t)event.frame_count * 32 * 32 * 3);
            frame += event.frame_count;
            if (!kept)
                kept = imagine_buffer_retain(event.frames);
        } else {
            CHECK(event.kind == IMAGINE_EVENT_DONE);
            break;
        }
    }
    CHECK(frame == 5 && event.frame_count == 5 && step == 4 && previews >= 1 && latents);
    REQUIRE_OK(imagine_job_next(job, &event, 0, &err));
    CHECK(event.kind == IMAGINE_EVENT_DONE);
    imagine_job_info info = { .struct_size = sizeof info };
    REQUIRE_OK(imagine_job_get_info(job, &info, &err));
    CHECK(info.width == 32 && info.frames == 5 && info.steps == 4 && info.guidance == 3);
    CHECK(info.seconds[IMAGINE_JOB_SAMPLE] > 0 && info.seconds[IMAGINE_JOB_DECODE] > 0 && info.memory_peak > 1000000);
    imagine_job_destroy(&job);
    CHECK(imagine_buffer_size(kept) == 32 * 32 * 3);
    imagine_buffer_release(&kept);
    imagine_buffer_release(&latents);
    imagine_model_release(&model);
}

/* Only what was asked for comes. */
static void event_mask(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(1, &err);
    REQUIRE(model);
    for (uint32_t kind = IMAGINE_EVENT_STEP; kind <= IMAGINE_EVENT_DONE; kind++) {
        imagine_job_options options;
        imagine_job *job;
        imagine_event event = { .struct_size = sizeof event };
        imagine_job_options_init(&options, sizeof options);
        options.events = IMAGINE_EVENT_BIT(kind);
        REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
        int32_t seen = 0;
        do {
            REQUIRE_OK(imagine_job_next(job, &event, -1, &err));
            CHECK(event.kind == (int32_t)kind || event.kind == IMAGINE_EVENT_DONE);
            seen += event.kind == (int32_t)kind;
        } while (event.kind != IMAGINE_EVENT_DONE);
        CHECK(seen > 0);
        imagine_job_destroy(&job);
    }
    imagine_model_release(&model);
}

/* The end tells the whole clip's frames, also where none of them is decoded. */
static void frames_at_the_end(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(1, &err);
    REQUIRE(model);
    for (int32_t decode = 0; decode < 2; decode++) {
        imagine_job_options options;
        imagine_job *job;
        imagine_event event = { .struct_size = sizeof event };
        imagine_job_options_init(&options, sizeof options);
        options.events = 0;
        options.decode = decode;
        REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
        REQUIRE_OK(imagine_job_next(job, &event, -1, &err));
        CHECK(event.kind == IMAGINE_EVENT_DONE && event.frame_count == 5);
        imagine_job_destroy(&job);
    }
    imagine_model_release(&model);
}

static imagine_job *long_job(imagine_model *model, imagine_cancel *cancel, imagine_error *error)
{
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job = NULL;
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.width = sampler.height = 192;
    sampler.frames = 17;
    sampler.steps = 1000;
    imagine_job_options_init(&options, sizeof options);
    options.sampler = &sampler;
    options.cancel = cancel;
    imagine_job_create(&job, model, &options, error);
    return job;
}

static void timeouts_and_fd(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(2, &err);
    imagine_event event = { .struct_size = sizeof event };
    REQUIRE(model);
    imagine_job *job = long_job(model, NULL, &err);
    REQUIRE(job);
    struct pollfd fd = { .fd = imagine_job_fd(job), .events = POLLIN };
    REQUIRE(fd.fd >= 0);
    CHECK(poll(&fd, 1, 20000) == 1); /* the first step */
    CHECK(imagine_job_next(job, &event, 0, &err) == IMAGINE_OK && event.kind == IMAGINE_EVENT_STEP);
    double begin = now();
    imagine_status status = imagine_job_next(job, &event, 1000000, &err); /* shorter than a step, as a rule */
    CHECK(status == IMAGINE_TIMEOUT || event.kind == IMAGINE_EVENT_STEP);
    CHECK(now() - begin < 1);
    imagine_job_cancel(job);
    CHECK_STATUS(run_job(job, &err), IMAGINE_ERROR_CANCELLED);
    CHECK(poll(&fd, 1, 0) == 1);
    CHECK_STATUS(imagine_job_next(job, &event, 0, &err), IMAGINE_ERROR_CANCELLED);
    imagine_job_destroy(&job);
    /* Nobody listens: STEP events give way, frames wait, and destroying ends it. */
    REQUIRE_OK(imagine_job_create(&job, model, NULL, &err));
    usleep(30000);
    imagine_job_destroy(&job);
    imagine_model_release(&model);
}

static imagine_job *signalled;
static void on_signal(int number)
{
    (void)number;
    imagine_job_cancel(signalled);
}

static void *cancel_from_thread(void *job)
{
    usleep(5000);
    imagine_job_cancel(job);
    return NULL;
}

static void cancel_from_anywhere(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(2, &err);
    imagine_model *model;
    imagine_cancel *cancel;
    pthread_t thread;
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    imagine_job *job = long_job(model, NULL, &err);
    REQUIRE(job && !pthread_create(&thread, NULL, cancel_from_thread, job));
    CHECK_STATUS(run_job(job, &err), IMAGINE_ERROR_CANCELLED);
    pthread_join(thread, NULL);
    imagine_job_destroy(&job);
    signalled = long_job(model, NULL, &err);
    REQUIRE(signalled);
    void (*before)(int) = signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    signal(SIGUSR1, before);
    CHECK_STATUS(run_job(signalled, &err), IMAGINE_ERROR_CANCELLED);
    imagine_job_destroy(&signalled);
    /* One token for several jobs; a fired one stops a job at once. */
    REQUIRE_OK(imagine_cancel_create(&cancel, context, &err));
    imagine_job *a = long_job(model, cancel, &err), *b = long_job(model, cancel, &err);
    REQUIRE(a && b);
    imagine_cancel_fire(cancel);
    CHECK_STATUS(run_job(a, &err), IMAGINE_ERROR_CANCELLED);
    CHECK_STATUS(run_job(b, &err), IMAGINE_ERROR_CANCELLED);
    imagine_job_destroy(&a);
    imagine_job_destroy(&b);
    imagine_cancel_release(&cancel);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* A job listens to the token of its options and to the one of its sampler's options, whichever of them fires. */
static void either_token(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_model *model;
    imagine_cancel *tokens[2];
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    for (int i = 0; i < 2; i++)
        REQUIRE_OK(imagine_cancel_create(&tokens[i], context, &err));
    /* The bits say which of them are given, the first to the job; `fired` is the one that fires, or 2. */
    for (int given = 1; given < 4; given++)
        for (int fired = 0; fired <= 2; fired++) {
            imagine_sampler_options sampler;
            imagine_job_options options;
            imagine_job *job;
            imagine_sampler_options_init(&sampler, sizeof sampler);
            sampler.width = sampler.height = 16;
            sampler.frames = 1;
            sampler.cancel = given & 2 ? tokens[1] : NULL;
            imagine_job_options_init(&options, sizeof options);
            options.sampler = &sampler;
            options.cancel = given & 1 ? tokens[0] : NULL;
            if (fired < 2)
                imagine_cancel_fire(tokens[fired]);
            REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
            CHECK_STATUS(run_job(job, &err), fired < 2 && given >> fired & 1 ? IMAGINE_ERROR_CANCELLED : IMAGINE_OK);
            imagine_job_destroy(&job);
            for (int i = 0; i < 2; i++)
                imagine_cancel_reset(tokens[i]);
        }
    for (int i = 0; i < 2; i++)
        imagine_cancel_release(&tokens[i]);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

static void latents_survive(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(2, &err);
    imagine_event event = { .struct_size = sizeof event };
    imagine_buffer *latents, *frames = NULL;
    imagine_job_options options;
    REQUIRE(model);
    imagine_job *job = long_job(model, NULL, &err);
    REQUIRE(job);
    do
        REQUIRE_OK(imagine_job_next(job, &event, -1, &err));
    while (event.step < 2);
    imagine_job_cancel(job);
    CHECK_STATUS(run_job(job, &err), IMAGINE_ERROR_CANCELLED);
    REQUIRE_OK(imagine_job_get_latents(job, &latents, &err));
    imagine_job_destroy(&job);
    CHECK(imagine_buffer_size(latents) == 16 * 5 * 24 * 24 * sizeof(float) && is_read_only(latents));
    for (size_t i = 0; i < imagine_buffer_size(latents) / sizeof(float); i++)
        if (!isfinite(((float *)imagine_buffer_data(latents))[i])) {
            CHECK(!"finite");
            break;
        }
    imagine_job_options_init(&options, sizeof options);
    options.latents = latents; /* only to be decoded */
    REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
    int32_t seen = 0;
    do {
        REQUIRE_OK(imagine_job_next(job, &event, -1, &err));
        CHECK(event.kind == IMAGINE_EVENT_FRAMES || event.kind == IMAGINE_EVENT_DONE);
        if (event.kind == IMAGINE_EVENT_FRAMES && !seen)
            frames = imagine_buffer_retain(event.frames);
        seen += event.kind == IMAGINE_EVENT_FRAMES ? event.frame_count : 0;
    } while (event.kind != IMAGINE_EVENT_DONE);
    CHECK(seen == 17 && imagine_buffer_size(frames) == 192 * 192 * 3);
    imagine_job_destroy(&job);
    REQUIRE_OK(imagine_job_create(&job, model, NULL, &err));
    imagine_buffer *none = latents;
    imagine_job_cancel(job);
    (void)run_job(job, &err);
    if (imagine_job_get_latents(job, &none, &err) < 0)
        CHECK(!none); /* before the first step there are none */
    else
        imagine_buffer_release(&none);
    imagine_job_destroy(&job);
    imagine_buffer_release(&frames);
    imagine_buffer_release(&latents);
    imagine_model_release(&model);
}

/* Who makes room for the frames has to know how many of what size will come. */
static void finished_latents_have_a_size(void)
{
    static const int64_t shapes[][4] = { { 16, 3, 4, 6 }, { 16, 1, 2, 4 } };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(2, &err);
    imagine_model *model;
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    for (int i = 0; i < 4; i++) {
        const int64_t *shape = shapes[i / 2];
        imagine_buffer *latents;
        imagine_job *job;
        imagine_job_options options;
        imagine_job_info info = { .struct_size = sizeof info };
        imagine_estimate estimate = { .struct_size = sizeof estimate };
        imagine_event event = { .struct_size = sizeof event };
        REQUIRE_OK(imagine_buffer_create(&latents, context, IMAGINE_F32, 4, shape, &err));
        imagine_job_options_init(&options, sizeof options);
        options.latents = latents;
        options.decode = i % 2;
        REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
        REQUIRE_OK(imagine_job_get_info(job, &info, &err));
        CHECK(info.width == shape[3] * 8 && info.height == shape[2] * 8 && info.frames == 4 * shape[1] - 3 && !info.steps);
        do
            REQUIRE_OK(imagine_job_next(job, &event, -1, &err));
        while (event.kind != IMAGINE_EVENT_DONE);
        CHECK(event.frame_count == info.frames && !event.steps);
        REQUIRE_OK(imagine_job_estimate(model, &options, &estimate, &err));
        CHECK(!estimate.width && !estimate.height && !estimate.frames); /* as its comment says */
        imagine_job_destroy(&job);
        imagine_buffer_release(&latents);
    }
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* The job goes on with the latents that it gives, so nobody may write into them. A caller's own stay the caller's. */
static void latents_are_read_only(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_model *model;
    imagine_job_options options;
    imagine_job *job;
    imagine_buffer *latents, *own, *again;
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    latents = job_latents(model, "a", NULL, &err);
    REQUIRE(latents && is_read_only(latents));
    REQUIRE_OK(imagine_buffer_create(&own, context, IMAGINE_F32, 4, (int64_t[]){ 16, 2, 4, 4 }, &err));
    CHECK_STATUS(imagine_buffer_copy(latents, own, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    REQUIRE_OK(imagine_buffer_copy(own, latents, &err));
    imagine_job_options_init(&options, sizeof options);
    options.latents = own;
    REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
    CHECK_OK(run_job(job, &err));
    REQUIRE_OK(imagine_job_get_latents(job, &again, &err));
    CHECK(!is_read_only(own) && imagine_buffer_data(again) == imagine_buffer_data(own));
    imagine_job_destroy(&job);
    imagine_buffer_release(&again);
    imagine_buffer_release(&own);
    imagine_buffer_release(&latents);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* A failure comes with its message, and stays. */
static void failing_job(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_model *model;
    imagine_job_options options;
    imagine_job *job;
    imagine_buffer *noise;
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    REQUIRE_OK(imagine_buffer_create(&noise, context, IMAGINE_F32, 4, (int64_t[]){ 16, 2, 4, 4 }, &err));
    ((float *)imagine_buffer_data(noise))[7] = NAN; /* values are looked at when they are used */
    imagine_job_options_init(&options, sizeof options);
    options.noise = noise;
    REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
    for (int twice = 0; twice < 2; twice++) {
        memset(err.message, 0, sizeof err.message);
        CHECK_STATUS(run_job(job, &err), IMAGINE_ERROR_NOT_FINITE);
        CHECK(strstr(err.message, "noise"));
    }
    imagine_job_destroy(&job);
    imagine_buffer_release(&noise);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* Embeddings of the wrong type or width are called what the job's options call them. */
static void wrong_embeds(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_model *model;
    imagine_buffer *right, *wrong[2];
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    REQUIRE_OK(imagine_buffer_create(&right, context, IMAGINE_F32, 2, (int64_t[]){ 3, 16 }, &err));
    REQUIRE_OK(imagine_buffer_create(&wrong[0], context, IMAGINE_BF16, 2, (int64_t[]){ 3, 16 }, &err));
    REQUIRE_OK(imagine_buffer_create(&wrong[1], context, IMAGINE_F32, 2, (int64_t[]){ 3, 20 }, &err));
    for (int i = 0; i < 4; i++) {
        static const char *const names[] = { "prompt_embeds: ", "negative_embeds: " };
        imagine_job_options options;
        imagine_job *job;
        imagine_job_options_init(&options, sizeof options);
        options.prompt_embeds = i & 1 ? right : wrong[i / 2];
        options.negative_embeds = i & 1 ? wrong[i / 2] : right;
        memset(err.message, 0, sizeof err.message);
        CHECK_STATUS(imagine_job_create(&job, model, &options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(!job && !strncmp(err.message, names[i & 1], strlen(names[i & 1])));
        CHECK(strstr(err.message, i / 2 ? "20" : "bf16"));
    }
    imagine_buffer_release(&right);
    imagine_buffer_release(&wrong[0]);
    imagine_buffer_release(&wrong[1]);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* Noise, latents, sizes and prompts that cannot be are refused before anything is read. */
static void refused_at_once(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_model *model;
    imagine_buffer *narrow, *right, *three, *half;
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    REQUIRE_OK(imagine_buffer_create(&narrow, context, IMAGINE_F32, 4, (int64_t[]){ 16, 2, 4, 5 }, &err));
    REQUIRE_OK(imagine_buffer_create(&right, context, IMAGINE_F32, 4, (int64_t[]){ 16, 2, 4, 4 }, &err));
    REQUIRE_OK(imagine_buffer_create(&half, context, IMAGINE_F16, 4, (int64_t[]){ 16, 2, 4, 4 }, &err));
    REQUIRE_OK(imagine_buffer_create(&three, context, IMAGINE_F32, 5, (int64_t[]){ 3, 16, 2, 4, 4 }, &err)); /* 4 steps: 3 draws */
    const struct {
        imagine_buffer *noise, *renoise, *latents;
        int32_t width, frames;
        const char *prompt, *negative;
        imagine_step_rule rule;
        double guidance;
        const char *says; /* NULL: it is no mistake */
    } given[] = {
        { .noise = narrow, .says = "noise: is f32 [16, 2, 4, 5], must be f32 [16, 2, 4, 4]" },
        { .noise = half, .says = "noise: is f16 [16, 2, 4, 4], must be f32 [16, 2, 4, 4]" },
        { .renoise = three, .rule = IMAGINE_STEP_EULER, .says = "renoise: no step" },
        { .renoise = right, .rule = IMAGINE_STEP_RENOISE, .says = "renoise: is f32 [16, 2, 4, 4], must be f32 [3, 16, 2, 4, 4]" },
        { .renoise = three, .rule = IMAGINE_STEP_RENOISE },
        { .latents = half, .says = "latents: is f16" },
        { .latents = three, .says = "latents: is f32 [3, 16, 2, 4, 4], must be" },
        { .width = 1024 * 8, .says = "width: 8192 are too many; the model has positions for at most 1024 " },
        { .frames = 4 * 64 + 1, .says = "frames: 257 are too many; the model has positions for at most 253 " },
        { .prompt = "ab\xff", .says = "the prompt is not UTF-8 from byte 2" },
        { .negative = "\xc3(", .guidance = 3, .says = "the negative prompt is not UTF-8 from byte 0" },
        { .negative = "\xc3(", .guidance = 1 }, /* nobody looks at it */
    };
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        imagine_sampler_options sampler;
        imagine_job_options options;
        imagine_job *job;
        imagine_sampler_options_init(&sampler, sizeof sampler);
        sampler.step_rule = given[i].rule;
        sampler.guidance = given[i].guidance > 0 ? given[i].guidance : -1;
        imagine_job_options_init(&options, sizeof options);
        options.sampler = &sampler;
        sampler.width = given[i].width;
        sampler.frames = given[i].frames;
        options.latents = given[i].latents;
        options.noise = given[i].noise;
        options.renoise = given[i].renoise;
        options.prompt = given[i].prompt;
        options.negative_prompt = given[i].negative;
        CHECK_STATUS(imagine_job_create(&job, model, &options, &err), given[i].says ? IMAGINE_ERROR_INVALID_ARGUMENT : IMAGINE_OK);
        if (given[i].says && strncmp(err.message, given[i].says, strlen(given[i].says)))
            CHECK(!fprintf(stderr, "    %s\n", err.message));
        if (!given[i].says)
            CHECK_OK(run_job(job, &err));
        imagine_job_destroy(&job);
    }
    imagine_buffer_release(&narrow);
    imagine_buffer_release(&right);
    imagine_buffer_release(&three);
    imagine_buffer_release(&half);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

static atomic_int asked, over;

static void *ask(void *job)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    while (!atomic_load(&over)) {
        imagine_job_info info = { .struct_size = sizeof info };
        imagine_buffer *latents = NULL;
        if (imagine_job_get_info(job, &info, &err) < 0 || info.stage < 0 || info.stage > IMAGINE_JOB_ENCODE)
            return job;
        imagine_status status = imagine_job_get_latents(job, &latents, &err);
        if (status < 0 ? status != IMAGINE_ERROR_STATE : imagine_buffer_size(latents) != 16 * 2 * 4 * 4 * sizeof(float))
            return job;
        imagine_buffer_release(&latents);
        atomic_fetch_add(&asked, 1);
    }
    return NULL;
}

/* How far a job is can be asked while another thread waits for its events. */
static void asked_meanwhile(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_model *model = open_model(2, &err);
    imagine_job *job;
    pthread_t thread;
    void *wrong = NULL;
    REQUIRE(model);
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.steps = 100;
    imagine_job_options_init(&options, sizeof options);
    options.sampler = &sampler;
    REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
    REQUIRE(!pthread_create(&thread, NULL, ask, job));
    CHECK_OK(run_job(job, &err));
    while (!atomic_load(&asked))
        sched_yield();
    atomic_store(&over, 1);
    CHECK(!pthread_join(thread, &wrong) && !wrong);
    imagine_job_destroy(&job);
    imagine_model_release(&model);
}

/* Events that this version does not know cannot be asked for; all at once can. */
static void unknown_events(void)
{
    static const uint32_t refused[] = { 1, 1u << 6, 1u << 31 | 2, 0xfffffffe, 0x7fffffff };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(1, &err);
    imagine_job_options options;
    imagine_job *job;
    REQUIRE(model);
    imagine_job_options_init(&options, sizeof options);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        imagine_estimate estimate = { .struct_size = sizeof estimate };
        options.events = refused[i];
        CHECK_STATUS(imagine_job_create(&job, model, &options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(!job && !strncmp(err.message, "events: ", 8));
        CHECK_STATUS(imagine_job_estimate(model, &options, &estimate, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    }
    options.events = 0xffffffffu;
    CHECK_OK(imagine_job_create(&job, model, &options, &err));
    imagine_job_destroy(&job);
    imagine_model_release(&model);
}

/* Without an event the caller's struct must not point to what the one before it had; as far as the struct reaches. */
static void no_event_no_pointers(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(1, &err);
    char rubbish;
    imagine_buffer *gone = (imagine_buffer *)(void *)&rubbish;
    REQUIRE(model);
    for (int shorter = 0; shorter < 2; shorter++) {
        imagine_event event = { .struct_size = shorter ? offsetof(imagine_event, latents) : sizeof event };
        imagine_job *job = long_job(model, NULL, &err);
        REQUIRE(job);
        event.frames = event.latents = gone;
        CHECK_STATUS(imagine_job_next(job, &event, 0, &err), IMAGINE_TIMEOUT);
        CHECK(!event.frames && event.latents == (shorter ? gone : NULL));
        imagine_job_cancel(job);
        imagine_status status = IMAGINE_OK;
        while (status >= 0) {
            event.frames = event.latents = gone;
            status = imagine_job_next(job, &event, -1, &err);
        }
        CHECK_STATUS(status, IMAGINE_ERROR_CANCELLED);
        CHECK(!event.frames && event.latents == (shorter ? gone : NULL));
        imagine_job_destroy(&job);
    }
    imagine_model_release(&model);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "events in order", events_in_order }, { "event mask", event_mask },
        { "frames at the end", frames_at_the_end }, { "timeouts and fd", timeouts_and_fd },
        { "cancel from anywhere", cancel_from_anywhere }, { "either token", either_token },
        { "latents survive", latents_survive }, { "finished latents have a size", finished_latents_have_a_size },
        { "latents are read-only", latents_are_read_only },
        { "failing job", failing_job }, { "wrong embeds", wrong_embeds },
        { "refused at once", refused_at_once },
        { "asked meanwhile", asked_meanwhile }, { "unknown events", unknown_events },
        { "no event, no pointers", no_event_no_pointers },
    };
    return test_main("api/job", cases, sizeof cases / sizeof cases[0], argc, argv);
}
