/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/product.cuh"

/* Products of few rows, IMAGINE__FEW_ROWS at most, whose work is to read W once. A block computes OUTPUTS outputs of every row, and its
 * warps share k, so that there are many warps, and much of W on its way, though there are few outputs. */

#define OUTPUTS 16

/* total += sums [slots, rows, OUTPUTS], one slot after the other; a thread has four neighbours of a row. */
IMAGINE__INLINE void add_slots(const float *sums, unsigned slots, unsigned rows, float (&total)[4])
{
    for (unsigned i = 0; i < slots; i++) {
        float4 f = *(const float4 *)(sums + (i * rows + threadIdx.x / 4) * OUTPUTS + threadIdx.x % 4 * 4);
        total[0] += f.x, total[1] += f.y, total[2] += f.z, total[3] += f.w;
    }
}

/* ---- in f32 ------------------------------------------------------------------------------------------------------ */

/* A row has the same bytes as from product.cu, which sums chains of IMAGINE__CHAIN of k, each in the order of k, and adds these up in
 * their order. So a lane computes a whole chain of an output here. It walks along a row of W of its own, but what a warp reads
 * together has to lie side by side: W comes by way of shared memory, in lines of eight chunks of 16 bytes, of line r chunk i at place
 * i xor (r mod 8), where neither copies nor reads meet in a bank. */

#define STAGES 3
#define CHUNKS 8
#define LINES 32 /* two chains of each output, a line for each lane */
#define MOST_WARPS 3 /* four would have more than 99 KiB with eight rows, which is what a block gets on GPUs of 8.6, 8.9 and 12.0 */

/* A step of two neighbouring chains; T is the type of W. */
template <int ROWS, class T> struct few_step {
    static constexpr int EACH = 16 / sizeof(T), DEPTH = CHUNKS * EACH;
    uint4 w[LINES][CHUNKS];
    float x[LINES / OUTPUTS][ROWS][DEPTH];
};

/* This warp's copies of the step from k on of a first chain; what is behind the last of k, of W or of x becomes zeros. */
template <int ROWS, class T>
IMAGINE__INLINE void bring(few_step<ROWS, T> *to, const rows_source &x, const product_weight &w, int64_t column, int64_t k)
{
    using step = few_step<ROWS, T>;
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (unsigned i = 0; i < CHUNKS; i++) {
        unsigned line = i * (32 / CHUNKS) + lane / CHUNKS, chunk = lane % CHUNKS;
        int64_t row = column + line % OUTPUTS, at = k + line / OUTPUTS * IMAGINE__CHAIN + chunk * step::EACH;
        bool there = row < w.n && at < x.k;
        copy_async(&to->w[line][chunk ^ line % CHUNKS], (const T *)w.w + (there ? row * w.row + at : 0), there ? 16 : 0);
    }
    for (unsigned i = lane; i < sizeof to->x / 16; i += 32) {
        unsigned row = i / (step::DEPTH / 4) % ROWS, chain = i / (step::DEPTH / 4) / ROWS;
        int64_t at = k + chain * IMAGINE__CHAIN + i % (step::DEPTH / 4) * 4;
        unsigned count = row < x.m ? count_before(at, x.k) : 0;
        float *place = &to->x[chain][row][i % (step::DEPTH / 4) * 4];
        if (x.type == IMAGINE__W_F32 && x.aligned) {
            copy_async(place, (const float *)x.x + (count ? row * x.ldx + at : 0), count * 4);
        } else {
            float v[4];
            load4(x.x, x.type, row * x.ldx + at, count, x.aligned, v);
            *(float4 *)place = float4{v[0], v[1], v[2], v[3]};
        }
    }
}

IMAGINE__INLINE void widen(const uint4 &chunk, float (&v)[4])
{
    v[0] = bits_float(chunk.x), v[1] = bits_float(chunk.y), v[2] = bits_float(chunk.z), v[3] = bits_float(chunk.w);
}

