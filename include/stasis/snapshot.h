/* snapshot.h - the verbs: save a machine and its memory to a file, open, verify and restore it.
 *
 * A snapshot file appears whole or not at all: it is written to a private temporary file in the
 * destination's directory, synced, renamed, and the directory is synced (doc/design.md, D4). After
 * any failure the old file of that name is untouched and nothing is left behind (but when only the
 * sync of the directory fails, the new file stands already: a power loss may bring the old one back).
 *
 * Signals: a process with a file size limit (RLIMIT_FSIZE) should ignore SIGXFSZ, or the kernel ends it in
 * the middle of a save; ignored, it is STASIS_ERR_NO_SPACE.
 *
 * Threads: one stasis_snapshot may be read by any number of threads; open and close once. */
#ifndef STASIS_SNAPSHOT_H
#define STASIS_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/api.h>
#include <stasis/error.h>
#include <stasis/machine.h>
#include <stasis/memory.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STASIS_ID_SIZE 32 /* bytes of a snapshot's id: its root, a SHA-256 */

enum stasis_digest_kind {
    STASIS_DIGEST_XXH3_128 = 1, /* 16 bytes; finds corruption */
    STASIS_DIGEST_SHA256 = 2,   /* 32 bytes; finds tampering */
};

/**
 * Told of progress now and then (at most about every 8 MiB of memory, or some 50 times a second while
 * a rate limit makes the job wait), from any thread, never from two at a time.
 * @param done   bytes dealt with so far, 0..total
 * @return 0 to go on; anything else cancels the job with STASIS_ERR_CANCELLED
 */
typedef int stasis_progress_fn(void *arg, uint64_t done, uint64_t total);

struct stasis_snapshot; /* opaque; see stasis_open() */
struct stasis_tracker;  /* opaque; see dirty.h */
struct stasis_page_set; /* see dirty.h */
struct stasis_arena;    /* opaque; see stasis_arena_new() */

/* How long the guest stands still: while all is written, or only while what matters is copied. */
enum stasis_writer {
    STASIS_WRITER_AUTO = 0, /* compact for stasis_save_begin(), streaming for stasis_save() */
    /* Memory is written while the guest stands still; needs no memory. */
    STASIS_WRITER_STREAMING = 1,
    /* Pages that changed, or are not zero, are copied, and written later. */
    STASIS_WRITER_COMPACT = 2,
};

#define STASIS_COMPACT_MAX_DEFAULT (UINT64_C(512) << 20) /* bytes */

/* Zero-initialise, then set what differs from the defaults. */
struct stasis_save_options {
    enum stasis_digest_kind digest; /* 0: STASIS_DIGEST_XXH3_128 */
    unsigned thread_count;          /* 0: one per online CPU, at most 8 */
    stasis_progress_fn *progress;   /* may be NULL; called in both steps of a save */
    void *progress_arg;
    const char *label; /* free text for people, at most 255 bytes; may be NULL */

    enum stasis_writer writer;
    /* A compact save that would copy more than this becomes a streaming one. 0: for
     * STASIS_WRITER_AUTO STASIS_COMPACT_MAX_DEFAULT, for STASIS_WRITER_COMPACT no ceiling. */
    uint64_t compact_max;       /* bytes */
    uint64_t rate_max;          /* bytes of memory written per second; 0: as fast as it goes */
    bool read_all;              /* memory that a userfaultfd is still filling: read every page, also
                                   those that the kernel calls empty */
    struct stasis_arena *arena; /* buffers to use and keep; NULL: made for this save and freed */

    /* Where changes are learned from. A tracker must be armed; it is harvested, and its base becomes
     * the new snapshot once that is on disk. After any failure the pages are dirty again. */
    struct stasis_tracker *tracker; /* NULL: none; must outlive the save; one save at a time */

