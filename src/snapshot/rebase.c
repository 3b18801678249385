/*
 * rebase.c - the same snapshot as a diff on another parent.
 *
 * What goes into the new diff is every page whose bytes are not those of the new parent. Pages that both
 * have from the same layer are known to be equal and not read; so to rebase a diff on a flattened copy
 * of its parent costs what the diff and the copy have to say, and leaves the diff as small as it was.
 */
#include "snapshot/difference.h"

#include <stasis/dirty.h>

#include "base/error.h"
#include "snapshot/handle.h"

static int add_run(void *arg, uint64_t first_page, uint64_t page_count, uint64_t byte_count,
                   struct stasis_error *err)
{
    (void)byte_count;
    (void)err;
    stasis_page_set_add(arg, first_page, page_count);
    return 0;
}

static int find_changed(const struct stasis_snapshot *source, const struct stasis_snapshot *parent,
                        const struct stasis_copy_options *options, struct stasis_page_set *changed,
                        struct stasis_error *err)
{
    struct progress progress;
    int r;

    progress_init(&progress, options->progress, options->progress_arg,
                  source->image->page_count * STASIS_PAGE_SIZE);
    r = difference_walk(source, parent, &progress, add_run, changed, err);
    progress_release(&progress);
    return r;
}

/* The source's memory is mapped, and its changed pages saved as those of a guest would be. */
static int save_changed(const struct stasis_snapshot *source, const struct stasis_snapshot *parent,
                        const char *path, const struct stasis_copy_options *options,
                        const struct stasis_page_set *changed,
                        struct stasis_save_report *ret_report, struct stasis_error *err)
{
    const struct stasis_snapshot_info *info = &source->image->info;
    const struct stasis_save_options save = {
        .digest = options->digest ? options->digest : info->digest,
        .thread_count = options->thread_count,
        .label = options->label ? options->label : info->label,
        .rate_max = options->rate_max,
        .writer = STASIS_WRITER_STREAMING,
        .parent = parent,
        .changed = changed,
    };
    struct stasis_memory memory = { 0 };
    int r = stasis_restore(source, NULL, &memory, err);

    if (r < 0)
        return r;
    r = stasis_save(path, &source->image->machine, &memory, &save, ret_report, err);
    stasis_memory_unmap(&memory);
    return r;
}

int stasis_rebase(const struct stasis_snapshot *source, const struct stasis_snapshot *parent,
                  const char *path, const struct stasis_copy_options *options,
                  struct stasis_save_report *ret_report, struct stasis_error *err)
{
    const struct stasis_copy_options defaults = { 0 };
    const struct stasis_copy_options *given = options ? options : &defaults;
    struct stasis_page_set changed = { 0 };
    int r;

    if ((r = difference_check_layout(source, parent, err)) == 0 &&
        (r = stasis_page_set_init(&changed, source->image->page_count, err)) == 0 &&
        (r = find_changed(source, parent, given, &changed, err)) == 0)
        r = save_changed(source, parent, path, given, &changed, ret_report, err);
    stasis_page_set_release(&changed);
    return r < 0 ? stasis_wrap(err, r, "rebase to '%s'", path) : 0;
}
