/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/product.cuh"

/* Linear layers and convolutions as products (product.cuh). For the tensor cores x is rounded to bf16 into the workspace, as
 * many rows at a time as there is room for, and so is W where it is not stored as they take it. */

#define ROWS 128 /* pieces are of whole tiles */

static bool floats_in_fours(const float *p, int64_t stride)
{
    return in_fours(p, IMAGINE__W_F32, stride);
}

static bool on_tensor_cores(const imagine__cuda_call *call)
{
    return call->precision == IMAGINE__CUDA_BF16 && device_capability() >= 80;
}

/* W [rows, depth] for the tensor cores, as it is or from the workspace with its rows padded; NULL without room. */
static const void *weight_bf16(const void *packed, imagine__wtype type, int64_t rows, int64_t depth, workspace *room,
                               void *stream, int *status)
{
    int64_t padded = in_whole_eights(depth);
    if (type == IMAGINE__W_BF16 && padded == depth && (uintptr_t)packed % 16 == 0)
        return packed;
    uint16_t *w = take(room, rows * padded);
    if (w)
        *status = imagine__cuda_convert(rounded_rows(packed, type, rows, depth, depth, w, padded), stream);
    return w;
}

/* ---- linear ------------------------------------------------------------------------------------------------------ */

/* From so many multiply-adds on cuBLASLt is asked. */
#define LARGE IMAGINE__BODY((int64_t)1 << 26, (int64_t)1 << 12)
#define LT_ROOM ((size_t)32 << 20) /* what it has use for */

/* How cuBLASLt has a part in a layer: not at all; for all of it; for the sums, which the epilogue's kernel then finds in y's
 * own rows or, where y is also what is added, in the workspace. */
enum lt_part { LT_NONE, LT_ALL, LT_SUMS_IN_PLACE, LT_SUMS };

static lt_part part_of(const imagine__linear_args *a, const product_epilogue &e, const imagine__cuda_call *call)
{
    if (!imagine__cuda_products_there(call->products) || !e.aligned || a->m * a->w->n * a->w->k < LARGE)
        return LT_NONE;
    if (!a->mul && !a->gate && (a->act == IMAGINE__ACT_NONE || (a->act == IMAGINE__ACT_GELU_TANH && !a->add)))
        return LT_ALL;
    return a->add == a->y ? LT_SUMS : LT_SUMS_IN_PLACE;
}

/* A piece of a layer. */
struct piece {
    rows_source x;
    product_weight w;
    product_epilogue e;
    lt_part part;
    float *sums; /* of LT_SUMS */
    void *lt_room;
    size_t lt_size;
};

/* Whether cuBLASLt took the piece; *status is then the result. */
static bool by_library(const piece &p, const imagine__cuda_call *call, int *status)
{
    float *y = p.e.y + p.e.first * p.e.ldy;
    lt_product a = {(const uint16_t *)p.x.x, p.w.w, y, p.x.m, p.w.n, p.x.k, p.e.ldy, nullptr, nullptr, 0, false, p.lt_room,
                    p.lt_size};
    if (p.part == LT_NONE)
        return false;
    if (p.part == LT_ALL) {
        a.bias = p.w.bias;
        a.gelu = p.e.act == IMAGINE__ACT_GELU_TANH;
        a.add = p.e.add ? p.e.add + p.e.first * p.e.ld_add : nullptr;
        a.ld_add = p.e.ld_add;
        return imagine__cuda_products_multiply(call->products, a, call->stream);
    }
    if (p.part == LT_SUMS)
        a.y = p.sums, a.ldy = p.w.n;
    if (!imagine__cuda_products_multiply(call->products, a, call->stream))
        return false;
    *status = imagine__cuda_finish(a.y, a.ldy, p.w, p.e, call->stream);
    return true;
}

