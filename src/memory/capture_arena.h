/* capture_arena.h - memory that saves copy guest pages into: found ready, kept for the next save.
 *
 * Fresh memory is slow the first time it is touched, and a guest stands still while a capture touches
 * it. An arena keeps what it once had, in huge pages where the host gives them. It serves one save at
 * a time. */
#ifndef STASIS_MEMORY_CAPTURE_ARENA_H
#define STASIS_MEMORY_CAPTURE_ARENA_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <stasis/dirty.h>
#include <stasis/snapshot.h>

/* One mapping that only ever grows; what has been touched stays. */
struct arena_buffer {
    void *data;
    size_t size;  /* bytes mapped */
    size_t ready; /* bytes from the start that have been touched already, as far as is known */
};

struct stasis_arena {
    struct arena_buffer pages;      /* copied guest pages */
    struct arena_buffer slabs;      /* struct capture_slab */
    struct stasis_page_set changed; /* what a tracker was harvested into */
    atomic_flag busy;               /* a save is using it */
};

/* At least `size` bytes, of whatever content; what was got before may have moved. NULL: out of memory. */
void *arena_buffer_get(struct arena_buffer *buffer, size_t size);

/* arena->changed, empty and for this many pages. */
int arena_changed_set(struct stasis_arena *arena, uint64_t page_count, struct stasis_error *err);

/* Have the first `size` bytes touched now. */
int arena_buffer_touch(struct arena_buffer *buffer, size_t size, struct stasis_error *err);

#endif
