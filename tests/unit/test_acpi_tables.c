/* test_acpi_tables.c - the tables that a guest's ACPI finds.
 *
 * Goal:   from the RSDP every table is reached, inside its area, with right checksums; the DSDT is
 * AML that
 *         ACPICA's own tools take apart and put together again; MADT and DSDT tell of exactly the
 *         vCPUs and slots that there are.
 * Method: a walk as an OS does it; iasl (acpica-tools) as the other opinion. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "microvm/acpi_tables.h"
#include "microvm/layout.h"

static uint8_t area[LAYOUT_ACPI_SIZE];

static void build(uint32_t vcpu_count, uint32_t virtio_slots)
{
    const struct acpi_config config = { .vcpu_count = vcpu_count, .virtio_slots = virtio_slots };
    struct stasis_error err = { 0 };

    memset(area, 0xaa, sizeof(area));
    assert_stasis_ok(acpi_tables_build(&config, area, sizeof(area), &err), &err);
}

static uint64_t number_at(const uint8_t *bytes, size_t size)
{
    uint64_t value = 0;

    memcpy(&value, bytes, size);
    return value;
}

static uint8_t sum_of(const uint8_t *bytes, size_t size)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return sum;
}

/* The table at a gpa, checked as far as all tables are alike. */
static const uint8_t *table_at(uint64_t gpa, const char *signature, uint32_t *ret_size)
{
    const uint8_t *table;

    assert_in_range(gpa, LAYOUT_ACPI_GPA, LAYOUT_ACPI_GPA + sizeof(area) - 36);
    table = area + (gpa - LAYOUT_ACPI_GPA);
    assert_memory_equal(table, signature, 4);
    *ret_size = (uint32_t)number_at(table + 4, 4);
    assert_in_range(*ret_size, 36, LAYOUT_ACPI_GPA + sizeof(area) - gpa);
    assert_int_equal(sum_of(table, *ret_size), 0);
    return table;
}

static const uint8_t *find_table(const char *signature, uint32_t *ret_size)
{
    uint32_t xsdt_size;
    const uint8_t *xsdt = table_at(number_at(area + 24, 8), "XSDT", &xsdt_size);

    for (size_t i = 36; i < xsdt_size; i += 8) {
        const uint64_t gpa = number_at(xsdt + i, 8);

        if (memcmp(area + (gpa - LAYOUT_ACPI_GPA), signature, 4) == 0)
            return table_at(gpa, signature, ret_size);
    }
    fail_msg("no table %s", signature);
    *ret_size = 0;
    return NULL;
}

static const uint8_t *find_dsdt(uint32_t *ret_size)
{
    uint32_t fadt_size;
    const uint8_t *fadt = find_table("FACP", &fadt_size);

    assert_int_equal(number_at(fadt + 40, 4), number_at(fadt + 140, 8));
    return table_at(number_at(fadt + 140, 8), "DSDT", ret_size);
}

static void root_pointer_is_at_the_front_with_both_checksums(void **state)
{
    (void)state;
    build(1, 0);
    assert_memory_equal(area, "RSD PTR ", 8);
    assert_int_equal(area[15], 2);
    assert_int_equal(number_at(area + 20, 4), 36);
    assert_int_equal(sum_of(area, 20), 0);
    assert_int_equal(sum_of(area, 36), 0);
}

static void every_table_is_reached_and_whole(void **state)
{
    uint32_t size;

    (void)state;
    build(32, 0xff);
    assert_int_equal(find_table("FACP", &size)[8], 6);
    assert_int_equal(size, 276);
    (void)find_table("APIC", &size);
    (void)find_dsdt(&size);
}

