/*
 * Goal:   each path of the control socket asks of the microVM exactly what its body says, and
 *         answers with what the microVM says, under the right status; a save's progress and report
 *         are those of the save that made them.
 * Method: a microVM that is not one: it notes what it is asked for and fails when it is told to. A
 *         save calls back into the test while it "runs".
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/text.h"
#include "microvm/api_routes.h"

#include "unit.h"

/* --- the microVM that is not one -------------------------------------------------------------- */

struct microvm {
    enum microvm_state state;
    char asked[1024];         /* what it was asked for, one line */
    struct stasis_error next; /* the next call fails with it, when it has a code */
    void (*during_save)(struct microvm *vm);
    struct api_context *context;
    uint8_t id; /* of the next snapshot */
};

/* Note what was asked, and fail if that is wanted. */
STASIS_PRINTF(3, 4)
static int asked(struct microvm *vm, struct stasis_error *err, const char *fmt, ...)
{
    const struct stasis_error next = vm->next;
    va_list args;

    va_start(args, fmt);
    vsnprintf(vm->asked, sizeof(vm->asked), fmt, args);
    va_end(args);
    if (next.code == STASIS_OK)
        return 0;
    vm->next = (struct stasis_error){ 0 };
    return stasis_fail(err, next.code, "%s", next.text);
}

int microvm_set_machine(struct microvm *vm, const struct microvm_machine_config *config,
                        struct stasis_error *err)
{
    static const char *const pages[] = { "", " thp", " 2M" };

    return asked(vm, err, "machine %u vcpus %ju bytes%s%s", config->vcpu_count,
                 (uintmax_t)config->memory_size, config->track_dirty ? " tracked" : "",
                 pages[config->pages]);
}

int microvm_set_boot_source(struct microvm *vm, const struct microvm_boot_source *source,
                            struct stasis_error *err)
{
    return asked(vm, err, "boot %s initrd %s cmdline %s", source->kernel_path,
                 source->initrd_path ? source->initrd_path : "-",
                 source->cmdline ? source->cmdline : "-");
}

int microvm_set_drive(struct microvm *vm, const struct microvm_drive *drive,
                      struct stasis_error *err)
{
    return asked(vm, err, "drive %s at %s%s%s", drive->id, drive->path,
                 drive->read_only ? " read-only" : "", drive->is_root ? " root" : "");
}

int microvm_set_entropy(struct microvm *vm, bool present, struct stasis_error *err)
{
    return asked(vm, err, "entropy %d", present);
}

int microvm_start(struct microvm *vm, struct stasis_error *err)
{
    return asked(vm, err, "start");
}

int microvm_load(struct microvm *vm, const char *path, const struct microvm_load_options *options,
                 struct microvm_load_report *ret_report, struct stasis_error *err)
{
    char drives[512] = "";
    size_t length = 0;

    (void)ret_report;
    for (size_t i = 0; i < options->drive_count; i++)
        length += (size_t)snprintf(drives + length, sizeof(drives) - length, " %s=%s",
                                   options->drives[i].id, options->drives[i].path);
    return asked(vm, err, "load %s%s%s%s%s%s%s", path, options->track_dirty ? " tracked" : "",
                 options->pages == MICROVM_PAGES_2M ? " 2M" : "", options->resume ? " resume" : "",
                 options->verify ? " verify" : "", options->clock_stopped ? " stopped" : "",
                 drives);
}

int microvm_pause(struct microvm *vm, struct stasis_error *err)
{
    return asked(vm, err, "pause");
}

int microvm_resume(struct microvm *vm, struct stasis_error *err)
{
    return asked(vm, err, "resume");
}

int microvm_power_button(struct microvm *vm, struct stasis_error *err)
{
    return asked(vm, err, "power button");
}

int microvm_save(struct microvm *vm, const char *path, const struct microvm_save_options *options,
                 struct microvm_save_report *ret_report, struct stasis_error *err)
{
    void (*during)(struct microvm *) = vm->during_save;
    const struct stasis_save_options *snapshot = &options->snapshot;
    const int r =
        asked(vm, err, "save %s%s%s%s", path, options->diff ? " diff" : "",
              options->parent_path ? " of " : "", options->parent_path ? options->parent_path : "");

    if (r < 0)
        return r;
    vm->during_save = NULL;
    if (during) {
        assert_int_equal(snapshot->progress(snapshot->progress_arg, 1000, 4000), 0);
        during(vm);
        assert_int_equal(snapshot->progress(snapshot->progress_arg, 4000, 4000), 0);
    }
    *ret_report = (struct microvm_save_report){ .pause_us = 77, .diff = options->diff };
    ret_report->parent_id[0] = 0xab;
    ret_report->snapshot.memory_size = 4000;
    ret_report->snapshot.id[STASIS_ID_SIZE - 1] = vm->id++;
    return 0;
}

