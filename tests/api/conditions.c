/* SPDX-License-Identifier: MIT */

/* Jobs that are given pictures or latents to begin with or to keep: against the same by hand, against diffusers' pipelines
 * (the goldens of parity/conditions.c), and what is refused. */

#include <math.h>

#include "api.h"

#define LIMIT 1e-10
#define WIDTH 48
#define HEIGHT 32
#define FRAMES 9

typedef struct inputs {
    imagine_context *context;
    imagine_model *model;
    imagine_buffer *frames, *latents; /* a clip of 9, and encoded: [16, 3, 4, 6] */
    imagine_buffer *positive, *negative;
} inputs;

static imagine_buffer *golden(const inputs *in, const char *name)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *buffer = NULL;
    CHECK_OK(imagine_buffer_load(&buffer, in->context, test_path("parity/pipeline/conditions.safetensors"), name, &err));
    return buffer;
}

static imagine_buffer *encoded(const inputs *in, const imagine_buffer *frames)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_vae *vae;
    imagine_buffer *latents = NULL;
    CHECK_OK(imagine_vae_create(&vae, in->model, NULL, &err));
    CHECK_OK(imagine_vae_encode(vae, frames, &latents, &err));
    imagine_vae_destroy(&vae);
    return latents;
}

static int open_inputs(inputs *in, int32_t threads)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    *in = (inputs){ .context = open_context(threads, &err) };
    if (!in->context || imagine_model_open(&in->model, in->context, PACK, NULL, &err) < 0)
        return 0;
    in->frames = golden(in, "frames");
    in->positive = golden(in, "positive");
    in->negative = golden(in, "negative");
    in->latents = in->frames ? encoded(in, in->frames) : NULL;
    return in->latents && in->positive && in->negative;
}

static void close_inputs(inputs *in)
{
    imagine_buffer_release(&in->frames);
    imagine_buffer_release(&in->latents);
    imagine_buffer_release(&in->positive);
    imagine_buffer_release(&in->negative);
    imagine_model_release(&in->model);
    imagine_context_release(&in->context);
}

/* `count` of the clip's frames from `first`, each `times` times. */
static imagine_buffer *pictures(const inputs *in, int64_t first, int64_t count, int64_t times)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *some = NULL;
    size_t size = WIDTH * HEIGHT * 3;
    CHECK_OK(imagine_buffer_create(&some, in->context, IMAGINE_U8, 4, (int64_t[]){ count * times, HEIGHT, WIDTH, 3 }, &err));
    for (int64_t i = 0; some && i < count * times; i++)
        memcpy((char *)imagine_buffer_data(some) + (size_t)i * size,
               (char *)imagine_buffer_data(in->frames) + (size_t)(first + i / times) * size, size);
    return some;
}

typedef struct asked {
    imagine_sampler_options sampler;
    imagine_job_options job;
} asked;

static void ask(asked *a, const inputs *in)
{
    imagine_sampler_options_init(&a->sampler, sizeof a->sampler);
    a->sampler.width = WIDTH;
    a->sampler.height = HEIGHT;
    a->sampler.frames = FRAMES;
    a->sampler.steps = 4;
    a->sampler.guidance = 3.5;
    imagine_job_options_init(&a->job, sizeof a->job);
    a->job.sampler = &a->sampler;
    a->job.prompt_embeds = in->positive;
    a->job.negative_embeds = in->negative;
    a->job.decode = 0;
}

/* What the job ends with. */
static imagine_buffer *result(const inputs *in, const imagine_job_options *options)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_job *job;
    imagine_buffer *latents = NULL;
    imagine_status status = imagine_job_create(&job, in->model, options, &err);
    if (status >= 0)
        status = run_job(job, &err);
    if (status >= 0)
        status = imagine_job_get_latents(job, &latents, &err);
    CHECK_OK(status);
    imagine_job_destroy(&job);
    return latents;
}

