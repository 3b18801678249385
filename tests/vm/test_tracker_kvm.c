/*
 * test_tracker_kvm.c - KVM's dirty log and dirty rings against a guest that writes known pages.
 *
 * Goal:   every page that the guest wrote is told, no other one, through slots that are out of
 *         step with regions and words; nothing is lost by failures, full rings, or harvests while
 * the guest runs. Method: a guest that counts up a word on each page of a list; a copy of all
 *         words that is kept up to date from harvested pages only; ioctls that are seen and made
 * to fail.
 */
#include "tracker_vm.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kvm_spy.h"
#include "unit.h"

#define GUEST_WRITES 5000000 /* for the log, and again for the rings */
/* In one go, when a ring may be nearly full: a software KVM that emulates the guest looks at its
 * ring between goes only, and keeps 64 entries in reserve. */
#define RING_LIST_MAX 48
#define RING_SIZE (16 * 1024u)

static struct tracker_vm vm;
static struct stasis_tracker *tracker;
static struct stasis_page_set set, expected;
static struct stasis_error err;
static uint64_t random_state;

static int setup(void **state)
{
    (void)state;
    memset(&err, 0, sizeof(err));
    random_state = UINT64_C(0x2545f4914f6cdd1d);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    spy_end();
    stasis_tracker_close(tracker);
    tracker = NULL;
    stasis_page_set_release(&set);
    stasis_page_set_release(&expected);
    tracker_vm_close(&vm);
    return 0;
}

static uint64_t random_below(uint64_t limit)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % limit;
}

/* Not the guest's list and code. */
static uint64_t random_page(void)
{
    return 2 + random_below(vm.page_count - 2);
}

static void make_sets(void)
{
    assert_stasis_ok(stasis_page_set_init(&set, vm.page_count, &err), &err);
    assert_stasis_ok(stasis_page_set_init(&expected, vm.page_count, &err), &err);
}

static int open_log(void)
{
    return stasis_tracker_open_kvm_log(vm.vm_fd, vm.slots, TRACKER_VM_SLOTS, &vm.memory, &tracker,
                                       &err);
}

static int open_ring(void)
{
    return stasis_tracker_open_kvm_ring(vm.vm_fd, &vm.vcpu_fd, 1, RING_SIZE, vm.slots,
                                        TRACKER_VM_SLOTS, &vm.memory, &tracker, &err);
}

static void start(bool ring)
{
    tracker_vm_open(&vm, ring ? RING_SIZE : 0);
    make_sets();
    assert_stasis_ok(ring ? open_ring() : open_log(), &err);
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
}

/* The guest writes these pages, each at least once. */
static void write_random(size_t count)
{
    uint64_t pages[TRACKER_VM_LIST_MAX];

    for (size_t i = 0; i < count; i++) {
        pages[i] = random_below(20) == 0 ? TRACKER_VM_ELSEWHERE : random_page();
        if (pages[i] != TRACKER_VM_ELSEWHERE)
            stasis_page_set_add(&expected, pages[i], 1);
    }
    tracker_vm_write(&vm, pages, count, tracker);
}

static void harvest(void)
{
    stasis_page_set_clear(&set);
    assert_stasis_ok(stasis_tracker_harvest(tracker, &set, &err), &err);
}

static void expect_exactly(void)
{
    for (uint64_t page = 0; page < vm.page_count; page++) {
        const bool told = stasis_page_set_test(&set, page);

        if (told != stasis_page_set_test(&expected, page))
            fail_msg("page %ju was %s and %s", (uintmax_t)page, told ? "told" : "not told",
                     told ? "not written" : "written");
    }
    stasis_page_set_clear(&expected);
}

/* --- both kinds ----------------------------------------------------------------------------- */

static void check_exact(bool ring)
{
    start(ring);
    for (size_t epoch = 0; epoch < 30; epoch++) {
        write_random(epoch * 9);
        harvest();
        expect_exactly();
    }
}

static void the_log_tells_exactly_the_pages_that_the_guest_wrote(void **state)
{
    (void)state;
    check_exact(false);
}

