/*
 * capture_arena.c - memory to copy guest pages into: address space first, memory as it is touched.
 *
 * A buffer is mapped as large as a save could need and costs nothing for what it does not: the pages
 * that one save touched are there for the next. Huge pages are asked for, as they make first touches
 * 512 times fewer; hosts that do not give them give ordinary ones.
 */
#include "memory/capture_arena.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/error.h"

#define HUGE_SIZE (UINT64_C(2) << 20)

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14, include/uapi/asm-generic/mman-common.h */
#endif

static void buffer_release(struct arena_buffer *buffer)
{
    if (buffer->data)
        munmap(buffer->data, buffer->size);
    *buffer = (struct arena_buffer){ 0 };
}

void *arena_buffer_get(struct arena_buffer *buffer, size_t size)
{
    size_t rounded;
    void *data;

    if (size <= buffer->size && buffer->data)
        return buffer->data;
    if (__builtin_add_overflow(size, HUGE_SIZE - 1, &rounded))
        return NULL;
    rounded &= ~(size_t)(HUGE_SIZE - 1);
    if (rounded == 0)
        rounded = HUGE_SIZE;
    if (buffer->data) /* what has been touched moves along */
        data = mremap(buffer->data, buffer->size, rounded, MREMAP_MAYMOVE);
    else
        data = mmap(NULL, rounded, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
        return NULL;
    (void)madvise(data, rounded, MADV_HUGEPAGE); /* a wish */
    buffer->data = data;
    buffer->size = rounded;
    return data;
}

int arena_buffer_touch(struct arena_buffer *buffer, size_t size, struct stasis_error *err)
{
    volatile uint8_t *byte;

    if (!arena_buffer_get(buffer, size))
        return stasis_fail_memory(err, "the buffers of a save");
    if (size <= buffer->ready)
        return 0;
    if (madvise(buffer->data, size, MADV_POPULATE_WRITE) < 0) {
        if (errno == ENOMEM || errno == EFAULT)
            return stasis_fail_memory(err, "the buffers of a save");
        byte = buffer->data; /* an older kernel: one write a page */
        for (size_t off = 0; off < size; off += 4096)
            byte[off] = byte[off];
    }
    buffer->ready = size;
    return 0;
}

int arena_changed_set(struct stasis_arena *arena, uint64_t page_count, struct stasis_error *err)
{
    if (arena->changed.page_count == page_count) {
        stasis_page_set_clear(&arena->changed);
        return 0;
    }
    stasis_page_set_release(&arena->changed);
    return stasis_page_set_init(&arena->changed, page_count, err);
}

int stasis_arena_new(uint64_t size, struct stasis_arena **ret_arena, struct stasis_error *err)
{
    struct stasis_arena *arena = calloc(1, sizeof(*arena));
    int r = 0;

    if (!arena || size > SIZE_MAX) {
        free(arena);
        return stasis_fail_memory(err, "the buffers of a save");
    }
    if (size > 0)
        r = arena_buffer_touch(&arena->pages, (size_t)size, err);
    if (r < 0) {
        stasis_arena_free(arena);
        return r;
    }
    *ret_arena = arena;
    return 0;
}

void stasis_arena_free(struct stasis_arena *arena)
{
    if (!arena)
        return;
    buffer_release(&arena->pages);
    buffer_release(&arena->slabs);
    stasis_page_set_release(&arena->changed);
    free(arena);
}
