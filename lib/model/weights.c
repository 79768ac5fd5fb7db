/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "model/safetensors.h"

#define MOST_SHARDS   1000
#define LARGEST_INDEX ((size_t)16 << 20) /* room for more than 100,000 tensors */

static void sift(uint32_t *order, size_t at, size_t count, const void *items,
                 int (*compare)(const void *, size_t, size_t))
{
    uint32_t value = order[at];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && compare(items, order[child], order[child + 1]) < 0)
            child++;
        if (compare(items, value, order[child]) >= 0)
            break;
        order[at] = order[child];
    }
    order[at] = value;
}

void imagine__sort(uint32_t *order, size_t count, const void *items,
                   int (*compare)(const void *items, size_t a, size_t b))
{
    for (size_t i = 0; i < count; i++)
        order[i] = (uint32_t)i;
    for (size_t i = count / 2; i-- > 0;)
        sift(order, i, count, items, compare);
    for (size_t i = count; i-- > 1;) {
        uint32_t largest = order[0];
        order[0] = order[i];
        order[i] = largest;
        sift(order, 0, i, items, compare);
    }
}

static int by_name(const void *items, size_t a, size_t b)
{
    const imagine__tensor *tensors = items;
    return strcmp(tensors[a].name, tensors[b].name);
}

static imagine_status create(imagine__weights **weights, imagine_context *context, size_t files, imagine_error *error)
{
    *weights = NULL;
    imagine__weights *made = imagine__calloc(context, 1, sizeof *made);
    if (!made)
        return imagine__fail_memory_in(context, error, sizeof *made, "a set of weights");
    made->context = imagine_context_retain(context);
    made->files = imagine__calloc(context, files, sizeof *made->files);
    if (!made->files) {
        imagine__weights_close(made);
        return imagine__fail_memory_in(context, error, files * sizeof *made->files, "a set of weights");
    }
    made->file_count = files;
    for (size_t i = 0; i < files; i++)
        made->files[i].fd = -1;
    *weights = made;
    return IMAGINE_OK;
}

void imagine__weights_close(imagine__weights *weights)
{
    if (!weights)
        return;
    imagine_context *context = weights->context;
    for (size_t i = 0; i < weights->file_count; i++) {
        if (weights->files[i].fd >= 0)
            close(weights->files[i].fd);
        imagine__free(context, weights->files[i].path);
        imagine__free(context, weights->files[i].names);
    }
    imagine__free(context, weights->files);
    imagine__free(context, weights->tensors);
    imagine__free(context, weights->by_name);
    imagine__free(context, weights);
    imagine_context_release(&context);
}

/* Makes the tensors findable once all files are there. */
static imagine_status finish(imagine__weights *weights, imagine_error *error)
{
    weights->by_name = imagine__alloc(weights->context, (weights->count + 1) * sizeof(uint32_t));
    if (!weights->by_name)
        return imagine__fail_memory_in(weights->context, error, weights->count * sizeof(uint32_t), "a set of weights");
    imagine__sort(weights->by_name, weights->count, weights->tensors, by_name);
    for (size_t i = 1; i < weights->count; i++) {
        const imagine__tensor *a = &weights->tensors[weights->by_name[i - 1]],
                              *b = &weights->tensors[weights->by_name[i]];
        if (!strcmp(a->name, b->name))
            return imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: tensor \"%s\" stands there twice%s%s",
                                 imagine__weights_path(weights, b), b->name, a->file == b->file ? "" : ", also in ",
                                 a->file == b->file ? "" : imagine__weights_path(weights, a));
    }
    return IMAGINE_OK;
}

imagine_status imagine__weights_open_file(imagine__weights **weights, imagine_context *context, const char *path,
                                          imagine_error *error)
{
    imagine_status status = create(weights, context, 1, error);
    if (status < 0)
        return status;
    status = imagine__weights_add(*weights, 0, path, error);
    if (status >= 0)
        status = finish(*weights, error);
    if (status < 0) {
        imagine__weights_close(*weights);
        *weights = NULL;
    }
    return status;
}

/* An index while it is read: its entries name tensor and file. */
typedef struct shards {
    imagine_context *context;
    imagine_error *error;
    const char *path; /* of the index */
    char *names; /* space for strings, as large as the text */
    struct {
        const char *tensor;
        uint32_t file;
    } * map;
    size_t map_count, map_capacity;
    const char *files[MOST_SHARDS];
    uint16_t by_name[MOST_SHARDS]; /* numbers of files in the order of their names */
    size_t file_count, last; /* last: the number that was found last */
} shards;

static imagine_status fail_index(const shards *s, const imagine__json *json, const char *what)
{
    return imagine__fail(s->error, IMAGINE_ERROR_FORMAT, "%s: line %d: %s", s->path, imagine__json_line(json),
                         json->error ? json->error : what);
}

static const char *take_text(shards *s, const imagine__json *json)
{
    char *text = s->names;
    int64_t length = imagine__json_string(json, text, json->end - json->begin + 1);
    s->names += length + 1;
    return length == (int64_t)strlen(text) ? text : NULL;
}

