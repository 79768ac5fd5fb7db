/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/context.h"

#define SPIN_NANOSECONDS 20000
#define MOST_SHARES 32

/* Neighbouring tiles, which one thread begins with, so that it comes back to the same memory from operation to operation. */
typedef struct share {
    _Atomic int64_t next; /* tile to take */
    int64_t end;
} share;

/* One imagine__parallel, on its caller's stack. */
typedef struct task {
    imagine__run *run;
    imagine__tile_fn *fn;
    void *arg;
    int32_t shares; /* as many as threads, if there are not too many */
    share share[MOST_SHARES];
    atomic_int helpers; /* workers inside; the caller leaves only when it is 0 */
    struct task *before, *after; /* in the pool's ring, under its mutex */
} task;

typedef struct worker {
    imagine__pool *pool;
    void *scratch;
    pthread_t thread;
} worker;

struct imagine__pool {
    pthread_mutex_t mutex;
    task *ring; /* tasks with tiles left, under the mutex; workers begin with this one and move it on */
    atomic_int tasks; /* in the ring */
    atomic_uint posted; /* counts posts; idle workers wait for it to change */
    atomic_int sleepers; /* workers asleep on `posted` */
    atomic_uint left; /* counts last helpers leaving; callers wait for it to change */
    atomic_int waiters; /* callers asleep on `left` */
    atomic_int ending;
    int spin;
    int32_t started;
    worker workers[];
};

static void futex_wait(atomic_uint *word, unsigned seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Looks at *word for a moment before its caller goes to sleep; 1 once it differs from `seen`. Work often comes within
 * microseconds, and waking a thread takes longer than that. */
static int spin_while(const imagine__pool *pool, atomic_uint *word, unsigned seen)
{
    if (!pool->spin)
        return 0;
    int64_t end = nanoseconds() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != seen)
                return 1;
            relax();
        }
    } while (nanoseconds() < end);
    return 0;
}

static void enter_ring(imagine__pool *pool, task *t)
{
    if (pool->ring) {
        t->after = pool->ring;
        t->before = pool->ring->before;
        t->before->after = t->after->before = t;
    } else {
        pool->ring = t->before = t->after = t;
    }
    atomic_fetch_add(&pool->tasks, 1);
}

static void leave_ring(imagine__pool *pool, task *t)
{
    t->before->after = t->after;
    t->after->before = t->before;
    if (pool->ring == t)
        pool->ring = t->after == t ? NULL : t->after;
    atomic_fetch_sub(&pool->tasks, 1);
}

static int tiles_left(task *t)
{
    for (int32_t i = 0; i < t->shares; i++)
        if (atomic_load_explicit(&t->share[i].next, memory_order_relaxed) < t->share[i].end)
            return 1;
    return 0;
}

/* A task with tiles left, which this worker has then entered; NULL: none. */
static task *find_task(imagine__pool *pool)
{
    task *found = NULL;
    pthread_mutex_lock(&pool->mutex);
    task *t = pool->ring;
    if (t)
        do {
            if (tiles_left(t)) {
                found = t;
                atomic_fetch_add(&t->helpers, 1);
                pool->ring = t->after; /* the next worker helps another caller */
                break;
            }
            t = t->after;
        } while (t != pool->ring);
    pthread_mutex_unlock(&pool->mutex);
    return found;
}

/* Takes tiles of share `at` until there are none, or, for a worker while others wait for help, one; 1: none is left. */
static int take_share(imagine__pool *pool, task *t, int32_t at, void *scratch, int helping)
{
    share *own = &t->share[at];
    while (atomic_load_explicit(&own->next, memory_order_relaxed) < own->end) {
        int64_t tile = atomic_fetch_add_explicit(&own->next, 1, memory_order_relaxed);
        if (tile >= own->end)
            return 1;
        if (!t->run->stopped(t->run))
            t->fn(t->arg, tile, scratch);
        if (helping && atomic_load_explicit(&pool->tasks, memory_order_relaxed) > 1)
            return 0;
    }
    return 1;
}

/* The same for all tiles: those of thread `number` of the pool's first, then what others have left. */
static void take_tiles(imagine__pool *pool, task *t, int32_t number, void *scratch, int helping)
{
    int32_t at = number % t->shares;
    for (int32_t i = 0; i < t->shares; i++) {
        if (!take_share(pool, t, at, scratch, helping))
            return;
        at = at + 1 < t->shares ? at + 1 : 0;
    }
}

static void leave_task(imagine__pool *pool, task *t)
{
    if (atomic_fetch_sub(&t->helpers, 1) != 1)
        return;
    /* The task may be gone from here on. */
    atomic_fetch_add(&pool->left, 1);
    if (atomic_load(&pool->waiters))
        futex_wake(&pool->left, INT_MAX);
}

