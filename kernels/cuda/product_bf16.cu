/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/product.cuh"

/* Products of bf16 on the tensor cores of sm_80 and newer. A block computes 128 x 128 outputs, each of its four warps
 * 64 x 64: smaller pieces would read more from shared memory than it gives while they multiply. Both operands come 32 of k at a time by
 * cp.async, through STAGES buffers, so that STAGES - 1 steps are on their way while one is multiplied. Two blocks fit a multiprocessor,
 * also where shared memory is 100 KiB: rows lie there without a gap, their four chunks turned by half the row's number, which puts the
 * eight rows of an ldmatrix into different banks. The sums go to the epilogue by way of shared memory, half of them at a time, so that it
 * sees four neighbours of a row and a warp writes whole sectors. */

#define THREADS 128
#define TILE 128 /* rows of x, and of W */
#define DEPTH 32
#define STAGES 3
#define WARP_ROWS 64
#define WARP_COLUMNS 64
#define HALF (WARP_COLUMNS / 2)
#define SUM_STRIDE (HALF + 8)

struct stage_shared {
    uint16_t x[TILE * DEPTH], w[TILE * DEPTH];
};

struct sums_shared {
    float warp[THREADS / 32][WARP_ROWS * SUM_STRIDE];
};
static_assert(sizeof(sums_shared) <= STAGES * sizeof(stage_shared), "the sums take the buffers' place");

/* A thread brings one chunk of eight of ROWS rows of x and as many of W. */
#define CHUNKS (DEPTH / 8)
#define BROUGHT (THREADS / CHUNKS) /* rows that all threads bring at once */
#define ROWS (TILE / BROUGHT)

/* Where a row's chunk is in a stage. */
IMAGINE__INLINE unsigned place_of_chunk(unsigned row, unsigned chunk)
{
    return row * DEPTH + (chunk ^ row / 2 % CHUNKS) * 8;
}

IMAGINE__INLINE int64_t brought_row(int64_t first, int i)
{
    return first + threadIdx.x / CHUNKS + i * BROUGHT;
}

/* Where the values of x are that a thread brings: offset(source, i, k, inside) of row i, where `inside` may become false; after a step
 * advance(), for another part begin_part(). */
template <class Source> struct x_places;

template <> struct x_places<rows_source> {
    int64_t row[ROWS];

    IMAGINE__INLINE x_places(const rows_source &s, int64_t first)
    {
        for (int i = 0; i < ROWS; i++)
            row[i] = at_most(brought_row(first, i), s.m) * s.ldx;
    }

    IMAGINE__INLINE void begin_part(const rows_source &) {}
    IMAGINE__INLINE void advance(const rows_source &) {}
    IMAGINE__INLINE int64_t offset(const rows_source &, int i, int64_t k, bool *) const { return row[i] + k; }
};

template <> struct x_places<taps_source> {
    tap_corner corner[ROWS];
    tap_count tap;

    IMAGINE__INLINE x_places(const taps_source &s, int64_t first)
    {
        for (int i = 0; i < ROWS; i++)
            corner[i] = corner_of(s, brought_row(first, i));
        begin_part(s);
    }

    IMAGINE__INLINE void begin_part(const taps_source &s) { tap = first_tap(s, threadIdx.x % CHUNKS * 8); }

    IMAGINE__INLINE void advance(const taps_source &s)
    {
        tap.channel += DEPTH;
        find_tap(s, &tap);
    }

    IMAGINE__INLINE int64_t offset(const taps_source &s, int i, int64_t, bool *inside) const
    {
        bool within;
        int64_t at = tap_offset(s, corner[i], tap, &within);
        *inside = *inside && within;
        return *inside ? at : 0;
    }
};

template <class Source>
IMAGINE__INLINE void bring(stage_shared *to, const Source &source, const x_places<Source> &places, const product_weight &w,
                           const int64_t (&w_row)[ROWS], int part, int64_t k)
{
    unsigned chunk = threadIdx.x % CHUNKS * 8, place = place_of_chunk(threadIdx.x / CHUNKS, threadIdx.x % CHUNKS);
    const uint16_t *x = (const uint16_t *)values_of(source, part), *weight = (const uint16_t *)w.w + weight_offset(source, part);
    bool there = k + chunk < depth_of(source);
    int64_t at = there ? k + chunk : 0;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        bool inside = there;
        int64_t from = places.offset(source, i, at, &inside);
        copy_async(&to->x[place + i * BROUGHT * DEPTH], x + from, inside ? 16 : 0);
        copy_async(&to->w[place + i * BROUGHT * DEPTH], weight + w_row[i] + at, there ? 16 : 0);
    }
}

