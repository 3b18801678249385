/*
 * pages.c - reading memory through its digests, over all layers of a chain.
 *
 *     page -> extent -> layer -> chunk in the layer's memory section -> bytes that have its digest
 *
 * A layer's digests are read and checked up to its root when the layer is first used, and kept: 1/4096
 * of flat memory, 1/256 of packed (twice as much with SHA-256). Its file stays open as long as there
 * is room: a chain may be longer than a process has descriptors.
 *
 * A chunk whose digest is the zero one is not read at all: by its digest it is zeros, hole or not.
 *
 * Any number of threads may read. The lock covers which files are open, not the reading itself: a
 * layer in use is pinned.
 */
#include "format/native/pages.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "format/native/chain.h"
#include "format/native/reader.h"
#include "memory/zero.h"

#define OPEN_MAX 64 /* files of layers open at a time, beyond those that are pinned */
#define BLOCK_PAGES (STASIS_BLOCK_SIZE / STASIS_PAGE_SIZE)
#define RUN_PAGES 64 /* packed pages read at a time */

struct layer_pages {
    struct format_layer file; /* fd -1: not open now */
    unsigned pins;
    uint64_t used; /* when last, in the reader's own time */
    enum stasis_digest_kind digest_kind;
    uint64_t memory_size; /* bytes of its memory section */
    uint8_t *digests; /* mapped; NULL until the layer is first used, and when it has no chunks */
    size_t digests_size;
    bool known; /* the three above are there */
};

struct format_reader {
    const struct native_image *native;
    pthread_mutex_t lock; /* for what follows */
    struct layer_pages *layers;
    unsigned open_count;
    uint64_t time;
};

int native_reader_open(const struct format_image *image, struct format_reader **ret_reader,
                       struct stasis_error *err)
{
    struct format_reader *reader = calloc(1, sizeof(*reader));

    if (reader)
        reader->layers = calloc(image->layer_count, sizeof(*reader->layers));
    if (!reader || !reader->layers) {
        free(reader);
        return stasis_fail_memory(err, "a reader of pages");
    }
    reader->native = native_image_of(image);
    for (uint32_t i = 0; i < image->layer_count; i++)
        reader->layers[i].file.fd = -1;
    pthread_mutex_init(&reader->lock, NULL);
    *ret_reader = reader;
    return 0;
}

void native_reader_close(struct format_reader *reader)
{
    if (!reader)
        return;
    for (uint32_t i = 0; i < reader->native->image.layer_count; i++) {
        struct layer_pages *layer = &reader->layers[i];

        if (layer->digests)
            munmap(layer->digests, layer->digests_size);
        format_layer_close(&layer->file);
    }
    pthread_mutex_destroy(&reader->lock);
    free(reader->layers);
    free(reader);
}

/* --- the digests of a layer --- */

/* Check the chunks of the digests section against the digest index, which is hashed whole. */
int native_digests_check(const struct native_image *native, const struct native_section *digests,
                         const uint8_t *data, struct stasis_error *err)
{
    const struct native_section *index = &native->sections[digests->digest_section];
    const enum stasis_digest_kind kind = (enum stasis_digest_kind)native->superblock.digest_kind;
    const size_t digest_size = chunk_digest_size(kind);
    auto_free uint8_t *expected = malloc((size_t)index->size + 1);
    uint8_t digest[DIGEST_SHA256_SIZE];
    int r;

    if (!expected)
        return stasis_fail_memory(err, "the digest index");
    if ((r = io_read_at(native->fd, expected, (size_t)index->size, index->file_off, err)) < 0)
        return r;
    digest_sha256(expected, (size_t)index->size, digest);
    if (memcmp(digest, index->digest, sizeof(digest)) != 0)
        return stasis_fail(err, STASIS_ERR_DIGEST_MISMATCH, "digest index: digest mismatch");
    for (uint64_t i = 0; i < section_chunk_count(digests); i++) {
        const uint64_t off = i * digests->chunk_size;
        const uint64_t left = digests->size - off;

        chunk_digest(kind, data + off,
                     (size_t)(left < digests->chunk_size ? left : digests->chunk_size), digest);
        if (memcmp(digest, expected + i * digest_size, digest_size) != 0)
            return stasis_fail(err, STASIS_ERR_DIGEST_MISMATCH,
                               "digests block %ju: digest mismatch", (uintmax_t)i);
    }
    return 0;
}

