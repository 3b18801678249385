/*
 * flatten.c - a snapshot of any depth as one full file that stands alone.
 *
 * Every page is checked against its digest as it is read, and gets a new one in the file that is
 * written: what is damaged in the chain is an error here and not a new snapshot. The chain may be the
 * file that is replaced: it is read before it goes.
 */
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "memory/progress.h"
#include "memory/rate.h"
#include "snapshot/handle.h"

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int write_copy(const struct stasis_snapshot *source, const char *path,
                      const struct format_content *content, struct stasis_save_report *report,
                      struct stasis_error *err)
{
    const struct format_pages from = { .codec = source->codec, .image = source->image };
    const struct format_target target = { .path = path, .fd = -1 };
    const uint64_t begin_us = now_us();
    struct format_save *save = NULL;
    int r;

    if ((r = native_codec.save_begin(&target, content, &save, err)) == 0 &&
        (r = native_codec.save_copy(save, &from, err)) == 0) {
        const uint64_t memory_us = now_us() - begin_us;

        r = native_codec.save_commit(save, err);
        if (r == 0) {
            *report = save->report;
            report->memory_us = memory_us;
            report->total_us = now_us() - begin_us;
            report->writer = STASIS_WRITER_STREAMING;
        }
    }
    native_codec.save_end(save);
    return r;
}

int stasis_flatten(const struct stasis_snapshot *source, const char *path,
                   const struct stasis_copy_options *options, struct stasis_save_report *ret_report,
                   struct stasis_error *err)
{
    const struct stasis_copy_options defaults = { 0 };
    const struct stasis_copy_options *given = options ? options : &defaults;
    const struct stasis_snapshot_info *info = &source->image->info;
    struct stasis_save_report report;
    struct progress progress;
    struct rate rate;
    const struct format_content content = {
        .machine = &source->image->machine,
        .memory = &source->image->memory,
        .label = given->label ? given->label : info->label,
        .digest = given->digest ? given->digest : info->digest,
        .thread_count = job_threads(given->thread_count),
        .progress = &progress,
        .rate = &rate,
    };
    int r;

    progress_init(&progress, given->progress, given->progress_arg, info->memory_size);
    rate_init(&rate, given->rate_max, &progress);
    r = write_copy(source, path, &content, &report, err);
    rate_release(&rate);
    progress_release(&progress);
    if (r < 0)
        return stasis_wrap(err, r, "flatten to '%s'", path);
    if (ret_report)
        *ret_report = report;
    return 0;
}
