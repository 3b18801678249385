/* test_pool.c - worker threads that share one list of slabs.
 *
 * Goal:   each slab is worked on once, the lowest failure is the one reported, and the number of
 *         threads changes neither.
 * Method: counts per slab under 1 to 16 threads; failures timed against each other by semaphores. */
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/error.h"
#include "base/pool.h"

#define SLAB_COUNT 1000

struct tally {
    atomic_uint visits[SLAB_COUNT];
    atomic_uint workers_seen[16];
    unsigned thread_count;
    atomic_bool worker_beyond_range;
};

static int count_visit(void *arg, unsigned worker, uint64_t slab, struct stasis_error *err)
{
    struct tally *tally = arg;

    (void)err;
    if (worker >= tally->thread_count)
        atomic_store(&tally->worker_beyond_range, true);
    else
        atomic_fetch_add(&tally->workers_seen[worker], 1);
    atomic_fetch_add(&tally->visits[slab], 1);
    return 0;
}

static void each_slab_is_worked_on_once(void **state)
{
    (void)state;
    for (unsigned threads = 1; threads <= 16; threads++) {
        static struct tally tally;
        struct stasis_error err = { 0 };

        memset(&tally, 0, sizeof(tally));
        tally.thread_count = threads;
        assert_stasis_ok(pool_run(threads, SLAB_COUNT, count_visit, &tally, &err), &err);
        for (unsigned i = 0; i < SLAB_COUNT; i++)
            assert_int_equal(atomic_load(&tally.visits[i]), 1);
        assert_false(atomic_load(&tally.worker_beyond_range));
    }
}

static int note_thread(void *arg, unsigned worker, uint64_t slab, struct stasis_error *err)
{
    (void)slab;
    (void)err;
    assert_int_equal(worker, 0);
    *(pthread_t *)arg = pthread_self();
    return 0;
}

static void one_thread_is_the_callers_own(void **state)
{
    pthread_t seen = 0;

    (void)state;
    assert_int_equal(pool_run(1, 3, note_thread, &seen, NULL), 0);
    assert_true(pthread_equal(seen, pthread_self()));
    seen = 0;
    assert_int_equal(pool_run(0, 3, note_thread, &seen, NULL), 0); /* none asked for: still done */
    assert_true(pthread_equal(seen, pthread_self()));
    seen = 0;
    assert_int_equal(pool_run(8, 1, note_thread, &seen, NULL), 0); /* no more threads than slabs */
    assert_true(pthread_equal(seen, pthread_self()));
}

static void no_slabs_is_no_work(void **state)
{
    struct stasis_error err = { .text = "as before" };

    (void)state;
    assert_int_equal(pool_run(4, 0, count_visit, NULL, &err), 0);
    assert_string_equal(err.text, "as before");
}

/* The workers meet: each slab waits until as many as there are workers have been begun. */
struct meeting {
    pthread_barrier_t barrier;
};

static int meet(void *arg, unsigned worker, uint64_t slab, struct stasis_error *err)
{
    struct meeting *meeting = arg;

    (void)worker;
    (void)slab;
    (void)err;
    pthread_barrier_wait(&meeting->barrier);
    return 0;
}

static void workers_work_at_the_same_time(void **state)
{
    struct meeting meeting;

    (void)state;
    pthread_barrier_init(&meeting.barrier, NULL, 4);
    assert_int_equal(pool_run(4, 4, meet, &meeting, NULL), 0); /* would hang with fewer */
    pthread_barrier_destroy(&meeting.barrier);
}

struct race {
    sem_t high_failed;
    atomic_uint begun;
};

/* Slab 3 fails first; slab 1, begun before, fails only after that. */
static int fail_high_then_low(void *arg, unsigned worker, uint64_t slab, struct stasis_error *err)
{
    struct race *race = arg;

    (void)worker;
    atomic_fetch_add(&race->begun, 1);
    if (slab == 3) {
        sem_post(&race->high_failed);
        return stasis_fail(err, STASIS_ERR_NO_SPACE, "slab 3");
    }
    if (slab == 1) {
        sem_wait(&race->high_failed);
        return stasis_fail(err, STASIS_ERR_IO, "slab 1");
    }
    return 0;
}

