/*
 * pagemap.c - asking the kernel about the pages of this process, many at a time.
 *
 * One ioctl fills a vector of stretches and says where it stopped, so that the cost is that of
 * walking page tables and not of system calls. With PAGEMAP_WP_MATCHING the kernel write-protects
 * exactly what it tells, in the same walk: that makes it safe against writers. A walk that fails
 * may have protected pages that it did not tell.
 */
#include "memory/pagemap.h"

#include <errno.h>
#include <fcntl.h>

#define FOUND_MAX 1024 /* stretches told by one call: 24 KiB of stack */

int pagemap_open(void)
{
    const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int pagemap_scan(int pagemap_fd, uint64_t start, uint64_t end, const struct pagemap_query *query,
                 pagemap_found_fn *found, void *arg)
{
    struct pagemap_region regions[FOUND_MAX];
    struct pagemap_scan_arg scan = {
        .size = sizeof(scan),
        .flags = query->flags,
        .start = start,
        .end = end,
        .vec = (uintptr_t)regions,
        .vec_len = FOUND_MAX,
        .category_inverted = query->inverted,
        .category_mask = query->must,
        .category_anyof_mask = query->any,
        .return_mask = query->must | query->any,
    };

    while (scan.start < end) {
        const int count = ioctl(pagemap_fd, PAGEMAP_SCAN_IOCTL, &scan);

        if (count < 0) /* never EINTR but for a process that is being killed */
            return -errno;
        for (int i = 0; i < count; i++)
            found(arg, regions[i].start, regions[i].end);
        scan.start = scan.walk_end;
    }
    return 0;
}
