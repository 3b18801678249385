/*
 * acpi_platform.c - the platform's own registers: events, sleep, reset, and the VM generation id.
 *
 *     0x060, 0x064   i8042: no keyboard; command 0xFE resets
 *     0x600          GED: pending events as bits, reading clears them; the line tells of new ones
 *     0x604, 0x605   ACPI sleep control and status: S5 powers off
 *     0x606          ACPI reset register
 *
 * The VM generation id is a GUID in guest RAM (its own page, reserved in the memory map) that changes
 * whenever the machine is restored, so that guests throw away random seeds and unique ids that two
 * clones would share. Besides that page this file touches nothing of the guest's.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/error.h"
#include "microvm/device.h"
#include "microvm/device_state.h"
#include "microvm/layout.h"

#define PLATFORM_STATE_VERSION 1u
#define GUID_SIZE 16u

#define I8042_COMMAND_PORT (LAYOUT_I8042_PORT + 4)
#define I8042_RESET 0xfeu

#define SLEEP_ENABLE 0x20u
#define SLEEP_TYPE(control) ((control) >> 2 & 7u)
#define SLEEP_TYPE_S5 5u

struct acpi_platform {
    struct device device; /* first */
    struct irq_line ged_irq;
    const struct guest_memory *memory;
    struct platform_events events;

    pthread_mutex_t lock; /* below */
    uint32_t pending;     /* LAYOUT_GED_*: events the guest has not read */
    uint8_t generation[GUID_SIZE];
};

struct acpi_platform_state {
    uint32_t pending;
    uint8_t generation[GUID_SIZE];
};

static const struct stasis_field platform_state_fields[] = {
    STASIS_F(struct acpi_platform_state, pending, U32, .show = STASIS_SHOW_HEX,
             .max = LAYOUT_GED_POWER_BUTTON | LAYOUT_GED_VMGENID),
    STASIS_F_ARRAY(struct acpi_platform_state, generation, BYTES),
};
static const struct stasis_table platform_state_table =
    STASIS_TABLE(struct acpi_platform_state, platform_state_fields);

static struct acpi_platform *platform_of(struct device *device)
{
    return (struct acpi_platform *)device;
}

static uint32_t take_events(struct acpi_platform *platform)
{
    uint32_t pending;

    pthread_mutex_lock(&platform->lock);
    pending = platform->pending;
    platform->pending = 0;
    pthread_mutex_unlock(&platform->lock);
    return pending;
}

static uint64_t platform_read(struct device *device, uint64_t offset, unsigned size)
{
    switch (offset) {
    case LAYOUT_GED_PORT: return size == 4 ? take_events(platform_of(device)) : 0;
    /* Status 0: input buffer free, so that a guest waiting to send its reset command goes on. */
    case I8042_COMMAND_PORT:
    case LAYOUT_I8042_PORT:
    case LAYOUT_SLEEP_CONTROL_PORT:
    case LAYOUT_SLEEP_STATUS_PORT:
    case LAYOUT_RESET_PORT: return 0;
    default: return UINT64_MAX;
    }
}

static void platform_write(struct device *device, uint64_t offset, unsigned size, uint64_t value)
{
    const struct platform_events *events = &platform_of(device)->events;
    const uint8_t byte = (uint8_t)value;

    if (size != 1)
        return;
    switch (offset) {
    case LAYOUT_SLEEP_CONTROL_PORT:
        if (byte & SLEEP_ENABLE && SLEEP_TYPE(byte) == SLEEP_TYPE_S5)
            events->power_off(events->arg);
        break;
    case LAYOUT_RESET_PORT:
        if (byte == LAYOUT_RESET_VALUE)
            events->reset(events->arg);
        break;
    case I8042_COMMAND_PORT:
        if (byte == I8042_RESET)
            events->reset(events->arg);
        break;
    default: break;
    }
}

static void post_event(struct acpi_platform *platform, uint32_t event)
{
    pthread_mutex_lock(&platform->lock);
    platform->pending |= event;
    irq_line_pulse(&platform->ged_irq);
    pthread_mutex_unlock(&platform->lock);
}

void acpi_platform_power_button(struct device *device)
{
    post_event(platform_of(device), LAYOUT_GED_POWER_BUTTON);
}

int acpi_platform_new_generation(struct device *device, bool notify, struct stasis_error *err)
{
    struct acpi_platform *platform = platform_of(device);
    void *place = guest_memory_at(platform->memory, LAYOUT_VMGENID_GPA, GUID_SIZE);
    uint8_t generation[GUID_SIZE];

    if (!place)
        return stasis_fail(err, STASIS_ERR_INVALID_MEMORY,
                           "no RAM at 0x%x for the VM generation id", LAYOUT_VMGENID_GPA);
    /* Up to 256 bytes come whole or not at all. */
    if (getrandom(generation, sizeof(generation), 0) < 0)
        return stasis_fail_errno(err, "random VM generation id");

    pthread_mutex_lock(&platform->lock);
    memcpy(platform->generation, generation, sizeof(generation));
    memcpy(place, generation, sizeof(generation));
    guest_memory_written(platform->memory, place, sizeof(generation));
    pthread_mutex_unlock(&platform->lock);
    if (notify)
        post_event(platform, LAYOUT_GED_VMGENID);
    return 0;
}

static int platform_save(struct device *device, struct stasis_machine *machine,
                         struct stasis_error *err)
{
    struct acpi_platform *platform = platform_of(device);
    struct acpi_platform_state state;

    pthread_mutex_lock(&platform->lock);
    state.pending = platform->pending;
    memcpy(state.generation, platform->generation, sizeof(state.generation));
    pthread_mutex_unlock(&platform->lock);
    return device_save_state(device, PLATFORM_STATE_VERSION, &platform_state_table, &state, machine,
                             err);
}

static int platform_load(struct device *device, const struct stasis_machine *machine,
                         struct stasis_error *err)
{
    struct acpi_platform *platform = platform_of(device);
    struct acpi_platform_state state;
    const int r = device_load_state(device, PLATFORM_STATE_VERSION, &platform_state_table, machine,
                                    &state, err);

    if (r < 0)
        return r;
    pthread_mutex_lock(&platform->lock);
    platform->pending = state.pending;
    memcpy(platform->generation, state.generation, sizeof(platform->generation));
    pthread_mutex_unlock(&platform->lock);
    return 0;
}

static void platform_free(struct device *device)
{
    struct acpi_platform *platform = platform_of(device);

    pthread_mutex_destroy(&platform->lock);
    free(platform);
}

static const struct device_ops platform_ops = {
    .kind = "acpi-platform",
    .read = platform_read,
    .write = platform_write,
    .save = platform_save,
    .load = platform_load,
    .free = platform_free,
};

int acpi_platform_new(const struct irq_line *ged_irq, const struct guest_memory *memory,
                      const struct platform_events *events, struct device **ret_device,
                      struct stasis_error *err)
{
    struct acpi_platform *platform = calloc(1, sizeof(*platform));

    if (!platform)
        return stasis_fail_memory(err, "the ACPI platform");
    platform->device.ops = &platform_ops;
    snprintf(platform->device.id, sizeof(platform->device.id), "platform");
    platform->ged_irq = *ged_irq;
    platform->memory = memory;
    platform->events = *events;
    pthread_mutex_init(&platform->lock, NULL);
    *ret_device = &platform->device;
    return 0;
}
