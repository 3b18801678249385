/* boot.h - from files to a guest in RAM and the state in which its first CPU begins.
 *
 *     bzImage   64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol")
 *     ELF       PVH: the entry named by its XEN_ELFNOTE_PHYS32_ENTRY note
 *     flat      our small guests: a header, then bytes; entered like a bzImage
 *
 * Files are hostile: every size and address in them is checked against guest RAM. */
#ifndef STASIS_MICROVM_BOOT_H
#define STASIS_MICROVM_BOOT_H

#include <stdbool.h>
#include <stdint.h>

#include <stasis/error.h>

#include "microvm/device.h"

struct boot_source {
    const char *kernel_path;
    const char *initrd_path; /* NULL: none */
    const char *cmdline;     /* NULL: BOOT_LINUX_CMDLINE for Linux, empty for a flat guest */
};

#define BOOT_LINUX_CMDLINE "console=ttyS0 reboot=k panic=1"

enum boot_mode {
    BOOT_MODE_LONG = 1, /* 64-bit, identity pages for 0..4 GiB, RSI = `info_gpa` */
    BOOT_MODE_PVH,      /* 32-bit protected, paging off, EBX = `info_gpa` */
};

struct boot_entry {
    enum boot_mode mode;
    uint64_t entry_gpa;
    uint64_t info_gpa;
};

/* Load kernel, initrd, command line and what describes them. The ACPI tables are the caller's.
 * STASIS_ERR_BAD_KERNEL, also for an initrd or command line that does not fit;
 * STASIS_ERR_NOT_FOUND, STASIS_ERR_NOT_REGULAR, ... for the paths. */
int boot_load(const struct guest_memory *memory, const struct boot_source *source,
              struct boot_entry *ret_entry, struct stasis_error *err);

/* Registers, MSRs and local interrupts of one fresh vCPU; `entry` is used by the first (index 0),
 * the others wait for its start-up interrupt. The page tables and GDT are written by
 * boot_write_tables(). */
int boot_set_vcpu(int vcpu_fd, uint32_t index, const struct boot_entry *entry,
                  struct stasis_error *err);

#endif
