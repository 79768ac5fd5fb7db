/* SPDX-License-Identifier: MIT */
/* tokenizer.json, as the tokenizers library writes it: https://huggingface.co/docs/tokenizers. What the library cannot run is
 * refused by its name; what has no bearing on ids (truncation, padding, decoder) is passed over. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/model.h"
#include "text/pieces.h"
#include "text/unicode.h"

#define FILE_LIMIT ((int64_t)1 << 30)

typedef struct reader {
    imagine__json json;
    imagine__tokenizer *t;
    imagine_context *context;
    const char *path;
    imagine_error *error;
    imagine__text pool; /* the pieces' text, one after the other */
    size_t *offset; /* [pieces + 1] */
    int32_t capacity, added_capacity;
    int64_t unknown; /* -1: null or missing */
    int64_t *added_ids; /* as the file gives them */
    int32_t step_capacity, splitter_capacity;
} reader;

static imagine_status bad(reader *r, const char *field, const char *what)
{
    int32_t line = imagine__json_line(&r->json);
    if (r->json.kind == IMAGINE__JSON_ERROR)
        return imagine__fail(r->error, IMAGINE_ERROR_FORMAT, "%s: line %d: %s", r->path, line,
                             r->json.error ? r->json.error : "not JSON");
    return imagine__fail(r->error, IMAGINE_ERROR_FORMAT, "%s: line %d: \"%s\" %s", r->path, line, field, what);
}

/* For a value that is well-formed but beyond this library. */
static imagine_status unsupported(reader *r, const char *field)
{
    char value[64];
    size_t n = r->json.end > r->json.begin ? r->json.end - r->json.begin : 0;
    n = n < sizeof value ? n : sizeof value - 1;
    while (n && r->json.begin + n < r->json.size && ((uint8_t)r->json.text[r->json.begin + n] & 0xC0) == 0x80)
        n--;
    memcpy(value, r->json.text + r->json.begin, n);
    value[n] = 0;
    return imagine__fail(r->error, IMAGINE_ERROR_UNSUPPORTED, "%s: line %d: \"%s\" is %s, which this library does not run",
                         r->path, imagine__json_line(&r->json), field, value);
}

static imagine_status no_memory(reader *r, size_t size)
{
    return imagine__fail_memory(r->error, size, r->path);
}

/* Moves on from a key to its value, which must be of this kind. */
static imagine_status expect(reader *r, imagine__json_kind kind, const char *field, const char *what)
{
    return imagine__json_next(&r->json) == kind ? IMAGINE_OK : bad(r, field, what);
}

static imagine_status skip_value(reader *r, const char *field)
{
    return imagine__json_skip(&r->json) ? IMAGINE_OK : bad(r, field, "cannot be read");
}

/* To an object's next key (1), its end (0), or an error. */
static int next_key(reader *r, const char *field)
{
    imagine__json_kind kind = imagine__json_next(&r->json);
    if (kind == IMAGINE__JSON_KEY)
        return 1;
    return kind == IMAGINE__JSON_OBJECT_END ? 0 : bad(r, field, "is not an object");
}

static int is_key(const reader *r, const char *name)
{
    return imagine__json_is(&r->json, name);
}

/* The string that follows. Ends with a zero, which its size leaves out. */
static imagine_status read_string(reader *r, char **out, size_t *size, const char *field)
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

static imagine_status read_bool(reader *r, int8_t *value, const char *field)
{
    imagine__json_kind kind = imagine__json_next(&r->json);
    *value = kind == IMAGINE__JSON_TRUE;
    return *value || kind == IMAGINE__JSON_FALSE ? IMAGINE_OK : bad(r, field, "is not true or false");
}

/* The current token as an id. */
static imagine_status current_id(reader *r, int64_t *id, const char *field)
{
    if (r->json.kind == IMAGINE__JSON_NUMBER && imagine__json_int(&r->json, id) && *id >= 0 && *id < INT32_MAX)
        return IMAGINE_OK;
    return bad(r, field, "is not a token id");
}

/* Looks ahead for the "type" of the object that begins here; its text comes into `type`. */
static imagine_status look_for_type(reader *r, char *type, size_t size, const char *field)
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
static imagine_status make_room(reader *r, void **items, int32_t count, int32_t *capacity, size_t size)
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

/* ---- normalizer ------------------------------------------------------------------------------------------------- */

