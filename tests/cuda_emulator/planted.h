/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TESTS_PLANTED_H
#define IMAGINE_TESTS_PLANTED_H

/* Kernels with planted faults: right where their last argument, the fault's number, is 0. */

#include "device.h"

static bool reported(const char *text)
{
    bool found = strstr(emulator::report(), text) != nullptr;
    if (!found)
        fprintf(stderr, "    expected \"%s\", got \"%s\"\n", text, emulator::report());
    return found;
}

/* The kernel as it should be in ten orders, then its fault in ten. */
template <class... P, class... A>
static void expect(const char *text, int bug, void (*kernel)(P...), unsigned blocks, unsigned threads, size_t shared,
                   const A &...arguments)
{
    for (uint32_t seed = 0; seed < 10; seed++) {
        emulator::set_seed(seed);
        CHECK(!device_finish(launch(kernel, blocks, threads, shared, nullptr, arguments..., 0)));
        CHECK(launch(kernel, blocks, threads, shared, nullptr, arguments..., bug) != 0);
        CHECK(reported(text));
        CHECK(reported("block (") && (reported("thread") || reported("threads")));
    }
    emulator::set_seed(0);
}

#endif
