/* SPDX-License-Identifier: MIT */

/* Runs that begin with, or keep, latents that are given: beside WanImageToVideoPipeline with expanded timesteps,
 * WanVideoToVideoPipeline, and a loop that noises the known part before each step (make_conditions.py). */

#include <math.h>

#include "runs.h"

static int open_inputs(inputs *in, int32_t threads)
{
    imagine_context_options options;
    imagine_context_options_init(&options, sizeof options);
    options.device = test_device();
    options.threads = threads;
    return inputs_open(in, "parity/pipeline/conditions.safetensors", PACK, &options, NULL);
}

static imagine_sampler_options options_of(int32_t steps)
{
    imagine_sampler_options o;
    imagine_sampler_options_init(&o, sizeof o);
    o.width = 48;
    o.height = 32;
    o.frames = 9;
    o.steps = steps;
    o.guidance = 3.5;
    return o;
}

/* What a run is given; NULL: not that. */
typedef struct given {
    imagine_buffer *init, *known, *mask, *noise;
} given;

/* The latents of the last clip. */
static imagine_buffer *run(const inputs *in, const imagine_sampler_options *o, const given *g)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *sampler;
    imagine_buffer *latents = NULL;
    imagine_step_info info = { .struct_size = sizeof info };
    imagine_status status = imagine_sampler_create(&sampler, in->model, o, &err);
    if (status >= 0)
        status = imagine_sampler_set_text(sampler, in->positive, in->negative, &err);
    if (status >= 0)
        status = imagine_sampler_set_init(sampler, g->init, &err);
    if (status >= 0)
        status = imagine_sampler_set_known(sampler, g->known, g->mask, &err);
    if (status >= 0)
        status = imagine_sampler_begin(sampler, g->noise, &err);
    while (status >= 0 && (!info.steps || info.step < info.steps))
        status = imagine_sampler_step(sampler, &info, &err);
    if (status >= 0)
        status = imagine_sampler_get_latents(sampler, o->batch - 1, &latents, &err);
    CHECK_OK(status);
    imagine_sampler_destroy(&sampler);
    return latents;
}

/* The first `count` of the golden frames, encoded. */
static imagine_buffer *encoded(const inputs *in, int64_t count)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *frames = golden(in, "frames"), *some = NULL, *latents = NULL;
    imagine_vae *vae = NULL;
    imagine_status status = imagine_buffer_create(&some, in->context, IMAGINE_U8, 4, (int64_t[]){ count, 32, 48, 3 }, &err);
    if (status >= 0) {
        memcpy(imagine_buffer_data(some), imagine_buffer_data(frames), imagine_buffer_size(some));
        status = imagine_vae_create(&vae, in->model, NULL, &err);
    }
    if (status >= 0)
        status = imagine_vae_encode(vae, some, &latents, &err);
    CHECK_OK(status);
    imagine_vae_destroy(&vae);
    imagine_buffer_release(&some);
    imagine_buffer_release(&frames);
    return latents;
}

static void picture_to_video(void)
{
    inputs in = { 0 };
    REQUIRE(open_inputs(&in, 2));
    imagine_sampler_options o = options_of(6);
    o.known_mode = IMAGINE_KNOWN_CLEAN;
    given g = { .known = encoded(&in, 1), .noise = in.noise };
    for (int32_t mode = IMAGINE_CFG_BATCHED; mode <= IMAGINE_CFG_IN_TURN; mode++) {
        o.cfg_mode = mode;
        imagine_buffer *latents = run(&in, &o, &g);
        compare(&in, latents, "picture_to_video");
        imagine_buffer_release(&latents);
    }
    imagine_buffer_release(&g.known);
    close_inputs(&in);
}

static void video_to_video(void)
{
    inputs in = { 0 };
    REQUIRE(open_inputs(&in, 2));
    given g = { .init = encoded(&in, 9), .noise = golden(&in, "video_noise") };
    imagine_sampler_options o = options_of(8);
    o.strength = 0.6; /* floor(4.8): 4 steps */
    imagine_buffer *latents = run(&in, &o, &g);
    compare(&in, latents, "video_to_video");
    imagine_buffer_release(&latents);
    o = options_of(5);
    o.strength = 0.3; /* floor(1.5): 1 step */
    latents = run(&in, &o, &g);
    compare(&in, latents, "video_to_video_few");
    imagine_buffer_release(&latents);
    imagine_buffer_release(&g.init);
    imagine_buffer_release(&g.noise);
    close_inputs(&in);
}

/* 1 if `latents` hold exactly the known values where the mask is 1, and others elsewhere. */
static int keeps(const imagine_buffer *latents, const imagine_buffer *known, const imagine_buffer *mask)
{
    const float *a = imagine_buffer_data(latents), *b = imagine_buffer_data(known), *m = imagine_buffer_data(mask);
    size_t count = imagine_buffer_size(latents) / sizeof *a, plane = imagine_buffer_size(mask) / sizeof *m, same = 0;
    for (size_t i = 0; i < count; i++) {
        int equal = !memcmp(a + i, b + i, sizeof *a);
        if (m[i % plane] == 1 && !equal)
            return 0;
        same += equal;
    }
    return same < count;
}

