/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TEXT_READER_H
#define IMAGINE_TEXT_READER_H

/* Reading tokenizer.json: where the reader stands, and the small steps that its parts are read with. A part's function
 * is called with the first token of its value current, and leaves the last one current. */

#include <string.h>

#include "model/model.h"
#include "text/pieces.h"

typedef struct reader {
    imagine__json json;
    imagine__tokenizer *t;
    imagine_context *context;
    const char *path;
    const imagine_cancel *cancel;
    imagine_error *error;
    imagine__text pool; /* the pieces' text, one after the other */
    size_t *offset; /* [pieces + 1] */
    int32_t capacity, added_capacity;
    size_t pool_capacity; /* of the tokenizer's added_pool */
    int64_t unknown; /* -1: null or missing */
    int64_t *added_ids; /* as the file gives them */
    int32_t step_capacity, splitter_capacity;
} reader;

static inline imagine_status bad(reader *r, const char *field, const char *what)
{
    int32_t line = imagine__json_line(&r->json);
    if (r->json.kind == IMAGINE__JSON_ERROR)
        return imagine__fail(r->error, IMAGINE_ERROR_FORMAT, "%s: line %d: %s", r->path, line,
                             r->json.error ? r->json.error : "not JSON");
    return imagine__fail(r->error, IMAGINE_ERROR_FORMAT, "%s: line %d: \"%s\" %s", r->path, line, field, what);
}

static inline imagine_status going_on(const reader *r)
{
    if (imagine_cancel_fired(r->cancel))
        return imagine__fail(r->error, IMAGINE_ERROR_CANCELLED, "cancelled while the tokenizer was read");
    return IMAGINE_OK;
}

/* For a value that is well-formed but beyond this library. */
static inline imagine_status unsupported(reader *r, const char *field)
{
    char value[64];
    size_t n = r->json.end > r->json.begin ? r->json.end - r->json.begin : 0;
    n = n < sizeof value ? n : sizeof value - 1;
    while (n && r->json.begin + n < r->json.size && ((uint8_t)r->json.text[r->json.begin + n] & 0xC0) == 0x80)
        n--;
    memcpy(value, r->json.text + r->json.begin, n);
    value[n] = 0;
    return imagine__fail(r->error, IMAGINE_ERROR_UNSUPPORTED,
                         "%s: line %d: \"%s\" is %s, which this library does not run", r->path,
                         imagine__json_line(&r->json), field, value);
}

static inline imagine_status no_memory(reader *r, size_t size)
{
    return imagine__fail_memory_in(r->context, r->error, size, r->path);
}

/* Moves on from a key to its value, which must be of this kind. */
static inline imagine_status expect(reader *r, imagine__json_kind kind, const char *field, const char *what)
{
    return imagine__json_next(&r->json) == kind ? IMAGINE_OK : bad(r, field, what);
}

static inline imagine_status skip_value(reader *r, const char *field)
{
    return imagine__json_skip(&r->json) ? IMAGINE_OK : bad(r, field, "cannot be read");
}

/* To an object's next key (1), its end (0), or an error. */
static inline int next_key(reader *r, const char *field)
{
    imagine__json_kind kind = imagine__json_next(&r->json);
    if (kind == IMAGINE__JSON_KEY)
        return 1;
    return kind == IMAGINE__JSON_OBJECT_END ? 0 : bad(r, field, "is not an object");
}

static inline int is_key(const reader *r, const char *name)
{
    return imagine__json_is(&r->json, name);
}

/* The string that follows. Ends with a zero, which its size leaves out. */
static inline imagine_status read_string(reader *r, char **out, size_t *size, const char *field)
{
    imagine_status status = expect(r, IMAGINE__JSON_STRING, field, "is not a string");
    if (status < 0)
        return status;
    size_t room = r->json.end - r->json.begin + 1;
    imagine__free(r->context, *out); /* a key that comes twice */
    *out = imagine__alloc(r->context, room);
    if (!*out)
        return no_memory(r, room);
    int64_t length = imagine__json_string(&r->json, *out, room);
    if (length < 0)
        return bad(r, field, "cannot be read");
    *size = (size_t)length;
    return IMAGINE_OK;
}

static inline imagine_status read_bool(reader *r, int8_t *value, const char *field)
{
    imagine__json_kind kind = imagine__json_next(&r->json);
    *value = kind == IMAGINE__JSON_TRUE;
    return *value || kind == IMAGINE__JSON_FALSE ? IMAGINE_OK : bad(r, field, "is not true or false");
}

/* The current token as an id. */
static inline imagine_status current_id(reader *r, int64_t *id, const char *field)
{
    if (r->json.kind == IMAGINE__JSON_NUMBER && imagine__json_int(&r->json, id) && *id >= 0 && *id < INT32_MAX)
        return IMAGINE_OK;
    return bad(r, field, "is not a token id");
}

/* Looks ahead for the "type" of the object that begins here; its text comes into `type`. */
static inline imagine_status look_for_type(reader *r, char *type, size_t size, const char *field)
{
    imagine__json start = r->json;
    int more = 0, found = 0;
    if (r->json.kind != IMAGINE__JSON_OBJECT)
        return bad(r, field, "is not an object");
    while (!found && (more = next_key(r, field)) > 0) {
        found = is_key(r, "type");
        if (!found && !imagine__json_skip(&r->json))
            return bad(r, field, "cannot be read");
    }
    if (more < 0)
        return more;
    if (!found || imagine__json_next(&r->json) != IMAGINE__JSON_STRING)
        return bad(r, field, "has no \"type\"");
    if (imagine__json_string(&r->json, type, size) < 0)
        return unsupported(r, field);
    r->json = start;
    return IMAGINE_OK;
}

/* Room for one more of `count` items; new room is zeroed. */
static inline imagine_status make_room(reader *r, void **items, int32_t count, int32_t *capacity, size_t size)
{
    if (count < *capacity)
        return IMAGINE_OK;
    size_t wanted = (size_t)*capacity * 2 + 16;
    if (wanted > INT32_MAX / 2)
        return imagine__fail(r->error, IMAGINE_ERROR_FORMAT, "%s has too many entries", r->path);
    void *grown = imagine__realloc(r->context, *items, wanted * size);
    if (!grown)
        return no_memory(r, wanted * size);
    memset((char *)grown + (size_t)*capacity * size, 0, (wanted - (size_t)*capacity) * size);
    *items = grown;
    *capacity = (int32_t)wanted;
    return IMAGINE_OK;
}

/* tokenizer_parts.c */
imagine_status imagine__read_normalizer(reader *r);
imagine_status imagine__read_pre_tokenizer(reader *r);
imagine_status imagine__read_post_processor(reader *r);

#endif
