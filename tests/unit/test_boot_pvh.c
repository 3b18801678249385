/* test_boot_pvh.c - ELF kernels by PVH.
 *
 * Goal:   segments go to their physical addresses, the entry comes from Xen's note, start_info
 * tells of
 *         memory, modules, command line and ACPI; ELF files that lie are refused with a sentence.
 * Method: ELF files made by hand with <elf.h>; cuts and flipped bits. */
#include "test_boot_support.h"

#include <elf.h>

#define LOAD_GPA UINT64_C(0x300000)
#define DATA_OFF 0x1000u
#define DATA_SIZE 0x800u
#define NOTE_OFF 0x200u
#define FILE_SIZE (DATA_OFF + DATA_SIZE)

struct kernel {
    Elf64_Ehdr header;
    Elf64_Phdr segments[3]; /* a note, data, data without bytes in the file */
    uint8_t padding[NOTE_OFF - sizeof(Elf64_Ehdr) - 3 * sizeof(Elf64_Phdr)];
    uint8_t notes[DATA_OFF - NOTE_OFF];
    uint8_t data[DATA_SIZE];
};

static size_t align_up(size_t value, size_t align)
{
    return (value + align - 1) / align * align;
}

/* As binutils lays notes out (ELF_NOTE_DESC_OFFSET, ELF_NOTE_NEXT_OFFSET). */
static size_t put_note(uint8_t *at, const char *name, uint32_t type, uint64_t value,
                       uint32_t value_size, size_t align)
{
    const uint32_t name_size = (uint32_t)strlen(name) + 1;
    const size_t value_off = align_up(12 + name_size, align);

    put_number(at, 0, name_size, 4);
    put_number(at, 4, value_size, 4);
    put_number(at, 8, type, 4);
    memcpy(at + 12, name, name_size);
    put_number(at, value_off, value, value_size);
    return align_up(value_off + value_size, align);
}

static void make_kernel(struct kernel *kernel)
{
    size_t notes_size = 0;

    memset(kernel, 0, sizeof(*kernel));
    memcpy(kernel->header.e_ident, ELFMAG, SELFMAG);
    kernel->header.e_ident[EI_CLASS] = ELFCLASS64;
    kernel->header.e_ident[EI_DATA] = ELFDATA2LSB;
    kernel->header.e_ident[EI_VERSION] = EV_CURRENT;
    kernel->header.e_type = ET_EXEC;
    kernel->header.e_machine = EM_X86_64;
    kernel->header.e_phoff = sizeof(Elf64_Ehdr);
    kernel->header.e_phentsize = sizeof(Elf64_Phdr);
    kernel->header.e_phnum = 3;

    notes_size += put_note(kernel->notes, "GNU", 3, 0x1122334455667788, 8, 4);
    notes_size += put_note(kernel->notes + notes_size, "Xen", 6, 0x6e657867, 4, 4);
    notes_size += put_note(kernel->notes + notes_size, "Xen", 18, LOAD_GPA + 0x10, 8, 4);
    kernel->segments[0] = (Elf64_Phdr){ .p_type = PT_NOTE,
                                        .p_offset = NOTE_OFF,
                                        .p_filesz = notes_size,
                                        .p_memsz = notes_size,
                                        .p_align = 4 };
    kernel->segments[1] = (Elf64_Phdr){ .p_type = PT_LOAD,
                                        .p_offset = DATA_OFF,
                                        .p_vaddr = UINT64_C(0xffffffff81000000),
                                        .p_paddr = LOAD_GPA,
                                        .p_filesz = DATA_SIZE,
                                        .p_memsz = 0x2000 };
    kernel->segments[2] = (Elf64_Phdr){ .p_type = PT_LOAD, .p_paddr = 0x500000, .p_memsz = 0x1000 };
    for (size_t i = 0; i < DATA_SIZE; i++)
        kernel->data[i] = (uint8_t)(i * 3 + 1);
}

static void write_kernel(struct boot_fixture *fixture, const struct kernel *kernel)
{
    write_file(fixture->kernel, kernel, sizeof(*kernel));
}

static void segments_go_to_their_physical_addresses(void **state)
{
    struct boot_fixture *fixture = *state;
    struct kernel kernel;

    make_kernel(&kernel);
    write_kernel(fixture, &kernel);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
    assert_memory_equal(fixture->ram + LOAD_GPA, kernel.data, DATA_SIZE);
    assert_int_equal(fixture->ram[LOAD_GPA + DATA_SIZE], 0);
    assert_int_equal(fixture->entry.mode, BOOT_MODE_PVH);
    assert_int_equal(fixture->entry.entry_gpa, LOAD_GPA + 0x10);
    assert_int_equal(fixture->entry.info_gpa, LAYOUT_PVH_START_GPA);
}

