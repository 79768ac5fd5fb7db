/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/internal.cuh"
#include "kernels/cuda/softmax.cuh"

/* Attention in f32 with f32's precision, for heads of up to 128 in vectors of four. A block of four warps takes 64 queries of a head
 * and walks over the keys, 32 at a time; scores are nowhere written. A thread has rows ty, ty + 8, ..., of the scores columns tx and
 * tx + 16, of the output 4 tx to 4 tx + 3 and as many 64 further on, so that what a warp reads together lies in different banks. Lanes
 * 2 i and 2 i + 1 have the same tx, i and i + 2 the same ty: so much the fewer turns does shared memory take for loads of 16 bytes. Q stays
 * in shared memory; K's copy is under way while the tile before meets V, V's while this one's scores are computed. The softmax runs
 * along as in attention.cu, but in exponentials of e and of the scores themselves: nothing bounds how large they may be. A tile's part of
 * the output is summed up by itself before it meets the rest: short chains of additions lose less. */

#define THREADS 128
#define QUERIES 64
#define KEYS 32
#define ROWS 8 /* of a thread, THREADS / 16 apart */
#define WEIGHTS_STRIDE (KEYS + 16)

template <int D> struct tiles {
    static constexpr int STRIDE = D + 4; /* rows side by side begin in different banks */
    float q[QUERIES * STRIDE], k[KEYS * STRIDE], v[KEYS * D], p[QUERIES * WEIGHTS_STRIDE];
};

struct f32_args {
    const float *q, *k, *v;
    float *y;
    int64_t q_batch, q_token, k_batch, k_token, v_batch, v_token, y_batch, y_token;
    const int64_t *kv_length;
    const float *bias;
    int tokens, kv, d;
    float scale;
};

/* Rows first.. to shared memory; those from `end` on, and values behind the head's, become zeros. A thread has the same four values of
 * every so many rows. */
template <int D, int COUNT>
IMAGINE__INLINE void copy_rows(float *to, int to_stride, const float *from, int64_t token, int first, int end, int d)
{
    constexpr int CHUNKS = D / 4, APART = THREADS / CHUNKS;
    int row = (int)threadIdx.x / CHUNKS, value = (int)threadIdx.x % CHUNKS * 4;
    const float *at = from + (first + row) * token + value;
    to += row * to_stride + value;
    end = value < d ? end - first - row : 0; /* of this thread's */
#pragma unroll
    for (int i = 0; i < COUNT; i += APART) {
        copy_async(to + i * to_stride, i < end ? at : from, i < end ? 16 : 0);
        at += APART * token;
    }
}

/* s = Q K^T of this thread. */
template <int D> IMAGINE__INLINE void scores(float (&s)[ROWS][2], const float *q, const float *k, int d)
{
#pragma unroll
    for (int i = 0; i < ROWS; i++)
        s[i][0] = s[i][1] = 0;
#pragma unroll 1
    for (int first = 0; first < d; first += 16)
#pragma unroll
        for (int at = first; at < first + 16; at += 4) {
            float4 left = *(const float4 *)(k + at), right = *(const float4 *)(k + 16 * tiles<D>::STRIDE + at);
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                float4 f = *(const float4 *)(q + 8 * i * tiles<D>::STRIDE + at);
                s[i][0] += f.x * left.x, s[i][1] += f.x * right.x;
                s[i][0] += f.y * left.y, s[i][1] += f.y * right.y;
                s[i][0] += f.z * left.z, s[i][1] += f.z * right.z;
                s[i][0] += f.w * left.w, s[i][1] += f.w * right.w;
            }
        }
}

/* Over the 16 lanes of a row. */
IMAGINE__INLINE float largest_of_row(float x)
{
#pragma unroll
    for (unsigned i = 16; i > 1; i /= 2)
        x = fmaxf(x, shuffle_xor(x, i));
    return x;
}

IMAGINE__INLINE float sum_of_row(float x)
{
#pragma unroll
    for (unsigned i = 16; i > 1; i /= 2)
        x += shuffle_xor(x, i);
    return x;
}

/* The tile's part of the output. */
template <int D> IMAGINE__INLINE void weigh(float (&part)[ROWS][D / 16], const float *p, const float *v)
{
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int c = 0; c < D / 16; c++)
            part[i][c] = 0;
#pragma unroll 1
    for (int key = 0; key < KEYS; key += 4) {
        float4 weight[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            weight[i] = *(const float4 *)(p + 8 * i * WEIGHTS_STRIDE + key);
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int c = 0; c < D / 16; c += 4) {
                float4 f = *(const float4 *)(v + (key + j) * D + c * 16);
#pragma unroll
                for (int i = 0; i < ROWS; i++) {
                    float w = j == 0 ? weight[i].x : j == 1 ? weight[i].y : j == 2 ? weight[i].z : weight[i].w;
                    part[i][c] += w * f.x, part[i][c + 1] += w * f.y, part[i][c + 2] += w * f.z, part[i][c + 3] += w * f.w;
                }
            }
    }
}

