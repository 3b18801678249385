/*
 * api_server.c - how requests arrive: HTTP/1.1 on a Unix socket, by libmicrohttpd.
 *
 * Each connection has a thread of its own, so that "GET /" is answered while a save runs. Clients are
 * hostile: connections, header bytes and body bytes are limited, and a client that keeps us waiting for
 * more than PATIENCE_MS is cut off by the reaper, however busily its bytes drip in: for the rest of its
 * request, for its next one, or to take its answer.
 *
 *     accept -> slot taken -> headers, body -> api_route() -> answer taken -> kept alive
 *               clock runs                     clock stands   clock runs anew
 *
 * What is wrong here lets one client shut out the others, or leaves a socket behind that nobody serves.
 */
#include "microvm/api.h"

#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "microvm/api_routes.h"

#define BODY_MAX (64u * 1024)             /* bytes */
#define CONNECTION_MEMORY (32u * 1024)    /* bytes: request line and headers must fit */
#define CONNECTION_MAX 32
#define PATIENCE_MS 5000                  /* for a whole request, and for taking an answer */
#define REAP_EVERY_MS 500

/* One open connection. */
struct connection_slot {
    bool used;
    int fd;
    int64_t waiting_since_ns; /* CLOCK_MONOTONIC; 0 while we are the ones who keep the client waiting */
};

struct api_server {
    struct api_context context;
    struct MHD_Daemon *daemon;
    char *path;    /* NULL until the socket file is there and ours to remove */
    dev_t path_dev; /* which file it is: another process may have put its own there since */
    ino_t path_ino;
    int listen_fd; /* -1 when the daemon has it */
    int stop_fd;   /* eventfd: ends the reaper */
    pthread_t reaper;
    bool reaper_runs;
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

/* --- slow clients ------------------------------------------------------------------------------ */

static void set_waiting(struct api_server *server, struct connection_slot *slot, bool waiting)
{
    pthread_mutex_lock(&server->slots_lock);
    slot->waiting_since_ns = waiting ? now_ns() : 0;
    pthread_mutex_unlock(&server->slots_lock);
}

static struct connection_slot *take_slot(struct api_server *server, int fd)
{
    struct connection_slot *taken = NULL;

    pthread_mutex_lock(&server->slots_lock);
    for (size_t i = 0; i < CONNECTION_MAX && !taken; i++) {
        if (!server->slots[i].used)
            taken = &server->slots[i];
    }
    if (taken)
        *taken = (struct connection_slot){ .used = true, .fd = fd, .waiting_since_ns = now_ns() };
    pthread_mutex_unlock(&server->slots_lock);
    return taken;
}

static void give_slot_back(struct api_server *server, struct connection_slot *slot)
{
    pthread_mutex_lock(&server->slots_lock);
    slot->used = false;
    pthread_mutex_unlock(&server->slots_lock);
}

/* libmicrohttpd tells of each connection's beginning and end. Between the two its descriptor is open,
 * so shutdown() under the lock never hits another's. */
static void connection_changed(void *arg, struct MHD_Connection *connection, void **slot,
                               enum MHD_ConnectionNotificationCode what)
{
    struct api_server *server = arg;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);

    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        *slot = info ? take_slot(server, info->connect_fd) : NULL;
    else if (*slot)
        give_slot_back(server, *slot);
}

static struct connection_slot *slot_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

    return info ? info->socket_context : NULL;
}

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

static void *reap(void *arg)
{
    struct api_server *server = arg;
    struct pollfd stop = { .fd = server->stop_fd, .events = POLLIN };

    while (poll(&stop, 1, REAP_EVERY_MS) <= 0)
        cut_late_connections(server);
    return NULL;
}

/* --- requests ---------------------------------------------------------------------------------- */

static void add_header(struct MHD_Response *response, const char *name, const char *value)
{
    if (value)
        (void)MHD_add_response_header(response, name, value); /* without it if memory is short */
}

/* Drops the reply's body. */
static enum MHD_Result answer(struct MHD_Connection *connection, struct api_reply *reply)
{
    const char *text = reply->body ? json_object_to_json_string_ext(
                                         reply->body, JSON_C_TO_STRING_PLAIN |
                                                          JSON_C_TO_STRING_NOSLASHESCAPE)
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
    set_waiting(server, slot, false);
    result = carry_out(server, connection, url, method, incoming);
    set_waiting(server, slot, true); /* for it to take the answer */
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
        set_waiting(server, slot, true); /* for the next request on this connection */
    if (incoming) {
        free(incoming->body);
        free(incoming);
        *request_state = NULL;
    }
}

/* --- the socket ---------------------------------------------------------------------------------- */

/* A socket file that nobody listens on any more is in the way and may go. Two processes that find the same
 * one at the same moment are not kept apart: the path is for its user to give to one of them. */
