/* SPDX-License-Identifier: MIT */
/* The encoder of transformers' UMT5EncoderModel. Only the prompt's own tokens are computed: what the reference pads it
 * with is masked out of every softmax, so nothing depends on it. */
#include "text/umt5.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Values of relative position bias held at a time, about: more heads go one after the other. */
#define BIAS_VALUES ((int64_t)4 << 20)

typedef struct block {
    const float *attention_norm, *ffn_norm; /* [dim] */
    const float *bias; /* [buckets, heads] */
    imagine__linear_weight qkv, out; /* rows of qkv: q, k, v */
    imagine__linear_weight gate, up, down; /* wi_0, wi_1, wo */
} block;

struct imagine__umt5 {
    imagine_context *context;
    imagine__umt5_config config;
    const void *table; /* [vocabulary, dim]; NULL: in the file, like the blocks */
    const char *table_name;
    imagine__wtype table_type;
    int32_t reserved;
    const float *final_norm;
    block *blocks; /* NULL: they are read each time they are used */
    imagine__loaded loaded;
};

/* ---- configuration ---------------------------------------------------------------------------------------------- */

/* What does not change the encoder's result: how it was trained, and the decoder that Wan leaves out. */
static const char *const ignored_keys[] = {
    "architectures", "classifier_dropout", "decoder_start_token_id", "dropout_rate", "dtype", "torch_dtype",
    "eos_token_id", "initializer_factor", "is_encoder_decoder", "num_decoder_layers", "pad_token_id", "bos_token_id",
    "unk_token_id",
    "tie_word_embeddings", "tokenizer_class", "transformers_version", "use_cache", "output_past", "scalable_attention",
    "n_positions", "max_length", "output_attentions", "output_hidden_states", "return_dict", "task_specific_params",
    "chunk_size_feed_forward", "id2label", "label2id", "problem_type", NULL,
};

static imagine_status read_sizes(imagine__config *file, imagine__umt5_config *c, imagine_error *error)
{
    const struct {
        const char *key;
        int64_t *value, standard, min, max;
    } sizes[] = {
        { "d_model", &c->dim, 512, 1, 1 << 17 },
        { "d_kv", &c->d, 64, 1, 1 << 12 },
        { "d_ff", &c->ffn, 1024, 1, 1 << 19 },
        { "num_layers", &c->layers, 8, 1, 4096 },
        { "num_heads", &c->heads, 6, 1, 4096 },
        { "vocab_size", &c->vocabulary, 250112, 1, 1 << 24 },
        { "relative_attention_num_buckets", &c->buckets, 32, 4, 1 << 16 },
        { "relative_attention_max_distance", &c->distance, 128, 2, 1 << 24 },
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        imagine_status status = imagine__config_int(file, sizes[i].key, sizes[i].value, sizes[i].standard, sizes[i].min,
                                                    sizes[i].max, error);
        if (status < 0)
            return status;
    }
    c->inner = c->heads * c->d;
    if (c->distance <= c->buckets / 4)
        return imagine__fail(error, IMAGINE_ERROR_MODEL,
                             "%s: \"relative_attention_max_distance\" is %lld, which is within the %lld exact buckets",
                             imagine__config_path(file), (long long)c->distance, (long long)(c->buckets / 4));
    return IMAGINE_OK;
}

static imagine_status read_open_config(imagine__config *file, imagine__umt5_config *c, imagine_error *error)
{
    static const char *const expected[][2] = {
        { "model_type", "\"umt5\"" },   { "feed_forward_proj", "\"gated-gelu\"" }, { "dense_act_fn", "\"gelu_new\"" },
        { "is_gated_act", "true" },     { "is_decoder", "false" },
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        imagine_status status = imagine__config_expect(file, expected[i][0], expected[i][1], error);
        if (status < 0)
            return status;
    }
    imagine_status status = read_sizes(file, c, error);
    if (status == IMAGINE_OK)
        status = imagine__config_double(file, "layer_norm_epsilon", &c->eps, 1e-6, error);
    if (status == IMAGINE_OK && !(c->eps >= 0 && c->eps <= 1))
        status = imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"layer_norm_epsilon\" is %g, must be from 0 to 1",
                               imagine__config_path(file), c->eps);
    return status == IMAGINE_OK ? imagine__config_no_others(file, ignored_keys, error) : status;
}