static void renoised(void)
{
    static const struct {
        const char *name;
        imagine_schedule schedule;
    } cases[] = { { "renoised_euler", IMAGINE_SCHEDULE_FLOW }, { "renoised_unipc", IMAGINE_SCHEDULE_WAN_UNIPC } };
    inputs in = { 0 };
    REQUIRE(open_inputs(&in, 2));
    given g = { .known = golden(&in, "known"), .mask = golden(&in, "mask"), .noise = in.noise };
    for (size_t i = 0; i < 2; i++) {
        imagine_sampler_options o = options_of(8);
        o.schedule = cases[i].schedule;
        imagine_buffer *latents = run(&in, &o, &g);
        compare(&in, latents, cases[i].name);
        CHECK(keeps(latents, g.known, g.mask));
        imagine_buffer_release(&latents);
    }
    imagine_buffer_release(&g.known);
    imagine_buffer_release(&g.mask);
    close_inputs(&in);
}

/* With every rule and both ways the known latents stay as they are to the bit, also in the estimate on the way. */
static void known_stays(void)
{
    inputs in = { 0 };
    imagine_error err = IMAGINE_ERROR_INIT;
    REQUIRE(open_inputs(&in, 1));
    imagine_buffer *known = golden(&in, "known"), *mask = golden(&in, "mask"), *now;
    for (imagine_step_rule rule = 1; imagine_step_rule_name(rule); rule++)
        for (int32_t mode = IMAGINE_KNOWN_CLEAN; mode <= IMAGINE_KNOWN_RENOISED; mode++) {
            imagine_sampler *sampler;
            imagine_sampler_options o = options_of(3);
            o.schedule = IMAGINE_SCHEDULE_FLOW;
            o.step_rule = rule;
            o.known_mode = mode;
            REQUIRE_OK(imagine_sampler_create(&sampler, in.model, &o, &err));
            REQUIRE_OK(imagine_sampler_set_text(sampler, in.positive, in.negative, &err));
            REQUIRE_OK(imagine_sampler_set_known(sampler, known, mask, &err));
            REQUIRE_OK(imagine_sampler_begin(sampler, NULL, &err));
            for (int i = 0; i < 3; i++) {
                REQUIRE_OK(imagine_sampler_step(sampler, NULL, &err));
                REQUIRE_OK(imagine_sampler_get_estimate(sampler, 0, &now, &err));
                CHECK(keeps(now, known, mask));
                imagine_buffer_release(&now);
            }
            REQUIRE_OK(imagine_sampler_get_latents(sampler, 0, &now, &err));
            CHECK(keeps(now, known, mask));
            imagine_buffer_release(&now);
            imagine_sampler_destroy(&sampler);
        }
    imagine_buffer_release(&known);
    imagine_buffer_release(&mask);
    close_inputs(&in);
}

