/*
 * difference.c - two maps of memory side by side, and the bytes where they point to different places.
 *
 *     a     [base     ][a1  ][base             ][zero ]
 *     b     [base  ][b1     ][base        ][b2 ][zero ]
 *           same    ^^^^^^^^^ read         ^^^^ same
 *
 * Layers are the same when their ids are: an id binds all that is in a file. What is left is read from
 * both and compared page by page.
 */
#include "snapshot/difference.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "snapshot/handle.h"

#define STEP_PAGES 256u /* read from each of the two at a time */
#define NO_LAYER UINT32_MAX

/* One of the two, and where in its map we are. */
struct side {
    const struct stasis_snapshot *snapshot;
    struct format_reader *reader;
    size_t extent;
    uint8_t *buf; /* STEP_PAGES */
};

struct walk {
    struct side a, b;
    uint32_t
        *a_layer_of; /* of each of b's layers: the one of a that is the same file, or NO_LAYER */
    struct progress *progress;
    difference_run_fn *on_run;
    void *arg;
};

int difference_check_layout(const struct stasis_snapshot *a, const struct stasis_snapshot *b,
                            struct stasis_error *err)
{
    const struct stasis_memory *x = &a->image->memory, *y = &b->image->memory;

    if (x->region_count != y->region_count)
        return stasis_fail(err, STASIS_ERR_LAYOUT_MISMATCH,
                           "one has %zu memory regions, the other %zu", x->region_count,
                           y->region_count);
    for (size_t i = 0; i < x->region_count; i++) {
        if (x->regions[i].gpa != y->regions[i].gpa || x->regions[i].size != y->regions[i].size)
            return stasis_fail(err, STASIS_ERR_LAYOUT_MISMATCH,
                               "memory region %zu is 0x%jx + 0x%jx in one and 0x%jx + 0x%jx in the "
                               "other",
                               i, (uintmax_t)x->regions[i].gpa, (uintmax_t)x->regions[i].size,
                               (uintmax_t)y->regions[i].gpa, (uintmax_t)y->regions[i].size);
    }
    return 0;
}

/* --- the maps --- */

struct sorted_id {
    const uint8_t *id;
    uint32_t layer;
};

static int compare_ids(const void *a, const void *b)
{
    const struct sorted_id *x = a, *y = b;

    return memcmp(x->id, y->id, STASIS_ID_SIZE);
}

/* Chains are long: sorted, not searched layer by layer. */
static int match_layers(struct walk *walk, struct stasis_error *err)
{
    const struct stasis_snapshot_info *a = &walk->a.snapshot->image->info;
    const struct stasis_snapshot_info *b = &walk->b.snapshot->image->info;
    auto_free struct sorted_id *ids = calloc(a->layer_count, sizeof(*ids));

    walk->a_layer_of = calloc(b->layer_count, sizeof(*walk->a_layer_of));
    if (!ids || !walk->a_layer_of)
        return stasis_fail_memory(err, "the layers in common");
    for (uint32_t i = 0; i < a->layer_count; i++)
        ids[i] = (struct sorted_id){ .id = a->layers[i].id, .layer = i };
    qsort(ids, a->layer_count, sizeof(*ids), compare_ids);
    for (uint32_t i = 0; i < b->layer_count; i++) {
        const struct sorted_id key = { .id = b->layers[i].id };
        const struct sorted_id *found =
            bsearch(&key, ids, a->layer_count, sizeof(*ids), compare_ids);

        walk->a_layer_of[i] = found ? found->layer : NO_LAYER;
    }
    return 0;
}

/* Go on to the extent that a page is in; pages come in ascending order. */
static const struct format_extent *extent_at(struct side *side, uint64_t page, uint64_t *ret_end)
{
    const struct format_image *image = side->snapshot->image;

    while (format_extent_end(image, side->extent) <= page)
        side->extent++;
    *ret_end = format_extent_end(image, side->extent);
    return &image->extents[side->extent];
}

static bool same_place(const struct walk *walk, const struct format_extent *a,
                       const struct format_extent *b)
{
    if (a->kind != b->kind)
        return false;
    if (a->kind == FORMAT_EXTENT_ZERO)
        return true;
    return walk->a_layer_of[b->layer] == a->layer &&
           a->offset - a->first_page == b->offset - b->first_page;
}

/* --- the bytes --- */

static uint64_t count_bytes(const uint8_t *a, const uint8_t *b)
{
    uint64_t count = 0;

    for (size_t i = 0; i < STASIS_PAGE_SIZE; i++)
        count += a[i] != b[i];
    return count;
}

