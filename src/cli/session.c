/*
 * session.c - a microVM in the foreground, from its making to its exit status.
 *
 * Power-off by the guest and a signal from outside are orderly ends (0); a crashed guest is a
 * failure (1). Nothing is said before the microVM is gone: until then the terminal is the guest's,
 * in raw mode.
 */
#include "cli/session.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>

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
    sigaction(SIGQUIT, &action, NULL);
}

bool session_has_option(int key)
{
    switch (key) {
    case 'S':
    case 'a':
    case 'i':
    case 'q':
    case 'T':
    case 'H':
    case 'x':
    case 'n':
    case 'j': return true;
    default: return false;
    }
}

static int take_pages(struct session *session, const char *argument)
{
    static const char *const names[] = {
        [MICROVM_PAGES_SMALL] = "none", [MICROVM_PAGES_THP] = "thp", [MICROVM_PAGES_2M] = "2M"
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(argument, names[i]) == 0) {
            session->pages = (enum microvm_pages)i;
            return CLI_DONE;
        }
    }
    return cli_misused(session->command, "--hugepages takes none, thp or 2M, not '%s'", argument);
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
    case 'T': session->track_dirty = true; break;
    case 'H': return take_pages(session, argument);
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
    int r = microvm_new(&session->options, &session->vm, err);

    if (r < 0)
        return r;
    if (session->socket_path)
        r = api_server_new(session->socket_path, session->vm, &session->server, err);
    if (r == 0)
        catch_signals(session->vm);
    return r;
}

int session_wait(struct session *session, struct stasis_error *err)
{
    const int r = session->server ? api_server_run(session->server, err) : 0;

    return r < 0 ? r : microvm_wait(session->vm, &session->exit, err);
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

static int tell_end(const struct session *session)
{
    json_object *answer;

    if (!session->json)
        return CLI_DONE;
    answer = json_object_new_object();
    json_object_object_add(answer, "ok", json_object_new_boolean(true));
    json_object_object_add(answer, "exit", json_object_new_string(exit_name(session->exit)));
    return cli_print_json(answer);
}

int session_end(struct session *session, int result, const struct stasis_error *err)
{
    api_server_free(session->server); /* first: requests use the microVM */
    catch_signals(NULL);
    microvm_free(session->vm);
    if (result == 0)
        return tell_end(session);
    if (session->snapshot_path)
        return cli_failed_on_file(session->command, session->json, session->snapshot_path, err);
    return cli_failed(session->command, session->json, NULL, err);
}
