/* SPDX-License-Identifier: MIT */
#include <string.h>

#include <imagine/bench.h>

#include "kernels/bench.h"
#include "stage.h"

static void *allocate(void *context, size_t size)
{
    return imagine__alloc(context, size);
}

static void release(void *context, void *pointer)
{
    imagine__free(context, pointer);
}

/* What the caller put into its row, as far as that reaches. */
static imagine_status read_row(imagine_bench_row *known, const imagine_bench_row *row, imagine_error *error)
{
    imagine_status status = imagine__need(row, "row", error);
    memset(known, 0, sizeof *known);
    return status < 0 ? status : imagine__read_options(known, sizeof *known, row, "imagine_bench_row", error);
}

static imagine_status no_entry(int32_t index, imagine_error *error)
{
    return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND, "index: %d, there are %d entries", index,
                         imagine__bench_count());
}

imagine_status imagine_bench_describe(int32_t index, imagine_bench_row *row, imagine_error *error)
{
    imagine_bench_row known;
    imagine_status status = read_row(&known, row, error);
    if (status < 0)
        return status;
    if (!imagine__bench_name(index, known.name, sizeof known.name))
        return no_entry(index, error);
    memcpy(known.kind, known.name, sizeof known.kind - 1);
    known.kind[sizeof known.kind - 1] = 0;
    known.kind[strcspn(known.kind, " ")] = 0;
    return imagine__write_struct(row, &known, sizeof known, "imagine_bench_row", error);
}

imagine_status imagine_bench(imagine_context *context, int32_t index, imagine_bench_row *row, imagine_error *error)
{
    imagine_bench_row known;
    imagine__bench_row measured = { .name = { 0 } };
    imagine__work work;
    imagine_status status = imagine__need(context, "context", error);
    if (status >= 0 && imagine__on_device(context))
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "context: the CPU's operations are measured; make one with IMAGINE_DEVICE_CPU");
    if (status < 0 || (status = read_row(&known, row, error)) < 0 ||
        (status = imagine__work_init(&work, context, NULL, error)) < 0)
        return status;
    imagine__bench bench = { .run = &work.run, .allocate = allocate, .release = release, .user_data = context,
                             .peak = known.peak };
    int32_t done = imagine__bench_entry(&bench, index, &measured);
    imagine__work_fini(&work);
    if (done < 0)
        return imagine__fail(error, IMAGINE_ERROR_NO_MEMORY, "no memory for this measurement's tensors");
    if (!done)
        return no_entry(index, error);
    memcpy(known.name, measured.name, sizeof known.name);
    memcpy(known.kind, measured.kind, sizeof known.kind);
    /* On a busy machine the peak may come out below what an entry reached; it is what it is because nothing is faster. */
    if (measured.gflops > bench.peak && !measured.pairs) {
        bench.peak = measured.gflops;
        measured.share = 1;
    }
    known.gflops = measured.gflops;
    known.share = measured.share;
    known.seconds = measured.seconds;
    known.peak = bench.peak;
    return imagine__write_struct(row, &known, sizeof known, "imagine_bench_row", error);
}
