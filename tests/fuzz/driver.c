/* SPDX-License-Identifier: MIT */

/* Where there is no libFuzzer: runs a target on seeds and on changed ones, without looking at what the target reaches.
 *
 *     fuzz_TARGET [-runs=N] [-seconds=S] [-seed=N] FILE_OR_FOLDER...
 *
 * Each seed is run as it is, then N changed ones for at most S seconds (default 20000 and 1). An input that ends the
 * process is in the file that IMAGINE_FUZZ_LAST names, when it names one. */

#include <dirent.h>
#include <sys/stat.h>
#include <time.h>

#include "fuzz.h"

#define MOST_SEEDS 4096
#define LARGEST    ((size_t)1 << 16)

typedef struct seed {
    uint8_t *data;
    size_t size;
} seed;

static seed seeds[MOST_SEEDS];
static size_t count;
static uint64_t state = 0x9e3779b97f4a7c15u;

/* xorshift64* (Vigna 2016) */
static uint32_t random_below(size_t n)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return n ? (uint32_t)((state * 0x2545f4914f6cdd1du >> 32) % n) : 0;
}

static void add(const char *path)
{
    struct stat about;
    DIR *dir = opendir(path);
    if (dir) {
        char inner[1024];
        for (struct dirent *entry; (entry = readdir(dir));)
            if (entry->d_name[0] != '.' && snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name) < (int)sizeof inner)
                add(inner);
        closedir(dir);
        return;
    }
    FILE *file = fopen(path, "rb");
    if (!file || stat(path, &about) || count == MOST_SEEDS) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    seed *s = &seeds[count++];
    s->data = malloc(LARGEST);
    FUZZ_CHECK(s->data);
    s->size = fread(s->data, 1, LARGEST, file);
    fclose(file);
}

/* ---- changes ----------------------------------------------------------------------------------------------------- */

static void cut(uint8_t *data, size_t *size)
{
    size_t at = random_below(*size), length = 1 + random_below(random_below(2) ? 8 : *size - at);
    length = length > *size - at ? *size - at : length;
    memmove(data + at, data + at + length, *size - at - length);
    *size -= length;
}

/* A piece of a seed goes in, or over what is there. */
static void splice(uint8_t *data, size_t *size)
{
    const seed *s = &seeds[random_below(count)];
    size_t from = random_below(s->size), at = random_below(*size + 1), length = 1 + random_below(random_below(2) ? 16 : 512);
    length = length > s->size - from ? s->size - from : length;
    if (random_below(2) && *size + length <= LARGEST) {
        memmove(data + at + length, data + at, *size - at);
        *size += length;
    } else {
        length = length > *size - at ? *size - at : length;
    }
    memcpy(data + at, s->data + from, length);
}

static void change_number(uint8_t *data, size_t size)
{
    static const uint64_t values[] = { 0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
                                       0x7fffffffffffffff, 0xffffffffffffffff };
    uint64_t value = values[random_below(sizeof values / sizeof *values)];
    size_t bytes = (size_t)1 << random_below(4);
    int big = (int)random_below(2);
    if (bytes > size)
        return;
    size_t at = random_below(size - bytes + 1);
    for (size_t i = 0; i < bytes; i++)
        data[at + (big ? bytes - 1 - i : i)] = (uint8_t)(value >> (8 * i));
}

/* Digits are what sizes, shapes and offsets are made of. */
static void change_digit(uint8_t *data, size_t size)
{
    size_t at = random_below(size);
    for (size_t i = 0; i < size; i++) {
        uint8_t *c = &data[(at + i) % size];
        if (*c >= '0' && *c <= '9') {
            *c = (uint8_t)("0123456789-.e"[random_below(13)]);
            return;
        }
    }
}

static void change(uint8_t *data, size_t *size)
{
    uint32_t kind = random_below(6);
    if (!*size || kind == 0)
        splice(data, size);
    else if (kind == 1)
        cut(data, size);
    else if (kind == 2)
        change_number(data, *size);
    else if (kind == 3)
        change_digit(data, *size);
    else if (kind == 4)
        data[random_below(*size)] = (uint8_t)random_below(256);
    else
        data[random_below(*size)] ^= (uint8_t)(1u << random_below(8));
}

/* ---- runs -------------------------------------------------------------------------------------------------------- */

static void run(const uint8_t *data, size_t size)
{
    const char *last = getenv("IMAGINE_FUZZ_LAST");
    FILE *file = last ? fopen(last, "wb") : NULL;
    if (file) {
        fwrite(data, 1, size, file);
        fclose(file);
    }
    LLVMFuzzerTestOneInput(data, size);
}

int main(int argc, char **argv)
{
    static uint8_t data[LARGEST];
    long runs = 20000, seconds = 1, done = 0;
    for (int i = 1; i < argc; i++)
        if (!strncmp(argv[i], "-runs=", 6))
            runs = atol(argv[i] + 6);
        else if (!strncmp(argv[i], "-seconds=", 9))
            seconds = atol(argv[i] + 9);
        else if (!strncmp(argv[i], "-seed=", 6))
            state ^= strtoull(argv[i] + 6, NULL, 10) * 0xd1342543de82ef95u;
        else
            add(argv[i]);
    for (size_t i = 0; i < count; i++)
        run(seeds[i].data, seeds[i].size);
    time_t end = time(NULL) + seconds;
    for (; count && done < runs && time(NULL) < end; done++) {
        const seed *s = &seeds[random_below(count)];
        size_t size = s->size;
        memcpy(data, s->data, size);
        for (uint32_t changes = 1 + random_below(6); changes; changes--)
            change(data, &size);
        run(data, size);
    }
    printf("%zu seeds and %ld inputs: 1 passed, 0 failed, 0 skipped\n", count, done);
    return 0;
}
