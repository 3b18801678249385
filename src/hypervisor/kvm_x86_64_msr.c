/*
 * kvm_x86_64_msr.c - model-specific registers: which, and how to move many of them at once.
 *
 * KVM_GET_MSRS and KVM_SET_MSRS take a batch and stop at the first register they refuse; the return
 * value says how many went well. So a batch that stops short names its culprit, and one more
 * call goes on behind it:
 *
 *     read    a refused register is one that this vCPU's CPUID does not have: skipped
 *     write   a refused register that already holds the value to be written (a read-only one, or a
 *             reset value) is fine; any other fails the restore, by its number
 *
 * A register missing from both lists here is lost at every save. That the kernel's own list is read
 * whole is tested against the running kernel; the extras below are found in its source only.
 */
#include "hypervisor/kvm_x86_64.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/error.h"

#define MSR_BATCH_MAX 255 /* the kernel's MAX_IO_MSRS is 256, and it wants less */
#define MCE_BANKS_MAX 32 /* KVM_MAX_MCE_BANKS; a bank has CTL, STATUS, ADDR, MISC, and CTL2 apart */
#define MCG_CMCI_P (1u << 10) /* IA32_MCG_CAP: banks have CTL2 */

#define GUEST_SSP_REG_ID (KVM_REG_X86 | KVM_REG_SIZE_U64 | (UINT64_C(3) << 32) | 0)
#define CPUID_7_ECX_SHSTK (1u << 7)
#define HYPERV_SIGNATURE 0x31237648u /* "Hv#1" in EAX of leaf 0x40000001 */

struct msr_batch { /* struct kvm_msrs with room for its entries */
    uint32_t nmsrs;
    uint32_t pad;
    struct kvm_msr_entry entries[MSR_BATCH_MAX];
};

struct msr_range {
    uint32_t first, count;
};

/* Kept by KVM on any CPU, but missing from the index list of at least one kernel since 5.10. */
static const struct msr_range common_extras[] = {
    { X86_MSR_TSC, 1 },
    { 0x48, 1 },            /* IA32_SPEC_CTRL */
    { X86_MSR_MCG_CAP, 3 }, /* with IA32_MCG_STATUS and IA32_MCG_CTL */
    { 0x1d9, 1 },           /* IA32_DEBUGCTL */
    { 0x200, 16 },          /* IA32_MTRR_PHYSBASE0 .. PHYSMASK7 */
    { 0x250, 1 },           /* IA32_MTRR_FIX64K_00000 */
    { 0x258, 2 },           /* IA32_MTRR_FIX16K_80000, A0000 */
    { 0x268, 8 },           /* IA32_MTRR_FIX4K_C0000 .. F8000 */
    { 0x277, 1 },           /* IA32_PAT */
    { 0x2ff, 1 },           /* IA32_MTRR_DEF_TYPE */
    { X86_MSR_TSC_DEADLINE, 1 },
    { 0xda0, 1 },      /* IA32_XSS */
    { 0xc0000103, 1 }, /* TSC_AUX */
};

static const struct msr_range intel_extras[] = {
    { 0x8c, 4 }, /* IA32_SGXLEPUBKEYHASH0..3 */
};

static const struct msr_range amd_extras[] = {
    { 0xc0010114, 1 }, /* VM_CR */
    { 0xc0010140, 2 }, /* OSVW_ID_LENGTH, OSVW_STATUS */
    { 0xc0011029, 1 }, /* DE_CFG */
};

/* The index list has only one of each kind (HV_X64_MSR_SCONTROL, STIMER0_CONFIG). Read only where
 * the guest was shown Hyper-V: touching one makes KVM build a Hyper-V context for the vCPU. */
static const struct msr_range hyperv_extras[] = {
    { 0x40000082, 2 },  /* SIEFP, SIMP */
    { 0x40000090, 16 }, /* SINT0..15 */
    { X86_MSR_HV_STIMER0_CONFIG, 8 },
};

