/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_GEMM_H
#define IMAGINE_KERNELS_GEMM_H

/* The blocked matrix product behind linear and conv: y[m, n] = epilogue(sum_k a[m, k] W[n, k]).
 *
 * W lies packed in panels of GEMM_COLUMNS columns, [panel][k][GEMM_COLUMNS], f32 or bf16, the last panel filled up with
 * zeros. K is cut into parts (a convolution's frames) and these into blocks of at most GEMM_DEPTH; several short parts make
 * one block. A tile of y goes
 * through the blocks in turn: `fill` copies the tile's rows of the block side by side, then each panel of W, widened to
 * f32, stays in the first-level cache while all groups of rows pass by it. An element of y is the sum of its
 * blocks' sums, each in the order of k: nothing else of the shapes, or of the other rows, enters into it. */

#include "kernels/cpu/vec.h"

#ifdef GEMM_TILES
#include "kernels/cpu/tiles.h"
#endif

/* With GEMM_PAIRS an element of a and W is not a number but two of bf16, which go into a sum together; k counts pairs and the
 * type is F32, as elements have 32 bits. With GEMM_TILES, too, but AMX multiplies them, TILE rows, columns and pairs at once: parts
 * are whole numbers of TILE pairs. */
#ifdef GEMM_PAIRS
#define gemm_multiply_add(a, b, sum) _mm512_dpbf16_ps(sum, (__m512bh)(a), (__m512bh)(b))
#else
#define gemm_multiply_add(a, b, sum) vec_fma(a, b, sum)
#endif

#define GEMM_COLUMNS (2 * VEC_LANES)
#ifdef GEMM_TILES
#define GEMM_ROWS (2 * TILE)
#define GEMM_TALL GEMM_ROWS
#define GEMM_DEPTH 768
#define GEMM_WHOLE TILE
#else
#define GEMM_ROWS 6 /* of a group, at most */
#if VEC_LANES == 16 && !defined(GEMM_PAIRS)
#define GEMM_TALL 12 /* the same, where kernels are `tall`: two loads for three products, and not four for six */
#else
#define GEMM_TALL GEMM_ROWS
#endif
#ifndef GEMM_DEPTH
#define GEMM_DEPTH 384
#endif
#ifndef GEMM_SPREAD
#define GEMM_SPREAD 0
#endif
#define GEMM_WHOLE 8 /* what a block's length is a multiple of, where a part has several */
#endif
/* Of a tile, at most. Its rows of a block and its sums have 360 KiB, or 840 with AVX-512 (measured on Zen 5; linear 720): most such
 * processors have 1 MiB of the second level and more, and the faster they compute, the less often should anything be fetched. */
#ifdef GEMM_TILES
#define GEMM_TILE_ROWS 256
#elif defined(GEMM_ROOMY_ROWS)
#define GEMM_TILE_ROWS GEMM_ROOMY_ROWS /* 1,440 KiB, where there are 2 MiB; else 240 are the most that are tried */
#else
#define GEMM_TILE_ROWS (VEC_LANES == 16 ? 240 : 144)
#endif
#define GEMM_TILE_COLUMNS (VEC_LANES == 16 ? 512 : 256)
#define GEMM_NEAR (256 << 10) /* bytes of rows that a tile may have without asking for them ahead */

/* What becomes of the sums: as imagine__linear_args says. */
typedef struct gemm_output {
    float *y;
    int64_t ldy;
    const float *bias, *mul, *gate, *add;
    int64_t ld_mul, gate_rows, ld_gate, ld_add;
    imagine__act act;
} gemm_output;

static inline gemm_output gemm_output_of(const imagine__linear_args *a)
{
    gemm_output out = {.y = a->y, .ldy = a->ldy, .bias = a->w->bias, .mul = a->mul, .gate = a->gate, .add = a->add,
                       .ld_mul = a->ld_mul, .gate_rows = a->gate_rows, .ld_gate = a->ld_gate, .ld_add = a->ld_add,
                       .act = a->act};
    return out;
}

