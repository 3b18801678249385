/* tracker_bitmap.h - the fault control of the bitmap tracker, with the time as an argument: for
 * tests. */
#ifndef STASIS_MEMORY_TRACKER_BITMAP_H
#define STASIS_MEMORY_TRACKER_BITMAP_H

#include <stdint.h>

#include <stasis/dirty.h>

/* stasis_tracker_fault() at this time of a monotonic clock. */
int tracker_fault_at(struct stasis_tracker *tracker, uint64_t gpa, uint64_t now_ms);

#endif
