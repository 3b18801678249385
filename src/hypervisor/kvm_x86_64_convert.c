/*
 * kvm_x86_64_convert.c - KVM's structs <-> those of <stasis/x86_64.h>, field by field.
 *
 * Straight copies without a system call or an allocation. A field forgotten here is a register
 * lost at every save; tests/unit/test_kvm_convert.c gives each a value of its own, there and back.
 * Reserved bytes of KVM's structs are always written as zero.
 */
#include "hypervisor/kvm_x86_64.h"

#include <assert.h>
#include <string.h>

/* Members of the same name and meaning on both sides. */
#define COPY(member) (to->member = from->member)

void kvm_regs_from_kvm(const struct kvm_regs *from, struct stasis_x86_regs *to)
{
    COPY(rax), COPY(rbx), COPY(rcx), COPY(rdx), COPY(rsi), COPY(rdi), COPY(rsp), COPY(rbp);
    COPY(r8), COPY(r9), COPY(r10), COPY(r11), COPY(r12), COPY(r13), COPY(r14), COPY(r15);
    COPY(rip), COPY(rflags);
}

void kvm_regs_to_kvm(const struct stasis_x86_regs *from, struct kvm_regs *to)
{
    COPY(rax), COPY(rbx), COPY(rcx), COPY(rdx), COPY(rsi), COPY(rdi), COPY(rsp), COPY(rbp);
    COPY(r8), COPY(r9), COPY(r10), COPY(r11), COPY(r12), COPY(r13), COPY(r14), COPY(r15);
    COPY(rip), COPY(rflags);
}

static struct stasis_x86_segment segment_from_kvm(const struct kvm_segment *from)
{
    return (struct stasis_x86_segment){ .base = from->base,
                                        .limit = from->limit,
                                        .selector = from->selector,
                                        .type = from->type,
                                        .present = from->present,
                                        .dpl = from->dpl,
                                        .db = from->db,
                                        .s = from->s,
                                        .l = from->l,
                                        .g = from->g,
                                        .avl = from->avl,
                                        .unusable = from->unusable };
}

static struct kvm_segment segment_to_kvm(const struct stasis_x86_segment *from)
{
    return (struct kvm_segment){ .base = from->base,
                                 .limit = from->limit,
                                 .selector = from->selector,
                                 .type = from->type,
                                 .present = from->present,
                                 .dpl = from->dpl,
                                 .db = from->db,
                                 .s = from->s,
                                 .l = from->l,
                                 .g = from->g,
                                 .avl = from->avl,
                                 .unusable = from->unusable };
}

/* kvm_sregs and kvm_sregs2 are laid out alike up to here, which the kernel counts on too. */
#define SREGS_COMMON_SIZE offsetof(struct kvm_sregs2, flags)
static_assert(SREGS_COMMON_SIZE == offsetof(struct kvm_sregs, interrupt_bitmap),
              "kvm_sregs2 begins as kvm_sregs does");

#define COPY_CONTROL_REGISTERS()                                                                   \
    (COPY(gdt.base), COPY(gdt.limit), COPY(idt.base), COPY(idt.limit), COPY(cr0), COPY(cr2),       \
     COPY(cr3), COPY(cr4), COPY(cr8), COPY(efer), COPY(apic_base))

void kvm_sregs2_from_kvm(const struct kvm_sregs2 *from, struct stasis_x86_sregs *to)
{
    to->cs = segment_from_kvm(&from->cs);
    to->ds = segment_from_kvm(&from->ds);
    to->es = segment_from_kvm(&from->es);
    to->fs = segment_from_kvm(&from->fs);
    to->gs = segment_from_kvm(&from->gs);
    to->ss = segment_from_kvm(&from->ss);
    to->tr = segment_from_kvm(&from->tr);
    to->ldt = segment_from_kvm(&from->ldt);
    COPY_CONTROL_REGISTERS();
    to->pdptrs_valid = from->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
    for (size_t i = 0; i < 4; i++)
        to->pdptrs[i] = to->pdptrs_valid ? from->pdptrs[i] : 0;
}

void kvm_sregs2_to_kvm(const struct stasis_x86_sregs *from, struct kvm_sregs2 *to)
{
    memset(to, 0, sizeof(*to));
    to->cs = segment_to_kvm(&from->cs);
    to->ds = segment_to_kvm(&from->ds);
    to->es = segment_to_kvm(&from->es);
    to->fs = segment_to_kvm(&from->fs);
    to->gs = segment_to_kvm(&from->gs);
    to->ss = segment_to_kvm(&from->ss);
    to->tr = segment_to_kvm(&from->tr);
    to->ldt = segment_to_kvm(&from->ldt);
    COPY_CONTROL_REGISTERS();
    to->flags = from->pdptrs_valid ? KVM_SREGS2_FLAGS_PDPTRS_VALID : 0;
    for (size_t i = 0; i < 4; i++)
        to->pdptrs[i] = from->pdptrs[i];
}

