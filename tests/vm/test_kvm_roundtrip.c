/*
 * test_kvm_roundtrip.c - what is captured from one VM and restored into another is all there.
 *
 * Goal:   every value that KVM lets anybody set survives capture and restore, in its own place.
 * Method: set each field to a value of its own, capture, restore into a fresh VM, capture that, and
 *         compare the two machines field by field. That the values were really in the first capture
 *         is checked too: two captures that both forgot a register would agree.
 */
#include "kvm_spy.h"
#include "kvm_vm.h"

#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include <stasis/machine.h>

#include "hypervisor/kvm_host.h"
#include "hypervisor/kvm_x86_64.h"
#include "unit.h"

#define must(call) assert_true((call) >= 0)

static struct test_vm source, target;
static struct stasis_machine saved, again;

static int teardown(void **state)
{
    (void)state;
    spy_end();
    stasis_machine_release(&saved);
    stasis_machine_release(&again);
    test_vm_close(&source);
    test_vm_close(&target);
    return 0;
}

static int on_difference(void *arg, const struct stasis_difference *difference)
{
    unsigned *count = arg;

    print_message("# %s: %s became %s\n", difference->path, difference->a, difference->b);
    (*count)++;
    return 0;
}

static void assert_same(const struct stasis_machine *a, const struct stasis_machine *b)
{
    struct stasis_error err = { 0 };
    unsigned count = 0;
    uint64_t all;

    assert_stasis_ok(stasis_machine_compare(a, b, 0, on_difference, &count, &all, &err), &err);
    assert_int_equal(count, 0);
}

static void capture(const struct test_vm *vm, struct stasis_machine *ret_machine)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(stasis_kvm_capture(test_kvm_host(), &vm->view, ret_machine, &err), &err);
    assert_stasis_ok(stasis_machine_check(ret_machine, &err), &err);
}

static void restore_stopped(const struct test_vm *vm, const struct stasis_machine *machine)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(stasis_kvm_check_host(test_kvm_host(), machine, &err), &err);
    assert_stasis_ok(
        stasis_kvm_restore(test_kvm_host(), &vm->view, machine, STASIS_KVM_CLOCK_STOPPED, &err),
        &err);
}

/* source -> saved -> target -> again */
static void round_trip(const struct test_vm_config *config)
{
    struct test_vm_config fresh = *config;

    capture(&source, &saved);
    fresh.no_cpuid = true;
    test_vm_open(&target, &fresh);
    memcpy(target.memory, source.memory, TEST_MEMORY_SIZE);
    restore_stopped(&target, &saved);
    capture(&target, &again);
    assert_same(&saved, &again);
}

/* --- values of their own -------------------------------------------------------------------- */

static struct kvm_regs distinct_regs(uint64_t seed)
{
    return (struct kvm_regs){
        .rax = seed + 1,
        .rbx = seed + 2,
        .rcx = seed + 3,
        .rdx = seed + 4,
        .rsi = seed + 5,
        .rdi = seed + 6,
        .rsp = seed + 7,
        .rbp = seed + 8,
        .r8 = seed + 9,
        .r9 = seed + 10,
        .r10 = seed + 11,
        .r11 = seed + 12,
        .r12 = seed + 13,
        .r13 = seed + 14,
        .r14 = seed + 15,
        .r15 = seed + 16,
        .rip = 0x1234,
        .rflags = 0x8d7 /* OF, SF, ZF, AF, PF, CF */
    };
}

static struct kvm_segment data_segment(uint16_t selector, uint64_t base)
{
    return (struct kvm_segment){ .base = base,
                                 .limit = 0xffffffff,
                                 .selector = selector,
                                 .type = 3,
                                 .present = 1,
                                 .dpl = 0,
                                 .db = 1,
                                 .s = 1,
                                 .g = 1 };
}

/* Long mode, as a 64-bit kernel has it, each register apart from the others. */
static void set_distinct_sregs(const struct test_vm *vm, size_t index)
{
    const int fd = vm->vcpu_fds[index];
    struct kvm_sregs sregs;

    must(ioctl(fd, KVM_GET_SREGS, &sregs));
    sregs.cs = (struct kvm_segment){
        .limit = 0xffffffff, .selector = 0x10, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
    };
    sregs.ss = data_segment(0x18, 0);
    sregs.ds = data_segment(0x20, 0);
    sregs.es = data_segment(0x28, 0);
    sregs.fs = data_segment(0x30, 0x7f0000001000 + index);
    sregs.gs = data_segment(0x38, 0x7f0000002000 + index);
    sregs.tr = (struct kvm_segment){
        .base = 0x3000, .limit = 0x67, .selector = 0x40, .type = 11, .present = 1
    };
    sregs.ldt = (struct kvm_segment){
        .base = 0x4000, .limit = 0x1f, .selector = 0x50, .type = 2, .present = 1
    };
    sregs.gdt.base = 0x5000, sregs.gdt.limit = 0x7f;
    sregs.idt.base = 0x6000, sregs.idt.limit = 0xfff;
    sregs.cr0 = 0x80050033;
    sregs.cr2 = 0xdead000 + index;
    sregs.cr3 = 0x7000;
    sregs.cr4 = 0x40620; /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
    sregs.cr8 = 5;
    sregs.efer = 0xd01; /* SCE, LME, LMA, NXE */
    must(ioctl(fd, KVM_SET_SREGS, &sregs));
}