/* Whether there was room; *status is then the result. */
static bool linear_bf16(const imagine__linear_args *a, const imagine__cuda_call *call, const product_epilogue &e, int *status)
{
    const imagine__linear_weight *w = a->w;
    workspace room = workspace_of(call);
    int64_t k = in_whole_eights(w->k);
    piece p = {{}, {weight_bf16(w->packed, w->type, w->n, w->k, &room, call->stream, status), w->bias, w->n, k,
                    IMAGINE__W_BF16, true}, e, part_of(a, e, call), nullptr, nullptr, 0};
    if (p.part != LT_NONE) {
        p.lt_size = (room.left / 4 < LT_ROOM ? room.left / 4 : LT_ROOM) / 256 * 256;
        p.lt_room = take(&room, (int64_t)p.lt_size / 2);
    }
    int64_t row = 2 * k + (p.part == LT_SUMS ? 4 * w->n : 0); /* bytes */
    int64_t rows = room.left < 512 ? 0 : (int64_t)(room.left - 512) / (row ? row : 1);
    rows = rows < a->m ? rows / ROWS * ROWS : a->m;
    uint16_t *x = p.w.w && rows ? take(&room, rows * k) : nullptr;
    p.sums = p.part == LT_SUMS && x ? (float *)take(&room, 2 * rows * w->n) : nullptr;
    if (!x || (p.part == LT_SUMS && !p.sums))
        return false;
    for (int64_t first = 0; first < a->m && !*status; first += rows) {
        p.e.first = first;
        p.e.m = first + rows < a->m ? first + rows : a->m;
        p.x = {x, p.e.m - first, k, k, true};
        *status = imagine__cuda_convert(rounded_rows(a->x + first * a->ldx, IMAGINE__W_F32, p.x.m, w->k, a->ldx, x, k),
                                        call->stream);
        if (!*status && !by_library(p, call, status))
            *status = imagine__cuda_multiply_bf16(p.x, p.w, p.e, call->stream);
    }
    return true;
}

int imagine__cuda_linear(const imagine__linear_args *a, const imagine__cuda_call *call)
{
    const imagine__linear_weight *w = a->w;
    int status = 0;
    if (a->m <= 0 || w->n <= 0)
        return 0;
    product_epilogue e = {a->y, 0, a->m, a->ldy, a->act, false, a->mul, a->gate, a->add, a->ld_mul, a->gate_rows, a->ld_gate,
                          a->ld_add};
    e.aligned = floats_in_fours(a->y, a->ldy) && floats_in_fours(w->bias, 0) && floats_in_fours(a->mul, a->ld_mul) &&
                floats_in_fours(a->gate, a->ld_gate) && floats_in_fours(a->add, a->ld_add);
    if (on_tensor_cores(call) && linear_bf16(a, call, e, &status))
        return status;
    rows_source source = {a->x, a->m, a->ldx, w->k, floats_in_fours(a->x, a->ldx)};
    product_weight weight = {w->packed, w->bias, w->n, w->k, w->type, in_fours(w->packed, w->type, w->k)};
    return imagine__cuda_multiply(source, weight, e, call->stream);
}

/* ---- convolution ------------------------------------------------------------------------------------------------- */

/* What all pieces of a convolution share; `cin` are the channels of a pixel, padding and all. */
static taps_source taps_of(const imagine__conv_args *a, int64_t cin)
{
    const imagine__conv_weight *w = a->w;
    taps_source s = {};
    s.ldx = a->ldx, s.height = a->height, s.width = a->width, s.out_w = a->out_w, s.pixels = a->out_h * a->out_w;
    s.cin = (int32_t)cin, s.kh = w->kh, s.kw = w->kw, s.stride_h = a->stride_h, s.stride_w = a->stride_w;
    s.pad_top = a->pad_top, s.pad_left = a->pad_left, s.upsample = a->upsample;
    s.aligned = cin % 4 == 0;
    for (int32_t t = 0; t < w->kt; t++)
        if (a->x[t]) {
            s.aligned = s.aligned && floats_in_fours(a->x[t], a->ldx);
            s.weight[s.frames] = (int64_t)t * w->kh * w->kw * cin;
            s.x[s.frames++] = a->x[t];
        }
    return s;
}

/* Lines of the frame that lines first..end-1 of output read. */
struct lines {
    int64_t first, end;
};

static lines lines_for(const imagine__conv_args *a, int64_t first, int64_t end)
{
    int64_t top = first * a->stride_h - a->pad_top, bottom = (end - 1) * a->stride_h - a->pad_top + a->w->kh;
    lines l = {top < 0 ? 0 : top / a->upsample, bottom <= 0 ? 0 : (bottom - 1) / a->upsample + 1};
    l.end = l.end < a->height ? l.end : a->height;
    l.first = l.first < l.end ? l.first : l.end;
    return l;
}

