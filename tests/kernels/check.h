/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TESTS_CHECK_H
#define IMAGINE_TESTS_CHECK_H

/* Kernel checks: every version that the machine can run against the plain C one, on random data. Outputs lie
 * between guard bytes, scratch starts as NaNs, tiles run in any order. Limits are normalised mean squared errors
 * taken from measured ones, which each check prints. */

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include <imagine/context.h>

#include "../test.h"
#include "kernels/kernels.h"

/* ---- tables -------- */

/* The tables above plain C that this machine has; returns how many (at most 2). */
static inline int check_tables(const imagine__kernels *tables[2])
{
    int count = 0;
    for (int32_t level = IMAGINE_CPU_AVX2; level <= IMAGINE_CPU_AVX512; level++) {
        int32_t used;
        const imagine__kernels *table = imagine__kernels_for_cpu(level, &used);
        if (used == level)
            tables[count++] = table;
    }
    return count;
}

static inline int check_has_avx512(void)
{
    int32_t used;
    (void)imagine__kernels_for_cpu(IMAGINE_CPU_AVX512, &used);
    return used == IMAGINE_CPU_AVX512;
}

/* ---- random numbers -------- */

typedef struct check_random {
    uint64_t state;
} check_random;

static inline uint32_t check_bits(check_random *r)
{
    uint64_t x = r->state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((x ^ (x >> 31)) >> 32);
}

/* low..high, both included. */
static inline int64_t check_between(check_random *r, int64_t low, int64_t high)
{
    return low + check_bits(r) % (uint64_t)(high - low + 1);
}

/* Nearly normal, of variance 1. */
static inline float check_value(check_random *r)
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)(check_bits(r) >> 8) / 16777216.0f - 0.5f;
    return sum * 1.7320508f;
}

/* ---- memory -------- */

#define CHECK_GUARD 64

static inline void *check_alloc(size_t size)
{
    void *p = malloc(size ? size : 1);
    if (!p) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

/* An input: n values, freed with free(). Exactly n, so that the address sanitizer sees a read too far. */
static inline float *check_input(check_random *r, int64_t n)
{
    float *p = check_alloc((size_t)n * sizeof *p);
    for (int64_t i = 0; i < n; i++)
        p[i] = check_value(r);
    return p;
}

/* The same as a weight of either type, scaled. */
static inline void *check_weight(check_random *r, int64_t n, imagine__wtype type, float scale)
{
    float *p = check_input(r, n);
    uint16_t *half = (uint16_t *)p;
    for (int64_t i = 0; i < n; i++) {
        float value = p[i] * scale;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        if (type == IMAGINE__W_BF16)
            half[i] = (uint16_t)(bits >> 16);
        else
            p[i] = value;
    }
    return p;
}

/* An output: n bytes of 0xA5 between guards, its size kept in front. */
static inline void *check_output(size_t size)
{
    unsigned char *p = check_alloc(size + 3 * CHECK_GUARD);
    memcpy(p, &size, sizeof size);
    memset(p + CHECK_GUARD, 0xa5, size + 2 * CHECK_GUARD);
    return p + 2 * CHECK_GUARD;
}

static inline float *check_output_floats(int64_t n)
{
    return check_output((size_t)n * sizeof(float));
}

/* 1 when the guards are untouched. */
static inline int check_guards(const void *output)
{
    const unsigned char *p = output;
    size_t size;
    memcpy(&size, p - 2 * CHECK_GUARD, sizeof size);
    int good = 1;
    for (size_t i = 0; i < CHECK_GUARD; i++)
        good &= p[-(ptrdiff_t)CHECK_GUARD + (ptrdiff_t)i] == 0xa5 && p[size + i] == 0xa5;
    return good;
}

/* 1 when the columns from `columns` on of each row are untouched. */
static inline int check_padding(const float *output, int64_t rows, int64_t columns, int64_t stride)
{
    const unsigned char *p = (const unsigned char *)output;
    int good = 1;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = (i * stride + columns) * 4; j < (i + 1) * stride * 4 && i + 1 < rows; j++)
            good &= p[j] == 0xa5;
    return good;
}

