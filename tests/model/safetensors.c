/* SPDX-License-Identifier: MIT */
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "model/model.h"
#include "test.h"

static imagine_context *context;
static char folder[] = "/tmp/imagine-safetensors-XXXXXX";

static const char *path_of(const char *name)
{
    static char path[4][512];
    static unsigned next;
    char *p = path[next++ & 3];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static void write_bytes(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file))
        test_fail(__FILE__, __LINE__, path);
}

/* A file of this header and `data` bytes behind it. Returns its size. */
static size_t make(char *out, const char *header, size_t data)
{
    size_t length = strlen(header);
    for (int i = 0; i < 8; i++)
        out[i] = (char)((uint64_t)length >> (8 * i));
    memcpy(out + 8, header, length);
    for (size_t i = 0; i < data; i++)
        out[8 + length + i] = (char)(i * 37 + 11);
    return 8 + length + data;
}

static imagine_status open_bytes(const char *bytes, size_t size, imagine__weights **weights, imagine_error *error)
{
    const char *path = path_of("case.safetensors");
    write_bytes(path, bytes, size);
    imagine_status status = imagine__weights_open_file(weights, context, path, error);
    CHECK((status < 0) == (*weights == NULL));
    return status;
}

static imagine_status try_header(const char *header, size_t data)
{
    static char bytes[1 << 16];
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *weights;
    imagine_status status = open_bytes(bytes, make(bytes, header, data), &weights, &err);
    CHECK(status >= 0 || (err.status == status && strstr(err.message, "case.safetensors")));
    imagine__weights_close(weights);
    return status;
}

#define GOOD                                                                                                          \
    "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"        \
    "\"a\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]},\"s\":{\"dtype\":\"I64\",\"shape\":[],\"data_" \
    "offsets\":[32,40]}}  "

static void reads(void)
{
    char bytes[1024];
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *weights;
    size_t size = make(bytes, GOOD, 40);
    REQUIRE_OK(open_bytes(bytes, size, &weights, &err));
    CHECK(imagine__weights_count(weights) == 3);
    CHECK(imagine__weights_elements(weights) == 11);
    CHECK(imagine__weights_bytes(weights) == size);
    const imagine__tensor *a = imagine__weights_find(weights, "a"), *b = imagine__weights_find(weights, "b");
    const imagine__tensor *s = imagine__weights_find(weights, "s");
    CHECK(!imagine__weights_find(weights, "c") && !imagine__weights_find(weights, ""));
    if (a && b && s) {
        CHECK(b->dtype == IMAGINE_F32 && b->ndim == 2 && b->shape[0] == 2 && b->shape[1] == 3 && b->size == 24);
        CHECK(a->dtype == IMAGINE_BF16 && a->ndim == 1 && a->shape[0] == 4 && a->size == 8);
        CHECK(s->dtype == IMAGINE_I64 && s->ndim == 0 && s->size == 8);
        char out[8];
        CHECK_OK(imagine__weights_read(weights, a, 2, 6, out, &err));
        CHECK(!memcmp(out, bytes + size - 40 + 26, 6));
        CHECK_STATUS(imagine__weights_read(weights, a, 3, 6, out, &err), IMAGINE_ERROR_INTERNAL);
    } else {
        CHECK(!"a, b and s are there");
    }
    imagine__weights_close(weights);
}

#define ONE(rest) "{\"a\":{" rest "}}"

