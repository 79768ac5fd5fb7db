/* SPDX-License-Identifier: MIT */

/* The transformer against diffusers' WanTransformer3DModel (make_dit.py), and against itself: threads, batches,
 * cancellation, and files that do not fit. */

#include <sys/stat.h>
#include <unistd.h>

#include "dit/inside.h"
#include "sampler/schedule.h"
#include "tests/parity/tensors.h"

#define LIMIT 1e-10

/* One pack with its cases. */
typedef struct pack {
    bench at;
    imagine__weights *weights, *cases;
    imagine__dit *dit;
} pack;

static void pack_close(pack *p)
{
    imagine__dit_free(p->dit);
    imagine__weights_close(p->weights);
    imagine__weights_close(p->cases);
    bench_close(&p->at);
}

static int pack_open_at(pack *p, const char *folder, const char *cases, int32_t threads, imagine_cpu_level level)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    char path[2048];
    imagine__dit_config config;
    snprintf(path, sizeof path, "%s/cases.safetensors", cases);
    memset(p, 0, sizeof *p);
    if (!bench_open(&p->at, threads, level))
        return 0;
    if (imagine__weights_open(&p->weights, p->at.context, folder, "diffusion_pytorch_model", &err) < 0 ||
        imagine__weights_open_file(&p->cases, p->at.context, path, &err) < 0 ||
        imagine__dit_read_config(&config, p->at.context, folder, &err) < 0 ||
        imagine__dit_load(&p->dit, p->at.context, &config, p->weights, 0, NULL, &err) < 0) {
        test_fail(__FILE__, __LINE__, err.message);
        pack_close(p);
        return 0;
    }
    return 1;
}

static int pack_open(pack *p, const char *name, int32_t threads, imagine_cpu_level level)
{
    char folder[64];
    snprintf(folder, sizeof folder, "parity/dit/%s", name);
    return pack_open_at(p, test_path(folder), test_path(folder), threads, level);
}

/* A case's tensors. */
typedef struct golden {
    float *x, *timestep, *text, *y;
    int64_t shape[IMAGINE_MAX_DIMS], text_shape[IMAGINE_MAX_DIMS];
    int64_t count; /* values of y */
    int per_token;
} golden;

static void golden_free(golden *g)
{
    free(g->x);
    free(g->timestep);
    free(g->text);
    free(g->y);
}

static int golden_read(golden *g, const pack *p, int index)
{
    char name[4][32];
    static const char *const parts[4] = { "x", "timestep", "text", "y" };
    for (int i = 0; i < 4; i++)
        snprintf(name[i], sizeof name[i], "%d.%s", index, parts[i]);
    memset(g, 0, sizeof *g);
    g->x = tensor_read(p->cases, name[0], g->shape);
    g->timestep = tensor_read(p->cases, name[1], NULL);
    g->text = tensor_read(p->cases, name[2], g->text_shape);
    g->y = tensor_read(p->cases, name[3], NULL);
    g->count = tensor_count(p->cases, name[3]);
    if (!g->x || !g->timestep || !g->text || !g->y) {
        golden_free(g);
        return 0;
    }
    g->per_token = imagine__weights_find(p->cases, name[1])->ndim == 2;
    const imagine__dit_config *c = imagine__dit_get_config(p->dit);
    int fits = g->shape[1] == c->in_channels && g->text_shape[2] == c->text_dim;
    if (!fits) {
        test_fail(__FILE__, __LINE__, "the goldens are another model's: run make_dit.py");
        golden_free(g);
    }
    return fits;
}

