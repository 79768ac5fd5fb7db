/* SPDX-License-Identifier: MIT */
/* A context for a GPU where something is missing: a clear refusal, nothing left behind, and the CPU works after it. The
 * argument says what is to be found (meson.build). */

#include "api.h"

static const struct expected {
    const char *name;
    imagine_status status;
    int32_t native_code;
    const char *words[3];
} expected[] = {
    { "absent", IMAGINE_ERROR_UNSUPPORTED, 0, { "libimagine_cuda.so cannot be opened", "-Dcuda=enabled", "IMAGINE_DEVICE_CPU" } },
    { "version", IMAGINE_ERROR_UNSUPPORTED, 0, { "libimagine_cuda.so", "another version", "" } },
    { "none", IMAGINE_ERROR_UNSUPPORTED, 0, { "no NVIDIA GPU, or no driver", "IMAGINE_DEVICE_CPU", "" } },
    { "error", IMAGINE_ERROR_DEVICE, 700, { "CUDA: an illegal memory access", "", "" } },
    { "busy", IMAGINE_ERROR_DEVICE, 46, { "CUDA: the device: all devices are busy", "", "" } },
    { "full", IMAGINE_ERROR_NO_MEMORY, 2, { "CUDA: a stream: out of memory", "", "" } },
    { "old", IMAGINE_ERROR_UNSUPPORTED, 0, { "GPU 0 has compute capability 7.5", "8.0 is the least", "IMAGINE_DEVICE_CPU" } },
    { "built", IMAGINE_ERROR_UNSUPPORTED, 0, { "device: ", "IMAGINE_DEVICE_CPU", "" } },
};

static const struct expected *wanted;

static void refusal(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options options;
    imagine_context *context = (imagine_context *)&err;
    imagine_context_options_init(&options, sizeof options);
    options.device = IMAGINE_DEVICE_CUDA;
    if (!strcmp(wanted->name, "built") && imagine_context_create(&context, &options, &err) >= 0) {
        imagine_context_release(&context);
        SKIP("this machine has a GPU: nothing is refused");
    }
    for (int i = 0; i < 3; i++) { /* again: nothing is kept */
        CHECK_STATUS(imagine_context_create(&context, &options, &err), wanted->status);
        CHECK(!context && err.native_code == wanted->native_code);
        for (int j = 0; j < 3; j++)
            CHECK(strstr(err.message, wanted->words[j]));
    }
    printf("    %s\n", err.message);
    CHECK_STATUS(imagine_context_create(&context, &options, NULL), wanted->status);
}

/* The same program makes latents and frames on the CPU. */
static void afterwards(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_job_options options;
    imagine_sampler_options sampler;
    imagine_job *job = NULL;
    imagine_model *model = open_model(1, &err);
    REQUIRE(model);
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.steps = 1;
    sampler.width = sampler.height = 16;
    sampler.frames = 1;
    imagine_job_options_init(&options, sizeof options);
    options.prompt = "a red apple";
    options.sampler = &sampler;
    CHECK_OK(imagine_job_create(&job, model, &options, &err));
    CHECK_OK(job ? run_job(job, &err) : -1);
    imagine_job_destroy(&job);
    imagine_model_release(&model);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = { { "refusal", refusal }, { "afterwards", afterwards } };
    for (size_t i = 0; argc == 2 && i < sizeof expected / sizeof *expected; i++)
        if (!strcmp(argv[1], expected[i].name))
            wanted = &expected[i];
    if (!wanted) {
        fprintf(stderr, "usage: %s absent|version|none|error|busy|full|old|built\n", argv[0]);
        return 2;
    }
    return test_main("api/device", cases, sizeof cases / sizeof *cases, 1, argv);
}
