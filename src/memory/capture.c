/*
 * capture.c - from "these pages changed" to "these pages hold data, and here are their bytes".
 *
 * The guest stands still while this runs, so it does one thing: each slab's selected pages are
 * tested for zero and, for a copy, copied at once, while they are still in the CPU's cache. Which
 * place of the copy a slab gets is chance when there are several workers, and recorded in the slab;
 * what a writer makes of it does not depend on it.
 *
 * A page wrongly called zero, or a place mixed up between two slabs, is guest memory lost without
 * any digest noticing: digests are made from what is found here.
 */
#include "memory/capture.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/pool.h"
#include "memory/layout.h"
#include "memory/zero.h"

#define WORD_BITS 64
#define SLABS_AT_ONCE 8 /* slabs that a worker takes in one go, where there are many small ones */

/* First page at or after `page` whose bit is `value`; CAPTURE_SLAB_PAGES when there is none. */
static unsigned find_page(const struct capture_bits *bits, unsigned page, bool value)
{
    while (page < CAPTURE_SLAB_PAGES) {
        const uint64_t word =
            value ? bits->words[page / WORD_BITS] : ~bits->words[page / WORD_BITS];
        const uint64_t rest = word >> (page % WORD_BITS);

        if (rest != 0)
            return page + (unsigned)__builtin_ctzll(rest);
        page = (page / WORD_BITS + 1) * WORD_BITS;
    }
    return CAPTURE_SLAB_PAGES;
}

bool capture_next_run(const struct capture_bits *bits, struct capture_run *run)
{
    run->begin = find_page(bits, run->end, true);
    run->end = find_page(bits, run->begin, false);
    return run->begin < CAPTURE_SLAB_PAGES;
}

unsigned capture_bits_count(const struct capture_bits *bits)
{
    unsigned count = 0;

    for (size_t i = 0; i < CAPTURE_SLAB_WORDS; i++)
        count += (unsigned)__builtin_popcountll(bits->words[i]);
    return count;
}

/* Set bits of [0, page). */
static unsigned count_before(const struct capture_bits *bits, unsigned page)
{
    unsigned count = 0;

    for (unsigned i = 0; i < page / WORD_BITS; i++)
        count += (unsigned)__builtin_popcountll(bits->words[i]);
    if (page % WORD_BITS != 0)
        count += (unsigned)__builtin_popcountll(bits->words[page / WORD_BITS] &
                                                ((UINT64_C(1) << (page % WORD_BITS)) - 1));
    return count;
}

/* --- selecting --- */

/* The bits of one slab, from a page set or, without one, all; none past the last page. */
static struct capture_bits slab_bits(const struct capture *capture,
                                     const struct stasis_page_set *set, uint64_t first_page)
{
    const uint64_t left = capture->page_count - first_page;
    struct capture_bits bits;

    for (unsigned i = 0; i < CAPTURE_SLAB_WORDS; i++) {
        const uint64_t begin = (uint64_t)i * WORD_BITS;

        if (begin >= left) {
            bits.words[i] = 0;
            continue;
        }
        bits.words[i] = set ? set->words[first_page / WORD_BITS + i] : UINT64_MAX;
        if (left - begin < WORD_BITS)
            bits.words[i] &= (UINT64_C(1) << (left - begin)) - 1;
    }
    return bits;
}

/* The next slab at or after `slab` with a page in the set, by the set's summary: what is not in it
 * costs a bit for each 64 pages. UINT64_MAX when there is none. */
static uint64_t next_slab(const struct capture *capture, const struct stasis_page_set *set,
                          uint64_t slab)
{
    const uint64_t slab_count = (capture->page_count + CAPTURE_SLAB_PAGES - 1) / CAPTURE_SLAB_PAGES;

    while (slab < slab_count) {
        const uint64_t word = slab * CAPTURE_SLAB_WORDS;
        uint64_t rest;

        if (!set)
            return slab;
        rest = set->summary[word / WORD_BITS] >> (word % WORD_BITS);
        if (rest != 0)
            return slab + (unsigned)__builtin_ctzll(rest) / CAPTURE_SLAB_WORDS;
        slab = (word / WORD_BITS + 1) * WORD_BITS / CAPTURE_SLAB_WORDS;
    }
    return UINT64_MAX;
}

