/*
 * tracker_vm.c - see tracker_vm.h.
 */
#include "tracker_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "unit.h"

#define PAGE ((uint64_t)STASIS_PAGE_SIZE)
#define MIB (UINT64_C(1024) * 1024)
#define REGION_1_GPA (4 * MIB + 3 * PAGE)
#define REGION_1_SIZE (6 * MIB)
#define SLOT_2_SIZE (2 * MIB + 5 * PAGE)
#define ELSEWHERE_GPA (16 * MIB)
#define CODE_GPA 0x1000u
#define COUNT_GPA 0x500u
#define LIST_GPA 0x600u
#define CR0_PE 1u
#define FULLS_MAX 10000 /* in one go */

static const uint8_t guest_code[] = {
    0xbe, 0x00, 0x06, 0x00, 0x00,       /* 0: mov  $0x600, %esi    */
    0x8b, 0x0d, 0x00, 0x05, 0x00, 0x00, /*    mov  0x500, %ecx     */
    0xe3, 0x0a,                         /* 1: jecxz 2f             */
    0xad,                               /*    lodsl                */
    0xff, 0x80, 0x00, 0x08, 0x00, 0x00, /*    incl 0x800(%eax)     */
    0x49,                               /*    dec  %ecx            */
    0xeb, 0xf4,                         /*    jmp  1b              */
    0xe6, 0x80,                         /* 2: out  %al, $0x80      */
    0xeb, 0xe5,                         /*    jmp  0b              */
};

#define must(call)                                                                                 \
    do {                                                                                           \
        if ((call) < 0)                                                                            \
            fail_msg("%s: %s", #call, strerror(errno));                                            \
    } while (0)

/* --- making it ------------------------------------------------------------------------------ */

static void add_slot(struct tracker_vm *vm, uint32_t number, uint64_t gpa, uint64_t size, void *hva)
{
    const struct kvm_userspace_memory_region region = { .slot = number,
                                                        .guest_phys_addr = gpa,
                                                        .memory_size = size,
                                                        .userspace_addr = (uintptr_t)hva };

    must(ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region));
    vm->slots[number] =
        (struct stasis_kvm_slot){ .slot = number, .gpa = gpa, .size = size, .hva = (uintptr_t)hva };
}

static void *map_memory(uint64_t size)
{
    void *hva = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(hva, MAP_FAILED);
    return hva;
}

static void make_memory(struct tracker_vm *vm)
{
    struct stasis_region *regions = vm->regions;

    regions[0] = (struct stasis_region){ .gpa = 0, .size = MIB, .hva = map_memory(MIB) };
    regions[1] = (struct stasis_region){ .gpa = REGION_1_GPA,
                                         .size = REGION_1_SIZE,
                                         .hva = map_memory(REGION_1_SIZE) };
    vm->hvas[3] = map_memory(MIB);
    vm->memory = (struct stasis_memory){ .regions = regions, .region_count = 2 };
    vm->page_count = stasis_memory_size(&vm->memory) / PAGE;
    add_slot(vm, 0, 0, MIB, regions[0].hva);
    add_slot(vm, 1, REGION_1_GPA + SLOT_2_SIZE, REGION_1_SIZE - SLOT_2_SIZE,
             (uint8_t *)regions[1].hva + SLOT_2_SIZE);
    add_slot(vm, 2, REGION_1_GPA, SLOT_2_SIZE, regions[1].hva);
    add_slot(vm, 3, ELSEWHERE_GPA, MIB, vm->hvas[3]);
}

static struct kvm_segment flat(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){ .limit = 0xffffffff,
                                 .selector = selector,
                                 .type = type,
                                 .present = 1,
                                 .db = 1,
                                 .s = 1,
                                 .g = 1 };
}

static void make_vcpu(struct tracker_vm *vm)
{
    struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 0x2 };
    struct kvm_sregs sregs;

    vm->vcpu_fd = ioctl(vm->vm_fd, KVM_CREATE_VCPU, 0ul);
    must(vm->vcpu_fd);
    vm->run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_fd, 0);
    assert_ptr_not_equal(vm->run, MAP_FAILED);
    must(ioctl(vm->vcpu_fd, KVM_GET_SREGS, &sregs));
    sregs.cs = flat(0x8, 0xb);
    sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = flat(0x10, 0x3);
    sregs.cr0 |= CR0_PE;
    must(ioctl(vm->vcpu_fd, KVM_SET_SREGS, &sregs));
    must(ioctl(vm->vcpu_fd, KVM_SET_REGS, &regs));
    memcpy((uint8_t *)vm->regions[0].hva + CODE_GPA, guest_code, sizeof(guest_code));
}

