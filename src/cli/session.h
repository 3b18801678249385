/* session.h - a microVM in the foreground: what `stasis run` and `stasis restore` share.
 *
 *     session_begin -> configure and start, or load -> session_wait -> session_end
 *
 * Whichever of them fails, session_end() comes next, and gives the exit status. */
#ifndef STASIS_CLI_SESSION_H
#define STASIS_CLI_SESSION_H

#include <stdbool.h>

#include "cli/command.h"
#include "microvm/api.h"
#include "microvm/microvm.h"

struct session {
    const struct command *command;
    struct microvm_options options;
    const char *socket_path;   /* NULL: no control socket */
    const char *snapshot_path; /* what a failure is about, NULL: no snapshot */
    bool json;
    bool track_dirty;
    enum microvm_pages pages;
    struct microvm *vm;        /* made by session_begin() */
    struct api_server *server; /* made by session_begin(), when there is a socket path */
    enum microvm_exit exit;    /* set by session_wait() */
};

/* Options that both commands have, for their tables. */
#define SESSION_OPTIONS                                                                            \
    { .name = "serial",                                                                            \
      .argument = "TARGET",                                                                        \
      .key = 'S',                                                                                  \
      .help = "stdio (default), none, file:PATH or socket:PATH" },                                 \
        { .name = "api-socket",                                                                    \
          .argument = "PATH",                                                                      \
          .key = 'a',                                                                              \
          .help = "serve the control socket there" },                                              \
        { .name = "id", .argument = "ID", .key = 'i', .help = "instance id" },                     \
        { .name = "quiesce-timeout",                                                               \
          .argument = "MS",                                                                        \
          .key = 'q',                                                                              \
          .help = "time limit for standing still, milliseconds (5000)" },                          \
        { .name = "track-dirty", .key = 'T', .help = "watch what changes, for diffs" },            \
        { .name = "hugepages",                                                                     \
          .argument = "KIND",                                                                      \
          .key = 'H',                                                                              \
          .help = "pages of guest RAM: none (default), thp or 2M" },                               \
        { .name = "exit-on-reset", .key = 'x', .help = "a reset ends the run" },                   \
        { .name = "no-seccomp", .key = 'n', .help = "no system call filter" },                     \
    {                                                                                              \
        .name = "json", .key = 'j', .help = "tell how it ended as one JSON object"                 \
    }

/* Take one of the options above. CLI_DONE; CLI_MISUSED when its argument is bad (reported). */
int session_option(struct session *session, int key, const char *argument);
/* Whether `key` is one of the options above. */
bool session_has_option(int key);

/* Make the microVM, take the control socket's place (what cannot be served must not run), and catch
 * SIGINT, SIGTERM and SIGHUP, which end the microVM in order. */
int session_begin(struct session *session, struct stasis_error *err);

/* Serve the control socket and wait for the end. Fails when the guest crashed. */
int session_wait(struct session *session, struct stasis_error *err);

/* Give everything back, the terminal too, then say how it ended: `result` and `err` are of the
 * first step that failed, or 0. The exit status. */
int session_end(struct session *session, int result, const struct stasis_error *err);

#endif
