/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CUDA_PRODUCT_CUH
#define IMAGINE_KERNELS_CUDA_PRODUCT_CUH

#include "kernels/cuda/internal.cuh"

/* What linear layers and convolutions share: y [m, n] = epilogue(sum_k x[m, k] W[n, k]). A source says where row m has its
 * values of x; a convolution's are scattered over the frame (an implicit matrix), and its sum has one part for each
 * frame. */

struct product_weight {
    const void *w; /* [n, row] */
    const float *bias; /* [n] or NULL */
    int64_t n, row; /* row: values from row to row */
    imagine__wtype type;
    bool aligned; /* groups of four are */
};

struct product_epilogue {
    void *y;
    int64_t first, m, ldy; /* the product's row 0 is row `first` of y; rows from m on are left out */
    imagine__act act;
    imagine__cuda_type y_type;
    bool aligned; /* all of it in fours */
    const float *mul, *gate, *add;
    int64_t ld_mul, gate_rows, ld_gate, ld_add;
};

/* In f32 so many of k are summed up by themselves: short chains of additions lose less. */
#define IMAGINE__CHAIN 256

/* Values k to k + 3 of which those from `end` on do not count. */
IMAGINE__INLINE unsigned count_before(int64_t k, int64_t end)
{
    return k >= end ? 0 : end - k < 4 ? (unsigned)(end - k) : 4;
}

/* The row that is read for this one: behind the last it is the last again, and what comes of it is not written. */
IMAGINE__INLINE int64_t at_most(int64_t row, int64_t rows)
{
    return row < rows ? row : rows - 1;
}

/* Four neighbouring sums of a row become output. */
IMAGINE__INLINE void finish4(const product_epilogue &e, const float *bias, int64_t n, int64_t row, int64_t column, float (&v)[4])
{
    unsigned count = count_before(column, n);
    float other[4];
    row += e.first;
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
    store4(e.y, e.y_type, row * e.ldy + column, count, e.aligned, v);
}

/* ---- sources ----------------------------------------------------------------------------------------------------- */

/* place_of() is where a row begins, offset_of() where its value k of a part is, or -1 where there is none; depth_of() is the
 * values of a part, weight_offset() where the part's begin in a row of W. The values are f32, or bf16 in fragments of eight
 * for the tensor cores. */

/* Rows of x as they are. */
struct rows_source {
    const void *x;
    int64_t m, ldx, k;
    bool aligned; /* in groups of four */
    imagine__cuda_type type;
};

