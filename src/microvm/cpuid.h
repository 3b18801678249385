/* cpuid.h - what each vCPU of a fresh VM says of itself in CPUID.
 *
 * The base is what KVM supports on this host; topology is ours: one socket, one core per vCPU, one
 * thread per core, the APIC id is the vCPU's index. */
#ifndef STASIS_MICROVM_CPUID_H
#define STASIS_MICROVM_CPUID_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <stasis/error.h>

struct cpuid_config {
    uint32_t vcpu_count;   /* 1..MICROVM_VCPU_MAX */
    uint32_t vcpu_index;   /* and APIC id */
    bool has_tsc_deadline; /* KVM_CAP_TSC_DEADLINE_TIMER: CPUID does not tell */
};

/* A vCPU's table made from `supported`; malloc'ed. */
int cpuid_for_vcpu(const struct kvm_cpuid2 *supported, const struct cpuid_config *config,
                   struct kvm_cpuid2 **ret_cpuid, struct stasis_error *err);

#endif
