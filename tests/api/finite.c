/* SPDX-License-Identifier: MIT */

/* A value that is no finite number ends the work with an error that names it: every tensor of the pack's weights in turn,
 * and every tensor that a caller can give. */

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api.h"

/* ---- a pack with a stage whose weights can be changed ------------------------------------------------------------ */

typedef struct stage {
    const char *name, *file;
} stage;

static const stage encoder = { "text_encoder", "model.safetensors" };
static const stage transformer = { "transformer", "diffusion_pytorch_model.safetensors" };
static const stage vae_stage = { "vae", "diffusion_pytorch_model.safetensors" };

static const char *const others[] = { "tokenizer",       "text_encoder", "transformer", "vae", "scheduler",
                                      "model_index.json", "imagine.json" };

typedef struct pack {
    char folder[64], file[192];
    char *bytes; /* of the file, as they should be */
    size_t size;
    char *next; /* in the header, behind the tensor at hand */
    char name[256]; /* the tensor at hand */
    size_t begin, end; /* its place in the file */
    int bf16;
} pack;

static void link_to(const pack *p, const char *name)
{
    char from[1200], to[256];
    snprintf(from, sizeof from, "%s/%s", PACK, name);
    snprintf(to, sizeof to, "%s/%s", p->folder, name);
    CHECK(symlink(from, to) == 0);
}

static void write_all(const pack *p, const void *bytes, size_t size, size_t at)
{
    FILE *file = fopen(p->file, "r+b");
    CHECK(file && !fseek(file, (long)at, SEEK_SET) && fwrite(bytes, 1, size, file) == size && !fclose(file));
}

static int make_pack(pack *p, stage s)
{
    char path[1200], text[128];
    struct stat about;
    memset(p, 0, sizeof *p);
    snprintf(p->folder, sizeof p->folder, "%s/imagine-finite-XXXXXX", P_tmpdir);
    if (!mkdtemp(p->folder))
        return 0;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(others[i], s.name))
            link_to(p, others[i]);
    snprintf(p->file, sizeof p->file, "%s/%s", p->folder, s.name);
    CHECK(mkdir(p->file, 0700) == 0);
    snprintf(text, sizeof text, "%s/config.json", s.name);
    link_to(p, text);
    snprintf(p->file, sizeof p->file, "%s/%s/%s", p->folder, s.name, s.file);
    snprintf(path, sizeof path, "%s/%s/%s", PACK, s.name, s.file);
    FILE *from = fopen(path, "rb"), *to = fopen(p->file, "wb");
    if (!from || !to || stat(path, &about))
        return 0;
    p->size = (size_t)about.st_size;
    p->bytes = malloc(p->size + 1);
    if (!p->bytes || fread(p->bytes, 1, p->size, from) != p->size || fwrite(p->bytes, 1, p->size, to) != p->size)
        return 0;
    fclose(from);
    fclose(to);
    p->next = p->bytes + 8;
    return 1;
}

/* The next tensor of the header, as its writer lays it out; 0: there is none. */
static int next_tensor(pack *p)
{
    size_t header = 0;
    unsigned long long begin, end;
    for (int i = 7; i >= 0; i--)
        header = header << 8 | (unsigned char)p->bytes[i];
    static const char mark[] = "\":{\"dtype\":\"";
    char *limit = p->bytes + 8 + header, *found = memmem(p->next, (size_t)(limit - p->next), mark, sizeof mark - 1);
    if (!found)
        return 0;
    char *name = found;
    while (name[-1] != '"')
        name--;
    snprintf(p->name, sizeof p->name, "%.*s", (int)(found - name), name);
    p->bf16 = !strncmp(found + sizeof mark - 1, "BF16", 4);
    p->next = strstr(found, "\"data_offsets\":[");
    if (!p->next || sscanf(p->next, "\"data_offsets\":[%llu,%llu]", &begin, &end) != 2)
        return 0;
    p->begin = 8 + header + begin;
    p->end = 8 + header + end;
    return 1;
}

