/* SPDX-License-Identifier: MIT */

/* Pictures in and out: round trips, every pixel format, animation rules, hostile files. */

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <zlib.h>

#include <imagine/imagine.h>

#include "test.h"

static imagine_context *context;
static char folder[256];

static const char *scratch_file(const char *name)
{
    static char path[4][512];
    static unsigned next;
    char *p = path[next++ & 3];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static imagine_buffer *make_frames(int64_t frames, int64_t height, int64_t width)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *buffer = NULL;
    int64_t shape[4] = { frames, height, width, 3 };
    CHECK_OK(imagine_buffer_create(&buffer, context, IMAGINE_U8, 4, shape, &err));
    uint8_t *data = imagine_buffer_data(buffer);
    uint32_t state = 1;
    for (uint64_t i = 0; i < imagine_buffer_size(buffer); i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = (uint8_t)(i % 50 < 25 ? i / 7 : state >> 24);
    }
    return buffer;
}

static void check_equal(const imagine_buffer *a, const imagine_buffer *b)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer_info x = { .struct_size = sizeof x }, y = { .struct_size = sizeof y };
    REQUIRE_OK(imagine_buffer_get_info(a, &x, &err));
    REQUIRE_OK(imagine_buffer_get_info(b, &y, &err));
    REQUIRE(x.ndim == 4 && y.ndim == 4 && !memcmp(x.shape, y.shape, 4 * sizeof(int64_t)));
    CHECK(!memcmp(x.data, y.data, x.size));
}

static void round_trip(int64_t frames, int64_t height, int64_t width)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *made = make_frames(frames, height, width), *read = NULL;
    const char *path = scratch_file("round.png");
    REQUIRE(made);
    CHECK_OK(imagine_picture_save(context, path, made, 8, &err));
    CHECK_OK(imagine_picture_load(&read, context, path, &err));
    if (read)
        check_equal(read, made);
    imagine_buffer_release(&read);
    imagine_buffer_release(&made);
}

static void test_round_trip(void)
{
    round_trip(1, 1, 1);
    round_trip(1, 13, 31);
    round_trip(2, 1, 300);
    round_trip(9, 64, 64);
    round_trip(3, 17, 5);
}

/* A picture of the test set against its frames as Pillow reads them. */
static void compare(const char *name)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *got = NULL, *expected = NULL;
    char path[128];
    snprintf(path, sizeof path, "model/pictures/%s.png", name);
    REQUIRE_OK(imagine_picture_load(&got, context, test_path(path), &err));
    snprintf(path, sizeof path, "model/pictures/%s.expected.png", name);
    CHECK_OK(imagine_picture_load(&expected, context, test_path(path), &err));
    int worst = 256;
    if (expected && imagine_buffer_size(got) == imagine_buffer_size(expected)) {
        const uint8_t *a = imagine_buffer_data(got), *b = imagine_buffer_data(expected);
        worst = 0;
        for (uint64_t i = 0; i < imagine_buffer_size(got); i++) {
            int difference = a[i] > b[i] ? a[i] - b[i] : b[i] - a[i];
            worst = difference > worst ? difference : worst;
        }
    }
    /* Blending rounds once more or less than Pillow does. */
    int limit = strstr(name, "animated") ? 2 : 0;
    if (worst > limit)
        fprintf(stderr, "    %s differs by %d\n", name, worst);
    CHECK(worst <= limit);
    imagine_buffer_release(&expected);
    imagine_buffer_release(&got);
}

