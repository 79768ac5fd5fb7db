/* SPDX-License-Identifier: MIT */

/* Every system call on a file fails in turn, through load, text, sample, decode, save and load again: the call says so
 * and names the file, the same handles then do it, and neither a file nor a descriptor is left behind. What may happen to
 * a call that does not fail (a signal, fewer bytes than were asked for) goes unnoticed. */

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api.h"
#include "faulty.h"

/* What one run makes, in order. */
typedef struct world {
    char folder[64], tensors[96], clip[96], pictures[96];
    imagine_context *context;
    imagine_model *model;
    imagine_text *text;
    imagine_buffer *embeds, *latents, *frames; /* made */
    imagine_buffer *latents_again, *frames_again, *pictures_again; /* read back */
} world;

/* ---- the steps; each can be tried again -------------------------------------------------------------------------- */

static imagine_status open_pack(world *w, imagine_error *error)
{
    return imagine_model_open(&w->model, w->context, PACK, NULL, error);
}

static imagine_status encode(world *w, imagine_error *error)
{
    imagine_status status = imagine_text_create(&w->text, w->model, NULL, error);
    if (status >= 0)
        status = imagine_text_encode(w->text, "a red apple", NULL, &w->embeds, error);
    imagine_text_destroy(&w->text);
    return status;
}

/* Five frames of 16x16, put together from what the job hands over. */
static imagine_status generate(world *w, imagine_error *error)
{
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job;
    imagine_event event = { .struct_size = sizeof event };
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.width = sampler.height = 16;
    sampler.frames = 5;
    sampler.steps = 2;
    imagine_job_options_init(&options, sizeof options);
    options.prompt = "a red apple";
    options.sampler = &sampler;
    imagine_status status = imagine_job_create(&job, w->model, &options, error);
    while (status >= 0 && (status = imagine_job_next(job, &event, -1, error)) >= 0 && event.kind != IMAGINE_EVENT_DONE)
        if (event.kind == IMAGINE_EVENT_FRAMES)
            memcpy((char *)imagine_buffer_data(w->frames) + event.first_frame * 16 * 16 * 3,
                   imagine_buffer_data(event.frames), imagine_buffer_size(event.frames));
    if (status >= 0)
        status = imagine_job_get_latents(job, &w->latents, error);
    imagine_job_destroy(&job);
    return status;
}

static imagine_status save_tensors(world *w, imagine_error *error)
{
    imagine_buffer *const buffers[] = { w->latents, w->embeds };
    static const char *const names[] = { "latents", "embeds" };
    return imagine_buffer_save(w->context, w->tensors, 2, buffers, names, error);
}

static imagine_status save_clip(world *w, imagine_error *error)
{
    return imagine_picture_save(w->context, w->clip, w->frames, 8, error);
}

static imagine_status load_tensors(world *w, imagine_error *error)
{
    return imagine_buffer_load(&w->latents_again, w->context, w->tensors, "latents", error);
}

static imagine_status load_clip(world *w, imagine_error *error)
{
    return imagine_picture_load(&w->frames_again, w->context, w->clip, error);
}

static imagine_status load_pictures(world *w, imagine_error *error)
{
    return imagine_picture_load(&w->pictures_again, w->context, w->pictures, error);
}

typedef struct step {
    const char *name;
    imagine_status (*run)(world *w, imagine_error *error);
    size_t writes; /* offsetof the path that it writes to, or 0 */
} step;

static const step steps[] = {
    { "open", open_pack, 0 },
    { "text", encode, 0 },
    { "job", generate, 0 },
    { "save tensors", save_tensors, offsetof(world, tensors) },
    { "save pictures", save_clip, offsetof(world, clip) },
    { "load tensors", load_tensors, 0 },
    { "load pictures", load_clip, 0 },
    { "load folder", load_pictures, 0 },
};

/* ---- what is left behind ----------------------------------------------------------------------------------------- */

static int entries(const char *folder)
{
    int count = 0;
    DIR *dir = opendir(folder);
    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count;
}

static int descriptors(void)
{
    return entries("/proc/self/fd");
}

/* A file that a save which fails must leave as it is. */
static void put_old(const char *path)
{
    FILE *file = fopen(path, "w");
    if (file) {
        fputs("old", file);
        fclose(file);
    }
}

