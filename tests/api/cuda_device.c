/* SPDX-License-Identifier: MIT */

/* What a GPU has to stand: its memory running out at every place, being opened and closed a thousand times; and the shipped model
 * from the prompt to the frames. On the emulator, smaller. */

#include <malloc.h>
#include <unistd.h>

#include "cuda.h"

/* ---- memory that runs out ---------------------------------------------------------------------------------------- */

/* What the calls work on. */
typedef struct parts {
    imagine_model *model;
    imagine_context *cpu;
    imagine_text *text;
    imagine_sampler *sampler;
    imagine_vae *vae;
    imagine_buffer *x, *t, *embeds, *latents, *clip;
} parts;

typedef imagine_status call_fn(parts *p, imagine_buffer **result, imagine_error *err);

static imagine_status encode_text(parts *p, imagine_buffer **result, imagine_error *err)
{
    return imagine_text_encode(p->text, "a red apple", NULL, result, err);
}

static imagine_status denoise(parts *p, imagine_buffer **result, imagine_error *err)
{
    return imagine_sampler_denoise(p->sampler, p->x, p->t, p->embeds, result, err);
}

static imagine_status decode(parts *p, imagine_buffer **result, imagine_error *err)
{
    return imagine_vae_decode(p->vae, p->latents, IMAGINE_U8, result, err);
}

static imagine_status encode(parts *p, imagine_buffer **result, imagine_error *err)
{
    return imagine_vae_encode(p->vae, p->clip, result, err);
}

/* Two steps with guidance: everything of a sampler but the loop. */
static imagine_status sample(parts *p, imagine_buffer **result, imagine_error *err)
{
    imagine_status status = imagine_sampler_set_text(p->sampler, p->embeds, p->embeds, err);
    if (status >= 0)
        status = imagine_sampler_begin(p->sampler, NULL, err);
    for (int i = 0; i < 2 && status >= 0; i++)
        status = imagine_sampler_step(p->sampler, NULL, err);
    return status < 0 ? status : imagine_sampler_get_latents(p->sampler, 0, result, err);
}

static int open_parts(parts *p, imagine_error *err)
{
    imagine_sampler_options o;
    *p = (parts){ .model = open_on(IMAGINE_DEVICE_CUDA, PACK, err), .cpu = open_context(1, err) };
    if (!p->model || !p->cpu)
        return 0;
    imagine_sampler_options_init(&o, sizeof o);
    o.width = o.height = 16;
    o.frames = 1;
    o.steps = 2;
    o.guidance = 3;
    p->x = floats(p->cpu, 5, (int64_t[]){ 1, 16, 1, 2, 2 }, err);
    p->t = floats(p->cpu, 1, (int64_t[]){ 1 }, err);
    p->embeds = floats(p->cpu, 3, (int64_t[]){ 1, 3, 16 }, err);
    p->latents = floats(p->cpu, 4, (int64_t[]){ 16, 2, 1, 1 }, err);
    p->clip = floats(p->cpu, 4, (int64_t[]){ 3, 1, 8, 8 }, err);
    ((float *)imagine_buffer_data(p->t))[0] = 500;
    return imagine_text_create(&p->text, p->model, NULL, err) >= 0 &&
           imagine_sampler_create(&p->sampler, p->model, &o, err) >= 0 &&
           imagine_vae_create(&p->vae, p->model, NULL, err) >= 0;
}

static void close_parts(parts *p)
{
    imagine_buffer *all[] = { p->x, p->t, p->embeds, p->latents, p->clip };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        imagine_buffer_release(&all[i]);
    imagine_text_destroy(&p->text);
    imagine_sampler_destroy(&p->sampler);
    imagine_vae_destroy(&p->vae);
    imagine_model_release(&p->model);
    imagine_context_release(&p->cpu);
}

#define ILLEGAL_ACCESS 700 /* the driver's number, after which nothing works */

static int failed_as_asked(const imagine_error *err, imagine_status wanted)
{
    if (err->status != wanted)
        fprintf(stderr, "    %s\n", err->message);
    return err->status == wanted && (wanted == IMAGINE_ERROR_NO_MEMORY
                                         ? strstr(err->message, "memory") != NULL
                                         : err->native_code == ILLEGAL_ACCESS && strstr(err->message, "CUDA: "));
}

