/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/internal.cuh"
#include "kernels/cuda/softmax.cuh"
#include "kernels/cuda/tensor_map.cuh"

/* Attention for Hopper (sm_90a): TMA, wgmma, and warpgroups of their own for copying and for computing. docs/kernels.md
 * explains it from the ground; in short:
 *
 *   producer   (warpgroup 0)      one thread; brings Q of strip after strip, and K and V of tile after tile into `STAGES` buffers
 *   consumers  (the others)       64 queries each; S = Q K^T, softmax, O += P V, where the output's product of a tile runs while
 *                                 the next tile's softmax is computed, be it the first one of the next strip
 *
 * They meet at mbarriers: `full` when a tile has landed, `empty` when every consumer is done with it. A strip's last tile, which
 * may be ragged, comes first, so that all others are whole. */

template <int D> struct shape; /* of the tiles, by head size: what registers and shared memory allow */
template <> struct shape<128> {
    static constexpr int CONSUMERS = 2, KEYS = 176, STAGES = 2, FEW = 24, MANY = 240;
    static constexpr int SHORT = 96; /* a ragged tile of so many keys at most is computed with no more */
};
template <> struct shape<64> {
    static constexpr int CONSUMERS = 3, KEYS = 128, STAGES = 4, FEW = 32, MANY = 160;
    static constexpr int SHORT = 64;
};

#define LINE 64 /* bf16 in a line of 128 bytes */

/* Everything the copy engine writes is a stack of boxes of 64 columns: [D / 64][rows][64], swizzled. */
template <int D> struct buffers {
    using S = shape<D>;
    uint16_t q[S::CONSUMERS][D / LINE][64 * LINE];
    uint16_t k[S::STAGES][D / LINE][S::KEYS * LINE];
    uint16_t v[S::STAGES][D / LINE][S::KEYS * LINE];
    uint64_t q_full[S::CONSUMERS], q_empty[S::CONSUMERS];
    uint64_t k_full[S::STAGES], k_empty[S::STAGES], v_full[S::STAGES], v_empty[S::STAGES];
};

struct hopper_args {
    uint16_t *y;
    int64_t y_batch, y_token;
    const int64_t *kv_length;
    int tokens, kv, heads, strips, count; /* strips of a head; of all heads and clips */
    float scale_log2;
};

/* 64 queries for each consumer, of one head. Blocks take strip after strip, gridDim.x apart. */
struct strip {
    int row, head, batch;
};

template <int D> IMAGINE__INLINE strip strip_at(const hopper_args &a, int i)
{
    int head = i / a.strips;
    return {(i - head * a.strips) * shape<D>::CONSUMERS * 64, head % a.heads, head / a.heads};
}

/* Where the keys of strip i end. */
IMAGINE__INLINE int end_of(const hopper_args &a, int i)
{
    return a.kv_length ? (int)a.kv_length[i / a.strips / a.heads] : a.kv;
}

/* One at least, for which the consumers wait. */
template <int D> IMAGINE__INLINE int tiles_of(int end)
{
    return end > shape<D>::KEYS ? (end + shape<D>::KEYS - 1) / shape<D>::KEYS : 1;
}

template <int D> IMAGINE__INLINE buffers<D> *shared_buffers()
{
    unsigned char *p = (unsigned char *)dynamic_shared();
    return (buffers<D> *)(p + (1024 - shared_address(p) % 1024) % 1024);
}

template <int D> IMAGINE__INLINE void init_barriers(buffers<D> *b)
{
    using S = shape<D>;
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::CONSUMERS; i++) {
            mbarrier_init(&b->q_full[i], 1);
            mbarrier_init(&b->q_empty[i], 4); /* a lane of every warp */
        }
        for (int i = 0; i < S::STAGES; i++) {
            mbarrier_init(&b->k_full[i], 1);
            mbarrier_init(&b->v_full[i], 1);
            mbarrier_init(&b->k_empty[i], S::CONSUMERS * 4);
            mbarrier_init(&b->v_empty[i], S::CONSUMERS * 4);
        }
        fence_async_proxy();
    }
    sync_block();
}

/* ---- the producer ------------------------------------------------------------------------------------------------ */

/* Rows of one head, all columns, as boxes one behind the other. */
template <int D, int ROWS>
IMAGINE__INLINE void bring(uint16_t (&to)[D / LINE][ROWS * LINE], const tensor_map *map, uint64_t *full, const strip &s, int row)
{
    mbarrier_expect(full, sizeof to);
#pragma unroll
    for (int i = 0; i < D / LINE; i++)
        load_box(to[i], map, full, i * LINE, s.head, row, s.batch);
}

/* The parity of the phase in which tile n, counted over all strips, lies in its buffer. */
template <int D> IMAGINE__INLINE unsigned turn_of(int n)
{
    return (unsigned)n / shape<D>::STAGES & 1;
}