static size_t count_slabs(const struct capture *capture, const struct stasis_page_set *set)
{
    size_t count = 0;

    for (uint64_t slab = 0; (slab = next_slab(capture, set, slab)) != UINT64_MAX; slab++)
        count++;
    return count;
}

static void fill_slabs(struct capture *capture, const struct stasis_page_set *set)
{
    for (uint64_t slab = 0; (slab = next_slab(capture, set, slab)) != UINT64_MAX; slab++) {
        const uint64_t first_page = slab * CAPTURE_SLAB_PAGES;
        struct capture_slab *out = &capture->slabs[capture->slab_count++];

        *out = (struct capture_slab){ .first_page = first_page,
                                      .selected = slab_bits(capture, set, first_page) };
        capture->selected_count += capture_bits_count(&out->selected);
    }
}

static int copy_layout(struct capture *capture, const struct stasis_memory *memory,
                       struct stasis_error *err)
{
    const size_t size = memory->region_count * sizeof(*memory->regions);

    capture->memory.regions = malloc(size);
    if (!capture->memory.regions)
        return stasis_fail_memory(err, "the memory regions");
    memcpy(capture->memory.regions, memory->regions, size);
    capture->memory.region_count = memory->region_count;
    return 0;
}

int capture_select(struct capture *capture, const struct stasis_memory *memory,
                   const struct stasis_page_set *set, struct stasis_arena *arena,
                   struct stasis_error *err)
{
    size_t slab_count;
    int r;

    *capture = (struct capture){ .page_count = stasis_memory_size(memory) / STASIS_PAGE_SIZE };
    r = copy_layout(capture, memory, err);
    if (r < 0)
        return r;
    slab_count = count_slabs(capture, set);
    if (slab_count == 0)
        return 0;
    capture->slabs = arena_buffer_get(&arena->slabs, slab_count * sizeof(*capture->slabs));
    if (!capture->slabs)
        return stasis_fail_memory(err, "the list of captured pages");
    fill_slabs(capture, set);
    assert(capture->slab_count == slab_count);
    return 0;
}

void capture_release(struct capture *capture)
{
    free(capture->memory.regions);
    *capture = (struct capture){ 0 };
}

/* --- scanning and copying --- */

struct job {
    struct capture *capture;
    struct progress *progress;
    uint8_t *copy;                  /* NULL: only scan */
    uint64_t copy_max;              /* pages */
    atomic_uint_fast64_t copy_next; /* pages given to slabs so far; may go beyond copy_max */
    atomic_bool over;               /* more than copy_max would be needed */
};

/* Guest memory from a page of a slab on, and how many pages of it lie in one piece, up to `count`. */
static const uint8_t *live_pages(const struct capture *capture, const struct capture_slab *slab,
                                 unsigned page, unsigned count, unsigned *ret_count)
{
    const struct layout_place place =
        layout_locate(&capture->memory, (slab->first_page + page) * STASIS_PAGE_SIZE);
    const uint64_t left = place.size_left / STASIS_PAGE_SIZE;

    *ret_count = left < count ? (unsigned)left : count;
    return layout_hva(&capture->memory, &place);
}

void capture_scan_slab(const struct capture *capture, struct capture_slab *slab)
{
    struct capture_run run = { 0 };

    while (capture_next_run(&slab->selected, &run)) {
        unsigned count;

        for (unsigned page = run.begin; page < run.end; page += count) {
            const unsigned shift = page % WORD_BITS;
            const unsigned in_word = WORD_BITS - shift;
            const unsigned left = run.end - page;
            const uint8_t *bytes =
                live_pages(capture, slab, page, left < in_word ? left : in_word, &count);

            slab->data.words[page / WORD_BITS] |= zero_data_page_map(bytes, count) << shift;
        }
    }
}

