/*
 * kvm_x86_64_time.c - the guest's clocks across the gap between capture and restore.
 *
 * A guest has two clocks of KVM's: kvmclock (ns, one per VM) and the TSC (one per vCPU, all in
 * step). Both must go on from where they were and advance by the same time, the wall time that has
 * passed, or none with STASIS_KVM_CLOCK_STOPPED; and neither may ever go back. The way is that of
 * the kernel's Documentation/virt/kvm/devices/vcpu.rst, section 4.1, put so that it also holds
 * where the TSC is scaled or KVM gives no host TSC with its clock:
 *
 *     1. KVM_SET_CLOCK with the saved time, moved on by the wall time since
 *     2. KVM_GET_CLOCK: how far has kvmclock come?             passed = clock now - clock saved
 *     3. guest TSC to be = guest TSC saved + passed * kHz
 *     4. every vCPU's offset += guest TSC to be - guest TSC as it is
 *
 * Every vCPU gets the offset of vCPU 0, plus what its own differed by when it was saved: equal
 * offsets are how KVM knows that TSCs are synchronised and may back kvmclock. Wrong here is a guest
 * whose timers never fire, or that calls its clocksource unstable.
 */
#include "hypervisor/kvm_x86_64.h"

#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "base/error.h"

#define NS_PER_S UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)

uint64_t kvm_time_realtime(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t kvm_time_elapsed(uint64_t then_ns, uint64_t now_ns)
{
    if (then_ns == 0 || then_ns > now_ns || now_ns - then_ns > KVM_TIME_ELAPSED_MAX_NS)
        return 0;
    return now_ns - then_ns;
}

uint64_t kvm_time_cycles(uint64_t ns, uint32_t khz)
{
    const unsigned __int128 cycles = (unsigned __int128)ns * khz / NS_PER_MS;

    return cycles > UINT64_MAX ? UINT64_MAX : (uint64_t)cycles;
}

/* Two TSC values less than a second apart, either way round. */
static bool tsc_is_near(uint64_t a, uint64_t b, uint32_t khz)
{
    const uint64_t second = kvm_time_cycles(NS_PER_S, khz);

    return a - b < second || b - a < second;
}

/* host_tsc + offset is the guest's TSC to the cycle, unless it is scaled: then the product is far
 * off what the register read, which in turn is late by the time since the clock was read. */
uint64_t kvm_time_guest_tsc(const struct stasis_x86_clock *clock,
                            const struct stasis_x86_vcpu *vcpu, uint64_t msr_tsc)
{
    const uint64_t exact = clock->host_tsc + vcpu->tsc_offset;

    if ((clock->flags & KVM_CLOCK_HOST_TSC) && vcpu->has_tsc_offset &&
        tsc_is_near(exact, msr_tsc, vcpu->tsc_khz))
        return exact;
    return msr_tsc;
}

static int read_clock(int vm_fd, struct stasis_x86_clock *ret_clock, struct stasis_error *err)
{
    struct kvm_clock_data data = { 0 };
    const int r = KVM_VM_IOCTL(vm_fd, KVM_GET_CLOCK, &data, err);

    *ret_clock = (struct stasis_x86_clock){
        .clock = data.clock,
        .flags = data.flags,
        .realtime = (data.flags & KVM_CLOCK_REALTIME) ? data.realtime : 0,
        .host_tsc = (data.flags & KVM_CLOCK_HOST_TSC) ? data.host_tsc : 0,
    };
    return r;
}

int kvm_clock_capture(int vm_fd, struct stasis_x86_clock *ret_clock, struct stasis_error *err)
{
    const uint64_t before = kvm_time_realtime();
    const int r = read_clock(vm_fd, ret_clock, err);

    if (r < 0)
        return r;
    if (!(ret_clock->flags & KVM_CLOCK_REALTIME))
        ret_clock->realtime = before + kvm_time_elapsed(before, kvm_time_realtime()) / 2;
    return 0;
}

static int offset_ioctl(int vcpu_fd, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL,
        .attr = KVM_VCPU_TSC_OFFSET,
        .addr = (uintptr_t)offset,
    };

    return ioctl(vcpu_fd, request, &attr);
}

