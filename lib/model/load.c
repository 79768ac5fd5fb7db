/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "model/model.h"

#define STAGING      ((size_t)4 << 20) /* bytes of a matrix that are read at once */
#define UPLOADED     ((size_t)1 << 20) /* the same on their way to a device, of which two pieces are held */
#define LONGEST_NAME 512

void imagine__loaded_init(imagine__loaded *loaded, imagine_context *context, const imagine__weights *weights)
{
    *loaded = (imagine__loaded) { .context = context, .weights = weights };
}

void imagine__loaded_free(imagine__loaded *loaded)
{
    if (!loaded->context)
        return;
    imagine__uploader_destroy(loaded->uploader);
    for (size_t i = 0; i < loaded->count; i++)
        imagine__free(loaded->context, loaded->blocks[i].at);
    for (int i = 0; i < 2; i++)
        imagine__free(loaded->context, loaded->staging[i]);
    imagine__free(loaded->context, loaded->blocks);
    imagine__free(loaded->context, loaded->asked);
    *loaded = (imagine__loaded) { .context = NULL };
}

void imagine__loaded_rewind(imagine__loaded *loaded)
{
    loaded->given = 0;
}

uint64_t imagine__loaded_held(const imagine__loaded *loaded)
{
    return loaded->bytes + 64 * (loaded->count + 2) + loaded->capacity * sizeof *loaded->blocks;
}

/* Memory to read through: number 0 for rows, 1 for what must be converted. */
static void *stage(imagine__loaded *loaded, int number, size_t size)
{
    if (!loaded->again)
        return imagine__alloc_host_values(loaded->context, size);
    if (loaded->staging_size[number] < size) {
        imagine__free(loaded->context, loaded->staging[number]);
        loaded->staging[number] = imagine__alloc_host_values(loaded->context, size);
        loaded->staging_size[number] = loaded->staging[number] ? size : 0;
    }
    return loaded->staging[number];
}

static void unstage(imagine__loaded *loaded, void *staging)
{
    if (!loaded->again)
        imagine__free(loaded->context, staging);
}

/* The block that was used for the same purpose the last time, if it is as large as that. */
static void *keep_again(imagine__loaded *loaded, size_t size)
{
    struct imagine__loaded_block *block = &loaded->blocks[loaded->given];
    if (block->size != size) {
        imagine__free(loaded->context, block->at);
        loaded->bytes -= block->size;
        block->at = imagine__alloc_values(loaded->context, size);
        block->size = block->at ? size : 0;
        loaded->bytes += block->size;
    }
    loaded->given += block->at != NULL;
    return block->at;
}

void *imagine__loaded_keep(imagine__loaded *loaded, size_t size)
{
    if (loaded->given < loaded->count)
        return keep_again(loaded, size);
    if (loaded->count == loaded->capacity) {
        size_t capacity = loaded->capacity ? 2 * loaded->capacity : 64;
        struct imagine__loaded_block *blocks = imagine__realloc(loaded->context, loaded->blocks, capacity * sizeof *blocks);
        if (!blocks)
            return NULL;
        loaded->blocks = blocks;
        loaded->capacity = capacity;
    }
    void *block = imagine__alloc_values(loaded->context, size);
    if (block) {
        loaded->blocks[loaded->count++] = (struct imagine__loaded_block){ block, size };
        loaded->given = loaded->count;
        loaded->bytes += size;
    }
    return block;
}

/* An imagine__loaded_keep whose content did not come about. */
static void drop_last(imagine__loaded *loaded, size_t size)
{
    loaded->given--;
    if (loaded->again)
        return;
    imagine__free(loaded->context, loaded->blocks[--loaded->count].at);
    loaded->bytes -= size;
}

static imagine_status fail_memory(const imagine__loaded *loaded, const imagine__tensor *t, size_t size, imagine_error *error)
{
    char what[160];
    snprintf(what, sizeof what, "tensor \"%.140s\"", t->name);
    return imagine__fail_memory_in(loaded->context, error, size, what);
}

