/* progress.h - how far a job of several threads has come, told to one callback.
 *
 * Keeps the promise of stasis_progress_fn: never from two threads at a time, at most about every
 * 8 MiB, `done` never goes back, and a callback that says stop stops the job. */
#ifndef STASIS_MEMORY_PROGRESS_H
#define STASIS_MEMORY_PROGRESS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <stasis/error.h>
#include <stasis/snapshot.h>

#define PROGRESS_STEP (8u * 1024 * 1024) /* bytes between two calls of the callback */

struct progress {
    stasis_progress_fn *fn; /* may be NULL */
    void *arg;
    uint64_t total;       /* bytes */
    pthread_mutex_t lock; /* for what follows, and held while fn runs */
    uint64_t done;
    uint64_t reported; /* what fn was last told */
    bool cancelled;
};

/* To be given back with progress_release(). */
void progress_init(struct progress *progress, stasis_progress_fn *fn, void *arg, uint64_t total);
void progress_release(struct progress *progress);

/* `size` more bytes are done. 0, or STASIS_ERR_CANCELLED from the moment the callback said so. */
int progress_add(struct progress *progress, uint64_t size, struct stasis_error *err);

#endif