#define XSAVE_HEADER 512
#define XSAVE_XMM 160
#define XSAVE_YMM 576

static void set_distinct_xsave(const struct test_vm *vm, size_t index)
{
    static uint8_t area[64 * 1024];
    const uint64_t components = test_kvm_host()->xcr0 & 0x7;
    const uint32_t mxcsr = 0x1f80 | 0x6000; /* rounds towards zero */

    memset(area, 0, sizeof(area));
    area[0] = 0x7f, area[1] = 0x02; /* FCW: double precision */
    memcpy(area + 24, &mxcsr, sizeof(mxcsr));
    for (size_t i = 0; i < 256; i++)
        area[XSAVE_XMM + i] = (uint8_t)(i + index + 1);
    for (size_t i = 0; i < 256 && (components & 4); i++)
        area[XSAVE_YMM + i] = (uint8_t)(i + index + 101);
    for (size_t i = 0; i < 8; i++)
        memset(area + 32 + 16 * i, (int)(0x10 * (i + 1)), 10); /* ST(i) is 80 bits */
    memcpy(area + XSAVE_HEADER, &components, sizeof(components));
    must(ioctl(vm->vcpu_fds[index], KVM_SET_XSAVE, area));
}

static void set_distinct_debugregs(const struct test_vm *vm, size_t index)
{
    struct kvm_debugregs regs = { .db = { 0x1111, 0x2222, 0x3333, 0x4444 + index },
                                  .dr6 = 0xffff0ff1,
                                  .dr7 = 0x402 };

    must(ioctl(vm->vcpu_fds[index], KVM_SET_DEBUGREGS, &regs));
}

static void lapic_set(struct kvm_lapic_state *lapic, unsigned offset, uint32_t value)
{
    memcpy(lapic->regs + offset, &value, sizeof(value));
}

/* On, with an interrupt waiting and one in service; no timer runs. */
static void set_distinct_lapic(const struct test_vm *vm, size_t index)
{
    struct kvm_lapic_state lapic;

    must(ioctl(vm->vcpu_fds[index], KVM_GET_LAPIC, &lapic));
    lapic_set(&lapic, 0x80, 0x50);                          /* TPR, the same as CR8 */
    lapic_set(&lapic, 0xd0, 0x01000000u << index);          /* LDR */
    lapic_set(&lapic, 0xf0, 0x1ff);                         /* SVR: enabled */
    lapic_set(&lapic, 0x100 + 0x10 * 1, 1u << (0x31 % 32)); /* ISR: vector 0x31 in service */
    lapic_set(&lapic, 0x200 + 0x10 * 1, 1u << (0x33 % 32)); /* IRR: vector 0x33 waits */
    lapic_set(&lapic, 0x280, 0x40);                         /* ESR */
    lapic_set(&lapic, 0x320, 0x100ef);                      /* LVTT, masked */
    lapic_set(&lapic, 0x340, 0x100fe);                      /* LVTPC, masked */
    lapic_set(&lapic, 0x350, 0x10700);                      /* LINT0: ExtINT, masked */
    lapic_set(&lapic, 0x360, 0x400);                        /* LINT1: NMI */
    lapic_set(&lapic, 0x370, 0x100fd);                      /* LVTERR, masked */
    lapic_set(&lapic, 0x3e0, 0xb);                          /* divide by 1 */
    must(ioctl(vm->vcpu_fds[index], KVM_SET_LAPIC, &lapic));
}

static void set_distinct_events(const struct test_vm *vm, size_t index)
{
    struct kvm_vcpu_events events;

    must(ioctl(vm->vcpu_fds[index], KVM_GET_VCPU_EVENTS, &events));
    events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    events.interrupt.injected = 1;
    events.interrupt.nr = (uint8_t)(0x41 + index);
    events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
    events.nmi.pending = 1;
    events.nmi.masked = 1;
    must(ioctl(vm->vcpu_fds[index], KVM_SET_VCPU_EVENTS, &events));
}

