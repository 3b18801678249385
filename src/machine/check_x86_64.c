/*
 * check_x86_64.c - could an x86-64 machine with this state run?
 *
 * Field tables bound single values; here are the rules between them: those by which the kernel
 * refuses KVM_SET_SREGS, KVM_SET_XSAVE, KVM_SET_XCRS and KVM_SET_NESTED_STATE (arch/x86/kvm/x86.c),
 * checked when a snapshot is opened instead of in the middle of a restore. It only reads. Too strict
 * a rule here makes a good VM impossible to save, so a rule needs a reason in KVM or in the SDM.
 */
#include "machine/check.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "machine/tables.h"

#define CR0_PE (UINT64_C(1) << 0)
#define CR0_PG (UINT64_C(1) << 31)
#define CR4_PAE (UINT64_C(1) << 5)
#define EFER_LME (UINT64_C(1) << 8)
#define EFER_LMA (UINT64_C(1) << 10)

#define XCR0_X87 (UINT64_C(1) << 0)
#define XCR0_SSE (UINT64_C(1) << 1)
#define XCR0_AVX (UINT64_C(1) << 2)

/* Where things are in an XSAVE area, bytes (SDM volume 1, 13.4). */
#define XSAVE_MXCSR 24
#define XSAVE_XSTATE_BV 512
#define XSAVE_XCOMP_BV 520
#define XSAVE_FIRST_EXTENDED 2 /* state components 0 and 1 are in the legacy area */

#define CPUID_XSAVE 0xd            /* leaf: sub-leaf i is the place of state component i */
#define MXCSR_RESERVED 0xfffd0000u /* bit 17 is AMD's misaligned exception mask */

#define MP_STATE_SIPI_RECEIVED 4 /* KVM_MP_STATE_*: 0 to 4, and 9 */
#define MP_STATE_AP_RESET_HOLD 9

#define NESTED_FORMAT 2 /* offsets in kvm_nested_state */
#define NESTED_SIZE 4

static uint16_t load_u16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static uint32_t load_u32(const uint8_t *bytes)
{
    return load_u16(bytes) | (uint32_t)load_u16(bytes + 2) << 16;
}

static uint64_t load_u64(const uint8_t *bytes)
{
    return load_u32(bytes) | (uint64_t)load_u32(bytes + 4) << 32;
}

#define fail_vcpu(err, index, fmt, ...)                                                            \
    stasis_fail(err, STASIS_ERR_INVALID_MACHINE, "x86_64.vcpus[%zu]." fmt, index, __VA_ARGS__)

/* Only this format is what KVM takes; the compacted one would be read as other registers. */
static int check_xsave_header(const uint8_t *xsave, size_t index, struct stasis_error *err)
{
    static const uint8_t zeros[X86_XSAVE_SIZE_MIN - XSAVE_XCOMP_BV];

    if (load_u32(xsave + XSAVE_MXCSR) & MXCSR_RESERVED)
        return fail_vcpu(err, index, "xsave: reserved bits are set in MXCSR 0x%" PRIx32,
                         load_u32(xsave + XSAVE_MXCSR));
    if (memcmp(xsave + XSAVE_XCOMP_BV, zeros, sizeof(zeros)) != 0)
        return fail_vcpu(err, index, "xsave: %s",
                         "the area is compacted, or reserved bytes of its header are set");
    return 0;
}

static const struct stasis_x86_cpuid *find_cpuid(const struct stasis_x86_vcpu *vcpu,
                                                 uint32_t function, uint32_t index)
{
    for (size_t i = 0; i < vcpu->cpuid_count; i++) {
        if (vcpu->cpuid[i].function == function && vcpu->cpuid[i].index == index)
            return &vcpu->cpuid[i];
    }
    return NULL;
}

/* Every component that is in use must be inside the area, as far as CPUID tells where it is. */
static int check_xsave_components(const struct stasis_x86_vcpu *vcpu, size_t index,
                                  struct stasis_error *err)
{
    const uint64_t in_use = load_u64(vcpu->xsave + XSAVE_XSTATE_BV);

