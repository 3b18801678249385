/*
 * kvm_slots.c - from KVM's memory slots, and bits of their dirty logs, to pages of the line of
 * memory.
 *
 * Slots and regions need not be the same: a VMM may split a region over slots, or have slots that
 * are no RAM. Each is cut along the other here; a region's page that no slot covers would never be
 * dirty, so that is refused.
 *
 *     slots     [   0   ][      2      ]   [ 1: not RAM ]
 *     regions   [    0      ][   1     ]
 *
 * KVM counts in pages of the host, which on arm64 may be 16 or 64 KiB, and pads a log to 64 bits
 * (Documentation/virt/kvm/api.rst, 4.8 and 4.117).
 */
#include "hypervisor/kvm_slots.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/kvm.h>

#include "base/error.h"
#include "memory/page_set.h"

/* One KVM_CLEAR_DIRTY_LOG copies and looks at 8 KiB of zero words in less time than another call
 * takes; and KVM holds its lock for the pages of one call, so those are bounded. */
#define CLEAR_GAP_WORDS 1024
#define CLEAR_PAGES_MAX 65536

/* --- opening -------------------------------------------------------------------------------- */

static uint32_t space_of(const struct stasis_kvm_slot *slot)
{
    return slot->slot >> 16;
}

static int slot_order(const void *x, const void *y)
{
    const struct stasis_kvm_slot *a = x;
    const struct stasis_kvm_slot *b = y;

    if (space_of(a) != space_of(b))
        return space_of(a) < space_of(b) ? -1 : 1;
    return (a->gpa > b->gpa) - (a->gpa < b->gpa);
}

static int check_slot(const struct stasis_kvm_slot *slot, uint32_t page_size,
                      struct stasis_error *err)
{
    uint64_t end;

    if (slot->size == 0 || slot->gpa % page_size != 0 || slot->size % page_size != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "memory slot %u (0x%jx, %ju bytes) is not of whole %u-byte pages",
                           slot->slot, (uintmax_t)slot->gpa, (uintmax_t)slot->size, page_size);
    if (__builtin_add_overflow(slot->gpa, slot->size, &end) ||
        slot->size / page_size > UINT32_MAX - 63)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "memory slot %u (0x%jx, %ju bytes) is larger than KVM takes", slot->slot,
                           (uintmax_t)slot->gpa, (uintmax_t)slot->size);
    if ((slot->flags & ~(uint32_t)KVM_MEM_READONLY) != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "memory slot %u has flags 0x%x, only KVM_MEM_READONLY is accepted",
                           slot->slot, slot->flags);
    return 0;
}

static int check_slots(const struct kvm_slots *slots, struct stasis_error *err)
{
    for (size_t i = 0; i < slots->slot_count; i++) {
        const struct stasis_kvm_slot *slot = &slots->slots[i];
        const struct stasis_kvm_slot *before = i > 0 ? slot - 1 : NULL;
        const int r = check_slot(slot, slots->host_page_size, err);

        if (r < 0)
            return r;
        if (before && space_of(before) == space_of(slot) && slot->gpa - before->gpa < before->size)
            return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                               "memory slots %u and %u overlap at 0x%jx", before->slot, slot->slot,
                               (uintmax_t)slot->gpa);
    }
    return 0;
}

/* Walks the slots of the first address space, in order, along each region. */
static int check_covered(const struct kvm_slots *slots, const struct region_map *map,
                         struct stasis_error *err)
{
    size_t s = 0;

    for (size_t i = 0; i < map->region_count; i++) {
        const uint64_t end = map->regions[i].gpa + map->regions[i].size;

        for (uint64_t gpa = map->regions[i].gpa; gpa < end;) {
            const struct stasis_kvm_slot *slot = &slots->slots[s];

            if (s >= slots->slot_count || space_of(slot) != 0 || slot->gpa > gpa)
                return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "no memory slot covers 0x%jx",
                                   (uintmax_t)gpa);
            if (gpa - slot->gpa < slot->size)
                gpa = slot->gpa + slot->size;
            if (gpa <= end)
                s++;
        }
    }
    return 0;
}

static uint64_t slot_pages(const struct kvm_slots *slots, const struct stasis_kvm_slot *slot)
{
    return slot->size / slots->host_page_size;
}