/* The tensor at hand becomes NaN or infinity as a whole, or itself again. */
static void poison(const pack *p, float value)
{
    size_t size = p->end - p->begin, element = p->bf16 ? 2 : 4;
    char *bytes = malloc(size), pattern[4];
    CHECK(bytes);
    memcpy(pattern, (const char *)&value + (4 - element), element); /* BF16 is F32's upper half */
    for (size_t i = 0; bytes && i < size; i += element)
        memcpy(bytes + i, pattern, element);
    if (bytes)
        write_all(p, bytes, size, p->begin);
    free(bytes);
}

static void heal(const pack *p)
{
    write_all(p, p->bytes + p->begin, p->end - p->begin, p->begin);
}

static void remove_pack(pack *p)
{
    char path[1200];
    unlink(p->file);
    snprintf(path, sizeof path, "%s", p->file);
    snprintf(strrchr(path, '/'), 16, "/config.json");
    unlink(path);
    *strrchr(path, '/') = 0;
    CHECK(rmdir(path) == 0);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        snprintf(path, sizeof path, "%s/%s", p->folder, others[i]);
        unlink(path);
    }
    CHECK(rmdir(p->folder) == 0);
    free(p->bytes);
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

typedef imagine_status use_fn(imagine_model *model, imagine_context *context, imagine_error *error);

static imagine_status use_text(imagine_model *model, imagine_context *context, imagine_error *error)
{
    imagine_text *text;
    imagine_buffer *embeds = NULL;
    (void)context;
    imagine_status status = imagine_text_create(&text, model, NULL, error);
    if (status >= 0)
        status = imagine_text_encode(text, "a red apple", NULL, &embeds, error);
    imagine_buffer_release(&embeds);
    imagine_text_destroy(&text);
    return status;
}

static imagine_status use_sampler(imagine_model *model, imagine_context *context, imagine_error *error)
{
    imagine_sampler_options sampler;
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.width = sampler.height = 16;
    sampler.steps = 2;
    imagine_buffer *latents = job_latents(model, "a dog", &sampler, error);
    (void)context;
    if (!latents)
        return error->status;
    imagine_buffer_release(&latents);
    return IMAGINE_OK;
}

/* Five frames there and back. */
static imagine_status use_vae(imagine_model *model, imagine_context *context, imagine_error *error)
{
    imagine_vae *vae;
    imagine_buffer *frames = NULL, *latents = NULL, *back = NULL;
    imagine_status status = imagine_vae_create(&vae, model, NULL, error);
    if (status >= 0)
        status = imagine_buffer_create(&frames, context, IMAGINE_U8, 4, (int64_t[]){ 5, 16, 16, 3 }, error);
    for (size_t i = 0; i < imagine_buffer_size(frames); i++)
        ((uint8_t *)imagine_buffer_data(frames))[i] = (uint8_t)(i * 7919);
    if (status >= 0)
        status = imagine_vae_encode(vae, frames, &latents, error);
    if (status >= 0)
        status = imagine_vae_decode(vae, latents, IMAGINE_F32, &back, error);
    imagine_buffer_release(&back);
    imagine_buffer_release(&latents);
    imagine_buffer_release(&frames);
    imagine_vae_destroy(&vae);
    return status;
}

static imagine_status open_and_use(const pack *p, use_fn *use, imagine_error *error)
{
    imagine_model *model;
    imagine_context *context = open_context(1, error);
    if (!context)
        return error->status;
    imagine_status status = imagine_model_open(&model, context, p->folder, NULL, error);
    if (status >= 0)
        status = use(model, context, error);
    imagine_model_release(&model);
    imagine_context_release(&context);
    return status;
}

