/*
 * kvm_x86_64_restore.c - a machine into a fresh VM's KVM state (design D9).
 *
 * Writes through the VMM's descriptors; after a failure the VM is half-written and must not run.
 * Almost every step builds on one before it:
 *
 *     each vCPU   CPUID          all validity checks of KVM hang on it; it sizes the XSAVE area
 *                 TSC kHz        before anything that counts cycles
 *                 MP_STATE, REGS
 *                 SREGS          IA32_APICBASE says how SET_LAPIC reads the page; EFER.SVME
 *                 XSAVE          before IA32_XFD, which forbids the components it disarms
 *                 XCRS, DEBUGREGS
 *                 LAPIC          before IA32_TSC_DEADLINE (its mode) and paravirtual MSRs
 *                 MSRs           nested state needs the VMX ones
 *                 nested state, VCPU_EVENTS (SET_REGS drops pending exceptions)
 *     the VM      PICs, IOAPIC   what waits in the IOAPIC goes on into LAPICs: now they keep it
 *                 PIT            restarts its period, so as late as can be
 *                 clock, TSCs    see kvm_x86_64_time.c
 *     each vCPU   wall clock and timer MSRs, IA32_TSC_DEADLINE last: they act on those clocks
 *                 KVMCLOCK_CTRL  the guest's watchdogs are told that it stood still
 *
 * Between XSAVE and XCRS the order is free: KVM checks both against CPUID, not against each other.
 */
#include "hypervisor/kvm_x86_64.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/error.h"

/* One restore: what the steps share. */
struct restore {
    const struct stasis_kvm_host *host;
    const struct stasis_kvm_vm *vm;
    size_t xsave_size;              /* bytes KVM_SET_XSAVE reads */
    uint8_t *xsave;                 /* scratch of xsave_size bytes */
    struct kvm_cpuid_buffer *cpuid; /* scratch */
};

static int restore_cpuid(struct restore *restore, const struct kvm_vcpu *vcpu,
                         const struct stasis_x86_vcpu *saved, struct stasis_error *err)
{
    struct kvm_cpuid_buffer *buffer = restore->cpuid;

    buffer->nent = (uint32_t)saved->cpuid_count;
    for (size_t i = 0; i < saved->cpuid_count; i++)
        kvm_cpuid_to_kvm(&saved->cpuid[i], &buffer->entries[i]);
    return KVM_VCPU_IOCTL(vcpu, KVM_SET_CPUID2, buffer, err);
}

/* A fresh vCPU has the host's rate; nothing to do for a guest that had the same. */
static int restore_tsc_khz(const struct restore *restore, const struct kvm_vcpu *vcpu,
                           const struct stasis_x86_vcpu *saved, struct stasis_error *err)
{
    const int khz = restore->host->has_tsc_khz ? ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0) : 0;

    if (saved->tsc_khz == 0 || khz == (int)saved->tsc_khz)
        return 0;
    if (ioctl(vcpu->fd, KVM_SET_TSC_KHZ, (unsigned long)saved->tsc_khz) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM,
                                    "KVM_SET_TSC_KHZ of vCPU %u: %u kHz (it has %d)", vcpu->id,
                                    saved->tsc_khz, khz);
    return 0;
}

static int restore_mp_state(const struct kvm_vcpu *vcpu, const struct stasis_x86_vcpu *saved,
                            struct stasis_error *err)
{
    struct kvm_mp_state state = { .mp_state = saved->mp_state };

    return KVM_VCPU_IOCTL(vcpu, KVM_SET_MP_STATE, &state, err);
}

static int restore_regs(const struct kvm_vcpu *vcpu, const struct stasis_x86_vcpu *saved,
                        struct stasis_error *err)
{
    struct kvm_regs regs;

    kvm_regs_to_kvm(&saved->regs, &regs);
    return KVM_VCPU_IOCTL(vcpu, KVM_SET_REGS, &regs, err);
}

static int restore_sregs(const struct restore *restore, const struct kvm_vcpu *vcpu,
                         const struct stasis_x86_vcpu *saved, struct stasis_error *err)
{
    struct kvm_sregs2 sregs2;
    struct kvm_sregs sregs;

    if (restore->host->has_sregs2) {
        kvm_sregs2_to_kvm(&saved->sregs, &sregs2);
        return KVM_VCPU_IOCTL(vcpu, KVM_SET_SREGS2, &sregs2, err);
    }
    kvm_sregs_to_kvm(&saved->sregs, &sregs);
    return KVM_VCPU_IOCTL(vcpu, KVM_SET_SREGS, &sregs, err);
}

