/*
 * diff.c - a diff snapshot: the pages that changed, and a map that says where all the others are.
 *
 *     packed memory   the captured data pages, back to back, each with its digest
 *     extents         the parent's map, overlaid with the captured pages
 *     layers          the parent, and those of its layers that are still in the map
 *
 * The map is what a restore goes by: a page left out of it would be another page to the guest. It is
 * made by one walk over the parent's map and the capture side by side, both in page order.
 *
 * How much of memory is data is kept exact: for a changed page that was in a flat layer, only its
 * bytes tell whether it was zero before, so those are read, run by run.
 */
#include "format/native/diff.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "base/pool.h"
#include "format/native/extents.h"
#include "format/native/facts.h"
#include "format/native/writer.h"
#include "memory/zero.h"

#define COUNT_PAGES 64 /* pages of a flat layer read at a time; ZERO_MAP_PAGES at most */

int native_diff_check_layout(const struct native_image *parent, const struct stasis_memory *memory,
                             struct stasis_error *err)
{
    const struct stasis_memory *own = &parent->image.memory;

    if (memory->region_count != own->region_count)
        return stasis_fail(err, STASIS_ERR_LAYOUT_MISMATCH,
                           "memory has %zu regions, the parent's has %zu", memory->region_count,
                           own->region_count);
    for (size_t i = 0; i < own->region_count; i++) {
        const struct stasis_region *a = &memory->regions[i], *b = &own->regions[i];

        if (a->gpa != b->gpa || a->size != b->size)
            return stasis_fail(err, STASIS_ERR_LAYOUT_MISMATCH,
                               "memory region %zu is 0x%jx + 0x%jx, the parent's is 0x%jx + 0x%jx",
                               i, (uintmax_t)a->gpa, (uintmax_t)a->size, (uintmax_t)b->gpa,
                               (uintmax_t)b->size);
    }
    return 0;
}

/* --- packed memory --- */

struct packing {
    const struct native_diff_job *job;
    int fd;
    uint64_t file_off; /* of the memory section */
    uint8_t *digests;
};

/* Whole pages, each under its digest. */
static void hash_pages(const struct packing *packing, const struct iovec *iov, unsigned iov_count,
                       uint64_t packed_page)
{
    const size_t digest_size = chunk_digest_size(packing->job->digest);
    uint8_t *digest;

    if (iov_count == 0)
        return; /* a diff without data pages has no digests either */
    digest = packing->digests + packed_page * digest_size;
    for (unsigned i = 0; i < iov_count; i++) {
        const uint8_t *bytes = iov[i].iov_base;

        for (size_t done = 0; done < iov[i].iov_len; done += STASIS_PAGE_SIZE) {
            chunk_digest(packing->job->digest, bytes + done, STASIS_PAGE_SIZE, digest);
            digest += digest_size;
        }
    }
}

/* Drop what has been written from the front of a list. */
static void advance(struct iovec **iov, unsigned *iov_count, size_t size)
{
    while (*iov_count > 0 && size >= (*iov)->iov_len) {
        size -= (*iov)->iov_len;
        (*iov)++;
        (*iov_count)--;
    }
    if (size > 0) {
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + size;
        (*iov)->iov_len -= size;
    }
}

static int write_pages(int fd, struct iovec *iov, unsigned iov_count, uint64_t file_off,
                       struct stasis_error *err)
{
    while (iov_count > 0) {
        const ssize_t put = pwritev(fd, iov, (int)iov_count, (off_t)file_off);

        if (put < 0 && errno == EINTR)
            continue;
        if (put == 0)
            errno = EIO;
        if (put <= 0)
            return stasis_fail_errno(err, "write packed pages at %ju", (uintmax_t)file_off);
        advance(&iov, &iov_count, (size_t)put);
        file_off += (uint64_t)put;
    }
    return 0;
}

static int pack_slab(void *arg, unsigned worker, uint64_t slab_index, struct stasis_error *err)
{
    const struct packing *packing = arg;
    const struct capture_slab *slab = &packing->job->capture->slabs[slab_index];
    struct iovec iov[CAPTURE_SLAB_PAGES];
    const unsigned iov_count = capture_slab_iovecs(packing->job->capture, slab, iov);
    const uint64_t size = (uint64_t)capture_bits_count(&slab->data) * STASIS_PAGE_SIZE;
    int r;

    (void)worker;
    if ((r = rate_take(packing->job->rate, size, err)) < 0 ||
        (r = progress_add(packing->job->progress, size, err)) < 0)
        return r;
    hash_pages(packing, iov, iov_count, slab->data_before);
    return write_pages(packing->fd, iov, iov_count,
                       packing->file_off + slab->data_before * STASIS_PAGE_SIZE, err);
}

static int map_digests(uint64_t page_count, enum stasis_digest_kind kind,
                       struct native_digests *ret_digests, struct stasis_error *err)
{
    const uint64_t size = page_count * chunk_digest_size(kind);
    void *data;

