/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_IO_IO_H
#define IMAGINE_IO_IO_H

#include "base/base.h"

/* ---- output files (file.c) ------------------------------------------------------------------- */

/* A file that appears under its name only when it is complete: written beside it, then renamed. The first failure is
 * kept and reported by the commit; writing after it does nothing. */
typedef struct imagine__output {
    imagine_context *context;
    const char *path; /* the caller's, valid until commit or abandon */
    char *target; /* what it becomes: the path, or the file that this links to */
    char *temporary;
    uint32_t mode, owner, group; /* of the file that is replaced */
    int32_t replaces; /* 1: there is one */
    int fd;
    int failed; /* errno, 0 while all is well */
} imagine__output;

imagine_status imagine__output_open(imagine__output *output, imagine_context *context, const char *path,
                                    imagine_error *error);
void imagine__output_write(imagine__output *output, const void *bytes, size_t size);
imagine_status imagine__output_commit(imagine__output *output, imagine_error *error);
void imagine__output_abandon(imagine__output *output); /* nothing stays; after a commit it does nothing */

/* ---- PNG (png.c) ----------------------------------------------------------------------------- */

/* The picture of a PNG stream in memory, as 8-bit RGBA that is not premultiplied, rows dense. `name` is for messages.
 */
typedef struct imagine__pixels {
    uint8_t *rgba; /* of the context; freed by the caller */
    uint32_t width, height;
} imagine__pixels;

imagine_status imagine__png_decode(imagine_context *context, const char *name, const uint8_t *bytes, size_t size,
                                   imagine__pixels *pixels, imagine_error *error);

/* One RGB8 picture as the content of a PNG's IDAT: filtered and deflated. *bytes is freed by the caller. */
imagine_status imagine__png_deflate(imagine_context *context, const uint8_t *rgb, uint32_t width, uint32_t height,
                                    uint8_t **bytes, size_t *size, imagine_error *error);

/* The largest width, height and number of bytes of decoded pictures that are read. */
#define IMAGINE__PNG_MAX_SIDE  16384u
#define IMAGINE__PNG_MAX_BYTES ((uint64_t)4 << 30)
#define IMAGINE__PNG_MAX_RATE  65535 /* frames a second, and seconds a frame, that an animated PNG can say */

/* ---- animated PNG (apng.c) ------------------------------------------------------------------- */

/* All frames of a PNG (one) or an animated PNG, each laid over white, as U8 [frames, height, width, 3]. */
imagine_status imagine__apng_decode(imagine_context *context, const char *name, const uint8_t *bytes, size_t size,
                                    imagine_buffer **frames, imagine_error *error);

/* Frames of U8 RGB to an output: a plain PNG for one, an animated one for several. */
imagine_status imagine__apng_encode(imagine_context *context, imagine__output *output, const uint8_t *rgb,
                                    uint32_t frames, uint32_t width, uint32_t height, double frames_per_second,
                                    imagine_error *error);

#endif