#define RANGE_COUNT(ranges) (sizeof(ranges) / sizeof((ranges)[0]))

static size_t expand(const struct msr_range *ranges, size_t range_count, uint32_t *ret_indices,
                     size_t used)
{
    for (size_t i = 0; i < range_count; i++) {
        for (uint32_t k = 0; k < ranges[i].count; k++)
            ret_indices[used++] = ranges[i].first + k;
    }
    return used;
}

size_t kvm_msr_extras(enum kvm_host_vendor vendor, uint32_t *ret_indices)
{
    size_t used = expand(common_extras, RANGE_COUNT(common_extras), ret_indices, 0);

    if (vendor == KVM_HOST_INTEL)
        used = expand(intel_extras, RANGE_COUNT(intel_extras), ret_indices, used);
    if (vendor == KVM_HOST_AMD)
        used = expand(amd_extras, RANGE_COUNT(amd_extras), ret_indices, used);
    return used;
}

static bool in_ranges(const struct msr_range *ranges, size_t range_count, uint32_t index)
{
    for (size_t i = 0; i < range_count; i++) {
        if (index - ranges[i].first < ranges[i].count)
            return true;
    }
    return false;
}

bool kvm_msr_known(const struct stasis_kvm_host *host, uint32_t index)
{
    for (size_t i = 0; i < host->msrs_count; i++) {
        if (host->msrs[i] == index)
            return true;
    }
    if (index == X86_MSR_GUEST_SSP)
        return host->has_one_reg;
    if (index - X86_MSR_MC0_CTL < 4 * MCE_BANKS_MAX || index - X86_MSR_MC0_CTL2 < MCE_BANKS_MAX)
        return host->has_mce;
    return in_ranges(hyperv_extras, RANGE_COUNT(hyperv_extras), index);
}

const struct stasis_x86_msr *kvm_msr_find(const struct stasis_x86_msr *msrs, size_t count,
                                          uint32_t index)
{
    for (size_t i = 0; i < count; i++) {
        if (msrs[i].index == index)
            return &msrs[i];
    }
    return NULL;
}

bool kvm_msr_read_one(int vcpu_fd, uint32_t index, uint64_t *ret_data)
{
    struct msr_batch batch = { .nmsrs = 1, .entries[0].index = index };

    if (ioctl(vcpu_fd, KVM_GET_MSRS, &batch) != 1)
        return false;
    *ret_data = batch.entries[0].data;
    return true;
}

/* What has been read so far, growing. */
struct msr_reader {
    const struct kvm_vcpu *vcpu;
    struct stasis_x86_msr *msrs; /* owned */
    size_t count, capacity;
};

static int reader_reserve(struct msr_reader *reader, size_t more, struct stasis_error *err)
{
    const size_t wanted = reader->count + more;
    struct stasis_x86_msr *msrs;

    if (reader->msrs && wanted <= reader->capacity)
        return 0;
    msrs = reallocarray(reader->msrs, wanted, sizeof(*msrs));
    if (!msrs)
        return stasis_fail_memory(err, "MSRs");
    reader->msrs = msrs;
    reader->capacity = wanted;
    return 0;
}

/* Read those of `indices` that read, skipping the others. */
static int reader_add(struct msr_reader *reader, const uint32_t *indices, size_t count,
                      struct stasis_error *err)
{
    struct msr_batch batch = { 0 };
    int r = reader_reserve(reader, count, err);

    if (r < 0)
        return r;
    for (size_t next = 0; next < count;) {
        const size_t want = count - next < MSR_BATCH_MAX ? count - next : MSR_BATCH_MAX;
        size_t got;

        for (size_t i = 0; i < want; i++)
            batch.entries[i] = (struct kvm_msr_entry){ .index = indices[next + i] };
        batch.nmsrs = (uint32_t)want;
        r = kvm_vcpu_ioctl(reader->vcpu, KVM_GET_MSRS, "KVM_GET_MSRS", &batch, err);
        if (r < 0)
            return r;
        got = (size_t)r < want ? (size_t)r : want;
        for (size_t i = 0; i < got; i++)
            reader->msrs[reader->count++] =
                (struct stasis_x86_msr){ .index = batch.entries[i].index,
                                         .data = batch.entries[i].data };
        next += got < want ? got + 1 : got;
    }
    return 0;
}

