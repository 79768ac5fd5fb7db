/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/internal.cuh"
#include "kernels/cuda/softmax.cuh"

/* Attention for GPUs from sm_80 on: mma.sync, cp.async, ldmatrix. A block of eight warps takes 128 queries of a head, a
 * warp 16 of them, whose Q stays in registers. K and V come in tiles of 64 keys through two buffers, the next tile's copy
 * under way while this one is multiplied. The softmax runs along, in powers of two with the scale folded in:
 *
 *     p = 2^(c s - c m),  c = scale log2 e,  m the row's largest score so far
 *
 * and when m grows, what was summed shrinks by 2^(c m_old - c m). A row of Q lies over the four lanes of a quad, so maximum
 * and sum of a row are two shuffles away. Rows in shared memory are 16 bytes longer than they need be, so that the eight
 * rows of an ldmatrix lie in different banks. */

#define ROWS 128
#define KEYS 64
#define THREADS 256

struct tile_args {
    const uint16_t *q, *k, *v;
    uint16_t *y;
    int64_t q_batch, q_token, k_batch, k_token, v_batch, v_token, y_batch, y_token;
    const int64_t *kv_length;
    int tokens, kv;
    float scale_log2;
    int kv_block; /* keys of a block, whole tiles */
    const int32_t *kv_blocks; /* or NULL */
    int64_t blocks_batch, k_block, v_block;
};

template <int D> struct tiles {
    static constexpr int STRIDE = D + 8; /* elements of a row in shared memory */
    uint16_t k[2][KEYS * STRIDE], v[2][KEYS * STRIDE]; /* Q and the output take k's place before and after */
};

/* Rows first.. of a matrix to shared memory; those from `end` on become zeros. */
template <int D, int COUNT>
IMAGINE__INLINE void copy_rows(uint16_t *to, const uint16_t *from, int64_t stride, int first, int end)
{
    constexpr int CHUNKS = D / 8, APART = THREADS / CHUNKS;
    constexpr int EACH = (COUNT * CHUNKS + THREADS - 1) / THREADS; /* chunks that a thread brings */
    if constexpr (THREADS % CHUNKS == 0) { /* the same chunk of every so many rows */
        int row = (int)threadIdx.x / CHUNKS, chunk = (int)threadIdx.x % CHUNKS * 8;
        const uint16_t *at = from + (first + row) * stride + chunk;
        to += row * tiles<D>::STRIDE + chunk;
        end -= first + row;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            copy_async(to + i * APART * tiles<D>::STRIDE, i * APART < end ? at : from, i * APART < end ? 16 : 0);
            at += APART * stride;
        }
    } else {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            unsigned number = (unsigned)i * THREADS + threadIdx.x, row = number / CHUNKS, chunk = number % CHUNKS * 8;
            bool inside = first + (int)row < end;
            if (number < COUNT * CHUNKS)
                copy_async(to + row * tiles<D>::STRIDE + chunk, inside ? from + (first + (int)row) * stride + chunk : from,
                           inside ? 16 : 0);
        }
    }
}

/* Accumulators 4 n to 4 n + 3: one product's. */
IMAGINE__INLINE float (&four(float (&s)[KEYS / 2], int n))[4]
{
    return *(float(*)[4]) & s[4 * n];
}

/* s [16, KEYS] = Q K^T of this warp. */
template <int D>
IMAGINE__INLINE void scores(float (&s)[KEYS / 2], const uint32_t (&q)[D / 16][4], const uint16_t *k)
{
    int lane = (int)threadIdx.x % 32;
    const uint16_t *row = k + (lane / 16 * 8 + lane % 8) * tiles<D>::STRIDE + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n += 2) {
        float(&left)[4] = four(s, n), (&right)[4] = four(s, n + 1);
#pragma unroll
        for (int i = 0; i < 4; i++)
            left[i] = right[i] = 0;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            uint32_t b[4];
            load_matrices(b, row + n * 8 * tiles<D>::STRIDE + i * 16);
            multiply_16x8x16(left, q[i], b[0], b[1]);
            multiply_16x8x16(right, q[i], b[2], b[3]);
        }
    }
}

