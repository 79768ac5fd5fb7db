/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/internal.cuh"

/* Norms over rows. These are bound by memory: a row is read from it once, all loads on their way before the first is waited for,
 * and stays in registers; rows for which there are too few, or that do not lie in fours, come from the cache when a later pass
 * needs them. Every thread goes back to its own values alone, so that x may be changed on the way. Short rows take a warp each or share
 * one, long ones take a block. There are fewer than 2^31 rows: indices of rows are divided in 32 bits, for 64 take as long as the rest. */

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

/* Of a row's index. */
IMAGINE__INLINE int64_t quotient(int64_t row, int64_t by)
{
    return by > row ? 0 : (uint32_t)row / (uint32_t)by;
}

IMAGINE__INLINE unsigned count_at(int64_t i, int64_t dim)
{
    return dim - i < 4 ? (unsigned)(dim - i) : 4;
}

/* ---- norm -------------------------------------------------------------------------------------------------------- */

/* The vectors that a row's values meet. */
struct row_vectors {
    const float *gate, *scale, *shift;
};

IMAGINE__INLINE row_vectors vectors_of(const imagine__cuda_norm_args &a, int64_t row)
{
    int64_t at = a.gate || a.scale ? quotient(row, a.group) * a.ld_mod : 0;
    return {a.gate ? a.gate + at : nullptr, a.scale ? a.scale + at : nullptr, a.shift ? a.shift + at : nullptr};
}

/* Four of a row, of the layer's bias, to those of x. */
IMAGINE__INLINE void add_bias(const imagine__cuda_norm_args &a, bool aligned, int64_t i, unsigned count, float (&x)[4])
{
    float bias[4];
    if (!a.x_bias)
        return;
    load4(a.x_bias, IMAGINE__W_F32, i, count, aligned, bias);
    for (unsigned j = 0; j < 4; j++)
        x[j] += bias[j];
}

