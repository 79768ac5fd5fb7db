/* SPDX-License-Identifier: MIT */

/* The second look: which tensor is to blame for a result that is not finite. It is taken once something has failed, so
 * that the way there costs nothing. */

#include <stdio.h>
#include <string.h>

#include "model/pack.h"

#define PIECE ((size_t)1 << 18) /* bytes read at once; a multiple of every element's size */

/* The first of `count` elements that is a NaN or an infinity; `count`: none. */
static size_t find(const char *bytes, size_t count, imagine_dtype dtype)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        uint32_t single;
        uint64_t twice;
        int finite = 1;
        if (dtype == IMAGINE_F16 || dtype == IMAGINE_BF16) {
            uint16_t exponent = dtype == IMAGINE_F16 ? 0x7c00 : 0x7f80;
            memcpy(&half, bytes + 2 * i, sizeof half);
            finite = (half & exponent) != exponent;
        } else if (dtype == IMAGINE_F32) {
            memcpy(&single, bytes + 4 * i, sizeof single);
            finite = (single & 0x7f800000u) != 0x7f800000u;
        } else if (dtype == IMAGINE_F64) {
            memcpy(&twice, bytes + 8 * i, sizeof twice);
            finite = (twice & 0x7ff0000000000000u) != 0x7ff0000000000000u;
        }
        if (!finite)
            return i;
    }
    return count;
}

#define NONE   (-1)
#define UNSEEN (-2)

/* The tensor's first such element, NONE, or UNSEEN: cancelled or unreadable, which is not what is to be told now. */
static int64_t look_at(const imagine__weights *weights, const imagine__tensor *t, const imagine_cancel *cancel, char *piece)
{
    size_t element = imagine__dtype_size(t->dtype);
    for (uint64_t at = 0; element && at < t->size; at += PIECE) {
        size_t size = t->size - at < PIECE ? (size_t)(t->size - at) : PIECE;
        if (imagine_cancel_fired(cancel) || imagine__weights_read(weights, t, at, size, piece, NULL) < 0)
            return UNSEEN;
        size_t found = find(piece, size / element, t->dtype);
        if (found < size / element)
            return (int64_t)(at / element + found);
    }
    return NONE;
}

/* *seen becomes 0 where not all of the weights could be looked at. */
static imagine_status blame(const imagine__weights *weights, imagine_context *context, const imagine_cancel *cancel,
                            const char *what, int *seen, imagine_error *error)
{
    char *piece = imagine__alloc(context, PIECE);
    int32_t count = weights ? imagine__weights_count(weights) : 0;
    imagine_status status = 0;
    *seen = weights && piece;
    for (int32_t i = 0; i < count && *seen && !status; i++) {
        const imagine__tensor *t = imagine__weights_at(weights, i);
        int64_t element = look_at(weights, t, cancel, piece);
        *seen = element != UNSEEN;
        if (element >= 0)
            status = imagine__fail(error, IMAGINE_ERROR_NOT_FINITE, "%s: element %lld of tensor \"%s\" in %s is not finite",
                                   what, (long long)element, t->name, imagine__weights_path(weights, t));
    }
    imagine__free(context, piece);
    return status;
}

imagine_status imagine__fail_not_finite(const imagine_model *model, const char *stage, const imagine_cancel *cancel,
                                        imagine_error *error, const char *format, ...)
{
    char what[200];
    int seen = 1;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    for (int kind = 0; error && kind < IMAGINE__STAGE_COUNT; kind++)
        if (!strcmp(imagine__stage_name(kind), stage) &&
            blame(model->stages[kind].weights, model->context, cancel, what, &seen, error) < 0)
            return IMAGINE_ERROR_NOT_FINITE;
    if (!seen)
        return imagine__fail(error, IMAGINE_ERROR_NOT_FINITE,
                             "%s; whether a weight is to blame was not seen to the end, so look at what was given as well", what);
    return imagine__fail(error, IMAGINE_ERROR_NOT_FINITE,
                         "%s; the weights as they are stored are finite, so look at what was given, or a value has "
                         "grown too large on the way", what);
}
