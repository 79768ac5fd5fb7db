/* SPDX-License-Identifier: MIT */
#ifndef TESTS_API_RECORDING_H
#define TESTS_API_RECORDING_H

/* On a GPU: a program that records a graph with a thread and a stream of its own, in the global mode, and so forbids all others what
 * might wait for it. */

#include <pthread.h>
#include <semaphore.h>

#include "driver.h"

#define RECORDING_GLOBAL 0 /* CU_STREAM_CAPTURE_MODE_GLOBAL */
#define RECORDING_NON_BLOCKING 1 /* CU_STREAM_NON_BLOCKING */

typedef struct recording {
    int (*init)(unsigned), (*retain)(void **context, int device), (*set)(void *context), (*release)(int device);
    int (*stream)(void **stream, unsigned flags), (*begin)(void *stream, int mode), (*end)(void *stream, void **graph);
    int (*destroy_graph)(void *graph), (*destroy_stream)(void *stream);
    pthread_t thread;
    sem_t begun, over;
    int code; /* the driver's, of the first step that failed */
} recording;

static inline void *record_beside(void *arg)
{
    recording *r = arg;
    void *context = NULL, *stream = NULL, *graph = NULL;
    r->code = r->retain(&context, 0);
    r->code = r->code ? r->code : r->set(context);
    r->code = r->code ? r->code : r->stream(&stream, RECORDING_NON_BLOCKING);
    r->code = r->code ? r->code : r->begin(stream, RECORDING_GLOBAL);
    sem_post(&r->begun);
    if (!r->code) {
        sem_wait(&r->over);
        r->code = r->end(stream, &graph);
    }
    if (graph)
        r->destroy_graph(graph);
    if (stream)
        r->destroy_stream(stream);
    if (context)
        r->release(0);
    return NULL;
}

/* 0: there is no driver to record with. */
static inline int recording_begin(recording *r)
{
    *r = (recording){ .code = 0 };
    const driver_function all[] = { { &r->init, "cuInit" }, { &r->retain, "cuDevicePrimaryCtxRetain" }, { &r->set, "cuCtxSetCurrent" },
                { &r->release, "cuDevicePrimaryCtxRelease_v2" }, { &r->stream, "cuStreamCreate" },
                { &r->begin, "cuStreamBeginCapture_v2" }, { &r->end, "cuStreamEndCapture" },
                { &r->destroy_graph, "cuGraphDestroy" }, { &r->destroy_stream, "cuStreamDestroy_v2" } };
    if (!driver_find(all, sizeof all / sizeof *all) || r->init(0) || sem_init(&r->begun, 0, 0) || sem_init(&r->over, 0, 0))
        return 0;
    if (pthread_create(&r->thread, NULL, record_beside, r))
        return 0;
    sem_wait(&r->begun);
    return 1;
}

/* 0, or the driver's number of what spoilt the recording (901) or failed before it. */
static inline int recording_end(recording *r)
{
    sem_post(&r->over);
    pthread_join(r->thread, NULL);
    sem_destroy(&r->begun);
    sem_destroy(&r->over);
    return r->code;
}

#endif
