/* SPDX-License-Identifier: MIT */

/* Schedules and step rules through the public interface: the same bytes for any threads, batch and way of guidance; what
 * is refused, and when. */

#include <math.h>

#include "api.h"

static imagine_sampler_options defaults(imagine_schedule schedule)
{
    imagine_sampler_options options;
    imagine_sampler_options_init(&options, sizeof options);
    options.seed = 5;
    options.schedule = schedule;
    return options;
}

/* The latents of clip `index` after all steps by hand, of a prompt without the text stage. */
static imagine_buffer *sample(imagine_model *model, const imagine_sampler_options *options, int32_t index,
                              imagine_buffer *renoise)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_sampler *sampler = NULL;
    imagine_buffer *text = NULL, *latents = NULL;
    imagine_step_info info = { .struct_size = sizeof info };
    CHECK_OK(imagine_buffer_create(&text, context, IMAGINE_F32, 2, (int64_t[]){ 3, 16 }, &err));
    for (int i = 0; i < 48; i++)
        ((float *)imagine_buffer_data(text))[i] = (float)(i % 7) - 3;
    imagine_status status = imagine_sampler_create(&sampler, model, options, &err);
    if (status >= 0)
        status = imagine_sampler_set_text(sampler, text, text, &err);
    if (status >= 0)
        status = imagine_sampler_set_renoise(sampler, renoise, &err);
    if (status >= 0)
        status = imagine_sampler_begin(sampler, NULL, &err);
    do
        status = status < 0 ? status : imagine_sampler_step(sampler, &info, &err);
    while (status >= 0 && info.step < info.steps);
    if (status >= 0)
        status = imagine_sampler_get_latents(sampler, index, &latents, &err);
    CHECK_OK(status);
    imagine_sampler_destroy(&sampler);
    imagine_buffer_release(&text);
    imagine_context_release(&context);
    return latents;
}

/* Every preset and rule on a few steps: threads 1, 2 and 7, guidance batched and in turn, alone and second of two. */
static void same_bytes_everywhere(void)
{
    static const int32_t counts[] = { 1, 2, 7 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *models[3];
    for (int t = 0; t < 3; t++)
        REQUIRE(models[t] = open_model(counts[t], &err));
    for (imagine_schedule schedule = 1; imagine_schedule_name(schedule); schedule++)
        for (imagine_step_rule rule = 0; rule == 0 || imagine_step_rule_name(rule); rule++) {
            imagine_sampler_options o = defaults(schedule);
            if (schedule == IMAGINE_SCHEDULE_SIGMAS || (rule && schedule != IMAGINE_SCHEDULE_FLOW))
                continue;
            o.step_rule = rule;
            o.guidance = 2;
            o.eta = 0.75;
            o.cfg_mode = IMAGINE_CFG_IN_TURN;
            imagine_buffer *first = sample(models[0], &o, 0, NULL);
            REQUIRE(first);
            o.cfg_mode = IMAGINE_CFG_BATCHED;
            o.seed--;
            o.batch = 2;
            for (int t = 1; t < 3; t++) {
                imagine_buffer *other = sample(models[t], &o, 1, NULL);
                CHECK(same_bytes(first, other));
                imagine_buffer_release(&other);
            }
            imagine_buffer_release(&first);
        }
    for (int t = 0; t < 3; t++)
        imagine_model_release(&models[t]);
}

/* What a preset brings with it where the caller says nothing. */
static void presets_bring_defaults(void)
{
    static const struct {
        imagine_schedule schedule;
        int32_t steps;
        double guidance;
    } expected[] = { { IMAGINE_SCHEDULE_DEFAULT, 4, 3 },      { IMAGINE_SCHEDULE_FLOW, 4, 3 },
                     { IMAGINE_SCHEDULE_SELF_FORCING, 4, 1 }, { IMAGINE_SCHEDULE_CAUSVID, 3, 1 },
                     { IMAGINE_SCHEDULE_SCM, 2, 1 },          { IMAGINE_SCHEDULE_LTX2, 8, 1 } };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(1, &err);
    REQUIRE(model);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        imagine_sampler_options o = defaults(expected[i].schedule);
        imagine_job_options options;
        imagine_job *job;
        imagine_job_info info = { .struct_size = sizeof info };
        imagine_job_options_init(&options, sizeof options);
        options.sampler = &o;
        REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
        REQUIRE_OK(imagine_job_get_info(job, &info, &err));
        CHECK(info.steps == expected[i].steps && info.guidance == expected[i].guidance);
        imagine_job_destroy(&job);
    }
    imagine_model_release(&model);
}

/* Both a sampler and a job are refused before anything runs. */
static void refused(imagine_model *model, const imagine_sampler_options *o, const char *told)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *sampler;
    imagine_job_options options;
    imagine_job *job;
    CHECK_STATUS(imagine_sampler_create(&sampler, model, o, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, told));
    err.message[0] = 0;
    imagine_job_options_init(&options, sizeof options);
    options.sampler = o;
    CHECK_STATUS(imagine_job_create(&job, model, &options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, told));
}

