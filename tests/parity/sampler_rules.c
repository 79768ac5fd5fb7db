/* SPDX-License-Identifier: MIT */

/* The presets for distilled models and the step rules that take new noise or two predictions: every number, and whole
 * runs of a model that is a formula, against diffusers' schedulers or the published formula (make_schedules.py). */

#include <math.h>

#include "sampler/schedule.h"
#include "tests/parity/tensors.h"

static const struct {
    const char *name;
    imagine_schedule schedule;
    imagine_step_rule rule;
    int32_t steps;
    double eta, off; /* how far a sigma may be from the reference's f32: 0 where both round alike */
} cases[] = {
    { "heun.1", IMAGINE_SCHEDULE_SIGMAS, IMAGINE_STEP_HEUN, 1, 1, 0 },
    { "heun.5", IMAGINE_SCHEDULE_SIGMAS, IMAGINE_STEP_HEUN, 5, 1, 0 },
    { "heun.8", IMAGINE_SCHEDULE_SIGMAS, IMAGINE_STEP_HEUN, 8, 1, 0 },
    { "renoise", IMAGINE_SCHEDULE_SIGMAS, IMAGINE_STEP_RENOISE, 4, 1, 0 },
    { "self-forcing", IMAGINE_SCHEDULE_SELF_FORCING, 0, 4, 1, 0 },
    { "causvid", IMAGINE_SCHEDULE_CAUSVID, 0, 3, 1, 0 },
    { "rcm.1", IMAGINE_SCHEDULE_RCM, 0, 1, 1, 0 },
    { "rcm.2", IMAGINE_SCHEDULE_RCM, 0, 2, 1, 0 },
    { "rcm.4", IMAGINE_SCHEDULE_RCM, 0, 4, 1, 0 },
    { "scm.1", IMAGINE_SCHEDULE_SCM, 0, 1, 1, 2e-7 },
    { "scm.2", IMAGINE_SCHEDULE_SCM, 0, 2, 1, 2e-7 },
    { "scm.4", IMAGINE_SCHEDULE_SCM, 0, 4, 1, 2e-7 },
    { "lcm.1", IMAGINE_SCHEDULE_LCM, 0, 1, 1, 0 },
    { "lcm.4", IMAGINE_SCHEDULE_LCM, 0, 4, 1, 0 },
    { "lcm.8", IMAGINE_SCHEDULE_LCM, 0, 8, 1, 0 },
    { "ltx2", IMAGINE_SCHEDULE_LTX2, 0, 8, 1, 0 },
    { "ltx2-second", IMAGINE_SCHEDULE_LTX2_SECOND, 0, 3, 1, 0 },
    { "ancestral.1", IMAGINE_SCHEDULE_LTX2, IMAGINE_STEP_ANCESTRAL, 8, 1, 0 },
    { "ancestral.0.5", IMAGINE_SCHEDULE_LTX2, IMAGINE_STEP_ANCESTRAL, 8, 0.5, 0 },
    { "schnell", IMAGINE_SCHEDULE_SCHNELL, 0, 4, 1, 0 },
    { "z-image", IMAGINE_SCHEDULE_Z_IMAGE, 0, 8, 1, 0 },
};
#define CASES (sizeof cases / sizeof *cases)

/* v at timestep t. */
static void formula(const float *x, double t, float *v, int64_t count)
{
    float shift = -0.7f * ((float)t / 1000) + 0.1f;
    for (int64_t i = 0; i < count; i++)
        v[i] = 1.3f * tanhf(x[i]) + shift;
}

static imagine__weights *open_goldens(const bench *b)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *file = NULL;
    if (imagine__weights_open_file(&file, b->context, test_path("parity/sampler/rules.safetensors"), &err) < 0)
        test_fail(__FILE__, __LINE__, err.message);
    return file;
}

static float *golden(const imagine__weights *file, size_t i, const char *key)
{
    char name[64];
    snprintf(name, sizeof name, "%s%s", cases[i].name, key);
    return tensor_read(file, name, NULL);
}

static int make(imagine__schedule *s, const bench *b, const imagine__weights *file, size_t i)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    double raw[16];
    int own = cases[i].schedule == IMAGINE_SCHEDULE_SIGMAS;
    float *sigmas = golden(file, i, ".sigmas");
    for (int32_t k = 0; sigmas && own && k <= cases[i].steps; k++)
        raw[k] = (double)sigmas[k];
    const imagine__preset *preset = imagine__preset_of(cases[i].schedule);
    imagine_status status =
        imagine__schedule_make(s, b->context, cases[i].schedule, cases[i].rule, own ? 0 : cases[i].steps, preset->shift,
                               own ? raw : NULL, own ? (uint32_t)cases[i].steps + 1 : 0, &err);
    free(sigmas);
    if (status < 0)
        test_fail(__FILE__, __LINE__, err.message);
    s->eta = cases[i].eta;
    return status >= 0;
}

