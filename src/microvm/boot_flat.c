/*
 * boot_flat.c - our small guests: one header, then the bytes of their memory.
 *
 *      0   magic "STFLAT1\0"
 *      8   load_gpa     the whole file, header included, goes here; page aligned, 1 MiB or above
 *     16   entry_gpa    first instruction, inside the file
 *     24   memory_size  bytes from load_gpa that the guest takes, zeroes after the file included
 *
 * Entered as a bzImage is: 64-bit mode, RSI at boot_params. For guests of the tests' own; a wrong
 * header is refused before anything is copied.
 */
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "microvm/boot_parts.h"
#include "microvm/layout.h"

#define FLAT_HEADER_SIZE 32u
static const char flat_magic[8] = "STFLAT1"; /* the NUL is part of it */

struct flat_header {
    uint64_t load_gpa, entry_gpa, memory_size;
};

bool boot_is_flat(const struct boot_file *file)
{
    return file->head_size >= sizeof(flat_magic) &&
           memcmp(file->head, flat_magic, sizeof(flat_magic)) == 0;
}

static int read_header(const struct boot_file *file, struct flat_header *ret_header,
                       struct stasis_error *err)
{
    struct byte_reader reader;

    byte_reader_init(&reader, file->head, file->head_size);
    (void)byte_reader_u64(&reader);
    ret_header->load_gpa = byte_reader_u64(&reader);
    ret_header->entry_gpa = byte_reader_u64(&reader);
    ret_header->memory_size = byte_reader_u64(&reader);
    if (reader.failed)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "flat guest '%s' ends inside its header of %u bytes", file->path,
                           FLAT_HEADER_SIZE);
    return 0;
}

static int check_header(const struct guest_memory *memory, const struct boot_file *file,
                        const struct flat_header *header, struct stasis_error *err)
{
    if (header->load_gpa < LAYOUT_KERNEL_GPA || header->load_gpa % STASIS_PAGE_SIZE != 0)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "flat guest '%s' loads at 0x%" PRIx64
                           ", which is below 1 MiB or not page aligned",
                           file->path, header->load_gpa);
    if (header->memory_size < file->size)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "flat guest '%s' asks for %" PRIu64 " bytes of memory, fewer than the "
                           "file's %" PRIu64,
                           file->path, header->memory_size, file->size);
    if (!guest_memory_at(memory, header->load_gpa, header->memory_size) ||
        header->load_gpa >= boot_low_ram_end(memory))
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "flat guest '%s' does not fit into the guest's memory: it takes %" PRIu64
                           " bytes at 0x%" PRIx64 ", low memory ends at 0x%" PRIx64,
                           file->path, header->memory_size, header->load_gpa,
                           boot_low_ram_end(memory));
    if (header->entry_gpa < header->load_gpa + FLAT_HEADER_SIZE ||
        header->entry_gpa - header->load_gpa >= file->size)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "flat guest '%s' begins at 0x%" PRIx64 ", outside of its own bytes",
                           file->path, header->entry_gpa);
    return 0;
}

int boot_load_flat(const struct guest_memory *memory, const struct boot_file *file,
                   const struct boot_source *source, struct boot_entry *ret_entry,
                   struct stasis_error *err)
{
    struct flat_header header;
    struct boot_initrd initrd;
    int r = read_header(file, &header, err);

    if (r == 0)
        r = check_header(memory, file, &header, err);
    if (r == 0)
        r = boot_copy_file(memory, file, 0, header.load_gpa, file->size, "image", err);
    if (r == 0)
        r = boot_load_initrd(memory, source->initrd_path, header.load_gpa + header.memory_size,
                             UINT32_MAX, &initrd, err);
    if (r == 0)
        r = boot_write_cmdline(memory, source->cmdline ? source->cmdline : "", BOOT_CMDLINE_MAX,
                               err);
    if (r == 0)
        r = boot_write_params(memory, NULL, 0, &initrd, err);
    if (r < 0)
        return r;
    *ret_entry = (struct boot_entry){ .mode = BOOT_MODE_LONG,
                                      .entry_gpa = header.entry_gpa,
                                      .info_gpa = LAYOUT_BOOT_PARAMS_GPA };
    return 0;
}
