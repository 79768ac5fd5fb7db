/* SPDX-License-Identifier: MIT */
#include <fenv.h>
#include <pthread.h>
#include <signal.h>

#include "base/base.h"

/* Set by a host, these change results: rounding, flushing of denormals (audio programs do), traps. The flags that computing raises are
 * nobody's business and go with the rest. */
imagine__guard imagine__guard_enter(const imagine_context *context)
{
    imagine__guard guard;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &guard.cancel);
    fegetenv(&guard.floats);
    fesetenv(FE_DFL_ENV);
    guard.visit = imagine__visit_begin(context);
    return guard;
}

void imagine__guard_leave(imagine__guard *guard)
{
    imagine__visit_end(&guard->visit);
    fesetenv(&guard->floats);
    pthread_setcancelstate(guard->cancel, NULL);
}

int imagine__thread_create(pthread_t *thread, void *(*body)(void *), void *argument)
{
    static const int of_faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };
    sigset_t blocked, before;
    fenv_t floats;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof of_faults / sizeof of_faults[0]; i++)
        sigdelset(&blocked, of_faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    fegetenv(&floats);
    fesetenv(FE_DFL_ENV); /* a thread begins with its maker's */
    int failed = pthread_create(thread, NULL, body, argument);
    fesetenv(&floats);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}
