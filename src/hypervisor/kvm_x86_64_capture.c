/*
 * kvm_x86_64_capture.c - a stopped VM's KVM state into a machine (design D9).
 *
 * Reads through the VMM's descriptors and changes nothing the guest could see. The order matters,
 * because reading is not always passive and the kernel's timers run on while vCPUs stand still:
 *
 *     PIT -> PICs, IOAPIC -> clock -> vCPUs
 *         An interrupt travels in this direction, so one that fires meanwhile is found further
 *         down, in a LAPIC that is read later; in the other order it would be in neither.
 *     MP_STATE first of each vCPU: it acts on a waiting INIT or SIPI, which resets registers.
 *     VCPU_EVENTS second: it delivers an exception's payload into CR2 or DR6.
 *
 * Missing one register is a guest that runs wrong later; tests/vm/test_kvm_coverage.c lists what
 * KVM offers against what is read here.
 */
#include "hypervisor/kvm_x86_64.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/error.h"

#define CPUID_FIRST_TRY 256 /* the kernel's own limit so far */

/* One capture: what the steps share. */
struct capture {
    const struct stasis_kvm_host *host;
    const struct stasis_kvm_vm *vm;
    size_t xsave_size;
    struct kvm_cpuid_buffer *cpuid; /* scratch */
    uint8_t *nested;                /* scratch of host->nested_size bytes; NULL when that is 0 */
};

/* `size` bytes of `data` as a blob of its own. */
static int keep_blob(const void *data, size_t size, const char *what, uint8_t **ret_blob,
                     size_t *ret_size, struct stasis_error *err)
{
    uint8_t *blob = malloc(size);

    if (!blob)
        return stasis_fail_memory(err, what);
    memcpy(blob, data, size);
    *ret_blob = blob;
    *ret_size = size;
    return 0;
}

static int capture_pit(const struct stasis_kvm_vm *vm, struct stasis_x86_machine *machine,
                       struct stasis_error *err)
{
    struct kvm_pit_state2 state = { 0 };
    int r;

    if (!vm->has_pit)
        return 0;
    r = KVM_VM_IOCTL(vm->vm_fd, KVM_GET_PIT2, &state, err);
    if (r < 0)
        return r;
    machine->pit = calloc(1, sizeof(*machine->pit));
    if (!machine->pit)
        return stasis_fail_memory(err, "the PIT");
    kvm_pit_from_kvm(&state, machine->pit);
    return 0;
}

static int read_irqchip(int vm_fd, uint32_t chip_id, struct kvm_irqchip *ret_chip,
                        struct stasis_error *err)
{
    memset(ret_chip, 0, sizeof(*ret_chip));
    ret_chip->chip_id = chip_id;
    return KVM_VM_IOCTL(vm_fd, KVM_GET_IRQCHIP, ret_chip, err);
}

static int capture_irqchips(const struct stasis_kvm_vm *vm, struct stasis_x86_machine *machine,
                            struct stasis_error *err)
{
    struct kvm_irqchip chip;
    int r;

    if (!vm->has_irqchip)
        return 0;
    machine->pics = calloc(2, sizeof(*machine->pics));
    machine->ioapic = calloc(1, sizeof(*machine->ioapic));
    if (!machine->pics || !machine->ioapic)
        return stasis_fail_memory(err, "the interrupt controllers");
    machine->pics_count = 2;
    for (uint32_t i = 0; i < 2; i++) {
        r = read_irqchip(vm->vm_fd, KVM_IRQCHIP_PIC_MASTER + i, &chip, err);
        if (r < 0)
            return r;
        kvm_pic_from_kvm(&chip.chip.pic, &machine->pics[i]);
    }
    r = read_irqchip(vm->vm_fd, KVM_IRQCHIP_IOAPIC, &chip, err);
    if (r < 0)
        return r;
    kvm_ioapic_from_kvm(&chip.chip.ioapic, machine->ioapic);
    return 0;
}

static int capture_cpuid(struct capture *capture, const struct kvm_vcpu *vcpu,
                         struct stasis_x86_vcpu *out, struct stasis_error *err)
{
    struct kvm_cpuid_buffer *buffer = capture->cpuid;
    int r;

