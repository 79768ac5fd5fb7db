/* SPDX-License-Identifier: MIT */

/* What must hold however often it is done: nothing grows, every cancel is obeyed soon, the bytes are the same. */

#include <dirent.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "api.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1 /* several times slower, and keeps freed memory for a while */
#else
#define SANITIZED 0
#endif

/* ---- what a process holds ---------------------------------------------------------------------------------------- */

typedef struct holdings {
    long pages, descriptors, threads;
} holdings;

static long entries(const char *folder)
{
    long count = 0;
    DIR *dir = opendir(folder);
    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count;
}

static holdings look(void)
{
    holdings h = { 0, entries("/proc/self/fd"), entries("/proc/self/task") };
    FILE *file = fopen("/proc/self/statm", "r");
    if (file) {
        if (fscanf(file, "%*d %ld", &h.pages) != 1)
            h.pages = 0;
        fclose(file);
    }
    return h;
}

/* A thread that has been waited for stands in the folder until the kernel is done with it. */
static holdings look_later(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
    return look();
}

/* `times` of it; what is held after the first tenth is what may be held at the end. */
static void repeat(const char *what, int times, void (*once)(int number, void *arg), void *arg)
{
    holdings early = { 0 };
    for (int i = 0; i < times; i++) {
        if (i == times / 10)
            early = look_later();
        once(i, arg);
    }
    holdings late = look_later();
    long grown = (late.pages - early.pages) * (sysconf(_SC_PAGESIZE) / 1024);
    printf("    %d %s: %ld KiB resident more than after %d, %ld descriptors, %ld threads\n", times, what, grown, times / 10,
           late.descriptors - early.descriptors, late.threads - early.threads);
    CHECK(late.descriptors == early.descriptors && late.threads == early.threads);
    CHECK(early.pages > 0 && (SANITIZED || grown < 1024)); /* a single byte of each would take more, in the C library's blocks */
}

static void one_context(int number, void *arg)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    (void)arg;
    imagine_context *context = open_context(1 + number % 3, &err);
    CHECK(context);
    imagine_context_release(&context);
}

static void one_model(int number, void *context)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model;
    (void)number;
    CHECK_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    imagine_model_release(&model);
}

/* Most are destroyed while they work. */
static void one_job(int number, void *model)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job;
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.width = sampler.height = 16;
    sampler.steps = 2;
    imagine_job_options_init(&options, sizeof options);
    options.sampler = &sampler;
    options.events = 0xffffffffu;
    CHECK_OK(imagine_job_create(&job, model, &options, &err));
    if (number % 10 == 0)
        CHECK_OK(run_job(job, &err));
    else if (number % 10 == 1)
        imagine_job_cancel(job);
    imagine_job_destroy(&job);
}