/* How many lines of output at a time there is room for, 0 when not for one. */
static int64_t lines_at_once(const imagine__conv_args *a, int32_t frames, int64_t cin, const workspace &room)
{
    int64_t count = a->out_h;
    for (; count; count /= 2) {
        int64_t read = ((count - 1) * a->stride_h + a->w->kh - 1) / a->upsample + 2;
        read = read < a->height ? read : a->height;
        if ((uint64_t)frames * (uint64_t)(read * a->width * cin * 2 + 256) <= room.left)
            break;
    }
    return count;
}

/* One piece of output, from lines of the frames that are rounded first. */
static int conv_lines(const imagine__conv_args *a, const imagine__cuda_call *call, taps_source source, workspace room,
                      const product_weight &weight, product_epilogue e, int64_t first, int64_t end)
{
    lines l = lines_for(a, first, end);
    int64_t pixels = (l.end - l.first) * a->width;
    int status = 0;
    for (int32_t t = 0; t < source.frames && !status; t++) {
        const float *x = (const float *)source.x[t] + l.first * a->width * a->ldx;
        uint16_t *rounded = take(&room, pixels * source.cin);
        if (!rounded)
            return IMAGINE__CUDA_INVALID; /* cannot be: lines_at_once() */
        status = imagine__cuda_convert(rounded_rows(x, IMAGINE__W_F32, pixels, a->w->cin, a->ldx, rounded, source.cin),
                                       call->stream);
        source.x[t] = rounded;
    }
    source.ldx = source.cin;
    source.height = l.end - l.first;
    source.pad_top = (int32_t)(a->pad_top + a->upsample * l.first - first * a->stride_h);
    source.pixels = (end - first) * a->out_w;
    e.first = first * a->out_w;
    e.m = end * a->out_w;
    return status ? status : imagine__cuda_multiply_bf16(source, weight, e, call->stream);
}

/* Whether there was room; *status is then the result. */
static bool conv_bf16(const imagine__conv_args *a, const imagine__cuda_call *call, const product_epilogue &e, int *status)
{
    const imagine__conv_weight *w = a->w;
    workspace room = workspace_of(call);
    int64_t taps = (int64_t)w->kt * w->kh * w->kw, cin = in_whole_eights(w->cin);
    product_weight weight = {weight_bf16(w->packed, w->type, w->cout * taps, w->cin, &room, call->stream, status), w->bias,
                             w->cout, cin * taps, IMAGINE__W_BF16, true};
    taps_source source = taps_of(a, cin);
    int64_t lines = weight.w ? lines_at_once(a, source.frames, cin, room) : 0;
    if (!lines)
        return false;
    for (int64_t first = 0; first < a->out_h && !*status; first += lines) {
        int64_t end = first + lines < a->out_h ? first + lines : a->out_h;
        *status = conv_lines(a, call, source, room, weight, e, first, end);
    }
    return true;
}

int imagine__cuda_conv(const imagine__conv_args *a, const imagine__cuda_call *call)
{
    const imagine__conv_weight *w = a->w;
    int64_t row = w->cin * w->kh * w->kw;
    int status = 0;
    if (a->out_h <= 0 || a->out_w <= 0 || w->cout <= 0)
        return 0;
    if (w->kt > IMAGINE__CUDA_FRAMES || row > 0x7fffffff / 8)
        return IMAGINE__CUDA_INVALID;
    product_epilogue e = {};
    e.y = a->y, e.m = a->out_h * a->out_w, e.ldy = a->ldy, e.act = a->act, e.add = a->add, e.ld_add = a->ld_add;
    e.aligned = floats_in_fours(a->y, a->ldy) && floats_in_fours(w->bias, 0) && floats_in_fours(a->add, a->ld_add);
    if (on_tensor_cores(call) && conv_bf16(a, call, e, &status))
        return status;
    product_weight weight = {w->packed, w->bias, w->cout, row * w->kt, w->type,
                             row % 4 == 0 && in_fours(w->packed, w->type, 0)};
    return imagine__cuda_multiply(taps_of(a, w->cin), weight, e, call->stream);
}
