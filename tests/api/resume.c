/* SPDX-License-Identifier: MIT */

/* Runs that are broken off and gone on with, by other handles: to the byte what they would have been. */

#include <math.h>

#include "api.h"

#define SHAPE 2, 16, 2, 4, 4 /* of the pack's latents, two clips */
#define HEAD 64 /* bytes of a state before its tensors */

typedef struct run {
    imagine_model *model;
    imagine_context *context;
    imagine_sampler_options options;
    imagine_buffer *text, *known, *mask, *init, *renoise; /* NULL but for the first: none */
} run;

/* Where the tests of the CUDA module say so: on the GPU, what is given and compared being on the host. */
static imagine_model *model_there(int32_t threads, imagine_error *error)
{
    imagine_context_options options;
    imagine_context *context = NULL;
    imagine_model *model = NULL;
    imagine_context_options_init(&options, sizeof options);
    options.threads = threads;
    options.device = test_device();
    if (imagine_context_create(&context, &options, error) >= 0)
        imagine_model_open(&model, context, PACK, NULL, error);
    imagine_context_release(&context);
    return model;
}

static imagine_buffer *filled(imagine_context *context, int32_t ndim, const int64_t *shape, float step)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *buffer = NULL;
    CHECK_OK(imagine_buffer_create(&buffer, context, IMAGINE_F32, ndim, shape, &err));
    for (size_t i = 0; buffer && i < imagine_buffer_size(buffer) / sizeof(float); i++)
        ((float *)imagine_buffer_data(buffer))[i] = sinf((float)i * step);
    return buffer;
}

static int open_run(run *r, int32_t threads)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    *r = (run){ .model = model_there(threads, &err), .context = open_context(1, &err) };
    imagine_sampler_options_init(&r->options, sizeof r->options);
    r->options.seed = 9;
    r->options.steps = 5;
    r->options.guidance = 2;
    r->options.batch = 2;
    r->text = r->context ? filled(r->context, 2, (int64_t[]){ 3, 16 }, 0.7f) : NULL;
    return r->model && r->text;
}

static void close_run(run *r)
{
    imagine_buffer_release(&r->text);
    imagine_buffer_release(&r->known);
    imagine_buffer_release(&r->mask);
    imagine_buffer_release(&r->init);
    imagine_buffer_release(&r->renoise);
    imagine_context_release(&r->context);
    imagine_model_release(&r->model);
}

/* A sampler that has been told everything, but has not begun. */
static imagine_sampler *prepared(const run *r, imagine_error *error)
{
    imagine_sampler *sampler = NULL;
    imagine_status status = imagine_sampler_create(&sampler, r->model, &r->options, error);
    if (status >= 0)
        status = imagine_sampler_set_text(sampler, r->text, r->text, error);
    if (status >= 0 && r->renoise)
        status = imagine_sampler_set_renoise(sampler, r->renoise, error);
    if (status >= 0)
        status = imagine_sampler_set_init(sampler, r->init, error);
    if (status >= 0)
        status = imagine_sampler_set_known(sampler, r->known, r->mask, error);
    if (status < 0)
        imagine_sampler_destroy(&sampler);
    return sampler;
}

/* Latents and estimate of the second clip at the end of a run, of which `steps` are still to be taken. */
static void ending(imagine_sampler *sampler, int32_t steps, imagine_buffer *found[2])
{
    imagine_error err = IMAGINE_ERROR_INIT;
    while (steps-- > 0)
        CHECK_OK(imagine_sampler_step(sampler, NULL, &err));
    CHECK_OK(imagine_sampler_get_latents(sampler, 1, &found[0], &err));
    CHECK_OK(imagine_sampler_get_estimate(sampler, 1, &found[1], &err));
}

