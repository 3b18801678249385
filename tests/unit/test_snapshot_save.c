/* Goal:   what is saved comes back to the last byte, whatever the layout and the number of threads; and a
 *         save that fails leaves the old file and nothing else.
 * Method: random layouts restored and compared; every promised failure provoked, with the directory
 *         counted and the old file compared afterwards. */
#include "unit.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <stasis/snapshot.h>

#include "native_craft.h"
#include "snapshot_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MIB (UINT64_C(1) << 20)

static struct fixture_dir dir;
static struct stasis_machine machine;
static struct stasis_memory memory; /* a small one, for cases that need any */

static const char *path(void)
{
    return fixture_path(&dir, "a.stasis");
}

static int setup(void **state)
{
    const struct fixture_region regions[] = { { 0, 0x23000 }, { 0x100000, 0x11000 } };

    (void)state;
    fixture_dir_make(&dir);
    fixture_x86_machine(&machine, 2, 1);
    fixture_memory(&memory, regions, COUNT(regions), 30, 1);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_dir_remove(&dir);
    stasis_machine_release(&machine);
    stasis_memory_unmap(&memory);
    return 0;
}

static int save(const struct stasis_save_options *options, struct stasis_save_report *ret_report,
                struct stasis_error *err)
{
    *err = (struct stasis_error){ 0 };
    return stasis_save(path(), &machine, &memory, options, ret_report, err);
}

/* --- round trips --- */

static void expect_same(const struct stasis_machine *saved_machine,
                        const struct stasis_memory *saved_memory,
                        const struct stasis_save_report *report)
{
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_memory restored = { 0 };
    const struct stasis_snapshot_info *info;
    struct stasis_error err = { 0 };

    assert_stasis_ok(stasis_open(path(), &snapshot, &err), &err);
    info = stasis_snapshot_info(snapshot);
    assert_string_equal(info->format, "native");
    assert_memory_equal(info->id, report->id, STASIS_ID_SIZE);
    assert_true(info->memory_size == stasis_memory_size(saved_memory));
    assert_true(info->data_size == report->data_size && info->zero_size == report->zero_size);
    assert_true(info->file_size == report->file_size);
    assert_int_equal(info->arch, saved_machine->arch);
    assert_int_equal(info->vcpu_count, stasis_machine_vcpu_count(saved_machine));
    assert_true(fixture_machine_equal(stasis_snapshot_machine(snapshot), saved_machine));
    assert_stasis_ok(stasis_verify(snapshot, NULL, NULL, &err), &err);
    assert_stasis_ok(stasis_restore(snapshot, NULL, &restored, &err), &err);
    assert_true(fixture_memory_equal(&restored, saved_memory));
    stasis_memory_unmap(&restored);
    stasis_close(snapshot);
}

static void any_layout_comes_back_to_the_last_byte(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        const struct stasis_save_options options = {
            .digest = seed % 2 ? STASIS_DIGEST_XXH3_128 : STASIS_DIGEST_SHA256,
            .thread_count = seed % 7 == 0 ? UINT_MAX : (unsigned)(seed % 4),
        };
        struct stasis_save_report report = { 0 };
        struct stasis_memory random = { 0 };
        struct stasis_error err = { 0 };

        fixture_random_memory(&random, 30, seed % 5 == 0 ? 2 * MIB : 0x24000, seed);
        assert_stasis_ok(stasis_save(path(), &machine, &random, &options, &report, &err), &err);
        assert_true(report.memory_size == stasis_memory_size(&random));
        assert_true(report.data_size == fixture_data_pages(&random) * STASIS_PAGE_SIZE);
        assert_true(report.data_size + report.zero_size == report.memory_size);
        expect_same(&machine, &random, &report);
        stasis_memory_unmap(&random);
    }
}

static void an_arm64_machine_comes_back(void **state)
{
    struct stasis_save_report report = { 0 };
    struct stasis_machine arm64;
    struct stasis_error err = { 0 };

    (void)state;
    fixture_arm64_machine(&arm64, 3, 7);
    assert_stasis_ok(stasis_save(path(), &arm64, &memory, NULL, &report, &err), &err);
    expect_same(&arm64, &memory, &report);
    stasis_machine_release(&arm64);
}

