/* Goal:   the platform's registers do what the ACPI tables say, once, and its state survives a save.
 * Method: ports are driven as the bus drives them; power off and reset are counted. */
#include "device_fixture.h"

#include <stdlib.h>
#include <string.h>

#include "microvm/layout.h"

#define GUID_SIZE 16u

struct bench {
    struct fake_ram ram;
    struct device *device;
    unsigned power_off_count, reset_count;
};

static void on_power_off(void *arg)
{
    ((struct bench *)arg)->power_off_count++;
}

static void on_reset(void *arg)
{
    ((struct bench *)arg)->reset_count++;
}

static struct device *new_platform(struct bench *bench, const struct guest_memory *memory)
{
    const struct irq_line irq = { .vm_fd = -1, .gsi = LAYOUT_GED_GSI };
    const struct platform_events events = { on_power_off, on_reset, bench };
    struct stasis_error err = { 0 };
    struct device *device;

    assert_stasis_ok(acpi_platform_new(&irq, memory, &events, &device, &err), &err);
    return device;
}

static int bench_new(void **state)
{
    struct bench *bench = calloc(1, sizeof(*bench));

    if (!bench)
        return -1;
    fake_ram_init(&bench->ram);
    bench->device = new_platform(bench, &bench->ram.memory);
    irq_pulses(LAYOUT_GED_GSI);
    *state = bench;
    return 0;
}

static int bench_free(void **state)
{
    struct bench *bench = *state;

    bench->device->ops->free(bench->device);
    fake_ram_release(&bench->ram);
    free(bench);
    return 0;
}

static uint64_t in(struct bench *bench, uint32_t port, unsigned size)
{
    return bench->device->ops->read(bench->device, port, size);
}

static void out(struct bench *bench, uint32_t port, uint8_t value)
{
    bench->device->ops->write(bench->device, port, 1, value);
}

static void s5_powers_off_and_nothing_else_does(void **state)
{
    struct bench *bench = *state;

    for (unsigned value = 0; value < 256; value++) {
        if ((value & 0x3c) != 0x34)
            out(bench, LAYOUT_SLEEP_CONTROL_PORT, (uint8_t)value);
    }
    assert_int_equal(bench->power_off_count, 0);
    out(bench, LAYOUT_SLEEP_CONTROL_PORT, 0x34);
    assert_int_equal(bench->power_off_count, 1);
    assert_int_equal(bench->reset_count, 0);
    assert_int_equal(in(bench, LAYOUT_SLEEP_CONTROL_PORT, 1), 0);
    assert_int_equal(in(bench, LAYOUT_SLEEP_STATUS_PORT, 1), 0);
}

static void both_reset_registers_reset_by_their_value_only(void **state)
{
    struct bench *bench = *state;

    for (unsigned value = 0; value < 256; value++) {
        if (value != LAYOUT_RESET_VALUE)
            out(bench, LAYOUT_RESET_PORT, (uint8_t)value);
        if (value != 0xfe)
            out(bench, LAYOUT_I8042_PORT + 4, (uint8_t)value);
        out(bench, LAYOUT_I8042_PORT, (uint8_t)value);
    }
    assert_int_equal(bench->reset_count, 0);
    out(bench, LAYOUT_RESET_PORT, LAYOUT_RESET_VALUE);
    assert_int_equal(bench->reset_count, 1);
    out(bench, LAYOUT_I8042_PORT + 4, 0xfe);
    assert_int_equal(bench->reset_count, 2);
    assert_int_equal(bench->power_off_count, 0);
}

static void the_keyboard_controller_takes_commands_and_has_no_keys(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(in(bench, LAYOUT_I8042_PORT + 4, 1), 0);
    assert_int_equal(in(bench, LAYOUT_I8042_PORT, 1), 0);
    assert_int_equal((uint8_t)in(bench, LAYOUT_I8042_PORT + 2, 1), 0xff);
}

static void an_event_is_told_by_an_edge_and_cleared_by_reading(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(in(bench, LAYOUT_GED_PORT, 4), 0);
    acpi_platform_power_button(bench->device);
    assert_int_equal(irq_pulses(LAYOUT_GED_GSI), 1);
    assert_int_equal(in(bench, LAYOUT_GED_PORT, 1),
                     0); /* not the register's width: clears nothing */
    assert_int_equal(in(bench, LAYOUT_GED_PORT, 4), LAYOUT_GED_POWER_BUTTON);
    assert_int_equal(in(bench, LAYOUT_GED_PORT, 4), 0);
    assert_int_equal(irq_pulses(LAYOUT_GED_GSI), 0);
}