static void the_rings_tell_exactly_the_pages_that_the_guest_wrote(void **state)
{
    (void)state;
    check_exact(true);
}

/* Without manual protection, reading the log clears it. */
static void a_kvm_without_manual_protection_tells_the_same(void **state)
{
    (void)state;
    spy_fail(KVM_CHECK_EXTENSION, 0, EINVAL);
    check_exact(false);
}

static void check_arm_forgets(bool ring)
{
    start(ring);
    write_random(100);
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
    stasis_page_set_clear(&expected);
    write_random(50);
    harvest();
    expect_exactly();
}

static void arming_again_forgets_what_was_written(void **state)
{
    (void)state;
    check_arm_forgets(false);
    teardown(state);
    check_arm_forgets(true);
}

static void check_give_back(bool ring)
{
    start(ring);
    write_random(100);
    harvest();
    assert_stasis_ok(stasis_tracker_give_back(tracker, &set, &err), &err);
    write_random(100);
    harvest();
    expect_exactly();
    harvest();
    expect_exactly();
}

static void pages_given_back_come_with_the_next_ones(void **state)
{
    (void)state;
    check_give_back(false);
    teardown(state);
    check_give_back(true);
}

/* --- a guest that runs meanwhile ------------------------------------------------------------ */

struct guest {
    atomic_bool done;
    size_t list_size;
    uint64_t writes;
};

static void *run_guest(void *arg)
{
    struct guest *guest = arg;
    uint64_t pages[TRACKER_VM_LIST_MAX];
    uint64_t state = 77;

    while (guest->writes < GUEST_WRITES) {
        for (size_t i = 0; i < guest->list_size; i++) {
            state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
            pages[i] = 2 + (state >> 33) % (vm.page_count - 2);
        }
        tracker_vm_write(&vm, pages, guest->list_size, tracker);
        guest->writes += guest->list_size;
    }
    atomic_store(&guest->done, true);
    return NULL;
}

static uint32_t word_now(uint64_t page)
{
    return __atomic_load_n(tracker_vm_word(&vm, page), __ATOMIC_RELAXED);
}

/* Returns how many pages were told that are as they were. */
static uint64_t copy_told(uint32_t *shadow, uint64_t *ret_told)
{
    uint64_t first, count, unchanged = 0;

    for (uint64_t at = 0; stasis_page_set_next_run(&set, at, &first, &count); at = first + count) {
        for (uint64_t page = first; page < first + count; page++) {
            const uint32_t now = word_now(page);

            unchanged += shadow[page] == now;
            shadow[page] = now;
        }
        *ret_told += count;
    }
    return unchanged;
}

static void check_race(bool ring)
{
    struct guest guest = { .list_size = ring ? RING_LIST_MAX : TRACKER_VM_LIST_MAX };
    uint64_t harvests = 0, given_back = 0, told = 0, unchanged = 0;
    uint32_t *shadow;
    pthread_t thread;

    start(ring);
    shadow = calloc(vm.page_count, sizeof(*shadow));
    assert_non_null(shadow);
    assert_int_equal(pthread_create(&thread, NULL, run_guest, &guest), 0);
    while (!atomic_load(&guest.done)) {
        harvest();
        harvests++;
        if (harvests % 4 == 0) {
            assert_stasis_ok(stasis_tracker_give_back(tracker, &set, &err), &err);
            given_back++;
        } else {
            unchanged += copy_told(shadow, &told);
        }
        usleep(harvests % 16 == 0 ? 1000
                                  : 0); /* most in a row, but the guest is to get somewhere */
    }
    pthread_join(thread, NULL);
    harvest();
    unchanged += copy_told(shadow, &told);
    for (uint64_t page = 2; page < vm.page_count; page++) {
        if (shadow[page] != word_now(page))
            fail_msg("a write to page %ju is in no harvest", (uintmax_t)page);
    }
    free(shadow);
    print_message("# %ju writes, %ju harvests (%ju given back), %ju pages told, %ju of them as "
                  "before, %ju full rings\n",
                  (uintmax_t)guest.writes, (uintmax_t)harvests, (uintmax_t)given_back,
                  (uintmax_t)told, (uintmax_t)unchanged, (uintmax_t)vm.ring_fulls);
    assert_true(harvests > 10);
}

