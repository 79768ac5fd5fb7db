/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CUDA_SOFTMAX_CUH
#define IMAGINE_KERNELS_CUDA_SOFTMAX_CUH

#include "kernels/cuda/primitives.cuh"

/* The running softmax of a tile of scores as the tensor cores leave them: a lane has a part of two rows, s[4 n + 2 h + e]
 * being row h, key 8 n + 2 (lane % 4) + e; the four lanes of a quad share the rows. In powers of two, with the scale folded
 * in: c = scale log2 e. */

#define MINUS_INFINITY bits_float(0xff800000u)

/* Largest score and sum of weights of the two rows; the sum is of this lane's columns. */
struct running {
    float max[2], sum[2];
};

/* Scores of keys from `end` on do not count; the tile's first key is `first`. */
template <int N> IMAGINE__INLINE void mask_keys(float (&s)[N], int first, int end)
{
    if (first + 2 * N <= end)
        return;
    int key = first + (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < N; i++)
        s[i] = key + i / 4 * 8 + i % 2 < end ? s[i] : MINUS_INFINITY;
}

/* s becomes the weights; shrink is what the sums so far are to be multiplied by. It is the power of the difference of two products
 * that are rounded alike: 1 where the maximum stays, at scores of any size. Fused, it would be that of the rounding's error, tile
 * after tile. What the weights have of that error they all have alike, and the division at the end takes it out. */
template <int N> IMAGINE__INLINE void soften(float (&s)[N], running *r, float (&shrink)[2], float c)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float max = r->max[h];
#pragma unroll
        for (int n = 0; n < N; n += 4)
            max = fmaxf(max, fmaxf(s[n + 2 * h], s[n + 2 * h + 1])); /* passes over a NaN, whose weight is one */
        max = fmaxf(max, shuffle_xor(max, 1));
        max = fmaxf(max, shuffle_xor(max, 2));
        float base = max == MINUS_INFINITY ? 0 : multiply(max, c), sum = 0; /* no score yet: all weights are 0 */
        shrink[h] = exp2_fast(multiply(r->max[h], c) - base);
#pragma unroll
        for (int n = 0; n < N; n += 4)
#pragma unroll
            for (int i = n + 2 * h; i < n + 2 * h + 2; i++) {
                s[i] = exp2_fast(multiply_add(s[i], c, -base));
                sum += s[i];
            }
        r->max[h] = max;
        r->sum[h] = r->sum[h] * shrink[h] + sum;
    }
}

/* What the two rows are divided by at the end. */
IMAGINE__INLINE void sum_factors(const float (&sums)[2], float (&factor)[2])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = sums[h] + shuffle_xor(sums[h], 1);
        factor[h] = 1.0f / (sum + shuffle_xor(sum, 2));
    }
}

/* Weights 8 i to 8 i + 7 of a lane, 16 keys, as the left operand of a product. */
template <int N> IMAGINE__INLINE void pack_weights(uint32_t (&p)[4], const float (&s)[N], int i)
{
#pragma unroll
    for (int j = 0; j < 4; j++)
        p[j] = pack_bf16(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
}

/* Lane i of four gets what each of them has at i: a 4x4 matrix turned round. */
IMAGINE__INLINE void transpose_quad(uint32_t (&x)[4])
{
#pragma unroll
    for (int step = 1; step <= 2; step *= 2) {
        bool upper = threadIdx.x & (unsigned)step;
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (!(i & step)) {
                uint32_t other = float_bits(shuffle_xor(bits_float(upper ? x[i] : x[i + step]), (unsigned)step));
                x[i] = upper ? other : x[i];
                x[i + step] = upper ? x[i + step] : other;
            }
    }
}

#endif
