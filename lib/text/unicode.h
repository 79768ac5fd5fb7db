/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TEXT_UNICODE_H
#define IMAGINE_TEXT_UNICODE_H

#include <stddef.h>
#include <stdint.h>

/* UTF-8, white space and grapheme clusters. */

/* The code point that begins at text[0], and in *length its bytes (at least 1). -1 if that is not UTF-8. */
int32_t imagine__utf8_decode(const char *text, size_t size, size_t *length);
/* Writes 1 to 4 bytes, returns how many. */
size_t imagine__utf8_encode(uint32_t c, char *out);
/* `size` if all is UTF-8, else where the first fault is. */
size_t imagine__utf8_check(const char *text, size_t size);

/* Length of the character that begins with this byte, in text known to be UTF-8. */
static inline size_t imagine__utf8_length(char lead)
{
    unsigned char b = (unsigned char)lead;
    return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

/* Unicode's White_Space property (Rust's char::is_whitespace). */
int imagine__is_space(int32_t c);

/* Bytes of the extended grapheme cluster (UAX #29) that begins at text[0]; 0 for no text. `text` is UTF-8. */
size_t imagine__grapheme(const char *text, size_t size);

#endif
