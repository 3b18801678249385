/*
 * test_kvm_convert.c - KVM's structs and ours carry the same, both ways; arithmetic of clocks.
 *
 * Goal:   ours -> KVM's -> ours is the identity for any content, no member dropped or swapped; the
 *         x87 state of old kernels agrees with the XSAVE area; time never runs backwards,
 *         overflows or believes nonsense.
 * Method: a machine whose every byte has a number of its own, there and back, compared by its field
 *         tables; edges by hand.
 */
#include "unit.h"

#include <string.h>

#include <stasis/machine.h>

#include "hypervisor/kvm_x86_64.h"

#define NS_PER_S UINT64_C(1000000000)

struct parts {
    struct stasis_x86_vcpu vcpu;
    struct stasis_x86_cpuid cpuid;
    struct stasis_x86_pic pic;
    struct stasis_x86_ioapic ioapic;
    struct stasis_x86_pit pit;
    struct stasis_x86_machine x86;
    struct stasis_machine machine;
};

static void join(struct parts *parts)
{
    parts->vcpu.cpuid = &parts->cpuid;
    parts->vcpu.cpuid_count = 1;
    parts->x86 = (struct stasis_x86_machine){ .vcpus = &parts->vcpu,
                                              .vcpus_count = 1,
                                              .pics = &parts->pic,
                                              .pics_count = 1,
                                              .ioapic = &parts->ioapic,
                                              .pit = &parts->pit };
    parts->machine = (struct stasis_machine){ .arch = STASIS_ARCH_X86_64, .x86_64 = &parts->x86 };
}

static void number_bytes(void *object, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((uint8_t *)object)[i] = (uint8_t)(i % 251 + 1);
}

static void number(struct parts *parts)
{
    struct stasis_x86_vcpu *vcpu = &parts->vcpu;

    memset(parts, 0, sizeof(*parts));
    number_bytes(&vcpu->regs, sizeof(vcpu->regs));
    number_bytes(&vcpu->sregs, sizeof(vcpu->sregs));
    vcpu->sregs.pdptrs_valid = vcpu->sregs.has_interrupt_bitmap = true; /* no other bool holds */
    number_bytes(&vcpu->events, sizeof(vcpu->events));
    number_bytes(&vcpu->debugregs, sizeof(vcpu->debugregs));
    number_bytes(&parts->cpuid, sizeof(parts->cpuid));
    number_bytes(&parts->pic, sizeof(parts->pic));
    number_bytes(&parts->ioapic, sizeof(parts->ioapic));
    number_bytes(&parts->pit, sizeof(parts->pit));
    join(parts);
}

#define THERE_AND_BACK(kvm_type, name, from, to)                                                   \
    do {                                                                                           \
        kvm_type kvm_;                                                                             \
        memset(&kvm_, 0x5a, sizeof(kvm_));                                                         \
        name##_to_kvm((from), &kvm_);                                                              \
        name##_from_kvm(&kvm_, (to));                                                              \
    } while (0)

static int on_difference(void *arg, const struct stasis_difference *difference)
{
    (void)arg;
    print_message("# %s: %s became %s\n", difference->path, difference->a, difference->b);
    return 0;
}

static void assert_equal(const struct parts *a, const struct parts *b)
{
    struct stasis_error err = { 0 };
    uint64_t count = 0;

    assert_stasis_ok(stasis_machine_compare(&a->machine, &b->machine, STASIS_COMPARE_VOLATILE,
                                            on_difference, NULL, &count, &err),
                     &err);
    assert_int_equal(count, 0);
}

static void each_member_comes_back_from_kvms_structs(void **state)
{
    struct parts first, again;

    (void)state;
    number(&first);
    memset(&again, 0, sizeof(again));
    join(&again);
    THERE_AND_BACK(struct kvm_regs, kvm_regs, &first.vcpu.regs, &again.vcpu.regs);
    THERE_AND_BACK(struct kvm_sregs2, kvm_sregs2, &first.vcpu.sregs, &again.vcpu.sregs);
    again.vcpu.sregs.has_interrupt_bitmap = true; /* kvm_sregs2 has none: the next case */
    memcpy(again.vcpu.sregs.interrupt_bitmap, first.vcpu.sregs.interrupt_bitmap,
           sizeof(first.vcpu.sregs.interrupt_bitmap));
    THERE_AND_BACK(struct kvm_vcpu_events, kvm_events, &first.vcpu.events, &again.vcpu.events);
    THERE_AND_BACK(struct kvm_debugregs, kvm_debugregs, &first.vcpu.debugregs,
                   &again.vcpu.debugregs);
    THERE_AND_BACK(struct kvm_cpuid_entry2, kvm_cpuid, &first.cpuid, &again.cpuid);
    THERE_AND_BACK(struct kvm_pic_state, kvm_pic, &first.pic, &again.pic);
    THERE_AND_BACK(struct kvm_ioapic_state, kvm_ioapic, &first.ioapic, &again.ioapic);
    THERE_AND_BACK(struct kvm_pit_state2, kvm_pit, &first.pit, &again.pit);
    assert_equal(&first, &again);
}

