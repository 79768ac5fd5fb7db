/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/convert.cuh"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/softmax.cuh"

/* Attention as the stages have it. bf16 tensors go to the kernels for tensor cores as they are where these take them so. All
 * else in one of four ways: rounded to bf16, with padded heads, for those kernels, where that precision is asked for and the
 * shape suits them; where there is much to do by the kernel for f32, or, if it does not take the shape, as two products with a
 * softmax between, in bf16 where heads are too large for the former kernels, in f32 otherwise, bf16 widened head by head for it; or by
 * the plain kernel, which needs no workspace. */

#define THREADS 256

/* One clip and one head, or several of both. */
struct attention_part {
    int64_t batch, batches, head, heads;
};

/* Where the part begins in q, k, v or y. */
static void *at(const imagine__attention_args *a, const void *p, int64_t batch_stride, const attention_part &part)
{
    return value_at(p, a->type, part.batch * batch_stride + part.head * a->d);
}

/* ---- on tensor cores --------------------------------------------------------------------------------------------- */

/* The head size that the kernels have for d, 0 if none. */
static int64_t padded_size(int64_t d)
{
    static const int64_t sizes[] = {64, 80, 96, 128};
    for (int64_t size : sizes)
        if (d <= size)
            return size;
    return 0;
}

static convert_args rounded_heads(const imagine__attention_args *a, const attention_part &part, const void *x,
                                  int64_t batch_stride, int64_t token_stride, int64_t tokens, uint16_t *y, int64_t size)
{
    return {at(a, x, batch_stride, part), y, a->type, IMAGINE__W_BF16, part.batches, tokens, part.heads, a->d, size,
            {batch_stride, token_stride, a->d}, {tokens * part.heads * size, part.heads * size, size}, nullptr};
}

/* Rounds q, k and v, or copies them, attends, and gives the result its type and place. */
static int attend_rounded(const imagine__attention_args *a, const attention_part &part, int64_t size, workspace room,
                          void *stream)
{
    int64_t row = part.heads * size, queries = part.batches * a->tokens * row, keys = part.batches * a->kv * row;
    uint16_t *q = take(&room, queries), *k = take(&room, keys), *v = take(&room, keys), *y = take(&room, queries);
    const int64_t *length = a->kv_length ? a->kv_length + part.batch : nullptr;
    if (!q || !k || !v || !y)
        return IMAGINE__CUDA_INVALID; /* cannot be: attend_bf16() has looked */
    convert_args from_q = rounded_heads(a, part, a->q, a->q_batch, a->q_token, a->tokens, q, size);
    convert_args from_k = rounded_heads(a, part, a->k, a->k_batch, a->k_token, a->kv, k, size);
    convert_args from_v = rounded_heads(a, part, a->v, a->v_batch, a->v_token, a->kv, v, size);
    from_k.length = from_v.length = length;
    imagine__cuda_attention_args b = {q, k, v, y, part.batches, part.heads, size, a->tokens, a->kv, a->tokens * row, row,
                                      a->kv * row, row, a->kv * row, row, a->tokens * row, row, length, nullptr, a->scale,
                                      IMAGINE__W_BF16, nullptr, 0, 0, 0, 0};
    convert_args back = rounded_heads(a, part, a->y, a->y_batch, a->y_token, a->tokens, y, size), to = back;
    to.x = y, to.y = (void *)back.x, to.x_type = IMAGINE__W_BF16, to.y_type = a->type;
    to.padded = a->d, to.from = back.to, to.to = back.from;
    int status = imagine__cuda_convert(from_q, stream);
    status = status ? status : imagine__cuda_convert(from_k, stream);
    status = status ? status : imagine__cuda_convert(from_v, stream);
    status = status ? status : imagine__cuda_attention(&b, stream);
    return status ? status : imagine__cuda_convert(to, stream);
}

