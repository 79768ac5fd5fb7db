/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/convert.cuh"

#define THREADS 256

/* `span` threads to a row, four values each at a time. */
__global__ void __launch_bounds__(THREADS) convert_kernel(convert_args a, unsigned span, bool aligned)
{
    int64_t row = (int64_t)blockIdx.x * (THREADS / span) + threadIdx.x / span;
    if (row >= a.batch * a.tokens * a.heads)
        return;
    int64_t head = row % a.heads, token = row / a.heads % a.tokens, batch = row / a.heads / a.tokens;
    int64_t from = batch * a.from.batch + token * a.from.token + head * a.from.head;
    int64_t to = batch * a.to.batch + token * a.to.token + head * a.to.head;
    int64_t count = a.length && token >= a.length[batch] ? 0 : a.count;
    for (int64_t i = 4 * (int64_t)(threadIdx.x % span); i < a.padded; i += 4 * span) {
        float v[4];
        load4(a.x, a.x_type, from + i, i >= count ? 0 : count - i < 4 ? (unsigned)(count - i) : 4, aligned, v);
        store4(a.y, a.y_type, to + i, a.padded - i < 4 ? (unsigned)(a.padded - i) : 4, aligned, v);
    }
}

/* ---- between the types and from bf16 to bf16, in fours ----------------------------------------------------------- */

#define TOGETHER 4 /* groups of four that a thread has on their way at once */

IMAGINE__INLINE void put(uint2 *y, const float4 &v)
{
    *y = uint2{pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)};
}

IMAGINE__INLINE void put(float4 *y, const uint2 &v)
{
    *y = float4{bf16_low(v.x), bf16_high(v.x), bf16_low(v.y), bf16_high(v.y)};
}

IMAGINE__INLINE void put(uint2 *y, const uint2 &v)
{
    *y = v;
}

/* `span` threads to a row, or to each of the `pieces` of a long one; From and To are four values of a type. */
template <class From, class To>
__global__ void __launch_bounds__(THREADS) fours_kernel(convert_args a, unsigned span, unsigned pieces)
{
    int64_t row = (int64_t)(blockIdx.x / pieces) * (THREADS / span) + threadIdx.x / span;
    if (row >= a.batch * a.tokens * a.heads)
        return;
    int64_t head = a.heads > 1 ? row % a.heads : 0, line = a.heads > 1 ? row / a.heads : row;
    int64_t batch = a.batch > 1 ? line / a.tokens : 0, token = line - batch * a.tokens;
    const From *x = (const From *)a.x + (batch * a.from.batch + token * a.from.token + head * a.from.head) / 4;
    To *y = (To *)a.y + (batch * a.to.batch + token * a.to.token + head * a.to.head) / 4;
    int64_t count = a.length && token >= a.length[batch] ? 0 : a.count / 4;
    int64_t first = (int64_t)(blockIdx.x % pieces) * (TOGETHER * span) + threadIdx.x % span;
    From v[TOGETHER];
#pragma unroll
    for (unsigned j = 0; j < TOGETHER; j++)
        v[j] = first + j * span < count ? x[first + j * span] : From{};
#pragma unroll
    for (unsigned j = 0; j < TOGETHER; j++)
        if (first + j * span < a.padded / 4)
            put(y + first + j * span, v[j]);
}

/* Rows that lie one behind the other become one. */
static convert_args joined(convert_args a)
{
    if (a.count != a.padded)
        return a;
    if (a.heads == 1 || (a.from.head == a.count && a.to.head == a.count))
        a.count *= a.heads, a.heads = 1;
    if (a.heads == 1 && !a.length && (a.tokens == 1 || (a.from.token == a.count && a.to.token == a.count)))
        a.count *= a.tokens, a.tokens = 1;
    if (a.heads == 1 && a.tokens == 1 && !a.length && (a.batch == 1 || (a.from.batch == a.count && a.to.batch == a.count)))
        a.count *= a.batch, a.batch = 1;
    a.padded = a.count;
    return a;
}

static int convert_fours(const convert_args &args, void *stream)
{
    convert_args a = joined(args);
    int64_t rows = a.batch * a.tokens * a.heads, groups = a.padded / 4;
    unsigned span = 1;
    while (span < THREADS && (int64_t)(TOGETHER * span) < groups)
        span *= 2;
    int64_t pieces = (groups + TOGETHER * span - 1) / (TOGETHER * span);
    int64_t blocks = (rows + THREADS / span - 1) / (THREADS / span);
    if (pieces > 0x7fffffff / blocks)
        return IMAGINE__CUDA_INVALID;
    if (a.x_type == IMAGINE__W_F32)
        return launch(fours_kernel<float4, uint2>, (unsigned)(blocks * pieces), THREADS, 0, stream, a, span, (unsigned)pieces);
    if (a.y_type == IMAGINE__W_BF16)
        return launch(fours_kernel<uint2, uint2>, (unsigned)(blocks * pieces), THREADS, 0, stream, a, span, (unsigned)pieces);
    return launch(fours_kernel<uint2, float4>, (unsigned)(blocks * pieces), THREADS, 0, stream, a, span, (unsigned)pieces);
}

static bool layout_in_fours(const void *p, imagine__cuda_type type, const rows_layout &l)
{
    return in_fours(p, type, l.batch) && in_fours(p, type, l.token) && in_fours(p, type, l.head);
}

int imagine__cuda_convert(const convert_args &a, void *stream)
{
    int64_t rows = a.batch * a.tokens * a.heads;
    unsigned span = 1;
    if (rows <= 0 || a.padded <= 0)
        return 0;
    while (span < THREADS && 4 * (int64_t)span < a.padded)
        span *= 2;
    int64_t blocks = (rows + THREADS / span - 1) / (THREADS / span);
    if (blocks > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    bool aligned = layout_in_fours(a.x, a.x_type, a.from) && layout_in_fours(a.y, a.y_type, a.to);
    if (aligned && a.count % 4 == 0 && a.padded % 4 == 0 && (a.x_type == IMAGINE__W_BF16 || a.y_type == IMAGINE__W_BF16))
        return convert_fours(a, stream);
    return launch(convert_kernel, (unsigned)blocks, THREADS, 0, stream, a, span, aligned);
}
