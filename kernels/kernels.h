/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_KERNELS_H
#define IMAGINE_KERNELS_KERNELS_H

/* The operations that the stages are made of. A backend is one table of these functions; kernels/ref is the plain C
 * specification, kernels/cpu overrides entries with faster ones. Kernels see tensors and nothing else: no handle, no
 * allocator, no file.
 *
 * Common to all operations:
 * - Tensors are dense and row-major but for the strides that an operation names; strides count elements.
 * - Activations are f32; on a device, those that an operation has a type for may be bf16. Weights are f32 or bf16 as stored;
 *   sums are f32.
 * - Outputs do not overlap inputs unless an operation says so.
 * - An operation cannot fail. It is called with valid shapes; a size of 0 does nothing.
 * - Work is cut into tiles, whose bounds depend on the shapes and the number of threads; every output element is summed in
 *   an order that depends on the shapes' K, kernel or key dimension alone: the same bytes for any number of threads and
 *   whatever else is in the batch.
 * - When the run is cancelled the remaining tiles are left out and the output is undefined; the caller looks at
 *   imagine__run_stopped() before it uses it. A tile takes well under 20 ms. */

#include <stddef.h>
#include <stdint.h>

typedef struct imagine__kernels imagine__kernels;
typedef struct imagine__run imagine__run;

/* One tile of work. `scratch` is IMAGINE__SCRATCH bytes of the worker's own, aligned to 64 and with any content. */
typedef void imagine__tile_fn(void *arg, int64_t tile, void *scratch);
#define IMAGINE__SCRATCH ((size_t)1536 << 10)

/* What an operation runs with: made by the stage (lib/base/run.h), one per thread of control. */
struct imagine__run {
    const imagine__kernels *kernels;
    /* Calls fn(arg, tile, scratch) for every tile in 0..count-1, on any threads in any order, and returns when all are
     * done; leaves tiles out once the run is cancelled. */
    void (*parallel)(imagine__run *run, int64_t count, imagine__tile_fn *fn, void *arg);
    int (*stopped)(const imagine__run *run); /* 1 once cancelled */
    int32_t threads; /* that work on tiles at once, or 1; results do not depend on it */
    int32_t reserved;
};

static inline void imagine__parallel(imagine__run *run, int64_t count, imagine__tile_fn *fn, void *arg)
{
    run->parallel(run, count, fn, arg);
}

static inline int imagine__run_stopped(const imagine__run *run)
{
    return run->stopped(run);
}

typedef int32_t imagine__wtype; /* how values are stored: weights, and on a device what operations leave each other */
#define IMAGINE__W_F32 0 /* 0, so that what an argument says nothing of is f32 */
#define IMAGINE__W_BF16 1

/* A weight matrix as linear() wants it: W [n, k] packed by pack_linear(). */
typedef struct imagine__linear_weight {
    const void *packed;
    const float *bias; /* [n] or NULL */
    int64_t n, k;
    imagine__wtype type;
    int32_t reserved;
} imagine__linear_weight;

/* A convolution's weight, [cout, kt, kh, kw, cin] packed by pack_conv(). */
typedef struct imagine__conv_weight {
    const void *packed;
    const float *bias; /* [cout] or NULL */
    int64_t cout, cin;
    int32_t kt, kh, kw;
    imagine__wtype type;
} imagine__conv_weight;

typedef int32_t imagine__act;
#define IMAGINE__ACT_NONE 0
#define IMAGINE__ACT_GELU_TANH 1 /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), PyTorch's approximate="tanh", T5's gelu_new */
#define IMAGINE__ACT_GELU_ERF 2 /* 0.5 x (1 + erf(x / sqrt 2)) */
#define IMAGINE__ACT_SILU 3 /* x / (1 + exp(-x)) */

/* y[m, n] = gate[m / gate_rows, n] * (act(sum_k x[m, k] W[n, k] + bias[n]) * mul[m, n]) + add[m, n]
 * where a NULL gate, mul or add drops its factor or term. `add` may be `y` itself where that is f32. */
typedef struct imagine__linear_args {
    const imagine__linear_weight *w;
    const void *x;
    void *y;
    int64_t m, ldx, ldy; /* row strides of x and y */
    imagine__act act;
    imagine__wtype x_type, y_type;
    int32_t reserved;
    const float *mul; /* row stride ld_mul */
    int64_t ld_mul;
    const float *gate; /* [ceil(m / gate_rows)] rows of stride ld_gate */
    int64_t gate_rows, ld_gate;
    const float *add; /* row stride ld_add */
    int64_t ld_add;
} imagine__linear_args;