static void set_mp_state(const struct test_vm *vm, size_t index, uint32_t mp_state)
{
    struct kvm_mp_state state = { .mp_state = mp_state };

    must(ioctl(vm->vcpu_fds[index], KVM_SET_MP_STATE, &state));
}

static void set_distinct_vcpu(const struct test_vm *vm, size_t index)
{
    const struct kvm_regs regs = distinct_regs(0x1000 * (index + 1));

    set_distinct_sregs(vm, index);
    must(ioctl(vm->vcpu_fds[index], KVM_SET_REGS, &regs));
    set_distinct_xsave(vm, index);
    set_distinct_debugregs(vm, index);
    set_distinct_lapic(vm, index);
    set_distinct_events(vm, index);
}

static void set_distinct_controllers(const struct test_vm *vm)
{
    struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_PIC_MASTER };
    struct kvm_pit_state2 pit;

    for (uint32_t i = 0; i < 2; i++) {
        chip.chip_id = KVM_IRQCHIP_PIC_MASTER + i;
        must(ioctl(vm->vm_fd, KVM_GET_IRQCHIP, &chip));
        chip.chip.pic.imr = (uint8_t)(0xa1 + i);
        chip.chip.pic.irq_base = (uint8_t)(0x20 + 8 * i);
        chip.chip.pic.irr = (uint8_t)(0x80 >> i); /* a masked line is up */
        chip.chip.pic.elcr = (uint8_t)(0x08 << i);
        chip.chip.pic.read_reg_select = 1;
        must(ioctl(vm->vm_fd, KVM_SET_IRQCHIP, &chip));
    }
    chip.chip_id = KVM_IRQCHIP_IOAPIC;
    must(ioctl(vm->vm_fd, KVM_GET_IRQCHIP, &chip));
    chip.chip.ioapic.id = 3;
    chip.chip.ioapic.ioregsel = 0x12;
    for (size_t i = 0; i < KVM_IOAPIC_NUM_PINS; i++) /* masked, edge, vector and destination */
        chip.chip.ioapic.redirtbl[i].bits = 0x10000 | (0x30 + i) | (uint64_t)(i % 4) << 56;
    must(ioctl(vm->vm_fd, KVM_SET_IRQCHIP, &chip));

    must(ioctl(vm->vm_fd, KVM_GET_PIT2, &pit));
    pit.channels[0].count = 0x8000, pit.channels[0].mode = 0; /* one shot, fires within 30 ms */
    pit.channels[1].count = 0x1234, pit.channels[1].mode = 2, pit.channels[1].rw_mode = 3;
    pit.channels[2].count = 0x4321, pit.channels[2].mode = 3, pit.channels[2].gate = 1;
    pit.channels[2].latched_count = 0x77, pit.channels[2].count_latched = 3;
    pit.flags = KVM_PIT_FLAGS_SPEAKER_DATA_ON;
    must(ioctl(vm->vm_fd, KVM_SET_PIT2, &pit));
}

/* --- cases ---------------------------------------------------------------------------------- */

static void assert_regs(const struct stasis_x86_vcpu *vcpu, size_t index)
{
    const struct kvm_regs expected = distinct_regs(0x1000 * (index + 1));
    struct kvm_regs got;

    kvm_regs_to_kvm(&vcpu->regs, &got);
    assert_memory_equal(&got, &expected, sizeof(got));
}

static void assert_sregs(const struct stasis_x86_sregs *sregs, size_t index)
{
    assert_int_equal(sregs->cs.selector, 0x10);
    assert_int_equal(sregs->cs.l, 1);
    assert_int_equal(sregs->ss.selector, 0x18);
    assert_int_equal(sregs->ds.selector, 0x20);
    assert_int_equal(sregs->es.selector, 0x28);
    assert_int_equal(sregs->fs.base, 0x7f0000001000 + index);
    assert_int_equal(sregs->gs.base, 0x7f0000002000 + index);
    assert_int_equal(sregs->tr.base, 0x3000);
    assert_int_equal(sregs->ldt.base, 0x4000);
    assert_int_equal(sregs->gdt.base, 0x5000);
    assert_int_equal(sregs->gdt.limit, 0x7f);
    assert_int_equal(sregs->idt.base, 0x6000);
    assert_int_equal(sregs->idt.limit, 0xfff);
    assert_int_equal(sregs->cr0, 0x80050033);
    assert_int_equal(sregs->cr2, 0xdead000 + index);
    assert_int_equal(sregs->cr3, 0x7000);
    assert_int_equal(sregs->cr4, 0x40620);
    assert_int_equal(sregs->cr8, 5);
    assert_int_equal(sregs->efer, 0xd01);
    assert_int_equal(sregs->apic_base & 0xfffff000, 0xfee00000);
}