/* ACPI 6.5, 5.2.9: offsets in the FADT. */
static void platform_is_hardware_reduced_with_its_ports(void **state)
{
    uint32_t size;
    const uint8_t *fadt;
    uint32_t flags;

    (void)state;
    build(1, 0);
    fadt = find_table("FACP", &size);
    flags = (uint32_t)number_at(fadt + 112, 4);
    assert_true(flags & 1u << 20);  /* HW_REDUCED_ACPI */
    assert_true(flags & 1u << 10);  /* RESET_REG_SUP */
    assert_true(flags & 1u << 4);   /* PWR_BUTTON: no fixed one */
    assert_int_equal(fadt[116], 1); /* system I/O */
    assert_int_equal(number_at(fadt + 120, 8), LAYOUT_RESET_PORT);
    assert_int_equal(fadt[128], LAYOUT_RESET_VALUE);
    assert_int_equal(fadt[244], 1);
    assert_int_equal(number_at(fadt + 248, 8), LAYOUT_SLEEP_CONTROL_PORT);
    assert_int_equal(number_at(fadt + 260, 8), LAYOUT_SLEEP_STATUS_PORT);
    /* No keyboard controller, VGA or CMOS clock. */
    assert_int_equal(number_at(fadt + 109, 2), 1u << 2 | 1u << 5);
}

static void each_vcpu_has_its_lapic_and_all_share_one_ioapic(void **state)
{
    unsigned lapics = 0, ioapics = 0;
    const uint8_t *madt;
    uint32_t size;

    (void)state;
    build(5, 0);
    madt = find_table("APIC", &size);
    assert_int_equal(number_at(madt + 36, 4), LAYOUT_LAPIC_GPA);
    for (size_t i = 44; i < size; i += madt[i + 1]) {
        assert_in_range(madt[i + 1], 2, size - i);
        if (madt[i] == 0) {
            assert_int_equal(madt[i + 2], lapics);
            assert_int_equal(madt[i + 3], lapics);
            assert_int_equal(number_at(madt + i + 4, 4), 1);
            lapics++;
        } else {
            assert_int_equal(madt[i], 1);
            assert_int_equal(number_at(madt + i + 4, 4), LAYOUT_IOAPIC_GPA);
            assert_int_equal(number_at(madt + i + 8, 4), 0);
            ioapics++;
        }
    }
    assert_int_equal(lapics, 5);
    assert_int_equal(ioapics, 1);
}

static bool dsdt_holds(const void *bytes, size_t size)
{
    uint32_t dsdt_size;
    const uint8_t *dsdt = find_dsdt(&dsdt_size);

    return memmem(dsdt, dsdt_size, bytes, size) != NULL;
}

/* A memory range of each slot as its resource descriptor has it. */
static void only_used_slots_are_devices(void **state)
{
    (void)state;
    build(1, 0x85);
    for (uint32_t slot = 0; slot < LAYOUT_VIRTIO_SLOTS; slot++) {
        uint32_t range[2] = { (uint32_t)LAYOUT_VIRTIO_MMIO_GPA + slot * 0x1000, 0x1000 };

        assert_int_equal(dsdt_holds(range, sizeof(range)), (0x85 >> slot) & 1);
    }
}

static void area_behind_the_tables_is_zero(void **state)
{
    (void)state;
    build(32, 0xff);
    assert_int_equal(area[sizeof(area) - 1], 0);
    assert_int_equal(area[sizeof(area) / 2], 0);
}

static void tables_that_do_not_fit_are_refused(void **state)
{
    const struct acpi_config config = { .vcpu_count = 1, .virtio_slots = 0xff };
    struct stasis_error err = { 0 };
    uint8_t small[256];

    (void)state;
    for (size_t size = 0; size < sizeof(small); size += 15)
        assert_stasis_fails(acpi_tables_build(&config, small, size, &err), &err, STASIS_ERR_LIMIT);
}

