/* SPDX-License-Identifier: MIT */

/* Values on a GPU: their memory, the ways to and from the host, and what fails on the way. Everything of a context goes
 * through one stream, so that what is started later sees what was started before, whichever run started it. */

#include <string.h>

#include "base/context.h"
#include "base/device.h"

#define OUT_OF_MEMORY    2 /* the driver's number */
#define LEAST_CAPABILITY 80 /* what the module's kernels are compiled for */

/* The module's functions work on the thread's current device. */
static const imagine__cuda *enter(const imagine__device *device)
{
    (void)device->cuda->use_device(device->number);
    return device->cuda;
}

/* Where the driver does not tell what the thread has, nothing is put back. */
static imagine__visit visit_by(const imagine__cuda *cuda)
{
    imagine__visit visit = { cuda, NULL };
    if (cuda->current_context(&visit.own))
        visit.cuda = NULL;
    return visit;
}

imagine__visit imagine__visit_begin(const imagine_context *context)
{
    return context && context->device && !imagine__forked(context) ? visit_by(context->device->cuda) : (imagine__visit){ NULL, NULL };
}

/* A context that another thread has destroyed meanwhile cannot be put back: then the device's stays, in its place on the stack of
 * contexts, from which whoever has pushed it takes it away. */
void imagine__visit_end(imagine__visit *visit)
{
    if (visit->cuda)
        (void)visit->cuda->set_context(visit->own);
}

imagine_status imagine__device_fail(const imagine__cuda *cuda, int code, const char *what, imagine_error *error)
{
    imagine_status status =
        imagine__fail(error, code == OUT_OF_MEMORY ? IMAGINE_ERROR_NO_MEMORY : IMAGINE_ERROR_DEVICE, "CUDA: %s: %s", what,
                      cuda->error_text(code));
    if (error)
        error->native_code = code;
    return status;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static imagine_status choose(imagine__device *d, int32_t number, imagine_error *error)
{
    int32_t count = 0;
    int code = d->cuda->device_count(&count);
    if (code)
        return imagine__device_fail(d->cuda, code, "devices", error);
    if (number < 0 || number >= count)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "device_number: %d, there %s %d", number,
                             count == 1 ? "is" : "are", count);
    int capability = d->cuda->capability(number);
    if (capability < LEAST_CAPABILITY)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "device: GPU %d has compute capability %d.%d, and %d.%d is the least that is supported; use "
                             "IMAGINE_DEVICE_CPU", number, capability / 10, capability % 10, LEAST_CAPABILITY / 10,
                             LEAST_CAPABILITY % 10);
    d->number = number;
    code = d->cuda->use_device(number);
    return code ? imagine__device_fail(d->cuda, code, "the device", error) : IMAGINE_OK;
}

/* Device memory that operations compute through: the more, the larger the pieces that they work on. */
static imagine_status make_workspace(imagine_context *context, imagine_error *error)
{
    imagine__device *d = context->device;
    size_t available = 0, total = 0, size = IMAGINE__CUDA_WORKSPACE;
    int code = enter(d)->memory_info(&available, &total);
    if (code)
        return imagine__device_fail(d->cuda, code, "the device's memory", error);
    size = total / 64 < size ? total / 64 : size;
    if (context->memory_limit && context->memory_limit / 16 < size)
        size = (size_t)(context->memory_limit / 16);
    d->workspace_size = size / 256 * 256;
    d->workspace = imagine__alloc_values(context, d->workspace_size);
    if (d->workspace)
        return IMAGINE_OK;
    return imagine__device_cause(context, imagine__fail_memory_in(context, error, d->workspace_size, "the device's workspace"), error);
}

/* Where cuDNN's handle and plans will be: one for all stages and jobs, which come and go, and each of which would make its own. */
static imagine_status make_convolutions(imagine_context *context, imagine_error *error)
{
    imagine__device *d = context->device;
    size_t size = d->precision == IMAGINE__CUDA_BF16 ? d->cuda->convolutions_size() : 0;
    d->convolutions = size ? imagine__calloc(context, 1, size) : NULL;
    return d->convolutions || !size ? IMAGINE_OK : imagine__fail_memory_in(context, error, size, "plans of convolutions");
}

