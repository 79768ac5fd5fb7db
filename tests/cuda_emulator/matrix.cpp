/* SPDX-License-Identifier: MIT */
#include "internal.h"

/* What the tensor cores do: ldmatrix, mma.sync, wgmma. Sums in f32, in ascending order of k. */

namespace emulator {

float bf16_value(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static uint16_t half_of(uint32_t pair, unsigned which)
{
    return (uint16_t)(pair >> 16 * which);
}

/* ---- ldmatrix ---------------------------------------------------------------------------------------------------- */

struct ldmatrix_slot {
    uint32_t *r;
    const void *row;
    unsigned matrices;
    bool transposed;
};

static void load_matrices(void **slots, unsigned)
{
    for (unsigned lane = 0; lane < WARP; lane++) {
        const ldmatrix_slot *s = (const ldmatrix_slot *)slots[lane];
        for (unsigned m = 0; m < s->matrices; m++) {
            uint16_t value[2];
            for (unsigned e = 0; e < 2; e++) {
                unsigned row = s->transposed ? 2 * (lane % 4) + e : lane / 4;
                unsigned column = s->transposed ? lane / 4 : 2 * (lane % 4) + e;
                memcpy(&value[e], (const uint16_t *)((const ldmatrix_slot *)slots[8 * m + row])->row + column, 2);
            }
            s->r[m] = value[0] | (uint32_t)value[1] << 16;
        }
    }
}

void ldmatrix(uint32_t *r, unsigned matrices, bool transposed, const void *row)
{
    ldmatrix_slot s = {r, row, matrices, transposed};
    if (self().number % WARP < 8 * matrices) {
        uint32_t offset = shared_offset(row, 16, "ldmatrix");
        if (offset % 16)
            fault("ldmatrix of a row at byte %u, which is no multiple of 16", offset);
        shared_read(offset, 16, self().number, now(), "ldmatrix");
    }
    converge("ldmatrix", 0xffffffff, &s, load_matrices);
}

/* ---- mma.sync m16n8k16 ------------------------------------------------------------------------------------------- */

struct mma_slot {
    float *d;
    const uint32_t *a, *b;
};

/* A fragment of 16 rows and 16 columns over a warp: register i of a lane holds row lane / 4 (+ 8 if i is odd) and columns
 * 2 (lane % 4) and the next (+ 8 if i >= 2). */
static void gather_a(float (*a)[16], unsigned lane, const uint32_t *r)
{
    for (unsigned i = 0; i < 4; i++)
        for (unsigned e = 0; e < 2; e++)
            a[lane / 4 + i % 2 * 8][2 * (lane % 4) + e + i / 2 * 8] = bf16_value(half_of(r[i], e));
}

static void multiply_warp(void **slots, unsigned)
{
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const mma_slot *s = (const mma_slot *)slots[lane];
        gather_a(a, lane, s->a);
        for (unsigned i = 0; i < 2; i++)
            for (unsigned e = 0; e < 2; e++)
                b[2 * (lane % 4) + e + i * 8][lane / 4] = bf16_value(half_of(s->b[i], e));
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        float *d = ((mma_slot *)slots[lane])->d;
        for (unsigned i = 0; i < 4; i++) {
            unsigned row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
            float sum = d[i];
            for (unsigned k = 0; k < 16; k++)
                sum += a[row][k] * b[k][column];
            d[i] = sum;
        }
    }
}

void mma_m16n8k16(float *d, const uint32_t *a, const uint32_t *b)
{
    mma_slot s = {d, a, b};
    converge("mma", 0xffffffff, &s, multiply_warp);
}

/* ---- wgmma: m64 nN k16 ------------------------------------------------------------------------------------------- */

constexpr unsigned GROUP = 128; /* threads */

struct product {
    unsigned n;
    uint64_t a_descriptor, b_descriptor;
    bool a_in_registers, b_transposed, accumulate, done;
    unsigned threads; /* that have issued it */
    uint32_t sequence; /* of the last write to shared memory before it */
    int64_t previous, next; /* products on the same accumulators, or -1 */
    float *d[GROUP];
    const uint32_t *a[GROUP];
    uint32_t a_values[GROUP][4];
    std::vector<float> result; /* [64][n] */
};

struct warpgroup {
    std::vector<product> products;
    std::vector<unsigned> waiting;
};

static warpgroup groups[WARPGROUPS];

void matrix_begin_block()
{
    for (warpgroup &g : groups) {
        g.products.clear();
        g.waiting.clear();
    }
}

static uint32_t descriptor_field(uint64_t descriptor, unsigned bit)
{
    return (uint32_t)(descriptor >> bit & 0x3fff) << 4;
}

/* Where element (row, k) of an operand lies, where "row" is m or n. With 128-byte swizzle, 8 lines of 128 bytes make an
 * atom. K-major: a line is 64 of k, and groups of 8 rows lie `stride` apart. Transposed: a line is 64 rows, groups of 8 k
 * lie `stride` apart, groups of 64 rows `leading`. */
static uint32_t element_at(uint64_t descriptor, unsigned row, unsigned k, bool transposed)
{
    uint32_t base = descriptor_field(descriptor, 0), leading = descriptor_field(descriptor, 16);
    uint32_t stride = descriptor_field(descriptor, 32);
    uint32_t at = transposed ? base + row % 64 * 2 + row / 64 * leading + k % 8 * 128 + k / 8 * stride
                             : base + k * 2 + row % 8 * 128 + row / 8 * stride;
    return at ^ (at >> 7 & 7) << 4;
}

static void check_descriptor(uint64_t descriptor, bool transposed)
{
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7))
        fault("wgmma with a descriptor (%#llx) other than of 128-byte swizzle", (unsigned long long)descriptor);
    uint32_t base = descriptor_field(descriptor, 0);
    if (base % 1024 >= (transposed ? 16u : 128u)) /* K-major operands may begin at any k of the first line */
        fault("wgmma with a descriptor that begins at byte %u, inside a swizzle atom", base);
}

