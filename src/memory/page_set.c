/*
 * page_set.c - sets of page numbers: a bitmap, and a summary bit for each of its words.
 *
 * Dirty pages travel in these from trackers to writers, so a bit lost here is a page missing from a
 * snapshot. A 64 GiB guest has 16 M pages, 2 MiB of bitmap, of which a diff touches little:
 *
 *     summary    0 1 0 0 ...                    one bit: is words[w] anything but 0?
 *     words      0..0 | 0 1 1 0..0 | 0..0 | ... one bit: is page p in the set?
 *
 * The summary may say yes for a word that became 0 since (remove), never no for one that is not.
 * Nothing here locks; sets that several threads write to are in atomic_set.c.
 */
#include "memory/page_set.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"

int stasis_page_set_init(struct stasis_page_set *ret_set, uint64_t page_count,
                         struct stasis_error *err)
{
    const uint64_t word_count = page_set_words(page_count);
    auto_free uint64_t *words = NULL;
    auto_free uint64_t *summary = NULL;

    if (page_count == 0)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "a set of no pages");
    if (page_count > PAGE_SET_PAGES_MAX)
        return stasis_fail(err, STASIS_ERR_LIMIT, "a set of %ju pages, at most %ju are accepted",
                           (uintmax_t)page_count, (uintmax_t)PAGE_SET_PAGES_MAX);
    words = calloc(word_count, sizeof(*words));
    summary = calloc(page_set_words(word_count), sizeof(*summary));
    if (!words || !summary)
        return stasis_fail_memory(err, "a set of pages");
    *ret_set = (struct stasis_page_set){ .words = take_ptr(words),
                                         .summary = take_ptr(summary),
                                         .page_count = page_count };
    return 0;
}

void stasis_page_set_release(struct stasis_page_set *set)
{
    if (!set)
        return;
    free(set->words);
    free(set->summary);
    *set = (struct stasis_page_set){ 0 };
}

/* The range as far as the set goes; returns its end, first_page at least. */
static uint64_t clip(const struct stasis_page_set *set, uint64_t first_page, uint64_t page_count)
{
    if (first_page >= set->page_count)
        return first_page;
    return page_count > set->page_count - first_page ? set->page_count : first_page + page_count;
}

/* Bits first..end - 1 of one word, both counted from that word's bit 0; first < end <= 64. */
static uint64_t mask(uint64_t first, uint64_t end)
{
    return UINT64_MAX >> (64 - (end - first)) << first;
}

static uint64_t word_end(uint64_t page, uint64_t end)
{
    const uint64_t next = (page / 64 + 1) * 64;

    return next < end ? next : end;
}

void stasis_page_set_add(struct stasis_page_set *set, uint64_t first_page, uint64_t page_count)
{
    const uint64_t end = clip(set, first_page, page_count);

    for (uint64_t page = first_page, next; page < end; page = next) {
        next = word_end(page, end);
        page_set_or_word(set, page / 64, mask(page % 64, page % 64 + (next - page)));
    }
}

void stasis_page_set_remove(struct stasis_page_set *set, uint64_t first_page, uint64_t page_count)
{
    const uint64_t end = clip(set, first_page, page_count);

    for (uint64_t page = first_page, next; page < end; page = next) {
        next = word_end(page, end);
        set->words[page / 64] &= ~mask(page % 64, page % 64 + (next - page));
    }
}

bool stasis_page_set_test(const struct stasis_page_set *set, uint64_t page)
{
    return page < set->page_count && (set->words[page / 64] >> page % 64 & 1) != 0;
}

uint64_t words_next_used(const uint64_t *words, uint64_t from, uint64_t count)
{
    /* Eight at a time: most of a dirty log is zero. */
    for (; from < count && count - from >= 8; from += 8) {
        const uint64_t *w = words + from;

        if ((w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7]) != 0)
            break;
    }
    while (from < count && words[from] == 0)
        from++;
    return from;
}

/* Index of the first word at or after `word` whose summary bit is set; the word count if none. */
static uint64_t next_word(const struct stasis_page_set *set, uint64_t word)
{
    const uint64_t word_count = page_set_words(set->page_count);
    const uint64_t summary_count = page_set_words(word_count);
    uint64_t at = word / 64;
    uint64_t bits;

    if (word >= word_count)
        return word_count;
    bits = set->summary[at] & UINT64_MAX << word % 64;
    if (bits == 0) {
        at = words_next_used(set->summary, at + 1, summary_count);
        if (at >= summary_count)
            return word_count;
        bits = set->summary[at];
    }
    return at * 64 + (uint64_t)__builtin_ctzll(bits);
}

