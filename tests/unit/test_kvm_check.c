/*
 * test_kvm_check.c - a host that cannot run a machine is found out, by the name of what it lacks.
 *
 * Goal:   each feature bit that the guest was shown and the host lacks is named; nothing that the
 *         host has, or that says nothing of the host, raises a false alarm.
 * Method: a made-up host and machine that fit, then one thing at a time taken away. No /dev/kvm.
 */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <stasis/kvm.h>
#include <stasis/machine.h>

#include "hypervisor/kvm_host.h"
#include "hypervisor/kvm_x86_64.h"
#include "hypervisor/kvm_x86_64_features.h"

#define TSC_KHZ 2600000
#define INDEXED 1 /* KVM_CPUID_FLAG_SIGNIFCANT_INDEX */
#define LEAVES_MAX 64

static struct stasis_x86_cpuid host_cpuid[LEAVES_MAX], guest_cpuid[2][LEAVES_MAX];
static size_t leaf_count;
static uint32_t host_msrs[] = { 0x174, 0x175, 0x176, 0xc0000081 };
static struct stasis_x86_msr guest_msrs[2][4];
static struct stasis_x86_xcr guest_xcrs[2][1];
static struct stasis_x86_vcpu vcpus[2];
static struct stasis_x86_machine x86;
static struct stasis_machine machine;
static struct stasis_kvm_host host;
static struct stasis_error err;

static void add_leaf(uint32_t function, uint32_t index, uint32_t flags)
{
    for (size_t i = 0; i < leaf_count; i++) {
        if (host_cpuid[i].function == function && host_cpuid[i].index == index)
            return;
    }
    assert_true(leaf_count < LEAVES_MAX);
    host_cpuid[leaf_count++] =
        (struct stasis_x86_cpuid){ .function = function, .index = index, .flags = flags };
}

static struct stasis_x86_cpuid *leaf_of(struct stasis_x86_cpuid *cpuid, uint32_t function,
                                        uint32_t index)
{
    for (size_t i = 0; i < leaf_count; i++) {
        if (cpuid[i].function == function && cpuid[i].index == index)
            return &cpuid[i];
    }
    fail_msg("no leaf 0x%x.%u", function, index);
    return NULL;
}

static void make_leaves(void)
{
    leaf_count = 0;
    add_leaf(0x40000000, 0, 0);
    leaf_of(host_cpuid, 0x40000000, 0)->ebx = 0x4b4d564b;
    leaf_of(host_cpuid, 0x40000000, 0)->ecx = 0x564b4d56;
    leaf_of(host_cpuid, 0x40000000, 0)->edx = 0x4d;
    for (size_t i = 0; i < cpuid_feature_word_count; i++) {
        const struct cpuid_feature_word *word = &cpuid_feature_words[i];

        add_leaf(word->function, word->index,
                 word->function == 7 || word->function == 0xd ? INDEXED : 0);
    }
    add_leaf(0xa, 0, 0);
    add_leaf(0xd, 2, INDEXED);
    add_leaf(0xd, 9, INDEXED);
    leaf_of(host_cpuid, 0xd, 0)->eax = 0x207;
    *leaf_of(host_cpuid, 0xd, 2) = (struct stasis_x86_cpuid){
        .function = 0xd, .index = 2, .flags = INDEXED, .eax = 256, .ebx = 576
    };
    *leaf_of(host_cpuid, 0xd, 9) = (struct stasis_x86_cpuid){
        .function = 0xd, .index = 9, .flags = INDEXED, .eax = 8, .ebx = 2688
    };
    leaf_of(host_cpuid, 0x80000008, 0)->eax = 0x3030;
    leaf_of(host_cpuid, 0xa, 0)->eax = 0x0602; /* version 2, 6 counters */
}

