/*
 * kvm_spy.c - an ioctl() that keeps a record, and can be told to fail, as can allocations.
 *
 * The linker hands every ioctl() and allocation of the test program and of the library in it to
 * the functions here.
 */
#include "kvm_spy.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include <linux/kvm.h>

static struct {
    bool on;
    struct spy_call calls[SPY_CALLS_MAX];
    size_t count;
    unsigned long fail_request;
    unsigned fail_nth, fail_seen;
    int fail_errno;
    unsigned alloc_countdown; /* 0: none is to fail */
    bool alloc_failed;
} spy;

void spy_begin(void)
{
    spy.count = 0;
    spy.on = true;
}

const struct spy_call *spy_calls(size_t *ret_count)
{
    *ret_count = spy.count;
    return spy.calls;
}

void spy_fail(unsigned long request, unsigned nth, int errnum)
{
    spy.fail_request = request;
    spy.fail_nth = nth;
    spy.fail_seen = 0;
    spy.fail_errno = errnum;
}

void spy_fail_alloc(unsigned nth)
{
    spy.alloc_countdown = nth;
    spy.alloc_failed = false;
}

bool spy_alloc_failed(void)
{
    return spy.alloc_failed;
}

void spy_end(void)
{
    memset(&spy, 0, sizeof(spy));
}

static bool should_fail(unsigned long request)
{
    if (spy.fail_errno == 0 || request != spy.fail_request)
        return false;
    spy.fail_seen++;
    return spy.fail_nth == 0 || spy.fail_seen == spy.fail_nth;
}

static uint32_t last_msr(unsigned long request, const void *arg)
{
    const struct kvm_msrs *msrs = arg;

    return request == KVM_SET_MSRS && msrs->nmsrs > 0 ? msrs->entries[msrs->nmsrs - 1].index : 0;
}

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list args;
    void *arg;

    va_start(args, request);
    arg = va_arg(args, void *);
    va_end(args);
    if (spy.on && spy.count < SPY_CALLS_MAX)
        spy.calls[spy.count++] =
            (struct spy_call){ .fd = fd, .request = request, .last_msr = last_msr(request, arg) };
    if (should_fail(request)) {
        errno = spy.fail_errno;
        return -1;
    }
    return __real_ioctl(fd, request, arg);
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__real_reallocarray(void *ptr, size_t count, size_t size);
void *__wrap_reallocarray(void *ptr, size_t count, size_t size);

static bool should_fail_alloc(void)
{
    if (spy.alloc_countdown == 0 || --spy.alloc_countdown > 0)
        return false;
    spy.alloc_failed = true;
    errno = ENOMEM;
    return true;
}

void *__wrap_malloc(size_t size)
{
    return should_fail_alloc() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return should_fail_alloc() ? NULL : __real_calloc(count, size);
}

void *__wrap_reallocarray(void *ptr, size_t count, size_t size)
{
    return should_fail_alloc() ? NULL : __real_reallocarray(ptr, count, size);
}

#define NAME(request)                                                                              \
    {                                                                                              \
        request, #request                                                                          \
    }
static const struct {
    unsigned long request;
    const char *name;
} names[] = {
    NAME(KVM_CHECK_EXTENSION),
    NAME(KVM_GET_PIT2),
    NAME(KVM_SET_PIT2),
    NAME(KVM_GET_IRQCHIP),
    NAME(KVM_SET_IRQCHIP),
    NAME(KVM_GET_CLOCK),
    NAME(KVM_SET_CLOCK),
    NAME(KVM_GET_MP_STATE),
    NAME(KVM_SET_MP_STATE),
    NAME(KVM_GET_VCPU_EVENTS),
    NAME(KVM_SET_VCPU_EVENTS),
    NAME(KVM_GET_CPUID2),
    NAME(KVM_SET_CPUID2),
    NAME(KVM_GET_REGS),
    NAME(KVM_SET_REGS),
    NAME(KVM_GET_SREGS),
    NAME(KVM_SET_SREGS),
    NAME(KVM_GET_SREGS2),
    NAME(KVM_SET_SREGS2),
    NAME(KVM_GET_XSAVE),
    NAME(KVM_SET_XSAVE),
    NAME(KVM_GET_XSAVE2),
    NAME(KVM_GET_FPU),
    NAME(KVM_SET_FPU),
    NAME(KVM_GET_XCRS),
    NAME(KVM_SET_XCRS),
    NAME(KVM_GET_DEBUGREGS),
    NAME(KVM_SET_DEBUGREGS),
    NAME(KVM_GET_LAPIC),
    NAME(KVM_SET_LAPIC),
    NAME(KVM_GET_MSRS),
    NAME(KVM_SET_MSRS),
    NAME(KVM_GET_NESTED_STATE),
    NAME(KVM_SET_NESTED_STATE),
    NAME(KVM_GET_TSC_KHZ),
    NAME(KVM_SET_TSC_KHZ),
    NAME(KVM_GET_DEVICE_ATTR),
    NAME(KVM_SET_DEVICE_ATTR),
    NAME(KVM_KVMCLOCK_CTRL),
    NAME(KVM_X86_SETUP_MCE),
    NAME(KVM_GET_ONE_REG),
    NAME(KVM_SET_ONE_REG),
    NAME(KVM_GET_API_VERSION),
    NAME(KVM_GET_MSR_INDEX_LIST),
    NAME(KVM_GET_SUPPORTED_CPUID),
};

const char *spy_name(unsigned long request)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (names[i].request == request)
            return names[i].name;
    }
    return "?";
}