/* The kernel reads as many bytes as it likes, so a smaller area is filled up with zeros. A larger
 * one is cut: components that do not fit are ones that the kernel refuses by the area's header. */
static int restore_xsave(struct restore *restore, const struct kvm_vcpu *vcpu,
                         const struct stasis_x86_vcpu *saved, struct stasis_error *err)
{
    const size_t size =
        saved->xsave_size < restore->xsave_size ? saved->xsave_size : restore->xsave_size;
    struct kvm_fpu fpu;

    if (!restore->host->has_xsave) {
        kvm_fpu_from_xsave(saved->xsave, &fpu);
        return KVM_VCPU_IOCTL(vcpu, KVM_SET_FPU, &fpu, err);
    }
    memcpy(restore->xsave, saved->xsave, size);
    memset(restore->xsave + size, 0, restore->xsave_size - size);
    return KVM_VCPU_IOCTL(vcpu, KVM_SET_XSAVE, restore->xsave, err);
}

static int restore_xcrs(const struct restore *restore, const struct kvm_vcpu *vcpu,
                        const struct stasis_x86_vcpu *saved, struct stasis_error *err)
{
    struct kvm_xcrs xcrs = { .nr_xcrs = (uint32_t)saved->xcrs_count };

    if (saved->xcrs_count == 0 || !restore->host->has_xcrs)
        return 0;
    for (size_t i = 0; i < saved->xcrs_count; i++) {
        xcrs.xcrs[i].xcr = saved->xcrs[i].index;
        xcrs.xcrs[i].value = saved->xcrs[i].value;
    }
    return KVM_VCPU_IOCTL(vcpu, KVM_SET_XCRS, &xcrs, err);
}

static int restore_debugregs(const struct restore *restore, const struct kvm_vcpu *vcpu,
                             const struct stasis_x86_vcpu *saved, struct stasis_error *err)
{
    struct kvm_debugregs regs;

    if (!restore->host->has_debugregs)
        return 0;
    kvm_debugregs_to_kvm(&saved->debugregs, &regs);
    return KVM_VCPU_IOCTL(vcpu, KVM_SET_DEBUGREGS, &regs, err);
}

static int restore_lapic(const struct kvm_vcpu *vcpu, const struct stasis_x86_vcpu *saved,
                         struct stasis_error *err)
{
    struct kvm_lapic_state lapic;

    if (saved->lapic_size == 0)
        return 0;
    memcpy(lapic.regs, saved->lapic, sizeof(lapic.regs));
    return KVM_VCPU_IOCTL(vcpu, KVM_SET_LAPIC, &lapic, err);
}

/* The blob begins with its own size, which must be ours: the kernel reads as far as it says. */
static int restore_nested(const struct restore *restore, const struct kvm_vcpu *vcpu,
                          const struct stasis_x86_vcpu *saved, struct stasis_error *err)
{
    auto_free struct kvm_nested_state *state = NULL;

    if (restore->host->nested_size == 0 && kvm_nested_is_idle(saved))
        return 0;
    if (saved->nested_size == 0)
        return 0;
    state = malloc(saved->nested_size);
    if (!state)
        return stasis_fail_memory(err, "the nested state");
    memcpy(state, saved->nested, saved->nested_size);
    state->size = (uint32_t)saved->nested_size;
    return KVM_VCPU_IOCTL(vcpu, KVM_SET_NESTED_STATE, state, err);
}

/* KVM_GET_SREGS tells of an interrupt on its way into the vCPU by a bit, KVM_GET_VCPU_EVENTS by its
 * number. A format that kept only the former must not lose it: KVM_SET_SREGS2 has no such bit. */
static void add_bitmap_interrupt(const struct stasis_x86_sregs *sregs,
                                 struct kvm_vcpu_events *events)
{
    if (!sregs->has_interrupt_bitmap || events->interrupt.injected)
        return;
    for (unsigned nr = 0; nr < 256; nr++) {
        if (sregs->interrupt_bitmap[nr / 64] & (UINT64_C(1) << (nr % 64))) {
            events->interrupt.injected = 1;
            events->interrupt.nr = (uint8_t)nr;
            return;
        }
    }
}

static int restore_events(const struct kvm_vcpu *vcpu, const struct stasis_x86_vcpu *saved,
                          struct stasis_error *err)
{
    struct kvm_vcpu_events events;
    int r;

