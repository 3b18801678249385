/* test_bus.c - which device answers at an address, and which part of RAM.
 *
 * Goal:   an access reaches exactly the device whose range holds all of it; everything else is the
 *         empty bus. guest_memory_at() gives out addresses inside one region only.
 * Method: devices that record what they are asked, ranges with edges in both address spaces. */
#include "unit.h"

#include <string.h>

#include "microvm/device.h"

struct probe {
    struct device device;
    unsigned reads, writes;
    uint64_t offset, value;
    unsigned size;
    uint64_t answer;
    unsigned frees;
};

static struct probe *probe_of(struct device *device)
{
    return (struct probe *)device;
}

static uint64_t probe_read(struct device *device, uint64_t offset, unsigned size)
{
    struct probe *probe = probe_of(device);

    probe->reads++;
    probe->offset = offset;
    probe->size = size;
    return probe->answer;
}

static void probe_write(struct device *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct probe *probe = probe_of(device);

    probe->writes++;
    probe->offset = offset;
    probe->size = size;
    probe->value = value;
}

static void probe_free(struct device *device)
{
    probe_of(device)->frees++;
}

static const struct device_ops probe_ops = {
    .kind = "probe", .read = probe_read, .write = probe_write, .free = probe_free
};

static struct probe make_probe(const char *id)
{
    struct probe probe = { .device.ops = &probe_ops };

    strcpy(probe.device.id, id);
    return probe;
}

static struct bus_range range_of(enum bus_kind kind, uint64_t base, uint64_t size,
                                 struct probe *probe, uint64_t device_offset)
{
    return (struct bus_range){ .kind = kind,
                               .base = base,
                               .size = size,
                               .device = &probe->device,
                               .device_offset = device_offset };
}

static int add(struct bus *bus, enum bus_kind kind, uint64_t base, uint64_t size,
               struct probe *probe, struct stasis_error *err)
{
    const struct bus_range range = range_of(kind, base, size, probe, 0);

    return bus_add(bus, &range, err);
}

static void device_sees_offset_size_and_value(void **state)
{
    struct probe probe = make_probe("a");
    const struct bus_range range = range_of(BUS_PIO, 0x3f8, 8, &probe, 0x100);
    const uint16_t sent = 0xbeef;
    struct stasis_error err = { 0 };
    struct bus bus = { 0 };
    uint32_t got = 0;

    (void)state;
    assert_stasis_ok(bus_add(&bus, &range, &err), &err);
    bus_write(&bus, BUS_PIO, 0x3fa, &sent, sizeof(sent));
    assert_int_equal(probe.writes, 1);
    assert_int_equal(probe.offset, 0x102);
    assert_int_equal(probe.size, 2);
    assert_int_equal(probe.value, 0xbeef);

    probe.answer = 0xffffffff12345678;
    bus_read(&bus, BUS_PIO, 0x3fc, &got, sizeof(got));
    assert_int_equal(probe.reads, 1);
    assert_int_equal(probe.offset, 0x104);
    assert_int_equal(got, 0x12345678);
}

static void ports_and_memory_are_two_address_spaces(void **state)
{
    struct probe port = make_probe("port"), memory = make_probe("memory");
    struct stasis_error err = { 0 };
    struct bus bus = { 0 };
    uint8_t byte;

    (void)state;
    assert_stasis_ok(add(&bus, BUS_PIO, 0x60, 4, &port, &err), &err);
    assert_stasis_ok(add(&bus, BUS_MMIO, 0x60, 4, &memory, &err), &err);
    bus_read(&bus, BUS_MMIO, 0x60, &byte, 1);
    assert_int_equal(port.reads, 0);
    assert_int_equal(memory.reads, 1);
}

