/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/product.cuh"

/* Linear layers and convolutions as products (product.cuh). For the tensor cores x is rounded to bf16 into the workspace unless it
 * is so already, as many rows at a time as there is room for, and so is W where it is not stored as they take it. cuBLASLt and cuDNN
 * have their part where they are there, cuBLASLt in f32 too. */

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
#define LARGE_F32 IMAGINE__BODY((int64_t)1 << 20, (int64_t)1 << 9) /* weights: how many rows there are is not to change a row */
#define LT_ROOM ((size_t)32 << 20) /* what it has use for */
/* From so many rows of one gate on, W is multiplied by it instead of the sums. */
#define FOLDED_ROWS IMAGINE__BODY(1024, 24)

/* How cuBLASLt or cuDNN has a part in a layer: not at all; for all of it; for all of it with the gate in W; for the sums, which the
 * epilogue's kernel then finds in y's own rows or, where those are not for it, in the workspace. */
enum lt_part { LT_NONE, LT_ALL, LT_FOLDED, LT_SUMS_IN_PLACE, LT_SUMS };

/* Room for a library's own use, as much as it has use for and the rest can spare. */
static void *library_room(workspace *room, size_t *size)
{
    *size = (room->left / 4 < LT_ROOM ? room->left / 4 : LT_ROOM) / 256 * 256;
    return take(room, (int64_t)*size / 2);
}

static bool y_is_bf16(const product_epilogue &e)
{
    return e.y_type == IMAGINE__W_BF16;
}

/* Where the epilogue's kernel finds the sums: in y's rows where these are f32 and hold nothing that is still needed. */
static lt_part sums_of(const imagine__linear_args *a, const product_epilogue &e)
{
    return a->add == a->y || y_is_bf16(e) ? LT_SUMS : LT_SUMS_IN_PLACE;
}

static lt_part part_of(const imagine__linear_args *a, const product_epilogue &e, const imagine__cuda_call *call)
{
    int64_t weights = a->w->n * a->w->k;
    bool large = on_tensor_cores(call) ? a->m * weights >= LARGE : weights >= LARGE_F32;
    bool plain = !a->mul && (a->act == IMAGINE__ACT_NONE || (a->act == IMAGINE__ACT_GELU_TANH && !a->add && !a->gate));
    if (!imagine__cuda_products_there(call->products) || !e.aligned || !large)
        return LT_NONE;
    bool folds = a->gate_rows >= FOLDED_ROWS && !(a->w->bias && y_is_bf16(e)); /* the bias of a folded W is f32 */
    if (plain && !(a->add && y_is_bf16(e)) && (!a->gate || folds))
        return a->gate ? LT_FOLDED : LT_ALL;
    return sums_of(a, e);
}

/* A piece of a layer. */
struct piece {
    rows_source x;
    product_weight w;
    product_epilogue e;
    lt_part part;
    float *sums; /* of LT_SUMS */
    product_weight folded; /* of LT_FOLDED, with the gate of the piece's rows */
    const void *bias; /* for the library, of y's type */
    void *lt_room;
    size_t lt_size;
};

/* Settles how the library has a part, and takes the room for it: but for x and sums all that pieces share. */
static void share_with_library(piece *p, const imagine__linear_args *a, const imagine__cuda_call *call, workspace *room, int *status)
{
    const imagine__linear_weight *w = a->w;
    p->part = part_of(a, p->e, call);
    p->bias = p->w.bias;
    if (p->part == LT_NONE)
        return;
    p->lt_room = library_room(room, &p->lt_size);
    if (p->part == LT_FOLDED) {
        const workspace before = *room;
        void *to = take(room, w->n * p->x.k * (p->w.type == IMAGINE__W_F32 ? 2 : 1));
        float *bias = (float *)take(room, 2 * w->n);
        p->folded = {to, w->bias ? bias : nullptr, w->n, p->x.k, p->w.type, true};
        if (to && bias)
            return;
        *room = before;
        p->part = sums_of(a, p->e);
    }
    if (p->part == LT_ALL && y_is_bf16(p->e) && w->bias) {
        uint16_t *bias = take(room, w->n);
        p->bias = bias;
        if (bias && !*status)
            *status = imagine__cuda_convert(rounded_rows(w->bias, IMAGINE__W_F32, 1, w->n, w->n, bias, w->n), call->stream);
        p->part = bias ? LT_ALL : LT_SUMS;
    }
}

