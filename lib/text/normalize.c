/* SPDX-License-Identifier: MIT */
/* Normalisers and pre-tokenizers, one after the other over the text as the tokenizers library runs them. */
#include <string.h>

#include "text/pieces.h"
#include "text/unicode.h"

imagine_status imagine__text_add(imagine__text *text, const char *bytes, size_t size, imagine_error *error)
{
    if (imagine_cancel_fired(text->cancel))
        return imagine__fail(error, IMAGINE_ERROR_CANCELLED, "cancelled while the text was cut into tokens");
    if (size > IMAGINE__TEXT_LIMIT - text->size)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "the text grows beyond %zu MiB while it is normalised; shorten it or check the "
                             "tokenizer's normalizer",
                             IMAGINE__TEXT_LIMIT >> 20);
    if (text->capacity - text->size < size || !text->bytes) {
        size_t capacity = (text->size + size) * 2 + 64;
        char *grown = imagine__realloc(text->context, text->bytes, capacity);
        if (!grown)
            return imagine__fail_memory_in(text->context, error, capacity, "the tokenizer's text");
        text->bytes = grown;
        text->capacity = capacity;
    }
    if (size)
        memcpy(text->bytes + text->size, bytes, size);
    text->size += size;
    return IMAGINE_OK;
}

void imagine__spans_free(imagine__spans *spans)
{
    if (!spans->text.context)
        return;
    imagine__free(spans->text.context, spans->text.bytes);
    imagine__free(spans->text.context, spans->items);
}

imagine_status imagine__spans_push(imagine__spans *spans, imagine__span span, imagine_error *error)
{
    if (span.token < 0 && span.size == 0)
        return IMAGINE_OK;
    if (spans->count == spans->capacity) {
        size_t capacity = spans->capacity * 2 + 16;
        imagine__span *grown = imagine__realloc(spans->text.context, spans->items, capacity * sizeof *grown);
        if (!grown)
            return imagine__fail_memory_in(spans->text.context, error, capacity * sizeof *grown, "the tokenizer's text");
        spans->items = grown;
        spans->capacity = capacity;
    }
    spans->items[spans->count++] = span;
    return IMAGINE_OK;
}

/* ---- normalisers ------------------------------------------------------------------------------------------------ */

/* The text that a normaliser reads. `origin`: its first bytes that stem from the input's very beginning; the tokenizers
 * library keeps a source position for every byte, of which only this matters for ids. */
typedef struct source {
    const char *bytes;
    size_t size, origin;
} source;

/* Counts characters of the source that are replaced (`old` of them) by `size` bytes of `new` characters, as the library
 * does it: character by character; more new ones share the source of the last old one, fewer take the rest away. */
typedef struct alignment {
    size_t at; /* in the source */
    size_t origin; /* of the output */
    int open;
} alignment;

static size_t count_characters(const char *text, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < size; i++)
        n += ((uint8_t)text[i] & 0xC0) != 0x80;
    return n;
}

static void align(alignment *a, const source *in, const char *old, size_t old_size, const char *new, size_t new_size)
{
    if (!a->open || (new_size == 0 && a->origin == 0)) /* what is removed before any output moves nothing on */
        return;
    size_t before = count_characters(old, old_size), after = count_characters(new, new_size), n = 0;
    for (size_t i = 0, length; i < new_size && a->open; i += length, n++) {
        length = imagine__utf8_length(new[i]);
        size_t from = n < before ? a->at : a->at ? a->at - 1 : 0;
        a->open = from < in->origin;
        a->origin += a->open ? length : 0;
        if (n < before && a->at < in->size)
            a->at += imagine__utf8_length(in->bytes[a->at]);
    }
    for (; n < before && after < before && a->at < in->size; n++)
        a->at += imagine__utf8_length(in->bytes[a->at]);
}

/* Replacements go by grapheme cluster where that has under 6 bytes, and there the shortest key that it begins with
 * replaces it whole; else by character. */
