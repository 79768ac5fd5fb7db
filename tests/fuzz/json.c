/* SPDX-License-Identifier: MIT */

/* JSON and the configurations. The first byte says who reads the rest. */

#include "dit/dit.h"
#include "fuzz.h"
#include "model/model.h"
#include "text/umt5.h"
#include "vae/vae.h"

/* Every token, decoded in all ways; the places that it gives lie inside of the text. */
static void walk(const uint8_t *data, size_t size)
{
    /* A copy that is no larger than the text, so that a read behind it shows. */
    char *text = malloc(size ? size : 1), *out = malloc(size + 1);
    imagine__json json;
    imagine__json_kind kind;
    FUZZ_CHECK(text && out);
    memcpy(text, data, size);
    imagine__json_init(&json, text, size);
    do {
        double number;
        int64_t whole;
        kind = imagine__json_next(&json);
        FUZZ_CHECK(kind == IMAGINE__JSON_ERROR || (json.begin <= json.end && json.end <= size));
        if (kind == IMAGINE__JSON_STRING || kind == IMAGINE__JSON_KEY) {
            int64_t length = imagine__json_string(&json, out, json.end - json.begin + 1);
            FUZZ_CHECK(length >= 0 && (size_t)length <= json.end - json.begin);
            FUZZ_CHECK(imagine__json_is(&json, out) == (strlen(out) == (size_t)length));
        } else if (kind == IMAGINE__JSON_NUMBER) {
            int fits = imagine__json_double(&json, &number);
            if (imagine__json_int(&json, &whole))
                FUZZ_CHECK(fits && number == (double)whole);
        }
    } while (kind != IMAGINE__JSON_ERROR && kind != IMAGINE__JSON_END);
    FUZZ_CHECK(kind == IMAGINE__JSON_END || json.error);
    imagine__json_init(&json, text, size);
    imagine__json_next(&json);
    if (imagine__json_skip(&json))
        FUZZ_CHECK(json.depth == 0);
    FUZZ_CHECK(imagine__json_line(&json) >= 1);
    free(text);
    free(out);
}

/* Folders of links to the input: one as a stage's, one as a set of shards, four packs in which it is one file each. */
static const char *const links[] = { "stage/config.json",
                                     "shards/model.safetensors.index.json",
                                     "pack0/tokenizer/tokenizer_config.json",
                                     "pack1/scheduler/scheduler_config.json",
                                     "pack1/tokenizer/unused",
                                     "pack2/imagine.json",
                                     "pack2/tokenizer/unused",
                                     "pack3/model_index.json",
                                     "pack3/tokenizer/unused" };

static char folders[6][128]; /* stage, shards, packs */

static void make_folders(const char *input)
{
    char shard[1024];
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        fuzz_link(links[i], input);
    snprintf(shard, sizeof shard, "%s/packs/two-layer/text_encoder/model.safetensors", IMAGINE_TEST_DIR);
    fuzz_link("shards/model-00001-of-00001.safetensors", shard);
    snprintf(folders[0], sizeof folders[0], "%s/stage", fuzz_folder());
    snprintf(folders[1], sizeof folders[1], "%s/shards", fuzz_folder());
    for (int i = 0; i < 4; i++)
        snprintf(folders[2 + i], sizeof folders[0], "%s/pack%d", fuzz_folder(), i);
}

static imagine_status open_pack(imagine_context *context, const char *folder, imagine_error *error)
{
    imagine_model *model;
    imagine_model_info info = { .struct_size = sizeof info };
    imagine_status status = imagine_model_open(&model, context, folder, NULL, error);
    if (status >= 0)
        FUZZ_CHECK(imagine_model_get_info(model, &info, error) >= 0 && info.text_length >= 0 && info.frames_per_second > 0);
    imagine_model_release(&model);
    return status;
}

static imagine_status read_as(unsigned kind, imagine_context *context, imagine_error *error)
{
    imagine__dit_config dit;
    imagine__vae_config vae;
    imagine__weights *weights;
    imagine__umt5_config umt5;
    imagine_status status;
    switch (kind) {
    case 1:
        return imagine__dit_read_config(&dit, context, folders[0], error);
    case 2:
        return imagine__vae_read_config(&vae, context, folders[0], error);
    case 3:
        return imagine__umt5_read_config(&umt5, context, folders[0], error);
    case 4:
        status = imagine__weights_open(&weights, context, folders[1], "model", error);
        imagine__weights_close(weights);
        return status;
    default:
        return open_pack(context, folders[kind - 3], error);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    imagine_error error = IMAGINE_ERROR_INIT;
    imagine_context *context = fuzz_context();
    if (!size)
        return 0;
    unsigned kind = *data % 9;
    data++;
    size--;
    const char *input = fuzz_file(data, size);
    if (!folders[0][0])
        make_folders(input);
    fuzz_begin(size);
    if (!kind)
        walk(data, size);
    else if (read_as(kind, context, &error) < 0)
        FUZZ_CHECK(error.status < 0 && error.message[0]);
    fuzz_end();
    return 0;
}
