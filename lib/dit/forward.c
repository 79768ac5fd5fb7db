/* SPDX-License-Identifier: MIT */

/* One forward of the transformer: latents to tokens, the blocks, and back. */

#include "dit/inside.h"

#include <math.h>

typedef struct forward {
    const imagine__dit *dit;
    imagine__work *work;
    const imagine__dit_input *input;
    int64_t tokens, rows; /* of a clip; of the batch */
    int64_t group; /* rows that share a modulation: tokens, or 1 */
    int64_t mod_rows; /* rows / group */
    int32_t grid[3];
    const float *cosines, *sines;
    float *temb, *time; /* [mod_rows, dim], [mod_rows, 6 * dim] */
    float *mod; /* [mod_rows, 6 * dim] of the block at work */
    float *x; /* [rows, dim]: the residual stream */
    imagine__wtype type; /* of n and inner */
    void *n; /* [rows, dim]: the norm of x, or an attention's result */
    void *inner; /* what a part of a block keeps: [rows, 3 * dim], or as much of the FFN as is held at a time */
    int64_t ffn_rows; /* that many rows of the FFN */
    const imagine__dit_block *block; /* at work */
    int32_t layer;
} forward;

/* Value i of n, inner or the text's. */
static void *at(const forward *f, void *values, int64_t i)
{
    return (char *)values + i * (f->type == IMAGINE__W_F32 ? 4 : 2);
}

static void linear(forward *f, imagine__linear_args args)
{
    args.ldx = args.w->k;
    args.ldy = args.w->n;
    args.ld_add = args.w->n;
    f->work->run.kernels->linear(&f->work->run, &args);
}

/* n = norm(x), affine when weight is not NULL; modulated when `mod` is not NULL, where a shift and a scale stand in
 * rows of ld_mod. */
static void norm(forward *f, const float *weight, const float *bias, const float *mod, int64_t ld_mod)
{
    int64_t dim = f->dit->dim;
    imagine__norm_args args = { .x = f->x,
                                .y = f->n,
                                .rows = f->rows,
                                .dim = dim,
                                .ldx = dim,
                                .ldy = dim,
                                .kind = IMAGINE__NORM_LAYER,
                                .eps = f->dit->config.eps,
                                .y_type = f->type,
                                .weight = weight,
                                .bias = bias,
                                .shift = mod,
                                .scale = mod ? mod + dim : NULL,
                                .group = f->group,
                                .ld_mod = ld_mod };
    f->work->run.kernels->norm(&f->work->run, &args);
}

/* Of x, and of a second tensor like it where that is not NULL. */
static void norm_rope(forward *f, void *x, const float *weight, void *second, const float *second_weight, int64_t ldx, int rotate)
{
    imagine__norm_rope_args args = { .x = x,
                                     .second = second,
                                     .second_weight = second_weight,
                                     .rows = f->rows,
                                     .heads = f->dit->config.heads,
                                     .d = f->dit->config.head_dim,
                                     .ldx = ldx,
                                     .weight = weight,
                                     .cos_table = rotate ? f->cosines : NULL,
                                     .sin_table = rotate ? f->sines : NULL,
                                     .positions = f->tokens,
                                     .eps = f->dit->config.eps,
                                     .type = f->type };
    f->work->run.kernels->norm_rope(&f->work->run, &args);
}

/* n = attention of q rows of stride ldq over `kv` keys and values per clip of stride ldk. */
static void attend(forward *f, const void *q, int64_t ldq, const void *k, const void *v, int64_t ldk, int64_t kv)
{
    const imagine__dit_config *c = &f->dit->config;
    int64_t dim = f->dit->dim;
    imagine__attention_args args = { .q = q,
                                     .k = k,
                                     .v = v,
                                     .y = f->n,
                                     .batch = f->input->batch,
                                     .heads = c->heads,
                                     .d = c->head_dim,
                                     .tokens = f->tokens,
                                     .kv = kv,
                                     .q_batch = f->tokens * ldq,
                                     .q_token = ldq,
                                     .k_batch = kv * ldk,
                                     .k_token = ldk,
                                     .v_batch = kv * ldk,
                                     .v_token = ldk,
                                     .y_batch = f->tokens * dim,
                                     .y_token = dim,
                                     .scale = (float)(1.0 / sqrt((double)c->head_dim)),
                                     .type = f->type };
    f->work->run.kernels->attention(&f->work->run, &args);
}

