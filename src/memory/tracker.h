/* tracker.h - what all dirty trackers have in common, for those who write one.
 *
 * A tracker's struct begins with `struct stasis_tracker`. Its harvest adds to `pending`, never to
 * the caller's set: so a harvest that fails half-way loses nothing, and what was given back waits
 * there too. */
#ifndef STASIS_MEMORY_TRACKER_H
#define STASIS_MEMORY_TRACKER_H

#include <stdbool.h>
#include <stdint.h>

#include <stasis/dirty.h>

#include "memory/region_map.h"

struct tracker_ops {
    const char *name; /* for messages */
    /* Nothing is dirty from here on; what was noticed before may be dropped. */
    int (*arm)(struct stasis_tracker *tracker, struct stasis_error *err);
    /* Move what was noticed into tracker->pending, and notice anew. What left the source is in
     * pending also on failure. */
    int (*harvest)(struct stasis_tracker *tracker, struct stasis_error *err);
    /* NULL: takes no marks. Returns whether all of the range is memory. Any thread. */
    bool (*mark)(struct stasis_tracker *tracker, uint64_t gpa, uint64_t size);
    /* Stop, release what is its own, then tracker_release() and free(). */
    void (*close)(struct stasis_tracker *tracker);
};

struct stasis_tracker {
    const struct tracker_ops *ops;
    struct region_map map;
    struct stasis_page_set pending; /* in the next harvest, whatever the source says */
    uint32_t page_size;             /* bytes */
    bool armed;
    bool has_base;
    bool harvest_open; /* harvested, and neither set_base nor give_back since */
    uint8_t base[STASIS_TRACKER_BASE_SIZE];
};

/* Of a zeroed struct. On failure nothing is left to release. */
int tracker_init(struct stasis_tracker *tracker, const struct tracker_ops *ops,
                 const struct stasis_memory *memory, struct stasis_error *err);
void tracker_release(struct stasis_tracker *tracker);

/* The set has as many pages as the tracker's memory? 0, or STASIS_ERR_INVALID_ARGUMENT. */
int tracker_check_set(const struct stasis_tracker *tracker, const struct stasis_page_set *set,
                      struct stasis_error *err);

#endif
