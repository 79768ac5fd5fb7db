/* SPDX-License-Identifier: MIT */
/* How fast the module's operations are on this GPU:  bench [--small] [NAME...]
 * With --small each runs once on little, on the emulator too, only to see that all of them run. */

#include "cuda_check.h"
#include "kernels/device_bench.h"

static void *allocate(void *user_data, size_t size)
{
    void *memory = NULL;
    (void)user_data;
    return cuda->allocate(&memory, size) ? NULL : memory;
}

static void release(void *user_data, void *memory)
{
    (void)user_data;
    cuda->release(memory);
}

static void measure(imagine__device_bench *b, int32_t index)
{
    imagine__device_bench_row row;
    int32_t done = imagine__device_bench_entry(b, index, &row);
    if (done == -2) {
        printf("%-56s failed: %s\n", row.name, cuda->error_text(b->code));
        test_failures++;
    } else if (done < 0 || row.missing) {
        printf("%-56s left out for want of %s\n", row.name, row.missing ? row.missing : "device memory");
        CHECK(!b->tiny || !strstr(row.missing ? row.missing : "", "for it"));
    } else if (b->tiny) {
        CHECK(row.seconds > 0 && row.value > 0 && row.unit[0]);
        printf("%-56s runs\n", row.name);
    } else {
        printf("%-56s %10.4g %-8s %5.1f%%  %10.4f ms\n", row.name, row.value, row.unit, 100 * row.share, 1e3 * row.seconds);
    }
    fflush(stdout);
}

static int wanted(const char *name, int argc, char **argv)
{
    int any = 0, found = 0;
    for (int i = 1; i < argc; i++) {
        any |= argv[i][0] != '-';
        found |= strstr(name, argv[i]) != NULL;
    }
    return !any || found;
}

/* A library that refuses everything is told to be missing: it would be our own kernel that is measured in its place. */
static void refused(imagine__device_bench *b)
{
    imagine__device_bench_row row;
    void *products = check_alloc(cuda->products_size()), *convolutions = calloc(1, cuda->convolutions_size());
    if (cuda_check_library(1, 1) && cuda_check_convolver(1, 0)) {
        CHECK(b->call.products = cuda->products_open(products, NULL, 0) ? products : NULL);
        CHECK(b->call.convolutions = cuda->convolutions_open(convolutions, NULL, 0) ? convolutions : NULL);
        for (int32_t i = 0; imagine__device_bench_describe(i, 1, &row); i++)
            if (strstr(row.name, " by cu"))
                CHECK(imagine__device_bench_entry(b, i, &row) == 1 && row.missing && strstr(row.missing, "for it"));
        cuda->products_close(products);
        cuda->convolutions_close(convolutions);
    }
    free(convolutions);
    free(products);
}

int main(int argc, char **argv)
{
    int32_t devices = 0;
    imagine__device_bench b = {.allocate = allocate, .release = release,
                               .call = {.precision = IMAGINE__CUDA_BF16, .workspace_size = IMAGINE__CUDA_WORKSPACE}};
    imagine__device_bench_row row;
    char name[200];
    cuda = b.cuda = imagine__cuda_module(IMAGINE__CUDA_VERSION);
    if (!cuda || cuda->device_count(&devices) || !devices || cuda->device_name(0, name, sizeof name)) {
        printf("no device\n");
        return 1;
    }
    for (int i = 1; i < argc; i++)
        b.tiny |= !strcmp(argv[i], "--small");
    b.call.workspace_size = b.tiny ? 1 << 20 : b.call.workspace_size;
    CUDA_OK(cuda->allocate(&b.call.workspace, b.call.workspace_size));
    void *products = check_alloc(cuda->products_size()), *convolutions = calloc(1, cuda->convolutions_size());
    cuda_check_prefer(90, 0);
    cuda_check_library(1, 1 << 30);
    cuda_check_convolver(1, 1 << 30);
    b.call.products = cuda->products_open(products, NULL, 0) ? products : NULL;
    b.call.convolutions = cuda->convolutions_open(convolutions, NULL, 0) ? convolutions : NULL;
    printf("%s, %s cuBLASLt, %s cuDNN\n", name, b.call.products ? "with" : "without", b.call.convolutions ? "with" : "without");
    for (int32_t i = 0; imagine__device_bench_describe(i, b.tiny, &row); i++)
        if (i < 3 || wanted(row.name, argc, argv))
            measure(&b, i);
    cuda->products_close(products);
    cuda->convolutions_close(convolutions);
    if (b.tiny)
        refused(&b);
    cuda_check_library(0, 0);
    cuda_check_convolver(0, 0);
    cuda->release(b.call.workspace);
    free(convolutions);
    free(products);
    printf("bench: %d passed, %d failed, 0 skipped\n", !test_failures, test_failures);
    return test_failures != 0;
}
