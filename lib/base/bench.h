/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_BASE_BENCH_H
#define IMAGINE_BASE_BENCH_H

/* What lib/bench.c has to do with a context's device. */

#include "base/base.h"
#include "kernels/device_bench.h"

/* Fills in how the device's operations are called; with `libraries`, also those that it may use for large products. On success the
 * workspace belongs to the measurement until the end. */
imagine_status imagine__device_bench_begin(imagine__device_bench *bench, imagine_context *context, int libraries,
                                           imagine_error *error);
void imagine__device_bench_end(imagine__device_bench *bench);
int imagine__device_is_bf16(const imagine_context *context); /* the precision of products */
int imagine__device_is_emulated(const imagine_context *context);
void imagine__device_without_graphs(imagine__work *work); /* every launch by itself */
void imagine__device_name(const imagine_context *context, char *name, size_t size);

/* Stages with random weights (bench_stages.c), numbered from 0. 0: no such stage. */
int32_t imagine__bench_stage_name(int32_t number, int32_t tiny, imagine_bench_row *row);
/* Fills in seconds, value, unit and gflops, or left_out. */
imagine_status imagine__bench_stage(imagine_context *context, int32_t number, int32_t tiny, imagine_bench_row *row,
                                    imagine_error *error);

#endif