static void assert_events(const struct stasis_x86_vcpu *vcpu, size_t index)
{
    const unsigned nr = 0x41 + (unsigned)index;

    assert_int_equal(vcpu->events.interrupt.injected, 1);
    assert_int_equal(vcpu->events.interrupt.nr, nr);
    assert_true(vcpu->events.interrupt.shadow &
                KVM_X86_SHADOW_INT_STI); /* AMD reports both kinds */
    assert_int_equal(vcpu->events.nmi.pending, 1);
    assert_int_equal(vcpu->events.nmi.masked, 1);
    assert_true(vcpu->sregs.has_interrupt_bitmap);
    assert_int_equal(vcpu->sregs.interrupt_bitmap[nr / 64], UINT64_C(1) << (nr % 64));
}

static uint32_t lapic_get(const struct stasis_x86_vcpu *vcpu, unsigned offset)
{
    uint32_t value;

    assert_int_equal(vcpu->lapic_size, 1024);
    memcpy(&value, vcpu->lapic + offset, sizeof(value));
    return value;
}

static void assert_distinct_vcpu(const struct stasis_x86_vcpu *vcpu, size_t index)
{
    assert_regs(vcpu, index);
    assert_sregs(&vcpu->sregs, index);
    assert_events(vcpu, index);
    assert_true(vcpu->xsave_size >= 4096);
    assert_int_equal(vcpu->xsave[XSAVE_XMM], 1 + index);
    assert_int_equal(vcpu->xsave[XSAVE_XMM + 255], (uint8_t)(256 + index));
    if (test_kvm_host()->xcr0 & 4)
        assert_int_equal(vcpu->xsave[XSAVE_YMM], 101 + index);
    assert_int_equal(vcpu->debugregs.db[0], 0x1111);
    assert_int_equal(vcpu->debugregs.db[3], 0x4444 + index);
    assert_int_equal(vcpu->debugregs.dr6, 0xffff0ff1);
    assert_int_equal(vcpu->debugregs.dr7, 0x402);
    assert_int_equal(lapic_get(vcpu, 0x210), 1u << (0x33 % 32));
    assert_int_equal(lapic_get(vcpu, 0x110), 1u << (0x31 % 32));
    assert_int_equal(lapic_get(vcpu, 0x340), 0x100fe);
}

static void every_register_of_four_vcpus_comes_back(void **state)
{
    const struct test_vm_config config = { .vcpu_count = 4,
                                           .irqchip = TEST_IRQCHIP_FULL,
                                           .has_pit = true };

    (void)state;
    test_vm_open(&source, &config);
    for (size_t i = 0; i < 4; i++)
        set_distinct_vcpu(&source, i);
    set_mp_state(&source, 1, KVM_MP_STATE_HALTED);
    set_mp_state(&source, 2, KVM_MP_STATE_UNINITIALIZED);
    round_trip(&config);
    for (size_t i = 0; i < 4; i++) {
        assert_distinct_vcpu(&saved.x86_64->vcpus[i], i);
        assert_int_equal(saved.x86_64->vcpus[i].id, i);
    }
    assert_int_equal(saved.x86_64->vcpus[0].mp_state, KVM_MP_STATE_RUNNABLE);
    assert_int_equal(saved.x86_64->vcpus[1].mp_state, KVM_MP_STATE_HALTED);
    assert_int_equal(saved.x86_64->vcpus[2].mp_state, KVM_MP_STATE_UNINITIALIZED);
}

static void interrupt_controllers_and_pit_come_back(void **state)
{
    const struct stasis_x86_machine *x86;

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    set_distinct_controllers(&source);
    nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL); /* let the one-shot fire */
    round_trip(&test_vm_one_vcpu);
    x86 = saved.x86_64;
    assert_int_equal(x86->pics_count, 2);
    assert_int_equal(x86->pics[0].imr, 0xa1);
    assert_int_equal(x86->pics[1].imr, 0xa2);
    assert_int_equal(x86->pics[0].irq_base, 0x20);
    assert_int_equal(x86->pics[1].irq_base, 0x28);
    assert_int_equal(x86->pics[1].elcr, 0x10);
    assert_int_equal(x86->ioapic->ioregsel, 0x12);
    assert_int_equal(x86->ioapic->id, 3);
    assert_int_equal(x86->ioapic->redirtbl[23], 0x10000 | (0x30 + 23) | UINT64_C(3) << 56);
    assert_int_equal(x86->pit->channels[0].count, 0x8000);
    assert_int_equal(x86->pit->channels[2].count, 0x4321);
    assert_int_equal(x86->pit->channels[2].latched_count, 0x77);
    assert_int_equal(x86->pit->flags, KVM_PIT_FLAGS_SPEAKER_DATA_ON);
}

