/* boot_parts.h - what the three loaders share: bounded copies into RAM, memory map, boot_params. */
#ifndef STASIS_MICROVM_BOOT_PARTS_H
#define STASIS_MICROVM_BOOT_PARTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/error.h>

#include "microvm/boot.h"

/* The kernel file while it is being loaded. */
struct boot_file {
    const char *path;
    int fd;
    uint64_t size;      /* bytes */
    uint8_t head[4096]; /* its first bytes, zero beyond its end */
    size_t head_size;   /* bytes in `head` that are the file's */
};

/* RAM as a guest is told of it. */
#define BOOT_MAP_MAX 4u
#define BOOT_MAP_RAM 1u      /* E820_TYPE_RAM, and PVH's XEN_HVM_MEMMAP_TYPE_RAM */
#define BOOT_MAP_RESERVED 2u /* likewise */
struct boot_map_entry {
    uint64_t gpa, size; /* bytes */
    uint32_t type;
};
size_t boot_memory_map(const struct guest_memory *memory, struct boot_map_entry map[BOOT_MAP_MAX]);

/* End of the RAM that kernels and initrds are loaded to: the region at 0. */
uint64_t boot_low_ram_end(const struct guest_memory *memory);

/* Copy `size` bytes at `file_off` to RAM. STASIS_ERR_BAD_KERNEL naming `what` when the file ends
 * before or RAM does; never below 1 MiB, where the boot data is. */
int boot_copy_file(const struct guest_memory *memory, const struct boot_file *file,
                   uint64_t file_off, uint64_t gpa, uint64_t size, const char *what,
                   struct stasis_error *err);

struct boot_initrd {
    uint64_t gpa, size; /* size 0: none */
};
/* To the top of low RAM, its last byte at most `gpa_max`, its first not below `kernel_end_gpa`. */
int boot_load_initrd(const struct guest_memory *memory, const char *path, uint64_t kernel_end_gpa,
                     uint64_t gpa_max, struct boot_initrd *ret_initrd, struct stasis_error *err);

#define BOOT_CMDLINE_MAX 2047u /* bytes, where the guest's format sets no limit of its own */
/* To LAYOUT_CMDLINE_GPA with its NUL; `size_max` bytes without it at most. */
int boot_write_cmdline(const struct guest_memory *memory, const char *cmdline, uint64_t size_max,
                       struct stasis_error *err);

/* A boot_params page for the 64-bit protocol. `setup` (may be NULL) is the setup header that starts
 * at offset 0x1f1 of a bzImage. */
int boot_write_params(const struct guest_memory *memory, const uint8_t *setup, size_t setup_size,
                      const struct boot_initrd *initrd, struct stasis_error *err);

/* Page tables and GDT for BOOT_MODE_LONG and BOOT_MODE_PVH. */
int boot_write_tables(const struct guest_memory *memory, struct stasis_error *err);

/* The loaders; `file` is open and its head is read. */
bool boot_is_linux(const struct boot_file *file);
int boot_load_linux(const struct guest_memory *memory, const struct boot_file *file,
                    const struct boot_source *source, struct boot_entry *ret_entry,
                    struct stasis_error *err);
bool boot_is_elf(const struct boot_file *file);
int boot_load_pvh(const struct guest_memory *memory, const struct boot_file *file,
                  const struct boot_source *source, struct boot_entry *ret_entry,
                  struct stasis_error *err);
bool boot_is_flat(const struct boot_file *file);
int boot_load_flat(const struct guest_memory *memory, const struct boot_file *file,
                   const struct boot_source *source, struct boot_entry *ret_entry,
                   struct stasis_error *err);

#endif
