/* SPDX-License-Identifier: MIT */

/* transformer/config.json, in the keys of diffusers' WanTransformer3DModel and with its defaults. */

#include "dit/inside.h"

#include <string.h>

/* Integers with their limits: far above any published model, and low enough that no product of them overflows. */
static imagine_status read_sizes(imagine__config *file, imagine__dit_config *config, imagine_error *error)
{
    const struct {
        const char *key;
        int32_t *value;
        int64_t otherwise, max;
    } sizes[] = {
        { "num_attention_heads", &config->heads, 40, 1024 },
        { "attention_head_dim", &config->head_dim, 128, 1024 },
        { "in_channels", &config->in_channels, 16, 4096 },
        { "text_dim", &config->text_dim, 4096, 1 << 17 },
        { "freq_dim", &config->freq_dim, 256, 1 << 14 },
        { "ffn_dim", &config->ffn_dim, 13824, 1 << 20 },
        { "num_layers", &config->layers, 40, 4096 },
        { "rope_max_seq_len", &config->rope_max_seq_len, 1024, 1 << 20 },
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t value;
        imagine_status status =
            imagine__config_int(file, sizes[i].key, &value, sizes[i].otherwise, 1, sizes[i].max, error);
        if (status < 0)
            return status;
        *sizes[i].value = (int32_t)value;
    }
    int64_t out;
    imagine_status status = imagine__config_int(file, "out_channels", &out, config->in_channels, 1, 4096, error);
    if (status < 0)
        return status;
    config->out_channels = (int32_t)out;
    return IMAGINE_OK;
}

static imagine_status read_patch(imagine__config *file, imagine__dit_config *config, imagine_error *error)
{
    double patch[3] = { 1, 2, 2 };
    int32_t count = 3, *out[3] = { &config->patch_t, &config->patch_h, &config->patch_w };
    imagine_status status = imagine__config_doubles(file, "patch_size", patch, &count, error);
    if (status < 0)
        return status;
    for (int i = 0; i < 3; i++) {
        if ((count != 0 && count != 3) || !(patch[i] >= 1 && patch[i] <= 16) || patch[i] != (double)(int32_t)patch[i])
            return imagine__fail(error, IMAGINE_ERROR_MODEL,
                                 "%s: \"patch_size\" is [%g, %g, %g]%s; it must be three whole numbers from 1 to 16 "
                                 "(time, height, width)",
                                 imagine__config_path(file), patch[0], patch[1], patch[2],
                                 count == 3 ? "" : " with the defaults");
        *out[i] = (int32_t)patch[i];
    }
    return IMAGINE_OK;
}

static imagine_status check_class(imagine__config *file, imagine_error *error)
{
    const char *name;
    imagine_status status = imagine__config_string(file, "_class_name", &name, NULL, error);
    if (status >= 0 && name && !strcmp(name, "WanModel"))
        return imagine__fail(error, IMAGINE_ERROR_MODEL,
                             "%s: \"_class_name\" is \"WanModel\", as beside weights with the original names; take the file of the same "
                             "model in diffusers' layout, where it is \"WanTransformer3DModel\"", imagine__config_path(file));
    return status < 0 ? status : imagine__config_expect(file, "_class_name", "\"WanTransformer3DModel\"", error);
}

static imagine_status refuse_pictures(imagine__config *file, imagine_error *error)
{
    static const char *const keys[] = { "image_dim", "added_kv_proj_dim" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int64_t dim;
        imagine_status status = imagine__config_int(file, keys[i], &dim, 0, INT64_MIN, INT64_MAX, error);
        if (status >= 0 && imagine__config_has(file, keys[i]))
            status = imagine__fail(error, IMAGINE_ERROR_MODEL,
                                   "%s: \"%s\" is %lld, this library runs null: it is a model from picture to video (I2V); take one from "
                                   "text to video (T2V), or TI2V 5B, which also begins with a picture",
                                   imagine__config_path(file), keys[i], (long long)dim);
        if (status < 0)
            return status;
    }
    return IMAGINE_OK;
}

/* Keys that only another model would set: other norms, other attention. */
static imagine_status refuse_others(imagine__config *file, imagine_error *error)
{
    static const struct {
        const char *key, *value;
    } fixed[] = {
        { "qk_norm", "\"rms_norm_across_heads\"" },
        { "pos_embed_seq_len", "null" },
        { "add_img_emb", "false" },
        { "window_size", "[-1, -1]" },
    };
    imagine_status status = check_class(file, error);
    if (status >= 0)
        status = refuse_pictures(file, error);
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed && status >= 0; i++)
        status = imagine__config_expect(file, fixed[i].key, fixed[i].value, error);
    return status < 0 ? status : imagine__config_no_others(file, NULL, error);
}

static imagine_status read_all(imagine__config *file, imagine__dit_config *config, imagine_error *error)
{
    imagine_status status = read_sizes(file, config, error);
    if (status >= 0)
        status = read_patch(file, config, error);
    if (status >= 0)
        status = imagine__config_bool(file, "cross_attn_norm", &config->cross_attn_norm, 1, error);
    double eps = 0;
    if (status >= 0)
        status = imagine__config_double(file, "eps", &eps, 1e-6, error);
    config->eps = (float)eps;
    if (status >= 0)
        status = refuse_others(file, error);
    if (status < 0)
        return status;
    if (config->head_dim % 2 != 0)
        return imagine__fail(error, IMAGINE_ERROR_MODEL,
                             "%s: \"attention_head_dim\" is %d; it must be even, since RoPE turns pairs",
                             imagine__config_path(file), config->head_dim);
    if (config->freq_dim < 2)
        return imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"freq_dim\" is %d; it must be at least 2",
                             imagine__config_path(file), config->freq_dim);
    if (!(config->eps >= 0 && config->eps < 1))
        return imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"eps\" is %g; it must lie between 0 and 1",
                             imagine__config_path(file), eps);
    return IMAGINE_OK;
}

imagine_status imagine__dit_read_config(imagine__dit_config *config, imagine_context *context, const char *folder,
                                        imagine_error *error)
{
    static const char name[] = "/config.json";
    size_t length = strlen(folder);
    char *path = imagine__alloc(context, length + sizeof name);
    if (!path)
        return imagine__fail_memory_in(context, error, length + sizeof name, "a path");
    memcpy(path, folder, length);
    memcpy(path + length, name, sizeof name);
    imagine__config *file = NULL;
    imagine_status status = imagine__config_open(&file, context, path, error);
    imagine__free(context, path);
    if (status < 0)
        return status;
    memset(config, 0, sizeof *config);
    status = read_all(file, config, error);
    imagine__config_close(context, file);
    return status;
}
