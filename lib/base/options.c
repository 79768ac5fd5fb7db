/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "base/base.h"

#define LARGEST 4096u /* no struct comes near; what claims more was never initialised */

/* Options have an _init function, what the library fills has none. */
static imagine_status read_size(const void *from, const char *name, int filled, uint32_t *size, imagine_error *error)
{
    memcpy(size, from, sizeof *size);
    if (*size < sizeof *size || *size > LARGEST)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: struct_size is %u; %sset it to sizeof(%s)", name, *size,
                             filled ? "" : "call its _init function or ", name);
    return IMAGINE_OK;
}

imagine_status imagine__read_options(void *known, size_t known_size, const void *options, const char *name,
                                     imagine_error *error)
{
    if (!options)
        return IMAGINE_OK;
    uint32_t size, ours = (uint32_t)known_size;
    imagine_status status = read_size(options, name, 0, &size, error);
    if (status < 0)
        return status;
    const unsigned char *bytes = options;
    for (size_t i = known_size; i < size; i++)
        if (bytes[i])
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "%s: byte %zu is set, which version %s of the library does not know", name, i,
                                 imagine_version_string());
    memcpy(known, options, size < known_size ? size : known_size);
    memcpy(known, &ours, sizeof ours);
    return IMAGINE_OK;
}

imagine_status imagine__check_struct(const void *out, const char *name, imagine_error *error)
{
    uint32_t size;
    return out ? read_size(out, name, 1, &size, error) : IMAGINE_OK;
}

imagine_status imagine__write_struct(void *out, const void *known, size_t known_size, const char *name,
                                     imagine_error *error)
{
    if (!out)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: the pointer is NULL", name);
    uint32_t size;
    imagine_status status = read_size(out, name, 1, &size, error);
    if (status < 0)
        return status;
    memcpy(out, known, size < known_size ? size : known_size);
    if (size > known_size)
        memset((char *)out + known_size, 0, size - known_size);
    memcpy(out, &size, sizeof size);
    return IMAGINE_OK;
}

void imagine__init_options(void *options, size_t size, const void *defaults, size_t known_size)
{
    if (!options || size < sizeof(uint32_t))
        return;
    uint32_t written = (uint32_t)size;
    memcpy(options, defaults, size < known_size ? size : known_size);
    if (size > known_size)
        memset((char *)options + known_size, 0, size - known_size);
    memcpy(options, &written, sizeof written);
}
