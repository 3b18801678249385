/* api_socket.h - the control socket's place in the file system. */
#ifndef STASIS_MICROVM_API_SOCKET_H
#define STASIS_MICROVM_API_SOCKET_H

#include <sys/types.h>

#include <stasis/error.h>

struct api_socket {
    int fd;     /* listening, non-blocking; -1 when not open */
    char *path; /* owned; NULL until the socket file is there and ours to remove */
    dev_t dev;  /* which file it is: another process may have put its own there since */
    ino_t ino;
};

/* Errors as api_server_new(). On failure the socket is as after api_socket_close(). */
int api_socket_open(const char *path, struct api_socket *ret_socket, struct stasis_error *err);
/* Once open; twice does nothing more. */
void api_socket_close(struct api_socket *listening);

#endif
