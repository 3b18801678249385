/* page_set.h - what the library's own rooms need of page sets beyond <stasis/dirty.h>. */
#ifndef STASIS_MEMORY_PAGE_SET_H
#define STASIS_MEMORY_PAGE_SET_H

#include <stdint.h>

#include <stasis/dirty.h>

#define PAGE_SET_PAGES_MAX (STASIS_MEMORY_SIZE_MAX / STASIS_PAGE_SIZE)

/* Bitmap words for this many pages. */
static inline uint64_t page_set_words(uint64_t page_count)
{
    return page_count / 64 + (page_count % 64 != 0);
}

/* Bit b of `bits` is page first_page + b; `count` of them. Zero words cost next to nothing. */
void page_set_add_bits(struct stasis_page_set *set, uint64_t first_page, const uint64_t *bits,
                       uint64_t first_bit, uint64_t count);

/* Word `index` of the set gains these bits; those past page_count must be 0. */
static inline void page_set_or_word(struct stasis_page_set *set, uint64_t index, uint64_t bits)
{
    set->words[index] |= bits;
    set->summary[index / 64] |= UINT64_C(1) << index % 64;
}

/* Index of the first word at or after `from` that is not 0, `count` when there is none. */
uint64_t words_next_used(const uint64_t *words, uint64_t from, uint64_t count);

#endif