/* First frames without a mask are a mask of frames, and that is a mask of latents. */
static void masks_agree(void)
{
    inputs in = { 0 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *whole, *frames, *pixels;
    REQUIRE(open_inputs(&in, 2));
    imagine_buffer *first = encoded(&in, 5), *all = encoded(&in, 9);
    whole = imagine_buffer_retain(all);
    REQUIRE_OK(imagine_buffer_create(&frames, in.context, IMAGINE_F32, 1, (int64_t[]){ 3 }, &err));
    REQUIRE_OK(imagine_buffer_create(&pixels, in.context, IMAGINE_F32, 3, (int64_t[]){ 3, 4, 6 }, &err));
    for (int i = 0; i < 2; i++)
        ((float *)imagine_buffer_data(frames))[i] = 1;
    for (int i = 0; i < 48; i++)
        ((float *)imagine_buffer_data(pixels))[i] = 1;
    for (int32_t mode = IMAGINE_KNOWN_CLEAN; mode <= IMAGINE_KNOWN_RENOISED; mode++) {
        imagine_sampler_options o = options_of(4);
        o.known_mode = mode;
        imagine_buffer *a = run(&in, &o, &(given){ .known = first }), *b = run(&in, &o, &(given){ whole, whole, frames, 0 });
        imagine_buffer *c = run(&in, &o, &(given){ .known = whole, .mask = pixels });
        CHECK(same_bytes(a, c) && !same_bytes(a, b)); /* b begins with latents */
        imagine_buffer_release(&b);
        b = run(&in, &o, &(given){ .known = whole, .mask = frames });
        CHECK(same_bytes(a, b));
        imagine_buffer_release(&a);
        imagine_buffer_release(&b);
        imagine_buffer_release(&c);
    }
    imagine_buffer_release(&whole);
    imagine_buffer_release(&all);
    imagine_buffer_release(&first);
    imagine_buffer_release(&frames);
    imagine_buffer_release(&pixels);
    close_inputs(&in);
}

/* Threads, batch and the way of guidance do not show. */
static void same_bytes_everywhere(void)
{
    static const int32_t threads[] = { 1, 2, 7 };
    for (int32_t mode = IMAGINE_KNOWN_CLEAN; mode <= IMAGINE_KNOWN_RENOISED; mode++) {
        imagine_buffer *expected = NULL;
        for (int t = 0; t < 3; t++) {
            inputs in = { 0 };
            imagine_error err = IMAGINE_ERROR_INIT;
            REQUIRE(open_inputs(&in, threads[t]));
            imagine_buffer *known = golden(&in, "known"), *mask = golden(&in, "mask"), *two;
            imagine_sampler_options o = options_of(5);
            o.known_mode = mode;
            o.strength = 0.8;
            o.seed = t ? 8 : 9;
            o.batch = t ? 2 : 1;
            o.cfg_mode = t == 1 ? IMAGINE_CFG_BATCHED : IMAGINE_CFG_IN_TURN;
            REQUIRE_OK(imagine_buffer_create(&two, in.context, IMAGINE_F32, 5,
                                             (int64_t[]){ o.batch, 16, 3, 4, 6 }, &err));
            for (int32_t b = 0; b < o.batch; b++)
                memcpy((char *)imagine_buffer_data(two) + (size_t)b * imagine_buffer_size(known),
                       imagine_buffer_data(known), imagine_buffer_size(known));
            imagine_buffer *latents = run(&in, &o, &(given){ two, t == 2 ? known : two, mask, NULL });
            CHECK(!expected || same_bytes(expected, latents));
            if (!expected)
                expected = imagine_buffer_retain(latents);
            imagine_buffer_release(&latents);
            imagine_buffer_release(&two);
            imagine_buffer_release(&known);
            imagine_buffer_release(&mask);
            close_inputs(&in);
        }
        imagine_buffer_release(&expected);
    }
}

static void refusals(void)
{
    inputs in = { 0 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *sampler;
    REQUIRE(open_inputs(&in, 1));
    imagine_buffer *known = golden(&in, "known"), *mask = golden(&in, "mask"), *small;
    imagine_sampler_options o = options_of(4);
#define BAD(change, told)                                                                                     \
    do {                                                                                                      \
        imagine_sampler_options bad = o;                                                                      \
        bad.change;                                                                                           \
        CHECK_STATUS(imagine_sampler_create(&sampler, in.model, &bad, &err), IMAGINE_ERROR_INVALID_ARGUMENT); \
        CHECK(strstr(err.message, told));                                                                     \
    } while (0)
    BAD(strength = 0, "strength");
    BAD(strength = NAN, "strength");
    BAD(strength = 0.2, "0.25");
    BAD(known_mode = 3, "known_mode");
#undef BAD
    o.strength = 0.5;
    REQUIRE_OK(imagine_sampler_create(&sampler, in.model, &o, &err));
    CHECK(imagine_sampler_get_sigmas(sampler, NULL, 0) == 3);
    CHECK_STATUS(imagine_sampler_begin(sampler, NULL, &err), IMAGINE_ERROR_STATE);
    CHECK(strstr(err.message, "imagine_sampler_set_init"));
    CHECK_STATUS(imagine_sampler_set_init(sampler, mask, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "must be f32 [16, 3, 4, 6]"));
    CHECK_STATUS(imagine_sampler_set_known(sampler, known, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "of the clip's 3 frames none is left"));
    CHECK_STATUS(imagine_sampler_set_known(sampler, NULL, mask, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_sampler_set_known(sampler, known, known, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "must be f32 [3] or [3, 4, 6]"));
    REQUIRE_OK(imagine_buffer_create(&small, in.context, IMAGINE_F32, 4, (int64_t[]){ 16, 2, 4, 4 }, &err));
    CHECK_STATUS(imagine_sampler_set_known(sampler, small, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "[16, 2, 4, 6] or fewer frames"));
    ((float *)imagine_buffer_data(mask))[7] = 0.5f;
    CHECK_STATUS(imagine_sampler_set_known(sampler, known, mask, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "value 7 is 0.5"));
    imagine_sampler_destroy(&sampler);
    imagine_buffer_release(&small);
    imagine_buffer_release(&known);
    imagine_buffer_release(&mask);
    close_inputs(&in);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "picture to video", picture_to_video },
        { "video to video", video_to_video },
        { "renoised", renoised },
        { "known stays", known_stays },
        { "masks agree", masks_agree },
        { "same bytes everywhere", same_bytes_everywhere },
        { "refusals", refusals },
    };
    return test_main("parity/conditions", cases, sizeof cases / sizeof *cases, argc, argv);
}
