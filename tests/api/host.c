/* SPDX-License-Identifier: MIT */

/* What hosts do to their own threads, folders and logs. */

#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xmmintrin.h>

#include "api.h"

#define FLUSHED 0x8040u /* denormals are zero, as audio programs have it */

static imagine_buffer *stages(imagine_model *model, imagine_error *error)
{
    imagine_sampler_options options;
    imagine_sampler *sampler = NULL;
    imagine_text *text = NULL;
    imagine_vae *vae = NULL;
    imagine_buffer *embeds = NULL, *latents = NULL, *frames = NULL;
    imagine_sampler_options_init(&options, sizeof options);
    options.guidance = 1;
    if (imagine_text_create(&text, model, NULL, error) >= 0 && imagine_text_encode(text, "a dog", NULL, &embeds, error) >= 0 &&
        imagine_sampler_create(&sampler, model, &options, error) >= 0 && imagine_sampler_set_text(sampler, embeds, NULL, error) >= 0 &&
        imagine_sampler_begin(sampler, NULL, error) >= 0) {
        while (imagine_sampler_step(sampler, NULL, error) >= 0)
            ;
        imagine_sampler_get_latents(sampler, 0, &latents, error);
        if (latents && imagine_vae_create(&vae, model, NULL, error) >= 0)
            imagine_vae_decode(vae, latents, IMAGINE_F32, &frames, error);
    }
    imagine_buffer_release(&embeds);
    imagine_buffer_release(&latents);
    imagine_sampler_destroy(&sampler);
    imagine_text_destroy(&text);
    imagine_vae_destroy(&vae);
    return frames;
}

/* Whatever a host's rounding is, and what it does with denormals and with traps: the same bytes, and its own setting afterwards. */
static void floats(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model = open_model(2, &err);
    REQUIRE(model);
    imagine_buffer *latents = job_latents(model, "a dog", NULL, &err), *frames = stages(model, &err);
    CHECK(latents && frames);
    imagine_model_release(&model);
    for (int k = 0; k < 2; k++) {
        unsigned before = _mm_getcsr();
        fesetround(k ? FE_UPWARD : FE_TOWARDZERO);
        _mm_setcsr(k ? _mm_getcsr() | FLUSHED : _mm_getcsr() & ~(unsigned)_MM_MASK_UNDERFLOW);
        unsigned set = _mm_getcsr();
        model = open_model(2, &err);
        imagine_buffer *again = model ? job_latents(model, "a dog", NULL, &err) : NULL, *drawn = model ? stages(model, &err) : NULL;
        CHECK((_mm_getcsr() & ~63u) == (set & ~63u) && fegetround() == (k ? FE_UPWARD : FE_TOWARDZERO));
        imagine_model_release(&model);
        _mm_setcsr(before);
        fesetround(FE_TONEAREST);
        CHECK(same_bytes(again, latents));
        CHECK(same_bytes(drawn, frames));
        imagine_buffer_release(&again);
        imagine_buffer_release(&drawn);
    }
    imagine_buffer_release(&latents);
    imagine_buffer_release(&frames);
}

static pthread_t host;
static int elsewhere, faults_blocked, others_open;

