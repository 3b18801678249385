/*
 * kvm_dirty_ring.c - the tracker that empties KVM's dirty rings, one for each vCPU.
 *
 * A vCPU that writes to a protected page puts (slot, page) into its ring, in memory shared with us:
 *
 *     entry.flags   0 --KVM: filled--> DIRTY --we: read it--> RESET --KVM_RESET_DIRTY_RINGS--> 0
 *
 * The last step protects the page again. Until then, writes to it are not told; but its entry was
 * read in the same breath, so it is in that harvest, whose reader comes later. The flags order
 * everything else: load with acquire, store with release (Documentation/virt/kvm/api.rst, 8.29).
 *
 * A ring that KVM filled all around may have lost entries; then all of memory is dirty, once.
 *
 * vCPU threads empty rings too, when KVM_RUN says that theirs is full; so a lock, and pages that
 * wait for the next harvest. All rings are emptied at once: a reset concerns all of them.
 */
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm.h>

#include "base/error.h"
#include "hypervisor/kvm_slots.h"
#include "memory/tracker.h"

#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP /* include/uapi/linux/kvm.h, since Linux 6.2 */
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif

/* --- enabling ------------------------------------------------------------------------------- */

static int offered(int vm_fd, unsigned long cap)
{
    const int value = ioctl(vm_fd, KVM_CHECK_EXTENSION, cap);

    return value > 0 ? value : 0;
}

static int enable(int vm_fd, uint32_t cap, uint64_t value, const char *name,
                  struct stasis_error *err)
{
    const struct kvm_enable_cap enable_cap = { .cap = cap, .args = { value } };

    if (ioctl(vm_fd, KVM_ENABLE_CAP, &enable_cap) == 0)
        return 0;
    return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_ENABLE_CAP %s", name);
}

static int check_size(uint32_t ring_size, struct stasis_error *err)
{
    if (ring_size >= (uint32_t)sysconf(_SC_PAGESIZE) && (ring_size & (ring_size - 1)) == 0)
        return 0;
    return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                       "a dirty ring of %u bytes: not a power of two of at least one page",
                       ring_size);
}

int stasis_kvm_enable_dirty_ring(int vm_fd, uint32_t ring_size, struct stasis_error *err)
{
    const bool acq_rel = offered(vm_fd, KVM_CAP_DIRTY_LOG_RING_ACQ_REL) > 0;
    const uint32_t cap = acq_rel ? KVM_CAP_DIRTY_LOG_RING_ACQ_REL : KVM_CAP_DIRTY_LOG_RING;
    const uint32_t size_max = (uint32_t)offered(vm_fd, cap);
    int r;

    if (size_max == 0 || KVM_DIRTY_LOG_PAGE_OFFSET == 0)
        return stasis_fail(err, STASIS_ERR_UNSUPPORTED, "KVM has no dirty rings here");
    r = check_size(ring_size, err);
    if (r < 0)
        return r;
    if (ring_size > size_max)
        return stasis_fail(err, STASIS_ERR_LIMIT, "a dirty ring of %u bytes, KVM takes at most %u",
                           ring_size, size_max);
    r = enable(vm_fd, cap, ring_size, "dirty ring", err);
    if (r == 0 && offered(vm_fd, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP) > 0)
        r = enable(vm_fd, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0, "dirty ring with bitmap", err);
    return r;
}

/* --- one ring ------------------------------------------------------------------------------- */

struct ring {
    struct kvm_dirty_gfn *entries; /* shared with KVM; NULL: not mapped */
    uint32_t next;                 /* entry to be filled or read next, where it is known */
    bool next_known;
    bool overrun; /* KVM wrote further than all around: it goes on somewhere ahead of `next` */
};

struct tracker_ring {
    struct stasis_tracker tracker;
    struct kvm_slots slots;
    int vm_fd;
    bool has_log; /* KVM keeps a log as well, for what it writes without a vCPU */
    bool logging;
    uint32_t ring_size; /* bytes */
    struct ring *rings; /* owned */
    size_t ring_count;
    pthread_mutex_t lock;        /* for what follows, the rings, and KVM_RESET_DIRTY_RINGS */
    struct stasis_page_set seen; /* read from the rings since the last harvest */
};

static struct tracker_ring *as_ring(struct stasis_tracker *tracker)
{
    return (struct tracker_ring *)tracker;
}

static uint32_t flags_of(const struct kvm_dirty_gfn *entry)
{
    return __atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE);
}

static bool is_dirty(const struct ring *ring, uint32_t index)
{
    return (flags_of(&ring->entries[index]) & KVM_DIRTY_GFN_F_DIRTY) != 0;
}

