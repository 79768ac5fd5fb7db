/* SPDX-License-Identifier: MIT */

/* imagine: pictures and video from a prompt, on the command line. This file reads the options; each command has a
 * function in the files beside it. */

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define CODING " model threads cpu-level device precision memory-limit json verbose help " /* the VAE is always read whole */
#define MACHINE CODING "weights "

const command commands[] = {
    { "generate", "a picture or clip from a prompt",
      MACHINE "quiet prompt negative seed width height frames steps guidance guidance-2 guidance-rescale guidance-start guidance-stop "
              "schedule step-rule shift eta cfg noise embeds image last-image extend init strength mask known resume save-every "
              "out fps tile ",
      "PROMPT",
      "  imagine generate \"a red apple\"\n"
      "  imagine generate \"a yellow car moving to the right\" --seed 7 --steps 30 --out car.png\n"
      "  imagine generate \"a dog\" --frames 1 --guidance 4 --out dog.png\n"
      "  imagine generate \"it turns around\" --image dog.png --out turning.png\n"
      "  imagine generate \"in snow\" --init clip.png --strength 0.6 --out snow.png\n"
      "  imagine generate \"a dog\" --out dog.safetensors        only the latents, for `imagine decode`\n"
      "  imagine generate \"a dog\" --resume out.png.latents.safetensors    goes on where it was interrupted\n",
      run_generate, "out.png" },
    { "encode", "pictures to latents", CODING "quiet out tile ", "PICTURES",
      "  imagine encode clip.png --out latents.safetensors       a PNG or an animated PNG\n"
      "  imagine encode frames/ --out latents.safetensors        a folder of PNGs, by their names: 10.png before 2.png\n",
      run_encode, "latents.safetensors" },
    { "decode", "latents to pictures", CODING "quiet out fps tile ", "LATENTS",
      "  imagine decode latents.safetensors --out clip.png\n"
      "  imagine decode latents.safetensors --out frames.safetensors    `frames` as f32 in [-1, 1]\n"
      "  imagine decode latents.safetensors --tile auto --memory-limit 4000    in tiles that fit\n",
      run_decode, "out.png" },
    { "text", "token ids and embeddings of a prompt", MACHINE "quiet prompt out ids-only ", "PROMPT",
      "  imagine text \"a red apple\" --out text.safetensors\n"
      "  imagine text \"a red apple\" --json                      prints the ids\n"
      "  imagine text \"a red apple\" --ids-only                  how many tokens it has, and how many the model sees\n",
      run_text, "text.safetensors" },
    { "denoise", "one forward of the transformer on given tensors", MACHINE "quiet out ", "TENSORS",
      "  imagine denoise inputs.safetensors --out sample.safetensors\n"
      "\n"
      "The file holds hidden_states [batch, channels, frames, height, width], timestep [batch] or [batch, tokens] and\n"
      "encoder_hidden_states [batch, length, dim]; `sample` is written.\n",
      run_denoise, "sample.safetensors" },
    { "info", "what a model is made for, the memory a job needs, and this machine",
      MACHINE "width height frames steps guidance guidance-2 schedule step-rule cfg tile ", "MODEL",
      "  imagine info\n"
      "  imagine info --width 832 --height 480 --frames 81        the memory that such a clip needs\n"
      "  imagine info --memory-limit 8000                         how it would be made within 8 GB\n"
      "  imagine info --json --model ~/models/Wan2.1-T2V-1.3B-Diffusers\n",
      run_info, NULL },
    { "bench", "speed of the kernels and of a whole generation", MACHINE "filter runs quick ", NULL,
      "  imagine bench\n"
      "  imagine bench --filter attention --threads 1\n"
      "  imagine bench --filter model --runs 3                  only prompt to frames\n"
      "  imagine bench --device cuda --precision bf16           the GPU's operations, a step of Wan 1.3B, the VAE\n",
      run_bench, NULL },
    { NULL, NULL, NULL, NULL, NULL, NULL, NULL },
};

