/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/internal.cuh"
#include "kernels/cuda/softmax.cuh"
#include "kernels/cuda/tensor_map.cuh"

/* Attention for Hopper (sm_90a): TMA, wgmma, and warpgroups of their own for copying and for computing. docs/kernels.md
 * explains it from the ground; in short:
 *
 *   producer   (warpgroup 0)      one thread; brings K and V of tile after tile into `STAGES` buffers
 *   consumers  (the others)       64 queries each; S = Q K^T, softmax, O += P V, where the product of the next tile's scores
 *                                 runs while this tile's softmax is computed
 *
 * They meet at mbarriers: `full` when a tile has landed, `empty` when every consumer is done with it. */

template <int D> struct shape; /* of the tiles, by head size: what registers and shared memory allow */
template <> struct shape<128> {
    static constexpr int CONSUMERS = 2, KEYS = 176, STAGES = 2, FEW = 24, MANY = 240;
};
template <> struct shape<64> {
    static constexpr int CONSUMERS = 3, KEYS = 128, STAGES = 4, FEW = 32, MANY = 160;
};

#define LINE 64 /* bf16 in a line of 128 bytes */

/* Everything the copy engine writes is a stack of boxes of 64 columns: [D / 64][rows][64], swizzled. */
template <int D> struct buffers {
    using S = shape<D>;
    uint16_t q[S::CONSUMERS][D / LINE][64 * LINE]; /* the output takes its place */
    uint16_t k[S::STAGES][D / LINE][S::KEYS * LINE];
    uint16_t v[S::STAGES][D / LINE][S::KEYS * LINE];
    uint64_t q_full, k_full[S::STAGES], k_empty[S::STAGES], v_full[S::STAGES], v_empty[S::STAGES];
};

struct hopper_args {
    const int64_t *kv_length;
    int kv;
    float scale_log2;
};

template <int D> IMAGINE__INLINE buffers<D> *shared_buffers()
{
    unsigned char *p = (unsigned char *)dynamic_shared();
    return (buffers<D> *)(p + (1024 - shared_address(p) % 1024) % 1024);
}

template <int D> IMAGINE__INLINE void init_barriers(buffers<D> *b)
{
    using S = shape<D>;
    if (threadIdx.x == 0) {
        mbarrier_init(&b->q_full, 1);
        for (int i = 0; i < S::STAGES; i++) {
            mbarrier_init(&b->k_full[i], 1);
            mbarrier_init(&b->v_full[i], 1);
            mbarrier_init(&b->k_empty[i], S::CONSUMERS * 4); /* a lane of every warp */
            mbarrier_init(&b->v_empty[i], S::CONSUMERS * 4);
        }
        fence_async_proxy();
    }
    sync_block();
}

/* ---- the producer ------------------------------------------------------------------------------------------------ */

/* Rows of one head, all columns, as boxes one behind the other. */
template <int D, int ROWS>
IMAGINE__INLINE void bring(uint16_t (&to)[D / LINE][ROWS * LINE], const tensor_map *map, uint64_t *full, int row)
{
#pragma unroll
    for (int i = 0; i < D / LINE; i++)
        load_box(to[i], map, full, i * LINE, (int)blockIdx.y, row, (int)blockIdx.z);
}

template <int D>
IMAGINE__INLINE void produce(buffers<D> *b, const tensor_map *q, const tensor_map *k, const tensor_map *v, int tiles)
{
    using S = shape<D>;
    mbarrier_expect(&b->q_full, sizeof b->q);
    for (int i = 0; i < S::CONSUMERS; i++)
        bring<D, 64>(b->q[i], q, &b->q_full, ((int)blockIdx.x * S::CONSUMERS + i) * 64);
    for (int tile = 0; tile < tiles; tile++) {
        int stage = tile % S::STAGES;
        unsigned turn = (unsigned)(tile / S::STAGES) & 1;
        mbarrier_wait(&b->k_empty[stage], turn ^ 1); /* passes at once in the first round */
        mbarrier_expect(&b->k_full[stage], sizeof b->k[stage]);
        bring<D, S::KEYS>(b->k[stage], k, &b->k_full[stage], tile * S::KEYS);
        mbarrier_wait(&b->v_empty[stage], turn ^ 1);
        mbarrier_expect(&b->v_full[stage], sizeof b->v[stage]);
        bring<D, S::KEYS>(b->v[stage], v, &b->v_full[stage], tile * S::KEYS);
    }
}

