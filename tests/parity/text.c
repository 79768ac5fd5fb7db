/* SPDX-License-Identifier: MIT */

/* The tokenizer against the tokenizers library, prompt cleaning against Python, the encoder against transformers
 * (make_text.py); and files that are damaged, memory that runs out, long texts. IMAGINE_TEST_TEXT_PACK names a
 * further pack, IMAGINE_TEST_TEXT_GOLDEN what `make_text.py pack` made of it. */

#include <limits.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/parity/tensors.h"
#include "text/pieces.h"
#include "text/umt5.h"

#define LIMIT 1e-10

static const char *const tokenizers[] = { "t5", "identity", "llama", "first", "raw", "words" };
#define TOKENIZERS (sizeof tokenizers / sizeof *tokenizers)

static const char *golden(const char *name, const char *end)
{
    char path[128];
    snprintf(path, sizeof path, "parity/text/%s%s", name, end);
    return test_path(path);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* A file's bytes and a zero, malloc'ed. */
static char *slurp(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    char *bytes = NULL;
    *size = 0;
    if (file && fseek(file, 0, SEEK_END) == 0) {
        *size = (size_t)ftell(file);
        bytes = malloc(*size + 1);
        rewind(file);
        if (bytes && fread(bytes, 1, *size, file) != *size)
            *size = 0;
        if (bytes)
            bytes[*size] = 0;
    }
    if (file)
        fclose(file);
    if (!bytes)
        test_fail(__FILE__, __LINE__, path);
    return bytes;
}

/* Records of a u16 count and that many bytes or u16 numbers. */
typedef struct records {
    char *bytes;
    size_t size, at;
} records;

static const char *next_record(records *r, size_t width, size_t *count)
{
    uint16_t n;
    if (!r->bytes || r->size - r->at < 2)
        return NULL;
    memcpy(&n, r->bytes + r->at, 2);
    if ((r->size - r->at - 2) / width < n)
        return NULL;
    const char *data = r->bytes + r->at + 2;
    r->at += 2 + n * width;
    *count = n;
    return data;
}

static imagine_context *new_context(void)
{
    imagine_context *context = NULL;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options options;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    CHECK_OK(imagine_context_create(&context, &options, &err));
    return context;
}

/* ---- token ids --------------------------------------------------------------------------------------------------- */

static int same_ids(const int32_t *ids, int32_t count, const char *expected, size_t expected_count)
{
    for (size_t i = 0; i < expected_count && (size_t)count == expected_count; i++) {
        uint16_t id;
        memcpy(&id, expected + 2 * i, 2);
        if (ids[i] != id)
            return 0;
    }
    return (size_t)count == expected_count;
}

static void compare_ids(const char *tokenizer_path, const char *ids_path)
{
    imagine_context *context = new_context();
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__tokenizer *t = NULL;
    records strings = { 0 }, rows = { 0 };
    int number = 0, different = 0;
    strings.bytes = slurp(golden("strings", ".bin"), &strings.size);
    rows.bytes = slurp(ids_path, &rows.size);
    CHECK_OK(imagine__tokenizer_open(&t, context, tokenizer_path, NULL, &err));
    size_t size, count;
    const char *text, *expected;
    while (t && (text = next_record(&strings, 1, &size)) && (expected = next_record(&rows, 2, &count))) {
        int32_t *ids, found;
        CHECK_OK(imagine__tokenize(t, text, size, 0, NULL, &ids, &found, &err));
        if (!same_ids(ids, found, expected, count) && different++ < 5)
            fprintf(stderr, "    %s: string %d: \"%.*s\"\n", tokenizer_path, number, (int)size, text);
        imagine__free(context, ids);
        number++;
    }
    CHECK(number == 2000 && strings.at == strings.size && rows.at == rows.size);
    CHECK(different == 0);
    printf("    %s: %d strings, %d differ\n", strrchr(tokenizer_path, '/') + 1, number, different);
    imagine__tokenizer_close(t);
    imagine_context_release(&context);
    free(strings.bytes);
    free(rows.bytes);
}

static void test_ids(void)
{
    for (size_t i = 0; i < TOKENIZERS; i++)
        compare_ids(golden(tokenizers[i], ".json"), golden(tokenizers[i], ".ids"));
}

static void test_cut(void)
{
    imagine_context *context = new_context();
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__tokenizer *t = NULL;
    int32_t *whole = NULL, *cut = NULL, all = 0, count = 0;
    const char text[] = "the dog runs on a blue background";
    REQUIRE_OK(imagine__tokenizer_open(&t, context, golden("t5", ".json"), NULL, &err));
    CHECK(imagine__tokenizer_size(t) == 1310);
    REQUIRE_OK(imagine__tokenize(t, text, strlen(text), 0, NULL, &whole, &all, &err));
    REQUIRE(all > 3 && whole[all - 1] == 1);
    for (int32_t n = 1; n <= all + 2; n++) {
        REQUIRE_OK(imagine__tokenize(t, text, strlen(text), n, NULL, &cut, &count, &err));
        CHECK(count == (n < all ? n : all) && cut[count - 1] == 1);
        CHECK(memcmp(cut, whole, (size_t)(count - 1) * sizeof *cut) == 0);
        imagine__free(context, cut);
    }
    CHECK_STATUS(imagine__tokenize(t, text, 5, -1, NULL, &cut, &count, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine__tokenize(t, "a\xC3(", 3, 0, NULL, &cut, &count, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine__tokenize(t, "a\xED\xA0\x80", 4, 0, NULL, &cut, &count, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "byte 1") != NULL);
    imagine__free(context, whole);
    imagine__tokenizer_close(t);
    imagine_context_release(&context);
}

static const char *scratch_file(const char *bytes, size_t size);

/* A tokenizer with these added tokens, pieces of one character, and the parts that `rest` gives. */
static imagine__tokenizer *small_tokenizer(imagine_context *context, const char *added, const char *rest)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__tokenizer *t = NULL;
    size_t room = strlen(added) + strlen(rest) + 300;
    char *text = malloc(room);
    if (!text)
        return NULL;
    int size = snprintf(text, room, "{\"version\":\"1.0\",\"added_tokens\":[%s],%s\"model\":{\"type\":\"Unigram\",\"unk_id\":0,"
                        "\"vocab\":[[\"<unk>\",0],[\"a\",-2],[\"b\",-2],[\"\\n\",-3],[\" \",-3],[\"e\",-2],"
                        "[\"\\u2581\",-2]]}}", added, rest);
    CHECK_OK(imagine__tokenizer_open(&t, context, scratch_file(text, (size_t)size), NULL, &err));
    free(text);
    return t;
}

#define ADDED(id, text, left, right, normalized)                                                                     \
    "{\"id\":" id ",\"content\":\"" text "\",\"single_word\":false,\"lstrip\":" left ",\"rstrip\":" right            \
    ",\"normalized\":" normalized ",\"special\":true}"
#define LINE(left, right, normalized) ADDED("3", "\\n", left, right, normalized)

static void check_ids(const imagine__tokenizer *t, const char *text, const char *expected)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    int32_t *ids = NULL, count = 0;
    char found[64] = "";
    REQUIRE_OK(imagine__tokenize(t, text, strlen(text), 0, NULL, &ids, &count, &err));
    for (int32_t i = 0; i < count && i < 20; i++)
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s%d", i ? " " : "", ids[i]);
    CHECK(!strcmp(found, expected));
    if (strcmp(found, expected))
        fprintf(stderr, "    \"%s\" is %s, expected %s\n", text, found, expected);
    imagine__free(t->context, ids);
}

/* Added tokens in white space that another one has taken; ids as tokenizers has them. */
static void test_stripped(void)
{
    static const struct {
        const char *added, *text, *ids;
    } cases[] = {
        { LINE("true", "true", "false"), "a\n\nb", "1 3 2" },
        { LINE("true", "true", "false"), "a\n \n\nb", "1 3 2" },
        { LINE("true", "true", "false"), "\n\n", "3" },
        { LINE("true", "true", "false"), "a\n b\n\n", "1 3 2 3" },
        { LINE("true", "true", "true"), "a\n \n\nb", "1 3 2" },
        { LINE("true", "true", "false") "," ADDED("7", "<s>", "false", "true", "false"), "a<s>\n b", "1 7 2" },
        { LINE("true", "true", "false") "," ADDED("7", "<s>", "false", "true", "false"), "a<s> b\nb", "1 7 2 3 2" },
        { LINE("true", "false", "false") "," ADDED("7", "<s>", "false", "true", "false"), "a<s>\nb", "1 7 2" },
        { LINE("false", "true", "false"), "a\n\nb", "1 3 3 2" },
    };
    imagine_context *context = new_context();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        imagine__tokenizer *t = small_tokenizer(context, cases[i].added, "");
        REQUIRE(t);
        check_ids(t, cases[i].text, cases[i].ids);
        imagine__tokenizer_close(t);
    }
    imagine_context_release(&context);
}

