/* SPDX-License-Identifier: MIT */

/* A program that works with a context of the driver's of its own finds it current again after every call, and a thread that had
 * none has none, on the emulator, where nothing works in another's context, and on a GPU. */

#include <pthread.h>
#include <unistd.h>

#include "cuda.h"
#include "driver.h"

/* The beginning of DLPack's, under the name that dlpack.h uses. */
struct DLManagedTensorVersioned {
    uint32_t major, minor;
    void *manager;
    void (*deleter)(struct DLManagedTensorVersioned *self);
};

static struct {
    int (*init)(unsigned), (*make)(void **context, unsigned flags, int device), (*destroy)(void *context);
    int (*get)(void **context), (*set)(void *context), (*wait)(void);
} driver;

static char foreign; /* on the emulator, where a context is no more than an address */
static void *planted; /* what the calling thread has */

static void set(void *context)
{
    planted = context;
    if (emulated.set_context)
        emulated.set_context(context);
    else
        CHECK(!driver.set(context));
}

static void *current(void)
{
    void *context = NULL;
    if (emulated.current_context)
        return emulated.current_context();
    CHECK(!driver.get(&context));
    return context;
}

/* That the thread has again what it had before the call; afterwards it has. */
static void check_kept(int line, const char *call)
{
    if (current() == planted)
        return;
    test_fail(__FILE__, line, call);
    set(planted);
}

