/* Goal:   a restored memory is the guest's own: private, writable, outliving the handle and the file's
 *         name; and opening and restoring do not cost more for a larger guest.
 * Method: restore, change, compare with a second restore and with the file. */
#include "unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stasis/snapshot.h>

#include "native_craft.h"
#include "snapshot_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct fixture_region regions[] = { { 0, 0x23000 }, { 0x100000, 0x11000 } };

static struct fixture_dir dir;
static struct stasis_machine machine;
static struct stasis_memory memory;
static struct stasis_snapshot *snapshot;

static const char *path(void)
{
    return fixture_path(&dir, "a.stasis");
}

static int setup(void **state)
{
    struct stasis_error err = { 0 };

    (void)state;
    fixture_dir_make(&dir);
    fixture_x86_machine(&machine, 2, 1);
    fixture_memory(&memory, regions, COUNT(regions), 30, 1);
    if (stasis_save(path(), &machine, &memory, NULL, NULL, &err) == 0 &&
        stasis_open(path(), &snapshot, &err) == 0)
        return 0;
    print_error("%s\n", err.text);
    return -1;
}

static int teardown(void **state)
{
    (void)state;
    stasis_close(snapshot);
    snapshot = NULL;
    stasis_machine_release(&machine);
    stasis_memory_unmap(&memory);
    fixture_dir_remove(&dir);
    return 0;
}

static void what_a_guest_writes_is_its_own(void **state)
{
    struct stasis_memory a = { 0 }, b = { 0 };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_ok(stasis_restore(snapshot, NULL, &a, &err), &err);
    for (size_t i = 0; i < a.region_count; i++)
        memset(a.regions[i].hva, 0x5a, a.regions[i].size);
    assert_stasis_ok(stasis_restore(snapshot, NULL, &b, &err), &err);
    assert_true(fixture_memory_equal(&b, &memory));
    assert_stasis_ok(stasis_verify(snapshot, NULL, NULL, &err), &err);
    stasis_memory_unmap(&a);
    stasis_memory_unmap(&b);
}

static void memory_outlives_the_handle_and_the_files_name(void **state)
{
    struct stasis_memory restored = { 0 };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_ok(stasis_restore(snapshot, NULL, &restored, &err), &err);
    stasis_close(snapshot);
    snapshot = NULL;
    assert_int_equal(unlink(path()), 0);
    assert_true(fixture_memory_equal(&restored, &memory));
    stasis_memory_unmap(&restored);
}

static void the_handle_keeps_the_file_it_opened(void **state)
{
    struct stasis_memory restored = { 0 }, other = { 0 };
    struct stasis_error err = { 0 };

    (void)state;
    fixture_memory(&other, regions, COUNT(regions), 10, 99);
    assert_stasis_ok(stasis_save(path(), &machine, &other, NULL, NULL, &err), &err);
    assert_stasis_ok(stasis_restore(snapshot, NULL, &restored, &err), &err);
    assert_true(fixture_memory_equal(&restored, &memory));
    stasis_memory_unmap(&restored);
    stasis_memory_unmap(&other);
}

static void a_file_that_has_shrunk_is_not_mapped(void **state)
{
    struct stasis_memory restored = { .region_count = 77 };
    struct stasis_error err = { 0 };
    int r;

    (void)state;
    assert_int_equal(truncate(path(), 4096), 0);
    r = stasis_restore(snapshot, NULL, &restored, &err);
    assert_int_equal(r, -EBADMSG);
    assert_stasis_fails(r, &err, STASIS_ERR_TRUNCATED);
    assert_int_equal(restored.region_count, 77);
}

