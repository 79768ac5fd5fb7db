/* SPDX-License-Identifier: MIT */
/* A test of every function of kernels/cuda/primitives.cuh, on the emulator and, compiled by nvcc, on a GPU: the emulator is
 * held to the hardware by the same numbers. With a GPU older than Hopper the tests of sm_90a are skipped. */

#include <math.h>

#include "device.h"
#include "kernels/cuda/tensor_map.cuh"

#if defined(IMAGINE__EMULATED) || !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER 1
#else
#define HOPPER 0
#endif

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

__global__ void convert_kernel(const float *x, uint32_t *pair, float *power, float *lost)
{
    unsigned i = threadIdx.x;
    pair[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
    power[i] = exp2_fast(x[2 * i]) + add(multiply(x[2 * i], 0.0f), 0.0f);
    lost[i] = multiply_add(x[2 * i + 1], 0.1f, -multiply(x[2 * i + 1], 0.1f));
}

/* The bits of a value; it as bf16 alone; both halves of its pair; a value from its bits. */
__global__ void bits_kernel(const float *x, uint32_t *bits, float *value)
{
    unsigned i = threadIdx.x;
    uint32_t pair = pack_bf16(x[2 * i], x[2 * i + 1]);
    bits[2 * i] = float_bits(x[2 * i]);
    bits[2 * i + 1] = to_bf16(x[2 * i + 1]);
    value[3 * i] = bf16_low(pair);
    value[3 * i + 1] = bf16_high(pair);
    value[3 * i + 2] = bits_float(float_bits(x[2 * i]) ^ 0x80000000u);
}

static void bits()
{
    static const float x[] = {0, -0.0f, 1, -2.5f, 1.00390625f, 1.01171875f, 3e38f, INFINITY, -INFINITY, 0.3f, -0.7f, NAN};
    device_array<float> in(12), value(18);
    device_array<uint32_t> out(12);
    memcpy(in.host, x, sizeof x);
    in.upload();
    REQUIRE(!device_finish(launch(bits_kernel, 1, 6, 0, nullptr, in.device, out.device, value.device)));
    out.download();
    value.download();
    for (int i = 0; i < 6; i++) {
        float low = x[2 * i], high = x[2 * i + 1], minus = -low;
        CHECK(!memcmp(&out.host[2 * i], &low, 4) && !memcmp(&value.host[3 * i + 2], &minus, 4));
        CHECK(value.host[3 * i] == value_of(bf16_of(low)));
        if (high != high) { /* stays one */
            CHECK(value.host[3 * i + 1] != value.host[3 * i + 1] && (out.host[2 * i + 1] & 0x7fff) > 0x7f80);
            continue;
        }
        CHECK(out.host[2 * i + 1] == bf16_of(high) && value.host[3 * i + 1] == value_of(bf16_of(high)));
    }
}

static void numbers()
{
    static const float x[] = {0, -0.0f, 1, -2.5f, 1.00390625f, 1.01171875f, 3e38f, 1e-20f, -40, 20, 0.3f, -0.7f};
    device_array<float> in(12), power(6), lost(6);
    device_array<uint32_t> pair(6);
    memcpy(in.host, x, sizeof x);
    in.upload();
    REQUIRE(!device_finish(launch(convert_kernel, 1, 6, 0, nullptr, in.device, pair.device, power.device, lost.device)));
    pair.download();
    power.download();
    lost.download();
    for (int i = 0; i < 6; i++) {
        CHECK((pair.host[i] & 0xffff) == bf16_of(x[2 * i]) && pair.host[i] >> 16 == bf16_of(x[2 * i + 1]));
        double expected = exp2((double)x[2 * i]);
        CHECK(isinf(power.host[i]) ? expected > 1e38 : fabs(power.host[i] - expected) <= 4e-7 * expected);
        double product = (double)x[2 * i + 1] * 0.1f;
        CHECK(lost.host[i] == (float)(product - (float)product)); /* what the rounded product has lost, to the bit */
    }
    CHECK(bf16_of(1.00390625f) == 0x3f80 && bf16_of(1.01171875f) == 0x3f82); /* ties go to even */
}

/* ---- barriers, warps, atomics ------------------------------------------------------------------------------------ */

__shared__ float static_values[256];

__global__ void reverse_kernel(const float *x, float *y)
{
    float *values = (float *)dynamic_shared();
    unsigned i = threadIdx.x, n = blockDim.x;
    static_values[i] = x[blockIdx.x * n + i];
    values[i] = static_values[i];
    sync_block();
    y[blockIdx.x * n + i] = values[n - 1 - i] + static_values[n - 1 - i];
}

static void block_barrier()
{
    device_array<float> x(512), y(512);
    for (int i = 0; i < 512; i++)
        x.host[i] = (float)i;
    x.upload();
    REQUIRE(!device_finish(launch(reverse_kernel, 2, 256, 1024, nullptr, x.device, y.device)));
    y.download();
    for (int i = 0; i < 512; i++)
        CHECK(y.host[i] == 2.0f * (float)(i / 256 * 256 + 255 - i % 256));
}

/* Warp 0 makes values for warps 1 and 2, three times, through one buffer. */
__global__ void relay_kernel(float *y)
{
    float *values = (float *)dynamic_shared();
    unsigned i = threadIdx.x;
    for (unsigned turn = 0; turn < 3; turn++) {
        if (i < 32) {
            if (turn)
                sync_threads(2, 96); /* empty */
            values[i] = (float)(100 * turn + i);
            arrive_threads(1, 96); /* full */
        } else {
            sync_threads(1, 96);
            y[turn * 64 + i - 32] = values[(i + 5) % 32];
            if (turn < 2)
                arrive_threads(2, 96);
        }
    }
}

static void named_barriers()
{
    device_array<float> y(192);
    REQUIRE(!device_finish(launch(relay_kernel, 1, 96, 128, nullptr, y.device)));
    y.download();
    for (int i = 0; i < 192; i++)
        CHECK(y.host[i] == (float)(100 * (i / 64) + (i % 64 + 37) % 32));
}

__global__ void warp_kernel(float *y, unsigned *votes)
{
    unsigned i = threadIdx.x;
    float x = (float)(10 * i);
    y[i] = shuffle(x, 3);
    y[32 + i] = shuffle_xor(x, 5);
    y[64 + i] = shuffle_up(x, 2);
    y[96 + i] = shuffle_down(x, 7);
    votes[i] = vote_ballot(i % 3 == 0);
    votes[32 + i] = (unsigned)(vote_any(i == 40) + 2 * vote_all(i < 32) + 4 * vote_any(i == 4) + 8 * vote_all(i != 4));
    if (i < 16)
        y[i] += shuffle_xor(x, 8, 0xffff);
    sync_warp();
}

static void warps()
{
    device_array<float> y(128);
    device_array<unsigned> votes(64);
    REQUIRE(!device_finish(launch(warp_kernel, 1, 32, 0, nullptr, y.device, votes.device)));
    y.download();
    votes.download();
    for (int i = 0; i < 32; i++) {
        CHECK(y.host[i] == (float)(30 + (i < 16 ? 10 * (i ^ 8) : 0)));
        CHECK(y.host[32 + i] == (float)(10 * (i ^ 5)));
        CHECK(y.host[64 + i] == (float)(10 * (i < 2 ? i : i - 2)));
        CHECK(y.host[96 + i] == (float)(10 * (i > 24 ? i : i + 7)));
        CHECK(votes.host[i] == 0x49249249u && votes.host[32 + i] == 6);
    }
}

__global__ void atomic_kernel(float *sum, unsigned *counts)
{
    atomic_add(sum, 0.5f);
    atomic_add(counts, 3u);
    atomic_or(counts + 1, 1u << (threadIdx.x % 20));
}

static void atomics()
{
    device_array<float> sum(1);
    device_array<unsigned> counts(2);
    sum.upload();
    counts.upload();
    REQUIRE(!device_finish(launch(atomic_kernel, 3, 64, 0, nullptr, sum.device, counts.device)));
    sum.download();
    counts.download();
    CHECK(sum.host[0] == 96 && counts.host[0] == 576 && counts.host[1] == 0xfffff);
}

/* ---- sm_80 ------------------------------------------------------------------------------------------------------- */

__global__ void copy_kernel(const uint4 *x, uint4 *y)
{
    uint4 *buffer = (uint4 *)dynamic_shared();
    unsigned i = threadIdx.x;
    copy_async(buffer + i, x + i);
    copy_async_commit();
    copy_async(buffer + 32 + i, x + 32 + i, i % 16);
    copy_async_commit();
    copy_async_wait<1>();
    sync_block();
    y[i] = buffer[31 - i];
    copy_async_wait<0>();
    sync_block();
    y[32 + i] = buffer[63 - i];
}

static void async_copies()
{
    device_array<unsigned char> x(1024), y(1024);
    for (int i = 0; i < 1024; i++)
        x.host[i] = (unsigned char)(i * 7 + 1);
    x.upload();
    REQUIRE(!device_finish(launch(copy_kernel, 1, 32, 1024, nullptr, (const uint4 *)x.device, (uint4 *)y.device)));
    y.download();
    for (int i = 0; i < 1024; i++) {
        int from = i / 512 * 32 + 31 - i / 16 % 32, byte = i % 16;
        int expected = i >= 512 && byte >= from % 16 ? 0 : x.host[from * 16 + byte];
        CHECK(y.host[i] == expected);
    }
}

__global__ void ldmatrix_kernel(const uint16_t *x, uint32_t *y)
{
    uint16_t *buffer = (uint16_t *)dynamic_shared();
    unsigned lane = threadIdx.x;
    for (unsigned i = 0; i < 8; i++)
        buffer[lane * 8 + i] = x[lane * 8 + i];
    sync_block();
    uint32_t r[4];
    load_matrices(r, buffer + lane * 8);
    for (unsigned i = 0; i < 4; i++)
        y[lane * 4 + i] = r[i];
    load_matrices_transposed(r, buffer + lane * 8);
    for (unsigned i = 0; i < 4; i++)
        y[128 + lane * 4 + i] = r[i];
}

static void matrix_loads()
{
    device_array<uint16_t> x(256);
    device_array<uint32_t> y(256);
    for (int i = 0; i < 256; i++)
        x.host[i] = (uint16_t)i;
    x.upload();
    REQUIRE(!device_finish(launch(ldmatrix_kernel, 1, 32, 512, nullptr, x.device, y.device)));
    y.download();
    for (unsigned i = 0; i < 128; i++) {
        unsigned lane = i / 4, first = i % 4 * 64, row = lane / 4, column = lane % 4 * 2;
        CHECK(y.host[i] == ((first + row * 8 + column) | (first + row * 8 + column + 1) << 16));
        CHECK(y.host[128 + i] == ((first + column * 8 + row) | (first + (column + 1) * 8 + row) << 16));
    }
}

__global__ void mma_kernel(const uint16_t *a, const uint16_t *b, float *d)
{
    unsigned lane = threadIdx.x, row = lane / 4, pair = lane % 4 * 2;
    auto two = [](const uint16_t *p, unsigned step) { return p[0] | (uint32_t)p[step] << 16; };
    uint32_t ra[4] = {two(a + row * 16 + pair, 1), two(a + (row + 8) * 16 + pair, 1), two(a + row * 16 + pair + 8, 1),
                      two(a + (row + 8) * 16 + pair + 8, 1)};
    float rd[4] = {1, 2, 3, 4};
    multiply_16x8x16(rd, ra, two(b + pair * 8 + row, 8), two(b + (pair + 8) * 8 + row, 8));
    for (unsigned i = 0; i < 4; i++)
        d[(row + i / 2 * 8) * 8 + pair + i % 2] = rd[i];
}

static void products()
{
    device_array<uint16_t> a(256), b(128);
    device_array<float> d(128);
    uint32_t state = 1;
    for (int i = 0; i < 256; i++)
        a.host[i] = bf16_of(small_value(&state));
    for (int i = 0; i < 128; i++)
        b.host[i] = bf16_of(small_value(&state));
    a.upload();
    b.upload();
    REQUIRE(!device_finish(launch(mma_kernel, 1, 32, 0, nullptr, a.device, b.device, d.device)));
    d.download();
    for (int i = 0; i < 128; i++) {
        float expected = (float)(i / 64 * 2 + i % 2 + 1); /* exact: the values are small */
        for (int k = 0; k < 16; k++)
            expected += value_of(a.host[i / 8 * 16 + k]) * value_of(b.host[k * 8 + i % 8]);
        CHECK(d.host[i] == expected);
    }
}

/* ---- sm_90: mbarriers and the copy engine ------------------------------------------------------------------------ */

struct box_shared {
    alignas(1024) uint16_t box[16 * 64];
    uint64_t full, empty;
};

__device__ inline box_shared *box_memory()
{
    unsigned char *p = (unsigned char *)dynamic_shared();
    return (box_shared *)(p + (1024 - shared_address(p) % 1024) % 1024);
}

/* Thread 0 brings boxes of 16 rows, one after the other through one buffer; the others read them as they lie, swizzled, and
 * the last box goes back through the copy engine. */
__global__ void box_kernel(const __grid_constant__ tensor_map from, const __grid_constant__ tensor_map to, uint16_t *y,
                           int boxes)
{
#if HOPPER
    box_shared *s = box_memory();
    unsigned i = threadIdx.x;
    if (i == 0) {
        mbarrier_init(&s->full, 1);
        mbarrier_init(&s->empty, 64);
        fence_async_proxy();
    }
    sync_block();
    for (int b = 0; b < boxes; b++) {
        unsigned parity = (unsigned)b & 1;
        if (i == 0) {
            if (b)
                mbarrier_wait(&s->empty, parity ^ 1);
            mbarrier_expect(&s->full, sizeof s->box);
            load_box(s->box, &from, &s->full, 0, 1, b * 16 - 3, 0);
        }
        mbarrier_wait(&s->full, parity);
        for (unsigned j = i; j < 1024; j += 64)
            y[(unsigned)b * 1024 + j] = s->box[j];
        if (b + 1 < boxes)
            mbarrier_arrive(&s->empty);
    }
    sync_block();
    s->box[i] = (uint16_t)i;
    fence_async_proxy();
    sync_block();
    if (i == 0) {
        store_box(&to, s->box, 0, 0, 4, 0);
        store_commit();
        store_wait<0>();
    }
#endif
}

static bool has_hopper()
{
    return device_capability() == 90;
}

/* A tensor [1, rows, 2, 40]: 40 columns, so that a box of 64 is cut there, too. */
static int box_map(tensor_map *map, const uint16_t *base, uint64_t rows)
{
    const uint64_t extent[4] = {40, 2, rows, 1}, stride[4] = {0, 80, 160, 160 * rows};
    const uint32_t box[4] = {64, 1, 16, 1};
    return make_tensor_map(map, base, extent, stride, box);
}

static void boxes()
{
    const int rows = 37, count = 3, rows_out = 10;
    if (!has_hopper())
        SKIP("no Hopper GPU");
    device_array<uint16_t> x((size_t)rows * 80), y((size_t)count * 1024), out((size_t)rows_out * 80);
    for (int i = 0; i < rows * 80; i++)
        x.host[i] = (uint16_t)(i + 1);
    memset(out.host, 0x77, (size_t)rows_out * 160);
    x.upload();
    out.upload();
    tensor_map from, to;
    REQUIRE(!box_map(&from, x.device, rows) && !box_map(&to, out.device, rows_out));
    REQUIRE(!device_finish(launch(box_kernel, 1, 64, sizeof(box_shared) + 1024, nullptr, from, to, y.device, count)));
    y.download();
    out.download();
    uint16_t last[16][64];
    for (int i = 0; i < count * 1024; i++) {
        int line = i % 1024 / 64, chunk = i % 64 / 8, column = (chunk ^ line % 8) * 8 + i % 8; /* the swizzle undone */
        int row = i / 1024 * 16 - 3 + line;
        int expected = row < 0 || row >= rows || column >= 40 ? 0 : row * 80 + 40 + column + 1;
        CHECK(y.host[i] == expected);
        last[line][column] = (uint16_t)expected;
    }
    for (int i = 0; i < 64; i++)
        last[0][i] = (uint16_t)i; /* line 0 is not moved by the swizzle */
    for (int i = 0; i < rows_out * 80; i++) {
        int line = i / 80 - 4, column = i % 80;
        CHECK(out.host[i] == (line < 0 || column >= 40 ? 0x7777 : last[line][column]));
    }
}

/* ---- sm_90a: wgmma ----------------------------------------------------------------------------------------------- */

/* Row `row` of a matrix of lines of 128 bytes, chunk of 8 elements `chunk`, where the swizzle puts it. */
__device__ inline uint16_t *swizzled_chunk(uint16_t *matrix, unsigned row, unsigned chunk)
{
    return matrix + row * 64 + (chunk ^ row % 8) * 8;
}

struct product_shared {
    alignas(1024) uint16_t a[64 * 64]; /* 64 rows, k along the lines */
    alignas(1024) uint16_t b[176 * 64]; /* n rows, k along the lines */
    alignas(1024) uint16_t v[2][64 * 64]; /* 64 rows of k, each half of n along the lines */
};

/* scores = a b^T over k = 64; y = start + bf16(scores[:, 0..63]) v. */
template <unsigned N, unsigned D>
__global__ void __launch_bounds__(128, 1)
    product_kernel(const uint16_t *a, const uint16_t *b, const uint16_t *v, float *scores, float *y)
{
#if HOPPER
    unsigned char *p = (unsigned char *)dynamic_shared();
    product_shared *s = (product_shared *)(p + (1024 - shared_address(p) % 1024) % 1024);
    unsigned t = threadIdx.x, row = t / 32 * 16 + t % 32 / 4, column = t % 4 * 2;
    for (unsigned i = t; i < 64 * 64; i += 128)
        swizzled_chunk(s->a, i / 64, i % 64 / 8)[i % 8] = a[i];
    for (unsigned i = t; i < N * 64; i += 128)
        swizzled_chunk(s->b, i / 64, i % 64 / 8)[i % 8] = b[i];
    for (unsigned i = t; i < 64 * D; i += 128)
        swizzled_chunk(s->v[i % D / 64], i / D, i % 64 / 8)[i % 8] = v[i];
    fence_async_proxy();
    sync_block();
    float d[N / 2], o[D / 2];
    uint64_t da = matrix_descriptor(s->a, 16), db = matrix_descriptor(s->b, 16), dv = matrix_descriptor(s->v, 64 * 128);
    products_begin();
    multiply_shared<N, false>(d, da, db);
#pragma unroll
    for (unsigned k = 1; k < 4; k++)
        multiply_shared<N>(d, advance(da, k * 32), advance(db, k * 32));
    products_commit();
    products_wait<0>(d);
#pragma unroll
    for (unsigned i = 0; i < N / 2; i++)
        scores[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + column + i % 2] = d[i];
    uint32_t weights[4][4];
#pragma unroll
    for (unsigned i = 0; i < 16; i++)
        weights[i / 4][i % 4] = pack_bf16(d[2 * i], d[2 * i + 1]);
#pragma unroll
    for (unsigned i = 0; i < D / 2; i++)
        o[i] = (float)(row + i / 2 % 2 * 8);
    products_begin();
#pragma unroll
    for (unsigned k = 0; k < 4; k++)
        multiply_registers<D>(o, weights[k], advance(dv, k * 2048));
    products_commit();
    products_wait<0>(o);
#pragma unroll
    for (unsigned i = 0; i < D / 2; i++)
        y[(row + i / 2 % 2 * 8) * D + i / 4 * 8 + column + i % 2] = o[i];
#endif
}

template <unsigned N, unsigned D> static void check_products()
{
    device_array<uint16_t> a(64 * 64), b(N * 64), v(64 * D);
    device_array<float> scores(64 * N), y(64 * D);
    uint32_t state = N;
    for (uint16_t *p = a.host; p < a.host + 64 * 64; p++)
        *p = bf16_of(small_value(&state));
    for (uint16_t *p = b.host; p < b.host + N * 64; p++)
        *p = bf16_of(small_value(&state));
    for (uint16_t *p = v.host; p < v.host + 64 * D; p++)
        *p = bf16_of(small_value(&state));
    a.upload();
    b.upload();
    v.upload();
    REQUIRE(!device_finish(launch(product_kernel<N, D>, 1, 128, sizeof(product_shared) + 1024, nullptr, a.device, b.device,
                                  v.device, scores.device, y.device)));
    scores.download();
    y.download();
    double error = 0;
    for (unsigned i = 0; i < 64; i++) {
        for (unsigned j = 0; j < N; j++) {
            float expected = 0; /* exact */
            for (unsigned k = 0; k < 64; k++)
                expected += value_of(a.host[i * 64 + k]) * value_of(b.host[j * 64 + k]);
            CHECK(scores.host[i * N + j] == expected);
        }
        for (unsigned j = 0; j < D; j++) {
            double expected = i;
            for (unsigned k = 0; k < 64; k++)
                expected += (double)value_of(bf16_of(scores.host[i * N + k])) * value_of(v.host[k * D + j]);
            error = fmax(error, fabs(y.host[i * D + j] - expected));
        }
    }
    CHECK(error < 1e-3);
}

static void warpgroup_products()
{
    if (!has_hopper())
        SKIP("no Hopper GPU");
    check_products<64, 64>();
    check_products<96, 64>();
    check_products<128, 64>();
    check_products<176, 128>();
}

/* As many threads as take 168 registers each at the start, between the two counts. */
__global__ void __launch_bounds__(384, 1) registers_kernel(float *y)
{
#if HOPPER
    if (threadIdx.x < 128)
        fewer_registers<24>();
    else
        more_registers<240>();
    y[threadIdx.x] = 1;
#endif
}

static void register_counts()
{
    if (!has_hopper())
        SKIP("no Hopper GPU");
    device_array<float> y(384);
    REQUIRE(!device_finish(launch(registers_kernel, 1, 384, 0, nullptr, y.device)));
    y.download();
    for (int i = 0; i < 384; i++)
        CHECK(y.host[i] == 1);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"numbers", numbers}, {"bits", bits}, {"block barrier", block_barrier}, {"named barriers", named_barriers}, {"warps", warps},
        {"atomics", atomics}, {"async copies", async_copies}, {"matrix loads", matrix_loads}, {"products", products},
        {"boxes", boxes}, {"warpgroup products", warpgroup_products}, {"register counts", register_counts},
    };
#ifdef IMAGINE__EMULATED
    emulator::set_capability(90);
#endif
    if (!has_device()) {
        printf("    no device\ncuda/primitives: 0 passed, 0 failed, %d skipped\n", (int)(sizeof cases / sizeof *cases));
        return 0;
    }
    return test_main("cuda/primitives", cases, sizeof cases / sizeof *cases, argc, argv);
}
