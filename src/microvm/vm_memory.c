/*
 * vm_memory.c - maps a VM's RAM, hands it to KVM, and sets up who tells what changes in it.
 *
 *     pages    fresh                         restored
 *     small    anonymous memory              the restore's own mapping, as it is
 *     THP      the same, with advice         the same, with advice (what lies in a file's mapping
 *                                            stays in small pages, the rest may become large)
 *     2 MiB    hugetlbfs pages, reserved     the same, and the restored content is copied into it
 *
 * Two parties write to a guest's RAM and neither sees the other: vCPUs (and KVM for them), whom KVM's
 * dirty log tells of, and our devices, which tell of themselves by guest_memory_written(). The union of
 * the two is the VM's tracker. If one write escapes both, every diff from then on restores a guest that
 * never was, with all its digests right: so whoever makes a device write to RAM in a new way looks there.
 */
#include "microvm/vm_memory.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/kvm.h>

#include "base/error.h"
#include "microvm/layout.h"

#define HUGE_PAGE_SIZE (UINT64_C(2) << 20) /* bytes */
#define HUGE_PAGE_SHIFT 21

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

/* --- mapping -------------------------------------------------------------------------------- */

size_t vm_layout_memory(uint64_t memory_size, struct stasis_region regions[2])
{
    const uint64_t low_size = memory_size < LAYOUT_LOW_RAM_MAX ? memory_size : LAYOUT_LOW_RAM_MAX;

    regions[0] = (struct stasis_region){ .gpa = 0, .size = low_size };
    if (low_size == memory_size)
        return 1;
    regions[1] =
        (struct stasis_region){ .gpa = LAYOUT_HIGH_RAM_GPA, .size = memory_size - low_size };
    return 2;
}

/* Small pages come when they are touched: the size is a promise, not a cost. Huge ones are reserved at
 * once, so that a pool which is too small is an error here and not a SIGBUS later. */
static void *map_region(uint64_t size, enum microvm_pages pages)
{
    const int flags =
        pages == MICROVM_PAGES_2M ? MAP_HUGETLB | HUGE_PAGE_SHIFT << MAP_HUGE_SHIFT : MAP_NORESERVE;

    return mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1,
                0);
}

static int fail_to_map(uint64_t size, enum microvm_pages pages, struct stasis_error *err)
{
    if (pages == MICROVM_PAGES_2M && errno == ENOMEM)
        return stasis_fail_errno_as(err, STASIS_ERR_OUT_OF_MEMORY,
                                    "map %" PRIu64 " pages of 2 MiB: the host's pool of them "
                                    "(/proc/sys/vm/nr_hugepages) has too few",
                                    size / HUGE_PAGE_SIZE);
    return stasis_fail_errno(err, "map %" PRIu64 " bytes of guest memory", size);
}

static int map_fresh(struct vm_memory *memory, uint64_t memory_size, enum microvm_pages pages,
                     struct stasis_error *err)
{
    struct stasis_region regions[2];
    const size_t count = vm_layout_memory(memory_size, regions);

    memory->guest.ram.regions = memory->regions;
    for (size_t i = 0; i < count; i++) {
        void *hva = map_region(regions[i].size, pages);

        if (hva == MAP_FAILED)
            return fail_to_map(regions[i].size, pages, err);
        regions[i].hva = hva;
        memory->regions[memory->guest.ram.region_count++] = regions[i];
    }
    return 0;
}

static void unmap(struct vm_memory *memory)
{
    if (memory->restored) {
        stasis_memory_unmap(&memory->guest.ram);
        return;
    }
    for (size_t i = 0; i < memory->guest.ram.region_count; i++)
        munmap(memory->regions[i].hva, (size_t)memory->regions[i].size);
}

/* --- what was restored ---------------------------------------------------------------------- */

static bool is_zero(const uint8_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, STASIS_PAGE_SIZE - 1) == 0;
}

/* Fresh pages are zero already; only data makes the kernel hand one out. */
static void copy_region(const struct stasis_region *from, const struct stasis_region *to)
{
    for (uint64_t offset = 0; offset < from->size; offset += STASIS_PAGE_SIZE) {
        const uint8_t *page = (const uint8_t *)from->hva + offset;

        if (!is_zero(page))
            memcpy((uint8_t *)to->hva + offset, page, STASIS_PAGE_SIZE);
    }
}

/* The layout of a snapshot is checked to be ours before (microvm_config_load()). */
static int copy_restored(struct vm_memory *memory, const struct stasis_memory *restored,
                         struct stasis_error *err)
{
    const int r = map_fresh(memory, stasis_memory_size(restored), MICROVM_PAGES_2M, err);

    for (size_t i = 0; r == 0 && i < restored->region_count; i++)
        copy_region(&restored->regions[i], &memory->regions[i]);
    return r;
}

