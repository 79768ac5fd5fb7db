/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TESTS_PARITY_RUNS_H
#define IMAGINE_TESTS_PARITY_RUNS_H

/* Whole sampler runs beside goldens: a model, and noise and texts from the file that also holds the results. */

#include "../api/api.h"

#define LIMIT 1e-10

typedef struct inputs {
    const char *goldens; /* below tests/ */
    imagine_context *context;
    imagine_model *model;
    imagine_buffer *noise, *positive, *negative;
} inputs;

static inline imagine_buffer *golden(const inputs *in, const char *name)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *buffer = NULL;
    CHECK_OK(imagine_buffer_load(&buffer, in->context, test_path(in->goldens), name, &err));
    return buffer;
}

/* The model of `folder`; 0 with a recorded failure. NULL options: the defaults. */
static inline int inputs_open(inputs *in, const char *goldens, const char *folder, const imagine_context_options *context,
                              const imagine_model_options *model)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    *in = (inputs){ .goldens = goldens };
    if (imagine_context_create(&in->context, context, &err) < 0 ||
        imagine_model_open(&in->model, in->context, folder, model, &err) < 0) {
        test_fail(__FILE__, __LINE__, err.message);
        return 0;
    }
    in->noise = golden(in, "noise");
    in->positive = golden(in, "positive");
    in->negative = golden(in, "negative");
    return in->noise && in->positive && in->negative;
}

static inline void close_inputs(inputs *in)
{
    imagine_buffer_release(&in->noise);
    imagine_buffer_release(&in->positive);
    imagine_buffer_release(&in->negative);
    imagine_model_release(&in->model);
    imagine_context_release(&in->context);
}

static inline void compare(const inputs *in, const imagine_buffer *latents, const char *name)
{
    imagine_buffer *there = golden(in, name);
    REQUIRE(latents && there && imagine_buffer_size(latents) == imagine_buffer_size(there));
    double error = test_nmse(imagine_buffer_data(latents), imagine_buffer_data(there),
                             imagine_buffer_size(there) / sizeof(float));
    printf("    %s: %.1e\n", name, error);
    CHECK(error <= LIMIT);
    imagine_buffer_release(&there);
}

#endif
