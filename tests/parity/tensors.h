/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TESTS_PARITY_TENSORS_H
#define IMAGINE_TESTS_PARITY_TENSORS_H

/* Goldens for the parity tests of internals: a safetensors file of f32 tensors, and a place to compute in. */

#include "model/model.h"
#include "tests/test.h"

/* A context at a number of threads and a CPU level, with a work on it; NULL context on failure. */
typedef struct bench {
    imagine_context *context;
    imagine__work work;
} bench;

static inline int bench_open(bench *b, int32_t threads, imagine_cpu_level level)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options options;
    memset(b, 0, sizeof *b);
    imagine_context_options_init(&options, sizeof options);
    options.threads = threads;
    options.cpu_level = level;
    if (imagine_context_create(&b->context, &options, &err) < 0 ||
        imagine__work_init(&b->work, b->context, NULL, &err) < 0) {
        test_fail(__FILE__, __LINE__, err.message);
        imagine_context_release(&b->context);
        return 0;
    }
    return 1;
}

static inline void bench_close(bench *b)
{
    if (b->context)
        imagine__work_fini(&b->work);
    imagine_context_release(&b->context);
}

/* The f32 tensor `name`, with its shape in shape[IMAGINE_MAX_DIMS]; malloc'ed; NULL with a recorded failure. */
static inline float *tensor_read(const imagine__weights *file, const char *name, int64_t *shape)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    const imagine__tensor *t = imagine__weights_find(file, name);
    if (!t || t->dtype != IMAGINE_F32) {
        test_fail(__FILE__, __LINE__, name);
        return NULL;
    }
    float *values = malloc(t->size + 1);
    if (!values || imagine__weights_read(file, t, 0, t->size, values, &err) < 0) {
        test_fail(__FILE__, __LINE__, err.message);
        free(values);
        return NULL;
    }
    if (shape)
        memcpy(shape, t->shape, sizeof t->shape);
    return values;
}

/* The shipped transformer's folder and that of its goldens (make_dit.py PACK OUT), or those that IMAGINE_TEST_PACK and
 * IMAGINE_TEST_GOLDEN name. 0: one of them is not there. */
static inline int shipped_folders(const char **pack, const char **golden)
{
    const char *other = getenv("IMAGINE_TEST_PACK"), *cases = getenv("IMAGINE_TEST_GOLDEN");
    char path[2048];
    *pack = other && cases ? other : test_path("../models/tiny/transformer");
    *golden = other && cases ? cases : test_path("parity/dit/tiny");
    snprintf(path, sizeof path, "%s/config.json", *pack);
    FILE *a = fopen(path, "rb");
    snprintf(path, sizeof path, "%s/cases.safetensors", *golden);
    FILE *b = fopen(path, "rb");
    int there = a && b;
    if (a)
        fclose(a);
    if (b)
        fclose(b);
    return there;
}

static inline int64_t tensor_count(const imagine__weights *file, const char *name)
{
    const imagine__tensor *t = imagine__weights_find(file, name);
    return t ? (int64_t)(t->size / imagine__dtype_size(t->dtype)) : 0;
}

#endif
