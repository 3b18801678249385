/*
 * check_arm64.c - could an arm64 machine with this state run?
 *
 * Field tables bound single values; here are the rules between them. Register ids carry their
 * register's size (Documentation/virt/kvm/api.rst, 4.68), so that storage and id must agree before
 * KVM_SET_ONE_REG copies by the id. It only reads.
 */
#include "machine/check.h"

#include <inttypes.h>

#include "base/error.h"
#include "machine/tables.h"

#define REG_ARCH_MASK UINT64_C(0xff00000000000000)
#define REG_ARM64 UINT64_C(0x6000000000000000)
#define REG_SIZE_SHIFT 52
#define REG_SIZE_LOG2_MASK 0xf
#define REG_RESERVED_MASK UINT64_C(0x000fffff00000000)

#define GIC_VERSION 3
#define GIC_IRQS_MIN 64
#define GIC_IRQS_UNIT 32
#define GIC_FRAME_ALIGN 0x10000 /* bytes; KVM_DEV_ARM_VGIC_GRP_ADDR wants 64 KiB */

#define MP_STATE_RUNNABLE 0 /* KVM_MP_STATE_* that arm64 knows */
#define MP_STATE_STOPPED 5
#define MP_STATE_SUSPENDED 10

#define fail_vcpu(err, index, fmt, ...)                                                            \
    stasis_fail(err, STASIS_ERR_INVALID_MACHINE, "arm64.vcpus[%zu]." fmt, index, __VA_ARGS__)

/* Bytes of the register that an id names, 0 when it names none. */
static size_t reg_size(uint64_t id)
{
    if ((id & REG_ARCH_MASK) != REG_ARM64 || id & REG_RESERVED_MASK)
        return 0;
    return (size_t)1 << (id >> REG_SIZE_SHIFT & REG_SIZE_LOG2_MASK);
}

static bool is_zero_from(const uint8_t *bytes, size_t from, size_t size)
{
    for (size_t i = from; i < size; i++) {
        if (bytes[i] != 0)
            return false;
    }
    return true;
}

static int check_regs(const struct stasis_arm64_vcpu *vcpu, size_t index, struct stasis_error *err)
{
    for (size_t i = 0; i < vcpu->regs_count; i++) {
        const struct stasis_arm64_reg *reg = &vcpu->regs[i];
        const size_t size = reg_size(reg->id);

        if (size == 0 || size > sizeof(reg->value))
            return fail_vcpu(err, index,
                             "regs[%zu].id: 0x%" PRIx64 " is no arm64 register of up to %zu bytes",
                             i, reg->id, sizeof(reg->value));
        if (!is_zero_from(reg->value, size, sizeof(reg->value)))
            return fail_vcpu(err, index, "regs[%zu].value: more than the %zu bytes of 0x%" PRIx64,
                             i, size, reg->id);
    }
    return 0;
}

static int check_wide_regs(const struct stasis_arm64_vcpu *vcpu, size_t index,
                           struct stasis_error *err)
{
    for (size_t i = 0; i < vcpu->wide_regs_count; i++) {
        const struct stasis_arm64_wide_reg *reg = &vcpu->wide_regs[i];
        const size_t size = reg_size(reg->id);

        if (size <= sizeof(((struct stasis_arm64_reg *)0)->value) || size != reg->value_size)
            return fail_vcpu(err, index, "wide_regs[%zu]: 0x%" PRIx64 " with a value of %zu bytes",
                             i, reg->id, reg->value_size);
    }
    return 0;
}

static int check_vcpu(const struct stasis_arm64_machine *machine, size_t index,
                      struct stasis_error *err)
{
    const struct stasis_arm64_vcpu *vcpu = &machine->vcpus[index];
    int r;

    if (vcpu->mp_state != MP_STATE_RUNNABLE && vcpu->mp_state != MP_STATE_STOPPED &&
        vcpu->mp_state != MP_STATE_SUSPENDED)
        return fail_vcpu(err, index, "mp_state: %" PRIu32 " is not one of an arm64 vCPU",
                         vcpu->mp_state);
    for (size_t i = 0; i < index; i++) {
        if (machine->vcpus[i].mpidr == vcpu->mpidr)
            return fail_vcpu(err, index, "mpidr: 0x%" PRIx64 " is that of vcpus[%zu] too",
                             vcpu->mpidr, i);
    }
    r = check_regs(vcpu, index, err);
    return r < 0 ? r : check_wide_regs(vcpu, index, err);
}

static int check_gic(const struct stasis_arm64_gic *gic, struct stasis_error *err)
{
    if (gic->version != GIC_VERSION)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "arm64.gic.version: %" PRIu32 ", only %d is known", gic->version,
                           GIC_VERSION);
    if (gic->irq_count < GIC_IRQS_MIN || gic->irq_count % GIC_IRQS_UNIT != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "arm64.gic.irq_count: %" PRIu32 " is not a multiple of %d from %d on",
                           gic->irq_count, GIC_IRQS_UNIT, GIC_IRQS_MIN);
    if ((gic->distributor_gpa | gic->redistributor_gpa | gic->its_gpa) % GIC_FRAME_ALIGN != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "arm64.gic: a frame is not at a multiple of 0x%x", GIC_FRAME_ALIGN);
    if (gic->its_gpa == 0 && gic->its_regs_count > 0)
        return stasis_fail(err, STASIS_ERR_INVALID_MACHINE,
                           "arm64.gic.its_regs: %zu registers of an ITS that is not there",
                           gic->its_regs_count);
    return 0;
}

int check_arm64_machine(const struct stasis_arm64_machine *machine, struct stasis_error *err)
{
    for (size_t i = 0; i < machine->vcpus_count; i++) {
        const int r = check_vcpu(machine, i, err);

        if (r < 0)
            return r;
    }
    return machine->gic ? check_gic(machine->gic, err) : 0;
}
