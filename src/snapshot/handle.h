/* handle.h - what a `struct stasis_snapshot` is: an open image and the codec that opened it. */
#ifndef STASIS_SNAPSHOT_HANDLE_H
#define STASIS_SNAPSHOT_HANDLE_H

#include <stasis/snapshot.h>

#include "base/pool.h"
#include "format/codec.h"

#define JOB_THREADS_DEFAULT 8 /* at most: beyond it the file is the limit */
#define JOB_THREADS_MAX 256   /* also when the caller asks for more; each has buffers of its own */

struct stasis_snapshot {
    const struct format_codec *codec;
    struct format_image *image;
};

/* How many threads a job gets when its caller asked for `wanted`, 0 for as many as are good. */
static inline unsigned job_threads(unsigned wanted)
{
    if (wanted == 0)
        return pool_default_threads(JOB_THREADS_DEFAULT);
    return wanted < JOB_THREADS_MAX ? wanted : JOB_THREADS_MAX;
}

/*
 * Open a file and find its format. `ret_source->fd` is the caller's to close, unless a codec takes it.
 * STASIS_ERR_BAD_MAGIC no known format; errors of io_open_regular(), with the path in front.
 */
int snapshot_source_open(const char *path, struct format_source *ret_source,
                         const struct format_codec **ret_codec, struct stasis_error *err);

#endif
