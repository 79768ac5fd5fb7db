/* SPDX-License-Identifier: MIT */
#ifndef TESTS_API_FAULTY_H
#define TESTS_API_FAULTY_H

/* The C library's functions on files, with faults on demand. A program that is linked with faulty.c and exports its
 * symbols has them called in their place, by libimagine.so too. */

#include <stdatomic.h>

typedef enum fault_target {
    FAULT_OPEN,
    FAULT_FSTAT,
    FAULT_STAT,
    FAULT_PREAD,
    FAULT_WRITE, /* to regular files */
    FAULT_FSYNC,
    FAULT_CLOSE,
    FAULT_RENAME,
    FAULT_OPENDIR,
    FAULT_READDIR,
    FAULT_EVENTFD,
    FAULT_TARGETS
} fault_target;

/* Effects that are no errno. */
enum {
    FAULT_NO_DATA = -1, /* a read of 0 bytes */
    FAULT_SHORT = -2 /* about half of what was asked for is read or written */
};

typedef enum fault_mode {
    FAULT_ONCE,
    FAULT_FOR_GOOD, /* from call `at` on */
    FAULT_EVERY_OTHER
} fault_mode;

typedef struct fault_state {
    atomic_int armed; /* calls are counted, and fail, while it is 1 */
    atomic_int calls[FAULT_TARGETS], fired;
    fault_target which;
    int effect; /* errno, or one of the above */
    fault_mode mode;
    int at; /* from 1; 0: never */
} fault_state;
extern fault_state fault;

/* While not armed. */
void fault_set(fault_target which, int effect, fault_mode mode, int at);

#endif
