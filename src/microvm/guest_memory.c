/*
 * guest_memory.c - from a guest physical address to the host's view of it, and back to say what was
 * written there.
 *
 * Every pointer that a device or a loader uses into the guest comes from here, so this is the check
 * that keeps a hostile guest's addresses inside its own RAM. It is also the one place that tells the
 * VM's tracker of writes by devices: one that is not told is missing from every diff. It reads nothing
 * and locks nothing: regions and tracker are constant while anybody runs.
 */
#include <stdbool.h>

#include <stasis/dirty.h>

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

void guest_memory_written(const struct guest_memory *memory, const void *place, uint64_t size)
{
    const uint64_t hva = (uint64_t)(uintptr_t)place;

    if (!memory->marks || size == 0)
        return;
    for (size_t i = 0; i < memory->ram.region_count; i++) {
        const struct stasis_region *region = &memory->ram.regions[i];
        const uint64_t start = (uint64_t)(uintptr_t)region->hva;

        if (hva >= start && hva - start < region->size) {
            (void)stasis_tracker_mark(memory->marks, region->gpa + (hva - start), size);
            return;
        }
    }
}
