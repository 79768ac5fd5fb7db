/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_REF_H
#define IMAGINE_KERNELS_REF_H

/* The plain C operations: the specification that every other version is held to. kernels.h says what they compute. */

#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

size_t imagine__ref_linear_packed_size(int64_t n, int64_t k, imagine__wtype type);
void imagine__ref_pack_linear(void *packed, const void *rows, int64_t first, int64_t count, int64_t n, int64_t k,
                              imagine__wtype type);
size_t imagine__ref_conv_packed_size(int64_t cout, int64_t cin, int32_t kt, int32_t kh, int32_t kw,
                                     imagine__wtype type);
void imagine__ref_pack_conv(void *packed, const void *weight, int64_t cout, int64_t cin, int32_t kt, int32_t kh,
                            int32_t kw, imagine__wtype type);
void imagine__ref_linear(imagine__run *run, const imagine__linear_args *args);
void imagine__ref_conv(imagine__run *run, const imagine__conv_args *args);
void imagine__ref_attention(imagine__run *run, const imagine__attention_args *args);
void imagine__ref_norm(imagine__run *run, const imagine__norm_args *args);
void imagine__ref_norm_rope(imagine__run *run, const imagine__norm_rope_args *args);
void imagine__ref_patchify(imagine__run *run, const imagine__patch_args *args);
void imagine__ref_unpatchify(imagine__run *run, const imagine__patch_args *args);
void imagine__ref_shortcut_down(imagine__run *run, const imagine__shortcut_args *args);
void imagine__ref_shortcut_up(imagine__run *run, const imagine__shortcut_args *args);
void imagine__ref_modulate(imagine__run *run, const imagine__modulate_args *args);
void imagine__ref_relative_bias(imagine__run *run, const imagine__relative_bias_args *args);
void imagine__ref_pixels(imagine__run *run, const imagine__pixels_args *args);
void imagine__ref_activate(imagine__run *run, const float *x, float *y, int64_t n, imagine__act act);
void imagine__ref_embed(imagine__run *run, const void *table, imagine__wtype type, const int32_t *ids, int64_t count,
                        int64_t dim, float *y);
void imagine__ref_combine(imagine__run *run, int32_t terms, const float *coefficient, const float *const *x, float *y,
                          int64_t n);
void imagine__ref_keep(imagine__run *run, const imagine__keep_args *args);
void imagine__ref_spread(imagine__run *run, const float *x, int64_t rows, int64_t n, double *y);
void imagine__ref_rescale(imagine__run *run, float *x, int64_t rows, int64_t n, const double *from, const double *to,
                          double share);
void imagine__ref_transpose(imagine__run *run, const float *x, float *y, int64_t rows, int64_t columns);
int imagine__ref_finite(imagine__run *run, const float *x, int64_t n);
void imagine__ref_to_u8(imagine__run *run, const float *x, uint8_t *y, int64_t n);
void imagine__ref_from_u8(imagine__run *run, const uint8_t *x, float *y, int64_t n);

static inline float imagine__bf16_to_f32(uint16_t value)
{
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* Element i of a weight array. */
static inline float imagine__weight_at(const void *weight, imagine__wtype type, int64_t i)
{
    return type == IMAGINE__W_BF16 ? imagine__bf16_to_f32(((const uint16_t *)weight)[i]) : ((const float *)weight)[i];
}

static inline size_t imagine__weight_size(imagine__wtype type)
{
    return type == IMAGINE__W_BF16 ? 2 : 4;
}

/* In double, so that the specification is exact to the last bit of a float. */
static inline float imagine__ref_act(float value, imagine__act act)
{
    double x = value;
    switch (act) {
    case IMAGINE__ACT_GELU_TANH:
        return (float)(0.5 * x * (1.0 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x))));
    case IMAGINE__ACT_GELU_ERF:
        return (float)(0.5 * x * erfc(-x * 0.70710678118654752440)); /* 1 + erf(t), exact far to the left too */
    case IMAGINE__ACT_SILU:
        return (float)(x / (1.0 + exp(-x)));
    default:
        return value;
    }
}

#endif
