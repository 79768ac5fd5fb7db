/* SPDX-License-Identifier: MIT */
/* What the emulator is for: every fault that it finds, planted. Each kernel here is right with bug == 0, and is run that way
 * first; with another number it has the fault of that number. Some also run with threads and copies in random orders, for
 * what is found must not depend on them. */

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "planted.h"
#include "kernels/cuda/tensor_map.cuh"

/* ---- bounds and unwritten memory --------------------------------------------------------------------------------- */

__global__ void shared_kernel(float *y, int bug)
{
    float *values = (float *)dynamic_shared();
    unsigned i = threadIdx.x;
    values[i] = 1;
    if (i == 31 && bug == 1)
        values[32] = 1;
    if (i == 0 && bug == 2)
        values[-1] = 1;
    sync_block();
    unsigned from = bug == 3 ? i + 1 : 31 - i;
    y[i] = values[from] + (bug == 4 ? values[40 + i] : 0);
}

static void shared_bounds()
{
    device_array<float> y(32);
    expect("byte 128 of 128 bytes of dynamic shared memory: out of bounds", 1, shared_kernel, 1, 32, 128, y.device);
    expect("byte -4 of 128 bytes of dynamic shared memory: out of bounds", 2, shared_kernel, 1, 32, 128, y.device);
    expect("thread (31, 0, 0): read of 4 bytes at byte 128", 3, shared_kernel, 1, 32, 128, y.device);
    expect("which nobody has written", 4, shared_kernel, 1, 32, 288, y.device);
}

__shared__ float few[4][4];

__global__ void index_kernel(float *y, int bug)
{
    unsigned i = threadIdx.x;
    few[i / 4][i % 4 + (bug == 1 && i == 7)] = 1;
    float registers[4] = {1, 2, 3, 4};
    y[i] = registers[i % 4 + (bug == 2 && i == 3)];
}

static void index_bounds()
{
    device_array<float> y(16);
    expect("thread (7, 0, 0): index 4 is out of the bounds", 1, index_kernel, 1, 16, 0, y.device);
    expect("thread (3, 0, 0): index 4 is out of the bounds", 2, index_kernel, 1, 16, 0, y.device);
}

__global__ void global_kernel(const float *x, float *y, int bug)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    float value = bug == 1 ? x[i + 1] : bug == 2 ? x[(int)i - 1] : x[i];
    y[bug == 3 ? i + 1 : i] = value;
    if (bug == 4)
        y[i] = y[(i + 1) % 64];
    if (bug == 5)
        *(volatile float *)nullptr = value;
    if (bug == 6 && i == 3)
        y[i] = ((const float4 *)(x + i))->y;
}

static void global_bounds()
{
    device_array<float> x(64), y(64);
    x.upload();
    expect("block (1, 0, 0), thread (31, 0, 0): read of 4 bytes at byte 256 of 256 bytes of global memory: out of bounds", 1,
           global_kernel, 2, 32, 0, x.device, y.device);
    expect("read of 4 bytes at byte -4 of 256 bytes", 2, global_kernel, 2, 32, 0, x.device, y.device);
    expect("write of 4 bytes at byte 256 of 256 bytes", 3, global_kernel, 2, 32, 0, x.device, y.device);
    expect("no memory of the device", 5, global_kernel, 2, 32, 0, x.device, y.device);
    expect("thread (3, 0, 0): access to ", 6, global_kernel, 2, 32, 0, x.device, y.device);
    device_array<float> fresh(64);
    CHECK(launch(global_kernel, 2, 32, 0, nullptr, fresh.device, y.device, 0) && reported("which nobody has written"));
}

/* ---- races ------------------------------------------------------------------------------------------------------- */

__global__ void race_kernel(float *y, int bug)
{
    float *values = (float *)dynamic_shared();
    unsigned i = threadIdx.x;
    values[i] = 0;
    sync_block();
    values[i] = 1;
    if (bug != 1)
        sync_block();
    float sum = values[63 - i];
    if (bug != 2)
        sync_block();
    values[i] = sum;
    if (bug == 3 && i < 2)
        values[0] = 5;
    if (bug == 4)
        sync_threads(1 + i / 32, 32); /* each warp with itself */
    else
        sync_threads(1, 64);
    y[i] = values[63 - i];
}

