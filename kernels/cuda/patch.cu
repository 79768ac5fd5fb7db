/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/internal.cuh"

#define THREADS 256

/* One thread a value of the output, so that writes lie side by side. */

IMAGINE__INLINE void move_value(const imagine__cuda_patch_args &a, int64_t pixel, int64_t token_value, bool to_tokens)
{
    if (to_tokens && a.token_type == IMAGINE__W_F32)
        ((float *)a.y)[token_value] = ((const float *)a.x)[pixel];
    else if (to_tokens)
        ((uint16_t *)a.y)[token_value] = to_bf16(((const float *)a.x)[pixel]);
    else if (a.token_type == IMAGINE__W_F32)
        ((float *)a.y)[pixel] = ((const float *)a.x)[token_value];
    else
        ((float *)a.y)[pixel] = bf16_low(((const uint16_t *)a.x)[token_value]);
}

/* Value i of the tokens: (t, h, w) of the patch, then (channel, dt, dh, dw). */
__global__ void __launch_bounds__(THREADS) patchify_kernel(imagine__cuda_patch_args a, int64_t count)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, rest = i;
    if (i >= count)
        return;
    int64_t dw = rest % a.pw, dh = (rest /= a.pw) % a.ph, dt = (rest /= a.ph) % a.pt, c = (rest /= a.pt) % a.channels;
    int64_t w = (rest /= a.channels) % (a.width / a.pw), h = (rest /= a.width / a.pw) % (a.height / a.ph);
    int64_t t = rest / (a.height / a.ph);
    move_value(a, ((c * a.frames + t * a.pt + dt) * a.height + h * a.ph + dh) * a.width + w * a.pw + dw, i, true);
}

/* Value i of the latents: channel, frame, row, column. */
__global__ void __launch_bounds__(THREADS) unpatchify_kernel(imagine__cuda_patch_args a, int64_t count)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, rest = i;
    if (i >= count)
        return;
    int64_t x = rest % a.width, y = (rest /= a.width) % a.height, f = (rest /= a.height) % a.frames, c = rest / a.frames;
    int64_t token = ((f / a.pt) * (a.height / a.ph) + y / a.ph) * (a.width / a.pw) + x / a.pw;
    int64_t in_patch = ((f % a.pt) * a.ph + y % a.ph) * a.pw + x % a.pw;
    move_value(a, i, (token * a.pt * a.ph * a.pw + in_patch) * a.channels + c, false);
}

static int start(void (*kernel)(imagine__cuda_patch_args, int64_t), const imagine__cuda_patch_args *a, void *stream)
{
    if (a->channels <= 0 || a->frames <= 0 || a->height <= 0 || a->width <= 0)
        return 0;
    int64_t count = a->channels * a->frames * a->height * a->width;
    return launch(kernel, (unsigned)((count + THREADS - 1) / THREADS), THREADS, 0, stream, *a, count);
}

int imagine__cuda_patchify(const imagine__cuda_patch_args *a, void *stream)
{
    return start(patchify_kernel, a, stream);
}

int imagine__cuda_unpatchify(const imagine__cuda_patch_args *a, void *stream)
{
    return start(unpatchify_kernel, a, stream);
}