/* o [16, D] += P V of this warp; the weights in s go over to bf16. */
template <int D> IMAGINE__INLINE void weigh(float (&o)[D / 8][4], const float (&s)[KEYS / 2], const uint16_t *v)
{
    int lane = (int)threadIdx.x % 32;
    const uint16_t *row = v + (lane / 8 % 2 * 8 + lane % 8) * tiles<D>::STRIDE + lane / 16 * 8;
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++) {
        uint32_t p[4];
        pack_weights(p, s, i);
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            load_matrices_transposed(b, row + i * 16 * tiles<D>::STRIDE + n * 8);
            multiply_16x8x16(o[n], p, b[0], b[1]);
            multiply_16x8x16(o[n + 1], p, b[2], b[3]);
        }
    }
}

/* The warp's 16 rows divided by their sums, by way of shared memory, so that they are written in whole lines. */
template <int D>
IMAGINE__INLINE void write_rows(float (&o)[D / 8][4], const running &r, uint16_t *shared, uint16_t *y, int64_t stride,
                                int rows)
{
    int lane = (int)threadIdx.x % 32;
    float factor[2];
    sum_factors(r.sum, factor);
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            *(uint32_t *)(shared + (lane / 4 + 8 * h) * tiles<D>::STRIDE + n * 8 + lane % 4 * 2) =
                pack_bf16(o[n][2 * h] * factor[h], o[n][2 * h + 1] * factor[h]);
    sync_warp();
    for (int i = lane; i < 16 * (D / 8); i += 32) {
        int row = i / (D / 8), chunk = i % (D / 8);
        if (row < rows)
            *(uint4 *)(y + row * stride + chunk * 8) = *(const uint4 *)(shared + row * tiles<D>::STRIDE + chunk * 8);
    }
}

/* This warp's rows of Q, into registers, by way of the buffers of K. */
template <int D>
IMAGINE__INLINE void load_queries(uint32_t (&q)[D / 16][4], uint16_t *shared, const uint16_t *from, int64_t stride, int first,
                                  int tokens)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    copy_rows<D, ROWS>(shared, from, stride, first, tokens);
    copy_async_commit();
    copy_async_wait<0>();
    sync_block();
    const uint16_t *row = shared + (warp * 16 + lane % 16) * tiles<D>::STRIDE + lane / 16 * 8;
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        load_matrices(q[i], row + i * 16);
    sync_block();
}

/* How far behind the clip's first key, or the first of all blocks, tile `tile` begins. */
IMAGINE__INLINE int64_t tile_place(const tile_args &a, const int32_t *blocks, int tile, int64_t token, int64_t block)
{
    int first = tile * KEYS;
    return blocks ? blocks[first / a.kv_block] * block + first % a.kv_block * token : first * token;
}

template <int D> __global__ void __launch_bounds__(THREADS, 1) attention_kernel(tile_args a)
{
    tiles<D> *t = (tiles<D> *)dynamic_shared();
    static_assert(2 * KEYS == ROWS, "Q takes the place of both tiles of K");
    int first = (int)blockIdx.x * ROWS, warp = (int)threadIdx.x / 32;
    int64_t batch = blockIdx.z, head = (int64_t)blockIdx.y * D;
    int kv = a.kv_length ? (int)a.kv_length[batch] : a.kv, count = (kv + KEYS - 1) / KEYS;
    const int32_t *blocks = a.kv_blocks ? a.kv_blocks + batch * a.blocks_batch : nullptr;
    const uint16_t *k = a.k + (blocks ? 0 : batch * a.k_batch) + head, *v = a.v + (blocks ? 0 : batch * a.v_batch) + head;

    uint32_t q[D / 16][4];
    load_queries<D>(q, t->k[0], a.q + batch * a.q_batch + head, a.q_token, first, a.tokens);
    float o[D / 8][4] = {}, s[KEYS / 2];
    running r = {{MINUS_INFINITY, MINUS_INFINITY}, {0, 0}};

    /* Groups of copies in their order: K of a tile, V of it, K of the next, ... */
    copy_rows<D, KEYS>(t->k[0], k + tile_place(a, blocks, 0, a.k_token, a.k_block), a.k_token, 0, kv);
    copy_async_commit();
    copy_rows<D, KEYS>(t->v[0], v + tile_place(a, blocks, 0, a.v_token, a.v_block), a.v_token, 0, kv);
    copy_async_commit();
    for (int tile = 0; tile < count; tile++) {
        int next = tile + 1;
        copy_async_wait<1>(); /* K of this tile */
        sync_block(); /* for all; and the other buffers are read no more */
        if (next < count)
            copy_rows<D, KEYS>(t->k[next & 1], k + tile_place(a, blocks, next, a.k_token, a.k_block), a.k_token, 0,
                               kv - next * KEYS);
        copy_async_commit();
        if (next < count)
            copy_rows<D, KEYS>(t->v[next & 1], v + tile_place(a, blocks, next, a.v_token, a.v_block), a.v_token, 0,
                               kv - next * KEYS);
        copy_async_commit();

        scores<D>(s, q, t->k[tile & 1]);
        mask_keys(s, tile * KEYS, kv);
        float shrink[2];
        soften(s, &r, shrink, a.scale_log2);
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                o[n][i] *= shrink[i / 2];
        copy_async_wait<2>(); /* V of this tile */
        sync_block();
        weigh<D>(o, s, t->v[tile & 1]);
    }
    copy_async_wait<0>();
    sync_block();
    int row = first + warp * 16;
    write_rows<D>(o, r, t->k[0] + warp * 16 * tiles<D>::STRIDE, a.y + batch * a.y_batch + row * a.y_token + head, a.y_token,
                  a.tokens - row);
}

