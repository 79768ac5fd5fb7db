/* SPDX-License-Identifier: MIT */

/* Every thread that the library makes fails to be made in turn, or is made and does not begin yet. This program's
 * pthread_create comes before the C library's. */

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api.h"

static atomic_int made, fail_at; /* fail_at 0: never */
static atomic_int hold, held; /* hold: 1 while the next thread is not to begin */
static void *(*held_start)(void *);
static void *held_arg;

typedef int create_fn(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static int really_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *arg)
{
    create_fn *real;
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return real(thread, attributes, start, arg);
}

static void *begin_later(void *arg)
{
    (void)arg;
    while (atomic_load(&hold))
        usleep(500);
    return held_start(held_arg);
}

__attribute__((visibility("default"))) int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                                                          void *(*start)(void *), void *arg)
{
    if (atomic_fetch_add(&made, 1) + 1 == atomic_load(&fail_at))
        return EAGAIN;
    if (!atomic_load(&hold) || atomic_load(&held))
        return really_create(thread, attributes, start, arg);
    held_start = start;
    held_arg = arg;
    atomic_store(&held, 1);
    return really_create(thread, attributes, begin_later, NULL);
}

static imagine_status generate(imagine_weights weights, imagine_error *error)
{
    imagine_job *job;
    imagine_model_options options;
    imagine_context *context = open_context(5, error);
    imagine_model *model = NULL;
    imagine_model_options_init(&options, sizeof options);
    options.weights = weights;
    if (context)
        imagine_model_open(&model, context, PACK, &options, error);
    imagine_context_release(&context);
    if (!model)
        return error->status;
    imagine_status status = imagine_job_create(&job, model, NULL, error);
    if (status >= 0)
        status = run_job(job, error);
    imagine_job_destroy(&job);
    imagine_model_release(&model);
    return status;
}

static void every_thread(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    REQUIRE_OK(generate(IMAGINE_WEIGHTS_AUTO, &err));
    int count = atomic_load(&made);
    CHECK(count == 5); /* four of the context, one of the job */
    for (int at = 1; at <= count; at++) {
        err = (imagine_error)IMAGINE_ERROR_INIT;
        atomic_store(&made, 0);
        atomic_store(&fail_at, at);
        CHECK_STATUS(generate(IMAGINE_WEIGHTS_AUTO, &err), IMAGINE_ERROR_THREAD);
        CHECK(err.native_code == EAGAIN && strstr(err.message, "thread"));
    }
    atomic_store(&fail_at, 0);
    CHECK_OK(generate(IMAGINE_WEIGHTS_AUTO, &err));
}

/* Those that read weights ahead can be done without. */
static void readers(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    atomic_store(&made, 0);
    REQUIRE_OK(generate(IMAGINE_WEIGHTS_STREAMED, &err));
    int count = atomic_load(&made);
    CHECK(count > 10);
    for (int at = 6; at <= count; at++) {
        atomic_store(&made, 0);
        atomic_store(&fail_at, at);
        CHECK_OK(generate(IMAGINE_WEIGHTS_STREAMED, &err));
    }
    atomic_store(&fail_at, 0);
}

/* ---- a fork while weights are read block by block ---------------------------------------------------------------- */

static atomic_int stepping; /* the thread that takes the step; -1 once it has */

static void *take_step(void *sampler)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    atomic_store(&stepping, (int)syscall(SYS_gettid));
    CHECK_OK(imagine_sampler_step(sampler, NULL, &err));
    atomic_store(&stepping, -1);
    return NULL;
}

/* 1: the thread waits for something. */
static int is_asleep(int thread)
{
    char path[64], line[256] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    const char *state = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    fclose(file);
    return state && state[1] == ' ' && state[2] == 'S';
}

/* A sampler that has taken a step, with its weights streamed. */
static imagine_sampler *streamed_sampler(imagine_context *context, imagine_error *error)
{
    imagine_model_options how;
    imagine_model *model = NULL;
    imagine_sampler *sampler = NULL;
    imagine_buffer *text = NULL;
    imagine_model_options_init(&how, sizeof how);
    how.weights = IMAGINE_WEIGHTS_STREAMED;
    imagine_status status = imagine_model_open(&model, context, PACK, &how, error);
    if (status >= 0)
        status = imagine_buffer_create(&text, context, IMAGINE_F32, 2, (int64_t[]){ 3, 16 }, error);
    if (status >= 0)
        status = imagine_sampler_create(&sampler, model, NULL, error);
    if (status >= 0)
        status = imagine_sampler_set_text(sampler, text, text, error);
    if (status >= 0)
        status = imagine_sampler_begin(sampler, NULL, error);
    if (status >= 0)
        imagine_sampler_step(sampler, NULL, error);
    imagine_buffer_release(&text);
    imagine_model_release(&model);
    return sampler;
}

/* A child may destroy what its parent is in the midst of: the thread that reads is not there to be waited for. Here it has not
 * even begun, and the forward waits for its first block. */
static void forked_in_a_forward(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    pthread_t thread;
    int state = 0;
    REQUIRE(context);
    imagine_sampler *sampler = streamed_sampler(context, &err);
    atomic_store(&hold, 1);
    REQUIRE(sampler && !really_create(&thread, NULL, take_step, sampler));
    for (int i = 0; i < 20000 && atomic_load(&stepping) >= 0 && !(atomic_load(&held) && is_asleep(atomic_load(&stepping))); i++)
        usleep(500);
    CHECK(atomic_load(&held) && is_asleep(atomic_load(&stepping)));
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        alarm(10);
        imagine_sampler_destroy(&sampler);
        imagine_context_release(&context);
        _exit(0);
    }
    CHECK(child > 0 && waitpid(child, &state, 0) == child);
    CHECK(WIFEXITED(state) && WEXITSTATUS(state) == 0);
    CHECK(is_asleep(atomic_load(&stepping)));
    atomic_store(&hold, 0);
    pthread_join(thread, NULL);
    CHECK_OK(imagine_sampler_step(sampler, NULL, &err));
    imagine_sampler_destroy(&sampler);
    imagine_context_release(&context);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = { { "every thread", every_thread },
                                       { "readers", readers },
                                       { "forked in a forward", forked_in_a_forward } };
    return test_main("api/threads", cases, sizeof cases / sizeof *cases, argc, argv);
}
