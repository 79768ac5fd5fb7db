/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "io/io.h"
#include "model/model.h"

/* ---- reading --------------------------------------------------------------------------------- */

static imagine_status choose(const imagine__weights *weights, const char *path, const char *name,
                             const imagine__tensor **tensor, imagine_error *error)
{
    int32_t count = imagine__weights_count(weights);
    if (!name && count != 1)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: holds %d tensors, so a name must be given%s%s",
                             path, count, count ? "; one is " : "", count ? imagine__weights_at(weights, 0)->name : "");
    const imagine__tensor *t = name ? imagine__weights_find(weights, name) : imagine__weights_at(weights, 0);
    if (!t)
        return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND, "%s: there is no tensor \"%s\"", path, name);
    if (!imagine__dtype_size(t->dtype))
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "%s: tensor \"%s\" is of a type that buffers do not have", path, t->name);
    *tensor = t;
    return IMAGINE_OK;
}

imagine_status imagine_buffer_load(imagine_buffer **buffer, imagine_context *context, const char *path,
                                   const char *name, imagine_error *error)
{
    IMAGINE__GUARD(context);
    imagine__weights *weights;
    const imagine__tensor *t = NULL;
    if (buffer)
        *buffer = NULL;
    if (!buffer || !context || !path)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: the pointer is NULL",
                             !buffer    ? "buffer"
                             : !context ? "context"
                                        : "path");
    imagine_status status = imagine__check_process(context, error);
    if (status >= 0)
        status = imagine__weights_open_file(&weights, context, path, error);
    if (status < 0)
        return status;
    status = choose(weights, path, name, &t, error);
    if (status >= 0)
        status = imagine__buffer_new(buffer, context, t->dtype, t->ndim, t->shape, error);
    if (status >= 0)
        status = imagine__weights_read(weights, t, 0, t->size, imagine_buffer_data(*buffer), error);
    if (status < 0)
        imagine_buffer_release(buffer);
    imagine__weights_close(weights);
    return status;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* A header that grows. */
typedef struct text {
    imagine_context *context;
    char *bytes;
    size_t size, capacity;
    int failed; /* out of memory */
} text;

static void put(text *t, const char *bytes, size_t size)
{
    if (t->failed)
        return;
    if (size > t->capacity - t->size) {
        size_t capacity = 2 * (t->size + size) + 256;
        char *grown = imagine__realloc(t->context, t->bytes, capacity);
        if (!grown) {
            t->failed = 1;
            return;
        }
        t->bytes = grown;
        t->capacity = capacity;
    }
    memcpy(t->bytes + t->size, bytes, size);
    t->size += size;
}

static void put_text(text *t, const char *string)
{
    put(t, string, strlen(string));
}

static void put_name(text *t, const char *name)
{
    char escape[16];
    put_text(t, "\"");
    for (; *name; name++)
        if (*name == '"' || *name == '\\' || (unsigned char)*name < 0x20) {
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned char)*name);
            put_text(t, escape);
        } else {
            put(t, name, 1);
        }
    put_text(t, "\"");
}

static const char *format_name(imagine_dtype dtype)
{
    static const char *const names[] = { "", "U8", "I32", "I64", "F16", "BF16", "F32", "F64" };
    return names[dtype];
}

static void put_tensor(text *t, const char *name, const imagine_buffer *buffer, uint64_t offset)
{
    char number[64];
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(buffer, &ndim);
    put_name(t, name);
    put_text(t, ":{\"dtype\":\"");
    put_text(t, format_name(imagine__buffer_dtype(buffer)));
    put_text(t, "\",\"shape\":[");
    for (int32_t i = 0; i < ndim; i++) {
        snprintf(number, sizeof number, "%s%lld", i ? "," : "", (long long)shape[i]);
        put_text(t, number);
    }
    snprintf(number, sizeof number, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)offset,
             (unsigned long long)(offset + imagine_buffer_size(buffer)));
    put_text(t, number);
}

