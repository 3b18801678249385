/*
 * acpi_tables.c - the static ACPI tables: RSDP, XSDT, FADT, MADT, and the DSDT's frame.
 *
 *     LAYOUT_ACPI_GPA  RSDP -> XSDT -> FADT -> DSDT
 *                                   -> MADT
 *
 * The platform is "hardware-reduced" (ACPI 6.5, 4.1): no fixed power management hardware, so no
 * SCI, no PM timer, no FACS; sleep and reset are ports, events come by the generic event device.
 * There is no CMOS clock, no keyboard controller worth probing and no VGA, and the FADT says so.
 * (The keyboard controller's reset command works all the same: guests use it blindly.)
 *
 * MADT: no override for interrupt 0. KVM's default routing, which we keep, wires GSI n to IOAPIC
 * pin n and, below 16, to PIC pin n: the PIT's interrupt 0 is pin 0, where an OS that sees no
 * override looks for it.
 */
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "microvm/acpi_tables.h"
#include "microvm/layout.h"

#define TABLE_HEADER_SIZE 36u
#define TABLE_LENGTH_OFFSET 4u
#define TABLE_CHECKSUM_OFFSET 9u
#define TABLE_ALIGN 16u

#define RSDP_SIZE 36u
#define RSDP_V1_SIZE 20u
#define XSDT_ENTRY_COUNT 2u
#define FADT_SIZE 276u
#define OEM_ID "STASIS"
#define OEM_TABLE_ID "MICROVM "
#define CREATOR_ID "STAS"

/* FADT */
#define FADT_WBINVD (UINT32_C(1) << 0)
#define FADT_NO_FIXED_POWER_BUTTON (UINT32_C(1) << 4)
#define FADT_NO_FIXED_SLEEP_BUTTON (UINT32_C(1) << 5)
#define FADT_NO_FIXED_RTC (UINT32_C(1) << 6)
#define FADT_RESET_REG (UINT32_C(1) << 10)
#define FADT_HW_REDUCED (UINT32_C(1) << 20)
#define FADT_BOOT_NO_VGA (1u << 2)
#define FADT_BOOT_NO_CMOS_RTC (1u << 5)

/* MADT */
#define MADT_PCAT_COMPAT 1u /* there are two PICs as well */
#define MADT_LAPIC_SIZE 8u
#define MADT_IOAPIC_SIZE 12u

static uint8_t checksum_of(const uint8_t *bytes, size_t size)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return (uint8_t)-sum;
}

/* One growing image of all tables; a table's gpa is its place in it. */
struct image {
    struct byte_buffer bytes;
    size_t table_start;
};

static void put(struct image *image, uint64_t value, size_t size)
{
    byte_buffer_append(&image->bytes, &value, size);
}

static void put_text(struct image *image, const char *text, size_t size)
{
    byte_buffer_append(&image->bytes, text, size);
}

static void put_zeros(struct image *image, size_t size)
{
    uint8_t *bytes = byte_buffer_extend(&image->bytes, size);

    if (bytes)
        memset(bytes, 0, size);
}

/* A register in port space: Generic Address Structure (5.2.3.2). */
static void put_port_register(struct image *image, uint16_t port)
{
    put(image, 1, 1); /* system I/O */
    put(image, 8, 1); /* bits */
    put(image, 0, 1);
    put(image, 1, 1); /* byte access */
    put(image, port, 8);
}

static uint64_t begin_table(struct image *image, const char *signature, uint8_t revision)
{
    const size_t pad = (TABLE_ALIGN - image->bytes.size % TABLE_ALIGN) % TABLE_ALIGN;

    put_zeros(image, pad);
    image->table_start = image->bytes.size;
    put_text(image, signature, 4);
    put(image, 0, 4); /* length, see end_table() */
    put(image, revision, 1);
    put(image, 0, 1); /* checksum, likewise */
    put_text(image, OEM_ID, 6);
    put_text(image, OEM_TABLE_ID, 8);
    put(image, 1, 4); /* OEM revision */
    put_text(image, CREATOR_ID, 4);
    put(image, 1, 4); /* creator revision */
    return LAYOUT_ACPI_GPA + image->table_start;
}

static void end_table(struct image *image)
{
    uint8_t *table;
    uint32_t size;

    if (image->bytes.failed)
        return;
    table = image->bytes.data + image->table_start;
    size = (uint32_t)(image->bytes.size - image->table_start);
    memcpy(table + TABLE_LENGTH_OFFSET, &size, sizeof(size));
    table[TABLE_CHECKSUM_OFFSET] = checksum_of(table, size);
}

static uint64_t add_dsdt(struct image *image, const struct acpi_config *config)
{
    const uint64_t gpa = begin_table(image, "DSDT", 2);

    acpi_tables_append_dsdt(config, &image->bytes);
    end_table(image);
    return gpa;
}

