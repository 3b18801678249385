/*
 * test_kvm_coverage.c - nothing that KVM keeps for a guest is missed, nor can come to be missed.
 *
 * Goal:   each capability, reading ioctl, vCPU attribute and listed MSR is either captured or known
 *         to need no capture, in the header this is built with and in the kernel it runs on.
 * Method: kvm_known.c says what becomes of each; here it is held against <linux/kvm.h>, read as
 *         text, against KVM_CHECK_EXTENSION for every number, and against the ioctls that a capture
 *         makes. What is newer than the lists fails when a header has it; a capability that only
 *         the running kernel has is a skip that names it.
 */
#include "kvm_known.h"
#include "kvm_spy.h"
#include "kvm_vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <stasis/machine.h>

#include "base/io.h"
#include "hypervisor/kvm_host.h"
#include "hypervisor/kvm_x86_64.h"
#include "unit.h"

#define KVM_HEADER "/usr/include/linux/kvm.h"
#define CAP_NUMBER_MAX 1024
#define NAME_SIZE 64

static struct test_vm vm;
static struct stasis_machine saved;
static char *header;

static int teardown(void **state)
{
    (void)state;
    spy_end();
    free(header);
    header = NULL;
    stasis_machine_release(&saved);
    test_vm_close(&vm);
    return 0;
}

static void read_header(void)
{
    struct stasis_error err = { 0 };
    uint8_t *data;
    size_t size;

    if (io_read_file(KVM_HEADER, 1024 * 1024, &data, &size, &err) < 0)
        unit_skip("%s", err.text);
    header = (char *)data; /* with a NUL behind it */
}