static void accepts(void)
{
    static const struct {
        const char *header;
        size_t data;
    } cases[] = {
        { "{}", 0 },
        { ONE("\"data_offsets\":[0,4],\"shape\":[1],\"dtype\":\"F32\""), 4 },
        { ONE("\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]"), 0 },
        { ONE("\"dtype\":\"F32\",\"shape\":[0,9223372036854775807],\"data_offsets\":[0,0]"), 0 },
        { ONE("\"dtype\":\"F8_E4M3FNUZ\",\"shape\":[3],\"data_offsets\":[0,3]"), 3 },
        { ONE("\"dtype\":\"F8_E5M2FNUZ\",\"shape\":[3],\"data_offsets\":[0,3]"), 3 },
        { ONE("\"dtype\":\"F8_E8M0\",\"shape\":[3],\"data_offsets\":[0,3]"), 3 },
        { "{\"__metadata__\":null,\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1 },
        { ONE("\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[0,3]"), 3 },
        { ONE("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,3],\"data_offsets\":[0,3]"), 3 },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_"
          "offsets\":[0,2]}}",
          2 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (try_header(cases[i].header, cases[i].data) < 0)
            test_fail(__FILE__, __LINE__, cases[i].header);
}

static void refuses(void)
{
    static const struct {
        const char *header;
        size_t data;
    } cases[] = {
        { "[]", 0 },
        { " {}", 0 },
        { "{", 0 },
        { "{} {}", 0 },
        { "{}", 1 }, /* bytes behind */
        { "{\"a\":1}", 0 },
        { "{\"a\":{}}", 0 },
        { ONE("\"dtype\":\"F32\",\"shape\":[1]"), 4 },
        { ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1"), 4 },
        { ONE("\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]"), 4 },
        { ONE("\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]"), 4 },
        { ONE("\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]"), 4 },
        { ONE("\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]"), 4 },
        { ONE("\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]"), 4 },
        { ONE("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), 4 },
        { ONE("\"dtype\":\"F32\",\"shape\":[-1,-1],\"data_offsets\":[0,4]"), 4 },
        { ONE("\"dtype\":\"F32\",\"shape\":[[1]],\"data_offsets\":[0,4]"), 4 },
        { ONE("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]"), 4 },
        { ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]"), 4 },
        { ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]"), 4 },
        { ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]"), 4 },
        { ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]"), 4 },
        { ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]"), 4 }, /* beyond the file */
        { ONE("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]"), 4 },
        /* Sizes that wrap: 2^62 elements of 4 bytes are 0 modulo 2^64, 2^32 * 2^32 likewise, 2^62 + 1 are 4. */
        { ONE("\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]"), 0 },
        { ONE("\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]"), 4 },
        { ONE("\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"), 0 },
        { ONE("\"dtype\":\"U8\",\"shape\":[18446744073709551616],\"data_offsets\":[0,0]"), 0 },
        { ONE("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[18446744073709551612,0]"), 4 },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_"
          "offsets\":[2,4]}}",
          4 },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[2],"
          "\"data_offsets\":[2,4]}}",
          4 },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_"
          "offsets\":[2,4]}}",
          4 },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_"
          "offsets\":[0,4]}}",
          4 },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_"
          "offsets\":[2,4]}}",
          4 },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}", 4 },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 4 },
        { "{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2 },
        { "{\"__metadata__\":1}", 0 },
        { "{\"__metadata__\":null,\"__metadata__\":null}", 0 },
        { "{\"__metadata__\":{\"a\":1}}", 0 },
        { "{\"__metadata__\":{\"a\":null}}", 0 },
        { "{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0 },
        { "{\"__metadata__\":{},\"__metadata__\":{}}", 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (try_header(cases[i].header, cases[i].data) != IMAGINE_ERROR_FORMAT)
            test_fail(__FILE__, __LINE__, cases[i].header);
}

static void header_length(void)
{
    static char bytes[1024];
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *weights;
    static const uint64_t lengths[] = {
        0, 1, 3, 84, 100, 99999999, 100000001, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63
    };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        /* 91 bytes: the published file that makes others reserve what its header claims. */
        memset(bytes, ' ', 91);
        memcpy(bytes + 8, "{}", 2);
        for (int b = 0; b < 8; b++)
            bytes[b] = (char)(lengths[i] >> (8 * b));
        imagine_context_reset_peak(context);
        CHECK_STATUS(open_bytes(bytes, 91, &weights, &err), IMAGINE_ERROR_FORMAT);
        imagine_context_info info = { .struct_size = sizeof info };
        CHECK_OK(imagine_context_get_info(context, &info, &err));
        CHECK(info.memory_peak - info.memory_used < 65536);
    }
    for (size_t size = 0; size < 10; size++)
        CHECK_STATUS(open_bytes("\2\0\0\0\0\0\0\0{}", size, &weights, &err), IMAGINE_ERROR_FORMAT);
    CHECK_OK(open_bytes("\2\0\0\0\0\0\0\0{}", 10, &weights, &err));
    imagine__weights_close(weights);
}

static void header_with_a_mark(void)
{
    static const char bytes[] = "\x8\0\0\0\0\0\0\0\xEF\xBB\xBF{}   ";
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *weights;
    CHECK_STATUS(open_bytes(bytes, 16, &weights, &err), IMAGINE_ERROR_FORMAT);
    CHECK(strstr(err.message, "begins with a byte order mark") != NULL);
}

static void truncated(void)
{
    char bytes[1024];
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *weights;
    size_t size = make(bytes, GOOD, 40);
    for (size_t i = 0; i < size; i++) {
        CHECK_STATUS(open_bytes(bytes, i, &weights, &err), IMAGINE_ERROR_FORMAT);
        CHECK(i < 10 || strstr(err.message, "it was cut short, download it again"));
    }
    char whole[64];
    snprintf(whole, sizeof whole, "it has %zu bytes, but its header speaks of %zu;", size - 1, size);
    CHECK(strstr(err.message, whole) != NULL);
}

/* The file shrinks after it was opened. */
static void cut_short(void)
{
    char bytes[1024], out[24];
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *weights;
    size_t size = make(bytes, GOOD, 40);
    REQUIRE_OK(open_bytes(bytes, size, &weights, &err));
    CHECK(!truncate(path_of("case.safetensors"), (off_t)size - 20));
    const imagine__tensor *b = imagine__weights_find(weights, "b");
    CHECK_STATUS(imagine__weights_read(weights, b, 0, 24, out, &err), IMAGINE_ERROR_IO);
    CHECK(strstr(err.message, "case.safetensors") != NULL);
    CHECK_OK(imagine__weights_read(weights, b, 0, 20, out, &err));
    CHECK(!truncate(path_of("case.safetensors"), 4)); /* it does not end where the reading begins */
    CHECK_STATUS(imagine__weights_read(weights, b, 0, 24, out, &err), IMAGINE_ERROR_IO);
    CHECK(!strstr(err.message, "ends at byte") && strstr(err.message, ", where 24 bytes are wanted; was it cut short?"));
    imagine__weights_close(weights);
}

static uint32_t state;

static uint32_t draw(uint32_t below)
{
    state = state * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)state * below) >> 32);
}

