/* SPDX-License-Identifier: MIT */

/* Schedules and step rules against diffusers' schedulers, whole runs with guidance against its loop (make_dit.py), and
 * the noise against its published vectors and its distribution. */

#include <math.h>

#include "dit/dit.h"
#include "sampler/schedule.h"
#include "tests/parity/tensors.h"

/* ---- noise ---- */

static void philox_known_answers(void)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { ~0u, ~0u, ~0u, ~0u }, { ~0u, ~0u }, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
          { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        imagine__philox(known[i].counter, known[i].key, out);
        CHECK(!memcmp(out, known[i].out, sizeof out));
    }
}

/* The transform, against the C library's logarithm, cosine and sine. */
static void noise_is_box_muller(void)
{
    enum { COUNT = 40000 };
    static float z[COUNT];
    const uint32_t key[2] = { 0x89abcdef, 0x01234567 };
    double worst = 0;
    imagine__noise_fill(z, 0, COUNT, 0x0123456789abcdefu, 5, 9);
    for (uint32_t i = 0; i < COUNT; i += 4) {
        const uint32_t counter[4] = { i / 4, 0, 9, 5 };
        uint32_t w[4];
        imagine__philox(counter, key, w);
        for (int j = 0; j < 4; j += 2) {
            double r = sqrt(-2 * log((w[j] + 0.5) / 4294967296.0)), a = w[j + 1] * (6.283185307179586 / 4294967296.0);
            double dc = fabs(z[i + j] - (float)(r * cos(a))), ds = fabs(z[i + j + 1] - (float)(r * sin(a)));
            worst = fmax(worst, fmax(dc, ds));
        }
    }
    CHECK(worst <= 5e-7); /* one unit in the last place of a value above 4 */
    float part[5];
    imagine__noise_fill(part, 0, 5, 0x0123456789abcdefu, 5, 9);
    CHECK(!memcmp(part, z, sizeof part));
}

static void noise_is_normal(void)
{
    enum { COUNT = 1 << 20 };
    float *z = malloc(COUNT * sizeof *z), *other = malloc(COUNT * sizeof *other);
    REQUIRE(z && other);
    imagine__noise_fill(z, 0, COUNT, 42, IMAGINE__NOISE_INITIAL, 0);
    imagine__noise_fill(other, 0, COUNT, 42, IMAGINE__NOISE_INITIAL, 1);
    double m[5] = { 0 }, lag1 = 0, lag2 = 0, cross = 0, n = COUNT;
    int64_t above[4] = { 0 };
    for (int64_t i = 0; i < COUNT; i++) {
        double x = z[i];
        m[1] += x, m[2] += x * x, m[3] += x * x * x, m[4] += x * x * x * x;
        lag1 += i ? x * z[i - 1] : 0;
        lag2 += i > 1 ? x * z[i - 2] : 0;
        cross += x * other[i];
        for (int k = 0; k < 4; k++)
            above[k] += fabs(x) > k + 1;
    }
    double s = 1 / sqrt(n); /* each limit is about five standard errors */
    CHECK(fabs(m[1] / n) < 5 * s);
    CHECK(fabs(m[2] / n - 1) < 5 * s * sqrt(2));
    CHECK(fabs(m[3] / n) < 5 * s * sqrt(15));
    CHECK(fabs(m[4] / n - 3) < 5 * s * sqrt(96));
    CHECK(fabs(lag1 / n) < 5 * s);
    CHECK(fabs(lag2 / n) < 5 * s);
    CHECK(fabs(cross / n) < 5 * s);
    static const double tail[4] = { 0.31731050786, 0.04550026390, 0.00269979606, 0.00006334248 };
    for (int k = 0; k < 4; k++)
        CHECK(fabs(above[k] / n - tail[k]) < 5 * s * sqrt(tail[k]));
    free(z);
    free(other);
}

