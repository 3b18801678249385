/* base_compare.h - guest memory against a base, page by page, by several threads. */
#ifndef STASIS_MEMORY_BASE_COMPARE_H
#define STASIS_MEMORY_BASE_COMPARE_H

#include <stdint.h>

#include <stasis/dirty.h>

#include "memory/region_map.h"

struct base_reader {
    stasis_read_base_fn *read;
    void *arg;
    unsigned thread_count; /* 0: one per online CPU, at most 8 */
};

/* Add every page that differs from the base to `into`. On failure, some of them. */
int base_compare_all(const struct region_map *map, const struct base_reader *reader,
                     struct stasis_page_set *into, struct stasis_error *err);

/* Remove the pages of `set` that equal the base. On failure, some of them. */
int base_compare_refine(const struct region_map *map, const struct base_reader *reader,
                        struct stasis_page_set *set, uint64_t *ret_dropped,
                        struct stasis_error *err);

#endif
