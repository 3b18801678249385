/* session.h - a microVM in the foreground: what `stasis run` and `stasis restore` share. */
#ifndef STASIS_CLI_SESSION_H
#define STASIS_CLI_SESSION_H

#include <stdbool.h>

#include "cli/command.h"
#include "microvm/microvm.h"

struct session {
    const struct command *command;
    struct microvm_options options;
    const char *socket_path; /* NULL: no control socket */
    bool json;
    struct microvm *vm; /* made by session_begin() */
};

/* Options that both commands have, for their tables. */
#define SESSION_OPTIONS                                                                            \
    { .name = "serial", .argument = "TARGET", .key = 'S',                                          \
      .help = "stdio (default), none, file:PATH or socket:PATH" },                                 \
        { .name = "api-socket", .argument = "PATH", .key = 'a',                                    \
          .help = "serve the control socket there" },                                              \
        { .name = "id", .argument = "ID", .key = 'i', .help = "instance id" },                     \
        { .name = "quiesce-timeout", .argument = "MS", .key = 'q',                                 \
          .help = "time limit for standing still, milliseconds (5000)" },                          \
        { .name = "exit-on-reset", .key = 'x', .help = "a reset ends the run" },                   \
        { .name = "no-seccomp", .key = 'n', .help = "no system call filter" },                     \
        { .name = "json", .key = 'j', .help = "tell how it ended as one JSON object" }

/* Take one of the options above. CLI_DONE; CLI_MISUSED when its argument is bad (reported). */
int session_option(struct session *session, int key, const char *argument);
/* Whether `key` is one of the options above. */
bool session_has_option(int key);

/* Make the microVM and catch SIGINT, SIGTERM and SIGHUP, which end it in order. */
int session_begin(struct session *session, struct stasis_error *err);

/* Serve the control socket, wait for the end, say how it ended. The exit status. */
int session_wait(struct session *session);

/* Free the microVM; fine when it was never made. */
void session_end(struct session *session);

#endif
