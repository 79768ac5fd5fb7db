/* SPDX-License-Identifier: MIT */

/* A PNG or an animated PNG. Checksums are made right first, or no change to a file would come further than they. */

#include <zlib.h>

#include "fuzz.h"
#include "io/io.h"

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void mend(uint8_t *bytes, size_t size)
{
    for (size_t at = 8; size - at >= 12 && at < size;) {
        uint32_t length = get32(bytes + at);
        if (length > size - at - 12)
            return;
        uint32_t sum = (uint32_t)crc32(0, bytes + at + 4, length + 4);
        for (int i = 0; i < 4; i++)
            bytes[at + 8 + length + (size_t)i] = (uint8_t)(sum >> (24 - 8 * i));
        at += (size_t)length + 12;
    }
}

static void decode(const uint8_t *bytes, size_t size)
{
    imagine_error error = IMAGINE_ERROR_INIT;
    imagine_buffer *frames;
    imagine_buffer_info info = { .struct_size = sizeof info };
    if (imagine__apng_decode(fuzz_context(), "input", bytes, size, &frames, &error) < 0) {
        FUZZ_CHECK(!frames && error.message[0]);
        return;
    }
    FUZZ_CHECK(imagine_buffer_get_info(frames, &info, &error) >= 0 && info.ndim == 4 && info.shape[3] == 3);
    /* Every pixel was written: a sanitizer or valgrind sees one that was not. */
    uint64_t sum = 0;
    for (uint64_t i = 0; i < info.size; i += 1 + info.size / 64)
        sum += ((const uint8_t *)info.data)[i];
    FUZZ_CHECK(sum <= 255 * info.size);
    imagine_buffer_release(&frames);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size + 1);
    FUZZ_CHECK(copy);
    memcpy(copy, data, size);
    if (size > 8 && size % 4)
        mend(copy, size); /* some are left as they are */
    fuzz_context();
    fuzz_begin(size);
    decode(copy, size);
    fuzz_end();
    free(copy);
    return 0;
}
