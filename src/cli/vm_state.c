/*
 * vm_state.c - `stasis pause` and `stasis resume`: one request to the control socket each.
 */
#include <getopt.h>
#include <string.h>

#include "cli/client.h"
#include "cli/command.h"

/* `state` is "Paused" or "Resumed", as PATCH /vm has it. */
static int change_state(const char *socket_path, const char *state, struct stasis_error *err)
{
    json_object *body = json_object_new_object();
    const struct client_request request = {
        .socket_path = socket_path, .method = "PATCH", .path = "/vm", .body = body
    };
    int r;

    json_object_object_add(body, "state", json_object_new_string(state));
    r = client_send(&request, NULL, err);
    json_object_put(body);
    return r;
}

static int print_state(const char *state)
{
    json_object *answer = json_object_new_object();

    json_object_object_add(answer, "ok", json_object_new_boolean(true));
    json_object_object_add(answer, "state", json_object_new_string(state));
    return cli_print_json(answer);
}

static int change_run(const struct command *command, int argc, char **argv, const char *request,
                      const char *state)
{
    const char *socket_path = NULL;
    struct stasis_error err = { 0 };
    bool json = false;
    int key;

    while ((key = cli_next_option(command, argc, argv)) != CLI_OPTION_END) {
        switch (key) {
        case 's': socket_path = optarg; break;
        case 'j': json = true; break;
        default: return cli_option_exit(key);
        }
    }
    if (argc != optind)
        return cli_misused(command, "unexpected operand '%s'", argv[optind]);
    if (!socket_path)
        return cli_misused(command, "--socket is needed");
    if (change_state(socket_path, request, &err) < 0)
        return cli_failed(command, json, NULL, &err);
    return json ? print_state(state) : CLI_DONE;
}

static int pause_run(const struct command *command, int argc, char **argv)
{
    return change_run(command, argc, argv, "Paused", "Paused");
}

static int resume_run(const struct command *command, int argc, char **argv)
{
    return change_run(command, argc, argv, "Resumed", "Running");
}

static const struct cli_option options[] = {
    { .name = "socket",
      .argument = "PATH",
      .key = 's',
      .letter = true,
      .help = "the microVM's control socket" },
    { .name = "json", .key = 'j', .help = "answer as one JSON object" },
};

const struct command cmd_pause = {
    .name = "pause",
    .synopsis = "--socket PATH [--json]",
    .summary = "make a running microVM stand still",
    .detail =
        "Returns when all vCPUs have stopped and no device request is under way. A microVM that\n"
        "cannot be stopped within its time limit goes on, and the command fails with\n"
        "QuiesceTimeout.\n",
    CLI_OPTIONS(options),
    .run = pause_run,
};

const struct command cmd_resume = {
    .name = "resume",
    .synopsis = "--socket PATH [--json]",
    .summary = "let a paused microVM go on",
    .detail = "Resuming a microVM that runs does nothing.\n",
    CLI_OPTIONS(options),
    .run = resume_run,
};
