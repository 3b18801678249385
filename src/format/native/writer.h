/* writer.h - appending sections to a native file, from its memory to its superblock.
 *
 * The writer needs nothing but a descriptor that takes pwrite() and ftruncate(): a durable file's, or
 * a memfd's. The file must be empty. Sections are placed one after the other in the order in which
 * they come; the superblock is written last, so that a file cut off early is no snapshot.
 *
 *     native_writer_init -> _append_memory -> _append ... -> _finish
 *
 * A writer owns nothing and needs no release; after a failure the file is to be thrown away. */
#ifndef STASIS_FORMAT_NATIVE_WRITER_H
#define STASIS_FORMAT_NATIVE_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/error.h>
#include <stasis/memory.h>
#include <stasis/snapshot.h>

#include "format/native/disk.h"
#include "memory/capture.h"
#include "memory/rate.h"

struct native_writer {
    int fd; /* the caller's */
    enum stasis_digest_kind digest_kind;
    enum native_kind kind; /* NATIVE_KIND_FULL unless changed after native_writer_init() */
    uint64_t end;          /* first file offset that no section has */
    struct native_section sections[NATIVE_SECTION_MAX];
    uint32_t section_count;
};

/* How memory is to be gone through. */
struct native_memory_job {
    const struct capture *capture;
    unsigned thread_count; /* at least 1 */
    struct progress *progress;
    struct rate *rate;
};

void native_writer_init(struct native_writer *writer, int fd, enum stasis_digest_kind digest_kind);

/* A section hashed whole. STASIS_ERR_LIMIT too many sections; errors of io_write_at(). */
int native_writer_append(struct native_writer *writer, enum native_section_type type,
                         uint16_t flags, const void *data, size_t size, struct stasis_error *err);

/*
 * The entry of a section of `size` bytes at the next multiple of `align`; its bytes, method and
 * digest are the caller's to fill in. Valid as long as the writer. STASIS_ERR_LIMIT.
 */
int native_writer_place(struct native_writer *writer, enum native_section_type type, uint16_t flags,
                        uint64_t align, uint64_t size, struct native_section **ret_section,
                        struct stasis_error *err);

/*
 * Guest memory: flat, zero pages left as holes. The digests of its blocks come to stand in a
 * buffer that native_digests_release() gives back, to be appended by native_writer_append_digests()
 * after the other sections. STASIS_ERR_CANCELLED, _NO_SPACE, _IO, _OUT_OF_MEMORY.
 */
struct native_digests {
    uint8_t *data; /* mapped; pages of it that hold only zero digests are never touched */
    size_t size;   /* bytes */
};
int native_writer_append_memory(struct native_writer *writer, const struct native_memory_job *job,
                                uint64_t *ret_data_size, struct native_digests *ret_digests,
                                struct stasis_error *err);
void native_digests_release(struct native_digests *digests);

/* Address space for the digests of flat memory; pages of it that are not touched are zero digests. */
int native_digests_map(uint64_t memory_size, enum stasis_digest_kind kind,
                       struct native_digests *ret_digests, struct stasis_error *err);

/* The entry of flat memory of `size` bytes, and the file set to that length: a size that it may never
 * have is refused before all the copying, and what is not written is a hole. */
int native_writer_place_flat(struct native_writer *writer, uint64_t size, uint64_t *ret_file_off,
                             struct stasis_error *err);

/* The digests of the chunked section `index`, and the digests of those: two sections. */
int native_writer_append_digests(struct native_writer *writer, uint32_t index,
                                 const struct native_digests *digests, struct stasis_error *err);

/* Section table, root and superblock. */
int native_writer_finish(struct native_writer *writer, uint64_t *ret_file_size,
                         uint8_t ret_id[NATIVE_ID_SIZE], struct stasis_error *err);

#endif
