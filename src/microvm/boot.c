/*
 * boot.c - what kind of guest is this file, and what all kinds need in RAM.
 *
 * A kernel file is told by its first bytes, never by its name. The loaders (boot_linux.c,
 * boot_pvh.c, boot_flat.c) place the kernel; this file has what they share: bounded copies from a
 * file into guest RAM, the initrd, the command line, boot_params, page tables. Kernel and initrd
 * are read straight into RAM, so the host never holds a second copy of them.
 *
 * All lengths and addresses in a kernel file are hostile. A mistake here writes beyond guest RAM
 * or boots a guest into bytes that are not there.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "microvm/boot_parts.h"
#include "microvm/layout.h"

#define BOOT_PAGE 4096u
#define MIB (UINT64_C(1) << 20)

/* --- RAM ------------------------------------------------------------------------------------ */

uint64_t boot_low_ram_end(const struct guest_memory *memory)
{
    const struct stasis_memory *ram = &memory->ram;

    if (ram->region_count == 0 || ram->regions[0].gpa != 0)
        return 0;
    return ram->regions[0].size;
}

/* Low RAM up to the EBDA's usual place, the reserved rest of the first MiB, RAM, RAM over 4 GiB. */
size_t boot_memory_map(const struct guest_memory *memory, struct boot_map_entry map[BOOT_MAP_MAX])
{
    const uint64_t low_end = boot_low_ram_end(memory);
    size_t count = 0;

    map[count++] = (struct boot_map_entry){ 0, LAYOUT_LOW_RAM_END, BOOT_MAP_RAM };
    map[count++] =
        (struct boot_map_entry){ LAYOUT_LOW_RAM_END, MIB - LAYOUT_LOW_RAM_END, BOOT_MAP_RESERVED };
    if (low_end > MIB)
        map[count++] = (struct boot_map_entry){ MIB, low_end - MIB, BOOT_MAP_RAM };
    if (memory->ram.region_count > 1)
        map[count++] = (struct boot_map_entry){ memory->ram.regions[1].gpa,
                                                memory->ram.regions[1].size, BOOT_MAP_RAM };
    return count;
}

int boot_copy_file(const struct guest_memory *memory, const struct boot_file *file,
                   uint64_t file_off, uint64_t gpa, uint64_t size, const char *what,
                   struct stasis_error *err)
{
    void *hva;
    int r;

    if (size == 0)
        return 0;
    if (file_off > file->size || size > file->size - file_off)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "'%s' ends before its %s does (%" PRIu64 " bytes from %" PRIu64
                           ", the file has %" PRIu64 ")",
                           file->path, what, size, file_off, file->size);
    if (gpa < LAYOUT_KERNEL_GPA)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "'%s' wants its %s at 0x%" PRIx64 ", below 1 MiB", file->path, what,
                           gpa);
    hva = guest_memory_at(memory, gpa, size);
    if (!hva)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "'%s' does not fit into the guest's memory: its %s takes %" PRIu64
                           " bytes at 0x%" PRIx64 ", low memory ends at 0x%" PRIx64,
                           file->path, what, size, gpa, boot_low_ram_end(memory));
    r = io_read_at(file->fd, hva, (size_t)size, file_off, err);
    return r < 0 ? stasis_wrap(err, r, "kernel '%s'", file->path) : 0;
}

/* --- initrd and command line ---------------------------------------------------------------- */

/* The highest page-aligned place for `size` bytes in low RAM; 0 when there is none. */
static uint64_t find_initrd_place(const struct guest_memory *memory, uint64_t size,
                                  uint64_t kernel_end_gpa, uint64_t gpa_max)
{
    uint64_t end = boot_low_ram_end(memory);
    uint64_t gpa;

    if (gpa_max < end)
        end = gpa_max + 1;
    if (size > end)
        return 0;
    gpa = (end - size) & ~(uint64_t)(BOOT_PAGE - 1);
    return gpa >= kernel_end_gpa && gpa >= LAYOUT_KERNEL_GPA ? gpa : 0;
}

