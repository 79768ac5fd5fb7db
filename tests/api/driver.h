/* SPDX-License-Identifier: MIT */
#ifndef TESTS_API_DRIVER_H
#define TESTS_API_DRIVER_H

/* On a GPU: the driver's functions, looked for at run time, since the tests are not linked with it. */

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

typedef struct driver_function {
    void *to; /* where the pointer goes */
    const char *name;
} driver_function;

/* 0: there is no driver, or not all of these in it. */
static inline int driver_find(const driver_function *all, size_t count)
{
    void *file = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < count; i++) {
        void *symbol = file ? dlsym(file, all[i].name) : NULL;
        if (!symbol)
            return 0;
        memcpy(all[i].to, &symbol, sizeof symbol);
    }
    return 1;
}

#endif