static const struct {
    const char *name, *argument, *text;
    int letter;
} described[] = {
    { "prompt", "TEXT", "what to make (or as the argument)", 'p' },
    { "negative", "TEXT", "what to keep away from, where there is guidance: a value other than 1", 'n' },
    { "seed", "N", "number that the noise is drawn from (0)", 's' },
    { "model", "FOLDER", "model pack, or the name of one beside the program ($IMAGINE_MODEL, else tiny)", 'm' },
    { "width", "N", "in pixels", 'W' },
    { "height", "N", "in pixels", 'H' },
    { "frames", "N", "1 for a picture, else what the VAE makes, mostly 4k+1 (`imagine info` tells)", 'f' },
    { "steps", "N", "of the sampler", 'S' },
    { "guidance", "X", "strength of the prompt; 1: without guidance", 'g' },
    { "guidance-2", "X", "the same of the second expert, where the model has two", '2' },
    { "guidance-rescale", "X", "back to the deviation without guidance, 0 to 1 (0)", 'k' },
    { "guidance-start", "X", "share of the steps before guidance begins (0)", 'a' },
    { "guidance-stop", "X", "share of the steps after which it ends (1)", 'z' },
    { "schedule", "NAME", "one of the schedules below, or the sigmas themselves: 1,0.9,0.5,0", 'c' },
    { "step-rule", "NAME", "one of the step rules below instead of the schedule's", 'u' },
    { "shift", "X", "of the schedule", 'x' },
    { "eta", "X", "new noise of the ancestral rule, 0 to 1 (1)", 'E' },
    { "cfg", "MODE", "auto, batched or in-turn", 'C' },
    { "noise", "FILE", "safetensors with the first latents, instead of the seed", 'N' },
    { "embeds", "FILE", "safetensors with prompt_embeds (and negative_prompt_embeds), instead of prompts", 'e' },
    { "image", "FILE", "PNG that the clip begins with", 'i' },
    { "last-image", "FILE", "PNG that it ends with", 'L' },
    { "extend", "FILE", "animated PNG, folder of PNGs or latents (safetensors) that it goes on from", 'X' },
    { "init", "FILE", "clip to start from (PNG, folder of PNGs or latents); --frames defaults to its length; see --strength", 'I' },
    { "strength", "X", "with --init: how much of it is changed, above 0 to 1 (1)", 'y' },
    { "mask", "FILE", "with --init: PNG of one frame or all; what is white is made anew, the rest kept", 'K' },
    { "known", "MODE", "how kept frames are shown to the model: auto, clean or renoised", 'v' },
    { "resume", "FILE", "what an interrupted run left: it goes on; all other options as they were", 'G' },
    { "save-every", "SECONDS", "what --resume takes, in OUT.latents.safetensors, until it is done (60; 0: never)", 'b' },
    { "out", "FILE", "what to write", 'o' },
    { "fps", "X", "frames a second of the animated PNG", 'r' },
    { "tile", "SIZE", "code in tiles of PIXELS or WIDTHxHEIGHT, or auto: the same bytes in less memory", 'T' },
    { "filter", "TEXT", "only entries whose name contains this", 'F' },
    { "runs", "N", "generations to time (2)", 'R' },
    { "quick", NULL, "with --device cuda: tiny sizes, which show only that all of it runs", 'Q' },
    { "threads", "N", "threads that compute (all processors)", 't' },
    { "cpu-level", "NAME", "best, plain, avx2, avx512, avx512bf16, amx", 'l' },
    { "device", "NAME", "cpu, or cuda or cuda:N for an NVIDIA GPU, with libimagine_cuda.so (cpu)", 'd' },
    { "precision", "NAME", "of a GPU's products: f32, or bf16, which is faster (f32)", 'B' },
    { "memory-limit", "MB", "hold no more (what the machine has left): weights are read block by block, or the job is refused", 'M' },
    { "weights", "MODE", "auto, resident or streamed (block by block from the file)", 'w' },
    { "ids-only", NULL, "count the tokens; of the model only the tokenizer is read, and nothing is written", 'O' },
    { "json", NULL, "print one JSON object instead of text, after a failure with \"error\"", 'j' },
    { "quiet", NULL, "print nothing but errors", 'q' },
    { "verbose", NULL, "say more of what the library does, on the standard error output", 'V' },
    { "help", NULL, "print this", 'h' },
};
#define DESCRIBED (sizeof described / sizeof described[0])

static int takes(const command *c, const char *name)
{
    char spaced[40];
    snprintf(spaced, sizeof spaced, " %s ", name);
    return strstr(c->takes, spaced) != NULL;
}

/* What stands behind an option; a limit has no weights to stream where the VAE works alone. */
static const char *text_of(const command *c, size_t index)
{
    return described[index].letter == 'M' && !takes(c, "weights")
               ? "hold no more (what the machine has left); --tile auto makes tiles that fit, and what does not fit fails"
               : described[index].text;
}