/* Would stop or change the guest's world as a whole, or tick. */
static bool leave_alone(uint32_t index)
{
    static const uint32_t indices[] = {
        0x10, /* TSC */
        0x1b, /* APICBASE */
        0x3a, /* FEAT_CTL: locks itself */
        0x6e0, 0x34 /* deadline; SMI count is for KVM alone */, 0xc0000080, /* EFER */
    };

    for (size_t i = 0; i < sizeof(indices) / sizeof(indices[0]); i++) {
        if (indices[i] == index)
            return true;
    }
    return index >= 0x40000000 && index < 0x40010000; /* Hyper-V */
}

/* The first of these values that this register takes and keeps, and that is news to it. */
static bool set_distinct_msr(const struct test_vm *vm, uint32_t index, uint64_t *ret_data)
{
    const uint64_t candidates[] = {
        0x4000 + 64 * (index % 16) + 1, 0x4000 + 8 * (index % 64), 0x3f, 0x7, 0x4, 0x1, 0x0
    };
    uint64_t before, after;

    if (!test_vm_try_msr(vm, 0, index, &before))
        return false;
    for (size_t i = 0; i < sizeof(candidates) / sizeof(candidates[0]); i++) {
        if (candidates[i] != before && test_vm_set_msr(vm, 0, index, candidates[i]) &&
            test_vm_try_msr(vm, 0, index, &after) && after != before) {
            *ret_data = after;
            return true;
        }
    }
    return false;
}

static void each_msr_that_can_be_set_comes_back(void **state)
{
    const struct stasis_kvm_host *host;
    uint64_t data[1024];
    size_t set_count = 0;

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    host = test_kvm_host();
    assert_true(host->msrs_count < 1024);
    for (size_t i = 0; i < host->msrs_count; i++) {
        if (!leave_alone(host->msrs[i]) && set_distinct_msr(&source, host->msrs[i], &data[i]))
            set_count++;
    }
    print_message("# %zu of %zu MSRs hold a value of their own\n", set_count, host->msrs_count);
    assert_true(set_count >= 20);
    round_trip(&test_vm_one_vcpu);
    for (size_t i = 0; i < host->msrs_count; i++) { /* a later write may have changed an earlier */
        const struct stasis_x86_msr *msr = kvm_msr_find(
            saved.x86_64->vcpus[0].msrs, saved.x86_64->vcpus[0].msrs_count, host->msrs[i]);
        uint64_t now;

        if (!msr || leave_alone(host->msrs[i]) || !test_vm_try_msr(&target, 0, host->msrs[i], &now))
            continue;
        if (msr->data != now)
            fail_msg("MSR 0x%x: 0x%llx became 0x%llx", host->msrs[i], (unsigned long long)msr->data,
                     (unsigned long long)now);
    }
}

static void machine_check_banks_come_back(void **state)
{
    const struct stasis_x86_vcpu *vcpu;
    uint64_t cap = 10;

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    if (ioctl(source.vcpu_fds[0], KVM_X86_SETUP_MCE, &cap) < 0)
        unit_skip("KVM_X86_SETUP_MCE does not work here");
    assert_true(
        test_vm_set_msr(&source, 0, 0x400 + 4 * 3 + 1, 0xbe00000000000151)); /* MC3_STATUS */
    assert_true(test_vm_set_msr(&source, 0, 0x400 + 4 * 3 + 2, 0x1234000));  /* MC3_ADDR */
    round_trip(&test_vm_one_vcpu);
    vcpu = &saved.x86_64->vcpus[0];
    assert_non_null(kvm_msr_find(vcpu->msrs, vcpu->msrs_count, 0x400 + 4 * 3 + 1));
    assert_int_equal(test_vm_msr(&target, 0, 0x179), test_vm_msr(&source, 0, 0x179));
    assert_int_equal(test_vm_msr(&target, 0, 0x400 + 4 * 3 + 1), 0xbe00000000000151);
    assert_int_equal(test_vm_msr(&target, 0, 0x400 + 4 * 3 + 2), 0x1234000);
}

/* --- states that most guests are never caught in --------------------------------------------- */

static void enable_cap(const struct test_vm *vm, uint32_t cap)
{
    struct kvm_enable_cap enable = { .cap = cap, .args = { 1 } };

    must(ioctl(vm->vm_fd, KVM_ENABLE_CAP, &enable));
}

static bool has_cap(const struct test_vm *vm, unsigned long cap)
{
    return ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, cap) > 0;
}