static void every_tensor(stage s, use_fn *use)
{
    pack p;
    int tensors = 0;
    imagine_error err = IMAGINE_ERROR_INIT;
    REQUIRE(make_pack(&p, s));
    CHECK_OK(open_and_use(&p, use, &err));
    for (; next_tensor(&p); tensors++) {
        poison(&p, NAN);
        memset(err.message, 0, sizeof err.message);
        imagine_status status = open_and_use(&p, use, &err);
        if (status != IMAGINE_ERROR_NOT_FINITE || !strstr(err.message, p.name) || !strstr(err.message, s.file))
            fprintf(stderr, "    %s: status %d: %s\n", p.name, (int)status, err.message);
        CHECK(status == IMAGINE_ERROR_NOT_FINITE && strstr(err.message, p.name) && strstr(err.message, s.file));
        /* An infinity may come to nothing, behind a softmax. */
        poison(&p, INFINITY);
        status = open_and_use(&p, use, &err);
        CHECK(status >= 0 || (status == IMAGINE_ERROR_NOT_FINITE && strstr(err.message, p.name)));
        heal(&p);
    }
    CHECK_OK(open_and_use(&p, use, &err));
    printf("    %s: %d tensors\n", s.name, tensors);
    CHECK(tensors > 10);
    remove_pack(&p);
}

static void text_weights(void)
{
    every_tensor(encoder, use_text);
}

static void transformer_weights(void)
{
    every_tensor(transformer, use_sampler);
}

static void vae_weights(void)
{
    every_tensor(vae_stage, use_vae);
}

/* Finite weights, and a result that is not: the step is told, and that no weight is to blame. */
static void overflow(void)
{
    pack p;
    imagine_error err = IMAGINE_ERROR_INIT;
    REQUIRE(make_pack(&p, transformer));
    while (next_tensor(&p) && !strstr(p.name, "ffn.net.2.weight"))
        ;
    poison(&p, 3e38f);
    CHECK_STATUS(open_and_use(&p, use_sampler, &err), IMAGINE_ERROR_NOT_FINITE);
    CHECK(strstr(err.message, "step 1 of 2") && strstr(err.message, "as they are stored are finite"));
    remove_pack(&p);
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

/* A job on a pack of which one tensor of a stage is NaN; the latents, if there are any, stay to be had. */
static void job_with(stage s, const char *tensor, const char *told, int keeps_latents)
{
    pack p;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(2, &err);
    imagine_model *model;
    imagine_job *job;
    imagine_buffer *latents = NULL;
    REQUIRE(context && make_pack(&p, s));
    while (next_tensor(&p) && !strstr(p.name, tensor))
        ;
    poison(&p, NAN);
    REQUIRE_OK(imagine_model_open(&model, context, p.folder, NULL, &err));
    REQUIRE_OK(imagine_job_create(&job, model, NULL, &err));
    CHECK_STATUS(run_job(job, &err), IMAGINE_ERROR_NOT_FINITE);
    CHECK(strstr(err.message, told) && strstr(err.message, p.name));
    CHECK((imagine_job_get_latents(job, &latents, &err) >= 0) == keeps_latents);
    const float *values = imagine_buffer_data(latents);
    size_t finite = 0, count = imagine_buffer_size(latents) / sizeof *values;
    for (size_t i = 0; i < count; i++)
        finite += isfinite(values[i]) != 0;
    CHECK(finite == count);
    imagine_buffer_release(&latents);
    imagine_job_destroy(&job);
    imagine_model_release(&model);
    imagine_context_release(&context);
    remove_pack(&p);
}

static void jobs(void)
{
    job_with(encoder, "block.1.layer.0.SelfAttention.q", "text encoder", 0);
    job_with(transformer, "blocks.1.attn1.to_q", "step 1 of 4", 0);
    job_with(vae_stage, "decoder.conv_out", "frame 0", 1);
}

/* ---- what a caller gives ----------------------------------------------------------------------------------------- */

static imagine_buffer *tensor_with(imagine_context *context, int32_t ndim, const int64_t *shape, size_t at, float value)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *buffer = NULL;
    CHECK_OK(imagine_buffer_create(&buffer, context, IMAGINE_F32, ndim, shape, &err));
    if (buffer)
        ((float *)imagine_buffer_data(buffer))[at] = value;
    return buffer;
}