/* The next "#define PREFIX..." of the header: its name without the prefix, and what follows it. */
static const char *next_define(const char *from, const char *prefix, char ret_name[NAME_SIZE],
                               const char **ret_value)
{
    const char *at = from;

    while ((at = strstr(at, "#define"))) {
        at += strlen("#define");
        at += strspn(at, " \t");
        if (strncmp(at, prefix, strlen(prefix)) != 0)
            continue;
        at += strlen(prefix);
        snprintf(ret_name, NAME_SIZE, "%.*s",
                 (int)strspn(at, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"), at);
        at += strlen(ret_name);
        *ret_value = at + strspn(at, " \t");
        return at;
    }
    return NULL;
}

static const struct known_cap *cap_by_number(unsigned number)
{
    for (size_t i = 0; i < known_cap_count; i++) {
        if (known_caps[i].number == number)
            return &known_caps[i];
    }
    return NULL;
}

static void each_capability_of_the_header_is_classified(void **state)
{
    char name[NAME_SIZE];
    const char *at, *value;
    unsigned found = 0, unknown = 0;

    (void)state;
    read_header();
    for (at = header; (at = next_define(at, "KVM_CAP_", name, &value));) {
        const unsigned number = (unsigned)strtoul(value, NULL, 10);
        const struct known_cap *cap = cap_by_number(number);

        if (value[0] < '0' || value[0] > '9')
            continue;
        found++;
        if (cap && strcmp(cap->name, name) == 0)
            continue;
        print_message("# KVM_CAP_%s %u is not in kvm_known.c\n", name, number);
        unknown++;
    }
    assert_true(found > 150);
    assert_int_equal(unknown, 0);
}

static void each_capability_of_this_kernel_is_classified(void **state)
{
    const unsigned newest = known_caps[known_cap_count - 1].number;
    unsigned unknown = 0, too_new = 0;

    (void)state;
    test_vm_open(&vm, &test_vm_one_vcpu);
    for (unsigned i = 0; i < CAP_NUMBER_MAX; i++) {
        const struct known_cap *cap = cap_by_number(i);

        if (ioctl(vm.vm_fd, KVM_CHECK_EXTENSION, (unsigned long)i) <= 0)
            continue;
        if (cap && cap->kind != CAP_FOREIGN)
            continue;
        print_message("# KVM offers capability %u, %s\n", i,
                      cap ? "said to be of another architecture" : "of which nothing is known");
        unknown += i <= newest;
        too_new += i > newest;
    }
    assert_int_equal(unknown, 0);
    if (too_new)
        unit_skip("%u capabilities are newer than kvm_known.c", too_new);
}

static void each_state_behind_a_capability_has_a_place(void **state)
{
    (void)state;
    for (size_t i = 0; i < known_cap_count; i++) {
        if (known_caps[i].kind == CAP_STATE)
            assert_non_null(known_caps[i].where);
        assert_true(i == 0 || known_caps[i].number > known_caps[i - 1].number);
    }
}

static const struct known_ioctl *ioctl_by_name(const char *name)
{
    for (size_t i = 0; i < known_ioctl_count; i++) {
        if (strcmp(known_ioctls[i].name, name) == 0)
            return &known_ioctls[i];
    }
    return NULL;
}

static void each_reading_ioctl_of_the_header_is_classified(void **state)
{
    char name[NAME_SIZE], full[NAME_SIZE + 4];
    const char *at, *value;
    unsigned found = 0, unknown = 0;

    (void)state;
    read_header();
    for (at = header; (at = next_define(at, "KVM_", name, &value));) {
        if (strncmp(value, "_IO", 3) != 0)
            continue;
        snprintf(full, sizeof(full), "KVM_%s", name);
        if (!strstr(full, "_GET_") && strncmp(value, "_IOR(", 5) != 0)
            continue;
        found++;
        if (ioctl_by_name(full))
            continue;
        print_message("# %s is not in kvm_known.c\n", full);
        unknown++;
    }
    assert_true(found > 30);
    assert_int_equal(unknown, 0);
}

static bool was_made(unsigned long request)
{
    size_t count;
    const struct spy_call *calls = spy_calls(&count);

    for (size_t i = 0; i < count; i++) {
        if (calls[i].request == request)
            return true;
    }
    return false;
}

static void a_capture_makes_the_ioctls_it_is_said_to_make(void **state)
{
    const struct stasis_kvm_host *host;
    struct stasis_error err = { 0 };

    (void)state;
    test_vm_open(&vm, &test_vm_one_vcpu);
    host = test_kvm_host();
    spy_begin();
    assert_stasis_ok(stasis_kvm_capture(host, &vm.view, &saved, &err), &err);
    for (size_t i = 0; i < known_ioctl_count; i++) {
        const struct known_ioctl *known = &known_ioctls[i];

        if (known->kind == IOCTL_CAPTURED && !was_made(known->request))
            fail_msg("%s was not made", known->name);
        if (known->kind == IOCTL_NO_STATE && was_made(known->request))
            fail_msg("%s was made, for nothing", known->name);
    }
    assert_int_equal(was_made(KVM_GET_SREGS2), host->has_sregs2);
    assert_int_equal(was_made(KVM_GET_XSAVE2), host->has_xsave2);
    assert_int_equal(was_made(KVM_GET_XSAVE), host->has_xsave && !host->has_xsave2);
    assert_int_equal(was_made(KVM_GET_NESTED_STATE), host->nested_size > 0);
    assert_int_equal(was_made(KVM_GET_DEVICE_ATTR), host->has_vcpu_attrs);
}

/* --- MSRs ----------------------------------------------------------------------------------- */

struct index_list { /* struct kvm_msr_list with room */
    uint32_t nmsrs;
    uint32_t indices[2048];
};

/* Follow from CPUID or from other registers, as the kernel says in arch/x86/kvm/x86.c. */
static bool is_derived(uint32_t index)
{
    return (index >= 0x481 && index <= 0x484) || index == 0x487 || index == 0x489;
}

static void assert_all_captured(unsigned long list_request, const char *list_name)
{
    const struct stasis_x86_vcpu *vcpu = &saved.x86_64->vcpus[0];
    struct index_list list = { .nmsrs = 2048 };
    unsigned read = 0, missing = 0;
    uint64_t data;

    assert_true(ioctl(vm.kvm_fd, list_request, &list) >= 0);
    for (uint32_t i = 0; i < list.nmsrs; i++) {
        if (is_derived(list.indices[i]) || !test_vm_try_msr(&vm, 0, list.indices[i], &data))
            continue;
        read++;
        if (kvm_msr_find(vcpu->msrs, vcpu->msrs_count, list.indices[i]))
            continue;
        print_message("# MSR 0x%x of %s was not captured\n", list.indices[i], list_name);
        missing++;
    }
    print_message("# %u of %u MSRs of %s read\n", read, list.nmsrs, list_name);
    assert_true(read > 0);
    assert_int_equal(missing, 0);
}

static void open_and_capture(void)
{
    struct stasis_error err = { 0 };

    test_vm_open(&vm, &test_vm_one_vcpu);
    assert_stasis_ok(stasis_kvm_capture(test_kvm_host(), &vm.view, &saved, &err), &err);
}

static void each_msr_of_the_index_list_that_reads_is_captured(void **state)
{
    (void)state;
    open_and_capture();
    assert_all_captured(KVM_GET_MSR_INDEX_LIST, "the index list");
}

static void each_feature_msr_that_a_vcpu_has_is_captured(void **state)
{
    (void)state;
    test_vm_open(&vm, &test_vm_one_vcpu);
    if (ioctl(vm.kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_GET_MSR_FEATURES) <= 0)
        unit_skip("no KVM_CAP_GET_MSR_FEATURES");
    test_vm_close(&vm);
    open_and_capture();
    assert_all_captured(KVM_GET_MSR_FEATURE_INDEX_LIST, "the feature list");
}

/* Ones that KVM keeps and does not list, found in its source. */
static void msrs_that_kvm_does_not_list_are_captured(void **state)
{
    static const uint32_t indices[] = { 0x10,  0x179, 0x17a, 0x17b, 0x200, 0x20f, 0x250,
                                        0x258, 0x259, 0x268, 0x26f, 0x277, 0x2ff, 0x6e0 };
    const struct stasis_x86_vcpu *vcpu;
    uint64_t data;

    (void)state;
    open_and_capture();
    vcpu = &saved.x86_64->vcpus[0];
    for (size_t i = 0; i < sizeof(indices) / sizeof(indices[0]); i++) {
        if (test_vm_try_msr(&vm, 0, indices[i], &data) &&
            !kvm_msr_find(vcpu->msrs, vcpu->msrs_count, indices[i]))
            fail_msg("MSR 0x%x was not captured", indices[i]);
    }
}

static void no_msr_is_captured_twice(void **state)
{
    const struct stasis_x86_vcpu *vcpu;

    (void)state;
    open_and_capture();
    vcpu = &saved.x86_64->vcpus[0];
    for (size_t i = 0; i < vcpu->msrs_count; i++)
        assert_ptr_equal(kvm_msr_find(vcpu->msrs, vcpu->msrs_count, vcpu->msrs[i].index),
                         &vcpu->msrs[i]);
}

static void a_guest_that_was_shown_hyperv_has_its_msrs_captured(void **state)
{
    static const uint32_t indices[] = { 0x40000082, 0x40000083, 0x40000090, 0x4000009f,
                                        0x400000b7 };
    struct kvm_enable_cap synic = { .cap = KVM_CAP_HYPERV_SYNIC2 };
    struct stasis_error err = { 0 };
    struct test_cpuid cpuid;
    uint64_t data;

    (void)state;
    test_vm_open(&vm, &test_vm_one_vcpu);
    if (ioctl(vm.kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_HYPERV_SYNIC2) <= 0)
        unit_skip("this KVM has no Hyper-V interrupt controller");
    test_cpuid_supported(vm.kvm_fd, 0, &cpuid);
    for (uint32_t i = 0; i < cpuid.nent; i++) { /* in the place of KVM's own leaves */
        struct kvm_cpuid_entry2 *entry = &cpuid.entries[i];

        if (entry->function == 0x40000000)
            entry->eax = 0x40000006, entry->ebx = 0x7263694d, entry->ecx = 0x666f736f,
            entry->edx = 0x76482074; /* "Microsoft Hv" */
        if (entry->function == 0x40000001)
            entry->eax = 0x31237648; /* "Hv#1" */
    }
    assert_true(cpuid.nent + 1 < TEST_CPUID_MAX);
    cpuid.entries[cpuid.nent++] = (struct kvm_cpuid_entry2){
        .function = 0x40000003, .eax = 0x0c /* SYNIC, SYNTIMER */
    };
    assert_true(ioctl(vm.vcpu_fds[0], KVM_SET_CPUID2, &cpuid) >= 0);
    assert_true(ioctl(vm.vcpu_fds[0], KVM_ENABLE_CAP, &synic) >= 0);
    assert_true(test_vm_set_msr(&vm, 0, 0x40000095, 0x100a5)); /* SINT5, masked, vector 0xa5 */
    assert_stasis_ok(stasis_kvm_capture(test_kvm_host(), &vm.view, &saved, &err), &err);
    for (size_t i = 0; i < sizeof(indices) / sizeof(indices[0]); i++) {
        if (test_vm_try_msr(&vm, 0, indices[i], &data))
            assert_non_null(kvm_msr_find(saved.x86_64->vcpus[0].msrs,
                                         saved.x86_64->vcpus[0].msrs_count, indices[i]));
    }
    assert_int_equal(
        kvm_msr_find(saved.x86_64->vcpus[0].msrs, saved.x86_64->vcpus[0].msrs_count, 0x40000095)
            ->data,
        0x100a5);
}

/* --- attributes, registers, reserved bytes -------------------------------------------------- */

static void the_tsc_offset_is_the_only_vcpu_attribute(void **state)
{
    (void)state;
    test_vm_open(&vm, &test_vm_one_vcpu);
    for (uint32_t group = 0; group < 16; group++) {
        for (uint64_t attribute = 0; attribute < 16; attribute++) {
            struct kvm_device_attr attr = { .group = group, .attr = attribute };

            if (group == KVM_VCPU_TSC_CTRL && attribute == KVM_VCPU_TSC_OFFSET)
                continue;
            if (ioctl(vm.vcpu_fds[0], KVM_HAS_DEVICE_ATTR, &attr) == 0)
                fail_msg("vCPU attribute %u.%u is not known", group, (unsigned)attribute);
        }
    }
}

static void the_shadow_stack_pointer_is_the_only_register_by_one_reg(void **state)
{
    struct {
        uint64_t n, reg[256];
    } list = { .n = 256 };
    const uint64_t ssp = KVM_REG_X86 | KVM_REG_SIZE_U64 | UINT64_C(3) << 32;

    (void)state;
    test_vm_open(&vm, &test_vm_one_vcpu);
    if (ioctl(vm.vcpu_fds[0], KVM_GET_REG_LIST, &list) < 0)
        unit_skip("KVM_GET_REG_LIST: %s", strerror(errno));
    for (uint64_t i = 0; i < list.n && i < 256; i++) {
        if (list.reg[i] != ssp)
            fail_msg("register 0x%llx is not known", (unsigned long long)list.reg[i]);
    }
}

static void assert_zeros(const void *bytes, size_t size, const char *what)
{
    for (size_t i = 0; i < size; i++) {
        if (((const uint8_t *)bytes)[i] != 0)
            fail_msg("reserved byte %zu of %s is used now", i, what);
    }
}

/* A kernel that keeps something new in an old struct puts it where zeros were. */
static void reserved_bytes_of_kvms_structs_are_still_reserved(void **state)
{
    struct kvm_vcpu_events events = { 0 };
    struct kvm_debugregs debugregs = { 0 };
    struct kvm_pit_state2 pit = { 0 };
    struct kvm_xcrs xcrs = { 0 };

    (void)state;
    test_vm_open(&vm, &test_vm_one_vcpu);
    assert_true(ioctl(vm.vcpu_fds[0], KVM_GET_VCPU_EVENTS, &events) >= 0);
    assert_zeros(events.reserved, sizeof(events.reserved), "kvm_vcpu_events");
    assert_true(ioctl(vm.vcpu_fds[0], KVM_GET_DEBUGREGS, &debugregs) >= 0);
    assert_zeros(debugregs.reserved, sizeof(debugregs.reserved), "kvm_debugregs");
    assert_true(ioctl(vm.vm_fd, KVM_GET_PIT2, &pit) >= 0);
    assert_zeros(pit.reserved, sizeof(pit.reserved), "kvm_pit_state2");
    assert_true(ioctl(vm.vcpu_fds[0], KVM_GET_XCRS, &xcrs) >= 0);
    assert_int_equal(xcrs.flags, 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_teardown(name, teardown)
        CASE(each_capability_of_the_header_is_classified),
        CASE(each_capability_of_this_kernel_is_classified),
        CASE(each_state_behind_a_capability_has_a_place),
        CASE(each_reading_ioctl_of_the_header_is_classified),
        CASE(a_capture_makes_the_ioctls_it_is_said_to_make),
        CASE(each_msr_of_the_index_list_that_reads_is_captured),
        CASE(each_feature_msr_that_a_vcpu_has_is_captured),
        CASE(msrs_that_kvm_does_not_list_are_captured),
        CASE(no_msr_is_captured_twice),
        CASE(a_guest_that_was_shown_hyperv_has_its_msrs_captured),
        CASE(the_tsc_offset_is_the_only_vcpu_attribute),
        CASE(the_shadow_stack_pointer_is_the_only_register_by_one_reg),
        CASE(reserved_bytes_of_kvms_structs_are_still_reserved),
    };
    return unit_run(tests);
}
