/* SPDX-License-Identifier: MIT */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

#include <link.h>
#include <sys/mman.h>

#include "internal.h"

/* Shared and global memory, and the compiler's hooks. */

extern "C" {
extern unsigned char __start_emulator_shared[] __attribute__((weak)), __stop_emulator_shared[] __attribute__((weak));
}

namespace emulator {

/* ---- shared memory: static, then dynamic ------------------------------------------------------------------------- */

/* The dynamic part begins 16 bytes behind a multiple of 1024: no more is promised. */
static constexpr size_t DYNAMIC = 228 << 10, MARGIN = 4096, SKEW = 16;
alignas(1024) static unsigned char arena[MARGIN + DYNAMIC + MARGIN];
static unsigned char *const dynamic = arena + MARGIN + SKEW;
static size_t dynamic_size, static_size;
static std::vector<cell> cells; /* static part first, the dynamic part from DYNAMIC_AT on */
static constexpr uint32_t STATIC_ROOM = 16 << 10, DYNAMIC_AT = 24 << 10; /* all below 256 KiB, for descriptors */
static uint32_t sequence;

void *dynamic_shared()
{
    return dynamic;
}

unsigned char *shared_at(uint32_t offset)
{
    return offset < STATIC_ROOM ? __start_emulator_shared + offset : dynamic + (offset - DYNAMIC_AT - SKEW);
}

/* An address in shared memory has the low bits of the host's address, which is what alignment and swizzle look at. */
static bool find_shared(const void *pointer, uint32_t *offset)
{
    const unsigned char *p = (const unsigned char *)pointer;
    if (p >= arena && p < arena + sizeof arena) {
        *offset = (uint32_t)(DYNAMIC_AT + SKEW + (p - dynamic));
        return true;
    }
    if (p >= __start_emulator_shared && p < __stop_emulator_shared) {
        *offset = (uint32_t)(p - __start_emulator_shared);
        return true;
    }
    return false;
}

static void require_inside(uint32_t offset, unsigned size, const char *what)
{
    size_t end = (size_t)offset + size;
    if (offset < STATIC_ROOM ? end <= static_size : offset >= DYNAMIC_AT + SKEW && end <= DYNAMIC_AT + SKEW + dynamic_size)
        return;
    if (offset < STATIC_ROOM)
        fault("%s of %u bytes at byte %u of %zu bytes of static shared memory", what, size, offset, static_size);
    fault("%s of %u bytes at byte %d of %zu bytes of dynamic shared memory: out of bounds", what, size,
          (int)(offset - DYNAMIC_AT - SKEW), dynamic_size);
}

uint32_t shared_offset(const void *pointer, unsigned size, const char *what)
{
    uint32_t offset;
    if (!find_shared(pointer, &offset))
        fault("%s: the address %p is not in shared memory", what, pointer);
    require_inside(offset, size, what);
    return offset;
}

uint32_t shared_address(const void *pointer)
{
    return shared_offset(pointer, 1, "address");
}

cell *shared_cells(uint32_t offset)
{
    return &cells[offset / GRANULE];
}

uint32_t write_sequence()
{
    return sequence;
}

void shared_poison(uint32_t offset, unsigned size)
{
    memset(shared_at(offset), 0xff, size);
}

/* ---- the order of accesses --------------------------------------------------------------------------------------- */

static const char *name_of(uint32_t who)
{
    static char text[2][48];
    static unsigned next;
    char *p = text[next++ & 1];
    if (who < block.threads)
        snprintf(p, sizeof text[0], "thread %u", who);
    else if (who < block.threads + WARPGROUPS)
        snprintf(p, sizeof text[0], "a wgmma of warpgroup %u", who - block.threads);
    else
        snprintf(p, sizeof text[0], "a bulk copy of mbarrier %u", who - block.threads - WARPGROUPS);
    return p;
}

static bool ordered(uint32_t who, moment when)
{
    return self().clock[who] >= when;
}

static void require_landed(const cell &c, uint32_t offset, const char *what)
{
    if (c.in_flight)
        fault("%s of shared memory at byte %u, where %s has not landed yet", what, offset, "an asynchronous copy");
}

static void race(const char *what, uint32_t offset, const char *other, uint32_t who)
{
    fault("race: %s of shared memory at byte %u with no barrier after the %s by %s", what, offset, other, name_of(who));
}

/* Readers that the running thread is ordered after say nothing new once it reads or writes itself. */
static void add_reader(cell &c, uint32_t who, moment when)
{
    if (c.last.who && c.last.who != who + 1 && !ordered(c.last.who - 1, c.last.when)) {
        uint32_t kept = 0;
        if (c.more_count == c.more_room) {
            for (uint32_t i = 0; i < c.more_count; i++)
                if (!ordered(c.more[i].who - 1, c.more[i].when) && c.more[i].who != who + 1)
                    c.more[kept++] = c.more[i];
            c.more_count = kept;
            if (kept * 2 >= c.more_room) {
                c.more_room = c.more_room ? c.more_room * 2 : 4;
                c.more = (reader *)realloc(c.more, c.more_room * sizeof *c.more);
                if (!c.more)
                    abort();
            }
        }
        c.more[c.more_count++] = c.last;
    }
    c.last = {who + 1, when};
}

static void read_cell(cell &c, uint32_t offset, uint32_t who, moment when, const char *what, bool atomic)
{
    if (!c.writer)
        fault("%s of shared memory at byte %u, which nobody has written", what, offset);
    require_landed(c, offset, what);
    if (!ordered(c.writer - 1, c.written) && !(atomic && c.atomic))
        race(what, offset, "write", c.writer - 1);
    if (c.last.who != who + 1 || c.last.when != when)
        add_reader(c, who, when);
}

void shared_read(uint32_t offset, unsigned size, uint32_t who, moment when, const char *what)
{
    if (!watching)
        return;
    cell *c = shared_cells(offset);
    for (uint32_t i = offset; i < offset + size; i += GRANULE)
        read_cell(*c++, i, who, when, what, false);
}

static void write_cell(cell &c, uint32_t offset, uint32_t who, moment when, const char *what, bool atomic)
{
    if (c.in_flight)
        fault("race: %s of shared memory at byte %u, where an asynchronous copy has not landed yet", what, offset);
    if (c.writer && !ordered(c.writer - 1, c.written) && !(atomic && c.atomic))
        race(what, offset, "write", c.writer - 1);
    if (c.last.who && !ordered(c.last.who - 1, c.last.when) && !atomic)
        race(what, offset, "read", c.last.who - 1);
    for (uint32_t i = 0; i < c.more_count; i++)
        if (!ordered(c.more[i].who - 1, c.more[i].when) && !atomic)
            race(what, offset, "read", c.more[i].who - 1);
    c.writer = who + 1;
    c.written = when;
    c.sequence = sequence;
    c.atomic = atomic;
    c.last.who = 0;
    c.more_count = 0;
}

void shared_write(uint32_t offset, unsigned size, uint32_t who, moment when, bool in_flight, const char *what)
{
    if (!watching)
        return;
    cell *c = shared_cells(offset);
    sequence++;
    for (uint32_t i = offset; i < offset + size; i += GRANULE, c++) {
        write_cell(*c, i, who, when, what, false);
        c->in_flight = in_flight;
    }
}

void require_fenced(uint32_t offset, unsigned size, const char *what)
{
    if (!watching)
        return;
    cell *c = shared_cells(offset);
    for (uint32_t i = offset; i < offset + size; i += GRANULE, c++)
        if (c->writer && c->writer <= block.threads && c->written >= block.all[c->writer - 1].fenced)
            fault("%s at byte %u, which %s wrote without a proxy fence after it", what, i, name_of(c->writer - 1));
}

/* ---- global memory ----------------------------------------------------------------------------------------------- */

/* A byte of global memory: who wrote and read it last. Blocks of a launch are never ordered after each other. */
struct global_cell {
    uint32_t write_block, read_block; /* serial of the block; 0: none */
    uint16_t writer, reader;
    moment written, read;
    uint8_t known, atomic, many_readers, pad;
};

struct allocation {
    size_t size, room; /* room: with the red zones, in pages */
    global_cell *cells;
};

static constexpr size_t RED = 4096;
static std::map<unsigned char *, allocation> allocations;
static unsigned char *last_base;
static allocation *last_found;
static uint32_t first_serial; /* of this launch's blocks */
static const unsigned char *argument_range;
static size_t argument_size;

/* Device memory is a range of addresses of its own. While nothing of the device runs, nobody may look into it, where that was
 * asked for: then a host that follows a device pointer ends the program. It is opened and shut thousands of times a second, and
 * what that takes grows with the number of pages: hence huge ones, where the system has them. */
static constexpr size_t RANGE = (size_t)16 << 30, PAGE = 4096, HUGE_PAGE = 2 << 20;
static std::recursive_mutex mutex;
static unsigned char *range;
static size_t range_used;
static std::multimap<size_t, unsigned char *> unused; /* by size */
static int opened;
static bool hidden;
bool watching = true;
static uint64_t allocated, transfers;
static int64_t failing; /* 0: none does */

/* The part of the range that is opened and shut, in whole huge pages. */
static size_t range_open()
{
    return (range_used + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
}

static void protect(int how)
{
    if (hidden && range_used && mprotect(range, range_open(), how)) {
        fprintf(stderr, "emulator: mprotect fails\n");
        exit(1);
    }
}

locked::locked()
{
    mutex.lock();
}

locked::~locked()
{
    mutex.unlock();
}

open_memory::open_memory()
{
    if (!opened++)
        protect(PROT_READ | PROT_WRITE);
}

open_memory::~open_memory()
{
    if (!--opened)
        protect(PROT_NONE);
}

void hide_memory(bool hide)
{
    open_memory open;
    hidden = hide;
}

void watch_memory(bool watch)
{
    watching = watch;
}

void fail_allocation(int64_t number)
{
    locked lock;
    failing = number;
}

size_t allocations_held()
{
    locked lock;
    return allocations.size();
}

uint64_t allocations_made()
{
    locked lock;
    return allocated;
}

uint64_t transfers_made()
{
    locked lock;
    return transfers;
}

/* `room` bytes of the range; NULL: there is no more. */
static unsigned char *take(size_t room)
{
    auto found = unused.lower_bound(room);
    if (found != unused.end() && found->first <= 2 * room) {
        unsigned char *p = found->second;
        if (found->first > room)
            unused.insert({found->first - room, p + room});
        unused.erase(found);
        return p;
    }
    if (!range) {
        void *made = mmap(nullptr, RANGE + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (made == MAP_FAILED)
            return nullptr;
        range = (unsigned char *)made + (HUGE_PAGE - (uintptr_t)made % HUGE_PAGE);
        (void)madvise(range, RANGE, MADV_HUGEPAGE);
    }
    size_t before = range_open();
    if (room > RANGE - range_used)
        return nullptr;
    range_used += room;
    if (range_open() > before && mprotect(range + before, range_open() - before, PROT_READ | PROT_WRITE)) {
        range_used -= room;
        return nullptr;
    }
    return range + range_used - room;
}

void *allocate(size_t size)
{
    open_memory open;
    size_t room = (RED + size + RED + PAGE - 1) / PAGE * PAGE;
    bool fails = failing > 0 && !--failing;
    global_cell *records = size < RANGE && !fails ? (global_cell *)calloc(size + 1, sizeof *records) : nullptr;
    unsigned char *p = records ? take(room) : nullptr;
    if (!p) {
        free(records);
        note("out of memory");
        return nullptr;
    }
    size_t poisoned = RED + size + RED;
    memset(p, 0xff, watching ? poisoned : std::min(poisoned, (size_t)64 << 10)); /* untouched pages cost nothing */
    allocations[p + RED] = {size, room, records};
    allocated++;
    return p + RED;
}

void release(void *memory)
{
    open_memory open;
    if (!memory)
        return;
    /* The driver may wait for what is under way, and may not: what is left in a stream here finds the memory gone. */
    auto found = allocations.find((unsigned char *)memory);
    if (found == allocations.end()) {
        fprintf(stderr, "emulator: %p is released, which is no allocation\n", memory);
        exit(1);
    }
    size_t room = found->second.room; /* the next one of this size gets this place again, as the driver has it */
    unused.emplace_hint(unused.lower_bound(room), room, found->first - RED);
    free(found->second.cells);
    allocations.erase(found);
    last_found = nullptr;
}

/* The allocation with an address in it or in its red zones. */
static allocation *find(const void *pointer, size_t *at)
{
    unsigned char *p = (unsigned char *)pointer;
    if (!last_found || p < last_base || p >= last_base + last_found->size) {
        auto next = allocations.upper_bound(p + RED);
        if (next == allocations.begin())
            return nullptr;
        --next;
        if (p >= next->first + next->second.size + RED)
            return nullptr;
        last_base = next->first;
        last_found = &next->second;
    }
    *at = (size_t)(p - last_base);
    return last_found;
}

static allocation *host_range(const void *device, size_t size, size_t *at)
{
    allocation *a = find(device, at);
    if (!a || *at > a->size || size > a->size - *at) {
        fprintf(stderr, "emulator: the host copies %zu bytes at %p, outside device memory\n", size, device);
        exit(1);
    }
    return a;
}

static void host_writes(void *device, size_t size)
{
    size_t at;
    allocation *a = host_range(device, size, &at);
    for (size_t i = 0; i < size; i++)
        a->cells[at + i].known = 1;
}

void copy_in(void *device, const void *host, size_t size)
{
    open_memory open;
    if (!size)
        return;
    transfers++;
    host_writes(device, size);
    memcpy(device, host, size);
}

void copy_out(void *host, const void *device, size_t size)
{
    open_memory open;
    size_t at;
    if (!size)
        return;
    transfers++;
    host_range(device, size, &at);
    memcpy(host, device, size);
}

static void copy_now(void *to, const void *from, size_t size)
{
    open_memory open;
    size_t at, source;
    const allocation *a = host_range(to, size, &at), *b = host_range(from, size, &source);
    for (size_t i = 0; i < size; i++)
        a->cells[at + i].known = b->cells[source + i].known;
    memcpy(to, from, size);
}

int copy(void *to, const void *from, size_t size, void *stream)
{
    return size ? put(stream, KERNEL, [=] { return copy_now(to, from, size), 0; }) : 0;
}

int clear(void *memory, size_t size, void *stream)
{
    if (!size)
        return 0;
    return put(stream, KERNEL, [=] {
        open_memory open;
        host_writes(memory, size);
        memset(memory, 0, size);
        return 0;
    });
}

static void check_global(global_cell &c, size_t at, bool write, bool atomic, const char *what)
{
    const thread &t = self();
    bool wrote = c.write_block >= first_serial, other = c.write_block != block.serial;
    if (!write && !c.known)
        fault("%s of global memory at byte %zu of an allocation, which nobody has written", what, at);
    if (wrote && !(atomic && c.atomic) && (other || t.clock[c.writer] < c.written))
        fault("race: %s of global memory at byte %zu with no barrier after the write by thread %u%s", what, at, c.writer,
              other ? " of another block" : "");
    bool was_read = c.read_block >= first_serial, by_other = c.read_block != block.serial || c.many_readers;
    if (write && was_read && !atomic && (by_other || t.clock[c.reader] < c.read))
        fault("race: %s of global memory at byte %zu with no barrier after the read by thread %u%s", what, at, c.reader,
              by_other ? " of another block" : "");
}

void global_access(const void *pointer, unsigned size, bool write, bool atomic, const char *what)
{
    size_t at;
    if (!watching)
        return;
    allocation *a = find(pointer, &at);
    if (!a)
        fault("%s of %u bytes at %p, which is no memory of the device: out of bounds", what, size, pointer);
    if (at > a->size || size > a->size - at)
        fault("%s of %u bytes at byte %lld of %zu bytes of global memory: out of bounds", what, size, (long long)at, a->size);
    thread &t = self();
    for (unsigned i = 0; i < size; i++) {
        global_cell &c = a->cells[at + i];
        check_global(c, at + i, write, atomic, what);
        if (write) {
            c.write_block = block.serial;
            c.writer = (uint16_t)t.number;
            c.written = t.clock[t.number];
            c.known = 1;
            c.atomic = atomic;
        } else {
            c.many_readers = c.read_block >= first_serial && (c.read_block != block.serial || c.many_readers);
            c.read_block = block.serial;
            c.reader = (uint16_t)t.number;
            c.read = t.clock[t.number];
        }
    }
}

/* ---- begin ------------------------------------------------------------------------------------------------------- */

void memory_begin_launch()
{
    first_serial = block.serial + 1;
    if (cells.empty())
        cells.resize((DYNAMIC_AT + SKEW + DYNAMIC) / GRANULE);
    static_size = (size_t)(__stop_emulator_shared - __start_emulator_shared);
    if (static_size > STATIC_ROOM) {
        fprintf(stderr, "emulator: %zu bytes of static shared memory\n", static_size);
        exit(1);
    }
}

static void forget(uint32_t first, size_t size)
{
    if (!watching)
        return;
    for (cell *c = shared_cells(first), *end = shared_cells((uint32_t)(first + size + GRANULE - 1)); c < end; c++) {
        reader *more = c->more;
        uint32_t room = c->more_room;
        *c = {};
        c->more = more;
        c->more_room = room;
    }
}

void memory_begin_block(size_t shared_bytes)
{
    forget(0, static_size);
    forget(DYNAMIC_AT + SKEW, shared_bytes > dynamic_size ? shared_bytes : dynamic_size);
    dynamic_size = shared_bytes;
    if (static_size)
        memset(__start_emulator_shared, 0xff, static_size);
    memset(dynamic, 0xff, shared_bytes);
}

void memory_range_of_arguments(const void *arguments, size_t size)
{
    argument_range = (const unsigned char *)arguments;
    argument_size = size;
}

/* Constants of the program or shared library that the kernels are in. */
static struct {
    const unsigned char *begin, *end;
} constants[8];
static unsigned constant_ranges;

static int find_constants(struct dl_phdr_info *info, size_t, void *)
{
    uintptr_t here = (uintptr_t)&find_constants;
    bool ours = false;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        uintptr_t at = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
        ours |= info->dlpi_phdr[i].p_type == PT_LOAD && here >= at && here < at + info->dlpi_phdr[i].p_memsz;
    }
    for (int i = 0; ours && i < info->dlpi_phnum && constant_ranges < 8; i++) {
        const ElfW(Phdr) &part = info->dlpi_phdr[i];
        const unsigned char *at = (const unsigned char *)info->dlpi_addr + part.p_vaddr;
        if ((part.p_type == PT_LOAD && !(part.p_flags & PF_W)) || part.p_type == PT_GNU_RELRO)
            constants[constant_ranges++] = {at, at + part.p_memsz};
    }
    return ours;
}

static bool is_constant(const unsigned char *p)
{
    if (!constant_ranges)
        dl_iterate_phdr(find_constants, nullptr);
    for (unsigned i = 0; i < constant_ranges; i++)
        if (p >= constants[i].begin && p < constants[i].end)
            return true;
    return false;
}

/* ---- what the compiler put before loads and stores --------------------------------------------------------------- */

static void watch(const void *pointer, unsigned size, bool write)
{
    const unsigned char *p = (const unsigned char *)pointer;
    thread *t = block.current;
    if (!t || (p >= t->stack && p < t->stack + STACK_ROOM))
        return;
    if (!write && ((p >= argument_range && p < argument_range + argument_size) || is_constant(p)))
        return;
    uint32_t offset;
    if (!find_shared(p, &offset)) {
        global_access(p, size, write, false, write ? "write" : "read");
        return;
    }
    require_inside(offset, size, write ? "write" : "read");
    if (offset % (size > 16 ? 1 : size))
        fault("%s of %u bytes at a shared address that is no multiple of it", write ? "write" : "read", size);
    if (write)
        shared_write(offset, size, t->number, now(), false, "write");
    else
        shared_read(offset, size, t->number, now(), "read");
}

/* ---- atomics ----------------------------------------------------------------------------------------------------- */

static void touch_atomic(void *address, unsigned size)
{
    uint32_t offset;
    if (!find_shared(address, &offset)) {
        global_access(address, size, false, true, "atomic");
        global_access(address, size, true, true, "atomic");
        return;
    }
    require_inside(offset, size, "atomic");
    cell *c = shared_cells(offset);
    sequence++;
    for (uint32_t i = offset; i < offset + size; i += GRANULE, c++) {
        read_cell(*c, i, self().number, now(), "atomic", true);
        write_cell(*c, i, self().number, now(), "atomic", true);
    }
}

float atomic_add(float *address, float value)
{
    touch_atomic(address, sizeof *address);
    float old = *address;
    *address = old + value;
    return old;
}

unsigned atomic_add(unsigned *address, unsigned value)
{
    touch_atomic(address, sizeof *address);
    unsigned old = *address;
    *address = old + value;
    return old;
}

unsigned atomic_or(unsigned *address, unsigned value)
{
    touch_atomic(address, sizeof *address);
    unsigned old = *address;
    *address = old | value;
    return old;
}

} // namespace emulator

/* The names that GCC calls. */
extern "C" {
void __tsan_init() {}
#define HOOKS(size)                                                                                            \
    void __tsan_read##size(void *p) { emulator::watch(p, size, false); }                                       \
    void __tsan_write##size(void *p) { emulator::watch(p, size, true); }                                       \
    void __tsan_unaligned_read##size(void *p) { emulator::watch(p, size, false); }                             \
    void __tsan_unaligned_write##size(void *p) { emulator::watch(p, size, true); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void *p, unsigned long size) { emulator::watch(p, (unsigned)size, false); }
void __tsan_write_range(void *p, unsigned long size) { emulator::watch(p, (unsigned)size, true); }
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
void __ubsan_handle_out_of_bounds(void *, unsigned long index)
{
    if (emulator::block.current)
        emulator::fault("index %ld is out of the bounds of its array", (long)index);
}
void __ubsan_handle_type_mismatch_v1(void *, unsigned long address)
{
    if (emulator::block.current)
        emulator::fault("access to %p, to which its type is not aligned", (void *)address);
}
}
