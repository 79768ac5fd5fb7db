/* SPDX-License-Identifier: MIT */

/* The sampler's text conditioning. */

#include "sampler/inside.h"

imagine_status imagine__check_embeds(const imagine_buffer *embeds, const char *name, int32_t batch, int32_t text_dim,
                                     imagine_error *error)
{
    imagine_status status = imagine__need(embeds, name, error);
    if (status < 0)
        return status;
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(embeds, &ndim);
    status = ndim == 3 ? imagine__need_tensor(embeds, name, IMAGINE_F32, 3, "[batch, length, text_dim]", error)
                       : imagine__need_tensor(embeds, name, IMAGINE_F32, 2, "[length, text_dim]", error);
    if (status < 0)
        return status;
    if (ndim == 3 && shape[0] != batch)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: %lld rows of text for a batch of %d", name,
                             (long long)shape[0], batch);
    if (shape[ndim - 1] != text_dim)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: the width is %lld, the model's is %d", name,
                             (long long)shape[ndim - 1], text_dim);
    return IMAGINE_OK;
}

static imagine_status check_text(imagine_sampler *s, const imagine_buffer *embeds, const char *name, imagine_error *error)
{
    imagine_status status = imagine__check_embeds(embeds, name, s->o.batch, s->config.text_dim, error);
    return status < 0 ? status : imagine__need_finite(&s->work, embeds, name, error);
}

/* The text of every clip, padded with zeros or cut to `length`, one after the other. */
static void pad_text(imagine_sampler *s, const imagine_buffer *embeds, int64_t length, float *out)
{
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(embeds, &ndim);
    int64_t dim = shape[ndim - 1], given = shape[ndim - 2], rows = given < length ? given : length;
    for (int32_t b = 0; b < s->o.batch; b++) {
        const float *from = (const float *)imagine_buffer_data(embeds) + (ndim == 3 ? b * given * dim : 0);
        float *to = out + b * length * dim;
        imagine__upload(&s->work, to, 0, from, 0, (size_t)(rows * dim) * sizeof *to, 1);
        imagine__clear(&s->work, to + rows * dim, (size_t)((length - rows) * dim) * sizeof *to);
    }
}

static void drop_text(imagine_sampler *s)
{
    imagine__dit_text_free(s->text);
    imagine__dit_text_free(s->negative);
    s->text = s->negative = NULL;
}

/* Keys and values of the rows for the transformer at work. */
static imagine_status make_text(imagine_sampler *s, const float *rows, imagine_error *error)
{
    int32_t length = imagine__model_defaults(s->model)->text_length, batch = s->o.batch;
    int64_t half = (int64_t)batch * length * s->config.text_dim;
    imagine__arena_mark mark = imagine__arena_save(s->work.arena);
    imagine_status status =
        imagine__dit_text_create(&s->text, s->dit, &s->work, rows, s->batched ? 2 * batch : batch, length, error);
    if (status >= 0 && s->guided && !s->batched)
        status = imagine__dit_text_create(&s->negative, s->dit, &s->work, rows + half, batch, length, error);
    imagine__arena_restore(s->work.arena, mark);
    if (status < 0)
        drop_text(s);
    return status;
}

/* The rows that texts are made of: in the arena, or kept where there is another expert to come. */
static imagine_status pad_both(imagine_sampler *s, const imagine_buffer *positive, const imagine_buffer *negative,
                               float **rows, imagine_error *error)
{
    int64_t length = imagine__model_defaults(s->model)->text_length;
    int64_t half = s->o.batch * length * s->config.text_dim, count = (s->guided ? 2 : 1) * half;
    int experts = imagine__model_defaults(s->model)->boundary > 0;
    imagine_status status = IMAGINE_OK;
    if (experts && !s->rows)
        status = imagine__work_zeros(&s->work, &s->rows, (size_t)count, "the text conditioning", error);
    if (status < 0)
        return status;
    *rows = experts ? s->rows : imagine__arena_floats(s->work.arena, count);
    if (!*rows)
        return imagine__fail_memory_in(s->context, error, (size_t)count * sizeof **rows, "the text conditioning");
    pad_text(s, positive, length, *rows);
    if (s->guided)
        pad_text(s, negative, length, *rows + half);
    return IMAGINE_OK;
}

/* Both texts on the host. */
static imagine_status set_text(imagine_sampler *sampler, const imagine_buffer *positive, const imagine_buffer *negative,
                               const char *const names[2], imagine_error *error)
{
    imagine_status status = check_text(sampler, positive, names[0], error);
    if (status < 0)
        return status;
    if (sampler->guided && !negative)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "%s: NULL, but guidance is %g; give the empty prompt's embeddings or set guidance to 1", names[1],
                             sampler->o.guidance);
    if (negative && (status = check_text(sampler, negative, names[1], error)) < 0)
        return status;
    drop_text(sampler);
    imagine__arena_mark mark = imagine__arena_save(sampler->work.arena);
    float *rows;
    status = pad_both(sampler, positive, negative, &rows, error);
    if (status >= 0 && sampler->dit)
        status = make_text(sampler, rows, error);
    imagine__arena_restore(sampler->work.arena, mark);
    if (status < 0) {
        imagine__free(sampler->context, sampler->rows);
        sampler->rows = NULL;
    }
    return status;
}

imagine_status imagine_sampler_set_text(imagine_sampler *sampler, const imagine_buffer *positive,
                                        const imagine_buffer *negative, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(sampler));
    return imagine__sampler_set_text(sampler, positive, negative, (const char *const[]){ "positive", "negative" }, error);
}

imagine_status imagine__sampler_set_text(imagine_sampler *sampler, const imagine_buffer *positive,
                                         const imagine_buffer *negative, const char *const names[2], imagine_error *error)
{
    imagine_buffer *first = NULL, *second = NULL;
    imagine_status status = imagine__sampler_usable(sampler, error);
    if (status >= 0 && positive)
        status = imagine__buffer_on_host(&first, positive, error);
    if (status >= 0 && negative)
        status = imagine__buffer_on_host(&second, negative, error);
    if (status >= 0)
        status = imagine__device_cause(sampler->context, set_text(sampler, first, second, names, error), error);
    imagine_buffer_release(&second);
    imagine_buffer_release(&first);
    return status;
}

/* ---- two experts ------------------------------------------------------------------------------------------------- */

int32_t imagine__sampler_expert(const imagine_sampler *s, double timestep)
{
    double boundary = imagine__model_defaults(s->model)->boundary;
    return boundary > 0 && timestep < boundary * IMAGINE__TRAIN_STEPS;
}

imagine_status imagine__sampler_change(imagine_sampler *s, int32_t expert, imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    if (s->dit && s->expert != expert) {
        drop_text(s);
        imagine__stream_close(s->stream);
        s->stream = NULL;
        imagine__model_put(s->model, s->dit);
        s->dit = NULL;
        if (s->give_back)
            imagine__model_give_back(s->model);
    }
    s->expert = expert;
    if (!s->dit && (status = imagine__model_expert(s->model, expert, s->reading, &s->dit, s->cancel, error)) < 0)
        return status;
    return s->rows && !s->text ? make_text(s, s->rows, error) : status;
}
