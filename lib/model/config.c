/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "model/safetensors.h"

#define LARGEST_CONFIG ((size_t)16 << 20)
#define MOST_KEYS      4096

/* A top-level key with its value's place in the text. */
typedef struct entry {
    char *key;
    char *string; /* a string's value, decoded; else NULL */
    size_t begin, end; /* of the value as JSON text */
    imagine__json_kind kind;
    int known;
} entry;

struct imagine__config {
    char *path, *text, *strings;
    size_t size;
    entry *entries;
    size_t count, capacity;
};

void imagine__config_close(imagine_context *context, imagine__config *config)
{
    if (!config)
        return;
    imagine__free(context, config->path);
    imagine__free(context, config->text);
    imagine__free(context, config->strings);
    imagine__free(context, config->entries);
    imagine__free(context, config);
}

static imagine_status fail_json(const imagine__config *config, const imagine__json *json, imagine_error *error)
{
    return imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: line %d: %s", config->path, imagine__json_line(json),
                         json->error ? json->error : "an object was expected");
}

static imagine_status add_entry(imagine_context *context, imagine__config *config, const entry *one,
                                imagine_error *error)
{
    if (config->count == MOST_KEYS)
        return imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: has more than %d keys", config->path, MOST_KEYS);
    if (config->count == config->capacity) {
        size_t capacity = config->capacity ? 2 * config->capacity : 32;
        entry *entries = imagine__realloc(context, config->entries, capacity * sizeof *entries);
        if (!entries)
            return imagine__fail_memory_in(context, error, capacity * sizeof *entries, config->path);
        config->entries = entries;
        config->capacity = capacity;
    }
    config->entries[config->count++] = *one;
    return IMAGINE_OK;
}

static int by_key(const void *items, size_t a, size_t b)
{
    const entry *entries = items;
    return strcmp(entries[a].key, entries[b].key);
}

/* Sorted, since thousands of long keys that begin alike would take seconds to compare with each other. */
static imagine_status check_twice(imagine_context *context, const imagine__config *config, imagine_error *error)
{
    size_t size = (config->count + 1) * sizeof(uint32_t);
    uint32_t *order = imagine__alloc(context, size);
    if (!order)
        return imagine__fail_memory(error, size, config->path);
    imagine__sort(order, config->count, config->entries, by_key);
    imagine_status status = IMAGINE_OK;
    for (size_t i = 1; i < config->count && status >= 0; i++)
        if (!by_key(config->entries, order[i - 1], order[i]))
            status = imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: \"%s\" stands there twice", config->path,
                                   config->entries[order[i]].key);
    imagine__free(context, order);
    return status;
}

/* The decoded string at *space, which moves behind it; NULL for one with a zero inside. */
static char *take_string(const imagine__json *json, char **space)
{
    char *out = *space;
    int64_t length = imagine__json_string(json, out, json->end - json->begin + 1);
    *space += length + 1;
    return (size_t)length == strlen(out) ? out : NULL;
}

static imagine_status parse(imagine_context *context, imagine__config *config, imagine_error *error)
{
    imagine__json json;
    char *space = config->strings;
    imagine__json_init(&json, config->text, config->size);
    if (imagine__json_next(&json) != IMAGINE__JSON_OBJECT)
        return fail_json(config, &json, error);
    while (imagine__json_next(&json) == IMAGINE__JSON_KEY) {
        entry one = { .key = take_string(&json, &space) };
        one.kind = imagine__json_next(&json);
        one.begin = json.begin;
        if (one.kind == IMAGINE__JSON_STRING) {
            one.string = take_string(&json, &space);
            one.begin--;
        }
        if (!one.key || (one.kind == IMAGINE__JSON_STRING && !one.string))
            return imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: line %d: a string holds a zero", config->path,
                                 imagine__json_line(&json));
        if (!imagine__json_skip(&json))
            return fail_json(config, &json, error);
        one.end = json.end + (one.kind == IMAGINE__JSON_STRING);
        imagine_status status = add_entry(context, config, &one, error);
        if (status < 0)
            return status;
    }
    if (json.kind != IMAGINE__JSON_OBJECT_END || imagine__json_next(&json) != IMAGINE__JSON_END)
        return fail_json(config, &json, error);
    return check_twice(context, config, error);
}