    /* A diff against this snapshot, which must be open until the save has ended and must be what the
     * changes are counted from. NULL: a full snapshot. */
    const struct stasis_snapshot *parent;
    /* A full snapshot after all, made from the parent's file and the changes. */
    bool full_from_parent;
    /* The pages of a diff, instead of a tracker: the caller vouches for them. Copied. */
    const struct stasis_page_set *changed;
};

struct stasis_save_report {
    uint8_t id[STASIS_ID_SIZE];
    uint64_t memory_size; /* bytes of guest RAM */
    uint64_t data_size;   /* of them, or of the changed ones in a diff, bytes in pages that are not
                                all zero */
    /* And in pages that are; in a full snapshot the two add up to memory_size. */
    uint64_t zero_size;
    uint64_t file_size;        /* length of the file, holes included */
    uint64_t file_allocated;   /* bytes that the file system says it allocated */
    uint64_t begin_us;         /* stasis_save_begin(): how long the guest had to stand still */
    uint64_t memory_us;        /* scanning, copying, hashing and writing memory, in both steps */
    uint64_t sync_us;          /* fdatasync, rename and directory fsync */
    uint64_t total_us;         /* both steps, without what the caller did between them */
    enum stasis_writer writer; /* what it was in the end: never STASIS_WRITER_AUTO */
};

struct stasis_save_job; /* opaque: a save between its two steps */

/**
 * First step of a save: take from the machine and its memory what the snapshot needs. The guest must
 * stand still (vCPUs out of KVM_RUN, devices idle) until this returns, and may then go on; nothing
 * is under the path yet. Whatever it returns, guest memory is only read.
 *
 * @param path     destination; an existing regular file is replaced, anything else there is refused
 * @param machine, memory, options  not needed after this returns, but for what the options' tracker,
 *                 parent, arena and progress_arg point to; options may be NULL
 * @param ret_job  to be given to exactly one of stasis_save_finish() and stasis_save_abandon();
 *                 untouched on failure
 * @param err      may be NULL
 * @return 0; -EINVAL STASIS_ERR_INVALID_ARGUMENT or STASIS_ERR_NOT_REGULAR; -EBADMSG machine or
 *         memory not valid (STASIS_ERR_INVALID_MACHINE, STASIS_ERR_INVALID_MEMORY); -EINVAL
 *         STASIS_ERR_WRONG_PARENT the tracker's changes are not counted from the parent; -EINVAL
 *         STASIS_ERR_LAYOUT_MISMATCH the parent's memory lies elsewhere; -EINVAL STASIS_ERR_NOT_TRACKED
 *         a diff without anything to tell what changed;
 *         -EBUSY the arena serves another save; -E2BIG STASIS_ERR_LIMIT; -ENOSPC STASIS_ERR_NO_SPACE;
 *         -EROFS STASIS_ERR_READ_ONLY; -EACCES STASIS_ERR_PERMISSION; -ENOENT STASIS_ERR_NOT_FOUND no such
 *         directory; -ECANCELED; -ENOMEM; -EIO
 */
STASIS_API int stasis_save_begin(const char *path, const struct stasis_machine *machine,
                                 const struct stasis_memory *memory,
                                 const struct stasis_save_options *options,
                                 struct stasis_save_job **ret_job, struct stasis_error *err);

/**
 * Second step: hash and write what is left, and commit. Ends the job, whatever it returns; any
 * thread may call it, while the guest runs.
 *
 * @param ret_report  may be NULL; untouched on failure
 * @return 0; -ENOSPC, -EIO, -ECANCELED, -ENOMEM and others of stasis_save_begin(): nothing is left
 *         behind, and what the tracker gave is dirty again
 */
STASIS_API int stasis_save_finish(struct stasis_save_job *job,
                                  struct stasis_save_report *ret_report, struct stasis_error *err);

/** End a save without a snapshot: nothing is left behind, what the tracker gave is dirty again. NULL is
 * fine. */
STASIS_API void stasis_save_abandon(struct stasis_save_job *job);

/**
 * Both steps in one: save a machine and its memory while the guest stands still.
 *
 * @param ret_report  may be NULL; untouched on failure
 * @return as stasis_save_begin() and stasis_save_finish()
 */