    kvm_events_to_kvm(&saved->events, &events);
    add_bitmap_interrupt(&saved->sregs, &events);
    r = KVM_VCPU_IOCTL(vcpu, KVM_SET_VCPU_EVENTS, &events, err);
    if (r < 0 && (events.flags & (KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT)))
        return stasis_wrap(err, r,
                           "the machine needs KVM_CAP_EXCEPTION_PAYLOAD or "
                           "KVM_CAP_X86_TRIPLE_FAULT_EVENT, enabled as when it was saved");
    return r;
}

static int restore_vcpu(struct restore *restore, const struct kvm_vcpu *vcpu,
                        const struct stasis_x86_vcpu *saved, struct stasis_error *err)
{
    int r = restore_cpuid(restore, vcpu, saved, err);

    if (r >= 0)
        r = restore_tsc_khz(restore, vcpu, saved, err);
    if (r >= 0)
        r = restore_mp_state(vcpu, saved, err);
    if (r >= 0)
        r = restore_regs(vcpu, saved, err);
    if (r >= 0)
        r = restore_sregs(restore, vcpu, saved, err);
    if (r >= 0)
        r = restore_xsave(restore, vcpu, saved, err);
    if (r >= 0)
        r = restore_xcrs(restore, vcpu, saved, err);
    if (r >= 0)
        r = restore_debugregs(restore, vcpu, saved, err);
    if (r >= 0)
        r = restore_lapic(vcpu, saved, err);
    if (r >= 0)
        r = kvm_msrs_write(restore->host, vcpu, saved->msrs, saved->msrs_count, err);
    if (r >= 0)
        r = restore_nested(restore, vcpu, saved, err);
    if (r >= 0)
        r = restore_events(vcpu, saved, err);
    return r;
}

static int restore_irqchips(int vm_fd, const struct stasis_x86_machine *machine,
                            struct stasis_error *err)
{
    struct kvm_irqchip chip;

    for (size_t i = 0; i < machine->pics_count; i++) {
        int r;

        memset(&chip, 0, sizeof(chip));
        chip.chip_id = KVM_IRQCHIP_PIC_MASTER + (uint32_t)i;
        kvm_pic_to_kvm(&machine->pics[i], &chip.chip.pic);
        r = KVM_VM_IOCTL(vm_fd, KVM_SET_IRQCHIP, &chip, err);
        if (r < 0)
            return r;
    }
    if (!machine->ioapic)
        return 0;
    memset(&chip, 0, sizeof(chip));
    chip.chip_id = KVM_IRQCHIP_IOAPIC;
    kvm_ioapic_to_kvm(machine->ioapic, &chip.chip.ioapic);
    return KVM_VM_IOCTL(vm_fd, KVM_SET_IRQCHIP, &chip, err);
}

static int restore_pit(int vm_fd, const struct stasis_x86_machine *machine,
                       struct stasis_error *err)
{
    struct kvm_pit_state2 state;

    if (!machine->pit)
        return 0;
    kvm_pit_to_kvm(machine->pit, &state);
    return KVM_VM_IOCTL(vm_fd, KVM_SET_PIT2, &state, err);
}

/* EINVAL says that the guest has no kvmclock to tell it through. */
static int restore_kvmclock_ctrl(const struct kvm_vcpu *vcpu, struct stasis_error *err)
{
    if (ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0) < 0 && errno != EINVAL)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_KVMCLOCK_CTRL of vCPU %u", vcpu->id);
    return 0;
}

static int restore_vcpus(struct restore *restore, const struct stasis_x86_machine *machine,
                         struct stasis_error *err)
{
    for (size_t i = 0; i < machine->vcpus_count; i++) {
        const struct kvm_vcpu vcpu = kvm_vm_vcpu(restore->vm, i);
        const int r = restore_vcpu(restore, &vcpu, &machine->vcpus[i], err);

        if (r < 0)
            return r;
    }
    return 0;
}