imagine_status imagine__umt5_read_config(imagine__umt5_config *c, imagine_context *context, const char *folder,
                                         imagine_error *error)
{
    size_t room = strlen(folder) + sizeof "/config.json";
    char *path = imagine__alloc(context, room);
    imagine__config *file = NULL;
    if (!path)
        return imagine__fail_memory_in(context, error, room, "a path");
    snprintf(path, room, "%s/config.json", folder);
    imagine_status status = imagine__config_open(&file, context, path, error);
    imagine__free(context, path);
    if (status < 0)
        return status;
    status = read_open_config(file, c, error);
    imagine__config_close(context, file);
    return status;
}

/* ---- weights ---------------------------------------------------------------------------------------------------- */

static imagine_status load_attention(const imagine__umt5_config *c, imagine__loaded *l, block *b, int layer,
                                     imagine_error *error)
{
    char names[3][80];
    const char *pointers[3] = { names[0], names[1], names[2] };
    const int64_t rows[3] = { c->inner, c->inner, c->inner };
    for (int i = 0; i < 3; i++)
        snprintf(names[i], sizeof names[i], "encoder.block.%d.layer.0.SelfAttention.%c", layer, "qkv"[i]);
    imagine_status status = imagine__load_floats(l, &b->attention_norm, c->dim, error,
                                                 "encoder.block.%d.layer.0.layer_norm.weight", layer);
    if (status == IMAGINE_OK)
        status = imagine__load_linear_stack(l, &b->qkv, 3, pointers, rows, c->dim, 0, error);
    if (status == IMAGINE_OK)
        status = imagine__load_linear(l, &b->out, c->dim, c->inner, 0, error,
                                      "encoder.block.%d.layer.0.SelfAttention.o", layer);
    if (status == IMAGINE_OK)
        status = imagine__load_floats(l, &b->bias, c->buckets * c->heads, error,
                                      "encoder.block.%d.layer.0.SelfAttention.relative_attention_bias.weight", layer);
    return status;
}

static imagine_status load_ffn(const imagine__umt5_config *c, imagine__loaded *l, block *b, int layer,
                               imagine_error *error)
{
    imagine_status status = imagine__load_floats(l, &b->ffn_norm, c->dim, error,
                                                 "encoder.block.%d.layer.1.layer_norm.weight", layer);
    if (status == IMAGINE_OK)
        status = imagine__load_linear(l, &b->gate, c->ffn, c->dim, 0, error,
                                      "encoder.block.%d.layer.1.DenseReluDense.wi_0", layer);
    if (status == IMAGINE_OK)
        status = imagine__load_linear(l, &b->up, c->ffn, c->dim, 0, error,
                                      "encoder.block.%d.layer.1.DenseReluDense.wi_1", layer);
    if (status == IMAGINE_OK)
        status = imagine__load_linear(l, &b->down, c->dim, c->ffn, 0, error,
                                      "encoder.block.%d.layer.1.DenseReluDense.wo", layer);
    return status;
}

static imagine_status load_block(const void *user, imagine__loaded *loaded, int32_t index, void *to,
                                 imagine_error *error)
{
    const imagine__umt5 *u = user;
    imagine_status status = load_attention(&u->config, loaded, to, index, error);
    return status == IMAGINE_OK ? load_ffn(&u->config, loaded, to, index, error) : status;
}