    buffer->nent = CPUID_FIRST_TRY;
    r = ioctl(vcpu->fd, KVM_GET_CPUID2, buffer);
    if (r < 0 && errno == E2BIG) {
        buffer->nent = KVM_CPUID_BUFFER_MAX;
        r = ioctl(vcpu->fd, KVM_GET_CPUID2, buffer);
    }
    if (r < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_GET_CPUID2 of vCPU %u", vcpu->id);
    if (buffer->nent == 0)
        return 0;
    out->cpuid = calloc(buffer->nent, sizeof(*out->cpuid));
    if (!out->cpuid)
        return stasis_fail_memory(err, "CPUID");
    for (uint32_t i = 0; i < buffer->nent; i++)
        kvm_cpuid_from_kvm(&buffer->entries[i], &out->cpuid[i]);
    out->cpuid_count = buffer->nent;
    return 0;
}

static int capture_mp_state(const struct kvm_vcpu *vcpu, struct stasis_x86_vcpu *out,
                            struct stasis_error *err)
{
    struct kvm_mp_state state = { 0 };
    const int r = KVM_VCPU_IOCTL(vcpu, KVM_GET_MP_STATE, &state, err);

    out->mp_state = state.mp_state;
    return r;
}

static int capture_events(const struct kvm_vcpu *vcpu, struct stasis_x86_vcpu *out,
                          struct stasis_error *err)
{
    struct kvm_vcpu_events events = { 0 };
    const int r = KVM_VCPU_IOCTL(vcpu, KVM_GET_VCPU_EVENTS, &events, err);

    kvm_events_from_kvm(&events, &out->events);
    return r;
}

static int capture_regs(const struct kvm_vcpu *vcpu, struct stasis_x86_vcpu *out,
                        struct stasis_error *err)
{
    struct kvm_regs regs = { 0 };
    const int r = KVM_VCPU_IOCTL(vcpu, KVM_GET_REGS, &regs, err);

    kvm_regs_from_kvm(&regs, &out->regs);
    return r;
}

/* KVM_GET_SREGS for the interrupt bitmap, and where there is nothing newer for all of it. */
static int capture_sregs(const struct capture *capture, const struct kvm_vcpu *vcpu,
                         struct stasis_x86_vcpu *out, struct stasis_error *err)
{
    struct kvm_sregs sregs = { 0 };
    struct kvm_sregs2 sregs2 = { 0 };
    int r = KVM_VCPU_IOCTL(vcpu, KVM_GET_SREGS, &sregs, err);

    if (r == 0 && capture->host->has_sregs2)
        r = KVM_VCPU_IOCTL(vcpu, KVM_GET_SREGS2, &sregs2, err);
    if (r < 0)
        return r;
    if (capture->host->has_sregs2)
        kvm_sregs2_from_kvm(&sregs2, &out->sregs);
    else
        kvm_sregs_from_kvm(&sregs, &out->sregs);
    kvm_interrupt_bitmap_from_kvm(&sregs, &out->sregs);
    return 0;
}

/* Without KVM_CAP_XSAVE there is only KVM_GET_FPU: x87 and SSE. */
static int capture_fpu(const struct kvm_vcpu *vcpu, struct stasis_x86_vcpu *out,
                       struct stasis_error *err)
{
    uint8_t xsave[KVM_XSAVE_LEGACY_SIZE];
    struct kvm_fpu fpu = { 0 };
    const int r = KVM_VCPU_IOCTL(vcpu, KVM_GET_FPU, &fpu, err);

    if (r < 0)
        return r;
    kvm_fpu_to_xsave(&fpu, xsave);
    return keep_blob(xsave, sizeof(xsave), "the XSAVE area", &out->xsave, &out->xsave_size, err);
}

static int capture_xsave(const struct capture *capture, const struct kvm_vcpu *vcpu,
                         struct stasis_x86_vcpu *out, struct stasis_error *err)
{
    auto_free uint8_t *area = NULL;
    int r;