imagine_status imagine__config_open(imagine__config **config, imagine_context *context, const char *path,
                                    imagine_error *error)
{
    *config = NULL;
    imagine__config *made = imagine__calloc(context, 1, sizeof *made);
    if (!made)
        return imagine__fail_memory_in(context, error, sizeof *made, path);
    imagine_status status = imagine__read_file(context, path, LARGEST_CONFIG, &made->text, &made->size, error);
    if (status >= 0) {
        made->path = imagine__strdup(context, path);
        made->strings = imagine__alloc(context, made->size + 1);
        status =
            made->path && made->strings ? parse(context, made, error) : imagine__fail_memory_in(context, error, made->size, path);
    }
    if (status < 0)
        imagine__config_close(context, made);
    else
        *config = made;
    return status;
}

const char *imagine__config_path(const imagine__config *config)
{
    return config->path;
}

/* Marks the key as known; NULL when it is missing or null. */
static entry *find(imagine__config *config, const char *key)
{
    for (size_t i = 0; i < config->count; i++)
        if (!strcmp(config->entries[i].key, key)) {
            config->entries[i].known = 1;
            return config->entries[i].kind == IMAGINE__JSON_NULL ? NULL : &config->entries[i];
        }
    return NULL;
}

static imagine_status fail_value(const imagine__config *config, const entry *e, const char *wanted,
                                 imagine_error *error)
{
    size_t length = e->end - e->begin;
    int shown = length > 120 ? 117 : (int)length;
    while (shown && length > 120 && ((uint8_t)config->text[e->begin + (size_t)shown] & 0xC0) == 0x80)
        shown--; /* not inside a character */
    return imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"%s\" is %.*s%s, %s", config->path, e->key, shown,
                         config->text + e->begin, length > 120 ? "..." : "", wanted);
}

static void value_reader(const imagine__config *config, const entry *e, imagine__json *json)
{
    imagine__json_init(json, config->text + e->begin, e->end - e->begin);
    imagine__json_next(json);
}

int imagine__config_has(const imagine__config *config, const char *key)
{
    /* What is asked for becomes known, which is bookkeeping and no change of the configuration. */
    return find((imagine__config *)config, key) != NULL;
}

imagine_status imagine__config_int(imagine__config *config, const char *key, int64_t *value, int64_t default_value,
                                   int64_t min, int64_t max, imagine_error *error)
{
    const entry *e = find(config, key);
    imagine__json json;
    double number;
    int64_t whole = default_value;
    if (e) {
        value_reader(config, e, &json);
        if (!imagine__json_int(&json, &whole)) {
            /* 16.0 is how some writers put 16 */
            if (!imagine__json_double(&json, &number) || number < -9e15 || number > 9e15 ||
                number != (double)(int64_t)number)
                return fail_value(config, e, "not a whole number", error);
            whole = (int64_t)number;
        }
        if (whole < min || whole > max)
            return imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"%s\" is %lld, not in %lld..%lld", config->path, key,
                                 (long long)whole, (long long)min, (long long)max);
    }
    *value = whole;
    return IMAGINE_OK;
}

imagine_status imagine__config_double(imagine__config *config, const char *key, double *value, double default_value,
                                      imagine_error *error)
{
    const entry *e = find(config, key);
    imagine__json json;
    *value = default_value;
    if (!e)
        return IMAGINE_OK;
    value_reader(config, e, &json);
    return imagine__json_double(&json, value) ? IMAGINE_OK : fail_value(config, e, "not a number that fits", error);
}

