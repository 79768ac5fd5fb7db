/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_DEVICE_BENCH_H
#define IMAGINE_KERNELS_DEVICE_BENCH_H

/* How fast a GPU's operations are beside what its multiply-add units reach on registers alone and its memory when nothing is
 * computed: the roofline. Each entry is run several times; the fastest counts. */

#include "kernels/cuda/cuda.h"

typedef struct imagine__device_bench {
    const imagine__cuda *cuda;
    imagine__cuda_call call; /* its stream, workspace, and libraries, if there are any */
    void *(*allocate)(void *user_data, size_t size); /* device memory aligned to 256; NULL: there is none */
    void (*release)(void *user_data, void *memory);
    void *user_data;
    void *memory; /* of the libraries' plans; the caller's */
    int32_t tiny; /* 1: sizes that only show that all of it runs */
    int code; /* an error number of the module's */
    /* The highest measured so far, in 10^9 operations or bytes a second; begin with 0. */
    double peak_bf16, peak_f32, bandwidth;
} imagine__device_bench;

typedef struct imagine__device_bench_row {
    char name[96], kind[16]; /* "peak", "memory", "launch", "attention", "linear", "conv", "norm", "sampler" */
    const char *unit; /* of `value` */
    const char *missing; /* not NULL: it was not measured, for want of this */
    double value, gflops, seconds; /* seconds of one run */
    double share; /* of what the roofline allows an operation that computes so much from so many bytes; 0: none */
} imagine__device_bench_row;

/* Entries 0 to 2 are the peaks and the memory, which the others are held against. */
int32_t imagine__device_bench_count(void);

/* Name and kind; 0: no such entry. */
int32_t imagine__device_bench_describe(int32_t index, int32_t tiny, imagine__device_bench_row *row);

/* 1: *row is filled; 0: no such entry; -1: out of device memory; -2: `code` says what failed. */
int32_t imagine__device_bench_entry(imagine__device_bench *bench, int32_t index, imagine__device_bench_row *row);

/* What share of the roofline it is to do so many operations, in bf16 or f32, on so many bytes in a time. */
double imagine__device_bench_share(const imagine__device_bench *bench, double operations, double bytes, int32_t bf16,
                                   double seconds);

#endif
