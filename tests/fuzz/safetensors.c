/* SPDX-License-Identifier: MIT */

/* A safetensors file: opened, every tensor found by its name and read. */

#include "fuzz.h"
#include "model/model.h"

static void read_tensor(const imagine__weights *weights, const imagine__tensor *t, uint64_t file)
{
    char piece[256];
    uint64_t size = t->size < sizeof piece ? t->size : sizeof piece;
    FUZZ_CHECK(imagine__weights_find(weights, t->name) == t);
    FUZZ_CHECK(t->offset <= file && t->size <= file - t->offset && t->ndim >= 0 && t->ndim <= IMAGINE_MAX_DIMS);
    FUZZ_CHECK(imagine__weights_read(weights, t, 0, size, piece, NULL) >= 0);
    FUZZ_CHECK(imagine__weights_read(weights, t, t->size - size, size, piece, NULL) >= 0);
    FUZZ_CHECK(imagine__weights_read(weights, t, 1, t->size, piece, NULL) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    imagine_error error = IMAGINE_ERROR_INIT;
    imagine_context *context = fuzz_context();
    imagine__weights *weights;
    imagine_buffer *buffer;
    const char *path = fuzz_file(data, size);
    fuzz_begin(size);
    if (imagine__weights_open_file(&weights, context, path, &error) >= 0) {
        int32_t count = imagine__weights_count(weights);
        for (int32_t i = 0; i < count; i++)
            read_tensor(weights, imagine__weights_at(weights, i), size);
        if (count && imagine_buffer_load(&buffer, context, path, imagine__weights_at(weights, 0)->name, &error) >= 0) {
            FUZZ_CHECK(imagine_buffer_size(buffer) == imagine__weights_at(weights, 0)->size);
            imagine_buffer_release(&buffer);
        }
    } else {
        FUZZ_CHECK(!weights && error.status < 0 && error.message[0]);
    }
    imagine__weights_close(weights);
    fuzz_end();
    return 0;
}
