/*
 * kvm_host.c - learn once what this host's KVM offers.
 *
 * Asks /dev/kvm for its version, capabilities, supported CPUID and MSR index list, and the CPU for
 * its name. Creates nothing that stays; only where TSC rates cannot be scaled does it make a VM for
 * a moment, because KVM tells the host's rate through a vCPU alone. If a capability is misread
 * here, state is lost at every capture without a word: what is read follows from these flags.
 */
#include "hypervisor/kvm_host.h"

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "hypervisor/kvm_x86_64.h"
#include "hypervisor/kvm_x86_64_features.h"

#define MSR_LIST_MAX (STASIS_X86_MSR_MAX - KVM_MSR_EXTRA_MAX - 1024) /* leaves room for MCE banks */

struct msr_index_list { /* struct kvm_msr_list with room for its entries */
    uint32_t nmsrs;
    uint32_t indices[MSR_LIST_MAX];
};

/* What no capture can do without: KVM has had them since 2010. */
static const struct {
    long cap;
    const char *name;
} required_caps[] = {
    { KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
    { KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
    { KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS" },
    { KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK" },
};

/* 0 where the kernel does not know the capability. */
static uint32_t capability(int fd, long cap)
{
    const int value = ioctl(fd, KVM_CHECK_EXTENSION, cap);

    return value > 0 ? (uint32_t)value : 0;
}

static int check_api(int kvm_fd, struct stasis_error *err)
{
    const int version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);

    if (version < 0)
        return stasis_fail(err, STASIS_ERR_NO_KVM, "not a KVM device: %s", strerror(errno));
    if (version != KVM_API_VERSION)
        return stasis_fail(err, STASIS_ERR_NO_KVM, "KVM has API version %d, need %d", version,
                           KVM_API_VERSION);
    for (size_t i = 0; i < sizeof(required_caps) / sizeof(required_caps[0]); i++) {
        if (capability(kvm_fd, required_caps[i].cap) == 0)
            return stasis_fail(err, STASIS_ERR_NO_KVM, "KVM lacks %s", required_caps[i].name);
    }
    return 0;
}

static uint32_t or_default(uint32_t value, uint32_t fallback)
{
    return value ? value : fallback;
}

static void probe_capabilities(struct stasis_kvm_host *host, int kvm_fd)
{
    const uint32_t soft_max = or_default(capability(kvm_fd, KVM_CAP_NR_VCPUS), 4);

    host->vcpus_max = or_default(capability(kvm_fd, KVM_CAP_MAX_VCPUS), soft_max);
    host->vcpu_ids_max = or_default(capability(kvm_fd, KVM_CAP_MAX_VCPU_ID), host->vcpus_max);
    host->has_sregs2 = capability(kvm_fd, KVM_CAP_SREGS2) != 0;
    host->has_xsave = capability(kvm_fd, KVM_CAP_XSAVE) != 0;
    host->has_xsave2 = capability(kvm_fd, KVM_CAP_XSAVE2) != 0;
    host->has_xcrs = capability(kvm_fd, KVM_CAP_XCRS) != 0;
    host->has_debugregs = capability(kvm_fd, KVM_CAP_DEBUGREGS) != 0;
    host->has_mce = capability(kvm_fd, KVM_CAP_MCE) != 0;
    host->has_one_reg = capability(kvm_fd, KVM_CAP_ONE_REG) != 0;
    host->has_vcpu_attrs = capability(kvm_fd, KVM_CAP_VCPU_ATTRIBUTES) != 0;
    host->has_tsc_khz = capability(kvm_fd, KVM_CAP_GET_TSC_KHZ) != 0;
    host->has_tsc_scaling = capability(kvm_fd, KVM_CAP_TSC_CONTROL) != 0;
    host->has_tsc_deadline = capability(kvm_fd, KVM_CAP_TSC_DEADLINE_TIMER) != 0;
    host->can_mwait =
        (capability(kvm_fd, KVM_CAP_X86_DISABLE_EXITS) & KVM_X86_DISABLE_EXITS_MWAIT) != 0;
    host->clock_flags = capability(kvm_fd, KVM_CAP_ADJUST_CLOCK);
    host->nested_size = capability(kvm_fd, KVM_CAP_NESTED_STATE);
    if (host->nested_size > STASIS_X86_NESTED_MAX)
        host->nested_size = STASIS_X86_NESTED_MAX;
}

static int probe_cpuid(struct stasis_kvm_host *host, int kvm_fd, struct stasis_error *err)
{
    auto_free struct kvm_cpuid_buffer *buffer = calloc(1, sizeof(*buffer));

    if (!buffer)
        return stasis_fail_memory(err, "the supported CPUID");
    buffer->nent = KVM_CPUID_BUFFER_MAX;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, buffer) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_GET_SUPPORTED_CPUID");

    host->cpuid = calloc(buffer->nent ? buffer->nent : 1, sizeof(*host->cpuid));
    if (!host->cpuid)
        return stasis_fail_memory(err, "the supported CPUID");
    for (uint32_t i = 0; i < buffer->nent; i++)
        kvm_cpuid_from_kvm(&buffer->entries[i], &host->cpuid[i]);
    host->cpuid_count = buffer->nent;
    return 0;
}

static bool list_has(const uint32_t *indices, size_t count, uint32_t index)
{
    for (size_t i = 0; i < count; i++) {
        if (indices[i] == index)
            return true;
    }
    return false;
}

/* The kernel's list as it is, and behind it those of our extras that it does not name. */
static int set_msrs(struct stasis_kvm_host *host, const struct msr_index_list *list,
                    struct stasis_error *err)
{
    uint32_t extras[KVM_MSR_EXTRA_MAX];
    const size_t extra_count = kvm_msr_extras(host->vendor, extras);

    host->msrs = calloc(list->nmsrs + extra_count, sizeof(*host->msrs));
    if (!host->msrs)
        return stasis_fail_memory(err, "the MSR list");
    memcpy(host->msrs, list->indices, list->nmsrs * sizeof(*host->msrs));
    host->msrs_listed = list->nmsrs;
    host->msrs_count = list->nmsrs;
    for (size_t i = 0; i < extra_count; i++) {
        if (!list_has(list->indices, list->nmsrs, extras[i]))
            host->msrs[host->msrs_count++] = extras[i];
    }
    return 0;
}

static int probe_msrs(struct stasis_kvm_host *host, int kvm_fd, struct stasis_error *err)
{
    auto_free struct msr_index_list *list = calloc(1, sizeof(*list));

    if (!list)
        return stasis_fail_memory(err, "the MSR list");
    list->nmsrs = MSR_LIST_MAX;
    if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, list) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_GET_MSR_INDEX_LIST");
    return set_msrs(host, list, err);
}

/* The XSAVE components of KVM's supported CPUID; x87 and SSE go without saying. */
static uint64_t supported_xcr0(const struct stasis_kvm_host *host)
{
    const struct stasis_x86_cpuid *leaf = kvm_cpuid_find(host->cpuid, host->cpuid_count, 0xd, 0);

    return 0x3 | (leaf ? leaf->eax | (uint64_t)leaf->edx << 32 : 0);
}

/* Only feature bits add up; the rest of CPUID is numbers. */
static void cpuid_add_features(const struct kvm_cpuid_entry2 *granted,
                               struct stasis_x86_cpuid *offered)
{
    for (size_t i = 0; i < cpuid_feature_word_count; i++) {
        const struct cpuid_feature_word *word = &cpuid_feature_words[i];

        if (word->function != offered->function || word->index != offered->index)
            continue;
        switch (word->reg) {
        case CPUID_EAX: offered->eax |= granted->eax; break;
        case CPUID_EBX: offered->ebx |= granted->ebx; break;
        case CPUID_ECX: offered->ecx |= granted->ecx; break;
        case CPUID_EDX: offered->edx |= granted->edx; break;
        }
    }
}

/* Add what a vCPU is given without being asked: some software KVMs let the CPU's own features show
 * through, whatever KVM_GET_SUPPORTED_CPUID says and KVM_SET_CPUID2 asks for. */
static void add_granted_features(struct stasis_kvm_host *host,
                                 const struct kvm_cpuid_buffer *granted)
{
    for (size_t i = 0; i < host->cpuid_count; i++) {
        struct stasis_x86_cpuid *offered = &host->cpuid[i];

        for (uint32_t k = 0; k < granted->nent; k++) {
            const struct kvm_cpuid_entry2 *entry = &granted->entries[k];

            if (entry->function == offered->function && entry->index == offered->index)
                cpuid_add_features(entry, offered);
        }
    }
}

static void copy_cpu_words(char *text, size_t offset, uint32_t word)
{
    memcpy(text + offset, &word, sizeof(word));
}

static void probe_cpu_vendor(struct stasis_kvm_host *host)
{
    static const struct {
        const char *name;
        enum kvm_host_vendor vendor;
    } vendors[] = {
        { "GenuineIntel", KVM_HOST_INTEL }, { "CentaurHauls", KVM_HOST_INTEL },
        { "  Shanghai  ", KVM_HOST_INTEL }, { "AuthenticAMD", KVM_HOST_AMD },
        { "HygonGenuine", KVM_HOST_AMD },
    };
    char *vendor = host->identity.cpu_vendor;
    uint32_t eax, ebx, ecx, edx;

    if (!__get_cpuid(0, &eax, &ebx, &ecx, &edx))
        return;
    copy_cpu_words(vendor, 0, ebx);
    copy_cpu_words(vendor, 4, edx);
    copy_cpu_words(vendor, 8, ecx);
    for (size_t i = 0; i < sizeof(vendors) / sizeof(vendors[0]); i++) {
        if (strcmp(vendor, vendors[i].name) == 0)
            host->vendor = vendors[i].vendor;
    }
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx))
        host->identity.cpu_signature = eax;
}

