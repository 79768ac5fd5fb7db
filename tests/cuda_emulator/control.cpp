/* SPDX-License-Identifier: MIT */
#include "emulator.h"

extern "C" void cuda_check_prefer(int capability, uint32_t seed)
{
    emulator::set_capability(capability);
    emulator::set_seed(seed);
}

extern "C" int cuda_check_library(int there, int good_calls)
{
    emulator::set_library(there, good_calls);
    return 1;
}

extern "C" int cuda_check_products()
{
    return emulator::library_products();
}

extern "C" int cuda_check_convolver(int there, int good_calls)
{
    emulator::set_convolver(there, good_calls);
    return 1;
}

extern "C" int cuda_check_convolutions()
{
    return emulator::convolutions();
}
