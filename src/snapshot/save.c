/*
 * save.c - a save in its two steps: while the guest stands still, and after.
 *
 *     begin    check -> open the target -> harvest -> select -> copy, or write memory    guest stands still
 *     finish   write what was copied -> the rest -> commit -> the tracker's base is the new snapshot
 *
 * What is let through here is written as it is: a machine that could not be restored must be refused
 * while the one that it was taken from still runs.
 *
 * The dirty epoch advances only when the snapshot is on disk (D4). Until then the harvested pages are
 * held here, and every way out but the last gives them back: a page lost on one of them would be missing
 * from every diff to come.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <stasis/dirty.h>

#include "base/error.h"
#include "memory/capture.h"
#include "memory/progress.h"
#include "memory/rate.h"
#include "memory/residency.h"
#include "snapshot/handle.h"
#include "snapshot/save.h"

struct stasis_save_job {
    const struct format_codec *codec;
    struct format_save *save;
    struct capture capture;
    struct stasis_arena *arena;
    bool own_arena;
    struct stasis_tracker *tracker; /* NULL: none */
    bool harvested;                 /* the arena's changed set is to be given back on failure */
    enum stasis_writer writer;      /* what it is in the end */
    unsigned thread_count;
    struct progress progress;
    struct rate rate;
    uint64_t begin_us, memory_us; /* durations so far */
};

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* --- a job's life --- */

/* Everything but the tracker's pages, which somebody has decided about. */
static void job_free(struct stasis_save_job *job)
{
    if (job->save)
        job->codec->save_end(job->save);
    capture_release(&job->capture);
    rate_release(&job->rate);
    progress_release(&job->progress);
    if (job->own_arena)
        stasis_arena_free(job->arena);
    else if (job->arena)
        atomic_flag_clear(&job->arena->busy);
    free(job);
}

void stasis_save_abandon(struct stasis_save_job *job)
{
    if (!job)
        return;
    /* It fails only for a tracker that was disarmed meanwhile: then there is no epoch to keep. */
    if (job->harvested)
        (void)stasis_tracker_give_back(job->tracker, &job->arena->changed, NULL);
    job_free(job);
}

static int take_arena(struct stasis_save_job *job, struct stasis_arena *arena,
                      struct stasis_error *err)
{
    int r;

    if (arena) {
        if (atomic_flag_test_and_set(&arena->busy))
            return stasis_fail(err, STASIS_ERR_BUSY, "another save is using the arena");
        job->arena = arena;
        return 0;
    }
    r = stasis_arena_new(0, &job->arena, err);
    job->own_arena = r == 0;
    return r;
}

static int job_new(const struct stasis_memory *memory, const struct stasis_save_options *options,
                   struct stasis_save_job **ret_job, struct stasis_error *err)
{
    struct stasis_save_job *job = calloc(1, sizeof(*job));
    int r;

    if (!job)
        return stasis_fail_memory(err, "a save");
    job->codec = &native_codec;
    job->tracker = options->tracker;
    job->writer = options->writer == STASIS_WRITER_AUTO ? STASIS_WRITER_COMPACT : options->writer;
    job->thread_count = job_threads(options->thread_count);
    progress_init(&job->progress, options->progress, options->progress_arg,
                  stasis_memory_size(memory));
    rate_init(&job->rate, options->rate_max, &job->progress);
    r = take_arena(job, options->arena, err);
    if (r < 0) {
        job_free(job);
        return r;
    }
    *ret_job = job;
    return 0;
}

/* --- begin --- */

/* The options with the defaults in their places. */
static struct format_content complete(const struct stasis_save_job *job,
                                      const struct stasis_machine *machine,
                                      const struct stasis_memory *memory,
                                      const struct stasis_save_options *options)
{
    return (struct format_content){
        .machine = machine,
        .memory = memory,
        .label = options->label ? options->label : "",
        .digest = options->digest ? options->digest : STASIS_DIGEST_XXH3_128,
        .thread_count = job->thread_count,
        .parent = options->parent ? options->parent->image : NULL,
        .full_from_parent = options->full_from_parent,
        .progress = (struct progress *)&job->progress,
        .rate = (struct rate *)&job->rate,
    };
}

