/* SPDX-License-Identifier: MIT */

/* Every thread that the library makes fails to be made in turn. This program's pthread_create comes before the C
 * library's. */

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "api.h"

static atomic_int made, fail_at; /* fail_at 0: never */

typedef int create_fn(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

__attribute__((visibility("default"))) int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                                                          void *(*start)(void *), void *arg)
{
    create_fn *real;
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    if (atomic_fetch_add(&made, 1) + 1 == atomic_load(&fail_at))
        return EAGAIN;
    return real(thread, attributes, start, arg);
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

int main(int argc, char **argv)
{
    static const test_case cases[] = { { "every thread", every_thread }, { "readers", readers } };
    return test_main("api/threads", cases, 2, argc, argv);
}