static void compare_numbers(const imagine__schedule *s, const imagine__weights *file, size_t i)
{
    float *sigmas = golden(file, i, ".sigmas"), *timesteps = golden(file, i, ".timesteps");
    REQUIRE(sigmas && timesteps);
    CHECK(s->steps == cases[i].steps);
    for (int32_t k = 0; k <= s->steps; k++)
        if (!(fabs((double)(float)s->sigmas[k] - (double)sigmas[k]) <= cases[i].off) ||
            (k < s->steps && !(fabs(s->timesteps[k] - (double)timesteps[k]) <= cases[i].off * 1000))) {
            fprintf(stderr, "    %s[%d]: %.9g, not %.9g; timestep %.9g, not %.9g\n", cases[i].name, (int)k,
                    s->sigmas[k], (double)sigmas[k], k < s->steps ? s->timesteps[k] : 0,
                    k < s->steps ? (double)timesteps[k] : 0);
            test_fail(__FILE__, __LINE__, "a schedule's number");
        }
    free(sigmas);
    free(timesteps);
}

static void numbers_agree(void)
{
    bench b;
    REQUIRE(bench_open(&b, 1, IMAGINE_CPU_BEST));
    imagine__weights *file = open_goldens(&b);
    for (size_t i = 0; i < CASES && file; i++) {
        imagine__schedule s;
        REQUIRE(make(&s, &b, file, i));
        compare_numbers(&s, file, i);
        imagine__schedule_free(&s, b.context);
    }
    imagine__weights_close(file);
    bench_close(&b);
}

/* What the models publish, digit by digit, beside the goldens. */
static void published_numbers(void)
{
    static const struct {
        imagine_schedule schedule;
        int32_t steps;
        double shift, sigmas[9], tolerance;
    } published[] = {
        { IMAGINE_SCHEDULE_SELF_FORCING, 4, 5, { 1, .9375, .8333, .625, 0 }, 5e-5 },
        { IMAGINE_SCHEDULE_CAUSVID, 3, 8, { 1, .757, .522, 0 }, 5e-4 },
        { IMAGINE_SCHEDULE_RCM, 4, 1, { .98765, .93378, .85290, .60898, 0 }, 1e-5 },
        { IMAGINE_SCHEDULE_LCM, 4, 1, { .999, .759, .499, .259, 0 }, 1e-7 },
        { IMAGINE_SCHEDULE_LTX2, 8, 1, { 1, .99375, .9875, .98125, .975, .909375, .725, .421875, 0 }, 1e-7 },
        { IMAGINE_SCHEDULE_LTX2_SECOND, 3, 1, { .909375, .725, .421875, 0 }, 1e-7 },
        { IMAGINE_SCHEDULE_SCHNELL, 4, 1, { 1, .75, .5, .25, 0 }, 0 },
        { IMAGINE_SCHEDULE_Z_IMAGE, 8, 3, { 1, .9545, .9, .8333, .75, .6429, .5, .3, 0 }, 5e-5 },
    };
    imagine_error err = IMAGINE_ERROR_INIT;
    bench b;
    REQUIRE(bench_open(&b, 1, IMAGINE_CPU_BEST));
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        imagine__schedule s;
        REQUIRE_OK(imagine__schedule_make(&s, b.context, published[i].schedule, 0, published[i].steps,
                                          published[i].shift, NULL, 0, &err));
        for (int32_t k = 0; k <= s.steps; k++)
            CHECK(fabs(s.sigmas[k] - published[i].sigmas[k]) <= published[i].tolerance);
        imagine__schedule_free(&s, b.context);
    }
    bench_close(&b);
}

