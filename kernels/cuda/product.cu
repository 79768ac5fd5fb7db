/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/product.cuh"

/* Products in f32. A block computes ROWS x COLUMNS outputs, a thread 8 x 8 of them: rows 4 ty to 4 ty + 3 and as many
 * ROWS / 2 further on, columns likewise, so that what a warp reads together lies in different banks. */

#define THREADS 128
#define ROWS 128
#define COLUMNS 64
#define DEPTH 16 /* of k at a time */
#define FOLD (IMAGINE__CHAIN / DEPTH) /* steps whose sums are added up first */

struct step_shared {
    float x[DEPTH][ROWS], w[DEPTH][COLUMNS];
};

/* What a thread brings of a step: 16 values of row threadIdx.x of x, 8 of row threadIdx.x % COLUMNS of W. */
struct step_values {
    float x[4][4], w[2][4];
};

/* All four lie side by side, or each is looked for. */
IMAGINE__INLINE void read4(const rows_source &s, const rows_place &p, int, int64_t k, float (&v)[4])
{
    load4(s.x, s.type, p.at + k, p.at < 0 ? 0 : count_before(k, s.k), s.aligned, v);
}

IMAGINE__INLINE void read4(const taps_source &s, const taps_place &p, int part, int64_t k, float (&v)[4])
{
    if (s.aligned) {
        int64_t at = offset_of(s, p, k);
        load4(s.x[part], s.type, at, at < 0 ? 0 : 4, true, v);
        return;
    }
    for (unsigned j = 0; j < 4; j++) {
        int64_t at = offset_of(s, p, k + j);
        float one[4];
        load4(s.x[part], s.type, at, at < 0 ? 0 : 1, false, one);
        v[j] = one[0];
    }
}

template <class Source, class Place>
IMAGINE__INLINE void fetch(const Source &source, const Place &place, const product_weight &w, int64_t column, int part,
                           int64_t k, step_values *v)
{
    int64_t depth = depth_of(source), half = threadIdx.x / COLUMNS * 8;
    int64_t row = column + threadIdx.x % COLUMNS;
#pragma unroll
    for (int i = 0; i < 4; i++)
        read4(source, place, part, k + 4 * i, v->x[i]);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int64_t at = k + half + 4 * i;
        load4(w.w, w.type, row * w.row + weight_offset(source, part) + at, row < w.n ? count_before(at, depth) : 0, w.aligned,
              v->w[i]);
    }
}

IMAGINE__INLINE void place_step(step_shared *s, const step_values &v)
{
    unsigned half = threadIdx.x / COLUMNS * 8;
#pragma unroll
    for (int i = 0; i < 16; i++)
        s->x[i][threadIdx.x] = v.x[i / 4][i % 4];
#pragma unroll
    for (int i = 0; i < 8; i++)
        s->w[half + i][threadIdx.x % COLUMNS] = v.w[i / 4][i % 4];
}

IMAGINE__INLINE void read_half(const float *from, float *v)
{
    float4 f = *(const float4 *)from;
    v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
}

IMAGINE__INLINE void multiply_step(const step_shared *s, float (&sum)[8][8])
{
    unsigned ty = threadIdx.x / 8 * 4, tx = threadIdx.x % 8 * 4;
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
        float x[8], w[8];
        read_half(&s->x[k][ty], x);
        read_half(&s->x[k][ROWS / 2 + ty], x + 4);
        read_half(&s->w[k][tx], w);
        read_half(&s->w[k][COLUMNS / 2 + tx], w + 4);
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 8; j++)
                sum[i][j] += x[i] * w[j];
    }
}

IMAGINE__INLINE void fold(float (&total)[8][8], float (&sum)[8][8])
{
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) {
            total[i][j] += sum[i][j];
            sum[i][j] = 0;
        }
}

template <class Source>
__global__ void __launch_bounds__(THREADS) product_kernel(Source source, product_weight w, product_epilogue e)
{
    step_shared *s = (step_shared *)dynamic_shared();
    int64_t across = (w.n + COLUMNS - 1) / COLUMNS, first = blockIdx.x / across * ROWS, column = blockIdx.x % across * COLUMNS;
    int64_t depth = depth_of(source), steps = (depth + DEPTH - 1) / DEPTH, count = steps * parts_of(source);
    auto place = place_of(source, first + threadIdx.x);
    float total[8][8] = {}, sum[8][8] = {};
    step_values next;
    if (count)
        fetch(source, place, w, column, 0, 0, &next);
    int part = 0;
    int64_t k = 0;
    for (int64_t step = 0; step < count; step++) {
        step_shared *now = s + step % 2;
        place_step(now, next);
        sync_block(); /* the step is there; and the other buffer was read before the barrier of the step before */
        k += DEPTH;
        if (k >= depth)
            k = 0, part++;
        if (step + 1 < count)
            fetch(source, place, w, column, part, k, &next);
        multiply_step(now, sum);
        if (step % FOLD == FOLD - 1)
            fold(total, sum);
    }
    fold(total, sum);
    unsigned ty = threadIdx.x / 8 * 4, tx = threadIdx.x % 8 * 4;
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float v[4] = {total[i][4 * j], total[i][4 * j + 1], total[i][4 * j + 2], total[i][4 * j + 3]};
            finish4(e, w.bias, w.n, first + i / 4 * (ROWS / 2) + ty + i % 4, column + j * (COLUMNS / 2) + tx, v);
        }
}

