/*
 * verify.c - every digest of a native file, from the root down to the last block of memory.
 *
 *     root -> section table -> sections hashed whole (machine, layout, meta, digest index)
 *                               digest index -> chunks of digests -> blocks of memory
 *
 * When a digest and what it is the digest of disagree, one of the two is damaged, and the level
 * above says which: a bad chunk of digests is reported as itself, and blocks that only disagree with
 * a digest in it are not held against the memory. So one flipped bit is one damage, at its place.
 *
 * Blocks that lie in holes of the file are not read: their digest must be the zero one. Damage does
 * not stop the work; what stops it is a read that fails, and the caller.
 */
#include "format/native/reader.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "base/pool.h"
#include "format/native/chain.h"
#include "memory/layout.h"
#include "memory/progress.h"
#include "memory/zero.h"

#define SLAB_CHUNKS 64 /* chunks a worker takes at a time: 4 MiB of memory */
#define READ_SIZE 65536

struct verify {
    const struct native_image *native;
    int fd;
    const struct native_image *snapshot; /* what is verified: `native`, or what builds on it */
    uint32_t layer;                      /* which of the snapshot's layers `native` is */
    uint64_t end;                        /* of the progress' total: when that layer is done */
    struct stasis_damage *damage; /* the caller's; the first damage_count entries are in use */
    size_t damage_max;
    struct progress progress;
    bool section_bad[NATIVE_SECTION_MAX]; /* hashed whole, and wrong; set before workers start */

    pthread_mutex_t lock; /* guards what follows */
    size_t damage_count;
    struct stasis_damage first; /* the lowest, also when damage_max is 0 */
    struct stasis_verify_report report;
};

/* One chunked section being gone through. */
struct section_job {
    struct verify *verify;
    const struct native_section *section;
    uint64_t chunk_count;
    uint8_t *buffers; /* a chunk per worker */
};

static bool comes_before(const struct stasis_damage *a, const struct stasis_damage *b)
{
    return a->layer != b->layer ? a->layer < b->layer : a->file_off < b->file_off;
}

/* Sorted by place, the lowest kept: when full, the highest falls out. */
static void insert_damage(struct verify *verify, const struct stasis_damage *damage)
{
    size_t i = verify->damage_count;

    while (i > 0 && comes_before(damage, &verify->damage[i - 1]))
        i--;
    if (i == verify->damage_max)
        return;
    if (verify->damage_count < verify->damage_max)
        verify->damage_count++;
    memmove(&verify->damage[i + 1], &verify->damage[i],
            (verify->damage_count - 1 - i) * sizeof(*damage));
    verify->damage[i] = *damage;
}

static void add_damage(struct verify *verify, const struct stasis_damage *damage)
{
    pthread_mutex_lock(&verify->lock);
    if (verify->report.blocks_bad == 0 || comes_before(damage, &verify->first))
        verify->first = *damage;
    verify->report.blocks_bad++;
    insert_damage(verify, damage);
    pthread_mutex_unlock(&verify->lock);
}

/* Count what was looked at, and go on unless the caller wants to stop. */
static int add_checked(struct verify *verify, uint64_t block_count, uint64_t size,
                       struct stasis_error *err)
{
    pthread_mutex_lock(&verify->lock);
    verify->report.blocks_checked += block_count;
    verify->report.bytes_checked += size;
    pthread_mutex_unlock(&verify->lock);
    return progress_add(&verify->progress, size, err);
}

static struct stasis_damage describe(const struct verify *verify, const char *section,
                                     uint64_t block, uint64_t file_off, uint64_t size)
{
    struct stasis_damage damage = {
        .block = block, .file_off = file_off, .size = size, .layer = verify->layer
    };

    snprintf(damage.section, sizeof(damage.section), "%s", section);
    return damage;
}

/*
 * Which page of the guest a byte of a memory section is. Flat memory is in the guest's order; of a packed
 * page only the map knows, and one that a later layer replaced is nowhere in it.
 */
