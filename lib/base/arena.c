/* SPDX-License-Identifier: MIT */
#include "base/base.h"

#define SMALLEST_CHUNK ((size_t)1 << 20)

typedef struct chunk {
    char *data;
    size_t size;
} chunk;

/* Chunks 0..current hold blocks (as far as `offset` in the last), those behind are free. */
struct imagine__arena {
    imagine_context *context;
    chunk *chunks;
    size_t count, capacity, current, offset;
};

imagine__arena *imagine__arena_create(imagine_context *context)
{
    imagine__arena *arena = imagine__calloc(context, 1, sizeof *arena);
    if (arena)
        arena->context = context;
    return arena;
}

void imagine__arena_destroy(imagine__arena *arena)
{
    if (!arena)
        return;
    for (size_t i = 0; i < arena->count; i++)
        imagine__free(arena->context, arena->chunks[i].data);
    imagine__free(arena->context, arena->chunks);
    imagine__free(arena->context, arena);
}

/* A free chunk of at least `size` bytes at position `at`: one that is there, else a new one in the place of one that is
 * too small. */
static int provide(imagine__arena *arena, size_t at, size_t size)
{
    for (size_t i = at; i < arena->count; i++)
        if (arena->chunks[i].size >= size) {
            chunk found = arena->chunks[i];
            arena->chunks[i] = arena->chunks[at];
            arena->chunks[at] = found;
            return 1;
        }
    if (at == arena->capacity) {
        size_t capacity = at ? 2 * at : 16;
        chunk *chunks = imagine__realloc(arena->context, arena->chunks, capacity * sizeof *chunks);
        if (!chunks)
            return 0;
        arena->chunks = chunks;
        arena->capacity = capacity;
    }
    if (at < arena->count) {
        imagine__free(arena->context, arena->chunks[at].data);
        arena->chunks[at] = arena->chunks[--arena->count];
    }
    if (size < SMALLEST_CHUNK)
        size = SMALLEST_CHUNK;
    char *data = imagine__alloc_values(arena->context, size);
    if (!data)
        return 0;
    if (at < arena->count)
        arena->chunks[arena->count] = arena->chunks[at];
    arena->chunks[at] = (chunk) { data, size };
    arena->count++;
    return 1;
}

void *imagine__arena_alloc(imagine__arena *arena, size_t size)
{
    size_t rounded;
    if (!imagine__add_size(size ? size : 1, 63, &rounded))
        return NULL;
    rounded &= ~(size_t)63;
    size_t at = arena->current, offset = arena->offset;
    if (at >= arena->count || arena->chunks[at].size - offset < rounded) {
        if (at < arena->count && offset)
            at++;
        if (!provide(arena, at, rounded))
            return NULL;
        offset = 0;
    }
    arena->current = at;
    arena->offset = offset + rounded;
    return arena->chunks[at].data + offset;
}

float *imagine__arena_floats(imagine__arena *arena, int64_t count)
{
    size_t size;
    if (count < 0 || !imagine__mul_size((size_t)count, sizeof(float), &size))
        return NULL;
    return imagine__arena_alloc(arena, size);
}

imagine__arena_mark imagine__arena_save(const imagine__arena *arena)
{
    return (imagine__arena_mark) { arena->current, arena->offset };
}

void imagine__arena_restore(imagine__arena *arena, imagine__arena_mark mark)
{
    arena->current = mark.chunk;
    arena->offset = mark.offset;
}

void imagine__arena_trim(imagine__arena *arena)
{
    size_t used = arena->current + (arena->offset ? 1 : 0);
    while (arena->count > used)
        imagine__free(arena->context, arena->chunks[--arena->count].data);
}
