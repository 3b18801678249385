/*
 * tracker_compare.c - the tracker for where no tracker ran: memory against its base, byte by byte.
 *
 * It notices nothing as it happens, so an epoch is whatever the base reader reads: after a harvest
 * whose pages are safe in a new snapshot, the reader must read that one. It misses no change, by
 * whomever, and tells no page that is as it was; each harvest reads all of memory and all of the
 * base.
 */
#include <stdlib.h>

#include "base/error.h"
#include "memory/base_compare.h"
#include "memory/tracker.h"

struct tracker_compare {
    struct stasis_tracker tracker;
    struct base_reader reader;
};

static int compare_arm(struct stasis_tracker *tracker, struct stasis_error *err)
{
    (void)tracker;
    (void)err;
    return 0;
}

static int compare_harvest(struct stasis_tracker *tracker, struct stasis_error *err)
{
    return base_compare_all(&tracker->map, &((struct tracker_compare *)tracker)->reader,
                            &tracker->pending, err);
}

static void compare_close(struct stasis_tracker *tracker)
{
    tracker_release(tracker);
    free(tracker);
}

static const struct tracker_ops compare_ops = {
    .name = "comparison with the base",
    .arm = compare_arm,
    .harvest = compare_harvest,
    .close = compare_close,
};

static int check_reader(stasis_read_base_fn *read_base, struct stasis_error *err)
{
    if (read_base)
        return 0;
    return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "no way to read the base");
}

int stasis_tracker_open_compare(const struct stasis_memory *memory, stasis_read_base_fn *read_base,
                                void *read_arg, unsigned thread_count,
                                struct stasis_tracker **ret_tracker, struct stasis_error *err)
{
    struct tracker_compare *compare;
    int r = check_reader(read_base, err);

    if (r < 0)
        return r;
    compare = calloc(1, sizeof(*compare));
    if (!compare)
        return stasis_fail_memory(err, "a comparison with the base");
    r = tracker_init(&compare->tracker, &compare_ops, memory, err);
    if (r < 0) {
        free(compare);
        return r;
    }
    r = region_map_need_hva(&compare->tracker.map, err);
    if (r < 0) {
        compare_close(&compare->tracker);
        return r;
    }
    compare->reader = (struct base_reader){ read_base, read_arg, thread_count };
    *ret_tracker = &compare->tracker;
    return 0;
}

int stasis_dirty_refine(struct stasis_page_set *set, const struct stasis_memory *memory,
                        stasis_read_base_fn *read_base, void *read_arg, unsigned thread_count,
                        uint64_t *ret_dropped, struct stasis_error *err)
{
    const struct base_reader reader = { read_base, read_arg, thread_count };
    struct region_map map;
    uint64_t dropped = 0;
    int r = check_reader(read_base, err);

    if (r < 0)
        return r;
    r = region_map_init(&map, memory, err);
    if (r < 0)
        return r;
    r = region_map_need_hva(&map, err);
    if (r == 0 && set->page_count != map.page_count)
        r = stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                        "the set is for %ju pages, the memory has %ju", (uintmax_t)set->page_count,
                        (uintmax_t)map.page_count);
    if (r == 0)
        r = base_compare_refine(&map, &reader, set, &dropped, err);
    region_map_release(&map);
    if (r == 0 && ret_dropped)
        *ret_dropped = dropped;
    return r;
}