    *ret_digests = (struct native_digests){ 0 };
    if (size == 0)
        return 0;
    data = size > SIZE_MAX ? MAP_FAILED
                           : mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
        return stasis_fail_memory(err, "the digests of memory");
    *ret_digests = (struct native_digests){ .data = data, .size = (size_t)size };
    return 0;
}

static int append_packed(struct native_writer *writer, const struct native_diff_job *job,
                         struct native_digests *ret_digests, struct stasis_error *err)
{
    struct packing packing = { .job = job, .fd = writer->fd };
    struct native_section *section;
    int r = native_writer_place(writer, NATIVE_SECTION_MEMORY, NATIVE_FLAG_CRITICAL, NATIVE_ALIGN,
                                job->capture->data_count * STASIS_PAGE_SIZE, &section, err);

    if (r < 0)
        return r;
    section->method = NATIVE_METHOD_CHUNKED;
    section->chunk_size = NATIVE_PACKED_CHUNK;
    packing.file_off = section->file_off;
    r = map_digests(job->capture->data_count, job->digest, ret_digests, err);
    if (r < 0)
        return r;
    packing.digests = ret_digests->data;
    r = pool_run(job->thread_count, job->capture->slab_count, pack_slab, &packing, err);
    return r < 0 ? stasis_wrap(err, r, "memory") : 0;
}

/* --- the map --- */

/* Data pages of the parent that the capture takes the place of. */
struct replaced {
    const struct native_image *parent;
    struct format_layer flat; /* its flat layer, once it is open */
    uint64_t data_count;
};

static int count_flat(struct replaced *replaced, uint64_t offset, uint64_t page_count,
                      struct stasis_error *err)
{
    uint8_t *buf = malloc((size_t)COUNT_PAGES * STASIS_PAGE_SIZE);
    int r = buf ? 0 : stasis_fail_memory(err, "a few pages of the parent");

    while (r == 0 && page_count > 0) {
        const uint64_t part = page_count < COUNT_PAGES ? page_count : COUNT_PAGES;

        r = io_read_at(replaced->flat.fd, buf, (size_t)part * STASIS_PAGE_SIZE,
                       replaced->flat.memory_off + offset * STASIS_PAGE_SIZE, err);
        if (r == 0)
            replaced->data_count +=
                (unsigned)__builtin_popcountll(zero_data_page_map(buf, (size_t)part));
        offset += part;
        page_count -= part;
    }
    free(buf);
    return r;
}

static bool layer_is_flat(const struct native_image *native, uint32_t layer)
{
    return layer == 0 ? !native_is_diff(native)
                      : native->layers.items[layer - 1].kind == NATIVE_KIND_FULL;
}

/* A chain has one flat layer, its end; packed pages are data, all of them. */
static int count_piece(struct replaced *replaced, const struct format_extent *extent, uint64_t page,
                       uint64_t end, struct stasis_error *err)
{
    int r = 0;

    if (extent->kind == FORMAT_EXTENT_ZERO)
        return 0;
    if (!layer_is_flat(replaced->parent, extent->layer)) {
        replaced->data_count += end - page;
        return 0;
    }
    if (replaced->flat.fd < 0)
        r = chain_open_layer(&replaced->parent->image, extent->layer, &replaced->flat, err);
    return r < 0
               ? r
               : count_flat(replaced, extent->offset + page - extent->first_page, end - page, err);
}

static int count_replaced(struct replaced *replaced, uint64_t first_page, uint64_t end_page,
                          struct stasis_error *err)
{
    const struct format_image *image = &replaced->parent->image;
    size_t i = format_extent_find(image, first_page);
    int r = 0;

    for (uint64_t page = first_page; r == 0 && page < end_page; i++) {
        const uint64_t extent_end = format_extent_end(image, i);
        const uint64_t end = extent_end < end_page ? extent_end : end_page;

        r = count_piece(replaced, &image->extents[i], page, end, err);
        page = end;
    }
    return r;
}

/* The parent's map with the captured pages in it. */
static int make_map(const struct native_diff_job *job, struct extent_list *map,
                    struct stasis_error *err)
{
    const struct format_image *parent = &job->parent->image;
    struct capture_extent run;
    struct capture_iter iter = { 0 };
    uint64_t page = 0;

    while (capture_next_extent(job->capture, &iter, &run)) {
        const struct format_extent extent = {
            .first_page = run.first_page,
            .offset = run.zero ? 0 : run.data_before,
            .kind = run.zero ? FORMAT_EXTENT_ZERO : FORMAT_EXTENT_DATA,
        };

        extent_list_add_range(map, parent, page, run.first_page, 1);
        extent_list_add(map, &extent);
        page = run.first_page + run.page_count;
    }
    extent_list_add_range(map, parent, page, parent->page_count, 1);
    return map->failed ? stasis_fail_memory(err, "the map of memory") : 0;
}