bool native_digests_usual(const struct native_image *native)
{
    const struct native_section *digests = &native->sections[native_memory(native)->digest_section];

    return digests->method == NATIVE_METHOD_CHUNKED &&
           native->sections[digests->digest_section].method == NATIVE_METHOD_WHOLE &&
           digests->size <= SIZE_MAX / 2;
}

static int load_digests(const struct native_image *native, struct layer_pages *layer,
                        struct stasis_error *err)
{
    const struct native_section *memory = native_memory(native);
    const struct native_section *digests = &native->sections[memory->digest_section];
    void *data = NULL;
    int r;

    if (!native_digests_usual(native))
        return stasis_fail(err, STASIS_ERR_UNSUPPORTED, "digests are not kept in the usual way");
    if (digests->size > 0) {
        data = mmap(NULL, (size_t)digests->size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (data == MAP_FAILED)
            return stasis_fail_memory(err, "the digests of a layer");
    }
    if ((r = io_read_at(native->fd, data, (size_t)digests->size, digests->file_off, err)) < 0 ||
        (r = native_digests_check(native, digests, data, err)) < 0) {
        if (data)
            munmap(data, (size_t)digests->size);
        return r;
    }
    layer->digests = data;
    layer->digests_size = (size_t)digests->size;
    layer->digest_kind = (enum stasis_digest_kind)native->superblock.digest_kind;
    layer->memory_size = memory->size;
    layer->known = true;
    return 0;
}

/* --- which files are open; the lock is held --- */

static void make_room(struct format_reader *reader)
{
    struct layer_pages *oldest = NULL;

    if (reader->open_count < OPEN_MAX)
        return;
    for (uint32_t i = 1; i < reader->native->image.layer_count; i++) {
        struct layer_pages *layer = &reader->layers[i];

        if (layer->file.fd >= 0 && layer->pins == 0 && (!oldest || layer->used < oldest->used))
            oldest = layer;
    }
    if (oldest) {
        format_layer_close(&oldest->file);
        reader->open_count--;
    }
}

/* The first time: with its table, root and digests. */
static int learn_layer(struct format_reader *reader, uint32_t number, struct layer_pages *layer,
                       struct stasis_error *err)
{
    struct native_image *opened;
    int r;

    if (number == 0)
        return load_digests(reader->native, layer, err);
    r = chain_open_image(reader->native, number, &opened, err);
    if (r < 0)
        return r;
    r = load_digests(opened, layer, err);
    native_close(&opened->image);
    return r < 0 ? stasis_wrap(err, r, "layer %u, '%s'", number,
                               reader->native->layers.items[number - 1].path)
                 : 0;
}

static int open_locked(struct format_reader *reader, uint32_t number, struct layer_pages *layer,
                       struct stasis_error *err)
{
    int r;

    if (!layer->known && (r = learn_layer(reader, number, layer, err)) < 0)
        return r;
    if (layer->file.fd < 0) {
        make_room(reader);
        r = chain_open_layer(&reader->native->image, number, &layer->file, err);
        if (r < 0)
            return r;
        reader->open_count += number != 0;
    }
    layer->pins++;
    layer->used = ++reader->time;
    return 0;
}

static int pin_layer(struct format_reader *reader, uint32_t number, struct layer_pages **ret_layer,
                     struct stasis_error *err)
{
    struct layer_pages *layer = &reader->layers[number];
    int r;

