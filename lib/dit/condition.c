/* SPDX-License-Identifier: MIT */

/* What the blocks are conditioned on: the time step, and the keys and values of the text. */

#include "dit/inside.h"

#include <math.h>

typedef struct sinusoid_job {
    const float *timesteps;
    float *frequencies; /* [dim / 2] */
    float *out; /* [rows, dim] */
    int64_t rows, dim;
} sinusoid_job;

#define SINUSOID_ROWS 64 /* a tile's */

/* Cosines, then sines of t * 10000^(-i / half). The frequencies and angles are f32 with the reference's roundings: at t
 * near 1000 the last bit of an angle is worth 6e-5. */
static void sinusoid_rows(void *arg, int64_t tile, void *scratch)
{
    const sinusoid_job *job = arg;
    int64_t half = job->dim / 2, first = tile * SINUSOID_ROWS;
    int64_t end = first + SINUSOID_ROWS < job->rows ? first + SINUSOID_ROWS : job->rows;
    (void)scratch;
    for (int64_t r = first; r < end; r++) {
        float *row = job->out + r * job->dim;
        for (int64_t i = 0; i < half; i++) {
            float angle = job->timesteps[r] * job->frequencies[i];
            row[i] = (float)cos((double)angle);
            row[half + i] = (float)sin((double)angle);
        }
        if (job->dim % 2)
            row[job->dim - 1] = 0;
    }
}

static void fill_frequencies(void *arg, int64_t tile, void *scratch)
{
    const float log_period = (float)-9.210340371976184; /* -ln 10000 */
    const sinusoid_job *job = arg;
    int64_t half = job->dim / 2;
    (void)tile;
    (void)scratch;
    for (int64_t i = 0; i < half; i++) {
        float exponent = log_period * (float)i / (float)half;
        job->frequencies[i] = (float)exp((double)exponent);
    }
}

static void sinusoids(imagine__work *work, sinusoid_job *job)
{
    imagine__parallel(&work->run, 1, fill_frequencies, job);
    imagine__parallel(&work->run, (job->rows + SINUSOID_ROWS - 1) / SINUSOID_ROWS, sinusoid_rows, job);
}

static void linear(imagine__work *work, const imagine__linear_weight *w, const float *x, float *y, int64_t m,
                   imagine__act act)
{
    imagine__linear_args args = { .w = w, .x = x, .y = y, .m = m, .ldx = w->k, .ldy = w->n, .act = act };
    work->run.kernels->linear(&work->run, &args);
}

imagine_status imagine__dit_time(const imagine__dit *dit, imagine__work *work, const float *timesteps, int64_t rows,
                                 float **temb, float **projection, imagine_error *error)
{
    int64_t dim = dit->dim, freq = dit->config.freq_dim;
    float *t = imagine__arena_floats(work->arena, rows * dim);
    float *p = imagine__arena_floats(work->arena, rows * 6 * dim);
    imagine__arena_mark mark = imagine__arena_save(work->arena);
    float *on_host = imagine__arena_host_floats(work->arena, rows * freq);
    float *frequencies = imagine__arena_host_floats(work->arena, freq);
    float *hidden = imagine__arena_floats(work->arena, rows * dim);
    const float *waves = NULL;
    if (t && p && on_host && frequencies && hidden) {
        sinusoid_job job = { timesteps, frequencies, on_host, rows, freq };
        sinusoids(work, &job);
        waves = imagine__lend(work, on_host, (size_t)(rows * freq) * sizeof *waves);
    }
    if (!waves)
        return imagine__fail_memory_in(work->context, error, (size_t)rows * (size_t)(8 * dim + freq) * sizeof(float),
                                    "the time conditioning");
    linear(work, &dit->time_1, waves, hidden, rows, IMAGINE__ACT_SILU);
    linear(work, &dit->time_2, hidden, t, rows, IMAGINE__ACT_NONE);
    work->run.kernels->activate(&work->run, t, hidden, rows * dim, IMAGINE__ACT_SILU);
    linear(work, &dit->time_proj, hidden, p, rows, IMAGINE__ACT_NONE);
    imagine__arena_restore(work->arena, mark);
    *temb = t;
    *projection = p;
    return IMAGINE_OK;
}

void imagine__dit_modulate(imagine__work *work, const float *table, const float *x, float *y, int64_t rows,
                           int64_t parts, int64_t x_parts, int64_t dim)
{
    imagine__modulate_args args = { table, x, y, rows, parts, x_parts, dim };
    work->run.kernels->modulate(&work->run, &args);
}

