/* SPDX-License-Identifier: MIT */

/* Contexts that plan: the library's own code runs in them, allocates and frees as it would, and what it holds at most is
 * read off afterwards. Values are given addresses that no program has: looking through one ends the program at once,
 * which the tests would see, while a wrong count would not be. */

#include "base/context.h"
#include "kernels/plan/plan.h"

#define NOWHERE (UINTPTR_MAX / 2 + 1) /* the upper half of the addresses is the system's */
#define STEP ((uintptr_t)64) /* keeps the alignment of a block */

static void *take_small(void *user_data, size_t size, size_t alignment)
{
    (void)alignment;
    return imagine__alloc(user_data, size);
}

static void give_small(void *user_data, void *pointer, size_t size)
{
    (void)size;
    imagine__free(user_data, pointer);
}

imagine_status imagine__context_plan(imagine_context **planning, imagine_context *context, uint64_t held,
                                     imagine_error *error)
{
    *planning = NULL;
    imagine_context *made = imagine__calloc(context, 1, sizeof *made);
    if (!made)
        return imagine__fail_memory_in(context, error, sizeof *made, "a plan");
    made->process = context->process;
    made->threads = 1;
    made->cpu_level = context->cpu_level;
    made->allocate = take_small;
    made->release = give_small;
    made->allocator_data = context;
    atomic_init(&made->references, 1);
    atomic_init(&made->memory_used, held);
    atomic_init(&made->memory_peak, held);
    made->plan = imagine__calloc(made, 1, sizeof *made->plan);
    if (!made->plan) {
        imagine_context_release(&made);
        return imagine__fail_memory_in(context, error, sizeof *made->plan, "a plan");
    }
    made->plan->limit = imagine__context_limit(context);
    imagine__kernels_plan(&made->plan->kernels, context->kernels);
    made->kernels = made->host_kernels = &made->plan->kernels;
    made->on_device = context->on_device;
    made->activations = context->activations;
    made->products_size = context->products_size;
    *planning = made;
    return IMAGINE_OK;
}

uint64_t imagine__plan_refused(const imagine_context *planning)
{
    const imagine_context *context = planning->allocator_data;
    return atomic_load_explicit(&context->refused, memory_order_relaxed);
}

int imagine__planning(const imagine_context *context)
{
    return context->plan != NULL;
}

void imagine__plan_discount(imagine_context *planning, uint64_t size)
{
    uint64_t used = atomic_load(&planning->memory_used);
    atomic_fetch_sub(&planning->memory_used, size < used ? size : used);
}

void *imagine__plan_take(imagine_context *context, size_t size)
{
    imagine__plan *p = context->plan;
    size_t index = p->count;
    if (p->unused) {
        index = p->unused - 1;
        p->unused = p->sizes[index];
    } else {
        if (p->count == p->capacity) {
            size_t capacity = p->capacity ? 2 * p->capacity : 256;
            size_t *sizes = imagine__realloc(context, p->sizes, capacity * sizeof *sizes);
            if (!sizes)
                return NULL;
            p->sizes = sizes;
            p->capacity = capacity;
        }
        p->count++;
    }
    p->sizes[index] = size;
    return (void *)(NOWHERE + index * STEP); /* these may overlap: nothing is in them */
}

size_t imagine__plan_give_back(imagine_context *context, const void *pointer)
{
    imagine__plan *p = context->plan;
    uintptr_t at = (uintptr_t)pointer;
    if (at < NOWHERE || (at - NOWHERE) / STEP >= p->count)
        return 0;
    size_t index = (at - NOWHERE) / STEP, size = p->sizes[index];
    p->sizes[index] = p->unused;
    p->unused = index + 1;
    return size;
}
