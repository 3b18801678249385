/*
 * arm64.c - the field tables of an arm64 machine.
 *
 * One line per field of <stasis/arm64.h>: this is the list of what is saved. Names and order are in
 * files for ever; a field added later is OPTIONAL. A field missing here is lost on save without a
 * word. Registers are told apart by id when machines are compared; those that tick are listed in
 * compare_rules.c.
 */
#include <stasis/arm64.h>

#include "machine/tables.h"

#define HEX .show = STASIS_SHOW_HEX
#define KEY .flags = STASIS_FIELD_KEY

static const struct stasis_field reg_fields[] = {
    STASIS_F(struct stasis_arm64_reg, id, U64, HEX, KEY),
    STASIS_F_ARRAY(struct stasis_arm64_reg, value, BYTES, HEX),
};
const struct stasis_table arm64_reg_table = STASIS_TABLE(struct stasis_arm64_reg, reg_fields);

static const struct stasis_field wide_reg_fields[] = {
    STASIS_F(struct stasis_arm64_wide_reg, id, U64, HEX, KEY),
    STASIS_F_BLOB(struct stasis_arm64_wide_reg, value, ARM64_WIDE_REG_SIZE_MAX, HEX),
};
static const struct stasis_table wide_reg_table =
    STASIS_TABLE(struct stasis_arm64_wide_reg, wide_reg_fields);

static const struct stasis_field events_fields[] = {
    STASIS_F(struct stasis_arm64_events, serror_pending, U8, .max = 1),
    STASIS_F(struct stasis_arm64_events, serror_has_esr, U8, .max = 1),
    STASIS_F(struct stasis_arm64_events, ext_dabt_pending, U8, .max = 1),
    STASIS_F(struct stasis_arm64_events, serror_esr, U64, HEX),
};
static const struct stasis_table events_table =
    STASIS_TABLE(struct stasis_arm64_events, events_fields);

#define VCPU(member, kind, ...) STASIS_F(struct stasis_arm64_vcpu, member, kind, __VA_ARGS__)
#define VCPU_LIST(member, table_)                                                                  \
    STASIS_F_LIST(struct stasis_arm64_vcpu, member, STASIS_ARM64_REG_MAX, table_, .max = 0)
static const struct stasis_field vcpu_fields[] = {
    VCPU(mpidr, U64, HEX),
    VCPU(target, U32),
    STASIS_F_ARRAY(struct stasis_arm64_vcpu, features, U32, HEX),
    VCPU(mp_state, U32),
    VCPU_LIST(regs, &arm64_reg_table),
    VCPU_LIST(wide_regs, &wide_reg_table),
    VCPU(events, STRUCT, .table = &events_table),
};
const struct stasis_table stasis_arm64_vcpu_table =
    STASIS_TABLE(struct stasis_arm64_vcpu, vcpu_fields);

static const struct stasis_field device_reg_fields[] = {
    STASIS_F(struct stasis_arm64_device_reg, group, U32, KEY),
    STASIS_F(struct stasis_arm64_device_reg, attr, U64, HEX, KEY),
    STASIS_F(struct stasis_arm64_device_reg, value, U64, HEX),
};
static const struct stasis_table device_reg_table =
    STASIS_TABLE(struct stasis_arm64_device_reg, device_reg_fields);

#define GIC(member, kind, ...) STASIS_F(struct stasis_arm64_gic, member, kind, __VA_ARGS__)
#define GIC_LIST(member)                                                                           \
    STASIS_F_LIST(struct stasis_arm64_gic, member, ARM64_GIC_REG_MAX, &device_reg_table, .max = 0)
static const struct stasis_field gic_fields[] = {
    GIC(version, U32),      GIC(distributor_gpa, U64, HEX),   GIC(redistributor_gpa, U64, HEX),
    GIC(its_gpa, U64, HEX), GIC(irq_count, U32, .max = 1024), GIC_LIST(regs),
    GIC_LIST(its_regs),
};
static const struct stasis_table gic_table = STASIS_TABLE(struct stasis_arm64_gic, gic_fields);

#define MACHINE(member, kind, ...) STASIS_F(struct stasis_arm64_machine, member, kind, __VA_ARGS__)
static const struct stasis_field machine_fields[] = {
    STASIS_F_LIST(struct stasis_arm64_machine, vcpus, STASIS_ARM64_VCPU_MAX,
                  &stasis_arm64_vcpu_table, .max = 0),
    MACHINE(gic, PART, .table = &gic_table),
    MACHINE(counter_frequency_hz, U64, .unit = "Hz"),
    MACHINE(counter_value, U64, .flags = STASIS_FIELD_VOLATILE),
    MACHINE(realtime, U64, .unit = "ns", .flags = STASIS_FIELD_VOLATILE),
};
const struct stasis_table stasis_arm64_machine_table =
    STASIS_TABLE(struct stasis_arm64_machine, machine_fields);
