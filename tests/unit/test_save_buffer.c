/* Goal:   a snapshot in memory or in a caller's file is, byte for byte, the one that a save writes under
 *         a name; what is no place for one is refused, and a failure leaves the caller's file empty.
 * Method: the three compared; files that are not empty, not regular, not writable, too small. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <stasis/snapshot.h>

#include "native_craft.h"
#include "snapshot_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct fixture_dir dir;
static struct stasis_machine machine;
static struct stasis_memory memory;
static int fd = -1;

static int setup(void **state)
{
    const struct fixture_region regions[] = { { 0, 0x223000 }, { 0x10000000, 0x311000 } };

    (void)state;
    fixture_dir_make(&dir);
    fixture_x86_machine(&machine, 2, 1);
    fixture_memory(&memory, regions, COUNT(regions), 60, 1);
    fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    close(fd);
    stasis_machine_release(&machine);
    stasis_memory_unmap(&memory);
    fixture_dir_remove(&dir);
    return 0;
}

static int save(int to, struct stasis_save_report *ret_report, struct stasis_error *err)
{
    *err = (struct stasis_error){ 0 };
    return stasis_save_fd(to, &machine, &memory, NULL, ret_report, err);
}

/* Bytes that differ from run to run: when it was made, and so the digests above that. */
static void blank_time(struct craft *file)
{
    memset(file->data + craft_field(file, CRAFT_META, CRAFT_OFF, 8), 0,
           craft_field(file, CRAFT_META, CRAFT_SIZE, 8));
    craft_seal(file);
}

static void a_buffer_and_a_descriptor_hold_what_a_file_holds(void **state)
{
    struct stasis_buffer buffer = { 0 };
    struct stasis_save_report report = { 0 }, buffer_report = { 0 };
    struct craft file, in_memory, in_fd;
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_ok(stasis_save(fixture_path(&dir, "a"), &machine, &memory, NULL, NULL, &err),
                     &err);
    assert_stasis_ok(stasis_save_buffer(&machine, &memory, NULL, &buffer, &buffer_report, &err),
                     &err);
    assert_stasis_ok(save(fd, &report, &err), &err);
    assert_int_equal(buffer.size, buffer_report.file_size);
    craft_load(&file, fixture_path(&dir, "a"));
    craft_copy(&in_memory, &(struct craft){ buffer.data, buffer.size });
    in_fd = (struct craft){ malloc(file.size), file.size };
    assert_int_equal(pread(fd, in_fd.data, in_fd.size, 0), (ssize_t)in_fd.size);
    assert_int_equal(report.file_size, file.size);
    assert_int_equal(in_memory.size, file.size);
    blank_time(&file);
    blank_time(&in_memory);
    blank_time(&in_fd);
    assert_memory_equal(in_memory.data, file.data, file.size);
    assert_memory_equal(in_fd.data, file.data, file.size);
    craft_release(&file);
    craft_release(&in_memory);
    craft_release(&in_fd);
    stasis_buffer_release(&buffer);
    assert_null(buffer.data);
    stasis_buffer_release(&buffer);
    stasis_buffer_release(NULL);
}

static void zeros_in_a_buffer_take_no_memory(void **state)
{
    const struct fixture_region region = { 0, UINT64_C(256) << 20 };
    struct stasis_save_report report = { 0 };
    struct stasis_memory zeros = { 0 };
    struct stasis_error err = { 0 };

    (void)state;
    fixture_memory(&zeros, &region, 1, 100, 1);
    assert_stasis_ok(stasis_save_fd(fd, &machine, &zeros, NULL, &report, &err), &err);
    stasis_memory_unmap(&zeros);
    assert_true(report.file_allocated < 256 * 1024);
}

static void only_an_empty_file_is_saved_into(void **state)
{
    struct stasis_error err;
    char byte = 'x';

    (void)state;
    assert_int_equal(pwrite(fd, &byte, 1, 0), 1);
    assert_int_equal(save(fd, NULL, &err), -EINVAL);
    assert_stasis_fails(save(fd, NULL, &err), &err, STASIS_ERR_INVALID_ARGUMENT);
    assert_int_equal(pread(fd, &byte, 1, 0), 1); /* and left as it was */
    assert_int_equal(byte, 'x');
}

static void what_is_no_regular_file_is_not_saved_into(void **state)
{
    struct stasis_error err;
    int ends[2];
    int of_pipe, of_directory, of_nothing;
    const int directory = open(dir.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    (void)state;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    of_pipe = save(ends[1], NULL, &err);
    assert_stasis_fails(of_pipe, &err, STASIS_ERR_NOT_REGULAR);
    of_directory = save(directory, NULL, &err);
    assert_stasis_fails(of_directory, &err, STASIS_ERR_NOT_REGULAR);
    close(ends[0]);
    close(ends[1]);
    close(directory);
    of_nothing = save(-1, NULL, &err);
    assert_stasis_fails(of_nothing, &err, STASIS_ERR_IO);
}

static void a_failure_in_the_middle_leaves_the_callers_file_empty(void **state)
{
    struct stasis_error err;
    struct stat st;

    (void)state;
    /* It may grow, so that it gets its length, and then may not be written. */
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
    assert_true(save(fd, NULL, &err) < 0);
    assert_int_not_equal(err.code, STASIS_OK);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_size == 0);
}

static int stop(void *arg, uint64_t done, uint64_t total)
{
    (void)arg;
    (void)done;
    (void)total;
    return 1;
}

static void a_cancelled_save_gives_no_buffer(void **state)
{
    const struct stasis_save_options options = { .progress = stop };
    struct stasis_buffer buffer = { 0 };
    struct stasis_error err = { 0 };

    (void)state;
    assert_stasis_fails(stasis_save_buffer(&machine, &memory, &options, &buffer, NULL, &err), &err,
                        STASIS_ERR_CANCELLED);
    assert_null(buffer.data);
}

static void a_save_into_a_descriptor_has_two_steps_too(void **state)
{
    struct stasis_save_job *job = NULL;
    struct stasis_save_report report = { 0 };
    struct stasis_error err = { 0 };
    struct stat st;

    (void)state;
    assert_stasis_ok(stasis_save_begin_fd(fd, &machine, &memory, NULL, &job, &err), &err);
    stasis_save_abandon(job);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_size == 0);
    assert_stasis_ok(stasis_save_begin_fd(fd, &machine, &memory, NULL, &job, &err), &err);
    assert_stasis_ok(stasis_save_finish(job, &report, &err), &err);
    assert_int_equal(fstat(fd, &st), 0);
    assert_true((uint64_t)st.st_size == report.file_size);
}

#define case_(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        case_(a_buffer_and_a_descriptor_hold_what_a_file_holds),
        case_(zeros_in_a_buffer_take_no_memory),
        case_(only_an_empty_file_is_saved_into),
        case_(what_is_no_regular_file_is_not_saved_into),
        case_(a_failure_in_the_middle_leaves_the_callers_file_empty),
        case_(a_cancelled_save_gives_no_buffer),
        case_(a_save_into_a_descriptor_has_two_steps_too),
    };

    return unit_run(tests);
}
