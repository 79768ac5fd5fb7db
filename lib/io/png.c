/* SPDX-License-Identifier: MIT */
#include <png.h>
#include <setjmp.h>
#include <string.h>
#include <zlib.h>

#include "io/io.h"

/* What libpng's callbacks see. */
typedef struct reader {
    imagine_context *context;
    const uint8_t *bytes;
    size_t size, at;
    png_bytep *rows; /* here, where a longjmp cannot lose it */
    int out_of_memory;
    char message[160];
} reader;

static void on_error(png_structp png, png_const_charp message)
{
    reader *r = png_get_error_ptr(png);
    size_t length = strlen(message);
    if (length >= sizeof r->message)
        length = sizeof r->message - 1;
    memcpy(r->message, message, length);
    r->message[length] = 0;
    longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void *on_alloc(png_structp png, png_alloc_size_t size)
{
    reader *r = png_get_mem_ptr(png);
    void *block = imagine__alloc(r->context, size);
    if (!block)
        r->out_of_memory = 1;
    return block;
}

static void on_free(png_structp png, void *block)
{
    reader *r = png_get_mem_ptr(png);
    imagine__free(r->context, block);
}

static void on_read(png_structp png, png_bytep out, size_t size)
{
    reader *r = png_get_io_ptr(png);
    if (size > r->size - r->at)
        png_error(png, "the file ends too early");
    memcpy(out, r->bytes + r->at, size);
    r->at += size;
}

/* Everything becomes 8-bit RGBA. */
static void set_transforms(png_structp png)
{
    png_set_expand(png); /* palettes, gray below 8 bits, transparency of a colour */
    png_set_scale_16(png);
    png_set_gray_to_rgb(png);
    png_set_add_alpha(png, 0xff, PNG_FILLER_AFTER);
    png_set_interlace_handling(png);
}

/* Between setjmp and the last libpng call: the fields live in *pixels, so a longjmp loses nothing. */
static void read_picture(png_structp png, png_infop info, reader *r, imagine__pixels *pixels)
{
    png_set_user_limits(png, IMAGINE__PNG_MAX_SIDE, IMAGINE__PNG_MAX_SIDE);
    png_set_chunk_malloc_max(png, (png_alloc_size_t)1 << 26);
#ifdef PNG_HANDLE_AS_UNKNOWN_SUPPORTED
    /* Texts, profiles and the like, which nobody looks at: a small file can hold gigabytes of them. */
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
#endif
    png_read_info(png, info);
    pixels->width = png_get_image_width(png, info);
    pixels->height = png_get_image_height(png, info);
    set_transforms(png);
    png_read_update_info(png, info);
    size_t stride = (size_t)pixels->width * 4;
    if (png_get_rowbytes(png, info) != stride)
        png_error(png, "its pixels cannot be made RGBA");
    pixels->rgba = imagine__alloc(r->context, stride * pixels->height);
    r->rows = imagine__alloc(r->context, sizeof(png_bytep) * pixels->height);
    if (!pixels->rgba || !r->rows) {
        r->out_of_memory = 1;
        png_error(png, "out of memory");
    }
    for (uint32_t y = 0; y < pixels->height; y++)
        r->rows[y] = pixels->rgba + stride * y;
    png_read_image(png, r->rows);
    png_read_end(png, NULL);
}

imagine_status imagine__png_decode(imagine_context *context, const char *name, const uint8_t *bytes, size_t size,
                                   imagine__pixels *pixels, imagine_error *error)
{
    reader r = { .context = context, .bytes = bytes, .size = size };
    png_infop info = NULL;
    memset(pixels, 0, sizeof *pixels);
    if (size < 8 || png_sig_cmp(bytes, 0, 8))
        return imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: is not a PNG file", name);
    png_structp png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, &r, on_error, on_warning, &r, on_alloc, on_free);
    if (png)
        info = png_create_info_struct(png);
    if (!info) {
        png_destroy_read_struct(&png, NULL, NULL);
        return imagine__fail_memory_in(context, error, 0, name);
    }
    volatile int failed = 1;
    if (!setjmp(png_jmpbuf(png))) {
        png_set_read_fn(png, &r, on_read);
        read_picture(png, info, &r, pixels);
        failed = 0;
    }
    png_destroy_read_struct(&png, &info, NULL);
    imagine__free(context, r.rows);
    if (!failed)
        return IMAGINE_OK;
    imagine__free(context, pixels->rgba);
    pixels->rgba = NULL;
    if (r.out_of_memory)
        return imagine__fail_memory_in(context, error, (size_t)pixels->width * pixels->height * 4, name);
    return imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: %s", name, r.message);
}

