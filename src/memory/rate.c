/*
 * rate.c - one line of debt that every worker pays into: the bytes it takes push the moment on at
 * which the next may begin.
 *
 * A worker that has taken waits for its own bytes to be paid for, outside the lock, in short naps: what
 * it waits for may be minutes away, and a user who cancels does not wait for minutes.
 */
#include "memory/rate.h"

#include <time.h>

#define NAP_NS UINT64_C(20000000) /* between two looks at whether the job was cancelled */
#define SECOND_NS UINT64_C(1000000000)

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

void rate_init(struct rate *rate, uint64_t bytes_per_s, struct progress *progress)
{
    *rate = (struct rate){ .bytes_per_s = bytes_per_s, .progress = progress };
    pthread_mutex_init(&rate->lock, NULL);
}

void rate_release(struct rate *rate)
{
    pthread_mutex_destroy(&rate->lock);
}

/* Nothing is saved up while nobody writes: a job that was held up does not catch up in one burst. */
static uint64_t pay(struct rate *rate, uint64_t size)
{
    const uint64_t begin_ns = now_ns();
    uint64_t paid_ns;

    pthread_mutex_lock(&rate->lock);
    if (rate->free_ns < begin_ns)
        rate->free_ns = begin_ns;
    rate->free_ns += (uint64_t)((unsigned __int128)size * SECOND_NS /
                                rate->bytes_per_s); /* slabs: far below 2^64 */
    paid_ns = rate->free_ns;
    pthread_mutex_unlock(&rate->lock);
    return paid_ns;
}

int rate_take(struct rate *rate, uint64_t size, struct stasis_error *err)
{
    uint64_t paid_ns;

    if (rate->bytes_per_s == 0)
        return 0;
    paid_ns = pay(rate, size);
    for (uint64_t now = now_ns(); now < paid_ns; now = now_ns()) {
        const uint64_t left_ns = paid_ns - now;
        const struct timespec nap = { .tv_nsec = (long)(left_ns < NAP_NS ? left_ns : NAP_NS) };
        const int r = progress_poll(rate->progress, err);

        if (r < 0)
            return r;
        clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
    }
    return 0;
}