static void test_formats(void)
{
    static const char *const names[] = { "rgb", "rgba", "gray", "gray_alpha", "palette", "palette_clear", "one_bit" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        compare(names[i]);
}

static void test_animation(void)
{
    char name[32];
    for (int i = 0; i < 5; i++) { /* Pillow reads the sixth, "previous" with "over", unlike the specification */
        snprintf(name, sizeof name, "animated_%d%d", i / 2, i % 2);
        compare(name);
    }
}

static void test_folder(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *frames = make_frames(12, 6, 4), *one = NULL, *read = NULL;
    uint8_t *data = imagine_buffer_data(frames);
    const char *sub = scratch_file("frames");
    char path[600];
    int64_t shape[4] = { 1, 6, 4, 3 };
    REQUIRE(!mkdir(sub, 0777));
    for (int i = 0; i < 12; i++) {
        REQUIRE_OK(imagine_buffer_wrap(&one, context, IMAGINE_U8, 4, shape, data + 72 * i, NULL, NULL, &err));
        snprintf(path, sizeof path, "%s/%04d.png", sub, i);
        CHECK_OK(imagine_picture_save(context, path, one, 1, &err));
        imagine_buffer_release(&one);
    }
    CHECK_OK(imagine_picture_load(&read, context, sub, &err));
    if (read)
        check_equal(read, frames);
    imagine_buffer_release(&read);
    imagine_buffer *odd = make_frames(1, 5, 4);
    snprintf(path, sizeof path, "%s/0003.png", sub);
    CHECK_OK(imagine_picture_save(context, path, odd, 1, &err));
    CHECK_STATUS(imagine_picture_load(&read, context, sub, &err), IMAGINE_ERROR_FORMAT);
    CHECK(strstr(err.message, "0003.png") && !read);
    imagine_buffer_release(&odd);
    odd = make_frames(2, 6, 4); /* the right size, but more than one frame */
    CHECK_OK(imagine_picture_save(context, path, odd, 8, &err));
    CHECK_STATUS(imagine_picture_load(&read, context, sub, &err), IMAGINE_ERROR_FORMAT);
    CHECK(strstr(err.message, "0003.png: has 2 frames") && !read);
    imagine_buffer_release(&odd);
    imagine_buffer_release(&frames);
}

/* By the bytes of the names, and only what is named *.png and not hidden: as buffer.h says. */
static void test_folder_order(void)
{
    static const char *const names[] = { "2.png", "10.png", ".0.png", "3.PNG", "4.png.txt" };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *read = NULL;
    const char *sub = scratch_file("order");
    char path[600];
    REQUIRE(!mkdir(sub, 0777));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        imagine_buffer *one = make_frames(1, 4, 4);
        REQUIRE(one);
        memset(imagine_buffer_data(one), (int)i, 48);
        snprintf(path, sizeof path, "%s/%s", sub, names[i]);
        CHECK_OK(imagine_picture_save(context, path, one, 1, &err));
        imagine_buffer_release(&one);
    }
    REQUIRE_OK(imagine_picture_load(&read, context, sub, &err));
    const uint8_t *data = imagine_buffer_data(read);
    CHECK(imagine_buffer_size(read) == 96 && data[0] == 1 && data[48] == 0);
    imagine_buffer_release(&read);
}

static size_t slurp(const char *path, uint8_t *bytes, size_t room)
{
    FILE *f = fopen(path, "rb");
    size_t size = f ? fread(bytes, 1, room, f) : 0;
    if (f)
        fclose(f);
    return size;
}

/* The frames' delays as the file has them: every one is numerator / denominator of a second. */
static void check_delays(const char *path, int frames, int numerator, int denominator)
{
    static uint8_t bytes[1 << 16];
    size_t size = slurp(path, bytes, sizeof bytes);
    int found = 0;
    for (size_t at = 8; at + 12 <= size;) {
        const uint8_t *chunk = bytes + at, *data = chunk + 8;
        if (!memcmp(chunk + 4, "fcTL", 4)) {
            int n = data[20] << 8 | data[21], d = data[22] << 8 | data[23];
            CHECK(n == numerator && d == denominator);
            if (n != numerator || d != denominator)
                fprintf(stderr, "    %d/%d, wanted is %d/%d\n", n, d, numerator, denominator);
            found++;
        }
        at += 12 + ((size_t)chunk[0] << 24 | (size_t)chunk[1] << 16 | (size_t)chunk[2] << 8 | chunk[3]);
    }
    CHECK(found == frames);
}