/* Rows first..first+batch-1 of a case into y. */
static imagine_status run_rows(pack *p, const golden *g, int32_t first, int32_t batch, float *y, imagine_error *err)
{
    int64_t text_row = g->text_shape[1] * g->text_shape[2];
    int64_t x_row = g->shape[1] * g->shape[2] * g->shape[3] * g->shape[4];
    const imagine__dit_config *c = imagine__dit_get_config(p->dit);
    int64_t tokens = g->shape[2] / c->patch_t * (g->shape[3] / c->patch_h) * (g->shape[4] / c->patch_w);
    imagine__dit_text *text = NULL;
    imagine_status status = imagine__dit_text_create(&text, p->dit, &p->at.work, g->text + first * text_row, batch,
                                                     (int32_t)g->text_shape[1], err);
    if (status < 0)
        return status;
    imagine__dit_input input = { .x = g->x + first * x_row,
                                 .y = y,
                                 .timesteps = g->timestep + first * (g->per_token ? tokens : 1),
                                 .text = text,
                                 .batch = batch,
                                 .frames = (int32_t)g->shape[2],
                                 .height = (int32_t)g->shape[3],
                                 .width = (int32_t)g->shape[4],
                                 .per_token = g->per_token };
    status = imagine__dit_forward(p->dit, &p->at.work, &input, err);
    imagine__dit_text_free(text);
    return status;
}

static int case_count(const pack *p)
{
    char name[32];
    int n = 0;
    do
        snprintf(name, sizeof name, "%d.x", n++);
    while (imagine__weights_find(p->cases, name));
    return n - 1;
}

static void compare(pack *p, const char *what)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    int count = case_count(p);
    double worst = 0;
    CHECK(count > 0);
    for (int i = 0; i < count; i++) {
        golden g;
        REQUIRE(golden_read(&g, p, i));
        float *y = malloc((size_t)g.count * sizeof *y);
        CHECK_OK(run_rows(p, &g, 0, (int32_t)g.shape[0], y, &err));
        double error = test_nmse(y, g.y, (size_t)g.count);
        worst = error > worst ? error : worst;
        if (!(error <= LIMIT)) {
            fprintf(stderr, "    %s, case %d: %.2e\n", what, i, error);
            test_fail(__FILE__, __LINE__, "normalised mean squared error");
        }
        free(y);
        golden_free(&g);
    }
    printf("    %s: %d cases, error at most %.1e\n", what, count, worst);
}

static void parity(void)
{
    static const char *const packs[] = { "f32", "bf16", "plain" };
    for (size_t i = 0; i < 3; i++)
        for (imagine_cpu_level level = IMAGINE_CPU_PLAIN; level <= IMAGINE_CPU_AVX512; level++) {
            pack p;
            char what[64];
            imagine_context_info info = { .struct_size = sizeof info };
            REQUIRE(pack_open(&p, packs[i], 1, level));
            imagine_context_get_info(p.at.context, &info, NULL);
            snprintf(what, sizeof what, "%s at level %d", packs[i], level);
            if (info.cpu_level == level)
                compare(&p, what);
            pack_close(&p);
        }
}

static void parity_of_the_shipped_model(void)
{
    const char *folder, *cases;
    if (!shipped_folders(&folder, &cases))
        SKIP("the shipped transformer or its goldens are not there");
    pack p;
    REQUIRE(pack_open_at(&p, folder, cases, 0, IMAGINE_CPU_BEST));
    compare(&p, "shipped");
    pack_close(&p);
}

/* The bytes of case `index` at a number of threads. */
static float *bytes_with(int32_t threads, int index, int64_t *count)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    pack p;
    golden g;
    if (!pack_open(&p, "f32", threads, IMAGINE_CPU_BEST))
        return NULL;
    float *y = NULL;
    if (golden_read(&g, &p, index)) {
        y = calloc((size_t)g.count, sizeof *y);
        *count = g.count;
        CHECK_OK(run_rows(&p, &g, 0, (int32_t)g.shape[0], y, &err));
        golden_free(&g);
    }
    pack_close(&p);
    return y;
}

static void threads_do_not_show(void)
{
    static const int32_t threads[] = { 2, 7 };
    for (int index = 1; index < 4; index += 2) {
        int64_t count = 0;
        float *one = bytes_with(1, index, &count);
        REQUIRE(one);
        for (size_t i = 0; i < 2; i++) {
            float *more = bytes_with(threads[i], index, &count);
            CHECK(more && !memcmp(one, more, (size_t)count * sizeof *one));
            free(more);
        }
        free(one);
    }
}