/* What the charsmap removes behind other output is part of the text's beginning, which Metaspace's "first" asks for; ids as
 * tokenizers has them. */
static void test_removed(void)
{
    static const char parts[] = "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\" \"},"
                                "{\"type\":\"Precompiled\",%.*s},{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}]},"
                                "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\",\"prepend_scheme\":\"first\","
                                "\"split\":true},";
    imagine_context *context = new_context();
    size_t size;
    char *text = slurp(golden("t5", ".json"), &size), *map = text ? strstr(text, "\"precompiled_charsmap\"") : NULL;
    REQUIRE(map);
    int length = (int)(strchr(map, '}') - map);
    char *rest = malloc(size + sizeof parts);
    REQUIRE(rest);
    snprintf(rest, size + sizeof parts, parts, length, map);
    imagine__tokenizer *t = small_tokenizer(context, "", rest);
    REQUIRE(t);
    check_ids(t, "e", "6 5");
    check_ids(t, "\xC2\xAD" "e", "5");
    check_ids(t, "\xC2\xAD\xC2\xAD" "e", "5");
    check_ids(t, "\xC2\xAD" "e\xC2\xAD" "e", "5 5");
    imagine__tokenizer_close(t);
    free(rest);
    free(text);
    imagine_context_release(&context);
}

/* A token that takes the white space behind it, 100,000 times in a row. */
static void test_long_space(void)
{
    const size_t size = 100000;
    imagine_context *context = new_context();
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__tokenizer *t = small_tokenizer(context, LINE("false", "true", "false"), "");
    char *text = malloc(size);
    int32_t *ids = NULL, count = 0;
    REQUIRE(t && text);
    memset(text, '\n', size);
    double start = seconds();
    CHECK_OK(imagine__tokenize(t, text, size, 0, NULL, &ids, &count, &err));
    double taken = seconds() - start;
    printf("    %zu tokens in white space took %.1f ms\n", size, taken * 1e3);
    CHECK(count == (int32_t)size && ids[0] == 3 && ids[size - 1] == 3);
    CHECK(taken < 2.0); /* a scan for each of them would take some 10 s */
    imagine__free(context, ids);
    free(text);
    imagine__tokenizer_close(t);
    imagine_context_release(&context);
}

/* 100 kB of what could be slow, on every tokenizer. */
static void test_long(void)
{
    static const char *const units[] = {
        "a", " ", "\xCC\x81", "\xE2\x96\x81", "a red apple ", "<extra_id_", "\xF0\x9F\x91\xA9\xE2\x80\x8D",
        "\xF0\x9F\x87\xAB", "\t\n", "\xE0\xA4\x95\xE0\xA5\x8D", "</s> ", "\xEF\xAC\x83",
    };
    const size_t size = 100000;
    imagine_context *context = new_context();
    imagine_error err = IMAGINE_ERROR_INIT;
    char *text = malloc(size + 1);
    double worst = 0;
    REQUIRE(text);
    for (size_t i = 0; i < TOKENIZERS; i++) {
        imagine__tokenizer *t = NULL;
        REQUIRE_OK(imagine__tokenizer_open(&t, context, golden(tokenizers[i], ".json"), NULL, &err));
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            size_t n = strlen(units[u]), used = size / n * n;
            int32_t *ids = NULL, count = 0;
            for (size_t at = 0; at < used; at++)
                text[at] = units[u][at % n];
            double start = seconds();
            CHECK_OK(imagine__tokenize(t, text, used, 0, NULL, &ids, &count, &err));
            double taken = seconds() - start;
            worst = taken > worst ? taken : worst;
            imagine__free(context, ids);
        }
        imagine__tokenizer_close(t);
    }
    printf("    the slowest 100 kB took %.1f ms\n", worst * 1e3);
    CHECK(worst < 2.0); /* a quadratic step would take minutes */
    free(text);
    imagine_context_release(&context);
}

