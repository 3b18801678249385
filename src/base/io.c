/*
 * io.c - reading and writing whole ranges of files; EINTR and short transfers are dealt with.
 *
 * Callers ask for a range and get all of it or an error with a reason: a short read taken for a
 * whole one would be guest memory full of old bytes. Positions from outside are checked against
 * what off_t can hold before the kernel sees them.
 */
#include "base/io.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

#define TRANSFER_MAX ((size_t)1 << 30) /* bytes a call; Linux itself stops at 2 GiB - 4 KiB */
#define GROWTH_MIN ((size_t)4096)      /* bytes; for files whose size the kernel does not say */

static bool range_fits(size_t size, uint64_t file_off)
{
    uint64_t end;

    return !__builtin_add_overflow(file_off, (uint64_t)size, &end) && end <= (uint64_t)INT64_MAX;
}

static size_t transfer_size(size_t left)
{
    return left < TRANSFER_MAX ? left : TRANSFER_MAX;
}

int io_read_at(int fd, void *buf, size_t size, uint64_t file_off, struct stasis_error *err)
{
    uint8_t *place = buf;
    size_t done = 0;

    if (!range_fits(size, file_off))
        return stasis_fail(err, STASIS_ERR_TRUNCATED, "no file reaches to %ju + %zu bytes",
                           (uintmax_t)file_off, size);
    while (done < size) {
        const ssize_t got =
            pread(fd, place + done, transfer_size(size - done), (off_t)(file_off + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return stasis_fail_errno(err, "read %zu bytes at %ju", size, (uintmax_t)file_off);
        if (got == 0)
            return stasis_fail(err, STASIS_ERR_TRUNCATED,
                               "the file ends at %ju, within the %zu bytes at %ju",
                               (uintmax_t)(file_off + done), size, (uintmax_t)file_off);
        done += (size_t)got;
    }
    return 0;
}

int io_write_at(int fd, const void *buf, size_t size, uint64_t file_off, struct stasis_error *err)
{
    const uint8_t *place = buf;
    size_t done = 0;

    if (!range_fits(size, file_off))
        return stasis_fail(err, STASIS_ERR_NO_SPACE, "no file reaches to %ju + %zu bytes",
                           (uintmax_t)file_off, size);
    while (done < size) {
        const ssize_t put =
            pwrite(fd, place + done, transfer_size(size - done), (off_t)(file_off + done));

        if (put < 0 && errno == EINTR)
            continue;
        if (put == 0)
            errno = EIO; /* no file system does that, but we must not spin if one did */
        if (put <= 0)
            return stasis_fail_errno(err, "write %zu bytes at %ju", size, (uintmax_t)file_off);
        done += (size_t)put;
    }
    return 0;
}

static int fail_not_regular(const char *path, struct stasis_error *err)
{
    return stasis_fail(err, STASIS_ERR_NOT_REGULAR, "'%s' is not a regular file", path);
}

/*
 * Twice the same question: before the open, because opening a device can do things (rewind a
 * tape); after it, because only then the answer is about the file we hold.
 */
int io_open_regular(const char *path, int open_flags, int *ret_fd, uint64_t *ret_size,
                    struct stasis_error *err)
{
    struct stat st;
    auto_fd fd = -1;

    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return fail_not_regular(path, err);
    fd = open(path, open_flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
    if (fd < 0)
        return stasis_fail_errno(err, "open '%s'", path);
    if (fstat(fd, &st) < 0)
        return stasis_fail_errno(err, "stat '%s'", path);
    if (!S_ISREG(st.st_mode))
        return fail_not_regular(path, err);
    if (ret_size)
        *ret_size = (uint64_t)st.st_size;
    *ret_fd = fd_steal(&fd);
    return 0;
}

/*
 * Reads to the end of the file, wherever that turns out to be: files of /proc say they are empty,
 * and others may grow meanwhile. `capacity` is one byte more than the file is thought to have, so
 * that its end is seen and the NUL has a place.
 */
static int read_to_end(int fd, size_t size_max, size_t capacity, uint8_t **ret_data,
                       size_t *ret_size, struct stasis_error *err)
{
    auto_free uint8_t *data = malloc(capacity);
    size_t used = 0;

    if (!data)
        return stasis_fail_memory(err, "the file's contents");
    for (;;) {
        const ssize_t got = read(fd, data + used, transfer_size(capacity - used));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return stasis_fail_errno(err, "read");
        if (got == 0)
            break;
        used += (size_t)got;
        if (used > size_max)
            return stasis_fail(err, STASIS_ERR_LIMIT, "the file is larger than %zu bytes",
                               size_max);
        if (used == capacity) {
            const size_t step = capacity > GROWTH_MIN ? capacity : GROWTH_MIN;
            const size_t room = size_max + 1 - capacity;
            uint8_t *larger;

            capacity += step < room ? step : room;
            larger = realloc(data, capacity);
            if (!larger)
                return stasis_fail_memory(err, "the file's contents");
            data = larger;
        }
    }
    data[used] = '\0';
    *ret_data = take_ptr(data);
    *ret_size = used;
    return 0;
}

int io_read_file(const char *path, size_t size_max, uint8_t **ret_data, size_t *ret_size,
                 struct stasis_error *err)
{
    auto_fd fd = -1;
    uint64_t size;
    int r;

    if (size_max > (size_t)PTRDIFF_MAX - 1)
        size_max = (size_t)PTRDIFF_MAX - 1;
    r = io_open_regular(path, O_RDONLY, &fd, &size, err);
    if (r < 0)
        return r;
    if (size > size_max)
        return stasis_fail(err, STASIS_ERR_LIMIT, "'%s' is %ju bytes, more than the %zu accepted",
                           path, (uintmax_t)size, size_max);
    r = read_to_end(fd, size_max, (size_t)size + 1, ret_data, ret_size, err);
    return r < 0 ? stasis_wrap(err, r, "'%s'", path) : 0;
}
