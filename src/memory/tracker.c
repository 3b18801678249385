/*
 * tracker.c - the part of every dirty tracker that does not depend on how it notices writes.
 *
 *     source --harvest--> pending --only when all went well--> the caller's set
 *                            ^                                       |
 *                            +------------- give_back --------------+
 *
 * A page must be in the source, in pending or in the hands of the caller at every moment: one that
 * is nowhere is missing from the next diff, and its restore is corrupt without anyone noticing.
 * For the same reason the base is withheld between a harvest and the word on its outcome.
 */
#include "memory/tracker.h"

#include <string.h>

#include "base/error.h"

int tracker_init(struct stasis_tracker *tracker, const struct tracker_ops *ops,
                 const struct stasis_memory *memory, struct stasis_error *err)
{
    int r = region_map_init(&tracker->map, memory, err);

    if (r < 0)
        return r;
    r = stasis_page_set_init(&tracker->pending, tracker->map.page_count, err);
    if (r < 0) {
        region_map_release(&tracker->map);
        return r;
    }
    tracker->ops = ops;
    tracker->page_size = STASIS_PAGE_SIZE;
    return 0;
}

void tracker_release(struct stasis_tracker *tracker)
{
    stasis_page_set_release(&tracker->pending);
    region_map_release(&tracker->map);
}

int tracker_check_set(const struct stasis_tracker *tracker, const struct stasis_page_set *set,
                      struct stasis_error *err)
{
    if (set->page_count == tracker->map.page_count)
        return 0;
    return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                       "the set is for %ju pages, the tracked memory has %ju",
                       (uintmax_t)set->page_count, (uintmax_t)tracker->map.page_count);
}

static int check_armed(const struct stasis_tracker *tracker, struct stasis_error *err)
{
    if (tracker->armed)
        return 0;
    return stasis_fail(err, STASIS_ERR_WRONG_STATE, "the %s is not armed", tracker->ops->name);
}

int stasis_tracker_arm(struct stasis_tracker *tracker, struct stasis_error *err)
{
    int r;

    tracker->armed = false;
    tracker->has_base = false;
    tracker->harvest_open = false;
    r = tracker->ops->arm(tracker, err);
    if (r < 0)
        return stasis_wrap(err, r, "arm the %s", tracker->ops->name);
    stasis_page_set_clear(&tracker->pending);
    tracker->armed = true;
    return 0;
}

int stasis_tracker_harvest(struct stasis_tracker *tracker, struct stasis_page_set *set,
                           struct stasis_error *err)
{
    int r = check_armed(tracker, err);

    if (r == 0)
        r = tracker_check_set(tracker, set, err);
    if (r < 0)
        return r;
    r = tracker->ops->harvest(tracker, err);
    if (r < 0)
        return stasis_wrap(err, r, "harvest the %s", tracker->ops->name);
    stasis_page_set_union(set, &tracker->pending);
    stasis_page_set_clear(&tracker->pending);
    tracker->harvest_open = true;
    return 0;
}

int stasis_tracker_give_back(struct stasis_tracker *tracker, const struct stasis_page_set *set,
                             struct stasis_error *err)
{
    int r = check_armed(tracker, err);

    if (r == 0)
        r = tracker_check_set(tracker, set, err);
    if (r < 0)
        return r;
    stasis_page_set_union(&tracker->pending, set);
    tracker->harvest_open = false;
    return 0;
}

void stasis_tracker_set_base(struct stasis_tracker *tracker,
                             const uint8_t id[STASIS_TRACKER_BASE_SIZE])
{
    memcpy(tracker->base, id, sizeof(tracker->base));
    tracker->has_base = true;
    tracker->harvest_open = false;
}

const uint8_t *stasis_tracker_base(const struct stasis_tracker *tracker)
{
    return tracker->armed && tracker->has_base && !tracker->harvest_open ? tracker->base : NULL;
}

uint32_t stasis_tracker_page_size(const struct stasis_tracker *tracker)
{
    return tracker->page_size;
}

uint64_t stasis_tracker_page_count(const struct stasis_tracker *tracker)
{
    return tracker->map.page_count;
}

int stasis_tracker_mark(struct stasis_tracker *tracker, uint64_t gpa, uint64_t size)
{
    if (!tracker->ops->mark || size == 0 || !tracker->ops->mark(tracker, gpa, size))
        return -EINVAL;
    return 0;
}

void stasis_tracker_close(struct stasis_tracker *tracker)
{
    if (tracker)
        tracker->ops->close(tracker);
}