imagine_status imagine__device_open(imagine_context *context, int32_t number, void *stream,
                                    imagine__cuda_precision precision, int32_t graphs, imagine_error *error)
{
    imagine__device *d = imagine__calloc(context, 1, sizeof *d);
    if (!d)
        return imagine__fail_memory_in(context, error, sizeof *d, "a device");
    imagine__visit visit __attribute__((cleanup(imagine__visit_end))) = { NULL, NULL };
    imagine_status status = imagine__cuda_open(&d->module, error);
    d->cuda = d->module.table;
    if (status >= 0)
        visit = visit_by(d->cuda);
    d->precision = precision;
    d->graphs = graphs;
    d->stream = stream;
    if (status >= 0)
        status = choose(d, number, error);
    int code = status >= 0 && !stream ? d->cuda->stream_create(&d->stream) : 0;
    d->own_stream = !stream && d->stream;
    if (status >= 0 && !code)
        code = d->cuda->stream_create(&d->copies);
    if (code)
        status = imagine__device_fail(d->cuda, code, "a stream", error);
    if (status < 0) {
        if (d->own_stream)
            d->cuda->stream_destroy(d->stream);
        imagine__cuda_close(&d->module);
        imagine__free(context, d);
        return status;
    }
    pthread_mutex_init(&d->mutex, NULL);
    pthread_mutex_init(&d->starting, NULL);
    context->device = d;
    context->products_size = d->cuda->products_size();
    status = make_convolutions(context, error);
    return status < 0 ? status : make_workspace(context, error); /* after a failure the context is released, and the device with it */
}

