/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/internal.cuh"

/* Norms over rows. These are bound by memory: a row is read from it once and comes from the cache when its second and third
 * pass need it; every thread goes back to its own values alone, so that x may be changed on the way. Short rows take a warp
 * each, long ones a block. */

#define THREADS 128
#define WARPS (THREADS / 32)
#define SHORT 1024

struct norm_shared {
    float sums[WARPS];
};

/* The sum over a warp, or over the block when `rows` of the block is one; every thread gets it, always in the same order. */
IMAGINE__INLINE float row_sum(float x, bool block)
{
    for (unsigned i = 16; i; i /= 2)
        x += shuffle_xor(x, i);
    if (!block)
        return x;
    norm_shared *s = (norm_shared *)dynamic_shared();
    sync_block(); /* the last sums are read */
    if (threadIdx.x % 32 == 0)
        s->sums[threadIdx.x / 32] = x;
    sync_block();
    float sum = 0;
    for (unsigned i = 0; i < WARPS; i++)
        sum += s->sums[i];
    return sum;
}

/* Which values of a row this thread has: first, first + step, ... in groups of four. */
struct part_of_row {
    int64_t first, step;
    bool block, aligned;
};

IMAGINE__INLINE part_of_row my_part(bool block, bool aligned)
{
    unsigned i = block ? threadIdx.x : threadIdx.x % 32;
    return {4 * (int64_t)i, block ? 4 * THREADS : 4 * 32, block, aligned};
}

IMAGINE__INLINE unsigned count_at(int64_t i, int64_t dim)
{
    return dim - i < 4 ? (unsigned)(dim - i) : 4;
}

/* ---- norm -------------------------------------------------------------------------------------------------------- */

/* x += gate * delta on this thread's part; the sum of x. */
IMAGINE__INLINE float add_delta(const imagine__cuda_norm_args &a, const part_of_row &p, int64_t row)
{
    const float *gate = a.gate ? a.gate + row / a.group * a.ld_mod : nullptr;
    float sum = 0;
    for (int64_t i = p.first; i < a.dim; i += p.step) {
        unsigned count = count_at(i, a.dim);
        float x[4], delta[4], g[4] = {1, 1, 1, 1};
        load4(a.x, a.x_type, row * a.ldx + i, count, p.aligned, x);
        if (a.delta) {
            load4(a.delta, a.delta_type, row * a.ld_delta + i, count, p.aligned, delta);
            if (gate)
                load4(gate, IMAGINE__W_F32, i, count, p.aligned, g);
            for (unsigned j = 0; j < 4; j++)
                x[j] += g[j] * delta[j];
            store4(a.x, a.x_type, row * a.ldx + i, count, p.aligned, x);
            if (a.x_type != IMAGINE__W_F32) /* the norm is of what was stored */
                load4(a.x, a.x_type, row * a.ldx + i, count, p.aligned, x);
        }
        for (unsigned j = 0; j < count; j++)
            sum += x[j];
    }
    return sum;
}

IMAGINE__INLINE float squares_from(const imagine__cuda_norm_args &a, const part_of_row &p, int64_t row, float mean)
{
    float sum = 0;
    for (int64_t i = p.first; i < a.dim; i += p.step) {
        unsigned count = count_at(i, a.dim);
        float x[4];
        load4(a.x, a.x_type, row * a.ldx + i, count, p.aligned, x);
        for (unsigned j = 0; j < count; j++)
            sum += (x[j] - mean) * (x[j] - mean);
    }
    return sum;
}

/* What a value is multiplied by once the mean is off. */
IMAGINE__INLINE float norm_factor(const imagine__cuda_norm_args &a, float squares)
{
    if (a.kind == IMAGINE__NORM_L2) {
        float length = sqrtf(squares);
        return sqrtf((float)a.dim) / (length < a.eps ? a.eps : length); /* a NaN stays */
    }
    return 1.0f / sqrtf(squares / (float)a.dim + a.eps);
}