static int plain_name(const char *name)
{
    return name && *name && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

/* Whether there is such a file, whose number is then by_name[*place]; else *place is where it belongs. */
static int find_file(const shards *s, const char *name, size_t *place)
{
    size_t low = 0, high = s->file_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(s->files[s->by_name[middle]], name);
        if (!order) {
            *place = middle;
            return 1;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *place = low;
    return 0;
}

/* The file's number; MOST_SHARDS when there are too many. An index may name its shards in any order millions of times. */
static size_t file_number(shards *s, const char *name)
{
    size_t place;
    if (s->file_count && !strcmp(s->files[s->last], name)) /* mostly it is the one before */
        return s->last;
    if (find_file(s, name, &place))
        return s->last = s->by_name[place];
    if (s->file_count == MOST_SHARDS)
        return MOST_SHARDS;
    memmove(s->by_name + place + 1, s->by_name + place, (s->file_count - place) * sizeof *s->by_name);
    s->by_name[place] = (uint16_t)s->file_count;
    s->files[s->file_count] = name;
    return s->last = s->file_count++;
}

static imagine_status read_weight_map(shards *s, imagine__json *json)
{
    if (imagine__json_next(json) != IMAGINE__JSON_OBJECT)
        return fail_index(s, json, "weight_map is no object");
    while (imagine__json_next(json) == IMAGINE__JSON_KEY) {
        const char *tensor = take_text(s, json);
        if (imagine__json_next(json) != IMAGINE__JSON_STRING)
            return fail_index(s, json, "a file's name is no string");
        const char *file = take_text(s, json);
        if (!tensor || !plain_name(file))
            return fail_index(s, json, "a shard must be a plain name inside the folder");
        if (s->map_count == s->map_capacity) {
            size_t capacity = s->map_capacity ? 2 * s->map_capacity : 256;
            void *map = imagine__realloc(s->context, s->map, capacity * sizeof *s->map);
            if (!map)
                return imagine__fail_memory_in(s->context, s->error, capacity * sizeof *s->map, s->path);
            s->map = map;
            s->map_capacity = capacity;
        }
        size_t number = file_number(s, file);
        if (number == MOST_SHARDS)
            return fail_index(s, json, "more than 1000 shards");
        s->map[s->map_count].tensor = tensor;
        s->map[s->map_count++].file = (uint32_t)number;
    }
    return json->kind == IMAGINE__JSON_OBJECT_END ? IMAGINE_OK : fail_index(s, json, "an object was expected");
}

static imagine_status read_index(shards *s, const char *text, size_t size)
{
    imagine__json json;
    int maps = 0;
    imagine__json_init(&json, text, size);
    if (imagine__json_next(&json) != IMAGINE__JSON_OBJECT)
        return fail_index(s, &json, "an object was expected");
    while (imagine__json_next(&json) == IMAGINE__JSON_KEY) {
        imagine_status status = IMAGINE_OK;
        if (imagine__json_is(&json, "weight_map"))
            status = maps++ ? fail_index(s, &json, "weight_map stands there twice") : read_weight_map(s, &json);
        else if (!imagine__json_skip(&json))
            status = fail_index(s, &json, "");
        if (status < 0)
            return status;
    }
    if (json.kind != IMAGINE__JSON_OBJECT_END || imagine__json_next(&json) != IMAGINE__JSON_END)
        return fail_index(s, &json, "");
    return s->map_count ? IMAGINE_OK : fail_index(s, &json, "weight_map is missing or empty");
}

/* "folder/a" + b in memory of the context's. */
static char *join(imagine_context *context, const char *folder, const char *a, const char *b)
{
    size_t size = strlen(folder) + strlen(a) + strlen(b) + 2;
    char *path = imagine__alloc(context, size);
    if (path)
        snprintf(path, size, "%s/%s%s", folder, a, b);
    return path;
}

static imagine_status open_shards(imagine__weights **weights, const shards *s, const char *folder)
{
    imagine_status status = create(weights, s->context, s->file_count, s->error);
    for (size_t i = 0; i < s->file_count && status >= 0; i++) {
        char *path = join(s->context, folder, s->files[i], "");
        status = path ? imagine__weights_add(*weights, (int32_t)i, path, s->error)
                      : imagine__fail_memory_in(s->context, s->error, strlen(folder), s->path);
        if (status == IMAGINE_ERROR_NOT_FOUND)
            imagine__fail_errno(s->error, status, ENOENT, "%s: %s names it, so it is to be downloaded, too", path,
                                strrchr(s->path, '/') + 1);
        imagine__free(s->context, path);
    }
    if (status >= 0)
        status = finish(*weights, s->error);
    for (size_t i = 0; i < s->map_count && status >= 0; i++) {
        const imagine__tensor *t = imagine__weights_find(*weights, s->map[i].tensor);
        if (!t || t->file != (int32_t)s->map[i].file)
            status = imagine__fail(s->error, IMAGINE_ERROR_FORMAT, "%s: tensor \"%s\" is not in %s as the index says",
                                   s->path, s->map[i].tensor, s->files[s->map[i].file]);
    }
    if (status < 0) {
        imagine__weights_close(*weights);
        *weights = NULL;
    }
    return status;
}

static imagine_status open_index(imagine__weights **weights, imagine_context *context, const char *folder,
                                 const char *path, imagine_error *error)
{
    char *text = NULL;
    size_t size = 0;
    imagine_status status = imagine__read_file(context, path, LARGEST_INDEX, &text, &size, error);
    if (status < 0)
        return status;
    shards *s = imagine__calloc(context, 1, sizeof *s);
    char *names = imagine__alloc(context, size + 1);
    if (s && names) {
        s->context = context;
        s->error = error;
        s->path = path;
        s->names = names;
        status = read_index(s, text, size);
        if (status >= 0)
            status = open_shards(weights, s, folder);
        imagine__free(context, s->map);
    } else {
        status = imagine__fail_memory_in(context, error, size, path);
    }
    imagine__free(context, names);
    imagine__free(context, s);
    imagine__free(context, text);
    return status;
}

/* Saving again in parts leaves the whole file of before, and the other way round the index without its shards. diffusers reads what the
 * index names, transformers the whole file. */
static imagine_status open_one_of(imagine__weights **weights, imagine_context *context, const char *folder, const char *file,
                                  const char *index, imagine_error *error)
{
    const char *name = strrchr(file, '/') + 1, *why = "the whole file is read, as transformers does";
    imagine_error tried = IMAGINE_ERROR_INIT;
    imagine_status status = IMAGINE_ERROR_NOT_FOUND;
    if (strcmp(name, "model.safetensors") != 0) {
        why = "the shards are read, as diffusers does";
        status = open_index(weights, context, folder, index, &tried);
        if (status < 0 && status != IMAGINE_ERROR_NOT_FOUND && error)
            *error = tried;
    }
    if (status == IMAGINE_ERROR_NOT_FOUND) {
        why = tried.status < 0 ? "the whole file is read, since shards are missing" : why;
        status = imagine__weights_open_file(weights, context, file, error);
    }
    if (status >= 0)
        imagine__log(context, IMAGINE_LOG_WARNING, "%s: has both %s and %s.index.json; %s; remove what is older", folder, name, name, why);
    return status;
}

imagine_status imagine__weights_open(imagine__weights **weights, imagine_context *context, const char *folder,
                                     const char *base, imagine_error *error)
{
    *weights = NULL;
    char *file = join(context, folder, base, ".safetensors"),
         *index = join(context, folder, base, ".safetensors.index.json");
    imagine__path_kind whole = IMAGINE__PATH_NONE, parts = IMAGINE__PATH_NONE;
    imagine_status status = file && index ? imagine__look(file, &whole, error)
                                          : imagine__fail_memory_in(context, error, strlen(folder), "a path");
    if (status >= 0)
        status = imagine__look(index, &parts, error);
    if (status >= 0)
        status = whole && parts ? open_one_of(weights, context, folder, file, index, error)
                 : parts        ? open_index(weights, context, folder, index, error)
                 : whole        ? imagine__weights_open_file(weights, context, file, error)
                                : imagine__fail_no_weights(folder, base, error);
    imagine__free(context, file);
    imagine__free(context, index);
    return status;
}

int32_t imagine__weights_count(const imagine__weights *weights)
{
    return (int32_t)weights->count;
}

const imagine__tensor *imagine__weights_at(const imagine__weights *weights, int32_t index)
{
    return &weights->tensors[index];
}

const imagine__tensor *imagine__weights_find(const imagine__weights *weights, const char *name)
{
    size_t low = 0, high = weights->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const imagine__tensor *t = &weights->tensors[weights->by_name[middle]];
        int order = strcmp(t->name, name);
        if (!order)
            return t;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

uint64_t imagine__weights_bytes(const imagine__weights *weights)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < weights->file_count; i++)
        sum += weights->files[i].size;
    return sum;
}

uint64_t imagine__weights_elements(const imagine__weights *weights)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < weights->count; i++) {
        size_t size = imagine__dtype_size(weights->tensors[i].dtype);
        sum += size ? weights->tensors[i].size / size : 0;
    }
    return sum;
}

const char *imagine__weights_path(const imagine__weights *weights, const imagine__tensor *tensor)
{
    return weights->files[tensor ? tensor->file : 0].path;
}

imagine_status imagine__weights_read(const imagine__weights *weights, const imagine__tensor *tensor, uint64_t begin,
                                     uint64_t size, void *out, imagine_error *error)
{
    const imagine__weights_file *file = &weights->files[tensor->file];
    if (begin > tensor->size || size > tensor->size - begin)
        return imagine__fail(error, IMAGINE_ERROR_INTERNAL, "%s: bytes outside of tensor \"%s\" were asked for",
                             file->path, tensor->name);
    return imagine__pread(file->fd, file->path, tensor->offset + begin, out, size, error);
}
