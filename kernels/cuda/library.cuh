/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CUDA_LIBRARY_CUH
#define IMAGINE_KERNELS_CUDA_LIBRARY_CUH

#include "kernels/cuda/primitives.cuh"

#ifndef IMAGINE__EMULATED
#include <dlfcn.h>
#endif

/* Libraries of NVIDIA's that are opened at run time. Once opened they stay for as long as the process lives, however often they are
 * closed: each time that cuBLASLt is loaded anew it keeps memory that nobody frees (docs/memory.md). */
#define LIBRARY_FLAGS (RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)

/* Gives up what was looked up; the library stays. */
static inline void close_library(void *file)
{
    IMAGINE__BODY((void)dlclose(file), (void)file);
}

/* The first of these that is there, with its functions of the given names in `functions`; NULL: there is none. */
static inline void *open_library(const char *const *files, size_t file_count, const char *const *names, size_t name_count,
                                 void **functions)
{
    for (size_t i = 0; i < file_count; i++) {
        void *file = IMAGINE__BODY(dlopen(files[i], LIBRARY_FLAGS), emulator::open_library(files[i]));
        bool all = file != nullptr;
        for (size_t j = 0; j < name_count && all; j++) {
            functions[j] = IMAGINE__BODY(dlsym(file, names[j]), emulator::find_function(file, names[j]));
            all = functions[j] != nullptr;
        }
        if (all)
            return file;
        if (file)
            close_library(file);
    }
    return nullptr;
}

#endif