static inline void check_free(void *output)
{
    free((unsigned char *)output - 2 * CHECK_GUARD);
}

/* ---- runs -------- */

enum { CHECK_FORWARD, CHECK_BACKWARD, CHECK_SHUFFLED, CHECK_THREADS, CHECK_ORDERS };

/* A run without a context. Put `&check.run` into the operations. */
typedef struct check_run {
    imagine__run run;
    int order;
    int64_t tiles; /* of the last operation */
    /* of the operation that runs */
    int64_t count;
    imagine__tile_fn *fn;
    void *arg;
    atomic_int_fast64_t next;
} check_run;

static inline int check_never_stopped(const imagine__run *run)
{
    (void)run;
    return 0;
}

/* Tile number `i` of the order: a fixed permutation when shuffled. */
static inline int64_t check_tile(const check_run *c, int64_t i)
{
    if (c->order == CHECK_BACKWARD)
        return c->count - 1 - i;
    if (c->order != CHECK_SHUFFLED)
        return i;
    int64_t step = 7919;
    while (c->count % step == 0)
        step += 2;
    for (int64_t a = c->count, b = step; b;) { /* another step when it is not coprime */
        int64_t rest = a % b;
        a = b;
        b = rest;
        if (!b && a != 1) {
            step += 2;
            a = c->count;
            b = step;
        }
    }
    return (int64_t)((i * (uint64_t)step + 5) % (uint64_t)c->count);
}

static inline void *check_worker(void *arg)
{
    check_run *c = arg;
    unsigned char *memory = aligned_alloc(64, IMAGINE__SCRATCH + CHECK_GUARD);
    if (!memory)
        exit(1);
    memset(memory, 0xff, IMAGINE__SCRATCH + CHECK_GUARD);
    for (int64_t i; (i = atomic_fetch_add(&c->next, 1)) < c->count;)
        c->fn(c->arg, check_tile(c, i), memory);
    for (size_t i = 0; i < CHECK_GUARD; i++)
        CHECK(memory[IMAGINE__SCRATCH + i] == 0xff);
    free(memory);
    return NULL;
}

static inline void check_parallel(imagine__run *run, int64_t count, imagine__tile_fn *fn, void *arg)
{
    check_run *c = (check_run *)run;
    pthread_t second;
    c->count = c->tiles = count;
    c->fn = fn;
    c->arg = arg;
    atomic_store(&c->next, 0);
    int two = c->order == CHECK_THREADS && pthread_create(&second, NULL, check_worker, c) == 0;
    check_worker(c);
    if (two)
        pthread_join(second, NULL);
}

static inline check_run check_start(const imagine__kernels *kernels, int order)
{
    static const int32_t threads[CHECK_ORDERS] = {1, 2, 7, 16}; /* what tiles are cut for */
    check_run c = {.run = {kernels, check_parallel, check_never_stopped, threads[order], 0}, .order = order};
    return c;
}

/* ---- comparison -------- */

static double check_worst; /* the largest error since check_report */

/* NMSE of rows of `columns` values against the plain version's; fails above the limit, or where one value is a NaN
 * or an infinity and the other is not the same. */
static inline int check_same(const float *a, const float *b, int64_t rows, int64_t columns, int64_t stride,
                             double limit)
{
    double error = 0, power = 0;
    int same = 1;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = i * stride; j < i * stride + columns; j++) {
            if (isfinite(a[j]) && isfinite(b[j])) {
                error += ((double)a[j] - b[j]) * ((double)a[j] - b[j]);
                power += (double)b[j] * b[j];
            } else {
                same &= isnan(a[j]) ? isnan(b[j]) : a[j] == b[j];
            }
        }
    }
    double nmse = power > 0 ? error / power : error;
    if (nmse > check_worst)
        check_worst = nmse;
    return same && nmse <= limit;
}

static inline void check_report(const char *what, double limit)
{
    printf("    %s: NMSE at most %.2g, limit %.2g\n", what, check_worst, limit);
    check_worst = 0;
}

#endif
