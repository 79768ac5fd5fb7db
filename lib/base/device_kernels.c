/* SPDX-License-Identifier: MIT */

/* The operations on a GPU: each only starts the module's, in the order of the context's stream. What cannot be started is
 * noted in the run's queue; once something has failed, or the run is cancelled, nothing more is started. */

#include <string.h>

#include "base/context.h"
#include "base/device.h"

/* The module for the run's next operation; NULL: it is left out. */
static const imagine__cuda *begin(imagine__run *run)
{
    const imagine__work *work = (imagine__work *)run;
    const imagine__device *d = work->device;
    if (imagine__run_stopped(run)) {
        work->queue->incomplete = 1;
        return NULL;
    }
    (void)d->cuda->use_device(d->number);
    return d->cuda;
}

static void *stream_of(const imagine__run *run)
{
    return imagine__queue_stream((const imagine__work *)run);
}

/* The module, and what an operation that goes through the workspace is called with; end_large() lets the next one start. */
static const imagine__cuda *begin_large(imagine__run *run, imagine__cuda_call *call)
{
    const imagine__cuda *cuda = begin(run);
    imagine__work *work = (imagine__work *)run;
    imagine__device *d = work->device;
    if (cuda)
        pthread_mutex_lock(&d->starting);
    *call = (imagine__cuda_call){ .stream = stream_of(run), .precision = d->precision, .workspace = d->workspace,
                                 .workspace_size = d->workspace_size, .products = work->queue->products,
                                 .convolutions = d->convolutions };
    return cuda;
}

static void note(imagine__run *run, int code, const char *what)
{
    imagine__queue_note((imagine__work *)run, code, what);
}

static void end_large(imagine__run *run, int code, const char *what)
{
    pthread_mutex_unlock(&((imagine__work *)run)->device->starting);
    note(run, code, what);
}

/* ---- weights: as they are stored, but a convolution's channels last ----------------------------------------------- */

static size_t linear_packed_size(int64_t n, int64_t k, imagine__wtype type)
{
    return imagine__kernels_plain.linear_packed_size(n, k, type);
}

static void pack_linear(void *packed, const void *rows, int64_t first, int64_t count, int64_t n, int64_t k,
                        imagine__wtype type)
{
    imagine__kernels_plain.pack_linear(packed, rows, first, count, n, k, type);
}

static size_t conv_packed_size(int64_t cout, int64_t cin, int32_t kt, int32_t kh, int32_t kw, imagine__wtype type)
{
    return imagine__kernels_plain.conv_packed_size(cout, cin, kt, kh, kw, type);
}

static void pack_conv(void *packed, const void *weight, int64_t cout, int64_t cin, int32_t kt, int32_t kh, int32_t kw,
                      imagine__wtype type)
{
    imagine__kernels_plain.pack_conv(packed, weight, cout, cin, kt, kh, kw, type);
}

/* ---- operations that the module has as they are -------------------------------------------------------------------- */

static void linear(imagine__run *run, const imagine__linear_args *args)
{
    imagine__cuda_call call;
    const imagine__cuda *cuda = begin_large(run, &call);
    if (cuda)
        end_large(run, cuda->linear(args, &call), "linear");
}

static void conv(imagine__run *run, const imagine__conv_args *args)
{
    imagine__cuda_call call;
    const imagine__cuda *cuda = begin_large(run, &call);
    if (cuda)
        end_large(run, cuda->conv(args, &call), "a convolution");
}

static void attention(imagine__run *run, const imagine__attention_args *args)
{
    imagine__cuda_call call;
    const imagine__cuda *cuda = begin_large(run, &call);
    if (cuda)
        end_large(run, cuda->attend(args, &call), "attention");
}

static void shortcut_down(imagine__run *run, const imagine__shortcut_args *args)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->shortcut_down(args, stream_of(run)), "a shortcut");
}

static void shortcut_up(imagine__run *run, const imagine__shortcut_args *args)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->shortcut_up(args, stream_of(run)), "a shortcut");
}

static void modulate(imagine__run *run, const imagine__modulate_args *args)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->modulate(args, stream_of(run)), "modulation");
}

static void relative_bias(imagine__run *run, const imagine__relative_bias_args *args)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->relative_bias(args, stream_of(run)), "a bias of positions");
}

static void pixels(imagine__run *run, const imagine__pixels_args *args)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->pixels(args, stream_of(run)), "pixels");
}

static void combine(imagine__run *run, int32_t terms, const float *coefficient, const float *const *x, float *y,
                    int64_t n)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->combine(terms, coefficient, x, y, n, stream_of(run)), "a sum of tensors");
}

static void keep(imagine__run *run, const imagine__keep_args *args)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->keep(args, stream_of(run)), "known latents");
}

static void spread(imagine__run *run, const float *x, int64_t rows, int64_t n, double *y)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->spread(x, rows, n, y, stream_of(run)), "the spread of predictions");
}

static void rescale(imagine__run *run, float *x, int64_t rows, int64_t n, const double *from, const double *to, double share)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->rescale(x, rows, n, from, to, share, stream_of(run)), "rescaling of guidance");
}

