/* snapshot.h - the verbs: save a machine and its memory to a file, open, verify and restore it.
 *
 * A snapshot file appears whole or not at all: it is written to a private temporary file in the
 * destination's directory, synced, renamed, and the directory is synced (doc/design.md, D4). After
 * any failure the old file of that name is untouched and nothing is left behind (but when only the
 * sync of the directory fails, the new file stands already: a power loss may bring the old one back).
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
 * Told of progress now and then (at most about every 8 MiB of memory), from any thread, never from
 * two at a time.
 * @param done   bytes dealt with so far, 0..total
 * @return 0 to go on; anything else cancels the job with STASIS_ERR_CANCELLED
 */
typedef int stasis_progress_fn(void *arg, uint64_t done, uint64_t total);

/* Zero-initialise, then set what differs from the defaults. */
struct stasis_save_options {
    enum stasis_digest_kind digest; /* 0: STASIS_DIGEST_XXH3_128 */
    unsigned thread_count;          /* 0: one per online CPU, at most 8 */
    stasis_progress_fn *progress;   /* may be NULL */
    void *progress_arg;
    const char *label;              /* free text for people, at most 255 bytes; may be NULL */
};

struct stasis_save_report {
    uint8_t id[STASIS_ID_SIZE];
    uint64_t memory_size;    /* bytes of guest RAM */
    uint64_t data_size;      /* of them, bytes in pages that are not all zero */
    uint64_t zero_size;      /* and in pages that are; the two add up to memory_size */
    uint64_t file_size;      /* length of the file, holes included */
    uint64_t file_allocated; /* bytes that the file system says it allocated */
    uint64_t memory_us;      /* scanning, hashing and writing memory */
    uint64_t sync_us;        /* fdatasync, rename and directory fsync */
    uint64_t total_us;
};

/**
 * Save a machine and its memory as a native full snapshot. The guest must stand still (vCPUs out
 * of KVM_RUN, devices idle) until this returns; memory is only read.
 *
 * @param path     destination; an existing regular file is replaced, anything else there is refused
 * @param options  may be NULL
 * @param ret_report  may be NULL; untouched on failure
 * @param err      may be NULL
 * @return 0; -EINVAL STASIS_ERR_INVALID_ARGUMENT or STASIS_ERR_NOT_REGULAR; -EBADMSG machine or
 *         memory not valid (STASIS_ERR_INVALID_MACHINE, STASIS_ERR_INVALID_MEMORY); -E2BIG
 *         STASIS_ERR_LIMIT; -ENOSPC STASIS_ERR_NO_SPACE; -EROFS STASIS_ERR_READ_ONLY; -EACCES
 *         STASIS_ERR_PERMISSION; -ENOENT STASIS_ERR_NOT_FOUND no such directory; -ECANCELED; -ENOMEM; -EIO
 */
STASIS_API int stasis_save(const char *path, const struct stasis_machine *machine,
                           const struct stasis_memory *memory,
                           const struct stasis_save_options *options,
                           struct stasis_save_report *ret_report, struct stasis_error *err);

struct stasis_snapshot; /* opaque; see stasis_open() */

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
 * @return 0; -ENOENT; -EACCES; -EINVAL STASIS_ERR_NOT_REGULAR; -EBADMSG STASIS_ERR_BAD_MAGIC,
 *         _TRUNCATED, _CORRUPT, _DIGEST_MISMATCH, _INVALID_MACHINE or _INVALID_MEMORY;
 *         -EPROTONOSUPPORT STASIS_ERR_VERSION or _CRITICAL_SECTION; -EOPNOTSUPP
 *         STASIS_ERR_UNSUPPORTED a diff, or of an unknown digest kind; -E2BIG STASIS_ERR_LIMIT;
 *         -ENOMEM; -EIO
 */
STASIS_API int stasis_open(const char *path, struct stasis_snapshot **ret_snapshot,
                           struct stasis_error *err);

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
    char section[32];     /* "superblock", "memory", "machine", "meta", "digests", ... */
    uint64_t block;       /* index of the block within the section, STASIS_BLOCK_SIZE units in memory */
    uint64_t file_off;    /* where the block begins in the file, bytes */
    uint64_t size;        /* bytes in the block */
    bool has_gpa;
    uint64_t gpa;         /* guest physical address of the block, memory only */
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
 * Check every digest of an open snapshot, guest memory included.
 *
 * @param options, ret_report  may be NULL; the report is also filled when damage was found
 * @return 0 all is well; -EBADMSG STASIS_ERR_DIGEST_MISMATCH, the text names the first bad block
 *         and its section; -EBADMSG STASIS_ERR_TRUNCATED the file has shrunk; -ECANCELED; -ENOMEM; -EIO
 */
STASIS_API int stasis_verify(const struct stasis_snapshot *snapshot,
                             const struct stasis_verify_options *options,
                             struct stasis_verify_report *ret_report, struct stasis_error *err);

enum stasis_restore_mode {
    STASIS_RESTORE_MAP = 1, /* private file mapping: pages come from the page cache on first touch */
};

/* Zero-initialise, then set what differs from the defaults. */
struct stasis_restore_options {
    enum stasis_restore_mode mode; /* 0: STASIS_RESTORE_MAP */
    bool verify;                   /* check all of memory before returning, as stasis_verify() */
};

/**
 * Bring guest memory back into this process: each region mapped readable and writable, changes
 * private to the process. The machine state is stasis_snapshot_machine(); hand both to the
 * hypervisor (stasis_kvm_restore()).
 *
 * @param options     may be NULL
 * @param ret_memory  regions with their hva; give back with stasis_memory_unmap(). The mapping
 *                    outlives stasis_close(). Untouched on failure.
 * @return 0; -EINVAL unknown mode; -EBADMSG STASIS_ERR_TRUNCATED or _DIGEST_MISMATCH; -EOPNOTSUPP
 *         STASIS_ERR_UNSUPPORTED the host's pages are larger than the file's; -ENOMEM; -EIO
 */
STASIS_API int stasis_restore(const struct stasis_snapshot *snapshot,
                              const struct stasis_restore_options *options,
                              struct stasis_memory *ret_memory, struct stasis_error *err);

#ifdef __cplusplus
}
#endif
#endif
