/*
 * known_values.h - register values that only a correct save and restore keeps.
 *
 * Loaded once at boot on every processor, different on each; compared at every count, never
 * written again.
 */
#ifndef GUEST_KNOWN_VALUES_H
#define GUEST_KNOWN_VALUES_H

#include <stdint.h>

void known_values_load(uint64_t seed);

/* Sets the processor's sse_ok, x87_ok, msr_ok and dr_ok, with a BAD line for each difference. */
void known_values_check(void);

/* How many MSRs of the list this machine keeps, on the calling processor. */
uint32_t known_values_msr_count(void);

#endif
