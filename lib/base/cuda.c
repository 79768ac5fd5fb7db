/* SPDX-License-Identifier: MIT */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

/* The loader's words for what failed last. */
static void keep_reason(char *reason, size_t size)
{
    const char *said = dlerror();
    snprintf(reason, size, "%s", said ? said : "no reason given");
}

/* The module beside the library, else wherever the system looks for libraries. Of a file that lies beside the library and cannot be
 * loaded the reason is that one's: of the other places the loader says no more than that there is none. */
static void *open_module(char *reason, size_t size)
{
    char path[4096];
    int beside = beside_library(path, sizeof path);
    void *file = beside ? dlopen(path, FLAGS) : NULL;
    if (file)
        return file;
    int spoilt = beside && access(path, F_OK) == 0;
    if (spoilt)
        keep_reason(reason, size);
    file = dlopen(MODULE, FLAGS);
    if (!file && !spoilt)
        keep_reason(reason, size);
    return file;
}

static imagine_status find_device(const imagine__cuda *table, imagine_error *error)
{
    int32_t count;
    int code = table->device_count(&count);
    if (!code && !count)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "device: " MODULE " finds no NVIDIA GPU, or no driver for it, on this machine; use "
                             "IMAGINE_DEVICE_CPU");
    if (code == IMAGINE__CUDA_OLD_DRIVER)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "device: this machine's NVIDIA driver is too old for " MODULE " (%s); update it, or use "
                             "IMAGINE_DEVICE_CPU", table->error_text(code));
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
    char reason[300];
    *module = (imagine__cuda_module_file) { open_module(reason, sizeof reason), NULL };
    if (!module->file)
        return imagine__fail(error, IMAGINE_ERROR_UNSUPPORTED,
                             "device: " MODULE " cannot be opened, neither beside libimagine.so nor on the library path (%s); "
                             "build it with -Dcuda=enabled and install it there, or use IMAGINE_DEVICE_CPU",
                             reason);
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