/* ---- everything else --------------------------------------------------------------------------------------------- */

#define SLICE 8 /* output values of a lane at a time */

/* Where token j of a clip's keys or values begins. */
IMAGINE__INLINE int64_t plain_place(const imagine__cuda_attention_args &a, int64_t clip, int64_t j, int64_t batch, int64_t token,
                                    int64_t block)
{
    if (!a.kv_blocks)
        return clip * batch + j * token;
    return a.kv_blocks[clip * a.blocks_batch + j / a.kv_block] * block + j % a.kv_block * token;
}

/* Score of a query and this lane's key. */
IMAGINE__INLINE float plain_score(const imagine__cuda_attention_args &a, int64_t q, int64_t k)
{
    float sum = 0;
    for (int64_t i = 0; i < a.d; i++)
        sum += a.type == IMAGINE__W_F32 ? ((const float *)a.q)[q + i] * ((const float *)a.k)[k + i]
                                        : bf16_low(((const uint16_t *)a.q)[q + i]) * bf16_low(((const uint16_t *)a.k)[k + i]);
    return sum * a.scale;
}

IMAGINE__INLINE float warp_max(float x)
{
    for (unsigned i = 16; i; i /= 2)
        x = fmaxf(x, shuffle_xor(x, i));
    return x;
}

IMAGINE__INLINE float warp_sum(float x)
{
    for (unsigned i = 16; i; i /= 2)
        x += shuffle_xor(x, i);
    return x;
}

/* A warp takes one query, a lane one key at a time; then all lanes go through the 32 keys' values together. Outputs are
 * computed 32 * SLICE at a time, with the scores computed anew for each. */
__global__ void __launch_bounds__(128) plain_kernel(imagine__cuda_attention_args a)
{
    int64_t row = (int64_t)blockIdx.x * 4 + threadIdx.x / 32, head = blockIdx.y, batch = blockIdx.z, lane = threadIdx.x % 32;
    if (row >= a.tokens)
        return;
    int64_t kv = a.kv_length ? a.kv_length[batch] : a.kv;
    int64_t q = batch * a.q_batch + row * a.q_token + head * a.d, y = batch * a.y_batch + row * a.y_token + head * a.d;
    const float *bias = a.bias ? a.bias + (head * a.tokens + row) * a.kv : nullptr;
    for (int64_t slice = 0; slice < a.d; slice += 32 * SLICE) {
        float max = MINUS_INFINITY, sum = 0, o[SLICE] = {};
        for (int64_t first = 0; first < kv; first += 32) {
            int64_t key = first + lane;
            float s = MINUS_INFINITY;
            if (key < kv)
                s = plain_score(a, q, plain_place(a, batch, key, a.k_batch, a.k_token, a.k_block) + head * a.d) + (bias ? bias[key] : 0);
            float larger = fmaxf(max, warp_max(s)), base = larger == MINUS_INFINITY ? 0 : larger;
            float shrink = expf(max - base), p = expf(s - base);
            max = larger;
            sum = sum * shrink + warp_sum(p);
#pragma unroll
            for (int i = 0; i < SLICE; i++)
                o[i] *= shrink;
            for (int64_t j = 0; j < 32 && first + j < kv; j++) {
                float weight = shuffle(p, (unsigned)j);
                int64_t v = plain_place(a, batch, first + j, a.v_batch, a.v_token, a.v_block) + head * a.d + slice + lane;
#pragma unroll
                for (int i = 0; i < SLICE; i++)
                    if (slice + lane + 32 * i < a.d)
                        o[i] += weight * (a.type == IMAGINE__W_F32 ? ((const float *)a.v)[v + 32 * i]
                                                                   : bf16_low(((const uint16_t *)a.v)[v + 32 * i]));
            }
        }
#pragma unroll
        for (int i = 0; i < SLICE; i++) {
            int64_t at = slice + lane + 32 * i;
            if (at < a.d && a.type == IMAGINE__W_F32)
                ((float *)a.y)[y + at] = o[i] / sum;
            else if (at < a.d)
                ((uint16_t *)a.y)[y + at] = to_bf16(o[i] / sum);
        }
    }
}