/* Pages that differ among those in the buffers, as runs. */
static int tell_runs(const struct walk *walk, uint64_t first_page, uint64_t page_count,
                     struct stasis_error *err)
{
    uint64_t run = 0, bytes = 0;
    int r = 0;

    for (uint64_t i = 0; r == 0 && i <= page_count; i++) {
        const size_t off = (size_t)i * STASIS_PAGE_SIZE;
        const bool differs =
            i < page_count && memcmp(walk->a.buf + off, walk->b.buf + off, STASIS_PAGE_SIZE) != 0;

        if (differs) {
            bytes += count_bytes(walk->a.buf + off, walk->b.buf + off);
            run++;
        } else if (run > 0) {
            r = walk->on_run(walk->arg, first_page + i - run, run, bytes, err);
            run = bytes = 0;
        }
    }
    return r;
}

static int read_side(const struct side *side, uint64_t page, uint64_t count,
                     struct stasis_error *err)
{
    return side->snapshot->codec->reader_read(side->reader, page, count, side->buf, err);
}

static int known_zero(const struct side *side, uint64_t page, uint64_t count,
                      struct stasis_error *err)
{
    return side->snapshot->codec->reader_zero(side->reader, page, count, err);
}

static int compare_step(const struct walk *walk, uint64_t page, uint64_t count,
                        struct stasis_error *err)
{
    int r = known_zero(&walk->a, page, count, err);

    if (r == 1)
        r = known_zero(&walk->b, page, count, err);
    if (r != 0)
        return r < 0 ? r : 0;
    if ((r = read_side(&walk->a, page, count, err)) < 0 ||
        (r = read_side(&walk->b, page, count, err)) < 0)
        return r;
    return tell_runs(walk, page, count, err);
}

static int compare_range(const struct walk *walk, uint64_t page, uint64_t end,
                         struct stasis_error *err)
{
    int r = 0;

    while (r == 0 && page < end) {
        const uint64_t count = end - page < STEP_PAGES ? end - page : STEP_PAGES;

        r = compare_step(walk, page, count, err);
        if (r == 0)
            r = progress_add(walk->progress, count * STASIS_PAGE_SIZE, err);
        page += count;
    }
    return r;
}

/*
 * The end of the pages from `page` on that are alike by their place, or that are not; `ret_same` says
 * which. Ranges that are to be read are gathered over many extents: a crumb each would be slow.
 */
static uint64_t next_range(struct walk *walk, uint64_t page, bool *ret_same)
{
    const uint64_t page_count = walk->a.snapshot->image->page_count;
    bool first = true;

    while (page < page_count) {
        uint64_t a_end, b_end;
        const struct format_extent *a = extent_at(&walk->a, page, &a_end);
        const struct format_extent *b = extent_at(&walk->b, page, &b_end);
        const bool same = same_place(walk, a, b);

        if (first)
            *ret_same = same;
        else if (same != *ret_same)
            break;
        first = false;
        page = a_end < b_end ? a_end : b_end;
    }
    return page;
}

static int walk_maps(struct walk *walk, struct stasis_error *err)
{
    const uint64_t page_count = walk->a.snapshot->image->page_count;
    int r = 0;

    for (uint64_t page = 0; r == 0 && page < page_count;) {
        bool same = false;
        const uint64_t end = next_range(walk, page, &same);

        r = same ? progress_add(walk->progress, (end - page) * STASIS_PAGE_SIZE, err)
                 : compare_range(walk, page, end, err);
        page = end;
    }
    return r;
}

static int open_side(struct side *side, struct stasis_error *err)
{
    side->buf = malloc((size_t)STEP_PAGES * STASIS_PAGE_SIZE);
    if (!side->buf)
        return stasis_fail_memory(err, "pages to compare");
    return side->snapshot->codec->reader_open(side->snapshot->image, &side->reader, err);
}

static void close_side(struct side *side)
{
    side->snapshot->codec->reader_close(side->reader);
    free(side->buf);
}

int difference_walk(const struct stasis_snapshot *a, const struct stasis_snapshot *b,
                    struct progress *progress, difference_run_fn *on_run, void *arg,
                    struct stasis_error *err)
{
    struct walk walk = { .a = { .snapshot = a },
                         .b = { .snapshot = b },
                         .progress = progress,
                         .on_run = on_run,
                         .arg = arg };
    int r;

    if ((r = match_layers(&walk, err)) == 0 && (r = open_side(&walk.a, err)) == 0 &&
        (r = open_side(&walk.b, err)) == 0)
        r = walk_maps(&walk, err);
    close_side(&walk.a);
    close_side(&walk.b);
    free(walk.a_layer_of);
    return r;
}
