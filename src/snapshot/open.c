/*
 * open.c - from a path to an open snapshot of whatever format, and what can be asked of it.
 *
 * The path may name anything: a FIFO (must not block), a directory, a file of another program. The
 * content decides the format, and the format's own reader decides whether it is sound.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "memory/zero.h"
#include "snapshot/handle.h"

/* Read the head of an open file and ask the formats. */
static int find_format(struct format_source *source, const struct format_codec **ret_codec,
                       struct stasis_error *err)
{
    int r;

    source->head_size =
        source->file_size < FORMAT_HEAD_SIZE ? (size_t)source->file_size : FORMAT_HEAD_SIZE;
    r = io_read_at(source->fd, source->head, source->head_size, 0, err);
    if (r < 0)
        return r;
    *ret_codec = format_find(source);
    if (!*ret_codec)
        return stasis_fail(err, STASIS_ERR_BAD_MAGIC,
                           source->file_size == 0 ? "the file is empty"
                                                  : "not a snapshot of any known format");
    return 0;
}

int snapshot_source_open(const char *path, struct format_source *ret_source,
                         const struct format_codec **ret_codec, struct stasis_error *err)
{
    int r;

    *ret_source = (struct format_source){ .path = path, .fd = -1 };
    r = io_open_regular(path, O_RDONLY, &ret_source->fd, &ret_source->file_size, err);
    if (r < 0)
        return r;
    r = find_format(ret_source, ret_codec, err);
    if (r < 0) {
        fd_close(&ret_source->fd);
        return stasis_wrap(err, r, "'%s'", path);
    }
    return 0;
}

/* Always closes the source's descriptor, or hands it to the codec. */
static int open_source(struct format_source *source, const struct format_codec *codec,
                       struct stasis_snapshot **ret_snapshot, struct stasis_error *err)
{
    auto_free struct stasis_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    int r;

    if (!snapshot) {
        fd_close(&source->fd);
        return stasis_fail_memory(err, "a snapshot handle");
    }
    snapshot->codec = codec;
    r = codec->open(source, &snapshot->image, err);
    fd_close(&source->fd); /* -1 when the codec has taken it */
    if (r < 0)
        return r;
    *ret_snapshot = take_ptr(snapshot);
    return 0;
}

int stasis_open(const char *path, struct stasis_snapshot **ret_snapshot, struct stasis_error *err)
{
    const struct format_codec *codec;
    struct format_source source;
    int r = snapshot_source_open(path, &source, &codec, err);

    if (r < 0)
        return r;
    r = open_source(&source, codec, ret_snapshot, err);
    return r < 0 ? stasis_wrap(err, r, "'%s'", path) : 0;
}

int stasis_open_fd(int fd, const char *parent_dir, struct stasis_snapshot **ret_snapshot,
                   struct stasis_error *err)
{
    struct format_source source = { .fd = -1, .parent_dir = parent_dir };
    const struct format_codec *codec = NULL;
    struct stat st;
    int r;

    if (fstat(fd, &st) < 0)
        return stasis_fail_errno(err, "stat the snapshot");
    if (!S_ISREG(st.st_mode))
        return stasis_fail(err, STASIS_ERR_NOT_REGULAR, "not a regular file");
    source.file_size = (uint64_t)st.st_size;
    source.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (source.fd < 0)
        return stasis_fail_errno(err, "keep the snapshot's file open");
    r = find_format(&source, &codec, err);
    if (r < 0) {
        fd_close(&source.fd);
        return r;
    }
    return open_source(&source, codec, ret_snapshot, err);
}

/* Pages of zeros stay holes: a snapshot of a large guest is mostly those. */
static int copy_to_fd(int fd, const uint8_t *data, size_t size, struct stasis_error *err)
{
    int r = ftruncate(fd, (off_t)size) < 0 ? stasis_fail_errno(err, "a copy of the snapshot") : 0;

    for (size_t done = 0; r == 0 && done < size; done += STASIS_BLOCK_SIZE) {
        const size_t part = size - done < STASIS_BLOCK_SIZE ? size - done : STASIS_BLOCK_SIZE;

        if (!zero_bytes(data + done, part))
            r = io_write_at(fd, data + done, part, done, err);
    }
    return r;
}

int stasis_open_buffer(const void *data, size_t size, const char *parent_dir,
                       struct stasis_snapshot **ret_snapshot, struct stasis_error *err)
{
    auto_fd fd = memfd_create("stasis-snapshot", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int r;

    if (fd < 0)
        return stasis_fail_errno(err, "make a copy of the snapshot");
    r = copy_to_fd(fd, data, size, err);
    if (r < 0)
        return r;
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        return stasis_fail_errno(err, "seal the copy of the snapshot");
    return stasis_open_fd(fd, parent_dir, ret_snapshot, err);
}

void stasis_close(struct stasis_snapshot *snapshot)
{
    if (!snapshot)
        return;
    snapshot->codec->close(snapshot->image);
    free(snapshot);
}

const struct stasis_snapshot_info *stasis_snapshot_info(const struct stasis_snapshot *snapshot)
{
    return &snapshot->image->info;
}

const struct stasis_machine *stasis_snapshot_machine(const struct stasis_snapshot *snapshot)
{
    return &snapshot->image->machine;
}
