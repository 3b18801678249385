/*
 * capture.c - guest memory into a native file: find the data, hash it, write it, once over.
 *
 *     slab (1 MiB of the memory section), taken by any worker
 *       for each 64 KiB block   which of its 16 pages hold data? -> bits; digest of the block
 *       for each run of bits    one pwrite() from guest memory
 *
 * Zero test, digest and copy each read the block; taken block by block, the second and third find it
 * in the CPU's cache. A slab writes to its own place in the file and in the digests and to nothing
 * else, so the result does not depend on how many workers there are or who took what.
 *
 * Guest memory must stand still meanwhile: a page that changes between digest and copy becomes a
 * file that fails its own verification.
 */
#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "base/pool.h"
#include "format/native/writer.h"
#include "memory/layout.h"
#include "memory/progress.h"
#include "memory/zero.h"

#define SLAB_SIZE (UINT64_C(1) << 20)
#define SLAB_PAGES (SLAB_SIZE / STASIS_PAGE_SIZE)
#define BLOCK_PAGES (STASIS_BLOCK_SIZE / STASIS_PAGE_SIZE)
#define WORD_BITS 64
#define SLAB_WORDS (SLAB_PAGES / WORD_BITS)

struct capture {
    const struct stasis_memory *memory;
    uint64_t size; /* bytes, all regions */
    int fd;
    uint64_t file_off; /* of the memory section */
    enum stasis_digest_kind digest_kind;
    uint8_t *digests; /* each slab writes those of its own blocks */
    uint8_t *bounce;  /* one block per worker, for blocks that span regions */
    struct progress progress;
    atomic_uint_fast64_t data_pages;
};

struct page_bits {
    uint64_t words[SLAB_WORDS]; /* bit i of the slab: page i holds data */
};

/* A run of pages within a slab, [begin, end). */
struct page_run {
    unsigned begin, end;
};

/* First page at or after `page` whose bit is `value`; SLAB_PAGES when there is none. */
static unsigned find_page(const struct page_bits *bits, unsigned page, bool value)
{
    while (page < SLAB_PAGES) {
        const uint64_t word =
            value ? bits->words[page / WORD_BITS] : ~bits->words[page / WORD_BITS];
        const uint64_t rest = word >> (page % WORD_BITS);

        if (rest != 0)
            return page + (unsigned)__builtin_ctzll(rest);
        page = (page / WORD_BITS + 1) * WORD_BITS;
    }
    return SLAB_PAGES;
}

static bool next_run(const struct page_bits *bits, struct page_run *run)
{
    run->begin = find_page(bits, run->end, true);
    run->end = find_page(bits, run->begin, false);
    return run->begin < SLAB_PAGES;
}

static unsigned count_pages(const struct page_bits *bits)
{
    unsigned count = 0;

    for (size_t i = 0; i < SLAB_WORDS; i++)
        count += (unsigned)__builtin_popcountll(bits->words[i]);
    return count;
}

/* Put a block that spans regions together; the regions are back to back in the section. */
static void gather(const struct stasis_memory *memory, uint64_t linear, size_t size, uint8_t *out)
{
    while (size > 0) {
        const struct layout_place place = layout_locate(memory, linear);
        const size_t part = place.size_left < size ? (size_t)place.size_left : size;

        memcpy(out, layout_hva(memory, &place), part);
        out += part;
        linear += part;
        size -= part;
    }
}

/* The block's bytes in one piece: guest memory itself wherever that is possible. */
static const uint8_t *block_bytes(const struct capture *capture, unsigned worker, uint64_t linear,
                                  size_t size)
{
    const struct layout_place place = layout_locate(capture->memory, linear);
    uint8_t *bounce = capture->bounce + (size_t)worker * STASIS_BLOCK_SIZE;

    if (place.size_left >= size)
        return layout_hva(capture->memory, &place);
    gather(capture->memory, linear, size, bounce);
    return bounce;
}

/* Page bits and digest of one block. */
static void scan_block(struct capture *capture, unsigned worker, uint64_t linear, size_t size,
                       struct page_bits *bits)
{
    const uint64_t block_index = linear / STASIS_BLOCK_SIZE;
    const unsigned first_page = (unsigned)(linear % SLAB_SIZE / STASIS_PAGE_SIZE);
    const uint8_t *bytes = block_bytes(capture, worker, linear, size);
    const uint64_t data_map = zero_data_page_map(bytes, size / STASIS_PAGE_SIZE);