STASIS_API int stasis_save(const char *path, const struct stasis_machine *machine,
                           const struct stasis_memory *memory,
                           const struct stasis_save_options *options,
                           struct stasis_save_report *ret_report, struct stasis_error *err);

/**
 * Save into an open file instead of a path, byte for byte what stasis_save() writes: a memfd, or a file
 * that the caller names and places. It must be empty, regular, and open for reading and writing. It is
 * synced, and truncated to nothing after a failure.
 *
 * @param fd  stays the caller's, and must stay open until the job ends
 * @return as stasis_save_begin(); -EINVAL STASIS_ERR_INVALID_ARGUMENT also for a file that is not empty
 */
STASIS_API int stasis_save_begin_fd(int fd, const struct stasis_machine *machine,
                                    const struct stasis_memory *memory,
                                    const struct stasis_save_options *options,
                                    struct stasis_save_job **ret_job, struct stasis_error *err);
STASIS_API int stasis_save_fd(int fd, const struct stasis_machine *machine,
                              const struct stasis_memory *memory,
                              const struct stasis_save_options *options,
                              struct stasis_save_report *ret_report, struct stasis_error *err);

/* A snapshot in memory. What is zero in it takes no memory until it is touched. */
struct stasis_buffer {
    void *data;
    size_t size; /* bytes */
};

/**
 * Save into memory, no file system involved: byte for byte what stasis_save() writes to a file.
 *
 * @param ret_buffer  to be given back with stasis_buffer_release(); untouched on failure
 * @return as stasis_save_fd()
 */
STASIS_API int stasis_save_buffer(const struct stasis_machine *machine,
                                  const struct stasis_memory *memory,
                                  const struct stasis_save_options *options,
                                  struct stasis_buffer *ret_buffer,
                                  struct stasis_save_report *ret_report, struct stasis_error *err);

/** Give a buffer's memory back and zero the struct. */
STASIS_API void stasis_buffer_release(struct stasis_buffer *buffer);

/**
 * Buffers for compact saves, to be used for one save after the other: memory that has been touched
 * once is quick to copy into, and a guest stands still meanwhile. One save at a time.
 *
 * @param size  bytes of guest pages to make ready now, for example what is expected to change; 0: none
 * @return 0; -ENOMEM
 */
STASIS_API int stasis_arena_new(uint64_t size, struct stasis_arena **ret_arena,
                                struct stasis_error *err);

/** Free an arena that no save is using; NULL is fine. */
STASIS_API void stasis_arena_free(struct stasis_arena *arena);

enum stasis_snapshot_kind {
    STASIS_SNAPSHOT_FULL = 1, /* stands alone */
    STASIS_SNAPSHOT_DIFF = 2, /* pages that changed since its parent */
};

/* A file that pages of a snapshot come from. Pointers are valid until stasis_close(). */
struct stasis_layer_info {
    uint8_t id[STASIS_ID_SIZE];
    enum stasis_snapshot_kind kind;
    const char *path;    /* relative to the directory of the snapshot; "" for the snapshot itself */
    uint64_t file_size;  /* bytes */
    uint64_t page_count; /* pages of the snapshot's memory that come from this layer */
};

/* What a snapshot says of itself. Pointers are valid until stasis_close(). */
struct stasis_snapshot_info {
    const char *format; /* "native" */
    uint16_t version_major, version_minor;
    uint8_t id[STASIS_ID_SIZE];
    enum stasis_arch arch;
    size_t vcpu_count;
    uint64_t memory_size, data_size, zero_size; /* bytes, as in the save report */
    const struct stasis_region *regions;        /* hva is NULL */
    size_t region_count;
    enum stasis_digest_kind digest;
    int64_t created_ns; /* ns since the epoch, writer's clock */
    const char *writer; /* "stasis 0.1.0" */
    const char *label;  /* "" when none was given */
    uint64_t file_size; /* bytes */
    enum stasis_snapshot_kind kind;
    /* The snapshot itself first, then, of a diff, its parent, and those of the parent's ancestors that
     * pages still come from, nearest first. */
    const struct stasis_layer_info *layers;
    size_t layer_count;      /* at least 1 */
    uint32_t ancestor_count; /* snapshots between this one and nothing: 0 for a full one */
    uint64_t zero_pages;     /* pages that a diff's map itself says are zero */
};