/* Whether the shape is for tensor cores and there is room for one head at least; *status is then the result. */
static bool attend_bf16(const imagine__attention_args *a, const imagine__cuda_call *call, int *status)
{
    int64_t size = padded_size(a->d);
    workspace room = workspace_of(call);
    if (call->precision != IMAGINE__CUDA_BF16 || device_capability() < 80 || !size || a->bias || a->scale <= 0 ||
        room.left < 1024)
        return false;
    int64_t head = 4 * (a->tokens + a->kv) * size, heads = (int64_t)(room.left - 1024) / head; /* bytes; how many at once */
    if (heads >= a->batch * a->heads) {
        *status = attend_rounded(a, {0, a->batch, 0, a->heads}, size, room, call->stream);
        return true;
    }
    for (int64_t batch = 0; batch < a->batch && heads && !*status; batch++)
        for (int64_t first = 0; first < a->heads && !*status; first += heads)
            *status = attend_rounded(a, {batch, 1, first, a->heads - first < heads ? a->heads - first : heads}, size, room,
                                     call->stream);
    return heads > 0;
}

/* ---- as products ------------------------------------------------------------------------------------------------- */

IMAGINE__INLINE float read_value(const float *p)
{
    return *p;
}

IMAGINE__INLINE float read_value(const uint16_t *p)
{
    return bf16_low(*p);
}

IMAGINE__INLINE void write_value(float *p, float value)
{
    *p = value;
}

IMAGINE__INLINE void write_value(uint16_t *p, float value)
{
    *p = to_bf16(value);
}

/* A sum or maximum of a block's, which every thread gets, always in the same order. */
template <class Join> IMAGINE__INLINE float of_block(float x, Join join)
{
    float *s = (float *)dynamic_shared();
    for (unsigned i = 16; i; i /= 2)
        x = join(x, shuffle_xor(x, i));
    sync_block(); /* the last ones are read */
    if (threadIdx.x % 32 == 0)
        s[threadIdx.x / 32] = x;
    sync_block();
    x = s[0];
    for (unsigned i = 1; i < THREADS / 32; i++)
        x = join(x, s[i]);
    return x;
}

/* A block turns one row of products into weights, in place or into bf16 somewhere else; those behind the keys become zeros, or like
 * all of the row NaNs. */
template <class T>
__global__ void __launch_bounds__(THREADS) weights_kernel(float *rows, T *weights, int64_t keys, int64_t stride, const int64_t *length,
                                                          const float *bias, float scale)
{
    float *s = rows + blockIdx.x * stride, max = MINUS_INFINITY, sum = 0;
    T *w = weights + blockIdx.x * stride;
    const float *b = bias ? bias + blockIdx.x * keys : nullptr;
    int64_t end = length ? *length : keys;
    for (int64_t i = threadIdx.x; i < end; i += THREADS)
        max = fmaxf(max, s[i] * scale + (b ? b[i] : 0)); /* passes over a NaN, whose weight is one */
    max = of_block(max, [](float x, float y) { return fmaxf(x, y); });
    for (int64_t i = threadIdx.x; i < end; i += THREADS) {
        s[i] = expf(s[i] * scale + (b ? b[i] : 0) - max);
        sum += s[i];
    }
    sum = of_block(sum, [](float x, float y) { return x + y; });
    for (int64_t i = threadIdx.x; i < stride; i += THREADS)
        write_value(&w[i], (i < end ? s[i] : 0) / sum); /* of no keys NaNs */
}

/* V of one head, turned round into [d, stride]; columns from the keys' end on are zeros. */
template <class V, class T>
__global__ void __launch_bounds__(THREADS) turn_kernel(const V *v, int64_t token, int64_t keys, int64_t stride, int64_t d,
                                                       const int64_t *length, T *y)
{
    float(*tile)[33] = (float(*)[33])dynamic_shared(); /* 33: so that a column lies in different banks */
    int64_t across = (d + 31) / 32, key = blockIdx.x / across * 32, column = blockIdx.x % across * 32;
    int64_t end = length ? *length : keys;
    unsigned lane = threadIdx.x % 32;
    for (unsigned i = threadIdx.x / 32; i < 32; i += THREADS / 32)
        if (column + lane < d)
            tile[i][lane] = key + i < end ? read_value(&v[(key + i) * token + column + lane]) : 0;
    sync_block();
    for (unsigned i = threadIdx.x / 32; i < 32; i += THREADS / 32)
        if (column + i < d && key + lane < stride)
            write_value(&y[(column + i) * stride + key + lane], tile[lane][i]);
}

