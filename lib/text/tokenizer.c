/* SPDX-License-Identifier: MIT */
/* From text to token ids, in the order of the tokenizers library: added tokens out of the text as it is, normalisers,
 * added tokens out of the normalised text, pre-tokenizers, the unigram model, the post-processor. */
#include <string.h>
#include <unistd.h>

#include "model/model.h"
#include "text/pieces.h"
#include "text/unicode.h"

imagine_status imagine__tokenizer_open(imagine__tokenizer **tokenizer, imagine_context *context, const char *path,
                                       const imagine_cancel *cancel, imagine_error *error)
{
    int fd;
    uint64_t size;
    *tokenizer = NULL;
    imagine_status status = imagine__open_file(path, &fd, &size, error);
    if (status < 0)
        return status;
    status = imagine__tokenizer_open_file(tokenizer, context, fd, size, path, cancel, error);
    close(fd);
    return status;
}

imagine_status imagine__tokenizer_open_file(imagine__tokenizer **tokenizer, imagine_context *context, int fd, uint64_t size,
                                            const char *path, const imagine_cancel *cancel, imagine_error *error)
{
    imagine__tokenizer *t = imagine__calloc(context, 1, sizeof *t);
    *tokenizer = NULL;
    if (!t)
        return imagine__fail_memory_in(context, error, sizeof *t, "the tokenizer");
    t->context = context;
    imagine_status status = imagine__tokenizer_read(t, fd, size, path, cancel, error);
    if (status < 0)
        imagine__tokenizer_close(t);
    else
        *tokenizer = t;
    return status;
}

void imagine__tokenizer_close(imagine__tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    imagine_context *context = tokenizer->context;
    for (int32_t i = 0; i < tokenizer->step_count; i++) {
        imagine__free(context, tokenizer->steps[i].map.units);
        imagine__free(context, tokenizer->steps[i].pattern);
        imagine__free(context, tokenizer->steps[i].content);
    }
    imagine__trie_free(&tokenizer->trie, context);
    imagine__trie_free(&tokenizer->raw, context);
    imagine__trie_free(&tokenizer->normalized, context);
    imagine__free(context, tokenizer->scores);
    imagine__free(context, tokenizer->steps);
    imagine__free(context, tokenizer->splitters);
    imagine__free(context, tokenizer->added);
    imagine__free(context, tokenizer->added_pool);
    imagine__free(context, tokenizer->prefix);
    imagine__free(context, tokenizer->suffix);
    imagine__free(context, tokenizer);
}

int32_t imagine__tokenizer_size(const imagine__tokenizer *tokenizer)
{
    return tokenizer->size;
}

/* ---- added tokens ----------------------------------------------------------------------------------------------- */

/* Bytes of white space before text[at], at most at - least. */
static size_t spaces_before(const char *text, size_t least, size_t at)
{
    size_t begin = at, length;
    while (begin > least) {
        size_t last = begin - 1;
        while (last > least && ((unsigned char)text[last] & 0xC0) == 0x80)
            last--;
        if (!imagine__is_space(imagine__utf8_decode(text + last, begin - last, &length)))
            break;
        begin = last;
    }
    return at - begin;
}

static size_t spaces_after(const char *text, size_t size)
{
    size_t at = 0, length;
    while (at < size && imagine__is_space(imagine__utf8_decode(text + at, size - at, &length)))
        at += length;
    return at;
}

/* Cuts the span at the tokens of this trie: the leftmost, and of those the longest. A token's white space is left to the tokens
 * that stand in it, except that those with lstrip take none that is taken already. */
static imagine_status cut(const imagine__tokenizer *t, const imagine__trie *trie, const char *text, imagine__span whole,
                          imagine__spans *out, imagine_error *error)
{
    size_t end = whole.begin + whole.size, plain = whole.begin, found = whole.begin;
    size_t spaced = whole.begin; /* where the last scan of white space ended: none of it is read twice */
    imagine_status status = IMAGINE_OK;
    for (size_t at = whole.begin; at < end && trie->nodes > 1 && status == IMAGINE_OK; at = found) {
        size_t length = 0;
        if (imagine_cancel_fired(out->text.cancel))
            return imagine__fail(error, IMAGINE_ERROR_CANCELLED, "cancelled while the text was cut into tokens");
        int32_t i = imagine__trie_longest(trie, text + at, end - at, &length);
        found = at + (i < 0 ? 1 : length);
        if (i < 0)
            continue;
        const imagine__added *token = &t->added[i];
        size_t begin = at, stop = at + length;
        if (token->lstrip && begin > plain)
            begin -= spaces_before(text, plain, begin);
        if (token->rstrip && stop >= spaced)
            spaced = stop + spaces_after(text + stop, end - stop);
        if (token->rstrip)
            stop = spaced;
        if (token->lstrip && begin < plain)
            begin = plain;
        if (begin >= stop)
            continue;
        if (plain < begin) {
            size_t skipped = plain - whole.begin;
            imagine__span part = { plain, begin - plain, whole.origin > skipped ? whole.origin - skipped : 0, -1, 0 };
            status = imagine__spans_push(out, part, error);
        }
        imagine__span match = { begin, stop - begin, 0, token->id, 0 };
        if (status == IMAGINE_OK)
            status = imagine__spans_push(out, match, error);
        plain = stop;
    }
    if (status < 0 || plain >= end)
        return status;
    size_t skipped = plain - whole.begin;
    imagine__span rest = { plain, end - plain, whole.origin > skipped ? whole.origin - skipped : 0, -1, 0 };
    return imagine__spans_push(out, rest, error);
}

