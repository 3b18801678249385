/* dirty.h - which pages of guest memory changed: page sets, and trackers that fill them.
 *
 * Pages are numbered along the line of memory: the regions of a stasis_memory back to back in gpa
 * order, page p is bytes [p * STASIS_PAGE_SIZE, (p + 1) * STASIS_PAGE_SIZE) of that line.
 *
 *     arm        an epoch begins: from here on writes are noticed
 *     harvest    tells the pages written in the epoch, and begins the next one
 *     set_base   the pages of the harvest are safe in this snapshot: the epoch counts from it
 *     give_back  they are not (the save failed): they are dirty again
 *
 * What is promised, for each tracker and the kind of writes that it sees: a write that was complete
 * when harvest was called is in that harvest. One that races with a harvest is in that harvest, or
 * in the next, or in both, and never in none; when it is in that harvest only, reading the page
 * after harvest returned gives what was written. Pages may be told that were not written, and
 * pages that were written with the bytes they had: stasis_dirty_refine() finds both out.
 *
 * Memory that is thrown away (MADV_DONTNEED, hole punching) changes without a write: only
 * comparison is sure to notice. Who does that marks the range in a bitmap tracker, see
 * stasis_tracker_mark().
 *
 * Threads: arm, harvest, give_back, set_base and close of one tracker by one thread at a time,
 * while the guest and the VMM go on writing. stasis_tracker_mark(), stasis_tracker_fault() and
 * stasis_tracker_ring_full() by any thread at any time until close. A page set belongs to one
 * thread. */
#ifndef STASIS_DIRTY_H
#define STASIS_DIRTY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/api.h>
#include <stasis/error.h>
#include <stasis/memory.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- page sets ------------------------------------------------------------------------------ */

/* A bitmap with a summary above it, so that walking, counting and clearing follow what is in the
 * set and not page_count. Read the members freely, change them by the calls below only. */
struct stasis_page_set {
    uint64_t *words;     /* page p is bit p % 64 of words[p / 64]; bits past page_count are 0 */
    uint64_t *summary;   /* bit w % 64 of summary[w / 64] is set when words[w] is not 0 */
    uint64_t page_count; /* pages that the set can hold: 0..page_count - 1 */
};

/**
 * An empty set, to be given back with stasis_page_set_release().
 * @param ret_set  untouched on failure
 * @return 0; -EINVAL page_count is 0; -E2BIG STASIS_ERR_LIMIT more pages than
 *         STASIS_MEMORY_SIZE_MAX has; -ENOMEM
 */
STASIS_API int stasis_page_set_init(struct stasis_page_set *ret_set, uint64_t page_count,
                                    struct stasis_error *err);
/** Safe on NULL and on a zeroed set. */
STASIS_API void stasis_page_set_release(struct stasis_page_set *set);

/** Pages at or past page_count are ignored by all of these. */
STASIS_API void stasis_page_set_add(struct stasis_page_set *set, uint64_t first_page,
                                    uint64_t page_count);
STASIS_API void stasis_page_set_remove(struct stasis_page_set *set, uint64_t first_page,
                                       uint64_t page_count);
STASIS_API bool stasis_page_set_test(const struct stasis_page_set *set, uint64_t page);
STASIS_API uint64_t stasis_page_set_count(const struct stasis_page_set *set);
/** All pages of `from` that `set` can hold. */
STASIS_API void stasis_page_set_union(struct stasis_page_set *set,
                                      const struct stasis_page_set *from);
STASIS_API void stasis_page_set_clear(struct stasis_page_set *set);

/**
 * The first run of neighbouring pages at or after `from_page`, as long as it is.
 *
 *     for (at = 0; stasis_page_set_next_run(&set, at, &first, &count); at = first + count)
 *
 * @return false when there are no more; the outputs are untouched then
 */
STASIS_API bool stasis_page_set_next_run(const struct stasis_page_set *set, uint64_t from_page,
                                         uint64_t *ret_first_page, uint64_t *ret_page_count);

/* --- trackers ------------------------------------------------------------------------------- */

struct stasis_tracker; /* opaque */

/**
 * Begin an epoch: nothing is dirty, and there is no base. Also begins anew when armed already.
 * Writes that race with this call may or may not be told.
 *
 * @return 0; -EOPNOTSUPP a KVM log of a VM with dirty rings; -EIO STASIS_ERR_KVM; other errors of
 *         the system. After a failure the tracker is not armed.
 */
STASIS_API int stasis_tracker_arm(struct stasis_tracker *tracker, struct stasis_error *err);

