/* SPDX-License-Identifier: MIT */

/* Buffers and DLPack tensors. The definitions below are a program's own, under the names that dlpack.h uses. */

#include <stddef.h>

#include "api.h"

typedef struct DLTensor {
    void *data;
    struct {
        int32_t device_type, device_id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DLTensor;

typedef struct DLManagedTensor {
    DLTensor dl_tensor;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensor *self);
} DLManagedTensor;

typedef struct DLManagedTensorVersioned {
    struct {
        uint32_t major, minor;
    } version;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensorVersioned *self);
    uint64_t flags;
    DLTensor dl_tensor;
} DLManagedTensorVersioned;

_Static_assert(sizeof(DLTensor) == 48 && offsetof(DLTensor, ndim) == 16 && offsetof(DLTensor, dtype) == 20 &&
                   offsetof(DLTensor, byte_offset) == 40 && sizeof(DLManagedTensor) == 64 &&
                   offsetof(DLManagedTensorVersioned, flags) == 24 && sizeof(DLManagedTensorVersioned) == 80,
               "what other libraries were compiled with");

static const struct {
    imagine_dtype dtype;
    uint8_t code, bits;
} types[] = {
    { IMAGINE_U8, 1, 8 },    { IMAGINE_I32, 0, 32 }, { IMAGINE_I64, 0, 64 }, { IMAGINE_F16, 2, 16 },
    { IMAGINE_BF16, 4, 16 }, { IMAGINE_F32, 2, 32 }, { IMAGINE_F64, 2, 64 },
};
#define TYPES (sizeof types / sizeof types[0])

static uint64_t used(imagine_context *context)
{
    imagine_context_info info = { .struct_size = sizeof info };
    imagine_context_get_info(context, &info, NULL);
    return info.memory_used;
}

/* The tensor of a [2, 3, 4] buffer of a type. */
static int tells(const DLTensor *t, size_t type, const void *data)
{
    static const int64_t shape[] = { 2, 3, 4 }, strides[] = { 12, 4, 1 };
    return t->data == data && t->device.device_type == 1 && t->device.device_id == 0 && t->ndim == 3 && !t->byte_offset &&
           t->dtype.code == types[type].code && t->dtype.bits == types[type].bits && t->dtype.lanes == 1 &&
           !memcmp(t->shape, shape, sizeof shape) && !memcmp(t->strides, strides, sizeof strides);
}

static void out(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    REQUIRE(context);
    uint64_t empty = used(context);
    for (size_t type = 0; type < TYPES; type++) {
        imagine_buffer *buffer;
        DLManagedTensorVersioned *tensor;
        DLManagedTensor *old;
        REQUIRE_OK(imagine_buffer_create(&buffer, context, types[type].dtype, 3, (int64_t[]){ 2, 3, 4 }, &err));
        void *data = imagine_buffer_data(buffer);
        REQUIRE_OK(imagine_buffer_to_dlpack(buffer, &tensor, &err));
        REQUIRE_OK(imagine_buffer_to_dlpack_unversioned(buffer, &old, &err));
        CHECK(tensor->version.major == 1 && tensor->flags == 0 && tells(&tensor->dl_tensor, type, data));
        CHECK(tells(&old->dl_tensor, type, data));
        imagine_buffer_release(&buffer);
        memset(data, 7, 24 * types[type].bits / 8); /* the tensors keep it */
        old->deleter(old);
        CHECK(*(unsigned char *)tensor->dl_tensor.data == 7 && used(context) > empty);
        tensor->deleter(tensor);
        CHECK(used(context) == empty);
    }
    imagine_context_release(&context);
}

/* Nothing but the tensor is left of the context. */
static void outlives(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(2, &err);
    imagine_buffer *buffer;
    DLManagedTensorVersioned *tensor;
    REQUIRE(context);
    REQUIRE_OK(imagine_buffer_create(&buffer, context, IMAGINE_F32, 1, (int64_t[]){ 1000 }, &err));
    REQUIRE_OK(imagine_buffer_to_dlpack(buffer, &tensor, &err));
    imagine_buffer_release(&buffer);
    imagine_context_release(&context);
    float *data = tensor->dl_tensor.data;
    CHECK(data[999] == 0);
    tensor->deleter(tensor);
}

/* ---- in -------------------------------------------------------------------------------------- */

static int deleted;

static void delete_versioned(DLManagedTensorVersioned *self)
{
    deleted += self->manager_ctx == self;
}

