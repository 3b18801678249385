/* test_microvm.c - the life of a microVM: what is possible when, and what a failure leaves behind.
 *
 * Goal:   an action at the wrong time, a value out of range, a kernel or disk that is not right:
 * each is told by
 *         its code and changes nothing; a guest's own end, its resets and crashes are told apart;
 *         what was saved comes back, and a save can be neither doubled nor left half done.
 * Method: the small guest (guest/README.md) on /dev/kvm; its console goes to a file that the tests
 * read. */
#include "unit.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "microvm/microvm.h"

#define DISK_SIZE 65536

struct fixture {
    char folder[64];
    char guest[256], console[96], serial[128], snapshot[96], disk[96];
    struct microvm *vm, *other;
    struct stasis_error err;
};

/* --- the fixture ---------------------------------------------------------------------------- */

static struct microvm *make_vm(struct fixture *fixture, bool exit_on_reset)
{
    const struct microvm_options options = { .serial = fixture->serial,
                                             .no_seccomp = true,
                                             .exit_on_reset = exit_on_reset };
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
    snprintf(fixture->snapshot, sizeof(fixture->snapshot), "%s/snapshot", fixture->folder);
    snprintf(fixture->disk, sizeof(fixture->disk), "%s/disk", fixture->folder);
    fixture->vm = make_vm(fixture, false);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    microvm_free(fixture->vm);
    microvm_free(fixture->other);
    unlink(fixture->console);
    unlink(fixture->snapshot);
    unlink(fixture->disk);
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

static void set_kernel(struct fixture *fixture, const char *path, const char *cmdline)
{
    const struct microvm_boot_source source = { .kernel_path = path, .cmdline = cmdline };

    works(fixture, microvm_set_boot_source(fixture->vm, &source, &fixture->err));
}

static void start_guest(struct fixture *fixture, const char *cmdline)
{
    const struct microvm_machine_config machine = { .vcpu_count = 1, .memory_size = 16u << 20 };

    works(fixture, microvm_set_machine(fixture->vm, &machine, &fixture->err));
    set_kernel(fixture, fixture->guest, cmdline);
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

static void add_disk(struct fixture *fixture)
{
    const struct microvm_drive drive = { .id = "data", .path = fixture->disk };
    FILE *file = fopen(fixture->disk, "wb");

    assert_non_null(file);
    fclose(file);
    assert_int_equal(truncate(fixture->disk, DISK_SIZE), 0);
    works(fixture, microvm_set_drive(fixture->vm, &drive, &fixture->err));
}

/* --- configuration -------------------------------------------------------------------------- */

static void machine_sizes_out_of_range_are_refused(void **state)
{
    static const struct microvm_machine_config wrong[] = {
        { 0, MICROVM_MEMORY_MIN },
        { 33, MICROVM_MEMORY_MIN },
        { UINT32_MAX, MICROVM_MEMORY_MIN },
        { 1, MICROVM_MEMORY_MIN - 4096 },
        { 1, MICROVM_MEMORY_MAX + 4096 },
        { 1, MICROVM_MEMORY_MIN + 1 },
        { 1, 0 },
        { 1, UINT64_MAX },
    };
    const struct microvm_machine_config right = { 32, MICROVM_MEMORY_MAX };
    struct fixture *fixture = *state;
    struct microvm_machine_config is;

    works(fixture, microvm_set_machine(fixture->vm, &right, &fixture->err));
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        fails(fixture, microvm_set_machine(fixture->vm, &wrong[i], &fixture->err),
              STASIS_ERR_INVALID_ARGUMENT);
    microvm_get_machine(fixture->vm, &is);
    assert_int_equal(is.vcpu_count, 32);
    assert_int_equal(is.memory_size, MICROVM_MEMORY_MAX);
}

static void drives_need_an_id_and_a_path(void **state)
{
    static const struct microvm_drive wrong[] = {
        { .id = "", .path = "/x" },
        { .id = "a/b", .path = "/x" },
        { .id = "a b", .path = "/x" },
        { .id = NULL, .path = "/x" },
        { .id = "a", .path = "" },
        { .id = "a", .path = NULL },
        { .id = "0123456789012345678901234567890123456789012345678901234567890123", .path = "/x" },
    };
    struct fixture *fixture = *state;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        fails(fixture, microvm_set_drive(fixture->vm, &wrong[i], &fixture->err),
              STASIS_ERR_INVALID_ARGUMENT);
}

static void eighth_drive_is_refused_and_a_known_id_replaced(void **state)
{
    struct fixture *fixture = *state;
    char id[] = "drive0";

    for (int i = 0; i < MICROVM_DRIVE_MAX; i++, id[5]++) {
        const struct microvm_drive drive = { .id = id, .path = "/disk" };

        works(fixture, microvm_set_drive(fixture->vm, &drive, &fixture->err));
    }
    fails(fixture,
          microvm_set_drive(fixture->vm, &(struct microvm_drive){ .id = id, .path = "/disk" },
                            &fixture->err),
          STASIS_ERR_INVALID_ARGUMENT);
    id[5] = '3';
    works(fixture,
          microvm_set_drive(fixture->vm, &(struct microvm_drive){ .id = id, .path = "/other" },
                            &fixture->err));
}

static void overlong_texts_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct microvm_boot_source source = { .kernel_path = "/kernel" };
    struct microvm *vm = NULL;
    char text[5000];

    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    source.kernel_path = text;
    fails(fixture, microvm_set_boot_source(fixture->vm, &source, &fixture->err),
          STASIS_ERR_INVALID_ARGUMENT);
    text[MICROVM_CMDLINE_SIZE] = '\0';
    source = (struct microvm_boot_source){ .kernel_path = "/kernel", .cmdline = text };
    fails(fixture, microvm_set_boot_source(fixture->vm, &source, &fixture->err),
          STASIS_ERR_INVALID_ARGUMENT);
    text[MICROVM_ID_SIZE] = '\0';
    fails(fixture, microvm_new(&(struct microvm_options){ .id = text }, &vm, &fixture->err),
          STASIS_ERR_INVALID_ARGUMENT);
    fails(fixture, microvm_new(&(struct microvm_options){ .id = "a b" }, &vm, &fixture->err),
          STASIS_ERR_INVALID_ARGUMENT);
    assert_null(vm);
}

/* --- the wrong time ------------------------------------------------------------------------- */

static void assert_only_configurable(struct fixture *fixture)
{
    fails(fixture, microvm_pause(fixture->vm, &fixture->err), STASIS_ERR_WRONG_STATE);
    fails(fixture, microvm_resume(fixture->vm, &fixture->err), STASIS_ERR_WRONG_STATE);
    fails(fixture, microvm_save(fixture->vm, fixture->snapshot, NULL, NULL, &fixture->err),
          STASIS_ERR_WRONG_STATE);
    fails(fixture, microvm_power_button(fixture->vm, &fixture->err), STASIS_ERR_WRONG_STATE);
}

static void nothing_but_configuration_works_before_the_start(void **state)
{
    struct fixture *fixture = *state;

    assert_only_configurable(fixture);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_NOT_STARTED);
    assert_string_equal(microvm_state_name(MICROVM_NOT_STARTED), "Not started");
    assert_string_equal(microvm_id(fixture->vm), "anonymous-instance");
}

