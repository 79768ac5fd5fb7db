/* SPDX-License-Identifier: MIT */

/* imagine generate: a job from prompt to file. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

typedef struct generation {
    const arguments *o;
    session s;
    imagine_job *job;
    imagine_job_info info;
    imagine_buffer *frames; /* the whole clip */
    imagine_buffer *prompt_embeds, *negative_embeds, *noise, *state;
    imagine_buffer *first, *last, *extended, *init, *mask; /* pictures, or latents for `extended` and `init` */
    const char *out;
    char kept[8192]; /* where the latents were put that are not, or could not be, made frames of */
    double saved; /* when that was last done while the job ran, in seconds of the job's */
    int warned; /* that it could not be done */
    imagine_event step; /* the last */
    progress bar;
} generation;

/* The latents of a safetensors file: so called, as in one that an interrupted run left, or its only tensor. */
static imagine_status load_latents(generation *g, const char *path, imagine_buffer **to)
{
    imagine_status status = imagine_buffer_load(to, g->s.context, path, "latents", &g->s.error);
    return status == IMAGINE_ERROR_NOT_FOUND ? imagine_buffer_load(to, g->s.context, path, NULL, &g->s.error) : status;
}

static int load_inputs(generation *g)
{
    const arguments *o = g->o;
    if (o->embeds) {
        if (imagine_buffer_load(&g->prompt_embeds, g->s.context, o->embeds, "prompt_embeds", &g->s.error) < 0)
            return session_failed(&g->s);
        imagine_status status =
            imagine_buffer_load(&g->negative_embeds, g->s.context, o->embeds, "negative_prompt_embeds", &g->s.error);
        /* A file without them means the negative prompt's text. */
        if (status < 0 && status != IMAGINE_ERROR_NOT_FOUND)
            return session_failed(&g->s);
    }
    if (o->noise && load_latents(g, o->noise, &g->noise) < 0)
        return session_failed(&g->s);
    if (o->resume && imagine_buffer_load(&g->state, g->s.context, o->resume, "state", &g->s.error) < 0)
        return session_failed(&g->s);
    return 0;
}

/* Pictures, or the latents of a safetensors file. */
static int load_pictures(generation *g, const char *path, imagine_buffer **to)
{
    if (!path)
        return 0;
    imagine_status status = has_suffix(path, ".safetensors")
                                ? load_latents(g, path, to)
                                : imagine_picture_load(to, g->s.context, path, &g->s.error);
    return status < 0 ? session_failed(&g->s) : 0;
}

/* What the clip begins with or keeps. */
static int load_conditions(generation *g, imagine_job_options *job)
{
    const arguments *o = g->o;
    int status;
    if ((status = load_pictures(g, o->image, &g->first)) || (status = load_pictures(g, o->last_image, &g->last)) ||
        (status = load_pictures(g, o->extend, &g->extended)) || (status = load_pictures(g, o->init, &g->init)) ||
        (status = load_pictures(g, o->mask, &g->mask)))
        return status;
    job->first_frames = g->first;
    job->last_frame = g->last;
    job->mask_frames = g->mask;
    if (o->extend && has_suffix(o->extend, ".safetensors"))
        job->known_latents = g->extended;
    else if (o->extend)
        job->first_frames = g->extended;
    if (o->init && has_suffix(o->init, ".safetensors"))
        job->init_latents = g->init;
    else
        job->init_frames = g->init;
    return 0;
}

static int start(generation *g)
{
    double sigmas[1001];
    imagine_sampler_options sampler;
    imagine_job_options job;
    int status = sampler_options(&sampler, sigmas, g->o);
    if (status || (status = load_inputs(g)))
        return status;
    imagine_job_options_init(&job, sizeof job);
    job.tile_width = g->o->tile_width;
    job.tile_height = g->o->tile_height;
    job.prompt = g->o->prompt;
    job.negative_prompt = g->o->negative;
    job.sampler = &sampler;
    job.prompt_embeds = g->prompt_embeds;
    job.negative_embeds = g->negative_embeds;
    job.noise = g->noise;
    job.state = g->state;
    job.state_every = g->o->save_every > 0;
    job.events |= IMAGINE_EVENT_BIT(IMAGINE_EVENT_LATENTS);
    job.cancel = g->s.cancel;
    if ((status = load_conditions(g, &job)))
        return status;
    job.decode = !has_suffix(g->out, ".safetensors");
    if (imagine_job_create(&g->job, g->s.model, &job, &g->s.error) < 0)
        return session_failed(&g->s);
    g->info.struct_size = sizeof g->info;
    imagine_job_get_info(g->job, &g->info, NULL);
    if (g->o->negative && *g->o->negative && g->info.guidance == 1 && (g->o->guidance_2 < 0 || g->o->guidance_2 == 1))
        return usage_error(g->o, "--negative: it counts with guidance, which is 1 here: add one, as --guidance 3");
    return 0;
}

