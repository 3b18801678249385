/*
 * capture.c - captured guest memory into a full native file: hash it and write it, flat, with holes.
 *
 *     slab (1 MiB of the memory section), taken by any worker
 *       for each 64 KiB block with data   its digest
 *       for each run of data pages        one pwrite(), from guest memory or from the copy
 *
 * Of a live capture that was not scanned yet, each slab is scanned here, just before: zero test, digest
 * and write each read the data, and the second and third find it in the CPU's cache. A slab writes to
 * its own place in the file and in the digests and to nothing else, so the result does not depend on
 * how many workers there are or who took what.
 *
 * Pages that were not selected are zero in a full snapshot and are never touched: in a live capture
 * they are those that the kernel has no memory for, and reading one would make it find some.
 *
 * Live guest memory must stand still meanwhile: a page that changes between digest and write becomes
 * a file that fails its own verification.
 */
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
#include "memory/capture.h"

#define BLOCK_PAGES (STASIS_BLOCK_SIZE / STASIS_PAGE_SIZE)
#define BLOCK_MASK ((UINT64_C(1) << BLOCK_PAGES) - 1)
#define SLAB_BLOCKS (CAPTURE_SLAB_PAGES / BLOCK_PAGES)
#define WORD_BITS 64

struct flat {
    const struct native_memory_job *job;
    int fd;
    uint64_t file_off; /* of the memory section */
    enum stasis_digest_kind digest_kind;
    uint8_t *digests; /* each slab writes those of its own blocks */
    uint8_t *bounce;  /* one block per worker, for blocks that do not lie in one piece */
    atomic_uint_fast64_t data_pages;
};

/* The bits of one block's pages. */
static uint64_t block_bits(const struct capture_bits *bits, unsigned block)
{
    const unsigned page = block * BLOCK_PAGES;

    return bits->words[page / WORD_BITS] >> (page % WORD_BITS) & BLOCK_MASK;
}

/* Pages of a block; the last one of memory may have fewer. */
static unsigned block_page_count(const struct capture *capture, const struct capture_slab *slab,
                                 unsigned block)
{
    const uint64_t left = capture->page_count - slab->first_page - (uint64_t)block * BLOCK_PAGES;

    return left < BLOCK_PAGES ? (unsigned)left : BLOCK_PAGES;
}

/* Put a block together from its data pages, with zeros between. */
static void gather(const struct capture *capture, const struct capture_slab *slab,
                   const struct capture_run *pages, uint8_t *out)
{
    struct iovec iov[CAPTURE_SLAB_PAGES];
    struct capture_run run = { .end = pages->begin };
    uint8_t *end = out + (size_t)(pages->end - pages->begin) * STASIS_PAGE_SIZE;

    for (unsigned done = pages->begin;
         capture_next_run(&slab->data, &run) && run.begin < pages->end; done = run.end) {
        const struct capture_run part = { run.begin, run.end < pages->end ? run.end : pages->end };
        const unsigned count = capture_run_iovecs(capture, slab, &part, iov);
        const size_t zeros = (size_t)(part.begin - done) * STASIS_PAGE_SIZE;

        memset(out, 0, zeros);
        out += zeros;
        for (unsigned i = 0; i < count; i++) {
            memcpy(out, iov[i].iov_base, iov[i].iov_len);
            out += iov[i].iov_len;
        }
    }
    memset(out, 0, (size_t)(end - out));
}

/* The block's bytes in one piece, with zeros for what is not data: without a copy where they lie so. */
static const uint8_t *block_bytes(const struct flat *flat, unsigned worker,
                                  const struct capture_slab *slab, const struct capture_run *pages)
{
    const struct capture *capture = flat->job->capture;
    uint8_t *bounce = flat->bounce + (size_t)worker * STASIS_BLOCK_SIZE;
    const uint8_t *bytes = capture_bytes_in_place(capture, slab, pages);

    if (bytes)
        return bytes;
    gather(capture, slab, pages, bounce);
    return bounce;
}

