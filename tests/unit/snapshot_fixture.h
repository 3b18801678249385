/* snapshot_fixture.h - machines, memories and directories for tests of snapshots.
 *
 * All of it is made from a seed, so that a failing case can be run again. Fixtures abort the test
 * program when the system refuses what they need: without them there is nothing to test. */
#ifndef STASIS_TESTS_SNAPSHOT_FIXTURE_H
#define STASIS_TESTS_SNAPSHOT_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/machine.h>
#include <stasis/memory.h>

#define FIXTURE_PATH_SIZE 256

/* A small generator of its own (splitmix64): the same numbers on every libc. */
uint64_t fixture_random(uint64_t *state);

/* An empty directory of the test's own, and a path in it; fixture_dir_remove() also removes files. */
struct fixture_dir {
    char path[FIXTURE_PATH_SIZE];
};
void fixture_dir_make(struct fixture_dir *dir);
void fixture_dir_remove(struct fixture_dir *dir);
/* Static storage, overwritten by the fourth call after. */
const char *fixture_path(const struct fixture_dir *dir, const char *name);
/* Entries in the directory, "." and ".." not counted, names beginning with a dot counted. */
unsigned fixture_dir_count(const struct fixture_dir *dir);

/* A machine that stasis_machine_check() accepts; release with stasis_machine_release(). */
void fixture_x86_machine(struct stasis_machine *machine, unsigned vcpu_count, uint64_t seed);
void fixture_arm64_machine(struct stasis_machine *machine, unsigned vcpu_count, uint64_t seed);

/* Regions mapped in this process; give back with stasis_memory_unmap(). `zero_percent` of the pages,
 * in runs of random length, are left zero. */
struct fixture_region {
    uint64_t gpa;
    uint64_t size; /* bytes */
};
void fixture_memory(struct stasis_memory *memory, const struct fixture_region *regions,
                    size_t region_count, unsigned zero_percent, uint64_t seed);

/* Up to `region_max` regions of up to `size_max` bytes each, at random places. */
void fixture_random_memory(struct stasis_memory *memory, size_t region_max, uint64_t size_max,
                           uint64_t seed);

bool fixture_memory_equal(const struct stasis_memory *a, const struct stasis_memory *b);
bool fixture_machine_equal(const struct stasis_machine *a, const struct stasis_machine *b);

/* Pages that hold something, counted one byte at a time. */
uint64_t fixture_data_pages(const struct stasis_memory *memory);

#endif