#define KEEPS(call)                  \
    do {                             \
        CHECK_OK(call);              \
        check_kept(__LINE__, #call); \
    } while (0)
/* Of a function that returns nothing. */
#define KEEPS_IN(call)               \
    do {                             \
        call;                        \
        check_kept(__LINE__, #call); \
    } while (0)

/* A context of the program's own, current; NULL: none can be made. */
static void *begin_foreign(void)
{
    void *context = NULL;
    const driver_function all[] = { { &driver.init, "cuInit" }, { &driver.make, "cuCtxCreate_v2" },
                                    { &driver.destroy, "cuCtxDestroy_v2" }, { &driver.get, "cuCtxGetCurrent" },
                                    { &driver.set, "cuCtxSetCurrent" }, { &driver.wait, "cuCtxSynchronize" } };
    if (emulated.set_context)
        context = &foreign;
    else if (!driver_find(all, sizeof all / sizeof *all) || driver.init(0) || driver.make(&context, 0, 0))
        return NULL;
    set(context);
    return context;
}

static void end_foreign(void *context)
{
    set(context);
    if (!emulated.set_context) {
        CHECK(!driver.wait()); /* it works */
        CHECK(!driver.destroy(context));
    }
    set(NULL);
}

/* ---- every call ---------------------------------------------------------------------------------------------------- */

static imagine_context *open_bf16(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options o;
    imagine_context *context = NULL, *none;
    imagine_context_options_init(&o, sizeof o);
    o.threads = 2;
    o.device = IMAGINE_DEVICE_CUDA;
    o.precision = IMAGINE_PRECISION_BF16;
    KEEPS(imagine_context_create(&context, &o, &err));
    o.device_number = 1000;
    KEEPS_IN(CHECK(imagine_context_create(&none, &o, &err) < 0));
    return context;
}

static void call_buffers(imagine_context *context, imagine_context *cpu)
{
    static const char *const names[] = { "a" };
    char folder[] = P_tmpdir "/imagine-context-XXXXXX", path[96], picture[96];
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *host = floats(cpu, 1, (int64_t[]){ 9 }, &err), *device = NULL, *other = NULL, *read = NULL, *pixels = NULL;
    struct DLManagedTensorVersioned *tensor = NULL;
    REQUIRE(host && mkdtemp(folder));
    snprintf(path, sizeof path, "%s/x.safetensors", folder);
    snprintf(picture, sizeof picture, "%s/x.png", folder);
    KEEPS(imagine_buffer_create_on(&device, context, IMAGINE_DEVICE_CUDA, IMAGINE_F32, 1, (int64_t[]){ 9 }, &err));
    KEEPS(imagine_buffer_create_on(&other, context, IMAGINE_DEVICE_CUDA, IMAGINE_F32, 1, (int64_t[]){ 9 }, &err));
    KEEPS(imagine_buffer_copy(device, host, &err));
    KEEPS(imagine_buffer_copy(other, device, &err));
    KEEPS(imagine_buffer_copy(host, other, &err));
    KEEPS(imagine_buffer_to_dlpack(device, &tensor, &err));
    KEEPS(imagine_buffer_from_dlpack(&read, context, tensor, &err));
    KEEPS_IN(imagine_buffer_release(&read));
    KEEPS(imagine_buffer_to_dlpack(device, &tensor, &err));
    KEEPS_IN(tensor->deleter(tensor));
    KEEPS(imagine_buffer_save(cpu, path, 1, (imagine_buffer *const[]){ device }, names, &err)); /* the buffer's is another's */
    KEEPS(imagine_buffer_load(&read, context, path, "a", &err));
    KEEPS(imagine_buffer_create_on(&pixels, context, IMAGINE_DEVICE_CUDA, IMAGINE_U8, 4, (int64_t[]){ 1, 4, 4, 3 }, &err));
    KEEPS(imagine_picture_save(context, picture, pixels, 8, &err));
    CHECK(!unlink(path) && !unlink(picture) && !rmdir(folder));
    imagine_buffer **all[] = { &host, &device, &other, &read, &pixels };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        KEEPS_IN(imagine_buffer_release(all[i]));
}

static void call_text(imagine_model *model, imagine_buffer **embeds)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_text *text = NULL;
    imagine_buffer *ids = NULL;
    KEEPS(imagine_model_tokenize(model, "a", 0, NULL, &ids, &err));
    KEEPS_IN(imagine_buffer_release(&ids));
    KEEPS(imagine_text_create(&text, model, NULL, &err));
    KEEPS(imagine_text_tokenize(text, "a", 0, &ids, &err));
    KEEPS_IN(imagine_buffer_release(&ids));
    KEEPS(imagine_text_encode(text, "a red apple", NULL, embeds, &err));
    KEEPS_IN(imagine_text_destroy(&text));
}

static void call_sampler(imagine_model *model, imagine_context *cpu, const imagine_buffer *embeds)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler *sampler = NULL;
    imagine_sampler_options o;
    imagine_sampler_options_init(&o, sizeof o);
    o.width = o.height = 16;
    o.frames = 1;
    o.steps = 4;
    imagine_buffer *x = floats(cpu, 5, (int64_t[]){ 1, 16, 1, 2, 2 }, &err), *t = floats(cpu, 1, (int64_t[]){ 1 }, &err);
    imagine_buffer *e = floats(cpu, 3, (int64_t[]){ 1, 3, 16 }, &err), *latents = floats(cpu, 4, (int64_t[]){ 16, 1, 2, 2 }, &err);
    imagine_buffer *mask = floats(cpu, 1, (int64_t[]){ 1 }, &err), *made = NULL, *state = NULL;
    REQUIRE(x && t && e && latents && mask);
    ((float *)imagine_buffer_data(t))[0] = 500;
    ((float *)imagine_buffer_data(mask))[0] = 0;
    KEEPS(imagine_sampler_create(&sampler, model, &o, &err));
    KEEPS(imagine_sampler_denoise(sampler, x, t, e, &made, &err));
    KEEPS_IN(imagine_buffer_release(&made));
    KEEPS(imagine_sampler_set_text(sampler, embeds, embeds, &err));
    KEEPS(imagine_sampler_set_init(sampler, latents, &err));
    KEEPS(imagine_sampler_set_known(sampler, latents, mask, &err));
    KEEPS(imagine_sampler_begin(sampler, latents, &err));
    for (int i = 0; i < 3; i++) /* the second records graphs */
        KEEPS(imagine_sampler_step(sampler, NULL, &err));
    KEEPS(imagine_sampler_get_latents(sampler, 0, &made, &err));
    KEEPS_IN(imagine_buffer_release(&made));
    KEEPS(imagine_sampler_get_estimate(sampler, 0, &made, &err));
    KEEPS(imagine_sampler_get_state(sampler, &state, &err));
    KEEPS(imagine_sampler_resume(sampler, state, &err));
    KEEPS(imagine_sampler_step(sampler, NULL, &err));
    KEEPS_IN(CHECK(imagine_sampler_step(sampler, NULL, &err) < 0)); /* there were four */
    KEEPS_IN(imagine_sampler_destroy(&sampler));
    imagine_buffer **all[] = { &x, &t, &e, &latents, &mask, &made, &state };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        KEEPS_IN(imagine_buffer_release(all[i]));
}

