/* diff.h - writing a diff: the captured pages packed, and the map of all of memory over them. */
#ifndef STASIS_FORMAT_NATIVE_DIFF_H
#define STASIS_FORMAT_NATIVE_DIFF_H

#include <stdint.h>

#include <stasis/error.h>
#include <stasis/snapshot.h>

#include "base/bytes.h"
#include "format/native/chain.h"
#include "format/native/extents.h"
#include "format/native/reader.h"
#include "format/native/writer.h"
#include "memory/capture.h"
#include "memory/progress.h"
#include "memory/rate.h"

/* What is needed of the changed pages. */
struct native_diff_job {
    const struct native_image *parent;
    const struct capture *capture; /* what changed; scanned, or copied */
    enum stasis_digest_kind digest;
    unsigned thread_count;     /* at least 1 */
    struct progress *progress; /* the bytes of captured data are added */
    struct rate *rate;
};

/* And of all else. */
struct native_diff_rest {
    const struct native_image *parent; /* the same */
    const struct byte_buffer *machine; /* encoded */
    const struct byte_buffer *meta;    /* encoded */
    struct chain_place place;          /* where the file is going to be */
};

/* A diff whose memory is written. */
struct native_diff {
    struct native_writer writer;
    struct native_digests digests;
    struct extent_list map;
    uint64_t packed_count; /* pages */
};

/* STASIS_ERR_LAYOUT_MISMATCH: `memory` is not laid out as the parent's. */
int native_diff_check_layout(const struct native_image *parent, const struct stasis_memory *memory,
                             struct stasis_error *err);

/*
 *     native_diff_write_memory -> native_diff_finish -> native_diff_release (always)
 *
 * The packed pages into an empty file. The capture is not needed afterwards, the parent is.
 * STASIS_ERR_LAYOUT_MISMATCH, _CANCELLED, _NO_SPACE, _IO, _OUT_OF_MEMORY.
 */
int native_diff_write_memory(struct native_diff *diff, int fd, const struct native_diff_job *job,
                             struct stasis_error *err);

/* Everything else. STASIS_ERR_PARENT_MISSING, _INVALID_ARGUMENT (see chain_list_layers()), _LIMIT, and as
 * above. */
int native_diff_finish(struct native_diff *diff, const struct native_diff_rest *rest,
                       uint64_t *ret_file_size, uint8_t ret_id[NATIVE_ID_SIZE],
                       struct stasis_error *err);

/* Safe on a zeroed one. */
void native_diff_release(struct native_diff *diff);

#endif
