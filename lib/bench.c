/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include <imagine/bench.h>

#include "base/bench.h"
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
    if (status >= 0)
        status = imagine__read_options(known, sizeof *known, row, "imagine_bench_row", error);
    if (status >= 0 && known->size != IMAGINE_BENCH_USUAL && known->size != IMAGINE_BENCH_TINY)
        status = imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                               "imagine_bench_row.size: %d is neither IMAGINE_BENCH_USUAL nor IMAGINE_BENCH_TINY", known->size);
    return status;
}

static imagine_status no_entry(int32_t index, int32_t count, imagine_error *error)
{
    return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND, "index: %d, there are %d entries", index, count);
}

/* ---- the CPU's operations ---------------------------------------------------------------------------------------- */

static imagine_status describe_cpu(int32_t index, imagine_bench_row *row, imagine_error *error)
{
    if (!imagine__bench_name(index, row->name, sizeof row->name))
        return no_entry(index, imagine__bench_count(), error);
    memcpy(row->kind, row->name, sizeof row->kind - 1);
    row->kind[sizeof row->kind - 1] = 0;
    row->kind[strcspn(row->kind, " ")] = 0;
    return IMAGINE_OK;
}

static imagine_status bench_cpu(imagine_context *context, int32_t index, imagine_bench_row *row, imagine_error *error)
{
    imagine__bench_row measured = { .name = { 0 } };
    imagine__work work;
    imagine_status status = imagine__work_init(&work, context, NULL, error);
    if (status < 0)
        return status;
    imagine__bench bench = { .run = &work.run, .allocate = allocate, .release = release, .user_data = context,
                             .peak = row->peak };
    int32_t done = imagine__bench_entry(&bench, index, &measured);
    imagine__work_fini(&work);
    if (done < 0)
        return imagine__fail(error, IMAGINE_ERROR_NO_MEMORY, "no memory for this measurement's tensors");
    if (!done)
        return no_entry(index, imagine__bench_count(), error);
    memcpy(row->name, measured.name, sizeof row->name);
    memcpy(row->kind, measured.kind, sizeof row->kind);
    /* On a busy machine the peak may come out below what an entry reached; it is what it is because nothing is faster. */
    if (measured.gflops > bench.peak && !measured.pairs) {
        bench.peak = measured.gflops;
        measured.share = 1;
    }
    row->gflops = row->value = measured.gflops;
    snprintf(row->unit, sizeof row->unit, "GFLOP/s");
    row->share = measured.share;
    row->seconds = measured.seconds;
    row->peak = bench.peak;
    row->device = IMAGINE_DEVICE_CPU;
    return IMAGINE_OK;
}

/* ---- a device's operations and stages ---------------------------------------------------------------------------- */

static imagine_status describe_device(int32_t index, imagine_bench_row *row, imagine_error *error)
{
    imagine__device_bench_row named;
    int32_t count = imagine__device_bench_count(), tiny = row->size == IMAGINE_BENCH_TINY;
    if (imagine__device_bench_describe(index, tiny, &named)) {
        memcpy(row->name, named.name, sizeof row->name);
        memcpy(row->kind, named.kind, sizeof row->kind);
        return IMAGINE_OK;
    }
    if (index >= count && imagine__bench_stage_name(index - count, tiny, row))
        return IMAGINE_OK;
    while (imagine__bench_stage_name(count - imagine__device_bench_count(), tiny, &(imagine_bench_row){ 0 }))
        count++;
    return no_entry(index, count, error);
}