    for (uint32_t i = XSAVE_FIRST_EXTENDED; i < 63; i++) {
        const struct stasis_x86_cpuid *place;

        if (!(in_use >> i & 1))
            continue;
        place = find_cpuid(vcpu, CPUID_XSAVE, i);
        if (place && (uint64_t)place->ebx + place->eax > vcpu->xsave_size)
            return fail_vcpu(err, index,
                             "xsave: component %" PRIu32 " lies beyond the area's %zu bytes", i,
                             vcpu->xsave_size);
    }
    return 0;
}

static int check_xsave(const struct stasis_x86_vcpu *vcpu, size_t index, struct stasis_error *err)
{
    int r;

    if (vcpu->xsave_size < X86_XSAVE_SIZE_MIN)
        return fail_vcpu(err, index, "xsave: an area of %zu bytes, the smallest is %d",
                         vcpu->xsave_size, X86_XSAVE_SIZE_MIN);
    r = check_xsave_header(vcpu->xsave, index, err);
    return r < 0 ? r : check_xsave_components(vcpu, index, err);
}

static int check_xcrs(const struct stasis_x86_vcpu *vcpu, size_t index, struct stasis_error *err)
{
    for (size_t i = 0; i < vcpu->xcrs_count; i++) {
        const struct stasis_x86_xcr *xcr = &vcpu->xcrs[i];

        for (size_t j = 0; j < i; j++) {
            if (vcpu->xcrs[j].index == xcr->index)
                return fail_vcpu(err, index, "xcrs[%zu]: XCR%" PRIu32 " is there twice", i,
                                 xcr->index);
        }
        if (xcr->index != 0)
            continue;
        if (!(xcr->value & XCR0_X87) || (xcr->value & (XCR0_SSE | XCR0_AVX)) == XCR0_AVX)
            return fail_vcpu(err, index,
                             "xcrs[%zu]: XCR0 0x%" PRIx64 " lacks x87, or SSE that AVX needs", i,
                             xcr->value);
    }
    return 0;
}

/* The kernel's kvm_is_valid_sregs(). */
static int check_paging_mode(const struct stasis_x86_sregs *sregs, size_t index,
                             struct stasis_error *err)
{
    const bool paging = sregs->cr0 & CR0_PG;
    const bool long_mode = sregs->efer & EFER_LMA;

    if (paging && !(sregs->cr0 & CR0_PE))
        return fail_vcpu(err, index, "sregs.cr0: 0x%" PRIx64 " pages without protected mode",
                         sregs->cr0);
    if (sregs->efer & EFER_LME && paging) {
        if (!(sregs->cr4 & CR4_PAE) || !long_mode)
            return fail_vcpu(err, index,
                             "sregs.efer: 0x%" PRIx64 " is half in long mode (cr4 0x%" PRIx64 ")",
                             sregs->efer, sregs->cr4);
    } else if (long_mode || sregs->cs.l) {
        return fail_vcpu(err, index,
                         "sregs.efer: 0x%" PRIx64 " is half in long mode (cs.l %u, cr0 0x%" PRIx64
                         ")",
                         sregs->efer, sregs->cs.l, sregs->cr0);
    }
    return 0;
}

static int check_sregs(const struct stasis_x86_vcpu *vcpu, size_t index, struct stasis_error *err)
{
    const struct stasis_x86_sregs *sregs = &vcpu->sregs;
    int bits = 0;

    if (sregs->cr0 > UINT32_MAX)
        return fail_vcpu(err, index, "sregs.cr0: reserved bits are set in 0x%" PRIx64, sregs->cr0);
    for (size_t i = 0; i < 4; i++)
        bits += __builtin_popcountll(sregs->interrupt_bitmap[i]);
    if (bits > 1)
        return fail_vcpu(err, index, "sregs.interrupt_bitmap: %d interrupts, at most 1 is valid",
                         bits);
    return check_paging_mode(sregs, index, err);
}

