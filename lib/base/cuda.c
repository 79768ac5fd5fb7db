/* SPDX-License-Identifier: MIT */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "base/cuda.h"

#define MODULE "libimagine_cuda.so"
/* Once opened it stays: the CUDA runtime in it does not like to be taken out of a process that goes on. */
#define FLAGS (RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)

/* "FOLDER/libimagine_cuda.so" of the folder that this library lies in; 0 when that is not known. */
static int beside_library(char *path, size_t size)
{
    Dl_info info;
    if (!dladdr((void *)(uintptr_t)imagine_version_string, &info) || !info.dli_fname)
        return 0;
    const char *slash = strrchr(info.dli_fname, '/');
    int length = slash ? (int)(slash - info.dli_fname + 1) : 0;
    int written = snprintf(path, size, "%.*s%s", length, info.dli_fname, MODULE);
    return length && written > 0 && (size_t)written < size;
}

/* The module beside the library, else wherever the system looks for libraries. */
static void *open_module(void)
{
    char path[4096];
    void *file = beside_library(path, sizeof path) ? dlopen(path, FLAGS) : NULL;
    return file ? file : dlopen(MODULE, FLAGS);
}

static imagine_status find_device(const imagine__cuda *table, imagine_error *error)
{
    int32_t count;
    int code = table->device_count(&count);
    if (!code && !count)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "device: " MODULE " finds no NVIDIA GPU, or no driver for it, on this machine; use "
                             "IMAGINE_DEVICE_CPU");
    if (code) {
        imagine_status status = imagine__fail(error, IMAGINE_ERROR_DEVICE, "device: CUDA: %s", table->error_text(code));
        if (error)
            error->native_code = code;
        return status;
    }
    return IMAGINE_OK;
}

imagine_status imagine__cuda_open(imagine__cuda_module_file *module, imagine_error *error)
{
    *module = (imagine__cuda_module_file) { open_module(), NULL };
    if (!module->file) {
        const char *reason = dlerror();
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "device: " MODULE " cannot be opened, neither beside libimagine.so nor on the library path (%s); "
                             "build it with -Dcuda=enabled and install it there, or use IMAGINE_DEVICE_CPU",
                             reason ? reason : "no reason given");
    }
    const imagine__cuda *(*table)(int32_t);
    *(void **)&table = dlsym(module->file, "imagine__cuda_module"); /* as POSIX has it for functions */
    module->table = table ? table(IMAGINE__CUDA_VERSION) : NULL;
    imagine_status status = IMAGINE_OK;
    if (!module->table)
        status = imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                               "device: " MODULE " belongs to another version of the library than this one, %s",
                               imagine_version_string());
    else
        status = find_device(module->table, error);
    if (status < 0)
        imagine__cuda_close(module);
    return status;
}

void imagine__cuda_close(imagine__cuda_module_file *module)
{
    if (module->file)
        dlclose(module->file);
    *module = (imagine__cuda_module_file) { NULL, NULL };
}