static void start_without_a_kernel_is_refused(void **state)
{
    struct fixture *fixture = *state;

    fails(fixture, microvm_start(fixture->vm, &fixture->err), STASIS_ERR_INVALID_ARGUMENT);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_NOT_STARTED);
}

static void nothing_works_after_the_end(void **state)
{
    const struct microvm_machine_config machine = { 1, MICROVM_MEMORY_MIN };
    struct fixture *fixture = *state;
    enum microvm_exit why;

    microvm_stop(fixture->vm);
    works(fixture, microvm_wait(fixture->vm, &why, &fixture->err));
    assert_int_equal(why, MICROVM_EXIT_STOPPED);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_STOPPED);
    assert_only_configurable(fixture);
    fails(fixture, microvm_set_machine(fixture->vm, &machine, &fixture->err),
          STASIS_ERR_WRONG_STATE);
    fails(fixture, microvm_start(fixture->vm, &fixture->err), STASIS_ERR_WRONG_STATE);
    fails(fixture, microvm_load(fixture->vm, fixture->snapshot, NULL, NULL, &fixture->err),
          STASIS_ERR_WRONG_STATE);
}

static void running_guest_cannot_be_configured_or_started(void **state)
{
    const struct microvm_machine_config machine = { 1, MICROVM_MEMORY_MIN };
    struct fixture *fixture = *state;

    need_guest(fixture);
    start_guest(fixture, NULL);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_RUNNING);
    fails(fixture, microvm_set_machine(fixture->vm, &machine, &fixture->err),
          STASIS_ERR_WRONG_STATE);
    fails(fixture, microvm_set_entropy(fixture->vm, true, &fixture->err), STASIS_ERR_WRONG_STATE);
    fails(fixture, microvm_start(fixture->vm, &fixture->err), STASIS_ERR_WRONG_STATE);
    fails(fixture, microvm_load(fixture->vm, fixture->snapshot, NULL, NULL, &fixture->err),
          STASIS_ERR_WRONG_STATE);
}