/* Whether cuBLASLt took the piece; *status is then the result. */
static bool by_library(const piece &p, const imagine__cuda_call *call, int *status)
{
    const product_epilogue &e = p.e;
    void *y = value_at(e.y, e.y_type, e.first * e.ldy);
    lt_product a = {p.x.x, p.w.w, y, p.x.m, p.w.n, p.x.k, p.x.ldx, e.ldy, p.w.type, e.y_type, nullptr, nullptr, 0, false,
                    p.lt_room, p.lt_size};
    if (p.part == LT_NONE)
        return false;
    if (p.part == LT_ALL || p.part == LT_FOLDED) {
        a.w = p.part == LT_FOLDED ? p.folded.w : a.w;
        a.bias = p.part == LT_FOLDED ? p.folded.bias : p.bias;
        a.gelu = e.act == IMAGINE__ACT_GELU_TANH;
        a.add = e.add ? e.add + e.first * e.ld_add : nullptr;
        a.ld_add = e.ld_add;
        return imagine__cuda_products_multiply(call->products, a, call->stream);
    }
    if (p.part == LT_SUMS)
        a.y = p.sums, a.ldy = p.w.n, a.y_type = IMAGINE__W_F32;
    if (!imagine__cuda_products_multiply(call->products, a, call->stream))
        return false;
    *status = imagine__cuda_finish(a.y, a.y_type, a.ldy, p.w, e, call->stream);
    return true;
}

/* Where a piece ends that begins at row `first` and may have so many rows; a folded one has one gate, which is then in its W. */
static int64_t begin_piece(piece *p, const imagine__linear_args *a, int64_t first, int64_t rows, void *stream, int *status)
{
    int64_t end = first + rows < a->m ? first + rows : a->m, group = p->part == LT_FOLDED ? first / a->gate_rows : 0;
    if (p->part == LT_FOLDED) {
        if (first == group * a->gate_rows)
            *status = imagine__cuda_fold({&p->w, a->gate + group * a->ld_gate, (void *)p->folded.w, (float *)p->folded.bias,
                                          p->w.type, p->x.k}, stream);
        end = end < (group + 1) * a->gate_rows ? end : (group + 1) * a->gate_rows;
    }
    p->e.first = first;
    p->e.m = end;
    return end;
}

/* How many rows at a time there is room for, at so many bytes each; 0: not for one piece. */
static int64_t rows_at_once(const imagine__linear_args *a, const workspace &room, int64_t row)
{
    int64_t rows = !row ? a->m : room.left < 512 ? 0 : (int64_t)(room.left - 512) / row;
    return rows < a->m ? rows / ROWS * ROWS : a->m;
}

/* Whether there was room; *status is then the result. */
static bool linear_bf16(const imagine__linear_args *a, const imagine__cuda_call *call, const product_epilogue &e, int *status)
{
    const imagine__linear_weight *w = a->w;
    workspace room = workspace_of(call);
    int64_t k = in_whole_eights(w->k);
    bool as_it_is = a->x_type == IMAGINE__W_BF16 && k == w->k && in_eights(a->x, 0, a->ldx);
    piece p = {};
    p.w = {weight_bf16(w->packed, w->type, w->n, w->k, &room, call->stream, status), w->bias, w->n, k, IMAGINE__W_BF16, true};
    p.e = e;
    p.x.k = k;
    share_with_library(&p, a, call, &room, status);
    int64_t rows = rows_at_once(a, room, (as_it_is ? 0 : 2 * k) + (p.part == LT_SUMS ? 4 * w->n : 0));
    uint16_t *rounded = p.w.w && rows && !as_it_is ? take(&room, rows * k) : nullptr;
    p.sums = p.part == LT_SUMS && p.w.w && rows ? (float *)take(&room, 2 * rows * w->n) : nullptr;
    if (!p.w.w || !rows || !(as_it_is || rounded) || (p.part == LT_SUMS && !p.sums))
        return false;
    for (int64_t first = 0, end; first < a->m && !*status; first = end) {
        end = begin_piece(&p, a, first, rows, call->stream, status);
        const void *x = value_at(a->x, a->x_type, first * a->ldx);
        p.x = {as_it_is ? x : rounded, end - first, as_it_is ? a->ldx : k, k, true, IMAGINE__W_BF16};
        if (!as_it_is && !*status)
            *status = imagine__cuda_convert(rounded_rows(x, a->x_type, p.x.m, w->k, a->ldx, rounded, k), call->stream);
        if (!*status && !by_library(p, call, status))
            *status = imagine__cuda_multiply_bf16(p.x, p.w, p.e, call->stream);
    }
    return true;
}

