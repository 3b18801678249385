/*
 * base_compare.c - which pages differ from the base?
 *
 * The line of memory is cut into slabs of whole bitmap words, so that each thread has words of the
 * set to itself; only the summary above them is shared, and written under a lock.
 *
 *     wanted (all, or a set's words) --runs--> read the base's pages --memcmp--> differing
 *
 * A page that is wrongly called equal is missing from a snapshot: nothing but a comparison of all
 * its bytes calls a page equal here.
 */
#include "memory/base_compare.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/pool.h"
#include "memory/page_set.h"

#define SLAB_WORDS 4
#define SLAB_PAGES (SLAB_WORDS * 64) /* 1 MiB */
#define SLAB_SIZE ((size_t)SLAB_PAGES * STASIS_PAGE_SIZE)
#define THREADS_MAX 8

struct compare_job {
    const struct region_map *map;
    const struct base_reader *reader;
    const struct stasis_page_set *wanted; /* NULL: all pages */
    struct stasis_page_set *set; /* gains differing pages, or loses equal ones when `refine` */
    bool refine;
    uint8_t *buffers;     /* SLAB_SIZE for each worker */
    pthread_mutex_t lock; /* for the set's summary, and `dropped` */
    uint64_t dropped;
};

static const uint8_t *page_hva(const struct region_map *map, uint64_t page)
{
    const size_t i = region_map_of_page(map, page);

    return (const uint8_t *)map->regions[i].hva + (page - map->first_pages[i]) * STASIS_PAGE_SIZE;
}

/* The pages of one slab that are asked for, as a set of its own beginning at page 0. */
static void wanted_pages(const struct compare_job *job, uint64_t first_page, uint64_t page_count,
                         struct stasis_page_set *ret_wanted)
{
    if (!job->wanted) {
        stasis_page_set_add(ret_wanted, 0, page_count);
        return;
    }
    for (uint64_t i = 0; i < page_set_words(page_count); i++)
        page_set_or_word(ret_wanted, i, job->wanted->words[first_page / 64 + i]);
}

static int compare_run(const struct compare_job *job, uint8_t *buffer, uint64_t slab_page,
                       uint64_t run_page, uint64_t run_count, struct stasis_page_set *differing,
                       struct stasis_error *err)
{
    const uint64_t first = slab_page + run_page;
    const int r = job->reader->read(job->reader->arg, first, run_count, buffer, err);

    if (r < 0)
        return stasis_wrap(err, r, "read pages %ju to %ju of the base", (uintmax_t)first,
                           (uintmax_t)(first + run_count - 1));
    for (uint64_t i = 0; i < run_count; i++) {
        if (memcmp(page_hva(job->map, first + i), buffer + i * STASIS_PAGE_SIZE,
                   STASIS_PAGE_SIZE) != 0)
            stasis_page_set_add(differing, run_page + i, 1);
    }
    return 0;
}

static void keep_result(struct compare_job *job, uint64_t slab_page,
                        const struct stasis_page_set *wanted,
                        const struct stasis_page_set *differing)
{
    pthread_mutex_lock(&job->lock);
    for (uint64_t i = 0; i < SLAB_WORDS; i++) {
        if (job->refine && wanted->words[i] != 0)
            job->set->words[slab_page / 64 + i] = differing->words[i];
        else if (differing->words[i] != 0)
            page_set_or_word(job->set, slab_page / 64 + i, differing->words[i]);
    }
    job->dropped += stasis_page_set_count(wanted) - stasis_page_set_count(differing);
    pthread_mutex_unlock(&job->lock);
}

static int compare_slab(void *arg, unsigned worker, uint64_t slab, struct stasis_error *err)
{
    struct compare_job *job = arg;
    const uint64_t slab_page = slab * SLAB_PAGES;
    const uint64_t left = job->map->page_count - slab_page;
    uint64_t wanted_words[SLAB_WORDS] = { 0 }, wanted_summary = 0;
    uint64_t differing_words[SLAB_WORDS] = { 0 }, differing_summary = 0;
    struct stasis_page_set wanted = { wanted_words, &wanted_summary, SLAB_PAGES };
    struct stasis_page_set differing = { differing_words, &differing_summary, SLAB_PAGES };
    uint64_t first, count;

    wanted_pages(job, slab_page, left < SLAB_PAGES ? left : SLAB_PAGES, &wanted);
    for (uint64_t at = 0; stasis_page_set_next_run(&wanted, at, &first, &count);
         at = first + count) {
        const int r = compare_run(job, job->buffers + worker * SLAB_SIZE, slab_page, first, count,
                                  &differing, err);

        if (r < 0)
            return r;
    }
    keep_result(job, slab_page, &wanted, &differing);
    return 0;
}

static int run_job(struct compare_job *job, struct stasis_error *err)
{
    const uint64_t slabs = (job->map->page_count + SLAB_PAGES - 1) / SLAB_PAGES;
    unsigned threads = job->reader->thread_count;
    auto_free uint8_t *buffers = NULL;
    int r;

    if (threads == 0)
        threads = pool_default_threads(THREADS_MAX);
    if (threads > THREADS_MAX)
        threads = THREADS_MAX;
    buffers = malloc(threads * SLAB_SIZE);
    if (!buffers)
        return stasis_fail_memory(err, "buffers for pages of the base");
    job->buffers = buffers;
    pthread_mutex_init(&job->lock, NULL);
    r = pool_run(threads, slabs, compare_slab, job, err);
    pthread_mutex_destroy(&job->lock);
    return r;
}

int base_compare_all(const struct region_map *map, const struct base_reader *reader,
                     struct stasis_page_set *into, struct stasis_error *err)
{
    struct compare_job job = { .map = map, .reader = reader, .set = into };

    return run_job(&job, err);
}

int base_compare_refine(const struct region_map *map, const struct base_reader *reader,
                        struct stasis_page_set *set, uint64_t *ret_dropped,
                        struct stasis_error *err)
{
    struct compare_job job = {
        .map = map, .reader = reader, .set = set, .wanted = set, .refine = true
    };
    const int r = run_job(&job, err);

    if (r == 0)
        *ret_dropped = job.dropped;
    return r;
}
