/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/context.h"

#define ALIGNMENT ((size_t)64)
#define HUGE_PAGE ((size_t)2 << 20)

/* Stands in front of every block and fills one alignment. */
typedef struct header {
    size_t size; /* with the header */
} header;

/* Large blocks begin with whole huge pages where the system has them: attention and convolution read with large strides, a
 * page for every few lines. */
void *imagine__default_allocate(void *user_data, size_t size, size_t alignment)
{
    void *pointer = NULL;
    (void)user_data;
    if (size >= 2 * HUGE_PAGE)
        alignment = HUGE_PAGE;
    if (posix_memalign(&pointer, alignment, size))
        return NULL;
    if (size >= 2 * HUGE_PAGE)
        (void)madvise(pointer, size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return pointer;
}

void imagine__default_release(void *user_data, void *pointer, size_t size)
{
    (void)user_data;
    (void)size;
    free(pointer);
}

int imagine__mul_size(size_t a, size_t b, size_t *result)
{
    return !__builtin_mul_overflow(a, b, result);
}

int imagine__add_size(size_t a, size_t b, size_t *result)
{
    return !__builtin_add_overflow(a, b, result);
}

/* Books `size` bytes if the limit allows it. */
static int reserve(imagine_context *context, uint64_t size)
{
    uint64_t used = atomic_load_explicit(&context->memory_used, memory_order_relaxed), now;
    do {
        now = used + size;
        if (now < used || (context->memory_limit && now > context->memory_limit)) {
            atomic_store_explicit(&context->refused, context->memory_limit ? used : IMAGINE__BY_ALLOCATOR, memory_order_relaxed);
            return 0;
        }
    } while (!atomic_compare_exchange_weak(&context->memory_used, &used, now));
    return 1;
}

/* What was booked has come. */
static void raise_peak(imagine_context *context)
{
    uint64_t now = atomic_load(&context->memory_used);
    uint64_t peak = atomic_load(&context->memory_peak); /* not one of before a reset that has not seen this */
    while (now > peak && !atomic_compare_exchange_weak(&context->memory_peak, &peak, now))
        ;
}

/* Books a block of `size` bytes; *total is what it takes. */
static int book(imagine_context *context, size_t size, size_t *total)
{
    if (imagine__add_size(size, ALIGNMENT, total) && *total <= PTRDIFF_MAX)
        return reserve(context, *total);
    atomic_store_explicit(&context->refused, IMAGINE__BY_ALLOCATOR, memory_order_relaxed);
    return 0;
}

/* What was booked could not be had. */
static void *refuse(imagine_context *context, size_t total, uint64_t by)
{
    atomic_fetch_sub(&context->memory_used, total);
    atomic_store_explicit(&context->refused, by, memory_order_relaxed);
    return NULL;
}

void *imagine__alloc(imagine_context *context, size_t size)
{
    size_t total;
    if (!book(context, size, &total))
        return NULL;
    header *block = context->allocate(context->allocator_data, total, ALIGNMENT);
    if (!block) /* what a plan needs itself comes from the context that it is made for, whose limit may be reached */
        return refuse(context, total, context->plan ? imagine__plan_refused(context) : IMAGINE__BY_ALLOCATOR);
    raise_peak(context);
    block->size = total;
    return (char *)block + ALIGNMENT;
}

void *imagine__calloc(imagine_context *context, size_t count, size_t size)
{
    size_t total;
    if (!imagine__mul_size(count, size, &total))
        return NULL;
    void *pointer = imagine__alloc(context, total);
    return pointer ? memset(pointer, 0, total) : NULL;
}

/* Gives back a block of values that lies elsewhere. Its size, or 0: it is one with a header. */
static size_t give_back(imagine_context *context, void *pointer)
{
    if (context->plan)
        return imagine__plan_give_back(context, pointer);
    return context->device ? imagine__device_free(context, pointer) : 0;
}

void imagine__free(imagine_context *context, void *pointer)
{
    if (!pointer)
        return;
    size_t total = give_back(context, pointer);
    if (!total) {
        header *block = (header *)((char *)pointer - ALIGNMENT);
        total = block->size;
        context->release(context->allocator_data, block, total);
    }
    atomic_fetch_sub(&context->memory_used, total);
}

void *imagine__alloc_values(imagine_context *context, size_t size)
{
    size_t total;
    if (!context->plan && !context->device)
        return imagine__alloc(context, size);
    if (!book(context, size, &total))
        return NULL;
    void *values = context->plan ? imagine__plan_take(context, total) : imagine__device_alloc(context, total);
    if (!values)
        return refuse(context, total, context->plan ? imagine__plan_refused(context) : IMAGINE__BY_DEVICE);
    raise_peak(context);
    return values;
}

void *imagine__alloc_host_values(imagine_context *context, size_t size)
{
    return context->plan ? imagine__alloc_values(context, size) : imagine__alloc(context, size);
}

void imagine__copy_host(const imagine_context *context, void *to, size_t to_step, const void *from, size_t from_step,
                        size_t size, int64_t count)
{
    if (context->plan || !size)
        return;
    for (int64_t i = 0; i < count; i++)
        memcpy((char *)to + (size_t)i * to_step, (const char *)from + (size_t)i * from_step, size);
}

void imagine__clear_host(const imagine_context *context, void *to, size_t size)
{
    if (!context->plan && size)
        memset(to, 0, size);
}

imagine_status imagine__fail_memory_in(const imagine_context *context, imagine_error *error, size_t size, const char *what)
{
    uint64_t held = atomic_load_explicit(&context->refused, memory_order_relaxed);
    if (held != IMAGINE__BY_ALLOCATOR && held != IMAGINE__BY_DEVICE)
        return imagine__fail(error, IMAGINE_ERROR_NO_MEMORY,
                             "out of memory: %zu bytes for %s: the context's limit of %.1f MB is reached, %.1f MB are held",
                             size, what, (double)imagine__context_limit(context) / 1e6, (double)held / 1e6);
    return imagine__fail(error, IMAGINE_ERROR_NO_MEMORY, "out of memory: the %s had no %zu bytes for %s",
                         held == IMAGINE__BY_DEVICE ? "device" : "allocator", size, what);
}

char *imagine__strdup(imagine_context *context, const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = imagine__alloc(context, size);
    return copy ? memcpy(copy, text, size) : NULL;
}

void *imagine__realloc(imagine_context *context, void *pointer, size_t size)
{
    void *fresh = imagine__alloc(context, size);
    if (!fresh || !pointer)
        return fresh;
    size_t old = ((header *)((char *)pointer - ALIGNMENT))->size - ALIGNMENT;
    memcpy(fresh, pointer, old < size ? old : size);
    imagine__free(context, pointer);
    return fresh;
}
