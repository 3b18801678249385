/* client.h - one request to a microVM's control socket.
 *
 * A small HTTP/1.1 client: one request, one answer, one connection. A general library would load
 * some thirty shared libraries into a program that has to start a guest within milliseconds. */
#ifndef STASIS_CLI_CLIENT_H
#define STASIS_CLI_CLIENT_H

#include <json-c/json_object.h>

#include <stasis/error.h>

#define CLIENT_TICK_MS 100

/* Told about every CLIENT_TICK_MS while the answer is waited for. */
typedef void client_tick_fn(void *arg);

struct client_request {
    const char *socket_path;
    const char *method;
    const char *path;
    json_object *body;    /* NULL: none; stays the caller's */
    client_tick_fn *tick; /* NULL: none */
    void *tick_arg;
};

/*
 * Send a request and wait for the answer, for as long as the server keeps the connection open.
 *
 * `ret_body` (may be NULL): the JSON object of the answer, to be dropped with json_object_put();
 * NULL when the answer has no body. 0; STASIS_ERR_NOT_FOUND or STASIS_ERR_IO cannot connect;
 * STASIS_ERR_INVALID_ARGUMENT path too long; STASIS_ERR_PROTOCOL what came is not an answer. A
 * refusal has the code that the server named (STASIS_ERR_REFUSED where it named none that is known)
 * and the server's own words.
 */
int client_send(const struct client_request *request, json_object **ret_body,
                struct stasis_error *err);

#endif
