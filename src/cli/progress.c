/*
 * progress.c - the progress line.
 *
 * Written to stderr and only when that is a terminal; first after half a second, then at most ten
 * times a second, so short work stays silent and long work costs nothing. Whoever begins a line
 * must end it, or what is said next is written over it.
 */
#include "cli/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define FIRST_AFTER_NS 500000000
#define EVERY_NS 100000000

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void progress_begin(struct progress *progress, const char *verb)
{
    *progress = (struct progress){ .verb = verb,
                                   .begun_ns = now_ns(),
                                   .on_terminal = isatty(STDERR_FILENO) == 1 };
}

bool progress_is_due(const struct progress *progress)
{
    const int64_t now = now_ns();

    return progress->on_terminal && now - progress->begun_ns >= FIRST_AFTER_NS &&
           now - progress->shown_ns >= EVERY_NS;
}

int progress_step(void *arg, uint64_t done, uint64_t total)
{
    struct progress *progress = arg;

    if (!progress_is_due(progress))
        return 0;
    progress->shown_ns = now_ns();
    fprintf(stderr, "\r%s: %3u%% of %llu MiB, %.0f s", progress->verb,
            total ? (unsigned)((double)done / (double)total * 100) : 100u,
            (unsigned long long)(total >> 20),
            (double)(progress->shown_ns - progress->begun_ns) / 1e9);
    fflush(stderr);
    return 0;
}

void progress_end(struct progress *progress)
{
    if (progress->shown_ns != 0)
        fprintf(stderr, "\r\033[K");
    progress->shown_ns = 0;
}
