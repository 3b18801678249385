/* test_microvm_save.c - the two parts of a save, and diffs of a microVM.
 *
 * Goal:   while what was taken is written, the guest may be paused and resumed, a second save is busy, the
 *         guest's end waits for the save, and a stop cancels it; what a save that failed was about is in
 *         the next diff.
 * Method: the small guest (guest/README.md) on /dev/kvm. The save's progress callback tells the two parts
 *         apart by whether the microVM can be paused, and acts once in the second. */
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "microvm/microvm.h"

#define GUEST "period=20 mem=256K dirty=8 check=full "

struct fixture {
    char folder[64];
    char guest[256], console[96], serial[128], first[96], second[96];
    struct microvm *vm, *other;
    struct stasis_error err;
};

static struct microvm *make_vm(struct fixture *fixture)
{
    const struct microvm_options options = { .serial = fixture->serial, .no_seccomp = true };
    struct microvm *vm = NULL;

    assert_stasis_ok(microvm_new(&options, &vm, &fixture->err), &fixture->err);
    return vm;
}

static int setup(void **state)
{
    const char *build = getenv("STASIS_BUILD");
    struct fixture *fixture = calloc(1, sizeof(*fixture));

    if (!fixture)
        return -1;
    *state = fixture;
    strcpy(fixture->folder, "/tmp/stasis-microvm-XXXXXX");
    if (!mkdtemp(fixture->folder))
        return -1;
    snprintf(fixture->guest, sizeof(fixture->guest), "%s/guest/stasis-guest.bin",
             build ? build : ".");
    snprintf(fixture->console, sizeof(fixture->console), "%s/console", fixture->folder);
    snprintf(fixture->serial, sizeof(fixture->serial), "file:%s", fixture->console);
    snprintf(fixture->first, sizeof(fixture->first), "%s/first", fixture->folder);
    snprintf(fixture->second, sizeof(fixture->second), "%s/second", fixture->folder);
    fixture->vm = make_vm(fixture);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    microvm_free(fixture->vm);
    microvm_free(fixture->other);
    unlink(fixture->console);
    unlink(fixture->first);
    unlink(fixture->second);
    if (rmdir(fixture->folder) < 0) /* something was left behind */
        return -1;
    free(fixture);
    return 0;
}

#define need_guest(fixture)                                                                        \
    do {                                                                                           \
        if (access("/dev/kvm", R_OK | W_OK) < 0)                                                   \
            unit_skip("no /dev/kvm");                                                              \
        if (access((fixture)->guest, R_OK) < 0)                                                    \
            unit_skip("no %s", (fixture)->guest);                                                  \
    } while (0)

#define fails(fixture, call, code) assert_stasis_fails(call, &(fixture)->err, code)
#define works(fixture, call) assert_stasis_ok(call, &(fixture)->err)

static void start_guest(struct fixture *fixture, const char *cmdline)
{
    const struct microvm_machine_config machine = { .vcpu_count = 1,
                                                    .memory_size = 16u << 20,
                                                    .track_dirty = true };
    const struct microvm_boot_source source = { .kernel_path = fixture->guest, .cmdline = cmdline };

    works(fixture, microvm_set_machine(fixture->vm, &machine, &fixture->err));
    works(fixture, microvm_set_boot_source(fixture->vm, &source, &fixture->err));
    works(fixture, microvm_start(fixture->vm, &fixture->err));
}

static bool console_has(struct fixture *fixture, const char *text)
{
    uint8_t *bytes;
    size_t size;
    bool has;

    if (io_read_file(fixture->console, 1u << 20, &bytes, &size, NULL) < 0)
        return false;
    has = strstr((const char *)bytes, text) != NULL;
    free(bytes);
    return has;
}

static void wait_for_console(struct fixture *fixture, const char *text)
{
    for (int i = 0; i < 3000; i++) {
        if (console_has(fixture, text))
            return;
        usleep(10000);
    }
    fail_msg("the guest did not print \"%s\" within 30 s", text);
}