IMAGINE__INLINE void widen(const uint4 &chunk, float (&v)[8])
{
    v[0] = bf16_low(chunk.x), v[1] = bf16_high(chunk.x), v[2] = bf16_low(chunk.y), v[3] = bf16_high(chunk.y);
    v[4] = bf16_low(chunk.z), v[5] = bf16_high(chunk.z), v[6] = bf16_low(chunk.w), v[7] = bf16_high(chunk.w);
}

template <int ROWS, class T> IMAGINE__INLINE void multiply_step(const few_step<ROWS, T> *s, float (&sum)[ROWS])
{
    using step = few_step<ROWS, T>;
    unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (unsigned i = 0; i < CHUNKS; i++) {
        float v[step::EACH];
        widen(s->w[lane][i ^ lane % CHUNKS], v);
#pragma unroll
        for (int row = 0; row < ROWS; row++)
#pragma unroll
            for (int j = 0; j < step::EACH; j += 4) {
                float4 x = *(const float4 *)&s->x[lane / OUTPUTS][row][i * step::EACH + j];
                sum[row] += x.x * v[j];
                sum[row] += x.y * v[j + 1];
                sum[row] += x.z * v[j + 2];
                sum[row] += x.w * v[j + 3];
            }
    }
}

/* Every warp has two chains at a time; where there are more, the block goes round with the next ones. */
template <int ROWS, class T>
__global__ void __launch_bounds__(MOST_WARPS * 32) few_f32_kernel(rows_source x, product_weight w, product_epilogue e, int rounds)
{
    using step = few_step<ROWS, T>;
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, chains = blockDim.x / OUTPUTS;
    step *s = (step *)dynamic_shared() + warp * STAGES;
    float *sums = (float *)((step *)dynamic_shared() + blockDim.x / 32 * STAGES), sum[ROWS] = {}, total[4] = {};
    int64_t column = (int64_t)blockIdx.x * OUTPUTS, depth = x.k < IMAGINE__CHAIN ? x.k : IMAGINE__CHAIN;
    int steps = (int)((depth + step::DEPTH - 1) / step::DEPTH), count = rounds * steps;

    int64_t k = 2 * warp * IMAGINE__CHAIN; /* of the next step to be brought, the first chain's */
    int brought = 0; /* of a round */
    auto bring_next = [&](int i) {
        if (i < count)
            bring(s + i % STAGES, x, w, column, k + brought * step::DEPTH);
        copy_async_commit();
        if (++brought == steps)
            brought = 0, k += chains * IMAGINE__CHAIN;
    };
    for (int i = 0; i < STAGES - 1; i++)
        bring_next(i);
    for (int i = 0, left = steps; i < count; i++) {
        copy_async_wait<STAGES - 2>();
        sync_warp(); /* the step is there for all lanes, and the one before is read no more: it takes the next copies */
        bring_next(i + STAGES - 1);
        multiply_step(s + i % STAGES, sum);
        if (--left)
            continue;
        left = steps;
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            sums[((2 * warp + lane / OUTPUTS) * ROWS + row) * OUTPUTS + lane % OUTPUTS] = sum[row];
            sum[row] = 0;
        }
        sync_block();
        if (threadIdx.x < ROWS * OUTPUTS / 4)
            add_slots(sums, chains, ROWS, total);
        sync_block(); /* before the next chains' sums */
    }
    if (threadIdx.x < ROWS * OUTPUTS / 4)
        finish4(e, w.bias, w.n, threadIdx.x / 4, column + threadIdx.x % 4 * 4, total);
}

