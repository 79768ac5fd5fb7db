/* SPDX-License-Identifier: MIT */
#ifndef TESTS_SIZED_H
#define TESTS_SIZED_H

/* Packs of any size, made while a test runs: random weights, or weights of zeros in files with holes, which take no room
 * on the disk even at the size of the largest published models. Tokenizer and scheduler are the two-layer pack's. */

#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api.h"

typedef struct sized_pack {
    int heads, head_dim, ffn, layers; /* transformer */
    int text_dim, text_ffn, text_heads, text_layers, vocabulary; /* umT5, with heads of 64 */
    int vae_dim, vae_blocks; /* channels of the VAE's largest level, times 1, 2, 4, 4; residual blocks of a level */
    int text_length, width, height, frames, steps;
    int holes; /* weights are zeros that are not there */
} sized_pack;

/* A safetensors file being written: names and shapes first. Everything is bf16. */
typedef struct sized_file {
    char *header;
    size_t length, room;
    unsigned long long bytes;
} sized_file;

static inline void sized_tensor(sized_file *f, const char *name, int ndim, const int *shape)
{
    unsigned long long size = 2, begin = f->bytes;
    char dims[128] = "";
    for (int i = 0; i < ndim; i++) {
        size *= (unsigned long long)shape[i];
        snprintf(dims + strlen(dims), sizeof dims - strlen(dims), "%s%d", i ? "," : "", shape[i]);
    }
    if (f->room - f->length < 512) {
        f->room = 2 * f->room + 65536;
        f->header = realloc(f->header, f->room);
    }
    f->bytes += size;
    f->length += (size_t)snprintf(f->header + f->length, f->room - f->length,
                                  "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
                                  f->length ? "," : "{", name, dims, begin, f->bytes);
}

#define SIZED(f, name, ...)                                                                                         \
    sized_tensor(f, name, (int)(sizeof((int[]){ __VA_ARGS__ }) / sizeof(int)), (const int[]){ __VA_ARGS__ })

static inline void sized_linear(sized_file *f, int n, int k, int bias, const char *prefix, const char *name)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    SIZED(f, full, n, k);
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    if (bias)
        SIZED(f, full, n);
}

static inline void sized_conv(sized_file *f, int out, int in, int kt, int k, const char *prefix, const char *name)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    if (kt)
        SIZED(f, full, out, in, kt, k, k);
    else
        SIZED(f, full, out, in, k, k);
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    SIZED(f, full, out);
}

static inline void sized_vector(sized_file *f, int n, const char *prefix, const char *name)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    SIZED(f, full, n);
}

/* Values near 1 for what multiplies after a norm, small ones elsewhere: enough that every one of them shows. */
static inline void sized_fill(uint16_t *out, size_t count, uint32_t *state)
{
    for (size_t i = 0; i < count; i++) {
        *state = *state * 1664525u + 1013904223u;
        float value = ((float)(*state >> 8) / 8388608.0f - 1) * 0.12f;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        out[i] = (uint16_t)(bits >> 16);
    }
}

/* Writes the file and forgets the list. 1: it is there. */
static inline int sized_write(sized_file *f, const char *folder, const char *name, int holes)
{
    char path[1100];
    static const char spaces[8] = "        ";
    size_t length = f->length + 1, padded = (length + 7) / 8 * 8;
    uint64_t size = padded;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (!file)
        return 0;
    int well = fwrite(&size, 8, 1, file) && fwrite(f->header, f->length, 1, file) && fputc('}', file) == '}' &&
               fwrite(spaces, 1, padded - length, file) == padded - length;
    uint32_t state = (uint32_t)f->bytes;
    for (unsigned long long at = 0; at < f->bytes && well && !holes;) {
        uint16_t values[4096];
        size_t count = f->bytes - at < sizeof values ? (size_t)(f->bytes - at) / 2 : 4096;
        sized_fill(values, count, &state);
        well = fwrite(values, 2, count, file) == count;
        at += 2 * count;
    }
    well = !fclose(file) && well && (!holes || !truncate(path, (off_t)(8 + padded + f->bytes)));
    free(f->header);
    *f = (sized_file){ 0 };
    return well;
}

