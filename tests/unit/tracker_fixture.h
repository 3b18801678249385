/* tracker_fixture.h - memory that threads write to while a tracker is harvested, and the oracle
 * for it.
 *
 * Each writer has a word of its own on every page, counts it up, and logs each write when it is
 * complete. The oracle keeps a copy of all words, brought up to date from nothing but harvested
 * pages: after each harvest the copy must have every write that was logged before it, and in the
 * end be what memory is. Logs are short and writers wait for them, so that hardly a lost write is
 * hidden by the next one. Words are atomic, so that the sanitizer for threads sees what the
 * trackers do, and not these races. */
#ifndef STASIS_TESTS_TRACKER_FIXTURE_H
#define STASIS_TESTS_TRACKER_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/dirty.h>

#define FIXTURE_WRITERS 4

enum fixture_kind {
    FIXTURE_ANONYMOUS,    /* private anonymous */
    FIXTURE_SHARED,       /* a memfd, shared */
    FIXTURE_PRIVATE_FILE, /* a memfd with data, private: as restore maps memory */
    FIXTURE_HUGETLB, /* private anonymous, 2 MiB pages; fixture_open() skips where there are none */
};

struct fixture {
    struct stasis_region regions[3]; /* with a hole between them, the first below 1 MiB */
    struct stasis_memory memory;
    uint64_t page_count;
    uint64_t *shadow;               /* FIXTURE_WRITERS words for each page */
    struct stasis_page_set written; /* by the writers' own log, in all */
    struct stasis_page_set set;     /* for harvests */
    uint64_t random_state;
};

/* About `page_count` pages; whole 2 MiB regions for hugetlb. To be closed, also half-open. */
void fixture_open(struct fixture *fixture, enum fixture_kind kind, uint64_t page_count);
void fixture_close(struct fixture *fixture);

uint64_t fixture_random(struct fixture *fixture, uint64_t limit);
uint64_t fixture_gpa(const struct fixture *fixture, uint64_t page);
/* A writer's word of a page. */
uint64_t *fixture_word(const struct fixture *fixture, uint64_t page, unsigned writer);
/* Count it up, and note that in `written`. For one thread. */
void fixture_write(struct fixture *fixture, uint64_t page);

/* One harvest into a cleared `set`. */
void fixture_harvest(struct fixture *fixture, struct stasis_tracker *tracker);
/* The set is exactly what was written since the last call of this, and is empty again. */
void fixture_expect_written(struct fixture *fixture);

struct fixture_race {
    struct stasis_tracker *tracker;
    bool mark;            /* writers tell each write to the tracker */
    uint64_t write_count; /* of all writers together */
    uint64_t
        write_count_between; /* harvests wait for about so many writes; fewer hide fewer losses */
};

struct fixture_tally {
    uint64_t harvests, given_back;
    uint64_t pages_told;      /* by harvests that were not given back */
    uint64_t pages_unchanged; /* of them, pages that were as before: told, but not written */
};

/* Writers write at random while this thread harvests and now and then gives back. Fails the test
 * when a write is missing from a harvest that it should be in. Prints the tally. */
struct fixture_tally fixture_race(struct fixture *fixture, const struct fixture_race *race);

#endif
