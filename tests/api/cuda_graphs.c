/* SPDX-License-Identifier: MIT */

/* Graphs of a transformer's blocks, on the emulated module: the same bytes with and without, cancelling, and every way in
 * which recording and starting them can fail. The pack has two blocks. */

#include "cuda.h"
#include "sized.h"

#define GRAPHS 4 /* two of a block */

static int warnings, disturbed;

static void count_warnings(void *user, imagine_log_level level, const char *text)
{
    (void)user;
    warnings += level == IMAGINE_LOG_WARNING && strstr(text, "cannot be recorded") != NULL;
    disturbed += level == IMAGINE_LOG_INFO && strstr(text, "was disturbed") != NULL;
}

static imagine_model *open_pack(const char *pack, imagine_graphs graphs, imagine_precision precision, imagine_weights weights,
                                imagine_error *err)
{
    imagine_context_options o;
    imagine_model_options how;
    imagine_context *context = NULL;
    imagine_model *model = NULL;
    imagine_context_options_init(&o, sizeof o);
    o.threads = 1;
    o.device = IMAGINE_DEVICE_CUDA;
    o.precision = precision;
    o.graphs = graphs;
    o.log = count_warnings;
    o.log_level = IMAGINE_LOG_INFO;
    imagine_model_options_init(&how, sizeof how);
    how.weights = weights;
    if (imagine_context_create(&context, &o, err) >= 0)
        imagine_model_open(&model, context, pack, &how, err);
    imagine_context_release(&context);
    return model;
}

static imagine_model *open_graphs(imagine_graphs graphs, imagine_precision precision, imagine_weights weights,
                                  imagine_error *err)
{
    return open_pack(PACK, graphs, precision, weights, err);
}

static imagine_model *open_plainly(imagine_graphs graphs, imagine_error *err)
{
    return open_graphs(graphs, IMAGINE_PRECISION_F32, IMAGINE_WEIGHTS_RESIDENT, err);
}

static uint64_t made(void)
{
    return emulated.graphs_made ? emulated.graphs_made() : 0;
}

static uint64_t started(void)
{
    return emulated.graphs_started ? emulated.graphs_started() : 0;
}

/* How many graphs there are to be; not looked at where the module does not tell. */
static int counts(uint64_t has, uint64_t wanted)
{
    if (emulated.graphs_made && has != wanted)
        fprintf(stderr, "    %llu graphs, not %llu\n", (unsigned long long)has, (unsigned long long)wanted);
    return !emulated.graphs_made || has == wanted;
}

/* A sampler that is ready for its first step, with texts of so wide embeddings. */
static imagine_sampler *begin_with(imagine_model *model, int64_t width, imagine_cfg_mode cfg, int32_t steps,
                                   imagine_cancel *cancel, imagine_error *err)
{
    imagine_sampler *sampler = NULL;
    imagine_buffer *text[2] = { NULL, NULL };
    imagine_context *cpu = open_context(1, err);
    imagine_sampler_options o;
    imagine_sampler_options_init(&o, sizeof o);
    o.width = o.height = 16;
    o.frames = 1;
    o.steps = steps;
    o.guidance = 4;
    o.cfg_mode = cfg;
    o.cancel = cancel;
    random_state = 7;
    for (int i = 0; i < 2 && cpu; i++)
        text[i] = floats(cpu, 2, (int64_t[]){ 4, width }, err);
    if (!cpu || imagine_sampler_create(&sampler, model, &o, err) < 0 ||
        imagine_sampler_set_text(sampler, text[0], text[1], err) < 0 || imagine_sampler_begin(sampler, NULL, err) < 0)
        imagine_sampler_destroy(&sampler);
    imagine_buffer_release(&text[0]);
    imagine_buffer_release(&text[1]);
    imagine_context_release(&cpu);
    return sampler;
}

static imagine_sampler *begin(imagine_model *model, imagine_cfg_mode cfg, int32_t steps, imagine_cancel *cancel,
                              imagine_error *err)
{
    return begin_with(model, 16, cfg, steps, cancel, err);
}

static imagine_buffer *latents_of(imagine_sampler *sampler, imagine_error *err)
{
    imagine_buffer *latents = NULL;
    imagine_sampler_get_latents(sampler, 0, &latents, err);
    return latents;
}

