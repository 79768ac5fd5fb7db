/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CPU_H
#define IMAGINE_KERNELS_CPU_H

/* The x86-64 operations, one set per instruction set level. kernels.h says what each one computes; cpu.c makes the
 * tables. The files behind a set are compiled for that set alone, so they may share static functions only: an inline
 * function with a symbol of its own could be the copy that the linker keeps for everybody. */

#include "kernels/kernels.h"

/* AVX2, FMA, F16C. */
size_t imagine__avx2_linear_packed_size(int64_t n, int64_t k, imagine__wtype type);
void imagine__avx2_pack_linear(void *packed, const void *rows, int64_t first, int64_t count, int64_t n, int64_t k,
                               imagine__wtype type);
size_t imagine__avx2_conv_packed_size(int64_t cout, int64_t cin, int32_t kt, int32_t kh, int32_t kw,
                                      imagine__wtype type);
void imagine__avx2_pack_conv(void *packed, const void *weight, int64_t cout, int64_t cin, int32_t kt, int32_t kh,
                             int32_t kw, imagine__wtype type);
void imagine__avx2_linear(imagine__run *run, const imagine__linear_args *args);
void imagine__avx2_conv(imagine__run *run, const imagine__conv_args *args);
void imagine__avx2_attention(imagine__run *run, const imagine__attention_args *args);
void imagine__avx2_norm(imagine__run *run, const imagine__norm_args *args);
void imagine__avx2_norm_rope(imagine__run *run, const imagine__norm_rope_args *args);
void imagine__avx2_patchify(imagine__run *run, const imagine__patch_args *args);
void imagine__avx2_unpatchify(imagine__run *run, const imagine__patch_args *args);
void imagine__avx2_activate(imagine__run *run, const float *x, float *y, int64_t n, imagine__act act);
void imagine__avx2_embed(imagine__run *run, const void *table, imagine__wtype type, const int32_t *ids, int64_t count,
                         int64_t dim, float *y);
void imagine__avx2_combine(imagine__run *run, int32_t terms, const float *coefficient, const float *const *x, float *y,
                           int64_t n);
void imagine__avx2_transpose(imagine__run *run, const float *x, float *y, int64_t rows, int64_t columns);
int imagine__avx2_finite(imagine__run *run, const float *x, int64_t n);
void imagine__avx2_to_u8(imagine__run *run, const float *x, uint8_t *y, int64_t n);
void imagine__avx2_from_u8(imagine__run *run, const uint8_t *x, float *y, int64_t n);
int64_t imagine__avx2_multiply_add(int64_t steps, float *out);

/* AVX-512 F, BW, DQ, VL. */
size_t imagine__avx512_linear_packed_size(int64_t n, int64_t k, imagine__wtype type);
void imagine__avx512_pack_linear(void *packed, const void *rows, int64_t first, int64_t count, int64_t n, int64_t k,
                                 imagine__wtype type);
size_t imagine__avx512_conv_packed_size(int64_t cout, int64_t cin, int32_t kt, int32_t kh, int32_t kw,
                                        imagine__wtype type);
void imagine__avx512_pack_conv(void *packed, const void *weight, int64_t cout, int64_t cin, int32_t kt, int32_t kh,
                               int32_t kw, imagine__wtype type);
void imagine__avx512_linear(imagine__run *run, const imagine__linear_args *args);
void imagine__avx512_conv(imagine__run *run, const imagine__conv_args *args);
void imagine__avx512_attention(imagine__run *run, const imagine__attention_args *args);
void imagine__avx512_norm(imagine__run *run, const imagine__norm_args *args);
void imagine__avx512_norm_rope(imagine__run *run, const imagine__norm_rope_args *args);
void imagine__avx512_patchify(imagine__run *run, const imagine__patch_args *args);
void imagine__avx512_unpatchify(imagine__run *run, const imagine__patch_args *args);
void imagine__avx512_activate(imagine__run *run, const float *x, float *y, int64_t n, imagine__act act);
void imagine__avx512_embed(imagine__run *run, const void *table, imagine__wtype type, const int32_t *ids, int64_t count,
                           int64_t dim, float *y);
void imagine__avx512_combine(imagine__run *run, int32_t terms, const float *coefficient, const float *const *x,
                             float *y, int64_t n);
void imagine__avx512_transpose(imagine__run *run, const float *x, float *y, int64_t rows, int64_t columns);
int imagine__avx512_finite(imagine__run *run, const float *x, int64_t n);
void imagine__avx512_to_u8(imagine__run *run, const float *x, uint8_t *y, int64_t n);
void imagine__avx512_from_u8(imagine__run *run, const uint8_t *x, float *y, int64_t n);
int64_t imagine__avx512_multiply_add(int64_t steps, float *out);

/* AVX512-BF16 besides: products with weights of bf16. */
size_t imagine__avx512bf16_linear_packed_size(int64_t n, int64_t k, imagine__wtype type);
void imagine__avx512bf16_pack_linear(void *packed, const void *rows, int64_t first, int64_t count, int64_t n, int64_t k,
                                     imagine__wtype type);
void imagine__avx512bf16_linear(imagine__run *run, const imagine__linear_args *args);

/* The same with AMX-BF16. The process must have been permitted to use its registers. */
size_t imagine__amx_linear_packed_size(int64_t n, int64_t k, imagine__wtype type);
void imagine__amx_pack_linear(void *packed, const void *rows, int64_t first, int64_t count, int64_t n, int64_t k, imagine__wtype type);
void imagine__amx_linear(imagine__run *run, const imagine__linear_args *args);
void imagine__amx_attention(imagine__run *run, const imagine__attention_args *args);

/* The table of AVX-512 that is so `tall`, 0 to 2, whatever suits the processor. */
const imagine__kernels *imagine__kernels_avx512(int tall);

/* For measuring: `steps` rounds of multiply-adds on registers with the table's instruction set. Returns the operations of
 * one round. `out` holds 16 floats. 0 steps: nothing is computed. */
int64_t imagine__cpu_multiply_add(const imagine__kernels *kernels, int64_t steps, float *out);

#endif