static void nothing_there_reads_ones_and_drops_writes(void **state)
{
    struct probe probe = make_probe("a");
    struct stasis_error err = { 0 };
    struct bus bus = { 0 };
    uint8_t bytes[8] = { 0 };
    static const uint8_t ones[8] = { 255, 255, 255, 255, 255, 255, 255, 255 };

    (void)state;
    assert_stasis_ok(add(&bus, BUS_MMIO, 0x1000, 0x10, &probe, &err), &err);
    bus_read(&bus, BUS_MMIO, 0xfff, bytes, 1);
    assert_int_equal(bytes[0], 0xff);
    bus_read(&bus, BUS_MMIO, 0x1010, bytes, 8);
    assert_memory_equal(bytes, ones, 8);
    bus_write(&bus, BUS_MMIO, UINT64_MAX, bytes, 1);
    assert_int_equal(probe.reads + probe.writes, 0);
}

static void access_across_an_end_is_nobodys(void **state)
{
    struct probe low = make_probe("low"), high = make_probe("high");
    struct stasis_error err = { 0 };
    struct bus bus = { 0 };
    uint32_t word = 0;

    (void)state;
    assert_stasis_ok(add(&bus, BUS_MMIO, 0x1000, 6, &low, &err), &err);
    assert_stasis_ok(add(&bus, BUS_MMIO, 0x1006, 6, &high, &err), &err);
    bus_read(&bus, BUS_MMIO, 0x1004, &word, 4);
    assert_int_equal(word, 0xffffffff);
    bus_read(&bus, BUS_MMIO, 0x1009, &word, 4);
    assert_int_equal(word, 0xffffffff);
    assert_int_equal(low.reads + high.reads, 0);
    bus_read(&bus, BUS_MMIO, 0x1002, &word, 4); /* the last that fits */
    assert_int_equal(low.reads, 1);
}

static void odd_sizes_are_nobodys(void **state)
{
    static const unsigned sizes[] = { 0, 3, 5, 6, 7 };
    struct probe probe = make_probe("a");
    struct stasis_error err = { 0 };
    struct bus bus = { 0 };
    uint8_t bytes[8] = { 0 };

    (void)state;
    assert_stasis_ok(add(&bus, BUS_MMIO, 0, 0x100, &probe, &err), &err);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        bus_read(&bus, BUS_MMIO, 0, bytes, sizes[i]);
        bus_write(&bus, BUS_MMIO, 0, bytes, sizes[i]);
    }
    assert_int_equal(probe.reads + probe.writes, 0);
    assert_int_equal(bytes[6], 0xff);
    assert_int_equal(bytes[7], 0);
}

static void range_may_end_with_the_address_space(void **state)
{
    struct probe probe = make_probe("last");
    struct stasis_error err = { 0 };
    struct bus bus = { 0 };
    uint8_t byte = 0;

    (void)state;
    assert_stasis_ok(add(&bus, BUS_MMIO, UINT64_MAX - 15, 16, &probe, &err), &err);
    probe.answer = 7;
    bus_read(&bus, BUS_MMIO, UINT64_MAX, &byte, 1);
    assert_int_equal(byte, 7);
    assert_int_equal(probe.offset, 15);
}

static void overlapping_ranges_are_refused(void **state)
{
    struct probe a = make_probe("a"), b = make_probe("b");
    struct stasis_error err = { 0 };
    struct bus bus = { 0 };

    (void)state;
    assert_stasis_ok(add(&bus, BUS_PIO, 0x10, 0x10, &a, &err), &err);
    assert_stasis_fails(add(&bus, BUS_PIO, 0x1f, 1, &b, &err), &err, STASIS_ERR_EXISTS);
    assert_stasis_fails(add(&bus, BUS_PIO, 0, 0x11, &b, &err), &err, STASIS_ERR_EXISTS);
    assert_stasis_fails(add(&bus, BUS_PIO, 0, 0x100, &b, &err), &err, STASIS_ERR_EXISTS);
    assert_stasis_fails(add(&bus, BUS_PIO, 0x18, 1, &b, &err), &err, STASIS_ERR_EXISTS);
    assert_stasis_ok(add(&bus, BUS_PIO, 0, 0x10, &b, &err), &err);
    assert_stasis_ok(add(&bus, BUS_PIO, 0x20, 1, &b, &err), &err);
    assert_int_equal(bus.range_count, 3);
}

