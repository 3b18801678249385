/*
 * test_kvm_errors.c - every failure of capture and restore has its code, its name and no residue;
 *                     and the system calls come in the order that D9 of doc/design.md lays down.
 *
 * Goal:   whatever ioctl fails, the error names it (and the vCPU), and nothing is handed out or
 *         leaks (under AddressSanitizer). A VM that does not fit is refused before it is touched.
 * Method: record the ioctls of a good run, then make each of them fail in turn.
 */
#include "kvm_spy.h"
#include "kvm_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <stasis/machine.h>

#include "hypervisor/kvm_host.h"
#include "hypervisor/kvm_x86_64.h"
#include "unit.h"

static const struct test_vm_config two_vcpus = { .vcpu_count = 2,
                                                 .irqchip = TEST_IRQCHIP_FULL,
                                                 .has_pit = true };
static struct test_vm source, target;
static struct stasis_machine saved;

static int teardown(void **state)
{
    (void)state;
    spy_end();
    stasis_machine_release(&saved);
    test_vm_close(&source);
    test_vm_close(&target);
    return 0;
}

static void open_and_capture(const struct test_vm_config *config)
{
    struct stasis_error err = { 0 };

    test_vm_open(&source, config);
    assert_stasis_ok(stasis_kvm_capture(test_kvm_host(), &source.view, &saved, &err), &err);
}

/* What may fail without harm: questions, and things some VMs do not have. */
static bool may_fail(unsigned long request)
{
    return request == KVM_CHECK_EXTENSION || request == KVM_GET_TSC_KHZ ||
           request == KVM_GET_DEVICE_ATTR;
}

static bool is_on_vcpu(const struct test_vm *vm, const struct spy_call *call)
{
    return call->fd == vm->vcpu_fds[0] || call->fd == vm->vcpu_fds[1];
}

static void assert_names(const struct stasis_error *err, const struct test_vm *vm,
                         const struct spy_call *call)
{
    const char *vcpu = call->fd == vm->vcpu_fds[1] ? "vCPU 1" : "vCPU 0";
    const char *name = spy_name(call->request);

    if (call->request == KVM_SET_DEVICE_ATTR)
        name = "KVM_VCPU_TSC_OFFSET";
    if (!strstr(err->text, name) || (is_on_vcpu(vm, call) && !strstr(err->text, vcpu)))
        fail_msg("'%s' does not name %s of %s", err->text, name, vcpu);
}

/* The how-manieth call with this request is calls[index]? */
static unsigned ordinal(const struct spy_call *calls, size_t index)
{
    unsigned nth = 0;

    for (size_t i = 0; i <= index; i++)
        nth += calls[i].request == calls[index].request;
    return nth;
}

static void each_ioctl_that_fails_fails_the_capture_by_its_name(void **state)
{
    static struct spy_call calls[SPY_CALLS_MAX];
    struct stasis_error err = { 0 };
    size_t count;

    (void)state;
    test_vm_open(&source, &two_vcpus);
    test_kvm_host();
    spy_begin();
    assert_stasis_ok(stasis_kvm_capture(test_kvm_host(), &source.view, &saved, &err), &err);
    memcpy(calls, spy_calls(&count), sizeof(calls));
    assert_true(count > 20);
    for (size_t i = 0; i < count; i++) {
        struct stasis_machine machine = { 0 };

        if (may_fail(calls[i].request))
            continue;
        spy_fail(calls[i].request, ordinal(calls, i), EIO);
        assert_stasis_fails(stasis_kvm_capture(test_kvm_host(), &source.view, &machine, &err), &err,
                            STASIS_ERR_KVM);
        assert_int_equal(err.errnum, EIO);
        assert_names(&err, &source, &calls[i]);
        assert_int_equal(machine.arch, STASIS_ARCH_NONE); /* untouched */
        assert_null(machine.x86_64);
    }
}

static void each_ioctl_that_fails_fails_the_restore_by_its_name(void **state)
{
    static struct spy_call calls[SPY_CALLS_MAX];
    struct stasis_error err = { 0 };
    size_t count;

    (void)state;
    open_and_capture(&two_vcpus);
    test_vm_open(&target, &two_vcpus);
    spy_begin();
    assert_stasis_ok(stasis_kvm_restore(test_kvm_host(), &target.view, &saved, 0, &err), &err);
    memcpy(calls, spy_calls(&count), sizeof(calls));
    assert_true(count > 20);
    for (size_t i = 0; i < count; i++) {
        /* Reading an MSR back is how a refused write is judged; the last looks at a set TSC. */
        if (may_fail(calls[i].request) || calls[i].request == KVM_GET_MSRS)
            continue;
        spy_fail(calls[i].request, ordinal(calls, i), EIO);
        assert_stasis_fails(stasis_kvm_restore(test_kvm_host(), &target.view, &saved, 0, &err),
                            &err, STASIS_ERR_KVM);
        assert_names(&err, &target, &calls[i]);
    }
}