static imagine_status check_cancel(const imagine__loaded *loaded, imagine_error *error)
{
    if (imagine_cancel_fired(loaded->cancel))
        return imagine__fail(error, IMAGINE_ERROR_CANCELLED, "cancelled while the weights were read");
    return IMAGINE_OK;
}

static imagine_status find(imagine__loaded *loaded, const char *name, const imagine__tensor **tensor,
                           imagine_error *error)
{
    imagine_status status = check_cancel(loaded, error);
    if (status < 0)
        return status;
    if (!loaded->asked)
        loaded->asked = imagine__calloc(loaded->context, (size_t)imagine__weights_count(loaded->weights) + 1, 1);
    if (!loaded->asked)
        return imagine__fail_memory_in(loaded->context, error, (size_t)imagine__weights_count(loaded->weights), "a list of tensors");
    const imagine__tensor *t = imagine__weights_find(loaded->weights, name);
    if (!t)
        return imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: tensor \"%s\" is missing%s",
                             imagine__weights_path(loaded->weights, NULL), name, imagine__weights_hint(loaded->weights));
    loaded->asked[t - imagine__weights_at(loaded->weights, 0)] = 1;
    if (t->dtype != IMAGINE_F32 && t->dtype != IMAGINE_BF16 && t->dtype != IMAGINE_F16 && t->dtype != IMAGINE_F64)
        return imagine__fail(
            error, IMAGINE_ERROR_UNSUPPORTED,
            "%s: tensor \"%s\" is stored as %s; f32, bf16, f16 and f64 are read%s",
            imagine__weights_path(loaded->weights, t), name, imagine__stored_name(t),
            !strncmp(imagine__stored_name(t), "F8_", 3) ? ": examples/convert.py makes bf16 of it" : "");
    if (!t->size) { /* a product over nothing: kernels may leave its result as it was */
        char is[128];
        imagine__shape_text(is, sizeof is, t->ndim, t->shape);
        return imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: tensor \"%s\" is %s, and weights must not be empty",
                             imagine__weights_path(loaded->weights, t), name, is);
    }
    *tensor = t;
    return IMAGINE_OK;
}

static imagine_status fail_shape(const imagine__loaded *loaded, const imagine__tensor *t, int32_t ndim,
                                 const int64_t *wanted, imagine_error *error)
{
    char is[128], want[128];
    imagine__shape_text(is, sizeof is, t->ndim, t->shape);
    imagine__shape_text(want, sizeof want, ndim, wanted);
    return imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: tensor \"%s\" is %s, the configuration wants %s",
                         imagine__weights_path(loaded->weights, t), t->name, is, want);
}

static int64_t elements(const imagine__tensor *t)
{
    return (int64_t)(t->size / imagine__dtype_size(t->dtype));
}

/* [n, k], where k may be several dimensions. */
static int is_matrix(const imagine__tensor *t, int64_t n, int64_t k)
{
    int64_t rest = 1;
    for (int32_t i = 1; i < t->ndim; i++)
        if (__builtin_mul_overflow(rest, t->shape[i], &rest))
            return 0;
    return t->ndim >= 2 && t->shape[0] == n && rest == k && elements(t) == n * k;
}

static float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023, bits;
    float value;
    if (exponent == 31) {
        bits = sign | 0x7f800000 | fraction << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    } else {
        value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void to_floats(float *out, const void *raw, imagine_dtype dtype, size_t count)
{
    const unsigned char *p = raw;
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        double wide;
        uint32_t bits;
        if (dtype == IMAGINE_F64) {
            memcpy(&wide, p + 8 * i, sizeof wide);
            out[i] = (float)wide;
            continue;
        }
        memcpy(&half, p + 2 * i, sizeof half);
        if (dtype == IMAGINE_F16) {
            out[i] = half_to_float(half);
        } else {
            bits = (uint32_t)half << 16;
            memcpy(out + i, &bits, sizeof bits);
        }
    }
}