/* --- acting in the second part -------------------------------------------------------------- */

struct in_save {
    struct fixture *fixture;
    int (*act)(
        struct fixture *fixture); /* once, in the second part; what it returns is the answer */
    unsigned first_calls, second_calls;
};

/* By another action that tells nothing else: pausing, and going on at once. */
static bool in_second_part(struct fixture *fixture)
{
    struct stasis_error err = { 0 };

    if (microvm_pause(fixture->vm, &err) < 0) {
        assert_int_equal(err.code, STASIS_ERR_BUSY);
        return false;
    }
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_PAUSED);
    assert_stasis_ok(microvm_resume(fixture->vm, &err), &err);
    return true;
}

static int on_progress(void *arg, uint64_t done, uint64_t total)
{
    struct in_save *in_save = arg;

    (void)done;
    (void)total;
    if (in_save->second_calls > 0)
        return 0;
    if (!in_second_part(in_save->fixture)) {
        in_save->first_calls++;
        return 0;
    }
    in_save->second_calls++;
    return in_save->act(in_save->fixture);
}

/* One thread: a failed assertion in the callback ends the test where it is. */
static struct microvm_save_options options_of(struct in_save *in_save)
{
    return (struct microvm_save_options){
        .snapshot = { .thread_count = 1, .progress = on_progress, .progress_arg = in_save },
    };
}

static int try_a_second_save(struct fixture *fixture)
{
    struct stasis_error err = { 0 };

    assert_stasis_fails(microvm_save(fixture->vm, fixture->second, NULL, NULL, &err), &err,
                        STASIS_ERR_BUSY);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_RUNNING);
    assert_int_equal(access(fixture->first, F_OK), -1); /* not yet: it is written in this part */
    return 0;
}

static void guest_runs_and_can_be_paused_while_a_save_is_written(void **state)
{
    struct fixture *fixture = *state;
    struct in_save in_save = { .fixture = fixture, .act = try_a_second_save };
    const struct microvm_save_options options = options_of(&in_save);
    struct microvm_save_report report;

    need_guest(fixture);
    start_guest(fixture, GUEST);
    wait_for_console(fixture, "count 2 ");
    works(fixture, microvm_save(fixture->vm, fixture->first, &options, &report, &fixture->err));
    assert_int_equal(in_save.second_calls, 1);
    assert_int_equal(report.snapshot.writer, STASIS_WRITER_COMPACT);
    assert_int_not_equal(report.pause_us, 0);
    assert_false(report.diff);
    works(fixture, microvm_save(fixture->vm, fixture->second, NULL, NULL, &fixture->err));
}

static int pause_it(struct fixture *fixture)
{
    works(fixture, microvm_pause(fixture->vm, &fixture->err));
    return 0;
}

static void guest_paused_while_a_save_is_written_stays_paused(void **state)
{
    struct fixture *fixture = *state;
    struct in_save in_save = { .fixture = fixture, .act = pause_it };
    const struct microvm_save_options options = options_of(&in_save);

    need_guest(fixture);
    start_guest(fixture, GUEST);
    works(fixture, microvm_save(fixture->vm, fixture->first, &options, NULL, &fixture->err));
    assert_int_equal(in_save.second_calls, 1);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_PAUSED);
}

static void paused_guest_is_written_at_once_without_a_copy(void **state)
{
    struct fixture *fixture = *state;
    struct microvm_save_report report;

    need_guest(fixture);
    start_guest(fixture, GUEST);
    works(fixture, microvm_pause(fixture->vm, &fixture->err));
    works(fixture, microvm_save(fixture->vm, fixture->first, NULL, &report, &fixture->err));
    assert_int_equal(report.snapshot.writer, STASIS_WRITER_STREAMING);
    assert_int_equal(report.pause_us, 0);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_PAUSED);
}

static int wait_for_its_end(struct fixture *fixture)
{
    wait_for_console(fixture, "exit count 30 bad 0");
    usleep(200000); /* long enough for a supervisor that does not wait to take the VM down */
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_RUNNING);
    return 0;
}