/* Banks as KVM_X86_SETUP_MCE leaves them carry nothing: each of a bank's four registers that is as
 * after reset is dropped again. */
static void reader_drop_reset_banks(struct msr_reader *reader, size_t first)
{
    size_t kept = first;

    for (size_t i = first; i < reader->count; i++) {
        const struct stasis_x86_msr *msr = &reader->msrs[i];
        const bool is_control =
            msr->index >= X86_MSR_MC0_CTL && (msr->index - X86_MSR_MC0_CTL) % 4 == 0;

        if (msr->data != (is_control ? UINT64_MAX : 0))
            reader->msrs[kept++] = *msr;
    }
    reader->count = kept;
}

/* As many banks as IA32_MCG_CAP says this vCPU has. */
static int reader_add_mce(struct msr_reader *reader, struct stasis_error *err)
{
    const struct stasis_x86_msr *cap = kvm_msr_find(reader->msrs, reader->count, X86_MSR_MCG_CAP);
    const size_t first = reader->count;
    uint32_t indices[5 * MCE_BANKS_MAX];
    size_t used = 0, bank_count;
    int r;

    if (!cap)
        return 0;
    bank_count = cap->data & 0xff;
    if (bank_count > MCE_BANKS_MAX)
        bank_count = MCE_BANKS_MAX;
    for (uint32_t i = 0; i < 4 * bank_count; i++)
        indices[used++] = X86_MSR_MC0_CTL + i;
    for (uint32_t i = 0; i < bank_count && (cap->data & MCG_CMCI_P); i++)
        indices[used++] = X86_MSR_MC0_CTL2 + i;
    r = reader_add(reader, indices, used, err);
    if (r == 0)
        reader_drop_reset_banks(reader, first);
    return r;
}

/* The shadow stack pointer is the one register that KVM hands out by KVM_GET_ONE_REG alone. */
static int reader_add_ssp(struct msr_reader *reader, struct stasis_error *err)
{
    uint64_t ssp = 0;
    struct kvm_one_reg reg = { .id = GUEST_SSP_REG_ID, .addr = (uintptr_t)&ssp };
    int r = KVM_VCPU_IOCTL(reader->vcpu, KVM_GET_ONE_REG, &reg, err);

    if (r < 0)
        return r;
    r = reader_reserve(reader, 1, err);
    if (r < 0)
        return r;
    reader->msrs[reader->count++] =
        (struct stasis_x86_msr){ .index = X86_MSR_GUEST_SSP, .data = ssp };
    return 0;
}

static bool shows_hyperv(const struct stasis_x86_cpuid *cpuid, size_t count)
{
    const struct stasis_x86_cpuid *leaf = kvm_cpuid_find(cpuid, count, 0x40000001, 0);

    return leaf && leaf->eax == HYPERV_SIGNATURE;
}

static bool shows_shadow_stack(const struct stasis_x86_cpuid *cpuid, size_t count)
{
    const struct stasis_x86_cpuid *leaf = kvm_cpuid_find(cpuid, count, 7, 0);

    return leaf && (leaf->ecx & CPUID_7_ECX_SHSTK);
}

static int reader_add_hyperv(struct msr_reader *reader, struct stasis_error *err)
{
    uint32_t indices[64];
    const size_t used = expand(hyperv_extras, RANGE_COUNT(hyperv_extras), indices, 0);
    size_t wanted = 0;

    for (size_t i = 0; i < used; i++) { /* STIMER0_CONFIG is in the index list too */
        if (!kvm_msr_find(reader->msrs, reader->count, indices[i]))
            indices[wanted++] = indices[i];
    }
    return reader_add(reader, indices, wanted, err);
}

