/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_BENCH_H
#define IMAGINE_KERNELS_BENCH_H

/* How fast the operations are on this machine, in billions of operations a second (a multiply-add is two) and beside what
 * its multiply-add units reach on registers alone. Each entry is run several times; the fastest counts, of the peak too, so
 * that a busy moment of the machine does not show. */

#include "kernels/kernels.h"

typedef struct imagine__bench {
    imagine__run *run;
    void *(*allocate)(void *user_data, size_t size); /* aligned to 64; NULL: no memory */
    void (*release)(void *user_data, void *pointer);
    void *user_data;
    double seconds; /* about how long to measure an entry, at least three times; 0: 0.5 */
    int32_t cpu_time; /* 1: the process's time on its processors instead of the clock's, for one thread on a busy machine */
    int32_t reserved;
    double peak; /* the highest measured so far, in GFLOP/s; begin with 0 */
} imagine__bench;

typedef struct imagine__bench_row {
    char name[96]; /* "linear 1024x1536x8960 bf16": rows x k x n */
    char kind[16]; /* "peak", "linear", "conv", "attention" */
    double gflops, share; /* share of the peak, which is that of f32 */
    int32_t pairs; /* 1: multiplied in bf16, where the share may be over 1 */
    int32_t reserved;
    double seconds; /* of one run */
} imagine__bench_row;

/* How many entries there are. Entry 0 is the peak. */
int32_t imagine__bench_count(void);

/* The entry's name, as in the row; 0: no such entry. */
int32_t imagine__bench_name(int32_t index, char *name, size_t size);

/* 1: *row is filled; 0: no such entry, or the run was stopped; -1: out of memory. */
int32_t imagine__bench_entry(imagine__bench *bench, int32_t index, imagine__bench_row *row);

#endif
