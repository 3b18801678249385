/*
 * save_check.c - is this save one that makes sense: sound memory, a machine that could run, and, for a
 * diff, changes that are counted from the very snapshot that is named as its parent.
 *
 * The last is what keeps chains right: a diff of the wrong changes has all its digests right and
 * restores a guest that never was.
 */
#include <string.h>

#include <stasis/dirty.h>

#include "base/digest.h"
#include "base/error.h"
#include "snapshot/handle.h"
#include "snapshot/save.h"

static int check_mapped(const struct stasis_memory *memory, struct stasis_error *err)
{
    for (size_t i = 0; i < memory->region_count; i++) {
        if (!memory->regions[i].hva)
            return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                               "memory region %zu is not mapped (hva is NULL)", i);
    }
    return 0;
}

static int check_kinds(const struct stasis_save_options *options, struct stasis_error *err)
{
    if (options->digest != 0 && options->digest != STASIS_DIGEST_XXH3_128 &&
        options->digest != STASIS_DIGEST_SHA256)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "unknown digest kind %d",
                           (int)options->digest);
    if (options->writer != STASIS_WRITER_AUTO && options->writer != STASIS_WRITER_STREAMING &&
        options->writer != STASIS_WRITER_COMPACT)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "unknown writer kind %d",
                           (int)options->writer);
    return 0;
}

static int check_page_counts(const struct stasis_memory *memory,
                             const struct stasis_save_options *options, struct stasis_error *err)
{
    const uint64_t page_count = stasis_memory_size(memory) / STASIS_PAGE_SIZE;

    if (options->tracker && stasis_tracker_page_count(options->tracker) != page_count)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the tracker is for %ju pages of memory, there are %ju",
                           (uintmax_t)stasis_tracker_page_count(options->tracker),
                           (uintmax_t)page_count);
    if (options->changed && options->changed->page_count != page_count)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "the set of changed pages is for %ju pages of memory, there are %ju",
                           (uintmax_t)options->changed->page_count, (uintmax_t)page_count);
    return 0;
}

static int check_same_layout(const struct stasis_memory *memory, const struct stasis_memory *parent,
                             struct stasis_error *err)
{
    if (memory->region_count != parent->region_count)
        return stasis_fail(err, STASIS_ERR_LAYOUT_MISMATCH,
                           "memory has %zu regions, the parent's has %zu", memory->region_count,
                           parent->region_count);
    for (size_t i = 0; i < memory->region_count; i++) {
        if (memory->regions[i].gpa != parent->regions[i].gpa ||
            memory->regions[i].size != parent->regions[i].size)
            return stasis_fail(err, STASIS_ERR_LAYOUT_MISMATCH,
                               "memory region %zu is not where the parent has it", i);
    }
    return 0;
}

/* Eight digits are what people compare. */
static int fail_wrong_base(const uint8_t *base, const uint8_t *parent, struct stasis_error *err)
{
    char base_hex[STASIS_ID_SIZE * 2 + 1], parent_hex[STASIS_ID_SIZE * 2 + 1];

    digest_hex(base, STASIS_ID_SIZE, base_hex);
    digest_hex(parent, STASIS_ID_SIZE, parent_hex);
    return stasis_fail(err, STASIS_ERR_WRONG_PARENT,
                       "changes are counted from snapshot %.8s, not from the parent %.8s", base_hex,
                       parent_hex);
}

static int check_changes(const struct stasis_save_options *options, struct stasis_error *err)
{
    const uint8_t *const id = options->parent->image->info.id;
    const uint8_t *base;

    if (options->changed)
        return 0;
    if (!options->tracker)
        return stasis_fail(err, STASIS_ERR_NOT_TRACKED,
                           "a diff needs a tracker or a set of changed pages");
    base = stasis_tracker_base(options->tracker);
    if (!base)
        return stasis_fail(err, STASIS_ERR_NOT_TRACKED,
                           "changes have not been tracked since the parent was saved");
    if (memcmp(base, id, STASIS_ID_SIZE) != 0)
        return fail_wrong_base(base, id, err);
    return 0;
}

static int check_diff(const struct stasis_memory *memory, const struct stasis_save_options *options,
                      struct stasis_error *err)
{
    int r;

    if (!options->parent && options->changed)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "there are changed pages, but no parent that they differ from");
    if (!options->parent && options->full_from_parent)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "there is no parent to copy from");
    if (options->tracker && options->changed)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT,
                           "changes come from a tracker or from a set, not from both");
    if (!options->parent)
        return 0;
    if (options->parent->codec != &native_codec)
        return stasis_fail(err, STASIS_ERR_UNSUPPORTED, "a %s snapshot cannot be a parent",
                           options->parent->image->info.format);
    r = check_same_layout(memory, &options->parent->image->memory, err);
    return r < 0 ? r : check_changes(options, err);
}

int save_check(const struct stasis_machine *machine, const struct stasis_memory *memory,
               const struct stasis_save_options *options, struct stasis_error *err)
{
    int r;

    if ((r = check_kinds(options, err)) < 0 || (r = stasis_memory_check(memory, err)) < 0 ||
        (r = check_mapped(memory, err)) < 0 || (r = stasis_machine_check(machine, err)) < 0 ||
        (r = check_page_counts(memory, options, err)) < 0 ||
        (r = check_diff(memory, options, err)) < 0)
        return r;
    return 0;
}