static void noise_differs_by_key(void)
{
    float base[64], z[64];
    static const struct {
        uint64_t seed;
        uint32_t purpose, frame;
    } others[] = { { 2, 1, 0 }, { 1 + ((uint64_t)1 << 32), 1, 0 }, { 1, 2, 0 }, { 1, 1, 1 } };
    imagine__noise_fill(base, 0, 64, 1, 1, 0);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        imagine__noise_fill(z, 0, 64, others[i].seed, others[i].purpose, others[i].frame);
        int same = 0;
        for (int j = 0; j < 64; j++)
            same += z[j] == base[j];
        CHECK(same == 0);
    }
}

/* These bytes are a promise: a seed means the same noise in every version. */
static void noise_bytes_stay(void)
{
    float z[6];
    imagine__noise_fill(z, 0, 6, 0, IMAGINE__NOISE_INITIAL, 0);
    static const float expected[6] = { 1.65117788f,   0.845645547f,  -0.102098592f,
                                       -0.115636088f, -0.174992234f, 0.393525869f };
    for (int i = 0; i < 6; i++)
        if (z[i] != expected[i]) {
            fprintf(stderr, "    %d: %.9g\n", i, (double)z[i]);
            test_fail(__FILE__, __LINE__, "the noise of seed 0");
        }
}

/* ---- schedules ---- */

static const struct {
    const char *name;
    imagine_schedule preset;
} presets[] = { { "flow", IMAGINE_SCHEDULE_FLOW }, { "unipc", IMAGINE_SCHEDULE_WAN_UNIPC } };

/* Every sigma and timestep is the reference's f32 number, to the bit. */
static void compare_schedule(const bench *b, const imagine__weights *file, int p, int32_t steps, double shift)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__schedule s;
    char name[64];
    REQUIRE_OK(imagine__schedule_make(&s, b->context, presets[p].preset, IMAGINE_STEP_DEFAULT, steps, shift, NULL, 0,
                                      &err));
    CHECK(s.steps == steps);
    for (int kind = 0; kind < 2; kind++) {
        snprintf(name, sizeof name, "%s.%d.%g.%s", presets[p].name, steps, shift, kind ? "timesteps" : "sigmas");
        float *expected = tensor_read(file, name, NULL);
        int64_t count = tensor_count(file, name);
        CHECK(count == steps + !kind);
        const double *got = kind ? s.timesteps : s.sigmas;
        for (int64_t i = 0; expected && i < count; i++)
            if (got[i] != (double)expected[i]) {
                fprintf(stderr, "    %s[%d]: %.9g, not %.9g\n", name, (int)i, got[i], (double)expected[i]);
                test_fail(__FILE__, __LINE__, "a schedule's number");
            }
        free(expected);
    }
    imagine__schedule_free(&s, b->context);
}