static void an_unknown_mode_is_refused(void **state)
{
    const struct stasis_restore_options options = { .mode = 9 };
    struct stasis_memory restored = { .region_count = 77 };
    struct stasis_error err = { 0 };
    int r;

    (void)state;
    r = stasis_restore(snapshot, &options, &restored, &err);
    assert_int_equal(r, -EINVAL);
    assert_stasis_fails(r, &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_int_equal(restored.region_count, 77);
}

static void a_verified_restore_refuses_damage_and_a_plain_one_does_not_look(void **state)
{
    const struct stasis_restore_options options = { .mode = STASIS_RESTORE_MAP, .verify = true };
    struct stasis_memory restored = { 0 };
    struct stasis_error err = { 0 };
    struct craft file;

    (void)state;
    assert_stasis_ok(stasis_restore(snapshot, &options, &restored, &err), &err);
    assert_true(fixture_memory_equal(&restored, &memory));
    stasis_memory_unmap(&restored);
    stasis_close(snapshot);
    snapshot = NULL;

    craft_load(&file, path());
    file.data[craft_field(&file, CRAFT_MEMORY, CRAFT_OFF, 8) + 4097] ^= 1;
    craft_store(&file, path());
    craft_release(&file);
    assert_stasis_ok(stasis_open(path(), &snapshot, &err), &err);
    assert_stasis_fails(stasis_restore(snapshot, &options, &restored, &err), &err,
                        STASIS_ERR_DIGEST_MISMATCH);
    assert_null(restored.regions);
    assert_stasis_ok(stasis_restore(snapshot, NULL, &restored, &err), &err);
    stasis_memory_unmap(&restored);
}

/* Bytes of a thread's and its children's reading, as the kernel counts them; -1 where it does not. */
static long long bytes_read_so_far(void)
{
    FILE *file = fopen("/proc/self/io", "r");
    long long bytes = -1;

    if (!file)
        return -1;
    if (fscanf(file, "rchar: %lld", &bytes) != 1)
        bytes = -1;
    fclose(file);
    return bytes;
}

static long long bytes_to_open(const char *name)
{
    struct stasis_snapshot *opened = NULL;
    struct stasis_memory restored = { 0 };
    struct stasis_error err = { 0 };
    const long long before = bytes_read_so_far();

    assert_stasis_ok(stasis_open(name, &opened, &err), &err);
    assert_stasis_ok(stasis_restore(opened, NULL, &restored, &err), &err);
    stasis_memory_unmap(&restored);
    stasis_close(opened);
    return bytes_read_so_far() - before;
}

static void opening_and_restoring_read_no_more_of_a_larger_guest(void **state)
{
    const struct fixture_region large_regions[] = { { 0, 0x23000 },
                                                    { UINT64_C(1) << 32, UINT64_C(256) << 20 } };
    const char *large_path = fixture_path(&dir, "large.stasis");
    struct stasis_memory large = { 0 };
    struct stasis_error err = { 0 };
    long long small_bytes, large_bytes;

    (void)state;
    if (bytes_read_so_far() < 0)
        unit_skip("the kernel does not count what is read (/proc/self/io)");
    fixture_memory(&large, large_regions, 2, 97, 1);
    assert_stasis_ok(stasis_save(large_path, &machine, &large, NULL, NULL, &err), &err);
    small_bytes = bytes_to_open(path());
    large_bytes = bytes_to_open(large_path);
    assert_true(small_bytes > 4096);
    assert_in_range(large_bytes, small_bytes - 256, small_bytes + 256);
    stasis_memory_unmap(&large);
}

static void nothing_can_be_closed(void **state)
{
    (void)state;
    stasis_close(NULL);
}

#define case_(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        case_(what_a_guest_writes_is_its_own),
        case_(memory_outlives_the_handle_and_the_files_name),
        case_(the_handle_keeps_the_file_it_opened),
        case_(a_file_that_has_shrunk_is_not_mapped),
        case_(an_unknown_mode_is_refused),
        case_(a_verified_restore_refuses_damage_and_a_plain_one_does_not_look),
        case_(opening_and_restoring_read_no_more_of_a_larger_guest),
        cmocka_unit_test(nothing_can_be_closed),
    };

    return unit_run(tests);
}
