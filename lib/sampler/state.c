/* SPDX-License-Identifier: MIT */

/* A run as bytes, to go on from in another process: a head, and behind it the tensors that tensors_of() lists, f32. */

#include "sampler/inside.h"

typedef struct head {
    char magic[8];
    uint32_t tensors, steps, step, batch;
    int64_t shape[4];
    uint64_t seed, schedule;
} head;

static const char magic[8] = { 'i', 'm', 'a', 'g', 'r', 'u', 'n', '1' }; /* the last is the layout's number */
#define MOST_TENSORS 6

/* What the next steps look at. */
static uint32_t tensors_of(const imagine_sampler *s, float *tensors[MOST_TENSORS])
{
    uint32_t count = 0;
    tensors[count++] = s->x;
    tensors[count++] = s->estimate;
    count += imagine__stepper_memory(s->stepper, tensors + count);
    if (s->known && s->o.known_mode == IMAGINE_KNOWN_RENOISED)
        tensors[count++] = s->start;
    return count;
}

/* FNV-1a over the values of a schedule, of which the same options make the same. */
static uint64_t mixed(uint64_t sum, const void *values, size_t size)
{
    const unsigned char *bytes = values;
    for (size_t i = 0; i < size; i++)
        sum = (sum ^ bytes[i]) * UINT64_C(0x100000001b3);
    return sum;
}

static uint64_t sum_of(const imagine__schedule *s)
{
    const int32_t numbers[2] = { s->rule, s->skipped };
    uint64_t sum = mixed(UINT64_C(0xcbf29ce484222325), s->sigmas, (size_t)(s->steps + 1) * sizeof *s->sigmas);
    sum = mixed(sum, s->timesteps, (size_t)s->steps * sizeof *s->timesteps);
    sum = mixed(sum, &s->eta, sizeof s->eta);
    return mixed(sum, numbers, sizeof numbers);
}

static head head_of(const imagine__schedule *schedule, const imagine_sampler_options *o, const int64_t latents[4])
{
    head h = { .steps = (uint32_t)schedule->steps, .batch = (uint32_t)o->batch, .seed = o->seed, .schedule = sum_of(schedule) };
    memcpy(h.magic, magic, sizeof magic);
    memcpy(h.shape, latents, sizeof h.shape);
    return h;
}

static size_t values_of(const head *h)
{
    return (size_t)h->batch * (size_t)h->shape[0] * (size_t)h->shape[1] * (size_t)h->shape[2] * (size_t)h->shape[3] * sizeof(float);
}

/* *found = the head of a state, on the host, which must be of the run that `mine` is of. */
static imagine_status read_head(head *found, const head *mine, const imagine_buffer *state, imagine_error *error)
{
    char has[160], must[160];
    size_t size = imagine_buffer_size(state);
    imagine_status status = imagine__need_tensor(state, "state", IMAGINE_U8, 1, "[bytes]", error);
    if (status < 0)
        return status;
    memset(found, 0, sizeof *found);
    if (size >= sizeof *found)
        memcpy(found, imagine_buffer_data(state), sizeof *found);
    if (memcmp(found->magic, mine->magic, sizeof mine->magic) != 0)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "state: these %zu bytes are no state of a run that this version reads",
                             size);
    if (found->batch != mine->batch || memcmp(found->shape, mine->shape, sizeof mine->shape) != 0) {
        imagine__shape_text(has, sizeof has, 4, found->shape);
        imagine__shape_text(must, sizeof must, 4, mine->shape);
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "state: is of %u clip%s with latents %s, this run makes %u with %s",
                             found->batch, found->batch == 1 ? "" : "s", has, mine->batch, must);
    }
    if (found->steps != mine->steps || found->step > found->steps)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "state: is of step %u of %u, this run has %u step%s", found->step,
                             found->steps, mine->steps, mine->steps == 1 ? "" : "s");
    if (found->schedule != mine->schedule)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "state: is of a run with another schedule, shift or step rule; give the options that it began with");
    if (found->seed != mine->seed)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "state: is of a run with the seed %llu, this one's is %llu",
                             (unsigned long long)found->seed, (unsigned long long)mine->seed);
    if (!found->tensors || found->tensors > MOST_TENSORS || size != sizeof *found + found->tensors * values_of(mine))
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "state: has %zu bytes, which is not what its %u tensors take", size,
                             found->tensors);
    return IMAGINE_OK;
}