/* One step with what its rule wants: a second prediction, new noise. */
static void take_step(imagine__stepper *stepper, const imagine__schedule *s, int32_t step, float *x, float *v,
                      const float *noise, float *x0, int64_t count)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    formula(x, s->timesteps[step], v, count);
    float expected = x[0] - (float)s->sigmas[step] * v[0];
    const float *trial = imagine__stepper_trial(stepper, step, x, v);
    CHECK((trial != NULL) == (s->rule == IMAGINE_STEP_HEUN && step + 1 < s->steps));
    if (trial)
        formula(trial, s->timesteps[step + 1], v, count);
    CHECK(imagine__schedule_draws(s, step) == (step + 1 < s->steps && s->rule != IMAGINE_STEP_EULER &&
                                               s->rule != IMAGINE_STEP_HEUN));
    CHECK_OK(imagine__stepper_step(stepper, step, x, v, noise, x0, &err));
    CHECK(fabsf(x0[0] - expected) <= (s->rule == IMAGINE_STEP_LCM ? 1e-5f : 0));
    if (s->sigmas[step + 1] == 0 && s->rule != IMAGINE_STEP_EULER && s->rule != IMAGINE_STEP_HEUN)
        CHECK(!memcmp(x, x0, (size_t)count * sizeof *x));
}

static void compare_run(bench *b, const imagine__weights *file, size_t i)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__schedule s;
    imagine__stepper *stepper = NULL;
    char name[64];
    int64_t count = tensor_count(file, "x");
    snprintf(name, sizeof name, "%s.noise", cases[i].name);
    int drawn = imagine__weights_find(file, name) != NULL;
    float *x = tensor_read(file, "x", NULL), *expected = golden(file, i, "");
    float *noise = drawn ? golden(file, i, ".noise") : NULL;
    float *v = malloc((size_t)count * sizeof *v), *x0 = malloc((size_t)count * sizeof *x0);
    REQUIRE(x && expected && v && x0 && make(&s, b, file, i));
    REQUIRE_OK(imagine__stepper_create(&stepper, &b->work, &s, count, &err));
    for (int64_t k = 0; k < count; k++)
        x[k] *= (float)imagine__schedule_begins(&s);
    for (int32_t step = 0; step < s.steps; step++)
        take_step(stepper, &s, step, x, v, noise && step + 1 < s.steps ? noise + step * count : NULL, x0, count);
    double error = test_nmse(x, expected, (size_t)count);
    printf("    %s: %.1e\n", cases[i].name, error);
    CHECK(error <= 1e-10);
    imagine__stepper_free(stepper);
    imagine__schedule_free(&s, b->context);
    free(x);
    free(expected);
    free(noise);
    free(v);
    free(x0);
}

static void runs_agree(void)
{
    bench b;
    REQUIRE(bench_open(&b, 2, IMAGINE_CPU_BEST));
    imagine__weights *file = open_goldens(&b);
    for (size_t i = 0; i < CASES && file; i++)
        compare_run(&b, file, i);
    imagine__weights_close(file);
    bench_close(&b);
}

/* A preset is asked for in the steps that it has, or refused with those. */
static void step_counts(void)
{
    static const struct {
        imagine_schedule schedule;
        int32_t steps;
        double shift;
        const char *told; /* NULL: it can be made */
    } asked[] = {
        { IMAGINE_SCHEDULE_SELF_FORCING, 3, 5, "self-forcing has 4" }, { IMAGINE_SCHEDULE_CAUSVID, 4, 8, "has 3" },
        { IMAGINE_SCHEDULE_RCM, 5, 1, "rcm has 1 to 4" },              { IMAGINE_SCHEDULE_RCM, 3, 1, NULL },
        { IMAGINE_SCHEDULE_SCM, 1000, 1, NULL },                       { IMAGINE_SCHEDULE_LCM, 51, 1, "1 to 50" },
        { IMAGINE_SCHEDULE_LCM, 50, 1, NULL },                         { IMAGINE_SCHEDULE_LTX2, 7, 1, "has 8" },
        { IMAGINE_SCHEDULE_LTX2_SECOND, 8, 1, "ltx2-second has 3" },   { IMAGINE_SCHEDULE_SCHNELL, 1, 1, NULL },
        { IMAGINE_SCHEDULE_Z_IMAGE, 4, 3, NULL },                      { IMAGINE_SCHEDULE_Z_IMAGE, 8, 5, "its own, 3" },
        { IMAGINE_SCHEDULE_SELF_FORCING, 4, 1, "its own, 5" },         { IMAGINE_SCHEDULE_Z_IMAGE + 1, 4, 1, "know" },
    };
    imagine_error err = IMAGINE_ERROR_INIT;
    bench b;
    REQUIRE(bench_open(&b, 1, IMAGINE_CPU_BEST));
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        imagine__schedule s;
        imagine_status status = imagine__schedule_make(&s, b.context, asked[i].schedule, 0, asked[i].steps,
                                                       asked[i].shift, NULL, 0, &err);
        CHECK(asked[i].told ? status == IMAGINE_ERROR_INVALID_ARGUMENT && strstr(err.message, asked[i].told) != NULL
                            : status >= 0);
        imagine__schedule_free(&s, b.context);
    }
    bench_close(&b);
}

