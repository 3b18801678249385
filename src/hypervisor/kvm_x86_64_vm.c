/*
 * kvm_x86_64_vm.c - the descriptors of a VMM's VM, and ioctls on them that say what failed.
 *
 * Nothing here is opened, kept or closed. KVM does not look at the size of the buffers it fills, so
 * a size answered wrongly here is memory overwritten.
 */
#include "hypervisor/kvm_x86_64.h"

#include <string.h>
#include <sys/ioctl.h>

#include "base/error.h"

int kvm_vcpu_ioctl(const struct kvm_vcpu *vcpu, unsigned long request, const char *request_name,
                   void *arg, struct stasis_error *err)
{
    const int r = ioctl(vcpu->fd, request, arg);

    if (r < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "%s of vCPU %u", request_name, vcpu->id);
    return r;
}

int kvm_vm_ioctl(int vm_fd, unsigned long request, const char *request_name, void *arg,
                 struct stasis_error *err)
{
    const int r = ioctl(vm_fd, request, arg);

    return r < 0 ? stasis_fail_errno_as(err, STASIS_ERR_KVM, "%s", request_name) : r;
}

struct kvm_vcpu kvm_vm_vcpu(const struct stasis_kvm_vm *vm, size_t index)
{
    return (struct kvm_vcpu){ .fd = vm->vcpu_fds[index],
                              .id = vm->vcpu_ids ? vm->vcpu_ids[index] : (uint32_t)index };
}

int kvm_vm_check(const struct stasis_kvm_vm *vm, struct stasis_error *err)
{
    if (vm->vcpu_count == 0 || !vm->vcpu_fds)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the VM has no vCPUs");
    if (vm->vcpu_count > STASIS_X86_VCPU_MAX)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the VM has %zu vCPUs, at most %d",
                           vm->vcpu_count, STASIS_X86_VCPU_MAX);
    return 0;
}

size_t kvm_xsave_size(const struct stasis_kvm_host *host, int vm_fd)
{
    const int size = host->has_xsave2 ? ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2) : 0;

    return size > (int)sizeof(struct kvm_xsave) ? (size_t)size : sizeof(struct kvm_xsave);
}

bool kvm_nested_is_idle(const struct stasis_x86_vcpu *vcpu)
{
    struct kvm_nested_state state;

    if (vcpu->nested_size < sizeof(state))
        return vcpu->nested_size == 0;
    memcpy(&state, vcpu->nested, sizeof(state));
    if (state.format == KVM_STATE_NESTED_FORMAT_SVM)
        return state.flags == KVM_STATE_NESTED_GIF_SET;
    return state.flags == 0 && state.hdr.vmx.vmxon_pa == UINT64_MAX;
}
