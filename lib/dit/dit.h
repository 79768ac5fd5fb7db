/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_DIT_DIT_H
#define IMAGINE_DIT_DIT_H

#include "model/model.h"

/* The diffusion transformer: Wan's text-to-video model, diffusers' WanTransformer3DModel. Immutable once loaded; any
 * number of threads. */
typedef struct imagine__dit imagine__dit;

/* What a configuration says. */
typedef struct imagine__dit_config {
    int32_t in_channels, out_channels, layers, heads, head_dim, ffn_dim, text_dim, freq_dim;
    int32_t patch_t, patch_h, patch_w;
    int32_t cross_attn_norm;
    float eps;
    int32_t rope_max_seq_len;
} imagine__dit_config;

/* Reads and checks transformer/config.json; refuses what cannot run with key and value. */
imagine_status imagine__dit_read_config(imagine__dit_config *config, imagine_context *context, const char *folder,
                                        imagine_error *error);
/* The transformer that `config` describes, whatever config.json says by now: sizes that the caller went by stay true.
 * `streamed`: the blocks stay in the file, which must then stay open, and are read anew by each forward. */
imagine_status imagine__dit_load(imagine__dit **dit, imagine_context *context, const imagine__dit_config *config,
                                 const imagine__weights *weights, int streamed, const imagine_cancel *cancel,
                                 imagine_error *error);
/* With random weights, on a device. */
imagine_status imagine__dit_random(imagine__dit **dit, imagine_context *context, const imagine__dit_config *config,
                                   const imagine_cancel *cancel, imagine_error *error);
void imagine__dit_free(imagine__dit *dit);
const imagine__loaded *imagine__dit_loaded(const imagine__dit *dit);
const imagine__dit_config *imagine__dit_get_config(const imagine__dit *dit);

/* Text conditioning prepared for all blocks: keys and values of every cross-attention, for `batch` rows of `length`
 * embeddings. Made once a job, used by every step; must be freed before the transformer. */
typedef struct imagine__dit_text imagine__dit_text;
imagine_status imagine__dit_text_create(imagine__dit_text **text, const imagine__dit *dit, imagine__work *work,
                                        const float *embeds, int32_t batch, int32_t length, imagine_error *error);
void imagine__dit_text_free(imagine__dit_text *text);

/* One forward: x [batch, in_channels, frames, height, width] (latent sizes, any that the patch divides) to
 * y [batch, out_channels, ...]. `timesteps`, on the host, are [batch], or [batch, tokens] with per_token 1. Row b uses the
 * text's row b; the text may have more of them.
 * May be called for one transformer from many threads at once, each with a work of its own. */
typedef struct imagine__dit_input {
    const float *x;
    float *y;
    const float *timesteps;
    const imagine__dit_text *text;
    int32_t batch, frames, height, width;
    int32_t per_token, reserved;
    /* Where memory for blocks that are streamed stays for the run's next forward of this transformer, NULL at first; to be closed
     * before the transformer is freed. NULL: it does not stay. */
    struct imagine__stream **stream;
} imagine__dit_input;
imagine_status imagine__dit_forward(const imagine__dit *dit, imagine__work *work, const imagine__dit_input *input,
                                    imagine_error *error);

#endif
