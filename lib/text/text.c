/* SPDX-License-Identifier: MIT */

/* The text stage's handle: a prompt to token ids and to the encoder's hidden states. */

#include <string.h>

#include "stage.h"
#include "text/tokenizer.h"
#include "text/umt5.h"

#define WHILE_TOKENIZING 96 /* bytes that are had for each of a prompt meanwhile: measured, 6 to 84, by what and how long it is */

struct imagine_text {
    imagine_model *model;
    imagine_context *context; /* the model's */
    imagine_cancel *cancel;
    const imagine__tokenizer *tokenizer; /* the model's */
    const imagine__umt5 *umt5; /* the model's */
    imagine__work work;
};

static const imagine_text_options defaults = { .struct_size = sizeof(imagine_text_options) };

void imagine_text_options_init(imagine_text_options *options, size_t size)
{
    imagine__init_options(options, size, &defaults, sizeof defaults);
}

imagine_status imagine_text_create(imagine_text **text, imagine_model *model, const imagine_text_options *options,
                                   imagine_error *error)
{
    IMAGINE__GUARD(imagine__model_context(model));
    return imagine__text_create(text, model, IMAGINE__READ_AUTO, options, error);
}

imagine_status imagine__text_create(imagine_text **text, imagine_model *model, imagine__reading reading,
                                    const imagine_text_options *options, imagine_error *error)
{
    imagine_text_options o = defaults;
    imagine_text *made = NULL;
    imagine_status status = imagine__need(text, "text", error);
    if (status < 0)
        return status;
    *text = NULL;
    if ((status = imagine__need(model, "model", error)) < 0 ||
        (status = imagine__read_options(&o, sizeof o, options, "imagine_text_options", error)) < 0 ||
        (status = imagine__check_process(imagine__model_context(model), error)) < 0)
        return status;
    if (o.reserved0)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "imagine_text_options.reserved0: must be 0");
    imagine_context *context = imagine__model_context(model);
    made = imagine__calloc(context, 1, sizeof *made);
    if (!made)
        return imagine__fail_memory_in(context, error, sizeof *made, "a text stage");
    made->model = imagine_model_retain(model);
    made->context = context;
    made->cancel = imagine_cancel_retain(o.cancel);
    if ((status = imagine__model_tokenizer(model, &made->tokenizer, made->cancel, error)) < 0 ||
        (status = imagine__model_umt5(model, reading, &made->umt5, made->cancel, error)) < 0 ||
        (status = imagine__work_init(&made->work, context, made->cancel, error)) < 0) {
        status = imagine__device_cause(context, status, error);
        imagine_text_destroy(&made);
        return status;
    }
    *text = made;
    return IMAGINE_OK;
}

void imagine_text_destroy(imagine_text **text)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_AT(text));
    if (!text || !*text)
        return;
    imagine_text *old = *text;
    imagine_model *model = old->model;
    *text = NULL;
    imagine__work_fini(&old->work);
    imagine__model_put(model, old->umt5);
    imagine__model_put(model, old->tokenizer);
    imagine_cancel_release(&old->cancel);
    imagine__free(old->context, old);
    imagine_model_release(&model);
}

/* Ids of the cleaned prompt, from the context. */
static imagine_status clean_ids(imagine_context *context, const imagine__tokenizer *tokenizer, const imagine_cancel *cancel,
                                const char *prompt, int32_t max_length, int32_t **ids, int32_t *count, imagine_error *error)
{
    char *clean;
    size_t size;
    imagine_status status = imagine__clean_prompt(context, prompt, cancel, &clean, &size, error);
    if (status < 0)
        return status;
    status = imagine__tokenize(tokenizer, clean, size, max_length, cancel, ids, count, error);
    imagine__free(context, clean);
    return status;
}

static imagine_status make_ids(imagine_text *text, const char *prompt, int32_t max_length, int32_t **ids,
                               int32_t *count, imagine_error *error)
{
    if (imagine__planning(text->context)) { /* as many as there may be; which ones makes no difference */
        size_t size = strlen(prompt) * WHILE_TOKENIZING;
        void *space = imagine__alloc_host_values(text->context, size + 1);
        if (!space)
            return imagine__fail_memory_in(text->context, error, size, "a prompt's tokens");
        imagine__free(text->context, space);
        *count = max_length;
        *ids = imagine__calloc(text->context, (size_t)max_length, sizeof **ids);
        return *ids ? IMAGINE_OK : imagine__fail_memory_in(text->context, error, (size_t)max_length * sizeof **ids, "token ids");
    }
    return clean_ids(text->context, text->tokenizer, text->cancel, prompt, max_length, ids, count, error);
}

static imagine_status ids_buffer(imagine_context *context, const int32_t *ids, int32_t count, imagine_buffer **buffer,
                                 imagine_error *error)
{
    imagine_status status = imagine__buffer_new(buffer, context, IMAGINE_I32, 1, &(int64_t){ count }, error);
    if (status >= 0)
        imagine__copy_host(context, imagine_buffer_data(*buffer), 0, ids, 0, (size_t)count * sizeof *ids, 1);
    return status;
}

static imagine_status check_length(int32_t max_length, imagine_error *error)
{
    if (max_length < 0)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "max_length: %d is below 0", max_length);
    return IMAGINE_OK;
}