/* --- starts that fail ----------------------------------------------------------------------- */

static void failed_starts_leave_a_microvm_that_can_start(void **state)
{
    const struct microvm_drive gone = { .id = "data", .path = "/nonexistent/disk" };
    struct fixture *fixture = *state;

    need_guest(fixture);
    set_kernel(fixture, "/dev/null", NULL);
    fails(fixture, microvm_start(fixture->vm, &fixture->err), STASIS_ERR_NOT_REGULAR);
    set_kernel(fixture, "/etc/passwd", NULL);
    fails(fixture, microvm_start(fixture->vm, &fixture->err), STASIS_ERR_BAD_KERNEL);
    set_kernel(fixture, "/nonexistent/kernel", NULL);
    fails(fixture, microvm_start(fixture->vm, &fixture->err), STASIS_ERR_NOT_FOUND);
    works(fixture, microvm_set_drive(fixture->vm, &gone, &fixture->err));
    set_kernel(fixture, fixture->guest, NULL);
    fails(fixture, microvm_start(fixture->vm, &fixture->err), STASIS_ERR_DISK);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_NOT_STARTED);

    add_disk(fixture); /* the same id: it is there now */
    start_guest(fixture, "exit=1");
    wait_for_console(fixture, "stasis-guest exit count 1 bad 0");
}

/* --- ends ----------------------------------------------------------------------------------- */

static void power_off_ends_the_run(void **state)
{
    struct fixture *fixture = *state;
    enum microvm_exit why;

    need_guest(fixture);
    start_guest(fixture, "exit=1");
    works(fixture, microvm_wait(fixture->vm, &why, &fixture->err));
    assert_int_equal(why, MICROVM_EXIT_POWER_OFF);
    assert_true(console_has(fixture, "exit count 1 bad 0 by poweroff"));
}

static void reset_boots_again(void **state)
{
    struct fixture *fixture = *state;

    need_guest(fixture);
    start_guest(fixture, "exit=1 exit-by=reset");
    wait_for_console(fixture, "by reset\nstasis-guest ready");
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_RUNNING);
}

static void triple_fault_boots_again_like_a_reset(void **state)
{
    struct fixture *fixture = *state;

    need_guest(fixture);
    start_guest(fixture, "exit=1 exit-by=triple");
    wait_for_console(fixture, "by triple\nstasis-guest ready");
}

static void reset_ends_the_run_where_it_should(void **state)
{
    struct fixture *fixture = *state;
    enum microvm_exit why;

    need_guest(fixture);
    microvm_free(fixture->vm);
    fixture->vm = make_vm(fixture, true);
    start_guest(fixture, "exit=1 exit-by=reset");
    works(fixture, microvm_wait(fixture->vm, &why, &fixture->err));
    assert_int_equal(why, MICROVM_EXIT_RESET);
}

static void triple_fault_is_a_crash_where_resets_end_the_run(void **state)
{
    struct fixture *fixture = *state;
    enum microvm_exit why;

    need_guest(fixture);
    microvm_free(fixture->vm);
    fixture->vm = make_vm(fixture, true);
    start_guest(fixture, "exit=1 exit-by=triple");
    fails(fixture, microvm_wait(fixture->vm, &why, &fixture->err), STASIS_ERR_GUEST_CRASHED);
    assert_int_equal(why, MICROVM_EXIT_CRASHED);
    assert_non_null(strstr(fixture->err.text, "vCPU 0: triple fault"));
}