static void batches_do_not_show(void)
{
    static const char *const packs[] = { "f32", "bf16" };
    imagine_error err = IMAGINE_ERROR_INIT;
    for (int i = 0; i < 4; i++) {
        pack p;
        golden g;
        REQUIRE(pack_open(&p, packs[i % 2], 2, IMAGINE_CPU_BEST));
        REQUIRE(golden_read(&g, &p, i < 2 ? 1 : 3)); /* three clips; two with a timestep for each token */
        float *together = calloc((size_t)g.count, sizeof *together), *alone = calloc((size_t)g.count, sizeof *alone);
        CHECK_OK(run_rows(&p, &g, 0, (int32_t)g.shape[0], together, &err));
        for (int32_t b = 0; b < g.shape[0]; b++)
            CHECK_OK(run_rows(&p, &g, b, 1, alone + b * (g.count / g.shape[0]), &err));
        CHECK(!memcmp(together, alone, (size_t)g.count * sizeof *alone));
        free(together);
        free(alone);
        golden_free(&g);
        pack_close(&p);
    }
}

/* One timestep for all tokens is the same as that timestep for each. */
static void per_token_agrees_with_per_clip(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    pack p;
    golden g;
    REQUIRE(pack_open(&p, "f32", 1, IMAGINE_CPU_BEST));
    REQUIRE(golden_read(&g, &p, 1));
    float *clip = calloc((size_t)g.count, sizeof *clip), *token = calloc((size_t)g.count, sizeof *token);
    CHECK_OK(run_rows(&p, &g, 0, 3, clip, &err));
    int64_t tokens = g.shape[2] * g.shape[3] * g.shape[4] / 4;
    float *each = malloc((size_t)(3 * tokens) * sizeof *each);
    for (int64_t i = 0; i < 3 * tokens; i++)
        each[i] = g.timestep[i / tokens];
    free(g.timestep);
    g.timestep = each;
    g.per_token = 1;
    CHECK_OK(run_rows(&p, &g, 0, 3, token, &err));
    CHECK(!memcmp(clip, token, (size_t)g.count * sizeof *clip));
    free(clip);
    free(token);
    golden_free(&g);
    pack_close(&p);
}

/* The FFN of a long clip comes in pieces of rows: here of 4, which divide no clip. */
static void pieces_do_not_show(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    for (int i = 1; i < 4; i += 2) {
        pack p;
        golden g;
        REQUIRE(pack_open(&p, "f32", 2, IMAGINE_CPU_BEST));
        REQUIRE(golden_read(&g, &p, i));
        float *whole = calloc((size_t)g.count, sizeof *whole), *pieces = calloc((size_t)g.count, sizeof *pieces);
        CHECK_OK(run_rows(&p, &g, 0, (int32_t)g.shape[0], whole, &err));
        p.dit->ffn_values = 3 * 70;
        CHECK_OK(run_rows(&p, &g, 0, (int32_t)g.shape[0], pieces, &err));
        CHECK(!memcmp(whole, pieces, (size_t)g.count * sizeof *whole));
        free(whole);
        free(pieces);
        golden_free(&g);
        pack_close(&p);
    }
}

static void cancels(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    pack p;
    golden g;
    imagine_cancel *cancel = NULL;
    REQUIRE(pack_open(&p, "f32", 2, IMAGINE_CPU_BEST));
    REQUIRE(golden_read(&g, &p, 1));
    REQUIRE_OK(imagine_cancel_create(&cancel, p.at.context, &err));
    imagine__work_fini(&p.at.work);
    REQUIRE_OK(imagine__work_init(&p.at.work, p.at.context, cancel, &err));
    float *y = calloc((size_t)g.count, sizeof *y);
    imagine_cancel_fire(cancel);
    CHECK_STATUS(run_rows(&p, &g, 0, 1, y, &err), IMAGINE_ERROR_CANCELLED);
    imagine_cancel_reset(cancel);
    CHECK_OK(run_rows(&p, &g, 0, 3, y, &err));
    CHECK(test_nmse(y, g.y, (size_t)g.count) <= LIMIT);
    free(y);
    golden_free(&g);
    imagine__work_fini(&p.at.work);
    imagine_cancel_release(&cancel);
    memset(&p.at.work, 0, sizeof p.at.work);
    pack_close(&p);
}