static void exceptions_and_a_triple_fault_in_flight_come_back(void **state)
{
    struct kvm_vcpu_events events;
    const struct stasis_x86_events *got;

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    if (!has_cap(&source, KVM_CAP_EXCEPTION_PAYLOAD) ||
        !has_cap(&source, KVM_CAP_X86_TRIPLE_FAULT_EVENT))
        unit_skip("no KVM_CAP_EXCEPTION_PAYLOAD or KVM_CAP_X86_TRIPLE_FAULT_EVENT");
    test_vm_open(&target, &test_vm_one_vcpu);
    enable_cap(&source, KVM_CAP_EXCEPTION_PAYLOAD), enable_cap(&target, KVM_CAP_EXCEPTION_PAYLOAD);
    enable_cap(&source, KVM_CAP_X86_TRIPLE_FAULT_EVENT);
    enable_cap(&target, KVM_CAP_X86_TRIPLE_FAULT_EVENT);
    must(ioctl(source.vcpu_fds[0], KVM_GET_VCPU_EVENTS, &events));
    if (!(events.flags & KVM_VCPUEVENT_VALID_PAYLOAD))
        unit_skip("this KVM takes KVM_CAP_EXCEPTION_PAYLOAD and forgets it");
    events.exception.pending = 1;
    events.exception.nr = 14;
    events.exception.has_error_code = 1;
    events.exception.error_code = 0x6;
    events.exception_has_payload = 1;
    events.exception_payload = 0xdeadbeef000;
    events.triple_fault.pending = 1;
    must(ioctl(source.vcpu_fds[0], KVM_SET_VCPU_EVENTS, &events));
    capture(&source, &saved);
    restore_stopped(&target, &saved);
    capture(&target, &again);
    assert_same(&saved, &again);
    got = &saved.x86_64->vcpus[0].events;
    assert_int_equal(got->exception.pending, 1);
    assert_int_equal(got->exception.nr, 14);
    assert_int_equal(got->exception.error_code, 6);
    assert_int_equal(got->exception.has_payload, 1);
    assert_int_equal(got->exception.payload, 0xdeadbeef000);
    assert_int_equal(got->triple_fault_pending, 1);
}

/* A VMM that forgot to enable what the machine was saved with is told which. */
static void a_capability_not_enabled_again_is_named(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    if (!has_cap(&source, KVM_CAP_EXCEPTION_PAYLOAD))
        unit_skip("no KVM_CAP_EXCEPTION_PAYLOAD");
    enable_cap(&source, KVM_CAP_EXCEPTION_PAYLOAD);
    capture(&source, &saved);
    if (!(saved.x86_64->vcpus[0].events.flags & KVM_VCPUEVENT_VALID_PAYLOAD))
        unit_skip("this KVM takes KVM_CAP_EXCEPTION_PAYLOAD and forgets it");
    test_vm_open(&target, &test_vm_one_vcpu);
    assert_stasis_fails(stasis_kvm_restore(test_kvm_host(), &target.view, &saved, 0, &err), &err,
                        STASIS_ERR_KVM);
    assert_non_null(strstr(err.text, "KVM_CAP_EXCEPTION_PAYLOAD"));
}

static void system_management_mode_comes_back(void **state)
{
    struct kvm_vcpu_events events;

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    if (!has_cap(&source, KVM_CAP_X86_SMM))
        unit_skip("no KVM_CAP_X86_SMM");
    must(ioctl(source.vcpu_fds[0], KVM_GET_VCPU_EVENTS, &events));
    events.flags |= KVM_VCPUEVENT_VALID_SMM;
    events.smi.smm = 1;
    events.smi.pending = 1;
    events.smi.smm_inside_nmi = 1;
    events.smi.latched_init = 1;
    must(ioctl(source.vcpu_fds[0], KVM_SET_VCPU_EVENTS, &events));
    round_trip(&test_vm_one_vcpu);
    assert_int_equal(saved.x86_64->vcpus[0].events.smi.smm, 1);
    assert_int_equal(saved.x86_64->vcpus[0].events.smi.pending, 1);
    assert_int_equal(saved.x86_64->vcpus[0].events.smi.smm_inside_nmi, 1);
    assert_int_equal(saved.x86_64->vcpus[0].events.smi.latched_init, 1);
}

#define EFER_SVME 0x1000u
#define CPUID_SVM (1u << 2) /* 0x80000001 ECX */