int boot_load_initrd(const struct guest_memory *memory, const char *path, uint64_t kernel_end_gpa,
                     uint64_t gpa_max, struct boot_initrd *ret_initrd, struct stasis_error *err)
{
    auto_fd fd = -1;
    uint64_t size;
    uint64_t gpa;
    int r;

    *ret_initrd = (struct boot_initrd){ 0 };
    if (!path)
        return 0;
    r = io_open_regular(path, O_RDONLY, &fd, &size, err);
    if (r < 0)
        return stasis_wrap(err, r, "initrd");
    if (size == 0)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL, "initrd '%s' is empty", path);

    gpa = find_initrd_place(memory, size, kernel_end_gpa, gpa_max);
    if (gpa == 0)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "initrd '%s' of %" PRIu64 " bytes does not fit between the kernel's "
                           "end at 0x%" PRIx64 " and the end of low memory at 0x%" PRIx64,
                           path, size, kernel_end_gpa, boot_low_ram_end(memory));
    r = io_read_at(fd, guest_memory_at(memory, gpa, size), (size_t)size, 0, err);
    if (r < 0)
        return stasis_wrap(err, r, "initrd '%s'", path);
    *ret_initrd = (struct boot_initrd){ .gpa = gpa, .size = size };
    return 0;
}

/* Boot data has its fixed place in the first MiB; RAM of at least that size is a promise of the
 * caller, a NULL here means it was broken. */
static int find_boot_data(const struct guest_memory *memory, uint64_t gpa, uint64_t size,
                          void **ret_hva, struct stasis_error *err)
{
    *ret_hva = guest_memory_at(memory, gpa, size);
    if (!*ret_hva)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the guest's memory has no room for boot data at 0x%" PRIx64, gpa);
    return 0;
}

int boot_write_cmdline(const struct guest_memory *memory, const char *cmdline, uint64_t size_max,
                       struct stasis_error *err)
{
    const size_t size = strlen(cmdline);
    void *hva;
    int r;

    if (size > size_max)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "the command line has %zu bytes, the kernel takes %" PRIu64, size,
                           size_max);
    r = find_boot_data(memory, LAYOUT_CMDLINE_GPA, size + 1, &hva, err);
    if (r < 0)
        return r;
    memcpy(hva, cmdline, size + 1);
    return 0;
}

/* --- boot_params ---------------------------------------------------------------------------- */

/* Offsets in boot_params ("zero page", Documentation/arch/x86/zero-page.rst). */
#define PARAMS_ACPI_RSDP 0x070
#define PARAMS_E820_COUNT 0x1e8
#define PARAMS_SETUP 0x1f1
#define PARAMS_VID_MODE 0x1fa
#define PARAMS_BOOT_FLAG 0x1fe
#define PARAMS_MAGIC 0x202
#define PARAMS_VERSION 0x206
#define PARAMS_LOADER 0x210
#define PARAMS_LOADFLAGS 0x211
#define PARAMS_RAMDISK 0x218
#define PARAMS_RAMDISK_SIZE 0x21c
#define PARAMS_CMDLINE 0x228
#define PARAMS_SETUP_END 0x290
#define PARAMS_E820_TABLE 0x2d0
#define PARAMS_E820_STRIDE 20

#define LOADER_UNDEFINED 0xffu /* no id was ever assigned to us */
#define LOADFLAGS_LOADED_HIGH 0x01u
#define VID_MODE_NORMAL 0xffffu

static void put(uint8_t *params, size_t offset, uint64_t value, size_t size)
{
    memcpy(params + offset, &value, size);
}

static void put_memory_map(uint8_t *params, const struct guest_memory *memory)
{
    struct boot_map_entry map[BOOT_MAP_MAX];
    const size_t count = boot_memory_map(memory, map);

    for (size_t i = 0; i < count; i++) {
        const size_t offset = PARAMS_E820_TABLE + i * PARAMS_E820_STRIDE;

        put(params, offset, map[i].gpa, 8);
        put(params, offset + 8, map[i].size, 8);
        put(params, offset + 16, map[i].type, 4);
    }
    put(params, PARAMS_E820_COUNT, count, 1);
}

