/*
 * mapping.c - guest memory from the extents of a snapshot, without reading what can be mapped.
 *
 *     reserve   each region as anonymous memory: zero extents need nothing more, and no gap can be
 *     flat      one mapping of the flat layer over all of its extents that are close to each other,
 *               small extents of other layers between them included
 *     layers    one after the other: long runs are mapped, short ones (crumbs) copied to their places
 *
 *     extents   [base         ][d][base    ][d][base  ][   diff, 20 pages  ][base ...
 *     flat      <-------------- one mapping ---------><--- not covered ----><--- ...
 *     layers                    ^copy        ^copy     <----- mapping ----->
 *
 * So the number of mappings follows the long runs and not the crumbs, and files are opened one at a
 * time. Crumbs of one layer lie back to back in its packed memory: one preadv() fills many places.
 *
 * The length of each file is checked just before it is mapped, for a touch of a mapped page beyond a
 * file's end is a SIGBUS. A file cut off after that is beyond our reach; snapshots are replaced by
 * rename, never rewritten in place, so ours are not.
 */
#include "snapshot/mapping.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "memory/layout.h"

#define BATCH_MAX 512 /* places filled by one preadv(), at most IOV_MAX */
#define NO_LAYER UINT32_MAX

struct mapping {
    const struct format_codec *codec;
    const struct format_image *image;
    struct stasis_memory memory; /* what is being made */
    uint64_t run_pages;          /* runs of so many pages and more are mapped */
    uint64_t host_page;          /* bytes */
    uint32_t flat_layer;         /* NO_LAYER when no page comes from a flat one */
    struct format_layer layer;   /* the one open now */
};

/* Pages of the open layer that go to pages of the guest. */
struct run {
    uint64_t page;
    uint64_t offset; /* pages, in the layer */
    uint64_t count;
};

/* Crumbs that are back to back in the layer, and their places. */
struct batch {
    struct iovec iov[BATCH_MAX];
    int count;
    uint64_t file_off;
    uint64_t file_end;
};

static uint64_t extent_pages(const struct format_image *image, size_t index)
{
    return format_extent_end(image, index) - image->extents[index].first_page;
}

static bool in_flat_layer(const struct mapping *mapping, const struct format_extent *extent)
{
    return extent->kind == FORMAT_EXTENT_DATA && extent->layer == mapping->flat_layer;
}

/* --- reserve --- */

static int reserve(const struct format_image *image, struct stasis_memory *memory,
                   struct stasis_error *err)
{
    const struct stasis_memory *layout = &image->memory;

    memory->regions = calloc(layout->region_count, sizeof(*memory->regions));
    if (!memory->regions)
        return stasis_fail_memory(err, "the memory regions");
    memory->region_count = layout->region_count;
    for (size_t i = 0; i < memory->region_count; i++) {
        struct stasis_region *region = &memory->regions[i];
        void *hva;

        *region = layout->regions[i];
        region->hva = NULL;
        hva = mmap(NULL, (size_t)region->size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (hva == MAP_FAILED)
            return stasis_fail_errno(err, "reserve %ju bytes of guest memory at 0x%jx",
                                     (uintmax_t)region->size, (uintmax_t)region->gpa);
        region->hva = hva;
    }
    return 0;
}

/* --- one layer --- */

static void close_layer(struct mapping *mapping)
{
    format_layer_close(&mapping->layer);
}

static int open_layer(struct mapping *mapping, uint32_t number, struct stasis_error *err)
{
    const struct stasis_layer_info *info = &mapping->image->info.layers[number];
    struct stat st;
    int r = mapping->codec->open_layer(mapping->image, number, &mapping->layer, err);

    if (r < 0)
        return r;
    if (fstat(mapping->layer.fd, &st) < 0)
        return stasis_fail_errno(err, "stat the snapshot");
    if ((uint64_t)st.st_size < info->file_size)
        return stasis_fail(err, STASIS_ERR_TRUNCATED,
                           "the file has shrunk to %jd bytes, %ju were expected",
                           (intmax_t)st.st_size, (uintmax_t)info->file_size);
    return 0;
}

static uint64_t file_off_of(const struct mapping *mapping, uint64_t offset)
{
    return mapping->layer.memory_off + offset * STASIS_PAGE_SIZE;
}

static int flush(const struct mapping *mapping, struct batch *batch, struct stasis_error *err)
{
    struct iovec *iov = batch->iov;
    int left = batch->count;

    batch->count = 0;
    while (left > 0) {
        ssize_t got = preadv(mapping->layer.fd, iov, left, (off_t)batch->file_off);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return stasis_fail_errno(err, "read guest memory at %ju", (uintmax_t)batch->file_off);
        if (got == 0)
            return stasis_fail(err, STASIS_ERR_TRUNCATED, "the file ends before %ju",
                               (uintmax_t)batch->file_end);
        batch->file_off += (uint64_t)got;
        while (left > 0 && (size_t)got >= iov->iov_len) {
            got -= (ssize_t)iov->iov_len;
            iov++;
            left--;
        }
        if (left > 0) {
            iov->iov_base = (uint8_t *)iov->iov_base + got;
            iov->iov_len -= (size_t)got;
        }
    }
    return 0;
}

static int copy_piece(const struct mapping *mapping, uint8_t *hva, uint64_t size, uint64_t file_off,
                      struct batch *batch, struct stasis_error *err)
{
    int r;

