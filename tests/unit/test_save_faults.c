/* Goal:   a diff that fails, whenever and by whatever, loses no change: the next one contains it.
 * Method: the linker hands the calls that can fail to this file (--wrap), which fails the first, the
 *         second, ... of them with ENOSPC or EIO, until a diff gets through; then the next diff is
 *         restored and compared with the guest. */
#include "unit.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <stasis/dirty.h>
#include <stasis/snapshot.h>

#include "snapshot_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum call { CALL_ALLOC, CALL_MMAP, CALL_WRITE, CALL_TRUNCATE, CALL_SYNC, CALL_RENAME };

/* Which call fails next: `left` more of them get through. */
static struct fault {
    bool armed;
    enum call call;
    int errnum;
    atomic_int left;
    atomic_bool met;
} fault;

static bool fails(enum call call)
{
    if (!fault.armed || fault.call != call || atomic_fetch_sub(&fault.left, 1) != 0)
        return false;
    atomic_store(&fault.met, true);
    errno = fault.errnum;
    return true;
}

/* Names of wrapped functions are the linker's. */
void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
    return fails(CALL_ALLOC) ? NULL : __real_malloc(size);
}

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
    return fails(CALL_ALLOC) ? NULL : __real_calloc(count, size);
}

void *__real_realloc(void *pointer, size_t size);
void *__wrap_realloc(void *pointer, size_t size);
void *__wrap_realloc(void *pointer, size_t size)
{
    return fails(CALL_ALLOC) ? NULL : __real_realloc(pointer, size);
}

void *__real_mmap64(void *hva, size_t size, int prot, int flags, int fd, off_t file_off);
void *__wrap_mmap64(void *hva, size_t size, int prot, int flags, int fd, off_t file_off);
void *__wrap_mmap64(void *hva, size_t size, int prot, int flags, int fd, off_t file_off)
{
    return fails(CALL_MMAP) ? MAP_FAILED : __real_mmap64(hva, size, prot, flags, fd, file_off);
}

ssize_t __real_pwrite64(int fd, const void *buf, size_t size, off_t file_off);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t size, off_t file_off);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t size, off_t file_off)
{
    return fails(CALL_WRITE) ? -1 : __real_pwrite64(fd, buf, size, file_off);
}

ssize_t __real_pwritev64(int fd, const struct iovec *iov, int count, off_t file_off);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t file_off);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int count, off_t file_off)
{
    return fails(CALL_WRITE) ? -1 : __real_pwritev64(fd, iov, count, file_off);
}

int __real_ftruncate64(int fd, off_t size);
int __wrap_ftruncate64(int fd, off_t size);
int __wrap_ftruncate64(int fd, off_t size)
{
    return fails(CALL_TRUNCATE) ? -1 : __real_ftruncate64(fd, size);
}

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
    return fails(CALL_SYNC) ? -1 : __real_fdatasync(fd);
}

int __real_renameat(int old_fd, const char *old_name, int new_fd, const char *new_name);
int __wrap_renameat(int old_fd, const char *old_name, int new_fd, const char *new_name);
int __wrap_renameat(int old_fd, const char *old_name, int new_fd, const char *new_name)
{
    return fails(CALL_RENAME) ? -1 : __real_renameat(old_fd, old_name, new_fd, new_name);
}

/* --- the cases --- */

static struct fixture_dir dir;
static struct stasis_machine machine;
static struct stasis_memory memory;
static struct stasis_tracker *tracker;
static struct stasis_snapshot *parent; /* a full snapshot, which every diff is against */
static uint8_t base_id[STASIS_ID_SIZE];
static uint64_t random_state = 1;

