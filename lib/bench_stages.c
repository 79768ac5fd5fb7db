/* SPDX-License-Identifier: MIT */

/* Whole stages on a device, with random weights: a step of the transformer, and frames out of the VAE. */

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/bench.h"
#include "dit/dit.h"
#include "vae/vae.h"

#define LONGEST 60.0 /* seconds that a measurement may take */
#define TIMED 3 /* runs, of which the fastest counts */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Waits until all that was started is done, of which *value is a part. */
static imagine_status finish(imagine__work *work, const float *value, imagine_error *error)
{
    float seen;
    imagine__download(work, &seen, 0, value, 0, sizeof seen, 1);
    return imagine__work_check(work, error);
}

static imagine_status new_floats(imagine_context *context, float **values, int64_t count, double deviation,
                                 imagine_error *error)
{
    *values = imagine__alloc_values(context, (size_t)count * sizeof **values);
    return *values ? imagine__random_values(context, *values, count, IMAGINE__W_F32, deviation, error)
                   : imagine__fail_memory_in(context, error, (size_t)count * sizeof **values, "a measurement's tensors");
}

/* ---- the transformer --------------------------------------------------------------------------------------------- */

typedef struct step_size {
    imagine__dit_config config;
    int32_t frames, height, width, text; /* latents; tokens of text */
} step_size;

/* Of a clip of 81 frames of 832x480; `small`: of a picture of 416x240, where starting the work is much of it. */
static step_size size_of_step(int32_t small, int32_t tiny)
{
    const imagine__dit_config wan = { .in_channels = 16, .out_channels = 16, .layers = 30, .heads = 12, .head_dim = 128,
                                      .ffn_dim = 8960, .text_dim = 4096, .freq_dim = 256, .patch_t = 1, .patch_h = 2,
                                      .patch_w = 2, .cross_attn_norm = 1, .eps = 1e-6f, .rope_max_seq_len = 1024 };
    step_size s = { wan, 21, 60, 104, 512 };
    if (small)
        s.frames = 1, s.height = 30, s.width = 52;
    if (tiny) {
        s = (step_size){ wan, small ? 1 : 2, 4, 6, 7 };
        s.config.layers = 2;
        s.config.heads = 2;
        s.config.head_dim = 16;
        s.config.ffn_dim = 48;
        s.config.text_dim = 24;
    }
    return s;
}

static int64_t tokens_of(const step_size *s)
{
    return (int64_t)s->frames * (s->height / s->config.patch_h) * (s->width / s->config.patch_w);
}

/* Of one forward; the text's keys and values are there already. */
static double operations_of(const step_size *s)
{
    double tokens = (double)tokens_of(s), dim = (double)s->config.heads * s->config.head_dim;
    double linear = tokens * (6 * dim * dim + 2 * dim * s->config.ffn_dim);
    double ends = 2 * tokens * dim * s->config.in_channels * s->config.patch_h * s->config.patch_w;
    return s->config.layers * (2 * linear + 4 * tokens * (tokens + s->text) * dim) + 2 * ends;
}

/* What a forward works on. */
typedef struct step {
    imagine__dit *dit;
    imagine__dit_text *text;
    float *x, *y, *embeds;
    imagine__work work;
} step;

static void step_close(imagine_context *context, step *t)
{
    imagine__dit_text_free(t->text);
    imagine__dit_free(t->dit);
    imagine__free(context, t->x);
    imagine__free(context, t->y);
    imagine__free(context, t->embeds);
    imagine__work_fini(&t->work);
}

static imagine_status step_open(imagine_context *context, step *t, const step_size *s, int graphs, imagine_error *error)
{
    int64_t values = (int64_t)s->config.in_channels * s->frames * s->height * s->width;
    imagine_status status = imagine__work_init(&t->work, context, NULL, error);
    if (status >= 0 && !graphs)
        imagine__device_without_graphs(&t->work);
    if (status >= 0)
        status = imagine__dit_random(&t->dit, context, &s->config, NULL, error);
    if (status >= 0)
        status = new_floats(context, &t->x, values, 1, error);
    if (status >= 0)
        status = new_floats(context, &t->y, values, 1, error);
    if (status >= 0)
        status = new_floats(context, &t->embeds, (int64_t)s->text * s->config.text_dim, 1, error);
    return status < 0 ? status : imagine__dit_text_create(&t->text, t->dit, &t->work, t->embeds, 1, s->text, error);
}

