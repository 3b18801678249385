/* disk.h - the fixed-size structures of a native file: superblock, section table, chunk digests.
 *
 * doc/format/native.md is the contract; the names here are the names there. The structs are the
 * decoded form, never the bytes of the file. Nothing in this module does I/O or allocates. */
#ifndef STASIS_FORMAT_NATIVE_DISK_H
#define STASIS_FORMAT_NATIVE_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/error.h>
#include <stasis/snapshot.h>

#include "base/digest.h"

#define NATIVE_MAGIC "\x89STASIS\n"
#define NATIVE_MAGIC_SIZE 8
#define NATIVE_VERSION_MAJOR 1
#define NATIVE_VERSION_MINOR 1
#define NATIVE_VERSION_MINOR_FULL                                                                  \
    0 /* writers give a file the oldest version that has all it needs */
#define NATIVE_VERSION_MINOR_DIFF 1

#define NATIVE_SUPERBLOCK_SIZE 4096
#define NATIVE_VERSION_END 12 /* bytes of a file that tell magic, major and minor */
#define NATIVE_ENTRY_SIZE 128
#define NATIVE_SECTION_MAX 64
#define NATIVE_TABLE_SIZE_MAX (NATIVE_SECTION_MAX * NATIVE_ENTRY_SIZE)

#define NATIVE_ALIGN 4096u                     /* of every section's file offset */
#define NATIVE_MEMORY_ALIGN UINT64_C(0x200000) /* of the memory section's */
#define NATIVE_DIGEST_CHUNK 4096u              /* bytes of digests that share a digest */
#define NATIVE_CHUNK_MAX (1024u * 1024)        /* bytes; a reader holds one chunk per thread */
#define NATIVE_MACHINE_SIZE_MAX (256u * 1024 * 1024)
#define NATIVE_FACTS_SIZE_MAX (1024u * 1024) /* layout and meta, each */
#define NATIVE_EXTENTS_SIZE_MAX (UINT64_C(1) << 30)
#define NATIVE_LAYERS_SIZE_MAX (64u * 1024 * 1024)
#define NATIVE_PACKED_CHUNK 4096u /* bytes of packed memory that share a digest: one page */
#define NATIVE_ID_SIZE 32

enum native_kind {
    NATIVE_KIND_FULL = 1,
    NATIVE_KIND_DIFF = 2, /* since version 1.1 */
};

enum native_section_type {
    NATIVE_SECTION_MEMORY = 1,
    NATIVE_SECTION_MACHINE = 2,
    NATIVE_SECTION_LAYOUT = 3,
    NATIVE_SECTION_META = 4,
    NATIVE_SECTION_DIGESTS = 5,
    NATIVE_SECTION_DIGEST_INDEX = 6,
    NATIVE_SECTION_EXTENTS = 7, /* this and the next in diffs only */
    NATIVE_SECTION_LAYERS = 8,
};

#define NATIVE_SECTION_VERSION 1 /* of each type above, so far */

enum native_method {
    NATIVE_METHOD_WHOLE = 1,
    NATIVE_METHOD_CHUNKED = 2,
};

#define NATIVE_FLAG_CRITICAL 0x1u

struct native_section {
    uint32_t type;
    uint16_t version;
    uint16_t flags; /* NATIVE_FLAG_* */
    uint64_t file_off;
    uint64_t size; /* bytes */
    uint16_t method;
    uint32_t chunk_size;     /* chunked only, else 0 */
    uint32_t digest_section; /* chunked only: index in the table, greater than this section's own */
    uint8_t digest[DIGEST_SHA256_SIZE];
};

struct native_superblock {
    uint16_t major, minor;
    uint16_t kind;        /* enum native_kind */
    uint16_t digest_kind; /* enum stasis_digest_kind */
    uint32_t section_count;
    uint64_t table_off;
    uint64_t file_size;
    uint8_t root[NATIVE_ID_SIZE];
};

/* Fills NATIVE_SUPERBLOCK_SIZE bytes, its own digest included. */
void superblock_encode(const struct native_superblock *superblock, uint8_t *ret_bytes);

/*
 * Parse what may be the first bytes of a native file: `size` is what there is of them, up to
 * NATIVE_SUPERBLOCK_SIZE. STASIS_ERR_BAD_MAGIC, _TRUNCATED, _VERSION (judged before all that
 * follows), _DIGEST_MISMATCH, _UNSUPPORTED (an unknown kind or digest kind), _CORRUPT.
 */
int superblock_parse(const uint8_t *bytes, size_t size, struct native_superblock *ret_superblock,
                     struct stasis_error *err);

/* Fills section_count * NATIVE_ENTRY_SIZE bytes. */
void section_table_encode(const struct native_section *sections, uint32_t section_count,
                          uint8_t *ret_bytes);

/* Decode superblock->section_count entries from as many whole entries of bytes, and check all that
 * can be said without reading sections: limits, place, overlap, digests. STASIS_ERR_CORRUPT, _LIMIT,
 * _CRITICAL_SECTION. */
int section_table_parse(const struct native_superblock *superblock, const uint8_t *bytes,
                        struct native_section *ret_sections, struct stasis_error *err);

/* The root: a SHA-256 over the superblock's facts and the table, whose bytes are table_size, at most
 * NATIVE_TABLE_SIZE_MAX. `superblock_bytes` are the encoded form; its root field is not looked at. */
void native_root(const uint8_t *superblock_bytes, const uint8_t *table_bytes, size_t table_size,
                 uint8_t ret_root[NATIVE_ID_SIZE]);

/* The section of a type that this reader knows, of a version that it knows; NULL when there is none. */
const struct native_section *section_find(const struct native_section *sections,
                                          uint32_t section_count, uint32_t type);

/* "memory", ...; for an unknown type "section 0x1234". `text` is what a name is put together in. */
#define NATIVE_SECTION_NAME_SIZE 32
const char *section_name(uint32_t type, char text[NATIVE_SECTION_NAME_SIZE]);

uint64_t section_chunk_count(const struct native_section *section);

/* Bytes of one chunk digest; the kind must be a known one. */
size_t chunk_digest_size(enum stasis_digest_kind kind);

/* The digest of one chunk, chunk_digest_size() bytes. All zero when, and only when, the chunk is. */
void chunk_digest(enum stasis_digest_kind kind, const void *chunk, size_t size,
                  uint8_t *ret_digest);

#endif
