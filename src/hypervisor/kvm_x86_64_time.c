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

/* host_tsc + offset is the guest's TSC to the cycle, unless it is scaled: then the sum is far off
 * what the register read, which in turn is late by the time since the clock was read. */
uint64_t kvm_time_guest_tsc(const struct stasis_x86_clock *clock, bool has_offset, uint64_t offset,
                            uint64_t msr_tsc, uint32_t khz)
{
    const uint64_t exact = clock->host_tsc + offset;

    if ((clock->flags & KVM_CLOCK_HOST_TSC) && has_offset && tsc_is_near(exact, msr_tsc, khz))
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

/* The kernel moves the clock on by itself where it can, as it samples both clocks at once. A sum
 * beyond 2^64 wraps, there and here: the guest of a forged file gets an odd time, and no more. */
static int write_clock(const struct stasis_kvm_host *host, int vm_fd,
                       const struct stasis_x86_clock *saved, unsigned flags,
                       struct stasis_error *err)
{
    struct kvm_clock_data data = { .clock = saved->clock };
    uint64_t elapsed = kvm_time_elapsed(saved->realtime, kvm_time_realtime());

    if (flags & STASIS_KVM_CLOCK_STOPPED)
        elapsed = 0;
    if (elapsed > 0 && (host->clock_flags & KVM_CLOCK_REALTIME)) {
        data.flags = KVM_CLOCK_REALTIME;
        data.realtime = saved->realtime;
    } else {
        data.clock += elapsed;
    }
    return KVM_VM_IOCTL(vm_fd, KVM_SET_CLOCK, &data, err);
}

/* What the TSCs of a machine are set by. The reference is the first vCPU with a TSC to restore; all
 * others of its rate follow it. */
struct tsc_plan {
    const struct stasis_kvm_host *host;
    const struct stasis_x86_clock *saved_clock, *clock; /* at capture, and now */
    const struct stasis_x86_vcpu *reference;            /* NULL: none seen yet */
    uint64_t reference_msr;                             /* IA32_TSC as it was read at capture */
    uint32_t khz;
    bool has_offset;     /* this KVM has KVM_VCPU_TSC_OFFSET */
    uint64_t saved_tsc;  /* the reference's TSC at the saved clock's moment */
    uint64_t wanted_tsc; /* what it should be at this clock's moment */
    uint64_t offset;     /* what makes it so; meaningful with has_offset */
};

static uint32_t rate_of(const struct kvm_vcpu *vcpu, const struct stasis_x86_vcpu *saved)
{
    const int khz = saved->tsc_khz ? 0 : ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);

    return khz > 0 ? (uint32_t)khz : saved->tsc_khz;
}

static int plan_around(struct tsc_plan *plan, const struct kvm_vcpu *vcpu,
                       const struct stasis_x86_vcpu *saved, uint64_t saved_msr,
                       struct stasis_error *err)
{
    const uint64_t passed_ns = plan->clock->clock > plan->saved_clock->clock
                                   ? plan->clock->clock - plan->saved_clock->clock
                                   : 0;
    uint64_t msr, offset = 0;

    if (!kvm_msr_read_one(vcpu->fd, X86_MSR_TSC, &msr))
        return stasis_fail(err, STASIS_ERR_KVM, "KVM_GET_MSRS of vCPU %u: no IA32_TSC", vcpu->id);
    plan->reference = saved;
    plan->reference_msr = saved_msr;
    plan->khz = rate_of(vcpu, saved);
    plan->has_offset = plan->host->has_vcpu_attrs && kvm_tsc_offset_read(vcpu->fd, &offset);
    plan->saved_tsc = kvm_time_guest_tsc(plan->saved_clock, saved->has_tsc_offset,
                                         saved->tsc_offset, saved_msr, plan->khz);
    plan->wanted_tsc = plan->saved_tsc + kvm_time_cycles(passed_ns, plan->khz);
    plan->offset = offset + plan->wanted_tsc -
                   kvm_time_guest_tsc(plan->clock, plan->has_offset, offset, msr, plan->khz);
    return 0;
}

/* How far this vCPU's TSC was from the reference's. Without offsets to compare, less than a second
 * is the time between the two readings: the TSCs are taken to be in step, as the kernel does. */