int boot_write_params(const struct guest_memory *memory, const uint8_t *setup, size_t setup_size,
                      const struct boot_initrd *initrd, struct stasis_error *err)
{
    void *params;
    const int r = find_boot_data(memory, LAYOUT_BOOT_PARAMS_GPA, BOOT_PAGE, &params, err);

    if (r < 0)
        return r;
    if (setup_size > PARAMS_SETUP_END - PARAMS_SETUP)
        setup_size = PARAMS_SETUP_END - PARAMS_SETUP;
    memset(params, 0, BOOT_PAGE);
    if (setup_size > 0)
        memcpy((uint8_t *)params + PARAMS_SETUP, setup, setup_size);
    else
        put(params, PARAMS_VERSION, 0x020c, 2);
    put(params, PARAMS_BOOT_FLAG, 0xaa55, 2);
    memcpy((uint8_t *)params + PARAMS_MAGIC, "HdrS", 4);
    put(params, PARAMS_VID_MODE, VID_MODE_NORMAL, 2);
    put(params, PARAMS_LOADER, LOADER_UNDEFINED, 1);
    ((uint8_t *)params)[PARAMS_LOADFLAGS] |= LOADFLAGS_LOADED_HIGH;
    put(params, PARAMS_RAMDISK, initrd->gpa, 4);
    put(params, PARAMS_RAMDISK_SIZE, initrd->size, 4);
    put(params, PARAMS_CMDLINE, LAYOUT_CMDLINE_GPA, 4);
    put(params, PARAMS_ACPI_RSDP, LAYOUT_ACPI_GPA, 8);
    put_memory_map(params, memory);
    return 0;
}

/* --- page tables and GDT -------------------------------------------------------------------- */

#define PTE_PRESENT 0x001u
#define PTE_WRITABLE 0x002u
#define PTE_LARGE 0x080u
#define PAGE_DIRECTORY_COUNT 4u /* 1 GiB each */

int boot_write_tables(const struct guest_memory *memory, struct stasis_error *err)
{
    /* Selectors 0x08: 32-bit code, 0x10: 64-bit code, 0x18: data; all flat. */
    static const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff };
    const uint64_t flags = PTE_PRESENT | PTE_WRITABLE;
    void *hva;
    uint64_t *tables;
    int r = find_boot_data(memory, LAYOUT_BOOT_GDT_GPA, sizeof(gdt), &hva, err);

    if (r < 0)
        return r;
    memcpy(hva, gdt, sizeof(gdt));
    r = find_boot_data(memory, LAYOUT_PAGE_TABLES_GPA, (2 + PAGE_DIRECTORY_COUNT) * BOOT_PAGE, &hva,
                       err);
    if (r < 0)
        return r;

    /* PML4, PDPT, then the four page directories, a page each. */
    tables = hva;
    memset(tables, 0, 2 * BOOT_PAGE);
    tables[0] = (LAYOUT_PAGE_TABLES_GPA + BOOT_PAGE) | flags;
    for (uint64_t i = 0; i < PAGE_DIRECTORY_COUNT; i++)
        tables[512 + i] = (LAYOUT_PAGE_TABLES_GPA + (2 + i) * BOOT_PAGE) | flags;
    for (uint64_t i = 0; i < PAGE_DIRECTORY_COUNT * 512; i++)
        tables[1024 + i] = (i << 21) | flags | PTE_LARGE;
    return 0;
}

/* --- what kind of file ---------------------------------------------------------------------- */

static int open_kernel(const char *path, struct boot_file *ret_file, struct stasis_error *err)
{
    auto_fd fd = -1;
    struct boot_file file = { .path = path, .fd = -1 };
    int r = io_open_regular(path, O_RDONLY, &fd, &file.size, err);

    if (r < 0)
        return stasis_wrap(err, r, "kernel");
    file.head_size = file.size < sizeof(file.head) ? (size_t)file.size : sizeof(file.head);
    r = io_read_at(fd, file.head, file.head_size, 0, err);
    if (r < 0)
        return stasis_wrap(err, r, "kernel '%s'", path);
    file.fd = fd_steal(&fd);
    *ret_file = file;
    return 0;
}

static int load_by_kind(const struct guest_memory *memory, const struct boot_file *file,
                        const struct boot_source *source, struct boot_entry *ret_entry,
                        struct stasis_error *err)
{
    if (boot_is_flat(file))
        return boot_load_flat(memory, file, source, ret_entry, err);
    if (boot_is_elf(file))
        return boot_load_pvh(memory, file, source, ret_entry, err);
    if (boot_is_linux(file))
        return boot_load_linux(memory, file, source, ret_entry, err);
    return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                       "'%s' is not a kernel: neither a bzImage, nor an ELF file, nor a flat guest",
                       file->path);
}

int boot_load(const struct guest_memory *memory, const struct boot_source *source,
              struct boot_entry *ret_entry, struct stasis_error *err)
{
    struct boot_file file;
    int r = open_kernel(source->kernel_path, &file, err);

    if (r < 0)
        return r;
    r = load_by_kind(memory, &file, source, ret_entry, err);
    fd_close(&file.fd);
    return r < 0 ? r : boot_write_tables(memory, err);
}
