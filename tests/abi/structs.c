/* SPDX-License-Identifier: MIT */

/* Every public struct in every length that a caller's headers may give it. Whoever adds a struct adds a line to `inputs` or
 * `outputs`; tests/abi/check.py compares their names with the headers. */

#include <stddef.h>

#include <imagine/imagine.h>

#include "../test.h"

#define ROOM 4096 /* beyond any struct */
#define FILL 0xa5
#define BEYOND 40 /* bytes that a newer caller has more */

static imagine_context *context;
static imagine_model *model;
static imagine_sampler *sampler;
static imagine_job *job; /* that is done */
static imagine_buffer *buffer;

/* ---- what takes or gives each struct --------------------------------------------------------- */

static imagine_status use_context(const void *options, imagine_error *error)
{
    imagine_context *made;
    imagine_status status = imagine_context_create(&made, options, error);
    imagine_context_release(&made);
    return status;
}

static imagine_status use_model(const void *options, imagine_error *error)
{
    imagine_model *made;
    imagine_status status = imagine_model_open(&made, context, test_path("packs/two-layer"), options, error);
    imagine_model_release(&made);
    return status;
}

static imagine_status use_text(const void *options, imagine_error *error)
{
    imagine_text *made;
    imagine_status status = imagine_text_create(&made, model, options, error);
    imagine_text_destroy(&made);
    return status;
}

static imagine_status use_vae(const void *options, imagine_error *error)
{
    imagine_vae *made;
    imagine_status status = imagine_vae_create(&made, model, options, error);
    imagine_vae_destroy(&made);
    return status;
}

static imagine_status use_sampler(const void *options, imagine_error *error)
{
    imagine_sampler *made;
    imagine_status status = imagine_sampler_create(&made, model, options, error);
    imagine_sampler_destroy(&made);
    return status;
}

static imagine_status use_job(const void *options, imagine_error *error)
{
    imagine_job *made;
    imagine_status status = imagine_job_create(&made, model, options, error);
    imagine_job_destroy(&made);
    return status;
}

static imagine_status give_context(void *info, imagine_error *error)
{
    return imagine_context_get_info(context, info, error);
}

static imagine_status give_model(void *info, imagine_error *error)
{
    return imagine_model_get_info(model, info, error);
}

static imagine_status give_buffer(void *info, imagine_error *error)
{
    return imagine_buffer_get_info(buffer, info, error);
}

static imagine_status give_step(void *info, imagine_error *error)
{
    imagine_status status = imagine_sampler_begin(sampler, NULL, error);
    return status < 0 ? status : imagine_sampler_step(sampler, info, error);
}

static imagine_status give_event(void *event, imagine_error *error)
{
    return imagine_job_next(job, event, -1, error);
}

static imagine_status give_job(void *info, imagine_error *error)
{
    return imagine_job_get_info(job, info, error);
}

static imagine_status give_estimate(void *estimate, imagine_error *error)
{
    return imagine_job_estimate(model, NULL, estimate, error);
}

static imagine_status give_row(void *row, imagine_error *error)
{
    return imagine_bench_describe(1, row, error);
}

#define INPUT(name, use)                                                                  \
    {                                                                                     \
        #name, sizeof(name), (void (*)(void *, size_t))(void (*)(void))name##_init, (use) \
    }
static const struct input {
    const char *name;
    size_t size;
    void (*init)(void *options, size_t size);
    imagine_status (*use)(const void *options, imagine_error *error);
} inputs[] = {
    INPUT(imagine_context_options, use_context),
    INPUT(imagine_job_options, use_job),
    INPUT(imagine_model_options, use_model),
    INPUT(imagine_sampler_options, use_sampler),
    INPUT(imagine_text_options, use_text),
    INPUT(imagine_vae_options, use_vae),
};

#define OUTPUT(name, give, read, time) { #name, sizeof(name), (read), (time), (give) }
static const struct output {
    const char *name;
    size_t size;
    int read; /* the library reads it too, so that what the caller leaves open, and the unknown tail, must be zero */
    size_t time; /* offset of eight bytes that differ from call to call, or 0 */
    imagine_status (*give)(void *out, imagine_error *error);
} outputs[] = {
    OUTPUT(imagine_bench_row, give_row, 1, 0),
    OUTPUT(imagine_buffer_info, give_buffer, 0, 0),
    OUTPUT(imagine_context_info, give_context, 0, 0),
    OUTPUT(imagine_estimate, give_estimate, 0, 0),
    OUTPUT(imagine_event, give_event, 0, offsetof(imagine_event, seconds)),
    OUTPUT(imagine_job_info, give_job, 0, 0),
    OUTPUT(imagine_model_info, give_model, 0, 0),
    OUTPUT(imagine_step_info, give_step, 0, offsetof(imagine_step_info, seconds)),
};
#define COUNT(array) (sizeof(array) / sizeof (array)[0])