static int make_room(struct kvm_slots *slots, struct stasis_error *err)
{
    uint64_t words = 1;

    for (size_t i = 0; i < slots->slot_count; i++) {
        const uint64_t need = page_set_words(slot_pages(slots, &slots->slots[i]));

        words = need > words ? need : words;
    }
    slots->bits = calloc(words, sizeof(*slots->bits));
    return slots->bits ? 0 : stasis_fail_memory(err, "a dirty log");
}

int kvm_slots_init(struct kvm_slots *slots, const struct stasis_kvm_slot *from, size_t slot_count,
                   const struct region_map *map, struct stasis_error *err)
{
    int r;

    *slots = (struct kvm_slots){ .host_page_size = (uint32_t)sysconf(_SC_PAGESIZE) };
    if (slot_count == 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "no memory slots");
    slots->slots = calloc(slot_count, sizeof(*slots->slots));
    if (!slots->slots)
        return stasis_fail_memory(err, "memory slots");
    slots->slot_count = slot_count;
    memcpy(slots->slots, from, slot_count * sizeof(*from));
    qsort(slots->slots, slot_count, sizeof(*slots->slots), slot_order);

    r = check_slots(slots, err);
    if (r == 0)
        r = check_covered(slots, map, err);
    if (r == 0)
        r = make_room(slots, err);
    if (r < 0)
        kvm_slots_release(slots);
    return r;
}

void kvm_slots_release(struct kvm_slots *slots)
{
    free(slots->slots);
    free(slots->bits);
    *slots = (struct kvm_slots){ 0 };
}

/* --- switching ------------------------------------------------------------------------------ */

static int set_flags(const struct stasis_kvm_slot *slot, int vm_fd, uint32_t flags)
{
    const struct kvm_userspace_memory_region region = {
        .slot = slot->slot,
        .flags = slot->flags | flags,
        .guest_phys_addr = slot->gpa,
        .memory_size = slot->size,
        .userspace_addr = slot->hva,
    };

    return ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

int kvm_slots_log(const struct kvm_slots *slots, int vm_fd, bool on, struct stasis_error *err)
{
    int r = 0;

    for (size_t i = 0; i < slots->slot_count; i++) {
        if (set_flags(&slots->slots[i], vm_fd, on ? KVM_MEM_LOG_DIRTY_PAGES : 0) == 0)
            continue;
        r = stasis_fail_errno_as(err, STASIS_ERR_KVM,
                                 "KVM_SET_USER_MEMORY_REGION of slot %u to %s its dirty log",
                                 slots->slots[i].slot, on ? "begin" : "end");
        if (on) {
            while (i-- > 0)
                (void)set_flags(&slots->slots[i], vm_fd, 0);
            return r;
        }
    }
    return r;
}

/* --- reading -------------------------------------------------------------------------------- */

/* Host pages larger than ours: each bit is several pages. */
static void add_wide_bits(struct stasis_page_set *into, uint64_t first_page, const uint64_t *bits,
                          uint64_t first_bit, uint64_t bit_count, uint64_t pages_per_bit)
{
    for (uint64_t i = 0; i < bit_count; i++) {
        const uint64_t bit = first_bit + i;

        if ((bits[bit / 64] >> bit % 64 & 1) != 0)
            stasis_page_set_add(into, first_page + i * pages_per_bit, pages_per_bit);
    }
}

/* Every stretch of a region that the slot covers takes its bits. Regions are of whole host pages
 * where KVM could be given them; where one is not, its ends share a bit with what lies beyond. */
static void add_bits(const struct kvm_slots *slots, const struct stasis_kvm_slot *slot,
                     const struct region_map *map, struct stasis_page_set *into)
{
    const uint64_t pages_per_bit = slots->host_page_size / STASIS_PAGE_SIZE;
    const uint64_t slot_end = slot->gpa + slot->size;

    for (size_t i = region_map_find(map, slot->gpa);
         i < map->region_count && map->regions[i].gpa < slot_end; i++) {
        const struct stasis_region *region = &map->regions[i];
        const uint64_t region_end = region->gpa + region->size;
        const uint64_t from = region->gpa > slot->gpa ? region->gpa : slot->gpa;
        const uint64_t to = region_end < slot_end ? region_end : slot_end;
        const uint64_t first_page = map->first_pages[i] + (from - region->gpa) / STASIS_PAGE_SIZE;
        const uint64_t first_bit = (from - slot->gpa) / slots->host_page_size;
        const uint64_t end_bit =
            (to - slot->gpa + slots->host_page_size - 1) / slots->host_page_size;

        if (pages_per_bit == 1)
            page_set_add_bits(into, first_page, slots->bits, first_bit, end_bit - first_bit);
        else
            add_wide_bits(into, first_page, slots->bits, first_bit, end_bit - first_bit,
                          pages_per_bit);
    }
}

/* Words [first, end) of the log that was read. */
static int clear_words(const struct kvm_slots *slots, const struct stasis_kvm_slot *slot, int vm_fd,
                       uint64_t first, uint64_t end)
{
    const uint64_t pages = slot_pages(slots, slot);
    const uint64_t last = end * 64 < pages ? end * 64 : pages;
    struct kvm_clear_dirty_log log = {
        .slot = slot->slot,
        .num_pages = (uint32_t)(last - first * 64),
        .first_page = first * 64,
        .dirty_bitmap = slots->bits + first,
    };

    return ioctl(vm_fd, KVM_CLEAR_DIRTY_LOG, &log);
}

/* The end of the words from `first` on that go into one call: few zero words, not too many pages.
 * */
static uint64_t clear_end(const uint64_t *bits, uint64_t first, uint64_t word_count)
{
    uint64_t pages = (uint64_t)__builtin_popcountll(bits[first]);
    uint64_t end = first + 1;

    while (end < word_count && pages < CLEAR_PAGES_MAX) {
        const uint64_t used = words_next_used(bits, end, word_count);

        if (used == word_count || used - end > CLEAR_GAP_WORDS)
            break;
        pages += (uint64_t)__builtin_popcountll(bits[used]);
        end = used + 1;
    }
    return end;
}

static int clear_log(const struct kvm_slots *slots, const struct stasis_kvm_slot *slot, int vm_fd,
                     struct stasis_error *err)
{
    const uint64_t word_count = page_set_words(slot_pages(slots, slot));
    uint64_t first = words_next_used(slots->bits, 0, word_count);

    while (first < word_count) {
        const uint64_t end = clear_end(slots->bits, first, word_count);

        if (clear_words(slots, slot, vm_fd, first, end) < 0)
            return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_CLEAR_DIRTY_LOG of slot %u",
                                        slot->slot);
        first = words_next_used(slots->bits, end, word_count);
    }
    return 0;
}

