/*
 * compare_rules.c - what ticks on its own, and what is CBOR inside, where a table cannot say it.
 *
 * A field is VOLATILE in its table or it is not. But a list of registers has some that count time
 * among many that hold still, and the LAPIC page is one blob with one such register. Without these
 * rules every comparison of a machine with itself, captured a moment later, would show them.
 */
#include "machine/compare.h"

#include <string.h>

#include "machine/tables.h"

static const uint32_t ticking_msrs[] = {
    0x00000010, /* IA32_TIME_STAMP_COUNTER */
    0x000000e7, /* IA32_MPERF */
    0x000000e8, /* IA32_APERF */
    0x40000010, /* HV_X64_MSR_VP_RUNTIME */
    0x40000020, /* HV_X64_MSR_TIME_REF_COUNT */
};

static const uint64_t ticking_arm64_regs[] = {
    0x603000000013df01, /* KVM_REG_ARM_PTIMER_CNT */
    0x603000000013df1a, /* KVM_REG_ARM_TIMER_CNT, the virtual counter */
};

static bool msr_ticks(const struct stasis_x86_msr *msr)
{
    for (size_t i = 0; i < sizeof(ticking_msrs) / sizeof(ticking_msrs[0]); i++) {
        if (ticking_msrs[i] == msr->index)
            return true;
    }
    return false;
}

static bool arm64_reg_ticks(const struct stasis_arm64_reg *reg)
{
    for (size_t i = 0; i < sizeof(ticking_arm64_regs) / sizeof(ticking_arm64_regs[0]); i++) {
        if (ticking_arm64_regs[i] == reg->id)
            return true;
    }
    return false;
}

static bool is_volatile(const struct stasis_table *table, const void *element)
{
    if (table == &x86_msr_table)
        return msr_ticks(element);
    return table == &arm64_reg_table && arm64_reg_ticks(element);
}

static bool is_cbor(const struct stasis_table *table, const struct stasis_field *field,
                    const void *object)
{
    const struct stasis_device *device = object;

    return table == &machine_device_table && strcmp(field->name, "state") == 0 &&
           device->encoding == STASIS_DEVICE_CBOR;
}

/* KVM computes the timer's current count (TMCCT) anew whenever the page is read. */
static const struct compare_ticking ticking_bytes[] = {
    { .table = &stasis_x86_vcpu_table, .field = "lapic", .offset = 0x390, .size = 4 },
};

const struct compare_rules compare_machine_rules = {
    .is_volatile = is_volatile,
    .is_cbor = is_cbor,
    .ticking = ticking_bytes,
    .ticking_count = sizeof(ticking_bytes) / sizeof(ticking_bytes[0]),
};