static void delete_old(DLManagedTensor *self)
{
    deleted += self->manager_ctx == self;
}

static float memory[24];
static int64_t shape3[] = { 2, 3, 4 };

static DLManagedTensorVersioned versioned(void)
{
    return (DLManagedTensorVersioned){
        .version = { 1, 3 },
        .deleter = delete_versioned,
        .dl_tensor = { .data = memory, .device = { 1, 0 }, .ndim = 3, .dtype = { 2, 32, 1 }, .shape = shape3 },
    };
}

static void in(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_buffer *buffer, *kept;
    DLManagedTensorVersioned tensor = versioned();
    DLManagedTensor old = { .dl_tensor = tensor.dl_tensor, .manager_ctx = &old, .deleter = delete_old };
    REQUIRE(context);
    tensor.manager_ctx = &tensor;
    deleted = 0;
    for (int versions = 0; versions < 2; versions++) {
        imagine_buffer_info info = { .struct_size = sizeof info };
        if (versions)
            REQUIRE_OK(imagine_buffer_from_dlpack(&buffer, context, &tensor, &err));
        else
            REQUIRE_OK(imagine_buffer_from_dlpack_unversioned(&buffer, context, &old, &err));
        REQUIRE_OK(imagine_buffer_get_info(buffer, &info, &err));
        CHECK(info.data == memory && info.dtype == IMAGINE_F32 && info.ndim == 3 && info.shape[2] == 4 && info.size == 96);
        CHECK(info.flags == 0 && info.reserved1 == 0);
        kept = imagine_buffer_retain(buffer);
        imagine_buffer_release(&buffer);
        CHECK(deleted == versions);
        imagine_buffer_release(&kept);
        CHECK(deleted == versions + 1);
    }
    tensor.deleter = NULL; /* whose memory needs no giving back */
    REQUIRE_OK(imagine_buffer_from_dlpack(&buffer, context, &tensor, &err));
    imagine_buffer_release(&buffer);
    imagine_context_release(&context);
}

static void every_type(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    REQUIRE(context);
    for (size_t type = 0; type <= TYPES; type++) {
        DLManagedTensorVersioned tensor = versioned(), *again;
        imagine_buffer *buffer;
        int boolean = type == TYPES;
        double aligned[24] = { 0 };
        tensor.dl_tensor.data = aligned;
        tensor.dl_tensor.dtype.code = boolean ? 6 : types[type].code;
        tensor.dl_tensor.dtype.bits = boolean ? 8 : types[type].bits;
        REQUIRE_OK(imagine_buffer_from_dlpack(&buffer, context, &tensor, &err));
        CHECK(imagine_buffer_size(buffer) == 24u * tensor.dl_tensor.dtype.bits / 8);
        REQUIRE_OK(imagine_buffer_to_dlpack(buffer, &again, &err));
        CHECK(tells(&again->dl_tensor, boolean ? 0 : type, aligned));
        imagine_buffer_release(&buffer);
        again->deleter(again);
    }
    imagine_context_release(&context);
}