imagine_status imagine_text_tokenize(imagine_text *text, const char *prompt, int32_t max_length, imagine_buffer **ids,
                                     imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(text));
    imagine_status status = imagine__need(ids, "ids", error);
    if (status < 0)
        return status;
    *ids = NULL;
    if ((status = imagine__need(text, "text", error)) < 0 || (status = imagine__need(prompt, "prompt", error)) < 0 ||
        (status = imagine__check_process(text->context, error)) < 0)
        return status;
    if ((status = check_length(max_length, error)) < 0)
        return status;
    int32_t *values, count;
    status = make_ids(text, prompt, max_length, &values, &count, error);
    if (status < 0)
        return status;
    status = ids_buffer(text->context, values, count, ids, error);
    imagine__free(text->context, values);
    return status;
}

imagine_status imagine_model_tokenize(imagine_model *model, const char *prompt, int32_t max_length, const imagine_cancel *cancel,
                                      imagine_buffer **ids, imagine_error *error)
{
    IMAGINE__GUARD(imagine__model_context(model));
    imagine_status status = imagine__need(ids, "ids", error);
    if (status < 0)
        return status;
    *ids = NULL;
    if ((status = imagine__need(model, "model", error)) < 0 || (status = imagine__need(prompt, "prompt", error)) < 0 ||
        (status = imagine__check_process(imagine__model_context(model), error)) < 0 || (status = check_length(max_length, error)) < 0)
        return status;
    imagine_context *context = imagine__model_context(model);
    const imagine__tokenizer *tokenizer;
    int32_t *values, count;
    if ((status = imagine__model_tokenizer(model, &tokenizer, cancel, error)) < 0)
        return status;
    if ((status = clean_ids(context, tokenizer, cancel, prompt, max_length, &values, &count, error)) >= 0) {
        status = ids_buffer(context, values, count, ids, error);
        imagine__free(context, values);
    }
    imagine__model_put(model, tokenizer);
    return status;
}

static imagine_status check_ids(const imagine_text *text, const int32_t *ids, int32_t count, imagine_error *error)
{
    int32_t rows = imagine__umt5_vocabulary(text->umt5);
    for (int32_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= rows)
            return imagine__fail(error, IMAGINE_ERROR_MODEL,
                                 "tokenizer/tokenizer.json gives token %d, but the text encoder knows %d only", ids[i],
                                 rows);
    return IMAGINE_OK;
}

static imagine_status forward(imagine_text *text, const int32_t *ids, int32_t count, imagine_buffer **embeds,
                              imagine_error *error)
{
    int64_t shape[] = { count, imagine__umt5_dim(text->umt5) };
    imagine_status status = imagine__buffer_new(embeds, text->context, IMAGINE_F32, 2, shape, error);
    if (status < 0)
        return status;
    imagine__arena_mark mark = imagine__arena_save(text->work.arena);
    float *values = imagine__buffer_begin(&text->work, *embeds);
    status = values ? imagine__umt5_forward(text->umt5, &text->work, ids, count, values, error)
                    : imagine__fail_memory_in(text->context, error, (size_t)imagine_buffer_size(*embeds), "the text's embeddings");
    if (status >= 0) {
        int finite = text->work.run.kernels->finite(&text->work.run, values, shape[0] * shape[1]);
        imagine__buffer_end(&text->work, *embeds, values);
        status = imagine__work_check(&text->work, error);
        if (status >= 0 && !finite)
            status = imagine__fail_not_finite(text->model, "text_encoder", text->cancel, error,
                                              "the text encoder's hidden states hold a NaN or an infinity");
    }
    imagine__arena_restore(text->work.arena, mark);
    if (status < 0)
        imagine_buffer_release(embeds);
    return status;
}

/* Says so where the model sees only a part of a prompt: what nobody reads is missed in the pictures, and hard to find. */
static void warn_if_cut(imagine_text *text, const char *prompt, int32_t count)
{
    int32_t *values, all;
    if (count < imagine__model_defaults(text->model)->text_length || imagine__planning(text->context) ||
        clean_ids(text->context, text->tokenizer, text->cancel, prompt, 0, &values, &all, NULL) < 0)
        return;
    if (all > count)
        imagine__log(text->context, IMAGINE_LOG_WARNING, "a prompt of %d tokens: the model takes %d, and the rest is cut off", all,
                     count);
    imagine__free(text->context, values);
}

imagine_status imagine_text_encode(imagine_text *text, const char *prompt, imagine_buffer **ids,
                                   imagine_buffer **embeds, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(text));
    int32_t *values = NULL, count = 0;
    if (ids)
        *ids = NULL;
    imagine_status status = imagine__need(embeds, "embeds", error);
    if (status < 0)
        return status;
    *embeds = NULL;
    if ((status = imagine__need(text, "text", error)) < 0 || (status = imagine__need(prompt, "prompt", error)) < 0 ||
        (status = imagine__check_process(text->context, error)) < 0)
        return status;
    status = make_ids(text, prompt, imagine__model_defaults(text->model)->text_length, &values, &count, error);
    if (status < 0)
        return status;
    if ((status = check_ids(text, values, count, error)) < 0 ||
        (status = forward(text, values, count, embeds, error)) < 0)
        goto done;
    warn_if_cut(text, prompt, count);
    if (ids && (status = ids_buffer(text->context, values, count, ids, error)) < 0)
        imagine_buffer_release(embeds);
done:
    imagine__free(text->context, values);
    return imagine__device_cause(text->context, status, error);
}
