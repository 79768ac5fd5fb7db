/* SPDX-License-Identifier: MIT */
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include <sys/mman.h>

#include "internal.h"

/* Blocks, fibres, barriers and what a warp does together. */

namespace emulator {

block_state block;

/* Stacks of a warp's lanes begin in different lines of a page, or all of them would want the same few sets of the cache. */
static constexpr size_t COLOUR = 17 * 64, STACK = (96 << 10) + (36 << 10), GUARD = 4096;
static_assert(GUARD + STACK == STACK_ROOM && WARP * COLOUR <= 36 << 10, "");
static void *scheduler[5]; /* where a fibre goes back to */
static char message[1024];
static bool failed;
static uint32_t seed, random_state;
static int chosen_capability = 80;
static void (*kernel)(const void *);
static const void *kernel_arguments;

/* setjmp and longjmp of the compiler's: libc's keep signal masks and the like, and fibres change at every barrier and shuffle. */
[[noreturn, gnu::noinline]] static void go_to(void **place)
{
    __builtin_longjmp(place, 1);
}

/* ---- faults ------------------------------------------------------------------------------------------------------ */

const char *report()
{
    return message;
}

static void describe(const thread *t, const char *format, va_list list)
{
    int at = snprintf(message, sizeof message, "block (%u, %u, %u), ", block.index.x, block.index.y, block.index.z);
    if (t)
        at += snprintf(message + at, sizeof message - (size_t)at, "thread (%u, %u, %u): ", t->index.x, t->index.y,
                       t->index.z);
    vsnprintf(message + at, sizeof message - (size_t)at, format, list);
    failed = true;
}

void fault(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    describe(block.current, format, list);
    va_end(list);
    go_to(scheduler); /* the fibres are left where they are */
}

/* ---- random order ------------------------------------------------------------------------------------------------ */

void set_seed(uint32_t value)
{
    seed = value;
}

uint32_t random_below(uint32_t n)
{
    if (!seed)
        return 0;
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)random_state * n >> 32);
}

void set_capability(int capability)
{
    chosen_capability = capability;
}

int capability()
{
    return chosen_capability;
}

int multiprocessors()
{
    return 3;
}

/* ---- fibres ------------------------------------------------------------------------------------------------------ */

[[gnu::noinline]] static void switch_to_scheduler()
{
    if (!__builtin_setjmp(self().context))
        go_to(scheduler);
}

/* A fibre runs the kernel once per block and is kept for the next. */
static void fibre()
{
    for (;;) {
        kernel(kernel_arguments);
        block.states[self().number] = DONE;
        switch_to_scheduler();
    }
}

/* A fibre that has ended its block waits to begin another; all others begin anew. */
static void prepare_stack(thread &t)
{
    if (!t.stack) {
        void *p = mmap(nullptr, STACK + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || mprotect(p, GUARD, PROT_NONE)) {
            perror("emulator: no memory for stacks");
            exit(1);
        }
        t.stack = (unsigned char *)p;
    }
    if (t.started && block.states[t.number] == DONE)
        return;
    t.started = false;
}

[[gnu::noinline]] static void begin(thread &t)
{
    ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = t.stack + GUARD;
    start.uc_stack.ss_size = STACK - t.number % WARP * COLOUR;
    start.uc_link = nullptr;
    makecontext(&start, fibre, 0);
    t.started = true;
    setcontext(&start);
}

[[gnu::noinline]] static void resume(thread &t)
{
    block.current = &t;
    if (!__builtin_setjmp(scheduler)) {
        if (t.started)
            go_to(t.context);
        begin(t);
    }
    block.current = nullptr;
}

void sleep_until_woken(const reason &why)
{
    thread &t = self();
    t.waits_for = why;
    block.states[t.number] = BLOCKED;
    switch_to_scheduler();
}

void wake(unsigned number)
{
    block.states[number] = READY;
}

/* ---- the scheduler ----------------------------------------------------------------------------------------------- */

static void report_deadlock(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    describe(nullptr, format, list);
    va_end(list);
}

static bool same(const reason &a, const reason &b)
{
    return a.at == b.at && a.which == b.which && a.of == b.of && (a.name == b.name || (a.name && b.name && !strcmp(a.name, b.name)));
}

