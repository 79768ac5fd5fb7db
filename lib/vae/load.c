/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "vae/internal.h"

/* What is being loaded: names are those of diffusers' state dictionary. */
typedef struct loader {
    imagine__vae_model *vae;
    imagine__loaded *loaded;
    imagine_error *error;
    imagine_status status; /* the first failure; then nothing more is loaded */
} loader;

static void load_conv(loader *l, vae_conv *conv, int32_t cout, int32_t cin, int32_t kt, int32_t k, const char *name)
{
    if (l->status < 0)
        return;
    conv->slot = l->vae->slots++;
    l->status = imagine__load_conv(l->loaded, &conv->w, cout, cin, kt, k, k, l->error, "%s", name);
}

static void load_linear(loader *l, imagine__linear_weight *w, int32_t n, int32_t k, const char *name)
{
    if (l->status >= 0)
        l->status = imagine__load_linear(l->loaded, w, n, k, 1, l->error, "%s", name);
}

static void load_gamma(loader *l, const float **values, int32_t count, const char *name)
{
    if (l->status >= 0)
        l->status = imagine__load_floats(l->loaded, values, count, l->error, "%s.gamma", name);
}

#define NAME_SIZE 96

static const char *join(char *out, const char *prefix, const char *name)
{
    snprintf(out, NAME_SIZE, "%s.%s", prefix, name);
    return out;
}

static void load_residual(loader *l, vae_residual *block, int32_t in, int32_t out, const char *prefix)
{
    char name[NAME_SIZE];

    block->in = in;
    block->out = out;
    load_gamma(l, &block->norm1, in, join(name, prefix, "norm1"));
    load_conv(l, &block->conv1, out, in, 3, 3, join(name, prefix, "conv1"));
    load_gamma(l, &block->norm2, out, join(name, prefix, "norm2"));
    load_conv(l, &block->conv2, out, out, 3, 3, join(name, prefix, "conv2"));
    if (in != out)
        load_linear(l, &block->shortcut, out, in, join(name, prefix, "conv_shortcut"));
}

static void load_middle(loader *l, vae_half *half, int32_t dim, const char *prefix)
{
    char name[NAME_SIZE];

    half->channels_mid = dim;
    load_residual(l, &half->middle.first, dim, dim, join(name, prefix, "mid_block.resnets.0"));
    load_gamma(l, &half->middle.attention.norm, dim, join(name, prefix, "mid_block.attentions.0.norm"));
    load_linear(l, &half->middle.attention.qkv, 3 * dim, dim, join(name, prefix, "mid_block.attentions.0.to_qkv"));
    load_linear(l, &half->middle.attention.proj, dim, dim, join(name, prefix, "mid_block.attentions.0.proj"));
    load_residual(l, &half->middle.last, dim, dim, join(name, prefix, "mid_block.resnets.1"));
}

/* The layers that change the size after a level's blocks. */
static void load_resample(loader *l, vae_level *level, int32_t out, int32_t time_out, int in_time, const char *prefix)
{
    char name[NAME_SIZE];

    level->resample = in_time ? VAE_SPACE_TIME : VAE_SPACE;
    if (l->status >= 0)
        l->status = imagine__load_conv(l->loaded, &level->space, out, level->channels, 1, 3, 3, l->error,
                                       "%s.resample.1", prefix);
    if (in_time)
        load_conv(l, &level->time, time_out, level->channels, 3, 1, join(name, prefix, "time_conv"));
}

/* Residual levels are modules of their own; the others' layers are numbered through all levels, from *number. */
static void load_encoder_level(loader *l, vae_level *level, int32_t i, int32_t in, int32_t *number)
{
    const imagine__vae_config *c = &l->vae->config;
    char name[NAME_SIZE];

    level->count = c->res_blocks;
    level->in = in;
    level->channels = c->base_dim * c->dim_mult[i];
    level->shortcut = c->residual;
    level->half_slot = l->vae->slots++;
    for (int32_t b = 0; b < level->count; b++, in = level->channels) {
        if (c->residual)
            snprintf(name, sizeof name, "encoder.down_blocks.%d.resnets.%d", (int)i, (int)b);
        else
            snprintf(name, sizeof name, "encoder.down_blocks.%d", (int)(*number)++);
        load_residual(l, &level->blocks[b], in, level->channels, name);
    }
    if (i + 1 == c->levels)
        return;
    if (c->residual)
        snprintf(name, sizeof name, "encoder.down_blocks.%d.downsampler", (int)i);
    else
        snprintf(name, sizeof name, "encoder.down_blocks.%d", (int)(*number)++);
    load_resample(l, level, level->channels, level->channels, c->temporal_down[i], name);
}

