/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_DIT_INSIDE_H
#define IMAGINE_DIT_INSIDE_H

/* What the files of lib/dit share: the weights, and the parts of a forward. */

#include "dit/dit.h"

typedef struct imagine__dit_block {
    const float *modulation; /* [6, dim]: shift, scale and gate of the self-attention, then of the FFN */
    imagine__linear_weight self_qkv, self_out; /* rows of qkv: q, k, v */
    const float *self_norm_q, *self_norm_k; /* [dim], RMS over all heads */
    const float *norm_weight, *norm_bias; /* [dim], before the cross-attention; NULL: no norm there */
    imagine__linear_weight cross_q, cross_kv, cross_out; /* rows of kv: k, v */
    const float *cross_norm_q, *cross_norm_k;
    imagine__linear_weight up, down; /* FFN */
} imagine__dit_block;

struct imagine__dit {
    imagine_context *context;
    imagine__dit_config config;
    int64_t dim; /* heads * head_dim */
    imagine__linear_weight patch; /* [dim, in_channels * patch] */
    imagine__linear_weight time_1, time_2, time_proj; /* freq_dim -> dim -> dim; dim -> 6 dim */
    imagine__linear_weight text_1, text_2; /* text_dim -> dim -> dim */
    const float *modulation; /* [2, dim]: shift and scale before the output projection */
    imagine__linear_weight out; /* [patch * out_channels, dim] */
    imagine__dit_block *blocks; /* [layers]; NULL: they are read each time they are used */
    int64_t ffn_values; /* inner activations of the FFN that are held at a time, about: a long clip comes in pieces */
    imagine__loaded loaded;
};

struct imagine__dit_text {
    imagine_context *context; /* of the run it was made in */
    const imagine__dit *dit;
    int32_t batch, length;
    void *kv; /* [layers, batch, length, 2 dim] of the context's imagine__activations(): normalised keys, then values */
};

/* All blocks in turn, wherever they come from. `for_text`: only what the text's keys and values need; else all but that. */
typedef struct imagine__dit_walk {
    const imagine__dit *dit;
    imagine__stream *stream, **kept; /* kept: NULL, or where it stays for the next walk */
    int32_t layer, reserved;
} imagine__dit_walk;
imagine_status imagine__dit_begin(imagine__dit_walk *walk, const imagine__dit *dit, const imagine__work *work,
                                  int for_text, imagine__stream **kept, imagine_error *error);
imagine_status imagine__dit_next(imagine__dit_walk *walk, const imagine__dit_block **block, imagine_error *error);
void imagine__dit_end(imagine__dit_walk *walk);

/* Cosines and sines [frames * height * width, head_dim / 2] of a grid of tokens, into arena memory, or kept with the run. */
imagine_status imagine__dit_rope(imagine__work *work, int32_t head_dim, const int32_t grid[3], const float **cos_table,
                                 const float **sin_table, imagine_error *error);

/* The conditioning on time, from timesteps on the host: temb [rows, dim] and its projection [rows, 6 * dim], into arena memory. */
imagine_status imagine__dit_time(const imagine__dit *dit, imagine__work *work, const float *timesteps, int64_t rows,
                                 float **temb, float **projection, imagine_error *error);

/* y[r, p, :] = table[p, :] + x[r, p % x_parts, :] for `parts` parts of dim values: the modulation of one block. */
void imagine__dit_modulate(imagine__work *work, const float *table, const float *x, float *y, int64_t rows,
                           int64_t parts, int64_t x_parts, int64_t dim);

#endif
