/* layout.h - where everything is in the guest: physical addresses, I/O ports, interrupts.
 *
 *     0                      boot data (page tables, boot_params, command line, ACPI tables)
 *     1 MiB ..               RAM, up to 3 GiB
 *     3 GiB .. 4 GiB         hole: virtio-mmio, IOAPIC, LAPIC
 *     4 GiB ..               the rest of RAM
 *
 * Addresses are part of every snapshot (they are in the ACPI tables that the guest has read), so a
 * change here is a new version of the "platform" device. */
#ifndef STASIS_MICROVM_LAYOUT_H
#define STASIS_MICROVM_LAYOUT_H

#include <stdint.h>

/* RAM */
#define LAYOUT_LOW_RAM_MAX UINT64_C(0xC0000000) /* 3 GiB: RAM above goes over 4 GiB */
#define LAYOUT_HIGH_RAM_GPA UINT64_C(0x100000000)

/* Boot data in the first MiB */
#define LAYOUT_BOOT_GDT_GPA 0x500u
#define LAYOUT_BOOT_IDT_GPA 0x520u
#define LAYOUT_PVH_START_GPA 0x6000u
#define LAYOUT_BOOT_PARAMS_GPA 0x7000u
#define LAYOUT_BOOT_STACK_GPA 0x8ff0u
#define LAYOUT_PAGE_TABLES_GPA 0x9000u /* PML4, PDPT, 4 page directories: identity 0..4 GiB */
#define LAYOUT_CMDLINE_GPA 0x20000u
#define LAYOUT_LOW_RAM_END 0x9fc00u /* usable RAM ends here, e820 reserves up to 1 MiB */
#define LAYOUT_ACPI_GPA 0xe0000u    /* RSDP first, then the tables; reserved in the e820 map */
#define LAYOUT_ACPI_SIZE 0x1f000u
#define LAYOUT_VMGENID_GPA 0xff000u /* a page of its own; the GUID is at its beginning */
#define LAYOUT_KERNEL_GPA 0x100000u

/* MMIO */
#define LAYOUT_VIRTIO_MMIO_GPA UINT64_C(0xD0000000)
#define LAYOUT_VIRTIO_MMIO_STRIDE UINT64_C(0x1000)
#define LAYOUT_VIRTIO_SLOTS 8u
#define LAYOUT_IOAPIC_GPA UINT64_C(0xFEC00000)
#define LAYOUT_LAPIC_GPA UINT64_C(0xFEE00000)
#define LAYOUT_IDENTITY_MAP_GPA UINT64_C(0xFFFBC000) /* KVM_SET_IDENTITY_MAP_ADDR, Intel */
#define LAYOUT_TSS_GPA UINT64_C(0xFFFBD000)          /* KVM_SET_TSS_ADDR, three pages */

/* I/O ports */
#define LAYOUT_SERIAL_PORT 0x3f8u        /* 8 ports */
#define LAYOUT_I8042_PORT 0x60u          /* 0x60 data, 0x64 command: 0xFE resets */
#define LAYOUT_GED_PORT 0x600u           /* u32, read: pending events, reading clears them */
#define LAYOUT_SLEEP_CONTROL_PORT 0x604u /* u8, FADT SLEEP_CONTROL_REG: 0x34 is S5 */
#define LAYOUT_SLEEP_STATUS_PORT 0x605u  /* u8, FADT SLEEP_STATUS_REG */
#define LAYOUT_RESET_PORT 0x606u         /* u8, FADT RESET_REG: LAYOUT_RESET_VALUE resets */
#define LAYOUT_RESET_VALUE 0x01u

/* Interrupts: global system interrupts, all edge triggered, active high */
#define LAYOUT_SERIAL_GSI 4u
#define LAYOUT_GED_GSI 9u
#define LAYOUT_VIRTIO_GSI 16u /* slot n has LAYOUT_VIRTIO_GSI + n */

/* GED events */
#define LAYOUT_GED_POWER_BUTTON 0x1u
#define LAYOUT_GED_VMGENID 0x2u

#endif
