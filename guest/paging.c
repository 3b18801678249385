/*
 * paging.c - our own page tables: everything one to one, in 2 MiB pages.
 *
 * Larger pages would need a CPUID feature that not every machine has. The gigabyte under 4 GiB
 * holds devices and is mapped uncached. Table memory comes from ram_alloc(), which takes it from
 * the lowest RAM, so that the root fits an application processor's 32-bit move to CR3.
 */
#include "paging.h"

#include "cpu.h"
#include "ram.h"

#define ENTRIES 512u
#define GIB (UINT64_C(1) << 30)
#define PAGE_PRESENT 0x1u
#define PAGE_WRITABLE 0x2u
#define PAGE_UNCACHED 0x18u /* PCD, PWT: PAT entry 3 */
#define PAGE_LARGE 0x80u
#define TABLE_FLAGS (PAGE_PRESENT | PAGE_WRITABLE)

static uint64_t *root;

static uint64_t *new_table(void)
{
    uint64_t *table = ram_alloc(PAGE_SIZE);

    for (unsigned i = 0; i < ENTRIES; i++)
        table[i] = 0;
    return table;
}

static void map_gib(uint64_t *directory, uint64_t gpa)
{
    const uint64_t device = gpa == 3 * GIB ? PAGE_UNCACHED : 0;

    for (unsigned i = 0; i < ENTRIES; i++)
        directory[i] = (gpa + ((uint64_t)i << 21)) | TABLE_FLAGS | PAGE_LARGE | device;
}

void paging_init(void)
{
    const uint64_t end = ram_end() > 4 * GIB ? ram_end() : 4 * GIB;
    uint64_t *pointers = 0;

    root = new_table();
    for (uint64_t gpa = 0; gpa < end; gpa += GIB) {
        const uint64_t index = gpa / GIB;
        uint64_t *directory = ram_alloc(PAGE_SIZE);

        if (index % ENTRIES == 0) {
            pointers = new_table();
            root[index / ENTRIES] = (uint64_t)pointers | TABLE_FLAGS;
        }
        map_gib(directory, gpa);
        pointers[index % ENTRIES] = (uint64_t)directory | TABLE_FLAGS;
    }
    __asm__ volatile("mov %0, %%cr3" : : "r"(root) : "memory");
}

uint32_t paging_root(void)
{
    return (uint32_t)(uint64_t)root;
}