static void races()
{
    device_array<float> y(64);
    for (int bug = 1; bug <= 4; bug++)
        expect("race", bug, race_kernel, 1, 64, 256, y.device);
}

/* Lanes of a warp read what lane 0 wrote; then lane 0 alone says that all are done. */
__global__ void warp_race_kernel(float *y, int bug)
{
    float *value = (float *)dynamic_shared();
    uint64_t *done = (uint64_t *)(value + 2);
    unsigned i = threadIdx.x;
    if (i == 0) {
        mbarrier_init(done, 1);
        *value = 3;
    }
    if (bug == 1)
        shuffle(1, 0); /* orders nothing */
    else
        sync_warp();
    y[i] = *value;
    if (bug != 2)
        sync_warp();
    if (i == 0)
        mbarrier_arrive(done);
    if (i == 31) {
        mbarrier_wait(done, 0);
        *value = 4;
    }
}

static void warp_races()
{
    device_array<float> y(32);
    expect("race", 1, warp_race_kernel, 1, 32, 16, y.device);
    expect("race", 2, warp_race_kernel, 1, 32, 16, y.device);
}

__global__ void global_race_kernel(float *y, int bug)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = 1;
    if (bug == 1)
        y[(i + 32) % 64] = 1;
    if (bug == 2)
        y[i] = y[i ^ 1];
    sync_block();
    if (bug == 3)
        y[(i + 32) % 64 + 64] = y[(i + 32) % 64];
    else
        y[i + 64] = y[i ^ 1];
}

static void global_races()
{
    device_array<float> y(128);
    y.upload();
    expect("of another block", 1, global_race_kernel, 2, 32, 0, y.device);
    expect("race", 2, global_race_kernel, 2, 32, 0, y.device);
    expect("of another block", 3, global_race_kernel, 2, 32, 0, y.device);
}

__global__ void atomic_kernel(unsigned *y, int bug)
{
    unsigned *count = (unsigned *)dynamic_shared();
    if (threadIdx.x == 0)
        *count = 0;
    sync_block();
    if (bug && threadIdx.x == 9)
        *count += 1;
    else
        atomic_add(count, 1u);
    sync_block();
    y[threadIdx.x] = *count;
}

static void atomic_races()
{
    device_array<unsigned> y(64);
    expect("race", 1, atomic_kernel, 1, 64, 4, y.device);
}

/* ---- deadlocks and warps that part ------------------------------------------------------------------------------- */

__global__ void deadlock_kernel(float *y, int bug)
{
    uint64_t *barrier = (uint64_t *)dynamic_shared();
    unsigned i = threadIdx.x;
    if (i == 0)
        mbarrier_init(barrier, 64);
    if (bug == 1 && i == 40)
        return;
    sync_block();
    if (bug == 3 && i == 0)
        mbarrier_expect(barrier, 16);
    else if (bug != 2 || i >= 3)
        mbarrier_arrive(barrier);
    mbarrier_wait(barrier, 0);
    if (bug == 4 && i < 32)
        sync_threads(1, 64);
    if (bug == 5)
        sync_threads(1, i < 32 ? 32 : 64);
    y[i] = 1;
}

static void deadlocks()
{
    device_array<float> y(64);
    expect("deadlock: threads 0 to 39 wait for barrier 0 of 64 threads; threads 40 to 40 have ended", 1, deadlock_kernel, 1, 64,
           8, y.device);
    expect("deadlock: threads 0 to 63 wait for phase 0 of the mbarrier", 2, deadlock_kernel, 1, 64, 8, y.device);
    expect("0 arrivals and 16 bytes to come", 3, deadlock_kernel, 1, 64, 8, y.device);
    expect("deadlock: threads 0 to 31 wait for barrier 1 of 64 threads; threads 32 to 63 have ended", 4, deadlock_kernel, 1,
           64, 8, y.device);
    expect("barrier 1", 5, deadlock_kernel, 1, 64, 8, y.device);
}

