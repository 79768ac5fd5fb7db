/* SPDX-License-Identifier: MIT */

/* Packs: what is opened, what is told, what is refused, and that stages are loaded once. Variants of the two-layer pack
 * are folders of links to its files, with some of them replaced. */

#include <errno.h>
#include <ftw.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dit/dit.h"
#include "model/pack.h"
#include "test.h"
#include "text/tokenizer.h"
#include "text/umt5.h"
#include "vae/vae.h"

static imagine_context *context;
static char folder[] = "/tmp/imagine-pack-XXXXXX";
static char warning[600];

static void remember(void *data, imagine_log_level level, const char *text)
{
    (void)data;
    if (level == IMAGINE_LOG_WARNING)
        snprintf(warning, sizeof warning, "%s", text);
}

static const char *const files[] = {
    "model_index.json",
    "imagine.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
};

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *walk)
{
    (void)about;
    (void)kind;
    return walk->level ? remove(path) : 0;
}

/* Makes <folder> the whole pack again. */
static void restore(void)
{
    char path[512];
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        *strrchr(path, '/') = 0;
        CHECK(!mkdir(path, 0700) || errno == EEXIST);
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        char source[600];
        snprintf(source, sizeof source, "packs/two-layer/%s", files[i]);
        CHECK(!symlink(test_path(source), path));
    }
}

static void drop(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    CHECK(!remove(path));
}

static void replace(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    remove(path);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(text, 1, strlen(text), file) != strlen(text) || fclose(file))
        test_fail(__FILE__, __LINE__, path);
}

/* The file with the first `from` in it changed to `to`. */
static void change(const char *name, const char *from, const char *to)
{
    static char text[1 << 16], changed[(1 << 16) + 256];
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    size_t size = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[size] = 0;
    if (file)
        fclose(file);
    char *found = strstr(text, from);
    if (!found) {
        test_fail(__FILE__, __LINE__, from);
        return;
    }
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(found - text), text, to, found + strlen(from));
    replace(name, changed);
}

static void make_folder(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    CHECK(!mkdir(path, 0700));
}

/* `name` becomes a link to another file, or folder, of the pack. */
static void link_to(const char *target, const char *name)
{
    char from[512], path[512];
    snprintf(from, sizeof from, "%s/%s", folder, target);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    CHECK(!symlink(from, path));
}

static imagine_status open_pack(imagine_model_info *info, imagine_error *error)
{
    imagine_model *model;
    imagine_status status = imagine_model_open(&model, context, folder, NULL, error);
    CHECK((status < 0) == (model == NULL));
    *info = (imagine_model_info) { .struct_size = sizeof *info };
    if (status >= 0)
        CHECK(imagine_model_get_info(model, info, error) == IMAGINE_OK);
    imagine_model_release(&model);
    return status;
}

static void whole(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model_info info;
    restore();
    REQUIRE_OK(open_pack(&info, &err));
    CHECK(info.stages == (IMAGINE_STAGE_TEXT | IMAGINE_STAGE_SAMPLER | IMAGINE_STAGE_VAE));
    CHECK(info.width == 32 && info.height == 32 && info.frames == 5 && info.steps == 4 && info.guidance == 3);
    CHECK(info.frames_per_second == 8 && info.text_length == 24 && info.text_dim == 16 && info.latent_channels == 16);
    CHECK(info.spatial_factor == 8 && info.temporal_factor == 4 && info.size_multiple == 16);
    CHECK(info.layers == 2 && info.width_hidden == 28);
    CHECK(info.parameters_text > 1000 && info.parameters_sampler > 1000 && info.parameters_vae > 1000);
    CHECK(info.bytes >
          2 * (info.parameters_text + info.parameters_sampler + info.parameters_vae)); /* bf16, and headers */
    drop("imagine.json");
    REQUIRE_OK(open_pack(&info, &err));
    CHECK(info.width == 832 && info.height == 480 && info.frames == 81 && info.steps == 50 && info.guidance == 5);
    CHECK(info.frames_per_second == 16 && info.text_length == 24); /* from the tokenizer's configuration */
    drop("tokenizer/tokenizer_config.json");
    REQUIRE_OK(open_pack(&info, &err));
    CHECK(info.text_length == 512);
    replace("tokenizer/tokenizer_config.json", "{\"model_max_length\":1000000000000000019884624838656}");
    REQUIRE_OK(open_pack(&info, &err));
    CHECK(info.text_length == 512);
    drop("model_index.json");
    CHECK_OK(open_pack(&info, &err));
}