static void self_attention(forward *f)
{
    const imagine__dit_block *block = f->block;
    int64_t dim = f->dit->dim;
    void *qkv = f->inner;
    norm(f, NULL, NULL, f->mod, 6 * dim);
    linear(f, (imagine__linear_args){ .w = &block->self_qkv,
                                      .x = f->n,
                                      .x_type = f->type,
                                      .y = qkv,
                                      .y_type = f->type,
                                      .m = f->rows });
    norm_rope(f, qkv, block->self_norm_q, at(f, qkv, dim), block->self_norm_k, 3 * dim, 1);
    attend(f, qkv, 3 * dim, at(f, qkv, dim), at(f, qkv, 2 * dim), 3 * dim, f->tokens);
    linear(f, (imagine__linear_args){ .w = &block->self_out,
                                      .x = f->n,
                                      .x_type = f->type,
                                      .y = f->x,
                                      .m = f->rows,
                                      .gate = f->mod + 2 * dim,
                                      .gate_rows = f->group,
                                      .ld_gate = 6 * dim,
                                      .add = f->x });
}

static void cross_attention(forward *f)
{
    const imagine__dit_block *block = f->block;
    const imagine__dit_text *text = f->input->text;
    int64_t dim = f->dit->dim;
    imagine__linear_args to_q = { .w = &block->cross_q, .x = f->x, .y = f->inner, .y_type = f->type, .m = f->rows };
    if (f->dit->config.cross_attn_norm) {
        norm(f, block->norm_weight, block->norm_bias, NULL, 0);
        to_q.x = f->n;
        to_q.x_type = f->type;
    }
    linear(f, to_q);
    norm_rope(f, f->inner, block->cross_norm_q, NULL, NULL, dim, 0);
    void *kv = at(f, text->kv, (int64_t)f->layer * text->batch * text->length * 2 * dim);
    attend(f, f->inner, dim, kv, at(f, kv, dim), 2 * dim, text->length);
    linear(f, (imagine__linear_args){ .w = &block->cross_out,
                                      .x = f->n,
                                      .x_type = f->type,
                                      .y = f->x,
                                      .m = f->rows,
                                      .add = f->x });
}

/* Rows first..first+count-1, of which each gate_rows share a gate. */
static void ffn_rows(forward *f, int64_t first, int64_t count, int64_t gate_rows)
{
    int64_t dim = f->dit->dim;
    float *x = f->x + first * dim;
    linear(f, (imagine__linear_args){ .w = &f->block->up,
                                      .x = at(f, f->n, first * dim),
                                      .x_type = f->type,
                                      .y = f->inner,
                                      .y_type = f->type,
                                      .m = count,
                                      .act = IMAGINE__ACT_GELU_TANH });
    linear(f, (imagine__linear_args){ .w = &f->block->down,
                                      .x = f->inner,
                                      .x_type = f->type,
                                      .y = x,
                                      .m = count,
                                      .gate = f->mod + first / f->group * 6 * dim + 5 * dim,
                                      .gate_rows = gate_rows,
                                      .ld_gate = 6 * dim,
                                      .add = x });
}

static imagine_status ffn(forward *f, imagine_error *error)
{
    int64_t dim = f->dit->dim;
    norm(f, NULL, NULL, f->mod + 3 * dim, 6 * dim);
    if (f->rows <= f->ffn_rows) {
        ffn_rows(f, 0, f->rows, f->group);
        return IMAGINE_OK;
    }
    /* a piece stays within one clip, where all rows share a gate or each has its own */
    imagine_status status = IMAGINE_OK;
    for (int64_t at = 0; status >= 0 && at < f->rows;) {
        int64_t left = f->tokens - at % f->tokens, count = left < f->ffn_rows ? left : f->ffn_rows;
        ffn_rows(f, at, count, f->group == 1 ? 1 : count);
        at += count;
        status = imagine__work_check(f->work, error);
    }
    return status;
}