/* Calls fn(offset) for every pair of elements of an operand. */
template <class F> static void for_pairs(uint64_t descriptor, unsigned rows, bool transposed, F fn)
{
    for (unsigned i = 0; i < (transposed ? 16 : rows); i++)
        for (unsigned j = 0; j < (transposed ? rows : 16); j += 2)
            fn(transposed ? element_at(descriptor, j, i, true) : element_at(descriptor, i, j, false));
}

/* The running thread has to be ordered after what wrote the operand, and the writer must have fenced. */
static void check_operand(uint64_t descriptor, unsigned rows, bool transposed, uint32_t who, moment when)
{
    for_pairs(descriptor, rows, transposed, [&](uint32_t at) {
        for (uint32_t i = at; i < at + 4; i += GRANULE) {
            shared_offset(shared_at(i), GRANULE, "wgmma");
            shared_read(i, GRANULE, who, when, "wgmma");
        }
        require_fenced(at, 4, "wgmma of shared memory");
    });
}

static void check_unchanged(uint64_t descriptor, unsigned rows, bool transposed, uint32_t sequence)
{
    for_pairs(descriptor, rows, transposed, [&](uint32_t at) {
        for (uint32_t i = at; i < at + 4; i += GRANULE)
            if (shared_cells(i)->sequence > sequence)
                fault("shared memory at byte %u was overwritten while a wgmma read it", i);
    });
}

/* Accumulator i of a thread of the group. */
static size_t accumulator_at(unsigned number, unsigned i, unsigned n)
{
    unsigned lane = number % WARP, row = number / WARP * 16 + lane / 4 + i / 2 % 2 * 8;
    return (size_t)row * n + i / 4 * 8 + 2 * (lane % 4) + i % 2;
}

static product make_product(unsigned n, const uint32_t *a, uint64_t descriptor_a, uint64_t descriptor_b,
                            bool b_transposed, bool accumulate)
{
    product p = {};
    p.n = n;
    p.a_descriptor = a ? 0 : descriptor_a;
    p.b_descriptor = descriptor_b;
    p.a_in_registers = a != nullptr;
    p.b_transposed = b_transposed;
    p.accumulate = accumulate;
    p.sequence = write_sequence();
    p.previous = p.next = -1;
    return p;
}

/* The last product that is not waited for by this thread on the same accumulators. */
static int64_t previous_product(const warpgroup &g, const thread &t, const float *d)
{
    for (int64_t i = (int64_t)t.issued - 1; i >= (int64_t)t.waited; i--)
        if (g.products[(size_t)i].d[t.number % GROUP] == d)
            return i;
    return -1;
}

/* The product that this thread issues: the first thread of the group makes it, the others must issue the same. */
static product &join_product(warpgroup &g, const product &made)
{
    thread &t = self();
    if (t.issued == g.products.size()) {
        g.products.push_back(made);
        g.products.back().result.assign((size_t)made.n * 64, 0);
    }
    product &p = g.products[t.issued];
    if (p.n != made.n || p.a_descriptor != made.a_descriptor || p.b_descriptor != made.b_descriptor ||
        p.a_in_registers != made.a_in_registers || p.b_transposed != made.b_transposed || p.accumulate != made.accumulate)
        fault("the warpgroup diverges: its threads issue different wgmmas");
    return p;
}