/* Each must be read or refused with a message; what is read must lie inside of the file. */
static void mutations(void)
{
    char bytes[1024], copy[1100], out[64];
    size_t size = make(bytes, GOOD, 40);
    int refused = 0;
    state = 7;
    for (int round = 0; round < 200; round++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine__weights *weights;
        size_t length = size;
        memcpy(copy, bytes, size);
        for (uint32_t edits = 1 + draw(3); edits; edits--) {
            uint32_t at = draw((uint32_t)length), kind = draw(4);
            if (kind == 0) {
                copy[at] = (char)draw(256);
            } else if (kind == 1) {
                copy[at] = (char)(copy[at] ^ 1 << draw(8));
            } else if (kind == 2) {
                memmove(copy + at, copy + at + 1, length - at - 1);
                length--;
            } else {
                memmove(copy + at + 1, copy + at, length - at);
                copy[at] = "0129-[]{},:\"\\ae"[draw(15)];
                length++;
            }
        }
        imagine_status status = open_bytes(copy, length, &weights, &err);
        refused += status < 0;
        CHECK(status >= 0 || (status == IMAGINE_ERROR_FORMAT && err.message[0]));
        for (int32_t i = 0; status >= 0 && i < imagine__weights_count(weights); i++) {
            const imagine__tensor *t = imagine__weights_at(weights, i);
            CHECK(t->size <= sizeof out);
            if (t->size <= sizeof out)
                CHECK_OK(imagine__weights_read(weights, t, 0, t->size, out, &err));
        }
        imagine__weights_close(weights);
    }
    CHECK(refused > 100);
}

