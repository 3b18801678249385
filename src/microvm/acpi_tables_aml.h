/* acpi_tables_aml.h - writing ACPI machine language (ACPI 6.5, chapter 20), the few forms we need.
 *
 *     aml_begin_device(&aml, "COM1");
 *     aml_name_eisa_id(&aml, "_HID", "PNP0501");
 *     aml_end(&aml);
 *
 * Errors (memory, nesting) are sticky in the byte buffer; look once at the end. Names have four
 * characters. */
#ifndef STASIS_MICROVM_ACPI_TABLES_AML_H
#define STASIS_MICROVM_ACPI_TABLES_AML_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

#define AML_DEPTH_MAX 8u

struct aml {
    struct byte_buffer *bytes;
    size_t open[AML_DEPTH_MAX]; /* where the contents of each open package begin */
    unsigned depth;
};

/* Things with a length; each is ended by aml_end(). */
void aml_begin_scope(struct aml *aml, const char *name); /* "_SB_" */
void aml_begin_device(struct aml *aml, const char *name);
void aml_begin_method(struct aml *aml, const char *name, unsigned arg_count);
void aml_begin_if_local0_has(struct aml *aml, uint64_t mask); /* If (Local0 & mask) */
void aml_end(struct aml *aml);

/* Name (`name`, ...) */
void aml_name_integer(struct aml *aml, const char *name, uint64_t value);
void aml_name_string(struct aml *aml, const char *name, const char *value);
void aml_name_eisa_id(struct aml *aml, const char *name, const char *id); /* "PNP0501" */
void aml_name_integers(struct aml *aml, const char *name, const uint64_t *values, size_t count);

/* Resources: begin, any number of the three, end. They make Name (_CRS, ResourceTemplate () {...}).
 * */
void aml_begin_resources(struct aml *aml);
void aml_io_ports(struct aml *aml, uint16_t port, uint8_t count);
void aml_memory(struct aml *aml, uint32_t gpa, uint32_t size);
void aml_interrupt(struct aml *aml, uint32_t gsi); /* edge triggered, active high, exclusive */
void aml_end_resources(struct aml *aml);

/* OperationRegion (region, SystemIO, port, 4) and a 32-bit field over it. */
void aml_port_field(struct aml *aml, const char *region, uint16_t port, const char *field);
void aml_store_to_local0(struct aml *aml, const char *field); /* Local0 = field */
void aml_notify(struct aml *aml, const char *device, uint64_t value);

#endif