/**
 * Tell which format a file is of, by its content alone. It need not be sound: a damaged snapshot has
 * a format still.
 *
 * @param ret_format  "native"; static storage; untouched on failure
 * @return 0; -ENOENT; -EACCES; -EINVAL STASIS_ERR_NOT_REGULAR; -EBADMSG STASIS_ERR_BAD_MAGIC no
 *         known format; -EIO
 */
STASIS_API int stasis_identify(const char *path, const char **ret_format, struct stasis_error *err);

/**
 * Open a snapshot: check its superblock, section table, machine state and layout, with their
 * digests and the root that binds them. Guest memory is not read: the cost does not depend on RAM
 * size. The file may be replaced on disk afterwards, the handle keeps the one it opened.
 *
 * Of a diff no other file is opened here, as its map speaks for the whole chain. What needs the files that
 * it builds on opens them then, each time, and checks that they are those.
 *
 * @return 0; -ENOENT; -EACCES; -EINVAL STASIS_ERR_NOT_REGULAR; -EBADMSG STASIS_ERR_BAD_MAGIC,
 *         _TRUNCATED, _CORRUPT, _DIGEST_MISMATCH, _INVALID_MACHINE or _INVALID_MEMORY;
 *         -EPROTONOSUPPORT STASIS_ERR_VERSION or _CRITICAL_SECTION; -EOPNOTSUPP
 *         STASIS_ERR_UNSUPPORTED of an unknown kind or digest kind; -E2BIG STASIS_ERR_LIMIT;
 *         -ENOMEM; -EIO
 */
STASIS_API int stasis_open(const char *path, struct stasis_snapshot **ret_snapshot,
                           struct stasis_error *err);

/**
 * Open a snapshot that is an open regular file: one without a name, a memfd, one passed by another
 * process.
 *
 * @param fd          stays the caller's; must be readable
 * @param parent_dir  directory from which the paths of a diff's layers start; NULL: nowhere, then what
 *                    needs a layer of a diff fails with STASIS_ERR_PARENT_MISSING
 * @return as stasis_open()
 */
STASIS_API int stasis_open_fd(int fd, const char *parent_dir, struct stasis_snapshot **ret_snapshot,
                              struct stasis_error *err);

/**
 * Open a snapshot that is in memory, as stasis_save_buffer() leaves it. It is copied (what is zero in it
 * takes no memory): the buffer may be changed or freed afterwards.
 *
 * @param parent_dir  as for stasis_open_fd()
 * @return as stasis_open()
 */
STASIS_API int stasis_open_buffer(const void *data, size_t size, const char *parent_dir,
                                  struct stasis_snapshot **ret_snapshot, struct stasis_error *err);

/** Close; NULL is fine. Memory that stasis_restore() mapped stays valid. */
STASIS_API void stasis_close(struct stasis_snapshot *snapshot);

/** Facts about the snapshot; valid until stasis_close(). */
STASIS_API const struct stasis_snapshot_info *
stasis_snapshot_info(const struct stasis_snapshot *snapshot);

/** The machine state; owned by the snapshot, valid until stasis_close(). */
STASIS_API const struct stasis_machine *
stasis_snapshot_machine(const struct stasis_snapshot *snapshot);

/* Where verification failed; meaningful when `section` is not empty. */
struct stasis_damage {
    char section[32]; /* "superblock", "memory", "machine", "meta", "digests", ... */
    uint64_t block;   /* index of the block within the section, STASIS_BLOCK_SIZE units in memory */
    uint64_t file_off; /* where the block begins in the file, bytes */
    uint64_t size;     /* bytes in the block */
    bool has_gpa;
    uint64_t gpa;   /* guest physical address of the block, memory only */
    uint32_t layer; /* which of info.layers' files it is in; 0: the snapshot's own */
};

