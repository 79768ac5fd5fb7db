/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "model/safetensors.h"

#define LARGEST_HEADER 100000000u

/* A header while it is read. */
typedef struct reader {
    imagine_context *context;
    imagine__weights *weights;
    imagine_error *error;
    const char *path;
    int32_t file;
    imagine__json json;
    char *names; /* where the next name goes */
    char **metadata; /* keys of __metadata__ */
    size_t metadata_count, metadata_capacity;
    uint64_t data_size, wanted; /* bytes that are there behind the header, and that it speaks of */
} reader;

static imagine_status fail(const reader *r, const char *what)
{
    return imagine__fail(r->error, IMAGINE_ERROR_FORMAT, "%s: not a valid safetensors file: %s", r->path, what);
}

static imagine_status fail_tensor(const reader *r, const char *name, const char *what)
{
    return imagine__fail(r->error, IMAGINE_ERROR_FORMAT, "%s: not a valid safetensors file: tensor \"%s\": %s", r->path,
                         name, what);
}

/* Most of what is not read is half a file. */
static imagine_status fail_cut(const reader *r, uint64_t wanted, const char *by)
{
    return imagine__fail(r->error, IMAGINE_ERROR_FORMAT, "%s: not a valid safetensors file: it has %llu bytes, but %s speaks of "
                         "%llu; it was cut short, download it again", r->path, (unsigned long long)r->weights->files[r->file].size, by,
                         (unsigned long long)wanted);
}

static imagine_status fail_json(const reader *r)
{
    return fail(r, r->json.error ? r->json.error : "its header has another form");
}

/* Types by the format's own names, those that this library does not compute with included. */
static const struct {
    const char *name;
    imagine_dtype dtype;
    size_t size;
} kinds[] = {
    { "F32", IMAGINE_F32, 4 },
    { "BF16", IMAGINE_BF16, 2 },
    { "F16", IMAGINE_F16, 2 },
    { "F64", IMAGINE_F64, 8 },
    { "I32", IMAGINE_I32, 4 },
    { "I64", IMAGINE_I64, 8 },
    { "U8", IMAGINE_U8, 1 },
    { "BOOL", 0, 1 },
    { "I8", 0, 1 },
    { "I16", 0, 2 },
    { "U16", 0, 2 },
    { "U32", 0, 4 },
    { "U64", 0, 8 },
    { "C64", 0, 8 },
    { "F8_E4M3", 0, 1 },
    { "F8_E5M2", 0, 1 },
    { "F8_E8M0", 0, 1 },
    { "F8_E4M3FNUZ", 0, 1 },
    { "F8_E5M2FNUZ", 0, 1 },
};

const char *imagine__stored_name(const imagine__tensor *tensor)
{
    return kinds[tensor->stored].name;
}

/* Bytes of an element; 0 of a type that is not known. */
static size_t element_size(const imagine__json *json, imagine__tensor *t)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (imagine__json_is(json, kinds[i].name)) {
            t->dtype = kinds[i].dtype;
            t->stored = (int32_t)i;
            return kinds[i].size;
        }
    return 0;
}

/* The name at the reader, decoded and kept; NULL for one with a zero inside. Names never take more room than the
 * header. */
static char *take_name(reader *r)
{
    char *name = r->names;
    int64_t length = imagine__json_string(&r->json, name, r->json.end - r->json.begin + 1);
    r->names += length + 1;
    return length == (int64_t)strlen(name) ? name : NULL;
}

static imagine_status read_metadata(reader *r)
{
    imagine__json_kind kind = imagine__json_next(&r->json);
    if (kind == IMAGINE__JSON_NULL)
        return IMAGINE_OK;
    if (kind != IMAGINE__JSON_OBJECT)
        return fail(r, "__metadata__ is no object");
    while (imagine__json_next(&r->json) == IMAGINE__JSON_KEY) {
        char *key = take_name(r);
        if (!key)
            return fail(r, "a key of __metadata__ holds a zero");
        if (r->metadata_count == r->metadata_capacity) {
            size_t capacity = r->metadata_capacity ? 2 * r->metadata_capacity : 16;
            char **keys = imagine__realloc(r->context, r->metadata, capacity * sizeof *keys);
            if (!keys)
                return imagine__fail_memory_in(r->context, r->error, capacity * sizeof *keys, r->path);
            r->metadata = keys;
            r->metadata_capacity = capacity;
        }
        r->metadata[r->metadata_count++] = key;
        if (imagine__json_next(&r->json) != IMAGINE__JSON_STRING)
            return r->json.kind == IMAGINE__JSON_ERROR ? fail_json(r) : fail(r, "a value of __metadata__ is no string");
    }
    return r->json.kind == IMAGINE__JSON_OBJECT_END ? IMAGINE_OK : fail_json(r);
}

