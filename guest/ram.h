/*
 * ram.h - which memory there is, and who gets it.
 *
 * RAM the loader has not written is taken to be zero, as a fresh machine's is.
 */
#ifndef GUEST_RAM_H
#define GUEST_RAM_H

#include <stdint.h>

#define RAM_EXTENTS_MAX 8u

struct ram_extent {
    uint64_t gpa;
    uint64_t page_count;
};

/* The free RAM above the guest's image, in rising order; allocations are cut off its front. */
struct ram {
    uint32_t extent_count;
    struct ram_extent extents[RAM_EXTENTS_MAX];
};

extern struct ram ram;

/* Reads e820 and copies the command line: boot_params is not looked at again. */
void ram_init(const uint8_t *boot_params);
const char *ram_command_line(void);

uint64_t ram_end(void); /* the first gpa past all RAM */
uint64_t ram_free_pages(void);

/* Page-aligned memory, never given back. Ends the run with a BAD line when there is none. */
void *ram_alloc(uint64_t size);

#endif
