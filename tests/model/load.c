/* SPDX-License-Identifier: MIT */

/* Configurations, and weights as the kernels get them: every stored type, shape and failure. */

#include <math.h>
#include <time.h>
#include <unistd.h>

#include "model/model.h"
#include "test.h"

static imagine_context *context;
static char path[] = "/tmp/imagine-load-XXXXXX";

/* ---- configurations -------------------------------------------------------------------------- */

static imagine_status open_text(imagine__config **config, const char *text, imagine_error *error)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(text, 1, strlen(text), file) != strlen(text) || fclose(file))
        test_fail(__FILE__, __LINE__, "writing a file");
    return imagine__config_open(config, context, path, error);
}

/* Sixteen megabytes of short keys are more than anybody has. */
static void config_of_keys(void)
{
    enum { KEYS = 5000 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__config *c;
    static char text[KEYS * 12 + 2];
    size_t at = 0;
    for (int i = 0; i < KEYS; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "%c\"%d\":0", i ? ',' : '{', i);
    text[at] = '}';
    CHECK_STATUS(open_text(&c, text, &err), IMAGINE_ERROR_FORMAT);
    CHECK(strstr(err.message, "4096"));
}

/* Seconds that 4096 keys of 4080 characters take, all of them alike but for four digits: in front, or at the end. */
static double time_keys(int digits_at, int twice, imagine_status expected)
{
    enum { KEYS = 4096, LENGTH = 4080 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__config *c;
    static char text[KEYS * (LENGTH + 5) + 2], key[LENGTH + 1];
    size_t at = 0;
    memset(key, 'k', LENGTH);
    for (int i = 0; i < KEYS; i++) {
        char digits[5];
        snprintf(digits, sizeof digits, "%04d", twice && i == KEYS - 1 ? 77 : i);
        memcpy(key + digits_at, digits, 4);
        at += (size_t)sprintf(text + at, "%c\"%s\":0", i ? ',' : '{', key);
    }
    memcpy(text + at, "}", 2);
    clock_t begin = clock();
    CHECK_STATUS(open_text(&c, text, &err), expected);
    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    CHECK(!twice || strstr(err.message, "kkkk"));
    imagine__config_close(context, c);
    return seconds;
}

/* Keys that begin alike are not each compared with all others. */
static void config_of_long_keys(void)
{
    double unlike = time_keys(0, 0, IMAGINE_OK), alike = time_keys(4076, 0, IMAGINE_OK);
    printf("    %.3f s unlike, %.3f s alike\n", unlike, alike);
    CHECK(alike < 4 * unlike);
    time_keys(4076, 1, IMAGINE_ERROR_FORMAT);
}

static void config_values(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__config *c;
    int64_t i;
    double d, values[4];
    int b;
    int32_t count = 4;
    const char *s;
    REQUIRE_OK(open_text(&c,
                         "{\"i\":-3,\"f\":16.0,\"d\":1e-6,\"t\":true,\"s\":\"a\\u0062\",\"n\":null,\"v\":[1,2.5,false],"
                         "\"o\":{\"x\":[1]},"
                         "\"_private\":1}",
                         &err));
    CHECK(!strcmp(imagine__config_path(c), path));
    CHECK_OK(imagine__config_int(c, "i", &i, 5, -10, 10, &err));
    CHECK(i == -3);
    CHECK_OK(imagine__config_int(c, "f", &i, 5, 0, 20, &err));
    CHECK(i == 16);
    CHECK_STATUS(imagine__config_int(c, "i", &i, 5, 0, 10, &err), IMAGINE_ERROR_MODEL);
    CHECK(strstr(err.message, "\"i\" is -3") && strstr(err.message, path));
    CHECK_STATUS(imagine__config_int(c, "d", &i, 5, 0, 10, &err), IMAGINE_ERROR_MODEL);
    CHECK_STATUS(imagine__config_int(c, "s", &i, 5, 0, 10, &err), IMAGINE_ERROR_MODEL);
    CHECK(strstr(err.message, "\"s\" is \"a\\u0062\""));
    CHECK_OK(imagine__config_int(c, "n", &i, 5, 0, 10, &err));
    CHECK(i == 5);
    CHECK_OK(imagine__config_double(c, "d", &d, 0, &err));
    CHECK(d == 1e-6);
    CHECK_OK(imagine__config_double(c, "missing", &d, 0.25, &err));
    CHECK(d == 0.25);
    CHECK_STATUS(imagine__config_double(c, "t", &d, 0, &err), IMAGINE_ERROR_MODEL);
    CHECK_OK(imagine__config_bool(c, "t", &b, 0, &err));
    CHECK(b == 1);
    CHECK_STATUS(imagine__config_bool(c, "i", &b, 0, &err), IMAGINE_ERROR_MODEL);
    CHECK_OK(imagine__config_string(c, "s", &s, NULL, &err));
    CHECK(!strcmp(s, "ab"));
    CHECK_STATUS(imagine__config_string(c, "v", &s, NULL, &err), IMAGINE_ERROR_MODEL);
    CHECK_OK(imagine__config_doubles(c, "v", values, &count, &err));
    CHECK(count == 3 && values[0] == 1 && values[1] == 2.5 && values[2] == 0);
    count = 2;
    CHECK_STATUS(imagine__config_doubles(c, "v", values, &count, &err), IMAGINE_ERROR_MODEL);
    count = 2;
    CHECK_OK(imagine__config_doubles(c, "n", values, &count, &err));
    CHECK(count == 0);
    CHECK_STATUS(imagine__config_no_others(c, NULL, &err), IMAGINE_ERROR_MODEL);
    CHECK(strstr(err.message, "\"o\" is {\"x\":[1]}"));
    static const char *const ignored[] = { "x", "o", NULL };
    CHECK_OK(imagine__config_no_others(c, ignored, &err));
    CHECK(imagine__config_has(c, "o") && !imagine__config_has(c, "n"));
    CHECK_OK(imagine__config_no_others(c, NULL, &err));
    imagine__config_close(context, c);
}

static void config_expectations(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__config *c;
    REQUIRE_OK(open_text(&c, "{\"a\":1280,\"b\":\"si\\u006cu\",\"c\":[1, 2,\n2.0],\"d\":false,\"e\":null}", &err));
    CHECK_OK(imagine__config_expect(c, "missing", "7", &err));
    CHECK_OK(imagine__config_expect(c, "e", "7", &err));
    CHECK_OK(imagine__config_expect(c, "a", "1.28e3", &err));
    CHECK_OK(imagine__config_expect(c, "b", "\"silu\"", &err));
    CHECK_OK(imagine__config_expect(c, "c", "[1, 2, 2]", &err));
    CHECK_OK(imagine__config_expect(c, "d", "false", &err));
    CHECK_STATUS(imagine__config_expect(c, "a", "null", &err), IMAGINE_ERROR_MODEL);
    CHECK(strstr(err.message, ": \"a\" is 1280, this library runs null") != NULL);
    CHECK_STATUS(imagine__config_expect(c, "b", "\"silux\"", &err), IMAGINE_ERROR_MODEL);
    CHECK_STATUS(imagine__config_expect(c, "c", "[1, 2]", &err), IMAGINE_ERROR_MODEL);
    CHECK_STATUS(imagine__config_expect(c, "c", "[1, 2, 2, 2]", &err), IMAGINE_ERROR_MODEL);
    CHECK_STATUS(imagine__config_expect(c, "d", "0", &err), IMAGINE_ERROR_MODEL);
    imagine__config_close(context, c);
}

static void config_refused(void)
{
    static const char *const texts[] = {
        "",          "[]",     "1", "{", "{\"a\":1,\"a\":2}", "{\"a\":1}x", "{\"a\\u0000\":1}", "{\"a\":\"\\u0000\"}",
        "{\"a\":[}", "{\"a\"}"
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine__config *c;
        CHECK_STATUS(open_text(&c, texts[i], &err), IMAGINE_ERROR_FORMAT);
        CHECK(!c && strstr(err.message, path));
    }
}

/* 1: the text is whole characters. */
static int is_utf8(const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    while (*at) {
        int more = *at < 0x80 ? 0 : *at >> 5 == 6 ? 1 : *at >> 4 == 14 ? 2 : *at >> 3 == 30 ? 3 : -1;
        if (more < 0)
            return 0;
        for (at++; more > 0; more--, at++)
            if (*at >> 6 != 2)
                return 0;
    }
    return 1;
}

/* What is too long to show is cut between characters, wherever the cut falls; so is a message. */
static void config_of_characters(void)
{
    static const char *const characters[] = { "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x91\xA9" };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__config *c;
    for (size_t i = 0; i < sizeof characters / sizeof *characters; i++)
        for (int before = 0; before < 4; before++)
            for (int many = 0; many < 2; many++) {
                char text[2000], key[1000] = "k";
                int64_t number;
                size_t at = 1;
                for (int k = 0; many && k < 180; k++)
                    at += (size_t)snprintf(key + at, sizeof key - at, "%s", characters[i]);
                at = (size_t)snprintf(text, sizeof text, "{\"%s\":\"%.*s", key, before, "abc");
                for (int k = 0; k < 100; k++)
                    at += (size_t)snprintf(text + at, sizeof text - at, "%s", characters[i]);
                snprintf(text + at, sizeof text - at, "\"}");
                REQUIRE_OK(open_text(&c, text, &err));
                CHECK_STATUS(imagine__config_int(c, key, &number, 5, 0, 10, &err), IMAGINE_ERROR_MODEL);
                CHECK(is_utf8(err.message) && strstr(err.message, "..."));
                imagine__config_close(context, c);
            }
}

/* ---- weights --------------------------------------------------------------------------------- */

static uint32_t state;

/* Small numbers that all four types hold exactly. */
static float draw(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)((int32_t)(state >> 25) - 64) / 16;
}

static uint16_t to_half(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x == 0)
        return 0;
    return (uint16_t)((bits >> 16 & 0x8000) | ((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023));
}

static imagine_buffer *tensor(imagine_dtype dtype, int32_t ndim, const int64_t *shape, float *copy)
{
    imagine_buffer *b = NULL;
    imagine_error err = IMAGINE_ERROR_INIT;
    CHECK_OK(imagine_buffer_create(&b, context, dtype, ndim, shape, &err));
    if (!b)
        return NULL;
    void *data = imagine_buffer_data(b);
    size_t count = imagine_buffer_size(b) / imagine__dtype_size(dtype);
    for (size_t i = 0; i < count; i++) {
        float x = copy[i] = draw();
        uint32_t bits;
        memcpy(&bits, &x, 4);
        if (dtype == IMAGINE_F32)
            ((float *)data)[i] = x;
        else if (dtype == IMAGINE_F64)
            ((double *)data)[i] = x;
        else
            ((uint16_t *)data)[i] = dtype == IMAGINE_BF16 ? (uint16_t)(bits >> 16) : to_half(x);
    }
    return b;
}

static imagine__weights *store(uint32_t count, imagine_buffer **buffers, const char *const *names)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__weights *weights = NULL;
    CHECK_OK(imagine_buffer_save(context, path, count, buffers, names, &err));
    CHECK_OK(imagine__weights_open_file(&weights, context, path, &err));
    for (uint32_t i = 0; i < count; i++)
        imagine_buffer_release(&buffers[i]);
    return weights;
}

