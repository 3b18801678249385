/* pool.h - a pool of worker threads that share one numbered list of slabs.
 *
 *     pool_run(threads, slab_count, work, arg, err)
 *
 * Workers take slabs 0, 1, 2, ... in order; the caller works too, so one thread means no thread is
 * created. The first failure (lowest slab number among those that failed) is the one reported, the
 * rest of the slabs are not begun. */
#ifndef STASIS_BASE_POOL_H
#define STASIS_BASE_POOL_H

#include <stdint.h>

#include <stasis/error.h>

/* Work on one slab; `worker` is 0..thread_count-1, for buffers per worker. 0 or a negative errno. */
typedef int pool_work_fn(void *arg, unsigned worker, uint64_t slab, struct stasis_error *err);

/* 0, or the result of the failed slab; when threads cannot be created, fewer do the work. */
int pool_run(unsigned thread_count, uint64_t slab_count, pool_work_fn *work, void *arg,
             struct stasis_error *err);

/* Online CPUs, at most `limit`, at least 1. */
unsigned pool_default_threads(unsigned limit);

#endif