template <class Source>
static int multiply(const Source &source, const product_weight &w, const product_epilogue &e, void *stream)
{
    int64_t blocks = (e.m - e.first + ROWS - 1) / ROWS * ((w.n + COLUMNS - 1) / COLUMNS);
    if (blocks > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    return launch(product_kernel<Source>, (unsigned)blocks, THREADS, 2 * sizeof(step_shared), stream, source, w, e);
}

int imagine__cuda_multiply(const rows_source &source, const product_weight &w, const product_epilogue &e, void *stream)
{
    return imagine__cuda_are_few(source, w) ? imagine__cuda_multiply_few(source, w, e, stream) : multiply(source, w, e, stream);
}

int imagine__cuda_multiply(const taps_source &source, const product_weight &w, const product_epilogue &e, void *stream)
{
    return multiply(source, w, e, stream);
}

/* ---- the epilogue alone ------------------------------------------------------------------------------------------ */

#define FINISHERS 256

/* `small`: there are fewer than 2^32 groups of four, whose numbers are divided in 32 bits, for 64 take as long as the rest. */
__global__ void __launch_bounds__(FINISHERS) finish_kernel(const void *sums, imagine__cuda_type type, int64_t stride, product_weight w,
                                                           product_epilogue e, bool small)
{
    int64_t across = (w.n + 3) / 4, i = (int64_t)blockIdx.x * FINISHERS + threadIdx.x;
    int64_t row = small ? (uint32_t)i / (uint32_t)across : i / across, column = (i - row * across) * 4;
    if (row >= e.m - e.first)
        return;
    float v[4];
    load4(sums, type, row * stride + column, count_before(column, w.n), e.aligned && stride % 4 == 0, v);
    finish4(e, w.bias, w.n, row, column, v);
}

int imagine__cuda_finish(const void *sums, imagine__cuda_type type, int64_t stride, const product_weight &w, const product_epilogue &e,
                         void *stream)
{
    int64_t blocks = ((e.m - e.first) * ((w.n + 3) / 4) + FINISHERS - 1) / FINISHERS;
    if (blocks > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    return launch(finish_kernel, (unsigned)blocks, FINISHERS, 0, stream, sums, type, stride, w, e, blocks <= 0xffffffff / FINISHERS);
}

/* ---- a gate in the weight ---------------------------------------------------------------------------------------- */

struct fold_args {
    const void *w;
    const float *bias, *gate;
    void *to;
    float *to_bias;
    int64_t n, k, row;
    imagine__wtype type, to_type;
    bool aligned;
};

__global__ void __launch_bounds__(FINISHERS) fold_kernel(fold_args a)
{
    int64_t across = (a.k + 3) / 4, i = (int64_t)blockIdx.x * FINISHERS + threadIdx.x, row = i / across, column = i % across * 4;
    if (row >= a.n)
        return;
    float v[4], gate = a.gate[row];
    unsigned count = count_before(column, a.k);
    load4(a.w, a.type, row * a.row + column, count, a.aligned, v);
    for (unsigned j = 0; j < 4; j++)
        v[j] *= gate;
    store4(a.to, a.to_type, row * a.k + column, count, a.aligned, v);
    if (a.bias && column == 0)
        a.to_bias[row] = gate * a.bias[row];
}

int imagine__cuda_fold(const folded_weight &f, void *stream)
{
    const product_weight &w = *f.w;
    bool aligned = in_fours(w.w, w.type, w.row) && in_fours(f.to, f.to_type, f.k) && f.k % 4 == 0;
    int64_t blocks = (w.n * ((f.k + 3) / 4) + FINISHERS - 1) / FINISHERS;
    if (blocks > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    return launch(fold_kernel, (unsigned)blocks, FINISHERS, 0, stream,
                  fold_args{w.w, w.bias, f.gate, f.to, f.bias, w.n, f.k, w.row, w.type, f.to_type, aligned});
}
