/* SPDX-License-Identifier: MIT */
#ifndef TESTS_API_H
#define TESTS_API_H

/* What the tests of the public interface share: the two-layer pack, and one generation. */

#include <imagine/imagine.h>

#include "../test.h"

#define PACK test_path("packs/two-layer")

/* Where goldens are computed: on a GPU if IMAGINE_TEST_DEVICE is "cuda". */
static inline imagine_device test_device(void)
{
    const char *wanted = getenv("IMAGINE_TEST_DEVICE");
    return wanted && !strcmp(wanted, "cuda") ? IMAGINE_DEVICE_CUDA : IMAGINE_DEVICE_CPU;
}

static inline imagine_context *open_context(int32_t threads, imagine_error *error)
{
    imagine_context_options options;
    imagine_context *context = NULL;
    imagine_context_options_init(&options, sizeof options);
    options.threads = threads;
    imagine_context_create(&context, &options, error);
    return context;
}

static inline imagine_model *open_model(int32_t threads, imagine_error *error)
{
    imagine_context *context = open_context(threads, error);
    imagine_model *model = NULL;
    if (context)
        imagine_model_open(&model, context, PACK, NULL, error);
    imagine_context_release(&context);
    return model;
}

/* Waits for the job's end, without looking at what comes before. */
static inline imagine_status run_job(imagine_job *job, imagine_error *error)
{
    imagine_event event = { .struct_size = sizeof event };
    imagine_status status;
    do
        status = imagine_job_next(job, &event, -1, error);
    while (status >= 0 && event.kind != IMAGINE_EVENT_DONE);
    return status;
}

/* The latents that a job of these options ends with. */
static inline imagine_buffer *job_latents(imagine_model *model, const char *prompt,
                                          const imagine_sampler_options *sampler, imagine_error *error)
{
    imagine_job_options options;
    imagine_job *job = NULL;
    imagine_buffer *latents = NULL;
    imagine_job_options_init(&options, sizeof options);
    options.prompt = prompt;
    options.sampler = sampler;
    options.decode = 0;
    if (imagine_job_create(&job, model, &options, error) >= 0 && run_job(job, error) >= 0)
        imagine_job_get_latents(job, &latents, error);
    imagine_job_destroy(&job);
    return latents;
}

static inline int same_bytes(const imagine_buffer *a, const imagine_buffer *b)
{
    return a && b && imagine_buffer_size(a) == imagine_buffer_size(b) && imagine_buffer_size(a) > 0 &&
           !memcmp(imagine_buffer_data(a), imagine_buffer_data(b), imagine_buffer_size(a));
}

#endif
