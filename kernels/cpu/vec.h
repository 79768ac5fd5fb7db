/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_VEC_H
#define IMAGINE_KERNELS_VEC_H

/* Vectors of f32 in the instruction set that the file is compiled for: 8 lanes with AVX2, 16 with AVX-512. Everything
 * here is static, as cpu.h explains. IMAGINE__ISA(linear) is the name of this instruction set's linear(). */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

#define VEC static inline __attribute__((always_inline, unused))

#ifdef __AVX512F__
#define IMAGINE__ISA(name) imagine__avx512_##name
#define VEC_LANES 16
typedef __m512 vec;
typedef __mmask16 vec_mask; /* of the lanes that vec_load_n and vec_store_n touch */

VEC vec vec_set1(float x) { return _mm512_set1_ps(x); }
VEC vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
VEC void vec_store(float *p, vec x) { _mm512_storeu_ps(p, x); }
VEC vec_mask vec_first(int64_t n) { return (vec_mask)(n >= 16 ? 0xffff : (1u << n) - 1); }
VEC vec vec_load_n(const float *p, vec_mask m) { return _mm512_maskz_loadu_ps(m, p); }
VEC void vec_store_n(float *p, vec_mask m, vec x) { _mm512_mask_storeu_ps(p, m, x); }
VEC vec vec_keep(vec_mask m, vec x) { return _mm512_maskz_mov_ps(m, x); } /* 0 in the other lanes */
VEC vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
VEC vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
VEC vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
VEC vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
VEC vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); } /* a b + c */
VEC vec vec_fnma(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
VEC vec vec_min(vec a, vec b) { return _mm512_min_ps(a, b); } /* b where either is a NaN */
VEC vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); } /* b where either is a NaN */
VEC vec vec_sqrt(vec a) { return _mm512_sqrt_ps(a); }
VEC vec vec_round(vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
VEC vec vec_abs(vec a) { return _mm512_abs_ps(a); }
/* x where a < 0, else y */
VEC vec vec_if_negative(vec a, vec x, vec y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_LT_OQ), y, x);
}
VEC vec vec_scale2(vec x, vec n) { return _mm512_scalef_ps(x, n); } /* x 2^n, n whole in -252..254 */
/* 16 (8) bf16 values widened. */
VEC vec vec_load_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
VEC float vec_sum(vec a)
{
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
VEC float vec_largest(vec a)
{
    __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
#else
#define IMAGINE__ISA(name) imagine__avx2_##name
#define VEC_LANES 8
typedef __m256 vec;
typedef __m256i vec_mask; /* of the lanes that vec_load_n and vec_store_n touch */

VEC vec vec_set1(float x) { return _mm256_set1_ps(x); }
VEC vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
VEC void vec_store(float *p, vec x) { _mm256_storeu_ps(p, x); }
VEC vec_mask vec_first(int64_t n)
{
    int32_t count = n > 8 ? 8 : (int32_t)n;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VEC vec vec_load_n(const float *p, vec_mask m) { return _mm256_maskload_ps(p, m); }
VEC void vec_store_n(float *p, vec_mask m, vec x) { _mm256_maskstore_ps(p, m, x); }
VEC vec vec_keep(vec_mask m, vec x) { return _mm256_and_ps(_mm256_castsi256_ps(m), x); } /* 0 in the other lanes */
VEC vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
VEC vec vec_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
VEC vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
VEC vec vec_div(vec a, vec b) { return _mm256_div_ps(a, b); }
VEC vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); } /* a b + c */
VEC vec vec_fnma(vec a, vec b, vec c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a b */
VEC vec vec_min(vec a, vec b) { return _mm256_min_ps(a, b); } /* b where either is a NaN */
VEC vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); } /* b where either is a NaN */
VEC vec vec_sqrt(vec a) { return _mm256_sqrt_ps(a); }
VEC vec vec_round(vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
VEC vec vec_abs(vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
/* x where a < 0, else y */
VEC vec vec_if_negative(vec a, vec x, vec y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_LT_OQ));
}
/* x 2^n, n whole in -252..254: in two steps, as one factor alone would leave the range of normal numbers. */
VEC vec vec_scale2(vec x, vec n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half);
    __m256i bias = _mm256_set1_epi32(127);
    vec a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    vec b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(x, a), b);
}
/* 8 bf16 values widened. */
VEC vec vec_load_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
VEC float vec_sum(vec a)
{
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
VEC float vec_largest(vec a)
{
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
#endif

VEC vec vec_zero(void) { return vec_set1(0.0f); }

/* x, in a register from here on: else the compiler may load it anew for every use. */
VEC vec vec_in_register(vec x)
{
    __asm__("" : "+v"(x));
    return x;
}

/* Asks for a cache line, into the second level. Not _mm_prefetch: GCC 12 takes a function of nothing else for one without
 * effect and leaves it out. */
VEC void vec_prefetch(const void *p) { __asm__ volatile("prefetcht1 %0" : : "m"(*(const char *)p)); }

/* Asks for a cache line, into the first level. */
VEC void vec_prefetch_first(const void *p) { __asm__ volatile("prefetcht0 %0" : : "m"(*(const char *)p)); }

/* n floats. */
VEC void vec_copy(float *to, const float *from, int64_t n)
{
    int64_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES)
        vec_store(to + i, vec_load(from + i));
#if VEC_LANES == 16
    if (i < n)
        vec_store_n(to + i, vec_first(n - i), vec_load_n(from + i, vec_first(n - i)));
#else
    if (i < n && n >= VEC_LANES) { /* the last whole vector again: a masked store is slower */
        vec_store(to + n - VEC_LANES, vec_load(from + n - VEC_LANES));
        return;
    }
    for (; i + 4 <= n; i += 4)
        _mm_storeu_ps(to + i, _mm_loadu_ps(from + i));
    for (; i < n; i++)
        to[i] = from[i];
#endif
}

VEC void vec_clear(float *to, int64_t n)
{
    int64_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES)
        vec_store(to + i, vec_zero());
    for (; i < n; i++) {
        to[i] = 0;
        __asm__ volatile("" : : : "memory"); /* else it becomes a call of memset, for a few values */
    }
}