static void probe_cpu_model(struct stasis_host *identity)
{
    char *model = identity->cpu_model;
    uint32_t eax, ebx, ecx, edx;

    for (uint32_t i = 0; i < 3; i++) {
        if (!__get_cpuid(0x80000002 + i, &eax, &ebx, &ecx, &edx))
            return;
        copy_cpu_words(model, i * 16, eax);
        copy_cpu_words(model, i * 16 + 4, ebx);
        copy_cpu_words(model, i * 16 + 8, ecx);
        copy_cpu_words(model, i * 16 + 12, edx);
    }
    /* Vendors pad with blanks at either end. */
    memmove(model, model + strspn(model, " "), strlen(model + strspn(model, " ")) + 1);
    for (size_t end = strlen(model); end > 0 && model[end - 1] == ' '; end--)
        model[end - 1] = '\0';
}

static void probe_identity(struct stasis_kvm_host *host)
{
    struct stasis_host *identity = &host->identity;
    struct utsname names;

    snprintf(identity->hypervisor, sizeof(identity->hypervisor), "kvm");
    if (uname(&names) == 0)
        snprintf(identity->kernel_release, sizeof(identity->kernel_release), "%s", names.release);
    probe_cpu_vendor(host);
    probe_cpu_model(identity);
}

static int probe_device(struct stasis_kvm_host *host, int kvm_fd, struct stasis_error *err)
{
    int r = check_api(kvm_fd, err);

    if (r < 0)
        return r;
    probe_identity(host);
    probe_capabilities(host, kvm_fd);
    r = probe_cpuid(host, kvm_fd, err);
    if (r == 0)
        r = probe_msrs(host, kvm_fd, err);
    host->xcr0 = supported_xcr0(host);
    return r;
}

