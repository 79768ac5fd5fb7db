/* SPDX-License-Identifier: MIT */
#include "cuda_check.h"

/* Copies, combinations and bytes are exact. Activations in f32: measured 1e-14. As bf16 they are rounded once, by 2^-8 of
 * the value at most: 1.53e-5; measured 1e-5 where there are only a few. */
#define LIMIT_F32 1e-13
#define LIMIT_BF16 1.6e-5

static const int64_t sizes[] = {0, 1, 3, 4, 5, 31, 1000, 1024, 1025, 4099};
#define SIZES ((int)(sizeof sizes / sizeof *sizes))

static void activations(void)
{
    check_random r = {1};
    static const float special[] = {0, -0.0f, 20, -20, 100, -100, 3e38f, -3e38f, INFINITY, -INFINITY, NAN};
    const int count = (int)(sizeof special / sizeof *special);
    for (int i = 0; i < 4 * SIZES * 4; i++) {
        imagine__act act = i % 4;
        int64_t n = sizes[i / 4 % SIZES];
        imagine__cuda_type x_type = i / 4 / SIZES % 2, y_type = i / 8 / SIZES;
        cuda_check_prefer(80, (uint32_t)i);
        float *x = check_input(&r, n), *expected = check_alloc((size_t)n * 4 + 4);
        for (int64_t j = 0; j < n; j++)
            x[j] = n == 1000 && j < count ? special[j] : x[j] * 3;
        void *in = cuda_typed_input(x, n, x_type), *out = cuda_output((size_t)n * cuda_size(y_type));
        check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
        imagine__kernels_plain.activate(&c.run, x, expected, n, act);
        CUDA_OK(cuda->activate(in, x_type, out, y_type, n, act, NULL));
        float *y = cuda_fetch_rows(out, y_type, 1, n, n + 1, n);
        for (int j = 0; n == 1000 && j < count; j++) { /* what an infinity gives is the activation's own affair */
            CHECK(isnan(y[j]) == isnan(expected[j]) || !isfinite(x[j]));
            y[j] = expected[j] = 0;
        }
        CHECK(cuda_same(y, expected, 1, n, n, y_type, y_type == IMAGINE__W_BF16 ? LIMIT_BF16 : LIMIT_F32));
        cuda->release(in);
        free(x);
        free(y);
        free(expected);
    }
    cuda_report("activations");
}

static void embeds(void)
{
    check_random r = {2};
    for (int i = 0; i < 40; i++) {
        int64_t rows = check_between(&r, 1, 20), dim = check_between(&r, 1, 70), count = check_between(&r, 0, 30);
        if (i % 3 == 0)
            dim *= 4;
        imagine__wtype type = i % 2;
        imagine__cuda_type y_type = i / 2 % 2;
        float *table = check_input(&r, rows * dim);
        int32_t ids[30];
        for (int j = 0; j < 30; j++)
            ids[j] = (int32_t)check_between(&r, 0, rows - 1);
        void *in = cuda_typed_input(table, rows * dim, type), *list = cuda_input(ids, sizeof ids);
        void *out = cuda_output((size_t)(count * dim) * cuda_size(y_type));
        CUDA_OK(cuda->embed(in, type, list, count, dim, out, y_type, NULL));
        float *y = cuda_fetch_rows(out, y_type, count, dim, dim, count * dim);
        for (int64_t j = 0; j < count * dim; j++) {
            float expected = table[ids[j / dim] * dim + j % dim];
            uint16_t half = cuda_bf16(expected);
            CHECK(y[j] == (y_type == IMAGINE__W_BF16 ? cuda_value(&half, IMAGINE__W_BF16, 0) : expected));
        }
        cuda->release(in);
        cuda->release(list);
        free(table);
        free(y);
    }
}

