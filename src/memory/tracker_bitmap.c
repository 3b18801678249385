/*
 * tracker_bitmap.c - the tracker that is told: marks by the VMM, and control of its write faults.
 *
 * There is one bitmap, of pages, whatever range a fault is granted: a block that changes its
 * granule needs no other bitmap and no copying, and so there is no moment at which a mark could go
 * into a map that nobody reads any more.
 *
 * Each 2 MiB block (of the guest's addresses, as block entries of a page table are) counts its
 * faults in windows of time, in one word that is replaced by compare-and-swap:
 *
 *     63         32 31      1 0
 *     | window     | faults  | fine |      fine: granted by pages
 *
 *     whole --more than `threshold` faults in one window--> fine
 *     fine  --no fault for `quiet_windows` windows--------> whole, seen at its next fault
 *
 * Nothing runs in the background and nobody scans blocks: a block is looked at when it faults.
 *
 * Granting a range and marking it are one step to a harvest, by a lock that faults share: a range
 * that is open and not marked would be written to without anyone knowing. Plain marks take no lock.
 */
#include "memory/tracker_bitmap.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/error.h"
#include "memory/atomic_set.h"
#include "memory/tracker.h"

#define THRESHOLD_DEFAULT 32
#define WINDOW_MS_DEFAULT 100
#define QUIET_WINDOWS_DEFAULT 10

#define STATE_FINE UINT64_C(1)
#define STATE_ONE_FAULT UINT64_C(2)
#define STATE_FAULTS_MAX (UINT64_C(0x7fffffff))

struct tracker_bitmap {
    struct stasis_tracker tracker;
    struct atomic_set marks;
    struct stasis_fault_options options; /* protect NULL: marks only */
    size_t *first_blocks;                /* of each region: index into blocks */
    _Atomic uint64_t *blocks;            /* NULL without options */
    pthread_rwlock_t faults; /* shared: a range is being granted; exclusive: harvested, protected */
};

static struct tracker_bitmap *as_bitmap(struct stasis_tracker *tracker)
{
    return (struct tracker_bitmap *)tracker;
}

/* --- blocks --------------------------------------------------------------------------------- */

static uint64_t block_number(uint64_t gpa)
{
    return gpa / STASIS_FAULT_BLOCK_SIZE;
}

static size_t blocks_of(const struct stasis_region *region)
{
    return (size_t)(block_number(region->gpa + (region->size - 1)) - block_number(region->gpa) + 1);
}

static _Atomic uint64_t *block_at(const struct tracker_bitmap *bitmap, size_t region_index,
                                  uint64_t gpa)
{
    const struct stasis_region *region = &bitmap->tracker.map.regions[region_index];

    return &bitmap->blocks[bitmap->first_blocks[region_index] + block_number(gpa) -
                           block_number(region->gpa)];
}

/* The block's state after one more fault in `window`. Late comers count for the newer window. */
static uint64_t after_fault(const struct stasis_fault_options *options, uint64_t state,
                            uint32_t window)
{
    uint64_t faults = state >> 1 & STATE_FAULTS_MAX;
    uint64_t fine = state & STATE_FINE;
    uint32_t seen = (uint32_t)(state >> 32);

    if ((int32_t)(window - seen) > 0) {
        if (window - seen > options->quiet_windows)
            fine = 0;
        faults = 0;
        seen = window;
    }
    if (faults < STATE_FAULTS_MAX)
        faults++;
    if (faults > options->threshold)
        fine = STATE_FINE;
    return (uint64_t)seen << 32 | faults << 1 | fine;
}

/* Counts the fault; is the block granted by pages? */
static bool count_fault(const struct stasis_fault_options *options, _Atomic uint64_t *block,
                        uint64_t now_ms)
{
    const uint32_t window = (uint32_t)(now_ms / options->window_ms);
    uint64_t state = atomic_load(block);
    uint64_t next;

    do {
        next = after_fault(options, state, window);
    } while (!atomic_compare_exchange_weak(block, &state, next));
    return (next & STATE_FINE) != 0;
}

static int find_faulted(const struct tracker_bitmap *bitmap, uint64_t gpa, size_t *ret_index)
{
    const struct region_map *map = &bitmap->tracker.map;
    const size_t index = region_map_find(map, gpa);

    if (!bitmap->blocks || index >= map->region_count || gpa < map->regions[index].gpa)
        return -EINVAL;
    *ret_index = index;
    return 0;
}

struct range {
    uint64_t gpa, size;
};

static struct range page_of(uint64_t gpa)
{
    return (struct range){ .gpa = gpa - gpa % STASIS_PAGE_SIZE, .size = STASIS_PAGE_SIZE };
}

