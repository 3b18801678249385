/*
 * tracker_union.c - several trackers as one: a page is dirty when any of them says so.
 *
 * No single source sees all writes: KVM does not see the VMM's, a bitmap only what it is told. The
 * parts are harvested one after the other, each into the union's pending pages at once, so that a
 * later part's failure cannot lose what an earlier one gave up.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "memory/tracker.h"

struct tracker_union {
    struct stasis_tracker tracker;
    struct stasis_tracker *parts[STASIS_UNION_MAX];
    size_t part_count;
};

static struct tracker_union *as_union(struct stasis_tracker *tracker)
{
    return (struct tracker_union *)tracker;
}

static int union_arm(struct stasis_tracker *tracker, struct stasis_error *err)
{
    struct tracker_union *both = as_union(tracker);

    for (size_t i = 0; i < both->part_count; i++) {
        const int r = stasis_tracker_arm(both->parts[i], err);

        if (r < 0)
            return r;
    }
    return 0;
}

static int union_harvest(struct stasis_tracker *tracker, struct stasis_error *err)
{
    struct tracker_union *both = as_union(tracker);

    for (size_t i = 0; i < both->part_count; i++) {
        const int r = stasis_tracker_harvest(both->parts[i], &tracker->pending, err);

        if (r < 0)
            return r;
    }
    return 0;
}

static bool union_mark(struct stasis_tracker *tracker, uint64_t gpa, uint64_t size)
{
    struct tracker_union *both = as_union(tracker);
    bool marked = false;

    for (size_t i = 0; i < both->part_count; i++) {
        struct stasis_tracker *part = both->parts[i];

        if (part->ops->mark)
            marked = part->ops->mark(part, gpa, size);
    }
    return marked;
}

static void union_close(struct stasis_tracker *tracker)
{
    struct tracker_union *both = as_union(tracker);

    for (size_t i = 0; i < both->part_count; i++)
        stasis_tracker_close(both->parts[i]);
    tracker_release(tracker);
    free(both);
}

static const struct tracker_ops union_ops = {
    .name = "union of trackers",
    .arm = union_arm,
    .harvest = union_harvest,
    .mark = union_mark,
    .close = union_close,
};

static bool same_layout(const struct region_map *a, const struct region_map *b)
{
    if (a->region_count != b->region_count)
        return false;
    for (size_t i = 0; i < a->region_count; i++) {
        if (a->regions[i].gpa != b->regions[i].gpa || a->regions[i].size != b->regions[i].size)
            return false;
    }
    return true;
}

static int check_parts(struct stasis_tracker *const *parts, size_t part_count,
                       struct stasis_error *err)
{
    if (part_count == 0 || part_count > STASIS_UNION_MAX)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "a union of %zu trackers, 1 to %d are accepted", part_count,
                           STASIS_UNION_MAX);
    for (size_t i = 0; i < part_count; i++) {
        if (!same_layout(&parts[i]->map, &parts[0]->map))
            return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                               "tracker %zu of the union is of another memory", i);
        for (size_t k = 0; k < i; k++) {
            if (parts[i] == parts[k])
                return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                                   "trackers %zu and %zu of the union are the same", k, i);
        }
    }
    return 0;
}

int stasis_tracker_open_union(struct stasis_tracker *const *parts, size_t part_count,
                              struct stasis_tracker **ret_tracker, struct stasis_error *err)
{
    struct tracker_union *both;
    int r = check_parts(parts, part_count, err);

    if (r < 0)
        return r;
    both = calloc(1, sizeof(*both));
    if (!both)
        return stasis_fail_memory(err, "a union of trackers");
    r = tracker_init(&both->tracker, &union_ops,
                     &(struct stasis_memory){ .regions = parts[0]->map.regions,
                                              .region_count = parts[0]->map.region_count },
                     err);
    if (r < 0) {
        free(both);
        return r;
    }
    both->part_count = part_count;
    for (size_t i = 0; i < part_count; i++) {
        both->parts[i] = parts[i];
        if (parts[i]->page_size > both->tracker.page_size)
            both->tracker.page_size = parts[i]->page_size;
    }
    *ret_tracker = &both->tracker;
    return 0;
}
