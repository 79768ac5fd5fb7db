/* SPDX-License-Identifier: MIT */
#include "check.h"

/* The shortcuts against their definition, value by value; a part of the output against the whole. */

typedef struct shape {
    int64_t height, width, in, out; /* x */
    int32_t time, space;
} shape;

static const shape down_shapes[] = {
    { 4, 6, 5, 5, 1, 2 }, { 2, 2, 3, 6, 2, 2 }, { 4, 2, 4, 16, 2, 2 }, { 6, 8, 6, 3, 2, 2 },
    { 3, 5, 7, 7, 1, 1 }, { 3, 1, 8, 2, 1, 1 }, { 2, 4, 4, 2, 2, 1 }, { 2, 6, 1, 1, 2, 2 },
};
static const shape up_shapes[] = {
    { 3, 2, 5, 5, 1, 2 }, { 1, 1, 6, 3, 2, 2 }, { 2, 3, 16, 2, 2, 2 }, { 2, 5, 8, 8, 2, 2 },
    { 3, 5, 7, 7, 1, 1 }, { 2, 2, 3, 6, 1, 2 }, { 1, 4, 2, 4, 2, 1 },
};
#define COUNT(array) (sizeof(array) / sizeof *(array))

static imagine__shortcut_args whole_args(const shape *s, const float *x, float *y, int up)
{
    imagine__shortcut_args a = { .x = x, .y = y, .height = s->height, .width = s->width, .in = s->in, .out = s->out,
                                 .out_h = up ? s->height * s->space : s->height / s->space,
                                 .out_w = up ? s->width * s->space : s->width / s->space,
                                 .time = s->time, .space = s->space };
    return a;
}

static void run(const imagine__kernels *kernels, const imagine__shortcut_args *a, int up, int order)
{
    check_run c = check_start(kernels, order);
    (up ? kernels->shortcut_up : kernels->shortcut_down)(&c.run, a);
    CHECK(check_guards(a->y));
}

/* Value (oy, ox, o), all frames together when going down: the mean; one frame when going up. */
static double down_at(const shape *s, float *const *frames, int64_t oy, int64_t ox, int64_t o)
{
    int64_t p = s->space, group = s->in * s->time * p * p / s->out;
    double sum = 0;
    for (int64_t e = o * group; e < (o + 1) * group; e++) {
        int64_t sx = e % p, sy = e / p % p, t = e / (p * p) % s->time, c = e / (p * p * s->time);
        sum += (double)frames[t][((oy * p + sy) * s->width + ox * p + sx) * s->in + c];
    }
    return sum / (double)group;
}

static void goes_down(void)
{
    check_random r = { 1 };
    for (size_t i = 0; i < COUNT(down_shapes); i++) {
        const shape *s = &down_shapes[i];
        int64_t values = s->height * s->width * s->in;
        float *frames[2] = { check_input(&r, values), check_input(&r, values) };
        int64_t out_h = s->height / s->space, out_w = s->width / s->space;
        float *y = check_output_floats(out_h * out_w * s->out);
        for (int32_t t = 0; t < s->time; t++) {
            imagine__shortcut_args a = whole_args(s, frames[t], y, 0);
            a.frame = t;
            a.add = t > 0;
            run(&imagine__kernels_plain, &a, 0, CHECK_SHUFFLED);
        }
        for (int64_t v = 0; v < out_h * out_w * s->out; v++) {
            double expected = down_at(s, frames, v / s->out / out_w, v / s->out % out_w, v % s->out);
            CHECK(fabs((double)y[v] - expected) < 1e-6);
        }
        check_free(y);
        free(frames[0]);
        free(frames[1]);
    }
}

static void goes_up(void)
{
    check_random r = { 2 };
    for (size_t i = 0; i < COUNT(up_shapes); i++) {
        const shape *s = &up_shapes[i];
        int64_t p = s->space, copies = s->out * s->time * p * p / s->in, out_h = s->height * p, out_w = s->width * p;
        float *x = check_input(&r, s->height * s->width * s->in), *y = check_output_floats(out_h * out_w * s->out);
        for (int32_t t = 0; t < s->time; t++) {
            imagine__shortcut_args a = whole_args(s, x, y, 1);
            a.frame = t;
            run(&imagine__kernels_plain, &a, 1, CHECK_THREADS);
            for (int64_t v = 0; v < out_h * out_w * s->out; v++) {
                int64_t oy = v / s->out / out_w, ox = v / s->out % out_w, o = v % s->out;
                int64_t e = ((o * s->time + t) * p + oy % p) * p + ox % p;
                CHECK(memcmp(&y[v], &x[((oy / p) * s->width + ox / p) * s->in + e / copies], sizeof *y) == 0);
            }
        }
        check_free(y);
        free(x);
    }
}

/* Rows from 1 and columns from 1 of the output, at every level, in any order of tiles. */
static void parts(const shape *s, int up, check_random *r)
{
    const imagine__kernels *tables[3] = { &imagine__kernels_plain };
    int count = 1 + check_tables(tables + 1);
    float *x = check_input(r, s->height * s->width * s->in);
    imagine__shortcut_args whole = whole_args(s, x, NULL, up), part = whole;
    int64_t scale = up ? 1 : s->space;
    part.out_h -= 1;
    part.out_w -= 1;
    part.top = part.left = scale;
    whole.frame = part.frame = s->time - 1;
    whole.y = check_output_floats(whole.out_h * whole.out_w * s->out);
    run(&imagine__kernels_plain, &whole, up, CHECK_FORWARD);
    for (int t = 0; t < count; t++) {
        part.y = check_output_floats(part.out_h * part.out_w * s->out);
        run(tables[t], &part, up, CHECK_BACKWARD);
        for (int64_t oy = 0; oy < part.out_h; oy++)
            CHECK(memcmp(part.y + oy * part.out_w * s->out, whole.y + ((oy + 1) * whole.out_w + 1) * s->out,
                         (size_t)(part.out_w * s->out) * sizeof *x) == 0);
        check_free(part.y);
    }
    check_free(whole.y);
    free(x);
}

static void parts_of_both(void)
{
    check_random r = { 3 };
    for (size_t i = 0; i < COUNT(down_shapes); i++)
        parts(&down_shapes[i], 0, &r);
    for (size_t i = 0; i < COUNT(up_shapes); i++)
        parts(&up_shapes[i], 1, &r);
}

/* More channels than the scratch lists at once. */
static void many_channels(void)
{
    check_random r = { 4 };
    static const shape wide = { 2, 2, 200001, 200001, 1, 2 };
    int64_t n = wide.height * wide.width * wide.in;
    float *x = check_input(&r, n), *frames[2] = { x, x };
    float *down = check_output_floats(wide.out), *up = check_output_floats(16 * wide.out);
    imagine__shortcut_args a = whole_args(&wide, x, down, 0), b = whole_args(&wide, x, up, 1);
    run(&imagine__kernels_plain, &a, 0, CHECK_FORWARD);
    run(&imagine__kernels_plain, &b, 1, CHECK_FORWARD);
    for (int64_t o = 0; o < wide.out; o++) {
        CHECK(fabs((double)down[o] - down_at(&wide, frames, 0, 0, o)) < 1e-6);
        CHECK(memcmp(&up[o], &x[o], sizeof *x) == 0);
    }
    check_free(down);
    check_free(up);
    free(x);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "goes_down", goes_down },
        { "goes_up", goes_up },
        { "parts_of_both", parts_of_both },
        { "many_channels", many_channels },
    };
    return test_main("shortcut", cases, sizeof cases / sizeof cases[0], argc, argv);
}