static int is_old(const char *path)
{
    char text[8] = "";
    FILE *file = fopen(path, "r");
    int same = file && fread(text, 1, sizeof text, file) == 3 && !memcmp(text, "old", 3);
    if (file)
        fclose(file);
    return same;
}

/* ---- one run ----------------------------------------------------------------------------------------------------- */

static void check_failure(const world *w, const step *s, imagine_status status, const imagine_error *error)
{
    int named = strstr(error->message, w->folder) || strstr(error->message, "two-layer");
    int fine = fault.fired && (status == IMAGINE_ERROR_IO || status == IMAGINE_ERROR_NOT_FOUND) && named &&
               (fault.effect <= 0 || error->native_code == fault.effect);
    if (!fine)
        fprintf(stderr, "    %s: status %d, native code %d: %s\n", s->name, (int)status, (int)error->native_code,
                error->message);
    CHECK(fine);
}

/* One step, tried again after a failure; 1 when it failed at first. */
static int take(world *w, const step *s)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    const char *path = s->writes ? (const char *)w + s->writes : NULL;
    if (path)
        put_old(path);
    int files = entries(w->folder), open = descriptors();
    atomic_store(&fault.armed, 1);
    imagine_status status = s->run(w, &err);
    atomic_store(&fault.armed, 0);
    if (status >= 0)
        return 0;
    check_failure(w, s, status, &err);
    CHECK(entries(w->folder) == files && descriptors() == open);
    CHECK(!path || is_old(path));
    CHECK_OK(s->run(w, &err));
    return 1;
}

static int begin(world *w, const char *folder)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    memset(w, 0, sizeof *w);
    snprintf(w->folder, sizeof w->folder, "%s", folder);
    snprintf(w->tensors, sizeof w->tensors, "%s/latents.safetensors", folder);
    snprintf(w->clip, sizeof w->clip, "%s/clip.png", folder);
    snprintf(w->pictures, sizeof w->pictures, "%s/pictures", folder);
    w->context = open_context(1, &err);
    return w->context &&
           imagine_buffer_create(&w->frames, w->context, IMAGINE_U8, 4, (int64_t[]){ 5, 16, 16, 3 }, &err) >= 0;
}

static void end(world *w)
{
    imagine_buffer_release(&w->pictures_again);
    imagine_buffer_release(&w->frames_again);
    imagine_buffer_release(&w->latents_again);
    imagine_buffer_release(&w->frames);
    imagine_buffer_release(&w->latents);
    imagine_buffer_release(&w->embeds);
    imagine_model_release(&w->model);
    imagine_context_release(&w->context);
}

/* All steps with the fault as it is set; results must be those of `wanted`, when it is given. Returns how many failed. */
static int run(world *w, const char *folder, const world *wanted)
{
    int failed = 0, open = descriptors();
    memset(fault.calls, 0, sizeof fault.calls);
    atomic_store(&fault.fired, 0);
    if (!begin(w, folder)) {
        CHECK(!"a context");
        return 0;
    }
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        failed += take(w, &steps[i]);
    CHECK(same_bytes(w->latents, w->latents_again) && same_bytes(w->frames, w->frames_again));
    if (wanted) {
        CHECK(same_bytes(w->latents, wanted->latents) && same_bytes(w->frames, wanted->frames));
        CHECK(same_bytes(w->embeds, wanted->embeds) && same_bytes(w->pictures_again, wanted->pictures_again));
        end(w);
        CHECK(descriptors() == open);
    }
    return failed;
}

/* ---- the tests --------------------------------------------------------------------------------------------------- */

static char folder[] = P_tmpdir "/imagine-files-XXXXXX";
static world wanted; /* of a run without a fault */
static int counts[FAULT_TARGETS]; /* its calls */