static int harvest(struct stasis_save_job *job, uint64_t page_count, struct stasis_error *err)
{
    int r;

    if (!job->tracker)
        return 0;
    if ((r = arena_changed_set(job->arena, page_count, err)) < 0 ||
        (r = stasis_tracker_harvest(job->tracker, &job->arena->changed, err)) < 0)
        return r;
    job->harvested = true;
    return 0;
}

/* All pages that the kernel has something for; the others are zero, and reading one would make it find
 * memory for it. */
static int select_resident(struct stasis_save_job *job, const struct stasis_memory *memory,
                           struct stasis_error *err)
{
    struct stasis_page_set resident = { 0 };
    int r = stasis_page_set_init(&resident, stasis_memory_size(memory) / STASIS_PAGE_SIZE, err);

    if (r == 0 && (r = residency_candidates(memory, &resident, err)) == 0)
        r = capture_select(&job->capture, memory, &resident, job->arena, err);
    stasis_page_set_release(&resident);
    return r;
}

/* Which pages the snapshot is about. */
static int select_pages(struct stasis_save_job *job, const struct stasis_memory *memory,
                        const struct stasis_save_options *options, struct stasis_error *err)
{
    if (options->parent)
        return capture_select(&job->capture, memory,
                              options->changed ? options->changed : &job->arena->changed,
                              job->arena, err);
    return options->read_all ? capture_select(&job->capture, memory, NULL, job->arena, err)
                             : select_resident(job, memory, err);
}

/* Ends with all of memory told, also of a snapshot that has no pages to be told of. */
static int write_memory(struct stasis_save_job *job, struct stasis_error *err)
{
    const struct capture *capture = &job->capture;
    int r;

    progress_part(&job->progress,
                  (capture->scanned ? capture->data_count : capture->selected_count) *
                      STASIS_PAGE_SIZE,
                  job->progress.total);
    r = job->codec->save_memory(job->save, &job->capture, err);
    return r < 0 ? r : progress_add(&job->progress, 0, err);
}

static uint64_t copy_max(const struct stasis_save_options *options)
{
    if (options->compact_max != 0)
        return options->compact_max;
    return options->writer == STASIS_WRITER_AUTO ? STASIS_COMPACT_MAX_DEFAULT : UINT64_MAX;
}

/* Copy what the snapshot needs, or become a streaming save. */
static int try_copy(struct stasis_save_job *job, const struct stasis_save_options *options,
                    struct stasis_error *err)
{
    bool fits;
    int r;

    progress_part(&job->progress, job->capture.selected_count * STASIS_PAGE_SIZE,
                  job->progress.total / 2);
    r = capture_copy(&job->capture, job->arena, copy_max(options), job->thread_count,
                     &job->progress, &fits, err);
    if (r == 0 && !fits)
        job->writer = STASIS_WRITER_STREAMING;
    return r;
}

/* The data of a diff must be counted before any of it can be placed; that of a full file need not. */
static int stream(struct stasis_save_job *job, const struct stasis_save_options *options,
                  struct stasis_error *err)
{
    int r = 0;

    if (options->parent) {
        progress_part(&job->progress, job->capture.selected_count * STASIS_PAGE_SIZE,
                      job->progress.total / 2);
        r = capture_scan(&job->capture, job->thread_count, &job->progress, err);
    }
    return r < 0 ? r : write_memory(job, err);
}

static int take_memory(struct stasis_save_job *job, const struct stasis_memory *memory,
                       const struct stasis_save_options *options, struct stasis_error *err)
{
    const uint64_t begin_us = now_us();
    int r = select_pages(job, memory, options, err);

    if (r == 0 && job->writer == STASIS_WRITER_COMPACT)
        r = try_copy(job, options, err);
    if (r == 0 && job->writer == STASIS_WRITER_STREAMING)
        r = stream(job, options, err);
    job->memory_us = now_us() - begin_us;
    return r;
}

static int begin(const struct format_target *target, const struct stasis_machine *machine,
                 const struct stasis_memory *memory, const struct stasis_save_options *options,
                 struct stasis_save_job **ret_job, struct stasis_error *err)
{
    const uint64_t begin_us = now_us();
    struct stasis_save_job *job = NULL;
    struct format_content content;
    int r;