/* The latents after `steps` steps; NULL after a failure. */
static imagine_buffer *run(imagine_model *model, imagine_cfg_mode cfg, int32_t steps, imagine_error *err)
{
    imagine_sampler *sampler = begin(model, cfg, steps, NULL, err);
    imagine_status status = sampler ? IMAGINE_OK : err->status;
    for (int32_t i = 0; i < steps && status >= 0; i++)
        status = imagine_sampler_step(sampler, NULL, err);
    imagine_buffer *latents = status >= 0 ? latents_of(sampler, err) : NULL;
    imagine_sampler_destroy(&sampler);
    return latents;
}

/* With each way of guidance and in both precisions; kernels at once, and as late as may be. */
static void same(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    for (int way = 0; way < 8; way++) {
        imagine_cfg_mode cfg = way & 1 ? IMAGINE_CFG_BATCHED : IMAGINE_CFG_IN_TURN;
        imagine_precision precision = way & 2 ? IMAGINE_PRECISION_BF16 : IMAGINE_PRECISION_F32;
        imagine_buffer *results[2] = { NULL, NULL };
        if (emulated.lag_kernels)
            emulated.lag_kernels(way & 4);
        for (int i = 0; i < 2; i++) {
            imagine_model *model = open_graphs(i ? IMAGINE_GRAPHS_OFF : IMAGINE_GRAPHS_AUTO, precision,
                                               IMAGINE_WEIGHTS_RESIDENT, &err);
            uint64_t m = made(), s = started(), forwards = cfg == IMAGINE_CFG_IN_TURN ? 2 : 1;
            REQUIRE(model);
            results[i] = run(model, cfg, 4, &err);
            CHECK(counts(made() - m, i ? 0 : forwards * GRAPHS) && counts(started() - s, i ? 0 : 3 * forwards * GRAPHS));
            imagine_model_release(&model);
        }
        CHECK(same_bytes(results[0], results[1]));
        imagine_buffer_release(&results[0]);
        imagine_buffer_release(&results[1]);
    }
    if (emulated.lag_kernels)
        emulated.lag_kernels(0);
    CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
}

/* Blocks that are read anew each time lie elsewhere each time. */
static void streamed(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *results[2] = { NULL, NULL };
    for (int i = 0; i < 2; i++) {
        imagine_model *model = open_graphs(IMAGINE_GRAPHS_AUTO, IMAGINE_PRECISION_F32,
                                           i ? IMAGINE_WEIGHTS_STREAMED : IMAGINE_WEIGHTS_RESIDENT, &err);
        uint64_t m = made();
        REQUIRE(model);
        results[i] = run(model, IMAGINE_CFG_BATCHED, 3, &err);
        CHECK(counts(made() - m, i ? 0 : GRAPHS));
        imagine_model_release(&model);
    }
    CHECK(same_bytes(results[1], results[0]));
    imagine_buffer_release(&results[0]);
    imagine_buffer_release(&results[1]);
}

/* ---- sizes ------------------------------------------------------------------------------------------------------- */

static imagine_buffer *denoise(imagine_sampler *stage, imagine_context *cpu, int size, imagine_error *err)
{
    imagine_buffer *sample = NULL;
    random_state = 11 + size;
    imagine_buffer *x = floats(cpu, 5, (int64_t[]){ 1, 16, 1, 2, 2 + 2 * size }, err);
    imagine_buffer *t = floats(cpu, 1, (int64_t[]){ 1 }, err);
    imagine_buffer *embeds = floats(cpu, 3, (int64_t[]){ 1, 3, 16 }, err);
    ((float *)imagine_buffer_data(t))[0] = 500;
    imagine_sampler_denoise(stage, x, t, embeds, &sample, err);
    imagine_buffer_release(&embeds);
    imagine_buffer_release(&t);
    imagine_buffer_release(&x);
    return sample;
}

