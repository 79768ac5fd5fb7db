/* SPDX-License-Identifier: MIT */
#include <locale.h>

#include "model/model.h"
#include "test.h"

/* Reads all tokens: 1 when the text is valid JSON. */
static int valid(const char *text, size_t size)
{
    imagine__json json;
    imagine__json_init(&json, text, size);
    for (size_t i = 0; i <= size + 1; i++) {
        imagine__json_kind kind = imagine__json_next(&json);
        if (kind == IMAGINE__JSON_ERROR) {
            CHECK(json.error != NULL);
            CHECK(imagine__json_next(&json) == IMAGINE__JSON_ERROR); /* it stays */
            return 0;
        }
        if (kind == IMAGINE__JSON_END)
            return 1;
        CHECK(json.begin <= json.end && json.end <= size);
    }
    CHECK(!"more tokens than characters");
    return 0;
}

static void accepts(void)
{
    static const char *const texts[] = {
        "0",
        "-0",
        "1.5e-3",
        "1E+2",
        "true",
        "false",
        "null",
        "\"\"",
        "[]",
        "{}",
        " \t\r\n[ ] ",
        "[1,2]",
        "[[],{}]",
        "{\"a\":1,\"b\":[true,null]}",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\"",
        "\"\xc3\xa9\xe2\x96\x81\xf0\x9f\x98\x80\"",
        "\"\x7f\"",
        "{\"\":0}",
        "123456789012345678901234567890",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!valid(texts[i], strlen(texts[i])))
            test_fail(__FILE__, __LINE__, texts[i]);
}

static void refuses(void)
{
    static const char *const texts[] = {
        "",
        " ",
        "01",
        "-",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x1",
        "tru",
        "truee",
        "nul",
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"\n\"",
        "\"\x01\"",
        "\"\x80\"",
        "\"\xc0\x80\"",
        "\"\xed\xa0\x80\"",
        "\"\xf4\x90\x80\x80\"",
        "\"\xe2\x96\"",
        "\"\xff\"",
        "[",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,]",
        "[1 2]",
        "[1}",
        "{",
        "}",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "{1:2}",
        "{a:1}",
        "{\"a\":1]",
        "{,}",
        "{\"a\":}",
        "{\"a\"}",
        "1 2",
        "[]x",
        "{}{}",
        "'a'",
        "NaN",
        "Infinity",
        "-Infinity",
        "\xef\xbb\xbf[]",
        "[1,2//x\n]",
        "\"a\" \"b\"",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (valid(texts[i], strlen(texts[i])))
            test_fail(__FILE__, __LINE__, texts[i]);
    CHECK(!valid("[\0]", 3));
    CHECK(!valid("\"\0\"", 3));
}

static const char *wrong(const char *text)
{
    imagine__json json;
    imagine__json_init(&json, text, strlen(text));
    while (imagine__json_next(&json) != IMAGINE__JSON_ERROR)
        if (json.kind == IMAGINE__JSON_END)
            return "nothing";
    return json.error;
}

/* Named where it is one: at the very beginning, and whole. */
static void byte_order_mark(void)
{
    CHECK(strstr(wrong("\xef\xbb\xbf[]"), "byte order mark") != NULL);
    CHECK(strstr(wrong("\xef\xbb\xbf"), "byte order mark") != NULL);
    CHECK(!strcmp(wrong("\xef\xbb"), "a value is missing"));
    CHECK(!strcmp(wrong(" \xef\xbb\xbf[]"), "a value is missing"));
    CHECK(!strcmp(wrong("[\xef\xbb\xbf]"), "a value is missing"));
    CHECK(!strcmp(wrong("[\"\xef\xbb\xbf\"]"), "nothing"));
}

static void depth(void)
{
    char text[4096];
    memset(text, '[', 64);
    memset(text + 64, ']', 64);
    CHECK(valid(text, 128));
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    CHECK(!valid(text, 130));
    memset(text, '[', sizeof text);
    CHECK(!valid(text, sizeof text));
    for (size_t i = 0; i < sizeof text - 4; i += 5)
        memcpy(text + i, "{\"a\":", 5);
    CHECK(!valid(text, sizeof text));
}

static double number(const char *text)
{
    imagine__json json;
    double value = -12345;
    imagine__json_init(&json, text, strlen(text));
    CHECK(imagine__json_next(&json) == IMAGINE__JSON_NUMBER);
    CHECK(imagine__json_double(&json, &value));
    return value;
}

static void numbers(void)
{
    static const char *const texts[] = {
        "0",
        "-0.0",
        "1",
        "0.1",
        "-11.383742332458496",
        "1e-06",
        "1.25E3",
        "123456789.123456789",
        "0.000000000000000000001",
        "2.2250738585072014e-308",
        "4.9e-324",
        "1.7976931348623157e308",
        "9007199254740993",
        "9007199254740993.00000000000000001",
        "0.0000001e7",
        "100000000000000000000000e-23",
        "0.1e-400",
        "0e999999999999999999",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        double ours = number(texts[i]), theirs = strtod(texts[i], NULL);
        if (memcmp(&ours, &theirs, sizeof ours)) {
            test_fail(__FILE__, __LINE__, texts[i]);
            fprintf(stderr, "    %.17g, not %.17g\n", ours, theirs);
        }
    }
    imagine__json json;
    double value;
    imagine__json_init(&json, "1e309", 5);
    imagine__json_next(&json);
    CHECK(!imagine__json_double(&json, &value));
}

