/* SPDX-License-Identifier: MIT */

/* A picture from a prompt in the fewest calls: hello MODEL PROMPT OUT.png */

#include <imagine/imagine.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    imagine_error error = IMAGINE_ERROR_INIT;
    imagine_context *context = NULL;
    imagine_model *model = NULL;
    imagine_job *job = NULL;
    imagine_event event = { .struct_size = sizeof event };
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_sampler_options_init(&sampler, sizeof sampler);
    imagine_job_options_init(&options, sizeof options);
    sampler.frames = 1;
    options.sampler = &sampler;
    options.prompt = argc > 2 ? argv[2] : "a red apple";
    imagine_status status = imagine_context_create(&context, NULL, &error);
    if (status >= 0)
        status = imagine_model_open(&model, context, argc > 1 ? argv[1] : "models/tiny", NULL, &error);
    if (status >= 0)
        status = imagine_job_create(&job, model, &options, &error);
    while (status >= 0 && event.kind != IMAGINE_EVENT_DONE) {
        status = imagine_job_next(job, &event, -1, &error);
        if (status >= 0 && event.kind == IMAGINE_EVENT_FRAMES)
            status = imagine_picture_save(context, argc > 3 ? argv[3] : "out.png", event.frames, 1, &error);
    }
    if (status < 0)
        fprintf(stderr, "%s\n", error.message);
    imagine_job_destroy(&job);
    imagine_model_release(&model);
    imagine_context_release(&context);
    return status < 0;
}
