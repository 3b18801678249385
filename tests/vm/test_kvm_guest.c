/*
 * test_kvm_guest.c - a guest goes on in another VM exactly where it was.
 *
 * Goal:   what runs, waits or ticks at capture does so after restore: code, interrupts, timers,
 *         clocks.
 * Method: a few bytes of real-mode code that say by "out" what they see; captured between two of
 *         them, restored into a second VM with a copy of the memory. Time that passes between
 *         capture and restore is made by moving the saved wall clock back.
 */
#include "kvm_vm.h"

#include <string.h>
#include <sys/ioctl.h>

#include <stasis/machine.h>

#include "hypervisor/kvm_host.h"
#include "hypervisor/kvm_x86_64.h"
#include "unit.h"

#define must(call) assert_true((call) >= 0)
#define NS_PER_S UINT64_C(1000000000)
#define HOUR_NS (3600 * NS_PER_S)

#define APIC_LVTT 0x320
#define APIC_TMICT 0x380
#define APIC_TDCR 0x3e0
#define LVTT_DEADLINE 0x40000u

static struct test_vm source, target;
static struct stasis_machine saved;

static int teardown(void **state)
{
    (void)state;
    stasis_machine_release(&saved);
    test_vm_close(&source);
    test_vm_close(&target);
    return 0;
}

static void capture(void)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(stasis_kvm_capture(test_kvm_host(), &source.view, &saved, &err), &err);
}

static void restore_on(const struct stasis_kvm_host *host, const struct test_vm_config *config,
                       unsigned flags)
{
    struct stasis_error err = { 0 };

    test_vm_open(&target, config);
    memcpy(target.memory, source.memory, TEST_MEMORY_SIZE);
    assert_stasis_ok(stasis_kvm_restore(host, &target.view, &saved, flags, &err), &err);
}

static void restore(unsigned flags)
{
    restore_on(test_kvm_host(), &test_vm_one_vcpu, flags);
}

/* As if the capture had been this long ago. */
static void pretend_passed(uint64_t ns)
{
    saved.x86_64->clock.realtime -= ns;
}

static struct kvm_lapic_state lapic_of(const struct test_vm *vm)
{
    struct kvm_lapic_state lapic;

    must(ioctl(vm->vcpu_fds[0], KVM_GET_LAPIC, &lapic));
    return lapic;
}

static void lapic_set(struct kvm_lapic_state *lapic, unsigned offset, uint32_t value)
{
    memcpy(lapic->regs + offset, &value, sizeof(value));
}

/* The LAPIC switched on, its timer in this mode with this initial count. */
static void set_lapic(const struct test_vm *vm, uint32_t lvtt, uint32_t initial_count)
{
    struct kvm_lapic_state lapic = lapic_of(vm);

    lapic_set(&lapic, 0xf0, 0x1ff);
    lapic_set(&lapic, APIC_LVTT, lvtt);
    lapic_set(&lapic, APIC_TDCR, 0xb);
    lapic_set(&lapic, APIC_TMICT, initial_count);
    lapic_set(&lapic, 0x390, initial_count);
    must(ioctl(vm->vcpu_fds[0], KVM_SET_LAPIC, &lapic));
}

/* In the real-mode interrupt table: `vector` goes to a handler that says so on port 0x84. */
static void set_handler(const struct test_vm *vm, uint8_t vector)
{
    const uint8_t handler[] = { 0xb0, vector, 0xe6, 0x84, 0xcf }; /* mov al; out 0x84; iret */
    const uint16_t entry[] = { 0x2000, 0 };

    memcpy(vm->memory + 4 * vector, entry, sizeof(entry));
    memcpy(vm->memory + 0x2000, handler, sizeof(handler));
}

static const uint8_t wait_code[] = {
    0xfb,       /*    sti           */
    0xf4,       /* 1: hlt           */
    0xe6, 0x83, /*    out 0x83, al  */
    0xeb, 0xfb, /*    jmp 1b        */
};

