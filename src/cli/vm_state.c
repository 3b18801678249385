/*
 * vm_state.c - `stasis pause` and `stasis resume`, and the questions they share with `stasis save`.
 */
#include "cli/vm_state.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "cli/client.h"
#include "cli/command.h"

int vm_state_is_running(const char *socket_path, bool *ret_running, struct stasis_error *err)
{
    json_object *answer = NULL, *state = NULL;
    int r = client_request(socket_path, "GET", "/", NULL, &answer, err);

    if (r < 0)
        return r;
    if (json_object_is_type(answer, json_type_object) &&
        json_object_object_get_ex(answer, "state", &state) &&
        json_object_is_type(state, json_type_string))
        *ret_running = strcmp(json_object_get_string(state), "Running") == 0;
    else
        r = stasis_fail(err, STASIS_ERR_PROTOCOL, "'GET /' did not tell a state");
    json_object_put(answer);
    return r;
}

int vm_state_change(const char *socket_path, const char *state, struct stasis_error *err)
{
    json_object *body = json_object_new_object();
    int r;

    json_object_object_add(body, "state", json_object_new_string(state));
    r = client_request(socket_path, "PATCH", "/vm", body, NULL, err);
    json_object_put(body);
    return r;
}

static int change_run(const struct command *command, int argc, char **argv, const char *state)
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
    if (vm_state_change(socket_path, state, &err) < 0)
        return cli_failed(command, json, &err);
    if (json) {
        json_object *answer = json_object_new_object();

        json_object_object_add(answer, "ok", json_object_new_boolean(true));
        json_object_object_add(answer, "state", json_object_new_string(
                                                    strcmp(state, "Paused") == 0 ? "Paused"
                                                                                 : "Running"));
        return cli_print_json(answer);
    }
    return CLI_DONE;
}

static int pause_run(const struct command *command, int argc, char **argv)
{
    return change_run(command, argc, argv, "Paused");
}

static int resume_run(const struct command *command, int argc, char **argv)
{
    return change_run(command, argc, argv, "Resumed");
}

static const struct cli_option options[] = {
    { .name = "socket", .argument = "PATH", .key = 's', .letter = true,
      .help = "the microVM's control socket" },
    { .name = "json", .key = 'j', .help = "answer as one JSON object" },
};

const struct command cmd_pause = {
    .name = "pause",
    .synopsis = "--socket PATH [--json]",
    .summary = "make a running microVM stand still",
    .detail = "Returns when all vCPUs have stopped and no device request is under way. A microVM that cannot\n"
              "be stopped within its time limit goes on, and the command fails with QuiesceTimeout.\n",
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
