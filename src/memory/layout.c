/*
 * layout.c - is a memory layout sound, how large is it, and where in it does a byte lie.
 *
 * stasis_memory_check() is the gate for layouts from callers and from files alike: what it lets
 * through is indexed, summed and mapped without another look. A hole in it is memory read or
 * mapped out of bounds.
 */
#include "memory/layout.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"

/* Also proves that gpa + size does not wrap; `ret_end` is the first address past the region. */
static int check_region(const struct stasis_region *region, size_t index, uint64_t *ret_end,
                        struct stasis_error *err)
{
    if (region->size == 0)
        return stasis_fail(err, STASIS_ERR_INVALID_MEMORY, "memory region %zu is empty", index);
    if (region->gpa % STASIS_PAGE_SIZE != 0 || region->size % STASIS_PAGE_SIZE != 0)
        return stasis_fail(err, STASIS_ERR_INVALID_MEMORY,
                           "memory region %zu (0x%" PRIx64 ", 0x%" PRIx64
                           " bytes) is not made of whole %u-byte pages",
                           index, region->gpa, region->size, STASIS_PAGE_SIZE);
    if (region->size > STASIS_MEMORY_SIZE_MAX)
        return stasis_fail(err, STASIS_ERR_LIMIT,
                           "memory region %zu is %" PRIu64 " bytes, at most %" PRIu64
                           " are accepted",
                           index, region->size, STASIS_MEMORY_SIZE_MAX);
    if (__builtin_add_overflow(region->gpa, region->size, ret_end))
        return stasis_fail(err, STASIS_ERR_INVALID_MEMORY,
                           "memory region %zu (0x%" PRIx64 ", 0x%" PRIx64
                           " bytes) wraps around the end of the address space",
                           index, region->gpa, region->size);
    return 0;
}

int stasis_memory_check(const struct stasis_memory *memory, struct stasis_error *err)
{
    uint64_t total = 0; /* cannot overflow: it is checked after each region, and so is the region */
    uint64_t end = 0;

    if (memory->region_count == 0 || !memory->regions)
        return stasis_fail(err, STASIS_ERR_INVALID_MEMORY, "memory has no regions");
    if (memory->region_count > STASIS_REGION_MAX)
        return stasis_fail(err, STASIS_ERR_LIMIT, "memory has %zu regions, at most %d are accepted",
                           memory->region_count, STASIS_REGION_MAX);

    for (size_t i = 0; i < memory->region_count; i++) {
        const struct stasis_region *region = &memory->regions[i];
        const uint64_t previous_end = end;
        const int r = check_region(region, i, &end, err);

        if (r < 0)
            return r;
        if (region->gpa < previous_end)
            return stasis_fail(err, STASIS_ERR_INVALID_MEMORY,
                               "memory region %zu at 0x%" PRIx64
                               " overlaps the one before it, which ends at 0x%" PRIx64,
                               i, region->gpa, previous_end);
        total += region->size;
        if (total > STASIS_MEMORY_SIZE_MAX)
            return stasis_fail(err, STASIS_ERR_LIMIT,
                               "memory regions add up to more than %" PRIu64 " bytes",
                               STASIS_MEMORY_SIZE_MAX);
    }
    return 0;
}

uint64_t stasis_memory_size(const struct stasis_memory *memory)
{
    uint64_t total = 0;

    for (size_t i = 0; i < memory->region_count; i++)
        total += memory->regions[i].size;
    return total;
}

void stasis_memory_unmap(struct stasis_memory *memory)
{
    if (!memory)
        return;
    for (size_t i = 0; memory->regions && i < memory->region_count; i++) {
        if (memory->regions[i].hva)
            munmap(memory->regions[i].hva, memory->regions[i].size);
    }
    free(memory->regions);
    *memory = (struct stasis_memory){ 0 };
}

/* At most STASIS_REGION_MAX steps, once per slab of a megabyte: a search tree would not pay. */
struct layout_place layout_locate(const struct stasis_memory *memory, uint64_t linear)
{
    size_t i = 0;

    while (i + 1 < memory->region_count && linear >= memory->regions[i].size)
        linear -= memory->regions[i++].size;
    assert(linear < memory->regions[i].size);

    return (struct layout_place){
        .region_index = i,
        .region_off = linear,
        .size_left = memory->regions[i].size - linear,
        .gpa = memory->regions[i].gpa + linear,
    };
}

uint8_t *layout_hva(const struct stasis_memory *memory, const struct layout_place *place)
{
    return (uint8_t *)memory->regions[place->region_index].hva + place->region_off;
}
