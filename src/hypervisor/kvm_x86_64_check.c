/*
 * kvm_x86_64_check.c - can this host run that machine? Asked before anything runs.
 *
 * What a guest was shown it may use at any moment, so each CPUID feature, XSAVE component, MSR and
 * TSC rate that the machine has must be had here too; what the host has beyond that does no harm.
 * The answer names every thing that is missing, as people call it, as many as fit the error's text.
 * Too lenient here is a guest that faults at some later instruction; too strict, one that could
 * have run and may not. It reads two tables and makes no system call.
 */
#include "hypervisor/kvm_x86_64.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "hypervisor/kvm_x86_64_features.h"

#define CPUID_1_ECX_MONITOR (1u << 3)
#define CPUID_1_ECX_TSC_DEADLINE (1u << 24)
#define TSC_TOLERANCE_PPM 250 /* KVM's own; beyond it it scales, or catches up in software */

/* What is missing so far, as one line of text. */
struct missing {
    char text[STASIS_ERROR_TEXT_SIZE - 64]; /* room for what callers put in front */
    size_t used;
    size_t count, dropped;
};

static void missing_add(struct missing *missing, const char *fmt, ...) STASIS_PRINTF(2, 3);

static bool missing_has(const struct missing *missing, const char *name, const char *separator)
{
    const size_t size = strlen(name), separator_size = strlen(separator);

    for (const char *at = missing->text; (at = strstr(at, name)); at += size) {
        const bool begins = at == missing->text || at[-1] == separator[separator_size - 1];

        if (begins && (at[size] == '\0' || at[size] == separator[0]))
            return true;
    }
    return false;
}

/* Each name once, as vCPUs are mostly alike; whole names only, and room to say how many did not
 * fit. */
static void missing_add(struct missing *missing, const char *fmt, ...)
{
    static const char separator[] = ", ";
    const size_t reserve = sizeof(" and 4294967295 more");
    char name[96];
    va_list args;
    size_t size;

    va_start(args, fmt);
    vsnprintf(name, sizeof(name), fmt, args);
    va_end(args);

    if (missing_has(missing, name, separator))
        return;
    missing->count++;
    size = strlen(name) + sizeof(separator);
    if (missing->dropped || missing->used + size + reserve > sizeof(missing->text)) {
        missing->dropped++;
        return;
    }
    missing->used +=
        (size_t)snprintf(missing->text + missing->used, sizeof(missing->text) - missing->used,
                         "%s%s", missing->used ? separator : "", name);
}

/* Where the leaves of this hypervisor signature begin; 0: nowhere. */
static uint32_t kvm_cpuid_base(const struct stasis_x86_cpuid *cpuid, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct stasis_x86_cpuid *leaf = &cpuid[i];

        if ((leaf->function & 0xffff00ff) == 0x40000000 && leaf->ebx == 0x4b4d564b &&
            leaf->ecx == 0x564b4d56 && leaf->edx == 0x4d)
            return leaf->function;
    }
    return 0;
}

static uint32_t feature_bits(const struct stasis_x86_cpuid *cpuid, size_t count,
                             const struct cpuid_feature_word *word)
{
    uint32_t function = word->function;
    const struct stasis_x86_cpuid *leaf;

    if (function == CPUID_KVM_FEATURES) {
        const uint32_t base = kvm_cpuid_base(cpuid, count);

        if (base == 0)
            return 0;
        function = base + 1;
    }
    leaf = kvm_cpuid_find(cpuid, count, function, word->index);
    return leaf ? cpuid_entry_reg(leaf, word->reg) : 0;
}

/* What any of the vCPUs was shown. */
static uint32_t guest_bits(const struct stasis_x86_machine *machine,
                           const struct cpuid_feature_word *word)
{
    uint32_t bits = 0;

    for (size_t i = 0; i < machine->vcpus_count; i++)
        bits |= feature_bits(machine->vcpus[i].cpuid, machine->vcpus[i].cpuid_count, word);
    return bits;
}

/* Offered by capabilities; KVM_GET_SUPPORTED_CPUID is silent about them. */
static uint32_t bits_by_capability(const struct stasis_kvm_host *host)
{
    return (host->can_mwait ? CPUID_1_ECX_MONITOR : 0) |
           (host->has_tsc_deadline ? CPUID_1_ECX_TSC_DEADLINE : 0);
}