static void guest_that_ends_while_it_is_written_is_saved_first(void **state)
{
    const struct microvm_load_options load = { .resume = true };
    struct fixture *fixture = *state;
    struct in_save in_save = { .fixture = fixture, .act = wait_for_its_end };
    const struct microvm_save_options options = options_of(&in_save);
    enum microvm_exit why;

    need_guest(fixture);
    start_guest(fixture, GUEST "exit=30");
    wait_for_console(fixture, "count 2 ");
    works(fixture, microvm_save(fixture->vm, fixture->first, &options, NULL, &fixture->err));
    assert_int_equal(in_save.second_calls, 1);
    works(fixture, microvm_wait(fixture->vm, &why, &fixture->err));
    assert_int_equal(why, MICROVM_EXIT_POWER_OFF);

    unlink(fixture->console);
    fixture->other = make_vm(fixture);
    works(fixture, microvm_load(fixture->other, fixture->first, &load, NULL, &fixture->err));
    works(fixture, microvm_wait(fixture->other, &why, &fixture->err));
    assert_int_equal(why, MICROVM_EXIT_POWER_OFF);
    assert_true(console_has(fixture, "exit count 30 bad 0"));
}

static int stop_it(struct fixture *fixture)
{
    microvm_stop(fixture->vm);
    return 0;
}

static void stop_cancels_a_save_that_is_written(void **state)
{
    struct fixture *fixture = *state;
    struct in_save in_save = { .fixture = fixture, .act = stop_it };
    const struct microvm_save_options options = options_of(&in_save);
    enum microvm_exit why;

    need_guest(fixture);
    start_guest(fixture, GUEST);
    fails(fixture, microvm_save(fixture->vm, fixture->first, &options, NULL, &fixture->err),
          STASIS_ERR_CANCELLED);
    assert_int_equal(in_save.second_calls, 1);
    assert_int_equal(access(fixture->first, F_OK), -1);
    works(fixture, microvm_wait(fixture->vm, &why, &fixture->err));
    assert_int_equal(why, MICROVM_EXIT_STOPPED);
}

/* --- diffs ---------------------------------------------------------------------------------- */

static const struct microvm_save_options diff = { .diff = true };

/* And leaves the guest paused: what is to be saved afterwards is what was given back. */
static int pause_and_cancel(struct fixture *fixture)
{
    (void)pause_it(fixture);
    return 1;
}

static void cancelled_diff_leaves_its_pages_to_the_next(void **state)
{
    struct fixture *fixture = *state;
    struct in_save in_save = { .fixture = fixture, .act = pause_and_cancel };
    struct microvm_save_options options = options_of(&in_save);
    struct microvm_save_report full, report;

    need_guest(fixture);
    start_guest(fixture, GUEST);
    wait_for_console(fixture, "count 2 ");
    works(fixture, microvm_save(fixture->vm, fixture->first, NULL, &full, &fixture->err));
    usleep(300000);
    options.diff = true;
    fails(fixture, microvm_save(fixture->vm, fixture->second, &options, NULL, &fixture->err),
          STASIS_ERR_CANCELLED);
    assert_int_equal(in_save.second_calls, 1);
    assert_int_equal(access(fixture->second, F_OK), -1);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_PAUSED);
    works(fixture, microvm_save(fixture->vm, fixture->second, &diff, &report, &fixture->err));
    assert_true(report.diff);
    assert_memory_equal(report.parent_id, full.snapshot.id, STASIS_ID_SIZE);
    assert_true(report.snapshot.data_size >= 8 * STASIS_PAGE_SIZE);
}

static void diff_of_a_guest_that_stood_still_holds_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct microvm_save_report report;

    need_guest(fixture);
    start_guest(fixture, GUEST);
    works(fixture, microvm_pause(fixture->vm, &fixture->err));
    works(fixture, microvm_save(fixture->vm, fixture->first, NULL, NULL, &fixture->err));
    works(fixture, microvm_save(fixture->vm, fixture->second, &diff, &report, &fixture->err));
    assert_int_equal(report.snapshot.data_size + report.snapshot.zero_size, 0);
}

