/* SPDX-License-Identifier: MIT */

/* Guidance rescaled and on a share of the steps, beside diffusers' ClassifierFreeGuidance (make_guidance.py); what it
 * costs, and what is refused. */

#include <math.h>
#include <time.h>

#include "runs.h"

#define STEPS 8

static int open_inputs(inputs *in, int32_t threads)
{
    imagine_context_options options;
    imagine_context_options_init(&options, sizeof options);
    options.device = test_device();
    options.threads = threads;
    return inputs_open(in, "parity/pipeline/guidance.safetensors", PACK, &options, NULL);
}

static imagine_sampler_options options_of(double rescale, double start, double stop)
{
    imagine_sampler_options o;
    imagine_sampler_options_init(&o, sizeof o);
    o.steps = STEPS;
    o.guidance = 3.5;
    o.guidance_rescale = rescale;
    o.guidance_start = start;
    o.guidance_stop = stop;
    return o;
}

/* The latents of a run; of its last clip, when there are several from the seed. */
static imagine_buffer *run(const inputs *in, const imagine_sampler_options *o)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *sampler;
    imagine_buffer *latents = NULL;
    imagine_status status = imagine_sampler_create(&sampler, in->model, o, &err);
    if (status >= 0)
        status = imagine_sampler_set_text(sampler, in->positive, in->negative, &err);
    if (status >= 0)
        status = imagine_sampler_begin(sampler, o->seed ? NULL : in->noise, &err);
    for (int i = 0; i < STEPS && status >= 0; i++)
        status = imagine_sampler_step(sampler, NULL, &err);
    if (status >= 0)
        status = imagine_sampler_get_latents(sampler, o->batch - 1, &latents, &err);
    CHECK_OK(status);
    imagine_sampler_destroy(&sampler);
    return latents;
}

static void parity(void)
{
    static const struct {
        const char *name;
        double rescale, start, stop;
    } cases[] = { { "rescaled", 0.7, 0, 1 }, { "interval", 0, 0.3, 0.8 }, { "both", 1, 0, 0.6 } };
    inputs in = { 0 };
    REQUIRE(open_inputs(&in, 2));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int32_t mode = IMAGINE_CFG_BATCHED; mode <= IMAGINE_CFG_IN_TURN; mode++) {
            imagine_sampler_options o = options_of(cases[i].rescale, cases[i].start, cases[i].stop);
            o.cfg_mode = mode;
            imagine_buffer *latents = run(&in, &o);
            compare(&in, latents, cases[i].name);
            imagine_buffer_release(&latents);
        }
    close_inputs(&in);
}

/* An empty interval is no guidance, to the byte; rescale does nothing there. */
static void outside_the_interval(void)
{
    inputs in = { 0 };
    REQUIRE(open_inputs(&in, 1));
    imagine_sampler_options never = options_of(0.5, 0.5, 0.5), without = options_of(0, 0, 1);
    without.guidance = 1;
    imagine_buffer *a = run(&in, &never), *b = run(&in, &without);
    CHECK(same_bytes(a, b));
    imagine_buffer_release(&a);
    imagine_buffer_release(&b);
    close_inputs(&in);
}

static void same_bytes_everywhere(void)
{
    static const int32_t threads[] = { 1, 2, 7 };
    imagine_buffer *first = NULL;
    for (int t = 0; t < 3; t++) {
        inputs in = { 0 };
        imagine_sampler_options o = options_of(0.6, 0.2, 0.7);
        REQUIRE(open_inputs(&in, threads[t]));
        o.cfg_mode = t == 1 ? IMAGINE_CFG_BATCHED : IMAGINE_CFG_IN_TURN;
        o.batch = t ? 2 : 1;
        o.seed = t ? 8 : 9;
        imagine_buffer *latents = run(&in, &o);
        CHECK(!first || same_bytes(first, latents));
        if (!first)
            first = imagine_buffer_retain(latents);
        imagine_buffer_release(&latents);
        close_inputs(&in);
    }
    imagine_buffer_release(&first);
}

/* Processor time of this thread, which does all the work of a context of one thread. */
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Steps outside the interval cost one prediction: a sampler whose interval is empty takes about half the time. The
 * least of many steps is compared, so that other programs do not decide it. */
static double least_seconds(const inputs *in, double stop, imagine_cfg_mode mode)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *sampler;
    imagine_sampler_options o = options_of(0, 0, stop);
    double least = 1e9;
    o.width = o.height = 256;
    o.frames = 17;
    o.steps = 12;
    o.cfg_mode = mode;
    CHECK_OK(imagine_sampler_create(&sampler, in->model, &o, &err));
    CHECK_OK(imagine_sampler_set_text(sampler, in->positive, in->negative, &err));
    CHECK_OK(imagine_sampler_begin(sampler, NULL, &err));
    for (int i = 0; i < o.steps; i++) {
        double begin = now();
        CHECK_OK(imagine_sampler_step(sampler, NULL, &err));
        double took = now() - begin;
        least = took < least ? took : least;
    }
    imagine_sampler_destroy(&sampler);
    return least;
}

static void costs_one_prediction(void)
{
    inputs in = { 0 };
    REQUIRE(open_inputs(&in, 1));
    for (int32_t mode = IMAGINE_CFG_BATCHED; mode <= IMAGINE_CFG_IN_TURN; mode++) {
        double both = least_seconds(&in, 1, mode), one = least_seconds(&in, 0, mode);
        printf("    mode %d: %.1f ms with, %.1f ms without\n", mode, both * 1e3, one * 1e3);
        CHECK(one < 0.75 * both);
    }
    close_inputs(&in);
}

static void refusals(void)
{
    inputs in = { 0 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *sampler;
    REQUIRE(open_inputs(&in, 1));
    imagine_sampler_options bad[] = { options_of(1.1, 0, 1), options_of(0, -0.1, 1), options_of(0, 0, NAN),
                                      options_of(0, 0.7, 0.6) };
    static const char *const told[] = { "guidance_rescale", "guidance_start", "guidance_stop", "behind" };
    for (int i = 0; i < 4; i++) {
        CHECK_STATUS(imagine_sampler_create(&sampler, in.model, &bad[i], &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(strstr(err.message, told[i]));
    }
    imagine_sampler_options sound = options_of(0, 0, 1);
    sound.guidance_audio = 3;
    CHECK_STATUS(imagine_sampler_create(&sampler, in.model, &sound, &err), IMAGINE_ERROR_UNSUPPORTED);
    CHECK(strstr(err.message, "makes no sound"));
    close_inputs(&in);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "parity", parity },
        { "outside the interval", outside_the_interval },
        { "same bytes everywhere", same_bytes_everywhere },
        { "costs one prediction", costs_one_prediction },
        { "refusals", refusals },
    };
    return test_main("parity/guidance", cases, sizeof cases / sizeof *cases, argc, argv);
}
