/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/cudnn.cuh"

#include "kernels/cuda/library.cuh"
#include "kernels/cuda/product.cuh"

/* cuDNN, opened at run time, for large convolutions in bf16, with sums in f32. What it is asked for is planned once a shape and
 * kept. Everything of it may fail; then the caller's own kernel computes. */

#define PLANS 128 /* in a video VAE a clip's first and second frames, and last pieces, have shapes of their own */
#define CONFIGS 8 /* that are tried for a shape */
#define IDS 3
#define TRIES 3 /* for a handle; it takes long to fail */

enum { X = 1, W, Y }; /* tensors, by their numbers */
#define MOST 24 /* descriptors that make a plan */

struct dnn_plan {
    dnn_convolution shape; /* compared by its fields, but for the pointers */
    dnn_descriptor plan; /* NULL: cuDNN does not do it */
};

/* In the caller's memory. */
struct convolver {
    void *file;
    dnn_handle handle; /* made for the first convolution */
    int failed; /* how often there was no handle to be had since it was opened last */
    dnn_functions dnn;
    dnn_plan plans[PLANS];
    unsigned count; /* plans made; they take turns once all places are taken */
    uint64_t started;
};

/* ---- opening ----------------------------------------------------------------------------------------------------- */

size_t imagine__cuda_convolutions_size()
{
    return sizeof(convolver);
}

int imagine__cuda_convolutions_open(void *memory, char *reason, size_t size)
{
    static const char file[] = "libcudnn.so.9";
    static const char *const names[] = {
        "cudnnCreate", "cudnnDestroy", "cudnnSetStream", "cudnnBackendCreateDescriptor", "cudnnBackendDestroyDescriptor",
        "cudnnBackendSetAttribute", "cudnnBackendGetAttribute", "cudnnBackendFinalize", "cudnnBackendExecute",
    };
    convolver *c = (convolver *)memory;
    reasons why = {reason, size, 0};
    beside_recordings beside;
    if (size)
        reason[0] = 0;
    c->failed = 0;
    if (c->file)
        return true;
    static_assert(sizeof names == sizeof c->dnn && sizeof(void *) == sizeof c->dnn.Create, "a name for each function");
    if (device_capability() < 80) { /* without a GPU it opens, and fails later */
        add_reason(&why, file, "there is no GPU that it is for");
        return false;
    }
    c->file = open_library(file, names, sizeof names / sizeof *names, (void **)&c->dnn, &why);
    if (!c->file)
        *c = {};
    return c->file != nullptr;
}

static void drop(const dnn_functions &dnn, dnn_descriptor *d)
{
    if (*d)
        (void)dnn.BackendDestroyDescriptor(*d);
    *d = nullptr;
}

static void drop_plan(const dnn_functions &dnn, dnn_plan *plan)
{
    drop(dnn, &plan->plan);
    *plan = {};
}

void imagine__cuda_convolutions_close(void *memory)
{
    convolver *c = (convolver *)memory;
    if (!c || !c->file)
        return;
    beside_recordings beside;
    for (dnn_plan &plan : c->plans)
        drop_plan(c->dnn, &plan);
    if (c->handle)
        (void)c->dnn.Destroy(c->handle);
    close_library(c->file);
    *c = {};
}

