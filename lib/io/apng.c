/* SPDX-License-Identifier: MIT */

/* Animated PNG, by the PNG specification, third edition: acTL, fcTL and fdAT chunks. */

#include <string.h>
#include <zlib.h>

#include "io/io.h"

#define TAG(a, b, c, d) ((uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (uint32_t)(d))

static const uint8_t signature[8] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n' };

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct chunk {
    uint32_t tag, size;
    const uint8_t *data;
} chunk;

/* The chunk at *at; 0 at the end of the file or when the rest is no chunk. */
static int next_chunk(const uint8_t *bytes, size_t size, size_t *at, chunk *c)
{
    if (size - *at < 12)
        return 0;
    c->size = get32(bytes + *at);
    c->tag = get32(bytes + *at + 4);
    c->data = bytes + *at + 8;
    if (c->size > size - *at - 12)
        return 0;
    *at += (size_t)c->size + 12;
    return 1;
}

/* What a fcTL chunk says. */
typedef struct frame_control {
    uint32_t width, height, x, y;
    uint8_t dispose, blend;
} frame_control;

enum {
    DISPOSE_NONE,
    DISPOSE_BACKGROUND,
    DISPOSE_PREVIOUS
};

typedef struct animation {
    imagine_context *context;
    const char *name;
    const uint8_t *bytes;
    size_t size;
    const uint8_t *header; /* IHDR's 13 bytes */
    uint32_t width, height, frames;
    uint8_t common[12 + 768 + 12 + 256]; /* PLTE and tRNS, which every frame's stream needs, as they stand there */
    size_t common_size;
    uint8_t *stream; /* a PNG stream of one frame, assembled for the decoder: never longer than the file + 64 */
    uint8_t *canvas, *saved; /* RGBA */
} animation;

static imagine_status broken(const animation *a, imagine_error *error, const char *what)
{
    return imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: animated PNG: %s", a->name, what);
}

static size_t put_chunk(uint8_t *out, uint32_t tag, const uint8_t *data, uint32_t size)
{
    put32(out, size);
    put32(out + 4, tag);
    if (size)
        memcpy(out + 8, data, size);
    put32(out + 8 + size, (uint32_t)crc32(0, out + 4, size + 4));
    return (size_t)size + 12;
}

/* Assembles the common chunks once; longer or further ones would be copied as often as there are frames. */
static imagine_status read_common(animation *a, imagine_error *error)
{
    size_t at = 8;
    int palettes = 0, alphas = 0;
    chunk c;
    while (next_chunk(a->bytes, a->size, &at, &c) && c.tag != TAG('I', 'D', 'A', 'T')) {
        int palette = c.tag == TAG('P', 'L', 'T', 'E'), alpha = c.tag == TAG('t', 'R', 'N', 'S');
        if (!palette && !alpha)
            continue;
        palettes += palette;
        alphas += alpha;
        if (palettes > 1 || alphas > 1 || c.size > (palette ? 768u : 256u))
            return broken(a, error, "it has more of PLTE or tRNS than one of 768 and one of 256 bytes");
        a->common_size += put_chunk(a->common + a->common_size, c.tag, c.data, c.size);
    }
    return IMAGINE_OK;
}

static int read_control(const animation *a, const chunk *c, frame_control *f)
{
    if (c->size != 26)
        return 0;
    *f = (frame_control) { get32(c->data + 4),  get32(c->data + 8), get32(c->data + 12),
                           get32(c->data + 16), c->data[24],        c->data[25] };
    return f->width && f->height && f->width <= a->width && f->height <= a->height && f->x <= a->width - f->width &&
           f->y <= a->height - f->height && f->dispose <= DISPOSE_PREVIOUS && f->blend <= 1;
}

/* Lays one pixel over another, neither premultiplied. */
static void blend_over(uint8_t *under, const uint8_t *over)
{
    uint32_t alpha = over[3], below = (uint32_t)under[3] * (255 - alpha), sum = alpha * 255 + below;
    if (!sum)
        return;
    for (int i = 0; i < 3; i++)
        under[i] = (uint8_t)((over[i] * alpha * 255 + under[i] * below + sum / 2) / sum);
    under[3] = (uint8_t)((sum + 127) / 255);
}

