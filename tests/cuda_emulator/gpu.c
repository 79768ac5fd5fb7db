/* SPDX-License-Identifier: MIT */
#include "cuda_check.h"

/* The tests of operations with the compiled module instead of the emulated one. */
void cuda_check_prefer(int capability, uint32_t seed)
{
    (void)capability;
    (void)seed;
    (void)cuda; /* this file has no tests of its own */
}

int cuda_check_library(int there, int good_calls)
{
    (void)there;
    (void)good_calls;
    return 0;
}

int cuda_check_products(void)
{
    return -1;
}

int cuda_check_convolver(int there, int good_calls)
{
    (void)there;
    (void)good_calls;
    return 0;
}

int cuda_check_convolutions(void)
{
    return -1;
}
