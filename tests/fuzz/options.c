/* SPDX-License-Identifier: MIT */

/* Options structs with any numbers and any size. The first byte says which, the next four bytes are the size, then the
 * values of the fields below, in order, and what lies behind the struct. Pointers are the target's own. */

#include "fuzz.h"

/* A part of a struct that may hold anything. */
typedef struct field {
    size_t offset, size;
} field;

#define FIELD(type, name) { offsetof(type, name), sizeof(((type *)0)->name) }
#define MOST_FIELDS 24

typedef struct kind {
    size_t size;
    void (*init)(void *options, size_t size);
    imagine_status (*use)(const void *options, imagine_error *error);
    field fields[MOST_FIELDS]; /* up to one of size 0 */
} kind;

static imagine_model *model;
static imagine_cancel *fired; /* so that jobs end at once */
static char small_pack[128]; /* only a tokenizer */

static void open_model(void)
{
    if (model)
        return;
    FUZZ_CHECK(imagine_model_open(&model, fuzz_context(), IMAGINE_TEST_DIR "/packs/two-layer", NULL, NULL) >= 0);
    FUZZ_CHECK(imagine_cancel_create(&fired, fuzz_context(), NULL) >= 0);
    imagine_cancel_fire(fired);
    fuzz_link("small/tokenizer/tokenizer.json", IMAGINE_TEST_DIR "/packs/two-layer/tokenizer/tokenizer.json");
    snprintf(small_pack, sizeof small_pack, "%s/small", fuzz_folder());
    /* What the stages load stays with the model. */
    imagine_text *text;
    imagine_vae *vae;
    imagine_sampler *sampler;
    FUZZ_CHECK(imagine_text_create(&text, model, NULL, NULL) >= 0 && imagine_vae_create(&vae, model, NULL, NULL) >= 0 &&
               imagine_sampler_create(&sampler, model, NULL, NULL) >= 0);
    imagine_text_destroy(&text);
    imagine_vae_destroy(&vae);
    imagine_sampler_destroy(&sampler);
}

/* ---- what is done with the structs ------------------------------------------------------------------------------- */

static imagine_status use_context(const void *options, imagine_error *error)
{
    imagine_context *context;
    imagine_status status = imagine_context_create(&context, options, error);
    FUZZ_CHECK((status >= 0) == (context != NULL));
    imagine_context_release(&context);
    return status;
}

static imagine_status use_model(const void *options, imagine_error *error)
{
    imagine_model *opened;
    imagine_status status = imagine_model_open(&opened, fuzz_context(), small_pack, options, error);
    FUZZ_CHECK((status >= 0) == (opened != NULL));
    imagine_model_release(&opened);
    return status;
}

static imagine_status use_text(const void *options, imagine_error *error)
{
    imagine_text *text;
    imagine_status status = imagine_text_create(&text, model, options, error);
    FUZZ_CHECK((status >= 0) == (text != NULL));
    imagine_text_destroy(&text);
    return status;
}

static imagine_status use_vae(const void *options, imagine_error *error)
{
    imagine_vae *vae;
    imagine_status status = imagine_vae_create(&vae, model, options, error);
    FUZZ_CHECK((status >= 0) == (vae != NULL));
    imagine_vae_destroy(&vae);
    return status;
}

static imagine_status use_sampler(const void *options, imagine_error *error)
{
    imagine_sampler *sampler;
    imagine_status status = imagine_sampler_create(&sampler, model, options, error);
    FUZZ_CHECK((status >= 0) == (sampler != NULL));
    if (sampler) {
        double sigmas[4] = { -1, -1, -1, -1 };
        uint32_t count = imagine_sampler_get_sigmas(sampler, sigmas, 4);
        /* sCM's first angle, 1.5708, is a little more than a right one, which is a sigma of 1.0000037 */
        FUZZ_CHECK(count >= 2 && count <= 1001 && sigmas[0] > 0 && sigmas[0] < 1.000004 && sigmas[1] < sigmas[0]);
    }
    imagine_sampler_destroy(&sampler);
    return status;
}

static imagine_status use_job(const void *options, imagine_error *error)
{
    imagine_job *job;
    imagine_event event = { .struct_size = sizeof event };
    imagine_status status = imagine_job_create(&job, model, options, error);
    FUZZ_CHECK((status >= 0) == (job != NULL));
    imagine_job_cancel(job);
    while (status >= 0 && imagine_job_next(job, &event, -1, error) >= 0 && event.kind != IMAGINE_EVENT_DONE)
        ;
    imagine_job_destroy(&job);
    return status;
}

/* Structs that the library fills: only their size is the caller's. */
static imagine_status use_infos(const void *options, imagine_error *error)
{
    void *out = (void *)(uintptr_t)options;
    imagine_status status = imagine_context_get_info(fuzz_context(), out, error);
    imagine_status other = imagine_model_get_info(model, out, error);
    FUZZ_CHECK((status < 0) == (other < 0));
    imagine_bench_describe(0, out, error);
    return status;
}

/* The same functions with pointers of no type. */
#define INIT(name)                                                  \
    static void init_##name(void *options, size_t size)             \
    {                                                               \
        imagine_##name##_options_init(options, size);               \
    }
INIT(context)
INIT(model)
INIT(text)
INIT(vae)
INIT(sampler)
INIT(job)

static void init_info(void *info, size_t size)
{
    memset(info, 0, size);
}

