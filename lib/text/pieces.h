/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TEXT_PIECES_H
#define IMAGINE_TEXT_PIECES_H

/* What the tokenizer's files share: text on its way through the steps, the steps, and the tokenizer itself. */

#include "text/tokenizer.h"
#include "text/trie.h"

/* A growing text. What a hostile file could make of a short prompt ends at IMAGINE__TEXT_LIMIT. */
typedef struct imagine__text {
    imagine_context *context;
    char *bytes;
    size_t size, capacity;
    const imagine_cancel *cancel; /* ends what adds to it; or NULL */
} imagine__text;
#define IMAGINE__TEXT_LIMIT ((size_t)256 << 20)

imagine_status imagine__text_add(imagine__text *text, const char *bytes, size_t size, imagine_error *error);

/* sentencepiece's normalisation rules: a double array of UTF-8 keys to places in a blob of replacements. */
typedef struct imagine__charsmap {
    uint32_t *units;
    const char *blob; /* zero-terminated replacements, in the same allocation */
    size_t count, blob_size;
} imagine__charsmap;

/* From its base64 text. 0: not a charsmap (*what tells why), -1: out of memory. */
int imagine__charsmap_read(imagine__charsmap *map, imagine_context *context, const char *base64, size_t size,
                           const char **what);
/* The replacement of `text` by its shortest prefix that is a key, or NULL. */
const char *imagine__charsmap_find(const imagine__charsmap *map, const char *text, size_t size, size_t *length);

typedef enum imagine__step_kind {
    IMAGINE__STEP_CHARSMAP,
    IMAGINE__STEP_STRIP,
    IMAGINE__STEP_REPLACE,
    IMAGINE__STEP_PREPEND
} imagine__step_kind;

/* One normaliser. */
typedef struct imagine__step {
    imagine__step_kind kind;
    int32_t left, right; /* strip */
    imagine__charsmap map;
    char *pattern, *content; /* replace: by content; prepend: content */
    size_t pattern_size, content_size;
    size_t least, most; /* replace: how often the pattern stands in a row; most 0: as often as it does */
} imagine__step;

typedef enum imagine__split_kind {
    IMAGINE__SPLIT_METASPACE,
    IMAGINE__SPLIT_SPACES
} imagine__split_kind;

typedef enum imagine__prepend {
    IMAGINE__PREPEND_ALWAYS,
    IMAGINE__PREPEND_FIRST,
    IMAGINE__PREPEND_NEVER
} imagine__prepend;

/* One pre-tokenizer. */
typedef struct imagine__splitter {
    imagine__split_kind kind;
    imagine__prepend prepend;
    int32_t split;
    uint32_t mark_size;
    char mark[8]; /* what stands for a space */
} imagine__splitter;

typedef struct imagine__added {
    size_t begin; /* its content in added_pool, to the next one's begin */
    int32_t id;
    int8_t lstrip, rstrip, normalized, reserved;
} imagine__added;

struct imagine__tokenizer {
    imagine_context *context;
    imagine__trie trie; /* piece to id */
    double *scores;
    double unknown_score;
    int32_t pieces, unknown; /* unknown -1: none */
    int32_t byte_fallback, size;
    int32_t bytes[256]; /* ids of <0x00> to <0xFF>, -1 where there is none */
    imagine__step *steps;
    imagine__splitter *splitters;
    int32_t step_count, splitter_count;
    imagine__added *added; /* one more than there are, for its begin */
    char *added_pool;
    int32_t added_count, prefix_count, suffix_count, reserved;
    imagine__trie raw, normalized; /* added tokens matched before and after normalisation; the values count `added` */
    int32_t *prefix, *suffix; /* what the post-processor puts around the text */
};

/* A stretch of text between added tokens or splits, or an added token. */
typedef struct imagine__span {
    size_t begin, size;
    size_t origin; /* how many of its first bytes stem from the very beginning of the input (prepend_scheme "first") */
    int32_t token; /* an added token's id, else -1 */
    int32_t reserved;
} imagine__span;

typedef struct imagine__spans {
    imagine__text text;
    imagine__span *items;
    size_t count, capacity;
} imagine__spans;

void imagine__spans_free(imagine__spans *spans);
imagine_status imagine__spans_push(imagine__spans *spans, imagine__span span, imagine_error *error);

/* All normalisers over text (of `origin` bytes from the input's beginning), into out->bytes from out->size on; *origin
 * follows. `spare` is work space. */
imagine_status imagine__normalize(const imagine__tokenizer *tokenizer, const char *bytes, size_t size, size_t *origin,
                                  imagine__text *out, imagine__text *spare, imagine_error *error);
/* One pre-tokenizer over all spans of `in`. */
imagine_status imagine__split(const imagine__splitter *splitter, const imagine__spans *in, imagine__spans *out,
                              imagine_error *error);

/* Reads tokenizer.json (tokenizer_read.c), `length` bytes, into a zeroed tokenizer; what was read is freed by imagine__tokenizer_close. */
imagine_status imagine__tokenizer_read(imagine__tokenizer *tokenizer, int fd, uint64_t length, const char *path,
                                       const imagine_cancel *cancel, imagine_error *error);

#endif
