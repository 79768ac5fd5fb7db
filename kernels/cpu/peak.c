/* SPDX-License-Identifier: MIT */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vec.h"

/* Twelve sums, as many as a product keeps, so that no multiply-add waits for another. */
#define SUMS 12

int64_t IMAGINE__ISA(multiply_add)(int64_t steps, float *out)
{
    if (steps <= 0)
        return 2 * SUMS * VEC_LANES;
    vec a = vec_set1(0.999999f), b = vec_set1(1e-7f);
    vec s0 = b, s1 = b, s2 = b, s3 = b, s4 = b, s5 = b, s6 = b, s7 = b, s8 = b, s9 = b, s10 = b, s11 = b;
    for (int64_t i = 0; i < steps; i++) {
        s0 = vec_fma(s0, a, b);
        s1 = vec_fma(s1, a, b);
        s2 = vec_fma(s2, a, b);
        s3 = vec_fma(s3, a, b);
        s4 = vec_fma(s4, a, b);
        s5 = vec_fma(s5, a, b);
        s6 = vec_fma(s6, a, b);
        s7 = vec_fma(s7, a, b);
        s8 = vec_fma(s8, a, b);
        s9 = vec_fma(s9, a, b);
        s10 = vec_fma(s10, a, b);
        s11 = vec_fma(s11, a, b);
        /* else the compiler sees twelve times the same sum */
        __asm__ volatile("" : "+x"(s0), "+x"(s1), "+x"(s2), "+x"(s3), "+x"(s4), "+x"(s5));
        __asm__ volatile("" : "+x"(s6), "+x"(s7), "+x"(s8), "+x"(s9), "+x"(s10), "+x"(s11));
    }
    vec sum = vec_add(vec_add(vec_add(s0, s1), vec_add(s2, s3)), vec_add(vec_add(s4, s5), vec_add(s6, s7)));
    vec_store(out, vec_add(sum, vec_add(vec_add(s8, s9), vec_add(s10, s11))));
    return 2 * SUMS * VEC_LANES;
}