/* A guest with SVM on and its global interrupt flag off: what only KVM_GET_NESTED_STATE tells. */
static void nested_state_comes_back(void **state)
{
    const struct stasis_kvm_host *host;
    const struct stasis_x86_cpuid *leaf;
    struct kvm_nested_state nested = { .size = sizeof(nested),
                                       .format = KVM_STATE_NESTED_FORMAT_SVM };
    struct kvm_nested_state got;
    struct kvm_sregs sregs;

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    host = test_kvm_host();
    leaf = kvm_cpuid_find(host->cpuid, host->cpuid_count, 0x80000001, 0);
    if (host->nested_size == 0 || !leaf || !(leaf->ecx & CPUID_SVM))
        unit_skip("no nested SVM on this host");
    must(ioctl(source.vcpu_fds[0], KVM_GET_SREGS, &sregs));
    sregs.efer |= EFER_SVME;
    must(ioctl(source.vcpu_fds[0], KVM_SET_SREGS, &sregs));
    must(ioctl(source.vcpu_fds[0], KVM_SET_NESTED_STATE, &nested));
    round_trip(&test_vm_one_vcpu);
    assert_true(saved.x86_64->vcpus[0].nested_size >= sizeof(got));
    memcpy(&got, saved.x86_64->vcpus[0].nested, sizeof(got));
    assert_int_equal(got.format, KVM_STATE_NESTED_FORMAT_SVM);
    assert_int_equal(got.flags & KVM_STATE_NESTED_GIF_SET, 0);
    assert_false(kvm_nested_is_idle(&saved.x86_64->vcpus[0]));
}

/* PAE paging keeps four entries in the CPU that memory may no longer hold. */
static void pae_page_directory_pointers_come_back(void **state)
{
    const uint64_t entries[4] = { 0x9001, 0xa001, 0xb001, 0xc001 };
    struct kvm_sregs2 sregs;

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    if (!test_kvm_host()->has_sregs2)
        unit_skip("no KVM_CAP_SREGS2");
    must(ioctl(source.vcpu_fds[0], KVM_GET_SREGS2, &sregs));
    sregs.cr0 = 0x80000011, sregs.cr4 = 0x20, sregs.cr3 = 0x7000;
    sregs.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
    memcpy(sregs.pdptrs, entries, sizeof(entries));
    if (ioctl(source.vcpu_fds[0], KVM_SET_SREGS2, &sregs) < 0)
        unit_skip("this KVM takes no PDPTRs");
    must(ioctl(source.vcpu_fds[0], KVM_GET_SREGS2, &sregs));
    if (!(sregs.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID))
        unit_skip("this KVM, with nested paging off, gives no PDPTRs");
    round_trip(&test_vm_one_vcpu);
    assert_true(saved.x86_64->vcpus[0].sregs.pdptrs_valid);
}

/* --- VMs of other shapes --------------------------------------------------------------------- */

static void vcpu_ids_need_not_count_from_zero(void **state)
{
    static const uint32_t ids[] = { 0, 2, 5 };
    const struct test_vm_config config = { .vcpu_count = 3,
                                           .vcpu_ids = ids,
                                           .irqchip = TEST_IRQCHIP_FULL };

    (void)state;
    test_vm_open(&source, &config);
    round_trip(&config);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(saved.x86_64->vcpus[i].id, ids[i]);
    assert_null(saved.x86_64->pit);
}

static void a_split_irqchip_has_lapics_and_no_pics(void **state)
{
    const struct test_vm_config config = { .vcpu_count = 2, .irqchip = TEST_IRQCHIP_SPLIT };

    (void)state;
    test_need_kvm();
    spy_begin();
    test_vm_open(&source, &test_vm_one_vcpu);
    if (ioctl(source.kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SPLIT_IRQCHIP) <= 0)
        unit_skip("no KVM_CAP_SPLIT_IRQCHIP");
    test_vm_close(&source);
    test_vm_open(&source, &config);
    set_distinct_lapic(&source, 1);
    round_trip(&config);
    assert_int_equal(saved.x86_64->pics_count, 0);
    assert_null(saved.x86_64->ioapic);
    assert_int_equal(saved.x86_64->vcpus[1].lapic_size, 1024);
}

static void a_vm_without_controllers_has_none_of_their_state(void **state)
{
    const struct test_vm_config config = { .vcpu_count = 1, .irqchip = TEST_IRQCHIP_NONE };

    (void)state;
    test_vm_open(&source, &config);
    round_trip(&config);
    assert_int_equal(saved.x86_64->pics_count, 0);
    assert_null(saved.x86_64->ioapic);
    assert_null(saved.x86_64->pit);
    assert_int_equal(saved.x86_64->vcpus[0].lapic_size, 0);
}

