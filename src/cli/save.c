/*
 * save.c - `stasis save`: have a microVM write itself to a file.
 *
 * The control socket creates snapshots of paused microVMs only, as Firecracker's does. A running one is
 * paused for the save and resumed afterwards, whatever came of it.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/vm_state.h"

/* The server's working directory is not ours. */
static int make_absolute(const char *path, char **ret_path, struct stasis_error *err)
{
    auto_free char *cwd = path[0] == '/' ? strdup("") : getcwd(NULL, 0);
    char *absolute;

    if (!cwd)
        return stasis_fail_errno(err, "find the working directory");
    if (asprintf(&absolute, "%s%s%s", cwd, path[0] == '/' ? "" : "/", path) < 0)
        return stasis_fail_memory(err, "a path");
    *ret_path = absolute;
    return 0;
}

static int create_snapshot(const char *socket_path, const char *path, struct stasis_error *err)
{
    json_object *body = json_object_new_object();
    int r;

    json_object_object_add(body, "snapshot_type", json_object_new_string("Full"));
    json_object_object_add(body, "snapshot_path", json_object_new_string(path));
    r = client_request(socket_path, "PUT", "/snapshot/create", body, NULL, err);
    json_object_put(body);
    return r;
}

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* Pauses where needed, and undoes just that. `ret_pause_us` is 0 when it was paused before. */
static int save_vm(const char *socket_path, const char *path, uint64_t *ret_pause_us,
                   struct stasis_error *err)
{
    struct stasis_error resume_err = { 0 };
    uint64_t begun_us;
    bool was_running;
    int r;

    r = vm_state_is_running(socket_path, &was_running, err);
    if (r < 0)
        return r;
    begun_us = now_us();
    if (was_running) {
        r = vm_state_change(socket_path, "Paused", err);
        if (r < 0)
            return r;
    }
    r = create_snapshot(socket_path, path, err);
    if (was_running) {
        const int resumed = vm_state_change(socket_path, "Resumed", &resume_err);

        if (r == 0 && resumed < 0) {
            *err = resume_err;
            return stasis_wrap(err, resumed, "saved, but not resumed");
        }
    }
    if (r == 0)
        *ret_pause_us = was_running ? now_us() - begun_us : 0;
    return r;
}

static int print_report(const char *socket_path, const char *path, uint64_t pause_us, bool json,
                        const struct command *command)
{
    struct stasis_error err = { 0 };
    json_object *report = NULL, *id = NULL, *data = NULL, *allocated = NULL;
    char data_text[32], allocated_text[32];

    if (client_request(socket_path, "GET", "/snapshot", NULL, &report, &err) < 0)
        return cli_failed(command, json, &err);
    if (json) {
        json_object_object_add(report, "ok", json_object_new_boolean(true));
        json_object_object_add(report, "path", json_object_new_string(path));
        json_object_object_add(report, "pause_us", json_object_new_uint64(pause_us));
        return cli_print_json(report);
    }
    json_object_object_get_ex(report, "id", &id);
    json_object_object_get_ex(report, "data_bytes", &data);
    json_object_object_get_ex(report, "file_allocated_bytes", &allocated);
    cli_format_bytes(json_object_get_uint64(data), data_text);
    cli_format_bytes(json_object_get_uint64(allocated), allocated_text);
    printf("%s: id %.16s, %s of data, %s on disk, paused %.1f ms\n", path,
           json_object_get_string(id), data_text, allocated_text, (double)pause_us / 1000);
    json_object_put(report);
    return cli_flush_answer();
}

static int save_run(const struct command *command, int argc, char **argv)
{
    const char *socket_path = NULL, *output = NULL;
    auto_free char *path = NULL;
    struct stasis_error err = { 0 };
    uint64_t pause_us = 0;
    bool json = false;
    int key;

    while ((key = cli_next_option(command, argc, argv)) != CLI_OPTION_END) {
        switch (key) {
        case 's': socket_path = optarg; break;
        case 'o': output = optarg; break;
        case 'j': json = true; break;
        default: return cli_option_exit(key);
        }
    }
    if (argc != optind)
        return cli_misused(command, "unexpected operand '%s'", argv[optind]);
    if (!socket_path || !output)
        return cli_misused(command, "--socket and --output are needed");
    if (make_absolute(output, &path, &err) < 0 ||
        save_vm(socket_path, path, &pause_us, &err) < 0)
        return cli_failed(command, json, &err);
    return print_report(socket_path, path, pause_us, json, command);
}

static const struct cli_option options[] = {
    { .name = "socket", .argument = "PATH", .key = 's', .letter = true,
      .help = "the microVM's control socket" },
    { .name = "output", .argument = "FILE", .key = 'o', .letter = true,
      .help = "the snapshot to write; an existing file is replaced as a whole" },
    { .name = "json", .key = 'j', .help = "answer as one JSON object" },
};

const struct command cmd_save = {
    .name = "save",
    .synopsis = "--socket PATH --output FILE [--json]",
    .summary = "save a microVM to a snapshot file",
    .detail = "A running microVM is paused, saved and resumed; a paused one stays paused. The file appears\n"
              "whole and on disk, or not at all.\n",
    CLI_OPTIONS(options),
    .run = save_run,
};
