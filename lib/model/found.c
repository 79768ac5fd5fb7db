/* SPDX-License-Identifier: MIT */

/* What is there in place of what was wanted, and what to do about it: for messages alone. Downloads end early, leave pointers or web
 * pages, and checkpoints come in other layouts than a pack's. */

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "model/safetensors.h"

#define MOST_FOLDERS 256 /* that are looked into for a pack */
#define DEEPEST      3 /* a cache of downloads has models--NAME/snapshots/COMMIT */

const char *imagine__begins_as(const char *bytes, size_t size)
{
    static const struct {
        const char *begin;
        size_t size;
        const char *told;
    } known[] = {
        { "version https://git-lfs", 23,
          "it is a pointer of git-lfs, not the file itself; get that with \"git lfs pull\", or download it again" },
        { "GGUF", 4, "it is a GGUF file, which this library does not read; take the model's safetensors" },
        { "PK\3\4", 4, "it is a zip archive, as PyTorch's pickles are, too; unpack it, or convert weights with examples/convert.py" },
        { "\x80\2", 2, "it is a pickle, which may run code and is not opened; convert it with examples/convert.py" },
        { "\x1f\x8b", 2, "it is compressed with gzip; unpack it" },
        { "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16, "it begins with zeros, as a download does that has not ended; download it again" },
    };
    size_t at = 0;
    if (!size)
        return "it is empty; download it again";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (size >= known[i].size && !memcmp(bytes, known[i].begin, known[i].size))
            return known[i].told;
    while (at < size && strchr(" \t\r\n", bytes[at]) && bytes[at])
        at++;
    return at < size && bytes[at] == '<' ? "it is a web page, not the file itself; download it again" : NULL;
}

const char *imagine__weights_hint(const imagine__weights *weights)
{
    static const char *const originals[] = { "head.modulation", "token_embedding.weight", "decoder.head.0.gamma" };
    for (size_t i = 0; i < weights->count; i++) {
        const char *name = weights->tensors[i].name;
        if (strstr(name, ".lora_"))
            return "; it is a LoRA, which diffusers can merge into its model (fuse_lora, then save_pretrained)";
        for (size_t k = 0; k < sizeof originals / sizeof *originals; k++)
            if (imagine__ends_with(name, originals[k]))
                return "; it has the original model's names: convert it with examples/convert.py";
    }
    return "";
}

const char *imagine__weights_like(const imagine__weights *weights, const char *part)
{
    for (size_t i = 0; i < weights->count; i++)
        if (strstr(weights->tensors[i].name, part))
            return weights->tensors[i].name;
    return NULL;
}

int imagine__ends_with(const char *name, const char *end)
{
    size_t length = strlen(name), tail = strlen(end);
    return length >= tail && !strcmp(name + length - tail, end);
}

/* ---- a folder without the weights that its stage has ------------------------------------------------------------ */

typedef enum kind { LINK, SHARD, VARIANT, VARIANT_INDEX, PARTIAL, GGUF, OTHER, PICKLE, KINDS } kind;

static int is_pickle(const char *name)
{
    return imagine__ends_with(name, ".bin") || imagine__ends_with(name, ".pth") || imagine__ends_with(name, ".pt") ||
           imagine__ends_with(name, ".ckpt");
}

static int is_partial(const char *name)
{
    static const char *const ends[] = { ".incomplete", ".crdownload", ".part", ".aria2", ".download" };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (imagine__ends_with(name, ends[i]))
            return 1;
    return 0;
}

/* LINK: the file itself, which was not found, so that its name can only be a link. KINDS: nothing that matters. */
static kind kind_of(const char *name, const char *base)
{
    size_t length = strlen(base);
    int ours = !strncmp(name, base, length);
    if (ours && (!strcmp(name + length, ".safetensors") || !strcmp(name + length, ".safetensors.index.json")))
        return LINK;
    if (is_partial(name))
        return PARTIAL;
    if (imagine__ends_with(name, ".gguf"))
        return GGUF;
    if (is_pickle(name))
        return PICKLE;
    if (ours && !strncmp(name + length, ".safetensors.index.", 19) && imagine__ends_with(name, ".json"))
        return VARIANT_INDEX;
    if (!imagine__ends_with(name, ".safetensors"))
        return KINDS;
    return ours && name[length] == '-' && strstr(name, "-of-") ? SHARD : ours && name[length] == '.' ? VARIANT : OTHER;
}

/* The first name of each kind, in the order of the alphabet; "" where there is none. */
static void list(const char *folder, const char *base, char names[KINDS][NAME_MAX + 1])
{
    DIR *dir = opendir(folder);
    for (int i = 0; i < KINDS; i++)
        names[i][0] = 0;
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        kind k = kind_of(entry->d_name, base);
        if (k != KINDS && (!names[k][0] || strcmp(entry->d_name, names[k]) < 0))
            snprintf(names[k], sizeof names[k], "%s", entry->d_name);
    }
    closedir(dir);
}

static imagine_status fail_pickle(const char *folder, const char *name, imagine_error *error)
{
    return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                         "%s: holds %s, a pickle, and no safetensors file. Pickles can run code and are not opened: convert "
                         "it, with examples/convert.py for original Wan, umT5 and Self-Forcing files, else with save_pretrained of "
                         "diffusers or transformers, which write safetensors",
                         folder, name);
}

