/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/product.cuh"

/* Products in f32. A block computes ROWS x COLUMNS outputs, a thread 8 x 8 of them: rows 4 ty to 4 ty + 3 and as many
 * ROWS / 2 further on, columns likewise, so that what a warp reads together lies in different banks. Where there are few columns, a
 * thread has 8 x 4. Lanes 2 i and 2 i + 1 have the same tx, i and i + 2 the same ty: so much the fewer turns does shared memory take for
 * loads of 16 bytes. Four lanes bring a row's values of a step, each of them four that lie side by side: few lines of memory for each
 * load. Their places in shared memory are turned by which of the four a lane is, so that a warp writes to 32 banks, too. Totals lie in
 * local memory, which is used once in FOLD steps: without them the registers of three blocks fit. */

#define THREADS 128
#define DEPTH 16 /* of k at a time */
#define FOLD (IMAGINE__CHAIN / DEPTH) /* steps whose sums are added up first */
#define LANES (DEPTH / 4) /* that bring a row */
#define APART (THREADS / LANES) /* from one row that a thread brings to its next */
#define NARROW 16 /* columns of the kernel for few */

template <int WIDE> struct tile { /* a thread's columns: 8 or 4 */
    static constexpr int COLUMNS = WIDE == 8 ? 64 : NARROW, ACROSS = COLUMNS / WIDE, ROWS = 8 * THREADS / ACROSS;
    static constexpr int X_ROWS = ROWS / APART, W_ROWS = COLUMNS > APART ? COLUMNS / APART : 1; /* that a thread brings */
    float x[DEPTH][ROWS], w[DEPTH][COLUMNS];
};

template <int WIDE> struct step_values {
    float x[tile<WIDE>::X_ROWS][4], w[tile<WIDE>::W_ROWS][4];
};

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* What a reader of x has: begin_part(source, part); read(source, part, k, there, v), the four at k of each row, zeros unless they are
 * `there`; advance(source), a step further in the part. */

IMAGINE__INLINE int64_t row_of(int64_t first, int i)
{
    return first + threadIdx.x / LANES + i * APART;
}

IMAGINE__INLINE void read_vector(const float *from, bool there, float (&v)[4])
{
    float4 f = there ? *(const float4 *)from : float4{0, 0, 0, 0};
    v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
}

IMAGINE__INLINE void read_vector(const uint16_t *from, bool there, float (&v)[4])
{
    uint2 pairs = there ? *(const uint2 *)from : uint2{0, 0};
    v[0] = bf16_low(pairs.x), v[1] = bf16_high(pairs.x), v[2] = bf16_low(pairs.y), v[3] = bf16_high(pairs.y);
}

/* Anything. */
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

template <class Source, class Place, int N, bool VECTORS> struct x_reader {
    Place place[N];

    IMAGINE__INLINE x_reader(const Source &s, int64_t first)
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            place[i] = place_of(s, row_of(first, i));
    }
    IMAGINE__INLINE void begin_part(const Source &, int) {}
    IMAGINE__INLINE void advance(const Source &) {}

    IMAGINE__INLINE void read(const Source &s, int part, int64_t k, bool, float (&v)[N][4]) const
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            read4(s, place[i], part, k, v[i]);
    }
};

/* Rows of vectors in f32. */
template <int N> struct x_reader<rows_source, rows_place, N, true> {
    const float *row[N];

    IMAGINE__INLINE x_reader(const rows_source &s, int64_t first)
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            row[i] = (const float *)s.x + at_most(row_of(first, i), s.m) * s.ldx;
    }
    IMAGINE__INLINE void begin_part(const rows_source &, int) {}
    IMAGINE__INLINE void advance(const rows_source &) {}

    IMAGINE__INLINE void read(const rows_source &, int, int64_t k, bool there, float (&v)[N][4]) const
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            read_vector(row[i] + k, there, v[i]);
    }
};

/* Pixels of vectors in f32. */
template <int N> struct x_reader<taps_source, taps_place, N, true> {
    tap_corner corner[N];
    tap_count tap;
    const float *frame;

    IMAGINE__INLINE x_reader(const taps_source &s, int64_t first)
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            corner[i] = corner_of(s, row_of(first, i));
    }

    IMAGINE__INLINE void begin_part(const taps_source &s, int part)
    {
        frame = (const float *)s.x[part];
        tap = first_tap(s, threadIdx.x % LANES * 4);
    }

    IMAGINE__INLINE void advance(const taps_source &s)
    {
        tap.channel += DEPTH;
        find_tap(s, &tap);
    }

    IMAGINE__INLINE void read(const taps_source &s, int, int64_t, bool there, float (&v)[N][4]) const
    {
#pragma unroll
        for (int i = 0; i < N; i++) {
            bool inside;
            int64_t at = tap_offset(s, corner[i], tap, &inside);
            read_vector(frame + at, inside && there, v[i]);
        }
    }
};