__global__ void warp_kernel(float *y, int bug)
{
    unsigned i = threadIdx.x;
    float x = (float)i;
    if (bug == 1 && i == 5)
        sync_warp();
    else if (bug == 2 && i == 5)
        return;
    else if (bug == 3)
        x = i < 16 ? shuffle(x, 20, 0xffff) : x;
    else if (bug == 4)
        x = shuffle(x, 0, 0xffff);
    else
        x = shuffle(x, 0);
    if (bug != 3)
        sync_warp();
    y[i] = x;
}

static void warps_that_part()
{
    device_array<float> y(32);
    expect("the warp diverges", 1, warp_kernel, 1, 32, 0, y.device);
    expect("deadlock", 2, warp_kernel, 1, 32, 0, y.device);
    expect("which is not in the mask", 3, warp_kernel, 1, 32, 0, y.device);
    expect("leaves out its own lane", 4, warp_kernel, 1, 32, 0, y.device);
}

/* ---- cp.async ---------------------------------------------------------------------------------------------------- */

__global__ void copy_kernel(const uint4 *x, uint4 *y, int bug)
{
    uint4 *buffer = (uint4 *)dynamic_shared();
    unsigned i = threadIdx.x;
    copy_async(buffer + i, x + i);
    if (bug != 1)
        copy_async_commit();
    if (bug == 2)
        copy_async_wait<1>();
    else if (bug != 3)
        copy_async_wait<0>();
    if (bug != 4)
        sync_block();
    y[i] = buffer[31 - i];
    if (bug == 5)
        copy_async(buffer + i, x + i); /* others still read */
    if (bug == 6 && i == 0)
        copy_async((char *)(buffer + i) + 8, x + i);
    if (bug == 7) {
        sync_block();
        copy_async(buffer + i, x + i + 1);
    }
    copy_async_commit();
    copy_async_wait<0>();
}

static void missing_copy_waits()
{
    device_array<uint32_t> x(128), y(128);
    x.upload();
    const char *text[] = {"has not landed", "has not landed", "has not landed", "", "race", "no multiple", "out of bounds"};
    for (int bug = 1; bug <= 7; bug++)
        expect(text[bug - 1], bug, copy_kernel, 1, 32, 512, (const uint4 *)x.device, (uint4 *)y.device);
}

/* ---- bulk copies ------------------------------------------------------------------------------------------------- */

struct box_shared {
    uint16_t box[16 * 64]; /* at a multiple of 1024 */
    uint64_t full, empty;
};

__global__ void box_kernel(const __grid_constant__ tensor_map map, uint16_t *y, int bug)
{
    unsigned char *p = (unsigned char *)dynamic_shared();
    box_shared *s = (box_shared *)(p + (bug == 1 ? 0 : (1024 - shared_address(p) % 1024) % 1024));
    unsigned i = threadIdx.x;
    if (i == 0) {
        mbarrier_init(&s->full, 1);
        mbarrier_init(&s->empty, 63);
        if (bug != 2)
            fence_async_proxy();
    }
    sync_block();
    for (unsigned turn = 0; turn < 2; turn++) {
        if (i == 0) {
            if (turn && bug != 3)
                mbarrier_wait(&s->empty, 0);
            mbarrier_expect(&s->full, bug == 4 ? sizeof s->box + 2 : sizeof s->box);
            load_box(s->box, &map, &s->full, 0, 0, 0, 0);
        } else {
            if (bug != 6)
                mbarrier_wait(&s->full, turn);
            if (!turn && bug == 5)
                mbarrier_arrive(&s->empty);
            y[i] = s->box[i];
            if (!turn && bug != 5)
                mbarrier_arrive(&s->empty);
        }
    }
    if (bug == 7) {
        sync_block();
        if (i == 0)
            load_box(s->box, &map, &s->full, 0, 0, 0, 0);
    }
}

