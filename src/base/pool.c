/*
 * pool.c - a pool of worker threads that share one numbered list of slabs.
 *
 * One counter hands out slabs; who takes which is chance, so work that writes its result to the
 * slab's own place gives the same output whatever the number of threads (D6). The mutex guards
 * only the failure that will be reported.
 *
 * Slabs are handed out in ascending order, so when one fails all lower ones have been begun and are
 * finished before pool_run() returns: the lowest failure is known, not a matter of who was first.
 */
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"

#define THREAD_MAX 256

struct pool {
    pool_work_fn *work;
    void *arg;
    uint64_t slab_count;
    atomic_uint_fast64_t next_slab; /* stays below 2^64: see take_slab() */
    atomic_bool stop;
    pthread_mutex_t lock; /* guards the rest */
    int result;           /* 0, or of failed_slab */
    uint64_t failed_slab;
    struct stasis_error error;
};

struct worker {
    struct pool *pool;
    unsigned index;
    pthread_t thread;
};

/* Compare and swap, not add: the counter never runs past slab_count, whatever that is. */
static bool take_slab(struct pool *pool, uint64_t *ret_slab)
{
    uint_fast64_t slab = atomic_load(&pool->next_slab);

    do {
        if (slab >= pool->slab_count || atomic_load(&pool->stop))
            return false;
    } while (!atomic_compare_exchange_weak(&pool->next_slab, &slab, slab + 1));
    *ret_slab = slab;
    return true;
}

static void note_failure(struct pool *pool, uint64_t slab, int result,
                         const struct stasis_error *error)
{
    atomic_store(&pool->stop, true);
    pthread_mutex_lock(&pool->lock);
    if (pool->result == 0 || slab < pool->failed_slab) {
        pool->result = result;
        pool->failed_slab = slab;
        pool->error = *error;
    }
    pthread_mutex_unlock(&pool->lock);
}

static void work_off(struct pool *pool, unsigned index)
{
    uint64_t slab;

    while (take_slab(pool, &slab)) {
        struct stasis_error error;
        int result;

        error.code = STASIS_OK;
        error.errnum = 0;
        error.text[0] = '\0';
        result = pool->work(pool->arg, index, slab, &error);
        if (result != 0)
            note_failure(pool, slab, result, &error);
    }
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;

    work_off(worker->pool, worker->index);
    return NULL;
}

/*
 * Starts up to `count` workers with numbers from 1 and returns how many there are. They get no
 * signals: those belong to the program that we are a library in.
 */
static unsigned start_workers(struct pool *pool, struct worker *workers, unsigned count)
{
    sigset_t all, before;
    unsigned started = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; started < count; started++) {
        struct worker *worker = &workers[started];

        worker->pool = pool;
        worker->index = started + 1;
        if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

static unsigned useful_threads(unsigned thread_count, uint64_t slab_count)
{
    if (thread_count > THREAD_MAX)
        thread_count = THREAD_MAX;
    if (thread_count > slab_count)
        thread_count = (unsigned)slab_count;
    return thread_count > 1 ? thread_count : 1;
}

int pool_run(unsigned thread_count, uint64_t slab_count, pool_work_fn *work, void *arg,
             struct stasis_error *err)
{
    struct pool pool = { .work = work, .arg = arg, .slab_count = slab_count };
    const unsigned helper_count = useful_threads(thread_count, slab_count) - 1;
    auto_free struct worker *workers = helper_count ? calloc(helper_count, sizeof(*workers)) : NULL;
    unsigned started;

    pthread_mutex_init(&pool.lock, NULL);
    started = workers ? start_workers(&pool, workers, helper_count) : 0;
    work_off(&pool, 0);
    for (unsigned i = 0; i < started; i++)
        pthread_join(workers[i].thread, NULL);
    pthread_mutex_destroy(&pool.lock);
    if (pool.result != 0 && err)
        *err = pool.error;
    return pool.result;
}

unsigned pool_default_threads(unsigned limit)
{
    cpu_set_t set;
    long count = 0;

    /* Fewer than are online when the process is pinned; with over 1024 CPUs the call fails. */
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        count = CPU_COUNT(&set);
    if (count <= 0)
        count = sysconf(_SC_NPROCESSORS_ONLN);
    if (count <= 0 || limit == 0)
        return 1;
    return (unsigned long)count < limit ? (unsigned)count : limit;
}