static int clear_stale_socket(const struct sockaddr_un *address, struct stasis_error *err)
{
    struct stat st;
    auto_fd fd = -1;

    if (lstat(address->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : stasis_fail_errno(err, "look at '%s'", address->sun_path);
    if (!S_ISSOCK(st.st_mode))
        return stasis_fail(err, STASIS_ERR_EXISTS, "'%s' is there and is not a socket",
                           address->sun_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return stasis_fail_errno(err, "make a socket");
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN ||
        errno == EPROTOTYPE)
        return stasis_fail(err, STASIS_ERR_EXISTS, "'%s' is in use by another process",
                           address->sun_path);
    if (errno != ECONNREFUSED)
        return stasis_fail_errno(err, "see whether '%s' is in use", address->sun_path);
    if (unlink(address->sun_path) < 0)
        return stasis_fail_errno(err, "remove stale socket '%s'", address->sun_path);
    return 0;
}

static int fill_address(const char *path, struct sockaddr_un *ret_address,
                        struct stasis_error *err)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (path[0] == '\0' || strlen(path) >= sizeof(address.sun_path))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the socket's path is %zu bytes, 1 to %zu work", strlen(path),
                           sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    *ret_address = address;
    return 0;
}

/* From here on the socket file is ours. */
static int note_socket_file(struct api_server *server, const char *path, struct stasis_error *err)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return stasis_fail_errno(err, "look at '%s'", path);
    server->path_dev = st.st_dev;
    server->path_ino = st.st_ino;
    server->path = strdup(path);
    if (!server->path) {
        unlink(path);
        return stasis_fail_memory(err, "a path");
    }
    return 0;
}

static int listen_on(struct api_server *server, const char *path, struct stasis_error *err)
{
    struct sockaddr_un address;
    int r = fill_address(path, &address, err);

    if (r == 0)
        r = clear_stale_socket(&address, err);
    if (r < 0)
        return r;
    server->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (server->listen_fd < 0)
        return stasis_fail_errno(err, "make a socket");
    /* The socket file gets the mode of the socket (bind(2), unix_mknod()): only the owner's. */
    if (fchmod(server->listen_fd, 0600) < 0 ||
        bind(server->listen_fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return stasis_fail_errno(err, "bind '%s'", path);
    r = note_socket_file(server, path, err);
    if (r == 0 && listen(server->listen_fd, CONNECTION_MAX) < 0)
        r = stasis_fail_errno(err, "listen on '%s'", path);
    return r;
}

static void remove_socket_file(const struct api_server *server)
{
    struct stat st;

    if (lstat(server->path, &st) == 0 && st.st_dev == server->path_dev &&
        st.st_ino == server->path_ino)
        unlink(server->path);
}

/* --- the server ----------------------------------------------------------------------------------- */

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
    server->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
            MHD_USE_ITC,
        0, NULL, NULL, on_request, server, MHD_OPTION_LISTEN_SOCKET, server->listen_fd,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTION_MAX,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, server,
        MHD_OPTION_NOTIFY_CONNECTION, connection_changed, server,
        MHD_OPTION_UNESCAPE_CALLBACK, leave_escapes, NULL,
        MHD_OPTION_END);
    /* Even on failure the socket may have been closed, which is not told: closing it a second time
     * could hit a descriptor of another thread. */
    server->listen_fd = -1;
    if (!server->daemon)
        return stasis_fail_errno(err, "start the server on '%s'", server->path);
    return 0;
}

static int start_reaper(struct api_server *server, struct stasis_error *err)
{
    errno = pthread_create(&server->reaper, NULL, reap, server);
    if (errno != 0)
        return stasis_fail_errno(err, "start a thread");
    server->reaper_runs = true;
    return 0;
}

int api_server_new(const char *path, struct microvm *vm, struct api_server **ret_server,
                   struct stasis_error *err)
{
    struct api_server *server = calloc(1, sizeof(*server));
    int r;

    if (!server)
        return stasis_fail_memory(err, "a control server");
    server->listen_fd = -1;
    api_context_init(&server->context, vm);
    pthread_mutex_init(&server->slots_lock, NULL);
    server->stop_fd = eventfd(0, EFD_CLOEXEC);
    r = server->stop_fd < 0 ? stasis_fail_errno(err, "make an eventfd")
                            : listen_on(server, path, err);
    if (r < 0) {
        api_server_free(server);
        return stasis_wrap(err, r, "control socket");
    }
    *ret_server = server;
    return 0;
}

int api_server_run(struct api_server *server, struct stasis_error *err)
{
    int r = start_reaper(server, err);

    if (r == 0)
        r = start_daemon(server, err);
    return r < 0 ? stasis_wrap(err, r, "control socket") : 0;
}

void api_server_free(struct api_server *server)
{
    if (!server)
        return;
    if (server->path)
        remove_socket_file(server);
    if (server->daemon)
        MHD_stop_daemon(server->daemon); /* closes the listening socket, waits for connections */
    if (server->reaper_runs) {
        const uint64_t one = 1;

        (void)!write(server->stop_fd, &one, sizeof(one));
        pthread_join(server->reaper, NULL);
    }
    fd_close(&server->listen_fd);
    fd_close(&server->stop_fd);
    api_context_release(&server->context);
    pthread_mutex_destroy(&server->slots_lock);
    free(server->path);
    free(server);
}