static void load_encoder(loader *l)
{
    const imagine__vae_config *c = &l->vae->config;
    vae_half *half = &l->vae->encoder;
    int32_t dim = c->base_dim, number = 0;

    load_conv(l, &half->conv_in, dim, 3 * c->patch * c->patch, 3, 3, "encoder.conv_in");
    for (int32_t i = 0; i < c->levels; i++) {
        load_encoder_level(l, &half->levels[i], i, dim, &number);
        dim = half->levels[i].channels;
    }
    load_middle(l, half, dim, "encoder");
    load_gamma(l, &half->norm_out, dim, "encoder.norm_out");
    load_conv(l, &half->conv_out, 2 * c->z_dim, dim, 3, 3, "encoder.conv_out");
    load_linear(l, &half->quant, 2 * c->z_dim, 2 * c->z_dim, "quant_conv");
}

/* Returns the channels that come out of it: enlarging halves them, except in a residual level. */
static int32_t load_decoder_level(loader *l, vae_level *level, int32_t i, int32_t in)
{
    const imagine__vae_config *c = &l->vae->config;
    int32_t last = c->levels - 1, out = c->decoder_base_dim * c->dim_mult[last - i];
    char name[NAME_SIZE];

    level->count = c->res_blocks + 1;
    level->in = in;
    level->channels = out;
    for (int32_t b = 0; b < level->count; b++, in = out) {
        snprintf(name, sizeof name, "decoder.up_blocks.%d.resnets.%d", (int)i, (int)b);
        load_residual(l, &level->blocks[b], in, out, name);
    }
    if (i == last)
        return out;
    level->shortcut = c->residual;
    snprintf(name, sizeof name, "decoder.up_blocks.%d.upsampler%s", (int)i, c->residual ? "" : "s.0");
    load_resample(l, level, c->residual ? out : out / 2, 2 * out, c->temporal_down[last - 1 - i], name);
    return c->residual ? out : out / 2;
}

static void load_decoder(loader *l)
{
    const imagine__vae_config *c = &l->vae->config;
    vae_half *half = &l->vae->decoder;
    int32_t dim = c->decoder_base_dim * c->dim_mult[c->levels - 1];

    load_linear(l, &half->quant, c->z_dim, c->z_dim, "post_quant_conv");
    load_conv(l, &half->conv_in, dim, c->z_dim, 3, 3, "decoder.conv_in");
    load_middle(l, half, dim, "decoder");
    for (int32_t i = 0; i < c->levels; i++)
        dim = load_decoder_level(l, &half->levels[i], i, dim);
    load_gamma(l, &half->norm_out, dim, "decoder.norm_out");
    load_conv(l, &half->conv_out, 3 * c->patch * c->patch, dim, 3, 3, "decoder.conv_out");
}

/* Without `weights` they are random. */
static imagine_status load(imagine__vae_model **vae, imagine_context *context, const imagine__vae_config *config,
                           const imagine__weights *weights, const imagine_cancel *cancel, imagine_error *error)
{
    imagine__vae_model *made = imagine__calloc(context, 1, sizeof *made);
    if (!made)
        return imagine__fail_memory_in(context, error, sizeof *made, "a VAE");
    made->context = context;
    made->config = *config;
    imagine__loaded_init(&made->loaded, context, weights);
    made->loaded.cancel = cancel;
    made->loaded.random = !weights;

    loader l = { made, &made->loaded, error, IMAGINE_OK };
    load_encoder(&l);
    load_decoder(&l);
    if (l.status >= 0)
        l.status = imagine__load_no_others(&made->loaded, NULL, error);
    if (l.status >= 0)
        l.status = imagine__loaded_finish(&made->loaded, error);
    if (l.status < 0) {
        imagine__vae_free(made);
        return l.status;
    }
    made->loaded.cancel = NULL; /* the caller's, gone after this call */
    *vae = made;
    return IMAGINE_OK;
}

imagine_status imagine__vae_load(imagine__vae_model **vae, imagine_context *context, const imagine__vae_config *config,
                                 const imagine__weights *weights, const imagine_cancel *cancel, imagine_error *error)
{
    *vae = NULL;
    return load(vae, context, config, weights, cancel, error);
}

imagine_status imagine__vae_random(imagine__vae_model **vae, imagine_context *context, const imagine__vae_config *config,
                                   const imagine_cancel *cancel, imagine_error *error)
{
    *vae = NULL;
    return load(vae, context, config, NULL, cancel, error);
}

void imagine__vae_free(imagine__vae_model *vae)
{
    if (!vae)
        return;
    imagine_context *context = vae->context;
    imagine__loaded_free(&vae->loaded);
    imagine__free(context, vae);
}

const imagine__loaded *imagine__vae_loaded(const imagine__vae_model *vae)
{
    return &vae->loaded;
}

const imagine__vae_config *imagine__vae_get_config(const imagine__vae_model *vae)
{
    return &vae->config;
}