/* What a new handle's first call gives, in memory to free, after its allocations have failed one by one, each with this status;
 * IMAGINE_OK: none has. All is closed again. */
static void *first_call(call_fn *call, imagine_status failing, int *failures, size_t *size)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    parts p;
    imagine_buffer *result = NULL;
    imagine_status status = IMAGINE_OK;
    void *bytes = NULL;
    random_state = 3;
    int open = open_parts(&p, &err);
    CHECK(open);
    do {
        if (failing < 0)
            emulated.fail_allocation(++*failures);
        status = open ? call(&p, &result, &err) : IMAGINE_ERROR_INTERNAL;
        CHECK(status >= 0 || (status == failing && failed_as_asked(&err, failing) && !result));
        if (status < 0)
            imagine_vae_reset(p.vae); /* a clip that has failed */
    } while (status < 0 && status == failing && *failures < 500);
    emulated.fail_allocation(0);
    *size = result ? imagine_buffer_size(result) : 0;
    if (result && (bytes = malloc(*size)))
        memcpy(bytes, imagine_buffer_data(result), *size);
    imagine_buffer_release(&result);
    close_parts(&p);
    CHECK(emulated.allocations_held() == 0);
    return bytes;
}

/* Every allocation of device memory that a handle's first call makes fails in turn: an error that says so, and the same handle
 * gives in the end what one gives that never failed. */
static void go_on_after(imagine_status failure)
{
    static const struct {
        const char *name;
        call_fn *call;
    } calls[] = { { "text", encode_text }, { "one forward", denoise }, { "sampling", sample }, { "decoding", decode },
                  { "encoding", encode } };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        size_t sizes[2] = { 0, 0 };
        void *results[2];
        int failures = 0;
        for (int failing = 0; failing < 2; failing++)
            results[failing] = first_call(calls[i].call, failing ? failure : IMAGINE_OK, &failures, &sizes[failing]);
        printf("    %s: %d allocations\n", calls[i].name, failures - 1);
        CHECK(failures > 1 && results[0] && results[1] && sizes[0] == sizes[1]);
        CHECK(results[0] && results[1] && memcmp(results[0], results[1], sizes[0]) == 0);
        free(results[0]);
        free(results[1]);
    }
}

static void handles_go_on(void)
{
    if (!emulated.fail_allocation)
        SKIP("this module's allocations do not fail when asked to");
    go_on_after(IMAGINE_ERROR_NO_MEMORY);
}

/* A context, a model's weights and a buffer whose memory is not there because the device has failed. */
static void made_on_failing_device(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = NULL;
    imagine_buffer *buffer = NULL;
    emulated.fail_allocation(1);
    CHECK(!open_device(IMAGINE_DEVICE_CUDA, &err) && failed_as_asked(&err, IMAGINE_ERROR_DEVICE));
    context = open_device(IMAGINE_DEVICE_CUDA, &err);
    REQUIRE(context);
    emulated.fail_allocation(1);
    CHECK(imagine_buffer_create_on(&buffer, context, IMAGINE_DEVICE_CUDA, IMAGINE_U8, 1, (int64_t[]){ 64 }, &err) < 0);
    CHECK(!buffer && failed_as_asked(&err, IMAGINE_ERROR_DEVICE));
    imagine_context_release(&context);
    imagine_model *model = open_on(IMAGINE_DEVICE_CUDA, PACK, &err);
    REQUIRE(model);
    imagine_status status = IMAGINE_ERROR_DEVICE;
    int failures = 0;
    for (; status == IMAGINE_ERROR_DEVICE && failures < 500; failures++) {
        imagine_text *text = NULL;
        imagine_sampler *sampler = NULL;
        imagine_vae *vae = NULL;
        emulated.fail_allocation(failures + 1);
        status = imagine_text_create(&text, model, NULL, &err);
        status = status < 0 ? status : imagine_sampler_create(&sampler, model, NULL, &err);
        status = status < 0 ? status : imagine_vae_create(&vae, model, NULL, &err);
        CHECK(status >= 0 || failed_as_asked(&err, IMAGINE_ERROR_DEVICE));
        emulated.fail_allocation(0);
        imagine_vae_destroy(&vae);
        imagine_sampler_destroy(&sampler);
        imagine_text_destroy(&text);
    }
    printf("    %d allocations to make handles\n", failures - 1);
    CHECK(status >= 0 && failures > 3);
    imagine_model_release(&model);
    CHECK(emulated.allocations_held() == 0);
}

