/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <string.h>

#include "vae/internal.h"

static imagine_status read_dims(imagine__vae_config *c, imagine__config *file, imagine_error *error)
{
    double mult[VAE_MAX_LEVELS] = { 1, 2, 4, 4 };
    int32_t count = VAE_MAX_LEVELS;
    int64_t base, decoder, z, blocks;
    imagine_status status;

    if ((status = imagine__config_int(file, "base_dim", &base, 96, 1, 4096, error)) < 0 ||
        (status = imagine__config_int(file, "decoder_base_dim", &decoder, base, 1, 4096, error)) < 0 ||
        (status = imagine__config_int(file, "z_dim", &z, 16, 1, 128, error)) < 0 ||
        (status = imagine__config_int(file, "num_res_blocks", &blocks, 2, 1, VAE_MAX_BLOCKS - 1, error)) < 0 ||
        (status = imagine__config_doubles(file, "dim_mult", mult, &count, error)) < 0)
        return status;
    c->base_dim = (int32_t)base;
    c->decoder_base_dim = (int32_t)decoder;
    c->z_dim = (int32_t)z;
    c->res_blocks = (int32_t)blocks;
    c->levels = count ? count : 4;
    for (int32_t i = 0; i < c->levels; i++) {
        if (!(mult[i] >= 1 && mult[i] <= 64) || floor(mult[i]) != mult[i])
            return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED, "%s: \"dim_mult\" holds %g, this library runs whole "
                                 "numbers from 1 to 64", imagine__config_path(file), mult[i]);
        c->dim_mult[i] = (int32_t)mult[i];
    }
    return IMAGINE_OK;
}

/* Pixels that go through the network together, and the levels' kind. */
static imagine_status read_kind(imagine__vae_config *c, imagine__config *file, imagine_error *error)
{
    static const char *const keys[] = { "in_channels", "out_channels" };
    int64_t patch, channels;
    imagine_status status;

    if ((status = imagine__config_bool(file, "is_residual", &c->residual, 0, error)) < 0 ||
        (status = imagine__config_int(file, "patch_size", &patch, 1, 1, 8, error)) < 0)
        return status;
    c->patch = (int32_t)patch;
    for (size_t i = 0; i < 2; i++) {
        if ((status = imagine__config_int(file, keys[i], &channels, 3, 1, 1 << 20, error)) < 0)
            return status;
        if (channels != 3 * patch * patch)
            return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED, "%s: \"%s\" is %lld, this library runs %lld (3 "
                                 "colours) with a \"patch_size\" of %lld", imagine__config_path(file), keys[i],
                                 (long long)channels, (long long)(3 * patch * patch), (long long)patch);
    }
    return IMAGINE_OK;
}

/* A level that enlarges halves its channels, where levels are not residual: there must be two. All but the last of the decoder do. */
static imagine_status check_halving(const imagine__vae_config *c, const imagine__config *file, imagine_error *error)
{
    for (int32_t i = 1; i < c->levels && !c->residual; i++)
        if (c->decoder_base_dim * c->dim_mult[i] < 2)
            return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED, "%s: \"decoder_base_dim\" of %d times the %d of \"dim_mult\" is a "
                                 "single channel, which the decoder cannot halve", imagine__config_path(file),
                                 (int)c->decoder_base_dim, (int)c->dim_mult[i]);
    return IMAGINE_OK;
}

/* The shortcuts of residual levels: each channel must be the mean, or one of the copies, of a whole number of
 * others. */
static imagine_status check_shortcuts(const imagine__vae_config *c, const imagine__config *file, imagine_error *error)
{
    const int32_t *m = c->dim_mult, last = c->levels - 1;
    for (int32_t i = 0; c->residual && i <= last; i++) {
        int32_t factor = i == last ? 1 : c->temporal_down[i] ? 8 : 4, before = i ? m[i - 1] : 1;
        int32_t above = m[i + 2 < last ? i + 2 : last]; /* in the decoder, which goes from there to level i + 1 */
        if (before * factor % m[i] || (i < last && m[i + 1] * factor % above))
            return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED, "%s: with \"is_residual\" true, the steps between "
                                 "the values of \"dim_mult\" at %d cannot be bridged without parameters",
                                 imagine__config_path(file), (int)m[i]);
    }
    return IMAGINE_OK;
}

