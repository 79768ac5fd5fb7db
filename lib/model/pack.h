/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_MODEL_PACK_H
#define IMAGINE_MODEL_PACK_H

/* The inside of a model, for lib/model alone. */

#include <pthread.h>

#include "dit/dit.h"
#include "model/model.h"
#include "sampler/schedule.h"
#include "text/tokenizer.h"
#include "text/umt5.h"
#include "vae/vae.h"

typedef enum imagine__stage_kind {
    IMAGINE__STAGE_TOKENIZER,
    IMAGINE__STAGE_ENCODER,
    IMAGINE__STAGE_TRANSFORMER,
    IMAGINE__STAGE_TRANSFORMER_2, /* the expert for little noise */
    IMAGINE__STAGE_VAE,
    IMAGINE__STAGE_COUNT
} imagine__stage_kind;

/* A stage as it was loaded; everything under the model's mutex. */
typedef struct imagine__holding {
    void *loaded; /* tokenizer, umt5, dit or vae model */
    int32_t users, pins; /* handles that have it, and stand-ins that count with it */
    int loading, borrowed; /* borrowed: it is the real model's, which a stand-in pins */
    int unwanted; /* it was to be given back while it was pinned alone: it goes with the last pin, unless a handle has it by then */
} imagine__holding;

/* One folder of the pack. */
typedef struct imagine__stage {
    char *folder; /* NULL: the pack does not have it */
    imagine__weights *weights; /* NULL for the tokenizer */
    imagine__holding held[2]; /* with all its weights in memory; with its blocks left in the file */
} imagine__stage;

struct imagine_model {
    atomic_int references;
    imagine_context *context;
    imagine_model *real; /* NULL, or what this one stands in for: its paths and weight files are that one's */
    char *path;
    pthread_mutex_t mutex;
    pthread_cond_t loaded; /* a stage's loading has ended */
    imagine__stage stages[IMAGINE__STAGE_COUNT];
    int tokenizer_file; /* open from the beginning, as weights are: a folder may get another pack's files; -1: there is none */
    uint64_t tokenizer_size;
    int32_t text_dim; /* 0 where the stage is missing */
    /* As they were when the pack was opened and its parts were compared: stages are loaded by these alone. */
    imagine__umt5_config umt5;
    imagine__dit_config dit, dit_2;
    imagine__vae_config vae;
    imagine__defaults defaults;
    imagine_weights weights; /* how they are to be read */
    imagine_error scheduler; /* why the pack has no schedule of its own, or IMAGINE_OK */
};

/* "transformer" and so on. */
const char *imagine__stage_name(imagine__stage_kind kind);

/* Reads what the pack's configurations say into *model, whose context and path are set (pack.c). */
imagine_status imagine__pack_read(imagine_model *model, imagine_error *error);

#endif