static imagine_status read_charsmap(reader *r, imagine__step *step)
{
    const char *what = "cannot be read";
    if (imagine__json_next(&r->json) != IMAGINE__JSON_STRING)
        return bad(r, "precompiled_charsmap", "is not a string");
    if (step->map.units)
        return bad(r, "precompiled_charsmap", "stands twice");
    int ok = imagine__charsmap_read(&step->map, r->context, r->json.text + r->json.begin, r->json.end - r->json.begin, &what);
    return ok > 0 ? IMAGINE_OK : ok == 0 ? bad(r, "precompiled_charsmap", what) : no_memory(r, r->json.end - r->json.begin);
}

static int quantifier(const char *text, size_t size, size_t *least, size_t *most)
{
    size_t at = 1, value[2] = { 0, 0 };
    int comma = 0, digits = 0;
    if (size == 1 && text[0] == '+') {
        *least = 1;
        *most = 0;
        return 1;
    }
    if (size < 3 || text[0] != '{' || text[size - 1] != '}')
        return 0;
    for (; at + 1 < size; at++) {
        if (text[at] == ',' && !comma && digits) {
            comma = 1;
            digits = 0;
        } else if (text[at] >= '0' && text[at] <= '9' && digits < 6) {
            value[comma] = value[comma] * 10 + (size_t)(text[at] - '0');
            digits++;
        } else {
            return 0;
        }
    }
    *least = value[0];
    *most = comma ? value[1] : value[0];
    return *least >= 1 && (digits ? *most >= *least : comma);
}

/* The regular expressions that are run: plain text, and one plain character with + {m} {m,} or {m,n}. */
static int simple_regex(imagine__step *step)
{
    static const char special[] = "\\^$.|?*+()[]{}";
    char *p = step->pattern;
    size_t n = step->pattern_size, one = n ? imagine__utf8_length(p[0]) : 0, plain = 0;
    if (n == 0 || memchr(p, 0, n))
        return 0;
    while (plain < n && !strchr(special, p[plain]))
        plain++;
    step->least = step->most = 1;
    if (plain == n)
        return 1;
    step->pattern_size = one;
    return plain == one && quantifier(p + one, n - one, &step->least, &step->most);
}

static imagine_status read_pattern(reader *r, imagine__step *step)
{
    imagine_status status = expect(r, IMAGINE__JSON_OBJECT, "pattern", "is not an object");
    int regex = 0, count = 0, more = 0;
    while (status == IMAGINE_OK && (more = next_key(r, "pattern")) > 0) {
        regex = is_key(r, "Regex");
        if ((!regex && !is_key(r, "String")) || ++count > 1)
            return bad(r, "pattern", "is neither {\"String\"} nor {\"Regex\"}");
        status = read_string(r, &step->pattern, &step->pattern_size, "pattern");
        if (status == IMAGINE_OK && step->pattern_size == 0)
            return bad(r, "pattern", "is empty");
        if (status == IMAGINE_OK && regex && !simple_regex(step))
            return unsupported(r, "pattern");
    }
    if (status < 0 || more < 0)
        return status < 0 ? status : more;
    if (!regex)
        step->least = step->most = 1;
    return count ? IMAGINE_OK : bad(r, "pattern", "is empty");
}

static imagine_status read_step(reader *r, imagine__step *step, const char *type)
{
    imagine_status status = IMAGINE_OK;
    int more = 0;
    int8_t flag;
    step->left = step->right = 1;
    while (status == IMAGINE_OK && (more = next_key(r, "normalizer")) > 0) {
        if (is_key(r, "precompiled_charsmap") && step->kind == IMAGINE__STEP_CHARSMAP) {
            status = read_charsmap(r, step);
        } else if (is_key(r, "strip_left") && step->kind == IMAGINE__STEP_STRIP) {
            status = read_bool(r, &flag, "strip_left");
            step->left = flag;
        } else if (is_key(r, "strip_right") && step->kind == IMAGINE__STEP_STRIP) {
            status = read_bool(r, &flag, "strip_right");
            step->right = flag;
        } else if (is_key(r, "pattern") && step->kind == IMAGINE__STEP_REPLACE) {
            status = read_pattern(r, step);
        } else if (is_key(r, "content") && step->kind == IMAGINE__STEP_REPLACE) {
            status = read_string(r, &step->content, &step->content_size, "content");
        } else if (is_key(r, "prepend") && step->kind == IMAGINE__STEP_PREPEND) {
            status = read_string(r, &step->content, &step->content_size, "prepend");
        } else {
            status = skip_value(r, "normalizer");
        }
    }
    if (status < 0 || more < 0)
        return status < 0 ? status : more;
    if ((step->kind == IMAGINE__STEP_CHARSMAP && !step->map.units) || (step->kind == IMAGINE__STEP_PREPEND && !step->content) ||
        (step->kind == IMAGINE__STEP_REPLACE && (!step->pattern || !step->content)))
        return bad(r, type, "lacks a field");
    return IMAGINE_OK;
}