/* Seconds of one forward: the fastest of `runs` after a first one. The second records the graphs, where there are any. */
static imagine_status time_step(imagine_context *context, const step_size *s, int graphs, int runs, double *seconds,
                                imagine_error *error)
{
    step t;
    const float timestep = 500;
    memset(&t, 0, sizeof t);
    imagine_status status = step_open(context, &t, s, graphs, error);
    imagine__dit_input input = { .x = t.x, .y = t.y, .timesteps = &timestep, .text = t.text, .batch = 1,
                                 .frames = s->frames, .height = s->height, .width = s->width };
    *seconds = 1e30;
    for (int i = 0; i <= runs && status >= 0; i++) {
        double begin = now();
        status = imagine__dit_forward(t.dit, &t.work, &input, error);
        if (status >= 0)
            status = finish(&t.work, t.y, error);
        double each = now() - begin;
        *seconds = i && each < *seconds ? each : *seconds;
    }
    step_close(context, &t);
    return status;
}

static imagine_status bench_step(imagine_context *context, int32_t small, int32_t graphs, int32_t tiny,
                                 imagine_bench_row *row, imagine_error *error)
{
    step_size s = size_of_step(small, tiny), one = s;
    double seconds;
    snprintf(row->unit, sizeof row->unit, "s");
    one.config.layers = 1; /* to see how long all of them would take */
    imagine_status status = time_step(context, &one, 0, 1, &seconds, error);
    if (status < 0)
        return status;
    if (seconds * s.config.layers * (TIMED + 1) > LONGEST && !tiny) {
        snprintf(row->left_out, sizeof row->left_out, "a layer takes %.2f s here, %d of them too long", seconds,
                 s.config.layers);
        return IMAGINE_OK;
    }
    status = time_step(context, &s, graphs, tiny ? 2 : TIMED, &seconds, error);
    if (status < 0)
        return status;
    row->seconds = row->value = seconds;
    row->gflops = operations_of(&s) / seconds * 1e-9;
    return IMAGINE_OK;
}

/* ---- the VAE ----------------------------------------------------------------------------------------------------- */

static imagine__vae_config config_of_vae(int32_t tiny)
{
    imagine__vae_config c = { .base_dim = 96, .decoder_base_dim = 96, .z_dim = 16, .levels = 4, .dim_mult = { 1, 2, 4, 4 },
                              .res_blocks = 2, .temporal_down = { 0, 1, 1 }, .patch = 1, .spatial_factor = 8,
                              .temporal_factor = 4 };
    if (tiny)
        c.base_dim = c.decoder_base_dim = 8;
    for (int32_t i = 0; i < c.z_dim; i++)
        c.std[i] = 1;
    return c;
}