struct stasis_verify_options {
    unsigned thread_count;        /* 0: one per online CPU, at most 8 */
    stasis_progress_fn *progress; /* may be NULL */
    void *progress_arg;
    size_t damage_max;            /* entries in `damage`, may be 0 */
    struct stasis_damage *damage; /* the first (lowest) bad blocks, filled up to damage_max */
};

struct stasis_verify_report {
    uint64_t blocks_checked;
    uint64_t blocks_bad; /* all of them, also those beyond damage_max */
    uint64_t bytes_checked;
};

/**
 * Check every digest of an open snapshot, guest memory included, and of every file that its pages come
 * from.
 *
 * @param options, ret_report  may be NULL; the report is also filled when damage was found
 * @return 0 all is well; -EBADMSG STASIS_ERR_DIGEST_MISMATCH, the text names the first bad block
 *         and its section; -EBADMSG STASIS_ERR_TRUNCATED the file has shrunk; -ENOENT
 *         STASIS_ERR_PARENT_MISSING, -EINVAL STASIS_ERR_WRONG_PARENT a file of the chain is not there, or
 *         is another; -ECANCELED; -ENOMEM; -EIO
 */
STASIS_API int stasis_verify(const struct stasis_snapshot *snapshot,
                             const struct stasis_verify_options *options,
                             struct stasis_verify_report *ret_report, struct stasis_error *err);

enum stasis_restore_mode {
    /* Private file mapping: pages come from the page cache on first touch. */
    STASIS_RESTORE_MAP = 1,
};

/* Zero-initialise, then set what differs from the defaults. */
struct stasis_restore_options {
    enum stasis_restore_mode mode; /* 0: STASIS_RESTORE_MAP */
    bool verify;                   /* check all of memory before returning, as stasis_verify() */
    stasis_progress_fn *progress;  /* of the check; may be NULL */
    void *progress_arg;
};

/**
 * Bring guest memory back into this process: each region mapped readable and writable, changes
 * private to the process. The machine state is stasis_snapshot_machine(); hand both to the
 * hypervisor (stasis_kvm_restore()).
 *
 * @param options     may be NULL
 * @param ret_memory  regions with their hva; give back with stasis_memory_unmap(). The mapping
 *                    outlives stasis_close(). Untouched on failure.
 * @return 0; -EINVAL unknown mode; -EBADMSG STASIS_ERR_TRUNCATED or _DIGEST_MISMATCH; -ENOENT
 *         STASIS_ERR_PARENT_MISSING, -EINVAL STASIS_ERR_WRONG_PARENT or _NOT_REGULAR a file of the chain
 *         is not there, or is another; -ENOMEM; -EIO
 */
STASIS_API int stasis_restore(const struct stasis_snapshot *snapshot,
                              const struct stasis_restore_options *options,
                              struct stasis_memory *ret_memory, struct stasis_error *err);

struct stasis_reader; /* opaque: reads pages of an open snapshot */

/**
 * Begin to read pages. Any number of threads may use one reader.
 * @param snapshot  must stay open until the reader is closed
 * @return 0; -ENOMEM
 */
STASIS_API int stasis_reader_open(const struct stasis_snapshot *snapshot,
                                  struct stasis_reader **ret_reader, struct stasis_error *err);

/**
 * Read pages of memory, each checked against its digest. Pages are numbered as in dirty.h: regions back
 * to back.
 *
 * @param buf  page_count * STASIS_PAGE_SIZE bytes; unspecified on failure
 * @return 0; -EINVAL pages beyond memory; -EBADMSG STASIS_ERR_DIGEST_MISMATCH or _TRUNCATED; -ENOENT
 *         STASIS_ERR_PARENT_MISSING; -EINVAL STASIS_ERR_WRONG_PARENT; -EOPNOTSUPP STASIS_ERR_UNSUPPORTED
 *         a file that keeps its digests as no writer of ours does; -ENOMEM; -EIO
 */