/**
 * Add the pages written since arm or the last harvest to `set`, and begin the next epoch. Until its
 * outcome is told by set_base or give_back, stasis_tracker_base() is NULL.
 *
 * After a failure `set` is untouched and nothing is lost: the next harvest tells the pages.
 *
 * @param set  for as many pages as the tracker's memory has; pages in it stay in it
 * @return 0; -EPERM STASIS_ERR_WRONG_STATE not armed; -EINVAL the set is of another size; -EIO
 *         STASIS_ERR_KVM; other errors of the system or of a reader of the base
 */
STASIS_API int stasis_tracker_harvest(struct stasis_tracker *tracker, struct stasis_page_set *set,
                                      struct stasis_error *err);

/**
 * What was harvested is not safe anywhere: the pages are dirty again and in the next harvest, the
 * base is again what it was. Give back all that was harvested since the base was set. Allocates
 * nothing.
 *
 * @return 0; -EPERM STASIS_ERR_WRONG_STATE not armed; -EINVAL the set is of another size
 */
STASIS_API int stasis_tracker_give_back(struct stasis_tracker *tracker,
                                        const struct stasis_page_set *set,
                                        struct stasis_error *err);

#define STASIS_TRACKER_BASE_SIZE 32 /* bytes; as STASIS_ID_SIZE */

/** The current epoch counts from the snapshot of this id: dirty pages plus it make the memory. */
STASIS_API void stasis_tracker_set_base(struct stasis_tracker *tracker,
                                        const uint8_t id[STASIS_TRACKER_BASE_SIZE]);

/** The id, or NULL: never set since arm, or a harvest whose outcome nobody told. Valid until the
 * next call on the tracker. */
STASIS_API const uint8_t *stasis_tracker_base(const struct stasis_tracker *tracker);

/** Bytes: the unit in which writes are noticed, the host's page or STASIS_PAGE_SIZE. (By
 * userfaultfd, memory in hugetlbfs pages is told by whole ones of those all the same.) */
STASIS_API uint32_t stasis_tracker_page_size(const struct stasis_tracker *tracker);

/** Pages of the memory: how large a set for its harvests must be. */
STASIS_API uint64_t stasis_tracker_page_count(const struct stasis_tracker *tracker);

/** Stop noticing and free the tracker; NULL is fine. */
STASIS_API void stasis_tracker_close(struct stasis_tracker *tracker);

/* --- writes by the guest: KVM --------------------------------------------------------------- */

/* A memory slot as the VMM gave it to KVM_SET_USER_MEMORY_REGION. */
struct stasis_kvm_slot {
    uint32_t slot;  /* number; the address space in the upper 16 bits */
    uint32_t flags; /* KVM_MEM_READONLY or 0; never KVM_MEM_LOG_DIRTY_PAGES, which is ours */
    uint64_t gpa;   /* bytes, of the host's whole pages, as is size */
    uint64_t size;
    uint64_t hva;
};

/**
 * Track by KVM's dirty log: what vCPUs write, and KVM itself for them. What the VMM writes through
 * its own mapping is not seen (add a bitmap or userfaultfd tracker, see
 * stasis_tracker_open_union()).
 *
 * While armed, the slots have KVM_MEM_LOG_DIRTY_PAGES; close takes it off. The VMM must not change
 * these slots nor read their log meanwhile. Uses KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 where offered:
 * then only words of the log that had bits are cleared, and arming does not write-protect all at
 * once.
 *
 * @param vm_fd   stays the caller's, open until close
 * @param slots   copied; together they must cover all of memory, in any order
 * @param memory  copied
 * @return 0; -EINVAL slots overlap, are not of whole pages, have flags that are not theirs, or
 *         leave memory uncovered (text says where); -EBADMSG STASIS_ERR_INVALID_MEMORY; -ENOMEM
 */
STASIS_API int stasis_tracker_open_kvm_log(int vm_fd, const struct stasis_kvm_slot *slots,
                                           size_t slot_count, const struct stasis_memory *memory,
                                           struct stasis_tracker **ret_tracker,
                                           struct stasis_error *err);

/**
 * Give each vCPU of a VM a dirty ring. To be done before the first vCPU and the first slot are
 * made; the VM's dirty log is gone then.
 *
 * @param ring_size  bytes of one ring, a power of two, at least the host's page size; 16 an entry
 * @return 0; -EOPNOTSUPP KVM has no dirty ring; -EINVAL not such a size; -E2BIG STASIS_ERR_LIMIT
 *         more than KVM takes; -EIO STASIS_ERR_KVM
 */
STASIS_API int stasis_kvm_enable_dirty_ring(int vm_fd, uint32_t ring_size,
                                            struct stasis_error *err);