/* A device that fails is not one that has no memory left: the driver's number, wherever memory was asked for. */
static void failing_device(void)
{
    if (!emulated.fail_allocation || !emulated.allocation_code)
        SKIP("this module's allocations do not fail as asked");
    emulated.allocation_code(ILLEGAL_ACCESS);
    made_on_failing_device();
    go_on_after(IMAGINE_ERROR_DEVICE);
    emulated.allocation_code(2);
}

/* ---- a thousand lives -------------------------------------------------------------------------------------------- */

/* Bytes that the process holds in memory. */
static int64_t resident(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*d %ld", &pages) != 1)
        pages = 0;
    if (file)
        fclose(file);
    return (int64_t)pages * sysconf(_SC_PAGESIZE);
}

/* How much of a life there is: a context; its model, too; a stage that works, too. */
enum { CONTEXT = 1, MODEL, STAGE };

/* A life, and its end. */
static void live(imagine_precision precision, int much)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options o;
    imagine_context *context = NULL;
    imagine_model *model = NULL;
    imagine_text *text = NULL;
    imagine_buffer *embeds = NULL;
    imagine_context_options_init(&o, sizeof o);
    o.threads = 1;
    o.device = IMAGINE_DEVICE_CUDA;
    o.precision = precision;
    REQUIRE_OK(imagine_context_create(&context, &o, &err));
    if (much >= MODEL)
        CHECK_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    if (much >= STAGE) {
        CHECK_OK(imagine_text_create(&text, model, NULL, &err));
        CHECK_OK(imagine_text_encode(text, "a", NULL, &embeds, &err));
    }
    imagine_buffer_release(&embeds);
    imagine_text_destroy(&text);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* So many lives; no more memory is held on either side after the last than after the first fifty. */
static void live_often(int count, int much)
{
    static const char *const names[] = { "", "a context", "with its model", "with a stage at work" };
    const int warm = 50;
    int64_t host = 0, heap = 0;
    uint64_t device = 0;
    for (int i = 0; i < count && !test_failures; i++) {
        live(i % 2 ? IMAGINE_PRECISION_BF16 : IMAGINE_PRECISION_F32, much);
        CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
        CHECK(!emulated.pins_held || emulated.pins_held() == 0);
        if (i + 1 == warm) {
            malloc_trim(0);
            host = resident();
            heap = (int64_t)mallinfo2().uordblks;
            device = emulated.memory_available ? emulated.memory_available() : 0;
        }
    }
    malloc_trim(0);
    int64_t host_grown = resident() - host, heap_grown = (int64_t)mallinfo2().uordblks - heap, device_grown = 0;
    if (emulated.memory_available)
        device_grown = (int64_t)(device - emulated.memory_available());
    printf("    %d times %s: %.1f MB more on the host, of them %.1f MB in use of the heap, %.1f MB on the device\n", count, names[much],
           (double)host_grown / 1e6, (double)heap_grown / 1e6, (double)device_grown / 1e6);
    CHECK(host_grown < 4 << 20 && device_grown < 16 << 20);
}

/* On a GPU 1,000, and fewer that end sooner, to tell what keeps memory where something does. On the emulator with cuBLASLt there,
 * which each life opens: its stand-in ends the test where something of it was never destroyed. */
static void lives(void)
{
    const int on_emulator = emulated.launches != NULL;
    if (emulated.libraries)
        emulated.libraries(1);
    if (!on_emulator) {
        live_often(250, CONTEXT);
        live_often(250, MODEL);
    }
    live_often(on_emulator ? 150 : 1000, STAGE);
    if (emulated.libraries)
        emulated.libraries(0);
}

/* ---- the shipped model ------------------------------------------------------------------------------------------- */

/* All frames of a job, one behind the other; NULL after a failure. `whole`: with the pack's own steps, frames and guidance, else
 * a picture of one step, with guidance whether or not the pack has any. */
