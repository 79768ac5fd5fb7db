/* SPDX-License-Identifier: MIT */

/* Many at once: contexts, jobs and stages that share everything the interface allows to be shared. Made to be run under
 * the thread sanitizer as well (tests/run). */

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "api.h"

enum { CONTEXTS = 16, JOBS = 4 };

/* What a thread does with a number and something that all have. */
typedef struct member {
    int number;
    imagine_model *model; /* shared, or NULL */
    imagine_buffer *latents; /* made; NULL after a failure */
    const char *path;
    imagine_error error;
} member;

/* All begin at once. */
static pthread_barrier_t start;

static void run_all(member *members, int count, void *(*run)(void *))
{
    pthread_t threads[CONTEXTS];
    int made = 0;
    pthread_barrier_init(&start, NULL, (unsigned)count);
    while (made < count && !pthread_create(&threads[made], NULL, run, &members[made]))
        made++;
    if (made < count)
        abort(); /* the others wait for ever */
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&start);
}

static imagine_buffer *sample(imagine_model *model, imagine_error *error)
{
    imagine_sampler_options options;
    imagine_sampler_options_init(&options, sizeof options);
    options.width = options.height = 16;
    options.steps = 2;
    options.seed = 7;
    return job_latents(model, "a dog", &options, error);
}

static void check_same(member *members, int count)
{
    for (int i = 0; i < count; i++) {
        if (!members[i].latents)
            fprintf(stderr, "    %d: %s\n", i, members[i].error.message);
        CHECK(same_bytes(members[0].latents, members[i].latents));
    }
    for (int i = 0; i < count; i++)
        imagine_buffer_release(&members[i].latents);
}

/* ---- contexts ---------------------------------------------------------------------------------------------------- */

static void *context_of_its_own(void *arg)
{
    member *m = arg;
    pthread_barrier_wait(&start);
    imagine_model *model = open_model(1 + m->number % 3, &m->error);
    if (model)
        m->latents = sample(model, &m->error);
    imagine_model_release(&model);
    return NULL;
}

static void contexts_at_once(void)
{
    member members[CONTEXTS] = { 0 };
    for (int i = 0; i < CONTEXTS; i++)
        members[i].number = i;
    run_all(members, CONTEXTS, context_of_its_own);
    check_same(members, CONTEXTS);
}

/* ---- one model --------------------------------------------------------------------------------------------------- */

static void *job_of_its_own(void *arg)
{
    member *m = arg;
    pthread_barrier_wait(&start);
    m->latents = sample(m->model, &m->error);
    return NULL;
}

/* All of them want the weights first, which one of them reads. */
static void jobs_on_a_model(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    for (int32_t threads = 1; threads <= 3; threads++) {
        member members[JOBS] = { 0 };
        imagine_model *model = open_model(threads, &err);
        REQUIRE(model);
        for (int i = 0; i < JOBS; i++)
            members[i].model = model;
        run_all(members, JOBS, job_of_its_own);
        check_same(members, JOBS);
        imagine_model_release(&model);
    }
}

/* One job, and threads that ask after it and cancel it. */
static void *ask_and_cancel(void *arg)
{
    imagine_job *job = arg;
    imagine_error err;
    usleep(2000);
    for (int i = 0; i < 20; i++) {
        imagine_job_info info = { .struct_size = sizeof info };
        imagine_buffer *latents = NULL;
        imagine_job_get_info(job, &info, &err);
        imagine_job_get_latents(job, &latents, &err);
        imagine_buffer_release(&latents);
    }
    imagine_job_cancel(job);
    return NULL;
}

static void *job_with_company(void *arg)
{
    member *m = arg;
    imagine_sampler_options sampler;
    imagine_job_options options;
    imagine_job *job;
    pthread_t other;
    imagine_sampler_options_init(&sampler, sizeof sampler);
    sampler.steps = 1000;
    imagine_job_options_init(&options, sizeof options);
    options.sampler = &sampler;
    options.events = 0xffffffffu;
    pthread_barrier_wait(&start);
    if (imagine_job_create(&job, m->model, &options, &m->error) < 0)
        return NULL;
    if (!pthread_create(&other, NULL, ask_and_cancel, job)) {
        imagine_status status = run_job(job, &m->error);
        pthread_join(other, NULL);
        m->number = status == IMAGINE_ERROR_CANCELLED;
    }
    imagine_job_destroy(&job);
    return NULL;
}

static void jobs_with_company(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    member members[JOBS] = { 0 };
    imagine_model *model = open_model(2, &err);
    REQUIRE(model);
    for (int i = 0; i < JOBS; i++)
        members[i].model = model;
    run_all(members, JOBS, job_with_company);
    for (int i = 0; i < JOBS; i++)
        CHECK(members[i].number == 1);
    imagine_model_release(&model);
}

/* ---- stages and files -------------------------------------------------------------------------------------------- */

/* Text, decode, and a file that all write: what stands there in the end is one of them, whole. */
static void *stages_by_hand(void *arg)
{
    member *m = arg;
    imagine_text *text = NULL;
    imagine_vae *vae = NULL;
    imagine_context *context = open_context(1, &m->error);
    imagine_buffer *embeds = NULL, *frames = NULL, *latents = m->latents;
    static const char *const name = "embeds";
    m->latents = NULL;
    pthread_barrier_wait(&start);
    if (context && imagine_text_create(&text, m->model, NULL, &m->error) >= 0 &&
        imagine_text_encode(text, "a dog", NULL, &embeds, &m->error) >= 0 &&
        imagine_vae_create(&vae, m->model, NULL, &m->error) >= 0 &&
        imagine_vae_decode(vae, latents, IMAGINE_F32, &frames, &m->error) >= 0 &&
        imagine_buffer_save(context, m->path, 1, &embeds, &name, &m->error) >= 0)
        m->latents = imagine_buffer_retain(frames);
    imagine_text_destroy(&text);
    imagine_vae_destroy(&vae);
    imagine_buffer_release(&frames);
    imagine_buffer_release(&embeds);
    imagine_buffer_release(&latents);
    imagine_context_release(&context);
    return NULL;
}

static void stages_on_a_model(void)
{
    imagine_error err = IMAGINE_ERROR_INIT;
    char folder[] = P_tmpdir "/imagine-crowd-XXXXXX", path[96];
    member members[JOBS] = { 0 };
    imagine_model *model = open_model(2, &err);
    imagine_context *context = open_context(1, &err);
    imagine_buffer *latents = model ? sample(model, &err) : NULL, *embeds = NULL;
    REQUIRE(latents && context && mkdtemp(folder));
    snprintf(path, sizeof path, "%s/embeds.safetensors", folder);
    for (int i = 0; i < JOBS; i++)
        members[i] = (member){ .model = model, .latents = imagine_buffer_retain(latents), .path = path };
    run_all(members, JOBS, stages_by_hand);
    check_same(members, JOBS);
    CHECK_OK(imagine_buffer_load(&embeds, context, path, "embeds", &err));
    CHECK(unlink(path) == 0 && rmdir(folder) == 0);
    imagine_buffer_release(&embeds);
    imagine_buffer_release(&latents);
    imagine_context_release(&context);
    imagine_model_release(&model);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = { { "16 contexts at once", contexts_at_once },
                                       { "4 jobs on one model", jobs_on_a_model },
                                       { "jobs with company", jobs_with_company },
                                       { "stages on one model", stages_on_a_model } };
    return test_main("api/crowd", cases, sizeof cases / sizeof cases[0], argc, argv);
}