    if ((r = save_check(machine, memory, options, err)) < 0 ||
        (r = job_new(memory, options, &job, err)) < 0)
        return r;
    content = complete(job, machine, memory, options);
    if ((r = job->codec->save_begin(target, &content, &job->save, err)) < 0 ||
        (r = harvest(job, stasis_memory_size(memory) / STASIS_PAGE_SIZE, err)) < 0 ||
        (r = take_memory(job, memory, options, err)) < 0) {
        stasis_save_abandon(job);
        return r;
    }
    job->begin_us = now_us() - begin_us;
    *ret_job = job;
    return 0;
}

static const struct stasis_save_options defaults;

int stasis_save_begin(const char *path, const struct stasis_machine *machine,
                      const struct stasis_memory *memory, const struct stasis_save_options *options,
                      struct stasis_save_job **ret_job, struct stasis_error *err)
{
    const struct format_target target = { .path = path, .fd = -1 };
    const int r = begin(&target, machine, memory, options ? options : &defaults, ret_job, err);

    return r < 0 ? stasis_wrap(err, r, "save '%s'", path) : 0;
}

int stasis_save_begin_fd(int fd, const struct stasis_machine *machine,
                         const struct stasis_memory *memory,
                         const struct stasis_save_options *options,
                         struct stasis_save_job **ret_job, struct stasis_error *err)
{
    const struct format_target target = { .fd = fd };
    const int r = begin(&target, machine, memory, options ? options : &defaults, ret_job, err);

    return r < 0 ? stasis_wrap(err, r, "save") : 0;
}

/* --- finish --- */

static struct stasis_save_report make_report(const struct stasis_save_job *job,
                                             uint64_t finish_begin_us)
{
    struct stasis_save_report report = job->save->report;

    report.begin_us = job->begin_us;
    report.memory_us = job->memory_us;
    report.total_us = job->begin_us + (now_us() - finish_begin_us);
    report.writer = job->writer;
    return report;
}

int stasis_save_finish(struct stasis_save_job *job, struct stasis_save_report *ret_report,
                       struct stasis_error *err)
{
    const uint64_t begin_us = now_us();
    int r = 0;

    if (job->writer == STASIS_WRITER_COMPACT) {
        r = write_memory(job, err);
        job->memory_us += now_us() - begin_us;
    }
    if (r == 0)
        r = job->codec->save_commit(job->save, err);
    if (r < 0) {
        stasis_save_abandon(job);
        return stasis_wrap(err, r, "save");
    }
    if (job->tracker)
        stasis_tracker_set_base(job->tracker, job->save->report.id);
    if (ret_report)
        *ret_report = make_report(job, begin_us);
    job_free(job);
    return 0;
}

/* --- both at once --- */

/* Nobody waits for the guest between the steps: a copy would only be work. */
static struct stasis_save_options in_one_step(const struct stasis_save_options *options)
{
    struct stasis_save_options one_step = options ? *options : defaults;

    if (one_step.writer == STASIS_WRITER_AUTO)
        one_step.writer = STASIS_WRITER_STREAMING;
    return one_step;
}

int stasis_save(const char *path, const struct stasis_machine *machine,
                const struct stasis_memory *memory, const struct stasis_save_options *options,
                struct stasis_save_report *ret_report, struct stasis_error *err)
{
    const struct stasis_save_options one_step = in_one_step(options);
    struct stasis_save_job *job = NULL;
    int r = stasis_save_begin(path, machine, memory, &one_step, &job, err);

    return r < 0 ? r : stasis_save_finish(job, ret_report, err);
}

int stasis_save_fd(int fd, const struct stasis_machine *machine, const struct stasis_memory *memory,
                   const struct stasis_save_options *options, struct stasis_save_report *ret_report,
                   struct stasis_error *err)
{
    const struct stasis_save_options one_step = in_one_step(options);
    struct stasis_save_job *job = NULL;
    int r = stasis_save_begin_fd(fd, machine, memory, &one_step, &job, err);

    return r < 0 ? r : stasis_save_finish(job, ret_report, err);
}