/* W's rows of a block. */
template <class T, int N, bool VECTORS> struct w_reader {
    const T *row[N];

    IMAGINE__INLINE w_reader(const product_weight &w, int64_t column)
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            row[i] = (const T *)w.w + at_most(row_of(column, i), w.n) * w.row;
    }

    IMAGINE__INLINE void read(const product_weight &, int64_t at, int64_t, int64_t, bool there, float (&v)[N][4]) const
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            read_vector(row[i] + at, there, v[i]);
    }
};

template <class T, int N> struct w_reader<T, N, false> {
    int64_t column;

    IMAGINE__INLINE w_reader(const product_weight &, int64_t first) : column(first) {}

    IMAGINE__INLINE void read(const product_weight &w, int64_t at, int64_t k, int64_t depth, bool, float (&v)[N][4]) const
    {
#pragma unroll
        for (int i = 0; i < N; i++) {
            int64_t row = row_of(column, i);
            load4(w.w, w.type, row * w.row + at, row < w.n ? count_before(k, depth) : 0, w.aligned, v[i]);
        }
    }
};

/* ---- multiplying ------------------------------------------------------------------------------------------------- */

/* By how much the places of value k are turned. */
IMAGINE__INLINE constexpr unsigned turn_of(unsigned k, unsigned places)
{
    return k / 4 * 8 % places;
}

/* Where W's value k lies: lines of 16 are half as long as all banks, so every other four of k begin at the others. */
template <int WIDE> IMAGINE__INLINE constexpr unsigned line_of(unsigned k)
{
    return WIDE == 8 ? k : k ^ k / 8;
}

template <int WIDE> IMAGINE__INLINE unsigned row_of_thread()
{
    return (threadIdx.x / 32 * (32 / tile<WIDE>::ACROSS) + threadIdx.x % 2 + threadIdx.x % 32 / (2 * tile<WIDE>::ACROSS) * 2) * 4;
}

template <int WIDE> IMAGINE__INLINE unsigned column_of_thread()
{
    return threadIdx.x / 2 % tile<WIDE>::ACROSS * 4;
}