/* Does this KVM do as told when a TSC is set? Some software KVMs show the host's, always. */
static bool tsc_is_settable(const struct test_vm *vm)
{
    const uint64_t before = test_vm_msr(vm, 0, X86_MSR_TSC);
    const uint64_t day = kvm_time_cycles(24 * HOUR_NS, 4000000);

    return test_vm_set_msr(vm, 0, X86_MSR_TSC, before + day) &&
           test_vm_msr(vm, 0, X86_MSR_TSC) - before >= day;
}

/* --- code, halts, interrupts ---------------------------------------------------------------- */

static void a_counter_goes_on_without_gap_or_repeat(void **state)
{
    static const uint8_t code[] = {
        0x43,                   /* 1: inc bx          */
        0xff, 0x06, 0x00, 0x05, /*    inc word [0x500] */
        0x88, 0xd8,             /*    mov al, bl      */
        0xe6, 0x80,             /*    out 0x80, al    */
        0xa0, 0x00, 0x05,       /*    mov al, [0x500] */
        0xe6, 0x81,             /*    out 0x81, al    */
        0xeb, 0xf0,             /*    jmp 1b          */
    };

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    test_vm_load(&source, 0, code, sizeof(code));
    for (uint8_t i = 1; i <= 20; i++) {
        assert_int_equal(test_vm_run_to_out(&source, 0, 0x80), i);
        if (i < 20)
            assert_int_equal(test_vm_run_to_out(&source, 0, 0x81), i);
    }
    capture();
    restore(0);
    assert_int_equal(test_vm_run_to_out(&target, 0, 0x81), 20);
    for (uint8_t i = 21; i <= 40; i++) {
        assert_int_equal(test_vm_run_to_out(&target, 0, 0x80), i);
        assert_int_equal(test_vm_run_to_out(&target, 0, 0x81), i);
    }
    /* And the source is none the worse for having been captured. */
    assert_int_equal(test_vm_run_to_out(&source, 0, 0x81), 20);
    assert_int_equal(test_vm_run_to_out(&source, 0, 0x80), 21);
}

static void a_halted_vcpu_stays_halted(void **state)
{
    static const uint8_t code[] = { 0xfa, 0xf4, 0xe6, 0x80 }; /* cli; hlt; out 0x80, al */

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    test_vm_load(&source, 0, code, sizeof(code));
    assert_true(test_vm_stays_inside(&source, 0, 50));
    capture();
    assert_int_equal(saved.x86_64->vcpus[0].mp_state, KVM_MP_STATE_HALTED);
    assert_int_equal(saved.x86_64->vcpus[0].regs.rip, TEST_CODE_GPA + 2);
    restore(0);
    assert_true(test_vm_stays_inside(&target, 0, 100));
}

/* An MSI that the LAPIC has taken in while the guest has interrupts off. */
static void an_interrupt_waiting_in_the_lapic_is_delivered_once(void **state)
{
    static const uint8_t code[] = {
        0xfa,                         /*    cli                */
        0xe6, 0x80,                   /* 1: out 0x80, al       */
        0x80, 0x3e, 0x10, 0x05, 0x00, /*    cmp byte [0x510], 0 */
        0x74, 0xf7,                   /*    je 1b              */
        0xfb, 0x90,                   /*    sti; nop           */
        0xe6, 0x82,                   /* 2: out 0x82, al       */
        0xeb, 0xfc,                   /*    jmp 2b             */
    };
    struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x40 };
    unsigned interrupts = 0;

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    set_handler(&source, 0x40);
    test_vm_load(&source, 0, code, sizeof(code));
    set_lapic(&source, 0x10000, 0);
    test_vm_run_to_out(&source, 0, 0x80);
    must(ioctl(source.vm_fd, KVM_SIGNAL_MSI, &msi));
    test_vm_run_to_out(&source, 0, 0x80);
    capture();
    restore(0);
    target.memory[0x510] = 1;
    /* A software KVM may look for interrupts only now and then. */
    for (int i = 0; i < 20; i++)
        interrupts += test_vm_run_to_any_out(&target, 0) == 0x84;
    assert_int_equal(interrupts, 1);
}