static void draw(const animation *a, const frame_control *f, const uint8_t *rgba)
{
    for (uint32_t y = 0; y < f->height; y++) {
        uint8_t *row = a->canvas + ((size_t)(f->y + y) * a->width + f->x) * 4;
        const uint8_t *from = rgba + (size_t)y * f->width * 4;
        if (!f->blend)
            memcpy(row, from, (size_t)f->width * 4);
        for (uint32_t x = 0; f->blend && x < f->width; x++)
            blend_over(row + 4 * (size_t)x, from + 4 * (size_t)x);
    }
}

static void dispose(const animation *a, const frame_control *f)
{
    if (f->dispose == DISPOSE_PREVIOUS)
        memcpy(a->canvas, a->saved, (size_t)a->width * a->height * 4);
    for (uint32_t y = 0; f->dispose == DISPOSE_BACKGROUND && y < f->height; y++)
        memset(a->canvas + ((size_t)(f->y + y) * a->width + f->x) * 4, 0, (size_t)f->width * 4);
}

static void over_white(const uint8_t *rgba, uint8_t *rgb, size_t pixels)
{
    for (size_t i = 0; i < pixels; i++)
        for (int c = 0; c < 3; c++)
            rgb[3 * i + c] = (uint8_t)((rgba[4 * i + c] * rgba[4 * i + 3] + 255 * (255 - rgba[4 * i + 3]) + 127) / 255);
}

/* Decodes the frame whose stream was assembled up to `length`, and draws it. */
static imagine_status finish_frame(animation *a, size_t length, const frame_control *f, uint8_t *rgb,
                                   imagine_error *error)
{
    imagine__pixels pixels;
    length += put_chunk(a->stream + length, TAG('I', 'E', 'N', 'D'), NULL, 0);
    imagine_status status = imagine__png_decode(a->context, a->name, a->stream, length, &pixels, error);
    if (status < 0)
        return status;
    if (f->dispose == DISPOSE_PREVIOUS)
        memcpy(a->saved, a->canvas, (size_t)a->width * a->height * 4);
    draw(a, f, pixels.rgba);
    imagine__free(a->context, pixels.rgba);
    over_white(a->canvas, rgb, (size_t)a->width * a->height);
    dispose(a, f);
    return IMAGINE_OK;
}

static size_t begin_frame(const animation *a, const frame_control *f)
{
    uint8_t header[13];
    memcpy(a->stream, signature, 8);
    memcpy(header, a->header, 13);
    put32(header, f->width);
    put32(header + 4, f->height);
    size_t length = 8 + put_chunk(a->stream + 8, TAG('I', 'H', 'D', 'R'), header, 13);
    memcpy(a->stream + length, a->common, a->common_size);
    return length + a->common_size;
}

static imagine_status read_frames(animation *a, uint8_t *rgb, imagine_error *error)
{
    size_t at = 8, length = 0, frame_bytes = (size_t)a->width * a->height * 3;
    uint32_t done = 0;
    int open = 0;
    frame_control f = { 0 };
    chunk c;
    while (next_chunk(a->bytes, a->size, &at, &c)) {
        if ((c.tag == TAG('f', 'c', 'T', 'L') || c.tag == TAG('I', 'E', 'N', 'D')) && open) {
            imagine_status status = finish_frame(a, length, &f, rgb + frame_bytes * done++, error);
            if (status < 0 || done == a->frames)
                return status;
            open = 0;
        }
        if (c.tag == TAG('f', 'c', 'T', 'L')) {
            if (!read_control(a, &c, &f))
                return broken(a, error, "a frame's bounds do not fit the picture");
            length = begin_frame(a, &f);
            open = 1;
        } else if (c.tag == TAG('I', 'D', 'A', 'T') && open) {
            length += put_chunk(a->stream + length, c.tag, c.data, c.size);
        } else if (c.tag == TAG('f', 'd', 'A', 'T') && open) {
            if (c.size < 4)
                return broken(a, error, "a piece of a frame is too short");
            length += put_chunk(a->stream + length, TAG('I', 'D', 'A', 'T'), c.data + 4, c.size - 4);
        }
    }
    return broken(a, error, "it ends before its last frame");
}

