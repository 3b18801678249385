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

    ret_source->path = path;
    ret_source->fd = -1;
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

int stasis_open(const char *path, struct stasis_snapshot **ret_snapshot, struct stasis_error *err)
{
    auto_free struct stasis_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    struct format_source source;
    int r;

    if (!snapshot)
        return stasis_fail_memory(err, "a snapshot handle");
    r = snapshot_source_open(path, &source, &snapshot->codec, err);
    if (r < 0)
        return r;
    r = snapshot->codec->open(&source, &snapshot->image, err);
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
