/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TESTS_HOOKS_H
#define IMAGINE_TESTS_HOOKS_H

/* What the emulated libimagine_cuda.so has beside the module's own symbol, for tests that open the library on it. */

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EMULATED __attribute__((visibility("default")))

/* The allocation or launch of this number from now on, from 1, fails, once; 0: none does. */
EMULATED void emulated_fail_allocation(int64_t number);
EMULATED void emulated_fail_launch(int64_t number);
EMULATED uint64_t emulated_allocations_held(void);
EMULATED uint64_t emulated_allocations_made(void);
EMULATED uint64_t emulated_launches(void);
EMULATED uint64_t emulated_transfers(void); /* copies from the host and to it */
/* Whether cuBLASLt and cuDNN are there, and what they have computed since. */
EMULATED void emulated_libraries(int there);
EMULATED int emulated_library_calls(void);
EMULATED int emulated_convolver_handles(void); /* cuDNN's, since then */
/* Of failing_module.c alone; what an allocation fails with, at first the driver's number of having no memory. */
EMULATED void emulated_allocation_code(int32_t code);
EMULATED uint64_t emulated_memory_available(void);
/* The same of the calls that record a graph: its beginning, each launch, its end. */
EMULATED void emulated_fail_capture(int64_t number);
EMULATED uint64_t emulated_graphs_made(void);
EMULATED uint64_t emulated_graphs_started(void);
/* `call` at the launch of this number from now on, done or recorded, and how many came after it. 0: none. */
EMULATED void emulated_at_launch(int64_t number, void (*call)(void *), void *arg);
EMULATED uint64_t emulated_launches_after(void);
/* 0: kernels are done at once, copies from pinned memory at the last legal moment; 1: the other way. */
EMULATED void emulated_lag_kernels(int32_t lag);
/* Whether memory can be pinned, and how many pieces are. */
EMULATED void emulated_fail_pins(int32_t fail);
EMULATED uint64_t emulated_pins_held(void);
/* Begins or ends a recording by another part of the program, in the mode that refuses to all threads what may wait. At its end:
 * whether that was tried, which has spoilt it. */
EMULATED int32_t emulated_capture_elsewhere(int32_t begin);
/* The driver's context that is current to the thread, as a program sets it, to any address. */
EMULATED void emulated_set_context(void *context);
EMULATED void *emulated_current_context(void);

#ifdef __cplusplus
}
#endif

#endif