static void *work(void *arg)
{
    worker *self = arg;
    imagine__pool *pool = self->pool;
    for (;;) {
        /* Counted before `ending` is looked at, as the pool's end counts as a post: what ends after the look, wakes. */
        unsigned seen = atomic_load(&pool->posted);
        if (atomic_load(&pool->ending))
            return NULL;
        task *t = find_task(pool);
        if (t) {
            take_tiles(pool, t, (int32_t)(self - pool->workers) + 1, self->scratch, 1);
            leave_task(pool, t);
            continue;
        }
        if (spin_while(pool, &pool->posted, seen))
            continue;
        atomic_fetch_add(&pool->sleepers, 1);
        futex_wait(&pool->posted, seen);
        atomic_fetch_sub(&pool->sleepers, 1);
    }
}

static void wait_for_helpers(imagine__pool *pool, task *t)
{
    for (;;) {
        unsigned seen = atomic_load(&pool->left);
        if (!atomic_load(&t->helpers))
            return;
        if (spin_while(pool, &pool->left, seen))
            continue;
        atomic_fetch_add(&pool->waiters, 1);
        if (atomic_load(&t->helpers))
            futex_wait(&pool->left, seen);
        atomic_fetch_sub(&pool->waiters, 1);
    }
}

void imagine__pool_run(imagine__pool *pool, imagine__run *run, int64_t count, imagine__tile_fn *fn, void *arg,
                       void *scratch)
{
    task t;
    t.run = run;
    t.fn = fn;
    t.arg = arg;
    t.shares = pool->started < MOST_SHARES ? pool->started + 1 : MOST_SHARES;
    for (int32_t i = 0; i < t.shares; i++) {
        atomic_init(&t.share[i].next, count * i / t.shares);
        t.share[i].end = count * (i + 1) / t.shares;
    }
    atomic_init(&t.helpers, 0);
    pthread_mutex_lock(&pool->mutex);
    enter_ring(pool, &t);
    pthread_mutex_unlock(&pool->mutex);
    atomic_fetch_add(&pool->posted, 1);
    if (atomic_load(&pool->sleepers))
        futex_wake(&pool->posted, count - 1 > INT_MAX ? INT_MAX : (int)(count - 1));
    take_tiles(pool, &t, 0, scratch, 0);
    pthread_mutex_lock(&pool->mutex);
    leave_ring(pool, &t);
    pthread_mutex_unlock(&pool->mutex);
    wait_for_helpers(pool, &t);
}

static imagine_status fail_scratch(const imagine_context *context, int32_t workers, imagine_error *error)
{
    uint64_t limit = imagine__context_limit(context), all = (uint64_t)workers * IMAGINE__SCRATCH;
    if (!limit || all <= limit)
        return imagine__fail_memory_in(context, error, IMAGINE__SCRATCH, "a thread's scratch");
    return imagine__fail(error, IMAGINE_ERROR_NO_MEMORY,
                         "threads: %d need %.1f MB to work in, and the context's limit is %.1f MB; give fewer threads",
                         (int)workers + 1, (double)all / 1e6, (double)limit / 1e6);
}

static imagine_status start_worker(imagine__pool *pool, imagine_context *context, int32_t workers, imagine_error *error)
{
    worker *w = &pool->workers[pool->started];
    w->pool = pool;
    w->scratch = imagine__alloc(context, IMAGINE__SCRATCH);
    if (!w->scratch)
        return fail_scratch(context, workers, error);
    int number = imagine__thread_create(&w->thread, work, w);
    if (number) {
        imagine__free(context, w->scratch);
        return imagine__fail_errno(error, IMAGINE_ERROR_THREAD, number, "thread %d of the context could not be made",
                                   (int)pool->started + 2);
    }
    pthread_setname_np(w->thread, "imagine");
    pool->started++;
    return IMAGINE_OK;
}

imagine_status imagine__pool_create(imagine__pool **pool, imagine_context *context, int32_t workers, int spin,
                                    imagine_error *error)
{
    size_t size = sizeof(imagine__pool) + (size_t)workers * sizeof(worker);
    imagine__pool *made = imagine__calloc(context, 1, size);
    if (!made)
        return imagine__fail_memory_in(context, error, size, "the threads");
    made->spin = spin;
    pthread_mutex_init(&made->mutex, NULL);
    imagine_status status = IMAGINE_OK;
    for (int32_t i = 0; i < workers && status >= 0; i++)
        status = start_worker(made, context, workers, error);
    if (status < 0)
        imagine__pool_destroy(made, context);
    else
        *pool = made;
    return status;
}

void imagine__pool_destroy(imagine__pool *pool, imagine_context *context)
{
    if (!pool)
        return;
    int forked = imagine__forked(context);
    if (!forked) {
        atomic_store(&pool->ending, 1);
        atomic_fetch_add(&pool->posted, 1);
        futex_wake(&pool->posted, INT_MAX);
    }
    for (int32_t i = 0; i < pool->started; i++) {
        if (!forked)
            pthread_join(pool->workers[i].thread, NULL);
        imagine__free(context, pool->workers[i].scratch);
    }
    if (!forked)
        pthread_mutex_destroy(&pool->mutex);
    imagine__free(context, pool);
}