/* ---- the consumers ----------------------------------------------------------------------------------------------- */

/* A consumer warpgroup's registers. */
template <int D> struct consumer {
    using S = shape<D>;
    float s[S::KEYS / 2]; /* scores, then weights */
    uint32_t p[S::KEYS / 16][4]; /* weights in bf16, the left operand of P V */
    float o[D / 2];
    running r;
};

template <int D> IMAGINE__INLINE unsigned turn_of(int tile)
{
    return (unsigned)(tile / shape<D>::STAGES) & 1;
}

IMAGINE__INLINE void release(uint64_t *empty)
{
    if (threadIdx.x % 32 == 0)
        mbarrier_arrive(empty);
}

/* Begins S = Q K^T of a tile; a group of its own. */
template <int D> IMAGINE__INLINE void begin_scores(consumer<D> &c, buffers<D> *b, int group, int tile)
{
    using S = shape<D>;
    int stage = tile % S::STAGES;
    mbarrier_wait(&b->k_full[stage], turn_of<D>(tile));
    products_begin();
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        multiply_shared<S::KEYS>(c.s, advance(matrix_descriptor(b->q[group][i / 4], 16), i % 4 * 32),
                                 advance(matrix_descriptor(b->k[stage][i / 4], 16), i % 4 * 32), i > 0);
    products_commit();
}

/* Begins O += P V of a tile. */
template <int D> IMAGINE__INLINE void begin_output(consumer<D> &c, buffers<D> *b, int tile)
{
    using S = shape<D>;
    uint64_t v = matrix_descriptor(b->v[tile % S::STAGES][0], sizeof b->v[0][0]);
    products_begin();
#pragma unroll
    for (int i = 0; i < S::KEYS / 16; i++)
        multiply_registers<D>(c.o, c.p[i], advance(v, i * 16 * 128));
    products_commit();
}

template <int D> IMAGINE__INLINE void take_weights(consumer<D> &c, const float (&shrink)[2])
{
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        c.o[i] *= shrink[i / 2 % 2];
#pragma unroll
    for (int i = 0; i < shape<D>::KEYS / 16; i++)
        pack_weights(c.p[i], c.s, i);
}

/* Rows of V behind the clip's length may hold anything, a NaN too, and 0 NaN is NaN: they become zeros. All consumers do it
 * together, once, on the last tile. (Rows behind the tensor are zeros already.) */
template <int D> IMAGINE__INLINE void clear_values(buffers<D> *b, int tile, int end, int kv)
{
    using S = shape<D>;
    int first = end - tile * S::KEYS, behind = kv - tile * S::KEYS;
    if (first >= S::KEYS || first >= behind)
        return;
    behind = behind < S::KEYS ? behind : S::KEYS;
    for (int i = 0; i < D / LINE; i++) {
        uint4 *lines = (uint4 *)b->v[tile % S::STAGES][i]; /* the swizzle moves nothing from one line to another */
        for (int j = first * 8 + (int)threadIdx.x - 128; j < behind * 8; j += S::CONSUMERS * 128)
            lines[j] = uint4{0, 0, 0, 0};
    }
    fence_async_proxy();
    sync_threads(1, S::CONSUMERS * 128);
}

/* O divided by the sums, through shared memory, in the place of this group's Q. */
template <int D> IMAGINE__INLINE void write_output(consumer<D> &c, buffers<D> *b, int group, const tensor_map *y)
{
    int lane = (int)threadIdx.x % 32, row = (int)threadIdx.x / 32 % 4 * 16 + lane / 4;
    float factor[2];
    sum_factors(c.r, factor);
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int line = row + 8 * h, chunk = n % 8 ^ line % 8;
            *(uint32_t *)(b->q[group][n / 8] + line * LINE + chunk * 8 + lane % 4 * 2) =
                pack_bf16(c.o[4 * n + 2 * h] * factor[h], c.o[4 * n + 2 * h + 1] * factor[h]);
        }
    fence_async_proxy();
    sync_threads(2 + (unsigned)group, 128);
    if (threadIdx.x % 128 == 0) {
        for (int i = 0; i < D / LINE; i++)
            store_box(y, b->q[group][i], i * LINE, (int)blockIdx.y, ((int)blockIdx.x * shape<D>::CONSUMERS + group) * 64,
                      (int)blockIdx.z);
        store_commit();
        store_wait<0>();
    }
}