/* An old kernel's KVM: the same host with its newer capabilities hidden from us. */
static void old_ioctls_carry_the_same_state(void **state)
{
    struct stasis_kvm_host old;
    struct stasis_error err = { 0 };

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    set_distinct_vcpu(&source, 0);
    old = *test_kvm_host();
    old.has_sregs2 = old.has_xsave2 = old.has_vcpu_attrs = false;
    old.clock_flags &= ~(uint32_t)KVM_CLOCK_REALTIME;
    assert_stasis_ok(stasis_kvm_capture(&old, &source.view, &saved, &err), &err);
    assert_false(saved.x86_64->vcpus[0].has_tsc_offset);
    saved.x86_64->vcpus[0].events.interrupt.injected = 0; /* the bitmap of SREGS has it still */
    test_vm_open(&target, &test_vm_one_vcpu);
    assert_stasis_ok(stasis_kvm_restore(&old, &target.view, &saved, 0, &err), &err);
    assert_stasis_ok(stasis_kvm_capture(&old, &target.view, &again, &err), &err);
    assert_events(&again.x86_64->vcpus[0], 0);
    saved.x86_64->vcpus[0].events.interrupt.injected = 1;
    assert_same(&saved, &again);
}

static void without_xsave_the_fpu_carries_x87_and_sse(void **state)
{
    struct stasis_kvm_host old;
    struct stasis_error err = { 0 };

    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    set_distinct_xsave(&source, 0);
    old = *test_kvm_host();
    old.has_xsave = old.has_xsave2 = false;
    assert_stasis_ok(stasis_kvm_capture(&old, &source.view, &saved, &err), &err);
    assert_int_equal(saved.x86_64->vcpus[0].xsave_size, 576);
    test_vm_open(&target, &test_vm_one_vcpu);
    assert_stasis_ok(stasis_kvm_restore(&old, &target.view, &saved, 0, &err), &err);
    assert_stasis_ok(stasis_kvm_capture(&old, &target.view, &again, &err), &err);
    assert_memory_equal(saved.x86_64->vcpus[0].xsave, again.x86_64->vcpus[0].xsave, 576);
    assert_int_equal(again.x86_64->vcpus[0].xsave[XSAVE_XMM], 1);
    assert_int_equal(again.x86_64->vcpus[0].xsave[XSAVE_XMM + 255], 0);
}

/* A bit that only KVM_GET_SREGS knows must reach a kernel that is spoken to by KVM_SET_SREGS2. */
static void an_interrupt_known_from_the_bitmap_alone_is_not_lost(void **state)
{
    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    set_distinct_events(&source, 0);
    capture(&source, &saved);
    saved.x86_64->vcpus[0].events.interrupt.injected = 0;
    saved.x86_64->vcpus[0].events.interrupt.nr = 0;
    test_vm_open(&target, &test_vm_one_vcpu);
    restore_stopped(&target, &saved);
    capture(&target, &again);
    assert_events(&again.x86_64->vcpus[0], 0);
}

static void a_capture_leaves_the_vm_as_it_was(void **state)
{
    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    set_distinct_vcpu(&source, 0);
    capture(&source, &saved);
    capture(&source, &again);
    assert_same(&saved, &again);
}

static void the_host_is_recorded(void **state)
{
    (void)state;
    test_vm_open(&source, &test_vm_one_vcpu);
    capture(&source, &saved);
    assert_string_equal(saved.host.hypervisor, "kvm");
    assert_int_not_equal(strlen(saved.host.kernel_release), 0);
    assert_int_equal(strlen(saved.host.cpu_vendor), 12);
    assert_int_not_equal(saved.host.cpu_signature, 0);
    assert_int_not_equal(saved.host.tsc_khz, 0);
    assert_int_equal(saved.arch, STASIS_ARCH_X86_64);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_teardown(name, teardown)
        CASE(every_register_of_four_vcpus_comes_back),
        CASE(interrupt_controllers_and_pit_come_back),
        CASE(each_msr_that_can_be_set_comes_back),
        CASE(machine_check_banks_come_back),
        CASE(exceptions_and_a_triple_fault_in_flight_come_back),
        CASE(a_capability_not_enabled_again_is_named),
        CASE(system_management_mode_comes_back),
        CASE(nested_state_comes_back),
        CASE(pae_page_directory_pointers_come_back),
        CASE(vcpu_ids_need_not_count_from_zero),
        CASE(a_split_irqchip_has_lapics_and_no_pics),
        CASE(a_vm_without_controllers_has_none_of_their_state),
        CASE(old_ioctls_carry_the_same_state),
        CASE(without_xsave_the_fpu_carries_x87_and_sse),
        CASE(an_interrupt_known_from_the_bitmap_alone_is_not_lost),
        CASE(a_capture_leaves_the_vm_as_it_was),
        CASE(the_host_is_recorded),
    };
    return unit_run(tests);
}
