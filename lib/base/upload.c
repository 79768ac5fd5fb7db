/* SPDX-License-Identifier: MIT */

/* Weights on their way to a device, through two buffers of pinned memory and the context's stream for copies: while one buffer is
 * copied the other is filled, and operations go on in their own stream. */

#include "base/context.h"
#include "base/device.h"

#define PAGE ((size_t)4096)

struct imagine__uploader {
    imagine_context *context;
    char *memory, *buffers[2]; /* in it, on pages of their own */
    size_t size, used; /* of a buffer; of the present one */
    int32_t at; /* the present one */
    int32_t pinned; /* 1, or 0: copies are made by the driver, and overlap less */
    void *marks[4]; /* behind the copies from each buffer; behind all of them; behind what uses what was copied before */
};
enum { ALL = 2, USED };

static const imagine__cuda *enter(const imagine__uploader *u)
{
    const imagine__device *d = u->context->device;
    (void)d->cuda->use_device(d->number);
    return d->cuda;
}

/* A plan has a device only in what it counts. */
static int real(const imagine__uploader *u)
{
    return u->context->device && !u->context->plan && !imagine__forked(u->context);
}

imagine__uploader *imagine__uploader_create(imagine_context *context, size_t size)
{
    imagine__uploader *u = imagine__calloc(context, 1, sizeof *u);
    if (!u)
        return NULL;
    u->context = context;
    u->size = (size + PAGE - 1) / PAGE * PAGE;
    u->memory = imagine__alloc_host_values(context, 2 * u->size + PAGE);
    if (!u->memory) {
        imagine__free(context, u);
        return NULL;
    }
    u->buffers[0] = u->memory + (PAGE - (uintptr_t)u->memory % PAGE);
    u->buffers[1] = u->buffers[0] + u->size;
    int code = 0;
    for (int i = 0; i < 4 && real(u) && !code; i++)
        code = enter(u)->mark_create(&u->marks[i]);
    if (code) {
        atomic_store(&context->device->refused, code);
        imagine__uploader_destroy(u);
        return NULL;
    }
    if (real(u)) {
        code = enter(u)->pin(u->buffers[0], 2 * u->size);
        u->pinned = !code;
        if (code)
            imagine__log(context, IMAGINE_LOG_INFO, "CUDA: memory to copy weights from cannot be pinned (%s)",
                         context->device->cuda->error_text(code));
    }
    return u;
}

void imagine__uploader_destroy(imagine__uploader *u)
{
    if (!u)
        return;
    if (real(u)) {
        if (u->marks[ALL])
            (void)imagine__uploader_wait(u);
        if (u->pinned)
            enter(u)->unpin(u->buffers[0]);
        for (int i = 0; i < 4; i++)
            enter(u)->mark_destroy(u->marks[i]);
    }
    imagine__free(u->context, u->memory);
    imagine__free(u->context, u);
}

size_t imagine__uploader_size(const imagine__uploader *u)
{
    return u->size;
}

void *imagine__uploader_take(imagine__uploader *u, size_t size, int *code)
{
    *code = 0;
    if (size > u->size)
        return NULL;
    if (u->size - u->used < size) {
        if (real(u)) {
            *code = enter(u)->mark(u->marks[u->at], u->context->device->copies);
            if (!*code) /* the copies from the other one are done; it was never marked when it was never used */
                *code = enter(u)->mark_wait(u->marks[!u->at]);
        }
        u->at = !u->at;
        u->used = 0;
    }
    char *taken = u->buffers[u->at] + u->used;
    u->used += (size + 63) / 64 * 64;
    if (u->used > u->size)
        u->used = u->size;
    return *code ? NULL : taken;
}

int imagine__uploader_send(imagine__uploader *u, void *to, const void *from, size_t size)
{
    return real(u) ? enter(u)->upload_later(to, from, size, u->context->device->copies) : 0;
}

int imagine__uploader_wait(imagine__uploader *u)
{
    int code = imagine__uploader_mark(u);
    return code || !real(u) ? code : enter(u)->mark_wait(u->marks[ALL]);
}

int imagine__uploader_mark(imagine__uploader *u)
{
    return real(u) ? enter(u)->mark(u->marks[ALL], u->context->device->copies) : 0;
}

int imagine__uploader_use(imagine__uploader *u)
{
    return real(u) ? enter(u)->stream_wait(u->context->device->stream, u->marks[ALL]) : 0;
}

int imagine__uploader_used(imagine__uploader *u)
{
    return real(u) ? enter(u)->mark(u->marks[USED], u->context->device->stream) : 0;
}

int imagine__uploader_again(imagine__uploader *u)
{
    return real(u) ? enter(u)->stream_wait(u->context->device->copies, u->marks[USED]) : 0;
}