static int read_all(struct msr_reader *reader, const struct stasis_kvm_host *host,
                    const struct stasis_x86_cpuid *cpuid, size_t cpuid_count,
                    struct stasis_error *err)
{
    int r = reader_add(reader, host->msrs, host->msrs_count, err);

    if (r == 0 && host->has_mce)
        r = reader_add_mce(reader, err);
    if (r == 0 && shows_hyperv(cpuid, cpuid_count))
        r = reader_add_hyperv(reader, err);
    if (r == 0 && host->has_one_reg && shows_shadow_stack(cpuid, cpuid_count))
        r = reader_add_ssp(reader, err);
    return r;
}

int kvm_msrs_read(const struct stasis_kvm_host *host, const struct kvm_vcpu *vcpu,
                  const struct stasis_x86_cpuid *cpuid, size_t cpuid_count,
                  struct stasis_x86_msr **ret_msrs, size_t *ret_count, struct stasis_error *err)
{
    struct msr_reader reader = { .vcpu = vcpu };
    const int r = read_all(&reader, host, cpuid, cpuid_count, err);

    if (r < 0) {
        free(reader.msrs);
        return r;
    }
    *ret_msrs = reader.msrs;
    *ret_count = reader.count;
    return 0;
}

/* Registers gathered for the next KVM_SET_MSRS. */
struct msr_writer {
    const struct kvm_vcpu *vcpu;
    struct msr_batch batch;
};

/* KVM refused this register: fine when there is nothing to change, else the end. */
static int settle_refused(const struct kvm_vcpu *vcpu, const struct kvm_msr_entry *entry,
                          struct stasis_error *err)
{
    uint64_t current;

    if (!kvm_msr_read_one(vcpu->fd, entry->index, &current))
        return stasis_fail(
            err, STASIS_ERR_KVM,
            "KVM_SET_MSRS of vCPU %u: this KVM has no MSR 0x%x (to be set to 0x%llx)", vcpu->id,
            entry->index, (unsigned long long)entry->data);
    if (current == entry->data)
        return 0;
    return stasis_fail(
        err, STASIS_ERR_KVM, "KVM_SET_MSRS of vCPU %u: MSR 0x%x holds 0x%llx and refuses 0x%llx",
        vcpu->id, entry->index, (unsigned long long)current, (unsigned long long)entry->data);
}

static int writer_flush(struct msr_writer *writer, struct stasis_error *err)
{
    struct msr_batch *batch = &writer->batch;

    while (batch->nmsrs > 0) {
        const int r = kvm_vcpu_ioctl(writer->vcpu, KVM_SET_MSRS, "KVM_SET_MSRS", batch, err);
        uint32_t done;

        if (r < 0)
            return r;
        done = (uint32_t)r < batch->nmsrs ? (uint32_t)r : batch->nmsrs;
        if (done < batch->nmsrs) {
            const int settled = settle_refused(writer->vcpu, &batch->entries[done], err);

            if (settled < 0)
                return settled;
            done++;
        }
        batch->nmsrs -= done;
        memmove(batch->entries, batch->entries + done, batch->nmsrs * sizeof(batch->entries[0]));
    }
    return 0;
}

static int writer_add(struct msr_writer *writer, const struct stasis_x86_msr *msr,
                      struct stasis_error *err)
{
    struct msr_batch *batch = &writer->batch;

    batch->entries[batch->nmsrs++] =
        (struct kvm_msr_entry){ .index = msr->index, .data = msr->data };
    return batch->nmsrs == MSR_BATCH_MAX ? writer_flush(writer, err) : 0;
}

int kvm_msr_write_one(const struct kvm_vcpu *vcpu, uint32_t index, uint64_t data,
                      struct stasis_error *err)
{
    const struct stasis_x86_msr msr = { .index = index, .data = data };
    struct msr_writer writer = { .vcpu = vcpu };
    const int r = writer_add(&writer, &msr, err);

