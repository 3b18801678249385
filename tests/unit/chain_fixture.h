/* chain_fixture.h - chains of snapshots of a guest that changes, with what its memory was each time.
 *
 * The guest is this process's own memory, changed page by page from a seed; the oracle is a full copy of
 * it after each step. */
#ifndef STASIS_TESTS_CHAIN_FIXTURE_H
#define STASIS_TESTS_CHAIN_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/dirty.h>
#include <stasis/machine.h>
#include <stasis/memory.h>
#include <stasis/snapshot.h>

#include "snapshot_fixture.h"

struct chain_guest {
    struct stasis_machine machine;
    struct stasis_memory memory;
    struct stasis_page_set changed; /* since the last save */
    uint64_t page_count;
    uint64_t random;
};

/* Up to `region_max` regions of up to `size_max` bytes each. */
void chain_guest_make(struct chain_guest *guest, size_t region_max, uint64_t size_max,
                      uint64_t seed);
void chain_guest_release(struct chain_guest *guest);

/* A page of the guest by its linear number. */
uint8_t *chain_guest_page(const struct chain_guest *guest, uint64_t page);

/* Change runs of pages, `percent` of all or thereabouts, at least one: new data, other data, zeros,
 * zeros again, or marked as changed and left as they were. */
void chain_guest_change(struct chain_guest *guest, unsigned percent);

/* What the guest's memory is now, in a new mapping. */
void chain_guest_copy(const struct chain_guest *guest, struct stasis_memory *ret_copy);

/* Save the guest: a diff on `parent_path`, or a full snapshot when that is NULL. Aborts on failure. */
void chain_guest_save(struct chain_guest *guest, const char *path, const char *parent_path,
                      struct stasis_save_options *options, struct stasis_save_report *ret_report);

/* "d007.stasis" in the directory; static storage as fixture_path(). */
const char *chain_path(const struct fixture_dir *dir, unsigned depth);

/* The file opens, verifies and restores to this memory; fails the test otherwise. */
void chain_expect_memory(const char *path, const struct stasis_memory *expected);

#endif