static void print_help(const command *c)
{
    char names[512];
    printf("usage: imagine %s%s%s%s [options]\n\n%s\n\n", c->name, c->argument ? " [" : "",
           c->argument ? c->argument : "", c->argument ? "]" : "", c->summary);
    for (size_t i = 0; i < DESCRIBED; i++) {
        char left[40];
        if (!takes(c, described[i].name))
            continue;
        snprintf(left, sizeof left, "--%s%s%s", described[i].name, described[i].argument ? " " : "",
                 described[i].argument ? described[i].argument : "");
        printf("  -%c, %-21s %s", described[i].letter, left, text_of(c, i));
        if (described[i].letter == 'o')
            printf(" (%s)", c->out);
        printf("\n");
    }
    if (takes(c, "schedule"))
        printf("\nSchedules: %s.\n", list_names(names, sizeof names, imagine_schedule_name));
    if (takes(c, "step-rule"))
        printf("Step rules: %s.\n", list_names(names, sizeof names, imagine_step_rule_name));
    printf("\nExamples:\n%s", c->help);
}

static void print_overview(FILE *to)
{
    fprintf(to, "usage: imagine COMMAND [options]\n\n");
    for (const command *c = commands; c->name; c++)
        fprintf(to, "  %-10s %s\n", c->name, c->summary);
    fprintf(to, "\n`imagine COMMAND --help` tells more, `imagine --version` the version. The exit status is 0 on success,\n"
                "2 when the command line itself is wrong, and 1 after every other failure, also for values that this\n"
                "model refuses; what is interrupted ends by the signal.\n\n"
                "Examples:\n  imagine generate \"a red apple\" --out apple.png\n  imagine info\n");
}

int usage_error(const arguments *o, const char *format, ...)
{
    char message[8192];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    fprintf(stderr, "imagine %s: %s\nTry `imagine %s --help`.\n", o->command, message, o->command);
    if (o->json) {
        printf("{");
        json_error(IMAGINE_ERROR_INVALID_ARGUMENT, message);
        printf("}\n");
    }
    return EXIT_USAGE;
}

/* A whole number in low..high. */
static int read_integer(const arguments *o, const char *name, const char *text, long long low, long long high,
                        long long *value)
{
    char *end;
    errno = 0;
    *value = strtoll(text, &end, 10);
    if (!*text || *end || errno || *value < low || *value > high)
        return usage_error(o, "--%s: \"%s\" is no whole number in %lld..%lld", name, text, low, high);
    return 0;
}

static int read_number(const arguments *o, const char *name, const char *text, double low, double high, double *value)
{
    char *end;
    *value = strtod(text, &end);
    if (!*text || *end || !(*value >= low && *value <= high))
        return usage_error(o, "--%s: \"%s\" is no number in %g..%g", name, text, low, high);
    return 0;
}

static int read_seed(arguments *o, const char *text)
{
    char *end;
    errno = 0;
    o->seed = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno)
        return usage_error(o, "--seed: \"%s\" is no whole number from 0", text);
    return 0;
}

static int read_level(arguments *o, const char *text)
{
    static const char *const names[] = { "best", "plain", "avx2", "avx512", "avx512bf16", "amx" };
    for (int32_t i = 0; i < (int32_t)(sizeof names / sizeof *names); i++)
        if (!strcmp(text, names[i])) {
            o->cpu_level = i;
            return 0;
        }
    return usage_error(o, "--cpu-level: \"%s\" is not best, plain, avx2, avx512, avx512bf16 or amx", text);
}

static int read_device(arguments *o, const char *text)
{
    long long number = 0;
    o->device = !strncmp(text, "cuda", 4) ? IMAGINE_DEVICE_CUDA : IMAGINE_DEVICE_CPU;
    if (!strcmp(text, "cpu") || !strcmp(text, "cuda"))
        return 0;
    if (strncmp(text, "cuda:", 5))
        return usage_error(o, "--device: \"%s\" is not cpu, cuda or cuda:N", text);
    int status = read_integer(o, "device", text + 5, 0, 1000, &number);
    o->device_number = (int32_t)number;
    return status;
}

static int read_precision(arguments *o, const char *text)
{
    o->precision = !strcmp(text, "bf16") ? IMAGINE_PRECISION_BF16 : IMAGINE_PRECISION_F32;
    return o->precision || !strcmp(text, "f32") ? 0
                                                : usage_error(o, "--precision: \"%s\" is not f32 or bf16", text);
}