static void take_restored(struct vm_memory *memory, struct stasis_memory *restored)
{
    memory->guest.ram = *restored;
    memory->restored = true;
    *restored = (struct stasis_memory){ 0 };
}

/* --- KVM ------------------------------------------------------------------------------------ */

/* A guest's RAM is not for the host's core files. THP is a wish: a kernel without it does without. */
static void advise(const struct stasis_memory *ram, enum microvm_pages pages)
{
    for (size_t i = 0; i < ram->region_count; i++) {
        const struct stasis_region *region = &ram->regions[i];

        (void)madvise(region->hva, (size_t)region->size, MADV_DONTDUMP);
        if (pages == MICROVM_PAGES_THP)
            (void)madvise(region->hva, (size_t)region->size, MADV_HUGEPAGE);
    }
}

static int set_slots(const struct stasis_memory *ram, int vm_fd, struct stasis_error *err)
{
    for (uint32_t i = 0; i < ram->region_count; i++) {
        const struct stasis_region *region = &ram->regions[i];
        const struct kvm_userspace_memory_region slot = {
            .slot = i,
            .guest_phys_addr = region->gpa,
            .memory_size = region->size,
            .userspace_addr = (uint64_t)(uintptr_t)region->hva,
        };

        if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
            return stasis_fail_errno_as(err, STASIS_ERR_KVM,
                                        "KVM_SET_USER_MEMORY_REGION 0x%" PRIx64 " + %" PRIu64,
                                        region->gpa, region->size);
    }
    return 0;
}

static int check_pages(uint64_t memory_size, enum microvm_pages pages, struct stasis_error *err)
{
    if (pages == MICROVM_PAGES_2M && memory_size % HUGE_PAGE_SIZE != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "%" PRIu64 " bytes of memory are not whole pages of 2 MiB", memory_size);
    return 0;
}

int vm_memory_add(struct vm_memory *memory, int vm_fd, uint64_t memory_size,
                  enum microvm_pages pages, struct stasis_memory *restored,
                  struct stasis_error *err)
{
    const uint64_t size = restored ? stasis_memory_size(restored) : memory_size;
    int r = check_pages(size, pages, err);

    if (r == 0 && !restored)
        r = map_fresh(memory, size, pages, err);
    else if (r == 0 && pages == MICROVM_PAGES_2M)
        r = copy_restored(memory, restored, err);
    else if (r == 0)
        take_restored(memory, restored);
    if (restored && restored->region_count > 0)
        stasis_memory_unmap(restored);
    if (r < 0)
        return r;
    advise(&memory->guest.ram, pages);
    return set_slots(&memory->guest.ram, vm_fd, err);
}

/* --- tracking ------------------------------------------------------------------------------- */

static int open_log(const struct vm_memory *memory, int vm_fd, struct stasis_tracker **ret_log,
                    struct stasis_error *err)
{
    const struct stasis_memory *ram = &memory->guest.ram;
    struct stasis_kvm_slot slots[2] = { 0 };

    for (uint32_t i = 0; i < ram->region_count; i++)
        slots[i] = (struct stasis_kvm_slot){ .slot = i,
                                             .gpa = ram->regions[i].gpa,
                                             .size = ram->regions[i].size,
                                             .hva = (uint64_t)(uintptr_t)ram->regions[i].hva };
    return stasis_tracker_open_kvm_log(vm_fd, slots, ram->region_count, ram, ret_log, err);
}

static int open_both(struct vm_memory *memory, int vm_fd, struct stasis_error *err)
{
    struct stasis_tracker *parts[2] = { NULL, NULL };
    int r = open_log(memory, vm_fd, &parts[0], err);

    if (r == 0)
        r = stasis_tracker_open_bitmap(&memory->guest.ram, NULL, &parts[1], err);
    if (r == 0)
        r = stasis_tracker_open_union(parts, 2, &memory->tracker, err);
    if (r < 0) {
        stasis_tracker_close(parts[0]);
        stasis_tracker_close(parts[1]);
    }
    return r;
}

int vm_memory_track(struct vm_memory *memory, int vm_fd, struct stasis_error *err)
{
    int r = open_both(memory, vm_fd, err);

    if (r == 0)
        r = stasis_tracker_arm(memory->tracker, err);
    if (r < 0) {
        vm_memory_untrack(memory);
        return stasis_wrap(err, r, "track changes of guest memory");
    }
    memory->guest.marks = memory->tracker;
    return 0;
}

void vm_memory_untrack(struct vm_memory *memory)
{
    memory->guest.marks = NULL;
    stasis_tracker_close(memory->tracker);
    memory->tracker = NULL;
}

void vm_memory_remove(struct vm_memory *memory)
{
    unmap(memory);
    *memory = (struct vm_memory){ 0 };
}