/* ---- lengths --------------------------------------------------------------------------------- */

typedef union memory {
    unsigned char bytes[ROOM];
    uint32_t struct_size;
    uint64_t aligned;
} memory;

static int all(const memory *m, size_t from, size_t to, int byte)
{
    for (size_t i = from; i < to; i++)
        if (m->bytes[i] != byte)
            return 0;
    return 1;
}

/* The bytes behind struct_size, up to `to`, are those of `expected`. */
static int same(const memory *m, const memory *expected, size_t to, size_t time)
{
    for (size_t i = sizeof(uint32_t); i < to; i++)
        if (m->bytes[i] != expected->bytes[i] && !(time && i >= time && i < time + 8))
            return 0;
    return 1;
}

static void wrong(const char *file, int line, const char *name, size_t size, const char *what)
{
    fprintf(stderr, "%s of %zu bytes: ", name, size);
    test_fail(file, line, what);
}
#define HOLDS(x) ((x) ? (void)0 : wrong(__FILE__, __LINE__, s->name, size, #x))

/* An older caller's options: nothing behind them is written or read, and what they lack is at its default. */
static void shorter_inputs(void)
{
    for (const struct input *s = inputs; s < inputs + COUNT(inputs); s++) {
        memory whole, m;
        s->init(&whole, s->size);
        for (size_t size = sizeof(uint32_t); size <= s->size; size += sizeof(uint32_t)) {
            imagine_error err = IMAGINE_ERROR_INIT;
            memset(&m, FILL, sizeof m);
            s->init(&m, size);
            HOLDS(m.struct_size == size && same(&m, &whole, size, 0) && all(&m, size, ROOM, FILL));
            HOLDS(s->use(&m, &err) == IMAGINE_OK);
            HOLDS(all(&m, size, ROOM, FILL));
        }
    }
}

/* A newer caller's options: the tail that this library does not know must be zero. */
static void longer_inputs(void)
{
    for (const struct input *s = inputs; s < inputs + COUNT(inputs); s++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        size_t size = s->size + BEYOND;
        memory m;
        memset(&m, FILL, sizeof m);
        s->init(&m, size);
        HOLDS(m.struct_size == size && all(&m, s->size, size, 0) && all(&m, size, ROOM, FILL));
        HOLDS(s->use(&m, &err) == IMAGINE_OK);
        for (size_t at = s->size; at < size; at += 13) {
            m.bytes[at] = 1;
            HOLDS(s->use(&m, &err) == IMAGINE_ERROR_INVALID_ARGUMENT && strstr(err.message, s->name));
            m.bytes[at] = 0;
        }
        m.bytes[size - 1] = 0x80;
        HOLDS(s->use(&m, &err) == IMAGINE_ERROR_INVALID_ARGUMENT);
    }
}

static const uint32_t impossible[] = { 0, 1, 3, ROOM + 1, UINT32_MAX };

static void impossible_inputs(void)
{
    for (const struct input *s = inputs; s < inputs + COUNT(inputs); s++) {
        size_t size = s->size;
        memory m, before;
        memset(&m, FILL, sizeof m);
        before = m;
        s->init(&m, 3);
        s->init(NULL, s->size);
        HOLDS(!memcmp(&m, &before, sizeof m));
        for (size_t i = 0; i < COUNT(impossible); i++) {
            imagine_error err = IMAGINE_ERROR_INIT;
            s->init(&m, s->size);
            m.struct_size = impossible[i];
            HOLDS(s->use(&m, &err) == IMAGINE_ERROR_INVALID_ARGUMENT && strstr(err.message, s->name));
        }
    }
}

/* The sampler's options inside a job's follow the same rules. */
static void nested_inputs(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_job_options options;
    memory m;
    imagine_job_options_init(&options, sizeof options);
    options.sampler = (const imagine_sampler_options *)(const void *)&m;
    memset(&m, FILL, sizeof m);
    imagine_sampler_options_init((imagine_sampler_options *)(void *)&m, 16);
    CHECK_OK(use_job(&options, &err));
    imagine_sampler_options_init((imagine_sampler_options *)(void *)&m, sizeof(imagine_sampler_options) + BEYOND);
    CHECK_OK(use_job(&options, &err));
    m.bytes[sizeof(imagine_sampler_options) + 5] = 1;
    CHECK_STATUS(use_job(&options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "imagine_sampler_options"));
}

/* A struct of this size before the call: rubbish, and behind it what must not be touched. */
static memory before_call(const struct output *s, size_t size)
{
    memory m;
    memset(&m, FILL, sizeof m);
    if (s->read)
        memset(&m, 0, size < s->size ? size : s->size);
    m.struct_size = (uint32_t)size;
    return m;
}

