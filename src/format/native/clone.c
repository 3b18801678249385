/*
 * clone.c - flat memory that is the parent's but for what changed, for the price of what changed.
 *
 *     1  the parent's memory section into the new file: by reflink where the file system has them,
 *        else copied within the kernel; of a parent that is a diff, by copy.c
 *     2  block by block, those that the capture touches: read, check against the parent's digest,
 *        put the pages in, new digest; data is written, pages that became zero become holes
 *
 * Step 1 does not look at what it copies: the parent's digests go with it, so damage in the parent stays
 * damage. Step 2 must look, or it would put a new digest over damaged pages.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "base/pool.h"
#include "format/native/copy.h"
#include "format/native/diff.h"
#include "format/native/pages.h"
#include "memory/zero.h"

#define BLOCK_PAGES (STASIS_BLOCK_SIZE / STASIS_PAGE_SIZE)
#define SLAB_BLOCKS (CAPTURE_SLAB_PAGES / BLOCK_PAGES)
#define COPY_SIZE (UINT64_C(8) << 20) /* bytes between two looks at the caller's wishes */
#define BUFFER_SIZE (1u << 20)

/* --- 1: the parent's bytes --- */

struct ranges {
    int from_fd, to_fd;
    uint64_t from_off, to_off; /* of the memory sections */
    uint64_t size;
    const struct native_memory_job *job;
    bool by_hand; /* the kernel does not copy between these files */
};

static int copy_by_hand(const struct ranges *ranges, uint64_t begin, uint64_t size,
                        struct stasis_error *err)
{
    auto_free uint8_t *buf = malloc(BUFFER_SIZE);
    int r = buf ? 0 : stasis_fail_memory(err, "a buffer to copy with");

    while (r == 0 && size > 0) {
        const size_t part = size < BUFFER_SIZE ? (size_t)size : BUFFER_SIZE;

        if ((r = io_read_at(ranges->from_fd, buf, part, ranges->from_off + begin, err)) == 0)
            r = io_write_at(ranges->to_fd, buf, part, ranges->to_off + begin, err);
        begin += part;
        size -= part;
    }
    return r;
}

static bool cannot_copy(int errnum)
{
    return errnum == EXDEV || errnum == EINVAL || errnum == ENOSYS || errnum == EOPNOTSUPP ||
           errnum == EPERM;
}

static int copy_in_kernel(struct ranges *ranges, uint64_t begin, uint64_t size,
                          struct stasis_error *err)
{
    off_t from = (off_t)(ranges->from_off + begin);
    off_t to = (off_t)(ranges->to_off + begin);

    while (size > 0) {
        const ssize_t done =
            copy_file_range(ranges->from_fd, &from, ranges->to_fd, &to, (size_t)size, 0);

        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0 && !cannot_copy(errno))
            return stasis_fail_errno(err, "copy the parent's memory");
        if (done <= 0) {
            ranges->by_hand = true;
            return copy_by_hand(ranges, (uint64_t)from - ranges->from_off, size, err);
        }
        size -= (uint64_t)done;
    }
    return 0;
}

/* One piece of data, in parts between which the job may be slowed down or cancelled. */
static int copy_piece(struct ranges *ranges, uint64_t begin, uint64_t end, struct stasis_error *err)
{
    while (begin < end) {
        const uint64_t part = end - begin < COPY_SIZE ? end - begin : COPY_SIZE;
        int r = rate_take(ranges->job->rate, part, err);

        if (r == 0)
            r = ranges->by_hand ? copy_by_hand(ranges, begin, part, err)
                                : copy_in_kernel(ranges, begin, part, err);
        if (r < 0 || (r = progress_poll(ranges->job->progress, err)) < 0)
            return r;
        begin += part;
    }
    return 0;
}

/* What lies in holes of the parent stays a hole. */
static int copy_data(struct ranges *ranges, struct stasis_error *err)
{
    const off_t end = (off_t)(ranges->from_off + ranges->size);
    off_t at = (off_t)ranges->from_off;
    int r = 0;

    while (r == 0 && at < end) {
        off_t data = lseek(ranges->from_fd, at, SEEK_DATA);
        off_t hole;

        if (data < 0 && errno == ENXIO)
            break;
        if (data < 0)
            data = at; /* the file system cannot tell: all is data */
        hole = lseek(ranges->from_fd, data, SEEK_HOLE);
        if (hole <= data || hole > end)
            hole = end;
        if (data >= end)
            break;
        r = copy_piece(ranges, (uint64_t)data - ranges->from_off, (uint64_t)hole - ranges->from_off,
                       err);
        at = hole;
    }
    return r;
}