struct rows_place {
    int64_t at; /* the row's first value, -1 behind the last row */
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

IMAGINE__INLINE const void *values_of(const rows_source &s, int)
{
    return s.x;
}

IMAGINE__INLINE rows_place place_of(const rows_source &s, int64_t row)
{
    return {row < s.m ? row * s.ldx : -1};
}

IMAGINE__INLINE int64_t offset_of(const rows_source &s, const rows_place &p, int64_t k)
{
    return p.at < 0 || k >= s.k ? -1 : p.at + k;
}

/* Taps of a convolution: k counts (dy, dx, channel), a part is a frame that is there. */
struct taps_source {
    const void *x[IMAGINE__CUDA_FRAMES];
    int64_t weight[IMAGINE__CUDA_FRAMES]; /* where a frame's weights begin in a row */
    int64_t ldx, height, width, out_w, pixels;
    int32_t frames, cin, kh, kw, stride_h, stride_w, pad_top, pad_left, upsample;
    bool aligned; /* groups of four lie in one tap, and are vectors */
    imagine__cuda_type type;
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

IMAGINE__INLINE const void *values_of(const taps_source &s, int part)
{
    return s.x[part];
}

IMAGINE__INLINE taps_place place_of(const taps_source &s, int64_t row)
{
    return {row / s.out_w * s.stride_h - s.pad_top, row % s.out_w * s.stride_w - s.pad_left, row < s.pixels};
}

IMAGINE__INLINE int64_t offset_of(const taps_source &s, const taps_place &p, int64_t k)
{
    uint32_t tap = (uint32_t)k / (uint32_t)s.cin, c = (uint32_t)k % (uint32_t)s.cin;
    int64_t y = p.y + tap / (uint32_t)s.kw, x = p.x + tap % (uint32_t)s.kw;
    if (!p.inside || k >= depth_of(s) || y < 0 || x < 0 || y >= s.height * s.upsample || x >= s.width * s.upsample)
        return -1;
    return (s.upsample == 2 ? y / 2 * s.width + x / 2 : y * s.width + x) * s.ldx + c;
}

/* ---- taps that are counted along --------------------------------------------------------------------------------- */

/* offset_of() divides for each group of values to find its tap. A thread that brings every so many values of the same rows need not:
 * where ints are enough, it counts. */
static inline bool ints_suffice(const taps_source &s)
{
    const int64_t most = 0x3fffffff;
    return s.height * s.upsample <= most && s.width * s.upsample <= most && s.height * s.width <= most && s.ldx <= most &&
           s.pixels <= most && s.out_w * s.stride_w <= most && s.pixels / s.out_w * s.stride_h <= most &&
           (int64_t)s.kh * s.kw * s.cin <= most;
}

struct tap_count {
    int channel, dy, dx;
};

/* The channel has grown. */
IMAGINE__INLINE void find_tap(const taps_source &s, tap_count *t)
{
    while (t->channel >= s.cin) {
        t->channel -= s.cin;
        if (++t->dx == s.kw)
            t->dx = 0, t->dy++;
    }
}

/* Where its value `channel` of a part is. */
IMAGINE__INLINE tap_count first_tap(const taps_source &s, int channel)
{
    tap_count t = {channel, 0, 0};
    find_tap(s, &t);
    return t;
}

/* A row's first tap, in the enlarged frame; far outside behind the last row. */
struct tap_corner {
    int y, x;
};

IMAGINE__INLINE tap_corner corner_of(const taps_source &s, int64_t row)
{
    unsigned at = (unsigned)row, width = (unsigned)s.out_w, line = at / width;
    return {row < s.pixels ? (int)line * s.stride_h - s.pad_top : -0x40000000, (int)(at - line * width) * s.stride_w - s.pad_left};
}

/* Where a row's values of a tap begin in a frame, and whether they are there. */
IMAGINE__INLINE int64_t tap_offset(const taps_source &s, const tap_corner &corner, const tap_count &t, bool *inside)
{
    unsigned y = (unsigned)(corner.y + t.dy), x = (unsigned)(corner.x + t.dx), width = (unsigned)s.width, shift = (unsigned)s.upsample - 1;
    *inside = y < (unsigned)s.height << shift && x < width << shift;
    return (int64_t)((uint64_t)((y >> shift) * width + (x >> shift)) * (unsigned)s.ldx) + t.channel;
}

/* ---- cuBLASLt, if it is there ------------------------------------------------------------------------------------ */

/* y [m, n] = gelu(x [m, k] W [n, k]^T + bias) + add, x and W bf16 or both f32, W dense, y, bias and add f32 or, without add,
 * bf16, by rows; no gelu with a term. f32 is multiplied as f32. */
struct lt_product {
    const void *x, *w;
    void *y;
    int64_t m, n, k, ldx, ldy;
    imagine__wtype type, y_type; /* of x and W; of y and bias */
    const void *bias; /* or NULL */
    const float *add; /* or NULL */
    int64_t ld_add;
    bool gelu; /* of tanh */
    void *workspace;
    size_t workspace_size;
};

/* `products` is the call's. */
bool imagine__cuda_products_there(void *products);
/* false: not started, for whatever reason. */
bool imagine__cuda_products_multiply(void *products, const lt_product &args, void *stream);

/* ---- cuDNN, if it is there --------------------------------------------------------------------------------------- */

/* y [out_h, out_w, cout] = the convolution of x [frames, height, width, cin] with w [cout, frames, kh, kw, cin], one position in
 * time; all bf16, channels in eights, w dense. */
struct dnn_convolution {
    const uint16_t *x;
    const void *w;
    uint16_t *y;
    int64_t cin, cout, height, width, out_h, out_w;
    int64_t frame, line; /* values of x from frame to frame, from line to line */
    int64_t ldy;
    int32_t frames, kh, kw, stride_h, stride_w, pad_top, pad_left, pad_bottom, pad_right;
    void *workspace;
    size_t workspace_size;
};

bool imagine__cuda_convolutions_there(const void *memory); /* opened, and not closed; NULL: false */
/* false: not started, for whatever reason. */
bool imagine__cuda_convolve(void *convolutions, const dnn_convolution &args, void *stream);

/* ---- kernels ----------------------------------------------------------------------------------------------------- */

/* In f32, sources of either type. */
int imagine__cuda_multiply(const rows_source &source, const product_weight &w, const product_epilogue &e, void *stream);
int imagine__cuda_multiply(const taps_source &source, const product_weight &w, const product_epilogue &e, void *stream);
/* Of few rows, in f32 with the same bytes as above, or on tensor cores (sm_80) with x and W of either type, rounded on the way. For what
 * imagine__cuda_are_few() says yes to: W in vectors of 16 bytes. */
#define IMAGINE__FEW_ROWS 8
bool imagine__cuda_are_few(const rows_source &source, const product_weight &w);
int imagine__cuda_multiply_few(const rows_source &source, const product_weight &w, const product_epilogue &e, void *stream);
int imagine__cuda_multiply_few_bf16(const rows_source &source, const product_weight &w, const product_epilogue &e, void *stream);
/* On tensor cores (sm_80): x and W in bf16, all strides, k and channels multiples of eight, all pointers of 16 bytes. */
int imagine__cuda_multiply_bf16(const rows_source &source, const product_weight &w, const product_epilogue &e, void *stream);
int imagine__cuda_multiply_bf16(const taps_source &source, const product_weight &w, const product_epilogue &e, void *stream);
/* The epilogue alone, of sums of `type` that lie in memory, row e.first first; they may be y's own rows. */
int imagine__cuda_finish(const void *sums, imagine__cuda_type type, int64_t stride, const product_weight &w, const product_epilogue &e,
                         void *stream);

/* A layer whose rows all have one gate: what that would multiply, multiplied. Dense rows of `to_type`, and a bias where there is one. */
struct folded_weight {
    const product_weight *w;
    const float *gate; /* [n] */
    void *to;
    float *bias;
    imagine__wtype to_type;
    int64_t k;
};
int imagine__cuda_fold(const folded_weight &args, void *stream);

#endif