static bool find_page(const struct verify *verify, uint64_t section_off, uint64_t *ret_linear)
{
    const struct format_image *image = &verify->snapshot->image;
    const uint64_t offset = section_off / STASIS_PAGE_SIZE;

    *ret_linear = section_off;
    if (!native_is_diff(verify->native))
        return section_off / STASIS_PAGE_SIZE < image->page_count;
    for (size_t i = 0; i < image->extent_count; i++) {
        const struct format_extent *extent = &image->extents[i];
        const uint64_t count = format_extent_end(image, i) - extent->first_page;

        if (extent->kind != FORMAT_EXTENT_DATA || extent->layer != verify->layer ||
            offset < extent->offset || offset - extent->offset >= count)
            continue;
        *ret_linear = (extent->first_page + offset - extent->offset) * STASIS_PAGE_SIZE;
        return true;
    }
    return false;
}

static struct stasis_damage describe_chunk(const struct section_job *job, uint64_t chunk,
                                           uint64_t size)
{
    const struct native_section *section = job->section;
    const uint64_t section_off = chunk * section->chunk_size;
    char text[NATIVE_SECTION_NAME_SIZE];
    uint64_t linear;
    struct stasis_damage damage = describe(job->verify, section_name(section->type, text), chunk,
                                           section->file_off + section_off, size);

    if (section->type == NATIVE_SECTION_MEMORY && find_page(job->verify, section_off, &linear)) {
        damage.has_gpa = true;
        damage.gpa = layout_locate(&job->verify->snapshot->image.memory, linear).gpa;
    }
    return damage;
}

/* The superblock as it is in the file now, against what it was when it was opened and checked. */
static int verify_superblock(struct verify *verify, struct stasis_error *err)
{
    uint8_t bytes[NATIVE_SUPERBLOCK_SIZE];
    int r = io_read_at(verify->fd, bytes, sizeof(bytes), 0, err);

    if (r < 0)
        return stasis_wrap(err, r, "superblock");
    if (memcmp(bytes, verify->native->superblock_bytes, sizeof(bytes)) != 0) {
        const struct stasis_damage damage = describe(verify, "superblock", 0, 0, sizeof(bytes));

        add_damage(verify, &damage);
    }
    return add_checked(verify, 1, sizeof(bytes), err);
}

static uint64_t table_size(const struct native_image *native)
{
    return (uint64_t)native->superblock.section_count * NATIVE_ENTRY_SIZE;
}

static int verify_table(struct verify *verify, struct stasis_error *err)
{
    const struct native_image *native = verify->native;
    const uint64_t size = table_size(native);
    uint8_t bytes[NATIVE_TABLE_SIZE_MAX];
    uint8_t root[NATIVE_ID_SIZE];
    int r = io_read_at(verify->fd, bytes, (size_t)size, native->superblock.table_off, err);

    if (r < 0)
        return stasis_wrap(err, r, "section table");
    native_root(native->superblock_bytes, bytes, (size_t)size, root);
    if (memcmp(root, native->superblock.root, sizeof(root)) != 0) {
        const struct stasis_damage damage =
            describe(verify, "section table", 0, native->superblock.table_off, size);

        add_damage(verify, &damage);
    }
    return add_checked(verify, 1, size, err);
}

/* SHA-256 of a range of the file, in pieces: a section may be larger than we want to hold. */
static int hash_range(int fd, uint64_t file_off, uint64_t size, uint8_t *ret_digest,
                      struct stasis_error *err)
{
    struct digest_sha256_stream *stream = digest_sha256_new();
    uint8_t buf[READ_SIZE];
    int r = stream ? 0 : stasis_fail_memory(err, "a digest");

    while (r == 0 && size > 0) {
        const size_t part = size < sizeof(buf) ? (size_t)size : sizeof(buf);

        r = io_read_at(fd, buf, part, file_off, err);
        if (r == 0)
            digest_sha256_update(stream, buf, part);
        file_off += part;
        size -= part;
    }
    if (r == 0)
        digest_sha256_final(stream, ret_digest);
    digest_sha256_free(stream);
    return r;
}

static int verify_whole(struct verify *verify, uint32_t index, struct stasis_error *err)
{
    const struct native_section *section = &verify->native->sections[index];
    char text[NATIVE_SECTION_NAME_SIZE];
    const char *name = section_name(section->type, text);
    uint8_t digest[DIGEST_SHA256_SIZE];
    int r = hash_range(verify->fd, section->file_off, section->size, digest, err);

    if (r < 0)
        return stasis_wrap(err, r, "%s", name);
    if (memcmp(digest, section->digest, sizeof(digest)) != 0) {
        const struct stasis_damage damage =
            describe(verify, name, 0, section->file_off, section->size);

        verify->section_bad[index] = true;
        add_damage(verify, &damage);
    }
    return add_checked(verify, 1, section->size, err);
}