/* Rates that two 16-bit numbers say exactly are said exactly; what they cannot say is refused. */
static void test_rates(void)
{
    static const struct {
        double rate;
        int numerator, denominator;
    } rates[] = {
        { 12, 1, 12 },       { 16, 1, 16 },           { 24, 1, 24 },        { 24000.0 / 1001, 1001, 24000 },
        { 30, 1, 30 },       { 59.94, 50, 2997 },     { 60, 1, 60 },        { 30000.0 / 1001, 1001, 30000 },
        { 0.5, 2, 1 },       { 0.3, 10, 3 },          { 3000, 1, 3000 },    { 65535, 1, 65535 },
        { 1, 1, 1 },         { 1.0 / 65535, 65535, 1 },
    };
    static const double refused[] = { 0, -1, -16, NAN, INFINITY, -INFINITY, 65536, 70000, 1e300, 1.0 / 65537, 1e-6, 1e-300 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *frames = make_frames(2, 3, 3), *one = make_frames(1, 3, 3);
    const char *path = scratch_file("rates.png");
    REQUIRE(frames && one);
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        CHECK_OK(imagine_picture_save(context, path, frames, rates[i].rate, &err));
        check_delays(path, 2, rates[i].numerator, rates[i].denominator);
    }
    CHECK(!unlink(path));
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        CHECK_STATUS(imagine_picture_save(context, path, frames, refused[i], &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(strstr(err.message, "frames_per_second") && strstr(err.message, "65535"));
        CHECK(access(path, F_OK) != 0);
        CHECK_OK(imagine_picture_save(context, path, one, refused[i], &err)); /* a single picture has no rate */
        CHECK(!unlink(path));
    }
    imagine_buffer_release(&one);
    imagine_buffer_release(&frames);
}

static void load_bytes(const uint8_t *bytes, size_t size)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *read = NULL;
    const char *path = scratch_file("hostile.png");
    FILE *f = fopen(path, "wb");
    REQUIRE(f && fwrite(bytes, 1, size, f) == size);
    fclose(f);
    imagine_status status = imagine_picture_load(&read, context, path, &err);
    CHECK(status == IMAGINE_OK ? read != NULL : read == NULL && err.message[0]);
    imagine_buffer_release(&read);
}

static void test_hostile(void)
{
    static const char *const names[] = { "rgba", "palette", "animated_00", "animated_21" };
    static uint8_t bytes[1 << 16], changed[1 << 16];
    uint32_t state = 11;
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        char path[128];
        snprintf(path, sizeof path, "model/pictures/%s.png", names[n]);
        size_t size = slurp(test_path(path), bytes, sizeof bytes);
        REQUIRE(size > 50);
        for (size_t cut = 0; cut < size; cut += 7)
            load_bytes(bytes, cut);
        for (int i = 0; i < 200; i++) {
            memcpy(changed, bytes, size);
            for (int k = 0; k <= i % 3; k++) {
                state = state * 1664525u + 1013904223u;
                changed[(state >> 8) % size] = (uint8_t)(state >> 3);
            }
            load_bytes(changed, size);
        }
    }
}

/* An animation with these chunks in front of its pixels, each of `sizes` bytes. */
static imagine_status load_with_chunks(const char *tag, const size_t *sizes, size_t count, imagine_error *err)
{
    static uint8_t bytes[1 << 16], made[1 << 17];
    imagine_buffer *read = NULL;
    size_t size = slurp(test_path("model/pictures/animated_00.png"), bytes, sizeof bytes), front = 33, length = front;
    memcpy(made, bytes, front); /* signature and IHDR */
    for (size_t i = 0; i < count; i++) {
        const uint8_t head[] = { 0, 0, (uint8_t)(sizes[i] >> 8), (uint8_t)sizes[i] };
        memcpy(made + length, head, 4);
        memcpy(made + length + 4, tag, 4);
        memset(made + length + 8, 0, sizes[i] + 4);
        length += sizes[i] + 12;
    }
    memcpy(made + length, bytes + front, size - front);
    const char *path = scratch_file("chunks.png");
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(made, 1, length + size - front, f) == length + size - front);
    if (f)
        fclose(f);
    imagine_status status = imagine_picture_load(&read, context, path, err);
    imagine_buffer_release(&read);
    return status;
}