static imagine_status bench_operation(imagine_context *context, int32_t index, imagine_bench_row *row,
                                      imagine_error *error)
{
    imagine__device_bench bench = { .tiny = row->size == IMAGINE_BENCH_TINY, .peak_bf16 = row->peak,
                                    .peak_f32 = row->peak_f32, .bandwidth = row->bandwidth };
    imagine__device_bench_row measured = { .name = { 0 } };
    int libraries = !strcmp(row->kind, "linear") || !strcmp(row->kind, "conv");
    imagine_status status = imagine__device_bench_begin(&bench, context, libraries, error);
    if (status < 0)
        return status;
    int32_t done = imagine__device_bench_entry(&bench, index, &measured);
    imagine__device_bench_end(&bench);
    if (done == -2) {
        status = imagine__fail(error, IMAGINE_ERROR_DEVICE, "%s: CUDA: %s", row->name,
                               imagine__device_text(context, bench.code));
        if (error)
            error->native_code = bench.code;
        return status;
    }
    if (done == -1 && imagine__device_cause(context, IMAGINE_ERROR_NO_MEMORY, error) != IMAGINE_ERROR_NO_MEMORY)
        return IMAGINE_ERROR_DEVICE;
    if (done < 0)
        snprintf(row->left_out, sizeof row->left_out, "its tensors do not fit into the device's memory");
    if (measured.missing)
        snprintf(row->left_out, sizeof row->left_out, "%s is not there", measured.missing);
    if (measured.unit)
        snprintf(row->unit, sizeof row->unit, "%s", measured.unit);
    row->gflops = measured.gflops;
    row->value = measured.value;
    row->seconds = measured.seconds;
    row->share = measured.share;
    row->peak = bench.peak_bf16;
    row->peak_f32 = bench.peak_f32;
    row->bandwidth = bench.bandwidth;
    return IMAGINE_OK;
}

static imagine_status bench_device(imagine_context *context, int32_t index, imagine_bench_row *row, imagine_error *error)
{
    int32_t operations = imagine__device_bench_count();
    row->device = IMAGINE_DEVICE_CUDA;
    row->emulated = imagine__device_is_emulated(context);
    imagine__device_name(context, row->device_name, sizeof row->device_name);
    imagine_status status = describe_device(index, row, error);
    if (status < 0)
        return status;
    if (row->emulated && row->size != IMAGINE_BENCH_TINY)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "size: the emulator would take days, and measure nothing; ask for IMAGINE_BENCH_TINY");
    if (index < operations)
        return bench_operation(context, index, row, error);
    size_t length = strlen(row->name);
    snprintf(row->name + length, sizeof row->name - length, ", %s", imagine__device_is_bf16(context) ? "bf16" : "f32");
    status = imagine__bench_stage(context, index - operations, row->size == IMAGINE_BENCH_TINY, row, error);
    if (status < 0 || row->gflops <= 0)
        return status;
    double peak = imagine__device_is_bf16(context) ? row->peak : row->peak_f32;
    row->share = peak > 0 ? row->gflops / peak : 0;
    return IMAGINE_OK;
}

/* ---- both -------------------------------------------------------------------------------------------------------- */

imagine_status imagine_bench_describe(int32_t index, imagine_bench_row *row, imagine_error *error)
{
    imagine_bench_row known;
    imagine_status status = read_row(&known, row, error);
    if (status < 0)
        return status;
    if (known.device != IMAGINE_DEVICE_CUDA && known.device != IMAGINE_DEVICE_CPU && known.device)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "imagine_bench_row.device: %d is no device", known.device);
    status = known.device == IMAGINE_DEVICE_CUDA ? describe_device(index, &known, error)
                                                 : describe_cpu(index, &known, error);
    return status < 0 ? status : imagine__write_struct(row, &known, sizeof known, "imagine_bench_row", error);
}

/* The row may be that of another entry or of another context: what goes in stays, all else is found anew. */
static void clear_results(imagine_bench_row *row)
{
    *row = (imagine_bench_row){ .struct_size = row->struct_size, .size = row->size, .peak = row->peak,
                                .peak_f32 = row->peak_f32, .bandwidth = row->bandwidth };
}

imagine_status imagine_bench(imagine_context *context, int32_t index, imagine_bench_row *row, imagine_error *error)
{
    IMAGINE__GUARD(context);
    imagine_bench_row known;
    imagine_status status = imagine__need(context, "context", error);
    if (status < 0 || (status = read_row(&known, row, error)) < 0 ||
        (status = imagine__check_process(context, error)) < 0)
        return status;
    clear_results(&known);
    status = imagine__on_device(context) ? bench_device(context, index, &known, error)
                                         : bench_cpu(context, index, &known, error);
    return status < 0 ? status : imagine__write_struct(row, &known, sizeof known, "imagine_bench_row", error);
}
