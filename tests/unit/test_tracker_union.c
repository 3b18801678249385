/* Goal:   a union tells what any of its parts saw, loses nothing when a part fails, and owns its
 * parts. Method: bitmaps as parts, one of them with a protection that can be made to fail; threads
 *         that mark through the union and through a part while both are harvested. */
#include "unit.h"

#include <errno.h>
#include <string.h>

#include <stasis/dirty.h>

#include "tracker_fixture.h"

#define PAGES 3000
#define PAGE ((uint64_t)STASIS_PAGE_SIZE)
#define RACE_WRITES 10000000

static struct fixture fixture;
static struct stasis_tracker *parts[STASIS_UNION_MAX + 1], *tracker;
static struct stasis_error err;
static bool protection_fails;

static int protect(void *arg, uint64_t gpa, uint64_t size, uint64_t granule)
{
    (void)arg;
    (void)gpa;
    (void)size;
    (void)granule;
    return protection_fails ? -EIO : 0;
}

static int grant(void *arg, uint64_t gpa, uint64_t size)
{
    (void)arg;
    (void)gpa;
    (void)size;
    return 0;
}

static const struct stasis_fault_options may_fail = { .protect = protect, .grant = grant };

static int setup(void **state)
{
    (void)state;
    memset(&err, 0, sizeof(err));
    protection_fails = false;
    fixture_open(&fixture, FIXTURE_ANONYMOUS, PAGES);
    assert_stasis_ok(stasis_tracker_open_bitmap(&fixture.memory, NULL, &parts[0], &err), &err);
    assert_stasis_ok(stasis_tracker_open_bitmap(&fixture.memory, &may_fail, &parts[1], &err), &err);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    stasis_tracker_close(tracker);
    for (size_t i = 0; i < STASIS_UNION_MAX + 1; i++) {
        if (!tracker)
            stasis_tracker_close(parts[i]);
        parts[i] = NULL;
    }
    tracker = NULL;
    fixture_close(&fixture);
    return 0;
}

static void open_armed(void)
{
    assert_stasis_ok(stasis_tracker_open_union(parts, 2, &tracker, &err), &err);
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
}

static void mark(struct stasis_tracker *part, uint64_t page)
{
    assert_int_equal(stasis_tracker_mark(part, page * PAGE, 1), 0);
    stasis_page_set_add(&fixture.written, page, 1);
}

static void pages_of_every_part_are_told_once(void **state)
{
    (void)state;
    open_armed();
    mark(parts[0], 3);
    mark(parts[1], 3);
    mark(parts[1], 9);
    mark(tracker, 12);
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture);
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture);
}

static void a_part_that_fails_costs_no_page_of_the_others(void **state)
{
    (void)state;
    open_armed();
    mark(parts[0], 3);
    mark(parts[1], 9);
    protection_fails = true;
    assert_stasis_fails(stasis_tracker_harvest(tracker, &fixture.set, &err), &err, STASIS_ERR_IO);
    assert_true(stasis_page_set_count(&fixture.set) == 0);
    protection_fails = false;
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture);
}

static void a_part_that_cannot_be_armed_leaves_the_union_unarmed(void **state)
{
    (void)state;
    assert_stasis_ok(stasis_tracker_open_union(parts, 2, &tracker, &err), &err);
    protection_fails = true;
    assert_stasis_fails(stasis_tracker_arm(tracker, &err), &err, STASIS_ERR_IO);
    assert_stasis_fails(stasis_tracker_harvest(tracker, &fixture.set, &err), &err,
                        STASIS_ERR_WRONG_STATE);
}

static void pages_given_back_come_again(void **state)
{
    (void)state;
    open_armed();
    mark(parts[0], 3);
    fixture_harvest(&fixture, tracker);
    assert_stasis_ok(stasis_tracker_give_back(tracker, &fixture.set, &err), &err);
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture);
}

static void no_mark_through_a_union_is_missed_in_ten_million(void **state)
{
    (void)state;
    open_armed();
    assert_true(fixture_race(&fixture, &(struct fixture_race){ .tracker = tracker,
                                                               .mark = true,
                                                               .write_count = RACE_WRITES,
                                                               .write_count_between = 64 })
                    .given_back > 0);
}

static void a_union_of_unions_takes_marks_too(void **state)
{
    struct stasis_tracker *inner;

    (void)state;
    assert_stasis_ok(stasis_tracker_open_union(parts, 1, &inner, &err), &err);
    parts[0] = inner;
    open_armed();
    mark(tracker, 5);
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture);
}

static void none_too_many_the_same_twice_and_other_memories_are_refused(void **state)
{
    struct stasis_tracker *twice[] = { parts[0], parts[1], parts[0] };
    struct stasis_memory other = fixture.memory;
    struct stasis_tracker *mixed[] = { parts[0], NULL };

    (void)state;
    other.region_count = 2;
    assert_stasis_ok(stasis_tracker_open_bitmap(&other, NULL, &parts[2], &err), &err);
    mixed[1] = parts[2];
    assert_stasis_fails(stasis_tracker_open_union(parts, 0, &tracker, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(stasis_tracker_open_union(parts, STASIS_UNION_MAX + 1, &tracker, &err),
                        &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(stasis_tracker_open_union(twice, 3, &tracker, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(stasis_tracker_open_union(mixed, 2, &tracker, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    other.region_count = 3;
    fixture.regions[1].gpa += PAGE; /* as large, but elsewhere */
    assert_stasis_ok(stasis_tracker_open_bitmap(&other, NULL, &parts[3], &err), &err);
    mixed[1] = parts[3];
    assert_stasis_fails(stasis_tracker_open_union(mixed, 2, &tracker, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    assert_null(tracker);
}

#define union_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        union_test(pages_of_every_part_are_told_once),
        union_test(a_part_that_fails_costs_no_page_of_the_others),
        union_test(a_part_that_cannot_be_armed_leaves_the_union_unarmed),
        union_test(pages_given_back_come_again),
        union_test(no_mark_through_a_union_is_missed_in_ten_million),
        union_test(a_union_of_unions_takes_marks_too),
        union_test(none_too_many_the_same_twice_and_other_memories_are_refused),
    };

    return unit_run(tests);
}
