/*
 * dirty_guest.c - sixteen bytes of 64-bit code that go through a list of addresses and write.
 *
 *     0x1000  PML4 -> 0x2000 PDPT -> 0x3000 one page directory for each GiB, 2 MiB pages, identity
 *     0x300000  list of addresses    0x280000  code
 *
 * There are no interrupts, no stack and no devices: the guest runs until its hlt.
 */
#include "dirty_guest.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm.h>

#define PML4_GPA 0x1000
#define PDPT_GPA 0x2000
#define PD_GPA 0x3000
#define CODE_GPA 0x280000
#define LIST_GPA 0x300000
#define GIB (UINT64_C(1) << 30)
#define ENTRY_PRESENT 0x3 /* and writable */
#define ENTRY_LARGE 0x83

static const uint8_t code[] = {
    0x48, 0x8b, 0x06,       /* next: mov rax, [rsi] */
    0x48, 0x89, 0x18,       /*       mov [rax], rbx */
    0x48, 0x83, 0xc6, 0x08, /*       add rsi, 8 */
    0x48, 0xff, 0xc9,       /*       dec rcx */
    0x75, 0xf1,             /*       jnz next */
    0xf4,                   /*       hlt */
};

static uint64_t *guest_words(const struct dirty_guest *guest, uint64_t gpa)
{
    return (uint64_t *)(void *)((uint8_t *)guest->region.hva + gpa);
}

static void build_tables(const struct dirty_guest *guest)
{
    const uint64_t gib_count = (guest->region.size + GIB - 1) / GIB;

    guest_words(guest, PML4_GPA)[0] = PDPT_GPA | ENTRY_PRESENT;
    for (uint64_t i = 0; i < gib_count; i++) {
        uint64_t *directory = guest_words(guest, PD_GPA + i * 4096);

        guest_words(guest, PDPT_GPA)[i] = (PD_GPA + i * 4096) | ENTRY_PRESENT;
        for (uint64_t j = 0; j < 512; j++)
            directory[j] = (i * GIB + j * (GIB / 512)) | ENTRY_LARGE;
    }
    memcpy(guest_words(guest, CODE_GPA), code, sizeof(code));
}

static bool set_long_mode(const struct dirty_guest *guest)
{
    const struct kvm_segment flat = {
        .limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1
    };
    struct kvm_sregs sregs;

    if (ioctl(guest->vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
        return false;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
    sregs.cs = flat;
    sregs.cs.selector = 0x8;
    sregs.cs.type = 11;
    sregs.cs.db = 0;
    sregs.cs.l = 1;
    sregs.cr3 = PML4_GPA;
    sregs.cr4 = 0x20;       /* PAE */
    sregs.cr0 = 0x80000011; /* PG, ET, PE */
    sregs.efer = 0x500;     /* LME, LMA */
    return ioctl(guest->vcpu_fd, KVM_SET_SREGS, &sregs) == 0;
}

static bool make_vm(struct dirty_guest *guest)
{
    struct kvm_userspace_memory_region slot = { .memory_size = guest->region.size };
    struct stasis_error err;

    slot.userspace_addr = (uint64_t)(uintptr_t)guest->region.hva;
    guest->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (guest->kvm_fd < 0 || stasis_kvm_host_probe(guest->kvm_fd, &guest->host, &err) < 0)
        return false;
    guest->vm_fd = ioctl(guest->kvm_fd, KVM_CREATE_VM, 0);
    if (guest->vm_fd < 0 || ioctl(guest->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
        return false;
    guest->vcpu_fd = ioctl(guest->vm_fd, KVM_CREATE_VCPU, 0);
    return guest->vcpu_fd >= 0 && set_long_mode(guest);
}

bool dirty_guest_make(struct dirty_guest *guest, uint64_t size, const char **why)
{
    *guest = (struct dirty_guest){
        .kvm_fd = -1, .vm_fd = -1, .vcpu_fd = -1, .region = { .size = size }
    };
    guest->memory = (struct stasis_memory){ .regions = &guest->region, .region_count = 1 };
    guest->region.hva = mmap(NULL, size, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *why = "no memory";
    if (guest->region.hva == MAP_FAILED) {
        guest->region.hva = NULL;
        return false;
    }
    *why = "no KVM that runs it";
    if (!make_vm(guest)) {
        dirty_guest_release(guest);
        return false;
    }
    build_tables(guest);
    guest->view = (struct stasis_kvm_vm){ .vm_fd = guest->vm_fd,
                                          .vcpu_fds = &guest->vcpu_fd,
                                          .vcpu_count = 1 };
    return true;
}

void dirty_guest_release(struct dirty_guest *guest)
{
    const int fds[] = { guest->vcpu_fd, guest->vm_fd, guest->kvm_fd };

    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    stasis_kvm_host_free(guest->host);
    if (guest->region.hva)
        munmap(guest->region.hva, guest->region.size);
    *guest = (struct dirty_guest){ .kvm_fd = -1, .vm_fd = -1, .vcpu_fd = -1 };
}

bool dirty_guest_write(struct dirty_guest *guest, const uint64_t *pages, size_t count,
                       uint64_t value)
{
    const struct kvm_regs regs = {
        .rip = CODE_GPA, .rsi = LIST_GPA, .rbx = value, .rcx = count, .rflags = 2
    };
    const long run_size = ioctl(guest->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_run *run;
    bool halted;
    int r;

    for (size_t i = 0; i < count; i++)
        guest_words(guest, LIST_GPA)[i] = pages[i] * STASIS_PAGE_SIZE;
    if (run_size < 0 || ioctl(guest->vcpu_fd, KVM_SET_REGS, &regs) < 0)
        return false;
    run = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, guest->vcpu_fd, 0);
    if (run == MAP_FAILED)
        return false;
    do {
        r = ioctl(guest->vcpu_fd, KVM_RUN, 0);
    } while (r == 0 && run->exit_reason == KVM_EXIT_INTR);
    halted = r == 0 && run->exit_reason == KVM_EXIT_HLT;
    munmap(run, (size_t)run_size);
    return halted;
}
