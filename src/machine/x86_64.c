/*
 * x86_64.c - the field tables of an x86-64 machine.
 *
 * One line per field of <stasis/x86_64.h>: this is the list of what is saved. Names and order are in
 * files for ever; a field added later is OPTIONAL. Limits are those that the architecture or KVM's
 * own checks set, so that nothing KVM hands out is refused. A field missing here is lost on save
 * without a word.
 *
 * VOLATILE marks what ticks, or is counted from the host's clocks. Registers that tick but stand in
 * lists with others that do not (MSRs, the LAPIC page) are told apart in compare_rules.c.
 */
#include <stasis/x86_64.h>

#include "machine/tables.h"

#define HEX .show = STASIS_SHOW_HEX
#define FLAG .max = 1 /* one bit of hardware in a byte */

#define CPUID(member, ...) STASIS_F(struct stasis_x86_cpuid, member, U32, HEX, __VA_ARGS__)
static const struct stasis_field cpuid_fields[] = {
    CPUID(function, .flags = STASIS_FIELD_KEY),
    CPUID(index, .flags = STASIS_FIELD_KEY),
    CPUID(flags),
    CPUID(eax),
    CPUID(ebx),
    CPUID(ecx),
    CPUID(edx),
};
static const struct stasis_table cpuid_table = STASIS_TABLE(struct stasis_x86_cpuid, cpuid_fields);

#define REG(member) STASIS_F(struct stasis_x86_regs, member, U64, HEX)
static const struct stasis_field regs_fields[] = {
    REG(rax), REG(rbx), REG(rcx), REG(rdx), REG(rsi), REG(rdi), REG(rsp), REG(rbp), REG(r8),
    REG(r9),  REG(r10), REG(r11), REG(r12), REG(r13), REG(r14), REG(r15), REG(rip), REG(rflags),
};
static const struct stasis_table regs_table = STASIS_TABLE(struct stasis_x86_regs, regs_fields);

#define SEGMENT(member, kind, ...) STASIS_F(struct stasis_x86_segment, member, kind, __VA_ARGS__)
static const struct stasis_field segment_fields[] = {
    SEGMENT(base, U64, HEX),     SEGMENT(limit, U32, HEX),
    SEGMENT(selector, U16, HEX), SEGMENT(type, U8, HEX, .max = 15),
    SEGMENT(present, U8, FLAG),  SEGMENT(dpl, U8, .max = 3),
    SEGMENT(db, U8, FLAG),       SEGMENT(s, U8, FLAG),
    SEGMENT(l, U8, FLAG),        SEGMENT(g, U8, FLAG),
    SEGMENT(avl, U8, FLAG),      SEGMENT(unusable, U8, FLAG),
};
static const struct stasis_table segment_table =
    STASIS_TABLE(struct stasis_x86_segment, segment_fields);

static const struct stasis_field table_register_fields[] = {
    STASIS_F(struct stasis_x86_table_register, base, U64, HEX),
    STASIS_F(struct stasis_x86_table_register, limit, U16, HEX),
};
static const struct stasis_table table_register_table =
    STASIS_TABLE(struct stasis_x86_table_register, table_register_fields);

#define SREGS(member, kind, ...) STASIS_F(struct stasis_x86_sregs, member, kind, __VA_ARGS__)
#define SREGS_SEGMENT(member) SREGS(member, STRUCT, .table = &segment_table)
#define SREGS_ARRAY(member) STASIS_F_ARRAY(struct stasis_x86_sregs, member, U64, HEX)
static const struct stasis_field sregs_fields[] = {
    SREGS_SEGMENT(cs),
    SREGS_SEGMENT(ds),
    SREGS_SEGMENT(es),
    SREGS_SEGMENT(fs),
    SREGS_SEGMENT(gs),
    SREGS_SEGMENT(ss),
    SREGS_SEGMENT(tr),
    SREGS_SEGMENT(ldt),
    SREGS(gdt, STRUCT, .table = &table_register_table),
    SREGS(idt, STRUCT, .table = &table_register_table),
    SREGS(cr0, U64, HEX),
    SREGS(cr2, U64, HEX),
    SREGS(cr3, U64, HEX),
    SREGS(cr4, U64, HEX),
    SREGS(cr8, U64, HEX, .max = 15),
    SREGS(efer, U64, HEX),
    SREGS(apic_base, U64, HEX),
    SREGS(pdptrs_valid, BOOL),
    SREGS_ARRAY(pdptrs),
    SREGS(has_interrupt_bitmap, BOOL),
    SREGS_ARRAY(interrupt_bitmap),
};
static const struct stasis_table sregs_table = STASIS_TABLE(struct stasis_x86_sregs, sregs_fields);

static const struct stasis_field xcr_fields[] = {
    STASIS_F(struct stasis_x86_xcr, index, U32, .flags = STASIS_FIELD_KEY),
    STASIS_F(struct stasis_x86_xcr, value, U64, HEX),
};
static const struct stasis_table xcr_table = STASIS_TABLE(struct stasis_x86_xcr, xcr_fields);