/* `size` bytes as they are: a vocabulary's table is gigabytes, so that the cancel is looked at on the way. */
static imagine_status read_bytes(const imagine__loaded *loaded, const imagine__tensor *t, uint64_t begin, uint64_t size,
                                 void *out, imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    for (uint64_t at = 0; at < size && status >= 0; at += STAGING) {
        uint64_t now = size - at < STAGING ? size - at : STAGING;
        status = imagine__weights_read(loaded->weights, t, begin + at, now, (char *)out + at, error);
        if (status >= 0)
            status = check_cancel(loaded, error);
    }
    return status;
}

/* `count` elements from element `begin` on, as `type`, in pieces through a small buffer where they must be converted.
 */
static imagine_status read_elements(imagine__loaded *loaded, const imagine__tensor *t, uint64_t begin, uint64_t count,
                                    imagine__wtype type, void *out, imagine_error *error)
{
    size_t size = imagine__dtype_size(t->dtype);
    int planning = imagine__planning(loaded->context);
    if (t->dtype == (type == IMAGINE__W_F32 ? IMAGINE_F32 : IMAGINE_BF16))
        return planning ? IMAGINE_OK : read_bytes(loaded, t, begin * size, count * size, out, error);
    uint64_t piece = count < STAGING / 8 ? count : STAGING / 8;
    void *raw = stage(loaded, 1, (size_t)piece * size);
    if (!raw)
        return fail_memory(loaded, t, (size_t)piece * size, error);
    imagine_status status = IMAGINE_OK;
    for (uint64_t at = 0; at < count && status >= 0 && !planning; at += piece) {
        uint64_t now = count - at < piece ? count - at : piece;
        status = imagine__weights_read(loaded->weights, t, (begin + at) * size, now * size, raw, error);
        if (status >= 0)
            to_floats((float *)out + at, raw, t->dtype, (size_t)now);
        if (status >= 0)
            status = check_cancel(loaded, error);
    }
    unstage(loaded, raw);
    return status;
}

static imagine_status fail_copy(const imagine__loaded *loaded, const char *name, int code, imagine_error *error)
{
    imagine_status status = imagine__fail(error, IMAGINE_ERROR_DEVICE, "tensor \"%s\" could not be copied to the device: %s",
                                          name, imagine__device_text(loaded->context, code));
    if (error)
        error->native_code = code;
    return status;
}

/* The way to the device: no larger than what there is to read, and than UPLOADED where pieces of `least` bytes allow it. */
static imagine_status begin_upload(imagine__loaded *loaded, const imagine__tensor *t, size_t least, imagine_error *error)
{
    uint64_t size = loaded->uploader ? 0 : imagine__weights_bytes(loaded->weights) / 4;
    size = size < UPLOADED / 16 ? UPLOADED / 16 : size < UPLOADED ? size : UPLOADED;
    size = size < least ? least : size;
    if (loaded->uploader && imagine__uploader_size(loaded->uploader) < least) {
        imagine__uploader_destroy(loaded->uploader);
        loaded->uploader = NULL;
    }
    if (!loaded->uploader)
        loaded->uploader = imagine__uploader_create(loaded->context, (size_t)size);
    return loaded->uploader ? IMAGINE_OK : fail_memory(loaded, t, 2 * (size_t)size, error);
}

/* From memory that the uploader gave to the device. */
static imagine_status send(imagine__loaded *loaded, const imagine__tensor *t, void *to, const void *from, size_t size,
                           imagine_error *error)
{
    int code = imagine__uploader_send(loaded->uploader, to, from, size);
    if (code)
        return fail_copy(loaded, t->name, code, error);
    return check_cancel(loaded, error);
}