/* What is copied for every frame is as short as the format says, and there once. */
static void test_common_chunks(void)
{
    static const struct {
        const char *tag;
        size_t sizes[2], count;
        imagine_status status;
    } cases[] = {
        { "PLTE", { 768 }, 1, IMAGINE_OK },           { "PLTE", { 771 }, 1, IMAGINE_ERROR_FORMAT },
        { "PLTE", { 60000 }, 1, IMAGINE_ERROR_FORMAT }, { "PLTE", { 3, 3 }, 2, IMAGINE_ERROR_FORMAT },
        { "tRNS", { 256 }, 1, IMAGINE_OK },           { "tRNS", { 257 }, 1, IMAGINE_ERROR_FORMAT },
        { "tRNS", { 2, 2 }, 2, IMAGINE_ERROR_FORMAT }, { "juNk", { 60000 }, 1, IMAGINE_OK },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        imagine_error err = IMAGINE_ERROR_INIT;
        CHECK_STATUS(load_with_chunks(cases[i].tag, cases[i].sizes, cases[i].count, &err), cases[i].status);
        CHECK(cases[i].status == IMAGINE_OK || (strstr(err.message, "PLTE") && strstr(err.message, "chunks.png")));
    }
}

/* A text that nobody asked for, small in the file and large in memory, takes none. */
static void test_bomb(void)
{
    static uint8_t bytes[1 << 16], made[1 << 17];
    const uLong many = 32 << 20;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_info info = { .struct_size = sizeof info };
    imagine_buffer *read = NULL;
    size_t size = slurp(test_path("model/pictures/rgba.png"), bytes, sizeof bytes), front = 33; /* signature and IHDR */
    uint8_t *zeros = calloc(many, 1), *chunk = made + front;
    uLongf packed = sizeof made - front - size - 32;
    REQUIRE(zeros && size > front && compress(chunk + 17, &packed, zeros, many) == Z_OK);
    free(zeros);
    memcpy(made, bytes, front);
    memcpy(chunk + 4, "zTXtComment\0", 13); /* the last zero: deflate */
    uint32_t length = (uint32_t)packed + 9, crc = (uint32_t)crc32(0, chunk + 4, length + 4);
    for (int i = 0; i < 4; i++) {
        chunk[i] = (uint8_t)(length >> (24 - 8 * i));
        chunk[8 + length + (uint32_t)i] = (uint8_t)(crc >> (24 - 8 * i));
    }
    memcpy(chunk + 12 + length, bytes + front, size - front);
    const char *path = scratch_file("bomb.png");
    FILE *f = fopen(path, "wb");
    REQUIRE(f && fwrite(made, 1, size + 12 + length, f) == size + 12 + length);
    fclose(f);
    imagine_context_reset_peak(context);
    CHECK_OK(imagine_picture_load(&read, context, path, &err));
    CHECK_OK(imagine_context_get_info(context, &info, &err));
    CHECK(info.memory_peak < info.memory_used + (4 << 20));
    imagine_buffer_release(&read);
}

