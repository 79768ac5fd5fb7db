/* SPDX-License-Identifier: MIT */

/* What promises the same bytes gives the same bytes. */

#include "api.h"

static imagine_sampler_options sampler_defaults(uint64_t seed)
{
    imagine_sampler_options options;
    imagine_sampler_options_init(&options, sizeof options);
    options.seed = seed;
    options.width = 48;
    return options;
}

static void threads(void)
{
    static const int32_t counts[] = { 1, 2, 7 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *latents[3], *frames[3];
    for (int i = 0; i < 3; i++) {
        imagine_model *model = open_model(counts[i], &err);
        imagine_sampler_options options = sampler_defaults(5);
        imagine_vae *vae;
        REQUIRE(model);
        latents[i] = job_latents(model, "a dog", &options, &err);
        REQUIRE(latents[i]);
        REQUIRE_OK(imagine_vae_create(&vae, model, NULL, &err));
        REQUIRE_OK(imagine_vae_decode(vae, latents[i], IMAGINE_U8, &frames[i], &err));
        imagine_vae_destroy(&vae);
        imagine_model_release(&model);
    }
    CHECK(same_bytes(latents[0], latents[1]) && same_bytes(latents[0], latents[2]));
    CHECK(same_bytes(frames[0], frames[1]) && same_bytes(frames[0], frames[2]));
    for (int i = 0; i < 3; i++) {
        imagine_buffer_release(&latents[i]);
        imagine_buffer_release(&frames[i]);
    }
}

static void seeds_and_prompts(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(2, &err);
    REQUIRE(model);
    imagine_sampler_options five = sampler_defaults(5), six = sampler_defaults(6);
    imagine_buffer *a = job_latents(model, "a dog", &five, &err), *b = job_latents(model, "a dog", &five, &err),
                   *c = job_latents(model, "a dog", &six, &err), *d = job_latents(model, "a house", &five, &err);
    CHECK(same_bytes(a, b));
    CHECK(a && c && d && !same_bytes(a, c) && !same_bytes(a, d) && !same_bytes(c, d));
    imagine_buffer_release(&a);
    imagine_buffer_release(&b);
    imagine_buffer_release(&c);
    imagine_buffer_release(&d);
    imagine_model_release(&model);
}

static void guidance_modes(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(2, &err);
    REQUIRE(model);
    imagine_sampler_options batched = sampler_defaults(1), in_turn = sampler_defaults(1), none = sampler_defaults(1);
    batched.cfg_mode = IMAGINE_CFG_BATCHED;
    in_turn.cfg_mode = IMAGINE_CFG_IN_TURN;
    none.guidance = 1;
    imagine_buffer *a = job_latents(model, "a dog", &batched, &err), *b = job_latents(model, "a dog", &in_turn, &err),
                   *c = job_latents(model, "a dog", &none, &err);
    CHECK(same_bytes(a, b));
    CHECK(a && c && !same_bytes(a, c));
    imagine_buffer_release(&a);
    imagine_buffer_release(&b);
    imagine_buffer_release(&c);
    imagine_model_release(&model);
}

/* A sampler by hand: `batch` clips with the same text. */
static imagine_sampler *sample(imagine_model *model, int32_t batch, uint64_t seed, const imagine_buffer *noise,
                               imagine_error *error)
{
    imagine_sampler_options options = sampler_defaults(seed);
    imagine_sampler *sampler = NULL;
    imagine_text *text = NULL;
    imagine_buffer *positive = NULL, *negative = NULL;
    options.batch = batch;
    imagine_status status = imagine_text_create(&text, model, NULL, error);
    if (status >= 0)
        status = imagine_text_encode(text, "a dog", NULL, &positive, error);
    if (status >= 0)
        status = imagine_text_encode(text, "", NULL, &negative, error);
    if (status >= 0)
        status = imagine_sampler_create(&sampler, model, &options, error);
    if (status >= 0)
        status = imagine_sampler_set_text(sampler, positive, negative, error);
    if (status >= 0)
        status = imagine_sampler_begin(sampler, noise, error);
    for (int i = 0; i < 4 && status >= 0; i++)
        status = imagine_sampler_step(sampler, NULL, error);
    imagine_text_destroy(&text);
    imagine_buffer_release(&positive);
    imagine_buffer_release(&negative);
    if (status < 0)
        imagine_sampler_destroy(&sampler);
    return sampler;
}

static void batches(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(2, &err);
    imagine_buffer *clip, *alone;
    REQUIRE(model);
    imagine_sampler *both = sample(model, 2, 8, NULL, &err);
    REQUIRE(both);
    for (int32_t b = 0; b < 2; b++) {
        imagine_sampler *one = sample(model, 1, 8 + (uint64_t)b, NULL, &err);
        REQUIRE(one);
        REQUIRE_OK(imagine_sampler_get_latents(both, b, &clip, &err));
        REQUIRE_OK(imagine_sampler_get_latents(one, 0, &alone, &err));
        CHECK(same_bytes(clip, alone));
        imagine_buffer_release(&clip);
        imagine_buffer_release(&alone);
        imagine_sampler_destroy(&one);
    }
    CHECK_STATUS(imagine_sampler_get_latents(both, 2, &clip, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    imagine_sampler_destroy(&both);
    imagine_model_release(&model);
}

/* The caller's noise, and a job beside the same steps by hand. */
static void by_hand(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(2, &err);
    imagine_sampler_options options = sampler_defaults(3);
    imagine_sampler *sampler;
    imagine_buffer *noise, *hand;
    REQUIRE(model);
    REQUIRE_OK(imagine_sampler_create(&sampler, model, &options, &err));
    REQUIRE_OK(imagine_sampler_begin(sampler, NULL, &err));
    REQUIRE_OK(imagine_sampler_get_latents(sampler, 0, &noise, &err)); /* before the first step: the seed's noise */
    double sigmas[5], fewer[2] = { 7, 7 };
    CHECK(imagine_sampler_get_sigmas(sampler, sigmas, 5) == 5 && sigmas[0] > 0.99 && sigmas[4] == 0);
    CHECK(imagine_sampler_get_sigmas(sampler, fewer, 1) == 5 && fewer[0] == sigmas[0] && fewer[1] == 7);
    imagine_sampler_destroy(&sampler);
    sampler = sample(model, 1, 999, noise, &err);
    REQUIRE(sampler);
    REQUIRE_OK(imagine_sampler_get_latents(sampler, 0, &hand, &err));
    imagine_buffer *job = job_latents(model, "a dog", &options, &err);
    CHECK(same_bytes(job, hand));
    imagine_buffer *estimate;
    REQUIRE_OK(imagine_sampler_get_estimate(sampler, 0, &estimate, &err));
    CHECK(imagine_buffer_size(estimate) == imagine_buffer_size(hand));
    CHECK_STATUS(imagine_sampler_step(sampler, NULL, &err), IMAGINE_ERROR_STATE);
    imagine_sampler_destroy(&sampler);
    imagine_buffer_release(&estimate);
    imagine_buffer_release(&noise);
    imagine_buffer_release(&hand);
    imagine_buffer_release(&job);
    imagine_model_release(&model);
}

/* A clip decoded in pieces is the clip decoded at once; u8 is f32 rounded. */
static void decoding(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(2, &err);
    imagine_context *context = open_context(1, &err);
    imagine_buffer *latents, *whole, *floats, *back;
    imagine_vae *vae;
    enum { FRAMES = 3, AREA = 4 * 6 };
    REQUIRE(model && context);
    REQUIRE_OK(imagine_buffer_create(&latents, context, IMAGINE_F32, 4, (int64_t[]){ 16, FRAMES, 4, 6 }, &err));
    float *values = imagine_buffer_data(latents);
    for (int i = 0; i < 16 * FRAMES * AREA; i++)
        values[i] = (float)(i * 7919 % 2000) / 1000 - 1;
    REQUIRE_OK(imagine_vae_create(&vae, model, NULL, &err));
    REQUIRE_OK(imagine_vae_decode(vae, latents, IMAGINE_U8, &whole, &err));
    REQUIRE_OK(imagine_vae_decode(vae, latents, IMAGINE_F32, &floats, &err));
    const uint8_t *bytes = imagine_buffer_data(whole);
    const float *planes = imagine_buffer_data(floats);
    REQUIRE(imagine_buffer_size(whole) == 9 * AREA * 64 * 3 && imagine_buffer_size(floats) == 4 * 9 * AREA * 64 * 3);
    size_t pixels = AREA * 64, at = 0, wrong = 0;
    for (size_t f = 0; f < 9; f++)
        for (size_t i = 0; i < pixels; i++)
            for (size_t c = 0; c < 3; c++) {
                float x = planes[(c * 9 + f) * pixels + i];
                wrong += x < -1 || x > 1 || __builtin_fabsf((x + 1) * 127.5f - bytes[(f * pixels + i) * 3 + c]) > 0.501f;
            }
    CHECK(wrong == 0);
    for (int64_t k = 0; k < FRAMES; k++) {
        imagine_buffer *piece, *out;
        REQUIRE_OK(imagine_buffer_create(&piece, context, IMAGINE_F32, 4, (int64_t[]){ 16, 1, 4, 6 }, &err));
        for (int c = 0; c < 16; c++)
            memcpy((float *)imagine_buffer_data(piece) + c * AREA, values + (c * FRAMES + k) * AREA, AREA * sizeof *values);
        REQUIRE_OK(imagine_vae_decode_next(vae, piece, IMAGINE_U8, &out, &err));
        REQUIRE(at + imagine_buffer_size(out) <= imagine_buffer_size(whole));
        CHECK(!memcmp(bytes + at, imagine_buffer_data(out), imagine_buffer_size(out)));
        at += imagine_buffer_size(out);
        imagine_buffer_release(&piece);
        imagine_buffer_release(&out);
    }
    CHECK(at == imagine_buffer_size(whole));
    imagine_vae_reset(vae);
    REQUIRE_OK(imagine_vae_encode(vae, floats, &back, &err));
    CHECK(imagine_buffer_size(back) == imagine_buffer_size(latents));
    imagine_buffer_release(&back);
    imagine_buffer_release(&floats);
    imagine_buffer_release(&whole);
    imagine_buffer_release(&latents);
    imagine_vae_destroy(&vae);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* The frames of a job on finished latents, joined; *pieces: the events that they came in. */
static size_t decode_job(imagine_model *model, imagine_buffer *latents, int32_t width, int32_t height, uint8_t *out,
                         size_t room, int *pieces)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_event event = { .struct_size = sizeof event };
    imagine_job_options options;
    imagine_job *job = NULL;
    size_t at = 0;
    imagine_job_options_init(&options, sizeof options);
    options.latents = latents;
    options.tile_width = width;
    options.tile_height = height;
    CHECK_OK(imagine_job_create(&job, model, &options, &err));
    *pieces = 0;
    while (job && imagine_job_next(job, &event, -1, &err) >= 0 && event.kind != IMAGINE_EVENT_DONE) {
        if (event.kind != IMAGINE_EVENT_FRAMES || at + imagine_buffer_size(event.frames) > room)
            continue;
        memcpy(out + at, imagine_buffer_data(event.frames), imagine_buffer_size(event.frames));
        at += imagine_buffer_size(event.frames);
        ++*pieces;
    }
    imagine_job_destroy(&job);
    return at;
}

/* A job in tiles gives the clip at once, with the same bytes. */
static void tiles(void)
{
    enum { SIZE = 9 * 32 * 48 * 3 };
    static const int32_t sizes[][2] = { { 8, 16 }, { 0, 24 }, { 16, -1 }, { -1, -1 }, { -1, 0 } };
    static uint8_t whole[SIZE], tiled[SIZE];
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(2, &err);
    imagine_context *context = open_context(1, &err);
    imagine_buffer *latents;
    imagine_job *job;
    imagine_job_options options;
    int pieces;
    REQUIRE(model && context);
    REQUIRE_OK(imagine_buffer_create(&latents, context, IMAGINE_F32, 4, (int64_t[]){ 16, 3, 4, 6 }, &err));
    for (int i = 0; i < 16 * 3 * 24; i++)
        ((float *)imagine_buffer_data(latents))[i] = (float)(i * 7919 % 2000) / 1000 - 1;
    CHECK(decode_job(model, latents, 0, 0, whole, SIZE, &pieces) == SIZE && pieces == 3);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        CHECK(decode_job(model, latents, sizes[i][0], sizes[i][1], tiled, SIZE, &pieces) == SIZE);
        CHECK(pieces == (sizes[i][0] > 0 || sizes[i][1] > 0 ? 1 : 3));
        CHECK(!memcmp(whole, tiled, SIZE));
    }
    imagine_job_options_init(&options, sizeof options);
    options.tile_height = -2;
    CHECK_STATUS(imagine_job_create(&job, model, &options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(!job && strstr(err.message, "tile_height: -2"));
    imagine_buffer_release(&latents);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "threads", threads }, { "seeds and prompts", seeds_and_prompts }, { "guidance modes", guidance_modes },
        { "batches", batches }, { "by hand", by_hand },                     { "decoding", decoding },
        { "tiles", tiles },
    };
    return test_main("api/same", cases, sizeof cases / sizeof cases[0], argc, argv);
}