IMAGINE__INLINE void write_row(const imagine__cuda_norm_args &a, const part_of_row &p, int64_t row, int64_t to, float mean,
                               float factor)
{
    const float *scale = a.scale ? a.scale + row / a.group * a.ld_mod : nullptr;
    const float *shift = a.shift ? a.shift + row / a.group * a.ld_mod : nullptr;
    for (int64_t i = p.first; i < a.dim; i += p.step) {
        unsigned count = count_at(i, a.dim);
        float x[4], weight[4] = {1, 1, 1, 1}, bias[4] = {}, s[4] = {}, b[4] = {};
        load4(a.x, a.x_type, row * a.ldx + i, count, p.aligned, x);
        if (a.weight)
            load4(a.weight, IMAGINE__W_F32, i, count, p.aligned, weight);
        if (a.bias)
            load4(a.bias, IMAGINE__W_F32, i, count, p.aligned, bias);
        if (scale) {
            load4(scale, IMAGINE__W_F32, i, count, p.aligned, s);
            load4(shift, IMAGINE__W_F32, i, count, p.aligned, b);
        }
        for (unsigned j = 0; j < 4; j++)
            x[j] = activation(((x[j] - mean) * factor * weight[j] + bias[j]) * (1.0f + s[j]) + b[j], a.act);
        store4(a.y, a.y_type, to * a.ldy + i, count, p.aligned, x);
    }
}

IMAGINE__INLINE void write_zeros(const imagine__cuda_norm_args &a, const part_of_row &p, int64_t to)
{
    const float zeros[4] = {};
    for (int64_t i = p.first; i < a.dim; i += p.step)
        store4(a.y, a.y_type, to * a.ldy + i, count_at(i, a.dim), p.aligned, zeros);
}

/* The row of x that row `to` of y comes from, or -1 in the border. */
IMAGINE__INLINE int64_t source_row(const imagine__cuda_norm_args &a, int64_t to)
{
    int64_t wide = a.width + a.pad_left + a.pad_right, high = a.height + a.pad_top + a.pad_bottom;
    int64_t column = to % wide - a.pad_left, line = to / wide % high - a.pad_top;
    if (column < 0 || column >= a.width || line < 0 || line >= a.height)
        return -1;
    return (to / wide / high * a.height + line) * a.width + column;
}