/* Calls `read` for each element of the array `list` in the object that begins here. */
static imagine_status read_list(reader *r, const char *list, imagine_status (*read)(reader *))
{
    int more, found = 0;
    while ((more = next_key(r, list)) > 0) {
        imagine_status status = IMAGINE_OK;
        if (!is_key(r, list)) {
            status = skip_value(r, list);
        } else if (found++) {
            status = bad(r, list, "stands twice");
        } else {
            status = expect(r, IMAGINE__JSON_ARRAY, list, "is not an array");
            while (status == IMAGINE_OK && imagine__json_next(&r->json) != IMAGINE__JSON_ARRAY_END)
                status = read(r);
        }
        if (status < 0)
            return status;
    }
    return more < 0 ? more : found ? IMAGINE_OK : bad(r, list, "is missing");
}

/* The current token begins a normalizer, or is null. The depth of JSON limits how far this nests. */
static imagine_status read_normalizer(reader *r)
{
    static const char *const names[] = { "Precompiled", "Strip", "Replace", "Prepend" }; /* by imagine__step_kind */
    char type[32];
    if (r->json.kind == IMAGINE__JSON_NULL)
        return IMAGINE_OK;
    imagine_status status = look_for_type(r, type, sizeof type, "normalizer");
    if (status < 0)
        return status;
    if (strcmp(type, "Sequence") == 0)
        return read_list(r, "normalizers", read_normalizer);
    for (int i = 0; i < 4; i++) {
        if (strcmp(type, names[i]) != 0)
            continue;
        status = make_room(r, (void **)&r->t->steps, r->t->step_count, &r->step_capacity, sizeof *r->t->steps);
        if (status < 0)
            return status;
        imagine__step *step = &r->t->steps[r->t->step_count++];
        step->kind = (imagine__step_kind)i;
        return read_step(r, step, type);
    }
    return imagine__fail(r->error, IMAGINE_ERROR_UNSUPPORTED,
                         "%s: line %d: normalizer \"%s\" is not one that this library runs (Precompiled, Strip, Replace, "
                         "Prepend, Sequence)", r->path, imagine__json_line(&r->json), type);
}

/* ---- pre_tokenizer ---------------------------------------------------------------------------------------------- */

static imagine_status read_mark(reader *r, imagine__splitter *s)
{
    char *text = NULL;
    size_t size = 0;
    imagine_status status = read_string(r, &text, &size, "replacement");
    if (status == IMAGINE_OK && (size == 0 || size > 4 || imagine__utf8_length(text[0]) != size)) {
        status = bad(r, "replacement", "is not one character");
    } else if (status == IMAGINE_OK) {
        memcpy(s->mark, text, size);
        s->mark_size = (uint32_t)size;
    }
    imagine__free(r->context, text);
    return status;
}

static imagine_status read_scheme(reader *r, imagine__splitter *s, int *given)
{
    if (imagine__json_next(&r->json) != IMAGINE__JSON_STRING)
        return bad(r, "prepend_scheme", "is not a string");
    *given = 1;
    if (is_key(r, "always"))
        s->prepend = IMAGINE__PREPEND_ALWAYS;
    else if (is_key(r, "first"))
        s->prepend = IMAGINE__PREPEND_FIRST;
    else if (is_key(r, "never"))
        s->prepend = IMAGINE__PREPEND_NEVER;
    else
        return unsupported(r, "prepend_scheme");
    return IMAGINE_OK;
}

