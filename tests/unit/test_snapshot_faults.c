/* Goal:   whichever system call or allocation fails, and whenever, save, open, verify and restore say
 *         so by the right code, give back what they took, and leave the old file and nothing else.
 * Method: the linker hands those calls to this file (--wrap), which fails the first, the second, ... of
 *         them, until a job gets through without meeting its failure. */
#include "unit.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stasis/snapshot.h>

#include "native_craft.h"
#include "snapshot_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum call {
    CALL_MALLOC,
    CALL_MMAP,
    CALL_PREAD,
    CALL_PWRITE,
    CALL_FTRUNCATE,
    CALL_FDATASYNC,
    CALL_RENAMEAT,
    CALL_FSTAT,
};

static const struct call_facts {
    const char *name;
    int errnum; /* what it fails with */
    enum stasis_code code;
} call_facts[] = {
    [CALL_MALLOC] = { "malloc", ENOMEM, STASIS_ERR_OUT_OF_MEMORY },
    [CALL_MMAP] = { "mmap", ENOMEM, STASIS_ERR_OUT_OF_MEMORY },
    [CALL_PREAD] = { "pread", EIO, STASIS_ERR_IO },
    [CALL_PWRITE] = { "pwrite", ENOSPC, STASIS_ERR_NO_SPACE },
    [CALL_FTRUNCATE] = { "ftruncate", EFBIG, STASIS_ERR_NO_SPACE },
    [CALL_FDATASYNC] = { "fdatasync", EIO, STASIS_ERR_IO },
    [CALL_RENAMEAT] = { "renameat", EIO, STASIS_ERR_IO },
    [CALL_FSTAT] = { "fstat", EIO, STASIS_ERR_IO },
};

/* Which call fails next: `left` more of them get through. Off when `armed` is false. */
static struct fault {
    bool armed;
    enum call call;
    atomic_int left;
    atomic_bool met;
} fault;

static bool fails(enum call call)
{
    if (!fault.armed || fault.call != call || atomic_fetch_sub(&fault.left, 1) != 0)
        return false;
    atomic_store(&fault.met, true);
    errno = call_facts[call].errnum;
    return true;
}

/* Names of wrapped functions are the linker's. */
void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
    return fails(CALL_MALLOC) ? NULL : __real_malloc(size);
}

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
    return fails(CALL_MALLOC) ? NULL : __real_calloc(count, size);
}

void *__real_realloc(void *pointer, size_t size);
void *__wrap_realloc(void *pointer, size_t size);
void *__wrap_realloc(void *pointer, size_t size)
{
    return fails(CALL_MALLOC) ? NULL : __real_realloc(pointer, size);
}

void *__real_mmap64(void *hva, size_t size, int prot, int flags, int fd, off_t file_off);
void *__wrap_mmap64(void *hva, size_t size, int prot, int flags, int fd, off_t file_off);
void *__wrap_mmap64(void *hva, size_t size, int prot, int flags, int fd, off_t file_off)
{
    return fails(CALL_MMAP) ? MAP_FAILED : __real_mmap64(hva, size, prot, flags, fd, file_off);
}

ssize_t __real_pread64(int fd, void *buf, size_t size, off_t file_off);
ssize_t __wrap_pread64(int fd, void *buf, size_t size, off_t file_off);
ssize_t __wrap_pread64(int fd, void *buf, size_t size, off_t file_off)
{
    return fails(CALL_PREAD) ? -1 : __real_pread64(fd, buf, size, file_off);
}

ssize_t __real_pwrite64(int fd, const void *buf, size_t size, off_t file_off);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t size, off_t file_off);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t size, off_t file_off)
{
    return fails(CALL_PWRITE) ? -1 : __real_pwrite64(fd, buf, size, file_off);
}

int __real_ftruncate64(int fd, off_t size);
int __wrap_ftruncate64(int fd, off_t size);
int __wrap_ftruncate64(int fd, off_t size)
{
    return fails(CALL_FTRUNCATE) ? -1 : __real_ftruncate64(fd, size);
}

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_fdatasync(int fd)
{
    return fails(CALL_FDATASYNC) ? -1 : __real_fdatasync(fd);
}

int __real_renameat(int old_fd, const char *old_name, int new_fd, const char *new_name);
int __wrap_renameat(int old_fd, const char *old_name, int new_fd, const char *new_name);
int __wrap_renameat(int old_fd, const char *old_name, int new_fd, const char *new_name)
{
    return fails(CALL_RENAMEAT) ? -1 : __real_renameat(old_fd, old_name, new_fd, new_name);
}

int __real_fstat64(int fd, struct stat64 *st);
int __wrap_fstat64(int fd, struct stat64 *st);
int __wrap_fstat64(int fd, struct stat64 *st)
{
    return fails(CALL_FSTAT) ? -1 : __real_fstat64(fd, st);
}

/* --- the cases --- */

static struct fixture_dir dir;
static struct stasis_machine machine;
static struct stasis_memory memory;
static struct craft old_file; /* what is under the name before a save that fails */
static struct stasis_snapshot *snapshot;

static const char *path(void)
{
    return fixture_path(&dir, "a.stasis");
}