/* W in f32, as it is or widened into the workspace, which changes no value; NULL without room. */
static const void *weight_f32(const imagine__linear_weight *w, workspace *room, void *stream, int *status)
{
    if (w->type == IMAGINE__W_F32)
        return w->packed;
    float *wide = (float *)take(room, 2 * w->n * w->k);
    if (wide)
        *status = imagine__cuda_convert({w->packed, wide, w->type, IMAGINE__W_F32, 1, w->n, 1, w->k, w->k, {0, w->k, 0},
                                         {0, w->k, 0}, nullptr}, stream);
    return wide;
}

/* In f32 by cuBLASLt. Whether it is there, the layer is for it and there was room; *status is then the result. */
static bool linear_f32(const imagine__linear_args *a, const imagine__cuda_call *call, const product_epilogue &e, int *status)
{
    const imagine__linear_weight *w = a->w;
    workspace room = workspace_of(call);
    if (part_of(a, e, call) == LT_NONE || a->x_type != IMAGINE__W_F32 || y_is_bf16(e) || w->k % 4 ||
        !in_fours(a->x, IMAGINE__W_F32, a->ldx) || (uintptr_t)w->packed % 16)
        return false;
    piece p = {};
    p.w = {weight_f32(w, &room, call->stream, status), w->bias, w->n, w->k, IMAGINE__W_F32, true};
    p.e = e;
    p.x.k = w->k;
    share_with_library(&p, a, call, &room, status);
    int64_t rows = rows_at_once(a, room, p.part == LT_SUMS ? 4 * w->n : 0);
    p.sums = p.part == LT_SUMS && rows ? (float *)take(&room, 2 * rows * w->n) : nullptr;
    if (!p.w.w || !rows || (p.part == LT_SUMS && !p.sums))
        return false;
    for (int64_t first = 0, end; first < a->m && !*status; first = end) {
        end = begin_piece(&p, a, first, rows, call->stream, status);
        p.x = {(const float *)a->x + first * a->ldx, end - first, a->ldx, w->k, true, IMAGINE__W_F32};
        if (!*status && !by_library(p, call, status))
            *status = imagine__cuda_multiply(p.x, p.w, p.e, call->stream);
    }
    return true;
}

int imagine__cuda_linear(const imagine__linear_args *a, const imagine__cuda_call *call)
{
    const imagine__linear_weight *w = a->w;
    int status = 0;
    if (a->m <= 0 || w->n <= 0)
        return 0;
    product_epilogue e = {a->y, 0, a->m, a->ldy, a->act, a->y_type, false, a->mul, a->gate, a->add, a->ld_mul, a->gate_rows,
                          a->ld_gate, a->ld_add};
    e.aligned = in_fours(a->y, a->y_type, a->ldy) && floats_in_fours(w->bias, 0) && floats_in_fours(a->mul, a->ld_mul) &&
                floats_in_fours(a->gate, a->ld_gate) && floats_in_fours(a->add, a->ld_add);
    rows_source source = {a->x, a->m, a->ldx, w->k, in_fours(a->x, a->x_type, a->ldx), a->x_type};
    product_weight weight = {w->packed, w->bias, w->n, w->k, w->type, in_fours(w->packed, w->type, w->k)};
    if (on_tensor_cores(call) && imagine__cuda_are_few(source, weight))
        return imagine__cuda_multiply_few_bf16(source, weight, e, call->stream);
    if (on_tensor_cores(call) ? linear_bf16(a, call, e, &status) : linear_f32(a, call, e, &status))
        return status;
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
    s.pad_top = a->pad_top, s.pad_left = a->pad_left, s.upsample = a->upsample, s.type = a->x_type;
    s.aligned = cin % 4 == 0;
    for (int32_t t = 0; t < w->kt; t++)
        if (a->x[t]) {
            s.aligned = s.aligned && in_fours(a->x[t], a->x_type, a->ldx);
            s.weight[s.frames] = (int64_t)t * w->kh * w->kw * cin;
            s.x[s.frames++] = a->x[t];
        }
    return s;
}

