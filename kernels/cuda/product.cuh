/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CUDA_PRODUCT_CUH
#define IMAGINE_KERNELS_CUDA_PRODUCT_CUH

#include "kernels/cuda/internal.cuh"

/* What linear layers and convolutions share: y [m, n] = epilogue(sum_k x[m, k] W[n, k]). A source says where row m has its
 * values of x; a convolution's are scattered over the frame (an implicit matrix), and its sum has one part for each
 * frame. */

struct product_weight {
    const void *w;
    const float *bias; /* [n] or NULL */
    int64_t n, row; /* values from row to row */
    imagine__wtype type;
    bool aligned; /* groups of four are */
};

struct product_epilogue {
    float *y;
    int64_t m, ldy;
    imagine__act act;
    bool aligned; /* all of it in fours */
    const float *mul, *gate, *add;
    int64_t ld_mul, gate_rows, ld_gate, ld_add;
};

/* Values k to k + 3 of which those from `end` on do not count. */
IMAGINE__INLINE unsigned count_before(int64_t k, int64_t end)
{
    return k >= end ? 0 : end - k < 4 ? (unsigned)(end - k) : 4;
}

/* Four neighbouring sums of a row become output. */
IMAGINE__INLINE void finish4(const product_epilogue &e, const float *bias, int64_t n, int64_t row, int64_t column, float (&v)[4])
{
    unsigned count = count_before(column, n);
    float other[4];
    if (row >= e.m || !count)
        return;
    if (bias) {
        load4(bias, IMAGINE__W_F32, column, count, e.aligned, other);
        for (unsigned j = 0; j < 4; j++)
            v[j] += other[j];
    }
    for (unsigned j = 0; j < 4; j++)
        v[j] = activation(v[j], e.act);
    if (e.mul) {
        load4(e.mul, IMAGINE__W_F32, row * e.ld_mul + column, count, e.aligned, other);
        for (unsigned j = 0; j < 4; j++)
            v[j] *= other[j];
    }
    if (e.gate) {
        load4(e.gate, IMAGINE__W_F32, row / e.gate_rows * e.ld_gate + column, count, e.aligned, other);
        for (unsigned j = 0; j < 4; j++)
            v[j] *= other[j];
    }
    if (e.add) {
        load4(e.add, IMAGINE__W_F32, row * e.ld_add + column, count, e.aligned, other);
        for (unsigned j = 0; j < 4; j++)
            v[j] += other[j];
    }
    store4(e.y, IMAGINE__W_F32, row * e.ldy + column, count, e.aligned, v);
}

/* ---- sources ----------------------------------------------------------------------------------------------------- */

/* Rows of x as they are. */
struct rows_source {
    const float *x;
    int64_t m, ldx, k;
    bool aligned;
};

struct rows_place {
    int64_t at; /* of the row's first value, -1 behind the last row */
};

IMAGINE__INLINE int64_t depth_of(const rows_source &s)
{
    return s.k;
}

IMAGINE__INLINE int parts_of(const rows_source &)
{
    return 1;
}

IMAGINE__INLINE int64_t weight_offset(const rows_source &, int)
{
    return 0;
}

IMAGINE__INLINE rows_place place_of(const rows_source &s, int64_t row)
{
    return {row < s.m ? row * s.ldx : -1};
}

IMAGINE__INLINE void read4(const rows_source &s, const rows_place &p, int, int64_t k, float (&v)[4])
{
    load4(s.x, IMAGINE__W_F32, p.at + k, p.at < 0 ? 0 : count_before(k, s.k), s.aligned, v);
}

/* Taps of a convolution: k counts (dy, dx, channel), a part is a frame that is there. */
struct taps_source {
    const float *x[IMAGINE__CUDA_FRAMES];
    int64_t weight[IMAGINE__CUDA_FRAMES]; /* where a frame's weights begin in a row */
    int64_t ldx, height, width, out_w, pixels;
    int32_t frames, cin, kh, kw, stride_h, stride_w, pad_top, pad_left, upsample;
    bool aligned; /* groups of four lie in one tap, and are vectors */
};

struct taps_place {
    int64_t y, x; /* of the first tap, in the enlarged frame */
    bool inside;
};

IMAGINE__INLINE int64_t depth_of(const taps_source &s)
{
    return (int64_t)s.kh * s.kw * s.cin;
}

IMAGINE__INLINE int parts_of(const taps_source &s)
{
    return s.frames;
}

IMAGINE__INLINE int64_t weight_offset(const taps_source &s, int part)
{
    return s.weight[part];
}

IMAGINE__INLINE taps_place place_of(const taps_source &s, int64_t row)
{
    return {row / s.out_w * s.stride_h - s.pad_top, row % s.out_w * s.stride_w - s.pad_left, row < s.pixels};
}

/* Where value k of the part is in its frame, or -1 where there are zeros. */
IMAGINE__INLINE int64_t tap_offset(const taps_source &s, const taps_place &p, uint32_t k)
{
    uint32_t tap = k / (uint32_t)s.cin, c = k % (uint32_t)s.cin;
    int64_t y = p.y + tap / (uint32_t)s.kw, x = p.x + tap % (uint32_t)s.kw;
    if (y < 0 || x < 0 || y >= s.height * s.upsample || x >= s.width * s.upsample)
        return -1;
    return (s.upsample == 2 ? y / 2 * s.width + x / 2 : y * s.width + x) * s.ldx + c;
}

IMAGINE__INLINE void read4(const taps_source &s, const taps_place &p, int part, int64_t k, float (&v)[4])
{
    unsigned count = p.inside ? count_before(k, depth_of(s)) : 0;
    if (s.aligned) { /* all four or none */
        int64_t at = count ? tap_offset(s, p, (uint32_t)k) : -1;
        load4(s.x[part], IMAGINE__W_F32, at, at < 0 ? 0 : 4, true, v);
        return;
    }
    for (unsigned j = 0; j < 4; j++) {
        int64_t at = j < count ? tap_offset(s, p, (uint32_t)k + j) : -1;
        v[j] = at < 0 ? 0 : s.x[part][at];
    }
}

/* Starts the kernel that the precision asks for. */
int imagine__cuda_multiply(const rows_source &source, const product_weight &w, const product_epilogue &e,
                           const imagine__cuda_call *call);
int imagine__cuda_multiply(const taps_source &source, const product_weight &w, const product_epilogue &e,
                           const imagine__cuda_call *call);

#endif