/* KVM had begun to deliver it: it is in no LAPIC any more, only in VCPU_EVENTS. */
static void an_interrupt_on_its_way_in_is_delivered(void **state)
{
    struct kvm_vcpu_events events;

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    set_handler(&source, 0x44);
    test_vm_load(&source, 0, wait_code, sizeof(wait_code));
    must(ioctl(source.vcpu_fds[0], KVM_GET_VCPU_EVENTS, &events));
    events.interrupt.injected = 1;
    events.interrupt.nr = 0x44;
    must(ioctl(source.vcpu_fds[0], KVM_SET_VCPU_EVENTS, &events));
    capture();
    restore(0);
    assert_int_equal(test_vm_run_to_out(&target, 0, 0x84), 0x44);
}

/* --- timers --------------------------------------------------------------------------------- */

static void a_lapic_timer_goes_on(void **state)
{
    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    set_handler(&source, 0x42);
    test_vm_load(&source, 0, wait_code, sizeof(wait_code));
    set_lapic(&source, 0x42, 1000000000); /* one shot, a second at KVM's 1 GHz */
    assert_true(test_vm_stays_inside(&source, 0, 50));
    capture();
    restore(0);
    assert_true(test_vm_stays_inside(&target, 0, 100));
    assert_int_equal(test_vm_run_to_out(&target, 0, 0x84), 0x42);
    test_vm_run_to_out(&target, 0, 0x83);
    assert_true(test_vm_stays_inside(&target, 0, 100));
}

static void a_periodic_pit_goes_on(void **state)
{
    struct kvm_pit_state2 pit;
    struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_PIC_MASTER };

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    set_handler(&source, 0x20);
    test_vm_load(&source, 0, wait_code, sizeof(wait_code));
    must(ioctl(source.vm_fd, KVM_GET_IRQCHIP, &chip));
    chip.chip.pic.irq_base = 0x20;
    chip.chip.pic.imr = 0xfe;
    chip.chip.pic.auto_eoi = 1;
    chip.chip.pic.init4 = 1;
    must(ioctl(source.vm_fd, KVM_SET_IRQCHIP, &chip));
    must(ioctl(source.vm_fd, KVM_GET_PIT2, &pit));
    pit.channels[0].count = 59659; /* 50 ms */
    pit.channels[0].mode = 2;
    pit.channels[0].gate = 1;
    must(ioctl(source.vm_fd, KVM_SET_PIT2, &pit));
    assert_int_equal(test_vm_run_to_out(&source, 0, 0x84), 0x20);
    test_vm_run_to_out(&source, 0, 0x83);
    capture();
    restore(0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(test_vm_run_to_out(&target, 0, 0x84), 0x20);
        test_vm_run_to_out(&target, 0, 0x83);
    }
}

static void begin_deadline_wait(uint64_t ns)
{
    const uint64_t cycles =
        kvm_time_cycles(ns, (uint32_t)ioctl(source.vcpu_fds[0], KVM_GET_TSC_KHZ, 0));

    set_handler(&source, 0x41);
    test_vm_load(&source, 0, wait_code, sizeof(wait_code));
    set_lapic(&source, LVTT_DEADLINE | 0x41, 0);
    assert_true(test_vm_set_msr(&source, 0, X86_MSR_TSC_DEADLINE,
                                test_vm_msr(&source, 0, X86_MSR_TSC) + cycles));
    assert_true(test_vm_stays_inside(&source, 0, 50));
}

static void need_tsc_deadline(void)
{
    if (!test_kvm_host()->has_tsc_deadline)
        unit_skip("KVM has no TSC deadline timer");
}

