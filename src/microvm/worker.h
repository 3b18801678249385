/* worker.h - the thread that does a device's work outside vCPU threads, and how it is brought to rest.
 *
 *     worker_kick()             there may be work: a round begins after this call
 *     worker_hold()/let_go()    no round runs in between; for a device's reset, by vCPU threads
 *     worker_rest()/start()     the same for quiesce, which has a time limit
 *
 * A round is the device's function: it works until nothing is left to do or until worker_should_rest()
 * says that somebody waits, which it asks between two requests. What it leaves is not forgotten: the
 * end of every rest is a kick. A worker rests from worker_init() until worker_start().
 *
 * Locks: a worker has its own and never holds it during a round. Call worker_hold() and worker_rest()
 * with no lock that a round takes. */
#ifndef STASIS_MICROVM_WORKER_H
#define STASIS_MICROVM_WORKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <stasis/error.h>

typedef void worker_round_fn(void *arg);

struct worker {
    pthread_mutex_t lock;   /* all below */
    pthread_cond_t changed; /* CLOCK_MONOTONIC */
    worker_round_fn *round;
    void *arg;
    pthread_t thread;
    char name[16]; /* shows in ps */
    bool has_thread;
    bool kicked;         /* a round is due */
    bool busy;           /* a round runs */
    bool resting;        /* by worker_rest() or because it has not started */
    bool stopping;       /* the thread is to end */
    unsigned hold_count; /* worker_hold() calls not yet let go */
};

/* `name` is cut to 15 bytes. */
void worker_init(struct worker *worker, const char *name, worker_round_fn *round, void *arg);
/* Ends the thread, after the round that runs. */
void worker_release(struct worker *worker);

/* Make the thread where there is none yet, end the rest, kick. */
int worker_start(struct worker *worker, struct stasis_error *err);
/* Rest; 0 when no round runs any more, -ETIMEDOUT when one still does at `deadline_ns`
 * (CLOCK_MONOTONIC). Either way worker_start() ends it. */
int worker_rest(struct worker *worker, uint64_t deadline_ns);

void worker_hold(struct worker *worker);
void worker_let_go(struct worker *worker);
void worker_kick(struct worker *worker);
bool worker_should_rest(struct worker *worker);

/* A thread with all signals blocked: they are for the vCPU threads and the main thread. */
int thread_start(pthread_t *ret_thread, void *(*run)(void *arg), void *arg, const char *what,
                 struct stasis_error *err);

#endif