/* The fault's block, as far as its region goes. Cannot wrap: the block is aligned. */
static struct range whole_block(const struct stasis_region *region, uint64_t gpa)
{
    const uint64_t region_last = region->gpa + (region->size - 1);
    uint64_t first = gpa - gpa % STASIS_FAULT_BLOCK_SIZE;
    uint64_t last = first + (STASIS_FAULT_BLOCK_SIZE - 1);

    first = first < region->gpa ? region->gpa : first;
    last = last > region_last ? region_last : last;
    return (struct range){ .gpa = first, .size = last - first + 1 };
}

static bool bitmap_mark(struct stasis_tracker *tracker, uint64_t gpa, uint64_t size);
static const struct tracker_ops bitmap_ops;

int tracker_fault_at(struct stasis_tracker *tracker, uint64_t gpa, uint64_t now_ms)
{
    struct tracker_bitmap *bitmap = as_bitmap(tracker);
    const struct stasis_fault_options *options;
    struct range range;
    size_t index;
    int r;

    if (tracker->ops != &bitmap_ops || find_faulted(bitmap, gpa, &index) < 0)
        return -EINVAL;
    options = &bitmap->options;
    range = count_fault(options, block_at(bitmap, index, gpa), now_ms)
                ? page_of(gpa)
                : whole_block(&tracker->map.regions[index], gpa);

    pthread_rwlock_rdlock(&bitmap->faults);
    r = options->grant(options->arg, range.gpa, range.size);
    if (r == 0)
        (void)bitmap_mark(tracker, range.gpa, range.size); /* all of it is memory */
    pthread_rwlock_unlock(&bitmap->faults);
    return r;
}

int stasis_tracker_fault(struct stasis_tracker *tracker, uint64_t gpa)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return tracker_fault_at(tracker, gpa,
                            (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000);
}

/* --- marks ---------------------------------------------------------------------------------- */

static void mark_pages(void *arg, uint64_t first_page, uint64_t page_count)
{
    atomic_set_add(arg, first_page, page_count);
}

static bool bitmap_mark(struct stasis_tracker *tracker, uint64_t gpa, uint64_t size)
{
    return region_map_each(&tracker->map, gpa, size, mark_pages, &as_bitmap(tracker)->marks);
}

/* --- protecting again ----------------------------------------------------------------------- */

static uint64_t granule_of(const struct tracker_bitmap *bitmap, size_t region_index, uint64_t gpa)
{
    const uint64_t state = atomic_load(block_at(bitmap, region_index, gpa));

    return (state & STATE_FINE) != 0 ? STASIS_PAGE_SIZE : STASIS_FAULT_BLOCK_SIZE;
}

static uint64_t block_end(uint64_t gpa, uint64_t end)
{
    const uint64_t left = STASIS_FAULT_BLOCK_SIZE - gpa % STASIS_FAULT_BLOCK_SIZE;

    return end - gpa < left ? end : gpa + left;
}

/* [gpa, end) lies in one region: one call for neighbouring blocks of one granule. */
static int protect_range(const struct tracker_bitmap *bitmap, size_t region_index, uint64_t gpa,
                         uint64_t end, struct stasis_error *err)
{
    while (gpa < end) {
        const uint64_t granule = granule_of(bitmap, region_index, gpa);
        uint64_t next = block_end(gpa, end);
        int r;

        while (next < end && granule_of(bitmap, region_index, next) == granule)
            next = block_end(next, end);
        r = bitmap->options.protect(bitmap->options.arg, gpa, next - gpa, granule);
        if (r < 0) {
            errno = -r;
            return stasis_fail_errno(err, "write-protect 0x%jx, %ju bytes", (uintmax_t)gpa,
                                     (uintmax_t)(next - gpa));
        }
        gpa = next;
    }
    return 0;
}

/* A run of the line may go on over a region's end. */
static int protect_run(const struct tracker_bitmap *bitmap, uint64_t page, uint64_t page_end,
                       struct stasis_error *err)
{
    const struct region_map *map = &bitmap->tracker.map;

    for (size_t i = region_map_of_page(map, page); page < page_end; i++) {
        const struct stasis_region *region = &map->regions[i];
        const uint64_t region_end = map->first_pages[i] + region->size / STASIS_PAGE_SIZE;
        const uint64_t end = page_end < region_end ? page_end : region_end;
        const uint64_t gpa = region->gpa + (page - map->first_pages[i]) * STASIS_PAGE_SIZE;
        const int r = protect_range(bitmap, i, gpa, gpa + (end - page) * STASIS_PAGE_SIZE, err);

        if (r < 0)
            return r;
        page = end;
    }
    return 0;
}

/* All of pending, not only what was drained just now: a harvest that failed may have left some
 * open. */