imagine_status imagine__fail_no_weights(const char *folder, const char *base, imagine_error *error)
{
    char names[KINDS][NAME_MAX + 1];
    list(folder, base, names);
    if (*names[LINK])
        return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND, "%s/%s: a link to a file that is not there; download it again", folder,
                             names[LINK]);
    if (*names[VARIANT_INDEX])
        return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND,
                             "%s: has %s, the index of a variant; rename it to %s.safetensors.index.json, or link it under that name",
                             folder, names[VARIANT_INDEX], base);
    if (*names[VARIANT])
        return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND,
                             "%s: has %s, a variant; rename it to %s.safetensors, or link it under that name", folder, names[VARIANT],
                             base);
    if (*names[SHARD])
        return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND,
                             "%s: has %s, but no %s.safetensors.index.json, which says what is in which file; download that, too",
                             folder, names[SHARD], base);
    if (*names[PARTIAL])
        return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND,
                             "%s: has no %s.safetensors, but %s, a download that has not ended; go on with it", folder, base,
                             names[PARTIAL]);
    if (*names[OTHER])
        return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND,
                             "%s: has no %s.safetensors, but %s; rename that if its tensors have diffusers' names, else convert it with "
                             "examples/convert.py",
                             folder, base, names[OTHER]);
    if (*names[PICKLE])
        return fail_pickle(folder, names[PICKLE], error);
    if (*names[GGUF])
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "%s: has no %s.safetensors, but %s; GGUF is not read, take the model's safetensors", folder, base,
                             names[GGUF]);
    return imagine__fail_errno(error, IMAGINE_ERROR_NOT_FOUND, ENOENT,
                               "%s/%s.safetensors: the weights are to be downloaded, too, this file or %s.safetensors.index.json and its "
                               "shards", folder, base, base);
}

/* ---- a path that is no pack ------------------------------------------------------------------------------------- */

static int there(const char *folder, const char *name)
{
    char path[PATH_MAX];
    imagine__path_kind found = IMAGINE__PATH_NONE;
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    return length < (int)sizeof path && imagine__look(path, &found, NULL) >= 0 && found == IMAGINE__PATH_FILE;
}

static int is_pack(const char *folder)
{
    return there(folder, "model_index.json") || there(folder, "transformer/config.json");
}

/* A pack in a folder within `path`, which is of `room` bytes and becomes that folder's. 0: none. */
static int find_pack(char *path, size_t room, int deepest, int *folders)
{
    size_t length = strlen(path);
    DIR *dir = opendir(path);
    int found = 0;
    if (!dir)
        return 0;
    for (struct dirent *entry; !found && (entry = readdir(dir)) && *folders > 0;) {
        if (*entry->d_name == '.' || (entry->d_type != DT_DIR && entry->d_type != DT_LNK && entry->d_type != DT_UNKNOWN))
            continue;
        int more = snprintf(path + length, room - length, "/%s", entry->d_name);
        --*folders;
        found = more < (int)(room - length) && (is_pack(path) || (deepest > 1 && find_pack(path, room, deepest - 1, folders)));
    }
    closedir(dir);
    if (!found)
        path[length] = 0;
    return found;
}

static const char *what_weights_need(const char *name)
{
    if (imagine__ends_with(name, ".gguf"))
        return "GGUF is not read, take the model's safetensors";
    if (strstr(name, "lora") || !strncmp(name, "adapter_model", 13))
        return "it looks like a LoRA, which diffusers can merge into its model (fuse_lora, then save_pretrained)";
    if (is_partial(name))
        return "it is a download that has not ended";
    return "examples/convert.py converts weights with the original names, and docs/models.md tells which folder each belongs in";
}

imagine_status imagine__fail_no_pack(const char *path, imagine_error *error)
{
    static const char *const configurations[] = { "config.json", "scheduler_config.json", "tokenizer_config.json", "tokenizer.json" };
    char place[PATH_MAX], names[KINDS][NAME_MAX + 1];
    int one = 0, folders = MOST_FOLDERS;
    for (size_t i = 0; i < sizeof configurations / sizeof *configurations; i++)
        one |= there(path, configurations[i]);
    if (one && (there(path, "../model_index.json") || there(path, "../transformer/config.json")))
        return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND, "%s: one stage of a pack; give the folder above it", path);
    if (snprintf(place, sizeof place, "%s", path) < (int)sizeof place && find_pack(place, sizeof place, DEEPEST, &folders))
        return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND, "%s: no model pack, but there is one within: give %s", path, place);
    list(path, "", names);
    for (int i = 0; i < KINDS; i++)
        if (*names[i] && i != VARIANT_INDEX)
            return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND,
                                 "%s: no model pack: it has no transformer/, vae/, text_encoder/ or tokenizer/, but %s; %s", path, names[i],
                                 what_weights_need(names[i]));
    return imagine__fail(error, IMAGINE_ERROR_NOT_FOUND, "%s: no model pack: it has no transformer/, vae/, text_encoder/ or tokenizer/; "
                         "docs/models.md tells what is in a pack", path);
}

imagine_status imagine__fail_file_is_no_pack(const char *path, imagine_error *error)
{
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    kind k = kind_of(name, "");
    int weights = k != KINDS && k != VARIANT_INDEX;
    int archive = imagine__ends_with(name, ".zip") || imagine__ends_with(name, ".tar") || imagine__ends_with(name, ".gz");
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                         "%s: not a folder; give the folder that holds transformer/, vae/ and so on%s%s", path,
                         weights || archive ? "; " : "",
                         archive   ? "an archive is to be unpacked first"
                         : weights ? what_weights_need(name)
                                   : "");
}