static void no_growth(void)
{
    const int times = SANITIZED ? 500 : 10000;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(2, &err);
    imagine_model *model;
    REQUIRE(context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    one_job(0, model); /* loads the stages, which stay */
    imagine_context_info before = { .struct_size = sizeof before }, after = before;
    CHECK_OK(imagine_context_get_info(context, &before, &err));
    repeat("contexts", times, one_context, NULL);
    repeat("models", times, one_model, context);
    repeat("jobs", times, one_job, model);
    CHECK_OK(imagine_context_get_info(context, &after, &err));
    CHECK(before.memory_used == after.memory_used);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* ---- cancelling -------------------------------------------------------------------------------------------------- */

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What the threads that there are have waited for a processor so far, by the scheduler's count. */
static double waited(void)
{
    double total = 0;
    struct dirent *entry;
    DIR *dir = opendir("/proc/self/task");
    while (dir && (entry = readdir(dir))) {
        char path[sizeof "/proc/self/task//schedstat" + sizeof entry->d_name];
        unsigned long long ran, delayed;
        snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", entry->d_name);
        FILE *file = fopen(path, "r");
        if (file && fscanf(file, "%llu %llu", &ran, &delayed) == 2)
            total += 1e-9 * (double)delayed;
        if (file)
            fclose(file);
    }
    if (dir)
        closedir(dir);
    return total;
}

/* What a cancel took. On a machine that does other things as well the clock tells mostly of those; what was computed still
 * tells of the library. */
typedef struct delay {
    double wall, computing;
} delay;

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Pixels and frames from hardly any work for a tile to as much as there is. */
static const struct {
    int32_t width, height, frames;
} shapes[] = { { 16, 16, 1 }, { 192, 192, 17 }, { 832, 480, 81 }, { 1024, 576, 1 } };

enum { SHAPES = sizeof shapes / sizeof *shapes };

/* All of a job, or only the decoding of `latents`. */
static delay cancel_one(imagine_model *model, int shape, imagine_buffer *latents, useconds_t after)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job;
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.width = shapes[shape].width;
    sampler.height = shapes[shape].height;
    sampler.frames = shapes[shape].frames;
    sampler.steps = 1000;
    imagine_job_options_init(&options, sizeof options);
    options.sampler = &sampler;
    options.latents = latents;
    CHECK_OK(imagine_job_create(&job, model, &options, &err));
    usleep(after);
    delay took = { seconds(CLOCK_MONOTONIC), seconds(CLOCK_PROCESS_CPUTIME_ID) };
    imagine_job_cancel(job);
    imagine_status status = run_job(job, &err);
    took.wall = seconds(CLOCK_MONOTONIC) - took.wall;
    took.computing = seconds(CLOCK_PROCESS_CPUTIME_ID) - took.computing;
    CHECK(status == IMAGINE_ERROR_CANCELLED || status == IMAGINE_OK); /* a small one may have been done */
    imagine_job_destroy(&job);
    return took;
}

static imagine_buffer *zero_latents(int shape, imagine_context *context)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *latents = NULL;
    CHECK_OK(imagine_buffer_create(&latents, context, IMAGINE_F32, 4,
                                   (int64_t[]){ 16, (shapes[shape].frames - 1) / 4 + 1, shapes[shape].height / 8,
                                                shapes[shape].width / 8 },
                                   &err));
    return latents;
}

static void cancels(void)
{
    enum { TIMES = SANITIZED ? 100 : 1000 };
    static double wall[TIMES], computing[TIMES];
    const double limit = SANITIZED ? 0.5 : 0.05;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(2, &err);
    imagine_buffer *latents[SHAPES];
    imagine_model *model;
    unsigned random = 1;
    REQUIRE(context);
    double begin = seconds(CLOCK_MONOTONIC), waiting = waited();
    for (int i = 0; i < SHAPES; i++)
        latents[i] = zero_latents(i, context);
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    for (int i = 0; i < TIMES; i++) {
        if (i % 50 == 0) { /* the weights are read anew, as a part of the job */
            imagine_model_release(&model);
            REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
        }
        random = random * 1103515245u + 12345u;
        int shape = (int)(random >> 16) % SHAPES, decode = random >> 20 & 1;
        random = random * 1103515245u + 12345u;
        delay took = cancel_one(model, shape, decode ? latents[shape] : NULL, (random >> 8) % 20000);
        wall[i] = took.wall;
        computing[i] = took.computing;
    }
    double share = (waited() - waiting) / (seconds(CLOCK_MONOTONIC) - begin);
    for (int i = 0; i < SHAPES; i++)
        imagine_buffer_release(&latents[i]);
    imagine_model_release(&model);
    imagine_context_release(&context);
    qsort(wall, TIMES, sizeof *wall, ascending);
    qsort(computing, TIMES, sizeof *computing, ascending);
    int p99 = TIMES - TIMES / 100 - 1;
    const struct {
        const char *what;
        const double *times;
    } rows[] = { { "until it was over", wall }, { "computing", computing } };
    printf("    %d jobs of 2 threads cancelled; ms at the median, 99%%, most:\n", TIMES);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        printf("    %-18s %7.2f %7.2f %7.2f\n", rows[i].what, rows[i].times[TIMES / 2] * 1e3, rows[i].times[p99] * 1e3,
               rows[i].times[TIMES - 1] * 1e3);
    CHECK(computing[p99] <= limit && wall[TIMES / 2] <= 10 * limit);
    if (share > 0.25) /* an idle machine of two processors: 0.18 */
        printf("    threads waited for a processor for %.0f%% of the time: other programs run, the clock's 99%% is not judged\n",
               share * 100);
    else
        CHECK(wall[p99] <= limit);
}