/* That a tensor or a caller's memory is read-only is not forgotten on the way. */
static void read_only(void)
{
    static const int32_t constant[2] = { 3, 4 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_buffer_info info = { .struct_size = sizeof info };
    imagine_buffer *buffer, *second;
    DLManagedTensorVersioned *tensor;
    DLManagedTensor *old = (DLManagedTensor *)&err;
    REQUIRE(context);
    uint64_t empty = used(context);
    REQUIRE_OK(imagine_buffer_wrap_read_only(&buffer, context, IMAGINE_I32, 1, (int64_t[]){ 2 }, constant, NULL, NULL, &err));
    REQUIRE_OK(imagine_buffer_to_dlpack(buffer, &tensor, &err));
    CHECK(tensor->flags == 1 && tensor->dl_tensor.data == constant);
    CHECK_STATUS(imagine_buffer_to_dlpack_unversioned(buffer, &old, &err), IMAGINE_ERROR_UNSUPPORTED);
    CHECK(!old && strstr(err.message, "read-only"));
    imagine_buffer_release(&buffer);
    REQUIRE_OK(imagine_buffer_from_dlpack(&second, context, tensor, &err));
    REQUIRE_OK(imagine_buffer_get_info(second, &info, &err));
    CHECK(info.flags == IMAGINE_BUFFER_READ_ONLY && info.data == constant);
    imagine_buffer_release(&second);
    CHECK(used(context) == empty);
    imagine_context_release(&context);
}

static void strides(void)
{
    static int64_t one_wide[] = { 2, 1, 12 }, none[] = { 2, 0, 12 };
    static struct {
        int64_t *shape, strides[3];
        int dense;
    } cases[] = {
        { shape3, { 12, 4, 1 }, 1 },      { one_wide, { 12, 77, 1 }, 1 },      { none, { -5, 3, 100 }, 1 },
        { shape3, { 1, 2, 6 }, 0 },       { shape3, { 24, 8, 2 }, 0 },         { shape3, { 12, -4, 1 }, 0 },
        { shape3, { 0, 4, 1 }, 0 },       { one_wide, { 13, 1, 1 }, 0 },       { shape3, { INT64_MIN, 4, 1 }, 0 },
    };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    REQUIRE(context);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        DLManagedTensorVersioned tensor = versioned();
        imagine_buffer *buffer;
        tensor.manager_ctx = &tensor;
        tensor.dl_tensor.shape = cases[i].shape;
        tensor.dl_tensor.strides = cases[i].strides;
        deleted = 0;
        imagine_status status = imagine_buffer_from_dlpack(&buffer, context, &tensor, &err);
        CHECK(status == (cases[i].dense ? IMAGINE_OK : IMAGINE_ERROR_UNSUPPORTED) && !deleted);
        CHECK(cases[i].dense ? buffer != NULL : !buffer && strstr(err.message, "contiguous"));
        imagine_buffer_release(&buffer);
        CHECK(deleted == cases[i].dense);
    }
    imagine_context_release(&context);
}

static void empty_and_scalar(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_buffer *buffer;
    DLManagedTensorVersioned tensor = versioned(), *again;
    REQUIRE(context);
    tensor.dl_tensor.ndim = 0;
    tensor.dl_tensor.shape = NULL;
    tensor.dl_tensor.byte_offset = 8;
    REQUIRE_OK(imagine_buffer_from_dlpack(&buffer, context, &tensor, &err));
    CHECK(imagine_buffer_size(buffer) == 4 && imagine_buffer_data(buffer) == memory + 2);
    imagine_buffer_release(&buffer);
    int64_t shape[] = { 3, 0 };
    tensor = versioned();
    tensor.dl_tensor.data = NULL;
    tensor.dl_tensor.ndim = 2;
    tensor.dl_tensor.shape = shape;
    REQUIRE_OK(imagine_buffer_from_dlpack(&buffer, context, &tensor, &err));
    REQUIRE_OK(imagine_buffer_to_dlpack(buffer, &again, &err));
    CHECK(imagine_buffer_size(buffer) == 0 && again->dl_tensor.shape[0] == 3 && again->dl_tensor.shape[1] == 0);
    again->deleter(again);
    imagine_buffer_release(&buffer);
    int64_t beyond[] = { 0, (int64_t)1 << 40, (int64_t)1 << 40 }; /* whose strides no number holds */
    REQUIRE_OK(imagine_buffer_create(&buffer, context, IMAGINE_F32, 3, beyond, &err));
    REQUIRE_OK(imagine_buffer_to_dlpack(buffer, &again, &err));
    CHECK(!memcmp(again->dl_tensor.shape, beyond, sizeof beyond));
    for (int i = 0; i < 3; i++)
        CHECK(again->dl_tensor.strides[i] == 1);
    imagine_buffer_release(&buffer);
    tensor = versioned();
    tensor.dl_tensor.ndim = 3;
    tensor.dl_tensor.shape = beyond;
    tensor.dl_tensor.strides = again->dl_tensor.strides;
    REQUIRE_OK(imagine_buffer_from_dlpack(&buffer, context, &tensor, &err));
    CHECK(imagine_buffer_size(buffer) == 0);
    imagine_buffer_release(&buffer);
    again->deleter(again);
    imagine_context_release(&context);
}

