/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "vae/internal.h"

/* What goes into a convolution and comes out of it. */
typedef struct vae_types {
    imagine__wtype x, y;
} vae_types;

/* The input of `conv` to a part of its output: rows from `top`, columns from `left`, as many as `out` has. `scratch`: as large as y, or
 * NULL. */
static void run_conv_part(imagine__vae_coder *coder, const vae_conv *conv, vae_types types, vae_size size, vae_size out,
                          int64_t top, int64_t left, const float *add, float *y, float *scratch)
{
    imagine__conv_weight weight = conv->w, *w = &weight;
    const vae_cache *cache = &coder->caches[conv->slot];
    const float *x[3] = { vae_frame_data(cache->last[0]), vae_frame_data(cache->last[1]), vae_frame_data(cache->now) };
    imagine__conv_args args = {
        .w = w, .x = x, .y = y, .add = add,
        .height = size.height, .width = size.width, .out_h = out.height, .out_w = out.width,
        .ldx = w->cin, .ldy = w->cout, .ld_add = w->cout, .stride_h = 1, .stride_w = 1,
        .pad_top = w->kh / 2 - (int32_t)top, .pad_left = w->kw / 2 - (int32_t)left, .upsample = 1,
        .x_type = types.x, .y_type = types.y, .scratch = scratch,
    };
    if (types.y == IMAGINE__W_BF16) /* the norm that follows adds it, and cuDNN need not be followed by anything else */
        weight.bias = NULL;

    coder->work->run.kernels->conv(&coder->work->run, &args);
    vae_advance(coder, conv);
}

void vae_run_conv(imagine__vae_coder *coder, const vae_conv *conv, vae_size size, const float *add, float *y)
{
    run_conv_part(coder, conv, (vae_types){ IMAGINE__W_F32, IMAGINE__W_F32 }, size, size, 0, 0, add, y, NULL);
}

void vae_run_linear(imagine__vae_coder *coder, const imagine__linear_weight *w, int64_t pixels, const float *x,
                    const float *add, float *y)
{
    imagine__linear_args args = {
        .w = w, .x = x, .y = y, .m = pixels, .ldx = w->k, .ldy = w->n, .add = add, .ld_add = w->n,
    };
    coder->work->run.kernels->linear(&coder->work->run, &args);
}

static void norm(imagine__vae_coder *coder, const float *weight, vae_types types, int64_t pixels, int64_t channels,
                 imagine__act act, const float *x, const float *x_bias, float *y)
{
    imagine__norm_args args = {
        .x = x, .y = y, .rows = pixels, .dim = channels, .ldx = channels, .ldy = channels,
        .kind = IMAGINE__NORM_L2, .act = act, .eps = 1e-12f, .x_type = types.x, .y_type = types.y, .weight = weight,
        .x_bias = x_bias, .group = 1,
    };
    coder->work->run.kernels->norm(&coder->work->run, &args);
}

/* x [height, width, channels] through norm and SiLU to the input of `conv`. `before`: the convolution that x comes from, of the
 * coder's type, or NULL: f32. */
static imagine_status norm_into(imagine__vae_coder *coder, const vae_conv *conv, const float *weight, const vae_conv *before,
                                int64_t pixels, const float *x, imagine_error *error)
{
    vae_types types = { before ? coder->type : IMAGINE__W_F32, coder->type };
    int64_t channels = conv->w.cin;
    float *input = vae_input(coder, conv, coder->type, pixels * channels, error);
    if (!input)
        return IMAGINE_ERROR_NO_MEMORY;
    norm(coder, weight, types, pixels, channels, IMAGINE__ACT_SILU, x, types.x == IMAGINE__W_BF16 ? before->w.bias : NULL, input);
    return IMAGINE_OK;
}