/* False when the copy would grow beyond its ceiling. */
static bool copy_slab(struct job *job, struct capture_slab *slab)
{
    struct iovec iov[CAPTURE_SLAB_PAGES];
    const unsigned iov_count = capture_slab_iovecs(job->capture, slab, iov);
    const unsigned page_count = capture_bits_count(&slab->data);
    uint8_t *out;

    slab->copy_page = atomic_fetch_add(&job->copy_next, page_count);
    if (slab->copy_page + page_count > job->copy_max) {
        atomic_store(&job->over, true);
        return false;
    }
    out = job->copy + slab->copy_page * STASIS_PAGE_SIZE;
    for (unsigned i = 0; i < iov_count; i++) {
        memcpy(out, iov[i].iov_base, iov[i].iov_len);
        out += iov[i].iov_len;
    }
    return true;
}

static int work_on_slabs(void *arg, unsigned worker, uint64_t index, struct stasis_error *err)
{
    struct job *job = arg;
    struct capture *capture = job->capture;
    const size_t begin = (size_t)index * SLABS_AT_ONCE;
    const size_t left = capture->slab_count - begin;
    const size_t end = begin + (left < SLABS_AT_ONCE ? left : SLABS_AT_ONCE);
    uint64_t page_count = 0;

    (void)worker;
    for (size_t i = begin; i < end; i++) {
        struct capture_slab *slab = &capture->slabs[i];

        slab->data = (struct capture_bits){ 0 };
        capture_scan_slab(capture, slab);
        if (job->copy && (atomic_load(&job->over) || !copy_slab(job, slab)))
            return 0;
        page_count += capture_bits_count(&slab->selected);
    }
    return progress_add(job->progress, page_count * STASIS_PAGE_SIZE, err);
}

/* Each slab's place in a packed section, and the sums. */
static void number_slabs(struct capture *capture)
{
    capture->data_count = 0;
    for (size_t i = 0; i < capture->slab_count; i++) {
        capture->slabs[i].data_before = capture->data_count;
        capture->data_count += capture_bits_count(&capture->slabs[i].data);
    }
    capture->zero_count = capture->selected_count - capture->data_count;
    capture->scanned = true;
}

static int run_job(struct job *job, unsigned thread_count, struct stasis_error *err)
{
    const uint64_t count = (job->capture->slab_count + SLABS_AT_ONCE - 1) / SLABS_AT_ONCE;

    return pool_run(thread_count, count, work_on_slabs, job, err);
}

int capture_scan(struct capture *capture, unsigned thread_count, struct progress *progress,
                 struct stasis_error *err)
{
    struct job job = { .capture = capture, .progress = progress };
    const int r = run_job(&job, thread_count, err);

    if (r < 0)
        return r;
    number_slabs(capture);
    return 0;
}

int capture_copy(struct capture *capture, struct stasis_arena *arena, uint64_t size_max,
                 unsigned thread_count, struct progress *progress, bool *ret_fits,
                 struct stasis_error *err)
{
    const uint64_t page_max = size_max / STASIS_PAGE_SIZE;
    struct job job = { .capture = capture, .progress = progress };
    int r;

    job.copy_max = capture->selected_count < page_max ? capture->selected_count : page_max;
    *ret_fits = false;
    if (job.copy_max == 0 && capture->selected_count != 0)
        return 0;
    job.copy = arena_buffer_get(&arena->pages, job.copy_max * STASIS_PAGE_SIZE);
    if (!job.copy)
        return stasis_fail_memory(err, "the copy of guest memory");
    r = run_job(&job, thread_count, err);
    if (r < 0 || atomic_load(&job.over))
        return r;
    number_slabs(capture);
    capture->copy = job.copy;
    *ret_fits = true;
    return 0;
}