/* Fires once the watched thread has computed for a while. */
typedef struct trigger {
    imagine_cancel *cancel;
    clockid_t clock; /* of the thread */
    double when, fired;
    atomic_int over;
    pthread_t thread;
} trigger;

static void *fire(void *arg)
{
    trigger *t = arg;
    while (seconds(t->clock) < t->when && !t->over)
        usleep(200);
    imagine_cancel_fire(t->cancel);
    t->fired = seconds(t->clock);
    return NULL;
}

static void set_trigger(trigger *t)
{
    imagine_cancel_reset(t->cancel);
    t->over = 0;
    CHECK(!pthread_getcpuclockid(pthread_self(), &t->clock));
    t->when = seconds(t->clock) + 0.01;
    CHECK(!pthread_create(&t->thread, NULL, fire, t));
}

/* What this thread has computed after the token fired is what the cancel took: the context has no other. */
static void check_trigger(trigger *t, imagine_status status, const char *what)
{
    double end = seconds(t->clock);
    t->over = 1;
    CHECK(!pthread_join(t->thread, NULL));
    printf("    %s: %.1f ms after its cancel\n", what, (end - t->fired) * 1e3);
    CHECK(status == IMAGINE_ERROR_CANCELLED && end - t->fired <= (SANITIZED ? 0.5 : 0.05));
}

