/*
 * restore.c - guest memory back into a process: one private mapping of the file per region.
 *
 * Nothing is read: a page comes from the page cache when the guest first touches it, and what the
 * guest writes is the process's own. The file is checked to have its full length just before, for
 * a touch of a mapped page beyond a file's end is a SIGBUS. A file cut off after that is beyond our
 * reach; snapshots are replaced by rename, never rewritten in place, so ours are not.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "snapshot/handle.h"

static int check_not_shrunk(const struct format_image *image, struct stasis_error *err)
{
    struct stat st;

    if (fstat(image->memory_fd, &st) < 0)
        return stasis_fail_errno(err, "stat the snapshot");
    if ((uint64_t)st.st_size < image->info.file_size)
        return stasis_fail(err, STASIS_ERR_TRUNCATED,
                           "the file has shrunk to %jd bytes, %ju were expected",
                           (intmax_t)st.st_size, (uintmax_t)image->info.file_size);
    return 0;
}

static int map_region(const struct format_image *image, uint64_t file_off,
                      struct stasis_region *region, struct stasis_error *err)
{
    const uint64_t host_page = (uint64_t)sysconf(_SC_PAGESIZE);
    void *hva;

    /* The format is made of 4 KiB pages; a host of larger ones can map only what fits them. */
    if (file_off % host_page != 0)
        return stasis_fail(err, STASIS_ERR_UNSUPPORTED,
                           "guest memory at 0x%jx (file offset 0x%jx) cannot be mapped by a host "
                           "with pages of %ju bytes",
                           (uintmax_t)region->gpa, (uintmax_t)file_off, (uintmax_t)host_page);
    hva = mmap(NULL, (size_t)region->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
               image->memory_fd, (off_t)file_off);
    if (hva == MAP_FAILED)
        return stasis_fail_errno(err, "map %ju bytes of guest memory at 0x%jx",
                                 (uintmax_t)region->size, (uintmax_t)region->gpa);
    region->hva = hva;
    return 0;
}

static int map_memory(const struct format_image *image, struct stasis_memory *ret_memory,
                      struct stasis_error *err)
{
    const struct stasis_memory *layout = &image->memory;
    struct stasis_memory memory = { 0 };
    uint64_t file_off = image->memory_file_off;

    memory.regions = calloc(layout->region_count, sizeof(*memory.regions));
    if (!memory.regions)
        return stasis_fail_memory(err, "the memory regions");
    memory.region_count = layout->region_count;
    for (size_t i = 0; i < memory.region_count; i++) {
        int r;

        memory.regions[i] = layout->regions[i];
        r = map_region(image, file_off, &memory.regions[i], err);
        if (r < 0) {
            stasis_memory_unmap(&memory);
            return r;
        }
        file_off += memory.regions[i].size;
    }
    *ret_memory = memory;
    return 0;
}

int stasis_restore(const struct stasis_snapshot *snapshot,
                   const struct stasis_restore_options *options, struct stasis_memory *ret_memory,
                   struct stasis_error *err)
{
    const struct format_image *image = snapshot->image;
    int r;

    if (options && options->mode != 0 && options->mode != STASIS_RESTORE_MAP)
        return stasis_fail(err, STASIS_ERR_INVALID_ARGUMENT, "unknown restore mode %d",
                           (int)options->mode);
    if (image->memory_fd < 0)
        return stasis_fail(err, STASIS_ERR_UNSUPPORTED,
                           "the memory of a %s snapshot cannot be mapped", image->info.format);
    if (options && options->verify && (r = stasis_verify(snapshot, NULL, NULL, err)) < 0)
        return r;
    r = check_not_shrunk(image, err);
    return r < 0 ? r : map_memory(image, ret_memory, err);
}
