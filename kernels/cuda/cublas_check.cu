/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/cublas.cuh"

/* cublas.cuh against NVIDIA's header, where that is installed. */
#if !defined(IMAGINE__EMULATED) && __has_include(<cublasLt.h>)
#include <cublasLt.h>

static_assert(sizeof(lt_algorithm) == sizeof(cublasLtMatmulAlgo_t), "algorithm");
static_assert(sizeof(lt_result) == sizeof(cublasLtMatmulHeuristicResult_t), "result");
static_assert(offsetof(lt_result, workspace) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize), "workspace");
static_assert(offsetof(lt_result, state) == offsetof(cublasLtMatmulHeuristicResult_t, state), "state");
static_assert((int)LT_COMPUTE_F32 == CUBLAS_COMPUTE_32F && (int)LT_F32 == CUDA_R_32F && (int)LT_BF16 == CUDA_R_16BF, "types");
static_assert((int)LT_TRANSPOSED == CUBLAS_OP_T && (int)LT_TRANSPOSE_A == CUBLASLT_MATMUL_DESC_TRANSA, "transposition");
static_assert((int)LT_EPILOGUE == CUBLASLT_MATMUL_DESC_EPILOGUE, "epilogue");
static_assert((int)LT_BIAS == CUBLASLT_MATMUL_DESC_BIAS_POINTER, "bias");
static_assert((int)LT_MOST_WORKSPACE == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, "preference");
static_assert((int)LT_ALIGNMENT_A == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES &&
                  (int)LT_ALIGNMENT_B == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES &&
                  (int)LT_ALIGNMENT_C == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES &&
                  (int)LT_ALIGNMENT_D == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
              "alignments");
static_assert((int)LT_PLAIN_EPILOGUE == CUBLASLT_EPILOGUE_DEFAULT && (int)LT_BIAS_EPILOGUE == CUBLASLT_EPILOGUE_BIAS &&
                  (int)LT_GELU_EPILOGUE == CUBLASLT_EPILOGUE_GELU &&
                  ((int)LT_GELU_EPILOGUE | LT_BIAS_EPILOGUE) == CUBLASLT_EPILOGUE_GELU_BIAS,
              "epilogues");

/* Each function takes what ours is called with: the header's enums and pointers go where our ints and pointers do. */
template <class Theirs, class Ours> struct same_sizes;
template <class... T, class... O> struct same_sizes<cublasStatus_t (*)(T...), int (*)(O...)> {
    static constexpr bool value = sizeof...(T) == sizeof...(O) && ((sizeof(T) == sizeof(O)) && ...);
};
#define SAME(name) \
    static_assert(same_sizes<decltype(&cublasLt##name), decltype(lt_functions::name)>::value, "cublasLt" #name)
SAME(Create);
SAME(Destroy);
SAME(MatmulDescDestroy);
SAME(MatmulDescSetAttribute);
SAME(MatrixLayoutCreate);
SAME(MatrixLayoutDestroy);
SAME(MatmulPreferenceDestroy);
SAME(MatmulPreferenceSetAttribute);
SAME(MatmulAlgoGetHeuristic);
SAME(Matmul);
SAME(MatmulDescCreate);
SAME(MatmulPreferenceCreate);
#endif
