/* Goal:   comparison with a base tells exactly the pages that differ from it, and refining a set
 * drops
 *         exactly those that do not, for any number of threads and also when the base cannot be
 * read. Method: a base in a buffer; pages written with new and with the same bytes; a reader that
 * fails. */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <stasis/dirty.h>

#include "base/error.h"
#include "tracker_fixture.h"

#define PAGES 3000
#define PAGE ((uint64_t)STASIS_PAGE_SIZE)

struct base {
    uint8_t *bytes;
    uint64_t page_count;
    uint64_t fail_page; /* a read that has it fails */
};

static struct fixture fixture;
static struct stasis_tracker *tracker;
static struct stasis_error err;
static struct base base;

static int read_base(void *arg, uint64_t first_page, uint64_t page_count, void *buf,
                     struct stasis_error *ret_err)
{
    const struct base *from = arg;

    if (first_page + page_count > from->page_count)
        return stasis_fail(ret_err, STASIS_ERR_TRUNCATED, "beyond the base");
    if (from->fail_page >= first_page && from->fail_page - first_page < page_count)
        return stasis_fail(ret_err, STASIS_ERR_DIGEST_MISMATCH, "page is bad");
    memcpy(buf, from->bytes + first_page * PAGE, page_count * PAGE);
    return 0;
}

static uint8_t *page_bytes(uint64_t page)
{
    return (uint8_t *)fixture_word(&fixture, page, 0) - 1024;
}

/* The base becomes what memory is now. */
static void take_base(void)
{
    for (uint64_t page = 0; page < fixture.page_count; page++)
        memcpy(base.bytes + page * PAGE, page_bytes(page), PAGE);
}

static int setup(void **state)
{
    (void)state;
    memset(&err, 0, sizeof(err));
    fixture_open(&fixture, FIXTURE_PRIVATE_FILE, PAGES);
    base = (struct base){ .bytes = malloc(fixture.page_count * PAGE),
                          .page_count = fixture.page_count,
                          .fail_page = UINT64_MAX };
    if (!base.bytes)
        return -1;
    take_base();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    stasis_tracker_close(tracker);
    tracker = NULL;
    free(base.bytes);
    fixture_close(&fixture);
    return 0;
}

/* The first, the last or any byte of a page. */
static void change_page(uint64_t page)
{
    static const uint64_t offsets[] = { 0, PAGE - 1, 1234 };

    page_bytes(page)[offsets[page % 3]] ^= 0x80;
    stasis_page_set_add(&fixture.written, page, 1);
}

static void check_exact(unsigned thread_count)
{
    assert_stasis_ok(stasis_tracker_open_compare(&fixture.memory, read_base, &base, thread_count,
                                                 &tracker, &err),
                     &err);
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
    for (int epoch = 0; epoch < 4; epoch++) {
        for (int i = 0; i < epoch * 100; i++) {
            const uint64_t page = fixture_random(&fixture, fixture.page_count);

            if (!stasis_page_set_test(&fixture.written, page))
                change_page(page);
        }
        fixture_harvest(&fixture, tracker);
        fixture_expect_written(&fixture);
        take_base();
    }
    stasis_tracker_close(tracker);
    tracker = NULL;
}

static void comparison_tells_exactly_the_pages_that_differ(void **state)
{
    (void)state;
    check_exact(1);
    check_exact(2);
    check_exact(4);
    check_exact(7);
    check_exact(0);
    check_exact(1000);
}

static void a_base_that_cannot_be_read_fails_the_harvest_and_the_next_one_is_whole(void **state)
{
    (void)state;
    assert_stasis_ok(
        stasis_tracker_open_compare(&fixture.memory, read_base, &base, 2, &tracker, &err), &err);
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
    change_page(5);
    change_page(2900);
    base.fail_page = 2000;
    assert_stasis_fails(stasis_tracker_harvest(tracker, &fixture.set, &err), &err,
                        STASIS_ERR_DIGEST_MISMATCH);
    assert_non_null(strstr(err.text, "of the base"));
    assert_true(stasis_page_set_count(&fixture.set) == 0);
    base.fail_page = UINT64_MAX;
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture);
}

