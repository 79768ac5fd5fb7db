/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "kernels/bench.h"

/* bench [-t THREADS] [-l LEVEL] [-s SECONDS] [-c 1] [NAME...]: the operations' speed; entries whose names contain a NAME.
 * -c 1 measures CPU time. */

static void *allocate(void *context, size_t size)
{
    return imagine__alloc(context, size);
}

static void release(void *context, void *pointer)
{
    imagine__free(context, pointer);
}

static int wanted(const char *name, int argc, char **argv, int first)
{
    int found = first >= argc;
    for (int i = first; i < argc; i++)
        found |= strstr(name, argv[i]) != NULL;
    return found;
}

static int measure(imagine__bench *b, int argc, char **argv, int first)
{
    printf("%-40s %12s %10s %7s\n", b->run->kernels->name, "time", "GFLOP/s", "share");
    for (int32_t i = 0; i < imagine__bench_count(); i++) {
        imagine__bench_row row;
        char name[sizeof row.name];
        imagine__bench_name(i, name, sizeof name);
        if (i && !wanted(name, argc, argv, first))
            continue;
        if (imagine__bench_entry(b, i, &row) < 0) {
            fprintf(stderr, "bench: out of memory\n");
            return 1;
        }
        printf("%-40s %9.3f ms %10.1f %6.1f%%\n", row.name, row.seconds * 1e3, row.gflops, row.share * 100);
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv)
{
    imagine_context_options options;
    imagine_context_options_init(&options, sizeof options);
    imagine__bench b = {.allocate = allocate, .release = release};
    int i = 1;
    for (; i + 1 < argc && argv[i][0] == '-'; i += 2) {
        if (argv[i][1] == 't')
            options.threads = atoi(argv[i + 1]);
        else if (argv[i][1] == 'l')
            options.cpu_level = atoi(argv[i + 1]);
        else if (argv[i][1] == 's')
            b.seconds = atof(argv[i + 1]);
        else if (argv[i][1] == 'c')
            b.cpu_time = atoi(argv[i + 1]);
    }
    imagine_error err = {.struct_size = sizeof err};
    imagine_context *context;
    imagine__work work;
    memset(&work, 0, sizeof work);
    if (imagine_context_create(&context, &options, &err) < 0) {
        fprintf(stderr, "bench: %s\n", err.message);
        return 1;
    }
    int failed = imagine__work_init(&work, context, NULL, &err) < 0;
    if (failed)
        fprintf(stderr, "bench: %s\n", err.message);
    b.run = &work.run;
    b.user_data = context;
    failed = failed || measure(&b, argc, argv, i);
    imagine__work_fini(&work);
    imagine_context_release(&context);
    return failed;
}
