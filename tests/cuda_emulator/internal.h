/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TESTS_EMULATOR_INTERNAL_H
#define IMAGINE_TESTS_EMULATOR_INTERNAL_H

#include <deque>
#include <functional>
#include <vector>

#include <ucontext.h>

#include "emulator.h"

/* How accesses are ordered. Every thread keeps a vector clock: for each thread, and for each mbarrier and warpgroup as
 * the source of asynchronous accesses, up to which of its moments this thread has been ordered after it by barriers. A byte
 * of shared memory remembers the moments of its last write and of the reads since; an access that is not ordered after a
 * conflicting one is a race, in whatever order the fibres happened to run. */

namespace emulator {

constexpr unsigned MAX_THREADS = 1024, WARP = 32, BARRIERS = 16, MBARRIERS = 64, WARPGROUPS = 8;
/* Places in a vector clock: threads, then warpgroups, then mbarriers. */
constexpr size_t STACK_ROOM = 136 << 10; /* of a fibre, its guard included */
constexpr unsigned GRANULE = 2; /* bytes of shared memory that share a record */

typedef uint32_t moment;

/* ---- memory.cpp -------------------------------------------------------------------------------------------------- */

struct reader {
    uint32_t who;
    moment when;
};

struct cell {
    uint32_t writer; /* place + 1; 0: never written */
    moment written;
    uint32_t sequence; /* of all writes to shared memory */
    uint8_t in_flight, atomic, pad[2];
    reader last; /* who + 1; 0: none */
    reader *more; /* other readers since the last write */
    uint32_t more_count, more_room;
};

extern bool watching; /* accesses are recorded */
/* One thread at a time is in the emulator's functions. */
struct locked {
    locked();
    ~locked();
    locked(const locked &) = delete;
};
/* While one of these lives, which implies the lock, the host may look into device memory. */
struct open_memory {
    open_memory();
    ~open_memory();
    open_memory(const open_memory &) = delete;

private:
    locked lock;
};
/* What report() is to say. */
void note(const char *text);

void memory_begin_launch();
void memory_begin_block(size_t shared_bytes);
/* The place in shared memory of `size` bytes at an address; faults when they are not there. */
uint32_t shared_offset(const void *pointer, unsigned size, const char *what);
unsigned char *shared_at(uint32_t offset);
cell *shared_cells(uint32_t offset);
uint32_t write_sequence();
/* Accesses of the running thread (ordered by its clock), recorded as by place `who` at moment `when`. */
void shared_read(uint32_t offset, unsigned size, uint32_t who, moment when, const char *what);
void shared_write(uint32_t offset, unsigned size, uint32_t who, moment when, bool in_flight, const char *what);
void shared_poison(uint32_t offset, unsigned size);
/* Fault where the async proxy would not see the last write. */
void require_fenced(uint32_t offset, unsigned size, const char *what);
void global_access(const void *pointer, unsigned size, bool write, bool atomic, const char *what);
void memory_range_of_arguments(const void *arguments, size_t size);

/* ---- block.cpp --------------------------------------------------------------------------------------------------- */

struct pending_copy {
    uint32_t offset;
    const unsigned char *from;
    unsigned bytes, valid, group;
};

struct pending_store {
    tensor_map map;
    uint32_t offset, sequence;
    int at[4];
    unsigned group;
};

enum thread_state : uint8_t { READY, BLOCKED, DONE };

enum place_to_wait : uint8_t { AT_BARRIER, AT_LANES, AT_MBARRIER, AT_PRODUCT };

/* What a thread waits for; told only when nothing goes on. */
struct reason {
    place_to_wait at;
    unsigned which, of; /* barrier and threads; mask; phase and place of the mbarrier; wgmma */
    const char *name; /* of what lanes do together */
};

struct thread {
    unsigned number;
    uint3 index;
    bool started;
    reason waits_for;
    void *context[5]; /* where it goes on */
    unsigned char *stack;
    std::vector<moment> clock;
    moment fenced; /* writes before this moment of its own are seen by the async proxy */
    std::vector<pending_copy> copies;
    unsigned copy_groups;
    std::vector<pending_store> stores;
    unsigned store_groups;
    /* wgmma */
    bool register_fence;
    uint32_t issued, waited;
    std::vector<uint32_t> product_groups; /* `issued` at each commit */
};

struct collective {
    unsigned mask, arrived;
    const char *name;
    void *slot[WARP];
};

struct warp_state {
    unsigned used; /* collectives that this block has had at once */
    collective all[WARP];
};

struct barrier {
    unsigned count, arrived;
    std::vector<moment> clock;
    std::vector<unsigned> waiting;
};

struct block_state {
    dim3 grid, size;
    uint3 index;
    unsigned threads, places;
    uint32_t serial; /* counts all blocks ever */
    thread *current; /* NULL outside kernels */
    thread_state states[MAX_THREADS]; /* of all the threads: looked through at every turn */
    std::vector<thread> all;
    barrier barriers[BARRIERS];
    warp_state warps[MAX_THREADS / WARP];
};

extern block_state block;

inline thread &self()
{
    return *block.current;
}

inline moment now()
{
    return self().clock[self().number];
}

[[noreturn]] void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The running thread stops until wake(). */
void sleep_until_woken(const reason &why);
void wake(unsigned number);
void tick(thread &t);
void join(std::vector<moment> &into, const std::vector<moment> &from);
uint32_t random_below(uint32_t n);
/* Runs `all` once, in the last lane of `mask` to arrive; slot[lane] is what each lane brought. */
void converge(const char *name, unsigned mask, void *slot, void (*all)(void **slots, unsigned mask));

inline uint32_t place_of_warpgroup(unsigned warpgroup)
{
    return block.threads + warpgroup;
}

inline uint32_t place_of_mbarrier(unsigned number)
{
    return block.threads + WARPGROUPS + number;
}

/* ---- stream.cpp -------------------------------------------------------------------------------------------------- */

enum kind_of_work { KERNEL, COPY, WAIT };
int put(void *stream, kind_of_work kind, std::function<int()> todo);
int finish(void *stream); /* settle() for the emulator's own sake, where a GPU's driver would not wait */

/* ---- async.cpp, matrix.cpp --------------------------------------------------------------------------------------- */

void async_begin_block();
bool async_complete_one(); /* a TMA load; false when there is none */
bool async_end_block(); /* faults when something is still in flight */
void describe_mbarriers(char *text, size_t size); /* those that threads wait for */
void matrix_begin_block();
float bf16_value(uint16_t bits);

} // namespace emulator

#endif