/* y = x W^T + bias of a loaded weight against sums in double; the numbers are such that sums are exact. */
static void check_linear(const imagine__linear_weight *w, const float *values, const float *bias)
{
    imagine__work work;
    imagine_error err = IMAGINE_ERROR_INIT;
    REQUIRE_OK(imagine__work_init(&work, context, NULL, &err));
    float *x = imagine__arena_floats(work.arena, 2 * w->k), *y = imagine__arena_floats(work.arena, 2 * w->n);
    REQUIRE(x && y);
    for (int64_t i = 0; i < 2 * w->k; i++)
        x[i] = draw();
    imagine__linear_args args = { .w = w, .x = x, .y = y, .m = 2, .ldx = w->k, .ldy = w->n };
    work.run.kernels->linear(&work.run, &args);
    int wrong = 0;
    for (int64_t m = 0; m < 2; m++)
        for (int64_t n = 0; n < w->n; n++) {
            double sum = bias ? bias[n] : 0;
            for (int64_t k = 0; k < w->k; k++)
                sum += (double)x[m * w->k + k] * values[n * w->k + k];
            wrong += fabs(sum - y[m * w->n + n]) > 1e-3;
        }
    CHECK(!wrong);
    imagine__work_fini(&work);
}

static void linear(void)
{
    static const imagine_dtype types[] = { IMAGINE_F32, IMAGINE_BF16, IMAGINE_F16, IMAGINE_F64 };
    static const int64_t shapes[][2] = {
        { 7, 5 }, { 2100, 700 }, { 1, 1 }, { 33, 64 }
    }; /* the second is read in blocks */
    static const char *const names[] = { "p.3.weight", "p.3.bias" };
    for (size_t t = 0; t < 4; t++)
        for (size_t i = 0; i < 4; i++) {
            imagine_error err = IMAGINE_ERROR_INIT;
            size_t count = (size_t)(shapes[i][0] * shapes[i][1]);
            float *values = malloc(count * 4), *bias = malloc((size_t)shapes[i][0] * 4);
            imagine_buffer *b[2] = { tensor(types[t], 2, shapes[i], values), tensor(types[3 - t], 1, shapes[i], bias) };
            imagine__weights *weights = store(2, b, names);
            imagine__loaded loaded;
            imagine__linear_weight w;
            imagine__loaded_init(&loaded, context, weights);
            CHECK_OK(imagine__load_linear(&loaded, &w, shapes[i][0], shapes[i][1], 1, &err, "p.%d", 3));
            CHECK(w.type == (types[t] == IMAGINE_BF16 ? IMAGINE__W_BF16 : IMAGINE__W_F32) && w.bias);
            check_linear(&w, values, bias);
            CHECK_OK(imagine__load_linear(&loaded, &w, shapes[i][0], shapes[i][1], 0, &err, "p.%d", 3));
            CHECK(!w.bias);
            CHECK_OK(imagine__load_no_others(&loaded, NULL, &err));
            imagine__loaded_free(&loaded);
            imagine__weights_close(weights);
            free(values);
            free(bias);
        }
}

