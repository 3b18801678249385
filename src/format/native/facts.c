/*
 * facts.c - the layout and meta sections of a native file, by field tables of their own.
 *
 * The layout decides which byte of the file becomes which byte of the guest, so it is checked like
 * an argument from a stranger before anything is mapped by it. Nothing hangs on meta: it is text for
 * people, and a file without it is whole.
 */
#include "format/native/facts.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <stasis/api.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "format/native/disk.h"
#include "machine/fields.h"

static const struct stasis_field region_fields[] = {
    STASIS_F(struct native_region, gpa, U64, .show = STASIS_SHOW_HEX),
    STASIS_F(struct native_region, size, U64, .unit = "bytes"),
};
static const struct stasis_table region_table = STASIS_TABLE(struct native_region, region_fields);

static const struct stasis_field layout_fields[] = {
    STASIS_F(struct native_layout, data_size, U64, .unit = "bytes"),
    STASIS_F_LIST(struct native_layout, regions, STASIS_REGION_MAX, &region_table),
};
const struct stasis_table native_layout_table = STASIS_TABLE(struct native_layout, layout_fields);

static const struct stasis_field meta_fields[] = {
    STASIS_F(struct native_meta, created_ns, S64, .unit = "ns"),
    STASIS_F_ARRAY(struct native_meta, writer, TEXT),
    STASIS_F_ARRAY(struct native_meta, label, TEXT),
};
const struct stasis_table native_meta_table = STASIS_TABLE(struct native_meta, meta_fields);

/* The field walker calls every bad value a bad machine; here it is something else. */
static int recode(struct stasis_error *err, enum stasis_code code, int result)
{
    if (result != -stasis_code_errno(STASIS_ERR_INVALID_MACHINE))
        return result;
    if (err && err->code == STASIS_ERR_INVALID_MACHINE)
        err->code = code;
    return -stasis_code_errno(code);
}

int native_layout_encode(const struct stasis_memory *memory, uint64_t data_size,
                         struct byte_buffer *out, struct stasis_error *err)
{
    auto_free struct native_region *regions = calloc(memory->region_count, sizeof(*regions));
    struct native_layout layout = { .data_size = data_size,
                                    .regions = regions,
                                    .regions_count = memory->region_count };

    if (!regions)
        return stasis_fail_memory(err, "the memory layout");
    for (size_t i = 0; i < memory->region_count; i++)
        regions[i] = (struct native_region){ .gpa = memory->regions[i].gpa,
                                             .size = memory->regions[i].size };
    return fields_encode(&native_layout_table, &layout, out, err);
}

/* To the regions that the rest of the world uses, checked. */
static int convert_layout(const struct native_layout *layout, struct stasis_memory *ret_memory,
                          struct stasis_error *err)
{
    struct stasis_memory memory = { .region_count = layout->regions_count };
    auto_free struct stasis_region *regions =
        calloc(layout->regions_count ? layout->regions_count : 1, sizeof(*regions));
    int r;

    if (!regions)
        return stasis_fail_memory(err, "the memory layout");
    for (size_t i = 0; i < layout->regions_count; i++)
        regions[i] = (struct stasis_region){ .gpa = layout->regions[i].gpa,
                                             .size = layout->regions[i].size };
    memory.regions = regions;
    r = stasis_memory_check(&memory, err);
    if (r < 0)
        return r;
    if (layout->data_size > stasis_memory_size(&memory))
        return stasis_fail(err, STASIS_ERR_INVALID_MEMORY, "%ju bytes of data in %ju of memory",
                           (uintmax_t)layout->data_size, (uintmax_t)stasis_memory_size(&memory));
    memory.regions = take_ptr(regions);
    *ret_memory = memory;
    return 0;
}

int native_layout_decode(const void *data, size_t size, struct stasis_memory *ret_memory,
                         uint64_t *ret_data_size, struct stasis_error *err)
{
    struct native_layout layout = { 0 };
    uint64_t data_size;
    int r = fields_decode(&native_layout_table, data, size, &layout, err);

    if (r < 0)
        return recode(err, STASIS_ERR_INVALID_MEMORY, r);
    data_size = layout.data_size;
    r = convert_layout(&layout, ret_memory, err);
    stasis_fields_release(&native_layout_table, &layout);
    if (r == 0)
        *ret_data_size = data_size;
    return r;
}

int native_meta_encode(const char *label, struct byte_buffer *out, struct stasis_error *err)
{
    struct native_meta meta = { .writer = "stasis " STASIS_VERSION_STRING };
    struct timespec now;

    if (strlen(label) >= sizeof(meta.label))
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the label is %zu bytes, at most %zu are accepted", strlen(label),
                           sizeof(meta.label) - 1);
    memcpy(meta.label, label, strlen(label) + 1);
    clock_gettime(CLOCK_REALTIME, &now);
    meta.created_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    return recode(err, STASIS_ERR_INVALID_ARGUMENT,
                  fields_encode(&native_meta_table, &meta, out, err));
}

int native_meta_decode(const void *data, size_t size, struct native_meta *ret_meta,
                       struct stasis_error *err)
{
    return recode(err, STASIS_ERR_CORRUPT,
                  fields_decode(&native_meta_table, data, size, ret_meta, err));
}
