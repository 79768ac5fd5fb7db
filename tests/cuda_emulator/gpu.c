/* SPDX-License-Identifier: MIT */
#include "cuda_check.h"

/* The tests of operations with the compiled module instead of the emulated one. */
void cuda_check_prefer(int capability, uint32_t seed)
{
    (void)capability;
    (void)seed;
    (void)cuda; /* this file has no tests of its own */
}