/* Three matrices below each other, of odd heights and of one or of mixed types. */
static void stack(void)
{
    static const int64_t rows[3] = { 13, 1, 30 };
    static const char *const names[] = { "q.weight", "k.weight", "v.weight", "q.bias", "k.bias", "v.bias" },
                             *const stems[] = { "q", "k", "v" };
    static const imagine_dtype mixes[][3] = { { IMAGINE_F32, IMAGINE_F32, IMAGINE_F32 },
                                              { IMAGINE_BF16, IMAGINE_BF16, IMAGINE_BF16 },
                                              { IMAGINE_BF16, IMAGINE_F32, IMAGINE_F16 },
                                              { IMAGINE_F32, IMAGINE_BF16, IMAGINE_BF16 } };
    for (size_t t = 0; t < 4; t++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        float values[44 * 9], bias[44];
        imagine_buffer *b[6];
        int64_t at = 0;
        for (int i = 0; i < 3; at += rows[i++]) {
            int64_t shape[3] = { rows[i], 3, 3 };
            b[i] = tensor(mixes[t][i], 3, shape, values + at * 9);
            b[3 + i] = tensor(IMAGINE_F32, 1, &rows[i], bias + at);
        }
        imagine__weights *weights = store(6, b, names);
        imagine__loaded loaded;
        imagine__linear_weight w;
        imagine__loaded_init(&loaded, context, weights);
        CHECK_OK(imagine__load_linear_stack(&loaded, &w, 3, stems, rows, 9, 1, &err));
        CHECK(w.n == 44 && w.type == (t == 1 ? IMAGINE__W_BF16 : IMAGINE__W_F32));
        check_linear(&w, values, bias);
        imagine__loaded_free(&loaded);
        imagine__weights_close(weights);
    }
}