__global__ void store_kernel(const __grid_constant__ tensor_map map, int bug)
{
    unsigned char *p = (unsigned char *)dynamic_shared();
    uint16_t *box = (uint16_t *)(p + (1024 - shared_address(p) % 1024) % 1024);
    unsigned i = threadIdx.x;
    for (unsigned j = i; j < 16 * 64; j += 64)
        box[j] = (uint16_t)j;
    if (bug != 1)
        fence_async_proxy();
    if (bug != 2)
        sync_block();
    if (i == 0) {
        store_box(&map, box, 0, 0, 0, 0);
        store_commit();
        if (bug == 3)
            box[5] = 1;
        if (bug != 4)
            store_wait<0>();
    }
    if (bug == 5)
        box[i] = 1;
}

static void bulk_copies()
{
    device_array<uint16_t> x(16 * 64), y(64);
    x.upload();
    const uint64_t extent[4] = {64, 1, 16, 1}, stride[4] = {0, 128, 128, 2048};
    const uint32_t box[4] = {64, 1, 16, 1};
    tensor_map map;
    REQUIRE(!make_tensor_map(&map, x.device, extent, stride, box));
    const char *loads[] = {"no multiple of 1024", "without a proxy fence", "more than 1 arrivals", "deadlock", "", "",
                           "in flight"};
    for (int bug = 1; bug <= 7; bug++)
        expect(loads[bug - 1], bug, box_kernel, 1, 64, sizeof(box_shared) + 1024, map, y.device);
    const char *stores[] = {"without a proxy fence", "", "", "without waiting", "race"};
    for (int bug = 1; bug <= 5; bug++)
        expect(stores[bug - 1], bug, store_kernel, 1, 64, 3072, map);
}

/* ---- wgmma ------------------------------------------------------------------------------------------------------- */

__global__ void wgmma_kernel(float *y, int bug)
{
    unsigned char *p = (unsigned char *)dynamic_shared();
    uint16_t *a = (uint16_t *)(p + (1024 - shared_address(p) % 1024) % 1024), *b = a + 64 * 64;
    unsigned i = threadIdx.x;
    for (unsigned j = i; j < 64 * 64; j += 128)
        a[j] = b[j] = 0x3f80; /* 1 */
    if (bug != 1)
        fence_async_proxy();
    if (bug != 2)
        sync_block();
    float d[32];
    uint64_t da = matrix_descriptor(a, 16), db = matrix_descriptor(b, 16);
    if (bug != 3)
        products_begin();
    multiply_shared<64, false>(d, da, db);
    for (unsigned k = 1; k < 4; k++)
        multiply_shared<64>(d, advance(da, k * 32), advance(db, bug == 4 ? k * 128 : k * 32));
    products_commit();
    if (bug == 5) /* what the product still reads */
        b[i] = 0;
    if (bug != 6)
        products_wait<0>(d);
    uint32_t weights[4] = {pack_bf16(d[0], d[1]), pack_bf16(d[2], d[3]), pack_bf16(d[4], d[5]), pack_bf16(d[6], d[7])};
    float o[32] = {0};
    products_begin();
    multiply_registers<64>(o, weights, matrix_descriptor(b, 16));
    products_commit();
    if (bug == 7)
        weights[0] = 0;
    products_wait<0>(o);
    if (bug == 8 && i == 77)
        multiply_shared<64, false>(d, da, db);
    y[i] = d[0] + o[0];
}

static void warpgroup_products()
{
    device_array<float> y(128);
    const char *text[] = {"without a proxy fence", "", "without a wgmma.fence", "inside a swizzle atom", "race", nullptr,
                          "registers of A changed", "without a wgmma.fence"};
    for (int bug = 1; bug <= 8; bug++)
        if (text[bug - 1])
            expect(text[bug - 1], bug, wgmma_kernel, 1, 128, 64 * 64 * 4 + 1024, y.device);
    /* Read too early, the sums are NaNs. */
    CHECK(!device_finish(launch(wgmma_kernel, 1, 128, 64 * 64 * 4 + 1024, nullptr, y.device, 0)));
    y.download();
    for (int i = 0; i < 128; i++)
        CHECK(y.host[i] == 64 + 16 * 64);
    CHECK(!device_finish(launch(wgmma_kernel, 1, 128, 64 * 64 * 4 + 1024, nullptr, y.device, 6)));
    y.download();
    for (int i = 0; i < 128; i++)
        CHECK(y.host[i] != y.host[i]);
}

