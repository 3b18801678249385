/* arm64.h - the state of an arm64 virtual machine, everything but RAM and the VMM's own devices.
 *
 * Registers are (id, value) pairs under KVM's ONE_REG ids (Documentation/virt/kvm/api.rst, 4.68):
 * the kernel's KVM_GET_REG_LIST says which exist, so a new system register needs no change here. */
#ifndef STASIS_ARM64_H
#define STASIS_ARM64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/field.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STASIS_ARM64_VCPU_MAX 4096
#define STASIS_ARM64_REG_MAX 16384
#define STASIS_ARM64_FEATURE_WORDS 7

struct stasis_arm64_reg {
    uint64_t id;       /* KVM_REG_ARM64 | size | group */
    uint8_t value[16]; /* little-endian, the low (size) bytes; the rest zero */
};

struct stasis_arm64_wide_reg { /* SVE and other registers of more than 16 bytes */
    uint64_t id;
    uint8_t *value;
    size_t value_size; /* bytes, at most 256 */
};

struct stasis_arm64_events { /* kvm_vcpu_events */
    uint8_t serror_pending, serror_has_esr, ext_dabt_pending;
    uint64_t serror_esr;
};

struct stasis_arm64_vcpu {
    uint64_t mpidr;
    uint32_t target;                               /* kvm_vcpu_init.target */
    uint32_t features[STASIS_ARM64_FEATURE_WORDS]; /* kvm_vcpu_init.features */
    uint32_t mp_state;
    struct stasis_arm64_reg *regs; /* in KVM_GET_REG_LIST order */
    size_t regs_count;
    struct stasis_arm64_wide_reg *wide_regs;
    size_t wide_regs_count;
    struct stasis_arm64_events events;
};

/* One attribute of a KVM device: group and attr as for the ioctl. */
struct stasis_arm64_device_reg {
    uint32_t group;
    uint64_t attr;
    uint64_t value;
};

struct stasis_arm64_gic { /* GICv3: distributor, redistributors, CPU interface, ITS */
    uint32_t version;     /* 3 */
    uint64_t distributor_gpa, redistributor_gpa, its_gpa; /* its_gpa 0: no ITS */
    uint32_t irq_count;
    struct stasis_arm64_device_reg *regs; /* distributor, redistributor and CPU interface */
    size_t regs_count;
    struct stasis_arm64_device_reg *its_regs;
    size_t its_regs_count;
};

struct stasis_arm64_machine {
    struct stasis_arm64_vcpu *vcpus;
    size_t vcpus_count;
    struct stasis_arm64_gic *gic; /* NULL: not in the kernel */
    uint64_t counter_frequency_hz;
    uint64_t counter_value; /* virtual counter at capture */
    uint64_t realtime;      /* ns since the epoch at capture, host CLOCK_REALTIME */
};

STASIS_API extern const struct stasis_table stasis_arm64_vcpu_table;
STASIS_API extern const struct stasis_table stasis_arm64_machine_table;

#ifdef __cplusplus
}
#endif
#endif
