/*
 * known_values.c - register values that only a correct save and restore keeps.
 *
 *     XMM0-15   moved by MOVDQU only: emulating hypervisors know the SSE moves, not the arithmetic
 *     x87       control word, tag word, MXCSR and ST0-7, through FXRSTOR and FXSAVE
 *     DR0-3     addresses; DR7 enables none of them, so they never trap
 *     MSRs      system call and segment registers, PAT: of no effect here, kept by the processor
 *
 * An MSR that cannot be written, or does not read back at boot what was written, is left out.
 */
#include "known_values.h"

#include <stdbool.h>

#include "cpu.h"
#include "print.h"

#define XMM_COUNT 16u
#define ST_COUNT 8u
#define DR_COUNT 4u
#define DR7_NONE 0x400u
#define CR0_MP_NE 0x22u
#define CR0_EM_TS 0x0cu
#define CR4_OSFXSR_OSXMMEXCPT 0x600u
#define MSR_PAT 0x277u

/* Each MSR holds `base`, and under `mask` bits that differ from processor to processor. */
static const struct msr_kind {
    uint32_t index;
    uint64_t mask, base;
} msr_kinds[] = {
    { 0x174, 0xfff8, 0 },     /* SYSENTER_CS */
    { 0x175, 0x7fffffff, 0 }, /* SYSENTER_ESP */
    { 0x176, 0x7fffffff, 0 }, /* SYSENTER_EIP */
    { MSR_PAT, UINT64_C(0x0101010100000000), UINT64_C(0x0404040400070406) },
    { 0xc0000081, UINT64_C(0xffffffff00000000), 0 },                        /* STAR */
    { 0xc0000082, UINT64_C(0x7fffffffffff), UINT64_C(0xffff800000000000) }, /* LSTAR */
    { 0xc0000083, UINT64_C(0x7fffffffffff), UINT64_C(0xffff800000000000) }, /* CSTAR */
    { 0xc0000084, 0xffff, 0 },                                              /* FMASK */
    { 0xc0000100, UINT64_C(0x7fffffffffff), 0 },                            /* FS_BASE */
    { 0xc0000102, UINT64_C(0x7fffffffffff), 0 },                            /* KERNEL_GS_BASE */
    { 0xc0000103, 0xffffffff, 0 },                                          /* TSC_AUX */
};
#define MSR_COUNT (sizeof(msr_kinds) / sizeof(msr_kinds[0]))

struct xmm_value {
    uint64_t low, high;
};

/* The 512 bytes of FXSAVE. */
struct fx_area {
    uint16_t control, status;
    uint8_t tags, reserved1;
    uint8_t unused[18]; /* last instruction and operand: not kept by every processor */
    uint32_t mxcsr, mxcsr_mask;
    struct {
        uint64_t mantissa;
        uint16_t exponent, reserved[3];
    } st[ST_COUNT];
    uint8_t rest[352];
} __attribute__((aligned(16)));
_Static_assert(sizeof(struct fx_area) == 512, "the size of the FXSAVE area");

static struct known_values {
    struct fx_area fx;  /* as loaded */
    struct fx_area now; /* room for a check */
    struct xmm_value xmm[XMM_COUNT];
    uint64_t dr[DR_COUNT];
    uint64_t msr[MSR_COUNT];
    bool msr_kept[MSR_COUNT];
} known[CPU_MAX];

#define FOR_EACH_XMM(macro)                                                                        \
    macro(0) macro(1) macro(2) macro(3) macro(4) macro(5) macro(6) macro(7) macro(8) macro(9)      \
        macro(10) macro(11) macro(12) macro(13) macro(14) macro(15)
#define XMM_LOAD(n) "movdqu " #n "*16(%0), %%xmm" #n "\n"
#define XMM_STORE(n) "movdqu %%xmm" #n ", " #n "*16(%0)\n"
#define DR_WRITE(n, value) __asm__ volatile("mov %0, %%dr" #n : : "r"(value))
#define DR_READ(n, value) __asm__ volatile("mov %%dr" #n ", %0" : "=r"(value))

static void xmm_load(const struct xmm_value *values)
{
    __asm__ volatile(FOR_EACH_XMM(XMM_LOAD) : : "r"(values) : "memory");
}

static void xmm_store(struct xmm_value *values)
{
    __asm__ volatile(FOR_EACH_XMM(XMM_STORE) : : "r"(values) : "memory");
}

/* Rounding modes and registers of its own for each processor; all exceptions stay masked. */
static void load_fx(struct fx_area *fx, uint64_t seed)
{
    __asm__ volatile("fninit; fxsave %0" : "=m"(*fx));
    fx->control = (uint16_t)(0x037f | (seed & 3) << 10);
    fx->mxcsr = (uint32_t)(0x1f80 | (seed & 3) << 13);
    fx->tags = 0xff;
    for (unsigned i = 0; i < ST_COUNT; i++) {
        fx->st[i].mantissa = mix64(seed + 0x200 + i) | UINT64_C(1) << 63;
        fx->st[i].exponent = (uint16_t)(0x3f00 + i);
    }
    __asm__ volatile("fxrstor %0" : : "m"(*fx));
}