static void combines(void)
{
    check_random r = {3};
    for (int32_t terms = 1; terms <= 8; terms++)
        for (int s = 0; s < SIZES; s++) {
            int64_t n = sizes[s];
            float *x[8], coefficient[8], *expected = check_alloc((size_t)n * 4 + 4);
            void *in[8];
            cuda_check_prefer(80, (uint32_t)s);
            for (int t = 0; t < terms; t++) {
                x[t] = check_input(&r, n);
                in[t] = cuda_input(x[t], (size_t)n * 4);
                coefficient[t] = check_value(&r);
            }
            check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
            imagine__kernels_plain.combine(&c.run, terms, coefficient, (const float *const *)x, expected, n);
            void *out = cuda_output((size_t)n * 4);
            CUDA_OK(cuda->combine(terms, coefficient, (const float *const *)in, out, n, NULL));
            CUDA_OK(cuda->combine(terms, coefficient, (const float *const *)in, in[0], n, NULL)); /* in place */
            float *y = cuda_fetch(out, (size_t)n * 4);
            CHECK(memcmp(y, expected, (size_t)n * 4) == 0);
            CUDA_OK(cuda->download(y, in[0], (size_t)n * 4, NULL));
            CHECK(memcmp(y, expected, (size_t)n * 4) == 0);
            for (int t = 0; t < terms; t++) {
                cuda->release(in[t]);
                free(x[t]);
            }
            free(y);
            free(expected);
        }
}

/* Known latents: with a mask of frames, of pixels or none, with noise or not; the bytes of plain C. */
static void keeps(void)
{
    check_random r = {12};
    for (int i = 0; i < 60; i++) {
        int64_t planes = check_between(&r, 1, 5), area = check_between(&r, 1, i < 40 ? 30 : 300), frames = check_between(&r, 1, 4);
        int64_t given = i % 3 ? frames : check_between(&r, 1, frames), masks = i % 3 == 1 ? frames : frames * area;
        int64_t n = planes * frames * area;
        float *x = check_input(&r, n), *noise = check_input(&r, n), *known = check_input(&r, planes * given * area);
        float *mask = check_alloc((size_t)masks * 4), *y, *expected = check_alloc((size_t)n * 4);
        for (int64_t j = 0; j < masks; j++)
            mask[j] = (float)check_between(&r, 0, 1);
        memcpy(expected, x, (size_t)n * 4);
        imagine__keep_args a = { .x = expected, .known = known, .noise = i % 2 ? noise : NULL, .mask = i % 3 ? mask : NULL,
                                 .planes = planes, .count = given * area, .x_plane = frames * area, .known_plane = given * area,
                                 .mask_step = i % 3 == 1 ? area : 1, .sigma = check_value(&r) };
        check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
        imagine__kernels_plain.keep(&c.run, &a);
        void *in[3] = {cuda_input(known, (size_t)(planes * given * area) * 4), cuda_input(noise, (size_t)n * 4),
                       cuda_input(mask, (size_t)masks * 4)};
        a.known = in[0];
        a.noise = a.noise ? in[1] : NULL;
        a.mask = a.mask ? in[2] : NULL;
        a.x = cuda_output((size_t)n * 4);
        cuda_check_prefer(80, (uint32_t)i);
        CUDA_OK(cuda->upload(a.x, x, (size_t)n * 4, NULL));
        CUDA_OK(cuda->keep(&a, NULL));
        y = cuda_fetch(a.x, (size_t)n * 4);
        CHECK(!memcmp(y, expected, (size_t)n * 4) && (i < 40 || memcmp(y, x, (size_t)n * 4)));
        for (int j = 0; j < 3; j++)
            cuda->release(in[j]);
        free(x), free(noise), free(known), free(mask), free(y), free(expected);
    }
    CUDA_OK(cuda->keep(&(imagine__keep_args){.planes = 3}, NULL));
}