#define for_each_word(set, index)                                                                  \
    for (uint64_t index = next_word(set, 0), words_ = page_set_words((set)->page_count);           \
         index < words_; index = next_word(set, index + 1))

uint64_t stasis_page_set_count(const struct stasis_page_set *set)
{
    uint64_t count = 0;

    for_each_word(set, i) count += (uint64_t)__builtin_popcountll(set->words[i]);
    return count;
}

void stasis_page_set_clear(struct stasis_page_set *set)
{
    for_each_word(set, i) set->words[i] = 0;
    memset(set->summary, 0,
           page_set_words(page_set_words(set->page_count)) * sizeof(*set->summary));
}

/* The bits of word `index` that are pages of the set. */
static uint64_t valid_bits(const struct stasis_page_set *set, uint64_t index)
{
    const uint64_t left = set->page_count - index * 64;

    return left >= 64 ? UINT64_MAX : mask(0, left);
}

void stasis_page_set_union(struct stasis_page_set *set, const struct stasis_page_set *from)
{
    const uint64_t word_count = page_set_words(set->page_count);

    for_each_word(from, i)
    {
        if (i >= word_count)
            return;
        if (from->words[i] != 0)
            page_set_or_word(set, i, from->words[i] & valid_bits(set, i));
    }
}

static uint64_t next_member(const struct stasis_page_set *set, uint64_t page)
{
    const uint64_t word_count = page_set_words(set->page_count);
    uint64_t index = page / 64;
    uint64_t bits;

    if (page >= set->page_count)
        return set->page_count;
    bits = set->words[index] & UINT64_MAX << page % 64;
    while (bits == 0) {
        index = next_word(set, index + 1);
        if (index >= word_count)
            return set->page_count;
        bits = set->words[index];
    }
    return index * 64 + (uint64_t)__builtin_ctzll(bits);
}

/* `page` is a member; the first page after it that is not, page_count when there is none. */
static uint64_t run_end(const struct stasis_page_set *set, uint64_t page)
{
    const uint64_t word_count = page_set_words(set->page_count);
    uint64_t index = page / 64;
    uint64_t gaps = ~set->words[index] & UINT64_MAX << page % 64;

    while (gaps == 0) {
        if (++index >= word_count)
            return set->page_count;
        gaps = ~set->words[index];
    }
    return index * 64 + (uint64_t)__builtin_ctzll(gaps);
}

bool stasis_page_set_next_run(const struct stasis_page_set *set, uint64_t from_page,
                              uint64_t *ret_first_page, uint64_t *ret_page_count)
{
    const uint64_t first = next_member(set, from_page);

    if (first >= set->page_count)
        return false;
    *ret_first_page = first;
    *ret_page_count = run_end(set, first) - first;
    return true;
}

/* `count` (1..64) bits from bit `at` on, without reading a word that has none of them. */
static uint64_t take_bits(const uint64_t *bits, uint64_t at, uint64_t count)
{
    const uint64_t shift = at % 64;
    uint64_t value = bits[at / 64] >> shift;

    if (shift + count > 64)
        value |= bits[at / 64 + 1] << (64 - shift);
    return value & mask(0, count);
}

/* How many bits from `at` on lie in words that are zero: nothing to do for them. */
static uint64_t zero_bits(const uint64_t *bits, uint64_t at, uint64_t end)
{
    const uint64_t used = words_next_used(bits, at / 64, page_set_words(end)) * 64;

    if (used <= at)
        return 0;
    return (used < end ? used : end) - at;
}

void page_set_add_bits(struct stasis_page_set *set, uint64_t first_page, const uint64_t *bits,
                       uint64_t first_bit, uint64_t count)
{
    const uint64_t end = clip(set, first_page, count);
    const uint64_t bits_end = first_bit + (end - first_page);

    for (uint64_t page = first_page, at = first_bit; page < end;) {
        const uint64_t next = word_end(page, end);
        uint64_t step = zero_bits(bits, at, bits_end);

        if (step == 0) {
            const uint64_t value = take_bits(bits, at, next - page);

            if (value != 0)
                page_set_or_word(set, page / 64, value << page % 64);
            step = next - page;
        }
        page += step;
        at += step;
    }
}
