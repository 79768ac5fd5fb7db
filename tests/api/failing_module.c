/* SPDX-License-Identifier: MIT */
/* The module that IMAGINE_TEST_MODULE names, whose allocations of device memory are counted and can be made to fail: what the
 * emulated one has by itself, for a GPU. */

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "../cuda_emulator/hooks.h"
#include "kernels/cuda/cuda.h"

#define OUT_OF_MEMORY 2 /* the driver's number */

static const imagine__cuda *real;
static _Atomic int64_t until_failure; /* 0: none fails */
static _Atomic int32_t failure = OUT_OF_MEMORY;
static _Atomic uint64_t made, held;

static int allocate(void **memory, size_t size)
{
    int64_t left = atomic_load(&until_failure);
    while (left > 0 && !atomic_compare_exchange_weak(&until_failure, &left, left - 1))
        ;
    *memory = NULL;
    atomic_fetch_add(&made, 1);
    int code = left == 1 ? atomic_load(&failure) : real->allocate(memory, size);
    if (!code)
        atomic_fetch_add(&held, 1);
    return code;
}

static int release(void *memory)
{
    if (memory)
        atomic_fetch_sub(&held, 1);
    return real->release(memory);
}

void emulated_fail_allocation(int64_t number)
{
    atomic_store(&until_failure, number);
}

void emulated_allocation_code(int32_t code)
{
    atomic_store(&failure, code);
}

uint64_t emulated_allocations_held(void)
{
    return atomic_load(&held);
}

uint64_t emulated_allocations_made(void)
{
    return atomic_load(&made);
}

uint64_t emulated_memory_available(void)
{
    size_t available = 0, total;
    return real && real->memory_info(&available, &total) == 0 ? available : 0;
}

const imagine__cuda *imagine__cuda_module(int32_t version)
{
    static imagine__cuda table;
    const char *path = getenv("IMAGINE_TEST_MODULE");
    const imagine__cuda *(*module)(int32_t) = NULL;
    void *file = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE) : NULL;
    if (file)
        *(void **)&module = dlsym(file, "imagine__cuda_module");
    real = module ? module(version) : NULL;
    if (!real) {
        fprintf(stderr, "    IMAGINE_TEST_MODULE: %s\n", file ? "no module of this version" : path ? dlerror() : "is not set");
        return NULL;
    }
    table = *real;
    table.allocate = allocate;
    table.release = release;
    return &table;
}
