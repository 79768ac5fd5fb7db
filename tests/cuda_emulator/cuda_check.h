/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TESTS_CUDA_CHECK_H
#define IMAGINE_TESTS_CUDA_CHECK_H

/* Checks of the CUDA module's operations against plain C, through the module's table: the same files test the emulated
 * module and a real one. */

#include "../kernels/check.h"
#include "kernels/cuda/cuda.h"

/* On the emulator: the compute capability that kernels are chosen for (80, 90) and the order in which threads run. Nothing
 * on a GPU, which is what it is. */
void cuda_check_prefer(int capability, uint32_t seed);

/* On the emulator: whether cuBLASLt is there, and after how many calls all of its fail; how many products it has started since.
 * On a GPU it is there or not; 0, and -1. */
int cuda_check_library(int there, int good_calls);
int cuda_check_products(void);
/* The same of cuDNN and its convolutions. */
int cuda_check_convolver(int there, int good_calls);
int cuda_check_convolutions(void);

static const imagine__cuda *cuda; /* the module under test */

#define CUDA_OK(call)                                             \
    do {                                                          \
        int cuda_status = (call);                                 \
        if (cuda_status) {                                        \
            test_fail(__FILE__, __LINE__, #call);                 \
            fprintf(stderr, "    %s\n", cuda->error_text(cuda_status)); \
        }                                                         \
    } while (0)

/* An input in device memory, exactly its size. */
static inline void *cuda_input(const void *host, size_t size)
{
    void *memory;
    if (cuda->allocate(&memory, size ? size : 1) || cuda->upload(memory, host, size, NULL)) {
        fprintf(stderr, "no device memory\n");
        exit(1);
    }
    return memory;
}

/* An output: bytes of 0xa5 between guards, so that 0xa5 also stays where nothing is to be written. */
static inline void *cuda_output(size_t size)
{
    unsigned char *host = check_alloc(size + 2 * CHECK_GUARD);
    memset(host, 0xa5, size + 2 * CHECK_GUARD);
    unsigned char *memory = cuda_input(host, size + 2 * CHECK_GUARD);
    free(host);
    return memory + CHECK_GUARD;
}

/* What is in an output now, in memory to free. Checks the guards and releases the output. */
static inline void *cuda_fetch(void *output, size_t size)
{
    unsigned char *memory = (unsigned char *)output - CHECK_GUARD, *host = check_alloc(size + 2 * CHECK_GUARD);
    int good = 1;
    CUDA_OK(cuda->synchronize(NULL));
    CUDA_OK(cuda->download(host, memory, size + 2 * CHECK_GUARD, NULL));
    for (size_t i = 0; i < CHECK_GUARD; i++)
        good &= host[i] == 0xa5 && host[CHECK_GUARD + size + i] == 0xa5;
    CHECK(good);
    memmove(host, host + CHECK_GUARD, size);
    cuda->release(memory);
    return host;
}

static inline size_t cuda_size(imagine__cuda_type type)
{
    return type == IMAGINE__W_BF16 ? 2 : 4;
}

static inline uint16_t cuda_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value)
        return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float cuda_value(const void *values, imagine__cuda_type type, int64_t i)
{
    uint32_t bits = type == IMAGINE__W_BF16 ? (uint32_t)((const uint16_t *)values)[i] << 16 : 0;
    float value;
    if (type != IMAGINE__W_BF16)
        return ((const float *)values)[i];
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* n values as the type holds them; x itself becomes those values, so that plain C computes from the same. */
static inline void *cuda_typed_input(float *x, int64_t n, imagine__cuda_type type)
{
    uint16_t *half;
    if (type == IMAGINE__W_F32)
        return cuda_input(x, (size_t)n * 4);
    half = check_alloc((size_t)n * 2);
    for (int64_t i = 0; i < n; i++) {
        half[i] = cuda_bf16(x[i]);
        x[i] = cuda_value(half, type, i);
    }
    void *memory = cuda_input(half, (size_t)n * 2);
    free(half);
    return memory;
}

/* What is in an output of n values, as f32; `rows` of `columns` of them are looked at by `stride`, and all else must be as
 * it was. */
static inline float *cuda_fetch_rows(void *output, imagine__cuda_type type, int64_t rows, int64_t columns, int64_t stride,
                                     int64_t n)
{
    unsigned char *raw = cuda_fetch(output, (size_t)n * cuda_size(type));
    float *y = check_alloc((size_t)n * sizeof *y);
    int good = 1;
    for (int64_t i = 0; i < n; i++) {
        int inside = i / stride < rows && i % stride < columns;
        for (size_t j = 0; j < cuda_size(type); j++)
            good &= inside || raw[(size_t)i * cuda_size(type) + j] == 0xa5;
        y[i] = inside ? cuda_value(raw, type, i) : 0;
    }
    CHECK(good);
    free(raw);
    return y;
}

/* What the tensor cores make of f32 operands, so that plain C can compute from the same. */
static inline void cuda_round(float *x, int64_t n)
{
    for (int64_t i = 0; i < n && x; i++) {
        uint16_t half = cuda_bf16(x[i]);
        x[i] = cuda_value(&half, IMAGINE__W_BF16, 0);
    }
}

/* How operations are called: with a workspace, to be released. It is full of NaNs, which show in the result where something of
 * it is read that was not written: compute-sanitizer's initcheck does not see what TMA writes, our kernel's or cuBLASLt's. */
static inline imagine__cuda_call cuda_call(imagine__cuda_precision precision, size_t size)
{
    void *filled = check_alloc(size);
    memset(filled, 0xff, size);
    imagine__cuda_call call = {.precision = precision, .workspace = cuda_input(filled, size), .workspace_size = size};
    free(filled);
    return call;
}

static inline imagine__cuda_call cuda_call_bf16(size_t size)
{
    return cuda_call(IMAGINE__CUDA_BF16, size);
}

/* check_same, with the largest errors of each type kept apart for cuda_report. */
static double cuda_worst[2];

static inline int cuda_same(const float *a, const float *b, int64_t rows, int64_t columns, int64_t stride,
                            imagine__cuda_type type, double limit)
{
    check_worst = 0;
    int same = check_same(a, b, rows, columns, stride, limit);
    cuda_worst[type] = check_worst > cuda_worst[type] ? check_worst : cuda_worst[type];
    return same;
}

static inline void cuda_report(const char *what)
{
    printf("    %s: NMSE at most %.2g (f32), %.2g (bf16)\n", what, cuda_worst[IMAGINE__W_F32], cuda_worst[IMAGINE__W_BF16]);
    cuda_worst[0] = cuda_worst[1] = 0;
}

/* For main: opens the module and runs. */
static inline int cuda_check_main(const char *name, const test_case *cases, size_t count, int argc, char **argv)
{
    int32_t devices;
    cuda = imagine__cuda_module(IMAGINE__CUDA_VERSION);
    if (!cuda || cuda->device_count(&devices) || !devices) {
        printf("    no device\n%s: 0 passed, 0 failed, %d skipped\n", name, (int)count);
        return 0;
    }
    return test_main(name, cases, count, argc, argv);
}

#endif
