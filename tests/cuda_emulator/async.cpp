/* SPDX-License-Identifier: MIT */
#include <cstdio>

#include "internal.h"

/* Asynchronous copies: cp.async, and bulk tensor copies with their mbarriers. From its issue on, a copy into shared memory
 * leaves NaNs there that nobody may touch. cp.async lands when its thread waits for it; a bulk copy lands when no thread
 * can run any more without it; a bulk store reads when its thread waits. */

namespace emulator {

/* ---- cp.async ---------------------------------------------------------------------------------------------------- */

void copy_async(void *shared, const void *global, unsigned bytes, unsigned valid)
{
    thread &t = self();
    if ((bytes != 4 && bytes != 8 && bytes != 16) || valid > bytes)
        fault("cp.async of %u bytes, %u of them read", bytes, valid);
    uint32_t offset = shared_offset(shared, bytes, "cp.async");
    if (offset % bytes || (valid && (uintptr_t)global % bytes))
        fault("cp.async of %u bytes at an address that is no multiple of it", bytes);
    if (valid)
        global_access(global, valid, false, false, "cp.async");
    shared_write(offset, bytes, t.number, now(), true, "cp.async");
    shared_poison(offset, bytes);
    t.copies.push_back({offset, (const unsigned char *)global, bytes, valid, t.copy_groups});
}

void copy_async_commit()
{
    self().copy_groups++;
}

void copy_async_wait(unsigned pending)
{
    thread &t = self();
    size_t kept = 0;
    for (size_t i = 0; i < t.copies.size(); i++) {
        pending_copy c = t.copies[i];
        if (c.group + pending >= t.copy_groups) { /* of the last groups, or not committed */
            t.copies[kept++] = c;
            continue;
        }
        for (uint32_t j = 0; j < c.bytes; j += GRANULE)
            shared_cells(c.offset)[j / GRANULE].in_flight = 0;
        shared_write(c.offset, c.bytes, t.number, now(), false, "landing of cp.async");
        memset(shared_at(c.offset), 0, c.bytes);
        memcpy(shared_at(c.offset), c.from, c.valid);
    }
    t.copies.resize(kept);
}

/* ---- mbarriers --------------------------------------------------------------------------------------------------- */

struct mbarrier {
    uint32_t offset;
    unsigned count, pending;
    int64_t bytes; /* expected less landed */
    uint32_t completed; /* phases */
    std::vector<moment> clock, done; /* of arrivals so far; as of the last completion */
    std::vector<unsigned> waiting;
};

static std::vector<mbarrier> mbarriers;

static mbarrier &find_mbarrier(const void *pointer, const char *what)
{
    uint32_t offset = shared_offset(pointer, 8, what);
    for (mbarrier &b : mbarriers) {
        if (b.offset != offset)
            continue;
        const cell *c = shared_cells(offset);
        if (self().clock[c->writer - 1] < c->written)
            fault("race: %s of the mbarrier at byte %u with no barrier after its init", what, offset);
        return b;
    }
    fault("%s: no mbarrier was made at byte %u of shared memory", what, offset);
}

static uint32_t place(const mbarrier &b)
{
    return place_of_mbarrier((uint32_t)(&b - mbarriers.data()));
}

void mbarrier_init(uint64_t *pointer, unsigned count)
{
    uint32_t offset = shared_offset(pointer, 8, "mbarrier init");
    if (offset % 8 || !count || count >= 1u << 20)
        fault("mbarrier init for %u arrivals at byte %u", count, offset);
    if (mbarriers.size() == MBARRIERS)
        fault("more than %u mbarriers", MBARRIERS);
    for (const mbarrier &b : mbarriers)
        if (b.offset == offset)
            fault("an mbarrier is made at byte %u for the second time", offset);
    shared_write(offset, 8, self().number, now(), false, "mbarrier init");
    std::vector<moment> none(block.places, 0);
    mbarriers.push_back({offset, count, count, 0, 0, none, none, {}});
}

static void complete_phase(mbarrier &b)
{
    if (b.pending || b.bytes)
        return;
    b.completed++;
    b.pending = b.count;
    b.clock[place(b)] = b.completed;
    b.done = b.clock;
    for (unsigned number : b.waiting)
        wake(number);
    b.waiting.clear();
}

static void arrive(mbarrier &b)
{
    if (!b.pending)
        fault("more than %u arrivals at the mbarrier at byte %u in one phase", b.count, b.offset);
    join(b.clock, self().clock);
    tick(self());
    b.pending--;
    complete_phase(b);
}

void mbarrier_arrive(uint64_t *pointer)
{
    arrive(find_mbarrier(pointer, "arrive"));
}

void mbarrier_expect(uint64_t *pointer, unsigned bytes)
{
    mbarrier &b = find_mbarrier(pointer, "arrive.expect_tx");
    b.bytes += bytes;
    arrive(b);
}

void mbarrier_wait(uint64_t *pointer, unsigned parity)
{
    size_t number = (size_t)(&find_mbarrier(pointer, "wait") - mbarriers.data());
    while ((mbarriers[number].completed & 1) == (parity & 1)) { /* the phase of that parity is the one that runs */
        mbarrier &b = mbarriers[number];
        b.waiting.push_back(self().number);
        sleep_until_woken({AT_MBARRIER, parity & 1, b.offset, nullptr});
    }
    join(self().clock, mbarriers[number].done);
}

void describe_mbarriers(char *text, size_t size)
{
    *text = 0;
    for (const mbarrier &b : mbarriers) {
        size_t at = strlen(text);
        if (!b.waiting.empty())
            snprintf(text + at, size - at, "; mbarrier at byte %u: %u arrivals and %lld bytes to come", b.offset, b.pending,
                     (long long)b.bytes);
    }
}

void proxy_fence()
{
    tick(self());
    self().fenced = now();
}

/* ---- bulk tensor copies ------------------------------------------------------------------------------------------ */

struct bulk_load {
    unsigned by; /* thread */
    tensor_map map;
    uint32_t offset;
    size_t barrier;
    int at[4];
};

static std::vector<bulk_load> loads;

static uint32_t row_bytes(const tensor_map &map)
{
    return map.box[0] * 2;
}

static uint32_t box_rows(const tensor_map &map)
{
    return map.box[1] * map.box[2] * map.box[3];
}

/* Calls fn(offset in the box, address or NULL outside the tensor, elements inside) for every row of the box. */
template <class F> static void for_rows(const tensor_map &map, const int *at, F fn)
{
    uint32_t offset = 0;
    for (unsigned k = 0; k < map.box[3]; k++)
        for (unsigned j = 0; j < map.box[2]; j++)
            for (unsigned i = 0; i < map.box[1]; i++, offset += row_bytes(map)) {
                int64_t where[4] = {at[0], at[1] + (int64_t)i, at[2] + (int64_t)j, at[3] + (int64_t)k};
                bool inside = where[0] >= 0 && where[0] < map.extent[0];
                for (int d = 1; d < 4; d++)
                    inside &= where[d] >= 0 && where[d] < map.extent[d];
                int64_t left = (int64_t)map.extent[0] - where[0];
                unsigned elements = !inside ? 0 : left < map.box[0] ? (unsigned)left : map.box[0];
                const unsigned char *p = inside ? map.base + where[0] * 2 + where[1] * (int64_t)map.stride[1] +
                                                      where[2] * (int64_t)map.stride[2] + where[3] * (int64_t)map.stride[3]
                                                : nullptr;
                fn(offset, (unsigned char *)p, elements);
            }
}

/* Byte `i` of a row at `offset`: with the swizzle, bits 4-6 of the address are exchanged by bits 7-9. */
static uint32_t swizzled(const tensor_map &map, uint32_t address)
{
    return map.swizzle ? address ^ (address >> 7 & 7) << 4 : address;
}

static void check_map(const tensor_map &map, uint32_t offset, const char *what)
{
    if ((uintptr_t)map.base % 16 || (map.swizzle && row_bytes(map) > 128) || row_bytes(map) % 16)
        fault("%s with a tensor map the copy engine does not take (rows of %u bytes)", what, row_bytes(map));
    for (int d = 0; d < 4; d++)
        if (!map.extent[d] || !map.box[d] || map.box[d] > 256 || (d && (map.stride[d] % 16 || !map.stride[d])))
            fault("%s with a tensor map the copy engine does not take (dimension %d)", what, d);
    if (offset % (map.swizzle ? 1024 : 128))
        fault("%s at byte %u of shared memory, which is no multiple of %u", what, offset, map.swizzle ? 1024 : 128);
}

void tma_load(void *shared, const tensor_map *map, uint64_t *barrier, const int *at)
{
    uint32_t bytes = row_bytes(*map) * box_rows(*map), offset = shared_offset(shared, bytes, "bulk copy");
    check_map(*map, offset, "bulk copy");
    mbarrier &b = find_mbarrier(barrier, "bulk copy");
    require_fenced(b.offset, 8, "bulk copy with an mbarrier");
    for_rows(*map, at, [](uint32_t, unsigned char *p, unsigned elements) {
        if (elements)
            global_access(p, elements * 2, false, false, "bulk copy");
    });
    shared_write(offset, bytes, place(b), b.completed + 1, true, "bulk copy");
    shared_poison(offset, bytes);
    loads.push_back({self().number, *map, offset, (size_t)(&b - mbarriers.data()), {at[0], at[1], at[2], at[3]}});
}

bool async_complete_one()
{
    if (loads.empty())
        return false;
    size_t chosen = random_below((uint32_t)loads.size());
    bulk_load load = loads[chosen];
    loads.erase(loads.begin() + (ptrdiff_t)chosen);
    uint32_t bytes = row_bytes(load.map) * box_rows(load.map);
    for (uint32_t i = 0; i < bytes; i += GRANULE)
        shared_cells(load.offset + i)->in_flight = 0;
    for_rows(load.map, load.at, [&](uint32_t row, unsigned char *p, unsigned elements) {
        for (unsigned i = 0; i < load.map.box[0]; i++) {
            unsigned char *to = shared_at(swizzled(load.map, load.offset + row + i * 2));
            memset(to, 0, 2);
            if (i < elements)
                memcpy(to, p + i * 2, 2);
        }
    });
    mbarrier &b = mbarriers[load.barrier];
    b.bytes -= bytes;
    complete_phase(b);
    return true;
}

void tma_store(const tensor_map *map, const void *shared, const int *at)
{
    thread &t = self();
    uint32_t bytes = row_bytes(*map) * box_rows(*map), offset = shared_offset(shared, bytes, "bulk store");
    check_map(*map, offset, "bulk store");
    shared_read(offset, bytes, t.number, now(), "bulk store");
    require_fenced(offset, bytes, "bulk store of shared memory");
    t.stores.push_back({*map, offset, write_sequence(), {at[0], at[1], at[2], at[3]}, t.store_groups});
}

void bulk_commit()
{
    self().store_groups++;
}

static void finish_store(const pending_store &s)
{
    uint32_t bytes = row_bytes(s.map) * box_rows(s.map);
    for (uint32_t i = 0; i < bytes; i += GRANULE)
        if (shared_cells(s.offset + i)->sequence > s.sequence)
            fault("shared memory at byte %u was overwritten while a bulk store read it", s.offset + i);
    shared_read(s.offset, bytes, self().number, now(), "bulk store");
    for_rows(s.map, s.at, [&](uint32_t row, unsigned char *p, unsigned elements) {
        if (elements)
            global_access(p, elements * 2, true, false, "bulk store");
        for (unsigned i = 0; i < elements; i++)
            memcpy(p + i * 2, shared_at(swizzled(s.map, s.offset + row + i * 2)), 2);
    });
}

void bulk_wait(unsigned pending)
{
    thread &t = self();
    size_t kept = 0;
    for (size_t i = 0; i < t.stores.size(); i++)
        if (t.stores[i].group + pending >= t.store_groups)
            t.stores[kept++] = t.stores[i];
        else
            finish_store(t.stores[i]);
    t.stores.resize(kept);
}

/* ---- begin and end ----------------------------------------------------------------------------------------------- */

void async_begin_block()
{
    loads.clear();
    mbarriers.clear();
    mbarriers.reserve(MBARRIERS);
}

bool async_end_block()
{
    if (!loads.empty())
        fault("the block ended while the bulk copy by thread %u into byte %u was in flight", loads[0].by, loads[0].offset);
    for (unsigned i = 0; i < block.threads; i++) {
        const thread &t = block.all[i];
        if (!t.copies.empty())
            fault("thread %u ended without waiting for its cp.async into byte %u", i, t.copies[0].offset);
        if (!t.stores.empty())
            fault("thread %u ended without waiting for its bulk store of byte %u", i, t.stores[0].offset);
        if (t.waited != t.issued)
            fault("thread %u ended without waiting for its last wgmma", i);
    }
    return true;
}

} // namespace emulator