/* x = the patches' embedding. */
static imagine_status embed(forward *f, imagine_error *error)
{
    const imagine__dit_config *c = &f->dit->config;
    const imagine__dit_input *in = f->input;
    int64_t row = f->dit->patch.k, clip = (int64_t)c->in_channels * in->frames * in->height * in->width;
    imagine__arena_mark mark = imagine__arena_save(f->work->arena);
    float *patches = imagine__arena_floats(f->work->arena, f->rows * row);
    if (!patches)
        return imagine__fail_memory_in(f->work->context, error, (size_t)(f->rows * row) * sizeof(float), "the patches");
    for (int32_t b = 0; b < in->batch; b++) {
        imagine__patch_args args = { .x = in->x + b * clip,
                                     .y = patches + b * f->tokens * row,
                                     .channels = c->in_channels,
                                     .frames = in->frames,
                                     .height = in->height,
                                     .width = in->width,
                                     .pt = c->patch_t,
                                     .ph = c->patch_h,
                                     .pw = c->patch_w };
        f->work->run.kernels->patchify(&f->work->run, &args);
    }
    linear(f, (imagine__linear_args){ .w = &f->dit->patch, .x = patches, .y = f->x, .m = f->rows });
    imagine__arena_restore(f->work->arena, mark);
    return IMAGINE_OK;
}

/* y = the prediction. */
static imagine_status project(forward *f, imagine_error *error)
{
    const imagine__dit_config *c = &f->dit->config;
    const imagine__dit_input *in = f->input;
    int64_t dim = f->dit->dim, row = f->dit->out.n;
    int64_t clip = (int64_t)c->out_channels * in->frames * in->height * in->width;
    float *patches = imagine__arena_floats(f->work->arena, f->rows * row);
    if (!patches)
        return imagine__fail_memory_in(f->work->context, error, (size_t)(f->rows * row) * sizeof(float), "the patches");
    imagine__dit_modulate(f->work, f->dit->modulation, f->temb, f->mod, f->mod_rows, 2, 1, dim);
    norm(f, NULL, NULL, f->mod, 2 * dim);
    linear(f, (imagine__linear_args){ .w = &f->dit->out, .x = f->n, .x_type = f->type, .y = patches, .m = f->rows });
    for (int32_t b = 0; b < in->batch; b++) {
        imagine__patch_args args = { .x = patches + b * f->tokens * row,
                                     .y = in->y + b * clip,
                                     .channels = c->out_channels,
                                     .frames = in->frames,
                                     .height = in->height,
                                     .width = in->width,
                                     .pt = c->patch_t,
                                     .ph = c->patch_h,
                                     .pw = c->patch_w };
        f->work->run.kernels->unpatchify(&f->work->run, &args);
    }
    return imagine__work_check(f->work, error);
}

/* A block in two parts. A device has the next part at hand while it does one, so what is left to do when a cancel comes, the rest
 * of one part and another, is no more than a block. */
static imagine_status run_first(void *arg, imagine_error *error)
{
    forward *f = arg;
    (void)error;
    imagine__dit_modulate(f->work, f->block->modulation, f->time, f->mod, f->mod_rows, 6, 6, f->dit->dim);
    self_attention(f);
    return IMAGINE_OK;
}

static imagine_status run_second(void *arg, imagine_error *error)
{
    cross_attention(arg);
    return ffn(arg, error);
}

#define PARTS 2
static imagine__part_fn *const parts[PARTS] = { run_first, run_second };

static imagine_status prepare(forward *f, imagine_error *error)
{
    int64_t dim = f->dit->dim;
    f->x = imagine__arena_floats(f->work->arena, f->rows * dim);
    f->type = imagine__activations(f->work->context);
    f->n = imagine__arena_values(f->work->arena, f->rows * dim, f->type);
    f->mod = imagine__arena_floats(f->work->arena, f->mod_rows * 6 * dim);
    if (!f->x || !f->n || !f->mod)
        return imagine__fail_memory_in(f->work->context, error, (size_t)((2 * f->rows + 6 * f->mod_rows) * dim) * sizeof(float),
                                    "the transformer's activations");
    imagine_status status =
        imagine__dit_rope(f->work, f->dit->config.head_dim, f->grid, &f->cosines, &f->sines, error);
    if (status >= 0)
        status = imagine__dit_time(f->dit, f->work, f->input->timesteps, f->mod_rows, &f->temb, &f->time, error);
    if (status >= 0)
        status = embed(f, error);
    return status;
}

