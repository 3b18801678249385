/* progress.h - how far a job of several threads has come, told to one callback.
 *
 * Keeps the promise of stasis_progress_fn: never from two threads at a time, at most about every
 * 8 MiB (or every so often while a job waits), `done` never goes back, and a callback that says stop
 * stops the job.
 *
 * A job may go over its bytes in parts, one after the other, copying and then writing: each part then
 * moves `done` on by its own share.
 *
 *     done     0 ......... half ......... total
 *     part     |  copying   |   writing   |         progress_part(p, copied bytes, total / 2), ... */
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
    uint64_t part_begin;  /* what was done when the part began */
    uint64_t part_end;    /* what is when the part is */
    uint64_t part_size;   /* bytes that the part adds, one way or the other */
    uint64_t part_done;   /* of them */
    uint64_t reported;    /* what fn was last told */
    bool cancelled;
};

/* One part of `total` bytes. To be given back with progress_release(). */
void progress_init(struct progress *progress, stasis_progress_fn *fn, void *arg, uint64_t total);
void progress_release(struct progress *progress);

/* From here on `size` bytes will be added until `end`, of the total, is done; a part that was left
 * early counts for what it had done. */
void progress_part(struct progress *progress, uint64_t size, uint64_t end);

/* `size` more bytes are done. 0, or STASIS_ERR_CANCELLED from the moment the callback said so. */
int progress_add(struct progress *progress, uint64_t size, struct stasis_error *err);

/* Nothing more is done; ask whether to go on all the same. As progress_add(). */
int progress_poll(struct progress *progress, struct stasis_error *err);

#endif