static void reset_without_its_kernel_ends_with_a_note(void **state)
{
    struct fixture *fixture = *state;
    char kernel[128];
    uint8_t *bytes;
    enum microvm_exit why;
    FILE *file;
    size_t size;

    need_guest(fixture);
    snprintf(kernel, sizeof(kernel), "%s/kernel", fixture->folder);
    works(fixture, io_read_file(fixture->guest, 1u << 20, &bytes, &size, &fixture->err));
    file = fopen(kernel, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    fclose(file);
    free(bytes);
    set_kernel(fixture, kernel, "exit=1 exit-by=reset");
    works(fixture, microvm_start(fixture->vm, &fixture->err));
    unlink(kernel);
    fails(fixture, microvm_wait(fixture->vm, &why, &fixture->err), STASIS_ERR_NOT_FOUND);
    assert_int_equal(why, MICROVM_EXIT_RESET);
    assert_non_null(strstr(fixture->err.text, "asked for a reset, but cannot be booted again"));
}

static void stop_ends_running_and_paused_guests(void **state)
{
    struct fixture *fixture = *state;
    enum microvm_exit why;

    need_guest(fixture);
    start_guest(fixture, NULL);
    works(fixture, microvm_pause(fixture->vm, &fixture->err));
    microvm_stop(fixture->vm);
    works(fixture, microvm_wait(fixture->vm, &why, &fixture->err));
    assert_int_equal(why, MICROVM_EXIT_STOPPED);

    microvm_free(fixture->vm);
    fixture->vm = make_vm(fixture, false);
    start_guest(fixture, NULL);
    microvm_stop(fixture->vm);
    works(fixture, microvm_wait(fixture->vm, &why, &fixture->err));
    assert_int_equal(why, MICROVM_EXIT_STOPPED);
}

/* --- pause and save ------------------------------------------------------------------------- */

static void pausing_and_resuming_twice_is_fine(void **state)
{
    struct fixture *fixture = *state;

    need_guest(fixture);
    start_guest(fixture, NULL);
    works(fixture, microvm_resume(fixture->vm, &fixture->err));
    works(fixture, microvm_pause(fixture->vm, &fixture->err));
    works(fixture, microvm_pause(fixture->vm, &fixture->err));
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_PAUSED);
    works(fixture, microvm_resume(fixture->vm, &fixture->err));
    works(fixture, microvm_resume(fixture->vm, &fixture->err));
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_RUNNING);
    wait_for_console(fixture, "count 2 ");
}

static void saved_guest_comes_back_in_another_microvm(void **state)
{
    const struct microvm_load_options options = { .resume = true };
    struct microvm_load_report loaded = { 0 };
    struct microvm_save_report saved = { 0 };
    struct fixture *fixture = *state;
    struct microvm_machine_config machine;
    enum microvm_exit why;

    need_guest(fixture);
    add_disk(fixture);
    start_guest(fixture, "exit=12");
    wait_for_console(fixture, "count 3 ");
    works(fixture, microvm_save(fixture->vm, fixture->snapshot, NULL, &saved, &fixture->err));
    assert_int_not_equal(saved.pause_us, 0);
    assert_int_equal(saved.snapshot.memory_size, 16u << 20);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_RUNNING);
    microvm_free(fixture->vm); /* and the disk's lock with it */
    fixture->vm = NULL;
    unlink(fixture->console);

    fixture->other = make_vm(fixture, false);
    works(fixture,
          microvm_load(fixture->other, fixture->snapshot, &options, &loaded, &fixture->err));
    assert_true(loaded.opened_us <= loaded.created_us && loaded.created_us <= loaded.restored_us &&
                loaded.restored_us <= loaded.first_run_us);
    microvm_get_machine(fixture->other, &machine);
    assert_int_equal(machine.memory_size, 16u << 20);
    works(fixture, microvm_wait(fixture->other, &why, &fixture->err));
    assert_int_equal(why, MICROVM_EXIT_POWER_OFF);
    assert_true(console_has(fixture, "exit count 12 bad 0"));
    assert_false(console_has(fixture, "stasis-guest ready"));
}

