/* SPDX-License-Identifier: MIT */
/* tokenizer.json, as the tokenizers library writes it: https://huggingface.co/docs/tokenizers. What has no bearing on
 * ids (truncation, padding, decoder) is passed over. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "text/reader.h"

#define FILE_LIMIT ((size_t)1 << 30)
#define LONGEST_PIECE 4096 /* bytes, also of added tokens: at every place in a text as many are compared */

/* ---- added_tokens ----------------------------------------------------------------------------------------------- */

static imagine_status read_single_word(reader *r)
{
    int8_t flag = 0;
    imagine_status status = read_bool(r, &flag, "single_word");
    return status == IMAGINE_OK && flag ? unsupported(r, "single_word") : status;
}

static imagine_status bad_length(reader *r, const char *field, int32_t index)
{
    char what[80];
    snprintf(what, sizeof what, "has a member, number %d, of more than %d bytes", index, LONGEST_PIECE);
    return bad(r, field, what);
}

static imagine_status read_added(reader *r)
{
    imagine__tokenizer *t = r->t;
    imagine_status status = going_on(r);
    if (status == IMAGINE_OK)
        status = make_room(r, (void **)&t->added, t->added_count + 1, &r->added_capacity, sizeof *t->added);
    if (status < 0)
        return status;
    imagine__added *added = &t->added[t->added_count];
    imagine__text pool = { r->context, t->added_pool, added->begin, r->pool_capacity, NULL };
    char *content = NULL;
    size_t size = 0;
    int more = 0;
    *added = (imagine__added){ .begin = added->begin, .normalized = 1 }; /* an empty one before it may have left its flags */
    if (r->json.kind != IMAGINE__JSON_OBJECT)
        return bad(r, "added_tokens", "has a member that is not an object");
    while (status == IMAGINE_OK && (more = next_key(r, "added_tokens")) > 0) {
        if (is_key(r, "content"))
            status = read_string(r, &content, &size, "content");
        else if (is_key(r, "lstrip"))
            status = read_bool(r, &added->lstrip, "lstrip");
        else if (is_key(r, "rstrip"))
            status = read_bool(r, &added->rstrip, "rstrip");
        else if (is_key(r, "normalized"))
            status = read_bool(r, &added->normalized, "normalized");
        else if (is_key(r, "single_word"))
            status = read_single_word(r);
        else
            status = skip_value(r, "added_tokens");
    }
    if (status == IMAGINE_OK && (more < 0 || !content))
        status = more < 0 ? more : bad(r, "added_tokens", "has a member without \"content\"");
    if (status == IMAGINE_OK && size > LONGEST_PIECE)
        status = bad_length(r, "added_tokens", t->added_count);
    if (status == IMAGINE_OK && size) {
        status = imagine__text_add(&pool, content, size, r->error);
        t->added_pool = pool.bytes;
        r->pool_capacity = pool.capacity;
        t->added_count += status == IMAGINE_OK;
    }
    imagine__free(r->context, content);
    if (status == IMAGINE_OK && size)
        t->added[t->added_count].begin = pool.size;
    return status;
}

static imagine_status read_added_tokens(reader *r)
{
    imagine_status status = IMAGINE_OK;
    if (r->json.kind == IMAGINE__JSON_NULL)
        return IMAGINE_OK;
    if (r->json.kind != IMAGINE__JSON_ARRAY)
        return bad(r, "added_tokens", "is not an array");
    while (status == IMAGINE_OK && imagine__json_next(&r->json) != IMAGINE__JSON_ARRAY_END)
        status = read_added(r);
    return status;
}

/* ---- model ------------------------------------------------------------------------------------------------------ */

/* A number as serde_json reads it: up to 19 or 20 digits as an integer, then one multiplication or division by a power
 * of ten. This may lie a unit in the last place off, and scores that tie have to tie here as well. */
