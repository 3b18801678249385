/*
 * match.c - pairing the elements of two arrays by key.
 *
 * Two lists of registers from one kernel have the same keys in the same order, so that is tried
 * first. Otherwise both are sorted (by pointer; the arrays stay as they are) and merged:
 *
 *     a  10 3b 3b c0      10-10, first 3b-3b; a's second 3b and b's d0 stay alone
 *     b  10 3b c0 d0
 *
 * Keys come from snapshot files, hence sorting: a search per element would take minutes on lists
 * made for it.
 */
#include "machine/match.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/cleanup.h"

struct sorter {
    match_order_fn *order;
    void *arg;
};

static const uint8_t *element_at(const struct match_array *array, size_t index, size_t element_size)
{
    return (const uint8_t *)array->elements + index * element_size;
}

/* Equal keys keep their order: all the pointers are into one array. */
static int sort_order(const void *x, const void *y, void *arg)
{
    const struct sorter *sorter = arg;
    const uint8_t *const *left = x;
    const uint8_t *const *right = y;
    const int order = sorter->order(*left, *right, sorter->arg);

    return order != 0 ? order : (*left > *right) - (*left < *right);
}

static const uint8_t **sorted(const struct match_array *array, size_t element_size,
                              struct sorter *sorter)
{
    const uint8_t **pointers = calloc(array->count ? array->count : 1, sizeof(*pointers));

    if (!pointers)
        return NULL;
    for (size_t i = 0; i < array->count; i++)
        pointers[i] = element_at(array, i, element_size);
    qsort_r(pointers, array->count, sizeof(*pointers), sort_order, sorter);
    return pointers;
}

static void pair_up(struct match *match, size_t a_index, size_t b_index)
{
    match->a_to_b[a_index] = b_index;
    match->b_taken[b_index] = true;
}

/* Same keys at the same positions, as far as the shorter goes? Then the rest is alone anyway. */
static bool match_in_place(const struct match_array *a, const struct match_array *b,
                           size_t element_size, struct sorter *sorter, struct match *match)
{
    const size_t common = a->count < b->count ? a->count : b->count;

    for (size_t i = 0; i < common; i++) {
        if (sorter->order(element_at(a, i, element_size), element_at(b, i, element_size),
                          sorter->arg) != 0)
            return false;
    }
    for (size_t i = 0; i < common; i++)
        pair_up(match, i, i);
    return true;
}

static int match_sorted(const struct match_array *a, const struct match_array *b,
                        size_t element_size, struct sorter *sorter, struct match *match)
{
    auto_free const uint8_t **in_a = sorted(a, element_size, sorter);
    auto_free const uint8_t **in_b = sorted(b, element_size, sorter);
    size_t i = 0, j = 0;

    if (!in_a || !in_b)
        return -ENOMEM;
    while (i < a->count && j < b->count) {
        const int order = sorter->order(in_a[i], in_b[j], sorter->arg);

        if (order == 0)
            pair_up(match, (size_t)(in_a[i] - element_at(a, 0, 0)) / element_size,
                    (size_t)(in_b[j] - element_at(b, 0, 0)) / element_size);
        i += order <= 0;
        j += order >= 0;
    }
    return 0;
}

int match_arrays(const struct match_array *a, const struct match_array *b, size_t element_size,
                 match_order_fn *order, void *arg, struct match *ret_match)
{
    struct sorter sorter = { order, arg };
    struct match match = {
        .a_to_b = calloc(a->count ? a->count : 1, sizeof(*match.a_to_b)),
        .b_taken = calloc(b->count ? b->count : 1, sizeof(*match.b_taken)),
    };
    int r = -ENOMEM;

    if (match.a_to_b && match.b_taken) {
        for (size_t i = 0; i < a->count; i++)
            match.a_to_b[i] = MATCH_NONE;
        r = match_in_place(a, b, element_size, &sorter, &match)
                ? 0
                : match_sorted(a, b, element_size, &sorter, &match);
    }
    if (r < 0)
        match_release(&match);
    else
        *ret_match = match;
    return r;
}

void match_release(struct match *match)
{
    free(match->a_to_b);
    free(match->b_taken);
    *match = (struct match){ 0 };
}
