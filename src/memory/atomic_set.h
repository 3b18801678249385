/* atomic_set.h - a page set that any number of threads add to while one drains it; lock-free.
 *
 * A page that was added before a drain began is in that drain; one that is added meanwhile is in
 * that one or in the next. What a thread wrote before it added a page is visible to who drained
 * the page. */
#ifndef STASIS_MEMORY_ATOMIC_SET_H
#define STASIS_MEMORY_ATOMIC_SET_H

#include <stdatomic.h>
#include <stdint.h>

#include <stasis/dirty.h>

struct atomic_set {
    _Atomic uint64_t *words;
    _Atomic uint64_t *summary; /* as in struct stasis_page_set */
    uint64_t page_count;
};

/* page_count is what a stasis_page_set of the same memory was made with already. 0, -ENOMEM. */
int atomic_set_init(struct atomic_set *set, uint64_t page_count, struct stasis_error *err);
void atomic_set_release(struct atomic_set *set);

/* The range must lie within the set. */
void atomic_set_add(struct atomic_set *set, uint64_t first_page, uint64_t page_count);

/* Move all pages into `into`, which is of the same size. One thread at a time. */
void atomic_set_drain(struct atomic_set *set, struct stasis_page_set *into);

#endif