static int finish_vcpus(const struct stasis_kvm_vm *vm, const struct stasis_x86_machine *machine,
                        struct stasis_error *err)
{
    for (size_t i = 0; i < machine->vcpus_count; i++) {
        const struct stasis_x86_vcpu *saved = &machine->vcpus[i];
        const struct kvm_vcpu vcpu = kvm_vm_vcpu(vm, i);
        int r = kvm_msrs_write_late(&vcpu, saved->msrs, saved->msrs_count, err);

        if (r >= 0)
            r = restore_kvmclock_ctrl(&vcpu, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int restore_machine(struct restore *restore, const struct stasis_x86_machine *machine,
                           unsigned flags, struct stasis_error *err)
{
    int r = restore_vcpus(restore, machine, err);

    if (r >= 0)
        r = restore_irqchips(restore->vm->vm_fd, machine, err);
    if (r >= 0)
        r = restore_pit(restore->vm->vm_fd, machine, err);
    if (r >= 0)
        r = kvm_clock_restore(restore->host, restore->vm, machine, flags, err);
    if (r >= 0)
        r = finish_vcpus(restore->vm, machine, err);
    return r < 0 ? r : 0;
}

/* Sizes that the steps above index by, whoever made the machine. */
static int check_vcpu(const struct stasis_kvm_vm *vm, size_t index,
                      const struct stasis_x86_vcpu *saved, struct stasis_error *err)
{
    const uint32_t id = kvm_vm_vcpu(vm, index).id;
    const bool wants_lapic = saved->lapic_size != 0;

    if (id != saved->id)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "vCPU %zu has id %u, the machine's has %u", index, id, saved->id);
    if (wants_lapic != (vm->has_irqchip || vm->has_lapic))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the machine has %s in-kernel LAPIC, the VM %s",
                           wants_lapic ? "an" : "no", wants_lapic ? "has not" : "has");
    if (wants_lapic && saved->lapic_size != sizeof(struct kvm_lapic_state))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the LAPIC of vCPU %u is %zu bytes",
                           id, saved->lapic_size);
    if (saved->xsave_size < KVM_XSAVE_LEGACY_SIZE)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the XSAVE area of vCPU %u is %zu bytes", id, saved->xsave_size);
    if (saved->cpuid_count > KVM_CPUID_BUFFER_MAX || saved->xcrs_count > KVM_MAX_XCRS)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "vCPU %u has too many CPUID entries or XCRs", id);
    if (saved->nested_size != 0 && (saved->nested_size < sizeof(struct kvm_nested_state) ||
                                    saved->nested_size > STASIS_X86_NESTED_MAX))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the nested state of vCPU %u is %zu bytes", id, saved->nested_size);
    return 0;
}

static int check_fit(const struct stasis_kvm_vm *vm, const struct stasis_x86_machine *machine,
                     struct stasis_error *err)
{
    const bool wants_irqchip = machine->pics_count != 0 || machine->ioapic;

    if (vm->vcpu_count != machine->vcpus_count)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the machine has %zu vCPUs, the VM %zu", machine->vcpus_count,
                           vm->vcpu_count);
    if (wants_irqchip != vm->has_irqchip)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the machine has %s in-kernel PICs and IOAPIC, the VM %s",
                           wants_irqchip ? "the" : "no", wants_irqchip ? "has not" : "has");
    if (wants_irqchip && (machine->pics_count != 2 || !machine->ioapic))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the machine has %zu PICs and %s IOAPIC", machine->pics_count,
                           machine->ioapic ? "an" : "no");
    if ((machine->pit != NULL) != vm->has_pit)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the machine has %s in-kernel PIT, the VM %s",
                           machine->pit ? "an" : "no", machine->pit ? "has not" : "has");
    for (size_t i = 0; i < machine->vcpus_count; i++) {
        const int r = check_vcpu(vm, i, &machine->vcpus[i], err);

        if (r < 0)
            return r;
    }
    return 0;
}

static int check_arguments(const struct stasis_kvm_vm *vm, const struct stasis_machine *machine,
                           unsigned flags, struct stasis_error *err)
{
    const int r = kvm_vm_check(vm, err);

    if (r < 0)
        return r;
    if (flags & ~STASIS_KVM_CLOCK_STOPPED)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "unknown restore flags 0x%x", flags);
    if (machine->arch != STASIS_ARCH_X86_64 || !machine->x86_64)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the machine is not x86-64");
    return check_fit(vm, machine->x86_64, err);
}

int stasis_kvm_restore(const struct stasis_kvm_host *host, const struct stasis_kvm_vm *vm,
                       const struct stasis_machine *machine, unsigned flags,
                       struct stasis_error *err)
{
    struct restore restore = { .host = host, .vm = vm };
    int r = check_arguments(vm, machine, flags, err);

    if (r < 0)
        return r;
    restore.xsave_size = kvm_xsave_size(host, vm->vm_fd);
    restore.xsave = malloc(restore.xsave_size);
    restore.cpuid = calloc(1, sizeof(*restore.cpuid));
    if (!restore.xsave || !restore.cpuid)
        r = stasis_fail_memory(err, "a restore");
    else
        r = restore_machine(&restore, machine->x86_64, flags, err);
    free(restore.xsave);
    free(restore.cpuid);
    return r;
}
