/* SPDX-License-Identifier: MIT */

/* Graphs: a run's launches that come again and again are recorded once, in a stream that nobody else starts anything in, and
 * from then on started by one call in the context's stream. */

#include <string.h>

#include "base/context.h"
#include "base/device.h"

#define SEQUENCES 8 /* that a run keeps: both ways of guidance, a few sizes */
#define DISTURBED 3 /* recordings that were spoilt, after which a run does without */

struct imagine__sequence {
    imagine__sequence_key key;
    uint64_t used; /* when it last was; 0: never */
    int32_t count, begun; /* times, 2 at most */
    size_t more_size;
    void **graphs; /* [count] */
    char *more; /* [count, more_size] of what was recorded */
};

typedef struct imagine__graphs {
    imagine__sequence sequences[SEQUENCES];
    uint64_t now;
    void *stream; /* that is recorded */
} imagine__graphs;

static const imagine__cuda *enter(const imagine__work *work)
{
    (void)work->device->cuda->use_device(work->device->number);
    return work->device->cuda;
}

/* ---- what is kept -------------------------------------------------------------------------------------------------- */

static void forget(imagine__work *work, imagine__sequence *s)
{
    int usable = work->device && !imagine__forked(work->context);
    for (int32_t i = 0; s->graphs && i < s->count && usable; i++)
        enter(work)->graph_destroy(s->graphs[i]);
    imagine__free(work->context, s->graphs);
    imagine__free(work->context, s->more);
    *s = (imagine__sequence){ .used = 0 };
}

void imagine__graphs_free(imagine__work *work)
{
    imagine__graphs *g = work->queue->graphs;
    if (!g)
        return;
    for (int i = 0; i < SEQUENCES; i++)
        forget(work, &g->sequences[i]);
    if (work->device && !imagine__forked(work->context))
        enter(work)->stream_destroy(g->stream);
    imagine__free(work->context, g);
    work->queue->graphs = NULL;
}

/* The one with this key, else one that begins here, in the place of that which was not used for longest. */
static imagine__sequence *find(imagine__work *work, const imagine__sequence_key *key, int32_t count, size_t more_size)
{
    imagine__sequence *all = work->queue->graphs->sequences, *oldest = all;
    for (int i = 0; i < SEQUENCES; i++) {
        imagine__sequence *s = &all[i];
        if (s->used && s->count == count && s->more_size == more_size && !memcmp(&s->key, key, sizeof *key))
            return s;
        if (s->used < oldest->used)
            oldest = s;
    }
    if (oldest->graphs && work->device)
        (void)enter(work)->synchronize(work->device->stream);
    forget(work, oldest);
    oldest->key = *key;
    oldest->count = count;
    oldest->more_size = more_size;
    return oldest;
}

static int make_room(imagine__work *work, imagine__sequence *s)
{
    size_t size;
    if (s->graphs)
        return 1;
    if (!imagine__mul_size((size_t)s->count, s->more_size, &size))
        return 0;
    s->more = imagine__alloc(work->context, size ? size : 1);
    s->graphs = s->more ? imagine__calloc(work->context, (size_t)s->count, sizeof *s->graphs) : NULL;
    if (!s->graphs) {
        imagine__free(work->context, s->more);
        s->more = NULL;
    }
    return s->graphs != NULL;
}

imagine__sequence *imagine__sequence_begin(imagine__work *work, const imagine__sequence_key *key, int32_t count,
                                           size_t more_size)
{
    imagine__queue *q = work->queue;
    if (!q || count < 1 || (work->device && (!work->device->graphs || q->no_graphs)))
        return NULL;
    if (!q->graphs)
        q->graphs = imagine__calloc(work->context, 1, sizeof *q->graphs);
    if (!q->graphs)
        return NULL;
    imagine__sequence *s = find(work, key, count, more_size);
    s->used = ++q->graphs->now;
    s->begun += s->begun < 2;
    if (!work->device) { /* a plan counts what will be kept */
        (void)make_room(work, s);
        return NULL;
    }
    return s->begun == 2 && make_room(work, s) ? s : NULL;
}

/* ---- recording ----------------------------------------------------------------------------------------------------- */

/* The driver's numbers for a recording that was spoilt. That may be another thread's doing, who waits for the whole device. */
static int is_disturbed(int code)
{
    return code >= 900 && code <= 907;
}

/* The recording is given up, and unless it was disturbed the run does without from now on. */
static void give_up(imagine__work *work, int code)
{
    if (is_disturbed(code) && ++work->queue->disturbed < DISTURBED) {
        imagine__log(work->context, IMAGINE_LOG_INFO, "CUDA: a recording was disturbed (%s) and will be made again",
                     work->device->cuda->error_text(code));
        return;
    }
    work->queue->no_graphs = 1;
    imagine__log(work->context, IMAGINE_LOG_WARNING,
                 "CUDA: operations cannot be recorded as a graph (%s); they are started one by one",
                 work->device->cuda->error_text(code));
}

/* *graph = what `fn` starts, or NULL: something was left out, or cannot be recorded. */
static imagine_status record(imagine__work *work, void **graph, imagine__part_fn *fn, void *arg, imagine_error *error)
{
    imagine__queue *q = work->queue;
    const imagine__cuda *cuda = enter(work);
    *graph = NULL;
    int code = q->graphs->stream ? 0 : cuda->stream_create(&q->graphs->stream);
    if (!code)
        code = cuda->graph_begin(q->graphs->stream);
    if (code) {
        give_up(work, code);
        return IMAGINE_OK;
    }
    q->recording = q->graphs->stream;
    q->incomplete = 0;
    imagine_status status = fn(arg, error);
    q->recording = NULL;
    int end = enter(work)->graph_end(q->graphs->stream, graph);
    code = q->code ? q->code : end;
    q->code = 0;
    if (code)
        give_up(work, code);
    if ((code || status < 0 || q->incomplete) && *graph) {
        cuda->graph_destroy(*graph);
        *graph = NULL;
    }
    return status;
}

static void start(imagine__work *work, void *graph)
{
    imagine__device *d = work->device;
    pthread_mutex_lock(&d->starting); /* its operations go through the workspace */
    int code = enter(work)->graph_launch(graph, d->stream);
    pthread_mutex_unlock(&d->starting);
    imagine__queue_note(work, code, "operations that were recorded");
}

imagine_status imagine__sequence_part(imagine__work *work, imagine__sequence *s, int32_t index, const void *more,
                                      imagine__part_fn *fn, void *arg, imagine_error *error)
{
    if (!s || imagine__run_stopped(&work->run))
        return fn(arg, error);
    void **graph = &s->graphs[index];
    char *recorded = s->more + (size_t)index * s->more_size;
    if (*graph && memcmp(recorded, more, s->more_size)) {
        (void)enter(work)->synchronize(work->device->stream);
        work->device->cuda->graph_destroy(*graph);
        *graph = NULL;
    }
    if (!*graph && !work->queue->no_graphs) {
        imagine_status status = record(work, graph, fn, arg, error);
        if (status < 0)
            return status;
        memcpy(recorded, more, s->more_size);
    }
    if (!*graph)
        return fn(arg, error);
    start(work, *graph);
    return IMAGINE_OK;
}
