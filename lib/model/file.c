/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/model.h"

const char *imagine__path_text(const char *path)
{
    return *path ? path : "the path is empty";
}

imagine_status imagine__look(const char *path, imagine__path_kind *kind, imagine_error *error)
{
    struct stat about;
    *kind = IMAGINE__PATH_NONE;
    if (!stat(path, &about))
        *kind = S_ISDIR(about.st_mode) ? IMAGINE__PATH_FOLDER : IMAGINE__PATH_FILE;
    else if (errno != ENOENT && errno != ENOTDIR)
        return imagine__fail_errno(error, IMAGINE_ERROR_IO, errno, "%s", path);
    return IMAGINE_OK;
}

static int open_again(const char *path)
{
    int fd;
    do
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not make us wait */
    while (fd < 0 && errno == EINTR);
    return fd;
}

imagine_status imagine__open_file(const char *path, int *fd, uint64_t *size, imagine_error *error)
{
    struct stat about;
    int opened = open_again(path);
    if (opened < 0)
        return imagine__fail_errno(
            error, errno == ENOENT || errno == ENOTDIR ? IMAGINE_ERROR_NOT_FOUND : IMAGINE_ERROR_IO, errno, "%s",
            imagine__path_text(path));
    if (fstat(opened, &about)) {
        int number = errno;
        close(opened);
        return imagine__fail_errno(error, IMAGINE_ERROR_IO, number, "%s", path);
    }
    if (!S_ISREG(about.st_mode)) {
        close(opened);
        return imagine__fail(error, IMAGINE_ERROR_IO, "%s: not a regular file", path);
    }
    *fd = opened;
    *size = (uint64_t)about.st_size;
    return IMAGINE_OK;
}

imagine_status imagine__pread(int fd, const char *path, uint64_t offset, void *out, uint64_t size, imagine_error *error)
{
    char *to = out;
    while (size) {
        ssize_t got = pread(fd, to, size < (1u << 30) ? (size_t)size : (size_t)1 << 30, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return imagine__fail_errno(error, IMAGINE_ERROR_IO, errno, "%s", path);
        if (!got)
            return imagine__fail(error, IMAGINE_ERROR_IO,
                                 "%s: there is nothing from byte %llu on, where %llu bytes are wanted; was it cut short?", path,
                                 (unsigned long long)offset, (unsigned long long)size);
        to += got;
        offset += (uint64_t)got;
        size -= (uint64_t)got;
    }
    return IMAGINE_OK;
}

imagine_status imagine__read_file(imagine_context *context, const char *path, size_t limit, char **data, size_t *size,
                                  imagine_error *error)
{
    int fd;
    uint64_t length;
    *data = NULL;
    imagine_status status = imagine__open_file(path, &fd, &length, error);
    if (status < 0)
        return status;
    status = imagine__read_opened(context, fd, length, path, limit, data, size, error);
    close(fd);
    return status;
}

imagine_status imagine__read_opened(imagine_context *context, int fd, uint64_t length, const char *path, size_t limit, char **data,
                                    size_t *size, imagine_error *error)
{
    imagine_status status;
    *data = NULL;
    if (length > limit) {
        status = imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: %llu bytes long; at most %zu are read", path,
                               (unsigned long long)length, limit);
    } else if (!(*data = imagine__alloc(context, (size_t)length + 1))) {
        status = imagine__fail_memory_in(context, error, (size_t)length, path);
    } else {
        status = imagine__pread(fd, path, 0, *data, length, error);
        (*data)[length] = 0;
        *size = (size_t)length;
    }
    if (status < 0) {
        imagine__free(context, *data);
        *data = NULL;
    }
    return status;
}