static void old_sregs_carry_all_but_the_pdptrs(void **state)
{
    struct parts first, again;
    struct kvm_sregs kvm;

    (void)state;
    number(&first);
    first.vcpu.sregs.pdptrs_valid = false;
    memset(first.vcpu.sregs.pdptrs, 0, sizeof(first.vcpu.sregs.pdptrs));
    again = first;
    join(&again);
    memset(&again.vcpu.sregs, 0, sizeof(again.vcpu.sregs));
    memset(&kvm, 0x5a, sizeof(kvm));
    kvm_sregs_to_kvm(&first.vcpu.sregs, &kvm);
    kvm_sregs_from_kvm(&kvm, &again.vcpu.sregs);
    kvm_interrupt_bitmap_from_kvm(&kvm, &again.vcpu.sregs);
    assert_equal(&first, &again);
}

static void assert_zeros(const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        assert_int_equal(((const uint8_t *)bytes)[i], 0);
}

static void reserved_bytes_are_written_as_zero(void **state)
{
    struct parts first;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debugregs;
    struct kvm_pit_state2 pit;
    struct kvm_cpuid_entry2 cpuid;

    (void)state;
    number(&first);
    memset(&events, 0x5a, sizeof(events));
    memset(&debugregs, 0x5a, sizeof(debugregs));
    memset(&pit, 0x5a, sizeof(pit));
    memset(&cpuid, 0x5a, sizeof(cpuid));
    kvm_events_to_kvm(&first.vcpu.events, &events);
    kvm_debugregs_to_kvm(&first.vcpu.debugregs, &debugregs);
    kvm_pit_to_kvm(&first.pit, &pit);
    kvm_cpuid_to_kvm(&first.cpuid, &cpuid);
    assert_zeros(events.reserved, sizeof(events.reserved));
    assert_zeros(debugregs.reserved, sizeof(debugregs.reserved));
    assert_zeros(pit.reserved, sizeof(pit.reserved));
    assert_zeros(cpuid.padding, sizeof(cpuid.padding));
}

/* --- x87 and SSE without XSAVE ---------------------------------------------------------------- */

static void the_fpu_comes_back_from_an_xsave_area(void **state)
{
    struct kvm_fpu first, again;
    uint8_t area[KVM_XSAVE_LEGACY_SIZE];

    (void)state;
    number_bytes(&first, sizeof(first));
    first.pad1 = 0;
    first.pad2 = 0;
    kvm_fpu_to_xsave(&first, area);
    kvm_fpu_from_xsave(area, &again);
    assert_memory_equal(&first, &again, sizeof(first));
}

/* Offsets from Intel's SDM, volume 1, table 10-2. */
static void the_xsave_area_is_laid_out_as_intel_says(void **state)
{
    struct kvm_fpu fpu = { .fcw = 0x1234, .ftwx = 0x56, .mxcsr = 0x789abcde };
    uint8_t area[KVM_XSAVE_LEGACY_SIZE];
    uint32_t mxcsr;

    (void)state;
    fpu.fpr[7][9] = 0x11;
    fpu.xmm[15][15] = 0x22;
    kvm_fpu_to_xsave(&fpu, area);
    memcpy(&mxcsr, area + 24, sizeof(mxcsr));
    assert_int_equal(area[0], 0x34);
    assert_int_equal(area[1], 0x12);
    assert_int_equal(area[4], 0x56);
    assert_int_equal(mxcsr, 0x789abcde);
    assert_int_equal(area[32 + 7 * 16 + 9], 0x11);
    assert_int_equal(area[160 + 15 * 16 + 15], 0x22);
    assert_int_equal(area[512], 3); /* XSTATE_BV: x87 and SSE are there */
}

