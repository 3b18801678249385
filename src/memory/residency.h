/* residency.h - what the kernel can already call empty, asked without touching a page. */
#ifndef STASIS_MEMORY_RESIDENCY_H
#define STASIS_MEMORY_RESIDENCY_H

#include <stasis/dirty.h>

/* How anonymous memory is asked about; each falls back to the next where the kernel does not offer
 * it. */
enum residency_method {
    RESIDENCY_SCAN = 0, /* PAGEMAP_SCAN, Linux 6.7: also knows the shared zero page */
    RESIDENCY_PAGEMAP,  /* reading /proc/self/pagemap */
    RESIDENCY_NONE,     /* every page is a candidate */
};

/**
 * Add every page that may hold something else than zeros to `candidates`. A page that is not added
 * is zero: a hole of its file, or anonymous memory that was never written. Nothing is faulted in.
 * What cannot be found out is a candidate, so this never fails to be true, only to be useful.
 *
 * The memory must stand still. Not for memory whose pages a userfaultfd is yet to fill: the kernel
 * calls those empty.
 *
 * @param candidates  for as many pages as the memory has
 * @return 0; STASIS_ERR_INVALID_ARGUMENT a region without hva, a set of another size;
 *         STASIS_ERR_INVALID_MEMORY; -ENOMEM
 */
int residency_candidates(const struct stasis_memory *memory, struct stasis_page_set *candidates,
                         struct stasis_error *err);

/* The same, beginning with this method. */
int residency_candidates_by(enum residency_method method, const struct stasis_memory *memory,
                            struct stasis_page_set *candidates, struct stasis_error *err);

#endif