static void refusals(void)
{
    static const double rising[] = { 0.5, 0.6, 0 }, close[] = { 1, 0.9999995, 0 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(1, &err);
    REQUIRE(model);
    imagine_sampler_options o = defaults(IMAGINE_SCHEDULE_SIGMAS);
    o.sigmas = rising;
    o.sigma_count = 3;
    refused(model, &o, "sigma 1 is 0.6");
    o.sigmas = close;
    o.step_rule = IMAGINE_STEP_UNIPC;
    refused(model, &o, "too close");
    o = defaults(IMAGINE_SCHEDULE_SELF_FORCING);
    o.steps = 8;
    refused(model, &o, "self-forcing has 4");
    o = defaults(IMAGINE_SCHEDULE_RCM);
    o.shift = 5;
    refused(model, &o, "rcm has its own, 1");
    o = defaults(IMAGINE_SCHEDULE_Z_IMAGE + 1);
    refused(model, &o, "schedule");
    o = defaults(IMAGINE_SCHEDULE_FLOW);
    o.eta = 1.5;
    refused(model, &o, "eta");
    o.eta = NAN;
    refused(model, &o, "eta");
    imagine_model_release(&model);
}

/* The seed's own noise, given back through imagine_sampler_set_renoise, and other noise. */
static void callers_noise(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(2, &err);
    imagine_context *context = open_context(1, &err);
    imagine_sampler_options o = defaults(IMAGINE_SCHEDULE_RCM);
    imagine_sampler *sampler;
    imagine_buffer *zeros;
    REQUIRE(model && context);
    imagine_buffer *seeds = sample(model, &o, 0, NULL);
    REQUIRE_OK(imagine_buffer_create(&zeros, context, IMAGINE_F32, 5, (int64_t[]){ 3, 16, 2, 4, 4 }, &err));
    imagine_buffer *quiet = sample(model, &o, 0, zeros);
    CHECK(seeds && quiet && !same_bytes(seeds, quiet));
    o.schedule = IMAGINE_SCHEDULE_FLOW;
    REQUIRE_OK(imagine_sampler_create(&sampler, model, &o, &err));
    CHECK_STATUS(imagine_sampler_set_renoise(sampler, zeros, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "takes new noise"));
    imagine_sampler_destroy(&sampler);
    o.schedule = IMAGINE_SCHEDULE_LCM;
    o.batch = 2;
    REQUIRE_OK(imagine_sampler_create(&sampler, model, &o, &err));
    CHECK_STATUS(imagine_sampler_set_renoise(sampler, zeros, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "must be f32 [3, 2, 16, 2, 4, 4]"));
    imagine_sampler_destroy(&sampler);
    imagine_buffer_release(&seeds);
    imagine_buffer_release(&quiet);
    imagine_buffer_release(&zeros);
    imagine_context_release(&context);
    imagine_model_release(&model);
}

/* A struct for the step's info that nothing can be written to is told before the step is taken, and the step is still to come. */
static void info_of_no_size(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(1, &err);
    imagine_context *context = open_context(1, &err);
    imagine_sampler_options o = defaults(IMAGINE_SCHEDULE_FLOW);
    imagine_sampler *sampler;
    imagine_buffer *text, *latents[2];
    imagine_step_info info = { .struct_size = 0 };
    REQUIRE(model && context);
    REQUIRE_OK(imagine_buffer_create(&text, context, IMAGINE_F32, 2, (int64_t[]){ 3, 16 }, &err));
    REQUIRE_OK(imagine_sampler_create(&sampler, model, &o, &err));
    REQUIRE_OK(imagine_sampler_set_text(sampler, text, text, &err));
    REQUIRE_OK(imagine_sampler_begin(sampler, NULL, &err));
    REQUIRE_OK(imagine_sampler_get_latents(sampler, 0, &latents[0], &err));
    CHECK_STATUS(imagine_sampler_step(sampler, &info, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "imagine_step_info") && strstr(err.message, "struct_size"));
    REQUIRE_OK(imagine_sampler_get_latents(sampler, 0, &latents[1], &err));
    CHECK(same_bytes(latents[0], latents[1]));
    info.struct_size = sizeof info;
    for (int32_t step = 1; step <= 2; step++) {
        REQUIRE_OK(imagine_sampler_step(sampler, &info, &err));
        CHECK(info.step == step && info.steps == 4);
    }
    imagine_buffer_release(&latents[0]);
    imagine_buffer_release(&latents[1]);
    imagine_buffer_release(&text);
    imagine_sampler_destroy(&sampler);
    imagine_context_release(&context);
    imagine_model_release(&model);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "same bytes everywhere", same_bytes_everywhere },
        { "presets bring defaults", presets_bring_defaults },
        { "refusals", refusals },
        { "caller's noise", callers_noise },
        { "info of no size", info_of_no_size },
    };
    return test_main("api/sampling", cases, sizeof cases / sizeof cases[0], argc, argv);
}