/* Frames a.. of one and b.. of the other are the same, `count` of them. */
static int same_frames(const imagine_buffer *x, int64_t a, const imagine_buffer *y, int64_t b, int64_t count)
{
    imagine_buffer_info i = { .struct_size = sizeof i }, j = { .struct_size = sizeof j };
    if (imagine_buffer_get_info(x, &i, NULL) < 0 || imagine_buffer_get_info(y, &j, NULL) < 0)
        return 0;
    int64_t area = i.shape[2] * i.shape[3];
    for (int64_t c = 0; c < i.shape[0]; c++)
        if (memcmp((float *)i.data + (c * i.shape[1] + a) * area, (float *)j.data + (c * j.shape[1] + b) * area,
                   (size_t)(count * area) * sizeof(float)))
            return 0;
    return 1;
}

static void compare(const inputs *in, const imagine_buffer *latents, const char *name)
{
    imagine_buffer *there = golden(in, name);
    REQUIRE(latents && there && imagine_buffer_size(latents) == imagine_buffer_size(there));
    double error = test_nmse(imagine_buffer_data(latents), imagine_buffer_data(there),
                             imagine_buffer_size(there) / sizeof(float));
    printf("    %s: %.1e\n", name, error);
    CHECK(error <= LIMIT);
    imagine_buffer_release(&there);
}

/* Picture to video and video to video from pictures, beside diffusers' pipelines. */
static void parity_from_pictures(void)
{
    inputs in;
    asked a;
    REQUIRE(open_inputs(&in, 2));
    imagine_buffer *first = pictures(&in, 0, 1, 1), *noise = golden(&in, "noise"), *other = golden(&in, "video_noise");
    ask(&a, &in);
    a.sampler.steps = 6;
    a.sampler.known_mode = IMAGINE_KNOWN_CLEAN;
    a.sampler.width = a.sampler.height = 0; /* the picture's */
    a.job.first_frames = first;
    a.job.noise = noise;
    imagine_buffer *latents = result(&in, &a.job);
    compare(&in, latents, "picture_to_video");
    imagine_buffer_release(&latents);
    ask(&a, &in);
    a.sampler.steps = 8;
    a.sampler.strength = 0.6;
    a.sampler.width = a.sampler.height = a.sampler.frames = 0; /* the clip's */
    a.job.init_frames = in.frames;
    a.job.noise = other;
    latents = result(&in, &a.job);
    compare(&in, latents, "video_to_video");
    imagine_buffer_release(&latents);
    imagine_buffer_release(&first);
    imagine_buffer_release(&noise);
    imagine_buffer_release(&other);
    close_inputs(&in);
}

/* First frame, last frame, both, and the beginning of a clip: what is kept is what the VAE makes of the pictures. */
static void ends(void)
{
    inputs in;
    REQUIRE(open_inputs(&in, 2));
    imagine_buffer *first = pictures(&in, 0, 1, 1), *begun = pictures(&in, 0, 5, 1), *last = pictures(&in, 8, 1, 1),
                   *still = pictures(&in, 8, 1, 5);
    imagine_buffer *known = encoded(&in, begun), *held = encoded(&in, still);
    for (int what = 1; what < 6; what++)
        for (int32_t mode = IMAGINE_KNOWN_CLEAN; mode <= IMAGINE_KNOWN_RENOISED; mode++) {
            asked a;
            ask(&a, &in);
            a.sampler.known_mode = mode;
            a.job.first_frames = what == 1 || what == 3 ? first : what == 4 ? begun : NULL;
            a.job.last_frame = what == 2 || what == 3 ? last : NULL;
            imagine_buffer *latents = result(&in, &a.job);
            REQUIRE(latents);
            CHECK(same_frames(latents, 0, known, 0, 1) == (what == 1 || what == 3 || what == 4));
            CHECK(same_frames(latents, 1, known, 1, 1) == (what == 4));
            CHECK(same_frames(latents, 2, held, 1, 1) == (what == 2 || what == 3));
            imagine_buffer_release(&latents);
        }
    /* The same beginning as latents. */
    asked a, b;
    ask(&a, &in);
    ask(&b, &in);
    a.job.first_frames = begun;
    b.job.known_latents = known;
    imagine_buffer *x = result(&in, &a.job), *y = result(&in, &b.job);
    CHECK(same_bytes(x, y));
    imagine_buffer_release(&x);
    imagine_buffer_release(&y);
    imagine_buffer_release(&first);
    imagine_buffer_release(&begun);
    imagine_buffer_release(&last);
    imagine_buffer_release(&still);
    imagine_buffer_release(&known);
    imagine_buffer_release(&held);
    close_inputs(&in);
}

