/* SPDX-License-Identifier: MIT */
#ifndef CLI_H
#define CLI_H

/* The command-line program `imagine`: what its commands share. It uses the library's public headers only. */

#include <imagine/imagine.h>

#define EXIT_OK 0
#define EXIT_FAILED 1
#define EXIT_USAGE 2

/* Everything that options can say; each command takes some of them. */
typedef struct arguments {
    const char *command;
    const char *input; /* the argument that is no option */
    const char *usual_out; /* what the command writes where `out` is NULL */
    const char *prompt, *negative, *model, *out, *schedule, *step_rule, *cfg, *noise, *embeds, *filter;
    const char *image, *last_image, *init, *extend, *mask, *known_mode, *resume;
    int32_t width, height, frames, steps, threads, cpu_level, device, device_number, precision, weights, runs, tile_width, tile_height;
    int json, quiet, quick, ids_only, verbose;
    uint64_t seed, memory_limit;
    double guidance, guidance_2, rescale, guidance_start, guidance_stop, shift, eta, strength, fps, save_every;
} arguments;

typedef struct command {
    const char *name, *summary;
    const char *takes; /* the options it takes, each between spaces */
    const char *argument; /* name of the argument that is no option, or NULL */
    const char *help; /* how it is used, with examples */
    int (*run)(const arguments *);
    const char *out; /* what it writes where nothing is said, or NULL */
} command;

extern const command commands[];

int run_generate(const arguments *o);
int run_encode(const arguments *o);
int run_decode(const arguments *o);
int run_text(const arguments *o);
int run_denoise(const arguments *o);
int run_info(const arguments *o);
int run_bench(const arguments *o);

/* Asked before the work, that it be not in vain: whether a file can be put there that is not `input` (NULL: none is read). 0, or an
 * exit code after saying why not. */
int check_output(const arguments *o, const char *path, const char *input);

/* What every command opens and closes again. */
typedef struct session {
    imagine_context *context;
    imagine_model *model;
    imagine_cancel *cancel; /* fired by Ctrl-C */
    imagine_error error;
    const char *kept; /* the file with what a failure has left, or NULL */
    int json; /* failures are told in JSON, too */
    int limited; /* the memory limit is what the machine has left, as none was given */
} session;

/* Opens the context and, when `with_model`, the model; says what went wrong. Returns 0 or an exit code. */
int session_open(session *s, const arguments *o, int with_model);
void session_close(session *s);
/* Prints the session's error; returns EXIT_FAILED. */
int session_failed(const session *s);
/* Where a signal cancelled the work: ends the program by it, so that a shell's loop ends as well. */
void end_as_interrupted(void);

const char *level_name(imagine_cpu_level level);

/* Bytes that this process could have without driving others to swapping; 0: nobody knows. */
uint64_t memory_left(void);

/* The folder of the model asked for: a path, or a name under the models beside the program. */
const char *find_model(const arguments *o, char *path, size_t size);

/* Fills in the sampler's options. `sigmas` takes up to 1001 numbers. 0, or EXIT_USAGE after a message. */
int sampler_options(imagine_sampler_options *out, double *sigmas, const arguments *o);

/* The names of schedules or step rules, with commas between. Returns `text`. */
char *list_names(char *text, size_t size, const char *(*name_of)(int32_t));

int has_suffix(const char *text, const char *suffix);
const char *plural(int32_t count); /* "s", or nothing for 1 */
int usage_error(const arguments *o, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Output: JSON on stdout. */
void json_text(const char *text); /* with quotes and escapes; what is not UTF-8 as U+FFFD */
void json_error(imagine_status status, const char *message); /* "error": {...}, as a member of an object */
void json_shape(const imagine_buffer *buffer); /* "[3, 9, 64, 64]" */

/* A bar on stderr when that is a terminal. */
typedef struct progress {
    int on;
    const char *stage; /* the one that is shown, and where it was first: what is left is told by the steps since */
    int32_t first;
    double begin;
} progress;
void progress_begin(progress *p, const arguments *o);
void progress_show(progress *p, const char *stage, int32_t done, int32_t all, double seconds);
void progress_stage(progress *p, const char *stage, double seconds); /* one that does not tell how far it is */
void progress_end(progress *p);

#endif