/* The sizes of the latents in patches, or an error. */
static imagine_status read_shape(forward *f, imagine_error *error)
{
    const imagine__dit_config *c = &f->dit->config;
    const imagine__dit_input *in = f->input;
    const int32_t sizes[3] = { in->frames, in->height, in->width }, patch[3] = { c->patch_t, c->patch_h, c->patch_w };
    static const char *const names[3] = { "frames", "height", "width" };
    for (int a = 0; a < 3; a++) {
        if (sizes[a] < 1 || sizes[a] % patch[a] != 0)
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "the latents' %s is %d; this model needs a multiple of %d", names[a], sizes[a],
                                 patch[a]);
        f->grid[a] = sizes[a] / patch[a];
        if (f->grid[a] > c->rope_max_seq_len)
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "the latents' %s is %d; this model has positions for at most %lld "
                                 "(rope_max_seq_len of its configuration)",
                                 names[a], sizes[a], (long long)c->rope_max_seq_len * patch[a]);
    }
    if (in->batch < 1 || in->batch > in->text->batch)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%d clips of latents and text for %d", in->batch,
                             in->text->batch);
    f->tokens = (int64_t)f->grid[0] * f->grid[1] * f->grid[2];
    if (f->tokens > INT32_MAX / in->batch)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%d clips of %lld tokens are too many", in->batch,
                             (long long)f->tokens);
    f->rows = f->tokens * in->batch;
    f->group = in->per_token ? 1 : f->tokens;
    f->mod_rows = f->rows / f->group;
    return IMAGINE_OK;
}

/* What all blocks keep their intermediate values in. */
static imagine_status hold_inner(forward *f, imagine_error *error)
{
    int64_t ffn = f->dit->config.ffn_dim, most = f->dit->ffn_values / ffn + 1, count = f->rows * 3 * f->dit->dim;
    f->ffn_rows = f->rows < most ? f->rows : most;
    if (count < f->ffn_rows * ffn)
        count = f->ffn_rows * ffn;
    f->inner = imagine__arena_values(f->work->arena, count, f->type);
    return f->inner ? IMAGINE_OK
                    : imagine__fail_memory_in(f->work->context, error, (size_t)count * sizeof(float), "a transformer block's activations");
}

/* What the launches of a block's parts depend on beside its weights. Blocks that are streamed lie elsewhere each time. */
static imagine__sequence *begin_sequence(const forward *f)
{
    const imagine__dit_text *text = f->input->text;
    imagine__sequence_key key = {
        .at = { f->dit, f->x, f->n, f->mod, f->time, f->cosines, f->sines, text->kv, f->inner },
        .size = { f->tokens, f->rows, f->group, text->batch, text->length },
    };
    return f->dit->blocks ? imagine__sequence_begin(f->work, &key, PARTS * f->dit->config.layers, sizeof *f->dit->blocks) : NULL;
}

static imagine_status run_blocks(forward *f, imagine_error *error)
{
    imagine__dit_walk walk;
    imagine__arena_mark mark = imagine__arena_save(f->work->arena);
    imagine_status status = hold_inner(f, error);
    if (status < 0)
        return status;
    imagine__sequence *sequence = begin_sequence(f);
    status = imagine__dit_begin(&walk, f->dit, f->work, 0, f->input->stream, error);
    for (f->layer = 0; status >= 0 && f->layer < f->dit->config.layers; f->layer++) {
        status = imagine__dit_next(&walk, &f->block, error);
        for (int32_t i = 0; i < PARTS && status >= 0; i++) {
            status = imagine__sequence_part(f->work, sequence, PARTS * f->layer + i, f->block, parts[i], f, error);
            if (status >= 0)
                status = imagine__work_check(f->work, error);
        }
    }
    imagine__dit_end(&walk);
    imagine__arena_restore(f->work->arena, mark);
    return status;
}

imagine_status imagine__dit_forward(const imagine__dit *dit, imagine__work *work, const imagine__dit_input *input,
                                    imagine_error *error)
{
    forward f = { .dit = dit, .work = work, .input = input };
    imagine_status status = read_shape(&f, error);
    if (status < 0)
        return status;
    imagine__arena_mark mark = imagine__arena_save(work->arena);
    status = prepare(&f, error);
    if (status >= 0)
        status = run_blocks(&f, error);
    if (status >= 0)
        status = project(&f, error);
    imagine__arena_restore(work->arena, mark);
    return status;
}