/* y[b, i, h, :] = sum_j softmax_j(scale * q[b, i, h, :] . k[b, j, h, :] + bias[h, i, j]) v[b, j, h, :]
 * over j < kv_length[b] (at least 1; of none come NaNs), or j < kv when kv_length is NULL. Head size d >= 1, any. Strides: of a
 * batch, a token; heads lie d apart. The softmax subtracts the row's maximum and sums in f32. Where a value is infinite and its
 * weight is too small for an f32, one version may give an infinity and another a NaN. */
typedef struct imagine__attention_args {
    const void *q, *k, *v;
    void *y;
    int64_t batch, heads, d, tokens, kv;
    int64_t q_batch, q_token, k_batch, k_token, v_batch, v_token, y_batch, y_token;
    const int64_t *kv_length; /* [batch] or NULL */
    const float *bias; /* [heads, tokens, kv], the same for all of the batch, or NULL */
    float scale;
    imagine__wtype type; /* of q, k, v and y */
    /* NULL, or keys and values lie in blocks of kv_block tokens: key j of clip b is token j % kv_block of the block whose number
     * is kv_blocks[b * blocks_batch + j / kv_block], and block n begins at k + n * k_block. k_batch and v_batch do not count.
     * Numbers behind the last key are not looked at. */
    const int32_t *kv_blocks;
    int64_t kv_block, blocks_batch, k_block, v_block;
} imagine__attention_args;

/* Convolution over time, height and width in channels-last layout, one time position of output per call:
 *   y[oy, ox, o] = act(bias[o] + sum_{dt, dy, dx, c} x[dt][oy*stride_h + dy - pad_top, ox*stride_w + dx - pad_left, c]
 *                  w[o, dt, dy, dx, c]) + add[oy, ox, o]
 * x[dt], dt = 0..kt-1, points to a frame [height, width, cin], or is NULL for a frame of zeros, whose taps are skipped.
 * Positions outside the frame are zeros; below 0, a pad leaves out the frame's first lines or columns. With `upsample` 2 the
 * frame is read as if enlarged twice by nearest neighbour (position p reads p / 2; height and width are those before
 * enlarging). A 2-D convolution is kt = 1, a 1-D one also kh = height = 1. `add` may be y itself. */
typedef struct imagine__conv_args {
    const imagine__conv_weight *w;
    const float *const *x; /* kt frames */
    float *y; /* [out_h, out_w, cout], pixel stride ldy */
    const float *add; /* the same shape, pixel stride ld_add, or NULL */
    int64_t height, width, out_h, out_w;
    int64_t ldx, ldy, ld_add; /* elements from pixel to pixel; rows are dense: width * ldx */
    int32_t stride_h, stride_w, pad_top, pad_left;
    int32_t upsample; /* 1 or 2 */
    imagine__act act;
    imagine__wtype x_type, y_type; /* of what x and y point to */
    void *scratch; /* out_h * out_w * cout f32 that nobody needs, beside all of the above, or NULL: a GPU may write there */
} imagine__conv_args;

/* y[r, :] = norm(x[r, :]) * (1 + scale[r / group, :]) + shift[r / group, :], then as it is, where
 *   kind LAYER: norm(x) = (x - mean) / sqrt(var + eps) * weight + bias   (weight, bias or both may be NULL)
 *   kind RMS:   norm(x) = x / sqrt(mean(x^2) + eps) * weight
 *   kind L2:    norm(x) = x / max(sqrt(sum x^2), eps) * sqrt(dim) * weight + bias   (Wan's VAE; eps 1e-12)
 * and NULL scale and shift (always both or none) leave that part out; then act. y may be x. Statistics in f32, summed
 * in a fixed order that depends on dim alone. On a device x may lack the bias of the layer that it comes from: it is x + x_bias. */
typedef int32_t imagine__norm_kind;
#define IMAGINE__NORM_LAYER 0
#define IMAGINE__NORM_RMS 1
#define IMAGINE__NORM_L2 2

typedef struct imagine__norm_args {
    const float *x;
    void *y;
    int64_t rows, dim, ldx, ldy;
    imagine__norm_kind kind;
    imagine__act act;
    float eps;
    imagine__wtype x_type, y_type; /* of what x and y point to */
    int32_t reserved;
    const float *weight, *bias; /* [dim] */
    const float *x_bias; /* [dim], or NULL; on a device alone */
    const float *scale, *shift; /* rows of stride ld_mod, one per `group` rows */
    int64_t group, ld_mod;
} imagine__norm_args;

