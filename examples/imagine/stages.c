/* SPDX-License-Identifier: MIT */

/* imagine encode, decode, text, denoise: one stage each, from file to file. */

#include <stdio.h>
#include <string.h>

#include "cli.h"

static void report(const arguments *o, const char *out, const char *name, const imagine_buffer *buffer)
{
    if (o->quiet && !o->json)
        return;
    if (o->json) {
        printf("{\"out\": ");
        json_text(out);
        printf(", \"tensor\": \"%s\", \"shape\": ", name);
        json_shape(buffer);
        printf("}\n");
        return;
    }
    printf("%s: %s ", out, name);
    json_shape(buffer);
    printf("\n");
}

static imagine_status save_one(session *s, const char *path, imagine_buffer *buffer, const char *name)
{
    return imagine_buffer_save(s->context, path, 1, &buffer, &name, &s->error);
}

/* Whether tensors can be put there: a name of another kind is likely a slip, and perhaps that of what is read. */
static int check_tensors_output(const arguments *o, const char *out, const char *input)
{
    if (!has_suffix(out, ".safetensors"))
        return usage_error(o, "--out: \"%s\" does not end with .safetensors", out);
    return check_output(o, out, input);
}

static imagine_status open_vae(session *s, const arguments *o, imagine_vae **vae)
{
    imagine_vae_options options;
    imagine_vae_options_init(&options, sizeof options);
    options.cancel = s->cancel;
    options.tile_width = o->tile_width;
    options.tile_height = o->tile_height;
    return imagine_vae_create(vae, s->model, &options, &s->error);
}

int run_encode(const arguments *o)
{
    const char *out = o->out ? o->out : o->usual_out;
    imagine_vae *vae = NULL;
    imagine_buffer *frames = NULL, *latents = NULL;
    session s;
    if (!o->input)
        return usage_error(o, "the pictures are missing: a PNG, an animated PNG or a folder of PNGs");
    int result = check_tensors_output(o, out, o->input);
    if (result || (result = session_open(&s, o, 1)))
        return result;
    if (imagine_picture_load(&frames, s.context, o->input, &s.error) < 0 || open_vae(&s, o, &vae) < 0 ||
        imagine_vae_encode(vae, frames, &latents, &s.error) < 0 || save_one(&s, out, latents, "latents") < 0)
        result = session_failed(&s);
    else
        report(o, out, "latents", latents);
    imagine_buffer_release(&latents);
    imagine_buffer_release(&frames);
    imagine_vae_destroy(&vae);
    session_close(&s);
    return result;
}

static imagine_status decode_to(session *s, const arguments *o, const char *out, const imagine_buffer *latents,
                                imagine_buffer **frames)
{
    int tensor = has_suffix(out, ".safetensors");
    imagine_model_info info = { .struct_size = sizeof info };
    imagine_vae *vae;
    imagine_status status = open_vae(s, o, &vae);
    if (status < 0)
        return status;
    status = imagine_vae_decode(vae, latents, tensor ? IMAGINE_F32 : IMAGINE_U8, frames, &s->error);
    imagine_vae_destroy(&vae);
    if (status < 0)
        return status;
    imagine_model_get_info(s->model, &info, NULL);
    double fps = o->fps > 0 ? o->fps : info.frames_per_second > 0 ? info.frames_per_second : 16;
    return tensor ? save_one(s, out, *frames, "frames") : imagine_picture_save(s->context, out, *frames, fps, &s->error);
}

int run_decode(const arguments *o)
{
    const char *out = o->out ? o->out : o->usual_out;
    imagine_buffer *latents = NULL, *frames = NULL;
    session s;
    if (!o->input)
        return usage_error(o, "the file with the latents is missing");
    if (!has_suffix(out, ".png") && !has_suffix(out, ".safetensors"))
        return usage_error(o, "--out: \"%s\" ends neither with .png nor with .safetensors", out);
    if (o->fps > 0 && has_suffix(out, ".safetensors"))
        return usage_error(o, "--fps: a file of tensors has no rate, so it has no use");
    int result = check_output(o, out, o->input);
    if (result || (result = session_open(&s, o, 1)))
        return result;
    if (imagine_buffer_load(&latents, s.context, o->input, "latents", &s.error) < 0 ||
        decode_to(&s, o, out, latents, &frames) < 0)
        result = session_failed(&s);
    else
        report(o, out, "frames", frames);
    imagine_buffer_release(&frames);
    imagine_buffer_release(&latents);
    session_close(&s);
    return result;
}

static void print_values(const arguments *o, const imagine_buffer *ids)
{
    const int32_t *values = imagine_buffer_data(ids);
    size_t count = imagine_buffer_size(ids) / sizeof *values;
    for (size_t i = 0; i < count; i++)
        printf("%s%d", o->json ? (i ? ", " : "") : " ", values[i]);
    printf("%s\n", o->json ? "]}" : "");
}

static void print_ids(const arguments *o, const char *out, const imagine_buffer *ids, const imagine_buffer *embeds)
{
    if (o->quiet && !o->json)
        return;
    if (o->json) {
        printf("{\"out\": ");
        json_text(out);
        printf(", \"prompt_embeds\": ");
        json_shape(embeds);
        printf(", \"input_ids\": [");
    } else {
        printf("%s: prompt_embeds ", out);
        json_shape(embeds);
        printf(", input_ids");
    }
    print_values(o, ids);
}

