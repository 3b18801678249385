/*
 * boot_vcpu.c - the registers in which a fresh vCPU begins.
 *
 * The first vCPU gets the state that a boot loader would leave behind (64-bit or PVH entry); the
 * others keep KVM's reset state and wait for their start-up interrupt. All get what firmware sets
 * up on every CPU: MTRRs that make RAM write-back, LINT pins, a clean FPU.
 */
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

#include "base/error.h"
#include "microvm/boot.h"
#include "microvm/layout.h"

#define CR0_PE UINT64_C(0x1)
#define CR0_ET UINT64_C(0x10)
#define CR0_PG UINT64_C(0x80000000)
#define CR4_PAE UINT64_C(0x20)
#define EFER_LME UINT64_C(0x100)
#define EFER_LMA UINT64_C(0x400)
#define RFLAGS_FIXED UINT64_C(0x2)

#define SELECTOR_CODE32 0x08u
#define SELECTOR_CODE64 0x10u
#define SELECTOR_DATA 0x18u
#define SEGMENT_CODE 0xbu /* execute, read, accessed */
#define SEGMENT_DATA 0x3u /* read, write, accessed */
#define SEGMENT_TSS_BUSY 0xbu

#define MSR_IA32_MISC_ENABLE 0x1a0u
#define MISC_ENABLE_FAST_STRING UINT64_C(0x1)
#define MSR_MTRR_DEF_TYPE 0x2ffu
#define MTRR_ENABLED_WRITE_BACK UINT64_C(0x806)

#define LAPIC_LVT_LINT0 0x350u
#define LAPIC_LVT_LINT1 0x360u
#define LAPIC_MODE_MASK UINT32_C(0x700)
#define LAPIC_MODE_NMI UINT32_C(0x400)
#define LAPIC_MODE_EXTINT UINT32_C(0x700)

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool is_long)
{
    return (struct kvm_segment){ .selector = selector,
                                 .limit = 0xffffffff,
                                 .type = type,
                                 .present = 1,
                                 .s = 1,
                                 .g = 1,
                                 .l = is_long,
                                 .db = !is_long };
}

static void set_segments(struct kvm_sregs *sregs, bool is_long)
{
    const struct kvm_segment data = flat_segment(SELECTOR_DATA, SEGMENT_DATA, false);

    sregs->cs = flat_segment(is_long ? SELECTOR_CODE64 : SELECTOR_CODE32, SEGMENT_CODE, is_long);
    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->tr = (struct kvm_segment){ .limit = 0x67, .type = SEGMENT_TSS_BUSY, .present = 1 };
    sregs->gdt = (struct kvm_dtable){ .base = LAYOUT_BOOT_GDT_GPA, .limit = 0x1f };
    sregs->idt = (struct kvm_dtable){ .base = LAYOUT_BOOT_IDT_GPA, .limit = 0 };
}

static int set_entry_sregs(int vcpu_fd, const struct boot_entry *entry, struct stasis_error *err)
{
    const bool is_long = entry->mode == BOOT_MODE_LONG;
    struct kvm_sregs sregs;

    if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_GET_SREGS");
    set_segments(&sregs, is_long);
    sregs.cr0 = CR0_PE | CR0_ET;
    if (is_long) {
        sregs.cr0 |= CR0_PG;
        sregs.cr3 = LAYOUT_PAGE_TABLES_GPA;
        sregs.cr4 |= CR4_PAE;
        sregs.efer |= EFER_LME | EFER_LMA;
    }
    if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_SET_SREGS");
    return 0;
}

static int set_entry_regs(int vcpu_fd, const struct boot_entry *entry, struct stasis_error *err)
{
    struct kvm_regs regs = { .rip = entry->entry_gpa, .rflags = RFLAGS_FIXED };

    if (entry->mode == BOOT_MODE_LONG) {
        regs.rsi = entry->info_gpa;
        regs.rsp = regs.rbp = LAYOUT_BOOT_STACK_GPA;
    } else {
        regs.rbx = entry->info_gpa;
    }
    if (ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_SET_REGS");
    return 0;
}

/* One by one, and a refusal is no failure: not every KVM lets every one of them be set, and a
 * guest runs without. */
static void set_firmware_msrs(int vcpu_fd)
{
    static const struct kvm_msr_entry wanted[] = {
        { .index = MSR_IA32_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRING },
        { .index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLED_WRITE_BACK },
    };

    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        struct {
            struct kvm_msrs header;
            struct kvm_msr_entry entry;
        } msrs = { .header.nmsrs = 1, .entry = wanted[i] };

        (void)ioctl(vcpu_fd, KVM_SET_MSRS, &msrs);
    }
}

static void set_lvt_mode(struct kvm_lapic_state *lapic, size_t offset, uint32_t mode)
{
    uint32_t lvt;

    memcpy(&lvt, lapic->regs + offset, sizeof(lvt));
    lvt = (lvt & ~LAPIC_MODE_MASK) | mode;
    memcpy(lapic->regs + offset, &lvt, sizeof(lvt));
}

/* LINT0 takes the PIC's interrupts, LINT1 is the NMI: as the MP specification wires PCs. */
static int set_local_interrupts(int vcpu_fd, struct stasis_error *err)
{
    struct kvm_lapic_state lapic;

    if (ioctl(vcpu_fd, KVM_GET_LAPIC, &lapic) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_GET_LAPIC");
    set_lvt_mode(&lapic, LAPIC_LVT_LINT0, LAPIC_MODE_EXTINT);
    set_lvt_mode(&lapic, LAPIC_LVT_LINT1, LAPIC_MODE_NMI);
    if (ioctl(vcpu_fd, KVM_SET_LAPIC, &lapic) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_SET_LAPIC");
    return 0;
}

static int set_fpu(int vcpu_fd, struct stasis_error *err)
{
    const struct kvm_fpu fpu = { .fcw = 0x37f, .mxcsr = 0x1f80 };

    if (ioctl(vcpu_fd, KVM_SET_FPU, &fpu) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_SET_FPU");
    return 0;
}

int boot_set_vcpu(int vcpu_fd, uint32_t index, const struct boot_entry *entry,
                  struct stasis_error *err)
{
    int r = set_fpu(vcpu_fd, err);

    set_firmware_msrs(vcpu_fd);
    if (r == 0)
        r = set_local_interrupts(vcpu_fd, err);
    if (r == 0 && index == 0)
        r = set_entry_sregs(vcpu_fd, entry, err);
    if (r == 0 && index == 0)
        r = set_entry_regs(vcpu_fd, entry, err);
    return r < 0 ? stasis_wrap(err, r, "vCPU %u", index) : 0;
}
