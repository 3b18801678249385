/*
 * cpuid.c - the CPUID table of a vCPU: KVM's own, with topology put in.
 *
 * KVM_GET_SUPPORTED_CPUID answers for the host CPU it happened to run on: APIC ids and core counts
 * in it are the host's, and leaves 0xB and 0x1F come empty (Documentation/virt/kvm/x86/errata.rst).
 * A guest that reads another CPU's APIC id in its own leaf does not find its LAPIC, so every leaf
 * that tells of topology is written anew:
 *
 *     1                logical CPUs, initial APIC id, HTT; hypervisor and TSC-deadline bits
 *     4                caches (Intel): L3 shared by all, the others private; cores in the package
 *     0xB, 0x1F        thread level of one, core level of all, x2APIC id
 *     0x80000008       core count and the width of core ids (AMD)
 *     0x8000001D, 1E   caches and ids (AMD)
 *
 * Everything else, the KVM signature leaves too, stays as KVM gave it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "microvm/cpuid.h"

#define LEAF1_ECX_TSC_DEADLINE (UINT32_C(1) << 24)
#define LEAF1_ECX_HYPERVISOR (UINT32_C(1) << 31)
#define LEAF1_EDX_HTT (UINT32_C(1) << 28)
#define LEAF80000001_ECX_CMP_LEGACY (UINT32_C(1) << 1)

#define TOPOLOGY_SUBLEAVES 3u /* threads, cores, end of list */
#define TOPOLOGY_THREADS 1u
#define TOPOLOGY_CORES 2u

/* Bits that hold ids 0..count-1. */
static uint32_t id_width(uint32_t count)
{
    uint32_t width = 0;

    while ((UINT32_C(1) << width) < count)
        width++;
    return width;
}

static uint32_t with_bits(uint32_t value, unsigned low, unsigned width, uint32_t bits)
{
    const uint32_t mask = ((UINT32_C(1) << width) - 1) << low;

    return (value & ~mask) | ((bits << low) & mask);
}

static void set_basic_topology(struct kvm_cpuid_entry2 *entry, const struct cpuid_config *config)
{
    const uint32_t id_count = UINT32_C(1) << id_width(config->vcpu_count);

    entry->ebx = with_bits(entry->ebx, 24, 8, config->vcpu_index);
    entry->ebx = with_bits(entry->ebx, 16, 8, id_count);
    entry->ecx |= LEAF1_ECX_HYPERVISOR;
    entry->ecx &= ~LEAF1_ECX_TSC_DEADLINE;
    if (config->has_tsc_deadline)
        entry->ecx |= LEAF1_ECX_TSC_DEADLINE;
    entry->edx &= ~LEAF1_EDX_HTT;
    if (config->vcpu_count > 1)
        entry->edx |= LEAF1_EDX_HTT;
}

/* EAX: cache type in 4:0, level in 7:5, sharing ids - 1 in 25:14; Intel has cores - 1 in 31:26. */
static void set_cache_sharing(struct kvm_cpuid_entry2 *entry, const struct cpuid_config *config)
{
    const uint32_t level = (entry->eax >> 5) & 7;
    const uint32_t id_count = UINT32_C(1) << id_width(config->vcpu_count);

    if ((entry->eax & 0x1f) == 0)
        return; /* no more caches */
    entry->eax = with_bits(entry->eax, 14, 12, level >= 3 ? id_count - 1 : 0);
    if (entry->function == 4)
        entry->eax = with_bits(entry->eax, 26, 6, id_count - 1);
}

static void set_amd_core_count(struct kvm_cpuid_entry2 *entry, const struct cpuid_config *config)
{
    entry->ecx = with_bits(entry->ecx, 0, 8, config->vcpu_count - 1);
    entry->ecx = with_bits(entry->ecx, 12, 4, id_width(config->vcpu_count));
}

static void set_amd_ids(struct kvm_cpuid_entry2 *entry, const struct cpuid_config *config)
{
    entry->eax = config->vcpu_index;
    entry->ebx = config->vcpu_index; /* core id; one thread per core */
    entry->ecx = 0;                  /* node 0 of one */
    entry->edx = 0;
}