enum microvm_state microvm_get_state(struct microvm *vm)
{
    return vm->state;
}

const char *microvm_id(const struct microvm *vm)
{
    (void)vm;
    return "fake";
}

const char *microvm_state_name(enum microvm_state state)
{
    return state == MICROVM_RUNNING ? "Running" : "Paused";
}

void microvm_get_machine(struct microvm *vm, struct microvm_machine_config *ret_config)
{
    (void)vm;
    *ret_config = (struct microvm_machine_config){ .vcpu_count = 3,
                                                   .memory_size = UINT64_C(5) << 30,
                                                   .pages = MICROVM_PAGES_2M,
                                                   .track_dirty = true };
}

/* --- asking ----------------------------------------------------------------------------------- */

static struct microvm vm;
static struct api_context context;
static struct api_reply reply; /* the last one */
static char reply_text[2048];

static int set_up(void **state)
{
    (void)state;
    vm = (struct microvm){ .state = MICROVM_PAUSED, .context = &context, .id = 1 };
    api_context_init(&context, &vm);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    api_context_release(&context);
    return 0;
}

/* The status; the body is in reply_text. */
static unsigned ask(const char *method, const char *path, const char *body)
{
    const struct api_call call = {
        .method = method, .path = path, .body = body, .body_size = strlen(body)
    };

    memset(&reply, 0xff, sizeof(reply)); /* all of it is to be set */
    api_route(&context, &call, &reply);
    snprintf(reply_text, sizeof(reply_text), "%s",
             reply.body ? json_object_to_json_string_ext(reply.body, JSON_C_TO_STRING_PLAIN) : "");
    json_object_put(reply.body);
    return reply.status;
}

