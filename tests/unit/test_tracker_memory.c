/* Goal:   out of memory, every call that opens a tracker or makes a set says so and leaves nothing
 * behind. Method: the linker hands the allocator's calls to this test, which makes each of them
 *         fail in turn; what is left behind is for the leak checker. */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <stasis/dirty.h>

#include "memory/residency.h"
#include "tracker_fixture.h"

static unsigned countdown; /* 0: no call is to fail */
static bool failed;

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);

static bool should_fail(void)
{
    if (countdown == 0 || --countdown > 0)
        return false;
    failed = true;
    errno = ENOMEM;
    return true;
}

void *__real_reallocarray(void *ptr, size_t count, size_t size);
void *__wrap_reallocarray(void *ptr, size_t count, size_t size);

void *__wrap_reallocarray(void *ptr, size_t count, size_t size)
{
    return should_fail() ? NULL : __real_reallocarray(ptr, count, size);
}

void *__wrap_malloc(size_t size)
{
    return should_fail() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return should_fail() ? NULL : __real_calloc(count, size);
}

static struct fixture fixture;
static struct stasis_tracker *tracker, *part;
static struct stasis_error err;

static int setup(void **state)
{
    (void)state;
    memset(&err, 0, sizeof(err));
    fixture_open(&fixture, FIXTURE_ANONYMOUS, 500);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    countdown = 0;
    if (!tracker)
        stasis_tracker_close(part);
    stasis_tracker_close(tracker);
    tracker = NULL;
    part = NULL;
    fixture_close(&fixture);
    return 0;
}

/* The call with its first allocation failing, then its second, ... until it has no more. */
static void check(int (*call)(void))
{
    unsigned nth = 1;

    for (;; nth++) {
        int r;

        failed = false;
        countdown = nth;
        r = call();
        countdown = 0;
        if (!failed) {
            assert_stasis_ok(r, &err);
            break;
        }
        assert_stasis_fails(r, &err, STASIS_ERR_OUT_OF_MEMORY);
        assert_null(tracker);
    }
    assert_true(nth > 1);
}

static int make_set(void)
{
    struct stasis_page_set set = { 0 };
    const int r = stasis_page_set_init(&set, 1000, &err);

    stasis_page_set_release(&set);
    return r;
}

static int protect(void *arg, uint64_t gpa, uint64_t size, uint64_t granule)
{
    (void)arg;
    (void)gpa;
    (void)size;
    (void)granule;
    return 0;
}

static int grant(void *arg, uint64_t gpa, uint64_t size)
{
    (void)arg;
    (void)gpa;
    (void)size;
    return 0;
}

static int open_bitmap(void)
{
    const struct stasis_fault_options options = { .protect = protect, .grant = grant };

    return stasis_tracker_open_bitmap(&fixture.memory, &options, &tracker, &err);
}

static int open_uffd(void)
{
    return stasis_tracker_open_uffd(&fixture.memory, &tracker, &err);
}

static int open_union(void)
{
    return stasis_tracker_open_union(&part, 1, &tracker, &err);
}

static int read_base(void *arg, uint64_t first_page, uint64_t page_count, void *buf,
                     struct stasis_error *ret_err)
{
    (void)arg;
    (void)first_page;
    (void)ret_err;
    memset(buf, 0, page_count * STASIS_PAGE_SIZE);
    return 0;
}

static int open_compare(void)
{
    return stasis_tracker_open_compare(&fixture.memory, read_base, NULL, 1, &tracker, &err);
}

static int harvest_compare(void)
{
    return stasis_tracker_harvest(part, &fixture.set, &err);
}

static int refine(void)
{
    return stasis_dirty_refine(&fixture.set, &fixture.memory, read_base, NULL, 1, NULL, &err);
}

static void making_a_set_says_when_memory_is_out(void **state)
{
    (void)state;
    check(make_set);
}

static void opening_a_bitmap_says_when_memory_is_out(void **state)
{
    (void)state;
    check(open_bitmap);
}

static void opening_userfaultfd_says_when_memory_is_out(void **state)
{
    (void)state;
    if (open_uffd() < 0)
        unit_skip("%s", err.text);
    stasis_tracker_close(tracker);
    tracker = NULL;
    check(open_uffd);
}

static void opening_a_union_says_when_memory_is_out_and_its_parts_stay_the_callers(void **state)
{
    (void)state;
    assert_stasis_ok(stasis_tracker_open_bitmap(&fixture.memory, NULL, &part, &err), &err);
    check(open_union);
}

static void opening_a_comparison_says_when_memory_is_out(void **state)
{
    (void)state;
    check(open_compare);
}

static void comparing_says_when_memory_is_out(void **state)
{
    (void)state;
    assert_stasis_ok(stasis_tracker_open_compare(&fixture.memory, read_base, NULL, 1, &part, &err),
                     &err);
    assert_stasis_ok(stasis_tracker_arm(part, &err), &err);
    check(harvest_compare);
    check(refine);
}

/* The copy of the layout is needed; without the list of mappings, all pages are candidates. */
static void looking_for_candidates_without_memory_says_so_or_takes_all(void **state)
{
    unsigned refused = 0, took_all = 0;

    (void)state;
    for (countdown = 1, failed = true; failed;) {
        const unsigned nth = refused + took_all + 1;
        int r;

        failed = false;
        countdown = nth;
        r = residency_candidates(&fixture.memory, &fixture.set, &err);
        countdown = 0;
        if (r < 0) {
            assert_int_equal(err.code, STASIS_ERR_OUT_OF_MEMORY);
            refused++;
        } else if (failed) {
            assert_true(stasis_page_set_count(&fixture.set) == fixture.page_count);
            took_all++;
        }
        stasis_page_set_clear(&fixture.set);
    }
    assert_int_equal(refused, 2);
    assert_true(took_all > 0);
}

#define memory_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        memory_test(making_a_set_says_when_memory_is_out),
        memory_test(opening_a_bitmap_says_when_memory_is_out),
        memory_test(opening_userfaultfd_says_when_memory_is_out),
        memory_test(opening_a_union_says_when_memory_is_out_and_its_parts_stay_the_callers),
        memory_test(opening_a_comparison_says_when_memory_is_out),
        memory_test(comparing_says_when_memory_is_out),
        memory_test(looking_for_candidates_without_memory_says_so_or_takes_all),
    };

    return unit_run(tests);
}
