/* SPDX-License-Identifier: MIT */

/* Reading the weights, by the names that diffusers gives them. */

#include "dit/inside.h"

#include <stdio.h>
#include <string.h>

#define NAME 64 /* "blocks.4095.attn1.to_out.0" is the longest */

/* names[i] of block `layer`'s `attention`, stacked below each other. */
static imagine_status load_stack(const imagine__dit *dit, imagine__loaded *l, imagine__linear_weight *w, int32_t layer,
                                 const char *attention, int32_t count, const char *const *names, imagine_error *error)
{
    char text[3][NAME];
    const char *full[3];
    int64_t rows[3];
    for (int32_t i = 0; i < count; i++) {
        snprintf(text[i], NAME, "blocks.%d.%s.%s", layer, attention, names[i]);
        full[i] = text[i];
        rows[i] = dit->dim;
    }
    return imagine__load_linear_stack(l, w, count, full, rows, dit->dim, 1, error);
}

static imagine_status load_self(const imagine__dit *dit, imagine__loaded *l, imagine__dit_block *b, int32_t layer,
                                imagine_error *error)
{
    static const char *const qkv[] = { "to_q", "to_k", "to_v" };
    int64_t dim = dit->dim;
    imagine_status s = load_stack(dit, l, &b->self_qkv, layer, "attn1", 3, qkv, error);
    if (s >= 0)
        s = imagine__load_linear(l, &b->self_out, dim, dim, 1, error, "blocks.%d.attn1.to_out.0", layer);
    if (s >= 0)
        s = imagine__load_floats(l, &b->self_norm_q, dim, error, "blocks.%d.attn1.norm_q.weight", layer);
    if (s >= 0)
        s = imagine__load_floats(l, &b->self_norm_k, dim, error, "blocks.%d.attn1.norm_k.weight", layer);
    return s;
}

/* The part of a block that the text goes into. */
static imagine_status load_text(const imagine__dit *dit, imagine__loaded *l, imagine__dit_block *b, int32_t layer,
                                imagine_error *error)
{
    static const char *const kv[] = { "to_k", "to_v" };
    imagine_status s = load_stack(dit, l, &b->cross_kv, layer, "attn2", 2, kv, error);
    if (s >= 0)
        s = imagine__load_floats(l, &b->cross_norm_k, dit->dim, error, "blocks.%d.attn2.norm_k.weight", layer);
    return s;
}

static imagine_status load_cross(const imagine__dit *dit, imagine__loaded *l, imagine__dit_block *b, int32_t layer,
                                 imagine_error *error)
{
    int64_t dim = dit->dim;
    imagine_status s = IMAGINE_OK;
    if (dit->config.cross_attn_norm) {
        s = imagine__load_floats(l, &b->norm_weight, dim, error, "blocks.%d.norm2.weight", layer);
        if (s >= 0)
            s = imagine__load_floats(l, &b->norm_bias, dim, error, "blocks.%d.norm2.bias", layer);
    }
    if (s >= 0)
        s = imagine__load_linear(l, &b->cross_q, dim, dim, 1, error, "blocks.%d.attn2.to_q", layer);
    if (s >= 0)
        s = imagine__load_linear(l, &b->cross_out, dim, dim, 1, error, "blocks.%d.attn2.to_out.0", layer);
    if (s >= 0)
        s = imagine__load_floats(l, &b->cross_norm_q, dim, error, "blocks.%d.attn2.norm_q.weight", layer);
    return s;
}

/* All of a block but what load_text reads, which a forward does not need. */
static imagine_status load_block(const imagine__dit *dit, imagine__loaded *l, imagine__dit_block *b, int32_t layer,
                                 imagine_error *error)
{
    int64_t dim = dit->dim, ffn = dit->config.ffn_dim;
    imagine_status s =
        imagine__load_floats(l, &b->modulation, 6 * dim, error, "blocks.%d.scale_shift_table", layer);
    if (s >= 0)
        s = load_self(dit, l, b, layer, error);
    if (s >= 0)
        s = load_cross(dit, l, b, layer, error);
    if (s >= 0)
        s = imagine__load_linear(l, &b->up, ffn, dim, 1, error, "blocks.%d.ffn.net.0.proj", layer);
    if (s >= 0)
        s = imagine__load_linear(l, &b->down, dim, ffn, 1, error, "blocks.%d.ffn.net.2", layer);
    return s;
}

static imagine_status stream_block(const void *dit, imagine__loaded *l, int32_t index, void *block,
                                   imagine_error *error)
{
    return load_block(dit, l, block, index, error);
}

static imagine_status stream_text(const void *dit, imagine__loaded *l, int32_t index, void *block,
                                  imagine_error *error)
{
    return load_text(dit, l, block, index, error);
}

imagine_status imagine__dit_begin(imagine__dit_walk *walk, const imagine__dit *dit, const imagine__work *work,
                                  int for_text, imagine__stream **kept, imagine_error *error)
{
    *walk = (imagine__dit_walk){ .dit = dit, .stream = kept ? *kept : NULL, .kept = kept };
    if (walk->stream) {
        imagine__stream_again(walk->stream, work);
        return IMAGINE_OK;
    }
    return dit->blocks ? IMAGINE_OK
                       : imagine__stream_open(&walk->stream, work, dit->loaded.weights, dit->config.layers,
                                              sizeof(imagine__dit_block), for_text ? stream_text : stream_block, dit,
                                              error);
}

imagine_status imagine__dit_next(imagine__dit_walk *walk, const imagine__dit_block **block, imagine_error *error)
{
    const void *read;
    if (walk->dit->blocks) {
        *block = &walk->dit->blocks[walk->layer++];
        return IMAGINE_OK;
    }
    imagine_status status = imagine__stream_next(walk->stream, &read, error);
    *block = read;
    return status;
}