/* The spread of rows, and rows that get another's: in f64, summed in another order than plain C's. */
static void rescales(void)
{
    check_random r = {13};
    for (int i = 0; i < 24; i++) {
        int64_t rows = check_between(&r, 1, 4), n = i < 12 ? check_between(&r, 1, 40) : check_between(&r, 500, 3000);
        double share = i % 2 ? 0.7 : 1, expected[4], to[4], *got;
        float *x = check_input(&r, rows * n), *scaled, *y;
        for (int64_t j = 0; i % 4 == 0 && j < n; j++) /* a row without any */
            x[j] = 3;
        if (i == 13)
            x[5] = NAN;
        for (int j = 0; j < 4; j++)
            to[j] = fabs((double)check_value(&r));
        check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
        imagine__kernels_plain.spread(&c.run, x, rows, n, expected);
        void *in = cuda_input(x, (size_t)(rows * n) * 4), *out = cuda_output((size_t)rows * 8), *wanted = cuda_input(to, sizeof to);
        cuda_check_prefer(80, (uint32_t)i);
        CUDA_OK(cuda->spread(in, rows, n, out, NULL));
        CUDA_OK(cuda->upload(in, x, (size_t)(rows * n) * 4, NULL));
        scaled = cuda_output((size_t)(rows * n) * 4);
        CUDA_OK(cuda->copy(scaled, in, (size_t)(rows * n) * 4, NULL));
        CUDA_OK(cuda->rescale(scaled, rows, n, out, wanted, share, NULL));
        got = cuda_fetch(out, (size_t)rows * 8);
        y = cuda_fetch(scaled, (size_t)(rows * n) * 4);
        for (int64_t row = 0; row < rows; row++)
            CHECK(fabs(got[row] - expected[row]) <= 1e-12 * expected[row] && (expected[row] > 0 || got[row] == 0));
        imagine__kernels_plain.rescale(&c.run, x, rows, n, expected, to, share);
        CHECK(cuda_same(y, x, rows, n, n, IMAGINE__W_F32, LIMIT_F32));
        cuda->release(in);
        cuda->release(wanted);
        free(x), free(y), free(got);
    }
    CUDA_OK(cuda->spread(NULL, 0, 5, NULL, NULL));
    CUDA_OK(cuda->rescale(NULL, 5, 0, NULL, NULL, 1, NULL));
}

static void transposes(void)
{
    check_random r = {4};
    for (int i = 0; i < 20; i++) {
        int64_t rows = check_between(&r, 1, 100), columns = i ? check_between(&r, 1, 100) : 0;
        float *x = check_input(&r, rows * columns);
        void *in = cuda_input(x, (size_t)(rows * columns) * 4), *out = cuda_output((size_t)(rows * columns) * 4);
        cuda_check_prefer(80, (uint32_t)i);
        CUDA_OK(cuda->transpose(in, out, rows, columns, NULL));
        float *y = cuda_fetch(out, (size_t)(rows * columns) * 4);
        for (int64_t j = 0; j < rows * columns; j++)
            CHECK(y[j % columns * rows + j / columns] == x[j]);
        cuda->release(in);
        free(x);
        free(y);
    }
}

static void finites(void)
{
    check_random r = {5};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int s = 0; s < SIZES; s++)
        for (int kind = 0; kind < 4; kind++) {
            int64_t n = sizes[s];
            float *x = check_input(&r, n);
            if (n && kind < 3)
                x[check_between(&r, 0, n - 1)] = bad[kind];
            void *in = cuda_input(x, (size_t)n * 4);
            uint32_t *out = cuda_output(4), *answer;
            CUDA_OK(cuda->finite(in, n, out, NULL));
            answer = cuda_fetch(out, 4);
            CHECK(*answer == (n && kind < 3));
            cuda->release(in);
            free(answer);
            free(x);
        }
}

static void bytes(void)
{
    check_random r = {6};
    check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
    for (int s = 0; s < SIZES; s++) {
        int64_t n = sizes[s];
        float *x = check_input(&r, n), *back = check_alloc((size_t)n * 4 + 4);
        uint8_t *expected = check_alloc((size_t)n + 1);
        for (int64_t j = 0; j < n; j++)
            x[j] = j == 3 ? NAN : j == 4 ? INFINITY : j % 7 == 5 ? (float)(j % 255) / 127.5f - 1 : x[j];
        void *in = cuda_input(x, (size_t)n * 4), *out = cuda_output((size_t)n), *out_back = cuda_output((size_t)n * 4);
        imagine__kernels_plain.to_u8(&c.run, x, expected, n);
        imagine__kernels_plain.from_u8(&c.run, expected, back, n);
        CUDA_OK(cuda->to_u8(in, out, n, NULL));
        CUDA_OK(cuda->from_u8(out, out_back, n, NULL));
        uint8_t *y = cuda_fetch(out, (size_t)n);
        float *y_back = cuda_fetch(out_back, (size_t)n * 4);
        CHECK(memcmp(y, expected, (size_t)n) == 0);
        CHECK(memcmp(y_back, back, (size_t)n * 4) == 0);
        cuda->release(in);
        free(x);
        free(back);
        free(expected);
        free(y);
        free(y_back);
    }
}