static const kind kinds[] = {
    { sizeof(imagine_context_options), init_context, use_context,
      { FIELD(imagine_context_options, device), FIELD(imagine_context_options, threads),
        FIELD(imagine_context_options, cpu_level), FIELD(imagine_context_options, memory_limit),
        FIELD(imagine_context_options, log_level), FIELD(imagine_context_options, reserved0),
        FIELD(imagine_context_options, device_number), FIELD(imagine_context_options, precision),
        FIELD(imagine_context_options, graphs), FIELD(imagine_context_options, reserved1) } },
    { sizeof(imagine_model_options), init_model, use_model,
      { FIELD(imagine_model_options, reserved0), FIELD(imagine_model_options, weights),
        FIELD(imagine_model_options, reserved1) } },
    { sizeof(imagine_text_options), init_text, use_text, { FIELD(imagine_text_options, reserved0) } },
    { sizeof(imagine_vae_options), init_vae, use_vae,
      { FIELD(imagine_vae_options, reserved0), FIELD(imagine_vae_options, tile_width),
        FIELD(imagine_vae_options, tile_height) } },
    { sizeof(imagine_sampler_options), init_sampler, use_sampler,
      { FIELD(imagine_sampler_options, batch), FIELD(imagine_sampler_options, width),
        FIELD(imagine_sampler_options, height), FIELD(imagine_sampler_options, frames),
        FIELD(imagine_sampler_options, steps), FIELD(imagine_sampler_options, seed),
        FIELD(imagine_sampler_options, guidance), FIELD(imagine_sampler_options, shift),
        FIELD(imagine_sampler_options, schedule), FIELD(imagine_sampler_options, step_rule),
        FIELD(imagine_sampler_options, cfg_mode), FIELD(imagine_sampler_options, sigma_count),
        FIELD(imagine_sampler_options, eta), FIELD(imagine_sampler_options, guidance_rescale),
        FIELD(imagine_sampler_options, guidance_start), FIELD(imagine_sampler_options, guidance_stop),
        FIELD(imagine_sampler_options, guidance_audio), FIELD(imagine_sampler_options, strength),
        FIELD(imagine_sampler_options, known_mode), FIELD(imagine_sampler_options, reserved0),
        FIELD(imagine_sampler_options, guidance_2) } },
    { sizeof(imagine_job_options), init_job, use_job,
      { FIELD(imagine_job_options, events), FIELD(imagine_job_options, preview_every),
        FIELD(imagine_job_options, decode), FIELD(imagine_job_options, tile_width),
        FIELD(imagine_job_options, tile_height), FIELD(imagine_job_options, state_every),
        FIELD(imagine_job_options, reserved0) } },
    { 0, init_info, use_infos, { { 0, 0 } } },
};

/* ---- the input --------------------------------------------------------------------------------------------------- */

typedef struct input {
    const uint8_t *data;
    size_t size;
} input;

/* Overwrites `out` as far as the input goes. */
static void take(input *in, void *out, size_t size)
{
    size_t n = in->size < size ? in->size : size;
    memcpy(out, in->data, n);
    in->data += n;
    in->size -= n;
}

/* Pointers to what exists, as far as the struct reaches. */
static void put_pointers(unsigned which, char *bytes, size_t size, input *in)
{
    static double sigmas[1001];
    const double *list = sigmas;
    int32_t threads;
    if (kinds[which].use == use_context && size >= 12) {
        memcpy(&threads, bytes + offsetof(imagine_context_options, threads), sizeof threads);
        if (threads > 2 && threads <= 256) /* those are not what is tested here */
            threads = threads % 2 + 1;
        memcpy(bytes + offsetof(imagine_context_options, threads), &threads, sizeof threads);
    }
    if (kinds[which].use == use_sampler && size >= offsetof(imagine_sampler_options, sigmas) + sizeof list) {
        for (int i = 0; i < 1001; i++)
            sigmas[i] = 1 - i / 1000.0;
        take(in, sigmas, 8 * sizeof *sigmas);
        memcpy(bytes + offsetof(imagine_sampler_options, sigmas), &list, sizeof list);
    }
    if (kinds[which].use == use_job && size >= offsetof(imagine_job_options, cancel) + sizeof fired)
        memcpy(bytes + offsetof(imagine_job_options, cancel), &fired, sizeof fired);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    imagine_error error = IMAGINE_ERROR_INIT;
    input in = { data, size };
    uint8_t which = 0;
    uint32_t struct_size = 0;
    open_model();
    take(&in, &which, 1);
    take(&in, &struct_size, sizeof struct_size);
    which %= sizeof kinds / sizeof *kinds;
    const kind *k = &kinds[which];
    if (struct_size % 3 == 0) /* the size that it has is the most interesting one */
        struct_size = (uint32_t)k->size;
    /* As much memory as the struct says it has, so that a byte read behind it shows; 4096 is the most that is believed. */
    size_t room = struct_size >= 4 && struct_size <= 4096 ? struct_size : 4;
    char *bytes = malloc(room);
    FUZZ_CHECK(bytes);
    k->init(bytes, room);
    for (const field *f = k->fields; f->size; f++)
        if (f->offset + f->size <= room)
            take(&in, bytes + f->offset, f->size);
    put_pointers(which, bytes, room, &in);
    if (k->size && room > k->size)
        take(&in, bytes + k->size, room - k->size);
    memcpy(bytes, &struct_size, sizeof struct_size);
    fuzz_begin(size);
    if (k->use(bytes, &error) < 0)
        FUZZ_CHECK(error.status < 0 && error.message[0]);
    fuzz_end();
    free(bytes);
    return 0;
}