static void guest_loaded_paused_waits_for_resume(void **state)
{
    struct microvm_load_report loaded = { 0 };
    struct fixture *fixture = *state;

    need_guest(fixture);
    start_guest(fixture, NULL);
    works(fixture, microvm_pause(fixture->vm, &fixture->err));
    works(fixture, microvm_save(fixture->vm, fixture->snapshot, NULL, NULL, &fixture->err));
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_PAUSED);
    microvm_free(fixture->vm);
    fixture->vm = NULL;
    unlink(fixture->console);

    fixture->other = make_vm(fixture, false);
    works(fixture, microvm_load(fixture->other, fixture->snapshot, NULL, &loaded, &fixture->err));
    assert_int_equal(loaded.first_run_us, 0);
    assert_int_equal(microvm_get_state(fixture->other), MICROVM_PAUSED);
    usleep(200000);
    assert_false(console_has(fixture, "count"));
    works(fixture, microvm_resume(fixture->other, &fixture->err));
    wait_for_console(fixture, "count 2 ");
}

static void loaded_guest_resets_into_a_boot(void **state)
{
    const struct microvm_load_options options = { .resume = true };
    struct fixture *fixture = *state;

    need_guest(fixture);
    start_guest(fixture, "exit=4 exit-by=reset");
    works(fixture, microvm_save(fixture->vm, fixture->snapshot, NULL, NULL, &fixture->err));
    microvm_free(fixture->vm);
    fixture->vm = NULL;
    unlink(fixture->console);
    fixture->other = make_vm(fixture, false);
    works(fixture, microvm_load(fixture->other, fixture->snapshot, &options, NULL, &fixture->err));
    wait_for_console(fixture, "exit count 4 bad 0 by reset\nstasis-guest ready");
}

struct in_save {
    struct fixture *fixture;
    bool stop;
    unsigned calls;
};

static int act_in_save(void *arg, uint64_t done, uint64_t total)
{
    struct in_save *in_save = arg;
    struct fixture *fixture = in_save->fixture;
    struct stasis_error err = { 0 };

    (void)done;
    (void)total;
    if (in_save->calls++ > 0)
        return 0;
    assert_stasis_fails(microvm_save(fixture->vm, fixture->snapshot, NULL, NULL, &err), &err,
                        STASIS_ERR_BUSY);
    assert_stasis_fails(microvm_pause(fixture->vm, &err), &err, STASIS_ERR_BUSY);
    assert_stasis_fails(microvm_resume(fixture->vm, &err), &err, STASIS_ERR_BUSY);
    assert_stasis_fails(microvm_load(fixture->vm, fixture->snapshot, NULL, NULL, &err), &err,
                        STASIS_ERR_BUSY);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_RUNNING);
    if (in_save->stop)
        microvm_stop(fixture->vm);
    return 0;
}

/* One thread: a failed assertion in the callback ends the test where it is. */
static int save_acting(struct fixture *fixture, struct in_save *in_save)
{
    const struct microvm_save_options options = {
        .snapshot = { .thread_count = 1, .progress = act_in_save, .progress_arg = in_save },
    };

    return microvm_save(fixture->vm, fixture->snapshot, &options, NULL, &fixture->err);
}

static void second_action_while_a_save_runs_is_told_so(void **state)
{
    struct fixture *fixture = *state;
    struct in_save in_save = { .fixture = fixture };

    need_guest(fixture);
    start_guest(fixture, NULL);
    works(fixture, save_acting(fixture, &in_save));
    assert_int_not_equal(in_save.calls, 0);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_RUNNING);
}

static void stop_cancels_a_save_that_runs(void **state)
{
    struct fixture *fixture = *state;
    struct in_save in_save = { .fixture = fixture, .stop = true };
    enum microvm_exit why;

    need_guest(fixture);
    start_guest(fixture, NULL);
    fails(fixture, save_acting(fixture, &in_save), STASIS_ERR_CANCELLED);
    assert_int_equal(access(fixture->snapshot, F_OK), -1);
    works(fixture, microvm_wait(fixture->vm, &why, &fixture->err));
    assert_int_equal(why, MICROVM_EXIT_STOPPED);
}