/* The prompt's tokens, all of them, beside how many the model sees. */
static int count_tokens(const arguments *o, const char *prompt)
{
    imagine_model_info info = { .struct_size = sizeof info };
    imagine_buffer *ids = NULL;
    session s;
    if (o->out)
        return usage_error(o, "--ids-only writes nothing, so --out has no use");
    int result = session_open(&s, o, 1);
    if (result)
        return result;
    if (imagine_model_tokenize(s.model, prompt, 0, s.cancel, &ids, &s.error) < 0 ||
        imagine_model_get_info(s.model, &info, &s.error) < 0) {
        result = session_failed(&s);
    } else if (o->json || !o->quiet) {
        int count = (int)(imagine_buffer_size(ids) / sizeof(int32_t));
        if (o->json)
            printf("{\"tokens\": %d, \"text_length\": %d, \"input_ids\": [", count, info.text_length);
        else
            printf("%d token%s, the model takes up to %d:", count, plural(count), info.text_length);
        print_values(o, ids);
    }
    imagine_buffer_release(&ids);
    session_close(&s);
    return result;
}

int run_text(const arguments *o)
{
    const char *out = o->out ? o->out : o->usual_out, *prompt = o->prompt ? o->prompt : o->input;
    imagine_text_options options;
    imagine_text *text = NULL;
    imagine_buffer *tensors[2] = { NULL, NULL };
    static const char *const names[] = { "input_ids", "prompt_embeds" };
    session s;
    if (!prompt || (o->prompt && o->input))
        return usage_error(o, "give one prompt");
    if (o->ids_only)
        return count_tokens(o, prompt);
    int result = check_tensors_output(o, out, NULL);
    if (result || (result = session_open(&s, o, 1)))
        return result;
    imagine_text_options_init(&options, sizeof options);
    options.cancel = s.cancel;
    if (imagine_text_create(&text, s.model, &options, &s.error) < 0 ||
        imagine_text_encode(text, prompt, &tensors[0], &tensors[1], &s.error) < 0 ||
        imagine_buffer_save(s.context, out, 2, tensors, names, &s.error) < 0)
        result = session_failed(&s);
    else
        print_ids(o, out, tensors[0], tensors[1]);
    imagine_buffer_release(&tensors[0]);
    imagine_buffer_release(&tensors[1]);
    imagine_text_destroy(&text);
    session_close(&s);
    return result;
}

/* A sampler for these tensors: its latents are to be no larger than they are. */
static imagine_status open_sampler(session *s, const imagine_buffer *hidden, imagine_sampler **sampler)
{
    imagine_buffer_info tensor = { .struct_size = sizeof tensor };
    imagine_model_info model = { .struct_size = sizeof model };
    imagine_sampler_options options;
    imagine_buffer_get_info(hidden, &tensor, NULL);
    imagine_model_get_info(s->model, &model, NULL);
    imagine_sampler_options_init(&options, sizeof options);
    options.cancel = s->cancel;
    options.guidance = 1;
    options.schedule = IMAGINE_SCHEDULE_FLOW; /* any will do, also where the pack's own is not known */
    int32_t factor = model.spatial_factor ? model.spatial_factor : 8;
    if (tensor.ndim == 5 && tensor.shape[2] > 0 && tensor.shape[2] < 1 << 16 && tensor.shape[3] < 1 << 12 &&
        tensor.shape[4] < 1 << 12) {
        options.frames = ((int32_t)tensor.shape[2] - 1) * (model.temporal_factor ? model.temporal_factor : 4) + 1;
        options.height = (int32_t)tensor.shape[3] * factor;
        options.width = (int32_t)tensor.shape[4] * factor;
    }
    return imagine_sampler_create(sampler, s->model, &options, &s->error);
}

int run_denoise(const arguments *o)
{
    const char *out = o->out ? o->out : o->usual_out;
    static const char *const names[] = { "hidden_states", "timestep", "encoder_hidden_states" };
    imagine_buffer *inputs[3] = { NULL, NULL, NULL }, *sample = NULL;
    imagine_sampler *sampler = NULL;
    session s;
    if (!o->input)
        return usage_error(o, "the file with the tensors is missing");
    int result = check_tensors_output(o, out, o->input);
    if (result || (result = session_open(&s, o, 1)))
        return result;
    for (int i = 0; i < 3 && !result; i++)
        if (imagine_buffer_load(&inputs[i], s.context, o->input, names[i], &s.error) < 0)
            result = session_failed(&s);
    if (!result && (open_sampler(&s, inputs[0], &sampler) < 0 ||
                    imagine_sampler_denoise(sampler, inputs[0], inputs[1], inputs[2], &sample, &s.error) < 0 ||
                    save_one(&s, out, sample, "sample") < 0))
        result = session_failed(&s);
    if (!result)
        report(o, out, "sample", sample);
    imagine_buffer_release(&sample);
    for (int i = 0; i < 3; i++)
        imagine_buffer_release(&inputs[i]);
    imagine_sampler_destroy(&sampler);
    session_close(&s);
    return result;
}
