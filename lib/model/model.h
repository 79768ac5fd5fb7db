/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_MODEL_MODEL_H
#define IMAGINE_MODEL_MODEL_H

/* Inside view of a model pack: strict readers for JSON and safetensors, and the pack that stages load from. */

#include "base/base.h"

/* A regular file read whole (at most `limit` bytes), with a zero behind; *data is freed with imagine__free (file.c). */
imagine_status imagine__read_file(imagine_context *context, const char *path, size_t limit, char **data, size_t *size,
                                  imagine_error *error);
/* The same of a file of `length` bytes that is open already and stays so; `path` for messages. */
imagine_status imagine__read_opened(imagine_context *context, int fd, uint64_t length, const char *path, size_t limit, char **data,
                                    size_t *size, imagine_error *error);
/* What is there at `path`; an error where that cannot be told. */
typedef enum imagine__path_kind { IMAGINE__PATH_NONE, IMAGINE__PATH_FOLDER, IMAGINE__PATH_FILE } imagine__path_kind;
imagine_status imagine__look(const char *path, imagine__path_kind *kind, imagine_error *error);
/* A path as messages begin with it: one that is empty says so. */
const char *imagine__path_text(const char *path);
/* Opens a regular file for reading: *fd and its size. */
imagine_status imagine__open_file(const char *path, int *fd, uint64_t *size, imagine_error *error);
/* pread until `size` bytes are there; a file that ends before is an error. */
imagine_status imagine__pread(int fd, const char *path, uint64_t offset, void *out, uint64_t size,
                              imagine_error *error);

/* ---- JSON (json.c) --------------------------------------------------------------------------- */

/* A strict, non-recursive pull reader over a text in memory (RFC 8259; UTF-8 is checked; depth at most 64). Tokens come
 * in the order of the text: a key is followed by its value. The reader owns nothing; strings are decoded into the
 * caller's space. */
typedef enum imagine__json_kind {
    IMAGINE__JSON_END = 0, /* the text is over */
    IMAGINE__JSON_ERROR,
    IMAGINE__JSON_OBJECT, /* { */
    IMAGINE__JSON_OBJECT_END,
    IMAGINE__JSON_ARRAY, /* [ */
    IMAGINE__JSON_ARRAY_END,
    IMAGINE__JSON_KEY,
    IMAGINE__JSON_STRING,
    IMAGINE__JSON_NUMBER,
    IMAGINE__JSON_TRUE,
    IMAGINE__JSON_FALSE,
    IMAGINE__JSON_NULL
} imagine__json_kind;

typedef struct imagine__json {
    const char *text;
    size_t size, at;
    imagine__json_kind kind; /* of the current token */
    uint32_t depth;
    size_t begin, end; /* of the current token in text; of a string or key between its quotes, still escaped */
    const char *error; /* what is wrong, after IMAGINE__JSON_ERROR */
    uint64_t in_object; /* a bit per level */
    uint32_t state;
    int32_t reserved;
} imagine__json;

void imagine__json_init(imagine__json *json, const char *text, size_t size);
imagine__json_kind imagine__json_next(imagine__json *json);
/* Skips the current value with all that is in it (current token: a value's first, or a key, whose value is skipped).
 * 0 on error. */
int imagine__json_skip(imagine__json *json);
/* The current string or key, unescaped (escapes never lengthen): at most end - begin bytes and a zero are written to
 * `out` of `size` bytes. Returns the length, or -1 when it does not fit. May contain zeros from \u0000. */
int64_t imagine__json_string(const imagine__json *json, char *out, size_t size);
/* 1 if the current string or key is exactly `text`. */
int imagine__json_is(const imagine__json *json, const char *text);
int imagine__json_double(const imagine__json *json, double *value); /* 0: not a number that fits */
int imagine__json_int(const imagine__json *json, int64_t *value); /* 0: not an integer that fits */
int32_t imagine__json_line(const imagine__json *json); /* for messages, from 1 */
/* What is wrong with a text that cannot be JSON from its begin on: UTF-8's byte order mark, which editors do not show, or what
 * imagine__begins_as tells; NULL of all others. */