/* The blocks that a reflink is made of may be larger than our pages; then it is refused, and copied. */
static bool reflink(const struct ranges *ranges)
{
    const struct file_clone_range range = { .src_fd = ranges->from_fd,
                                            .src_offset = ranges->from_off,
                                            .src_length = ranges->size,
                                            .dest_offset = ranges->to_off };

    return ioctl(ranges->to_fd, FICLONERANGE, &range) == 0;
}

static int clone_full(struct native_writer *writer, const struct native_image *parent,
                      const struct native_memory_job *job, struct native_digests *ret_digests,
                      struct stasis_error *err)
{
    const struct native_section *memory = native_memory(parent);
    const struct native_section *digests = &parent->sections[memory->digest_section];
    struct ranges ranges = { .from_fd = parent->fd,
                             .to_fd = writer->fd,
                             .from_off = memory->file_off,
                             .size = memory->size,
                             .job = job };
    int r;

    if ((r = native_writer_place_flat(writer, memory->size, &ranges.to_off, err)) < 0 ||
        (r = native_digests_map(memory->size, writer->digest_kind, ret_digests, err)) < 0 ||
        (!reflink(&ranges) && (r = copy_data(&ranges, err)) < 0) ||
        (r = io_read_at(parent->fd, ret_digests->data, ret_digests->size, digests->file_off, err)) <
            0)
        return r;
    return native_digests_check(parent, digests, ret_digests->data, err);
}

/* A parent in layers, or hashed in another way: page by page. */
static int clone_by_copy(struct native_writer *writer, const struct native_image *parent,
                         const struct native_memory_job *job, struct native_digests *ret_digests,
                         struct stasis_error *err)
{
    const struct format_pages from = { .codec = &native_codec, .image = &parent->image };
    const struct native_copy_job copy = { .from = &from,
                                          .thread_count = job->thread_count,
                                          .progress = job->progress,
                                          .rate = job->rate };
    uint64_t data_size;

    return native_writer_append_copy(writer, &copy, &data_size, ret_digests, err);
}

/* --- 2: what changed --- */

struct overlay {
    const struct native_memory_job *job;
    int fd;
    uint64_t file_off; /* of the memory section */
    enum stasis_digest_kind digest_kind;
    uint8_t *digests;
    atomic_int_fast64_t data_pages; /* more than before, or fewer */
};

static uint64_t block_bits(const struct capture_bits *bits, unsigned block)
{
    const unsigned page = block * BLOCK_PAGES;

    return bits->words[page / 64] >> (page % 64) & ((UINT64_C(1) << BLOCK_PAGES) - 1);
}

static int read_old(const struct overlay *overlay, uint64_t block, size_t size, uint8_t *buf,
                    struct stasis_error *err)
{
    const size_t digest_size = chunk_digest_size(overlay->digest_kind);
    uint8_t digest[DIGEST_SHA256_SIZE];
    int r = io_read_at(overlay->fd, buf, size, overlay->file_off + block * STASIS_BLOCK_SIZE, err);

    if (r < 0)
        return r;
    chunk_digest(overlay->digest_kind, buf, size, digest);
    if (memcmp(digest, overlay->digests + block * digest_size, digest_size) != 0)
        return stasis_fail(err, STASIS_ERR_DIGEST_MISMATCH,
                           "the parent: memory block %ju: digest mismatch", (uintmax_t)block);
    return 0;
}

/* The captured pages of one block into its old bytes. */
static void put_pages(const struct overlay *overlay, const struct capture_slab *slab,
                      unsigned block, uint8_t *buf)
{
    const uint64_t selected = block_bits(&slab->selected, block);
    const uint64_t data = block_bits(&slab->data, block);

    for (unsigned i = 0; i < BLOCK_PAGES; i++) {
        const unsigned page = block * BLOCK_PAGES + i;
        const struct capture_run run = { .begin = page, .end = page + 1 };
        struct iovec iov[1];

        if (!(selected >> i & 1))
            continue;
        if ((data >> i & 1) && capture_run_iovecs(overlay->job->capture, slab, &run, iov) == 1)
            memcpy(buf + (size_t)i * STASIS_PAGE_SIZE, iov[0].iov_base, STASIS_PAGE_SIZE);
        else
            memset(buf + (size_t)i * STASIS_PAGE_SIZE, 0, STASIS_PAGE_SIZE);
    }
}