/* Noise, pixels and text so large that drawing, moving and cleaning them alone takes many times what a cancel may. */
static void large_inputs(void)
{
    enum { SIDE = 8192, LENGTH = 8 << 20 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_model *model;
    imagine_buffer *pixels, *made = NULL;
    imagine_sampler *sampler;
    imagine_vae *vae;
    imagine_text *text;
    trigger t = { 0 };
    REQUIRE(context);
    mallopt(M_PERTURB, 0); /* which meson sets, and which fills a gigabyte here */
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    REQUIRE_OK(imagine_cancel_create(&t.cancel, context, &err));
    imagine_sampler_options o;
    imagine_sampler_options_init(&o, sizeof o);
    o.width = o.height = 1024; /* as far as the pack's positions go: 16.8 million values */
    o.frames = 253;
    o.cancel = t.cancel;
    REQUIRE_OK(imagine_sampler_create(&sampler, model, &o, &err));
    set_trigger(&t);
    check_trigger(&t, imagine_sampler_begin(sampler, NULL, &err), "noise");
    imagine_sampler_destroy(&sampler);

    imagine_vae_options of_vae = { .struct_size = sizeof of_vae, .cancel = t.cancel };
    imagine_cancel_reset(t.cancel);
    REQUIRE_OK(imagine_vae_create(&vae, model, &of_vae, &err));
    REQUIRE_OK(imagine_buffer_create(&pixels, context, IMAGINE_F32, 4, (int64_t[]){ 3, 1, SIDE / 2, SIDE }, &err));
    memset(imagine_buffer_data(pixels), 0, imagine_buffer_size(pixels)); /* memory of its own for every page */
    set_trigger(&t);
    check_trigger(&t, imagine_vae_encode(vae, pixels, &made, &err), "pixels");
    imagine_buffer_release(&pixels);
    imagine_vae_destroy(&vae);

    imagine_text_options of_text = { .struct_size = sizeof of_text, .cancel = t.cancel };
    imagine_cancel_reset(t.cancel);
    REQUIRE_OK(imagine_text_create(&text, model, &of_text, &err));
    char *prompt = malloc(LENGTH + 1);
    REQUIRE(prompt);
    for (size_t i = 0; i < LENGTH; i++)
        prompt[i] = i % 2 ? 'a' : '&';
    prompt[LENGTH] = 0;
    set_trigger(&t);
    check_trigger(&t, imagine_text_tokenize(text, prompt, 0, &made, &err), "prompt");
    free(prompt);
    imagine_text_destroy(&text);
    imagine_cancel_release(&t.cancel);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* ---- the same bytes ---------------------------------------------------------------------------------------------- */

enum { MOST_CLIPS = 4, MOST_THREADS = 16 };

/* `batch` clips from seed 3 on; 0 after a failure. */
static int make_clips(imagine_model *model, int32_t batch, imagine_buffer **latents, imagine_buffer **frames)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler_options options;
    imagine_sampler *sampler = NULL;
    imagine_text *text = NULL;
    imagine_vae *vae = NULL;
    imagine_buffer *positive = NULL, *negative = NULL;
    imagine_sampler_options_init(&options, sizeof options);
    options.width = 48;
    options.batch = batch;
    options.seed = 3;
    int fine = imagine_text_create(&text, model, NULL, &err) >= 0 &&
               imagine_text_encode(text, "a dog", NULL, &positive, &err) >= 0 &&
               imagine_text_encode(text, "", NULL, &negative, &err) >= 0 &&
               imagine_sampler_create(&sampler, model, &options, &err) >= 0 &&
               imagine_vae_create(&vae, model, NULL, &err) >= 0 &&
               imagine_sampler_set_text(sampler, positive, negative, &err) >= 0 &&
               imagine_sampler_begin(sampler, NULL, &err) >= 0;
    for (int i = 0; i < 4 && fine; i++)
        fine = imagine_sampler_step(sampler, NULL, &err) >= 0;
    for (int32_t b = 0; b < batch && fine; b++)
        fine = imagine_sampler_get_latents(sampler, b, &latents[b], &err) >= 0 &&
               imagine_vae_decode(vae, latents[b], IMAGINE_F32, &frames[b], &err) >= 0;
    if (!fine)
        fprintf(stderr, "    %s\n", err.message);
    imagine_buffer_release(&positive);
    imagine_buffer_release(&negative);
    imagine_text_destroy(&text);
    imagine_sampler_destroy(&sampler);
    imagine_vae_destroy(&vae);
    return fine;
}

/* Every number of threads with every number of clips, some of them twice. */
static void same_bytes_always(void)
{
    enum { RUNS = 100 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *latents[MOST_CLIPS] = { NULL }, *frames[MOST_CLIPS] = { NULL };
    for (int run = 0; run < RUNS; run++) {
        int32_t threads = 1 + run % MOST_THREADS, batch = run ? 1 + run / MOST_THREADS % MOST_CLIPS : MOST_CLIPS;
        imagine_buffer *again[MOST_CLIPS] = { NULL }, *frames_again[MOST_CLIPS] = { NULL };
        imagine_model *model = open_model(threads, &err);
        REQUIRE(model);
        CHECK(make_clips(model, batch, run ? again : latents, run ? frames_again : frames));
        imagine_model_release(&model);
        for (int b = 0; run && b < batch; b++) {
            int same = same_bytes(latents[b], again[b]) && same_bytes(frames[b], frames_again[b]);
            if (!same)
                fprintf(stderr, "    run %d: %d threads, clip %d of %d\n", run, (int)threads, b, (int)batch);
            CHECK(same);
            imagine_buffer_release(&again[b]);
            imagine_buffer_release(&frames_again[b]);
        }
    }
    CHECK(!same_bytes(latents[0], latents[1])); /* they have something to show */
    for (int b = 0; b < MOST_CLIPS; b++) {
        imagine_buffer_release(&latents[b]);
        imagine_buffer_release(&frames[b]);
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = { { "no growth", no_growth }, { "cancels", cancels }, { "large inputs", large_inputs },
                                       { "same bytes", same_bytes_always } };
    return test_main("api/soak", cases, sizeof cases / sizeof cases[0], argc, argv);
}
