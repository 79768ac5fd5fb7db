/* SPDX-License-Identifier: MIT */

/* imagine bench. */

#include <stdio.h>
#include <string.h>

#include "cli.h"

/* ---- operations and stages --------------------------------------------------------------------------------------- */

static void row_json(const imagine_bench_row *row)
{
    printf("\n    {\"name\": \"%s\", ", row->name);
    if (row->device == IMAGINE_DEVICE_CUDA)
        printf("\"kind\": \"%s\", \"unit\": \"%s\", \"emulated\": %s, ", row->kind, row->unit,
               row->emulated ? "true" : "false");
    if (row->left_out[0]) {
        printf("\"left_out\": ");
        json_text(row->left_out);
        printf("}");
        return;
    }
    if (row->device == IMAGINE_DEVICE_CUDA)
        printf("\"value\": %.6g, ", row->value);
    printf("\"gflops\": %.6g, \"share\": %.4f, \"seconds\": %.6g}", row->gflops, row->share, row->seconds);
}

static void row_text(const imagine_bench_row *row)
{
    if (row->device != IMAGINE_DEVICE_CUDA) {
        printf("%-44s %8.1f GFLOP/s  %5.1f%%  %9.3f ms\n", row->name, row->gflops, row->share * 100, row->seconds * 1e3);
        return;
    }
    printf("%-58s ", row->name);
    if (row->left_out[0])
        printf("left out: %s", row->left_out);
    else if (row->share > 0)
        printf("%10.4g %-8s %5.1f%%  %10.4f ms", row->value, row->unit, row->share * 100, row->seconds * 1e3);
    else
        printf("%10.4g %-8s         %10.4f ms", row->value, row->unit, row->seconds * 1e3);
    printf("%s\n", row->emulated ? "  (emulated)" : "");
}

static void print_row(const arguments *o, const imagine_bench_row *row, int first)
{
    if (o->json && !first)
        printf(",");
    if (o->json)
        row_json(row);
    else
        row_text(row);
    fflush(stdout);
}

/* What the others are held against is always measured: the peak, on a GPU those of bf16 and f32 and the memory. */
static imagine_status bench_kernels(session *s, const arguments *o)
{
    imagine_bench_row last = { .struct_size = sizeof last };
    int32_t always = o->device == IMAGINE_DEVICE_CUDA ? 3 : 1;
    int first = 1, named = !o->filter;
    for (int32_t i = 0;; i++) {
        imagine_bench_row row = { .struct_size = sizeof row, .device = o->device, .peak = last.peak,
                                  .peak_f32 = last.peak_f32, .bandwidth = last.bandwidth,
                                  .size = o->quick ? IMAGINE_BENCH_TINY : IMAGINE_BENCH_USUAL };
        imagine_status status = imagine_bench_describe(i, &row, &s->error);
        if (status == IMAGINE_ERROR_NOT_FOUND && !named)
            snprintf(s->error.message, sizeof s->error.message, "--filter: no entry's name contains \"%s\"", o->filter);
        if (status == IMAGINE_ERROR_NOT_FOUND)
            return named ? IMAGINE_OK : status;
        if (status < 0)
            return status;
        if (imagine_cancel_fired(s->cancel)) {
            s->error.status = IMAGINE_ERROR_CANCELLED;
            snprintf(s->error.message, sizeof s->error.message, "%s", imagine_status_text(IMAGINE_ERROR_CANCELLED));
            return IMAGINE_ERROR_CANCELLED;
        }
        int wanted = !o->filter || strstr(row.name, o->filter);
        named |= wanted;
        if (i >= always && !wanted)
            continue;
        if ((status = imagine_bench(s->context, i, &row, &s->error)) < 0)
            return status;
        if (first && !o->json && row.emulated)
            printf("NO GPU: this is the emulator of the tests, and its numbers say nothing about any device's speed\n");
        if (first && !o->json && row.device_name[0])
            printf("%s; shares are of what its peak and its memory, the first lines, allow\n", row.device_name);
        print_row(o, &row, first);
        last = row;
        first = 0;
    }
}

/* ---- a whole generation ------------------------------------------------------------------------------------------ */

/* One generation with the pack's defaults. */
static imagine_status time_job(session *s, const arguments *o, imagine_job_info *info, double *total)
{
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job;
    imagine_event event = { .struct_size = sizeof event };
    imagine_sampler_options_init(&sampler, sizeof sampler);
    if (o->quick)
        sampler.steps = sampler.frames = 1;
    imagine_job_options_init(&options, sizeof options);
    options.prompt = "a red apple";
    options.sampler = &sampler;
    options.cancel = s->cancel;
    imagine_status status = imagine_job_create(&job, s->model, &options, &s->error);
    if (status < 0)
        return status;
    do
        status = imagine_job_next(job, &event, -1, &s->error);
    while (status >= 0 && event.kind != IMAGINE_EVENT_DONE);
    *total = event.seconds;
    info->struct_size = sizeof *info;
    imagine_job_get_info(job, info, NULL);
    imagine_job_destroy(&job);
    return status;
}