/* One piece of read_values to a device, on its way when this returns. */
static imagine_status send_elements(imagine__loaded *loaded, const imagine__tensor *t, uint64_t begin, uint64_t count,
                                    imagine__wtype type, void *out, imagine_error *error)
{
    size_t size = (size_t)count * (type == IMAGINE__W_BF16 ? 2 : 4);
    int code;
    void *on_host = imagine__uploader_take(loaded->uploader, size, &code);
    if (!on_host)
        return fail_copy(loaded, t->name, code, error);
    imagine_status status = read_elements(loaded, t, begin, count, type, on_host, error);
    return status < 0 ? status : send(loaded, t, out, on_host, size, error);
}

/* The same as read_elements to values that nothing uses yet: on a device in pieces, which are there after
 * imagine__loaded_finish. */
static imagine_status read_values(imagine__loaded *loaded, const imagine__tensor *t, uint64_t begin, uint64_t count,
                                  imagine__wtype type, void *out, imagine_error *error)
{
    size_t size = type == IMAGINE__W_BF16 ? 2 : 4;
    if (!imagine__on_device(loaded->context))
        return read_elements(loaded, t, begin, count, type, out, error);
    imagine_status status = begin_upload(loaded, t, 1, error);
    if (status < 0)
        return status;
    uint64_t most = imagine__uploader_size(loaded->uploader) / size, piece = count < most ? count : most;
    for (uint64_t at = 0; at < count && status >= 0; at += piece)
        status = send_elements(loaded, t, begin + at, count - at < piece ? count - at : piece, type,
                               (char *)out + at * size, error);
    return status;
}

imagine_status imagine__loaded_finish(imagine__loaded *loaded, imagine_error *error)
{
    int code = loaded->uploader ? imagine__uploader_wait(loaded->uploader) : 0;
    imagine__uploader_destroy(loaded->uploader);
    loaded->uploader = NULL;
    return code ? fail_copy(loaded, "the last ones", code, error) : IMAGINE_OK;
}

/* How a tensor is kept: bf16 as it is, all else as f32. */
static imagine__wtype kept_type(const imagine__tensor *t)
{
    return t->dtype == IMAGINE_BF16 ? IMAGINE__W_BF16 : IMAGINE__W_F32;
}

static size_t type_size(imagine__wtype type)
{
    return type == IMAGINE__W_BF16 ? 2 : 4;
}

/* Rows first..first+count-1 of the matrices put below each other. */
static imagine_status read_rows(imagine__loaded *loaded, const imagine__tensor *const *parts, const int64_t *rows,
                                int64_t first, int64_t count, int64_t k, imagine__wtype type, char *out,
                                imagine_error *error)
{
    size_t row = (size_t)k * type_size(type);
    for (size_t i = 0; count > 0; first -= rows[i], i++) {
        if (first >= rows[i])
            continue;
        int64_t now = rows[i] - first < count ? rows[i] - first : count;
        imagine_status status =
            read_elements(loaded, parts[i], (uint64_t)(first * k), (uint64_t)(now * k), type, out, error);
        if (status < 0)
            return status;
        out += (size_t)now * row;
        count -= now;
        first += now;
    }
    return IMAGINE_OK;
}

/* On a device rows stay as they are. */
static imagine_status send_parts(imagine__loaded *loaded, imagine__linear_weight *w, const imagine__tensor *const *parts,
                                 const int64_t *rows, imagine_error *error)
{
    size_t row = (size_t)w->k * type_size(w->type), size = (size_t)w->n * row;
    char *packed = imagine__loaded_keep(loaded, size);
    imagine_status status = packed ? IMAGINE_OK : fail_memory(loaded, parts[0], size, error);
    int64_t done = 0;
    for (int32_t i = 0; done < w->n && status >= 0; done += rows[i++])
        status = read_values(loaded, parts[i], 0, (uint64_t)(rows[i] * w->k), w->type, packed + (size_t)done * row, error);
    if (packed && status < 0)
        drop_last(loaded, size);
    w->packed = status < 0 ? NULL : packed;
    return status;
}

/* Rows of `row` bytes that are read and packed at a time. */
static int64_t rows_at_once(const imagine__kernels *kernels, size_t row)
{
    return kernels->pack_rows * (int64_t)(1 + STAGING / (row * (size_t)kernels->pack_rows + 1));
}