static int group_setup(void **state)
{
    const struct fixture_region regions[] = { { 0, 0x123000 }, { 0x10000000, 0x41000 } };
    struct stasis_save_options options = { 0 };
    struct stasis_save_report report;
    struct stasis_error err = { 0 };

    (void)state;
    fixture_dir_make(&dir);
    fixture_x86_machine(&machine, 1, 1);
    fixture_memory(&memory, regions, COUNT(regions), 60, 1);
    if (stasis_tracker_open_bitmap(&memory, NULL, &tracker, &err) < 0 ||
        stasis_tracker_arm(tracker, &err) < 0)
        goto out;
    options.tracker = tracker;
    if (stasis_save(fixture_path(&dir, "base"), &machine, &memory, &options, &report, &err) < 0 ||
        stasis_open(fixture_path(&dir, "base"), &parent, &err) < 0)
        goto out;
    memcpy(base_id, report.id, sizeof(base_id));
    return 0;
out:
    print_error("%s\n", err.text);
    return -1;
}

static int group_teardown(void **state)
{
    (void)state;
    fault.armed = false;
    stasis_close(parent);
    stasis_tracker_close(tracker);
    stasis_machine_release(&machine);
    stasis_memory_unmap(&memory);
    fixture_dir_remove(&dir);
    return 0;
}

static int disarm(void **state)
{
    (void)state;
    fault.armed = false;
    return 0;
}

/* Some pages change, one of them to zeros. */
static void change_pages(void)
{
    for (unsigned i = 0; i < 20; i++) {
        const struct stasis_region *region = &memory.regions[fixture_random(&random_state) % 2];
        const uint64_t page_count = region->size / STASIS_PAGE_SIZE;
        const uint64_t off = fixture_random(&random_state) % page_count * STASIS_PAGE_SIZE;

        memset((uint8_t *)region->hva + off, i == 0 ? 0 : (int)fixture_random(&random_state),
               STASIS_PAGE_SIZE);
        assert_int_equal(stasis_tracker_mark(tracker, region->gpa + off, STASIS_PAGE_SIZE), 0);
    }
}

static int save_diff(const char *name, enum stasis_writer writer, struct stasis_error *err)
{
    const struct stasis_save_options options = {
        .tracker = tracker, .parent = parent, .writer = writer, .thread_count = 2
    };
    struct stasis_save_job *job = NULL;
    int r = stasis_save_begin(fixture_path(&dir, name), &machine, &memory, &options, &job, err);

    return r < 0 ? r : stasis_save_finish(job, NULL, err);
}

static void expect_diff_is_the_guest(const char *name)
{
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_memory restored = { 0 };
    struct stasis_error err = { 0 };

    assert_stasis_ok(stasis_open(fixture_path(&dir, name), &snapshot, &err), &err);
    assert_stasis_ok(stasis_verify(snapshot, NULL, NULL, &err), &err);
    assert_stasis_ok(stasis_restore(snapshot, NULL, &restored, &err), &err);
    assert_true(fixture_memory_equal(&restored, &memory));
    stasis_memory_unmap(&restored);
    stasis_close(snapshot);
}

/* Fail the `nth` of these calls in a diff; false when there were fewer. Whatever comes of it, the
 * next diff has all changes, and the tracker counts from the same snapshot as before. */
static bool fail_nth(enum call call, int errnum, enum stasis_writer writer, int nth)
{
    struct stasis_error err = { 0 };
    bool met;
    int r;

    change_pages();
    fault.call = call;
    fault.errnum = errnum;
    atomic_store(&fault.left, nth);
    atomic_store(&fault.met, false);
    fault.armed = true;
    r = save_diff("failed", writer, &err);
    fault.armed = false;
    met = atomic_load(&fault.met);
    if (r < 0) {
        assert_true(met);
        assert_stasis_fails(r, &err,
                            errnum == ENOSPC ? STASIS_ERR_NO_SPACE
                            : errnum == EIO  ? STASIS_ERR_IO
                                             : STASIS_ERR_OUT_OF_MEMORY);
        assert_int_equal(fixture_dir_count(&dir), 1);
        assert_memory_equal(stasis_tracker_base(tracker), base_id, STASIS_ID_SIZE);
        assert_stasis_ok(save_diff("next", writer, &err), &err);
        expect_diff_is_the_guest("next");
        assert_int_equal(unlink(fixture_path(&dir, "next")), 0);
    } else {
        /* A thread that could not be had is done without. */
        assert_true(!met || call == CALL_ALLOC);
        expect_diff_is_the_guest("failed");
        assert_int_equal(unlink(fixture_path(&dir, "failed")), 0);
    }
    /* Back to counting from the base, with every change since: the guest is compared as a whole. */
    stasis_tracker_set_base(tracker, base_id);
    for (size_t i = 0; i < memory.region_count; i++)
        assert_int_equal(
            stasis_tracker_mark(tracker, memory.regions[i].gpa, memory.regions[i].size), 0);
    return met;
}