/* ---- the unigram model ------------------------------------------------------------------------------------------ */

typedef struct node { /* the best way to the place in the text where it stands */
    double score;
    uint32_t from; /* where its last piece begins; NONE: not reached */
    uint32_t next; /* where the piece that follows ends, once the way is known */
    int32_t id, reserved;
} node;
#define NONE UINT32_MAX

typedef struct ids {
    imagine_context *context;
    const imagine_cancel *cancel;
    int32_t *items;
    size_t count, capacity;
    node *nodes;
    size_t node_capacity;
} ids;

static imagine_status add_id(ids *out, int32_t id, imagine_error *error)
{
    if (out->count == out->capacity) {
        size_t capacity = out->capacity * 2 + 64;
        int32_t *grown = imagine__realloc(out->context, out->items, capacity * sizeof *grown);
        if (!grown)
            return imagine__fail_memory_in(out->context, error, capacity * sizeof *grown, "token ids");
        out->items = grown;
        out->capacity = capacity;
    }
    out->items[out->count++] = id;
    return IMAGINE_OK;
}

static void reach(node *to, double score, uint32_t from, int32_t id)
{
    if (to->from == NONE || score > to->score) {
        to->score = score;
        to->from = from;
        to->id = id;
    }
}

/* Asked at every place of a text, which may be millions of bytes long. */
static imagine_status go_on(const imagine_cancel *cancel, size_t at, imagine_error *error)
{
    if (at % 4096 || !imagine_cancel_fired(cancel))
        return IMAGINE_OK;
    return imagine__fail(error, IMAGINE_ERROR_CANCELLED, "cancelled while the text was cut into tokens");
}

/* Finds the best way from 0 to size. */
static imagine_status search(const imagine__tokenizer *t, const char *text, size_t size, const imagine_cancel *cancel,
                             node *nodes, imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    for (size_t i = 0; i <= size && (status = go_on(cancel, i, error)) >= 0; i++)
        nodes[i].from = NONE;
    if (status < 0)
        return status;
    nodes[0].score = 0;
    for (size_t at = 0, length; at < size; at += length) {
        double score = nodes[at].score;
        int single = 0;
        if (imagine_cancel_fired(cancel))
            return imagine__fail(error, IMAGINE_ERROR_CANCELLED, "cancelled while the text was cut into tokens");
        uint32_t v = 0;
        length = imagine__utf8_length(text[at]);
        for (size_t i = at; i < size && (v = imagine__trie_step(&t->trie, v, (uint8_t)text[i])); i++) {
            int32_t id = t->trie.value[v];
            if (id < 0)
                continue;
            reach(&nodes[i + 1], t->scores[id] + score, (uint32_t)at, id);
            single |= i + 1 - at == length;
        }
        if (!single) {
            node *to = &nodes[at + length];
            if (t->unknown < 0 && (to->from == NONE || t->unknown_score + score > to->score))
                return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                                     "the text has a character that the tokenizer does not know, and it has no \"unk_id\"");
            reach(to, t->unknown_score + score, (uint32_t)at, t->unknown);
        }
    }
    return IMAGINE_OK;
}

/* One piece of the best way, or several unknown ones fused: its id, or those of its bytes, or the unknown one. */
static imagine_status add_piece(const imagine__tokenizer *t, const char *text, size_t size, ids *out,
                                imagine_error *error)
{
    int32_t id = imagine__trie_find(&t->trie, text, size);
    int spelled = id < 0 && t->byte_fallback;
    for (size_t i = 0; i < size && spelled; i++)
        spelled = t->bytes[(uint8_t)text[i]] >= 0;
    imagine_status status = IMAGINE_OK;
    for (size_t i = 0; i < size && spelled && status == IMAGINE_OK; i++)
        status = add_id(out, t->bytes[(uint8_t)text[i]], error);
    return spelled ? status : add_id(out, id < 0 ? t->unknown : id, error);
}