/* After every step a run goes on elsewhere, which must not be told from the run itself. */
static void goes_on(const run *r, const char *what)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *whole = prepared(r, &err);
    CHECK_OK(whole ? imagine_sampler_begin(whole, NULL, &err) : IMAGINE_ERROR_INTERNAL);
    int32_t steps = whole ? (int32_t)imagine_sampler_get_sigmas(whole, NULL, 0) - 1 : 0;
    imagine_buffer *wanted[2] = { NULL }, *states[16] = { NULL };
    REQUIRE(steps >= 1 && steps < 16);
    for (int32_t i = 0; i <= steps; i++) {
        CHECK_OK(imagine_sampler_get_state(whole, &states[i], &err));
        if (i < steps)
            CHECK_OK(imagine_sampler_step(whole, NULL, &err));
    }
    ending(whole, 0, wanted);
    imagine_sampler_destroy(&whole);
    for (int32_t i = 0; i <= steps; i++) {
        imagine_buffer *found[2] = { NULL };
        imagine_sampler *other = prepared(r, &err);
        REQUIRE(other && states[i]);
        CHECK_OK(imagine_sampler_resume(other, states[i], &err));
        if (i < steps)
            ending(other, steps - i, found);
        else {
            CHECK_STATUS(imagine_sampler_step(other, NULL, &err), IMAGINE_ERROR_STATE);
            ending(other, 0, found);
        }
        if (!same_bytes(found[0], wanted[0]) || !same_bytes(found[1], wanted[1])) {
            test_fail(__FILE__, __LINE__, "a run that goes on ends as the whole one");
            fprintf(stderr, "    %s, after step %d of %d\n", what, i, steps);
        }
        imagine_buffer_release(&found[0]);
        imagine_buffer_release(&found[1]);
        imagine_buffer_release(&states[i]);
        imagine_sampler_destroy(&other);
    }
    imagine_buffer_release(&wanted[0]);
    imagine_buffer_release(&wanted[1]);
}

/* Every rule on the pack's schedule, and every preset. */
static void rules_and_presets(void)
{
    run r;
    REQUIRE(open_run(&r, 2));
    for (imagine_schedule schedule = 1; imagine_schedule_name(schedule); schedule++)
        for (imagine_step_rule rule = 0; rule == 0 || imagine_step_rule_name(rule); rule++) {
            char what[128];
            if (schedule == IMAGINE_SCHEDULE_SIGMAS || (rule && schedule != IMAGINE_SCHEDULE_FLOW))
                continue;
            r.options.schedule = schedule;
            r.options.step_rule = rule;
            r.options.steps = schedule == IMAGINE_SCHEDULE_FLOW || schedule == IMAGINE_SCHEDULE_WAN_UNIPC ? 5 : 0;
            r.options.eta = 0.75;
            snprintf(what, sizeof what, "%s, %s", imagine_schedule_name(schedule), rule ? imagine_step_rule_name(rule) : "its own rule");
            goes_on(&r, what);
        }
    close_run(&r);
}

/* Known latents in both ways, with frames alone and with a mask, initial ones, and noise of the caller's. */
static void conditions(void)
{
    run r;
    REQUIRE(open_run(&r, 1));
    r.known = filled(r.context, 4, (int64_t[]){ 16, 1, 4, 4 }, 0.3f);
    for (r.options.known_mode = IMAGINE_KNOWN_CLEAN; r.options.known_mode <= IMAGINE_KNOWN_RENOISED; r.options.known_mode++)
        goes_on(&r, r.options.known_mode == IMAGINE_KNOWN_CLEAN ? "a known frame kept clean" : "a known frame, noised");
    imagine_buffer_release(&r.known);
    r.options.known_mode = IMAGINE_KNOWN_RENOISED;
    r.options.step_rule = IMAGINE_STEP_RENOISE;
    r.known = filled(r.context, 5, (int64_t[]){ SHAPE }, 0.2f);
    r.mask = filled(r.context, 3, (int64_t[]){ 2, 4, 4 }, 0);
    r.renoise = filled(r.context, 6, (int64_t[]){ 4, SHAPE }, 0.9f);
    for (int i = 0; i < 32; i += 3)
        ((float *)imagine_buffer_data(r.mask))[i] = 1;
    goes_on(&r, "a mask, and noise of the caller's");
    imagine_buffer_release(&r.renoise);
    r.options.step_rule = IMAGINE_STEP_UNIPC;
    r.options.strength = 0.7;
    r.init = filled(r.context, 4, (int64_t[]){ 16, 2, 4, 4 }, 0.4f);
    goes_on(&r, "a mask, and initial latents");
    close_run(&r);
}

/* The state of a run after two steps. */
static imagine_buffer *some_state(const run *r)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *state = NULL;
    imagine_sampler *sampler = prepared(r, &err);
    CHECK_OK(sampler ? imagine_sampler_begin(sampler, NULL, &err) : IMAGINE_ERROR_INTERNAL);
    for (int i = 0; i < 2; i++)
        CHECK_OK(imagine_sampler_step(sampler, NULL, &err));
    CHECK_OK(imagine_sampler_get_state(sampler, &state, &err));
    imagine_sampler_destroy(&sampler);
    return state;
}

static void refused(const run *r, const imagine_buffer *state, imagine_status expected, const char *told)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *sampler = prepared(r, &err);
    REQUIRE(sampler);
    CHECK_STATUS(imagine_sampler_resume(sampler, state, &err), expected);
    if (!strstr(err.message, told)) {
        test_fail(__FILE__, __LINE__, told);
        fprintf(stderr, "    told: %s\n", err.message);
    }
    CHECK_STATUS(imagine_sampler_step(sampler, NULL, &err), IMAGINE_ERROR_STATE);
    imagine_sampler_destroy(&sampler);
}

