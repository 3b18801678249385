/* region_map.h - from guest physical addresses to pages of the line, by a private copy of a
 * layout. */
#ifndef STASIS_MEMORY_REGION_MAP_H
#define STASIS_MEMORY_REGION_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/memory.h>

struct region_map {
    struct stasis_region *regions; /* owned */
    uint64_t *first_pages;         /* of each region, owned */
    size_t region_count;
    uint64_t page_count; /* of all regions */
};

/* Checks the layout and copies it. 0, or as stasis_memory_check(); -ENOMEM. */
int region_map_init(struct region_map *map, const struct stasis_memory *memory,
                    struct stasis_error *err);
void region_map_release(struct region_map *map);

/* The regions are mapped in this process? 0, or STASIS_ERR_INVALID_ARGUMENT. */
int region_map_need_hva(const struct region_map *map, struct stasis_error *err);

/* Index of the region that `gpa` lies in, or of the next one above; region_count when there is
 * none. */
size_t region_map_find(const struct region_map *map, uint64_t gpa);

/* The page of the line that `gpa` lies in; false when it lies in no region. */
bool region_map_page(const struct region_map *map, uint64_t gpa, uint64_t *ret_page);

/* Call `fn` for each stretch of [gpa, gpa + size) that is memory, as pages of the line. Returns
 * whether all of the range was. */
typedef void region_map_fn(void *arg, uint64_t first_page, uint64_t page_count);
bool region_map_each(const struct region_map *map, uint64_t gpa, uint64_t size, region_map_fn *fn,
                     void *arg);

/* The region that a page of the line lies in; the page must exist. */
size_t region_map_of_page(const struct region_map *map, uint64_t page);

#endif
