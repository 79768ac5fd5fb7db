/* SPDX-License-Identifier: MIT */

/* A tokenizer.json, then a zero and a prompt, which may be missing. Without a tokenizer in front, the prompt is given to
 * the test pack's. */

#include "fuzz.h"
#include "text/tokenizer.h"

static const char *const prompts[] = { "a red apple on a table", "&lt;b&gt; &amp;amp; \xc3\xa9\xe2\x80\x83<extra_id_0></s>", "" };

static void tokenize(const imagine__tokenizer *tokenizer, const char *text, size_t size, int32_t most)
{
    imagine_error error = IMAGINE_ERROR_INIT;
    imagine_context *context = fuzz_context();
    int32_t *ids = NULL, count = 0;
    if (imagine__tokenize(tokenizer, text, size, most, NULL, &ids, &count, &error) < 0) {
        FUZZ_CHECK(error.message[0]);
        return;
    }
    FUZZ_CHECK(count >= 0 && (!most || count <= most));
    for (int32_t i = 0; i < count; i++)
        FUZZ_CHECK(ids[i] >= 0 && ids[i] < imagine__tokenizer_size(tokenizer));
    imagine__free(context, ids);
}

/* As a whole with what is no UTF-8 and with zeros in it, and as a caller's string. */
static void use(const imagine__tokenizer *tokenizer, const char *text, size_t size)
{
    char *clean;
    size_t length;
    tokenize(tokenizer, text, size, 0);
    if (imagine__clean_prompt(fuzz_context(), text, NULL, &clean, &length, NULL) < 0)
        return;
    FUZZ_CHECK(length == strlen(clean));
    tokenize(tokenizer, clean, length, 7);
    imagine__free(fuzz_context(), clean);
}

static const imagine__tokenizer *own(void)
{
    static imagine__tokenizer *tokenizer;
    if (!tokenizer)
        FUZZ_CHECK(imagine__tokenizer_open(&tokenizer, fuzz_context(),
                                           IMAGINE_TEST_DIR "/packs/two-layer/tokenizer/tokenizer.json", NULL, NULL) >= 0);
    return tokenizer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    imagine_error error = IMAGINE_ERROR_INIT;
    imagine__tokenizer *tokenizer = NULL;
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t json = zero ? (size_t)(zero - data) : size, rest = zero ? size - json - 1 : 0;
    char *prompt = malloc(rest + 1); /* with a zero behind, and nothing more */
    FUZZ_CHECK(prompt);
    if (rest)
        memcpy(prompt, zero + 1, rest);
    prompt[rest] = 0;
    const char *path = fuzz_file(data, json);
    own();
    fuzz_begin(size);
    if (!json) {
        use(own(), prompt, rest);
    } else if (imagine__tokenizer_open(&tokenizer, fuzz_context(), path, NULL, &error) >= 0) {
        for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++)
            use(tokenizer, prompts[i], strlen(prompts[i]));
        use(tokenizer, prompt, rest);
        imagine__tokenizer_close(tokenizer);
    } else {
        FUZZ_CHECK(!tokenizer && error.status < 0 && error.message[0]);
    }
    fuzz_end();
    free(prompt);
    return 0;
}
