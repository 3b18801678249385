/* layout.h - guest memory as one line of bytes: regions back to back, in gpa order.
 *
 *     guest     [ region 0 ]      hole      [ region 1 ][ region 2 ]
 *     linear    [ region 0 ][ region 1 ][ region 2 ]
 *
 * A `linear` offset counts bytes of RAM from the first region on; it is also the offset within the
 * memory section of a native file. All functions expect a memory that stasis_memory_check() passed. */
#ifndef STASIS_MEMORY_LAYOUT_H
#define STASIS_MEMORY_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include <stasis/memory.h>

struct layout_place {
    size_t region_index;
    uint64_t region_off; /* bytes into the region */
    uint64_t size_left;  /* bytes from here to the region's end, at least 1 */
    uint64_t gpa;
};

/* Where a linear offset lies; it must be less than stasis_memory_size(). */
struct layout_place layout_locate(const struct stasis_memory *memory, uint64_t linear);

/* The mapped byte at a place; the region must have its hva. */
uint8_t *layout_hva(const struct stasis_memory *memory, const struct layout_place *place);

#endif
