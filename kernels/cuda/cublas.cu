/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/cublas.cuh"

#include "kernels/cuda/library.cuh"
#include "kernels/cuda/product.cuh"

/* cuBLASLt, opened at run time, for large products. Its matrices go by columns, so that ours, which go by rows, are their
 * transposes: y^T [n, m] = W [n, k] x^T [k, m], W as it lies there being the transpose of a matrix [k, n]. What it is asked
 * for is planned once a shape and kept. Everything of it may fail; then the caller's own kernel computes. */

#define PLANS 64

/* In f32 the algorithm is chosen for so many rows, whatever there are: each sum is in one order then, and a row has the same bytes
 * whatever else is in the batch. */
#define PLANNED_ROWS 4096

/* Of all operands, in bytes: what arenas and pieces keep. Unless it is told, cuBLASLt counts on 256. */
#define ALIGNMENT 16

/* What a plan is for, compared by its bytes. */
struct lt_shape {
    int64_t m, n, k, ldx, ldy, ld_add;
    int32_t type, y_type, epilogue, adds;
    uint64_t workspace;
};

/* Of what has m rows. */
struct lt_layouts {
    lt_layout x, add, y;
};

struct lt_plan {
    lt_shape shape;
    lt_descriptor descriptor;
    lt_layout w;
    lt_layouts rows;
    lt_algorithm algorithm;
    size_t workspace;
    int usable;
};