imagine_status imagine__config_bool(imagine__config *config, const char *key, int *value, int default_value,
                                    imagine_error *error)
{
    const entry *e = find(config, key);
    *value = default_value;
    if (!e)
        return IMAGINE_OK;
    if (e->kind != IMAGINE__JSON_TRUE && e->kind != IMAGINE__JSON_FALSE)
        return fail_value(config, e, "neither true nor false", error);
    *value = e->kind == IMAGINE__JSON_TRUE;
    return IMAGINE_OK;
}

imagine_status imagine__config_string(imagine__config *config, const char *key, const char **value,
                                      const char *default_value, imagine_error *error)
{
    const entry *e = find(config, key);
    if (e && !e->string)
        return fail_value(config, e, "not a string", error);
    *value = e ? e->string : default_value;
    return IMAGINE_OK;
}

imagine_status imagine__config_doubles(imagine__config *config, const char *key, double *values, int32_t *count,
                                       imagine_error *error)
{
    const entry *e = find(config, key);
    imagine__json json;
    int32_t most = *count;
    *count = 0;
    if (!e)
        return IMAGINE_OK;
    value_reader(config, e, &json);
    if (json.kind != IMAGINE__JSON_ARRAY)
        return fail_value(config, e, "not an array", error);
    while (imagine__json_next(&json) != IMAGINE__JSON_ARRAY_END) {
        double number = json.kind == IMAGINE__JSON_TRUE;
        if (json.kind != IMAGINE__JSON_TRUE && json.kind != IMAGINE__JSON_FALSE &&
            !imagine__json_double(&json, &number))
            return fail_value(config, e, "not an array of numbers", error);
        if (*count == most)
            return fail_value(config, e, "longer than this library takes", error);
        values[(*count)++] = number;
    }
    return IMAGINE_OK;
}

/* The JSON texts mean the same: strings are compared decoded, numbers by value. */
static int same_value(imagine__json *a, imagine__json *b)
{
    char text[256];
    double x, y;
    do {
        if (imagine__json_next(a) != imagine__json_next(b))
            return 0;
        if (a->kind == IMAGINE__JSON_ERROR)
            return 0;
        if (a->kind == IMAGINE__JSON_NUMBER &&
            (!imagine__json_double(a, &x) || !imagine__json_double(b, &y) || x < y || x > y))
            return 0;
        if ((a->kind == IMAGINE__JSON_STRING || a->kind == IMAGINE__JSON_KEY) &&
            (imagine__json_string(b, text, sizeof text) < 0 || !imagine__json_is(a, text)))
            return 0;
    } while (a->kind != IMAGINE__JSON_END);
    return 1;
}

imagine_status imagine__config_expect(imagine__config *config, const char *key, const char *json_value,
                                      imagine_error *error)
{
    const entry *e = find(config, key);
    imagine__json ours, theirs;
    char wanted[160] = "this library runs ";
    if (!e)
        return IMAGINE_OK;
    imagine__json_init(&theirs, config->text + e->begin, e->end - e->begin);
    imagine__json_init(&ours, json_value, strlen(json_value));
    if (same_value(&theirs, &ours))
        return IMAGINE_OK;
    strncat(wanted, json_value, sizeof wanted - strlen(wanted) - 1);
    return fail_value(config, e, wanted, error);
}

imagine_status imagine__config_no_others(imagine__config *config, const char *const *ignored, imagine_error *error)
{
    for (size_t i = 0; i < config->count; i++) {
        const entry *e = &config->entries[i];
        int fine = e->known || e->key[0] == '_';
        for (size_t j = 0; ignored && ignored[j] && !fine; j++)
            fine = !strcmp(ignored[j], e->key);
        if (!fine)
            return fail_value(config, e,
                              strcmp(e->key, "quantization_config")
                                  ? "a key that this library does not know"
                                  : "but quantised weights are not read; take the model with f32, bf16 or f16",
                              error);
    }
    return IMAGINE_OK;
}
