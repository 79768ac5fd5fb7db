/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "io/io.h"
#include "model/model.h"

#define MOST_FRAMES (1 << 20)

static imagine_status load_file(imagine_buffer **frames, imagine_context *context, const char *path,
                                imagine_error *error)
{
    char *bytes;
    size_t size;
    imagine_status status = imagine__read_file(context, path, (size_t)1 << 31, &bytes, &size, error);
    if (status < 0)
        return status;
    status = imagine__apng_decode(context, path, (const uint8_t *)bytes, size, frames, error);
    imagine__free(context, bytes);
    return status;
}

/* ---- folders --------------------------------------------------------------------------------- */

typedef struct names {
    imagine_context *context;
    char **list;
    size_t count, capacity;
} names;

static int is_png(const char *name)
{
    size_t length = strlen(name);
    return name[0] != '.' && length > 4 && !strcmp(name + length - 4, ".png");
}

static int add_name(names *n, const char *folder, const char *name)
{
    if (n->count == n->capacity) {
        size_t capacity = n->capacity ? 2 * n->capacity : 64;
        char **list = imagine__realloc(n->context, n->list, capacity * sizeof *list);
        if (!list)
            return 0;
        n->list = list;
        n->capacity = capacity;
    }
    size_t room = strlen(folder) + strlen(name) + 2;
    char *path = imagine__alloc(n->context, room);
    if (!path)
        return 0;
    snprintf(path, room, "%s/%s", folder, name);
    n->list[n->count++] = path;
    return 1;
}

/* Heap sort: qsort may allocate behind the context's back. */
static void sift(char **list, size_t at, size_t count)
{
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && strcmp(list[child], list[child + 1]) < 0)
            child++;
        if (strcmp(list[at], list[child]) >= 0)
            return;
        char *swap = list[at];
        list[at] = list[child];
        list[child] = swap;
    }
}

static void sort_names(names *n)
{
    for (size_t i = n->count / 2; i-- > 0;)
        sift(n->list, i, n->count);
    for (size_t last = n->count; last-- > 1;) {
        char *swap = n->list[0];
        n->list[0] = n->list[last];
        n->list[last] = swap;
        sift(n->list, 0, last);
    }
}

static imagine_status list_folder(names *n, const char *folder, imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    DIR *dir = opendir(folder);
    if (!dir)
        return imagine__fail_errno(error, IMAGINE_ERROR_IO, errno, "%s: cannot be opened", folder);
    struct dirent *entry;
    for (errno = 0; status >= 0 && (entry = readdir(dir)); errno = 0)
        if (is_png(entry->d_name) && !add_name(n, folder, entry->d_name))
            status = imagine__fail_memory_in(n->context, error, 64, "the names of a folder");
    if (status >= 0 && errno)
        status = imagine__fail_errno(error, IMAGINE_ERROR_IO, errno, "%s: cannot be read", folder);
    closedir(dir);
    if (status >= 0 && !n->count)
        status = imagine__fail(error, IMAGINE_ERROR_NOT_FOUND, "%s: no file in it is named *.png", folder);
    return status;
}

static imagine_status join(imagine_buffer **frames, imagine_context *context, const names *n, imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    int64_t shape[4] = { (int64_t)n->count, 0, 0, 3 };
    for (size_t i = 0; i < n->count && status >= 0; i++) {
        imagine_buffer *one = NULL;
        status = load_file(&one, context, n->list[i], error);
        if (status < 0)
            break;
        int32_t ndim;
        const int64_t *size = imagine__buffer_shape(one, &ndim);
        if (size[0] != 1) {
            status = imagine__fail(error, IMAGINE_ERROR_FORMAT,
                                   "%s: has %lld frames; of a folder every file is one frame, so load this one by itself",
                                   n->list[i], (long long)size[0]);
        } else if (!i) {
            shape[1] = size[1];
            shape[2] = size[2];
            if ((uint64_t)(shape[1] * shape[2]) * 3 * n->count > IMAGINE__PNG_MAX_BYTES)
                status = imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: %zu such pictures are too many", n->list[i],
                                       n->count);
            else
                status = imagine__buffer_new(frames, context, IMAGINE_U8, 4, shape, error);
        } else if (size[1] != shape[1] || size[2] != shape[2]) {
            status = imagine__fail(error, IMAGINE_ERROR_FORMAT,
                                   "%s: is %lldx%lld, the pictures before it are %lldx%lld", n->list[i],
                                   (long long)size[2], (long long)size[1], (long long)shape[2], (long long)shape[1]);
        }
        if (status >= 0) {
            size_t bytes = (size_t)(shape[1] * shape[2] * 3);
            memcpy((uint8_t *)imagine_buffer_data(*frames) + bytes * i, imagine_buffer_data(one), bytes);
        }
        imagine_buffer_release(&one);
    }
    if (status < 0)
        imagine_buffer_release(frames);
    return status;
}