static void the_log_misses_no_write_of_a_running_guest(void **state)
{
    (void)state;
    check_race(false);
}

static void the_rings_miss_no_write_of_a_running_guest(void **state)
{
    (void)state;
    check_race(true);
}

/* --- the log -------------------------------------------------------------------------------- */

static size_t calls_of(unsigned long request)
{
    size_t count, found = 0;
    const struct spy_call *calls = spy_calls(&count);

    for (size_t i = 0; i < count; i++)
        found += calls[i].request == request;
    return found;
}

static void only_words_that_had_bits_are_cleared(void **state)
{
    uint64_t pages[] = { 5, 6, 100, 900 }; /* slot 0 and slot 1 */

    (void)state;
    start(false);
    spy_begin();
    harvest();
    assert_int_equal(calls_of(KVM_CLEAR_DIRTY_LOG), 0);
    tracker_vm_write(&vm, pages, 4, NULL);
    spy_begin();
    harvest();
    if (calls_of(KVM_CLEAR_DIRTY_LOG) == 0)
        unit_skip("this KVM has no manual protection");
    assert_int_equal(calls_of(KVM_CLEAR_DIRTY_LOG), 2);
}

static void closing_ends_the_log(void **state)
{
    uint64_t bits[64];
    struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bits };

    (void)state;
    start(false);
    assert_int_equal(ioctl(vm.vm_fd, KVM_GET_DIRTY_LOG, &log), 0);
    stasis_tracker_close(tracker);
    tracker = NULL;
    assert_int_equal(ioctl(vm.vm_fd, KVM_GET_DIRTY_LOG, &log), -1);
    assert_int_equal(errno, ENOENT);
}

static void a_log_that_cannot_be_read_or_cleared_loses_nothing(void **state)
{
    static const unsigned long requests[] = { KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG };

    (void)state;
    start(false);
    for (size_t i = 0; i < 2; i++) {
        for (unsigned nth = 1; nth <= 3; nth++) {
            write_random(300);
            spy_fail(requests[i], nth, EIO);
            stasis_page_set_clear(&set);
            assert_stasis_fails(stasis_tracker_harvest(tracker, &set, &err), &err, STASIS_ERR_KVM);
            assert_true(stasis_page_set_count(&set) == 0);
            spy_end();
            harvest();
            expect_exactly();
        }
    }
}

static void a_slot_that_cannot_be_logged_leaves_no_slot_logged(void **state)
{
    uint64_t bits[64];
    struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bits };

    (void)state;
    tracker_vm_open(&vm, 0);
    make_sets();
    assert_stasis_ok(open_log(), &err);
    spy_fail(KVM_SET_USER_MEMORY_REGION, 3, ENOMEM);
    assert_stasis_fails(stasis_tracker_arm(tracker, &err), &err, STASIS_ERR_KVM);
    spy_end();
    assert_stasis_fails(stasis_tracker_harvest(tracker, &set, &err), &err, STASIS_ERR_WRONG_STATE);
    assert_int_equal(ioctl(vm.vm_fd, KVM_GET_DIRTY_LOG, &log), -1);
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
}

static void a_vm_with_rings_keeps_no_log(void **state)
{
    (void)state;
    tracker_vm_open(&vm, RING_SIZE);
    if (ioctl(vm.vm_fd, KVM_CHECK_EXTENSION, 225ul) > 0)
        unit_skip("this KVM keeps a log beside its rings");
    assert_stasis_ok(open_log(), &err);
    assert_stasis_fails(stasis_tracker_arm(tracker, &err), &err, STASIS_ERR_UNSUPPORTED);
}

/* --- slots ---------------------------------------------------------------------------------- */

