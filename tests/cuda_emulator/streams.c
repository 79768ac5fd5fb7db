/* SPDX-License-Identifier: MIT */
/* Streams, marks, graphs, and copies that overlap, through the module's table. */

#include "cuda_check.h"

#define COUNT 1000

typedef struct streams {
    void *streams[2], *mark;
    float *x, *y, *host; /* device, device, host */
} streams;

static streams begin(void)
{
    streams s = {.host = check_alloc(COUNT * sizeof(float))};
    for (int i = 0; i < COUNT; i++)
        s.host[i] = (float)i;
    s.x = cuda_input(s.host, COUNT * sizeof(float));
    s.y = cuda_input(s.host, COUNT * sizeof(float));
    CUDA_OK(cuda->stream_create(&s.streams[0]));
    CUDA_OK(cuda->stream_create(&s.streams[1]));
    CUDA_OK(cuda->mark_create(&s.mark));
    return s;
}

static void end(streams *s)
{
    cuda->mark_destroy(s->mark);
    cuda->stream_destroy(s->streams[1]);
    cuda->stream_destroy(s->streams[0]);
    cuda->release(s->y);
    cuda->release(s->x);
    free(s->host);
}

/* y[i] = factor * x[i] + add * y[i], started in `stream`; its arguments are gone when it returns. */
static int combine(const streams *s, void *stream, float factor, float add)
{
    float coefficients[2] = {factor, add};
    const float *terms[2] = {s->x, s->y};
    int status = cuda->combine(2, coefficients, terms, s->y, COUNT, stream);
    memset(coefficients, 0xff, sizeof coefficients);
    memset(terms, 0xff, sizeof terms);
    return status;
}

static void expect(const streams *s, void *stream, float factor)
{
    int good = 1;
    CUDA_OK(cuda->download(s->host, s->y, COUNT * sizeof(float), stream));
    for (int i = 0; i < COUNT; i++)
        good &= s->host[i] == factor * (float)i;
    CHECK(good);
}

/* Recorded, nothing happens; started, all of it does, in order, with the values that lie there then. */
static void graph(void)
{
    streams s = begin();
    void *graph = NULL;
    CUDA_OK(cuda->graph_begin(s.streams[0]));
    CUDA_OK(cuda->clear(s.y, COUNT * sizeof(float), s.streams[0]));
    CUDA_OK(combine(&s, s.streams[0], 2, 1)); /* 2 x */
    CUDA_OK(cuda->copy(s.x, s.y, COUNT * sizeof(float), s.streams[0])); /* x is twice what it was */
    CUDA_OK(combine(&s, s.streams[0], 1, 1)); /* 2 x + 2 x */
    CUDA_OK(cuda->graph_end(s.streams[0], &graph));
    expect(&s, s.streams[0], 1);
    for (int i = 1; i <= 3; i++) {
        CUDA_OK(cuda->graph_launch(graph, s.streams[i % 2]));
        expect(&s, s.streams[i % 2], (float)(2 << i));
    }
    CUDA_OK(combine(&s, s.streams[0], 0, 0.5f)); /* the stream is as it was before */
    expect(&s, s.streams[0], 8);
    CUDA_OK(cuda->synchronize(s.streams[0]));
    cuda->graph_destroy(graph);
    cuda->graph_destroy(NULL);
    end(&s);
}

/* What a thread that records is not to do. */
static int disturb(const streams *s, int way, void **memory)
{
    return way == 0   ? cuda->synchronize(s->streams[0])
           : way == 1 ? cuda->download(s->host, s->y, 4, s->streams[0])
                      : cuda->allocate(memory, 64);
}

/* What is refused spoils the recording, of which nothing is done; the stream goes on afterwards. Waiting and copying to the
 * host are always refused. The emulator refuses an allocation, too; a GPU may allow it, and the recording is then whole. */
static void spoilt(void)
{
    for (int way = 0; way < 3; way++) {
        streams s = begin();
        void *graph = &s, *memory = NULL;
        CUDA_OK(cuda->graph_begin(s.streams[0]));
        CUDA_OK(combine(&s, s.streams[0], 2, 1));
        int refused = disturb(&s, way, &memory) != 0;
        CHECK(refused ? !memory : way == 2 && memory);
        int spoils = cuda->graph_end(s.streams[0], &graph) != 0;
        CHECK(spoils == refused && spoils == !graph);
        expect(&s, s.streams[0], 1);
        if (graph)
            CUDA_OK(cuda->graph_launch(graph, s.streams[0]));
        expect(&s, s.streams[0], graph ? 3 : 1);
        CUDA_OK(combine(&s, s.streams[0], 2, 1));
        expect(&s, s.streams[0], graph ? 5 : 3);
        cuda->graph_destroy(graph);
        if (memory)
            CUDA_OK(cuda->release(memory));
        end(&s);
    }
}

/* From pinned memory and from other; one stream waits for the other, the host for both. */
static void uploads(void)
{
    for (int pinned = 0; pinned < 2; pinned++) {
        streams s = begin();
        size_t size = COUNT * sizeof(float);
        float *from = aligned_alloc(4096, 8192);
        REQUIRE(from);
        if (pinned)
            CUDA_OK(cuda->pin(from, 8192));
        for (int round = 1; round <= 5; round++) {
            CUDA_OK(cuda->mark(s.mark, s.streams[0])); /* x is read by what was started there */
            CUDA_OK(cuda->stream_wait(s.streams[1], s.mark));
            for (int i = 0; i < COUNT; i++)
                from[i] = (float)(round * i);
            CUDA_OK(cuda->upload_later(s.x, from, size, s.streams[1]));
            CUDA_OK(cuda->mark(s.mark, s.streams[1]));
            CUDA_OK(cuda->stream_wait(s.streams[0], s.mark));
            CUDA_OK(combine(&s, s.streams[0], 1, 1));
            CUDA_OK(cuda->mark_wait(s.mark)); /* `from` is free */
        }
        expect(&s, s.streams[0], 1 + 1 + 2 + 3 + 4 + 5);
        CUDA_OK(cuda->synchronize(s.streams[1]));
        if (pinned)
            cuda->unpin(from);
        free(from);
        end(&s);
    }
}

/* What the thread had comes back, none as well; the device has one context, however often it is chosen. */
static void contexts(void)
{
    void *before = NULL, *own = NULL, *now = &before;
    REQUIRE(!cuda->current_context(&before));
    CUDA_OK(cuda->use_device(0));
    CUDA_OK(cuda->current_context(&own));
    CHECK(own);
    CUDA_OK(cuda->set_context(NULL));
    CUDA_OK(cuda->current_context(&now));
    CHECK(!now);
    CUDA_OK(cuda->use_device(0));
    CUDA_OK(cuda->current_context(&now));
    CHECK(now == own);
    CUDA_OK(cuda->set_context(before));
    CUDA_OK(cuda->current_context(&now));
    CHECK(now == before);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {{"contexts", contexts}, {"graph", graph}, {"spoilt", spoilt}, {"uploads", uploads}};
    return cuda_check_main("cuda/streams", cases, sizeof cases / sizeof *cases, argc, argv);
}