template <class V, class T>
static int turn(const imagine__attention_args *a, const attention_part &part, int64_t stride, T *y, void *stream)
{
    int64_t blocks = (stride + 31) / 32 * ((a->d + 31) / 32);
    return launch(turn_kernel<V, T>, (unsigned)blocks, THREADS, sizeof(float) * 32 * 33, stream,
                  (const V *)at(a, a->v, a->v_batch, part), a->v_token, a->kv, stride, a->d,
                  a->kv_length ? a->kv_length + part.batch : nullptr, y);
}

template <class T>
static int weigh(const imagine__attention_args *a, const attention_part &part, int64_t first, int64_t count, int64_t stride, float *s,
                 T *weights, void *stream)
{
    const float *bias = a->bias ? a->bias + (part.head * a->tokens + first) * a->kv : nullptr;
    return launch(weights_kernel<T>, (unsigned)count, THREADS, sizeof(float) * (THREADS / 32), stream, s, weights, a->kv, stride,
                  a->kv_length ? a->kv_length + part.batch : nullptr, bias, a->scale);
}

/* Some rows of one head, from `first` on. */
static int attend_rows(const imagine__attention_args *a, const attention_part &part, int64_t first, int64_t count,
                       int64_t stride, float *s, const float *turned, void *stream)
{
    const float *q = (const float *)at(a, a->q, a->q_batch, part) + first * a->q_token;
    const float *k = (const float *)at(a, a->k, a->k_batch, part);
    float *y = (float *)at(a, a->y, a->y_batch, part) + first * a->y_token;
    rows_source queries = {q, count, a->q_token, a->d, in_fours(q, IMAGINE__W_F32, a->q_token), IMAGINE__W_F32};
    product_weight keys = {k, nullptr, a->kv, a->k_token, IMAGINE__W_F32, in_fours(k, IMAGINE__W_F32, a->k_token)};
    product_epilogue scores = {}, output = {};
    scores.y = s, scores.m = count, scores.ldy = stride, scores.aligned = true;
    output.y = y, output.m = count, output.ldy = a->y_token, output.aligned = in_fours(y, IMAGINE__W_F32, a->y_token);
    int status = imagine__cuda_multiply(queries, keys, scores, stream);
    status = status ? status : weigh(a, part, first, count, stride, s, s, stream);
    return status ? status
                  : imagine__cuda_multiply(rows_source{s, count, stride, stride, true, IMAGINE__W_F32},
                                           product_weight{turned, nullptr, a->d, stride, IMAGINE__W_F32, true}, output, stream);
}

#define MUCH 4096 /* scores of a head */
#define FEW 8 /* queries, whose products read K and V once */

/* Where there is much to do, by the kernel for f32 or, where there is room for some rows, by products; *status is then the result. */
static bool attend_f32(const imagine__attention_args *a, const imagine__cuda_call *call, int *status)
{
    if (a->type != IMAGINE__W_F32 || a->tokens * a->kv < MUCH)
        return false;
    if (a->tokens > FEW && imagine__cuda_attends_f32(a)) {
        *status = imagine__cuda_attention_f32(a, call->stream);
        return true;
    }
    workspace room = workspace_of(call);
    int64_t stride = (a->kv + 3) / 4 * 4;
    float *turned = (float *)take(&room, 2 * a->d * stride);
    int64_t rows = (int64_t)(room.left / 256 * 256) / (4 * stride);
    rows = rows < a->tokens ? rows : a->tokens;
    if (!turned || !rows)
        return false;
    for (int64_t i = 0; i < a->batch * a->heads && !*status; i++) {
        attention_part part = {i / a->heads, 1, i % a->heads, 1};
        *status = turn<float>(a, part, stride, turned, call->stream);
        for (int64_t first = 0; first < a->tokens && !*status; first += rows)
            *status = attend_rows(a, part, first, a->tokens - first < rows ? a->tokens - first : rows, stride,
                                  (float *)room.at, turned, call->stream);
    }
    return true;
}

