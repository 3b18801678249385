/* kvm_spy.h - see and spoil the ioctls of this process.
 *
 * Needs the linker's --wrap for ioctl, malloc, calloc and reallocarray. */
#ifndef STASIS_TESTS_KVM_SPY_H
#define STASIS_TESTS_KVM_SPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SPY_CALLS_MAX 4096

struct spy_call {
    int fd;
    unsigned long request;
    uint32_t last_msr; /* KVM_SET_MSRS: the last register of the batch; else 0 */
};

/* Forget what was seen, and watch from now on. */
void spy_begin(void);
/* Calls since spy_begin(), oldest first. */
const struct spy_call *spy_calls(size_t *ret_count);

/* Let the `nth` (from 1) call with this request from now on fail with `errnum`, without reaching
 * the kernel; 0 for every call. */
void spy_fail(unsigned long request, unsigned nth, int errnum);
/* Let the `nth` (from 1) allocation from now on fail, once. */
void spy_fail_alloc(unsigned nth);
/* Did it come to that? */
bool spy_alloc_failed(void);
/* Back to normal: nothing watched, nothing spoilt. */
void spy_end(void);

/* "KVM_GET_REGS", or "?" */
const char *spy_name(unsigned long request);

#endif