static void other_runs(void)
{
    run r;
    REQUIRE(open_run(&r, 1));
    const imagine_sampler_options options = r.options;
    imagine_buffer *state = some_state(&r);
    REQUIRE(state);
    r.options.seed = 10;
    refused(&r, state, IMAGINE_ERROR_INVALID_ARGUMENT, "the seed 9, this one's is 10");
    r.options = options;
    r.options.steps = 6;
    refused(&r, state, IMAGINE_ERROR_INVALID_ARGUMENT, "step 2 of 5, this run has 6 steps");
    r.options = options;
    r.options.shift = 3.5;
    refused(&r, state, IMAGINE_ERROR_INVALID_ARGUMENT, "another schedule");
    r.options = options;
    r.options.step_rule = IMAGINE_STEP_HEUN;
    refused(&r, state, IMAGINE_ERROR_INVALID_ARGUMENT, "another schedule");
    r.options = options;
    r.options.batch = 1;
    refused(&r, state, IMAGINE_ERROR_INVALID_ARGUMENT, "is of 2 clips");
    imagine_buffer *single = some_state(&r);
    REQUIRE(single);
    r.options = options;
    refused(&r, single, IMAGINE_ERROR_INVALID_ARGUMENT, "is of 1 clip with");
    imagine_buffer_release(&single);
    r.options = options;
    r.options.width = 64;
    refused(&r, state, IMAGINE_ERROR_INVALID_ARGUMENT, "latents [16, 2, 4, 4], this run makes 2 with [16, 2, 4, 8]");
    r.options = options;
    r.options.known_mode = IMAGINE_KNOWN_RENOISED;
    r.known = filled(r.context, 4, (int64_t[]){ 16, 1, 4, 4 }, 0.3f);
    refused(&r, state, IMAGINE_ERROR_INVALID_ARGUMENT, "known latents");
    imagine_buffer_release(&state);
    close_run(&r);
}

/* Bytes that are no state, or no longer one. */
static void spoilt_states(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    run r;
    REQUIRE(open_run(&r, 1));
    imagine_buffer *state = some_state(&r), *part;
    REQUIRE(state);
    int64_t size = (int64_t)imagine_buffer_size(state), cut[] = { 0, 1, HEAD - 1, HEAD, HEAD + 4, size - 4, size - 1 };
    char *bytes = imagine_buffer_data(state);
    for (size_t i = 0; i < sizeof cut / sizeof *cut; i++) {
        REQUIRE_OK(imagine_buffer_wrap(&part, r.context, IMAGINE_U8, 1, &cut[i], bytes, NULL, NULL, &err));
        refused(&r, part, IMAGINE_ERROR_INVALID_ARGUMENT, "state: ");
        imagine_buffer_release(&part);
    }
    for (int64_t i = 0; i < HEAD; i++) { /* no byte of the head may be another, but for those of the step */
        bytes[i] ^= 0x40;
        if (i / 4 != 4)
            refused(&r, state, IMAGINE_ERROR_INVALID_ARGUMENT, "state: ");
        bytes[i] ^= 0x40;
    }
    const float nan = NAN;
    memcpy(bytes + size - 4, &nan, 4);
    refused(&r, state, IMAGINE_ERROR_NOT_FINITE, "state: holds a NaN");
    refused(&r, r.text, IMAGINE_ERROR_INVALID_ARGUMENT, "state: ");
    refused(&r, NULL, IMAGINE_ERROR_INVALID_ARGUMENT, "state");
    imagine_buffer_release(&state);
    close_run(&r);
}