static void tell_reason(char *text, size_t size, const reason &why)
{
    switch (why.at) {
    case AT_BARRIER:
        snprintf(text, size, "barrier %u of %u threads", why.which, why.of);
        break;
    case AT_LANES:
        snprintf(text, size, "the other lanes of mask %#x at %s", why.which, why.name);
        break;
    case AT_MBARRIER:
        snprintf(text, size, "phase %u of the mbarrier at byte %u", why.which, why.of);
        break;
    case AT_PRODUCT:
        snprintf(text, size, "the rest of the warpgroup at wgmma %u", why.which);
        break;
    }
}

/* Groups of neighbours that wait for the same thing, as far as the text has room. */
static void deadlock()
{
    char text[700];
    size_t at = 0;
    for (unsigned i = 0, next; i < block.threads && at < sizeof text - 1; i = next) {
        const thread &t = block.all[i];
        bool done = block.states[i] == DONE;
        char why[120] = "";
        for (next = i + 1; next < block.threads && block.states[next] == block.states[i] &&
                           (done || same(block.all[next].waits_for, t.waits_for));)
            next++;
        if (!done)
            tell_reason(why, sizeof why, t.waits_for);
        int n = snprintf(text + at, sizeof text - at, "%s threads %u to %u %s%s", at ? ";" : "", i, next - 1,
                         done ? "have ended" : "wait for ", why);
        at += (size_t)n;
    }
    char mbarriers[200];
    describe_mbarriers(mbarriers, sizeof mbarriers);
    report_deadlock("deadlock:%s%s", text, mbarriers);
}

/* One turn: every thread that can run does, until it blocks. False when none could. */
static bool run_ready()
{
    bool any = false;
    unsigned first = random_below(block.threads), backwards = random_below(2);
    for (unsigned i = 0; i < block.threads && !failed; i++) {
        unsigned step = first + i < block.threads ? first + i : first + i - block.threads;
        unsigned number = backwards ? block.threads - 1 - step : step;
        if (block.states[number] != READY)
            continue;
        any = true;
        resume(block.all[number]);
    }
    return any;
}

static bool all_done()
{
    for (unsigned i = 0; i < block.threads; i++)
        if (block.states[i] != DONE)
            return false;
    return true;
}

/* Where nothing is watched nobody reads it. */
static void clear_clock(std::vector<moment> &clock)
{
    if (watching || clock.size() < block.places)
        clock.assign(block.places, 0);
}

static void begin_thread(unsigned number)
{
    thread &t = block.all[number];
    t.number = number;
    t.index = {number % block.size.x, number / block.size.x % block.size.y, number / block.size.x / block.size.y};
    block.states[number] = READY;
    clear_clock(t.clock);
    t.clock[number] = 1;
    t.fenced = 0;
    t.copies.clear();
    t.stores.clear();
    t.product_groups.clear();
    t.copy_groups = t.store_groups = t.issued = t.waited = 0;
    t.register_fence = false;
}

static void begin_block(uint3 index, size_t shared_bytes)
{
    block.index = index;
    block.serial++;
    for (unsigned i = 0; i < block.threads; i++)
        begin_thread(i);
    for (barrier &b : block.barriers) {
        b.count = b.arrived = 0;
        clear_clock(b.clock);
        b.waiting.clear();
    }
    for (unsigned i = 0; i * WARP < block.threads; i++) {
        for (unsigned j = 0; j < block.warps[i].used; j++)
            block.warps[i].all[j].arrived = 0;
        block.warps[i].used = 0;
    }
    memory_begin_block(shared_bytes);
    async_begin_block();
    matrix_begin_block();
}

/* Outside the fibres: what may fault, with somewhere to come back to. */
[[gnu::noinline]] static bool from_scheduler(bool (*what)())
{
    return !__builtin_setjmp(scheduler) && what();
}

static void run_block()
{
    while (!failed) {
        if (run_ready())
            continue;
        if (all_done())
            break;
        if (!from_scheduler(async_complete_one) && !failed)
            deadlock();
    }
    if (!failed)
        from_scheduler(async_end_block);
}

void note(const char *text)
{
    snprintf(message, sizeof message, "%s", text);
}

static uint64_t launched;
static int64_t failing; /* 0: none does */

void fail_launch(int64_t number)
{
    locked lock;
    failing = number;
}