__global__ void __launch_bounds__(THREADS) norm_kernel(imagine__cuda_norm_args a, int64_t rows, bool padded, bool block,
                                                       bool aligned)
{
    int64_t to = block ? (int64_t)blockIdx.x : (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (to >= rows)
        return;
    part_of_row p = my_part(block, aligned);
    int64_t row = padded ? source_row(a, to) : to;
    if (row < 0) {
        write_zeros(a, p, to);
        return;
    }
    float sum = add_delta(a, p, row), mean = 0;
    if (a.kind == IMAGINE__NORM_LAYER)
        mean = row_sum(sum, block) / (float)a.dim;
    write_row(a, p, row, to, mean, norm_factor(a, row_sum(squares_from(a, p, row, mean), block)));
}

static int start_rows(int64_t rows, bool block, unsigned *blocks)
{
    int64_t n = block ? rows : (rows + WARPS - 1) / WARPS;
    *blocks = (unsigned)n;
    return n <= 0x7fffffff;
}

int imagine__cuda_norm(const imagine__cuda_norm_args *a, void *stream)
{
    if (a->rows <= 0 || a->dim <= 0)
        return 0;
    bool padded = a->pad_top || a->pad_bottom || a->pad_left || a->pad_right, block = a->dim > SHORT;
    int64_t rows = !padded ? a->rows
                           : a->rows / (a->height * a->width) * (a->height + a->pad_top + a->pad_bottom) *
                                 (a->width + a->pad_left + a->pad_right);
    bool aligned = in_fours(a->x, a->x_type, a->ldx) && in_fours(a->y, a->y_type, a->ldy) &&
                   in_fours(a->delta, a->delta_type, a->ld_delta) && in_fours(a->weight, IMAGINE__W_F32, 0) &&
                   in_fours(a->bias, IMAGINE__W_F32, 0) && in_fours(a->scale, IMAGINE__W_F32, a->ld_mod) &&
                   in_fours(a->shift, IMAGINE__W_F32, a->ld_mod) && in_fours(a->gate, IMAGINE__W_F32, a->ld_mod);
    unsigned blocks;
    if (!start_rows(rows, block, &blocks))
        return IMAGINE__CUDA_INVALID;
    return launch(norm_kernel, blocks, THREADS, sizeof(norm_shared), stream, *a, rows, padded, block, aligned);
}

/* ---- norm_rope --------------------------------------------------------------------------------------------------- */

/* Where a row of a part begins, in and out. */
struct rope_row {
    int64_t from, to;
};

IMAGINE__INLINE float rope_factor(const imagine__cuda_norm_rope_args &a, const imagine__cuda_rope_part &part,
                                  const part_of_row &p, const rope_row &row, int64_t dim)
{
    float squares = 0;
    if (!part.weight)
        return 1;
    for (int64_t i = p.first; i < dim; i += p.step) {
        float x[4];
        unsigned count = count_at(i, dim);
        load4(part.x, a.x_type, row.from + i, count, p.aligned, x);
        for (unsigned j = 0; j < count; j++)
            squares += x[j] * x[j];
    }
    return 1.0f / sqrtf(row_sum(squares, p.block) / (float)dim + a.eps);
}

/* d is even and groups of four begin at multiples of four, so a pair is never parted; the pairs of a group may belong to two
 * heads. */
IMAGINE__INLINE void rotate_pairs(const imagine__cuda_norm_rope_args &a, int64_t position, int64_t i, unsigned count,
                                  float (&x)[4])
{
    int64_t pairs = a.d / 2;
    for (unsigned j = 0; j + 1 < count; j += 2) {
        int64_t at = position * pairs + (i + j) % a.d / 2;
        float c = a.cos_table[at], s = a.sin_table[at], first = x[j], second = x[j + 1];
        x[j] = first * c - second * s;
        x[j + 1] = first * s + second * c;
    }
}

__global__ void __launch_bounds__(THREADS) norm_rope_kernel(imagine__cuda_norm_rope_args a, bool block, bool aligned)
{
    int64_t r = block ? (int64_t)blockIdx.x : (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, dim = a.heads * a.d;
    const imagine__cuda_rope_part part = blockIdx.y == 0 ? a.part[0] : blockIdx.y == 1 ? a.part[1] : a.part[2];
    if (r >= a.batch * a.tokens || !part.x)
        return;
    part_of_row p = my_part(block, aligned);
    int64_t token = r % a.tokens;
    rope_row row = {r * part.ldx, r / a.tokens * part.y_batch + token * part.y_token};
    float factor = rope_factor(a, part, p, row, dim);
    for (int64_t i = p.first; i < dim; i += p.step) {
        unsigned count = count_at(i, dim);
        float x[4], weight[4] = {1, 1, 1, 1};
        load4(part.x, a.x_type, row.from + i, count, aligned, x);
        if (part.weight)
            load4(part.weight, IMAGINE__W_F32, i, count, aligned, weight);
        for (unsigned j = 0; j < 4; j++)
            x[j] = x[j] * factor * weight[j];
        if (part.rotate)
            rotate_pairs(a, token % a.positions, i, count, x);
        store4(part.y, a.y_type, row.to + i, count, aligned, x);
    }
}

int imagine__cuda_norm_rope(const imagine__cuda_norm_rope_args *a, void *stream)
{
    int64_t rows = a->batch * a->tokens, dim = a->heads * a->d;
    if (rows <= 0 || dim <= 0)
        return 0;
    bool aligned = true, block = dim > SHORT;
    for (const imagine__cuda_rope_part &part : a->part)
        aligned &= in_fours(part.x, a->x_type, part.ldx) && in_fours(part.y, a->y_type, part.y_token) &&
                   part.y_batch % 4 == 0 && in_fours(part.weight, IMAGINE__W_F32, 0);
    unsigned blocks;
    if (!start_rows(rows, block, &blocks))
        return IMAGINE__CUDA_INVALID;
    return launch(norm_rope_kernel, dim3(blocks, 3), THREADS, sizeof(norm_shared), stream, *a, block, aligned);
}
