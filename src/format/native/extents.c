/*
 * extents.c - a diff's map of memory: put together, as bytes, and back.
 *
 * extents_decode() is the gate: behind it, extents index layers and offset into their memory without
 * another look. A hole in it is a guest that gets another page than it had, or a read out of bounds.
 */
#include "format/native/extents.h"

#include <assert.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"

#define CAPACITY_MIN 64

void extent_list_release(struct extent_list *list)
{
    free(list->extents);
    *list = (struct extent_list){ 0 };
}

static bool goes_on(const struct format_extent *last, const struct format_extent *next)
{
    if (last->kind != next->kind || last->layer != next->layer)
        return false;
    return last->kind == FORMAT_EXTENT_ZERO ||
           next->offset == last->offset + (next->first_page - last->first_page);
}

static bool make_room(struct extent_list *list)
{
    const size_t capacity = list->capacity ? list->capacity * 2 : CAPACITY_MIN;
    struct format_extent *larger;

    if (list->count < list->capacity)
        return true;
    larger = reallocarray(list->extents, capacity, sizeof(*larger));
    if (!larger)
        return false;
    list->extents = larger;
    list->capacity = capacity;
    return true;
}

void extent_list_add(struct extent_list *list, const struct format_extent *extent)
{
    if (list->failed || (list->count > 0 && goes_on(&list->extents[list->count - 1], extent)))
        return;
    if (!make_room(list)) {
        list->failed = true;
        return;
    }
    list->extents[list->count++] = *extent;
}

void extent_list_add_range(struct extent_list *list, const struct format_image *image,
                           uint64_t first_page, uint64_t end_page, uint32_t layer_shift)
{
    size_t i = format_extent_find(image, first_page);

    for (uint64_t page = first_page; page < end_page; page = format_extent_end(image, i++)) {
        struct format_extent extent = image->extents[i];

        if (extent.kind == FORMAT_EXTENT_DATA) {
            extent.offset += page - extent.first_page;
            extent.layer += layer_shift;
        }
        extent.first_page = page;
        extent_list_add(list, &extent);
    }
}

int extents_encode(const struct format_extent *extents, size_t count, struct byte_buffer *out,
                   struct stasis_error *err)
{
    struct byte_writer writer;
    uint8_t *data;
    size_t size;

    if (__builtin_mul_overflow(count, NATIVE_EXTENT_SIZE, &size) || size > out->size_max)
        return stasis_fail(err, STASIS_ERR_LIMIT, "%zu extents are more than a file takes", count);
    data = byte_buffer_extend(out, size);
    if (!data)
        return stasis_fail_memory(err, "the map of memory");
    byte_writer_init(&writer, data, size);
    for (size_t i = 0; i < count; i++) {
        byte_writer_u64(&writer, extents[i].first_page);
        byte_writer_u64(&writer, extents[i].offset);
        byte_writer_u32(&writer, extents[i].layer);
        byte_writer_u32(&writer, extents[i].kind);
    }
    assert(!writer.failed);
    return 0;
}

/* What must be known to judge an extent. */
struct map_check {
    uint64_t page_count;
    uint64_t packed_count; /* pages of layer 0 */
    uint64_t packed_next;  /* the next of them that must turn up */
    const struct native_layers *layers;
};

static int check_data(struct map_check *check, const struct format_extent *extent, uint64_t count,
                      size_t index, struct stasis_error *err)
{
    const struct native_layer *layer;
    uint64_t end;

    if (__builtin_add_overflow(extent->offset, count, &end) || extent->layer > check->layers->count)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "extent %zu: no layer has these pages", index);
    if (extent->layer == 0) {
        if (extent->offset != check->packed_next || end > check->packed_count)
            return stasis_fail(err, STASIS_ERR_CORRUPT,
                               "extent %zu: out of the order of the packed pages", index);
        check->packed_next = end;
        return 0;
    }
    layer = &check->layers->items[extent->layer - 1];
    if (end > layer->memory_size / STASIS_PAGE_SIZE)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "extent %zu: beyond the memory of layer %u",
                           index, extent->layer);
    if (layer->kind == NATIVE_KIND_FULL && extent->offset != extent->first_page)
        return stasis_fail(err, STASIS_ERR_CORRUPT,
                           "extent %zu: not at its own place in flat layer %u", index,
                           extent->layer);
    return 0;
}

static int check_extent(struct map_check *check, const struct format_extent *extents, size_t index,
                        uint64_t end_page, struct stasis_error *err)
{
    const struct format_extent *extent = &extents[index];

    if (extent->first_page >= end_page || (index == 0 && extent->first_page != 0))
        return stasis_fail(err, STASIS_ERR_CORRUPT, "extent %zu: not in its place", index);
    if (index > 0 && goes_on(&extents[index - 1], extent))
        return stasis_fail(err, STASIS_ERR_CORRUPT, "extent %zu only goes on with the one before",
                           index);
    if (extent->kind == FORMAT_EXTENT_ZERO) {
        if (extent->offset != 0 || extent->layer != 0)
            return stasis_fail(err, STASIS_ERR_CORRUPT, "extent %zu: zeros from somewhere", index);
        return 0;
    }
    if (extent->kind != FORMAT_EXTENT_DATA)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "extent %zu: unknown kind %u", index,
                           extent->kind);
    return check_data(check, extent, end_page - extent->first_page, index, err);
}

static void decode_extents(const uint8_t *data, size_t size, struct format_extent *extents,
                           size_t count)
{
    struct byte_reader reader;

    byte_reader_init(&reader, data, size);
    for (size_t i = 0; i < count; i++) {
        extents[i].first_page = byte_reader_u64(&reader);
        extents[i].offset = byte_reader_u64(&reader);
        extents[i].layer = byte_reader_u32(&reader);
        extents[i].kind = byte_reader_u32(&reader);
    }
}

int extents_decode(const uint8_t *data, size_t size, uint64_t page_count, uint64_t packed_count,
                   const struct native_layers *layers, struct format_extent **ret_extents,
                   size_t *ret_count, struct stasis_error *err)
{
    struct map_check check = { .page_count = page_count,
                               .packed_count = packed_count,
                               .layers = layers };
    const size_t count = size / NATIVE_EXTENT_SIZE;
    auto_free struct format_extent *extents = NULL;
    int r = 0;

    if (count == 0 || size % NATIVE_EXTENT_SIZE != 0)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "%zu bytes are not whole extents", size);
    extents = calloc(count, sizeof(*extents));
    if (!extents)
        return stasis_fail_memory(err, "the map of memory");
    decode_extents(data, size, extents, count);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = check_extent(&check, extents, i, i + 1 < count ? extents[i + 1].first_page : page_count,
                         err);
    if (r < 0)
        return r;
    if (check.packed_next != packed_count)
        return stasis_fail(err, STASIS_ERR_CORRUPT, "%ju packed pages are in no extent",
                           (uintmax_t)(packed_count - check.packed_next));
    *ret_extents = take_ptr(extents);
    *ret_count = count;
    return 0;
}
