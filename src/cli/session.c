/*
 * session.c - a microVM in the foreground, from its making to its exit status.
 *
 * Power-off by the guest and a signal from outside are orderly ends (0); a crashed guest is a failure (1).
 */
#include "cli/session.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>

#include "microvm/api.h"

/* What the signal handler stops; one session a process. */
static _Atomic(struct microvm *) signalled_vm;

static void stop_on_signal(int signal_number)
{
    struct microvm *vm = atomic_load(&signalled_vm);

    (void)signal_number;
    if (vm)
        microvm_stop(vm);
}

static void catch_signals(struct microvm *vm)
{
    const struct sigaction action = { .sa_handler = stop_on_signal, .sa_flags = SA_RESTART };

    atomic_store(&signalled_vm, vm);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

bool session_has_option(int key)
{
    switch (key) {
    case 'S':
    case 'a':
    case 'i':
    case 'q':
    case 'x':
    case 'n':
    case 'j': return true;
    default: return false;
    }
}

int session_option(struct session *session, int key, const char *argument)
{
    uint64_t number;

    switch (key) {
    case 'S': session->options.serial = argument; break;
    case 'a': session->socket_path = argument; break;
    case 'i': session->options.id = argument; break;
    case 'x': session->options.exit_on_reset = true; break;
    case 'n': session->options.no_seccomp = true; break;
    case 'j': session->json = true; break;
    default:
        if (!cli_parse_number(argument, 3600000, &number) || number == 0)
            return cli_misused(session->command,
                               "--quiesce-timeout takes 1 to 3600000 milliseconds, not '%s'",
                               argument);
        session->options.quiesce_timeout_ms = (uint32_t)number;
        break;
    }
    return CLI_DONE;
}

int session_begin(struct session *session, struct stasis_error *err)
{
    const int r = microvm_new(&session->options, &session->vm, err);

    if (r == 0)
        catch_signals(session->vm);
    return r;
}

static const char *exit_name(enum microvm_exit reason)
{
    switch (reason) {
    case MICROVM_EXIT_POWER_OFF: return "power-off";
    case MICROVM_EXIT_RESET: return "reset";
    case MICROVM_EXIT_STOPPED: return "stopped";
    case MICROVM_EXIT_CRASHED: return "crashed";
    default: return "unknown";
    }
}

static int tell_end(const struct session *session, enum microvm_exit reason)
{
    json_object *answer;

    if (!session->json)
        return CLI_DONE;
    answer = json_object_new_object();
    json_object_object_add(answer, "ok", json_object_new_boolean(true));
    json_object_object_add(answer, "exit", json_object_new_string(exit_name(reason)));
    return cli_print_json(answer);
}

int session_wait(struct session *session)
{
    struct api_server *server = NULL;
    struct stasis_error err = { 0 };
    enum microvm_exit reason;
    int r;

    if (session->socket_path &&
        api_server_start(session->socket_path, session->vm, &server, &err) < 0)
        return cli_failed(session->command, session->json, &err);
    r = microvm_wait(session->vm, &reason, &err);
    api_server_stop(server);
    if (r < 0)
        return cli_failed(session->command, session->json, &err);
    return tell_end(session, reason);
}

void session_end(struct session *session)
{
    catch_signals(NULL);
    microvm_free(session->vm);
    session->vm = NULL;
}
