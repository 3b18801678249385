/* test_boot.c - finding out what a kernel file is; flat guests; what all loaders share.
 *
 * Goal:   a file is told by its content, paths that are no regular files are named as such, boot
 * data,
 *         command line and initrd lie where the guest is told, and a flat guest with a wrong header
 *         is refused.
 * Method: small guests in a private folder, loaded into RAM between forbidden pages. */
#include "test_boot_support.h"

#define FLAT_LOAD UINT64_C(0x200000)
#define FLAT_SIZE 5000u

static void make_flat(uint8_t bytes[FLAT_SIZE])
{
    for (size_t i = 0; i < FLAT_SIZE; i++)
        bytes[i] = (uint8_t)(i * 7 + 1);
    memcpy(bytes, "STFLAT1", 8);
    put_number(bytes, 8, FLAT_LOAD, 8);
    put_number(bytes, 16, FLAT_LOAD + 64, 8);
    put_number(bytes, 24, 0x10000, 8);
}

static void write_flat(struct boot_fixture *fixture, size_t offset, uint64_t value)
{
    uint8_t bytes[FLAT_SIZE];

    make_flat(bytes);
    if (offset > 0)
        put_number(bytes, offset, value, 8);
    write_file(fixture->kernel, bytes, sizeof(bytes));
}

static void flat_guest_is_loaded_whole_where_it_says(void **state)
{
    struct boot_fixture *fixture = *state;
    uint8_t bytes[FLAT_SIZE];

    make_flat(bytes);
    write_flat(fixture, 0, 0);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
    assert_memory_equal(fixture->ram + FLAT_LOAD, bytes, sizeof(bytes));
    assert_int_equal(fixture->ram[FLAT_LOAD + FLAT_SIZE], 0);
    assert_int_equal(fixture->entry.mode, BOOT_MODE_LONG);
    assert_int_equal(fixture->entry.entry_gpa, FLAT_LOAD + 64);
    assert_int_equal(fixture->entry.info_gpa, LAYOUT_BOOT_PARAMS_GPA);
}

static void flat_guest_has_no_command_line_but_the_users(void **state)
{
    struct boot_fixture *fixture = *state;

    write_flat(fixture, 0, 0);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
    assert_string_equal((char *)fixture->ram + LAYOUT_CMDLINE_GPA, "");
    assert_stasis_ok(boot_kernel(fixture, NULL, "mem=4K dirty=1"), &fixture->err);
    assert_string_equal((char *)fixture->ram + LAYOUT_CMDLINE_GPA, "mem=4K dirty=1");
    assert_int_equal(ram_number(fixture, LAYOUT_BOOT_PARAMS_GPA + 0x228, 4), LAYOUT_CMDLINE_GPA);
}

static void wrong_flat_headers_are_refused(void **state)
{
    struct boot_fixture *fixture = *state;

    write_flat(fixture, 8, 0xff000);
    assert_bad_kernel(fixture, "below 1 MiB");
    write_flat(fixture, 8, FLAT_LOAD + 8);
    assert_bad_kernel(fixture, "not page aligned");
    write_flat(fixture, 8, 8 * MIB);
    assert_bad_kernel(fixture, "does not fit");
    write_flat(fixture, 8, UINT64_MAX - 4095);
    assert_bad_kernel(fixture, "does not fit");
    write_flat(fixture, 24, FLAT_SIZE - 1);
    assert_bad_kernel(fixture, "fewer than the file's");
    write_flat(fixture, 24, 6 * MIB + 1);
    assert_bad_kernel(fixture, "does not fit");
    write_flat(fixture, 24, UINT64_MAX);
    assert_bad_kernel(fixture, "does not fit");
    write_flat(fixture, 16, FLAT_LOAD + 31); /* in the header */
    assert_bad_kernel(fixture, "outside of its own bytes");
    write_flat(fixture, 16, FLAT_LOAD + FLAT_SIZE);
    assert_bad_kernel(fixture, "outside of its own bytes");
    write_flat(fixture, 16, 0);
    assert_bad_kernel(fixture, "outside of its own bytes");
}

static void flat_guest_may_fill_ram_to_its_end(void **state)
{
    struct boot_fixture *fixture = *state;

    write_flat(fixture, 24, 6 * MIB);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
}

static void cut_flat_headers_are_refused(void **state)
{
    struct boot_fixture *fixture = *state;
    uint8_t bytes[FLAT_SIZE];

    make_flat(bytes);
    assert_refuses_cuts(fixture, bytes, 32, 1);
}

static void flipped_flat_headers_never_reach_beyond_ram(void **state)
{
    struct boot_fixture *fixture = *state;
    uint8_t bytes[FLAT_SIZE];

    make_flat(bytes);
    assert_survives_bit_flips(fixture, bytes, sizeof(bytes), 32, 300);
}

