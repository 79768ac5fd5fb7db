/* SPDX-License-Identifier: MIT */
#include <cstdio>
#include <cstdlib>
#include <map>
#include <thread>
#include <vector>

#include "internal.h"
#include "kernels/cuda/cudnn.cuh"

/* cuDNN's graph interface as its manual has it, as far as kernels/cuda/cudnn.cu uses it: descriptors keep what they are given,
 * and a plan computes on the host from what its graph's descriptors say. Descriptors that are still there when the handle goes
 * are a fault, as is whatever the manual forbids. */

struct dnn_opaque {
    void *stream;
    std::thread::id user; /* of the thread that has set it */
};

namespace emulator {

static bool is_there;
static int left, started, alive, handles;

enum { BAD_PARAM = 2000, NOT_SUPPORTED = 3000, FAILED = 5000 };

struct attribute {
    int type;
    std::vector<unsigned char> bytes;
};

struct descriptor {
    int kind;
    bool final, destroyed;
    std::map<int, attribute> set;
    std::vector<int32_t> notes; /* of an engine */
    int64_t workspace; /* of a configuration */
};

/* Plans still know what they were made of. */
static std::vector<descriptor *> gone;

static void forget_gone()
{
    for (descriptor *d : gone)
        delete d;
    gone.clear();
}

static bool call_fails()
{
    return left-- <= 0;
}

static size_t size_of(int type)
{
    switch (type) {
    case DNN_T_INT64:
    case DNN_T_HANDLE:
    case DNN_T_POINTER:
    case DNN_T_DESCRIPTOR:
        return 8;
    default:
        return 4;
    }
}

/* Values of an attribute; none where it was not set or is of another type. */
template <class T> static std::vector<T> values(const descriptor *d, int name, int type)
{
    auto found = d->set.find(name);
    std::vector<T> result;
    if (found == d->set.end() || found->second.type != type)
        return result;
    result.resize(found->second.bytes.size() / sizeof(T));
    memcpy(result.data(), found->second.bytes.data(), result.size() * sizeof(T));
    return result;
}

template <class T> static T value(const descriptor *d, int name, int type, T otherwise)
{
    std::vector<T> all = values<T>(d, name, type);
    return all.size() == 1 ? all[0] : otherwise;
}

/* The descriptor under a name, final and of a kind; or NULL. */
static const descriptor *under(const descriptor *d, int name, int kind)
{
    auto *found = d ? (const descriptor *)value<void *>(d, name, DNN_T_DESCRIPTOR, nullptr) : nullptr;
    return found && found->final && found->kind == kind ? found : nullptr;
}

/* ---- handles and descriptors ------------------------------------------------------------------------------------- */

static int create_handle(dnn_handle *handle)
{
    if (unsafe("cuDNN makes a handle") || call_fails())
        return FAILED;
    *handle = new dnn_opaque{nullptr, {}};
    alive++;
    handles++;
    return 0;
}

static int destroy_handle(dnn_handle handle)
{
    if (unsafe("cuDNN drops a handle"))
        return FAILED; /* it is lost */
    delete handle;
    alive--;
    if (alive)
        fprintf(stderr, "emulator: cuDNN's handle goes before %d descriptors\n", alive), exit(1);
    forget_gone();
    return 0;
}

static int set_stream(dnn_handle handle, void *stream)
{
    if (call_fails())
        return FAILED;
    handle->stream = stream;
    handle->user = std::this_thread::get_id();
    return 0;
}

static int create_descriptor(int kind, dnn_descriptor *made)
{
    if (call_fails())
        return FAILED;
    *made = new descriptor{kind, false, false, {}, {}, 0};
    alive++;
    return 0;
}

static int destroy_descriptor(dnn_descriptor d)
{
    auto *old = (descriptor *)d;
    if (old->destroyed)
        fprintf(stderr, "emulator: a descriptor of cuDNN is destroyed twice\n"), exit(1);
    old->destroyed = true;
    gone.push_back(old);
    alive--;
    return 0;
}

static int set_attribute(dnn_descriptor to, int name, int type, int64_t count, const void *given)
{
    auto *d = (descriptor *)to;
    if (call_fails() || !d || d->final || d->destroyed || !given || count < 1)
        return BAD_PARAM;
    auto *bytes = (const unsigned char *)given;
    d->set[name] = {type, {bytes, bytes + (size_t)count * size_of(type)}};
    return 0;
}

/* ---- what a descriptor must have, once it is final ----------------------------------------------------------------- */

static bool good_tensor(const descriptor *d)
{
    auto extents = values<int64_t>(d, DNN_TENSOR_EXTENTS, DNN_T_INT64), strides = values<int64_t>(d, DNN_TENSOR_STRIDES, DNN_T_INT64);
    int type = value<int32_t>(d, DNN_TENSOR_TYPE, DNN_T_DATA_TYPE, -1);
    bool good = type == DNN_BF16 && extents.size() == strides.size() &&
                (extents.size() == 4 || extents.size() == 5) && strides[1] == 1 &&
                value<int64_t>(d, DNN_TENSOR_ID, DNN_T_INT64, -1) >= 0 &&
                value<int64_t>(d, DNN_TENSOR_ALIGNMENT, DNN_T_INT64, 0) == 16;
    for (size_t i = 0; i < extents.size() && good; i++)
        good = extents[i] > 0 && strides[i] > 0;
    return good;
}

static bool good_convolution(const descriptor *d)
{
    size_t dims = (size_t)value<int64_t>(d, DNN_CONVOLUTION_DIMS, DNN_T_INT64, 0);
    bool good = (dims == 2 || dims == 3) && value<int32_t>(d, DNN_CONVOLUTION_PRECISION, DNN_T_DATA_TYPE, -1) == DNN_F32 &&
                value<int32_t>(d, DNN_CONVOLUTION_MODE, DNN_T_CONVOLUTION_MODE, -1) == DNN_CROSS_CORRELATION;
    for (int64_t dilation : values<int64_t>(d, DNN_CONVOLUTION_DILATIONS, DNN_T_INT64))
        good = good && dilation == 1;
    for (int name : {DNN_CONVOLUTION_DILATIONS, DNN_CONVOLUTION_STRIDES, DNN_CONVOLUTION_PAD_BEFORE, DNN_CONVOLUTION_PAD_AFTER}) {
        auto all = values<int64_t>(d, name, DNN_T_INT64);
        good = good && all.size() == dims;
        for (int64_t number : all)
            good = good && number >= (name == DNN_CONVOLUTION_STRIDES ? 1 : 0);
    }
    return good;
}

static bool good_forward(const descriptor *d)
{
    const descriptor *x = under(d, DNN_FORWARD_X, DNN_TENSOR), *w = under(d, DNN_FORWARD_W, DNN_TENSOR);
    const descriptor *y = under(d, DNN_FORWARD_Y, DNN_TENSOR), *c = under(d, DNN_FORWARD_CONVOLUTION, DNN_CONVOLUTION);
    if (!x || !w || !y || !c || value<float>(d, DNN_FORWARD_ALPHA, DNN_T_FLOAT, 0) != 1 ||
        value<float>(d, DNN_FORWARD_BETA, DNN_T_FLOAT, 1) != 0)
        return false;
    auto in = values<int64_t>(x, DNN_TENSOR_EXTENTS, DNN_T_INT64), taps = values<int64_t>(w, DNN_TENSOR_EXTENTS, DNN_T_INT64);
    auto out = values<int64_t>(y, DNN_TENSOR_EXTENTS, DNN_T_INT64);
    auto strides = values<int64_t>(c, DNN_CONVOLUTION_STRIDES, DNN_T_INT64);
    auto before = values<int64_t>(c, DNN_CONVOLUTION_PAD_BEFORE, DNN_T_INT64);
    auto after = values<int64_t>(c, DNN_CONVOLUTION_PAD_AFTER, DNN_T_INT64);
    bool good = in.size() == taps.size() && in.size() == out.size() && strides.size() + 2 == in.size() && in[0] == out[0] &&
                in[1] == taps[1] && taps[0] == out[1];
    for (size_t i = 0; i < strides.size() && good; i++)
        good = out[i + 2] == (in[i + 2] + before[i] + after[i] - taps[i + 2]) / strides[i] + 1;
    return good;
}

static bool good_graph(const descriptor *d)
{
    auto all = values<void *>(d, DNN_GRAPH_OPERATIONS, DNN_T_DESCRIPTOR);
    bool good = all.size() == 1 && value<void *>(d, DNN_GRAPH_HANDLE, DNN_T_HANDLE, nullptr);
    for (void *p : all) {
        auto *operation = (const descriptor *)p;
        good = good && operation->final && operation->kind == DNN_FORWARD;
    }
    return good;
}

static bool good_pack(const descriptor *d)
{
    auto ids = values<int64_t>(d, DNN_PACK_IDS, DNN_T_INT64);
    auto pointers = values<void *>(d, DNN_PACK_POINTERS, DNN_T_POINTER);
    bool good = ids.size() == pointers.size() && !ids.empty();
    for (void *p : pointers)
        good = good && p && (uintptr_t)p % 16 == 0;
    return good;
}

static bool complete(const descriptor *d)
{
    switch (d->kind) {
    case DNN_TENSOR:
        return good_tensor(d);
    case DNN_CONVOLUTION:
        return good_convolution(d);
    case DNN_FORWARD:
        return good_forward(d);
    case DNN_GRAPH:
        return good_graph(d);
    case DNN_HEURISTIC:
        return under(d, DNN_HEURISTIC_GRAPH, DNN_GRAPH);
    case DNN_PLAN:
        return under(d, DNN_PLAN_CONFIG, DNN_CONFIG) && value<void *>(d, DNN_PLAN_HANDLE, DNN_T_HANDLE, nullptr);
    case DNN_PACK:
        return good_pack(d);
    default:
        return false;
    }
}

static int finalize(dnn_descriptor given)
{
    auto *d = (descriptor *)given;
    if (call_fails() || d->final || d->destroyed || !complete(d))
        return BAD_PARAM;
    d->final = true;
    return 0;
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static void five(const descriptor *tensor, int64_t extent[5], int64_t stride[5])
{
    auto extents = values<int64_t>(tensor, DNN_TENSOR_EXTENTS, DNN_T_INT64);
    auto strides = values<int64_t>(tensor, DNN_TENSOR_STRIDES, DNN_T_INT64);
    size_t gap = 5 - extents.size();
    for (size_t i = 0; i < 5; i++) {
        size_t from = i < 2 ? i : i - gap;
        bool there = i < 2 || i >= 2 + gap;
        extent[i] = there ? extents[from] : 1;
        stride[i] = there ? strides[from] : 0;
    }
}

/* Whether there is nothing between a tensor's lines and between its frames. */
static bool is_packed(const descriptor *tensor)
{
    int64_t extent[5], stride[5];
    five(tensor, extent, stride);
    return stride[3] == extent[4] * stride[4] && (extent[2] == 1 || stride[2] == extent[3] * stride[3]);
}

/* To lines two apart the best mode has no answer, and to a kernel of a single line with them only the fallback. Of three the
 * first is not deterministic, the second wants more memory than there is, as do all for an x that they would have to copy, and the
 * fourth, which does not, is not for tensor cores. */
static int offer(const descriptor *heuristic, int64_t most, int64_t *count, dnn_descriptor *configs)
{
    const descriptor *graph = under(heuristic, DNN_HEURISTIC_GRAPH, DNN_GRAPH);
    auto *forward = (const descriptor *)values<void *>(graph, DNN_GRAPH_OPERATIONS, DNN_T_DESCRIPTOR)[0];
    auto strides = values<int64_t>(under(forward, DNN_FORWARD_CONVOLUTION, DNN_CONVOLUTION), DNN_CONVOLUTION_STRIDES, DNN_T_INT64);
    auto taps = values<int64_t>(under(forward, DNN_FORWARD_W, DNN_TENSOR), DNN_TENSOR_EXTENTS, DNN_T_INT64);
    int mode = value<int32_t>(heuristic, DNN_HEURISTIC_MODE, DNN_T_HEURISTIC_MODE, -1);
    bool apart = strides[strides.size() - 2] == 2, single = apart && taps[taps.size() - 2] == 1;
    bool packed = is_packed(under(forward, DNN_FORWARD_X, DNN_TENSOR));
    *count = mode == (single ? DNN_FALLBACK : apart ? DNN_FAST : DNN_BEST) ? mode == DNN_BEST ? 4 : 1 : 0;
    for (int64_t i = 0; i < *count && i < most; i++) {
        auto *config = (descriptor *)configs[i];
        config->final = true;
        config->set[DNN_HEURISTIC_GRAPH] = heuristic->set.at(DNN_HEURISTIC_GRAPH);
        config->notes = {DNN_TENSOR_CORES};
        if (*count == 4 && i == 0)
            config->notes.push_back(DNN_NONDETERMINISTIC);
        if (*count == 4 && i == 3)
            config->notes.clear();
        config->workspace = (*count == 4 && i == 1) || (!packed && i < 3) ? (int64_t)1 << 40 : 512;
    }
    return 0;
}

static int get_attribute(dnn_descriptor from, int name, int type, int64_t most, int64_t *count, void *out)
{
    auto *d = (descriptor *)from;
    if (call_fails() || !d->final || d->destroyed)
        return BAD_PARAM;
    if (d->kind == DNN_HEURISTIC && name == DNN_HEURISTIC_RESULTS && type == DNN_T_DESCRIPTOR)
        return offer(d, most, count, (dnn_descriptor *)out);
    if (d->kind == DNN_CONFIG && name == DNN_CONFIG_ENGINE && type == DNN_T_DESCRIPTOR && most == 1) {
        auto *engine = *(descriptor **)out;
        engine->final = true;
        engine->notes = d->notes;
    } else if (d->kind == DNN_ENGINE && name == DNN_ENGINE_NOTES && type == DNN_T_NOTE && most >= (int64_t)d->notes.size()) {
        memcpy(out, d->notes.data(), d->notes.size() * 4);
        *count = (int64_t)d->notes.size();
        return 0;
    } else if (d->kind == DNN_PLAN && name == DNN_PLAN_WORKSPACE && type == DNN_T_INT64 && most == 1) {
        *(int64_t *)out = under(d, DNN_PLAN_CONFIG, DNN_CONFIG)->workspace;
    } else {
        return BAD_PARAM;
    }
    *count = 1;
    return 0;
}

/* ---- computing --------------------------------------------------------------------------------------------------- */

/* A tensor's values, dense: [batch, frames, height, width, channels] of five extents. */
struct contents {
    int64_t extent[5]; /* batch, channels, frames, height, width */
    std::vector<float> v;
};

typedef std::map<int64_t, contents> memory;

static int64_t id_of(const descriptor *tensor)
{
    return value<int64_t>(tensor, DNN_TENSOR_ID, DNN_T_INT64, -1);
}

/* Where the tensor lies, or NULL. */
static char *place_of(const descriptor *pack, const descriptor *tensor)
{
    auto ids = values<int64_t>(pack, DNN_PACK_IDS, DNN_T_INT64);
    auto pointers = values<void *>(pack, DNN_PACK_POINTERS, DNN_T_POINTER);
    for (size_t i = 0; i < ids.size(); i++)
        if (ids[i] == id_of(tensor))
            return (char *)pointers[i];
    return nullptr;
}

/* Calls visit(dense index, offset in memory, count) for runs of values that lie side by side: all of a dense tensor, else
 * the channels of a pixel. */
template <class Visit> static void runs(const int64_t extent[5], const int64_t stride[5], Visit visit)
{
    size_t at = 0;
    int64_t all = extent[1];
    bool dense = true;
    for (int i : {4, 3, 2, 0}) {
        dense = dense && (extent[i] == 1 || stride[i] == all);
        all *= extent[i];
    }
    if (dense) {
        visit(at, (int64_t)0, (size_t)all);
        return;
    }
    for (int64_t n = 0; n < extent[0]; n++)
        for (int64_t t = 0; t < extent[2]; t++)
            for (int64_t y = 0; y < extent[3]; y++)
                for (int64_t x = 0; x < extent[4]; x++, at += (size_t)extent[1])
                    visit(at, n * stride[0] + t * stride[2] + y * stride[3] + x * stride[4], (size_t)extent[1]);
}

static contents *read(memory &m, const descriptor *pack, const descriptor *tensor)
{
    int64_t stride[5];
    auto found = m.find(id_of(tensor));
    if (found != m.end())
        return &found->second;
    const char *from = place_of(pack, tensor);
    if (!from)
        return nullptr;
    contents *c = &m[id_of(tensor)];
    five(tensor, c->extent, stride);
    size_t channels = (size_t)c->extent[1];
    c->v.resize(channels * (size_t)(c->extent[0] * c->extent[2] * c->extent[3] * c->extent[4]));
    std::vector<uint16_t> raw(c->v.size());
    runs(c->extent, stride, [&](size_t at, int64_t offset, size_t count) {
        copy_out(raw.data(), from + 2 * offset, count * 2);
        for (size_t i = 0; i < count; i++)
            c->v[at + i] = __builtin_bit_cast(float, (uint32_t)raw[i] << 16);
    });
    return c;
}

static contents *make(memory &m, const descriptor *tensor)
{
    int64_t stride[5];
    contents *c = &m[id_of(tensor)];
    five(tensor, c->extent, stride);
    c->v.assign((size_t)(c->extent[0] * c->extent[1] * c->extent[2] * c->extent[3] * c->extent[4]), 0);
    return c;
}

static float at(const contents *c, int64_t n, int64_t t, int64_t y, int64_t x, int64_t channel)
{
    const int64_t *e = c->extent;
    return c->v[(size_t)((((n * e[2] + t) * e[3] + y) * e[4] + x) * e[1] + channel)];
}

static bool convolve(memory &m, const descriptor *pack, const descriptor *operation)
{
    const descriptor *how = under(operation, DNN_FORWARD_CONVOLUTION, DNN_CONVOLUTION);
    const contents *x = read(m, pack, under(operation, DNN_FORWARD_X, DNN_TENSOR));
    const contents *w = read(m, pack, under(operation, DNN_FORWARD_W, DNN_TENSOR));
    contents *y = make(m, under(operation, DNN_FORWARD_Y, DNN_TENSOR));
    auto stride = values<int64_t>(how, DNN_CONVOLUTION_STRIDES, DNN_T_INT64);
    auto pad = values<int64_t>(how, DNN_CONVOLUTION_PAD_BEFORE, DNN_T_INT64);
    if (!x || !w || y->extent[2] != 1)
        return false;
    if (stride.size() == 2)
        stride.insert(stride.begin(), 1), pad.insert(pad.begin(), 0);
    size_t to = 0;
    for (int64_t oy = 0; oy < y->extent[3]; oy++)
        for (int64_t ox = 0; ox < y->extent[4]; ox++)
            for (int64_t o = 0; o < y->extent[1]; o++) {
                double sum = 0;
                for (int64_t t = 0; t < w->extent[2]; t++)
                    for (int64_t dy = 0; dy < w->extent[3]; dy++)
                        for (int64_t dx = 0; dx < w->extent[4]; dx++) {
                            int64_t iy = oy * stride[1] + dy - pad[1], ix = ox * stride[2] + dx - pad[2];
                            if (iy < 0 || ix < 0 || iy >= x->extent[3] || ix >= x->extent[4])
                                continue;
                            for (int64_t c = 0; c < x->extent[1]; c++)
                                sum += (double)at(x, 0, t - pad[0], iy, ix, c) * at(w, o, t, dy, dx, c);
                        }
                y->v[to++] = (float)sum;
            }
    return true;
}

static uint16_t rounded(float value)
{
    uint32_t bits = __builtin_bit_cast(uint32_t, value);
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static bool write(memory &m, const descriptor *pack, const descriptor *tensor)
{
    int64_t extent[5], stride[5];
    char *to = place_of(pack, tensor);
    if (!to)
        return false;
    five(tensor, extent, stride);
    const contents &c = m.at(id_of(tensor));
    std::vector<uint16_t> raw;
    for (float v : c.v)
        raw.push_back(rounded(v));
    runs(extent, stride, [&](size_t from, int64_t offset, size_t count) { copy_in(to + 2 * offset, &raw[from], count * 2); });
    return true;
}

/* At once, with all that is before it in its stream: descriptors may go when this returns. */
static int execute(dnn_handle handle, dnn_descriptor plan, dnn_descriptor given)
{
    auto *pack = (const descriptor *)given;
    if (((const dnn_opaque *)handle)->user != std::this_thread::get_id())
        fprintf(stderr, "emulator: two threads use a handle of cuDNN's at once\n"), exit(1);
    const descriptor *config = under((const descriptor *)plan, DNN_PLAN_CONFIG, DNN_CONFIG);
    memory m;
    if (call_fails() || !config || !pack->final || pack->destroyed || ((const descriptor *)plan)->destroyed ||
        (config->workspace && !value<void *>(pack, DNN_PACK_WORKSPACE, DNN_T_POINTER, nullptr)))
        return BAD_PARAM;
    if (finish(((const dnn_opaque *)handle)->stream))
        return FAILED;
    for (void *p : values<void *>(under(config, DNN_HEURISTIC_GRAPH, DNN_GRAPH), DNN_GRAPH_OPERATIONS, DNN_T_DESCRIPTOR)) {
        auto *operation = (const descriptor *)p;
        if (!convolve(m, pack, operation) || !write(m, pack, under(operation, DNN_FORWARD_Y, DNN_TENSOR)))
            return BAD_PARAM;
    }
    started++;
    return 0;
}

/* ---- the library ------------------------------------------------------------------------------------------------- */

void set_convolver(bool there, int good_calls)
{
    if (alive)
        fprintf(stderr, "emulator: %d objects of cuDNN were never destroyed\n", alive), exit(1);
    forget_gone();
    is_there = there;
    left = good_calls;
    started = handles = 0;
}

int convolver_handles()
{
    return handles;
}

int convolutions()
{
    return started;
}

void *open_dnn(const char *name)
{
    return is_there && !strcmp(name, "libcudnn.so.9") ? &is_there : nullptr;
}

void *find_dnn(void *library, const char *name)
{
    static const struct {
        const char *name;
        void *function;
    } table[] = {
        {"cudnnCreate", (void *)create_handle},
        {"cudnnDestroy", (void *)destroy_handle},
        {"cudnnSetStream", (void *)set_stream},
        {"cudnnBackendCreateDescriptor", (void *)create_descriptor},
        {"cudnnBackendDestroyDescriptor", (void *)destroy_descriptor},
        {"cudnnBackendSetAttribute", (void *)set_attribute},
        {"cudnnBackendGetAttribute", (void *)get_attribute},
        {"cudnnBackendFinalize", (void *)finalize},
        {"cudnnBackendExecute", (void *)execute},
    };
    for (const auto &entry : table)
        if (library == &is_there && !strcmp(entry.name, name))
            return entry.function;
    return nullptr;
}

} // namespace emulator