static void each_path_asks_for_what_its_body_says(void **state)
{
    static const struct {
        const char *method, *path, *body, *asked;
    } calls[] = {
        { "PUT", "/machine-config", "{\"vcpu_count\":32,\"mem_size_mib\":65536}",
          "machine 32 vcpus 68719476736 bytes" },
        { "PUT", "/machine-config",
          "{\"vcpu_count\":1,\"mem_size_mib\":2,\"track_dirty_pages\":true,\"huge_pages\":\"2M\"}",
          "machine 1 vcpus 2097152 bytes tracked 2M" },
        { "PUT", "/machine-config",
          "{\"vcpu_count\":1,\"mem_size_mib\":2,\"huge_pages\":\"Transparent\"}",
          "machine 1 vcpus 2097152 bytes thp" },
        { "PUT", "/boot-source", "{\"kernel_image_path\":\"/k\"}", "boot /k initrd - cmdline -" },
        { "PUT", "/boot-source",
          "{\"kernel_image_path\":\"/k\",\"initrd_path\":\"/i\",\"boot_args\":\"a b\"}",
          "boot /k initrd /i cmdline a b" },
        { "PUT", "/drives/a",
          "{\"drive_id\":\"a\",\"path_on_host\":\"/d\",\"is_root_device\":false}",
          "drive a at /d" },
        { "PUT", "/drives/a",
          "{\"drive_id\":\"a\",\"path_on_host\":\"/d\",\"is_root_device\":true,"
          "\"is_read_only\":true}",
          "drive a at /d read-only root" },
        { "PUT", "/entropy", "{}", "entropy 1" },
        { "PUT", "/actions", "{\"action_type\":\"InstanceStart\"}", "start" },
        { "PUT", "/actions", "{\"action_type\":\"SendCtrlAltDel\"}", "power button" },
        { "PATCH", "/vm", "{\"state\":\"Paused\"}", "pause" },
        { "PATCH", "/vm", "{\"state\":\"Resumed\"}", "resume" },
        { "PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\"}", "save /s" },
        { "PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\",\"snapshot_type\":\"Full\"}",
          "save /s" },
        { "PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\",\"snapshot_type\":\"Diff\"}",
          "save /s diff" },
        { "PUT", "/snapshot/create",
          "{\"snapshot_path\":\"/s\",\"snapshot_type\":\"Diff\",\"parent_path\":\"/p\"}",
          "save /s diff of /p" },
        { "PUT", "/snapshot/load", "{\"snapshot_path\":\"/s\"}", "load /s" },
        { "PUT", "/snapshot/load", "{\"snapshot_path\":\"/s\",\"track_dirty_pages\":true}",
          "load /s tracked" },
        { "PUT", "/snapshot/load",
          "{\"snapshot_path\":\"/s\",\"enable_diff_snapshots\":true,\"huge_pages\":\"2M\"}",
          "load /s tracked 2M" },
        { "PUT", "/snapshot/load",
          "{\"snapshot_path\":\"/s\",\"resume_vm\":true,\"drives\":[{\"drive_id\":\"a\","
          "\"path_on_host\":\"/x\"},{\"path_on_host\":\"/y\",\"drive_id\":\"b\"}]}",
          "load /s resume a=/x b=/y" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        vm.asked[0] = '\0';
        assert_int_equal(ask(calls[i].method, calls[i].path, calls[i].body), 204);
        assert_string_equal(reply_text, "");
        assert_int_equal(reply.code, STASIS_OK);
        assert_string_equal(reply.allow, "");
        assert_string_equal(vm.asked, calls[i].asked);
    }
}

static void what_the_microvm_refuses_is_a_400_with_its_code_and_words(void **state)
{
    static const struct {
        const char *method, *path, *body;
    } calls[] = {
        { "PUT", "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":1}" },
        { "PUT", "/boot-source", "{\"kernel_image_path\":\"/k\"}" },
        { "PUT", "/drives/a",
          "{\"drive_id\":\"a\",\"path_on_host\":\"/d\",\"is_root_device\":false}" },
        { "PUT", "/entropy", "{}" },
        { "PUT", "/actions", "{\"action_type\":\"InstanceStart\"}" },
        { "PUT", "/actions", "{\"action_type\":\"SendCtrlAltDel\"}" },
        { "PATCH", "/vm", "{\"state\":\"Paused\"}" },
        { "PATCH", "/vm", "{\"state\":\"Resumed\"}" },
        { "PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\"}" },
        { "PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\",\"pause_vm\":true}" },
        { "PUT", "/snapshot/load", "{\"snapshot_path\":\"/s\"}" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        vm.next = (struct stasis_error){ .code = STASIS_ERR_QUIESCE_TIMEOUT, .text = "not now" };
        assert_int_equal(ask(calls[i].method, calls[i].path, calls[i].body), 400);
        assert_string_equal(reply_text, "{\"fault_message\":\"not now\"}");
        assert_int_equal(reply.code, STASIS_ERR_QUIESCE_TIMEOUT);
    }
}

static void a_fault_is_utf8_whatever_it_quotes(void **state)
{
    (void)state;
    vm.next = (struct stasis_error){ .code = STASIS_ERR_IO, .text = "open '/\xff\xc3': \xc3\xa9" };
    assert_int_equal(ask("PATCH", "/vm", "{\"state\":\"Paused\"}"), 400);
    assert_string_equal(reply_text, "{\"fault_message\":\"open '\\/?"
                                    "?': \xc3\xa9\"}");
    assert_int_equal(ask("GET", "/\xff", ""), 400);
    assert_true(text_is_utf8(reply_text, strlen(reply_text)));
}

static void a_refused_body_asks_for_nothing(void **state)
{
    static const char *const bodies[] = {
        "",
        "{}",
        "{\"snapshot_path\":\"/s\",\"x\":1}",
        "{\"snapshot_path\":\"/s\",\"snapshot_type\":\"Other\"}",
        "{\"snapshot_path\":\"/s\",\"parent_path\":\"/p\"}",
        "{\"snapshot_path\":\"/s\",\"mem_file_path\":\"/m\"}",
        "{\"snapshot_path\":\"/s\",\"pause_vm\":1}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        assert_int_equal(ask("PUT", "/snapshot/create", bodies[i]), 400);
        assert_string_equal(vm.asked, "");
    }
}

static void a_running_microvm_is_saved_only_where_the_pause_is_asked_for(void **state)
{
    (void)state;
    vm.state = MICROVM_RUNNING;
    assert_int_equal(ask("PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\"}"), 400);
    assert_int_equal(reply.code, STASIS_ERR_WRONG_STATE);
    assert_int_equal(
        ask("PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\",\"pause_vm\":false}"), 400);
    assert_string_equal(vm.asked, "");
    assert_int_equal(ask("PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\",\"pause_vm\":true}"),
                     200);
    assert_string_equal(vm.asked, "save /s");
    assert_non_null(strstr(reply_text, "\"pause_us\":77"));
}

static void facts_are_the_microvms(void **state)
{
    (void)state;
    assert_int_equal(ask("GET", "/machine-config", ""), 200);
    assert_non_null(strstr(reply_text, "\"vcpu_count\":3,\"mem_size_mib\":5120,"));
    assert_non_null(strstr(reply_text, "\"track_dirty_pages\":true,\"huge_pages\":\"2M\""));
    vm.state = MICROVM_RUNNING;
    assert_int_equal(ask("GET", "/", ""), 200);
    assert_non_null(strstr(reply_text, "\"id\":\"fake\",\"state\":\"Running\","));
}

static void the_report_is_that_of_the_last_save_that_succeeded(void **state)
{
    char first[sizeof(reply_text)];

    (void)state;
    assert_int_equal(ask("GET", "/snapshot", ""), 400);
    assert_int_equal(reply.code, STASIS_ERR_WRONG_STATE);
    assert_int_equal(ask("PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\"}"), 204);
    assert_int_equal(ask("GET", "/snapshot", ""), 200);
    memcpy(first, reply_text, sizeof(first));
    assert_non_null(strstr(first, "0001\",\"type\":\"Full\",\"parent\":null,"));

    vm.next = (struct stasis_error){ .code = STASIS_ERR_NO_SPACE, .text = "full" };
    assert_int_equal(ask("PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\"}"), 400);
    assert_int_equal(ask("GET", "/snapshot", ""), 200);
    assert_string_equal(reply_text, first);

    assert_int_equal(ask("PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\",\"pause_vm\":true}"),
                     200);
    memcpy(first, reply_text, sizeof(first));
    assert_non_null(strstr(first, "0002\""));
    assert_int_equal(
        ask("PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\",\"snapshot_type\":\"Diff\"}"),
        204);
    assert_int_equal(ask("GET", "/snapshot", ""), 200);
    assert_non_null(strstr(reply_text, "0003\",\"type\":\"Diff\",\"parent\":\"ab00"));
    assert_int_equal(ask("PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\",\"pause_vm\":true}"),
                     200);
    memcpy(first, reply_text, sizeof(first));
    assert_int_equal(ask("GET", "/snapshot", ""), 200);
    assert_string_equal(reply_text, first);
}

/* Another client asks how far it is, and tries a save of its own. */
static void look_during_save(struct microvm *busy)
{
    assert_int_equal(ask("GET", "/snapshot/progress", ""), 200);
    assert_string_equal(reply_text, "{\"done_bytes\":1000,\"total_bytes\":4000}");
    busy->next = (struct stasis_error){ .code = STASIS_ERR_BUSY, .text = "busy" };
    assert_int_equal(ask("PUT", "/snapshot/create", "{\"snapshot_path\":\"/t\"}"), 400);
    assert_int_equal(reply.code, STASIS_ERR_BUSY);
    assert_int_equal(ask("GET", "/snapshot/progress", ""), 200);
}

static void progress_is_told_while_a_save_runs_and_a_refused_one_does_not_end_it(void **state)
{
    (void)state;
    assert_int_equal(ask("GET", "/snapshot/progress", ""), 400);
    assert_int_equal(reply.code, STASIS_ERR_WRONG_STATE);
    vm.during_save = look_during_save;
    assert_int_equal(ask("PUT", "/snapshot/create", "{\"snapshot_path\":\"/s\"}"), 204);
    assert_null(vm.during_save);
    assert_int_equal(ask("GET", "/snapshot/progress", ""), 400);
    assert_int_equal(reply.code, STASIS_ERR_WRONG_STATE);
}

static void unknown_paths_and_methods_are_refused_with_the_methods_there_are(void **state)
{
    (void)state;
    assert_int_equal(ask("GET", "/none", ""), 400);
    assert_string_equal(reply.allow, "");
    assert_int_equal(ask("PUT", "/drives/", "{}"), 400);
    assert_int_equal(ask("", "", ""), 400);
    assert_int_equal(ask("PATCH", "/machine-config", "{}"), 400);
    assert_string_equal(reply.allow, "GET, PUT");
    assert_int_equal(ask("GET", "/drives/a", ""), 400);
    assert_string_equal(reply.allow, "PUT");
    assert_int_equal(ask("get", "/", ""), 400);
    assert_string_equal(vm.asked, "");
}

#define api_test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        api_test(each_path_asks_for_what_its_body_says),
        api_test(what_the_microvm_refuses_is_a_400_with_its_code_and_words),
        api_test(a_fault_is_utf8_whatever_it_quotes),
        api_test(a_refused_body_asks_for_nothing),
        api_test(a_running_microvm_is_saved_only_where_the_pause_is_asked_for),
        api_test(facts_are_the_microvms),
        api_test(the_report_is_that_of_the_last_save_that_succeeded),
        api_test(progress_is_told_while_a_save_runs_and_a_refused_one_does_not_end_it),
        api_test(unknown_paths_and_methods_are_refused_with_the_methods_there_are),
    };
    return unit_run(tests);
}