static imagine_status read_metaspace(reader *r, imagine__splitter *s)
{
    imagine_status status = IMAGINE_OK;
    int more = 0, scheme = 0, never = 0;
    s->split = 1;
    while (status == IMAGINE_OK && (more = next_key(r, "pre_tokenizer")) > 0) {
        if (is_key(r, "replacement")) {
            status = read_mark(r, s);
        } else if (is_key(r, "prepend_scheme")) {
            status = read_scheme(r, s, &scheme);
        } else if (is_key(r, "split") || is_key(r, "add_prefix_space")) {
            int split = is_key(r, "split");
            imagine__json_kind kind = imagine__json_next(&r->json);
            if (kind != IMAGINE__JSON_TRUE && kind != IMAGINE__JSON_FALSE && kind != IMAGINE__JSON_NULL)
                status = bad(r, split ? "split" : "add_prefix_space", "is not true or false");
            else if (split)
                s->split = kind != IMAGINE__JSON_FALSE;
            else
                never = kind == IMAGINE__JSON_FALSE;
        } else {
            status = skip_value(r, "pre_tokenizer");
        }
    }
    if (status < 0 || more < 0)
        return status < 0 ? status : more;
    if (s->mark_size == 0)
        return bad(r, "Metaspace", "has no \"replacement\"");
    if (never && scheme && s->prepend != IMAGINE__PREPEND_NEVER)
        return bad(r, "add_prefix_space", "contradicts \"prepend_scheme\"");
    if (never)
        s->prepend = IMAGINE__PREPEND_NEVER;
    return IMAGINE_OK;
}

static imagine_status read_pre_tokenizer(reader *r)
{
    char type[32];
    if (r->json.kind == IMAGINE__JSON_NULL)
        return IMAGINE_OK;
    imagine_status status = look_for_type(r, type, sizeof type, "pre_tokenizer");
    if (status < 0)
        return status;
    if (strcmp(type, "Sequence") == 0)
        return read_list(r, "pretokenizers", read_pre_tokenizer);
    int metaspace = strcmp(type, "Metaspace") == 0;
    if (!metaspace && strcmp(type, "WhitespaceSplit") != 0)
        return imagine__fail(r->error, IMAGINE_ERROR_UNSUPPORTED,
                             "%s: line %d: pre_tokenizer \"%s\" is not one that this library runs (Metaspace, WhitespaceSplit, "
                             "Sequence)", r->path, imagine__json_line(&r->json), type);
    status = make_room(r, (void **)&r->t->splitters, r->t->splitter_count, &r->splitter_capacity, sizeof *r->t->splitters);
    if (status < 0)
        return status;
    imagine__splitter *s = &r->t->splitters[r->t->splitter_count++];
    s->kind = metaspace ? IMAGINE__SPLIT_METASPACE : IMAGINE__SPLIT_SPACES;
    return metaspace ? read_metaspace(r, s) : skip_value(r, "pre_tokenizer");
}

/* ---- post_processor --------------------------------------------------------------------------------------------- */

/* The ids of special token `name`, from the template's "special_tokens" at `at`, added to *ids. */
static imagine_status add_special(reader *r, const imagine__json *at, const char *name, int32_t **ids, int32_t *count)
{
    imagine__json back = r->json;
    imagine_status status = IMAGINE_OK;
    int found = 0, more = 0;
    int64_t id = 0;
    r->json = *at;
    if (r->json.kind != IMAGINE__JSON_OBJECT)
        return bad(r, "special_tokens", "is not an object");
    while (!found && status == IMAGINE_OK && (more = next_key(r, "special_tokens")) > 0) {
        found = is_key(r, name);
        status = found ? IMAGINE_OK : skip_value(r, "special_tokens");
    }
    if (status < 0 || more <= 0)
        return status < 0 ? status : more < 0 ? more : bad(r, "special_tokens", "lacks one that \"single\" uses");
    status = expect(r, IMAGINE__JSON_OBJECT, "special_tokens", "has a member that is not an object");
    while (status == IMAGINE_OK && (more = next_key(r, "special_tokens")) > 0) {
        if (!is_key(r, "ids")) {
            status = skip_value(r, "special_tokens");
            continue;
        }
        status = expect(r, IMAGINE__JSON_ARRAY, "ids", "is not an array");
        while (status == IMAGINE_OK && imagine__json_next(&r->json) != IMAGINE__JSON_ARRAY_END) {
            status = current_id(r, &id, "ids");
            int32_t *grown = status < 0 ? NULL : imagine__realloc(r->context, *ids, ((size_t)*count + 1) * sizeof **ids);
            if (status == IMAGINE_OK && !grown)
                status = no_memory(r, ((size_t)*count + 1) * sizeof **ids);
            if (status < 0)
                break;
            *ids = grown;
            (*ids)[(*count)++] = (int32_t)id;
            if (*count > 1024)
                status = bad(r, "ids", "has more than 1024 entries");
        }
    }
    r->json = status < 0 || more < 0 ? r->json : back;
    return status < 0 ? status : more;
}

