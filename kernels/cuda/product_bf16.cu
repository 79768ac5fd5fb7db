/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/product.cuh"

/* Products of bf16 on the tensor cores of sm_80 and newer. A block computes 128 x 128 outputs, each of its eight warps
 * 64 x 32. Both operands come 32 of k at a time by cp.async, through STAGES buffers, so that STAGES - 1 steps are on their
 * way while one is multiplied. A row in shared memory is 16 bytes longer than its 64, which puts the eight rows of an
 * ldmatrix into different banks. The sums go to the epilogue by way of shared memory, so that it sees four neighbours of a
 * row at a time and a warp writes whole lines. */

#define THREADS 256
#define TILE 128 /* rows of x, and of W */
#define DEPTH 32
#define STRIDE (DEPTH + 8)
#define STAGES 4
#define WARP_ROWS 64
#define WARP_COLUMNS 32
#define SUM_STRIDE (WARP_COLUMNS + 4)

struct stage_shared {
    uint16_t x[TILE * STRIDE], w[TILE * STRIDE];
};

struct sums_shared {
    float warp[THREADS / 32][WARP_ROWS * SUM_STRIDE];
};
static_assert(sizeof(sums_shared) <= STAGES * sizeof(stage_shared), "the sums take the buffers' place");

/* A thread brings one chunk of eight of two rows of x and two of W. */
#define CHUNKS (DEPTH / 8)
#define BROUGHT (THREADS / CHUNKS) /* rows that all threads bring at once */

struct brought {
    int64_t w[2]; /* rows of W, -1 behind the last */
};

IMAGINE__INLINE int64_t brought_row(int64_t first, int i)
{
    return first + threadIdx.x / CHUNKS + i * BROUGHT;
}

/* Where the values of x are that a thread brings: offset(source, i, k) for row i; after a step advance(), for another part
 * begin_part(). */
template <class Source> struct x_places;

template <> struct x_places<rows_source> {
    rows_place row[2];

    IMAGINE__INLINE x_places(const rows_source &s, int64_t first)
        : row{place_of(s, brought_row(first, 0)), place_of(s, brought_row(first, 1))} {}
    IMAGINE__INLINE void begin_part(const rows_source &) {}
    IMAGINE__INLINE void advance(const rows_source &) {}
    IMAGINE__INLINE int64_t offset(const rows_source &s, int i, int64_t k) const { return offset_of(s, row[i], k); }
};

template <> struct x_places<taps_source> {
    tap_corner corner[2];
    tap_count tap;

    IMAGINE__INLINE x_places(const taps_source &s, int64_t first)
        : corner{corner_of(s, brought_row(first, 0)), corner_of(s, brought_row(first, 1))}
    {
        begin_part(s);
    }

    IMAGINE__INLINE void begin_part(const taps_source &s) { tap = first_tap(s, threadIdx.x % CHUNKS * 8); }

    IMAGINE__INLINE void advance(const taps_source &s)
    {
        tap.channel += DEPTH;
        find_tap(s, &tap);
    }

    IMAGINE__INLINE int64_t offset(const taps_source &s, int i, int64_t k) const
    {
        bool inside;
        int64_t at = tap_offset(s, corner[i], tap, &inside);
        return inside && k < depth_of(s) ? at : -1;
    }
};

template <class Source>
IMAGINE__INLINE void bring(stage_shared *to, const Source &source, const x_places<Source> &places, const product_weight &w,
                           const brought &rows, int part, int64_t k)
{
    unsigned chunk = threadIdx.x % CHUNKS * 8, row = threadIdx.x / CHUNKS;
    const uint16_t *x = (const uint16_t *)values_of(source, part), *weight = (const uint16_t *)w.w;
    int64_t at = k + chunk;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int64_t from = places.offset(source, i, at);
        copy_async(&to->x[(row + i * BROUGHT) * STRIDE + chunk], x + (from < 0 ? 0 : from), from < 0 ? 0 : 16);
        bool there = rows.w[i] >= 0 && at < depth_of(source);
        copy_async(&to->w[(row + i * BROUGHT) * STRIDE + chunk],
                   weight + (there ? rows.w[i] + weight_offset(source, part) + at : 0), there ? 16 : 0);
    }
}

/* sums [64, 32] of this warp += x W^T of one step: 4 x 4 products of 16 x 8. */
IMAGINE__INLINE void multiply_stage(const stage_shared *s, float (&sum)[4][4][4])
{
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint16_t *x = s->x + (warp / 4 * WARP_ROWS + lane % 16) * STRIDE + lane / 16 * 8;
    const uint16_t *w = s->w + (warp % 4 * WARP_COLUMNS + lane / 16 * 8 + lane % 8) * STRIDE + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16) {
        uint32_t a[4][4], b[2][4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            load_matrices(a[i], x + i * 16 * STRIDE + k);
#pragma unroll
        for (int j = 0; j < 2; j++)
            load_matrices(b[j], w + j * 16 * STRIDE + k);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                multiply_16x8x16(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
}

/* This warp's sums, from the layout of the products to rows. */
IMAGINE__INLINE void spread_sums(float *to, const float (&sum)[4][4][4])
{
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                *(float2 *)(to + (i * 16 + half * 8 + lane / 4) * SUM_STRIDE + j * 8 + lane % 4 * 2) =
                    float2{sum[i][j][2 * half], sum[i][j][2 * half + 1]};
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
    brought rows;
    for (int i = 0; i < 2; i++)
        rows.w[i] = brought_row(column, i) < w.n ? brought_row(column, i) * w.row : -1;

    int part = 0, step = 0; /* of the next stage to be brought */
    auto bring_next = [&](int stage) {
        if (part < parts_of(source))
            bring(s + stage, source, places, w, rows, part, (int64_t)step * DEPTH);
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
    float sum[4][4][4] = {};
    for (int i = 0; i < count; i++) {
        copy_async_wait<STAGES - 2>();
        sync_block(); /* the stage is there for all, and the one before is read no more: it takes the next copies */
        bring_next((i + STAGES - 1) % STAGES);
        multiply_stage(s + i % STAGES, sum);
    }
    copy_async_wait<0>();
    sync_block();
    float *mine = ((sums_shared *)s)->warp[warp];
    spread_sums(mine, sum);
    write_sums(mine, w, e, first + warp / 4 * WARP_ROWS, column + warp % 4 * WARP_COLUMNS);
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
