/* SPDX-License-Identifier: MIT */
/* The parts of tokenizer.json around the model: normalizer, pre_tokenizer and post_processor. What the library cannot
 * run is refused by its name. */
#include "text/reader.h"
#include "text/unicode.h"

/* ---- normalizer ------------------------------------------------------------------------------------------------- */

static imagine_status read_charsmap(reader *r, imagine__step *step)
{
    const char *what = "cannot be read";
    if (imagine__json_next(&r->json) != IMAGINE__JSON_STRING)
        return bad(r, "precompiled_charsmap", "is not a string");
    if (step->map.units)
        return bad(r, "precompiled_charsmap", "stands twice");
    size_t size = r->json.end - r->json.begin;
    int ok = imagine__charsmap_read(&step->map, r->context, r->json.text + r->json.begin, size, &what);
    return ok > 0 ? IMAGINE_OK : ok == 0 ? bad(r, "precompiled_charsmap", what) : no_memory(r, size);
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
    if ((step->kind == IMAGINE__STEP_CHARSMAP && !step->map.units) ||
        (step->kind == IMAGINE__STEP_PREPEND && !step->content) ||
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
imagine_status imagine__read_normalizer(reader *r)
{
    static const char *const names[] = { "Precompiled", "Strip", "Replace", "Prepend" }; /* by imagine__step_kind */
    char type[32];
    if (r->json.kind == IMAGINE__JSON_NULL)
        return IMAGINE_OK;
    imagine_status status = look_for_type(r, type, sizeof type, "normalizer");
    if (status < 0)
        return status;
    if (strcmp(type, "Sequence") == 0)
        return read_list(r, "normalizers", imagine__read_normalizer);
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
                         "%s: line %d: normalizer \"%s\" is not one that this library runs (Precompiled, Strip, "
                         "Replace, Prepend, Sequence)", r->path, imagine__json_line(&r->json), type);
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

imagine_status imagine__read_pre_tokenizer(reader *r)
{
    char type[32];
    if (r->json.kind == IMAGINE__JSON_NULL)
        return IMAGINE_OK;
    imagine_status status = look_for_type(r, type, sizeof type, "pre_tokenizer");
    if (status < 0)
        return status;
    if (strcmp(type, "Sequence") == 0)
        return read_list(r, "pretokenizers", imagine__read_pre_tokenizer);
    int metaspace = strcmp(type, "Metaspace") == 0;
    if (!metaspace && strcmp(type, "WhitespaceSplit") != 0)
        return imagine__fail(r->error, IMAGINE_ERROR_UNSUPPORTED,
                             "%s: line %d: pre_tokenizer \"%s\" is not one that this library runs (Metaspace, "
                             "WhitespaceSplit, Sequence)", r->path, imagine__json_line(&r->json), type);
    status = make_room(r, (void **)&r->t->splitters, r->t->splitter_count, &r->splitter_capacity,
                       sizeof *r->t->splitters);
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
            size_t size = ((size_t)*count + 1) * sizeof **ids;
            int32_t *grown = status < 0 ? NULL : imagine__realloc(r->context, *ids, size);
            if (status == IMAGINE_OK && !grown)
                status = no_memory(r, size);
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
    imagine_status status = going_on(r);
    if (status < 0)
        return status;
    if (r->json.kind != IMAGINE__JSON_OBJECT || next_key(r, "single") != 1)
        return bad(r, "single", "has a member that is not an object of one key");
    int sequence = is_key(r, "Sequence");
    if (!sequence && !is_key(r, "SpecialToken"))
        return unsupported(r, "single");
    status = expect(r, IMAGINE__JSON_OBJECT, "single", "has a member that is not an object");
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
    int more = 0, sequences = 0, pieces = 0;
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
        status = ++pieces > 1024 ? bad(r, "single", "has more than 1024 members")
                                 : read_template_piece(r, &specials, &sequences);
    if (status == IMAGINE_OK && sequences != 1)
        status = bad(r, "single", "does not hold sequence A once");
    if (status == IMAGINE_OK)
        r->json = end;
    return status;
}

imagine_status imagine__read_post_processor(reader *r)
{
    char type[32];
    if (r->json.kind == IMAGINE__JSON_NULL)
        return IMAGINE_OK;
    imagine_status status = look_for_type(r, type, sizeof type, "post_processor");
    if (status < 0)
        return status;
    if (strcmp(type, "Sequence") == 0)
        return read_list(r, "processors", imagine__read_post_processor);
    if (strcmp(type, "TemplateProcessing") != 0)
        return imagine__fail(r->error, IMAGINE_ERROR_UNSUPPORTED,
                             "%s: line %d: post_processor \"%s\" is not one that this library runs "
                             "(TemplateProcessing)", r->path, imagine__json_line(&r->json), type);
    return read_template(r);
}
