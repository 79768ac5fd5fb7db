/* SPDX-License-Identifier: MIT */

/* Weights block by block, for when they do not fit into memory together. The bytes of a block are those it would have among
 * all others, so a result does not depend on how the weights were read. */

#include <pthread.h>
#include <string.h>

#include "model/model.h"

#define SLOTS 2

typedef struct slot {
    imagine__loaded loaded;
    void *block; /* the caller's struct */
    int32_t index; /* of the block in it; -1: none */
    imagine_status status; /* of reading it */
    imagine_error error;
} slot;

struct imagine__stream {
    imagine_context *context;
    int32_t count;
    size_t size;
    imagine__load_block_fn *load;
    const void *user;
    slot slots[SLOTS];
    int32_t wanted; /* the block that is used now or waited for; those before it are done with */
    int begun, threaded, ending;
    pthread_t thread;
    pthread_mutex_t mutex; /* with a thread: for `wanted`, `ending` and the slots' `index` */
    pthread_cond_t changed;
};

static imagine_status check_copies(const imagine__stream *s, int code, imagine_error *error)
{
    if (!code)
        return IMAGINE_OK;
    return imagine__fail(error, IMAGINE_ERROR_DEVICE, "the weights of a block could not be copied to the device: %s",
                         imagine__device_text(s->context, code));
}

/* Reads block `index` into its slot, which nobody uses but operations that a device has still to do: copies wait for them. */
static void fill(imagine__stream *s, int32_t index)
{
    slot *to = &s->slots[index % SLOTS];
    imagine__loaded_rewind(&to->loaded);
    memset(to->block, 0, s->size);
    to->status = check_copies(s, to->loaded.uploader ? imagine__uploader_again(to->loaded.uploader) : 0, &to->error);
    if (to->status >= 0)
        to->status = s->load(s->user, &to->loaded, index, to->block, &to->error);
    if (to->status >= 0 && to->loaded.uploader)
        to->status = check_copies(s, imagine__uploader_mark(to->loaded.uploader), &to->error);
}

