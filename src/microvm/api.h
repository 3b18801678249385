/* api.h - the control socket: HTTP/1.1 on a Unix socket, paths and JSON as Firecracker's API. */
#ifndef STASIS_MICROVM_API_H
#define STASIS_MICROVM_API_H

#include <stasis/error.h>

#include "microvm/microvm.h"

struct api_server;

/* Listen on `path` (created 0600, must not exist as anything but a dead socket) and serve until
 * api_server_stop(). The microvm must outlive it. STASIS_ERR_INVALID_ARGUMENT path too long for a socket; STASIS_ERR_EXISTS
 * something else is there or a live server answers. */
int api_server_start(const char *path, struct microvm *vm, struct api_server **ret_server,
                     struct stasis_error *err);
/* Ends connections, removes the socket. NULL is fine. */
void api_server_stop(struct api_server *server);

#endif