static double read_score(const char *text, size_t size)
{
    uint64_t digits = 0;
    int64_t exponent = 0, given = 0;
    int negative = size && text[0] == '-', full = 0, fraction = 0, sign = 1;
    size_t at = (size_t)negative;
    for (; at < size && (text[at] == '.' || (text[at] >= '0' && text[at] <= '9')); at++) {
        unsigned d = (unsigned)(text[at] - '0');
        if (text[at] == '.') {
            fraction = 1;
        } else if (full || digits > (UINT64_MAX - d) / 10) {
            full = 1;
            exponent += !fraction;
        } else {
            digits = digits * 10 + d;
            exponent -= fraction;
        }
    }
    if (at < size) { /* e */
        at++;
        sign = at < size && text[at] == '-' ? -1 : 1;
        at += at < size && (text[at] == '-' || text[at] == '+');
        for (; at < size; at++)
            given = given < 100000 ? given * 10 + (text[at] - '0') : given;
    }
    exponent += sign * given;
    double value = (double)digits;
    for (; exponent < -308 && value != 0; exponent += 308)
        value /= 1e308;
    char power[8] = "1e000"; /* the C library rounds these correctly */
    int64_t p = exponent < 0 ? -exponent : exponent;
    if (value == 0 || p > 308)
        return value == 0 ? (negative ? -0.0 : 0.0) : (double)INFINITY;
    power[2] = (char)('0' + p / 100);
    power[3] = (char)('0' + p / 10 % 10);
    power[4] = (char)('0' + p % 10);
    value = exponent < 0 ? value / strtod(power, NULL) : value * strtod(power, NULL);
    return negative ? -value : value;
}

/* ["piece", score] */
static imagine_status read_piece(reader *r)
{
    imagine__tokenizer *t = r->t;
    int32_t n = t->pieces;
    if (n + 2 > r->capacity) {
        size_t wanted = (size_t)r->capacity * 2 + 256;
        void *offset = imagine__realloc(r->context, r->offset, wanted * sizeof *r->offset);
        r->offset = offset ? offset : r->offset;
        void *scores = imagine__realloc(r->context, t->scores, wanted * sizeof *t->scores);
        t->scores = scores ? scores : t->scores;
        if (!offset || !scores)
            return no_memory(r, wanted * sizeof *t->scores);
        r->capacity = (int32_t)wanted;
    }
    if (r->json.kind != IMAGINE__JSON_ARRAY || imagine__json_next(&r->json) != IMAGINE__JSON_STRING)
        return bad(r, "vocab", "has a member that is not [\"piece\", score]");
    /* Unescaped right behind the others. */
    size_t room = r->json.end - r->json.begin + 1;
    if (r->pool.capacity - r->pool.size < room) {
        size_t capacity = (r->pool.size + room) * 2 + 4096;
        char *grown = imagine__realloc(r->context, r->pool.bytes, capacity);
        if (!grown)
            return no_memory(r, capacity);
        r->pool.bytes = grown;
        r->pool.capacity = capacity;
    }
    int64_t length = imagine__json_string(&r->json, r->pool.bytes + r->pool.size, room);
    if (length < 0 || imagine__json_next(&r->json) != IMAGINE__JSON_NUMBER)
        return bad(r, "vocab", "has a member that is not [\"piece\", score]");
    if (length > LONGEST_PIECE)
        return bad_length(r, "vocab", n);
    r->offset[n] = r->pool.size;
    t->scores[n] = read_score(r->json.text + r->json.begin, r->json.end - r->json.begin);
    if (!isfinite(t->scores[n]))
        return bad(r, "vocab", "has a score that is not a finite number");
    if (imagine__json_next(&r->json) != IMAGINE__JSON_ARRAY_END)
        return bad(r, "vocab", "has a member that is not [\"piece\", score]");
    r->pool.size += (size_t)length;
    t->pieces++;
    return IMAGINE_OK;
}

static imagine_status read_vocabulary(reader *r)
{
    imagine_status status = expect(r, IMAGINE__JSON_ARRAY, "vocab", "is not an array of [\"piece\", score]");
    if (status == IMAGINE_OK && r->t->pieces)
        return bad(r, "vocab", "stands twice");
    while (status == IMAGINE_OK && imagine__json_next(&r->json) != IMAGINE__JSON_ARRAY_END) {
        if (r->t->pieces >= INT32_MAX / 4)
            return bad(r, "vocab", "has too many members");
        status = going_on(r);
        if (status == IMAGINE_OK)
            status = read_piece(r);
    }
    return status;
}

