/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CUDA_CUDA_H
#define IMAGINE_KERNELS_CUDA_CUDA_H

/* The CUDA module, libimagine_cuda.so, as plain C: a table that the library asks for once it has opened the file. kernels.h
 * says what each operation computes; here tensors lie in device memory, activations are f32 or bf16, sums f32.
 *
 * - Every function returns 0, or an error number for error_text(). Operations only start; what goes wrong on the device shows
 *   in synchronize() or a later call.
 * - Work is in the order of its stream (a cudaStream_t, NULL for the default one), on the thread's current device.
 * - Strides count elements. A size of 0 does nothing. Outputs do not overlap inputs unless an operation says so.
 * - The same bytes for the same device, shapes and inputs: no operation adds with atomics. */

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define IMAGINE__CUDA_VERSION 11

typedef int32_t imagine__cuda_type; /* of activations and tables: IMAGINE__W_F32 or IMAGINE__W_BF16 */

typedef int32_t imagine__cuda_precision; /* of products */
#define IMAGINE__CUDA_F32 0 /* in f32, the limit of parity */
#define IMAGINE__CUDA_BF16 1 /* operands rounded to bf16, sums in f32, on the tensor cores where there are any */

/* What the operations of kernels.h take beside their arguments. */
typedef struct imagine__cuda_call {
    void *stream;
    imagine__cuda_precision precision;
    int32_t reserved;
    /* Device memory for this stream's operations alone, aligned to 256, or NULL. Operands are rounded into it, or scores of
     * attention kept, as many rows at a time as there is room for; how many does not show in the results. Without room for one
     * piece the operation is computed in f32 by a kernel that needs none: exact, and far slower. */
    void *workspace;
    size_t workspace_size;
    void *products, *convolutions; /* opened by products_open() and convolutions_open(), each of one thread at a time, or NULL */
} imagine__cuda_call;
#define IMAGINE__CUDA_WORKSPACE ((size_t)256 << 20) /* enough for pieces that fill a GPU */

/* As imagine__attention_args, for f32 or bf16; heads lie d apart. The kernels for bf16 on the tensor cores take d 64, 80,
 * 96 and 128, tensors that begin at multiples of 16 bytes with strides of multiples of 8, scale > 0 and no bias; all else
 * is computed by a plain kernel. Keys and values from kv_length on are not read into the result, whatever they are.
 * With kv_blocks, as imagine__attention_args has it, the same holds where kv_block and the blocks' strides are multiples of
 * IMAGINE__CUDA_KV_BLOCK and 8, but on compute capability 9.0 it is the kernel of 8.0. */
#define IMAGINE__CUDA_KV_BLOCK 64
typedef struct imagine__cuda_attention_args {
    const void *q, *k, *v;
    void *y;
    int64_t batch, heads, d, tokens, kv;
    int64_t q_batch, q_token, k_batch, k_token, v_batch, v_token, y_batch, y_token;
    const int64_t *kv_length; /* [batch] in device memory, 1 to kv each, or NULL */
    const float *bias; /* [heads, tokens, kv] or NULL */
    float scale;
    imagine__cuda_type type; /* of q, k, v and y */
    const int32_t *kv_blocks; /* in device memory, or NULL */
    int64_t kv_block, blocks_batch, k_block, v_block;
} imagine__cuda_attention_args;

/* As imagine__norm_args, with two things around it. Before: x += gate[r / group, :] * delta[r, :] where delta is not NULL
 * (gate NULL is 1); x is written (without x_bias). After: row r of y is placed in a frame with a border. The rows of x are pictures of
 * height x width pixels; y has pad_top more pixel rows above, and so on, and the border is written as zeros. Without a border
 * height and width do not matter. y may be x when the types agree and there is no border. */
typedef struct imagine__cuda_norm_args {
    void *x;
    void *y;
    const void *delta;
    int64_t rows, dim, ldx, ldy, ld_delta;
    imagine__cuda_type x_type, y_type, delta_type;
    imagine__norm_kind kind;
    imagine__act act;
    float eps;
    const float *weight, *bias; /* [dim] */
    const float *x_bias; /* [dim], or NULL */
    const float *scale, *shift, *gate; /* rows of stride ld_mod, one per `group` rows */
    int64_t group, ld_mod;
    int64_t height, width;
    int32_t pad_top, pad_bottom, pad_left, pad_right;
} imagine__cuda_norm_args;

/* Rows of heads * d values at x become rows at y: RMS norm over the whole row (weight NULL: none), rotation by the tables
 * (`rotate` 0: none). Row r is token r % tokens of clip r / tokens. y may be x with the same strides and type. */
typedef struct imagine__cuda_rope_part {
    const void *x; /* NULL: no such part */
    void *y;
    const float *weight; /* [heads * d] */
    int64_t ldx, y_batch, y_token;
    int32_t rotate, reserved;
} imagine__cuda_rope_part;