static void a_new_generation_is_in_ram_and_told_when_asked(void **state)
{
    static const uint8_t zero[GUID_SIZE];
    struct bench *bench = *state;
    const uint8_t *guid = ram_at(&bench->ram, LAYOUT_VMGENID_GPA, GUID_SIZE);
    struct stasis_error err = { 0 };
    uint8_t first[GUID_SIZE];

    assert_stasis_ok(acpi_platform_new_generation(bench->device, false, &err), &err);
    assert_int_equal(irq_pulses(LAYOUT_GED_GSI), 0);
    assert_int_equal(in(bench, LAYOUT_GED_PORT, 4), 0);
    assert_memory_not_equal(guid, zero, GUID_SIZE);
    memcpy(first, guid, GUID_SIZE);

    assert_stasis_ok(acpi_platform_new_generation(bench->device, true, &err), &err);
    assert_int_equal(irq_pulses(LAYOUT_GED_GSI), 1);
    assert_memory_not_equal(guid, first, GUID_SIZE);
    acpi_platform_power_button(bench->device); /* events add up */
    assert_int_equal(in(bench, LAYOUT_GED_PORT, 4), LAYOUT_GED_VMGENID | LAYOUT_GED_POWER_BUTTON);
}

static void a_generation_without_ram_for_it_is_refused(void **state)
{
    struct bench *bench = *state;
    struct stasis_region region = bench->ram.regions[0];
    const struct guest_memory small = { .ram = { .regions = &region, .region_count = 1 } };
    struct stasis_error err = { 0 };
    struct device *device;

    region.size = LAYOUT_VMGENID_GPA;
    device = new_platform(bench, &small);
    assert_stasis_fails(acpi_platform_new_generation(device, false, &err), &err,
                        STASIS_ERR_INVALID_MEMORY);
    device->ops->free(device);
}

static void events_survive_a_save_and_ram_is_left_alone(void **state)
{
    struct bench *bench = *state;
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };

    acpi_platform_power_button(bench->device);
    assert_stasis_ok(bench->device->ops->save(bench->device, &machine, &err), &err);
    bench->device->ops->free(bench->device);
    bench->device = new_platform(bench, &bench->ram.memory);
    memset(ram_at(&bench->ram, LAYOUT_VMGENID_GPA, GUID_SIZE), 0x77, GUID_SIZE);
    irq_pulses(LAYOUT_GED_GSI);
    assert_stasis_ok(bench->device->ops->load(bench->device, &machine, &err), &err);
    assert_int_equal(irq_pulses(LAYOUT_GED_GSI), 0); /* its edge is in the interrupt controller */
    assert_int_equal(*(uint8_t *)ram_at(&bench->ram, LAYOUT_VMGENID_GPA, 1), 0x77);
    assert_int_equal(in(bench, LAYOUT_GED_PORT, 4), LAYOUT_GED_POWER_BUTTON);
    stasis_machine_release(&machine);
}

/* The names of the saved fields, once more: they are a promise to files that exist. */
struct saved_platform {
    uint32_t pending;
    uint8_t generation[GUID_SIZE];
};
static const struct stasis_field saved_fields[] = {
    STASIS_F(struct saved_platform, pending, U32),
    STASIS_F_ARRAY(struct saved_platform, generation, BYTES),
};
static const struct stasis_table saved_table = STASIS_TABLE(struct saved_platform, saved_fields);

static void unknown_events_in_a_snapshot_are_refused(void **state)
{
    struct bench *bench = *state;
    const struct saved_platform saved = { .pending = 4 };
    struct stasis_machine machine = { 0 };
    struct stasis_error err = { 0 };

    assert_stasis_fails(bench->device->ops->load(bench->device, &machine, &err), &err,
                        STASIS_ERR_INVALID_MACHINE);
    assert_stasis_ok(stasis_machine_add_device(&machine, "acpi-platform", "platform", 1,
                                               &saved_table, &saved, &err),
                     &err);
    assert_stasis_fails(bench->device->ops->load(bench->device, &machine, &err), &err,
                        STASIS_ERR_INVALID_MACHINE);
    assert_int_equal(in(bench, LAYOUT_GED_PORT, 4), 0);
    stasis_machine_release(&machine);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, bench_new, bench_free)
    static const struct CMUnitTest tests[] = {
        CASE(s5_powers_off_and_nothing_else_does),
        CASE(both_reset_registers_reset_by_their_value_only),
        CASE(the_keyboard_controller_takes_commands_and_has_no_keys),
        CASE(an_event_is_told_by_an_edge_and_cleared_by_reading),
        CASE(a_new_generation_is_in_ram_and_told_when_asked),
        CASE(a_generation_without_ram_for_it_is_refused),
        CASE(events_survive_a_save_and_ram_is_left_alone),
        CASE(unknown_events_in_a_snapshot_are_refused),
    };
#undef CASE

    return unit_run(tests);
}