/* Finds IHDR, and the number of frames that acTL promises and the file holds; 0 frames for a plain PNG. */
static imagine_status survey(animation *a, imagine_error *error)
{
    size_t at = 8;
    uint32_t promised = 0, controls = 0;
    chunk c;
    if (a->size < 8 || memcmp(a->bytes, signature, 8))
        return imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: is not a PNG file", a->name);
    while (next_chunk(a->bytes, a->size, &at, &c)) {
        if (c.tag == TAG('I', 'H', 'D', 'R') && c.size == 13 && !a->header)
            a->header = c.data;
        else if (c.tag == TAG('a', 'c', 'T', 'L') && c.size == 8)
            promised = get32(c.data);
        else if (c.tag == TAG('f', 'c', 'T', 'L'))
            controls++;
    }
    if (!a->header)
        return imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: the PNG header is missing or broken", a->name);
    a->width = get32(a->header);
    a->height = get32(a->header + 4);
    if (!a->width || !a->height || a->width > IMAGINE__PNG_MAX_SIDE || a->height > IMAGINE__PNG_MAX_SIDE)
        return imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: is %ux%u pixels, 1 to %u a side are read", a->name,
                             a->width, a->height, IMAGINE__PNG_MAX_SIDE);
    if (promised > controls)
        return broken(a, error, "it holds fewer frames than it promises");
    a->frames = promised;
    uint64_t bytes = (uint64_t)a->width * a->height * 3 * (promised ? promised : 1);
    if (bytes > IMAGINE__PNG_MAX_BYTES)
        return imagine__fail(error, IMAGINE_ERROR_FORMAT, "%s: %u frames of %ux%u are more than %llu bytes", a->name,
                             promised, a->width, a->height, (unsigned long long)IMAGINE__PNG_MAX_BYTES);
    return IMAGINE_OK;
}

static imagine_status decode_single(const animation *a, imagine_buffer **frames, imagine_error *error)
{
    imagine__pixels pixels;
    imagine_status status = imagine__png_decode(a->context, a->name, a->bytes, a->size, &pixels, error);
    if (status < 0)
        return status;
    int64_t shape[4] = { 1, pixels.height, pixels.width, 3 };
    status = imagine__buffer_new(frames, a->context, IMAGINE_U8, 4, shape, error);
    if (status >= 0)
        over_white(pixels.rgba, imagine_buffer_data(*frames), (size_t)pixels.width * pixels.height);
    imagine__free(a->context, pixels.rgba);
    return status;
}