/* Four bf16 values widened. */
VEC __m128 vec_load_four_bf16(const uint16_t *p)
{
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)p)), 16));
}

VEC float vec_bf16(uint16_t x)
{
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128((int)((uint32_t)x << 16))));
}

/* The first `count` of four floats; zeros for the others. */
VEC __m128 vec_load_few(const float *p, int64_t count)
{
    if (count >= 4)
        return _mm_loadu_ps(p);
    __m128 x = count >= 2 ? _mm_loadl_pi(_mm_setzero_ps(), (const __m64 *)p) : _mm_setzero_ps();
    if (count == 3)
        return _mm_movelh_ps(x, _mm_load_ss(p + 2));
    return count == 1 ? _mm_load_ss(p) : x;
}

VEC void vec_store_few(float *p, __m128 x, int64_t count)
{
    if (count >= 4) {
        _mm_storeu_ps(p, x);
        return;
    }
    if (count >= 2) {
        _mm_storel_pi((__m64 *)p, x);
        x = _mm_movehl_ps(x, x);
    }
    if (count & 1)
        _mm_store_ss(p + (count & 2), x);
}

/* to[j][i] = from[i][j] for i, j in 0..7. */
VEC void vec_transpose_8x8(const float *from, int64_t from_stride, float *to, int64_t to_stride)
{
    __m256 x[8], y[8];
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        const float *a = from + i * from_stride, *b = from + (i + 4) * from_stride;
        x[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(b), 1);
        x[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a + 4)), _mm_loadu_ps(b + 4), 1);
    }
    _Pragma("GCC unroll 4") for (int i = 0; i < 8; i += 2) {
        y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    _Pragma("GCC unroll 2") for (int i = 0; i < 8; i += 4, to += 4 * to_stride) {
        _mm256_storeu_ps(to, _mm256_shuffle_ps(y[i], y[i + 2], 0x44));
        _mm256_storeu_ps(to + to_stride, _mm256_shuffle_ps(y[i], y[i + 2], 0xee));
        _mm256_storeu_ps(to + 2 * to_stride, _mm256_shuffle_ps(y[i + 1], y[i + 3], 0x44));
        _mm256_storeu_ps(to + 3 * to_stride, _mm256_shuffle_ps(y[i + 1], y[i + 3], 0xee));
    }
}

