/* sandbox.h - a seccomp filter over the whole process: what a running microVM never needs is
 * denied. */
#ifndef STASIS_MICROVM_SANDBOX_H
#define STASIS_MICROVM_SANDBOX_H

#include <stasis/error.h>

/* Put the filter on all threads, now and for good; does nothing the second time. Any thread. A call
 * that is not on the list then kills the process (SIGSYS) and leaves a line in the kernel's audit
 * log. */
int sandbox_enter(struct stasis_error *err);

#endif