imagine_status imagine__apng_decode(imagine_context *context, const char *name, const uint8_t *bytes, size_t size,
                                    imagine_buffer **frames, imagine_error *error)
{
    animation a = { .context = context, .name = name, .bytes = bytes, .size = size };
    *frames = NULL;
    imagine_status status = survey(&a, error);
    if (status < 0)
        return status;
    if (!a.frames)
        return decode_single(&a, frames, error);
    status = read_common(&a, error);
    if (status < 0)
        return status;
    int64_t shape[4] = { a.frames, a.height, a.width, 3 };
    size_t canvas = (size_t)a.width * a.height * 4;
    status = imagine__buffer_new(frames, context, IMAGINE_U8, 4, shape, error);
    if (status < 0)
        return status;
    a.stream = imagine__alloc(context, size + 64);
    a.canvas = imagine__calloc(context, canvas, 1);
    a.saved = imagine__alloc(context, canvas);
    if (a.stream && a.canvas && a.saved)
        status = read_frames(&a, imagine_buffer_data(*frames), error);
    else
        status = imagine__fail_memory_in(context, error, size + 2 * canvas, name);
    imagine__free(context, a.saved);
    imagine__free(context, a.canvas);
    imagine__free(context, a.stream);
    if (status < 0)
        imagine_buffer_release(frames);
    return status;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* A chunk with up to 4 bytes (fdAT's sequence number) in front of its data. */
static void write_chunk(imagine__output *output, uint32_t tag, const uint8_t *front, uint32_t front_size,
                        const uint8_t *data, size_t size)
{
    uint8_t word[8];
    put32(word, front_size + (uint32_t)size);
    put32(word + 4, tag);
    uLong crc = crc32(0, word + 4, 4);
    if (front_size)
        crc = crc32(crc, front, front_size);
    if (size)
        crc = crc32_z(crc, data, size);
    imagine__output_write(output, word, 8);
    imagine__output_write(output, front, front_size);
    imagine__output_write(output, data, size);
    put32(word, (uint32_t)crc);
    imagine__output_write(output, word, 4);
}

/* The delay 1 / fps as a fraction of two 16-bit numbers: the last of its continued fraction's that are small enough. */
static void delay_of(double fps, uint32_t *numerator, uint32_t *denominator)
{
    double wanted = 1 / fps, rest = wanted;
    uint64_t n[2] = { 0, 1 }, d[2] = { 1, 0 };
    for (int i = 0; i < 40 && rest < 1e6; i++) {
        uint64_t whole = (uint64_t)rest;
        uint64_t next_n = whole * n[1] + n[0], next_d = whole * d[1] + d[0];
        if (next_n > IMAGINE__PNG_MAX_RATE || next_d > IMAGINE__PNG_MAX_RATE)
            break;
        n[0] = n[1], n[1] = next_n;
        d[0] = d[1], d[1] = next_d;
        double error = (double)n[1] / (double)d[1] - wanted;
        if ((error < 0 ? -error : error) <= 1e-12 * wanted || rest - (double)whole <= 0)
            break;
        rest = 1 / (rest - (double)whole);
    }
    *numerator = (uint32_t)n[1];
    *denominator = (uint32_t)d[1];
}

static void write_control(imagine__output *output, uint32_t sequence, uint32_t width, uint32_t height, double fps)
{
    uint8_t data[26] = { 0 };
    put32(data, sequence);
    put32(data + 4, width);
    put32(data + 8, height);
    uint32_t numerator, denominator;
    delay_of(fps, &numerator, &denominator);
    data[20] = (uint8_t)(numerator >> 8);
    data[21] = (uint8_t)numerator;
    data[22] = (uint8_t)(denominator >> 8);
    data[23] = (uint8_t)denominator;
    write_chunk(output, TAG('f', 'c', 'T', 'L'), NULL, 0, data, 26);
}

imagine_status imagine__apng_encode(imagine_context *context, imagine__output *output, const uint8_t *rgb,
                                    uint32_t frames, uint32_t width, uint32_t height, double frames_per_second,
                                    imagine_error *error)
{
    uint8_t header[13] = { 0 }, word[8];
    uint32_t sequence = 0;
    put32(header, width);
    put32(header + 4, height);
    header[8] = 8; /* bits */
    header[9] = 2; /* RGB */
    imagine__output_write(output, signature, 8);
    write_chunk(output, TAG('I', 'H', 'D', 'R'), NULL, 0, header, 13);
    put32(word, frames);
    put32(word + 4, 0); /* for ever */
    if (frames > 1)
        write_chunk(output, TAG('a', 'c', 'T', 'L'), NULL, 0, word, 8);
    for (uint32_t f = 0; f < frames && !output->failed; f++) {
        uint8_t *bytes;
        size_t size;
        imagine_status status =
            imagine__png_deflate(context, rgb + (size_t)f * width * height * 3, width, height, &bytes, &size, error);
        if (status < 0)
            return status;
        if (frames > 1)
            write_control(output, sequence++, width, height, frames_per_second);
        if (f)
            put32(word, sequence++);
        write_chunk(output, f ? TAG('f', 'd', 'A', 'T') : TAG('I', 'D', 'A', 'T'), word, f ? 4 : 0, bytes, size);
        imagine__free(context, bytes);
    }
    write_chunk(output, TAG('I', 'E', 'N', 'D'), NULL, 0, NULL, 0);
    return IMAGINE_OK;
}