/* In the caller's memory. */
struct alignas(16) products {
    void *file;
    lt_handle handle;
    lt_functions lt;
    lt_plan plans[PLANS];
    unsigned count; /* plans made; they take turns once all places are taken */
    uint64_t started;
};

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static bool open_lt(products *p, reasons *why)
{
    const size_t before = why->length;
    static const char *const files[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
    static const char *const names[] = {
        "cublasLtCreate", "cublasLtDestroy", "cublasLtMatmulDescCreate", "cublasLtMatmulDescDestroy",
        "cublasLtMatmulDescSetAttribute", "cublasLtMatrixLayoutCreate", "cublasLtMatrixLayoutDestroy",
        "cublasLtMatmulPreferenceCreate", "cublasLtMatmulPreferenceDestroy", "cublasLtMatmulPreferenceSetAttribute",
        "cublasLtMatmulAlgoGetHeuristic", "cublasLtMatmul",
    };
    static_assert(sizeof names == sizeof p->lt && sizeof(void *) == sizeof p->lt.Create, "a name for each function");
    for (const char *file : files) {
        *p = {};
        p->file = open_library(file, names, sizeof names / sizeof *names, (void **)&p->lt, why);
        if (p->file && p->lt.Create(&p->handle) == 0) {
            why->length = before; /* of the versions before this one */
            return true;
        }
        if (p->file) {
            add_reason(why, file, "it gives no handle");
            close_library(p->file);
        }
    }
    *p = {};
    return false;
}

size_t imagine__cuda_products_size()
{
    return sizeof(products);
}

int imagine__cuda_products_open(void *memory, char *reason, size_t size)
{
    reasons why = {reason, size, 0};
    beside_recordings beside;
    bool there = open_lt((products *)memory, &why);
    if (size)
        reason[why.length] = 0;
    return there;
}

static void drop_layouts(const lt_functions &lt, lt_layouts *made)
{
    const lt_layout layouts[] = {made->x, made->add, made->y};
    for (lt_layout layout : layouts)
        if (layout)
            (void)lt.MatrixLayoutDestroy(layout);
    *made = {};
}

static void drop_plan(const lt_functions &lt, lt_plan *plan)
{
    drop_layouts(lt, &plan->rows);
    if (plan->w)
        (void)lt.MatrixLayoutDestroy(plan->w);
    if (plan->descriptor)
        (void)lt.MatmulDescDestroy(plan->descriptor);
    *plan = {};
}

void imagine__cuda_products_close(void *memory)
{
    products *p = (products *)memory;
    if (!p || !p->file)
        return;
    beside_recordings beside;
    for (lt_plan &plan : p->plans)
        drop_plan(p->lt, &plan);
    (void)p->lt.Destroy(p->handle);
    close_library(p->file);
    *p = {};
}

/* ---- plans ------------------------------------------------------------------------------------------------------- */

static bool make_layouts(const lt_functions &lt, const lt_shape &s, int64_t m, lt_layouts *made)
{
    return lt.MatrixLayoutCreate(&made->x, s.type, (uint64_t)s.k, (uint64_t)m, s.ldx) == 0 &&
           lt.MatrixLayoutCreate(&made->add, s.y_type, (uint64_t)s.n, (uint64_t)m, s.adds ? s.ld_add : s.ldy) == 0 &&
           lt.MatrixLayoutCreate(&made->y, s.y_type, (uint64_t)s.n, (uint64_t)m, s.ldy) == 0;
}

static bool describe(const lt_functions &lt, const lt_shape &s, lt_plan *plan)
{
    int32_t transposed = LT_TRANSPOSED;
    return lt.MatmulDescCreate(&plan->descriptor, LT_COMPUTE_F32, LT_F32) == 0 &&
           lt.MatmulDescSetAttribute(plan->descriptor, LT_TRANSPOSE_A, &transposed, sizeof transposed) == 0 &&
           lt.MatmulDescSetAttribute(plan->descriptor, LT_EPILOGUE, &s.epilogue, sizeof s.epilogue) == 0 &&
           lt.MatrixLayoutCreate(&plan->w, s.type, (uint64_t)s.k, (uint64_t)s.n, s.k) == 0 &&
           make_layouts(lt, s, s.m, &plan->rows);
}

/* Its type is the one of y, which is what cuBLASLt takes it for. */
static bool set_bias(const lt_functions &lt, const lt_plan *plan, const void *bias)
{
    return !(plan->shape.epilogue & LT_BIAS_EPILOGUE) ||
           lt.MatmulDescSetAttribute(plan->descriptor, LT_BIAS, &bias, sizeof bias) == 0;
}

/* What an algorithm is to make do with. */
static bool set_limits(const lt_functions &lt, lt_preference preference, const lt_plan *plan)
{
    const uint32_t alignment = ALIGNMENT;
    bool good = lt.MatmulPreferenceSetAttribute(preference, LT_MOST_WORKSPACE, &plan->shape.workspace, sizeof(uint64_t)) == 0;
    for (int operand = LT_ALIGNMENT_A; operand <= LT_ALIGNMENT_D; operand++)
        good = good && lt.MatmulPreferenceSetAttribute(preference, operand, &alignment, sizeof alignment) == 0;
    return good;
}

static bool choose(products *p, lt_plan *plan)
{
    lt_result result = {};
    lt_preference preference = nullptr;
    int found = 0;
    bool good = p->lt.MatmulPreferenceCreate(&preference) == 0 && set_limits(p->lt, preference, plan) &&
                p->lt.MatmulAlgoGetHeuristic(p->handle, plan->descriptor, plan->w, plan->rows.x, plan->rows.add,
                                             plan->rows.y, preference, 1,
                                             &result, &found) == 0;
    if (preference)
        (void)p->lt.MatmulPreferenceDestroy(preference);
    plan->algorithm = result.algorithm;
    plan->workspace = result.workspace;
    return good && found > 0 && result.state == 0 && result.workspace <= plan->shape.workspace;
}

static bool same_shape(const lt_shape &a, const lt_shape &b)
{
    return a.m == b.m && a.n == b.n && a.k == b.k && a.ldx == b.ldx && a.ldy == b.ldy && a.ld_add == b.ld_add &&
           a.type == b.type && a.y_type == b.y_type && a.epilogue == b.epilogue && a.adds == b.adds && a.workspace == b.workspace;
}

/* The plan for a shape, perhaps one that says that there is none. */
static lt_plan *plan_for(products *p, const lt_shape &shape, const void *bias)
{
    for (lt_plan &plan : p->plans)
        if (same_shape(plan.shape, shape))
            return &plan;
    lt_plan *plan = &p->plans[p->count++ % PLANS];
    beside_recordings beside;
    drop_plan(p->lt, plan);
    plan->shape = shape;
    plan->usable = describe(p->lt, shape, plan) && set_bias(p->lt, plan, bias) && choose(p, plan);
    return plan;
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

bool imagine__cuda_products_there(void *memory)
{
    return memory && ((products *)memory)->file;
}

uint64_t imagine__cuda_products_started(const void *memory)
{
    return ((const products *)memory)->started;
}

static bool aligned(const lt_product &a)
{
    return ((uintptr_t)a.w | (uintptr_t)a.x | (uintptr_t)a.add | (uintptr_t)a.y | (uintptr_t)a.workspace) % ALIGNMENT == 0;
}

bool imagine__cuda_products_multiply(void *memory, const lt_product &a, void *stream)
{
    products *p = (products *)memory;
    if (!aligned(a))
        return false;
    bool f32 = a.type == IMAGINE__W_F32;
    lt_shape shape = {f32 ? PLANNED_ROWS : a.m, a.n, a.k, a.ldx, a.ldy, a.add ? a.ld_add : 0, f32 ? LT_F32 : LT_BF16,
                      a.y_type == IMAGINE__W_F32 ? LT_F32 : LT_BF16, LT_PLAIN_EPILOGUE, a.add != nullptr, a.workspace_size};
    if (a.gelu || a.bias)
        shape.epilogue = (a.gelu ? LT_GELU_EPILOGUE : 0) | (a.bias ? LT_BIAS_EPILOGUE : 0);
    const float one = 1, beta = a.add ? 1.0f : 0.0f;
    lt_plan *plan = plan_for(p, shape, a.bias);
    lt_layouts rows = {};
    bool good = plan->usable && set_bias(p->lt, plan, a.bias) && (!f32 || make_layouts(p->lt, shape, a.m, &rows));
    const lt_layouts &l = f32 ? rows : plan->rows;
    good = good && p->lt.Matmul(p->handle, plan->descriptor, &one, a.w, plan->w, a.x, l.x, &beta, a.add ? a.add : a.y, l.add, a.y,
                                l.y, &plan->algorithm, a.workspace, a.workspace_size, stream) == 0;
    drop_layouts(p->lt, &rows);
    p->started += good;
    return good;
}