/* ---- writing --------------------------------------------------------------------------------- */

static uint8_t paeth(int a, int b, int c)
{
    int p = a + b - c, pa = p > a ? p - a : a - p, pb = p > b ? p - b : b - p, pc = p > c ? p - c : c - p;
    return (uint8_t)(pa <= pb && pa <= pc ? a : pb <= pc ? b : c);
}

/* One row of RGB under filter 0 to 4 of the PNG specification, section 9; returns the sum of absolute differences, the
 * specification's measure for choosing. `above` is NULL for the first row. */
static uint64_t filter_row(int filter, const uint8_t *row, const uint8_t *above, size_t count, uint8_t *out)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        int left = i >= 3 ? row[i - 3] : 0, up = above ? above[i] : 0, corner = above && i >= 3 ? above[i - 3] : 0;
        int base = filter == 0   ? 0
                   : filter == 1 ? left
                   : filter == 2 ? up
                   : filter == 3 ? (left + up) / 2
                                 : paeth(left, up, corner);
        out[i] = (uint8_t)(row[i] - base);
        sum += out[i] < 128 ? out[i] : 256u - out[i];
    }
    return sum;
}

static void filter_best(const uint8_t *row, const uint8_t *above, size_t count, uint8_t *out, uint8_t *spare)
{
    uint64_t best = UINT64_MAX;
    for (int filter = 0; filter < 5; filter++) {
        uint64_t sum = filter_row(filter, row, above, count, spare);
        if (sum < best) {
            best = sum;
            out[0] = (uint8_t)filter;
            memcpy(out + 1, spare, count);
        }
    }
}

static void *zlib_alloc(void *context, uInt count, uInt size)
{
    return imagine__calloc(context, count, size);
}

static void zlib_free(void *context, void *block)
{
    imagine__free(context, block);
}

static int deflate_rows(z_stream *z, const uint8_t *rgb, uint32_t width, uint32_t height, uint8_t *line)
{
    size_t count = (size_t)width * 3;
    for (uint32_t y = 0; y < height; y++) {
        const uint8_t *row = rgb + count * y;
        filter_best(row, y ? row - count : NULL, count, line, line + count + 1);
        z->next_in = line;
        z->avail_in = (uInt)count + 1;
        int code = deflate(z, y + 1 == height ? Z_FINISH : Z_NO_FLUSH);
        if (code != (y + 1 == height ? Z_STREAM_END : Z_OK) || z->avail_in)
            return 0;
    }
    return 1;
}

imagine_status imagine__png_deflate(imagine_context *context, const uint8_t *rgb, uint32_t width, uint32_t height,
                                    uint8_t **bytes, size_t *size, imagine_error *error)
{
    size_t count = (size_t)width * 3;
    z_stream z = { .zalloc = zlib_alloc, .zfree = zlib_free, .opaque = context };
    uint8_t *line = imagine__alloc(context, 2 * count + 1), *out = NULL;
    imagine_status status = IMAGINE_OK;
    if (!line || deflateInit(&z, 6) != Z_OK) {
        imagine__free(context, line);
        return imagine__fail_memory_in(context, error, 2 * count + 1, "the PNG compressor");
    }
    uLong bound = deflateBound(&z, (uLong)((count + 1) * height));
    out = bound <= UINT32_MAX ? imagine__alloc(context, bound) : NULL;
    if (!out) {
        status = imagine__fail_memory_in(context, error, bound, "a compressed picture");
    } else {
        z.next_out = out;
        z.avail_out = (uInt)bound;
        if (!deflate_rows(&z, rgb, width, height, line))
            status = imagine__fail(error, IMAGINE_ERROR_INTERNAL, "a picture of %ux%u did not compress", width, height);
    }
    *size = z.total_out;
    deflateEnd(&z);
    imagine__free(context, line);
    if (status < 0) {
        imagine__free(context, out);
        out = NULL;
    }
    *bytes = out;
    return status;
}