void imagine__device_close(imagine_context *context)
{
    imagine__device *d = context->device;
    if (!d)
        return;
    imagine__free(context, d->workspace);
    context->device = NULL;
    if (!imagine__forked(context)) {
        (void)enter(d)->synchronize(d->stream);
        (void)d->cuda->synchronize(d->copies);
        d->cuda->convolutions_close(d->convolutions);
        d->cuda->stream_destroy(d->copies);
        if (d->own_stream)
            d->cuda->stream_destroy(d->stream);
        pthread_mutex_destroy(&d->starting);
        pthread_mutex_destroy(&d->mutex);
        imagine__cuda_close(&d->module);
    }
    imagine__free(context, d->convolutions);
    imagine__free(context, d->blocks);
    imagine__free(context, d);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* The first block at `at` or behind it. */
static size_t find(const imagine__device *d, uintptr_t at)
{
    size_t low = 0, high = d->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (d->blocks[middle].at < at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Room for one more block in the list, under the mutex. *old is to be freed once that is given up. */
static int make_room(imagine_context *context, imagine__device *d, void **old)
{
    *old = NULL;
    if (d->count < d->capacity)
        return 1;
    size_t capacity = d->capacity ? 2 * d->capacity : 256;
    imagine__device_block *blocks = imagine__alloc(context, capacity * sizeof *blocks);
    if (!blocks)
        return 0;
    if (d->count)
        memcpy(blocks, d->blocks, d->count * sizeof *blocks);
    *old = d->blocks;
    d->blocks = blocks;
    d->capacity = capacity;
    return 1;
}

static void count_bytes(imagine__device *d, size_t total)
{
    uint64_t now = atomic_fetch_add(&d->used, total) + total, peak = atomic_load(&d->peak);
    while (now > peak && !atomic_compare_exchange_weak(&d->peak, &peak, now))
        ;
}

void *imagine__device_alloc(imagine_context *context, size_t total)
{
    imagine__device *d = context->device;
    void *made = NULL, *old;
    pthread_mutex_lock(&d->mutex);
    int room = make_room(context, d, &old), code = room ? enter(d)->allocate(&made, total) : 0;
    atomic_store(&d->refused, code == OUT_OF_MEMORY ? 0 : code);
    if (made && !code) {
        size_t at = find(d, (uintptr_t)made);
        memmove(d->blocks + at + 1, d->blocks + at, (d->count - at) * sizeof *d->blocks);
        d->blocks[at] = (imagine__device_block){ (uintptr_t)made, total };
        d->count++;
        count_bytes(d, total);
    }
    pthread_mutex_unlock(&d->mutex);
    imagine__free(context, old);
    if (code)
        imagine__log(context, IMAGINE_LOG_WARNING, "CUDA: %zu bytes of device memory: %s", total,
                     d->cuda->error_text(code));
    return code ? NULL : made;
}

imagine_status imagine__device_cause(imagine_context *context, imagine_status status, imagine_error *error)
{
    const imagine__device *d = context->device;
    int code = d && status == IMAGINE_ERROR_NO_MEMORY ? atomic_load(&d->refused) : 0;
    return code ? imagine__device_fail(d->cuda, code, "memory on the device", error) : status;
}

/* Both streams. What has failed in them is kept. */
static void wait_for_all(imagine__device *d)
{
    int code = enter(d)->synchronize(d->stream), other = d->cuda->synchronize(d->copies);
    if (code || other)
        atomic_store(&d->unreported, code ? code : other);
}

size_t imagine__device_free(imagine_context *context, void *pointer)
{
    imagine__device *d = context->device;
    size_t size = 0;
    if (imagine__forked(context)) { /* the driver is the parent's */
        size_t at = find(d, (uintptr_t)pointer);
        return at < d->count && d->blocks[at].at == (uintptr_t)pointer ? d->blocks[at].size : 0;
    }
    pthread_mutex_lock(&d->mutex);
    size_t at = find(d, (uintptr_t)pointer);
    if (at < d->count && d->blocks[at].at == (uintptr_t)pointer) {
        size = d->blocks[at].size;
        memmove(d->blocks + at, d->blocks + at + 1, (--d->count - at) * sizeof *d->blocks);
    }
    pthread_mutex_unlock(&d->mutex);
    if (!size)
        return 0;
    /* Releasing may wait for what is under way, says the driver's manual, and may not. */
    wait_for_all(d);
    int code = d->cuda->release(pointer);
    if (code)
        imagine__log(context, IMAGINE_LOG_ERROR, "CUDA: %zu bytes of device memory could not be released: %s", size,
                     d->cuda->error_text(code));
    atomic_fetch_sub(&d->used, size);
    return size;
}

int imagine__device_clear(imagine_context *context, void *values, size_t size)
{
    const imagine__device *d = context->device;
    int code = enter(d)->clear(values, size, d->stream);
    return code ? code : d->cuda->synchronize(d->stream);
}

int imagine__upload_now(imagine_context *context, void *to, const void *from, size_t size)
{
    const imagine__device *d = context->device;
    if (d && !context->plan)
        return enter(d)->upload(to, from, size, d->stream);
    imagine__copy_host(context, to, 0, from, 0, size, 1);
    return 0;
}

int imagine__download_now(imagine_context *context, void *to, const void *from, size_t size)
{
    const imagine__device *d = context->device;
    if (d && !context->plan)
        return enter(d)->download(to, from, size, d->stream);
    imagine__copy_host(context, to, 0, from, 0, size, 1);
    return 0;
}

int imagine__fill_now(imagine_context *context, void *values, size_t size, const void *piece, size_t piece_size)
{
    const imagine__device *d = context->device;
    size_t there = size < piece_size ? size : piece_size;
    int code = enter(d)->upload(values, piece, there, d->stream);
    for (; there < size && !code; there *= 2) /* what is there already, once more behind itself */
        code = d->cuda->copy((char *)values + there, values, size - there < there ? size - there : there, d->stream);
    return code ? code : d->cuda->synchronize(d->stream);
}

int imagine__device_copy(imagine_context *to_context, imagine_context *from_context, void *to, const void *from, size_t size)
{
    const imagine__device *d = to_context->device, *other = from_context->device;
    const imagine__cuda *cuda = enter(d);
    int code = other->stream == d->stream ? 0 : cuda->synchronize(other->stream);
    if (!code)
        code = cuda->copy(to, from, size, d->stream);
    return code ? code : cuda->synchronize(d->stream);
}

imagine_status imagine__device_wait_stream(imagine_context *context, imagine_error *error)
{
    const imagine__device *d = context->device;
    int code = enter(d)->synchronize(d->stream);
    return code ? imagine__device_fail(d->cuda, code, "the context's stream", error) : IMAGINE_OK;
}

imagine_status imagine__device_wait_default(imagine_context *context, imagine_error *error)
{
    const imagine__device *d = context->device;
    int code = enter(d)->synchronize(NULL);
    return code ? imagine__device_fail(d->cuda, code, "the default stream", error) : IMAGINE_OK;
}

void imagine__device_wait(imagine_context *context)
{
    imagine__device *d = context->device;
    if (!d || imagine__forked(context))
        return;
    IMAGINE__VISIT(context); /* the caller's release function comes next */
    wait_for_all(d);
}

const char *imagine__device_text(const imagine_context *context, int code)
{
    return context->device ? context->device->cuda->error_text(code) : "no device";
}

/* ---- the stream -------------------------------------------------------------------------------------------------- */

/* The products' library into the stage's memory, the convolutions' into the context's, unless an earlier stage has. One that is missing
 * is said once in a context's life: nothing else tells why all of it is slow. Whether products are there. */
static int open_libraries(imagine__device *d, imagine_context *context, void *memory)
{
    static const char *const names[] = { "no library", "cuBLASLt", "cuDNN", "cuBLASLt and cuDNN" };
    char why[300], also[300] = "";
    const imagine__cuda *cuda = enter(d);
    int products = cuda->products_open(memory, why, sizeof why), convolutions = 1;
    if (d->convolutions) {
        pthread_mutex_lock(&d->starting);
        convolutions = cuda->convolutions_open(d->convolutions, also, sizeof also);
        pthread_mutex_unlock(&d->starting);
    }
    int missing = !products + 2 * !convolutions;
    if (missing && !atomic_exchange(&d->told, 1))
        imagine__log(context, IMAGINE_LOG_WARNING, "CUDA: %s cannot be opened, in whose place slower kernels compute (%s%s%s)",
                     names[missing], why, missing == 3 ? "; " : "", also);
    return products;
}

/* Plans of large products, where the module has a library for them. */
static imagine_status open_products(imagine__work *work, imagine_error *error)
{
    size_t size = work->context->products_size;
    if (!size)
        return IMAGINE_OK;
    void *memory = imagine__alloc(work->context, size);
    if (!memory)
        return imagine__fail_memory(error, size, "plans of products");
    if (!work->device || open_libraries(work->device, work->context, memory)) /* a plan counts them */
        work->queue->products = memory;
    else
        imagine__free(work->context, memory);
    return IMAGINE_OK;
}

imagine_status imagine__queue_open(imagine__work *work, imagine_error *error)
{
    imagine_context *context = work->context;
    if (!imagine__on_device(context))
        return IMAGINE_OK;
    imagine__queue *q = work->queue = imagine__calloc(context, 1, sizeof *q);
    if (q)
        q->flag = imagine__alloc_values(context, sizeof *q->flag);
    if (!q || !q->flag)
        return imagine__fail_memory(error, sizeof *q, "a stage's place on the device");
    if (context->plan)
        return open_products(work, error);
    work->device = context->device;
    for (int i = 0; i < 2; i++) {
        int code = enter(work->device)->mark_create(&q->marks[i]);
        if (code)
            return imagine__device_fail(work->device->cuda, code, "a mark in the stream", error);
    }
    return open_products(work, error);
}

void imagine__queue_close(imagine__work *work)
{
    imagine__queue *q = work->queue;
    if (!q)
        return;
    if ((q->products || q->graphs) && work->device && !imagine__forked(work->context)) {
        (void)enter(work->device)->synchronize(work->device->stream);
        if (q->products)
            work->device->cuda->products_close(q->products);
    }
    imagine__graphs_free(work);
    imagine__free(work->context, q->products);
    for (int i = 0; i < 2 && !imagine__forked(work->context); i++)
        if (q->marks[i])
            enter(work->device)->mark_destroy(q->marks[i]);
    imagine__free(work->context, q->flag);
    imagine__free(work->context, q);
    work->queue = NULL;
}

void *imagine__queue_stream(const imagine__work *work)
{
    return work->queue && work->queue->recording ? work->queue->recording : work->device->stream;
}

void imagine__queue_note(imagine__work *work, int code, const char *what)
{
    if (!code || work->queue->code)
        return;
    work->queue->code = code;
    work->queue->what = what;
}

void imagine__queue_mark(imagine__work *work)
{
    imagine__queue *q = work->queue;
    const imagine__cuda *cuda = enter(work->device);
    uint32_t now = q->blocks++ % 2;
    int code = cuda->mark(q->marks[now], work->device->stream);
    if (!code && q->blocks > 1)
        code = cuda->mark_wait(q->marks[!now]);
    imagine__queue_note(work, code, "the operations of a block");
}

imagine_status imagine__queue_report(imagine__work *work, imagine_error *error)
{
    imagine__queue *q = work->queue;
    int code = q->code, earlier = atomic_exchange(&work->device->unreported, 0);
    if (!code && !earlier)
        return IMAGINE_OK;
    q->code = 0;
    return imagine__device_fail(work->device->cuda, code ? code : earlier, code ? q->what : "an operation before", error);
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

static void *at(const void *base, size_t step, int64_t i)
{
    return (char *)(uintptr_t)base + (size_t)i * step;
}

void imagine__copy(imagine__work *work, void *to, size_t to_step, const void *from, size_t from_step, size_t size,
                   int64_t count)
{
    imagine__device *d = work->device;
    if (!d) {
        imagine__copy_host(work->context, to, to_step, from, from_step, size, count);
        return;
    }
    int code = 0;
    for (int64_t i = 0; i < count && !code; i++)
        code = enter(d)->copy(at(to, to_step, i), at(from, from_step, i), size, imagine__queue_stream(work));
    imagine__queue_note(work, code, "a copy");
}

void imagine__clear(imagine__work *work, void *to, size_t size)
{
    if (work->device)
        imagine__queue_note(work, enter(work->device)->clear(to, size, imagine__queue_stream(work)), "clearing memory");
    else
        imagine__clear_host(work->context, to, size);
}

/* A transfer takes place now and waits: a recording that is being made would lack it. */
static void note_transfer(imagine__work *work)
{
    if (work->queue->recording)
        work->queue->incomplete = 1;
}

/* Every transfer waits, so pieces that lie side by side on the device go at once, through the arena. NULL: they do not, or
 * there is no memory for it. */
static void *bounce(imagine__work *work, size_t device_step, size_t size, int64_t count)
{
    return count > 1 && device_step == size ? imagine__arena_host(work->arena, size * (size_t)count) : NULL;
}

void imagine__upload(imagine__work *work, void *to, size_t to_step, const void *from, size_t from_step, size_t size,
                     int64_t count)
{
    imagine__device *d = work->device;
    if (!d) {
        imagine__copy_host(work->context, to, to_step, from, from_step, size, count);
        return;
    }
    note_transfer(work);
    imagine__arena_mark mark = imagine__arena_save(work->arena);
    void *all = bounce(work, to_step, size, count);
    int code = 0;
    if (all) {
        imagine__copy_host(work->context, all, size, from, from_step, size, count);
        code = enter(d)->upload(to, all, size * (size_t)count, d->stream);
    }
    for (int64_t i = 0; i < count && !all && !code; i++)
        code = enter(d)->upload(at(to, to_step, i), at(from, from_step, i), size, d->stream);
    imagine__arena_restore(work->arena, mark);
    imagine__queue_note(work, code, "a copy to the device");
}

void imagine__download(imagine__work *work, void *to, size_t to_step, const void *from, size_t from_step, size_t size,
                       int64_t count)
{
    imagine__device *d = work->device;
    if (!d) {
        imagine__copy_host(work->context, to, to_step, from, from_step, size, count);
        return;
    }
    note_transfer(work);
    imagine__arena_mark mark = imagine__arena_save(work->arena);
    void *all = bounce(work, from_step, size, count);
    int code = 0;
    if (all) {
        code = enter(d)->download(all, from, size * (size_t)count, d->stream);
        if (!code)
            imagine__copy_host(work->context, to, to_step, all, size, size, count);
    }
    for (int64_t i = 0; i < count && !all && !code; i++)
        code = enter(d)->download(at(to, to_step, i), at(from, from_step, i), size, d->stream);
    imagine__arena_restore(work->arena, mark);
    imagine__queue_note(work, code, "a copy from the device");
}

void *imagine__borrow(imagine__work *work, void *values, size_t size, int how)
{
    if (!imagine__on_device(work->context))
        return values;
    void *host = imagine__arena_host(work->arena, size);
    if (host && how & IMAGINE__READ)
        imagine__download(work, host, 0, values, 0, size, 1);
    return host;
}

void imagine__return(imagine__work *work, void *values, const void *borrowed, size_t size)
{
    if (imagine__on_device(work->context))
        imagine__upload(work, values, 0, borrowed, 0, size, 1);
}

void *imagine__lend(imagine__work *work, const void *host, size_t size)
{
    if (!imagine__on_device(work->context))
        return (void *)(uintptr_t)host;
    void *values = imagine__arena_alloc(work->arena, size);
    if (values)
        imagine__upload(work, values, 0, host, 0, size, 1);
    return values;
}