imagine_status vae_run_residual(imagine__vae_coder *coder, const vae_residual *block, vae_size size, float **x,
                                float *out, imagine_error *error)
{
    int64_t pixels = size.height * size.width;
    imagine__arena *arena = coder->work->arena;
    imagine__arena_mark mark = imagine__arena_save(arena);
    float *inner = vae_floats(coder, pixels * block->out, error);
    if (!inner || norm_into(coder, &block->conv1, block->norm1, NULL, pixels, *x, error) < 0)
        return IMAGINE_ERROR_NO_MEMORY;
    run_conv_part(coder, &block->conv1, (vae_types){ coder->type, coder->type }, size, size, 0, 0, NULL, inner, NULL);
    if (norm_into(coder, &block->conv2, block->norm2, &block->conv1, pixels, inner, error) < 0)
        return IMAGINE_ERROR_NO_MEMORY;
    const float *add = *x;
    if (block->shortcut.packed) {
        vae_run_linear(coder, &block->shortcut, pixels, *x, NULL, inner);
        add = inner;
    }
    float *y = out ? out : block->shortcut.packed ? inner : *x;
    run_conv_part(coder, &block->conv2, (vae_types){ coder->type, IMAGINE__W_F32 }, size, size, 0, 0, add, y,
                  block->shortcut.packed ? NULL : inner);
    *x = y;
    if (y != inner)
        imagine__arena_restore(arena, mark);
    return imagine__work_check(coder->work, error);
}

/* Every pixel of the frame looks at all of them; one head. */
static imagine_status run_attention(imagine__vae_coder *coder, const vae_attention *a, int64_t channels, vae_size size,
                                    float *x, imagine_error *error)
{
    int64_t pixels = size.height * size.width;
    imagine__run *run = &coder->work->run;
    imagine__arena_mark mark = imagine__arena_save(coder->work->arena);
    float *inner = vae_floats(coder, pixels * channels, error);
    float *qkv = inner ? vae_floats(coder, pixels * 3 * channels, error) : NULL;
    if (!qkv)
        return IMAGINE_ERROR_NO_MEMORY;

    norm(coder, a->norm, (vae_types){ IMAGINE__W_F32, IMAGINE__W_F32 }, pixels, channels, IMAGINE__ACT_NONE, x, NULL, inner);
    vae_run_linear(coder, &a->qkv, pixels, inner, NULL, qkv);
    imagine__attention_args args = {
        .q = qkv, .k = qkv + channels, .v = qkv + 2 * channels, .y = inner,
        .batch = 1, .heads = 1, .d = channels, .tokens = pixels, .kv = pixels,
        .q_token = 3 * channels, .k_token = 3 * channels, .v_token = 3 * channels, .y_token = channels,
        .scale = (float)(1 / sqrt((double)channels)),
    };
    run->kernels->attention(run, &args);
    vae_run_linear(coder, &a->proj, pixels, inner, x, x);
    imagine__arena_restore(coder->work->arena, mark);
    return imagine__work_check(coder->work, error);
}

imagine_status vae_run_middle(imagine__vae_coder *coder, const vae_middle *middle, int32_t channels, vae_size size,
                              float *x,
                              imagine_error *error)
{
    imagine_status status = vae_run_residual(coder, &middle->first, size, &x, NULL, error);
    if (status >= 0)
        status = run_attention(coder, &middle->attention, channels, size, x, error);
    return status < 0 ? status : vae_run_residual(coder, &middle->last, size, &x, NULL, error);
}

imagine_status vae_run_head(imagine__vae_coder *coder, const vae_half *half, const vae_window *from, const vae_window *to,
                            const float *x, float *y, imagine_error *error)
{
    vae_size size = { from->height, from->width }, out = { to->height, to->width };
    if (norm_into(coder, &half->conv_out, half->norm_out, NULL, size.height * size.width, x, error) < 0)
        return IMAGINE_ERROR_NO_MEMORY;
    run_conv_part(coder, &half->conv_out, (vae_types){ coder->type, IMAGINE__W_F32 }, size, out, to->y - from->y, to->x - from->x,
                  NULL, y, NULL);
    return imagine__work_check(coder->work, error);
}
