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

static imagine_status fill(imagine_error *error, imagine_status status, int native, const char *format,
                           va_list arguments)
{
    if (!error)
        return status;
    size_t room = sizeof error->message;
    error->status = status;
    error->native_code = native;
    error->reserved0 = 0;
    error->struct_size = sizeof *error;
    int length = vsnprintf(error->message, room, format, arguments);
    if (length < 0)
        error->message[0] = 0;
    imagine__mend_text(error->message);
    if (length >= (int)room) {
        size_t at = room - 4;
        while (at && ((unsigned char)error->message[at] & 0xc0) == 0x80)
            at--;
        memcpy(error->message + at, "...", 4);
    }
    return status;
}

imagine_status imagine__fail(imagine_error *error, imagine_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fill(error, status, 0, format, arguments);
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
    va_list arguments;
    va_start(arguments, format);
    fill(error, status, number, format, arguments);
    va_end(arguments);
    char space[128] = "";
    const char *text = _Generic(strerror_r(number, space, sizeof space), char *: as_returned, int: as_written)(
        strerror_r(number, space, sizeof space), space);
    size_t used = strlen(error->message), room = sizeof error->message;
    if (used + 2 + strlen(text) < room)
        snprintf(error->message + used, room - used, ": %s", text);
    imagine__mend_text(error->message);
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