/* Products over nothing are no products: what a file has of size 0 is no weight, even where its shape is the one asked for. */
static void empty(void)
{
    static const char *const names[] = { "c.weight", "c.bias", "l.weight", "l.bias" };
    static const int64_t shapes[4][5] = { { 3, 0, 1, 2, 2 }, { 3 }, { 4, 0 }, { 4 } };
    static const int32_t ndim[4] = { 5, 1, 2, 1 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *b[4];
    float values[4];
    for (int i = 0; i < 4; i++)
        b[i] = tensor(IMAGINE_F32, ndim[i], shapes[i], values);
    imagine__weights *weights = store(4, b, names);
    imagine__loaded loaded;
    imagine__conv_weight c;
    imagine__linear_weight w;
    imagine__loaded_init(&loaded, context, weights);
    CHECK_STATUS(imagine__load_conv(&loaded, &c, 3, 0, 1, 2, 2, &err, "c"), IMAGINE_ERROR_MODEL);
    CHECK(strstr(err.message, "\"c.weight\" is [3, 0, 1, 2, 2], and weights must not be empty"));
    CHECK_STATUS(imagine__load_linear(&loaded, &w, 4, 0, 1, &err, "l"), IMAGINE_ERROR_MODEL);
    CHECK(strstr(err.message, "\"l.weight\" is [4, 0], and weights must not be empty"));
    imagine__loaded_free(&loaded);
    imagine__weights_close(weights);
}

static void others(void)
{
    static const char *const names[] = { "c.weight", "c.bias", "flat.weight", "flat.bias", "table", "ints" };
    imagine_error err = IMAGINE_ERROR_INIT;
    float values[4][300];
    int64_t conv[5] = { 3, 2, 1, 3, 2 }, flat[4] = { 3, 2, 3, 2 }, three = 3, table[2] = { 20, 15 };
    imagine_buffer *b[6] = { tensor(IMAGINE_F16, 5, conv, values[0]),  tensor(IMAGINE_F32, 1, &three, values[1]),
                             tensor(IMAGINE_BF16, 4, flat, values[0]), tensor(IMAGINE_F32, 1, &three, values[1]),
                             tensor(IMAGINE_F64, 2, table, values[2]), NULL };
    CHECK_OK(imagine_buffer_create(&b[5], context, IMAGINE_I32, 1, &three, &err));
    imagine__weights *weights = store(6, b, names);
    imagine__loaded loaded;
    imagine__conv_weight c;
    imagine__linear_weight w;
    const float *floats = NULL;
    const void *rows = NULL;
    imagine__wtype type = 9;
    imagine__loaded_init(&loaded, context, weights);
    CHECK_OK(imagine__load_conv(&loaded, &c, 3, 2, 1, 3, 2, &err, "c"));
    CHECK(c.type == IMAGINE__W_F32 && c.cout == 3 && c.kw == 2 && c.bias);
    CHECK_OK(imagine__load_conv(&loaded, &c, 3, 2, 1, 3, 2, &err, "%s", "flat"));
    CHECK(c.type == IMAGINE__W_BF16 && !memcmp(c.bias, values[1], 12));
    CHECK_OK(imagine__load_table(&loaded, &rows, &type, 20, 15, &err, "table"));
    CHECK(type == IMAGINE__W_F32 && rows && !memcmp(rows, values[2], 300 * 4));
    CHECK_OK(imagine__load_floats(&loaded, &floats, 300, &err, "tab%s", "le"));
    CHECK(floats && !memcmp(floats, values[2], 300 * 4));
    size_t before = loaded.count;
    CHECK_STATUS(imagine__load_floats(&loaded, &floats, 299, &err, "table"), IMAGINE_ERROR_MODEL);
    CHECK(strstr(err.message, "\"table\" is [20, 15], the configuration wants [299]") != NULL);
    CHECK_STATUS(imagine__load_floats(&loaded, &floats, 3, &err, "nobody"), IMAGINE_ERROR_MODEL);
    CHECK(strstr(err.message, "\"nobody\" is missing") != NULL);
    CHECK_STATUS(imagine__load_floats(&loaded, &floats, 3, &err, "ints"), IMAGINE_ERROR_UNSUPPORTED);
    CHECK_STATUS(imagine__load_table(&loaded, &rows, &type, 15, 20, &err, "table"), IMAGINE_ERROR_MODEL);
    CHECK_STATUS(imagine__load_conv(&loaded, &c, 3, 2, 3, 1, 2, &err, "c"), IMAGINE_ERROR_MODEL);
    CHECK_STATUS(imagine__load_conv(&loaded, &c, 3, 2, 3, 3, 2, &err, "flat"), IMAGINE_ERROR_MODEL);
    CHECK_STATUS(imagine__load_linear(&loaded, &w, 4, 12, 0, &err, "c"), IMAGINE_ERROR_MODEL);
    CHECK_STATUS(imagine__load_linear(&loaded, &w, 3, 11, 0, &err, "c"), IMAGINE_ERROR_MODEL);
    CHECK(loaded.count == before);
    CHECK_STATUS(imagine__load_no_others(&loaded, NULL, &err),
                 IMAGINE_OK); /* a refused tensor was asked for all the same */
    imagine__loaded_free(&loaded);
    imagine__loaded_init(&loaded, context, weights);
    CHECK_OK(imagine__load_linear(&loaded, &w, 3, 12, 0, &err, "c"));
    CHECK_STATUS(imagine__load_no_others(&loaded, NULL, &err), IMAGINE_ERROR_MODEL);
    static const char *const ignored[] = { "c.", "flat", "ta", "ints", NULL };
    CHECK_OK(imagine__load_no_others(&loaded, ignored, &err));
    imagine_cancel *cancel;
    REQUIRE_OK(imagine_cancel_create(&cancel, context, &err));
    imagine_cancel_fire(cancel);
    loaded.cancel = cancel;
    CHECK_STATUS(imagine__load_linear(&loaded, &w, 3, 12, 0, &err, "c"), IMAGINE_ERROR_CANCELLED);
    imagine_cancel_release(&cancel);
    imagine__loaded_free(&loaded);
    imagine__loaded_free(&loaded);
    imagine__weights_close(weights);
}

/* A large convolution is packed in blocks: as the kernels pack it at once, and without being held twice. */
static void convolution_in_blocks(void)
{
    static const char *const names[] = { "c.weight", "c.bias" };
    static const imagine_cpu_level levels[] = { IMAGINE_CPU_PLAIN, IMAGINE_CPU_AVX2, IMAGINE_CPU_BEST };
    enum { OUT = 3 * 608 + 5, IN = 64 }; /* blocks of 607 or 608, and five that by themselves would be packed in another way */
    int64_t shape[5] = { OUT, IN, 3, 3, 3 }, out = OUT;
    float *values = malloc(sizeof(float) * OUT * IN * 27), bias[OUT];
    REQUIRE(values);
    imagine_buffer *b[2] = { tensor(IMAGINE_F32, 5, shape, values), tensor(IMAGINE_F32, 1, &out, bias) };
    imagine__weights *weights = store(2, b, names);
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine_context_options o;
        imagine_context *own;
        imagine_context_info info = { .struct_size = sizeof info };
        imagine__loaded loaded;
        imagine__conv_weight c = { 0 };
        imagine_context_options_init(&o, sizeof o);
        o.threads = 1;
        o.cpu_level = levels[i];
        REQUIRE_OK(imagine_context_create(&own, &o, &err));
        const imagine__kernels *kernels = imagine__context_kernels(own);
        size_t size = kernels->conv_packed_size(OUT, IN, 3, 3, 3, IMAGINE__W_F32);
        void *expected = malloc(size);
        REQUIRE(expected);
        kernels->pack_conv(expected, values, OUT, IN, 3, 3, 3, IMAGINE__W_F32);
        imagine__loaded_init(&loaded, own, weights);
        CHECK_OK(imagine__load_conv(&loaded, &c, OUT, IN, 3, 3, 3, &err, "c"));
        CHECK(c.packed && !memcmp(c.packed, expected, size));
        imagine_context_get_info(own, &info, NULL);
        CHECK(info.memory_peak < size + size / 2 + (1 << 20));
        imagine__loaded_free(&loaded);
        imagine_context_release(&own);
        free(expected);
    }
    imagine__weights_close(weights);
    free(values);
}

