/*
 * compare.c - what differs between two snapshots: machine state by field, memory by page and byte.
 *
 * The cost follows what differs: memory that both have from the same layer is not looked at. A broken
 * file is an error here and never a difference.
 */
#include "base/error.h"
#include "memory/layout.h"
#include "snapshot/difference.h"
#include "snapshot/handle.h"

struct comparison {
    const struct stasis_memory *layout;
    const struct stasis_compare_options *options;
    struct stasis_compare_report *report;
};

/* Told region by region, for people think in guest addresses. */
static int count_run(void *arg, uint64_t first_page, uint64_t page_count, uint64_t byte_count,
                     struct stasis_error *err)
{
    const struct comparison *comparison = arg;
    const struct stasis_compare_options *options = comparison->options;
    uint64_t linear = first_page * STASIS_PAGE_SIZE;
    uint64_t left = page_count * STASIS_PAGE_SIZE;

    comparison->report->pages_different += page_count;
    comparison->report->bytes_different += byte_count;
    while (left > 0 && options->on_memory) {
        const struct layout_place place = layout_locate(comparison->layout, linear);
        const uint64_t part = place.size_left < left ? place.size_left : left;
        const struct stasis_memory_difference difference = { .gpa = place.gpa, .size = part };

        if (options->on_memory(options->arg, &difference) != 0)
            return stasis_fail(err, STASIS_ERR_CANCELLED, "cancelled by the caller");
        linear += part;
        left -= part;
    }
    return 0;
}

static int compare_memory(const struct stasis_snapshot *a, const struct stasis_snapshot *b,
                          struct comparison *comparison, struct stasis_error *err)
{
    const struct stasis_compare_options *options = comparison->options;
    const uint64_t size = a->image->page_count * STASIS_PAGE_SIZE;
    struct progress progress;
    int r;

    comparison->report->pages_compared = a->image->page_count;
    progress_init(&progress, options->progress, options->progress_arg, size);
    r = difference_walk(a, b, &progress, count_run, comparison, err);
    progress_release(&progress);
    return r;
}

int stasis_compare(const struct stasis_snapshot *a, const struct stasis_snapshot *b,
                   const struct stasis_compare_options *options,
                   struct stasis_compare_report *ret_report, struct stasis_error *err)
{
    const struct stasis_compare_options defaults = { 0 };
    struct stasis_compare_report report = { 0 };
    struct comparison comparison = { .layout = &a->image->memory,
                                     .options = options ? options : &defaults,
                                     .report = &report };
    int r;

    if ((r = difference_check_layout(a, b, err)) < 0 ||
        (r = stasis_machine_compare(&a->image->machine, &b->image->machine,
                                    comparison.options->flags, comparison.options->on_field,
                                    comparison.options->arg, &report.fields_different, err)) < 0 ||
        (r = compare_memory(a, b, &comparison, err)) < 0)
        return stasis_wrap(err, r, "compare");
    *ret_report = report;
    return 0;
}