static void a_memory_of_zeros_is_all_hole(void **state)
{
    const struct fixture_region region = { 0, 64 * MIB };
    struct stasis_save_report report = { 0 };
    struct stasis_memory zeros = { 0 };
    struct stasis_error err = { 0 };

    (void)state;
    fixture_memory(&zeros, &region, 1, 100, 1);
    assert_stasis_ok(stasis_save(path(), &machine, &zeros, NULL, &report, &err), &err);
    assert_true(report.data_size == 0);
    assert_true(report.file_size > 64 * MIB);
    assert_true(report.file_allocated < 256 * 1024);
    expect_same(&machine, &zeros, &report);
    stasis_memory_unmap(&zeros);
}

/* Bytes that differ from run to run: when it was made, and so the digests above that. */
static void blank_time(struct craft *file)
{
    const uint64_t off = craft_field(file, CRAFT_META, CRAFT_OFF, 8);
    const uint64_t size = craft_field(file, CRAFT_META, CRAFT_SIZE, 8);

    memset(file->data + off, 0, size);
    craft_seal(file);
}

static void the_file_is_the_same_for_any_number_of_threads(void **state)
{
    struct stasis_memory large = { 0 };
    struct craft first = { 0 };

    (void)state;
    fixture_random_memory(&large, 5, 8 * MIB, 77);
    for (unsigned thread_count = 1; thread_count <= 9; thread_count += 4) {
        const struct stasis_save_options options = { .thread_count = thread_count };
        struct stasis_error err = { 0 };
        struct craft file;

        assert_stasis_ok(stasis_save(path(), &machine, &large, &options, NULL, &err), &err);
        craft_load(&file, path());
        blank_time(&file);
        if (!first.data) {
            first = file;
            continue;
        }
        assert_int_equal(file.size, first.size);
        assert_memory_equal(file.data, first.data, file.size);
        craft_release(&file);
    }
    craft_release(&first);
    stasis_memory_unmap(&large);
}

static void label_and_time_are_kept(void **state)
{
    char label[256];
    const struct stasis_save_options options = { .label = label };
    struct stasis_snapshot *snapshot = NULL;
    struct stasis_error err;
    const time_t before = time(NULL);

    (void)state;
    memset(label, 'x', 255);
    memcpy(label, "grün", strlen("grün"));
    label[255] = '\0';
    assert_stasis_ok(save(&options, NULL, &err), &err);
    assert_stasis_ok(stasis_open(path(), &snapshot, &err), &err);
    assert_string_equal(stasis_snapshot_info(snapshot)->label, label);
    assert_string_equal(stasis_snapshot_info(snapshot)->writer, "stasis " STASIS_VERSION_STRING);
    assert_in_range(stasis_snapshot_info(snapshot)->created_ns / 1000000000, before, time(NULL));
    stasis_close(snapshot);
}