/* Queries, keys and values of packed rows at once: three parts, each with its own place to go (a cache: y at the first
 * token's place). As imagine__norm_rope_args otherwise; position = (r % tokens) % positions. */
typedef struct imagine__cuda_norm_rope_args {
    imagine__cuda_rope_part part[3];
    int64_t batch, tokens, heads, d;
    const float *cos_table, *sin_table; /* [positions, d / 2] */
    int64_t positions;
    imagine__cuda_type x_type, y_type;
    float eps;
    int32_t reserved;
} imagine__cuda_norm_rope_args;

/* As imagine__patch_args: latents are f32, tokens f32 or bf16, rows dense. */
typedef struct imagine__cuda_patch_args {
    const void *x;
    void *y;
    int64_t channels, frames, height, width;
    int32_t pt, ph, pw;
    imagine__cuda_type token_type;
} imagine__cuda_patch_args;

#define IMAGINE__CUDA_FRAMES 16
#define IMAGINE__CUDA_OLD_DRIVER 35 /* an error number: cudaErrorInsufficientDriver */
#define IMAGINE__CUDA_PEAK_BLOCKS 4224 /* of peak(): a multiple of what GPUs have of multiprocessors, more or less */

typedef struct imagine__cuda {
    int32_t version; /* IMAGINE__CUDA_VERSION */
    int32_t emulated; /* 1: no GPU but the emulator of the tests, whose times say nothing */
    const char *(*error_text)(int status);

    /* 0 devices without a driver is no error; one that is too old for the module is, IMAGINE__CUDA_OLD_DRIVER. */
    int (*device_count)(int32_t *count);
    int (*device_name)(int32_t device, char *name, size_t size); /* for messages: name and compute capability */
    int (*capability)(int32_t device); /* 10 major + minor of its compute capability; 0: it cannot be had */
    int (*use_device)(int32_t device);
    /* The driver's context that is current to the thread, NULL where there is none; use_device() makes the device's primary one
     * current instead. Neither makes a context. */
    int (*current_context)(void **context);
    int (*set_context)(void *context);
    int (*allocate)(void **memory, size_t size);
    int (*release)(void *memory); /* nothing under way uses it; NULL does nothing */
    int (*upload)(void *device, const void *host, size_t size, void *stream); /* the host's memory may go once it returns */
    int (*download)(void *host, const void *device, size_t size, void *stream); /* waits for the data */
    int (*synchronize)(void *stream);
    int (*copy)(void *to, const void *from, size_t size, void *stream); /* both on the device */
    int (*clear)(void *memory, size_t size, void *stream); /* bytes become 0 */
    int (*stream_create)(void **stream);
    void (*stream_destroy)(void *stream); /* NULL does nothing */
    /* A mark is a place in a stream that the host can wait for: mark() puts it behind what has been started so far, and
     * mark_wait() waits until all that is done (not at all where the mark was never put anywhere). */
    int (*mark_create)(void **mark);
    void (*mark_destroy)(void *mark); /* NULL does nothing */
    int (*mark)(void *mark, void *stream);
    int (*mark_wait)(void *mark);
    int (*memory_info)(size_t *available, size_t *total); /* bytes of the current device */

    int (*attention)(const imagine__cuda_attention_args *, void *stream);
    int (*norm)(const imagine__cuda_norm_args *, void *stream);
    int (*norm_rope)(const imagine__cuda_norm_rope_args *, void *stream);
    int (*patchify)(const imagine__cuda_patch_args *, void *stream);
    int (*unpatchify)(const imagine__cuda_patch_args *, void *stream);
    /* y = act(x), n values; y may be x when the types agree. */
    int (*activate)(const void *x, imagine__cuda_type x_type, void *y, imagine__cuda_type y_type, int64_t n, imagine__act act,
                    void *stream);
    int (*embed)(const void *table, imagine__wtype type, const int32_t *ids, int64_t count, int64_t dim, void *y,
                 imagine__cuda_type y_type, void *stream);
    /* coefficient and x, an array of device pointers, lie in host memory and may go once it returns. f32. */
    int (*combine)(int32_t terms, const float *coefficient, const float *const *x, float *y, int64_t n, void *stream);
    int (*transpose)(const float *x, float *y, int64_t rows, int64_t columns, void *stream);
    /* *bad, in device memory, becomes 1 if one of n values is not finite, else 0. */
    int (*finite)(const float *x, int64_t n, uint32_t *bad, void *stream);
    int (*to_u8)(const float *x, uint8_t *y, int64_t n, void *stream);
    int (*from_u8)(const uint8_t *x, float *y, int64_t n, void *stream);
    /* y[frame, i, j, :] = x[frame, i / 2, j / 2, :] for frames [height, width, channels] of 2- or 4-byte values. */
    int (*upsample)(const void *x, void *y, int64_t frames, int64_t height, int64_t width, int64_t channels,
                    imagine__cuda_type type, void *stream);

    /* cuBLASLt for large products, with what has been planned for each shape: in products_size() bytes of the caller's, aligned to
     * 16, for the current device. products_open() gives 1 where it is there; after 0 the memory holds nothing, and all is computed
     * by the module's own kernels, as is whatever the library refuses. With it, results also depend on the workspace's size.
     * `reason`, of `size` bytes, becomes a text that says why it is not there, empty where it is; NULL with a size of 0: nobody asks. */
    size_t (*products_size)(void);
    int (*products_open)(void *memory, char *reason, size_t size);
    void (*products_close)(void *memory); /* all work is done */
    /* The same of cuDNN, for large convolutions in bf16. Its handle, which takes long to make, is made for the first of them; giving
     * it back waits for the whole device. The memory is zeros at first. Opened again it stays as it is, and a handle that could not
     * be made is tried for anew. */
    size_t (*convolutions_size)(void);
    int (*convolutions_open)(void *memory, char *reason, size_t size);
    void (*convolutions_close)(void *memory);

    /* The operations of kernels.h as they are named there: their argument structs lie in host memory and may go once the
     * call returns, as may the weight's struct and the array of a convolution's frames; all else they point to is on the
     * device. A weight's `packed` is its rows as stored: [n, k], or [cout, kt, kh, kw, cin]; kt is at most
     * IMAGINE__CUDA_FRAMES. */
    int (*linear)(const imagine__linear_args *, const imagine__cuda_call *);
    int (*conv)(const imagine__conv_args *, const imagine__cuda_call *);
    /* Attention. With bf16 asked for and no list of blocks, factors are rounded for d up to 128 without a bias, and for larger d where
     * there are more than 8 queries, 4,096 scores a head and room; all else is computed from what is given. Sums are in f32. */
    int (*attend)(const imagine__attention_args *, const imagine__cuda_call *);
    int (*shortcut_down)(const imagine__shortcut_args *, void *stream);
    int (*shortcut_up)(const imagine__shortcut_args *, void *stream);
    int (*modulate)(const imagine__modulate_args *, void *stream);
    int (*relative_bias)(const imagine__relative_bias_args *, void *stream);
    int (*pixels)(const imagine__pixels_args *, void *stream);
    /* y[r, c] = x[r, c] + sin(alpha[c] x[r, c])^2 / beta[c]; y may be x. */
    int (*snake)(const float *x, const float *alpha, const float *beta, float *y, int64_t rows, int64_t channels, void *stream);

    /* `steps` rounds of multiply-adds on registers: of f32, or of bf16 on the tensor cores. *operations is how many that is,
     * a multiply-add being two; `out` has room for IMAGINE__CUDA_PEAK_BLOCKS numbers. */
    int (*peak)(imagine__cuda_precision precision, int64_t steps, float *out, double *operations, void *stream);

    /* Graphs: operations, copies on the device and clears that are started in a stream between graph_begin() and graph_end(),
     * recorded with their arguments instead of done, and started together as often as wanted. The stream, which is not the
     * default one, belongs to the thread meanwhile, and this thread neither allocates, releases nor waits. graph_end() ends the
     * recording in any case; *graph is NULL where it returns an error. */
    int (*graph_begin)(void *stream);
    int (*graph_end)(void *stream, void **graph);
    int (*graph_launch)(void *graph, void *stream); /* any stream */
    void (*graph_destroy)(void *graph); /* nothing of it is under way; NULL does nothing */

    /* Copies that overlap: `host` is to be left alone until a mark behind the copy has been waited for. That takes pinned
     * memory; of other memory the copy may wait until it is done. */
    int (*upload_later)(void *device, const void *host, size_t size, void *stream);
    int (*pin)(void *host, size_t size); /* memory of the caller's, of no page that is pinned already */
    void (*unpin)(void *host); /* the copies from it are done */
    /* What is started in the stream from now on begins once all before the mark is done. The host does not wait. */
    int (*stream_wait)(void *stream, void *mark);

    /* Of the sampler, as in kernels.h: f32, and f64 where it says double. */
    int (*keep)(const imagine__keep_args *, void *stream);
    int (*spread)(const float *x, int64_t rows, int64_t n, double *y, void *stream);
    int (*rescale)(float *x, int64_t rows, int64_t n, const double *from, const double *to, double share, void *stream);

    /* How many products, or convolutions, the library has started since it was opened first: of what it refuses nothing else tells. */
    uint64_t (*products_started)(const void *memory);
    uint64_t (*convolutions_started)(const void *memory);
} imagine__cuda;

/* The module's only exported symbol: its table, or NULL when it has another version. */
__attribute__((visibility("default"))) const imagine__cuda *imagine__cuda_module(int32_t version);

#ifdef __cplusplus
}
#endif

#endif
