/* SPDX-License-Identifier: MIT */

/* The sampler's text conditioning. */

#include "sampler/inside.h"

static imagine_status check_text(const imagine_sampler *s, const imagine_buffer *embeds, const char *name,
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
    if (ndim == 3 && shape[0] != s->o.batch)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: %lld rows of text for a batch of %d", name,
                             (long long)shape[0], s->o.batch);
    if (shape[ndim - 1] != s->config->text_dim)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: the width is %lld, the model's is %d", name,
                             (long long)shape[ndim - 1], s->config->text_dim);
    return IMAGINE_OK;
}

/* The text of every clip, padded with zeros or cut to `length`, one after the other. */
static void pad_text(const imagine_sampler *s, const imagine_buffer *embeds, int64_t length, float *out)
{
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(embeds, &ndim);
    int64_t dim = shape[ndim - 1], given = shape[ndim - 2], rows = given < length ? given : length;
    for (int32_t b = 0; b < s->o.batch; b++) {
        const float *from = (const float *)imagine_buffer_data(embeds) + (ndim == 3 ? b * given * dim : 0);
        float *to = out + b * length * dim;
        imagine__copy(s->context, to, 0, from, 0, (size_t)(rows * dim) * sizeof *to, 1);
        imagine__clear(s->context, to + rows * dim, (size_t)((length - rows) * dim) * sizeof *to);
    }
}

static imagine_status make_text(imagine_sampler *s, const imagine_buffer *positive, const imagine_buffer *negative,
                                imagine_error *error)
{
    int32_t length = imagine__model_defaults(s->model)->text_length, batch = s->o.batch;
    int64_t half = (int64_t)batch * length * s->config->text_dim;
    float *rows = imagine__arena_floats(s->work.arena, (s->guided ? 2 : 1) * half);
    if (!rows)
        return imagine__fail_memory(error, (size_t)half * sizeof *rows, "the text conditioning");
    pad_text(s, positive, length, rows);
    if (s->guided)
        pad_text(s, negative, length, rows + half);
    imagine_status status =
        imagine__dit_text_create(&s->text, s->dit, &s->work, rows, s->batched ? 2 * batch : batch, length, error);
    if (status >= 0 && s->guided && !s->batched)
        status = imagine__dit_text_create(&s->negative, s->dit, &s->work, rows + half, batch, length, error);
    return status;
}

imagine_status imagine_sampler_set_text(imagine_sampler *sampler, const imagine_buffer *positive,
                                        const imagine_buffer *negative, imagine_error *error)
{
    imagine_status status = imagine__sampler_usable(sampler, error);
    if (status < 0 || (status = check_text(sampler, positive, "positive", error)) < 0)
        return status;
    if (sampler->guided && !negative)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "negative: NULL, but guidance is %g; give the empty prompt's embeddings or set guidance to 1",
                             sampler->o.guidance);
    if (negative && (status = check_text(sampler, negative, "negative", error)) < 0)
        return status;
    imagine__dit_text_free(sampler->text);
    imagine__dit_text_free(sampler->negative);
    sampler->text = sampler->negative = NULL;
    imagine__arena_mark mark = imagine__arena_save(sampler->work.arena);
    status = make_text(sampler, positive, negative, error);
    imagine__arena_restore(sampler->work.arena, mark);
    if (status < 0) {
        imagine__dit_text_free(sampler->text);
        imagine__dit_text_free(sampler->negative);
        sampler->text = sampler->negative = NULL;
    }
    return status;
}
