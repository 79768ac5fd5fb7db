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
    return launch(convert_kernel, (unsigned)blocks, THREADS, 0, stream, a, span, aligned);
}