static void set_cmp_legacy(struct kvm_cpuid_entry2 *entry, const struct cpuid_config *config)
{
    entry->ecx &= ~LEAF80000001_ECX_CMP_LEGACY;
    if (config->vcpu_count > 1)
        entry->ecx |= LEAF80000001_ECX_CMP_LEGACY;
}

static void set_topology(struct kvm_cpuid_entry2 *entry, const struct cpuid_config *config,
                         bool is_amd)
{
    switch (entry->function) {
    case 1: set_basic_topology(entry, config); break;
    case 4: set_cache_sharing(entry, config); break;
    case 0x80000001:
        if (is_amd)
            set_cmp_legacy(entry, config);
        break;
    case 0x80000008:
        if (is_amd)
            set_amd_core_count(entry, config);
        break;
    case 0x8000001d: set_cache_sharing(entry, config); break;
    case 0x8000001e: set_amd_ids(entry, config); break;
    default: break;
    }
}

/* One level of leaf 0xB or 0x1F. */
static struct kvm_cpuid_entry2 topology_level(uint32_t function, uint32_t index,
                                              const struct cpuid_config *config)
{
    struct kvm_cpuid_entry2 entry = { .function = function,
                                      .index = index,
                                      .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                                      .ecx = index,
                                      .edx = config->vcpu_index };

    if (index == 0) {
        entry.ebx = 1;
        entry.ecx |= TOPOLOGY_THREADS << 8;
    } else if (index == 1) {
        entry.eax = id_width(config->vcpu_count);
        entry.ebx = config->vcpu_count;
        entry.ecx |= TOPOLOGY_CORES << 8;
    }
    return entry;
}

static bool is_topology_leaf(uint32_t function)
{
    return function == 0xb || function == 0x1f;
}

static const struct kvm_cpuid_entry2 *find_leaf(const struct kvm_cpuid2 *cpuid, uint32_t function)
{
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        if (cpuid->entries[i].function == function)
            return &cpuid->entries[i];
    }
    return NULL;
}

/* "AuthenticAMD" and its licensee "HygonGenuine", by the first letters of leaf 0: EBX. */
static bool vendor_is_amd(const struct kvm_cpuid2 *cpuid)
{
    const struct kvm_cpuid_entry2 *vendor = find_leaf(cpuid, 0);

    return vendor && (memcmp(&vendor->ebx, "Auth", 4) == 0 || memcmp(&vendor->ebx, "Hygo", 4) == 0);
}

static void add_topology_leaves(struct kvm_cpuid2 *cpuid, const struct cpuid_config *config)
{
    static const uint32_t functions[] = { 0xb, 0x1f };
    const struct kvm_cpuid_entry2 *basic = find_leaf(cpuid, 0);
    const uint32_t basic_max = basic ? basic->eax : 0;

    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        for (uint32_t index = 0; functions[i] <= basic_max && index < TOPOLOGY_SUBLEAVES; index++)
            cpuid->entries[cpuid->nent++] = topology_level(functions[i], index, config);
    }
}

int cpuid_for_vcpu(const struct kvm_cpuid2 *supported, const struct cpuid_config *config,
                   struct kvm_cpuid2 **ret_cpuid, struct stasis_error *err)
{
    const size_t capacity = (size_t)supported->nent + 2 * TOPOLOGY_SUBLEAVES;
    const bool is_amd = vendor_is_amd(supported);
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + capacity * sizeof(cpuid->entries[0]));

    if (!cpuid)
        return stasis_fail_memory(err, "CPUID table");
    for (uint32_t i = 0; i < supported->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[cpuid->nent];

        if (is_topology_leaf(supported->entries[i].function))
            continue;
        *entry = supported->entries[i];
        set_topology(entry, config, is_amd);
        cpuid->nent++;
    }
    add_topology_leaves(cpuid, config);
    *ret_cpuid = cpuid;
    return 0;
}
