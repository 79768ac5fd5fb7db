/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_CUDA_PRIMITIVES_CUH
#define IMAGINE_KERNELS_CUDA_PRIMITIVES_CUH

/* What the hardware does that C++ has no word for, each as a function of a name, with two bodies: PTX, and the emulator of
 * tests/cuda_emulator. Kernels use nothing else: no asm, no <<<>>>, no intrinsics. tests/cuda_emulator/primitives.cu tests
 * every one of them on both. The PTX manual is the reference for layouts; docs/kernels.md explains those of Hopper. */

#include <stddef.h>
#include <stdint.h>

#ifdef IMAGINE__EMULATED
#include "tests/cuda_emulator/emulator.h"
#define IMAGINE__BODY(ptx, emulated) emulated
#else
#include <cuda_runtime.h>
#define IMAGINE__BODY(ptx, emulated) ptx
#endif

#define IMAGINE__INLINE __device__ __forceinline__

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

IMAGINE__INLINE uint32_t float_bits(float value)
{
    return IMAGINE__BODY(__float_as_uint(value), __builtin_bit_cast(uint32_t, value));
}

IMAGINE__INLINE float bits_float(uint32_t bits)
{
    return IMAGINE__BODY(__uint_as_float(bits), __builtin_bit_cast(float, bits));
}

/* Two floats as bf16, rounded to nearest even; a NaN stays one. */
IMAGINE__INLINE uint32_t pack_bf16(float low, float high)
{
#ifdef IMAGINE__EMULATED
    uint32_t pair[2] = {float_bits(low), float_bits(high)};
    for (uint32_t &bits : pair)
        bits = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return pair[0] | pair[1] << 16;
#else
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}

IMAGINE__INLINE uint16_t to_bf16(float value)
{
    return (uint16_t)pack_bf16(value, 0);
}

IMAGINE__INLINE float bf16_low(uint32_t pair)
{
    return bits_float(pair << 16);
}

IMAGINE__INLINE float bf16_high(uint32_t pair)
{
    return bits_float(pair & 0xffff0000u);
}