/* Punching is what keeps zero pages holes; where there is none, zeros are written. */
static int write_page_run(const struct overlay *overlay, const uint8_t *bytes, uint64_t page,
                          unsigned count, bool data, struct stasis_error *err)
{
    const uint64_t file_off = overlay->file_off + page * STASIS_PAGE_SIZE;
    const uint64_t size = (uint64_t)count * STASIS_PAGE_SIZE;

    if (!data && fallocate(overlay->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)file_off,
                           (off_t)size) == 0)
        return 0;
    return io_write_at(overlay->fd, bytes, (size_t)size, file_off, err);
}

static int write_block(const struct overlay *overlay, const struct capture_slab *slab,
                       unsigned block, const uint8_t *buf, struct stasis_error *err)
{
    const uint64_t selected = block_bits(&slab->selected, block);
    const uint64_t data = block_bits(&slab->data, block);
    int r = 0;

    for (unsigned begin = 0, end; r == 0 && begin < BLOCK_PAGES; begin = end) {
        end = begin + 1;
        if (!(selected >> begin & 1))
            continue;
        while (end < BLOCK_PAGES && (selected >> end & 1) &&
               (data >> end & 1) == (data >> begin & 1))
            end++;
        r = write_page_run(overlay, buf + (size_t)begin * STASIS_PAGE_SIZE,
                           slab->first_page + block * BLOCK_PAGES + begin, end - begin,
                           data >> begin & 1, err);
    }
    return r;
}

static int overlay_block(struct overlay *overlay, const struct capture_slab *slab, unsigned block,
                         uint8_t *buf, struct stasis_error *err)
{
    const uint64_t first_page = slab->first_page + block * BLOCK_PAGES;
    const uint64_t left = overlay->job->capture->page_count - first_page;
    const size_t pages = left < BLOCK_PAGES ? (size_t)left : BLOCK_PAGES;
    const size_t size = pages * STASIS_PAGE_SIZE;
    int r = read_old(overlay, first_page / BLOCK_PAGES, size, buf, err);
    int before, after;

    if (r < 0)
        return r;
    before = __builtin_popcountll(zero_data_page_map(buf, pages));
    put_pages(overlay, slab, block, buf);
    after = __builtin_popcountll(zero_data_page_map(buf, pages));
    atomic_fetch_add(&overlay->data_pages, after - before);
    chunk_digest(overlay->digest_kind, buf, size,
                 overlay->digests +
                     first_page / BLOCK_PAGES * chunk_digest_size(overlay->digest_kind));
    return write_block(overlay, slab, block, buf, err);
}

static int overlay_slab(void *arg, unsigned worker, uint64_t index, struct stasis_error *err)
{
    struct overlay *overlay = arg;
    const struct capture *capture = overlay->job->capture;
    const struct capture_slab *slab = &capture->slabs[index];
    const uint64_t size = (uint64_t)capture_bits_count(&slab->data) * STASIS_PAGE_SIZE;
    uint8_t buf[STASIS_BLOCK_SIZE];
    int r = rate_take(overlay->job->rate, size, err);

    (void)worker;
    for (unsigned block = 0; r == 0 && block < SLAB_BLOCKS; block++) {
        if (block_bits(&slab->selected, block) != 0)
            r = overlay_block(overlay, slab, block, buf, err);
    }
    return r < 0 ? r : progress_add(overlay->job->progress, size, err);
}

int native_writer_append_clone(struct native_writer *writer, const struct native_image *parent,
                               const struct native_memory_job *job, uint64_t *ret_data_size,
                               struct native_digests *ret_digests, struct stasis_error *err)
{
    const bool alike = !native_is_diff(parent) &&
                       parent->superblock.digest_kind == (uint16_t)writer->digest_kind &&
                       native_digests_usual(parent);
    struct overlay overlay = { .job = job, .fd = writer->fd, .digest_kind = writer->digest_kind };
    struct native_digests digests = { 0 };
    int r = native_diff_check_layout(parent, &job->capture->memory, err);

    if (r == 0)
        r = alike ? clone_full(writer, parent, job, &digests, err)
                  : clone_by_copy(writer, parent, job, &digests, err);
    if (r == 0) {
        overlay.file_off = writer->sections[0].file_off;
        overlay.digests = digests.data;
        r = pool_run(job->thread_count, job->capture->slab_count, overlay_slab, &overlay, err);
    }
    if (r < 0) {
        native_digests_release(&digests);
        return r;
    }
    *ret_data_size = parent->image.info.data_size +
                     (uint64_t)atomic_load(&overlay.data_pages) * STASIS_PAGE_SIZE;
    *ret_digests = digests;
    return 0;
}