/* In place on rows of `heads` heads of size d: x = RMS norm over the whole row of heads * d values (eps, weight; weight NULL
 * leaves the norm out), then the rotation of pairs (2i, 2i+1) of every head by the angle whose cosine and sine stand in
 * table[position][i], position = row % positions: (a, b) -> (a cos - b sin, a sin + b cos). table NULL: no rotation. */
typedef struct imagine__norm_rope_args {
    void *x;
    void *second; /* another tensor like x, with a weight of its own where x has one, or NULL: queries and keys of packed rows */
    int64_t rows, heads, d, ldx;
    const float *weight, *second_weight; /* [heads * d] */
    const float *cos_table, *sin_table; /* [positions, d / 2] */
    int64_t positions;
    float eps;
    imagine__wtype type; /* of x */
} imagine__norm_rope_args;

/* Latents [channels, frames, height, width] and tokens [frames/pt * height/ph * width/pw, row], one clip.
 * Patchify orders a row (channel, pt, ph, pw), as a Conv3d weight flattens; unpatchify reads rows ordered
 * (pt, ph, pw, channel), as Wan's output projection. */
typedef struct imagine__patch_args {
    const float *x;
    float *y;
    int64_t channels, frames, height, width;
    int32_t pt, ph, pw, reserved;
} imagine__patch_args;

/* The shortcuts without parameters of Wan 2.2's VAE, which keep the number of values: `time` frames of `space` times
 * `space` pixels of the finer side make one pixel of the coarser. The
 * finer side's values are numbered e = ((c * time + t) * space + sy) * space + sx; frames are dense, one at a time:
 * `frame` is t, 0..time-1.
 *   down: y[oy, ox, o] = (add ? y[oy, ox, o] : 0) + 1/g sum x[oy*space + sy + top, ox*space + sx + left, c]
 *         over o*g <= e < (o+1)*g with t = frame, g = in * time * space^2 / out, which must be whole. The frames' results
 *         add up to the mean; each is summed in the order of e.
 *   up:   y[oy, ox, c] = x[(oy + top) / space, (ox + left) / space, e / r] with sy = (oy + top) % space and so on,
 *         t = frame, r = out * time * space^2 / in, which must be whole.
 * All that y reads lies inside x; top and left are not negative. */
typedef struct imagine__shortcut_args {
    const float *x; /* [height, width, in] */
    float *y; /* [out_h, out_w, out] */
    int64_t height, width, in, out_h, out_w, out, top, left;
    int32_t time, frame, space; /* time and space: 1 or 2 */
    int32_t add; /* down only */
} imagine__shortcut_args;

/* y[r, p, :] = table[p, :] + x[r, p % x_parts, :] for `parts` parts of dim values each: what a block of the transformer is
 * modulated with. Rows of y are dense, as are those of x, of x_parts parts. */
typedef struct imagine__modulate_args {
    const float *table, *x;
    float *y;
    int64_t rows, parts, x_parts, dim;
} imagine__modulate_args;

/* y[h, i, j] = table[buckets[j - i + tokens - 1], first + h] for h < heads and i, j < tokens: attention's bias by the distance
 * of two tokens. table is [, all_heads], buckets [2 tokens - 1]. */
typedef struct imagine__relative_bias_args {
    const float *table;
    const int32_t *buckets;
    float *y;
    int64_t tokens, all_heads, first, heads;
} imagine__relative_bias_args;

/* Pixels [height, width, 3 patch^2] that stand for patches of patch x patch pixels, joined to a picture of all pixels
 * [height patch, width patch, 3], or a picture parted into them. The values of a patch are ordered (colour, column, row). */
typedef struct imagine__pixels_args {
    const float *x;
    float *y;
    int64_t height, width; /* in patches */
    int32_t patch, join; /* join 0: part */
} imagine__pixels_args;

/* x[p, i] = known[p, i], or (1 - sigma) known[p, i] + sigma noise[p, i] with noise, each step one rounding, for i < count of
 * every plane where mask is NULL or mask[i / mask_step] is 1; elsewhere x stays. Planes of x and of noise lie x_plane apart, those
 * of known known_plane. */
typedef struct imagine__keep_args {
    float *x;
    const float *known, *noise, *mask;
    int64_t planes, count, x_plane, known_plane, mask_step;
    float sigma;
    int32_t reserved;
} imagine__keep_args;

struct imagine__kernels {
    const char *name; /* "plain", "avx2", "avx512", "avx512bf16", "amx", "cuda" */

