/* acpi_tables.h - what firmware would tell the guest of its hardware: RSDP, XSDT, FADT, MADT, DSDT.
 * */
#ifndef STASIS_MICROVM_ACPI_TABLES_H
#define STASIS_MICROVM_ACPI_TABLES_H

#include <stddef.h>
#include <stdint.h>

#include <stasis/error.h>

#include "microvm/device.h"

struct acpi_config {
    uint32_t vcpu_count;
    uint32_t virtio_slots; /* bit n: there is a device in slot n */
};

/* All tables, as they will lie at LAYOUT_ACPI_GPA: the RSDP first. `buf` is filled with zeros after
 * their end. STASIS_ERR_LIMIT when they do not fit. */
int acpi_tables_build(const struct acpi_config *config, uint8_t *buf, size_t buf_size,
                      struct stasis_error *err);

/* The same, into guest RAM. */
int acpi_tables_write(const struct guest_memory *memory, const struct acpi_config *config,
                      struct stasis_error *err);

/* The body of the DSDT (acpi_tables_dsdt.c), without its table header, appended to `ret_aml`. */
struct byte_buffer;
void acpi_tables_append_dsdt(const struct acpi_config *config, struct byte_buffer *ret_aml);

#endif