/* How many calls of the kind a diff makes, each of which has failed once. */
static int fail_each(enum call call, int errnum)
{
    int count = 0;

    for (enum stasis_writer writer = STASIS_WRITER_STREAMING; writer <= STASIS_WRITER_COMPACT;
         writer++) {
        for (int nth = 0; fail_nth(call, errnum, writer, nth); nth++)
            count++;
    }
    return count;
}

static void a_full_disk_at_any_write_of_a_diff_loses_no_change(void **state)
{
    (void)state;
    assert_true(fail_each(CALL_WRITE, ENOSPC) >= 10);
    (void)fail_each(CALL_TRUNCATE, ENOSPC);
}

static void an_error_at_any_write_of_a_diff_loses_no_change(void **state)
{
    (void)state;
    assert_true(fail_each(CALL_WRITE, EIO) >= 10);
}

static void an_error_at_the_commit_of_a_diff_loses_no_change(void **state)
{
    (void)state;
    assert_int_equal(fail_each(CALL_SYNC, EIO), 2);
    assert_int_equal(fail_each(CALL_RENAME, EIO), 2);
}

static void memory_that_cannot_be_had_loses_no_change(void **state)
{
    (void)state;
    assert_true(fail_each(CALL_ALLOC, ENOMEM) >= 10);
    assert_true(fail_each(CALL_MMAP, ENOMEM) >= 2);
}

/* One diff's failure, with only the failed changes to be told: nothing else marks the pages. */
static void the_next_diff_has_exactly_the_pages_of_the_failed_one_and_its_own(void **state)
{
    struct stasis_save_options options = { .tracker = tracker, .parent = parent };
    struct stasis_save_report report = { 0 };
    struct stasis_error err = { 0 };
    const uint64_t page = STASIS_PAGE_SIZE;

    (void)state;
    assert_stasis_ok(stasis_tracker_arm(tracker, &err), &err);
    stasis_tracker_set_base(tracker, base_id);
    memset((uint8_t *)memory.regions[0].hva + 3 * page, 3, page);
    assert_int_equal(stasis_tracker_mark(tracker, 3 * page, page), 0);
    fault = (struct fault){ .armed = true, .call = CALL_WRITE, .errnum = ENOSPC };
    assert_stasis_fails(save_diff("failed", STASIS_WRITER_COMPACT, &err), &err,
                        STASIS_ERR_NO_SPACE);
    fault.armed = false;
    memset((uint8_t *)memory.regions[0].hva + 9 * page, 9, page);
    assert_int_equal(stasis_tracker_mark(tracker, 9 * page, page), 0);
    assert_stasis_ok(
        stasis_save(fixture_path(&dir, "next"), &machine, &memory, &options, &report, &err), &err);
    assert_true(report.data_size == 2 * page && report.zero_size == 0);
    assert_memory_equal(stasis_tracker_base(tracker), report.id, STASIS_ID_SIZE);
}

#define case_(name) cmocka_unit_test_teardown(name, disarm)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        case_(a_full_disk_at_any_write_of_a_diff_loses_no_change),
        case_(an_error_at_any_write_of_a_diff_loses_no_change),
        case_(an_error_at_the_commit_of_a_diff_loses_no_change),
        case_(memory_that_cannot_be_had_loses_no_change),
        case_(the_next_diff_has_exactly_the_pages_of_the_failed_one_and_its_own),
    };

    return unit_run_with(tests, group_setup, group_teardown);
}