const char *imagine__json_mark(const char *text, size_t size);

/* ---- what is there in place of what was wanted (found.c) -------------------------------------- */

/* What a file is by its first bytes, where no reader of ours takes it, and what to do: a git-lfs pointer, a web page, a pickle. NULL:
 * not known. */
const char *imagine__begins_as(const char *bytes, size_t size);
int imagine__ends_with(const char *name, const char *end);
/* There are neither `base`.safetensors nor its index in the folder: the message names what is, and what to do. */
imagine_status imagine__fail_no_weights(const char *folder, const char *base, imagine_error *error);
/* The same of a folder that is no pack, and of a file. */
imagine_status imagine__fail_no_pack(const char *path, imagine_error *error);
imagine_status imagine__fail_file_is_no_pack(const char *path, imagine_error *error);

/* ---- configurations (config.c) --------------------------------------------------------------- */

/* A config.json read whole: flat access to its top-level keys. Every key that was never asked for can be listed, so
 * that a stage can refuse what it does not know. */
typedef struct imagine__config imagine__config;

imagine_status imagine__config_open(imagine__config **config, imagine_context *context, const char *path,
                                    imagine_error *error);
void imagine__config_close(imagine_context *context, imagine__config *config);
const char *imagine__config_path(const imagine__config *config);
/* 1 if present and not null; marks the key as known. */
int imagine__config_has(const imagine__config *config, const char *key);
/* Each marks the key as known. A missing or null key gives the default; a value of another type is an error that names
 * file, key and value. */
imagine_status imagine__config_int(imagine__config *, const char *key, int64_t *value, int64_t default_value,
                                   int64_t min, int64_t max, imagine_error *error);
imagine_status imagine__config_double(imagine__config *, const char *key, double *value, double default_value,
                                      imagine_error *error);
imagine_status imagine__config_bool(imagine__config *, const char *key, int *value, int default_value,
                                    imagine_error *error);
/* *value points into the config. */
imagine_status imagine__config_string(imagine__config *, const char *key, const char **value, const char *default_value,
                                      imagine_error *error);
/* Arrays of numbers or booleans: *count in: the most that `values` holds, out: how many there are (0: missing, null). */
imagine_status imagine__config_doubles(imagine__config *, const char *key, double *values, int32_t *count,
                                       imagine_error *error);
/* Fails unless a missing key, null, or exactly this value (JSON text, as "false", "\"silu\"", "0", "[1, 2, 2]") stands
 * there: "transformer/config.json: \"image_dim\" is 1280, this library runs null". */
imagine_status imagine__config_expect(imagine__config *, const char *key, const char *json_value, imagine_error *error);
/* Fails naming the first key that was never asked for (keys beginning with '_' and those in `ignored`, a
 * NULL-terminated list, aside). */
imagine_status imagine__config_no_others(imagine__config *, const char *const *ignored, imagine_error *error);

/* ---- safetensors (safetensors.c) ------------------------------------------------------------- */

/* One tensor of a file or of a set of shards. The name lives as long as the set. */
typedef struct imagine__tensor {
    const char *name;
    imagine_dtype dtype;
    int32_t ndim;
    int64_t shape[IMAGINE_MAX_DIMS];
    uint64_t offset, size; /* in its file, bytes */
    int32_t file; /* which of the set */
    int32_t stored; /* for imagine__stored_name */
} imagine__tensor;

typedef struct imagine__weights imagine__weights;

/* One safetensors file, or in a folder `base`.safetensors or the shards that `base`.safetensors.index.json names. Reads
 * and checks headers only. Thread-safe after opening. */
imagine_status imagine__weights_open_file(imagine__weights **weights, imagine_context *context, const char *path,
                                          imagine_error *error);
imagine_status imagine__weights_open(imagine__weights **weights, imagine_context *context, const char *folder,
                                     const char *base, imagine_error *error);
