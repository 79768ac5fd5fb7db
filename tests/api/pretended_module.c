/* SPDX-License-Identifier: MIT */
/* A module that behaves as the environment says: of another version, without a GPU, with one that fails,
 * is busy, full or old, or with a driver that is too old. */

#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"

static int is(const char *what)
{
    const char *wanted = getenv("IMAGINE_TEST_MODULE");
    return wanted && !strcmp(wanted, what);
}

static const char *error_text(int status)
{
    return status == IMAGINE__CUDA_OLD_DRIVER ? "the driver is of 1999" : status == 700 ? "an illegal memory access" : status == 46 ? "all devices are busy" : "out of memory";
}

static int device_count(int32_t *count)
{
    *count = is("busy") || is("full") || is("old");
    return is("driver") ? IMAGINE__CUDA_OLD_DRIVER : is("error") ? 700 : 0;
}

static int capability(int32_t device)
{
    return device ? 0 : is("old") ? 75 : 90;
}

static int use_device(int32_t device)
{
    return is("busy") || device ? 46 : 0;
}

static int current_context(void **context)
{
    *context = NULL;
    return 0;
}

static int set_context(void *context)
{
    return context != NULL;
}

static int stream_create(void **stream)
{
    *stream = NULL;
    return 2;
}

static int device_name(int32_t device, char *name, size_t size)
{
    (void)device;
    strncpy(name, "Some GPU (9.0)", size - 1);
    name[size - 1] = 0;
    return 0;
}

const imagine__cuda *imagine__cuda_module(int32_t version)
{
    static const imagine__cuda table = {
        .version = IMAGINE__CUDA_VERSION, .error_text = error_text, .device_count = device_count,
        .device_name = device_name, .capability = capability, .use_device = use_device,
        .current_context = current_context, .set_context = set_context, .stream_create = stream_create};
    return is("version") || version != IMAGINE__CUDA_VERSION ? NULL : &table;
}