    return r < 0 ? r : writer_flush(&writer, err);
}

/* Takes effect against kvmclock or the TSC at the moment of writing. */
static bool is_late(uint32_t index)
{
    return index == X86_MSR_WALL_CLOCK || index == X86_MSR_WALL_CLOCK_NEW ||
           index == X86_MSR_TSC_DEADLINE ||
           (index >= X86_MSR_HV_STIMER0_CONFIG && index <= X86_MSR_HV_STIMER3_COUNT);
}

/* Not written by KVM_SET_MSRS. */
static bool is_special(uint32_t index)
{
    return index == X86_MSR_TSC || index == X86_MSR_MCG_CAP || index == X86_MSR_GUEST_SSP;
}

/* IA32_MCG_CAP cannot be written, but set up: only when it differs, as that resets the banks. */
static int write_mcg_cap(const struct kvm_vcpu *vcpu, const struct stasis_x86_msr *saved,
                         struct stasis_error *err)
{
    uint64_t current, wanted = saved->data;
    int r;

    if (kvm_msr_read_one(vcpu->fd, X86_MSR_MCG_CAP, &current) && current == wanted)
        return 0;
    r = KVM_VCPU_IOCTL(vcpu, KVM_X86_SETUP_MCE, &wanted, err);
    return r < 0 ? stasis_wrap(err, r, "IA32_MCG_CAP 0x%llx", (unsigned long long)wanted) : 0;
}

static int write_ssp(const struct kvm_vcpu *vcpu, const struct stasis_x86_msr *saved,
                     struct stasis_error *err)
{
    uint64_t ssp = saved->data;
    struct kvm_one_reg reg = { .id = GUEST_SSP_REG_ID, .addr = (uintptr_t)&ssp };
    const int r = KVM_VCPU_IOCTL(vcpu, KVM_SET_ONE_REG, &reg, err);

    return r < 0 ? stasis_wrap(err, r, "shadow stack pointer 0x%llx", (unsigned long long)ssp) : 0;
}

int kvm_msrs_write(const struct stasis_kvm_host *host, const struct kvm_vcpu *vcpu,
                   const struct stasis_x86_msr *msrs, size_t count, struct stasis_error *err)
{
    const struct stasis_x86_msr *mcg_cap = kvm_msr_find(msrs, count, X86_MSR_MCG_CAP);
    const struct stasis_x86_msr *ssp = kvm_msr_find(msrs, count, X86_MSR_GUEST_SSP);
    struct msr_writer writer = { .vcpu = vcpu };
    int r = 0;

    if (mcg_cap && host->has_mce)
        r = write_mcg_cap(vcpu, mcg_cap, err);
    for (size_t i = 0; i < count && r == 0; i++) {
        if (!is_late(msrs[i].index) && !is_special(msrs[i].index))
            r = writer_add(&writer, &msrs[i], err);
    }
    if (r == 0)
        r = writer_flush(&writer, err);
    if (r == 0 && ssp)
        r = write_ssp(vcpu, ssp, err);
    return r;
}

int kvm_msrs_write_late(const struct kvm_vcpu *vcpu, const struct stasis_x86_msr *msrs,
                        size_t count, struct stasis_error *err)
{
    const struct stasis_x86_msr *deadline = kvm_msr_find(msrs, count, X86_MSR_TSC_DEADLINE);
    struct msr_writer writer = { .vcpu = vcpu };
    int r = 0;

    for (size_t i = 0; i < count && r == 0; i++) {
        if (is_late(msrs[i].index) && &msrs[i] != deadline)
            r = writer_add(&writer, &msrs[i], err);
    }
    if (r == 0 && deadline)
        r = writer_add(&writer, deadline, err);
    return r < 0 ? r : writer_flush(&writer, err);
}