/* x += gate * delta on this thread's part; the sum of x + x_bias. */
IMAGINE__INLINE float add_delta(const imagine__cuda_norm_args &a, const part_of_row &p, int64_t row)
{
    const float *gate = vectors_of(a, row).gate;
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
        add_bias(a, p.aligned, i, count, x);
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
        add_bias(a, p.aligned, i, count, x);
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

/* Four of x become four of y. */
IMAGINE__INLINE void write4(const imagine__cuda_norm_args &a, const row_vectors &m, bool aligned, int64_t i, unsigned count,
                            int64_t to, float mean, float factor, float (&x)[4])
{
    float weight[4] = {1, 1, 1, 1}, bias[4] = {}, s[4] = {}, b[4] = {};
    if (a.weight)
        load4(a.weight, IMAGINE__W_F32, i, count, aligned, weight);
    if (a.bias)
        load4(a.bias, IMAGINE__W_F32, i, count, aligned, bias);
    if (m.scale) {
        load4(m.scale, IMAGINE__W_F32, i, count, aligned, s);
        load4(m.shift, IMAGINE__W_F32, i, count, aligned, b);
    }
    for (unsigned j = 0; j < 4; j++)
        x[j] = activation(((x[j] - mean) * factor * weight[j] + bias[j]) * (1.0f + s[j]) + b[j], a.act);
    store4(a.y, a.y_type, to * a.ldy + i, count, aligned, x);
}

IMAGINE__INLINE void write_row(const imagine__cuda_norm_args &a, const part_of_row &p, int64_t row, int64_t to, float mean,
                               float factor)
{
    row_vectors m = vectors_of(a, row);
    for (int64_t i = p.first; i < a.dim; i += p.step) {
        unsigned count = count_at(i, a.dim);
        float x[4];
        load4(a.x, a.x_type, row * a.ldx + i, count, p.aligned, x);
        add_bias(a, p.aligned, i, count, x);
        write4(a, m, p.aligned, i, count, to, mean, factor, x);
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
    int64_t above = quotient(to, wide), frame = quotient(above, high);
    int64_t column = to - above * wide - a.pad_left, line = above - frame * high - a.pad_top;
    if (column < 0 || column >= a.width || line < 0 || line >= a.height)
        return -1;
    return (frame * a.height + line) * a.width + column;
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

/* Rows that stay in registers: in fours, as many a thread as GROUPS. x, or x + gate * delta, comes into them. */
template <int GROUPS>
IMAGINE__INLINE void hold_row(const imagine__cuda_norm_args &a, const part_of_row &p, int64_t row, float (&x)[GROUPS][4])
{
    float delta[GROUPS][4];
    const float *gate = vectors_of(a, row).gate;
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
        if (p.first + g * p.step < a.dim)
            load4(a.x, a.x_type, row * a.ldx + p.first + g * p.step, 4, true, x[g]);
    if (!a.delta)
        return;
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
        if (p.first + g * p.step < a.dim)
            load4(a.delta, a.delta_type, row * a.ld_delta + p.first + g * p.step, 4, true, delta[g]);
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        int64_t i = p.first + g * p.step;
        float of_gate[4] = {1, 1, 1, 1};
        if (i >= a.dim)
            continue;
        if (gate)
            load4(gate, IMAGINE__W_F32, i, 4, true, of_gate);
        for (unsigned j = 0; j < 4; j++)
            x[g][j] += of_gate[j] * delta[g][j];
        store4(a.x, a.x_type, row * a.ldx + i, 4, true, x[g]);
        if (a.x_type != IMAGINE__W_F32) /* the norm is of what was stored */
            load4(a.x, a.x_type, row * a.ldx + i, 4, true, x[g]);
    }
}

/* The sums in the same order as where the values come from the cache. x has its bias. */
template <int GROUPS>
__global__ void __launch_bounds__(THREADS) held_norm_kernel(imagine__cuda_norm_args a, int64_t rows, bool padded, bool block)
{
    int64_t to = block ? (int64_t)blockIdx.x : (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (to >= rows)
        return;
    part_of_row p = my_part(block, true);
    int64_t row = padded ? source_row(a, to) : to;
    if (row < 0) {
        write_zeros(a, p, to);
        return;
    }
    float x[GROUPS][4], sum = 0, squares = 0, mean = 0;
    hold_row(a, p, row, x);
    if (a.kind == IMAGINE__NORM_LAYER) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            if (p.first + g * p.step < a.dim)
                for (unsigned j = 0; j < 4; j++)
                    sum += x[g][j];
        mean = row_sum(sum, block) / (float)a.dim;
    }
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
        if (p.first + g * p.step < a.dim)
            for (unsigned j = 0; j < 4; j++)
                squares += (x[g][j] - mean) * (x[g][j] - mean);
    float factor = norm_factor(a, row_sum(squares, block));
    row_vectors m = vectors_of(a, row);
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
        if (p.first + g * p.step < a.dim)
            write4(a, m, true, p.first + g * p.step, 4, to, mean, factor, x[g]);
}

/* Short rows, which meet nothing but a weight and a bias, as a VAE's pixels do: a warp has ROWS of them on their way at once, for one
 * such row is too little to keep the memory busy, and reads the vectors once for all. No norm here takes the mean off. */
template <int GROUPS, int ROWS>
__global__ void __launch_bounds__(THREADS) short_norm_kernel(imagine__cuda_norm_args a, int64_t rows)
{
    int64_t first = ((int64_t)blockIdx.x * WARPS + threadIdx.x / 32) * ROWS;
    part_of_row p = my_part(false, true);
    float x[ROWS][GROUPS][4], weight[GROUPS][4], bias[GROUPS][4];
    if (first >= rows)
        return;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            if (first + r < rows && p.first + g * p.step < a.dim)
                load4(a.x, a.x_type, (first + r) * a.ldx + p.first + g * p.step, 4, true, x[r][g]);
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            weight[g][j] = 1, bias[g][j] = 0;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        int64_t i = p.first + g * p.step;
        if (i < a.dim && a.weight)
            load4(a.weight, IMAGINE__W_F32, i, 4, true, weight[g]);
        if (i < a.dim && a.bias)
            load4(a.bias, IMAGINE__W_F32, i, 4, true, bias[g]);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float squares = 0;
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            if (first + r < rows && p.first + g * p.step < a.dim) {
                add_bias(a, true, p.first + g * p.step, 4, x[r][g]);
                for (unsigned j = 0; j < 4; j++)
                    squares += x[r][g][j] * x[r][g][j];
            }
        float factor = norm_factor(a, row_sum(squares, false));
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            if (first + r >= rows || p.first + g * p.step >= a.dim)
                continue;
            for (unsigned j = 0; j < 4; j++)
                x[r][g][j] = activation(x[r][g][j] * factor * weight[g][j] + bias[g][j], a.act);
            store4(a.y, a.y_type, (first + r) * a.ldy + p.first + g * p.step, 4, true, x[r][g]);
        }
    }
}