static int protect_pending(const struct tracker_bitmap *bitmap, struct stasis_error *err)
{
    uint64_t first, count;

    for (uint64_t at = 0; stasis_page_set_next_run(&bitmap->tracker.pending, at, &first, &count);
         at = first + count) {
        const int r = protect_run(bitmap, first, first + count, err);

        if (r < 0)
            return r;
    }
    return 0;
}

static int bitmap_harvest(struct stasis_tracker *tracker, struct stasis_error *err)
{
    struct tracker_bitmap *bitmap = as_bitmap(tracker);
    int r;

    if (!bitmap->options.protect) {
        atomic_set_drain(&bitmap->marks, &tracker->pending);
        return 0;
    }
    pthread_rwlock_wrlock(&bitmap->faults);
    atomic_set_drain(&bitmap->marks, &tracker->pending);
    r = protect_pending(bitmap, err);
    pthread_rwlock_unlock(&bitmap->faults);
    return r;
}

static int bitmap_arm(struct stasis_tracker *tracker, struct stasis_error *err)
{
    struct tracker_bitmap *bitmap = as_bitmap(tracker);
    int r = 0;

    pthread_rwlock_wrlock(&bitmap->faults);
    atomic_set_drain(&bitmap->marks, &tracker->pending);
    if (bitmap->options.protect)
        r = protect_run(bitmap, 0, tracker->map.page_count, err);
    pthread_rwlock_unlock(&bitmap->faults);
    return r;
}

static void bitmap_close(struct stasis_tracker *tracker)
{
    struct tracker_bitmap *bitmap = as_bitmap(tracker);

    pthread_rwlock_destroy(&bitmap->faults);
    atomic_set_release(&bitmap->marks);
    free(bitmap->first_blocks);
    free(bitmap->blocks);
    tracker_release(tracker);
    free(bitmap);
}

static const struct tracker_ops bitmap_ops = {
    .name = "bitmap tracker",
    .arm = bitmap_arm,
    .harvest = bitmap_harvest,
    .mark = bitmap_mark,
    .close = bitmap_close,
};

/* --- opening -------------------------------------------------------------------------------- */

static int make_blocks(struct tracker_bitmap *bitmap, struct stasis_error *err)
{
    const struct region_map *map = &bitmap->tracker.map;
    size_t count = 0;

    bitmap->first_blocks = calloc(map->region_count, sizeof(*bitmap->first_blocks));
    if (!bitmap->first_blocks)
        return stasis_fail_memory(err, "counters of write faults");
    for (size_t i = 0; i < map->region_count; i++) {
        bitmap->first_blocks[i] = count;
        count += blocks_of(&map->regions[i]);
    }
    bitmap->blocks = calloc(count, sizeof(*bitmap->blocks));
    return bitmap->blocks ? 0 : stasis_fail_memory(err, "counters of write faults");
}

/* A harvest must not wait for ever where faults never cease. */
static void init_lock(pthread_rwlock_t *lock)
{
    pthread_rwlockattr_t attr;

    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(lock, &attr);
    pthread_rwlockattr_destroy(&attr);
}

static int set_options(struct tracker_bitmap *bitmap, const struct stasis_fault_options *options,
                       struct stasis_error *err)
{
    if (!options)
        return 0;
    if (!options->protect || !options->grant)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "write faults without a way to grant and to protect memory");
    bitmap->options = *options;
    if (options->threshold == 0)
        bitmap->options.threshold = THRESHOLD_DEFAULT;
    if (options->window_ms == 0)
        bitmap->options.window_ms = WINDOW_MS_DEFAULT;
    if (options->quiet_windows == 0)
        bitmap->options.quiet_windows = QUIET_WINDOWS_DEFAULT;
    return make_blocks(bitmap, err);
}

int stasis_tracker_open_bitmap(const struct stasis_memory *memory,
                               const struct stasis_fault_options *options,
                               struct stasis_tracker **ret_tracker, struct stasis_error *err)
{
    struct tracker_bitmap *bitmap = calloc(1, sizeof(*bitmap));
    int r;

    if (!bitmap)
        return stasis_fail_memory(err, "a bitmap tracker");
    r = tracker_init(&bitmap->tracker, &bitmap_ops, memory, err);
    if (r < 0) {
        free(bitmap);
        return r;
    }
    init_lock(&bitmap->faults);
    r = atomic_set_init(&bitmap->marks, bitmap->tracker.map.page_count, err);
    if (r == 0)
        r = set_options(bitmap, options, err);
    if (r < 0) {
        bitmap_close(&bitmap->tracker);
        return r;
    }
    *ret_tracker = &bitmap->tracker;
    return 0;
}