static void check_refine(unsigned thread_count)
{
    uint64_t dropped = 0, told;

    for (int i = 0; i < 400; i++) {
        const uint64_t page = fixture_random(&fixture, fixture.page_count);

        if (!stasis_page_set_test(&fixture.written, page))
            change_page(page);
    }
    stasis_page_set_union(&fixture.set, &fixture.written);
    for (int i = 0; i < 50; i++)
        stasis_page_set_add(&fixture.set, fixture_random(&fixture, fixture.page_count), 20);
    told = stasis_page_set_count(&fixture.set);
    assert_stasis_ok(stasis_dirty_refine(&fixture.set, &fixture.memory, read_base, &base,
                                         thread_count, &dropped, &err),
                     &err);
    assert_true(dropped == told - stasis_page_set_count(&fixture.written));
    assert_true(dropped > 100);
    fixture_expect_written(&fixture);
    take_base();
}

static void refining_drops_and_counts_exactly_the_pages_that_equal_the_base(void **state)
{
    (void)state;
    check_refine(1);
    check_refine(3);
    check_refine(0);
}

static void refining_drops_no_changed_page_when_the_base_cannot_be_read(void **state)
{
    uint64_t dropped = 4711;

    (void)state;
    change_page(10);
    change_page(2990);
    stasis_page_set_add(&fixture.set, 0, fixture.page_count);
    base.fail_page = 1500;
    assert_stasis_fails(
        stasis_dirty_refine(&fixture.set, &fixture.memory, read_base, &base, 2, &dropped, &err),
        &err, STASIS_ERR_DIGEST_MISMATCH);
    assert_int_equal(dropped, 4711);
    assert_true(stasis_page_set_test(&fixture.set, 10));
    assert_true(stasis_page_set_test(&fixture.set, 1500));
    assert_true(stasis_page_set_test(&fixture.set, 2990));
}

/* Pages that are not in the set are not of interest: they are not read, and do not get into it. */
static void refining_looks_at_pages_of_the_set_only(void **state)
{
    (void)state;
    change_page(10);
    change_page(500);
    base.fail_page = 500;
    stasis_page_set_add(&fixture.set, 10, 1);
    assert_stasis_ok(
        stasis_dirty_refine(&fixture.set, &fixture.memory, read_base, &base, 1, NULL, &err), &err);
    assert_true(stasis_page_set_count(&fixture.set) == 1);
}

static void wrong_arguments_are_refused(void **state)
{
    struct stasis_region regions[] = { fixture.regions[0] };
    struct stasis_memory unmapped = { .regions = regions, .region_count = 1 };

    (void)state;
    regions[0].hva = NULL;
    assert_stasis_fails(stasis_tracker_open_compare(&fixture.memory, NULL, NULL, 1, &tracker, &err),
                        &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(stasis_tracker_open_compare(&unmapped, read_base, &base, 1, &tracker, &err),
                        &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(
        stasis_dirty_refine(&fixture.set, &fixture.memory, NULL, NULL, 1, NULL, &err), &err,
        STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(
        stasis_dirty_refine(&fixture.set, &unmapped, read_base, &base, 1, NULL, &err), &err,
        STASIS_ERR_INVALID_ARGUMENT);
    regions[0].hva = fixture.regions[0].hva; /* now the set is of another size */
    assert_stasis_fails(
        stasis_dirty_refine(&fixture.set, &unmapped, read_base, &base, 1, NULL, &err), &err,
        STASIS_ERR_INVALID_ARGUMENT);
    regions[0].size = 5;
    assert_stasis_fails(stasis_tracker_open_compare(&unmapped, read_base, &base, 1, &tracker, &err),
                        &err, STASIS_ERR_INVALID_MEMORY);
    assert_stasis_fails(
        stasis_dirty_refine(&fixture.set, &unmapped, read_base, &base, 1, NULL, &err), &err,
        STASIS_ERR_INVALID_MEMORY);
    assert_null(tracker);
}

static void comparison_takes_no_marks(void **state)
{
    (void)state;
    assert_stasis_ok(
        stasis_tracker_open_compare(&fixture.memory, read_base, &base, 1, &tracker, &err), &err);
    assert_int_equal(stasis_tracker_mark(tracker, 0, 1), -EINVAL);
    assert_stasis_fails(stasis_tracker_ring_full(tracker, &err), &err, STASIS_ERR_INVALID_ARGUMENT);
}

#define compare_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        compare_test(comparison_tells_exactly_the_pages_that_differ),
        compare_test(a_base_that_cannot_be_read_fails_the_harvest_and_the_next_one_is_whole),
        compare_test(refining_drops_and_counts_exactly_the_pages_that_equal_the_base),
        compare_test(refining_drops_no_changed_page_when_the_base_cannot_be_read),
        compare_test(refining_looks_at_pages_of_the_set_only),
        compare_test(wrong_arguments_are_refused),
        compare_test(comparison_takes_no_marks),
    };

    return unit_run(tests);
}