static void shards(void)
{
    static char bytes[1024];
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *weights;
    const char *index = path_of("m.safetensors.index.json");
    static const struct {
        const char *text;
        imagine_status expected;
    } cases[] = {
        { "{\"metadata\":{\"total_size\":4},\"weight_map\":{\"x\":\"one.safetensors\",\"y\":\"two.safetensors\"}}",
          IMAGINE_OK },
        { "{\"weight_map\":{\"x\":\"two.safetensors\",\"y\":\"two.safetensors\"}}", IMAGINE_ERROR_FORMAT },
        { "{\"weight_map\":{\"x\":\"one.safetensors\",\"z\":\"two.safetensors\"}}", IMAGINE_ERROR_FORMAT },
        { "{\"weight_map\":{\"x\":\"../one.safetensors\"}}", IMAGINE_ERROR_FORMAT },
        { "{\"weight_map\":{\"x\":\"/etc/passwd\"}}", IMAGINE_ERROR_FORMAT },
        { "{\"weight_map\":{\"x\":\"..\"}}", IMAGINE_ERROR_FORMAT },
        { "{\"weight_map\":{\"x\":\"\"}}", IMAGINE_ERROR_FORMAT },
        { "{\"weight_map\":{\"x\":1}}", IMAGINE_ERROR_FORMAT },
        { "{\"weight_map\":{}}", IMAGINE_ERROR_FORMAT },
        { "{\"weight_map\":[]}", IMAGINE_ERROR_FORMAT },
        { "{}", IMAGINE_ERROR_FORMAT },
        { "[", IMAGINE_ERROR_FORMAT },
        { "{\"weight_map\":{\"x\":\"three.safetensors\"}}", IMAGINE_ERROR_NOT_FOUND },
        { "{\"weight_map\":{\"x\":\"one.safetensors\",\"y\":\"same.safetensors\"}}", IMAGINE_ERROR_FORMAT },
    };
    write_bytes(path_of("one.safetensors"), bytes,
                make(bytes, "{\"x\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2));
    write_bytes(path_of("same.safetensors"), bytes,
                make(bytes, "{\"x\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2));
    write_bytes(path_of("two.safetensors"), bytes,
                make(bytes, "{\"y\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]}}", 2));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_bytes(index, cases[i].text, strlen(cases[i].text));
        imagine_status status = imagine__weights_open(&weights, context, folder, "m", &err);
        if (status != cases[i].expected)
            test_fail(__FILE__, __LINE__, cases[i].text);
        CHECK((status < 0) == (weights == NULL));
        if (!status) {
            const imagine__tensor *y = imagine__weights_find(weights, "y");
            CHECK(imagine__weights_count(weights) == 2 && y &&
                  strstr(imagine__weights_path(weights, y), "two.safetensors"));
        }
        imagine__weights_close(weights);
    }
    CHECK_STATUS(imagine__weights_open(&weights, context, folder, "none", &err), IMAGINE_ERROR_NOT_FOUND);
}

/* An index may be as large as 16 MB and name a thousand shards in any order: it is read in the time that its size takes. */
static void large_index(void)
{
    enum { SHARDS = 1000, LARGEST = 16 << 20 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *weights;
    const char *index = path_of("large.safetensors.index.json");
    char *text = malloc(LARGEST);
    REQUIRE(text);
    size_t at = (size_t)sprintf(text, "{\"weight_map\":{");
    for (int i = 0; at + 32 < LARGEST; i++) /* all of them once, then the first ones again and again */
        at += (size_t)sprintf(text + at, "%s\"\":\"s%03d\"", i ? "," : "", i < SHARDS ? i : i % 4);
    at += (size_t)sprintf(text + at, "}}");
    write_bytes(index, text, at);
    clock_t begin = clock();
    CHECK_STATUS(imagine__weights_open(&weights, context, folder, "large", &err), IMAGINE_ERROR_NOT_FOUND);
    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    printf("    %.1f MB in %.2f s\n", (double)at / 1e6, seconds);
    CHECK(strstr(err.message, "/s000") && seconds < 2);
    at = (size_t)sprintf(text, "{\"weight_map\":{");
    for (int i = 0; i <= SHARDS; i++)
        at += (size_t)sprintf(text + at, "%s\"\":\"s%03d\"", i ? "," : "", i);
    at += (size_t)sprintf(text + at, "}}");
    write_bytes(index, text, at);
    CHECK_STATUS(imagine__weights_open(&weights, context, folder, "large", &err), IMAGINE_ERROR_FORMAT);
    CHECK(strstr(err.message, "more than 1000 shards") != NULL);
    CHECK(!truncate(index, LARGEST + 1));
    CHECK_STATUS(imagine__weights_open(&weights, context, folder, "large", &err), IMAGINE_ERROR_FORMAT);
    CHECK(strstr(err.message, "16777217") && strstr(err.message, "at most 16777216"));
    unlink(index);
    free(text);
}

/* Of types that are not computed with, and of names that are not diffusers', the message says what they are and what to do. */
static void other_contents(void)
{
    static const struct {
        const char *name, *dtype, *told;
        size_t size;
    } cases[] = {
        { "wanted.weight", "F8_E4M3", "is stored as F8_E4M3; f32, bf16, f16 and f64 are read: examples/convert.py makes bf16 of it", 1 },
        { "wanted.weight", "I64", "is stored as I64; f32, bf16, f16 and f64 are read", 8 },
        { "model.diffusion_model.head.modulation", "F32", "it has the original model's names: convert it with examples/convert.py", 4 },
        { "token_embedding.weight", "F32", "convert it with examples/convert.py", 4 },
        { "decoder.head.0.gamma", "F32", "convert it with examples/convert.py", 4 },
        { "diffusion_model.blocks.0.self_attn.q.lora_A.weight", "F32", "it is a LoRA", 4 },
        { "other", "F32", "\"wanted.weight\" is missing", 4 },
    };
    char bytes[1024], header[512];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine__weights *weights;
        imagine__loaded loaded;
        const float *values;
        snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"%s\",\"shape\":[1],\"data_offsets\":[0,%zu]}}", cases[i].name, cases[i].dtype,
                 cases[i].size);
        REQUIRE_OK(open_bytes(bytes, make(bytes, header, cases[i].size), &weights, &err));
        imagine__loaded_init(&loaded, context, weights);
        CHECK(imagine__load_floats(&loaded, &values, 1, &err, "wanted.weight") < 0);
        if (!strstr(err.message, cases[i].told))
            test_fail(__FILE__, __LINE__, err.message);
        imagine__loaded_free(&loaded);
        imagine__weights_close(weights);
    }
}

/* imagine_buffer_save and _load: what was written is read, whatever the order and types. */
static void buffers(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *in[3] = { NULL }, *out = NULL;
    static const char *const names[] = { "z", "quote\"d \xc3\xa9", "empty" };
    int64_t shapes[3][2] = { { 3, 1 }, { 2, 5 }, { 0, 4 } };
    static const imagine_dtype types[] = { IMAGINE_U8, IMAGINE_F32, IMAGINE_I64 };
    const char *path = path_of("buffers.safetensors");
    for (int i = 0; i < 3; i++) {
        REQUIRE_OK(imagine_buffer_create(&in[i], context, types[i], 2, shapes[i], &err));
        for (uint64_t b = 0; b < imagine_buffer_size(in[i]); b++)
            ((unsigned char *)imagine_buffer_data(in[i]))[b] = (unsigned char)(b * 7 + 1);
    }
    CHECK_OK(imagine_buffer_save(context, path, 3, in, names, &err));
    for (int i = 0; i < 3; i++) {
        REQUIRE_OK(imagine_buffer_load(&out, context, path, names[i], &err));
        imagine_buffer_info info = { .struct_size = sizeof info };
        CHECK_OK(imagine_buffer_get_info(out, &info, &err));
        CHECK(info.dtype == types[i] && info.ndim == 2 && info.shape[0] == shapes[i][0] &&
              info.shape[1] == shapes[i][1]);
        CHECK(info.size == imagine_buffer_size(in[i]) && !memcmp(info.data, imagine_buffer_data(in[i]), info.size));
        imagine_buffer_release(&out);
    }
    CHECK_STATUS(imagine_buffer_load(&out, context, path, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_load(&out, context, path, "none", &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK_OK(imagine_buffer_save(context, path, 1, in, names, &err));
    CHECK_OK(imagine_buffer_load(&out, context, path, NULL, &err));
    imagine_buffer_release(&out);
    static const char *const twice[] = { "a", "a" }, *const reserved[] = { "__metadata__" },
                             *const broken[] = { "\xff" };
    CHECK_STATUS(imagine_buffer_save(context, path, 2, in, twice, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_save(context, path, 1, in, reserved, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_save(context, path, 1, in, broken, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_save(context, path_of("no/such/folder"), 1, in, names, &err), IMAGINE_ERROR_IO);
    CHECK_OK(imagine_buffer_load(&out, context, path, NULL, &err)); /* none of these touched the old file */
    imagine_buffer_release(&out);
    for (int i = 0; i < 3; i++)
        imagine_buffer_release(&in[i]);
}

static void not_files(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *weights;
    CHECK_STATUS(imagine__weights_open_file(&weights, context, folder, &err), IMAGINE_ERROR_IO);
    CHECK_STATUS(imagine__weights_open_file(&weights, context, "/dev/zero", &err), IMAGINE_ERROR_IO);
    CHECK(!mkfifo(path_of("fifo"), 0600));
    CHECK_STATUS(imagine__weights_open_file(&weights, context, path_of("fifo"), &err), IMAGINE_ERROR_IO);
    CHECK_STATUS(imagine__weights_open_file(&weights, context, path_of("none"), &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK(err.native_code == 2 && strstr(err.message, "none"));
}

static void clean_up(void)
{
    static const char *const names[] = { "case.safetensors",
                                         "m.safetensors.index.json",
                                         "one.safetensors",
                                         "two.safetensors",
                                         "same.safetensors",
                                         "buffers.safetensors",
                                         "fifo" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(path_of(names[i]));
    CHECK(!rmdir(folder)); /* nothing else was left behind, no temporary file either */
    imagine_context_info info = { .struct_size = sizeof info };
    imagine_context *other;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options options;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    REQUIRE_OK(imagine_context_create(&other, &options, &err));
    imagine_context_info fresh = { .struct_size = sizeof fresh };
    CHECK_OK(imagine_context_get_info(other, &fresh, &err));
    CHECK_OK(imagine_context_get_info(context, &info, &err));
    CHECK(info.memory_used == fresh.memory_used); /* no block was left behind */
    imagine_context_release(&other);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "reads", reads },         { "accepts", accepts },
        { "refuses", refuses },     { "header_length", header_length },
        { "header_with_a_mark", header_with_a_mark },
        { "truncated", truncated }, { "cut_short", cut_short },
        { "mutations", mutations }, { "shards", shards }, { "large index", large_index },
        { "other contents", other_contents },
        { "buffers", buffers },     { "not_files", not_files },
        { "clean_up", clean_up },
    };
    imagine_context_options options;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    if (!mkdtemp(folder) || imagine_context_create(&context, &options, NULL) < 0)
        return 1;
    int result = test_main("model/safetensors", cases, sizeof cases / sizeof *cases, argc, argv);
    imagine_context_release(&context);
    return result;
}