static void call_vae(imagine_model *model, imagine_context *cpu)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_vae *vae = NULL;
    imagine_buffer *clip = floats(cpu, 4, (int64_t[]){ 3, 5, 16, 16 }, &err), *latents = NULL, *frames = NULL;
    REQUIRE(clip);
    KEEPS(imagine_vae_create(&vae, model, NULL, &err));
    KEEPS(imagine_vae_encode(vae, clip, &latents, &err));
    KEEPS(imagine_vae_decode(vae, latents, IMAGINE_U8, &frames, &err));
    KEEPS_IN(imagine_buffer_release(&frames));
    KEEPS(imagine_vae_decode_next(vae, latents, IMAGINE_F32, &frames, &err));
    KEEPS_IN(imagine_buffer_release(&latents));
    KEEPS(imagine_vae_encode_next(vae, clip, &latents, &err));
    KEEPS_IN(imagine_vae_reset(vae));
    KEEPS_IN(imagine_vae_destroy(&vae));
    imagine_buffer **all[] = { &clip, &latents, &frames };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        KEEPS_IN(imagine_buffer_release(all[i]));
}

static void call_job(imagine_model *model)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job = NULL;
    imagine_job_info info = { .struct_size = sizeof info };
    imagine_event event = { .struct_size = sizeof event };
    imagine_estimate estimate = { .struct_size = sizeof estimate };
    imagine_buffer *latents = NULL;
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.steps = 2;
    sampler.width = sampler.height = 16;
    sampler.frames = 1;
    imagine_job_options_init(&options, sizeof options);
    options.prompt = "a";
    options.sampler = &sampler;
    KEEPS(imagine_job_estimate(model, &options, &estimate, &err));
    KEEPS(imagine_job_create(&job, model, &options, &err));
    while (event.kind != IMAGINE_EVENT_DONE) {
        imagine_status status;
        KEEPS(status = imagine_job_next(job, &event, -1, &err));
        if (status < 0)
            break;
    }
    CHECK(event.kind == IMAGINE_EVENT_DONE);
    KEEPS(imagine_job_get_info(job, &info, &err));
    KEEPS(imagine_job_get_latents(job, &latents, &err));
    KEEPS_IN(imagine_buffer_release(&latents));
    KEEPS_IN(imagine_job_destroy(&job));
}

/* One row of operations, one of a whole stage. */
static void call_bench(imagine_context *context)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    for (int32_t i = 0, seen = 0; seen < 2; i++) {
        imagine_bench_row row = { .struct_size = sizeof row, .device = IMAGINE_DEVICE_CUDA, .size = IMAGINE_BENCH_TINY };
        REQUIRE_OK(imagine_bench_describe(i, &row, &err));
        if (strcmp(row.kind, seen ? "transformer" : "linear"))
            continue;
        row = (imagine_bench_row){ .struct_size = sizeof row, .size = IMAGINE_BENCH_TINY };
        KEEPS(imagine_bench(context, i, &row, &err));
        seen++;
    }
}