template <int GROUPS, int ROWS> static int short_norm(const imagine__cuda_norm_args &a, void *stream)
{
    int64_t blocks = (a.rows + WARPS * ROWS - 1) / (WARPS * ROWS);
    return launch(short_norm_kernel<GROUPS, ROWS>, (unsigned)blocks, THREADS, 0, stream, a, a.rows);
}

static bool start_rows(int64_t rows, bool block, unsigned *blocks)
{
    *blocks = (unsigned)(block ? rows : (rows + WARPS - 1) / WARPS);
    return rows <= 0x7fffffff;
}

/* How many groups of four a thread has of a row, for which there is a kernel; 0: too many, or not in fours. */
static int held_groups(int64_t dim, bool block, bool aligned)
{
    static const int sizes[] = {1, 2, 3, 4, 8, 10};
    int64_t step = block ? 4 * THREADS : 4 * 32;
    for (int size : sizes)
        if (aligned && dim % 4 == 0 && dim <= size * step)
            return size;
    return 0;
}

/* CALL(GROUPS) of as many as that. */
#define FOR_GROUPS(groups, CALL)                                                                                          \
    ((groups) == 1   ? CALL(1)                                                                                           \
     : (groups) == 2 ? CALL(2)                                                                                           \
     : (groups) == 3 ? CALL(3)                                                                                           \
     : (groups) == 4 ? CALL(4)                                                                                           \
     : (groups) == 8 ? CALL(8)                                                                                           \
                     : CALL(10))

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
                   in_fours(a->bias, IMAGINE__W_F32, 0) && in_fours(a->x_bias, IMAGINE__W_F32, 0) &&
                   in_fours(a->scale, IMAGINE__W_F32, a->ld_mod) &&
                   in_fours(a->shift, IMAGINE__W_F32, a->ld_mod) && in_fours(a->gate, IMAGINE__W_F32, a->ld_mod);
    unsigned blocks;
    if (!start_rows(rows, block, &blocks))
        return IMAGINE__CUDA_INVALID;
    int groups = held_groups(a->dim, block, aligned);
    if (!block && groups && !padded && !a->delta && !a->scale && a->kind != IMAGINE__NORM_LAYER)
        return groups == 1   ? short_norm<1, 4>(*a, stream)
               : groups == 2 ? short_norm<2, 4>(*a, stream)
               : groups == 3 ? short_norm<3, 2>(*a, stream)
               : groups == 4 ? short_norm<4, 2>(*a, stream)
                             : short_norm<8, 1>(*a, stream);
    if (!groups || a->x_bias)
        return launch(norm_kernel, blocks, THREADS, sizeof(norm_shared), stream, *a, rows, padded, block, aligned);
#define HELD(n) launch(held_norm_kernel<n>, blocks, THREADS, sizeof(norm_shared), stream, *a, rows, padded, block)
    return FOR_GROUPS(groups, HELD);
#undef HELD
}

/* ---- norm_rope --------------------------------------------------------------------------------------------------- */

/* Where a row of a part begins, in and out, and its angles. */
struct rope_row {
    int64_t from, to, angles;
};

IMAGINE__INLINE rope_row rope_row_of(const imagine__cuda_norm_rope_args &a, const imagine__cuda_rope_part &part, int64_t r)
{
    int64_t batch = quotient(r, a.tokens), token = r - batch * a.tokens;
    int64_t position = token - quotient(token, a.positions) * a.positions;
    return {r * part.ldx, batch * part.y_batch + token * part.y_token, position * (a.d / 2)};
}

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
IMAGINE__INLINE void rotate_pairs(const imagine__cuda_norm_rope_args &a, int64_t angles, int64_t i, unsigned count,
                                  float (&x)[4])
{
    for (unsigned j = 0; j + 1 < count; j += 2) {
        int64_t at = angles + (uint32_t)(i + j) % (uint32_t)a.d / 2;
        float c = a.cos_table[at], s = a.sin_table[at], first = x[j], second = x[j + 1];
        x[j] = first * c - second * s;
        x[j + 1] = first * s + second * c;
    }
}

