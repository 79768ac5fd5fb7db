/* SPDX-License-Identifier: MIT */

/* The same by stages, each of which could be another program's: text, then steps, then frames as they are decoded.
 *
 *   by_stages MODEL PROMPT OUT.png */

#include <imagine/imagine.h>
#include <stdio.h>

typedef struct stages {
    imagine_context *context;
    imagine_model *model;
    imagine_text *text;
    imagine_sampler *sampler;
    imagine_vae *vae;
    imagine_buffer *positive, *negative, *latents, *frames;
} stages;

static imagine_status encode(stages *s, const char *prompt, imagine_error *error)
{
    imagine_status status = imagine_text_create(&s->text, s->model, NULL, error);
    if (status >= 0)
        status = imagine_text_encode(s->text, prompt, NULL, &s->positive, error);
    if (status >= 0)
        status = imagine_text_encode(s->text, "", NULL, &s->negative, error);
    imagine_text_destroy(&s->text);
    return status;
}

static imagine_status sample(stages *s, imagine_error *error)
{
    imagine_sampler_options options;
    imagine_step_info step = { .struct_size = sizeof step };
    imagine_sampler_options_init(&options, sizeof options);
    options.seed = 42;
    imagine_status status = imagine_sampler_create(&s->sampler, s->model, &options, error);
    if (status >= 0)
        status = imagine_sampler_set_text(s->sampler, s->positive, s->negative, error);
    if (status >= 0)
        status = imagine_sampler_begin(s->sampler, NULL, error);
    while (status >= 0 && (!step.steps || step.step < step.steps)) {
        status = imagine_sampler_step(s->sampler, &step, error);
        if (status >= 0)
            printf("step %d of %d: sigma %.4f, %.3f s\n", step.step, step.steps, step.sigma, step.seconds);
    }
    if (status >= 0)
        status = imagine_sampler_get_latents(s->sampler, 0, &s->latents, error);
    imagine_sampler_destroy(&s->sampler);
    return status;
}

static imagine_status decode(stages *s, const char *path, imagine_error *error)
{
    imagine_model_info info = { .struct_size = sizeof info };
    imagine_status status = imagine_vae_create(&s->vae, s->model, NULL, error);
    if (status >= 0)
        status = imagine_model_get_info(s->model, &info, error);
    if (status >= 0)
        status = imagine_vae_decode(s->vae, s->latents, IMAGINE_U8, &s->frames, error);
    if (status >= 0)
        status = imagine_picture_save(s->context, path, s->frames, info.frames_per_second, error);
    imagine_vae_destroy(&s->vae);
    return status;
}

int main(int argc, char **argv)
{
    imagine_error error = IMAGINE_ERROR_INIT;
    stages s = { 0 };
    imagine_status status = imagine_context_create(&s.context, NULL, &error);
    if (status >= 0)
        status = imagine_model_open(&s.model, s.context, argc > 1 ? argv[1] : "models/tiny", NULL, &error);
    if (status >= 0)
        status = encode(&s, argc > 2 ? argv[2] : "a red apple", &error);
    if (status >= 0)
        status = sample(&s, &error);
    if (status >= 0)
        status = decode(&s, argc > 3 ? argv[3] : "out.png", &error);
    if (status < 0)
        fprintf(stderr, "%s\n", error.message);
    imagine_buffer_release(&s.frames);
    imagine_buffer_release(&s.latents);
    imagine_buffer_release(&s.negative);
    imagine_buffer_release(&s.positive);
    imagine_model_release(&s.model);
    imagine_context_release(&s.context);
    return status < 0;
}