static void components_in_their_initial_state_are_not_read_from_memory(void **state)
{
    uint8_t area[KVM_XSAVE_LEGACY_SIZE];
    struct kvm_fpu fpu;

    (void)state;
    memset(area, 0xee, sizeof(area));
    memset(area + 512, 0, 64);
    kvm_fpu_from_xsave(area, &fpu);
    assert_int_equal(fpu.fcw, 0x37f);
    assert_int_equal(fpu.mxcsr, 0x1f80);
    assert_zeros(fpu.fpr, sizeof(fpu.fpr));
    assert_zeros(fpu.xmm, sizeof(fpu.xmm));
    assert_int_equal(fpu.fsw, 0);
}

/* --- clocks ----------------------------------------------------------------------------------- */

static void elapsed_time_is_the_difference(void **state)
{
    (void)state;
    assert_int_equal(kvm_time_elapsed(100, 100), 0);
    assert_int_equal(kvm_time_elapsed(100, 350), 250);
    assert_int_equal(kvm_time_elapsed(1, 1 + KVM_TIME_ELAPSED_MAX_NS), KVM_TIME_ELAPSED_MAX_NS);
}

static void elapsed_time_that_cannot_be_told_is_none(void **state)
{
    (void)state;
    assert_int_equal(kvm_time_elapsed(0, 12345), 0);     /* not known when */
    assert_int_equal(kvm_time_elapsed(12346, 12345), 0); /* the clock was set back */
    assert_int_equal(kvm_time_elapsed(UINT64_MAX, 1), 0);
    assert_int_equal(kvm_time_elapsed(1, 2 + KVM_TIME_ELAPSED_MAX_NS), 0); /* twenty years */
}

static void cycles_follow_the_rate(void **state)
{
    (void)state;
    assert_int_equal(kvm_time_cycles(NS_PER_S, 2600000), UINT64_C(2600000000));
    assert_int_equal(kvm_time_cycles(1, 1000000), 1);
    assert_int_equal(kvm_time_cycles(0, 2600000), 0);
    assert_int_equal(kvm_time_cycles(NS_PER_S, 0), 0);
    /* Twenty years at 4 GHz are beyond 64 bits on the way there, not at the end. */
    assert_int_equal(kvm_time_cycles(KVM_TIME_ELAPSED_MAX_NS, 4000000),
                     4 * KVM_TIME_ELAPSED_MAX_NS);
    assert_int_equal(kvm_time_cycles(UINT64_MAX, UINT32_MAX), UINT64_MAX);
}

static void the_exact_tsc_is_taken_where_the_parts_agree(void **state)
{
    const struct stasis_x86_clock clock = { .flags = KVM_CLOCK_HOST_TSC, .host_tsc = 5000000 };
    const struct stasis_x86_clock silent = { .host_tsc = 5000000 };
    const uint64_t offset = (uint64_t)-1000000;

    (void)state;
    /* The register was read 2000 cycles later. */
    assert_int_equal(kvm_time_guest_tsc(&clock, true, offset, 4002000, 1000000), 4000000);
    /* No offset, or no host TSC: the register it is. */
    assert_int_equal(kvm_time_guest_tsc(&clock, false, offset, 4002000, 1000000), 4002000);
    assert_int_equal(kvm_time_guest_tsc(&silent, true, offset, 4002000, 1000000), 4002000);
}

/* Scaled by two, the guest's TSC is nowhere near the sum. */
static void a_scaled_tsc_is_taken_from_the_register(void **state)
{
    const uint64_t host_tsc = UINT64_C(1) << 50;
    const struct stasis_x86_clock clock = { .flags = KVM_CLOCK_HOST_TSC, .host_tsc = host_tsc };

    (void)state;
    assert_int_equal(kvm_time_guest_tsc(&clock, true, 7, 2 * host_tsc + 7, 2000000),
                     2 * host_tsc + 7);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_member_comes_back_from_kvms_structs),
        cmocka_unit_test(old_sregs_carry_all_but_the_pdptrs),
        cmocka_unit_test(reserved_bytes_are_written_as_zero),
        cmocka_unit_test(the_fpu_comes_back_from_an_xsave_area),
        cmocka_unit_test(the_xsave_area_is_laid_out_as_intel_says),
        cmocka_unit_test(components_in_their_initial_state_are_not_read_from_memory),
        cmocka_unit_test(elapsed_time_is_the_difference),
        cmocka_unit_test(elapsed_time_that_cannot_be_told_is_none),
        cmocka_unit_test(cycles_follow_the_rate),
        cmocka_unit_test(the_exact_tsc_is_taken_where_the_parts_agree),
        cmocka_unit_test(a_scaled_tsc_is_taken_from_the_register),
    };
    return unit_run(tests);
}
