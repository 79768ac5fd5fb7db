/* SPDX-License-Identifier: MIT */
/* Primitives and streams used as their manuals forbid, each way planted. */

#include <sys/wait.h>
#include <unistd.h>

#include "planted.h"
#include "kernels/cuda/tensor_map.cuh"

/* ---- shared memory and barriers ------------------------------------------------------------------------------------ */

__shared__ float line[16];

__global__ void shared_kernel(const uint4 *x, float *y, int bug)
{
    uint4 *buffer = (uint4 *)dynamic_shared();
    unsigned i = threadIdx.x;
    if (i < 16)
        line[i] = 1;
    copy_async(bug == 1 ? (uint4 *)y + i : buffer + i, x + i, bug == 2 ? 17 : 16);
    if (bug == 3)
        buffer[i] = uint4{};
    copy_async_commit();
    if (bug == 4)
        return;
    copy_async_wait<0>();
    sync_block();
    uint32_t r[4];
    load_matrices(r, (const char *)(buffer + i % 16) + (bug == 5 ? 8 : 0));
    if (bug == 6)
        sync_threads(16, 64);
    if (bug == 7)
        sync_threads(1, 96);
    float *values = (float *)((char *)buffer + (bug == 8 ? 2 : 0));
    y[i] = values[i] + line[0] + (&line[0])[bug == 9 ? 16 + i : 1] + bits_float(r[0]);
}

static void shared_memory()
{
    device_array<uint32_t> x(256);
    device_array<float> y(64);
    const char *text[] = {"is not in shared memory", "cp.async of 16 bytes, 17 of them read",
                          "race: write of shared memory at byte", "ended without waiting for its cp.async", "ldmatrix of a row at byte",
                          "there is no barrier 16", "barrier 1 for 96 threads in a block of 64",
                          "to which its type is not aligned", "out of bounds"};
    x.upload();
    for (int bug = 1; bug <= 9; bug++)
        expect(text[bug - 1], bug, shared_kernel, 1, 64, 64 * 16 + 16, (const uint4 *)x.device, y.device);
}

/* A last warp of half as many lanes. */
__global__ void half_kernel(float *y, int bug)
{
    unsigned i = threadIdx.x;
    sync_warp(i < 32 || bug ? IMAGINE__WARP : 0xffffu);
    y[i] = 1;
}

static void half_warps()
{
    device_array<float> y(48);
    expect("of more lanes than the warp's 16", 1, half_kernel, 1, 48, 0, y.device);
}

__global__ void mbarrier_kernel(float *y, int bug)
{
    uint64_t *barriers = (uint64_t *)dynamic_shared();
    unsigned i = threadIdx.x;
    if (i == 0) {
        for (unsigned j = 0; j < (bug == 1 ? 65 : 60); j++)
            mbarrier_init(barriers + j, bug == 2 ? 0 : 64);
        if (bug == 3)
            mbarrier_init(barriers + 1, 64);
    }
    sync_block();
    mbarrier_arrive(barriers + (bug == 4 ? 64 : 0));
    mbarrier_wait(barriers, 0);
    y[i] = 1;
}

static void mbarriers()
{
    device_array<float> y(64);
    const char *text[] = {"more than 64 mbarriers", "mbarrier init for 0 arrivals", "is made at byte", "no mbarrier was made"};
    for (int bug = 1; bug <= 4; bug++)
        expect(text[bug - 1], bug, mbarrier_kernel, 1, 64, 65 * 8, y.device);
}

/* Threads that run by number: the last one makes the barrier, or it is used before anybody did. */
__global__ void early_kernel(float *y, int bug)
{
    uint64_t *barrier = (uint64_t *)dynamic_shared();
    unsigned i = threadIdx.x;
    if (i == 0)
        mbarrier_init(barrier, 64);
    if (!bug)
        sync_block();
    mbarrier_arrive(barrier);
    y[i] = 1;
}