/**
 * Track by KVM's dirty rings: the cost of a harvest follows the pages written, not the memory.
 * Guest writes reach the ring at the latest when the vCPU leaves KVM_RUN (Intel's PML is a buffer
 * before it): "complete" means that the vCPU left KVM_RUN since. KVM writes to a ring only while a
 * vCPU runs; what KVM writes otherwise, in ioctls (arm64: the ITS tables), it keeps in the log
 * where KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP is offered, and that is read too.
 *
 * A KVM that emulates guests may write past the end of a ring between two looks at it. That is
 * noticed: all of memory is dirty then. Large rings avoid it.
 *
 * @param ring_size  as given to stasis_kvm_enable_dirty_ring()
 * @return as stasis_tracker_open_kvm_log(); -EINVAL no vCPU, or rings that are not of ring_size;
 *         -EPERM STASIS_ERR_WRONG_STATE the VM has no dirty rings; -EIO STASIS_ERR_KVM a ring
 *         cannot be mapped
 */
STASIS_API int stasis_tracker_open_kvm_ring(int vm_fd, const int *vcpu_fds, size_t vcpu_count,
                                            uint32_t ring_size, const struct stasis_kvm_slot *slots,
                                            size_t slot_count, const struct stasis_memory *memory,
                                            struct stasis_tracker **ret_tracker,
                                            struct stasis_error *err);

/**
 * For a vCPU thread on KVM_EXIT_DIRTY_RING_FULL (and whenever it likes): empty the rings into the
 * tracker, so that KVM_RUN goes on. The pages are in the next harvest. Also right when not armed.
 *
 * @return 0; -EINVAL not a dirty ring tracker; -EIO STASIS_ERR_KVM
 */
STASIS_API int stasis_tracker_ring_full(struct stasis_tracker *tracker, struct stasis_error *err);

/* --- writes by this process: userfaultfd ---------------------------------------------------- */

/**
 * Track by asynchronous userfaultfd write protection and PAGEMAP_SCAN (Linux 6.7): every write to
 * the memory as mapped in this process, by its threads, by the kernel for it (read(2), io_uring)
 * and by a guest that runs on it. Anonymous, shared, hugetlbfs and private file mappings, as
 * stasis_restore() makes. Nothing is ever blocked: the kernel resolves the fault, at one fault for
 * each page and epoch. Pages that are only read are not told, touched before or not: for that,
 * arming fills the page tables, 8 bytes for each page of memory, and a harvest walks them.
 *
 * That walk makes the cost follow the size of memory, not what was written (where KVM's trackers
 * and a bitmap take microseconds, this takes milliseconds for each GiB), and it has KVM drop its
 * own mappings of the memory, which a guest must fault in again. For VMMs that cannot tell their
 * writes to a bitmap.
 *
 * @param memory  copied; stays mapped until close; no other userfaultfd may be registered on it
 * @return 0; -EINVAL a region without hva; -EBADMSG STASIS_ERR_INVALID_MEMORY; -EOPNOTSUPP the
 *         kernel lacks it (text says what); -EACCES, -EPERM STASIS_ERR_PERMISSION; -EBUSY
 *         STASIS_ERR_BUSY another userfaultfd is there; -ENOMEM
 */
STASIS_API int stasis_tracker_open_uffd(const struct stasis_memory *memory,
                                        struct stasis_tracker **ret_tracker,
                                        struct stasis_error *err);

/* --- writes that the VMM tells -------------------------------------------------------------- */

/* For VMMs that write-protect the guest's memory themselves. Zero-initialise, then set what
 * differs. */
struct stasis_fault_options {
    /**
     * Take write permission off a range again: its pages were harvested. When this returns, no vCPU
     * can still write by an old translation. Called by harvest and arm only, in their thread; must
     * not wait for a thread that is in stasis_tracker_fault().
     *
     * @param granule  bytes that the next fault in the range will be granted: STASIS_PAGE_SIZE, or
     *                 STASIS_FAULT_BLOCK_SIZE where a block entry will do
     * @return 0; a negative errno fails the harvest (the range is protected by the next one)
     */
    int (*protect)(void *arg, uint64_t gpa, uint64_t size, uint64_t granule);
    /**
     * Give write permission to a range. Called by stasis_tracker_fault() only, in its thread.
     * @return 0; a negative errno fails the fault
     */
    int (*grant)(void *arg, uint64_t gpa, uint64_t size);
    void *arg; /* of both */
    /* Faults of one block in one window beyond which it is granted by pages; 0: 32. */
    uint32_t threshold;
    uint32_t window_ms; /* 0: 100 */
    /* Windows without a fault after which a block is granted whole again; 0: 10. */
    uint32_t quiet_windows;
};