/* Seconds of a latent frame once the clip is under way: the first ones have no past, and fill the arena. */
static imagine_status time_frames(imagine_context *context, imagine__work *work, const imagine__vae_model *vae,
                                  int32_t height, int32_t width, int32_t tiny, imagine_bench_row *row,
                                  imagine_error *error)
{
    const imagine__vae_config *c = imagine__vae_get_config(vae);
    int64_t pixels = (int64_t)height * width * c->spatial_factor * c->spatial_factor;
    int64_t values = (int64_t)c->z_dim * height * width;
    imagine__vae_coder *coder = NULL;
    float *out = NULL, *latent = imagine__calloc(context, (size_t)values, sizeof *latent);
    double best = 1e30;
    imagine_status status = latent ? new_floats(context, &out, pixels * 3 * c->temporal_factor, 1, error)
                                   : imagine__fail_memory_in(context, error, (size_t)values * sizeof *latent, "a latent frame");
    for (int64_t i = 0; i < values && latent; i++)
        latent[i] = (float)(i * 7919 % 2001 - 1000) * 1e-3f;
    if (status >= 0)
        status = imagine__vae_coder_create(&coder, vae, work, error);
    for (int i = 0; i < TIMED + 3 && status >= 0; i++) {
        int32_t count = 0;
        double begin = now();
        status = imagine__vae_decode_latent(coder, latent, height, width, out, &count, error);
        if (status >= 0)
            status = finish(work, out, error);
        double each = now() - begin;
        best = i > 2 && each < best ? each : best;
        if (status >= 0 && i == 1 && each * TIMED > LONGEST && !tiny) {
            snprintf(row->left_out, sizeof row->left_out, "four frames take %.1f s here, too long", each);
            break;
        }
    }
    if (status >= 0 && !row->left_out[0]) {
        row->seconds = best;
        row->value = c->temporal_factor / best;
    }
    imagine__vae_coder_free(coder);
    imagine__free(context, out);
    imagine__free(context, latent);
    return status;
}

static imagine_status bench_frames(imagine_context *context, int32_t height, int32_t width, int32_t tiny,
                                   imagine_bench_row *row, imagine_error *error)
{
    imagine__vae_config config = config_of_vae(tiny);
    imagine__vae_model *vae = NULL;
    imagine__work work;
    snprintf(row->unit, sizeof row->unit, "frames/s");
    imagine_status status = imagine__work_init(&work, context, NULL, error);
    if (status < 0)
        return status;
    status = imagine__vae_random(&vae, context, &config, NULL, error);
    if (status >= 0)
        status = time_frames(context, &work, vae, height, width, tiny, row, error);
    imagine__vae_free(vae);
    imagine__work_fini(&work);
    return status;
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

static const struct {
    int32_t height, width; /* of frames; 0: the transformer */
    int32_t small, graphs; /* the transformer */
} stages[] = { { 0, 0, 0, 1 }, { 0, 0, 1, 1 }, { 0, 0, 1, 0 }, { 480, 832, 0, 0 }, { 720, 1280, 0, 0 } };
#define STAGES ((int32_t)(sizeof stages / sizeof *stages))
#define STEPS 3 /* of these, the first */

int32_t imagine__bench_stage_name(int32_t number, int32_t tiny, imagine_bench_row *row)
{
    if (number < 0 || number >= STAGES)
        return 0;
    step_size s = size_of_step(stages[number].small, tiny);
    if (number >= STEPS)
        snprintf(row->name, sizeof row->name, "VAE decode %dx%d", tiny ? 16 : stages[number].width,
                 tiny ? 8 * (number - STEPS + 1) : stages[number].height);
    else
        snprintf(row->name, sizeof row->name, "step of %d layers of %d, %lld tokens%s", s.config.layers,
                 s.config.heads * s.config.head_dim, (long long)tokens_of(&s),
                 stages[number].graphs ? "" : " without graphs");
    snprintf(row->kind, sizeof row->kind, "%s", number >= STEPS ? "vae" : "transformer");
    return 1;
}

imagine_status imagine__bench_stage(imagine_context *context, int32_t number, int32_t tiny, imagine_bench_row *row,
                                    imagine_error *error)
{
    int32_t factor = config_of_vae(tiny).spatial_factor;
    imagine_status status =
        number < STEPS ? bench_step(context, stages[number].small, stages[number].graphs, tiny, row, error)
                       : bench_frames(context, tiny ? number - STEPS + 1 : stages[number].height / factor,
                                      tiny ? 2 : stages[number].width / factor, tiny, row, error);
    status = imagine__device_cause(context, status, error);
    if (status != IMAGINE_ERROR_NO_MEMORY)
        return status;
    snprintf(row->left_out, sizeof row->left_out, "there is not enough memory for it");
    return IMAGINE_OK;
}