void kvm_sregs_from_kvm(const struct kvm_sregs *from, struct stasis_x86_sregs *to)
{
    struct kvm_sregs2 common = { 0 };

    memcpy(&common, from, SREGS_COMMON_SIZE);
    kvm_sregs2_from_kvm(&common, to);
}

void kvm_sregs_to_kvm(const struct stasis_x86_sregs *from, struct kvm_sregs *to)
{
    struct kvm_sregs2 common;

    kvm_sregs2_to_kvm(from, &common);
    memset(to, 0, sizeof(*to));
    memcpy(to, &common, SREGS_COMMON_SIZE);
    for (size_t i = 0; i < 4 && from->has_interrupt_bitmap; i++)
        to->interrupt_bitmap[i] = from->interrupt_bitmap[i];
}

void kvm_interrupt_bitmap_from_kvm(const struct kvm_sregs *from, struct stasis_x86_sregs *to)
{
    to->has_interrupt_bitmap = true;
    for (size_t i = 0; i < 4; i++)
        to->interrupt_bitmap[i] = from->interrupt_bitmap[i];
}

void kvm_events_from_kvm(const struct kvm_vcpu_events *from, struct stasis_x86_events *to)
{
    COPY(exception.injected), COPY(exception.nr), COPY(exception.has_error_code);
    COPY(exception.pending), COPY(exception.error_code);
    to->exception.has_payload = from->exception_has_payload;
    to->exception.payload = from->exception_payload;
    COPY(interrupt.injected), COPY(interrupt.nr), COPY(interrupt.soft), COPY(interrupt.shadow);
    COPY(nmi.injected), COPY(nmi.pending), COPY(nmi.masked);
    COPY(smi.smm), COPY(smi.pending), COPY(smi.smm_inside_nmi), COPY(smi.latched_init);
    to->triple_fault_pending = from->triple_fault.pending;
    COPY(sipi_vector), COPY(flags);
}

void kvm_events_to_kvm(const struct stasis_x86_events *from, struct kvm_vcpu_events *to)
{
    memset(to, 0, sizeof(*to));
    COPY(exception.injected), COPY(exception.nr), COPY(exception.has_error_code);
    COPY(exception.pending), COPY(exception.error_code);
    to->exception_has_payload = from->exception.has_payload;
    to->exception_payload = from->exception.payload;
    COPY(interrupt.injected), COPY(interrupt.nr), COPY(interrupt.soft), COPY(interrupt.shadow);
    COPY(nmi.injected), COPY(nmi.pending), COPY(nmi.masked);
    COPY(smi.smm), COPY(smi.pending), COPY(smi.smm_inside_nmi), COPY(smi.latched_init);
    to->triple_fault.pending = from->triple_fault_pending;
    COPY(sipi_vector), COPY(flags);
}

void kvm_debugregs_from_kvm(const struct kvm_debugregs *from, struct stasis_x86_debugregs *to)
{
    COPY(db[0]), COPY(db[1]), COPY(db[2]), COPY(db[3]), COPY(dr6), COPY(dr7), COPY(flags);
}

void kvm_debugregs_to_kvm(const struct stasis_x86_debugregs *from, struct kvm_debugregs *to)
{
    memset(to, 0, sizeof(*to));
    COPY(db[0]), COPY(db[1]), COPY(db[2]), COPY(db[3]), COPY(dr6), COPY(dr7), COPY(flags);
}

#define COPY_PIC()                                                                                 \
    (COPY(last_irr), COPY(irr), COPY(imr), COPY(isr), COPY(priority_add), COPY(irq_base),          \
     COPY(read_reg_select), COPY(poll), COPY(special_mask), COPY(init_state), COPY(auto_eoi),      \
     COPY(rotate_on_auto_eoi), COPY(special_fully_nested_mode), COPY(init4), COPY(elcr),           \
     COPY(elcr_mask))

void kvm_pic_from_kvm(const struct kvm_pic_state *from, struct stasis_x86_pic *to)
{
    COPY_PIC();
}

void kvm_pic_to_kvm(const struct stasis_x86_pic *from, struct kvm_pic_state *to)
{
    memset(to, 0, sizeof(*to));
    COPY_PIC();
}

static_assert(KVM_IOAPIC_NUM_PINS == sizeof(((struct stasis_x86_ioapic *)0)->redirtbl) / 8,
              "as many pins as redirection entries");

