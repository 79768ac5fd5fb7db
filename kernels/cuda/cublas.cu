/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/cublas.cuh"

#include "kernels/cuda/product.cuh"

#ifndef IMAGINE__EMULATED
#include <dlfcn.h>
#endif

/* cuBLASLt, opened at run time, for large products. Its matrices go by columns, so that ours, which go by rows, are their
 * transposes: y^T [n, m] = W [n, k] x^T [k, m], W as it lies there being the transpose of a matrix [k, n]. What it is asked
 * for is planned once a shape and kept. Everything of it may fail; then the caller's own kernel computes. */

#define PLANS 64

/* What a plan is for, compared by its bytes. */
struct lt_shape {
    int64_t m, n, k, ldy, ld_add;
    int32_t epilogue, adds;
    uint64_t workspace;
};

struct lt_plan {
    lt_shape shape;
    lt_descriptor descriptor;
    lt_layout w, x, add, y;
    lt_algorithm algorithm;
    size_t workspace;
    int usable;
};

/* In the caller's memory. */
struct products {
    void *file;
    lt_handle handle;
    lt_functions lt;
    lt_plan plans[PLANS];
    unsigned count; /* plans made; they take turns once all places are taken */
};

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static void *open_library(const char *name)
{
    return IMAGINE__BODY(dlopen(name, RTLD_NOW | RTLD_LOCAL), emulator::open_library(name));
}

static void *find_function(void *file, const char *name)
{
    return IMAGINE__BODY(dlsym(file, name), emulator::find_function(file, name));
}

static void close_library(void *file)
{
    IMAGINE__BODY((void)dlclose(file), (void)file);
}

static bool find_functions(products *p)
{
    static const char *const names[] = {
        "cublasLtCreate", "cublasLtDestroy", "cublasLtMatmulDescCreate", "cublasLtMatmulDescDestroy",
        "cublasLtMatmulDescSetAttribute", "cublasLtMatrixLayoutCreate", "cublasLtMatrixLayoutDestroy",
        "cublasLtMatmulPreferenceCreate", "cublasLtMatmulPreferenceDestroy", "cublasLtMatmulPreferenceSetAttribute",
        "cublasLtMatmulAlgoGetHeuristic", "cublasLtMatmul",
    };
    static_assert(sizeof names == sizeof p->lt && sizeof(void *) == sizeof p->lt.Create, "a name for each function");
    void **functions = (void **)&p->lt; /* as POSIX has it for dlsym */
    bool all = true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        all = (functions[i] = find_function(p->file, names[i])) && all;
    return all;
}

size_t imagine__cuda_products_size()
{
    return sizeof(products);
}

int imagine__cuda_products_open(void *memory)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
    products *p = (products *)memory;
    *p = {};
    for (const char *name : names) {
        p->file = open_library(name);
        if (p->file && find_functions(p) && p->lt.Create(&p->handle) == 0)
            return 1;
        if (p->file)
            close_library(p->file);
        *p = {};
    }
    return 0;
}

static void drop_plan(const lt_functions &lt, lt_plan *plan)
{
    const lt_layout layouts[] = {plan->w, plan->x, plan->add, plan->y};
    for (lt_layout layout : layouts)
        if (layout)
            (void)lt.MatrixLayoutDestroy(layout);
    if (plan->descriptor)
        (void)lt.MatmulDescDestroy(plan->descriptor);
    *plan = {};
}

void imagine__cuda_products_close(void *memory)
{
    products *p = (products *)memory;
    if (!p || !p->file)
        return;
    for (lt_plan &plan : p->plans)
        drop_plan(p->lt, &plan);
    (void)p->lt.Destroy(p->handle);
    close_library(p->file);
    *p = {};
}

/* ---- plans ------------------------------------------------------------------------------------------------------- */

