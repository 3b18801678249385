/*
 * api_server.c - how requests arrive: HTTP/1.1 on a Unix socket, by libmicrohttpd.
 *
 * Each connection has a thread of its own, so that "GET /" is answered while a save runs. Clients are
 * hostile: connections, header bytes and body bytes are limited, and a request that is not complete
 * after REQUEST_MS is cut off by the reaper, however busily its bytes drip in.
 *
 *     accept -> slot taken, clock started -> headers, body -> clock stopped -> api_route() -> answer
 *               ^                                                                            |
 *               +------------------------- kept alive, clock started ------------------------+
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
#define REQUEST_MS 5000                   /* from the first wait for a request to its last byte */
#define REAP_EVERY_MS 500

/* One open connection. `waiting_since_ns` is 0 while a request is being carried out. */
struct connection_slot {
    bool used;
    int fd;
    int64_t waiting_since_ns; /* CLOCK_MONOTONIC */
};

struct api_server {
    struct api_context context;
    struct MHD_Daemon *daemon;
    char *path;
    int stop_fd; /* eventfd: ends the reaper */
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
    const int64_t limit = now_ns() - (int64_t)REQUEST_MS * 1000000;

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

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status,
                              json_object *body, enum stasis_code code)
{
    const char *text = body ? json_object_to_json_string_ext(
                                  body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
                            : "";
    struct MHD_Response *response = MHD_create_response_from_buffer(strlen(text), (void *)text,
                                                                    MHD_RESPMEM_MUST_COPY);
    enum MHD_Result queued;

    json_object_put(body);
    if (!response)
        return MHD_NO;
    if (*text)
        MHD_add_response_header(response, "Content-Type", "application/json");
    if (code != STASIS_OK)
        MHD_add_response_header(response, "Stasis-Error", stasis_code_name(code));
    queued = MHD_queue_response(connection, status, response);
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

static enum MHD_Result carry_out(struct api_server *server, struct MHD_Connection *connection,
                                 const char *url, const char *method,
                                 const struct incoming *incoming)
{
    enum stasis_code code = STASIS_OK;
    json_object *body = NULL;
    unsigned status;

    if (incoming->too_large)
        return answer(connection, MHD_HTTP_CONTENT_TOO_LARGE,
                      api_fault("the body is larger than 65536 bytes"), STASIS_ERR_LIMIT);
    status = api_route(&server->context, method, url, incoming->body ? incoming->body : "",
                       incoming->size, &body, &code);
    return answer(connection, status, body, code);
}

/* libmicrohttpd's handler: once with the headers, once for each chunk, once at the end. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_size, void **request_state)
{
    struct api_server *server = arg;
    struct connection_slot *slot = slot_of(connection);
    struct incoming *incoming = *request_state;

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
    return carry_out(server, connection, url, method, incoming);
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

/* A socket file that nobody listens on any more is in the way and may go. */
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
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN)
        return stasis_fail(err, STASIS_ERR_EXISTS, "'%s' is in use by another process",
                           address->sun_path);
    if (unlink(address->sun_path) < 0)
        return stasis_fail_errno(err, "remove stale socket '%s'", address->sun_path);
    return 0;
}

static int listen_on(const char *path, int *ret_fd, struct stasis_error *err)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    auto_fd fd = -1;
    int r;

    if (strlen(path) >= sizeof(address.sun_path) || path[0] == '\0')
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "socket path of %zu bytes, 1 to %zu work", strlen(path),
                           sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    r = clear_stale_socket(&address, err);
    if (r < 0)
        return r;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return stasis_fail_errno(err, "make a socket");
    /* The socket file gets the mode of the socket (bind(2), unix_mknod()): only the owner's. */
    if (fchmod(fd, 0600) < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return stasis_fail_errno(err, "bind '%s'", path);
    if (listen(fd, CONNECTION_MAX) < 0) {
        r = stasis_fail_errno(err, "listen on '%s'", path);
        unlink(path);
        return r;
    }
    *ret_fd = fd_steal(&fd);
    return 0;
}

static int start_daemon(struct api_server *server, int listen_fd, struct stasis_error *err)
{
    errno = 0;
    server->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
            MHD_USE_ITC,
        0, NULL, NULL, on_request, server, MHD_OPTION_LISTEN_SOCKET, listen_fd,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTION_MAX,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, server,
        MHD_OPTION_NOTIFY_CONNECTION, connection_changed, server,
        MHD_OPTION_END);
    if (!server->daemon)
        return stasis_fail_errno(err, "start the control server on '%s'", server->path);
    return 0;
}

static int start_reaper(struct api_server *server, struct stasis_error *err)
{
    server->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (server->stop_fd < 0)
        return stasis_fail_errno(err, "make an eventfd");
    errno = pthread_create(&server->reaper, NULL, reap, server);
    if (errno != 0)
        return stasis_fail_errno(err, "start a thread");
    server->reaper_runs = true;
    return 0;
}

int api_server_start(const char *path, struct microvm *vm, struct api_server **ret_server,
                     struct stasis_error *err)
{
    struct api_server *server = calloc(1, sizeof(*server));
    int listen_fd = -1;
    int r;

    if (!server)
        return stasis_fail_memory(err, "a control server");
    server->context.vm = vm;
    server->stop_fd = -1;
    pthread_mutex_init(&server->context.lock, NULL);
    pthread_mutex_init(&server->slots_lock, NULL);
    r = listen_on(path, &listen_fd, err);
    if (r < 0) {
        api_server_stop(server);
        return stasis_wrap(err, r, "control socket");
    }
    server->path = strdup(path); /* from here on the socket file is ours to remove */
    r = server->path ? start_reaper(server, err) : stasis_fail_memory(err, "a path");
    if (r == 0)
        r = start_daemon(server, listen_fd, err);
    if (r < 0) {
        fd_close(&listen_fd);
        unlink(path);
        api_server_stop(server);
        return stasis_wrap(err, r, "control socket");
    }
    *ret_server = server;
    return 0;
}

void api_server_stop(struct api_server *server)
{
    if (!server)
        return;
    if (server->daemon)
        MHD_stop_daemon(server->daemon); /* closes the listening socket, waits for connections */
    if (server->reaper_runs) {
        const uint64_t one = 1;

        (void)!write(server->stop_fd, &one, sizeof(one));
        pthread_join(server->reaper, NULL);
    }
    if (server->path)
        unlink(server->path);
    fd_close(&server->stop_fd);
    pthread_mutex_destroy(&server->context.lock);
    pthread_mutex_destroy(&server->slots_lock);
    free(server->path);
    free(server);
}
