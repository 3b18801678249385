/*
 * acpi_tables_dsdt.c - the devices that a guest finds by ACPI.
 *
 *     \_S5_          soft off: sleep type 5, written to SLEEP_CONTROL (LAYOUT_SLEEP_CONTROL_PORT)
 *     \_SB_.COM1     PNP0501, 16550 at 0x3f8, interrupt 4
 *     \_SB_.PWRB     PNP0C0C, power button
 *     \_SB_.VGEN     VMGenID: ADDR is where the 16-byte generation lies
 *     \_SB_.GED_     ACPI0013, generic event device: its interrupt means "read the port of events"
 *     \_SB_.VIOn     LNRO0005, virtio-mmio in slot n
 *
 * A guest reads this once at boot and keeps what it read across saves and restores, so a change
 * here must keep old snapshots' devices where they were (layout.h).
 */
#include "microvm/acpi_tables.h"
#include "microvm/acpi_tables_aml.h"
#include "microvm/layout.h"

#define S5_SLEEP_TYPE 5u
#define NOTIFY_STATUS_CHANGE 0x80u /* a button was pressed; for VMGenID: the generation is new */

static void add_soft_off(struct aml *aml)
{
    static const uint64_t sleep_types[] = { S5_SLEEP_TYPE, 0, 0, 0 };

    aml_name_integers(aml, "_S5_", sleep_types, 4);
}

static void add_serial(struct aml *aml)
{
    aml_begin_device(aml, "COM1");
    aml_name_eisa_id(aml, "_HID", "PNP0501");
    aml_name_integer(aml, "_UID", 0);
    aml_begin_resources(aml);
    aml_io_ports(aml, LAYOUT_SERIAL_PORT, 8);
    aml_interrupt(aml, LAYOUT_SERIAL_GSI);
    aml_end_resources(aml);
    aml_end(aml);
}

static void add_power_button(struct aml *aml)
{
    aml_begin_device(aml, "PWRB");
    aml_name_eisa_id(aml, "_HID", "PNP0C0C");
    aml_name_integer(aml, "_UID", 0);
    aml_end(aml);
}

/* "Virtual Machine Generation ID" (Microsoft, 2012): _CID and ADDR are fixed by it, _HID is free.
 * */
static void add_generation_id(struct aml *aml)
{
    static const uint64_t address[] = { LAYOUT_VMGENID_GPA, 0 }; /* low and high 32 bits */

    aml_begin_device(aml, "VGEN");
    aml_name_string(aml, "_HID", "STAS0001");
    aml_name_string(aml, "_CID", "VM_Gen_Counter");
    aml_name_string(aml, "_DDN", "VM_Gen_Counter");
    aml_name_integers(aml, "ADDR", address, 2);
    aml_end(aml);
}

/* Local0 = EVTS, which clears them; then tell each device that has news. */
static void add_event_device(struct aml *aml)
{
    aml_begin_device(aml, "GED_");
    aml_name_string(aml, "_HID", "ACPI0013");
    aml_name_integer(aml, "_UID", 0);
    aml_begin_resources(aml);
    aml_interrupt(aml, LAYOUT_GED_GSI);
    aml_end_resources(aml);
    aml_port_field(aml, "GEDR", LAYOUT_GED_PORT, "EVTS");
    aml_begin_method(aml, "_EVT", 1);
    aml_store_to_local0(aml, "EVTS");
    aml_begin_if_local0_has(aml, LAYOUT_GED_POWER_BUTTON);
    aml_notify(aml, "PWRB", NOTIFY_STATUS_CHANGE);
    aml_end(aml);
    aml_begin_if_local0_has(aml, LAYOUT_GED_VMGENID);
    aml_notify(aml, "VGEN", NOTIFY_STATUS_CHANGE);
    aml_end(aml);
    aml_end(aml);
    aml_end(aml);
}

static void add_virtio(struct aml *aml, uint32_t slot)
{
    const char name[] = { 'V', 'I', 'O', (char)('0' + slot), '\0' };

    aml_begin_device(aml, name);
    aml_name_string(aml, "_HID", "LNRO0005");
    aml_name_integer(aml, "_UID", slot);
    aml_name_integer(aml, "_CCA", 1); /* DMA is coherent */
    aml_begin_resources(aml);
    aml_memory(aml, (uint32_t)(LAYOUT_VIRTIO_MMIO_GPA + slot * LAYOUT_VIRTIO_MMIO_STRIDE),
               (uint32_t)LAYOUT_VIRTIO_MMIO_STRIDE);
    aml_interrupt(aml, LAYOUT_VIRTIO_GSI + slot);
    aml_end_resources(aml);
    aml_end(aml);
}

void acpi_tables_append_dsdt(const struct acpi_config *config, struct byte_buffer *ret_aml)
{
    struct aml aml = { .bytes = ret_aml };

    add_soft_off(&aml);
    aml_begin_scope(&aml, "_SB_");
    add_serial(&aml);
    add_power_button(&aml);
    add_generation_id(&aml);
    add_event_device(&aml);
    for (uint32_t slot = 0; slot < LAYOUT_VIRTIO_SLOTS; slot++) {
        if (config->virtio_slots & (UINT32_C(1) << slot))
            add_virtio(&aml, slot);
    }
    aml_end(&aml);
}
