/* SPDX-License-Identifier: MIT */
#include "base/base.h"

#define SMALLEST_CHUNK ((size_t)1 << 20)

typedef struct chunk {
    char *data;
    size_t size;
} chunk;

/* Chunks 0..current hold blocks (as far as `offset` in the last), those behind are free. */
typedef struct stack {
    chunk *chunks;
    size_t count, capacity, current, offset;
} stack;

struct imagine__arena {
    imagine_context *context;
    stack values, host; /* where values lie on the host, all is in the first */
};

imagine__arena *imagine__arena_create(imagine_context *context)
{
    imagine__arena *arena = imagine__calloc(context, 1, sizeof *arena);
    if (arena)
        arena->context = context;
    return arena;
}

static void free_chunks(imagine__arena *arena, stack *s, size_t from)
{
    while (s->count > from)
        imagine__free(arena->context, s->chunks[--s->count].data);
}

void imagine__arena_destroy(imagine__arena *arena)
{
    if (!arena)
        return;
    free_chunks(arena, &arena->values, 0);
    free_chunks(arena, &arena->host, 0);
    imagine__free(arena->context, arena->values.chunks);
    imagine__free(arena->context, arena->host.chunks);
    imagine__free(arena->context, arena);
}

/* A free chunk of at least `size` bytes at position `at`: one that is there, else a new one in the place of one that is
 * too small. */
static int provide(imagine__arena *arena, stack *s, size_t at, size_t size)
{
    for (size_t i = at; i < s->count; i++)
        if (s->chunks[i].size >= size) {
            chunk found = s->chunks[i];
            s->chunks[i] = s->chunks[at];
            s->chunks[at] = found;
            return 1;
        }
    if (at == s->capacity) {
        size_t capacity = at ? 2 * at : 16;
        chunk *chunks = imagine__realloc(arena->context, s->chunks, capacity * sizeof *chunks);
        if (!chunks)
            return 0;
        s->chunks = chunks;
        s->capacity = capacity;
    }
    if (at < s->count) {
        imagine__free(arena->context, s->chunks[at].data);
        s->chunks[at] = s->chunks[--s->count];
    }
    if (size < SMALLEST_CHUNK)
        size = SMALLEST_CHUNK;
    char *data = s == &arena->host ? imagine__alloc_host_values(arena->context, size)
                                   : imagine__alloc_values(arena->context, size);
    if (!data)
        return 0;
    if (at < s->count)
        s->chunks[s->count] = s->chunks[at];
    s->chunks[at] = (chunk) { data, size };
    s->count++;
    return 1;
}

static void *take(imagine__arena *arena, stack *s, size_t size)
{
    size_t rounded;
    if (!imagine__add_size(size ? size : 1, 63, &rounded))
        return NULL;
    rounded &= ~(size_t)63;
    size_t at = s->current, offset = s->offset;
    if (at >= s->count || s->chunks[at].size - offset < rounded) {
        if (at < s->count && offset)
            at++;
        if (!provide(arena, s, at, rounded))
            return NULL;
        offset = 0;
    }
    s->current = at;
    s->offset = offset + rounded;
    return s->chunks[at].data + offset;
}

void *imagine__arena_alloc(imagine__arena *arena, size_t size)
{
    return take(arena, &arena->values, size);
}

void *imagine__arena_host(imagine__arena *arena, size_t size)
{
    return take(arena, imagine__on_device(arena->context) ? &arena->host : &arena->values, size);
}

/* Bytes of `count` floats; 0: too many. */
static size_t size_of_floats(int64_t count)
{
    size_t size;
    return count < 0 || !imagine__mul_size((size_t)count, sizeof(float), &size) ? 0 : size ? size : 1;
}

float *imagine__arena_floats(imagine__arena *arena, int64_t count)
{
    size_t size = size_of_floats(count);
    return size ? imagine__arena_alloc(arena, size) : NULL;
}

void *imagine__arena_values(imagine__arena *arena, int64_t count, imagine__wtype type)
{
    size_t size = size_of_floats(count);
    return size ? imagine__arena_alloc(arena, type == IMAGINE__W_F32 ? size : (size + 1) / 2) : NULL;
}

float *imagine__arena_host_floats(imagine__arena *arena, int64_t count)
{
    size_t size = size_of_floats(count);
    return size ? imagine__arena_host(arena, size) : NULL;
}

imagine__arena_mark imagine__arena_save(const imagine__arena *arena)
{
    const stack *v = &arena->values, *h = &arena->host;
    return (imagine__arena_mark) { v->current, v->offset, h->current, h->offset };
}

void imagine__arena_restore(imagine__arena *arena, imagine__arena_mark mark)
{
    arena->values.current = mark.chunk;
    arena->values.offset = mark.offset;
    arena->host.current = mark.host_chunk;
    arena->host.offset = mark.host_offset;
}

void imagine__arena_trim(imagine__arena *arena)
{
    stack *all[] = { &arena->values, &arena->host };
    for (size_t i = 0; i < 2; i++)
        free_chunks(arena, all[i], all[i]->current + (all[i]->offset ? 1 : 0));
}