/* Of an encoder whose blocks are to be streamed, only a look whether they and the table can be read. */
static imagine_status load_all(imagine__umt5 *u, int streamed, imagine_error *error)
{
    /* The table has two names, of which files hold one or both. */
    static const char *const others[] = { "decoder.", "lm_head.", "encoder.embed_tokens.", "shared.", NULL };
    const imagine__umt5_config *c = &u->config;
    block looked;
    u->table_name = imagine__weights_find(u->loaded.weights, "shared.weight") ? "shared.weight"
                                                                               : "encoder.embed_tokens.weight";
    u->loaded.check = streamed;
    imagine_status status = imagine__load_table(&u->loaded, &u->table, &u->table_type, c->vocabulary, c->dim, error,
                                                "%s", u->table_name);
    for (int i = 0; i < c->layers && status == IMAGINE_OK; i++)
        status = load_block(u, &u->loaded, i, streamed ? &looked : &u->blocks[i], error);
    u->loaded.check = 0;
    if (status == IMAGINE_OK)
        status = imagine__load_floats(&u->loaded, &u->final_norm, c->dim, error, "encoder.final_layer_norm.weight");
    if (status == IMAGINE_OK)
        status = imagine__load_no_others(&u->loaded, others, error);
    return status == IMAGINE_OK ? imagine__loaded_finish(&u->loaded, error) : status;
}

imagine_status imagine__umt5_load(imagine__umt5 **umt5, imagine_context *context, const imagine__umt5_config *config,
                                  const imagine__weights *weights, int streamed, const imagine_cancel *cancel,
                                  imagine_error *error)
{
    *umt5 = NULL;
    imagine__umt5 *u = imagine__calloc(context, 1, sizeof *u);
    if (!u)
        return imagine__fail_memory_in(context, error, sizeof *u, "the text encoder");
    u->context = context;
    u->config = *config;
    imagine__loaded_init(&u->loaded, context, weights);
    u->loaded.cancel = cancel;
    u->blocks = streamed ? NULL : imagine__calloc(context, (size_t)config->layers, sizeof *u->blocks);
    imagine_status status = u->blocks || streamed
                 ? load_all(u, streamed, error)
                 : imagine__fail_memory_in(context, error, (size_t)config->layers * sizeof *u->blocks, "the text encoder");
    u->loaded.cancel = NULL; /* the caller's, for this call alone */
    if (status < 0)
        imagine__umt5_free(u);
    else
        *umt5 = u;
    return status;
}

void imagine__umt5_free(imagine__umt5 *umt5)
{
    if (!umt5)
        return;
    imagine__loaded_free(&umt5->loaded);
    imagine__free(umt5->context, umt5->blocks);
    imagine__free(umt5->context, umt5);
}

const imagine__loaded *imagine__umt5_loaded(const imagine__umt5 *umt5)
{
    return &umt5->loaded;
}

int32_t imagine__umt5_dim(const imagine__umt5 *umt5)
{
    return (int32_t)umt5->config.dim;
}

int32_t imagine__umt5_vocabulary(const imagine__umt5 *umt5)
{
    return (int32_t)umt5->config.vocabulary;
}

/* ---- relative position bias ------------------------------------------------------------------------------------- */

/* The bucket of key position minus query position: both directions have half of the buckets, of which half are exact
 * and half logarithmic, in f32 as transformers computes them. */
