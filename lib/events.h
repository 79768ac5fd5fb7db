/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_EVENTS_H
#define IMAGINE_EVENTS_H

/* What a job tells its caller: a short queue between the job's thread and the caller's. */

#include <pthread.h>

#include "base/base.h"

#define IMAGINE__EVENT_FRAMES 4 /* pieces of the clip that may wait for the caller */
#define IMAGINE__EVENT_ROOM (IMAGINE__EVENT_FRAMES + 4)

typedef struct imagine__events {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int32_t fd; /* eventfd, readable while there is something to fetch; -1: none */
    int32_t count;
    imagine_event ring[IMAGINE__EVENT_ROOM]; /* in order, from 0 */
    imagine_event held; /* what the caller has, with its buffers */
    int finished;
    imagine_status status; /* once finished */
    imagine_error error;
    imagine_event done; /* the last event */
} imagine__events;

void imagine__events_init(imagine__events *events);
void imagine__events_fini(imagine__events *events);

/* Adds an event with its buffers, which are the queue's from then on, also on failure. STEP and PREVIEW replace one of their
 * kind; others wait while the queue is full, until `cancel` has fired. */
imagine_status imagine__events_push(imagine__events *events, const imagine_event *event, const imagine_cancel *cancel,
                                    imagine_error *error);
/* For a plan, in which nobody takes events: makes room for one of this kind as the slowest caller does, who holds one and
 * lets the others wait. */
void imagine__events_make_room(imagine__events *events, imagine_event_kind kind);
/* Nothing more will come. `error` is copied when `status` is a failure, `done` is the event that ends a success. */
void imagine__events_finish(imagine__events *events, imagine_status status, const imagine_error *error,
                            const imagine_event *done);
/* See imagine_job_next. */
imagine_status imagine__events_take(imagine__events *events, imagine_event *event, int64_t timeout_ns,
                                    imagine_error *error);

#endif