#define STASIS_FAULT_BLOCK_SIZE (2u * 1024 * 1024) /* bytes, aligned by gpa */

/**
 * Track what stasis_tracker_mark() is told.
 *
 * @param memory   copied; hva is not used
 * @param options  NULL for a VMM that only marks; copied
 * @return 0; -EINVAL options without protect or grant; -EBADMSG STASIS_ERR_INVALID_MEMORY; -ENOMEM
 */
STASIS_API int stasis_tracker_open_bitmap(const struct stasis_memory *memory,
                                          const struct stasis_fault_options *options,
                                          struct stasis_tracker **ret_tracker,
                                          struct stasis_error *err);

/**
 * These bytes were written: every page that they touch is dirty. Call it after the write, not
 * before: a harvest in between would tell the page too early. Lock-free; on a union, goes to its
 * bitmap parts.
 *
 * @return 0; -EINVAL a part of the range is not in memory (the rest is marked), the tracker takes
 *         no marks, or size is 0
 */
STASIS_API int stasis_tracker_mark(struct stasis_tracker *tracker, uint64_t gpa, uint64_t size);

/**
 * A vCPU faulted writing to `gpa`: grant a range around it and mark that range, in one step as a
 * harvest sees it. (By hand, either order loses a page: a harvest that comes between takes the
 * mark before the range is open, or finds it open and not marked.) Faults go side by side, and
 * wait for a harvest.
 *
 * The range is the fault's 2 MiB block, as far as its region goes: one fault, 512 pages told. A
 * block that faults more than `threshold` times in one window is granted by pages from then on, so
 * that what is told is exact where the guest is busy, and whole again after it was quiet.
 *
 * @return 0 the vCPU may go on; -EINVAL gpa is not in memory, or the tracker was opened without
 *         options; what `grant` failed with
 */
STASIS_API int stasis_tracker_fault(struct stasis_tracker *tracker, uint64_t gpa);

/* --- comparing with a base ------------------------------------------------------------------ */

/**
 * Read pages of the base as memory was then.
 * @param buf  page_count * STASIS_PAGE_SIZE bytes, to be filled
 * @return 0 or a negative errno, with `err` filled
 */
typedef int stasis_read_base_fn(void *arg, uint64_t first_page, uint64_t page_count, void *buf,
                                struct stasis_error *err);

/**
 * Where no tracker ran: each harvest compares all of memory with the base. Costs reading both.
 *
 * @param memory        copied; stays mapped until close
 * @param read_base     reads the base of the current epoch; called by several threads at a time
 *                      when thread_count is not 1
 * @param thread_count  0: one per online CPU, at most 8
 * @return 0; -EINVAL no read_base, or a region without hva; -EBADMSG STASIS_ERR_INVALID_MEMORY;
 *         -ENOMEM
 */
STASIS_API int stasis_tracker_open_compare(const struct stasis_memory *memory,
                                           stasis_read_base_fn *read_base, void *read_arg,
                                           unsigned thread_count,
                                           struct stasis_tracker **ret_tracker,
                                           struct stasis_error *err);

/**
 * Drop the pages of a set that equal the base: told, but not really changed.
 *
 * @param set          of the memory's size; on failure some pages may be dropped, all of them
 *         rightly
 * @param ret_dropped  pages dropped; may be NULL; untouched on failure
 * @return 0; -EINVAL as above, or the set is of another size; -EBADMSG STASIS_ERR_INVALID_MEMORY;
 *         -ENOMEM; what read_base failed with
 */
STASIS_API int stasis_dirty_refine(struct stasis_page_set *set, const struct stasis_memory *memory,
                                   stasis_read_base_fn *read_base, void *read_arg,
                                   unsigned thread_count, uint64_t *ret_dropped,
                                   struct stasis_error *err);

/* --- several at once ------------------------------------------------------------------------ */

#define STASIS_UNION_MAX 8

/**
 * What any of several trackers saw: guest writes by KVM, and the VMM's by a bitmap or userfaultfd.
 *
 * @param parts  1..STASIS_UNION_MAX of the same memory; on success they are the union's, which
 *               closes them. Until then the VMM may use their mark, fault and ring_full, and
 * nothing else.
 * @return 0; -EINVAL none, too many, one twice, or of different sizes; -ENOMEM
 */
STASIS_API int stasis_tracker_open_union(struct stasis_tracker *const *parts, size_t part_count,
                                         struct stasis_tracker **ret_tracker,
                                         struct stasis_error *err);

#ifdef __cplusplus
}
#endif
#endif
