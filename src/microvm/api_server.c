/*
 * api_server.c - how requests arrive: HTTP/1.1 over the control socket, by libmicrohttpd.
 *
 * Each connection has a thread of its own, so that "GET /" is answered while a save runs. Clients
 * are hostile: connections, header bytes and body bytes are limited, and a client that keeps us
 * waiting for more than PATIENCE_MS is cut off, however busily its bytes drip in: for the rest of
 * its request, for its next one, or to take its answer.
 *
 *     accept -> slot taken -> headers, body -> api_route() -> answer taken -> kept alive
 *               clock runs                     clock stands   clock runs anew
 *
 * The acceptor, a thread of ours, takes connections while there are slots and looks at the clocks.
 * libmicrohttpd would accept by itself, but it answers a connection too many by closing it; here it
 * waits. What is wrong in this file lets one client shut out the others.
 */
#include "microvm/api.h"

#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "microvm/api_routes.h"
#include "microvm/api_socket.h"

#define BODY_MAX (64u * 1024)          /* bytes */
#define CONNECTION_MEMORY (32u * 1024) /* bytes: request line and headers must fit */
#define CONNECTION_MAX 32
#define PATIENCE_MS 5000 /* for a whole request, and for taking an answer */
#define LOOK_EVERY_MS 500
#define LAST_ANSWERS_MS 1000 /* for answers to get out when the server ends */

/* One open connection. */
struct connection_slot {
    bool used;
    bool busy; /* from a whole request to the end of its answer */
    int fd;
    int64_t
        waiting_since_ns; /* CLOCK_MONOTONIC; 0 while we are the ones who keep the client waiting */
};

struct api_server {
    struct api_context context;
    struct api_socket socket;
    struct MHD_Daemon *daemon;
    int wake_fd; /* eventfd: a slot is free again, or stop, or an answer has gone after stop */
    pthread_t acceptor;
    bool acceptor_runs;
    atomic_bool stop;
    pthread_mutex_t slots_lock;
    struct connection_slot slots[CONNECTION_MAX];
};

/* A request while it arrives. */
struct incoming {
    char *body; /* BODY_MAX bytes, made with the first chunk */
    size_t size;
    bool too_large;
};

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* --- slots ------------------------------------------------------------------------------------ */

/* The acceptor, or who waits for the last answers when there is none any more. */
static void wake(const struct api_server *server)
{
    const uint64_t one = 1;

    (void)!write(server->wake_fd, &one, sizeof(one)); /* full only when it is readable anyway */
}

static void set_slot(struct api_server *server, struct connection_slot *slot, bool busy,
                     bool waiting)
{
    pthread_mutex_lock(&server->slots_lock);
    slot->busy = busy;
    slot->waiting_since_ns = waiting ? now_ns() : 0;
    pthread_mutex_unlock(&server->slots_lock);
}

static bool has_busy_slot(struct api_server *server)
{
    bool has = false;

    pthread_mutex_lock(&server->slots_lock);
    for (size_t i = 0; i < CONNECTION_MAX; i++)
        has |= server->slots[i].used && server->slots[i].busy;
    pthread_mutex_unlock(&server->slots_lock);
    return has;
}

static struct connection_slot *find_free_slot(struct api_server *server)
{
    for (size_t i = 0; i < CONNECTION_MAX; i++) {
        if (!server->slots[i].used)
            return &server->slots[i];
    }
    return NULL;
}

static bool has_free_slot(struct api_server *server)
{
    bool has;

    pthread_mutex_lock(&server->slots_lock);
    has = find_free_slot(server) != NULL;
    pthread_mutex_unlock(&server->slots_lock);
    return has;
}

/* The acceptor alone takes slots: one that was free for it is free still. */
static struct connection_slot *take_slot(struct api_server *server, int fd)
{
    struct connection_slot *slot;

    pthread_mutex_lock(&server->slots_lock);
    slot = find_free_slot(server);
    *slot = (struct connection_slot){ .used = true, .fd = fd, .waiting_since_ns = now_ns() };
    pthread_mutex_unlock(&server->slots_lock);
    return slot;
}

static void give_slot_back(struct api_server *server, struct connection_slot *slot)
{
    pthread_mutex_lock(&server->slots_lock);
    slot->used = false;
    pthread_mutex_unlock(&server->slots_lock);
    wake(server);
}

static struct connection_slot *find_slot(struct api_server *server, int fd)
{
    struct connection_slot *found = NULL;

    pthread_mutex_lock(&server->slots_lock);
    for (size_t i = 0; i < CONNECTION_MAX && !found; i++) {
        if (server->slots[i].used && server->slots[i].fd == fd)
            found = &server->slots[i];
    }
    pthread_mutex_unlock(&server->slots_lock);
    return found;
}

/* libmicrohttpd tells of each connection's beginning and end. Between the two its descriptor is
 * open, so shutdown() under the lock never hits another's. */
