/*
 * disk.c - the superblock of a native file, its root and its chunk digests, as bytes and back.
 *
 * Everything a reader trusts hangs on the two digests made here: the superblock's own, which tells
 * damage in it from an attempt to read something else, and the root, which binds the section table
 * and through it every section. doc/format/native.md says the same in words, and another decoder is
 * written from it: a change here that it does not make is a file nobody else can read.
 */
#include "format/native/disk.h"

#include <assert.h>
#include <string.h>

#include <stasis/memory.h>

#include "base/bytes.h"
#include "base/error.h"
#include "memory/zero.h"

#define FACTS_OFF NATIVE_MAGIC_SIZE /* the root covers bytes FACTS_OFF up to ROOT_OFF */
#define ROOT_OFF 64
#define SELF_DIGEST_OFF (NATIVE_SUPERBLOCK_SIZE - DIGEST_SHA256_SIZE)

#define ROOT_PREFIX "stasis-root-v1\0" /* 16 bytes with the NUL that C adds */
#define ROOT_PREFIX_SIZE sizeof(ROOT_PREFIX)
_Static_assert(ROOT_PREFIX_SIZE == 16, "the root's prefix is 16 bytes");
_Static_assert(STASIS_ID_SIZE == NATIVE_ID_SIZE, "a snapshot's id is its root");

void superblock_encode(const struct native_superblock *superblock, uint8_t *ret_bytes)
{
    struct byte_writer writer;

    byte_writer_init(&writer, ret_bytes, NATIVE_SUPERBLOCK_SIZE);
    byte_writer_bytes(&writer, NATIVE_MAGIC, NATIVE_MAGIC_SIZE);
    byte_writer_u16(&writer, superblock->major);
    byte_writer_u16(&writer, superblock->minor);
    byte_writer_u32(&writer, NATIVE_SUPERBLOCK_SIZE);
    byte_writer_u32(&writer, STASIS_PAGE_SIZE);
    byte_writer_u32(&writer, STASIS_BLOCK_SIZE);
    byte_writer_u16(&writer, superblock->kind);
    byte_writer_u16(&writer, superblock->digest_kind);
    byte_writer_u32(&writer, superblock->section_count);
    byte_writer_u32(&writer, NATIVE_ENTRY_SIZE);
    byte_writer_u32(&writer, 0);
    byte_writer_u64(&writer, superblock->table_off);
    byte_writer_u64(&writer, superblock->file_size);
    byte_writer_u64(&writer, 0);
    assert(writer.offset == ROOT_OFF);
    byte_writer_bytes(&writer, superblock->root, NATIVE_ID_SIZE);
    byte_writer_zeros(&writer, SELF_DIGEST_OFF - writer.offset);
    digest_sha256(ret_bytes, SELF_DIGEST_OFF, ret_bytes + SELF_DIGEST_OFF);
}

/* Magic and version, which stay where they are in every version to come. */
static int parse_version(struct byte_reader *reader, struct native_superblock *superblock,
                         struct stasis_error *err)
{
    const uint8_t *magic = byte_reader_bytes(reader, NATIVE_MAGIC_SIZE);

    if (!magic || memcmp(magic, NATIVE_MAGIC, NATIVE_MAGIC_SIZE) != 0)
        return stasis_fail(err, STASIS_ERR_BAD_MAGIC, "superblock: wrong magic number");
    superblock->major = byte_reader_u16(reader);
    superblock->minor = byte_reader_u16(reader);
    if (reader->failed)
        return stasis_fail(err, STASIS_ERR_TRUNCATED, "superblock: the file ends after %zu bytes",
                           reader->size);
    if (superblock->major != NATIVE_VERSION_MAJOR)
        return stasis_fail(err, STASIS_ERR_VERSION,
                           "native format version %u.%u: this program reads version %u",
                           superblock->major, superblock->minor, NATIVE_VERSION_MAJOR);
    return 0;
}

static int check_self_digest(const uint8_t *bytes, size_t size, struct stasis_error *err)
{
    uint8_t digest[DIGEST_SHA256_SIZE];

    if (size < NATIVE_SUPERBLOCK_SIZE)
        return stasis_fail(err, STASIS_ERR_TRUNCATED,
                           "superblock: the file ends after %zu bytes of it", size);
    digest_sha256(bytes, SELF_DIGEST_OFF, digest);
    if (memcmp(digest, bytes + SELF_DIGEST_OFF, sizeof(digest)) != 0)
        return stasis_fail(err, STASIS_ERR_DIGEST_MISMATCH, "superblock: digest mismatch");
    return 0;
}

/* A number that major version 1 fixes: written so that a file describes itself, never another. */
static int expect_fixed(struct byte_reader *reader, uint32_t expected, const char *what,
                        struct stasis_error *err)
{
    const uint32_t value = byte_reader_u32(reader);

    if (value != expected)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "superblock: %s is %u, must be %u", what, value,
                           expected);
    return 0;
}

static int check_kinds(const struct native_superblock *superblock, struct stasis_error *err)
{
    if (superblock->kind == NATIVE_KIND_DIFF && superblock->minor < NATIVE_VERSION_MINOR_DIFF)
        return stasis_fail(err, STASIS_ERR_UNSUPPORTED,
                           "superblock: version %u.%u has no diff snapshots", superblock->major,
                           superblock->minor);
    if (superblock->kind != NATIVE_KIND_FULL && superblock->kind != NATIVE_KIND_DIFF)
        return stasis_fail(err, STASIS_ERR_UNSUPPORTED, "superblock: unknown snapshot kind %u",
                           superblock->kind);
    if (superblock->digest_kind != STASIS_DIGEST_XXH3_128 &&
        superblock->digest_kind != STASIS_DIGEST_SHA256)
        return stasis_fail(err, STASIS_ERR_UNSUPPORTED, "superblock: unknown digest kind %u",
                           superblock->digest_kind);
    return 0;
}