/* An allocator that says no once `left` allocations were made, and counts what is held. */
typedef struct stingy {
    atomic_llong left, held;
} stingy;

static void *stingy_alloc(void *user_data, size_t size, size_t alignment)
{
    stingy *s = user_data;
    if (atomic_fetch_sub(&s->left, 1) <= 0)
        return NULL;
    atomic_fetch_add(&s->held, 1);
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void stingy_free(void *user_data, void *pointer, size_t size)
{
    (void)size;
    atomic_fetch_sub(&((stingy *)user_data)->held, 1);
    free(pointer);
}

/* Loads the pack, prepares a text, makes a forward and a step; everything is given back whatever fails. */
static imagine_status whole_way(imagine_context *context, imagine_error *err)
{
    static const float embeds[3 * 24] = { 1, 2, 3 };
    const float timestep = 400;
    const char *folder = test_path("parity/dit/f32");
    float x[5 * 2 * 4 * 4], y[5 * 2 * 4 * 4];
    imagine__weights *weights = NULL;
    imagine__dit_config config;
    imagine__dit *dit = NULL;
    imagine__dit_text *text = NULL;
    imagine__stepper *stepper = NULL;
    imagine__schedule schedule = { 0 };
    imagine__work work = { 0 };
    imagine__noise_fill(x, 0, 5 * 2 * 4 * 4, 1, 1, 0);
    imagine_status s = imagine__weights_open(&weights, context, folder, "diffusion_pytorch_model", err);
    if (s >= 0)
        s = imagine__dit_read_config(&config, context, folder, err);
    if (s >= 0)
        s = imagine__dit_load(&dit, context, &config, weights, 0, NULL, err);
    if (s >= 0)
        s = imagine__work_init(&work, context, NULL, err);
    if (s >= 0)
        s = imagine__schedule_make(&schedule, context, IMAGINE_SCHEDULE_WAN_UNIPC, 0, 4, 3, NULL, 0, err);
    if (s >= 0)
        s = imagine__stepper_create(&stepper, &work, &schedule, 5 * 2 * 4 * 4, err);
    if (s >= 0)
        s = imagine__dit_text_create(&text, dit, &work, embeds, 1, 3, err);
    imagine__dit_input input = {
        .x = x, .y = y, .timesteps = &timestep, .text = text, .batch = 1, .frames = 2, .height = 4, .width = 4
    };
    if (s >= 0)
        s = imagine__dit_forward(dit, &work, &input, err);
    if (s >= 0)
        s = imagine__stepper_step(stepper, 0, x, y, NULL, NULL, err);
    imagine__dit_text_free(text);
    imagine__stepper_free(stepper);
    imagine__schedule_free(&schedule, context);
    imagine__work_fini(&work);
    imagine__dit_free(dit);
    imagine__weights_close(weights);
    return s;
}

static void every_allocation_may_fail(void)
{
    int64_t n = 0;
    imagine_status status = IMAGINE_ERROR_NO_MEMORY;
    for (; status < 0 && n < 10000; n++) {
        stingy memory = { n, 0 };
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine_context_options options;
        imagine_context *context = NULL;
        imagine_context_options_init(&options, sizeof options);
        options.threads = 1;
        options.allocate = stingy_alloc;
        options.release = stingy_free;
        options.allocator_data = &memory;
        status = imagine_context_create(&context, &options, &err);
        if (status >= 0)
            status = whole_way(context, &err);
        imagine_context_release(&context);
        if (status < 0)
            CHECK_STATUS(status, IMAGINE_ERROR_NO_MEMORY);
        CHECK(atomic_load(&memory.held) == 0);
    }
    CHECK(status == IMAGINE_OK && n > 50);
    printf("    %d allocations\n", (int)n - 1);
}

static void refuses_shapes(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    pack p;
    golden g;
    float y[8];
    REQUIRE(pack_open(&p, "f32", 1, IMAGINE_CPU_BEST));
    REQUIRE(golden_read(&g, &p, 0));
    g.shape[4] = 3;
    CHECK_STATUS(run_rows(&p, &g, 0, 1, y, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "width is 3") && strstr(err.message, "multiple of 2"));
    g.shape[4] = 130;
    CHECK_STATUS(run_rows(&p, &g, 0, 1, y, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "at most 128"));
    golden_free(&g);
    pack_close(&p);
}

/* Loads the f32 pack with one line of its configuration changed, and expects a message that holds `a` and `b`. */
static void expect_refusal(const char *line, const char *instead, const char *a, const char *b)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    char folder[] = "/tmp/imagine-dit-XXXXXX", path[64], text[4096], changed[8192];
    pack p;
    REQUIRE(pack_open(&p, "f32", 1, IMAGINE_CPU_PLAIN));
    FILE *in = fopen(test_path("parity/dit/f32/config.json"), "rb");
    REQUIRE(in && mkdtemp(folder));
    text[fread(text, 1, sizeof text - 1, in)] = 0;
    fclose(in);
    char *at = strstr(text, line);
    REQUIRE(at);
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, instead, at + strlen(line));
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *out = fopen(path, "wb");
    REQUIRE(out);
    fputs(changed, out);
    fclose(out);
    imagine__dit_config config;
    imagine__dit *dit = NULL;
    CHECK(imagine__dit_read_config(&config, p.at.context, folder, &err) < 0 ||
          imagine__dit_load(&dit, p.at.context, &config, p.weights, 0, NULL, &err) < 0);
    CHECK(!dit);
    if (!strstr(err.message, a) || !strstr(err.message, b)) {
        fprintf(stderr, "    \"%s\" names neither or only one of %s and %s\n", err.message, a, b);
        test_fail(__FILE__, __LINE__, "the message");
    }
    remove(path);
    rmdir(folder);
    pack_close(&p);
}

