/* rate.h - how fast memory may be written: bytes per second, shared by all workers of a job. */
#ifndef STASIS_MEMORY_RATE_H
#define STASIS_MEMORY_RATE_H

#include <pthread.h>
#include <stdint.h>

#include <stasis/error.h>

#include "memory/progress.h"

struct rate {
    uint64_t bytes_per_s; /* 0: no limit */
    struct progress *progress;
    pthread_mutex_t lock; /* for what follows */
    uint64_t free_ns;     /* CLOCK_MONOTONIC: when all that was taken so far has been paid for */
};

/* `progress` is asked while a worker waits, so that a slow save can be cancelled at once. To be given
 * back with rate_release(). */
void rate_init(struct rate *rate, uint64_t bytes_per_s, struct progress *progress);
void rate_release(struct rate *rate);

/* Wait until `size` more bytes may be written. 0, or STASIS_ERR_CANCELLED. */
int rate_take(struct rate *rate, uint64_t size, struct stasis_error *err);

#endif