static int check_nested(const struct stasis_x86_vcpu *vcpu, size_t index, struct stasis_error *err)
{
    if (vcpu->nested_size == 0)
        return 0;
    if (vcpu->nested_size < X86_NESTED_SIZE_MIN)
        return fail_vcpu(err, index, "nested: %zu bytes, the smallest is %d", vcpu->nested_size,
                         X86_NESTED_SIZE_MIN);
    if (load_u16(vcpu->nested + NESTED_FORMAT) > 1)
        return fail_vcpu(err, index, "nested: format %u is neither VMX nor SVM",
                         load_u16(vcpu->nested + NESTED_FORMAT));
    if (load_u32(vcpu->nested + NESTED_SIZE) < X86_NESTED_SIZE_MIN ||
        load_u32(vcpu->nested + NESTED_SIZE) > vcpu->nested_size)
        return fail_vcpu(err, index, "nested: it claims %" PRIu32 " bytes and has %zu",
                         load_u32(vcpu->nested + NESTED_SIZE), vcpu->nested_size);
    return 0;
}

static int check_events(const struct stasis_x86_vcpu *vcpu, size_t index, struct stasis_error *err)
{
    const struct stasis_x86_events *events = &vcpu->events;

    if ((events->exception.injected || events->exception.pending) &&
        (events->exception.nr > 31 || events->exception.nr == 2)) /* 2: NMI, not an exception */
        return fail_vcpu(err, index, "events.exception.nr: %u is no exception",
                         events->exception.nr);
    if (events->sipi_vector > UINT8_MAX)
        return fail_vcpu(err, index, "events.sipi_vector: 0x%" PRIx32 " is no vector",
                         events->sipi_vector);
    return 0;
}

static int check_vcpu(const struct stasis_x86_vcpu *vcpu, size_t index, struct stasis_error *err)
{
    int r;

    if (vcpu->mp_state > MP_STATE_SIPI_RECEIVED && vcpu->mp_state != MP_STATE_AP_RESET_HOLD)
        return fail_vcpu(err, index, "mp_state: %" PRIu32 " is not one of an x86 vCPU",
                         vcpu->mp_state);
    if (vcpu->lapic_size != 0 && vcpu->lapic_size != X86_LAPIC_SIZE)
        return fail_vcpu(err, index, "lapic: a page of %zu bytes, it has %d", vcpu->lapic_size,
                         X86_LAPIC_SIZE);
    r = check_sregs(vcpu, index, err);
    if (r == 0)
        r = check_xsave(vcpu, index, err);
    if (r == 0)
        r = check_xcrs(vcpu, index, err);
    if (r == 0)
        r = check_events(vcpu, index, err);
    return r < 0 ? r : check_nested(vcpu, index, err);
}

/* What must hold between one vCPU and those before it. */
static int check_siblings(const struct stasis_x86_machine *machine, size_t index,
                          struct stasis_error *err)
{
    const struct stasis_x86_vcpu *vcpu = &machine->vcpus[index];

    if (vcpu->lapic_size != machine->vcpus[0].lapic_size)
        return fail_vcpu(err, index, "lapic: %s", "some vCPUs have one and others do not");
    for (size_t i = 0; i < index; i++) {
        if (machine->vcpus[i].id == vcpu->id)
            return fail_vcpu(err, index, "id: %" PRIu32 " is that of vcpus[%zu] too", vcpu->id, i);
    }
    return 0;
}

int check_x86_machine(const struct stasis_x86_machine *machine, struct stasis_error *err)
{
    if (machine->pics_count != 0 && machine->pics_count != 2)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "x86_64.pics: %zu of them, there are two or none", machine->pics_count);
    for (size_t i = 0; i < machine->vcpus_count; i++) {
        int r = check_vcpu(&machine->vcpus[i], i, err);

        if (r == 0)
            r = check_siblings(machine, i, err);
        if (r < 0)
            return r;
    }
    return 0;
}