/* An older caller gets what its struct has room for, and not a byte behind it is written. */
static void shorter_outputs(void)
{
    for (const struct output *s = outputs; s < outputs + COUNT(outputs); s++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        memory whole = { .struct_size = (uint32_t)s->size }, m;
        CHECK_OK(s->give(&whole, &err));
        for (size_t size = sizeof(uint32_t); size <= s->size; size += sizeof(uint32_t)) {
            m = before_call(s, size);
            HOLDS(s->give(&m, &err) == IMAGINE_OK);
            HOLDS(m.struct_size == size && same(&m, &whole, size, s->time) && all(&m, size, ROOM, FILL));
        }
    }
}

/* A newer caller's tail is zeroed. */
static void longer_outputs(void)
{
    for (const struct output *s = outputs; s < outputs + COUNT(outputs); s++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        size_t size = s->size + BEYOND;
        memory whole = { .struct_size = (uint32_t)s->size }, m;
        CHECK_OK(s->give(&whole, &err));
        m = before_call(s, size);
        if (s->read) {
            HOLDS(s->give(&m, &err) == IMAGINE_ERROR_INVALID_ARGUMENT && strstr(err.message, s->name));
            memset(m.bytes + s->size, 0, BEYOND);
        }
        HOLDS(s->give(&m, &err) == IMAGINE_OK);
        HOLDS(m.struct_size == size && same(&m, &whole, s->size, s->time));
        HOLDS(all(&m, s->size, size, 0) && all(&m, size, ROOM, FILL));
    }
}

static void impossible_outputs(void)
{
    for (const struct output *s = outputs; s < outputs + COUNT(outputs); s++) {
        for (size_t i = 0; i < COUNT(impossible); i++) {
            imagine_error err = IMAGINE_ERROR_INIT;
            size_t size = impossible[i];
            memory m, before;
            memset(&m, FILL, sizeof m);
            m.struct_size = impossible[i];
            before = m;
            HOLDS(s->give(&m, &err) == IMAGINE_ERROR_INVALID_ARGUMENT && strstr(err.message, s->name));
            HOLDS(!memcmp(&m, &before, sizeof m));
        }
    }
}

/* An error is 512 bytes whatever its struct_size says: it must be usable without initialisation. */
static void errors(void)
{
    for (size_t i = 0; i < COUNT(impossible); i++) {
        memory m;
        imagine_error *error = (imagine_error *)(void *)&m;
        memset(&m, FILL, sizeof m);
        error->struct_size = impossible[i];
        CHECK(imagine_context_get_info(NULL, NULL, error) == IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(error->struct_size == 512 && error->status == IMAGINE_ERROR_INVALID_ARGUMENT && strstr(error->message, "NULL"));
        CHECK(all(&m, 512, ROOM, FILL));
    }
}

/* What the structs are asked of. */
static int open_all(imagine_error *error)
{
    imagine_sampler_options options;
    imagine_job_options job_options;
    imagine_event event = { .struct_size = sizeof event };
    imagine_buffer *text = NULL;
    imagine_sampler_options_init(&options, sizeof options);
    imagine_job_options_init(&job_options, sizeof job_options);
    options.guidance = 1;
    job_options.sampler = &options;
    if (imagine_context_create(&context, NULL, error) < 0 ||
        imagine_model_open(&model, context, test_path("packs/two-layer"), NULL, error) < 0 ||
        imagine_buffer_create(&buffer, context, IMAGINE_F32, 3, (int64_t[]){ 2, 3, 4 }, error) < 0 ||
        imagine_buffer_create(&text, context, IMAGINE_F32, 2, (int64_t[]){ 2, 16 }, error) < 0 ||
        imagine_sampler_create(&sampler, model, &options, error) < 0 ||
        imagine_sampler_set_text(sampler, text, NULL, error) < 0 ||
        imagine_job_create(&job, model, &job_options, error) < 0)
        return 0;
    imagine_buffer_release(&text);
    while (imagine_job_next(job, &event, -1, error) >= 0)
        if (event.kind == IMAGINE_EVENT_DONE)
            return 1;
    return 0;
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "shorter inputs", shorter_inputs },       { "longer inputs", longer_inputs },
        { "impossible inputs", impossible_inputs }, { "nested inputs", nested_inputs },
        { "shorter outputs", shorter_outputs },     { "longer outputs", longer_outputs },
        { "impossible outputs", impossible_outputs }, { "errors", errors },
    };
    imagine_error error = IMAGINE_ERROR_INIT;
    if (!open_all(&error)) {
        printf("abi/structs: 0 passed, 1 failed, 0 skipped: %s\n", error.message);
        return 1;
    }
    int failed = test_main("abi/structs", cases, COUNT(cases), argc, argv);
    imagine_job_destroy(&job);
    imagine_sampler_destroy(&sampler);
    imagine_buffer_release(&buffer);
    imagine_model_release(&model);
    imagine_context_release(&context);
    return failed;
}
