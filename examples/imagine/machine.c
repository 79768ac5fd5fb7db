/* SPDX-License-Identifier: MIT */

/* How much memory there is: what Linux could give without swapping, and what control groups and `ulimit -v` leave of that. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cli.h"

#define NONE UINT64_MAX

/* The number that a file consists of, or that stands behind `key` in it; NONE where there is none, as in "max". */
static uint64_t number_in(const char *path, const char *key)
{
    char line[256];
    unsigned long long value = NONE;
    FILE *file = fopen(path, "re");
    if (!file)
        return NONE;
    while (value == NONE && fgets(line, sizeof line, file)) {
        size_t length = key ? strlen(key) : 0;
        if ((key && strncmp(line, key, length)) || sscanf(line + length, "%llu", &value) != 1)
            value = NONE;
    }
    fclose(file);
    return value;
}

/* What one group leaves: its limit less what it has, of which files' pages can be had back. */
static uint64_t left_by(const char *folder, const char *limit, const char *used, const char *inactive, const char *active)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", folder, limit);
    uint64_t most = number_in(path, NULL);
    snprintf(path, sizeof path, "%s/%s", folder, used);
    uint64_t has = number_in(path, NULL);
    if (most == NONE || has == NONE)
        return NONE;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    const char *const keys[] = { inactive, active };
    for (int i = 0; i < 2; i++) {
        uint64_t pages = number_in(path, keys[i]);
        has -= pages == NONE ? 0 : pages < has ? pages : has;
    }
    return most > has ? most - has : 0;
}

/* The group named in a line of /proc/self/cgroup and those above it, of either version. A container may see its own as the highest. */
static uint64_t left_by_groups(char *line)
{
    char *second = strchr(line, ':'), *path = second ? strchr(second + 1, ':') : NULL, folder[4096];
    uint64_t least = NONE;
    if (!path)
        return NONE;
    *path++ = 0;
    path[strcspn(path, "\n")] = 0;
    int old = !strcmp(second + 1, "memory");
    if (!old && second[1])
        return NONE;
    for (;;) {
        snprintf(folder, sizeof folder, "/sys/fs/cgroup%s%s", old ? "/memory" : "", path);
        uint64_t left = old ? left_by(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ",
                                      "total_active_file ")
                            : left_by(folder, "memory.max", "memory.current", "inactive_file ", "active_file ");
        least = left < least ? left : least;
        char *slash = strrchr(path, '/');
        if (!slash || !*path)
            return least;
        *slash = 0;
    }
}

/* Of addresses, which `ulimit -v` counts. */
static uint64_t left_of_addresses(void)
{
    struct rlimit limit;
    uint64_t used = number_in("/proc/self/status", "VmSize:");
    if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY || used == NONE)
        return NONE;
    return limit.rlim_cur > used * 1024 ? limit.rlim_cur - used * 1024 : 0;
}

uint64_t memory_left(void)
{
    char line[4096];
    uint64_t least = number_in("/proc/meminfo", "MemAvailable:"), addresses = left_of_addresses();
    least = least == NONE ? NONE : least * 1024;
    least = addresses < least ? addresses : least;
    FILE *file = fopen("/proc/self/cgroup", "re");
    while (file && fgets(line, sizeof line, file)) {
        uint64_t left = left_by_groups(line);
        least = left < least ? left : least;
    }
    if (file)
        fclose(file);
    return least == NONE ? 0 : least;
}
