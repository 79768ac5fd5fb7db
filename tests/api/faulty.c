/* SPDX-License-Identifier: MIT */
#include "faulty.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

fault_state fault;

void fault_set(fault_target which, int effect, fault_mode mode, int at)
{
    fault.which = which;
    fault.effect = effect;
    fault.mode = mode;
    fault.at = at;
}

/* 1 when this call is to fail; errno is then set. */
static int fails(fault_target which)
{
    if (!atomic_load(&fault.armed))
        return 0;
    int number = atomic_fetch_add(&fault.calls[which], 1) + 1;
    if (which != fault.which || !fault.at || number < fault.at || (fault.mode == FAULT_ONCE && number > fault.at) ||
        (fault.mode == FAULT_EVERY_OTHER && (number - fault.at) % 2))
        return 0;
    atomic_fetch_add(&fault.fired, 1);
    if (fault.effect > 0)
        errno = fault.effect;
    return 1;
}

/* `next`, the C library's function or a sanitizer's in front of it. */
#define NEXT(name, type, arguments)                                                        \
    type(*next) arguments;                                                                 \
    *(void **)&next = dlsym(RTLD_NEXT, name)

/* The names of the symbols, which are not those of the C functions with 64-bit offsets. */
#define SYMBOL(name) __asm__(name) __attribute__((visibility("default")))

int faulty_open(const char *path, int flags, ...) SYMBOL("open64");
int faulty_fstat(int fd, struct stat *about) SYMBOL("fstat64");
int faulty_stat(const char *path, struct stat *about) SYMBOL("stat64");
ssize_t faulty_pread(int fd, void *to, size_t size, off_t at) SYMBOL("pread64");
ssize_t faulty_write(int fd, const void *from, size_t size) SYMBOL("write");
int faulty_fsync(int fd) SYMBOL("fsync");
int faulty_close(int fd) SYMBOL("close");
int faulty_rename(const char *from, const char *to) SYMBOL("rename");
DIR *faulty_opendir(const char *path) SYMBOL("opendir");
struct dirent *faulty_readdir(DIR *dir) SYMBOL("readdir64");
int faulty_eventfd(unsigned value, int flags) SYMBOL("eventfd");

int faulty_open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    NEXT("open64", int, (const char *, int, ...));
    return fails(FAULT_OPEN) ? -1 : next(path, flags, mode);
}

int faulty_fstat(int fd, struct stat *about)
{
    NEXT("fstat64", int, (int, struct stat *));
    return fails(FAULT_FSTAT) ? -1 : next(fd, about);
}

int faulty_stat(const char *path, struct stat *about)
{
    NEXT("stat64", int, (const char *, struct stat *));
    return fails(FAULT_STAT) ? -1 : next(path, about);
}

ssize_t faulty_pread(int fd, void *to, size_t size, off_t at)
{
    NEXT("pread64", ssize_t, (int, void *, size_t, off_t));
    if (!fails(FAULT_PREAD))
        return next(fd, to, size, at);
    return fault.effect == FAULT_SHORT ? next(fd, to, size / 2 + 1, at) : fault.effect == FAULT_NO_DATA ? 0 : -1;
}

static int is_regular(int fd)
{
    struct stat about;
    NEXT("fstat64", int, (int, struct stat *));
    return !next(fd, &about) && S_ISREG(about.st_mode);
}

ssize_t faulty_write(int fd, const void *from, size_t size)
{
    NEXT("write", ssize_t, (int, const void *, size_t));
    if (!is_regular(fd) || !fails(FAULT_WRITE))
        return next(fd, from, size);
    return fault.effect == FAULT_SHORT ? next(fd, from, size / 2 + 1) : -1;
}

/* Does not wait for the disk otherwise. */
int faulty_fsync(int fd)
{
    (void)fd;
    return fails(FAULT_FSYNC) ? -1 : 0;
}

/* As on Linux, the descriptor is gone all the same. */
int faulty_close(int fd)
{
    NEXT("close", int, (int));
    int done = next(fd);
    return fails(FAULT_CLOSE) ? -1 : done;
}

int faulty_rename(const char *from, const char *to)
{
    NEXT("rename", int, (const char *, const char *));
    return fails(FAULT_RENAME) ? -1 : next(from, to);
}

DIR *faulty_opendir(const char *path)
{
    NEXT("opendir", DIR *, (const char *));
    return fails(FAULT_OPENDIR) ? NULL : next(path);
}

struct dirent *faulty_readdir(DIR *dir)
{
    NEXT("readdir64", struct dirent *, (DIR *));
    return fails(FAULT_READDIR) ? NULL : next(dir);
}

int faulty_eventfd(unsigned value, int flags)
{
    NEXT("eventfd", int, (unsigned, int));
    return fails(FAULT_EVENTFD) ? -1 : next(value, flags);
}
