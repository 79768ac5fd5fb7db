/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_BENCH_H
#define IMAGINE_BENCH_H

#include "context.h"

/* Sizes of what is measured. */
typedef int32_t imagine_bench_size;
#define IMAGINE_BENCH_USUAL 0 /* those of models in use */
#define IMAGINE_BENCH_TINY 1 /* of a device only: they show that all of it runs, and nothing about speed */

/* One measurement of imagine_bench. Fields from `device` on are there since 0.2. */
typedef struct imagine_bench_row {
    uint32_t struct_size;
    uint32_t reserved0;
    char name[96]; /* "linear 1024x1536x8960 bf16" */
    char kind[16]; /* "peak", "linear", "attention", "conv"; on a device also "memory", "launch", "norm", "sampler", "transformer",
                      "vae" */
    double gflops; /* billions of operations a second, a multiply-add being two; 0: not counted */
    double share; /* of the peak, 0 to 1; with IMAGINE_CPU_AVX512BF16 and AMX products of bf16 may be over 1, as the peak is that of f32.
                     On a device, of what peak and memory together allow; 0: not known */
    double seconds; /* of one run */
    double peak; /* in and out: the highest peak measured so far, GFLOP/s; 0 before the first call. On a device that of bf16 */
    imagine_device device; /* in, for imagine_bench_describe: whose entries (0: the CPU's); out: where it was measured */
    imagine_bench_size size; /* in */
    double peak_f32; /* in and out, on a device: the same of f32 */
    double bandwidth; /* in and out, on a device: the highest so far of its memory, GB/s read and written together */
    double value; /* in `unit` */
    char unit[16]; /* "GFLOP/s", "TFLOP/s", "GB/s", "us", "s", "frames/s" */
    int32_t emulated; /* 1: no GPU but an emulator for tests, whose times say nothing about any GPU */
    int32_t reserved1;
    char left_out[136]; /* why this was not measured; empty: it was */
    char device_name[64]; /* of a device, with its compute capability */
} imagine_bench_row;

#ifdef __cplusplus
extern "C" {
#endif

/* Measures entry `index` with the context's threads and instruction set; entry 0 is the peak of the machine's multiply-add units.
 * Takes about a second. With a context on a device its operations are measured, beginning with the peaks of bf16 and f32
 * and with the memory (entries 0 to 2), and then, in the context's precision, one step of a transformer of Wan 1.3B's size with
 * 32,760 tokens and the decoding of frames, both with random weights. What does not fit the device's memory or takes more than
 * a minute is left out, which is no error. `row` is filled for min(struct_size, known) bytes. IMAGINE_ERROR_NOT_FOUND past the last
 * entry. */
IMAGINE_API imagine_status imagine_bench(imagine_context *context, int32_t index, imagine_bench_row *row,
                                         imagine_error *error);

/* Only the name and kind of an entry, as imagine_bench, in no time. */
IMAGINE_API imagine_status imagine_bench_describe(int32_t index, imagine_bench_row *row, imagine_error *error);

#ifdef __cplusplus
}
#endif
#endif
