/* SPDX-License-Identifier: MIT */

/* Weights on their way to a device, on the emulated module: whole before the first step, or block by block while it computes.
 * Either copies are made as late as may be, so that what does not wait for them sees nothing, or kernels are, so that
 * copies that do not wait overwrite what is still to be read. Memory is pinned, or cannot be. */

#include "cuda.h"
#include "sized.h"

/* More blocks than are held at a time, and more of each than fits into a buffer. */
static const sized_pack pack = {
    .heads = 2, .head_dim = 32, .ffn = 768, .layers = 5, .text_dim = 64, .text_ffn = 512, .text_heads = 1, .text_layers = 4,
    .vocabulary = 2048, .vae_dim = 8, .vae_blocks = 1, .text_length = 8, .width = 16, .height = 16, .frames = 1, .steps = 2,
};

static imagine_buffer *latents_with(const char *path, imagine_weights weights, imagine_error *err)
{
    imagine_context *context = open_device(IMAGINE_DEVICE_CUDA, err);
    imagine_model_options how;
    imagine_model *model = NULL;
    imagine_buffer *latents = NULL;
    imagine_model_options_init(&how, sizeof how);
    how.weights = weights;
    if (context && imagine_model_open(&model, context, path, &how, err) >= 0)
        latents = job_latents(model, "a red apple", NULL, err);
    imagine_model_release(&model);
    imagine_context_release(&context);
    return latents;
}

static void same(void)
{
    static const char *const names[] = { "late copies", "late kernels", "late copies, nothing pinned" };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *wanted = NULL;
    char path[512];
    REQUIRE(sized_make(&pack, path));
    for (int i = 0; i < 6; i++) {
        int way = i / 2;
        if (emulated.lag_kernels) {
            emulated.lag_kernels(way == 1);
            emulated.fail_pins(way == 2);
        }
        imagine_buffer *latents = latents_with(path, i & 1 ? IMAGINE_WEIGHTS_STREAMED : IMAGINE_WEIGHTS_RESIDENT, &err);
        if (!latents)
            fprintf(stderr, "    %s\n", err.message);
        if (!i)
            wanted = imagine_buffer_retain(latents);
        CHECK(same_bytes(latents, wanted));
        if (!same_bytes(latents, wanted))
            fprintf(stderr, "    %s, %s\n", names[way], i & 1 ? "block by block" : "whole");
        imagine_buffer_release(&latents);
        CHECK(!emulated.pins_held || emulated.pins_held() == 0);
    }
    if (emulated.lag_kernels) {
        emulated.lag_kernels(0);
        emulated.fail_pins(0);
    }
    imagine_buffer_release(&wanted);
    sized_remove(path);
    CHECK(!emulated.allocations_held || emulated.allocations_held() == 0);
}

/* What fails while blocks come one by one, on either stream, is reported, and the model goes on. */
static void failures(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = open_device(IMAGINE_DEVICE_CUDA, &err);
    imagine_model_options how;
    imagine_model *model = NULL;
    char path[512];
    if (!emulated.fail_launch || !emulated.lag_kernels)
        SKIP("this module does not fail when asked to");
    REQUIRE(context && sized_make(&pack, path));
    imagine_model_options_init(&how, sizeof how);
    how.weights = IMAGINE_WEIGHTS_STREAMED;
    REQUIRE_OK(imagine_model_open(&model, context, path, &how, &err));
    imagine_buffer *wanted = job_latents(model, "a", NULL, &err), *latents;
    REQUIRE(wanted);
    uint64_t before = emulated.allocations_made(), launches = emulated.launches();
    latents = job_latents(model, "a", NULL, &err);
    CHECK(same_bytes(latents, wanted));
    imagine_buffer_release(&latents);
    uint64_t count = emulated.allocations_made() - before, starts = emulated.launches() - launches;
    printf("    %llu allocations\n", (unsigned long long)count);
    for (uint64_t n = 1; n <= count; n += 1 + count / 60) {
        emulated.fail_allocation((int64_t)n);
        CHECK(!job_latents(model, "a", NULL, &err) && err.status == IMAGINE_ERROR_NO_MEMORY);
        emulated.fail_allocation(0);
    }
    emulated.lag_kernels(1);
    for (uint64_t n = 1; n <= starts; n += 1 + starts / 20) {
        emulated.fail_launch((int64_t)n);
        CHECK(!job_latents(model, "a", NULL, &err) && err.status == IMAGINE_ERROR_DEVICE);
        emulated.fail_launch(0);
    }
    emulated.lag_kernels(0);
    latents = job_latents(model, "a", NULL, &err);
    CHECK(same_bytes(latents, wanted));
    imagine_buffer_release(&latents);
    imagine_buffer_release(&wanted);
    imagine_model_release(&model);
    imagine_context_release(&context);
    sized_remove(path);
    CHECK(emulated.allocations_held() == 0 && emulated.pins_held() == 0);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = { { "same", same }, { "failures", failures } };
    find_hooks();
    return test_main("api/cuda_uploads", cases, sizeof cases / sizeof *cases, argc, argv);
}
