/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TEXT_TRIE_H
#define IMAGINE_TEXT_TRIE_H

#include "base/base.h"

/* A set of byte strings with a number each. Nodes are stored breadth first, so that the children of a node lie side by
 * side, sorted by label: those of node v are first[v] to first[v + 1] - 1. 9 bytes a node. */
typedef struct imagine__trie {
    uint32_t *first; /* [nodes + 1] */
    int32_t *value; /* [nodes], -1 where no string ends */
    uint8_t *label; /* [nodes] */
    uint32_t nodes;
    uint32_t reserved;
} imagine__trie;

/* From `count` strings: string i is pool[offset[i]] to pool[offset[i + 1] - 1] and has the value i; of equal ones the
 * last counts. Empty ones are left out. */
imagine_status imagine__trie_build(imagine__trie *trie, imagine_context *context, const char *pool,
                                   const size_t *offset, int32_t count, const imagine_cancel *cancel,
                                   imagine_error *error);
void imagine__trie_free(imagine__trie *trie, imagine_context *context);

/* The child of `node` with this label, or 0 (the root, which is no child). The root is 0. */
static inline uint32_t imagine__trie_step(const imagine__trie *trie, uint32_t node, uint8_t label)
{
    uint32_t low = trie->first[node], end = trie->first[node + 1], high = end;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (trie->label[mid] < label)
            low = mid + 1;
        else
            high = mid;
    }
    return low < end && trie->label[low] == label ? low : 0;
}

/* The value of exactly this string, or -1. */
int32_t imagine__trie_find(const imagine__trie *trie, const char *text, size_t size);
/* The value of the longest string that text begins with, and its bytes; -1: none. */
int32_t imagine__trie_longest(const imagine__trie *trie, const char *text, size_t size, size_t *length);

#endif