/* What cannot be taken in is refused with its reason, and stays the caller's. */
static void refused(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_context(1, &err);
    imagine_buffer *buffer;
    int64_t negative[] = { 2, -3, 4 }, huge[] = { INT64_MAX, INT64_MAX, 4 }, strides[] = { 1, 1, 1 };
    REQUIRE(context);
    deleted = 0;
#define REFUSED(field, value, status, words)                                                    \
    do {                                                                                        \
        DLManagedTensorVersioned t = versioned();                                               \
        t.manager_ctx = &t;                                                                     \
        t.field = (value);                                                                      \
        CHECK_STATUS(imagine_buffer_from_dlpack(&buffer, context, &t, &err), IMAGINE_ERROR_##status); \
        CHECK(!buffer && strstr(err.message, (words)));                                         \
    } while (0)
    REFUSED(version.major, 2, UNSUPPORTED, "2.3");
    REFUSED(version.major, 0, UNSUPPORTED, "0.3");
    REFUSED(dl_tensor.device.device_type, 2, UNSUPPORTED, "device type 2");
    REFUSED(dl_tensor.device.device_type, 0, UNSUPPORTED, "host");
    REFUSED(dl_tensor.dtype.code, 5, UNSUPPORTED, "code 5");
    REFUSED(dl_tensor.dtype.bits, 8, UNSUPPORTED, "8 bits");
    REFUSED(dl_tensor.dtype.lanes, 4, UNSUPPORTED, "4 lanes");
    REFUSED(dl_tensor.dtype.lanes, 0, UNSUPPORTED, "0 lanes");
    REFUSED(dl_tensor.ndim, 9, UNSUPPORTED, "9 dimensions");
    REFUSED(dl_tensor.ndim, -1, INVALID_ARGUMENT, "-1 dimensions");
    REFUSED(dl_tensor.ndim, INT32_MIN, INVALID_ARGUMENT, "ndim");
    REFUSED(dl_tensor.shape, NULL, INVALID_ARGUMENT, "shape");
    REFUSED(dl_tensor.shape, negative, INVALID_ARGUMENT, "shape[1]");
    REFUSED(dl_tensor.shape, huge, INVALID_ARGUMENT, "beyond");
    REFUSED(dl_tensor.strides, strides, UNSUPPORTED, "strides");
    REFUSED(dl_tensor.data, NULL, INVALID_ARGUMENT, "NULL");
    REFUSED(dl_tensor.byte_offset, 2, UNSUPPORTED, "aligned");
    DLManagedTensorVersioned tensor = versioned(), *none = &tensor;
    DLManagedTensor *old;
    CHECK_STATUS(imagine_buffer_from_dlpack(&buffer, context, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_from_dlpack_unversioned(&buffer, context, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_from_dlpack(&buffer, NULL, &tensor, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_from_dlpack(NULL, context, &tensor, NULL), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_to_dlpack(NULL, &none, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(!none);
    CHECK_STATUS(imagine_buffer_to_dlpack(NULL, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_to_dlpack_unversioned(NULL, &old, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(!deleted);
    imagine_context_release(&context);
}

/* There is memory for the buffer's data and no more. */
static void no_memory(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options options;
    imagine_context *context;
    imagine_buffer *buffer, *taken;
    DLManagedTensorVersioned *out_tensor, tensor = versioned();
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    options.memory_limit = 1 << 20;
    REQUIRE_OK(imagine_context_create(&context, &options, &err));
    int64_t room = (1 << 20) - (int64_t)used(context) - 512;
    REQUIRE_OK(imagine_buffer_create(&buffer, context, IMAGINE_U8, 1, &room, &err));
    CHECK_STATUS(imagine_buffer_to_dlpack(buffer, &out_tensor, &err), IMAGINE_ERROR_NO_MEMORY);
    CHECK(!out_tensor);
    uint64_t before = used(context);
    tensor.manager_ctx = &tensor;
    deleted = 0;
    imagine_buffer *small[8] = { NULL };
    size_t count = 0; /* fills what is left with buffers over other memory, until one fails */
    imagine_status status;
    while ((status = imagine_buffer_from_dlpack(&taken, context, &tensor, &err)) >= 0 && count < 8)
        small[count++] = taken;
    CHECK(status == IMAGINE_ERROR_NO_MEMORY && !taken && !deleted);
    for (size_t i = 0; i < count; i++)
        imagine_buffer_release(&small[i]);
    CHECK(used(context) == before && deleted == (int)count);
    imagine_buffer_release(&buffer);
    imagine_context_release(&context);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "out", out },           { "outlives", outlives }, { "in", in },
        { "every type", every_type }, { "read-only", read_only }, { "strides", strides },
        { "empty and scalar", empty_and_scalar }, { "refused", refused }, { "no memory", no_memory },
    };
    return test_main("api/dlpack", cases, sizeof cases / sizeof cases[0], argc, argv);
}