/* Three sizes in one handle, each several times; and more of them than it keeps graphs of. */
static void sizes(void)
{
    enum { SIZES = 11, ROUNDS = 4 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *wanted[SIZES] = { NULL };
    imagine_context *cpu = open_context(1, &err);
    uint64_t begun = started();
    for (int how = 0; how < 3; how++) { /* plainly; three sizes; all in turn */
        imagine_model *model = open_plainly(how ? IMAGINE_GRAPHS_AUTO : IMAGINE_GRAPHS_OFF, &err);
        imagine_sampler *stage = NULL;
        REQUIRE(model && cpu);
        REQUIRE_OK(imagine_sampler_create(&stage, model, NULL, &err));
        for (int i = 0; i < (how ? ROUNDS : 1) * SIZES; i++) {
            int size = how == 1 ? i / ROUNDS % 3 : how ? i / 2 % SIZES : i;
            imagine_buffer *sample = denoise(stage, cpu, size, &err);
            CHECK(sample && (!how || same_bytes(sample, wanted[size])));
            if (how)
                imagine_buffer_release(&sample);
            else
                wanted[size] = sample;
        }
        imagine_sampler_destroy(&stage);
        imagine_model_release(&model);
    }
    printf("    %llu graphs started\n", (unsigned long long)(started() - begun));
    CHECK(!emulated.graphs_made || started() - begun >= 3 * (ROUNDS - 1) * GRAPHS);
    for (int i = 0; i < SIZES; i++)
        imagine_buffer_release(&wanted[i]);
    imagine_context_release(&cpu);
    CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
}

/* ---- cancelling --------------------------------------------------------------------------------------------------- */

static void fire(void *cancel)
{
    imagine_cancel_fire(cancel);
}

/* A cancel at each of the launches of a step, plain, recorded or started as part of a graph: nothing but the graph at work is
 * done any more, and the step done again afterwards gives the same. */
static void cancelled(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    if (!emulated.at_launch)
        SKIP("this module does not tell of its launches");
    imagine_model *model = open_plainly(IMAGINE_GRAPHS_AUTO, &err);
    imagine_context *cpu = open_context(1, &err);
    imagine_cancel *cancel = NULL;
    REQUIRE(model && cpu);
    REQUIRE_OK(imagine_cancel_create(&cancel, cpu, &err));
    imagine_buffer *wanted = run(model, IMAGINE_CFG_BATCHED, 4, &err);
    REQUIRE(wanted);
    int fired = 0;
    for (int at = 1; at < 4; at++)
        for (int64_t n = 1; n < 200; n += 9) {
            imagine_sampler *stage = begin(model, IMAGINE_CFG_BATCHED, 4, cancel, &err);
            REQUIRE(stage);
            for (int i = 0; i < at; i++)
                CHECK_OK(imagine_sampler_step(stage, NULL, &err));
            emulated.at_launch(n, fire, cancel);
            imagine_status status = imagine_sampler_step(stage, NULL, &err);
            emulated.at_launch(0, NULL, NULL);
            if (status >= 0) { /* the step has fewer launches */
                imagine_sampler_destroy(&stage);
                imagine_cancel_reset(cancel);
                break;
            }
            CHECK(status == IMAGINE_ERROR_CANCELLED);
            CHECK(emulated.launches_after() < 30); /* a block's */
            imagine_cancel_reset(cancel);
            fired++;
            for (int i = at; i < 4; i++)
                CHECK_OK(imagine_sampler_step(stage, NULL, &err));
            imagine_buffer *latents = latents_of(stage, &err);
            CHECK(same_bytes(latents, wanted));
            imagine_buffer_release(&latents);
            imagine_sampler_destroy(&stage);
        }
    printf("    %d cancels\n", fired);
    CHECK(fired > 15);
    imagine_buffer_release(&wanted);
    imagine_cancel_release(&cancel);
    imagine_context_release(&cpu);
    imagine_model_release(&model);
    CHECK(emulated.allocations_held() == 0);
}

/* The third step of a transformer of so many blocks, cancelled at launch after launch: *most receives the most launches that came after
 * one in the midst of its blocks, of `block` launches each (0: unknown). Returns those of the whole step. */
static uint64_t cancelled_step(int layers, imagine_graphs graphs, uint64_t outside, uint64_t block, uint64_t *most)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    const sized_pack pack = { .heads = 1, .head_dim = 32, .ffn = 64, .layers = layers, .text_dim = 64, .text_ffn = 64,
                              .text_heads = 1, .text_layers = 1, .vocabulary = 2048, .vae_dim = 8, .vae_blocks = 1,
                              .text_length = 8, .width = 16, .height = 16, .frames = 1, .steps = 3 };
    char path[512];
    imagine_cancel *cancel = NULL;
    imagine_context *cpu = open_context(1, &err);
    if (!cpu || imagine_cancel_create(&cancel, cpu, &err) < 0 || !sized_make(&pack, path))
        return 0;
    imagine_model *model = open_pack(path, graphs, IMAGINE_PRECISION_F32, IMAGINE_WEIGHTS_RESIDENT, &err);
    imagine_sampler *stage = model ? begin_with(model, 64, IMAGINE_CFG_BATCHED, 3, cancel, &err) : NULL;
    imagine_status status = stage ? IMAGINE_ERROR_CANCELLED : err.status;
    uint64_t before = 0, whole = outside + (uint64_t)layers * block;
    for (int i = 0; i < 2 && stage; i++)
        CHECK_OK(imagine_sampler_step(stage, NULL, &err));
    for (uint64_t n = block ? outside + block : 100000; status == IMAGINE_ERROR_CANCELLED; n++) {
        if (block && n > whole - outside - block)
            n = 100000; /* nowhere: it goes through */
        before = emulated.launches();
        emulated.at_launch((int64_t)n, fire, cancel);
        status = imagine_sampler_step(stage, NULL, &err);
        emulated.lag_kernels(1); /* what has been started is done */
        uint64_t after = status < 0 ? emulated.launches_after() : 0;
        emulated.at_launch(0, NULL, NULL);
        *most = after > *most ? after : *most;
        imagine_cancel_reset(cancel);
    }
    CHECK_OK(status);
    whole = emulated.launches() - before;
    imagine_sampler_destroy(&stage);
    imagine_model_release(&model);
    imagine_cancel_release(&cancel);
    imagine_context_release(&cpu);
    sized_remove(path);
    return whole;
}