static imagine_status bench_model(session *s, const arguments *o)
{
    for (int32_t run = 0; run < o->runs; run++) {
        imagine_job_info i;
        double total = 0;
        imagine_status status = time_job(s, o, &i, &total);
        if (status < 0)
            return status;
        if (o->json)
            printf("%s\n    {\"width\": %d, \"height\": %d, \"frames\": %d, \"steps\": %d, \"load\": %.4f, \"text\": %.4f, "
                   "\"sample\": %.4f, \"decode\": %.4f, \"total\": %.4f, \"clips_per_second\": %.4f, \"memory_peak\": %llu}",
                   run ? "," : "", i.width, i.height, i.frames, i.steps, i.seconds[IMAGINE_JOB_LOAD],
                   i.seconds[IMAGINE_JOB_TEXT], i.seconds[IMAGINE_JOB_SAMPLE], i.seconds[IMAGINE_JOB_DECODE], total,
                   total > 0 ? 1 / total : 0, (unsigned long long)i.memory_peak);
        else
            printf("prompt to frames, call %d: %.3f s, %.2f clips a second (load %.3f, text %.3f, sample %.3f, decode %.3f), "
                   "%dx%d, %d frame%s, %d step%s, peak memory %.1f MB\n", run + 1, total, total > 0 ? 1 / total : 0,
                   i.seconds[IMAGINE_JOB_LOAD], i.seconds[IMAGINE_JOB_TEXT], i.seconds[IMAGINE_JOB_SAMPLE],
                   i.seconds[IMAGINE_JOB_DECODE], i.width, i.height, i.frames, plural(i.frames), i.steps, plural(i.steps),
                   (double)i.memory_peak / 1e6);
        fflush(stdout);
    }
    return IMAGINE_OK;
}

/* ---- both -------------------------------------------------------------------------------------------------------- */

static void print_head(const arguments *o, const imagine_context_info *info, const imagine_bench_row *device)
{
    if (!o->json) {
        printf("libimagine %s, %s kernels, %d thread%s\n", imagine_version_string(), level_name(info->cpu_level),
               info->threads, plural(info->threads));
        return;
    }
    printf("{\"version\": \"%s\", \"cpu_level\": \"%s\", \"threads\": %d,", imagine_version_string(),
           level_name(info->cpu_level), info->threads);
    if (info->device == IMAGINE_DEVICE_CUDA) {
        printf("\n  \"device\": ");
        json_text(device->device_name);
        printf(", \"emulated\": %s, \"precision\": \"%s\",", device->emulated ? "true" : "false",
               o->precision == IMAGINE_PRECISION_BF16 ? "bf16" : "f32");
    }
    printf("\n  \"kernels\": [");
}

int run_bench(const arguments *o)
{
    session s;
    imagine_context_info info = { .struct_size = sizeof info };
    imagine_bench_row device = { .struct_size = sizeof device, .size = o->quick };
    int only_model = o->filter && !strcmp(o->filter, "model");
    imagine_status status = IMAGINE_OK;
    /* Without a filter the model counts too; a filter for kernels needs none. */
    int with_model = !o->filter || only_model;
    if (o->quick && o->device != IMAGINE_DEVICE_CUDA)
        return usage_error(o, "--quick is for --device cuda");
    int result = session_open(&s, o, with_model);
    if (result)
        return result;
    imagine_context_get_info(s.context, &info, NULL);
    if (o->json && info.device == IMAGINE_DEVICE_CUDA) /* for its name */
        status = imagine_bench(s.context, 0, &device, &s.error);
    if (status < 0) {
        result = session_failed(&s);
        session_close(&s);
        return result;
    }
    print_head(o, &info, &device);
    s.json = 0; /* one object has begun */
    if (!only_model)
        status = bench_kernels(&s, o);
    if (o->json && status >= 0)
        printf("],\n  \"generations\": [");
    if (status >= 0 && with_model)
        status = bench_model(&s, o);
    if (o->json && status < 0) {
        printf("],\n  ");
        json_error(s.error.status, s.error.message);
        printf("}\n");
    } else if (o->json)
        printf("]}\n");
    if (status < 0)
        result = session_failed(&s);
    session_close(&s);
    return result;
}