/* Packs in blocks of rows, so that a large matrix is not held twice. */
static imagine_status pack_parts(imagine__loaded *loaded, imagine__linear_weight *w,
                                 const imagine__tensor *const *parts, const int64_t *rows, imagine_error *error)
{
    const imagine__kernels *kernels = imagine__context_kernels(loaded->context);
    size_t row = (size_t)w->k * type_size(w->type), size = kernels->linear_packed_size(w->n, w->k, w->type);
    int64_t step = rows_at_once(kernels, row);
    if (step > w->n)
        step = w->n;
    void *packed = imagine__loaded_keep(loaded, size), *staging = stage(loaded, 0, (size_t)step * row);
    imagine_status status = IMAGINE_OK;
    if (!packed || !staging)
        status = fail_memory(loaded, parts[0], size, error);
    for (int64_t first = 0; first < w->n && status >= 0; first += step) {
        int64_t count = w->n - first < step ? w->n - first : step;
        status = read_rows(loaded, parts, rows, first, count, w->k, w->type, staging, error);
        if (status >= 0)
            kernels->pack_linear(packed, staging, first, count, w->n, w->k, w->type);
        if (status >= 0)
            status = check_cancel(loaded, error);
    }
    unstage(loaded, staging);
    if (packed && status < 0)
        drop_last(loaded, size);
    w->packed = status < 0 ? NULL : packed;
    return status;
}

static imagine_status load_floats_into(imagine__loaded *loaded, const char *name, int64_t count, float *out,
                                       imagine_error *error)
{
    const imagine__tensor *t;
    imagine_status status = find(loaded, name, &t, error);
    if (status < 0)
        return status;
    if (elements(t) != count)
        return fail_shape(loaded, t, 1, &count, error);
    if (loaded->check)
        return IMAGINE_OK;
    return read_values(loaded, t, 0, (uint64_t)count, IMAGINE__W_F32, out, error);
}

/* Writes "prefix" + suffix; a name that does not fit is nobody's tensor. */
static imagine_status full_name(char name[LONGEST_NAME], const char *prefix, const char *suffix, imagine_error *error)
{
    if ((size_t)snprintf(name, LONGEST_NAME, "%s%s", prefix, suffix) >= LONGEST_NAME)
        return imagine__fail(error, IMAGINE_ERROR_INTERNAL, "a tensor's name is too long: %s", prefix);
    return IMAGINE_OK;
}

static imagine_status format_name(char name[LONGEST_NAME], const char *format, va_list arguments, imagine_error *error)
{
    int length = vsnprintf(name, LONGEST_NAME, format, arguments);
    if (length < 0 || length >= LONGEST_NAME)
        return imagine__fail(error, IMAGINE_ERROR_INTERNAL, "a tensor's name is too long: %s", format);
    return IMAGINE_OK;
}

imagine_status imagine__load_linear_stack(imagine__loaded *loaded, imagine__linear_weight *w, int32_t count,
                                          const char *const *names, const int64_t *rows, int64_t k, int bias,
                                          imagine_error *error)
{
    enum {
        MOST = 16
    };
    const imagine__tensor *parts[MOST];
    char name[LONGEST_NAME];
    imagine__linear_weight made = { .k = k };
    imagine_status status = IMAGINE_OK;
    if (loaded->random)
        return imagine__random_linear(loaded, w, count, rows, k, bias, error);
    if (count < 1 || count > MOST)
        return imagine__fail(error, IMAGINE_ERROR_INTERNAL, "%d matrices in one stack", count);
    for (int32_t i = 0; i < count; i++) {
        status = full_name(name, names[i], ".weight", error);
        if (status >= 0)
            status = find(loaded, name, &parts[i], error);
        if (status < 0)
            return status;
        int64_t wanted[2] = { rows[i], k };
        if (!is_matrix(parts[i], rows[i], k))
            return fail_shape(loaded, parts[i], 2, wanted, error);
        made.n += rows[i];
        /* One type for all: bf16 only where every part is. */
        made.type = i && made.type != kept_type(parts[i]) ? IMAGINE__W_F32 : kept_type(parts[i]);
    }
    if (!loaded->check)
        status = imagine__on_device(loaded->context) ? send_parts(loaded, &made, parts, rows, error)
                                                     : pack_parts(loaded, &made, parts, rows, error);
    if (status < 0 || !bias) {
        *w = made;
        return status;
    }
    float *values = loaded->check ? NULL : imagine__loaded_keep(loaded, (size_t)made.n * sizeof *values);
    if (!values && !loaded->check)
        return imagine__fail_memory_in(loaded->context, error, (size_t)made.n * sizeof *values, "a bias");
    made.bias = values;
    int64_t at = 0;
    for (int32_t i = 0; i < count; at += rows[i++]) {
        status = full_name(name, names[i], ".bias", error);
        if (status >= 0)
            status = load_floats_into(loaded, name, rows[i], values ? values + at : NULL, error);
        if (status < 0)
            return status;
    }
    *w = made;
    return IMAGINE_OK;
}