int stasis_kvm_host_probe_device(int kvm_fd, struct stasis_kvm_host **ret_host,
                                 struct stasis_error *err)
{
    struct stasis_kvm_host *host = calloc(1, sizeof(*host));
    int r;

    if (!host)
        return stasis_fail_memory(err, "the KVM host");
    r = probe_device(host, kvm_fd, err);
    if (r < 0) {
        stasis_kvm_host_free(host);
        return r;
    }
    *ret_host = host;
    return 0;
}

/* Where KVM does not play along there is just less known. */
int stasis_kvm_host_probe_vcpu(struct stasis_kvm_host *host, int vcpu_fd, struct stasis_error *err)
{
    auto_free struct kvm_cpuid_buffer *buffer = NULL;
    int khz;

    /* Hardware of the last ten years scales, and spares itself this. */
    if (host->has_tsc_scaling)
        return 0;
    khz = ioctl(vcpu_fd, KVM_GET_TSC_KHZ, 0); /* a new vCPU's is the host's */
    if (khz > 0) {
        host->tsc_khz = (uint32_t)khz;
        host->identity.tsc_khz = host->tsc_khz;
    }
    buffer = calloc(1, sizeof(*buffer));
    if (!buffer)
        return stasis_fail_memory(err, "the supported CPUID");
    buffer->nent = (uint32_t)host->cpuid_count;
    for (size_t i = 0; i < host->cpuid_count; i++)
        kvm_cpuid_to_kvm(&host->cpuid[i], &buffer->entries[i]);
    if (ioctl(vcpu_fd, KVM_SET_CPUID2, buffer) == 0 && ioctl(vcpu_fd, KVM_GET_CPUID2, buffer) == 0)
        add_granted_features(host, buffer);
    host->xcr0 = supported_xcr0(host);
    return 0;
}

int stasis_kvm_host_probe(int kvm_fd, struct stasis_kvm_host **ret_host, struct stasis_error *err)
{
    struct stasis_kvm_host *host;
    auto_fd vm_fd = -1;
    auto_fd vcpu_fd = -1;
    int r = stasis_kvm_host_probe_device(kvm_fd, &host, err);

    if (r < 0)
        return r;
    if (!host->has_tsc_scaling) {
        vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
        vcpu_fd = vm_fd >= 0 ? ioctl(vm_fd, KVM_CREATE_VCPU, 0) : -1;
        if (vcpu_fd >= 0)
            r = stasis_kvm_host_probe_vcpu(host, vcpu_fd, err);
    }
    if (r < 0) {
        stasis_kvm_host_free(host);
        return r;
    }
    *ret_host = host;
    return 0;
}

void stasis_kvm_host_free(struct stasis_kvm_host *host)
{
    if (!host)
        return;
    free(host->cpuid);
    free(host->msrs);
    free(host);
}

const struct stasis_x86_cpuid *kvm_cpuid_find(const struct stasis_x86_cpuid *entries, size_t count,
                                              uint32_t function, uint32_t index)
{
    for (size_t i = 0; i < count; i++) {
        const bool indexed = entries[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

        if (entries[i].function == function && (!indexed || entries[i].index == index))
            return &entries[i];
    }
    return NULL;
}
