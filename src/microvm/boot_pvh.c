/*
 * boot_pvh.c - an ELF kernel by PVH, the way in that Xen defined and others took up.
 *
 * The ELF file is loaded by its program headers (physical addresses); a note of Xen's,
 * XEN_ELFNOTE_PHYS32_ENTRY, names the entry point: 32-bit protected mode, no paging, EBX at
 * hvm_start_info. Rules: Xen docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h.
 *
 *     LAYOUT_PVH_START_GPA + 0x00  hvm_start_info
 *                          + 0x40  module list: the initrd
 *                          + 0x80  memory map
 *
 * A vmlinux may be hundreds of megabytes with its debug data: only what is loaded is read.
 */
#include <elf.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "microvm/boot_parts.h"
#include "microvm/layout.h"

#define NOTE_SIZE_MAX (UINT64_C(1) << 20) /* bytes of a PT_NOTE segment; real ones have hundreds */
#define SEGMENT_MAX 64u
#define XEN_NOTE_PHYS32_ENTRY 18u

#define START_INFO_MAGIC 0x336ec578u
#define START_INFO_SIZE 56u
#define START_MODULES_OFFSET 0x40u
#define START_MAP_OFFSET 0x80u
#define START_SIZE 0x1000u

struct elf_file {
    const struct boot_file *file;
    Elf64_Ehdr header;
    Elf64_Phdr segments[SEGMENT_MAX];
};

bool boot_is_elf(const struct boot_file *file)
{
    return file->head_size >= SELFMAG && memcmp(file->head, ELFMAG, SELFMAG) == 0;
}

static int check_elf_header(const struct boot_file *file, const Elf64_Ehdr *header,
                            struct stasis_error *err)
{
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
        header->e_machine != EM_X86_64)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL, "ELF file '%s' is not for x86-64",
                           file->path);
    if (header->e_phentsize != sizeof(Elf64_Phdr) || header->e_phnum == 0 ||
        header->e_phnum > SEGMENT_MAX)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "ELF file '%s' has %u program headers of %u bytes; 1 to %u of %zu are "
                           "accepted",
                           file->path, header->e_phnum, header->e_phentsize, SEGMENT_MAX,
                           sizeof(Elf64_Phdr));
    return 0;
}

static int read_elf(const struct boot_file *file, struct elf_file *ret_elf,
                    struct stasis_error *err)
{
    Elf64_Ehdr *header = &ret_elf->header;
    uint64_t size;
    uint64_t end;
    int r;

    ret_elf->file = file;
    if (file->head_size < sizeof(*header))
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL, "ELF file '%s' ends inside its header",
                           file->path);
    memcpy(header, file->head, sizeof(*header));
    r = check_elf_header(file, header, err);
    if (r < 0)
        return r;
    size = (uint64_t)header->e_phnum * sizeof(Elf64_Phdr);
    if (__builtin_add_overflow(header->e_phoff, size, &end) || end > file->size)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "ELF file '%s' ends before its program headers do", file->path);
    r = io_read_at(file->fd, ret_elf->segments, (size_t)size, header->e_phoff, err);
    return r < 0 ? stasis_wrap(err, r, "kernel '%s'", file->path) : 0;
}

/* --- the entry note ------------------------------------------------------------------------- */

/* Skip to the next multiple of `align` from where the notes begin; at their end there may be none.
 * */
static void skip_padding(struct byte_reader *reader, size_t align)
{
    const size_t padding = (align - reader->offset % align) % align;

    if (padding <= byte_reader_left(reader))
        (void)byte_reader_bytes(reader, padding);
}

/* One note: three words, name, descriptor. Descriptor and next note begin at multiples of `align`,
 * as binutils reads them: with 8, a name of 4 bytes behind the 12 of the header needs no padding.
 * */
static bool next_note(struct byte_reader *reader, size_t align, uint32_t *ret_type,
                      const uint8_t **ret_name, uint32_t *ret_name_size, const uint8_t **ret_desc,
                      uint32_t *ret_desc_size)
{
    *ret_name_size = byte_reader_u32(reader);
    *ret_desc_size = byte_reader_u32(reader);
    *ret_type = byte_reader_u32(reader);
    *ret_name = byte_reader_bytes(reader, *ret_name_size);
    skip_padding(reader, align);
    *ret_desc = byte_reader_bytes(reader, *ret_desc_size);
    skip_padding(reader, align);
    return !reader->failed;
}