static void parts(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model_info info;
    imagine_model *model;
    const imagine__dit *dit = NULL;
    const imagine__vae_model *vae = NULL;
    restore();
    drop("transformer");
    drop("scheduler");
    REQUIRE_OK(open_pack(&info, &err));
    CHECK(info.stages == (IMAGINE_STAGE_TEXT | IMAGINE_STAGE_VAE) && info.layers == 0 && info.size_multiple == 8);
    CHECK(info.steps == 0 && info.guidance == 0);
    REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
    CHECK_STATUS(imagine__model_dit(model, IMAGINE__READ_AUTO, &dit, NULL, &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK(!dit && strstr(err.message, "transformer"));
    CHECK_OK(imagine__model_vae(model, &vae, NULL, &err));
    CHECK(vae != NULL);
    imagine_model_release(&model);
    drop("text_encoder");
    REQUIRE_OK(open_pack(&info, &err));
    CHECK(info.stages == IMAGINE_STAGE_VAE); /* a tokenizer alone is no text stage */
    drop("vae");
    drop("tokenizer");
    CHECK_STATUS(open_pack(&info, &err), IMAGINE_ERROR_NOT_FOUND);
    restore();
    drop("vae");
    REQUIRE_OK(open_pack(&info, &err));
    CHECK(info.stages == (IMAGINE_STAGE_TEXT | IMAGINE_STAGE_SAMPLER) && info.latent_channels == 16);
}

/* Sizes are checked when the job is created, with the usual factors where no VAE tells them. */
static void sizes_without_vae(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model;
    imagine_job *job;
    imagine_sampler_options sampler;
    imagine_job_options options;
    restore();
    drop("vae");
    REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.frames = 2;
    imagine_job_options_init(&options, sizeof options);
    options.sampler = &sampler;
    options.decode = 0;
    CHECK_STATUS(imagine_job_create(&job, model, &options, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(!job && strstr(err.message, "frames"));
    imagine_job_destroy(&job);
    imagine_model_release(&model);
    restore();
}

/* What opens can be saved: the slowest rate that imagine.json may have is one that an animated PNG can say. */
static void slowest_rate(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model_info info;
    imagine_buffer *frames;
    const int64_t shape[] = { 2, 1, 1, 3 };
    char path[512];
    restore();
    replace("imagine.json", "{\"fps\": 1.5259021896696422e-05}");
    REQUIRE_OK(open_pack(&info, &err));
    REQUIRE_OK(imagine_buffer_create(&frames, context, IMAGINE_U8, 4, shape, &err));
    snprintf(path, sizeof path, "%s/slow.png", folder);
    CHECK_OK(imagine_picture_save(context, path, frames, info.frames_per_second, &err));
    imagine_buffer_release(&frames);
}

static void refused(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model_info info;
    imagine_model *model;
    CHECK_STATUS(imagine_model_open(&model, context, "no-such-pack", NULL, &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK_STATUS(imagine_model_open(&model, context, "", NULL, &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK(err.native_code == ENOENT && !strncmp(err.message, "the path is empty: ", 19));
    CHECK_STATUS(imagine_model_open(&model, context, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", NULL, &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK(err.native_code == ENOENT && strstr(err.message, "Diffusers: nothing is downloaded here, give the folder of a model"));
    CHECK_STATUS(imagine_model_open(&model, context, "./no-such-pack", NULL, &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK(!strstr(err.message, "downloaded"));
    CHECK_STATUS(imagine_model_open(&model, context, test_path("test.h"), NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_model_open(&model, context, NULL, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_model_open(NULL, context, folder, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
#define REFUSED(edit, expected, word)                     \
    do {                                                  \
        restore();                                        \
        edit;                                             \
        CHECK_STATUS(open_pack(&info, &err), (expected)); \
        if (!strstr(err.message, (word)))                 \
            test_fail(__FILE__, __LINE__, err.message);   \
    } while (0)
    REFUSED(change("model_index.json", "WanPipeline", "FluxPipeline"), IMAGINE_ERROR_MODEL, "\"FluxPipeline\"");
    REFUSED(replace("model_index.json", "{"), IMAGINE_ERROR_FORMAT, "model_index.json");
    REFUSED(change("transformer/config.json", "\"text_dim\": 16", "\"text_dim\": 20"), IMAGINE_ERROR_MODEL,
            "\"text_dim\" is 20");
    REFUSED(change("transformer/config.json", "\"in_channels\": 16", "\"in_channels\": 8"), IMAGINE_ERROR_MODEL,
            "\"in_channels\" is 8");
    REFUSED(change("transformer/config.json", "\"out_channels\": 16", "\"out_channels\": 8"), IMAGINE_ERROR_MODEL,
            "\"out_channels\" 8");
    REFUSED(change("transformer/config.json", "\"image_dim\": null", "\"image_dim\": 1280"), IMAGINE_ERROR_MODEL,
            "\"image_dim\" is 1280");
    REFUSED(drop("transformer/config.json"), IMAGINE_ERROR_NOT_FOUND, "transformer/config.json");
    REFUSED(drop("vae/diffusion_pytorch_model.safetensors"), IMAGINE_ERROR_NOT_FOUND,
            "vae/diffusion_pytorch_model.safetensors");
    REFUSED(replace("vae/diffusion_pytorch_model.safetensors", "12345678{}"), IMAGINE_ERROR_FORMAT,
            "vae/diffusion_pytorch_model");
    REFUSED((drop("text_encoder/model.safetensors"), replace("text_encoder/pytorch_model.bin", "x")),
            IMAGINE_ERROR_UNSUPPORTED, "pytorch_model.bin");
    static const char *const marked[] = { "imagine.json", "model_index.json", "transformer/config.json" };
    for (size_t i = 0; i < sizeof marked / sizeof *marked; i++)
        REFUSED(change(marked[i], "{", "\xEF\xBB\xBF{"), IMAGINE_ERROR_FORMAT,
                "line 1: it begins with a byte order mark, which JSON does not have; save the file without it");
    REFUSED(replace("imagine.json", "{\"width\": 0}"), IMAGINE_ERROR_MODEL, "\"width\" is 0");
    REFUSED(replace("imagine.json", "{\"width\": 60}"), IMAGINE_ERROR_MODEL, "\"width\" is 60");
    REFUSED(replace("imagine.json", "{\"height\": 33}"), IMAGINE_ERROR_MODEL, "\"height\" is 33");
    REFUSED(replace("imagine.json", "{\"frames\": 6}"), IMAGINE_ERROR_MODEL, "\"frames\" is 6, which is not 4k+1");
    REFUSED(replace("imagine.json", "{\"widht\": 64}"), IMAGINE_ERROR_MODEL, "\"widht\"");
    REFUSED(replace("imagine.json", "{\"fps\": -1}"), IMAGINE_ERROR_MODEL, "\"fps\" is -1, not in 1/65535..1000");
    REFUSED(replace("imagine.json", "{\"fps\": 1e-9}"), IMAGINE_ERROR_MODEL, "\"fps\" is 1e-09, not in 1/65535..1000");
    REFUSED(replace("imagine.json", "{\"fps\": 1001}"), IMAGINE_ERROR_MODEL, "\"fps\" is 1001");
    REFUSED(replace("imagine.json", "{\"guidance\": -1}"), IMAGINE_ERROR_MODEL, "\"guidance\" is -1, not in 0..1000");
    REFUSED(replace("imagine.json", "{\"guidance_2\": 1001}"), IMAGINE_ERROR_MODEL, "\"guidance_2\" is 1001, not in 0..1000");
    slowest_rate();
    restore();
    char second[512];
    snprintf(second, sizeof second, "%s/transformer_2", folder);
    CHECK(!mkdir(second, 0700));
    CHECK_STATUS(open_pack(&info, &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK(strstr(err.message, "transformer_2/config.json") != NULL);
}

/* A file of the pack under another name. */
static void rename_to(const char *from, const char *to)
{
    char a[512], b[512];
    snprintf(a, sizeof a, "%s/%s", folder, from);
    snprintf(b, sizeof b, "%s/%s", folder, to);
    CHECK(!rename(a, b));
}

#define WEIGHTS "transformer/diffusion_pytorch_model.safetensors"
#define LFS     "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345678\n"

/* What people have in place of weights: the message names it, and what to do. */
static void other_weights(void)
{
    static const struct {
        const char *name;
        imagine_status status;
        const char *told;
    } cases[] = {
        { "diffusion_pytorch_model.fp16.safetensors", IMAGINE_ERROR_NOT_FOUND, "a variant; rename it to diffusion_pytorch_model.safetensors" },
        { "diffusion_pytorch_model.safetensors.index.fp16.json", IMAGINE_ERROR_NOT_FOUND, "rename it to diffusion_pytorch_model.safetensors.index.json" },
        { "diffusion_pytorch_model-00001-of-00002.safetensors", IMAGINE_ERROR_NOT_FOUND, "but no diffusion_pytorch_model.safetensors.index.json" },
        { "diffusion_pytorch_model.safetensors.incomplete", IMAGINE_ERROR_NOT_FOUND, "a download that has not ended" },
        { "wan2.1_t2v_1.3B.safetensors", IMAGINE_ERROR_NOT_FOUND, "but wan2.1_t2v_1.3B.safetensors; rename that" },
        { "wan-Q4_K_M.gguf", IMAGINE_ERROR_UNSUPPORTED, "GGUF is not read" },
        { "model.pt", IMAGINE_ERROR_UNSUPPORTED, "holds model.pt, a pickle" },
        { "README.md", IMAGINE_ERROR_NOT_FOUND, "the weights are to be downloaded, too" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine_model_info info;
        char name[256];
        restore();
        snprintf(name, sizeof name, "transformer/%s", cases[i].name);
        rename_to(WEIGHTS, name);
        CHECK_STATUS(open_pack(&info, &err), cases[i].status);
        if (!strstr(err.message, cases[i].told) || !strstr(err.message, "/transformer"))
            test_fail(__FILE__, __LINE__, err.message);
    }
}

/* What downloads leave in place of a file, by its first bytes. */
static void other_bytes(void)
{
    static const char *const targets[] = { WEIGHTS, "vae/config.json", "model_index.json" };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model_info info;
    imagine_model *model;
    const imagine__tokenizer *tokenizer;
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        REFUSED(replace(targets[i], LFS), IMAGINE_ERROR_FORMAT, "it is a pointer of git-lfs");
        REFUSED(replace(targets[i], " \n<!DOCTYPE html><html>"), IMAGINE_ERROR_FORMAT, "it is a web page");
        REFUSED(replace(targets[i], ""), IMAGINE_ERROR_FORMAT, "it is empty; download it again");
    }
    REFUSED(replace(WEIGHTS, "GGUF\3...."), IMAGINE_ERROR_FORMAT, "it is a GGUF file");
    REFUSED(replace(WEIGHTS, "PK\3\4......"), IMAGINE_ERROR_FORMAT, "it is a zip archive");
    REFUSED(replace(WEIGHTS, "Entry not found"), IMAGINE_ERROR_FORMAT, "begins with \"Entry not found\"");
    REFUSED((drop(WEIGHTS), replace("gone", ""), link_to("gone", WEIGHTS), drop("gone")), IMAGINE_ERROR_NOT_FOUND,
            "a link to a file that is not there");
    REFUSED((rename_to(WEIGHTS, "transformer/a.safetensors"),
             replace(WEIGHTS ".index.json", "{\"weight_map\":{\"patch_embedding.weight\":\"b.safetensors\"}}")),
            IMAGINE_ERROR_NOT_FOUND, "b.safetensors: diffusion_pytorch_model.safetensors.index.json names it");
    restore();
    replace("tokenizer/tokenizer.json", LFS);
    REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
    CHECK_STATUS(imagine__model_tokenizer(model, &tokenizer, NULL, &err), IMAGINE_ERROR_FORMAT);
    CHECK(strstr(err.message, "it is a pointer of git-lfs") != NULL);
    imagine_model_release(&model);
}

/* A tensor of an opened model's transformer or text encoder: its first bytes, and whether the warning holds `told`. */
static uint32_t first_weight(imagine__stage_kind kind, const char *name, const char *told)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model;
    uint32_t value = 0;
    warning[0] = 0;
    imagine_status status = imagine_model_open(&model, context, folder, NULL, &err);
    CHECK(status == IMAGINE_OK && err.status == IMAGINE_OK);
    if (status < 0)
        return 0;
    const imagine__weights *weights = model->stages[kind].weights;
    const imagine__tensor *t = imagine__weights_find(weights, name);
    CHECK(t && imagine__weights_read(weights, t, 0, sizeof value, &value, &err) == IMAGINE_OK);
    if (told ? !strstr(warning, told) : warning[0])
        test_fail(__FILE__, __LINE__, warning);
    imagine_model_release(&model);
    return value;
}

/* A file of the pack, whole, with all bytes of its data changed. */
static void copy_changed(const char *from, const char *to)
{
    static char bytes[1 << 20];
    char path[512];
    uint64_t header;
    snprintf(path, sizeof path, "%s/%s", folder, from);
    FILE *file = fopen(path, "rb");
    size_t size = file ? fread(bytes, 1, sizeof bytes, file) : 0;
    REQUIRE(file && size > 8 && size < sizeof bytes);
    fclose(file);
    memcpy(&header, bytes, 8);
    for (size_t i = 8 + (size_t)header; i < size; i++)
        bytes[i] ^= 1;
    snprintf(path, sizeof path, "%s/%s", folder, to);
    file = fopen(path, "wb");
    CHECK(file && fwrite(bytes, 1, size, file) == size && !fclose(file));
}

/* A model that was saved again in another number of files: what diffusers and transformers would read is read, and told. */
static void both_ways(void)
{
    static const struct {
        imagine__stage_kind kind;
        const char *folder, *base, *tensor, *told;
        int shards;
    } cases[] = {
        { IMAGINE__STAGE_TRANSFORMER, "transformer", "diffusion_pytorch_model", "patch_embedding.weight", "the shards are read", 1 },
        { IMAGINE__STAGE_ENCODER, "text_encoder", "model", "shared.weight", "the whole file is read, as transformers does", 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char whole[128], shard[128], index[160], text[256];
        restore();
        snprintf(whole, sizeof whole, "%s/%s.safetensors", cases[i].folder, cases[i].base);
        snprintf(shard, sizeof shard, "%s/%s-00001-of-00001.safetensors", cases[i].folder, cases[i].base);
        snprintf(index, sizeof index, "%s.index.json", whole);
        snprintf(text, sizeof text, "{\"weight_map\":{\"%s\":\"%s\"}}", cases[i].tensor, strchr(shard, '/') + 1);
        uint32_t old = first_weight(cases[i].kind, cases[i].tensor, NULL);
        copy_changed(whole, shard);
        CHECK(first_weight(cases[i].kind, cases[i].tensor, NULL) == old);
        replace(index, text);
        CHECK((first_weight(cases[i].kind, cases[i].tensor, cases[i].told) != old) == cases[i].shards);
        drop(shard);
        CHECK(first_weight(cases[i].kind, cases[i].tensor, cases[i].shards ? "since shards are missing" : cases[i].told) == old);
        replace(index, "{");
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine_model_info info;
        CHECK_STATUS(open_pack(&info, &err), cases[i].shards ? IMAGINE_ERROR_FORMAT : IMAGINE_OK);
        CHECK(!cases[i].shards || strstr(err.message, "index.json"));
    }
    restore();
}

/* Paths near a pack. */
static void near_a_pack(void)
{
    static const struct {
        const char *path;
        imagine_status status;
        const char *told;
    } cases[] = {
        { "above", IMAGINE_ERROR_NOT_FOUND, "one within: give " },
        { "above/models--Wan/snapshots/abc/transformer", IMAGINE_ERROR_NOT_FOUND, "one stage of a pack; give the folder above it" },
        { "above/models--Wan/snapshots/abc/tokenizer", IMAGINE_ERROR_NOT_FOUND, "one stage of a pack; give the folder above it" },
        { "weights", IMAGINE_ERROR_NOT_FOUND, "but Wan2.1_VAE.pth; examples/convert.py converts weights" },
        { "lora", IMAGINE_ERROR_NOT_FOUND, "but pytorch_lora_weights.safetensors; it looks like a LoRA" },
        { "weights/Wan2.1_VAE.pth", IMAGINE_ERROR_INVALID_ARGUMENT, "not a folder; give the folder that holds transformer/, vae/ and so on; examples/convert.py" },
        { "pack.zip", IMAGINE_ERROR_INVALID_ARGUMENT, "unpacked first" },
    };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model;
    char path[512], whole[512];
    restore();
    make_folder("weights");
    make_folder("lora");
    make_folder("above");
    make_folder("above/models--Wan");
    make_folder("above/models--Wan/blobs");
    make_folder("above/models--Wan/snapshots");
    link_to("", "above/models--Wan/snapshots/abc");
    replace("weights/Wan2.1_VAE.pth", "x");
    replace("lora/pytorch_lora_weights.safetensors", "x");
    replace("pack.zip", "x");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, cases[i].path);
        CHECK_STATUS(imagine_model_open(&model, context, path, NULL, &err), cases[i].status);
        if (!strstr(err.message, cases[i].told))
            test_fail(__FILE__, __LINE__, err.message);
    }
    snprintf(path, sizeof path, "%s/above", folder);
    snprintf(whole, sizeof whole, "give %s/above/models--Wan/snapshots/abc", folder);
    CHECK_STATUS(imagine_model_open(&model, context, path, NULL, &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK(strstr(err.message, whole) != NULL);
    snprintf(path, sizeof path, "%s/above/models--Wan/snapshots/abc", folder);
    CHECK_OK(imagine_model_open(&model, context, path, NULL, &err));
    imagine_model_release(&model);
}

/* Packs of models that are not run, and parts that are missing. */
static void other_models(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model_info info;
    imagine_model *model;
    imagine_job *job;
    imagine_job_options options;
    const imagine__tokenizer *tokenizer;
    REFUSED(change("model_index.json", "WanPipeline", "WanVACEPipeline"), IMAGINE_ERROR_MODEL, "take one of Wan's models for text to video");
    REFUSED(change("transformer/config.json", "WanTransformer3DModel", "WanModel"), IMAGINE_ERROR_MODEL, "weights with the original names");
    REFUSED(change("transformer/config.json", "\"image_dim\": null", "\"image_dim\": 1280"), IMAGINE_ERROR_MODEL, "(I2V)");
    REFUSED(change("transformer/config.json", "\"in_channels\": 16", "\"in_channels\": 36"), IMAGINE_ERROR_MODEL, "pictures or controls");
    REFUSED(change("transformer/config.json", "{", "{\"quantization_config\": {\"bits\": 4},"), IMAGINE_ERROR_MODEL, "quantised weights");
    REFUSED(drop("vae/config.json"), IMAGINE_ERROR_NOT_FOUND, "vae/config.json: it is to be downloaded, too");
    restore();
    change("model_index.json", "WanPipeline", "WanVideoToVideoPipeline");
    CHECK_OK(open_pack(&info, &err));
    drop("tokenizer/tokenizer.json");
    REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
    CHECK_STATUS(imagine__model_tokenizer(model, &tokenizer, NULL, &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK(strstr(err.message, "tokenizer.json: it is to be downloaded, too") && err.native_code == ENOENT);
    imagine_model_release(&model);
    drop("tokenizer");
    REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
    imagine_job_options_init(&options, sizeof options);
    options.prompt = "a";
    CHECK_STATUS(imagine_job_create(&job, model, &options, &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK(strstr(err.message, "has no tokenizer") != NULL);
    imagine_model_release(&model);
    restore();
}

#define ANCESTRAL "{\"_class_name\":\"LTXEulerAncestralRFScheduler\",\"eta\":1.0,\"s_noise\":1.0,"

static void schedules(void)
{
    static const struct {
        const char *text;
        imagine_schedule schedule;
        double shift;
        const char *warning;
    } cases[] = {
        { "{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\",\"shift\":5.0}", IMAGINE_SCHEDULE_FLOW, 5, "" },
        { "{\"_class_name\":\"UniPCMultistepScheduler\",\"use_flow_sigmas\":true,\"prediction_type\":\"flow_"
          "prediction\"}",
          IMAGINE_SCHEDULE_WAN_UNIPC, 1, "" },
        { "{\"_class_name\":\"UniPCMultistepScheduler\",\"use_flow_sigmas\":false,\"prediction_type\":\"epsilon\"}",
          IMAGINE_SCHEDULE_DEFAULT, 1, "\"epsilon\"" },
        { "{\"_class_name\":\"UniPCMultistepScheduler\"}", IMAGINE_SCHEDULE_DEFAULT, 1, "use_flow_sigmas" },
        { "{\"_class_name\":\"DDIMScheduler\"}", IMAGINE_SCHEDULE_DEFAULT, 1, "DDIMScheduler" },
        { ANCESTRAL "\"num_train_timesteps\":500}", IMAGINE_SCHEDULE_DEFAULT, 1, "num_train_timesteps" },
        { ANCESTRAL "\"use_karras_sigmas\":true}", IMAGINE_SCHEDULE_DEFAULT, 1, "use_karras_sigmas" },
        { ANCESTRAL "\"use_dynamic_shifting\":true}", IMAGINE_SCHEDULE_DEFAULT, 1, "use_dynamic_shifting" },
        { ANCESTRAL "\"shift_terminal\":0.1}", IMAGINE_SCHEDULE_DEFAULT, 1, "shift_terminal" },
        { ANCESTRAL "\"invert_sigmas\":true}", IMAGINE_SCHEDULE_DEFAULT, 1, "invert_sigmas" },
        { ANCESTRAL "\"shift\":3}", IMAGINE_SCHEDULE_FLOW, 3, "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine_model *model;
        restore();
        replace("scheduler/scheduler_config.json", cases[i].text);
        warning[0] = 0;
        REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
        const imagine__defaults *d = imagine__model_defaults(model);
        CHECK(d->schedule == cases[i].schedule && d->shift == cases[i].shift);
        imagine_status status = imagine__model_check_schedule(model, &err);
        CHECK(status == (cases[i].schedule ? IMAGINE_OK : err.status) && (cases[i].schedule || status < 0));
        CHECK(cases[i].schedule || strstr(err.message, cases[i].warning));
        CHECK(cases[i].warning[0] ? strstr(warning, cases[i].warning) != NULL : !warning[0]);
        imagine_model_release(&model);
    }
    restore();
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model;
    REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
    CHECK(imagine__model_defaults(model)->schedule == IMAGINE_SCHEDULE_WAN_UNIPC &&
          imagine__model_defaults(model)->shift == 3);
    imagine_model_release(&model);
}

/* What imagine.json or another scheduler's class chooses. */
static void chosen_schedules(void)
{
    static const struct {
        const char *file, *text;
        imagine_schedule schedule;
        imagine_step_rule rule;
        int32_t steps;
        double guidance, shift;
    } cases[] = {
        { "imagine.json", "{\"schedule\":\"self-forcing\"}", IMAGINE_SCHEDULE_SELF_FORCING, 0, 4, 1, 5 },
        { "imagine.json", "{\"schedule\":\"scm\",\"steps\":6,\"guidance\":2}", IMAGINE_SCHEDULE_SCM, 0, 6, 2, 1 },
        { "imagine.json", "{\"schedule\":\"flow\",\"step_rule\":\"heun\",\"shift\":7}", IMAGINE_SCHEDULE_FLOW,
          IMAGINE_STEP_HEUN, 50, 5, 7 },
        { "imagine.json", "{\"step_rule\":\"euler\"}", IMAGINE_SCHEDULE_WAN_UNIPC, IMAGINE_STEP_EULER, 50, 5, 3 },
        { "scheduler/scheduler_config.json",
          "{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\",\"stochastic_sampling\":true}", IMAGINE_SCHEDULE_FLOW,
          IMAGINE_STEP_RENOISE, 4, 3, 1 },
        /* A key that the class does not have, left over from another scheduler. */
        { "scheduler/scheduler_config.json",
          "{\"_class_name\":\"FlowMatchHeunDiscreteScheduler\",\"stochastic_sampling\":true,\"shift\":3}",
          IMAGINE_SCHEDULE_FLOW, IMAGINE_STEP_HEUN, 4, 3, 3 },
        { "scheduler/scheduler_config.json",
          "{\"_class_name\":\"UniPCMultistepScheduler\",\"use_flow_sigmas\":true,\"prediction_type\":\"flow_prediction\","
          "\"flow_shift\":2,\"stochastic_sampling\":true}", IMAGINE_SCHEDULE_WAN_UNIPC, IMAGINE_STEP_UNIPC, 4, 3, 2 },
        { "scheduler/scheduler_config.json", "{\"_class_name\":\"FlowMatchHeunDiscreteScheduler\",\"shift\":3}",
          IMAGINE_SCHEDULE_FLOW, IMAGINE_STEP_HEUN, 4, 3, 3 },
        { "scheduler/scheduler_config.json", "{\"_class_name\":\"FlowMatchLCMScheduler\",\"shift\":2}",
          IMAGINE_SCHEDULE_FLOW, IMAGINE_STEP_RENOISE, 4, 3, 2 },
        { "scheduler/scheduler_config.json", "{\"_class_name\":\"LTXEulerAncestralRFScheduler\",\"eta\":1}",
          IMAGINE_SCHEDULE_FLOW, IMAGINE_STEP_ANCESTRAL, 4, 3, 1 },
        { "scheduler/scheduler_config.json", "{\"_class_name\":\"SCMScheduler\"}", IMAGINE_SCHEDULE_SCM,
          IMAGINE_STEP_TRIGFLOW, 4, 3, 1 },
    };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model_info info;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        imagine_model *model;
        restore();
        replace(cases[i].file, cases[i].text);
        REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
        const imagine__defaults *d = imagine__model_defaults(model);
        CHECK(d->schedule == cases[i].schedule && d->step_rule == cases[i].rule && d->shift == cases[i].shift);
        CHECK(d->steps == cases[i].steps && d->guidance == cases[i].guidance);
        imagine_model_release(&model);
    }
    static const char *const bad[][2] = { { "{\"schedule\":\"fast\"}", "\"fast\"" },
                                          { "{\"schedule\":\"sigmas\"}", "\"sigmas\"" },
                                          { "{\"schedule\":3}", "\"schedule\" is 3" },
                                          { "{\"step_rule\":\"leap\"}", "\"leap\"" },
                                          { "{\"schedule\":\"z-image\",\"shift\":5}", "leave \"shift\" out" },
                                          { "{\"shift\":0}", "shift" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        restore();
        replace("imagine.json", bad[i][0]);
        CHECK_STATUS(open_pack(&info, &err), IMAGINE_ERROR_MODEL);
        CHECK(strstr(err.message, bad[i][1]) != NULL);
    }
    restore();
}

/* The transformer's weights as a file of their own, in which the first name of `from` is one that is as long. */
static void rename_tensor(const char *from, const char *to)
{
    static char bytes[1 << 18];
    const char *name = "transformer/diffusion_pytorch_model.safetensors";
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    size_t size = file ? fread(bytes, 1, sizeof bytes, file) : 0;
    REQUIRE(size > 8 && size < sizeof bytes && !fclose(file));
    char *found = memmem(bytes, size, from, strlen(from));
    REQUIRE(found && strlen(from) == strlen(to));
    memcpy(found, to, strlen(to));
    drop(name);
    file = fopen(path, "wb");
    CHECK(file && fwrite(bytes, 1, size, file) == size && !fclose(file));
}

/* FastWan's packs have a pipeline of their own and Wan's scheduler, which is not theirs; those with sparse attention are not run. */
static void fastwan(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model;
    const imagine__dit *dit = NULL;
    restore();
    change("model_index.json", "WanPipeline", "WanDMDPipeline");
    replace("imagine.json", "{}");
    REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
    const imagine__defaults *d = imagine__model_defaults(model);
    CHECK(d->schedule == IMAGINE_SCHEDULE_CAUSVID && d->step_rule == IMAGINE_STEP_DEFAULT);
    CHECK(d->steps == 3 && d->guidance == 1 && d->shift == 8);
    CHECK_OK(imagine__model_dit(model, IMAGINE__READ_AUTO, &dit, NULL, &err));
    imagine_model_release(&model);
    rename_tensor("blocks.0.attn1.to_q.weight", "blocks.0.to_gate_compress.");
    REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
    CHECK_STATUS(imagine__model_dit(model, IMAGINE__READ_AUTO, &dit, NULL, &err), IMAGINE_ERROR_MODEL);
    CHECK(strstr(err.message, "\"blocks.0.to_gate_compress.\"") && strstr(err.message, "FullAttn"));
    imagine_model_release(&model);
    restore();
}

/* The second look at the weights tells what it has seen: all of them, or, where it was cancelled, not all. */
static void second_look(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model;
    imagine_cancel *cancel;
    const imagine__dit *dit = NULL;
    restore();
    REQUIRE_OK(imagine_cancel_create(&cancel, context, &err));
    REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
    CHECK_OK(imagine__model_dit(model, IMAGINE__READ_AUTO, &dit, NULL, &err));
    CHECK_STATUS(imagine__fail_not_finite(model, "transformer", cancel, &err, "step %d", 3), IMAGINE_ERROR_NOT_FINITE);
    CHECK(!strncmp(err.message, "step 3; ", 8) && strstr(err.message, "as they are stored are finite"));
    imagine_cancel_fire(cancel);
    CHECK_STATUS(imagine__fail_not_finite(model, "transformer", cancel, &err, "step %d", 3), IMAGINE_ERROR_NOT_FINITE);
    CHECK(!strncmp(err.message, "step 3; ", 8) && !strstr(err.message, "are finite"));
    CHECK(strstr(err.message, "not seen to the end"));
    imagine__model_put(model, dit);
    imagine_model_release(&model);
    imagine_cancel_release(&cancel);
}

/* Stages are those that the pack had when it was opened, whatever their files say by the time they are loaded. */
static void changed_on_disk(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model;
    const imagine__umt5 *umt5 = NULL;
    const imagine__dit *dit = NULL;
    const imagine__vae_model *vae = NULL;
    restore();
    REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
    change("transformer/config.json", "\"in_channels\": 16", "\"in_channels\": 64");
    change("transformer/config.json", "\"out_channels\": 16", "\"out_channels\": 64");
    change("transformer/config.json", "\"patch_size\"", "\"patch_size\": [1, 1, 1], \"_\"");
    replace("vae/config.json", "{");
    drop("text_encoder/config.json");
    CHECK_OK(imagine__model_dit(model, IMAGINE__READ_AUTO, &dit, NULL, &err));
    CHECK_OK(imagine__model_vae(model, &vae, NULL, &err));
    CHECK_OK(imagine__model_umt5(model, IMAGINE__READ_AUTO, &umt5, NULL, &err));
    CHECK(dit && imagine__dit_get_config(dit)->in_channels == 16 && imagine__dit_get_config(dit)->patch_h == 2);
    CHECK(vae && imagine__vae_get_config(vae)->z_dim == 16);
    CHECK(umt5 && imagine__umt5_dim(umt5) == 16);
    imagine_model_release(&model);
    restore();
}

typedef struct ask {
    imagine_model *model;
    const imagine__dit *dit;
    const imagine__umt5 *umt5;
    const imagine__vae_model *vae;
    const imagine__tokenizer *tokenizer;
    imagine_status status;
} ask;

static void *ask_for_all(void *arg)
{
    ask *a = arg;
    imagine_error err = IMAGINE_ERROR_INIT;
    a->status = imagine__model_dit(a->model, IMAGINE__READ_AUTO, &a->dit, NULL, &err);
    a->status |= imagine__model_umt5(a->model, IMAGINE__READ_AUTO, &a->umt5, NULL, &err);
    a->status |= imagine__model_vae(a->model, &a->vae, NULL, &err);
    a->status |= imagine__model_tokenizer(a->model, &a->tokenizer, NULL, &err);
    return NULL;
}

static void loaded_once(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model;
    pthread_t threads[4];
    ask asks[4];
    restore();
    REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
    for (int i = 0; i < 4; i++) {
        asks[i] = (ask) { .model = model };
        REQUIRE(!pthread_create(&threads[i], NULL, ask_for_all, &asks[i]));
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 4; i++) {
        CHECK(asks[i].status == IMAGINE_OK && asks[i].dit && asks[i].umt5 && asks[i].vae && asks[i].tokenizer);
        CHECK(asks[i].dit == asks[0].dit && asks[i].umt5 == asks[0].umt5 && asks[i].vae == asks[0].vae);
        CHECK(asks[i].tokenizer == asks[0].tokenizer);
    }
    imagine_model *second = imagine_model_retain(model);
    imagine_model_release(&model);
    CHECK(imagine__model_context(second) == context);
    imagine_model_release(&second);
    imagine_model_release(&second);
}

/* A failure is not kept: the next call tries again. */
static void tried_again(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *model;
    imagine_cancel *cancel;
    const imagine__dit *dit;
    restore();
    REQUIRE_OK(imagine_model_open(&model, context, folder, NULL, &err));
    REQUIRE_OK(imagine_cancel_create(&cancel, context, &err));
    imagine_cancel_fire(cancel);
    CHECK_STATUS(imagine__model_dit(model, IMAGINE__READ_AUTO, &dit, cancel, &err), IMAGINE_ERROR_CANCELLED);
    CHECK(!dit);
    imagine_cancel_reset(cancel);
    CHECK_OK(imagine__model_dit(model, IMAGINE__READ_AUTO, &dit, cancel, &err));
    CHECK(dit != NULL);
    imagine_cancel_release(&cancel);
    imagine_model_release(&model);
}

/* ---- given back while a plan is made ----------------------------------------------------------------------------- */

/* A model whose transformer is loaded and unused, and a stand-in that was made then. */
typedef struct planned {
    imagine_context *planning;
    imagine_model *model, *plan;
    const imagine__dit *dit;
} planned;

static int open_planned(planned *p)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    *p = (planned){ .model = NULL };
    CHECK_OK(imagine_model_open(&p->model, context, folder, NULL, &err));
    CHECK_OK(imagine__model_dit(p->model, IMAGINE__READ_AUTO, &p->dit, NULL, &err));
    imagine__model_put(p->model, p->dit);
    CHECK_OK(imagine__context_plan(&p->planning, context, 1 << 30, &err));
    CHECK_OK(imagine__model_plan(&p->plan, p->model, p->planning, &err));
    return p->plan && p->dit;
}

static void close_planned(planned *p)
{
    imagine_model_release(&p->plan);
    imagine_context_release(&p->planning);
    imagine_model_release(&p->model);
}

static int is_held(const planned *p)
{
    return imagine__model_held(p->model, IMAGINE_STAGE_SAMPLER) > 0;
}

/* Weights that are to be given back while a stand-in has them go with the last of these. */
static void given_back_with_the_last_pin(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_model *second = NULL;
    planned p;
    restore();
    if (open_planned(&p)) {
        CHECK_OK(imagine__model_plan(&second, p.model, p.planning, &err));
        imagine__model_give_back(p.model);
        CHECK(is_held(&p));
        imagine_model_release(&p.plan);
        CHECK(is_held(&p));
        imagine_model_release(&second);
        CHECK(!is_held(&p));
        CHECK_OK(imagine__model_dit(p.model, IMAGINE__READ_AUTO, &p.dit, NULL, &err)); /* they can be had again */
        CHECK(is_held(&p));
        imagine__model_put(p.model, p.dit);
    }
    close_planned(&p);
}

/* A plan that ends with a stage gives its pin back early, and counts what that stage held no more. */
static void given_back_in_a_plan(void)
{
    imagine_context_info before = { .struct_size = sizeof before }, after = before;
    planned p;
    restore();
    if (open_planned(&p)) {
        imagine__model_give_back(p.model);
        CHECK(is_held(&p));
        imagine_context_get_info(p.planning, &before, NULL);
        imagine__model_give_back(p.plan);
        imagine_context_get_info(p.planning, &after, NULL);
        CHECK(!is_held(&p) && after.memory_used < before.memory_used);
    }
    close_planned(&p);
}

/* They stay where nobody wanted their memory, and where a handle has come for them in between. */
static void kept_after_a_plan(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    const imagine__dit *again = NULL;
    planned p;
    restore();
    if (open_planned(&p)) {
        imagine_model_release(&p.plan);
        CHECK(is_held(&p));
        CHECK_OK(imagine__model_plan(&p.plan, p.model, p.planning, &err));
        imagine__model_give_back(p.model);
        CHECK_OK(imagine__model_dit(p.model, IMAGINE__READ_AUTO, &again, NULL, &err));
        CHECK(again == p.dit);
        imagine_model_release(&p.plan);
        CHECK(is_held(&p));
        imagine__model_put(p.model, again);
        CHECK(is_held(&p));
        imagine__model_give_back(p.model);
        CHECK(!is_held(&p));
    }
    close_planned(&p);
}

/* ---- every allocation failing in turn -------------------------------------------------------- */

typedef struct counting {
    long calls, blocks, refuse;
} counting;

static void *count_alloc(void *data, size_t size, size_t alignment)
{
    counting *c = data;
    void *pointer = NULL;
    if (c->calls++ == c->refuse || posix_memalign(&pointer, alignment, size))
        return NULL;
    c->blocks++;
    return pointer;
}

static void count_free(void *data, void *pointer, size_t size)
{
    (void)size;
    ((counting *)data)->blocks--;
    free(pointer);
}

static imagine_status open_and_load(counting *c, imagine_error *error)
{
    imagine_context_options o;
    imagine_context *own = NULL;
    imagine_model *model = NULL;
    ask a = { 0 };
    imagine_context_options_init(&o, sizeof o);
    o.threads = 1;
    o.allocate = count_alloc;
    o.release = count_free;
    o.allocator_data = c;
    imagine_status status = imagine_context_create(&own, &o, error);
    if (status >= 0)
        status = imagine_model_open(&model, own, folder, NULL, error);
    if (status >= 0)
        status = imagine__model_tokenizer(model, &a.tokenizer, NULL, error);
    if (status >= 0)
        status = imagine__model_umt5(model, IMAGINE__READ_AUTO, &a.umt5, NULL, error);
    if (status >= 0)
        status = imagine__model_dit(model, IMAGINE__READ_AUTO, &a.dit, NULL, error);
    if (status >= 0)
        status = imagine__model_vae(model, &a.vae, NULL, error);
    imagine_context_release(&own);
    imagine_model_release(&model);
    return status;
}

static void every_allocation_fails(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    counting c = { .refuse = -1 };
    restore();
    REQUIRE_OK(open_and_load(&c, &err));
    CHECK(c.blocks == 0 && c.calls > 300);
    long calls = c.calls;
    for (long i = 0; i < calls; i++) {
        c = (counting) { .refuse = i };
        imagine_status status = open_and_load(&c, &err);
        if (status != IMAGINE_ERROR_NO_MEMORY || c.blocks) {
            test_fail(__FILE__, __LINE__, "out of memory and nothing left");
            fprintf(stderr, "    allocation %ld: status %d, %ld blocks left: %s\n", i, (int)status, c.blocks,
                    err.message);
        }
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "whole", whole },
        { "parts", parts },
        { "sizes without VAE", sizes_without_vae },
        { "refused", refused },
        { "other weights", other_weights },
        { "other bytes", other_bytes },
        { "both ways", both_ways },
        { "near a pack", near_a_pack },
        { "other models", other_models },
        { "schedules", schedules }, { "chosen schedules", chosen_schedules },
        { "fastwan", fastwan }, { "second look", second_look },
        { "changed on disk", changed_on_disk },
        { "loaded_once", loaded_once },
        { "tried_again", tried_again },
        { "given back with the last pin", given_back_with_the_last_pin },
        { "given back in a plan", given_back_in_a_plan },
        { "kept after a plan", kept_after_a_plan },
        { "every_allocation_fails", every_allocation_fails },
    };
    imagine_context_options options;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 2;
    options.log = remember;
    if (!mkdtemp(folder) || imagine_context_create(&context, &options, NULL) < 0)
        return 1;
    int result = test_main("model/pack", cases, sizeof cases / sizeof *cases, argc, argv);
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    rmdir(folder);
    imagine_context_release(&context);
    return result;
}