static void test_errors(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *read = NULL, *frames = make_frames(2, 3, 3), *floats = NULL;
    int64_t shape[4] = { 1, 2, 2, 3 };
    CHECK_STATUS(imagine_picture_load(&read, context, scratch_file("missing.png"), &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK(strstr(err.message, "missing.png"));
    CHECK_STATUS(imagine_picture_load(&read, context, "", &err), IMAGINE_ERROR_NOT_FOUND);
    CHECK(err.native_code == ENOENT && !strncmp(err.message, "the path is empty: ", 19));
    CHECK_STATUS(imagine_picture_save(context, "", frames, 8, &err), IMAGINE_ERROR_IO);
    CHECK(err.native_code == ENOENT && !strncmp(err.message, "the path is empty: ", 19));
    CHECK_STATUS(imagine_picture_save(context, scratch_file("no/such/folder.png"), frames, 8, &err), IMAGINE_ERROR_IO);
    CHECK_STATUS(imagine_picture_save(context, scratch_file("x.png"), frames, 0, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    REQUIRE_OK(imagine_buffer_create(&floats, context, IMAGINE_F32, 4, shape, &err));
    CHECK_STATUS(imagine_picture_save(context, scratch_file("x.png"), floats, 8, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(strstr(err.message, "wanted is u8"));
    static const struct {
        int64_t shape[4];
        const char *says;
    } limits[] = {
        { { 1, 16385, 1, 3 }, "of which height is not in 1..16384" }, { { 1, 1, 16385, 3 }, "of which width is not in 1..16384" },
        { { 1048577, 1, 1, 3 }, "of which frames is not in 1..1048576" }, { { 1, 0, 4, 3 }, "of which height is not in" },
        { { 1, 4, 4, 1 }, "wanted is u8 [frames, height, width, 3]" },
    };
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        imagine_buffer *wrong;
        REQUIRE_OK(imagine_buffer_create(&wrong, context, IMAGINE_U8, 4, limits[i].shape, &err));
        CHECK_STATUS(imagine_picture_save(context, scratch_file("x.png"), wrong, 8, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(!strncmp(err.message, "frames: ", 8) && strstr(err.message, limits[i].says));
        imagine_buffer_release(&wrong);
    }
    CHECK_STATUS(imagine_picture_save(context, folder, frames, 8, &err), IMAGINE_ERROR_IO);
    CHECK_STATUS(imagine_picture_save(context, "/dev/null", frames, 8, &err), IMAGINE_ERROR_IO);
    CHECK(access(scratch_file("x.png"), F_OK) != 0);
    imagine_buffer_release(&floats);
    imagine_buffer_release(&frames);
}

/* A file that cannot be written to its end leaves the old one as it was, and nothing beside it. */
static void test_full_disk(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *small = make_frames(1, 4, 4), *big = make_frames(1, 200, 200), *read = NULL;
    const char *path = scratch_file("full.png");
    struct rlimit old, tight;
    REQUIRE_OK(imagine_picture_save(context, path, small, 1, &err));
    REQUIRE(!getrlimit(RLIMIT_FSIZE, &old));
    signal(SIGXFSZ, SIG_IGN);
    tight = old;
    tight.rlim_cur = 1000;
    REQUIRE(!setrlimit(RLIMIT_FSIZE, &tight));
    imagine_status status = imagine_picture_save(context, path, big, 1, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK_STATUS(status, IMAGINE_ERROR_IO);
    CHECK(err.native_code == EFBIG && strstr(err.message, "full.png"));
    REQUIRE_OK(imagine_picture_load(&read, context, path, &err));
    check_equal(read, small);
    char command[600];
    snprintf(command, sizeof command, "! ls '%s' | grep -q part", folder);
    CHECK(system(command) == 0);
    imagine_buffer_release(&read);
    imagine_buffer_release(&big);
    imagine_buffer_release(&small);
}

/* ---- what is there already ------------------------------------------------------------------- */

static void check_loads(const char *path, const imagine_buffer *frames)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *read = NULL;
    REQUIRE_OK(imagine_picture_load(&read, context, path, &err));
    check_equal(read, frames);
    imagine_buffer_release(&read);
}

/* A link stays a link, also one to a link in another folder: what it leads to has the new content. */
static void test_links(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *old = make_frames(1, 4, 4), *new = make_frames(1, 9, 7);
    char target[600], first[600], second[600], leads_to[600];
    struct stat about;
    snprintf(target, sizeof target, "%s/there", folder);
    REQUIRE(!mkdir(target, 0777));
    snprintf(target, sizeof target, "%s/there/target.png", folder);
    snprintf(first, sizeof first, "%s/there/first.png", folder);
    snprintf(second, sizeof second, "%s/second.png", folder);
    CHECK_OK(imagine_picture_save(context, target, old, 1, &err));
    REQUIRE(!symlink("target.png", first) && !symlink("there/first.png", second));
    CHECK_OK(imagine_picture_save(context, second, new, 1, &err));
    CHECK(!lstat(second, &about) && S_ISLNK(about.st_mode));
    CHECK(!lstat(first, &about) && S_ISLNK(about.st_mode));
    CHECK(readlink(second, leads_to, sizeof leads_to) == 15 && !memcmp(leads_to, "there/first.png", 15));
    CHECK(!lstat(target, &about) && S_ISREG(about.st_mode));
    check_loads(target, new);
    CHECK_OK(imagine_buffer_save(context, second, 1, &old, (const char *const[]){ "x" }, &err)); /* as tensors do */
    CHECK(!lstat(second, &about) && S_ISLNK(about.st_mode));
    CHECK(!lstat(target, &about) && S_ISREG(about.st_mode));
    REQUIRE(!unlink(target)); /* also where nothing is there yet */
    CHECK_OK(imagine_picture_save(context, second, new, 1, &err));
    CHECK(!lstat(second, &about) && S_ISLNK(about.st_mode));
    check_loads(target, new);
    REQUIRE(!unlink(target) && !symlink("first.png", target));
    CHECK_STATUS(imagine_picture_save(context, second, new, 1, &err), IMAGINE_ERROR_IO);
    CHECK(err.native_code == ELOOP && strstr(err.message, "second.png"));
    imagine_buffer_release(&new);
    imagine_buffer_release(&old);
}

static mode_t opened_with; /* the permissions of the last file that was given others */

/* In the place of the C library's. */
int fchmod(int fd, mode_t mode)
{
    struct stat about;
    if (!fstat(fd, &about))
        opened_with = about.st_mode & 0777;
    return (int)syscall(SYS_fchmod, fd, mode);
}

/* What is replaced keeps its permissions, and a new file has those that the process gives; at no time has it more. */
static void test_modes(void)
{
    static const mode_t modes[] = { 0600, 0640, 0666, 0400, 0755 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *frames = make_frames(1, 4, 4);
    const char *path = scratch_file("mode.png");
    struct stat about;
    mode_t before = umask(027);
    CHECK_OK(imagine_picture_save(context, path, frames, 1, &err));
    CHECK(!stat(path, &about) && (about.st_mode & 0777) == 0640);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        CHECK(!chmod(path, modes[i]));
        CHECK_OK(imagine_picture_save(context, path, frames, 1, &err));
        CHECK(!stat(path, &about) && (about.st_mode & 0777) == modes[i]);
        CHECK(!(opened_with & ~modes[i]));
    }
    umask(before);
    imagine_buffer_release(&frames);
}

/* A file that root replaces stays its owner's. Who may not give it the old group gives the new one what everybody may. */
static void test_owners(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    const char *path = scratch_file("owner.png");
    struct stat about;
    if (geteuid())
        SKIP("only root can give files away");
    imagine_buffer *frames = make_frames(1, 4, 4);
    CHECK_OK(imagine_picture_save(context, path, frames, 1, &err));
    CHECK(!chown(path, 1234, 2345) && !chmod(path, 0640));
    CHECK_OK(imagine_picture_save(context, path, frames, 1, &err));
    CHECK(!stat(path, &about) && about.st_uid == 1234 && about.st_gid == 2345 && (about.st_mode & 0777) == 0640);
    CHECK(!chown(path, 0, 3456) && !chmod(path, 0664) && !chmod(folder, 0777));
    gid_t groups[64];
    int count = getgroups(64, groups);
    REQUIRE(count >= 0 && !setgroups(0, NULL) && !setegid(2345) && !seteuid(1234));
    int there = !faccessat(AT_FDCWD, folder, W_OK, AT_EACCESS); /* not where TMPDIR is root's alone */
    if (there)
        CHECK_OK(imagine_picture_save(context, path, frames, 1, &err));
    CHECK(!seteuid(0) && !setegid(0) && !setgroups((size_t)count, groups));
    if (there)
        CHECK(!stat(path, &about) && about.st_uid == 1234 && about.st_gid == 2345 && (about.st_mode & 0777) == 0644);
    imagine_buffer_release(&frames);
}

/* Names as long as a file system takes them, of bytes and of longer characters; the one for the time being is cut. */
static void test_long_names(void)
{
    static const char *const units[] = { "n", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x91\xA9" };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *frames = make_frames(1, 4, 4);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        for (size_t most = 180; most <= 255; most += 25) {
            char name[256] = "";
            size_t unit = strlen(units[i]), size = 0;
            for (; size + unit <= most; size += unit)
                memcpy(name + size, units[i], unit);
            name[size] = 0;
            const char *path = scratch_file(name);
            for (int again = 0; again < 2; again++)
                CHECK_OK(imagine_picture_save(context, path, frames, 1, &err));
            check_loads(path, frames);
            CHECK(!unlink(path));
        }
    imagine_buffer_release(&frames);
}

/* Where no file can be made the message names what the caller gave, and no temporary file. */
static void test_no_folder(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_buffer *frames = make_frames(1, 4, 4);
    const char *missing = scratch_file("missing/folder.png"), *locked = scratch_file("locked/out.png");
    char sub[512];
    CHECK_STATUS(imagine_picture_save(context, missing, frames, 1, &err), IMAGINE_ERROR_IO);
    CHECK(!strncmp(err.message, missing, strlen(missing)) && !strstr(err.message, ".part") && err.native_code == ENOENT);
    snprintf(sub, sizeof sub, "%s/locked", folder);
    REQUIRE(!mkdir(sub, 0555));
    if (geteuid() != 0) { /* whom nothing is locked to */
        CHECK_STATUS(imagine_picture_save(context, locked, frames, 1, &err), IMAGINE_ERROR_IO);
        CHECK(!strncmp(err.message, locked, strlen(locked)) && !strstr(err.message, ".part") && err.native_code == EACCES);
    }
    imagine_buffer_release(&frames);
}

/* Every allocation of a save and a load failing in turn. */
typedef struct budget {
    long left, live;
} budget;

static void *limited_alloc(void *user, size_t size, size_t alignment)
{
    budget *b = user;
    if (b->left-- <= 0)
        return NULL;
    b->live++;
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void limited_free(void *user, void *pointer, size_t size)
{
    (void)size;
    ((budget *)user)->live--;
    free(pointer);
}

static imagine_status save_and_load(budget *b, long left, imagine_error *error)
{
    imagine_context_options options;
    imagine_context *limited = NULL;
    imagine_buffer *frames = NULL;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    options.allocate = limited_alloc;
    options.release = limited_free;
    options.allocator_data = b;
    b->left = 1000000;
    imagine_status status = imagine_context_create(&limited, &options, error);
    if (status < 0)
        return status;
    b->left = left;
    status = imagine_picture_load(&frames, limited, test_path("model/pictures/animated_21.png"), error);
    if (status >= 0)
        status = imagine_picture_save(limited, scratch_file("limited.png"), frames, 8, error);
    imagine_buffer_release(&frames);
    imagine_context_release(&limited);
    return status;
}

static void test_memory(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    budget b = { 0 };
    long failures = 0;
    for (long left = 0; left < 10000; left++) {
        imagine_status status = save_and_load(&b, left, &err);
        CHECK(b.live == 0);
        if (status == IMAGINE_OK)
            break;
        CHECK_STATUS(status, IMAGINE_ERROR_NO_MEMORY);
        failures++;
    }
    CHECK(failures > 10 && failures < 9999);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "round_trip", test_round_trip }, { "formats", test_formats }, { "animation", test_animation },
        { "folder", test_folder },         { "rates", test_rates },     { "hostile", test_hostile },
        { "errors", test_errors },  { "bomb", test_bomb },       { "full_disk", test_full_disk }, { "links", test_links },
        { "folder_order", test_folder_order },
        { "modes", test_modes },           { "owners", test_owners },
        { "long_names", test_long_names }, { "no_folder", test_no_folder },
        { "memory", test_memory },
        { "common_chunks", test_common_chunks },
    };
    imagine_error err = IMAGINE_ERROR_INIT;
    snprintf(folder, sizeof folder, "%s/imagine-picture-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(folder) || imagine_context_create(&context, NULL, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    int result = test_main("picture", cases, sizeof cases / sizeof *cases, argc, argv);
    imagine_context_release(&context);
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) ? 1 : result;
}
