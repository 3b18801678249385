/* kvm.h - KVM file descriptors <-> machine state, for any VMM.
 *
 * The VMM owns the VM: it opens /dev/kvm, creates VM, interrupt controllers, vCPUs and memory slots.
 * These calls read and write the state behind its file descriptors and know nothing else of it.
 *
 * Threads: no vCPU of the VM may be inside KVM_RUN during capture and restore; any one thread may
 * make the call. A stasis_kvm_host is constant once probed and may be shared by threads.
 *
 * Rules come from Documentation/virt/kvm/api.rst and, for the TSC, devices/vcpu.rst section 4.1. */
#ifndef STASIS_KVM_H
#define STASIS_KVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/api.h>
#include <stasis/error.h>
#include <stasis/machine.h>

#ifdef __cplusplus
extern "C" {
#endif

struct stasis_kvm_host; /* what this host's KVM offers; see stasis_kvm_host_probe() */

/**
 * Learn what the host's KVM offers (capabilities, supported CPUID, MSR index list). Do it once per
 * process and keep it: capture and restore then make no query of their own.
 *
 * @param kvm_fd  open /dev/kvm, stays the caller's
 * @return 0; -ENODEV STASIS_ERR_NO_KVM not a KVM of API version 12, or one that lacks something
 *         Stasis cannot do without (text names it); -EIO STASIS_ERR_KVM; -ENOMEM
 */
STASIS_API int stasis_kvm_host_probe(int kvm_fd, struct stasis_kvm_host **ret_host,
                                     struct stasis_error *err);

/**
 * The same in two steps, for a VMM that wants to restore at once: the first asks /dev/kvm only; the
 * second learns from a fresh vCPU of the VMM's own what /dev/kvm does not tell (the TSC rate, CPUID that
 * KVM grants unasked), where stasis_kvm_host_probe() would make a VM of its own and drop it. Capture
 * needs the first, stasis_kvm_check_host() both. The vCPU must not have run, and its CPUID is to be
 * set again afterwards (stasis_kvm_restore() does). One thread at a time.
 *
 * @return as stasis_kvm_host_probe(); the second fails with -ENOMEM only
 */
STASIS_API int stasis_kvm_host_probe_device(int kvm_fd, struct stasis_kvm_host **ret_host,
                                            struct stasis_error *err);
STASIS_API int stasis_kvm_host_probe_vcpu(struct stasis_kvm_host *host, int vcpu_fd,
                                          struct stasis_error *err);

STASIS_API void stasis_kvm_host_free(struct stasis_kvm_host *host);

/* A VM as its VMM holds it; nothing in here is closed or kept. */
struct stasis_kvm_vm {
    int vm_fd;
    const int *vcpu_fds;      /* in vCPU order */
    const uint32_t *vcpu_ids; /* as given to KVM_CREATE_VCPU; NULL: 0, 1, 2, ... */
    size_t vcpu_count;
    bool has_irqchip; /* KVM_CREATE_IRQCHIP was done: PICs, IOAPIC and LAPICs are in the kernel */
    bool has_lapic;   /* in-kernel LAPICs; also with KVM_CAP_SPLIT_IRQCHIP, without has_irqchip */
    bool has_pit;     /* KVM_CREATE_PIT2 was done */
};

/**
 * Read the state of a stopped VM: all of D9 in doc/design.md. Devices of the VMM are its own to add
 * (stasis_machine_add_device()), and what it enabled by KVM_ENABLE_CAP its own to enable again.
 *
 * An instruction that left KVM_RUN half-done (KVM_EXIT_IO, KVM_EXIT_MMIO, ...) is completed by the
 * next KVM_RUN: enter each vCPU once more with immediate_exit set before the capture.
 *
 * @param ret_machine  zero-initialised by the caller; on success owns what was read, to be freed
 *                     with stasis_machine_release(); untouched on failure
 * @return 0; -EINVAL; -EIO STASIS_ERR_KVM, text names the ioctl and the vCPU; -ENOMEM
 */
STASIS_API int stasis_kvm_capture(const struct stasis_kvm_host *host,
                                  const struct stasis_kvm_vm *vm,
                                  struct stasis_machine *ret_machine, struct stasis_error *err);

/**
 * Can this host run the machine? Checks vCPU count, every CPUID feature bit that the guest was
 * shown, XCR0, that each saved MSR exists, and the TSC rate (same within 250 ppm, or scalable).
 *
 * @return 0; -ENOTSUP STASIS_ERR_HOST_INCOMPATIBLE, the text lists what is missing by its name
 *         ("avx512f, MSR 0xda0, TSC 2600000 kHz"), as many as fit; -EINVAL STASIS_ERR_TOO_MANY_VCPUS;
 *         -EINVAL the machine is not x86-64
 */
STASIS_API int stasis_kvm_check_host(const struct stasis_kvm_host *host,
                                     const struct stasis_machine *machine,
                                     struct stasis_error *err);

/* Guest clocks go on from the capture, as if no time had passed; without it kvmclock and TSC advance
 * by the wall time since. */
#define STASIS_KVM_CLOCK_STOPPED 0x1u

/**
 * Write a machine's state into a fresh VM with the same vCPUs and in-kernel devices, in the order of
 * D9. The caller has checked the host (stasis_kvm_check_host) and set the memory slots: some registers
 * make KVM look into guest memory. On failure the VM is half-written and must not run.
 *
 * @param flags  0 or STASIS_KVM_CLOCK_STOPPED
 * @return 0; -EINVAL the VM does not fit the machine (vCPU count or ids, interrupt controllers); -EIO
 *         STASIS_ERR_KVM, text names the ioctl, the vCPU and, for MSRs, the register; -ENOMEM
 */
STASIS_API int stasis_kvm_restore(const struct stasis_kvm_host *host,
                                  const struct stasis_kvm_vm *vm,
                                  const struct stasis_machine *machine, unsigned flags,
                                  struct stasis_error *err);

#ifdef __cplusplus
}
#endif
#endif