static void impossible_ranges_are_refused(void **state)
{
    struct probe probe = make_probe("a");
    struct stasis_error err = { 0 };
    struct bus bus = { 0 };

    (void)state;
    assert_stasis_fails(add(&bus, BUS_PIO, 0x10, 0, &probe, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(add(&bus, BUS_MMIO, UINT64_MAX, 2, &probe, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    assert_int_equal(bus.range_count, 0);
}

static void full_bus_refuses_one_more(void **state)
{
    struct probe probe = make_probe("a");
    struct stasis_error err = { 0 };
    struct bus bus = { 0 };

    (void)state;
    for (uint64_t i = 0; i < BUS_RANGE_MAX; i++)
        assert_stasis_ok(add(&bus, BUS_PIO, i, 1, &probe, &err), &err);
    assert_stasis_fails(add(&bus, BUS_PIO, BUS_RANGE_MAX, 1, &probe, &err), &err, STASIS_ERR_LIMIT);
}

static void freeing_asks_the_device_and_takes_null(void **state)
{
    struct probe probe = make_probe("a");

    (void)state;
    device_free(&probe.device);
    device_free(NULL);
    assert_int_equal(probe.frees, 1);
}

/* --- guest memory --------------------------------------------------------------------------- */

static uint8_t low_ram[0x3000], high_ram[0x1000];

static struct guest_memory two_regions(struct stasis_region regions[2])
{
    regions[0] = (struct stasis_region){ .gpa = 0, .size = sizeof(low_ram), .hva = low_ram };
    regions[1] = (struct stasis_region){ .gpa = UINT64_C(1) << 32,
                                         .size = sizeof(high_ram),
                                         .hva = high_ram };
    return (struct guest_memory){ .ram = { .regions = regions, .region_count = 2 } };
}

static void ram_is_found_in_both_regions(void **state)
{
    struct stasis_region regions[2];
    const struct guest_memory memory = two_regions(regions);

    (void)state;
    assert_ptr_equal(guest_memory_at(&memory, 0, 0x3000), low_ram);
    assert_ptr_equal(guest_memory_at(&memory, 0x2fff, 1), low_ram + 0x2fff);
    assert_ptr_equal(guest_memory_at(&memory, 0x100000010, 0xff0), high_ram + 0x10);
}

static void ram_is_not_found_beyond_a_region(void **state)
{
    struct stasis_region regions[2];
    const struct guest_memory memory = two_regions(regions);

    (void)state;
    assert_null(guest_memory_at(&memory, 0x2fff, 2));
    assert_null(guest_memory_at(&memory, 0x3000, 1));
    assert_null(guest_memory_at(&memory, 0, 0x3001));
    assert_null(guest_memory_at(&memory, 0xffffffff, 2));
    assert_null(guest_memory_at(&memory, 0x100001000, 1));
    assert_null(guest_memory_at(&memory, 0x100000fff, UINT64_MAX));
    assert_null(guest_memory_at(&memory, UINT64_MAX, 2));
    assert_null(guest_memory_at(&memory, UINT64_MAX, UINT64_MAX));
    assert_null(guest_memory_at(&memory, 1, UINT64_MAX));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(device_sees_offset_size_and_value),
        cmocka_unit_test(ports_and_memory_are_two_address_spaces),
        cmocka_unit_test(nothing_there_reads_ones_and_drops_writes),
        cmocka_unit_test(access_across_an_end_is_nobodys),
        cmocka_unit_test(odd_sizes_are_nobodys),
        cmocka_unit_test(range_may_end_with_the_address_space),
        cmocka_unit_test(overlapping_ranges_are_refused),
        cmocka_unit_test(impossible_ranges_are_refused),
        cmocka_unit_test(full_bus_refuses_one_more),
        cmocka_unit_test(freeing_asks_the_device_and_takes_null),
        cmocka_unit_test(ram_is_found_in_both_regions),
        cmocka_unit_test(ram_is_not_found_beyond_a_region),
    };
    return unit_run(tests);
}