/* sums [64, 64] of this warp += x W^T of one step: 4 x 8 products of 16 x 8. */
IMAGINE__INLINE void multiply_stage(const stage_shared *s, float (&sum)[4][8][4])
{
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned x_row = warp / 2 * WARP_ROWS + lane % 16, w_row = warp % 2 * WARP_COLUMNS + lane / 16 * 8 + lane % 8;
#pragma unroll
    for (unsigned k = 0; k < CHUNKS; k += 2) {
        const uint16_t *x = s->x + place_of_chunk(x_row, k + lane / 16), *w = s->w + place_of_chunk(w_row, k + lane / 8 % 2);
        uint32_t a[4][4], b[4][4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            load_matrices(a[i], x + i * 16 * DEPTH);
#pragma unroll
        for (int j = 0; j < 4; j++)
            load_matrices(b[j], w + j * 16 * DEPTH);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 8; j++)
                multiply_16x8x16(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
}

/* This warp's sums of one half of its columns, from the layout of the products to rows. */
template <int FIRST> IMAGINE__INLINE void spread_sums(float *to, const float (&sum)[4][8][4])
{
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                *(float2 *)(to + (i * 16 + half * 8 + lane / 4) * SUM_STRIDE + j * 8 + lane % 4 * 2) =
                    float2{sum[i][FIRST + j][2 * half], sum[i][FIRST + j][2 * half + 1]};
    sync_warp();
}

IMAGINE__INLINE void write_sums(const float *from, const product_weight &w, const product_epilogue &e, int64_t row,
                                int64_t column)
{
    unsigned lane = threadIdx.x % 32;
    for (unsigned i = lane / 8; i < WARP_ROWS; i += 4) {
        float4 f = *(const float4 *)(from + i * SUM_STRIDE + lane % 8 * 4);
        float v[4] = {f.x, f.y, f.z, f.w};
        finish4(e, w.bias, w.n, row + i, column + lane % 8 * 4, v);
    }
}

template <class Source>
__global__ void __launch_bounds__(THREADS, 2) bf16_kernel(Source source, product_weight w, product_epilogue e)
{
    stage_shared *s = (stage_shared *)dynamic_shared();
    int64_t across = (w.n + TILE - 1) / TILE, first = blockIdx.x / across * TILE, column = blockIdx.x % across * TILE;
    int steps = (int)((depth_of(source) + DEPTH - 1) / DEPTH), count = steps * parts_of(source);
    unsigned warp = threadIdx.x / 32;
    x_places<Source> places(source, first);
    int64_t w_row[ROWS];
    for (int i = 0; i < ROWS; i++)
        w_row[i] = at_most(brought_row(column, i), w.n) * w.row;

    int part = 0, step = 0; /* of the next stage to be brought */
    auto bring_next = [&](int stage) {
        if (part < parts_of(source))
            bring(s + stage, source, places, w, w_row, part, (int64_t)step * DEPTH);
        copy_async_commit();
        if (++step < steps)
            places.advance(source);
        else {
            step = 0, part++;
            places.begin_part(source);
        }
    };
    for (int i = 0; i < STAGES - 1; i++)
        bring_next(i);
    float sum[4][8][4] = {};
    for (int i = 0; i < count; i++) {
        copy_async_wait<STAGES - 2>();
        sync_block(); /* the stage is there for all, and the one before is read no more: it takes the next copies */
        bring_next((i + STAGES - 1) % STAGES);
        multiply_stage(s + i % STAGES, sum);
    }
    copy_async_wait<0>();
    sync_block();
    float *mine = ((sums_shared *)s)->warp[warp];
    first += warp / 2 * WARP_ROWS, column += warp % 2 * WARP_COLUMNS;
    spread_sums<0>(mine, sum);
    write_sums(mine, w, e, first, column);
    sync_warp(); /* before the other half */
    spread_sums<4>(mine, sum);
    write_sums(mine, w, e, first, column + HALF);
}

template <class Source>
static int multiply(const Source &source, const product_weight &w, const product_epilogue &e, void *stream)
{
    int64_t blocks = (e.m - e.first + TILE - 1) / TILE * ((w.n + TILE - 1) / TILE);
    if (blocks > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    return launch(bf16_kernel<Source>, (unsigned)blocks, THREADS, STAGES * sizeof(stage_shared), stream, source, w, e);
}

int imagine__cuda_multiply_bf16(const rows_source &source, const product_weight &w, const product_epilogue &e, void *stream)
{
    return multiply(source, w, e, stream);
}

int imagine__cuda_multiply_bf16(const taps_source &source, const product_weight &w, const product_epilogue &e, void *stream)
{
    return multiply(source, w, e, stream);
}