/* The oldest dirty entry: the first behind one that is not. False when nothing is dirty. */
static bool find_oldest(const struct ring *ring, uint32_t entry_count, uint32_t *ret_index)
{
    for (uint32_t i = 0; i < entry_count; i++) {
        if (is_dirty(ring, i) && !is_dirty(ring, (i + entry_count - 1) % entry_count)) {
            *ret_index = i;
            return true;
        }
    }
    return false;
}

static void hand_back(struct ring *ring, uint32_t index)
{
    __atomic_store_n(&ring->entries[index].flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
}

/* Where does KVM go on? A ring that was used before goes on where its user stopped. One that was
 * overrun has entries that KVM takes for filled, and we for empty: it waits for those to be handed
 * back. */
static bool find_next(struct ring *ring, uint32_t entry_count)
{
    uint32_t oldest;

    if (ring->next_known && !ring->overrun)
        return true;
    if (!find_oldest(ring, entry_count, &oldest))
        return false;
    for (; ring->overrun && ring->next != oldest; ring->next = (ring->next + 1) % entry_count)
        hand_back(ring, ring->next);
    ring->next = oldest;
    ring->next_known = true;
    ring->overrun = false;
    return true;
}

/* Returns whether anything was there. */
static bool read_ring(struct tracker_ring *tracker, struct ring *ring)
{
    const uint32_t entry_count = tracker->ring_size / (uint32_t)sizeof(*ring->entries);
    uint32_t read_count = 0;

    if (!find_next(ring, entry_count))
        return false;
    while (read_count < entry_count && is_dirty(ring, ring->next)) {
        const struct kvm_dirty_gfn *entry = &ring->entries[ring->next];

        kvm_slots_add_page(&tracker->slots, entry->slot, entry->offset, &tracker->tracker.map,
                           &tracker->seen);
        hand_back(ring, ring->next);
        ring->next = (ring->next + 1) % entry_count;
        read_count++;
    }
    /* KVM keeps entries in reserve and lets no vCPU run that has used up the rest. A ring that is
     * full all around was overrun by writes that it emulated in a row: what was in it before is
     * not known. */
    if (read_count == entry_count) {
        stasis_page_set_add(&tracker->seen, 0, tracker->seen.page_count);
        ring->overrun = true;
    }
    return read_count > 0;
}

/* --- all rings ------------------------------------------------------------------------------ */

static int empty_rings_locked(struct tracker_ring *ring, struct stasis_error *err)
{
    bool any = false;

    for (size_t i = 0; i < ring->ring_count; i++)
        any = read_ring(ring, &ring->rings[i]) || any;
    if (any && ioctl(ring->vm_fd, KVM_RESET_DIRTY_RINGS, 0) < 0)
        return stasis_fail_errno_as(err, STASIS_ERR_KVM, "KVM_RESET_DIRTY_RINGS");
    return 0;
}

static int ring_harvest(struct stasis_tracker *tracker, struct stasis_error *err)
{
    struct tracker_ring *ring = as_ring(tracker);
    int r;

    pthread_mutex_lock(&ring->lock);
    r = empty_rings_locked(ring, err);
    stasis_page_set_union(&tracker->pending, &ring->seen);
    stasis_page_set_clear(&ring->seen);
    pthread_mutex_unlock(&ring->lock);
    if (r == 0 && ring->has_log)
        r = kvm_slots_read_log(&ring->slots, ring->vm_fd, false, &tracker->map, &tracker->pending,
                               err);
    return r;
}

static int ring_arm(struct stasis_tracker *tracker, struct stasis_error *err)
{
    struct tracker_ring *ring = as_ring(tracker);

    if (!ring->logging) {
        const int r = kvm_slots_log(&ring->slots, ring->vm_fd, true, err);

        if (r < 0)
            return r;
        ring->logging = true;
    }
    return ring_harvest(tracker, err);
}

static const struct tracker_ops ring_ops;

int stasis_tracker_ring_full(struct stasis_tracker *tracker, struct stasis_error *err)
{
    struct tracker_ring *ring = as_ring(tracker);
    int r;

    if (tracker->ops != &ring_ops)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "a %s has no rings",
                           tracker->ops->name);
    pthread_mutex_lock(&ring->lock);
    r = empty_rings_locked(ring, err);
    pthread_mutex_unlock(&ring->lock);
    return r;
}

/* The rings are left empty for whoever tracks next. */
static void ring_close(struct stasis_tracker *tracker)
{
    struct tracker_ring *ring = as_ring(tracker);

    if (ring->logging) {
        (void)kvm_slots_log(&ring->slots, ring->vm_fd, false, NULL);
        (void)empty_rings_locked(ring, NULL);
    }
    for (size_t i = 0; i < ring->ring_count; i++) {
        if (ring->rings[i].entries)
            munmap(ring->rings[i].entries, ring->ring_size);
    }
    free(ring->rings);
    pthread_mutex_destroy(&ring->lock);
    stasis_page_set_release(&ring->seen);
    kvm_slots_release(&ring->slots);
    tracker_release(tracker);
    free(ring);
}

