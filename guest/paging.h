/*
 * paging.h - our own page tables: everything one to one.
 */
#ifndef GUEST_PAGING_H
#define GUEST_PAGING_H

#include <stdint.h>

/* vCPU 0: maps the first 4 GiB and all RAM above, and switches to that map. */
void paging_init(void);

/* What goes into CR3; below 4 GiB. */
uint32_t paging_root(void);

#endif
