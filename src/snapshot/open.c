/*
 * open.c - from a path to an open snapshot of whatever format, and what can be asked of it.
 *
 * The path may name anything: a FIFO (must not block), a directory, a file of another program. The
 * content decides the format, and the format's own reader decides whether it is sound.
 */
#include <fcntl.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "snapshot/handle.h"

static int read_head(struct format_source *source, struct stasis_error *err)
{
    source->head_size =
        source->file_size < FORMAT_HEAD_SIZE ? (size_t)source->file_size : FORMAT_HEAD_SIZE;
    return io_read_at(source->fd, source->head, source->head_size, 0, err);
}

static int open_source(struct format_source *source, struct stasis_snapshot *snapshot,
                       struct stasis_error *err)
{
    int r = read_head(source, err);

    if (r < 0)
        return r;
    snapshot->codec = format_find(source);
    if (!snapshot->codec)
        return stasis_fail(err, STASIS_ERR_BAD_MAGIC,
                           source->file_size == 0 ? "the file is empty"
                                                  : "not a snapshot of any known format");
    return snapshot->codec->open(source, &snapshot->image, err);
}

int stasis_open(const char *path, struct stasis_snapshot **ret_snapshot, struct stasis_error *err)
{
    struct format_source source = { .path = path, .fd = -1 };
    auto_free struct stasis_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    int r;

    if (!snapshot)
        return stasis_fail_memory(err, "a snapshot handle");
    r = io_open_regular(path, O_RDONLY, &source.fd, &source.file_size, err);
    if (r < 0)
        return r;
    r = open_source(&source, snapshot, err);
    fd_close(&source.fd); /* -1 when the codec has taken it */
    if (r < 0)
        return stasis_wrap(err, r, "'%s'", path);
    *ret_snapshot = take_ptr(snapshot);
    return 0;
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