template <int ROWS, class T>
static int start(const rows_source &x, const product_weight &w, const product_epilogue &e, void *stream)
{
    int64_t blocks = (w.n + OUTPUTS - 1) / OUTPUTS, pairs = (x.k + 2 * IMAGINE__CHAIN - 1) / (2 * IMAGINE__CHAIN);
    int64_t rounds = (pairs + MOST_WARPS - 1) / MOST_WARPS;
    unsigned warps = rounds ? (unsigned)((pairs + rounds - 1) / rounds) : 1;
    size_t shared = warps * (STAGES * sizeof(few_step<ROWS, T>) + 2 * ROWS * OUTPUTS * sizeof(float));
    if (blocks > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    return launch(few_f32_kernel<ROWS, T>, (unsigned)blocks, warps * 32, shared, stream, x, w, e, (int)rounds);
}

template <class T> static int start_rows(const rows_source &x, const product_weight &w, const product_epilogue &e, void *stream)
{
    return x.m == 1 ? start<1, T>(x, w, e, stream) : x.m == 2 ? start<2, T>(x, w, e, stream) :
           x.m <= 4 ? start<4, T>(x, w, e, stream) : start<IMAGINE__FEW_ROWS, T>(x, w, e, stream);
}

/* ---- on tensor cores --------------------------------------------------------------------------------------------- */

/* In products of 16 x 8 the outputs are the rows, and the rows of x the columns. Which of 16 values of k stands where does not matter
 * as long as W and x agree: of 32 of k a lane takes eight neighbours, which it loads at once, four for each of two products. So what it
 * loads is what it multiplies, and W goes from memory to registers. */

#define WARPS 4

/* Eight neighbouring values of a row, as they are loaded. */
struct half_eight {
    uint4 v;
};
struct float_eight {
    float4 low, high;
};
struct odd_eight {
    float low[4], high[4];
};

/* `count` of them exist, none or whole vectors but of an odd_eight; the others become zeros. */
IMAGINE__INLINE void load8(const void *p, imagine__cuda_type, int64_t i, unsigned count, half_eight *to)
{
    to->v = count ? *(const uint4 *)((const uint16_t *)p + i) : uint4{};
}

IMAGINE__INLINE void load8(const void *p, imagine__cuda_type, int64_t i, unsigned count, float_eight *to)
{
    const float4 *from = (const float4 *)((const float *)p + i);
    to->low = count ? from[0] : float4{};
    to->high = count > 4 ? from[1] : float4{};
}

IMAGINE__INLINE void load8(const void *p, imagine__cuda_type type, int64_t i, unsigned count, odd_eight *to)
{
    load4(p, type, i, count < 4 ? count : 4, false, to->low);
    load4(p, type, i + 4, count < 4 ? 0 : count - 4, false, to->high);
}

IMAGINE__INLINE uint4 rounded(const half_eight &e)
{
    return e.v;
}

IMAGINE__INLINE uint4 rounded(const float_eight &e)
{
    return {pack_bf16(e.low.x, e.low.y), pack_bf16(e.low.z, e.low.w), pack_bf16(e.high.x, e.high.y),
            pack_bf16(e.high.z, e.high.w)};
}

IMAGINE__INLINE uint4 rounded(const odd_eight &e)
{
    return {pack_bf16(e.low[0], e.low[1]), pack_bf16(e.low[2], e.low[3]), pack_bf16(e.high[0], e.high[1]),
            pack_bf16(e.high[2], e.high[3])};
}

/* Where a lane's values lie: two rows of W and one of x; behind the last row that one once more, whose sums are written nowhere. */
struct lane_rows {
    int64_t upper, lower, x;
};

/* sum [16, 8] of this warp += W x^T of 32 STEPS of k, all loads on their way at once. WHOLE: so many are left. */
template <class W, class X, int STEPS, bool WHOLE>
IMAGINE__INLINE void multiply_round(const rows_source &x, const product_weight &w, const lane_rows &rows, int64_t k, float (&sum)[4])
{
    W upper[STEPS], lower[STEPS];
    X right[STEPS];
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        int64_t at = k + i * 32 + threadIdx.x % 4 * 8;
        unsigned count = WHOLE || x.k - at >= 8 ? 8 : at >= x.k ? 0 : (unsigned)(x.k - at);
        load8(w.w, w.type, rows.upper + at, count, upper + i);
        load8(w.w, w.type, rows.lower + at, count, lower + i);
        load8(x.x, x.type, rows.x + at, count, right + i);
    }
    sync_warp(); /* or the compiler would put loads off until they are wanted */
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        uint4 u = rounded(upper[i]), l = rounded(lower[i]), r = rounded(right[i]);
        multiply_16x8x16(sum, {u.x, l.x, u.y, l.y}, r.x, r.y);
        multiply_16x8x16(sum, {u.z, l.z, u.w, l.w}, r.z, r.w);
    }
}