    /* A zero block's digest is zero, as the buffer is already: not to touch it saves its page. */
    if (data_map == 0)
        return;
    bits->words[first_page / WORD_BITS] |= data_map << (first_page % WORD_BITS);
    chunk_digest(capture->digest_kind, bytes, size,
                 capture->digests + block_index * chunk_digest_size(capture->digest_kind));
}

/* A range of guest memory to its place in the file: one write, or one per region it touches. */
static int write_range(const struct capture *capture, uint64_t linear, uint64_t size,
                       struct stasis_error *err)
{
    while (size > 0) {
        const struct layout_place place = layout_locate(capture->memory, linear);
        const uint64_t part = place.size_left < size ? place.size_left : size;
        const int r = io_write_at(capture->fd, layout_hva(capture->memory, &place), (size_t)part,
                                  capture->file_off + linear, err);

        if (r < 0)
            return r;
        linear += part;
        size -= part;
    }
    return 0;
}

static int capture_slab(void *arg, unsigned worker, uint64_t slab, struct stasis_error *err)
{
    struct capture *capture = arg;
    const uint64_t begin = slab * SLAB_SIZE;
    const uint64_t end = capture->size - begin < SLAB_SIZE ? capture->size : begin + SLAB_SIZE;
    struct page_bits bits = { 0 };
    struct page_run run = { 0 };

    for (uint64_t linear = begin; linear < end; linear += STASIS_BLOCK_SIZE)
        scan_block(capture, worker, linear,
                   end - linear < STASIS_BLOCK_SIZE ? (size_t)(end - linear) : STASIS_BLOCK_SIZE,
                   &bits);
    while (next_run(&bits, &run)) {
        const int r = write_range(capture, begin + (uint64_t)run.begin * STASIS_PAGE_SIZE,
                                  (uint64_t)(run.end - run.begin) * STASIS_PAGE_SIZE, err);

        if (r < 0)
            return stasis_wrap(err, r, "memory");
    }
    atomic_fetch_add(&capture->data_pages, count_pages(&bits));
    return progress_add(&capture->progress, end - begin, err);
}

/* Address space for one digest per block; only pages that come to hold a digest take memory. */
static int map_digests(uint64_t memory_size, enum stasis_digest_kind kind,
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

static int run_capture(struct capture *capture, const struct native_memory_job *job,
                       struct stasis_error *err)
{
    const uint64_t slab_count = (capture->size + SLAB_SIZE - 1) / SLAB_SIZE;
    auto_free uint8_t *bounce = calloc(job->thread_count, STASIS_BLOCK_SIZE);
    int r;

    if (!bounce)
        return stasis_fail_memory(err, "the save's workers");
    capture->bounce = bounce;
    progress_init(&capture->progress, job->progress, job->progress_arg, capture->size);
    r = pool_run(job->thread_count, slab_count, capture_slab, capture, err);
    progress_release(&capture->progress);
    return r;
}

int native_writer_append_memory(struct native_writer *writer, const struct native_memory_job *job,
                                uint64_t *ret_data_size, struct native_digests *ret_digests,
                                struct stasis_error *err)
{
    struct capture capture = { .memory = job->memory,
                               .size = stasis_memory_size(job->memory),
                               .fd = writer->fd,
                               .digest_kind = writer->digest_kind };
    struct native_digests digests = { 0 };
    struct native_section *section;
    int r = native_writer_place(writer, NATIVE_SECTION_MEMORY, NATIVE_FLAG_CRITICAL,
                                NATIVE_MEMORY_ALIGN, capture.size, &section, err);

    if (r < 0)
        return r;
    section->method = NATIVE_METHOD_CHUNKED;
    section->chunk_size = STASIS_BLOCK_SIZE;
    capture.file_off = section->file_off;

    /* Its full length first: a size that the file may never have is refused before all the copying,
     * and no write has to extend the file. What is not written is a hole. */
    if (ftruncate(writer->fd, (off_t)writer->end) < 0)
        return stasis_fail_errno(err, "set the file's size to %ju bytes", (uintmax_t)writer->end);
    r = map_digests(capture.size, writer->digest_kind, &digests, err);
    if (r < 0)
        return r;
    capture.digests = digests.data;
    r = run_capture(&capture, job, err);
    if (r < 0) {
        native_digests_release(&digests);
        return r;
    }
    *ret_data_size = atomic_load(&capture.data_pages) * STASIS_PAGE_SIZE;
    *ret_digests = digests;
    return 0;
}