static void the_lowest_failed_slab_is_reported(void **state)
{
    struct stasis_error err = { 0 };
    struct race race;

    (void)state;
    sem_init(&race.high_failed, 0, 0);
    atomic_init(&race.begun, 0);
    assert_int_equal(pool_run(2, SLAB_COUNT, fail_high_then_low, &race, &err), -EIO);
    assert_int_equal(err.code, STASIS_ERR_IO);
    assert_string_equal(err.text, "slab 1");
    sem_destroy(&race.high_failed);
}

static int fail_at_10(void *arg, unsigned worker, uint64_t slab, struct stasis_error *err)
{
    (void)worker;
    atomic_fetch_add((atomic_uint *)arg, 1);
    return slab == 10 ? stasis_fail(err, STASIS_ERR_CANCELLED, "enough") : 0;
}

static void nothing_is_begun_after_a_failure(void **state)
{
    struct stasis_error err = { 0 };
    atomic_uint begun = 0;

    (void)state;
    assert_stasis_fails(pool_run(1, SLAB_COUNT, fail_at_10, &begun, &err), &err,
                        STASIS_ERR_CANCELLED);
    assert_int_equal(atomic_load(&begun), 11);
    assert_int_equal(pool_run(4, SLAB_COUNT, fail_at_10, &begun, NULL), -ECANCELED);
}

static int wants_no_signals(void *arg, unsigned worker, uint64_t slab, struct stasis_error *err)
{
    sigset_t blocked;

    (void)slab;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    if (worker != 0 && !sigismember(&blocked, SIGUSR1))
        return stasis_fail(err, STASIS_ERR_IO, "worker %u takes SIGUSR1", worker);
    return meet(arg, worker, slab, err);
}

static void signals_stay_with_the_caller(void **state)
{
    struct stasis_error err = { 0 };
    struct meeting meeting;
    sigset_t mask;

    (void)state;
    pthread_barrier_init(&meeting.barrier, NULL, 3);
    assert_stasis_ok(pool_run(3, 3, wants_no_signals, &meeting, &err), &err);
    pthread_barrier_destroy(&meeting.barrier);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    assert_false(sigismember(&mask, SIGUSR1));
}

/* Stacks of 2^46 bytes cannot be had: no thread starts, the caller does it all. */
static void without_threads_the_caller_does_all(void **state)
{
    static struct tally tally;
    struct stasis_error err = { 0 };
    pthread_attr_t normal, huge;
    int result;

    (void)state;
    memset(&tally, 0, sizeof(tally));
    tally.thread_count = 1;
    assert_int_equal(pthread_getattr_default_np(&normal), 0);
    assert_int_equal(pthread_attr_init(&huge), 0);
    assert_int_equal(pthread_attr_setstacksize(&huge, (size_t)1 << 46), 0);
    assert_int_equal(pthread_setattr_default_np(&huge), 0);
    result = pool_run(4, SLAB_COUNT, count_visit, &tally, &err);
    pthread_setattr_default_np(&normal);
    assert_stasis_ok(result, &err);
    assert_int_equal(atomic_load(&tally.workers_seen[0]), SLAB_COUNT);
    assert_false(atomic_load(&tally.worker_beyond_range));
}

static void default_threads_are_the_cpus_we_may_use(void **state)
{
    cpu_set_t before, one;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
    assert_int_equal(pool_default_threads(1000000), CPU_COUNT(&before));
    assert_int_equal(pool_default_threads(1), 1);
    assert_int_equal(pool_default_threads(0), 1);
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++) {
        if (CPU_ISSET(cpu, &before))
            CPU_SET(cpu, &one);
    }
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    assert_int_equal(pool_default_threads(8), 1);
    sched_setaffinity(0, sizeof(before), &before);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_slab_is_worked_on_once),
        cmocka_unit_test(one_thread_is_the_callers_own),
        cmocka_unit_test(no_slabs_is_no_work),
        cmocka_unit_test(workers_work_at_the_same_time),
        cmocka_unit_test(the_lowest_failed_slab_is_reported),
        cmocka_unit_test(nothing_is_begun_after_a_failure),
        cmocka_unit_test(signals_stay_with_the_caller),
        cmocka_unit_test(without_threads_the_caller_does_all),
        cmocka_unit_test(default_threads_are_the_cpus_we_may_use),
    };
    return unit_run(tests);
}