/* More digits than are kept: zeros in front, a half-way point with something far behind it. */
static void long_numbers(void)
{
    char text[4000];
    memset(text, '0', sizeof text);
    memcpy(text, "0.", 2);
    memcpy(text + 3000, "15e3001", 8);
    CHECK(number(text) == 150.0); /* 0.(2998 zeros)15 * 10^3001 */
    memset(text, '0', sizeof text);
    memcpy(text, "9007199254740993.", 17); /* half way between two doubles: to even, 9007199254740992 */
    text[2000] = 0;
    CHECK(number(text) == 9007199254740992.0);
    text[1999] = '1';
    CHECK(number(text) == 9007199254740994.0);
}

static void locale_has_no_say(void)
{
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8") && !setlocale(LC_NUMERIC, "fr_FR.UTF-8"))
        SKIP("no locale with a decimal comma is installed");
    CHECK(number("1.5") == 1.5);
    setlocale(LC_NUMERIC, "C");
}

static void integers(void)
{
    static const struct {
        const char *text;
        int fits;
        int64_t value;
    } cases[] = {
        { "0", 1, 0 },
        { "-1", 1, -1 },
        { "9223372036854775807", 1, INT64_MAX },
        { "-9223372036854775808", 1, INT64_MIN },
        { "9223372036854775808", 0, 0 },
        { "-9223372036854775809", 0, 0 },
        { "1.0", 0, 0 },
        { "1e3", 0, 0 },
        { "99999999999999999999999", 0, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        imagine__json json;
        int64_t value = 0;
        imagine__json_init(&json, cases[i].text, strlen(cases[i].text));
        imagine__json_next(&json);
        CHECK(imagine__json_int(&json, &value) == cases[i].fits);
        CHECK(!cases[i].fits || value == cases[i].value);
    }
}

static void strings(void)
{
    static const char text[] = "\"a\\n\\u00e9\\u2581\\ud83d\\ude00\\u0000z\"";
    static const char plain[] = "a\n\xc3\xa9\xe2\x96\x81\xf0\x9f\x98\x80\0z";
    char out[64];
    imagine__json json;
    imagine__json_init(&json, text, sizeof text - 1);
    CHECK(imagine__json_next(&json) == IMAGINE__JSON_STRING);
    CHECK(imagine__json_string(&json, out, sizeof out) == (int64_t)sizeof plain - 1);
    CHECK(!memcmp(out, plain, sizeof plain));
    CHECK(imagine__json_string(&json, out, sizeof plain) == (int64_t)sizeof plain - 1);
    for (size_t room = 0; room < sizeof plain; room++)
        CHECK(imagine__json_string(&json, out, room) == -1);
    imagine__json_init(&json, "\"ab\\u0063\"", 10);
    imagine__json_next(&json);
    CHECK(imagine__json_is(&json, "abc"));
    CHECK(!imagine__json_is(&json, "ab") && !imagine__json_is(&json, "abcd") && !imagine__json_is(&json, "abd"));
}

static void skipping(void)
{
    static const char text[] = "{\"a\":{\"b\":[1,{\"c\":2}]},\"d\":\n\"x\",\"e\":3}";
    imagine__json json;
    int64_t value;
    imagine__json_init(&json, text, sizeof text - 1);
    CHECK(imagine__json_next(&json) == IMAGINE__JSON_OBJECT);
    CHECK(imagine__json_next(&json) == IMAGINE__JSON_KEY && imagine__json_is(&json, "a"));
    CHECK(imagine__json_skip(&json));
    CHECK(imagine__json_next(&json) == IMAGINE__JSON_KEY && imagine__json_is(&json, "d"));
    CHECK(imagine__json_skip(&json) && json.kind == IMAGINE__JSON_STRING);
    CHECK(imagine__json_line(&json) == 2);
    CHECK(imagine__json_next(&json) == IMAGINE__JSON_KEY && imagine__json_is(&json, "e"));
    CHECK(imagine__json_next(&json) == IMAGINE__JSON_NUMBER && imagine__json_int(&json, &value) && value == 3);
    CHECK(imagine__json_next(&json) == IMAGINE__JSON_OBJECT_END);
    CHECK(imagine__json_next(&json) == IMAGINE__JSON_END);
    imagine__json_init(&json, "[[1", 3);
    imagine__json_next(&json);
    CHECK(!imagine__json_skip(&json));
}

/* Every prefix of a valid text is refused, and no changed byte makes the reader run away. */
static void damaged(void)
{
    static const char text[] = "{\"a\":[1.5e2,\"\\u00e9\xc3\xa9\",true,null,{\"b\":false}],\"c\":-7}";
    char copy[sizeof text];
    for (size_t i = 0; i < sizeof text - 1; i++)
        CHECK(!valid(text, i));
    int refused = 0;
    for (size_t i = 0; i < sizeof text - 1; i++)
        for (int c = 0; c < 256; c++) {
            memcpy(copy, text, sizeof text);
            copy[i] = (char)c;
            refused += !valid(copy, sizeof text - 1);
        }
    CHECK(refused > 5000);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "accepts", accepts },   { "refuses", refuses },           { "depth", depth },
        { "byte_order_mark", byte_order_mark },
        { "numbers", numbers },   { "long_numbers", long_numbers }, { "locale_has_no_say", locale_has_no_say },
        { "integers", integers }, { "strings", strings },           { "skipping", skipping },
        { "damaged", damaged },
    };
    return test_main("model/json", cases, sizeof cases / sizeof *cases, argc, argv);
}
