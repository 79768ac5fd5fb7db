/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TESTS_TEST_H
#define IMAGINE_TESTS_TEST_H

/* A test program is a list of named functions; CHECK records a failure and goes on, REQUIRE also leaves the function.
 * A function passes when none of its checks failed. The last line printed is "NAME: N passed, N failed, N skipped", which
 * tests/run adds up; the exit status is 1 when anything failed. With arguments, only tests whose names contain one of
 * them run. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct test_case {
    const char *name;
    void (*run)(void);
} test_case;

static int test_failures, test_skipped;

static inline void test_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
    test_failures++;
}

#define CHECK(x) ((x) ? (void)0 : test_fail(__FILE__, __LINE__, #x))
#define REQUIRE(x)                                \
    do {                                          \
        if (!(x)) {                               \
            test_fail(__FILE__, __LINE__, #x);    \
            return;                               \
        }                                         \
    } while (0)
/* For a call that returns an imagine_status and fills an imagine_error named `err`. */
#define CHECK_OK(call)                                                                             \
    do {                                                                                           \
        if ((call) < 0) {                                                                          \
            test_fail(__FILE__, __LINE__, #call);                                                  \
            fprintf(stderr, "    %s\n", err.message);                                              \
        }                                                                                          \
    } while (0)
#define REQUIRE_OK(call)                                                                           \
    do {                                                                                           \
        if ((call) < 0) {                                                                          \
            test_fail(__FILE__, __LINE__, #call);                                                  \
            fprintf(stderr, "    %s\n", err.message);                                              \
            return;                                                                                \
        }                                                                                          \
    } while (0)
#define CHECK_STATUS(call, expected)                                                               \
    do {                                                                                           \
        int test_got = (int)(call);                                                                \
        if (test_got != (int)(expected)) {                                                         \
            test_fail(__FILE__, __LINE__, #call " gives " #expected);                              \
            fprintf(stderr, "    got %d: %s\n", test_got, err.message);                            \
        }                                                                                          \
    } while (0)
/* Leaves the function and counts it as skipped. */
#define SKIP(reason)                              \
    do {                                          \
        printf("    skipped: %s\n", (reason));    \
        test_skipped = 1;                         \
        return;                                   \
    } while (0)

/* Normalised mean squared error: sum (a-b)^2 / sum b^2, b the reference; infinite when only one of them is finite. */
static inline double test_nmse(const float *a, const float *b, size_t n)
{
    double num = 0, den = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - b[i];
        num += d * d;
        den += (double)b[i] * b[i];
    }
    if (!(num < 1e300))
        return 1e300;
    return den > 0 ? num / den : num;
}

/* The folder of the sources' tests, for goldens; the build defines IMAGINE_TEST_DIR. */
static inline const char *test_path(const char *relative)
{
    static __thread char path[8][1024];
    static __thread unsigned next;
    char *p = path[next++ & 7];
    const char *dir = getenv("IMAGINE_TEST_DIR");
#ifdef IMAGINE_TEST_DIR
    if (!dir)
        dir = IMAGINE_TEST_DIR;
#endif
    snprintf(p, sizeof path[0], "%s/%s", dir ? dir : "tests", relative);
    return p;
}

static inline int test_wanted(const char *name, int argc, char **argv)
{
    int wanted = 1, named = 0;
    for (int a = 1; a < argc; a++)
        if (argv[a][0] == '-' && strstr(name, argv[a] + 1))
            return 0;
        else if (argv[a][0] != '-')
            wanted = named |= strstr(name, argv[a]) != NULL;
    return wanted;
}

/* Arguments: those whose names contain a word; not those that contain it behind a `-`. */
static inline int test_main(const char *name, const test_case *cases, size_t count, int argc, char **argv)
{
    int passed = 0, failed = 0, skipped = 0;
    for (size_t i = 0; i < count; i++) {
        if (!test_wanted(cases[i].name, argc, argv))
            continue;
        test_failures = test_skipped = 0;
        cases[i].run();
        printf("  %s %s\n", test_failures ? "FAILED" : test_skipped ? "skip  " : "ok    ", cases[i].name);
        fflush(stdout);
        failed += test_failures != 0;
        skipped += !test_failures && test_skipped;
        passed += !test_failures && !test_skipped;
    }
    printf("%s: %d passed, %d failed, %d skipped\n", name, passed, failed, skipped);
    return failed != 0;
}

#endif
