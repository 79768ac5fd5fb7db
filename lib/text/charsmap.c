/* SPDX-License-Identifier: MIT */
/* sentencepiece's precompiled character map: u32 size of the trie in bytes, the trie's units (a Darts-clone double
 * array), then the replacements, each ended by a zero byte. All numbers are little-endian. */
#include <string.h>

#include "text/pieces.h"
#include "text/unicode.h"

static int sextet(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes standard base64 with its padding; -1 if it is anything else. */
static int64_t base64_decode(const char *text, size_t size, uint8_t *out)
{
    size_t end = 0;
    if (size % 4)
        return -1;
    for (size_t i = 0; i < size; i += 4) {
        int last = i + 4 == size, pad = last ? (text[i + 3] == '=') + (text[i + 2] == '=' && text[i + 3] == '=') : 0;
        uint32_t bits = 0;
        for (int j = 0; j < 4; j++) {
            int s = j >= 4 - pad ? 0 : sextet(text[i + (size_t)j]);
            if (s < 0)
                return -1;
            bits = bits << 6 | (uint32_t)s;
        }
        if (pad && (bits & (pad == 1 ? 0xFF : 0xFFFF)))
            return -1;
        for (int j = 0; j < 3 - pad; j++)
            out[end++] = (uint8_t)(bits >> (16 - 8 * j));
    }
    return (int64_t)end;
}

static uint32_t little_endian(const uint8_t *b)
{
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

int imagine__charsmap_read(imagine__charsmap *map, imagine_context *context, const char *base64, size_t size,
                           const char **what)
{
    uint8_t *bytes = imagine__alloc(context, size / 4 * 3 + 8);
    memset(map, 0, sizeof *map);
    if (!bytes)
        return -1;
    map->units = (uint32_t *)(void *)bytes; /* the units move to the front once their size is known */
    int64_t decoded = base64_decode(base64, size, bytes);
    *what = "is not base64";
    if (decoded < 0)
        return 0;
    *what = "is shorter than it says";
    uint32_t trie_size = decoded < 4 ? 0 : little_endian(bytes);
    if (trie_size < 4 || trie_size > decoded - 4)
        return 0;
    map->count = trie_size / 4;
    for (size_t i = 0; i < map->count; i++)
        map->units[i] = little_endian(bytes + 4 + 4 * i);
    map->blob = (const char *)bytes + 4 + 4 * map->count;
    map->blob_size = (size_t)decoded - 4 - 4 * map->count;
    *what = "has replacements that are not UTF-8";
    return imagine__utf8_check(map->blob, map->blob_size) == map->blob_size;
}

const char *imagine__charsmap_find(const imagine__charsmap *map, const char *text, size_t size, size_t *length)
{
    uint32_t unit = map->units[0];
    size_t at = (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
    for (size_t i = 0; i < size && text[i]; i++) {
        at ^= (uint8_t)text[i];
        if (at >= map->count)
            return NULL;
        unit = map->units[at];
        if ((unit & (1u << 31 | 0xFF)) != (uint8_t)text[i])
            return NULL;
        at ^= (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
        if (!(unit >> 8 & 1))
            continue;
        size_t begin = at < map->count ? map->units[at] & 0x7FFFFFFF : map->blob_size;
        if (begin >= map->blob_size || ((uint8_t)map->blob[begin] & 0xC0) == 0x80)
            return NULL; /* a damaged map */
        const char *end = memchr(map->blob + begin, 0, map->blob_size - begin);
        *length = end ? (size_t)(end - map->blob) - begin : map->blob_size - begin;
        return map->blob + begin;
    }
    return NULL;
}