/* Room for the whole clip, in a context of its own: what the job's may hold was settled without it. */
static imagine_status make_room(generation *g)
{
    const int64_t shape[] = { g->info.frames, g->info.height, g->info.width, 3 };
    imagine_context *own = NULL;
    imagine_context_options options;
    imagine_context_options_init(&options, sizeof options);
    options.threads = 1;
    imagine_status status = imagine_context_create(&own, &options, &g->s.error);
    if (status >= 0)
        status = imagine_buffer_create(&g->frames, own, IMAGINE_U8, 4, shape, &g->s.error);
    imagine_context_release(&own); /* the buffer holds it */
    return status;
}

/* Puts a piece of the clip where it belongs; one that is the whole clip is kept as it is. */
static imagine_status keep_frames(generation *g, const imagine_event *event)
{
    imagine_status status = IMAGINE_OK;
    if (event->frame_count == g->info.frames) {
        g->frames = imagine_buffer_retain(event->frames);
        return status;
    }
    if (!g->frames && (status = make_room(g)) < 0)
        return status;
    size_t frame = imagine_buffer_size(g->frames) / (size_t)g->info.frames;
    memcpy((char *)imagine_buffer_data(g->frames) + frame * (size_t)event->first_frame,
           imagine_buffer_data(event->frames), imagine_buffer_size(event->frames));
    return status;
}

/* Of the stages that have no events: reading a large model's weights takes minutes. */
static void show_stage(generation *g)
{
    static const char *const names[8] = { [IMAGINE_JOB_LOAD] = "load", [IMAGINE_JOB_TEXT] = "text", [IMAGINE_JOB_ENCODE] = "encode" };
    imagine_job_info now = { .struct_size = sizeof now };
    if (imagine_job_get_info(g->job, &now, NULL) >= 0 && now.stage >= 0 && now.stage < 8 && names[now.stage])
        progress_stage(&g->bar, names[now.stage], now.seconds[now.stage]);
}

/* And what the run can be gone on from, or NULL. */
static imagine_status write_latents(generation *g, imagine_buffer *latents, imagine_buffer *state, const char *path)
{
    return imagine_buffer_save(g->s.context, path, state ? 2 : 1, (imagine_buffer *[]){ latents, state },
                               (const char *const[]){ "latents", "state" }, &g->s.error);
}

/* Bytes of a name that leave room for what is put after it: names have at most 255. */
static int kept_of(const char *name)
{
    size_t kept = strlen(name);
    if (kept > 180)
        for (kept = 180; kept && ((unsigned char)name[kept] & 0xC0) == 0x80;)
            kept--;
    return (int)kept;
}

/* A name that no file has yet, for latents that are not decoded yet: beside the output, here, or among temporary files. */
static void rescue_path(char *path, size_t size, const char *out, int place)
{
    const char *slash = strrchr(out, '/'), *name = slash ? slash + 1 : out, *temporary = getenv("TMPDIR");
    struct stat there;
    char process[32] = "", number[32] = "";
    if (place)
        snprintf(process, sizeof process, ".%ld", (long)getpid());
    for (int i = 1;; i++) {
        if (!place)
            snprintf(path, size, "%.*s", (int)(name - out), out);
        else
            snprintf(path, size, "%s/", place == 1 ? "." : temporary && *temporary ? temporary : "/tmp");
        size_t folder = strlen(path);
        snprintf(path + folder, size - folder, "%.*s%s%s.latents.safetensors", kept_of(name), name, process, number);
        if (lstat(path, &there))
            return;
        snprintf(number, sizeof number, ".%d", i);
    }
}