/* ---- prompts ----------------------------------------------------------------------------------------------------- */

static void test_clean(void)
{
    imagine_context *context = new_context();
    imagine_error err = IMAGINE_ERROR_INIT;
    records in = { 0 }, out = { 0 };
    size_t size, expected_size, clean_size;
    const char *text, *expected;
    char *clean;
    int number = 0;
    in.bytes = slurp(golden("clean", ".in"), &in.size);
    out.bytes = slurp(golden("clean", ".out"), &out.size);
    while ((text = next_record(&in, 1, &size)) && (expected = next_record(&out, 1, &expected_size))) {
        char *prompt = strndup(text, size);
        REQUIRE(prompt);
        REQUIRE_OK(imagine__clean_prompt(context, prompt, NULL, &clean, &clean_size, &err));
        if (clean_size != expected_size || memcmp(clean, expected, clean_size) != 0 || clean[clean_size] != 0) {
            test_fail(__FILE__, __LINE__, "a prompt as Python cleans it");
            fprintf(stderr, "    \"%.200s\"\n    \"%.200s\"\n    \"%.*s\"\n", prompt, clean, (int)expected_size,
                    expected);
        }
        imagine__free(context, clean);
        free(prompt);
        number++;
    }
    CHECK(number > 800 && in.at == in.size && out.at == out.size);
    CHECK_STATUS(imagine__clean_prompt(context, "a\xFF", NULL, &clean, &clean_size, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    free(in.bytes);
    free(out.bytes);
    imagine_context_release(&context);
}

/* ---- damaged files ----------------------------------------------------------------------------------------------- */

static char scratch_path[64];

static const char *scratch_file(const char *bytes, size_t size)
{
    if (!scratch_path[0]) {
        snprintf(scratch_path, sizeof scratch_path, "/tmp/imagine-text-XXXXXX");
        int file = mkstemp(scratch_path);
        if (file >= 0)
            close(file);
    }
    FILE *file = fopen(scratch_path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size)
        test_fail(__FILE__, __LINE__, "a temporary file");
    if (file)
        fclose(file);
    return scratch_path;
}

static uint32_t random_state = 1;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(random_state >> 8) * n >> 24);
}

/* A copy with the first `from` at or after `begin` made `to`; NULL: there is none. */
static char *replaced(const char *text, size_t begin, const char *from, const char *to)
{
    const char *at = strstr(text + begin, from);
    if (!at)
        return NULL;
    size_t front = (size_t)(at - text), size = strlen(text) + strlen(to) + 1;
    char *copy = malloc(size);
    if (copy)
        snprintf(copy, size, "%.*s%s%s", (int)front, text, to, at + strlen(from));
    return copy;
}

/* Opens the file, and if that works runs a few strings through it: whatever happens, no crash and no silent failure. */
static void use_file(imagine_context *context, const char *bytes, size_t size, int *opened)
{
    static const char *const texts[] = {
        "", " a  red apple\xCC\x81 ", "\xEF\xAC\x81\xCC\x81 <extra_id_3> </s> \xF0\x9F\x91\xA9",
        "\xE2\x96\x81\xE2\x96\x81x new word \x01\xC3\xA9",
    };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__tokenizer *t = NULL;
    if (imagine__tokenizer_open(&t, context, scratch_file(bytes, size), NULL, &err) < 0) {
        CHECK(t == NULL && err.status < 0 && strstr(err.message, "imagine-text-") != NULL);
        return;
    }
    ++*opened;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int32_t *ids = NULL, count = 0;
        imagine_status status = imagine__tokenize(t, texts[i], strlen(texts[i]), 0, NULL, &ids, &count, &err);
        CHECK(status == IMAGINE_OK ? ids != NULL : err.message[0] != 0);
        for (int32_t k = 0; k < count; k++)
            CHECK(ids[k] >= 0 && ids[k] < imagine__tokenizer_size(t));
        imagine__free(context, ids);
    }
    imagine__tokenizer_close(t);
}

/* One mutation: a byte, a cut, a stretch repeated or left out, or a token of JSON swapped for another. */
static char *mutate(const char *text, size_t size, size_t *new_size)
{
    static const char *const tokens[] = {
        "true", "false", "null", "\"id\"", "\"type\"", "{", "}", "[", "]", ",", ":", "0", "-1",
        "99999999999", "1e999", "\"\"", "\"\xE2\x96\x81\"", "\"\\u0000\"", "\"ids\"", "\"A\"",
    };
    const uint32_t kinds = sizeof tokens / sizeof *tokens;
    for (;;) {
        /* Half of them where the settings stand, which are few bytes beside the vocabulary. */
        size_t at = random_below(2) ? random_below((uint32_t)size) : random_below(2500);
        char *copy = malloc(size + 1000);
        if (!copy)
            return NULL;
        memcpy(copy, text, size + 1);
        *new_size = size;
        switch (random_below(5)) {
        case 0: copy[at] = (char)random_below(256); return copy;
        case 1: *new_size = at; return copy;
        case 2: {
            size_t n = 1 + random_below(400), from = random_below((uint32_t)(size - 400));
            n = n < size - at ? n : size - at;
            memmove(copy + at + n, copy + at, size - at);
            memcpy(copy + at, text + from, n);
            *new_size = size + n;
            return copy;
        }
        case 3: {
            size_t n = 1 + random_below(30);
            n = n < size - at ? n : size - at;
            memmove(copy + at, copy + at + n, size - at - n);
            *new_size = size - n;
            return copy;
        }
        default: break;
        }
        free(copy);
        copy = replaced(text, at, tokens[random_below(kinds)], tokens[random_below(kinds)]);
        if (copy) {
            *new_size = strlen(copy);
            return copy;
        }
    }
}

static void test_mutations(void)
{
    imagine_context *context = new_context();
    int opened = 0, number = 0;
    for (size_t i = 0; i < TOKENIZERS; i++) {
        size_t size, new_size;
        char *text = slurp(golden(tokenizers[i], ".json"), &size);
        REQUIRE(text);
        for (int m = 0; m < 100; m++, number++) {
            char *damaged = mutate(text, size, &new_size);
            REQUIRE(damaged);
            use_file(context, damaged, new_size, &opened);
            free(damaged);
        }
        free(text);
    }
    printf("    %d of %d damaged files still open\n", opened, number);
    CHECK(opened > 0 && opened < number);
    imagine_context_info info = { .struct_size = sizeof info };
    imagine_error err = IMAGINE_ERROR_INIT;
    CHECK_OK(imagine_context_get_info(context, &info, &err));
    imagine_context_release(&context);
}

