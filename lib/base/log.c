/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "base/context.h"

void imagine__log(imagine_context *context, imagine_log_level level, const char *format, ...)
{
    if (!context->log || level > context->log_level)
        return;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0)
        return;
    imagine__mend_text(text);
    context->log(context->log_data, level, text);
}