/* As on a GPU, where kernels run while the host starts more of them: here as late as may be. A cancel in the midst of a step leaves
 * less than a block to do. */
static void within_a_block(void)
{
    if (!emulated.at_launch || !emulated.lag_kernels)
        SKIP("this module does not tell of its launches");
    emulated.lag_kernels(1);
    for (imagine_graphs graphs = IMAGINE_GRAPHS_AUTO; graphs <= IMAGINE_GRAPHS_OFF; graphs++) {
        uint64_t most = 0, five = cancelled_step(5, graphs, 0, 0, &most), six = cancelled_step(6, graphs, 0, 0, &most);
        uint64_t block = six - five, outside = five - 5 * block;
        CHECK(six > five && five > 5 * block && !most);
        CHECK(cancelled_step(6, graphs, outside, block, &most) == six);
        printf("    %llu launches a block, at most %llu after a cancel\n", (unsigned long long)block, (unsigned long long)most);
        CHECK(most > block / 2 && most < block);
    }
    emulated.lag_kernels(0);
    CHECK(emulated.allocations_held() == 0);
}

/* ---- failures ------------------------------------------------------------------------------------------------------ */

/* Whatever goes wrong while a graph is recorded: a line of log, the same bytes, and the graph is recorded the next time. */
static void recording_fails(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    if (!emulated.fail_capture)
        SKIP("this module's recordings do not fail when asked to");
    imagine_model *model = open_plainly(IMAGINE_GRAPHS_AUTO, &err);
    REQUIRE(model);
    imagine_buffer *wanted = run(model, IMAGINE_CFG_BATCHED, 3, &err);
    int64_t n = 0;
    do {
        uint64_t m = made();
        warnings = disturbed = 0;
        emulated.fail_capture(++n);
        imagine_buffer *latents = run(model, IMAGINE_CFG_BATCHED, 3, &err);
        CHECK(same_bytes(latents, wanted));
        CHECK(!warnings && disturbed <= 1 && counts(made() - m, GRAPHS));
        imagine_buffer_release(&latents);
    } while (disturbed && n < 200);
    emulated.fail_capture(0);
    printf("    %lld calls\n", (long long)n - 1);
    CHECK(n > 30 && n < 200);
    imagine_buffer_release(&wanted);
    imagine_model_release(&model);
    CHECK(emulated.allocations_held() == 0);
}

/* The first of a step's graphs is disturbed twice, and then recorded; or three times, and then no more is. */
static void disturbed_often(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    if (!emulated.fail_capture)
        SKIP("this module's recordings do not fail when asked to");
    imagine_model *model = open_plainly(IMAGINE_GRAPHS_AUTO, &err);
    REQUIRE(model);
    imagine_buffer *wanted = run(model, IMAGINE_CFG_BATCHED, 6, &err);
    for (int times = 2; times <= 3; times++) {
        imagine_sampler *stage = begin(model, IMAGINE_CFG_BATCHED, 6, NULL, &err);
        uint64_t m = made();
        REQUIRE(stage && wanted);
        warnings = disturbed = 0;
        for (int i = 0; i < 6; i++) {
            emulated.fail_capture(i >= 1 && i <= times);
            CHECK_OK(imagine_sampler_step(stage, NULL, &err));
        }
        CHECK(disturbed == 2 && warnings == (times == 3));
        CHECK(counts(made() - m, times == 3 ? GRAPHS - 1 : GRAPHS));
        imagine_buffer *latents = latents_of(stage, &err);
        CHECK(same_bytes(latents, wanted));
        imagine_buffer_release(&latents);
        imagine_sampler_destroy(&stage);
    }
    emulated.fail_capture(0);
    imagine_buffer_release(&wanted);
    imagine_model_release(&model);
    CHECK(emulated.allocations_held() == 0);
}