static void a_kvm_without_clock_control_for_this_guest_is_fine(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    open_and_capture(&two_vcpus);
    test_vm_open(&target, &two_vcpus);
    spy_fail(KVM_KVMCLOCK_CTRL, 0, EINVAL);
    assert_stasis_ok(stasis_kvm_restore(test_kvm_host(), &target.view, &saved, 0, &err), &err);
}

/* --- memory ------------------------------------------------------------------------------------ */

static int probe_once(struct stasis_error *err)
{
    struct stasis_kvm_host *host = NULL;
    const int r = stasis_kvm_host_probe(source.kvm_fd, &host, err);

    stasis_kvm_host_free(host);
    return r;
}

static int capture_once(struct stasis_error *err)
{
    struct stasis_machine machine = { 0 };
    const int r = stasis_kvm_capture(test_kvm_host(), &source.view, &machine, err);

    stasis_machine_release(&machine);
    return r;
}

static int restore_once(struct stasis_error *err)
{
    return stasis_kvm_restore(test_kvm_host(), &source.view, &saved, 0, err);
}

/* Fails each allocation that the call makes, one at a time; returns how many there were. */
static unsigned fail_each_allocation(int (*call)(struct stasis_error *err))
{
    for (unsigned nth = 1;; nth++) {
        struct stasis_error err = { 0 };
        int r;

        spy_fail_alloc(nth);
        r = call(&err);
        if (!spy_alloc_failed()) {
            spy_fail_alloc(0);
            assert_stasis_ok(r, &err);
            return nth - 1;
        }
        assert_int_equal(r, -ENOMEM);
        assert_int_equal(err.code, STASIS_ERR_OUT_OF_MEMORY);
    }
}

static void each_allocation_that_fails_is_out_of_memory(void **state)
{
    (void)state;
    open_and_capture(&two_vcpus);
    assert_true(fail_each_allocation(probe_once) >= 3);
    assert_true(fail_each_allocation(capture_once) >= 10);
    assert_true(fail_each_allocation(restore_once) >= 2);
}

/* --- order ---------------------------------------------------------------------------------- */

/* Where this request first comes on this descriptor, from calls[from] on; count when never. */
static size_t find_call(const struct spy_call *calls, size_t count, size_t from, int fd,
                        unsigned long request)
{
    for (size_t i = from; i < count; i++) {
        if (calls[i].fd == fd && calls[i].request == request)
            return i;
    }
    return count;
}

static void assert_in_order(const struct spy_call *calls, size_t count, int fd,
                            const unsigned long *requests, size_t request_count)
{
    size_t at = 0;

    for (size_t i = 0; i < request_count; i++) {
        const size_t found = find_call(calls, count, at, fd, requests[i]);

        if (found == count)
            fail_msg("%s is missing, or comes too early", spy_name(requests[i]));
        at = found + 1;
    }
}

