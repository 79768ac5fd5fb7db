/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TESTS_DEVICE_H
#define IMAGINE_TESTS_DEVICE_H

/* Device memory for tests of kernels, on the emulator and on a GPU. */

#include "../test.h"
#include "kernels/cuda/primitives.cuh"

static inline bool has_device()
{
#ifdef IMAGINE__EMULATED
    return true;
#else
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
#endif
}

/* 0, or an error; waits for the kernels. */
static inline int device_finish(int status)
{
#ifdef IMAGINE__EMULATED
    if (status)
        fprintf(stderr, "    %s\n", emulator::report());
    return status;
#else
    cudaError_t error = status ? (cudaError_t)status : cudaDeviceSynchronize();
    if (error != cudaSuccess)
        fprintf(stderr, "    %s\n", cudaGetErrorString(error));
    return (int)error;
#endif
}

/* `count` values in device memory, and a copy on the host. */
template <class T> struct device_array {
    T *device = nullptr;
    T *host = nullptr;
    size_t count;

    explicit device_array(size_t n) : count(n)
    {
        host = (T *)calloc(n ? n : 1, sizeof(T));
#ifdef IMAGINE__EMULATED
        device = (T *)emulator::allocate(n * sizeof(T));
#else
        if (cudaMalloc((void **)&device, n * sizeof(T)) != cudaSuccess)
            device = nullptr;
#endif
        if (!host || !device) {
            fprintf(stderr, "out of memory\n");
            exit(1);
        }
    }
    device_array(const device_array &) = delete;
    ~device_array()
    {
        free(host);
#ifdef IMAGINE__EMULATED
        emulator::release(device);
#else
        cudaFree(device);
#endif
    }
    void upload()
    {
#ifdef IMAGINE__EMULATED
        emulator::copy_in(device, host, count * sizeof(T));
#else
        cudaMemcpy(device, host, count * sizeof(T), cudaMemcpyHostToDevice);
#endif
    }
    void download()
    {
#ifdef IMAGINE__EMULATED
        emulator::copy_out(host, device, count * sizeof(T));
#else
        cudaMemcpy(host, device, count * sizeof(T), cudaMemcpyDeviceToHost);
#endif
    }
};

/* Random numbers that are exact in bf16: multiples of 1/16 in -2 to 2. */
static inline float small_value(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)((int)(*state >> 26) - 32) / 16.0f;
}

static inline uint16_t bf16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float value_of(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
