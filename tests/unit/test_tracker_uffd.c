/* Goal:   asynchronous write protection tells every page that this process wrote, by whatever
 * means and in
 *         whatever kind of mapping, and no page that was only read.
 * Method: pages written and read by hand, exactly compared; threads that write while harvests run.
 * */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stasis/dirty.h>

#include "memory/tracker.h"
#include "tracker_fixture.h"

#define PAGES 3000
#define RACE_WRITES 10000000

static struct fixture fixture;
static struct stasis_tracker *tracker;

static int teardown(void **state)
{
    (void)state;
    stasis_tracker_close(tracker);
    tracker = NULL;
    fixture_close(&fixture);
    return 0;
}

/* Skips where the kernel has it not; every other failure is one. */
static void open_tracker(enum fixture_kind kind, uint64_t page_count)
{
    struct stasis_error err = { 0 };
    int r;

    fixture_open(&fixture, kind, page_count);
    r = stasis_tracker_open_uffd(&fixture.memory, &tracker, &err);
    if (r < 0 && (err.code == STASIS_ERR_UNSUPPORTED || err.code == STASIS_ERR_PERMISSION))
        unit_skip("%s", err.text);
    assert_stasis_ok(r, &err);
}

static void arm(void)
{
    struct stasis_error err = { 0 };

    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
}

static volatile uint64_t sink;

static void read_some_pages(void)
{
    for (int i = 0; i < 300; i++)
        sink += *fixture_word(&fixture, fixture_random(&fixture, fixture.page_count), 0);
}

/* Some memory touched before, some never: neither may matter. */
static void check_exact(enum fixture_kind kind)
{
    open_tracker(kind, PAGES);
    for (int i = 0; i < 500; i++)
        fixture_write(&fixture, fixture_random(&fixture, fixture.page_count));
    read_some_pages();
    arm();
    stasis_page_set_clear(&fixture.written);
    for (int epoch = 0; epoch < 20; epoch++) {
        for (int i = 0; i < epoch * 10; i++)
            fixture_write(&fixture, fixture_random(&fixture, fixture.page_count));
        read_some_pages();
        fixture_harvest(&fixture, tracker);
        fixture_expect_written(&fixture);
    }
}

static void anonymous_memory_tells_exactly_what_was_written(void **state)
{
    (void)state;
    check_exact(FIXTURE_ANONYMOUS);
}

static void shared_memory_tells_exactly_what_was_written(void **state)
{
    (void)state;
    check_exact(FIXTURE_SHARED);
}

static void private_file_mappings_tell_exactly_what_was_written(void **state)
{
    (void)state;
    check_exact(FIXTURE_PRIVATE_FILE);
}

/* Whole huge pages are told: the unit in which they are protected. */
static void huge_pages_are_told_whole(void **state)
{
    const uint64_t pages = 512;

    (void)state;
    open_tracker(FIXTURE_HUGETLB, 0);
    arm();
    fixture_harvest(&fixture, tracker);
    assert_true(stasis_page_set_count(&fixture.set) == 0);
    fixture_write(&fixture, pages + 7);
    fixture_harvest(&fixture, tracker);
    assert_true(stasis_page_set_count(&fixture.set) == pages);
    for (uint64_t page = pages; page < 2 * pages; page++)
        assert_true(stasis_page_set_test(&fixture.set, page));
}

static void transparent_huge_pages_lose_no_write(void **state)
{
    (void)state;
    open_tracker(FIXTURE_ANONYMOUS, 8 * 512);
    for (size_t i = 0; i < 3; i++)
        (void)madvise(fixture.regions[i].hva, fixture.regions[i].size, MADV_HUGEPAGE);
    for (uint64_t page = 0; page < fixture.page_count; page++)
        fixture_write(&fixture, page);
    arm();
    fixture_harvest(&fixture, tracker);
    assert_true(stasis_page_set_count(&fixture.set) == 0);
    stasis_page_set_clear(&fixture.written);
    fixture_write(&fixture, 1500);
    fixture_write(&fixture, 2700);
    fixture_harvest(&fixture, tracker);
    assert_true(stasis_page_set_test(&fixture.set, 1500));
    assert_true(stasis_page_set_test(&fixture.set, 2700));
    fixture_harvest(&fixture, tracker);
    assert_true(stasis_page_set_count(&fixture.set) == 0);
}

static void what_the_kernel_writes_for_us_is_told(void **state)
{
    const int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

    (void)state;
    open_tracker(FIXTURE_ANONYMOUS, PAGES);
    arm();
    assert_int_equal(read(fd, fixture_word(&fixture, 100, 0), 8), 8);
    assert_int_equal(read(fd, fixture_word(&fixture, 2000, 0), 8), 8);
    close(fd);
    stasis_page_set_add(&fixture.written, 100, 1);
    stasis_page_set_add(&fixture.written, 2000, 1);
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture);
}