/* One bright pixel makes its latent anew, in the latent frame that its frame belongs to; all else stays to the bit. */
static void mask_one(const inputs *in, int64_t count, int64_t channels, int64_t frame, int64_t y, int64_t x)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    asked a;
    imagine_buffer *mask;
    REQUIRE_OK(imagine_buffer_create(&mask, in->context, IMAGINE_U8, 4, (int64_t[]){ count, HEIGHT, WIDTH, channels }, &err));
    uint8_t *pixels = imagine_buffer_data(mask);
    memset(pixels, 127, imagine_buffer_size(mask));
    pixels[((frame * HEIGHT + y) * WIDTH + x) * channels + channels - 1] = 128;
    ask(&a, in);
    a.sampler.steps = 2;
    a.job.init_latents = in->latents;
    a.job.mask_frames = mask;
    imagine_buffer *latents = result(in, &a.job);
    REQUIRE(latents);
    const float *now = imagine_buffer_data(latents), *before = imagine_buffer_data(in->latents);
    size_t wrong = 0;
    for (int64_t i = 0; i < 16 * 3 * 24; i++) { /* [16, 3, 4, 6] */
        int anew = i % 24 == y / 8 * 6 + x / 8 && (count == 1 || i / 24 % 3 == (frame + 3) / 4);
        wrong += (now[i] == before[i]) == anew;
    }
    CHECK(wrong == 0);
    if (wrong)
        fprintf(stderr, "    frame %d of %d, row %d, column %d\n", (int)frame, (int)count, (int)y, (int)x);
    imagine_buffer_release(&latents);
    imagine_buffer_release(&mask);
}

static void masked(void)
{
    /* Inside, and at the edges of a latent and of the picture. */
    static const int64_t places[][3] = { { 5, 17, 30 }, { 0, 0, 0 }, { 8, HEIGHT - 1, WIDTH - 1 }, { 4, 7, 41 }, { 1, 24, 39 } };
    inputs in;
    REQUIRE(open_inputs(&in, 2));
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        for (int64_t channels = 1; channels <= 3; channels += 2) {
            mask_one(&in, FRAMES, channels, places[i][0], places[i][1], places[i][2]);
            mask_one(&in, 1, channels, 0, places[i][1], places[i][2]);
        }
    close_inputs(&in);
}

/* With the VAE at hand the mask is what a job reads first: it ends there once its token has fired. */
static void mask_cancelled(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    inputs in;
    asked a;
    imagine_vae *vae;
    imagine_buffer *mask;
    imagine_job *job;
    REQUIRE(open_inputs(&in, 1));
    REQUIRE_OK(imagine_vae_create(&vae, in.model, NULL, &err));
    REQUIRE_OK(imagine_buffer_create(&mask, in.context, IMAGINE_U8, 4, (int64_t[]){ 1, HEIGHT, WIDTH, 1 }, &err));
    ask(&a, &in);
    a.job.init_latents = in.latents;
    a.job.mask_frames = mask;
    REQUIRE_OK(imagine_cancel_create(&a.job.cancel, in.context, &err));
    imagine_cancel_fire(a.job.cancel);
    REQUIRE_OK(imagine_job_create(&job, in.model, &a.job, &err));
    CHECK_STATUS(run_job(job, &err), IMAGINE_ERROR_CANCELLED);
    CHECK(strstr(err.message, "while the mask was read"));
    imagine_job_destroy(&job);
    imagine_cancel_release(&a.job.cancel);
    imagine_buffer_release(&mask);
    imagine_vae_destroy(&vae);
    close_inputs(&in);
}

