/* pagemap.h - PAGEMAP_SCAN, and the parts of the kernel's interface that older headers lack.
 *
 * Names and layouts are those of Linux's include/uapi/linux/fs.h (PAGEMAP_SCAN, since 6.7) and
 * include/uapi/linux/userfaultfd.h; Documentation/admin-guide/mm/pagemap.rst and userfaultfd.rst
 * explain them. Debian 12's headers are of Linux 6.1. */
#ifndef STASIS_MEMORY_PAGEMAP_H
#define STASIS_MEMORY_PAGEMAP_H

#include <stdint.h>

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <stasis/error.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

struct pagemap_region {  /* struct page_region */
    uint64_t start, end; /* addresses */
    uint64_t categories;
};

#define PAGEMAP_IS_WRITTEN (UINT64_C(1) << 1) /* PAGE_IS_... */
#define PAGEMAP_IS_FILE (UINT64_C(1) << 2)
#define PAGEMAP_IS_PRESENT (UINT64_C(1) << 3)
#define PAGEMAP_IS_SWAPPED (UINT64_C(1) << 4)
#define PAGEMAP_IS_PFNZERO (UINT64_C(1) << 5)

#define PAGEMAP_WP_MATCHING (UINT64_C(1) << 0) /* PM_SCAN_... */
#define PAGEMAP_CHECK_WPASYNC (UINT64_C(1) << 1)

struct pagemap_scan_arg { /* struct pm_scan_arg */
    uint64_t size, flags;
    uint64_t start, end, walk_end; /* addresses */
    uint64_t vec, vec_len;
    uint64_t max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define PAGEMAP_SCAN_IOCTL _IOWR('f', 16, struct pagemap_scan_arg) /* PAGEMAP_SCAN */

/* What to look for; all zero but the ones that matter. */
struct pagemap_query {
    uint64_t flags;
    uint64_t must;     /* all of these categories ... */
    uint64_t inverted; /* ... where those of them that are here must not be */
    uint64_t any;      /* and one of these; 0: whichever */
};

/* Told of each stretch found, in ascending order, [start, end). */
typedef void pagemap_found_fn(void *arg, uint64_t start, uint64_t end);

/* /proc/self/pagemap, to be closed. Negative errno when it cannot be opened. */
int pagemap_open(void);

/* Walk [start, end) of this process. 0; negative errno: -ENOTTY the kernel has no PAGEMAP_SCAN. On
 * failure some of what was found was told, and with PAGEMAP_WP_MATCHING more than that may be
 * protected. */
int pagemap_scan(int pagemap_fd, uint64_t start, uint64_t end, const struct pagemap_query *query,
                 pagemap_found_fn *found, void *arg);

#endif
