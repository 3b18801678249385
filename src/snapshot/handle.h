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

#endif
