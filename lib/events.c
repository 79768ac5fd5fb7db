/* SPDX-License-Identifier: MIT */
#include "events.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define CANCEL_POLL_NS 10000000 /* a token fired in a signal handler cannot wake a condition variable */

void imagine__events_init(imagine__events *events)
{
    pthread_condattr_t attributes;
    memset(events, 0, sizeof *events);
    pthread_mutex_init(&events->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&events->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    events->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

static void drop(imagine_event *event)
{
    imagine_buffer_release(&event->frames);
    imagine_buffer_release(&event->latents);
}

void imagine__events_fini(imagine__events *events)
{
    for (int32_t i = 0; i < events->count; i++)
        drop(&events->ring[i]);
    drop(&events->held);
    if (events->fd >= 0)
        close(events->fd);
    pthread_cond_destroy(&events->changed);
    pthread_mutex_destroy(&events->mutex);
}

/* The eventfd's state follows the queue's; under the mutex. */
static void update_fd(imagine__events *events)
{
    uint64_t value = 1;
    if (events->fd < 0)
        return;
    ssize_t moved = events->count || events->finished ? write(events->fd, &value, sizeof value)
                                                      : read(events->fd, &value, sizeof value);
    (void)moved; /* EAGAIN: it is in that state already */
}

static void take_out(imagine__events *events, int32_t index)
{
    events->count--;
    memmove(events->ring + index, events->ring + index + 1, (size_t)(events->count - index) * sizeof *events->ring);
}

static int32_t count_kind(const imagine__events *events, imagine_event_kind kind)
{
    int32_t count = 0;
    for (int32_t i = 0; i < events->count; i++)
        count += events->ring[i].kind == kind;
    return count;
}

static struct timespec from_now(int64_t ns)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    if (ns > (int64_t)1e18)
        ns = (int64_t)1e18; /* thirty years */
    t.tv_sec += (time_t)(ns / 1000000000);
    t.tv_nsec += (long)(ns % 1000000000);
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

imagine_status imagine__events_push(imagine__events *events, const imagine_event *event, const imagine_cancel *cancel,
                                    imagine_error *error)
{
    imagine_event added = *event;
    pthread_mutex_lock(&events->mutex);
    if (added.kind == IMAGINE_EVENT_STEP || added.kind == IMAGINE_EVENT_PREVIEW)
        for (int32_t i = events->count - 1; i >= 0; i--)
            if (events->ring[i].kind == added.kind) {
                drop(&events->ring[i]);
                take_out(events, i);
            }
    while (count_kind(events, added.kind) >= IMAGINE__EVENT_FRAMES && !imagine_cancel_fired(cancel)) {
        struct timespec until = from_now(CANCEL_POLL_NS);
        pthread_cond_timedwait(&events->changed, &events->mutex, &until);
    }
    int room = count_kind(events, added.kind) < IMAGINE__EVENT_FRAMES;
    if (room) {
        events->ring[events->count++] = added;
        update_fd(events);
        pthread_cond_broadcast(&events->changed);
    }
    pthread_mutex_unlock(&events->mutex);
    if (room)
        return IMAGINE_OK;
    drop(&added);
    return imagine__fail(error, IMAGINE_ERROR_CANCELLED, "cancelled");
}

void imagine__events_make_room(imagine__events *events, imagine_event_kind kind)
{
    imagine_event event = { .struct_size = sizeof event };
    while (count_kind(events, kind) >= IMAGINE__EVENT_FRAMES)
        imagine__events_take(events, &event, 0, NULL);
}

void imagine__events_finish(imagine__events *events, imagine_status status, const imagine_error *error,
                            const imagine_event *done)
{
    pthread_mutex_lock(&events->mutex);
    events->finished = 1;
    events->status = status;
    events->error = *error;
    events->done = *done;
    update_fd(events);
    pthread_cond_broadcast(&events->changed);
    pthread_mutex_unlock(&events->mutex);
}

/* Waits until there is an event or the job is over; under the mutex. 0: the time is up. */
static int wait_for_event(imagine__events *events, int64_t timeout_ns)
{
    struct timespec until = timeout_ns > 0 ? from_now(timeout_ns) : (struct timespec){ 0 };
    while (!events->count && !events->finished) {
        if (timeout_ns == 0)
            return 0;
        if (timeout_ns < 0)
            pthread_cond_wait(&events->changed, &events->mutex);
        else if (pthread_cond_timedwait(&events->changed, &events->mutex, &until) == ETIMEDOUT)
            return events->count || events->finished;
    }
    return 1;
}

static imagine_status give(imagine_event *out, const imagine_event *event, imagine_error *error)
{
    return imagine__write_struct(out, event, sizeof *event, "imagine_event", error);
}

/* The event that the caller had before is gone: what it pointed to must not be looked at. */
static void forget(imagine_event *out)
{
    if (imagine__check_struct(out, "imagine_event", NULL) < 0)
        return;
    if (out->struct_size >= offsetof(imagine_event, frames) + sizeof out->frames)
        out->frames = NULL;
    if (out->struct_size >= offsetof(imagine_event, latents) + sizeof out->latents)
        out->latents = NULL;
}

imagine_status imagine__events_take(imagine__events *events, imagine_event *event, int64_t timeout_ns,
                                    imagine_error *error)
{
    imagine_status status;
    drop(&events->held);
    forget(event);
    pthread_mutex_lock(&events->mutex);
    if (!wait_for_event(events, timeout_ns)) {
        status = IMAGINE_TIMEOUT;
    } else if (events->count) {
        status = give(event, &events->ring[0], error);
        if (status >= 0) {
            events->held = events->ring[0];
            take_out(events, 0);
            update_fd(events);
            pthread_cond_broadcast(&events->changed);
        }
    } else if (events->status < 0) {
        status = imagine__fail(error, events->status, "%s", events->error.message);
        if (error)
            error->native_code = events->error.native_code;
    } else {
        status = give(event, &events->done, error);
    }
    pthread_mutex_unlock(&events->mutex);
    return status;
}