static void a_tsc_deadline_still_to_come_fires_in_its_time(void **state)
{
    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    need_tsc_deadline();
    begin_deadline_wait(NS_PER_S);
    capture();
    restore(STASIS_KVM_CLOCK_STOPPED);
    assert_true(test_vm_stays_inside(&target, 0, 100));
    assert_int_equal(test_vm_run_to_out(&target, 0, 0x84), 0x41);
}

static void a_tsc_deadline_that_passed_meanwhile_fires_at_once(void **state)
{
    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    need_tsc_deadline();
    if (!tsc_is_settable(&source))
        unit_skip("this KVM does not let a TSC be set");
    begin_deadline_wait(600 * NS_PER_S);
    capture();
    pretend_passed(HOUR_NS);
    restore(0);
    assert_true(test_vm_outs_within(&target, 0, 0x84, 5000));
}

/* --- clocks --------------------------------------------------------------------------------- */

static uint64_t kvmclock(const struct test_vm *vm)
{
    struct kvm_clock_data data = { 0 };

    must(ioctl(vm->vm_fd, KVM_GET_CLOCK, &data));
    return data.clock;
}

static uint64_t saved_tsc(void)
{
    const struct stasis_x86_vcpu *vcpu = &saved.x86_64->vcpus[0];

    return kvm_msr_find(vcpu->msrs, vcpu->msrs_count, X86_MSR_TSC)->data;
}

/* Both clocks have advanced by `ns`, give or take the time this test takes. */
static void assert_advanced(uint64_t ns)
{
    const uint64_t slack = 5 * NS_PER_S;
    const uint32_t khz = saved.x86_64->vcpus[0].tsc_khz;
    const uint64_t clock_ns = kvmclock(&target) - saved.x86_64->clock.clock;
    const uint64_t cycles = test_vm_msr(&target, 0, X86_MSR_TSC) - saved_tsc();

    assert_in_range(clock_ns, ns, ns + slack);
    if (!tsc_is_settable(&target)) {
        print_message("# this KVM does not let a TSC be set: only kvmclock was looked at\n");
        return;
    }
    /* The saved register was read a little after the saved clock. */
    assert_in_range(cycles, kvm_time_cycles(ns > NS_PER_S ? ns - NS_PER_S : 0, khz),
                    kvm_time_cycles(ns + slack, khz));
}

static void open_and_capture(void)
{
    test_vm_open(&source, &test_vm_one_vcpu);
    capture();
}

static void clocks_advance_by_the_wall_time_between(void **state)
{
    (void)state;
    open_and_capture();
    pretend_passed(HOUR_NS);
    restore(0);
    assert_advanced(HOUR_NS);
}

static void without_the_kernels_help_clocks_advance_as_well(void **state)
{
    struct stasis_kvm_host old;
    struct stasis_error err = { 0 };

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    old = *test_kvm_host();
    old.clock_flags = 0;
    old.has_vcpu_attrs = false;
    assert_stasis_ok(stasis_kvm_capture(&old, &source.view, &saved, &err), &err);
    pretend_passed(HOUR_NS);
    restore_on(&old, &test_vm_one_vcpu, 0);
    assert_advanced(HOUR_NS);
}

/* The kernel takes a TSC written soon after the VM was made for a wish to be at its start value. */
static void by_register_a_tsc_close_to_its_start_is_set_too(void **state)
{
    struct stasis_kvm_host old;
    struct stasis_error err = { 0 };
    uint64_t before;

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    old = *test_kvm_host();
    old.clock_flags = 0;
    old.has_vcpu_attrs = false;
    assert_stasis_ok(stasis_kvm_capture(&old, &source.view, &saved, &err), &err);
    before = saved_tsc();
    restore_on(&old, &test_vm_one_vcpu, STASIS_KVM_CLOCK_STOPPED);
    assert_true(test_vm_msr(&target, 0, X86_MSR_TSC) >= before);
    assert_advanced(0);
}

