/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CUDA_INTERNAL_CUH
#define IMAGINE_KERNELS_CUDA_INTERNAL_CUH

/* What the kernels' files share: the host functions of the table, and reading and writing of f32 and bf16. */

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/primitives.cuh"

int imagine__cuda_attention(const imagine__cuda_attention_args *args, void *stream);
/* Whether it is one of the kernels for tensor cores that computes this. */
bool imagine__cuda_on_tensor_cores(const imagine__cuda_attention_args *args);
/* Only for compute capability 9.0, d 64 or 128, and what the other kernel for tensor cores asks for. */
int imagine__cuda_attention_hopper(const imagine__cuda_attention_args *args, void *stream);
/* Whether the kernel for f32 takes it, which needs no workspace. */
bool imagine__cuda_attends_f32(const imagine__attention_args *args);
int imagine__cuda_attention_f32(const imagine__attention_args *args, void *stream);
int imagine__cuda_norm(const imagine__cuda_norm_args *args, void *stream);
int imagine__cuda_norm_rope(const imagine__cuda_norm_rope_args *args, void *stream);
int imagine__cuda_patchify(const imagine__cuda_patch_args *args, void *stream);
int imagine__cuda_unpatchify(const imagine__cuda_patch_args *args, void *stream);
int imagine__cuda_activate(const void *x, imagine__cuda_type x_type, void *y, imagine__cuda_type y_type, int64_t n,
                           imagine__act act, void *stream);
int imagine__cuda_embed(const void *table, imagine__wtype type, const int32_t *ids, int64_t count, int64_t dim, void *y,
                        imagine__cuda_type y_type, void *stream);
int imagine__cuda_combine(int32_t terms, const float *coefficient, const float *const *x, float *y, int64_t n, void *stream);
int imagine__cuda_transpose(const float *x, float *y, int64_t rows, int64_t columns, void *stream);
int imagine__cuda_finite(const float *x, int64_t n, uint32_t *bad, void *stream);
int imagine__cuda_to_u8(const float *x, uint8_t *y, int64_t n, void *stream);
int imagine__cuda_from_u8(const uint8_t *x, float *y, int64_t n, void *stream);
int imagine__cuda_upsample(const void *x, void *y, int64_t frames, int64_t height, int64_t width, int64_t channels,
                           imagine__cuda_type type, void *stream);
/* A part of what upsample() makes of each frame, dense. */
struct enlarged_area {
    int64_t top, left, height, width;
};
int imagine__cuda_enlarge(const void *x, void *y, int64_t frames, int64_t height, int64_t width, int64_t channels,
                          imagine__cuda_type type, const enlarged_area &area, void *stream);
size_t imagine__cuda_products_size();
int imagine__cuda_products_open(void *memory, char *reason, size_t size);
void imagine__cuda_products_close(void *memory);
uint64_t imagine__cuda_products_started(const void *memory);
size_t imagine__cuda_convolutions_size();
int imagine__cuda_convolutions_open(void *memory, char *reason, size_t size);
void imagine__cuda_convolutions_close(void *memory);
uint64_t imagine__cuda_convolutions_started(const void *memory);
int imagine__cuda_linear(const imagine__linear_args *args, const imagine__cuda_call *call);
int imagine__cuda_conv(const imagine__conv_args *args, const imagine__cuda_call *call);
int imagine__cuda_attend(const imagine__attention_args *args, const imagine__cuda_call *call);
int imagine__cuda_shortcut_down(const imagine__shortcut_args *args, void *stream);
int imagine__cuda_shortcut_up(const imagine__shortcut_args *args, void *stream);
int imagine__cuda_modulate(const imagine__modulate_args *args, void *stream);
int imagine__cuda_relative_bias(const imagine__relative_bias_args *args, void *stream);
int imagine__cuda_pixels(const imagine__pixels_args *args, void *stream);
int imagine__cuda_snake(const float *x, const float *alpha, const float *beta, float *y, int64_t rows, int64_t channels,
                        void *stream);
int imagine__cuda_keep(const imagine__keep_args *args, void *stream);
int imagine__cuda_spread(const float *x, int64_t rows, int64_t n, double *y, void *stream);
int imagine__cuda_rescale(float *x, int64_t rows, int64_t n, const double *from, const double *to, double share, void *stream);
int imagine__cuda_peak(imagine__cuda_precision precision, int64_t steps, float *out, double *operations, void *stream);