static void a_restore_keeps_the_order_of_d9(void **state)
{
    static const unsigned long vcpu_order[] = {
        KVM_SET_CPUID2,      KVM_GET_TSC_KHZ, KVM_SET_MP_STATE,  KVM_SET_REGS,  KVM_SET_SREGS2,
        KVM_SET_XSAVE,       KVM_SET_XCRS,    KVM_SET_DEBUGREGS, KVM_SET_LAPIC, KVM_SET_MSRS,
        KVM_SET_VCPU_EVENTS, KVM_SET_MSRS, /* those that act on the clocks */
        KVM_KVMCLOCK_CTRL,
    };
    static const unsigned long vm_order[] = { KVM_SET_IRQCHIP, KVM_SET_IRQCHIP, KVM_SET_IRQCHIP,
                                              KVM_SET_PIT2,    KVM_SET_CLOCK,   KVM_GET_CLOCK };
    const struct spy_call *calls;
    struct stasis_error err = { 0 };
    size_t count;

    (void)state;
    test_need_kvm();
    if (!test_kvm_host()->has_sregs2)
        unit_skip("this KVM has no KVM_SET_SREGS2");
    open_and_capture(&two_vcpus);
    test_vm_open(&target, &two_vcpus);
    spy_begin();
    assert_stasis_ok(stasis_kvm_restore(test_kvm_host(), &target.view, &saved, 0, &err), &err);
    calls = spy_calls(&count);
    for (size_t i = 0; i < 2; i++)
        assert_in_order(calls, count, target.vcpu_fds[i], vcpu_order,
                        sizeof(vcpu_order) / sizeof(vcpu_order[0]));
    assert_in_order(calls, count, target.vm_fd, vm_order, sizeof(vm_order) / sizeof(vm_order[0]));
    /* LAPICs before the controllers that feed them, clocks before the timers that use them. */
    assert_true(find_call(calls, count, 0, target.vcpu_fds[1], KVM_SET_LAPIC) <
                find_call(calls, count, 0, target.vm_fd, KVM_SET_IRQCHIP));
    assert_true(find_call(calls, count, 0, target.vm_fd, KVM_SET_CLOCK) <
                find_call(calls, count, 0, target.vcpu_fds[0], KVM_KVMCLOCK_CTRL));
    assert_int_equal(calls[count - 1].request, KVM_KVMCLOCK_CTRL);
}

static void the_tsc_deadline_is_the_last_msr_of_each_vcpu(void **state)
{
    const struct spy_call *calls;
    struct stasis_error err = { 0 };
    uint32_t last[2] = { 0 };
    size_t count;

    (void)state;
    open_and_capture(&two_vcpus);
    test_vm_open(&target, &two_vcpus);
    spy_begin();
    assert_stasis_ok(stasis_kvm_restore(test_kvm_host(), &target.view, &saved, 0, &err), &err);
    calls = spy_calls(&count);
    for (size_t i = 0; i < count; i++) {
        if (calls[i].request == KVM_SET_MSRS)
            last[calls[i].fd == target.vcpu_fds[1]] = calls[i].last_msr;
    }
    assert_int_equal(last[0], X86_MSR_TSC_DEADLINE);
    assert_int_equal(last[1], X86_MSR_TSC_DEADLINE);
}

static double ms_since(const struct timespec *begin)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - begin->tv_sec) * 1e3 +
           (double)(now.tv_nsec - begin->tv_nsec) / 1e6;
}

/* Time is only printed: it is the host's. The calls are ours. */
static void capture_and_restore_make_few_system_calls(void **state)
{
    const struct test_vm_config config = { .vcpu_count = 4,
                                           .irqchip = TEST_IRQCHIP_FULL,
                                           .has_pit = true };
    struct stasis_error err = { 0 };
    struct timespec begin;
    double capture_ms, restore_ms;
    size_t capture_calls, restore_calls;

    (void)state;
    test_vm_open(&source, &config);
    test_vm_open(&target, &config);
    test_kvm_host();
    spy_begin();
    clock_gettime(CLOCK_MONOTONIC, &begin);
    assert_stasis_ok(stasis_kvm_capture(test_kvm_host(), &source.view, &saved, &err), &err);
    capture_ms = ms_since(&begin);
    spy_calls(&capture_calls);
    spy_begin();
    clock_gettime(CLOCK_MONOTONIC, &begin);
    assert_stasis_ok(stasis_kvm_restore(test_kvm_host(), &target.view, &saved, 0, &err), &err);
    restore_ms = ms_since(&begin);
    spy_calls(&restore_calls);
    print_message("# 4 vCPUs: capture %.3f ms, %zu calls; restore %.3f ms, %zu calls\n", capture_ms,
                  capture_calls, restore_ms, restore_calls);
    assert_true(capture_calls < 4 * 24 + 10);
    assert_true(restore_calls < 4 * 24 + 15);
}

/* --- VMs that do not fit -------------------------------------------------------------------- */