bool kvm_tsc_offset_read(int vcpu_fd, uint64_t *ret_offset)
{
    return offset_ioctl(vcpu_fd, KVM_GET_DEVICE_ATTR, ret_offset) == 0;
}

/* The kernel moves the clock on by itself where it can, as it samples both clocks at once. */
static int write_clock(const struct stasis_kvm_host *host, int vm_fd,
                       const struct stasis_x86_clock *saved, unsigned flags,
                       struct stasis_error *err)
{
    const uint64_t elapsed = (flags & STASIS_KVM_CLOCK_STOPPED)
                                 ? 0
                                 : kvm_time_elapsed(saved->realtime, kvm_time_realtime());
    struct kvm_clock_data data = { .clock = saved->clock };

    if (elapsed > 0 && (host->clock_flags & KVM_CLOCK_REALTIME)) {
        data.flags = KVM_CLOCK_REALTIME;
        data.realtime = saved->realtime;
    } else if (__builtin_add_overflow(data.clock, elapsed, &data.clock)) {
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE, "the saved clock, %ju ns, overflows",
                           (uintmax_t)saved->clock);
    }
    return KVM_VM_IOCTL(vm_fd, KVM_SET_CLOCK, &data, err);
}

/* What all vCPUs of one rate have in common. */
struct tsc_plan {
    uint32_t khz;
    bool has_offset;      /* this KVM has KVM_VCPU_TSC_OFFSET */
    uint64_t saved_tsc;   /* the reference vCPU's, at the saved clock's moment */
    uint64_t wanted_tsc;  /* and what it should be, at the new clock's moment */
    uint64_t offset;      /* offset that makes it so; meaningful with has_offset */
};

static int plan_tsc(const struct kvm_vcpu *vcpu, const struct stasis_x86_vcpu *saved,
                    const struct stasis_x86_clock *saved_clock, uint64_t saved_msr,
                    const struct stasis_x86_clock *now, struct tsc_plan *ret_plan,
                    struct stasis_error *err)
{
    const uint64_t passed_ns = now->clock > saved_clock->clock ? now->clock - saved_clock->clock : 0;
    struct stasis_x86_vcpu fresh = { .tsc_khz = saved->tsc_khz };
    struct tsc_plan plan = { .khz = saved->tsc_khz };
    uint64_t current;

    if (!kvm_msr_read_one(vcpu->fd, X86_MSR_TSC, &current))
        return stasis_fail(err, STASIS_ERR_KVM, "KVM_GET_MSRS of vCPU %u: IA32_TSC", vcpu->id);
    fresh.has_tsc_offset = kvm_tsc_offset_read(vcpu->fd, &fresh.tsc_offset);
    plan.has_offset = fresh.has_tsc_offset;
    plan.saved_tsc = kvm_time_guest_tsc(saved_clock, saved, saved_msr);
    plan.wanted_tsc = plan.saved_tsc + kvm_time_cycles(passed_ns, plan.khz);
    plan.offset = fresh.tsc_offset + plan.wanted_tsc - kvm_time_guest_tsc(now, &fresh, current);
    *ret_plan = plan;
    return 0;
}

/* How far this vCPU's TSC was from that of the plan's. Without offsets to compare, less than a second is
 * the time between the two readings, and the TSCs are taken to be in step, as the kernel does. */
static uint64_t skew(const struct stasis_x86_vcpu *reference, uint64_t reference_msr,
                     const struct stasis_x86_vcpu *vcpu, uint64_t msr)
{
    if (reference->has_tsc_offset && vcpu->has_tsc_offset)
        return vcpu->tsc_offset - reference->tsc_offset;
    return tsc_is_near(msr, reference_msr, vcpu->tsc_khz) ? 0 : msr - reference_msr;
}

static int write_tsc_msr(const struct kvm_vcpu *vcpu, uint64_t tsc, struct stasis_error *err)
{
    const struct stasis_x86_msr msr = { .index = X86_MSR_TSC, .data = tsc };

    return kvm_msr_write_one(vcpu, &msr, err);
}

