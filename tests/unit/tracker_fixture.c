/*
 * tracker_fixture.c - see tracker_fixture.h.
 */
#include "tracker_fixture.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "unit.h"

#define PAGE ((uint64_t)STASIS_PAGE_SIZE)
#define MIB (UINT64_C(1024) * 1024)

/* --- memory --------------------------------------------------------------------------------- */

static int data_file(uint64_t size)
{
    const int fd = memfd_create("fixture", MFD_CLOEXEC);
    uint8_t byte = 0x5a;

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    for (uint64_t off = 2048; off < size; off += 3 * PAGE)
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)off), 1);
    return fd;
}

static void *map_region(enum fixture_kind kind, uint64_t size)
{
    const int protection = PROT_READ | PROT_WRITE;
    void *hva = MAP_FAILED;
    int fd;

    switch (kind) {
    case FIXTURE_ANONYMOUS: return mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    case FIXTURE_HUGETLB:
        return mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    case FIXTURE_SHARED:
    case FIXTURE_PRIVATE_FILE:
        fd = data_file(size);
        hva =
            mmap(NULL, size, protection, kind == FIXTURE_SHARED ? MAP_SHARED : MAP_PRIVATE, fd, 0);
        close(fd);
        return hva;
    }
    return MAP_FAILED;
}

static void lay_out(struct fixture *fixture, enum fixture_kind kind, uint64_t page_count)
{
    struct stasis_region *regions = fixture->regions;

    if (kind == FIXTURE_HUGETLB) {
        regions[0] = (struct stasis_region){ .gpa = 0, .size = 2 * MIB };
        regions[1] = (struct stasis_region){ .gpa = 8 * MIB, .size = 2 * MIB };
        regions[2] = (struct stasis_region){ .gpa = 10 * MIB, .size = 4 * MIB };
        return;
    }
    regions[0] = (struct stasis_region){ .gpa = 0, .size = 37 * PAGE };
    regions[1] = (struct stasis_region){ .gpa = 256 * PAGE, .size = (page_count / 3) * PAGE };
    regions[2] = (struct stasis_region){ .gpa = UINT64_C(1) << 32,
                                         .size = (page_count - page_count / 3 - 37) * PAGE };
}

void fixture_open(struct fixture *fixture, enum fixture_kind kind, uint64_t page_count)
{
    struct stasis_error err = { 0 };

    memset(fixture, 0, sizeof(*fixture));
    fixture->random_state = UINT64_C(0x2545f4914f6cdd1d);
    lay_out(fixture, kind, page_count);
    for (size_t i = 0; i < 3; i++) {
        void *hva = map_region(kind, fixture->regions[i].size);

        if (hva == MAP_FAILED && kind == FIXTURE_HUGETLB) {
            fixture_close(fixture);
            unit_skip("no huge pages of 2 MiB: %s", strerror(errno));
        }
        assert_ptr_not_equal(hva, MAP_FAILED);
        fixture->regions[i].hva = hva;
    }
    fixture->memory = (struct stasis_memory){ .regions = fixture->regions, .region_count = 3 };
    assert_stasis_ok(stasis_memory_check(&fixture->memory, &err), &err);
    fixture->page_count = stasis_memory_size(&fixture->memory) / PAGE;
    fixture->shadow = calloc(fixture->page_count * FIXTURE_WRITERS, sizeof(*fixture->shadow));
    assert_non_null(fixture->shadow);
    assert_stasis_ok(stasis_page_set_init(&fixture->written, fixture->page_count, &err), &err);
    assert_stasis_ok(stasis_page_set_init(&fixture->set, fixture->page_count, &err), &err);
}

