/* SPDX-License-Identifier: MIT */

/* Contexts, memory, arenas, options structs, threads, cancelling, buffers. */

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/context.h"
#include "test.h"

static imagine_context *make_context(int32_t threads)
{
    imagine_context *context = NULL;
    imagine_context_options options;
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options_init(&options, sizeof options);
    options.threads = threads;
    CHECK_OK(imagine_context_create(&context, &options, &err));
    return context;
}

static imagine_context_info info_of(const imagine_context *context)
{
    imagine_context_info info = { .struct_size = sizeof info };
    imagine_error err = IMAGINE_ERROR_INIT;
    CHECK_OK(imagine_context_get_info(context, &info, &err));
    return info;
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void errors(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    char text[1001];
    CHECK(sizeof err == 512);
    CHECK(imagine__fail(NULL, IMAGINE_ERROR_IO, "x") == IMAGINE_ERROR_IO);
    CHECK(imagine__fail(&err, IMAGINE_ERROR_IO, "%s-%d", "x", 7) == IMAGINE_ERROR_IO);
    CHECK(err.status == IMAGINE_ERROR_IO && !strcmp(err.message, "x-7") && err.native_code == 0);
    imagine__fail_errno(&err, IMAGINE_ERROR_NOT_FOUND, ENOENT, "%s", "file");
    CHECK(err.native_code == ENOENT && !strncmp(err.message, "file: ", 6) && strlen(err.message) > 6);
    for (size_t shift = 0; shift < 3; shift++) { /* the cuts fall on each byte of a three-byte character */
        memset(text, 'a', shift);
        for (size_t i = shift; i + 3 < sizeof text; i += 3)
            memcpy(text + i, "\xe2\x96\x81", 4);
        imagine__fail(&err, IMAGINE_ERROR_IO, "%s", text);
        size_t length = strlen(err.message);
        const char *cut = strstr(err.message, "...");
        CHECK(length > 480 && length < sizeof err.message && cut && cut > err.message + 240 && cut < err.message + 250);
        CHECK(cut && (size_t)(cut - err.message - (ptrdiff_t)shift) % 3 == 0 && strlen(cut + 3) % 3 == 0);
    }
    for (int size = 400; size < 4096; size += size < 600 ? 1 : 37) { /* of a long path the name stays, and what is said of it */
        char path[4097];
        snprintf(path, sizeof path, "/top/%0*d/the.file", size - 14, 0);
        imagine__fail(&err, IMAGINE_ERROR_MODEL, "%s: \"key\" is missing", path);
        CHECK(!strncmp(err.message, "/top/0", 6) && strstr(err.message, "0/the.file: \"key\" is missing"));
        CHECK(strlen(err.message) == (size + 18 < 495 ? (size_t)size + 18 : 495));
        imagine__fail_errno(&err, IMAGINE_ERROR_NOT_FOUND, ENOENT, "%s", path);
        CHECK(!strncmp(err.message, "/top/0", 6) && strstr(err.message, "0/the.file: No such file"));
    }
    char *huge = malloc(100001);
    REQUIRE(huge);
    memset(huge, 'a', 100000);
    huge[100000] = 0;
    imagine__fail_errno(&err, IMAGINE_ERROR_IO, ENOENT, "%s", huge);
    CHECK(strlen(err.message) == sizeof err.message - 1 && strstr(err.message, "aa...: No such file"));
    free(huge);
    imagine__fail(&err, IMAGINE_ERROR_IO, "%s", "a\xff\xe2\x96 \xc3\xa9\xed\xa0\x80"); /* a path's bytes that are no UTF-8 */
    CHECK(!strcmp(err.message, "a??? \xc3\xa9???"));
    memset(text, 0x80, sizeof text - 1);
    imagine__fail(&err, IMAGINE_ERROR_IO, "%s", text);
    CHECK(strlen(err.message) == sizeof err.message - 1 && strspn(err.message, "?.") == strlen(err.message));
    imagine__fail_errno(&err, IMAGINE_ERROR_NOT_FOUND, ENOENT, "%s", "\xfe");
    CHECK(!strncmp(err.message, "?: ", 3));
    CHECK(!strcmp(imagine_status_name(IMAGINE_ERROR_NO_MEMORY), "ERROR_NO_MEMORY"));
    CHECK(!strcmp(imagine_status_name(-12345), "UNKNOWN"));
    CHECK(!strcmp(imagine_status_text(IMAGINE_OK), "success"));
    CHECK(imagine_version_number() == IMAGINE_VERSION_NUMBER && !strcmp(imagine_version_string(), "0.2.0"));
}

/* ---- options --------------------------------------------------------------------------------- */

typedef struct small_options {
    uint32_t struct_size;
    int32_t a, b;
} small_options;

typedef struct large_options {
    uint32_t struct_size;
    int32_t a, b, c, d;
} large_options;

static void options_structs(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    large_options known = { sizeof known, 10, 20, 30, 40 };
    small_options older = { sizeof older, 1, 2 };
    CHECK_OK(imagine__read_options(&known, sizeof known, &older, "o", &err));
    CHECK(known.struct_size == sizeof known && known.a == 1 && known.b == 2 && known.c == 30 && known.d == 40);
    CHECK_OK(imagine__read_options(&known, sizeof known, NULL, "o", &err));
    CHECK(known.a == 1);
    small_options ours = { sizeof ours, 10, 20 };
    large_options newer = { sizeof newer, 1, 2, 0, 0 };
    CHECK_OK(imagine__read_options(&ours, sizeof ours, &newer, "o", &err));
    CHECK(ours.struct_size == sizeof ours && ours.a == 1 && ours.b == 2);
    newer.d = 1 << 24;
    ours.a = 77;
    CHECK_STATUS(imagine__read_options(&ours, sizeof ours, &newer, "o", &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(ours.a == 77);
    static const uint32_t sizes[] = { 0, 3, 4097, UINT32_MAX };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        newer.struct_size = sizes[i];
        CHECK_STATUS(imagine__read_options(&ours, sizeof ours, &newer, "o", &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(strstr(err.message, "call its _init function or set it to sizeof(o)"));
        CHECK_STATUS(imagine__write_struct(&newer, &ours, sizeof ours, "o", &err), IMAGINE_ERROR_INVALID_ARGUMENT);
        CHECK(strstr(err.message, "; set it to sizeof(o)") && !strstr(err.message, "_init"));
    }
    newer = (large_options) { sizeof newer, 9, 9, 9, 9 };
    CHECK_OK(imagine__write_struct(&newer, &ours, sizeof ours, "o", &err));
    CHECK(newer.struct_size == sizeof newer && newer.a == 77 && newer.b == 2 && newer.c == 0 && newer.d == 0);
    small_options out[2] = { { sizeof *out, 0, 0 }, { 5, 5, 5 } };
    CHECK_OK(imagine__write_struct(out, &known, sizeof known, "o", &err));
    CHECK(out[0].struct_size == sizeof *out && out[0].a == 1 && out[1].struct_size == 5);
    CHECK_STATUS(imagine__write_struct(NULL, &known, sizeof known, "o", &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    memset(out, 0xff, sizeof out);
    imagine__init_options(out, sizeof *out, &known, sizeof known);
    CHECK(out[0].struct_size == sizeof *out && out[0].b == 2 && out[1].struct_size == UINT32_MAX);
    memset(&newer, 0xff, sizeof newer);
    imagine__init_options(&newer, sizeof newer, &ours, sizeof ours);
    CHECK(newer.struct_size == sizeof newer && newer.a == 77 && newer.c == 0 && newer.d == 0);
    imagine__init_options(NULL, 8, &ours, sizeof ours);
    imagine__init_options(&newer, 2, &ours, sizeof ours);
    CHECK(newer.a == 77);
}

/* ---- contexts and memory --------------------------------------------------------------------- */

static void context_options(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = (imagine_context *)&err;
    imagine_context_options o;
#define REFUSED(field, value, expected)                                       \
    do {                                                                      \
        imagine_context_options_init(&o, sizeof o);                           \
        o.field = (value);                                                    \
        CHECK_STATUS(imagine_context_create(&context, &o, &err), (expected)); \
        CHECK(context == NULL);                                               \
    } while (0)
    REFUSED(threads, -1, IMAGINE_ERROR_INVALID_ARGUMENT);
    REFUSED(threads, 257, IMAGINE_ERROR_INVALID_ARGUMENT);
    REFUSED(device, IMAGINE_DEVICE_CUDA, IMAGINE_ERROR_UNSUPPORTED);
    REFUSED(device, 99, IMAGINE_ERROR_INVALID_ARGUMENT);
    REFUSED(cpu_level, 9, IMAGINE_ERROR_INVALID_ARGUMENT);
    REFUSED(log_level, 9, IMAGINE_ERROR_INVALID_ARGUMENT);
    REFUSED(reserved0, 1, IMAGINE_ERROR_INVALID_ARGUMENT);
    REFUSED(memory_limit, 1000, IMAGINE_ERROR_NO_MEMORY); /* two threads' scratch does not fit */
    imagine_context_options_init(&o, sizeof o);
    o.threads = 1;
    o.memory_limit = 1; /* the context itself does not fit */
    CHECK_STATUS(imagine_context_create(&context, &o, &err), IMAGINE_ERROR_NO_MEMORY);
    CHECK(!context && strstr(err.message, "memory_limit"));
    imagine_context_options_init(&o, sizeof o);
    o.threads = 8;
    o.memory_limit = 4000000;
    CHECK_STATUS(imagine_context_create(&context, &o, &err), IMAGINE_ERROR_NO_MEMORY);
    CHECK(!context && strstr(err.message, "threads: 8 need") && strstr(err.message, "limit is 4.0 MB"));
    CHECK_STATUS(imagine_context_create(NULL, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    REQUIRE_OK(imagine_context_create(&context, NULL, &err));
    imagine_context_info info = info_of(context);
    CHECK(info.device == IMAGINE_DEVICE_CPU && info.threads >= 1 && info.cpu_level != IMAGINE_CPU_BEST);
    imagine_context *other = imagine_context_retain(context);
    imagine_context_release(&context);
    CHECK(context == NULL && info_of(other).threads == info.threads);
    imagine_context_release(&other);
    imagine_context_release(&other);
    imagine_context_release(NULL);
    CHECK(imagine_context_retain(NULL) == NULL);
}

static void memory(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options o;
    imagine_context *context;
    imagine_context_options_init(&o, sizeof o);
    o.threads = 1;
    o.memory_limit = 1 << 20;
    REQUIRE_OK(imagine_context_create(&context, &o, &err));
    uint64_t empty = info_of(context).memory_used;
    for (size_t size = 0; size < 300; size += 13) {
        void *p = imagine__alloc(context, size);
        CHECK(p && (uintptr_t)p % 64 == 0);
        imagine__free(context, p);
    }
    CHECK(info_of(context).memory_used == empty);
    imagine_context_reset_peak(context);
    char *a = imagine__alloc(context, 600000);
    CHECK(a != NULL);
    CHECK(!imagine__alloc(context, 500000)); /* over the limit */
    CHECK(!imagine__alloc(context, SIZE_MAX) && !imagine__alloc(context, SIZE_MAX - 64) &&
          !imagine__calloc(context, SIZE_MAX / 2, 3));
    uint64_t used = info_of(context).memory_used;
    CHECK(used >= 600000 + empty && used < 600256 + empty);
    imagine__free(context, a);
    CHECK(info_of(context).memory_used == empty && info_of(context).memory_peak == used);
    imagine_context_reset_peak(context);
    CHECK(info_of(context).memory_peak == empty);
    a = imagine__strdup(context, "text");
    a = imagine__realloc(context, a, 500000);
    CHECK(a && !strcmp(a, "text"));
    CHECK(!imagine__realloc(context, a, 600000)); /* both at once do not fit; the old one stays */
    CHECK(!strcmp(a, "text"));
    imagine__free(context, a);
    imagine__free(context, NULL);
    int *zeros = imagine__calloc(context, 1000, sizeof *zeros), sum = 0;
    for (int i = 0; zeros && i < 1000; i++)
        sum |= zeros[i];
    CHECK(zeros && !sum);
    imagine__free(context, zeros);
    CHECK(info_of(context).memory_used == empty);
    imagine_context_release(&context);
}

/* An allocator that counts and, from a certain call on, refuses one. */
typedef struct counting {
    atomic_long calls, blocks, bytes;
    long refuse;
} counting;

static void *count_alloc(void *data, size_t size, size_t alignment)
{
    counting *c = data;
    void *pointer = NULL;
    if (atomic_fetch_add(&c->calls, 1) == c->refuse || posix_memalign(&pointer, alignment, size))
        return NULL;
    memset(pointer, 0xa5, size);
    atomic_fetch_add(&c->blocks, 1);
    atomic_fetch_add(&c->bytes, (long)size);
    return pointer;
}

static void count_free(void *data, void *pointer, size_t size)
{
    counting *c = data;
    atomic_fetch_sub(&c->blocks, 1);
    atomic_fetch_sub(&c->bytes, (long)size);
    free(pointer);
}

/* Who had no memory: the limit, with what is held, or the allocator, whichever it was last. */
static void refused_by(void)
{
    counting c = { .refuse = -1 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options o;
    imagine_context *context;
    imagine_buffer *buffer, *held;
    imagine_context_options_init(&o, sizeof o);
    o.threads = 1;
    o.memory_limit = 2000000;
    o.allocate = count_alloc;
    o.release = count_free;
    o.allocator_data = &c;
    REQUIRE_OK(imagine_context_create(&context, &o, &err));
    REQUIRE_OK(imagine_buffer_create(&held, context, IMAGINE_U8, 1, (int64_t[]){ 1500000 }, &err));
    for (int again = 0; again < 2; again++) {
        CHECK_STATUS(imagine_buffer_create(&buffer, context, IMAGINE_U8, 1, (int64_t[]){ 700000 }, &err), IMAGINE_ERROR_NO_MEMORY);
        CHECK(strstr(err.message, "700000 bytes for a buffer's data") &&
              strstr(err.message, "the context's limit of 2.0 MB is reached, 1.5 MB are held"));
        c.refuse = c.calls + 1; /* the second of the buffer's two blocks */
        CHECK_STATUS(imagine_buffer_create(&buffer, context, IMAGINE_U8, 1, (int64_t[]){ 70000 }, &err), IMAGINE_ERROR_NO_MEMORY);
        CHECK(strstr(err.message, "the allocator had no 70000 bytes for a buffer's data"));
    }
    imagine_buffer_release(&held);
    imagine_context_release(&context);
}

static imagine_status live_a_little(counting *c)
{
    imagine_context_options o;
    imagine_context *context = NULL;
    imagine_buffer *buffer = NULL;
    imagine_cancel *cancel = NULL;
    imagine__work work;
    imagine_error err = IMAGINE_ERROR_INIT;
    int64_t shape[2] = { 100, 7 };
    imagine_context_options_init(&o, sizeof o);
    o.threads = 3;
    o.allocate = count_alloc;
    o.release = count_free;
    o.allocator_data = c;
    imagine_status status = imagine_context_create(&context, &o, &err);
    if (status < 0)
        return status;
    status = imagine_buffer_create(&buffer, context, IMAGINE_F32, 2, shape, &err);
    if (status >= 0)
        status = imagine_cancel_create(&cancel, context, &err);
    if (status >= 0)
        status = imagine__work_init(&work, context, cancel, &err);
    if (status >= 0) {
        for (int i = 0; i < 40 && status >= 0; i++)
            if (!imagine__arena_alloc(work.arena, 700000))
                status = IMAGINE_ERROR_NO_MEMORY;
        imagine__work_fini(&work);
    }
    imagine_context_release(&context);
    imagine_cancel_release(&cancel);
    imagine_buffer_release(&buffer);
    return status;
}

static void every_allocation_fails(void)
{
    counting c = { .refuse = -1 };
    CHECK(live_a_little(&c) == IMAGINE_OK && c.blocks == 0 && c.bytes == 0);
    long calls = c.calls;
    CHECK(calls > 40);
    for (long i = 0; i < calls; i++) {
        c = (counting) { .refuse = i };
        CHECK(live_a_little(&c) == IMAGINE_ERROR_NO_MEMORY);
        CHECK(c.blocks == 0 && c.bytes == 0);
    }
}

static void logged(void *data, imagine_log_level level, const char *text)
{
    int *seen = data;
    seen[level]++;
    CHECK(!strcmp(text, "hello 5"));
}

static void logging(void)
{
    int seen[5] = { 0 };
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context_options o;
    imagine_context *context;
    imagine_context_options_init(&o, sizeof o);
    o.threads = 1;
    o.log = logged;
    o.log_data = seen;
    REQUIRE_OK(imagine_context_create(&context, &o, &err));
    for (imagine_log_level level = IMAGINE_LOG_ERROR; level <= IMAGINE_LOG_DEBUG; level++)
        imagine__log(context, level, "hello %d", 5);
    CHECK(seen[1] == 1 && seen[2] == 1 && seen[3] == 0 && seen[4] == 0);
    imagine_context_release(&context);
}

/* ---- arena ----------------------------------------------------------------------------------- */

static void arena(void)
{
    imagine_context *context = make_context(1);
    uint64_t empty = info_of(context).memory_used;
    imagine__arena *a = imagine__arena_create(context);
    REQUIRE(a);
    imagine__arena_mark start = imagine__arena_save(a);
    char *blocks[200];
    imagine__arena_mark middle = start;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 200; i++) {
            size_t size = (size_t)(i * i * 97 % 300000);
            if (i == 100)
                middle = imagine__arena_save(a);
            blocks[i] = imagine__arena_alloc(a, size);
            REQUIRE(blocks[i] && (uintptr_t)blocks[i] % 64 == 0);
            memset(blocks[i], i, size);
        }
        imagine__arena_restore(a, middle);
        for (int i = 100; i < 200; i++) /* the same chunks again, of other sizes */
            memset(imagine__arena_alloc(a, (size_t)(200 - i) * 1000), 255, (size_t)(200 - i) * 1000);
        int intact = 1;
        for (int i = 0; i < 100; i++)
            for (size_t b = 0; b < (size_t)(i * i * 97 % 300000); b++)
                intact &= blocks[i][b] == (char)i;
        CHECK(intact);
        imagine__arena_restore(a, start);
    }
    uint64_t kept = info_of(context).memory_used;
    CHECK(kept > empty + 10000000);
    CHECK(imagine__arena_alloc(a, 3000000) != NULL); /* replaces a free chunk that is too small */
    CHECK(!imagine__arena_floats(a, -1) && !imagine__arena_floats(a, INT64_MAX) && !imagine__arena_alloc(a, SIZE_MAX));
    CHECK(imagine__arena_floats(a, 0) != NULL);
    imagine__arena_restore(a, start);
    imagine__arena_trim(a);
    CHECK(info_of(context).memory_used < empty + 4096);
    CHECK(imagine__arena_alloc(a, 10) != NULL);
    imagine__arena_destroy(a);
    imagine__arena_destroy(NULL);
    CHECK(info_of(context).memory_used == empty);
    imagine_context_release(&context);
}

/* ---- processors ------------------------------------------------------------------------------ */

static void put(const char *folder, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    REQUIRE(file);
    fputs(text, file);
    REQUIRE(!fclose(file));
}

/* What a process in groups like these may use, of groups mounted at `root`. */
static int64_t allowed(const char *root, const char *groups)
{
    char path[256];
    put(root, "groups", groups);
    snprintf(path, sizeof path, "%s/groups", root);
    return imagine__processors_allowed(path, root);
}

static void processors_of_a_container(void)
{
    static const char *const folders[] = { "cpu", "cpu/docker", "service", "service/inner" };
    char root[] = "/tmp/imagine-groups-XXXXXX", path[256];
    REQUIRE(mkdtemp(root));
    CHECK(imagine__processors_allowed("/no/such/file", root) == 0);
    CHECK(allowed(root, "0::/\n") == 0 && allowed(root, "") == 0 && allowed(root, "nonsense\n::\n0:\n") == 0);
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", root, folders[i]);
        REQUIRE(!mkdir(path, 0700));
    }
    /* Version 2: the group itself, one above, the root; "max" is no limit. */
    put(root, "service/inner/cpu.max", "max 100000\n");
    CHECK(allowed(root, "0::/service/inner\n") == 0);
    put(root, "service/cpu.max", "250000 100000\n");
    CHECK(allowed(root, "0::/service/inner\n") == 3 && allowed(root, "0::/service\n") == 3 && allowed(root, "0::/\n") == 0);
    put(root, "service/inner/cpu.max", "50000 100000\n");
    CHECK(allowed(root, "0::/service/inner\n") == 1);
    put(root, "cpu.max", "200000 100000\n");
    CHECK(allowed(root, "0::/service\n") == 2 && allowed(root, "0::/of/the/machine/outside\n") == 2);
    /* Version 1, beside it. */
    put(root, "cpu/docker/cpu.cfs_quota_us", "-1\n");
    put(root, "cpu/docker/cpu.cfs_period_us", "100000\n");
    CHECK(allowed(root, "4:memory:/\n3:cpuset:/docker\n1:cpu,cpuacct:/docker\n") == 0);
    put(root, "cpu/docker/cpu.cfs_quota_us", "100001\n");
    CHECK(allowed(root, "3:cpuacct:/docker\n1:name=cpu:/docker\n") == 0);
    CHECK(allowed(root, "1:cpuacct,cpu:/docker\n") == 2 && allowed(root, "1:cpu:/docker\n0::/service/inner\n") == 1);
    put(root, "cpu/docker/cpu.cfs_period_us", "0\n");
    CHECK(allowed(root, "1:cpu:/docker\n") == 0);
    snprintf(path, sizeof path, "rm -r %s", root);
    CHECK(system(path) == 0);
}

/* ---- threads --------------------------------------------------------------------------------- */

typedef struct tally {
    atomic_int *done;
    atomic_int *in_use; /* by scratch: a flag kept in its first bytes would race, so one a caller */
    imagine_cancel *cancel;
    int64_t cancel_at;
} tally;

/* ---- plans ----------------------------------------------------------------------------------- */

/* NULL when they cannot be had. */
static float *zeros(imagine__work *work, size_t count)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    float *values = NULL;
    imagine_status status = imagine__work_zeros(work, &values, count, "the test's zeros", &err);
    CHECK(values ? status == IMAGINE_OK : status == IMAGINE_ERROR_NO_MEMORY);
    return values;
}

/* What a stage does with memory; 1: all of it could be had. */
static int use_memory(imagine_context *context)
{
    imagine__work work;
    imagine_error err = IMAGINE_ERROR_INIT;
    if (imagine__work_init(&work, context, NULL, &err) < 0)
        return 0;
    imagine__arena_mark mark = imagine__arena_save(work.arena);
    float *floats[40], *kept = zeros(&work, 1 << 20);
    int all = kept != NULL;
    for (int i = 0; i < 40; i++) {
        floats[i] = zeros(&work, (size_t)(i % 7 + 1) << 14);
        all &= floats[i] && !((uintptr_t)floats[i] % 64) && imagine__arena_floats(work.arena, 100000 * (i % 5)) != NULL;
        if (i % 8 == 7)
            imagine__arena_restore(work.arena, mark);
        if (i % 3 == 2) {
            imagine__free(context, floats[i - 1]);
            floats[i - 1] = NULL;
        }
    }
    imagine__copy(&work, kept, 64, floats[0], 64, 32, 100);
    imagine__norm_args norm = { .x = kept, .y = kept, .rows = 16, .dim = 16, .ldx = 16, .ldy = 16, .eps = 1e-6f };
    work.run.kernels->norm(&work.run, &norm);
    CHECK(work.run.kernels->finite(&work.run, kept, 1 << 20));
    for (int i = 0; i < 40; i++)
        imagine__free(context, floats[i]);
    imagine__free(context, kept);
    imagine__work_fini(&work);
    return all;
}

static void plans(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = make_context(1), *planning;
    uint64_t before = info_of(context).memory_used;
    REQUIRE_OK(imagine__context_plan(&planning, context, before, &err));
    CHECK(imagine__planning(planning) && !imagine__planning(context));
    /* Every entry is there, and of the real table only what tells sizes. */
    const imagine__kernels *plan = imagine__context_kernels(planning), *real = imagine__context_kernels(context);
    uintptr_t has, other;
    int same = 0;
    for (size_t at = 0; at < sizeof *plan; at += sizeof has) {
        if (at == offsetof(imagine__kernels, tall)) /* a number, of products only */
            continue;
        memcpy(&has, (const char *)plan + at, sizeof has);
        memcpy(&other, (const char *)real + at, sizeof other);
        CHECK(has != 0);
        same += has == other;
    }
    CHECK(same == 3 && plan->linear_packed_size == real->linear_packed_size && plan->pack_rows == real->pack_rows);
    imagine_context_reset_peak(context);
    uint64_t begin = info_of(planning).memory_used, cost = info_of(context).memory_used;
    CHECK(use_memory(planning));
    uint64_t told = info_of(planning).memory_peak - begin, spent = info_of(context).memory_peak - cost;
    CHECK(info_of(planning).memory_used - begin < 8192 && spent < 16384); /* its list of blocks stays */
    imagine_context_release(&planning);
    CHECK(info_of(context).memory_used == before);
    imagine_context_reset_peak(context);
    CHECK(use_memory(context));
    uint64_t used = info_of(context).memory_peak - before;
    CHECK(used > 8000000 && told >= used && told - used < 16384);
    imagine_context_release(&context);
}

/* More than any machine has, and then more than can be counted. */
static void plans_beyond_memory(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = make_context(1), *planning;
    REQUIRE_OK(imagine__context_plan(&planning, context, 0, &err));
    imagine__arena *arena = imagine__arena_create(planning);
    CHECK(imagine__arena_floats(arena, (int64_t)1 << 58) != NULL);
    CHECK(info_of(planning).memory_peak > (uint64_t)1 << 60);
    imagine__work work;
    REQUIRE_OK(imagine__work_init(&work, planning, NULL, &err));
    CHECK(!zeros(&work, SIZE_MAX / 8) && !zeros(&work, SIZE_MAX));
    imagine__work_fini(&work);
    imagine__arena_destroy(arena);
    imagine_context_release(&planning);
    imagine_context_release(&context);
}

static void count_tile(void *arg, int64_t tile, void *scratch)
{
    tally *t = arg;
    CHECK((uintptr_t)scratch % 64 == 0);
    memset(scratch, (int)tile, 256);
    memset((char *)scratch + IMAGINE__SCRATCH - 256, (int)tile, 256);
    for (volatile int i = 0; i < 200; i++)
        ;
    const char *bytes = scratch;
    CHECK(bytes[0] == (char)tile && bytes[255] == (char)tile &&
          bytes[IMAGINE__SCRATCH - 1] == (char)tile); /* nobody else's */
    atomic_fetch_add(&t->done[tile], 1);
    if (t->cancel && tile == t->cancel_at)
        imagine_cancel_fire(t->cancel);
}

static void run_all(imagine_context *context, int64_t count)
{
    imagine__work work;
    imagine_error err = IMAGINE_ERROR_INIT;
    tally t = { .done = calloc((size_t)count + 1, sizeof(atomic_int)) };
    REQUIRE(t.done);
    REQUIRE_OK(imagine__work_init(&work, context, NULL, &err));
    imagine__parallel(&work.run, count, count_tile, &t);
    CHECK_OK(imagine__work_check(&work, &err));
    int wrong = 0;
    for (int64_t i = 0; i < count; i++)
        wrong += t.done[i] != 1;
    CHECK(!wrong && !t.done[count]);
    imagine__work_fini(&work);
    free(t.done);
}

static const int32_t thread_counts[] = { 1, 2, 7 };

static void tiles_once(void)
{
    for (size_t i = 0; i < 3; i++) {
        imagine_context *context = make_context(thread_counts[i]);
        REQUIRE(context);
        static const int64_t counts[] = { 0, 1, 2, 3, 8, 1000, 20000 };
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
            run_all(context, counts[c]);
        for (int repeat = 0; repeat < 2000; repeat++)
            run_all(context, 1 + repeat % 5);
        imagine_context_release(&context);
    }
}

static void *caller(void *arg)
{
    for (int i = 0; i < 300; i++)
        run_all(arg, 1 + i % 40);
    return NULL;
}

static void several_callers(void)
{
    for (size_t i = 0; i < 3; i++) {
        imagine_context *context = make_context(thread_counts[i]);
        REQUIRE(context);
        pthread_t threads[4];
        for (int c = 0; c < 4; c++)
            REQUIRE(!pthread_create(&threads[c], NULL, caller, context));
        for (int c = 0; c < 4; c++)
            pthread_join(threads[c], NULL);
        imagine_context_release(&context);
    }
}

static void cancelling(void)
{
    for (size_t i = 0; i < 3; i++) {
        imagine_context *context = make_context(thread_counts[i]);
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine_cancel *cancel;
        imagine__work work;
        atomic_int *done = calloc(100000, sizeof *done);
        REQUIRE(context && done);
        REQUIRE_OK(imagine_cancel_create(&cancel, context, &err));
        tally t = { .done = done, .cancel = cancel, .cancel_at = 50 };
        REQUIRE_OK(imagine__work_init(&work, context, cancel, &err));
        CHECK(!imagine_cancel_fired(cancel) && !imagine__run_stopped(&work.run));
        imagine__parallel(&work.run, 100000, count_tile, &t);
        int sum = 0, most = 0;
        for (int64_t k = 0; k < 100000; k++) {
            sum += done[k];
            most = done[k] > most ? done[k] : most;
        }
        CHECK(most == 1 && sum > 40 && sum < 90000);
        CHECK_STATUS(imagine__work_check(&work, &err), IMAGINE_ERROR_CANCELLED);
        imagine_cancel_reset(cancel);
        CHECK_OK(imagine__work_check(&work, &err));
        atomic_int stop;
        atomic_init(&stop, 1);
        work.stop = &stop;
        CHECK_STATUS(imagine__work_check(&work, &err), IMAGINE_ERROR_CANCELLED);
        imagine__work_fini(&work);
        imagine__work_fini(&work);
        imagine_context_release(&context); /* the token keeps the context */
        imagine_cancel *second = imagine_cancel_retain(cancel);
        imagine_cancel_release(&cancel);
        imagine_cancel_fire(second);
        CHECK(imagine_cancel_fired(second) == 1);
        imagine_cancel_release(&second);
        free(done);
    }
}

/* Zeros are not written on after a cancel, and leave nothing behind. */
static void cancelled_zeros(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = make_context(1);
    imagine_cancel *cancel;
    imagine__work work;
    float *values;
    REQUIRE_OK(imagine_cancel_create(&cancel, context, &err));
    REQUIRE_OK(imagine__work_init(&work, context, cancel, &err));
    REQUIRE_OK(imagine__work_zeros(&work, &values, 3 << 20, "zeros", &err));
    int wrong = 0;
    for (int i = 0; i < 3 << 20; i++)
        wrong += values[i] != 0;
    CHECK(!wrong);
    imagine__free(context, values);
    uint64_t before = info_of(context).memory_used;
    imagine_cancel_fire(cancel);
    CHECK(imagine__work_zeros(&work, &values, 3 << 20, "zeros", &err) == IMAGINE_ERROR_CANCELLED && !values);
    CHECK(info_of(context).memory_used == before);
    imagine__work_fini(&work);
    imagine_cancel_release(&cancel);
    imagine_context_release(&context);
}

static void no_threads_to_be_had(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    SKIP("a sanitizer does not live with a limit of address space: it may wait for itself for ever");
#endif
    /* A thread's stack takes address space; a child keeps the limit to itself. */
    pid_t child = fork();
    if (!child) {
        imagine_error err = IMAGINE_ERROR_INIT;
        imagine_context *context = NULL;
        counting c = { .refuse = -1 };
        imagine_context_options o;
        imagine_context_options_init(&o, sizeof o);
        o.threads = 64;
        o.allocate = count_alloc;
        o.release = count_free;
        o.allocator_data = &c;
        struct rlimit limit;
        FILE *status = fopen("/proc/self/statm", "r");
        long pages = 0;
        if (!status || fscanf(status, "%ld", &pages) != 1)
            _exit(3);
        fclose(status);
        limit.rlim_cur = limit.rlim_max = (rlim_t)pages * 4096 + (300u << 20); /* for some of the 64 threads */
        if (setrlimit(RLIMIT_AS, &limit))
            _exit(3);
        imagine_status got = imagine_context_create(&context, &o, &err);
        _exit(got == IMAGINE_ERROR_THREAD && !context && !c.blocks && !c.bytes && err.message[0] && err.native_code
                  ? 0
                  : 4);
    }
    int status = 0;
    REQUIRE(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
}

static void forked(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = make_context(3);
    imagine_buffer *buffer = NULL, *other = NULL;
    int64_t one = 1;
    REQUIRE_OK(imagine_buffer_create(&buffer, context, IMAGINE_F32, 1, &one, &err));
    run_all(context, 10);
    pid_t child = fork();
    if (!child) {
        imagine_context_info info = { .struct_size = sizeof info };
        imagine_cancel *cancel = NULL;
        imagine__work work;
        int wrong = imagine_context_get_info(context, &info, &err) != IMAGINE_ERROR_FORKED;
        imagine_buffer_info sizes = { .struct_size = sizeof sizes };
        wrong |= imagine_buffer_create(&other, context, IMAGINE_F32, 1, &one, &err) != IMAGINE_ERROR_FORKED;
        wrong |= imagine_buffer_get_info(buffer, &sizes, &err) != IMAGINE_ERROR_FORKED;
        wrong |= imagine_cancel_create(&cancel, context, &err) != IMAGINE_ERROR_FORKED;
        wrong |= imagine__work_init(&work, context, NULL, &err) != IMAGINE_ERROR_FORKED;
        imagine_buffer_release(&buffer);
        imagine_context_release(&context); /* frees; there are no threads to wait for */
#if defined(__SANITIZE_THREAD__)
        _exit(wrong || test_failures); /* its runtime makes no threads after a fork */
#endif
        context = make_context(2); /* a new one works here */
        wrong |= !context;
        run_all(context, 10);
        imagine_context_release(&context);
        _exit(wrong || test_failures);
    }
    int status = 1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    run_all(context, 10);
    imagine_buffer_release(&buffer);
    imagine_context_release(&context);
}

/* ---- buffers --------------------------------------------------------------------------------- */

static void released(void *data, void *pointer)
{
    *(void **)data = pointer;
}

static void buffers(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = make_context(1);
    uint64_t empty = info_of(context).memory_used;
    imagine_buffer *b = NULL;
    int64_t shape[3] = { 2, 3, 4 }, negative[2] = { -1, 2 }, huge[2] = { INT64_MAX, INT64_MAX },
            none[3] = { 5, 0, INT64_MAX };
    REQUIRE_OK(imagine_buffer_create(&b, context, IMAGINE_F64, 3, shape, &err));
    imagine_buffer_info info = { .struct_size = sizeof info };
    CHECK_OK(imagine_buffer_get_info(b, &info, &err));
    CHECK(info.dtype == IMAGINE_F64 && info.ndim == 3 && info.shape[2] == 4 && info.shape[3] == 0 && info.size == 192);
    CHECK((uintptr_t)info.data % 64 == 0 && *(double *)info.data == 0 && imagine_buffer_data(b) == info.data);
    imagine_buffer *again = imagine_buffer_retain(b);
    imagine_buffer_release(&b);
    CHECK(!b && imagine_buffer_size(again) == 192);
    imagine_buffer_release(&again);
    CHECK_STATUS(imagine_buffer_create(&b, context, IMAGINE_F32, 2, negative, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_create(&b, context, IMAGINE_F32, 2, huge, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_create(&b, context, 99, 3, shape, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_create(&b, context, IMAGINE_F32, 9, shape, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_create(&b, context, IMAGINE_F32, -1, shape, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_create(&b, context, IMAGINE_F32, 1, NULL, &err), IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(!strcmp(err.message, "shape: the pointer is NULL"));
    CHECK_OK(imagine_buffer_create(&b, context, IMAGINE_F32, 3, none, &err));
    CHECK(imagine_buffer_size(b) == 0);
    imagine_buffer_release(&b);
    CHECK_OK(imagine_buffer_create(&b, context, IMAGINE_F32, 0, NULL, &err));
    CHECK(imagine_buffer_size(b) == 4);
    imagine_buffer_release(&b);
    float values[24];
    void *gone = NULL;
    CHECK_STATUS(imagine_buffer_wrap(&b, context, IMAGINE_F32, 3, shape, (char *)values + 1, released, &gone, &err),
                 IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK_STATUS(imagine_buffer_wrap(&b, context, IMAGINE_F32, 3, shape, NULL, released, &gone, &err),
                 IMAGINE_ERROR_INVALID_ARGUMENT);
    CHECK(!gone && !b);
    CHECK_OK(imagine_buffer_wrap(&b, context, IMAGINE_F32, 3, shape, values, released, &gone, &err));
    CHECK(imagine_buffer_data(b) == values && !gone);
    imagine_buffer_release(&b);
    CHECK(gone == values);
    CHECK(!imagine_buffer_data(NULL) && !imagine_buffer_size(NULL));
    char text[64];
    imagine__shape_text(text, sizeof text, 3, shape);
    CHECK(!strcmp(text, "[2, 3, 4]"));
    imagine__shape_text(text, 6, 3, shape);
    CHECK(strlen(text) < 6);
    CHECK(info_of(context).memory_used == empty);
    imagine_context_release(&context);
}

/* What it takes 2^31 references that nobody releases to come to: the count is the first member of each. */
static void forgotten_references(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    imagine_context *context = make_context(1);
    imagine_cancel *cancel = NULL;
    imagine_buffer *buffer = NULL;
    uint64_t empty = info_of(context).memory_used;
    CHECK_OK(imagine_cancel_create(&cancel, context, &err));
    CHECK_OK(imagine_buffer_create(&buffer, context, IMAGINE_U8, 1, (const int64_t[]){ 100 }, &err));
    atomic_int *const counts[] = { (atomic_int *)(void *)context, (atomic_int *)(void *)cancel, (atomic_int *)(void *)buffer };
    int before[3];
    for (int i = 0; i < 3; i++) {
        before[i] = atomic_load(counts[i]);
        atomic_store(counts[i], INT_MAX - 1);
    }
    for (int i = 0; i < 3; i++) {
        CHECK(imagine_context_retain(context) == context);
        CHECK(imagine_cancel_retain(cancel) == cancel);
        CHECK(imagine_buffer_retain(buffer) == buffer);
    }
    for (int i = 0; i < 10; i++) {
        imagine_context *same_context = context;
        imagine_cancel *same_cancel = cancel;
        imagine_buffer *same_buffer = buffer;
        imagine_context_release(&same_context);
        imagine_cancel_release(&same_cancel);
        imagine_buffer_release(&same_buffer);
        for (int k = 0; k < 3; k++)
            CHECK(atomic_load(counts[k]) < INT_MIN / 4);
    }
    for (int i = 0; i < 3; i++)
        atomic_store(counts[i], before[i]);
    imagine_cancel_release(&cancel);
    imagine_buffer_release(&buffer);
    CHECK(info_of(context).memory_used == empty);
    imagine_context_release(&context);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        { "errors", errors },
        { "options_structs", options_structs },
        { "context_options", context_options },
        { "memory", memory },
        { "refused_by", refused_by },
        { "every_allocation_fails", every_allocation_fails },
        { "logging", logging },
        { "arena", arena },
        { "plans", plans },
        { "plans_beyond_memory", plans_beyond_memory },
        { "processors_of_a_container", processors_of_a_container },
        { "tiles_once", tiles_once },
        { "several_callers", several_callers },
        { "cancelling", cancelling },
        { "cancelled zeros", cancelled_zeros },
        { "no_threads_to_be_had", no_threads_to_be_had },
        { "forked", forked },
        { "buffers", buffers },
        { "forgotten_references", forgotten_references },
    };
    return test_main("model/base", cases, sizeof cases / sizeof *cases, argc, argv);
}