static enum stasis_digest_kind digest_kind(const struct verify *verify)
{
    return (enum stasis_digest_kind)verify->native->superblock.digest_kind;
}

static uint64_t chunk_bytes(const struct native_section *section, uint64_t chunk)
{
    const uint64_t off = chunk * section->chunk_size;
    const uint64_t left = section->size - off;

    return left < section->chunk_size ? left : section->chunk_size;
}

/* The digests that the file has for chunks [first, first + count) of a section. */
static int read_digests(const struct verify *verify, const struct native_section *section,
                        uint64_t first, uint64_t count, uint8_t *ret_digests,
                        struct stasis_error *err)
{
    const struct native_section *digests = &verify->native->sections[section->digest_section];
    const size_t digest_size = chunk_digest_size(digest_kind(verify));

    return io_read_at(verify->fd, ret_digests, (size_t)count * digest_size,
                      digests->file_off + first * digest_size, err);
}

/* 1 when a chunk's bytes in the file have this digest, 0 when not; `buf` holds a chunk. */
static int chunk_matches(const struct verify *verify, const struct native_section *section,
                         uint64_t chunk, const uint8_t *expected, uint8_t *buf,
                         struct stasis_error *err)
{
    const size_t size = (size_t)chunk_bytes(section, chunk);
    uint8_t digest[DIGEST_SHA256_SIZE];
    int r = io_read_at(verify->fd, buf, size, section->file_off + chunk * section->chunk_size, err);

    if (r < 0)
        return r;
    chunk_digest(digest_kind(verify), buf, size, digest);
    return memcmp(digest, expected, chunk_digest_size(digest_kind(verify))) == 0;
}

/*
 * Is the digest that the file has for this chunk itself sound? 1 or 0. Asked only about chunks that
 * disagree with theirs, so it may cost a read.
 */
static int digest_sound(const struct verify *verify, const struct native_section *section,
                        uint64_t chunk, struct stasis_error *err)
{
    const struct native_section *digests = &verify->native->sections[section->digest_section];
    auto_free uint8_t *buf = NULL;
    uint8_t expected[DIGEST_SHA256_SIZE];
    uint64_t its_chunk;
    int r;

    if (digests->method != NATIVE_METHOD_CHUNKED)
        return !verify->section_bad[section->digest_section];
    /* Chunks and digests are of powers of two, so no digest lies across two chunks. */
    its_chunk = chunk * chunk_digest_size(digest_kind(verify)) / digests->chunk_size;
    buf = malloc(digests->chunk_size);
    if (!buf)
        return stasis_fail_memory(err, "a chunk of digests");
    r = read_digests(verify, digests, its_chunk, 1, expected, err);
    return r < 0 ? r : chunk_matches(verify, digests, its_chunk, expected, buf, err);
}

/* A piece of the file that has data, [begin, end); all before it, from where it was sought, is hole. */
struct data_extent {
    uint64_t begin, end;
};

/* File systems without SEEK_DATA, and errors, count as data: then everything is read. */
static struct data_extent find_data(int fd, uint64_t file_off)
{
    struct data_extent extent = { .begin = file_off, .end = UINT64_MAX };
    const off_t begin = lseek(fd, (off_t)file_off, SEEK_DATA);
    off_t end;

    if (begin < 0 && errno == ENXIO)
        extent.begin = UINT64_MAX; /* hole up to the end of the file */
    if (begin < 0)
        return extent;
    end = lseek(fd, begin, SEEK_HOLE);
    extent.begin = (uint64_t)begin;
    if (end > begin)
        extent.end = (uint64_t)end;
    return extent;
}

/* 1 when the chunk is as its digest says, 0 when not. */
static int check_chunk(const struct section_job *job, unsigned worker, uint64_t chunk,
                       const uint8_t *expected, struct data_extent *extent,
                       struct stasis_error *err)
{
    const struct native_section *section = job->section;
    const uint64_t begin = section->file_off + chunk * section->chunk_size;
    const uint64_t end = begin + chunk_bytes(section, chunk);