static void failed_save_leaves_the_guest_running(void **state)
{
    struct fixture *fixture = *state;

    need_guest(fixture);
    start_guest(fixture, NULL);
    fails(fixture, microvm_save(fixture->vm, "/nonexistent/folder/file", NULL, NULL, &fixture->err),
          STASIS_ERR_NOT_FOUND);
    fails(fixture, microvm_save(fixture->vm, fixture->folder, NULL, NULL, &fixture->err),
          STASIS_ERR_NOT_REGULAR);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_RUNNING);
    wait_for_console(fixture, "count 2 ");
}

/* --- many threads --------------------------------------------------------------------------- */

#define ACTOR_COUNT 4
#define ACTIONS_EACH 40

struct actor {
    struct fixture *fixture;
    unsigned seed;
    unsigned done, refused, wrong;
};

static int act(struct actor *actor, struct stasis_error *err)
{
    struct microvm *vm = actor->fixture->vm;

    switch (rand_r(&actor->seed) % 5) {
    case 0: return microvm_pause(vm, err);
    case 1: return microvm_resume(vm, err);
    case 2: return microvm_save(vm, actor->fixture->snapshot, NULL, NULL, err);
    case 3: return microvm_power_button(vm, err);
    default: return microvm_get_state(vm) == MICROVM_STOPPED ? -1 : 0;
    }
}

static void *act_at_random(void *arg)
{
    struct actor *actor = arg;

    for (int i = 0; i < ACTIONS_EACH; i++) {
        struct stasis_error err = { 0 };

        if (act(actor, &err) == 0)
            actor->done++;
        else if (err.code == STASIS_ERR_BUSY)
            actor->refused++;
        else
            actor->wrong++;
        usleep((useconds_t)rand_r(&actor->seed) % 5000);
    }
    return NULL;
}

static void actions_of_many_threads_are_done_or_refused_as_busy(void **state)
{
    struct fixture *fixture = *state;
    struct actor actors[ACTOR_COUNT];
    pthread_t threads[ACTOR_COUNT];

    need_guest(fixture);
    add_disk(fixture);
    start_guest(fixture, "fill=4096 period=20");
    for (unsigned i = 0; i < ACTOR_COUNT; i++) {
        actors[i] = (struct actor){ .fixture = fixture, .seed = i + 1 };
        assert_int_equal(pthread_create(&threads[i], NULL, act_at_random, &actors[i]), 0);
    }
    for (unsigned i = 0; i < ACTOR_COUNT; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < ACTOR_COUNT; i++) {
        assert_int_equal(actors[i].wrong, 0);
        assert_int_equal(actors[i].done + actors[i].refused, ACTIONS_EACH);
        assert_int_not_equal(actors[i].done, 0);
    }
    works(fixture, microvm_resume(fixture->vm, &fixture->err));
    wait_for_console(fixture, "count 5 ");
    assert_false(console_has(fixture, "BAD"));
}

/* --- loads that fail ------------------------------------------------------------------------ */

static int load_with_disk(struct fixture *fixture, const char *id, const char *path)
{
    const struct microvm_drive_override override = { .id = id, .path = path };
    const struct microvm_load_options options = { .drives = &override,
                                                  .drive_count = 1,
                                                  .resume = true };

    return microvm_load(fixture->other, fixture->snapshot, &options, NULL, &fixture->err);
}

static void save_with_disk_and_end(struct fixture *fixture)
{
    add_disk(fixture);
    start_guest(fixture, NULL);
    works(fixture, microvm_save(fixture->vm, fixture->snapshot, NULL, NULL, &fixture->err));
    microvm_free(fixture->vm);
    fixture->vm = NULL;
    fixture->other = make_vm(fixture, false);
}

