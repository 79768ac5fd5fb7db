/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CUDA_CONVERT_CUH
#define IMAGINE_KERNELS_CUDA_CONVERT_CUH

#include "kernels/cuda/internal.cuh"

/* Where the values of (batch, token, head) begin: each times its stride, added up. */
struct rows_layout {
    int64_t batch, token, head;
};

/* Rows of `count` values from one type and place to another, behind them zeros up to `padded`. Tokens from length[batch] on
 * are not read and become zeros. */
struct convert_args {
    const void *x;
    void *y;
    imagine__cuda_type x_type, y_type;
    int64_t batch, tokens, heads, count, padded;
    rows_layout from, to;
    const int64_t *length; /* [batch] or NULL */
};

int imagine__cuda_convert(const convert_args &args, void *stream);

/* Matrix rows [rows, count] of stride ld as dense bf16 [rows, padded]. */
static inline convert_args rounded_rows(const void *x, imagine__cuda_type type, int64_t rows, int64_t count, int64_t ld,
                                        uint16_t *y, int64_t padded)
{
    return {x, y, type, IMAGINE__W_BF16, 1, rows, 1, count, padded, {0, ld, 0}, {0, padded, 0}, nullptr};
}

static inline int64_t in_whole_eights(int64_t n)
{
    return (n + 7) / 8 * 8;
}

/* What is left of a workspace. */
struct workspace {
    unsigned char *at;
    size_t left;
};

static inline workspace workspace_of(const imagine__cuda_call *call)
{
    return {(unsigned char *)call->workspace, call->workspace ? call->workspace_size : 0};
}

/* `count` values of two bytes, or NULL. */
static inline uint16_t *take(workspace *w, int64_t count)
{
    size_t size = ((size_t)count * 2 + 255) / 256 * 256;
    unsigned char *taken = w->at;
    if (size > w->left)
        return nullptr;
    w->at += size;
    w->left -= size;
    return (uint16_t *)taken;
}

#endif
