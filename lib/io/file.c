/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/io.h"
#include "model/model.h"

#define NAME_KEPT 200 /* bytes of a name: names have at most 255 */

/* Where links lead, also to a file that is not there yet. 0, or errno. */
static int follow(char target[PATH_MAX])
{
    char link[PATH_MAX];
    for (int i = 0; i < 40; i++) {
        ssize_t length = readlink(target, link, sizeof link - 1);
        if (length < 0)
            return errno == EINVAL || errno == ENOENT ? 0 : errno; /* no link */
        link[length] = 0;
        const char *name = strrchr(target, '/');
        size_t folder = *link != '/' && name ? (size_t)(name + 1 - target) : 0;
        if (folder + (size_t)length >= PATH_MAX)
            return ENAMETOOLONG;
        memcpy(target + folder, link, (size_t)length + 1);
    }
    return ELOOP;
}

/* What is to be written in the end: a link to a file stays one, and a file that is replaced keeps its permissions. */
static imagine_status find_target(imagine__output *output, imagine_error *error)
{
    char target[PATH_MAX];
    struct stat there;
    size_t length = strlen(output->path);
    int failed = !length ? ENOENT : length < sizeof target ? 0 : ENAMETOOLONG;
    if (!failed) {
        memcpy(target, output->path, length + 1);
        failed = follow(target);
    }
    if (failed)
        return imagine__fail_errno(error, IMAGINE_ERROR_IO, failed, "%s: cannot be written", imagine__path_text(output->path));
    if (!stat(output->path, &there)) {
        if (!S_ISREG(there.st_mode)) {
            if (S_ISDIR(there.st_mode))
                return imagine__fail_errno(error, IMAGINE_ERROR_IO, EISDIR, "%s: nothing was written", output->path);
            return imagine__fail(error, IMAGINE_ERROR_IO, "%s: exists and is not a regular file; nothing was written",
                                 output->path);
        }
        output->replaces = 1;
        output->mode = there.st_mode & 0777;
        output->owner = there.st_uid;
        output->group = there.st_gid;
    } else if (errno != ENOENT) {
        return imagine__fail_errno(error, IMAGINE_ERROR_IO, errno, "%s: cannot be written", output->path);
    }
    output->target = imagine__strdup(output->context, target);
    return output->target ? IMAGINE_OK : imagine__fail_memory(error, strlen(target) + 1, "a file's name");
}

/* The new file gets what the one that it replaces has, as far as this process may and the file system can. */
static void take_over(const imagine__output *output)
{
    uint32_t mode = output->mode;
    if (fchown(output->fd, output->owner, output->group) && fchown(output->fd, (uid_t)-1, output->group))
        mode = (mode & ~UINT32_C(070)) | (mode & 07) << 3; /* its group is another one, which gets no more than everybody */
    (void)fchmod(output->fd, mode);
}

imagine_status imagine__output_open(imagine__output *output, imagine_context *context, const char *path,
                                    imagine_error *error)
{
    *output = (imagine__output) { .context = context, .path = path, .fd = -1 };
    imagine_status status = find_target(output, error);
    if (status < 0)
        return status;
    /* Beside the target, under as much of its name as leaves room for the rest. */
    const char *name = strrchr(output->target, '/');
    size_t folder = name ? (size_t)(name + 1 - output->target) : 0, kept = strlen(output->target + folder);
    if (kept > NAME_KEPT)
        for (kept = NAME_KEPT; kept && ((uint8_t)output->target[folder + kept] & 0xC0) == 0x80;)
            kept--;
    size_t room = folder + kept + 40;
    output->temporary = imagine__alloc(context, room);
    if (!output->temporary) {
        imagine__output_abandon(output);
        return imagine__fail_memory(error, room, "a file's temporary name");
    }
    /* What took the place of a file that others may not read can be read by its owner alone from the beginning. */
    for (int attempt = 0; attempt < 100 && output->fd < 0; attempt++) {
        struct timespec now; /* processes that were killed may have had this number, and left files */
        clock_gettime(CLOCK_REALTIME, &now);
        snprintf(output->temporary, room, "%.*s.%ld-%08lx.part", (int)(folder + kept), output->target, (long)getpid(), now.tv_nsec);
        output->fd = open(output->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, output->replaces ? output->mode & 0600 : 0666);
        if (output->fd < 0 && errno != EEXIST && errno != EINTR)
            break;
    }
    if (output->fd >= 0) {
        if (output->replaces)
            take_over(output);
        return IMAGINE_OK;
    }
    status = imagine__fail_errno(error, IMAGINE_ERROR_IO, errno, "%s: no file can be made there", path);
    imagine__free(context, output->temporary);
    output->temporary = NULL;
    imagine__output_abandon(output);
    return status;
}

/* A file that has become as large as the process may make one is an error like a full disk: the signal, which goes to the thread that
 * writes and would end the process, is taken back. */
static ssize_t write_quietly(int fd, const void *bytes, size_t size)
{
    sigset_t limit, before;
    ssize_t done;
    sigemptyset(&limit);
    sigaddset(&limit, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &limit, &before);
    do
        done = write(fd, bytes, size);
    while (done < 0 && errno == EINTR);
    int failed = errno;
    if (done < 0 && failed == EFBIG && !sigismember(&before, SIGXFSZ))
        while (sigtimedwait(&limit, NULL, &(struct timespec){ 0 }) < 0 && errno == EINTR)
            ;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = failed;
    return done;
}

void imagine__output_write(imagine__output *output, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    while (size && !output->failed) {
        ssize_t done = write_quietly(output->fd, at, size);
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
    if (!output->failed && rename(output->temporary, output->target) < 0)
        output->failed = errno;
    if (output->failed) {
        status = imagine__fail_errno(error, IMAGINE_ERROR_IO, output->failed, "%s: cannot be written", output->path);
        imagine__output_abandon(output);
        return status;
    }
    imagine__free(output->context, output->temporary);
    output->temporary = NULL;
    imagine__output_abandon(output);
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
    imagine__free(output->context, output->target);
    output->temporary = output->target = NULL;
}