imagine_status imagine__sampler_check_state(const imagine_sampler_options *settled, imagine_context *context,
                                            const imagine_buffer *state, const int64_t latents[4], imagine_error *error)
{
    imagine__schedule schedule;
    head found;
    imagine_buffer *on_host;
    imagine_status status = imagine__schedule_of(&schedule, context, settled, error);
    if (status < 0)
        return status;
    const head mine = head_of(&schedule, settled, latents);
    imagine__schedule_free(&schedule, context);
    if ((status = imagine__buffer_on_host(&on_host, state, error)) < 0)
        return status;
    status = read_head(&found, &mine, on_host, error);
    imagine_buffer_release(&on_host);
    return status;
}

static imagine_status new_state(imagine_buffer **state, imagine_sampler *s, size_t size, imagine_error *error)
{
    const int64_t shape[] = { (int64_t)size };
    imagine_status status = imagine__buffer_new(state, s->context, IMAGINE_U8, 1, shape, error);
    if (status != IMAGINE_ERROR_NO_MEMORY)
        return status;
    imagine__arena_trim(s->work.arena); /* what the step used to compute is more */
    return imagine__buffer_new(state, s->context, IMAGINE_U8, 1, shape, error);
}

imagine_status imagine_sampler_get_state(imagine_sampler *sampler, imagine_buffer **state, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(sampler));
    imagine_status status = imagine__need(state, "state", error);
    if (status < 0)
        return status;
    *state = NULL;
    if ((status = imagine__sampler_usable(sampler, error)) < 0)
        return status;
    if (!sampler->begun || sampler->spoilt)
        return imagine__fail(error, IMAGINE_ERROR_STATE,
                             sampler->begun ? "the step that failed left no latents to go on from"
                                            : "no state before imagine_sampler_begin");
    float *tensors[MOST_TENSORS];
    head h = head_of(&sampler->schedule, &sampler->o, sampler->shape);
    size_t size = values_of(&h);
    h.step = (uint32_t)sampler->step;
    h.tensors = tensors_of(sampler, tensors);
    if ((status = new_state(state, sampler, sizeof h + h.tensors * size, error)) < 0)
        return imagine__device_cause(sampler->context, status, error);
    char *at = imagine_buffer_data(*state);
    imagine__copy_host(sampler->context, at, 0, &h, 0, sizeof h, 1);
    for (uint32_t i = 0; i < h.tensors; i++)
        imagine__download(&sampler->work, at + sizeof h + i * size, 0, tensors[i], 0, size, 1);
    if ((status = imagine__work_failed(&sampler->work, error)) < 0)
        imagine_buffer_release(state);
    return imagine__device_cause(sampler->context, status, error);
}

/* After a begin, which has made all that does not depend on the steps. */
static imagine_status go_on(imagine_sampler *s, const head *h, const imagine_buffer *state, imagine_error *error)
{
    float *tensors[MOST_TENSORS];
    uint32_t count = tensors_of(s, tensors);
    size_t size = values_of(h);
    const char *at = (const char *)imagine_buffer_data(state) + sizeof *h;
    if (count != h->tensors)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "state: has %u tensors, this run %u; give the known latents and the known mode that it began with", h->tensors,
                             count);
    int finite = 1;
    for (uint32_t i = 0; i < count; i++) {
        imagine__upload(&s->work, tensors[i], 0, at + i * size, 0, size, 1);
        finite &= s->work.run.kernels->finite(&s->work.run, tensors[i], s->count);
    }
    imagine_status status = imagine__work_check(&s->work, error);
    if (status >= 0 && !finite)
        status = imagine__fail(error, IMAGINE_ERROR_NOT_FINITE, "state: holds a NaN or an infinity");
    if (status < 0)
        return status;
    s->step = (int32_t)h->step;
    imagine__stepper_go_on(s->stepper, s->step);
    return IMAGINE_OK;
}

int32_t imagine__sampler_done(const imagine_sampler *sampler)
{
    return sampler->step;
}

imagine_status imagine_sampler_resume(imagine_sampler *sampler, const imagine_buffer *state, imagine_error *error)
{
    IMAGINE__GUARD(IMAGINE__CONTEXT_OF(sampler));
    head found;
    imagine_buffer *on_host = NULL;
    imagine_status status = imagine__sampler_usable(sampler, error);
    if (status < 0 || (status = imagine__need(state, "state", error)) < 0 ||
        (status = imagine__buffer_on_host(&on_host, state, error)) < 0)
        return status;
    const head mine = head_of(&sampler->schedule, &sampler->o, sampler->shape);
    status = read_head(&found, &mine, on_host, error);
    if (status >= 0 && (status = imagine_sampler_begin(sampler, NULL, error)) >= 0) {
        status = imagine__device_cause(sampler->context, go_on(sampler, &found, on_host, error), error);
        sampler->begun = status >= 0;
    }
    imagine_buffer_release(&on_host);
    return status;
}