/* Now and then while it samples, and once at its end if the file is there: what would be lost with the process or the machine. */
static void save_so_far(generation *g, const imagine_event *event)
{
    imagine_buffer *latents = NULL, *state = NULL;
    int over = event->kind == IMAGINE_EVENT_LATENTS;
    if (g->o->save_every <= 0 || (event->seconds - g->saved < g->o->save_every && !(over && *g->kept)))
        return;
    if ((over || imagine_job_get_state(g->job, &state, NULL) >= 0) && imagine_job_get_latents(g->job, &latents, NULL) >= 0) {
        int first = !*g->kept;
        if (first)
            rescue_path(g->kept, sizeof g->kept, g->out, 0);
        if (write_latents(g, latents, state, g->kept) >= 0)
            g->saved = event->seconds;
        else {
            if (!g->warned)
                fprintf(stderr, "imagine: warning: what is sampled so far could not be saved: %s\n", g->s.error.message);
            g->warned = 1;
            g->kept[0] = first ? '\0' : g->kept[0];
            g->s.error = (imagine_error)IMAGINE_ERROR_INIT;
        }
    }
    imagine_buffer_release(&latents);
    imagine_buffer_release(&state);
}

static imagine_status listen(generation *g)
{
    const int64_t wait = g->bar.on ? 250000000 : -1; /* nanoseconds */
    for (;;) {
        imagine_event event = { .struct_size = sizeof event };
        imagine_status status = imagine_job_next(g->job, &event, wait, &g->s.error);
        if (status == IMAGINE_TIMEOUT) {
            show_stage(g);
            continue;
        }
        if (status < 0 || event.kind == IMAGINE_EVENT_DONE)
            return status;
        if (event.kind == IMAGINE_EVENT_STEP) {
            g->step = event;
            progress_show(&g->bar, "sample", event.step, event.steps, event.seconds);
        }
        if (event.kind == IMAGINE_EVENT_STEP || event.kind == IMAGINE_EVENT_LATENTS)
            save_so_far(g, &event);
        if (event.kind != IMAGINE_EVENT_FRAMES)
            continue;
        if ((status = keep_frames(g, &event)) < 0)
            return status;
        progress_show(&g->bar, "decode", event.first_frame + event.frame_count, g->info.frames, event.seconds);
    }
}

static imagine_status save(generation *g)
{
    imagine_model_info model = { .struct_size = sizeof model };
    if (has_suffix(g->out, ".safetensors")) {
        imagine_buffer *latents = NULL;
        imagine_status status = imagine_job_get_latents(g->job, &latents, &g->s.error);
        if (status >= 0)
            status = write_latents(g, latents, NULL, g->out);
        imagine_buffer_release(&latents);
        return status;
    }
    imagine_model_get_info(g->s.model, &model, NULL);
    double fps = g->o->fps > 0 ? g->o->fps : model.frames_per_second > 0 ? model.frames_per_second : 16;
    return imagine_picture_save(g->s.context, g->out, g->frames, fps, &g->s.error);
}

/* After a failure or Ctrl-C: what was sampled is kept, in the file that is there for it or a new one. */
static void rescue(generation *g)
{
    imagine_error error = g->s.error;
    imagine_buffer *latents = NULL, *state = NULL;
    char before[sizeof g->kept];
    imagine_status status = imagine_job_get_latents(g->job, &latents, &g->s.error);
    int sampled = status != IMAGINE_ERROR_STATE;
    imagine_job_get_state(g->job, &state, NULL);
    memcpy(before, g->kept, sizeof before);
    for (int place = *before ? -1 : 0; place < 3 && sampled && latents; place++) {
        if (place >= 0)
            rescue_path(g->kept, sizeof g->kept, g->out, place);
        if ((status = write_latents(g, latents, state, g->kept)) >= 0)
            break;
    }
    if (status >= 0) {
        g->s.kept = g->kept;
        char after[64] = ""; /* a resumed run may have done no step of its own */
        if (g->step.steps)
            snprintf(after, sizeof after, "; sigma %.6g, after step %d of %d", g->step.sigma, g->step.step, g->step.steps);
        fprintf(stderr, "imagine: the latents so far are in %s (imagine decode reads them%s)\n", g->kept, after);
        if (state)
            fprintf(stderr, "imagine: to go on, give the same options and --resume %s\n", g->kept);
    } else if (sampled && *before) {
        memcpy(g->kept, before, sizeof before);
        g->s.kept = g->kept;
        fprintf(stderr, "imagine: the latents so far could not be saved (%s); %s has those of %.0f s after the start\n",
                g->s.error.message, g->kept, g->saved);
    } else if (sampled)
        fprintf(stderr, "imagine: the latents so far are lost: %s\n", g->s.error.message);
    imagine_buffer_release(&latents);
    imagine_buffer_release(&state);
    g->s.error = error;
}

