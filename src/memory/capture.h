/* capture.h - the guest pages that a save is about: which they are, and where their bytes lie.
 *
 *     capture_select   the pages that may matter: those that changed, or all that may hold data
 *     capture_scan     which of them hold data and which are zero; the bytes stay where they are
 *     capture_copy     the same, and the data copied away, so that the guest may go on
 *     (write)          capture_slab_iovecs() and capture_run_iovecs(): the bytes, live or copied
 *
 * Pages are numbered linearly (layout.h). They are held slab by slab, and only slabs with a selected
 * page are there: what is done with a capture costs what was selected, not what RAM there is.
 *
 *     slabs     [first_page 0    ][first_page 512  ] ...       none for page 256..511: nothing selected
 *     selected   0 1 1 0 0 1 ...   bit i: page first_page + i belongs to the capture
 *     data       0 1 0 0 0 1 ...   of those, the ones that hold something; the others are zero
 *
 * Writers take slabs in any order and on any thread: each knows its own place in a packed section. */
#ifndef STASIS_MEMORY_CAPTURE_H
#define STASIS_MEMORY_CAPTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <stasis/dirty.h>
#include <stasis/error.h>
#include <stasis/memory.h>

#include "memory/capture_arena.h"
#include "memory/progress.h"

#define CAPTURE_SLAB_PAGES 256u
#define CAPTURE_SLAB_SIZE (CAPTURE_SLAB_PAGES * STASIS_PAGE_SIZE) /* 1 MiB */
#define CAPTURE_SLAB_WORDS (CAPTURE_SLAB_PAGES / 64)

struct capture_bits {
    uint64_t words[CAPTURE_SLAB_WORDS]; /* bit i: page i of the slab */
};

struct capture_slab {
    uint64_t first_page;  /* linear, a multiple of CAPTURE_SLAB_PAGES */
    uint64_t data_before; /* data pages in all slabs before: the first one's place when packed */
    uint64_t copy_page;   /* copied: where its data pages begin in the copy, in pages */
    struct capture_bits selected;
    struct capture_bits data;
};

struct capture {
    struct stasis_memory
        memory;          /* the array is the capture's own; a live one reads through its hva */
    uint64_t page_count; /* of RAM */
    struct capture_slab *slabs; /* ascending, each with a selected page; the arena's */
    size_t slab_count;
    uint64_t selected_count; /* pages */
    uint64_t data_count;     /* pages; with zero_count, known once `scanned` */
    uint64_t zero_count;     /* selected pages that are zero */
    bool scanned;            /* `data` of every slab is known */
    const uint8_t *copy; /* the copied pages, the arena's; NULL: the bytes are in guest memory */
};

/*
 * Begin a capture of the pages of a set (for as many as RAM has), or of all of them when `set` is NULL.
 * `memory` must be checked and mapped; its array is copied, the set is not needed afterwards. The
 * capture lives on the arena's buffers until capture_release(). STASIS_ERR_OUT_OF_MEMORY.
 */
int capture_select(struct capture *capture, const struct stasis_memory *memory,
                   const struct stasis_page_set *set, struct stasis_arena *arena,
                   struct stasis_error *err);

/* NULL, zeroed and half-made ones are fine. The arena stays. */
void capture_release(struct capture *capture);

/* Find the data among the selected pages. The guest must stand still until they are written.
 * STASIS_ERR_CANCELLED. */
int capture_scan(struct capture *capture, unsigned thread_count, struct progress *progress,
                 struct stasis_error *err);

/*
 * The same, and copy the data into the arena: on return the guest may go on. `size_max` is the most
 * that may be copied, in bytes; when there is more, nothing is kept and *ret_fits is false, without
 * an error. STASIS_ERR_CANCELLED, _OUT_OF_MEMORY.
 */
int capture_copy(struct capture *capture, struct stasis_arena *arena, uint64_t size_max,
                 unsigned thread_count, struct progress *progress, bool *ret_fits,
                 struct stasis_error *err);

/* One slab's data bits, for a writer that scans as it goes (only with a live capture). */
void capture_scan_slab(const struct capture *capture, struct capture_slab *slab);

/* Bits [begin, end) of a slab that are all of one kind. */
struct capture_run {
    unsigned begin, end; /* page within the slab */
};

/* The next run of set bits at or after run->end; begin with { 0, 0 }. */
bool capture_next_run(const struct capture_bits *bits, struct capture_run *run);
unsigned capture_bits_count(const struct capture_bits *bits);

/* A run of neighbouring pages of a whole capture, all data or all zero. */
struct capture_extent {
    uint64_t first_page; /* linear */
    uint64_t page_count;
    bool zero;
    uint64_t data_before; /* data: place of its first page when all data is packed, in pages */
};

struct capture_iter {
    size_t slab;
    unsigned page;
};

/* Selected pages in ascending order as the longest runs there are, across slabs; begin with a zeroed
 * iterator. The capture must be scanned. */
bool capture_next_extent(const struct capture *capture, struct capture_iter *iter,
                         struct capture_extent *ret_extent);

/*
 * Where the bytes of the data pages of [run->begin, run->end) of a slab are, in page order with
 * what adjoins in memory made one; returns how many of `iov` (room for CAPTURE_SLAB_PAGES) are
 * filled. Every entry is of whole pages. The slab's data bits must be known.
 */
unsigned capture_run_iovecs(const struct capture *capture, const struct capture_slab *slab,
                            const struct capture_run *run, struct iovec *iov);

/* Pages of a slab, which need not all be data, where they lie in one piece with zeros in the place of
 * what is not data; NULL where they do not. Pages that were not selected are never looked at. */
const uint8_t *capture_bytes_in_place(const struct capture *capture,
                                      const struct capture_slab *slab,
                                      const struct capture_run *run);

/* capture_run_iovecs() for all data pages of a slab: its part of a packed section. */
unsigned capture_slab_iovecs(const struct capture *capture, const struct capture_slab *slab,
                             struct iovec *iov);

#endif
