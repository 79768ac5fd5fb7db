/* SPDX-License-Identifier: MIT */
#include "hooks.h"

#include "emulator.h"

/* A library that opens this module is a host like any other: it must not follow a device pointer. */
__attribute__((constructor)) static void begin()
{
    emulator::hide_memory(true);
#ifdef UNWATCHED
    emulator::watch_memory(false);
#endif
}

extern "C" {
void emulated_fail_allocation(int64_t number) { emulator::fail_allocation(number); }
void emulated_fail_launch(int64_t number) { emulator::fail_launch(number); }
uint64_t emulated_allocations_held(void) { return emulator::allocations_held(); }
uint64_t emulated_allocations_made(void) { return emulator::allocations_made(); }
uint64_t emulated_launches(void) { return emulator::launches(); }
uint64_t emulated_transfers(void) { return emulator::transfers_made(); }
void emulated_libraries(int there)
{
    emulator::set_library(there, 1 << 30);
    emulator::set_convolver(there, 1 << 30);
}
int emulated_library_calls(void) { return emulator::library_products() + emulator::convolutions(); }
int emulated_convolver_handles(void) { return emulator::convolver_handles(); }
void emulated_fail_capture(int64_t number) { emulator::fail_capture(number); }
uint64_t emulated_graphs_made(void) { return emulator::graphs_made(); }
uint64_t emulated_graphs_started(void) { return emulator::graphs_started(); }
void emulated_at_launch(int64_t number, void (*call)(void *), void *arg) { emulator::at_launch(number, call, arg); }
uint64_t emulated_launches_after(void) { return emulator::launches_after(); }
void emulated_lag_kernels(int32_t lag) { emulator::lag_kernels(lag != 0); }
void emulated_fail_pins(int32_t fail) { emulator::fail_pins(fail != 0); }
int32_t emulated_capture_elsewhere(int32_t begin) { return emulator::capture_elsewhere(begin != 0); }
void emulated_set_context(void *context) { emulator::set_context(context); }
void *emulated_current_context(void) { return emulator::current_context(); }
uint64_t emulated_pins_held(void) { return emulator::pins_held(); }
}