static const struct tracker_ops ring_ops = {
    .name = "KVM dirty ring",
    .arm = ring_arm,
    .harvest = ring_harvest,
    .close = ring_close,
};

/* --- opening -------------------------------------------------------------------------------- */

enum ring_page { RING_PAGE_NONE, RING_PAGE_THERE, RING_PAGE_UNKNOWN };

/* Is there a page of the ring at this offset of the vCPU's descriptor? KVM lets anything be mapped
 * there, and kills who touches what does not exist. */
static enum ring_page ring_page_at(int vcpu_fd, off_t offset)
{
    const size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, size, PROT_READ, MAP_SHARED, vcpu_fd, offset);
    enum ring_page found;

    if (page == MAP_FAILED)
        return RING_PAGE_NONE;
    if (madvise(page, size, MADV_POPULATE_READ) == 0)
        found = RING_PAGE_THERE;
    else
        found = errno == EFAULT ? RING_PAGE_NONE : RING_PAGE_UNKNOWN; /* before Linux 5.14 */
    munmap(page, size);
    return found;
}

static int check_ring_size(int vcpu_fd, off_t offset, uint32_t ring_size, struct stasis_error *err)
{
    const off_t last = offset + (off_t)ring_size - sysconf(_SC_PAGESIZE);

    if (ring_page_at(vcpu_fd, offset) == RING_PAGE_NONE)
        return stasis_fail(err, STASIS_ERR_WRONG_STATE, "the VM has no dirty rings");
    if (ring_page_at(vcpu_fd, last) == RING_PAGE_NONE ||
        ring_page_at(vcpu_fd, offset + (off_t)ring_size) == RING_PAGE_THERE)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the dirty rings of the VM are not of %u bytes", ring_size);
    return 0;
}

static int map_rings(struct tracker_ring *ring, const int *vcpu_fds, size_t vcpu_count,
                     struct stasis_error *err)
{
    const off_t offset = (off_t)KVM_DIRTY_LOG_PAGE_OFFSET * sysconf(_SC_PAGESIZE);
    const int r = check_ring_size(vcpu_fds[0], offset, ring->ring_size, err);

    if (r < 0)
        return r;
    ring->rings = calloc(vcpu_count, sizeof(*ring->rings));
    if (!ring->rings)
        return stasis_fail_memory(err, "dirty rings");
    for (size_t i = 0; i < vcpu_count; i++) {
        void *entries =
            mmap(NULL, ring->ring_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fds[i], offset);

        if (entries == MAP_FAILED)
            return stasis_fail_errno_as(err, STASIS_ERR_KVM, "map the dirty ring of vCPU %zu", i);
        ring->rings[i].entries = entries;
        ring->ring_count = i + 1;
    }
    return 0;
}

static int open_parts(struct tracker_ring *ring, const int *vcpu_fds, size_t vcpu_count,
                      const struct stasis_kvm_slot *slots, size_t slot_count,
                      struct stasis_error *err)
{
    int r;

    if (vcpu_count == 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "dirty rings of no vCPUs");
    r = check_size(ring->ring_size, err);
    if (r < 0)
        return r;
    r = stasis_page_set_init(&ring->seen, ring->tracker.map.page_count, err);
    if (r == 0)
        r = kvm_slots_init(&ring->slots, slots, slot_count, &ring->tracker.map, err);
    if (r == 0)
        r = map_rings(ring, vcpu_fds, vcpu_count, err);
    return r;
}

int stasis_tracker_open_kvm_ring(int vm_fd, const int *vcpu_fds, size_t vcpu_count,
                                 uint32_t ring_size, const struct stasis_kvm_slot *slots,
                                 size_t slot_count, const struct stasis_memory *memory,
                                 struct stasis_tracker **ret_tracker, struct stasis_error *err)
{
    struct tracker_ring *ring = calloc(1, sizeof(*ring));
    int r;

    if (!ring)
        return stasis_fail_memory(err, "a KVM dirty ring tracker");
    r = tracker_init(&ring->tracker, &ring_ops, memory, err);
    if (r < 0) {
        free(ring);
        return r;
    }
    pthread_mutex_init(&ring->lock, NULL);
    ring->vm_fd = vm_fd;
    ring->ring_size = ring_size;
    ring->has_log = offered(vm_fd, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP) > 0;
    r = open_parts(ring, vcpu_fds, vcpu_count, slots, slot_count, err);
    if (r < 0) {
        ring_close(&ring->tracker);
        return r;
    }
    ring->tracker.page_size = ring->slots.host_page_size;
    *ret_tracker = &ring->tracker;
    return 0;
}