static inline int sized_text_file(const char *folder, const char *name, const char *text)
{
    char path[1100];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    return file && fputs(text, file) >= 0 && !fclose(file);
}

static inline int sized_transformer(const sized_pack *p, const char *folder)
{
    static const char *const attention[] = { "to_q", "to_k", "to_v", "to_out.0" };
    sized_file f = { 0 };
    int dim = p->heads * p->head_dim;
    char text[600], block[64], part[96];
    SIZED(&f, "patch_embedding.weight", dim, 16, 1, 2, 2);
    SIZED(&f, "patch_embedding.bias", dim);
    sized_linear(&f, dim, 256, 1, "condition_embedder.time_embedder.", "linear_1");
    sized_linear(&f, dim, dim, 1, "condition_embedder.time_embedder.", "linear_2");
    sized_linear(&f, 6 * dim, dim, 1, "condition_embedder.", "time_proj");
    sized_linear(&f, dim, p->text_dim, 1, "condition_embedder.text_embedder.", "linear_1");
    sized_linear(&f, dim, dim, 1, "condition_embedder.text_embedder.", "linear_2");
    sized_linear(&f, 64, dim, 1, "", "proj_out");
    SIZED(&f, "scale_shift_table", 1, 2, dim);
    for (int i = 0; i < p->layers; i++) {
        snprintf(block, sizeof block, "blocks.%d.", i);
        snprintf(part, sizeof part, "%sscale_shift_table", block);
        SIZED(&f, part, 1, 6, dim);
        for (int a = 1; a <= 2; a++) {
            snprintf(part, sizeof part, "%sattn%d.", block, a);
            for (int j = 0; j < 4; j++)
                sized_linear(&f, dim, dim, 1, part, attention[j]);
            sized_vector(&f, dim, part, "norm_q.weight");
            sized_vector(&f, dim, part, "norm_k.weight");
        }
        sized_vector(&f, dim, block, "norm2.weight");
        sized_vector(&f, dim, block, "norm2.bias");
        sized_linear(&f, p->ffn, dim, 1, block, "ffn.net.0.proj");
        sized_linear(&f, dim, p->ffn, 1, block, "ffn.net.2");
    }
    snprintf(text, sizeof text, "{\"_class_name\": \"WanTransformer3DModel\", \"num_attention_heads\": %d, "
             "\"attention_head_dim\": %d, \"in_channels\": 16, \"out_channels\": 16, \"text_dim\": %d, \"freq_dim\": 256, "
             "\"ffn_dim\": %d, \"num_layers\": %d}", p->heads, p->head_dim, p->text_dim, p->ffn, p->layers);
    return sized_text_file(folder, "config.json", text) &&
           sized_write(&f, folder, "diffusion_pytorch_model.safetensors", p->holes);
}

