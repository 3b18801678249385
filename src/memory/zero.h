/* zero.h - is this memory all zero? Asked of every page of a guest, so it runs at memory speed.
 *
 * Pure functions of their input: any thread, any alignment, nothing allocated. */
#ifndef STASIS_MEMORY_ZERO_H
#define STASIS_MEMORY_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True when all `size` bytes are zero, and for size 0. Uses the widest vectors the CPU has. */
bool zero_bytes(const void *data, size_t size);

/* The same without vector intrinsics: what zero_bytes() falls back to, and its test's oracle. */
bool zero_bytes_portable(const void *data, size_t size);

/* Every way that zero_bytes() can go, best first; the last is always there. For tests and benchmarks. */
struct zero_variant {
    const char *name;
    bool (*available)(void); /* on this CPU */
    bool (*zero)(const void *data, size_t size);
};
extern const struct zero_variant zero_variants[];
extern const size_t zero_variant_count;

#define ZERO_MAP_PAGES 64

/* Bit i is set when page i of `data` holds something; page_count is at most ZERO_MAP_PAGES. */
uint64_t zero_data_page_map(const void *data, size_t page_count);

#endif