static void start_info_tells_of_all_there_is(void **state)
{
    struct boot_fixture *fixture = *state;
    const uint64_t info = LAYOUT_PVH_START_GPA;
    struct kernel kernel;
    uint64_t modules, map;

    make_kernel(&kernel);
    write_kernel(fixture, &kernel);
    write_file(fixture->initrd, "initrd", 6);
    assert_stasis_ok(boot_kernel(fixture, fixture->initrd, NULL), &fixture->err);
    assert_int_equal(ram_number(fixture, info, 4), 0x336ec578);
    assert_int_equal(ram_number(fixture, info + 4, 4), 1);
    assert_int_equal(ram_number(fixture, info + 12, 4), 1); /* modules */
    modules = ram_number(fixture, info + 16, 8);
    assert_int_equal(ram_number(fixture, info + 24, 8), LAYOUT_CMDLINE_GPA);
    assert_int_equal(ram_number(fixture, info + 32, 8), LAYOUT_ACPI_GPA);
    map = ram_number(fixture, info + 40, 8);
    assert_int_equal(ram_number(fixture, info + 48, 4), 3); /* map entries */

    assert_int_equal(ram_number(fixture, modules, 8), 8 * MIB - 4096);
    assert_int_equal(ram_number(fixture, modules + 8, 8), 6);
    assert_memory_equal(fixture->ram + 8 * MIB - 4096, "initrd", 6);
    assert_int_equal(ram_number(fixture, map + 48, 8), MIB);
    assert_int_equal(ram_number(fixture, map + 56, 8), 7 * MIB);
    assert_int_equal(ram_number(fixture, map + 64, 4), 1);
    assert_int_equal(ram_number(fixture, map + 24 + 16, 4), 2);
    assert_string_equal((char *)fixture->ram + LAYOUT_CMDLINE_GPA,
                        "console=ttyS0 reboot=k panic=1");
}

static void without_initrd_there_are_no_modules(void **state)
{
    struct boot_fixture *fixture = *state;
    struct kernel kernel;

    make_kernel(&kernel);
    write_kernel(fixture, &kernel);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
    assert_int_equal(ram_number(fixture, LAYOUT_PVH_START_GPA + 12, 4), 0);
    assert_int_equal(ram_number(fixture, LAYOUT_PVH_START_GPA + 16, 8), 0);
}

static void four_byte_entries_and_eight_byte_padding_are_read(void **state)
{
    struct boot_fixture *fixture = *state;
    struct kernel kernel;
    size_t size;

    make_kernel(&kernel);
    memset(kernel.notes, 0, sizeof(kernel.notes));
    size = put_note(kernel.notes, "Longer", 5, 7, 4, 8);
    size += put_note(kernel.notes + size, "Xen", 18, LOAD_GPA, 4, 8);
    kernel.segments[0].p_filesz = size;
    kernel.segments[0].p_align = 8;
    write_kernel(fixture, &kernel);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
    assert_int_equal(fixture->entry.entry_gpa, LOAD_GPA);
}

static void last_note_may_go_without_padding(void **state)
{
    struct boot_fixture *fixture = *state;
    struct kernel kernel;

    make_kernel(&kernel);
    memset(kernel.notes, 0, sizeof(kernel.notes));
    (void)put_note(kernel.notes, "Xen", 18, LOAD_GPA, 4, 8);
    kernel.segments[0].p_filesz = 12 + 4 + 4;
    kernel.segments[0].p_align = 8;
    write_kernel(fixture, &kernel);
    assert_stasis_ok(boot_kernel(fixture, NULL, NULL), &fixture->err);
}

static void kernel_without_the_note_is_refused(void **state)
{
    struct boot_fixture *fixture = *state;
    struct kernel kernel;

    make_kernel(&kernel);
    kernel.segments[0].p_type = PT_NULL;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "no PVH entry note");

    make_kernel(&kernel);
    kernel.segments[0].p_filesz = 20; /* ends inside the first note */
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "no PVH entry note");

    make_kernel(&kernel);
    put_number(kernel.notes, 0, 0xffffffff, 4); /* a name of 4 GiB */
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "no PVH entry note");
}

static void notes_beyond_the_file_are_refused(void **state)
{
    struct boot_fixture *fixture = *state;
    struct kernel kernel;

    make_kernel(&kernel);
    kernel.segments[0].p_offset = UINT64_MAX - 8;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "note segment beyond its end");
    make_kernel(&kernel);
    kernel.segments[0].p_filesz = UINT64_MAX;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "note segment beyond its end");
}

