/* SPDX-License-Identifier: MIT */

/* A host with an event loop of its own: event_loop MODEL PROMPT OUT.png
 *
 * It polls the job's file descriptor beside its standard input, where a line stops the job; its allocator counts, a memory
 * limit holds, previews are written as they come, and what is sampled when somebody stops it is kept. */

#include <imagine/imagine.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIMIT ((uint64_t)8 << 30) /* bytes */

static atomic_ullong held;

static void *counted_allocate(void *data, size_t size, size_t alignment)
{
    (void)data;
    void *pointer = NULL;
    if (posix_memalign(&pointer, alignment < sizeof pointer ? sizeof pointer : alignment, size))
        return NULL;
    atomic_fetch_add(&held, size);
    return pointer;
}

static void counted_release(void *data, void *pointer, size_t size)
{
    (void)data;
    atomic_fetch_sub(&held, size);
    free(pointer);
}

static void print_log(void *data, imagine_log_level level, const char *text)
{
    (void)data;
    fprintf(stderr, "%s: %s\n", level <= IMAGINE_LOG_ERROR ? "error" : "warning", text);
}

/* The frames of a clip side by side in one buffer, as they come in pieces. */
typedef struct clip {
    imagine_buffer *frames;
    const char *out;
    double fps;
} clip;

static imagine_status keep_frames(clip *c, imagine_context *context, imagine_job *job, const imagine_event *event, imagine_error *error)
{
    imagine_job_info info = { .struct_size = sizeof info };
    imagine_status status = imagine_job_get_info(job, &info, error);
    if (status >= 0 && !c->frames)
        status = imagine_buffer_create(&c->frames, context, IMAGINE_U8, 4, (int64_t[]){ info.frames, info.height, info.width, 3 }, error);
    if (status < 0)
        return status;
    size_t frame = (size_t)info.width * (size_t)info.height * 3;
    memcpy((char *)imagine_buffer_data(c->frames) + (size_t)event->first_frame * frame, imagine_buffer_data(event->frames),
           (size_t)event->frame_count * frame);
    return IMAGINE_OK;
}

/* All events that are there. The job's failure, or IMAGINE_TIMEOUT when the loop may wait again; DONE ends it. */
static imagine_status take_events(imagine_context *context, imagine_job *job, clip *c, int *done, imagine_error *error)
{
    imagine_event event = { .struct_size = sizeof event };
    imagine_status status;
    while ((status = imagine_job_next(job, &event, 0, error)) == IMAGINE_OK) {
        if (event.kind == IMAGINE_EVENT_STEP)
            printf("step %d of %d, %.2f s, %.1f MB\n", event.step, event.steps, event.seconds, (double)atomic_load(&held) / 1e6);
        else if (event.kind == IMAGINE_EVENT_PREVIEW)
            status = imagine_picture_save(context, c->out, event.frames, c->fps, error);
        else if (event.kind == IMAGINE_EVENT_FRAMES)
            status = keep_frames(c, context, job, &event, error);
        *done = event.kind == IMAGINE_EVENT_DONE;
        if (status < 0 || *done)
            break;
    }
    return status;
}

static imagine_status run(imagine_context *context, imagine_job *job, clip *c, imagine_error *error)
{
    struct pollfd both[] = { { .fd = imagine_job_fd(job), .events = POLLIN }, { .fd = STDIN_FILENO, .events = POLLIN } };
    imagine_status status = IMAGINE_OK;
    char line[256];
    int done = 0;
    while (status >= 0 && !done) {
        if (poll(both, 2, -1) < 0)
            continue; /* a signal */
        if (both[1].revents && read(STDIN_FILENO, line, sizeof line) > 0)
            imagine_job_cancel(job); /* its end comes as an event like any other */
        else if (both[1].revents)
            both[1].fd = -1; /* the input's end */
        if (both[0].revents)
            status = take_events(context, job, c, &done, error);
    }
    return status < 0 ? status : imagine_picture_save(context, c->out, c->frames, c->fps, error);
}

/* What a stopped or failed job has sampled can be decoded later. */
static void save_latents(imagine_context *context, imagine_job *job)
{
    static const char *const name = "latents";
    imagine_buffer *latents = NULL;
    if (imagine_job_get_latents(job, &latents, NULL) < 0)
        return;
    if (imagine_buffer_save(context, "latents.safetensors", 1, &latents, &name, NULL) >= 0)
        printf("what was sampled is in latents.safetensors\n");
    imagine_buffer_release(&latents);
}

int main(int argc, char **argv)
{
    imagine_error error = IMAGINE_ERROR_INIT;
    imagine_context *context = NULL;
    imagine_model *model = NULL;
    imagine_job *job = NULL;
    imagine_context_options how;
    imagine_job_options options;
    imagine_model_info info = { .struct_size = sizeof info };
    clip c = { .out = argc > 3 ? argv[3] : "out.png" };
    imagine_context_options_init(&how, sizeof how);
    how.memory_limit = LIMIT;
    how.allocate = counted_allocate;
    how.release = counted_release;
    how.log = print_log;
    imagine_job_options_init(&options, sizeof options);
    options.prompt = argc > 2 ? argv[2] : "a red apple";
    options.events |= IMAGINE_EVENT_BIT(IMAGINE_EVENT_PREVIEW);
    imagine_status status = imagine_context_create(&context, &how, &error);
    if (status >= 0)
        status = imagine_model_open(&model, context, argc > 1 ? argv[1] : "models/tiny", NULL, &error);
    if (status >= 0)
        status = imagine_model_get_info(model, &info, &error);
    c.fps = info.frames_per_second > 0 ? info.frames_per_second : 16;
    if (status >= 0)
        status = imagine_job_create(&job, model, &options, &error);
    if (status >= 0)
        status = run(context, job, &c, &error);
    if (status < 0) {
        fprintf(stderr, "%s\n", error.message);
        save_latents(context, job);
    }
    imagine_buffer_release(&c.frames);
    imagine_job_destroy(&job);
    imagine_model_release(&model);
    imagine_context_release(&context);
    if (atomic_load(&held))
        fprintf(stderr, "%llu bytes are left\n", (unsigned long long)atomic_load(&held));
    return status < 0 || atomic_load(&held);
}