void imagine__weights_close(imagine__weights *weights);
int32_t imagine__weights_count(const imagine__weights *weights);
const imagine__tensor *imagine__weights_at(const imagine__weights *weights, int32_t index);
const imagine__tensor *imagine__weights_find(const imagine__weights *weights, const char *name); /* NULL: none */
const char *imagine__stored_name(const imagine__tensor *tensor); /* of its type, as the format has it: "F8_E4M3" */
const char *imagine__weights_like(const imagine__weights *weights, const char *part); /* the first name with this in it; NULL: none */
/* Why a tensor may be missing, to be put behind a message: "; it has the original model's names: ..."; or "". */
const char *imagine__weights_hint(const imagine__weights *weights);
uint64_t imagine__weights_bytes(const imagine__weights *weights); /* of all files */
uint64_t imagine__weights_elements(const imagine__weights *weights);
const char *imagine__weights_path(const imagine__weights *weights,
                                  const imagine__tensor *tensor); /* the file it is in */
/* Bytes begin..begin+size-1 of the tensor's data, with pread. A file cut short meanwhile is an error. */
imagine_status imagine__weights_read(const imagine__weights *weights, const imagine__tensor *tensor, uint64_t begin,
                                     uint64_t size, void *out, imagine_error *error);

/* ---- results that are not finite (examine.c) -------------------------------------------------- */

/* IMAGINE_ERROR_NOT_FINITE with "WHAT: element 7 of tensor ... in FILE is not finite" for the first such tensor among the
 * weights of `stage` ("transformer"), whose files are read for it; where there is none the message says so. `cancel` (or
 * NULL) ends the search. */
