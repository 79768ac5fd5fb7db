/* SPDX-License-Identifier: MIT */

/* How many processors there are for this process: those it may run on, and of their time what its control group may use
 * (https://docs.kernel.org/admin-guide/cgroup-v2.html, "cpu.max"; version 1: cpu.cfs_quota_us and cpu.cfs_period_us). A
 * container with the time of 2 of 64 processors that ran 64 threads would be stopped for most of it. */

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/context.h"

#define PATH_SIZE 1024

/* The beginning of a file, as a string; 0: it cannot be read. */
static int read_start(const char *path, char *text, size_t size)
{
    ssize_t got = -1;
    size_t count = 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    while (count + 1 < size && ((got = read(file, text + count, size - 1 - count)) > 0 || (got < 0 && errno == EINTR)))
        count += got > 0 ? (size_t)got : 0;
    close(file);
    text[count] = 0;
    return got >= 0;
}

/* Processors whose time a group may use, rounded up; 0: as many as there are. */
static int64_t allowed(const char *folder, int version)
{
    char path[PATH_SIZE + 32], text[64], more[64] = "";
    snprintf(path, sizeof path, "%s/%s", folder, version == 2 ? "cpu.max" : "cpu.cfs_quota_us");
    if (!read_start(path, text, sizeof text))
        return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (version == 1 && !read_start(path, more, sizeof more))
        return 0;
    char *rest; /* "max" and -1 are no number of microseconds above 0 */
    long long quota = strtoll(text, &rest, 10), period = strtoll(version == 2 ? rest : more, NULL, 10);
    return quota > 0 && period > 0 ? (int64_t)((quota - 1) / period + 1) : 0;
}

/* The least that the groups of one hierarchy allow, from the process's own up to the one that is mounted at `root`. In a
 * container the path may be that of the machine outside, of which only the root is there. */
static int64_t allowed_above(const char *root, const char *path, int version)
{
    char folder[PATH_SIZE];
    int64_t least = 0;
    size_t begin = strlen(root);
    if ((size_t)snprintf(folder, sizeof folder, "%s%s", root, path) >= sizeof folder)
        folder[begin] = 0;
    for (;;) {
        int64_t here = allowed(folder, version);
        least = here && (!least || here < least) ? here : least;
        char *slash = strrchr(folder + begin, '/');
        if (!slash)
            return least;
        *slash = 0;
    }
}

/* Whether a list like "cpu,cpuacct" names the controller of processor time. */
static int has_cpu(const char *list)
{
    for (; list; list = strchr(list, ',') ? strchr(list, ',') + 1 : NULL)
        if (!strncmp(list, "cpu", 3) && (list[3] == ',' || !list[3]))
            return 1;
    return 0;
}

int64_t imagine__processors_allowed(const char *groups, const char *root)
{
    char text[4096], mounted[PATH_SIZE], *next;
    int64_t least = 0;
    if (!read_start(groups, text, sizeof text))
        return 0;
    for (char *line = text; line && *line; line = next) { /* number:controllers:path */
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        int version = list[1] ? 1 : 2;
        if (version == 1 && !has_cpu(list + 1))
            continue;
        snprintf(mounted, sizeof mounted, "%s%s", root, version == 1 ? "/cpu" : "");
        int64_t here = allowed_above(mounted, path, version);
        least = here && (!least || here < least) ? here : least;
    }
    return least;
}

int32_t imagine__processors(int32_t most)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    int64_t count = sched_getaffinity(0, sizeof set, &set) ? sysconf(_SC_NPROCESSORS_ONLN) : CPU_COUNT(&set);
    int64_t time = imagine__processors_allowed("/proc/self/cgroup", "/sys/fs/cgroup");
    count = time && time < count ? time : count;
    return count < 1 ? 1 : count > most ? most : (int32_t)count;
}