/* The data of all of memory: the parent's, without what the map puts in the place of some of it. */
static int count_data(const struct native_image *parent, const struct extent_list *map,
                      uint64_t packed_count, uint64_t *ret_data_size, struct stasis_error *err)
{
    struct replaced replaced = { .parent = parent, .flat = { .fd = -1 } };
    const uint64_t parent_count = parent->image.info.data_size / STASIS_PAGE_SIZE;
    int r = 0;

    for (size_t i = 0; r == 0 && i < map->count; i++) {
        const struct format_extent *extent = &map->extents[i];

        if (extent->kind == FORMAT_EXTENT_ZERO || extent->layer == 0)
            r = count_replaced(&replaced, extent->first_page,
                               i + 1 < map->count ? map->extents[i + 1].first_page
                                                  : parent->image.page_count,
                               err);
    }
    format_layer_close(&replaced.flat);
    if (r < 0)
        return stasis_wrap(err, r, "the parent");
    if (replaced.data_count > parent_count)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "the parent has more data than it says");
    *ret_data_size = (parent_count - replaced.data_count + packed_count) * STASIS_PAGE_SIZE;
    return 0;
}

/* --- the file --- */

int native_diff_write_memory(struct native_diff *diff, int fd, const struct native_diff_job *job,
                             struct stasis_error *err)
{
    int r;

    *diff = (struct native_diff){ .packed_count = job->capture->data_count };
    native_writer_init(&diff->writer, fd, job->digest);
    diff->writer.kind = NATIVE_KIND_DIFF;
    if ((r = native_diff_check_layout(job->parent, &job->capture->memory, err)) < 0 ||
        (r = append_packed(&diff->writer, job, &diff->digests, err)) < 0)
        return r;
    return make_map(job, &diff->map, err);
}

void native_diff_release(struct native_diff *diff)
{
    extent_list_release(&diff->map);
    native_digests_release(&diff->digests);
}

/* What is written about memory, beside memory itself. */
struct diff_parts {
    struct native_layers layers;
    struct byte_buffer layout, extents, layer_list;
};

static void parts_release(struct diff_parts *parts)
{
    native_layers_release(&parts->layers);
    byte_buffer_release(&parts->layout);
    byte_buffer_release(&parts->extents);
    byte_buffer_release(&parts->layer_list);
}

static int encode_parts(struct native_diff *diff, const struct native_diff_rest *rest,
                        struct diff_parts *parts, struct stasis_error *err)
{
    struct extent_list *map = &diff->map;
    uint64_t data_size = 0;
    int r;

    byte_buffer_init(&parts->layout, NATIVE_FACTS_SIZE_MAX);
    byte_buffer_init(&parts->extents, NATIVE_EXTENTS_SIZE_MAX);
    byte_buffer_init(&parts->layer_list, NATIVE_LAYERS_SIZE_MAX);
    if ((r = chain_list_layers(rest->parent, &rest->place, &parts->layers, err)) < 0 ||
        (r = count_data(rest->parent, map, diff->packed_count, &data_size, err)) < 0 ||
        (r = chain_drop_unused(&parts->layers, map->extents, map->count, err)) < 0 ||
        (r = native_layout_encode(&rest->parent->image.memory, data_size, &parts->layout, err)) <
            0 ||
        (r = extents_encode(map->extents, map->count, &parts->extents, err)) < 0 ||
        (r = native_layers_encode(&parts->layers, &parts->layer_list, err)) < 0)
        return r;
    return 0;
}

static int append_buffer(struct native_writer *writer, enum native_section_type type,
                         uint16_t flags, const struct byte_buffer *buffer, struct stasis_error *err)
{
    return native_writer_append(writer, type, flags, buffer->data, buffer->size, err);
}

static int write_parts(struct native_writer *writer, const struct native_diff_rest *rest,
                       const struct diff_parts *parts, struct stasis_error *err)
{
    int r;

    if ((r = append_buffer(writer, NATIVE_SECTION_MACHINE, NATIVE_FLAG_CRITICAL, rest->machine,
                           err)) < 0 ||
        (r = append_buffer(writer, NATIVE_SECTION_LAYOUT, NATIVE_FLAG_CRITICAL, &parts->layout,
                           err)) < 0 ||
        (r = append_buffer(writer, NATIVE_SECTION_META, 0, rest->meta, err)) < 0 ||
        (r = append_buffer(writer, NATIVE_SECTION_EXTENTS, NATIVE_FLAG_CRITICAL, &parts->extents,
                           err)) < 0 ||
        (r = append_buffer(writer, NATIVE_SECTION_LAYERS, NATIVE_FLAG_CRITICAL, &parts->layer_list,
                           err)) < 0)
        return r;
    return 0;
}

int native_diff_finish(struct native_diff *diff, const struct native_diff_rest *rest,
                       uint64_t *ret_file_size, uint8_t ret_id[NATIVE_ID_SIZE],
                       struct stasis_error *err)
{
    struct diff_parts parts = { 0 };
    int r;

    if ((r = encode_parts(diff, rest, &parts, err)) == 0 &&
        (r = write_parts(&diff->writer, rest, &parts, err)) == 0 &&
        (r = native_writer_append_digests(&diff->writer, 0, &diff->digests, err)) == 0)
        r = native_writer_finish(&diff->writer, ret_file_size, ret_id, err);
    parts_release(&parts);
    return r;
}