/* Two vCPUs that have just what the host has. */
static int setup(void **state)
{
    (void)state;
    make_leaves();
    host = (struct stasis_kvm_host){ .vcpus_max = 2,
                                     .vcpu_ids_max = 8,
                                     .cpuid = host_cpuid,
                                     .cpuid_count = leaf_count,
                                     .msrs = host_msrs,
                                     .msrs_count = 4,
                                     .msrs_listed = 4,
                                     .xcr0 = 0x207,
                                     .tsc_khz = TSC_KHZ };
    for (size_t i = 0; i < 2; i++) {
        memcpy(guest_cpuid[i], host_cpuid, sizeof(host_cpuid));
        for (size_t k = 0; k < 4; k++)
            guest_msrs[i][k] = (struct stasis_x86_msr){ .index = host_msrs[k] };
        guest_xcrs[i][0] = (struct stasis_x86_xcr){ .value = 0x207 };
        vcpus[i] = (struct stasis_x86_vcpu){ .id = (uint32_t)i,
                                             .tsc_khz = TSC_KHZ,
                                             .cpuid = guest_cpuid[i],
                                             .cpuid_count = leaf_count,
                                             .msrs = guest_msrs[i],
                                             .msrs_count = 4,
                                             .xcrs = guest_xcrs[i],
                                             .xcrs_count = 1 };
    }
    x86 = (struct stasis_x86_machine){ .vcpus = vcpus, .vcpus_count = 2 };
    machine = (struct stasis_machine){ .arch = STASIS_ARCH_X86_64, .x86_64 = &x86 };
    err = (struct stasis_error){ 0 };
    return 0;
}

static int check(void)
{
    return stasis_kvm_check_host(&host, &machine, &err);
}

/* Refused, and these are the words for it; nothing else is lacking. */
static void assert_lacks(const char *what)
{
    char expected[128];

    snprintf(expected, sizeof(expected), "this host lacks %s", what);
    assert_stasis_fails(check(), &err, STASIS_ERR_HOST_INCOMPATIBLE);
    assert_string_equal(err.text, expected);
}

static uint32_t *reg_of(struct stasis_x86_cpuid *leaf, enum cpuid_reg reg)
{
    uint32_t *const regs[] = { &leaf->eax, &leaf->ebx, &leaf->ecx, &leaf->edx };

    return regs[reg];
}

static void a_machine_that_fits_is_fine(void **state)
{
    (void)state;
    assert_stasis_ok(check(), &err);
}

static void each_feature_that_is_missing_is_named(void **state)
{
    char name[CPUID_FEATURE_NAME_SIZE];
    unsigned named = 0;

    (void)state;
    for (size_t i = 0; i < cpuid_feature_word_count; i++) {
        const struct cpuid_feature_word *word = &cpuid_feature_words[i];

        for (unsigned bit = 0; bit < 32; bit++) {
            /* Only the second vCPU was shown it. */
            uint32_t *reg = reg_of(leaf_of(guest_cpuid[1], word->function, word->index), word->reg);
            const uint32_t before = *reg;

            if ((word->ignored | before) & (1u << bit))
                continue;
            *reg |= 1u << bit;
            cpuid_feature_name(word, bit, name);
            assert_lacks(name);
            *reg = before;
            named++;
        }
    }
    assert_true(named > 500);
    assert_stasis_ok(check(), &err);
}

static void features_that_the_host_has_are_fine(void **state)
{
    (void)state;
    for (size_t i = 0; i < cpuid_feature_word_count; i++) {
        const struct cpuid_feature_word *word = &cpuid_feature_words[i];

        *reg_of(leaf_of(host_cpuid, word->function, word->index), word->reg) = 0xffffffff;
        if (word->function != 0xd) /* those components would have a place of their own */
            *reg_of(leaf_of(guest_cpuid[0], word->function, word->index), word->reg) = 0xffffffff;
    }
    host.has_tsc_deadline = host.can_mwait = true;
    assert_stasis_ok(check(), &err);
}

static void bits_that_say_nothing_of_the_host_raise_no_alarm(void **state)
{
    (void)state;
    for (size_t i = 0; i < cpuid_feature_word_count; i++) {
        const struct cpuid_feature_word *word = &cpuid_feature_words[i];
        uint32_t quiet = word->ignored;

        if (word->function == 1 && word->reg == CPUID_ECX)
            quiet &= ~(1u << 3 | 1u << 24); /* MONITOR, TSC_DEADLINE: by capability */
        *reg_of(leaf_of(guest_cpuid[0], word->function, word->index), word->reg) |= quiet;
    }
    assert_stasis_ok(check(), &err);
}

static void features_offered_by_capability_count(void **state)
{
    (void)state;
    leaf_of(guest_cpuid[0], 1, 0)->ecx = 1u << 24;
    assert_lacks("tsc_deadline_timer");
    host.has_tsc_deadline = true;
    assert_stasis_ok(check(), &err);
    leaf_of(guest_cpuid[0], 1, 0)->ecx |= 1u << 3;
    assert_lacks("monitor");
    host.can_mwait = true;
    assert_stasis_ok(check(), &err);
}