/* Lines or columns of the frame. */
struct span {
    int64_t first, end;
};

/* Those of `size`, enlarged or not, that lines or columns first..end-1 of output read. */
static span read_by(int64_t first, int64_t end, int64_t stride, int64_t pad, int64_t taps, int64_t upsample, int64_t size)
{
    int64_t begin = first * stride - pad, behind = (end - 1) * stride - pad + taps;
    span s = {begin < 0 ? 0 : begin / upsample, behind <= 0 ? 0 : (behind - 1) / upsample + 1};
    s.end = s.end < size ? s.end : size;
    s.first = s.first < s.end ? s.first : s.end;
    return s;
}

static span lines_for(const imagine__conv_args *a, int64_t first, int64_t end)
{
    return read_by(first, end, a->stride_h, a->pad_top, a->w->kh, a->upsample, a->height);
}

static span columns_for(const imagine__conv_args *a)
{
    return read_by(0, a->out_w, a->stride_w, a->pad_left, a->w->kw, a->upsample, a->width);
}

static int64_t length(span s)
{
    return s.end - s.first;
}

/* A convolution in pieces. */
struct conv_pieces {
    const imagine__conv_args *a;
    const imagine__cuda_call *call;
    taps_source source; /* of frames as they are given */
    product_weight w;
    product_epilogue e;
    bool as_they_are; /* the frames, which are otherwise copied into the workspace, in bf16 */
    lt_part part; /* of cuDNN */
    int64_t outputs; /* of cuDNN: cout, in eights */
    uint16_t *sums; /* of LT_SUMS, of all lines; NULL: in the workspace, of a piece */
    void *dnn_room;
    size_t dnn_size;
};

/* Values of a row of W for one frame. */
static int64_t frame_of(const taps_source &s)
{
    return (int64_t)s.kh * s.kw * s.cin;
}

#define DNN_MOST 0x7fffffff /* values of a tensor of cuDNN's; for larger ones it has no fast engines */

/* cuDNN has a part in large ones. Frames that are absent are those before a clip's first: what there is lies side by side in W. */
static lt_part part_of(const conv_pieces &p)
{
    const imagine__conv_args *a = p.a;
    const taps_source &s = p.source;
    int64_t row = s.frames * frame_of(s);
    if (!imagine__cuda_convolutions_there(p.call->convolutions) || !row ||
        s.weight[s.frames - 1] != s.weight[0] + row - frame_of(s) || a->out_h * a->out_w * a->w->cout * row < LARGE)
        return LT_NONE;
    if (!y_is_bf16(p.e) || a->w->cout % 8 || !in_eights(p.e.y, 0, p.e.ldy) || a->out_h * a->out_w * p.e.ldy > DNN_MOST)
        return LT_SUMS;
    return a->act == IMAGINE__ACT_NONE && !a->w->bias && !a->add ? LT_ALL : LT_SUMS_IN_PLACE;
}

/* Whether the tensor cores can read the frames where they lie. */
static bool in_place(const conv_pieces &p)
{
    bool good = p.source.type == IMAGINE__W_BF16 && p.source.cin == p.a->w->cin;
    for (int32_t t = 0; t < p.source.frames; t++)
        good = good && in_eights(p.source.x[t], 0, p.source.ldx);
    return good;
}