typedef struct gemm gemm;
struct gemm {
    const void *packed;
    imagine__wtype type;
    int64_t m, n;
    int64_t parts, part_k; /* K = parts * part_k */
    int64_t together; /* parts that go into one block, else 1 */
    int64_t block; /* values of a block; the last one of a part, or of all, may have fewer */
    const void *source;
    /* Copies k..k+depth-1 of a part of rows row..row+rows-1 to a[][GEMM_DEPTH]. */
    void (*fill)(const gemm *g, float *a, int64_t row, int64_t rows, int64_t part, int64_t k, int64_t depth);
    int (*skipped)(const gemm *g, int64_t part); /* 1: the part is all zeros; NULL: none is */
    /* Where k.. of a row lies in memory, for asking ahead; NULL: in no one piece. */
    const void *(*source_row)(const gemm *g, int64_t row, int64_t k);
    int64_t source_bytes; /* of an element there */
    gemm_output out;
    int roomy; /* 1: tiles may fill 2 MiB of second-level cache */
    int64_t group; /* rows of a group at most, whose sums the inner loop holds in registers */
    int64_t tile_rows, tile_columns, row_tiles, tiles; /* gemm_plan */
    int ask_rows; /* the rows of a tile are too many to be in the cache already */
};

static inline int64_t gemm_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t gemm_ceil(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static inline size_t gemm_packed_size(int64_t n, int64_t k, imagine__wtype type)
{
    return (size_t)gemm_ceil(n, GEMM_COLUMNS) * GEMM_COLUMNS * (size_t)k * (type == IMAGINE__W_BF16 ? 2 : 4);
}

/* Blocks of equal length; 0: there is nothing to do. */
static int gemm_begin(gemm *g)
{
    if (g->m <= 0 || g->n <= 0 || g->parts * g->part_k <= 0)
        return 0;
    g->together = 1;
    g->block = gemm_ceil(g->part_k, gemm_ceil(g->part_k, GEMM_DEPTH));
    if (g->block < g->part_k) {
        g->block = gemm_min(gemm_ceil(g->block, GEMM_WHOLE) * GEMM_WHOLE, GEMM_DEPTH);
    } else {
        int64_t most = GEMM_DEPTH / g->part_k;
        g->together = gemm_ceil(g->parts, gemm_ceil(g->parts, most));
        g->block = g->together * g->part_k;
    }
    return 1;
}

/* Operations of a tile: none may take long, and where they are not short there must be some for every thread, as another
 * program may hold one up. */
#ifdef GEMM_TILES
#define GEMM_LONGEST 4e9
#define GEMM_SHORT 1e8
#else
#define GEMM_LONGEST 7e8
#define GEMM_SHORT 1.6e7
#endif
#define GEMM_UNEVEN 0.03f /* of a tile's time, by which threads end apart */

static inline int gemm_tiles_suit(double work, double longest, int64_t tiles, int64_t threads)
{
    return work <= longest && (tiles >= 8 * threads || work <= GEMM_SHORT);
}

/* How many times a tile's time all take: those of the thread that has most to do, of many about the mean. `all` is the size of all
 * by that of a tile: the last ones may be smaller. */
static inline float gemm_turns(int64_t tiles, float all, int64_t threads)
{
    int32_t turns = (int32_t)gemm_min(INT32_MAX, tiles + threads - 1) / (int32_t)threads;
    float mean = all / (float)threads + 0.25f;
    return ((float)turns < mean ? (float)turns : mean) + GEMM_UNEVEN;
}

/* What a product takes beside its multiply-adds, as a share of them, measured: each row is copied for every tile of columns, and
 * each panel fetched, or widened, for every tile of rows. */
static float gemm_copy_cost(const gemm *g, int64_t columns)
{
    return (g->skipped ? 6.0f : 3.8f) / (float)columns; /* a convolution gathers them */
}

static float gemm_panel_cost(const gemm *g, float rows)
{
    float f32 = VEC_LANES == 16 ? 2.0f : 1.05f; /* at its full width it computes faster, and memory is what it was */
    return (g->type == IMAGINE__W_BF16 ? f32 + 1.95f : f32) / rows;
}

/* Tiles of about `rows` rows, as even as can be. Where there are many, or a few rows would make groups of few, whole groups. */
static void gemm_cut_rows(gemm *g, int64_t rows)
{
    g->row_tiles = gemm_ceil(g->m, rows);
    g->tile_rows = gemm_ceil(g->m, g->row_tiles);
    if (g->row_tiles >= 16 || (g->tile_rows % g->group && g->tile_rows < 4 * g->group))
        g->tile_rows = gemm_ceil(g->tile_rows, g->group) * g->group;
    g->row_tiles = gemm_ceil(g->m, g->tile_rows);
}

static int64_t gemm_cut_columns(const gemm *g, int64_t columns)
{
    return gemm_ceil(gemm_ceil(g->n, gemm_ceil(g->n, columns)), GEMM_COLUMNS) * GEMM_COLUMNS;
}

/* The tiles with which the threads are done first. */
static void gemm_plan(gemm *g, int64_t threads)
{
#ifdef GEMM_TILES
#define GEMM_LARGER_COLUMNS 2048, 1024, 512, 384,
#elif VEC_LANES == 16
#define GEMM_LARGER_COLUMNS 512, 384,
#else
#define GEMM_LARGER_COLUMNS
#endif
#ifdef GEMM_TILES
#define GEMM_SOME_ROWS 256, 224, 192, 160, 128, 96, 64, 32
#elif defined(GEMM_ROOMY_ROWS)
#define GEMM_SOME_ROWS 480, 432, 360, 300, 240, 216, 192, 168, 144, 132, 120, 108, 96, 72, 66, 48, 36, 24, 18, 12, 6
#elif VEC_LANES == 16
#define GEMM_SOME_ROWS 240, 216, 192, 168, 144, 132, 120, 108, 96, 72, 66, 48, 36, 24, 18, 12, 6
#else
#define GEMM_SOME_ROWS 144, 132, 120, 108, 96, 72, 66, 48, 36, 24, 18, 12, 6
#endif
    static const int16_t some_rows[] = {GEMM_SOME_ROWS};
    static const int16_t some_columns[] = {GEMM_LARGER_COLUMNS 256, 192, 128, 96, 64, 32};
    enum { ROWS = sizeof some_rows / sizeof *some_rows, COLUMNS = sizeof some_columns / sizeof *some_columns };
    int64_t columns[COLUMNS], column_tiles[COLUMNS], best_rows = g->group, best_columns = 0;
    float copy[COLUMNS], best = 1e30f;
    double k = 2.0 * (double)(g->parts * g->part_k);
    const double longest = g->roomy ? 1.7 * GEMM_LONGEST : GEMM_LONGEST; /* 480 rows of 512 columns: 8 ms there */
    const int64_t most_rows = g->roomy ? GEMM_TILE_ROWS : gemm_min(GEMM_TILE_ROWS, 256);
    for (int j = 0; j < COLUMNS; j++) {
        columns[j] = best_columns = gemm_cut_columns(g, some_columns[j]);
        column_tiles[j] = gemm_ceil(g->n, columns[j]);
        copy[j] = 1 + gemm_copy_cost(g, columns[j]);
    }
    for (int i = 0; i < ROWS; i++) {
        gemm_cut_rows(g, some_rows[i]);
        float groups = (float)gemm_ceil(g->tile_rows, g->group), rows = (float)g->tile_rows, panel = gemm_panel_cost(g, rows);
        rows += 0.25f * (groups * (float)g->group - rows); /* fewer rows than a group may have take a little longer each */
        for (int j = 0; j < COLUMNS; j++) {
            int64_t tiles = g->row_tiles * column_tiles[j];
            float size = rows * (float)columns[j], all = (float)g->m * (float)g->n / ((float)g->tile_rows * (float)columns[j]);
            float time = gemm_turns(tiles, all, threads) * size * (copy[j] + panel);
            int fits = columns[j] <= GEMM_TILE_COLUMNS || g->block == g->parts * g->part_k; /* a tile of one block keeps no sums */
            fits &= some_rows[i] <= most_rows;
            if (time < best && fits && gemm_tiles_suit(k * (double)size, longest, tiles, threads)) {
                best = time;
                best_rows = some_rows[i];
                best_columns = columns[j];
            }
        }
    }
    gemm_cut_rows(g, best_rows);
    g->tile_columns = best_columns;
    g->tiles = g->row_tiles * gemm_ceil(g->n, g->tile_columns);
    g->ask_rows = g->source_row && (double)g->tile_rows * k * 2 > GEMM_NEAR;
}

/* The same for tiles of some of a picture's lines, `strips` beside each other, with the operations of one line. A tile costs
 * about as much as half a line besides. */
static inline int64_t gemm_plan_lines(int64_t lines, int64_t strips, double work, int64_t threads)
{
    int64_t best_lines = 1;
    float best = 1e30f;
    for (int64_t pieces = 1, step = 1; pieces < 2 * lines; pieces += step) {
        int64_t some = gemm_ceil(lines, pieces), tiles = gemm_ceil(lines, some) * strips;
        float time = gemm_turns(tiles, (float)(lines * strips) / (float)some, threads) * ((float)some + 0.5f);
        if (time < best && gemm_tiles_suit((double)some * work, GEMM_LONGEST, tiles, threads)) {
            best = time;
            best_lines = some;
        }
        step = pieces >= 8 ? pieces / 4 : 1;
    }
    return best_lines;
}

/* What may be asked for meanwhile, as it is read next. */
typedef struct gemm_ahead {
    const char *next;
    int64_t lines; /* of 64 bytes */
} gemm_ahead;

#ifdef GEMM_TILES
/* sums[rows][GEMM_COLUMNS] (+)= a[rows][depth] b[depth][GEMM_COLUMNS], or the left half of the columns alone. Whole tiles of rows of a are
 * read, and of sums written. */
static void gemm_multiply(const float *a, const float *b, int64_t depth, float *sums, int first, int64_t rows, int half, gemm_ahead ahead)
{
#define GEMM_MULTIPLY(tall, half) \
    tiles_multiply(a, GEMM_DEPTH, b, depth, sums, GEMM_COLUMNS, ahead.next, ahead.lines, !first, tall, half)
    if (rows > TILE && half)
        GEMM_MULTIPLY(1, 1);
    else if (rows > TILE)
        GEMM_MULTIPLY(1, 0);
    else if (half)
        GEMM_MULTIPLY(0, 1);
    else
        GEMM_MULTIPLY(0, 0);
#undef GEMM_MULTIPLY
}
#else
#if GEMM_TALL == 12
#define GEMM_EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#else
#define GEMM_EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5)
#endif

/* sums[rows][GEMM_COLUMNS] (+)= a[rows][depth] b[depth][GEMM_COLUMNS], or the left half of the columns alone. Every
 * number of rows is a function of its own, in which `rows` is a constant; each element goes through the same operations
 * in all. With GEMM_SPREAD those of more than GEMM_ROWS ask ahead on their way: a burst would be as long as they are few. */
VEC void gemm_multiply_rows(const float *a, const float *b, int64_t depth, float *sums, int first, gemm_ahead ahead,
                            const int rows, const int half)
{
#define DECLARE(r) vec left##r = vec_zero(), right##r = vec_zero();
#define MULTIPLY(r)                                     \
    if (r < rows) {                                     \
        vec x = vec_set1(a[r * GEMM_DEPTH + k]);        \
        left##r = gemm_multiply_add(x, left, left##r);  \
        if (!half)                                      \
            right##r = gemm_multiply_add(x, right, right##r); \
    }
#define ADD(r)                                                                          \
    if (r < rows && !first) {                                                           \
        left##r = vec_add(left##r, vec_load(sums + r * GEMM_COLUMNS));                  \
        right##r = vec_add(right##r, vec_load(sums + r * GEMM_COLUMNS + VEC_LANES));    \
    }
#define STORE(r)                                                        \
    if (r < rows) {                                                     \
        vec_store(sums + r * GEMM_COLUMNS, left##r);                    \
        vec_store(sums + r * GEMM_COLUMNS + VEC_LANES, right##r);       \
    }
    GEMM_EACH_ROW(DECLARE)
    for (int64_t k = 0; k < depth; k++, b += GEMM_COLUMNS) {
        vec left = vec_load(b), right = vec_load(b + VEC_LANES);
        if (GEMM_SPREAD && rows > GEMM_ROWS && k % 4 == 0 && ahead.lines-- > 0) {
            vec_prefetch_first(ahead.next);
            ahead.next += 64;
        }
        GEMM_EACH_ROW(MULTIPLY)
    }
    GEMM_EACH_ROW(ADD)
    GEMM_EACH_ROW(STORE)
#undef DECLARE
#undef MULTIPLY
#undef ADD
#undef STORE
}

typedef void gemm_multiply_fn(const float *a, const float *b, int64_t depth, float *sums, int first, gemm_ahead ahead);

#define GEMM_MULTIPLY(rows)                                                                                        \
    static void gemm_multiply_##rows(const float *a, const float *b, int64_t depth, float *sums, int first,        \
                                     gemm_ahead ahead)                                                             \
    {                                                                                                              \
        gemm_multiply_rows(a, b, depth, sums, first, ahead, rows, 0);                                              \
    }                                                                                                              \
    static void gemm_multiply_half_##rows(const float *a, const float *b, int64_t depth, float *sums, int first,   \
                                          gemm_ahead ahead)                                                        \
    {                                                                                                              \
        gemm_multiply_rows(a, b, depth, sums, first, ahead, rows, 1);                                              \
    }
GEMM_MULTIPLY(1)
GEMM_MULTIPLY(2)
GEMM_MULTIPLY(3)
GEMM_MULTIPLY(4)
GEMM_MULTIPLY(5)
GEMM_MULTIPLY(6)
#if GEMM_TALL == 12
GEMM_MULTIPLY(7)
GEMM_MULTIPLY(8)
GEMM_MULTIPLY(9)
GEMM_MULTIPLY(10)
GEMM_MULTIPLY(11)
GEMM_MULTIPLY(12)
#define GEMM_MULTIPLY_TALL(name) , name##7, name##8, name##9, name##10, name##11, name##12
#else
#define GEMM_MULTIPLY_TALL(name)
#endif
#define GEMM_MULTIPLY_ALL(name) {name##1, name##2, name##3, name##4, name##5, name##6 GEMM_MULTIPLY_TALL(name)}

static void gemm_multiply(const float *a, const float *b, int64_t depth, float *sums, int first, int64_t rows, int half, gemm_ahead ahead)
{
    static gemm_multiply_fn *const multiply[2][GEMM_TALL] = {GEMM_MULTIPLY_ALL(gemm_multiply_),
                                                             GEMM_MULTIPLY_ALL(gemm_multiply_half_)};
    for (int64_t i = 0; i < ahead.lines && !(GEMM_SPREAD && rows > GEMM_ROWS); i++)
        vec_prefetch(ahead.next + i * 64);
    multiply[half][rows - 1](a, b, depth, sums, first, ahead);
}
#endif

VEC vec gemm_load(const float *p, int64_t n)
{
    return n >= VEC_LANES ? vec_load(p) : vec_load_n(p, vec_first(n));
}

/* n sums of one row from `column` on, at most VEC_LANES, become y. */
VEC void gemm_finish(const gemm_output *o, const float *sums, int64_t row, const float *gate, int64_t column, int64_t n)
{
    vec x = vec_load(sums);
    if (o->bias)
        x = vec_add(x, gemm_load(o->bias + column, n));
    if (o->act != IMAGINE__ACT_NONE)
        x = vec_act(x, o->act);
    if (o->mul)
        x = vec_mul(x, gemm_load(o->mul + row * o->ld_mul + column, n));
    if (gate)
        x = vec_mul(x, gemm_load(gate + column, n));
    if (o->add)
        x = vec_add(x, gemm_load(o->add + row * o->ld_add + column, n));
    float *y = o->y + row * o->ldy + column;
    if (n >= VEC_LANES)
        vec_store(y, x);
    else
        vec_store_n(y, vec_first(n), x);
}

static void gemm_finish_group(const gemm *g, const float *sums, int64_t row, int64_t rows, int64_t column)
{
    const gemm_output *o = &g->out;
    int64_t n = g->n - column, gate_row = 0, gate_left = 0;
    if (o->gate) {
        gate_row = row / o->gate_rows;
        gate_left = o->gate_rows - row % o->gate_rows;
    }
    for (int64_t r = 0; r < rows; r++) {
        const float *gate = o->gate ? o->gate + gate_row * o->ld_gate : NULL;
        gemm_finish(o, sums + r * GEMM_COLUMNS, row + r, gate, column, n);
        if (n > VEC_LANES)
            gemm_finish(o, sums + r * GEMM_COLUMNS + VEC_LANES, row + r, gate, column + VEC_LANES, n - VEC_LANES);
        if (--gate_left == 0) {
            gate_row++;
            gate_left = o->gate_rows;
        }
    }
}

/* A tile's bounds, and its parts of the scratch. */
typedef struct gemm_tile {
    int64_t row, rows, column, columns;
    float *a; /* [GEMM_TILE_ROWS][GEMM_DEPTH] */
    float *b; /* [GEMM_DEPTH][GEMM_COLUMNS], widened */
    float *sums; /* [panels][groups][group][GEMM_COLUMNS] */
} gemm_tile;

_Static_assert(4 * (GEMM_TILE_ROWS * GEMM_DEPTH + GEMM_DEPTH * GEMM_COLUMNS + GEMM_TILE_ROWS * GEMM_TILE_COLUMNS) <=
                   IMAGINE__SCRATCH, "the scratch is too small");

static gemm_tile gemm_tile_at(const gemm *g, int64_t tile, void *scratch)
{
    gemm_tile t = {.row = tile % g->row_tiles * g->tile_rows, .column = tile / g->row_tiles * g->tile_columns};
    t.rows = gemm_min(g->tile_rows, g->m - t.row);
    t.columns = gemm_min(g->tile_columns, g->n - t.column);
    t.a = scratch;
    t.b = t.a + GEMM_TILE_ROWS * GEMM_DEPTH;
    t.sums = t.b + GEMM_DEPTH * GEMM_COLUMNS;
    return t;
}

/* `depth` rows of the panel of `column` from row k of W's packed order on, as f32. */
static const float *gemm_panel(const gemm *g, const gemm_tile *t, int64_t column, int64_t k, int64_t depth)
{
    int64_t offset = column * g->parts * g->part_k + k * GEMM_COLUMNS;
    if (g->type == IMAGINE__W_F32)
        return (const float *)g->packed + offset;
    const uint16_t *w = (const uint16_t *)g->packed + offset;
    for (int64_t i = 0; i < depth * GEMM_COLUMNS; i += VEC_LANES)
        vec_store(t->b + i, vec_load_bf16(w + i));
    return t->b;
}

/* A step of a block asks for its share of what the coming ones read, so that these need not wait: of the panel after this one,
 * which may be the next block's first, and of its own rows in the next block. */
static inline gemm_ahead gemm_ahead_of(const gemm *g, const gemm_tile *t, int64_t column, int64_t k, int64_t depth, int64_t i,
                                       int64_t groups)
{
    int64_t size = g->type == IMAGINE__W_BF16 ? 2 : 4, whole = g->parts * g->part_k, next = column + GEMM_COLUMNS;
    int64_t left = gemm_min(g->block, whole - k - depth), from = k;
    if (next >= t->columns) {
        next = 0;
        from = k + depth;
        depth = left;
    }
    int64_t bytes = depth * GEMM_COLUMNS * size, share = (bytes / groups + 64) & ~(int64_t)63;
    const char *panel = (const char *)g->packed + ((t->column + next) * whole + from * GEMM_COLUMNS) * size;
    int64_t at = gemm_min(i * share, bytes), count = groups > 1 ? gemm_ceil(gemm_min(share, bytes - at), 64) : 0;
    return (gemm_ahead){panel + at, count};
}

static inline void gemm_prefetch_rows(const gemm *g, const gemm_tile *t, int64_t column, int64_t k, int64_t row,
                                      int64_t rows)
{
    int64_t bytes = g->source_bytes * gemm_min(g->block, g->part_k - k), panels = gemm_ceil(t->columns, GEMM_COLUMNS);
    int64_t share = (bytes / panels + 64) & ~(int64_t)63, first = column / GEMM_COLUMNS * share;
    for (int64_t r = row; bytes > 0 && r < row + rows; r++) {
        const char *x = g->source_row(g, t->row + r, k);
        for (int64_t at = first; at < gemm_min(first + share, bytes); at += 64)
            vec_prefetch(x + at);
    }
}

/* One block of K: adds its products to the sums, and after the last block turns these into y. */
VEC void gemm_block_in_groups(const gemm *g, const gemm_tile *t, int64_t k, int64_t depth, int first, int last, const int64_t group)
{
    int64_t groups = gemm_ceil(t->rows, group), group_size = first && last ? 0 : group * GEMM_COLUMNS;
#ifdef GEMM_TILES
    int64_t fewest = group, more = 0; /* in all groups but the last */
#else
    int64_t fewest = t->rows / groups, more = t->rows - fewest * groups; /* groups of rows are as equal as can be */
#endif
    float *sums = t->sums;
    for (int64_t column = 0; column < t->columns; column += GEMM_COLUMNS) {
        const float *b = gemm_panel(g, t, t->column + column, k, depth);
        int half = t->columns - column <= VEC_LANES;
        for (int64_t i = 0, row = 0, rows; i < groups; i++, row += rows, sums += group_size) {
            rows = gemm_min(fewest + (i < more), t->rows - row);
            gemm_ahead ahead = gemm_ahead_of(g, t, column, k, depth, i, groups);
            if (g->ask_rows)
                gemm_prefetch_rows(g, t, column, k + depth, row, rows);
            gemm_multiply(t->a + row * GEMM_DEPTH, b, depth, sums, first, rows, half, ahead);
            if (last)
                gemm_finish_group(g, sums, t->row + row, rows, t->column + column);
        }
    }
}

static void gemm_block(const gemm *g, const gemm_tile *t, int64_t k, int64_t depth, int first, int last)
{
    if (g->group == GEMM_TALL)
        gemm_block_in_groups(g, t, k, depth, first, last, GEMM_TALL);
    else
        gemm_block_in_groups(g, t, k, depth, first, last, GEMM_ROWS);
}

/* y when all parts are skipped. */
static void gemm_finish_zeros(const gemm *g, const gemm_tile *t)
{
    memset(t->sums, 0, (size_t)g->group * GEMM_COLUMNS * sizeof *t->sums);
    for (int64_t column = 0; column < t->columns; column += GEMM_COLUMNS)
        for (int64_t row = 0; row < t->rows; row += g->group)
            gemm_finish_group(g, t->sums, t->row + row, gemm_min(g->group, t->rows - row), t->column + column);
}

/* 1: all parts of the block that begins with `part` are zeros. */
static int gemm_skipped(const gemm *g, int64_t part)
{
    int64_t end = gemm_min(part + g->together, g->parts);
    while (part < end && g->skipped && g->skipped(g, part))
        part++;
    return part == end;
}

/* The tile's rows of a block; a part that is skipped alone becomes zeros. */
static void gemm_fill(const gemm *g, const gemm_tile *t, int64_t part, int64_t k, int64_t depth)
{
    if (g->together == 1) {
        g->fill(g, t->a, t->row, t->rows, part, k, depth);
        return;
    }
    for (int64_t at = 0; at < depth; at += g->part_k, part++) {
        if (!g->skipped || !g->skipped(g, part))
            g->fill(g, t->a + at, t->row, t->rows, part, 0, g->part_k);
        else
            for (int64_t r = 0; r < t->rows; r++)
                memset(t->a + r * GEMM_DEPTH + at, 0, (size_t)g->part_k * sizeof *t->a);
    }
}

static void gemm_run_tile(void *arg, int64_t tile, void *scratch)
{
    const gemm *g = arg;
    gemm_tile t = gemm_tile_at(g, tile, scratch);
    int64_t last = -1;
    for (int64_t part = 0; part < g->parts; part += g->together)
        if (!gemm_skipped(g, part))
            last = part;
    if (last < 0)
        gemm_finish_zeros(g, &t);
    int first = 1;
    for (int64_t part = 0; part <= last; part += g->together) {
        if (gemm_skipped(g, part))
            continue;
        int64_t part_k = gemm_min(g->together, g->parts - part) * g->part_k;
        for (int64_t k = 0; k < part_k; k += g->block, first = 0) {
            int64_t depth = gemm_min(g->block, part_k - k);
            gemm_fill(g, &t, part, k, depth);
            gemm_block(g, &t, part * g->part_k + k, depth, first, part == last && k + depth == part_k);
        }
    }
}

#ifdef GEMM_TILES
static void gemm_run_tile_amx(void *arg, int64_t tile, void *scratch)
{
    tiles_begin();
    gemm_run_tile(arg, tile, scratch);
    tiles_end();
}
#define gemm_run_tile gemm_run_tile_amx
#endif

/* After gemm_begin. */
static inline void gemm_run(imagine__run *run, gemm *g)
{
    g->group = run->kernels->tall ? GEMM_TALL : GEMM_ROWS;
    g->roomy = run->kernels->tall == 2;
    gemm_plan(g, run->threads);
    imagine__parallel(run, g->tiles, gemm_run_tile, g);
}

#endif
