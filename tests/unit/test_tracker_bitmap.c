/* Goal:   what the VMM marks is told, by page and by whatever thread; the calls of every tracker
 * keep
 *         their promises on epochs, bases and pages given back; write faults are granted by block
 * or page. Method: marks by hand around all edges; ten million writes by threads that mark; a VMM
 *         in small that write-protects memory and grants its faults, with threads for vCPUs. */
#include "unit.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stasis/dirty.h>

#include "memory/tracker_bitmap.h"
#include "tracker_fixture.h"

#define PAGES 3000
#define PAGE ((uint64_t)STASIS_PAGE_SIZE)
#define BLOCK ((uint64_t)STASIS_FAULT_BLOCK_SIZE)
#define RACE_WRITES 10000000

static struct fixture fixture;
static struct stasis_tracker *tracker;
static struct stasis_error err;

static int setup(void **state)
{
    (void)state;
    memset(&err, 0, sizeof(err));
    fixture_open(&fixture, FIXTURE_ANONYMOUS, PAGES);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    stasis_tracker_close(tracker);
    tracker = NULL;
    fixture_close(&fixture);
    return 0;
}

static void open_with(const struct stasis_fault_options *options)
{
    assert_stasis_ok(stasis_tracker_open_bitmap(&fixture.memory, options, &tracker, &err), &err);
}

static void open_armed(void)
{
    open_with(NULL);
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
}

/* --- marks ---------------------------------------------------------------------------------- */

static void mark_told(uint64_t gpa, uint64_t size, uint64_t first_page, uint64_t page_count)
{
    assert_int_equal(stasis_tracker_mark(tracker, gpa, size), 0);
    stasis_page_set_add(&fixture.written, first_page, page_count);
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture);
}

static void every_page_that_a_mark_touches_is_told(void **state)
{
    const uint64_t second = fixture.regions[1].gpa;

    (void)state;
    open_armed();
    assert_int_equal(stasis_tracker_page_size(tracker), STASIS_PAGE_SIZE);
    assert_true(stasis_tracker_page_count(tracker) == fixture.page_count);
    mark_told(0, 1, 0, 1);
    mark_told(PAGE - 1, 1, 0, 1);
    mark_told(PAGE - 1, 2, 0, 2);
    mark_told(5 * PAGE, PAGE, 5, 1);
    mark_told(5 * PAGE + 1, PAGE, 5, 2);
    mark_told(36 * PAGE, PAGE, 36, 1);
    mark_told(second, 200 * PAGE, 37, 200);
    mark_told(second + 7, 1, 37, 1);
    mark_told(fixture.regions[2].gpa + fixture.regions[2].size - 1, 1, fixture.page_count - 1, 1);
}

static void marks_beyond_memory_are_refused_and_the_rest_is_told(void **state)
{
    const uint64_t end = fixture.regions[2].gpa + fixture.regions[2].size;

    (void)state;
    open_armed();
    assert_int_equal(stasis_tracker_mark(tracker, 37 * PAGE, PAGE), -EINVAL); /* in the hole */
    assert_int_equal(stasis_tracker_mark(tracker, end, 1), -EINVAL);
    assert_int_equal(stasis_tracker_mark(tracker, UINT64_MAX, 1), -EINVAL);
    assert_int_equal(stasis_tracker_mark(tracker, UINT64_MAX, UINT64_MAX), -EINVAL);
    assert_int_equal(stasis_tracker_mark(tracker, 0, 0), -EINVAL);
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture);

    assert_int_equal(stasis_tracker_mark(tracker, 36 * PAGE, 2 * PAGE), -EINVAL);
    assert_int_equal(stasis_tracker_mark(tracker, end - 1, UINT64_MAX), -EINVAL);
    stasis_page_set_add(&fixture.written, 36, 1);
    stasis_page_set_add(&fixture.written, fixture.page_count - 1, 1);
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture);

    assert_int_equal(stasis_tracker_mark(tracker, 0, UINT64_MAX), -EINVAL);
    fixture_harvest(&fixture, tracker);
    assert_true(stasis_page_set_count(&fixture.set) == fixture.page_count);
}

static void random_marks_agree_with_the_oracle(void **state)
{
    (void)state;
    open_armed();
    for (int epoch = 0; epoch < 200; epoch++) {
        for (int i = 0; i < epoch % 40; i++) {
            const uint64_t page = fixture_random(&fixture, fixture.page_count);

            assert_int_equal(
                stasis_tracker_mark(
                    tracker, fixture_gpa(&fixture, page) + fixture_random(&fixture, PAGE), 1),
                0);
            stasis_page_set_add(&fixture.written, page, 1);
        }
        fixture_harvest(&fixture, tracker);
        fixture_expect_written(&fixture);
    }
}