static void the_file_is_private_to_its_owner(void **state)
{
    struct stasis_error err;
    struct stat st;

    (void)state;
    assert_stasis_ok(save(NULL, NULL, &err), &err);
    assert_int_equal(stat(path(), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(fixture_dir_count(&dir), 1);
}

/* --- progress --- */

struct progress_log {
    bool busy, twice_at_once, went_back, bad_total;
    uint64_t last, total;
    unsigned call_count, stop_at; /* stop_at 0: never */
};

static int log_progress(void *arg, uint64_t done, uint64_t total)
{
    struct progress_log *log = arg;

    log->twice_at_once |= log->busy;
    log->busy = true;
    log->went_back |= done < log->last;
    log->bad_total |= done > total || (log->total != 0 && log->total != total);
    log->last = done;
    log->total = total;
    usleep(1000); /* time for another thread to come in, if one could */
    log->busy = false;
    return ++log->call_count == log->stop_at ? -1 : 0;
}

static void progress_goes_forward_to_the_end_one_call_at_a_time(void **state)
{
    const struct fixture_region region = { 0, 100 * MIB + 4096 };
    struct progress_log log = { 0 };
    const struct stasis_save_options options = { .thread_count = 4,
                                                 .progress = log_progress,
                                                 .progress_arg = &log };
    struct stasis_memory large = { 0 };
    struct stasis_error err = { 0 };

    (void)state;
    fixture_memory(&large, &region, 1, 95, 1);
    assert_stasis_ok(stasis_save(path(), &machine, &large, &options, NULL, &err), &err);
    assert_false(log.twice_at_once || log.went_back || log.bad_total);
    assert_true(log.last == region.size && log.total == region.size);
    assert_in_range(log.call_count, 2, 100 / 8 + 1);
    stasis_memory_unmap(&large);
}

/* --- failures --- */

/* What is under the name before a save that must fail, to be found there after it. */
static const char old_file[] = "the old file";

static void put_old_file(void)
{
    FILE *file = fopen(path(), "w");

    assert_non_null(file);
    assert_true(fputs(old_file, file) >= 0);
    fclose(file);
}

static void expect_only_old_file(void)
{
    char text[sizeof(old_file) + 8] = "";
    FILE *file = fopen(path(), "r");

    assert_non_null(file);
    assert_non_null(fgets(text, sizeof(text), file));
    fclose(file);
    assert_string_equal(text, old_file);
    assert_int_equal(fixture_dir_count(&dir), 1);
}

#define expect_failure(options, code)                                                              \
    do {                                                                                           \
        struct stasis_save_report report_ = { .total_us = 12345 };                                 \
        struct stasis_error err_;                                                                  \
        put_old_file();                                                                            \
        assert_stasis_fails(save(options, &report_, &err_), &err_, code);                          \
        assert_true(report_.total_us == 12345 && report_.file_size == 0);                          \
        expect_only_old_file();                                                                    \
    } while (0)

static void a_cancelled_save_leaves_nothing(void **state)
{
    const struct fixture_region region = { 0, 100 * MIB };

    (void)state;
    stasis_memory_unmap(&memory);
    fixture_memory(&memory, &region, 1, 90, 1);
    for (unsigned stop_at = 1; stop_at <= 5; stop_at += 4) {
        struct progress_log log = { .stop_at = stop_at };
        const struct stasis_save_options options = { .thread_count = stop_at,
                                                     .progress = log_progress,
                                                     .progress_arg = &log };
        struct stasis_error err;

        expect_failure(&options, STASIS_ERR_CANCELLED);
        assert_int_equal(log.call_count, stop_at); /* and is not asked again */
        log = (struct progress_log){ .stop_at = stop_at };
        assert_int_equal(save(&options, NULL, &err), -ECANCELED);
    }
}

static void bad_options_are_refused(void **state)
{
    char long_label[257];
    const struct stasis_save_options digest = { .digest = 7 };
    const struct stasis_save_options label = { .label = long_label };
    const struct stasis_save_options bytes = { .label = "\xff\xfe" };

    (void)state;
    memset(long_label, 'x', 256);
    long_label[256] = '\0';
    expect_failure(&digest, STASIS_ERR_INVALID_ARGUMENT);
    expect_failure(&label, STASIS_ERR_INVALID_ARGUMENT);
    expect_failure(&bytes, STASIS_ERR_INVALID_ARGUMENT);
}

static void memory_that_is_not_mapped_or_not_sound_is_refused(void **state)
{
    void *hva = memory.regions[1].hva;

    (void)state;
    memory.regions[1].hva = NULL;
    expect_failure(NULL, STASIS_ERR_INVALID_ARGUMENT);
    memory.regions[1].hva = hva;
    memory.regions[1].gpa = 0;
    expect_failure(NULL, STASIS_ERR_INVALID_MEMORY);
    memory.regions[1].size = UINT64_C(1) << 63;
    expect_failure(NULL, STASIS_ERR_LIMIT);
    memory.regions[1].size = 0x11000;
}

static void a_machine_that_could_not_run_is_refused(void **state)
{
    (void)state;
    machine.arch = 9;
    expect_failure(NULL, STASIS_ERR_INVALID_MACHINE);
    machine.arch = STASIS_ARCH_X86_64;
}

static void a_machine_too_large_for_the_format_is_refused(void **state)
{
    static const size_t size = STASIS_DEVICE_STATE_MAX;
    uint8_t *state_bytes = calloc(1, size);
    struct stasis_error err = { 0 };

    (void)state;
    assert_non_null(state_bytes);
    for (unsigned i = 0; i < 5; i++) { /* 5 x 64 MiB: more than the section's 256 MiB */
        char id[8];

        snprintf(id, sizeof(id), "%u", i);
        assert_stasis_ok(
            stasis_machine_add_opaque_device(&machine, "large", id, 1, state_bytes, size, &err),
            &err);
    }
    free(state_bytes);
    expect_failure(NULL, STASIS_ERR_LIMIT);
}

static void what_is_no_regular_file_is_not_replaced(void **state)
{
    const char *const fifo = fixture_path(&dir, "fifo");
    struct stasis_error err = { 0 };

    (void)state;
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_stasis_fails(stasis_save(fifo, &machine, &memory, NULL, NULL, &err), &err,
                        STASIS_ERR_NOT_REGULAR);
    assert_stasis_fails(stasis_save(dir.path, &machine, &memory, NULL, NULL, &err), &err,
                        STASIS_ERR_NOT_REGULAR);
    assert_int_equal(fixture_dir_count(&dir), 1);
}

static void a_directory_that_is_not_there_is_not_found(void **state)
{
    struct stasis_error err = { 0 };
    int r;

    (void)state;
    r = stasis_save(fixture_path(&dir, "no/such"), &machine, &memory, NULL, NULL, &err);
    assert_int_equal(r, -ENOENT);
    assert_stasis_fails(r, &err, STASIS_ERR_NOT_FOUND);
}

static void a_directory_that_may_not_be_written_is_a_matter_of_permission(void **state)
{
    struct stasis_error err;
    int r;

    (void)state;
    assert_int_equal(chmod(dir.path, 0500), 0);
    if (geteuid() == 0)
        assert_int_equal(seteuid(65534), 0); /* root may write anywhere */
    r = save(NULL, NULL, &err);
    if (getuid() == 0)
        assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(dir.path, 0700), 0);
    assert_int_equal(r, -EACCES);
    assert_stasis_fails(r, &err, STASIS_ERR_PERMISSION);
    assert_int_equal(fixture_dir_count(&dir), 0);
}

static void a_file_size_limit_is_no_space(void **state)
{
    const struct rlimit small = { .rlim_cur = 2 * MIB, .rlim_max = RLIM_INFINITY };
    struct rlimit before;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    expect_failure(NULL, STASIS_ERR_NO_SPACE);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_DFL);
}

