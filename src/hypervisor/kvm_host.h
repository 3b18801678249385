/* kvm_host.h - what one host's KVM offers, as probed once; shared within the hypervisor room.
 *
 * Read-only after stasis_kvm_host_probe(). Nothing in here is a descriptor: a host outlives the
 * /dev/kvm that it was probed through. */
#ifndef STASIS_HYPERVISOR_KVM_HOST_H
#define STASIS_HYPERVISOR_KVM_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/kvm.h>
#include <stasis/machine.h>

enum kvm_host_vendor { KVM_HOST_OTHER = 0, KVM_HOST_INTEL, KVM_HOST_AMD };

struct stasis_kvm_host {
    struct stasis_host identity; /* goes into every machine captured here */
    enum kvm_host_vendor vendor;
    uint32_t vcpus_max;    /* vCPUs of one VM */
    uint32_t vcpu_ids_max; /* vCPU ids are below this */
    bool has_sregs2;       /* KVM_CAP_SREGS2 */
    bool has_xsave;        /* KVM_CAP_XSAVE */
    bool has_xsave2;       /* KVM_CAP_XSAVE2; the size is asked of each VM, see kvm_xsave_size() */
    bool has_xcrs;         /* KVM_CAP_XCRS */
    bool has_debugregs;    /* KVM_CAP_DEBUGREGS */
    bool has_mce;          /* KVM_CAP_MCE */
    bool has_one_reg;      /* KVM_CAP_ONE_REG */
    bool has_vcpu_attrs;   /* KVM_CAP_VCPU_ATTRIBUTES */
    bool has_tsc_khz;      /* KVM_CAP_GET_TSC_KHZ */
    bool has_tsc_scaling;  /* KVM_CAP_TSC_CONTROL: a guest's TSC may run at another rate */
    bool has_tsc_deadline; /* KVM_CAP_TSC_DEADLINE_TIMER */
    bool can_mwait;        /* KVM_CAP_X86_DISABLE_EXITS offers MWAIT */
    uint32_t clock_flags;  /* KVM_CLOCK_* that KVM_SET_CLOCK and KVM_GET_CLOCK know */
    uint32_t nested_size;  /* bytes KVM_GET_NESTED_STATE may need; 0: no such state */
    uint32_t tsc_khz;      /* of the host; 0: not asked, because any rate can be had by scaling */
    uint64_t xcr0;         /* XSAVE components that a guest may have */
    struct stasis_x86_cpuid *cpuid; /* KVM_GET_SUPPORTED_CPUID */
    size_t cpuid_count;
    uint32_t *msrs; /* KVM_GET_MSR_INDEX_LIST in its order, then the extras of kvm_x86_64_msr.c */
    size_t msrs_count;
    size_t msrs_listed; /* how many of them are the kernel's own list */
};

/* The supported CPUID entry, or NULL. `index` is compared only where the leaf has several. */
const struct stasis_x86_cpuid *kvm_cpuid_find(const struct stasis_x86_cpuid *entries, size_t count,
                                              uint32_t function, uint32_t index);

#endif
