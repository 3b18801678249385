/* difference.h - which pages of two snapshots differ, without reading those that cannot. */
#ifndef STASIS_SNAPSHOT_DIFFERENCE_H
#define STASIS_SNAPSHOT_DIFFERENCE_H

#include <stdint.h>

#include <stasis/error.h>
#include <stasis/snapshot.h>

#include "memory/progress.h"

/* Neighbouring pages, linear, and how many of their bytes differ; in ascending order, at least one byte
 * in each page. Two runs may adjoin. @return 0, or a negative errno to stop with */
typedef int difference_run_fn(void *arg, uint64_t first_page, uint64_t page_count,
                              uint64_t byte_count, struct stasis_error *err);

/* STASIS_ERR_LAYOUT_MISMATCH the two are not laid out alike. */
int difference_check_layout(const struct stasis_snapshot *a, const struct stasis_snapshot *b,
                            struct stasis_error *err);

/*
 * Both snapshots must be laid out alike. Pages that both have from the same place in the same layer,
 * or that both know to be zero, are not read; all others are, through their digests. `progress` is
 * told of all bytes of memory. Errors of reading; what `on_run` stopped with.
 */
int difference_walk(const struct stasis_snapshot *a, const struct stasis_snapshot *b,
                    struct progress *progress, difference_run_fn *on_run, void *arg,
                    struct stasis_error *err);

#endif