static imagine_status load_folder(imagine_buffer **frames, imagine_context *context, const char *folder,
                                  imagine_error *error)
{
    names n = { .context = context };
    imagine_status status = list_folder(&n, folder, error);
    if (status >= 0) {
        sort_names(&n);
        status = join(frames, context, &n, error);
    }
    for (size_t i = 0; i < n.count; i++)
        imagine__free(context, n.list[i]);
    imagine__free(context, n.list);
    return status;
}

imagine_status imagine_picture_load(imagine_buffer **frames, imagine_context *context, const char *path,
                                    imagine_error *error)
{
    IMAGINE__GUARD(context);
    imagine__path_kind kind;
    if (!frames)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "frames: the pointer is NULL");
    *frames = NULL;
    if (!context || !path)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: the pointer is NULL",
                             context ? "path" : "context");
    imagine_status status = imagine__check_process(context, error);
    if (status < 0 || (status = imagine__look(path, &kind, error)) < 0)
        return status;
    if (kind == IMAGINE__PATH_FOLDER)
        return load_folder(frames, context, path, error);
    return load_file(frames, context, path, error);
}

static imagine_status write_picture(imagine_context *context, const char *path, const imagine_buffer *on_host,
                                    const int64_t *shape, double frames_per_second, imagine_error *error)
{
    imagine__output output;
    imagine_status status = imagine__output_open(&output, context, path, error);
    if (status < 0)
        return status;
    status = imagine__apng_encode(context, &output, imagine_buffer_data(on_host), (uint32_t)shape[0], (uint32_t)shape[2],
                                  (uint32_t)shape[1], frames_per_second, error);
    if (status >= 0)
        return imagine__output_commit(&output, error);
    imagine__output_abandon(&output);
    return status;
}

/* What a picture may be: the type first, then the limit that is passed. */
static imagine_status check_frames(const imagine_buffer *frames, imagine_error *error)
{
    static const char *const dims[] = { "frames", "height", "width" };
    static const int64_t most[] = { MOST_FRAMES, IMAGINE__PNG_MAX_SIDE, IMAGINE__PNG_MAX_SIDE };
    int32_t ndim;
    char text[160];
    const int64_t *shape = imagine__buffer_shape(frames, &ndim);
    imagine__shape_text(text, sizeof text, ndim, shape);
    if (imagine__buffer_dtype(frames) != IMAGINE_U8 || ndim != 4 || shape[3] != 3)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "frames: %s %s, wanted is u8 [frames, height, width, 3]",
                             imagine__dtype_name(imagine__buffer_dtype(frames)), text);
    for (int i = 0; i < 3; i++)
        if (shape[i] < 1 || shape[i] > most[i])
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "frames: u8 %s, of which %s is not in 1..%lld", text,
                                 dims[i], (long long)most[i]);
    return IMAGINE_OK;
}

imagine_status imagine_picture_save(imagine_context *context, const char *path, const imagine_buffer *frames,
                                    double frames_per_second, imagine_error *error)
{
    IMAGINE__GUARD(context);
    if (!context || !path || !frames)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: the pointer is NULL",
                             !context ? "context"
                             : !path  ? "path"
                                      : "frames");
    imagine_status status = imagine__check_process(context, error);
    if (status < 0 || (status = check_frames(frames, error)) < 0)
        return status;
    const int64_t *shape = imagine__buffer_shape(frames, NULL);
    if (shape[0] > 1 && !(frames_per_second >= 1.0 / IMAGINE__PNG_MAX_RATE && frames_per_second <= IMAGINE__PNG_MAX_RATE))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "frames_per_second: %g is not between 1/%d and %d, as an animated PNG has it", frames_per_second,
                             IMAGINE__PNG_MAX_RATE, IMAGINE__PNG_MAX_RATE);
    imagine_buffer *on_host;
    if ((status = imagine__buffer_on_host(&on_host, frames, error)) < 0)
        return status;
    status = write_picture(context, path, on_host, shape, frames_per_second, error);
    imagine_buffer_release(&on_host);
    return status;
}