    /* Packed sizes in bytes and packing. The source is row-major as in the file: linear [n, k]; convolution
     * [cout, cin, kt, kh, kw] (PyTorch's order). `rows` first..first+count-1 of W only, so that a large matrix need not be
     * held twice: `first` must be a multiple of pack_rows, and so must count unless it reaches n. Output channels of a convolution
     * that are packed in blocks, of a multiple of pack_rows each and the last one of no fewer, lie behind each other as if they
     * had been packed at once. */
    size_t (*linear_packed_size)(int64_t n, int64_t k, imagine__wtype type);
    void (*pack_linear)(void *packed, const void *rows, int64_t first, int64_t count, int64_t n, int64_t k,
                        imagine__wtype type);
    int64_t pack_rows;
    int64_t tall; /* 1: products take more rows at once, where loads are what is short; 2: in larger tiles, too. Same bytes */
    size_t (*conv_packed_size)(int64_t cout, int64_t cin, int32_t kt, int32_t kh, int32_t kw, imagine__wtype type);
    void (*pack_conv)(void *packed, const void *weight, int64_t cout, int64_t cin, int32_t kt, int32_t kh, int32_t kw,
                      imagine__wtype type);

    void (*linear)(imagine__run *, const imagine__linear_args *);
    void (*conv)(imagine__run *, const imagine__conv_args *);
    void (*attention)(imagine__run *, const imagine__attention_args *);
    void (*norm)(imagine__run *, const imagine__norm_args *);
    void (*norm_rope)(imagine__run *, const imagine__norm_rope_args *);
    void (*patchify)(imagine__run *, const imagine__patch_args *);
    void (*unpatchify)(imagine__run *, const imagine__patch_args *);

    void (*shortcut_down)(imagine__run *, const imagine__shortcut_args *);
    void (*shortcut_up)(imagine__run *, const imagine__shortcut_args *);
    void (*modulate)(imagine__run *, const imagine__modulate_args *);
    void (*relative_bias)(imagine__run *, const imagine__relative_bias_args *);
    void (*pixels)(imagine__run *, const imagine__pixels_args *);

    /* y = act(x), n values; y may be x. */
    void (*activate)(imagine__run *, const float *x, float *y, int64_t n, imagine__act act);
    /* y[i, :] = table[ids[i], :], `type` the table's; ids are within it. */
    void (*embed)(imagine__run *, const void *table, imagine__wtype type, const int32_t *ids, int64_t count, int64_t dim,
                  float *y);
    /* y[i] = sum_t coefficient[t] * x[t][i] over `terms` (1 to 8) terms, in their order, each step one rounding (no fused multiply-add);
     * y may be one of the x. */
    void (*combine)(imagine__run *, int32_t terms, const float *coefficient, const float *const *x, float *y, int64_t n);
    void (*keep)(imagine__run *, const imagine__keep_args *);
    /* y[r] = sqrt(sum_i (x[r, i] - mean of row r)^2) for x [rows, n], from the sums of values and of squares in f64; 0 where what
     * is below the root is not above 0. And x[r, :] *= (f32)(share * to[r] / from[r] + 1 - share), 1 where from[r] is not above 0. */
    void (*spread)(imagine__run *, const float *x, int64_t rows, int64_t n, double *y);
    void (*rescale)(imagine__run *, float *x, int64_t rows, int64_t n, const double *from, const double *to, double share);
    /* y[c, r] = x[r, c] for x [rows, columns]. */
    void (*transpose)(imagine__run *, const float *x, float *y, int64_t rows, int64_t columns);
    /* 1 if every one of n values is finite. */
    int (*finite)(imagine__run *, const float *x, int64_t n);
    /* y[i] = u8 of x[i] in [-1, 1]: round to nearest even of (clamp(x) + 1) * 127.5, a NaN gives 0; and its inverse
     * y = x / 127.5 - 1. */
    void (*to_u8)(imagine__run *, const float *x, uint8_t *y, int64_t n);
    void (*from_u8)(imagine__run *, const uint8_t *x, float *y, int64_t n);
};

/* The best table for this machine at no more than `level` (IMAGINE_CPU_ numbers of context.h; 0: the best in f32). *used receives the
 * level. Detection reads CPUID once per call and keeps nothing. */
const imagine__kernels *imagine__kernels_for_cpu(int32_t level, int32_t *used);

/* Each level fills in what it does better: plain first, then upwards (kernels/cpu/cpu.c composes the constant tables). */
extern const imagine__kernels imagine__kernels_plain;

#endif