void fixture_close(struct fixture *fixture)
{
    for (size_t i = 0; i < 3; i++) {
        if (fixture->regions[i].hva)
            munmap(fixture->regions[i].hva, fixture->regions[i].size);
    }
    free(fixture->shadow);
    stasis_page_set_release(&fixture->written);
    stasis_page_set_release(&fixture->set);
    memset(fixture, 0, sizeof(*fixture));
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

uint64_t fixture_random(struct fixture *fixture, uint64_t limit)
{
    return next_random(&fixture->random_state) % limit;
}

static size_t region_of(const struct fixture *fixture, uint64_t *page)
{
    size_t i = 0;

    while (*page >= fixture->regions[i].size / PAGE)
        *page -= fixture->regions[i++].size / PAGE;
    return i;
}

uint64_t fixture_gpa(const struct fixture *fixture, uint64_t page)
{
    const size_t i = region_of(fixture, &page);

    return fixture->regions[i].gpa + page * PAGE;
}

uint64_t *fixture_word(const struct fixture *fixture, uint64_t page, unsigned writer)
{
    const size_t i = region_of(fixture, &page);
    uint8_t *hva = (uint8_t *)fixture->regions[i].hva + page * PAGE;

    return (uint64_t *)(void *)(hva + 1024) + writer;
}

static void count_up(uint64_t *word)
{
    __atomic_store_n(word, __atomic_load_n(word, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
}

void fixture_write(struct fixture *fixture, uint64_t page)
{
    count_up(fixture_word(fixture, page, 0));
    stasis_page_set_add(&fixture->written, page, 1);
}

void fixture_harvest(struct fixture *fixture, struct stasis_tracker *tracker)
{
    struct stasis_error err = { 0 };

    stasis_page_set_clear(&fixture->set);
    assert_stasis_ok(stasis_tracker_harvest(tracker, &fixture->set, &err), &err);
}

void fixture_expect_written(struct fixture *fixture)
{
    for (uint64_t page = 0; page < fixture->page_count; page++) {
        const bool told = stasis_page_set_test(&fixture->set, page);

        if (told != stasis_page_set_test(&fixture->written, page))
            fail_msg("page %ju was %s and %s", (uintmax_t)page, told ? "told" : "not told",
                     told ? "not written" : "written");
    }
    stasis_page_set_clear(&fixture->set);
    stasis_page_set_clear(&fixture->written);
}

/* --- writers -------------------------------------------------------------------------------- */

#define LOG_SIZE 1024 /* entries */

struct log_entry { /* a complete write */
    uint64_t page;
    uint64_t value;
};

struct writer {
    pthread_t thread;
    const struct fixture *fixture;
    const struct fixture_race *race;
    unsigned index;
    uint64_t random_state;
    uint64_t writes;
    struct log_entry log[LOG_SIZE]; /* entry n in log[n % LOG_SIZE] */
    atomic_uint_fast64_t logged;    /* entries written so far */
    atomic_uint_fast64_t checked;   /* and done with; never LOG_SIZE behind */
    uint64_t logged_before;         /* entries when the harvest began; the harvester's */
    atomic_uint *running;
};

static struct writer writers[FIXTURE_WRITERS];

/* Most writes go to a few busy pages, the rest anywhere. */
static uint64_t pick_page(struct writer *writer)
{
    const uint64_t random = next_random(&writer->random_state) >> 8;
    const uint64_t page_count = writer->fixture->page_count;

    return random % 4 != 0 ? (random >> 8) % (page_count / 8 + 1) : (random >> 8) % page_count;
}

static void log_write(struct writer *writer, uint64_t page, uint64_t value)
{
    const uint64_t n = atomic_load(&writer->logged);

    while (n - atomic_load(&writer->checked) >= LOG_SIZE)
        sched_yield();
    writer->log[n % LOG_SIZE] = (struct log_entry){ .page = page, .value = value };
    atomic_store(&writer->logged, n + 1);
}

static void *write_pages(void *arg)
{
    struct writer *writer = arg;
    const struct fixture_race *race = writer->race;
    const uint64_t enough = race->write_count / FIXTURE_WRITERS;

    while (writer->writes < enough) {
        const uint64_t page = pick_page(writer);
        uint64_t *word = fixture_word(writer->fixture, page, writer->index);

        count_up(word);
        if (race->mark)
            (void)stasis_tracker_mark(race->tracker, fixture_gpa(writer->fixture, page) + 1024, 64);
        log_write(writer, page, __atomic_load_n(word, __ATOMIC_RELAXED));
        writer->writes++;
    }
    atomic_fetch_sub(writer->running, 1);
    return NULL;
}

/* Bring the copy up to date from the pages of a harvest. Returns how many were as before. */
static uint64_t copy_pages(struct fixture *fixture, uint64_t *ret_pages)
{
    uint64_t first, count, unchanged = 0;

    for (uint64_t at = 0; stasis_page_set_next_run(&fixture->set, at, &first, &count);
         at = first + count) {
        for (uint64_t page = first; page < first + count; page++) {
            bool changed = false;

            for (unsigned i = 0; i < FIXTURE_WRITERS; i++) {
                uint64_t *kept = &fixture->shadow[page * FIXTURE_WRITERS + i];
                const uint64_t now =
                    __atomic_load_n(fixture_word(fixture, page, i), __ATOMIC_RELAXED);

                changed = changed || *kept != now;
                *kept = now;
            }
            unchanged += !changed;
        }
        *ret_pages += count;
    }
    return unchanged;
}

/* Every write that was logged before the harvest began is in the copy. */
static void check_log(struct fixture *fixture, struct writer *writer)
{
    for (uint64_t n = atomic_load(&writer->checked); n < writer->logged_before; n++) {
        const struct log_entry *entry = &writer->log[n % LOG_SIZE];

        if (fixture->shadow[entry->page * FIXTURE_WRITERS + writer->index] < entry->value)
            fail_msg("write %ju to page %ju was complete before a harvest, and in none",
                     (uintmax_t)entry->value, (uintmax_t)entry->page);
        stasis_page_set_add(&fixture->written, entry->page, 1);
    }
    atomic_store(&writer->checked, writer->logged_before);
}

static void harvest_once(struct fixture *fixture, const struct fixture_race *race,
                         bool may_give_back, struct fixture_tally *tally)
{
    struct stasis_error err = { 0 };

    for (unsigned i = 0; i < FIXTURE_WRITERS; i++)
        writers[i].logged_before = atomic_load(&writers[i].logged);
    fixture_harvest(fixture, race->tracker);
    tally->harvests++;
    if (may_give_back && fixture_random(fixture, 4) == 0) {
        assert_stasis_ok(stasis_tracker_give_back(race->tracker, &fixture->set, &err), &err);
        tally->given_back++;
        return;
    }
    tally->pages_unchanged += copy_pages(fixture, &tally->pages_told);
    for (unsigned i = 0; i < FIXTURE_WRITERS; i++)
        check_log(fixture, &writers[i]);
}

/* Writes in the logs; at most LOG_SIZE of one writer, who then waits. */
static uint64_t not_checked(void)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < FIXTURE_WRITERS; i++)
        count += atomic_load(&writers[i].logged) - atomic_load(&writers[i].checked);
    return count;
}

static void check_copy(const struct fixture *fixture)
{
    for (uint64_t page = 0; page < fixture->page_count; page++) {
        for (unsigned i = 0; i < FIXTURE_WRITERS; i++) {
            if (fixture->shadow[page * FIXTURE_WRITERS + i] != *fixture_word(fixture, page, i))
                fail_msg("a write to page %ju by writer %u is in no harvest", (uintmax_t)page, i);
        }
    }
}

/* What was there before is in the copy already. */
static void take_copy(struct fixture *fixture)
{
    uint64_t pages = 0;

    stasis_page_set_clear(&fixture->set);
    stasis_page_set_add(&fixture->set, 0, fixture->page_count);
    (void)copy_pages(fixture, &pages);
}

struct fixture_tally fixture_race(struct fixture *fixture, const struct fixture_race *race)
{
    struct fixture_tally tally = { 0 };
    atomic_uint running = FIXTURE_WRITERS;
    uint64_t writes = 0;

    assert_true(race->write_count_between <= LOG_SIZE);
    take_copy(fixture);
    for (unsigned i = 0; i < FIXTURE_WRITERS; i++) {
        writers[i] = (struct writer){
            .fixture = fixture, .race = race, .index = i, .random_state = i + 1, .running = &running
        };
    }
    for (unsigned i = 0; i < FIXTURE_WRITERS; i++)
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_pages, &writers[i]), 0);
    while (atomic_load(&running) > 0) {
        if (atomic_load(&running) == FIXTURE_WRITERS && not_checked() < race->write_count_between) {
            sched_yield();
            continue;
        }
        harvest_once(fixture, race, true, &tally);
    }
    for (unsigned i = 0; i < FIXTURE_WRITERS; i++) {
        pthread_join(writers[i].thread, NULL);
        writes += writers[i].writes;
    }
    harvest_once(fixture, race, false, &tally);
    check_copy(fixture);
    print_message("# %ju writes, %ju harvests (%ju given back), %ju pages told, %ju of them "
                  "as before\n",
                  (uintmax_t)writes, (uintmax_t)tally.harvests, (uintmax_t)tally.given_back,
                  (uintmax_t)tally.pages_told, (uintmax_t)tally.pages_unchanged);
    return tally;
}
