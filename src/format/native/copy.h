/* copy.h - flat memory that comes from another snapshot: all of it, or all but what changed since. */
#ifndef STASIS_FORMAT_NATIVE_COPY_H
#define STASIS_FORMAT_NATIVE_COPY_H

#include <stdint.h>

#include <stasis/error.h>

#include "format/codec.h"
#include "format/native/reader.h"
#include "format/native/writer.h"
#include "memory/capture.h"
#include "memory/progress.h"
#include "memory/rate.h"

struct native_copy_job {
    const struct format_pages *from;
    unsigned thread_count;     /* at least 1 */
    struct progress *progress; /* bytes of memory are added, zeros as well */
    struct rate *rate;
};

/*
 * The memory section, each page read through its digest. As native_writer_append_memory(), and the
 * errors of reading.
 */
int native_writer_append_copy(struct native_writer *writer, const struct native_copy_job *job,
                              uint64_t *ret_data_size, struct native_digests *ret_digests,
                              struct stasis_error *err);

/*
 * The memory section as the memory of `parent` with the captured pages in it. That of a full parent is
 * cloned where the file system can, and copied without looking at it where not; only blocks that the
 * capture touches are read, and checked. STASIS_ERR_LAYOUT_MISMATCH and as above.
 */
int native_writer_append_clone(struct native_writer *writer, const struct native_image *parent,
                               const struct native_memory_job *job, uint64_t *ret_data_size,
                               struct native_digests *ret_digests, struct stasis_error *err);

/* See struct format_codec. */
int native_save_copy(struct format_save *save, const struct format_pages *from,
                     struct stasis_error *err);

#endif
