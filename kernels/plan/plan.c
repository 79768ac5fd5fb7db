/* SPDX-License-Identifier: MIT */
#include "kernels/plan/plan.h"

static void pack_linear(void *packed, const void *rows, int64_t first, int64_t count, int64_t n, int64_t k,
                        imagine__wtype type)
{
    (void)packed, (void)rows, (void)first, (void)count, (void)n, (void)k, (void)type;
}

static void pack_conv(void *packed, const void *weight, int64_t cout, int64_t cin, int32_t kt, int32_t kh, int32_t kw,
                      imagine__wtype type)
{
    (void)packed, (void)weight, (void)cout, (void)cin, (void)kt, (void)kh, (void)kw, (void)type;
}

static void linear(imagine__run *run, const imagine__linear_args *args)
{
    (void)run, (void)args;
}

static void conv(imagine__run *run, const imagine__conv_args *args)
{
    (void)run, (void)args;
}

static void attention(imagine__run *run, const imagine__attention_args *args)
{
    (void)run, (void)args;
}

static void norm(imagine__run *run, const imagine__norm_args *args)
{
    (void)run, (void)args;
}

static void norm_rope(imagine__run *run, const imagine__norm_rope_args *args)
{
    (void)run, (void)args;
}

static void patch(imagine__run *run, const imagine__patch_args *args)
{
    (void)run, (void)args;
}

static void shortcut(imagine__run *run, const imagine__shortcut_args *args)
{
    (void)run, (void)args;
}

static void modulate(imagine__run *run, const imagine__modulate_args *args)
{
    (void)run, (void)args;
}

static void relative_bias(imagine__run *run, const imagine__relative_bias_args *args)
{
    (void)run, (void)args;
}

static void pixels(imagine__run *run, const imagine__pixels_args *args)
{
    (void)run, (void)args;
}

static void activate(imagine__run *run, const float *x, float *y, int64_t n, imagine__act act)
{
    (void)run, (void)x, (void)y, (void)n, (void)act;
}

static void embed(imagine__run *run, const void *table, imagine__wtype type, const int32_t *ids, int64_t count,
                  int64_t dim, float *y)
{
    (void)run, (void)table, (void)type, (void)ids, (void)count, (void)dim, (void)y;
}

static void combine(imagine__run *run, int32_t terms, const float *coefficient, const float *const *x, float *y,
                    int64_t n)
{
    (void)run, (void)terms, (void)coefficient, (void)x, (void)y, (void)n;
}

static void keep(imagine__run *run, const imagine__keep_args *args)
{
    (void)run, (void)args;
}

static void spread(imagine__run *run, const float *x, int64_t rows, int64_t n, double *y)
{
    (void)run, (void)x, (void)rows, (void)n, (void)y;
}

static void rescale(imagine__run *run, float *x, int64_t rows, int64_t n, const double *from, const double *to, double share)
{
    (void)run, (void)x, (void)rows, (void)n, (void)from, (void)to, (void)share;
}

static void transpose(imagine__run *run, const float *x, float *y, int64_t rows, int64_t columns)
{
    (void)run, (void)x, (void)y, (void)rows, (void)columns;
}

static int finite(imagine__run *run, const float *x, int64_t n)
{
    (void)run, (void)x, (void)n;
    return 1;
}

static void to_u8(imagine__run *run, const float *x, uint8_t *y, int64_t n)
{
    (void)run, (void)x, (void)y, (void)n;
}

static void from_u8(imagine__run *run, const uint8_t *x, float *y, int64_t n)
{
    (void)run, (void)x, (void)y, (void)n;
}

void imagine__kernels_plan(imagine__kernels *plan, const imagine__kernels *real)
{
    *plan = (imagine__kernels){
        .name = "plan",
        .linear_packed_size = real->linear_packed_size,
        .pack_linear = pack_linear,
        .pack_rows = real->pack_rows,
        .conv_packed_size = real->conv_packed_size,
        .pack_conv = pack_conv,
        .linear = linear,
        .conv = conv,
        .attention = attention,
        .norm = norm,
        .norm_rope = norm_rope,
        .patchify = patch,
        .unpatchify = patch,
        .shortcut_down = shortcut,
        .shortcut_up = shortcut,
        .modulate = modulate,
        .relative_bias = relative_bias,
        .pixels = pixels,
        .activate = activate,
        .embed = embed,
        .combine = combine,
        .keep = keep,
        .spread = spread,
        .rescale = rescale,
        .transpose = transpose,
        .finite = finite,
        .to_u8 = to_u8,
        .from_u8 = from_u8,
    };
}
