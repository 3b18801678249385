/*
 * copy.c - flat memory from another snapshot, slab by slab, every page checked as it is read.
 *
 *     slab (1 MiB)   known to be zero?  leave a hole
 *                    read through digests -> digest of each block -> one pwrite() per run of data
 *
 * Memory is held a slab per worker at a time, whatever the size of the guest. Where a page cannot be
 * read, or is not what its digest says, there is no copy.
 */
#include "format/native/copy.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "base/pool.h"
#include "format/native/save.h"
#include "memory/zero.h"

#define SLAB_PAGES 256u
#define SLAB_SIZE (SLAB_PAGES * STASIS_PAGE_SIZE)

struct copy {
    const struct native_copy_job *job;
    struct format_reader *reader;
    uint64_t page_count;
    int fd;
    uint64_t file_off; /* of the memory section */
    enum stasis_digest_kind digest_kind;
    uint8_t *digests;
    uint8_t *slabs; /* one per worker */
    atomic_uint_fast64_t data_pages;
};

/* The runs of data among up to 64 pages, each with one write. */
static int write_data(const struct copy *copy, const uint8_t *bytes, uint64_t first_page,
                      uint64_t data_map, struct stasis_error *err)
{
    while (data_map != 0) {
        const unsigned begin = (unsigned)__builtin_ctzll(data_map);
        const uint64_t rest = ~(data_map >> begin);
        const unsigned count = rest == 0 ? ZERO_MAP_PAGES : (unsigned)__builtin_ctzll(rest);
        const unsigned end = begin + count;
        const int r = io_write_at(copy->fd, bytes + (size_t)begin * STASIS_PAGE_SIZE,
                                  (size_t)count * STASIS_PAGE_SIZE,
                                  copy->file_off + (first_page + begin) * STASIS_PAGE_SIZE, err);

        if (r < 0)
            return stasis_wrap(err, r, "memory");
        data_map = end >= ZERO_MAP_PAGES ? 0 : data_map >> end << end;
    }
    return 0;
}

static void hash_blocks(const struct copy *copy, const uint8_t *bytes, uint64_t first_page,
                        uint64_t page_count)
{
    const size_t digest_size = chunk_digest_size(copy->digest_kind);
    const uint64_t size = page_count * STASIS_PAGE_SIZE;
    uint8_t *digest =
        copy->digests + first_page * STASIS_PAGE_SIZE / STASIS_BLOCK_SIZE * digest_size;

    for (uint64_t done = 0; done < size; done += STASIS_BLOCK_SIZE, digest += digest_size) {
        const size_t part =
            size - done < STASIS_BLOCK_SIZE ? (size_t)(size - done) : STASIS_BLOCK_SIZE;

        /* Not to touch the digest of a zero block saves its page. */
        if (!zero_bytes(bytes + done, part))
            chunk_digest(copy->digest_kind, bytes + done, part, digest);
    }
}

static int write_slab(struct copy *copy, const uint8_t *bytes, uint64_t first_page,
                      uint64_t page_count, struct stasis_error *err)
{
    uint64_t data_count = 0;

    for (uint64_t done = 0; done < page_count; done += ZERO_MAP_PAGES) {
        const uint64_t part =
            page_count - done < ZERO_MAP_PAGES ? page_count - done : ZERO_MAP_PAGES;
        const uint8_t *at = bytes + done * STASIS_PAGE_SIZE;
        const uint64_t data_map = zero_data_page_map(at, (size_t)part);
        const int r = write_data(copy, at, first_page + done, data_map, err);

        if (r < 0)
            return r;
        data_count += (unsigned)__builtin_popcountll(data_map);
    }
    atomic_fetch_add(&copy->data_pages, data_count);
    return rate_take(copy->job->rate, data_count * STASIS_PAGE_SIZE, err);
}

static int copy_slab(void *arg, unsigned worker, uint64_t slab, struct stasis_error *err)
{
    struct copy *copy = arg;
    const struct format_codec *codec = copy->job->from->codec;
    const uint64_t first = slab * SLAB_PAGES;
    const uint64_t left = copy->page_count - first;
    const uint64_t count = left < SLAB_PAGES ? left : SLAB_PAGES;
    uint8_t *bytes = copy->slabs + (size_t)worker * SLAB_SIZE;
    int r = codec->reader_zero(copy->reader, first, count, err);

    if (r < 0)
        return r;
    if (r == 0) {
        r = codec->reader_read(copy->reader, first, count, bytes, err);
        if (r < 0)
            return r;
        hash_blocks(copy, bytes, first, count);
        r = write_slab(copy, bytes, first, count, err);
        if (r < 0)
            return r;
    }
    return progress_add(copy->job->progress, count * STASIS_PAGE_SIZE, err);
}

/* A reader and buffers for the time of the copy. */
static int run_copy(struct copy *copy, struct stasis_error *err)
{
    const struct format_pages *from = copy->job->from;
    const uint64_t slab_count = (copy->page_count + SLAB_PAGES - 1) / SLAB_PAGES;
    auto_free uint8_t *slabs = reallocarray(NULL, copy->job->thread_count, SLAB_SIZE);
    int r;

    if (!slabs)
        return stasis_fail_memory(err, "the copy's workers");
    r = from->codec->reader_open(from->image, &copy->reader, err);
    if (r < 0)
        return r;
    copy->slabs = slabs;
    r = pool_run(copy->job->thread_count, slab_count, copy_slab, copy, err);
    from->codec->reader_close(copy->reader);
    return r;
}

int native_writer_append_copy(struct native_writer *writer, const struct native_copy_job *job,
                              uint64_t *ret_data_size, struct native_digests *ret_digests,
                              struct stasis_error *err)
{
    struct copy copy = { .job = job,
                         .page_count = job->from->image->page_count,
                         .fd = writer->fd,
                         .digest_kind = writer->digest_kind };
    const uint64_t size = copy.page_count * STASIS_PAGE_SIZE;
    struct native_digests digests = { 0 };
    int r;

    if ((r = native_writer_place_flat(writer, size, &copy.file_off, err)) < 0 ||
        (r = native_digests_map(size, writer->digest_kind, &digests, err)) < 0)
        return r;
    copy.digests = digests.data;
    r = run_copy(&copy, err);
    if (r < 0) {
        native_digests_release(&digests);
        return r;
    }
    *ret_data_size = atomic_load(&copy.data_pages) * STASIS_PAGE_SIZE;
    *ret_digests = digests;
    return 0;
}

int native_save_copy(struct format_save *format_save, const struct format_pages *from,
                     struct stasis_error *err)
{
    struct native_save *save = native_save_of(format_save);
    struct stasis_save_report *report = &format_save->report;
    const struct native_copy_job job = { .from = from,
                                         .thread_count = save->thread_count,
                                         .progress = save->progress,
                                         .rate = save->rate };
    int r;

    report->memory_size = from->image->page_count * STASIS_PAGE_SIZE;
    r = native_writer_append_copy(&save->writer, &job, &report->data_size, &save->digests, err);
    if (r < 0)
        return r;
    report->zero_size = report->memory_size - report->data_size;
    return native_layout_encode(&from->image->memory, report->data_size, &save->layout, err);
}