/* ---- cancelled while one tensor is read ------------------------------------------------------------- */

/* An allocator that fires the token once the memory for a large tensor is given out: the next look at the token is while the
 * tensor is read. `mark` stands near the end of that memory until something is read there. */
typedef struct watch {
    imagine_cancel *cancel;
    char *block, *mark;
    int unread;
} watch;
#define LARGE ((size_t)32 << 20)
#define MARK  0x5A

static void *watch_allocate(void *data, size_t size, size_t alignment)
{
    watch *w = data;
    char *block = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    if (block && size >= LARGE && !w->block) {
        w->block = block;
        w->mark = block + size - 4096;
        *w->mark = MARK;
        imagine_cancel_fire(w->cancel);
    }
    return block;
}

static void watch_release(void *data, void *block, size_t size)
{
    watch *w = data;
    (void)size;
    if (block == w->block)
        w->unread = *w->mark == MARK;
    free(block);
}

/* A table of zeros [rows, 1024] that takes no room on the disk. */
static int write_table(const char *dtype, int64_t rows)
{
    char header[136];
    uint64_t size = sizeof header - 8;
    memset(header, ' ', sizeof header);
    memcpy(header, &size, 8);
    int length = snprintf(header + 8, sizeof header - 8,
                          "{\"table\":{\"dtype\":\"%s\",\"shape\":[%lld,1024],\"data_offsets\":[0,%lld]}}", dtype,
                          (long long)rows, (long long)rows * 2048);
    header[8 + length] = ' ';
    FILE *file = fopen(path, "wb");
    return file && fwrite(header, sizeof header, 1, file) == 1 && !fclose(file) &&
           !truncate(path, (off_t)sizeof header + rows * 2048);
}