static void upsamples(void)
{
    check_random r = {7};
    for (int i = 0; i < 24; i++) {
        int64_t frames = check_between(&r, 1, 2), height = check_between(&r, 1, 7), width = check_between(&r, 1, 7);
        int64_t channels = i % 3 ? check_between(&r, 1, 20) : 8 * check_between(&r, 1, 9);
        imagine__cuda_type type = i % 2;
        int64_t n = frames * height * width * channels;
        float *x = check_input(&r, n);
        void *in = cuda_typed_input(x, n, type), *out = cuda_output((size_t)(4 * n) * cuda_size(type));
        CUDA_OK(cuda->upsample(in, out, frames, height, width, channels, type, NULL));
        float *y = cuda_fetch_rows(out, type, 1, 4 * n, 4 * n, 4 * n);
        for (int64_t j = 0; j < 4 * n; j++) {
            int64_t column = j / channels % (2 * width), row = j / channels / (2 * width);
            int64_t frame = row / (2 * height), from = (frame * height + row % (2 * height) / 2) * width + column / 2;
            CHECK(y[j] == x[from * channels + j % channels]);
        }
        cuda->release(in);
        free(x);
        free(y);
    }
}

static void patches(void)
{
    check_random r = {8};
    check_run c = check_start(&imagine__kernels_plain, CHECK_FORWARD);
    for (int i = 0; i < 40; i++) {
        int32_t pt = (int32_t)check_between(&r, 1, 2), ph = (int32_t)check_between(&r, 1, 3);
        imagine__patch_args p = {.channels = check_between(&r, 1, 9), .frames = pt * check_between(&r, 1, 3),
                                 .height = ph * check_between(&r, 1, 5), .pt = pt, .ph = ph,
                                 .pw = (int32_t)check_between(&r, 1, 3)};
        p.width = p.pw * check_between(&r, 1, 5);
        int64_t n = p.channels * p.frames * p.height * p.width;
        imagine__cuda_type type = i % 2;
        float *x = check_input(&r, n), *expected = check_alloc((size_t)n * 4);
        imagine__cuda_patch_args a = {.channels = p.channels, .frames = p.frames, .height = p.height, .width = p.width,
                                      .pt = p.pt, .ph = p.ph, .pw = p.pw, .token_type = type};
        cuda_check_prefer(80, (uint32_t)i);
        p.x = x;
        p.y = expected;
        if (i / 2 % 2) {
            a.x = cuda_input(x, (size_t)n * 4);
            a.y = cuda_output((size_t)n * cuda_size(type));
            imagine__kernels_plain.patchify(&c.run, &p);
            CUDA_OK(cuda->patchify(&a, NULL));
        } else {
            a.x = cuda_typed_input(x, n, type);
            a.y = cuda_output((size_t)n * 4);
            imagine__kernels_plain.unpatchify(&c.run, &p);
            CUDA_OK(cuda->unpatchify(&a, NULL));
        }
        imagine__cuda_type y_type = i / 2 % 2 ? type : IMAGINE__W_F32;
        float *y = cuda_fetch_rows(a.y, y_type, 1, n, n, n);
        for (int64_t j = 0; j < n; j++) {
            uint16_t half = cuda_bf16(expected[j]);
            CHECK(y[j] == (y_type == IMAGINE__W_BF16 ? cuda_value(&half, IMAGINE__W_BF16, 0) : expected[j]));
        }
        cuda->release((void *)a.x);
        free(x);
        free(y);
        free(expected);
    }
}