static bool find_entry_in_notes(const uint8_t *notes, size_t size, size_t align,
                                uint64_t *ret_entry_gpa)
{
    struct byte_reader reader;
    const uint8_t *name, *desc;
    uint32_t type, name_size, desc_size;

    byte_reader_init(&reader, notes, size);
    while (byte_reader_left(&reader) > 0 &&
           next_note(&reader, align, &type, &name, &name_size, &desc, &desc_size)) {
        if (type != XEN_NOTE_PHYS32_ENTRY || name_size != 4 || memcmp(name, "Xen", 4) != 0 ||
            (desc_size != 4 && desc_size != 8))
            continue;
        *ret_entry_gpa = 0;
        memcpy(ret_entry_gpa, desc, desc_size);
        return true;
    }
    return false;
}

static int read_notes(const struct elf_file *elf, const Elf64_Phdr *segment, uint8_t **ret_notes,
                      struct stasis_error *err)
{
    auto_free uint8_t *notes = NULL;
    int r;

    if (segment->p_filesz > NOTE_SIZE_MAX || segment->p_offset > elf->file->size ||
        segment->p_filesz > elf->file->size - segment->p_offset)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "ELF file '%s' has a note segment beyond its end or over 1 MiB",
                           elf->file->path);
    notes = malloc((size_t)segment->p_filesz + 1);
    if (!notes)
        return stasis_fail_memory(err, "ELF notes");
    r = io_read_at(elf->file->fd, notes, (size_t)segment->p_filesz, segment->p_offset, err);
    if (r < 0)
        return stasis_wrap(err, r, "kernel '%s'", elf->file->path);
    *ret_notes = take_ptr(notes);
    return 0;
}

static int find_entry(const struct elf_file *elf, uint64_t *ret_entry_gpa, struct stasis_error *err)
{
    for (size_t i = 0; i < elf->header.e_phnum; i++) {
        const Elf64_Phdr *segment = &elf->segments[i];
        auto_free uint8_t *notes = NULL;
        int r;

        if (segment->p_type != PT_NOTE)
            continue;
        r = read_notes(elf, segment, &notes, err);
        if (r < 0)
            return r;
        if (find_entry_in_notes(notes, (size_t)segment->p_filesz, segment->p_align == 8 ? 8 : 4,
                                ret_entry_gpa))
            return 0;
    }
    return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                       "ELF file '%s' has no PVH entry note (Linux: CONFIG_PVH)", elf->file->path);
}

/* --- segments ------------------------------------------------------------------------------- */

static int check_segment(const struct guest_memory *memory, const struct elf_file *elf,
                         const Elf64_Phdr *segment, struct stasis_error *err)
{
    if (segment->p_filesz > segment->p_memsz)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "ELF file '%s' has a segment with more bytes in the file than in memory",
                           elf->file->path);
    if (segment->p_paddr < LAYOUT_KERNEL_GPA || segment->p_paddr >= boot_low_ram_end(memory) ||
        !guest_memory_at(memory, segment->p_paddr, segment->p_memsz))
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "'%s' does not fit into the guest's memory: a segment takes %" PRIu64
                           " bytes at 0x%" PRIx64 ", low memory is 0x100000 to 0x%" PRIx64,
                           elf->file->path, (uint64_t)segment->p_memsz, (uint64_t)segment->p_paddr,
                           boot_low_ram_end(memory));
    return 0;
}