    if ((batch->count == BATCH_MAX || (batch->count > 0 && batch->file_end != file_off)) &&
        (r = flush(mapping, batch, err)) < 0)
        return r;
    if (batch->count == 0)
        batch->file_off = file_off;
    batch->iov[batch->count++] = (struct iovec){ .iov_base = hva, .iov_len = (size_t)size };
    batch->file_end = file_off + size;
    return 0;
}

/* Whether these pages can be mapped at all: a host may have larger ones than files are made of. */
static bool can_map(const struct mapping *mapping, const uint8_t *hva, uint64_t size,
                    uint64_t file_off)
{
    return ((uintptr_t)hva | size | file_off) % mapping->host_page == 0;
}

static int map_piece(const struct mapping *mapping, uint8_t *hva, uint64_t size, uint64_t file_off,
                     struct stasis_error *err)
{
    if (mmap(hva, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
             mapping->layer.fd, (off_t)file_off) == MAP_FAILED)
        return stasis_fail_errno(err, "map %ju bytes of guest memory", (uintmax_t)size);
    return 0;
}

/* A run of the open layer to its place, or places: it may go over the edges of regions. */
static int put_run(const struct mapping *mapping, const struct run *run, struct batch *batch,
                   struct stasis_error *err)
{
    uint64_t linear = run->page * STASIS_PAGE_SIZE;
    uint64_t left = run->count * STASIS_PAGE_SIZE;
    uint64_t file_off = file_off_of(mapping, run->offset);
    const bool wanted = run->count >= mapping->run_pages;

    while (left > 0) {
        const struct layout_place place = layout_locate(&mapping->memory, linear);
        const uint64_t part = place.size_left < left ? place.size_left : left;
        uint8_t *hva = layout_hva(&mapping->memory, &place);
        const int r = wanted && can_map(mapping, hva, part, file_off)
                          ? map_piece(mapping, hva, part, file_off, err)
                          : copy_piece(mapping, hva, part, file_off, batch, err);

        if (r < 0)
            return r;
        linear += part;
        file_off += part;
        left -= part;
    }
    return 0;
}

static int finish_layer(struct mapping *mapping, struct batch *batch, int result,
                        struct stasis_error *err)
{
    if (result == 0)
        result = flush(mapping, batch, err);
    close_layer(mapping);
    return result;
}

/* --- the flat layer --- */

static void zero_pages(const struct mapping *mapping, uint64_t page, uint64_t count)
{
    uint64_t linear = page * STASIS_PAGE_SIZE;
    uint64_t left = count * STASIS_PAGE_SIZE;

    while (left > 0) {
        const struct layout_place place = layout_locate(&mapping->memory, linear);
        const uint64_t part = place.size_left < left ? place.size_left : left;

        memset(layout_hva(&mapping->memory, &place), 0, (size_t)part);
        linear += part;
        left -= part;
    }
}

/* A stretch of extents [first, last], the first and the last of the flat layer. */
static int put_stretch(const struct mapping *mapping, size_t first, size_t last,
                       struct batch *batch, struct stasis_error *err)
{
    const struct format_image *image = mapping->image;
    const uint64_t page = image->extents[first].first_page;
    const struct run run = { .page = page,
                             .offset = image->extents[first].offset,
                             .count = format_extent_end(image, last) - page };
    int r = put_run(mapping, &run, batch, err);