/* ---- streams, graphs, copies that overlap -------------------------------------------------------------------------- */

__global__ void move_kernel(float *y, const float *x)
{
    y[threadIdx.x] = x[threadIdx.x];
}

/* A graph keeps the addresses that it recorded: memory that is gone, or that is no longer what is looked at. */
static void stale_graphs()
{
    device_array<float> x(32), y(32);
    float *moved = (float *)emulator::allocate(128);
    void *stream, *graph;
    x.upload();
    CHECK(!emulator::stream_create(&stream));
    for (int round = 0; round < 2; round++) {
        CHECK(!emulator::graph_begin(stream));
        CHECK(!launch(move_kernel, 1, 32, 0, stream, moved, (const float *)x.device));
        CHECK(!launch(move_kernel, 1, 32, 0, stream, y.device, (const float *)moved));
        CHECK(!emulator::graph_end(stream, &graph));
        CHECK(!emulator::graph_launch(graph, stream));
        emulator::release(moved);
        if (round == 0) {
            CHECK(emulator::graph_launch(graph, stream) != 0);
            CHECK(reported("which is no memory of the device"));
        }
        float *other = (float *)emulator::allocate(4096); /* not where the old one was */
        moved = (float *)emulator::allocate(128);
        if (round == 1) { /* what the graph makes does not come to where it is looked for */
            CHECK(launch(move_kernel, 1, 32, 0, stream, y.device, (const float *)other) != 0);
            CHECK(reported("which nobody has written"));
        }
        emulator::release(other);
        emulator::graph_destroy(graph);
    }
    emulator::release(moved);
    emulator::stream_destroy(stream);
}

/* What spoils a recording. */
static void spoilt_graphs()
{
    device_array<float> x(32), y(32);
    void *stream, *mark, *graph;
    x.upload();
    CHECK(!emulator::stream_create(&stream) && !emulator::mark_create(&mark));
    for (int bug = 0; bug < 5; bug++) {
        CHECK(!emulator::graph_begin(stream));
        CHECK(!launch(move_kernel, 1, 32, 0, stream, y.device, (const float *)x.device));
        CHECK(bug != 1 || (emulator::settle(stream) && reported("the host waits while a stream is captured")));
        CHECK(bug != 2 || (emulator::put_mark(mark, stream) && reported("a mark while")));
        CHECK(bug != 3 || (emulator::copy_later(y.device, x.host, 4, stream) && reported("a copy from the host")));
        CHECK(bug != 4 || (emulator::forbidden("an allocation") && reported("an allocation while")));
        CHECK((emulator::graph_end(stream, &graph) != 0) == (bug != 0) && (graph != nullptr) == (bug == 0));
        emulator::graph_destroy(graph);
    }
    CHECK(!emulator::forbidden("an allocation"));
    CHECK(emulator::graph_end(stream, &graph) != 0);
    emulator::mark_destroy(mark);
    emulator::stream_destroy(stream);
}

/* Copies on a stream of their own, used by kernels of another. bug 1: the kernel does not wait for the copy; 2: the next copy
 * does not wait for the kernel. */
static int overlap(int bug, float *y, float *host, void *copies, void *kernels, void *copied, void *used)
{
    float *x = (float *)emulator::allocate(128);
    int status = 0;
    for (int round = 1; round <= 2 && !status; round++) {
        status = emulator::mark_wait(copied);
        for (int i = 0; i < 32; i++)
            host[i] = (float)round;
        if (!status && bug != 2)
            status = emulator::stream_wait(copies, used);
        if (!status)
            status = emulator::copy_later(x, host, 128, copies) || emulator::put_mark(copied, copies);
        if (!status && bug != 1)
            status = emulator::stream_wait(kernels, copied);
        if (!status)
            status = launch(move_kernel, 1, 32, 0, kernels, y + 32 * (round - 1), (const float *)x) ||
                     emulator::put_mark(used, kernels);
    }
    int first = emulator::settle(copies), second = emulator::settle(kernels);
    emulator::release(x);
    return status || first || second;
}