static int group_setup(void **state)
{
    const struct fixture_region regions[] = { { 0, 0x123000 }, { 0x10000000, 0x111000 } };
    struct stasis_error err = { 0 };

    (void)state;
    fixture_dir_make(&dir);
    fixture_x86_machine(&machine, 1, 1);
    fixture_memory(&memory, regions, COUNT(regions), 80, 1);
    if (stasis_save(path(), &machine, &memory, NULL, NULL, &err) < 0 ||
        stasis_open(path(), &snapshot, &err) < 0) {
        print_error("%s\n", err.text);
        return -1;
    }
    craft_load(&old_file, path());
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    stasis_close(snapshot);
    craft_release(&old_file);
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

typedef int job_fn(struct stasis_error *err);

static int save_job(struct stasis_error *err)
{
    const struct stasis_save_options options = { .thread_count = 2 };

    return stasis_save(path(), &machine, &memory, &options, NULL, err);
}

static int open_job(struct stasis_error *err)
{
    struct stasis_snapshot *opened = NULL;
    const int r = stasis_open(path(), &opened, err);

    if (r < 0)
        assert_null(opened);
    stasis_close(opened);
    return r;
}

static int verify_job(struct stasis_error *err)
{
    const struct stasis_verify_options options = { .thread_count = 2 };

    return stasis_verify(snapshot, &options, NULL, err);
}

static int restore_job(struct stasis_error *err)
{
    struct stasis_memory restored = { 0 };
    const int r = stasis_restore(snapshot, NULL, &restored, err);

    if (r < 0)
        assert_null(restored.regions);
    stasis_memory_unmap(&restored);
    return r;
}

static unsigned open_descriptor_count(void)
{
    const struct fixture_dir descriptors = { "/proc/self/fd" };

    return fixture_dir_count(&descriptors);
}

static void expect_old_file_and_nothing_else(void)
{
    struct craft now;

    assert_int_equal(fixture_dir_count(&dir), 1);
    craft_load(&now, path());
    assert_int_equal(now.size, old_file.size);
    assert_memory_equal(now.data, old_file.data, now.size);
    craft_release(&now);
}

/* Fail the `nth` of these calls in the job. False when the job made fewer of them. */
static bool fail_nth(job_fn *job, enum call call, int nth)
{
    const unsigned descriptors = open_descriptor_count();
    struct stasis_error err = { 0 };
    int r;

    fault.call = call;
    atomic_store(&fault.left, nth);
    atomic_store(&fault.met, false);
    fault.armed = true;
    r = job(&err);
    fault.armed = false;
    assert_int_equal(open_descriptor_count(), descriptors);
    if (!atomic_load(&fault.met)) {
        assert_stasis_ok(r, &err);
        return false;
    }
    if (r == 0 && (job == save_job || job == verify_job)) {
        /* Two failures may be lived with: a thread's, and asking how much disk was taken. */
        assert_true(call == CALL_MALLOC || call == CALL_FSTAT);
        craft_store(&old_file, path());
        return true;
    }
    if (r >= 0 || err.code != call_facts[call].code)
        fail_msg("%s number %d failed: result %d, %s: %s", call_facts[call].name, nth, r,
                 stasis_code_name(err.code), err.text);
    expect_old_file_and_nothing_else();
    return true;
}

/* How many calls of the kind the job made, each of which has failed once. */
static int fail_each(job_fn *job, enum call call)
{
    int nth = 0;

    while (fail_nth(job, call, nth))
        nth++;
    return nth;
}

static void a_save_survives_no_failure_without_telling(void **state)
{
    static const enum call calls[] = { CALL_MALLOC,    CALL_MMAP,      CALL_PWRITE,
                                       CALL_FTRUNCATE, CALL_FDATASYNC, CALL_RENAMEAT };

    (void)state;
    for (size_t i = 0; i < COUNT(calls); i++) {
        assert_true(fail_each(save_job, calls[i]) > 0);
        craft_store(&old_file, path());
    }
    (void)fail_each(save_job, CALL_FSTAT);
    craft_store(&old_file, path());
}

static void an_open_gives_back_all_it_took_when_anything_fails(void **state)
{
    static const enum call calls[] = { CALL_MALLOC, CALL_PREAD, CALL_FSTAT };

    (void)state;
    for (size_t i = 0; i < COUNT(calls); i++)
        assert_true(fail_each(open_job, calls[i]) > 0);
}

static void a_verification_that_cannot_read_is_a_failure_and_not_damage(void **state)
{
    static const enum call calls[] = { CALL_MALLOC, CALL_PREAD, CALL_FSTAT };

    (void)state;
    for (size_t i = 0; i < COUNT(calls); i++)
        assert_true(fail_each(verify_job, calls[i]) > 0);
}

static void a_restore_that_fails_unmaps_what_it_had(void **state)
{
    static const enum call calls[] = { CALL_MALLOC, CALL_MMAP, CALL_FSTAT };

    (void)state;
    for (size_t i = 0; i < COUNT(calls); i++)
        assert_true(fail_each(restore_job, calls[i]) > 0);
}

#define case_(name) cmocka_unit_test_teardown(name, disarm)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        case_(a_save_survives_no_failure_without_telling),
        case_(an_open_gives_back_all_it_took_when_anything_fails),
        case_(a_verification_that_cannot_read_is_a_failure_and_not_damage),
        case_(a_restore_that_fails_unmaps_what_it_had),
    };

    return unit_run_with(tests, group_setup, group_teardown);
}
