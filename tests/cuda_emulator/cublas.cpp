/* SPDX-License-Identifier: MIT */
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "internal.h"
#include "kernels/cuda/cublas.cuh"

/* cuBLASLt as its manual has it, as far as kernels/cuda/cublas.cu uses it: matrices by columns, of bf16 or f32 with sums in f32.
 * Descriptors that are still there when the handle goes are a fault, as is whatever the manual forbids. */

struct lt_opaque {
    int kind; /* which of the functions made it */
    int32_t transpose_a, epilogue;
    const float *bias;
    int type;
    uint64_t rows, columns, workspace;
    int64_t stride;
    uint32_t alignment[4]; /* of a preference, for A to D */
};

namespace emulator {

static bool is_there;
static int left, started, alive;

enum { HANDLE, DESCRIPTOR, LAYOUT, PREFERENCE };

static bool call_fails()
{
    return left-- <= 0;
}

static int make(lt_opaque **made, int kind)
{
    if (call_fails())
        return 3;
    *made = new lt_opaque{};
    (*made)->kind = kind;
    alive++;
    return 0;
}

static int destroy(lt_opaque *o)
{
    delete o;
    alive--;
    return 0;
}

static int lt_create(lt_handle *handle)
{
    return unsafe("cuBLASLt makes a handle") ? 1 : make(handle, HANDLE);
}

static int lt_destroy(lt_handle handle)
{
    if (unsafe("cuBLASLt drops a handle"))
        return 1; /* which is lost */
    destroy(handle);
    return 0;
}

static int descriptor_create(lt_descriptor *made, int compute, int scale_type)
{
    return compute == LT_COMPUTE_F32 && scale_type == LT_F32 ? make(made, DESCRIPTOR) : 7;
}

static int descriptor_set(lt_descriptor d, int attribute, const void *value, size_t size)
{
    if (call_fails() || d->kind != DESCRIPTOR)
        return 7;
    if (attribute == LT_TRANSPOSE_A && size == 4)
        memcpy(&d->transpose_a, value, 4);
    else if (attribute == LT_EPILOGUE && size == 4)
        memcpy(&d->epilogue, value, 4);
    else if (attribute == LT_BIAS && size == sizeof(void *))
        memcpy(&d->bias, value, size);
    else
        return 7;
    return 0;
}

static int layout_create(lt_layout *made, int type, uint64_t rows, uint64_t columns, int64_t stride)
{
    int status = stride < (int64_t)rows ? 7 : make(made, LAYOUT);
    if (!status)
        (*made)->type = type, (*made)->rows = rows, (*made)->columns = columns, (*made)->stride = stride;
    return status;
}

static int preference_create(lt_preference *made)
{
    int status = make(made, PREFERENCE);
    if (!status)
        for (uint32_t &alignment : (*made)->alignment)
            alignment = 256;
    return status;
}

static int preference_set(lt_preference p, int attribute, const void *value, size_t size)
{
    if (call_fails() || p->kind != PREFERENCE)
        return 7;
    if (attribute == LT_MOST_WORKSPACE && size == 8)
        memcpy(&p->workspace, value, 8);
    else if (attribute >= LT_ALIGNMENT_A && attribute <= LT_ALIGNMENT_D && size == 4)
        memcpy(&p->alignment[attribute - LT_ALIGNMENT_A], value, 4);
    else
        return 7;
    return 0;
}

static bool fit(lt_descriptor o, lt_layout a, lt_layout b, lt_layout c, lt_layout d)
{
    bool gelu_and_term = o->epilogue & LT_GELU_EPILOGUE && c != d && c->stride != d->stride;
    return o->kind == DESCRIPTOR && o->transpose_a == LT_TRANSPOSED && (a->type == LT_BF16 || a->type == LT_F32) && b->type == a->type &&
           c->type == d->type && (d->type == LT_F32 || (d->type == LT_BF16 && a->type == LT_BF16)) && a->rows == b->rows && a->columns == d->rows && b->columns == d->columns &&
           c->rows == d->rows && c->columns == d->columns && !gelu_and_term;
}

static int heuristic(lt_handle, lt_descriptor o, lt_layout a, lt_layout b, lt_layout c, lt_layout d, lt_preference p, int,
                     lt_result *result, int *found)
{
    if (call_fails() || !fit(o, a, b, c, d))
        return 7;
    *result = {};
    result->workspace = p->workspace < 1024 ? p->workspace : 1024;
    result->algorithm.data[0] = a->rows;
    memcpy(&result->algorithm.data[1], p->alignment, sizeof p->alignment);
    *found = 1;
    return 0;
}

static float value(uint16_t bits)
{
    return __builtin_bit_cast(float, (uint32_t)bits << 16);
}

static float value(float x)
{
    return x;
}

/* `count` values from device memory. */
template <class T> static std::vector<T> fetch(const T *from, int64_t count)
{
    std::vector<T> values((size_t)count);
    copy_out(values.data(), from, (size_t)count * sizeof(T));
    return values;
}

/* A product as it was asked for. */
struct product {
    lt_opaque how, la, lb, lc, ld;
    const void *a, *b, *c;
    void *d;
    float alpha, beta;
};

/* `count` values of the result's type, as is the bias. */
static std::vector<float> fetch_as(int type, const void *from, int64_t first, int64_t count)
{
    if (type == LT_F32)
        return fetch((const float *)from + first, count);
    std::vector<float> values;
    for (uint16_t bits : fetch((const uint16_t *)from + first, count))
        values.push_back(value(bits));
    return values;
}

static void write_as(int type, void *to, int64_t first, const std::vector<float> &values)
{
    if (type == LT_F32) {
        copy_in((float *)to + first, values.data(), values.size() * sizeof(float));
        return;
    }
    std::vector<uint16_t> bits;
    for (float v : values) {
        uint32_t u = __builtin_bit_cast(uint32_t, v);
        bits.push_back((uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16));
    }
    copy_in((uint16_t *)to + first, bits.data(), bits.size() * sizeof(uint16_t));
}

/* T: what the operands are. */
template <class T> static int compute(const product &p)
{
    int64_t k = (int64_t)p.la.rows, n = (int64_t)p.ld.rows;
    for (int64_t column = 0; column < (int64_t)p.ld.columns; column++) {
        std::vector<T> x = fetch((const T *)p.b + column * p.lb.stride, k);
        std::vector<float> y((size_t)n), term, bias;
        if (p.beta != 0)
            term = fetch_as(p.lc.type, p.c, column * p.lc.stride, n);
        if (p.how.epilogue & LT_BIAS_EPILOGUE)
            bias = fetch_as(p.ld.type, p.how.bias, 0, n);
        for (int64_t row = 0; row < n; row++) {
            std::vector<T> w = fetch((const T *)p.a + row * p.la.stride, k);
            double sum = 0;
            for (size_t i = 0; i < (size_t)k; i++)
                sum += (double)value(w[i]) * value(x[i]);
            sum = sum * p.alpha + (term.empty() ? 0 : p.beta * term[(size_t)row]) + (bias.empty() ? 0 : bias[(size_t)row]);
            if (p.how.epilogue & LT_GELU_EPILOGUE)
                sum = 0.5 * sum * (1 + tanh(0.79788456080286536 * (sum + 0.044715 * sum * sum * sum)));
            y[(size_t)row] = (float)sum;
        }
        write_as(p.ld.type, p.d, column * p.ld.stride, y);
    }
    started++;
    return 0;
}

/* An algorithm counts on the alignment that it was chosen for: on a GPU, where less may fault or not, nothing tells beforehand. */
static void keep_alignment(const lt_algorithm *algorithm, const void *a, const void *b, const void *c, const void *d)
{
    const void *operands[4] = {a, b, c, d};
    uint32_t alignment[4];
    memcpy(alignment, &algorithm->data[1], sizeof alignment);
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)operands[i] % alignment[i]) {
            fprintf(stderr, "emulator: operand %c of cuBLASLt, %p, is not aligned to %u\n", "ABCD"[i], operands[i], alignment[i]);
            exit(1);
        }
}

