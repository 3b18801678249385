/*
 * atomic_set.c - adding pages from many threads, draining them from one, and losing none.
 *
 *     add      word |= bits          drain    taken = summary <- 0
 *              summary |= word's bit           for each bit of taken: set |= (word <- 0)
 *
 * An add that finds its summary bit set does not write it again. That is sound because all of it is
 * sequentially consistent: if the add's look at the summary came before drain took it, then the
 * add's bits came before drain takes the word. In the other order the add sets the bit anew, for
 * the next drain. Adding must not skip the word's write, though the bit may be set: that write is
 * what orders the caller's data before the drain.
 */
#include "memory/atomic_set.h"

#include <assert.h>
#include <stdlib.h>

#include "base/error.h"
#include "memory/page_set.h"

int atomic_set_init(struct atomic_set *set, uint64_t page_count, struct stasis_error *err)
{
    const uint64_t word_count = page_set_words(page_count);

    assert(page_count > 0 && page_count <= PAGE_SET_PAGES_MAX);
    set->page_count = page_count;
    set->words = calloc(word_count, sizeof(*set->words));
    set->summary = calloc(page_set_words(word_count), sizeof(*set->summary));
    if (!set->words || !set->summary) {
        atomic_set_release(set);
        return stasis_fail_memory(err, "a set of pages");
    }
    return 0;
}

void atomic_set_release(struct atomic_set *set)
{
    free(set->words);
    free(set->summary);
    *set = (struct atomic_set){ 0 };
}

static void add_to_word(struct atomic_set *set, uint64_t index, uint64_t bits)
{
    const uint64_t summary_bit = UINT64_C(1) << index % 64;

    atomic_fetch_or(&set->words[index], bits);
    if ((atomic_load(&set->summary[index / 64]) & summary_bit) == 0)
        atomic_fetch_or(&set->summary[index / 64], summary_bit);
}

void atomic_set_add(struct atomic_set *set, uint64_t first_page, uint64_t page_count)
{
    const uint64_t end = first_page + page_count;

    assert(first_page <= set->page_count && page_count <= set->page_count - first_page);
    for (uint64_t page = first_page; page < end;) {
        const uint64_t room = 64 - page % 64;
        const uint64_t count = end - page < room ? end - page : room;

        add_to_word(set, page / 64, UINT64_MAX >> (64 - count) << page % 64);
        page += count;
    }
}

void atomic_set_drain(struct atomic_set *set, struct stasis_page_set *into)
{
    const uint64_t summary_count = page_set_words(page_set_words(set->page_count));

    assert(into->page_count == set->page_count);
    for (uint64_t i = 0; i < summary_count; i++) {
        uint64_t taken;

        if (atomic_load(&set->summary[i]) == 0)
            continue;
        for (taken = atomic_exchange(&set->summary[i], 0); taken != 0; taken &= taken - 1) {
            const uint64_t index = i * 64 + (uint64_t)__builtin_ctzll(taken);
            const uint64_t bits = atomic_exchange(&set->words[index], 0);

            if (bits != 0)
                page_set_or_word(into, index, bits);
        }
    }
}
