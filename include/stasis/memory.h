/* memory.h - guest memory as regions: where RAM is in the guest and where the VMM has it mapped. */
#ifndef STASIS_MEMORY_H
#define STASIS_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include <stasis/api.h>
#include <stasis/error.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STASIS_PAGE_SIZE 4096u   /* bytes; unit of zero detection and of dirty tracking */
#define STASIS_BLOCK_SIZE 65536u /* bytes; unit that carries a digest and that lazy restore fills */
#define STASIS_REGION_MAX 1024
#define STASIS_MEMORY_SIZE_MAX (UINT64_C(1) << 46) /* bytes, all regions together */

struct stasis_region {
    uint64_t gpa;  /* guest physical address, multiple of STASIS_PAGE_SIZE */
    uint64_t size; /* bytes, multiple of STASIS_PAGE_SIZE, not 0 */
    void *hva;     /* where it is mapped in this process */
};

/* Regions in ascending gpa order, not overlapping. The array's owner is said by each function. */
struct stasis_memory {
    struct stasis_region *regions;
    size_t region_count; /* 1..STASIS_REGION_MAX */
};

/**
 * Check alignment, order, overlap, wrap-around and the limits above.
 * @return 0; -EBADMSG STASIS_ERR_INVALID_MEMORY, text names the region; -E2BIG STASIS_ERR_LIMIT
 */
STASIS_API int stasis_memory_check(const struct stasis_memory *memory, struct stasis_error *err);

/** Bytes in all regions. The memory must be valid. */
STASIS_API uint64_t stasis_memory_size(const struct stasis_memory *memory);

/** Unmap all regions that stasis_restore() mapped, free the array and zero the struct. */
STASIS_API void stasis_memory_unmap(struct stasis_memory *memory);

#ifdef __cplusplus
}
#endif
#endif