static bool describe(const lt_functions &lt, const lt_shape &s, lt_plan *plan)
{
    int32_t transposed = LT_TRANSPOSED;
    return lt.MatmulDescCreate(&plan->descriptor, LT_COMPUTE_F32, LT_F32) == 0 &&
           lt.MatmulDescSetAttribute(plan->descriptor, LT_TRANSPOSE_A, &transposed, sizeof transposed) == 0 &&
           lt.MatmulDescSetAttribute(plan->descriptor, LT_EPILOGUE, &s.epilogue, sizeof s.epilogue) == 0 &&
           lt.MatrixLayoutCreate(&plan->w, LT_BF16, (uint64_t)s.k, (uint64_t)s.n, s.k) == 0 &&
           lt.MatrixLayoutCreate(&plan->x, LT_BF16, (uint64_t)s.k, (uint64_t)s.m, s.k) == 0 &&
           lt.MatrixLayoutCreate(&plan->add, LT_F32, (uint64_t)s.n, (uint64_t)s.m, s.adds ? s.ld_add : s.ldy) == 0 &&
           lt.MatrixLayoutCreate(&plan->y, LT_F32, (uint64_t)s.n, (uint64_t)s.m, s.ldy) == 0;
}

static bool set_bias(const lt_functions &lt, const lt_plan *plan, const float *bias)
{
    return !(plan->shape.epilogue & LT_BIAS_EPILOGUE) ||
           lt.MatmulDescSetAttribute(plan->descriptor, LT_BIAS, &bias, sizeof bias) == 0;
}

static bool choose(products *p, lt_plan *plan)
{
    lt_result result = {};
    lt_preference preference = nullptr;
    int found = 0;
    bool good = p->lt.MatmulPreferenceCreate(&preference) == 0 &&
                p->lt.MatmulPreferenceSetAttribute(preference, LT_MOST_WORKSPACE, &plan->shape.workspace, sizeof(uint64_t)) ==
                    0 &&
                p->lt.MatmulAlgoGetHeuristic(p->handle, plan->descriptor, plan->w, plan->x, plan->add, plan->y, preference, 1,
                                             &result, &found) == 0;
    if (preference)
        (void)p->lt.MatmulPreferenceDestroy(preference);
    plan->algorithm = result.algorithm;
    plan->workspace = result.workspace;
    return good && found > 0 && result.state == 0 && result.workspace <= plan->shape.workspace;
}

static bool same_shape(const lt_shape &a, const lt_shape &b)
{
    return a.m == b.m && a.n == b.n && a.k == b.k && a.ldy == b.ldy && a.ld_add == b.ld_add && a.epilogue == b.epilogue &&
           a.adds == b.adds && a.workspace == b.workspace;
}

/* The plan for a shape, perhaps one that says that there is none. */
static lt_plan *plan_for(products *p, const lt_shape &shape, const float *bias)
{
    for (lt_plan &plan : p->plans)
        if (same_shape(plan.shape, shape))
            return &plan;
    lt_plan *plan = &p->plans[p->count++ % PLANS];
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

bool imagine__cuda_products_multiply(void *memory, const lt_product &a, void *stream)
{
    products *p = (products *)memory;
    lt_shape shape = {a.m, a.n, a.k, a.ldy, a.add ? a.ld_add : 0, LT_PLAIN_EPILOGUE, a.add != nullptr, a.workspace_size};
    if (a.gelu || a.bias)
        shape.epilogue = (a.gelu ? LT_GELU_EPILOGUE : 0) | (a.bias ? LT_BIAS_EPILOGUE : 0);
    const float one = 1, beta = a.add ? 1.0f : 0.0f;
    lt_plan *plan = plan_for(p, shape, a.bias);
    if (!plan->usable || !set_bias(p->lt, plan, a.bias))
        return false;
    return p->lt.Matmul(p->handle, plan->descriptor, &one, a.w, plan->w, a.x, plan->x, &beta, a.add ? a.add : a.y, plan->add,
                        a.y, plan->y, &plan->algorithm, a.workspace, a.workspace_size, stream) == 0;
}
