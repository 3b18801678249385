/*
 * boot_linux.c - a Linux bzImage by the 64-bit boot protocol.
 *
 *     file   | boot sector, setup code (setup_sects + 1) * 512 | kernel, syssize * 16 bytes | ...
 *     guest    setup header -> boot_params                       pref_address, entered at + 0x200
 *
 * The setup code never runs: we do its work (memory map, command line, initrd) and enter the
 * kernel in 64-bit mode. Rules: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header" and
 * "64-bit Boot Protocol". The kernel unpacks itself over [pref_address, + init_size), so nothing
 * else may lie there.
 */
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "microvm/boot_parts.h"
#include "microvm/layout.h"

#define SETUP_START 0x1f1u
#define SETUP_FIXED_END 0x202u
#define SETUP_NEEDED_END 0x264u /* up to and with init_size: protocol 2.10 and later */
#define SECTOR 512u
#define ENTRY_64_OFFSET 0x200u
#define PROTOCOL_WITH_XLOADFLAGS 0x020cu
#define XLF_KERNEL_64 0x0001u

struct linux_header {
    uint32_t setup_sects;
    uint64_t kernel_off, kernel_size; /* bytes in the file */
    uint16_t version, xloadflags;
    uint32_t initrd_addr_max, cmdline_size, init_size;
    uint64_t pref_address;
    size_t setup_size; /* bytes of the setup header from SETUP_START */
};

static uint64_t get(const struct boot_file *file, size_t offset, size_t size)
{
    uint64_t value = 0;

    memcpy(&value, file->head + offset, size);
    return value;
}

bool boot_is_linux(const struct boot_file *file)
{
    return file->head_size >= SETUP_NEEDED_END && get(file, 0x1fe, 2) == 0xaa55 &&
           memcmp(file->head + 0x202, "HdrS", 4) == 0;
}

static int check_protocol(const struct boot_file *file, const struct linux_header *header,
                          struct stasis_error *err)
{
    if (header->version < PROTOCOL_WITH_XLOADFLAGS)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "'%s' speaks boot protocol %u.%02u; Stasis needs 2.12 or later",
                           file->path, header->version >> 8, header->version & 0xffu);
    if (!(header->xloadflags & XLF_KERNEL_64))
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "'%s' has no 64-bit entry point (XLF_KERNEL_64 is not set)", file->path);
    return 0;
}

/* `syssize` leaves out a signature that some distributions append. */
static int find_kernel(const struct boot_file *file, struct linux_header *header,
                       struct stasis_error *err)
{
    const uint64_t size_said = get(file, 0x1f4, 4) * 16;
    uint64_t size_there;

    header->kernel_off = (uint64_t)(header->setup_sects + 1) * SECTOR;
    if (header->kernel_off >= file->size)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL, "'%s' ends inside its setup code",
                           file->path);
    size_there = file->size - header->kernel_off;
    if (size_said > size_there && size_said - size_there >= 16) /* paragraphs are rounded up */
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "'%s' is truncated: its header tells of %" PRIu64
                           " bytes of kernel, %" PRIu64 " are there",
                           file->path, size_said, size_there);
    header->kernel_size = size_said > 0 && size_said < size_there ? size_said : size_there;
    if (header->kernel_size <= ENTRY_64_OFFSET)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL, "'%s' ends before its 64-bit entry point",
                           file->path);
    return 0;
}

static int read_header(const struct boot_file *file, struct linux_header *ret_header,
                       struct stasis_error *err)
{
    struct linux_header header = {
        .setup_sects = (uint32_t)get(file, 0x1f1, 1),
        .version = (uint16_t)get(file, 0x206, 2),
        .initrd_addr_max = (uint32_t)get(file, 0x22c, 4),
        .xloadflags = (uint16_t)get(file, 0x236, 2),
        .cmdline_size = (uint32_t)get(file, 0x238, 4),
        .pref_address = get(file, 0x258, 8),
        .init_size = (uint32_t)get(file, 0x260, 4),
    };
    int r = check_protocol(file, &header, err);

    if (header.setup_sects == 0)
        header.setup_sects = 4; /* as ever since the first protocol */
    if (r == 0)
        r = find_kernel(file, &header, err);
    if (r < 0)
        return r;
    /* The byte before the fixed part's end is a jump's distance: over the rest of the header. */
    header.setup_size = SETUP_FIXED_END - SETUP_START + (size_t)get(file, 0x201, 1);
    if (header.setup_size > file->head_size - SETUP_START)
        header.setup_size = file->head_size - SETUP_START;
    *ret_header = header;
    return 0;
}

/* The end of what the kernel takes while it unpacks itself. */
static int find_kernel_end(const struct guest_memory *memory, const struct boot_file *file,
                           const struct linux_header *header, uint64_t *ret_end_gpa,
                           struct stasis_error *err)
{
    const uint64_t size =
        header->init_size > header->kernel_size ? header->init_size : header->kernel_size;

    if (header->pref_address < LAYOUT_KERNEL_GPA ||
        __builtin_add_overflow(header->pref_address, size, ret_end_gpa))
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "'%s' wants to be loaded at the impossible address 0x%" PRIx64,
                           file->path, header->pref_address);
    if (*ret_end_gpa > boot_low_ram_end(memory))
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "'%s' does not fit into the guest's memory: it takes %" PRIu64
                           " bytes at 0x%" PRIx64 ", low memory ends at 0x%" PRIx64,
                           file->path, size, header->pref_address, boot_low_ram_end(memory));
    return 0;
}

int boot_load_linux(const struct guest_memory *memory, const struct boot_file *file,
                    const struct boot_source *source, struct boot_entry *ret_entry,
                    struct stasis_error *err)
{
    struct linux_header header;
    struct boot_initrd initrd;
    uint64_t kernel_end_gpa = 0;
    int r = read_header(file, &header, err);

    if (r == 0)
        r = find_kernel_end(memory, file, &header, &kernel_end_gpa, err);
    if (r == 0)
        r = boot_copy_file(memory, file, header.kernel_off, header.pref_address, header.kernel_size,
                           "kernel", err);
    if (r == 0)
        r = boot_load_initrd(memory, source->initrd_path, kernel_end_gpa, header.initrd_addr_max,
                             &initrd, err);
    if (r == 0)
        r = boot_write_cmdline(memory, source->cmdline ? source->cmdline : BOOT_LINUX_CMDLINE,
                               header.cmdline_size, err);
    if (r == 0)
        r = boot_write_params(memory, file->head + SETUP_START, header.setup_size, &initrd, err);
    if (r < 0)
        return r;
    *ret_entry = (struct boot_entry){ .mode = BOOT_MODE_LONG,
                                      .entry_gpa = header.pref_address + ENTRY_64_OFFSET,
                                      .info_gpa = LAYOUT_BOOT_PARAMS_GPA };
    return 0;
}