template <int D, bool BIAS> __global__ void __launch_bounds__(THREADS, 2) f32_kernel(f32_args a)
{
    tiles<D> *t = (tiles<D> *)dynamic_shared();
    int tx = (int)threadIdx.x / 2 % 16, ty = (int)threadIdx.x / 32 * 2 + (int)threadIdx.x % 2, first = (int)blockIdx.x * QUERIES, d = a.d;
    int64_t batch = blockIdx.z, head = (int64_t)blockIdx.y * d;
    int kv = a.kv_length ? (int)a.kv_length[batch] : a.kv, count = (kv + KEYS - 1) / KEYS;
    const float *k = a.k + batch * a.k_batch + head, *v = a.v + batch * a.v_batch + head;
    const float *bias = BIAS ? a.bias + ((int64_t)blockIdx.y * a.tokens + first + ty) * a.kv + tx : nullptr;
    int rows = a.tokens - first - ty;
    float o[ROWS][D / 16] = {}, max[ROWS], sum[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++)
        max[i] = MINUS_INFINITY, sum[i] = 0;

    copy_rows<D, QUERIES>(t->q, tiles<D>::STRIDE, a.q + batch * a.q_batch + head, a.q_token, first, a.tokens, d);
    copy_rows<D, KEYS>(t->k, tiles<D>::STRIDE, k, a.k_token, 0, kv, d);
    copy_async_commit();
    for (int tile = 0; tile < count; tile++) {
        int key = tile * KEYS;
        float s[ROWS][2], part[ROWS][D / 16], shrink[ROWS];
        copy_async_wait<0>(); /* K of this tile */
        sync_block(); /* for all; and the last V is read no more */
        copy_rows<D, KEYS>(t->v, D, v, a.v_token, key, kv, d);
        copy_async_commit();
        scores<D>(s, t->q + ty * tiles<D>::STRIDE, t->k + tx * tiles<D>::STRIDE, d);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                bool there = key + tx + 16 * j < kv;
                float more = BIAS && there && i * 8 < rows ? bias[i * 8 * (int64_t)a.kv + 16 * j] : 0;
                s[i][j] = there ? s[i][j] * a.scale + more : MINUS_INFINITY;
            }
            float larger = fmaxf(max[i], largest_of_row(fmaxf(s[i][0], s[i][1]))); /* passes over a NaN, whose weight is one */
            float base = larger == MINUS_INFINITY ? 0 : larger;
            shrink[i] = expf(max[i] - base);
            max[i] = larger;
            sum[i] *= shrink[i];
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float p = expf(s[i][j] - base);
                t->p[(ty + 8 * i) * WEIGHTS_STRIDE + tx + 16 * j] = p;
                sum[i] += p;
            }
        }
        copy_async_wait<0>(); /* V of this tile */
        sync_block(); /* for all, and the weights; and K is read no more */
        if (tile + 1 < count)
            copy_rows<D, KEYS>(t->k, tiles<D>::STRIDE, k, a.k_token, key + KEYS, kv, d);
        copy_async_commit();
        bias += BIAS ? KEYS : 0;
        weigh<D>(part, t->p + ty * WEIGHTS_STRIDE, t->v + tx * 4);
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int c = 0; c < D / 16; c++)
                o[i][c] = o[i][c] * shrink[i] + part[i][c];
    }
    copy_async_wait<0>();
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        float factor = 1 / sum_of_row(sum[i]);
        float *y = a.y + batch * a.y_batch + (first + ty + 8 * i) * a.y_token + head;
#pragma unroll
        for (int c = 0; c < D / 16; c += 4)
            if (first + ty + 8 * i < a.tokens && tx * 4 + c * 16 < d)
                *(float4 *)(y + tx * 4 + c * 16) =
                    float4{o[i][c] * factor, o[i][c + 1] * factor, o[i][c + 2] * factor, o[i][c + 3] * factor};
    }
}

static bool in_vectors(const void *p, int64_t batch, int64_t token)
{
    return in_fours(p, IMAGINE__W_F32, batch) && token % 4 == 0;
}

bool imagine__cuda_attends_f32(const imagine__attention_args *a)
{
    const int64_t most = 0x3fffffff;
    return a->type == IMAGINE__W_F32 && !a->kv_blocks && a->d <= 128 && a->d % 4 == 0 && a->tokens <= most && a->kv <= most &&
           a->heads <= 65535 && a->batch <= 65535 && in_vectors(a->q, a->q_batch, a->q_token) &&
           in_vectors(a->k, a->k_batch, a->k_token) && in_vectors(a->v, a->v_batch, a->v_token) &&
           in_vectors(a->y, a->y_batch, a->y_token);
}

template <int D> static int start(const f32_args &f, const imagine__attention_args *a, void *stream)
{
    dim3 grid((unsigned)((a->tokens + QUERIES - 1) / QUERIES), (unsigned)a->heads, (unsigned)a->batch);
    return launch(f.bias ? f32_kernel<D, true> : f32_kernel<D, false>, grid, THREADS, sizeof(tiles<D>), stream, f);
}

int imagine__cuda_attention_f32(const imagine__attention_args *a, void *stream)
{
    f32_args f = {(const float *)a->q, (const float *)a->k, (const float *)a->v, (float *)a->y, a->q_batch, a->q_token, a->k_batch,
                  a->k_token, a->v_batch, a->v_token, a->y_batch, a->y_token, a->kv_length, a->bias, (int)a->tokens, (int)a->kv,
                  (int)a->d, a->scale};
    return a->d <= 64 ? start<64>(f, a, stream) : start<128>(f, a, stream);
}