imagine_status imagine__load_linear(imagine__loaded *loaded, imagine__linear_weight *w, int64_t n, int64_t k, int bias,
                                    imagine_error *error, const char *format, ...)
{
    char prefix[LONGEST_NAME];
    const char *names = prefix;
    va_list arguments;
    va_start(arguments, format);
    imagine_status status = format_name(prefix, format, arguments, error);
    va_end(arguments);
    return status < 0 ? status : imagine__load_linear_stack(loaded, w, 1, &names, &n, k, bias, error);
}

/* On a device the packed weights of an output channel lie together, so that as many of them are packed at a time as fit into a
 * buffer on its way. */
static imagine_status send_conv(imagine__loaded *loaded, const imagine__conv_weight *w, const imagine__tensor *t, void *packed,
                                imagine_error *error)
{
    const imagine__kernels *kernels = imagine__context_kernels(loaded->context);
    size_t size = kernels->conv_packed_size(1, w->cin, w->kt, w->kh, w->kw, w->type);
    int64_t values = w->cin * w->kt * w->kh * w->kw, most;
    imagine_status status = begin_upload(loaded, t, size, error);
    if (status < 0)
        return status;
    most = (int64_t)(imagine__uploader_size(loaded->uploader) / size);
    most = most < w->cout ? most : w->cout;
    void *raw = stage(loaded, 0, (size_t)(most * values) * type_size(w->type));
    if (!raw)
        return fail_memory(loaded, t, (size_t)(most * values) * type_size(w->type), error);
    for (int64_t first = 0; first < w->cout && status >= 0; first += most) {
        int64_t count = w->cout - first < most ? w->cout - first : most;
        int code;
        void *on_host = imagine__uploader_take(loaded->uploader, (size_t)count * size, &code);
        if (!on_host)
            status = fail_copy(loaded, t->name, code, error);
        else
            status = read_elements(loaded, t, (uint64_t)(first * values), (uint64_t)(count * values), w->type, raw, error);
        if (status < 0)
            break;
        kernels->pack_conv(on_host, raw, count, w->cin, w->kt, w->kh, w->kw, w->type);
        status = send(loaded, t, (char *)packed + (size_t)first * size, on_host, (size_t)count * size, error);
    }
    unstage(loaded, raw);
    return status;
}

/* Output channels first..first+count-1, which lie behind those before them: `first` is a multiple of pack_rows. */
static imagine_status pack_channels(imagine__loaded *loaded, const imagine__conv_weight *w, const imagine__tensor *t, int64_t first,
                                    int64_t count, void *raw, char *packed, imagine_error *error)
{
    const imagine__kernels *kernels = imagine__context_kernels(loaded->context);
    int64_t values = w->cin * w->kt * w->kh * w->kw;
    size_t before = first ? kernels->conv_packed_size(first, w->cin, w->kt, w->kh, w->kw, w->type) : 0;
    imagine_status status = read_elements(loaded, t, (uint64_t)(first * values), (uint64_t)(count * values), w->type, raw, error);
    if (status < 0)
        return status;
    kernels->pack_conv(packed + before, raw, count, w->cin, w->kt, w->kh, w->kw, w->type);
    return check_cancel(loaded, error);
}