static void summary(const generation *g)
{
    const imagine_job_info *i = &g->info;
    double total = 0;
    for (int k = 1; k < 8; k++)
        total += i->seconds[k];
    if (g->o->json) {
        printf("{\"out\": ");
        json_text(g->out);
        printf(", \"width\": %d, \"height\": %d, \"frames\": %d, \"steps\": %d, \"guidance\": %g, \"seed\": %llu, "
               "\"seconds\": {\"load\": %.4f, \"encode\": %.4f, \"text\": %.4f, \"sample\": %.4f, \"decode\": %.4f, \"total\": %.4f}, "
               "\"memory_peak\": %llu}\n",
               i->width, i->height, i->frames, i->steps, i->guidance, (unsigned long long)g->o->seed,
               i->seconds[IMAGINE_JOB_LOAD], i->seconds[IMAGINE_JOB_ENCODE], i->seconds[IMAGINE_JOB_TEXT],
               i->seconds[IMAGINE_JOB_SAMPLE], i->seconds[IMAGINE_JOB_DECODE], total,
               (unsigned long long)i->memory_peak);
        return;
    }
    if (g->o->quiet)
        return;
    printf("%s: %d frame%s of %dx%d, %d step%s, guidance %g, seed %llu\n", g->out, i->frames, plural(i->frames), i->width,
           i->height, i->steps, plural(i->steps), i->guidance, (unsigned long long)g->o->seed);
    printf("load %.2f s, ", i->seconds[IMAGINE_JOB_LOAD]);
    if (i->seconds[IMAGINE_JOB_ENCODE] > 0)
        printf("encode %.2f s, ", i->seconds[IMAGINE_JOB_ENCODE]);
    printf("text %.2f s, sample %.2f s, decode %.2f s: %.2f s; peak memory %.1f MB\n", i->seconds[IMAGINE_JOB_TEXT],
           i->seconds[IMAGINE_JOB_SAMPLE], i->seconds[IMAGINE_JOB_DECODE], total, (double)i->memory_peak / 1e6);
}

static int generate(generation *g)
{
    int failed = start(g);
    if (failed)
        return failed;
    progress_begin(&g->bar, g->o);
    imagine_status status = listen(g);
    progress_end(&g->bar);
    imagine_job_get_info(g->job, &g->info, NULL);
    if (status >= 0)
        status = save(g);
    if (status < 0) {
        rescue(g);
        return session_failed(&g->s);
    }
    if (*g->kept)
        remove(g->kept);
    summary(g);
    return EXIT_OK;
}

int run_generate(const arguments *o)
{
    arguments settled = *o;
    generation g = { .o = &settled, .out = o->out ? o->out : o->usual_out };
    if (o->input && o->prompt)
        return usage_error(o, "give the prompt as the argument or with --prompt, not both");
    settled.prompt = o->prompt ? o->prompt : o->input;
    if (!settled.prompt && !o->embeds)
        return usage_error(o, "a prompt is missing");
    if (settled.prompt && *settled.prompt && o->embeds)
        return usage_error(o, "--embeds: they take the prompt's place, so leave that out");
    if (o->image && o->extend)
        return usage_error(o, "--image: --extend says what the clip begins with");
    if ((o->mask || o->strength < 1) && !o->init)
        return usage_error(o, "%s: it goes with --init", o->mask ? "--mask" : "--strength");
    if (!has_suffix(g.out, ".png") && !has_suffix(g.out, ".safetensors"))
        return usage_error(o, "--out: \"%s\" ends neither with .png nor with .safetensors", g.out);
    if (o->fps > 0 && has_suffix(g.out, ".safetensors"))
        return usage_error(o, "--fps: latents have no rate, so it has no use; imagine decode takes it");
    const char *const inputs[] = { NULL, o->noise, o->embeds, o->image, o->last_image, o->extend, o->init, o->mask, o->resume };
    int status = 0;
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs && !status; i++)
        if (!i || inputs[i])
            status = check_output(o, g.out, inputs[i]);
    if (status || (status = session_open(&g.s, o, 1)))
        return status;
    status = generate(&g);
    imagine_job_destroy(&g.job);
    imagine_buffer_release(&g.frames);
    imagine_buffer_release(&g.prompt_embeds);
    imagine_buffer_release(&g.negative_embeds);
    imagine_buffer_release(&g.noise);
    imagine_buffer_release(&g.state);
    imagine_buffer_release(&g.first);
    imagine_buffer_release(&g.last);
    imagine_buffer_release(&g.extended);
    imagine_buffer_release(&g.init);
    imagine_buffer_release(&g.mask);
    session_close(&g.s);
    return status;
}