static imagine_status add_span(const imagine__tokenizer *t, const char *text, size_t size, ids *out,
                               imagine_error *error)
{
    if (out->node_capacity < size + 1) {
        size_t capacity = (size + 1) * 2;
        imagine__free(out->context, out->nodes);
        out->node_capacity = 0;
        out->nodes = imagine__alloc(out->context, capacity * sizeof *out->nodes);
        if (!out->nodes)
            return imagine__fail_memory_in(out->context, error, capacity * sizeof *out->nodes, "the tokenizer's search");
        out->node_capacity = capacity;
    }
    node *nodes = out->nodes;
    imagine_status status = search(t, text, size, out->cancel, nodes, error);
    if (status < 0)
        return status;
    size_t steps = 0;
    for (size_t at = size; at > 0 && (status = go_on(out->cancel, steps++, error)) == IMAGINE_OK; at = nodes[at].from)
        nodes[nodes[at].from].next = (uint32_t)at;
    for (size_t at = 0, end; at < size && status == IMAGINE_OK; at = end) {
        if ((status = go_on(out->cancel, steps++, error)) < 0)
            break;
        end = nodes[at].next;
        while (t->unknown >= 0 && nodes[end].id == t->unknown && end < size && nodes[nodes[end].next].id == t->unknown)
            end = nodes[end].next; /* unknown characters in a row are one token */
        status = add_piece(t, text + at, end - at, out, error);
    }
    return status;
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

/* Everything up to the model: spans of text that are tokenized each by itself, and added tokens. */
static imagine_status prepare(const imagine__tokenizer *t, const char *text, size_t size, imagine__spans *result,
                              imagine__spans *other, imagine_error *error)
{
    imagine__span whole = { 0, size, size, -1, 0 };
    const imagine_cancel *cancel = result->text.cancel;
    imagine__spans raw = { .text = { t->context, NULL, 0, 0, cancel } };
    imagine__text spare = { t->context, NULL, 0, 0, cancel };
    imagine_status status = cut(t, &t->raw, text, whole, &raw, error);
    /* Each stretch has source positions of its own; only the first one's begin with the input. */
    for (size_t i = 0; i < raw.count && status == IMAGINE_OK; i++) {
        imagine__span span = raw.items[i];
        size_t begin = result->text.size, origin = span.begin == 0 ? imagine__utf8_length(text[0]) : 0;
        if (span.token >= 0) {
            status = imagine__spans_push(result, span, error);
            continue;
        }
        status = imagine__normalize(t, text + span.begin, span.size, &origin, &result->text, &spare, error);
        imagine__span normal = { begin, result->text.size - begin, origin, -1, 0 };
        if (status == IMAGINE_OK)
            status = cut(t, &t->normalized, result->text.bytes, normal, result, error);
    }
    for (int32_t i = 0; i < t->splitter_count && status == IMAGINE_OK; i++) {
        status = imagine__split(&t->splitters[i], result, other, error);
        imagine__spans swap = *result;
        *result = *other;
        *other = swap;
    }
    imagine__spans_free(&raw);
    imagine__free(t->context, spare.bytes);
    return status;
}

static imagine_status tokenize(const imagine__tokenizer *t, const char *text, size_t size, size_t most, ids *out,
                               imagine_error *error)
{
    imagine__spans spans = { .text = { t->context, NULL, 0, 0, out->cancel } }, other = spans;
    imagine_status status = prepare(t, text, size, &spans, &other, error);
    for (size_t i = 0; i < spans.count && status == IMAGINE_OK && out->count < most; i++) {
        const imagine__span *span = &spans.items[i];
        status = span->token >= 0 ? add_id(out, span->token, error)
                                  : add_span(t, spans.text.bytes + span->begin, span->size, out, error);
    }
    imagine__spans_free(&spans);
    imagine__spans_free(&other);
    return status;
}

imagine_status imagine__tokenize(const imagine__tokenizer *tokenizer, const char *text, size_t size, int32_t max_length,
                                 const imagine_cancel *cancel, int32_t **result, int32_t *count, imagine_error *error)
{
    const imagine__tokenizer *t = tokenizer;
    size_t most = SIZE_MAX, bad = imagine__utf8_check(text, size);
    size_t extra = (size_t)t->prefix_count + (size_t)t->suffix_count;
    ids out = { t->context, cancel, NULL, 0, 0, NULL, 0 };
    imagine_status status = IMAGINE_OK;
    *result = NULL;
    *count = 0;
    if (bad < size)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "the text is not UTF-8 from byte %zu", bad);
    if (size > IMAGINE__TEXT_LIMIT)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "the text is longer than %zu MiB",
                             IMAGINE__TEXT_LIMIT >> 20);
    if (max_length < 0 || (max_length > 0 && (size_t)max_length < extra))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "a length of %d leaves no room for the %zu special tokens", max_length, extra);
    for (int32_t i = 0; i < t->prefix_count && status == IMAGINE_OK; i++)
        status = add_id(&out, t->prefix[i], error);
    if (max_length > 0)
        most = (size_t)(max_length - t->suffix_count);
    if (status == IMAGINE_OK)
        status = tokenize(t, text, size, most, &out, error);
    out.count = out.count < most ? out.count : most;
    for (int32_t i = 0; i < t->suffix_count && status == IMAGINE_OK; i++)
        status = add_id(&out, t->suffix[i], error);
    if (status == IMAGINE_OK && out.count == 0 && !out.items)
        status = add_id(&out, 0, error), out.count = 0; /* no ids, yet something to free */
    imagine__free(t->context, out.nodes);
    if (status < 0) {
        imagine__free(t->context, out.items);
        return status;
    }
    *result = out.items;
    *count = (int32_t)out.count;
    return IMAGINE_OK;
}