    if (begin >= extent->end)
        *extent = find_data(job->verify->fd, begin);
    if (end <= extent->begin)
        return zero_bytes(expected, chunk_digest_size(digest_kind(job->verify)));
    return chunk_matches(job->verify, section, chunk, expected,
                         job->buffers + (size_t)worker * section->chunk_size, err);
}

static int verify_slab(void *arg, unsigned worker, uint64_t slab, struct stasis_error *err)
{
    const struct section_job *job = arg;
    struct verify *verify = job->verify;
    const uint64_t first = slab * SLAB_CHUNKS;
    const uint64_t count =
        job->chunk_count - first < SLAB_CHUNKS ? job->chunk_count - first : SLAB_CHUNKS;
    uint8_t digests[SLAB_CHUNKS * DIGEST_SHA256_SIZE];
    struct data_extent extent = { 0 };
    uint64_t size = 0;
    int r = read_digests(verify, job->section, first, count, digests, err);

    for (uint64_t i = 0; r >= 0 && i < count; i++) {
        const uint8_t *expected = digests + i * chunk_digest_size(digest_kind(verify));
        const uint64_t bytes = chunk_bytes(job->section, first + i);

        size += bytes;
        r = check_chunk(job, worker, first + i, expected, &extent, err);
        if (r == 0 && (r = digest_sound(verify, job->section, first + i, err)) == 1) {
            const struct stasis_damage damage = describe_chunk(job, first + i, bytes);

            add_damage(verify, &damage);
        }
    }
    return r < 0 ? r : add_checked(verify, count, size, err);
}

static int verify_chunked(struct verify *verify, uint32_t index, unsigned thread_count,
                          struct stasis_error *err)
{
    const struct native_section *section = &verify->native->sections[index];
    const uint64_t chunk_count = section_chunk_count(section);
    const uint64_t slab_count = chunk_count / SLAB_CHUNKS + (chunk_count % SLAB_CHUNKS != 0);
    auto_free uint8_t *buffers = calloc(thread_count, section->chunk_size);
    const struct section_job job = {
        .verify = verify, .section = section, .chunk_count = chunk_count, .buffers = buffers
    };
    char text[NATIVE_SECTION_NAME_SIZE];
    int r;

    if (!buffers)
        return stasis_fail_memory(err, "the workers of a verification");
    r = pool_run(thread_count, slab_count, verify_slab, (void *)&job, err);
    return r < 0 ? stasis_wrap(err, r, "%s", section_name(section->type, text)) : 0;
}

/* Sections hashed whole first: whether the digest index is sound decides what its chunks prove. */
static int verify_sections(struct verify *verify, unsigned thread_count, struct stasis_error *err)
{
    const struct native_image *native = verify->native;
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < native->superblock.section_count; i++) {
        if (native->sections[i].method == NATIVE_METHOD_WHOLE)
            r = verify_whole(verify, i, err);
    }
    for (uint32_t i = 0; r == 0 && i < native->superblock.section_count; i++) {
        if (native->sections[i].method == NATIVE_METHOD_CHUNKED)
            r = verify_chunked(verify, i, thread_count, err);
    }
    return r;
}

static uint64_t bytes_to_check(const struct native_image *native)
{
    uint64_t size = NATIVE_SUPERBLOCK_SIZE + table_size(native);

    for (uint32_t i = 0; i < native->superblock.section_count; i++) {
        const struct native_section *section = &native->sections[i];

        /* Sections lie apart within the file, so the sum is at most its size. */
        if (section->method == NATIVE_METHOD_WHOLE || section->method == NATIVE_METHOD_CHUNKED)
            size += section->size;
    }
    return size;
}

static int check_not_shrunk(const struct verify *verify, struct stasis_error *err)
{
    struct stat st;

    if (fstat(verify->fd, &st) < 0)
        return stasis_fail_errno(err, "stat the snapshot");
    if ((uint64_t)st.st_size < verify->native->superblock.file_size)
        return stasis_fail(err, STASIS_ERR_TRUNCATED,
                           "the file has shrunk to %jd bytes, its superblock says %ju",
                           (intmax_t)st.st_size, (uintmax_t)verify->native->superblock.file_size);
    return 0;
}

