/* handle.h - what a `struct stasis_snapshot` is: an open image and the codec that opened it. */
#ifndef STASIS_SNAPSHOT_HANDLE_H
#define STASIS_SNAPSHOT_HANDLE_H

#include <stasis/snapshot.h>

#include "format/codec.h"

#define JOB_THREADS_MAX 8 /* unless the caller asks for more: beyond it the file is the limit */

struct stasis_snapshot {
    const struct format_codec *codec;
    struct format_image *image;
};

/*
 * Open a file and find its format. `ret_source->fd` is the caller's to close, unless a codec takes it.
 * STASIS_ERR_BAD_MAGIC no known format; errors of io_open_regular(), with the path in front.
 */
int snapshot_source_open(const char *path, struct format_source *ret_source,
                         const struct format_codec **ret_codec, struct stasis_error *err);

#endif
