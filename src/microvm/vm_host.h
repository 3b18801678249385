/* vm_host.h - the host's KVM: opened once per microvm and asked once for what does not change.
 *
 * Two steps, since a restore waits for both: opening takes microseconds and is all that building a
 * VM needs; probing (what capture and restore need) takes a millisecond and can go on beside the
 * building. */
#ifndef STASIS_MICROVM_VM_HOST_H
#define STASIS_MICROVM_VM_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <stasis/error.h>
#include <stasis/kvm.h>

struct vm_host {
    int kvm_fd;        /* /dev/kvm, -1 when not open */
    size_t run_size;   /* bytes of a vCPU's shared kvm_run page(s) */
    uint32_t vcpu_max; /* vCPUs that KVM accepts in one VM */
    bool has_tsc_deadline;
    struct stasis_kvm_host *stasis; /* NULL before vm_host_probe() */
};

void vm_host_init(struct vm_host *host);
void vm_host_release(struct vm_host *host);
/* Each does nothing the second time. STASIS_ERR_NO_KVM, STASIS_ERR_KVM. */
int vm_host_open(struct vm_host *host, struct stasis_error *err);
int vm_host_probe(struct vm_host *host, struct stasis_error *err);

/* KVM_GET_SUPPORTED_CPUID; malloc'ed. */
int vm_host_read_cpuid(const struct vm_host *host, struct kvm_cpuid2 **ret_cpuid,
                       struct stasis_error *err);

#endif