static void well_known_features_have_their_well_known_names(void **state)
{
    static const struct {
        uint32_t function, index;
        enum cpuid_reg reg;
        unsigned bit;
        const char *name;
    } known[] = {
        { 1, 0, CPUID_ECX, 0, "sse3" },
        { 1, 0, CPUID_ECX, 17, "pcid" },
        { 1, 0, CPUID_ECX, 30, "rdrand" },
        { 1, 0, CPUID_EDX, 26, "sse2" },
        { 7, 0, CPUID_EBX, 5, "avx2" },
        { 7, 0, CPUID_EBX, 16, "avx512f" },
        { 7, 0, CPUID_EBX, 29, "sha_ni" },
        { 7, 0, CPUID_ECX, 16, "la57" },
        { 7, 0, CPUID_ECX, 22, "rdpid" },
        { 7, 0, CPUID_EDX, 24, "amx_tile" },
        { 7, 0, CPUID_EDX, 31, "ssbd" },
        { 7, 1, CPUID_EAX, 4, "avx_vnni" },
        { 7, 1, CPUID_EDX, 19, "avx10" },
        { 0xd, 0, CPUID_EAX, 17, "xsave component amx_tilecfg" },
        { 0xd, 1, CPUID_EAX, 3, "xsaves" },
        { 0x80000001, 0, CPUID_ECX, 2, "svm" },
        { 0x80000001, 0, CPUID_EDX, 20, "nx" },
        { 0x80000001, 0, CPUID_EDX, 29, "lm" },
        { 0x80000007, 0, CPUID_EDX, 8, "invariant_tsc" },
        { 0x80000008, 0, CPUID_EBX, 12, "ibpb" },
        { 0x80000008, 0, CPUID_EBX, 24, "amd_ssbd" },
        { 0x8000000a, 0, CPUID_EDX, 25, "vnmi" },
        { 0x80000021, 0, CPUID_EAX, 8, "autoibrs" },
        { 0x40000001, 0, CPUID_EAX, 7, "kvm_pv_unhalt" },
        { 0x40000001, 0, CPUID_EAX, 24, "kvm_clocksource_stable" },
        { 1, 0, CPUID_ECX, 16, "CPUID 0x1.0 ecx bit 16" },
        { 7, 2, CPUID_EDX, 31, "CPUID 0x7.2 edx bit 31" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        uint32_t *reg =
            reg_of(leaf_of(guest_cpuid[0], known[i].function, known[i].index), known[i].reg);
        const uint32_t before = *reg;

        *reg |= 1u << known[i].bit;
        if (known[i].function == 0x40000001)
            leaf_of(guest_cpuid[0], 0x40000000, 0)->ebx = 0x4b4d564b;
        assert_lacks(known[i].name);
        *reg = before;
    }
}

/* A guest that was shown Hyper-V has KVM's leaves further up. */
static void kvms_leaves_are_found_where_the_guest_had_them(void **state)
{
    struct stasis_x86_cpuid *base = leaf_of(guest_cpuid[0], 0x40000000, 0);
    struct stasis_x86_cpuid *features = leaf_of(guest_cpuid[0], 0x40000001, 0);

    (void)state;
    base->function = 0x40000100;
    features->function = 0x40000101;
    features->eax = 1u << 5;
    assert_lacks("kvm_steal_time");
    base->ebx = 0; /* someone else's leaves are not KVM's features */
    assert_stasis_ok(check(), &err);
}

static void wider_addresses_than_the_hosts_are_named(void **state)
{
    (void)state;
    leaf_of(guest_cpuid[0], 0x80000008, 0)->eax = 0x3034;
    assert_lacks("52 physical address bits");
    leaf_of(guest_cpuid[0], 0x80000008, 0)->eax = 0x3930;
    assert_lacks("57 linear address bits");
    leaf_of(guest_cpuid[0], 0x80000008, 0)->eax = 0x3024; /* narrower is fine */
    assert_stasis_ok(check(), &err);
}

static void a_larger_pmu_than_the_hosts_is_named(void **state)
{
    (void)state;
    leaf_of(guest_cpuid[0], 0xa, 0)->eax = 0x0605;
    assert_lacks("PMU version 5");
    leaf_of(guest_cpuid[0], 0xa, 0)->eax = 0x0802;
    assert_lacks("8 performance counters");
    leaf_of(guest_cpuid[0], 0xa, 0)->eax = 0;
    assert_stasis_ok(check(), &err);
}

static void an_xsave_component_in_another_place_is_named(void **state)
{
    (void)state;
    leaf_of(guest_cpuid[0], 0xd, 9)->ebx = 2432; /* where AMD has PKRU */
    assert_lacks("xsave component 9 of 8 bytes at 2432");
}

static void xcr0_bits_that_the_host_lacks_are_named(void **state)
{
    (void)state;
    guest_xcrs[1][0].value = 0x2e7;
    assert_lacks("XCR0 0xe0");
    guest_xcrs[1][0].index = 1; /* not XCR0 */
    assert_stasis_ok(check(), &err);
}

static void msrs_that_the_host_lacks_are_named_once(void **state)
{
    (void)state;
    guest_msrs[0][2].index = 0xda0;
    guest_msrs[1][2].index = 0xda0;
    assert_lacks("MSR 0xda0");
    guest_msrs[1][3].index = 0xd90; /* and one that only the second vCPU has */
    assert_lacks("MSR 0xda0, MSR 0xd90");
}

static void machine_check_banks_are_known_where_kvm_has_them(void **state)
{
    (void)state;
    guest_msrs[0][2].index = guest_msrs[1][2].index = 0x400 + 4 * 31 + 3;
    guest_msrs[0][3].index = guest_msrs[1][3].index = 0x280 + 31;
    host.has_mce = true;
    assert_stasis_ok(check(), &err);
    host.has_mce = false;
    assert_lacks("MSR 0x47f, MSR 0x29f");
    host.has_mce = true;
    guest_msrs[0][2].index = guest_msrs[1][2].index = 0x400 + 4 * 32;
    assert_lacks("MSR 0x480");
}

static void the_shadow_stack_pointer_needs_one_reg(void **state)
{
    (void)state;
    guest_msrs[0][2].index = guest_msrs[1][2].index = X86_MSR_GUEST_SSP;
    assert_lacks("MSR 0x4b564dff");
    host.has_one_reg = true;
    assert_stasis_ok(check(), &err);
}

static void a_tsc_rate_may_differ_by_250_ppm(void **state)
{
    (void)state;
    vcpus[0].tsc_khz = vcpus[1].tsc_khz = TSC_KHZ + TSC_KHZ / 4000; /* 250 ppm */
    assert_stasis_ok(check(), &err);
    vcpus[0].tsc_khz = vcpus[1].tsc_khz = TSC_KHZ - TSC_KHZ / 4000;
    assert_stasis_ok(check(), &err);
    vcpus[0].tsc_khz = vcpus[1].tsc_khz = 2600651;
    assert_lacks("TSC 2600651 kHz");
    vcpus[0].tsc_khz = vcpus[1].tsc_khz = 2599349;
    assert_lacks("TSC 2599349 kHz");
}

static void any_tsc_rate_will_do_where_kvm_scales(void **state)
{
    (void)state;
    vcpus[0].tsc_khz = vcpus[1].tsc_khz = 1000000;
    host.has_tsc_scaling = true;
    assert_stasis_ok(check(), &err);
}

static void an_unknown_tsc_rate_is_not_held_against_anyone(void **state)
{
    (void)state;
    vcpus[0].tsc_khz = vcpus[1].tsc_khz = 0;
    assert_stasis_ok(check(), &err);
    vcpus[0].tsc_khz = vcpus[1].tsc_khz = 1000000;
    host.tsc_khz = 0;
    assert_stasis_ok(check(), &err);
}

static void nested_state_needs_a_host_that_nests(void **state)
{
    struct kvm_nested_state nested = { .format = KVM_STATE_NESTED_FORMAT_SVM, .size = 128 };

    (void)state;
    vcpus[0].nested = (uint8_t *)&nested;
    vcpus[0].nested_size = sizeof(nested);
    assert_lacks("nested virtualisation");
    nested.flags = KVM_STATE_NESTED_GIF_SET; /* as outside of SVM */
    assert_stasis_ok(check(), &err);
    nested.format = KVM_STATE_NESTED_FORMAT_VMX;
    nested.flags = 0;
    nested.hdr.vmx.vmxon_pa = UINT64_MAX; /* as outside of VMX */
    assert_stasis_ok(check(), &err);
    nested.hdr.vmx.vmxon_pa = 0x1000;
    assert_lacks("nested virtualisation");
    host.nested_size = 4096;
    assert_stasis_ok(check(), &err);
    vcpus[0].nested_size = 5; /* cut off: nothing that could be called idle */
    host.nested_size = 0;
    assert_lacks("nested virtualisation");
}

static void too_many_vcpus_have_an_error_of_their_own(void **state)
{
    (void)state;
    host.vcpus_max = 1;
    assert_stasis_fails(check(), &err, STASIS_ERR_TOO_MANY_VCPUS);
    assert_int_equal(check(), -EINVAL);
    assert_non_null(strstr(err.text, "2 vCPUs"));
    host.vcpus_max = 2;
    vcpus[1].id = 8;
    assert_stasis_fails(check(), &err, STASIS_ERR_TOO_MANY_VCPUS);
    assert_non_null(strstr(err.text, "id 8"));
}

static void everything_that_is_missing_is_listed(void **state)
{
    (void)state;
    leaf_of(guest_cpuid[0], 7, 0)->ebx = 1u << 16;
    guest_msrs[0][2].index = guest_msrs[1][2].index = 0xda0;
    vcpus[0].tsc_khz = vcpus[1].tsc_khz = 3000000;
    assert_lacks("avx512f, MSR 0xda0, TSC 3000000 kHz");
}

static void what_does_not_fit_the_text_is_counted(void **state)
{
    const char *tail;

    (void)state;
    leaf_of(guest_cpuid[0], 1, 0)->edx = 0xffffffff;
    leaf_of(guest_cpuid[0], 7, 0)->ebx = 0xffffffff;
    leaf_of(guest_cpuid[0], 7, 0)->ecx = 0xffffffff;
    assert_stasis_fails(check(), &err, STASIS_ERR_HOST_INCOMPATIBLE);
    assert_int_equal(check(), -ENOTSUP);
    tail = strstr(err.text, " and ");
    assert_non_null(tail);
    assert_true(atoi(tail + 5) > 0);
    assert_non_null(strstr(tail, " more"));
    assert_true(strlen(err.text) < STASIS_ERROR_TEXT_SIZE - 1);
    assert_null(strstr(err.text, "..."));
}

static void another_architecture_is_refused(void **state)
{
    (void)state;
    machine.arch = STASIS_ARCH_ARM64;
    assert_stasis_fails(check(), &err, STASIS_ERR_INVALID_ARGUMENT);
    machine.arch = STASIS_ARCH_X86_64;
    machine.x86_64 = NULL;
    assert_stasis_fails(check(), &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_int_equal(stasis_kvm_check_host(&host, &machine, NULL), -EINVAL);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup(name, setup)
        CASE(a_machine_that_fits_is_fine),
        CASE(each_feature_that_is_missing_is_named),
        CASE(features_that_the_host_has_are_fine),
        CASE(bits_that_say_nothing_of_the_host_raise_no_alarm),
        CASE(features_offered_by_capability_count),
        CASE(well_known_features_have_their_well_known_names),
        CASE(kvms_leaves_are_found_where_the_guest_had_them),
        CASE(wider_addresses_than_the_hosts_are_named),
        CASE(a_larger_pmu_than_the_hosts_is_named),
        CASE(an_xsave_component_in_another_place_is_named),
        CASE(xcr0_bits_that_the_host_lacks_are_named),
        CASE(msrs_that_the_host_lacks_are_named_once),
        CASE(machine_check_banks_are_known_where_kvm_has_them),
        CASE(the_shadow_stack_pointer_needs_one_reg),
        CASE(a_tsc_rate_may_differ_by_250_ppm),
        CASE(any_tsc_rate_will_do_where_kvm_scales),
        CASE(an_unknown_tsc_rate_is_not_held_against_anyone),
        CASE(nested_state_needs_a_host_that_nests),
        CASE(too_many_vcpus_have_an_error_of_their_own),
        CASE(everything_that_is_missing_is_listed),
        CASE(what_does_not_fit_the_text_is_counted),
        CASE(another_architecture_is_refused),
    };
    return unit_run(tests);
}