/* ---- choice ------------------------------------------------------------------------------------------------------ */

template <int D> static int start(const imagine__cuda_attention_args *a, void *stream)
{
    tile_args t = {(const uint16_t *)a->q, (const uint16_t *)a->k, (const uint16_t *)a->v, (uint16_t *)a->y,
                   a->q_batch, a->q_token, a->k_batch, a->k_token, a->v_batch, a->v_token, a->y_batch, a->y_token,
                   a->kv_length, (int)a->tokens, (int)a->kv, a->scale * 1.44269504088896341f, (int)a->kv_block,
                   a->kv_blocks, a->blocks_batch, a->k_block, a->v_block};
    dim3 grid((unsigned)((a->tokens + ROWS - 1) / ROWS), (unsigned)a->heads, (unsigned)a->batch);
    return launch(attention_kernel<D>, grid, THREADS, sizeof(tiles<D>), stream, t);
}

bool imagine__cuda_on_tensor_cores(const imagine__cuda_attention_args *a)
{
    bool size = a->d == 64 || a->d == 80 || a->d == 96 || a->d == 128;
    static_assert(IMAGINE__CUDA_KV_BLOCK == KEYS, "a tile of keys lies in one block");
    if (a->kv_blocks && (a->kv_block % KEYS || a->kv_block >= 1 << 30 || a->k_block % 8 || a->v_block % 8))
        return false;
    return size && device_capability() >= 80 && a->type == IMAGINE__W_BF16 && !a->bias && a->scale > 0 &&
           a->tokens < 1 << 30 && a->kv < 1 << 30 && in_eights(a->q, a->q_batch, a->q_token) &&
           in_eights(a->k, a->k_batch, a->k_token) && in_eights(a->v, a->v_batch, a->v_token) && in_eights(a->y, a->y_batch, a->y_token);
}

/* The copy engine has no stride of 0, as of keys that all clips share; strips of queries are numbered in 32 bits. */
static bool for_hopper(const imagine__cuda_attention_args *a)
{
    bool strides = a->q_token && a->k_token && a->v_token && (a->batch == 1 || (a->q_batch && a->k_batch && a->v_batch));
    bool countable = a->heads <= 1 << 20 && a->batch <= 1 << 20 && (a->tokens / 128 + 1) * a->heads * a->batch < 1 << 30;
    return device_capability() == 90 && (a->d == 64 || a->d == 128) && strides && countable && !a->kv_blocks;
}

int imagine__cuda_attention(const imagine__cuda_attention_args *a, void *stream)
{
    if (a->batch <= 0 || a->heads <= 0 || a->tokens <= 0 || a->kv <= 0 || a->d <= 0)
        return 0;
    if (imagine__cuda_on_tensor_cores(a)) {
        if (for_hopper(a))
            return imagine__cuda_attention_hopper(a, stream);
        switch (a->d) {
        case 64:
            return start<64>(a, stream);
        case 80:
            return start<80>(a, stream);
        case 96:
            return start<96>(a, stream);
        case 128:
            return start<128>(a, stream);
        }
    }
    dim3 grid((unsigned)((a->tokens + 3) / 4), (unsigned)a->heads, (unsigned)a->batch);
    return launch(plain_kernel, grid, 128, 0, stream, *a);
}
