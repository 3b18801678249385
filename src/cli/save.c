/*
 * save.c - `stasis save`: have a microVM write itself to a file.
 *
 * One request does all of it: the microVM pauses itself, takes what it needs, goes on, and writes. Were
 * it several, a client that is killed in between would leave the guest standing still for ever.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/progress.h"

/* What the server tells of the snapshot, in the order in which we pass it on. */
static const char *const report_numbers[] = {
    "memory_bytes", "data_bytes", "zero_bytes", "file_bytes", "file_allocated_bytes",
    "memory_us",    "sync_us",    "total_us",   "pause_us",
};
#define REPORT_NUMBER_COUNT (sizeof(report_numbers) / sizeof(report_numbers[0]))

/* The server's working directory is not ours. */
static int make_absolute(const char *path, char **ret_path, struct stasis_error *err)
{
    auto_free char *cwd = path[0] == '/' ? strdup("") : getcwd(NULL, 0);
    char *absolute;

    if (path[0] == '\0')
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the name of the file is empty");
    if (!cwd)
        return stasis_fail_errno(err, "find the working directory");
    if (asprintf(&absolute, "%s%s%s", cwd, path[0] == '/' ? "" : "/", path) < 0)
        return stasis_fail_memory(err, "a path");
    *ret_path = absolute;
    return 0;
}

/* --- the request ------------------------------------------------------------------------------ */

/* What the user asked for. */
struct save_request {
    const char *socket_path;
    const char *output;
    const char *parent; /* NULL: the last snapshot saved or loaded */
    bool diff;
    bool json;
};

struct wait {
    const char *socket_path;
    struct progress line;
};

static bool get_number(json_object *object, const char *key, uint64_t *ret_number)
{
    json_object *value;

    if (!json_object_object_get_ex(object, key, &value) ||
        !json_object_is_type(value, json_type_int))
        return false;
    *ret_number = json_object_get_uint64(value);
    return true;
}

/* Ask how far the save is, on a connection of its own; there may be none any more. */
static void show_progress(void *arg)
{
    struct wait *wait = arg;
    const struct client_request question = { .socket_path = wait->socket_path,
                                             .method = "GET",
                                             .path = "/snapshot/progress" };
    json_object *answer = NULL;
    uint64_t done, total;

    if (!progress_is_due(&wait->line) || client_send(&question, &answer, NULL) < 0)
        return;
    if (get_number(answer, "done_bytes", &done) && get_number(answer, "total_bytes", &total))
        progress_step(&wait->line, done, total);
    json_object_put(answer);
}

/* The body of the request; `ret_path` is where the snapshot is to be. */
static int make_body(const struct save_request *wanted, json_object **ret_body, char **ret_path,
                     struct stasis_error *err)
{
    auto_free char *path = NULL;
    auto_free char *parent = NULL;
    json_object *body;
    int r = make_absolute(wanted->output, &path, err);

    if (r == 0 && wanted->parent)
        r = make_absolute(wanted->parent, &parent, err);
    if (r < 0)
        return r;
    body = json_object_new_object();
    json_object_object_add(body, "snapshot_path", json_object_new_string(path));
    json_object_object_add(body, "pause_vm", json_object_new_boolean(true));
    if (wanted->diff)
        json_object_object_add(body, "snapshot_type", json_object_new_string("Diff"));
    if (parent)
        json_object_object_add(body, "parent_path", json_object_new_string(parent));
    *ret_body = body;
    *ret_path = take_ptr(path);
    return 0;
}

static int create_snapshot(const char *socket_path, json_object *body, json_object **ret_report,
                           struct stasis_error *err)
{
    struct wait wait = { .socket_path = socket_path };
    const struct client_request request = { .socket_path = socket_path,
                                            .method = "PUT",
                                            .path = "/snapshot/create",
                                            .body = body,
                                            .tick = show_progress,
                                            .tick_arg = &wait };
    int r;

    progress_begin(&wait.line, "saving");
    r = client_send(&request, ret_report, err);
    progress_end(&wait.line);
    return r;
}

/* --- the answer ------------------------------------------------------------------------------- */