static void missing_stream_waits()
{
    device_array<float> y(64);
    void *copies, *kernels, *copied, *used;
    CHECK(!emulator::stream_create(&copies) && !emulator::stream_create(&kernels));
    CHECK(!emulator::mark_create(&copied) && !emulator::mark_create(&used));
    float *host = (float *)aligned_alloc(4096, 4096);
    REQUIRE(host && !emulator::pin(host, 4096));
    for (int lag = 0; lag < 2; lag++) {
        emulator::lag_kernels(lag != 0);
        for (int bug = 0; bug < 3; bug++) {
            int status = overlap(bug, y.device, host, copies, kernels, copied, used);
            y.download();
            bool right = !status && y.host[0] == 1 && y.host[32] == 2;
            CHECK(right || bug);
            CHECK(bug != 1 || lag || (status && reported("which nobody has written")));
            CHECK(bug != 2 || !lag || !right); /* the first kernel sees the second copy */
        }
    }
    emulator::lag_kernels(false);
    emulator::unpin(host);
    free(host);
    emulator::mark_destroy(copied);
    emulator::mark_destroy(used);
    emulator::stream_destroy(copies);
    emulator::stream_destroy(kernels);
}

/* Filled again while a copy from it has not been done. */
static void changed_while_copied()
{
    device_array<float> x(32);
    void *stream;
    float *host = (float *)aligned_alloc(4096, 4096);
    CHECK(!emulator::stream_create(&stream));
    REQUIRE(host && !emulator::pin(host, 4096));
    for (int bug = 0; bug < 2; bug++) {
        memset(host, 0, 4096);
        CHECK(!emulator::copy_later(x.device, host, 128, stream));
        host[bug ? 31 : 32] = 1;
        CHECK((emulator::settle(stream) != 0) == (bug != 0));
        CHECK(!bug || reported("the host has changed memory while a copy from it was under way"));
    }
    emulator::unpin(host);
    free(host);
    emulator::stream_destroy(stream);
}

/* ---- hosts that follow device pointers ----------------------------------------------------------------------------- */

/* A child's, whose memory is hidden. Nothing of the device is under way when the host looks; bug 1 reads, 2 writes, behind an
 * allocation of many pages, a copy and a kernel, each of which opens the memory for itself. */
[[noreturn]] static void look(int bug)
{
    signal(SIGSEGV, SIG_DFL);
    emulator::hide_memory(true);
    float *x = (float *)emulator::allocate((size_t)3 << 20), *y = (float *)emulator::allocate(128), host[32] = {};
    emulator::copy_in(x, host, sizeof host);
    if (launch(move_kernel, 1, 32, 0, nullptr, y, (const float *)x))
        _exit(1);
    volatile float *followed = bug == 2 ? y : x + (2 << 18);
    if (bug == 1)
        host[1] = *followed;
    if (bug == 2)
        *followed = 1;
    emulator::copy_out(host, y, sizeof host);
    emulator::release(x);
    if (bug == 3) /* what is free again */
        host[1] = *followed;
    _exit(host[0] != 0);
}

static void hidden_memory()
{
    for (int bug = 0; bug < 4; bug++) {
        pid_t child = fork();
        if (!child)
            look(bug);
        int status = 0;
        REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
        CHECK(bug ? WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV : WIFEXITED(status) && !WEXITSTATUS(status));
    }
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"shared bounds", shared_bounds}, {"index bounds", index_bounds}, {"global bounds", global_bounds}, {"races", races},
        {"warp races", warp_races}, {"global races", global_races}, {"atomic races", atomic_races},
        {"deadlocks", deadlocks}, {"warps that part", warps_that_part}, {"missing copy waits", missing_copy_waits},
        {"bulk copies", bulk_copies}, {"warpgroup products", warpgroup_products},
        {"stale graphs", stale_graphs}, {"spoilt graphs", spoilt_graphs}, {"missing stream waits", missing_stream_waits},
        {"changed while copied", changed_while_copied}, {"hidden memory", hidden_memory},
    };
    return test_main("cuda/detectors", cases, sizeof cases / sizeof *cases, argc, argv);
}