static void tables_go_to_their_place_in_ram(void **state)
{
    const struct acpi_config config = { .vcpu_count = 2 };
    struct stasis_region region = { .gpa = 0, .size = 1u << 20 };
    struct guest_memory memory = { .ram = { .regions = &region, .region_count = 1 } };
    struct stasis_error err = { 0 };

    (void)state;
    region.hva = calloc(1, 1u << 20);
    assert_non_null(region.hva);
    assert_stasis_ok(acpi_tables_write(&memory, &config, &err), &err);
    assert_memory_equal((uint8_t *)region.hva + LAYOUT_ACPI_GPA, "RSD PTR ", 8);

    region.size = LAYOUT_ACPI_GPA;
    assert_stasis_fails(acpi_tables_write(&memory, &config, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    free(region.hva);
}

/* --- iasl ----------------------------------------------------------------------------------- */

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/stasis-acpi-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    return system(command);
}

static void write_file(const char *name, const uint8_t *bytes, size_t size)
{
    char path[128];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* Run in the folder; what it says goes to "log". */
static int run_there(const char *command)
{
    char line[512];

    snprintf(line, sizeof(line), "cd '%s' && { %s; } >log 2>&1", folder, command);
    return system(line);
}

static void assert_log_has(const char *text)
{
    char log[65536];
    char path[128];
    size_t size;
    FILE *file;

    snprintf(path, sizeof(path), "%s/log", folder);
    file = fopen(path, "rb");
    assert_non_null(file);
    size = fread(log, 1, sizeof(log) - 1, file);
    fclose(file);
    log[size] = '\0';
    if (!strstr(log, text))
        fail_msg("iasl does not say \"%s\" but: %s", text, log);
}

static void dsdt_is_aml_that_iasl_takes_apart_and_compiles_again(void **state)
{
    const uint8_t *dsdt;
    uint32_t size;

    (void)state;
    if (system("command -v iasl >/dev/null 2>&1") != 0)
        unit_skip("no iasl (package acpica-tools)");
    build(4, 0xff);
    dsdt = find_dsdt(&size);
    write_file("dsdt.aml", dsdt, size);
    assert_int_equal(run_there("iasl -d dsdt.aml"), 0);
    assert_log_has("ASL Output:    dsdt.dsl");
    /* -we: warnings count as errors. */
    assert_int_equal(run_there("iasl -we -p again dsdt.dsl"), 0);
    assert_log_has("Compilation successful. 0 Errors, 0 Warnings");
    /* What iasl makes of its own reading is what we wrote, but for the header (compiler's name). */
    assert_int_equal(run_there("tail -c +37 dsdt.aml >a && tail -c +37 again.aml >b && cmp a b"),
                     0);
}

static void iasl_reads_the_static_tables(void **state)
{
    const uint8_t *table;
    uint32_t size;

    (void)state;
    if (system("command -v iasl >/dev/null 2>&1") != 0)
        unit_skip("no iasl (package acpica-tools)");
    build(4, 0xff);
    table = find_table("FACP", &size);
    write_file("facp.aml", table, size);
    assert_int_equal(run_there("iasl -d facp.aml && iasl facp.dsl"), 0);
    assert_log_has("Compilation successful. 0 Errors");
    table = find_table("APIC", &size);
    write_file("apic.aml", table, size);
    assert_int_equal(run_there("iasl -d apic.aml && iasl apic.dsl"), 0);
    assert_log_has("Compilation successful. 0 Errors");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(root_pointer_is_at_the_front_with_both_checksums),
        cmocka_unit_test(every_table_is_reached_and_whole),
        cmocka_unit_test(platform_is_hardware_reduced_with_its_ports),
        cmocka_unit_test(each_vcpu_has_its_lapic_and_all_share_one_ioapic),
        cmocka_unit_test(only_used_slots_are_devices),
        cmocka_unit_test(area_behind_the_tables_is_zero),
        cmocka_unit_test(tables_that_do_not_fit_are_refused),
        cmocka_unit_test(tables_go_to_their_place_in_ram),
        cmocka_unit_test_setup_teardown(dsdt_is_aml_that_iasl_takes_apart_and_compiles_again,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(iasl_reads_the_static_tables, make_folder, remove_folder),
    };
    return unit_run(tests);
}