/* "layer 2, 'base.stasis': memory block 17 (file offset 0x310000, guest 0x110000): digest mismatch; ..." */
static int fail_damaged(const struct verify *verify, struct stasis_error *err)
{
    const struct stasis_damage *first = &verify->first;
    char guest[40] = "", more[64] = "";
    int r;

    if (first->has_gpa)
        snprintf(guest, sizeof(guest), ", guest 0x%" PRIx64, first->gpa);
    if (verify->report.blocks_bad > 1)
        snprintf(more, sizeof(more), "; %" PRIu64 " blocks are bad in all",
                 verify->report.blocks_bad);
    r = stasis_fail(err, STASIS_ERR_DIGEST_MISMATCH,
                    "%s block %" PRIu64 " (file offset 0x%" PRIx64 "%s): digest mismatch%s",
                    first->section, first->block, first->file_off, guest, more);
    return first->layer == 0 ? r
                             : stasis_wrap(err, r, "layer %u, '%s'", first->layer,
                                           verify->snapshot->layers.items[first->layer - 1].path);
}

/* All of one file: the snapshot's own, or that of a layer. */
static int verify_file(struct verify *verify, const struct native_image *native, uint32_t layer,
                       unsigned thread_count, struct stasis_error *err)
{
    int r;

    verify->native = native;
    verify->fd = native->fd;
    verify->layer = layer;
    memset(verify->section_bad, 0, sizeof(verify->section_bad));
    if ((r = check_not_shrunk(verify, err)) < 0 || (r = verify_superblock(verify, err)) < 0 ||
        (r = verify_table(verify, err)) < 0 || (r = verify_sections(verify, thread_count, err)) < 0)
        return r;
    return 0;
}

/* A layer that no page comes from may be missing or broken. Only the parent can be such a one. */
static bool layer_needed(const struct native_image *native, uint32_t layer)
{
    return native->layer_info[layer].page_count > 0;
}

static int verify_layer(struct verify *verify, uint32_t layer, unsigned thread_count,
                        struct stasis_error *err)
{
    struct native_image *opened;
    int r = chain_open_image(verify->snapshot, layer, &opened, err);

    if (r < 0)
        return r;
    progress_part(&verify->progress, bytes_to_check(opened), verify->end);
    r = verify_file(verify, opened, layer, thread_count, err);
    native_close(&opened->image);
    return r < 0 ? stasis_wrap(err, r, "layer %u", layer) : 0;
}

static int run_verify(struct verify *verify, unsigned thread_count, struct stasis_error *err)
{
    const struct native_image *snapshot = verify->snapshot;
    int r;

    verify->end = bytes_to_check(snapshot);
    progress_part(&verify->progress, verify->end, verify->end);
    r = verify_file(verify, snapshot, 0, thread_count, err);
    for (uint32_t i = 1; r == 0 && i < snapshot->image.layer_count; i++) {
        if (!layer_needed(snapshot, i))
            continue;
        verify->end += snapshot->layer_info[i].file_size; /* no overflow: see all_to_check() */
        r = verify_layer(verify, i, thread_count, err);
    }
    return r;
}

/* Of layers no more is known beforehand than how large their files are; they count for that. */
static uint64_t all_to_check(const struct native_image *snapshot)
{
    uint64_t size = bytes_to_check(snapshot);

    for (uint32_t i = 1; i < snapshot->image.layer_count; i++) {
        if (layer_needed(snapshot, i) &&
            __builtin_add_overflow(size, snapshot->layer_info[i].file_size, &size))
            return UINT64_MAX;
    }
    return size;
}

int native_verify(const struct format_image *image, const struct stasis_verify_options *options,
                  struct stasis_verify_report *ret_report, struct stasis_error *err)
{
    const struct native_image *native = native_image_of(image);
    struct verify verify = { .snapshot = native,
                             .damage = options->damage,
                             .damage_max = options->damage ? options->damage_max : 0 };
    int r;

    for (size_t i = 0; i < verify.damage_max; i++)
        verify.damage[i] = (struct stasis_damage){ 0 };
    progress_init(&verify.progress, options->progress, options->progress_arg, all_to_check(native));
    pthread_mutex_init(&verify.lock, NULL);
    r = run_verify(&verify, options->thread_count, err);
    pthread_mutex_destroy(&verify.lock);
    progress_release(&verify.progress);
    if (r < 0)
        return r;

    if (ret_report)
        *ret_report = verify.report;
    return verify.report.blocks_bad > 0 ? fail_damaged(&verify, err) : 0;
}