/* RAM is fresh and zero, so the part of a segment that is not in the file needs no clearing. */
static int load_segments(const struct guest_memory *memory, const struct elf_file *elf,
                         uint64_t entry_gpa, uint64_t *ret_end_gpa, struct stasis_error *err)
{
    bool has_entry = false;

    *ret_end_gpa = LAYOUT_KERNEL_GPA;
    for (size_t i = 0; i < elf->header.e_phnum; i++) {
        const Elf64_Phdr *segment = &elf->segments[i];
        int r;

        if (segment->p_type != PT_LOAD || segment->p_memsz == 0)
            continue;
        r = check_segment(memory, elf, segment, err);
        if (r == 0)
            r = boot_copy_file(memory, elf->file, segment->p_offset, segment->p_paddr,
                               segment->p_filesz, "segment", err);
        if (r < 0)
            return r;
        if (entry_gpa >= segment->p_paddr && entry_gpa - segment->p_paddr < segment->p_filesz)
            has_entry = true;
        if (segment->p_paddr + segment->p_memsz > *ret_end_gpa)
            *ret_end_gpa = segment->p_paddr + segment->p_memsz;
    }
    if (!has_entry)
        return stasis_fail(err, STASIS_ERR_BAD_KERNEL,
                           "ELF file '%s' begins at 0x%" PRIx64 ", outside of its own segments",
                           elf->file->path, entry_gpa);
    return 0;
}

/* --- hvm_start_info ------------------------------------------------------------------------- */

static void put_start_info(struct byte_writer *writer, const struct boot_initrd *initrd,
                           size_t map_count)
{
    const bool has_initrd = initrd->size > 0;

    byte_writer_u32(writer, START_INFO_MAGIC);
    byte_writer_u32(writer, 1); /* version: with a memory map */
    byte_writer_u32(writer, 0); /* flags */
    byte_writer_u32(writer, has_initrd ? 1 : 0);
    byte_writer_u64(writer, has_initrd ? LAYOUT_PVH_START_GPA + START_MODULES_OFFSET : 0);
    byte_writer_u64(writer, LAYOUT_CMDLINE_GPA);
    byte_writer_u64(writer, LAYOUT_ACPI_GPA);
    byte_writer_u64(writer, LAYOUT_PVH_START_GPA + START_MAP_OFFSET);
    byte_writer_u32(writer, (uint32_t)map_count);
    byte_writer_u32(writer, 0); /* reserved */
}

static int write_start_info(const struct guest_memory *memory, const struct boot_initrd *initrd,
                            struct stasis_error *err)
{
    struct boot_map_entry map[BOOT_MAP_MAX];
    const size_t map_count = boot_memory_map(memory, map);
    void *page = guest_memory_at(memory, LAYOUT_PVH_START_GPA, START_SIZE);
    struct byte_writer writer;

    if (!page)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the guest's memory has no room for boot data");
    byte_writer_init(&writer, page, START_SIZE);
    put_start_info(&writer, initrd, map_count);
    byte_writer_zeros(&writer, START_MODULES_OFFSET - START_INFO_SIZE);
    byte_writer_u64(&writer, initrd->gpa);
    byte_writer_u64(&writer, initrd->size);
    byte_writer_zeros(&writer, START_MAP_OFFSET - START_MODULES_OFFSET - 16);
    for (size_t i = 0; i < map_count; i++) {
        byte_writer_u64(&writer, map[i].gpa);
        byte_writer_u64(&writer, map[i].size);
        byte_writer_u32(&writer, map[i].type);
        byte_writer_u32(&writer, 0);
    }
    return 0;
}

int boot_load_pvh(const struct guest_memory *memory, const struct boot_file *file,
                  const struct boot_source *source, struct boot_entry *ret_entry,
                  struct stasis_error *err)
{
    struct elf_file elf;
    struct boot_initrd initrd;
    uint64_t entry_gpa = 0, end_gpa = 0;
    int r = read_elf(file, &elf, err);

    if (r == 0)
        r = find_entry(&elf, &entry_gpa, err);
    if (r == 0)
        r = load_segments(memory, &elf, entry_gpa, &end_gpa, err);
    if (r == 0)
        r = boot_load_initrd(memory, source->initrd_path, end_gpa, UINT32_MAX, &initrd, err);
    if (r == 0)
        r = boot_write_cmdline(memory, source->cmdline ? source->cmdline : BOOT_LINUX_CMDLINE,
                               BOOT_CMDLINE_MAX, err);
    if (r == 0)
        r = write_start_info(memory, &initrd, err);
    if (r < 0)
        return r;
    *ret_entry = (struct boot_entry){ .mode = BOOT_MODE_PVH,
                                      .entry_gpa = entry_gpa,
                                      .info_gpa = LAYOUT_PVH_START_GPA };
    return 0;
}