static imagine_status read_shape(reader *r, imagine__tensor *t, uint64_t *elements)
{
    *elements = 1;
    if (imagine__json_next(&r->json) != IMAGINE__JSON_ARRAY)
        return fail_tensor(r, t->name, "its shape is no array");
    while (imagine__json_next(&r->json) != IMAGINE__JSON_ARRAY_END) {
        int64_t size;
        if (!imagine__json_int(&r->json, &size) || size < 0)
            return fail_tensor(r, t->name, "a dimension is no whole number from 0 on");
        if (t->ndim == IMAGINE_MAX_DIMS)
            return fail_tensor(r, t->name, "it has more than 8 dimensions");
        if (__builtin_mul_overflow(*elements, (uint64_t)size, elements))
            return fail_tensor(r, t->name, "its shape is beyond any memory");
        t->shape[t->ndim++] = size;
    }
    return IMAGINE_OK;
}

static imagine_status read_offsets(reader *r, imagine__tensor *t)
{
    int64_t begin, end;
    if (imagine__json_next(&r->json) != IMAGINE__JSON_ARRAY || imagine__json_next(&r->json) != IMAGINE__JSON_NUMBER ||
        !imagine__json_int(&r->json, &begin) || imagine__json_next(&r->json) != IMAGINE__JSON_NUMBER ||
        !imagine__json_int(&r->json, &end) || imagine__json_next(&r->json) != IMAGINE__JSON_ARRAY_END)
        return fail_tensor(r, t->name, "its data_offsets are not two whole numbers");
    if (begin < 0 || end < begin)
        return fail_tensor(r, t->name, "its data_offsets lie outside of the file");
    if ((uint64_t)end > r->wanted)
        r->wanted = (uint64_t)end;
    t->offset = (uint64_t)begin; /* from the data's begin; the header's length is added once all are read */
    t->size = (uint64_t)(end - begin);
    return IMAGINE_OK;
}

static imagine_status read_tensor(reader *r, imagine__tensor *t)
{
    enum {
        DTYPE = 1,
        SHAPE = 2,
        OFFSETS = 4
    };
    unsigned seen = 0;
    size_t element = 0;
    uint64_t elements = 0, bytes;
    if (imagine__json_next(&r->json) != IMAGINE__JSON_OBJECT)
        return r->json.kind == IMAGINE__JSON_ERROR ? fail_json(r) : fail_tensor(r, t->name, "it is no object");
    while (imagine__json_next(&r->json) == IMAGINE__JSON_KEY) {
        imagine_status status = IMAGINE_OK;
        unsigned field = imagine__json_is(&r->json, "dtype")          ? DTYPE
                         : imagine__json_is(&r->json, "shape")        ? SHAPE
                         : imagine__json_is(&r->json, "data_offsets") ? OFFSETS
                                                                      : 0;
        if (!field || (seen & field))
            return fail_tensor(r, t->name, field ? "a key stands there twice" : "a key that the format does not have");
        seen |= field;
        if (field == SHAPE)
            status = read_shape(r, t, &elements);
        else if (field == OFFSETS)
            status = read_offsets(r, t);
        else if (imagine__json_next(&r->json) != IMAGINE__JSON_STRING || !(element = element_size(&r->json, t)))
            return fail_tensor(r, t->name, "its dtype is not known");
        if (status < 0)
            return status;
    }
    if (r->json.kind != IMAGINE__JSON_OBJECT_END)
        return fail_json(r);
    if (seen != (DTYPE | SHAPE | OFFSETS))
        return fail_tensor(r, t->name, "dtype, shape or data_offsets is missing");
    if (__builtin_mul_overflow(elements, (uint64_t)element, &bytes) || bytes != t->size)
        return fail_tensor(r, t->name, "its shape does not take as many bytes as its data_offsets");
    return IMAGINE_OK;
}

static imagine_status add_tensor(reader *r, const imagine__tensor *t)
{
    imagine__weights *w = r->weights;
    if (w->count == w->capacity) {
        size_t capacity = w->capacity ? 2 * w->capacity : 64;
        imagine__tensor *tensors = imagine__realloc(r->context, w->tensors, capacity * sizeof *tensors);
        if (!tensors)
            return imagine__fail_memory_in(r->context, r->error, capacity * sizeof *tensors, r->path);
        w->tensors = tensors;
        w->capacity = capacity;
    }
    w->tensors[w->count++] = *t;
    return IMAGINE_OK;
}

static imagine_status read_tensors(reader *r)
{
    int metadata = 0;
    if (imagine__json_next(&r->json) != IMAGINE__JSON_OBJECT)
        return fail_json(r);
    while (imagine__json_next(&r->json) == IMAGINE__JSON_KEY) {
        imagine_status status;
        if (imagine__json_is(&r->json, "__metadata__")) {
            status = metadata++ ? fail(r, "__metadata__ stands there twice") : read_metadata(r);
        } else {
            imagine__tensor t = { .name = take_name(r), .file = r->file };
            if (!t.name)
                return fail(r, "a tensor's name holds a zero");
            status = read_tensor(r, &t);
            if (status >= 0)
                status = add_tensor(r, &t);
        }
        if (status < 0)
            return status;
    }
    if (r->json.kind != IMAGINE__JSON_OBJECT_END || imagine__json_next(&r->json) != IMAGINE__JSON_END)
        return fail_json(r);
    return IMAGINE_OK;
}

static int by_text(const void *items, size_t a, size_t b)
{
    char *const *keys = items;
    return strcmp(keys[a], keys[b]);
}