/* W and X are how eight values are loaded of either. */
template <class W, class X>
__global__ void __launch_bounds__(WARPS * 32) few_bf16_kernel(rows_source x, product_weight w, product_epilogue e)
{
    constexpr int STEPS = 64 / sizeof(W), DEPTH = 32 * STEPS; /* a lane has 128 bytes of W on their way */
    float *sums = (float *)dynamic_shared();
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, line = lane / 4;
    int64_t column = (int64_t)blockIdx.x * OUTPUTS;
    lane_rows rows = {at_most(column + line, w.n) * w.row, at_most(column + line + 8, w.n) * w.row, at_most(line, x.m) * x.ldx};
    float sum[4] = {};
    int64_t k = warp * DEPTH;
    for (; k + DEPTH <= x.k; k += WARPS * DEPTH)
        multiply_round<W, X, STEPS, true>(x, w, rows, k, sum);
    if (k < x.k)
        multiply_round<W, X, STEPS, false>(x, w, rows, k, sum);
    float *mine = sums + warp * IMAGINE__FEW_ROWS * OUTPUTS;
#pragma unroll
    for (unsigned i = 0; i < 4; i++)
        mine[(lane % 4 * 2 + i % 2) * OUTPUTS + line + i / 2 * 8] = sum[i];
    sync_block();
    if (threadIdx.x < IMAGINE__FEW_ROWS * OUTPUTS / 4) {
        float total[4] = {};
        add_slots(sums, WARPS, IMAGINE__FEW_ROWS, total);
        finish4(e, w.bias, w.n, threadIdx.x / 4, column + threadIdx.x % 4 * 4, total);
    }
}

template <class W, class X>
static int start_bf16(const rows_source &x, const product_weight &w, const product_epilogue &e, void *stream)
{
    int64_t blocks = (w.n + OUTPUTS - 1) / OUTPUTS;
    if (blocks > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    return launch(few_bf16_kernel<W, X>, (unsigned)blocks, WARPS * 32, WARPS * IMAGINE__FEW_ROWS * OUTPUTS * sizeof(float), stream,
                  x, w, e);
}

template <class W> static int start_bf16(const rows_source &x, const product_weight &w, const product_epilogue &e, void *stream)
{
    if (x.type == IMAGINE__W_BF16 && x.k % 8 == 0 && in_eights(x.x, 0, x.ldx))
        return start_bf16<W, half_eight>(x, w, e, stream);
    if (x.type == IMAGINE__W_F32 && x.k % 4 == 0 && x.aligned)
        return start_bf16<W, float_eight>(x, w, e, stream);
    return start_bf16<W, odd_eight>(x, w, e, stream);
}

/* ---- from outside ------------------------------------------------------------------------------------------------ */

bool imagine__cuda_are_few(const rows_source &x, const product_weight &w)
{
    return x.m <= IMAGINE__FEW_ROWS && (uintptr_t)w.w % 16 == 0 && (w.row | x.k) % (w.type == IMAGINE__W_F32 ? 4 : 8) == 0;
}

int imagine__cuda_multiply_few(const rows_source &x, const product_weight &w, const product_epilogue &e, void *stream)
{
    return w.type == IMAGINE__W_F32 ? start_rows<float>(x, w, e, stream) : start_rows<uint16_t>(x, w, e, stream);
}

int imagine__cuda_multiply_few_bf16(const rows_source &x, const product_weight &w, const product_epilogue &e, void *stream)
{
    return w.type == IMAGINE__W_F32 ? start_bf16<float_eight>(x, w, e, stream) : start_bf16<half_eight>(x, w, e, stream);
}
