/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CUDA_LIBRARY_CUH
#define IMAGINE_KERNELS_CUDA_LIBRARY_CUH

#include <stdio.h>

#include "kernels/cuda/primitives.cuh"

#ifndef IMAGINE__EMULATED
#include <dlfcn.h>
#endif

/* Libraries of NVIDIA's that are opened at run time. Once opened they stay for as long as the process lives, however often they are
 * closed: each time that cuBLASLt is loaded anew it keeps memory that nobody frees (docs/memory.md). */
#define LIBRARY_FLAGS (RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)

/* Why a library could not be opened, as text in the caller's memory: one reason behind the other. */
struct reasons {
    char *text; /* may be NULL where size is 0 */
    size_t size, length;
};

static inline void add_reason(reasons *why, const char *name, const char *what)
{
    if (why->length + 1 >= why->size)
        return;
    int written = snprintf(why->text + why->length, why->size - why->length, "%s%s: %s", why->length ? "; " : "", name, what);
    why->length += written > 0 ? (size_t)written : 0;
    why->length = why->length < why->size ? why->length : why->size - 1;
}

/* Gives up what was looked up; the library stays. */
static inline void close_library(void *file)
{
    IMAGINE__BODY((void)dlclose(file), (void)file);
}

/* The file, with its functions of the given names in `functions`; NULL: it is not there, or not all of it. */
static inline void *open_library(const char *name, const char *const *names, size_t name_count, void **functions, reasons *why)
{
    void *file = IMAGINE__BODY(dlopen(name, LIBRARY_FLAGS), emulator::open_library(name));
    if (!file) {
        const char *said = IMAGINE__BODY(dlerror(), "it is not there");
        add_reason(why, name, said ? said : "it cannot be opened");
        return nullptr;
    }
    for (size_t i = 0; i < name_count; i++) {
        functions[i] = IMAGINE__BODY(dlsym(file, names[i]), emulator::find_function(file, names[i]));
        if (!functions[i]) {
            add_reason(why, name, "it lacks a function");
            close_library(file);
            return nullptr;
        }
    }
    return file;
}

#endif