/* Of the text's keys and values. */
static size_t value_size(const imagine_context *context)
{
    return imagine__activations(context) == IMAGINE__W_F32 ? 4 : 2;
}

/* Keys and values of one block for all rows of the text. */
static void block_kv(const imagine__dit *dit, imagine__work *work, const imagine__dit_block *block,
                     const float *context, void *kv, int64_t rows)
{
    const imagine__linear_weight *w = &block->cross_kv;
    imagine__wtype type = imagine__activations(work->context);
    imagine__linear_args args = { .w = w, .x = context, .y = kv, .y_type = type, .m = rows, .ldx = w->k, .ldy = w->n };
    work->run.kernels->linear(&work->run, &args);
    imagine__norm_rope_args norm = { .x = kv,
                                     .rows = rows,
                                     .heads = dit->config.heads,
                                     .d = dit->config.head_dim,
                                     .ldx = 2 * dit->dim,
                                     .weight = block->cross_norm_k,
                                     .eps = dit->config.eps,
                                     .type = type };
    work->run.kernels->norm_rope(&work->run, &norm);
}

static imagine_status text_fill(imagine__dit_text *text, imagine__work *work, const float *embeds, imagine_error *error)
{
    const imagine__dit *dit = text->dit;
    int64_t rows = (int64_t)text->batch * text->length, dim = dit->dim;
    imagine__arena_mark mark = imagine__arena_save(work->arena);
    float *hidden = imagine__arena_floats(work->arena, rows * dim);
    float *context = imagine__arena_floats(work->arena, rows * dim);
    imagine_status status = IMAGINE_OK;
    if (!hidden || !context)
        status = imagine__fail_memory_in(work->context, error, (size_t)rows * (size_t)dim * 2 * sizeof(float), "the text projection");
    if (status >= 0) {
        linear(work, &dit->text_1, embeds, hidden, rows, IMAGINE__ACT_GELU_TANH);
        linear(work, &dit->text_2, hidden, context, rows, IMAGINE__ACT_NONE);
    }
    imagine__dit_walk walk = { 0 };
    const imagine__dit_block *block;
    if (status >= 0)
        status = imagine__dit_begin(&walk, dit, work, 1, NULL, error);
    for (int32_t i = 0; status >= 0 && i < dit->config.layers; i++) {
        status = imagine__dit_next(&walk, &block, error);
        if (status >= 0) {
            block_kv(dit, work, block, context, (char *)text->kv + (size_t)(i * rows * 2 * dim) * value_size(work->context), rows);
            status = imagine__work_check(work, error);
        }
    }
    imagine__dit_end(&walk);
    imagine__arena_restore(work->arena, mark);
    return status;
}

imagine_status imagine__dit_text_create(imagine__dit_text **out, const imagine__dit *dit, imagine__work *work,
                                        const float *embeds, int32_t batch, int32_t length, imagine_error *error)
{
    *out = NULL;
    if (batch < 1 || length < 1)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "the text has %d rows of %d embeddings; there must be at least one of each", batch,
                             length);
    size_t size = 0;
    if (!imagine__mul_size((size_t)batch * (size_t)length, (size_t)dit->dim * 2 * value_size(work->context), &size) ||
        !imagine__mul_size(size, (size_t)dit->config.layers, &size))
        return imagine__fail_memory_in(work->context, error, SIZE_MAX, "the text's keys and values");
    imagine__dit_text *text = imagine__calloc(work->context, 1, sizeof *text);
    if (!text)
        return imagine__fail_memory_in(work->context, error, sizeof *text, "the text conditioning");
    text->context = work->context;
    text->dit = dit;
    text->batch = batch;
    text->length = length;
    text->kv = imagine__alloc_values(work->context, size);
    imagine_status status = text->kv ? text_fill(text, work, embeds, error)
                                     : imagine__fail_memory_in(work->context, error, size, "the text's keys and values");
    if (status < 0) {
        imagine__dit_text_free(text);
        return status;
    }
    *out = text;
    return IMAGINE_OK;
}

void imagine__dit_text_free(imagine__dit_text *text)
{
    if (!text)
        return;
    imagine_context *context = text->context;
    imagine__free(context, text->kv);
    imagine__free(context, text);
}