template <int D>
IMAGINE__INLINE void produce(buffers<D> *b, const tensor_map *q, const tensor_map *k, const tensor_map *v, const hopper_args &a)
{
    using S = shape<D>;
    unsigned q_turn = 0;
    int n = 0;
    for (int i = (int)blockIdx.x; i < a.count; i += (int)gridDim.x, q_turn ^= 1) {
        strip s = strip_at<D>(a, i);
        int last = tiles_of<D>(end_of(a, i)) - 1;
        for (int tile = last; tile >= 0; tile--, n++) {
            int stage = n % S::STAGES;
            unsigned turn = turn_of<D>(n);
            mbarrier_wait(&b->k_empty[stage], turn ^ 1); /* passes at once in the first round */
            bring<D, S::KEYS>(b->k[stage], k, &b->k_full[stage], s, tile * S::KEYS);
            for (int j = 0; tile == last && j < S::CONSUMERS; j++) { /* after K, whose place is free earlier */
                mbarrier_wait(&b->q_empty[j], q_turn ^ 1);
                bring<D, 64>(b->q[j], q, &b->q_full[j], s, s.row + j * 64);
            }
            mbarrier_wait(&b->v_empty[stage], turn ^ 1);
            bring<D, S::KEYS>(b->v[stage], v, &b->v_full[stage], s, tile * S::KEYS);
        }
    }
}

/* ---- the consumers ----------------------------------------------------------------------------------------------- */

/* A consumer warpgroup's registers. */
template <int D> struct consumer {
    using S = shape<D>;
    float s[S::KEYS / 2]; /* scores, then weights */
    uint32_t p[S::KEYS / 16][4]; /* weights in bf16, the left operand of P V */
    float o[D / 2], shrink[2];
    running r;
    int n; /* of the tile whose weights are in p, counted over all strips */
};

IMAGINE__INLINE int group_of()
{
    return (int)threadIdx.x / 128 - 1;
}

IMAGINE__INLINE void release(uint64_t *empty)
{
    if (threadIdx.x % 32 == 0)
        mbarrier_arrive(empty);
}

/* The first values of an array, those of WIDTH keys. */
template <int WIDTH, int N> IMAGINE__INLINE float (&scores_of(float (&s)[N]))[WIDTH / 2]
{
    static_assert(WIDTH / 2 <= N, "a part");
    return (float(&)[WIDTH / 2])s;
}

/* Begins S = Q K^T of tile n; a group of its own. */
template <int D, int WIDTH> IMAGINE__INLINE void begin_scores(consumer<D> &c, buffers<D> *b, int n)
{
    int stage = n % shape<D>::STAGES, group = group_of();
    mbarrier_wait(&b->k_full[stage], turn_of<D>(n));
    products_begin();
    multiply_shared<WIDTH, false>(scores_of<WIDTH>(c.s), matrix_descriptor(b->q[group][0], 16), matrix_descriptor(b->k[stage][0], 16));
#pragma unroll
    for (int i = 1; i < D / 16; i++)
        multiply_shared<WIDTH>(scores_of<WIDTH>(c.s), advance(matrix_descriptor(b->q[group][i / 4], 16), i % 4 * 32),
                               advance(matrix_descriptor(b->k[stage][i / 4], 16), i % 4 * 32));
    products_commit();
}

/* Begins O += P V of the tile whose weights are in p. */
template <int D, int WIDTH> IMAGINE__INLINE void begin_output(consumer<D> &c, buffers<D> *b)
{
    uint64_t v = matrix_descriptor(b->v[c.n % shape<D>::STAGES][0], sizeof b->v[0][0]);
    products_begin();
#pragma unroll
    for (int i = 0; i < WIDTH / 16; i++)
        multiply_registers<D>(c.o, c.p[i], advance(v, i * 16 * 128));
    products_commit();
}

template <int D, int WIDTH> IMAGINE__INLINE void take_weights(consumer<D> &c)
{
#pragma unroll
    for (int i = 0; i < WIDTH / 16; i++)
        pack_weights(c.p[i], c.s, i);
}

/* Until V of tile n has landed. */
template <int D> IMAGINE__INLINE void wait_for_values(buffers<D> *b, int n)
{
    mbarrier_wait(&b->v_full[n % shape<D>::STAGES], turn_of<D>(n));
}

/* Between a softmax and products_wait, while the product reads V of tile n, which is there until this warp releases it: passes at once,
 * but its loop ends a basic block. Within one, ptxas moves products_wait up above all exponentials, which are to run beside the
 * product that it waits for. The test `cuda module code` sees whether they do. */
template <int D> IMAGINE__INLINE void hold_softmax(buffers<D> *b, int n)
{
    wait_for_values<D>(b, n);
}