static uintptr_t address_of(const taps_source &s, int32_t t)
{
    return (uintptr_t)s.x[t];
}

/* The frames by their addresses: three that take turns in a ring are as good as three in a row, when W takes turns with them. */
static void sort_frames(taps_source *s)
{
    for (int32_t i = 1; i < s->frames; i++)
        for (int32_t t = i; t > 0 && address_of(*s, t) < address_of(*s, t - 1); t--) {
            const void *x = s->x[t];
            int64_t weight = s->weight[t];
            s->x[t] = s->x[t - 1], s->weight[t] = s->weight[t - 1];
            s->x[t - 1] = x, s->weight[t - 1] = weight;
        }
}

/* Whether cuDNN reads the frames where they lie, which are then sorted. Its fast engines take lines, and frames where there are several,
 * only if they lie one behind the other with nothing between; of others they make a copy, for which there is no room. So no column may
 * be trimmed, and of several frames no line. */
static bool in_place_for_dnn(conv_pieces *p)
{
    const imagine__conv_args *a = p->a;
    taps_source sorted = p->source;
    int64_t frame = sorted.height * sorted.width * sorted.cin;
    if (!in_place(*p) || sorted.ldx != sorted.cin || sorted.upsample != 1 || length(columns_for(a)) != a->width ||
        (sorted.frames > 1 && length(lines_for(a, 0, a->out_h)) != a->height) || sorted.frames * frame > DNN_MOST)
        return false;
    sort_frames(&sorted);
    for (int32_t t = 1; t < sorted.frames; t++)
        if (address_of(sorted, t) - address_of(sorted, t - 1) != (uintptr_t)(2 * frame))
            return false;
    p->source = sorted;
    return true;
}

/* Bytes that so many lines of output take in the workspace: what they read, rounded, and once more where it is enlarged for
 * cuDNN; the sums. */
static size_t bytes_for(const conv_pieces &p, int64_t lines)
{
    const imagine__conv_args *a = p.a;
    int64_t read = ((lines - 1) * a->stride_h + a->w->kh - 1) / a->upsample + 2;
    read = read < a->height ? read : a->height;
    int64_t rounded = p.as_they_are ? 0 : p.source.frames * read * length(columns_for(a)) * p.source.cin * 2;
    int64_t enlarged = p.part != LT_NONE && a->upsample == 2 ? 4 * rounded + 256 : 0;
    return (size_t)(rounded + 256 + enlarged + (p.part == LT_SUMS && !p.sums ? lines * a->out_w * p.outputs * 2 + 256 : 0));
}

/* How many lines of output at a time there is room for, 0 when not for one. */
static int64_t lines_at_once(const conv_pieces &p, const workspace &room)
{
    int64_t count = p.a->out_h;
    while (count && bytes_for(p, count) > room.left)
        count /= 2;
    return count;
}

/* The frames of a piece, one behind the other, as cuDNN takes them: enlarged, without what nothing reads. */
static bool frames_for_dnn(const taps_source &s, workspace *room, dnn_convolution *d, void *stream, int *status)
{
    span lines = read_by(0, d->out_h, d->stride_h, s.pad_top, d->kh, 1, s.height * s.upsample);
    span columns = read_by(0, d->out_w, d->stride_w, s.pad_left, d->kw, 1, s.width * s.upsample);
    d->height = length(lines), d->width = length(columns);
    d->pad_top = s.pad_top + (int32_t)lines.first, d->pad_left = s.pad_left + (int32_t)columns.first;
    d->pad_bottom = (int32_t)((d->out_h - 1) * d->stride_h + d->kh - d->height) - d->pad_top;
    d->pad_right = (int32_t)((d->out_w - 1) * d->stride_w + d->kw - d->width) - d->pad_left;
    if (d->height <= 0 || d->width <= 0)
        return false;
    if (s.upsample == 2) {
        uint16_t *enlarged = take(room, s.frames * d->height * d->width * s.cin);
        d->line = d->width * s.cin, d->frame = d->height * d->line, d->x = enlarged;
        if (enlarged)
            *status = imagine__cuda_enlarge(s.x[0], enlarged, s.frames, s.height, s.width, s.cin, IMAGINE__W_BF16,
                                            {lines.first, columns.first, d->height, d->width}, stream);
        return enlarged;
    }
    d->line = s.width * s.cin, d->frame = s.height * d->line;
    d->x = (const uint16_t *)s.x[0] + lines.first * d->line + columns.first * s.cin;
    return true;
}