/* What is refused, and the word that the message must hold. */
static void test_refusals(void)
{
    static const struct {
        const char *file, *from, *to, *word;
        imagine_status status;
    } cases[] = {
        { "t5", "\"Unigram\"", "\"BPE\"", "\"model.type\" is BPE", IMAGINE_ERROR_UNSUPPORTED },
        { "t5", "\"Strip\"", "\"NFKC\"", "normalizer \"NFKC\"", IMAGINE_ERROR_UNSUPPORTED },
        { "t5", "\"Metaspace\"", "\"ByteLevel\"", "pre_tokenizer \"ByteLevel\"", IMAGINE_ERROR_UNSUPPORTED },
        { "t5", "\"TemplateProcessing\"", "\"BertProcessing\"", "post_processor \"BertProcessing\"",
          IMAGINE_ERROR_UNSUPPORTED },
        { "t5", " {2,}", "[a-z]+", "\"pattern\" is [a-z]+", IMAGINE_ERROR_UNSUPPORTED },
        { "t5", "\"version\": \"1.0\"", "\"version\": \"2.0\"", "\"version\" is 2.0", IMAGINE_ERROR_UNSUPPORTED },
        { "t5", "\"single_word\": false", "\"single_word\": true", "single_word", IMAGINE_ERROR_UNSUPPORTED },
        { "t5", "\"unk_id\": 2", "\"unk_id\": 1310", "\"unk_id\" is beyond", IMAGINE_ERROR_FORMAT },
        { "t5", "\"unk_id\": 2", "\"unk_id\": -2", "\"unk_id\" is not a token id", IMAGINE_ERROR_FORMAT },
        { "t5", "\"ids\": [1]", "\"ids\": [1310]", "token id 1310", IMAGINE_ERROR_FORMAT },
        { "t5", "\"ids\": [1]", "\"ids\": [\"a\"]", "\"ids\" is not", IMAGINE_ERROR_FORMAT },
        { "t5", "\"precompiled_charsmap\": \"", "\"precompiled_charsmap\": \"*", "not base64", IMAGINE_ERROR_FORMAT },
        { "t5", "\"precompiled_charsmap\": \"", "\"precompiled_charsmap\": \"/////", "charsmap\" ",
          IMAGINE_ERROR_FORMAT },
        { "t5", "\"prepend_scheme\": \"always\"", "\"prepend_scheme\": \"often\"", "\"prepend_scheme\" is often",
          IMAGINE_ERROR_UNSUPPORTED },
        { "raw", "\"never\"", "\"first\"", "contradicts", IMAGINE_ERROR_FORMAT },
        { "t5", "\"vocab\": [", "\"vocab\": [[\"a\"],", "\"vocab\"", IMAGINE_ERROR_FORMAT },
        { "t5", "\"vocab\": [", "\"vocab\": [[\"a\", \"b\"],", "\"vocab\"", IMAGINE_ERROR_FORMAT },
        { "t5", "\"vocab\": [", "\"vocab\": [[\"a\", 1e400],", "\"vocab\"", IMAGINE_ERROR_FORMAT },
        { "t5", "\"vocab\": [", "\"vocab\": 7, \"x\": [", "\"vocab\" is not an array", IMAGINE_ERROR_FORMAT },
        { "t5", "\"model\"", "\"mode\"", "\"model\" is missing", IMAGINE_ERROR_FORMAT },
        { "t5", "\"id\": \"A\"", "\"id\": \"B\"", "sequence A", IMAGINE_ERROR_FORMAT },
        { "t5", "{\"version\"", "[\"version\"", "line 1", IMAGINE_ERROR_FORMAT },
        { "t5", "{\"version\"", "\xEF\xBB\xBF{\"version\"", "line 1: it begins with a byte order mark", IMAGINE_ERROR_FORMAT },
    };
    imagine_context *context = new_context();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine__tokenizer *t = NULL;
        size_t size;
        char *text = slurp(golden(cases[i].file, ".json"), &size);
        REQUIRE(text);
        char *changed = replaced(text, 0, cases[i].from, cases[i].to);
        REQUIRE(changed);
        const char *path = scratch_file(changed, strlen(changed));
        CHECK_STATUS(imagine__tokenizer_open(&t, context, path, NULL, &err), cases[i].status);
        if (!strstr(err.message, cases[i].word) || !strstr(err.message, "imagine-text-")) {
            test_fail(__FILE__, __LINE__, cases[i].word);
            fprintf(stderr, "    %s\n", err.message);
        }
        imagine__tokenizer_close(t);
        free(changed);
        free(text);
    }
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__tokenizer *t = NULL;
    CHECK_STATUS(imagine__tokenizer_open(&t, context, "/nowhere/tokenizer.json", NULL, &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK_STATUS(imagine__tokenizer_open(&t, context, "/tmp", NULL, &err), IMAGINE_ERROR_IO);
    imagine_context_release(&context);
}

/* A template is as long as the ids that it may give, also where its pieces have none: each one is looked up in all of
 * "special_tokens". */
static void test_long_template(void)
{
    static const char front[] = "{\"version\":\"1.0\",\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"a\",0]]},"
                                "\"post_processor\":{\"type\":\"TemplateProcessing\",\"special_tokens\":{\"z\":{\"ids\":[]}},"
                                "\"single\":[";
    imagine_context *context = new_context();
    for (int pieces = 1024; pieces <= 1025; pieces++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine__tokenizer *t = NULL;
        size_t room = sizeof front + (size_t)pieces * 40, at = sizeof front - 1;
        char *text = malloc(room);
        REQUIRE(text);
        memcpy(text, front, at);
        for (int i = 1; i < pieces; i++)
            at += (size_t)snprintf(text + at, room - at, "{\"SpecialToken\":{\"id\":\"z\"}},");
        at += (size_t)snprintf(text + at, room - at, "{\"Sequence\":{\"id\":\"A\"}}]}}");
        CHECK_STATUS(imagine__tokenizer_open(&t, context, scratch_file(text, at), NULL, &err),
                     pieces > 1024 ? IMAGINE_ERROR_FORMAT : IMAGINE_OK);
        CHECK(!t == (pieces > 1024) && (t || strstr(err.message, "\"single\" has more than 1024 members")));
        imagine__tokenizer_close(t);
        free(text);
    }
    imagine_context_release(&context);
}

/* A file whose only further piece (added 0), added token (1), or added token once it is normalised (2) has `length` bytes. */
static char *long_piece(int added, int length, size_t *size)
{
    size_t room = (size_t)length + 600;
    char *text = malloc(room), *long_one = malloc((size_t)length + 1);
    if (text && long_one) {
        memset(long_one, 'a', (size_t)length);
        long_one[length] = 0;
        *size = (size_t)snprintf(text, room, "{\"version\":\"1.0\",\"added_tokens\":[%s%s%s],\"normalizer\":{\"type\":\"Replace\","
                                 "\"pattern\":{\"String\":\"b\"},\"content\":\"%s\"},\"model\":{\"type\":\"Unigram\",\"unk_id\":0,"
                                 "\"vocab\":[[\"<unk>\",0]%s%s%s]}}",
                                 added ? "{\"id\":1,\"content\":\"" : "", added == 1 ? long_one : added ? "b" : "",
                                 added ? "\",\"normalized\":true}" : "", added == 2 ? long_one : "x", added ? "" : ",[\"",
                                 added ? "" : long_one, added ? "" : "\",-1]");
    }
    free(long_one);
    return text;
}

/* At every place of a text a piece is compared as far as it goes: a long one, and a text of what it begins with, would take as
 * good as for ever. */
static void test_long_pieces(void)
{
    static const char *const says[] = { "\"vocab\" has a member, number 1, of more than 4096 bytes",
                                        "\"added_tokens\" has a member, number 0, of more than 4096 bytes",
                                        "added token 0 has more than 4096 bytes once it is normalised" };
    imagine_context *context = new_context();
    for (int i = 0; i < 6; i++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine__tokenizer *t = NULL;
        size_t size = 0;
        char *text = long_piece(i / 2, 4096 + i % 2, &size);
        REQUIRE(text);
        imagine_status status = imagine__tokenizer_open(&t, context, scratch_file(text, size), NULL, &err);
        CHECK((status >= 0) == (i % 2 == 0));
        CHECK(i % 2 == 0 || strstr(err.message, says[i / 2]));
        if (status < 0 && (i % 2 == 0 || !strstr(err.message, says[i / 2])))
            fprintf(stderr, "    %s\n", err.message);
        imagine__tokenizer_close(t);
        free(text);
    }
    imagine_context_release(&context);
}

/* An added token without content is none, and leaves the next one's white space alone. */
static void test_empty_added(void)
{
    imagine_context *context = new_context();
    imagine__tokenizer *t = small_tokenizer(context, ADDED("7", "", "true", "true", "false") ",{\"id\":8,\"content\":\"e\","
                                                     "\"normalized\":false}", "");
    REQUIRE(t);
    check_ids(t, "a e a", "1 4 5 4 1");
    imagine__tokenizer_close(t);
    imagine_context_release(&context);
}

/* As many pieces as umT5-XXL has, in a file of its size. */
static void test_many_pieces(void)
{
    const int pieces = 256384;
    imagine_context *context = new_context();
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__tokenizer *t = NULL;
    size_t room = (size_t)pieces * 64 + 1000, at = 0;
    char *text = malloc(room);
    REQUIRE(text);
    at += (size_t)snprintf(text, room, "{\"version\": \"1.0\", \"model\": {\"type\": \"Unigram\", \"unk_id\": 0, "
                                       "\"vocab\": [[\"<unk>\", 0]");
    for (int i = 1; i < pieces; i++)
        at += (size_t)snprintf(text + at, room - at, ",\n      [\n        \"\\u2581%x%s\",\n        -%d.%06d\n      ]",
                               random_below(1u << 24), i % 3 ? "ing" : "\xD0\xB0\xD1\x8F", i % 17, i);
    at += (size_t)snprintf(text + at, room - at, "]}}");
    const char *path = scratch_file(text, at);
    double start = seconds();
    REQUIRE_OK(imagine__tokenizer_open(&t, context, path, NULL, &err));
    double taken = seconds() - start;
    printf("    %.1f MB with %d pieces opened in %.0f ms\n", (double)at / 1e6, imagine__tokenizer_size(t), taken * 1e3);
    CHECK(imagine__tokenizer_size(t) == pieces);
    CHECK(taken < 10); /* sanitizers are slow; a quadratic step would take hours */
    imagine__tokenizer_close(t);
    free(text);
    imagine_context_release(&context);
}

/* ---- cancelling --------------------------------------------------------------------------------------------------- */

/* Reading a tokenizer and cutting a text into tokens end once the token has fired; the tokenizer serves on. */
static void test_cancelled(void)
{
    static const char text[] = "a red apple </s> on a table";
    imagine_context *context = new_context();
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__tokenizer *t = NULL, *none = NULL;
    imagine_cancel *cancel = NULL;
    int32_t *ids = NULL, count = 0;
    REQUIRE_OK(imagine_cancel_create(&cancel, context, &err));
    for (size_t i = 0; i < TOKENIZERS; i++) {
        imagine_cancel_reset(cancel);
        REQUIRE_OK(imagine__tokenizer_open(&t, context, golden(tokenizers[i], ".json"), cancel, &err));
        CHECK_OK(imagine__tokenize(t, text, strlen(text), 0, cancel, &ids, &count, &err));
        imagine__free(context, ids);
        imagine_cancel_fire(cancel);
        CHECK_STATUS(imagine__tokenizer_open(&none, context, golden(tokenizers[i], ".json"), cancel, &err),
                     IMAGINE_ERROR_CANCELLED);
        CHECK_STATUS(imagine__tokenize(t, text, strlen(text), 0, cancel, &ids, &count, &err), IMAGINE_ERROR_CANCELLED);
        CHECK(!none && !ids && !count);
        CHECK_OK(imagine__tokenize(t, text, strlen(text), 0, NULL, &ids, &count, &err));
        imagine__free(context, ids);
        imagine__tokenizer_close(t);
    }
    /* Also in a text of added tokens only, which no normaliser and no model sees. */
    t = small_tokenizer(context, LINE("false", "true", "false"), "");
    REQUIRE(t);
    ids = NULL;
    CHECK_STATUS(imagine__tokenize(t, "\n\n", 2, 0, cancel, &ids, &count, &err), IMAGINE_ERROR_CANCELLED);
    CHECK(!ids);
    imagine__free(context, ids);
    imagine__tokenizer_close(t);
    imagine_cancel_release(&cancel);
    imagine_context_release(&context);
}

/* The text stage hands its token on: its tokenizer, which is read before the weights, is not read to the end. */
static void test_stage_cancelled(void)
{
    imagine_context *context = new_context();
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model;
    imagine_text *text = NULL;
    imagine_buffer *ids = NULL;
    imagine_text_options options;
    imagine_text_options_init(&options, sizeof options);
    REQUIRE_OK(imagine_cancel_create(&options.cancel, context, &err));
    REQUIRE_OK(imagine_model_open(&model, context, test_path("packs/two-layer"), NULL, &err));
    imagine_cancel_fire(options.cancel);
    CHECK_STATUS(imagine_text_create(&text, model, &options, &err), IMAGINE_ERROR_CANCELLED);
    CHECK(!text && strstr(err.message, "the tokenizer was read"));
    imagine_cancel_reset(options.cancel);
    CHECK_OK(imagine_text_create(&text, model, &options, &err));
    imagine_cancel_fire(options.cancel);
    CHECK_STATUS(imagine_text_tokenize(text, "a red apple", 0, &ids, &err), IMAGINE_ERROR_CANCELLED);
    CHECK(!ids);
    imagine_cancel_reset(options.cancel);
    CHECK_OK(imagine_text_tokenize(text, "a red apple", 0, &ids, &err));
    imagine_buffer_release(&ids);
    imagine_text_destroy(&text);
    imagine_model_release(&model);
    imagine_cancel_release(&options.cancel);
    imagine_context_release(&context);
}

/* The model's tokenizer without the encoder: the same ids, and none of its weights. */
static void test_model_tokenize(void)
{
    imagine_context *context = new_context();
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_info before = { .struct_size = sizeof before }, after = before;
    imagine_model *model;
    imagine_text *text;
    imagine_buffer *ids = NULL, *same = NULL;
    imagine_cancel *cancel;
    REQUIRE_OK(imagine_cancel_create(&cancel, context, &err));
    REQUIRE_OK(imagine_model_open(&model, context, test_path("packs/two-layer"), NULL, &err));
    CHECK_STATUS(imagine_model_tokenize(model, "a", -1, NULL, &ids, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_model_tokenize(model, NULL, 0, NULL, &ids, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_model_tokenize(NULL, "a", 0, NULL, &ids, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_model_tokenize(model, "a", 0, NULL, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_model_tokenize(model, "a \xff", 0, NULL, &ids, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    imagine_cancel_fire(cancel);
    CHECK_STATUS(imagine_model_tokenize(model, "a red apple", 0, cancel, &ids, &err), IMAGINE_ERROR_CANCELLED);
    CHECK(!ids);
    imagine_cancel_reset(cancel);
    REQUIRE_OK(imagine_model_tokenize(model, "a red  apple &amp;", 0, cancel, &ids, &err));
    CHECK_OK(imagine_context_get_info(context, &before, &err));
    REQUIRE_OK(imagine_text_create(&text, model, NULL, &err));
    REQUIRE_OK(imagine_text_tokenize(text, "a red  apple &amp;", 0, &same, &err));
    CHECK(imagine_buffer_size(ids) == imagine_buffer_size(same) && imagine_buffer_size(ids) > 8 &&
          memcmp(imagine_buffer_data(ids), imagine_buffer_data(same), (size_t)imagine_buffer_size(ids)) == 0);
    imagine_buffer_release(&ids);
    CHECK_OK(imagine_model_tokenize(model, "a red apple", 2, NULL, &ids, &err));
    CHECK(imagine_buffer_size(ids) == 8);
    imagine_buffer_release(&ids);
    imagine_buffer_release(&same);
    imagine_text_destroy(&text);
    CHECK_OK(imagine_context_get_info(context, &after, &err)); /* the weights stay with the model, the stage's scratch is gone */
    CHECK(after.memory_used > before.memory_used + 10000);
    imagine_model_release(&model);
    imagine_cancel_release(&cancel);
    imagine_context_release(&context);
}

/* ---- memory that runs out ---------------------------------------------------------------------------------------- */

typedef struct ration {
    atomic_long left, held, bytes; /* bytes: asked for in all */
} ration;

static void *ration_allocate(void *data, size_t size, size_t alignment)
{
    ration *r = data;
    if (atomic_fetch_sub(&r->left, 1) <= 0)
        return NULL;
    void *p = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    if (p)
        atomic_fetch_add(&r->held, 1);
    atomic_fetch_add(&r->bytes, (long)size);
    return p;
}

static void ration_release(void *data, void *pointer, size_t size)
{
    (void)size;
    atomic_fetch_sub(&((ration *)data)->held, 1);
    free(pointer);
}

static imagine_context *ration_context(ration *r, imagine_error *err)
{
    imagine_context *context = NULL;
    imagine_context_options options;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    options.allocate = ration_allocate;
    options.release = ration_release;
    options.allocator_data = r;
    imagine_context_create(&context, &options, err);
    return context;
}

static imagine_status everything(imagine_context *context, const char *name, imagine_error *err)
{
    imagine__tokenizer *t = NULL;
    int32_t *ids = NULL, count;
    char *clean = NULL;
    size_t size;
    imagine_status status = imagine__tokenizer_open(&t, context, golden(name, ".json"), NULL, err);
    if (status == IMAGINE_OK)
        status = imagine__clean_prompt(context, " a &eacute; &amp;lt; b new word </s>x", NULL, &clean, &size, err);
    if (status == IMAGINE_OK)
        status = imagine__tokenize(t, clean, size, 0, NULL, &ids, &count, err);
    CHECK(status == IMAGINE_OK ? ids != NULL : ids == NULL);
    imagine__free(context, ids);
    imagine__free(context, clean);
    imagine__tokenizer_close(t);
    return status;
}

static void test_memory(void)
{
    for (size_t i = 0; i < TOKENIZERS; i++) {
        ration r = { 1000000, 0, 0 };
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine_context *context = ration_context(&r, &err);
        REQUIRE(context);
        long before = atomic_load(&r.held), n = 0;
        for (imagine_status status = IMAGINE_ERROR_NO_MEMORY; status != IMAGINE_OK && n < 100000; n++) {
            atomic_store(&r.left, n);
            status = everything(context, tokenizers[i], &err);
            CHECK(status == IMAGINE_OK || status == IMAGINE_ERROR_NO_MEMORY);
            CHECK(atomic_load(&r.held) == before);
        }
        CHECK(n > 20 && n < 100000);
        imagine_context_release(&context);
        CHECK(atomic_load(&r.held) == 0);
    }
}

/* A file with as many added tokens as some have; NULL: no memory for it. */
static char *many_added(int count, size_t *size)
{
    size_t room = (size_t)count * 160 + 1000, at = 0;
    char *text = malloc(room);
    if (!text)
        return NULL;
    at += (size_t)snprintf(text, room, "{\"version\": \"1.0\", \"added_tokens\": [");
    for (int i = 0; i < count; i++)
        at += (size_t)snprintf(text + at, room - at,
                               "%s{\"id\": %d, \"content\": \"<extra_token_%08d>\", \"single_word\": false, \"lstrip\": false, "
                               "\"rstrip\": false, \"normalized\": false, \"special\": true}", i ? ", " : "", i + 1, i);
    at += (size_t)snprintf(text + at, room - at, "], \"model\": {\"type\": \"Unigram\", \"unk_id\": 0, "
                                                 "\"vocab\": [[\"<unk>\", 0]]}}");
    *size = at;
    return text;
}

/* Reading many added tokens asks for memory in proportion to them: a copy of all text so far for each one would be 35 GB. */
static void test_many_added(void)
{
    const int added = 40000;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__tokenizer *t = NULL;
    ration r = { LONG_MAX, 0, 0 };
    size_t size;
    int32_t *ids = NULL, count = 0;
    char *text = many_added(added, &size);
    REQUIRE(text);
    const char *path = scratch_file(text, size);
    free(text);
    imagine_context *context = ration_context(&r, &err);
    REQUIRE(context);
    long before = atomic_load(&r.bytes);
    double start = seconds();
    CHECK_OK(imagine__tokenizer_open(&t, context, path, NULL, &err));
    double asked = (double)(atomic_load(&r.bytes) - before);
    printf("    %.1f MB with %d added tokens: %.1f MB asked for, %.0f ms\n", (double)size / 1e6, added, asked / 1e6,
           1e3 * (seconds() - start));
    CHECK(t && imagine__tokenizer_size(t) == added + 1);
    CHECK(asked < 20 * (double)size);
    CHECK_OK(imagine__tokenize(t, "<extra_token_00039999><extra_token_00000000>", 44, 0, NULL, &ids, &count, &err));
    CHECK(count == 2 && ids[0] == added && ids[1] == 1);
    imagine__free(context, ids);
    imagine__tokenizer_close(t);
    imagine_context_release(&context);
}

/* ---- the encoder ------------------------------------------------------------------------------------------------- */

typedef struct encoder {
    bench at;
    imagine__weights *weights, *cases;
    imagine__umt5 *umt5;
} encoder;

static void encoder_close(encoder *e)
{
    imagine__umt5_free(e->umt5);
    imagine__weights_close(e->weights);
    imagine__weights_close(e->cases);
    bench_close(&e->at);
}

static int encoder_open(encoder *e, const char *folder, const char *cases, int32_t threads, imagine_cpu_level level)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__umt5_config config;
    memset(e, 0, sizeof *e);
    if (!bench_open(&e->at, threads, level))
        return 0;
    if (imagine__weights_open(&e->weights, e->at.context, folder, "model", &err) < 0 ||
        imagine__weights_open_file(&e->cases, e->at.context, cases, &err) < 0 ||
        imagine__umt5_read_config(&config, e->at.context, folder, &err) < 0 ||
        imagine__umt5_load(&e->umt5, e->at.context, &config, e->weights, 0, NULL, &err) < 0) {
        test_fail(__FILE__, __LINE__, err.message);
        encoder_close(e);
        return 0;
    }
    return 1;
}

/* The embeddings of case "ids.N" in *embeds (malloc'ed) and the golden ones; the number of values, 0: failed. */
static size_t run_case(encoder *e, const imagine__tensor *ids_tensor, float **embeds, float **expected)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    int32_t count = (int32_t)ids_tensor->shape[0], dim = imagine__umt5_dim(e->umt5);
    int32_t *ids = malloc(ids_tensor->size);
    char name[64];
    snprintf(name, sizeof name, "embeds.%d", count);
    *embeds = malloc((size_t)count * (size_t)dim * sizeof(float));
    *expected = tensor_read(e->cases, name, NULL);
    int ok = ids && *embeds && *expected && tensor_count(e->cases, name) == (int64_t)count * dim;
    CHECK(ok);
    if (ok) {
        CHECK_OK(imagine__weights_read(e->cases, ids_tensor, 0, ids_tensor->size, ids, &err));
        ok = imagine__umt5_forward(e->umt5, &e->at.work, ids, count, *embeds, &err) == IMAGINE_OK;
        CHECK(ok);
    }
    free(ids);
    return ok ? (size_t)count * (size_t)dim : 0;
}

static void compare_encoder(const char *folder, const char *cases, imagine_cpu_level level)
{
    encoder one, three;
    if (!encoder_open(&one, folder, cases, 1, level))
        return;
    if (!encoder_open(&three, folder, cases, 3, level)) {
        encoder_close(&one);
        return;
    }
    int number = 0;
    for (int32_t i = 0; i < imagine__weights_count(one.cases); i++) {
        const imagine__tensor *t = imagine__weights_at(one.cases, i);
        float *a = NULL, *b = NULL, *expected = NULL, *unused = NULL;
        if (strncmp(t->name, "ids.", 4) != 0)
            continue;
        size_t n = run_case(&one, t, &a, &expected);
        if (n && run_case(&three, imagine__weights_find(three.cases, t->name), &b, &unused)) {
            double error = test_nmse(a, expected, n);
            printf("    %s, %s, %s tokens: NMSE %.1e\n", strrchr(folder, '/') + 1,
                   imagine__context_kernels(one.at.context)->name, t->name + 4, error);
            CHECK(error <= LIMIT);
            CHECK(memcmp(a, b, n * sizeof(float)) == 0); /* whatever the number of threads */
            number++;
        }
        free(a);
        free(b);
        free(expected);
        free(unused);
    }
    CHECK(number > 0);
    encoder_close(&one);
    encoder_close(&three);
}

static const char *const encoders[] = { "umt5-f32", "umt5-bf16", "umt5-f16" };

static void test_encoder(void)
{
    for (size_t i = 0; i < 3; i++) {
        compare_encoder(golden(encoders[i], ""), golden(encoders[i], "/cases.safetensors"), IMAGINE_CPU_PLAIN);
        compare_encoder(golden(encoders[i], ""), golden(encoders[i], "/cases.safetensors"), IMAGINE_CPU_BEST);
    }
}

static void test_encoder_errors(void)
{
    encoder e;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_cancel *cancel = NULL;
    float out[4 * 40];
    const int32_t high[] = { 1, 300 }, low[] = { -1 }, fine[] = { 1, 2, 299 };
    REQUIRE(encoder_open(&e, golden("umt5-f32", ""), golden("umt5-f32", "/cases.safetensors"), 1, IMAGINE_CPU_BEST));
    CHECK(imagine__umt5_dim(e.umt5) == 40 && imagine__umt5_vocabulary(e.umt5) == 300);
    CHECK_STATUS(imagine__umt5_forward(e.umt5, &e.at.work, high, 2, out, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine__umt5_forward(e.umt5, &e.at.work, low, 1, out, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_OK(imagine__umt5_forward(e.umt5, &e.at.work, fine, 3, out, &err));
    REQUIRE_OK(imagine_cancel_create(&cancel, e.at.context, &err));
    imagine_cancel_fire(cancel);
    e.at.work.cancel = cancel;
    CHECK_STATUS(imagine__umt5_forward(e.umt5, &e.at.work, fine, 3, out, &err), IMAGINE_ERROR_CANCELLED);
    e.at.work.cancel = NULL;
    imagine_cancel_release(&cancel);
    encoder_close(&e);
}

/* Configurations that are refused, by the key that the message must name. */
static void test_configurations(void)
{
    static const struct {
        const char *from, *to, *word;
    } cases[] = {
        { "\"umt5\"", "\"t5\"", "model_type" },
        { "\"gated-gelu\"", "\"relu\"", "feed_forward_proj" },
        { "\"gelu_new\"", "\"silu\"", "dense_act_fn" },
        { "\"is_gated_act\": true", "\"is_gated_act\": false", "is_gated_act" },
        { "\"is_decoder\": false", "\"is_decoder\": true", "is_decoder" },
        { "\"d_model\": 40", "\"d_model\": 0", "d_model" },
        { "\"d_kv\": 16", "\"d_kv\": \"16\"", "d_kv" },
        { "\"num_layers\": 2", "\"num_layers\": -3", "num_layers" },
        { "\"relative_attention_max_distance\": 128", "\"relative_attention_max_distance\": 8",
          "relative_attention_max_distance" },
        { "\"layer_norm_epsilon\": 1e-06", "\"layer_norm_epsilon\": -1", "layer_norm_epsilon" },
        { "\"use_cache\"", "\"rope_theta\"", "rope_theta" },
    };
    imagine_context *context = new_context();
    char folder[] = "/tmp/imagine-umt5-XXXXXX", path[64];
    REQUIRE(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/config.json", folder);
    size_t size;
    char *text = slurp(golden("umt5-f32", "/config.json"), &size);
    REQUIRE(text);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine__umt5_config config;
        char *changed = replaced(text, 0, cases[i].from, cases[i].to);
        REQUIRE(changed);
        FILE *file = fopen(path, "wb");
        REQUIRE(file);
        fwrite(changed, 1, strlen(changed), file);
        fclose(file);
        imagine_status status = imagine__umt5_read_config(&config, context, folder, &err);
        CHECK(status < 0);
        if (!strstr(err.message, cases[i].word) || !strstr(err.message, folder)) {
            test_fail(__FILE__, __LINE__, cases[i].word);
            fprintf(stderr, "    %s\n", err.message);
        }
        free(changed);
    }
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine__umt5_config config = { 0 };
    CHECK_OK(imagine__umt5_read_config(&config, context, golden("umt5-f32", ""), &err));
    CHECK(config.dim == 40);
    free(text);
    unlink(path);
    rmdir(folder);
    imagine_context_release(&context);
}

static void test_pack(void)
{
    const char *pack = getenv("IMAGINE_TEST_TEXT_PACK"), *made = getenv("IMAGINE_TEST_TEXT_GOLDEN");
    char path[3][1024];
    if (!pack || !made)
        SKIP("IMAGINE_TEST_TEXT_PACK and IMAGINE_TEST_TEXT_GOLDEN are not set");
    snprintf(path[0], sizeof path[0], "%s/tokenizer/tokenizer.json", pack);
    snprintf(path[1], sizeof path[1], "%s.ids", made);
    compare_ids(path[0], path[1]);
    snprintf(path[0], sizeof path[0], "%s/text_encoder", pack);
    snprintf(path[1], sizeof path[1], "%s.safetensors", made);
    compare_encoder(path[0], path[1], IMAGINE_CPU_PLAIN);
    compare_encoder(path[0], path[1], IMAGINE_CPU_BEST);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "token ids", test_ids },
        { "cut to a length", test_cut },
        { "stripped", test_stripped },
        { "removed", test_removed },
        { "long white space", test_long_space },
        { "long texts", test_long },
        { "prompts", test_clean },
        { "damaged files", test_mutations },
        { "refusals", test_refusals },
        { "long template", test_long_template },
        { "long pieces", test_long_pieces },
        { "empty added", test_empty_added },
        { "many pieces", test_many_pieces },
        { "cancelled", test_cancelled },
        { "stage cancelled", test_stage_cancelled },
        { "model's tokenizer", test_model_tokenize },
        { "memory", test_memory },
        { "many added tokens", test_many_added },
        { "encoder", test_encoder },
        { "encoder errors", test_encoder_errors },
        { "configurations", test_configurations },
        { "a further pack", test_pack },
    };
    int status = test_main("parity/text", cases, sizeof cases / sizeof *cases, argc, argv);
    if (scratch_path[0])
        unlink(scratch_path);
    return status;
}