void wgmma(unsigned n, float *d, const uint32_t *a, uint64_t descriptor_a, uint64_t descriptor_b, bool b_transposed,
           bool accumulate)
{
    thread &t = self();
    unsigned number = t.number % GROUP, group = t.number / GROUP;
    warpgroup &g = groups[group];
    if (!t.register_fence)
        fault("wgmma without a wgmma.fence since the registers could last change");
    check_descriptor(descriptor_b, b_transposed);
    if (!a)
        check_descriptor(descriptor_a, false);
    product &p = join_product(g, make_product(n, a, descriptor_a, descriptor_b, b_transposed, accumulate));
    if (number % WARP == 0) { /* one thread of each warp: the operands are the same */
        check_operand(descriptor_b, n, b_transposed, place_of_warpgroup(group), t.issued + 1);
        if (!a)
            check_operand(descriptor_a, 64, false, place_of_warpgroup(group), t.issued + 1);
    }
    p.d[number] = d;
    p.a[number] = a;
    if (a)
        memcpy(p.a_values[number], a, sizeof p.a_values[number]);
    p.previous = previous_product(g, t, d);
    if (p.previous >= 0)
        g.products[(size_t)p.previous].next = t.issued;
    for (unsigned i = 0; i < n / 2; i++) {
        if (p.previous < 0 && accumulate)
            p.result[accumulator_at(number, i, n)] = d[i];
        uint32_t poison = 0x7fffdead;
        memcpy(&d[i], &poison, sizeof poison);
    }
    t.issued++;
    if (++p.threads == GROUP) {
        for (unsigned waiting : g.waiting)
            wake(waiting);
        g.waiting.clear();
    }
}

static void compute(product &p, warpgroup &g)
{
    std::vector<float> a(64 * 16), b((size_t)16 * p.n);
    if (p.previous >= 0 && p.accumulate)
        p.result = g.products[(size_t)p.previous].result;
    check_unchanged(p.b_descriptor, p.n, p.b_transposed, p.sequence);
    if (!p.a_in_registers)
        check_unchanged(p.a_descriptor, 64, false, p.sequence);
    auto value = [](uint32_t at) {
        uint16_t bits;
        memcpy(&bits, shared_at(at), sizeof bits);
        return bf16_value(bits);
    };
    for (unsigned k = 0; k < 16; k++)
        for (unsigned j = 0; j < p.n; j++)
            b[(size_t)k * p.n + j] = value(element_at(p.b_descriptor, j, k, p.b_transposed));
    for (unsigned number = 0; p.a_in_registers && number < GROUP; number++)
        gather_a((float(*)[16])&a[number / WARP * 256], number % WARP, p.a_values[number]);
    for (unsigned i = 0; !p.a_in_registers && i < 64 * 16; i++)
        a[i] = value(element_at(p.a_descriptor, i / 16, i % 16, false));
    for (unsigned i = 0; i < 64; i++)
        for (unsigned k = 0; k < 16; k++)
            for (unsigned j = 0; j < p.n; j++)
                p.result[(size_t)i * p.n + j] += a[i * 16 + k] * b[(size_t)k * p.n + j];
    p.done = true;
    if (p.previous >= 0)
        std::vector<float>().swap(g.products[(size_t)p.previous].result);
}

void wgmma_fence()
{
    self().register_fence = true;
}

void wgmma_commit()
{
    self().product_groups.push_back(self().issued);
}

void wgmma_wait(unsigned pending)
{
    thread &t = self();
    warpgroup &g = groups[t.number / GROUP];
    unsigned number = t.number % GROUP;
    size_t committed = t.product_groups.size();
    uint32_t target = committed > pending ? t.product_groups[committed - 1 - pending] : 0;
    for (; t.waited < target; t.waited++) {
        while (g.products[t.waited].threads < GROUP) {
            g.waiting.push_back(t.number);
            sleep_until_woken({AT_PRODUCT, t.waited, 0, nullptr});
        }
        product &p = g.products[t.waited];
        if (!p.done)
            compute(p, g);
        if (p.a[number] && memcmp(p.a[number], p.a_values[number], sizeof p.a_values[number]))
            fault("registers of A changed while a wgmma read them");
        for (unsigned i = 0; p.next < 0 && i < p.n / 2; i++)
            p.d[number][i] = p.result[accumulator_at(number, i, p.n)];
    }
    moment &seen = t.clock[place_of_warpgroup(t.number / GROUP)];
    seen = seen > t.waited ? seen : t.waited;
    t.register_fence = false;
}

} // namespace emulator
