/*
 * vm_host.c - opens /dev/kvm and reads what a VM's construction needs to know of the host.
 *
 * Everything here is asked once, before any VM exists, so that building or restoring a VM makes no
 * query of its own. Without a usable KVM this is where the user is told, so the sentences matter.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "microvm/vm_host.h"

#define CPUID_ENTRY_MAX 1024u

void vm_host_init(struct vm_host *host)
{
    *host = (struct vm_host){ .kvm_fd = -1 };
}

void vm_host_release(struct vm_host *host)
{
    stasis_kvm_host_free(host->stasis);
    fd_close(&host->kvm_fd);
    vm_host_init(host);
}

/* KVM_CHECK_EXTENSION gives 0 for what it does not know; then the older question's answer counts.
 * */
static uint32_t read_vcpu_max(int kvm_fd)
{
    int count = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);

    if (count <= 0)
        count = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS);
    return count > 0 ? (uint32_t)count : 1;
}

static int open_kvm(int *ret_fd, struct stasis_error *err)
{
    auto_fd fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int version;

    if (fd < 0)
        return stasis_fail(err, STASIS_ERR_NO_KVM, "open /dev/kvm: %s", strerror(errno));
    version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION)
        return stasis_fail(err, STASIS_ERR_NO_KVM, "/dev/kvm has API version %d, not %d", version,
                           KVM_API_VERSION);
    *ret_fd = fd_steal(&fd);
    return 0;
}

int vm_host_open(struct vm_host *host, struct stasis_error *err)
{
    auto_fd kvm_fd = -1;
    int run_size;
    int r;

    if (host->kvm_fd >= 0)
        return 0;
    r = open_kvm(&kvm_fd, err);
    if (r < 0)
        return r;
    run_size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_size < (int)sizeof(struct kvm_run))
        return stasis_fail(err, STASIS_ERR_KVM, "KVM_GET_VCPU_MMAP_SIZE says %d bytes", run_size);

    host->run_size = (size_t)run_size;
    host->vcpu_max = read_vcpu_max(kvm_fd);
    host->has_tsc_deadline = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    host->kvm_fd = fd_steal(&kvm_fd);
    return 0;
}

int vm_host_probe(struct vm_host *host, struct stasis_error *err)
{
    return host->stasis ? 0 : stasis_kvm_host_probe_device(host->kvm_fd, &host->stasis, err);
}

/* The kernel says E2BIG until the buffer is large enough; it never says how large that is. */
int vm_host_read_cpuid(const struct vm_host *host, struct kvm_cpuid2 **ret_cpuid,
                       struct stasis_error *err)
{
    for (uint32_t count = 128; count <= CPUID_ENTRY_MAX; count *= 2) {
        auto_free struct kvm_cpuid2 *cpuid =
            calloc(1, sizeof(*cpuid) + count * sizeof(cpuid->entries[0]));

        if (!cpuid)
            return stasis_fail_memory(err, "CPUID table");
        cpuid->nent = count;
        if (ioctl(host->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) == 0) {
            *ret_cpuid = take_ptr(cpuid);
            return 0;
        }
        if (errno != E2BIG)
            return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_GET_SUPPORTED_CPUID");
    }
    return stasis_fail(err, STASIS_ERR_KVM, "KVM_GET_SUPPORTED_CPUID has more than %u entries",
                       CPUID_ENTRY_MAX);
}
