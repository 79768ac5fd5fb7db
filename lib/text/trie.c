/* SPDX-License-Identifier: MIT */
#include "text/trie.h"

#include <string.h>

#define LOOK 4096 /* nodes between two looks at the cancel */

/* Building is a radix sort that makes the nodes on its way: node v stands for the strings order[low[v]] to
 * order[high[v] - 1], which share their first `depth` bytes. Every byte of the strings is looked at once. */
typedef struct builder {
    imagine_context *context;
    imagine__trie *trie;
    const char *pool;
    const size_t *offset;
    int32_t *order, *spare;
    uint32_t *low, *high;
    size_t capacity;
    const imagine_cancel *cancel;
} builder;

static int grow(builder *b)
{
    size_t capacity = b->capacity * 2;
    void *low = imagine__realloc(b->context, b->low, capacity * sizeof *b->low);
    b->low = low ? low : b->low;
    void *high = imagine__realloc(b->context, b->high, capacity * sizeof *b->high);
    b->high = high ? high : b->high;
    void *first = imagine__realloc(b->context, b->trie->first, (capacity + 1) * sizeof *b->trie->first);
    b->trie->first = first ? first : b->trie->first;
    void *value = imagine__realloc(b->context, b->trie->value, capacity * sizeof *b->trie->value);
    b->trie->value = value ? value : b->trie->value;
    void *label = imagine__realloc(b->context, b->trie->label, capacity);
    b->trie->label = label ? label : b->trie->label;
    if (!low || !high || !first || !value || !label)
        return 0;
    b->capacity = capacity;
    return 1;
}

static size_t length_of(const builder *b, int32_t i)
{
    return b->offset[i + 1] - b->offset[i];
}

static uint8_t byte_of(const builder *b, int32_t i, size_t depth)
{
    return (uint8_t)b->pool[b->offset[i] + depth];
}

/* Puts order[low..high-1] into the order of their byte at `depth`, equal ones as they were. */
static void sort_by_byte(builder *b, uint32_t low, uint32_t high, size_t depth)
{
    if (high - low <= 24) {
        for (uint32_t i = low + 1; i < high; i++) {
            int32_t moved = b->order[i];
            uint32_t j = i;
            for (; j > low && byte_of(b, b->order[j - 1], depth) > byte_of(b, moved, depth); j--)
                b->order[j] = b->order[j - 1];
            b->order[j] = moved;
        }
        return;
    }
    uint32_t start[257] = { 0 };
    for (uint32_t i = low; i < high; i++)
        start[byte_of(b, b->order[i], depth) + 1]++;
    for (int c = 0; c < 256; c++)
        start[c + 1] += start[c];
    for (uint32_t i = low; i < high; i++)
        b->spare[low + start[byte_of(b, b->order[i], depth)]++] = b->order[i];
    memcpy(b->order + low, b->spare + low, (high - low) * sizeof *b->order);
}

/* Makes the children of node v. Strings that end here give the node its value. */
static int expand(builder *b, uint32_t v, size_t depth)
{
    imagine__trie *t = b->trie;
    uint32_t low = b->low[v], high = b->high[v], kept = low;
    t->value[v] = -1;
    t->first[v] = t->nodes;
    for (uint32_t i = low; i < high; i++) { /* those that end here first, the others in their order */
        int32_t string = b->order[i];
        if (length_of(b, string) == depth)
            t->value[v] = depth ? string : -1;
        else
            b->order[kept++] = string;
    }
    sort_by_byte(b, low, kept, depth);
    for (uint32_t i = low, j; i < kept; i = j) {
        uint8_t label = byte_of(b, b->order[i], depth);
        for (j = i + 1; j < kept && byte_of(b, b->order[j], depth) == label; j++)
            ;
        if (t->nodes == b->capacity && !grow(b))
            return 0;
        t->label[t->nodes] = label;
        b->low[t->nodes] = i;
        b->high[t->nodes] = j;
        t->nodes++;
    }
    return 1;
}

static int build(builder *b, int32_t count)
{
    b->capacity = 128;
    b->order = imagine__alloc(b->context, ((size_t)count + 1) * sizeof *b->order);
    b->spare = imagine__alloc(b->context, ((size_t)count + 1) * sizeof *b->spare);
    if (!b->order || !b->spare || !grow(b))
        return 0;
    for (int32_t i = 0; i < count; i++)
        b->order[i] = i;
    b->low[0] = 0;
    b->high[0] = (uint32_t)count;
    b->trie->label[0] = 0;
    b->trie->nodes = 1;
    size_t depth = 0;
    uint32_t level = 1; /* where the next level's nodes begin */
    for (uint32_t v = 0; v < b->trie->nodes; v++) {
        if (v == level) {
            level = b->trie->nodes;
            depth++;
        }
        if ((v % LOOK == 0 && imagine_cancel_fired(b->cancel)) || !expand(b, v, depth))
            return 0;
    }
    b->trie->first[b->trie->nodes] = b->trie->nodes;
    return 1;
}

imagine_status imagine__trie_build(imagine__trie *trie, imagine_context *context, const char *pool,
                                   const size_t *offset, int32_t count, const imagine_cancel *cancel,
                                   imagine_error *error)
{
    memset(trie, 0, sizeof *trie);
    if (offset[count] - offset[0] >= UINT32_MAX)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED, "the pieces have 4 GiB of text or more");
    builder b = { context, trie, pool, offset, NULL, NULL, NULL, NULL, 0, cancel };
    int done = build(&b, count);
    imagine__free(context, b.order);
    imagine__free(context, b.spare);
    imagine__free(context, b.low);
    imagine__free(context, b.high);
    if (done)
        return IMAGINE_OK;
    imagine__trie_free(trie, context);
    if (imagine_cancel_fired(cancel))
        return imagine__fail(error, IMAGINE_ERROR_CANCELLED, "cancelled while the tokenizer was read");
    return imagine__fail_memory_in(context, error, b.capacity * 9, "the tokenizer's trie");
}

void imagine__trie_free(imagine__trie *trie, imagine_context *context)
{
    imagine__free(context, trie->first);
    imagine__free(context, trie->value);
    imagine__free(context, trie->label);
    memset(trie, 0, sizeof *trie);
}

int32_t imagine__trie_find(const imagine__trie *trie, const char *text, size_t size)
{
    uint32_t node = 0;
    for (size_t i = 0; i < size; i++)
        if (!(node = imagine__trie_step(trie, node, (uint8_t)text[i])))
            return -1;
    return trie->value[node];
}

int32_t imagine__trie_longest(const imagine__trie *trie, const char *text, size_t size, size_t *length)
{
    uint32_t node = 0;
    int32_t found = -1;
    for (size_t i = 0; i < size && (node = imagine__trie_step(trie, node, (uint8_t)text[i])); i++) {
        if (trie->value[node] >= 0) {
            found = trie->value[node];
            *length = i + 1;
        }
    }
    return found;
}
