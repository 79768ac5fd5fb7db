/* SPDX-License-Identifier: MIT */
#include "text/unicode.h"

#include <string.h>

int32_t imagine__utf8_decode(const char *text, size_t size, size_t *length)
{
    const unsigned char *p = (const unsigned char *)text;
    *length = 1;
    if (size == 0)
        return -1;
    if (p[0] < 0x80)
        return p[0];
    size_t n = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || size < n)
        return -1;
    uint32_t c = p[0] & (0xFFu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return -1;
        c = c << 6 | (p[i] & 0x3F);
    }
    if ((n == 3 && c < 0x800) || (n == 4 && (c < 0x10000 || c > 0x10FFFF)) || (c >= 0xD800 && c < 0xE000))
        return -1;
    *length = n;
    return (int32_t)c;
}

size_t imagine__utf8_encode(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)((0xF00u >> n & 0xFF) | c);
    return n;
}

size_t imagine__utf8_check(const char *text, size_t size)
{
    size_t at = 0, length;
    while (at < size) {
        if (imagine__utf8_decode(text + at, size - at, &length) < 0)
            return at;
        at += length;
    }
    return size;
}

int imagine__is_space(int32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

/* ---- grapheme clusters ------------------------------------------------------------------------------------------ */

enum {
    G_OTHER,
    G_CONTROL,
    G_EXTEND,
    G_ZWJ,
    G_RI, /* regional indicator */
    G_PREPEND,
    G_SPACINGMARK,
    G_L, /* Hangul: leading consonant, vowel, trailing consonant, and syllables of them */
    G_V,
    G_T,
    G_LV,
    G_LVT,
    G_PICTOGRAPH,
    G_CR,
    G_LF,
    G_CLASS = 0x1F,
    G_CONSONANT = 0x20, /* the parts of Indic conjuncts */
    G_LINKER = 0x40,
    G_JOINER = 0x80
};

typedef struct range {
    uint32_t first, last, class;
} range;

static const range ranges[] = {
#include "text/graphemes.inc"
};

static unsigned class_of(uint32_t c)
{
    if (c < 0x80)
        return c == '\r' ? G_CR : c == '\n' ? G_LF : c < 0x20 || c == 0x7F ? G_CONTROL : G_OTHER;
    if (c >= 0xAC00 && c <= 0xD7A3)
        return (c - 0xAC00) % 28 ? G_LVT : G_LV;
    size_t low = 0, high = sizeof ranges / sizeof ranges[0];
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (ranges[mid].last < c)
            low = mid + 1;
        else
            high = mid;
    }
    return low < sizeof ranges / sizeof ranges[0] && ranges[low].first <= c ? ranges[low].class : G_OTHER;
}

/* What the rules that look back further than one character remember. */
typedef struct cluster {
    int odd_ri; /* an odd number of regional indicators so far */
    int pictograph; /* 1: a pictograph and extenders; 2: those and then a ZWJ */
    int conjunct; /* 1: a consonant and extenders; 2: those with a linker */
} cluster;

static void cluster_add(cluster *s, unsigned full)
{
    unsigned class = full & G_CLASS;
    s->odd_ri = class == G_RI && !s->odd_ri;
    if (class == G_PICTOGRAPH)
        s->pictograph = 1;
    else if (class == G_ZWJ && s->pictograph == 1)
        s->pictograph = 2;
    else if (class != G_EXTEND || s->pictograph != 1)
        s->pictograph = 0;
    if (full & G_CONSONANT)
        s->conjunct = 1;
    else if (full & G_LINKER)
        s->conjunct = s->conjunct ? 2 : 0;
    else if (!(full & G_JOINER))
        s->conjunct = 0;
}

/* 1 if no boundary lies between `before` and `after` (GB3 to GB13). */
static int joined(const cluster *s, unsigned before, unsigned after)
{
    unsigned a = before & G_CLASS, b = after & G_CLASS;
    if (a == G_CR && b == G_LF)
        return 1;
    if (a == G_CR || a == G_LF || a == G_CONTROL || b == G_CR || b == G_LF || b == G_CONTROL)
        return 0;
    if (b == G_EXTEND || b == G_ZWJ || b == G_SPACINGMARK || a == G_PREPEND)
        return 1;
    if ((a == G_L && (b == G_L || b == G_V || b == G_LV || b == G_LVT)) ||
        ((a == G_LV || a == G_V) && (b == G_V || b == G_T)) || ((a == G_LVT || a == G_T) && b == G_T))
        return 1;
    if (s->conjunct == 2 && (after & G_CONSONANT))
        return 1;
    if (s->pictograph == 2 && b == G_PICTOGRAPH)
        return 1;
    return s->odd_ri && b == G_RI;
}

size_t imagine__grapheme(const char *text, size_t size)
{
    size_t length, at;
    if (size == 0)
        return 0;
    if (size > 1 && text[0] >= ' ' && text[0] < 0x7F && text[1] >= ' ' && text[1] < 0x7F)
        return 1;
    unsigned before = class_of((uint32_t)imagine__utf8_decode(text, size, &length));
    cluster state = { 0, 0, 0 };
    cluster_add(&state, before);
    for (at = length; at < size; at += length) {
        unsigned after = class_of((uint32_t)imagine__utf8_decode(text + at, size - at, &length));
        if (!joined(&state, before, after))
            break;
        cluster_add(&state, after);
        before = after;
    }
    return at;
}