/* NULL: not there, or not a text. */
static const char *report_text(json_object *report, const char *key)
{
    json_object *value = json_object_object_get(report, key);

    return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

static bool has_type(json_object *report, const char *type)
{
    const char *told = report_text(report, "type");

    return told && strcmp(told, type) == 0;
}

static bool is_diff(json_object *report)
{
    return has_type(report, "Diff"); /* otherwise "Full", by check_report() */
}

/* A diff has a parent, a full snapshot has none. */
static int check_type(json_object *report, struct stasis_error *err)
{
    const char *parent = report_text(report, "parent");
    json_object *value;

    if (!has_type(report, "Full") && !has_type(report, "Diff"))
        return stasis_fail(err, STASIS_ERR_PROTOCOL, "the server told no 'type' of the snapshot");
    if (!json_object_object_get_ex(report, "parent", &value) ||
        (is_diff(report) ? !parent : value != NULL))
        return stasis_fail(err, STASIS_ERR_PROTOCOL, "the server told no 'parent' of the snapshot");
    return 0;
}

/* The server is not trusted: a report that lacks something is none. */
static int check_report(json_object *report, struct stasis_error *err)
{
    uint64_t number;

    if (!report_text(report, "id"))
        return stasis_fail(err, STASIS_ERR_PROTOCOL, "the server told no id of the snapshot");
    for (size_t i = 0; i < REPORT_NUMBER_COUNT; i++) {
        if (!get_number(report, report_numbers[i], &number))
            return stasis_fail(err, STASIS_ERR_PROTOCOL, "the server told no '%s' of the snapshot",
                               report_numbers[i]);
    }
    return check_type(report, err);
}

static uint64_t report_number(json_object *report, const char *key)
{
    uint64_t number = 0;

    (void)get_number(report, key, &number); /* there, by check_report() */
    return number;
}

static int print_report_json(const char *path, json_object *report)
{
    json_object *answer = json_object_new_object();

    json_object_object_add(answer, "ok", json_object_new_boolean(true));
    json_object_object_add(answer, "path", cli_json_text(path));
    json_object_object_add(answer, "id", cli_json_text(report_text(report, "id")));
    json_object_object_add(answer, "kind", cli_json_text(is_diff(report) ? "diff" : "full"));
    json_object_object_add(answer, "parent", cli_json_text(report_text(report, "parent")));
    for (size_t i = 0; i < REPORT_NUMBER_COUNT; i++)
        json_object_object_add(answer, report_numbers[i],
                               json_object_new_uint64(report_number(report, report_numbers[i])));
    return cli_print_json(answer);
}

static int print_report_text(const char *path, json_object *report)
{
    char data[32], allocated[32];

    cli_format_bytes(report_number(report, "data_bytes"), data);
    cli_format_bytes(report_number(report, "file_allocated_bytes"), allocated);
    cli_print_safely(stdout, path);
    fputs(": id ", stdout);
    cli_print_safely(stdout, report_text(report, "id"));
    if (is_diff(report)) {
        fputs(", diff of ", stdout);
        cli_print_safely(stdout, report_text(report, "parent"));
    }
    printf(", %s of data, %s on disk, paused %.1f ms\n", data, allocated,
           (double)report_number(report, "pause_us") / 1000);
    return cli_flush_answer();
}

static int save_vm(const struct command *command, const struct save_request *request)
{
    auto_free char *path = NULL;
    json_object *body = NULL, *report = NULL;
    struct stasis_error err = { 0 };
    int r, result;

    r = make_body(request, &body, &path, &err);
    if (r == 0)
        r = create_snapshot(request->socket_path, body, &report, &err);
    if (r == 0)
        r = check_report(report, &err);
    if (r < 0)
        result = cli_failed(command, request->json, NULL, &err);
    else
        result = request->json ? print_report_json(path, report) : print_report_text(path, report);
    json_object_put(body);
    json_object_put(report);
    return result;
}

static int save_run(const struct command *command, int argc, char **argv)
{
    struct save_request request = { 0 };
    int key;

    while ((key = cli_next_option(command, argc, argv)) != CLI_OPTION_END) {
        switch (key) {
        case 's': request.socket_path = optarg; break;
        case 'o': request.output = optarg; break;
        case 'd': request.diff = true; break;
        case 'p': request.parent = optarg; break;
        case 'j': request.json = true; break;
        default: return cli_option_exit(key);
        }
    }
    if (argc != optind)
        return cli_misused(command, "unexpected operand '%s'", argv[optind]);
    if (!request.socket_path || !request.output)
        return cli_misused(command, "--socket and --output are needed");
    if (request.parent && !request.diff)
        return cli_misused(command, "--parent needs --diff");
    return save_vm(command, &request);
}

static const struct cli_option options[] = {
    { .name = "socket",
      .argument = "PATH",
      .key = 's',
      .letter = true,
      .help = "the microVM's control socket" },
    { .name = "output",
      .argument = "FILE",
      .key = 'o',
      .letter = true,
      .help = "the snapshot to write; an existing file is replaced as a whole" },
    { .name = "diff", .key = 'd', .help = "write only what changed since the parent" },
    { .name = "parent",
      .argument = "FILE",
      .key = 'p',
      .help = "the parent of a diff (the last snapshot saved or loaded)" },
    { .name = "json", .key = 'j', .help = "answer as one JSON object" },
};

const struct command cmd_save = {
    .name = "save",
    .synopsis = "--socket PATH --output FILE [--diff [--parent FILE]] [--json]",
    .summary = "save a microVM to a snapshot file",
    .detail =
        "A running microVM is paused only while what is to be saved is copied; a paused one stays paused.\n"
        "The file appears whole and on disk, or not at all. A diff needs a microVM that was started with\n"
        "--track-dirty.\n",
    CLI_OPTIONS(options),
    .run = save_run,
};
