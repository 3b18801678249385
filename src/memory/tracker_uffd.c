/*
 * tracker_uffd.c - the tracker that sees every write through this process's page tables.
 *
 * Memory is registered with a userfaultfd in write-protect mode that reports nothing
 * (UFFD_FEATURE_WP_ASYNC): the kernel drops the protection of a page when it is written, and
 * PAGEMAP_SCAN tells the pages without it and protects them again in one walk. No thread serves
 * faults, so none can hang, and nobody needs privileges for faults that happen inside the kernel.
 *
 *     arm       UFFDIO_WRITEPROTECT of all: pages get the protection bit, places without a page
 *               get a marker (UFFD_FEATURE_WP_UNPOPULATED), so that reading a page later is no
 *     write harvest   PAGEMAP_SCAN: written, protect what matches
 *
 * The guest's own page tables follow: protecting invalidates KVM's, by its MMU notifier. A page
 * that is not protected and not told is lost, so a walk that fails part way makes all of its
 * region dirty.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "memory/pagemap.h"
#include "memory/tracker.h"

#define FEATURES_NEEDED                                                                            \
    (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |                            \
     UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC)

struct tracker_uffd {
    struct stasis_tracker tracker;
    int uffd;
    int pagemap;
};

static struct tracker_uffd *as_uffd(struct stasis_tracker *tracker)
{
    return (struct tracker_uffd *)tracker;
}

static uint64_t hva_of(const struct stasis_region *region)
{
    return (uint64_t)(uintptr_t)region->hva;
}

/* --- arm and harvest ------------------------------------------------------------------------ */

static int uffd_arm(struct stasis_tracker *tracker, struct stasis_error *err)
{
    const struct region_map *map = &tracker->map;

    for (size_t i = 0; i < map->region_count; i++) {
        struct uffdio_writeprotect protect = {
            .range = { .start = hva_of(&map->regions[i]), .len = map->regions[i].size },
            .mode = UFFDIO_WRITEPROTECT_MODE_WP,
        };

        if (ioctl(as_uffd(tracker)->uffd, UFFDIO_WRITEPROTECT, &protect) < 0)
            return stasis_fail_errno(err, "write-protect memory region %zu", i);
    }
    return 0;
}

struct found {
    struct stasis_page_set *set;
    uint64_t hva; /* of the region */
    uint64_t first_page;
};

static void add_found(void *arg, uint64_t start, uint64_t end)
{
    const struct found *found = arg;

    stasis_page_set_add(found->set, found->first_page + (start - found->hva) / STASIS_PAGE_SIZE,
                        (end - start) / STASIS_PAGE_SIZE);
}

static int uffd_harvest(struct stasis_tracker *tracker, struct stasis_error *err)
{
    static const struct pagemap_query written = {
        .flags = PAGEMAP_WP_MATCHING | PAGEMAP_CHECK_WPASYNC,
        .must = PAGEMAP_IS_WRITTEN,
    };
    const struct region_map *map = &tracker->map;

    for (size_t i = 0; i < map->region_count; i++) {
        const struct stasis_region *region = &map->regions[i];
        struct found found = { .set = &tracker->pending,
                               .hva = hva_of(region),
                               .first_page = map->first_pages[i] };
        const int r = pagemap_scan(as_uffd(tracker)->pagemap, found.hva, found.hva + region->size,
                                   &written, add_found, &found);

        if (r < 0) {
            stasis_page_set_add(&tracker->pending, found.first_page,
                                region->size / STASIS_PAGE_SIZE);
            errno = -r;
            return stasis_fail_errno(err, "look for written pages of memory region %zu", i);
        }
    }
    return 0;
}

/* Closing the descriptor takes the registration and the protection off. */
static void uffd_close(struct stasis_tracker *tracker)
{
    struct tracker_uffd *uffd = as_uffd(tracker);

    fd_close(&uffd->uffd);
    fd_close(&uffd->pagemap);
    tracker_release(tracker);
    free(uffd);
}

static const struct tracker_ops uffd_ops = {
    .name = "userfaultfd tracker",
    .arm = uffd_arm,
    .harvest = uffd_harvest,
    .close = uffd_close,
};

/* --- opening -------------------------------------------------------------------------------- */

/* Faults from user mode only: more is not needed, and unprivileged processes get no more. */
static int open_uffd(int *ret_fd, struct stasis_error *err)
{
    struct uffdio_api api = { .api = UFFD_API, .features = FEATURES_NEEDED };
    auto_fd fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

    if (fd < 0 && (errno == ENOSYS || errno == EINVAL))
        return stasis_fail(err, STASIS_ERR_UNSUPPORTED, "the kernel has no userfaultfd");
    if (fd < 0)
        return stasis_fail_errno(err, "open a userfaultfd");
    if (ioctl(fd, UFFDIO_API, &api) < 0) {
        if (errno == EINVAL)
            return stasis_fail(err, STASIS_ERR_UNSUPPORTED,
                               "the kernel has no asynchronous write protection by userfaultfd "
                               "(Linux 6.7 has)");
        return stasis_fail_errno(err, "ask the userfaultfd for its features");
    }
    *ret_fd = fd_steal(&fd);
    return 0;
}

static int open_pagemap(int *ret_fd, struct stasis_error *err)
{
    const int fd = pagemap_open();

    if (fd < 0) {
        errno = -fd;
        return stasis_fail_errno(err, "open /proc/self/pagemap");
    }
    *ret_fd = fd;
    return 0;
}

static int register_regions(struct tracker_uffd *uffd, struct stasis_error *err)
{
    const struct region_map *map = &uffd->tracker.map;

    for (size_t i = 0; i < map->region_count; i++) {
        struct uffdio_register range = {
            .range = { .start = hva_of(&map->regions[i]), .len = map->regions[i].size },
            .mode = UFFDIO_REGISTER_MODE_WP,
        };

        if (ioctl(uffd->uffd, UFFDIO_REGISTER, &range) == 0)
            continue;
        if (errno == EBUSY)
            return stasis_fail(err, STASIS_ERR_BUSY,
                               "memory region %zu has another userfaultfd already", i);
        return stasis_fail_errno(err, "register memory region %zu with the userfaultfd", i);
    }
    return 0;
}

static int open_parts(struct tracker_uffd *uffd, struct stasis_error *err)
{
    int r = region_map_need_hva(&uffd->tracker.map, err);

    if (r == 0)
        r = open_uffd(&uffd->uffd, err);
    if (r == 0)
        r = open_pagemap(&uffd->pagemap, err);
    if (r == 0)
        r = register_regions(uffd, err);
    return r;
}

int stasis_tracker_open_uffd(const struct stasis_memory *memory,
                             struct stasis_tracker **ret_tracker, struct stasis_error *err)
{
    struct tracker_uffd *uffd = calloc(1, sizeof(*uffd));
    int r;

    if (!uffd)
        return stasis_fail_memory(err, "a userfaultfd tracker");
    uffd->uffd = -1;
    uffd->pagemap = -1;
    r = tracker_init(&uffd->tracker, &uffd_ops, memory, err);
    if (r < 0) {
        free(uffd);
        return r;
    }
    r = open_parts(uffd, err);
    if (r < 0) {
        uffd_close(&uffd->tracker);
        return r;
    }
    uffd->tracker.page_size = (uint32_t)sysconf(_SC_PAGESIZE);
    *ret_tracker = &uffd->tracker;
    return 0;
}
