/*
 * restore.c - `stasis restore`: bring a saved microVM back, in the foreground.
 *
 * The guest runs before anything else is done: the control socket's place is taken before, which
 * costs microseconds, but its server is started afterwards, and who connects meanwhile waits.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/progress.h"
#include "cli/session.h"

struct restore_request {
    struct session session;
    struct microvm_load_options load;
    struct microvm_drive_override overrides[MICROVM_DRIVE_MAX];
    bool paused;
    bool timings;
};

/* "ID=PATH"; cuts `text`. */
static int add_override(struct restore_request *request, char *text)
{
    const struct command *command = request->session.command;
    char *path = strchr(text, '=');

    if (request->load.drive_count == MICROVM_DRIVE_MAX)
        return cli_misused(command, "at most %d disks", MICROVM_DRIVE_MAX);
    if (!path || path == text || path[1] == '\0')
        return cli_misused(command, "--disk takes ID=PATH, not '%s'", text);
    *path++ = '\0';
    for (size_t i = 0; i < request->load.drive_count; i++) {
        if (strcmp(request->overrides[i].id, text) == 0)
            return cli_misused(command, "disk '%s' is given twice", text);
    }
    request->overrides[request->load.drive_count++] =
        (struct microvm_drive_override){ .id = text, .path = path };
    return CLI_DONE;
}

static int take_option(struct restore_request *request, int key, char *argument)
{
    if (session_has_option(key))
        return session_option(&request->session, key, argument);
    switch (key) {
    case 'd': return add_override(request, argument);
    case 'p': request->paused = true; break;
    case 'v': request->load.verify = true; break;
    case 'c': request->load.clock_stopped = true; break;
    default: request->timings = true; break;
    }
    return CLI_DONE;
}

/* On stderr, one JSON object, so that the guest's console on stdout stays its own. */
static void print_timings(const struct microvm_load_report *report)
{
    fprintf(stderr,
            "{\"opened_us\":%" PRIu64 ",\"created_us\":%" PRIu64 ",\"restored_us\":%" PRIu64
            ",\"first_run_us\":%" PRIu64 ",\"first_run_ns\":%" PRIu64 "}\n",
            report->opened_us, report->created_us, report->restored_us, report->first_run_us,
            report->first_run_ns);
}

static int restore_vm(struct restore_request *request)
{
    struct session *session = &request->session;
    struct microvm_load_report report = { 0 };
    struct progress progress;
    struct stasis_error err = { 0 };
    int r;

    request->load.drives = request->overrides;
    request->load.resume = !request->paused;
    request->load.track_dirty = session->track_dirty;
    request->load.pages = session->pages;
    request->load.progress = progress_step;
    request->load.progress_arg = &progress;
    progress_begin(&progress, "verifying");
    r = session_begin(session, &err);
    if (r == 0)
        r = microvm_load(session->vm, session->snapshot_path, &request->load, &report, &err);
    progress_end(&progress);
    if (r == 0 && request->timings)
        print_timings(&report);
    if (r == 0)
        r = session_wait(session, &err);
    return session_end(session, r, &err);
}

static int restore_run(const struct command *command, int argc, char **argv)
{
    struct restore_request request = { .session = { .command = command } };
    int key;

    while ((key = cli_next_option(command, argc, argv)) != CLI_OPTION_END) {
        if (key == CLI_OPTION_BAD || key == CLI_OPTION_HELP)
            return cli_option_exit(key);
        if (take_option(&request, key, optarg) != CLI_DONE)
            return CLI_MISUSED;
    }
    if (argc - optind != 1)
        return cli_misused(command, "expected one FILE, got %d", argc - optind);
    if (request.paused && !request.session.socket_path)
        return cli_misused(command, "--paused needs --api-socket, or nobody could resume it");
    request.session.snapshot_path = argv[optind];
    return restore_vm(&request);
}

static const struct cli_option options[] = {
    { .name = "disk",
      .argument = "ID=PATH",
      .key = 'd',
      .help = "use this file as disk ID instead of the one at the save" },
    { .name = "paused", .key = 'p', .help = "load, but do not run yet" },
    { .name = "verify", .key = 'v', .help = "check all of memory before the guest runs" },
    { .name = "clock-stopped",
      .key = 'c',
      .help = "guest clocks go on from the save instead of jumping to now" },
    { .name = "timings", .key = 't', .help = "tell on stderr how long each step took" },
    SESSION_OPTIONS,
};

const struct command cmd_restore = {
    .name = "restore",
    .synopsis = "[OPTION]... FILE",
    .summary = "bring a saved microVM back",
    .detail =
        "The guest goes on exactly where it was saved, in the foreground, as with 'stasis run'.\n"
        "Its memory is mapped from FILE and read as it is touched; FILE itself is never\n"
        "changed. The guest is told that it is a new copy of itself (VMGenID) and its clocks\n"
        "are set forward to now.\n",
    CLI_OPTIONS(options),
    .run = restore_run,
};