static void disk_of_another_size_is_refused_by_name(void **state)
{
    struct fixture *fixture = *state;

    need_guest(fixture);
    save_with_disk_and_end(fixture);
    assert_int_equal(truncate(fixture->disk, DISK_SIZE / 2), 0);
    fails(fixture, microvm_load(fixture->other, fixture->snapshot, NULL, NULL, &fixture->err),
          STASIS_ERR_DISK);
    assert_non_null(strstr(fixture->err.text, "'data'"));
    assert_non_null(strstr(fixture->err.text, fixture->disk));
    assert_non_null(strstr(fixture->err.text, "32768"));
    assert_non_null(strstr(fixture->err.text, "65536"));
    assert_int_equal(microvm_get_state(fixture->other), MICROVM_NOT_STARTED);

    /* The failure has left nothing: with the right disk the same microvm loads. */
    assert_int_equal(truncate(fixture->disk, DISK_SIZE), 0);
    works(fixture, microvm_load(fixture->other, fixture->snapshot, NULL, NULL, &fixture->err));
}

static void missing_and_unknown_disks_are_refused_by_name(void **state)
{
    struct fixture *fixture = *state;

    need_guest(fixture);
    save_with_disk_and_end(fixture);
    fails(fixture, load_with_disk(fixture, "data", "/nonexistent/disk"), STASIS_ERR_DISK);
    assert_non_null(strstr(fixture->err.text, "/nonexistent/disk"));
    fails(fixture, load_with_disk(fixture, "other", fixture->disk), STASIS_ERR_DISK);
    assert_non_null(strstr(fixture->err.text, "no disk 'other'"));
    assert_int_equal(microvm_get_state(fixture->other), MICROVM_NOT_STARTED);
}

static void failed_load_keeps_the_configuration(void **state)
{
    const struct microvm_machine_config machine = { 3, MICROVM_MEMORY_MIN };
    struct fixture *fixture = *state;
    struct microvm_machine_config is;

    need_guest(fixture);
    save_with_disk_and_end(fixture);
    works(fixture, microvm_set_machine(fixture->other, &machine, &fixture->err));
    fails(fixture, load_with_disk(fixture, "data", "/nonexistent/disk"), STASIS_ERR_DISK);
    microvm_get_machine(fixture->other, &is);
    assert_int_equal(is.vcpu_count, 3);
    assert_int_equal(is.memory_size, MICROVM_MEMORY_MIN);
}

static void missing_snapshot_is_not_found(void **state)
{
    struct fixture *fixture = *state;

    fails(fixture, microvm_load(fixture->vm, fixture->snapshot, NULL, NULL, &fixture->err),
          STASIS_ERR_NOT_FOUND);
    assert_int_equal(microvm_get_state(fixture->vm), MICROVM_NOT_STARTED);
}

#define life_test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        life_test(machine_sizes_out_of_range_are_refused),
        life_test(drives_need_an_id_and_a_path),
        life_test(eighth_drive_is_refused_and_a_known_id_replaced),
        life_test(overlong_texts_are_refused),
        life_test(nothing_but_configuration_works_before_the_start),
        life_test(start_without_a_kernel_is_refused),
        life_test(nothing_works_after_the_end),
        life_test(running_guest_cannot_be_configured_or_started),
        life_test(failed_starts_leave_a_microvm_that_can_start),
        life_test(power_off_ends_the_run),
        life_test(reset_boots_again),
        life_test(triple_fault_boots_again_like_a_reset),
        life_test(reset_ends_the_run_where_it_should),
        life_test(triple_fault_is_a_crash_where_resets_end_the_run),
        life_test(reset_without_its_kernel_ends_with_a_note),
        life_test(stop_ends_running_and_paused_guests),
        life_test(pausing_and_resuming_twice_is_fine),
        life_test(saved_guest_comes_back_in_another_microvm),
        life_test(guest_loaded_paused_waits_for_resume),
        life_test(loaded_guest_resets_into_a_boot),
        life_test(second_action_while_a_save_runs_is_told_so),
        life_test(stop_cancels_a_save_that_runs),
        life_test(failed_save_leaves_the_guest_running),
        life_test(actions_of_many_threads_are_done_or_refused_as_busy),
        life_test(disk_of_another_size_is_refused_by_name),
        life_test(missing_and_unknown_disks_are_refused_by_name),
        life_test(failed_load_keeps_the_configuration),
        life_test(missing_snapshot_is_not_found),
    };
    return unit_run(tests);
}
