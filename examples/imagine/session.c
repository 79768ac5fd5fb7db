/* SPDX-License-Identifier: MIT */

/* What the commands share: opening a model, Ctrl-C, the progress bar, JSON. */

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

static imagine_cancel *volatile interrupted; /* what Ctrl-C fires */
static volatile sig_atomic_t caught; /* the signal that did, or 0 */

static void on_interrupt(int number)
{
    caught = number;
    imagine_cancel_fire(interrupted);
}

/* The first Ctrl-C stops the work, a second one the program. What the program was started to ignore stays so. */
static void catch_interrupt(imagine_cancel *cancel)
{
    static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction action = { .sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND | SA_RESTART }, before;
    interrupted = cancel;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (!sigaction(numbers[i], NULL, &before) && before.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
}

void end_as_interrupted(void)
{
    if (caught) {
        signal(caught, SIG_DFL);
        raise(caught);
    }
}

static int is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

const char *find_model(const arguments *o, char *path, size_t size)
{
    static const char *const beside[] = { "models", "../models", "../../models", "../share/imagine/models" };
    const char *wanted = o->model ? o->model : getenv("IMAGINE_MODEL");
    char self[4096];
    if (!wanted || !*wanted)
        wanted = "tiny";
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (strchr(wanted, '/') || is_folder(wanted) || length < 0)
        return wanted;
    self[length] = 0;
    const char *folder = dirname(self);
    for (size_t i = 0; i < sizeof beside / sizeof beside[0]; i++) {
        snprintf(path, size, "%s/%s/%s", folder, beside[i], wanted);
        if (is_folder(path))
            return path;
    }
    return wanted;
}

/* Of a name that is no folder, the library could say no more than that. */
static imagine_status open_model(session *s, const arguments *o, const imagine_model_options *how)
{
    char path[8192];
    const char *found = find_model(o, path, sizeof path);
    if (strchr(found, '/') || is_folder(found))
        return imagine_model_open(&s->model, s->context, found, how, &s->error);
    s->error.status = IMAGINE_ERROR_NOT_FOUND;
    snprintf(s->error.message, sizeof s->error.message,
             "there is no model \"%.300s\" here or beside the program; give a model's folder with --model or in IMAGINE_MODEL", found);
    return s->error.status;
}

static void print_log(void *data, imagine_log_level level, const char *text)
{
    (void)data;
    fprintf(stderr, "imagine: %s%s\n", level <= IMAGINE_LOG_ERROR ? "error: " : level <= IMAGINE_LOG_WARNING ? "warning: " : "", text);
}

/* A job that the machine has no memory for is made within it or refused, instead of being ended by the system halfway. */
static uint64_t limit_by_itself(const arguments *o)
{
    uint64_t left = memory_left();
    int measured = !strcmp(o->command, "bench");
    return measured || o->device == IMAGINE_DEVICE_CUDA ? 0 : left / 20 * 19; /* the rest for the clip, stacks and what comes meanwhile */
}

int session_open(session *s, const arguments *o, int with_model)
{
    imagine_context_options options;
    imagine_model_options how;
    memset(s, 0, sizeof *s);
    s->error = (imagine_error)IMAGINE_ERROR_INIT;
    s->json = o->json;
    imagine_context_options_init(&options, sizeof options);
    options.threads = o->threads;
    options.cpu_level = o->cpu_level;
    options.memory_limit = o->memory_limit ? o->memory_limit : limit_by_itself(o);
    s->limited = !o->memory_limit;
    options.device = o->device ? o->device : IMAGINE_DEVICE_CPU;
    options.device_number = o->device_number;
    options.precision = o->precision;
    options.log = o->quiet ? NULL : print_log;
    options.log_level = o->verbose ? IMAGINE_LOG_DEBUG : IMAGINE_LOG_WARNING;
    imagine_model_options_init(&how, sizeof how);
    how.weights = o->weights;
    if (imagine_context_create(&s->context, &options, &s->error) < 0 ||
        imagine_cancel_create(&s->cancel, s->context, &s->error) < 0 ||
        (with_model && open_model(s, o, &how) < 0)) {
        int status = session_failed(s);
        session_close(s);
        return status;
    }
    catch_interrupt(s->cancel);
    return 0;
}

void session_close(session *s)
{
    interrupted = NULL;
    imagine_cancel_release(&s->cancel);
    imagine_model_release(&s->model);
    imagine_context_release(&s->context);
}

static int failed(int json, imagine_status status, const char *message, const char *kept)
{
    fprintf(stderr, "imagine: %s\n", message);
    if (json) {
        printf("{");
        json_error(status, message);
        if (kept) {
            printf(", \"latents\": ");
            json_text(kept);
        }
        printf("}\n");
    }
    return EXIT_FAILED;
}

int session_failed(const session *s)
{
    int status = failed(s->json, s->error.status, s->error.message, s->kept);
    if (s->limited && s->error.status == IMAGINE_ERROR_NO_MEMORY)
        fprintf(stderr, "imagine: the limit is what this machine has left now; --memory-limit sets another\n");
    return status;
}

/* Whether a file can be made beside `target`, whose name begins at `name`. 0, or errno. */
static int try_folder(const char *target, size_t name)
{
    char trial[PATH_MAX + 64];
    snprintf(trial, sizeof trial, "%.*s.imagine-%ld.part", (int)name, target, (long)getpid());
    int fd = open(trial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return errno == EEXIST ? 0 : errno;
    close(fd);
    unlink(trial);
    return 0;
}

/* Where a link to a file that is not there yet leads. NULL: it is no link. */
static const char *follow(const char *path, char linked[PATH_MAX])
{
    char next[PATH_MAX];
    const char *found = NULL;
    for (int i = 0; i < 40; i++) {
        const char *at = found ? found : path, *slash = strrchr(at, '/');
        ssize_t length = readlink(at, next, sizeof next - 1);
        if (length < 0)
            return found;
        int folder = next[0] != '/' && slash ? (int)(slash + 1 - at) : 0;
        if (folder + length >= PATH_MAX)
            return found;
        memmove(linked, at, (size_t)folder);
        memcpy(linked + folder, next, (size_t)length);
        linked[folder + length] = 0;
        found = linked;
    }
    return found;
}

int check_output(const arguments *o, const char *path, const char *input)
{
    struct stat there, read;
    char linked[PATH_MAX], message[2 * PATH_MAX + 200];
    const char *target = path;
    int refused = stat(path, &there) ? errno : 0;
    if (!refused && !S_ISREG(there.st_mode)) {
        snprintf(message, sizeof message, "%s: exists and is not a regular file", path);
        return failed(o->json, IMAGINE_ERROR_IO, message, NULL);
    }
    if (!refused && input && !stat(input, &read) && read.st_dev == there.st_dev && read.st_ino == there.st_ino)
        return usage_error(o, "--out: \"%s\" is what is read, and would be gone", path);
    /* The library writes beside what an existing output is a link to, under a name that is no longer than may be. */
    if (!refused && realpath(path, linked))
        target = linked;
    else if (refused == ENOENT && follow(path, linked))
        target = linked;
    const char *slash = strrchr(target, '/');
    if (!refused || refused == ENOENT)
        refused = try_folder(target, slash ? (size_t)(slash + 1 - target) : 0);
    if (!refused)
        return EXIT_OK;
    snprintf(message, sizeof message, "%s: no such file can be made in the folder %.*s: %s", path,
             slash && slash != target ? (int)(slash - target) : 1, slash ? target : ".", strerror(refused));
    return failed(o->json, IMAGINE_ERROR_IO, message, NULL);
}

int has_suffix(const char *text, const char *suffix)
{
    size_t a = strlen(text), b = strlen(suffix);
    return a >= b && !strcmp(text + a - b, suffix);
}

const char *plural(int32_t count)
{
    return count == 1 ? "" : "s";
}

/* The number that `name_of` has for a name, or 0. */
static int32_t number_of(const char *name, const char *(*name_of)(int32_t))
{
    for (int32_t i = 1; name_of(i); i++)
        if (!strcmp(name_of(i), name))
            return i;
    return 0;
}

char *list_names(char *text, size_t size, const char *(*name_of)(int32_t))
{
    size_t at = 0;
    text[0] = 0;
    for (int32_t i = 1; name_of(i) && at < size; i++)
        if (strcmp(name_of(i), "sigmas"))
            at += (size_t)snprintf(text + at, size - at, "%s%s", at ? ", " : "", name_of(i));
    return text;
}

/* "1,0.9,0.5,0" */
static int read_sigmas(const arguments *o, imagine_sampler_options *out, double *sigmas)
{
    const char *at = o->schedule;
    char names[512];
    for (out->sigma_count = 0; out->sigma_count < 1001;) {
        char *end;
        sigmas[out->sigma_count] = strtod(at, &end);
        if (end == at)
            break;
        out->sigma_count++;
        at = end;
        if (*at != ',' || !at[1]) /* a comma at the end: the last one is missing */
            break;
        at++;
    }
    if (*at || out->sigma_count < 2)
        return usage_error(o, "--schedule: \"%s\" is neither one of %s nor a list like 1,0.9,0.5,0", o->schedule,
                           list_names(names, sizeof names, imagine_schedule_name));
    out->schedule = IMAGINE_SCHEDULE_SIGMAS;
    out->sigmas = sigmas;
    return 0;
}

int sampler_options(imagine_sampler_options *out, double *sigmas, const arguments *o)
{
    char names[512];
    imagine_sampler_options_init(out, sizeof *out);
    out->width = o->width;
    out->height = o->height;
    out->frames = o->frames;
    out->steps = o->steps;
    out->seed = o->seed;
    out->guidance = o->guidance;
    out->guidance_2 = o->guidance_2;
    out->guidance_rescale = o->rescale;
    out->guidance_start = o->guidance_start;
    out->guidance_stop = o->guidance_stop;
    out->shift = o->shift;
    out->eta = o->eta;
    out->strength = o->strength;
    if (o->known_mode) {
        out->known_mode = !strcmp(o->known_mode, "clean")      ? IMAGINE_KNOWN_CLEAN
                          : !strcmp(o->known_mode, "renoised") ? IMAGINE_KNOWN_RENOISED
                                                               : IMAGINE_KNOWN_AUTO;
        if (out->known_mode == IMAGINE_KNOWN_AUTO && strcmp(o->known_mode, "auto"))
            return usage_error(o, "--known: \"%s\" is not auto, clean or renoised", o->known_mode);
    }
    if (o->cfg) {
        out->cfg_mode = !strcmp(o->cfg, "batched")   ? IMAGINE_CFG_BATCHED
                        : !strcmp(o->cfg, "in-turn") ? IMAGINE_CFG_IN_TURN
                                                     : IMAGINE_CFG_AUTO;
        if (out->cfg_mode == IMAGINE_CFG_AUTO && strcmp(o->cfg, "auto"))
            return usage_error(o, "--cfg: \"%s\" is not auto, batched or in-turn", o->cfg);
    }
    if (o->step_rule && !(out->step_rule = number_of(o->step_rule, imagine_step_rule_name)))
        return usage_error(o, "--step-rule: \"%s\" is not one of %s", o->step_rule,
                           list_names(names, sizeof names, imagine_step_rule_name));
    if (!o->schedule)
        return 0;
    out->schedule = number_of(o->schedule, imagine_schedule_name);
    return out->schedule && out->schedule != IMAGINE_SCHEDULE_SIGMAS ? 0 : read_sigmas(o, out, sigmas);
}

/* Bytes of the character that begins there; 0 where none does. */
static size_t utf8_length(const unsigned char *c)
{
    size_t more = *c < 0x80 ? 0 : *c >= 0xC2 && *c < 0xE0 ? 1 : *c >= 0xE0 && *c < 0xF0 ? 2 : *c >= 0xF0 && *c < 0xF5 ? 3 : 4;
    if (more == 4 || (*c == 0xE0 && c[1] < 0xA0) || (*c == 0xED && c[1] > 0x9F) || (*c == 0xF0 && c[1] < 0x90) ||
        (*c == 0xF4 && c[1] > 0x8F))
        return 0;
    for (size_t i = 1; i <= more; i++)
        if ((c[i] & 0xC0) != 0x80)
            return 0;
    return more + 1;
}

void json_text(const char *text)
{
    putchar('"');
    for (const unsigned char *c = (const unsigned char *)text; *c;) {
        size_t length = utf8_length(c);
        if (*c == '"' || *c == '\\')
            printf("\\%c", *c);
        else if (*c < 32)
            printf("\\u%04x", *c);
        else if (length)
            fwrite(c, 1, length, stdout);
        else
            printf("\\ufffd"); /* names of files can be any bytes, JSON cannot */
        c += length ? length : 1;
    }
    putchar('"');
}

void json_error(imagine_status status, const char *message)
{
    printf("\"error\": {\"status\": \"%s\", \"message\": ", imagine_status_name(status));
    json_text(message);
    printf("}");
}

void json_shape(const imagine_buffer *buffer)
{
    imagine_buffer_info info = { .struct_size = sizeof info };
    imagine_buffer_get_info(buffer, &info, NULL);
    putchar('[');
    for (int32_t i = 0; i < info.ndim; i++)
        printf("%s%lld", i ? ", " : "", (long long)info.shape[i]);
    putchar(']');
}

void progress_begin(progress *p, const arguments *o)
{
    memset(p, 0, sizeof *p);
    p->on = !o->quiet && isatty(2);
}

/* How long the stage will take yet, as long as that is some seconds. */
static void time_left(char *text, size_t size, progress *p, const char *stage, int32_t done, int32_t all, double seconds)
{
    *text = 0;
    if (!p->stage || strcmp(p->stage, stage)) {
        p->stage = stage;
        p->first = done;
        p->begin = seconds;
    }
    double left = done > p->first ? (seconds - p->begin) / (done - p->first) * (all - done) : 0;
    if (left >= 5400)
        snprintf(text, size, "%.1f h left", left / 3600);
    else if (left >= 90)
        snprintf(text, size, "%.0f min left", left / 60);
    else if (left >= 5)
        snprintf(text, size, "%.0f s left", left);
}

void progress_show(progress *p, const char *stage, int32_t done, int32_t all, double seconds)
{
    char bar[31], left[32];
    if (!p->on || all < 1)
        return;
    time_left(left, sizeof left, p, stage, done, all, seconds);
    for (int i = 0; i < 30; i++)
        bar[i] = (int64_t)done * 30 > (int64_t)i * all ? '#' : '.';
    bar[30] = 0;
    fprintf(stderr, "\r%-7s [%s] %d/%d  %.1f s  %-12s", stage, bar, done, all, seconds, left);
    fflush(stderr);
}

void progress_stage(progress *p, const char *stage, double seconds)
{
    if (!p->on)
        return;
    fprintf(stderr, "\r%-7s %.1f s %50s\r%-7s %.1f s ", stage, seconds, "", stage, seconds);
    fflush(stderr);
}

void progress_end(progress *p)
{
    if (p->on)
        fprintf(stderr, "\r%79s\r", "");
    p->on = 0;
}
