/*
 * guest_memory.c - from a guest physical address to the host's view of it.
 *
 * Every pointer that a device or a loader uses into the guest comes from here, so this is the check
 * that keeps a hostile guest's addresses inside its own RAM. It reads nothing and locks nothing:
 * regions are constant while anybody runs.
 */
#include <stdbool.h>

#include "microvm/device.h"

static bool region_holds(const struct stasis_region *region, uint64_t gpa, uint64_t size)
{
    return gpa >= region->gpa && size <= region->size && gpa - region->gpa <= region->size - size;
}

void *guest_memory_at(const struct guest_memory *memory, uint64_t gpa, uint64_t size)
{
    for (size_t i = 0; i < memory->ram.region_count; i++) {
        const struct stasis_region *region = &memory->ram.regions[i];

        if (region_holds(region, gpa, size))
            return (uint8_t *)region->hva + (gpa - region->gpa);
    }
    return NULL;
}