/* A zero block's digest is zero, as the buffer is already: not to touch it saves its page. */
static void hash_slab(const struct flat *flat, unsigned worker, const struct capture_slab *slab)
{
    const size_t digest_size = chunk_digest_size(flat->digest_kind);
    const uint64_t first_block = slab->first_page / BLOCK_PAGES;

    for (unsigned block = 0; block < SLAB_BLOCKS; block++) {
        struct capture_run pages = { .begin = block * BLOCK_PAGES };

        if (block_bits(&slab->data, block) == 0)
            continue;
        pages.end = pages.begin + block_page_count(flat->job->capture, slab, block);
        chunk_digest(flat->digest_kind, block_bytes(flat, worker, slab, &pages),
                     (size_t)(pages.end - pages.begin) * STASIS_PAGE_SIZE,
                     flat->digests + (first_block + block) * digest_size);
    }
}

/* One run of data pages to its place in the file: one write, or one per piece that it lies in. */
static int write_run(const struct flat *flat, const struct capture_slab *slab,
                     const struct capture_run *run, struct stasis_error *err)
{
    struct iovec iov[CAPTURE_SLAB_PAGES];
    const unsigned count = capture_run_iovecs(flat->job->capture, slab, run, iov);
    uint64_t file_off = flat->file_off + (slab->first_page + run->begin) * STASIS_PAGE_SIZE;

    for (unsigned i = 0; i < count; i++) {
        const int r = io_write_at(flat->fd, iov[i].iov_base, iov[i].iov_len, file_off, err);

        if (r < 0)
            return r;
        file_off += iov[i].iov_len;
    }
    return 0;
}

static int write_slab(void *arg, unsigned worker, uint64_t index, struct stasis_error *err)
{
    struct flat *flat = arg;
    const struct native_memory_job *job = flat->job;
    struct capture_slab slab = job->capture->slabs[index];
    struct capture_run run = { 0 };
    unsigned data_count;
    int r;

    if (!job->capture->scanned)
        capture_scan_slab(job->capture, &slab);
    hash_slab(flat, worker, &slab);
    data_count = capture_bits_count(&slab.data);
    r = rate_take(job->rate, (uint64_t)data_count * STASIS_PAGE_SIZE, err);
    if (r < 0)
        return r;
    while (capture_next_run(&slab.data, &run)) {
        r = write_run(flat, &slab, &run, err);
        if (r < 0)
            return stasis_wrap(err, r, "memory");
    }
    atomic_fetch_add(&flat->data_pages, data_count);
    if (!job->capture->scanned)
        data_count = capture_bits_count(&slab.selected); /* looking at them was work, too */
    return progress_add(job->progress, (uint64_t)data_count * STASIS_PAGE_SIZE, err);
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

static int write_slabs(struct flat *flat, struct stasis_error *err)
{
    auto_free uint8_t *bounce = calloc(flat->job->thread_count, STASIS_BLOCK_SIZE);

    if (!bounce)
        return stasis_fail_memory(err, "the save's workers");
    flat->bounce = bounce;
    return pool_run(flat->job->thread_count, flat->job->capture->slab_count, write_slab, flat, err);
}

int native_writer_append_memory(struct native_writer *writer, const struct native_memory_job *job,
                                uint64_t *ret_data_size, struct native_digests *ret_digests,
                                struct stasis_error *err)
{
    const uint64_t size = job->capture->page_count * STASIS_PAGE_SIZE;
    struct flat flat = { .job = job, .fd = writer->fd, .digest_kind = writer->digest_kind };
    struct native_digests digests = { 0 };
    struct native_section *section;
    int r = native_writer_place(writer, NATIVE_SECTION_MEMORY, NATIVE_FLAG_CRITICAL,
                                NATIVE_MEMORY_ALIGN, size, &section, err);

    if (r < 0)
        return r;
    section->method = NATIVE_METHOD_CHUNKED;
    section->chunk_size = STASIS_BLOCK_SIZE;
    flat.file_off = section->file_off;

    /* Its full length first: a size that the file may never have is refused before all the copying,
     * and no write has to extend the file. What is not written is a hole. */
    if (ftruncate(writer->fd, (off_t)writer->end) < 0)
        return stasis_fail_errno(err, "set the file's size to %ju bytes", (uintmax_t)writer->end);
    r = map_digests(size, writer->digest_kind, &digests, err);
    if (r < 0)
        return r;
    flat.digests = digests.data;
    r = write_slabs(&flat, err);
    if (r < 0) {
        native_digests_release(&digests);
        return r;
    }
    *ret_data_size = atomic_load(&flat.data_pages) * STASIS_PAGE_SIZE;
    *ret_digests = digests;
    return 0;
}
