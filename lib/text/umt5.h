/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TEXT_UMT5_H
#define IMAGINE_TEXT_UMT5_H

#include "model/model.h"

/* The umT5 encoder of transformers' UMT5EncoderModel: relative position bias in every layer, unscaled QK, gated
 * gelu_new FFN. Immutable once loaded; any number of threads. */
typedef struct imagine__umt5 imagine__umt5;

/* What a configuration says. */
typedef struct imagine__umt5_config {
    int64_t dim, inner, ffn, layers, heads, d, vocabulary, buckets, distance;
    double eps;
} imagine__umt5_config;

/* Reads and checks text_encoder/config.json; refuses what cannot run with key and value. */
imagine_status imagine__umt5_read_config(imagine__umt5_config *config, imagine_context *context, const char *folder,
                                         imagine_error *error);
/* The encoder that `config` describes, whatever config.json says by now, from model.safetensors or its shards.
 * `streamed`: the table and the blocks stay in the file, which must then stay open, and are read anew by each forward. */
imagine_status imagine__umt5_load(imagine__umt5 **umt5, imagine_context *context, const imagine__umt5_config *config,
                                  const imagine__weights *weights, int streamed, const imagine_cancel *cancel,
                                  imagine_error *error);
void imagine__umt5_free(imagine__umt5 *umt5);
const imagine__loaded *imagine__umt5_loaded(const imagine__umt5 *umt5);
int32_t imagine__umt5_dim(const imagine__umt5 *umt5);
int32_t imagine__umt5_vocabulary(const imagine__umt5 *umt5);

/* embeds [count, dim], values, = last hidden state of `count` ids on the host, each below the vocabulary. */
imagine_status imagine__umt5_forward(const imagine__umt5 *umt5, imagine__work *work, const int32_t *ids, int32_t count,
                                     float *embeds, imagine_error *error);

#endif
