/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TESTS_EMULATOR_H
#define IMAGINE_TESTS_EMULATOR_H

/* The CUDA emulator, as kernels see it: kernels/cuda/primitives.cuh includes it when IMAGINE__EMULATED is defined. Kernels
 * are compiled with -fsanitize=thread,bounds, whose hooks (memory.cpp) watch their loads and stores; the emulator itself is
 * compiled without. The blocks of a launch run one after the other, the threads of a block as fibres of one host thread. The
 * first fault ends the launch and is kept as text. README.md says what is watched. */

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
/* One block runs at a time, so a block's static shared memory is a section of the program (not inside templates: GCC
 * leaves the attribute out there; use the dynamic shared memory). */
#define __shared__ static __attribute__((section("emulator_shared")))
#define threadIdx (emulator::thread_index())
#define blockIdx (emulator::block_index())
#define blockDim (emulator::block_size())
#define gridDim (emulator::grid_size())

namespace emulator {

/* ---- from the host ----------------------------------------------------------------------------------------------- */

/* Global memory between red zones, every byte 0xff (a NaN) and unwritten. Any access by a kernel outside is a fault. */
void *allocate(size_t size); /* NULL: report() says why */
void release(void *memory);
/* Whether device memory can be looked into only by the functions here (from then on; at first: no). */
void hide_memory(bool hide);
/* Whether accesses to global memory are looked at; not where kernels are compiled without the hooks. */
void watch_memory(bool watch);
/* The allocation of this number from now on, from 1, fails, once; 0: none does. */
void fail_allocation(int64_t number);
size_t allocations_held();
uint64_t allocations_made();
uint64_t transfers_made(); /* copies from the host and to it */
/* The same for launches. */
void fail_launch(int64_t number);
uint64_t launches();
/* The host's own accesses: they count as written. Size bytes of an allocation. */
void copy_in(void *device, const void *host, size_t size);
void copy_out(void *host, const void *device, size_t size);
/* From one allocation to another: what nobody wrote stays unwritten. */
int copy(void *to, const void *from, size_t size, void *stream);
int clear(void *memory, size_t size, void *stream);

/* A kernel, at once: 0, or 1 when something was wrong: then report() is what, with block and thread. */
int run(dim3 grid, dim3 block, size_t shared_bytes, void (*call)(const void *), const void *arguments, size_t size);
const char *report();

/* The thread's device, of which there is one, 0, which has one context. Without a context the thread gets this one by itself; another,
 * which set_context() may make current as a program does by the driver, nothing works in. */
int use_device(int device);
void *current_context();
void set_context(void *context);

/* Streams (stream.cpp), by handles as the module gives them out; NULL is the default one. Errors are the driver's numbers. */
int stream_create(void **stream);
void stream_destroy(void *stream);
/* A kernel into a stream, which keeps a copy of its arguments. */
int put_kernel(void *stream, dim3 grid, dim3 block, size_t shared_bytes, void (*call)(const void *), const void *arguments,
               size_t size);
int settle(void *stream); /* the host waits for all that is in it */
/* At first kernels are done at once and copies from pinned memory at the last legal moment; with this it is the other way. */
void lag_kernels(bool lag);
int mark_create(void **mark);
void mark_destroy(void *mark);
int put_mark(void *mark, void *stream);
int mark_wait(void *mark);
int stream_wait(void *stream, void *mark);
/* Kernels and copies on the device between the two are recorded instead of done. */
int graph_begin(void *stream);
int graph_end(void *stream, void **graph);
int graph_launch(void *graph, void *stream);
void graph_destroy(void *graph);
/* While one thread captures in the global mode, others are refused what may wait (unsafe(), which spoils the capture), unless they
 * have relaxed theirs. *mode becomes what it was. */
enum capture_mode { GLOBAL, THREAD_LOCAL, RELAXED };
int exchange_capture_mode(int *mode);
int unsafe(const char *what);
/* Begins or ends a capture in the global mode by no thread of the program's. At its end: whether it was spoilt. */
bool capture_elsewhere(bool begin);
/* Whether this thread captures, where the call `what` is not allowed and spoils the capture; or another that it would spoil. */
bool forbidden(const char *what);
/* The beginning, launch or end of a capture of this number from now on fails, once; 0: none does. */
void fail_capture(int64_t number);
/* `call` at the kernel of this number from now on, done or recorded, and how many came after it. 0: none. */
void at_launch(int64_t number, void (*call)(void *), void *arg);
uint64_t launches_after();
uint64_t graphs_made();
uint64_t graphs_started();
int pin(void *memory, size_t size);
void unpin(void *memory);
void fail_pins(bool fail);
size_t pins_held();
int copy_later(void *device, const void *host, size_t size, void *stream);

/* The order in which threads run and copies complete; 0 is by number. */
void set_seed(uint32_t seed);
/* The compute capability that kernels are chosen by: 80 or 90. */
void set_capability(int capability);
int capability();

/* Few, so that kernels whose blocks take part after part do so here. */
int multiprocessors();

/* cuBLASLt (cublas.cpp). */
void *open_library(const char *name);
void *find_function(void *library, const char *name);
/* Whether it is there, how many of its calls go well before all fail, and how many products it has started since. */
void set_library(bool there, int good_calls);
int library_products();
/* The same of cuDNN and its convolutions (cudnn.cpp). */
void *open_dnn(const char *name);
void *find_dnn(void *library, const char *name);
void set_convolver(bool there, int good_calls);
int convolutions();
int convolver_handles(); /* that it has made since */

template <class... Parameters, class... Arguments>
int start(void *stream, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
          const Arguments &...arguments)
{
    auto call = [=]() { kernel(arguments...); };
    using type = decltype(call);
    return put_kernel(stream, grid, block, shared_bytes, [](const void *p) { (*static_cast<const type *>(p))(); }, &call,
                      sizeof call);
}

/* ---- from kernels ------------------------------------------------------------------------------------------------ */

uint3 thread_index() __attribute__((const));
uint3 block_index() __attribute__((const));
dim3 block_size() __attribute__((const));
dim3 grid_size() __attribute__((const));
void *dynamic_shared() __attribute__((const));
uint32_t shared_address(const void *pointer);

/* count 0: all of the block. */
void barrier_sync(unsigned id, unsigned count);
void barrier_arrive(unsigned id, unsigned count);
void warp_sync(unsigned mask);
enum shuffle_kind { SHUFFLE_INDEX, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR };
uint32_t shuffle(unsigned mask, uint32_t value, unsigned lane, shuffle_kind kind, unsigned width);
unsigned ballot(unsigned mask, int predicate);
float atomic_add(float *address, float value);
unsigned atomic_add(unsigned *address, unsigned value);
unsigned atomic_or(unsigned *address, unsigned value);

/* bytes 4, 8 or 16, of which `valid` are read and the rest are zeros. */
void copy_async(void *shared, const void *global, unsigned bytes, unsigned valid);
void copy_async_commit();
void copy_async_wait(unsigned pending);
void ldmatrix(uint32_t *r, unsigned matrices, bool transposed, const void *row);
void mma_m16n8k16(float *d, const uint32_t *a, const uint32_t *b);

void mbarrier_init(uint64_t *barrier, unsigned count);
void mbarrier_arrive(uint64_t *barrier);
void mbarrier_expect(uint64_t *barrier, unsigned bytes); /* arrives too */
void mbarrier_wait(uint64_t *barrier, unsigned parity);
void proxy_fence();

/* A tensor as the copy engine sees it, of 2-byte elements; 128 bytes as the real one. Dimension 0 is dense; strides are in
 * bytes, stride[0] unused. `swizzle`: 128-byte swizzle, else none. */
struct alignas(64) tensor_map {
    unsigned char *base;
    uint64_t stride[4];
    uint32_t extent[4], box[4];
    uint32_t swizzle;
    uint32_t reserved[13];
};
void tma_load(void *shared, const tensor_map *map, uint64_t *barrier, const int *at);
void tma_store(const tensor_map *map, const void *shared, const int *at);
void bulk_commit();
void bulk_wait(unsigned pending);

void wgmma_fence();
/* a: 4 registers, or NULL for the matrix at descriptor_a. n columns; the accumulators are n / 2 floats. */
void wgmma(unsigned n, float *d, const uint32_t *a, uint64_t descriptor_a, uint64_t descriptor_b, bool b_transposed,
           bool accumulate);
void wgmma_commit();
void wgmma_wait(unsigned pending);
void registers(unsigned count);

} // namespace emulator

#endif
