/*
 * console_ends.c - the file descriptors behind a console: opened from what the user asked for.
 *
 * Care is for what is not ours alone. stdin and stdout belong to the shell as well: they are never
 * switched to O_NONBLOCK, and the terminal gets its mode back, at exit() if nobody closed the
 * console. A socket's path is taken over only from a socket at which nobody answers.
 */
#include "microvm/console_ends.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

/* --- the terminal: one per process, as stdin is --------------------------------------------- */

static pthread_mutex_t terminal_lock = PTHREAD_MUTEX_INITIALIZER;
static struct termios terminal_before; /* to be put back while terminal_is_raw */
static bool terminal_is_raw, terminal_has_atexit;

static void terminal_restore(void)
{
    sigset_t ttou, before;

    /* With SIGTTOU blocked a background job may do it, too, instead of being stopped at its end. */
    sigemptyset(&ttou);
    sigaddset(&ttou, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &ttou, &before);
    pthread_mutex_lock(&terminal_lock);
    if (terminal_is_raw)
        tcsetattr(STDIN_FILENO, TCSANOW, &terminal_before);
    terminal_is_raw = false;
    pthread_mutex_unlock(&terminal_lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Every key goes to the guest; output is left as it is, so that "\n" still begins a line. */
static bool terminal_make_raw(void)
{
    struct termios raw;
    bool done = false;

    /* A background job that touches the terminal's mode is stopped by the kernel. */
    if (tcgetpgrp(STDIN_FILENO) != getpgrp())
        return false;
    pthread_mutex_lock(&terminal_lock);
    if (!terminal_is_raw && tcgetattr(STDIN_FILENO, &terminal_before) == 0) {
        raw = terminal_before;
        cfmakeraw(&raw);
        raw.c_oflag = terminal_before.c_oflag;
        done = terminal_is_raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
        if (done && !terminal_has_atexit)
            terminal_has_atexit = atexit(terminal_restore) == 0;
    }
    pthread_mutex_unlock(&terminal_lock);
    return done;
}

/* --- stdio ---------------------------------------------------------------------------------- */

/* A descriptor of our own on the same pipe or terminal, where the system lets us. */
static int reopen_stdout(void)
{
    return open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

static int open_stdout(struct console_ends *ends, struct stasis_error *err)
{
    struct stat st;

    if (fstat(STDOUT_FILENO, &st) < 0)
        return errno == EBADF ? 0 : stasis_fail_errno(err, "stat standard output");
    if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)) {
        ends->way_out = CONSOLE_OUT_NONBLOCKING;
        ends->out_fd = reopen_stdout();
        if (ends->out_fd >= 0)
            return 0;
    }
    ends->way_out = CONSOLE_OUT_SHARED;
    if (S_ISREG(st.st_mode))
        ends->way_out = CONSOLE_OUT_FILE;
    else if (S_ISSOCK(st.st_mode))
        ends->way_out = CONSOLE_OUT_SOCKET;
    ends->out_fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
    return ends->out_fd < 0 ? stasis_fail_errno(err, "duplicate standard output") : 0;
}

static int open_stdio(struct console_ends *ends, struct stasis_error *err)
{
    const int r = open_stdout(ends, err);

    if (r < 0)
        return r;
    ends->in_fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0); /* a closed stdin is no input */
    ends->in_is_terminal = ends->in_fd >= 0 && isatty(ends->in_fd);
    if (ends->in_is_terminal)
        ends->raw = terminal_make_raw();
    return 0;
}

/* --- file ----------------------------------------------------------------------------------- */

static int open_file(const char *path, struct console_ends *ends, struct stasis_error *err)
{
    /* O_NONBLOCK: without it a FIFO that nobody reads would keep us here. */
    const int flags = O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    struct stat st;

    ends->out_fd = open(path, flags, 0600);
    if (ends->out_fd < 0 && errno == ENXIO)
        return stasis_fail_errno(err, "serial output '%s' is a FIFO or socket that nobody reads",
                                 path);
    if (ends->out_fd < 0)
        return stasis_fail_errno(err, "open serial output '%s'", path);
    if (fstat(ends->out_fd, &st) < 0)
        return stasis_fail_errno(err, "stat serial output '%s'", path);
    ends->way_out = S_ISREG(st.st_mode) ? CONSOLE_OUT_FILE : CONSOLE_OUT_NONBLOCKING;
    return 0;
}

