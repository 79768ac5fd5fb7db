/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/internal.cuh"

#define THREADS 256

/* A thread has one value of the output. The finer side's value e is (channel, frame, row, column) of its pixels. */

__global__ void __launch_bounds__(THREADS) down_kernel(imagine__shortcut_args a, int64_t group, float factor)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, s = a.space, o = i % a.out;
    if (i >= a.out_h * a.out_w * a.out)
        return;
    int64_t oy = i / a.out / a.out_w, ox = i / a.out % a.out_w;
    const float *x = a.x + ((oy * s + a.top) * a.width + ox * s + a.left) * a.in;
    float sum = a.add ? a.y[i] : 0;
    for (int64_t e = o * group; e < (o + 1) * group; e++) {
        int64_t sx = e % s, sy = e / s % s, t = e / (s * s) % a.time, c = e / (s * s) / a.time;
        if (t == a.frame)
            sum = add(sum, multiply(x[(sy * a.width + sx) * a.in + c], factor)); /* as the specification rounds */
    }
    a.y[i] = sum;
}

__global__ void __launch_bounds__(THREADS) up_kernel(imagine__shortcut_args a, int64_t group)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, s = a.space, c = i % a.out;
    if (i >= a.out_h * a.out_w * a.out)
        return;
    int64_t y = i / a.out / a.out_w + a.top, x = i / a.out % a.out_w + a.left;
    int64_t e = ((c * a.time + a.frame) * s + y % s) * s + x % s;
    a.y[i] = a.x[(y / s * a.width + x / s) * a.in + e / group];
}

/* 0 when there is nothing to do. */
static int64_t blocks_of(const imagine__shortcut_args *a)
{
    if (a->out_h <= 0 || a->out_w <= 0 || a->out <= 0 || a->in <= 0)
        return 0;
    return (a->out_h * a->out_w * a->out + THREADS - 1) / THREADS;
}

int imagine__cuda_shortcut_down(const imagine__shortcut_args *a, void *stream)
{
    int64_t blocks = blocks_of(a), group = blocks ? a->in * a->time * a->space * a->space / a->out : 0;
    if (blocks > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    return blocks ? launch(down_kernel, (unsigned)blocks, THREADS, 0, stream, *a, group, 1.0f / (float)group) : 0;
}

int imagine__cuda_shortcut_up(const imagine__shortcut_args *a, void *stream)
{
    int64_t blocks = blocks_of(a), group = blocks ? a->out * a->time * a->space * a->space / a->in : 0;
    if (blocks > 0x7fffffff)
        return IMAGINE__CUDA_INVALID;
    return blocks ? launch(up_kernel, (unsigned)blocks, THREADS, 0, stream, *a, group) : 0;
}
