/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_VERSION_H
#define IMAGINE_VERSION_H

#include <stddef.h>
#include <stdint.h>

/* The version of these headers. The SONAME carries the major number only: within one major version a program
 * compiled against older headers runs on a newer library without being compiled again. */
#define IMAGINE_VERSION_MAJOR 0
#define IMAGINE_VERSION_MINOR 2
#define IMAGINE_VERSION_PATCH 0

/* One number to compare: major * 1000000 + minor * 1000 + patch. */
#define IMAGINE_VERSION_NUMBER \
    (IMAGINE_VERSION_MAJOR * 1000000 + IMAGINE_VERSION_MINOR * 1000 + IMAGINE_VERSION_PATCH)

#if defined(IMAGINE_BUILD) && defined(__GNUC__)
#define IMAGINE_API __attribute__((visibility("default")))
#else
#define IMAGINE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The version of the library that is running, in the form of IMAGINE_VERSION_NUMBER. Any thread. */
IMAGINE_API uint32_t imagine_version_number(void);

/* The same as text, "0.2.0". A constant; never freed. Any thread. */
IMAGINE_API const char *imagine_version_string(void);

#ifdef __cplusplus
}
#endif
#endif