/* --- files ---------------------------------------------------------------------------------- */

static void what_is_no_kernel_is_refused(void **state)
{
    struct boot_fixture *fixture = *state;

    write_file(fixture->kernel, "", 0);
    assert_bad_kernel(fixture, "is not a kernel");
    write_file(fixture->kernel, "#!/bin/sh\n", 10);
    assert_bad_kernel(fixture, "is not a kernel");
    write_file(fixture->kernel, "STFLAT2\0", 8);
    assert_bad_kernel(fixture, "is not a kernel");
}

static void missing_kernel_is_not_found(void **state)
{
    struct boot_fixture *fixture = *state;

    assert_stasis_fails(boot_kernel(fixture, NULL, NULL), &fixture->err, STASIS_ERR_NOT_FOUND);
    assert_non_null(strstr(fixture->err.text, fixture->kernel));
}

static void folder_and_fifo_are_not_regular_files(void **state)
{
    struct boot_fixture *fixture = *state;

    assert_int_equal(mkdir(fixture->kernel, 0700), 0);
    assert_stasis_fails(boot_kernel(fixture, NULL, NULL), &fixture->err, STASIS_ERR_NOT_REGULAR);
    assert_int_equal(rmdir(fixture->kernel), 0);
    assert_int_equal(mkfifo(fixture->kernel, 0600), 0);
    assert_stasis_fails(boot_kernel(fixture, NULL, NULL), &fixture->err, STASIS_ERR_NOT_REGULAR);
}

/* --- what all share ------------------------------------------------------------------------- */

static void memory_map_leaves_out_the_reserved_and_the_hole(void **state)
{
    static const uint64_t expected[4][3] = {
        { 0, 0x9fc00, 1 },
        { 0x9fc00, 0x100000 - 0x9fc00, 2 },
        { 0x100000, 7 * MIB, 1 },
        { UINT64_C(1) << 32, MIB, 1 },
    };
    struct boot_fixture *fixture = *state;
    struct stasis_region regions[2] = { fixture->region,
                                        { .gpa = LAYOUT_HIGH_RAM_GPA, .size = MIB } };

    write_flat(fixture, 0, 0);
    fixture->memory.ram = (struct stasis_memory){ .regions = regions, .region_count = 2 };
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
    assert_int_equal(fixture->ram[LAYOUT_BOOT_PARAMS_GPA + 0x1e8], 4);
    for (uint64_t i = 0; i < 4; i++) {
        const uint64_t gpa = LAYOUT_BOOT_PARAMS_GPA + 0x2d0 + i * 20;

        assert_int_equal(ram_number(fixture, gpa, 8), expected[i][0]);
        assert_int_equal(ram_number(fixture, gpa + 8, 8), expected[i][1]);
        assert_int_equal(ram_number(fixture, gpa + 16, 4), expected[i][2]);
    }
}

static void boot_params_name_the_acpi_tables(void **state)
{
    struct boot_fixture *fixture = *state;

    write_flat(fixture, 0, 0);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
    assert_int_equal(ram_number(fixture, LAYOUT_BOOT_PARAMS_GPA + 0x70, 8), LAYOUT_ACPI_GPA);
    assert_int_equal(ram_number(fixture, LAYOUT_BOOT_PARAMS_GPA + 0x1fe, 2), 0xaa55);
    assert_memory_equal(fixture->ram + LAYOUT_BOOT_PARAMS_GPA + 0x202, "HdrS", 4);
}

/* A walk as the CPU does it, for addresses on both sides of each GiB. */
static uint64_t translate(const struct boot_fixture *fixture, uint64_t gva)
{
    uint64_t table = LAYOUT_PAGE_TABLES_GPA;
    uint64_t entry = 0;

    for (unsigned shift = 39; shift >= 21; shift -= 9) {
        entry = ram_number(fixture, table + ((gva >> shift) & 511) * 8, 8);
        assert_int_equal(entry & 3, 3); /* present, writable */
        assert_int_equal((entry >> 7) & 1, shift == 21);
        table = entry & UINT64_C(0x000ffffffffff000);
    }
    return table + (gva & 0x1fffff);
}

static void first_four_gib_are_mapped_one_to_one(void **state)
{
    struct boot_fixture *fixture = *state;

    write_flat(fixture, 0, 0);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
    for (uint64_t gib = 0; gib < 4; gib++) {
        assert_int_equal(translate(fixture, gib << 30), gib << 30);
        assert_int_equal(translate(fixture, (gib << 30) + 0x3fffffff), (gib << 30) + 0x3fffffff);
        assert_int_equal(translate(fixture, (gib << 30) + 0x12345678), (gib << 30) + 0x12345678);
    }
    assert_int_equal(ram_number(fixture, LAYOUT_PAGE_TABLES_GPA + 8, 8), 0);
    assert_int_equal(ram_number(fixture, LAYOUT_PAGE_TABLES_GPA + 4096 + 4 * 8, 8), 0);
}