/* One element of "single": {"Sequence": {"id": "A", ...}} or {"SpecialToken": {"id": "</s>", ...}}. */
static imagine_status read_template_piece(reader *r, const imagine__json *specials, int *sequences)
{
    char *id = NULL;
    size_t size = 0;
    int more = 0;
    if (r->json.kind != IMAGINE__JSON_OBJECT || next_key(r, "single") != 1)
        return bad(r, "single", "has a member that is not an object of one key");
    int sequence = is_key(r, "Sequence");
    if (!sequence && !is_key(r, "SpecialToken"))
        return unsupported(r, "single");
    imagine_status status = expect(r, IMAGINE__JSON_OBJECT, "single", "has a member that is not an object");
    while (status == IMAGINE_OK && (more = next_key(r, "single")) > 0)
        status = is_key(r, "id") ? read_string(r, &id, &size, "id") : skip_value(r, "single");
    if (status == IMAGINE_OK && (more < 0 || !id))
        status = more < 0 ? more : bad(r, "single", "has a member without \"id\"");
    else if (status == IMAGINE_OK && sequence && (strcmp(id, "A") != 0 || (*sequences)++))
        status = bad(r, "single", "does not hold sequence A once");
    else if (status == IMAGINE_OK && !sequence && *sequences)
        status = add_special(r, specials, id, &r->t->suffix, &r->t->suffix_count);
    else if (status == IMAGINE_OK && !sequence)
        status = add_special(r, specials, id, &r->t->prefix, &r->t->prefix_count);
    imagine__free(r->context, id);
    if (status < 0)
        return status;
    more = next_key(r, "single");
    return more < 0 ? more : more ? bad(r, "single", "has a member with more than one key") : IMAGINE_OK;
}

static imagine_status read_template(reader *r)
{
    imagine__json start = r->json, specials = { 0 }, single = { 0 };
    imagine_status status = IMAGINE_OK;
    int more = 0, sequences = 0;
    while (status == IMAGINE_OK && (more = next_key(r, "post_processor")) > 0) {
        imagine__json *value = is_key(r, "single") ? &single : is_key(r, "special_tokens") ? &specials : NULL;
        if (value) {
            imagine__json key = r->json;
            imagine__json_next(&r->json);
            *value = r->json;
            r->json = key;
        }
        status = skip_value(r, "post_processor");
    }
    if (status < 0 || more < 0)
        return status < 0 ? status : more;
    imagine__json end = r->json;
    if (!specials.text || !single.text || single.kind != IMAGINE__JSON_ARRAY || r->t->prefix || r->t->suffix) {
        r->json = start;
        return bad(r, "post_processor", "is not a template with \"single\" and \"special_tokens\"");
    }
    r->json = single;
    while (status == IMAGINE_OK && imagine__json_next(&r->json) != IMAGINE__JSON_ARRAY_END)
        status = read_template_piece(r, &specials, &sequences);
    if (status == IMAGINE_OK && sequences != 1)
        status = bad(r, "single", "does not hold sequence A once");
    if (status == IMAGINE_OK)
        r->json = end;
    return status;
}

static imagine_status read_post_processor(reader *r)
{
    char type[32];
    if (r->json.kind == IMAGINE__JSON_NULL)
        return IMAGINE_OK;
    imagine_status status = look_for_type(r, type, sizeof type, "post_processor");
    if (status < 0)
        return status;
    if (strcmp(type, "Sequence") == 0)
        return read_list(r, "processors", read_post_processor);
    if (strcmp(type, "TemplateProcessing") != 0)
        return imagine__fail(r->error, IMAGINE_ERROR_UNSUPPORTED,
                             "%s: line %d: post_processor \"%s\" is not one that this library runs (TemplateProcessing)", r->path,
                             imagine__json_line(&r->json), type);
    return read_template(r);
}

/* ---- added_tokens ----------------------------------------------------------------------------------------------- */