/* A head too large for the kernels for tensor cores in products there: everything rounded to bf16 but the scores. */
struct rounded_products {
    uint16_t *q, *k, *turned, *weights; /* q and k [tokens, size], turned [d, stride], weights [rows, stride] */
    float *scores; /* [rows, stride] */
    int64_t size, stride, rows;
};

static int attend_rounded_head(const imagine__attention_args *a, const attention_part &part, const rounded_products &p, void *stream)
{
    convert_args k = rounded_heads(a, part, a->k, a->k_batch, a->k_token, a->kv, p.k, p.size);
    k.length = a->kv_length ? a->kv_length + part.batch : nullptr;
    int status = imagine__cuda_convert(rounded_heads(a, part, a->q, a->q_batch, a->q_token, a->tokens, p.q, p.size), stream);
    status = status ? status : imagine__cuda_convert(k, stream);
    if (!status)
        status = a->type == IMAGINE__W_F32 ? turn<float>(a, part, p.stride, p.turned, stream)
                                           : turn<uint16_t>(a, part, p.stride, p.turned, stream);
    for (int64_t first = 0; first < a->tokens && !status; first += p.rows) {
        int64_t count = a->tokens - first < p.rows ? a->tokens - first : p.rows;
        product_epilogue scores = {}, output = {};
        scores.y = p.scores, scores.m = count, scores.ldy = p.stride, scores.aligned = true;
        output.y = value_at(at(a, a->y, a->y_batch, part), a->type, first * a->y_token);
        output.m = count, output.ldy = a->y_token, output.y_type = a->type;
        output.aligned = in_fours(output.y, a->type, a->y_token);
        status = imagine__cuda_multiply_bf16(rows_source{p.q + first * p.size, count, p.size, p.size, true, IMAGINE__W_BF16},
                                             product_weight{p.k, nullptr, a->kv, p.size, IMAGINE__W_BF16, true}, scores, stream);
        status = status ? status : weigh(a, part, first, count, p.stride, p.scores, p.weights, stream);
        status = status ? status
                        : imagine__cuda_multiply_bf16(rows_source{p.weights, count, p.stride, p.stride, true, IMAGINE__W_BF16},
                                                      product_weight{p.turned, nullptr, a->d, p.stride, IMAGINE__W_BF16, true}, output,
                                                      stream);
    }
    return status;
}

/* Whether the shape is for that and there is room for a tile of rows; *status is then the result. */
static bool attend_in_rounded_products(const imagine__attention_args *a, const imagine__cuda_call *call, int *status)
{
    workspace room = workspace_of(call);
    rounded_products p = {};
    p.size = in_whole_eights(a->d), p.stride = in_whole_eights(a->kv);
    if (call->precision != IMAGINE__CUDA_BF16 || device_capability() < 80 || padded_size(a->d) || a->tokens <= FEW ||
        a->tokens * a->kv < MUCH)
        return false;
    p.q = take(&room, a->tokens * p.size), p.k = take(&room, a->kv * p.size), p.turned = take(&room, a->d * p.stride);
    if (!p.q || !p.k || !p.turned || room.left < 512)
        return false;
    p.rows = (int64_t)(room.left - 512) / (6 * p.stride); /* 512: what taking rounds up to */
    p.rows = p.rows < a->tokens ? p.rows / 128 * 128 : a->tokens; /* whole tiles */
    p.scores = (float *)take(&room, 2 * p.rows * p.stride), p.weights = take(&room, p.rows * p.stride);
    if (!p.rows || !p.scores || !p.weights)
        return false;
    for (int64_t i = 0; i < a->batch * a->heads && !*status; i++)
        *status = attend_rounded_head(a, {i / a->heads, 1, i % a->heads, 1}, p, call->stream);
    return true;
}