static uint8_t *make_clip(imagine_model *model, int whole, size_t *size, imagine_error *err)
{
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job = NULL;
    imagine_event event = { .struct_size = sizeof event };
    uint8_t *all = NULL;
    imagine_sampler_options_init(&sampler, sizeof sampler);
    if (!whole) {
        sampler.steps = sampler.frames = 1;
        sampler.guidance = 3;
    }
    imagine_job_options_init(&options, sizeof options);
    options.prompt = "a red apple on a table";
    options.sampler = &sampler;
    imagine_status status = imagine_job_create(&job, model, &options, err);
    *size = 0;
    while (status >= 0 && event.kind != IMAGINE_EVENT_DONE) {
        status = imagine_job_next(job, &event, -1, err);
        if (status < 0 || event.kind != IMAGINE_EVENT_FRAMES)
            continue;
        size_t more = imagine_buffer_size(event.frames);
        all = realloc(all, *size + more);
        memcpy(all + *size, imagine_buffer_data(event.frames), more);
        *size += more;
    }
    imagine_job_destroy(&job);
    if (status >= 0)
        return all;
    fprintf(stderr, "    %s\n", err->message);
    free(all);
    return NULL;
}

/* In decibels, of bytes; 99 where they are the same. */
static double signal_to_noise(const uint8_t *a, const uint8_t *b, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)(a[i] - b[i]) * (a[i] - b[i]);
    return sum > 0 ? 10 * log10(255.0 * 255.0 * (double)count / sum) : 99;
}

static const char *tiny(void)
{
    return getenv("IMAGINE_TINY") ? getenv("IMAGINE_TINY") : test_path("../models/tiny");
}

static imagine_model *open_tiny(imagine_device device, imagine_precision precision, imagine_error *err)
{
    imagine_context_options o;
    imagine_context *context = NULL;
    imagine_model *model = NULL;
    imagine_context_options_init(&o, sizeof o);
    o.threads = 1;
    o.device = device;
    o.precision = precision;
    if (imagine_context_create(&context, &o, err) >= 0)
        imagine_model_open(&model, context, tiny(), NULL, err);
    imagine_context_release(&context);
    return model;
}

/* The same clip as the CPU's, to 40 dB and more, in either precision; on the emulator a picture, or the clip too, which takes
 * minutes, where IMAGINE_TEST_WHOLE is set. */
static void shipped_model(void)
{
    static const struct {
        const char *name;
        imagine_device device;
        imagine_precision precision;
    } ways[] = { { "CPU", IMAGINE_DEVICE_CPU, IMAGINE_PRECISION_F32 },
                 { "f32", IMAGINE_DEVICE_CUDA, IMAGINE_PRECISION_F32 },
                 { "bf16", IMAGINE_DEVICE_CUDA, IMAGINE_PRECISION_BF16 } };
    imagine_error err = IMAGINE_ERROR_INIT;
    char config[4096];
    snprintf(config, sizeof config, "%s/transformer/config.json", tiny());
    if (access(config, R_OK))
        SKIP("models/tiny is not there");
    const int whole = !emulated.launches || getenv("IMAGINE_TEST_WHOLE");
    uint8_t *clips[3] = { NULL, NULL, NULL };
    size_t sizes[3] = { 0, 0, 0 };
    for (int i = 0; i < 3; i++) {
        imagine_model *model = open_tiny(ways[i].device, ways[i].precision, &err);
        if (!model)
            fprintf(stderr, "    %s\n", err.message);
        clips[i] = model ? make_clip(model, whole, &sizes[i], &err) : NULL;
        imagine_model_release(&model);
        CHECK(clips[i] && sizes[i] && sizes[i] == sizes[0]);
        if (!i || !clips[0] || !clips[i] || sizes[i] != sizes[0])
            continue;
        double quality = signal_to_noise(clips[i], clips[0], sizes[0]);
        printf("    %s: %zu bytes of frames, %.1f dB\n", ways[i].name, sizes[i], quality);
        CHECK(quality >= 40);
    }
    for (int i = 0; i < 3; i++)
        free(clips[i]);
    CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = { { "handles go on", handles_go_on },
                                       { "failing device", failing_device },
                                       { "lives", lives },
                                       { "shipped model", shipped_model } };
    find_hooks();
    return test_main("api/cuda_device", cases, sizeof cases / sizeof *cases, argc, argv);
}