static void call_all(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_bf16(), *cpu = open_context(1, &err);
    imagine_model *model = NULL;
    imagine_buffer *embeds = NULL;
    REQUIRE(context && cpu);
    KEEPS(imagine_model_open(&model, context, PACK, NULL, &err));
    call_buffers(context, cpu);
    call_text(model, &embeds);
    REQUIRE(embeds);
    call_sampler(model, cpu, embeds);
    call_vae(model, cpu);
    call_job(model);
    call_bench(context);
    KEEPS_IN(imagine_buffer_release(&embeds));
    KEEPS_IN(imagine_model_release(&model));
    KEEPS_IN(imagine_context_release(&context));
    imagine_context_release(&cpu);
    CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
}

static void own_context(void)
{
    void *context = begin_foreign();
    if (!context)
        SKIP("no driver that makes a context");
    if (emulated.libraries)
        emulated.libraries(1);
    call_all();
    if (emulated.libraries)
        emulated.libraries(0);
    end_foreign(context);
}

static void no_context(void)
{
    void *context = begin_foreign();
    if (!context)
        SKIP("no driver that tells of contexts");
    set(NULL);
    call_all();
    end_foreign(context);
}

/* ---- from another thread ------------------------------------------------------------------------------------------- */

typedef struct elsewhere {
    imagine_buffer *buffers[2]; /* of the library's memory, and of the caller's */
    imagine_buffer *last; /* released by the function that releases the caller's memory */
    struct DLManagedTensorVersioned *tensor; /* with the last reference to its buffer and to the context */
    imagine_context *context;
    void *own;
    int seen, kept; /* by that function; by the thread */
} elsewhere;

static void see_context(void *user, void *data)
{
    elsewhere *e = user;
    (void)data;
    e->seen = current() == e->own;
    imagine_buffer_release(&e->last);
    e->seen &= current() == e->own;
}

static void *release_elsewhere(void *arg)
{
    elsewhere *e = arg;
    set(e->own);
    e->kept = 1;
    for (int i = 0; i < 2; i++) {
        imagine_buffer_release(&e->buffers[i]);
        e->kept &= current() == e->own;
    }
    imagine_context_release(&e->context);
    e->tensor->deleter(e->tensor);
    e->kept &= current() == e->own;
    return NULL;
}

/* Buffers, a tensor and at last the context itself are released by whoever has them, whose function finds its own context, too. */
static void released_elsewhere(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    elsewhere e = { .own = begin_foreign() };
    imagine_buffer *given = NULL;
    pthread_t thread;
    if (!e.own)
        SKIP("no driver that makes a context");
    set(NULL);
    REQUIRE(e.context = open_device(IMAGINE_DEVICE_CUDA, &err));
    imagine_buffer **made[] = { &e.buffers[0], &e.last, &given };
    for (int i = 0; i < 3; i++)
        REQUIRE_OK(imagine_buffer_create_on(made[i], e.context, IMAGINE_DEVICE_CUDA, IMAGINE_F32, 1, (int64_t[]){ 9 }, &err));
    REQUIRE_OK(imagine_buffer_wrap_on(&e.buffers[1], e.context, IMAGINE_DEVICE_CUDA, IMAGINE_F32, 1, (int64_t[]){ 9 },
                                      imagine_buffer_data(given), see_context, &e, &err));
    REQUIRE_OK(imagine_buffer_to_dlpack(given, &e.tensor, &err));
    imagine_buffer_release(&given);
    REQUIRE(!pthread_create(&thread, NULL, release_elsewhere, &e));
    pthread_join(thread, NULL);
    CHECK(e.kept && e.seen);
    CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
    end_foreign(e.own);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = { { "own context", own_context }, { "no context", no_context },
                                       { "released elsewhere", released_elsewhere } };
    find_hooks();
    return test_main("api/cuda_context", cases, sizeof cases / sizeof *cases, argc, argv);
}