static void connection_changed(void *arg, struct MHD_Connection *connection, void **slot,
                               enum MHD_ConnectionNotificationCode what)
{
    struct api_server *server = arg;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        *slot = info ? find_slot(server, info->connect_fd) : NULL;
    else if (*slot)
        give_slot_back(server, *slot);
}

static struct connection_slot *slot_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

    return info ? info->socket_context : NULL;
}

/* --- the acceptor ----------------------------------------------------------------------------- */

static void cut_late_connections(struct api_server *server)
{
    const int64_t limit = now_ns() - (int64_t)PATIENCE_MS * 1000000;

    pthread_mutex_lock(&server->slots_lock);
    for (size_t i = 0; i < CONNECTION_MAX; i++) {
        struct connection_slot *slot = &server->slots[i];

        if (slot->used && slot->waiting_since_ns != 0 && slot->waiting_since_ns < limit)
            shutdown(slot->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&server->slots_lock);
}

/* Wait for a connection (if there is room for one), a free slot, the stop, or the time to look. */
static void wait_for_work(struct api_server *server, bool want_connection)
{
    struct pollfd wait[] = { { .fd = server->wake_fd, .events = POLLIN },
                             { .fd = want_connection ? server->socket.fd : -1, .events = POLLIN } };
    uint64_t count;

    if (poll(wait, 2, LOOK_EVERY_MS) > 0 && (wait[0].revents & POLLIN))
        (void)!read(server->wake_fd, &count, sizeof(count));
}

/* Take one connection. False: there is none, or no way to take it now. */
static bool accept_one(struct api_server *server)
{
    struct sockaddr_un peer = { .sun_family = AF_UNIX };
    socklen_t peer_size = sizeof(peer);
    const int fd = accept4(server->socket.fd, (struct sockaddr *)&peer, &peer_size,
                           SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct connection_slot *slot;

    if (fd < 0)
        return false;
    slot = take_slot(server, fd);
    /* On failure it has closed the descriptor. Nobody but this thread looks at the clocks, so
     * nothing was shut down in its place. */
    if (MHD_add_connection(server->daemon, fd, (const struct sockaddr *)&peer, peer_size) !=
        MHD_YES)
        give_slot_back(server, slot);
    return true;
}

static void *accept_connections(void *arg)
{
    struct api_server *server = arg;
    bool out_of_descriptors = false;

    while (!atomic_load(&server->stop)) {
        wait_for_work(server, !out_of_descriptors && has_free_slot(server));
        cut_late_connections(server);
        errno = 0;
        while (has_free_slot(server) && accept_one(server))
            continue;
        /* The connection stays where it is, and would wake us at once: try again later. */
        out_of_descriptors = errno == EMFILE || errno == ENFILE || errno == ENOMEM;
    }
    return NULL;
}

/* --- requests --------------------------------------------------------------------------------- */

static void add_header(struct MHD_Response *response, const char *name, const char *value)
{
    if (value)
        (void)MHD_add_response_header(response, name, value); /* without it if memory is short */
}

/* Drops the reply's body. */
static enum MHD_Result answer(struct MHD_Connection *connection, struct api_reply *reply)
{
    const char *text =
        reply->body ? json_object_to_json_string_ext(
                          reply->body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
                    : "";
    struct MHD_Response *response =
        text ? MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_MUST_COPY)
             : NULL;
    const bool has_body = text && *text;
    enum MHD_Result queued;

    json_object_put(reply->body);
    reply->body = NULL;
    if (!response)
        return MHD_NO;
    add_header(response, "Content-Type", has_body ? "application/json" : NULL);
    add_header(response, "Stasis-Error",
               reply->code == STASIS_OK ? NULL : stasis_code_name(reply->code));
    add_header(response, "Allow", reply->allow[0] ? reply->allow : NULL);
    queued = MHD_queue_response(connection, reply->status, response);
    MHD_destroy_response(response);
    return queued;
}

static bool take_chunk(struct incoming *incoming, const char *data, size_t size)
{
    if (!incoming->body)
        incoming->body = malloc(BODY_MAX);
    if (!incoming->body)
        return false;
    if (size > BODY_MAX - incoming->size) {
        incoming->too_large = true; /* the rest is read and dropped, the time limit still holds */
        return true;
    }
    memcpy(incoming->body + incoming->size, data, size);
    incoming->size += size;
    return true;
}

/* The query is not part of any path: what asks for something there would not get it. */
static bool has_query(struct MHD_Connection *connection)
{
    return MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, NULL, NULL) > 0;
}

static enum MHD_Result carry_out(struct api_server *server, struct MHD_Connection *connection,
                                 const char *url, const char *method,
                                 const struct incoming *incoming)
{
    const struct api_call call = { .method = method,
                                   .path = url,
                                   .body = incoming->body ? incoming->body : "",
                                   .body_size = incoming->size };
    struct api_reply reply = { 0 };

    if (incoming->too_large)
        api_refuse(&reply, MHD_HTTP_CONTENT_TOO_LARGE, STASIS_ERR_LIMIT,
                   "the body is larger than 65536 bytes");
    else if (has_query(connection))
        api_refuse(&reply, MHD_HTTP_BAD_REQUEST, STASIS_ERR_INVALID_ARGUMENT,
                   "no path takes a query");
    else
        api_route(&server->context, &call, &reply);
    return answer(connection, &reply);
}

/* libmicrohttpd's handler: once with the headers, once for each chunk, once at the end. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_size, void **request_state)
{
    struct api_server *server = arg;
    struct connection_slot *slot = slot_of(connection);
    struct incoming *incoming = *request_state;
    enum MHD_Result result;

    (void)version;
    if (!slot)
        return MHD_NO;
    if (!incoming) {
        *request_state = calloc(1, sizeof(*incoming));
        return *request_state ? MHD_YES : MHD_NO;
    }
    if (*data_size > 0) {
        if (!take_chunk(incoming, data, *data_size))
            return MHD_NO;
        *data_size = 0;
        return MHD_YES;
    }
    set_slot(server, slot, true, false);
    result = carry_out(server, connection, url, method, incoming);
    set_slot(server, slot, true, true); /* for it to take the answer */
    return result;
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **request_state,
                         enum MHD_RequestTerminationCode why)
{
    struct api_server *server = arg;
    struct incoming *incoming = *request_state;
    struct connection_slot *slot = slot_of(connection);