static void given_to_a_job(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(2, &err);
    imagine_model *model;
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    imagine_buffer *text = tensor_with(context, 2, (int64_t[]){ 3, 16 }, 16 + 5, NAN);
    imagine_buffer *fine = tensor_with(context, 2, (int64_t[]){ 3, 16 }, 0, 0);
    imagine_buffer *latents = tensor_with(context, 4, (int64_t[]){ 16, 2, 4, 4 }, 2 * 16 + 6, -INFINITY);
    imagine_buffer *mask = tensor_with(context, 3, (int64_t[]){ 2, 4, 4 }, 6, 1);
    imagine_buffer *other = tensor_with(context, 1, (int64_t[]){ 2 }, 1, 1); /* it leaves the infinity out */
    const struct {
        imagine_buffer *prompt, *negative, *noise, *latents, *known, *mask;
        const char *first, *second; /* of the message; NULL: nothing is wrong */
    } given[] = {
        { text, fine, .first = "prompt_embeds", .second = "[1, 5]" },
        { fine, text, .first = "negative_embeds", .second = "[1, 5]" },
        { fine, fine, .noise = latents, .first = "noise", .second = "[1, 0, 1, 2]" },
        { .latents = latents, .first = "latents", .second = "[1, 0, 1, 2]" },
        { fine, fine, .known = latents, .mask = mask, .first = "known latents", .second = "[1, 0, 1, 2]" },
        { fine, fine, .known = latents, .mask = other },
    };
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        imagine_job_options options;
        imagine_job *job;
        imagine_job_options_init(&options, sizeof options);
        options.prompt_embeds = given[i].prompt;
        options.negative_embeds = given[i].negative;
        options.noise = given[i].noise;
        options.latents = given[i].latents;
        options.known_latents = given[i].known;
        options.known_mask = given[i].mask;
        REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
        if (!given[i].first) {
            CHECK_OK(run_job(job, &err));
            imagine_job_destroy(&job);
            continue;
        }
        memset(err.message, 0, sizeof err.message);
        CHECK_STATUS(run_job(job, &err), IMAGINE_ERROR_NOT_FINITE);
        if (!strstr(err.message, given[i].first) || !strstr(err.message, given[i].second))
            fprintf(stderr, "    %s\n", err.message);
        CHECK(strstr(err.message, given[i].first) && strstr(err.message, given[i].second));
        imagine_job_destroy(&job);
    }
    imagine_buffer_release(&text);
    imagine_buffer_release(&fine);
    imagine_buffer_release(&latents);
    imagine_buffer_release(&mask);
    imagine_buffer_release(&other);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* One forward: what holds the NaN is named, and the handle still serves. */