static void enable_fpu(void)
{
    uint64_t cr0, cr4;

    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("mov %0, %%cr0" : : "r"((cr0 & ~(uint64_t)CR0_EM_TS) | CR0_MP_NE));
    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    __asm__ volatile("mov %0, %%cr4" : : "r"(cr4 | CR4_OSFXSR_OSXMMEXCPT));
}

static void load_msrs(struct known_values *values, uint64_t seed)
{
    for (unsigned i = 0; i < MSR_COUNT; i++) {
        const struct msr_kind *kind = &msr_kinds[i];
        uint64_t back;

        values->msr[i] = kind->base | (mix64(seed + kind->index) & kind->mask);
        values->msr_kept[i] = wrmsr_safe(kind->index, values->msr[i]) &&
                              rdmsr_safe(kind->index, &back) && back == values->msr[i];
    }
}

void known_values_load(uint64_t seed)
{
    struct known_values *values = &known[cpu_this()->index];

    enable_fpu();
    seed = mix64(seed + (cpu_this()->index + 1) * MIX64_STEP);
    for (unsigned i = 0; i < XMM_COUNT; i++) {
        values->xmm[i].low = mix64(seed + 2 * i);
        values->xmm[i].high = mix64(seed + 2 * i + 1);
    }
    load_fx(&values->fx, seed); /* loads XMM too: hence before it */
    xmm_load(values->xmm);

    for (unsigned i = 0; i < DR_COUNT; i++)
        values->dr[i] = mix64(seed + 0x100 + i) >> 17;
    DR_WRITE(0, values->dr[0]);
    DR_WRITE(1, values->dr[1]);
    DR_WRITE(2, values->dr[2]);
    DR_WRITE(3, values->dr[3]);

    load_msrs(values, seed);
}

static bool check_xmm(const struct known_values *values, uint32_t cpu)
{
    struct xmm_value now[XMM_COUNT];
    bool ok = true;

    xmm_store(now);
    for (unsigned i = 0; i < XMM_COUNT; i++) {
        if (now[i].low == values->xmm[i].low && now[i].high == values->xmm[i].high)
            continue;
        print_bad("cpu %u xmm%u is %016lx%016lx want %016lx%016lx", cpu, i, now[i].high, now[i].low,
                  values->xmm[i].high, values->xmm[i].low);
        ok = false;
    }
    return ok;
}

static bool check_fx(struct known_values *values, uint32_t cpu)
{
    const struct fx_area *want = &values->fx;
    struct fx_area *now = &values->now;
    bool ok = true;

    __asm__ volatile("fxsave %0" : "=m"(*now));
    if (now->control != want->control || now->tags != want->tags || now->mxcsr != want->mxcsr) {
        print_bad("cpu %u x87 control %x tags %x mxcsr %x want %x %x %x", cpu, now->control,
                  now->tags, now->mxcsr, want->control, want->tags, want->mxcsr);
        ok = false;
    }
    for (unsigned i = 0; i < ST_COUNT; i++) {
        if (now->st[i].mantissa == want->st[i].mantissa &&
            now->st[i].exponent == want->st[i].exponent)
            continue;
        print_bad("cpu %u st%u is %x %016lx want %x %016lx", cpu, i, now->st[i].exponent,
                  now->st[i].mantissa, want->st[i].exponent, want->st[i].mantissa);
        ok = false;
    }
    return ok;
}

static bool check_dr(const struct known_values *values, uint32_t cpu)
{
    uint64_t now[DR_COUNT], dr7;
    bool ok = true;

    DR_READ(0, now[0]);
    DR_READ(1, now[1]);
    DR_READ(2, now[2]);
    DR_READ(3, now[3]);
    DR_READ(7, dr7);
    for (unsigned i = 0; i < DR_COUNT; i++) {
        if (now[i] == values->dr[i])
            continue;
        print_bad("cpu %u dr%u is %lx want %lx", cpu, i, now[i], values->dr[i]);
        ok = false;
    }
    if (dr7 != DR7_NONE) {
        print_bad("cpu %u dr7 is %lx want %x", cpu, dr7, DR7_NONE);
        ok = false;
    }
    return ok;
}

static bool check_msrs(const struct known_values *values, uint32_t cpu)
{
    bool ok = true;

    for (unsigned i = 0; i < MSR_COUNT; i++) {
        uint64_t now;

        if (!values->msr_kept[i])
            continue;
        if (rdmsr_safe(msr_kinds[i].index, &now) && now == values->msr[i])
            continue;
        print_bad("cpu %u msr %x is %lx want %lx", cpu, msr_kinds[i].index, now, values->msr[i]);
        ok = false;
    }
    return ok;
}

void known_values_check(void)
{
    struct cpu *cpu = cpu_this();
    struct known_values *values = &known[cpu->index];

    cpu->sse_ok = check_xmm(values, cpu->index);
    cpu->x87_ok = check_fx(values, cpu->index);
    cpu->dr_ok = check_dr(values, cpu->index);
    cpu->msr_ok = check_msrs(values, cpu->index);
}

uint32_t known_values_msr_count(void)
{
    const struct known_values *values = &known[cpu_this()->index];
    uint32_t count = 0;

    for (unsigned i = 0; i < MSR_COUNT; i++)
        count += values->msr_kept[i];
    return count;
}
