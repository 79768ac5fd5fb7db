/* SPDX-License-Identifier: MIT */

/* What imagine_job_estimate tells against what jobs use. */

#include <sys/resource.h>
#include <time.h>

#include "sized.h"

/* Large enough that a job's weights and activations outweigh everything else, small enough to run in a second. */
static const sized_pack middling = {
    .heads = 4, .head_dim = 64, .ffn = 1024, .layers = 4, .text_dim = 256, .text_ffn = 512, .text_heads = 4,
    .text_layers = 3, .vocabulary = 2048, .vae_dim = 32, .vae_blocks = 1, .text_length = 64, .width = 64, .height = 64,
    .frames = 9, .steps = 3,
};

static const sized_pack wan_14b = {
    .heads = 40, .head_dim = 128, .ffn = 13824, .layers = 40, .text_dim = 4096, .text_ffn = 10240, .text_heads = 64,
    .text_layers = 24, .vocabulary = 256384, .vae_dim = 96, .vae_blocks = 2, .text_length = 512, .width = 832,
    .height = 480, .frames = 81, .steps = 50, .holes = 1,
};

typedef struct configuration {
    const char *name;
    int32_t width, height, frames, steps;
    double guidance;
    imagine_cfg_mode cfg_mode;
    imagine_step_rule step_rule;
    int previews, only_latents;
} configuration;

static const configuration configurations[] = {
    { "a picture", 128, 128, 1, 2, 5, IMAGINE_CFG_AUTO, 0, 0, 0 },
    { "a clip", 64, 64, 9, 3, 5, IMAGINE_CFG_BATCHED, 0, 0, 0 },
    { "guidance in turn", 96, 64, 9, 3, 5, IMAGINE_CFG_IN_TURN, 0, 0, 0 },
    { "no guidance, previews", 64, 96, 5, 4, 1, IMAGINE_CFG_AUTO, IMAGINE_STEP_EULER, 1, 0 },
    { "latents only", 160, 160, 5, 2, 3, IMAGINE_CFG_BATCHED, 0, 0, 1 },
};

static void set_options(const configuration *c, imagine_sampler_options *sampler, imagine_job_options *options)
{
    imagine_sampler_options_init(sampler, sizeof *sampler);
    sampler->width = c->width;
    sampler->height = c->height;
    sampler->frames = c->frames;
    sampler->steps = c->steps;
    sampler->guidance = c->guidance;
    sampler->cfg_mode = c->cfg_mode;
    sampler->step_rule = c->step_rule;
    imagine_job_options_init(options, sizeof *options);
    options->prompt = "a red apple and a yellow car moving to the right with a blue background and a green house on the left";
    options->sampler = sampler;
    options->decode = !c->only_latents;
    if (c->previews)
        options->events |= IMAGINE_EVENT_BIT(IMAGINE_EVENT_PREVIEW);
}

/* What the estimate tells must be what the job then uses, and no less; at most 3% more. */
static void compare(imagine_model *model, const configuration *c)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_estimate told = { .struct_size = sizeof told };
    imagine_job_info used = { .struct_size = sizeof used };
    imagine_job *job;
    set_options(c, &sampler, &options);
    REQUIRE_OK(imagine_job_estimate(model, &options, &told, &err));
    REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
    CHECK_OK(run_job(job, &err));
    CHECK_OK(imagine_job_get_info(job, &used, &err));
    imagine_job_destroy(&job);
    double ratio = (double)told.peak_bytes / (double)used.memory_peak;
    printf("    %-24s told %9llu, used %9llu (%+.2f%%), text %llu, sampler %llu, decode %llu\n", c->name,
           (unsigned long long)told.peak_bytes, (unsigned long long)used.memory_peak, 100 * (ratio - 1),
           (unsigned long long)told.stage_peak[IMAGINE_JOB_TEXT], (unsigned long long)told.stage_peak[IMAGINE_JOB_SAMPLE],
           (unsigned long long)told.stage_peak[IMAGINE_JOB_DECODE]);
    CHECK(ratio >= 1 && ratio <= 1.03);
    CHECK(told.width == c->width && told.height == c->height && told.frames == c->frames && told.steps == c->steps);
    CHECK(told.fits && !told.limit_bytes && told.held_bytes < told.peak_bytes);
    CHECK(!told.stage_peak[IMAGINE_JOB_LOAD] && (told.stage_peak[IMAGINE_JOB_DECODE] == 0) == c->only_latents);
    CHECK(told.stage_weights[IMAGINE_JOB_TEXT] && told.stage_weights[IMAGINE_JOB_SAMPLE]);
}