static void given_to_a_forward(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(2, &err);
    imagine_model *model;
    imagine_sampler *sampler;
    imagine_buffer *sample = NULL;
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    REQUIRE_OK(imagine_sampler_create(&sampler, model, NULL, &err));
    imagine_buffer *hidden = tensor_with(context, 5, (int64_t[]){ 2, 16, 2, 4, 4 }, 0, 0);
    imagine_buffer *times = tensor_with(context, 1, (int64_t[]){ 2 }, 1, 500);
    imagine_buffer *text = tensor_with(context, 3, (int64_t[]){ 2, 3, 16 }, 0, 0);
    const struct {
        imagine_buffer *in;
        const char *name;
    } given[] = { { hidden, "hidden_states" }, { text, "encoder_hidden_states" } };
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        float *last = (float *)imagine_buffer_data(given[i].in) + imagine_buffer_size(given[i].in) / sizeof(float) - 1;
        for (int infinite = 0; infinite < 2; infinite++) {
            *last = infinite ? -INFINITY : NAN;
            CHECK_STATUS(imagine_sampler_denoise(sampler, hidden, times, text, &sample, &err), IMAGINE_ERROR_NOT_FINITE);
            CHECK(!sample && !strncmp(err.message, given[i].name, strlen(given[i].name)) && strstr(err.message, "the value at ["));
        }
        *last = 0;
        CHECK_OK(imagine_sampler_denoise(sampler, hidden, times, text, &sample, &err));
        imagine_buffer_release(&sample);
    }
    imagine_buffer_release(&hidden);
    imagine_buffer_release(&times);
    imagine_buffer_release(&text);
    imagine_sampler_destroy(&sampler);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* Finite weights and a forward that is not: told as for a step. */
static void forward_overflows(void)
{
    pack p;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_model *model;
    imagine_sampler *sampler;
    imagine_buffer *sample = NULL;
    REQUIRE(context && make_pack(&p, transformer));
    while (next_tensor(&p) && !strstr(p.name, "ffn.net.2.weight"))
        ;
    for (int finite = 0; finite < 2; finite++) {
        poison(&p, finite ? 3e38f : NAN);
        REQUIRE_OK(imagine_model_open(&model, context, p.folder, NULL, &err));
        REQUIRE_OK(imagine_sampler_create(&sampler, model, NULL, &err));
        imagine_buffer *hidden = tensor_with(context, 5, (int64_t[]){ 1, 16, 1, 2, 2 }, 3, 1);
        imagine_buffer *times = tensor_with(context, 1, (int64_t[]){ 1 }, 0, 500);
        imagine_buffer *text = tensor_with(context, 3, (int64_t[]){ 1, 3, 16 }, 5, 1);
        CHECK_STATUS(imagine_sampler_denoise(sampler, hidden, times, text, &sample, &err), IMAGINE_ERROR_NOT_FINITE);
        CHECK(!sample && strstr(err.message, "the transformer's prediction"));
        CHECK(strstr(err.message, finite ? "as they are stored are finite" : p.name));
        imagine_buffer_release(&hidden);
        imagine_buffer_release(&times);
        imagine_buffer_release(&text);
        imagine_sampler_destroy(&sampler);
        imagine_model_release(&model);
    }
    imagine_context_release(&context);
    remove_pack(&p);
}

static void frames_to_encode(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_model *model;
    imagine_vae *vae;
    imagine_buffer *latents;
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    REQUIRE_OK(imagine_vae_create(&vae, model, NULL, &err));
    imagine_buffer *frames = tensor_with(context, 4, (int64_t[]){ 3, 1, 16, 16 }, 256 + 16 + 3, NAN);
    CHECK_STATUS(imagine_vae_encode(vae, frames, &latents, &err), IMAGINE_ERROR_NOT_FINITE);
    CHECK(!latents && strstr(err.message, "frames") && strstr(err.message, "[1, 0, 1, 3]"));
    ((float *)imagine_buffer_data(frames))[256 + 16 + 3] = 0;
    CHECK_OK(imagine_vae_encode(vae, frames, &latents, &err)); /* the handle still serves */
    imagine_buffer_release(&latents);
    imagine_buffer_release(&frames);
    imagine_vae_destroy(&vae);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = { { "text weights", text_weights },
                                       { "transformer weights", transformer_weights },
                                       { "VAE weights", vae_weights },
                                       { "overflow", overflow },
                                       { "jobs", jobs },
                                       { "given to a job", given_to_a_job },
                                       { "given to a forward", given_to_a_forward },
                                       { "forward overflows", forward_overflows },
                                       { "frames to encode", frames_to_encode } };
    return test_main("api/finite", cases, sizeof cases / sizeof cases[0], argc, argv);
}
