/*
 * writer.c - where the sections of a native file go, and what is written when.
 *
 *     superblock | hole up to 2 MiB | memory | machine | layout | meta | digests | index | table
 *     written last                                                                       before it
 *
 * Each section begins at a multiple of 4 KiB. The writer never reads back: what it says about a
 * section in the table comes from the same bytes that it wrote.
 */
#include "format/native/writer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "memory/zero.h"

void native_writer_init(struct native_writer *writer, int fd, enum stasis_digest_kind digest_kind)
{
    *writer = (struct native_writer){ .fd = fd,
                                      .digest_kind = digest_kind,
                                      .kind = NATIVE_KIND_FULL,
                                      .end = NATIVE_SUPERBLOCK_SIZE };
}

static bool align_up(uint64_t value, uint64_t align, uint64_t *ret_aligned)
{
    if (__builtin_add_overflow(value, align - 1, ret_aligned))
        return false;
    *ret_aligned &= ~(align - 1);
    return true;
}

int native_writer_place(struct native_writer *writer, enum native_section_type type, uint16_t flags,
                        uint64_t align, uint64_t size, struct native_section **ret_section,
                        struct stasis_error *err)
{
    struct native_section *section;
    uint64_t file_off, end;

    if (writer->section_count == NATIVE_SECTION_MAX)
        return stasis_fail(err, STASIS_ERR_LIMIT, "more than %u sections", NATIVE_SECTION_MAX);
    if (!align_up(writer->end, align, &file_off) || __builtin_add_overflow(file_off, size, &end) ||
        end > INT64_MAX)
        return stasis_fail(err, STASIS_ERR_LIMIT, "no file can hold a section of %ju bytes",
                           (uintmax_t)size);

    section = &writer->sections[writer->section_count++];
    *section = (struct native_section){ .type = type,
                                        .version = NATIVE_SECTION_VERSION,
                                        .flags = flags,
                                        .file_off = file_off,
                                        .size = size,
                                        .method = NATIVE_METHOD_WHOLE };
    writer->end = end;
    *ret_section = section;
    return 0;
}

int native_writer_append(struct native_writer *writer, enum native_section_type type,
                         uint16_t flags, const void *data, size_t size, struct stasis_error *err)
{
    struct native_section *section;
    int r = native_writer_place(writer, type, flags, NATIVE_ALIGN, size, &section, err);

    if (r < 0)
        return r;
    digest_sha256(data, size, section->digest);
    return io_write_at(writer->fd, data, size, section->file_off, err);
}

int native_digests_map(uint64_t memory_size, enum stasis_digest_kind kind,
                       struct native_digests *ret_digests, struct stasis_error *err)
{
    const uint64_t block_count = (memory_size + STASIS_BLOCK_SIZE - 1) / STASIS_BLOCK_SIZE;
    const uint64_t size = block_count * chunk_digest_size(kind); /* memory_size is at most 2^46 */
    void *data = size > SIZE_MAX ? MAP_FAILED
                                 : mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (data == MAP_FAILED)
        return stasis_fail_memory(err, "the digests of memory");
    *ret_digests = (struct native_digests){ .data = data, .size = (size_t)size };
    return 0;
}

int native_writer_place_flat(struct native_writer *writer, uint64_t size, uint64_t *ret_file_off,
                             struct stasis_error *err)
{
    struct native_section *section;
    int r = native_writer_place(writer, NATIVE_SECTION_MEMORY, NATIVE_FLAG_CRITICAL,
                                NATIVE_MEMORY_ALIGN, size, &section, err);

    if (r < 0)
        return r;
    section->method = NATIVE_METHOD_CHUNKED;
    section->chunk_size = STASIS_BLOCK_SIZE;
    *ret_file_off = section->file_off;
    if (ftruncate(writer->fd, (off_t)writer->end) < 0)
        return stasis_fail_errno(err, "set the file's size to %ju bytes", (uintmax_t)writer->end);
    return 0;
}

void native_digests_release(struct native_digests *digests)
{
    if (digests->data)
        munmap(digests->data, digests->size);
    *digests = (struct native_digests){ 0 };
}

/* Leaves out whole zero pages: digests of zero blocks are zero, and most of a large guest is. */
static int write_sparse(int fd, const uint8_t *data, size_t size, uint64_t file_off,
                        struct stasis_error *err)
{
    size_t begin = 0;