/* Which levels halve time, and the factors that follow. */
static imagine_status read_factors(imagine__vae_config *c, imagine__config *file, imagine_error *error)
{
    double down[VAE_MAX_LEVELS] = { 0, 1, 1 };
    int32_t count = VAE_MAX_LEVELS;
    int64_t factor, halved = 0;
    imagine_status status = imagine__config_doubles(file, "temperal_downsample", down, &count, error);
    if (status < 0)
        return status;
    if (!count && c->levels == 4)
        count = 3;
    if (count != c->levels - 1)
        return imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"temperal_downsample\" has %d values, %d levels of "
                             "\"dim_mult\" need %d", imagine__config_path(file), (int)count, (int)c->levels,
                             (int)c->levels - 1);
    c->spatial_factor = c->patch << (c->levels - 1);
    for (int32_t i = 0; i < count; i++) {
        c->temporal_down[i] = down[i] != 0;
        halved += c->temporal_down[i];
    }
    if (halved > 2)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED, "%s: \"temperal_downsample\" halves time %d times, this "
                             "library runs at most 2", imagine__config_path(file), (int)halved);
    c->temporal_factor = 1 << halved;
    status = imagine__config_int(file, "scale_factor_spatial", &factor, c->spatial_factor, c->spatial_factor,
                                 c->spatial_factor, error);
    if (status >= 0)
        status = imagine__config_int(file, "scale_factor_temporal", &factor, c->temporal_factor, c->temporal_factor,
                                     c->temporal_factor, error);
    return status;
}

/* One of the two lists of `z_dim` numbers. */
static imagine_status read_latents(float *out, int32_t z_dim, imagine__config *file, const char *key, double above,
                                   imagine_error *error)
{
    double values[128];
    int32_t count = 128;
    imagine_status status = imagine__config_doubles(file, key, values, &count, error);
    if (status < 0)
        return status;
    if (count != z_dim)
        return imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"%s\" has %d values, \"z_dim\" is %d",
                             imagine__config_path(file), key, (int)count, (int)z_dim);
    for (int32_t i = 0; i < count; i++) {
        if (!(values[i] > above) || values[i] > 1e30)
            return imagine__fail(error, IMAGINE_ERROR_MODEL, "%s: \"%s\" holds %g, which cannot be",
                                 imagine__config_path(file), key, values[i]);
        out[i] = (float)values[i];
    }
    return IMAGINE_OK;
}

/* What this library runs one value of only. */
static imagine_status expect_rest(imagine__config *file, imagine_error *error)
{
    static const char *const expected[][2] = {
        { "_class_name", "\"AutoencoderKLWan\"" },
        { "attn_scales", "[]" },
    };
    double dropout;
    int clip;

    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        imagine_status status = imagine__config_expect(file, expected[i][0], expected[i][1], error);
        if (status < 0)
            return status;
    }
    /* Dropout is for training; whatever its rate, it does nothing here. "clip_output" stands in the published configuration of Wan 2.2's
     * VAE, and no diffusers has looked at it: what is decoded is clipped always. */
    imagine_status status = imagine__config_double(file, "dropout", &dropout, 0, error);
    if (status >= 0)
        status = imagine__config_bool(file, "clip_output", &clip, 0, error);
    return status < 0 ? status : imagine__config_no_others(file, NULL, error);
}

imagine_status imagine__vae_read_config(imagine__vae_config *config, imagine_context *context, const char *folder,
                                        imagine_error *error)
{
    imagine__config *file = NULL;
    size_t length = strlen(folder);
    char *path = imagine__alloc(context, length + sizeof "/config.json");
    if (!path)
        return imagine__fail_memory_in(context, error, length, "a path");
    memcpy(path, folder, length);
    memcpy(path + length, "/config.json", sizeof "/config.json");

    memset(config, 0, sizeof *config);
    imagine_status status = imagine__config_open(&file, context, path, error);
    if (status < 0)
        goto done;
    if ((status = read_dims(config, file, error)) < 0 || (status = read_kind(config, file, error)) < 0 ||
        (status = check_halving(config, file, error)) < 0 ||
        (status = read_factors(config, file, error)) < 0 || (status = check_shortcuts(config, file, error)) < 0 ||
        (status = read_latents(config->mean, config->z_dim, file, "latents_mean", -1e30, error)) < 0 ||
        (status = read_latents(config->std, config->z_dim, file, "latents_std", 0, error)) < 0)
        goto done;
    status = expect_rest(file, error);
done:
    imagine__config_close(context, file);
    imagine__free(context, path);
    return status;
}