static void refused(const char *why)
{
    assert_stasis_fails(open_log(), &err, STASIS_ERR_INVALID_ARGUMENT);
    if (!strstr(err.text, why))
        fail_msg("\"%s\" does not say \"%s\"", err.text, why);
    assert_null(tracker);
}

static void slots_that_do_not_fit_are_refused_and_named(void **state)
{
    struct stasis_kvm_slot good[TRACKER_VM_SLOTS];

    (void)state;
    tracker_vm_open(&vm, 0);
    memcpy(good, vm.slots, sizeof(good));

    vm.slots[2].size -= STASIS_PAGE_SIZE;
    refused("no memory slot covers");
    memcpy(vm.slots, good, sizeof(good));
    vm.slots[0].size = STASIS_PAGE_SIZE;
    refused("no memory slot covers 0x1000");
    memcpy(vm.slots, good, sizeof(good));
    vm.slots[2].size += STASIS_PAGE_SIZE;
    refused("overlap");
    memcpy(vm.slots, good, sizeof(good));
    vm.slots[1].slot |= 1u << 16; /* in another address space: does not count */
    refused("no memory slot covers");
    memcpy(vm.slots, good, sizeof(good));
    vm.slots[1].gpa += 512;
    refused("whole");
    memcpy(vm.slots, good, sizeof(good));
    vm.slots[3].size = 0;
    refused("whole");
    memcpy(vm.slots, good, sizeof(good));
    vm.slots[3].size = UINT64_MAX - STASIS_PAGE_SIZE + 1;
    refused("larger");
    memcpy(vm.slots, good, sizeof(good));
    vm.slots[3].flags = KVM_MEM_LOG_DIRTY_PAGES;
    refused("flags");
    memcpy(vm.slots, good, sizeof(good));
    assert_stasis_fails(
        stasis_tracker_open_kvm_log(vm.vm_fd, vm.slots, 0, &vm.memory, &tracker, &err), &err,
        STASIS_ERR_INVALID_ARGUMENT);
    vm.memory.region_count = 0;
    assert_stasis_fails(open_log(), &err, STASIS_ERR_INVALID_MEMORY);
}

/* --- the rings ------------------------------------------------------------------------------ */

/* All pages, so many in one go. */
static void write_all(size_t list_size)
{
    uint64_t pages[TRACKER_VM_LIST_MAX];

    for (uint64_t page = 2; page < vm.page_count;) {
        size_t count = 0;

        for (; count < list_size && page < vm.page_count; page++)
            pages[count++] = page;
        tracker_vm_write(&vm, pages, count, tracker);
    }
    stasis_page_set_add(&expected, 2, vm.page_count);
}

static void a_full_ring_is_emptied_and_nothing_lost(void **state)
{
    (void)state;
    start(true);
    write_all(RING_LIST_MAX);
    assert_true(vm.ring_fulls > 0);
    harvest();
    expect_exactly();
}

/* Where KVM emulates the guest, 512 writes in a row go past the end; elsewhere the ring is but
 * full. */
static void a_ring_that_kvm_overran_loses_no_page_and_the_guest_goes_on(void **state)
{
    (void)state;
    start(true);
    for (int round = 0; round < 3; round++) {
        write_all(RING_SIZE / sizeof(struct kvm_dirty_gfn) * 15 /
                  32); /* 480: twice is below full */
        harvest();
        stasis_page_set_union(&expected, &set);
        expect_exactly();
    }
    for (int round = 0; round < 50; round++) {
        write_random(RING_LIST_MAX);
        harvest();
        expect_exactly();
    }
}

static void a_ring_that_was_used_before_is_read_on_from_there(void **state)
{
    (void)state;
    start(true);
    for (int round = 0; round < 5; round++) {
        write_random(300);
        harvest();
        expect_exactly();
        stasis_tracker_close(tracker);
        tracker = NULL;
        assert_stasis_ok(open_ring(), &err);
        assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
        harvest();
        expect_exactly();
    }
}