static imagine_status read_added(reader *r)
{
    imagine__tokenizer *t = r->t;
    imagine_status status = make_room(r, (void **)&t->added, t->added_count + 1, &r->added_capacity, sizeof *t->added);
    if (status < 0)
        return status;
    imagine__added *added = &t->added[t->added_count];
    imagine__text pool = { r->context, t->added_pool, added->begin, added->begin };
    char *content = NULL;
    size_t size = 0;
    int8_t flag = 0;
    int more = 0;
    added->normalized = 1;
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
            status = (status = read_bool(r, &flag, "single_word")) == IMAGINE_OK && flag ? unsupported(r, "single_word") : status;
        else
            status = skip_value(r, "added_tokens");
    }
    if (status == IMAGINE_OK && (more < 0 || !content))
        status = more < 0 ? more : bad(r, "added_tokens", "has a member without \"content\"");
    if (status == IMAGINE_OK && size) {
        status = imagine__text_add(&pool, content, size, r->error);
        t->added_pool = pool.bytes;
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

/* A number as serde_json reads it: up to 19 or 20 digits as an integer, then one multiplication or division by a power of ten.
 * This may lie a unit in the last place off, and scores that tie have to tie here as well. */
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
    } parts[] = { { "version", read_version }, { "added_tokens", read_added_tokens }, { "normalizer", read_normalizer },
                  { "pre_tokenizer", read_pre_tokenizer }, { "post_processor", read_post_processor }, { "model", read_model },
                  { "truncation", pass_over }, { "padding", pass_over }, { "decoder", pass_over } };
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
    imagine__text pool = { r->context, NULL, 0, 0 }, spare = pool;
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
            status = imagine__fail(r->error, IMAGINE_ERROR_UNSUPPORTED, "%s: added token %d is empty once it is normalised",
                                   r->path, i);
    }
    if (status == IMAGINE_OK) {
        offset[t->added_count] = pool.size;
        status = imagine__trie_build(trie, r->context, pool.bytes, offset, t->added_count, r->error);
    }
    imagine__free(r->context, offset);
    imagine__free(r->context, pool.bytes);
    imagine__free(r->context, spare.bytes);
    return status;
}

/* Added tokens that are pieces have the piece's id, the others follow the vocabulary in their order. One that comes again
 * replaces the earlier one's flags. */
static imagine_status number_added(reader *r)
{
    imagine__tokenizer *t = r->t;
    imagine__trie all = { 0 };
    size_t *offset = imagine__alloc(r->context, ((size_t)t->added_count + 1) * sizeof *offset);
    if (!offset)
        return no_memory(r, ((size_t)t->added_count + 1) * sizeof *offset);
    for (int32_t i = 0; i <= t->added_count; i++)
        offset[i] = t->added_count ? t->added[i].begin : 0;
    imagine_status status = imagine__trie_build(&all, r->context, t->added_pool, offset, t->added_count, r->error);
    t->size = t->pieces;
    /* The trie knows the last of equal ones, which is the one that counts; it takes its number where the first one stood. */
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
            return imagine__fail(r->error, IMAGINE_ERROR_FORMAT, "%s: post_processor uses token id %d, but there are only %d",
                                 r->path, id, t->size);
    }
    return IMAGINE_OK;
}

static imagine_status finish(reader *r)
{
    static const char hex[] = "0123456789ABCDEF";
    imagine__tokenizer *t = r->t;
    r->offset[t->pieces] = r->pool.size;
    imagine_status status = imagine__trie_build(&t->trie, r->context, r->pool.bytes, r->offset, t->pieces, r->error);
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

/* The file's bytes, to be freed. */
static imagine_status read_file(reader *r, char **bytes, size_t *size)
{
    struct stat info;
    size_t done = 0;
    int file = open(r->path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return imagine__fail_errno(r->error, errno == ENOENT ? IMAGINE_ERROR_NOT_FOUND : IMAGINE_ERROR_IO, errno,
                                   "%s cannot be opened", r->path);
    if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > FILE_LIMIT) {
        close(file);
        return imagine__fail(r->error, IMAGINE_ERROR_IO, "%s is not a file, or larger than 1 GiB", r->path);
    }
    *size = (size_t)info.st_size;
    *bytes = imagine__alloc(r->context, *size + 1);
    imagine_status status = *bytes ? IMAGINE_OK : no_memory(r, *size + 1);
    while (status == IMAGINE_OK && done < *size) {
        ssize_t n = read(file, *bytes + done, *size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            status = imagine__fail_errno(r->error, IMAGINE_ERROR_IO, n < 0 ? errno : 0, "%s cannot be read to its end", r->path);
        done += n > 0 ? (size_t)n : 0;
    }
    close(file);
    return status;
}

imagine_status imagine__tokenizer_read(imagine__tokenizer *tokenizer, const char *path, imagine_error *error)
{
    reader r = { .t = tokenizer, .context = tokenizer->context, .path = path, .error = error, .unknown = -1 };
    char *bytes = NULL;
    size_t size = 0;
    r.pool.context = tokenizer->context;
    imagine_status status = read_file(&r, &bytes, &size);
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