static void told_and_used(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    char path[512];
    REQUIRE(sized_make(&middling, path));
    for (size_t i = 0; i < sizeof configurations / sizeof *configurations; i++) {
        imagine_context *context = open_context(1, &err);
        imagine_model *model = NULL;
        CHECK_OK(imagine_model_open(&model, context, path, NULL, &err));
        imagine_context_release(&context);
        if (model)
            compare(model, &configurations[i]);
        imagine_model_release(&model);
    }
    sized_remove(path);
}

/* Prompts of half a megabyte, of which only the first tokens count, take more than the rest of a small job. */
static void long_prompts(void)
{
    static const char *const words[] = { "a dog ", "x", "\xe8\xb5\xa4\xe3\x81\x84\xe7\x8a\xac", "\xef\xb7\xba" };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(1, &err);
    char *prompt = malloc(1 << 19);
    REQUIRE(model && prompt);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t size = 0, length = strlen(words[i]);
        for (; size + length < 1 << 19; size += length)
            memcpy(prompt + size, words[i], length + 1);
        imagine_job_options options;
        imagine_estimate told = { .struct_size = sizeof told };
        imagine_job_info used = { .struct_size = sizeof used };
        imagine_job *job;
        imagine_job_options_init(&options, sizeof options);
        options.prompt = prompt;
        REQUIRE_OK(imagine_job_estimate(model, &options, &told, &err));
        REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
        CHECK_OK(run_job(job, &err));
        CHECK_OK(imagine_job_get_info(job, &used, &err));
        imagine_job_destroy(&job);
        printf("    told %llu, used %llu\n", (unsigned long long)told.peak_bytes, (unsigned long long)used.memory_peak);
        CHECK(told.peak_bytes >= used.memory_peak && used.memory_peak > 1 << 23);
    }
    free(prompt);
    imagine_model_release(&model);
}

/* On one model after another: the weights that are there are not counted twice. */
static void told_again(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(2, &err);
    imagine_model *model = NULL;
    char path[512];
    REQUIRE(sized_make(&middling, path));
    CHECK_OK(imagine_model_open(&model, context, path, NULL, &err));
    imagine_context_release(&context);
    for (size_t i = 0; model && i < sizeof configurations / sizeof *configurations; i++)
        compare(model, &configurations[i]);
    imagine_model_release(&model);
    sized_remove(path);
}