    (void)why;
    if (slot)
        set_slot(server, slot, false, true); /* for the next request on this connection */
    if (atomic_load(&server->stop))
        wake(server);
    if (incoming) {
        free(incoming->body);
        free(incoming);
        *request_state = NULL;
    }
}

/* --- the server ------------------------------------------------------------------------------- */

/* Paths are compared as they came: "%2e" is no '.', and "%00" ends nothing. */
static size_t leave_escapes(void *arg, struct MHD_Connection *connection, char *text)
{
    (void)arg;
    (void)connection;
    return strlen(text);
}

static int start_daemon(struct api_server *server, struct stasis_error *err)
{
    errno = 0;
    /* Its own limit is wider than ours: it counts a connection for a moment longer than we do. */
    server->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
            MHD_USE_ITC | MHD_USE_NO_LISTEN_SOCKET,
        0, NULL, NULL, on_request, server, MHD_OPTION_CONNECTION_LIMIT, 2u * CONNECTION_MAX,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, server, MHD_OPTION_NOTIFY_CONNECTION, connection_changed, server,
        MHD_OPTION_UNESCAPE_CALLBACK, leave_escapes, NULL, MHD_OPTION_END);
    if (!server->daemon)
        return stasis_fail_errno(err, "start the HTTP server");
    return 0;
}

static int start_acceptor(struct api_server *server, struct stasis_error *err)
{
    errno = pthread_create(&server->acceptor, NULL, accept_connections, server);
    if (errno != 0)
        return stasis_fail_errno(err, "start a thread");
    server->acceptor_runs = true;
    return 0;
}

static void stop_acceptor(struct api_server *server)
{
    atomic_store(&server->stop, true);
    wake(server);
    pthread_join(server->acceptor, NULL);
    server->acceptor_runs = false;
}

int api_server_new(const char *path, struct microvm *vm, struct api_server **ret_server,
                   struct stasis_error *err)
{
    struct api_server *server = calloc(1, sizeof(*server));
    int r;

    if (!server)
        return stasis_fail_memory(err, "a control server");
    server->socket.fd = -1;
    api_context_init(&server->context, vm);
    pthread_mutex_init(&server->slots_lock, NULL);
    server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = server->wake_fd < 0 ? stasis_fail_errno(err, "make an eventfd")
                            : api_socket_open(path, &server->socket, err);
    if (r < 0) {
        api_server_free(server);
        return stasis_wrap(err, r, "control socket");
    }
    *ret_server = server;
    return 0;
}

int api_server_run(struct api_server *server, struct stasis_error *err)
{
    int r = start_daemon(server, err);

    if (r == 0)
        r = start_acceptor(server, err);
    return r < 0 ? stasis_wrap(err, r, "control socket") : 0;
}

/* MHD_stop_daemon() waits for what is being carried out, but not for its answer to go: who asked
 * for the very thing that ended the microVM would not be told. */
static void let_last_answers_go(struct api_server *server)
{
    const int64_t deadline = now_ns() + (int64_t)LAST_ANSWERS_MS * 1000000;

    while (has_busy_slot(server) && now_ns() < deadline)
        wait_for_work(server, false);
}

void api_server_free(struct api_server *server)
{
    if (!server)
        return;
    if (server->acceptor_runs)
        stop_acceptor(server);
    api_socket_close(&server->socket);
    if (server->daemon) {
        let_last_answers_go(server);
        MHD_stop_daemon(server->daemon);
    }
    fd_close(&server->wake_fd);
    api_context_release(&server->context);
    pthread_mutex_destroy(&server->slots_lock);
    free(server);
}
