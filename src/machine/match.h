/* match.h - which elements of two arrays belong together, by key instead of by position. */
#ifndef STASIS_MACHINE_MATCH_H
#define STASIS_MACHINE_MATCH_H

#include <stdbool.h>
#include <stddef.h>

#define MATCH_NONE ((size_t)-1)

/* Compares the keys of two elements as qsort_r() wants it: <0, 0, >0. */
typedef int match_order_fn(const void *x, const void *y, void *arg);

struct match_array {
    const void *elements;
    size_t count;
};

struct match {
    size_t *a_to_b; /* for each element of a: its partner's index in b, or MATCH_NONE */
    bool *b_taken;  /* for each element of b: is it some element's partner? */
};

/* Pair the n-th element of each key in `a` with the n-th of the same key in `b`; O(n log n).
 * 0 or -ENOMEM; give back with match_release(). */
int match_arrays(const struct match_array *a, const struct match_array *b, size_t element_size,
                 match_order_fn *order, void *arg, struct match *ret_match);
void match_release(struct match *match);

#endif