static void stopped_clocks_go_on_from_the_capture(void **state)
{
    (void)state;
    open_and_capture();
    pretend_passed(HOUR_NS);
    restore(STASIS_KVM_CLOCK_STOPPED);
    assert_advanced(0);
}

static void a_host_clock_set_back_does_not_turn_guest_clocks_back(void **state)
{
    (void)state;
    open_and_capture();
    saved.x86_64->clock.realtime += HOUR_NS;
    restore(0);
    assert_advanced(0);
}

static void a_wall_clock_decades_off_is_not_believed(void **state)
{
    (void)state;
    open_and_capture();
    saved.x86_64->clock.realtime = 1;
    restore(0);
    assert_advanced(0);
}

/* Writing the wall clock MSR makes KVM store the time of boot, now - kvmclock: kvmclock must be set
 * by then, or the guest's date would jump by its uptime. */
static void the_time_of_boot_is_told_by_the_restored_clock(void **state)
{
    const uint64_t uptime_s = 1000000;
    struct kvm_clock_data clock = { .clock = uptime_s * NS_PER_S };
    struct {
        uint32_t version, sec, nsec;
    } boot;

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    must(ioctl(source.vm_fd, KVM_SET_CLOCK, &clock));
    assert_true(test_vm_set_msr(&source, 0, X86_MSR_WALL_CLOCK_NEW, 0x4000));
    capture();
    memset(source.memory + 0x4000, 0, sizeof(boot));
    restore(0);
    memcpy(&boot, target.memory + 0x4000, sizeof(boot));
    if (boot.version == 0)
        unit_skip("this KVM does not store the time of boot");
    assert_in_range(boot.sec, kvm_time_realtime() / NS_PER_S - uptime_s - 5,
                    kvm_time_realtime() / NS_PER_S - uptime_s + 5);
}

static void a_guest_never_sees_its_tsc_go_back(void **state)
{
    static const uint8_t code[] = {
        0x0f, 0x31,                   /* 1: rdtsc            */
        0x66, 0xa3, 0x00, 0x05,       /*    mov [0x500], eax */
        0x66, 0x89, 0x16, 0x04, 0x05, /*    mov [0x504], edx */
        0xe6, 0x80,                   /*    out 0x80, al     */
        0xeb, 0xf1,                   /*    jmp 1b           */
    };
    uint64_t before, after;

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    test_vm_load(&source, 0, code, sizeof(code));
    test_vm_run_to_out(&source, 0, 0x80);
    memcpy(&before, source.memory + 0x500, sizeof(before));
    capture();
    restore(STASIS_KVM_CLOCK_STOPPED);
    test_vm_run_to_out(&target, 0, 0x80);
    memcpy(&after, target.memory + 0x500, sizeof(after));
    assert_true(after > before);
    assert_true(after - before < kvm_time_cycles(60 * NS_PER_S, saved.x86_64->vcpus[0].tsc_khz));
}

/* A KVM that ignores what is set must be found out when that would turn the guest's TSC back. */
static void a_tsc_that_cannot_be_carried_over_is_refused(void **state)
{
    struct stasis_error err = { 0 };
    struct stasis_x86_vcpu *vcpu;

    (void)state;
    open_and_capture();
    if (tsc_is_settable(&source))
        unit_skip("this KVM lets any TSC be set");
    vcpu = &saved.x86_64->vcpus[0];
    vcpu->has_tsc_offset = false;
    for (size_t i = 0; i < vcpu->msrs_count; i++) {
        if (vcpu->msrs[i].index == X86_MSR_TSC)
            vcpu->msrs[i].data += kvm_time_cycles(HOUR_NS, vcpu->tsc_khz);
    }
    test_vm_open(&target, &test_vm_one_vcpu);
    assert_stasis_fails(stasis_kvm_restore(test_kvm_host(), &target.view, &saved, 0, &err), &err,
                        STASIS_ERR_KVM);
    assert_non_null(strstr(err.text, "would go back"));
}