#define DEBUG(member, ...) STASIS_F(struct stasis_x86_debugregs, member, U64, HEX, __VA_ARGS__)
static const struct stasis_field debugregs_fields[] = {
    STASIS_F_ARRAY(struct stasis_x86_debugregs, db, U64, HEX),
    DEBUG(dr6, .max = UINT32_MAX), /* the upper halves are reserved, KVM refuses them */
    DEBUG(dr7, .max = UINT32_MAX),
    DEBUG(flags),
};
static const struct stasis_table debugregs_table =
    STASIS_TABLE(struct stasis_x86_debugregs, debugregs_fields);

static const struct stasis_field msr_fields[] = {
    STASIS_F(struct stasis_x86_msr, index, U32, HEX, .flags = STASIS_FIELD_KEY),
    STASIS_F(struct stasis_x86_msr, data, U64, HEX),
};
const struct stasis_table x86_msr_table = STASIS_TABLE(struct stasis_x86_msr, msr_fields);

/* The nested structs of the events have no names of their own. */
typedef __typeof__(((struct stasis_x86_events *)0)->exception) events_exception;
typedef __typeof__(((struct stasis_x86_events *)0)->interrupt) events_interrupt;
typedef __typeof__(((struct stasis_x86_events *)0)->nmi) events_nmi;
typedef __typeof__(((struct stasis_x86_events *)0)->smi) events_smi;

static const struct stasis_field exception_fields[] = {
    STASIS_F(events_exception, injected, U8, FLAG),
    STASIS_F(events_exception, nr, U8),
    STASIS_F(events_exception, has_error_code, U8, FLAG),
    STASIS_F(events_exception, pending, U8, FLAG),
    STASIS_F(events_exception, error_code, U32, HEX),
    STASIS_F(events_exception, has_payload, U8, FLAG),
    STASIS_F(events_exception, payload, U64, HEX),
};
static const struct stasis_table exception_table = STASIS_TABLE(events_exception, exception_fields);

static const struct stasis_field interrupt_fields[] = {
    STASIS_F(events_interrupt, injected, U8, FLAG), STASIS_F(events_interrupt, nr, U8),
    STASIS_F(events_interrupt, soft, U8, FLAG),
    STASIS_F(events_interrupt, shadow, U8, .max = 3), /* KVM_X86_SHADOW_INT_* */
};
static const struct stasis_table interrupt_table = STASIS_TABLE(events_interrupt, interrupt_fields);

static const struct stasis_field nmi_fields[] = {
    STASIS_F(events_nmi, injected, U8, FLAG),
    STASIS_F(events_nmi, pending, U8), /* a count: one more may wait behind the one in service */
    STASIS_F(events_nmi, masked, U8, FLAG),
};
static const struct stasis_table nmi_table = STASIS_TABLE(events_nmi, nmi_fields);

static const struct stasis_field smi_fields[] = {
    STASIS_F(events_smi, smm, U8, FLAG),
    STASIS_F(events_smi, pending, U8, FLAG),
    STASIS_F(events_smi, smm_inside_nmi, U8, FLAG),
    STASIS_F(events_smi, latched_init, U8, FLAG),
};
static const struct stasis_table smi_table = STASIS_TABLE(events_smi, smi_fields);

#define EVENTS(member, kind, ...) STASIS_F(struct stasis_x86_events, member, kind, __VA_ARGS__)
static const struct stasis_field events_fields[] = {
    EVENTS(exception, STRUCT, .table = &exception_table),
    EVENTS(interrupt, STRUCT, .table = &interrupt_table),
    EVENTS(nmi, STRUCT, .table = &nmi_table),
    EVENTS(smi, STRUCT, .table = &smi_table),
    EVENTS(triple_fault_pending, U8, FLAG),
    EVENTS(sipi_vector, U32, HEX),
    EVENTS(flags, U32, HEX),
};
static const struct stasis_table events_table =
    STASIS_TABLE(struct stasis_x86_events, events_fields);

#define VCPU(member, kind, ...) STASIS_F(struct stasis_x86_vcpu, member, kind, __VA_ARGS__)
#define VCPU_BLOB(member, limit) STASIS_F_BLOB(struct stasis_x86_vcpu, member, limit, HEX)
#define VCPU_LIST(member, limit, table_)                                                           \
    STASIS_F_LIST(struct stasis_x86_vcpu, member, limit, table_, .max = 0)