/*
 * Kernels before 5.16 have no offset to set, only the register. They take a value within a second of
 * what the VM's TSC would be anyway as a wish to be synchronised, and do not write it: wanted among
 * the vCPUs, but not against the time since this VM was made. A value far away first breaks that tie.
 */
static int write_tsc_by_msr(const struct kvm_vcpu *vcpu, const struct tsc_plan *plan, bool is_first,
                            uint64_t skew_cycles, struct stasis_error *err)
{
    const uint64_t far_away = plan->wanted_tsc + kvm_time_cycles(3600 * NS_PER_S, plan->khz);
    int r = is_first ? write_tsc_msr(vcpu, far_away, err) : 0;

    return r < 0 ? r : write_tsc_msr(vcpu, plan->wanted_tsc + skew_cycles, err);
}

static int write_tsc(const struct kvm_vcpu *vcpu, const struct tsc_plan *plan, bool is_first,
                     uint64_t skew_cycles, struct stasis_error *err)
{
    uint64_t offset = plan->offset + skew_cycles;

    if (!plan->has_offset)
        return write_tsc_by_msr(vcpu, plan, is_first, skew_cycles, err);
    if (offset_ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &offset) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_VCPU_TSC_OFFSET of vCPU %u",
                                    vcpu->id);
    return 0;
}

/* Some software KVMs take an offset and ignore it. That does no harm while the TSC they show is
 * ahead of the saved one; behind it, the guest's timers would stand still. */
static int check_tsc(const struct kvm_vcpu *vcpu, const struct tsc_plan *plan,
                     struct stasis_error *err)
{
    uint64_t current;

    if (kvm_msr_read_one(vcpu->fd, X86_MSR_TSC, &current) &&
        (int64_t)(current - plan->saved_tsc) < 0)
        return stasis_fail(err, STASIS_ERR_KVM,
                           "the TSC of vCPU %u would go back from %ju to %ju: this KVM does not "
                           "let it be set",
                           vcpu->id, (uintmax_t)plan->saved_tsc, (uintmax_t)current);
    return 0;
}

static int restore_tscs(const struct stasis_kvm_vm *vm, const struct stasis_x86_machine *machine,
                        const struct stasis_x86_clock *now, struct stasis_error *err)
{
    const struct stasis_x86_vcpu *reference = NULL;
    const struct stasis_x86_msr *reference_msr = NULL;
    struct tsc_plan plan;

    for (size_t i = 0; i < machine->vcpus_count; i++) {
        const struct stasis_x86_vcpu *saved = &machine->vcpus[i];
        const struct kvm_vcpu vcpu = kvm_vm_vcpu(vm, i);
        const struct stasis_x86_msr *msr =
            kvm_msr_find(saved->msrs, saved->msrs_count, X86_MSR_TSC);
        const bool is_first = !reference;
        int r = 0;

        if (!msr) /* the machine comes from elsewhere and says nothing of its TSC */
            continue;
        if (!reference || reference->tsc_khz != saved->tsc_khz) {
            r = plan_tsc(&vcpu, saved, &machine->clock, msr->data, now, &plan, err);
            reference = saved;
            reference_msr = msr;
        }
        if (r == 0)
            r = write_tsc(&vcpu, &plan, is_first,
                          skew(reference, reference_msr->data, saved, msr->data), err);
        if (r == 0 && is_first)
            r = check_tsc(&vcpu, &plan, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int kvm_clock_restore(const struct stasis_kvm_host *host, const struct stasis_kvm_vm *vm,
                      const struct stasis_x86_machine *machine, unsigned flags,
                      struct stasis_error *err)
{
    struct stasis_x86_clock now;
    int r = write_clock(host, vm->vm_fd, &machine->clock, flags, err);

    if (r >= 0)
        r = read_clock(vm->vm_fd, &now, err);
    return r < 0 ? r : restore_tscs(vm, machine, &now, err);
}