/* Larger elements first, so that each tensor lies aligned to its element; then by name. */
static int comes_before(imagine_buffer *const *buffers, const char *const *names, uint32_t a, uint32_t b)
{
    size_t x = imagine__dtype_size(imagine__buffer_dtype(buffers[a]));
    size_t y = imagine__dtype_size(imagine__buffer_dtype(buffers[b]));
    return x != y ? x > y : strcmp(names[a], names[b]) < 0;
}

static void sort(uint32_t *order, uint32_t count, imagine_buffer *const *buffers, const char *const *names)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = i;
        for (; at && comes_before(buffers, names, i, order[at - 1]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

static imagine_status check(imagine_context *context, const char *path, uint32_t count, imagine_buffer *const *buffers,
                            const char *const *names, imagine_error *error)
{
    if (!context || !path || (count && (!buffers || !names)))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: the pointer is NULL",
                             !context   ? "context"
                             : !path    ? "path"
                             : !buffers ? "buffers"
                                        : "names");
    for (uint32_t i = 0; i < count; i++) {
        if (!buffers[i] || !names[i])
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s[%u]: the pointer is NULL",
                                 buffers[i] ? "names" : "buffers", i);
        if (!strcmp(names[i], "__metadata__"))
            return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                                 "names[%u]: __metadata__ is reserved by the format", i);
        for (uint32_t j = 0; j < i; j++)
            if (!strcmp(names[i], names[j]))
                return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "names: \"%s\" is given twice", names[i]);
    }
    return imagine__check_process(context, error);
}

static imagine_status write_file(text *header, const uint32_t *order, const char *path, uint32_t count,
                                 imagine_buffer *const *buffers, imagine_error *error)
{
    imagine__output output;
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++)
        prefix[i] = (unsigned char)((uint64_t)header->size >> (8 * i));
    imagine_status status = imagine__output_open(&output, header->context, path, error);
    if (status < 0)
        return status;
    imagine__output_write(&output, prefix, sizeof prefix);
    imagine__output_write(&output, header->bytes, header->size);
    for (uint32_t i = 0; i < count && status >= 0; i++) { /* of those on a device one at a time */
        imagine_buffer *on_host;
        status = imagine__buffer_on_host(&on_host, buffers[order[i]], error);
        if (status >= 0)
            imagine__output_write(&output, imagine_buffer_data(on_host), imagine_buffer_size(on_host));
        imagine_buffer_release(&on_host);
    }
    if (status >= 0)
        return imagine__output_commit(&output, error);
    imagine__output_abandon(&output);
    return status;
}

imagine_status imagine_buffer_save(imagine_context *context, const char *path, uint32_t count,
                                   imagine_buffer *const *buffers, const char *const *names, imagine_error *error)
{
    IMAGINE__GUARD(context);
    imagine_status status = check(context, path, count, buffers, names, error);
    if (status < 0)
        return status;
    text header = { .context = context };
    uint32_t *order = imagine__alloc(context, ((size_t)count + 1) * sizeof *order);
    if (!order)
        return imagine__fail_memory_in(context, error, count * sizeof *order, path);
    sort(order, count, buffers, names);
    uint64_t offset = 0;
    put_text(&header, "{");
    for (uint32_t i = 0; i < count; i++) {
        put_text(&header, i ? "," : "");
        put_tensor(&header, names[order[i]], buffers[order[i]], offset);
        offset += imagine_buffer_size(buffers[order[i]]);
    }
    put_text(&header, "}");
    while (!header.failed && header.size % 8)
        put_text(&header, " ");
    imagine__json json;
    imagine__json_init(&json, header.bytes, header.size);
    if (header.failed)
        status = imagine__fail_memory_in(context, error, header.size, path);
    else if (imagine__json_next(&json) != IMAGINE__JSON_OBJECT || !imagine__json_skip(&json))
        status = imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "names: %s", json.error); /* not UTF-8 */
    else
        status = write_file(&header, order, path, count, buffers, error);
    imagine__free(context, header.bytes);
    imagine__free(context, order);
    return status;
}
