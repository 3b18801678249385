/*
 * client.c - one request to a control socket.
 *
 * The server is not trusted: the answer is bounded, its framing is checked, and nothing is taken
 * from it but a status, an optional JSON object, and a sentence that says why it refused.
 */
#include "cli/client.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <json-c/json_tokener.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/text.h"

#define ANSWER_MAX (256u * 1024) /* bytes, headers included */

/* --- the request ------------------------------------------------------------------------------ */

static int connect_socket(const char *socket_path, int *ret_fd, struct stasis_error *err)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    auto_fd fd = -1;

    /* An empty name would be a socket outside of the file system. */
    if (socket_path[0] == '\0' || strlen(socket_path) >= sizeof(address.sun_path))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "socket path '%.40s' is %zu bytes, 1 to %zu work", socket_path,
                           strlen(socket_path), sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, socket_path, strlen(socket_path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return stasis_fail_errno(err, "make a socket");
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return stasis_fail_errno(err, "connect to '%s'", socket_path);
    *ret_fd = fd_steal(&fd);
    return 0;
}

static int send_all(int fd, const char *data, size_t size, struct stasis_error *err)
{
    while (size > 0) {
        const ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return stasis_fail_errno(err, "send request");
        data += sent;
        size -= (size_t)sent;
    }
    return 0;
}

static int send_head_and_body(int fd, const struct client_request *request,
                              struct stasis_error *err)
{
    const char *text =
        request->body ? json_object_to_json_string_ext(request->body, JSON_C_TO_STRING_PLAIN) : "";
    char *message = NULL;
    int size, r;

    if (!text)
        return stasis_fail_memory(err, "a request");
    size = asprintf(&message,
                    "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                    "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                    request->method, request->path, strlen(text), text);
    if (size < 0)
        return stasis_fail_memory(err, "a request");
    r = send_all(fd, message, (size_t)size, err);
    free(message);
    return r;
}

/* --- the answer ------------------------------------------------------------------------------- */

/* Wait for the next bytes, or for their end, and tell the caller how time goes by. */
static void wait_readable(int fd, const struct client_request *request)
{
    struct pollfd readable = { .fd = fd, .events = POLLIN };

    while (request->tick && poll(&readable, 1, CLIENT_TICK_MS) == 0)
        request->tick(request->tick_arg);
}

/* Everything up to the end of the connection, which "Connection: close" asked for. */
static int receive_answer(int fd, const struct client_request *request, char **ret_text,
                          struct stasis_error *err)
{
    auto_free char *text = malloc(ANSWER_MAX + 1);
    size_t size = 0;

    if (!text)
        return stasis_fail_memory(err, "an answer");
    for (;;) {
        ssize_t got;

        wait_readable(fd, request);
        got = recv(fd, text + size, ANSWER_MAX - size, 0);
        if (got < 0 && errno == EINTR)
            continue;
        /* A server that refused before it had read all resets the connection after its answer. */
        if (got == 0 || (got < 0 && errno == ECONNRESET && size > 0))
            break;
        if (got < 0)
            return stasis_fail_errno(err, "receive answer");
        size += (size_t)got;
        if (size == ANSWER_MAX)
            return stasis_fail(err, STASIS_ERR_PROTOCOL, "the answer is over %u bytes", ANSWER_MAX);
    }
    text[size] = '\0';
    if (strlen(text) != size)
        return stasis_fail(err, STASIS_ERR_PROTOCOL, "the answer holds a zero byte");
    *ret_text = take_ptr(text);
    return 0;
}

/* The value of a header in `headers`, which end at `body`; NULL when it is not there. */
static const char *find_header(const char *headers, const char *body, const char *name)
{
    const size_t length = strlen(name);

    for (const char *at = strstr(headers, "\r\n"); at && at < body; at = strstr(at + 2, "\r\n")) {
        if (strncasecmp(at + 2, name, length) == 0 && at[2 + length] == ':')
            return at + 2 + length + 1 + strspn(at + 2 + length + 1, " \t");
    }
    return NULL;
}

/* Content-Length, where there is one, agrees with what was received; no other framing is known. */
static bool body_is_whole(const char *headers, const char *body)
{
    const char *length = find_header(headers, body, "Content-Length");

    if (find_header(headers, body, "Transfer-Encoding"))
        return false;
    return !length || strtoul(length, NULL, 10) == strlen(body);
}

/* One JSON value and nothing else. */
static json_object *parse_body(const char *body)
{
    json_tokener *tokener = text_is_utf8(body, strlen(body)) ? json_tokener_new() : NULL;
    json_object *value;

    if (!tokener)
        return NULL;
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
    value = json_tokener_parse_ex(tokener, body, (int)strlen(body) + 1);
    json_tokener_free(tokener);
    return value;
}

/* The code that the server named, which must be one that we know. */
static enum stasis_code refusal_code(const char *headers, const char *body)
{
    const char *value = find_header(headers, body, "Stasis-Error");
    char name[64];
    enum stasis_code code;

    if (!value)
        return STASIS_ERR_REFUSED;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(value, "\r\n"), value);
    code = stasis_code_from_name(name);
    return code == STASIS_OK ? STASIS_ERR_REFUSED : code;
}

/* The server's own words for a refusal, or the bare status. */
static int refusal(enum stasis_code code, int status, json_object *answer, struct stasis_error *err)
{
    json_object *message = NULL;

    if (json_object_is_type(answer, json_type_object) &&
        json_object_object_get_ex(answer, "fault_message", &message) &&
        json_object_is_type(message, json_type_string))
        return stasis_fail(err, code, "%s", json_object_get_string(message));
    return stasis_fail(err, code, "the server answered with status %d", status);
}

static int read_answer(const char *text, json_object **ret_body, struct stasis_error *err)
{
    const char *body = strstr(text, "\r\n\r\n");
    json_object *answer = NULL;
    int status, result = 0;

    if (text[0] == '\0')
        return stasis_fail(err, STASIS_ERR_PROTOCOL, "the server closed without an answer");
    /* NOLINTNEXTLINE(cert-err34-c): three digits fit */
    if (sscanf(text, "HTTP/1.%*1d %3d", &status) != 1 || !body)
        return stasis_fail(err, STASIS_ERR_PROTOCOL, "the answer is not HTTP/1.1");
    body += 4;
    if (!body_is_whole(text, body))
        return stasis_fail(err, STASIS_ERR_PROTOCOL, "the answer was cut short");
    answer = *body ? parse_body(body) : NULL;
    if (status < 200 || status > 299)
        result = refusal(refusal_code(text, body), status, answer, err);
    else if (*body && !json_object_is_type(answer, json_type_object))
        result = stasis_fail(err, STASIS_ERR_PROTOCOL, "the answer's body is not a JSON object");
    else if (ret_body)
        *ret_body = take_ptr(answer);
    json_object_put(answer);
    return result;
}

int client_send(const struct client_request *request, json_object **ret_body,
                struct stasis_error *err)
{
    auto_fd fd = -1;
    auto_free char *text = NULL;
    int r;

    r = connect_socket(request->socket_path, &fd, err);
    if (r == 0)
        r = send_head_and_body(fd, request, err);
    if (r == 0)
        r = receive_answer(fd, request, &text, err);
    return r != 0 ? r : read_answer(text, ret_body, err);
}
