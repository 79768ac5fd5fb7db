/* SPDX-License-Identifier: MIT */
/* The prompt's cleaning: Python's html.unescape, str.strip and re.sub(r"\s+", " "), as diffusers' WanPipeline does it.
 * */
#include <string.h>

#include "stage.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

typedef struct entity {
    uint32_t first; /* its code points, the second may be 0: none */
    uint16_t second, name;
    uint32_t length;
} entity;

#include "text/entities.inc"

/* The entity of exactly this name, or NULL. */
static const entity *find_entity(const char *name, size_t length)
{
    size_t low = 0, high = sizeof entities / sizeof entities[0];
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const entity *e = &entities[mid];
        int order = memcmp(entity_names + e->name, name, e->length < length ? e->length : length);
        if (order == 0)
            order = e->length < length ? -1 : e->length > length;
        if (order == 0)
            return e;
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

/* What HTML makes of the numbers 0x80 to 0x9F: Windows-1252, where that has a character. */
static const uint16_t windows[32] = {
    0x20AC, 0x81, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0x8D, 0x017D,
    0x8F, 0x90, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014, 0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x9D,
    0x017E, 0x0178,
};

/* Writes what the numeric reference to `c` stands for. */
static size_t put_number(uint32_t c, char *out)
{
    if (c >= 0x80 && c <= 0x9F)
        return imagine__utf8_encode(windows[c - 0x80], out);
    if (c == 0 || (c >= 0xD800 && c <= 0xDFFF) || c > 0x10FFFF)
        return imagine__utf8_encode(0xFFFD, out);
    int control = c < 0x20 && c != '\t' && c != '\n' && c != '\f' && c != '\r';
    if (control || c == 0x7F || (c >= 0xFDD0 && c <= 0xFDEF) || (c & 0xFFFE) == 0xFFFE)
        return 0;
    return imagine__utf8_encode(c, out);
}

static int digit_of(char c, uint32_t base)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (base == 16 && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')))
        return (c | 0x20) - 'a' + 10;
    return -1;
}

/* A numeric reference at text ("&#..."): bytes read, 0 if it is none. */
static size_t unescape_number(const char *text, size_t size, char *out, size_t *written)
{
    size_t at = 2;
    uint32_t base = 10, c = 0;
    if (at < size && (text[at] | 0x20) == 'x') {
        base = 16;
        at++;
    }
    size_t begin = at;
    for (int d; at < size && (d = digit_of(text[at], base)) >= 0; at++)
        c = c > 0x110000 ? c : c * base + (uint32_t)d;
    if (at == begin)
        return 0;
    *written = put_number(c, out);
    return at + (at < size && text[at] == ';');
}

/* A named reference at text ("&..."): up to 32 characters that could be a name's, with a semicolon or without. The
 * longest beginning that is a name counts, the rest stays. */
static size_t unescape_name(const char *text, size_t size, char *out, size_t *written)
{
    size_t at = 1;
    for (int characters = 0; at < size && characters < 32; characters++) {
        if (memchr("\t\n\f <&#;", text[at], 8))
            break;
        at += imagine__utf8_length(text[at]);
    }
    if (at == 1)
        return 0;
    size_t end = at + (at < size && text[at] == ';');
    for (size_t length = end - 1 < 33 ? end - 1 : 33; length >= 2; length--) {
        const entity *e = find_entity(text + 1, length);
        if (!e)
            continue;
        *written = imagine__utf8_encode(e->first, out);
        if (e->second)
            *written += imagine__utf8_encode(e->second, out + *written);
        return 1 + length;
    }
    return 0;
}

/* 1 once cancelled; looked at every 4 KiB from *next on. */
static int stopped(const imagine_cancel *cancel, size_t at, size_t *next)
{
    if (at < *next)
        return 0;
    *next = at + 4096;
    return imagine_cancel_fired(cancel);
}

/* html.unescape; `out` has room for 2 * size bytes. Once cancelled the rest is left out, as in fold_spaces. */
static size_t unescape(const char *text, size_t size, const imagine_cancel *cancel, char *out)
{
    size_t at = 0, end = 0, look = 0;
    while (at < size && !stopped(cancel, at, &look)) {
        size_t read = 0, written = 0;
        if (text[at] == '&')
            read = at + 1 < size && text[at + 1] == '#' ? unescape_number(text + at, size - at, out + end, &written)
                                                        : unescape_name(text + at, size - at, out + end, &written);
        if (read == 0) {
            out[end++] = text[at++];
            continue;
        }
        at += read;
        end += written;
    }
    return end;
}

/* Strips, and makes every run of Python's white space one space; in place. */
static size_t fold_spaces(char *text, size_t size, const imagine_cancel *cancel)
{
    size_t end = 0, look = 0, length;
    int space = 0;
    for (size_t at = 0; at < size && !stopped(cancel, at, &look); at += length) {
        int32_t c = imagine__utf8_decode(text + at, size - at, &length);
        if (imagine__is_space(c) || (c >= 0x1C && c <= 0x1F)) {
            space = end > 0;
            continue;
        }
        if (space)
            text[end++] = ' ';
        space = 0;
        memmove(text + end, text + at, length);
        end += length;
    }
    return end;
}

imagine_status imagine__check_prompt(const char *prompt, const char *name, imagine_error *error)
{
    size_t length = strlen(prompt), bad = imagine__utf8_check(prompt, length);
    if (bad < length)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s is not UTF-8 from byte %zu", name, bad);
    return IMAGINE_OK;
}

imagine_status imagine__clean_prompt(imagine_context *context, const char *prompt, const imagine_cancel *cancel, char **clean,
                                     size_t *size, imagine_error *error)
{
    size_t length = strlen(prompt), room;
    imagine_status status = imagine__check_prompt(prompt, "the prompt", error);
    *clean = NULL;
    *size = 0;
    if (status < 0)
        return status;
    if (!imagine__mul_size(length + 1, 4, &room))
        return imagine__fail_memory_in(context, error, length, "the prompt");
    char *once = imagine__alloc(context, 2 * length + 1), *twice = imagine__alloc(context, room);
    if (!once || !twice) {
        imagine__free(context, once);
        imagine__free(context, twice);
        return imagine__fail_memory_in(context, error, room, "the prompt");
    }
    size_t end = unescape(prompt, length, cancel, once);
    end = unescape(once, end, cancel, twice);
    imagine__free(context, once);
    end = fold_spaces(twice, end, cancel);
    if (imagine_cancel_fired(cancel)) {
        imagine__free(context, twice);
        return imagine__fail(error, IMAGINE_ERROR_CANCELLED, "cancelled while the prompt was cleaned");
    }
    twice[end] = 0;
    *clean = twice;
    *size = end;
    return IMAGINE_OK;
}