static void assert_refused(const struct test_vm_config *config, const char *words)
{
    struct stasis_error err = { 0 };
    size_t count;

    test_vm_open(&target, config);
    spy_begin();
    assert_stasis_fails(stasis_kvm_restore(test_kvm_host(), &target.view, &saved, 0, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    if (!strstr(err.text, words))
        fail_msg("'%s' does not say '%s'", err.text, words);
    spy_calls(&count);
    assert_int_equal(count, 0); /* the VM was not touched */
    spy_end();
    test_vm_close(&target);
}

static void a_vm_that_does_not_fit_the_machine_is_refused_untouched(void **state)
{
    static const uint32_t ids[] = { 0, 3 };

    (void)state;
    open_and_capture(&two_vcpus);
    assert_refused(
        &(struct test_vm_config){ .vcpu_count = 1, .irqchip = TEST_IRQCHIP_FULL, .has_pit = true },
        "2 vCPUs");
    assert_refused(
        &(struct test_vm_config){ .vcpu_count = 3, .irqchip = TEST_IRQCHIP_FULL, .has_pit = true },
        "2 vCPUs");
    assert_refused(
        &(struct test_vm_config){
            .vcpu_count = 2, .vcpu_ids = ids, .irqchip = TEST_IRQCHIP_FULL, .has_pit = true },
        "id 3");
    assert_refused(&(struct test_vm_config){ .vcpu_count = 2 }, "IOAPIC");
    assert_refused(&(struct test_vm_config){ .vcpu_count = 2, .irqchip = TEST_IRQCHIP_SPLIT },
                   "IOAPIC");
    assert_refused(&(struct test_vm_config){ .vcpu_count = 2, .irqchip = TEST_IRQCHIP_FULL },
                   "PIT");
}

static void a_machine_without_controllers_does_not_fit_a_vm_with_them(void **state)
{
    (void)state;
    open_and_capture(&(struct test_vm_config){ .vcpu_count = 1 });
    assert_refused(&test_vm_one_vcpu, "IOAPIC");
    assert_refused(&(struct test_vm_config){ .vcpu_count = 1, .irqchip = TEST_IRQCHIP_SPLIT },
                   "LAPIC");
}

static void assert_machine_refused(const char *words)
{
    struct stasis_error err = { 0 };

    assert_stasis_fails(stasis_kvm_restore(test_kvm_host(), &source.view, &saved, 0, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    if (!strstr(err.text, words))
        fail_msg("'%s' does not say '%s'", err.text, words);
}

/* Sizes in a machine that nobody checked must not become reads beyond a buffer. */
static void sizes_that_cannot_be_are_refused(void **state)
{
    struct stasis_x86_vcpu *vcpu;
    struct stasis_x86_vcpu good;

    (void)state;
    open_and_capture(&test_vm_one_vcpu);
    vcpu = &saved.x86_64->vcpus[0];
    good = *vcpu;
    vcpu->xsave_size = 575;
    assert_machine_refused("XSAVE");
    *vcpu = good;
    vcpu->lapic_size = 1023;
    assert_machine_refused("LAPIC");
    *vcpu = good;
    vcpu->cpuid_count = STASIS_X86_CPUID_MAX + 1;
    assert_machine_refused("CPUID");
    *vcpu = good;
    vcpu->xcrs_count = KVM_MAX_XCRS + 1;
    assert_machine_refused("XCR");
    *vcpu = good;
    vcpu->nested_size = 1;
    assert_machine_refused("nested");
    *vcpu = good;
    saved.x86_64->pics_count = 1;
    assert_machine_refused("PIC");
    saved.x86_64->pics_count = 2;
}

static void wrong_arguments_are_refused(void **state)
{
    struct stasis_error err = { 0 };
    struct stasis_kvm_vm view;
    struct stasis_machine other = { .arch = STASIS_ARCH_ARM64 };

    (void)state;
    open_and_capture(&test_vm_one_vcpu);
    view = source.view;
    view.vcpu_count = 0;
    assert_stasis_fails(stasis_kvm_capture(test_kvm_host(), &view, &other, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    view.vcpu_count = STASIS_X86_VCPU_MAX + 1;
    assert_stasis_fails(stasis_kvm_capture(test_kvm_host(), &view, &other, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    view = source.view;
    view.vcpu_fds = NULL;
    assert_stasis_fails(stasis_kvm_restore(test_kvm_host(), &view, &saved, 0, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(stasis_kvm_restore(test_kvm_host(), &source.view, &saved, 0x80, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(stasis_kvm_restore(test_kvm_host(), &source.view, &other, 0, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
}

/* --- registers that KVM refuses ------------------------------------------------------------- */

static struct stasis_x86_msr *saved_msr(uint32_t index)
{
    struct stasis_x86_vcpu *vcpu = &saved.x86_64->vcpus[0];

    for (size_t i = 0; i < vcpu->msrs_count; i++) {
        if (vcpu->msrs[i].index == index)
            return &vcpu->msrs[i];
    }
    fail_msg("MSR 0x%x was not captured", index);
    return NULL;
}

static void an_msr_that_kvm_does_not_have_is_named(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    open_and_capture(&test_vm_one_vcpu);
    saved_msr(0x174)->index = 0x7fff1234;
    assert_stasis_fails(stasis_kvm_restore(test_kvm_host(), &source.view, &saved, 0, &err), &err,
                        STASIS_ERR_KVM);
    assert_non_null(strstr(err.text, "MSR 0x7fff1234"));
    assert_non_null(strstr(err.text, "vCPU 0"));
}

/* IA32_MTRRCAP can be read and not written. */
static void a_refused_msr_is_fine_only_if_it_holds_the_value_already(void **state)
{
    struct stasis_error err = { 0 };
    uint64_t current;

    (void)state;
    open_and_capture(&test_vm_one_vcpu);
    if (!test_vm_try_msr(&source, 0, 0xfe, &current) || test_vm_set_msr(&source, 0, 0xfe, current))
        unit_skip("this KVM has no IA32_MTRRCAP, or lets it be written");
    *saved_msr(0x174) = (struct stasis_x86_msr){ .index = 0xfe, .data = current };
    assert_stasis_ok(stasis_kvm_restore(test_kvm_host(), &source.view, &saved, 0, &err), &err);
    saved_msr(0xfe)->data = current ^ 1;
    assert_stasis_fails(stasis_kvm_restore(test_kvm_host(), &source.view, &saved, 0, &err), &err,
                        STASIS_ERR_KVM);
    assert_non_null(strstr(err.text, "MSR 0xfe"));
}

/* --- the host ------------------------------------------------------------------------------- */

static void what_is_not_kvm_is_said_so(void **state)
{
    struct stasis_kvm_host *host = NULL;
    struct stasis_error err = { 0 };
    const int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    int r;

    (void)state;
    r = stasis_kvm_host_probe(fd, &host, &err);
    close(fd);
    assert_int_equal(r, -ENODEV);
    assert_int_equal(err.code, STASIS_ERR_NO_KVM);
    assert_null(host);
    assert_int_equal(stasis_kvm_host_probe(-1, &host, NULL), -ENODEV);
    stasis_kvm_host_free(NULL);
}

static void a_kvm_that_lacks_the_indispensable_is_refused_by_its_name(void **state)
{
    struct stasis_kvm_host *host = NULL;
    struct stasis_error err = { 0 };

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    spy_fail(KVM_CHECK_EXTENSION, 1, EINVAL);
    assert_stasis_fails(stasis_kvm_host_probe(source.kvm_fd, &host, &err), &err, STASIS_ERR_NO_KVM);
    assert_non_null(strstr(err.text, "KVM_CAP_"));
    assert_null(host);
}

static void a_probe_that_fails_names_the_ioctl(void **state)
{
    static const unsigned long requests[] = { KVM_GET_SUPPORTED_CPUID, KVM_GET_MSR_INDEX_LIST };
    struct stasis_kvm_host *host = NULL;
    struct stasis_error err = { 0 };

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    for (size_t i = 0; i < 2; i++) {
        spy_fail(requests[i], 0, EIO);
        assert_stasis_fails(stasis_kvm_host_probe(source.kvm_fd, &host, &err), &err,
                            STASIS_ERR_KVM);
        assert_non_null(strstr(err.text, spy_name(requests[i])));
        assert_null(host);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_teardown(name, teardown)
        CASE(each_ioctl_that_fails_fails_the_capture_by_its_name),
        CASE(each_ioctl_that_fails_fails_the_restore_by_its_name),
        CASE(a_kvm_without_clock_control_for_this_guest_is_fine),
        CASE(each_allocation_that_fails_is_out_of_memory),
        CASE(a_restore_keeps_the_order_of_d9),
        CASE(the_tsc_deadline_is_the_last_msr_of_each_vcpu),
        CASE(capture_and_restore_make_few_system_calls),
        CASE(a_vm_that_does_not_fit_the_machine_is_refused_untouched),
        CASE(a_machine_without_controllers_does_not_fit_a_vm_with_them),
        CASE(sizes_that_cannot_be_are_refused),
        CASE(wrong_arguments_are_refused),
        CASE(an_msr_that_kvm_does_not_have_is_named),
        CASE(a_refused_msr_is_fine_only_if_it_holds_the_value_already),
        CASE(what_is_not_kvm_is_said_so),
        CASE(a_kvm_that_lacks_the_indispensable_is_refused_by_its_name),
        CASE(a_probe_that_fails_names_the_ioctl),
    };
    return unit_run(tests);
}
