/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "text/unicode.h"

/* Paths may hold any bytes, and names in files that nobody trusts lines that look like the host's own. */
void imagine__mend_text(char *text)
{
    size_t size = strlen(text), at = 0;
    while ((at += imagine__utf8_check(text + at, size - at)) < size)
        text[at++] = '?';
    for (unsigned char *c = (unsigned char *)text; *c; c++) {
        int second = *c == 0xC2 && c[1] < 0xA0; /* U+0080 to U+009F */
        if (*c < 0x20 || *c == 0x7F || second)
            *c = '?';
        if (second)
            *++c = '?';
    }
}

#define WHOLE 5120 /* a path of any length, and what is said of it */

static int within_character(char byte)
{
    return ((unsigned char)byte & 0xc0) == 0x80;
}

/* Of what does not fit the middle is left out: a path's end and what is said of it tell more than all of the path. */
static void put(char *to, size_t room, const char *whole)
{
    size_t size = strlen(whole), head = (room - 4) / 2, tail = size - (room - 4 - head);
    if (size < room) {
        memcpy(to, whole, size + 1);
        return;
    }
    while (head && within_character(whole[head]))
        head--;
    while (within_character(whole[tail]))
        tail++;
    snprintf(to, room, "%.*s...%s", (int)head, whole, whole + tail);
}

/* `reason` is the system's, or NULL. */
static imagine_status fill(imagine_error *error, imagine_status status, int native, const char *reason, const char *format,
                           va_list arguments)
{
    if (!error)
        return status;
    char whole[WHOLE];
    size_t room = sizeof whole - (reason ? strlen(reason) + 2 : 0);
    error->status = status;
    error->native_code = native;
    error->reserved0 = 0;
    error->struct_size = sizeof *error;
    int length = vsnprintf(whole, room, format, arguments);
    if (length < 0)
        whole[0] = 0;
    imagine__mend_text(whole);
    if (length >= (int)room) {
        size_t at = room - 4;
        while (at && within_character(whole[at]))
            at--;
        memcpy(whole + at, "...", 4);
    }
    if (reason) {
        size_t used = strlen(whole);
        snprintf(whole + used, sizeof whole - used, ": %s", reason);
        imagine__mend_text(whole + used);
    }
    put(error->message, sizeof error->message, whole);
    return status;
}

imagine_status imagine__fail(imagine_error *error, imagine_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fill(error, status, 0, NULL, format, arguments);
    va_end(arguments);
    return status;
}

/* strerror_r is GNU's, which returns the text, or POSIX's, which writes it. */
static inline const char *as_returned(const char *text, const char *space)
{
    (void)space;
    return text;
}

static inline const char *as_written(int failed, const char *space)
{
    return failed ? "an unknown error" : space;
}

imagine_status imagine__fail_errno(imagine_error *error, imagine_status status, int number, const char *format, ...)
{
    if (!error)
        return status;
    char space[128] = "";
    const char *text = _Generic(strerror_r(number, space, sizeof space), char *: as_returned, int: as_written)(
        strerror_r(number, space, sizeof space), space);
    va_list arguments;
    va_start(arguments, format);
    fill(error, status, number, text, format, arguments);
    va_end(arguments);
    return status;
}

imagine_status imagine__fail_memory(imagine_error *error, size_t size, const char *what)
{
    return imagine__fail(error, IMAGINE_ERROR_NO_MEMORY, "out of memory: %zu bytes for %s could not be had", size,
                         what);
}

const char *imagine_status_name(imagine_status status)
{
    switch (status) {
#define NAME(name, number, text) \
    case number:                 \
        return #name;
        IMAGINE_STATUS_LIST(NAME)
#undef NAME
    }
    return "UNKNOWN";
}

const char *imagine_status_text(imagine_status status)
{
    switch (status) {
#define TEXT(name, number, text) \
    case number:                 \
        return text;
        IMAGINE_STATUS_LIST(TEXT)
#undef TEXT
    }
    return "a status that this version does not know";
}

uint32_t imagine_version_number(void)
{
    return IMAGINE_VERSION_NUMBER;
}

#define QUOTE_(x) #x
#define QUOTE(x)  QUOTE_(x)

const char *imagine_version_string(void)
{
    return QUOTE(IMAGINE_VERSION_MAJOR) "." QUOTE(IMAGINE_VERSION_MINOR) "." QUOTE(IMAGINE_VERSION_PATCH);
}
