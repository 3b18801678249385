/* x86_64.h - the state of an x86-64 virtual machine, everything but RAM and the VMM's own devices.
 *
 * Plain structs with fixed-width members, laid out by us and not by the kernel: the meaning of each
 * is that of the KVM struct named beside it (Documentation/virt/kvm/api.rst), the layout is ours.
 * Each struct has a field table (stasis_x86_*_table); the tables are the list of what is saved. */
#ifndef STASIS_X86_64_H
#define STASIS_X86_64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/field.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Limits on what a machine may hold; larger is refused (STASIS_ERR_LIMIT), never truncated. */
#define STASIS_X86_VCPU_MAX 4096
#define STASIS_X86_CPUID_MAX 1024
#define STASIS_X86_MSR_MAX 4096
#define STASIS_X86_XCR_MAX 16
#define STASIS_X86_XSAVE_MAX (1024 * 1024)  /* bytes; the kernel's own struct grows by feature */
#define STASIS_X86_NESTED_MAX (1024 * 1024) /* bytes */

struct stasis_x86_cpuid {            /* kvm_cpuid_entry2 */
    uint32_t function, index, flags; /* flags: KVM_CPUID_FLAG_* */
    uint32_t eax, ebx, ecx, edx;
};

struct stasis_x86_regs { /* kvm_regs */
    uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
    uint64_t rip, rflags;
};

struct stasis_x86_segment { /* kvm_segment */
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint8_t type, present, dpl, db, s, l, g, avl, unusable;
};

struct stasis_x86_table_register { /* kvm_dtable */
    uint64_t base;
    uint16_t limit;
};

struct stasis_x86_sregs { /* kvm_sregs2; from kvm_sregs where the kernel has no KVM_CAP_SREGS2 */
    struct stasis_x86_segment cs, ds, es, fs, gs, ss, tr, ldt;
    struct stasis_x86_table_register gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
    bool pdptrs_valid; /* KVM_SREGS2_FLAGS_PDPTRS_VALID */
    uint64_t pdptrs[4];
    bool has_interrupt_bitmap;    /* read by KVM_GET_SREGS, so interrupt_bitmap means something */
    uint64_t interrupt_bitmap[4]; /* kvm_sregs: at most one bit, an injected external interrupt */
};

struct stasis_x86_xcr { /* kvm_xcr */
    uint32_t index;
    uint64_t value;
};

struct stasis_x86_debugregs { /* kvm_debugregs */
    uint64_t db[4], dr6, dr7, flags;
};

struct stasis_x86_msr { /* kvm_msr_entry */
    uint32_t index;
    uint64_t data;
};

struct stasis_x86_events { /* kvm_vcpu_events */
    struct {
        uint8_t injected, nr, has_error_code, pending;
        uint32_t error_code;
        uint8_t has_payload;
        uint64_t payload;
    } exception;
    struct {
        uint8_t injected, nr, soft, shadow;
    } interrupt;
    struct {
        uint8_t injected, pending, masked;
    } nmi;
    struct {
        uint8_t smm, pending, smm_inside_nmi, latched_init;
    } smi;
    uint8_t triple_fault_pending;
    uint32_t sipi_vector;
    uint32_t flags; /* KVM_VCPUEVENT_VALID_* as read */
};

struct stasis_x86_vcpu {
    uint32_t id; /* as given to KVM_CREATE_VCPU; the initial APIC id */
    uint32_t mp_state;
    uint32_t tsc_khz;
    bool has_tsc_offset; /* KVM_VCPU_TSC_OFFSET was readable */
    uint64_t tsc_offset; /* guest TSC - host TSC, modulo 2^64 */
    struct stasis_x86_cpuid *cpuid;
    size_t cpuid_count;
    struct stasis_x86_regs regs;
    struct stasis_x86_sregs sregs;
    uint8_t *xsave; /* XSAVE area, standard format, as KVM_GET_XSAVE2 gives it */
    size_t xsave_size;
    struct stasis_x86_xcr *xcrs;
    size_t xcrs_count;
    struct stasis_x86_debugregs debugregs;
    struct stasis_x86_msr *msrs; /* in the kernel's order */
    size_t msrs_count;
    uint8_t *lapic; /* 1024 bytes of kvm_lapic_state.regs, or empty: no in-kernel LAPIC */
    size_t lapic_size;
    struct stasis_x86_events events;
    uint8_t *nested; /* kvm_nested_state as read, or empty */
    size_t nested_size;
};

struct stasis_x86_pic { /* kvm_pic_state */
    uint8_t last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask;
    uint8_t init_state, auto_eoi, rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr;
    uint8_t elcr_mask;
};

struct stasis_x86_ioapic { /* kvm_ioapic_state */
    uint64_t base_address;
    uint32_t ioregsel, id, irr;
    uint64_t redirtbl[24];
};

struct stasis_x86_pit_channel { /* kvm_pit_channel_state */
    uint32_t count;
    uint16_t latched_count;
    uint8_t count_latched, status_latched, status, read_state, write_state, write_latch;
    uint8_t rw_mode, mode, bcd, gate;
    int64_t count_load_time; /* ns of the host's monotonic clock; made relative on restore by KVM */
};

struct stasis_x86_pit { /* kvm_pit_state2 */
    struct stasis_x86_pit_channel channels[3];
    uint32_t flags; /* KVM_PIT_FLAGS_* */
};

struct stasis_x86_clock { /* kvm_clock_data */
    uint64_t clock;       /* ns of kvmclock */
    uint32_t flags;       /* KVM_CLOCK_* : which of the two below the kernel gave */
    uint64_t realtime;    /* ns since the epoch, host; from CLOCK_REALTIME where KVM did not say */
    uint64_t host_tsc;    /* host TSC at the same moment; 0 when unknown */
};

struct stasis_x86_machine {
    struct stasis_x86_vcpu *vcpus;
    size_t vcpus_count;
    struct stasis_x86_pic *pics; /* master, slave; none with a split irqchip */
    size_t pics_count;
    struct stasis_x86_ioapic *ioapic; /* NULL: not in the kernel */
    struct stasis_x86_pit *pit;       /* NULL: not in the kernel */
    struct stasis_x86_clock clock;
};

STASIS_API extern const struct stasis_table stasis_x86_vcpu_table;
STASIS_API extern const struct stasis_table stasis_x86_machine_table;

#ifdef __cplusplus
}
#endif
#endif
