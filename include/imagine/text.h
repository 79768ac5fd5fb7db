/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TEXT_H
#define IMAGINE_TEXT_H

#include "buffer.h"
#include "model.h"

/* The text stage: tokenizer and umT5 encoder of one model. One thread at a time; many handles at once on one model. */
typedef struct imagine_text imagine_text;

typedef struct imagine_text_options {
    uint32_t struct_size;
    uint32_t reserved0;
    imagine_cancel *cancel; /* NULL, or a token that the handle retains */
} imagine_text_options;

#ifdef __cplusplus
extern "C" {
#endif

/* Fills in the defaults. `size` is the caller's sizeof(imagine_text_options). */
IMAGINE_API void imagine_text_options_init(imagine_text_options *options, size_t size);

/* Reads the tokenizer and the encoder's weights. `options` may be NULL. */
IMAGINE_API imagine_status imagine_text_create(imagine_text **text, imagine_model *model,
                                               const imagine_text_options *options, imagine_error *error);

/* Frees the handle and sets the pointer to NULL; NULL and a pointer to NULL are fine. Not while a call with it is under way. */
IMAGINE_API void imagine_text_destroy(imagine_text **text);

/* Token ids of `prompt` (UTF-8), as I32 [length], html-unescaped and with white space folded first, ending with the
 * end-of-text token; cut to `max_length` tokens, the last of which is then the end-of-text token (0: not cut). The caller
 * releases *ids. */
IMAGINE_API imagine_status imagine_text_tokenize(imagine_text *text, const char *prompt, int32_t max_length,
                                                 imagine_buffer **ids, imagine_error *error);

/* The same without a handle: of the model only the tokenizer is read, which then stays with it, so that a program can count a
 * prompt's tokens before it reads the encoder. Any thread. `cancel` may be NULL. imagine_model_info.text_length says how many
 * tokens the model sees. Since 0.2. */
IMAGINE_API imagine_status imagine_model_tokenize(imagine_model *model, const char *prompt, int32_t max_length,
                                                  const imagine_cancel *cancel, imagine_buffer **ids, imagine_error *error);

/* Hidden states of the encoder's last layer for the prompt's tokens, as F32 [length, text_dim], without padding.
 * `ids` may be NULL, or receives the token ids as imagine_text_tokenize gives them for the model's text length. The
 * caller releases both. */
IMAGINE_API imagine_status imagine_text_encode(imagine_text *text, const char *prompt, imagine_buffer **ids,
                                               imagine_buffer **embeds, imagine_error *error);

#ifdef __cplusplus
}
#endif
#endif