uint64_t launches()
{
    locked lock;
    return launched;
}

int run(dim3 grid, dim3 size, size_t shared_bytes, void (*call)(const void *), const void *arguments, size_t bytes)
{
    open_memory open;
    launched++;
    if (failing > 0 && !--failing) {
        note("a launch that was to fail");
        return 1;
    }
    unsigned threads = size.x * size.y * size.z;
    failed = false;
    message[0] = 0;
    random_state = seed;
    if (!threads || threads > MAX_THREADS || grid.y > 65535 || grid.z > 65535 || !grid.x || !grid.y || !grid.z ||
        grid.x > 0x7fffffff || shared_bytes > 227 << 10) {
        snprintf(message, sizeof message, "a launch of %u x %u x %u blocks of %u threads with %zu bytes of shared memory",
                 grid.x, grid.y, grid.z, threads, shared_bytes);
        return 1;
    }
    kernel = call;
    kernel_arguments = arguments;
    block.grid = grid;
    block.size = size;
    block.threads = threads;
    block.places = threads + WARPGROUPS + MBARRIERS;
    if (block.all.size() < threads)
        block.all.resize(threads);
    for (unsigned i = 0; i < threads; i++) {
        block.all[i].number = i;
        prepare_stack(block.all[i]);
    }
    memory_begin_launch();
    memory_range_of_arguments(arguments, bytes);
    for (unsigned z = 0; z < grid.z && !failed; z++)
        for (unsigned y = 0; y < grid.y && !failed; y++)
            for (unsigned x = 0; x < grid.x && !failed; x++) {
                begin_block({x, y, z}, shared_bytes);
                run_block();
            }
    return failed;
}

uint3 thread_index()
{
    return self().index;
}

uint3 block_index()
{
    return block.index;
}

dim3 block_size()
{
    return block.size;
}

dim3 grid_size()
{
    return block.grid;
}

/* ---- clocks ------------------------------------------------------------------------------------------------------ */

void tick(thread &t)
{
    t.clock[t.number]++;
}

void join(std::vector<moment> &into, const std::vector<moment> &from)
{
    moment *a = into.data();
    const moment *b = from.data();
    if (!watching)
        return;
    for (size_t i = 0; i < into.size(); i++)
        a[i] = a[i] > b[i] ? a[i] : b[i];
}

/* ---- barriers ---------------------------------------------------------------------------------------------------- */

static void finish_barrier(barrier &b)
{
    for (unsigned number : b.waiting) {
        if (watching)
            block.all[number].clock = b.clock;
        tick(block.all[number]);
        wake(number);
    }
    b.waiting.clear();
    b.arrived = 0;
    clear_clock(b.clock);
}

/* True when the caller has to wait. */
static bool arrive(unsigned id, unsigned count, bool waits)
{
    count = count ? count : block.threads;
    if (id >= BARRIERS)
        fault("there is no barrier %u", id);
    barrier &b = block.barriers[id];
    if (b.arrived && b.count != count)
        fault("barrier %u is used for %u threads and for %u at once", id, b.count, count);
    if (count > block.threads || (count % WARP && count != block.threads))
        fault("barrier %u for %u threads in a block of %u", id, count, block.threads);
    thread &t = self();
    b.count = count;
    b.arrived++;
    join(b.clock, t.clock);
    if (waits)
        b.waiting.push_back(t.number);
    else
        tick(t);
    if (b.arrived < b.count)
        return waits;
    finish_barrier(b);
    return false;
}

void barrier_sync(unsigned id, unsigned count)
{
    if (arrive(id, count, true))
        sleep_until_woken({AT_BARRIER, id, block.barriers[id].count, nullptr});
}

void barrier_arrive(unsigned id, unsigned count)
{
    arrive(id, count, false);
}

/* ---- warps ------------------------------------------------------------------------------------------------------- */

/* The one that waits for these lanes, or a free one: lanes are in one at a time, so there are enough. */
static collective &find_collective(unsigned warp, unsigned mask)
{
    warp_state &w = block.warps[warp];
    collective *unused = nullptr;
    for (unsigned i = 0; i < w.used; i++) {
        collective &c = w.all[i];
        if (c.arrived && c.mask == mask)
            return c;
        if (!c.arrived && !unused)
            unused = &c;
    }
    return unused ? *unused : w.all[w.used++];
}

