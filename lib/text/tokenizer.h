/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_TEXT_TOKENIZER_H
#define IMAGINE_TEXT_TOKENIZER_H

#include "base/base.h"

/* A SentencePiece unigram tokenizer read from a tokenizer.json (Hugging Face tokenizers). Immutable once opened; any
 * number of threads. */
typedef struct imagine__tokenizer imagine__tokenizer;

/* Refuses what it cannot run (another model type, normaliser, pre-tokenizer or post-processor), naming the field. */
imagine_status imagine__tokenizer_open(imagine__tokenizer **tokenizer, imagine_context *context, const char *path,
                                       const imagine_cancel *cancel, imagine_error *error);
/* The same of a file of `size` bytes that is open and stays so; `path` for messages. */
imagine_status imagine__tokenizer_open_file(imagine__tokenizer **tokenizer, imagine_context *context, int fd, uint64_t size,
                                            const char *path, const imagine_cancel *cancel, imagine_error *error);
void imagine__tokenizer_close(imagine__tokenizer *tokenizer);
int32_t imagine__tokenizer_size(const imagine__tokenizer *tokenizer); /* number of pieces with added tokens */

/* Ids of `text` (UTF-8, `size` bytes; invalid UTF-8 is an error) with what the post-processor adds, cut to max_length
 * (0: not) with the last token kept as the end-of-text one. *ids is allocated from the context and freed by the caller.
 * */
imagine_status imagine__tokenize(const imagine__tokenizer *tokenizer, const char *text, size_t size, int32_t max_length,
                                 const imagine_cancel *cancel, int32_t **ids, int32_t *count, imagine_error *error);

/* The prompt as diffusers cleans it for Wan before tokenizing, ftfy aside: html.unescape twice, strip, then runs of
 * white space to one space and strip. *clean is allocated from the context. */
imagine_status imagine__clean_prompt(imagine_context *context, const char *prompt, const imagine_cancel *cancel, char **clean,
                                     size_t *size, imagine_error *error);

#endif