/* Rows of V behind the clip's length may hold anything, a NaN too, and 0 NaN is NaN: they become zeros. All consumers do it
 * together, on a strip's ragged tile. (Rows behind the tensor are zeros already.) */
template <int D> IMAGINE__INLINE void clear_values(buffers<D> *b, int n, int tile, int end, int kv)
{
    using S = shape<D>;
    int first = end - tile * S::KEYS, behind = kv - tile * S::KEYS;
    if (first >= S::KEYS || first >= behind)
        return;
    behind = behind < S::KEYS ? behind : S::KEYS;
    wait_for_values<D>(b, n);
    for (int i = 0; i < D / LINE; i++) {
        uint4 *lines = (uint4 *)b->v[n % S::STAGES][i]; /* the swizzle moves nothing from one line to another */
        for (int j = first * 8 + (int)threadIdx.x - 128; j < behind * 8; j += S::CONSUMERS * 128)
            lines[j] = uint4{0, 0, 0, 0};
    }
    fence_async_proxy();
    sync_threads(1, S::CONSUMERS * 128);
}

/* The scores of tile n, which comes first of its strip and may be ragged, once they are there, become weights. */
template <int D, int LAST, int PENDING>
IMAGINE__INLINE void soften_ragged(consumer<D> &c, buffers<D> *b, const hopper_args &a, int n, int tile, int end)
{
    float(&scores)[LAST / 2] = scores_of<LAST>(c.s);
    products_wait<PENDING>(scores);
    release(&b->k_empty[n % shape<D>::STAGES]);
    if (tile == 0)
        release(&b->q_empty[group_of()]);
    mask_keys(scores, tile * shape<D>::KEYS, end);
    soften(scores, &c.r, c.shrink, a.scale_log2);
}

/* A whole tile: its scores, and the output of the tile before, of BEFORE keys. */
template <int D, int BEFORE>
IMAGINE__INLINE void step(consumer<D> &c, buffers<D> *b, const hopper_args &a, int tile)
{
    using S = shape<D>;
    begin_scores<D, S::KEYS>(c, b, c.n + 1);
    wait_for_values<D>(b, c.n);
    begin_output<D, BEFORE>(c, b);
    products_wait<1>(c.s); /* the scores; the output's product goes on under the softmax */
    release(&b->k_empty[(c.n + 1) % S::STAGES]);
    if (tile == 0)
        release(&b->q_empty[group_of()]);
    soften(c.s, &c.r, c.shrink, a.scale_log2);
    hold_softmax<D>(b, c.n);
    products_wait<0>(c.o);
    release(&b->v_empty[c.n % S::STAGES]);
    c.n++;
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        c.o[i] *= c.shrink[i / 2 % 2];
    take_weights<D, S::KEYS>(c);
}

/* O divided by the sums, into strip i. Of every eight columns a lane has the same pair; four lanes exchange theirs, so that each
 * writes eight columns at once. Not by the copy engine: its buffer would be where the next strip's Q is by now. */
template <int D> IMAGINE__INLINE void write_output(const consumer<D> &c, const float (&sum)[2], const hopper_args &a, int i)
{
    strip s = strip_at<D>(a, i);
    int lane = (int)threadIdx.x % 32, first = s.row + group_of() * 64 + (int)threadIdx.x / 32 % 4 * 16 + lane / 4;
    float factor[2];
    sum_factors(sum, factor);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = first + 8 * h;
        uint16_t *y = a.y + s.batch * a.y_batch + row * a.y_token + s.head * D + lane % 4 * 8;
#pragma unroll
        for (int n = 0; n < D / 8; n += 4) {
            uint32_t pairs[4];
#pragma unroll
            for (int j = 0; j < 4; j++)
                pairs[j] = pack_bf16(c.o[4 * (n + j) + 2 * h] * factor[h], c.o[4 * (n + j) + 2 * h + 1] * factor[h]);
            transpose_quad(pairs);
            if (row < a.tokens)
                *(uint4 *)(y + n * 8) = uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
        }
    }
}

template <int D> IMAGINE__INLINE void begin_strip(consumer<D> &c)
{
    c.r = {{MINUS_INFINITY, MINUS_INFINITY}, {0, 0}};
}

template <int D> IMAGINE__INLINE void clear_output(consumer<D> &c)
{
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        c.o[i] = 0;
}