/* A file system of our own on the directory, seen by this process only. False: not permitted. */
static bool mount_here(unsigned long flags, const char *options)
{
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("stasis-test", dir.path, "tmpfs", flags, options) == 0;
}

static void a_full_file_system_is_no_space_and_keeps_nothing(void **state)
{
    struct stasis_error err;

    (void)state;
    if (!mount_here(0, "size=64k"))
        unit_skip("may not mount a file system: %s", strerror(errno));
    expect_failure(NULL, STASIS_ERR_NO_SPACE);
    assert_int_equal(save(NULL, NULL, &err), -ENOSPC);
    assert_int_equal(umount(dir.path), 0);
}

static void a_read_only_file_system_is_read_only(void **state)
{
    struct stasis_error err;
    int r;

    (void)state;
    if (!mount_here(MS_RDONLY, ""))
        unit_skip("may not mount a file system: %s", strerror(errno));
    r = save(NULL, NULL, &err);
    assert_int_equal(umount(dir.path), 0);
    assert_int_equal(r, -EROFS);
    assert_stasis_fails(r, &err, STASIS_ERR_READ_ONLY);
}

static void every_error_may_go_untold(void **state)
{
    (void)state;
    machine.arch = 9;
    assert_int_equal(stasis_save(path(), &machine, &memory, NULL, NULL, NULL), -EBADMSG);
    machine.arch = STASIS_ARCH_X86_64;
    assert_int_equal(stasis_save(path(), &machine, &memory, NULL, NULL, NULL), 0);
}

#define case_(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        case_(any_layout_comes_back_to_the_last_byte),
        case_(an_arm64_machine_comes_back),
        case_(a_memory_of_zeros_is_all_hole),
        case_(the_file_is_the_same_for_any_number_of_threads),
        case_(label_and_time_are_kept),
        case_(the_file_is_private_to_its_owner),
        case_(progress_goes_forward_to_the_end_one_call_at_a_time),
        case_(a_cancelled_save_leaves_nothing),
        case_(bad_options_are_refused),
        case_(memory_that_is_not_mapped_or_not_sound_is_refused),
        case_(a_machine_that_could_not_run_is_refused),
        case_(a_machine_too_large_for_the_format_is_refused),
        case_(what_is_no_regular_file_is_not_replaced),
        case_(a_directory_that_is_not_there_is_not_found),
        case_(a_directory_that_may_not_be_written_is_a_matter_of_permission),
        case_(a_file_size_limit_is_no_space),
        case_(a_full_file_system_is_no_space_and_keeps_nothing),
        case_(a_read_only_file_system_is_read_only),
        case_(every_error_may_go_untold),
    };

    return unit_run(tests);
}
