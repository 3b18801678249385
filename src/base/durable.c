/*
 * durable.c - a file that appears under its name whole and on disk, or not at all (design D4).
 *
 *     begin            ".NAME.RANDOM.tmp" in NAME's directory: O_EXCL, 0600, no symlink followed
 *     (caller writes)
 *     commit           fdatasync(file) -> rename over NAME -> fsync(directory)
 *
 * The order is the whole point. Renamed before its data is on disk, a crash leaves an empty file
 * under the name; without the directory's fsync, a save that was reported done may be undone by a
 * power loss. tests/crash kills a process around each of these calls and looks.
 *
 * All steps go through the directory's descriptor, so moving or replacing the directory meanwhile
 * cannot split them between two places.
 */
#include "base/durable.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

#define RANDOM_LENGTH 12 /* letters; 32^12 = 2^60 names, so a second try is luck, not load */
#define TRY_COUNT 16
#define TMP_OVERHEAD (1 + 1 + RANDOM_LENGTH + 4) /* ".", ".", random, ".tmp" */

static int fail_not_regular(const char *path, struct stasis_error *err)
{
    return stasis_fail(err, STASIS_ERR_NOT_REGULAR, "'%s' is not a regular file", path);
}

/*
 * The path to replace: `path` itself, or what it points to when it is a symlink. Replacing the link
 * would silently move the snapshot away from where its owner put it.
 */
static int resolve_link(const char *path, char **ret_path, struct stasis_error *err)
{
    struct stat st;

    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode)) {
        *ret_path = realpath(path, NULL);
        if (!*ret_path && errno == ENOENT)
            return fail_not_regular(path, err); /* a link to nothing */
        if (!*ret_path)
            return stasis_fail_errno(err, "follow '%s'", path);
        return 0;
    }
    *ret_path = strdup(path);
    return *ret_path ? 0 : stasis_fail_memory(err, "a path");
}

/* Cuts `path` at its last slash; the directory is "." or "/" where nothing is left of it. */
static int split_path(char *path, const char **ret_dir, const char **ret_name,
                      struct stasis_error *err)
{
    char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;

    if (*path == '\0')
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "the file name is empty");
    if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return fail_not_regular(path, err); /* names a directory, there or not */
    *ret_name = name;
    if (!slash) {
        *ret_dir = ".";
    } else if (slash == path) {
        *ret_dir = "/";
    } else {
        *slash = '\0';
        *ret_dir = path;
    }
    return 0;
}

/* Free, or a regular file that may be replaced. */
static int check_destination(int dir_fd, const char *name, struct stasis_error *err)
{
    struct stat st;

    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return S_ISREG(st.st_mode) ? 0 : fail_not_regular(name, err);
    return errno == ENOENT ? 0 : stasis_fail_errno(err, "stat '%s'", name);
}

static int random_letters(char *text, struct stasis_error *err)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz234567";
    uint8_t bytes[RANDOM_LENGTH];
    ssize_t got;

    do {
        got = getrandom(bytes, sizeof(bytes), 0); /* up to 256 bytes come all or not at all */
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        return stasis_fail_errno(err, "getrandom");
    for (size_t i = 0; i < RANDOM_LENGTH; i++)
        text[i] = letters[bytes[i] % 32];
    text[RANDOM_LENGTH] = '\0';
    return 0;
}

/* How much of `name` fits into a temporary name, cut between UTF-8 characters. */
static size_t kept_length(int dir_fd, const char *name)
{
    const long name_max = fpathconf(dir_fd, _PC_NAME_MAX);
    const size_t limit = (name_max > TMP_OVERHEAD ? (size_t)name_max : NAME_MAX) - TMP_OVERHEAD;
    size_t length = strlen(name);

    if (length <= limit)
        return length;
    for (length = limit; length > 0 && ((uint8_t)name[length] & 0xc0) == 0x80;)
        length--;
    return length;
}

static int make_tmp_name(struct durable_file *file, struct stasis_error *err)
{
    const int kept = (int)kept_length(file->dir_fd, file->name);
    char random[RANDOM_LENGTH + 1];
    int r = random_letters(random, err);

    if (r < 0)
        return r;
    free(file->tmp_name);
    if (asprintf(&file->tmp_name, ".%.*s.%s.tmp", kept, file->name, random) < 0) {
        file->tmp_name = NULL;
        return stasis_fail_memory(err, "a file name");
    }
    return 0;
}

static int open_tmp(struct durable_file *file, struct stasis_error *err)
{
    int r;

    for (int i = 0; i < TRY_COUNT; i++) {
        r = make_tmp_name(file, err);
        if (r < 0)
            return r;
        file->fd = openat(file->dir_fd, file->tmp_name,
                          O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (file->fd >= 0 || errno != EEXIST)
            break;
    }
    if (file->fd >= 0)
        return 0;
    r = stasis_fail_errno(err, "create a temporary file for '%s'", file->name);
    /* Not ours: a later abort must not unlink what somebody else may have put there. */
    free(take_ptr(file->tmp_name));
    return r;
}

int durable_begin(struct durable_file *file, const char *path, struct stasis_error *err)
{
    auto_free char *target = NULL;
    const char *dir = NULL, *name = NULL;
    int r;

    *file = (struct durable_file){ .fd = -1, .dir_fd = -1 };
    r = resolve_link(path, &target, err);
    if (r < 0)
        return r;
    r = split_path(target, &dir, &name, err);
    if (r < 0)
        return r;
    file->name = strdup(name);
    if (!file->name)
        return stasis_fail_memory(err, "a file name");
    file->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file->dir_fd < 0)
        return stasis_fail_errno(err, "open directory '%s'", dir);
    r = check_destination(file->dir_fd, file->name, err);
    if (r < 0)
        return r;
    return open_tmp(file, err);
}

/* Never again after EIO: the kernel may have dropped the pages, and would report success. */
static int sync_retry(int fd, int (*sync_fd)(int))
{
    int r;

    do {
        r = sync_fd(fd);
    } while (r < 0 && errno == EINTR);
    return r;
}

int durable_commit(struct durable_file *file, struct stasis_error *err)
{
    if (sync_retry(file->fd, fdatasync) < 0)
        return stasis_fail_errno(err, "sync '%s'", file->name);
    if (renameat(file->dir_fd, file->tmp_name, file->dir_fd, file->name) < 0)
        return stasis_fail_errno(err, "rename to '%s'", file->name);
    free(take_ptr(file->tmp_name)); /* nothing of ours is left to unlink */
    if (sync_retry(file->dir_fd, fsync) < 0)
        return stasis_fail_errno(err, "sync the directory of '%s'", file->name);
    return 0;
}

void durable_abort(struct durable_file *file)
{
    const int saved_errno = errno;

    if (file->tmp_name && file->dir_fd >= 0)
        unlinkat(file->dir_fd, file->tmp_name, 0);
    fd_close(&file->fd);
    fd_close(&file->dir_fd);
    free(take_ptr(file->tmp_name));
    free(take_ptr(file->name));
    errno = saved_errno;
}
