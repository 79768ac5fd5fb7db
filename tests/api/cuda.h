/* SPDX-License-Identifier: MIT */
#ifndef TESTS_API_CUDA_H
#define TESTS_API_CUDA_H

/* What the tests of contexts on a GPU share: the module's hooks, the same pack on both sides, tensors. */

#include <dlfcn.h>
#include <math.h>

#include "../cuda_emulator/hooks.h"
#include "api.h"

/* Both sides compute the same in f32 and sum in other orders. */
#define LIMIT 1e-10

static struct {
    void (*fail_allocation)(int64_t number);
    void (*allocation_code)(int32_t code); /* not on the emulator */
    void (*fail_launch)(int64_t number);
    uint64_t (*allocations_held)(void);
    uint64_t (*allocations_made)(void);
    uint64_t (*launches)(void);
    uint64_t (*transfers)(void);
    void (*libraries)(int there);
    int (*library_calls)(void);
    int (*convolver_handles)(void);
    uint64_t (*memory_available)(void); /* bytes of the device; not on the emulator */
    void (*fail_capture)(int64_t number);
    uint64_t (*graphs_made)(void);
    uint64_t (*graphs_started)(void);
    void (*at_launch)(int64_t number, void (*call)(void *), void *arg);
    uint64_t (*launches_after)(void);
    void (*lag_kernels)(int32_t lag);
    void (*fail_pins)(int32_t fail);
    uint64_t (*pins_held)(void);
    int32_t (*capture_elsewhere)(int32_t begin);
    void (*set_context)(void *context);
    void *(*current_context)(void);
} emulated;

/* The hooks that the module has, the emulated one or failing_module.c: those that it has not are NULL. 0: not all of them. */
static inline int find_hooks(void)
{
    void *file = dlopen("libimagine_cuda.so", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    const struct {
        void *to;
        const char *name;
    } all[] = { { &emulated.fail_allocation, "emulated_fail_allocation" },
                { &emulated.allocation_code, "emulated_allocation_code" },
                { &emulated.fail_launch, "emulated_fail_launch" },
                { &emulated.allocations_held, "emulated_allocations_held" },
                { &emulated.allocations_made, "emulated_allocations_made" },
                { &emulated.launches, "emulated_launches" },
                { &emulated.transfers, "emulated_transfers" },
                { &emulated.libraries, "emulated_libraries" },
                { &emulated.library_calls, "emulated_library_calls" },
                { &emulated.convolver_handles, "emulated_convolver_handles" },
                { &emulated.memory_available, "emulated_memory_available" },
                { &emulated.fail_capture, "emulated_fail_capture" },
                { &emulated.graphs_made, "emulated_graphs_made" },
                { &emulated.graphs_started, "emulated_graphs_started" },
                { &emulated.at_launch, "emulated_at_launch" },
                { &emulated.launches_after, "emulated_launches_after" },
                { &emulated.lag_kernels, "emulated_lag_kernels" },
                { &emulated.fail_pins, "emulated_fail_pins" },
                { &emulated.pins_held, "emulated_pins_held" },
                { &emulated.capture_elsewhere, "emulated_capture_elsewhere" },
                { &emulated.set_context, "emulated_set_context" },
                { &emulated.current_context, "emulated_current_context" } };
    int found = file != NULL;
    for (size_t i = 0; i < sizeof all / sizeof *all && file; i++) {
        void *symbol = dlsym(file, all[i].name);
        memcpy(all[i].to, &symbol, sizeof symbol);
        found &= symbol != NULL;
    }
    return found;
}

static inline imagine_context *open_device(imagine_device device, imagine_error *err)
{
    imagine_context_options options;
    imagine_context *context = NULL;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    options.device = device;
    imagine_context_create(&context, &options, err);
    return context;
}

static inline imagine_model *open_on(imagine_device device, const char *pack, imagine_error *err)
{
    imagine_context *context = open_device(device, err);
    imagine_model *model = NULL;
    if (context)
        imagine_model_open(&model, context, pack, NULL, err);
    imagine_context_release(&context);
    return model;
}

/* The same pack on the CPU and on the GPU. */
typedef struct pair {
    imagine_model *cpu, *gpu;
} pair;

static inline pair open_pair(const char *pack, imagine_error *err)
{
    return (pair){ open_on(IMAGINE_DEVICE_CPU, pack, err), open_on(IMAGINE_DEVICE_CUDA, pack, err) };
}

static inline void close_pair(pair *p)
{
    imagine_model_release(&p->gpu);
    imagine_model_release(&p->cpu);
    if (emulated.allocations_held)
        CHECK(emulated.allocations_held() == 0);
}

/* NMSE of two buffers of floats; infinite where they differ in size. */
static inline double difference(const imagine_buffer *has, const imagine_buffer *wanted)
{
    if (!has || !wanted || imagine_buffer_size(has) != imagine_buffer_size(wanted))
        return INFINITY;
    return test_nmse(imagine_buffer_data(has), imagine_buffer_data(wanted), imagine_buffer_size(wanted) / sizeof(float));
}

static inline int close_to(const imagine_buffer *has, const imagine_buffer *wanted, const char *what)
{
    double nmse = difference(has, wanted);
    printf("    %s: NMSE %.2g\n", what, nmse);
    return nmse < LIMIT;
}

static double random_state = 1;

/* Floats of about -1 to 1. */
static inline imagine_buffer *floats(imagine_context *context, int32_t ndim, const int64_t *shape, imagine_error *err)
{
    imagine_buffer *buffer = NULL;
    if (imagine_buffer_create(&buffer, context, IMAGINE_F32, ndim, shape, err) < 0)
        return NULL;
    float *values = imagine_buffer_data(buffer);
    for (size_t i = 0; i < imagine_buffer_size(buffer) / sizeof *values; i++) {
        random_state = fmod(random_state * 16807, 2147483647);
        values[i] = (float)(random_state / 1073741823.5 - 1);
    }
    return buffer;
}

#endif