static void schedules_agree(void)
{
    static const int32_t steps[] = { 1, 2, 3, 4, 8, 20, 50 };
    static const double shifts[] = { 1, 3, 5, 8 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *file = NULL;
    bench b;
    REQUIRE(bench_open(&b, 1, IMAGINE_CPU_BEST));
    REQUIRE_OK(imagine__weights_open_file(&file, b.context, test_path("parity/sampler/tables.safetensors"), &err));
    for (int p = 0; p < 2; p++)
        for (int i = 0; i < 7; i++)
            for (int j = 0; j < 4; j++)
                compare_schedule(&b, file, p, steps[i], shifts[j]);
    imagine__weights_close(file);
    bench_close(&b);
}

/* The published 8-step schedule at shift 3. */
static void wan_unipc_numbers(void)
{
    static const double sigmas[] = { .999999, .9546, .9001, .8336, .7504, .6435, .5010, .3017, 0 };
    static const double timesteps[] = { 999, 954, 900, 833, 750, 643, 500, 301 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__schedule s;
    bench b;
    REQUIRE(bench_open(&b, 1, IMAGINE_CPU_BEST));
    REQUIRE_OK(imagine__schedule_make(&s, b.context, IMAGINE_SCHEDULE_WAN_UNIPC, 0, 8, 3, NULL, 0, &err));
    CHECK(s.rule == IMAGINE_STEP_UNIPC);
    for (int i = 0; i <= 8; i++)
        CHECK(fabs(s.sigmas[i] - sigmas[i]) < 5.1e-5);
    for (int i = 0; i < 8; i++)
        CHECK(s.timesteps[i] == timesteps[i]);
    imagine__schedule_free(&s, b.context);
    bench_close(&b);
}

static void refuses_bad_schedules(void)
{
    static const double rising[] = { 0.5, 0.6, 0 }, high[] = { 1.5, 0 }, low[] = { 1, -0.1 }, missing[] = { NAN, 0 },
                        good[] = { 1, 0.5, 0 }, near_one[] = { 1, 0.9999995, 0 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__schedule s;
    bench b;
    REQUIRE(bench_open(&b, 1, IMAGINE_CPU_BEST));
#define BAD(preset, rule, steps, shift, sigmas, count)                                                               \
    CHECK_STATUS(imagine__schedule_make(&s, b.context, preset, rule, steps, shift, sigmas, count, &err),             \
                 IMAGINE_ERROR_INVALID_ARGUMENT)
    BAD(IMAGINE_SCHEDULE_FLOW, 0, 0, 1, NULL, 0);
    BAD(IMAGINE_SCHEDULE_FLOW, 0, 1001, 1, NULL, 0);
    BAD(IMAGINE_SCHEDULE_FLOW, 0, 8, 0, NULL, 0);
    BAD(IMAGINE_SCHEDULE_FLOW, 0, 8, NAN, NULL, 0);
    BAD(IMAGINE_SCHEDULE_FLOW, 99, 8, 1, NULL, 0);
    BAD(99, 0, 8, 1, NULL, 0);
    BAD(IMAGINE_SCHEDULE_SIGMAS, 0, 0, 1, NULL, 0);
    BAD(IMAGINE_SCHEDULE_SIGMAS, 0, 0, 1, rising, 3);
    BAD(IMAGINE_SCHEDULE_SIGMAS, 0, 0, 1, high, 2);
    BAD(IMAGINE_SCHEDULE_SIGMAS, 0, 0, 1, low, 2);
    BAD(IMAGINE_SCHEDULE_SIGMAS, 0, 0, 1, missing, 2);
    BAD(IMAGINE_SCHEDULE_SIGMAS, 0, 3, 1, good, 3);
    BAD(IMAGINE_SCHEDULE_SIGMAS, IMAGINE_STEP_UNIPC, 0, 1, near_one, 3);
    CHECK(strstr(err.message, "too close"));
#undef BAD
    CHECK_OK(imagine__schedule_make(&s, b.context, IMAGINE_SCHEDULE_SIGMAS, 0, 0, 1, good, 3, &err));
    CHECK(s.steps == 2 && s.rule == IMAGINE_STEP_EULER && s.timesteps[1] == 500);
    imagine__schedule_free(&s, b.context);
    /* the presets go down strictly at the ends of what is allowed */
    static const double shifts[] = { 0.01, 1, 100 };
    for (int p = 0; p < 6; p++) {
        CHECK_OK(imagine__schedule_make(&s, b.context, presets[p / 3].preset, 0, 1000, shifts[p % 3], NULL, 0, &err));
        imagine__schedule_free(&s, b.context);
    }
    bench_close(&b);
}

/* ---- runs ---- */

/* v for x at timestep t, count values. */
typedef int predict_fn(void *arg, const float *x, double t, float *v, int64_t count);

static int formula(void *arg, const float *x, double t, float *v, int64_t count)
{
    (void)arg;
    float shift = -0.7f * ((float)t / 1000) + 0.1f;
    for (int64_t i = 0; i < count; i++)
        v[i] = 1.3f * tanhf(x[i]) + shift;
    return 1;
}

/* x from the first sigma to the last. */
static void run(bench *b, const imagine__schedule *s, predict_fn *predict, void *arg, float *x, int64_t count)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__stepper *stepper = NULL;
    float *v = malloc((size_t)count * sizeof *v), *x0 = malloc((size_t)count * sizeof *x0);
    REQUIRE_OK(imagine__stepper_create(&stepper, &b->work, s, count, &err));
    for (int32_t i = 0; i < s->steps; i++) {
        REQUIRE(predict(arg, x, s->timesteps[i], v, count));
        float expected = x[0] - (float)s->sigmas[i] * v[0];
        CHECK_OK(imagine__stepper_step(stepper, i, x, v, NULL, x0, &err));
        CHECK(x0[0] == expected);
    }
    CHECK_STATUS(imagine__stepper_step(stepper, s->steps, x, v, NULL, x0, &err), IMAGINE_ERROR_STATE);
    if (s->sigmas[s->steps] == 0 && s->rule == IMAGINE_STEP_UNIPC)
        CHECK(!memcmp(x, x0, (size_t)count * sizeof *x)); /* the last step lands on the estimate */
    imagine__stepper_free(stepper);
    free(v);
    free(x0);
}

static void compare_run(bench *b, const imagine__weights *file, const imagine__schedule *s, const char *name,
                        predict_fn *predict, void *arg)
{
    int64_t count = tensor_count(file, name);
    float *x = tensor_read(file, "x", NULL), *y = tensor_read(file, name, NULL);
    REQUIRE(x && y && count > 0);
    run(b, s, predict, arg, x, count);
    double error = test_nmse(x, y, (size_t)count);
    printf("    %s: %.1e\n", name, error);
    CHECK(error <= 1e-10);
    free(x);
    free(y);
}

static void runs_agree(void)
{
    static const int32_t steps[] = { 1, 2, 3, 8, 20 };
    static const double shifts[] = { 1, 5 }, raw[] = { 0.9, 0.85, 0.5, 0.2, 0.15, 0 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *file = NULL;
    imagine__schedule s;
    bench b;
    REQUIRE(bench_open(&b, 2, IMAGINE_CPU_BEST));
    REQUIRE_OK(imagine__weights_open_file(&file, b.context, test_path("parity/sampler/runs.safetensors"), &err));
    for (int p = 0; p < 2; p++)
        for (int i = 0; i < 5; i++)
            for (int j = 0; j < 2; j++) {
                char name[64];
                snprintf(name, sizeof name, "%s.%d.%g", presets[p].name, steps[i], shifts[j]);
                REQUIRE_OK(imagine__schedule_make(&s, b.context, presets[p].preset, 0, steps[i], shifts[j], NULL, 0,
                                                  &err));
                compare_run(&b, file, &s, name, formula, NULL);
                imagine__schedule_free(&s, b.context);
            }
    REQUIRE_OK(imagine__schedule_make(&s, b.context, IMAGINE_SCHEDULE_SIGMAS, IMAGINE_STEP_UNIPC, 0, 1, raw, 6, &err));
    compare_run(&b, file, &s, "raw", formula, NULL);
    imagine__schedule_free(&s, b.context);
    imagine__weights_close(file);
    bench_close(&b);
}

/* A reset stepper forgets: a second run gives the bytes of the first. */
static void reset_forgets(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__schedule s;
    imagine__stepper *stepper = NULL;
    float x[2][3], v[3];
    bench b;
    REQUIRE(bench_open(&b, 1, IMAGINE_CPU_BEST));
    REQUIRE_OK(imagine__schedule_make(&s, b.context, IMAGINE_SCHEDULE_WAN_UNIPC, 0, 5, 3, NULL, 0, &err));
    REQUIRE_OK(imagine__stepper_create(&stepper, &b.work, &s, 3, &err));
    for (int pass = 0; pass < 2; pass++) {
        imagine__noise_fill(x[pass], 0, 3, 1, 1, 0);
        for (int32_t i = 0; i < 5; i++) {
            formula(NULL, x[pass], s.timesteps[i], v, 3);
            CHECK_OK(imagine__stepper_step(stepper, i, x[pass], v, NULL, NULL, &err));
        }
        imagine__stepper_reset(stepper);
        CHECK_STATUS(imagine__stepper_step(stepper, 1, x[pass], v, NULL, NULL, &err), IMAGINE_ERROR_STATE);
    }
    CHECK(!memcmp(x[0], x[1], sizeof x[0]));
    imagine__stepper_free(stepper);
    imagine__schedule_free(&s, b.context);
    bench_close(&b);
}

/* A cancelled step changes nothing, and can be taken again. */
static void cancelled_steps_change_nothing(void)
{
    enum { COUNT = 5000 };
    static float x[COUNT], before[COUNT], v[COUNT], x0[COUNT], straight[COUNT];
    static const imagine_step_rule rules[] = { IMAGINE_STEP_EULER, IMAGINE_STEP_UNIPC };
    imagine_error err = IMAGINE_ERROR_INIT;
    for (int rule = 0; rule < 2; rule++) {
        imagine__schedule s;
        imagine__stepper *stepper = NULL;
        imagine_cancel *cancel = NULL;
        bench b;
        REQUIRE(bench_open(&b, 2, IMAGINE_CPU_BEST));
        REQUIRE_OK(imagine_cancel_create(&cancel, b.context, &err));
        b.work.cancel = cancel;
        REQUIRE_OK(imagine__schedule_make(&s, b.context, IMAGINE_SCHEDULE_FLOW, rules[rule], 6, 3, NULL, 0, &err));
        imagine__noise_fill(straight, 0, COUNT, 3, 1, 0);
        memcpy(x, straight, sizeof x);
        run(&b, &s, formula, NULL, straight, COUNT);
        REQUIRE_OK(imagine__stepper_create(&stepper, &b.work, &s, COUNT, &err));
        for (int32_t i = 0; i < s.steps; i++) {
            formula(NULL, x, s.timesteps[i], v, COUNT);
            memcpy(before, x, sizeof x);
            imagine_cancel_fire(cancel);
            CHECK_STATUS(imagine__stepper_step(stepper, i, x, v, NULL, x0, &err), IMAGINE_ERROR_CANCELLED);
            CHECK(!memcmp(x, before, sizeof x));
            imagine_cancel_reset(cancel);
            CHECK_OK(imagine__stepper_step(stepper, i, x, v, NULL, x0, &err));
        }
        CHECK(!memcmp(x, straight, sizeof x));
        imagine__stepper_free(stepper);
        imagine__schedule_free(&s, b.context);
        bench_close(&b);
        imagine_cancel_release(&cancel);
    }
}

/* The transformer under guidance: both predictions in one forward of two rows. */
typedef struct guided {
    imagine__dit *dit;
    imagine__work *work;
    imagine__dit_text *text;
    int32_t frames, height, width;
    float guidance;
} guided;

static int guided_predict(void *arg, const float *x, double t, float *v, int64_t count)
{
    const guided *g = arg;
    imagine_error err = IMAGINE_ERROR_INIT;
    const float timesteps[2] = { (float)t, (float)t };
    float *both = malloc((size_t)count * 4 * sizeof *both), *out = both + 2 * count;
    memcpy(both, x, (size_t)count * sizeof *x);
    memcpy(both + count, x, (size_t)count * sizeof *x);
    imagine__dit_input input = { .x = both,
                                 .y = out,
                                 .timesteps = timesteps,
                                 .text = g->text,
                                 .batch = 2,
                                 .frames = g->frames,
                                 .height = g->height,
                                 .width = g->width };
    imagine_status status = imagine__dit_forward(g->dit, g->work, &input, &err);
    for (int64_t i = 0; i < count; i++)
        v[i] = out[count + i] + g->guidance * (out[i] - out[count + i]);
    free(both);
    if (status < 0)
        fprintf(stderr, "    %s\n", err.message);
    return status >= 0;
}

static void compare_guided(const char *folder, const char *golden, float guidance)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *weights = NULL, *file = NULL;
    guided g = { .guidance = guidance };
    imagine__dit_config config;
    int64_t shape[IMAGINE_MAX_DIMS], text[IMAGINE_MAX_DIMS];
    bench b;
    REQUIRE(bench_open(&b, 2, IMAGINE_CPU_BEST));
    REQUIRE_OK(imagine__weights_open(&weights, b.context, folder, "diffusion_pytorch_model", &err));
    REQUIRE_OK(imagine__weights_open_file(&file, b.context, golden, &err));
    REQUIRE_OK(imagine__dit_read_config(&config, b.context, folder, &err));
    REQUIRE_OK(imagine__dit_load(&g.dit, b.context, &config, weights, 0, NULL, &err));
    float *x = tensor_read(file, "x", shape), *positive = tensor_read(file, "positive", text);
    float *negative = tensor_read(file, "negative", NULL);
    REQUIRE(x && positive && negative);
    size_t row = (size_t)(text[1] * text[2]);
    float *embeds = malloc(2 * row * sizeof *embeds);
    memcpy(embeds, positive, row * sizeof *embeds);
    memcpy(embeds + row, negative, row * sizeof *embeds);
    REQUIRE_OK(imagine__dit_text_create(&g.text, g.dit, &b.work, embeds, 2, (int32_t)text[1], &err));
    g.work = &b.work;
    g.frames = (int32_t)shape[2], g.height = (int32_t)shape[3], g.width = (int32_t)shape[4];
    for (int p = 0; p < 2; p++) {
        imagine__schedule s;
        REQUIRE_OK(imagine__schedule_make(&s, b.context, presets[p].preset, 0, 8, 3, NULL, 0, &err));
        compare_run(&b, file, &s, presets[p].name, guided_predict, &g);
        imagine__schedule_free(&s, b.context);
    }
    free(x);
    free(positive);
    free(negative);
    free(embeds);
    imagine__dit_text_free(g.text);
    imagine__dit_free(g.dit);
    imagine__weights_close(weights);
    imagine__weights_close(file);
    bench_close(&b);
}

static void guided_runs_agree(void)
{
    compare_guided(test_path("parity/dit/f32"), test_path("parity/sampler/guided.safetensors"), 4);
}

static void guided_runs_of_the_shipped_model(void)
{
    const char *folder, *golden;
    char path[2048];
    if (!shipped_folders(&folder, &golden))
        SKIP("the shipped transformer or its goldens are not there");
    snprintf(path, sizeof path, "%s/guided.safetensors", golden);
    compare_guided(folder, path, 5);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "philox_known_answers", philox_known_answers },
        { "noise_is_box_muller", noise_is_box_muller },
        { "noise_is_normal", noise_is_normal },
        { "noise_differs_by_key", noise_differs_by_key },
        { "noise_bytes_stay", noise_bytes_stay },
        { "schedules_agree", schedules_agree },
        { "wan_unipc_numbers", wan_unipc_numbers },
        { "refuses_bad_schedules", refuses_bad_schedules },
        { "runs_agree", runs_agree },
        { "reset_forgets", reset_forgets },
        { "cancelled_steps_change_nothing", cancelled_steps_change_nothing },
        { "guided_runs_agree", guided_runs_agree },
        { "guided_runs_of_the_shipped_model", guided_runs_of_the_shipped_model },
    };
    return test_main("parity/sampler", cases, sizeof cases / sizeof *cases, argc, argv);
}