/* A vocabulary's table, which is one tensor, as it is stored and converted: the token is heard before it has been read. */
static void cancelled_within_a_tensor(void)
{
    static const char *const types[] = { "BF16", "F16" };
    const int64_t rows = 1 << 15; /* 64 MiB */
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        watch w = { .unread = -1 };
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine_context_options o;
        imagine_context *own;
        imagine__weights *weights;
        imagine__loaded loaded;
        imagine__wtype type;
        const void *table = NULL;
        imagine_context_options_init(&o, sizeof o);
        o.threads = 1;
        o.allocate = watch_allocate;
        o.release = watch_release;
        o.allocator_data = &w;
        REQUIRE(write_table(types[i], rows));
        REQUIRE_OK(imagine_context_create(&own, &o, &err));
        REQUIRE_OK(imagine_cancel_create(&w.cancel, own, &err));
        REQUIRE_OK(imagine__weights_open_file(&weights, own, path, &err));
        imagine__loaded_init(&loaded, own, weights);
        loaded.cancel = w.cancel;
        CHECK_STATUS(imagine__load_table(&loaded, &table, &type, rows, 1024, &err, "table"), IMAGINE_ERROR_CANCELLED);
        CHECK(w.block && !table);
        imagine__loaded_free(&loaded);
        CHECK(w.unread == 1);
        imagine__weights_close(weights);
        imagine_cancel_release(&w.cancel);
        imagine_context_release(&own);
    }
}