static void *reader(void *arg)
{
    imagine__stream *s = arg;
    pthread_mutex_lock(&s->mutex);
    for (int32_t index = 0; index < s->count; index++) {
        while (!s->ending && index >= s->wanted + SLOTS)
            pthread_cond_wait(&s->changed, &s->mutex);
        if (s->ending)
            break;
        pthread_mutex_unlock(&s->mutex);
        fill(s, index);
        pthread_mutex_lock(&s->mutex);
        s->slots[index % SLOTS].index = index;
        pthread_cond_broadcast(&s->changed);
        if (s->slots[index % SLOTS].status < 0)
            break;
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* Where there is no thread to be had, blocks are read when they are wanted. */
static void start_reader(imagine__stream *s)
{
    s->threaded = !imagine__thread_create(&s->thread, reader, s);
    if (s->threaded)
        pthread_setname_np(s->thread, "imagine weights");
}

/* From the first block on. The memory of the last time is used again: copies into it wait for what used it. */
static void begin(imagine__stream *s)
{
    s->wanted = s->begun = s->ending = 0;
    for (int i = 0; i < SLOTS; i++) {
        s->slots[i].index = -1;
        s->slots[i].status = IMAGINE_OK;
    }
    if (!imagine__planning(s->context))
        start_reader(s);
}

imagine_status imagine__stream_open(imagine__stream **stream, const imagine__work *work,
                                    const imagine__weights *weights, int32_t count, size_t size,
                                    imagine__load_block_fn *load, const void *user, imagine_error *error)
{
    *stream = NULL;
    imagine__stream *s = imagine__calloc(work->context, 1, sizeof *s);
    if (!s)
        return imagine__fail_memory_in(work->context, error, sizeof *s, "reading weights");
    s->context = work->context;
    s->count = count;
    s->size = size;
    s->load = load;
    s->user = user;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
    int all = 1;
    for (int i = 0; i < SLOTS; i++) {
        slot *to = &s->slots[i];
        imagine__loaded_init(&to->loaded, work->context, weights);
        to->loaded.cancel = work->cancel;
        to->loaded.again = 1;
        to->block = imagine__calloc(work->context, 1, size);
        to->error = (imagine_error)IMAGINE_ERROR_INIT;
        all &= to->block != NULL;
    }
    if (!all) {
        imagine__stream_close(s);
        return imagine__fail_memory_in(work->context, error, size, "reading weights");
    }
    begin(s);
    *stream = s;
    return IMAGINE_OK;
}

void imagine__stream_again(imagine__stream *stream, const imagine__work *work)
{
    for (int i = 0; i < SLOTS; i++)
        stream->slots[i].loaded.cancel = work->cancel;
    begin(stream);
}

/* Block `index` is to be there; those before it may be overwritten. */
static void wait_for(imagine__stream *s, int32_t index)
{
    slot *from = &s->slots[index % SLOTS];
    if (!s->threaded) {
        /* A plan counts as if the next one were being read meanwhile. */
        int32_t last = imagine__planning(s->context) && index + 1 < s->count ? index + 1 : index;
        for (int32_t i = index; i <= last; i++)
            if (s->slots[i % SLOTS].index != i) {
                fill(s, i);
                s->slots[i % SLOTS].index = i;
            }
        s->wanted = index;
        return;
    }
    pthread_mutex_lock(&s->mutex);
    s->wanted = index;
    pthread_cond_broadcast(&s->changed);
    while (from->index != index)
        pthread_cond_wait(&s->changed, &s->mutex);
    pthread_mutex_unlock(&s->mutex);
}

imagine_status imagine__stream_next(imagine__stream *stream, const void **block, imagine_error *error)
{
    int32_t index = stream->begun ? stream->wanted + 1 : 0;
    if (index >= stream->count)
        return imagine__fail(error, IMAGINE_ERROR_INTERNAL, "block %d of %d was asked for", (int)index,
                             (int)stream->count);
    imagine__uploader *before = stream->begun ? stream->slots[stream->wanted % SLOTS].loaded.uploader : NULL;
    imagine_status status = check_copies(stream, before ? imagine__uploader_used(before) : 0, error);
    if (status < 0)
        return status;
    wait_for(stream, index);
    stream->begun = 1;
    const slot *from = &stream->slots[index % SLOTS];
    *block = from->block;
    if (from->status < 0 && error)
        *error = from->error;
    if (from->status < 0 || !from->loaded.uploader)
        return from->status;
    return check_copies(stream, imagine__uploader_use(from->loaded.uploader), error);
}

void imagine__stream_pause(imagine__stream *stream)
{
    imagine__uploader *last = stream->begun ? stream->slots[stream->wanted % SLOTS].loaded.uploader : NULL;
    if (last) /* a failure shows in the operations themselves */
        (void)imagine__uploader_used(last);
    if (stream->threaded && !imagine__forked(stream->context)) {
        pthread_mutex_lock(&stream->mutex);
        stream->ending = 1;
        pthread_cond_broadcast(&stream->changed);
        pthread_mutex_unlock(&stream->mutex);
        pthread_join(stream->thread, NULL);
    }
    stream->threaded = 0;
}

void imagine__stream_close(imagine__stream *stream)
{
    if (!stream)
        return;
    imagine__stream_pause(stream);
    for (int i = 0; i < SLOTS; i++) {
        imagine__loaded_free(&stream->slots[i].loaded);
        imagine__free(stream->context, stream->slots[i].block);
    }
    if (!imagine__forked(stream->context)) { /* in a child the thread that uses them is not there to let go of them */
        pthread_cond_destroy(&stream->changed);
        pthread_mutex_destroy(&stream->mutex);
    }
    imagine__free(stream->context, stream);
}