/* --- socket --------------------------------------------------------------------------------- */

/* Whether `address` names a socket at which nobody listens any more. */
static bool is_stale_socket(const struct sockaddr_un *address)
{
    auto_fd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct stat st;

    if (fd < 0 || lstat(address->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    return connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
           errno == ECONNREFUSED;
}

static int bind_socket(int fd, const struct sockaddr_un *address, struct stasis_error *err)
{
    const struct sockaddr *any = (const struct sockaddr *)address;
    int r = bind(fd, any, sizeof(*address));

    if (r < 0 && errno == EADDRINUSE) {
        if (!is_stale_socket(address))
            return stasis_fail(err, STASIS_ERR_EXISTS,
                               "serial socket '%s': something is there already", address->sun_path);
        r = unlink(address->sun_path);
        if (r == 0)
            r = bind(fd, any, sizeof(*address));
    }
    return r < 0 ? stasis_fail_errno(err, "bind serial socket '%s'", address->sun_path) : 0;
}

static int open_socket(const char *path, struct console_ends *ends, struct stasis_error *err)
{
    struct sockaddr_un *address = &ends->socket_address;
    auto_fd fd = -1;
    int r;

    if (strlen(path) >= sizeof(address->sun_path))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "serial socket '%s': the path is longer than %zu bytes", path,
                           sizeof(address->sun_path) - 1);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, strlen(path) + 1);

    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* bind() gives the socket's mode to its name; chmod afterwards would leave a gap. */
    if (fd < 0 || fchmod(fd, 0600) < 0)
        return stasis_fail_errno(err, "make serial socket '%s'", path);
    r = bind_socket(fd, address, err);
    if (r < 0)
        return r;
    if (lstat(path, &ends->socket_stat) < 0)
        return stasis_fail_errno(err, "stat serial socket '%s'", path);
    ends->listen_fd = fd_steal(&fd); /* from here on closing unlinks the name */
    if (listen(ends->listen_fd, 1) < 0)
        return stasis_fail_errno(err, "listen on serial socket '%s'", path);
    ends->way_out = CONSOLE_OUT_SOCKET;
    return 0;
}

static void unlink_socket(const struct console_ends *ends)
{
    const char *path = ends->socket_address.sun_path;
    struct stat st;

    if (lstat(path, &st) == 0 && st.st_dev == ends->socket_stat.st_dev &&
        st.st_ino == ends->socket_stat.st_ino)
        unlink(path);
}

/* --- any of them ---------------------------------------------------------------------------- */

/* What follows `prefix` in `spec`; NULL when it does not begin so. */
static const char *after_prefix(const char *spec, const char *prefix)
{
    const size_t length = strlen(prefix);

    return strncmp(spec, prefix, length) == 0 ? spec + length : NULL;
}

static int open_spec(const char *spec, struct console_ends *ends, struct stasis_error *err)
{
    const char *file_path = after_prefix(spec, "file:");
    const char *socket_path = after_prefix(spec, "socket:");

    if (strcmp(spec, "none") == 0)
        return 0;
    if (strcmp(spec, "stdio") == 0)
        return open_stdio(ends, err);
    if (file_path && file_path[0])
        return open_file(file_path, ends, err);
    if (socket_path && socket_path[0])
        return open_socket(socket_path, ends, err);
    return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                       "serial '%s' is none of stdio, none, file:PATH and socket:PATH", spec);
}

int console_ends_open(const char *spec, struct console_ends *ret_ends, struct stasis_error *err)
{
    struct console_ends ends = { .in_fd = -1, .out_fd = -1, .listen_fd = -1 };
    const int r = open_spec(spec, &ends, err);

    if (r < 0) {
        console_ends_close(&ends);
        return r;
    }
    *ret_ends = ends;
    return 0;
}

void console_ends_close(struct console_ends *ends)
{
    if (ends->raw)
        terminal_restore();
    if (ends->listen_fd >= 0)
        unlink_socket(ends);
    if (ends->out_fd != ends->in_fd)
        fd_close(&ends->out_fd);
    fd_close(&ends->in_fd);
    fd_close(&ends->listen_fd);
    ends->out_fd = -1;
}
