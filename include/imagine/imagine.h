/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_IMAGINE_H
#define IMAGINE_IMAGINE_H

/* libimagine: pictures and video from a prompt, in one embeddable library. This header includes all others.
 *
 * Common to all of it:
 * - Handles are opaque. Those with retain and release are reference counted and may be used from any thread; those with
 *   create and destroy are used by one thread at a time.
 * - Options structs begin with struct_size, are made by their _init function, and are always passed by pointer.
 * - A function that can fail returns an imagine_status and takes an imagine_error that may be NULL. When it fails, its
 *   outputs are NULL or untouched, and nothing is leaked.
 * - The library never prints, aborts, exits, installs a signal handler or keeps global state.
 * - No exception and no longjmp may leave a callback: the library is C, and would stay in the middle of what it did.
 * - The host's rounding, traps and handling of denormals change no result, and are as they were when a call returns.
 * - After fork, calls in the child on handles of the parent return IMAGINE_ERROR_FORKED. */

#include "bench.h"
#include "buffer.h"
#include "context.h"
#include "job.h"
#include "model.h"
#include "sampler.h"
#include "status.h"
#include "text.h"
#include "vae.h"
#include "version.h"

#endif