/* Pictures are encoded from where they are: 48 more take no more memory than their latents and the mask of these. */
static void pictures_are_not_copied(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_estimate told = { .struct_size = sizeof told };
    uint64_t work[2];
    inputs in;
    asked a;
    REQUIRE(open_inputs(&in, 1));
    for (int i = 0; i < 2; i++) {
        imagine_buffer *frames;
        REQUIRE_OK(imagine_buffer_create(&frames, in.context, IMAGINE_U8, 4, (int64_t[]){ i ? 97 : 49, 64, 64, 3 }, &err));
        ask(&a, &in);
        a.sampler.width = a.sampler.height = a.sampler.frames = 0;
        a.job.init_frames = frames;
        REQUIRE_OK(imagine_job_estimate(in.model, &a.job, &told, &err));
        work[i] = told.stage_work[IMAGINE_JOB_ENCODE];
        imagine_buffer_release(&frames);
    }
    CHECK(work[0] > 0 && work[1] - work[0] < 48 * 64 * 64 * 3 / 2);
    close_inputs(&in);
}

/* A side that the caller leaves open is the pictures', or the latents', also where the other one is given. */
static void sides_left_open(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    inputs in;
    imagine_buffer *tall;
    REQUIRE(open_inputs(&in, 1)); /* whose pack makes 32x32 */
    REQUIRE_OK(imagine_buffer_create(&tall, in.context, IMAGINE_U8, 4, (int64_t[]){ 1, 80, 64, 3 }, &err));
    for (int what = 0; what < 3; what++)
        for (int given = 0; given < 4; given++) {
            asked a;
            imagine_estimate told = { .struct_size = sizeof told };
            ask(&a, &in);
            a.job.first_frames = what == 0 ? tall : NULL;
            a.job.last_frame = what == 1 ? tall : NULL;
            a.job.init_latents = what == 2 ? in.latents : NULL;
            int32_t width = what == 2 ? WIDTH : 64, height = what == 2 ? HEIGHT : 80;
            a.sampler.width = given & 1 ? width : 0;
            a.sampler.height = given & 2 ? height : 0;
            CHECK_OK(imagine_job_estimate(in.model, &a.job, &told, &err));
            CHECK(told.width == width && told.height == height);
        }
    imagine_buffer_release(&tall);
    close_inputs(&in);
}

/* A schedule may end above 0: the known latents come out as they went in all the same. */
static void known_at_the_end(void)
{
    static const double sigmas[] = { 1, 0.6, 0.3 };
    inputs in;
    REQUIRE(open_inputs(&in, 1));
    imagine_buffer *first = pictures(&in, 0, 1, 1), *known = encoded(&in, first);
    for (int32_t mode = IMAGINE_KNOWN_CLEAN; mode <= IMAGINE_KNOWN_RENOISED; mode++) {
        asked a;
        ask(&a, &in);
        a.sampler.steps = 0;
        a.sampler.schedule = IMAGINE_SCHEDULE_SIGMAS;
        a.sampler.sigmas = sigmas;
        a.sampler.sigma_count = 3;
        a.sampler.known_mode = mode;
        a.job.known_latents = known;
        imagine_buffer *latents = result(&in, &a.job);
        CHECK(latents && same_frames(latents, 0, known, 0, 1));
        imagine_buffer_release(&latents);
    }
    imagine_buffer_release(&first);
    imagine_buffer_release(&known);
    close_inputs(&in);
}