static void other_machines_are_refused(void **state)
{
    struct boot_fixture *fixture = *state;
    struct kernel kernel;

    make_kernel(&kernel);
    kernel.header.e_machine = EM_AARCH64;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "not for x86-64");
    make_kernel(&kernel);
    kernel.header.e_ident[EI_CLASS] = ELFCLASS32;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "not for x86-64");
}

static void wrong_program_headers_are_refused(void **state)
{
    struct boot_fixture *fixture = *state;
    struct kernel kernel;

    make_kernel(&kernel);
    kernel.header.e_phnum = 0;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "program headers");
    make_kernel(&kernel);
    kernel.header.e_phnum = 65;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "program headers");
    make_kernel(&kernel);
    kernel.header.e_phentsize = 32;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "program headers");
    make_kernel(&kernel);
    kernel.header.e_phoff = UINT64_MAX - 8;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "ends before its program headers");
}

static void segments_outside_of_ram_are_refused(void **state)
{
    static const uint64_t addresses[] = { 0,          0xfffff,         8 * MIB - 0x1000,
                                          8 * MIB,    UINT64_MAX - 16, UINT64_C(1) << 32,
                                          0xfffffffff };
    struct boot_fixture *fixture = *state;
    struct kernel kernel;

    for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++) {
        make_kernel(&kernel);
        kernel.segments[1].p_paddr = addresses[i];
        write_kernel(fixture, &kernel);
        assert_bad_kernel(fixture, "does not fit");
    }
    make_kernel(&kernel);
    kernel.segments[2].p_memsz = UINT64_MAX;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "does not fit");
}

static void segments_beyond_the_file_are_refused(void **state)
{
    struct boot_fixture *fixture = *state;
    struct kernel kernel;

    make_kernel(&kernel);
    kernel.segments[1].p_offset = DATA_OFF + 1;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "ends before its segment does");
    make_kernel(&kernel);
    kernel.segments[1].p_offset = UINT64_MAX;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "ends before its segment does");
    make_kernel(&kernel);
    kernel.segments[1].p_memsz = DATA_SIZE - 1;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "more bytes in the file than in memory");
}

static void entry_outside_of_the_segments_is_refused(void **state)
{
    struct boot_fixture *fixture = *state;
    struct kernel kernel;

    make_kernel(&kernel);
    kernel.segments[1].p_paddr = 0x600000;
    write_kernel(fixture, &kernel);
    assert_bad_kernel(fixture, "outside of its own segments");
}

static void truncated_kernels_are_refused(void **state)
{
    struct boot_fixture *fixture = *state;
    struct kernel kernel;

    make_kernel(&kernel);
    assert_refuses_cuts(fixture, (const uint8_t *)&kernel, sizeof(kernel), 11);
}

static void initrd_keeps_clear_of_the_kernels_end(void **state)
{
    struct boot_fixture *fixture = *state;
    struct kernel kernel;

    write_file(fixture->initrd, "initrd", 6);
    make_kernel(&kernel);
    kernel.segments[2].p_paddr = 8 * MIB - 0x1000; /* zeroes up to the very end of RAM */
    write_kernel(fixture, &kernel);
    assert_stasis_fails(boot_kernel(fixture, fixture->initrd, NULL), &fixture->err,
                        STASIS_ERR_BAD_KERNEL);
}

static void flipped_headers_never_reach_beyond_ram(void **state)
{
    struct boot_fixture *fixture = *state;
    struct kernel kernel;

    make_kernel(&kernel);
    assert_survives_bit_flips(fixture, (const uint8_t *)&kernel, sizeof(kernel),
                              NOTE_OFF + kernel.segments[0].p_filesz, 400);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        boot_test(segments_go_to_their_physical_addresses),
        boot_test(start_info_tells_of_all_there_is),
        boot_test(without_initrd_there_are_no_modules),
        boot_test(four_byte_entries_and_eight_byte_padding_are_read),
        boot_test(last_note_may_go_without_padding),
        boot_test(kernel_without_the_note_is_refused),
        boot_test(notes_beyond_the_file_are_refused),
        boot_test(other_machines_are_refused),
        boot_test(wrong_program_headers_are_refused),
        boot_test(segments_outside_of_ram_are_refused),
        boot_test(segments_beyond_the_file_are_refused),
        boot_test(entry_outside_of_the_segments_is_refused),
        boot_test(truncated_kernels_are_refused),
        boot_test(initrd_keeps_clear_of_the_kernels_end),
        boot_test(flipped_headers_never_reach_beyond_ram),
    };
    return unit_run(tests);
}