/* --- what writers ask --- */

bool capture_next_extent(const struct capture *capture, struct capture_iter *iter,
                         struct capture_extent *ret_extent)
{
    struct capture_extent extent = { 0 };

    while (iter->slab < capture->slab_count) {
        const struct capture_slab *slab = &capture->slabs[iter->slab];
        struct capture_run run = { .end = iter->page };
        unsigned end;
        bool zero;

        if (!capture_next_run(&slab->selected, &run)) {
            iter->slab++;
            iter->page = 0;
            continue;
        }
        zero = find_page(&slab->data, run.begin, true) != run.begin;
        end = find_page(&slab->data, run.begin, zero);
        if (end > run.end)
            end = run.end;
        if (extent.page_count == 0)
            extent = (struct capture_extent){
                .first_page = slab->first_page + run.begin,
                .zero = zero,
                .data_before = slab->data_before + count_before(&slab->data, run.begin),
            };
        else if (extent.zero != zero ||
                 extent.first_page + extent.page_count != slab->first_page + run.begin)
            break;
        extent.page_count += end - run.begin;
        iter->page = end;
    }
    if (extent.page_count == 0)
        return false;
    *ret_extent = extent;
    return true;
}

static void append_iovec(struct iovec *iov, unsigned *count, const uint8_t *bytes, size_t size)
{
    struct iovec *last = *count ? &iov[*count - 1] : NULL;

    if (last && (const uint8_t *)last->iov_base + last->iov_len == bytes)
        last->iov_len += size;
    else
        iov[(*count)++] = (struct iovec){ .iov_base = (void *)(uintptr_t)bytes, .iov_len = size };
}

/* Pages [begin, end) are all data. */
static void append_run(const struct capture *capture, const struct capture_slab *slab,
                       unsigned begin, unsigned end, struct iovec *iov, unsigned *count)
{
    unsigned part;

    if (capture->copy) {
        const uint64_t page = slab->copy_page + count_before(&slab->data, begin);

        append_iovec(iov, count, capture->copy + page * STASIS_PAGE_SIZE,
                     (size_t)(end - begin) * STASIS_PAGE_SIZE);
        return;
    }
    for (unsigned page = begin; page < end; page += part) {
        const uint8_t *bytes = live_pages(capture, slab, page, end - page, &part);

        append_iovec(iov, count, bytes, (size_t)part * STASIS_PAGE_SIZE);
    }
}

unsigned capture_run_iovecs(const struct capture *capture, const struct capture_slab *slab,
                            const struct capture_run *run, struct iovec *iov)
{
    struct capture_run data = { .end = run->begin };
    unsigned count = 0;

    while (capture_next_run(&slab->data, &data) && data.begin < run->end)
        append_run(capture, slab, data.begin, data.end < run->end ? data.end : run->end, iov,
                   &count);
    return count;
}

static bool all_set(const struct capture_bits *bits, const struct capture_run *run)
{
    return find_page(bits, run->begin, false) >= run->end;
}

const uint8_t *capture_bytes_in_place(const struct capture *capture,
                                      const struct capture_slab *slab,
                                      const struct capture_run *run)
{
    const uint8_t *bytes;
    unsigned count;

    if (capture->copy) {
        if (!all_set(&slab->data, run))
            return NULL;
        return capture->copy +
               (slab->copy_page + count_before(&slab->data, run->begin)) * STASIS_PAGE_SIZE;
    }
    if (!all_set(&slab->selected, run))
        return NULL;
    bytes = live_pages(capture, slab, run->begin, run->end - run->begin, &count);
    return count == run->end - run->begin ? bytes : NULL;
}

unsigned capture_slab_iovecs(const struct capture *capture, const struct capture_slab *slab,
                             struct iovec *iov)
{
    const struct capture_run all = { .end = CAPTURE_SLAB_PAGES };

    return capture_run_iovecs(capture, slab, &all, iov);
}