static const struct stasis_field vcpu_fields[] = {
    VCPU(id, U32),
    VCPU(mp_state, U32),
    VCPU(tsc_khz, U32, .unit = "kHz"),
    VCPU(has_tsc_offset, BOOL),
    VCPU(tsc_offset, U64, HEX, .flags = STASIS_FIELD_VOLATILE), /* counts from the host's TSC */
    VCPU_LIST(cpuid, STASIS_X86_CPUID_MAX, &cpuid_table),
    VCPU(regs, STRUCT, .table = &regs_table),
    VCPU(sregs, STRUCT, .table = &sregs_table),
    VCPU_BLOB(xsave, STASIS_X86_XSAVE_MAX),
    VCPU_LIST(xcrs, STASIS_X86_XCR_MAX, &xcr_table),
    VCPU(debugregs, STRUCT, .table = &debugregs_table),
    VCPU_LIST(msrs, STASIS_X86_MSR_MAX, &x86_msr_table),
    VCPU_BLOB(lapic, X86_LAPIC_SIZE),
    VCPU(events, STRUCT, .table = &events_table),
    VCPU_BLOB(nested, STASIS_X86_NESTED_MAX),
};
const struct stasis_table stasis_x86_vcpu_table = STASIS_TABLE(struct stasis_x86_vcpu, vcpu_fields);

#define PIC(member) STASIS_F(struct stasis_x86_pic, member, U8, HEX)
static const struct stasis_field pic_fields[] = {
    PIC(last_irr),
    PIC(irr),
    PIC(imr),
    PIC(isr),
    PIC(priority_add),
    PIC(irq_base),
    PIC(read_reg_select),
    PIC(poll),
    PIC(special_mask),
    PIC(init_state),
    PIC(auto_eoi),
    PIC(rotate_on_auto_eoi),
    PIC(special_fully_nested_mode),
    PIC(init4),
    PIC(elcr),
    PIC(elcr_mask),
};
static const struct stasis_table pic_table = STASIS_TABLE(struct stasis_x86_pic, pic_fields);

#define IOAPIC(member, kind) STASIS_F(struct stasis_x86_ioapic, member, kind, HEX)
static const struct stasis_field ioapic_fields[] = {
    IOAPIC(base_address, U64),
    IOAPIC(ioregsel, U32),
    IOAPIC(id, U32),
    IOAPIC(irr, U32),
    STASIS_F_ARRAY(struct stasis_x86_ioapic, redirtbl, U64, HEX),
};
static const struct stasis_table ioapic_table =
    STASIS_TABLE(struct stasis_x86_ioapic, ioapic_fields);

#define CHANNEL(member, kind, ...)                                                                 \
    STASIS_F(struct stasis_x86_pit_channel, member, kind, __VA_ARGS__)
static const struct stasis_field pit_channel_fields[] = {
    CHANNEL(count, U32, .unit = "ticks"),
    CHANNEL(latched_count, U16, .unit = "ticks"),
    CHANNEL(count_latched, U8),
    CHANNEL(status_latched, U8),
    CHANNEL(status, U8, HEX),
    CHANNEL(read_state, U8),
    CHANNEL(write_state, U8),
    CHANNEL(write_latch, U8, HEX),
    CHANNEL(rw_mode, U8),
    CHANNEL(mode, U8),
    CHANNEL(bcd, U8),
    CHANNEL(gate, U8),
    CHANNEL(count_load_time, S64, .unit = "ns", .flags = STASIS_FIELD_VOLATILE), /* host's clock */
};
static const struct stasis_table pit_channel_table =
    STASIS_TABLE(struct stasis_x86_pit_channel, pit_channel_fields);

static const struct stasis_field pit_fields[] = {
    STASIS_F_ARRAY(struct stasis_x86_pit, channels, STRUCT, .table = &pit_channel_table),
    STASIS_F(struct stasis_x86_pit, flags, U32, HEX),
};
static const struct stasis_table pit_table = STASIS_TABLE(struct stasis_x86_pit, pit_fields);

#define CLOCK(member, ...)                                                                         \
    STASIS_F(struct stasis_x86_clock, member, U64, .flags = STASIS_FIELD_VOLATILE, __VA_ARGS__)
static const struct stasis_field clock_fields[] = {
    CLOCK(clock, .unit = "ns"),
    /* Which of the others KVM gave: it may say otherwise a moment later. */
    STASIS_F(struct stasis_x86_clock, flags, U32, HEX, .flags = STASIS_FIELD_VOLATILE),
    CLOCK(realtime, .unit = "ns"),
    CLOCK(host_tsc, HEX),
};
static const struct stasis_table clock_table = STASIS_TABLE(struct stasis_x86_clock, clock_fields);

#define MACHINE(member, kind, ...) STASIS_F(struct stasis_x86_machine, member, kind, __VA_ARGS__)
#define MACHINE_LIST(member, limit, table_)                                                        \
    STASIS_F_LIST(struct stasis_x86_machine, member, limit, table_, .max = 0)
static const struct stasis_field machine_fields[] = {
    MACHINE_LIST(vcpus, STASIS_X86_VCPU_MAX, &stasis_x86_vcpu_table),
    MACHINE_LIST(pics, 2, &pic_table),
    MACHINE(ioapic, PART, .table = &ioapic_table),
    MACHINE(pit, PART, .table = &pit_table),
    MACHINE(clock, STRUCT, .table = &clock_table),
};
const struct stasis_table stasis_x86_machine_table =
    STASIS_TABLE(struct stasis_x86_machine, machine_fields);