static void enable_rings(struct tracker_vm *vm, uint32_t ring_size)
{
    struct stasis_error err = { 0 };
    const int r = stasis_kvm_enable_dirty_ring(vm->vm_fd, ring_size, &err);

    if (r < 0 && err.code == STASIS_ERR_UNSUPPORTED) {
        tracker_vm_close(vm);
        unit_skip("%s", err.text);
    }
    assert_stasis_ok(r, &err);
}

void tracker_vm_open(struct tracker_vm *vm, uint32_t ring_size)
{
    memset(vm, 0, sizeof(*vm));
    vm->vm_fd = vm->vcpu_fd = -1;
    vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (vm->kvm_fd < 0)
        unit_skip("/dev/kvm: %s", strerror(errno));
    vm->run_size = (size_t)ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    vm->vm_fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0ul);
    must(vm->vm_fd);
    must(ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000ul)); /* away from our memory */
    if (ring_size > 0)
        enable_rings(vm, ring_size);
    make_memory(vm);
    make_vcpu(vm);
}

void tracker_vm_close(struct tracker_vm *vm)
{
    if (vm->kvm_fd <= 0)
        return;
    if (vm->run)
        munmap(vm->run, vm->run_size);
    if (vm->vcpu_fd >= 0)
        close(vm->vcpu_fd);
    if (vm->vm_fd >= 0)
        close(vm->vm_fd);
    close(vm->kvm_fd);
    for (size_t i = 0; i < 2; i++) {
        if (vm->regions[i].hva)
            munmap(vm->regions[i].hva, vm->regions[i].size);
    }
    if (vm->hvas[3])
        munmap(vm->hvas[3], MIB);
    memset(vm, 0, sizeof(*vm));
}

/* --- letting it write ----------------------------------------------------------------------- */

uint64_t tracker_vm_gpa(const struct tracker_vm *vm, uint64_t page)
{
    const uint64_t in_first = vm->regions[0].size / PAGE;

    return page < in_first ? page * PAGE : REGION_1_GPA + (page - in_first) * PAGE;
}

uint32_t *tracker_vm_word(const struct tracker_vm *vm, uint64_t page)
{
    const uint64_t in_first = vm->regions[0].size / PAGE;
    uint8_t *hva = page < in_first ? (uint8_t *)vm->regions[0].hva + page * PAGE
                                   : (uint8_t *)vm->regions[1].hva + (page - in_first) * PAGE;

    return (uint32_t *)(void *)(hva + TRACKER_VM_WORD);
}

static void run_to_out(struct tracker_vm *vm, struct stasis_tracker *tracker)
{
    struct stasis_error err = { 0 };

    for (int fulls = 0; fulls < FULLS_MAX; fulls++) {
        if (ioctl(vm->vcpu_fd, KVM_RUN, 0) < 0)
            fail_msg("KVM_RUN: %s", strerror(errno));
        if (vm->run->exit_reason == KVM_EXIT_IO)
            return;
        if (vm->run->exit_reason != KVM_EXIT_DIRTY_RING_FULL || !tracker)
            fail_msg("exit reason %u, expected an out", vm->run->exit_reason);
        vm->ring_fulls++;
        assert_stasis_ok(stasis_tracker_ring_full(tracker, &err), &err);
    }
    fail_msg("the ring is full for ever");
}

void tracker_vm_write(struct tracker_vm *vm, const uint64_t *pages, size_t page_count,
                      struct stasis_tracker *tracker)
{
    uint8_t *hva = vm->regions[0].hva;
    const uint32_t count = (uint32_t)page_count;

    assert_true(page_count <= TRACKER_VM_LIST_MAX);
    memcpy(hva + COUNT_GPA, &count, sizeof(count));
    for (size_t i = 0; i < page_count; i++) {
        const uint32_t gpa = pages[i] == TRACKER_VM_ELSEWHERE
                                 ? (uint32_t)(ELSEWHERE_GPA + i * PAGE % MIB)
                                 : (uint32_t)tracker_vm_gpa(vm, pages[i]);

        memcpy(hva + LIST_GPA + 4 * i, &gpa, sizeof(gpa));
    }
    run_to_out(vm, tracker);
}