template <int D, int LAST> IMAGINE__INLINE void consume(buffers<D> *b, const hopper_args &a)
{
    using S = shape<D>;
    consumer<D> c;
    int i = (int)blockIdx.x, end = end_of(a, i), tile = tiles_of<D>(end) - 1;
    unsigned q_turn = 0;
    c.n = 0;
    begin_strip(c);
    mbarrier_wait(&b->q_full[group_of()], 0);
    begin_scores<D, LAST>(c, b, 0);
    soften_ragged<D, LAST, 0>(c, b, a, 0, tile, end);
    clear_values<D>(b, 0, tile, end, a.kv);
    clear_output(c);
    take_weights<D, LAST>(c);
    for (;;) {
        if (LAST < S::KEYS)
            step<D, LAST>(c, b, a, --tile);
        while (tile > 0)
            step<D, S::KEYS>(c, b, a, --tile);
        wait_for_values<D>(b, c.n);
        i += (int)gridDim.x;
        if (i >= a.count)
            break;
        /* The next strip's first tile: its scores, and this strip's last output. */
        float sum[2] = {c.r.sum[0], c.r.sum[1]};
        begin_strip(c);
        mbarrier_wait(&b->q_full[group_of()], q_turn ^= 1);
        begin_scores<D, LAST>(c, b, c.n + 1);
        begin_output<D, S::KEYS>(c, b);
        end = end_of(a, i), tile = tiles_of<D>(end) - 1;
        soften_ragged<D, LAST, 1>(c, b, a, c.n + 1, tile, end);
        hold_softmax<D>(b, c.n);
        products_wait<0>(c.o);
        release(&b->v_empty[c.n % S::STAGES]);
        c.n++;
        clear_values<D>(b, c.n, tile, end, a.kv);
        write_output<D>(c, sum, a, i - (int)gridDim.x);
        clear_output(c);
        take_weights<D, LAST>(c);
    }
    begin_output<D, S::KEYS>(c, b);
    products_wait<0>(c.o);
    write_output<D>(c, c.r.sum, a, i - (int)gridDim.x);
}

/* LAST: how many keys the last tile of every strip is computed with; fewer than KEYS only where a strip has others. */
template <int D, int LAST>
__global__ void __launch_bounds__(128 * (shape<D>::CONSUMERS + 1), 1)
    hopper_kernel(const __grid_constant__ tensor_map q, const __grid_constant__ tensor_map k,
                  const __grid_constant__ tensor_map v, hopper_args a)
{
    using S = shape<D>;
    buffers<D> *b = shared_buffers<D>();
    init_barriers<D>(b);
    if (threadIdx.x < 128) {
        fewer_registers<S::FEW>();
        if (threadIdx.x == 0)
            produce<D>(b, &q, &k, &v, a);
    } else {
        more_registers<S::MANY>();
        consume<D, LAST>(b, a);
    }
}

/* ---- the host's side --------------------------------------------------------------------------------------------- */

static int map_tensor(tensor_map *map, const void *base, const imagine__cuda_attention_args *a, int64_t rows, int64_t token,
                      int64_t batch, int box_rows)
{
    const uint64_t extent[4] = {(uint64_t)a->d, (uint64_t)a->heads, (uint64_t)rows, (uint64_t)a->batch};
    const uint64_t step = a->batch > 1 ? (uint64_t)batch * 2 : (uint64_t)(token * rows) * 2; /* never used for one clip */
    const uint64_t stride[4] = {0, (uint64_t)a->d * 2, (uint64_t)token * 2, step};
    const uint32_t box[4] = {LINE, 1, (uint32_t)box_rows, 1};
    return make_tensor_map(map, base, extent, stride, box);
}

template <int D> static int start(const imagine__cuda_attention_args *a, void *stream)
{
    using S = shape<D>;
    tensor_map q, k, v;
    int status = map_tensor(&q, a->q, a, a->tokens, a->q_token, a->q_batch, 64);
    status = status ? status : map_tensor(&k, a->k, a, a->kv, a->k_token, a->k_batch, S::KEYS);
    status = status ? status : map_tensor(&v, a->v, a, a->kv, a->v_token, a->v_batch, S::KEYS);
    if (status)
        return status;
    const int rows = 64 * S::CONSUMERS, strips = (int)((a->tokens + rows - 1) / rows);
    const int count = strips * (int)(a->heads * a->batch), most = device_multiprocessors();
    hopper_args args = {(uint16_t *)a->y, a->y_batch, a->y_token, a->kv_length, (int)a->tokens, (int)a->kv, (int)a->heads,
                        strips, count, a->scale * 1.44269504088896341f};
    const int rest = (int)(a->kv % S::KEYS);
    const bool ends_short = !a->kv_length && a->kv > S::KEYS && rest && rest <= S::SHORT;
    return launch(ends_short ? hopper_kernel<D, S::SHORT> : hopper_kernel<D, S::KEYS>, (unsigned)(count < most ? count : most),
                  128 * (S::CONSUMERS + 1), sizeof(buffers<D>) + 1024, stream, q, k, v, args);
}

int imagine__cuda_attention_hopper(const imagine__cuda_attention_args *a, void *stream)
{
    return a->d == 128 ? start<128>(a, stream) : start<64>(a, stream);
}