void imagine__dit_end(imagine__dit_walk *walk)
{
    if (walk->kept && walk->stream)
        imagine__stream_pause(*walk->kept = walk->stream);
    else
        imagine__stream_close(walk->stream);
    walk->stream = NULL;
}

static imagine_status load_ends(imagine__dit *dit, imagine_error *error)
{
    const imagine__dit_config *c = &dit->config;
    int64_t dim = dit->dim, patch = (int64_t)c->patch_t * c->patch_h * c->patch_w;
    const struct {
        imagine__linear_weight *w;
        int64_t n, k;
        const char *name;
    } linears[] = {
        { &dit->patch, dim, c->in_channels * patch, "patch_embedding" },
        { &dit->time_1, dim, c->freq_dim, "condition_embedder.time_embedder.linear_1" },
        { &dit->time_2, dim, dim, "condition_embedder.time_embedder.linear_2" },
        { &dit->time_proj, 6 * dim, dim, "condition_embedder.time_proj" },
        { &dit->text_1, dim, c->text_dim, "condition_embedder.text_embedder.linear_1" },
        { &dit->text_2, dim, dim, "condition_embedder.text_embedder.linear_2" },
        { &dit->out, c->out_channels * patch, dim, "proj_out" },
    };
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
        imagine_status s = imagine__load_linear(&dit->loaded, linears[i].w, linears[i].n, linears[i].k, 1, error, "%s",
                                                linears[i].name);
        if (s < 0)
            return s;
    }
    return imagine__load_floats(&dit->loaded, &dit->modulation, 2 * dim, error, "scale_shift_table");
}

/* All blocks; of a transformer whose blocks are to be streamed, only a look whether they can be read. */
static imagine_status load_blocks(imagine__dit *dit, int streamed, imagine_error *error)
{
    int32_t layers = dit->config.layers;
    imagine__dit_block looked = { 0 };
    dit->blocks = streamed ? NULL : imagine__calloc(dit->context, (size_t)layers, sizeof *dit->blocks);
    if (!streamed && !dit->blocks)
        return imagine__fail_memory_in(dit->context, error, (size_t)layers * sizeof *dit->blocks, "the transformer's blocks");
    dit->loaded.check = streamed;
    imagine_status status = IMAGINE_OK;
    for (int32_t i = 0; status >= 0 && i < layers; i++) {
        imagine__dit_block *block = streamed ? &looked : &dit->blocks[i];
        status = load_block(dit, &dit->loaded, block, i, error);
        if (status >= 0)
            status = load_text(dit, &dit->loaded, block, i, error);
    }
    dit->loaded.check = 0;
    return status;
}

/* Without `weights` they are random. */
static imagine_status load(imagine__dit **out, imagine_context *context, const imagine__dit_config *config,
                           const imagine__weights *weights, int streamed, const imagine_cancel *cancel,
                           imagine_error *error)
{
    imagine__dit *dit = imagine__calloc(context, 1, sizeof *dit);
    if (!dit)
        return imagine__fail_memory_in(context, error, sizeof *dit, "the transformer");
    dit->context = context;
    dit->config = *config;
    dit->dim = (int64_t)config->heads * config->head_dim;
    dit->ffn_values = (int64_t)32 << 20;
    imagine__loaded_init(&dit->loaded, context, weights);
    dit->loaded.cancel = cancel;
    dit->loaded.random = !weights;
    imagine_status status = load_ends(dit, error);
    if (status >= 0)
        status = load_blocks(dit, streamed, error);
    if (status >= 0)
        status = imagine__load_no_others(&dit->loaded, NULL, error);
    if (status >= 0)
        status = imagine__loaded_finish(&dit->loaded, error);
    if (status < 0) {
        imagine__dit_free(dit);
        return status;
    }
    dit->loaded.cancel = NULL; /* it may not outlive this call */
    *out = dit;
    return IMAGINE_OK;
}

imagine_status imagine__dit_load(imagine__dit **out, imagine_context *context, const imagine__dit_config *config,
                                 const imagine__weights *weights, int streamed, const imagine_cancel *cancel,
                                 imagine_error *error)
{
    *out = NULL;
    /* every block has tensors of its own, so a file bounds what a configuration may claim */
    if (config->layers > imagine__weights_count(weights))
        return imagine__fail(error, IMAGINE_ERROR_MODEL,
                             "%s: holds only %d tensors, but \"num_layers\" in the config.json beside it is %d%s",
                             imagine__weights_path(weights, NULL), imagine__weights_count(weights), config->layers,
                             imagine__weights_hint(weights));
    const char *sparse = imagine__weights_like(weights, "to_gate_compress"); /* computed without, it is another model */
    if (sparse)
        return imagine__fail(error, IMAGINE_ERROR_MODEL,
                             "%s: holds \"%s\", of a model with sparse attention (FastWan's VSA), which is not run; take one with full "
                             "attention (FullAttn)", imagine__weights_path(weights, NULL), sparse);
    return load(out, context, config, weights, streamed, cancel, error);
}

imagine_status imagine__dit_random(imagine__dit **dit, imagine_context *context, const imagine__dit_config *config,
                                   const imagine_cancel *cancel, imagine_error *error)
{
    *dit = NULL;
    return load(dit, context, config, NULL, 0, cancel, error);
}

void imagine__dit_free(imagine__dit *dit)
{
    if (!dit)
        return;
    imagine__loaded_free(&dit->loaded);
    imagine__free(dit->context, dit->blocks);
    imagine__free(dit->context, dit);
}

const imagine__loaded *imagine__dit_loaded(const imagine__dit *dit)
{
    return &dit->loaded;
}

const imagine__dit_config *imagine__dit_get_config(const imagine__dit *dit)
{
    return &dit->config;
}