static void tscs_in_step_come_back_in_step(void **state)
{
    const struct test_vm_config config = { .vcpu_count = 4, .irqchip = TEST_IRQCHIP_FULL };
    const unsigned by_register = 1; /* second pass: as before the kernel had offsets */
    struct stasis_kvm_host host;

    (void)state;
    for (unsigned pass = 0; pass <= by_register; pass++) {
        uint64_t tsc[4], offset[4];
        struct stasis_error err = { 0 };

        test_vm_open(&source, &config);
        host = *test_kvm_host();
        host.has_vcpu_attrs = host.has_vcpu_attrs && pass != by_register;
        assert_stasis_ok(stasis_kvm_capture(&host, &source.view, &saved, &err), &err);
        pretend_passed(HOUR_NS);
        restore_on(&host, &config, 0);
        for (size_t i = 0; i < 4; i++) {
            tsc[i] = test_vm_msr(&target, i, X86_MSR_TSC);
            if (kvm_tsc_offset_read(target.vcpu_fds[i], &offset[i]))
                assert_int_equal(offset[i], offset[0]);
            assert_true(i == 0 || tsc[i] > tsc[i - 1]);
        }
        assert_true(tsc[3] - tsc[0] <
                    kvm_time_cycles(NS_PER_S, host.tsc_khz ? host.tsc_khz : 1000000));
        teardown(NULL);
    }
}

static void tscs_out_of_step_keep_their_distance(void **state)
{
    const struct test_vm_config config = { .vcpu_count = 2, .irqchip = TEST_IRQCHIP_FULL };
    const uint64_t distance = UINT64_C(1) << 40; /* less the cycles that setting it takes */
    const uint64_t second = kvm_time_cycles(NS_PER_S, 4000000);
    uint64_t near, far;

    (void)state;
    test_vm_open(&source, &config);
    if (!tsc_is_settable(&source))
        unit_skip("this KVM does not let a TSC be set");
    assert_true(
        test_vm_set_msr(&source, 1, X86_MSR_TSC, test_vm_msr(&source, 0, X86_MSR_TSC) + distance));
    capture();
    restore_on(test_kvm_host(), &config, 0);
    near = test_vm_msr(&target, 0, X86_MSR_TSC);
    far = test_vm_msr(&target, 1, X86_MSR_TSC);
    assert_in_range(far - near, distance - second, distance + second);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_teardown(name, teardown)
        CASE(a_counter_goes_on_without_gap_or_repeat),
        CASE(a_halted_vcpu_stays_halted),
        CASE(an_interrupt_waiting_in_the_lapic_is_delivered_once),
        CASE(an_interrupt_on_its_way_in_is_delivered),
        CASE(a_lapic_timer_goes_on),
        CASE(a_periodic_pit_goes_on),
        CASE(a_tsc_deadline_still_to_come_fires_in_its_time),
        CASE(a_tsc_deadline_that_passed_meanwhile_fires_at_once),
        CASE(clocks_advance_by_the_wall_time_between),
        CASE(without_the_kernels_help_clocks_advance_as_well),
        CASE(by_register_a_tsc_close_to_its_start_is_set_too),
        CASE(stopped_clocks_go_on_from_the_capture),
        CASE(a_host_clock_set_back_does_not_turn_guest_clocks_back),
        CASE(a_wall_clock_decades_off_is_not_believed),
        CASE(the_time_of_boot_is_told_by_the_restored_clock),
        CASE(a_guest_never_sees_its_tsc_go_back),
        CASE(a_tsc_that_cannot_be_carried_over_is_refused),
        CASE(tscs_in_step_come_back_in_step),
        CASE(tscs_out_of_step_keep_their_distance),
    };
    return unit_run(tests);
}