/* e^x = 2^n times what this gives, for x in -104.5..89.5 or a NaN. */
VEC vec vec_exp_part(vec x, vec *n)
{
    *n = vec_round(vec_mul(x, vec_set1(1.44269504f)));
    /* r = x - n ln 2, the logarithm in two parts of which the first has few bits */
    vec r = vec_fnma(*n, vec_set1(1.42860677e-6f), vec_fnma(*n, vec_set1(0.693145752f), x));
    vec p = vec_fma(r, vec_set1(1.392617611e-3f), vec_set1(8.363173075e-3f));
    p = vec_fma(p, r, vec_set1(4.166655466e-2f));
    p = vec_fma(p, r, vec_set1(1.666657703e-1f));
    p = vec_fma(p, r, vec_set1(0.5f));
    return vec_add(vec_fma(vec_mul(r, r), p, r), vec_set1(1.0f));
}

/* e^x to about one unit in the last place: 0 below -104, infinite above 89, a NaN of a NaN. */
VEC vec vec_exp(vec x)
{
    vec n, p = vec_exp_part(vec_max(vec_set1(-104.5f), vec_min(vec_set1(89.5f), x)), &n);
    return vec_scale2(p, n);
}

/* 2^x for x <= 0 to about one unit in the last place: 0 below -126, a NaN of a NaN. 2^r, r = x - floor(x), is a polynomial
 * of relative error 2e-9. */
VEC vec vec_exp2_negative(vec x)
{
    static const float c[] = {2.161291777e-4f, 1.246784581e-3f, 9.675451554e-3f, 5.548528209e-2f, 2.402293086e-1f,
                              6.931470633e-1f, 1.0f};
    const vec least = vec_set1(-126.0f);
#ifdef __AVX512F__
    vec r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#else
    vec inside = vec_max(least, x);
    vec n = _mm256_round_ps(inside, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), r = vec_sub(inside, n);
#endif
    vec p = vec_set1(c[0]);
    for (int i = 1; i < 7; i++)
        p = vec_fma(p, r, vec_set1(c[i]));
#ifdef __AVX512F__
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ), p, x); /* scalef takes the floor itself */
#else
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23));
    return _mm256_and_ps(_mm256_castsi256_ps(bits), _mm256_cmp_ps(x, least, _CMP_NLT_UQ));
#endif
}

/* x / (1 + e^-x) */
VEC vec vec_silu(vec x)
{
    return vec_div(x, vec_add(vec_set1(1.0f), vec_exp(vec_sub(vec_zero(), x))));
}

/* 0.5 x (1 + tanh(u)) = x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3) */
VEC vec vec_gelu_tanh(vec x)
{
    vec inner = vec_fma(vec_mul(vec_mul(x, x), vec_set1(0.044715f)), x, x);
    vec e = vec_exp(vec_mul(inner, vec_set1(-1.595769122f)));
    return vec_div(x, vec_add(vec_set1(1.0f), e));
}

/* 0.5 x erfc(-x / sqrt 2). erfc(z) = e^(-z z) t g(t), t = 1 / (1 + 0.4 z) for z >= 0; g is a polynomial fitted at
 * Chebyshev's nodes to a relative error of 6e-9. */
VEC vec vec_gelu_erf(vec x)
{
    static const float g[] = {-2.337110919e-2f, 1.078259019e-1f, -1.563581363e-1f, 2.795456245e-2f,
                              4.857327019e-2f, 2.950237046e-2f, 1.394604045e-1f, 1.667594251e-1f,
                              2.083617701e-1f, 2.256135200e-1f, 2.256780186e-1f};
    vec z = vec_abs(vec_mul(x, vec_set1(0.707106781f)));
    vec t = vec_div(vec_set1(1.0f), vec_fma(z, vec_set1(0.4f), vec_set1(1.0f)));
    vec p = vec_set1(g[0]);
    for (int i = 1; i < 11; i++)
        p = vec_fma(p, t, vec_set1(g[i]));
    vec half = vec_mul(vec_mul(vec_set1(0.5f), vec_mul(p, t)), vec_exp(vec_sub(vec_zero(), vec_mul(z, z))));
    return vec_mul(x, vec_if_negative(x, half, vec_sub(vec_set1(1.0f), half)));
}

VEC vec vec_act(vec x, imagine__act act)
{
    switch (act) {
    case IMAGINE__ACT_GELU_TANH:
        return vec_gelu_tanh(x);
    case IMAGINE__ACT_GELU_ERF:
        return vec_gelu_erf(x);
    case IMAGINE__ACT_SILU:
        return vec_silu(x);
    default:
        return x;
    }
}

#endif
