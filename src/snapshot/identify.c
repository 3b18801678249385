/*
 * identify.c - which format a file is of, by its content alone.
 *
 * Reads the head and asks the formats; nothing else of the file is looked at, so a damaged snapshot
 * still has a format to be named in the report about its damage.
 */
#include <fcntl.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "snapshot/handle.h"

int stasis_identify(const char *path, const char **ret_format, struct stasis_error *err)
{
    struct format_source source = { .path = path };
    const struct format_codec *codec;
    auto_fd fd = -1;
    int r = io_open_regular(path, O_RDONLY, &fd, &source.file_size, err);

    if (r < 0)
        return r;
    source.fd = fd;
    source.head_size =
        source.file_size < FORMAT_HEAD_SIZE ? (size_t)source.file_size : FORMAT_HEAD_SIZE;
    r = io_read_at(fd, source.head, source.head_size, 0, err);
    if (r < 0)
        return stasis_wrap(err, r, "'%s'", path);
    codec = format_find(&source);
    if (!codec)
        return stasis_fail(err, STASIS_ERR_BAD_MAGIC, "'%s': not a snapshot of any known format",
                           path);
    *ret_format = codec->name;
    return 0;
}