static void none_before_the_beginning(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *state;
    run r;
    REQUIRE(open_run(&r, 1));
    imagine_sampler *sampler = prepared(&r, &err);
    REQUIRE(sampler);
    CHECK_STATUS(imagine_sampler_get_state(sampler, &state, &err), IMAGINE_ERROR_STATE);
    CHECK(!state);
    CHECK_STATUS(imagine_sampler_get_state(NULL, &state, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_sampler_get_state(sampler, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_sampler_resume(NULL, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    imagine_sampler_destroy(&sampler);
    close_run(&r);
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

/* A job of many steps, cancelled by its caller once `after` are done, or run to its end; what steps it told of. */
static imagine_job *broken_off(imagine_model *model, const imagine_job_options *options, int32_t after, int32_t *first,
                               imagine_status *status)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_job *job = NULL;
    imagine_event event = { .struct_size = sizeof event };
    CHECK_OK(*status = imagine_job_create(&job, model, options, &err));
    *first = 0;
    while (*status >= 0) {
        *status = imagine_job_next(job, &event, -1, &err);
        if (*status < 0 || event.kind == IMAGINE_EVENT_DONE)
            break;
        if (event.kind == IMAGINE_EVENT_STEP && !*first)
            *first = event.step;
        if (event.kind == IMAGINE_EVENT_STEP && event.step >= after)
            imagine_job_cancel(job);
    }
    return job;
}

/* IMAGINE_TEST_STEPS: fewer where a step takes long. */
static int32_t job_steps(void)
{
    const char *steps = getenv("IMAGINE_TEST_STEPS");
    return steps ? atoi(steps) : 60;
}

/* Cancelled again and again, each time a little later, and written to a file between: the same latents. */
static void jobs(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = model_there(2, &err);
    imagine_context *context = open_context(1, &err);
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_buffer *wanted = NULL, *found = NULL, *state = NULL;
    imagine_status status;
    int32_t first, resumed = 0;
    char path[] = "/tmp/imagine-resume-XXXXXX";
    REQUIRE(model && context && mkstemp(path) >= 0);
    imagine_sampler_options_init(&sampler, sizeof sampler);
    imagine_job_options_init(&options, sizeof options);
    sampler.steps = job_steps();
    sampler.width = sampler.height = 96; /* slow enough to be broken off */
    sampler.schedule = IMAGINE_SCHEDULE_WAN_UNIPC;
    sampler.guidance = 3;
    options.prompt = "a red fox";
    options.sampler = &sampler;
    options.events |= IMAGINE_EVENT_BIT(IMAGINE_EVENT_PREVIEW); /* which make a step take its time */
    imagine_job *job = broken_off(model, &options, 1000, &first, &status);
    CHECK(status >= 0 && first >= 1);
    CHECK_OK(imagine_job_get_latents(job, &wanted, &err));
    CHECK_STATUS(imagine_job_get_state(job, &state, &err), IMAGINE_ERROR_STATE);
    imagine_job_destroy(&job);
    for (int32_t after = 3; after < 200; after += sampler.steps * 3 / 20) {
        job = broken_off(model, &options, after, &first, &status);
        CHECK(!options.state || status >= 0 || first == 0 || first > 1);
        if (status >= 0)
            break;
        CHECK(status == IMAGINE_ERROR_CANCELLED);
        if ((status = imagine_job_get_state(job, &state, &err)) == IMAGINE_ERROR_STATE)
            break; /* it was decoding already */
        REQUIRE_OK(status);
        imagine_buffer_release(&options.state);
        imagine_job_destroy(&job);
        REQUIRE_OK(imagine_buffer_save(context, path, 1, &state, &(const char *){ "state" }, &err));
        imagine_buffer_release(&state);
        REQUIRE_OK(imagine_buffer_load(&options.state, context, path, "state", &err));
        resumed++;
    }
    CHECK(resumed >= 2);
    CHECK_OK(imagine_job_get_latents(job, &found, &err));
    CHECK(same_bytes(wanted, found));
    imagine_job_destroy(&job);
    remove(path);
    imagine_buffer_release(&wanted);
    imagine_buffer_release(&found);
    imagine_buffer_release(&options.state);
    imagine_context_release(&context);
    imagine_model_release(&model);
}

/* The step that a state is of. */
static uint32_t step_of(const imagine_buffer *state)
{
    uint32_t step;
    memcpy(&step, (const char *)imagine_buffer_data(state) + 16, sizeof step);
    return step;
}

/* Runs the job to its end. Returns the first state that it gave meanwhile, of which the steps must be multiples of five. */
static imagine_buffer *kept_meanwhile(imagine_job *job)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_event event = { .struct_size = sizeof event };
    imagine_buffer *state, *first = NULL;
    uint32_t last = 5;
    while (event.kind != IMAGINE_EVENT_DONE) {
        imagine_status status = imagine_job_next(job, &event, -1, &err);
        CHECK_OK(status);
        if (status < 0)
            return first;
        status = imagine_job_get_state(job, &state, NULL);
        CHECK(status == IMAGINE_OK || status == IMAGINE_ERROR_STATE);
        if (status < 0)
            continue;
        imagine_buffer_info info = { .struct_size = sizeof info };
        CHECK_OK(imagine_buffer_get_info(state, &info, &err));
        CHECK(info.flags & IMAGINE_BUFFER_READ_ONLY);
        CHECK(step_of(state) % 5 == 0 && step_of(state) >= last && step_of(state) <= 10);
        last = step_of(state);
        if (!first)
            first = imagine_buffer_retain(state);
        imagine_buffer_release(&state);
    }
    CHECK_STATUS(imagine_job_get_state(job, &state, &err), IMAGINE_ERROR_STATE);
    return first;
}

/* A job that nobody stops keeps states as it goes, and another job goes on from one; there is none once sampling is over. */
static void jobs_that_keep_states(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = model_there(2, &err);
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job = NULL;
    imagine_estimate plain = { .struct_size = sizeof plain }, kept = { .struct_size = sizeof kept };
    imagine_buffer *wanted = NULL, *found = NULL;
    imagine_job_info info = { .struct_size = sizeof info };
    REQUIRE(model);
    imagine_sampler_options_init(&sampler, sizeof sampler);
    imagine_job_options_init(&options, sizeof options);
    sampler.steps = 12;
    sampler.schedule = IMAGINE_SCHEDULE_WAN_UNIPC;
    if (test_device() == IMAGINE_DEVICE_CPU)
        sampler.width = sampler.height = 96; /* slow enough to be asked meanwhile */
    options.prompt = "a red fox";
    options.sampler = &sampler;
    CHECK_OK(imagine_job_estimate(model, &options, &plain, &err));
    options.state_every = 5;
    CHECK_OK(imagine_job_estimate(model, &options, &kept, &err));
    CHECK(kept.stage_work[IMAGINE_JOB_SAMPLE] > plain.stage_work[IMAGINE_JOB_SAMPLE]);
    for (int turn = 0; turn < 20 && !options.state; turn++) { /* on a busy machine it may be asked too late */
        imagine_buffer_release(&wanted);
        imagine_job_destroy(&job);
        REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
        options.state = kept_meanwhile(job);
        CHECK_OK(imagine_job_get_latents(job, &wanted, &err));
    }
    REQUIRE(options.state);
    CHECK_OK(imagine_job_get_info(job, &info, &err));
    CHECK(info.memory_peak <= kept.peak_bytes + imagine_buffer_size(options.state)); /* the one that is held here */
    imagine_job_destroy(&job);
    REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
    CHECK_OK(run_job(job, &err));
    CHECK_OK(imagine_job_get_latents(job, &found, &err));
    CHECK(same_bytes(wanted, found));
    imagine_job_destroy(&job);
    imagine_buffer_release(&options.state);
    imagine_buffer_release(&wanted);
    imagine_buffer_release(&found);
    options.state_every = -1;
    CHECK_STATUS(imagine_job_create(&job, model, &options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "state_every: -1"));
    imagine_model_release(&model);
}

/* What cannot be gone on with is refused before weights are read; and going on takes no more memory than the whole job. */
static void jobs_checked(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = model_there(1, &err);
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job;
    imagine_buffer *state;
    imagine_estimate whole = { .struct_size = sizeof whole }, rest = { .struct_size = sizeof rest };
    imagine_status status;
    int32_t first;
    REQUIRE(model);
    imagine_sampler_options_init(&sampler, sizeof sampler);
    imagine_job_options_init(&options, sizeof options);
    sampler.steps = 500;
    sampler.width = sampler.height = 96;
    options.events |= IMAGINE_EVENT_BIT(IMAGINE_EVENT_PREVIEW);
    options.sampler = &sampler;
    job = broken_off(model, &options, 2, &first, &status);
    CHECK(status == IMAGINE_ERROR_CANCELLED);
    REQUIRE_OK(imagine_job_get_state(job, &state, &err));
    imagine_job_destroy(&job);
    REQUIRE_OK(imagine_job_estimate(model, &options, &whole, &err));
    options.state = state;
    REQUIRE_OK(imagine_job_estimate(model, &options, &rest, &err));
    CHECK(rest.fits && rest.peak_bytes == whole.peak_bytes && rest.held_bytes == whole.held_bytes);
    sampler.seed = 1;
    CHECK_STATUS(imagine_job_create(&job, model, &options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "the seed 0, this one's is 1"));
    sampler.seed = 0;
    options.latents = state;
    CHECK_STATUS(imagine_job_create(&job, model, &options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "only decoded"));
    imagine_buffer_release(&state);
    imagine_model_release(&model);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "rules and presets", rules_and_presets }, { "conditions", conditions },
        { "other runs", other_runs }, { "spoilt states", spoilt_states },
        { "none before the beginning", none_before_the_beginning },
        { "jobs", jobs }, { "jobs that keep states", jobs_that_keep_states }, { "jobs checked", jobs_checked },
    };
    return test_main("api/resume", cases, sizeof cases / sizeof cases[0], argc, argv);
}
