/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <time.h>

#include "stage.h"

imagine_status imagine__need(const void *pointer, const char *name, imagine_error *error)
{
    return pointer ? IMAGINE_OK
                   : imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: the pointer is NULL", name);
}

imagine_status imagine__need_tensor(const imagine_buffer *buffer, const char *name, imagine_dtype dtype, int32_t ndim,
                                    const char *layout, imagine_error *error)
{
    imagine_status status = imagine__need(buffer, name, error);
    if (status < 0)
        return status;
    int32_t has;
    const int64_t *shape = imagine__buffer_shape(buffer, &has);
    int empty = 0;
    for (int32_t i = 0; i < has; i++)
        empty |= shape[i] == 0;
    if (imagine__buffer_dtype(buffer) == dtype && has == ndim && !empty)
        return IMAGINE_OK;
    char text[160];
    imagine__shape_text(text, sizeof text, has, shape);
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: is %s %s, must be %s %s", name,
                         imagine__dtype_name(imagine__buffer_dtype(buffer)), text, imagine__dtype_name(dtype), layout);
}

imagine_status imagine__need_finite(imagine__work *work, const imagine_buffer *buffer, const char *name,
                                    imagine_error *error)
{
    int32_t ndim;
    const int64_t *shape = imagine__buffer_shape(buffer, &ndim);
    const float *values = imagine_buffer_data(buffer);
    int64_t count = (int64_t)(imagine_buffer_size(buffer) / sizeof *values), index[IMAGINE_MAX_DIMS], at = 0;
    if (imagine__planning(work->context) ||
        imagine__context_host_kernels(work->context)->finite(&work->run, values, count))
        return imagine__work_check(work, error);
    while (at < count && isfinite(values[at]))
        at++;
    if (at == count) /* it was cancelled */
        return imagine__work_check(work, error);
    double value = values[at];
    for (int32_t i = ndim; i-- > 0; at /= shape[i])
        index[i] = at % shape[i];
    char place[160];
    imagine__shape_text(place, sizeof place, ndim, index);
    return imagine__fail(error, IMAGINE_ERROR_NOT_FINITE, "%s: the value at %s is %g", name, place, value);
}

imagine_status imagine__need_multiple(int64_t value, int64_t multiple, const char *name, imagine_error *error)
{
    if (value > 0 && value % multiple == 0)
        return IMAGINE_OK;
    int64_t below = value > 0 ? value / multiple * multiple : 0;
    if (below < multiple)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                             "%s: %lld is not a multiple of %lld; the nearest is %lld", name, (long long)value,
                             (long long)multiple, (long long)multiple);
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT,
                         "%s: %lld is not a multiple of %lld; the nearest are %lld and %lld", name, (long long)value,
                         (long long)multiple, (long long)below, (long long)(below + multiple));
}

imagine_status imagine__need_frames(int64_t frames, int64_t factor, const char *name, imagine_error *error)
{
    if (frames > 0 && (frames - 1) % factor == 0)
        return IMAGINE_OK;
    int64_t below = frames > 0 ? (frames - 1) / factor * factor + 1 : 1;
    if (factor == 1)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: %lld is not above 0", name, (long long)frames);
    if (frames <= 0)
        return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: %lld is not %lldk+1; the nearest is 1", name,
                             (long long)frames, (long long)factor);
    return imagine__fail(error, IMAGINE_ERROR_INVALID_ARGUMENT, "%s: %lld is not %lldk+1; the nearest are %lld and %lld",
                         name, (long long)frames, (long long)factor, (long long)below, (long long)(below + factor));
}

double imagine__seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
