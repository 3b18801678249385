/* progress.h - a progress line on a terminal, for work that takes over half a second. */
#ifndef STASIS_CLI_PROGRESS_H
#define STASIS_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *verb; /* "verifying" */
    int64_t begun_ns; /* CLOCK_MONOTONIC */
    int64_t shown_ns; /* when the line was last written, 0: never */
    bool on_terminal; /* stderr is one; otherwise nothing is ever shown */
};

void progress_begin(struct progress *progress, const char *verb);
/* Whether progress_step() would show something now: for callers that must ask for the numbers
 * first. */
bool progress_is_due(const struct progress *progress);
/* A stasis_progress_fn over a struct progress. */
int progress_step(void *arg, uint64_t done, uint64_t total);
/* Wipe the line, if one was shown. */
void progress_end(struct progress *progress);

#endif
