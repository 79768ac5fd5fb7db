/* SPDX-License-Identifier: MIT */
/* A context for a GPU where something is missing: a clear refusal, nothing left behind, and the CPU works after it. The
 * argument says what is to be found (meson.build). */

#include <dlfcn.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

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
    { "driver", IMAGINE_ERROR_UNSUPPORTED, 0, { "driver is too old", "the driver is of 1999", "IMAGINE_DEVICE_CPU" } },
    { "spoilt", IMAGINE_ERROR_UNSUPPORTED, 0, { "libimagine_cuda.so cannot be opened", "file too short", "IMAGINE_DEVICE_CPU" } },
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

static char folder[] = "/tmp/imagine-device-XXXXXX";

static const char *in_folder(const char *name)
{
    static char path[sizeof folder + 32];
    snprintf(path, sizeof path, "%s/%s", getenv("LD_LIBRARY_PATH"), name);
    return path;
}

/* This program once more, on the library in a folder where an empty file has the module's name. */
static int begin_beside_empty(char **argv)
{
    char library[PATH_MAX];
    Dl_info info;
    if (!dladdr((void *)(uintptr_t)imagine_version_string, &info) || !realpath(info.dli_fname, library) || !mkdtemp(folder) ||
        setenv("LD_LIBRARY_PATH", folder, 1) || setenv("IMAGINE_TEST_BESIDE", "1", 1) ||
        symlink(library, in_folder("libimagine.so.0")) || mknod(in_folder("libimagine_cuda.so"), S_IFREG | 0600, 0))
        return perror("a folder with an empty module"), 2;
    execv("/proc/self/exe", argv);
    return perror("/proc/self/exe"), 2;
}

static void end_beside_empty(void)
{
    unlink(in_folder("libimagine_cuda.so"));
    unlink(in_folder("libimagine.so.0"));
    rmdir(getenv("LD_LIBRARY_PATH"));
}

int main(int argc, char **argv)
{
    static const test_case cases[] = { { "refusal", refusal }, { "afterwards", afterwards } };
    for (size_t i = 0; argc == 2 && i < sizeof expected / sizeof *expected; i++)
        if (!strcmp(argv[1], expected[i].name))
            wanted = &expected[i];
    if (!wanted) {
        fprintf(stderr, "usage: %s absent|version|none|driver|spoilt|error|busy|full|old|built\n", argv[0]);
        return 2;
    }
    int spoilt = !strcmp(wanted->name, "spoilt");
    if (spoilt && !getenv("IMAGINE_TEST_BESIDE"))
        return begin_beside_empty(argv);
    int failed = test_main("api/device", cases, sizeof cases / sizeof *cases, 1, argv);
    if (spoilt)
        end_beside_empty();
    return failed;
}