static int64_t bucket_of(const imagine__umt5_config *c, int64_t relative)
{
    int64_t half = c->buckets / 2, exact = half / 2, distance = relative < 0 ? -relative : relative;
    int64_t first = relative > 0 ? half : 0;
    if (distance < exact)
        return first + distance;
    float ratio = logf((float)distance / (float)exact) / (float)log((double)c->distance / (double)exact);
    ratio *= (float)(half - exact);
    int64_t bucket = exact + (int64_t)ratio;
    return first + (bucket < half - 1 ? bucket : half - 1);
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

typedef struct forward {
    const imagine__umt5 *u;
    imagine__work *work;
    int64_t tokens;
    const int32_t *buckets; /* [2 * tokens - 1] */
    float *x, *h; /* [tokens, dim]: the residual stream and its norm */
    float *a, *b, *y; /* [tokens, 3 * inner or ffn], [tokens, ffn], [tokens, inner] */
    float *bias; /* of some heads of one block */
    int64_t heads; /* how many at a time */
} forward;

static void norm(const forward *f, const float *weight, float *y)
{
    int64_t dim = f->u->config.dim;
    imagine__norm_args args = { .x = f->x, .y = y, .rows = f->tokens, .dim = dim, .ldx = dim, .ldy = dim,
                                .kind = IMAGINE__NORM_RMS, .eps = (float)f->u->config.eps, .weight = weight };
    f->work->run.kernels->norm(&f->work->run, &args);
}

static void linear(const forward *f, imagine__linear_args args)
{
    args.m = f->tokens;
    args.ldx = args.w->k;
    args.ldy = args.ld_mul = args.ld_add = args.w->n;
    f->work->run.kernels->linear(&f->work->run, &args);
}

static void attend(const forward *f, const block *b)
{
    const imagine__umt5_config *c = &f->u->config;
    int64_t n = f->tokens, row = 3 * c->inner;
    for (int64_t h = 0; h < c->heads; h += f->heads) {
        int64_t heads = f->heads < c->heads - h ? f->heads : c->heads - h;
        imagine__relative_bias_args bias = { .table = b->bias, .buckets = f->buckets, .y = f->bias, .tokens = n,
                                             .all_heads = c->heads, .first = h, .heads = heads };
        f->work->run.kernels->relative_bias(&f->work->run, &bias);
        const float *q = f->a + h * c->d;
        imagine__attention_args args = { .q = q, .k = q + c->inner, .v = q + 2 * c->inner, .y = f->y + h * c->d,
                                         .batch = 1, .heads = heads, .d = c->d, .tokens = n, .kv = n,
                                         .q_token = row, .k_token = row, .v_token = row, .y_token = c->inner,
                                         .q_batch = n * row, .k_batch = n * row, .v_batch = n * row,
                                         .y_batch = n * c->inner, .bias = f->bias, .scale = 1.0f };
        f->work->run.kernels->attention(&f->work->run, &args);
    }
}

static void run_block(const forward *f, const block *b)
{
    norm(f, b->attention_norm, f->h);
    linear(f, (imagine__linear_args){ .w = &b->qkv, .x = f->h, .y = f->a });
    attend(f, b);
    linear(f, (imagine__linear_args){ .w = &b->out, .x = f->y, .y = f->x, .add = f->x });
    norm(f, b->ffn_norm, f->h);
    linear(f, (imagine__linear_args){ .w = &b->up, .x = f->h, .y = f->b });
    linear(f, (imagine__linear_args){
                  .w = &b->gate, .x = f->h, .y = f->a, .act = IMAGINE__ACT_GELU_TANH, .mul = f->b });
    linear(f, (imagine__linear_args){ .w = &b->down, .x = f->a, .y = f->x, .add = f->x });
}

/* The bucket of every distance of two tokens. */
static const int32_t *make_buckets(const forward *f)
{
    int64_t span = 2 * f->tokens - 1;
    int32_t *buckets = imagine__arena_host(f->work->arena, (size_t)span * sizeof *buckets);
    for (int64_t i = 0; i < span && buckets && !imagine__planning(f->work->context); i++)
        buckets[i] = (int32_t)bucket_of(&f->u->config, i - (f->tokens - 1));
    return buckets ? imagine__lend(f->work, buckets, (size_t)span * sizeof *buckets) : NULL;
}

/* All memory of a forward, from the arena. */
static int allocate(forward *f)
{
    const imagine__umt5_config *c = &f->u->config;
    imagine__arena *arena = f->work->arena;
    int64_t n = f->tokens, wide = 3 * c->inner > c->ffn ? 3 * c->inner : c->ffn;
    if (n > 1 << 20)
        return 0; /* the bias of one head alone would take terabytes */
    f->heads = BIAS_VALUES / (n * n);
    f->heads = f->heads < 1 ? 1 : f->heads > c->heads ? c->heads : f->heads;
    f->buckets = make_buckets(f);
    f->x = imagine__arena_floats(arena, n * c->dim);
    f->h = imagine__arena_floats(arena, n * c->dim);
    f->a = imagine__arena_floats(arena, n * wide);
    f->b = imagine__arena_floats(arena, n * c->ffn);
    f->y = imagine__arena_floats(arena, n * c->inner);
    f->bias = imagine__arena_floats(arena, f->heads * n * n);
    return f->buckets && f->x && f->h && f->a && f->b && f->y && f->bias;
}

/* x = the tokens' rows of the table. */
static imagine_status embed(const forward *f, const int32_t *ids, imagine_error *error)
{
    const imagine__umt5 *u = f->u;
    imagine__run *run = &f->work->run;
    if (u->table) {
        size_t size = (size_t)f->tokens * sizeof *ids;
        if (!(ids = imagine__lend(f->work, ids, size)))
            return imagine__fail_memory_in(f->work->context, error, size, "token ids");
        run->kernels->embed(run, u->table, u->table_type, ids, f->tokens, u->config.dim, f->x);
        return IMAGINE_OK;
    }
    imagine__loaded rows;
    imagine__loaded_init(&rows, f->work->context, u->loaded.weights);
    rows.cancel = f->work->cancel;
    rows.again = 1;
    imagine_status status = imagine__load_rows(&rows, f->x, ids, (int32_t)f->tokens, u->config.dim, u->table_name, error);
    imagine__loaded_free(&rows);
    return status;
}

static imagine_status run_blocks(const forward *f, imagine_error *error)
{
    const imagine__umt5 *u = f->u;
    imagine__stream *stream = NULL;
    int32_t layers = (int32_t)u->config.layers;
    imagine_status status = IMAGINE_OK;
    if (!u->blocks)
        status = imagine__stream_open(&stream, f->work, u->loaded.weights, layers, sizeof(block), load_block, u, error);
    for (int32_t i = 0; i < layers && status >= 0; i++) {
        const void *at = u->blocks ? &u->blocks[i] : NULL;
        if (!at)
            status = imagine__stream_next(stream, &at, error);
        if (status < 0)
            break;
        run_block(f, at);
        status = imagine__work_check(f->work, error);
    }
    imagine__stream_close(stream);
    return status;
}

imagine_status imagine__umt5_forward(const imagine__umt5 *umt5, imagine__work *work, const int32_t *ids, int32_t count,
                                     float *embeds, imagine_error *error)
{
    const imagine__umt5_config *c = &umt5->config;
    imagine__arena_mark mark = imagine__arena_save(work->arena);
    forward f = { .u = umt5, .work = work, .tokens = count };
    imagine_status status = IMAGINE_OK;
    if (count <= 0)
        return IMAGINE_OK;
    for (int32_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= c->vocabulary)
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "token id %d is not below the text encoder's %lld rows", ids[i],
                                 (long long)c->vocabulary);
    if (!allocate(&f)) {
        imagine__arena_restore(work->arena, mark);
        return imagine__fail(error, IMAGINE_ERROR_NO_MEMORY,
                             "out of memory for %d tokens in the text encoder; shorten the text", count);
    }
    if ((status = embed(&f, ids, error)) == IMAGINE_OK)
        status = run_blocks(&f, error);
    if (status == IMAGINE_OK)
        norm(&f, umt5->final_norm, embeds);
    imagine__arena_restore(work->arena, mark);
    return status == IMAGINE_OK ? imagine__work_check(work, error) : status;
}
