/* SPDX-License-Identifier: MIT */
#include "emulator.h"

extern "C" void cuda_check_prefer(int capability, uint32_t seed)
{
    emulator::set_capability(capability);
    emulator::set_seed(seed);
}