static void rings_that_cannot_be_reset_lose_nothing(void **state)
{
    (void)state;
    start(true);
    write_random(100);
    spy_fail(KVM_RESET_DIRTY_RINGS, 1, EIO);
    stasis_page_set_clear(&set);
    assert_stasis_fails(stasis_tracker_harvest(tracker, &set, &err), &err, STASIS_ERR_KVM);
    assert_true(stasis_page_set_count(&set) == 0);
    spy_end();
    harvest();
    expect_exactly();
    write_random(1);
    spy_fail(KVM_RESET_DIRTY_RINGS, 1, EIO);
    assert_stasis_fails(stasis_tracker_ring_full(tracker, &err), &err, STASIS_ERR_KVM);
    spy_end();
    harvest();
    expect_exactly();
}

static void rings_need_kvm_to_offer_them_and_a_size_that_fits(void **state)
{
    (void)state;
    tracker_vm_open(&vm, 0);
    spy_fail(KVM_CHECK_EXTENSION, 0, EINVAL);
    assert_stasis_fails(stasis_kvm_enable_dirty_ring(vm.vm_fd, RING_SIZE, &err), &err,
                        STASIS_ERR_UNSUPPORTED);
    spy_end();
    if (ioctl(vm.vm_fd, KVM_CHECK_EXTENSION, (unsigned long)KVM_CAP_DIRTY_LOG_RING_ACQ_REL) <= 0)
        unit_skip("this KVM has no dirty rings");
    assert_stasis_fails(stasis_kvm_enable_dirty_ring(vm.vm_fd, 5000, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(stasis_kvm_enable_dirty_ring(vm.vm_fd, 16, &err), &err,
                        STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(stasis_kvm_enable_dirty_ring(vm.vm_fd, 1u << 31, &err), &err,
                        STASIS_ERR_LIMIT);
    /* The vCPU is there already. */
    assert_stasis_fails(stasis_kvm_enable_dirty_ring(vm.vm_fd, RING_SIZE, &err), &err,
                        STASIS_ERR_KVM);
}

static void rings_of_no_vcpu_or_of_a_vm_without_are_refused(void **state)
{
    (void)state;
    tracker_vm_open(&vm, 0);
    assert_stasis_fails(open_ring(), &err, STASIS_ERR_WRONG_STATE);
    assert_stasis_fails(stasis_tracker_open_kvm_ring(vm.vm_fd, NULL, 0, RING_SIZE, vm.slots,
                                                     TRACKER_VM_SLOTS, &vm.memory, &tracker, &err),
                        &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(stasis_tracker_open_kvm_ring(vm.vm_fd, &vm.vcpu_fd, 1, 5000, vm.slots,
                                                     TRACKER_VM_SLOTS, &vm.memory, &tracker, &err),
                        &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_ok(open_log(), &err);
    assert_stasis_fails(stasis_tracker_ring_full(tracker, &err), &err, STASIS_ERR_INVALID_ARGUMENT);
}

static int open_ring_of(uint32_t ring_size)
{
    return stasis_tracker_open_kvm_ring(vm.vm_fd, &vm.vcpu_fd, 1, ring_size, vm.slots,
                                        TRACKER_VM_SLOTS, &vm.memory, &tracker, &err);
}

static void rings_of_another_size_are_refused(void **state)
{
    (void)state;
    tracker_vm_open(&vm, RING_SIZE);
    assert_stasis_fails(open_ring_of(2 * RING_SIZE), &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(open_ring_of(RING_SIZE / 2), &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_fails(open_ring_of(0), &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_stasis_ok(open_ring_of(RING_SIZE), &err);
}

/* --- with others ---------------------------------------------------------------------------- */

/* The guest's list is written by the VMM: KVM does not see that, userfaultfd does. */
static void the_log_and_userfaultfd_together_see_guest_and_vmm(void **state)
{
    struct stasis_tracker *parts[2] = { NULL };
    int r;

    (void)state;
    tracker_vm_open(&vm, 0);
    make_sets();
    r = stasis_tracker_open_uffd(&vm.memory, &parts[1], &err);
    if (r < 0 && err.code == STASIS_ERR_UNSUPPORTED)
        unit_skip("%s", err.text);
    assert_stasis_ok(r, &err);
    assert_stasis_ok(open_log(), &err);
    parts[0] = tracker;
    assert_stasis_ok(stasis_tracker_open_union(parts, 2, &tracker, &err), &err);
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
    for (int epoch = 0; epoch < 10; epoch++) {
        write_random(100);
        stasis_page_set_add(&expected, 0, 1); /* the list */
        harvest();
        expect_exactly();
    }
}

static void userfaultfd_alone_sees_the_guests_writes(void **state)
{
    int r;

    (void)state;
    tracker_vm_open(&vm, 0);
    make_sets();
    r = stasis_tracker_open_uffd(&vm.memory, &tracker, &err);
    if (r < 0 && err.code == STASIS_ERR_UNSUPPORTED)
        unit_skip("%s", err.text);
    assert_stasis_ok(r, &err);
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
    for (int epoch = 0; epoch < 10; epoch++) {
        uint64_t first, count;

        write_random(100);
        stasis_page_set_add(&expected, 0, 1);
        harvest();
        for (uint64_t at = 0; stasis_page_set_next_run(&expected, at, &first, &count);
             at = first + count) {
            for (uint64_t page = first; page < first + count; page++)
                assert_true(stasis_page_set_test(&set, page));
        }
        stasis_page_set_clear(&expected);
    }
}

/* --- out of memory -------------------------------------------------------------------------- */

static void check_memory(int (*open_tracker)(void))
{
    for (unsigned nth = 1;; nth++) {
        int r;

        spy_fail_alloc(nth);
        r = open_tracker();
        if (!spy_alloc_failed()) {
            assert_stasis_ok(r, &err);
            spy_end();
            return;
        }
        assert_stasis_fails(r, &err, STASIS_ERR_OUT_OF_MEMORY);
        assert_null(tracker);
    }
}

static void opening_without_memory_leaves_nothing_behind(void **state)
{
    (void)state;
    tracker_vm_open(&vm, RING_SIZE);
    check_memory(open_log);
    stasis_tracker_close(tracker);
    tracker = NULL;
    check_memory(open_ring);
}

#define kvm_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        kvm_test(the_log_tells_exactly_the_pages_that_the_guest_wrote),
        kvm_test(the_rings_tell_exactly_the_pages_that_the_guest_wrote),
        kvm_test(a_kvm_without_manual_protection_tells_the_same),
        kvm_test(arming_again_forgets_what_was_written),
        kvm_test(pages_given_back_come_with_the_next_ones),
        kvm_test(the_log_misses_no_write_of_a_running_guest),
        kvm_test(the_rings_miss_no_write_of_a_running_guest),
        kvm_test(only_words_that_had_bits_are_cleared),
        kvm_test(closing_ends_the_log),
        kvm_test(a_log_that_cannot_be_read_or_cleared_loses_nothing),
        kvm_test(a_slot_that_cannot_be_logged_leaves_no_slot_logged),
        kvm_test(a_vm_with_rings_keeps_no_log),
        kvm_test(slots_that_do_not_fit_are_refused_and_named),
        kvm_test(a_full_ring_is_emptied_and_nothing_lost),
        kvm_test(a_ring_that_kvm_overran_loses_no_page_and_the_guest_goes_on),
        kvm_test(a_ring_that_was_used_before_is_read_on_from_there),
        kvm_test(rings_that_cannot_be_reset_lose_nothing),
        kvm_test(rings_need_kvm_to_offer_them_and_a_size_that_fits),
        kvm_test(rings_of_no_vcpu_or_of_a_vm_without_are_refused),
        kvm_test(rings_of_another_size_are_refused),
        kvm_test(the_log_and_userfaultfd_together_see_guest_and_vmm),
        kvm_test(userfaultfd_alone_sees_the_guests_writes),
        kvm_test(opening_without_memory_leaves_nothing_behind),
    };

    return unit_run(tests);
}
