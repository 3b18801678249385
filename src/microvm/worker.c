/*
 * worker.c - the thread that does a device's work outside vCPU threads, and how it is brought to rest.
 *
 * It knows nothing of devices: one mutex, one condition, a few flags. If it is wrong, a snapshot is
 * taken while a disk request is half done (lost or done twice after the restore), or a guest waits
 * for ever for a request whose kick was dropped.
 */
#include "microvm/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#include "base/error.h"

#define NS_PER_S UINT64_C(1000000000)

static bool must_wait(const struct worker *worker)
{
    return !worker->kicked || worker->resting || worker->hold_count > 0;
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;

    pthread_setname_np(pthread_self(), worker->name);
    pthread_mutex_lock(&worker->lock);
    while (!worker->stopping) {
        if (must_wait(worker)) {
            pthread_cond_wait(&worker->changed, &worker->lock);
            continue;
        }
        worker->kicked = false;
        worker->busy = true;
        pthread_mutex_unlock(&worker->lock);

        worker->round(worker->arg);

        pthread_mutex_lock(&worker->lock);
        worker->busy = false;
        pthread_cond_broadcast(&worker->changed);
    }
    pthread_mutex_unlock(&worker->lock);
    return NULL;
}

void worker_init(struct worker *worker, const char *name, worker_round_fn *round, void *arg)
{
    pthread_condattr_t attr;

    *worker = (struct worker){ .round = round, .arg = arg, .resting = true };
    snprintf(worker->name, sizeof(worker->name), "%s", name);
    pthread_mutex_init(&worker->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&worker->changed, &attr);
    pthread_condattr_destroy(&attr);
}

void worker_release(struct worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    worker->stopping = true;
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->lock);

    if (worker->has_thread)
        pthread_join(worker->thread, NULL);
    pthread_cond_destroy(&worker->changed);
    pthread_mutex_destroy(&worker->lock);
}

int worker_start(struct worker *worker, struct stasis_error *err)
{
    int r = 0;

    pthread_mutex_lock(&worker->lock);
    if (!worker->has_thread) {
        r = thread_start(&worker->thread, worker_main, worker, worker->name, err);
        worker->has_thread = r == 0;
    }
    if (r == 0) {
        worker->resting = false;
        worker->kicked = true;
        pthread_cond_broadcast(&worker->changed);
    }
    pthread_mutex_unlock(&worker->lock);
    return r;
}

int worker_rest(struct worker *worker, uint64_t deadline_ns)
{
    const struct timespec deadline = { .tv_sec = (time_t)(deadline_ns / NS_PER_S),
                                       .tv_nsec = (long)(deadline_ns % NS_PER_S) };
    int r = 0;

    pthread_mutex_lock(&worker->lock);
    worker->resting = true;
    while (worker->busy && r == 0)
        r = pthread_cond_timedwait(&worker->changed, &worker->lock, &deadline);
    r = worker->busy ? -ETIMEDOUT : 0;
    pthread_mutex_unlock(&worker->lock);
    return r;
}

void worker_hold(struct worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    worker->hold_count++;
    while (worker->busy)
        pthread_cond_wait(&worker->changed, &worker->lock);
    pthread_mutex_unlock(&worker->lock);
}

void worker_let_go(struct worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    worker->hold_count--;
    worker->kicked = true;
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->lock);
}

void worker_kick(struct worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    worker->kicked = true;
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->lock);
}

bool worker_should_rest(struct worker *worker)
{
    bool wanted;

    pthread_mutex_lock(&worker->lock);
    wanted = worker->resting || worker->hold_count > 0 || worker->stopping;
    pthread_mutex_unlock(&worker->lock);
    return wanted;
}

int thread_start(pthread_t *ret_thread, void *(*run)(void *arg), void *arg, const char *what,
                 struct stasis_error *err)
{
    sigset_t all, before;
    pthread_t thread;
    int r;

    /* A new thread inherits the mask, so nothing can be delivered to it even at its very start. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0) {
        errno = r;
        return stasis_fail_errno(err, "start the thread of %s", what);
    }
    *ret_thread = thread;
    return 0;
}
