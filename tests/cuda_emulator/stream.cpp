/* SPDX-License-Identifier: MIT */
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <thread>

#include "internal.h"

/* Streams, marks, graphs, and copies from pinned memory. What is put into a stream waits there; either copies or kernels are
 * done at once, with all that is before them in their stream, and the others at the last legal moment: when the host, or
 * something that is done at once, waits for them. So a wait that is missing shows in one of the two. */

namespace emulator {

typedef std::function<int()> work;

struct entry {
    kind_of_work kind;
    work todo;
};

struct stream {
    std::deque<entry> pending;
    uint64_t put = 0, done = 0; /* entries ever */
    bool busy = false;
    int error = 0;
    bool capturing = false, spoilt = false, global = false;
    std::thread::id owner; /* of the capture */
    std::vector<work> recorded;
};

struct mark {
    std::shared_ptr<stream> in;
    uint64_t at = 0;
};

/* Copies that wait share it. */
struct pinned {
    size_t size = 0;
};

static constexpr int UNSUPPORTED = 900, INVALIDATED = 901, INVALID_DEVICE = 101, OUT_OF_MEMORY = 2, INVALID = 1;

static std::map<void *, std::shared_ptr<stream>> streams = {{nullptr, std::make_shared<stream>()}};
static std::map<void *, mark> marks;
static std::map<void *, std::shared_ptr<std::vector<work>>> graphs;
static std::map<const unsigned char *, std::shared_ptr<pinned>> pins;
static bool kernels_lag, pins_fail;
static int64_t failing_capture; /* 0: none */
static uint64_t made, started;

[[noreturn]] static void misuse(const char *what, const void *handle)
{
    fprintf(stderr, "emulator: %s: %p\n", what, handle);
    exit(1);
}

template <class T> static T &at(std::map<void *, T> &all, void *handle, const char *what)
{
    auto found = all.find(handle);
    if (found == all.end())
        misuse(what, handle);
    return found->second;
}

static char primary; /* the context of the only device */
static thread_local void *current;

/* Whatever works on the device does so in the thread's context. */
static void need_context()
{
    if (!current)
        current = &primary;
    if (current != &primary)
        misuse("an operation in a context that is not the device's", current);
}

static std::shared_ptr<stream> stream_at(void *handle)
{
    need_context();
    return at(streams, handle, "no such stream");
}

int use_device(int device)
{
    if (device)
        return INVALID_DEVICE;
    current = &primary;
    return 0;
}

void *current_context()
{
    return current;
}

void set_context(void *context)
{
    current = context;
}

/* ---- what waits in a stream ---------------------------------------------------------------------------------------- */

/* All up to the entry of this number. After a failure the rest is passed over. */
static void drain(stream &s, uint64_t end)
{
    if (s.done >= end)
        return;
    open_memory open; /* once for all of it */
    while (s.done < end) {
        if (s.busy)
            misuse("streams wait for each other", &s);
        entry next = std::move(s.pending.front());
        s.pending.pop_front();
        s.busy = true;
        int code = s.error ? 0 : next.todo();
        s.busy = false;
        if (code)
            s.error = code;
        s.done++;
    }
}

static int take_error(stream &s)
{
    int code = s.error;
    s.error = 0;
    return code;
}

static int64_t calling; /* counts down to the call */
static uint64_t after;
static void (*call_then)(void *);
static void *call_with;

void at_launch(int64_t number, void (*call)(void *), void *arg)
{
    locked lock;
    calling = number;
    call_then = number ? call : nullptr;
    call_with = arg;
    if (number)
        after = 0;
}

uint64_t launches_after()
{
    locked lock;
    return after;
}

/* A kernel begins, or is recorded. */
static void count_launch()
{
    if (call_then && calling <= 0)
        after++;
    if (call_then && calling > 0 && !--calling)
        call_then(call_with);
}

static int spoil(stream &s, const char *what)
{
    s.spoilt = true;
    char text[200];
    snprintf(text, sizeof text, "%s while a stream is captured", what);
    note(text);
    return UNSUPPORTED;
}

static thread_local int capture_mode = GLOBAL;

int exchange_capture_mode(int *mode)
{
    int before = capture_mode;
    capture_mode = *mode;
    *mode = before;
    return 0;
}

int unsafe(const char *what)
{
    locked lock;
    for (auto &each : streams)
        if (each.second->capturing && each.second->global && capture_mode == GLOBAL)
            return spoil(*each.second, what);
    return 0;
}

bool capture_elsewhere(bool begin)
{
    static void *handle;
    locked lock;
    if (begin) {
        if (stream_create(&handle))
            misuse("no stream to capture", handle);
        stream_at(handle)->capturing = stream_at(handle)->global = true;
        return false;
    }
    bool spoilt = stream_at(handle)->spoilt;
    stream_at(handle)->capturing = false;
    stream_destroy(handle);
    return spoilt;
}

static bool capture_fails()
{
    return failing_capture > 0 && !--failing_capture;
}

int put(void *handle, kind_of_work kind, work todo)
{
    locked lock;
    std::shared_ptr<stream> s = stream_at(handle);
    if (s->capturing) {
        if (kind != KERNEL)
            return spoil(*s, "a copy from the host or a wait");
        if (capture_fails())
            return spoil(*s, "a launch that was to fail");
        count_launch();
        s->recorded.push_back(std::move(todo));
        return 0;
    }
    s->pending.push_back({kind, std::move(todo)});
    s->put++;
    if (kind != (kernels_lag ? COPY : KERNEL))
        return 0;
    drain(*s, s->put);
    return take_error(*s);
}

int put_kernel(void *handle, dim3 grid, dim3 size, size_t shared_bytes, void (*call)(const void *), const void *arguments,
               size_t bytes)
{
    std::shared_ptr<void> kept(aligned_alloc(64, (bytes + 63) / 64 * 64), free);
    if (!kept)
        abort();
    memcpy(kept.get(), arguments, bytes);
    return put(handle, KERNEL,
               [=] { return count_launch(), run(grid, size, shared_bytes, call, kept.get(), bytes); });
}

int finish(void *handle)
{
    locked lock;
    std::shared_ptr<stream> s = stream_at(handle);
    if (s->capturing)
        return spoil(*s, "the host waits");
    drain(*s, s->put);
    return take_error(*s);
}

int settle(void *handle)
{
    locked lock;
    int refused = unsafe("the host waits for a stream");
    return refused ? refused : finish(handle);
}

static void settle_all()
{
    locked lock;
    for (auto &each : streams)
        drain(*each.second, each.second->put);
}

void lag_kernels(bool lag)
{
    settle_all();
    locked lock;
    kernels_lag = lag;
}

/* ---- streams and marks ---------------------------------------------------------------------------------------------- */

int stream_create(void **handle)
{
    locked lock;
    *handle = allocate(1);
    if (!*handle)
        return OUT_OF_MEMORY;
    streams[*handle] = std::make_shared<stream>();
    return 0;
}

void stream_destroy(void *handle)
{
    locked lock;
    if (!handle)
        return;
    std::shared_ptr<stream> s = stream_at(handle);
    drain(*s, s->put);
    streams.erase(handle);
    release(handle);
}

int mark_create(void **handle)
{
    locked lock;
    need_context();
    *handle = allocate(1);
    if (!*handle)
        return OUT_OF_MEMORY;
    marks[*handle] = {};
    return 0;
}

void mark_destroy(void *handle)
{
    locked lock;
    if (!handle)
        return;
    at(marks, handle, "no such mark");
    marks.erase(handle);
    release(handle);
}

int put_mark(void *handle, void *stream_handle)
{
    locked lock;
    std::shared_ptr<stream> s = stream_at(stream_handle);
    if (s->capturing)
        return spoil(*s, "a mark");
    at(marks, handle, "no such mark") = {s, s->put};
    return 0;
}

int mark_wait(void *handle)
{
    locked lock;
    mark m = at(marks, handle, "no such mark");
    if (int refused = unsafe("the host waits for a mark"))
        return refused;
    if (!m.in)
        return 0;
    drain(*m.in, m.at);
    return take_error(*m.in);
}

int stream_wait(void *stream_handle, void *handle)
{
    locked lock;
    mark m = at(marks, handle, "no such mark");
    return put(stream_handle, WAIT, [m] {
        if (m.in)
            drain(*m.in, m.at);
        return m.in ? m.in->error : 0;
    });
}

/* ---- graphs ----------------------------------------------------------------------------------------------------------- */

bool forbidden(const char *what)
{
    locked lock;
    need_context();
    for (auto &each : streams)
        if (each.second->capturing && each.second->owner == std::this_thread::get_id())
            return spoil(*each.second, what);
    return unsafe(what);
}

int graph_begin(void *handle)
{
    locked lock;
    std::shared_ptr<stream> s = stream_at(handle);
    if (s->capturing || !handle || capture_fails()) {
        note("the capture of a stream cannot begin");
        return UNSUPPORTED;
    }
    s->capturing = true;
    s->spoilt = false;
    s->owner = std::this_thread::get_id();
    s->recorded.clear();
    return 0;
}

int graph_end(void *handle, void **graph)
{
    locked lock;
    std::shared_ptr<stream> s = stream_at(handle);
    *graph = nullptr;
    if (!s->capturing || s->owner != std::this_thread::get_id()) {
        note("this thread has begun no capture of the stream");
        return INVALID;
    }
    s->capturing = false;
    if (s->spoilt || capture_fails()) {
        note("the capture of a stream was spoilt");
        return INVALIDATED;
    }
    *graph = allocate(1);
    if (!*graph)
        return OUT_OF_MEMORY;
    graphs[*graph] = std::make_shared<std::vector<work>>(std::move(s->recorded));
    made++;
    return 0;
}

int graph_launch(void *graph, void *handle)
{
    locked lock;
    std::shared_ptr<std::vector<work>> all = at(graphs, graph, "no such graph");
    if (stream_at(handle)->capturing)
        return spoil(*stream_at(handle), "the launch of a graph");
    started++;
    return put(handle, KERNEL, [all] {
        int code = 0;
        for (size_t i = 0; i < all->size() && !code; i++)
            code = (*all)[i]();
        return code;
    });
}

void graph_destroy(void *graph)
{
    locked lock;
    if (!graph)
        return;
    at(graphs, graph, "no such graph");
    graphs.erase(graph);
    release(graph);
}

void fail_capture(int64_t number)
{
    locked lock;
    failing_capture = number;
}

uint64_t graphs_made()
{
    locked lock;
    return made;
}

uint64_t graphs_started()
{
    locked lock;
    return started;
}

/* ---- copies from pinned memory ------------------------------------------------------------------------------------------ */

int pin(void *memory, size_t size)
{
    locked lock;
    need_context();
    if (int refused = unsafe("memory of the host is pinned"))
        return refused;
    if (pins_fail) {
        note("memory of the host cannot be pinned");
        return OUT_OF_MEMORY;
    }
    auto p = std::make_shared<pinned>();
    p->size = size;
    if (!pins.emplace((const unsigned char *)memory, p).second)
        misuse("pinned twice", memory);
    return 0;
}

void unpin(void *memory)
{
    locked lock;
    if (unsafe("memory of the host is no longer pinned"))
        return; /* it is */
    auto found = pins.find((const unsigned char *)memory);
    if (found == pins.end())
        misuse("unpinned, and never was pinned", memory);
    if (found->second.use_count() > 1)
        misuse("unpinned while a copy from it is under way", memory);
    pins.erase(found);
}

void fail_pins(bool fail)
{
    locked lock;
    pins_fail = fail;
}

size_t pins_held()
{
    locked lock;
    return pins.size();
}

static std::shared_ptr<pinned> pin_around(const void *host, size_t size)
{
    const unsigned char *p = (const unsigned char *)host;
    auto next = pins.upper_bound(p);
    if (next == pins.begin())
        return nullptr;
    --next;
    return p + size <= next->first + next->second->size ? next->second : nullptr;
}

static uint64_t sum_of(const void *memory, size_t size)
{
    uint64_t sum = 14695981039346656037u;
    for (size_t i = 0; i < size; i++)
        sum = (sum ^ ((const unsigned char *)memory)[i]) * 1099511628211u;
    return sum;
}

/* From memory that is not pinned it is done at once, with what is before it, as the driver does by a copy of its own. */
int copy_later(void *device, const void *host, size_t size, void *handle)
{
    locked lock;
    std::shared_ptr<pinned> p = pin_around(host, size);
    uint64_t sum = sum_of(host, size);
    int code = put(handle, COPY, [=] {
        (void)p; /* until this is done, or passed over after a failure */
        if (sum_of(host, size) != sum) {
            note("the host has changed memory while a copy from it was under way");
            return INVALID;
        }
        copy_in(device, host, size);
        return 0;
    });
    return code || p ? code : settle(handle);
}

} // namespace emulator