static const struct {
    const char *name;
    fault_target which;
    int effect;
    fault_mode mode;
    int may_go_well; /* some of these calls can be done without */
} faults[] = {
    { "open: too many files", FAULT_OPEN, EMFILE, FAULT_ONCE, 0 },
    { "open: no permission", FAULT_OPEN, EACCES, FAULT_ONCE, 0 },
    { "fstat", FAULT_FSTAT, EIO, FAULT_ONCE, 0 },
    { "stat", FAULT_STAT, EIO, FAULT_ONCE, 1 },
    { "read", FAULT_PREAD, EIO, FAULT_ONCE, 0 },
    { "read: the file ends early", FAULT_PREAD, FAULT_NO_DATA, FAULT_ONCE, 0 },
    { "write: the disk is full", FAULT_WRITE, ENOSPC, FAULT_FOR_GOOD, 0 },
    { "write: quota", FAULT_WRITE, EDQUOT, FAULT_ONCE, 0 },
    { "fsync", FAULT_FSYNC, EIO, FAULT_ONCE, 0 },
    { "close", FAULT_CLOSE, EIO, FAULT_ONCE, 1 },
    { "rename", FAULT_RENAME, EACCES, FAULT_ONCE, 0 },
    { "opendir", FAULT_OPENDIR, EMFILE, FAULT_ONCE, 1 },
    { "readdir", FAULT_READDIR, EIO, FAULT_ONCE, 1 },
    { "eventfd", FAULT_EVENTFD, EMFILE, FAULT_ONCE, 1 },
};

static void every_call(void)
{
    REQUIRE(wanted.context);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        int count = counts[faults[i].which], failed = 0;
        for (int at = 1; at <= count; at++) {
            world w;
            int before = test_failures;
            fault_set(faults[i].which, faults[i].effect, faults[i].mode, at);
            int one = run(&w, folder, &wanted);
            CHECK(fault.fired > 0 && (one > 0 || faults[i].may_go_well));
            if (test_failures > before)
                fprintf(stderr, "    at call %d of %d of \"%s\"\n", at, count, faults[i].name);
            failed += one > 0;
        }
        CHECK(count > 0);
        printf("    %s: %d calls, %d of them needed\n", faults[i].name, count, failed);
    }
    fault_set(0, 0, FAULT_ONCE, 0);
}

/* Signals, and reads and writes of a part: nothing is to be seen of them. */
static void interruptions(void)
{
    static const struct {
        fault_target which;
        int effect;
    } harmless[] = {
        { FAULT_OPEN, EINTR },  { FAULT_PREAD, EINTR },       { FAULT_PREAD, FAULT_SHORT },
        { FAULT_WRITE, EINTR }, { FAULT_WRITE, FAULT_SHORT }, { FAULT_FSYNC, EINTR },
        { FAULT_CLOSE, EINTR },
    };
    REQUIRE(wanted.context);
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        for (int at = 1; at <= 2; at++) { /* every other call, from the first or the second */
            world w;
            fault_set(harmless[i].which, harmless[i].effect, FAULT_EVERY_OTHER, at);
            CHECK(run(&w, folder, &wanted) == 0);
            CHECK(fault.fired > 0);
        }
    fault_set(0, 0, FAULT_ONCE, 0);
}

/* A folder of two pictures, and the run that the others are held to. */
static void without_fault(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    char path[128];
    REQUIRE(mkdtemp(folder));
    imagine_context *context = open_context(1, &err);
    imagine_buffer *picture;
    REQUIRE(context);
    REQUIRE_OK(imagine_buffer_create(&picture, context, IMAGINE_U8, 4, (int64_t[]){ 1, 16, 16, 3 }, &err));
    snprintf(path, sizeof path, "%s/pictures", folder);
    REQUIRE(mkdir(path, 0700) == 0);
    for (int i = 0; i < 2; i++) {
        memset(imagine_buffer_data(picture), 100 * i, imagine_buffer_size(picture));
        snprintf(path, sizeof path, "%s/pictures/%d.png", folder, i);
        CHECK_OK(imagine_picture_save(context, path, picture, 0, &err));
    }
    imagine_buffer_release(&picture);
    imagine_context_release(&context);
    fault_set(0, 0, FAULT_ONCE, 0);
    CHECK(run(&wanted, folder, NULL) == 0);
    for (int i = 0; i < FAULT_TARGETS; i++)
        counts[i] = fault.calls[i];
}

static void nothing_stays(void)
{
    static const char *const names[] = { "pictures/0.png", "pictures/1.png", "latents.safetensors", "clip.png" };
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        CHECK(unlink(path) == 0);
    }
    snprintf(path, sizeof path, "%s/pictures", folder);
    CHECK(rmdir(path) == 0 && rmdir(folder) == 0); /* they are empty */
    end(&wanted);
}

int main(void)
{
    /* Each stands on the one before. */
    static const test_case cases[] = { { "without a fault", without_fault },
                                       { "every call", every_call },
                                       { "interruptions", interruptions },
                                       { "nothing stays", nothing_stays } };
    return test_main("api/files", cases, sizeof cases / sizeof cases[0], 1, NULL);
}