static int multiply(lt_handle, lt_descriptor o, const void *alpha, const void *a, lt_layout la, const void *b, lt_layout lb,
                    const void *beta, const void *c, lt_layout lc, void *d, lt_layout ld, const lt_algorithm *algorithm,
                    void *workspace, size_t size, void *stream)
{
    if (call_fails() || !fit(o, la, lb, lc, ld) || algorithm->data[0] != la->rows || (size && !workspace) ||
        (uintptr_t)workspace % 16)
        return 7;
    keep_alignment(algorithm, a, b, c, d);
    product p = {*o, *la, *lb, *lc, *ld, a, b, c, d, *(const float *)alpha, *(const float *)beta};
    return put(stream, KERNEL, [p] { return p.la.type == LT_F32 ? compute<float>(p) : compute<uint16_t>(p); });
}

void set_library(bool there, int good_calls)
{
    if (alive)
        fprintf(stderr, "emulator: %d objects of cuBLASLt were never destroyed\n", alive), exit(1);
    is_there = there;
    left = good_calls;
    started = 0;
}

int library_products()
{
    return started;
}

void *open_library(const char *name)
{
    return is_there && !strcmp(name, "libcublasLt.so.12") ? &is_there : open_dnn(name);
}

void *find_function(void *library, const char *name)
{
    static const struct {
        const char *name;
        void *function;
    } table[] = {
        {"cublasLtCreate", (void *)lt_create},
        {"cublasLtDestroy", (void *)lt_destroy},
        {"cublasLtMatmulDescCreate", (void *)descriptor_create},
        {"cublasLtMatmulDescDestroy", (void *)destroy},
        {"cublasLtMatmulDescSetAttribute", (void *)descriptor_set},
        {"cublasLtMatrixLayoutCreate", (void *)layout_create},
        {"cublasLtMatrixLayoutDestroy", (void *)destroy},
        {"cublasLtMatmulPreferenceCreate", (void *)preference_create},
        {"cublasLtMatmulPreferenceDestroy", (void *)destroy},
        {"cublasLtMatmulPreferenceSetAttribute", (void *)preference_set},
        {"cublasLtMatmulAlgoGetHeuristic", (void *)heuristic},
        {"cublasLtMatmul", (void *)multiply},
    };
    for (const auto &entry : table)
        if (!strcmp(entry.name, name))
            return entry.function;
    return find_dnn(library, name);
}

} // namespace emulator
