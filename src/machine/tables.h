/* tables.h - tables and numbers that only this room needs to share. */
#ifndef STASIS_MACHINE_TABLES_H
#define STASIS_MACHINE_TABLES_H

#include <stasis/field.h>

#define X86_LAPIC_SIZE 1024          /* bytes of kvm_lapic_state.regs */
#define X86_XSAVE_SIZE_MIN 576       /* bytes: legacy area and header */
#define X86_NESTED_SIZE_MIN 128      /* bytes: the header of kvm_nested_state */
#define ARM64_WIDE_REG_SIZE_MAX 256  /* bytes: an SVE vector of 2048 bits */
#define ARM64_GIC_REG_MAX (1u << 20) /* a distributor, and for 4096 vCPUs redistributors */

extern const struct stasis_table x86_msr_table;
extern const struct stasis_table arm64_reg_table;
extern const struct stasis_table machine_device_table;

#endif
