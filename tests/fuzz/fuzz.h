/* SPDX-License-Identifier: MIT */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

/* What the fuzz targets share. Each of them defines LLVMFuzzerTestOneInput and is linked with libFuzzer, or with
 * driver.c where there is none. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the process, which the fuzzer reports with its input. */
#define FUZZ_CHECK(x) ((x) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #x))
_Noreturn void fuzz_fail(const char *file, int line, const char *what);

/* The context of all inputs, with one thread. */
imagine_context *fuzz_context(void);

/* From here on the context gives out at most `size` bytes + 16 MiB, beyond what it held before. */
void fuzz_begin(size_t size);
/* Everything since fuzz_begin must have been given back. */
void fuzz_end(void);

/* The path of a regular file with these bytes; the same file each time. */
const char *fuzz_file(const uint8_t *data, size_t size);

/* A folder for links to that file, removed at exit. */
const char *fuzz_folder(void);
/* folder/name becomes a link to the file, its own folders included. */
void fuzz_link(const char *name, const char *target);

#endif
