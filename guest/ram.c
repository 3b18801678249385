/*
 * ram.c - which memory there is, and who gets it.
 */
#include "ram.h"

#include <stddef.h>

#include "cpu.h"
#include "power.h"
#include "print.h"

#define BOOT_PARAMS_E820_COUNT 0x1e8u
#define BOOT_PARAMS_COMMAND_LINE 0x228u
#define BOOT_PARAMS_E820_TABLE 0x2d0u
#define E820_RAM 1u
#define E820_MAX 128u

struct e820_entry {
    uint64_t gpa, size;
    uint32_t type;
} __attribute__((packed));

extern const char guest_end[];

struct ram ram;

static char command_line[2048];
static uint64_t highest_gpa;

static void add_extent(uint64_t gpa, uint64_t size)
{
    const uint64_t floor = (uint64_t)guest_end; /* page aligned: below it nothing is ours */
    uint64_t start = (gpa + PAGE_SIZE - 1) & ~(uint64_t)(PAGE_SIZE - 1);
    const uint64_t end = (gpa + size) & ~(uint64_t)(PAGE_SIZE - 1);

    if (end > highest_gpa)
        highest_gpa = end;
    if (start < floor)
        start = floor;
    if (start >= end || ram.extent_count == RAM_EXTENTS_MAX)
        return;
    ram.extents[ram.extent_count].gpa = start;
    ram.extents[ram.extent_count].page_count = (end - start) / PAGE_SIZE;
    ram.extent_count++;
}

void ram_init(const uint8_t *boot_params)
{
    const uint32_t *command_line_gpa = (const void *)(boot_params + BOOT_PARAMS_COMMAND_LINE);
    const struct e820_entry *entries = (const void *)(boot_params + BOOT_PARAMS_E820_TABLE);
    const char *text = (const char *)(uint64_t)*command_line_gpa;
    const unsigned count = boot_params[BOOT_PARAMS_E820_COUNT];

    for (unsigned i = 0; text && text[i] && i < sizeof(command_line) - 1; i++)
        command_line[i] = text[i];
    for (unsigned i = 0; i < count && i < E820_MAX; i++) {
        if (entries[i].type == E820_RAM)
            add_extent(entries[i].gpa, entries[i].size);
    }
}

const char *ram_command_line(void)
{
    return command_line;
}

uint64_t ram_end(void)
{
    return highest_gpa;
}

uint64_t ram_free_pages(void)
{
    uint64_t pages = 0;

    for (unsigned i = 0; i < ram.extent_count; i++)
        pages += ram.extents[i].page_count;
    return pages;
}

void *ram_alloc(uint64_t size)
{
    const uint64_t pages = (size + PAGE_SIZE - 1) / PAGE_SIZE;

    for (unsigned i = 0; i < ram.extent_count; i++) {
        struct ram_extent *extent = &ram.extents[i];
        void *memory = (void *)extent->gpa;

        if (extent->page_count < pages)
            continue;
        extent->gpa += pages * PAGE_SIZE;
        extent->page_count -= pages;
        return memory;
    }
    print_bad("no memory for %lu bytes", size);
    power_end(POWER_OFF);
}