static bool handle_there(convolver *c)
{
    beside_recordings beside;
    if (!c->handle && c->failed < TRIES && c->dnn.Create(&c->handle) != 0) {
        c->handle = nullptr;
        c->failed++; /* perhaps for once: memory may be short, or somebody else's recording in the way */
    }
    return c->handle != nullptr;
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

/* The descriptors that describe a convolution, until its plan is made. The first failure is kept. */
struct builder {
    const dnn_functions &dnn;
    dnn_descriptor made[MOST];
    int count;
    bool good;
};

static dnn_descriptor create(builder *b, int kind)
{
    dnn_descriptor d = nullptr;
    b->good = b->good && b->count < MOST && b->dnn.BackendCreateDescriptor(kind, &d) == 0;
    if (b->good)
        b->made[b->count++] = d;
    return b->good ? d : nullptr;
}

static void set(builder *b, dnn_descriptor d, int attribute, int type, int64_t count, const void *values)
{
    b->good = b->good && b->dnn.BackendSetAttribute(d, attribute, type, count, values) == 0;
}

static void set_number(builder *b, dnn_descriptor d, int attribute, int type, int value)
{
    set(b, d, attribute, type, 1, &value);
}

static void set_descriptor(builder *b, dnn_descriptor d, int attribute, dnn_descriptor value)
{
    set(b, d, attribute, DNN_T_DESCRIPTOR, 1, &value);
}

static dnn_descriptor finalize(builder *b, dnn_descriptor d)
{
    b->good = b->good && b->dnn.BackendFinalize(d) == 0;
    return d;
}

static void drop_all(builder *b)
{
    while (b->count)
        drop(b->dnn, &b->made[--b->count]);
}

#define DIMS 5 /* batch, channels, frames, height, width; without the frames for a convolution of one */

/* Extents and strides; pictures with channels that lie last, `pixel` values from pixel to pixel. */
struct layout {
    int64_t extent[DIMS], stride[DIMS];
};

static layout channels_last(int64_t batch, int64_t channels, int64_t frames, int64_t height, int64_t width, int64_t pixel)
{
    return {{batch, channels, frames, height, width}, {frames * height * width * pixel, 1, height * width * pixel,
                                                       width * pixel, pixel}};
}

static dnn_descriptor tensor(builder *b, int64_t id, layout l, int dims)
{
    const int64_t alignment = 16;
    dnn_descriptor d = create(b, DNN_TENSOR);
    for (int i = 2; i < dims; i++) /* without the frames */
        l.extent[i] = l.extent[i + DIMS - dims], l.stride[i] = l.stride[i + DIMS - dims];
    set_number(b, d, DNN_TENSOR_TYPE, DNN_T_DATA_TYPE, DNN_BF16);
    set(b, d, DNN_TENSOR_EXTENTS, DNN_T_INT64, dims, l.extent);
    set(b, d, DNN_TENSOR_STRIDES, DNN_T_INT64, dims, l.stride);
    set(b, d, DNN_TENSOR_ID, DNN_T_INT64, 1, &id);
    set(b, d, DNN_TENSOR_ALIGNMENT, DNN_T_INT64, 1, &alignment);
    return finalize(b, d);
}

static dnn_descriptor kernel_of(builder *b, const dnn_convolution &a, int dims)
{
    const int64_t spatial = dims - 2, first = 5 - dims;
    const int64_t ones[3] = {1, 1, 1}, strides[3] = {1, a.stride_h, a.stride_w}, before[3] = {0, a.pad_top, a.pad_left};
    const int64_t after[3] = {0, a.pad_bottom, a.pad_right};
    dnn_descriptor d = create(b, DNN_CONVOLUTION);
    set_number(b, d, DNN_CONVOLUTION_PRECISION, DNN_T_DATA_TYPE, DNN_F32);
    set_number(b, d, DNN_CONVOLUTION_MODE, DNN_T_CONVOLUTION_MODE, DNN_CROSS_CORRELATION);
    set(b, d, DNN_CONVOLUTION_DIMS, DNN_T_INT64, 1, &spatial);
    set(b, d, DNN_CONVOLUTION_DILATIONS, DNN_T_INT64, spatial, ones);
    set(b, d, DNN_CONVOLUTION_STRIDES, DNN_T_INT64, spatial, strides + first);
    set(b, d, DNN_CONVOLUTION_PAD_BEFORE, DNN_T_INT64, spatial, before + first);
    set(b, d, DNN_CONVOLUTION_PAD_AFTER, DNN_T_INT64, spatial, after + first);
    return finalize(b, d);
}

/* The convolution alone, summed in f32 and written as bf16, as PyTorch asks for it: for this cuDNN has kernels for every kind of GPU.
 * With a bias, a term or a result in f32 its engines are compiled at run time, a quarter of a second or more for each shape, or are
 * those of an older GPU. */
static dnn_descriptor graph_of(builder *b, const dnn_handle handle, const dnn_convolution &a)
{
    const int dims = a.frames > 1 ? 5 : 4;
    const float one = 1, zero = 0;
    layout in = {{1, a.cin, a.frames, a.height, a.width}, {a.frames * a.frame, 1, a.frame, a.line, a.cin}};
    dnn_descriptor x = tensor(b, X, in, dims);
    dnn_descriptor w = tensor(b, W, channels_last(a.cout, a.cin, a.frames, a.kh, a.kw, a.cin), dims);
    dnn_descriptor y = tensor(b, Y, channels_last(1, a.cout, 1, a.out_h, a.out_w, a.ldy), dims);
    dnn_descriptor forward = create(b, DNN_FORWARD);
    set_descriptor(b, forward, DNN_FORWARD_CONVOLUTION, kernel_of(b, a, dims));
    set_descriptor(b, forward, DNN_FORWARD_X, x);
    set_descriptor(b, forward, DNN_FORWARD_W, w);
    set_descriptor(b, forward, DNN_FORWARD_Y, y);
    set(b, forward, DNN_FORWARD_ALPHA, DNN_T_FLOAT, 1, &one);
    set(b, forward, DNN_FORWARD_BETA, DNN_T_FLOAT, 1, &zero);
    finalize(b, forward);
    dnn_descriptor graph = create(b, DNN_GRAPH);
    set(b, graph, DNN_GRAPH_HANDLE, DNN_T_HANDLE, 1, &handle);
    set_descriptor(b, graph, DNN_GRAPH_OPERATIONS, forward);
    return finalize(b, graph);
}

/* ---- plans ------------------------------------------------------------------------------------------------------- */

/* Whether the engine computes what is wanted: on tensor cores, where our own kernel does, with sums in f32, in one way. */
static bool fits(builder *b, dnn_descriptor config)
{
    int32_t notes[16];
    int64_t count = 0;
    dnn_descriptor engine = create(b, DNN_ENGINE);
    bool good = engine && b->dnn.BackendGetAttribute(config, DNN_CONFIG_ENGINE, DNN_T_DESCRIPTOR, 1, &count, &engine) == 0 &&
                b->dnn.BackendGetAttribute(engine, DNN_ENGINE_NOTES, DNN_T_NOTE, 16, &count, notes) == 0;
    bool fast = false;
    for (int64_t i = 0; i < count && i < 16 && good; i++) {
        fast = fast || notes[i] == DNN_TENSOR_CORES;
        good = notes[i] != DNN_REDUCED_SUMS && notes[i] != DNN_FFT && notes[i] != DNN_NONDETERMINISTIC &&
               (notes[i] < DNN_WINOGRAD || notes[i] > DNN_WINOGRAD_13);
    }
    return good && fast;
}

/* A plan by this configuration, if it is one that fits; else NULL. */
static dnn_descriptor try_config(const convolver *c, dnn_descriptor config, uint64_t room)
{
    builder b = {c->dnn, {}, 0, true};
    int64_t workspace = 0, count = 0;
    dnn_descriptor plan = nullptr;
    if (fits(&b, config)) {
        plan = create(&b, DNN_PLAN);
        set(&b, plan, DNN_PLAN_HANDLE, DNN_T_HANDLE, 1, &c->handle);
        set_descriptor(&b, plan, DNN_PLAN_CONFIG, config);
        finalize(&b, plan);
        b.good = b.good && c->dnn.BackendGetAttribute(plan, DNN_PLAN_WORKSPACE, DNN_T_INT64, 1, &count, &workspace) == 0;
        b.good = b.good && (uint64_t)workspace <= room;
        if (b.good)
            b.made[--b.count] = nullptr; /* the caller's */
    }
    bool good = b.good && plan;
    drop_all(&b);
    return good ? plan : nullptr;
}

/* The first configuration of those that the heuristic offers. */
static dnn_descriptor choose(const convolver *c, dnn_descriptor graph, int mode, uint64_t room)
{
    builder b = {c->dnn, {}, 0, true};
    dnn_descriptor configs[CONFIGS], plan = nullptr, heuristic = create(&b, DNN_HEURISTIC);
    int64_t count = 0;
    set_descriptor(&b, heuristic, DNN_HEURISTIC_GRAPH, graph);
    set_number(&b, heuristic, DNN_HEURISTIC_MODE, DNN_T_HEURISTIC_MODE, mode);
    finalize(&b, heuristic);
    for (int i = 0; i < CONFIGS; i++)
        configs[i] = create(&b, DNN_CONFIG);
    b.good = b.good && c->dnn.BackendGetAttribute(heuristic, DNN_HEURISTIC_RESULTS, DNN_T_DESCRIPTOR, CONFIGS, &count,
                                                  configs) == 0;
    for (int64_t i = 0; i < count && i < CONFIGS && b.good && !plan; i++)
        plan = try_config(c, configs[i], room);
    drop_all(&b);
    return plan;
}

static dnn_descriptor make_plan(const convolver *c, const dnn_convolution &shape)
{
    static const int modes[] = {DNN_BEST, DNN_FAST, DNN_FALLBACK};
    builder b = {c->dnn, {}, 0, true};
    dnn_descriptor graph = graph_of(&b, c->handle, shape), plan = nullptr;
    for (int mode : modes)
        if (b.good && !plan)
            plan = choose(c, graph, mode, shape.workspace_size);
    drop_all(&b);
    return plan;
}

static bool same_shape(const dnn_convolution &a, const dnn_convolution &b)
{
    return a.cin == b.cin && a.cout == b.cout && a.height == b.height && a.width == b.width && a.out_h == b.out_h &&
           a.out_w == b.out_w && a.ldy == b.ldy && a.frame == b.frame && a.line == b.line && a.frames == b.frames && a.kh == b.kh &&
           a.kw == b.kw && a.stride_h == b.stride_h && a.stride_w == b.stride_w && a.pad_top == b.pad_top &&
           a.pad_left == b.pad_left && a.pad_bottom == b.pad_bottom && a.pad_right == b.pad_right &&
           a.workspace_size == b.workspace_size;
}

/* The plan for a shape, perhaps one that says that there is none. */
static dnn_plan *plan_for(convolver *c, const dnn_convolution &shape)
{
    for (dnn_plan &plan : c->plans)
        if (same_shape(plan.shape, shape))
            return &plan;
    dnn_plan *plan = &c->plans[c->count++ % PLANS];
    beside_recordings beside; /* engines are loaded */
    drop_plan(c->dnn, plan);
    plan->shape = shape;
    plan->plan = make_plan(c, shape);
    return plan;
}

/* ---- convolutions ------------------------------------------------------------------------------------------------ */

bool imagine__cuda_convolutions_there(const void *memory)
{
    return memory && ((const convolver *)memory)->file;
}

uint64_t imagine__cuda_convolutions_started(const void *memory)
{
    return ((const convolver *)memory)->started;
}

/* Says where the tensors of this call lie. It is final once it is filled: each call has a new one. */
static bool fill_pack(const dnn_functions &dnn, dnn_descriptor pack, const dnn_convolution &a)
{
    const int64_t ids[IDS] = {X, W, Y};
    const void *pointers[IDS] = {a.x, a.w, a.y};
    return dnn.BackendSetAttribute(pack, DNN_PACK_IDS, DNN_T_INT64, IDS, ids) == 0 &&
           dnn.BackendSetAttribute(pack, DNN_PACK_POINTERS, DNN_T_POINTER, IDS, pointers) == 0 &&
           dnn.BackendSetAttribute(pack, DNN_PACK_WORKSPACE, DNN_T_POINTER, 1, &a.workspace) == 0 &&
           dnn.BackendFinalize(pack) == 0;
}

bool imagine__cuda_convolve(void *memory, const dnn_convolution &a, void *stream)
{
    convolver *c = (convolver *)memory;
    if (!handle_there(c) || c->dnn.SetStream(c->handle, stream) != 0)
        return false;
    dnn_plan *plan = plan_for(c, a);
    dnn_descriptor pack = nullptr;
    bool good = plan->plan && c->dnn.BackendCreateDescriptor(DNN_PACK, &pack) == 0 && fill_pack(c->dnn, pack, a) &&
                c->dnn.BackendExecute(c->handle, plan->plan, pack) == 0;
    drop(c->dnn, &pack);
    c->started += good;
    return good;
}