static inline int sized_encoder(const sized_pack *p, const char *folder)
{
    static const char *const attention[] = { "q", "k", "v" };
    sized_file f = { 0 };
    int dim = p->text_dim, inner = 64 * p->text_heads;
    char text[600], part[96];
    SIZED(&f, "shared.weight", p->vocabulary, dim);
    for (int i = 0; i < p->text_layers; i++) {
        snprintf(part, sizeof part, "encoder.block.%d.layer.0.", i);
        sized_vector(&f, dim, part, "layer_norm.weight");
        snprintf(part, sizeof part, "encoder.block.%d.layer.0.SelfAttention.", i);
        for (int j = 0; j < 3; j++)
            sized_linear(&f, inner, dim, 0, part, attention[j]);
        sized_linear(&f, dim, inner, 0, part, "o");
        snprintf(part, sizeof part, "encoder.block.%d.layer.0.SelfAttention.relative_attention_bias.weight", i);
        SIZED(&f, part, 32, p->text_heads);
        snprintf(part, sizeof part, "encoder.block.%d.layer.1.", i);
        sized_vector(&f, dim, part, "layer_norm.weight");
        sized_linear(&f, p->text_ffn, dim, 0, part, "DenseReluDense.wi_0");
        sized_linear(&f, p->text_ffn, dim, 0, part, "DenseReluDense.wi_1");
        sized_linear(&f, dim, p->text_ffn, 0, part, "DenseReluDense.wo");
    }
    SIZED(&f, "encoder.final_layer_norm.weight", dim);
    snprintf(text, sizeof text, "{\"model_type\": \"umt5\", \"d_model\": %d, \"d_kv\": 64, \"d_ff\": %d, \"num_layers\": %d, "
             "\"num_heads\": %d, \"vocab_size\": %d, \"feed_forward_proj\": \"gated-gelu\"}", dim, p->text_ffn,
             p->text_layers, p->text_heads, p->vocabulary);
    return sized_text_file(folder, "config.json", text) && sized_write(&f, folder, "model.safetensors", p->holes);
}

static inline void sized_residual(sized_file *f, int in, int out, const char *prefix, const char *name)
{
    char part[128];
    snprintf(part, sizeof part, "%s%s.", prefix, name);
    char gamma[160];
    snprintf(gamma, sizeof gamma, "%snorm1.gamma", part);
    SIZED(f, gamma, in, 1, 1, 1);
    snprintf(gamma, sizeof gamma, "%snorm2.gamma", part);
    SIZED(f, gamma, out, 1, 1, 1);
    sized_conv(f, out, in, 3, 3, part, "conv1");
    sized_conv(f, out, out, 3, 3, part, "conv2");
    if (in != out)
        sized_conv(f, out, in, 1, 1, part, "conv_shortcut");
}

static inline void sized_middle(sized_file *f, int dim, const char *half)
{
    char part[96];
    sized_residual(f, dim, dim, half, "mid_block.resnets.0");
    sized_residual(f, dim, dim, half, "mid_block.resnets.1");
    snprintf(part, sizeof part, "%smid_block.attentions.0.norm.gamma", half);
    SIZED(f, part, dim, 1, 1);
    snprintf(part, sizeof part, "%smid_block.attentions.0.", half);
    sized_conv(f, 3 * dim, dim, 0, 1, part, "to_qkv");
    sized_conv(f, dim, dim, 0, 1, part, "proj");
}