void kvm_ioapic_from_kvm(const struct kvm_ioapic_state *from, struct stasis_x86_ioapic *to)
{
    COPY(base_address), COPY(ioregsel), COPY(id), COPY(irr);
    for (size_t i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
        to->redirtbl[i] = from->redirtbl[i].bits;
}

void kvm_ioapic_to_kvm(const struct stasis_x86_ioapic *from, struct kvm_ioapic_state *to)
{
    memset(to, 0, sizeof(*to));
    COPY(base_address), COPY(ioregsel), COPY(id), COPY(irr);
    for (size_t i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
        to->redirtbl[i].bits = from->redirtbl[i];
}

#define COPY_CHANNEL()                                                                             \
    (COPY(count), COPY(latched_count), COPY(count_latched), COPY(status_latched), COPY(status),    \
     COPY(read_state), COPY(write_state), COPY(write_latch), COPY(rw_mode), COPY(mode), COPY(bcd), \
     COPY(gate), COPY(count_load_time))

static void pit_channel_from_kvm(const struct kvm_pit_channel_state *from,
                                 struct stasis_x86_pit_channel *to)
{
    COPY_CHANNEL();
}

static void pit_channel_to_kvm(const struct stasis_x86_pit_channel *from,
                               struct kvm_pit_channel_state *to)
{
    COPY_CHANNEL();
}

void kvm_pit_from_kvm(const struct kvm_pit_state2 *from, struct stasis_x86_pit *to)
{
    for (size_t i = 0; i < 3; i++)
        pit_channel_from_kvm(&from->channels[i], &to->channels[i]);
    COPY(flags);
}

void kvm_pit_to_kvm(const struct stasis_x86_pit *from, struct kvm_pit_state2 *to)
{
    memset(to, 0, sizeof(*to));
    for (size_t i = 0; i < 3; i++)
        pit_channel_to_kvm(&from->channels[i], &to->channels[i]);
    COPY(flags);
}

void kvm_cpuid_from_kvm(const struct kvm_cpuid_entry2 *from, struct stasis_x86_cpuid *to)
{
    COPY(function), COPY(index), COPY(flags), COPY(eax), COPY(ebx), COPY(ecx), COPY(edx);
}

void kvm_cpuid_to_kvm(const struct stasis_x86_cpuid *from, struct kvm_cpuid_entry2 *to)
{
    memset(to, 0, sizeof(*to));
    COPY(function), COPY(index), COPY(flags), COPY(eax), COPY(ebx), COPY(ecx), COPY(edx);
}

/* The FXSAVE image that begins every XSAVE area: Intel SDM volume 1, table 10-2 (64-bit form). */
struct fxsave_image {
    uint16_t fcw, fsw;
    uint8_t ftwx, reserved;
    uint16_t last_opcode;
    uint64_t last_ip, last_dp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t fpr[8][16];
    uint8_t xmm[16][16];
    uint8_t unused[96];
    uint64_t xstate_bv; /* the XSAVE header begins here */
    uint64_t xcomp_bv;
    uint8_t header_reserved[48];
};
#define XSTATE_X87 0x1u
#define XSTATE_SSE 0x2u
#define FCW_INITIAL 0x37f
#define MXCSR_INITIAL 0x1f80
static_assert(sizeof(struct fxsave_image) == KVM_XSAVE_LEGACY_SIZE, "512 bytes and a header of 64");

void kvm_fpu_to_xsave(const struct kvm_fpu *from, uint8_t ret_xsave[KVM_XSAVE_LEGACY_SIZE])
{
    struct fxsave_image image = { .mxcsr_mask = 0xffff, .xstate_bv = XSTATE_X87 | XSTATE_SSE };
    struct fxsave_image *to = &image;

    COPY(fcw), COPY(fsw), COPY(ftwx), COPY(last_opcode), COPY(last_ip), COPY(last_dp), COPY(mxcsr);
    memcpy(image.fpr, from->fpr, sizeof(image.fpr));
    memcpy(image.xmm, from->xmm, sizeof(image.xmm));
    memcpy(ret_xsave, &image, sizeof(image));
}

void kvm_fpu_from_xsave(const uint8_t xsave[KVM_XSAVE_LEGACY_SIZE], struct kvm_fpu *to)
{
    struct fxsave_image image;
    const struct fxsave_image *from = &image;

    memcpy(&image, xsave, sizeof(image));
    /* A component whose bit is clear is in its initial state, whatever its bytes say. */
    if (!(image.xstate_bv & XSTATE_X87)) {
        memset(&image, 0, offsetof(struct fxsave_image, mxcsr));
        memset(image.fpr, 0, sizeof(image.fpr));
        image.fcw = FCW_INITIAL;
    }
    if (!(image.xstate_bv & XSTATE_SSE)) {
        memset(image.xmm, 0, sizeof(image.xmm));
        image.mxcsr = MXCSR_INITIAL;
    }
    memset(to, 0, sizeof(*to));
    COPY(fcw), COPY(fsw), COPY(ftwx), COPY(last_opcode), COPY(last_ip), COPY(last_dp), COPY(mxcsr);
    memcpy(to->fpr, image.fpr, sizeof(to->fpr));
    memcpy(to->xmm, image.xmm, sizeof(to->xmm));
}