static void refuses_what_does_not_fit(void)
{
    expect_refusal("\"image_dim\": null", "\"image_dim\": 1280", "image_dim", "1280");
    expect_refusal("\"added_kv_proj_dim\": null", "\"added_kv_proj_dim\": 77", "added_kv_proj_dim", "77");
    expect_refusal("\"pos_embed_seq_len\": null", "\"pos_embed_seq_len\": 514", "pos_embed_seq_len", "514");
    expect_refusal("rms_norm_across_heads", "rms_norm", "qk_norm", "rms_norm");
    expect_refusal("WanTransformer3DModel", "WanVACETransformer3DModel", "_class_name", "WanVACE");
    expect_refusal("\"ffn_dim\": 70", "\"ffn_dim\": 71", "ffn.net.0.proj", "71");
    expect_refusal("\"num_layers\": 2", "\"num_layers\": 3", "blocks.2.", "");
    expect_refusal("\"num_layers\": 2", "\"num_layers\": 1", "blocks.1.", "");
    expect_refusal("\"num_layers\": 2", "\"num_layers\": 4000", "num_layers", "4000");
    expect_refusal("\"num_layers\": 2", "\"num_layers\": 4000000", "num_layers", "4000000");
    expect_refusal("\"attention_head_dim\": 14", "\"attention_head_dim\": 15", "attention_head_dim", "15");
    expect_refusal("\"eps\": 1e-06", "\"eps\": 1e-06, \"mid_norm\": 5", "mid_norm", "");
    expect_refusal("\"cross_attn_norm\": true", "\"cross_attn_norm\": false", "norm2", "");
    expect_refusal("    1,\n", "    0,\n", "patch_size", "");
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "parity", parity },
        { "parity_of_the_shipped_model", parity_of_the_shipped_model },
        { "threads_do_not_show", threads_do_not_show },
        { "batches_do_not_show", batches_do_not_show },
        { "per_token_agrees_with_per_clip", per_token_agrees_with_per_clip },
        { "pieces_do_not_show", pieces_do_not_show },
        { "cancels", cancels },
        { "every_allocation_may_fail", every_allocation_may_fail },
        { "refuses_shapes", refuses_shapes },
        { "refuses_what_does_not_fit", refuses_what_does_not_fit },
    };
    return test_main("parity/dit", cases, sizeof cases / sizeof *cases, argc, argv);
}