/* Whether cuDNN took the piece; *status is then the result. */
static bool by_library(const conv_pieces &p, const taps_source &s, const product_epilogue &e, workspace room, int *status)
{
    const imagine__conv_weight *w = p.a->w;
    int64_t pixels = e.m - e.first;
    dnn_convolution d = {};
    if (p.part == LT_NONE)
        return false;
    d.w = p.w.w, d.cin = s.cin, d.cout = p.outputs, d.frames = s.frames, d.kh = w->kh, d.kw = w->kw;
    d.out_w = s.out_w, d.out_h = pixels / s.out_w, d.stride_h = s.stride_h, d.stride_w = s.stride_w;
    d.workspace = p.dnn_room, d.workspace_size = p.dnn_size;
    d.y = (uint16_t *)e.y + e.first * e.ldy, d.ldy = e.ldy;
    if (p.part == LT_SUMS)
        d.y = p.sums ? p.sums + e.first * p.outputs : take(&room, pixels * p.outputs), d.ldy = p.outputs;
    if (!d.y || !frames_for_dnn(s, &room, &d, p.call->stream, status) || *status ||
        !imagine__cuda_convolve(p.call->convolutions, d, p.call->stream))
        return *status != 0;
    if (p.part != LT_ALL)
        *status = imagine__cuda_finish(d.y, IMAGINE__W_BF16, d.ldy, p.w, e, p.call->stream);
    return true;
}

/* Lines first..end-1 of output, from lines of the frames, which are rounded first unless they are as they should be. */
static int conv_lines(const conv_pieces &p, workspace room, int64_t first, int64_t end)
{
    const imagine__conv_args *a = p.a;
    taps_source source = p.source;
    product_epilogue e = p.e;
    span l = lines_for(a, first, end), c = p.as_they_are ? span{0, a->width} : columns_for(a);
    int64_t pixels = length(l) * length(c);
    uint16_t *rounded = p.as_they_are ? nullptr : take(&room, source.frames * pixels * source.cin);
    int status = rounded || p.as_they_are ? 0 : IMAGINE__CUDA_INVALID; /* cannot be: lines_at_once() */
    for (int32_t t = 0; t < source.frames && !status; t++) {
        source.x[t] = value_at(source.x[t], a->x_type, (l.first * a->width + c.first) * a->ldx);
        if (p.as_they_are)
            continue;
        uint16_t *to = rounded + t * pixels * source.cin;
        status = imagine__cuda_convert({source.x[t], to, a->x_type, IMAGINE__W_BF16, length(l), length(c), 1, a->w->cin, source.cin,
                                        {a->width * a->ldx, a->ldx, 0}, {length(c) * source.cin, source.cin, 0}, nullptr},
                                       p.call->stream);
        source.x[t] = to;
    }
    if (!p.as_they_are)
        source.ldx = source.cin;
    source.height = length(l), source.width = length(c);
    source.pad_top = (int32_t)(a->pad_top + a->upsample * l.first - first * a->stride_h);
    source.pad_left = (int32_t)(a->pad_left + a->upsample * c.first);
    source.pixels = (end - first) * a->out_w;
    e.first = first * a->out_w;
    e.m = end * a->out_w;
    if (status || by_library(p, source, e, room, &status))
        return status;
    return imagine__cuda_multiply_bf16(source, p.w, e, p.call->stream);
}

/* W of the frames that are there alone and in their order, which cuDNN takes dense. Outputs that only cuDNN has get whatever lies
 * there: nobody looks at them. Whether there was room. */