/* A launch within a graph fails: an error, and the handle's next run, with the same graphs, gives the same. */
static void graphs_fail(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    if (!emulated.fail_launch)
        SKIP("this module's launches do not fail when asked to");
    imagine_model *model = open_plainly(IMAGINE_GRAPHS_AUTO, &err);
    REQUIRE(model);
    imagine_buffer *wanted = run(model, IMAGINE_CFG_BATCHED, 4, &err);
    imagine_sampler *stage = begin(model, IMAGINE_CFG_BATCHED, 4, NULL, &err);
    REQUIRE(wanted && stage);
    for (int64_t n = 1; n < 40; n += 4) {
        for (int i = 0; i < 2; i++)
            CHECK_OK(imagine_sampler_step(stage, NULL, &err));
        emulated.fail_launch(n);
        CHECK_STATUS(imagine_sampler_step(stage, NULL, &err), IMAGINE_ERROR_DEVICE);
        CHECK(strstr(err.message, "a launch that was to fail"));
        CHECK_OK(imagine_sampler_begin(stage, NULL, &err));
    }
    emulated.fail_launch(0);
    uint64_t m = made();
    for (int i = 0; i < 4; i++)
        CHECK_OK(imagine_sampler_step(stage, NULL, &err));
    CHECK(counts(made() - m, 0));
    imagine_buffer *latents = latents_of(stage, &err);
    CHECK(same_bytes(latents, wanted));
    imagine_buffer_release(&latents);
    imagine_sampler_destroy(&stage);
    imagine_buffer_release(&wanted);
    imagine_model_release(&model);
    CHECK(emulated.allocations_held() == 0);
}

/* Every allocation on the device fails once: an error, or no graphs and the same bytes. */
static void allocations_fail(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    if (!emulated.fail_allocation)
        SKIP("this module's allocations do not fail when asked to");
    imagine_model *model = open_plainly(IMAGINE_GRAPHS_AUTO, &err);
    REQUIRE(model);
    imagine_buffer *wanted = run(model, IMAGINE_CFG_BATCHED, 3, &err); /* and the model's weights are there */
    uint64_t before = emulated.allocations_made();
    imagine_buffer *again = run(model, IMAGINE_CFG_BATCHED, 3, &err);
    uint64_t count = emulated.allocations_made() - before;
    int without = 0;
    CHECK(same_bytes(again, wanted));
    for (uint64_t n = 1; n <= count; n++) {
        emulated.fail_allocation((int64_t)n);
        imagine_buffer *latents = run(model, IMAGINE_CFG_BATCHED, 3, &err);
        emulated.fail_allocation(0);
        CHECK(latents ? same_bytes(latents, wanted) : err.status == IMAGINE_ERROR_NO_MEMORY);
        without += latents != NULL;
        imagine_buffer_release(&latents);
    }
    printf("    %llu allocations, %d of graphs\n", (unsigned long long)count, without);
    /* The stream that is recorded, and the graphs; a GPU's driver has memory of its own for them. */
    CHECK(without == (emulated.graphs_made ? 1 + GRAPHS : 0));
    imagine_buffer_release(&again);
    imagine_buffer_release(&wanted);
    imagine_model_release(&model);
    CHECK(emulated.allocations_held() == 0);
}

static void options(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options o;
    imagine_context *context = NULL;
    imagine_context_options_init(&o, sizeof o);
    o.device = IMAGINE_DEVICE_CUDA;
    o.graphs = 2;
    CHECK_STATUS(imagine_context_create(&context, &o, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "graphs: 2"));
    o.device = IMAGINE_DEVICE_CPU;
    o.graphs = IMAGINE_GRAPHS_OFF;
    CHECK_STATUS(imagine_context_create(&context, &o, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "graphs: is for IMAGINE_DEVICE_CUDA only"));
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "same", same }, { "streamed", streamed }, { "sizes", sizes }, { "cancelled", cancelled },
        { "within a block", within_a_block },
        { "recording fails", recording_fails }, { "disturbed often", disturbed_often }, { "graphs fail", graphs_fail },
        { "allocations fail", allocations_fail }, { "options", options },
    };
    find_hooks();
    return test_main("api/cuda_graphs", cases, sizeof cases / sizeof *cases, argc, argv);
}
