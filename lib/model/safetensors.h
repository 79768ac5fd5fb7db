/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_MODEL_SAFETENSORS_H
#define IMAGINE_MODEL_SAFETENSORS_H

/* A set of safetensors files, for lib/model alone. */

#include "model/model.h"

typedef struct imagine__weights_file {
    int fd; /* -1: not open */
    char *path;
    char *names; /* all names of its tensors */
    uint64_t size;
} imagine__weights_file;

struct imagine__weights {
    imagine_context *context;
    imagine__weights_file *files;
    size_t file_count;
    imagine__tensor *tensors;
    uint32_t *by_name; /* indices of tensors in the order of their names */
    size_t count, capacity;
};

/* Opens file number `index` of the set, checks its header and adds its tensors. */
imagine_status imagine__weights_add(imagine__weights *weights, int32_t index, const char *path, imagine_error *error);

/* Fills order with 0..count-1 sorted by `compare(items, a, b)`; takes no memory. */
void imagine__sort(uint32_t *order, size_t count, const void *items,
                   int (*compare)(const void *items, size_t a, size_t b));

#endif