/* Frames left open are those of the latents to begin with, and no matter of the first frames or the last. */
static void frames_left_open(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    inputs in;
    REQUIRE(open_inputs(&in, 1)); /* whose pack makes 5 frames */
    imagine_buffer *one = pictures(&in, 0, 1, 1);
    for (int ends = 0; ends < 4; ends++) {
        asked a;
        imagine_estimate told = { .struct_size = sizeof told };
        ask(&a, &in);
        a.sampler.frames = 0;
        a.job.init_latents = in.latents;
        a.job.first_frames = ends & 1 ? one : NULL;
        a.job.last_frame = ends & 2 ? one : NULL;
        CHECK_OK(imagine_job_estimate(in.model, &a.job, &told, &err));
        CHECK(told.frames == FRAMES);
        imagine_buffer *latents = result(&in, &a.job);
        imagine_buffer_release(&latents);
    }
    imagine_buffer_release(&one);
    close_inputs(&in);
}

/* A mask, a first frame and strength together, for any number of threads; decoded as well. */
static void all_together(void)
{
    static const int32_t threads[] = { 1, 2, 7 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *expected = NULL;
    for (int t = 0; t < 3; t++) {
        inputs in;
        asked a;
        imagine_buffer *mask;
        imagine_estimate told = { .struct_size = sizeof told };
        REQUIRE(open_inputs(&in, threads[t]));
        imagine_buffer *first = pictures(&in, 3, 1, 1), *kept = encoded(&in, first);
        REQUIRE_OK(imagine_buffer_create(&mask, in.context, IMAGINE_U8, 3, (int64_t[]){ HEIGHT, WIDTH, 1 }, &err));
        memset(imagine_buffer_data(mask), 255, WIDTH * HEIGHT / 2);
        ask(&a, &in);
        a.sampler.strength = 0.8;
        a.job.init_frames = in.frames;
        a.job.mask_frames = mask;
        a.job.first_frames = first;
        a.job.decode = 1;
        REQUIRE_OK(imagine_job_estimate(in.model, &a.job, &told, &err));
        CHECK(told.stage_peak[IMAGINE_JOB_ENCODE] > 0 && told.steps == 3);
        imagine_buffer *latents = result(&in, &a.job);
        CHECK(same_frames(latents, 0, kept, 0, 1));
        CHECK(!expected || same_bytes(expected, latents));
        if (!expected)
            expected = imagine_buffer_retain(latents);
        imagine_buffer_release(&latents);
        imagine_buffer_release(&first);
        imagine_buffer_release(&kept);
        imagine_buffer_release(&mask);
        close_inputs(&in);
    }
    imagine_buffer_release(&expected);
}

/* Steps and stages are told as they are run. */
static void told(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    inputs in;
    asked a;
    imagine_job *job;
    imagine_event event = { .struct_size = sizeof event };
    imagine_job_info info = { .struct_size = sizeof info };
    REQUIRE(open_inputs(&in, 1));
    ask(&a, &in);
    a.sampler.strength = 0.5;
    a.job.init_frames = in.frames;
    REQUIRE_OK(imagine_job_create(&job, in.model, &a.job, &err));
    do
        REQUIRE_OK(imagine_job_next(job, &event, -1, &err));
    while (event.kind != IMAGINE_EVENT_DONE);
    REQUIRE_OK(imagine_job_get_info(job, &info, &err));
    CHECK(info.steps == 2 && event.steps == 2);
    CHECK(info.seconds[IMAGINE_JOB_ENCODE] > 0 && info.seconds[IMAGINE_JOB_TEXT] == 0);
    imagine_job_destroy(&job);
    close_inputs(&in);
}

static void refused(const inputs *in, const asked *a, const char *message)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_job *job;
    CHECK_STATUS(imagine_job_create(&job, in->model, &a->job, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, message));
}