static void no_mark_is_missed_in_ten_million_by_four_threads(void **state)
{
    (void)state;
    open_armed();
    assert_true(fixture_race(&fixture, &(struct fixture_race){ .tracker = tracker,
                                                               .mark = true,
                                                               .write_count = RACE_WRITES,
                                                               .write_count_between = 64 })
                    .given_back > 0);
}

/* --- what all trackers promise -------------------------------------------------------------- */

static void nothing_can_be_harvested_or_given_back_before_arm(void **state)
{
    (void)state;
    open_with(NULL);
    assert_stasis_fails(stasis_tracker_harvest(tracker, &fixture.set, &err), &err,
                        STASIS_ERR_WRONG_STATE);
    assert_stasis_fails(stasis_tracker_give_back(tracker, &fixture.set, &err), &err,
                        STASIS_ERR_WRONG_STATE);
}

static void a_set_of_another_size_is_refused_and_nothing_lost(void **state)
{
    struct stasis_page_set *set = &fixture.written;

    (void)state;
    open_armed();
    stasis_page_set_release(set);
    assert_stasis_ok(stasis_page_set_init(set, fixture.page_count + 1, &err), &err);
    assert_int_equal(stasis_tracker_mark(tracker, 0, 1), 0);
    assert_stasis_fails(stasis_tracker_harvest(tracker, set, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(stasis_tracker_give_back(tracker, set, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    fixture_harvest(&fixture, tracker);
    assert_true(stasis_page_set_test(&fixture.set, 0));
}

static void pages_given_back_are_in_the_next_harvest_with_the_new_ones(void **state)
{
    (void)state;
    open_armed();
    assert_int_equal(stasis_tracker_mark(tracker, 3 * PAGE, 1), 0);
    fixture_harvest(&fixture, tracker);
    assert_stasis_ok(stasis_tracker_give_back(tracker, &fixture.set, &err), &err);
    assert_int_equal(stasis_tracker_mark(tracker, 9 * PAGE, 1), 0);
    fixture_harvest(&fixture, tracker);
    stasis_page_set_add(&fixture.written, 3, 1);
    stasis_page_set_add(&fixture.written, 9, 1);
    fixture_expect_written(&fixture);
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture); /* and only in that one */
}

static void a_harvest_adds_to_what_is_in_the_set(void **state)
{
    (void)state;
    open_armed();
    assert_int_equal(stasis_tracker_mark(tracker, 3 * PAGE, 1), 0);
    stasis_page_set_add(&fixture.set, 100, 1);
    assert_stasis_ok(stasis_tracker_harvest(tracker, &fixture.set, &err), &err);
    assert_true(stasis_page_set_test(&fixture.set, 3));
    assert_true(stasis_page_set_test(&fixture.set, 100));
}

static void arming_again_forgets_all(void **state)
{
    (void)state;
    open_armed();
    assert_int_equal(stasis_tracker_mark(tracker, 3 * PAGE, 1), 0);
    fixture_harvest(&fixture, tracker);
    assert_stasis_ok(stasis_tracker_give_back(tracker, &fixture.set, &err), &err);
    assert_int_equal(stasis_tracker_mark(tracker, 9 * PAGE, 1), 0);
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture);
}

static void the_base_is_withheld_until_the_outcome_of_a_harvest_is_told(void **state)
{
    static const uint8_t first[STASIS_TRACKER_BASE_SIZE] = { 1 };
    static const uint8_t second[STASIS_TRACKER_BASE_SIZE] = { 2 };

    (void)state;
    open_armed();
    assert_null(stasis_tracker_base(tracker));
    stasis_tracker_set_base(tracker, first);
    assert_memory_equal(stasis_tracker_base(tracker), first, sizeof(first));
    fixture_harvest(&fixture, tracker);
    assert_null(stasis_tracker_base(tracker));
    assert_stasis_ok(stasis_tracker_give_back(tracker, &fixture.set, &err), &err);
    assert_memory_equal(stasis_tracker_base(tracker), first, sizeof(first));
    fixture_harvest(&fixture, tracker);
    stasis_tracker_set_base(tracker, second);
    assert_memory_equal(stasis_tracker_base(tracker), second, sizeof(second));
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
    assert_null(stasis_tracker_base(tracker));
}

static void an_invalid_memory_is_refused(void **state)
{
    struct stasis_memory memory = fixture.memory;

    (void)state;
    memory.region_count = 0;
    assert_stasis_fails(stasis_tracker_open_bitmap(&memory, NULL, &tracker, &err), &err,
                        STASIS_ERR_INVALID_MEMORY);
    assert_null(tracker);
}

static void nothing_can_be_closed(void **state)
{
    (void)state;
    stasis_tracker_close(NULL);
}

/* --- write faults --------------------------------------------------------------------------- */

struct protection { /* what harvest asked to protect, and faults to grant */
    unsigned calls;
    uint64_t gpa, size, granule; /* of the last call */
    uint64_t size_total;
    unsigned fail_call; /* 0: none */
    uint64_t granted_gpa, granted_size;
    bool grant_fails;
};

static int note_protection(void *arg, uint64_t gpa, uint64_t size, uint64_t granule)
{
    struct protection *noted = arg;

    if (++noted->calls == noted->fail_call)
        return -EIO;
    noted->gpa = gpa;
    noted->size = size;
    noted->granule = granule;
    noted->size_total += size;
    return 0;
}

static int note_grant(void *arg, uint64_t gpa, uint64_t size)
{
    struct protection *noted = arg;

    noted->granted_gpa = gpa;
    noted->granted_size = size;
    return noted->grant_fails ? -EPERM : 0;
}

static struct protection protection;

static void open_faulting(uint32_t threshold)
{
    const struct stasis_fault_options options = {
        .protect = note_protection, .grant = note_grant, .arg = &protection, .threshold = threshold
    };

    memset(&protection, 0, sizeof(protection));
    open_with(&options);
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
}

static void expect_grant(uint64_t gpa, uint64_t now_ms, uint64_t want_gpa, uint64_t want_size)
{
    assert_int_equal(tracker_fault_at(tracker, gpa, now_ms), 0);
    assert_true(protection.granted_gpa == want_gpa);
    assert_true(protection.granted_size == want_size);
}

static void arming_protects_all_of_memory(void **state)
{
    (void)state;
    open_faulting(0);
    assert_true(protection.size_total == fixture.page_count * PAGE);
}

static void a_fault_is_granted_its_block_as_far_as_the_region_goes(void **state)
{
    const uint64_t high = fixture.regions[2].gpa;

    (void)state;
    open_faulting(0);
    expect_grant(5 * PAGE + 9, 0, 0, 37 * PAGE);
    expect_grant(fixture.regions[1].gpa, 0, fixture.regions[1].gpa,
                 BLOCK - fixture.regions[1].gpa % BLOCK);
    expect_grant(high + BLOCK + 1, 0, high + BLOCK, BLOCK);
    expect_grant(high + fixture.regions[2].size - 1, 0,
                 (high + fixture.regions[2].size - 1) / BLOCK * BLOCK,
                 fixture.regions[2].size % BLOCK);
}

static void more_than_32_faults_of_a_block_in_100_ms_make_it_fine(void **state)
{
    const uint64_t gpa = fixture.regions[2].gpa;

    (void)state;
    open_faulting(0);
    for (int i = 0; i < 32; i++)
        expect_grant(gpa + (uint64_t)i * PAGE, 1000 + (uint64_t)i, gpa, BLOCK);
    expect_grant(gpa + 40 * PAGE + 5, 1090, gpa + 40 * PAGE, PAGE);
    expect_grant(gpa + BLOCK, 1091, gpa + BLOCK, BLOCK); /* each block for itself */
    expect_grant(gpa + 41 * PAGE, 1950, gpa + 41 * PAGE, PAGE);
}

static void faults_spread_over_windows_or_blocks_do_not(void **state)
{
    const uint64_t gpa = fixture.regions[2].gpa;

    (void)state;
    open_faulting(0);
    for (uint64_t i = 0; i < 320; i++)
        expect_grant(gpa, i * 4, gpa, BLOCK); /* 25 a window */
    for (uint64_t i = 0; i < 60; i++)
        expect_grant(gpa + i % 3 * BLOCK, 2000, gpa + i % 3 * BLOCK, BLOCK);
}

static void a_fine_block_that_was_quiet_is_whole_again(void **state)
{
    const uint64_t gpa = fixture.regions[2].gpa;

    (void)state;
    open_faulting(2);
    for (int i = 0; i < 2; i++)
        expect_grant(gpa, 1000, gpa, BLOCK);
    expect_grant(gpa, 1000, gpa, PAGE);
    expect_grant(gpa, 2099, gpa, PAGE); /* ten windows later: 1 s */
    expect_grant(gpa, 3200, gpa, BLOCK);
}

static void a_clock_that_steps_back_changes_no_granule(void **state)
{
    const uint64_t gpa = fixture.regions[2].gpa;

    (void)state;
    open_faulting(2);
    expect_grant(gpa, 5000, gpa, BLOCK);
    expect_grant(gpa, 4000, gpa, BLOCK);
    expect_grant(gpa, 5000, gpa, PAGE);
}

static void what_a_fault_was_granted_is_told_and_protected_with_the_granule_to_come(void **state)
{
    const uint64_t gpa = fixture.regions[2].gpa;
    const uint64_t page = fixture.page_count - fixture.regions[2].size / PAGE;

    (void)state;
    open_faulting(2);
    expect_grant(gpa + 5 * PAGE, 1000, gpa, BLOCK);
    protection.calls = 0;
    fixture_harvest(&fixture, tracker);
    stasis_page_set_add(&fixture.written, page, BLOCK / PAGE);
    fixture_expect_written(&fixture);
    assert_int_equal(protection.calls, 1);
    assert_true(protection.gpa == gpa && protection.size == BLOCK);
    assert_true(protection.granule == BLOCK);

    expect_grant(gpa, 1001, gpa, BLOCK);
    fixture_harvest(&fixture, tracker);
    expect_grant(gpa + 7 * PAGE, 1002, gpa + 7 * PAGE, PAGE);
    protection.calls = 0;
    fixture_harvest(&fixture, tracker);
    stasis_page_set_add(&fixture.written, page + 7, 1);
    fixture_expect_written(&fixture);
    assert_int_equal(protection.calls, 1);
    assert_true(protection.gpa == gpa + 7 * PAGE && protection.size == PAGE);
    assert_true(protection.granule == PAGE);
}

static void a_range_that_cannot_be_granted_is_not_told(void **state)
{
    (void)state;
    open_faulting(0);
    protection.grant_fails = true;
    assert_int_equal(tracker_fault_at(tracker, 0, 0), -EPERM);
    fixture_harvest(&fixture, tracker);
    fixture_expect_written(&fixture);
}

/* A run of the line goes over a region's end; a range of the guest's does not. */
static void a_run_over_two_regions_is_protected_in_two(void **state)
{
    (void)state;
    open_faulting(0);
    assert_int_equal(stasis_tracker_mark(tracker, 30 * PAGE, 7 * PAGE), 0);
    assert_int_equal(stasis_tracker_mark(tracker, fixture.regions[1].gpa, 5 * PAGE), 0);
    memset(&protection, 0, sizeof(protection));
    fixture_harvest(&fixture, tracker);
    assert_int_equal(protection.calls, 2);
    assert_true(protection.gpa == fixture.regions[1].gpa && protection.size == 5 * PAGE);
    assert_true(protection.size_total == 12 * PAGE);
}

static void protection_that_fails_is_done_by_the_next_harvest(void **state)
{
    (void)state;
    open_faulting(0);
    assert_int_equal(stasis_tracker_mark(tracker, 3 * PAGE, PAGE), 0);
    assert_int_equal(stasis_tracker_mark(tracker, 9 * PAGE, PAGE), 0);
    memset(&protection, 0, sizeof(protection));
    protection.fail_call = 2;
    assert_stasis_fails(stasis_tracker_harvest(tracker, &fixture.set, &err), &err, STASIS_ERR_IO);
    assert_true(stasis_page_set_count(&fixture.set) == 0);
    memset(&protection, 0, sizeof(protection));
    fixture_harvest(&fixture, tracker);
    assert_true(protection.size_total == 2 * PAGE);
    stasis_page_set_add(&fixture.written, 3, 1);
    stasis_page_set_add(&fixture.written, 9, 1);
    fixture_expect_written(&fixture);
}

static void faults_outside_of_memory_or_without_options_are_refused(void **state)
{
    const struct stasis_fault_options no_protect = { .grant = note_grant };
    const struct stasis_fault_options no_grant = { .protect = note_protection };

    (void)state;
    assert_stasis_fails(stasis_tracker_open_bitmap(&fixture.memory, &no_protect, &tracker, &err),
                        &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(stasis_tracker_open_bitmap(&fixture.memory, &no_grant, &tracker, &err),
                        &err, STASIS_ERR_INVALID_ARGUMENT);
    open_faulting(0);
    assert_int_equal(stasis_tracker_fault(tracker, 40 * PAGE), -EINVAL);
    assert_int_equal(stasis_tracker_fault(tracker, UINT64_MAX), -EINVAL);
    assert_int_equal(stasis_tracker_fault(tracker, 0), 0);
    stasis_tracker_close(tracker);
    tracker = NULL;
    open_armed();
    assert_int_equal(stasis_tracker_fault(tracker, 0), -EINVAL);
}

/* --- a VMM in small ------------------------------------------------------------------------- */

static atomic_uint_fast64_t faults_taken;

static bool gpa_of_fault(const void *hva, uint64_t *ret_gpa)
{
    for (size_t i = 0; i < 3; i++) {
        const struct stasis_region *region = &fixture.regions[i];
        const uint64_t off = (uint64_t)((const uint8_t *)hva - (const uint8_t *)region->hva);

        if ((const uint8_t *)hva >= (const uint8_t *)region->hva && off < region->size) {
            *ret_gpa = region->gpa + off;
            return true;
        }
    }
    return false;
}

static void *hva_of_gpa(uint64_t gpa)
{
    size_t i = 2;

    while (gpa < fixture.regions[i].gpa)
        i--;
    return (uint8_t *)fixture.regions[i].hva + (gpa - fixture.regions[i].gpa);
}

static void on_write_fault(int number, siginfo_t *info, void *context)
{
    const int saved_errno = errno;
    uint64_t gpa;

    (void)number;
    (void)context;
    if (!gpa_of_fault(info->si_addr, &gpa) || stasis_tracker_fault(tracker, gpa) < 0)
        _exit(99);
    atomic_fetch_add(&faults_taken, 1);
    errno = saved_errno;
}

static int protect_memory(void *arg, uint64_t gpa, uint64_t size, uint64_t granule)
{
    (void)arg;
    (void)granule;
    return mprotect(hva_of_gpa(gpa), size, PROT_READ) < 0 ? -errno : 0;
}

static int grant_memory(void *arg, uint64_t gpa, uint64_t size)
{
    (void)arg;
    return mprotect(hva_of_gpa(gpa), size, PROT_READ | PROT_WRITE) < 0 ? -errno : 0;
}

static void no_write_is_missed_while_faults_are_granted_and_harvests_protect(void **state)
{
    const struct sigaction action = { .sa_sigaction = on_write_fault, .sa_flags = SA_SIGINFO };
    const struct stasis_fault_options options = { .protect = protect_memory,
                                                  .grant = grant_memory,
                                                  .threshold = 4 };
    struct sigaction before;

    (void)state;
    open_with(&options);
    sigaction(SIGSEGV, &action, &before);
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
    fixture_race(&fixture, &(struct fixture_race){ .tracker = tracker,
                                                   .write_count = RACE_WRITES / 5,
                                                   .write_count_between = 1000 });
    sigaction(SIGSEGV, &before, NULL);
    assert_true(atomic_load(&faults_taken) > 50);
}

#define bitmap_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        bitmap_test(every_page_that_a_mark_touches_is_told),
        bitmap_test(marks_beyond_memory_are_refused_and_the_rest_is_told),
        bitmap_test(random_marks_agree_with_the_oracle),
        bitmap_test(no_mark_is_missed_in_ten_million_by_four_threads),
        bitmap_test(nothing_can_be_harvested_or_given_back_before_arm),
        bitmap_test(a_set_of_another_size_is_refused_and_nothing_lost),
        bitmap_test(pages_given_back_are_in_the_next_harvest_with_the_new_ones),
        bitmap_test(a_harvest_adds_to_what_is_in_the_set),
        bitmap_test(arming_again_forgets_all),
        bitmap_test(the_base_is_withheld_until_the_outcome_of_a_harvest_is_told),
        bitmap_test(an_invalid_memory_is_refused),
        bitmap_test(nothing_can_be_closed),
        bitmap_test(arming_protects_all_of_memory),
        bitmap_test(a_fault_is_granted_its_block_as_far_as_the_region_goes),
        bitmap_test(more_than_32_faults_of_a_block_in_100_ms_make_it_fine),
        bitmap_test(faults_spread_over_windows_or_blocks_do_not),
        bitmap_test(a_fine_block_that_was_quiet_is_whole_again),
        bitmap_test(a_clock_that_steps_back_changes_no_granule),
        bitmap_test(what_a_fault_was_granted_is_told_and_protected_with_the_granule_to_come),
        bitmap_test(a_range_that_cannot_be_granted_is_not_told),
        bitmap_test(a_run_over_two_regions_is_protected_in_two),
        bitmap_test(protection_that_fails_is_done_by_the_next_harvest),
        bitmap_test(faults_outside_of_memory_or_without_options_are_refused),
        bitmap_test(no_write_is_missed_while_faults_are_granted_and_harvests_protect),
    };

    return unit_run(tests);
}