/* In blocks of output channels, as packing a large tensor takes longer than a cancel may. What is left for less than a block
 * goes with the last one: for a few channels alone the kernels have another layout. */
static imagine_status pack_conv(imagine__loaded *loaded, const imagine__conv_weight *w, const imagine__tensor *t, void *packed,
                                imagine_error *error)
{
    size_t row = (size_t)(w->cin * w->kt * w->kh * w->kw) * type_size(w->type);
    int64_t step = rows_at_once(imagine__context_kernels(loaded->context), row);
    int64_t most = w->cout < 2 * step ? w->cout : step + w->cout % step;
    void *raw = stage(loaded, 0, (size_t)most * row);
    imagine_status status = raw ? IMAGINE_OK : fail_memory(loaded, t, (size_t)most * row, error);
    for (int64_t first = 0, count; first < w->cout && status >= 0; first += count) {
        count = w->cout - first < 2 * step ? w->cout - first : step;
        status = pack_channels(loaded, w, t, first, count, raw, packed, error);
    }
    unstage(loaded, raw);
    return status;
}

static imagine_status keep_conv(imagine__loaded *loaded, imagine__conv_weight *w, const imagine__tensor *t,
                                imagine_error *error)
{
    size_t size = imagine__context_kernels(loaded->context)->conv_packed_size(w->cout, w->cin, w->kt, w->kh, w->kw, w->type);
    void *packed = imagine__loaded_keep(loaded, size);
    if (!packed)
        return fail_memory(loaded, t, size, error);
    imagine_status status = imagine__on_device(loaded->context) ? send_conv(loaded, w, t, packed, error)
                                                                : pack_conv(loaded, w, t, packed, error);
    if (status < 0)
        drop_last(loaded, size);
    else
        w->packed = packed;
    return status;
}

imagine_status imagine__load_conv(imagine__loaded *loaded, imagine__conv_weight *w, int64_t cout, int64_t cin,
                                  int32_t kt, int32_t kh, int32_t kw, imagine_error *error, const char *format, ...)
{
    char prefix[LONGEST_NAME], name[LONGEST_NAME];
    const imagine__tensor *t = NULL;
    int64_t shape[5] = { cout, cin, kt, kh, kw }, flat[4] = { cout, cin, kh, kw };
    imagine__conv_weight made = { .cout = cout, .cin = cin, .kt = kt, .kh = kh, .kw = kw };
    va_list arguments;
    if (loaded->random) {
        *w = made;
        return imagine__random_conv(loaded, w, error);
    }
    va_start(arguments, format);
    imagine_status status = format_name(prefix, format, arguments, error);
    va_end(arguments);
    if (status >= 0)
        status = full_name(name, prefix, ".weight", error);
    if (status >= 0)
        status = find(loaded, name, &t, error);
    if (status < 0)
        return status;
    if (!(t->ndim == 5 && !memcmp(t->shape, shape, sizeof shape)) &&
        !(t->ndim == 4 && kt == 1 && !memcmp(t->shape, flat, sizeof flat)))
        return fail_shape(loaded, t, 5, shape, error);
    made.type = kept_type(t);
    if (!loaded->check)
        status = keep_conv(loaded, &made, t, error);
    if (status >= 0)
        status = imagine__load_floats(loaded, &made.bias, cout, error, "%s.bias", prefix);
    if (status >= 0)
        *w = made;
    return status;
}