void converge(const char *name, unsigned mask, void *slot, void (*all)(void **slots, unsigned mask))
{
    unsigned lane = self().number % WARP, warp = self().number / WARP;
    if (!(mask >> lane & 1))
        fault("%s with a mask (%#x) that leaves out its own lane %u", name, mask, lane);
    unsigned last = block.threads - warp * WARP;
    if (last < WARP && mask >> last)
        fault("%s with a mask (%#x) of more lanes than the warp's %u", name, mask, last);
    collective &c = find_collective(warp, mask);
    if (c.arrived && c.name != name && strcmp(c.name, name))
        fault("the warp diverges: %s while other lanes of mask %#x are at %s", name, mask, c.name);
    c.mask = mask;
    c.name = name;
    c.slot[lane] = slot;
    c.arrived |= 1u << lane;
    if (c.arrived != mask) {
        sleep_until_woken({AT_LANES, mask, 0, name});
        return;
    }
    c.arrived = 0;
    all(c.slot, mask);
    for (unsigned i = 0; i < WARP; i++)
        if (mask >> i & 1)
            wake(warp * WARP + i);
}

static void sync_lanes(void **slots, unsigned mask)
{
    if (!watching)
        return;
    std::vector<moment> clock(block.places, 0);
    for (unsigned i = 0; i < WARP; i++)
        if (mask >> i & 1)
            join(clock, ((thread *)slots[i])->clock);
    for (unsigned i = 0; i < WARP; i++)
        if (mask >> i & 1) {
            ((thread *)slots[i])->clock = clock;
            tick(*(thread *)slots[i]);
        }
}

void warp_sync(unsigned mask)
{
    converge("__syncwarp", mask, &self(), sync_lanes);
}

struct shuffle_slot {
    uint32_t in, out;
    unsigned from;
    bool missing;
};

static void shuffle_lanes(void **slots, unsigned mask)
{
    for (unsigned i = 0; i < WARP; i++) {
        if (!(mask >> i & 1))
            continue;
        shuffle_slot *s = (shuffle_slot *)slots[i];
        s->missing = !(mask >> s->from & 1);
        s->out = s->missing ? 0 : ((shuffle_slot *)slots[s->from])->in;
    }
}

/* Which lane a lane reads, as the PTX manual gives it for shfl; out of the segment of `width` lanes it reads itself. */
static unsigned source_lane(unsigned lane, unsigned operand, shuffle_kind kind, unsigned width)
{
    unsigned first = lane & ~(width - 1), end = first + width;
    switch (kind) {
    case SHUFFLE_UP:
        return lane - first >= operand ? lane - operand : lane;
    case SHUFFLE_DOWN:
        return lane + operand < end ? lane + operand : lane;
    case SHUFFLE_XOR:
        return (lane ^ operand) < end ? lane ^ operand : lane;
    default:
        return first + (operand & (width - 1));
    }
}

uint32_t shuffle(unsigned mask, uint32_t value, unsigned operand, shuffle_kind kind, unsigned width)
{
    shuffle_slot s = {value, 0, source_lane(self().number % WARP, operand, kind, width), false};
    converge("shuffle", mask, &s, shuffle_lanes);
    if (s.missing)
        fault("shuffle from lane %u, which is not in the mask %#x", s.from, mask);
    return s.out;
}

struct vote_slot {
    int predicate;
    unsigned result;
};

static void vote_lanes(void **slots, unsigned mask)
{
    unsigned result = 0;
    for (unsigned i = 0; i < WARP; i++)
        if (mask >> i & 1)
            result |= (unsigned)(((vote_slot *)slots[i])->predicate != 0) << i;
    for (unsigned i = 0; i < WARP; i++)
        if (mask >> i & 1)
            ((vote_slot *)slots[i])->result = result;
}

unsigned ballot(unsigned mask, int predicate)
{
    vote_slot s = {predicate, 0};
    converge("vote", mask, &s, vote_lanes);
    return s.result;
}

void registers(unsigned count)
{
    if (count < 24 || count > 256 || count % 8)
        fault("setmaxnreg of %u registers: must be a multiple of 8 from 24 to 256", count);
}

} // namespace emulator
