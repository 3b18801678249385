/*
 * bus.c - which device answers at an address.
 *
 * A handful of ranges, searched one after the other: built before vCPUs run and constant then, so
 * lookups take no lock. An access must lie wholly inside one range and have a size that devices
 * know; anything else is the empty bus, as on real hardware: reads give all ones, writes are lost.
 */
#include <string.h>

#include "base/error.h"
#include "microvm/device.h"

static bool ranges_overlap(const struct bus_range *a, const struct bus_range *b)
{
    return a->kind == b->kind && a->base - b->base < b->size;
}

int bus_add(struct bus *bus, const struct bus_range *range, struct stasis_error *err)
{
    uint64_t last;

    if (range->size == 0 || __builtin_add_overflow(range->base, range->size - 1, &last))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "bus range at 0x%llx has an impossible size of 0x%llx bytes",
                           (unsigned long long)range->base, (unsigned long long)range->size);
    for (size_t i = 0; i < bus->range_count; i++) {
        const struct bus_range *other = &bus->ranges[i];

        if (ranges_overlap(range, other) || ranges_overlap(other, range))
            return stasis_fail(err, STASIS_ERR_EXISTS,
                               "bus range at 0x%llx overlaps the one of device '%s'",
                               (unsigned long long)range->base, other->device->id);
    }
    if (bus->range_count == BUS_RANGE_MAX)
        return stasis_fail(err, STASIS_ERR_LIMIT, "more than %d bus ranges", BUS_RANGE_MAX);

    bus->ranges[bus->range_count++] = *range;
    return 0;
}

static bool size_is_known(unsigned size)
{
    return size == 1 || size == 2 || size == 4 || size == 8;
}

static const struct bus_range *find_range(const struct bus *bus, enum bus_kind kind,
                                          uint64_t address, unsigned size)
{
    if (!size_is_known(size))
        return NULL;
    for (size_t i = 0; i < bus->range_count; i++) {
        const struct bus_range *range = &bus->ranges[i];

        if (range->kind == kind && address >= range->base && size <= range->size &&
            address - range->base <= range->size - size)
            return range;
    }
    return NULL;
}

void bus_read(const struct bus *bus, enum bus_kind kind, uint64_t address, void *data,
              unsigned size)
{
    const struct bus_range *range = find_range(bus, kind, address, size);
    uint64_t value;

    if (!range) {
        memset(data, 0xff, size);
        return;
    }
    value =
        range->device->ops->read(range->device, address - range->base + range->device_offset, size);
    memcpy(data, &value, size); /* x86-64 host: the low bytes come first */
}

void bus_write(const struct bus *bus, enum bus_kind kind, uint64_t address, const void *data,
               unsigned size)
{
    const struct bus_range *range = find_range(bus, kind, address, size);
    uint64_t value = 0;

    if (!range)
        return;
    memcpy(&value, data, size);
    range->device->ops->write(range->device, address - range->base + range->device_offset, size,
                              value);
}

void device_free(struct device *device)
{
    if (device)
        device->ops->free(device);
}
