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
    *progress = (struct progress){ .fn = fn, .arg = arg, .total = total };
    pthread_mutex_init(&progress->lock, NULL);
}

void progress_release(struct progress *progress)
{
    pthread_mutex_destroy(&progress->lock);
}

int progress_add(struct progress *progress, uint64_t size, struct stasis_error *err)
{
    bool cancelled;

    if (!progress->fn)
        return 0;

    pthread_mutex_lock(&progress->lock);
    progress->done += size;
    if (!progress->cancelled && (progress->done - progress->reported >= PROGRESS_STEP ||
                                 progress->done == progress->total)) {
        progress->reported = progress->done;
        progress->cancelled = progress->fn(progress->arg, progress->done, progress->total) != 0;
    }
    cancelled = progress->cancelled;
    pthread_mutex_unlock(&progress->lock);

    if (cancelled)
        return stasis_fail(err, STASIS_ERR_CANCELLED, "cancelled by the caller");
    return 0;
}