    pthread_mutex_lock(&reader->lock);
    r = open_locked(reader, number, layer, err);
    pthread_mutex_unlock(&reader->lock);
    *ret_layer = layer;
    return r;
}

static void unpin_layer(struct format_reader *reader, struct layer_pages *layer)
{
    pthread_mutex_lock(&reader->lock);
    layer->pins--;
    pthread_mutex_unlock(&reader->lock);
}

/* --- reading --- */

static const uint8_t *digest_of(const struct layer_pages *layer, uint64_t chunk)
{
    return layer->digests + chunk * chunk_digest_size(layer->digest_kind);
}

static bool digest_is_zero(const struct layer_pages *layer, uint64_t chunk)
{
    return zero_bytes(digest_of(layer, chunk), chunk_digest_size(layer->digest_kind));
}

static bool chunk_sound(const struct layer_pages *layer, uint64_t chunk, const uint8_t *bytes,
                        size_t size)
{
    uint8_t digest[DIGEST_SHA256_SIZE];

    chunk_digest(layer->digest_kind, bytes, size, digest);
    return memcmp(digest, digest_of(layer, chunk), chunk_digest_size(layer->digest_kind)) == 0;
}

static int fail_chunk(const struct layer_pages *layer, uint64_t chunk, size_t chunk_size,
                      struct stasis_error *err)
{
    return stasis_fail(err, STASIS_ERR_DIGEST_MISMATCH,
                       "memory block %ju (file offset 0x%jx): digest mismatch", (uintmax_t)chunk,
                       (uintmax_t)(layer->file.memory_off + chunk * chunk_size));
}

/* One block of flat memory; it may be short at the end. */
static int read_block(const struct layer_pages *layer, uint64_t block, uint8_t *buf, size_t size,
                      struct stasis_error *err)
{
    int r;