imagine_status imagine__fail_not_finite(const imagine_model *model, const char *stage, const imagine_cancel *cancel,
                                        imagine_error *error, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* ---- loading a stage's weights (load.c) ------------------------------------------------------ */

/* All weights of one stage, owned together and shared by its handles. Each function finds the tensor, checks that its
 * shape is the one given (the message names tensor, file, both shapes), reads it and places it as the kernels want it.
 * F16 and F64 are widened to or rounded to f32. On failure nothing is lost: what was loaded is freed by
 * imagine__loaded_free. */
typedef struct imagine__loaded {
    imagine_context *context;
    const imagine__weights *weights;
    struct imagine__loaded_block {
        void *at;
        size_t size;
    } *blocks; /* everything that was allocated */
    size_t count, capacity;
    size_t given; /* of these, to those who asked since the last imagine__loaded_rewind */
    uint64_t bytes;
    void *staging[2]; /* memory on the host to read through, kept when `again` is set */
    size_t staging_size[2];
    int check; /* 1: tensors are looked for and checked, and nothing is read: weights stay NULL */
    int random; /* 1: there is no file, weights are random numbers (random.c) */
    int again; /* 1: the same tensors' likes will be loaded again, into the same memory */
    const imagine_cancel *cancel; /* looked at between tensors, or NULL */
    imagine__uploader *uploader; /* with a device, from the first tensor on */
    uint8_t *asked; /* a byte per tensor of the weights: it was asked for */
} imagine__loaded;

void imagine__loaded_init(imagine__loaded *loaded, imagine_context *context, const imagine__weights *weights);
void imagine__loaded_free(imagine__loaded *loaded);
/* On a device: waits until all is there. Before the weights are used, unless the device is told to wait. */
imagine_status imagine__loaded_finish(imagine__loaded *loaded, imagine_error *error);
/* What is loaded next goes into the memory of what was loaded first; with `again`. */
void imagine__loaded_rewind(imagine__loaded *loaded);
uint64_t imagine__loaded_held(const imagine__loaded *loaded); /* bytes, with what keeps them */
void *imagine__loaded_keep(imagine__loaded *loaded, size_t size); /* a block of values that lives as long; or NULL */

/* `name` is "prefix.weight" and "prefix.bias": format arguments make the prefix. `bias` 0: none, 1: required. The
 * weight's shape is [n, k], or any whose product after the first dimension is k (patch embeddings). */
imagine_status imagine__load_linear(imagine__loaded *loaded, imagine__linear_weight *w, int64_t n, int64_t k, int bias,
                                    imagine_error *error, const char *format, ...)
    __attribute__((format(printf, 7, 8)));
/* Several matrices of the same k, put below each other as one (to_q, to_k, to_v): names[i] + ".weight" / ".bias",
 * rows[i] each. */
imagine_status imagine__load_linear_stack(imagine__loaded *loaded, imagine__linear_weight *w, int32_t count,
                                          const char *const *names, const int64_t *rows, int64_t k, int bias,
                                          imagine_error *error);
/* The weight's shape is [cout, cin, kt, kh, kw], or [cout, cin, kh, kw] for kt = 1. */
imagine_status imagine__load_conv(imagine__loaded *loaded, imagine__conv_weight *w, int64_t cout, int64_t cin,
                                  int32_t kt, int32_t kh, int32_t kw, imagine_error *error, const char *format, ...)
    __attribute__((format(printf, 9, 10)));
/* A vector or small tensor of `count` values in all, as f32; the name in full. */
imagine_status imagine__load_floats(imagine__loaded *loaded, const float **values, int64_t count, imagine_error *error,
                                    const char *format, ...) __attribute__((format(printf, 5, 6)));
/* An embedding table [rows, dim], as f32 or bf16 as stored. */
imagine_status imagine__load_table(imagine__loaded *loaded, const void **table, imagine__wtype *type, int64_t rows,
                                   int64_t dim, imagine_error *error, const char *format, ...)
    __attribute__((format(printf, 7, 8)));
/* Rows `ids` of a table [rows, dim], as f32 values, straight from the file. */
imagine_status imagine__load_rows(imagine__loaded *loaded, float *out, const int32_t *ids, int32_t count, int64_t dim,
                                  const char *name, imagine_error *error);
/* Fails naming the first tensor that no load function has asked for, except those whose names begin with one of the
 * NULL-terminated prefixes. (May be called once all of a stage is loaded.) */
imagine_status imagine__load_no_others(const imagine__loaded *loaded, const char *const *ignored, imagine_error *error);

/* ---- random weights (random.c) ---------------------------------------------------------------- */

/* What the functions above give with `random` set: bf16 matrices whose products are about as large as what they multiply,
 * small biases, made where they lie from a few kilobytes of the host's. For measuring times
 * without a file, on a device alone: the CPU's kernels want them packed. */
imagine_status imagine__random_linear(imagine__loaded *loaded, imagine__linear_weight *w, int32_t count,
                                      const int64_t *rows, int64_t k, int bias, imagine_error *error);
imagine_status imagine__random_conv(imagine__loaded *loaded, imagine__conv_weight *w, imagine_error *error);
imagine_status imagine__random_floats(imagine__loaded *loaded, const float **values, int64_t count,
                                      imagine_error *error);
/* Values of type `type`, of a uniform distribution with this deviation. */
imagine_status imagine__random_values(imagine_context *context, void *values, int64_t count, imagine__wtype type,
                                      double deviation, imagine_error *error);

/* ---- weights block by block (stream.c) -------------------------------------------------------- */

/* Fills in the struct of block `index`, which is zero, with weights of `loaded`. Called on a thread of its own. */
typedef imagine_status imagine__load_block_fn(const void *user, imagine__loaded *loaded, int32_t index, void *block,
                                              imagine_error *error);

/* The blocks 0..count-1 of a stage, one after the other, in the memory of two: while one is used the next one is read, on
 * a thread of its own where there can be one. `size` is that of the block's struct; `user` is the loader's. */
typedef struct imagine__stream imagine__stream;
imagine_status imagine__stream_open(imagine__stream **stream, const imagine__work *work,
                                    const imagine__weights *weights, int32_t count, size_t size,
                                    imagine__load_block_fn *load, const void *user, imagine_error *error);
/* The next block; valid until the next call. */
imagine_status imagine__stream_next(imagine__stream *stream, const void **block, imagine_error *error);
/* Reading ends, and the memory stays for the same blocks to be read again, from the first one on; the run is the same one. */
void imagine__stream_pause(imagine__stream *stream);
void imagine__stream_again(imagine__stream *stream, const imagine__work *work);
void imagine__stream_close(imagine__stream *stream); /* NULL is fine */

/* ---- the pack (pack.c) ----------------------------------------------------------------------- */

imagine_context *imagine__model_context(const imagine_model *model); /* NULL of NULL */
/* "<pack>/<stage>/<file>" in *path, to be freed with imagine__free; stage may be NULL. */
imagine_status imagine__model_path(const imagine_model *model, const char *stage, const char *file, char **path,
                                   imagine_error *error);

/* A stand-in for `model` in a context that plans: the same pack, whose stages that are loaded by now need not be loaded
 * again. Released before `model` is. */
imagine_status imagine__model_plan(imagine_model **plan, imagine_model *model, imagine_context *planning,
                                   imagine_error *error);

/* The stages' weights are loaded when first asked for, once, and shared; threads that ask meanwhile wait. A failure is
 * not kept: the next call tries again. A pack without the stage: IMAGINE_ERROR_NOT_FOUND, naming the folder. What they
 * return lives until imagine__model_put, and then as long as the model, unless its memory is wanted
 * (imagine__model_give_back). */
typedef enum imagine__reading {
    IMAGINE__READ_AUTO, /* as the model's options say, or as the context's limit wants it */
    IMAGINE__READ_WHOLE,
    IMAGINE__READ_STREAMED /* blocks are read each time they are used, unless all of them are there anyway */
} imagine__reading;
struct imagine__tokenizer;
struct imagine__umt5;
struct imagine__dit;
struct imagine__vae_model;
imagine_status imagine__model_tokenizer(imagine_model *model, const struct imagine__tokenizer **tokenizer,
                                        const imagine_cancel *cancel, imagine_error *error);
imagine_status imagine__model_umt5(imagine_model *model, imagine__reading reading, const struct imagine__umt5 **umt5,
                                   const imagine_cancel *cancel, imagine_error *error);
imagine_status imagine__model_dit(imagine_model *model, imagine__reading reading, const struct imagine__dit **dit,
                                  const imagine_cancel *cancel, imagine_error *error);
/* Of a pack of two experts the one for much noise (0) or for little (1); otherwise 0 alone. */
imagine_status imagine__model_expert(imagine_model *model, int32_t expert, imagine__reading reading,
                                     const struct imagine__dit **dit, const imagine_cancel *cancel,
                                     imagine_error *error);
imagine_status imagine__model_vae(imagine_model *model, const struct imagine__vae_model **vae,
                                  const imagine_cancel *cancel, imagine_error *error);

/* A handle no longer uses what it got; NULL is fine. */
void imagine__model_put(imagine_model *model, const void *loaded);
/* Frees all weights that no handle uses; those that a stand-in counts with once it is released. */
void imagine__model_give_back(imagine_model *model);
imagine_weights imagine__model_weights(const imagine_model *model); /* the option */
/* Bytes of a stage's weights as they are held; 0 while they are not. */
uint64_t imagine__model_held(imagine_model *model, uint32_t stage);

/* The pack's defaults, from imagine.json at its root (all optional: width, height, frames, fps, steps, guidance,
 * guidance_2, text_length, schedule, step_rule, shift), else from the configurations, else 480x832, 81 frames, 16 fps, 50 steps,
 * guidance 5, text length 512. */
typedef struct imagine__defaults {
    int32_t width, height, frames, steps, text_length;
    imagine_schedule schedule; /* else from scheduler/scheduler_config.json */
    imagine_known_mode known_mode; /* from model_index.json */
    imagine_step_rule step_rule; /* likewise; IMAGINE_STEP_DEFAULT: the schedule's */
    double fps, guidance, shift;
    double guidance_2; /* of the second expert */
    double boundary; /* timestep / 1000 below which the second expert works; 0: there is one transformer */
} imagine__defaults;
const imagine__defaults *imagine__model_defaults(const imagine_model *model);
/* IMAGINE_OK, or why the pack's own schedule, which is then IMAGINE_SCHEDULE_DEFAULT, cannot be run. */
imagine_status imagine__model_check_schedule(const imagine_model *model, imagine_error *error);
/* Whether the transformer has positions for a clip of so many frames, rows and columns, of which a latent stands for `factors`. */
imagine_status imagine__model_check_positions(const imagine_model *model, const int32_t pixels[3], const int32_t factors[3],
                                              const char *const names[3], imagine_error *error);

#endif