    /* A crumb of zeros may lie under it. A stretch that was copied and not mapped has none: those copies
     * are made later, so flush before. */
    for (size_t i = first; r == 0 && i <= last; i++) {
        if (image->extents[i].kind == FORMAT_EXTENT_ZERO && (r = flush(mapping, batch, err)) == 0)
            zero_pages(mapping, image->extents[i].first_page, extent_pages(image, i));
    }
    return r;
}

/* The last extent of the stretch that begins with this one of the flat layer. */
static size_t stretch_end(const struct mapping *mapping, size_t first)
{
    const struct format_image *image = mapping->image;
    size_t last = first;

    for (size_t i = first + 1; i < image->extent_count; i++) {
        if (in_flat_layer(mapping, &image->extents[i]))
            last = i;
        else if (extent_pages(image, i) >= mapping->run_pages)
            break;
    }
    return last;
}

static int put_flat_layer(struct mapping *mapping, struct stasis_error *err)
{
    const struct format_image *image = mapping->image;
    struct batch batch = { 0 };
    int r;

    if (mapping->flat_layer == NO_LAYER)
        return 0;
    r = open_layer(mapping, mapping->flat_layer, err);
    for (size_t i = 0; r == 0 && i < image->extent_count; i++) {
        if (!in_flat_layer(mapping, &image->extents[i]))
            continue;
        const size_t last = stretch_end(mapping, i);

        r = put_stretch(mapping, i, last, &batch, err);
        i = last;
    }
    return finish_layer(mapping, &batch, r, err);
}

/* --- the other layers --- */

/* Extents in the order of their layers, and of their pages within one. */
struct by_layer {
    uint32_t *begin; /* layer n has order[begin[n]] up to order[begin[n + 1]] */
    uint32_t *order; /* of extents; their number fits, for a map is at most 1 GiB in its file */
};

static void by_layer_release(struct by_layer *by)
{
    free(by->begin);
    free(by->order);
}

static bool is_other(const struct mapping *mapping, const struct format_extent *extent)
{
    return extent->kind == FORMAT_EXTENT_DATA && extent->layer != mapping->flat_layer;
}

static int sort_by_layer(const struct mapping *mapping, struct by_layer *by,
                         struct stasis_error *err)
{
    const struct format_image *image = mapping->image;

    by->begin = calloc((size_t)image->layer_count + 2, sizeof(*by->begin));
    by->order = calloc(image->extent_count, sizeof(*by->order));
    if (!by->begin || !by->order)
        return stasis_fail_memory(err, "an order of the extents");
    /* Counted two places further on, so that filling moves each begin to where it belongs. */
    for (size_t i = 0; i < image->extent_count; i++) {
        if (is_other(mapping, &image->extents[i]))
            by->begin[image->extents[i].layer + 2]++;
    }
    for (uint32_t n = 2; n < image->layer_count + 2; n++)
        by->begin[n] += by->begin[n - 1];
    for (size_t i = 0; i < image->extent_count; i++) {
        if (is_other(mapping, &image->extents[i]))
            by->order[by->begin[image->extents[i].layer + 1]++] = (uint32_t)i;
    }
    return 0;
}

static int put_layer(struct mapping *mapping, const struct by_layer *by, uint32_t number,
                     struct stasis_error *err)
{
    const struct format_image *image = mapping->image;
    struct batch batch = { 0 };
    int r;

    if (by->begin[number] == by->begin[number + 1])
        return 0;
    r = open_layer(mapping, number, err);
    for (uint32_t i = by->begin[number]; r == 0 && i < by->begin[number + 1]; i++) {
        const struct format_extent *extent = &image->extents[by->order[i]];
        const struct run run = { .page = extent->first_page,
                                 .offset = extent->offset,
                                 .count = extent_pages(image, by->order[i]) };

        r = put_run(mapping, &run, &batch, err);
    }
    return finish_layer(mapping, &batch, r, err);
}

static int put_other_layers(struct mapping *mapping, struct stasis_error *err)
{
    struct by_layer by = { 0 };
    int r = sort_by_layer(mapping, &by, err);

    for (uint32_t n = 0; r == 0 && n < mapping->image->layer_count; n++)
        r = put_layer(mapping, &by, n, err);
    by_layer_release(&by);
    return r;
}

/* --- all --- */

/* Runs that would be mapped if runs of so many pages were. */
static size_t count_runs(const struct format_image *image, uint64_t run_pages)
{
    size_t count = 0;

    for (size_t i = 0; i < image->extent_count; i++)
        count += extent_pages(image, i) >= run_pages;
    return count;
}

static uint64_t choose_run_pages(const struct format_image *image)
{
    uint64_t run_pages = MAPPING_RUN_PAGES;

    while (count_runs(image, run_pages) > MAPPING_RUNS_MAX)
        run_pages *= 2;
    return run_pages;
}

static uint32_t find_flat_layer(const struct stasis_snapshot_info *info)
{
    for (uint32_t i = 0; i < info->layer_count; i++) {
        if (info->layers[i].kind == STASIS_SNAPSHOT_FULL && info->layers[i].page_count > 0)
            return i;
    }
    return NO_LAYER;
}

int mapping_make(const struct format_codec *codec, const struct format_image *image,
                 struct stasis_memory *ret_memory, struct stasis_error *err)
{
    struct mapping mapping = { .codec = codec,
                               .image = image,
                               .run_pages = choose_run_pages(image),
                               .host_page = (uint64_t)sysconf(_SC_PAGESIZE),
                               .flat_layer = find_flat_layer(&image->info),
                               .layer = { .fd = -1 } };
    int r;

    if ((r = reserve(image, &mapping.memory, err)) < 0 || (r = put_flat_layer(&mapping, err)) < 0 ||
        (r = put_other_layers(&mapping, err)) < 0) {
        stasis_memory_unmap(&mapping.memory);
        return r;
    }
    *ret_memory = mapping.memory;
    return 0;
}