    if (digest_is_zero(layer, block)) {
        memset(buf, 0, size);
        return 0;
    }
    r = io_read_at(layer->file.fd, buf, size, layer->file.memory_off + block * STASIS_BLOCK_SIZE,
                   err);
    if (r < 0)
        return r;
    return chunk_sound(layer, block, buf, size) ? 0
                                                : fail_chunk(layer, block, STASIS_BLOCK_SIZE, err);
}

/* The last block that was only partly wanted: its other pages often are next. */
struct block_cache {
    uint8_t *bytes; /* NULL: none yet */
    uint64_t block;
};

static int read_through(const struct layer_pages *layer, struct block_cache *cache, uint64_t block,
                        size_t block_size, struct stasis_error *err)
{
    int r;

    if (cache->bytes && cache->block == block)
        return 0;
    if (!cache->bytes && !(cache->bytes = malloc(STASIS_BLOCK_SIZE)))
        return stasis_fail_memory(err, "a block of memory");
    cache->block = UINT64_MAX;
    r = read_block(layer, block, cache->bytes, block_size, err);
    if (r == 0)
        cache->block = block;
    return r;
}

static int read_flat(const struct layer_pages *layer, struct block_cache *cache, uint64_t offset,
                     uint64_t page_count, uint8_t *buf, struct stasis_error *err)
{
    int r = 0;

    while (r == 0 && page_count > 0) {
        const uint64_t block = offset / BLOCK_PAGES;
        const uint64_t left = layer->memory_size - block * STASIS_BLOCK_SIZE;
        const size_t block_size = left < STASIS_BLOCK_SIZE ? (size_t)left : STASIS_BLOCK_SIZE;
        const size_t skipped = (size_t)(offset % BLOCK_PAGES) * STASIS_PAGE_SIZE;
        const size_t wanted =
            page_count < BLOCK_PAGES ? (size_t)page_count * STASIS_PAGE_SIZE : STASIS_BLOCK_SIZE;
        const size_t part = block_size - skipped < wanted ? block_size - skipped : wanted;

        if (part == block_size) {
            r = read_block(layer, block, buf, block_size, err);
        } else if ((r = read_through(layer, cache, block, block_size, err)) == 0) {
            memcpy(buf, cache->bytes + skipped, part);
        }
        buf += part;
        offset += part / STASIS_PAGE_SIZE;
        page_count -= part / STASIS_PAGE_SIZE;
    }
    return r;
}

static int read_packed(const struct layer_pages *layer, uint64_t offset, uint64_t page_count,
                       uint8_t *buf, struct stasis_error *err)
{
    while (page_count > 0) {
        const uint64_t part = page_count < RUN_PAGES ? page_count : RUN_PAGES;
        int r = io_read_at(layer->file.fd, buf, (size_t)part * STASIS_PAGE_SIZE,
                           layer->file.memory_off + offset * STASIS_PAGE_SIZE, err);

        if (r < 0)
            return r;
        for (uint64_t i = 0; i < part; i++) {
            if (!chunk_sound(layer, offset + i, buf + i * STASIS_PAGE_SIZE, STASIS_PAGE_SIZE))
                return fail_chunk(layer, offset + i, STASIS_PAGE_SIZE, err);
        }
        buf += part * STASIS_PAGE_SIZE;
        offset += part;
        page_count -= part;
    }
    return 0;
}

static int read_piece(struct format_reader *reader, struct block_cache *cache,
                      const struct format_extent *extent, uint64_t page, uint64_t page_count,
                      uint8_t *buf, struct stasis_error *err)
{
    const uint64_t offset = extent->offset + (page - extent->first_page);
    struct layer_pages *layer;
    int r;

    if (extent->kind == FORMAT_EXTENT_ZERO) {
        memset(buf, 0, (size_t)page_count * STASIS_PAGE_SIZE);
        return 0;
    }
    r = pin_layer(reader, extent->layer, &layer, err);
    if (r < 0)
        return r;
    r = layer->file.flat ? read_flat(layer, cache, offset, page_count, buf, err)
                         : read_packed(layer, offset, page_count, buf, err);
    unpin_layer(reader, layer);
    if (r < 0 && extent->layer > 0)
        return stasis_wrap(err, r, "layer %u, '%s'", extent->layer,
                           reader->native->layers.items[extent->layer - 1].path);
    return r;
}

int native_reader_read(struct format_reader *reader, uint64_t first_page, uint64_t page_count,
                       uint8_t *buf, struct stasis_error *err)
{
    const struct format_image *image = &reader->native->image;
    const uint64_t end_page = first_page + page_count;
    struct block_cache cache = { 0 };
    size_t i = format_extent_find(image, first_page);
    int r = 0;

    assert(end_page <= image->page_count);
    for (uint64_t page = first_page; r == 0 && page < end_page; i++) {
        const uint64_t extent_end = format_extent_end(image, i);
        const uint64_t end = extent_end < end_page ? extent_end : end_page;

        r = read_piece(reader, &cache, &image->extents[i], page, end - page,
                       buf + (page - first_page) * STASIS_PAGE_SIZE, err);
        page = end;
    }
    free(cache.bytes);
    return r;
}

/* Of flat memory the digests tell; packed pages are data. */
static bool flat_is_zero(const struct layer_pages *layer, uint64_t offset, uint64_t page_count)
{
    const uint64_t last = (offset + page_count - 1) / BLOCK_PAGES;

    for (uint64_t block = offset / BLOCK_PAGES; block <= last; block++) {
        if (!digest_is_zero(layer, block))
            return false;
    }
    return true;
}

static int piece_is_zero(struct format_reader *reader, const struct format_extent *extent,
                         uint64_t page, uint64_t page_count, struct stasis_error *err)
{
    struct layer_pages *layer;
    int r;

    if (extent->kind == FORMAT_EXTENT_ZERO)
        return 1;
    r = pin_layer(reader, extent->layer, &layer, err);
    if (r < 0)
        return r;
    r = layer->file.flat &&
        flat_is_zero(layer, extent->offset + (page - extent->first_page), page_count);
    unpin_layer(reader, layer);
    return r;
}

int native_reader_zero(struct format_reader *reader, uint64_t first_page, uint64_t page_count,
                       struct stasis_error *err)
{
    const struct format_image *image = &reader->native->image;
    const uint64_t end_page = first_page + page_count;
    size_t i = format_extent_find(image, first_page);
    int r = 1;

    for (uint64_t page = first_page; r == 1 && page < end_page; i++) {
        const uint64_t extent_end = format_extent_end(image, i);
        const uint64_t end = extent_end < end_page ? extent_end : end_page;

        r = piece_is_zero(reader, &image->extents[i], page, end - page, err);
        page = end;
    }
    return r;
}