static void check_word(const struct stasis_kvm_host *host, const struct stasis_x86_machine *machine,
                       const struct cpuid_feature_word *word, struct missing *missing)
{
    uint32_t offered = feature_bits(host->cpuid, host->cpuid_count, word);
    uint32_t ignored = word->ignored;
    uint32_t lacking;
    char name[CPUID_FEATURE_NAME_SIZE];

    if (word->function == 1 && word->reg == CPUID_ECX) {
        offered |= bits_by_capability(host);
        ignored &= ~(CPUID_1_ECX_MONITOR | CPUID_1_ECX_TSC_DEADLINE);
    }
    lacking = guest_bits(machine, word) & ~offered & ~ignored;
    for (unsigned bit = 0; bit < 32; bit++) {
        if (!(lacking & (UINT32_C(1) << bit)))
            continue;
        cpuid_feature_name(word, bit, name);
        missing_add(missing, "%s", name);
    }
}

static const struct stasis_x86_cpuid *host_leaf(const struct stasis_kvm_host *host,
                                                uint32_t function, uint32_t index)
{
    return kvm_cpuid_find(host->cpuid, host->cpuid_count, function, index);
}

/* Widths are numbers, not bits: more than the host's cannot be had. */
static void check_address_width(const struct stasis_kvm_host *host,
                                const struct stasis_x86_vcpu *vcpu, struct missing *missing)
{
    const struct stasis_x86_cpuid *want =
        kvm_cpuid_find(vcpu->cpuid, vcpu->cpuid_count, 0x80000008, 0);
    const struct stasis_x86_cpuid *have = host_leaf(host, 0x80000008, 0);

    if (!want || !have)
        return;
    if ((want->eax & 0xff) > (have->eax & 0xff))
        missing_add(missing, "%u physical address bits", want->eax & 0xff);
    if ((want->eax >> 8 & 0xff) > (have->eax >> 8 & 0xff))
        missing_add(missing, "%u linear address bits", want->eax >> 8 & 0xff);
}

static void check_pmu(const struct stasis_kvm_host *host, const struct stasis_x86_vcpu *vcpu,
                      struct missing *missing)
{
    const struct stasis_x86_cpuid *want = kvm_cpuid_find(vcpu->cpuid, vcpu->cpuid_count, 0xa, 0);
    const struct stasis_x86_cpuid *have = host_leaf(host, 0xa, 0);
    const uint32_t have_eax = have ? have->eax : 0;

    if (!want || (want->eax & 0xff) == 0)
        return;
    if ((want->eax & 0xff) > (have_eax & 0xff))
        missing_add(missing, "PMU version %u", want->eax & 0xff);
    else if ((want->eax >> 8 & 0xff) > (have_eax >> 8 & 0xff))
        missing_add(missing, "%u performance counters", want->eax >> 8 & 0xff);
}

/* The saved area is in the standard format, whose layout is the CPU's own (Intel and AMD disagree
 * about PKRU): a component must lie where it lay. */
static void check_xsave_layout(const struct stasis_kvm_host *host,
                               const struct stasis_x86_vcpu *vcpu, struct missing *missing)
{
    const struct stasis_x86_cpuid *all = kvm_cpuid_find(vcpu->cpuid, vcpu->cpuid_count, 0xd, 0);
    const uint64_t components = all ? all->eax | (uint64_t)all->edx << 32 : 0;

    for (uint32_t i = 2; i < 63; i++) {
        const struct stasis_x86_cpuid *want, *have;

        if (!(components & host->xcr0 & (UINT64_C(1) << i)))
            continue;
        want = kvm_cpuid_find(vcpu->cpuid, vcpu->cpuid_count, 0xd, i);
        have = host_leaf(host, 0xd, i);
        if (want && have && (want->eax != have->eax || want->ebx != have->ebx))
            missing_add(missing, "xsave component %u of %u bytes at %u", i, want->eax, want->ebx);
    }
}