STASIS_API int stasis_reader_read(struct stasis_reader *reader, uint64_t first_page,
                                  uint64_t page_count, void *buf, struct stasis_error *err);

/** NULL is fine. */
STASIS_API void stasis_reader_close(struct stasis_reader *reader);

/* For making a snapshot out of others. Zero-initialise, then set what differs from the defaults. */
struct stasis_copy_options {
    enum stasis_digest_kind digest; /* 0: that of the source */
    unsigned thread_count;          /* 0: one per online CPU, at most 8 */
    stasis_progress_fn *progress;   /* may be NULL */
    void *progress_arg;
    const char *label; /* NULL: that of the source */
    uint64_t rate_max; /* bytes of memory written per second; 0: as fast as it goes */
};

/**
 * Write a snapshot, of whatever depth, as a full one that stands alone: same machine, same memory, an id
 * of its own. Every page is checked as it is read. The file appears whole or not at all.
 *
 * @param path  destination, as for stasis_save_begin(); may be the source's own
 * @param options, ret_report  may be NULL
 * @return 0; errors of stasis_reader_read() and of stasis_save_begin() and _finish()
 */
STASIS_API int stasis_flatten(const struct stasis_snapshot *source, const char *path,
                              const struct stasis_copy_options *options,
                              struct stasis_save_report *ret_report, struct stasis_error *err);

/**
 * Write a snapshot as a diff on another parent: same machine, same memory. The pages in it are those
 * whose bytes differ from the new parent's.
 *
 * @param parent  of the same memory layout
 * @param path    destination; may be the source's own, but no file that the parent is made of
 * @param options, ret_report  may be NULL
 * @return 0; -EINVAL STASIS_ERR_LAYOUT_MISMATCH; errors of stasis_reader_read(), of stasis_restore() and
 *         of stasis_save_begin() and _finish()
 */
STASIS_API int stasis_rebase(const struct stasis_snapshot *source,
                             const struct stasis_snapshot *parent, const char *path,
                             const struct stasis_copy_options *options,
                             struct stasis_save_report *ret_report, struct stasis_error *err);

/* Neighbouring pages of one region, of which every one differs. */
struct stasis_memory_difference {
    uint64_t gpa;
    uint64_t size; /* bytes, whole pages */
};
/** @return 0 to go on, anything else to stop with STASIS_ERR_CANCELLED */
typedef int stasis_memory_difference_fn(void *arg,
                                        const struct stasis_memory_difference *difference);

/* Zero-initialise, then set what differs from the defaults. */
struct stasis_compare_options {
    unsigned flags;                         /* STASIS_COMPARE_VOLATILE or 0 */
    stasis_difference_fn *on_field;         /* may be NULL; see stasis_machine_compare() */
    stasis_memory_difference_fn *on_memory; /* may be NULL; in ascending order, runs may adjoin */
    void *arg;                              /* of both */
    stasis_progress_fn *progress;           /* may be NULL */
    void *progress_arg;
};

struct stasis_compare_report {
    uint64_t fields_different; /* of the machine */
    uint64_t pages_compared;   /* all of memory, those included that need no look */
    uint64_t pages_different;
    uint64_t bytes_different;
};

/**
 * Compare two snapshots: machine state field by field, memory page by page. Memory that both have from
 * the same layer is not read.
 *
 * @param options  may be NULL
 * @param ret_report  untouched on failure
 * @return 0, also when they differ; -EINVAL STASIS_ERR_LAYOUT_MISMATCH their memory is laid out
 *         differently; -ECANCELED; errors of stasis_reader_read()
 */
STASIS_API int stasis_compare(const struct stasis_snapshot *a, const struct stasis_snapshot *b,
                              const struct stasis_compare_options *options,
                              struct stasis_compare_report *ret_report, struct stasis_error *err);

#ifdef __cplusplus
}
#endif
#endif