/* One head's values of a bf16 tensor as dense f32 rows, or the other way. */
static convert_args whole_head(const imagine__attention_args *a, const void *x, imagine__cuda_type x_type, int64_t x_token,
                               void *y, imagine__cuda_type y_type, int64_t y_token, int64_t tokens, const int64_t *length)
{
    return {x, y, x_type, y_type, 1, tokens, 1, a->d, a->d, {0, x_token, 0}, {0, y_token, 0}, length};
}

/* bf16 tensors that the tensor cores do not take, as those with a bias: head by head in f32. */
static bool attend_widened(const imagine__attention_args *a, const imagine__cuda_call *call, int *status)
{
    workspace room = workspace_of(call);
    int64_t queries = 2 * a->tokens * a->d, keys = 2 * a->kv * a->d;
    float *q = (float *)take(&room, queries), *y = (float *)take(&room, queries);
    float *k = (float *)take(&room, keys), *v = (float *)take(&room, keys);
    if (a->type != IMAGINE__W_BF16 || !q || !y || !k || !v)
        return false;
    imagine__cuda_call rest = *call;
    rest.workspace = room.at, rest.workspace_size = room.left;
    imagine__attention_args one = *a;
    one.q = q, one.k = k, one.v = v, one.y = y, one.type = IMAGINE__W_F32, one.batch = one.heads = 1;
    one.q_token = one.k_token = one.v_token = one.y_token = a->d;
    for (int64_t i = 0; i < a->batch * a->heads && !*status; i++) {
        attention_part part = {i / a->heads, 1, i % a->heads, 1};
        const int64_t *length = one.kv_length = a->kv_length ? a->kv_length + part.batch : nullptr;
        one.bias = a->bias ? a->bias + part.head * a->tokens * a->kv : nullptr;
        const convert_args in[] = {
            whole_head(a, at(a, a->q, a->q_batch, part), a->type, a->q_token, q, one.type, a->d, a->tokens, nullptr),
            whole_head(a, at(a, a->k, a->k_batch, part), a->type, a->k_token, k, one.type, a->d, a->kv, length),
            whole_head(a, at(a, a->v, a->v_batch, part), a->type, a->v_token, v, one.type, a->d, a->kv, length),
        };
        for (int j = 0; j < 3 && !*status; j++)
            *status = imagine__cuda_convert(in[j], call->stream);
        if (!*status && !attend_f32(&one, &rest, status))
            return false; /* of the first head: there is too little to do, or no room, as for all */
        if (!*status)
            *status = imagine__cuda_convert(whole_head(a, y, one.type, a->d, at(a, a->y, a->y_batch, part), a->type, a->y_token,
                                                       a->tokens, nullptr),
                                            call->stream);
    }
    return true;
}

int imagine__cuda_attend(const imagine__attention_args *a, const imagine__cuda_call *call)
{
    int status = 0;
    if (a->batch <= 0 || a->heads <= 0 || a->tokens <= 0 || a->kv <= 0 || a->d <= 0)
        return 0;
    imagine__cuda_attention_args b = {a->q, a->k, a->v, a->y, a->batch, a->heads, a->d, a->tokens, a->kv, a->q_batch,
                                      a->q_token, a->k_batch, a->k_token, a->v_batch, a->v_token, a->y_batch, a->y_token,
                                      a->kv_length, a->bias, a->scale, a->type, a->kv_blocks, a->kv_block,
                                      a->blocks_batch, a->k_block, a->v_block};
    if (!imagine__cuda_on_tensor_cores(&b) && !a->kv_blocks &&
        (attend_bf16(a, call, &status) || attend_in_rounded_products(a, call, &status) || attend_f32(a, call, &status) ||
         attend_widened(a, call, &status)))
        return status;
    return imagine__cuda_attention(&b, call->stream);
}