static void restored_guest_differs_from_its_snapshot_by_its_generation(void **state)
{
    const struct microvm_load_options load = { .track_dirty = true };
    struct fixture *fixture = *state;
    struct microvm_save_report report;
    struct microvm_machine_config is;

    need_guest(fixture);
    start_guest(fixture, GUEST);
    works(fixture, microvm_save(fixture->vm, fixture->first, NULL, NULL, &fixture->err));
    fixture->other = make_vm(fixture);
    works(fixture, microvm_load(fixture->other, fixture->first, &load, NULL, &fixture->err));
    microvm_get_machine(fixture->other, &is);
    assert_true(is.track_dirty);
    works(fixture, microvm_save(fixture->other, fixture->second, &diff, &report, &fixture->err));
    assert_int_not_equal(report.snapshot.data_size, 0); /* it never ran: this is our own write */
}

static void diff_without_tracking_is_refused(void **state)
{
    struct fixture *fixture = *state;

    need_guest(fixture);
    start_guest(fixture, GUEST);
    fails(fixture, microvm_save(fixture->vm, fixture->second, &diff, NULL, &fixture->err),
          STASIS_ERR_NOT_TRACKED);
    works(fixture, microvm_save(fixture->vm, fixture->first, NULL, NULL, &fixture->err));
    fixture->other = make_vm(fixture);
    works(fixture, microvm_load(fixture->other, fixture->first, NULL, NULL, &fixture->err));
    fails(fixture, microvm_save(fixture->other, fixture->second, &diff, NULL, &fixture->err),
          STASIS_ERR_NOT_TRACKED);
    assert_int_equal(microvm_get_state(fixture->other), MICROVM_PAUSED);
}

static void diff_of_another_parent_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct microvm_save_options options = { .diff = true, .parent_path = fixture->first };

    need_guest(fixture);
    start_guest(fixture, GUEST);
    works(fixture, microvm_save(fixture->vm, fixture->first, NULL, NULL, &fixture->err));
    works(fixture, microvm_save(fixture->vm, fixture->second, NULL, NULL, &fixture->err));
    fails(fixture, microvm_save(fixture->vm, fixture->first, &options, NULL, &fixture->err),
          STASIS_ERR_WRONG_PARENT);
    options.parent_path = "/nonexistent";
    fails(fixture, microvm_save(fixture->vm, fixture->first, &options, NULL, &fixture->err),
          STASIS_ERR_NOT_FOUND);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_RUNNING);
}

static void huge_pages_need_memory_of_whole_ones(void **state)
{
    struct microvm_machine_config machine = { .vcpu_count = 1,
                                              .memory_size = (2u << 20) + 4096,
                                              .pages = MICROVM_PAGES_2M };
    struct fixture *fixture = *state;

    fails(fixture, microvm_set_machine(fixture->vm, &machine, &fixture->err),
          STASIS_ERR_INVALID_ARGUMENT);
    machine.pages = MICROVM_PAGES_THP;
    works(fixture, microvm_set_machine(fixture->vm, &machine, &fixture->err));
}

#define save_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        save_test(guest_runs_and_can_be_paused_while_a_save_is_written),
        save_test(guest_paused_while_a_save_is_written_stays_paused),
        save_test(paused_guest_is_written_at_once_without_a_copy),
        save_test(guest_that_ends_while_it_is_written_is_saved_first),
        save_test(stop_cancels_a_save_that_is_written),
        save_test(cancelled_diff_leaves_its_pages_to_the_next),
        save_test(diff_of_a_guest_that_stood_still_holds_nothing),
        save_test(restored_guest_differs_from_its_snapshot_by_its_generation),
        save_test(diff_without_tracking_is_refused),
        save_test(diff_of_another_parent_is_refused),
        save_test(huge_pages_need_memory_of_whole_ones),
    };
    return unit_run(tests);
}