/* 512, 640x360 (0: the whole side) or auto. */
static int read_tile(arguments *o, const char *text)
{
    char *end;
    if (!strcmp(text, "auto")) {
        o->tile_width = o->tile_height = IMAGINE_VAE_TILE_AUTO;
        return 0;
    }
    unsigned long width = strtoul(text, &end, 10), height = width;
    if (*text >= '0' && *text <= '9' && *end == 'x' && end[1] >= '0' && end[1] <= '9')
        height = strtoul(end + 1, &end, 10);
    if (*text < '0' || *text > '9' || *end || width > 1 << 16 || height > 1 << 16)
        return usage_error(o, "--tile: \"%s\" is neither a size as 512 or 640x360 nor auto", text);
    o->tile_width = (int32_t)width;
    o->tile_height = (int32_t)height;
    return 0;
}

static int read_weights(arguments *o, const char *text)
{
    static const char *const names[] = { "auto", "resident", "streamed" };
    for (int32_t i = 0; i < 3; i++)
        if (!strcmp(text, names[i])) {
            o->weights = i;
            return 0;
        }
    return usage_error(o, "--weights: \"%s\" is not auto, resident or streamed", text);
}

static int read_int32(const arguments *o, const char *name, const char *text, long long low, long long high, int32_t *to)
{
    long long value;
    int status = read_integer(o, name, text, low, high, &value);
    if (!status)
        *to = (int32_t)value;
    return status;
}

/* One option. */
static int read_option(arguments *o, size_t index, const char *text)
{
    const char *name = described[index].name;
    long long megabytes;
    int status;
    switch (described[index].letter) {
    case 'p': o->prompt = text; return 0;
    case 'n': o->negative = text; return 0;
    case 's': return read_seed(o, text);
    case 'm': o->model = text; return 0;
    case 'W': return read_int32(o, name, text, 1, 1 << 16, &o->width);
    case 'H': return read_int32(o, name, text, 1, 1 << 16, &o->height);
    case 'f': return read_int32(o, name, text, 1, 1 << 20, &o->frames);
    case 'S': return read_int32(o, name, text, 1, 1000, &o->steps);
    case 'g': return read_number(o, name, text, 0, 1000, &o->guidance);
    case '2': return read_number(o, name, text, 0, 1000, &o->guidance_2);
    case 'k': return read_number(o, name, text, 0, 1, &o->rescale);
    case 'a': return read_number(o, name, text, 0, 1, &o->guidance_start);
    case 'z': return read_number(o, name, text, 0, 1, &o->guidance_stop);
    case 'c': o->schedule = text; return 0;
    case 'w': return read_weights(o, text);
    case 'u': o->step_rule = text; return 0;
    case 'E': return read_number(o, name, text, 0, 1, &o->eta);
    case 'x': return read_number(o, name, text, 1e-3, 1000, &o->shift);
    case 'C': o->cfg = text; return 0;
    case 'N': o->noise = text; return 0;
    case 'e': o->embeds = text; return 0;
    case 'i': o->image = text; return 0;
    case 'L': o->last_image = text; return 0;
    case 'X': o->extend = text; return 0;
    case 'I': o->init = text; return 0;
    case 'y': return read_number(o, name, text, 1e-9, 1, &o->strength);
    case 'K': o->mask = text; return 0;
    case 'v': o->known_mode = text; return 0;
    case 'G': o->resume = text; return 0;
    case 'b': return read_number(o, name, text, 0, 1e9, &o->save_every);
    case 'o': o->out = text; return 0;
    case 'r': return read_number(o, name, text, 0.01, 1000, &o->fps);
    case 'T': return read_tile(o, text);
    case 'F': o->filter = text; return 0;
    case 'R': return read_int32(o, name, text, 1, 1000, &o->runs);
    case 't': return read_int32(o, name, text, 1, 256, &o->threads);
    case 'l': return read_level(o, text);
    case 'd': return read_device(o, text);
    case 'B': return read_precision(o, text);
    case 'M':
        if (!*text || text[strspn(text, "0123456789")])
            return usage_error(o, "--%s: \"%s\" is no whole number of MB, as 8000", name, text);
        status = read_integer(o, name, text, 1, 1ll << 40, &megabytes);
        o->memory_limit = (uint64_t)megabytes * 1000000;
        return status;
    case 'j': o->json = 1; return 0;
    case 'Q': o->quick = 1; return 0;
    case 'O': o->ids_only = 1; return 0;
    case 'V': o->verbose = 1; return 0;
    default: o->quiet = 1; return 0;
    }
}