static imagine_status read_model(reader *r)
{
    imagine_status status = IMAGINE_OK;
    int more = 0, typed = 0;
    int8_t flag = 0;
    if (r->json.kind != IMAGINE__JSON_OBJECT)
        return bad(r, "model", "is not an object");
    while (status == IMAGINE_OK && (more = next_key(r, "model")) > 0) {
        if (is_key(r, "type")) {
            status = expect(r, IMAGINE__JSON_STRING, "model.type", "is not a string");
            if (status == IMAGINE_OK && !is_key(r, "Unigram"))
                return unsupported(r, "model.type");
            typed = 1;
        } else if (is_key(r, "unk_id")) {
            r->unknown = -1;
            if (imagine__json_next(&r->json) != IMAGINE__JSON_NULL)
                status = current_id(r, &r->unknown, "unk_id");
        } else if (is_key(r, "byte_fallback")) {
            status = read_bool(r, &flag, "byte_fallback");
            r->t->byte_fallback = flag;
        } else if (is_key(r, "vocab")) {
            status = read_vocabulary(r);
        } else {
            status = skip_value(r, "model");
        }
    }
    if (status < 0 || more < 0)
        return status < 0 ? status : more;
    if (!typed || r->t->pieces == 0)
        return bad(r, "model", typed ? "has no \"vocab\"" : "has no \"type\"");
    if (r->unknown >= r->t->pieces)
        return bad(r, "unk_id", "is beyond the vocabulary");
    r->t->unknown = (int32_t)r->unknown;
    return IMAGINE_OK;
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

static imagine_status read_version(reader *r)
{
    if (r->json.kind != IMAGINE__JSON_STRING)
        return bad(r, "version", "is not a string");
    return is_key(r, "1.0") ? IMAGINE_OK : unsupported(r, "version");
}

static imagine_status pass_over(reader *r)
{
    return skip_value(r, "truncation, padding or decoder");
}

static imagine_status parse(reader *r)
{
    static const struct {
        const char *name;
        imagine_status (*read)(reader *);
    } parts[] = {
        { "version", read_version },
        { "added_tokens", read_added_tokens },
        { "normalizer", imagine__read_normalizer },
        { "pre_tokenizer", imagine__read_pre_tokenizer },
        { "post_processor", imagine__read_post_processor },
        { "model", read_model },
        { "truncation", pass_over },
        { "padding", pass_over },
        { "decoder", pass_over },
    };
    unsigned seen = 0;
    int more;
    if (imagine__json_next(&r->json) != IMAGINE__JSON_OBJECT)
        return bad(r, "tokenizer", "is not an object");
    while ((more = next_key(r, "tokenizer")) > 0) {
        unsigned i = 0;
        while (i < sizeof parts / sizeof parts[0] && !is_key(r, parts[i].name))
            i++;
        imagine_status status = IMAGINE_OK;
        if (i == sizeof parts / sizeof parts[0]) {
            status = skip_value(r, "tokenizer");
        } else if (seen & 1u << i) {
            status = bad(r, parts[i].name, "stands twice");
        } else {
            seen |= 1u << i;
            imagine__json_next(&r->json);
            status = parts[i].read(r);
        }
        if (status < 0)
            return status;
    }
    if (more < 0)
        return more;
    if (imagine__json_next(&r->json) != IMAGINE__JSON_END)
        return bad(r, "tokenizer", "is followed by more");
    return seen & 1u << 5 ? IMAGINE_OK : bad(r, "model", "is missing");
}

/* A trie of the added tokens that are matched before (normalized 0) or after normalisation. */
static imagine_status build_added(reader *r, imagine__trie *trie, int normalized)
{
    imagine__tokenizer *t = r->t;
    imagine__text pool = { r->context, NULL, 0, 0, r->cancel }, spare = pool;
    size_t *offset = imagine__alloc(r->context, ((size_t)t->added_count + 1) * sizeof *offset);
    imagine_status status = offset ? IMAGINE_OK : no_memory(r, ((size_t)t->added_count + 1) * sizeof *offset);
    for (int32_t i = 0; i < t->added_count && status == IMAGINE_OK; i++) {
        size_t origin = 0, size = t->added[i + 1].begin - t->added[i].begin;
        offset[i] = pool.size;
        if (t->added[i].normalized != normalized || t->added[i].id < 0)
            continue;
        if (normalized)
            status = imagine__normalize(t, t->added_pool + t->added[i].begin, size, &origin, &pool, &spare, r->error);
        else
            status = imagine__text_add(&pool, t->added_pool + t->added[i].begin, size, r->error);
        if (status == IMAGINE_OK && pool.size == offset[i])
            status = imagine__fail(r->error, IMAGINE_ERROR_UNSUPPORTED,
                                   "%s: added token %d is empty once it is normalised", r->path, i);
        if (status == IMAGINE_OK && pool.size - offset[i] > LONGEST_PIECE)
            status = imagine__fail(r->error, IMAGINE_ERROR_UNSUPPORTED, "%s: added token %d has more than %d bytes once it is normalised",
                                   r->path, i, LONGEST_PIECE);
    }
    if (status == IMAGINE_OK) {
        offset[t->added_count] = pool.size;
        status = imagine__trie_build(trie, r->context, pool.bytes, offset, t->added_count, r->cancel, r->error);
    }
    imagine__free(r->context, offset);
    imagine__free(r->context, pool.bytes);
    imagine__free(r->context, spare.bytes);
    return status;
}

/* Added tokens that are pieces have the piece's id, the others follow the vocabulary in their order. One that comes
 * again replaces the earlier one's flags. */
static imagine_status number_added(reader *r)
{
    imagine__tokenizer *t = r->t;
    imagine__trie all = { 0 };
    size_t *offset = imagine__alloc(r->context, ((size_t)t->added_count + 1) * sizeof *offset);
    if (!offset)
        return no_memory(r, ((size_t)t->added_count + 1) * sizeof *offset);
    for (int32_t i = 0; i <= t->added_count; i++)
        offset[i] = t->added_count ? t->added[i].begin : 0;
    imagine_status status = imagine__trie_build(&all, r->context, t->added_pool, offset, t->added_count, r->cancel, r->error);
    t->size = t->pieces;
    /* The trie knows the last of equal ones, which is the one that counts; it takes its number where the first one
     * stood. */
    for (int32_t i = 0; i < t->added_count && status == IMAGINE_OK; i++)
        t->added[i].id = -1;
    for (int32_t i = 0; i < t->added_count && status == IMAGINE_OK; i++) {
        const char *content = t->added_pool + offset[i];
        size_t size = offset[i + 1] - offset[i];
        imagine__added *last = &t->added[imagine__trie_find(&all, content, size)];
        int32_t id = imagine__trie_find(&t->trie, content, size);
        if (last->id < 0)
            last->id = id >= 0 ? id : t->size++;
    }
    imagine__trie_free(&all, r->context);
    imagine__free(r->context, offset);
    return status;
}

static imagine_status check_template(reader *r)
{
    imagine__tokenizer *t = r->t;
    for (int32_t i = 0; i < t->prefix_count + t->suffix_count; i++) {
        int32_t id = i < t->prefix_count ? t->prefix[i] : t->suffix[i - t->prefix_count];
        if (id >= t->size)
            return imagine__fail(r->error, IMAGINE_ERROR_FORMAT,
                                 "%s: post_processor uses token id %d, but there are only %d", r->path, id, t->size);
    }
    return IMAGINE_OK;
}

static imagine_status finish(reader *r)
{
    static const char hex[] = "0123456789ABCDEF";
    imagine__tokenizer *t = r->t;
    r->offset[t->pieces] = r->pool.size;
    imagine_status status = imagine__trie_build(&t->trie, r->context, r->pool.bytes, r->offset, t->pieces, r->cancel, r->error);
    if (status < 0)
        return status;
    double least = t->scores[0];
    for (int32_t i = 0; i < t->pieces; i++)
        least = t->scores[i] < least ? t->scores[i] : least;
    t->unknown_score = least - 10.0;
    for (int i = 0; i < 256; i++) {
        char name[] = { '<', '0', 'x', hex[i >> 4], hex[i & 15], '>' };
        t->bytes[i] = imagine__trie_find(&t->trie, name, sizeof name);
    }
    status = number_added(r);
    if (status == IMAGINE_OK)
        status = check_template(r);
    if (status == IMAGINE_OK)
        status = build_added(r, &t->raw, 0);
    return status == IMAGINE_OK ? build_added(r, &t->normalized, 1) : status;
}

imagine_status imagine__tokenizer_read(imagine__tokenizer *tokenizer, int fd, uint64_t length, const char *path,
                                       const imagine_cancel *cancel, imagine_error *error)
{
    reader r = { .t = tokenizer, .context = tokenizer->context, .path = path, .cancel = cancel, .error = error, .unknown = -1 };
    char *bytes = NULL;
    size_t size = 0;
    r.pool.context = tokenizer->context;
    imagine_status status = imagine__read_opened(tokenizer->context, fd, length, path, FILE_LIMIT, &bytes, &size, error);
    if (status == IMAGINE_OK) {
        imagine__json_init(&r.json, bytes, size);
        status = parse(&r);
    }
    if (status == IMAGINE_OK)
        status = finish(&r);
    imagine__free(tokenizer->context, bytes);
    imagine__free(tokenizer->context, r.pool.bytes);
    imagine__free(tokenizer->context, r.offset);
    return status;
}
