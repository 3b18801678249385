/* console_ends.h - the file descriptors behind a console: opened from what the user asked for.
 *
 * Used by console.c only, which does the reading and writing. */
#ifndef STASIS_MICROVM_CONSOLE_ENDS_H
#define STASIS_MICROVM_CONSOLE_ENDS_H

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <stasis/error.h>

enum console_way_out {
    CONSOLE_OUT_FILE,        /* regular file: writes do not wait */
    CONSOLE_OUT_NONBLOCKING, /* a descriptor of our own with O_NONBLOCK */
    CONSOLE_OUT_SHARED,      /* shared with others, so blocking: small writes, after poll() */
    CONSOLE_OUT_SOCKET,      /* send() with MSG_DONTWAIT */
};

struct console_ends {
    int in_fd;     /* -1: no input */
    int out_fd;    /* -1: no output; may be the same as in_fd */
    int listen_fd; /* -1: not a socket */
    enum console_way_out way_out;
    bool in_is_terminal;
    bool raw; /* the terminal's mode is ours to put back */
    struct sockaddr_un socket_address;
    struct stat socket_stat; /* of our socket, so that we unlink no other */
};

/* "stdio", "file:PATH", "socket:PATH", "none". STASIS_ERR_INVALID_ARGUMENT another word, an empty path, or one too
 * long for a socket; STASIS_ERR_EXISTS the socket's path is taken; as errno says. */
int console_ends_open(const char *spec, struct console_ends *ret_ends, struct stasis_error *err);
void console_ends_close(struct console_ends *ends);

#endif