static void modulates(void)
{
    check_random r = {9};
    for (int i = 0; i < 30; i++) {
        int64_t rows = check_between(&r, 1, 5), parts = check_between(&r, 1, 6), x_parts = i % 2 ? parts : 1;
        int64_t dim = i % 3 ? check_between(&r, 1, 70) : 4 * check_between(&r, 1, 300), n = rows * parts * dim;
        float *table = check_input(&r, parts * dim), *x = check_input(&r, rows * x_parts * dim);
        void *in_table = cuda_input(table, (size_t)(parts * dim) * 4), *in = cuda_input(x, (size_t)(rows * x_parts * dim) * 4);
        void *out = cuda_output((size_t)n * 4);
        imagine__modulate_args a = {in_table, in, out, rows, parts, x_parts, dim};
        CUDA_OK(cuda->modulate(&a, NULL));
        float *y = cuda_fetch(out, (size_t)n * 4);
        for (int64_t j = 0; j < n; j++) {
            int64_t row = j / dim / parts, part = j / dim % parts;
            CHECK(y[j] == table[part * dim + j % dim] + x[(row * x_parts + part % x_parts) * dim + j % dim]);
        }
        cuda->release(in_table);
        cuda->release(in);
        free(table);
        free(x);
        free(y);
    }
}

static void snakes(void)
{
    check_random r = {10};
    for (int i = 0; i < 20; i++) {
        int64_t rows = check_between(&r, 1, 40), channels = check_between(&r, 1, 60), n = rows * channels;
        float *x = check_input(&r, n), *alpha = check_input(&r, channels), *beta = check_input(&r, channels);
        float *expected = check_alloc((size_t)n * 4);
        x[n / 2] = i ? x[n / 2] : NAN;
        for (int64_t j = 0; j < channels; j++)
            beta[j] = 0.1f + fabsf(beta[j]);
        for (int64_t j = 0; j < n; j++) {
            double wave = sin((double)alpha[j % channels] * x[j]);
            expected[j] = (float)(x[j] + wave * wave / beta[j % channels]);
        }
        void *in_alpha = cuda_input(alpha, (size_t)channels * 4), *in_beta = cuda_input(beta, (size_t)channels * 4);
        void *out = cuda_output((size_t)n * 4);
        CUDA_OK(cuda->upload(out, x, (size_t)n * 4, NULL)); /* in place */
        CUDA_OK(cuda->snake(out, in_alpha, in_beta, out, rows, channels, NULL));
        float *y = cuda_fetch(out, (size_t)n * 4);
        CHECK(cuda_same(y, expected, rows, channels, channels, IMAGINE__W_F32, LIMIT_F32));
        cuda->release(in_alpha);
        cuda->release(in_beta);
        free(x);
        free(alpha);
        free(beta);
        free(expected);
        free(y);
    }
    cuda_report("snake");
}

/* One way is written down here, the other must undo it. */
static void pixels(void)
{
    check_random r = {12};
    for (int i = 0; i < 20; i++) {
        int64_t height = check_between(&r, 1, 5), width = check_between(&r, 1, 6), patch = check_between(&r, 1, 4);
        int64_t values = 3 * patch * patch, n = height * width * values, line = width * patch * 3;
        float *x = check_input(&r, n);
        void *in = cuda_input(x, (size_t)n * 4), *joined = cuda_output((size_t)n * 4), *parted = cuda_output((size_t)n * 4);
        imagine__pixels_args a = {in, joined, height, width, (int32_t)patch, 1}, b = {joined, parted, height, width, a.patch, 0};
        CUDA_OK(cuda->pixels(&a, NULL));
        CUDA_OK(cuda->pixels(&b, NULL));
        float *y = cuda_fetch(joined, (size_t)n * 4), *back = cuda_fetch(parted, (size_t)n * 4);
        for (int64_t j = 0; j < n; j++) {
            int64_t at = j % values, row = j / values / width * patch + at % patch;
            int64_t column = j / values % width * patch + at / patch % patch;
            CHECK(y[row * line + column * 3 + at / (patch * patch)] == x[j]);
            CHECK(back[j] == x[j]);
        }
        cuda->release(in);
        free(x);
        free(y);
        free(back);
    }
}

