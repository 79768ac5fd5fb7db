/* SPDX-License-Identifier: MIT */

/* imagine info. */

#include <stdio.h>
#include <string.h>

#include "cli.h"

const char *level_name(imagine_cpu_level level)
{
    static const char *const names[] = { "best", "plain", "avx2", "avx512", "avx512bf16", "amx" };
    return level < 0 || level > IMAGINE_CPU_AMX ? "unknown" : names[level];
}

/* What a job with this sampler needs; 0 where the pack cannot run one. */
static imagine_status estimate(session *s, const arguments *o, const imagine_sampler_options *sampler, imagine_estimate *out)
{
    imagine_job_options options;
    imagine_sampler_options flow = *sampler;
    imagine_job_options_init(&options, sizeof options);
    options.sampler = sampler;
    options.tile_width = o->tile_width;
    options.tile_height = o->tile_height;
    options.state_every = 1; /* as imagine generate has it */
    *out = (imagine_estimate){ .struct_size = sizeof *out };
    imagine_status status = imagine_job_estimate(s->model, &options, out, &s->error);
    if (status == IMAGINE_ERROR_UNSUPPORTED) { /* perhaps the pack's own schedule, without which it is still of use */
        flow.schedule = IMAGINE_SCHEDULE_FLOW;
        options.sampler = &flow;
        status = imagine_job_estimate(s->model, &options, out, &s->error);
    }
    if (status != IMAGINE_ERROR_NOT_FOUND)
        return status;
    *out = (imagine_estimate){ .struct_size = sizeof *out };
    return IMAGINE_OK;
}

static const struct {
    const char *name;
    imagine_job_stage stage;
} stages[] = { { "text", IMAGINE_JOB_TEXT }, { "sampler", IMAGINE_JOB_SAMPLE }, { "vae", IMAGINE_JOB_DECODE } };
#define STAGES (sizeof stages / sizeof stages[0])

static void memory_json(const imagine_estimate *e)
{
    if (!e->peak_bytes) {
        printf(", \"peak_bytes\": null, \"memory\": null");
        return;
    }
    printf(", \"peak_bytes\": %llu, \"memory\": {\"width\": %d, \"height\": %d, \"frames\": %d, \"steps\": %d, "
           "\"guidance\": %g, \"held_bytes\": %llu, \"limit_bytes\": %llu, \"fits\": %s, \"stages\": {",
           (unsigned long long)e->peak_bytes, e->width, e->height, e->frames, e->steps, e->guidance,
           (unsigned long long)e->held_bytes, (unsigned long long)e->limit_bytes, e->fits ? "true" : "false");
    for (size_t i = 0; i < STAGES; i++)
        printf("%s\"%s\": {\"peak_bytes\": %llu, \"weights_bytes\": %llu, \"work_bytes\": %llu}", i ? ", " : "",
               stages[i].name, (unsigned long long)e->stage_peak[stages[i].stage],
               (unsigned long long)e->stage_weights[stages[i].stage],
               (unsigned long long)e->stage_work[stages[i].stage]);
    printf("}, \"streamed\": {\"text\": %s, \"sampler\": %s}, \"gives_back\": %s, \"in_turn\": %s, \"tile\": %d, \"nearest\": ",
           e->streamed & IMAGINE_STAGE_TEXT ? "true" : "false", e->streamed & IMAGINE_STAGE_SAMPLER ? "true" : "false",
           e->gives_back ? "true" : "false", e->in_turn ? "true" : "false", e->tile);
    if (e->nearest_frames)
        printf("{\"width\": %d, \"height\": %d, \"frames\": %d}}", e->nearest_width, e->nearest_height, e->nearest_frames);
    else
        printf("null}");
}

static void memory_text(const imagine_estimate *e)
{
    if (!e->peak_bytes)
        return;
    printf("  memory for %dx%d, %d frame%s, guidance %g: %.1f MB\n", e->width, e->height, e->frames, plural(e->frames),
           e->guidance, (double)e->peak_bytes / 1e6);
    for (size_t i = 0; i < STAGES; i++)
        printf("    %-8s %10.1f MB, of which %.1f MB its weights, %.1f MB its work\n", stages[i].name,
               (double)e->stage_peak[stages[i].stage] / 1e6, (double)e->stage_weights[stages[i].stage] / 1e6,
               (double)e->stage_work[stages[i].stage] / 1e6);
    if (e->streamed)
        printf("    weights of the %s are read block by block\n",
               !(e->streamed & IMAGINE_STAGE_TEXT)      ? "transformer"
               : !(e->streamed & IMAGINE_STAGE_SAMPLER) ? "text encoder"
                                                        : "text encoder and the transformer");
    if (e->tile)
        printf("    frames are decoded in tiles of %d pixels, and come all at once\n", e->tile);
    if (e->fits)
        return;
    printf("    this is beyond the limit of %.1f MB", (double)e->limit_bytes / 1e6);
    if (e->nearest_frames)
        printf("; %dx%d with %d frame%s would fit", e->nearest_width, e->nearest_height, e->nearest_frames,
               plural(e->nearest_frames));
    printf("\n");
}

