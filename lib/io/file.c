/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/io.h"

imagine_status imagine__output_open(imagine__output *output, imagine_context *context, const char *path,
                                    imagine_error *error)
{
    *output = (imagine__output) { .context = context, .path = path, .fd = -1 };
    struct stat there;
    if (!stat(path, &there)) {
        if (!S_ISREG(there.st_mode))
            return imagine__fail(error, IMAGINE_ERROR_IO, "%s: exists and is not a regular file; nothing was written",
                                 path);
    } else if (errno != ENOENT) {
        return imagine__fail_errno(error, IMAGINE_ERROR_IO, errno, "%s: cannot be written", path);
    }
    size_t room = strlen(path) + 32;
    output->temporary = imagine__alloc(context, room);
    if (!output->temporary)
        return imagine__fail_memory(error, room, "a file's temporary name");
    for (int attempt = 0; attempt < 100 && output->fd < 0; attempt++) {
        snprintf(output->temporary, room, "%s.%ld-%d.part", path, (long)getpid(), attempt);
        output->fd = open(output->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (output->fd < 0 && errno != EEXIST && errno != EINTR)
            break;
    }
    if (output->fd >= 0)
        return IMAGINE_OK;
    imagine_status status =
        imagine__fail_errno(error, IMAGINE_ERROR_IO, errno, "%s: cannot be created", output->temporary);
    imagine__free(context, output->temporary);
    output->temporary = NULL;
    return status;
}

void imagine__output_write(imagine__output *output, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    while (size && !output->failed) {
        ssize_t done = write(output->fd, at, size);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            output->failed = done < 0 ? errno : EIO;
            return;
        }
        at += done;
        size -= (size_t)done;
    }
}

/* The bytes must have arrived before the name points to them, or a crash leaves an empty file under it. Returns errno. */
static int flush(int fd)
{
    int failed;
    do
        failed = fsync(fd) < 0 ? errno : 0;
    while (failed == EINTR);
    return failed == EINVAL || failed == ENOTSUP ? 0 : failed; /* a file system that has no such thing */
}

imagine_status imagine__output_commit(imagine__output *output, imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    if (!output->failed)
        output->failed = flush(output->fd);
    if (close(output->fd) < 0 && !output->failed && errno != EINTR)
        output->failed = errno;
    output->fd = -1;
    if (!output->failed && rename(output->temporary, output->path) < 0)
        output->failed = errno;
    if (output->failed) {
        status = imagine__fail_errno(error, IMAGINE_ERROR_IO, output->failed, "%s: cannot be written", output->path);
        imagine__output_abandon(output);
        return status;
    }
    imagine__free(output->context, output->temporary);
    output->temporary = NULL;
    return IMAGINE_OK;
}

void imagine__output_abandon(imagine__output *output)
{
    if (output->fd >= 0)
        close(output->fd);
    output->fd = -1;
    if (output->temporary)
        unlink(output->temporary);
    imagine__free(output->context, output->temporary);
    output->temporary = NULL;
}