static void transpose(imagine__run *run, const float *x, float *y, int64_t rows, int64_t columns)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->transpose(x, y, rows, columns, stream_of(run)), "transposition");
}

static void to_u8(imagine__run *run, const float *x, uint8_t *y, int64_t n)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->to_u8(x, y, n, stream_of(run)), "bytes of pictures");
}

static void from_u8(imagine__run *run, const uint8_t *x, float *y, int64_t n)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->from_u8(x, y, n, stream_of(run)), "bytes of pictures");
}

/* ---- operations that the module has in a more general form ---------------------------------------------------------- */

static void norm(imagine__run *run, const imagine__norm_args *a)
{
    const imagine__cuda *cuda = begin(run);
    imagine__cuda_norm_args args = {
        .x = (void *)(uintptr_t)a->x, .y = a->y, .rows = a->rows, .dim = a->dim, .ldx = a->ldx, .ldy = a->ldy,
        .kind = a->kind, .act = a->act, .eps = a->eps, .weight = a->weight, .bias = a->bias, .x_bias = a->x_bias, .scale = a->scale,
        .shift = a->shift, .group = a->group, .ld_mod = a->ld_mod, .x_type = a->x_type, .y_type = a->y_type,
    };
    if (cuda)
        note(run, cuda->norm(&args, stream_of(run)), "a norm");
}

static void norm_rope(imagine__run *run, const imagine__norm_rope_args *a)
{
    const imagine__cuda *cuda = begin(run);
    imagine__cuda_rope_part part = { .x = a->x, .y = a->x, .weight = a->weight, .ldx = a->ldx, .y_batch = a->rows * a->ldx,
                                     .y_token = a->ldx, .rotate = a->cos_table != NULL };
    imagine__cuda_rope_part second = part;
    second.x = second.y = a->second;
    second.weight = a->second_weight;
    imagine__cuda_norm_rope_args args = {
        .part = { part, second }, .batch = 1, .tokens = a->rows, .heads = a->heads, .d = a->d, .cos_table = a->cos_table,
        .sin_table = a->sin_table, .positions = a->cos_table ? a->positions : a->rows, .x_type = a->type, .y_type = a->type,
        .eps = a->eps,
    };
    if (cuda)
        note(run, cuda->norm_rope(&args, stream_of(run)), "a norm with positions");
}

static imagine__cuda_patch_args patch_args(const imagine__patch_args *a)
{
    return (imagine__cuda_patch_args){ .x = a->x, .y = a->y, .channels = a->channels, .frames = a->frames,
                                       .height = a->height, .width = a->width, .pt = a->pt, .ph = a->ph, .pw = a->pw };
}

static void patchify(imagine__run *run, const imagine__patch_args *a)
{
    const imagine__cuda *cuda = begin(run);
    imagine__cuda_patch_args args = patch_args(a);
    if (cuda)
        note(run, cuda->patchify(&args, stream_of(run)), "patches");
}

static void unpatchify(imagine__run *run, const imagine__patch_args *a)
{
    const imagine__cuda *cuda = begin(run);
    imagine__cuda_patch_args args = patch_args(a);
    if (cuda)
        note(run, cuda->unpatchify(&args, stream_of(run)), "patches");
}

static void activate(imagine__run *run, const float *x, float *y, int64_t n, imagine__act act)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->activate(x, IMAGINE__W_F32, y, IMAGINE__W_F32, n, act, stream_of(run)), "an activation");
}

static void embed(imagine__run *run, const void *table, imagine__wtype type, const int32_t *ids, int64_t count,
                  int64_t dim, float *y)
{
    const imagine__cuda *cuda = begin(run);
    if (cuda)
        note(run, cuda->embed(table, type, ids, count, dim, y, IMAGINE__W_F32, stream_of(run)), "an embedding");
}

/* The one operation whose answer the host waits for. A run that has failed or was cancelled gets 1: imagine__work_check
 * says why. */
static int finite(imagine__run *run, const float *x, int64_t n)
{
    const imagine__cuda *cuda = begin(run);
    imagine__work *work = (imagine__work *)run;
    uint32_t bad = 0;
    if (!cuda)
        return 1;
    if (work->queue->recording) /* where the answer would be missing */
        work->queue->incomplete = 1;
    int code = cuda->finite(x, n, work->queue->flag, work->device->stream);
    if (!code)
        code = cuda->download(&bad, work->queue->flag, sizeof bad, work->device->stream);
    note(run, code, "a look for values that are not finite");
    return code || !bad;
}

const imagine__kernels imagine__kernels_device = {
    .name = "cuda",
    .linear_packed_size = linear_packed_size,
    .pack_linear = pack_linear,
    .pack_rows = 1,
    .conv_packed_size = conv_packed_size,
    .pack_conv = pack_conv,
    .linear = linear,
    .conv = conv,
    .attention = attention,
    .norm = norm,
    .norm_rope = norm_rope,
    .patchify = patchify,
    .unpatchify = unpatchify,
    .shortcut_down = shortcut_down,
    .shortcut_up = shortcut_up,
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
