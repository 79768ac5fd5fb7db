/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_BENCH_H
#define IMAGINE_BENCH_H

#include "context.h"

/* One measurement of imagine_bench. */
typedef struct imagine_bench_row {
    uint32_t struct_size;
    uint32_t reserved0;
    char name[96]; /* "linear 1024x1536x8960 bf16" */
    char kind[16]; /* "peak", "linear", "attention", "conv" */
    double gflops; /* billions of operations a second, a multiply-add being two */
    double share; /* of the peak, 0 to 1; with IMAGINE_CPU_AVX512BF16 products of bf16 may be over 1, as the peak is that of f32 */
    double seconds; /* of one run */
    double peak; /* in and out: the highest peak measured so far, GFLOP/s; 0 before the first call */
} imagine_bench_row;

#ifdef __cplusplus
extern "C" {
#endif

/* Measures entry `index` with the context's threads and instruction set; entry 0 is the peak of the machine's multiply-add units.
 * Takes about a second. `row` is filled for min(struct_size, known) bytes. IMAGINE_ERROR_NOT_FOUND past the last entry. */
IMAGINE_API imagine_status imagine_bench(imagine_context *context, int32_t index, imagine_bench_row *row,
                                         imagine_error *error);

/* Only the name and kind of an entry, as imagine_bench, in no time. */
IMAGINE_API imagine_status imagine_bench_describe(int32_t index, imagine_bench_row *row, imagine_error *error);

#ifdef __cplusplus
}
#endif
#endif