static int read_slot(const struct kvm_slots *slots, const struct stasis_kvm_slot *slot, int vm_fd,
                     struct stasis_error *err)
{
    struct kvm_dirty_log log = { .slot = slot->slot, .dirty_bitmap = slots->bits };

    if (ioctl(vm_fd, KVM_GET_DIRTY_LOG, &log) == 0)
        return 0;
    if (errno == ENXIO)
        return stasis_fail(err, STASIS_ERR_UNSUPPORTED,
                           "the VM has dirty rings and keeps no dirty log");
    return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_GET_DIRTY_LOG of slot %u", slot->slot);
}

int kvm_slots_read_log(struct kvm_slots *slots, int vm_fd, bool manual,
                       const struct region_map *map, struct stasis_page_set *into,
                       struct stasis_error *err)
{
    for (size_t i = 0; i < slots->slot_count; i++) {
        const struct stasis_kvm_slot *slot = &slots->slots[i];
        int r = read_slot(slots, slot, vm_fd, err);

        if (r < 0)
            return r;
        add_bits(slots, slot, map, into);
        if (manual)
            r = clear_log(slots, slot, vm_fd, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- rings ---------------------------------------------------------------------------------- */

static const struct stasis_kvm_slot *find_slot(const struct kvm_slots *slots, uint32_t number)
{
    for (size_t i = 0; i < slots->slot_count; i++) {
        if (slots->slots[i].slot == number)
            return &slots->slots[i];
    }
    return NULL;
}

void kvm_slots_add_page(const struct kvm_slots *slots, uint32_t slot_number, uint64_t offset,
                        const struct region_map *map, struct stasis_page_set *into)
{
    const struct stasis_kvm_slot *slot = find_slot(slots, slot_number);
    uint64_t page;

    if (!slot || offset >= slot_pages(slots, slot))
        return;
    for (uint64_t off = 0; off < slots->host_page_size; off += STASIS_PAGE_SIZE) {
        if (region_map_page(map, slot->gpa + offset * slots->host_page_size + off, &page))
            stasis_page_set_add(into, page, 1);
    }
}