static void initrd_lies_at_the_top_of_low_ram(void **state)
{
    struct boot_fixture *fixture = *state;
    uint8_t initrd[10000];
    uint64_t gpa;

    memset(initrd, 0x5a, sizeof(initrd));
    write_file(fixture->initrd, initrd, sizeof(initrd));
    write_flat(fixture, 0, 0);
    assert_stasis_ok(boot_kernel(fixture, fixture->initrd, NULL), &fixture->err);
    gpa = ram_number(fixture, LAYOUT_BOOT_PARAMS_GPA + 0x218, 4);
    assert_int_equal(gpa, 8 * MIB - 3 * 4096);
    assert_int_equal(ram_number(fixture, LAYOUT_BOOT_PARAMS_GPA + 0x21c, 4), sizeof(initrd));
    assert_memory_equal(fixture->ram + gpa, initrd, sizeof(initrd));
}

static void initrd_that_does_not_fit_is_refused(void **state)
{
    struct boot_fixture *fixture = *state;

    write_file(fixture->initrd, "x", 1);
    write_flat(fixture, 24, 6 * MIB);
    assert_stasis_fails(boot_kernel(fixture, fixture->initrd, NULL), &fixture->err,
                        STASIS_ERR_BAD_KERNEL);
    write_flat(fixture, 24, 6 * MIB - 4096); /* just enough */
    assert_stasis_ok(boot_kernel(fixture, fixture->initrd, NULL), &fixture->err);

    /* Larger than RAM, by its length alone. */
    assert_int_equal(truncate(fixture->initrd, (off_t)(UINT64_C(1) << 40)), 0);
    assert_stasis_fails(boot_kernel(fixture, fixture->initrd, NULL), &fixture->err,
                        STASIS_ERR_BAD_KERNEL);
}

static void empty_and_missing_initrds_are_refused(void **state)
{
    struct boot_fixture *fixture = *state;

    write_flat(fixture, 0, 0);
    assert_stasis_fails(boot_kernel(fixture, fixture->initrd, NULL), &fixture->err,
                        STASIS_ERR_NOT_FOUND);
    write_file(fixture->initrd, "", 0);
    assert_stasis_fails(boot_kernel(fixture, fixture->initrd, NULL), &fixture->err,
                        STASIS_ERR_BAD_KERNEL);
    assert_stasis_fails(boot_kernel(fixture, fixture->folder, NULL), &fixture->err,
                        STASIS_ERR_NOT_REGULAR);
}

static void overlong_command_line_is_refused(void **state)
{
    struct boot_fixture *fixture = *state;
    char cmdline[2049];

    memset(cmdline, 'a', sizeof(cmdline) - 1);
    cmdline[2048] = '\0';
    write_flat(fixture, 0, 0);
    assert_stasis_fails(boot_kernel(fixture, NULL, cmdline), &fixture->err, STASIS_ERR_BAD_KERNEL);
    cmdline[2047] = '\0';
    assert_stasis_ok(boot_kernel(fixture, NULL, cmdline), &fixture->err);
    assert_string_equal((char *)fixture->ram + LAYOUT_CMDLINE_GPA, cmdline);
}

static void one_mib_of_ram_holds_boot_data_and_no_kernel(void **state)
{
    struct boot_fixture *fixture = *state;

    fixture_resize_ram(fixture, MIB);
    write_flat(fixture, 0, 0);
    assert_bad_kernel(fixture, "does not fit");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        boot_test(flat_guest_is_loaded_whole_where_it_says),
        boot_test(flat_guest_has_no_command_line_but_the_users),
        boot_test(wrong_flat_headers_are_refused),
        boot_test(flat_guest_may_fill_ram_to_its_end),
        boot_test(cut_flat_headers_are_refused),
        boot_test(flipped_flat_headers_never_reach_beyond_ram),
        boot_test(what_is_no_kernel_is_refused),
        boot_test(missing_kernel_is_not_found),
        boot_test(folder_and_fifo_are_not_regular_files),
        boot_test(memory_map_leaves_out_the_reserved_and_the_hole),
        boot_test(boot_params_name_the_acpi_tables),
        boot_test(first_four_gib_are_mapped_one_to_one),
        boot_test(initrd_lies_at_the_top_of_low_ram),
        boot_test(initrd_that_does_not_fit_is_refused),
        boot_test(empty_and_missing_initrds_are_refused),
        boot_test(overlong_command_line_is_refused),
        boot_test(one_mib_of_ram_holds_boot_data_and_no_kernel),
    };
    return unit_run(tests);
}