/* Four of x become four of y. */
IMAGINE__INLINE void turn4(const imagine__cuda_norm_rope_args &a, const imagine__cuda_rope_part &part, bool aligned,
                           const rope_row &row, int64_t i, unsigned count, float factor, float (&x)[4])
{
    float weight[4] = {1, 1, 1, 1};
    if (part.weight)
        load4(part.weight, IMAGINE__W_F32, i, count, aligned, weight);
    for (unsigned j = 0; j < 4; j++)
        x[j] = x[j] * factor * weight[j];
    if (part.rotate)
        rotate_pairs(a, row.angles, i, count, x);
    store4(part.y, a.y_type, row.to + i, count, aligned, x);
}

__global__ void __launch_bounds__(THREADS) norm_rope_kernel(imagine__cuda_norm_rope_args a, bool block, bool aligned)
{
    int64_t r = block ? (int64_t)blockIdx.x : (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, dim = a.heads * a.d;
    const imagine__cuda_rope_part part = blockIdx.y == 0 ? a.part[0] : blockIdx.y == 1 ? a.part[1] : a.part[2];
    if (r >= a.batch * a.tokens)
        return;
    part_of_row p = my_part(block, aligned);
    rope_row row = rope_row_of(a, part, r);
    float factor = rope_factor(a, part, p, row, dim);
    for (int64_t i = p.first; i < dim; i += p.step) {
        unsigned count = count_at(i, dim);
        float x[4];
        load4(part.x, a.x_type, row.from + i, count, aligned, x);
        turn4(a, part, aligned, row, i, count, factor, x);
    }
}

template <int GROUPS>
__global__ void __launch_bounds__(THREADS) held_norm_rope_kernel(imagine__cuda_norm_rope_args a, bool block)
{
    int64_t r = block ? (int64_t)blockIdx.x : (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, dim = a.heads * a.d;
    const imagine__cuda_rope_part part = blockIdx.y == 0 ? a.part[0] : blockIdx.y == 1 ? a.part[1] : a.part[2];
    if (r >= a.batch * a.tokens)
        return;
    part_of_row p = my_part(block, true);
    rope_row row = rope_row_of(a, part, r);
    float x[GROUPS][4], squares = 0, factor = 1;
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
        if (p.first + g * p.step < dim)
            load4(part.x, a.x_type, row.from + p.first + g * p.step, 4, true, x[g]);
    if (part.weight) {
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            if (p.first + g * p.step < dim)
                for (unsigned j = 0; j < 4; j++)
                    squares += x[g][j] * x[g][j];
        factor = 1.0f / sqrtf(row_sum(squares, block) / (float)dim + a.eps);
    }
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
        if (p.first + g * p.step < dim)
            turn4(a, part, true, row, p.first + g * p.step, 4, factor, x[g]);
}

int imagine__cuda_norm_rope(const imagine__cuda_norm_rope_args *args, void *stream)
{
    imagine__cuda_norm_rope_args a = *args;
    int64_t rows = a.batch * a.tokens, dim = a.heads * a.d;
    unsigned blocks, parts = 0;
    bool aligned = true, block = dim > SHORT;
    for (const imagine__cuda_rope_part &part : args->part)
        if (part.x)
            a.part[parts++] = part; /* those that are there come first */
    if (rows <= 0 || dim <= 0 || !parts)
        return 0;
    for (unsigned i = 0; i < parts; i++)
        aligned &= in_fours(a.part[i].x, a.x_type, a.part[i].ldx) && in_fours(a.part[i].y, a.y_type, a.part[i].y_token) &&
                   a.part[i].y_batch % 4 == 0 && in_fours(a.part[i].weight, IMAGINE__W_F32, 0);
    if (dim > 0x7fffffff || !start_rows(rows, block, &blocks))
        return IMAGINE__CUDA_INVALID;
    int groups = held_groups(dim, block, aligned);
    if (!groups)
        return launch(norm_rope_kernel, dim3(blocks, parts), THREADS, sizeof(norm_shared), stream, a, block, aligned);
#define HELD(n) launch(held_norm_rope_kernel<n>, dim3(blocks, parts), THREADS, sizeof(norm_shared), stream, a, block)
    return FOR_GROUPS(groups, HELD);
#undef HELD
}