static int by_offset(const void *items, size_t a, size_t b)
{
    const imagine__tensor *x = (const imagine__tensor *)items + a, *y = (const imagine__tensor *)items + b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->size < y->size ? -1 : x->size > y->size;
}

/* Every byte behind the header belongs to one tensor, and no key of the metadata stands there twice. (Names of tensors
 * are compared when the whole set is there.) */
static imagine_status check_layout(reader *r, size_t first)
{
    imagine__weights *w = r->weights;
    size_t count = w->count - first, most = count > r->metadata_count ? count : r->metadata_count;
    uint64_t at = 0;
    uint32_t *order = imagine__alloc(r->context, (most + 1) * sizeof *order);
    if (!order)
        return imagine__fail_memory_in(r->context, r->error, most * sizeof *order, r->path);
    imagine_status status = IMAGINE_OK;
    imagine__sort(order, r->metadata_count, r->metadata, by_text);
    for (size_t i = 1; i < r->metadata_count && status >= 0; i++)
        if (!by_text(r->metadata, order[i - 1], order[i]))
            status = fail(r, "a key of __metadata__ stands there twice");
    imagine__sort(order, count, count ? w->tensors + first : NULL, by_offset);
    for (size_t i = 0; i < count && status >= 0; i++) {
        const imagine__tensor *t = &w->tensors[first + order[i]];
        if (t->offset != at)
            status = fail_tensor(r, t->name,
                                 t->offset < at ? "its data overlap another's" : "there is a hole before its data");
        at = t->offset + t->size;
    }
    if (status >= 0 && at != r->data_size)
        status = fail(r, "bytes behind the last tensor");
    imagine__free(r->context, order);
    return status;
}

static imagine_status read_header(reader *r, imagine__weights_file *file, const char *header, uint64_t length)
{
    size_t first = r->weights->count;
    uint64_t data_start = 8 + length;
    if (*header != '{') {
        const char *mark = imagine__json_mark(header, (size_t)length);
        return fail(r, mark ? mark : "its header does not begin with {");
    }
    imagine__json_init(&r->json, header, (size_t)length);
    r->data_size = file->size - data_start;
    imagine_status status = read_tensors(r);
    if (status >= 0 && r->wanted > r->data_size)
        status = fail_cut(r, data_start + r->wanted, "its header");
    if (status >= 0)
        status = check_layout(r, first);
    for (size_t i = first; i < r->weights->count; i++)
        r->weights->tensors[i].offset += data_start;
    return status;
}

/* A file whose header cannot be as long as its first bytes say is mostly no safetensors file. */
static imagine_status fail_length(const reader *r, const unsigned char *bytes, size_t size, uint64_t length)
{
    size_t text = 0;
    const char *told = imagine__begins_as((const char *)bytes, size);
    while (text < size && (bytes[text] >= 0x20 || strchr("\t\r\n", bytes[text])) && bytes[text] && bytes[text] < 0x7f)
        text++;
    if (told)
        return fail(r, told);
    if (text == size)
        return imagine__fail(r->error, IMAGINE_ERROR_FORMAT, "%s: not a valid safetensors file: it is a text that begins with \"%.*s\"; "
                             "download it again", r->path, (int)size, (const char *)bytes);
    if (size < 10)
        return fail(r, "it is shorter than the smallest header");
    if (length > r->weights->files[r->file].size - 8 && length <= LARGEST_HEADER)
        return fail_cut(r, length + 8, "the length of its header");
    return fail(r, "the length of its header is beyond the file or the format's 100000000 bytes");
}

/* Opens file number `index` of the set and adds its tensors. */
imagine_status imagine__weights_add(imagine__weights *weights, int32_t index, const char *path, imagine_error *error)
{
    imagine__weights_file *file = &weights->files[index];
    imagine_context *context = weights->context;
    unsigned char prefix[64];
    uint64_t length = 0;
    reader r = { .context = context, .weights = weights, .error = error, .path = path, .file = index };
    file->path = imagine__strdup(context, path);
    if (!file->path)
        return imagine__fail_memory_in(context, error, strlen(path), path);
    imagine_status status = imagine__open_file(path, &file->fd, &file->size, error);
    if (status < 0)
        return status;
    size_t begin = file->size < sizeof prefix ? (size_t)file->size : sizeof prefix;
    status = imagine__pread(file->fd, path, 0, prefix, begin, error);
    if (status < 0)
        return status;
    for (int i = 7; i >= 0 && begin >= 10; i--)
        length = length << 8 | prefix[i];
    if (length > LARGEST_HEADER || length > file->size - 8 || length < 2)
        return fail_length(&r, prefix, begin, length);
    char *header = imagine__alloc(context, (size_t)length);
    r.names = file->names = imagine__alloc(context, (size_t)length);
    status = header && r.names ? imagine__pread(file->fd, path, 8, header, length, error)
                               : imagine__fail_memory_in(context, error, (size_t)length, path);
    if (status >= 0)
        status = read_header(&r, file, header, length);
    imagine__free(context, r.metadata);
    imagine__free(context, header);
    return status;
}