static imagine_status run_charsmap(const imagine__step *step, const source *in, imagine__text *out, size_t *origin,
                                   imagine_error *error)
{
    alignment a = { 0, 0, in->origin > 0 };
    imagine_status status = IMAGINE_OK;
    for (size_t at = 0, cluster; at < in->size && status == IMAGINE_OK; at += cluster) {
        const char *p = in->bytes + at;
        cluster = imagine__grapheme(p, in->size - at);
        for (size_t done = 0, part; done < cluster && status == IMAGINE_OK; done += part) {
            size_t length = 0;
            part = cluster;
            const char *new = done == 0 && cluster < 6 ? imagine__charsmap_find(&step->map, p, cluster, &length) : NULL;
            if (!new) {
                part = imagine__utf8_length(p[done]);
                new = imagine__charsmap_find(&step->map, p + done, part, &length);
            }
            if (!new) {
                new = p + done;
                length = part;
            }
            align(&a, in, p + done, part, new, length);
            status = imagine__text_add(out, new, length, error);
        }
    }
    *origin = a.origin;
    return status;
}

static imagine_status run_strip(const imagine__step *step, const source *in, imagine__text *out, size_t *origin,
                                imagine_error *error)
{
    size_t begin = 0, end = in->size, length;
    for (; step->left && begin < end; begin += length)
        if (!imagine__is_space(imagine__utf8_decode(in->bytes + begin, end - begin, &length)))
            break;
    while (step->right && end > begin) {
        size_t last = end - 1;
        while (last > begin && ((uint8_t)in->bytes[last] & 0xC0) == 0x80)
            last--;
        if (!imagine__is_space(imagine__utf8_decode(in->bytes + last, end - last, &length)))
            break;
        end = last;
    }
    *origin = in->origin < begin ? 0 : in->origin - begin;
    return imagine__text_add(out, in->bytes + begin, end - begin, error);
}

/* How often the pattern stands in a row here, at most as often as one match takes. A pattern that may repeat is one
 * character, so that no match begins inside a row that is too short. */
static size_t count_matches(const imagine__step *step, const char *text, size_t size)
{
    size_t times = 0;
    for (; (step->most == 0 || times < step->most) && size >= step->pattern_size; times++) {
        if (memcmp(text, step->pattern, step->pattern_size) != 0)
            break;
        text += step->pattern_size;
        size -= step->pattern_size;
    }
    return times;
}

static imagine_status run_replace(const imagine__step *step, const source *in, imagine__text *out, size_t *origin,
                                  imagine_error *error)
{
    size_t plain = 0, aligned = 0, length;
    int open = in->origin > 0;
    imagine_status status = IMAGINE_OK;
    for (size_t at = 0; at < in->size && status == IMAGINE_OK; at += length) {
        size_t times = count_matches(step, in->bytes + at, in->size - at);
        length = times ? times * step->pattern_size : 1;
        if (times < step->least) {
            open = open && at < in->origin;
            aligned += open ? (in->origin - at < length ? in->origin - at : length) : 0;
            continue;
        }
        status = imagine__text_add(out, in->bytes + plain, at - plain, error);
        if (status == IMAGINE_OK)
            status = imagine__text_add(out, step->content, step->content_size, error);
        open = open && at + length - 1 < in->origin; /* the source of the last character that is replaced */
        aligned += open ? step->content_size : 0;
        plain = at + length;
    }
    *origin = aligned;
    return status == IMAGINE_OK ? imagine__text_add(out, in->bytes + plain, in->size - plain, error) : status;
}

static imagine_status run_prepend(const char *content, size_t content_size, const source *in, imagine__text *out,
                                  size_t *origin, imagine_error *error)
{
    *origin = in->origin;
    if (in->size) {
        imagine_status status = imagine__text_add(out, content, content_size, error);
        if (status < 0)
            return status;
        *origin += in->origin ? content_size : 0;
    }
    return imagine__text_add(out, in->bytes, in->size, error);
}

static imagine_status run_step(const imagine__step *step, const source *in, imagine__text *out, size_t *origin,
                               imagine_error *error)
{
    switch (step->kind) {
    case IMAGINE__STEP_CHARSMAP: return run_charsmap(step, in, out, origin, error);
    case IMAGINE__STEP_STRIP: return run_strip(step, in, out, origin, error);
    case IMAGINE__STEP_REPLACE: return run_replace(step, in, out, origin, error);
    case IMAGINE__STEP_PREPEND: return run_prepend(step->content, step->content_size, in, out, origin, error);
    }
    return imagine__fail(error, IMAGINE_ERROR_INTERNAL, "unknown normaliser");
}