static void check_xcr0(const struct stasis_kvm_host *host, const struct stasis_x86_vcpu *vcpu,
                       struct missing *missing)
{
    for (size_t i = 0; i < vcpu->xcrs_count; i++) {
        const uint64_t lacking = vcpu->xcrs[i].value & ~host->xcr0;

        if (vcpu->xcrs[i].index == 0 && lacking)
            missing_add(missing, "XCR0 0x%llx", (unsigned long long)lacking);
    }
}

/* `first` is a vCPU whose registers were reported already, or NULL. */
static void check_msrs(const struct stasis_kvm_host *host, const struct stasis_x86_vcpu *vcpu,
                       const struct stasis_x86_vcpu *first, struct missing *missing)
{
    for (size_t i = 0; i < vcpu->msrs_count; i++) {
        const uint32_t index = vcpu->msrs[i].index;

        /* All vCPUs of a machine have the same registers, nearly always in the same order. */
        if (first && i < first->msrs_count && first->msrs[i].index == index)
            continue;
        if (first && kvm_msr_find(first->msrs, first->msrs_count, index))
            continue;
        if (!kvm_msr_known(host, index))
            missing_add(missing, "MSR 0x%x", index);
    }
}

static void check_tsc_khz(const struct stasis_kvm_host *host, const struct stasis_x86_vcpu *vcpu,
                          struct missing *missing)
{
    const uint64_t want = vcpu->tsc_khz, have = host->tsc_khz;
    const uint64_t difference = want > have ? want - have : have - want;

    if (want == 0 || have == 0 || host->has_tsc_scaling)
        return;
    if (difference * 1000000 > have * TSC_TOLERANCE_PPM)
        missing_add(missing, "TSC %u kHz", vcpu->tsc_khz);
}

static void check_vcpu(const struct stasis_kvm_host *host, const struct stasis_x86_machine *machine,
                       size_t index, struct missing *missing)
{
    const struct stasis_x86_vcpu *vcpu = &machine->vcpus[index];

    check_msrs(host, vcpu, index ? &machine->vcpus[0] : NULL, missing);
    check_address_width(host, vcpu, missing);
    check_pmu(host, vcpu, missing);
    check_xsave_layout(host, vcpu, missing);
    check_xcr0(host, vcpu, missing);
    check_tsc_khz(host, vcpu, missing);
    if (host->nested_size == 0 && !kvm_nested_is_idle(vcpu))
        missing_add(missing, "nested virtualisation");
}

static int check_vcpu_count(const struct stasis_kvm_host *host,
                            const struct stasis_x86_machine *machine, struct stasis_error *err)
{
    if (machine->vcpus_count > host->vcpus_max)
        return stasis_fail(err, STASIS_ERR_TOO_MANY_VCPUS,
                           "the machine has %zu vCPUs, this host's KVM at most %u",
                           machine->vcpus_count, host->vcpus_max);
    for (size_t i = 0; i < machine->vcpus_count; i++) {
        if (machine->vcpus[i].id >= host->vcpu_ids_max)
            return stasis_fail(err, STASIS_ERR_TOO_MANY_VCPUS,
                               "the machine has a vCPU with id %u, this host's KVM ids below %u",
                               machine->vcpus[i].id, host->vcpu_ids_max);
    }
    return 0;
}

int stasis_kvm_check_host(const struct stasis_kvm_host *host, const struct stasis_machine *machine,
                          struct stasis_error *err)
{
    struct missing missing = { 0 };
    int r;

    if (machine->arch != STASIS_ARCH_X86_64 || !machine->x86_64)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the machine is not x86-64");
    r = check_vcpu_count(host, machine->x86_64, err);
    if (r < 0)
        return r;

    for (size_t i = 0; i < cpuid_feature_word_count; i++)
        check_word(host, machine->x86_64, &cpuid_feature_words[i], &missing);
    for (size_t i = 0; i < machine->x86_64->vcpus_count; i++)
        check_vcpu(host, machine->x86_64, i, &missing);

    if (missing.count == 0)
        return 0;
    if (missing.dropped)
        return stasis_fail(err, STASIS_ERR_HOST_INCOMPATIBLE, "this host lacks %s and %zu more",
                           missing.text, missing.dropped);
    return stasis_fail(err, STASIS_ERR_HOST_INCOMPATIBLE, "this host lacks %s", missing.text);
}