imagine_status imagine__load_floats(imagine__loaded *loaded, const float **values, int64_t count, imagine_error *error,
                                    const char *format, ...)
{
    char name[LONGEST_NAME];
    va_list arguments;
    va_start(arguments, format);
    imagine_status status = format_name(name, format, arguments, error);
    va_end(arguments);
    if (status < 0)
        return status;
    size_t size = (size_t)count * sizeof(float);
    if (loaded->random)
        return imagine__random_floats(loaded, values, count, error);
    if (loaded->check)
        return load_floats_into(loaded, name, count, NULL, error);
    float *made = imagine__loaded_keep(loaded, size);
    if (!made)
        return imagine__fail_memory_in(loaded->context, error, size, name);
    status = load_floats_into(loaded, name, count, made, error);
    if (status < 0)
        drop_last(loaded, size);
    else
        *values = made;
    return status;
}

imagine_status imagine__load_table(imagine__loaded *loaded, const void **table, imagine__wtype *type, int64_t rows,
                                   int64_t dim, imagine_error *error, const char *format, ...)
{
    char name[LONGEST_NAME];
    const imagine__tensor *t = NULL;
    va_list arguments;
    va_start(arguments, format);
    imagine_status status = format_name(name, format, arguments, error);
    va_end(arguments);
    if (status >= 0)
        status = find(loaded, name, &t, error);
    if (status < 0)
        return status;
    int64_t wanted[2] = { rows, dim };
    if (t->ndim != 2 || !is_matrix(t, rows, dim))
        return fail_shape(loaded, t, 2, wanted, error);
    imagine__wtype kept = kept_type(t);
    size_t size = (size_t)elements(t) * type_size(kept);
    if (loaded->check)
        return IMAGINE_OK;
    void *made = imagine__loaded_keep(loaded, size);
    if (!made)
        return fail_memory(loaded, t, size, error);
    status = read_values(loaded, t, 0, (uint64_t)elements(t), kept, made, error);
    if (status < 0) {
        drop_last(loaded, size);
        return status;
    }
    *table = made;
    *type = kept;
    return IMAGINE_OK;
}

imagine_status imagine__load_rows(imagine__loaded *loaded, float *out, const int32_t *ids, int32_t count, int64_t dim,
                                  const char *name, imagine_error *error)
{
    const imagine__tensor *t = NULL;
    imagine_status status = find(loaded, name, &t, error);
    if (status < 0)
        return status;
    size_t size = (size_t)dim * sizeof *out;
    int on_device = imagine__on_device(loaded->context), code = 0;
    if (on_device && (status = begin_upload(loaded, t, size, error)) < 0)
        return status;
    if (on_device) { /* after the operations that have used *out */
        code = imagine__uploader_used(loaded->uploader);
        code = code ? code : imagine__uploader_again(loaded->uploader);
    }
    for (int32_t i = 0; i < count && status >= 0 && !code; i++) {
        uint64_t first = (uint64_t)ids[i] * (uint64_t)dim;
        status = on_device ? send_elements(loaded, t, first, (uint64_t)dim, IMAGINE__W_F32, out + i * dim, error)
                           : read_elements(loaded, t, first, (uint64_t)dim, IMAGINE__W_F32, out + i * dim, error);
    }
    if (status >= 0 && on_device && !code)
        code = imagine__uploader_wait(loaded->uploader);
    return code ? fail_copy(loaded, t->name, code, error) : status;
}

imagine_status imagine__load_no_others(const imagine__loaded *loaded, const char *const *ignored, imagine_error *error)
{
    int32_t count = loaded->random ? 0 : imagine__weights_count(loaded->weights);
    for (int32_t i = 0; i < count; i++) {
        const imagine__tensor *t = imagine__weights_at(loaded->weights, i);
        int fine = loaded->asked && loaded->asked[i];
        for (size_t j = 0; ignored && ignored[j] && !fine; j++)
            fine = !strncmp(t->name, ignored[j], strlen(ignored[j]));
        if (!fine)
            return imagine__fail(error, IMAGINE_ERROR_MODEL,
                                 "%s: tensor \"%s\" is not part of the model that config.json describes",
                                 imagine__weights_path(loaded->weights, t), t->name);
    }
    return IMAGINE_OK;
}
