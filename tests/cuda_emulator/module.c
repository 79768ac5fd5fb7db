/* SPDX-License-Identifier: MIT */
/* The compiled module as a file, on a machine with or without a GPU: its path is the first argument. */

#include <dlfcn.h>
#include <unistd.h>

#include "../test.h"
#include "kernels/cuda/cuda.h"

static const char *path;
static void *file;
static const imagine__cuda *cuda;

/* Opens without driver and toolkit; has one symbol, and a table for one version. */
static void opens(void)
{
    file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!file)
        fprintf(stderr, "    %s\n", dlerror());
    REQUIRE(file);
    const imagine__cuda *(*module)(int32_t);
    *(void **)&module = dlsym(file, "imagine__cuda_module");
    REQUIRE(module);
    cuda = module(IMAGINE__CUDA_VERSION);
    REQUIRE(cuda);
    CHECK(cuda->version == IMAGINE__CUDA_VERSION);
    CHECK(!module(IMAGINE__CUDA_VERSION + 1) && !module(0));
    CHECK(!dlsym(file, "imagine__cuda_attention") && !dlsym(file, "cudaMalloc"));
}

/* Every function of the table is there. */
static void table(void)
{
    REQUIRE(cuda);
    void *const *functions = (void *const *)&cuda->error_text;
    size_t count = (sizeof *cuda - offsetof(imagine__cuda, error_text)) / sizeof *functions;
    for (size_t i = 0; i < count; i++)
        CHECK(functions[i]);
}

/* Without a driver there are no devices, and all else is an error with a text. */
static void devices(void)
{
    int32_t count = -1;
    char name[300];
    void *memory;
    REQUIRE(cuda);
    CHECK(cuda->device_count(&count) == 0 && count >= 0);
    CHECK(cuda->device_name(count, name, sizeof name) != 0);
    if (count) {
        CHECK(cuda->device_name(0, name, sizeof name) == 0 && strlen(name) > 4);
        printf("    %s\n", name);
        SKIP("this machine has a GPU: what happens without one is not seen here");
    }
    CHECK(cuda->current_context(&memory) != 0 && !memory);
    CHECK(cuda->set_context(NULL) != 0);
    int status = cuda->allocate(&memory, 1000);
    CHECK(status != 0 && strlen(cuda->error_text(status)) > 5);
    printf("    without a driver: %s\n", cuda->error_text(status));
    cuda->release(NULL);
}

/* Either library can be opened and closed whether it is there or not; without a GPU it is of no use. */
static void products(void)
{
    int32_t count = 0;
    REQUIRE(cuda);
    void *memory = malloc(cuda->products_size()), *zeros = calloc(1, cuda->convolutions_size());
    REQUIRE(memory && zeros);
    cuda->device_count(&count);
    CHECK(!cuda->products_open(memory, NULL, 0) || count);
    CHECK(!cuda->convolutions_open(zeros, NULL, 0) || count);
    for (int i = 0; i < 2; i++) {
        cuda->products_close(memory);
        cuda->convolutions_close(zeros);
    }
    cuda->products_close(NULL);
    cuda->convolutions_close(NULL);
    free(zeros);
    free(memory);
}

/* Bytes that the process holds in memory. */
static int64_t resident(void)
{
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (!statm || fscanf(statm, "%*d %ld", &pages) != 1)
        pages = 0;
    if (statm)
        fclose(statm);
    return (int64_t)pages * sysconf(_SC_PAGESIZE);
}

/* Whether a library is loaded: 1; can be: 0; is not on this machine: -1. */
static int loaded(const char *name)
{
    void *there = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD), *found = there ? there : dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (found)
        dlclose(found);
    return there ? 1 : found ? 0 : -1;
}

/* cuBLASLt is loaded once in a process, however often products are opened and closed, for it keeps memory each time. */
static void libraries(void)
{
    int64_t before = 0;
    REQUIRE(cuda);
    void *memory = malloc(cuda->products_size());
    REQUIRE(memory);
    for (int i = 0; i < 25; i++) {
        cuda->products_open(memory, NULL, 0);
        cuda->products_close(memory);
        before = i < 5 ? resident() : before;
    }
    int64_t grown = resident() - before;
    free(memory);
    int found = loaded("libcublasLt.so.13");
    found = found < 0 ? loaded("libcublasLt.so.12") : found;
    if (found < 0)
        SKIP("cuBLASLt is not on this machine");
    printf("    opened 20 times more: %.0f kB more\n", (double)grown / 1e3);
    CHECK(found == 1);
    CHECK(grown < 200 << 10);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {{"opens", opens}, {"table", table}, {"devices", devices}, {"products", products},
                                      {"libraries", libraries}};
    if (argc < 2) {
        fprintf(stderr, "usage: %s libimagine_cuda.so\n", argv[0]);
        return 2;
    }
    path = argv[1];
    int failed = test_main("cuda/module", cases, sizeof cases / sizeof *cases, argc - 1, argv + 1);
    if (file)
        dlclose(file);
    return failed;
}
