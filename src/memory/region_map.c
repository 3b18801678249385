/*
 * region_map.c - where in the line of memory does a guest physical address lie.
 *
 *     guest     [ region 0 ]      hole      [ region 1 ]
 *     pages     0 .. n-1                    n ..
 *
 * Addresses come from guests (a virtio descriptor, a fault): each is looked up, none is trusted. A
 * wrong answer marks another page than the one written. Constant once made: any thread may ask.
 */
#include "memory/region_map.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

int region_map_init(struct region_map *map, const struct stasis_memory *memory,
                    struct stasis_error *err)
{
    const int r = stasis_memory_check(memory, err);

    *map = (struct region_map){ 0 };
    if (r < 0)
        return r;
    map->regions = calloc(memory->region_count, sizeof(*map->regions));
    map->first_pages = calloc(memory->region_count, sizeof(*map->first_pages));
    if (!map->regions || !map->first_pages) {
        region_map_release(map);
        return stasis_fail_memory(err, "a copy of the memory layout");
    }
    map->region_count = memory->region_count;
    for (size_t i = 0; i < memory->region_count; i++) {
        map->regions[i] = memory->regions[i];
        map->first_pages[i] = map->page_count;
        map->page_count += memory->regions[i].size / STASIS_PAGE_SIZE;
    }
    return 0;
}

void region_map_release(struct region_map *map)
{
    free(map->regions);
    free(map->first_pages);
    *map = (struct region_map){ 0 };
}

int region_map_need_hva(const struct region_map *map, struct stasis_error *err)
{
    for (size_t i = 0; i < map->region_count; i++) {
        if (!map->regions[i].hva)
            return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                               "memory region %zu is not mapped in this process", i);
    }
    return 0;
}

size_t region_map_find(const struct region_map *map, uint64_t gpa)
{
    size_t low = 0;
    size_t high = map->region_count;

    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const struct stasis_region *region = &map->regions[middle];

        if (gpa >= region->gpa && gpa - region->gpa >= region->size)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool region_map_page(const struct region_map *map, uint64_t gpa, uint64_t *ret_page)
{
    const size_t i = region_map_find(map, gpa);

    if (i >= map->region_count || gpa < map->regions[i].gpa)
        return false;
    *ret_page = map->first_pages[i] + (gpa - map->regions[i].gpa) / STASIS_PAGE_SIZE;
    return true;
}

bool region_map_each(const struct region_map *map, uint64_t gpa, uint64_t size, region_map_fn *fn,
                     void *arg)
{
    const uint64_t room = UINT64_MAX - gpa;
    const uint64_t last = size - 1 <= room ? gpa + (size - 1) : UINT64_MAX; /* last byte */
    uint64_t found = 0;

    if (size == 0)
        return true;
    for (size_t i = region_map_find(map, gpa); i < map->region_count; i++) {
        const struct stasis_region *region = &map->regions[i];
        const uint64_t region_last = region->gpa + (region->size - 1);
        const uint64_t from = gpa > region->gpa ? gpa : region->gpa;
        const uint64_t to = last < region_last ? last : region_last;

        if (region->gpa > last)
            break;
        const uint64_t first = (from - region->gpa) / STASIS_PAGE_SIZE;

        fn(arg, map->first_pages[i] + first, (to - region->gpa) / STASIS_PAGE_SIZE - first + 1);
        found += to - from + 1;
    }
    return found == size;
}

size_t region_map_of_page(const struct region_map *map, uint64_t page)
{
    size_t low = 0;
    size_t high = map->region_count - 1;

    assert(page < map->page_count);
    while (low < high) {
        const size_t middle = low + (high - low + 1) / 2;

        if (map->first_pages[middle] <= page)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}