static void early_mbarrier()
{
    device_array<float> y(64);
    CHECK(!device_finish(launch(early_kernel, 1, 64, 8, nullptr, y.device, 0)));
    CHECK(launch(early_kernel, 1, 64, 8, nullptr, y.device, 1) != 0);
    CHECK(reported("of the mbarrier at byte") && reported("with no barrier after its init"));
}

__global__ void __launch_bounds__(128) registers_kernel(float *y, int bug)
{
    if (bug)
        more_registers<100>();
    else
        more_registers<104>();
    y[threadIdx.x] = 1;
}

static void register_counts()
{
    device_array<float> y(128);
    expect("setmaxnreg of 100 registers", 1, registers_kernel, 1, 128, 0, y.device);
}

/* ---- the copy engine and wgmma ------------------------------------------------------------------------------------- */

__global__ void box_kernel(const __grid_constant__ tensor_map map, uint16_t *y, int)
{
    unsigned char *p = (unsigned char *)dynamic_shared();
    uint16_t *box = (uint16_t *)(p + (1024 - shared_address(p) % 1024) % 1024);
    uint64_t *full = (uint64_t *)(box + 16 * 64);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        fence_async_proxy();
        mbarrier_expect(full, 16 * 64 * 2);
        load_box(box, &map, full, 0, 0, 0, 0);
        mbarrier_wait(full, 0);
        y[0] = box[0];
    }
}

static void tensor_maps()
{
    device_array<uint16_t> x(16 * 64), y(1);
    const uint64_t extent[4] = {64, 1, 16, 1}, stride[4] = {0, 128, 128, 2048};
    const uint32_t box[4] = {64, 1, 16, 1};
    tensor_map map;
    x.upload();
    REQUIRE(!make_tensor_map(&map, x.device, extent, stride, box));
    CHECK(!device_finish(launch(box_kernel, 1, 32, 4096, nullptr, map, y.device, 0)));
    for (int bug = 0; bug < 6; bug++) {
        tensor_map wrong = map;
        if (bug == 0)
            wrong.base += 8;
        if (bug == 1)
            wrong.box[0] = 128; /* a line is 128 bytes */
        if (bug == 2)
            wrong.box[0] = 60;
        if (bug == 3)
            wrong.stride[2] = 120;
        if (bug == 4)
            wrong.extent[3] = 0;
        if (bug == 5)
            wrong.box[2] = 257;
        CHECK(launch(box_kernel, 1, 32, 40000, nullptr, wrong, y.device, 0) != 0);
        CHECK(reported("with a tensor map the copy engine does not take"));
        CHECK(reported(bug < 3 ? "(rows of" : "(dimension"));
    }
}

__global__ void wgmma_kernel(float *y, int bug)
{
    unsigned char *p = (unsigned char *)dynamic_shared();
    uint16_t *a = (uint16_t *)(p + (1024 - shared_address(p) % 1024) % 1024), *b = a + 64 * 64;
    unsigned i = threadIdx.x;
    for (unsigned j = i; j < 64 * 64; j += 128)
        a[j] = b[j] = 0x3f80; /* 1 */
    fence_async_proxy();
    sync_block();
    float d[32];
    uint64_t db = matrix_descriptor(bug == 1 && i == 77 ? a : b, 16);
    products_begin();
    multiply_shared<64, false>(d, matrix_descriptor(a, 16), bug == 2 ? db & ~((uint64_t)3 << 62) : db);
    products_commit();
    if (bug == 3)
        return;
    products_wait<0>(d);
    y[i] = d[0];
}

static void warpgroup_products()
{
    device_array<float> y(128);
    const char *text[] = {"the warpgroup diverges", "other than of 128-byte swizzle", "ended without waiting for its last wgmma"};
    for (int bug = 1; bug <= 3; bug++)
        expect(text[bug - 1], bug, wgmma_kernel, 1, 128, 64 * 64 * 4 + 1024, y.device);
}

/* What may wait, while another part of the program records in the global mode: refused, and the recording spoilt, unless the thread has
 * relaxed its own mode. */
static int wait_beside(int way, void *stream, void *mark, void *host)
{
    return way == 0 ? emulator::settle(stream) : way == 1 ? emulator::mark_wait(mark)
           : way == 2 ? emulator::pin(host, 4096) : emulator::forbidden("an allocation");
}