/* Every half-precision number, against the format's definition. */
static void halves(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    int64_t count = 65536;
    imagine_buffer *b;
    static const char *const names[] = { "h" };
    const float *got = NULL;
    imagine__loaded loaded;
    REQUIRE_OK(imagine_buffer_create(&b, context, IMAGINE_F16, 1, &count, &err));
    for (int i = 0; i < count; i++)
        ((uint16_t *)imagine_buffer_data(b))[i] = (uint16_t)i;
    imagine__weights *weights = store(1, &b, names);
    imagine__loaded_init(&loaded, context, weights);
    REQUIRE_OK(imagine__load_floats(&loaded, &got, count, &err, "h"));
    int wrong = 0;
    for (int i = 0; i < count; i++) {
        int exponent = i >> 10 & 31, fraction = i & 1023;
        double value = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        value = exponent < 31 ? value : fraction ? NAN : INFINITY;
        if (i >> 15)
            value = -value;
        wrong += isnan(value) ? !isnan(got[i]) : got[i] != (float)value || !!signbit(got[i]) != (i >> 15);
    }
    CHECK(!wrong);
    imagine__loaded_free(&loaded);
    imagine__weights_close(weights);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "config_values", config_values },
        { "config_of_keys", config_of_keys },
        { "config_of_long_keys", config_of_long_keys },
        { "config_expectations", config_expectations },
        { "config_refused", config_refused },
        { "config_of_characters", config_of_characters },
        { "linear", linear },
        { "stack", stack },
        { "others", others },
        { "empty", empty },
        { "convolution in blocks", convolution_in_blocks },
        { "cancelled_within_a_tensor", cancelled_within_a_tensor },
        { "halves", halves },
    };
    imagine_context_options options;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 2;
    int fd = mkstemp(path);
    if (fd < 0 || close(fd) || imagine_context_create(&context, &options, NULL) < 0)
        return 1;
    imagine_context_info info = { .struct_size = sizeof info };
    imagine_context_get_info(context, &info, NULL);
    uint64_t empty = info.memory_used;
    int result = test_main("model/load", cases, sizeof cases / sizeof *cases, argc, argv);
    imagine_context_get_info(context, &info, NULL);
    if (info.memory_used != empty) {
        fprintf(stderr, "%lld bytes were left behind\n", (long long)(info.memory_used - empty));
        result = 1;
    }
    unlink(path);
    imagine_context_release(&context);
    return result;
}
