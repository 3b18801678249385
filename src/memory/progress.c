/*
 * progress.c - counts bytes under a lock and calls back when enough have gathered.
 *
 * The callback runs with the lock held: that is what keeps it from running twice at once. It is
 * called once per PROGRESS_STEP and at the end, so workers rarely meet at the lock.
 */
#include "memory/progress.h"

#include "base/error.h"

void progress_init(struct progress *progress, stasis_progress_fn *fn, void *arg, uint64_t total)
{
    *progress = (struct progress){
        .fn = fn, .arg = arg, .total = total, .part_end = total, .part_size = total
    };
    pthread_mutex_init(&progress->lock, NULL);
}

void progress_release(struct progress *progress)
{
    pthread_mutex_destroy(&progress->lock);
}

/* Of the total. A part without bytes is done at once. */
static uint64_t done_now(const struct progress *progress)
{
    const uint64_t share = progress->part_end - progress->part_begin;

    if (progress->part_done >= progress->part_size)
        return progress->part_end;
    return progress->part_begin +
           (uint64_t)((unsigned __int128)share * progress->part_done / progress->part_size);
}

void progress_part(struct progress *progress, uint64_t size, uint64_t end)
{
    pthread_mutex_lock(&progress->lock);
    progress->part_begin = done_now(progress);
    progress->part_end = end > progress->part_begin ? end : progress->part_begin;
    progress->part_size = size;
    progress->part_done = 0;
    pthread_mutex_unlock(&progress->lock);
}

static int fail_if(bool cancelled, struct stasis_error *err)
{
    return cancelled ? stasis_fail(err, STASIS_ERR_CANCELLED, "cancelled by the caller") : 0;
}

/* The lock is held. */
static void tell(struct progress *progress, uint64_t done)
{
    progress->reported = done;
    progress->cancelled = progress->fn(progress->arg, done, progress->total) != 0;
}

int progress_add(struct progress *progress, uint64_t size, struct stasis_error *err)
{
    uint64_t done;
    bool cancelled;

    if (!progress->fn)
        return 0;

    pthread_mutex_lock(&progress->lock);
    progress->part_done += size;
    done = done_now(progress);
    if (!progress->cancelled && (done - progress->reported >= PROGRESS_STEP ||
                                 (done == progress->total && done > progress->reported)))
        tell(progress, done);
    cancelled = progress->cancelled;
    pthread_mutex_unlock(&progress->lock);
    return fail_if(cancelled, err);
}

int progress_poll(struct progress *progress, struct stasis_error *err)
{
    bool cancelled;

    if (!progress->fn)
        return 0;

    pthread_mutex_lock(&progress->lock);
    if (!progress->cancelled)
        tell(progress, done_now(progress));
    cancelled = progress->cancelled;
    pthread_mutex_unlock(&progress->lock);
    return fail_if(cancelled, err);
}