static void relative_biases(void)
{
    check_random r = {13};
    for (int i = 0; i < 12; i++) {
        int64_t tokens = i ? check_between(&r, 1, 40) : 300, all = check_between(&r, 1, 6), rows = check_between(&r, 1, 9);
        int64_t first = check_between(&r, 0, all - 1), heads = check_between(&r, 1, all - first), n = heads * tokens * tokens;
        float *table = check_input(&r, rows * all);
        int32_t *buckets = check_alloc((size_t)(2 * tokens - 1) * 4);
        for (int64_t j = 0; j < 2 * tokens - 1; j++)
            buckets[j] = (int32_t)check_between(&r, 0, rows - 1);
        void *in = cuda_input(table, (size_t)(rows * all) * 4), *list = cuda_input(buckets, (size_t)(2 * tokens - 1) * 4);
        void *out = cuda_output((size_t)n * 4);
        imagine__relative_bias_args a = {in, list, out, tokens, all, first, heads};
        CUDA_OK(cuda->relative_bias(&a, NULL));
        float *y = cuda_fetch(out, (size_t)n * 4);
        for (int64_t j = 0; j < n; j++) {
            int64_t head = j / tokens / tokens, distance = j % tokens - j / tokens % tokens;
            CHECK(y[j] == table[buckets[distance + tokens - 1] * all + first + head]);
        }
        cuda->release(in);
        cuda->release(list);
        free(table);
        free(buckets);
        free(y);
    }
}

/* On a stream of its own, with a mark to wait for. */
static void marks(void)
{
    void *stream, *mark;
    const float one = 1, *x;
    float y = 0;
    void *in = cuda_input(&one, 4), *out = cuda_output(4);
    x = in;
    CUDA_OK(cuda->stream_create(&stream));
    CUDA_OK(cuda->mark_create(&mark));
    CUDA_OK(cuda->mark_wait(mark)); /* it is nowhere yet */
    CUDA_OK(cuda->combine(1, &one, &x, out, 1, stream));
    CUDA_OK(cuda->mark(mark, stream));
    CUDA_OK(cuda->mark_wait(mark));
    CUDA_OK(cuda->download(&y, out, 4, stream));
    CHECK(y == 1);
    cuda->mark_destroy(mark);
    cuda->stream_destroy(stream);
    cuda->mark_destroy(NULL);
    cuda->stream_destroy(NULL);
    cuda->release(in);
    free(cuda_fetch(out, 4));
}

static void copies(void)
{
    check_random r = {11};
    size_t available = 0, total = 0;
    for (int s = 0; s < SIZES; s++) {
        size_t n = (size_t)sizes[s];
        float *x = check_input(&r, (int64_t)n);
        void *in = cuda_input(x, n * 4), *out = cuda_output(n * 4), *zeros = cuda_output(n * 4);
        CUDA_OK(cuda->copy(out, in, n * 4, NULL));
        CUDA_OK(cuda->clear(zeros, n * 4, NULL));
        float *y = cuda_fetch(out, n * 4), *z = cuda_fetch(zeros, n * 4);
        CHECK(memcmp(y, x, n * 4) == 0);
        for (size_t j = 0; j < n; j++)
            CHECK(z[j] == 0);
        cuda->release(in);
        free(x);
        free(y);
        free(z);
    }
    CUDA_OK(cuda->memory_info(&available, &total));
    CHECK(available > 0 && available <= total);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"activations", activations}, {"embeds", embeds}, {"combines", combines}, {"keeps", keeps}, {"rescales", rescales}, {"transposes", transposes},
        {"finites", finites}, {"bytes", bytes}, {"upsamples", upsamples}, {"patches", patches},
        {"modulates", modulates}, {"snakes", snakes}, {"copies", copies},
        {"pixels", pixels}, {"relative_biases", relative_biases}, {"marks", marks},
    };
    return cuda_check_main("cuda/elementwise", cases, sizeof cases / sizeof *cases, argc, argv);
}
