/* SPDX-License-Identifier: MIT */
#include "fuzz.h"

#include <errno.h>
#include <ftw.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOM ((size_t)16 << 20)

void fuzz_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
    abort();
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Jobs have threads, so these are atomic. */
static atomic_size_t held, limit = SIZE_MAX;
static size_t before;

static void *allocate(void *user_data, size_t size, size_t alignment)
{
    void *out = NULL;
    (void)user_data;
    if (atomic_fetch_add(&held, size) + size <= atomic_load(&limit) && posix_memalign(&out, alignment, size) == 0)
        return out;
    atomic_fetch_sub(&held, size);
    return NULL;
}

static void release(void *user_data, void *pointer, size_t size)
{
    (void)user_data;
    atomic_fetch_sub(&held, size);
    free(pointer);
}

imagine_context *fuzz_context(void)
{
    static imagine_context *context;
    if (context)
        return context;
    imagine_context_options options;
    imagine_context_options_init(&options, sizeof options);
    options.allocate = allocate;
    options.release = release;
    options.threads = 1;
    FUZZ_CHECK(imagine_context_create(&context, &options, NULL) >= 0);
    return context;
}

void fuzz_begin(size_t size)
{
    before = atomic_load(&held);
    atomic_store(&limit, before + size + ROOM);
}

void fuzz_end(void)
{
    FUZZ_CHECK(atomic_load(&held) == before);
    atomic_store(&limit, SIZE_MAX);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

const char *fuzz_file(const uint8_t *data, size_t size)
{
    static char path[64];
    static int fd = -1;
    if (fd < 0) {
        fd = memfd_create("input", MFD_CLOEXEC);
        FUZZ_CHECK(fd >= 0);
        snprintf(path, sizeof path, "/proc/%ld/fd/%d", (long)getpid(), fd);
    }
    FUZZ_CHECK(ftruncate(fd, (off_t)size) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
    return path;
}

static char folder[] = P_tmpdir "/imagine-fuzz-XXXXXX";

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *walk)
{
    (void)about;
    (void)kind;
    (void)walk;
    return remove(path);
}

static void remove_folder(void)
{
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *fuzz_folder(void)
{
    static int made;
    if (!made) {
        FUZZ_CHECK(mkdtemp(folder));
        atexit(remove_folder);
        made = 1;
    }
    return folder;
}

void fuzz_link(const char *name, const char *target)
{
    char path[256];
    int length = snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    for (char *slash = path + sizeof folder; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        FUZZ_CHECK(mkdir(path, 0700) == 0 || errno == EEXIST);
        *slash = '/';
    }
    FUZZ_CHECK(length < (int)sizeof path && symlink(target, path) == 0);
}