static int check_table_place(const struct native_superblock *superblock, struct stasis_error *err)
{
    uint64_t end;

    if (superblock->section_count == 0 || superblock->section_count > NATIVE_SECTION_MAX)
        return stasis_fail(err, STASIS_ERR_LIMIT, "superblock: %u sections, 1 to %u are accepted",
                           superblock->section_count, NATIVE_SECTION_MAX);
    if (superblock->table_off < NATIVE_SUPERBLOCK_SIZE || superblock->table_off % NATIVE_ALIGN != 0)
        return stasis_fail(err, STASIS_ERR_CORRUPT,
                           "superblock: no section table can be at file offset %ju",
                           (uintmax_t)superblock->table_off);
    if (__builtin_add_overflow(superblock->table_off,
                               (uint64_t)superblock->section_count * NATIVE_ENTRY_SIZE, &end) ||
        end > superblock->file_size)
        return stasis_fail(err, STASIS_ERR_CORRUPT,
                           "superblock: the section table at %ju ends beyond the file's %ju bytes",
                           (uintmax_t)superblock->table_off, (uintmax_t)superblock->file_size);
    return 0;
}

/* What is reserved is zero in the versions we know; a newer minor version may use it. */
static int check_reserved(const struct native_superblock *superblock, uint64_t reserved,
                          const uint8_t *rest, size_t rest_size, struct stasis_error *err)
{
    if (superblock->minor > NATIVE_VERSION_MINOR)
        return 0;
    if (reserved != 0 || !zero_bytes(rest, rest_size))
        return stasis_fail(err, STASIS_ERR_CORRUPT, "superblock: reserved bytes are not zero");
    return 0;
}

int superblock_parse(const uint8_t *bytes, size_t size, struct native_superblock *ret_superblock,
                     struct stasis_error *err)
{
    struct native_superblock superblock = { 0 };
    struct byte_reader reader;
    uint64_t reserved;
    int r;

    byte_reader_init(&reader, bytes, size);
    if ((r = parse_version(&reader, &superblock, err)) < 0 ||
        (r = check_self_digest(bytes, size, err)) < 0 ||
        (r = expect_fixed(&reader, NATIVE_SUPERBLOCK_SIZE, "its size", err)) < 0 ||
        (r = expect_fixed(&reader, STASIS_PAGE_SIZE, "the page size", err)) < 0 ||
        (r = expect_fixed(&reader, STASIS_BLOCK_SIZE, "the block size", err)) < 0)
        return r;

    superblock.kind = byte_reader_u16(&reader);
    superblock.digest_kind = byte_reader_u16(&reader);
    superblock.section_count = byte_reader_u32(&reader);
    if ((r = expect_fixed(&reader, NATIVE_ENTRY_SIZE, "the section entry size", err)) < 0)
        return r;
    reserved = byte_reader_u32(&reader);
    superblock.table_off = byte_reader_u64(&reader);
    superblock.file_size = byte_reader_u64(&reader);
    reserved |= byte_reader_u64(&reader);
    memcpy(superblock.root, byte_reader_bytes(&reader, NATIVE_ID_SIZE), NATIVE_ID_SIZE);

    if ((r = check_kinds(&superblock, err)) < 0 || (r = check_table_place(&superblock, err)) < 0 ||
        (r = check_reserved(&superblock, reserved, bytes + reader.offset,
                            SELF_DIGEST_OFF - reader.offset, err)) < 0)
        return r;
    *ret_superblock = superblock;
    return 0;
}

void native_root(const uint8_t *superblock_bytes, const uint8_t *table_bytes, size_t table_size,
                 uint8_t ret_root[NATIVE_ID_SIZE])
{
    uint8_t bound[ROOT_PREFIX_SIZE + ROOT_OFF - FACTS_OFF + NATIVE_TABLE_SIZE_MAX];
    struct byte_writer writer;

    byte_writer_init(&writer, bound, sizeof(bound));
    byte_writer_bytes(&writer, ROOT_PREFIX, ROOT_PREFIX_SIZE);
    byte_writer_bytes(&writer, superblock_bytes + FACTS_OFF, ROOT_OFF - FACTS_OFF);
    byte_writer_bytes(&writer, table_bytes, table_size);
    assert(!writer.failed);
    digest_sha256(bound, writer.offset, ret_root);
}

size_t chunk_digest_size(enum stasis_digest_kind kind)
{
    return kind == STASIS_DIGEST_SHA256 ? DIGEST_SHA256_SIZE : DIGEST_XXH3_128_SIZE;
}

void chunk_digest(enum stasis_digest_kind kind, const void *chunk, size_t size, uint8_t *ret_digest)
{
    if (zero_bytes(chunk, size))
        memset(ret_digest, 0, chunk_digest_size(kind));
    else if (kind == STASIS_DIGEST_SHA256)
        digest_sha256(chunk, size, ret_digest);
    else
        digest_xxh3_128(chunk, size, ret_digest);
}
