/*
 * generator.h - memory that changes by rule, and the sums that prove it did.
 *
 * The region is a run of pages of RAM, numbered from 0, cut into one slice per processor. At every
 * count each processor writes and clears pages of its slice, chosen by a generator; what each page
 * must hold follows from the seed and a table of how often it was written, so every check compares
 * memory with something that was never read from it.
 */
#ifndef GUEST_GENERATOR_H
#define GUEST_GENERATOR_H

#include <stdbool.h>
#include <stdint.h>

#include "options.h"

/* vCPU 0, before the others: takes the region and its table from RAM. False, with a BAD line, when
 * the RAM is too small. */
bool generator_init(const struct options *options);

/* Every processor: fills its slice. */
void generator_fill(void);

/* Every processor: its part of count number `count` (1, 2, ...). True when all that was checked is
 * as it should be; else there is a BAD line. */
bool generator_count(uint64_t count);

/* The sum that the whole region must have now; no processor may be in generator_count(). */
uint64_t generator_sum(void);

uint64_t generator_mem_size(void);
uint64_t generator_fill_size(void);

#endif