static void refusals(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    inputs in;
    imagine_buffer *small, *two, *flat;
    REQUIRE(open_inputs(&in, 1));
    REQUIRE_OK(imagine_buffer_create(&flat, in.context, IMAGINE_F32, 3, (int64_t[]){ 3, 4, 6 }, &err));
    imagine_buffer *first = pictures(&in, 0, 1, 1), *begun = pictures(&in, 0, 5, 1);
    REQUIRE_OK(imagine_buffer_create(&small, in.context, IMAGINE_U8, 4, (int64_t[]){ 1, 32, 32, 3 }, &err));
    REQUIRE_OK(imagine_buffer_create(&two, in.context, IMAGINE_U8, 4, (int64_t[]){ 2, HEIGHT, WIDTH, 3 }, &err));
    asked a;
#define REFUSED(change, message)    \
    do {                            \
        ask(&a, &in);               \
        change;                     \
        refused(&in, &a, message);  \
    } while (0)
    REFUSED(a.job.first_frames = small, "first_frames: 32x32 pixels, but the clip is 48x32");
    REFUSED(a.job.first_frames = in.latents, "first_frames: is f32 [16, 3, 4, 6], must be u8");
    REFUSED(a.job.first_frames = two, "the nearest are 1 and 5");
    REFUSED(a.job.first_frames = in.frames, "nothing of the clip is left");
    REFUSED((a.job.first_frames = first, a.job.last_frame = first, a.sampler.frames = 5), "nothing of the clip is left");
    REFUSED((a.job.last_frame = first, a.sampler.frames = 1), "nothing of the clip is left");
    REFUSED(a.job.last_frame = begun, "last_frame: 5 frames, must be 1");
    REFUSED(a.job.init_frames = begun, "init_frames: 5 frames, but the clip has 9");
    REFUSED((a.job.init_frames = in.frames, a.job.init_latents = in.latents), "not both");
    REFUSED(a.sampler.strength = 0.5, "neither init_frames nor init_latents");
    REFUSED(a.job.mask_frames = first, "mask_frames: there are neither");
    REFUSED((a.job.mask_frames = two, a.job.init_frames = in.frames), "mask_frames: 2 frames, must be 1 or 9");
    REFUSED((a.job.known_latents = in.latents, a.job.first_frames = first), "not both");
    REFUSED(a.job.known_mask = in.latents, "known_mask: there are no known_latents");
    REFUSED(a.job.known_latents = first, "known_latents: is u8");
    REFUSED((a.job.init_latents = in.latents, a.sampler.frames = 5), "init_latents: is f32 [16, 3, 4, 6], must be f32 [16, 2, 4, 6]");
    REFUSED((a.job.init_latents = in.latents, a.sampler.width = 32), "must be f32 [16, 3, 4, 4]");
    REFUSED(a.job.init_latents = flat, "init_latents: is f32 [3, 4, 6]");
    REFUSED((a.job.known_latents = in.latents, a.sampler.frames = 5), "must be f32 [16, 2, 4, 6] or have fewer frames");
    REFUSED((a.job.known_latents = in.latents, a.job.known_mask = in.latents, a.sampler.frames = 5), "must be f32 [16, 2, 4, 6]");
    REFUSED((a.job.known_latents = in.latents, a.job.known_mask = in.latents),
            "known mask: is f32 [16, 3, 4, 6], must be f32 [3] or [3, 4, 6]");
    REFUSED((a.job.latents = in.latents, a.job.first_frames = first), "finished ones are only decoded");
#undef REFUSED
    imagine_buffer_release(&first);
    imagine_buffer_release(&begun);
    imagine_buffer_release(&small);
    imagine_buffer_release(&flat);
    imagine_buffer_release(&two);
    close_inputs(&in);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "parity from pictures", parity_from_pictures },
        { "ends", ends },
        { "masked", masked },
        { "mask cancelled", mask_cancelled }, { "pictures are not copied", pictures_are_not_copied },
        { "sides left open", sides_left_open },
        { "frames left open", frames_left_open },
        { "known at the end", known_at_the_end },
        { "all together", all_together },
        { "told", told },
        { "refusals", refusals },
    };
    return test_main("api/conditions", cases, sizeof cases / sizeof *cases, argc, argv);
}