static void check_race(enum fixture_kind kind)
{
    struct fixture_tally tally;

    open_tracker(kind, PAGES);
    arm();
    tally = fixture_race(&fixture, &(struct fixture_race){ .tracker = tracker,
                                                           .write_count = RACE_WRITES,
                                                           .write_count_between = 1000 });
    assert_true(tally.given_back > 0);
}

static void no_write_to_anonymous_memory_is_missed_in_ten_million(void **state)
{
    (void)state;
    check_race(FIXTURE_ANONYMOUS);
}

static void no_write_to_a_private_file_mapping_is_missed_in_ten_million(void **state)
{
    (void)state;
    check_race(FIXTURE_PRIVATE_FILE);
}

static void closing_takes_the_protection_off(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    open_tracker(FIXTURE_ANONYMOUS, PAGES);
    arm();
    stasis_tracker_close(tracker);
    tracker = NULL;
    fixture_write(&fixture, 5);
    /* And another one can have the memory. */
    assert_stasis_ok(stasis_tracker_open_uffd(&fixture.memory, &tracker, &err), &err);
    arm();
    stasis_page_set_clear(&fixture.written);
    fixture_write(&fixture, 6);
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture);
}

static void memory_that_another_userfaultfd_has_is_busy(void **state)
{
    struct stasis_tracker *second = NULL;
    struct stasis_error err = { 0 };

    (void)state;
    open_tracker(FIXTURE_ANONYMOUS, PAGES);
    assert_stasis_fails(stasis_tracker_open_uffd(&fixture.memory, &second, &err), &err,
                        STASIS_ERR_BUSY);
    assert_null(second);
}

static void memory_that_is_not_mapped_is_refused(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    fixture_open(&fixture, FIXTURE_ANONYMOUS, PAGES);
    struct stasis_region regions[] = { fixture.regions[0], fixture.regions[1] };
    const struct stasis_memory memory = { .regions = regions, .region_count = 2 };

    regions[1].hva = NULL;
    assert_stasis_fails(stasis_tracker_open_uffd(&memory, &tracker, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "region 1"));
    regions[1].hva = fixture.regions[1].hva;
    regions[1].gpa = regions[0].gpa;
    assert_stasis_fails(stasis_tracker_open_uffd(&memory, &tracker, &err), &err,
                        STASIS_ERR_INVALID_MEMORY);
    assert_null(tracker);
}

/* Half of a region is mapped anew behind the tracker's back, and so is not registered any more. */
static void map_half_anew(const struct stasis_region *region)
{
    uint8_t *half = (uint8_t *)region->hva + region->size / 2 / STASIS_PAGE_SIZE * STASIS_PAGE_SIZE;
    const size_t size = region->size - (size_t)(half - (uint8_t *)region->hva);

    assert_ptr_equal(
        mmap(half, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
        half);
    half[0] = 1;
}

static void a_harvest_that_fails_makes_its_region_dirty(void **state)
{
    struct stasis_error err = { 0 };
    uint64_t page;

    (void)state;
    open_tracker(FIXTURE_ANONYMOUS, PAGES);
    arm();
    fixture_write(&fixture, 3);
    map_half_anew(&fixture.regions[2]);
    assert_stasis_fails(stasis_tracker_harvest(tracker, &fixture.set, &err), &err,
                        STASIS_ERR_PERMISSION);
    assert_true(stasis_page_set_count(&fixture.set) == 0);
    assert_true(stasis_page_set_test(&tracker->pending, 3));
    assert_false(stasis_page_set_test(&tracker->pending, 4));
    for (page = fixture.page_count - fixture.regions[2].size / STASIS_PAGE_SIZE;
         page < fixture.page_count; page++)
        assert_true(stasis_page_set_test(&tracker->pending, page));
}

#define uffd_test(name) cmocka_unit_test_teardown(name, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        uffd_test(anonymous_memory_tells_exactly_what_was_written),
        uffd_test(shared_memory_tells_exactly_what_was_written),
        uffd_test(private_file_mappings_tell_exactly_what_was_written),
        uffd_test(huge_pages_are_told_whole),
        uffd_test(transparent_huge_pages_lose_no_write),
        uffd_test(what_the_kernel_writes_for_us_is_told),
        uffd_test(no_write_to_anonymous_memory_is_missed_in_ten_million),
        uffd_test(no_write_to_a_private_file_mapping_is_missed_in_ten_million),
        uffd_test(closing_takes_the_protection_off),
        uffd_test(memory_that_another_userfaultfd_has_is_busy),
        uffd_test(memory_that_is_not_mapped_is_refused),
        uffd_test(a_harvest_that_fails_makes_its_region_dirty),
    };

    return unit_run(tests);
}
