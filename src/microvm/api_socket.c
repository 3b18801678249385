/*
 * api_socket.c - the control socket's place in the file system: taken, held, given back.
 *
 * A path is taken only when nothing is there, or a socket that nobody listens on any more. The
 * socket is made under another name and gets its own when it is listened on: who waits for it to
 * appear and then connects is not refused, and who finds it is not led to think that nobody
 * listens. What is wrong here removes somebody else's file, or leaves a socket behind that nobody
 * serves. A crash in between leaves ".XXXXXXXXXX" in the folder.
 */
#include "microvm/api_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

#define BACKLOG 128 /* clients that wait to be accepted; those beyond wait in connect() */

static int fill_address(const char *path, struct sockaddr_un *ret_address, struct stasis_error *err)
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

/* A socket file that nobody listens on any more is in the way and may go. Two processes that find
 * the same one at the same moment are not kept apart: the path is for its user to give to one of
 * them. */
static int clear_stale_socket(const struct sockaddr_un *address, struct stasis_error *err)
{
    const char *path = address->sun_path;
    struct stat st;
    auto_fd fd = -1;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : stasis_fail_errno(err, "look at '%s'", path);
    if (!S_ISSOCK(st.st_mode))
        return stasis_fail(err, STASIS_ERR_EXISTS, "'%s' is there and is not a socket", path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return stasis_fail_errno(err, "make a socket");
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN ||
        errno == EPROTOTYPE)
        return stasis_fail(err, STASIS_ERR_EXISTS, "'%s' is in use by another process", path);
    if (errno != ECONNREFUSED)
        return stasis_fail_errno(err, "see whether '%s' is in use", path);
    if (unlink(path) < 0)
        return stasis_fail_errno(err, "remove stale socket '%s'", path);
    return 0;
}

/* A name of its own in the same folder. False: the address has no room for it. */
static bool make_private_address(const struct sockaddr_un *address, struct sockaddr_un *ret_private)
{
    const char *slash = strrchr(address->sun_path, '/');
    const int folder_size = slash ? (int)(slash + 1 - address->sun_path) : 0;
    struct sockaddr_un private = { .sun_family = AF_UNIX };
    uint64_t number;
    int size;

    if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number))
        return false;
    size = snprintf(private.sun_path, sizeof(private.sun_path), "%.*s.%010jx", folder_size,
                    address->sun_path, (uintmax_t)(number & 0xffffffffff));
    if (size < 0 || (size_t)size >= sizeof(private.sun_path))
        return false;
    *ret_private = private;
    return true;
}

/* Bind and listen; the file is at `address` then. `named` is what the user called it. */
static int listen_at(int fd, const struct sockaddr_un *address, const char *named,
                     struct stasis_error *err)
{
    int r;

    /* The socket file gets the mode of the socket (bind(2), unix_mknod()): only the owner's. */
    if (fchmod(fd, 0600) < 0 || bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
        return stasis_fail_errno(err, "bind '%s'", named);
    if (listen(fd, BACKLOG) == 0)
        return 0;
    r = stasis_fail_errno(err, "listen on '%s'", named);
    unlink(address->sun_path);
    return r;
}

static int rename_to_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    return errno == EINVAL ? rename(from, to) : -1; /* a file system that cannot promise it */
}

/* Have `fd` listened on at `address`. */
static int appear_at(int fd, const struct sockaddr_un *address, struct stasis_error *err)
{
    struct sockaddr_un private;
    int r;

    if (!make_private_address(address, &private))
        return listen_at(fd, address, address->sun_path, err);
    r = listen_at(fd, &private, address->sun_path, err);
    if (r < 0 || rename_to_new(private.sun_path, address->sun_path) == 0)
        return r;
    r = stasis_fail_errno(err, "make '%s'", address->sun_path);
    unlink(private.sun_path);
    return r;
}

/* The socket file is ours, and will be removed. */
static int note_socket_file(struct api_socket *listening, const char *path,
                            struct stasis_error *err)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return stasis_fail_errno(err, "look at '%s'", path);
    listening->dev = st.st_dev;
    listening->ino = st.st_ino;
    listening->path = strdup(path);
    if (!listening->path) {
        unlink(path);
        return stasis_fail_memory(err, "a path");
    }
    return 0;
}

static int listen_for(const struct sockaddr_un *address, struct api_socket *listening,
                      struct stasis_error *err)
{
    int r;

    listening->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listening->fd < 0)
        return stasis_fail_errno(err, "make a socket");
    r = appear_at(listening->fd, address, err);
    return r < 0 ? r : note_socket_file(listening, address->sun_path, err);
}

int api_socket_open(const char *path, struct api_socket *ret_socket, struct stasis_error *err)
{
    struct api_socket listening = { .fd = -1 };
    struct sockaddr_un address;
    int r = fill_address(path, &address, err);

    if (r == 0)
        r = clear_stale_socket(&address, err);
    if (r == 0)
        r = listen_for(&address, &listening, err);
    if (r < 0)
        api_socket_close(&listening);
    *ret_socket = listening;
    return r;
}

void api_socket_close(struct api_socket *listening)
{
    struct stat st;

    if (listening->path && lstat(listening->path, &st) == 0 && st.st_dev == listening->dev &&
        st.st_ino == listening->ino)
        unlink(listening->path);
    free(listening->path);
    listening->path = NULL;
    fd_close(&listening->fd);
}