static bool gather_weights(conv_pieces *p, workspace *room, int *status)
{
    taps_source &s = p->source;
    int64_t frame = frame_of(s), row = s.frames * frame;
    bool dense = row == p->w.row && p->outputs == p->w.n;
    for (int32_t t = 0; t < s.frames; t++)
        dense = dense && s.weight[t] == t * frame;
    if (dense)
        return true;
    uint16_t *w = take(room, p->outputs * row);
    if (!w)
        return false;
    for (int32_t t = 0, end; t < s.frames && !*status; t = end) {
        for (end = t + 1; end < s.frames && s.weight[end] == s.weight[end - 1] + frame;)
            end++;
        convert_args turn = rounded_rows((const uint16_t *)p->w.w + s.weight[t], IMAGINE__W_BF16, p->w.n, (end - t) * frame,
                                         p->w.row, w + t * frame, (end - t) * frame);
        turn.to.token = row;
        *status = imagine__cuda_convert(turn, p->call->stream);
    }
    p->w.w = w, p->w.row = row;
    for (int32_t t = 0; t < s.frames; t++)
        s.weight[t] = t * frame;
    return true;
}

/* How many lines at a time there is room for with a part for cuDNN, or without where there is none so; 0: not for one. */
static int64_t share_room(conv_pieces *p, workspace *room, int *status)
{
    const conv_pieces own = *p;
    const workspace all = *room;
    if (!p->w.w)
        return 0;
    p->part = part_of(*p);
    if (p->part != LT_NONE) {
        p->outputs = in_whole_eights(p->w.n);
        if (p->a->scratch && (uintptr_t)p->a->scratch % 16 == 0 && p->outputs * 2 <= p->w.n * 4 &&
            p->a->out_h * p->a->out_w * p->outputs <= DNN_MOST)
            p->sums = (uint16_t *)p->a->scratch;
        p->dnn_room = library_room(room, &p->dnn_size); /* as much whether W is gathered or not: plans are for its size */
        const conv_pieces copied = *p;
        const workspace rest = *room;
        for (p->as_they_are = in_place_for_dnn(p);; p->as_they_are = false) {
            int64_t lines = gather_weights(p, room, status) ? lines_at_once(*p, *room) : 0;
            if (lines && (!p->as_they_are || p->source.frames == 1 || lines == p->a->out_h))
                return lines;
            if (!p->as_they_are)
                break;
            *p = copied;
            *room = rest;
        }
    }
    *p = own;
    *room = all;
    p->as_they_are = in_place(*p);
    return lines_at_once(*p, *room);
}

/* Whether there was room; *status is then the result. */
static bool conv_bf16(const imagine__conv_args *a, const imagine__cuda_call *call, const product_epilogue &e, int *status)
{
    const imagine__conv_weight *w = a->w;
    workspace room = workspace_of(call);
    int64_t taps = (int64_t)w->kt * w->kh * w->kw, cin = in_whole_eights(w->cin);
    product_weight weight = {weight_bf16(w->packed, w->type, w->cout * taps, w->cin, &room, call->stream, status), w->bias,
                             w->cout, cin * taps, IMAGINE__W_BF16, true};
    conv_pieces p = {a, call, taps_of(a, cin), weight, e, false, LT_NONE, w->cout, nullptr, nullptr, 0};
    int64_t lines = ints_suffice(p.source) ? share_room(&p, &room, status) : 0;
    if (!lines)
        return false;
    for (int64_t first = 0; first < a->out_h && !*status; first += lines)
        *status = conv_lines(p, room, first, first + lines < a->out_h ? first + lines : a->out_h);
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
    e.y = a->y, e.m = a->out_h * a->out_w, e.ldy = a->ldy, e.act = a->act, e.y_type = a->y_type, e.add = a->add, e.ld_add = a->ld_add;
    e.aligned = in_fours(a->y, a->y_type, a->ldy) && floats_in_fours(w->bias, 0) && floats_in_fours(a->add, a->ld_add);
    if (on_tensor_cores(call) && w->cin > 0 && conv_bf16(a, call, e, &status))
        return status;
    product_weight weight = {w->packed, w->bias, w->cout, row * w->kt, w->type,
                             row % 4 == 0 && in_fours(w->packed, w->type, 0)};
    return imagine__cuda_multiply(taps_of(a, w->cin), weight, e, call->stream);
}