template <int WIDE> IMAGINE__INLINE void place_step(tile<WIDE> *s, const step_values<WIDE> &v)
{
    unsigned k = threadIdx.x % LANES * 4, row = threadIdx.x / LANES;
#pragma unroll
    for (int i = 0; i < tile<WIDE>::X_ROWS; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            s->x[k + j][i * APART + (row ^ turn_of(k, APART))] = v.x[i][j];
    if (tile<WIDE>::COLUMNS < APART && row >= tile<WIDE>::COLUMNS)
        return;
#pragma unroll
    for (int i = 0; i < tile<WIDE>::W_ROWS; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            s->w[line_of<WIDE>(k + j)][i * APART + (row ^ turn_of(k, WIDE * 4))] = v.w[i][j];
}

IMAGINE__INLINE void read_half(const float *from, float *v)
{
    float4 f = *(const float4 *)from;
    v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
}

template <int WIDE> IMAGINE__INLINE void multiply_step(const tile<WIDE> *s, float (&sum)[8][WIDE])
{
    unsigned ty = row_of_thread<WIDE>(), tx = column_of_thread<WIDE>();
#pragma unroll
    for (unsigned k = 0; k < DEPTH; k++) {
        float x[8], w[WIDE];
        read_half(&s->x[k][ty ^ turn_of(k, APART)], x);
        read_half(&s->x[k][tile<WIDE>::ROWS / 2 + (ty ^ turn_of(k, APART))], x + 4);
#pragma unroll
        for (int j = 0; j < WIDE; j += 4)
            read_half(&s->w[line_of<WIDE>(k)][j * tile<WIDE>::ACROSS + (tx ^ turn_of(k, WIDE * 4))], w + j);
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < WIDE; j++)
                sum[i][j] += x[i] * w[j];
    }
}

/* Four after four of the totals are columns, as many as a thread has, and then the next row's. */
template <int WIDE> IMAGINE__INLINE void fold(volatile float (&total)[8 * WIDE], float (&sum)[8][WIDE], bool first)
{
    if (first) {
#pragma unroll
        for (int i = 0; i < 8 * WIDE; i++)
            total[i] = 0.0f + sum[i / WIDE][i % WIDE];
    } else {
#pragma unroll
        for (int i = 0; i < 8 * WIDE; i++)
            total[i] = total[i] + sum[i / WIDE][i % WIDE];
    }
#pragma unroll
    for (int i = 0; i < 8 * WIDE; i++)
        sum[i / WIDE][i % WIDE] = 0;
}

template <class Source, class Place, class T, int WIDE, bool VECTORS>
__global__ void __launch_bounds__(THREADS, VECTORS ? 3 : 2) product_kernel(Source source, product_weight w, product_epilogue e)
{
    typedef tile<WIDE> shape;
    shape *s = (shape *)dynamic_shared();
    int64_t across = (w.n + shape::COLUMNS - 1) / shape::COLUMNS;
    int64_t first = blockIdx.x / across * shape::ROWS, column = blockIdx.x % across * shape::COLUMNS;
    int depth = (int)depth_of(source), count = (depth + DEPTH - 1) / DEPTH * parts_of(source);
    int k = threadIdx.x % LANES * 4, part = 0;
    x_reader<Source, Place, shape::X_ROWS, VECTORS> x(source, first);
    w_reader<T, shape::W_ROWS, VECTORS> rows(w, column);
    volatile float total[8 * WIDE]; /* or the compiler would have it in registers all the same */
    float sum[8][WIDE] = {};
    step_values<WIDE> next;
    if (count) {
        x.begin_part(source, 0);
        x.read(source, 0, k, k < depth, next.x);
        rows.read(w, weight_offset(source, 0) + k, k, depth, k < depth, next.w);
    }
    for (int step = 0; step < count; step++) {
        shape *now = s + step % 2;
        place_step(now, next);
        sync_block(); /* the step is there; and the other buffer was read before the barrier of the step before */
        if (step + 1 < count) {
            k += DEPTH;
            if (k - (int)threadIdx.x % LANES * 4 < depth)
                x.advance(source);
            else {
                k = threadIdx.x % LANES * 4;
                x.begin_part(source, ++part);
            }
            x.read(source, part, k, k < depth, next.x);
            rows.read(w, weight_offset(source, part) + k, k, depth, k < depth, next.w);
        }
        multiply_step(now, sum);
        if (step % FOLD == FOLD - 1)
            fold(total, sum, step == FOLD - 1);
    }
    fold(total, sum, count < FOLD);
    unsigned ty = row_of_thread<WIDE>(), tx = column_of_thread<WIDE>();
#pragma unroll 1 /* sixteen epilogues would be ten thousand instructions */
    for (int i = 0; i < 8 * WIDE; i += 4) {
        float v[4] = {total[i], total[i + 1], total[i + 2], total[i + 3]};
        int row = i / WIDE;
        finish4(e, w.bias, w.n, first + row / 4 * (shape::ROWS / 2) + ty + row % 4, column + i % WIDE * shape::ACROSS + tx, v);
    }
}

/* Whether all that is read are vectors of four, x in f32. */
static bool in_vectors(const rows_source &s)
{
    return s.aligned && s.type == IMAGINE__W_F32 && s.k % 4 == 0;
}

static bool in_vectors(const taps_source &s)
{
    return s.aligned && s.type == IMAGINE__W_F32 && ints_suffice(s);
}

template <int WIDE, class Source>
static int start(void (*kernel)(Source, product_weight, product_epilogue), const Source &source, const product_weight &w,
                 const product_epilogue &e, void *stream)
{
    typedef tile<WIDE> shape;
    int64_t blocks = (e.m - e.first + shape::ROWS - 1) / shape::ROWS * ((w.n + shape::COLUMNS - 1) / shape::COLUMNS);
    if (blocks > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    return launch(kernel, (unsigned)blocks, THREADS, 2 * sizeof(shape), stream, source, w, e);
}

template <class Source, class Place, class T>
static int start_vectors(const Source &source, const product_weight &w, const product_epilogue &e, void *stream)
{
    return w.n > NARROW ? start<8>(product_kernel<Source, Place, T, 8, true>, source, w, e, stream)
                        : start<4>(product_kernel<Source, Place, T, 4, true>, source, w, e, stream);
}

template <class Source, class Place>
static int multiply(const Source &source, const product_weight &w, const product_epilogue &e, void *stream)
{
    if (!w.aligned || !in_vectors(source))
        return start<8>(product_kernel<Source, Place, float, 8, false>, source, w, e, stream);
    return w.type == IMAGINE__W_F32 ? start_vectors<Source, Place, float>(source, w, e, stream)
                                    : start_vectors<Source, Place, uint16_t>(source, w, e, stream);
}

int imagine__cuda_multiply(const rows_source &source, const product_weight &w, const product_epilogue &e, void *stream)
{
    if (source.k > 0x3fffffff) /* ints count k */
        return IMAGINE__CUDA_INVALID;
    return imagine__cuda_are_few(source, w) ? imagine__cuda_multiply_few(source, w, e, stream)
                                            : multiply<rows_source, rows_place>(source, w, e, stream);
}

int imagine__cuda_multiply(const taps_source &source, const product_weight &w, const product_epilogue &e, void *stream)
{
    return multiply<taps_source, taps_place>(source, w, e, stream);
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
