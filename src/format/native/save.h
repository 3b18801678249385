/* save.h - a native file being made, between its first step and its last. */
#ifndef STASIS_FORMAT_NATIVE_SAVE_H
#define STASIS_FORMAT_NATIVE_SAVE_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/durable.h"
#include "format/codec.h"
#include "format/native/diff.h"
#include "format/native/writer.h"
#include "memory/capture.h"

struct native_save {
    struct format_save save;  /* first member: codecs are handed its address */
    struct durable_file file; /* fd -1: into a file of the caller's */
    int fd;                   /* file's, or the caller's */
    bool committed;
    struct byte_buffer machine, layout, meta; /* encoded sections */
    struct native_writer writer;
    struct native_digests digests; /* of memory */
    struct native_diff diff;       /* of a diff, instead of the two */
    /* From the content: */
    unsigned thread_count;
    struct progress *progress;
    struct rate *rate;
    enum stasis_digest_kind digest;
    const struct format_image *parent;
    bool full_from_parent;
};

/* Whether the file becomes a diff. */
static inline bool native_saves_diff(const struct native_save *save)
{
    return save->parent && !save->full_from_parent;
}

/* See struct format_codec. */
int native_save_begin(const struct format_target *target, const struct format_content *content,
                      struct format_save **ret_save, struct stasis_error *err);
int native_save_memory(struct format_save *save, const struct capture *capture,
                       struct stasis_error *err);
int native_save_commit(struct format_save *save, struct stasis_error *err);
void native_save_end(struct format_save *save);

static inline struct native_save *native_save_of(struct format_save *save)
{
    return (struct native_save *)(void *)save;
}

#endif