template <int D> IMAGINE__INLINE void consume(buffers<D> *b, const tensor_map *y, const hopper_args &a, int end, int tiles)
{
    using S = shape<D>;
    int group = (int)threadIdx.x / 128 - 1;
    consumer<D> c;
    float shrink[2];
    c.r = {{MINUS_INFINITY, MINUS_INFINITY}, {0, 0}};
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        c.o[i] = 0;

    mbarrier_wait(&b->q_full, 0);
    begin_scores<D>(c, b, group, 0);
    products_wait<0>(c.s);
    release(&b->k_empty[0]);
    mask_keys(c.s, 0, end);
    soften(c.s, &c.r, shrink, a.scale_log2);
    take_weights<D>(c, shrink);
    for (int tile = 1; tile < tiles; tile++) {
        int last = (tile - 1) % S::STAGES;
        begin_scores<D>(c, b, group, tile);
        mbarrier_wait(&b->v_full[last], turn_of<D>(tile - 1));
        begin_output<D>(c, b, tile - 1);
        products_wait<1>(c.s); /* the scores; the output's product goes on under the softmax */
        release(&b->k_empty[tile % S::STAGES]);
        mask_keys(c.s, tile * S::KEYS, end);
        soften(c.s, &c.r, shrink, a.scale_log2);
        products_wait<0>(c.o);
        release(&b->v_empty[last]);
        take_weights<D>(c, shrink);
    }
    mbarrier_wait(&b->v_full[(tiles - 1) % S::STAGES], turn_of<D>(tiles - 1));
    clear_values<D>(b, tiles - 1, end, a.kv);
    begin_output<D>(c, b, tiles - 1);
    products_wait<0>(c.o);
    write_output<D>(c, b, group, y);
}

template <int D>
__global__ void __launch_bounds__(128 * (shape<D>::CONSUMERS + 1), 1)
    hopper_kernel(const __grid_constant__ tensor_map q, const __grid_constant__ tensor_map k,
                  const __grid_constant__ tensor_map v, const __grid_constant__ tensor_map y, hopper_args a)
{
    using S = shape<D>;
    buffers<D> *b = shared_buffers<D>();
    int end = a.kv_length ? (int)a.kv_length[blockIdx.z] : a.kv;
    int tiles = end > S::KEYS ? (end + S::KEYS - 1) / S::KEYS : 1; /* one at least, for which the consumers wait */
    init_barriers<D>(b);
    if (threadIdx.x < 128) {
        fewer_registers<S::FEW>();
        if (threadIdx.x == 0)
            produce<D>(b, &q, &k, &v, tiles);
    } else {
        more_registers<S::MANY>();
        consume<D>(b, &y, a, end, tiles);
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
    tensor_map q, k, v, y;
    int status = map_tensor(&q, a->q, a, a->tokens, a->q_token, a->q_batch, 64);
    status = status ? status : map_tensor(&k, a->k, a, a->kv, a->k_token, a->k_batch, S::KEYS);
    status = status ? status : map_tensor(&v, a->v, a, a->kv, a->v_token, a->v_batch, S::KEYS);
    status = status ? status : map_tensor(&y, a->y, a, a->tokens, a->y_token, a->y_batch, 64);
    if (status)
        return status;
    hopper_args args = {a->kv_length, (int)a->kv, a->scale * 1.44269504088896341f};
    const int rows = 64 * S::CONSUMERS;
    dim3 grid((unsigned)((a->tokens + rows - 1) / rows), (unsigned)a->heads, (unsigned)a->batch);
    return launch(hopper_kernel<D>, grid, 128 * (S::CONSUMERS + 1), sizeof(buffers<D>) + 1024, stream, q, k, v, y, args);
}

int imagine__cuda_attention_hopper(const imagine__cuda_attention_args *a, void *stream)
{
    return a->d == 128 ? start<128>(a, stream) : start<64>(a, stream);
}