imagine_status imagine__normalize(const imagine__tokenizer *tokenizer, const char *bytes, size_t size, size_t *origin,
                                  imagine__text *out, imagine__text *spare, imagine_error *error)
{
    size_t begin = out->size;
    imagine_status status = imagine__text_add(out, bytes, size, error);
    for (int32_t i = 0; i < tokenizer->step_count && status == IMAGINE_OK; i++) {
        spare->size = 0;
        status = imagine__text_add(spare, out->bytes + begin, out->size - begin, error);
        source in = { spare->bytes, spare->size, *origin };
        out->size = begin;
        if (status == IMAGINE_OK)
            status = run_step(&tokenizer->steps[i], &in, out, origin, error);
    }
    return status;
}

/* ---- pre-tokenizers --------------------------------------------------------------------------------------------- */

/* The part of a span from `begin` (in the output text) on. */
static imagine__span part_of(const imagine__span *whole, size_t begin, size_t end)
{
    size_t skipped = begin - whole->begin;
    imagine__span part = { begin, end - begin, whole->origin > skipped ? whole->origin - skipped : 0, -1, 0 };
    return part;
}

/* Spaces become the mark, one is put in front if asked for, and every mark begins a new span. */
static imagine_status metaspace(const imagine__splitter *splitter, const source *in, imagine__spans *out,
                                imagine_error *error)
{
    const imagine__step spaces = { .kind = IMAGINE__STEP_REPLACE, .pattern = (char[]){ ' ' }, .pattern_size = 1,
                                   .content = (char *)(uintptr_t)splitter->mark, .content_size = splitter->mark_size,
                                   .least = 1, .most = 1 };
    int marked = in->size && (in->bytes[0] == ' ' || (in->size >= splitter->mark_size &&
                                                      memcmp(in->bytes, splitter->mark, splitter->mark_size) == 0));
    int first = splitter->prepend == IMAGINE__PREPEND_FIRST && in->origin;
    imagine__span whole = { out->text.size, 0, 0, -1, 0 };
    imagine_status status = IMAGINE_OK;
    if ((first || splitter->prepend == IMAGINE__PREPEND_ALWAYS) && !marked)
        status = imagine__text_add(&out->text, splitter->mark, splitter->mark_size, error);
    size_t front = out->text.size - whole.begin;
    if (status == IMAGINE_OK)
        status = run_replace(&spaces, in, &out->text, &whole.origin, error);
    whole.origin += whole.origin ? front : 0;
    size_t begin = whole.begin, last = splitter->split ? out->text.size : 0;
    for (size_t at = begin; status == IMAGINE_OK && at + splitter->mark_size <= last; at++) {
        if (memcmp(out->text.bytes + at, splitter->mark, splitter->mark_size) == 0 && at > begin) {
            status = imagine__spans_push(out, part_of(&whole, begin, at), error);
            begin = at;
        }
    }
    return status == IMAGINE_OK ? imagine__spans_push(out, part_of(&whole, begin, out->text.size), error) : status;
}

/* The stretches between white space. */
static imagine_status split_spaces(const source *in, imagine__spans *out, imagine_error *error)
{
    imagine__span whole = { out->text.size, in->size, in->origin, -1, 0 };
    imagine_status status = imagine__text_add(&out->text, in->bytes, in->size, error);
    size_t begin = whole.begin, length;
    for (size_t at = begin; at < out->text.size && status == IMAGINE_OK; at += length) {
        if (!imagine__is_space(imagine__utf8_decode(out->text.bytes + at, out->text.size - at, &length)))
            continue;
        status = imagine__spans_push(out, part_of(&whole, begin, at), error);
        begin = at + length;
    }
    return status == IMAGINE_OK ? imagine__spans_push(out, part_of(&whole, begin, out->text.size), error) : status;
}

imagine_status imagine__split(const imagine__splitter *splitter, const imagine__spans *in, imagine__spans *out,
                              imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    out->text.size = out->count = 0;
    for (size_t i = 0; i < in->count && status == IMAGINE_OK; i++) {
        const imagine__span *span = &in->items[i];
        if (span->token >= 0) {
            status = imagine__spans_push(out, *span, error);
            continue;
        }
        source text = { in->text.bytes + span->begin, span->size, span->origin };
        if (splitter->kind == IMAGINE__SPLIT_METASPACE)
            status = metaspace(splitter, &text, out, error);
        else
            status = split_spaces(&text, out, error);
    }
    return status;
}