static inline int sized_vae(const sized_pack *p, const char *folder)
{
    static const int mult[] = { 1, 2, 4, 4 }, in_time[] = { 0, 1, 1 };
    sized_file f = { 0 };
    char text[1000], name[96];
    int dim = p->vae_dim, number = 0;
    sized_conv(&f, dim, 3, 3, 3, "encoder.", "conv_in");
    for (int i = 0; i < 4; i++) {
        for (int b = 0; b < p->vae_blocks; b++, dim = p->vae_dim * mult[i]) {
            snprintf(name, sizeof name, "down_blocks.%d", number++);
            sized_residual(&f, dim, p->vae_dim * mult[i], "encoder.", name);
        }
        if (i == 3)
            break;
        snprintf(name, sizeof name, "encoder.down_blocks.%d.", number++);
        sized_conv(&f, dim, dim, 0, 3, name, "resample.1");
        if (in_time[i]) {
            snprintf(name + strlen(name), sizeof name - strlen(name), "time_conv.weight");
            SIZED(&f, name, dim, dim, 3, 1, 1);
            snprintf(name, sizeof name, "encoder.down_blocks.%d.time_conv.bias", number - 1);
            SIZED(&f, name, dim);
        }
    }
    sized_middle(&f, dim, "encoder.");
    SIZED(&f, "encoder.norm_out.gamma", dim, 1, 1, 1);
    sized_conv(&f, 32, dim, 3, 3, "encoder.", "conv_out");
    sized_conv(&f, 32, 32, 1, 1, "", "quant_conv");
    sized_conv(&f, 16, 16, 1, 1, "", "post_quant_conv");
    sized_conv(&f, dim, 16, 3, 3, "decoder.", "conv_in");
    sized_middle(&f, dim, "decoder.");
    for (int i = 0; i < 4; i++) {
        int out = p->vae_dim * mult[3 - i];
        for (int b = 0; b <= p->vae_blocks; b++, dim = out) {
            snprintf(name, sizeof name, "up_blocks.%d.resnets.%d", i, b);
            sized_residual(&f, dim, out, "decoder.", name);
        }
        if (i == 3)
            break;
        snprintf(name, sizeof name, "decoder.up_blocks.%d.upsamplers.0.", i);
        sized_conv(&f, dim / 2, dim, 0, 3, name, "resample.1");
        if (in_time[2 - i]) {
            snprintf(name, sizeof name, "decoder.up_blocks.%d.upsamplers.0.time_conv.weight", i);
            SIZED(&f, name, 2 * dim, dim, 3, 1, 1);
            snprintf(name, sizeof name, "decoder.up_blocks.%d.upsamplers.0.time_conv.bias", i);
            SIZED(&f, name, 2 * dim);
        }
        dim /= 2;
    }
    SIZED(&f, "decoder.norm_out.gamma", dim, 1, 1, 1);
    sized_conv(&f, 3, dim, 3, 3, "decoder.", "conv_out");
    snprintf(text, sizeof text, "{\"_class_name\": \"AutoencoderKLWan\", \"base_dim\": %d, \"z_dim\": 16, \"dim_mult\": "
             "[1, 2, 4, 4], \"num_res_blocks\": %d, \"temperal_downsample\": [false, true, true], \"latents_mean\": "
             "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], \"latents_std\": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, "
             "1, 1, 1]}", p->vae_dim, p->vae_blocks);
    return sized_text_file(folder, "config.json", text) &&
           sized_write(&f, folder, "diffusion_pytorch_model.safetensors", p->holes);
}

/* Makes the pack in a new folder, whose path is written to `path` of at least 512 bytes. 0: it could not be made. */
static inline int sized_make(const sized_pack *p, char *path)
{
    static const char *const folders[] = { "transformer", "text_encoder", "vae" };
    static const char *const linked[] = { "tokenizer", "scheduler", "model_index.json" };
    const char *base = getenv("TMPDIR");
    char folder[3][600], text[300];
    snprintf(path, 512, "%s/imagine-pack-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(path))
        return 0;
    for (int i = 0; i < 3; i++) {
        char from[1100], to[600];
        snprintf(folder[i], sizeof folder[i], "%s/%s", path, folders[i]);
        snprintf(to, sizeof to, "%s/%s", path, linked[i]);
        snprintf(from, sizeof from, "%s/%s", PACK, linked[i]);
        if (mkdir(folder[i], 0777) || symlink(from, to))
            return 0;
    }
    snprintf(text, sizeof text, "{\"width\": %d, \"height\": %d, \"frames\": %d, \"steps\": %d, \"text_length\": %d}",
             p->width, p->height, p->frames, p->steps, p->text_length);
    return sized_text_file(path, "imagine.json", text) && sized_transformer(p, folder[0]) &&
           sized_encoder(p, folder[1]) && sized_vae(p, folder[2]);
}

static inline void sized_remove(const char *path)
{
    static const char *const files[] = {
        "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors", "text_encoder/config.json",
        "text_encoder/model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors", "imagine.json",
        "tokenizer", "scheduler", "model_index.json",
    };
    static const char *const folders[] = { "transformer", "text_encoder", "vae", "" };
    char name[600];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(name, sizeof name, "%s/%s", path, files[i]);
        unlink(name);
    }
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(name, sizeof name, "%s/%s", path, folders[i]);
        rmdir(name);
    }
}

#endif
