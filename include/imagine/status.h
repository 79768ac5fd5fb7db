/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_STATUS_H
#define IMAGINE_STATUS_H

#include "version.h"

/* Every status code: name, pinned number, what it means. Numbers never change and are never used again.
 * IMAGINE_STATUS_LIST(X) calls X(NAME, NUMBER, TEXT) for each. */
#define IMAGINE_STATUS_LIST(X)                                                                      \
    X(OK, 0, "success")                                                                             \
    X(TIMEOUT, 1, "no event within the time given; not an error")                                   \
    X(ERROR_INVALID_ARGUMENT, -1, "an argument or option is not valid")                             \
    X(ERROR_NO_MEMORY, -2, "an allocation failed or the memory limit was reached")                  \
    X(ERROR_CANCELLED, -3, "the work was cancelled")                                                \
    X(ERROR_STATE, -4, "the call does not fit the state that the handle is in")                     \
    X(ERROR_UNSUPPORTED, -5, "this library or machine cannot do what was asked")                    \
    X(ERROR_FORKED, -6, "the handle belongs to the parent process")                                 \
    X(ERROR_INTERNAL, -7, "a fault of the library; please report it")                               \
    X(ERROR_IO, -20, "a file or device could not be read or written")                               \
    X(ERROR_NOT_FOUND, -21, "a file, stage or tensor does not exist")                               \
    X(ERROR_FORMAT, -22, "a file is not what its format prescribes")                                \
    X(ERROR_MODEL, -23, "the model's configuration or weights do not fit together")                 \
    X(ERROR_THREAD, -40, "a thread could not be created")                                           \
    X(ERROR_NOT_FINITE, -60, "a tensor holds a NaN or an infinity")                                 \
    X(ERROR_DEVICE, -80, "the device reported an error")

/* A status: 0 is success, below 0 a failure, above 0 a success with news. Callers must accept numbers that
 * their headers do not know yet. */
typedef int32_t imagine_status;

enum {
#define IMAGINE_STATUS_ENUM(name, number, text) IMAGINE_##name = (number),
    IMAGINE_STATUS_LIST(IMAGINE_STATUS_ENUM)
#undef IMAGINE_STATUS_ENUM
    IMAGINE_STATUS_ENUM_END = 0x7fffffff
};

/* What went wrong, in words. Owned by the caller, always 512 bytes, valid without initialisation except for
 * struct_size, which IMAGINE_ERROR_INIT sets; a call that fails fills the rest, one that succeeds leaves it
 * alone. Every `imagine_error *` parameter may be NULL. */
typedef struct imagine_error {
    uint32_t struct_size;
    imagine_status status;
    int32_t native_code; /* errno or the device's own code, 0 where there is none */
    uint32_t reserved0;
    char message[496]; /* UTF-8, ends with a zero; names the file, tensor or field and what to do */
} imagine_error;

#define IMAGINE_ERROR_INIT { sizeof(imagine_error), 0, 0, 0, { 0 } }

#ifdef __cplusplus
extern "C" {
#endif

/* "ERROR_NO_MEMORY" for IMAGINE_ERROR_NO_MEMORY; "UNKNOWN" for a number that is not in the list. A constant. Any
 * thread. */
IMAGINE_API const char *imagine_status_name(imagine_status status);

/* The text of the list above. A constant. Any thread. */
IMAGINE_API const char *imagine_status_text(imagine_status status);

#ifdef __cplusplus
}
#endif
#endif