/* Every rule goes with every preset. */
static void rules_go_with_presets(void)
{
    enum { COUNT = 9 };
    imagine_error err = IMAGINE_ERROR_INIT;
    bench b;
    REQUIRE(bench_open(&b, 1, IMAGINE_CPU_BEST));
    for (imagine_schedule preset = 1; imagine_schedule_name(preset); preset++) {
        const imagine__preset *p = imagine__preset_of(preset);
        for (imagine_step_rule rule = 1; p->fill && imagine_step_rule_name(rule); rule++) {
            float x[COUNT], v[COUNT], noise[COUNT];
            imagine__schedule s;
            imagine__stepper *stepper = NULL;
            REQUIRE_OK(imagine__schedule_make(&s, b.context, preset, rule, p->usual ? p->usual : 5,
                                              p->shift > 0 ? p->shift : 3, NULL, 0, &err));
            REQUIRE_OK(imagine__stepper_create(&stepper, &b.work, &s, COUNT, &err));
            imagine__noise_fill(x, 0, COUNT, 1, IMAGINE__NOISE_INITIAL, 0);
            for (int32_t step = 0; step < s.steps; step++) {
                formula(x, s.timesteps[step], v, COUNT);
                float *trial = imagine__stepper_trial(stepper, step, x, v);
                if (trial)
                    formula(trial, s.timesteps[step + 1], v, COUNT);
                imagine__noise_fill(noise, 0, COUNT, 1, IMAGINE__NOISE_RENOISE(step + 1), 0);
                CHECK_OK(imagine__stepper_step(stepper, step, x, v, noise, NULL, &err));
            }
            for (int i = 0; i < COUNT; i++)
                CHECK(isfinite(x[i]) && fabsf(x[i]) < 10);
            imagine__stepper_free(stepper);
            imagine__schedule_free(&s, b.context);
        }
    }
    bench_close(&b);
}

/* Values are the same wherever a call begins, and each step's noise is another. */
static void noise_by_pieces(void)
{
    enum { COUNT = 37 };
    float whole[COUNT], piece[COUNT], other[COUNT];
    uint32_t purpose = IMAGINE__NOISE_RENOISE(3);
    imagine__noise_fill(whole, 0, COUNT, 5, purpose, 2);
    for (int64_t first = 0; first < COUNT; first++)
        for (int64_t count = 0; first + count <= COUNT; count++) {
            imagine__noise_fill(piece, first, count, 5, purpose, 2);
            CHECK(!memcmp(piece, whole + first, (size_t)count * sizeof *piece));
        }
    imagine__noise_fill(other, 0, COUNT, 5, IMAGINE__NOISE_RENOISE(4), 2);
    int same = 0;
    for (int i = 0; i < COUNT; i++)
        same += other[i] == whole[i];
    CHECK(same == 0);
    const uint32_t counter[4] = { 0, 0, 2, 2 + 3 * 256 }, key[2] = { 5, 0 };
    uint32_t words[4];
    imagine__philox(counter, key, words);
    double radius = sqrt(-2 * log((words[0] + 0.5) / 4294967296.0));
    CHECK(fabs((double)whole[0] - radius * cos(words[1] * (6.283185307179586 / 4294967296.0))) < 5e-7);
}

static void names(void)
{
    CHECK(!imagine_schedule_name(IMAGINE_SCHEDULE_DEFAULT) && !imagine_schedule_name(-1));
    CHECK(!imagine_schedule_name(IMAGINE_SCHEDULE_Z_IMAGE + 1) && !imagine_step_rule_name(IMAGINE_STEP_LCM + 1));
    CHECK(!imagine_step_rule_name(0) && !imagine_step_rule_name(-1));
    CHECK(!strcmp(imagine_schedule_name(IMAGINE_SCHEDULE_CAUSVID), "causvid"));
    CHECK(!strcmp(imagine_step_rule_name(IMAGINE_STEP_TRIGFLOW), "trigflow"));
}

int main(int argc, char **argv)
{
    static const test_case tests[] = {
        { "numbers_agree", numbers_agree },
        { "published_numbers", published_numbers },
        { "runs_agree", runs_agree },
        { "step_counts", step_counts },
        { "rules_go_with_presets", rules_go_with_presets },
        { "noise_by_pieces", noise_by_pieces },
        { "names", names },
    };
    return test_main("parity/sampler_rules", tests, sizeof tests / sizeof *tests, argc, argv);
}