/* What stages take apart from their weights does not depend on whether those are there already. */
static void told_with_weights_or_without(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_model *model = NULL;
    imagine_job_options options;
    imagine_sampler_options sampler;
    imagine_job *job = NULL;
    imagine_estimate first = { .struct_size = sizeof first }, again = first;
    char path[512];
    REQUIRE(sized_make(&middling, path));
    CHECK_OK(imagine_model_open(&model, context, path, NULL, &err));
    imagine_context_release(&context);
    set_options(&configurations[1], &sampler, &options);
    CHECK_OK(imagine_job_estimate(model, &options, &first, &err));
    CHECK_OK(imagine_job_create(&job, model, &options, &err));
    CHECK_OK(run_job(job, &err));
    imagine_job_destroy(&job);
    CHECK_OK(imagine_job_estimate(model, &options, &again, &err));
    for (int stage = IMAGINE_JOB_TEXT; stage <= IMAGINE_JOB_DECODE; stage++) {
        double ratio = (double)again.stage_work[stage] / (double)first.stage_work[stage];
        printf("    stage %d: work %llu, then %llu (%+.2f%%)\n", stage, (unsigned long long)first.stage_work[stage],
               (unsigned long long)again.stage_work[stage], 100 * (ratio - 1));
        CHECK(ratio > 0.95 && ratio < 1.05); /* but for the tokenizer and such */
        CHECK(first.stage_weights[stage] == again.stage_weights[stage]);
    }
    imagine_model_release(&model);
    sized_remove(path);
}

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static long resident_kilobytes(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

/* 68 GB of weights that are not even on the disk: told at once, with next to no memory. */
static void large_model(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_context_info before = { .struct_size = sizeof before }, after = before;
    imagine_estimate told = { .struct_size = sizeof told };
    imagine_model *model = NULL;
    char path[512];
    REQUIRE(sized_make(&wan_14b, path));
    CHECK_OK(imagine_model_open(&model, context, path, NULL, &err));
    CHECK_OK(imagine_context_get_info(context, &before, &err));
    imagine_context_reset_peak(context);
    long resident = resident_kilobytes();
    double begin = cpu_seconds();
    CHECK_OK(imagine_job_estimate(model, NULL, &told, &err));
    double spent = cpu_seconds() - begin;
    CHECK_OK(imagine_context_get_info(context, &after, &err));
    printf("    Wan 2.1 14B, 832x480x81: %.2f GB (text %.2f, sampler %.2f, decode %.2f), told in %.1f ms\n",
           (double)told.peak_bytes / 1e9, (double)told.stage_peak[IMAGINE_JOB_TEXT] / 1e9,
           (double)told.stage_peak[IMAGINE_JOB_SAMPLE] / 1e9, (double)told.stage_peak[IMAGINE_JOB_DECODE] / 1e9, 1e3 * spent);
    CHECK(told.stage_weights[IMAGINE_JOB_SAMPLE] > 28ull * 1000000000 && told.stage_weights[IMAGINE_JOB_TEXT] > 11e9);
    CHECK(told.peak_bytes > told.stage_weights[IMAGINE_JOB_TEXT] + told.stage_weights[IMAGINE_JOB_SAMPLE]);
    CHECK(after.memory_used == before.memory_used && after.memory_peak - before.memory_used < 1 << 20);
    CHECK(resident_kilobytes() - resident < 16384);
    CHECK(spent < 0.1);
    imagine_model_release(&model);
    imagine_context_release(&context);
    sized_remove(path);
}

/* ---- within a limit ---------------------------------------------------------------------------------------------- */

/* Weights outweigh the rest, in many blocks. */
static const sized_pack deep = {
    .heads = 4, .head_dim = 64, .ffn = 1024, .layers = 12, .text_dim = 256, .text_ffn = 768, .text_heads = 4,
    .text_layers = 10, .vocabulary = 8192, .vae_dim = 8, .vae_blocks = 1, .text_length = 64, .width = 64, .height = 64,
    .frames = 5, .steps = 2,
};

static imagine_model *open_sized(const char *path, int32_t threads, uint64_t limit, imagine_weights weights,
                                 imagine_error *error)
{
    imagine_context_options options;
    imagine_model_options how;
    imagine_context *context = NULL;
    imagine_model *model = NULL;
    imagine_context_options_init(&options, sizeof options);
    options.threads = threads;
    options.memory_limit = limit;
    imagine_model_options_init(&how, sizeof how);
    how.weights = weights;
    if (imagine_context_create(&context, &options, error) >= 0)
        imagine_model_open(&model, context, path, &how, error);
    imagine_context_release(&context);
    return model;
}

static const configuration plain_clip = { "a clip", 64, 64, 5, 2, 5, IMAGINE_CFG_AUTO, 0, 0, 0 };

/* Runs a job of the clip: its latents, and what the context held at most. NULL: it was refused or failed. */
static imagine_buffer *run_clip(imagine_model *model, uint64_t *peak, imagine_error *error)
{
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job_info info = { .struct_size = sizeof info };
    imagine_buffer *latents = NULL;
    imagine_job *job;
    set_options(&plain_clip, &sampler, &options);
    if (imagine_job_create(&job, model, &options, error) < 0)
        return NULL;
    if (run_job(job, error) >= 0 && imagine_job_get_info(job, &info, error) >= 0)
        imagine_job_get_latents(job, &latents, error);
    *peak = info.memory_peak;
    imagine_job_destroy(&job);
    return latents;
}

static void streamed_is_resident(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *whole = NULL;
    uint64_t peak = 0, least = 0;
    char path[512];
    REQUIRE(sized_make(&deep, path));
    imagine_model *model = open_sized(path, 1, 0, IMAGINE_WEIGHTS_RESIDENT, &err);
    if (model)
        whole = run_clip(model, &peak, &err);
    imagine_model_release(&model);
    CHECK(whole != NULL);
    for (int32_t threads = 1; threads <= 7; threads += 3) {
        model = open_sized(path, threads, 0, IMAGINE_WEIGHTS_STREAMED, &err);
        for (int again = 0; again < 2 && model; again++) {
            imagine_buffer *streamed = run_clip(model, &least, &err);
            CHECK(same_bytes(whole, streamed));
            imagine_buffer_release(&streamed);
        }
        imagine_model_release(&model);
        if (threads == 1)
            printf("    %.1f MB with all weights, %.1f MB block by block\n", (double)peak / 1e6, (double)least / 1e6);
        CHECK(least < peak / 2 + (uint64_t)threads * (2 << 20));
    }
    imagine_buffer_release(&whole);
    sized_remove(path);
}

/* A long clip's guidance is made in turn, but at once where the transformer's weights are read anew for every prediction and a limit
 * says that there is room. */
static void long_clips_read_weights_once(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    char path[512];
    REQUIRE(sized_make(&deep, path));
    for (int i = 0; i < 3; i++) { /* resident, streamed, streamed and with a limit that is no hindrance */
        static const configuration clip = { "a long clip", 1024, 1024, 9, 2, 5, IMAGINE_CFG_AUTO, 1, 0, 0 };
        uint64_t work[3] = { 0 };
        imagine_model *model = open_sized(path, 1, i == 2 ? (uint64_t)1 << 40 : 0,
                                          i ? IMAGINE_WEIGHTS_STREAMED : IMAGINE_WEIGHTS_RESIDENT, &err);
        for (imagine_cfg_mode mode = IMAGINE_CFG_AUTO; mode <= IMAGINE_CFG_IN_TURN && model; mode++) {
            imagine_estimate told = { .struct_size = sizeof told };
            imagine_sampler_options sampler;
            imagine_job_options options;
            set_options(&clip, &sampler, &options);
            sampler.cfg_mode = mode;
            CHECK_OK(imagine_job_estimate(model, &options, &told, &err));
            work[mode] = told.stage_work[IMAGINE_JOB_SAMPLE];
        }
        CHECK(work[IMAGINE_CFG_BATCHED] > work[IMAGINE_CFG_IN_TURN] && work[IMAGINE_CFG_IN_TURN] > 0);
        CHECK(work[IMAGINE_CFG_AUTO] == work[i == 2 ? IMAGINE_CFG_BATCHED : IMAGINE_CFG_IN_TURN]);
        imagine_model_release(&model);
    }
    sized_remove(path);
}

/* From ample to hopeless: the job either keeps within the limit, with the same result, or is refused before it begins. */
static void limits_are_kept(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *whole = NULL;
    uint64_t ample = 0, used = 0;
    int ways[3] = { 0, 0, 0 }, refused = 0;
    char path[512];
    REQUIRE(sized_make(&deep, path));
    imagine_model *model = open_sized(path, 1, 0, IMAGINE_WEIGHTS_AUTO, &err);
    if (model)
        whole = run_clip(model, &ample, &err);
    imagine_model_release(&model);
    CHECK(whole != NULL);
    for (int percent = 105; percent >= 15; percent -= 10) {
        imagine_estimate told = { .struct_size = sizeof told };
        imagine_sampler_options sampler;
        imagine_job_options options;
        uint64_t limit = ample / 100 * (uint64_t)percent;
        set_options(&plain_clip, &sampler, &options);
        model = open_sized(path, 1, limit, IMAGINE_WEIGHTS_AUTO, &err);
        for (int again = 0; again < 2 && model; again++) {
            CHECK_OK(imagine_job_estimate(model, &options, &told, &err));
            imagine_buffer *latents = run_clip(model, &used, &err);
            CHECK((latents != NULL) == told.fits && told.limit_bytes == limit);
            if (!latents) {
                CHECK_STATUS(err.status, IMAGINE_ERROR_NO_MEMORY);
                CHECK(strstr(err.message, "the context's limit is") != NULL);
                refused++;
                continue;
            }
            CHECK(same_bytes(whole, latents) && used <= limit);
            double ratio = (double)told.peak_bytes / (double)used;
            printf("    limit %3d%%: told %8llu, used %8llu (%+.2f%%)%s%s%s%s\n", percent,
                   (unsigned long long)told.peak_bytes, (unsigned long long)used, 100 * (ratio - 1),
                   told.gives_back ? ", weights given back" : "", told.in_turn ? ", in turn" : "",
                   told.streamed & IMAGINE_STAGE_TEXT ? ", text streamed" : "",
                   told.streamed & IMAGINE_STAGE_SAMPLER ? ", transformer streamed" : "");
            CHECK(ratio >= 1 && ratio <= 1.03);
            ways[0] += !told.gives_back && !told.streamed;
            ways[1] += told.gives_back && !told.streamed;
            ways[2] += told.streamed != 0;
            imagine_buffer_release(&latents);
        }
        imagine_model_release(&model);
    }
    CHECK(ways[0] && ways[1] && ways[2] && refused);
    printf("    %s\n", err.message);
    imagine_buffer_release(&whole);
    sized_remove(path);
}

/* What is named as the nearest size fits, and the next one up does not. */
static void nearest_size(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_estimate told = { .struct_size = sizeof told }, next = told;
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job;
    uint64_t used;
    char path[512], named[64];
    REQUIRE(sized_make(&middling, path));
    imagine_model *model = open_sized(path, 1, 26 << 20, IMAGINE_WEIGHTS_AUTO, &err);
    REQUIRE(model != NULL);
    set_options(&plain_clip, &sampler, &options);
    sampler.steps = 1;
    for (int picture = 0; picture <= 1; picture++) {
        const int32_t width = picture ? 1280 : 384;
        sampler.width = width;
        sampler.height = width / 2;
        sampler.frames = picture ? 1 : 13;
        CHECK_STATUS(imagine_job_create(&job, model, &options, &err), IMAGINE_ERROR_NO_MEMORY);
        CHECK(job == NULL);
        CHECK_OK(imagine_job_estimate(model, &options, &told, &err));
        REQUIRE(!told.fits && told.nearest_width > 0 && told.nearest_frames > 0);
        printf("    %s\n", err.message);
        snprintf(named, sizeof named, "%dx%d with %d frame", told.nearest_width, told.nearest_height, told.nearest_frames);
        CHECK(strstr(err.message, named) != NULL);
        CHECK(told.nearest_width % 16 == 0 && told.nearest_height % 16 == 0 && told.nearest_frames % 4 == 1);
        CHECK(told.nearest_width < width || told.nearest_frames < sampler.frames);
        sampler.width = told.nearest_width;
        sampler.height = told.nearest_height;
        sampler.frames = told.nearest_frames;
        if (!picture) {
            CHECK_OK(imagine_job_create(&job, model, &options, &err));
            CHECK_OK(run_job(job, &err));
            imagine_job_info info = { .struct_size = sizeof info };
            CHECK_OK(imagine_job_get_info(job, &info, &err));
            used = info.memory_peak;
            CHECK(used <= 26 << 20);
            imagine_job_destroy(&job);
        }
        sampler.width += told.nearest_width == width ? 0 : 16;
        sampler.height += told.nearest_width == width ? 0 : 16;
        sampler.frames += told.nearest_width == width ? 4 : 0;
        CHECK_OK(imagine_job_estimate(model, &options, &next, &err));
        CHECK(!next.fits);
    }
    imagine_model_release(&model);
    sized_remove(path);
}

/* A clip of 61 frames that begins with a picture of 160x96 and whose size is given, or left to the picture. */
static void clip_of_picture(imagine_buffer *picture, int given, imagine_sampler_options *sampler, imagine_job_options *options)
{
    set_options(&plain_clip, sampler, options);
    sampler->width = given ? 160 : 0;
    sampler->height = given ? 96 : 0;
    sampler->frames = 61;
    sampler->steps = 1;
    options->first_frames = picture;
}

/* The size that a picture brings is the job's, whether the caller says it or not: the same is told, and the same named. */
static void nearest_size_of_pictures(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_estimate told[2] = { { .struct_size = sizeof *told }, { .struct_size = sizeof *told } };
    imagine_sampler_options sampler;
    imagine_job_options options;
    char path[512], messages[2][sizeof err.message];
    imagine_buffer *picture;
    imagine_context *context = open_context(1, &err);
    REQUIRE(context && sized_make(&middling, path)); /* whose own size is 64x64 */
    REQUIRE_OK(imagine_buffer_create(&picture, context, IMAGINE_U8, 4, (int64_t[]){ 1, 96, 160, 3 }, &err));
    clip_of_picture(picture, 1, &sampler, &options);
    imagine_model *model = open_sized(path, 1, 20 << 20, IMAGINE_WEIGHTS_AUTO, &err);
    REQUIRE_OK(imagine_job_estimate(model, &options, &told[0], &err));
    imagine_model_release(&model);
    /* A bit less than the least that it could do with. */
    model = open_sized(path, 1, told[0].peak_bytes - (2 << 20), IMAGINE_WEIGHTS_AUTO, &err);
    for (int given = 0; given < 2; given++) {
        imagine_job *job;
        clip_of_picture(picture, given, &sampler, &options);
        CHECK_OK(imagine_job_estimate(model, &options, &told[given], &err));
        CHECK(!told[given].fits && told[given].width == 160 && told[given].height == 96);
        CHECK(told[given].nearest_width == 160 && told[given].nearest_height == 96);
        CHECK(told[given].nearest_frames > 1 && told[given].nearest_frames < 61);
        CHECK_STATUS(imagine_job_create(&job, model, &options, &err), IMAGINE_ERROR_NO_MEMORY);
        snprintf(messages[given], sizeof messages[given], "%s", err.message);
        sampler.frames = told[given].nearest_frames;
        CHECK_OK(imagine_job_estimate(model, &options, &told[given], &err));
        CHECK(told[given].fits && told[given].frames == sampler.frames);
    }
    printf("    %s\n", messages[0]);
    CHECK(!memcmp(&told[0], &told[1], sizeof told[0]) && !strcmp(messages[0], messages[1]));
    imagine_buffer_release(&picture);
    imagine_context_release(&context);
    imagine_model_release(&model);
    sized_remove(path);
}

/* The same pictures, all at once. */
static void decoded_in_tiles(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_estimate told = { .struct_size = sizeof told };
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_buffer *frames[2] = { NULL, NULL };
    char path[512];
    REQUIRE(sized_make(&middling, path));
    set_options(&plain_clip, &sampler, &options);
    sampler.width = 128;
    sampler.height = 96;
    for (int limited = 0; limited < 2; limited++) {
        imagine_model *model = open_sized(path, 1, limited ? 56 << 20 : 0, IMAGINE_WEIGHTS_AUTO, &err);
        imagine_job *job = NULL;
        imagine_event event = { .struct_size = sizeof event };
        imagine_job_info used = { .struct_size = sizeof used };
        int32_t made = 0;
        CHECK_OK(imagine_job_estimate(model, &options, &told, &err));
        CHECK(told.fits && (told.tile > 0) == limited);
        CHECK_OK(imagine_job_create(&job, model, &options, &err));
        while (job && imagine_job_next(job, &event, -1, &err) >= 0 && event.kind != IMAGINE_EVENT_DONE) {
            if (event.kind != IMAGINE_EVENT_FRAMES)
                continue;
            CHECK(event.first_frame == made);
            made += event.frame_count;
            imagine_buffer_release(&frames[limited]);
            frames[limited] = imagine_buffer_retain(event.frames);
        }
        CHECK(event.kind == IMAGINE_EVENT_DONE && made == 5 && event.frame_count == 5);
        CHECK_OK(imagine_job_get_info(job, &used, &err));
        double ratio = (double)told.peak_bytes / (double)used.memory_peak;
        printf("    %s%d: told %llu, used %llu (%+.2f%%)\n", limited ? "tiles of " : "whole ", told.tile,
               (unsigned long long)told.peak_bytes, (unsigned long long)used.memory_peak, 100 * (ratio - 1));
        CHECK(ratio >= 1 && ratio <= 1.03);
        imagine_job_destroy(&job);
        imagine_model_release(&model);
    }
    /* The last four frames came by themselves, or with the first one before them. */
    size_t size = (size_t)imagine_buffer_size(frames[0]);
    CHECK(size == 4 * 128 * 96 * 3 && imagine_buffer_size(frames[1]) == size / 4 * 5);
    CHECK(frames[0] && frames[1] &&
          !memcmp(imagine_buffer_data(frames[0]), (const char *)imagine_buffer_data(frames[1]) + size / 4, size));
    imagine_buffer_release(&frames[0]);
    imagine_buffer_release(&frames[1]);
    sized_remove(path);
}

/* Weights that are given back do not disappear under those who use them. */
static void shared_under_a_limit(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_vae *vae = NULL;
    uint64_t ample = 0, used = 0;
    char path[512];
    REQUIRE(sized_make(&deep, path));
    imagine_model *model = open_sized(path, 1, 0, IMAGINE_WEIGHTS_AUTO, &err);
    imagine_buffer *whole = run_clip(model, &ample, &err), *latents = NULL, *first = NULL, *second = NULL;
    imagine_model_release(&model);
    model = open_sized(path, 1, ample * 3 / 4, IMAGINE_WEIGHTS_AUTO, &err);
    CHECK_OK(imagine_vae_create(&vae, model, NULL, &err));
    CHECK_OK(imagine_vae_decode(vae, whole, IMAGINE_U8, &first, &err));
    latents = run_clip(model, &used, &err);
    CHECK(same_bytes(whole, latents));
    CHECK_OK(imagine_vae_decode(vae, whole, IMAGINE_U8, &second, &err));
    CHECK(same_bytes(first, second));
    imagine_buffer_release(&first);
    imagine_buffer_release(&second);
    imagine_buffer_release(&latents);
    imagine_buffer_release(&whole);
    imagine_vae_destroy(&vae);
    imagine_model_release(&model);
    sized_remove(path);
}

/* Handles without a job stream what the limit has no room for. */
static void stages_by_hand(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *embeds[2] = { NULL, NULL }, *latents[2] = { NULL, NULL };
    char path[512];
    REQUIRE(sized_make(&deep, path));
    for (int limited = 0; limited < 2; limited++) {
        /* The context sees to the limit: that nothing fails is enough. The weights alone are 40 MB. */
        imagine_model *model = open_sized(path, 1, limited ? 20 << 20 : 0, IMAGINE_WEIGHTS_AUTO, &err);
        imagine_sampler_options options;
        imagine_sampler *sampler = NULL;
        imagine_text *text = NULL;
        CHECK_OK(imagine_text_create(&text, model, NULL, &err));
        CHECK_OK(imagine_text_encode(text, "a dog", NULL, &embeds[limited], &err));
        imagine_text_destroy(&text);
        imagine_sampler_options_init(&options, sizeof options);
        options.guidance = 1;
        CHECK_OK(imagine_sampler_create(&sampler, model, &options, &err));
        CHECK_OK(imagine_sampler_set_text(sampler, embeds[limited], NULL, &err));
        CHECK_OK(imagine_sampler_begin(sampler, NULL, &err));
        CHECK_OK(imagine_sampler_step(sampler, NULL, &err));
        CHECK_OK(imagine_sampler_get_latents(sampler, 0, &latents[limited], &err));
        imagine_sampler_destroy(&sampler);
        imagine_model_release(&model);
    }
    CHECK(same_bytes(embeds[0], embeds[1]) && same_bytes(latents[0], latents[1]));
    for (int i = 0; i < 2; i++) {
        imagine_buffer_release(&embeds[i]);
        imagine_buffer_release(&latents[i]);
    }
    sized_remove(path);
}

/* Weights that are read again and again may be gone the next time: an error that names the file, and no wait for ever. */
static void cut_short(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    char path[512], file[600];
    uint64_t peak;
    REQUIRE(sized_make(&deep, path));
    for (int32_t threads = 1; threads <= 3; threads += 2) {
        imagine_model *model = open_sized(path, threads, 0, IMAGINE_WEIGHTS_STREAMED, &err);
        imagine_buffer *latents = run_clip(model, &peak, &err);
        CHECK(latents != NULL);
        imagine_buffer_release(&latents);
        snprintf(file, sizeof file, "%s/transformer/diffusion_pytorch_model.safetensors", path);
        struct stat about;
        CHECK(!stat(file, &about) && !truncate(file, about.st_size / 2));
        latents = run_clip(model, &peak, &err);
        CHECK(latents == NULL && err.status < 0 && strstr(err.message, "transformer/diffusion_pytorch_model") != NULL);
        CHECK(!truncate(file, about.st_size)); /* zeros now */
        latents = run_clip(model, &peak, &err);
        CHECK(latents != NULL);
        imagine_buffer_release(&latents);
        imagine_model_release(&model);
    }
    printf("    %s\n", err.message);
    sized_remove(path);
}

/* 16 GB for a model of 40: how it would run, told in no time. */
static void large_model_in_little(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_estimate told = { .struct_size = sizeof told };
    char path[512];
    REQUIRE(sized_make(&wan_14b, path));
    for (uint64_t gigabytes = 24; gigabytes >= 4; gigabytes /= 2) {
        imagine_model *model = open_sized(path, 1, gigabytes << 30, IMAGINE_WEIGHTS_AUTO, &err);
        double begin = cpu_seconds();
        CHECK_OK(imagine_job_estimate(model, NULL, &told, &err));
        double spent = cpu_seconds() - begin;
        printf("    %2llu GiB: %s, %.2f GB%s%s%s%s, tile %d, nearest %dx%dx%d, told in %.0f ms\n", (unsigned long long)gigabytes,
               told.fits ? "fits" : "does not fit", (double)told.peak_bytes / 1e9,
               told.gives_back ? ", weights given back" : "", told.in_turn ? ", in turn" : "",
               told.streamed & IMAGINE_STAGE_TEXT ? ", text streamed" : "",
               told.streamed & IMAGINE_STAGE_SAMPLER ? ", transformer streamed" : "", told.tile, told.nearest_width,
               told.nearest_height, told.nearest_frames, 1e3 * spent);
        CHECK(told.streamed & IMAGINE_STAGE_SAMPLER && told.gives_back);
        CHECK(told.fits || told.nearest_frames > 0);
        CHECK(spent < 2);
        imagine_model_release(&model);
    }
    sized_remove(path);
}

/* Millions of tiles, again and again for the nearest size: no more is looked at than what differs. */
static void estimates_are_soon_there(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options limited;
    imagine_context *context;
    imagine_model *model;
    imagine_estimate told = { .struct_size = sizeof told };
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_context_options_init(&limited, sizeof limited);
    limited.threads = 1;
    limited.memory_limit = 400 << 20;
    REQUIRE_OK(imagine_context_create(&context, &limited, &err));
    REQUIRE_OK(imagine_model_open(&model, context, test_path("../models/tiny"), NULL, &err));
    imagine_sampler_options_init(&sampler, sizeof sampler);
    imagine_job_options_init(&options, sizeof options);
    options.sampler = &sampler;
    options.tile_width = options.tile_height = 8;
    sampler.width = sampler.height = 8192;
    sampler.frames = 1;
    clock_t begin = clock();
    REQUIRE_OK(imagine_job_estimate(model, &options, &told, &err));
    CHECK(!told.fits && told.nearest_width > 0);
    CHECK((double)(clock() - begin) / CLOCKS_PER_SEC < 1);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* What does not depend on sizes: errors, cancelled tokens, the caller's own tensors. */
static void asked_otherwise(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(1, &err);
    REQUIRE(model != NULL);
    imagine_estimate told = { .struct_size = sizeof told }, shorter = { .struct_size = 40 };
    imagine_sampler_options sampler;
    imagine_job_options options;
    CHECK_STATUS(imagine_job_estimate(NULL, NULL, &told, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_job_estimate(model, NULL, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_OK(imagine_job_estimate(model, NULL, &told, &err));
    CHECK_OK(imagine_job_estimate(model, NULL, &shorter, &err));
    CHECK(shorter.peak_bytes == told.peak_bytes && shorter.held_bytes == 0 && shorter.struct_size == 40);
    CHECK(told.width == 32 && told.frames == 5 && told.steps == 4 && told.guidance == 3);
    imagine_sampler_options_init(&sampler, sizeof sampler);
    imagine_job_options_init(&options, sizeof options);
    options.sampler = &sampler;
    sampler.width = 33;
    CHECK_STATUS(imagine_job_estimate(model, &options, &told, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "width") != NULL);
    sampler.width = 32;
    imagine_context *context = open_context(1, &err);
    imagine_buffer *embeds = NULL, *latents = NULL;
    CHECK_OK(imagine_cancel_create(&options.cancel, context, &err));
    imagine_cancel_fire(options.cancel);
    CHECK_OK(imagine_buffer_create(&embeds, context, IMAGINE_F32, 2, (int64_t[]){ 5, 16 }, &err));
    CHECK_OK(imagine_buffer_create(&latents, context, IMAGINE_F32, 4, (int64_t[]){ 16, 3, 8, 8 }, &err));
    options.prompt_embeds = options.negative_embeds = embeds;
    CHECK_OK(imagine_job_estimate(model, &options, &told, &err));
    CHECK(!told.stage_peak[IMAGINE_JOB_TEXT] && told.stage_peak[IMAGINE_JOB_SAMPLE]);
    options.latents = latents;
    CHECK_OK(imagine_job_estimate(model, &options, &told, &err));
    CHECK(!told.stage_peak[IMAGINE_JOB_SAMPLE] && told.stage_peak[IMAGINE_JOB_DECODE] == told.peak_bytes);
    CHECK(told.peak_bytes > shorter.peak_bytes / 4);
    imagine_buffer_release(&latents);
    imagine_buffer_release(&embeds);
    imagine_cancel_release(&options.cancel);
    imagine_context_release(&context);
    imagine_model_release(&model);
}

/* Where a limit leaves too little even to find out what a job needs, it is the limit that is named. */
static void no_room_to_plan(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options how;
    imagine_context_info info = { .struct_size = sizeof info };
    imagine_model *model = open_model(1, &err);
    REQUIRE(model);
    imagine_context *context = open_context(1, &err);
    imagine_model_release(&model);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    REQUIRE_OK(imagine_context_get_info(context, &info, &err));
    imagine_model_release(&model);
    imagine_context_release(&context);
    imagine_context_options_init(&how, sizeof how);
    how.threads = 1;
    int planned = 0, opened = 0;
    for (uint64_t left = 0; left < 400000; left += left < 100000 ? 500 : 20000) {
        imagine_estimate told = { .struct_size = sizeof told };
        imagine_job *job = NULL;
        how.memory_limit = info.memory_used + left;
        REQUIRE_OK(imagine_context_create(&context, &how, &err));
        if (imagine_model_open(&model, context, PACK, NULL, &err) >= 0) {
            opened++;
            CHECK_STATUS(imagine_job_create(&job, model, NULL, &err), IMAGINE_ERROR_NO_MEMORY);
            CHECK(strstr(err.message, "context's limit") && !strstr(err.message, "limit of 0.0 MB"));
            if (imagine_job_estimate(model, NULL, &told, &err) >= 0)
                planned++;
            else
                CHECK(err.status == IMAGINE_ERROR_NO_MEMORY && strstr(err.message, "the context's limit of "));
        }
        imagine_model_release(&model);
        imagine_context_release(&context);
    }
    CHECK(planned && planned < opened);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "no room to plan", no_room_to_plan }, { "told and used", told_and_used }, { "long prompts", long_prompts }, { "told again", told_again },
        { "told with weights or without", told_with_weights_or_without }, { "large model", large_model },
        { "asked otherwise", asked_otherwise }, { "streamed is resident", streamed_is_resident },
        { "limits are kept", limits_are_kept }, { "long clips", long_clips_read_weights_once }, { "nearest size", nearest_size },
        { "nearest size of pictures", nearest_size_of_pictures },
        { "decoded in tiles", decoded_in_tiles }, { "stages by hand", stages_by_hand }, { "cut short", cut_short }, { "estimates are soon there", estimates_are_soon_there }, { "shared under a limit", shared_under_a_limit }, { "large model in little", large_model_in_little },
    };
    return test_main("api/memory", cases, sizeof cases / sizeof cases[0], argc, argv);
}
