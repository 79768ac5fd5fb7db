/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_BASE_CUDA_H
#define IMAGINE_BASE_CUDA_H

/* The CUDA module, opened at run time, so that the same library runs where there is neither driver nor toolkit. */

#include "base/base.h"
#include "kernels/cuda/cuda.h"

typedef struct imagine__cuda_module_file {
    void *file; /* of dlopen */
    const imagine__cuda *table; /* lives as long as the process */
} imagine__cuda_module_file;

/* Opens the module and makes sure that it fits and that there is a GPU; the message of a failure says which of these is
 * missing. On failure nothing is left open. */
imagine_status imagine__cuda_open(imagine__cuda_module_file *module, imagine_error *error);
void imagine__cuda_close(imagine__cuda_module_file *module);

#endif
