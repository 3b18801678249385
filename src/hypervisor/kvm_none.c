/*
 * kvm_none.c - the KVM calls on a host whose architecture Stasis has no capture for.
 *
 * A library built there still reads, verifies and compares snapshots; only these calls refuse.
 */
#include <stasis/kvm.h>

#include "base/error.h"

static int refuse(struct stasis_error *err)
{
    return stasis_fail(err, STASIS_ERR_UNSUPPORTED, "KVM state of this host's architecture");
}

int stasis_kvm_host_probe(int kvm_fd, struct stasis_kvm_host **ret_host, struct stasis_error *err)
{
    (void)kvm_fd;
    (void)ret_host;
    return refuse(err);
}

int stasis_kvm_host_probe_device(int kvm_fd, struct stasis_kvm_host **ret_host,
                                 struct stasis_error *err)
{
    return stasis_kvm_host_probe(kvm_fd, ret_host, err);
}

int stasis_kvm_host_probe_vcpu(struct stasis_kvm_host *host, int vcpu_fd, struct stasis_error *err)
{
    (void)host;
    (void)vcpu_fd;
    return refuse(err);
}

void stasis_kvm_host_free(struct stasis_kvm_host *host)
{
    (void)host;
}

int stasis_kvm_capture(const struct stasis_kvm_host *host, const struct stasis_kvm_vm *vm,
                       struct stasis_machine *ret_machine, struct stasis_error *err)
{
    (void)host;
    (void)vm;
    (void)ret_machine;
    return refuse(err);
}

int stasis_kvm_check_host(const struct stasis_kvm_host *host, const struct stasis_machine *machine,
                          struct stasis_error *err)
{
    (void)host;
    (void)machine;
    return refuse(err);
}

int stasis_kvm_restore(const struct stasis_kvm_host *host, const struct stasis_kvm_vm *vm,
                       const struct stasis_machine *machine, unsigned flags,
                       struct stasis_error *err)
{
    (void)host;
    (void)vm;
    (void)machine;
    (void)flags;
    return refuse(err);
}