/* ACPI 6.5, 5.2.9. What a hardware-reduced platform does not have stays zero. */
static uint64_t add_fadt(struct image *image, uint64_t dsdt_gpa)
{
    const uint64_t gpa = begin_table(image, "FACP", 6);

    put(image, 0, 4);        /* FACS: none */
    put(image, dsdt_gpa, 4); /* DSDT below 4 GiB */
    put_zeros(image, 109 - 44);
    put(image, FADT_BOOT_NO_VGA | FADT_BOOT_NO_CMOS_RTC, 2);
    put(image, 0, 1);
    put(image,
        FADT_WBINVD | FADT_NO_FIXED_POWER_BUTTON | FADT_NO_FIXED_SLEEP_BUTTON | FADT_NO_FIXED_RTC |
            FADT_RESET_REG | FADT_HW_REDUCED,
        4);
    put_port_register(image, LAYOUT_RESET_PORT);
    put(image, LAYOUT_RESET_VALUE, 1);
    put(image, 0, 2);        /* ARM boot flags */
    put(image, 5, 1);        /* minor revision */
    put(image, 0, 8);        /* X_FACS: none */
    put(image, dsdt_gpa, 8); /* X_DSDT */
    put_zeros(image, 244 - 148);
    put_port_register(image, LAYOUT_SLEEP_CONTROL_PORT);
    put_port_register(image, LAYOUT_SLEEP_STATUS_PORT);
    put_text(image, "STASIS\0\0", 8); /* hypervisor vendor */
    end_table(image);
    return gpa;
}

static uint64_t add_madt(struct image *image, const struct acpi_config *config)
{
    const uint64_t gpa = begin_table(image, "APIC", 5);

    put(image, LAYOUT_LAPIC_GPA, 4);
    put(image, MADT_PCAT_COMPAT, 4);
    for (uint32_t i = 0; i < config->vcpu_count; i++) {
        put(image, 0, 1); /* processor local APIC */
        put(image, MADT_LAPIC_SIZE, 1);
        put(image, i, 1); /* processor UID */
        put(image, i, 1); /* APIC id */
        put(image, 1, 4); /* enabled */
    }
    put(image, 1, 1); /* IOAPIC */
    put(image, MADT_IOAPIC_SIZE, 1);
    put(image, 0, 1); /* its id, as KVM's begins */
    put(image, 0, 1);
    put(image, LAYOUT_IOAPIC_GPA, 4);
    put(image, 0, 4); /* its first GSI */
    end_table(image);
    return gpa;
}

static uint64_t add_xsdt(struct image *image, const uint64_t tables[XSDT_ENTRY_COUNT])
{
    const uint64_t gpa = begin_table(image, "XSDT", 1);

    for (size_t i = 0; i < XSDT_ENTRY_COUNT; i++)
        put(image, tables[i], 8);
    end_table(image);
    return gpa;
}

/* Its place at the front was kept; it has two checksums, of its first version's part and of all. */
static void write_rsdp(uint8_t *rsdp, uint64_t xsdt_gpa)
{
    const uint32_t size = RSDP_SIZE;

    memset(rsdp, 0, RSDP_SIZE);
    memcpy(rsdp, "RSD PTR ", 8);
    memcpy(rsdp + 9, OEM_ID, 6);
    rsdp[15] = 2; /* revision */
    memcpy(rsdp + 20, &size, sizeof(size));
    memcpy(rsdp + 24, &xsdt_gpa, sizeof(xsdt_gpa));
    rsdp[8] = checksum_of(rsdp, RSDP_V1_SIZE);
    rsdp[32] = checksum_of(rsdp, RSDP_SIZE);
}

static void add_all(struct image *image, const struct acpi_config *config)
{
    uint64_t tables[XSDT_ENTRY_COUNT];
    uint64_t xsdt_gpa;

    put_zeros(image, RSDP_SIZE);
    tables[0] = add_fadt(image, add_dsdt(image, config));
    tables[1] = add_madt(image, config);
    xsdt_gpa = add_xsdt(image, tables);
    if (!image->bytes.failed)
        write_rsdp(image->bytes.data, xsdt_gpa);
}

int acpi_tables_build(const struct acpi_config *config, uint8_t *buf, size_t buf_size,
                      struct stasis_error *err)
{
    struct image image = { 0 };
    int r = 0;

    byte_buffer_init(&image.bytes, buf_size);
    add_all(&image, config);
    if (image.bytes.failed) {
        r = stasis_fail(err, STASIS_ERR_LIMIT, "the ACPI tables do not fit into %zu bytes",
                        buf_size);
    } else {
        memset(buf, 0, buf_size);
        memcpy(buf, image.bytes.data, image.bytes.size);
    }
    byte_buffer_release(&image.bytes);
    return r;
}

int acpi_tables_write(const struct guest_memory *memory, const struct acpi_config *config,
                      struct stasis_error *err)
{
    uint8_t *hva = guest_memory_at(memory, LAYOUT_ACPI_GPA, LAYOUT_ACPI_SIZE);

    if (!hva)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the guest's memory has no room for ACPI tables");
    return acpi_tables_build(config, hva, LAYOUT_ACPI_SIZE, err);
}
