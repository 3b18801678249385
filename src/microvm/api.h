/* api.h - the control socket: HTTP/1.1 on a Unix socket, paths and JSON as Firecracker's API.
 *
 *     api_server_new    the socket is there, clients may connect and wait
 *     api_server_run    their requests are carried out, each connection in a thread of its own
 *     api_server_free   connections end, the socket is gone
 *
 * Two steps, so that a microVM which cannot be controlled never runs, and one that has to run soon
 * does not wait for a server. doc/api.md is the contract with clients. */
#ifndef STASIS_MICROVM_API_H
#define STASIS_MICROVM_API_H

#include <stasis/error.h>

#include "microvm/microvm.h"

struct api_server;

/* Take `path` for the socket, created 0600. Nothing may be there but a socket that nobody listens
 * on any more, which is replaced. The microvm must outlive the server. STASIS_ERR_INVALID_ARGUMENT
 * path empty or too long for a socket; STASIS_ERR_EXISTS something else is there, or a live server;
 * STASIS_ERR_NOT_FOUND no such folder; STASIS_ERR_PERMISSION, STASIS_ERR_READ_ONLY,
 * STASIS_ERR_IO */
int api_server_new(const char *path, struct microvm *vm, struct api_server **ret_server,
                   struct stasis_error *err);

/* Serve until api_server_free(); once for a server. */
int api_server_run(struct api_server *server, struct stasis_error *err);

/* Waits for the requests that are being carried out, ends connections, removes the socket. NULL is
 * fine. */
void api_server_free(struct api_server *server);

#endif
