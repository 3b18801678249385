/* kvm_x86_64.h - the pieces that capture, restore and the host check are made of.
 *
 *     convert   one kernel struct <-> one struct of ours, no system call
 *     msr       reading and writing model-specific registers in batches; which ones
 *     time      the guest's clocks across the gap between capture and restore
 *
 * KVM's own structs stay inside this room: callers see those of <stasis/x86_64.h>. */
#ifndef STASIS_HYPERVISOR_KVM_X86_64_H
#define STASIS_HYPERVISOR_KVM_X86_64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <stasis/error.h>
#include <stasis/kvm.h>
#include <stasis/x86_64.h>

#include "hypervisor/kvm_host.h"

/* One vCPU of a VM: its descriptor, and the number by which messages call it. */
struct kvm_vcpu {
    int fd;
    uint32_t id;
};

/* An ioctl that must work: its value, or STASIS_ERR_KVM that names it and the vCPU. */
int kvm_vcpu_ioctl(const struct kvm_vcpu *vcpu, unsigned long request, const char *request_name,
                   void *arg, struct stasis_error *err);
#define KVM_VCPU_IOCTL(vcpu, request, arg, err)                                                    \
    kvm_vcpu_ioctl((vcpu), (request), #request, (arg), (err))

/* The same on the VM's descriptor. */
int kvm_vm_ioctl(int vm_fd, unsigned long request, const char *request_name, void *arg,
                 struct stasis_error *err);
#define KVM_VM_IOCTL(vm_fd, request, arg, err)                                                     \
    kvm_vm_ioctl((vm_fd), (request), #request, (arg), (err))

/* The vCPU at `index`, with the id that the VMM gave it. */
struct kvm_vcpu kvm_vm_vcpu(const struct stasis_kvm_vm *vm, size_t index);

/* Descriptors there, 1..STASIS_X86_VCPU_MAX of them. STASIS_ERR_INVALID_ARGUMENT. */
int kvm_vm_check(const struct stasis_kvm_vm *vm, struct stasis_error *err);

/* Bytes that KVM_GET_XSAVE2 writes and KVM_SET_XSAVE reads for this VM, never less than 4096. Asked
 * of the VM each time: it grows when the VMM enables a dynamic feature after the host was probed,
 * and the kernel does not look at the size of our buffer. */
size_t kvm_xsave_size(const struct stasis_kvm_host *host, int vm_fd);

/* No nested state to lose: nothing, or that of a guest outside VMX or SVM operation. */
bool kvm_nested_is_idle(const struct stasis_x86_vcpu *vcpu);

/* convert: `to_kvm` fills every byte of the kernel's struct, reserved ones with zero. */
void kvm_regs_from_kvm(const struct kvm_regs *kvm, struct stasis_x86_regs *ret_regs);
void kvm_regs_to_kvm(const struct stasis_x86_regs *regs, struct kvm_regs *ret_kvm);
void kvm_sregs2_from_kvm(const struct kvm_sregs2 *kvm, struct stasis_x86_sregs *ret_sregs);
void kvm_sregs2_to_kvm(const struct stasis_x86_sregs *sregs, struct kvm_sregs2 *ret_kvm);
void kvm_sregs_from_kvm(const struct kvm_sregs *kvm, struct stasis_x86_sregs *ret_sregs);
void kvm_sregs_to_kvm(const struct stasis_x86_sregs *sregs, struct kvm_sregs *ret_kvm);
/* Only the interrupt bitmap, which kvm_sregs2 has not. */
void kvm_interrupt_bitmap_from_kvm(const struct kvm_sregs *kvm, struct stasis_x86_sregs *ret_sregs);
void kvm_events_from_kvm(const struct kvm_vcpu_events *kvm, struct stasis_x86_events *ret_events);
void kvm_events_to_kvm(const struct stasis_x86_events *events, struct kvm_vcpu_events *ret_kvm);
void kvm_debugregs_from_kvm(const struct kvm_debugregs *kvm, struct stasis_x86_debugregs *ret_regs);
void kvm_debugregs_to_kvm(const struct stasis_x86_debugregs *regs, struct kvm_debugregs *ret_kvm);
void kvm_pic_from_kvm(const struct kvm_pic_state *kvm, struct stasis_x86_pic *ret_pic);
void kvm_pic_to_kvm(const struct stasis_x86_pic *pic, struct kvm_pic_state *ret_kvm);
void kvm_ioapic_from_kvm(const struct kvm_ioapic_state *kvm, struct stasis_x86_ioapic *ret_ioapic);
void kvm_ioapic_to_kvm(const struct stasis_x86_ioapic *ioapic, struct kvm_ioapic_state *ret_kvm);
void kvm_pit_from_kvm(const struct kvm_pit_state2 *kvm, struct stasis_x86_pit *ret_pit);
void kvm_pit_to_kvm(const struct stasis_x86_pit *pit, struct kvm_pit_state2 *ret_kvm);
void kvm_cpuid_from_kvm(const struct kvm_cpuid_entry2 *kvm, struct stasis_x86_cpuid *ret_entry);
void kvm_cpuid_to_kvm(const struct stasis_x86_cpuid *entry, struct kvm_cpuid_entry2 *ret_kvm);
/* x87 and SSE registers as the first 576 bytes of an XSAVE area, for KVM without KVM_CAP_XSAVE. */
#define KVM_XSAVE_LEGACY_SIZE 576
void kvm_fpu_to_xsave(const struct kvm_fpu *kvm, uint8_t ret_xsave[KVM_XSAVE_LEGACY_SIZE]);
void kvm_fpu_from_xsave(const uint8_t xsave[KVM_XSAVE_LEGACY_SIZE], struct kvm_fpu *ret_kvm);

/* CPUID, as KVM's ioctls want it. */
#define KVM_CPUID_BUFFER_MAX STASIS_X86_CPUID_MAX
struct kvm_cpuid_buffer { /* struct kvm_cpuid2 with room for its entries */
    uint32_t nent;
    uint32_t padding;
    struct kvm_cpuid_entry2 entries[KVM_CPUID_BUFFER_MAX];
};

/* msr */
enum {
    X86_MSR_TSC = 0x10,
    X86_MSR_WALL_CLOCK = 0x11,
    X86_MSR_MCG_CAP = 0x179,
    X86_MSR_MC0_CTL2 = 0x280,
    X86_MSR_MC0_CTL = 0x400,
    X86_MSR_TSC_DEADLINE = 0x6e0,
    X86_MSR_HV_STIMER0_CONFIG = 0x400000b0,
    X86_MSR_HV_STIMER3_COUNT = 0x400000b7,
    X86_MSR_WALL_CLOCK_NEW = 0x4b564d00,
    X86_MSR_GUEST_SSP = 0x4b564dff, /* no MSR: the shadow stack pointer, by KVM_GET_ONE_REG */
};

/* Registers that KVM keeps without listing them, to be tried on a host of this vendor. Returns how
 * many; `ret_indices` holds at least KVM_MSR_EXTRA_MAX, or is NULL to count. */
#define KVM_MSR_EXTRA_MAX 128
size_t kvm_msr_extras(enum kvm_host_vendor vendor, uint32_t *ret_indices);

/* Would a capture on this host read this register, given a CPU that has it? */
bool kvm_msr_known(const struct stasis_kvm_host *host, uint32_t index);

/* Every register that reads, in the order of host->msrs, machine check banks behind. */
int kvm_msrs_read(const struct stasis_kvm_host *host, const struct kvm_vcpu *vcpu,
                  const struct stasis_x86_cpuid *cpuid, size_t cpuid_count,
                  struct stasis_x86_msr **ret_msrs, size_t *ret_count, struct stasis_error *err);

/* Write all but IA32_TSC and those that act on the clock: see kvm_msrs_write_late(). */
int kvm_msrs_write(const struct stasis_kvm_host *host, const struct kvm_vcpu *vcpu,
                   const struct stasis_x86_msr *msrs, size_t count, struct stasis_error *err);

/* Write those whose meaning hangs on kvmclock or the TSC, both of which must be set by now: wall
 * clocks, Hyper-V timers, and IA32_TSC_DEADLINE as the very last. */
int kvm_msrs_write_late(const struct kvm_vcpu *vcpu, const struct stasis_x86_msr *msrs,
                        size_t count, struct stasis_error *err);

/* One register. Reading: false when KVM refuses. */
bool kvm_msr_read_one(int vcpu_fd, uint32_t index, uint64_t *ret_data);
int kvm_msr_write_one(const struct kvm_vcpu *vcpu, uint32_t index, uint64_t data,
                      struct stasis_error *err);

const struct stasis_x86_msr *kvm_msr_find(const struct stasis_x86_msr *msrs, size_t count,
                                          uint32_t index);

/* time */
#define KVM_TIME_ELAPSED_MAX_NS (UINT64_C(20) * 365 * 24 * 3600 * 1000000000)

/* CLOCK_REALTIME, ns since the epoch. */
uint64_t kvm_time_realtime(void);

/* Wall time from `then_ns` to `now_ns`. 0 when that cannot be told: `then_ns` unknown (0) or later
 * than now (the clock was set back), or more than 20 years ago (one of the clocks is wrong). */
uint64_t kvm_time_elapsed(uint64_t then_ns, uint64_t now_ns);

/* TSC cycles in `ns` at `khz`, saturating. */
uint64_t kvm_time_cycles(uint64_t ns, uint32_t khz);

/* A vCPU's TSC at the moment of `clock`, as near as can be told from its offset and from IA32_TSC
 * as it was read a little later. */
uint64_t kvm_time_guest_tsc(const struct stasis_x86_clock *clock, bool has_offset, uint64_t offset,
                            uint64_t msr_tsc, uint32_t khz);

int kvm_clock_capture(int vm_fd, struct stasis_x86_clock *ret_clock, struct stasis_error *err);

/* kvmclock, then the TSC of every vCPU so that both have advanced by the same time. */
int kvm_clock_restore(const struct stasis_kvm_host *host, const struct stasis_kvm_vm *vm,
                      const struct stasis_x86_machine *machine, unsigned flags,
                      struct stasis_error *err);

/* KVM_VCPU_TSC_OFFSET; false where the kernel has none. */
bool kvm_tsc_offset_read(int vcpu_fd, uint64_t *ret_offset);

#endif