    while (begin < size) {
        size_t end = begin;

        while (end < size &&
               !zero_bytes(data + end, size - end < NATIVE_ALIGN ? size - end : NATIVE_ALIGN))
            end += NATIVE_ALIGN;
        if (end > size)
            end = size;
        if (end > begin) {
            const int r = io_write_at(fd, data + begin, end - begin, file_off + begin, err);

            if (r < 0)
                return r;
        }
        begin = end + NATIVE_ALIGN; /* the page at `end` is zero, or beyond the last */
    }
    return 0;
}

/* One digest per chunk of `digests`. `ret_index` is malloc'ed. */
static int make_index(const struct native_writer *writer, const struct native_digests *digests,
                      uint8_t **ret_index, size_t *ret_size, struct stasis_error *err)
{
    const size_t digest_size = chunk_digest_size(writer->digest_kind);
    const size_t chunk_count = (digests->size + NATIVE_DIGEST_CHUNK - 1) / NATIVE_DIGEST_CHUNK;
    uint8_t *index = malloc(chunk_count * digest_size + 1); /* a diff may have no pages at all */

    if (!index)
        return stasis_fail_memory(err, "the digest index");
    for (size_t i = 0; i < chunk_count; i++) {
        const size_t off = i * NATIVE_DIGEST_CHUNK;
        const size_t left = digests->size - off;

        chunk_digest(writer->digest_kind, digests->data + off,
                     left < NATIVE_DIGEST_CHUNK ? left : NATIVE_DIGEST_CHUNK,
                     index + i * digest_size);
    }
    *ret_index = index;
    *ret_size = chunk_count * digest_size;
    return 0;
}

int native_writer_append_digests(struct native_writer *writer, uint32_t index,
                                 const struct native_digests *digests, struct stasis_error *err)
{
    struct native_section *chunked = &writer->sections[index];
    struct native_section *section, *index_section;
    auto_free uint8_t *index_data = NULL;
    size_t index_size = 0;
    int r;

    if ((r = make_index(writer, digests, &index_data, &index_size, err)) < 0 ||
        (r = native_writer_place(writer, NATIVE_SECTION_DIGESTS, 0, NATIVE_ALIGN, digests->size,
                                 &section, err)) < 0 ||
        (r = write_sparse(writer->fd, digests->data, digests->size, section->file_off, err)) < 0 ||
        (r = native_writer_place(writer, NATIVE_SECTION_DIGEST_INDEX, 0, NATIVE_ALIGN, index_size,
                                 &index_section, err)) < 0 ||
        (r = write_sparse(writer->fd, index_data, index_size, index_section->file_off, err)) < 0)
        return r;

    chunked->digest_section = writer->section_count - 2;
    section->method = NATIVE_METHOD_CHUNKED;
    section->chunk_size = NATIVE_DIGEST_CHUNK;
    section->digest_section = writer->section_count - 1;
    /* One digest for the three: that of the index binds all that is under it. */
    digest_sha256(index_data, index_size, index_section->digest);
    memcpy(section->digest, index_section->digest, sizeof(section->digest));
    memcpy(chunked->digest, index_section->digest, sizeof(chunked->digest));
    return 0;
}

int native_writer_finish(struct native_writer *writer, uint64_t *ret_file_size,
                         uint8_t ret_id[NATIVE_ID_SIZE], struct stasis_error *err)
{
    struct native_superblock superblock = { .major = NATIVE_VERSION_MAJOR,
                                            .minor = writer->kind == NATIVE_KIND_DIFF
                                                         ? NATIVE_VERSION_MINOR_DIFF
                                                         : NATIVE_VERSION_MINOR_FULL,
                                            .kind = (uint16_t)writer->kind,
                                            .digest_kind = (uint16_t)writer->digest_kind,
                                            .section_count = writer->section_count };
    const size_t table_size = (size_t)writer->section_count * NATIVE_ENTRY_SIZE;
    uint8_t table[NATIVE_TABLE_SIZE_MAX];
    uint8_t head[NATIVE_SUPERBLOCK_SIZE];
    int r;

    if (!align_up(writer->end, NATIVE_ALIGN, &superblock.table_off))
        return stasis_fail(err, STASIS_ERR_LIMIT, "no file can hold the section table");
    superblock.file_size = superblock.table_off + table_size;

    section_table_encode(writer->sections, writer->section_count, table);
    superblock_encode(&superblock, head); /* the root covers the encoded form, without the root */
    native_root(head, table, table_size, superblock.root);
    superblock_encode(&superblock, head);
    if ((r = io_write_at(writer->fd, table, table_size, superblock.table_off, err)) < 0 ||
        (r = io_write_at(writer->fd, head, sizeof(head), 0, err)) < 0)
        return r;
    memcpy(ret_id, superblock.root, NATIVE_ID_SIZE);
    *ret_file_size = superblock.file_size;
    return 0;
}