/* What getopt refuses: `letter` is what it returned, `word` where it stopped. */
static int refused_option(const arguments *o, int letter, const char *word)
{
    size_t i = 0, length = strcspn(word, "=");
    while (i < DESCRIBED && described[i].letter != optopt)
        i++;
    if (i < DESCRIBED)
        return usage_error(o, "--%s: %s", described[i].name, letter == ':' ? "its value is missing" : "it takes no value");
    if (optopt)
        return usage_error(o, "there is no option -%c", optopt);
    for (i = 0; i < DESCRIBED; i++)
        if (length > 2 && !strncmp(described[i].name, word + 2, length - 2))
            return usage_error(o, "%.*s: several options begin so", (int)length, word);
    return usage_error(o, "there is no option %.*s", (int)length, word);
}

static int read_command_line(arguments *o, const command *c, int argc, char **argv)
{
    struct option table[DESCRIBED + 1] = { 0 };
    char letters[2 * DESCRIBED + 3] = "-:"; /* "-": all in its order */
    size_t at = 2;
    for (size_t i = 0; i < DESCRIBED; i++) {
        table[i] = (struct option){ described[i].name, described[i].argument ? required_argument : no_argument, NULL,
                                    described[i].letter };
        letters[at++] = (char)described[i].letter;
        if (described[i].argument)
            letters[at++] = ':';
    }
    opterr = 0;
    for (int letter; (letter = getopt_long(argc, argv, letters, table, NULL)) != -1;)
        o->json |= letter == 'j'; /* known before anything is refused */
    optind = 0; /* from the beginning */
    for (int letter; (letter = getopt_long(argc, argv, letters + 1, table, NULL)) != -1;) {
        size_t i = 0;
        while (i < DESCRIBED && described[i].letter != letter)
            i++;
        if (i == DESCRIBED)
            return refused_option(o, letter, argv[optind - 1]);
        if (!takes(c, described[i].name))
            return usage_error(o, "--%s does not apply here", described[i].name);
        if (letter == 'h') {
            print_help(c);
            return -1;
        }
        int status = read_option(o, i, optarg);
        if (status)
            return status;
    }
    if (optind < argc)
        o->input = argv[optind++];
    if (optind < argc)
        return usage_error(o, "one argument too many: \"%s\"", argv[optind]);
    if (o->input && !c->argument)
        return usage_error(o, "one argument too many: \"%s\"", o->input);
    return 0;
}

static const command *find_command(const char *name)
{
    for (const command *c = commands; c->name; c++)
        if (!strcmp(c->name, name))
            return c;
    return NULL;
}

static int no_command(const char *name)
{
    fprintf(stderr, "imagine: \"%s\" is no command\n", name);
    print_overview(stderr);
    return EXIT_USAGE;
}

static int asks_for_help(const char *word)
{
    return !strcmp(word, "help") || !strcmp(word, "--help") || !strcmp(word, "-h");
}

/* `imagine help`, of all or of the command that is named after it. */
static int help(arguments *o, int count, char **words)
{
    const command *named = count > 0 ? find_command(words[0]) : NULL;
    o->command = "help";
    if (count > 1)
        return usage_error(o, "one argument too many: \"%s\"", words[1]);
    if (count > 0 && !named && !asks_for_help(words[0]))
        return no_command(words[0]);
    if (named)
        print_help(named);
    else
        print_overview(stdout);
    return EXIT_OK;
}

static int run(int argc, char **argv)
{
    arguments o = { .guidance = -1, .guidance_2 = -1, .guidance_stop = 1, .eta = 1, .strength = 1, .save_every = 60, .runs = 2 };
    if (argc < 2) {
        print_overview(stderr);
        return EXIT_USAGE;
    }
    if (asks_for_help(argv[1]))
        return help(&o, argc - 2, argv + 2);
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
        printf("imagine %s\n", imagine_version_string());
        return EXIT_OK;
    }
    const command *c = find_command(argv[1]);
    if (!c)
        return no_command(argv[1]);
    o.command = c->name;
    o.usual_out = c->out;
    int status = read_command_line(&o, c, argc - 1, argv + 1);
    return status < 0 ? EXIT_OK : status > 0 ? status : c->run(&o);
}

int main(int argc, char **argv)
{
    int status = run(argc, argv);
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "imagine: the standard output could not be written\n");
        status = status ? status : EXIT_FAILED;
    }
    end_as_interrupted();
    return status;
}
