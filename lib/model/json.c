/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "model/model.h"

#define DEEPEST 64u

/* What may come next. */
enum {
    AT_VALUE, /* a value */
    AT_FIRST_VALUE, /* a value or ] */
    AT_FIRST_KEY, /* a key or } */
    AT_KEY, /* a key, after a comma */
    AT_COLON,
    AT_NEXT, /* a comma or the end of what is open */
    AT_END
};

void imagine__json_init(imagine__json *json, const char *text, size_t size)
{
    *json = (imagine__json) { .text = text, .size = size, .state = AT_VALUE };
}

static imagine__json_kind fail(imagine__json *json, const char *error)
{
    json->error = error;
    return json->kind = IMAGINE__JSON_ERROR;
}

static int in_object(const imagine__json *json)
{
    return (int)(json->in_object >> (json->depth - 1) & 1);
}

static void skip_space(imagine__json *json)
{
    while (json->at < json->size) {
        char c = json->text[json->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r')
            return;
        json->at++;
    }
}

static imagine__json_kind open_value(imagine__json *json, int object)
{
    if (json->depth == DEEPEST)
        return fail(json, "nested more than 64 deep");
    uint64_t bit = (uint64_t)1 << json->depth++;
    json->in_object = object ? json->in_object | bit : json->in_object & ~bit;
    json->begin = json->at++;
    json->end = json->at;
    json->state = object ? AT_FIRST_KEY : AT_FIRST_VALUE;
    return json->kind = object ? IMAGINE__JSON_OBJECT : IMAGINE__JSON_ARRAY;
}

static void value_done(imagine__json *json)
{
    json->state = json->depth ? AT_NEXT : AT_END;
}

static imagine__json_kind close_value(imagine__json *json)
{
    int object = in_object(json);
    if (json->text[json->at] != (object ? '}' : ']'))
        return fail(json, object ? "a comma or } is missing" : "a comma or ] is missing");
    json->begin = json->at++;
    json->end = json->at;
    json->depth--;
    value_done(json);
    return json->kind = object ? IMAGINE__JSON_OBJECT_END : IMAGINE__JSON_ARRAY_END;
}

/* Bytes of the UTF-8 sequence at p, 0 if it is not well formed (Unicode, table 3-7). */
static size_t utf8_length(const unsigned char *p, size_t left)
{
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || left < n)
        return 0;
    unsigned low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    unsigned high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

/* The four hex digits at p, or -1. */
static int32_t hex4(const char *p, size_t left)
{
    int32_t value = 0;
    if (left < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int c = p[i] | 0x20;
        int digit = p[i] >= '0' && p[i] <= '9' ? p[i] - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* The escape at text[at] (a backslash): its character, and its length in *length; -1 if it is not valid. */
static int32_t escape(const char *text, size_t left, size_t *length)
{
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    *length = 2;
    if (left < 2)
        return -1;
    if (text[1] != 'u') {
        const char *found = memchr(letters, text[1], sizeof letters - 1);
        return found ? values[found - letters] : -1;
    }
    *length = 6;
    int32_t high = hex4(text + 2, left - 2);
    if (high < 0xd800 || high > 0xdfff)
        return high;
    if (high > 0xdbff || left < 12 || text[6] != '\\' || text[7] != 'u')
        return -1;
    int32_t low = hex4(text + 8, left - 8);
    *length = 12;
    return low < 0xdc00 || low > 0xdfff ? -1 : 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
}

static imagine__json_kind read_string(imagine__json *json, imagine__json_kind kind)
{
    json->begin = ++json->at;
    while (json->at < json->size) {
        const char *p = json->text + json->at;
        size_t left = json->size - json->at, length;
        if (*p == '"') {
            json->end = json->at++;
            if (kind == IMAGINE__JSON_KEY)
                json->state = AT_COLON;
            else
                value_done(json);
            return json->kind = kind;
        }
        if ((unsigned char)*p < 0x20)
            return fail(json, "a control character in a string");
        if (*p == '\\') {
            if (escape(p, left, &length) < 0)
                return fail(json, "an escape that is not valid");
        } else if (!(length = utf8_length((const unsigned char *)p, left))) {
            return fail(json, "a string that is not UTF-8");
        }
        json->at += length;
    }
    return fail(json, "a string without an end");
}

static size_t digits(const imagine__json *json, size_t at)
{
    while (at < json->size && json->text[at] >= '0' && json->text[at] <= '9')
        at++;
    return at;
}

static imagine__json_kind read_number(imagine__json *json)
{
    size_t at = json->at, from;
    json->begin = at;
    if (json->text[at] == '-')
        at++;
    from = at;
    at = digits(json, at);
    if (at == from || (json->text[from] == '0' && at > from + 1))
        return fail(json, "a number that is not valid");
    if (at < json->size && json->text[at] == '.') {
        from = at + 1;
        at = digits(json, from);
        if (at == from)
            return fail(json, "a number without digits after the point");
    }
    if (at < json->size && (json->text[at] | 0x20) == 'e') {
        from = at + 1;
        if (from < json->size && (json->text[from] == '+' || json->text[from] == '-'))
            from++;
        at = digits(json, from);
        if (at == from)
            return fail(json, "a number without digits in its exponent");
    }
    json->end = json->at = at;
    value_done(json);
    return json->kind = IMAGINE__JSON_NUMBER;
}

static imagine__json_kind read_word(imagine__json *json, const char *word, imagine__json_kind kind)
{
    size_t length = strlen(word);
    if (json->size - json->at < length || memcmp(json->text + json->at, word, length))
        return fail(json, "a word that is not true, false or null");
    json->begin = json->at;
    json->end = json->at += length;
    value_done(json);
    return json->kind = kind;
}

const char *imagine__json_mark(const char *text, size_t size)
{
    return size >= 3 && !memcmp(text, "\xEF\xBB\xBF", 3)
               ? "it begins with a byte order mark, which JSON does not have; save the file without it"
               : imagine__begins_as(text, size);
}

/* Nothing of the text has been read so far. */
static int at_begin(const imagine__json *json)
{
    return !json->depth && json->state == AT_VALUE;
}

static imagine__json_kind read_value(imagine__json *json)
{
    char c = json->text[json->at];
    switch (c) {
    case '{':
    case '[':
        return open_value(json, c == '{');
    case '"':
        return read_string(json, IMAGINE__JSON_STRING);
    case 't':
        return read_word(json, "true", IMAGINE__JSON_TRUE);
    case 'f':
        return read_word(json, "false", IMAGINE__JSON_FALSE);
    case 'n':
        return read_word(json, "null", IMAGINE__JSON_NULL);
    }
    if (c == '-' || (c >= '0' && c <= '9'))
        return read_number(json);
    const char *mark = at_begin(json) ? imagine__json_mark(json->text, json->size) : NULL;
    return fail(json, mark ? mark : "a value is missing");
}

/* Passes the commas and colons before the next token; 0 when the text is over. */
static int pass_separators(imagine__json *json)
{
    for (;;) {
        skip_space(json);
        if (json->at == json->size)
            return 0;
        char c = json->text[json->at];
        if (json->state == AT_NEXT && c == ',')
            json->state = in_object(json) ? AT_KEY : AT_VALUE;
        else if (json->state == AT_COLON && c == ':')
            json->state = AT_VALUE;
        else
            return 1;
        json->at++;
    }
}

imagine__json_kind imagine__json_next(imagine__json *json)
{
    if (json->kind == IMAGINE__JSON_ERROR)
        return json->kind;
    if (!pass_separators(json)) {
        if (json->state != AT_END)
            return fail(json, at_begin(json) && !json->size ? imagine__json_mark(json->text, 0) : "the text ends too early");
        json->begin = json->end = json->at;
        return json->kind = IMAGINE__JSON_END;
    }
    char c = json->text[json->at];
    switch (json->state) {
    case AT_END:
        return fail(json, "something follows the end");
    case AT_NEXT:
        return close_value(json);
    case AT_COLON:
        return fail(json, "a colon is missing");
    case AT_FIRST_KEY:
        return c == '"' ? read_string(json, IMAGINE__JSON_KEY) : close_value(json);
    case AT_KEY:
        return c == '"' ? read_string(json, IMAGINE__JSON_KEY) : fail(json, "a key is missing");
    case AT_FIRST_VALUE:
        return c == ']' ? close_value(json) : read_value(json);
    }
    return read_value(json);
}

int imagine__json_skip(imagine__json *json)
{
    if (json->kind == IMAGINE__JSON_KEY)
        imagine__json_next(json);
    if (json->kind == IMAGINE__JSON_OBJECT || json->kind == IMAGINE__JSON_ARRAY) {
        uint32_t outside = json->depth - 1;
        while (json->depth > outside)
            if (imagine__json_next(json) == IMAGINE__JSON_ERROR)
                return 0;
    }
    return json->kind != IMAGINE__JSON_ERROR && json->kind != IMAGINE__JSON_END;
}

/* The character at *at of a checked string, as UTF-8 in out; moves *at on. Returns its bytes. */
static size_t decode(const imagine__json *json, size_t *at, char out[4])
{
    const char *p = json->text + *at;
    size_t left = json->end - *at, length;
    if (*p != '\\') {
        *out = *p;
        ++*at;
        return 1;
    }
    int32_t c = escape(p, left, &length);
    *at += length;
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | c);
    return n;
}

int64_t imagine__json_string(const imagine__json *json, char *out, size_t size)
{
    size_t used = 0;
    char one[4];
    if (json->kind != IMAGINE__JSON_STRING && json->kind != IMAGINE__JSON_KEY)
        return -1;
    for (size_t at = json->begin; at < json->end;) {
        size_t n = decode(json, &at, one);
        if (used + n >= size)
            return -1;
        memcpy(out + used, one, n);
        used += n;
    }
    if (!size)
        return -1;
    out[used] = 0;
    return (int64_t)used;
}

int imagine__json_is(const imagine__json *json, const char *text)
{
    char one[4];
    if (json->kind != IMAGINE__JSON_STRING && json->kind != IMAGINE__JSON_KEY)
        return 0;
    for (size_t at = json->begin; at < json->end;) {
        size_t n = decode(json, &at, one);
        for (size_t i = 0; i < n; i++)
            if (!*text || *text++ != one[i])
                return 0;
    }
    return !*text;
}

/* strtod rounds correctly but obeys the locale's decimal point, so the number is given to it without one: 1.25e3 as
 * 125e1. Digits beyond what can matter to rounding are folded into one. */
int imagine__json_double(const imagine__json *json, double *value)
{
    enum {
        MOST = 780
    };
    char space[MOST + 32];
    size_t used = 0, at = json->begin;
    int64_t exponent = 0, written = 0;
    int point = 0, lost = 0, negative = 0;
    if (json->kind != IMAGINE__JSON_NUMBER)
        return 0;
    if (json->text[at] == '-') {
        space[used++] = '-';
        at++;
    }
    size_t sign = used;
    for (; at < json->end && (json->text[at] | 0x20) != 'e'; at++) {
        char c = json->text[at];
        if (c == '.') {
            point = 1;
        } else if (used - sign < MOST) {
            if (c != '0' || used > sign)
                space[used++] = c;
            exponent -= point;
        } else {
            lost |= c != '0';
            exponent += !point;
        }
    }
    if (used == sign)
        space[used++] = '0';
    if (lost && space[used - 1] == '0')
        space[used - 1] = '1';
    if (at < json->end) {
        at++;
        if (json->text[at] == '-' || json->text[at] == '+')
            negative = json->text[at++] == '-';
        for (; at < json->end; at++)
            if (written < 100000000)
                written = written * 10 + (json->text[at] - '0');
    }
    exponent += negative ? -written : written;
    if (exponent > 1000000 || exponent < -1000000)
        exponent = exponent < 0 ? -1000000 : 1000000;
    space[used++] = 'e';
    if (exponent < 0)
        space[used++] = '-';
    char digit[20];
    size_t n = 0;
    uint64_t rest = exponent < 0 ? (uint64_t)-exponent : (uint64_t)exponent;
    do
        digit[n++] = (char)('0' + rest % 10);
    while (rest /= 10);
    while (n)
        space[used++] = digit[--n];
    space[used] = 0;
    *value = strtod(space, NULL);
    return *value - *value == 0;
}

int imagine__json_int(const imagine__json *json, int64_t *value)
{
    size_t at = json->begin;
    int64_t sum = 0;
    if (json->kind != IMAGINE__JSON_NUMBER)
        return 0;
    int negative = json->text[at] == '-';
    for (at += (size_t)negative; at < json->end; at++) {
        int digit = json->text[at] - '0';
        if (digit < 0 || digit > 9 || __builtin_mul_overflow(sum, 10, &sum) ||
            __builtin_add_overflow(sum, negative ? -digit : digit, &sum))
            return 0;
    }
    *value = sum;
    return 1;
}

int32_t imagine__json_line(const imagine__json *json)
{
    int32_t line = 1;
    for (size_t i = 0; i < json->at && i < json->size; i++)
        line += json->text[i] == '\n';
    return line;
}