/* 2^x, about 2 units in the last place; exact 0 for -infinity. */
IMAGINE__INLINE float exp2_fast(float x)
{
#ifdef IMAGINE__EMULATED
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* Products and sums that are not to be fused, however the compiler is set. */
IMAGINE__INLINE float multiply(float a, float b)
{
    return IMAGINE__BODY(__fmul_rn(a, b), a * b);
}

IMAGINE__INLINE float add(float a, float b)
{
    return IMAGINE__BODY(__fadd_rn(a, b), a + b);
}

/* a b + c, rounded once. */
IMAGINE__INLINE float multiply_add(float a, float b, float c)
{
    return IMAGINE__BODY(__fmaf_rn(a, b, c), __builtin_fmaf(a, b, c));
}

/* ---- the threads of a block -------------------------------------------------------------------------------------- */

IMAGINE__INLINE void *dynamic_shared()
{
#ifdef IMAGINE__EMULATED
    return emulator::dynamic_shared();
#else
    extern __shared__ __align__(16) unsigned char imagine__dynamic_shared[];
    return imagine__dynamic_shared;
#endif
}

/* The address that the instructions below and matrix descriptors take. */
IMAGINE__INLINE uint32_t shared_address(const void *pointer)
{
    return IMAGINE__BODY((uint32_t)__cvta_generic_to_shared(pointer), emulator::shared_address(pointer));
}

IMAGINE__INLINE void sync_block()
{
    IMAGINE__BODY(__syncthreads(), emulator::barrier_sync(0, 0));
}

/* Named barrier `id` (1 to 15) of `threads` threads, whole warps: waits for all, or only says that this thread is there. */
IMAGINE__INLINE void sync_threads(unsigned id, unsigned threads)
{
#ifdef IMAGINE__EMULATED
    emulator::barrier_sync(id, threads);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

IMAGINE__INLINE void arrive_threads(unsigned id, unsigned threads)
{
#ifdef IMAGINE__EMULATED
    emulator::barrier_arrive(id, threads);
#else
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

#define IMAGINE__WARP 0xffffffffu

IMAGINE__INLINE void sync_warp(unsigned mask = IMAGINE__WARP)
{
    IMAGINE__BODY(__syncwarp(mask), emulator::warp_sync(mask));
}

IMAGINE__INLINE float shuffle(float value, unsigned lane, unsigned mask = IMAGINE__WARP)
{
    return IMAGINE__BODY(__shfl_sync(mask, value, (int)lane),
                         bits_float(emulator::shuffle(mask, float_bits(value), lane, emulator::SHUFFLE_INDEX, 32)));
}

IMAGINE__INLINE float shuffle_xor(float value, unsigned lanes, unsigned mask = IMAGINE__WARP)
{
    return IMAGINE__BODY(__shfl_xor_sync(mask, value, (int)lanes),
                         bits_float(emulator::shuffle(mask, float_bits(value), lanes, emulator::SHUFFLE_XOR, 32)));
}

IMAGINE__INLINE float shuffle_up(float value, unsigned lanes, unsigned mask = IMAGINE__WARP)
{
    return IMAGINE__BODY(__shfl_up_sync(mask, value, lanes),
                         bits_float(emulator::shuffle(mask, float_bits(value), lanes, emulator::SHUFFLE_UP, 32)));
}

IMAGINE__INLINE float shuffle_down(float value, unsigned lanes, unsigned mask = IMAGINE__WARP)
{
    return IMAGINE__BODY(__shfl_down_sync(mask, value, lanes),
                         bits_float(emulator::shuffle(mask, float_bits(value), lanes, emulator::SHUFFLE_DOWN, 32)));
}

/* One bit per lane of the mask. */
IMAGINE__INLINE unsigned vote_ballot(int predicate, unsigned mask = IMAGINE__WARP)
{
    return IMAGINE__BODY(__ballot_sync(mask, predicate), emulator::ballot(mask, predicate));
}

IMAGINE__INLINE int vote_any(int predicate, unsigned mask = IMAGINE__WARP)
{
    return IMAGINE__BODY(__any_sync(mask, predicate), emulator::ballot(mask, predicate) != 0);
}

IMAGINE__INLINE int vote_all(int predicate, unsigned mask = IMAGINE__WARP)
{
    return IMAGINE__BODY(__all_sync(mask, predicate), emulator::ballot(mask, predicate) == mask);
}

IMAGINE__INLINE float atomic_add(float *address, float value)
{
    return IMAGINE__BODY(atomicAdd(address, value), emulator::atomic_add(address, value));
}

IMAGINE__INLINE unsigned atomic_add(unsigned *address, unsigned value)
{
    return IMAGINE__BODY(atomicAdd(address, value), emulator::atomic_add(address, value));
}

IMAGINE__INLINE unsigned atomic_or(unsigned *address, unsigned value)
{
    return IMAGINE__BODY(atomicOr(address, value), emulator::atomic_or(address, value));
}

/* ---- sm_80: copies behind one's back, matrices in a warp --------------------------------------------------------- */

/* 16 bytes from global to shared memory, both aligned: the first `valid` are read, the rest become zeros. */
IMAGINE__INLINE void copy_async(void *shared, const void *global, unsigned valid = 16)
{
#ifdef IMAGINE__EMULATED
    emulator::copy_async(shared, global, 16, valid);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid)
                 : "memory");
#endif
}

IMAGINE__INLINE void copy_async_commit()
{
#ifdef IMAGINE__EMULATED
    emulator::copy_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Until at most PENDING of this thread's groups are on their way. Others see the data after a barrier. */
template <unsigned PENDING> IMAGINE__INLINE void copy_async_wait()
{
#ifdef IMAGINE__EMULATED
    emulator::copy_async_wait(PENDING);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

/* Four 8x8 matrices of bf16; lanes 8 i to 8 i + 7 give the rows of matrix i, 16 bytes each. A lane gets of each the elements
 * (lane / 4, 2 (lane % 4)) and the next; transposed, (2 (lane % 4), lane / 4) and the one below. */
IMAGINE__INLINE void load_matrices(uint32_t (&r)[4], const void *row)
{
#ifdef IMAGINE__EMULATED
    emulator::ldmatrix(r, 4, false, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

IMAGINE__INLINE void load_matrices_transposed(uint32_t (&r)[4], const void *row)
{
#ifdef IMAGINE__EMULATED
    emulator::ldmatrix(r, 4, true, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

/* d [16, 8] += a [16, 16] b [16, 8], bf16 with sums in f32. A lane holds of d the rows lane / 4 and that + 8 in columns
 * 2 (lane % 4) and the next: d0 d1 above, d2 d3 below. */
IMAGINE__INLINE void multiply_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
#ifdef IMAGINE__EMULATED
    uint32_t b[2] = {b0, b1};
    emulator::mma_m16n8k16(d, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/* ---- sm_90: barriers in shared memory that count arrivals and bytes ---------------------------------------------- */

/* An mbarrier completes a phase once `count` threads have arrived and all bytes that were expected have landed. */
IMAGINE__INLINE void mbarrier_init(uint64_t *barrier, unsigned count)
{
#ifdef IMAGINE__EMULATED
    emulator::mbarrier_init(barrier, count);
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
#endif
}

IMAGINE__INLINE void mbarrier_arrive(uint64_t *barrier)
{
#ifdef IMAGINE__EMULATED
    emulator::mbarrier_arrive(barrier);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

/* Arrives, and makes the phase wait for so many bytes more. */
IMAGINE__INLINE void mbarrier_expect(uint64_t *barrier, unsigned bytes)
{
#ifdef IMAGINE__EMULATED
    emulator::mbarrier_expect(barrier, bytes);
#else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
#endif
}

/* Until the phase of this parity (0 for the first) has completed. */
IMAGINE__INLINE void mbarrier_wait(uint64_t *barrier, unsigned parity)
{
#ifdef IMAGINE__EMULATED
    emulator::mbarrier_wait(barrier, parity);
#else
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
#endif
}

/* This thread's writes to shared memory so far, mbarriers too, become visible to the copy engine and to wgmma. */
IMAGINE__INLINE void fence_async_proxy()
{
#ifdef IMAGINE__EMULATED
    emulator::proxy_fence();
#else
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* ---- sm_90: the copy engine -------------------------------------------------------------------------------------- */

/* A tensor of bf16 with four dimensions, made by make_tensor_map; a kernel takes it as `const __grid_constant__`. */
#ifdef IMAGINE__EMULATED
typedef emulator::tensor_map tensor_map;
#else
struct alignas(64) tensor_map {
    uint64_t opaque[16];
};
#endif

/* A box from global memory, begun by one thread; coordinates in elements, the dense dimension first. What lies outside
 * the tensor becomes zeros. The barrier is told of the whole box's bytes in any case. */
IMAGINE__INLINE void load_box(void *shared, const tensor_map *map, uint64_t *barrier, int x0, int x1, int x2, int x3)
{
#ifdef IMAGINE__EMULATED
    int at[4] = {x0, x1, x2, x3};
    emulator::tma_load(shared, map, barrier, at);
#else
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
                 : "memory");
#endif
}

/* The other way; what lies outside the tensor is not written. */
IMAGINE__INLINE void store_box(const tensor_map *map, const void *shared, int x0, int x1, int x2, int x3)
{
#ifdef IMAGINE__EMULATED
    int at[4] = {x0, x1, x2, x3};
    emulator::tma_store(map, shared, at);
#else
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
                 "r"(shared_address(shared)), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
                 : "memory");
#endif
}

IMAGINE__INLINE void store_commit()
{
#ifdef IMAGINE__EMULATED
    emulator::bulk_commit();
#else
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

/* Until at most PENDING of this thread's groups of stores still read shared memory. */
template <unsigned PENDING> IMAGINE__INLINE void store_wait()
{
#ifdef IMAGINE__EMULATED
    emulator::bulk_wait(PENDING);
#else
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
#endif
}

/* ---- sm_90a: products of a warpgroup ----------------------------------------------------------------------------- */

/* A matrix in shared memory as a box with 128-byte swizzle leaves it: lines of 64 bf16, eight of them an atom of 1024
 * bytes, atoms one after the other (`leading`: bytes from one 64 columns to the next, where n > 64 runs along the lines). */
IMAGINE__INLINE uint64_t matrix_descriptor(const void *shared, unsigned leading)
{
    return (uint64_t)(shared_address(shared) >> 4 & 0x3fff) | (uint64_t)(leading >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

/* The same matrix, so many bytes further. */
IMAGINE__INLINE uint64_t advance(uint64_t descriptor, unsigned bytes)
{
    return descriptor + (bytes >> 4);
}

/* Before the first product of a group, and after registers of its operands were touched. */
IMAGINE__INLINE void products_begin()
{
#ifdef IMAGINE__EMULATED
    emulator::wgmma_fence();
#else
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

IMAGINE__INLINE void products_commit()
{
#ifdef IMAGINE__EMULATED
    emulator::wgmma_commit();
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

/* Until at most PENDING groups are unfinished. The accumulators of the finished ones are named, so that the compiler reads
 * them after this and not before. */
template <unsigned PENDING, unsigned COUNT> IMAGINE__INLINE void products_wait(float (&d)[COUNT])
{
#ifdef IMAGINE__EMULATED
    (void)d;
    emulator::wgmma_wait(PENDING);
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
#pragma unroll
    for (unsigned i = 0; i < COUNT; i++)
        asm volatile("" : "+f"(d[i])::"memory");
#endif
}

/* Accumulators as operands: CONSTRAINT is "+f", or "=f" where what was in them does not count. */
#define IMAGINE__F8(CONSTRAINT, d, i)                                                                             \
    CONSTRAINT(d[i]), CONSTRAINT(d[i + 1]), CONSTRAINT(d[i + 2]), CONSTRAINT(d[i + 3]), CONSTRAINT(d[i + 4]),     \
        CONSTRAINT(d[i + 5]), CONSTRAINT(d[i + 6]), CONSTRAINT(d[i + 7])
#define IMAGINE__F32(CONSTRAINT, d, i)                                                                            \
    IMAGINE__F8(CONSTRAINT, d, i), IMAGINE__F8(CONSTRAINT, d, i + 8), IMAGINE__F8(CONSTRAINT, d, i + 16),         \
        IMAGINE__F8(CONSTRAINT, d, i + 24)
#define IMAGINE__F48(CONSTRAINT, d) IMAGINE__F32(CONSTRAINT, d, 0), IMAGINE__F8(CONSTRAINT, d, 32), IMAGINE__F8(CONSTRAINT, d, 40)
#define IMAGINE__F64(CONSTRAINT, d) IMAGINE__F32(CONSTRAINT, d, 0), IMAGINE__F32(CONSTRAINT, d, 32)
#define IMAGINE__F88(CONSTRAINT, d)                                                                               \
    IMAGINE__F64(CONSTRAINT, d), IMAGINE__F8(CONSTRAINT, d, 64), IMAGINE__F8(CONSTRAINT, d, 72),                  \
        IMAGINE__F8(CONSTRAINT, d, 80)
#define IMAGINE__R32                                                                                              \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, "   \
    "%23, %24, %25, %26, %27, %28, %29, %30, %31"
#define IMAGINE__R48                                                                                              \
    IMAGINE__R32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define IMAGINE__R64                                                                                              \
    IMAGINE__R48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define IMAGINE__R88                                                                                              \
    IMAGINE__R64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "   \
                 "%82, %83, %84, %85, %86, %87"

#define IMAGINE__SCORES(N, REGISTERS, FLOATS, A, B, ADDS)                                                         \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" REGISTERS "}, %" #A ", %" #B        \
                 ", " #ADDS ", 1, 1, 0, 0;" : FLOATS : "l"(a), "l"(b))

/* d [64, N] += a [64, 16] b^T, both in shared memory with k along the lines (a head's scores: b = keys); ADDS false: d = a b^T, and
 * what was in d is gone before, so that its registers are free until then. */
template <unsigned N, bool ADDS = true> IMAGINE__INLINE void multiply_shared(float (&d)[N / 2], uint64_t a, uint64_t b)
{
    static_assert(N == 64 || N == 96 || N == 128 || N == 176, "add the shape here");
#ifdef IMAGINE__EMULATED
    emulator::wgmma(N, d, nullptr, a, b, false, ADDS);
#else
    if constexpr (N == 64 && ADDS)
        IMAGINE__SCORES(64, IMAGINE__R32, IMAGINE__F32("+f", d, 0), 32, 33, 1);
    else if constexpr (N == 64)
        IMAGINE__SCORES(64, IMAGINE__R32, IMAGINE__F32("=f", d, 0), 32, 33, 0);
    else if constexpr (N == 96 && ADDS)
        IMAGINE__SCORES(96, IMAGINE__R48, IMAGINE__F48("+f", d), 48, 49, 1);
    else if constexpr (N == 96)
        IMAGINE__SCORES(96, IMAGINE__R48, IMAGINE__F48("=f", d), 48, 49, 0);
    else if constexpr (N == 128 && ADDS)
        IMAGINE__SCORES(128, IMAGINE__R64, IMAGINE__F64("+f", d), 64, 65, 1);
    else if constexpr (N == 128)
        IMAGINE__SCORES(128, IMAGINE__R64, IMAGINE__F64("=f", d), 64, 65, 0);
    else if constexpr (ADDS)
        IMAGINE__SCORES(176, IMAGINE__R88, IMAGINE__F88("+f", d), 88, 89, 1);
    else
        IMAGINE__SCORES(176, IMAGINE__R88, IMAGINE__F88("=f", d), 88, 89, 0);
#endif
}

/* d [64, N] += a [64, 16] b, a in registers (as in multiply_16x8x16, 16 rows a warp), b [16, N] in shared memory with n
 * along the lines (weights times values). */
template <unsigned N> IMAGINE__INLINE void multiply_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b)
{
    static_assert(N == 64 || N == 128, "add the shape here");
#ifdef IMAGINE__EMULATED
    emulator::wgmma(N, d, a, 0, b, true, true);
#else
    if constexpr (N == 64)
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" IMAGINE__R32
                     "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                     : IMAGINE__F32("+f", d, 0)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    else
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" IMAGINE__R64
                     "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                     : IMAGINE__F64("+f", d)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#endif
}

/* How many registers a thread of this warpgroup has from now on. */
template <unsigned COUNT> IMAGINE__INLINE void more_registers()
{
#ifdef IMAGINE__EMULATED
    emulator::registers(COUNT);
#else
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}

template <unsigned COUNT> IMAGINE__INLINE void fewer_registers()
{
#ifdef IMAGINE__EMULATED
    emulator::registers(COUNT);
#else
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}

/* ---- the host's side --------------------------------------------------------------------------------------------- */

/* Starts a kernel; 0 or an error number. The only way to start one. */
template <class... Parameters, class... Arguments>
static inline int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, void *stream,
                         const Arguments &...arguments)
{
#ifdef IMAGINE__EMULATED
    return emulator::start(stream, kernel, grid, block, shared_bytes, Parameters(arguments)...);
#else
    if (shared_bytes > 48 << 10) {
        cudaError_t status = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                  (int)shared_bytes);
        if (status != cudaSuccess)
            return (int)status;
    }
    auto start = [&](Parameters... parameters) {
        void *list[] = {(void *)&parameters...};
        return cudaLaunchKernel((const void *)kernel, grid, block, list, shared_bytes, (cudaStream_t)stream);
    };
    return (int)start(arguments...);
#endif
}

/* 10 major + minor of the current device's compute capability, 0 when there is none. */
static inline int device_capability()
{
#ifdef IMAGINE__EMULATED
    return emulator::capability();
#else
    int device, major, minor;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
        return 0;
    return 10 * major + minor;
#endif
}

/* How many multiprocessors the current device has, 1 when there is none. */
static inline int device_multiprocessors()
{
#ifdef IMAGINE__EMULATED
    return emulator::multiprocessors();
#else
    int device, count;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
        return 1;
    return count;
#endif
}

#endif