static void *watched_alloc(void *data, size_t size, size_t alignment)
{
    (void)data;
    if (!pthread_equal(pthread_self(), host)) {
        sigset_t mask;
        pthread_sigmask(SIG_BLOCK, NULL, &mask);
        elsewhere++;
        faults_blocked += sigismember(&mask, SIGSEGV) || sigismember(&mask, SIGBUS) || sigismember(&mask, SIGFPE);
        others_open += !sigismember(&mask, SIGINT) || !sigismember(&mask, SIGUSR1) || !sigismember(&mask, SIGALRM);
    }
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void watched_free(void *data, void *pointer, size_t size)
{
    (void)data;
    (void)size;
    free(pointer);
}

/* On the library's threads, faults reach the host's handlers, as in a host that fills memory when it is touched; other signals do not. */
static void signals(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options options;
    imagine_context *context;
    imagine_model *model;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    options.allocate = watched_alloc;
    options.release = watched_free;
    host = pthread_self();
    REQUIRE_OK(imagine_context_create(&context, &options, &err));
    REQUIRE_OK(imagine_model_open(&model, context, PACK, NULL, &err));
    imagine_buffer *latents = job_latents(model, "a dog", NULL, &err);
    CHECK(latents && elsewhere > 0 && !faults_blocked && !others_open);
    imagine_buffer_release(&latents);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

static imagine_status waited;

static void *wait_for_job(void *job)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    waited = run_job(job, &err);
    pthread_testcancel();
    return job;
}

/* pthread_cancel waits until the call returns, and no lock stays behind. */
static void cancelled_thread(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_model *model = open_model(1, &err);
    imagine_job *job;
    pthread_t thread;
    void *result = NULL;
    REQUIRE(model);
    imagine_sampler_options_init(&sampler, sizeof sampler);
    imagine_job_options_init(&options, sizeof options);
    sampler.steps = 1000;
    sampler.width = sampler.height = 256;
    options.sampler = &sampler;
    options.events = 0;
    REQUIRE_OK(imagine_job_create(&job, model, &options, &err));
    REQUIRE(!pthread_create(&thread, NULL, wait_for_job, job));
    usleep(20000);
    CHECK(!pthread_cancel(thread));
    usleep(20000);
    imagine_job_cancel(job);
    REQUIRE(!pthread_join(thread, &result));
    CHECK(result == PTHREAD_CANCELED && waited == IMAGINE_ERROR_CANCELLED);
    imagine_job_destroy(&job);
    imagine_buffer *latents = job_latents(model, "a dog", NULL, &err);
    CHECK(latents);
    imagine_buffer_release(&latents);
    imagine_model_release(&model);
}

/* A model stays what it was opened as, wherever its folder and the host go; its files are read for the first time here. */
static void moved_folder(void)
{
    static const char *const parts[] = { "model_index.json", "imagine.json", "tokenizer", "text_encoder", "transformer", "vae", "scheduler" };
    imagine_error err = IMAGINE_ERROR_INIT;
    char folder[] = P_tmpdir "/imagine-test-XXXXXX", path[1200], target[1200], before[1200];
    imagine_model *model = open_model(1, &err), *own = NULL;
    imagine_context *context = open_context(1, &err);
    REQUIRE(model && context && mkdtemp(folder) && getcwd(before, sizeof before));
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", PACK, parts[i]);
        if (!realpath(path, target))
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, parts[i]);
        CHECK(!symlink(target, path));
    }
    imagine_buffer *expected = job_latents(model, "a dog", NULL, &err);
    CHECK(!chdir(P_tmpdir));
    CHECK_OK(imagine_model_open(&own, context, strrchr(folder, '/') + 1, NULL, &err));
    CHECK(!chdir(before));
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, parts[i]);
        unlink(path);
    }
    rmdir(folder);
    imagine_buffer *latents = own ? job_latents(own, "a dog", NULL, &err) : NULL;
    CHECK(same_bytes(latents, expected));
    imagine_buffer_release(&latents);
    imagine_buffer_release(&expected);
    imagine_model_release(&own);
    imagine_model_release(&model);
    imagine_context_release(&context);
}

/* A name in a file cannot write lines of the host's log, nor speak to its terminal. */
static void one_line(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_model *model;
    REQUIRE(context);
    CHECK_STATUS(imagine_model_open(&model, context, "no\npack\x1b[2J\xc2\x9b\x7f\xc3\xa4", NULL, &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK(strstr(err.message, "no?pack?[2J???\xc3\xa4"));
    imagine_context_release(&context);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "floats", floats }, { "signals", signals }, { "cancelled thread", cancelled_thread },
        { "moved folder", moved_folder }, { "one line", one_line },
    };
    return test_main("api/host", cases, sizeof cases / sizeof cases[0], argc, argv);
}
