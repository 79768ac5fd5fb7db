/* SPDX-License-Identifier: MIT */

/* Contexts that compute on a GPU, on the emulated module: every stage beside the CPU's, life and errors. While none of the
 * module's functions runs its memory cannot be looked into, so code of the library that follows a device pointer ends the
 * program. With a real module the same runs on a GPU, but for what asks the emulator to fail. */

#include <dlfcn.h>
#include <math.h>
#include <time.h>

#include "../cuda_emulator/hooks.h"
#include "api.h"

/* Both sides compute the same in f32 and sum in other orders. */
#define LIMIT 1e-10

static struct {
    void (*fail_allocation)(int64_t number);
    void (*fail_launch)(int64_t number);
    uint64_t (*allocations_held)(void);
    uint64_t (*allocations_made)(void);
    uint64_t (*launches)(void);
} emulated;

/* The hooks of the emulated module; 0: it is another one. */
static int find_hooks(void)
{
    void *file = dlopen("libimagine_cuda.so", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    const struct {
        void *to;
        const char *name;
    } all[] = { { &emulated.fail_allocation, "emulated_fail_allocation" },
                { &emulated.fail_launch, "emulated_fail_launch" },
                { &emulated.allocations_held, "emulated_allocations_held" },
                { &emulated.allocations_made, "emulated_allocations_made" },
                { &emulated.launches, "emulated_launches" } };
    int found = file != NULL;
    for (size_t i = 0; i < sizeof all / sizeof *all && found; i++) {
        void *symbol = dlsym(file, all[i].name);
        memcpy(all[i].to, &symbol, sizeof symbol);
        found = symbol != NULL;
    }
    return found;
}

static imagine_context *open_device(imagine_device device, imagine_error *err)
{
    imagine_context_options options;
    imagine_context *context = NULL;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    options.device = device;
    imagine_context_create(&context, &options, err);
    return context;
}

static imagine_model *open_on(imagine_device device, const char *pack, imagine_error *err)
{
    imagine_context *context = open_device(device, err);
    imagine_model *model = NULL;
    if (context)
        imagine_model_open(&model, context, pack, NULL, err);
    imagine_context_release(&context);
    return model;
}

/* The same pack on the CPU and on the GPU. */
typedef struct pair {
    imagine_model *cpu, *gpu;
} pair;

static pair open_pair(const char *pack, imagine_error *err)
{
    return (pair){ open_on(IMAGINE_DEVICE_CPU, pack, err), open_on(IMAGINE_DEVICE_CUDA, pack, err) };
}

static void close_pair(pair *p)
{
    imagine_model_release(&p->gpu);
    imagine_model_release(&p->cpu);
    if (emulated.allocations_held)
        CHECK(emulated.allocations_held() == 0);
}

/* NMSE of two buffers of floats; infinite where they differ in size. */
static double difference(const imagine_buffer *has, const imagine_buffer *wanted)
{
    if (!has || !wanted || imagine_buffer_size(has) != imagine_buffer_size(wanted))
        return INFINITY;
    return test_nmse(imagine_buffer_data(has), imagine_buffer_data(wanted), imagine_buffer_size(wanted) / sizeof(float));
}

static int close_to(const imagine_buffer *has, const imagine_buffer *wanted, const char *what)
{
    double nmse = difference(has, wanted);
    printf("    %s: NMSE %.2g\n", what, nmse);
    return nmse < LIMIT;
}

static double random_state = 1;

/* Floats of about -1 to 1. */
static imagine_buffer *floats(imagine_context *context, int32_t ndim, const int64_t *shape, imagine_error *err)
{
    imagine_buffer *buffer = NULL;
    if (imagine_buffer_create(&buffer, context, IMAGINE_F32, ndim, shape, err) < 0)
        return NULL;
    float *values = imagine_buffer_data(buffer);
    for (size_t i = 0; i < imagine_buffer_size(buffer) / sizeof *values; i++) {
        random_state = fmod(random_state * 16807, 2147483647);
        values[i] = (float)(random_state / 1073741823.5 - 1);
    }
    return buffer;
}

static void text(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    pair p = open_pair(PACK, &err);
    imagine_model *models[2] = { p.cpu, p.gpu };
    imagine_buffer *embeds[2] = { NULL, NULL };
    REQUIRE(p.cpu && p.gpu);
    for (int i = 0; i < 2; i++) {
        imagine_text *stage = NULL;
        CHECK_OK(imagine_text_create(&stage, models[i], NULL, &err));
        CHECK_OK(imagine_text_encode(stage, "a red apple on a table", NULL, &embeds[i], &err));
        imagine_text_destroy(&stage);
    }
    CHECK(close_to(embeds[1], embeds[0], "hidden states"));
    for (int i = 0; i < 2; i++)
        imagine_buffer_release(&embeds[i]);
    close_pair(&p);
}

static void denoise(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    pair p = open_pair(PACK, &err);
    imagine_model *models[2] = { p.cpu, p.gpu };
    imagine_buffer *samples[2] = { NULL, NULL };
    imagine_context *context = open_context(1, &err);
    REQUIRE(p.cpu && p.gpu && context);
    imagine_buffer *x = floats(context, 5, (int64_t[]){ 2, 16, 2, 4, 6 }, &err);
    imagine_buffer *t = floats(context, 1, (int64_t[]){ 2 }, &err);
    imagine_buffer *embeds = floats(context, 3, (int64_t[]){ 2, 5, 16 }, &err);
    REQUIRE(x && t && embeds);
    ((float *)imagine_buffer_data(t))[0] = 981;
    ((float *)imagine_buffer_data(t))[1] = 17.5f;
    for (int i = 0; i < 2; i++) {
        imagine_sampler *stage = NULL;
        CHECK_OK(imagine_sampler_create(&stage, models[i], NULL, &err));
        CHECK_OK(imagine_sampler_denoise(stage, x, t, embeds, &samples[i], &err));
        imagine_sampler_destroy(&stage);
    }
    CHECK(close_to(samples[1], samples[0], "transformer"));
    for (int i = 0; i < 2; i++)
        imagine_buffer_release(&samples[i]);
    imagine_buffer_release(&embeds);
    imagine_buffer_release(&t);
    imagine_buffer_release(&x);
    imagine_context_release(&context);
    close_pair(&p);
}

/* Encodes and decodes a clip with both; `tile` in pixels, 0: none. */
static void code(const char *pack, int64_t frames, int64_t height, int64_t width, int32_t tile)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    pair p = open_pair(pack, &err);
    imagine_model *models[2] = { p.cpu, p.gpu };
    imagine_buffer *latents[2] = { NULL, NULL }, *decoded[2] = { NULL, NULL }, *bytes[2] = { NULL, NULL };
    imagine_context *context = open_context(1, &err);
    REQUIRE(p.cpu && p.gpu && context);
    imagine_buffer *clip = floats(context, 4, (int64_t[]){ 3, frames, height, width }, &err);
    imagine_vae_options options;
    imagine_vae_options_init(&options, sizeof options);
    options.tile_height = options.tile_width = tile;
    for (int i = 0; i < 2; i++) {
        imagine_vae *stage = NULL;
        CHECK_OK(imagine_vae_create(&stage, models[i], &options, &err));
        CHECK_OK(imagine_vae_encode(stage, clip, &latents[i], &err));
        CHECK_OK(imagine_vae_decode(stage, latents[0], IMAGINE_F32, &decoded[i], &err));
        CHECK_OK(imagine_vae_decode(stage, latents[0], IMAGINE_U8, &bytes[i], &err));
        imagine_vae_destroy(&stage);
    }
    CHECK(close_to(latents[1], latents[0], tile ? "latents, tiles" : "latents"));
    CHECK(close_to(decoded[1], decoded[0], tile ? "frames, tiles" : "frames"));
    int differ = 0;
    for (size_t i = 0; bytes[0] && bytes[1] && i < imagine_buffer_size(bytes[0]); i++) {
        int d = ((uint8_t *)imagine_buffer_data(bytes[0]))[i] - ((uint8_t *)imagine_buffer_data(bytes[1]))[i];
        CHECK(d >= -1 && d <= 1);
        differ += d != 0;
    }
    CHECK(bytes[0] && bytes[1] && differ * 1000 < (int)imagine_buffer_size(bytes[0]));
    for (int i = 0; i < 2; i++) {
        imagine_buffer_release(&latents[i]);
        imagine_buffer_release(&decoded[i]);
        imagine_buffer_release(&bytes[i]);
    }
    imagine_buffer_release(&clip);
    imagine_context_release(&context);
    close_pair(&p);
}