    if (!capture->host->has_xsave)
        return capture_fpu(vcpu, out, err);
    area = calloc(1, capture->xsave_size);
    if (!area)
        return stasis_fail_memory(err, "the XSAVE area");
    if (capture->host->has_xsave2)
        r = KVM_VCPU_IOCTL(vcpu, KVM_GET_XSAVE2, area, err);
    else
        r = KVM_VCPU_IOCTL(vcpu, KVM_GET_XSAVE, area, err);
    if (r < 0)
        return r;
    out->xsave = take_ptr(area);
    out->xsave_size = capture->xsave_size;
    return 0;
}

static int capture_xcrs(const struct capture *capture, const struct kvm_vcpu *vcpu,
                        struct stasis_x86_vcpu *out, struct stasis_error *err)
{
    struct kvm_xcrs xcrs = { 0 };
    int r;

    if (!capture->host->has_xcrs)
        return 0;
    r = KVM_VCPU_IOCTL(vcpu, KVM_GET_XCRS, &xcrs, err);
    if (r < 0 || xcrs.nr_xcrs == 0)
        return r;
    if (xcrs.nr_xcrs > KVM_MAX_XCRS)
        return stasis_fail(err, STASIS_ERR_KVM, "KVM_GET_XCRS of vCPU %u: %u registers", vcpu->id,
                           xcrs.nr_xcrs);
    out->xcrs = calloc(xcrs.nr_xcrs, sizeof(*out->xcrs));
    if (!out->xcrs)
        return stasis_fail_memory(err, "XCRs");
    for (uint32_t i = 0; i < xcrs.nr_xcrs; i++)
        out->xcrs[i] =
            (struct stasis_x86_xcr){ .index = xcrs.xcrs[i].xcr, .value = xcrs.xcrs[i].value };
    out->xcrs_count = xcrs.nr_xcrs;
    return 0;
}

static int capture_debugregs(const struct capture *capture, const struct kvm_vcpu *vcpu,
                             struct stasis_x86_vcpu *out, struct stasis_error *err)
{
    struct kvm_debugregs regs = { 0 };
    int r;

    if (!capture->host->has_debugregs)
        return 0;
    r = KVM_VCPU_IOCTL(vcpu, KVM_GET_DEBUGREGS, &regs, err);
    kvm_debugregs_from_kvm(&regs, &out->debugregs);
    return r;
}

static int capture_lapic(const struct capture *capture, const struct kvm_vcpu *vcpu,
                         struct stasis_x86_vcpu *out, struct stasis_error *err)
{
    struct kvm_lapic_state lapic = { 0 };
    int r;

    if (!capture->vm->has_irqchip && !capture->vm->has_lapic)
        return 0;
    r = KVM_VCPU_IOCTL(vcpu, KVM_GET_LAPIC, &lapic, err);
    if (r < 0)
        return r;
    return keep_blob(lapic.regs, sizeof(lapic.regs), "the LAPIC", &out->lapic, &out->lapic_size,
                     err);
}

static void capture_tsc(const struct capture *capture, const struct kvm_vcpu *vcpu,
                        struct stasis_x86_vcpu *out)
{
    /* KVM refuses where the host's own rate is unstable: then it is unknown, which is 0. */
    const int khz = capture->host->has_tsc_khz ? ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0) : 0;

    out->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
    out->has_tsc_offset =
        capture->host->has_vcpu_attrs && kvm_tsc_offset_read(vcpu->fd, &out->tsc_offset);
}

static int capture_nested(const struct capture *capture, const struct kvm_vcpu *vcpu,
                          struct stasis_x86_vcpu *out, struct stasis_error *err)
{
    struct kvm_nested_state *state = (struct kvm_nested_state *)(void *)capture->nested;
    int r;

    if (!state)
        return 0;
    memset(state, 0, capture->host->nested_size);
    state->size = capture->host->nested_size;
    r = KVM_VCPU_IOCTL(vcpu, KVM_GET_NESTED_STATE, state, err);
    if (r < 0)
        return r;
    if (state->size < sizeof(*state) || state->size > capture->host->nested_size)
        return stasis_fail(err, STASIS_ERR_KVM, "KVM_GET_NESTED_STATE of vCPU %u: %u bytes",
                           vcpu->id, state->size);
    return keep_blob(state, state->size, "the nested state", &out->nested, &out->nested_size, err);
}