static void info_json(const imagine_model_info *m, const imagine_context_info *c, const imagine_estimate *e,
                      const char *path)
{
    printf("{\"version\": \"%s\", \"device\": \"%s\", \"cpu_level\": \"%s\", \"threads\": %d, \"model\": ",
           imagine_version_string(), c->device == IMAGINE_DEVICE_CUDA ? "cuda" : "cpu", level_name(c->cpu_level),
           c->threads);
    json_text(path);
    printf(", \"stages\": {\"text\": %s, \"sampler\": %s, \"vae\": %s}, \"width\": %d, \"height\": %d, \"frames\": %d, "
           "\"steps\": %d, \"guidance\": %g, \"fps\": %g, \"latent_channels\": %d, \"spatial_factor\": %d, "
           "\"temporal_factor\": %d, \"size_multiple\": %d, \"text_length\": %d, \"text_dim\": %d, \"layers\": %d, "
           "\"width_hidden\": %d, \"parameters\": {\"text\": %llu, \"sampler\": %llu, \"vae\": %llu}, \"bytes\": %llu",
           m->stages & IMAGINE_STAGE_TEXT ? "true" : "false", m->stages & IMAGINE_STAGE_SAMPLER ? "true" : "false",
           m->stages & IMAGINE_STAGE_VAE ? "true" : "false", m->width, m->height, m->frames, m->steps, m->guidance,
           m->frames_per_second, m->latent_channels, m->spatial_factor, m->temporal_factor, m->size_multiple,
           m->text_length, m->text_dim, m->layers, m->width_hidden, (unsigned long long)m->parameters_text,
           (unsigned long long)m->parameters_sampler, (unsigned long long)m->parameters_vae,
           (unsigned long long)m->bytes);
    memory_json(e);
    printf("}\n");
}

/* Which sizes there may be, as far as the stages of the pack tell. */
static void sizes_text(const imagine_model_info *m)
{
    if (!m->size_multiple)
        return;
    printf("  width and height are multiples of %d", m->size_multiple);
    if (m->temporal_factor == 1)
        printf(", frames are any number");
    else if (m->temporal_factor)
        printf(", frames are %dk+1", m->temporal_factor);
    printf("\n");
}

static void info_text(const imagine_model_info *m, const imagine_context_info *c, const imagine_estimate *e,
                      const char *path)
{
    printf("libimagine %s, %s%s kernels, %d thread%s\n", imagine_version_string(),
           c->device == IMAGINE_DEVICE_CUDA ? "CUDA and " : "", level_name(c->cpu_level), c->threads,
           plural(c->threads));
    printf("%s: %.1f MB of weights\n", path, (double)m->bytes / 1e6);
    printf("  by default %dx%d, %d frame%s at %g a second, %d step%s, guidance %g\n", m->width, m->height, m->frames,
           plural(m->frames), m->frames_per_second, m->steps, plural(m->steps), m->guidance);
    if (m->stages & IMAGINE_STAGE_TEXT)
        printf("  text encoder: %.2f million parameters, %d tokens of width %d\n", (double)m->parameters_text / 1e6,
               m->text_length, m->text_dim);
    if (m->stages & IMAGINE_STAGE_SAMPLER)
        printf("  transformer: %.2f million parameters, %d layers of width %d\n", (double)m->parameters_sampler / 1e6,
               m->layers, m->width_hidden);
    if (m->stages & IMAGINE_STAGE_VAE)
        printf("  VAE: %.2f million parameters, %d channels, %dx%dx%d\n", (double)m->parameters_vae / 1e6,
               m->latent_channels, m->temporal_factor, m->spatial_factor, m->spatial_factor);
    sizes_text(m);
    memory_text(e);
}

int run_info(const arguments *o)
{
    imagine_model_info model = { .struct_size = sizeof model };
    imagine_context_info context = { .struct_size = sizeof context };
    imagine_sampler_options sampler;
    imagine_estimate memory;
    double sigmas[1001];
    arguments settled = *o;
    char path[8192];
    session s;
    if (o->input && o->model)
        return usage_error(o, "give the model as the argument or with --model, not both");
    if (o->input)
        settled.model = o->input;
    int result = sampler_options(&sampler, sigmas, o);
    if (result || (result = session_open(&s, &settled, 1)))
        return result;
    if (imagine_model_get_info(s.model, &model, &s.error) < 0 ||
        imagine_context_get_info(s.context, &context, &s.error) < 0 || estimate(&s, o, &sampler, &memory) < 0)
        result = session_failed(&s);
    else if (o->json)
        info_json(&model, &context, &memory, find_model(&settled, path, sizeof path));
    else
        info_text(&model, &context, &memory, find_model(&settled, path, sizeof path));
    session_close(&s);
    return result;
}