static void vae(void)
{
    code(PACK, 5, 16, 24, 0);
}

static void vae_tiles(void)
{
    code(PACK, 5, 32, 48, 16);
}

/* From a prompt to frames, latents compared step by step and at the end. */
static void pipeline(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    pair p = open_pair(PACK, &err);
    imagine_model *models[2] = { p.cpu, p.gpu };
    imagine_buffer *latents[2] = { NULL, NULL }, *frames[2] = { NULL, NULL };
    REQUIRE(p.cpu && p.gpu);
    for (int i = 0; i < 2; i++) {
        imagine_job_options options;
        imagine_job *job = NULL;
        imagine_event event = { .struct_size = sizeof event };
        imagine_job_options_init(&options, sizeof options);
        options.prompt = "a red apple";
        options.events = 0xffffffffu;
        REQUIRE_OK(imagine_job_create(&job, models[i], &options, &err));
        do {
            REQUIRE_OK(imagine_job_next(job, &event, -1, &err));
            if (event.kind == IMAGINE_EVENT_LATENTS)
                latents[i] = imagine_buffer_retain(event.latents);
            if (event.kind == IMAGINE_EVENT_FRAMES && !event.first_frame)
                frames[i] = imagine_buffer_retain(event.frames);
        } while (event.kind != IMAGINE_EVENT_DONE);
        CHECK(event.frame_count == 5);
        imagine_job_destroy(&job);
    }
    CHECK(close_to(latents[1], latents[0], "latents after 4 steps"));
    CHECK(frames[0] && frames[1] && imagine_buffer_size(frames[0]) == imagine_buffer_size(frames[1]));
    for (size_t i = 0; frames[0] && frames[1] && i < imagine_buffer_size(frames[0]); i++) {
        int d = ((uint8_t *)imagine_buffer_data(frames[0]))[i] - ((uint8_t *)imagine_buffer_data(frames[1]))[i];
        CHECK(d >= -1 && d <= 1);
    }
    for (int i = 0; i < 2; i++) {
        imagine_buffer_release(&latents[i]);
        imagine_buffer_release(&frames[i]);
    }
    close_pair(&p);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "text", text }, { "denoise", denoise }, { "vae", vae }, { "vae tiles", vae_tiles }, { "pipeline", pipeline },
    };
    find_hooks();
    return test_main("api/cuda", cases, sizeof cases / sizeof *cases, argc, argv);
}