static int capture_vcpu(struct capture *capture, const struct kvm_vcpu *vcpu,
                        struct stasis_x86_vcpu *out, struct stasis_error *err)
{
    int r = capture_mp_state(vcpu, out, err);

    out->id = vcpu->id;
    if (r >= 0)
        r = capture_events(vcpu, out, err);
    if (r >= 0)
        r = capture_cpuid(capture, vcpu, out, err);
    if (r >= 0)
        r = capture_regs(vcpu, out, err);
    if (r >= 0)
        r = capture_sregs(capture, vcpu, out, err);
    if (r >= 0)
        r = capture_xsave(capture, vcpu, out, err);
    if (r >= 0)
        r = capture_xcrs(capture, vcpu, out, err);
    if (r >= 0)
        r = capture_debugregs(capture, vcpu, out, err);
    if (r >= 0)
        r = capture_lapic(capture, vcpu, out, err);
    if (r >= 0)
        r = capture_nested(capture, vcpu, out, err);
    if (r < 0)
        return r;
    capture_tsc(capture, vcpu, out);
    return kvm_msrs_read(capture->host, vcpu, out->cpuid, out->cpuid_count, &out->msrs,
                         &out->msrs_count, err);
}

static int capture_vcpus(struct capture *capture, struct stasis_x86_machine *machine,
                         struct stasis_error *err)
{
    machine->vcpus = calloc(capture->vm->vcpu_count, sizeof(*machine->vcpus));
    if (!machine->vcpus)
        return stasis_fail_memory(err, "vCPUs");
    machine->vcpus_count = capture->vm->vcpu_count;
    for (size_t i = 0; i < machine->vcpus_count; i++) {
        const struct kvm_vcpu vcpu = kvm_vm_vcpu(capture->vm, i);
        const int r = capture_vcpu(capture, &vcpu, &machine->vcpus[i], err);

        if (r < 0)
            return r;
    }
    return 0;
}

static int capture_machine(struct capture *capture, struct stasis_x86_machine *machine,
                           struct stasis_error *err)
{
    int r = capture_pit(capture->vm, machine, err);

    if (r >= 0)
        r = capture_irqchips(capture->vm, machine, err);
    if (r >= 0)
        r = kvm_clock_capture(capture->vm->vm_fd, &machine->clock, err);
    if (r >= 0)
        r = capture_vcpus(capture, machine, err);
    return r;
}

static int alloc_scratch(struct capture *capture, struct stasis_error *err)
{
    capture->cpuid = calloc(1, sizeof(*capture->cpuid));
    capture->nested = capture->host->nested_size ? malloc(capture->host->nested_size) : NULL;
    if (!capture->cpuid || (capture->host->nested_size && !capture->nested))
        return stasis_fail_memory(err, "a capture");
    return 0;
}

int stasis_kvm_capture(const struct stasis_kvm_host *host, const struct stasis_kvm_vm *vm,
                       struct stasis_machine *ret_machine, struct stasis_error *err)
{
    struct capture capture = { .host = host, .vm = vm };
    struct stasis_machine machine = { .arch = STASIS_ARCH_X86_64, .host = host->identity };
    int r = kvm_vm_check(vm, err);

    if (r < 0)
        return r;
    capture.xsave_size = kvm_xsave_size(host, vm->vm_fd);
    machine.x86_64 = calloc(1, sizeof(*machine.x86_64));
    r = machine.x86_64 ? alloc_scratch(&capture, err) : stasis_fail_memory(err, "a machine");
    if (r == 0)
        r = capture_machine(&capture, machine.x86_64, err);
    free(capture.cpuid);
    free(capture.nested);
    if (r < 0) {
        stasis_machine_release(&machine);
        return r;
    }
    if (machine.host.tsc_khz == 0)
        machine.host.tsc_khz = machine.x86_64->vcpus[0].tsc_khz;
    *ret_machine = machine;
    return 0;
}