static uint64_t skew(const struct tsc_plan *plan, const struct stasis_x86_vcpu *saved,
                     uint64_t saved_msr)
{
    if (plan->reference->has_tsc_offset && saved->has_tsc_offset)
        return saved->tsc_offset - plan->reference->tsc_offset;
    return tsc_is_near(saved_msr, plan->reference_msr, plan->khz) ? 0
                                                                  : saved_msr - plan->reference_msr;
}

/*
 * Kernels before 5.16 have no offset to set, only the register. They take a value within a second
 * of what the VM's TSC would be anyway as a wish to be in step, and do not write it: wanted among
 * the vCPUs, but not against the time since this VM was made. A value far away first breaks that
 * tie.
 */
static int write_tsc_by_msr(const struct tsc_plan *plan, const struct kvm_vcpu *vcpu, bool is_first,
                            uint64_t tsc, struct stasis_error *err)
{
    const uint64_t far_away = tsc + kvm_time_cycles(3600 * NS_PER_S, plan->khz);
    int r = is_first ? kvm_msr_write_one(vcpu, X86_MSR_TSC, far_away, err) : 0;

    return r < 0 ? r : kvm_msr_write_one(vcpu, X86_MSR_TSC, tsc, err);
}

static int write_tsc(const struct tsc_plan *plan, const struct kvm_vcpu *vcpu, bool is_first,
                     uint64_t skew_cycles, struct stasis_error *err)
{
    uint64_t offset = plan->offset + skew_cycles;

    if (!plan->has_offset)
        return write_tsc_by_msr(plan, vcpu, is_first, plan->wanted_tsc + skew_cycles, err);
    if (offset_ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &offset) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_VCPU_TSC_OFFSET of vCPU %u",
                                    vcpu->id);
    return 0;
}

/* Some software KVMs take a TSC and ignore it. That does no harm while the one they show is ahead
 * of the saved one; behind it, the guest's timers would stand still. */
static int check_tsc(const struct tsc_plan *plan, const struct kvm_vcpu *vcpu,
                     struct stasis_error *err)
{
    uint64_t msr;

    if (kvm_msr_read_one(vcpu->fd, X86_MSR_TSC, &msr) && (int64_t)(msr - plan->saved_tsc) < 0)
        return stasis_fail(err, STASIS_ERR_KVM,
                           "the TSC of vCPU %u would go back from %ju to %ju: this KVM does not "
                           "let it be set",
                           vcpu->id, (uintmax_t)plan->saved_tsc, (uintmax_t)msr);
    return 0;
}

static int restore_tsc(struct tsc_plan *plan, const struct kvm_vcpu *vcpu,
                       const struct stasis_x86_vcpu *saved, struct stasis_error *err)
{
    const struct stasis_x86_msr *msr = kvm_msr_find(saved->msrs, saved->msrs_count, X86_MSR_TSC);
    const bool is_first = !plan->reference;
    int r = 0;

    if (!msr) /* the machine comes from elsewhere and says nothing of its TSC */
        return 0;
    if (is_first || plan->reference->tsc_khz != saved->tsc_khz)
        r = plan_around(plan, vcpu, saved, msr->data, err);
    if (r == 0)
        r = write_tsc(plan, vcpu, is_first, skew(plan, saved, msr->data), err);
    return r == 0 && is_first ? check_tsc(plan, vcpu, err) : r;
}

int kvm_clock_restore(const struct stasis_kvm_host *host, const struct stasis_kvm_vm *vm,
                      const struct stasis_x86_machine *machine, unsigned flags,
                      struct stasis_error *err)
{
    struct stasis_x86_clock clock;
    struct tsc_plan plan = { .host = host, .saved_clock = &machine->clock, .clock = &clock };
    int r = write_clock(host, vm->vm_fd, &machine->clock, flags, err);

    if (r >= 0)
        r = read_clock(vm->vm_fd, &clock, err);
    for (size_t i = 0; i < machine->vcpus_count && r >= 0; i++) {
        const struct kvm_vcpu vcpu = kvm_vm_vcpu(vm, i);

        r = restore_tsc(&plan, &vcpu, &machine->vcpus[i], err);
    }
    return r < 0 ? r : 0;
}