static void recordings_of_others()
{
    void *stream, *mark, *host = aligned_alloc(4096, 4096);
    REQUIRE(host && !emulator::stream_create(&stream) && !emulator::mark_create(&mark));
    for (int way = 0; way < 8; way++) {
        int relaxed = way / 4, mode = emulator::RELAXED;
        CHECK(!emulator::put_mark(mark, stream));
        emulator::capture_elsewhere(true);
        if (relaxed)
            emulator::exchange_capture_mode(&mode);
        CHECK((wait_beside(way % 4, stream, mark, host) == 0) == relaxed);
        if (relaxed)
            emulator::exchange_capture_mode(&mode);
        CHECK(emulator::capture_elsewhere(false) == !relaxed);
        CHECK(relaxed || reported("while a stream is captured"));
    }
    emulator::unpin(host);
    emulator::mark_destroy(mark);
    emulator::stream_destroy(stream);
    free(host);
}

/* ---- what ends the program ----------------------------------------------------------------------------------------- */

static void pinned_twice(char *host, void *)
{
    emulator::pin(host, 4096);
    emulator::pin(host, 4096);
}

static void never_pinned(char *host, void *)
{
    emulator::unpin(host);
}

static void unpinned_early(char *host, void *stream)
{
    void *x = emulator::allocate(4096);
    emulator::pin(host, 4096);
    emulator::copy_later(x, host, 4096, stream);
    emulator::unpin(host);
}

static void dead_stream(char *, void *stream)
{
    emulator::stream_destroy(stream);
    emulator::settle(stream);
}

static void dead_mark(char *, void *stream)
{
    void *mark;
    emulator::mark_create(&mark);
    emulator::mark_destroy(mark);
    emulator::put_mark(mark, stream);
}

static void dead_graph(char *, void *stream)
{
    void *graph;
    emulator::graph_begin(stream);
    emulator::graph_end(stream, &graph);
    emulator::graph_destroy(graph);
    emulator::graph_launch(graph, stream);
}

static void released_twice(char *, void *)
{
    void *x = emulator::allocate(64);
    emulator::release(x);
    emulator::release(x);
}

static void copy_too_long(char *host, void *)
{
    emulator::copy_in(emulator::allocate(64), host, 65);
}

/* Handles and memory of the host's that are not what they are taken for: there is no status for it, so the program ends. */
static void handles()
{
    static const struct {
        void (*misuse)(char *host, void *stream);
        const char *text;
    } all[] = {{pinned_twice, "pinned twice"}, {never_pinned, "never was pinned"}, {unpinned_early, "a copy from it is under way"},
               {dead_stream, "no such stream"}, {dead_mark, "no such mark"}, {dead_graph, "no such graph"},
               {released_twice, "which is no allocation"}, {copy_too_long, "outside device memory"}};
    char *host = (char *)aligned_alloc(4096, 4096), said[256];
    REQUIRE(host);
    memset(host, 0, 4096);
    fflush(stdout);
    for (auto &each : all) {
        int ends[2], status = 0;
        REQUIRE(!pipe(ends));
        pid_t child = fork();
        if (!child) {
            void *stream;
            dup2(ends[1], 2);
            if (!emulator::stream_create(&stream))
                each.misuse(host, stream);
            _exit(0); /* it was not noticed */
        }
        close(ends[1]);
        ssize_t length = read(ends[0], said, sizeof said - 1);
        said[length > 0 ? length : 0] = 0;
        close(ends[0]);
        CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 1);
        CHECK(strstr(said, each.text));
    }
    free(host);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"shared memory", shared_memory}, {"half warps", half_warps}, {"mbarriers", mbarriers},
        {"early mbarrier", early_mbarrier}, {"register counts", register_counts}, {"tensor maps", tensor_maps},
        {"warpgroup products", warpgroup_products}, {"recordings of others", recordings_of_others}, {"handles", handles},
    };
    return test_main("cuda/misuse", cases, sizeof cases / sizeof *cases, argc, argv);
}
