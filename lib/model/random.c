/* SPDX-License-Identifier: MIT */

/* Weights that no file holds, for measuring times. */

#include <math.h>
#include <string.h>

#include "model/model.h"

#define PIECE ((size_t)16 << 10) /* bytes that are made on the host; what is larger repeats them */

static void fill_piece(void *piece, size_t size, imagine__wtype type, double deviation)
{
    size_t step = type == IMAGINE__W_BF16 ? 2 : 4;
    uint32_t state = 1;
    for (size_t at = 0; at + step <= size; at += step) {
        state = state * 1664525u + 1013904223u;
        float value = (float)(deviation * 1.7320508 * ((double)(int32_t)state / 2147483648.0));
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        uint16_t half = (uint16_t)(bits >> 16);
        memcpy((char *)piece + at, type == IMAGINE__W_BF16 ? (const void *)&half : (const void *)&value, step);
    }
}

imagine_status imagine__random_values(imagine_context *context, void *values, int64_t count, imagine__wtype type,
                                      double deviation, imagine_error *error)
{
    size_t size = (size_t)count * (type == IMAGINE__W_BF16 ? 2 : 4), first = size < PIECE ? size : PIECE;
    void *piece = imagine__alloc(context, first ? first : 1);
    if (!piece)
        return imagine__fail_memory_in(context, error, first, "random numbers");
    fill_piece(piece, first, type, deviation);
    int code = imagine__fill_now(context, values, size, piece, first);
    imagine__free(context, piece);
    return code ? imagine__fail(error, IMAGINE_ERROR_DEVICE, "random numbers could not be made on the device: %s",
                                imagine__device_text(context, code))
                : IMAGINE_OK;
}

/* New values; NULL: *status says why. */
static void *make(imagine__loaded *loaded, int64_t count, imagine__wtype type, double deviation, imagine_status *status,
                  imagine_error *error)
{
    size_t size = (size_t)count * (type == IMAGINE__W_BF16 ? 2 : 4);
    void *made = *status < 0 ? NULL : imagine__loaded_keep(loaded, size);
    if (*status < 0)
        return NULL;
    if (loaded->cancel && imagine_cancel_fired(loaded->cancel))
        *status = imagine__fail(error, IMAGINE_ERROR_CANCELLED, "cancelled while the weights were made");
    else
        *status = made ? imagine__random_values(loaded->context, made, count, type, deviation, error)
                       : imagine__fail_memory_in(loaded->context, error, size, "random weights");
    return *status < 0 ? NULL : made;
}

imagine_status imagine__random_floats(imagine__loaded *loaded, const float **values, int64_t count,
                                      imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    float *made = make(loaded, count, IMAGINE__W_F32, 0.5, &status, error);
    if (status >= 0)
        *values = made;
    return status;
}

imagine_status imagine__random_linear(imagine__loaded *loaded, imagine__linear_weight *w, int32_t count,
                                      const int64_t *rows, int64_t k, int bias, imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    imagine__linear_weight made = { .k = k, .type = IMAGINE__W_BF16 };
    for (int32_t i = 0; i < count; i++)
        made.n += rows[i];
    made.packed = make(loaded, made.n * k, IMAGINE__W_BF16, 1 / sqrt((double)k), &status, error);
    if (bias)
        made.bias = make(loaded, made.n, IMAGINE__W_F32, 0.1, &status, error);
    if (status >= 0)
        *w = made;
    return status;
}

imagine_status imagine__random_conv(imagine__loaded *loaded, imagine__conv_weight *w, imagine_error *error)
{
    imagine_status status = IMAGINE_OK;
    int64_t row = w->cin * w->kt * w->kh * w->kw;
    w->type = IMAGINE__W_BF16;
    w->packed = make(loaded, w->cout * row, IMAGINE__W_BF16, 1 / sqrt((double)row), &status, error);
    w->bias = make(loaded, w->cout, IMAGINE__W_F32, 0.1, &status, error);
    return status;
}