#define IMAGINE__CUDA_INVALID 1 /* cudaErrorInvalidValue: larger than a grid can be */

/* While any thread records a graph in the global mode, as the program around us may, the driver refuses to all other threads what
 * might wait for the recording, and may spoil it: allocations and waits, of the libraries as well. None of ours belongs to a
 * recording of somebody else's. The driver then allows it to a thread that records itself, too, which the table's rules forbid
 * and the emulator refuses. Out of reach may be one thing: giving back cuDNN's handle, as a context's end does, waits for the whole
 * device, says its manual, and such a wait the driver may refuse in every mode; `beside a recording, bf16` of tests/api/cuda_life.c
 * tells on a GPU. */
struct beside_recordings {
    IMAGINE__BODY(cudaStreamCaptureMode, int) mode = IMAGINE__BODY(cudaStreamCaptureModeRelaxed, emulator::RELAXED);
    beside_recordings() { exchange(); }
    ~beside_recordings() { exchange(); }
    beside_recordings(const beside_recordings &) = delete;

private:
    void exchange() { (void)IMAGINE__BODY(cudaThreadExchangeStreamCaptureMode(&mode), emulator::exchange_capture_mode(&mode)); }
};

/* ---- values of either type --------------------------------------------------------------------------------------- */

/* Where value i lies. */
static inline void *value_at(const void *p, imagine__cuda_type type, int64_t i)
{
    return (char *)(uintptr_t)p + i * (type == IMAGINE__W_F32 ? 4 : 2);
}

/* Four neighbouring values at i, of which `count` exist; `aligned` when all four lie in one aligned vector. */
IMAGINE__INLINE void load4(const void *p, imagine__cuda_type type, int64_t i, unsigned count, bool aligned, float (&v)[4])
{
    if (type == IMAGINE__W_F32) {
        const float *from = (const float *)p + i;
        if (aligned && count == 4) {
            float4 f = *(const float4 *)from;
            v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
            return;
        }
        for (unsigned j = 0; j < 4; j++)
            v[j] = j < count ? from[j] : 0;
        return;
    }
    const uint16_t *from = (const uint16_t *)p + i;
    if (aligned && count == 4) {
        uint2 pairs = *(const uint2 *)from;
        v[0] = bf16_low(pairs.x), v[1] = bf16_high(pairs.x), v[2] = bf16_low(pairs.y), v[3] = bf16_high(pairs.y);
        return;
    }
    for (unsigned j = 0; j < 4; j++)
        v[j] = j < count ? bf16_low(from[j]) : 0;
}

IMAGINE__INLINE void store4(void *p, imagine__cuda_type type, int64_t i, unsigned count, bool aligned, const float (&v)[4])
{
    if (type == IMAGINE__W_F32) {
        float *to = (float *)p + i;
        if (aligned && count == 4) {
            *(float4 *)to = float4{v[0], v[1], v[2], v[3]};
            return;
        }
        for (unsigned j = 0; j < 4; j++)
            if (j < count)
                to[j] = v[j];
        return;
    }
    uint16_t *to = (uint16_t *)p + i;
    if (aligned && count == 4) {
        *(uint2 *)to = uint2{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3])};
        return;
    }
    for (unsigned j = 0; j < 4; j++)
        if (j < count)
            to[j] = to_bf16(v[j]);
}

/* Whether bf16 rows at p are what the tensor cores take: groups of eight are aligned vectors. */
static inline bool in_eights(const void *p, int64_t batch, int64_t row)
{
    return (uintptr_t)p % 16 == 0 && batch % 8 == 0 && row % 8 == 0;
}

/* Whether groups of four at p, and at every multiple of the stride, are aligned vectors. */
static inline bool in_fours(const void *p, imagine__cuda_type type, int64_t stride)
{
    return !p || ((uintptr_t)p % (type == IMAGINE__W_F32 ? 16 : 8) == 0 && stride % 4 == 0);
}

IMAGINE__INLINE float activation(float x, imagine__act act)
{
    switch (act) {
    case IMAGINE__ACT_GELU_TANH: /* 0.5 (1 + tanh u) = 1 / (1 + exp(-2 u)) */
        return x / (1.0f + expf(-1.5957691216057308f * (x + 0.044715f * x * x * x)));
    case IMAGINE__ACT_GELU_ERF:
        return 0.5f * x * erfcf(-0.7071067811865475f * x);
    case IMAGINE__ACT_SILU:
        return x / (1.0f + expf(-x));
    default:
        return x;
    }
}

#endif
